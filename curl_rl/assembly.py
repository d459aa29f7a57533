"""Builds a run's parts from its configuration."""

import ctypes
import os
import sys
from enum import IntEnum
from typing import Any

import gymnasium as gym
import numpy as np
import torch

from curl_rl import suites
from curl_rl.agents import AGENTS
from curl_rl.config import Config
from curl_rl.encoders import make_encoder
from curl_rl.evaluate import FrameStack
from curl_rl.objectives import make_objective
from curl_rl.replay import Replay, choose_storage, predict_bytes
from curl_rl.sampling import UniformSampler
from curl_rl.types import Agent, ConfigError, Shapes
from envs import LocalEnv, RemoteEnv

RunEnv = LocalEnv | RemoteEnv


class Purpose(IntEnum):
    """What a seed is drawn for: no two uses of one run's seed share a random stream."""

    LOOP = 0
    TRAINING = 1
    EVALUATION = 2
    COMMAND = 3


def derive_seed(seed: int, *purpose: int) -> int:
    """Return the 31-bit seed of one purpose, e.g. (training, episode 7), of a run's seed."""
    return int(np.random.SeedSequence([seed, *purpose]).generate_state(1)[0] >> 1)


def choose_device(name: str) -> torch.device:
    """Return the device that a setting names. Raises ConfigError where it is absent."""
    cuda = torch.cuda.is_available()
    if name == "auto":
        return torch.device("cuda" if cuda else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"unknown device {name!r}: choose auto, cpu, cuda or cuda:N") from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ConfigError(f"device={name} is absent ({torch.cuda.device_count()} CUDA devices here): use device=cpu")
    return device


def prepare_torch(threads: int, *, spare_core: bool) -> None:
    """Set the number of threads and let the C library keep freed memory.

    Zero threads means all cores, less one where the environment renders beside the update. Fresh memory costs page
    faults: keeping it takes a fifth off an update on a CPU.
    """
    cores = len(os.sched_getaffinity(0))
    torch.set_num_threads(threads or max(1, cores - spare_core))
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        trim_threshold, top_pad, mmap_max = -1, -2, -4
        for parameter, value in ((mmap_max, 0), (trim_threshold, 2**31 - 1), (top_pad, 64 << 20)):
            libc.mallopt(parameter, value)


def make_environment(config: Config, *, remote: bool) -> RunEnv:
    """Create the configured environment, in a process of its own where `remote`."""
    kwargs: dict[str, Any] = {"obs": config.env.obs, "image_size": config.env.image_size}
    if suites.suite_of(config.task) == "dmc":
        kwargs |= {"camera": config.env.camera, "action_repeat": config.env.action_repeat}
    return RemoteEnv(config.task, kwargs, timeout=config.env.timeout) if remote else LocalEnv(config.task, kwargs)


def _shape(space: gym.Space) -> tuple[int, ...]:
    if space.shape is None:
        raise ConfigError(f"an agent here needs spaces of arrays, not {space}")
    return space.shape


def make_agent(config: Config, env: RunEnv, device: torch.device) -> Agent:
    """Build encoder, objective and agent for an environment's spaces, initialised from the run's seed."""
    channels, *image = _shape(env.observation_space)
    if config.agent.augmentation == "crop":
        image = [config.agent.crop_size] * 2
    if not isinstance(env.action_space, gym.spaces.Box):
        raise ConfigError(f"agent={config.agent.name} needs continuous actions, and {config.task} has others")
    (action_dim,) = _shape(env.action_space)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        shape = (channels * config.env.frame_stack, *image)
        encoder = make_encoder(config.encoder, shape, bf16=config.agent.precision == "bf16")
        shapes = Shapes(encoder.feature_dim, encoder.conv_shape, action_dim)
        return AGENTS[config.agent.name](
            config.agent,
            encoder=encoder,
            objective=make_objective(config.objective, shapes),
            action_dim=action_dim,
            device=device,
            seed=derive_seed(config.seed, Purpose.LOOP),
        )


def make_replay(config: Config, env: RunEnv, device: torch.device) -> Replay:
    """Allocate the replay, its predicted size printed first. Raises ConfigError where it does not fit."""
    frames, actions = env.observation_space, env.action_space
    layout: dict[str, Any] = {
        "capacity": suites.replay_slots(config.task, config.replay.capacity, config.env.action_repeat),
        "obs_shape": frames.shape,
        "obs_dtype": torch.uint8 if frames.dtype == np.uint8 else torch.float32,
        "action_shape": actions.shape,
        "action_dtype": torch.float32,
    }
    needed = predict_bytes(sampler=UniformSampler, **layout)
    storage = choose_storage(config.replay.device, device, needed)
    print(f"replay: {layout['capacity']:,} frames, {needed / 2**30:.2f} GiB on {storage}", file=sys.stderr)
    return Replay(
        **layout,
        stack=config.env.frame_stack,
        padding=suites.SUITES[suites.suite_of(config.task)].padding,
        n_step=config.replay.n_step,
        discount=config.agent.discount,
        device=device,
        storage=storage,
        sampler=UniformSampler(layout["capacity"]),
    )


def make_stack(config: Config) -> FrameStack:
    """Return the stack through which the agent sees single frames."""
    return FrameStack(config.env.frame_stack, suites.SUITES[suites.suite_of(config.task)].padding)


def evaluation_workers(config: Config, episodes: int) -> int:
    """Return how many environments evaluate at once; zero in the configuration means one a core."""
    return min(episodes, config.evaluation.workers or len(os.sched_getaffinity(0)))
