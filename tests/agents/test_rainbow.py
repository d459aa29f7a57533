"""Rainbow: what an update moves, which noise and frames it sees, its targets, and exact continuation."""

import copy
import io
import math
from typing import Any

import numpy as np
import pytest
import torch
from tiny import (
    ACTIONS,
    ATARI,
    RAINBOW_ONLINE,
    RAINBOW_TARGETS,
    assert_equal_states,
    atari_batch,
    copies,
    gradients,
    leaves,
    parameters,
    run,
    tiny_rainbow,
    watch_inputs,
    watch_maps,
)
from torch import Tensor

from curl_rl.agents import AGENTS
from curl_rl.agents.rainbow import Rainbow, RainbowConfig
from curl_rl.agents.schedule import Annealing, Exploration, Resets
from curl_rl.nn.augmentations import AUGMENTATIONS as CLASSES
from curl_rl.nn.augmentations import AugmentationConfig, NoAugmentation
from curl_rl.nn.cudagraph import tensors
from curl_rl.nn.encoders import encoder_config, make_encoder
from curl_rl.nn.heads import DuellingHeads
from curl_rl.nn.images import random_color_jitter, random_crop_shift, random_cutout, random_shift, unmoved
from curl_rl.nn.remembering import Remembering
from curl_rl.objectives import OBJECTIVES, make_objective
from curl_rl.objectives.curl import Curl
from curl_rl.objectives.learner import Learner
from curl_rl.options import check
from curl_rl.types import Batch, ConfigError, Metrics, Shapes

OBJECTIVE_NAMES = ("curl", "none")
AUGMENTATIONS = {
    "crop_shift": lambda frames, generator: random_crop_shift(frames, 3, generator),
    "shift": lambda frames, generator: random_shift(frames, 3, generator),
    "cutout": lambda frames, generator: random_cutout(frames, 5, 9, generator),
    "color_jitter": lambda frames, generator: random_color_jitter(frames, (0.3, 0.2, 0.0, 0.0), generator),
    "none": lambda frames, _: unmoved(frames),
}
SETTINGS = {
    "crop_shift": {"pad": 3},
    "shift": {"pad": 3},
    "cutout": {"least": 5, "most": 9},
    "color_jitter": {"brightness": 0.3, "contrast": 0.2, "saturation": 0.0, "hue": 0.0},
}


def augmenting(name: str) -> AugmentationConfig:
    return CLASSES[name].Config(**SETTINGS.get(name, {}))


def noise(heads: DuellingHeads) -> dict[str, Tensor]:
    return {name: buffer.clone() for name, buffer in heads.named_buffers()}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    """Return whether all are equal; where none is, False; anything between fails."""
    assert one.keys() == other.keys()
    equal = {torch.equal(one[name], other[name]) for name in one}
    assert len(equal) == 1
    return equal.pop()


def assert_unchanged(agent: Rainbow, before: dict[str, Any]) -> None:
    for (name, now), (_, then) in zip(leaves(agent.state_dict()), leaves(before), strict=True):
        assert torch.equal(now, then) if torch.is_tensor(then) else now == then, name


def update(agent: Rainbow, batch: Batch) -> tuple[Metrics, Tensor]:
    metrics, priorities = agent.update(batch)
    assert priorities is not None
    return metrics, priorities


# the optimiser, and what an update moves


@pytest.mark.parametrize("objective", OBJECTIVE_NAMES)
def test_one_optimiser_holds_everything_that_trains(objective):
    agent = tiny_rainbow(objective, learning_rate=3e-4, adam_epsilon=2e-5)
    names = {id(p): name for name, p in parameters(agent).items()}
    (optimizer,) = agent.optimizers.values()
    for group in optimizer.param_groups:
        assert (group["lr"], group["eps"], group["betas"], group["weight_decay"]) == (3e-4, 2e-5, (0.9, 0.999), 0)
    layers = ("value_hidden", "value", "advantage_hidden", "advantage")
    expected = [f"encoder.convs.{i}.{n}" for i in (0, 2) for n in ("weight", "bias")]
    expected += [f"heads.{layer}.{n}{s}" for layer in layers for n in ("weight", "bias") for s in ("", "_std")]
    if objective == "curl":
        expected += ["objective.weight", *(f"objective.head.{i}.{n}" for i in (0, 3) for n in ("weight", "bias"))]
    held = [names[id(p)] for group in optimizer.param_groups for p in group["params"]]
    trainable = [name for name, p in parameters(agent).items() if p.requires_grad]
    assert sorted(held) == sorted(expected) == sorted(trainable)


