"""Agents that augment and nothing else: DrQ's averages written out, and RAD from the configuration to the export."""

import copy
import io
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from runs import state
from tiny import (
    ACTIONS,
    assert_equal_states,
    atari_batch,
    gradients,
    run,
    tiny_batch,
    tiny_rainbow,
    tiny_sac,
    watch_maps,
)
from torch import Tensor

from curl_rl.adapters.sb3 import CurlFeatures
from curl_rl.agents.rainbow import Rainbow, RainbowConfig
from curl_rl.agents.sac import Sac, SacConfig
from curl_rl.config.overrides import compose
from curl_rl.nn.augmentations import AUGMENTATIONS, Averaging
from curl_rl.nn.images import center_fit
from curl_rl.nn.losses import categorical_loss, project_distribution, soft_q_target, twin_q_loss
from curl_rl.options import check
from curl_rl.representation.export import export_run, load_encoder
from curl_rl.run import trainer
from curl_rl.run.playing import evaluate_run
from curl_rl.types import Batch, ConfigError, Views

COUNTS = [(1, 1), (2, 1), (1, 3), (3, 2)]
UPDATES = ("joint", "sequential")


def drq_sac(k: int = 1, m: int = 1, objective: str = "none", **fields) -> Sac:
    return tiny_sac(objective, averaging=Averaging(k, m), **fields)


def drq_rainbow(k: int, m: int, objective: str = "none", *, augmentation: Any = None, **fields) -> Rainbow:
    shown = augmentation or AUGMENTATIONS["crop_shift"].Config(pad=2)
    return tiny_rainbow(objective, averaging=Averaging(k, m), augmentation=shown, **fields)


def watch_views(agent: Sac | Rainbow) -> list[tuple[Batch, Views]]:
    """Return a list that grows by what the objective is given at each update."""
    seen = []
    agent.learner.objective.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[:2]))
    return seen


# SAC


class Draws:
    """What SAC's next update will draw, in its order: the first view, K next ones, noise for each, M - 1 views."""

    def __init__(self, agent: Sac, batch: Batch):
        twin, size = copy.deepcopy(agent), len(batch.action)
        k, m = agent.config.averaging.k, agent.config.averaging.m
        first = twin.learner.augmentation(batch.obs, twin.generator).images
        self.next_obs = [twin.learner.augmentation(batch.next_obs, twin.generator).images for _ in range(k)]
        self.noise = torch.randn(((k + 1) * size, ACTIONS), generator=twin.generator).split(size)
        self.obs = [first, *(twin.learner.augmentation(batch.obs, twin.generator).images for _ in range(m - 1))]


def critic_loss(agent: Sac, batch: Batch, draws: Draws) -> Tensor:
    """Write DrQ's algorithm 1 out: y is the mean over K next views, the loss the mean over M views."""
    alpha, targets = agent.log_alpha.exp(), []
    with torch.no_grad():
        for images, noise in zip(draws.next_obs, draws.noise, strict=False):
            action, log_prob = agent.actor(agent.learner.encoder.conv(images), noise)
            q1, q2 = agent.target_critic(agent.learner.target_encoder(images), action)
            targets.append(batch.reward + batch.discount * (torch.minimum(q1, q2) - alpha * log_prob))
        y = sum(targets) / len(targets)
    losses = []
    for images in draws.obs:
        q1, q2 = agent.critic(agent.learner.encoder(images), batch.action)
        losses.append((batch.weight * (q1 - y) ** 2).mean() + (batch.weight * (q2 - y) ** 2).mean())
    return torch.stack(losses).mean()


@pytest.mark.parametrize(("k", "m"), COUNTS)
@pytest.mark.parametrize("update", UPDATES)
def test_sacs_target_is_a_mean_over_k_views_and_its_loss_over_m(update, k, m):
    agent = drq_sac(k, m, update=update)
    run(agent, range(3))  # so that targets and online networks differ
    batch = tiny_batch(7)._replace(weight=torch.rand(6))
    loss = critic_loss(twin := copy.deepcopy(agent), batch, Draws(agent, batch))
    twin.critic.zero_grad()
    twin.learner.encoder.zero_grad()
    loss.backward()
    metrics = agent.update(batch).metrics
    torch.testing.assert_close(metrics["critic_loss"], loss.detach(), rtol=1e-5, atol=0)
    expected = gradients(twin, "encoder", "critic")
    for name, gradient in gradients(agent, "encoder", "critic").items():
        scale = float(expected[name].abs().max())
        torch.testing.assert_close(gradient, expected[name], rtol=1e-4, atol=1e-5 * scale)


