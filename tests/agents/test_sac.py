"""SAC's update: which optimiser holds what, which step moves what, against a plain twin, and exact continuation."""

import copy
import gc
import io

import numpy as np
import pytest
import torch
from tiny import (
    ACTIONS,
    CROP,
    ONLINE,
    SMALL,
    assert_equal_states,
    copies,
    leaves,
    moved,
    parameters,
    run,
    tiny_batch,
    tiny_sac,
    watch_maps,
    watch_steps,
)
from torch import Tensor

from curl_rl.agents import AGENTS
from curl_rl.agents.sac import Sac, SacConfig
from curl_rl.nn.augmentations import AUGMENTATIONS
from curl_rl.nn.cudagraph import tensors
from curl_rl.nn.diagnostics import watch_features
from curl_rl.nn.images import center_crop, center_fit
from curl_rl.options import check
from curl_rl.types import ConfigError

UPDATES = ("joint", "sequential")
EVERY = [(update, objective) for update in UPDATES for objective in ("curl", "none")]

# the optimiser map

MLP = ["0.bias", "0.weight", "2.bias", "2.weight", "4.bias", "4.weight"]
HEAD = ["head.1.bias", "head.1.weight", "head.2.bias", "head.2.weight"]
ENCODER = [f"encoder.{n}" for n in ["convs.0.bias", "convs.0.weight", "convs.2.bias", "convs.2.weight", *HEAD]]
CRITIC = [f"critic.{head}.{n}" for head in ("q1", "q2") for n in MLP]
ACTOR = [f"actor.{n}" for n in HEAD] + [f"actor.trunk.{n}" for n in MLP]
CURL = ["objective.weight"]
ADAM = (0.9, 0.999)
ACTOR_AND_ALPHA = {"actor": [(ACTOR, 1e-3, ADAM)], "alpha": [(["log_alpha"], 1e-4, (0.5, 0.999))]}

# optimiser -> groups of (parameters, learning rate, betas), for a learning rate of 1e-3
OPTIMIZERS: dict[tuple[str, str], dict[str, list[tuple[list[str], float, tuple[float, float]]]]] = {
    ("joint", "curl"): {"critic": [(ENCODER + CRITIC, 1e-3, ADAM), (CURL, 1e-3, ADAM)], **ACTOR_AND_ALPHA},
    ("joint", "none"): {"critic": [(ENCODER + CRITIC, 1e-3, ADAM)], **ACTOR_AND_ALPHA},
    ("sequential", "curl"): {
        "critic": [(ENCODER + CRITIC, 1e-3, ADAM)],
        "objective": [(ENCODER, 2e-3, ADAM), (CURL, 1e-3, ADAM)],
        **ACTOR_AND_ALPHA,
    },
    ("sequential", "none"): {"critic": [(ENCODER + CRITIC, 1e-3, ADAM)], **ACTOR_AND_ALPHA},
}


@pytest.mark.parametrize(("update", "objective"), EVERY)
def test_every_optimiser_holds_exactly_its_parameters(update, objective):
    agent = tiny_sac(objective, update=update)
    names = {id(p): name for name, p in parameters(agent).items()}
    held = {
        name: [(sorted(names[id(p)] for p in g["params"]), g["lr"], g["betas"]) for g in optimizer.param_groups]
        for name, optimizer in agent.optimizers.items()
    }
    expected = OPTIMIZERS[update, objective]
    assert held == {name: [(sorted(n), lr, betas) for n, lr, betas in groups] for name, groups in expected.items()}
    trainable = {name for name, p in parameters(agent).items() if p.requires_grad}
    assert trainable == {name for groups in held.values() for group, *_ in groups for name in group}


# what each step moves


STEPS = {
    ("joint", "curl"): [("critic", {"encoder", "critic", "objective"}), ("actor", {"actor"}), ("alpha", {"log_alpha"})],
    ("joint", "none"): [("critic", {"encoder", "critic"}), ("actor", {"actor"}), ("alpha", {"log_alpha"})],
    ("sequential", "curl"): [
        ("critic", {"encoder", "critic"}),
        ("actor", {"actor"}),
        ("alpha", {"log_alpha"}),
        ("objective", {"encoder", "objective"}),
    ],
    ("sequential", "none"): [("critic", {"encoder", "critic"}), ("actor", {"actor"}), ("alpha", {"log_alpha"})],
}