@pytest.mark.parametrize("objective", OBJECTIVE_NAMES)
def test_every_trained_parameter_moves_and_no_other_has_a_gradient(objective):
    options = {"projection_dim": 8, "projection_tau": 0.1} if objective == "curl" else None
    agent = tiny_rainbow(objective, options=options, encoder_tau=0.1)
    before = copies(agent)
    run(agent, range(1))
    for name, p in parameters(agent).items():
        follows = objective == "curl" and name.startswith(("target_encoder.", "objective.target_head."))
        assert torch.equal(p, before[name]) != (p.requires_grad or follows), name
        assert (p.grad is not None) == p.requires_grad, name


def test_the_target_is_copied_every_period_and_stays_in_between():
    agent = tiny_rainbow(target_period=3)
    for i in range(1, 8):
        before = copies(agent, "target_network")
        run(agent, range(i, i + 1))
        online = copies(agent, "encoder", "heads")
        expected = {f"target_network.{name}": p for name, p in online.items()} if i % 3 == 0 else before
        assert same(copies(agent, "target_network"), expected), i


def test_the_target_encoder_follows_every_update_by_its_tau():
    agent = tiny_rainbow(encoder_tau=0.3)
    for i in range(3):
        before = copies(agent, "target_encoder")
        run(agent, range(i, i + 1))
        for name, p in copies(agent, "encoder").items():
            expected = 0.7 * before[f"target_{name}"] + 0.3 * p
            torch.testing.assert_close(parameters(agent)[f"target_{name}"].detach(), expected, rtol=1e-5, atol=1e-7)


def test_without_an_objective_the_target_encoder_rests():
    agent = tiny_rainbow("none", encoder_tau=0.3)
    before = copies(agent, "target_encoder")
    seen = watch_maps(agent.learner.target_encoder)
    run(agent, range(3))
    assert same(copies(agent, "target_encoder"), before)
    assert seen == []


# what the networks see


@pytest.mark.parametrize("augmentation", AUGMENTATIONS)
def test_the_value_loss_sees_the_frames_and_the_objective_two_views(augmentation):
    agent, batch = tiny_rainbow(augmentation=augmenting(augmentation)), atari_batch()
    kept, generator = copy.deepcopy(batch), agent.learner.generator.clone_state()
    encoders = agent.learner.encoder, agent.target_network["encoder"], agent.learner.target_encoder
    online, target, key = (watch_maps(encoder) for encoder in encoders)
    agent.update(batch)
    views = [AUGMENTATIONS[augmentation](batch.obs, generator).images for _ in range(2)]
    # Unmoved, the query is what the value loss sees already; else they are one batch.
    expected = [torch.cat([batch.obs, *views[: augmentation != "none"]]), batch.next_obs]
    for seen, frames in ((online, expected), (target, [batch.next_obs]), (key, [views[1]])):
        assert len(seen) == len(frames)
        assert all(torch.equal(a, agent.learner.encoder.scale(b)) for a, b in zip(seen, frames, strict=True))
    assert torch.equal(*views) == (augmentation == "none")
    assert all(torch.equal(a, b) for a, b in zip(tensors(batch), tensors(kept), strict=True))


# acting and noise


@pytest.mark.parametrize("explore", [True, False])
def test_acting_pays_for_the_online_value_only(explore):
    agent, obs = tiny_rainbow(), atari_batch(size=3).obs
    seen, *watched = (
        watch_maps(encoder)
        for encoder in (agent.learner.encoder, agent.target_network["encoder"], agent.learner.target_encoder)
    )
    assert isinstance(agent.learner.objective, Curl)
    watched += [watch_inputs(module) for module in (agent.learner.objective.head, agent.target_heads.value_hidden)]
    action = agent.act(obs.numpy(), explore=explore)
    assert len(seen) == 1
    assert torch.equal(seen[0], agent.learner.encoder.scale(obs))
    assert watched == [[]] * 4
    assert (action.shape, action.dtype) == ((3,), np.int64)