def test_one_view_of_each_is_sac_bit_for_bit():
    agent = drq_sac(1, 1)
    run(agent, range(2))
    batch, twin = tiny_batch(7), copy.deepcopy(agent)
    draws = Draws(agent, batch)
    with torch.no_grad():
        action, log_prob = twin.actor(twin.learner.encoder.conv(draws.next_obs[0]), draws.noise[0])
        q = twin.target_critic(twin.learner.target_encoder(draws.next_obs[0]), action)
        target = soft_q_target(batch.reward, batch.discount, q, log_prob, twin.log_alpha.exp())
    loss = twin_q_loss(twin.critic(twin.learner.encoder(draws.obs[0]), batch.action), target, batch.weight)
    twin.critic.zero_grad()
    twin.learner.encoder.zero_grad()
    loss.backward()
    assert torch.equal(agent.update(batch).metrics["critic_loss"], loss.detach())
    expected, found = gradients(twin, "encoder", "critic"), gradients(agent, "encoder", "critic")
    assert all(torch.equal(found[name], gradient) for name, gradient in expected.items())
    assert SacConfig().averaging == Averaging(1, 1) == agent.config.averaging


@pytest.mark.parametrize("update", UPDATES)
def test_sac_encodes_every_view_and_the_actor_and_the_objective_take_the_first(update):
    agent, batch = drq_sac(2, 3, "curl", update=update), tiny_batch()
    draws, views = Draws(agent, batch), watch_views(agent)
    online, target = watch_maps(agent.learner.encoder), watch_maps(agent.learner.target_encoder)
    agent.update(batch)
    expected = [*draws.obs, torch.cat(draws.next_obs)]
    expected += [draws.obs[0]] if update == "sequential" else []  # again once the critic's step has moved the encoder
    assert len(online) == len(expected)
    assert all(torch.equal(seen, images.float()) for seen, images in zip(online, expected, strict=True))
    ((given, (query, key)),) = views
    assert torch.equal(given.obs, batch.obs)
    assert torch.equal(query.images, draws.obs[0])
    assert len(target) == 2
    assert torch.equal(target[0], torch.cat(draws.next_obs).float())
    assert torch.equal(target[1], key.images.float())


@pytest.mark.parametrize(("k", "m"), COUNTS)
def test_sacs_control_sees_the_same_views_and_noise(k, m):
    seen, agents = [], []
    for objective in ("curl", "none"):
        agents.append(agent := drq_sac(k, m, objective, update="joint"))
        inputs = watch_maps(agent.learner.encoder)
        seen.append([])
        for i in range(3):
            inputs.clear()
            agent.update(tiny_batch(i))
            seen[-1] += inputs[: m + 1]
    assert all(torch.equal(a, b) for a, b in zip(*seen, strict=True))
    curl, none = agents
    assert torch.equal(curl.generator.get_state(), none.generator.get_state())
    assert torch.equal(none.learner.generator.get_state(), drq_sac().learner.generator.get_state())
    assert not torch.equal(curl.learner.generator.get_state(), none.learner.generator.get_state())


def test_more_views_of_the_observation_change_no_earlier_draw():
    one, three = (Draws(drq_sac(2, m), tiny_batch()) for m in (1, 3))
    assert torch.equal(one.obs[0], three.obs[0])
    for first, second in ((one.next_obs, three.next_obs), (one.noise, three.noise)):
        assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert len({tuple(images.flatten().tolist()) for images in three.obs}) == 3


# Rainbow


def value_losses(agent: Rainbow, batch: Batch) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    """Write each sample's loss out for what the next update will draw; return it with its views."""
    k, m = agent.config.averaging.k, agent.config.averaging.m
    rows = torch.arange(len(batch.action))
    obs = [agent.learner.augmentation(batch.obs, agent.generator).images for _ in range(m)] or [batch.obs]
    next_obs = [agent.learner.augmentation(batch.next_obs, agent.generator).images for _ in range(k)] or [
        batch.next_obs
    ]
    agent.target_heads.draw(agent.generator)
    with torch.no_grad():
        targets = []
        for images in next_obs:
            best = (agent.heads(agent.learner.encoder(images)).softmax(-1) @ agent.returns.support).argmax(1)
            shares = agent.target_heads(agent.target_network["encoder"](images))[rows, best].softmax(-1)
            targets.append(project_distribution(shares, batch.reward, batch.discount, agent.returns.support))
        target = sum(targets) / len(targets)
    logits = [agent.heads(agent.learner.encoder(images))[rows, batch.action] for images in obs]
    return sum(categorical_loss(each, target) for each in logits) / len(logits), obs, next_obs