@pytest.mark.parametrize(("update", "objective"), EVERY)
def test_each_step_moves_its_own_and_leaves_the_rest_bit_identical(update, objective):
    agent = tiny_sac(objective, update=update)
    seen = watch_steps(agent)
    for i in range(4):
        seen.clear()
        agent.update(tiny_batch(i))
        steps = STEPS[update, objective]
        if i % 2:  # actor_period
            steps = [step for step in steps if step[0] not in {"actor", "alpha"}]
        assert [(name, moved(before, after)) for name, before, after in seen] == steps
    assert all(p.requires_grad for p in agent.critic.parameters())
    targets = [*agent.learner.target_encoder.parameters(), *agent.target_critic.parameters()]
    assert all(p.grad is None and not p.requires_grad for p in targets)


@pytest.mark.parametrize(("update", "objective"), EVERY)
def test_targets_move_by_tau_and_only_every_period(update, objective):
    agent = tiny_sac(objective, update=update, target_period=3, critic_tau=0.1, encoder_tau=0.3)
    seen = watch_steps(agent)
    agent.update(tiny_batch(9))  # so that targets and online networks differ
    for i in range(1, 7):
        before = {n: p.clone() for n, p in parameters(agent, "target_encoder", "target_critic").items()}
        seen.clear()
        agent.update(tiny_batch(i))
        # The original averages before the objective's step.
        online = seen[-1][1] if seen[-1][0] == "objective" else parameters(agent)
        for name, now in parameters(agent, "target_encoder", "target_critic").items():
            tau = (0.3 if name.startswith("target_encoder") else 0.1) if i % 3 == 0 else 0.0
            expected = (1 - tau) * before[name] + tau * online[name.removeprefix("target_")]
            torch.testing.assert_close(now.detach(), expected.detach(), rtol=1e-5, atol=1e-7)
            assert tau or torch.equal(now, before[name])


def test_memory_does_not_grow_with_updates():
    agent, batch = tiny_sac(actor_period=1, target_period=1), tiny_batch(size=2)

    def live() -> int:
        gc.collect()
        return sum(issubclass(type(thing), Tensor) for thing in gc.get_objects())

    for _ in range(3):
        agent.update(batch)
    before = live()
    for _ in range(200):
        result = agent.update(batch)
    assert live() <= before + len(result.metrics)
    for name, p in parameters(agent, "target_encoder", "target_critic").items():
        assert p.is_leaf, name
        assert p.grad_fn is None
        assert not p.requires_grad
    assert not any(value.requires_grad for value in result.metrics.values())


# what the networks see


@pytest.mark.parametrize(
    ("update", "objective", "online", "target"),
    # The original's order needs the query's map again after the critic's step; actor and objective share that one.
    [("joint", "curl", 2, 2), ("joint", "none", 2, 1), ("sequential", "curl", 3, 2), ("sequential", "none", 3, 1)],
)
def test_each_input_passes_the_convolutions_once(update, objective, online, target):
    agent = tiny_sac(objective, update=update)
    seen, seen_by_target = watch_maps(agent.learner.encoder), watch_maps(agent.learner.target_encoder)
    agent.update(tiny_batch())
    assert (len(seen), len(seen_by_target)) == (online, target)
    query, next_obs = seen[:2]
    assert all(torch.equal(again, query) for again in seen[2:])
    assert torch.equal(seen_by_target[0], next_obs)
    if objective == "curl":  # the key is another crop of the same frames
        assert seen_by_target[1].shape == query.shape
        assert not torch.equal(seen_by_target[1], query)