@pytest.mark.parametrize("explore", [True, False])
def test_acting_takes_the_action_of_the_greatest_mean(explore):
    agent, obs = tiny_rainbow(noise_std=0.5), atari_batch(size=64).obs
    agent.heads.advantage_hidden.weight.data.mul_(100)
    with torch.no_grad():  # no action is better on average, so that the frames decide
        hidden = agent.heads.advantage_hidden(agent.learner.encoder(obs), noisy=explore).relu()
        agent.heads.advantage.bias -= agent.heads.advantage(hidden, noisy=explore).mean(0)
    actions = agent.act(obs.numpy(), explore=explore)
    with torch.no_grad():
        shares = agent.heads(agent.learner.encoder(obs), noisy=explore).double().softmax(-1)
    means = (shares * torch.linspace(-10, 10, 51).double()).sum(-1)
    assert shares.shape == (64, ACTIONS, 51)
    assert actions.tolist() == means.argmax(1).tolist()
    assert set(actions.tolist()) == set(range(ACTIONS))


def test_an_action_without_noise_is_always_the_same_and_draws_nothing():
    agent, obs = tiny_rainbow(noise_std=5.0), atari_batch(size=32).obs.numpy()
    agent.act(obs, explore=True)
    before, everywhere = copy.deepcopy(agent.state_dict()), torch.get_rng_state()
    calm = agent.act(obs, explore=False)
    assert np.array_equal(calm, agent.act(obs, explore=False))
    assert_unchanged(agent, before)
    assert torch.equal(torch.get_rng_state(), everywhere)
    # One draw is shared by all observations, and may well prefer the same action.
    assert any(not np.array_equal(calm, agent.act(obs, explore=True)) for _ in range(16))


def test_exploring_draws_noise_once_and_the_update_keeps_it():
    agent, batch = tiny_rainbow(), atari_batch()
    generator = agent.generator.clone_state()
    agent.act(batch.obs.numpy(), explore=True)
    twin = copy.deepcopy(agent.heads)
    twin.draw(generator)
    assert same(noise(agent.heads), noise(twin))
    drawn, target = noise(agent.heads), noise(agent.target_heads)
    agent.update(batch)
    assert same(noise(agent.heads), drawn)
    assert not same(noise(agent.target_heads), target)
    assert not same(noise(agent.target_heads), drawn)
    twin.draw(generator)
    assert same(noise(agent.target_heads), noise(twin))
    assert torch.equal(agent.generator.get_state(), generator.get_state())
    agent.act(batch.obs.numpy(), explore=True)
    assert not same(noise(agent.heads), drawn)


def test_noise_is_drawn_before_the_first_action_at_the_size_asked_for():
    heads = tiny_rainbow(noise_std=0.3).heads
    assert all(buffer.all() for buffer in heads.buffers())
    for layer in (heads.value_hidden, heads.value, heads.advantage_hidden, heads.advantage):
        size = torch.full_like(layer.weight, 0.3 / math.sqrt(layer.weight.shape[1]))
        torch.testing.assert_close(layer.weight_std.detach(), size)


def test_the_control_sees_the_same_noise():
    agents = [tiny_rainbow(objective) for objective in OBJECTIVE_NAMES]
    for agent in agents:
        run(agent, range(3))
    curl, none = agents
    assert same(noise(curl.heads), noise(none.heads))
    assert same(noise(curl.target_heads), noise(none.target_heads))
    assert torch.equal(curl.generator.get_state(), none.generator.get_state())
    views = [agent.learner.generator.get_state() for agent in (curl, none, tiny_rainbow("none"))]
    assert torch.equal(views[1], views[2])
    assert not torch.equal(views[0], views[1])
    assert curl.generator.initial_seed() != curl.learner.generator.initial_seed()