@pytest.mark.parametrize(("k", "m"), [(0, 0), (1, 0), (0, 1), *COUNTS])
def test_rainbows_target_is_a_mean_over_k_views_and_its_losses_over_m(k, m):
    agent = drq_rainbow(k, m, max_grad_norm=1e9)
    run(agent, range(3))
    batch, twin = atari_batch(7)._replace(weight=torch.rand(6)), copy.deepcopy(agent)
    losses, _, _ = value_losses(twin, batch)
    twin.learner.encoder.zero_grad()
    twin.heads.zero_grad()
    (batch.weight * losses).mean().backward()
    metrics, priorities = agent.update(batch)
    assert priorities is not None
    torch.testing.assert_close(priorities, losses.detach(), rtol=1e-4, atol=0)
    torch.testing.assert_close(metrics["value_loss"], losses.detach().mean(), rtol=1e-4, atol=0)
    expected = gradients(twin, "encoder", "heads")
    for name, gradient in gradients(agent, "encoder", "heads").items():
        scale = float(expected[name].abs().max())
        torch.testing.assert_close(gradient, expected[name], rtol=1e-4, atol=1e-5 * scale)
    assert torch.equal(agent.generator.get_state(), twin.generator.get_state())


def test_views_that_are_all_alike_are_the_frames_themselves():
    batch, metrics = atari_batch(), []
    for k, m in ((0, 0), (3, 2)):
        metrics.append(drq_rainbow(k, m, augmentation="none").update(batch).metrics)
    torch.testing.assert_close(metrics[0]["value_loss"], metrics[1]["value_loss"], rtol=1e-5, atol=0)
    torch.testing.assert_close(metrics[0]["grad_norm"], metrics[1]["grad_norm"], rtol=1e-4, atol=0)


@pytest.mark.parametrize(("k", "m"), COUNTS)
def test_rainbows_query_is_the_value_losss_first_view(k, m):
    agent, batch = drq_rainbow(k, m, "curl"), atari_batch()
    key_generator = agent.learner.generator.clone_state()
    _, obs, next_obs = value_losses(copy.deepcopy(agent), batch)
    views = watch_views(agent)
    encoders = agent.learner.encoder, agent.target_network["encoder"], agent.learner.target_encoder
    online, target, key = (watch_maps(encoder) for encoder in encoders)
    agent.update(batch)
    (_, crops) = views[0]
    assert torch.equal(crops.query.images, obs[0])
    expected_key = agent.learner.augmentation(batch.obs, key_generator).images
    assert torch.equal(crops.key.images, expected_key)
    for seen, images in ((online, [torch.cat(obs), *next_obs]), (target, next_obs), (key, [expected_key])):
        assert len(seen) == len(images)  # the query adds nothing to the pass of what the value loss sees
        assert all(torch.equal(a, agent.learner.encoder.scale(b)) for a, b in zip(seen, images, strict=True))


@pytest.mark.parametrize(("k", "m"), [(1, 0), (0, 1), (2, 2)])
def test_rainbows_control_sees_the_same_views_and_noise(k, m):
    seen, agents = [], []
    for objective in ("curl", "none"):
        agents.append(agent := drq_rainbow(k, m, objective))
        maps = watch_maps(agent.learner.encoder)
        seen.append([])
        for i in range(3):
            maps.clear()
            agent.update(atari_batch(i))
            seen[-1] += maps[: max(k, 1) + 1]
    # A query of its own follows the value loss's frames in their pass.
    assert all(torch.equal(a[: len(b)], b) for a, b in zip(*seen, strict=True))
    curl, none = agents
    assert torch.equal(curl.generator.get_state(), none.generator.get_state())
    for (name, a), (_, b) in zip(curl.target_heads.named_buffers(), none.target_heads.named_buffers(), strict=True):
        assert torch.equal(a, b), name
    assert torch.equal(none.learner.generator.get_state(), drq_rainbow(0, 0).learner.generator.get_state())


# both


@pytest.mark.parametrize("objective", ["curl", "none"])
@pytest.mark.parametrize("augmentation", ["shift", "cutout", "color_jitter"])
@pytest.mark.parametrize("make", [drq_sac, drq_rainbow])
def test_a_restored_agent_goes_on_bit_for_bit(make, augmentation, objective):
    fields: dict[str, Any] = {"augmentation": augmentation}
    if make is drq_sac:
        fields["obs_shape"] = (9, 24, 24)
    agent, other = (make(2, 2, objective, seed=seed, **fields) for seed in (0, 7))
    run(agent, range(2))
    file = io.BytesIO()
    torch.save(agent.state_dict(), file)
    other.load_state_dict(torch.load(io.BytesIO(file.getvalue()), weights_only=True))
    for one, two in zip(run(agent, range(2, 7)), run(other, range(2, 7)), strict=True):
        assert all(torch.equal(one[name], two[name]) for name in one)
    assert_equal_states(agent, other)


def test_counts_that_cannot_be_averaged_are_refused():
    assert (SacConfig().averaging, RainbowConfig().averaging) == (Averaging(1, 1), Averaging(0, 0))
    for name in ("k", "m"):
        with pytest.raises(ConfigError, match=rf"agent.averaging.{name} must be at least 0 and at most 100, got -1"):
            check(RainbowConfig(averaging=Averaging(**{name: -1})), "agent.")