@pytest.mark.parametrize("augmentation", ["crop", "shift", "translate", "cutout", "color_jitter"])
@pytest.mark.parametrize("update", UPDATES)
def test_the_control_sees_the_same_crops_and_noise(update, augmentation):
    side = {"crop": CROP + 4, "translate": CROP - 4}.get(augmentation, CROP)
    obs_shape = (9, side, side)
    crops, generators = [], []
    for objective in ("curl", "none"):
        agent = tiny_sac(objective, update=update, augmentation=augmentation)
        seen = watch_maps(agent.learner.encoder)
        crops.append([])
        for i in range(3):
            seen.clear()
            agent.update(tiny_batch(i, obs_shape=obs_shape))
            crops[-1] += seen[:2]
        generators.append(agent.generator.get_state())
    assert all(torch.equal(a, b) for a, b in zip(*crops, strict=True))
    assert torch.equal(*generators)


def test_the_critic_sees_crops_of_the_batch():
    agent, batch = tiny_sac(), tiny_batch()
    kept = copy.deepcopy(batch)
    seen = watch_maps(agent.learner.encoder)
    agent.update(batch)
    windows = batch.obs.unfold(2, CROP, 1).unfold(3, CROP, 1)  # (B, C, places, places, h, w)
    equal = (windows == seen[0][:, :, None, None]).all(-1).all(-1).all(1)
    assert equal.flatten(1).sum(1).tolist() == [1] * len(batch.obs)
    assert all(torch.equal(a, b) for a, b in zip(tensors(batch), tensors(kept), strict=True))


# exact continuation


@pytest.mark.parametrize(("update", "objective"), EVERY)
def test_a_restored_agent_goes_on_bit_for_bit(update, objective):
    agent = tiny_sac(objective, update=update, target_period=3)
    run(agent, range(3))
    file = io.BytesIO()
    torch.save(agent.state_dict(), file)
    other = tiny_sac(objective, update=update, target_period=3, seed=7)
    other.load_state_dict(torch.load(io.BytesIO(file.getvalue()), weights_only=True))
    assert_equal_states(agent, other)
    ahead, behind = run(agent, range(3, 13)), run(other, range(3, 13))
    for one, two in zip(ahead, behind, strict=True):
        assert one.keys() == two.keys()
        assert all(torch.equal(one[name], two[name]) for name in one)
    assert_equal_states(agent, other)
    assert agent.updates == other.updates == 13


@pytest.mark.parametrize("update", UPDATES)
def test_one_seed_gives_one_agent_and_two_seeds_two(update):
    one, same, other = (tiny_sac(update=update, seed=seed) for seed in (0, 0, 1))
    for agent in (one, same, other):
        run(agent, range(4))
    assert_equal_states(one, same)
    assert not torch.equal(one.generator.get_state(), other.generator.get_state())
    for name, p in parameters(one, "encoder", "actor").items():
        if name.endswith("weight"):
            assert not torch.equal(p, parameters(other)[name])


# acting


def test_acting_draws_from_the_generator_only_to_explore():
    agent, obs = tiny_sac(), tiny_batch(size=3).obs.numpy()
    before = agent.generator.get_state()
    calm = agent.act(obs, explore=False)
    assert torch.equal(agent.generator.get_state(), before)
    wild, again = agent.act(obs, explore=True), agent.act(obs, explore=True)
    assert not torch.equal(agent.generator.get_state(), before)
    for action in (calm, wild, again):
        assert action.shape == (3, ACTIONS)
        assert action.dtype == np.float32
        assert (np.abs(action) <= 1).all()
    assert not np.array_equal(wild, again)
    assert np.array_equal(calm, agent.act(obs, explore=False))
    agent.generator.set_state(before)
    assert np.array_equal(wild, agent.act(obs, explore=True))


def test_acting_takes_the_centre_crop():
    agent, obs = tiny_sac(), tiny_batch(size=3).obs
    expected = agent.actor.mode(agent.learner.encoder.conv(center_crop(obs, CROP))).detach().numpy()
    assert np.array_equal(agent.act(obs.numpy(), explore=False), expected)
    seen = watch_maps(agent.learner.encoder)
    agent.act(obs.numpy(), explore=True)
    assert torch.equal(seen[0], center_crop(obs, CROP).float())