# the target distribution


def put(heads: DuellingHeads, atoms: tuple[int, ...]) -> None:
    """Let a network without noise give each action all its mass on one atom, whatever it sees."""
    for p in heads.parameters():
        p.data.zero_()
    heads.advantage.bias.data.view(heads.shape)[torch.arange(len(atoms)), torch.tensor(atoms)] = 200


@pytest.fixture
def certain() -> Rainbow:
    """Return an agent that prefers action 0, whose target would prefer action 1."""
    agent = tiny_rainbow("none", atoms=5, v_min=-1.0, v_max=1.0)  # atoms -1, -0.5, 0, 0.5, 1
    put(agent.heads, (3, 0))
    put(agent.target_heads, (1, 4))
    return agent


def target_of(agent: Rainbow, batch: Batch) -> Tensor:
    return agent._target(batch, batch.next_obs, Remembering(agent.learner.encoder), agent.heads)


def test_the_online_network_chooses_and_the_target_evaluates(certain):
    batch = atari_batch()._replace(reward=torch.zeros(6), discount=torch.ones(6))
    torch.testing.assert_close(target_of(certain, batch), torch.eye(5)[1].expand(6, 5))
    put(certain.heads, (0, 3))
    torch.testing.assert_close(target_of(certain, batch), torch.eye(5)[4].expand(6, 5))


def test_what_terminates_does_not_bootstrap_and_what_is_truncated_does(certain):
    reward, discount = torch.tensor([0.5, 0.5, 0.0]), torch.tensor([0.0, 1.0, 0.5])
    batch = Batch(*(field[:3] for field in atari_batch()[:8]))._replace(reward=reward, discount=discount)
    # The target's -0.5 is moved to 0.5, 0 and -0.25, halfway between two atoms.
    expected = torch.tensor([[0.0, 0, 0, 1, 0], [0, 0, 1, 0, 0], [0, 0.5, 0.5, 0, 0]])
    torch.testing.assert_close(target_of(certain, batch), expected)
    other = torch.flip(batch.next_obs, [-1])
    agent = tiny_rainbow("none")
    one, two = (target_of(agent, batch._replace(next_obs=obs)) for obs in (batch.next_obs, other))
    assert [torch.allclose(a, b, atol=1e-6) for a, b in zip(one, two, strict=True)] == [True, False, False]


def test_duelling_streams_are_value_and_centred_advantage():
    agent = tiny_rainbow()
    heads, x = agent.heads, torch.randn(4, agent.learner.encoder.feature_dim)
    with torch.no_grad():
        value = heads.value(heads.value_hidden(x, noisy=True).clamp_min(0), noisy=True)
        advantage = heads.advantage(heads.advantage_hidden(x, noisy=True).clamp_min(0), noisy=True).view(4, ACTIONS, 51)
        logits = heads(x)
    torch.testing.assert_close(logits.mean(1), value)
    torch.testing.assert_close(logits[:, 1] - logits[:, 0], advantage[:, 1] - advantage[:, 0])


def test_a_two_state_problem_is_learned():
    """One action pays 0.5 and leads on, then the other pays 1 and ends; the rest pays nothing and ends at once."""
    torch.manual_seed(0)
    encoder = make_encoder(encoder_config("small", filters=4, feature_dim=8), (1, 8, 8))
    objective = make_objective(OBJECTIVES["none"].Config(), Shapes(8, encoder.conv_shape, 2))
    config = RainbowConfig(hidden_dim=32, atoms=21, v_min=-1, v_max=2, learning_rate=5e-3, target_period=10)
    cpu, still = torch.device("cpu"), NoAugmentation(NoAugmentation.Config())
    learner = Learner(encoder, objective, still, pace=config.pace, device=cpu, seed=1)
    agent = Rainbow(config, learner=learner, action_dim=2, device=cpu, seed=0)
    first, second = torch.zeros(1, 8, 8, dtype=torch.uint8), torch.full((1, 8, 8), 255, dtype=torch.uint8)
    batch = Batch(
        obs=torch.stack([first, first, second, second]),
        action=torch.tensor([0, 1, 0, 1]),
        reward=torch.tensor([0.5, 0.0, 0.0, 1.0]),
        discount=torch.tensor([0.9, 0.0, 0.0, 0.0]),
        next_obs=torch.stack([second, first, first, first]),
        weight=torch.ones(4),
        index=torch.arange(4),
        episode=torch.arange(4),
    )
    for _ in range(300):
        agent.act(first[None].numpy(), explore=True)
        agent.update(batch)
    with torch.no_grad():
        q = agent.returns.mean(agent.heads(agent.learner.encoder(torch.stack([first, second])), noisy=False))
    torch.testing.assert_close(q, torch.tensor([[0.5 + 0.9 * 1.0, 0.0], [0.0, 1.0]]), rtol=0, atol=0.05)
    assert agent.act(torch.stack([first, second]).numpy(), explore=False).tolist() == [0, 1]


