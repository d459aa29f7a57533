"""Random play recorded with the simulator's state, one file an episode."""

import functools
import math
import multiprocessing
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np

from curl_rl import envs
from curl_rl.config.schema import Config
from curl_rl.config.suites import longest_steps, suite_of
from curl_rl.envs.atari import find_protocol
from curl_rl.run.files import replacing
from curl_rl.run.rollout import FrameStack, Lane, Step, random_action
from curl_rl.run.seeds import Purpose, derive_seed
from curl_rl.run.stored import env_settings
from curl_rl.types import ConfigError

# In the order of the task's own observations; other tasks number theirs.
_STATE_NAMES = {
    "toy/reach": ("point_x", "point_y", "target_x", "target_y"),
    "dmc/cartpole_swingup": ("cart_position", "pole_cos", "pole_sin", "cart_velocity", "pole_velocity"),
    "dmc/cheetah_run": tuple(
        f"{joint}_{kind}"
        for kind in ("position", "velocity")
        for joint in ("root_x", "root_z", "root_pitch", "b_thigh", "b_shin", "b_foot", "f_thigh", "f_shin", "f_foot")
        if (joint, kind) != ("root_x", "position")  # the task leaves it out: it runs away
    ),
}
# Addresses of Anand et al. 2019 (table 7 and their code) that vary; Breakout's score is five times its blocks.
_RAM = {"atari/breakout": {"ball_x": 99, "ball_y": 101, "paddle_x": 72, "blocks_hit": 77}}


class Recording(NamedTuple):
    """One episode of T steps, from the reset's frame to its last."""

    frame: np.ndarray  # (T + 1, C, H, W) uint8
    state: np.ndarray  # (T + 1, Q) float32
    labels: np.ndarray  # (T + 1, s, s) uint8, (0,) where the environment gives none
    action: np.ndarray  # (T, A) float32 or (T,) int64
    reward: np.ndarray  # (T,) float32
    life_lost: np.ndarray  # (T,) bool
    terminated: np.ndarray  # () bool
    names: np.ndarray  # (Q,) str, of the state's quantities

    def cut(self, frames: int) -> "Recording":
        """Return the first `frames` frames, at least 2, truncated where any are left out."""
        if frames >= len(self.frame):
            return self
        steps = {name: getattr(self, name)[: frames - 1] for name in ("action", "reward", "life_lost")}
        images = {name: getattr(self, name)[:frames] for name in ("frame", "state", "labels")}
        return self._replace(**steps, **images, terminated=np.array(False))

    def played(self) -> Any:
        """Return the environment that it was: whatever is sent, it answers what followed."""
        return _Playback(self)


class _Playback:
    def __init__(self, recording: Recording):
        self._recording, self._age = recording, 0

    def reset(self, _: int) -> tuple[np.ndarray, dict[str, Any]]:
        self._age = 0
        return self._recording.frame[0], self._info()

    def send(self, _: Any) -> None:
        self._age += 1

    def receive(self) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        one, step = self._recording, self._age - 1
        last = self._age == len(one.action)
        info = {**self._info(), "life_lost": bool(one.life_lost[step])}
        return one.frame[self._age], float(one.reward[step]), bool(one.terminated) and last, last, info

    def _info(self) -> dict[str, Any]:
        labels = self._recording.labels
        return {"labels": labels[self._age]} if labels.size else {}


class _Twins(gym.Wrapper):
    """An environment of pixels and its twin of states, which the same seed and actions keep alike."""

    def __init__(self, task: str, settings: dict[str, Any]):
        super().__init__(envs.AgentSpaces(envs.make_env(task, **settings, labels=True)))
        self.twin = envs.AgentSpaces(envs.make_env(task, **{**settings, "obs": "state"}))
        size = math.prod(self.twin.observation_space.shape or ())
        self.names = _STATE_NAMES.get(task) or tuple(f"state_{i}" for i in range(size))

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None):
        frame, info = self.env.reset(seed=seed)
        return frame, {**info, "state": self.twin.reset(seed=seed)[0]}

    def step(self, action: Any):
        frame, reward, terminated, truncated, info = self.env.step(action)
        return frame, reward, terminated, truncated, {**info, "state": self.twin.step(action)[0]}