def test_acting_takes_the_image_in_the_middle_of_a_translations_canvas():
    side = CROP - 4
    agent = tiny_sac(augmentation="translate")
    obs = tiny_batch(size=3, obs_shape=(9, side, side)).obs
    seen = watch_maps(agent.learner.encoder)
    agent.act(obs.numpy(), explore=False)
    canvas = torch.zeros((3, 9, CROP, CROP))
    canvas[:, :, 2:-2, 2:-2] = obs
    assert torch.equal(seen[0], canvas)
    assert agent.learner.augmentation.config.seen_size(side) == CROP


@pytest.mark.parametrize("augmentation", ["shift", "cutout", "color_jitter", "none"])
def test_acting_without_crops_takes_the_whole_image(augmentation):
    agent, obs = tiny_sac(augmentation=augmentation), tiny_batch(size=3, obs_shape=(9, CROP, CROP)).obs
    seen = watch_maps(agent.learner.encoder)
    agent.act(obs.numpy(), explore=False)
    assert torch.equal(seen[0], obs.float())


# other inputs


@pytest.mark.parametrize("update", UPDATES)
def test_state_observations_train_and_act(update):
    agent = tiny_sac("none", obs_shape=(5,), augmentation="none", update=update)
    seen = watch_steps(agent)
    batch = tiny_batch(obs_shape=(5,))
    agent.update(batch)
    assert [(name, moved(before, after)) for name, before, after in seen] == STEPS[update, "none"]
    assert agent.act(batch.obs.numpy(), explore=True).shape == (6, ACTIONS)
    assert agent.learner.snapshot(batch) == {}


@pytest.mark.parametrize("update", UPDATES)
def test_bf16_touches_the_convolutions_only(update):
    low, exact = tiny_sac(bf16=True, update=update), tiny_sac(update=update)
    inner = watch_maps(low.learner.encoder)
    metrics, expected = low.update(tiny_batch()).metrics, exact.update(tiny_batch()).metrics
    assert {images.dtype for images in inner} == {torch.bfloat16}
    assert {value.dtype for value in metrics.values()} == {torch.float32}
    state = list(parameters(low).values()) + [p.grad for p in parameters(low, *ONLINE).values()]
    assert {tensor.dtype for tensor in state} == {torch.float32}
    for name in ("critic_loss", "objective_loss", "q", "alpha_loss"):
        torch.testing.assert_close(metrics[name], expected[name], rtol=0.05, atol=0.02)


def test_the_actors_backward_pass_leaves_every_other_gradient():
    agent = tiny_sac(update="joint")
    for i in range(3):
        metrics = agent.update(tiny_batch(i)).metrics
        after = torch.cat([p.grad.flatten() for p in agent.learner.encoder.parameters()]).norm()
        torch.testing.assert_close(metrics["encoder_grad_norm"], after)  # it was taken before the actor's


def test_metrics_name_what_the_update_did():
    agent = tiny_sac()
    critic = {"critic_loss", "q", "batch_reward", "encoder_grad_norm", "objective_loss", "accuracy"}
    actor = {"actor_loss", "alpha_loss", "temperature", "entropy"}
    assert set(agent.update(tiny_batch()).metrics) == critic | actor
    result = agent.update(tiny_batch())
    assert set(result.metrics) == critic
    assert result.priorities is None
    assert all(value.shape == () for value in result.metrics.values())


@pytest.mark.parametrize("update", UPDATES)
def test_a_normalised_critic_learns_its_norms_and_its_target_follows(update):
    agent, plain = tiny_sac(update=update, critic_norm="layer", critic_tau=0.5), tiny_sac(update=update)
    norms = {f"critic.{head}.{layer}.{n}" for head in ("q1", "q2") for layer in (1, 4) for n in ("weight", "bias")}
    names = set(parameters(agent, "critic"))
    assert norms < names
    assert len(names) == len(parameters(plain, "critic")) + len(norms)
    for part in ("actor", "encoder"):  # which start as they do without
        for one, other in zip(parameters(agent, part).items(), parameters(plain, part).items(), strict=True):
            assert one[0] == other[0]
            assert torch.equal(one[1], other[1])
    optimised = {id(p) for group in agent.optimizers["critic"].param_groups for p in group["params"]}
    assert all(id(p) in optimised for p in agent.critic.parameters())
    before = copies(agent, "critic", "target_critic")
    run(agent, range(2))
    after = copies(agent, "critic", "target_critic")
    for name in norms:
        assert not torch.equal(before[name], after[name]), name
        assert not torch.equal(before[f"target_{name}"], after[f"target_{name}"]), name
    resumed = tiny_sac(update=update, critic_norm="layer", critic_tau=0.5, seed=3)
    resumed.load_state_dict(copy.deepcopy(agent.state_dict()))
    run(agent, range(2, 4))
    run(resumed, range(2, 4))
    assert_equal_states(agent, resumed)


