"""Builds a run's parts from its configuration."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch

from curl_rl import envs
from curl_rl.agents import AGENTS
from curl_rl.config import suites
from curl_rl.config.difference import check_same, identity
from curl_rl.config.schema import Config, check_capture
from curl_rl.envs import LocalEnv, RemoteEnv
from curl_rl.nn.augmentations import AUGMENTATIONS
from curl_rl.nn.encoders import Encoder, make_encoder
from curl_rl.objectives import make_objective
from curl_rl.objectives.learner import Learner
from curl_rl.replay.replay import Replay
from curl_rl.replay.samplers import SAMPLERS, PrioritizedSampler, Sampler, UniformSampler
from curl_rl.run.machine import usable_cores
from curl_rl.run.memory import check_batch, check_networks, choose_storage, predict_bytes
from curl_rl.run.rollout import Environment, FrameStack
from curl_rl.run.seeds import Purpose, derive_seed
from curl_rl.run.stored import FILE
from curl_rl.types import Agent, ConfigError, Shapes

RunEnv = LocalEnv | RemoteEnv
_LANES = 32  # of one evaluation: enough to fill the cores, few enough to have little idle at the end


def _settings(config: Config) -> dict[str, Any]:
    """Return what an environment's constructor takes of the configuration."""
    return {name: getattr(config.env, name) for name in suites.SUITES[suites.suite_of(config.task)].settings}


def _label_side(config: Config) -> int:
    """Return the side of the label maps that the objective needs, 0 if it needs none."""
    wanted = config.objective.coefficient and config.objective.needs_labels
    return envs.label_side(config.env.image_size) if wanted else 0


def make_protocol(config: Config) -> dict[str, Any]:
    """Return what the configured environment measures, as plain data with its `hash`."""
    return envs.protocol(config.task, **_settings(config))


def identify(config: Config) -> dict[str, Any]:
    """Return what a checkpoint says of the run that it is of: every setting that can change results, and the task's."""
    return {**identity(config.to_dict()), "protocol": make_protocol(config)["hash"]}


def check_state(state: Mapping[str, Any], config: Config) -> None:
    """Raise ConfigError, with the difference, for the state of a checkpoint of another configuration."""
    place = Path(config.run_dir) / "checkpoints"
    mend = f"put the run's own {FILE} and checkpoints there, or give another run_dir"
    check_same(state.get("config", {}), identify(config), f"{place} holds checkpoints", mend)


def make_environment(config: Config, *, judge: bool = False) -> RunEnv:
    """Create the configured environment, in a process of its own where that is asked for.

    One to train in gives the labels that the objective needs, a `judge` never does.
    """
    settings = _settings(config)
    if _label_side(config) and not judge:
        settings["labels"] = True
    longest = suites.longest_steps(config.task, config.env.action_repeat)
    if config.env.overlap:
        env = RemoteEnv(config.task, settings, longest=longest, timeout=config.env.timeout)
    else:
        env = LocalEnv(config.task, settings, longest=longest)
    try:
        _check_frames(config, env)
    except ConfigError:
        env.close()
        raise
    return env


def _check_frames(config: Config, env: RunEnv) -> None:
    """Raise ConfigError where an environment shows something else than the configuration asked it for."""
    size = config.env.image_size
    shape = _shape(env.observation_space)
    if shape[1:] != ((size, size) if config.env.obs == "pixels" else ()):
        wanted = f"frames of env.image_size={size}" if config.env.obs == "pixels" else "vectors (env.obs=state)"
        raise ConfigError(f"{config.task} gives observations {shape} where {wanted} were asked for: mend its settings")


def make_judges(config: Config, episodes: int) -> Sequence[Environment]:
    """Create the environments that evaluate side by side: processes, or lanes where the suite has them."""
    workers = config.evaluation.workers or usable_cores()
    lanes = envs.make_lanes(config.task, min(episodes, _LANES), workers, **_settings(config))
    return lanes or [make_environment(config, judge=True) for _ in range(min(episodes, workers))]


def _shape(space: gym.Space) -> tuple[int, ...]:
    if space.shape is None:
        raise ConfigError(f"an agent here needs spaces of arrays, not {space}")
    return space.shape