# whole runs

REACH = (
    *("task=toy/reach", "device=cpu", "objective=none", "budget_frames=90", "random_steps=40", "batch_size=8"),
    *(
        "augmentation=translate",
        "augmentation.pad=4",
        "agent.averaging.k=2",
        "agent.averaging.m=2",
        "agent.hidden_dim=16",
    ),
    *("evaluation.every_frames=90", "evaluation.episodes=2", "evaluation.workers=1", "log.every_updates=20"),
)
GRID = (
    *("task=toy/grid", "preset=rainbow", "device=cpu", "objective=none", "budget_frames=90", "random_steps=40"),
    *("augmentation=color_jitter", "agent.averaging.k=1", "agent.averaging.m=1", "batch_size=8"),
    *("evaluation.every_frames=90", "evaluation.episodes=2", "evaluation.workers=1", "log.every_updates=20"),
)


@pytest.fixture(scope="module")
def exported(tmp_path_factory) -> tuple[Path, Path]:
    """Return a finished run of translations and its exported encoder."""
    path = tmp_path_factory.mktemp("translate")
    assert trainer.train(compose([*REACH, f"run_dir={path / 'run'}"])) == 0
    return path / "run", export_run(path / "run", path / "enc")


def test_a_run_of_translations_is_exported_as_it_acts(exported):
    run_dir, folder = exported
    loaded, weights = load_encoder(folder), state(run_dir)["agent"]["learner"]["encoder"]
    assert (loaded.obs_shape, loaded.encoder.obs_shape) == ((6, 28, 28), (6, 36, 36))
    assert all(torch.equal(weights[name], weight) for name, weight in loaded.encoder.state_dict().items())
    images = tiny_batch(obs_shape=(6, 28, 28)).obs
    assert torch.equal(loaded(images), loaded.encoder(center_fit(images, 36)))


def test_the_adapter_takes_an_encoder_of_translations(exported):
    space = gym.spaces.Box(0, 255, (6, 28, 28), np.uint8)
    features = CurlFeatures(space, exported[1])
    images = tiny_batch(obs_shape=(6, 28, 28)).obs
    assert torch.equal(features(images / 255), load_encoder(exported[1])(images))
    with pytest.raises(ValueError, match="render or resize images to 28x28"):
        CurlFeatures(gym.spaces.Box(0, 255, (6, 27, 28), np.uint8), exported[1])


def test_a_run_of_translations_is_evaluated(exported):
    episodes = evaluate_run(exported[0], 2, None, 0, "cpu")
    assert [episode.length for episode in episodes] == [20, 20]


def test_rainbow_runs_on_augmentations_alone(tmp_path):
    assert trainer.train(compose([*GRID, f"run_dir={tmp_path / 'run'}"])) == 0
    loaded = load_encoder(export_run(tmp_path / "run", tmp_path / "enc"))
    images = tiny_batch(obs_shape=loaded.obs_shape).obs
    assert torch.equal(loaded(images), loaded.encoder(images))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            "task=toy/reach augmentation=cutout",
            "augmentation.most=30 leaves nothing of images of side 28: lower the one or enlarge the other",
        ),
        ("task=toy/reach augmentation=translate augmentation.pad=28", "augmentation.pad=28 makes mostly"),
        ("task=toy/reach augmentation.pad=28", "augmentation.pad=28 leaves nothing of images of side 28"),
        ("task=toy/reach augmentation=crop", "augmentation.size=84 does not fit in images of side 28"),
        ("task=atari/pong augmentation=cutout augmentation.most=84", "augmentation.most=84 leaves nothing of"),
        ("task=atari/pong augmentation=flip", "unknown augmentation 'flip'; there are color_jitter, crop, crop_shift"),
        ("preset=state augmentation=cutout", "env.obs=state has no pixels for augmentation=cutout: it needs"),
    ],
    ids=lambda value: value if "=" in value and " of " not in value else "",
)
def test_augmentations_that_do_not_go_with_the_images_are_refused(overrides, message):
    with pytest.raises(ConfigError) as error:
        compose([*overrides.split(), "run_dir=x"])
    assert message in str(error.value)


def test_augmentations_that_just_fit_are_taken():
    assert compose(["task=atari/pong", "augmentation=cutout"]).augmentation.name == "cutout"
    for overrides in ("augmentation=cutout augmentation.most=27", "augmentation=crop augmentation.size=28"):
        config = compose(["task=toy/reach", *overrides.split(), "run_dir=x"])
        assert config.augmentation.seen_size(config.env.image_size) == 28
    for overrides in ("augmentation=translate", "augmentation=color_jitter"):  # as their defaults are
        compose(["task=toy/reach", overrides, "run_dir=x"])
