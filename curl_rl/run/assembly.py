"""Builds a run's parts from its configuration."""

from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import numpy as np
import torch

from curl_rl import envs
from curl_rl.agents import AGENTS
from curl_rl.config import suites
from curl_rl.config.schema import Config, check_capture
from curl_rl.nn.augmentations import AUGMENTATIONS
from curl_rl.nn.encoders import Encoder, make_encoder
from curl_rl.nn.networks import seeded
from curl_rl.objectives import make_objective
from curl_rl.objectives.learner import Learner
from curl_rl.replay.replay import Replay
from curl_rl.replay.samplers import PrioritizedSampler, Sampler, UniformSampler
from curl_rl.run.memory import check_batch, check_networks, find_room
from curl_rl.run.pretrained import Source, begin_from
from curl_rl.run.rollout import Rollout
from curl_rl.run.seeds import Purpose, derive_seed
from curl_rl.run.seen import FrameStack, Reward
from curl_rl.run.spaces import count_actions, seen_shape
from curl_rl.run.stored import env_settings, make_protocol
from curl_rl.types import Agent, Environment, Shapes


def _label_side(config: Config) -> int:
    """Return the side of the label maps that the objective needs, 0 if it needs none."""
    wanted = config.objective.coefficient and "labels" in config.objective.needs
    return envs.label_side(config.env.image_size) if wanted else 0


def make_environment(config: Config, *, extra: Mapping[str, Any] | None = None) -> envs.LocalEnv | envs.RemoteEnv:
    """Create the configured environment, in a process of its own where that is asked for.

    Args: extra, settings beside the configured ones; without any it gives the labels that the objective needs.
    """
    wanted = {"labels": True} if _label_side(config) else {}
    settings = env_settings(config) | (wanted if extra is None else dict(extra))
    longest = suites.longest_steps(config.task, config.env.action_repeat)
    if config.env.overlap:
        return envs.RemoteEnv(config.task, settings, longest=longest, timeout=config.env.timeout)
    return envs.LocalEnv(config.task, settings, longest=longest)


def make_agent(config: Config, env: Environment, device: torch.device, source: Source | None = None) -> Agent:
    """Build an agent and its learner for an environment's spaces, initialised from the run's seed.

    Args: source, of the encoder, where it is that of another run.
    """
    with seeded(config.seed):
        learner, actions = make_learner(config, env, device, source), count_actions(config, env.action_space)
        seed = derive_seed(config.seed, Purpose.LOOP)
        return AGENTS[config.agent.name](config.agent, learner=learner, action_dim=actions, device=device, seed=seed)


def make_learner(config: Config, env: Environment, device: torch.device, source: Source | None = None) -> Learner:
    """Build what learns to see in a run of this configuration; seeds torch's own generator."""
    shape, actions = seen_shape(config, env.observation_space), count_actions(config, env.action_space)
    with torch.device("meta"):
        check_networks(config, *_make_encoder(config, shape, actions), device)
    torch.manual_seed(config.seed)
    encoder, shapes = _make_encoder(config, shape, actions)
    begin_from(config, encoder, source)
    with seeded(derive_seed(config.seed, Purpose.OBJECTIVE)):  # the control's heads start as those beside any objective
        objective = make_objective(config.objective, shapes)
    augmentation = AUGMENTATIONS[config.augmentation.name](config.augmentation)
    if len(frame := env.observation_space.shape or ()) == 3:  # whose channels are known by now
        augmentation.check(torch.zeros((1, *frame), dtype=torch.uint8))
    seed = derive_seed(config.seed, Purpose.LOOP) + 1
    return Learner(encoder, objective, augmentation, pace=config.agent.pace, device=device, seed=seed)


def _make_encoder(config: Config, shape: tuple[int, ...], actions: int) -> tuple[Encoder, Shapes]:
    """Build the encoder, and tell what it and the actions look like."""
    encoder = make_encoder(config.encoder, shape, bf16=config.agent.precision == "bf16")
    discrete, image_size = AGENTS[config.agent.name].discrete, config.env.image_size
    return encoder, Shapes(encoder.feature_dim, encoder.conv_shape, actions, discrete, image_size, encoder.cells)


def make_replay(config: Config, env: Environment, device: torch.device) -> Replay:
    """Allocate the replay, its predicted size printed first. Raises ConfigError where it does not fit."""
    check_capture(config, device.type)
    frames, actions = env.observation_space, env.action_space
    layout: dict[str, Any] = {
        "capacity": suites.replay_slots(config.task, config.replay.capacity, config.env.action_repeat),
        "obs_shape": frames.shape,
        "obs_dtype": torch.uint8 if frames.dtype == np.uint8 else torch.float32,
        "action_shape": actions.shape,
        "action_dtype": torch.int64 if isinstance(actions, gym.spaces.Discrete) else torch.float32,
        "label_side": _label_side(config),
    }
    check_batch(config, layout, seen_shape(config, frames), device)
    return Replay(
        **layout,
        stack=config.env.frame_stack,
        padding=make_stack(config).padding,
        n_step=config.agent.n_step,
        device=device,
        storage=find_room(config, layout, device),
        horizon=config.horizon,
        sampler=_make_sampler(config, layout["capacity"]),
    )


def _make_sampler(config: Config, capacity: int) -> Sampler:
    replay = config.replay
    if replay.sampler == "uniform":
        return UniformSampler(capacity)
    updates = (config.budget_frames // config.env.action_repeat - config.random_steps) * config.updates_per_step
    betas = replay.beta, replay.last_beta
    return PrioritizedSampler(capacity, exponent=replay.exponent, betas=betas, anneal_updates=max(updates, 0))


def make_stack(config: Config) -> FrameStack:
    """Return the stack through which the agent sees single frames, padded as the protocol or the suite states."""
    padding = make_protocol(config).get("padding", suites.SUITES[suites.suite_of(config.task)].padding)
    return FrameStack(config.env.frame_stack, padding)


def make_rollout(config: Config, env: Environment, replay: Replay) -> Rollout:
    """Return what plays the run's training episodes and stores them."""
    return Rollout(env, make_stack(config), replay, seed=config.seed, learned=learned_reward(config))


def learned_reward(config: Config) -> Reward:
    """Return what the replay keeps of a reward: scaled, then clipped as the protocol or the configuration states."""
    clip = make_protocol(config).get("reward_clip") or config.env.reward_clip or np.inf
    return Reward(config.env.reward_scale, clip)