def test_the_temperature_seeks_the_share_of_the_dimensions_asked_for():
    metrics = {share: run(tiny_sac(target_entropy=share), range(1))[0] for share in (1.0, 0.5, 0.0)}
    assert tiny_sac().target_entropy == -float(ACTIONS)
    for share, found in metrics.items():
        expected = found["temperature"] * (found["entropy"] + share * ACTIONS)  # of a temperature that none has moved
        torch.testing.assert_close(found["alpha_loss"], expected)


def test_a_snapshot_shows_two_crops_and_disturbs_nothing():
    agent, batch = tiny_sac(), tiny_batch(size=10)
    before = copy.deepcopy(agent.state_dict())
    images = agent.learner.snapshot(batch)
    assert {name: value.shape for name, value in images.items()} == dict.fromkeys(("query", "key"), (10, 9, CROP, CROP))
    assert not torch.equal(images["query"], images["key"])
    for name, value in leaves(before):
        now = dict(leaves(agent.state_dict()))[name]
        assert torch.equal(now, value) if torch.is_tensor(value) else now == value


@pytest.mark.parametrize("augmentation", sorted(AUGMENTATIONS))
def test_an_agent_of_any_augmentation_learns_acts_and_is_watched_on_images_of_one_size(augmentation):
    sizes = {"crop": CROP, "translate": 26}
    shape = (9, *[sizes.get(augmentation, 24)] * 2)
    options = {"pad": 1} if augmentation == "translate" else SMALL.get(augmentation, {})
    config = AUGMENTATIONS[augmentation].Config(**options)
    assert config.seen_size(24) == shape[-1]
    agent = tiny_sac(augmentation=config, obs_shape=shape)
    seen, batch = watch_maps(agent.learner.encoder), tiny_batch()
    agent.update(batch)
    agent.act(batch.obs.numpy(), explore=True)
    watched = watch_features(agent.learner, batch)
    assert {tuple(images.shape[1:]) for images in seen} == {shape}
    assert all(torch.isfinite(value) for value in watched.values())
    views = agent.learner.snapshot(batch)
    assert torch.equal(views["query"], views["key"]) == (augmentation == "none")
    assert torch.equal(seen[-3], center_fit(batch.obs, shape[-1]).float())  # acting, before the two views are watched


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"n_step": 0}, "agent.n_step must be at least 1 and at most .*, got 0"),
        ({"update": "both"}, "agent.update='both' is none of joint, sequential"),
        ({"precision": "fp16"}, "agent.precision='fp16' is none of auto, float32, bf16"),
        ({"actor_period": 0}, "agent.actor_period must be at least 1 and at most .*, got 0"),
        ({"critic_norm": "batch"}, "agent.critic_norm='batch' is none of none, layer"),
        ({"target_entropy": -1.0}, r"agent.target_entropy must be at least 0 and at most .*, got -1.0"),
        ({"discount": 1.5}, r"agent.discount must be above 0 and at most 1, got 1.5"),
    ],
    ids=lambda value: "" if isinstance(value, str) else next(iter(value)),
)
def test_settings_that_cannot_be_honoured_are_refused(fields, message):
    with pytest.raises(ConfigError, match=message):
        check(SacConfig(**fields), "agent.")


def test_sac_is_found_by_name():
    assert AGENTS["sac"] is Sac
    assert Sac.Config().name == "sac"