class _Console(gym.Wrapper):
    """An Atari game whose memory can be read, which the C++ environment of the runs hides; frames are the same."""

    def __init__(self, task: str, protocol: Any):
        import ale_py
        from gymnasium.wrappers import AtariPreprocessing

        gym.register_envs(ale_py)
        ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)
        name = "".join(part.capitalize() for part in task.partition("/")[2].split("_"))
        sticky = protocol.sticky
        game = gym.make(f"ALE/{name}-v5", frameskip=1, repeat_action_probability=sticky, max_num_frames_per_episode=0)
        super().__init__(
            AtariPreprocessing(game, noop_max=protocol.noop_max, frame_skip=protocol.action_repeat, screen_size=84)
        )
        self.observation_space = gym.spaces.Box(0, 255, (1, 84, 84), np.uint8)
        self.names, self._addresses = tuple(_RAM[task]), list(_RAM[task].values())
        self._life_loss, self._lives = protocol.life_loss, 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None):
        frame, info = self.env.reset(seed=seed)
        self._lives = info["lives"]
        return frame[None], {"state": self._state(), "life_lost": False}

    def step(self, action: Any):
        frame, reward, terminated, truncated, info = self.env.step(action)
        life_lost = self._life_loss and not terminated and 0 < info["lives"] < self._lives
        self._lives = info["lives"]
        return frame[None], reward, terminated, truncated, {"state": self._state(), "life_lost": life_lost}

    def _state(self) -> np.ndarray:
        memory: Any = self.env.unwrapped
        return memory.ale.getRAM()[self._addresses].astype(np.float32)


def check_task(task: str) -> None:
    """Raise ConfigError for a task whose state cannot be read."""
    if suite_of(task) == "atari" and task not in _RAM:
        raise ConfigError(f"{task} has no annotated memory; of Atari there are {', '.join(_RAM)}")


@functools.lru_cache(maxsize=1)
def _make_world(config: Config) -> tuple[envs.LocalEnv, tuple[str, ...]]:
    """Return an environment that tells its state, and what it calls the state's quantities."""
    if suite_of(config.task) == "atari":
        world = _Console(config.task, find_protocol(config.env.protocol))
    else:
        world = _Twins(config.task, env_settings(config))
    return envs.LocalEnv(world, longest=longest_steps(config.task, config.env.action_repeat)), world.names


def record(config: Config, seed: int, index: int) -> Recording:
    """Play episode `index` of a seed with uniformly random actions."""
    (world, names), rng = _make_world(config), np.random.default_rng([seed, index])
    lane, steps = Lane(world, FrameStack(1, "repeat")), list[Step]()
    frame, info = lane.reset(derive_seed(seed, Purpose.TRAINING, index))
    while not (steps and steps[-1].over):
        lane.send(random_action(world.action_space, rng))
        steps.append(lane.receive())
    infos = [info, *(step.info for step in steps)]
    labels = [info["labels"] for info in infos if "labels" in info]
    return Recording(
        frame=np.stack([frame, *(step.frame for step in steps)]),
        state=np.stack([info["state"] for info in infos]),
        labels=np.stack(labels) if labels else np.zeros(0, np.uint8),
        action=np.array(lane.actions),
        reward=np.array([step.reward for step in steps], np.float32),
        life_lost=np.array([info.get("life_lost", False) for info in infos[1:]]),
        terminated=np.array(steps[-1].terminated),
        names=np.array(names),
    )


def _record_file(config: Config, seed: int, index: int, path: Path) -> int:
    """Record an episode into a file, unless it is there; return its number of frames."""
    if not path.is_file():
        with replacing(path) as (part,), part.open("wb") as file:
            np.savez_compressed(file, **record(config, seed, index)._asdict())
    with np.load(path) as saved:
        return len(saved["state"])


def collect(config: Config, folder: Path, frames: int, *, workers: int = 1, seed: int = 0) -> None:
    """Record episodes into a folder until they hold `frames` frames; goes on where an earlier call was stopped."""
    folder.mkdir(parents=True, exist_ok=True)
    held = index = 0
    # Spawned: a forked process would inherit an OpenGL context that it cannot use.
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        while held < frames:
            jobs = [pool.submit(_record_file, config, seed, i, _path(folder, i)) for i in range(index, index + workers)]
            before, held = held, held + sum(job.result() for job in jobs)
            index += workers
            if before * 10 // frames < held * 10 // frames:
                print(f"{folder}: {min(held, frames):,} of {frames:,} frames", flush=True)


def read(folder: Path, frames: int) -> Iterator[Recording]:
    """Yield the recorded episodes, in order, of `frames` frames; the last is cut to fit.

    Raises FileNotFoundError where there are fewer.
    """
    index = 0
    while frames > 1:
        if not (path := _path(folder, index)).is_file():
            raise FileNotFoundError(f"{folder} lacks {frames:,} frames: record them with `compare.py collect`")
        with np.load(path) as saved:
            recording = Recording(**saved).cut(frames)
        yield recording
        frames -= len(recording.frame)
        index += 1


def _path(folder: Path, index: int) -> Path:
    return folder / f"episode-{index:05d}.npz"