# losses, weights and priorities


def value_losses(agent: Rainbow, batch: Batch) -> Tensor:
    """Write each sample's cross-entropy out, for the noise that the next update will use."""
    agent = copy.deepcopy(agent)
    agent.target_heads.draw(agent.generator)
    with torch.no_grad():
        log_shares = agent.heads(agent.learner.encoder(batch.obs)).double().log_softmax(-1)
        target = target_of(agent, batch).double()
    return torch.stack([-(t @ rows[a]) for t, rows, a in zip(target, log_shares, batch.action, strict=True)]).float()


@pytest.mark.parametrize("priority", ["value", "total"])
@pytest.mark.parametrize("objective", OBJECTIVE_NAMES)
def test_priorities_are_each_samples_loss(objective, priority):
    options = {"coefficient": 0.5, "projection_dim": 8} if objective == "curl" else None
    agent, batch = tiny_rainbow(objective, options=options, priority=priority), atari_batch()
    run(agent, range(2))
    expected = value_losses(agent, batch)
    metrics, priorities = update(agent, batch._replace(weight=torch.rand(6)))
    torch.testing.assert_close(metrics["value_loss"], expected.mean(), rtol=1e-4, atol=0)
    if (objective, priority) == ("curl", "total"):
        expected = expected + 0.5 * metrics["objective_loss"]
    assert priorities.shape == (6,)
    assert not priorities.requires_grad
    torch.testing.assert_close(priorities, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("objective", OBJECTIVE_NAMES)
def test_weights_scale_each_samples_gradient(objective):
    one, two = torch.tensor([1.0, 0, 0, 0, 0, 0]), torch.tensor([0, 2.0, 0, 0.5, 0, 0])
    found = []
    for weight in (one, two, one + two):
        agent = tiny_rainbow(objective, max_grad_norm=1e9)
        agent.update(atari_batch()._replace(weight=weight))
        found.append(gradients(agent))
    for name, gradient in found[2].items():
        scale = float(gradient.abs().max())
        torch.testing.assert_close(found[0][name] + found[1][name], gradient, rtol=1e-4, atol=1e-5 * scale)
    for name in found[0]:
        assert not torch.equal(found[0][name], found[1][name])


def test_a_sample_of_weight_zero_teaches_nothing():
    found = []
    for seed in (0, 1):
        batch, other = atari_batch(), atari_batch(seed)
        mixed = [torch.cat([a[:3], b[3:]]) for a, b in zip(batch[:8], other[:8], strict=True)]
        agent = tiny_rainbow("none")
        agent.update(Batch(*mixed)._replace(weight=torch.tensor([1.0, 1, 1, 0, 0, 0])))
        found.append(gradients(agent))
    for name, gradient in found[0].items():
        scale = float(gradient.abs().max())
        torch.testing.assert_close(found[1][name], gradient, rtol=1e-4, atol=1e-5 * scale)


def test_the_objective_is_scaled_by_its_coefficient_and_the_mean_weight():
    found = []
    for coefficient, weight in ((1.0, 1.0), (0.25, 1.0), (1.0, 0.25)):
        options = {"coefficient": coefficient, "projection_dim": 8}
        agent = tiny_rainbow(options=options, max_grad_norm=1e9)
        agent.update(atari_batch()._replace(weight=torch.full((6,), weight)))
        found.append(gradients(agent, "objective"))
    for name, gradient in found[0].items():
        scale = float(gradient.abs().max())
        for other in found[1:]:
            torch.testing.assert_close(other[name], gradient / 4, rtol=1e-4, atol=1e-5 * scale)


def test_a_weight_of_zero_makes_the_objective_the_control():
    agent = tiny_rainbow(options={"coefficient": 0.0, "projection_dim": 8})
    views, before = agent.learner.generator.get_state(), copies(agent, "objective", "target_encoder")
    metrics = run(agent, range(2))
    assert "objective_loss" not in metrics[0]
    assert torch.equal(agent.learner.generator.get_state(), views)
    assert same(copies(agent, "objective", "target_encoder"), before)


# exact continuation


@pytest.mark.parametrize("between", [False, True], ids=["after an update", "between act and update"])
@pytest.mark.parametrize("objective", OBJECTIVE_NAMES)
def test_a_restored_agent_goes_on_bit_for_bit(objective, between):
    agent, other = tiny_rainbow(objective, target_period=4), tiny_rainbow(objective, target_period=4, seed=7)
    run(agent, range(3))
    if between:
        agent.act(atari_batch(3).obs[:1].numpy(), explore=True)
    file = io.BytesIO()
    torch.save(agent.state_dict(), file)
    other.load_state_dict(torch.load(io.BytesIO(file.getvalue()), weights_only=True))
    assert_equal_states(agent, other)
    results = []
    for one in (agent, other):
        last = [one.update(atari_batch(3)).metrics] if between else []
        results.append(last + run(one, range(4, 10)))
    for ahead, behind in zip(*results, strict=True):
        assert ahead.keys() == behind.keys()
        assert all(torch.equal(ahead[name], behind[name]) for name in ahead)
    assert_equal_states(agent, other)
    assert agent.updates == other.updates == 9 + between


def test_one_seed_gives_one_agent_and_two_seeds_two():
    one, same_seed, other = (tiny_rainbow(seed=seed) for seed in (0, 0, 1))
    for agent in (one, same_seed, other):
        run(agent, range(3))
    assert_equal_states(one, same_seed)
    assert not torch.equal(one.generator.get_state(), other.generator.get_state())
    assert not same(noise(one.heads), noise(other.heads))
    assert not same(copies(one, "encoder", "heads"), copies(other, "encoder", "heads"))


# the rest of the contract


def test_bf16_touches_the_convolutions_only():
    low, exact = tiny_rainbow(bf16=True), tiny_rainbow()
    maps = [agent.learner.encoder.conv(atari_batch().obs) for agent in (low, exact)]
    assert [torch.equal(x, x.bfloat16()) for x in maps] == [True, False]
    (metrics, priorities), (expected, _) = update(low, atari_batch()), update(exact, atari_batch())
    assert {value.dtype for value in (priorities, *metrics.values())} == {torch.float32}
    assert {p.dtype for p in parameters(low).values()} == {torch.float32}
    assert {g.dtype for g in gradients(low, *RAINBOW_ONLINE).values()} == {torch.float32}
    for name in ("value_loss", "objective_loss", "q"):
        torch.testing.assert_close(metrics[name], expected[name], rtol=0.05, atol=0.02)
    assert low.act(atari_batch().obs.numpy(), explore=True).shape == (6,)


@pytest.mark.parametrize("objective", OBJECTIVE_NAMES)
def test_metrics_name_what_the_update_did(objective):
    names = {"value_loss", "q", "value_entropy", "batch_reward", "encoder_grad_norm", "grad_norm"}
    metrics, priorities = update(tiny_rainbow(objective), atari_batch())
    assert set(metrics) == (names | {"objective_loss", "accuracy"} if objective == "curl" else names)
    assert all(value.shape == () and not value.requires_grad for value in (*metrics.values(), priorities.sum()))


def test_entropy_and_q_are_those_of_the_distributions_seen():
    agent, batch = tiny_rainbow("none", atoms=5, v_min=-1.0, v_max=1.0), atari_batch()
    put(agent.heads, (3, 0))
    metrics = agent.update(batch).metrics
    assert float(metrics["q"]) == pytest.approx(0.5)
    assert float(metrics["value_entropy"]) == pytest.approx(0, abs=1e-5)
    for p in agent.heads.parameters():
        p.data.zero_()
    assert float(agent.update(batch).metrics["value_entropy"]) == pytest.approx(math.log(5))


@pytest.mark.parametrize("augmentation", AUGMENTATIONS)
def test_a_snapshot_shows_two_views_and_disturbs_nothing(augmentation):
    agent, batch = tiny_rainbow(augmentation=augmenting(augmentation)), atari_batch(size=10)
    before = copy.deepcopy(agent.state_dict())
    images = agent.learner.snapshot(batch)
    assert {name: value.shape for name, value in images.items()} == dict.fromkeys(("query", "key"), (10, *ATARI))
    assert torch.equal(images["query"], images["key"]) == (augmentation == "none")
    assert_unchanged(agent, before)


def test_targets_start_as_copies_and_are_networks_of_their_own():
    agent = tiny_rainbow()
    online = copies(agent, "encoder", "heads")
    for name, p in parameters(agent, *RAINBOW_TARGETS).items():
        mine = name.removeprefix("target_network.").removeprefix("target_")
        assert torch.equal(p, online[mine])
        assert p.data_ptr() != parameters(agent)[mine].data_ptr()
        assert not p.requires_grad


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"priority": "td"}, "agent.priority='td' is none of value, total"),
        ({"precision": "fp16"}, "agent.precision='fp16' is none of auto, float32, bf16"),
        ({"n_step": 0}, "agent.n_step must be at least 1 and at most .*, got 0"),
        ({"noise_std": math.nan}, "agent.noise_std must be at least 0 and at most .*, got nan"),
        ({"hidden_dim": 0}, "agent.hidden_dim must be at least 1 and at most .*, got 0"),
        ({"target_period": 0}, "agent.target_period must be at least 1 and at most .*, got 0"),
        ({"atoms": 0}, "agent.atoms must be at least 1 and at most .*, got 0"),
        ({"learning_rate": 0.0}, "agent.learning_rate must be above 0 and at most 1000000.0, got 0.0"),
        ({"adam_epsilon": 0.0}, "agent.adam_epsilon must be above 0 and at most 1000000.0, got 0.0"),
        ({"max_grad_norm": -1.0}, "agent.max_grad_norm must be at least 0 and at most 1000000.0, got -1.0"),
        ({"target_tau": 0.0}, "agent.target_tau must be above 0 and at most 1, got 0.0"),
        ({"explore": Exploration(epsilon=2.0)}, "agent.explore.epsilon must be at least 0 and at most 1, got 2.0"),
        ({"anneal": Annealing(discount=0.5)}, "agent.anneal.discount=0.5 has no effect with agent.anneal.updates=0"),
        ({"resets": Resets(keep=0.9)}, "agent.resets.keep=0.9 has no effect with agent.resets.every=0"),
        ({"discount": 1.5}, r"agent.discount must be above 0 and at most 1, got 1.5"),
        ({"encoder_tau": 0.0}, r"agent.encoder_tau must be above 0 and at most 1, got 0.0"),
        ({"v_min": 10.0}, "agent.v_min=10.0 must be below agent.v_max=10.0"),
        ({"v_max": math.inf}, "agent.v_max must be at least -1000000.0 and at most 1000000.0, got inf"),
        ({"v_min": math.nan}, "agent.v_min must be at least -1000000.0, got nan"),
    ],
    ids=lambda value: "" if isinstance(value, str) else str(value),
)
def test_settings_that_cannot_be_honoured_are_refused(fields, message):
    with pytest.raises(ConfigError, match=message):
        check(RainbowConfig(**fields), "agent.")


def test_rainbow_is_found_by_name():
    assert AGENTS["rainbow"] is Rainbow
    assert Rainbow.Config().name == "rainbow"
    assert Rainbow.discrete