def make_agent(config: Config, env: Environment, device: torch.device) -> Agent:
    """Build an agent and its learner for an environment's spaces, initialised from the run's seed."""
    with torch.random.fork_rng(devices=[]):
        learner, actions = make_learner(config, env, device), _count_actions(config, env.action_space)
        seed = derive_seed(config.seed, Purpose.LOOP)
        return AGENTS[config.agent.name](config.agent, learner=learner, action_dim=actions, device=device, seed=seed)


def make_learner(config: Config, env: Environment, device: torch.device) -> Learner:
    """Build what learns to see in a run of this configuration; seeds torch's own generator."""
    shape, actions = _input_shape(config, env.observation_space), _count_actions(config, env.action_space)
    with torch.device("meta"):
        check_networks(config, *_make_encoder(config, shape, actions), device)
    torch.manual_seed(config.seed)
    encoder, shapes = _make_encoder(config, shape, actions)
    with torch.random.fork_rng(devices=[]):  # the control's heads start as those beside any objective
        torch.manual_seed(derive_seed(config.seed, Purpose.OBJECTIVE))
        objective = make_objective(config.objective, shapes)
    augmentation = AUGMENTATIONS[config.augmentation.name](config.augmentation)
    seed = derive_seed(config.seed, Purpose.LOOP) + 1
    return Learner(encoder, objective, augmentation, pace=config.agent.pace, device=device, seed=seed)


def _input_shape(config: Config, frames: gym.Space) -> tuple[int, ...]:
    """Return the shape of what the encoder sees of a stacked observation."""
    channels, *image = _shape(frames)
    if image:
        image = [config.augmentation.seen_size(config.env.image_size)] * 2
    return (channels * config.env.frame_stack, *image)


def _make_encoder(config: Config, shape: tuple[int, ...], actions: int) -> tuple[Encoder, Shapes]:
    """Build the encoder, and tell what it and the actions look like."""
    encoder = make_encoder(config.encoder, shape, bf16=config.agent.precision == "bf16")
    discrete, image_size = AGENTS[config.agent.name].discrete, config.env.image_size
    return encoder, Shapes(encoder.feature_dim, encoder.conv_shape, actions, discrete, image_size, encoder.cells)


def _count_actions(config: Config, space: gym.Space) -> int:
    """Return how many actions there are, or their dimension. Raises ConfigError where the agent takes others."""
    discrete = AGENTS[config.agent.name].discrete
    if isinstance(space, gym.spaces.Discrete) != discrete:
        kind, other = ("discrete", "sac") if discrete else ("continuous", "rainbow")
        raise ConfigError(
            f"agent={config.agent.name} needs {kind} actions, and {config.task} has others: choose agent={other}, "
            f"with a preset made for it ({config.preset} may not be)"
        )
    return int(space.n) if isinstance(space, gym.spaces.Discrete) else _shape(space)[0]


def make_replay(config: Config, env: RunEnv, device: torch.device) -> Replay:
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
    check_batch(config, layout, _input_shape(config, frames), _horizon(config), device)
    needed = predict_bytes(sampler=SAMPLERS[config.replay.sampler], **layout)
    storage = choose_storage(config.replay.device, device, needed)
    print(f"replay: {layout['capacity']:,} frames, {needed / 2**30:.2f} GiB on {storage}", file=sys.stderr)
    return Replay(
        **layout,
        stack=config.env.frame_stack,
        padding=_padding(config),
        n_step=config.agent.n_step,
        device=device,
        storage=storage,
        horizon=_horizon(config),
        sampler=_make_sampler(config, layout["capacity"]),
    )


def _horizon(config: Config) -> int:
    return config.objective.horizon if config.objective.coefficient else 0


def _make_sampler(config: Config, capacity: int) -> Sampler:
    replay = config.replay
    if replay.sampler == "uniform":
        return UniformSampler(capacity)
    updates = (config.budget_frames // config.env.action_repeat - config.random_steps) * config.updates_per_step
    return PrioritizedSampler(capacity, exponent=replay.exponent, beta=replay.beta, anneal_updates=max(updates, 0))


def make_stack(config: Config) -> FrameStack:
    """Return the stack through which the agent sees single frames."""
    return FrameStack(config.env.frame_stack, _padding(config))


def _padding(config: Config) -> str:
    """Return what stands before an episode's first frame: as the protocol states it, or as the suite has it."""
    return make_protocol(config).get("padding", suites.SUITES[suites.suite_of(config.task)].padding)
