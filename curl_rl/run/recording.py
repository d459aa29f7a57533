"""Records episodes with all that the environment tells, of random play or of a run's agent: one file each."""

import dataclasses
import json
import sys
import zlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import numpy as np

from curl_rl import envs
from curl_rl.config import suites
from curl_rl.config.difference import check_same, flat
from curl_rl.config.schema import Config
from curl_rl.run.assembly import make_agent, make_environment, make_stack
from curl_rl.run.device import choose_device, prepare_torch
from curl_rl.run.evaluate import Interrupted, evaluate
from curl_rl.run.files import check_folder, replacing, write_whole
from curl_rl.run.interrupts import StopRequest
from curl_rl.run.locks import alone
from curl_rl.run.machine import usable_cores
from curl_rl.run.playing import load_played
from curl_rl.run.progress import Progress
from curl_rl.run.rollout import FrameStack, Lane, Step
from curl_rl.run.seeds import Purpose, derive_seed
from curl_rl.run.stored import env_settings, make_protocol
from curl_rl.types import Acting, Clock, ConfigError, Environment

FILE = "recording.json"  # what a folder of recordings is of


class Recorder(Lane):
    """A lane whose episodes become files, each when it is over. Args: put, takes an episode's index and arrays."""

    def __init__(self, env: Environment, stack: FrameStack, put: Callable[[int, Mapping[str, np.ndarray]], None]):
        super().__init__(env, stack)
        self._put, self._frames, self._rewards, self._infos = put, list[np.ndarray](), list[float](), list[Any]()

    def reset(self, seed: int, index: int = 0) -> tuple[np.ndarray, dict[str, Any]]:
        frame, info = super().reset(seed, index)
        self._frames, self._rewards, self._infos = [frame], [], [info]
        return frame, info

    def receive(self) -> Step:
        step = super().receive()
        self._frames.append(step.frame)
        self._rewards.append(step.reward)
        self._infos.append(step.info)
        if step.over:
            self._put(self.index, self._arrays())
        return step

    def _arrays(self) -> dict[str, np.ndarray]:
        """Return the arrays that a recording holds, a row for each frame but the last where a step follows."""
        arrays = {"frames": np.stack(self._frames), "actions": np.array(self.actions)}
        arrays["rewards"] = np.array(self._rewards, np.float32)
        if "labels" in self._infos[0]:
            arrays["labels"] = np.stack([info["labels"] for info in self._infos])
        if "state" in self._infos[0]:
            arrays["states"] = np.array([[*info["state"].values()] for info in self._infos], np.float32)
            arrays["state_names"] = np.array(list(self._infos[0]["state"]))
        return arrays


class _Nobody:
    """What acts where every action is random."""

    def act(self, obs: np.ndarray, *, explore: bool) -> np.ndarray:
        return np.zeros(len(obs))


def record(
    source: Path | Config,
    out: Path,
    *,
    episodes: int,
    seed: int = 0,
    epsilon: float = 0.1,
    workers: int = 0,
    device: str = "auto",
) -> int:
    """Record episodes into a folder that `frames_of` reads, or go on where it stopped; return the exit status.

    Args:
        source: a run's directory, whose newest checkpoint plays, or a configuration for random play.
        epsilon: share of random actions that a run's agent is given.
        workers: environments at once; 0: one a core. They change nothing in what is recorded, but for the last bits of
            what an agent computes for several at once.

    Each episode is a function of its number and the seed. Raises ConfigError for a run of states, and where `out`
    holds recordings of another kind.
    """
    config, state = load_played(source) if isinstance(source, Path) else (source, None)
    if config.env.obs == "state":
        raise ConfigError(f"{config.task} with env.obs={config.env.obs} has no images to record: set env.obs=pixels")
    epsilon = epsilon if state else 1.0
    check_folder(out)
    with alone(out / ".lock", f"another process records in {out}: wait for it or give another --out"):
        _check_kind(out, _told(config, state, seed=seed, epsilon=epsilon))
        todo = [index for index in range(episodes) if not _path(out, index).is_file()]
        if not todo:
            print(f"{out} has its {episodes:,} episodes", file=sys.stderr)
            return 0
        seeds = [derive_seed(seed, Purpose.RECORDING, index) for index in todo]
        stop = StopRequest("stopping; once more stops at once")
        with ExitStack() as cleanup:
            progress = cleanup.enter_context(closing(Progress(episodes, initial=episodes - len(todo), unit="episode")))
            worlds = _make_worlds(config, min(workers or usable_cores(), len(todo)), cleanup)
            agent = _make_player(config, state, worlds[0], device)
            put = _Writer(out, todo, progress, episodes)
            lanes = [Recorder(world, make_stack(config), put) for world in worlds]
            cleanup.enter_context(stop.listening())
            try:
                evaluate(agent, lanes, seeds, epsilon=epsilon, interrupted=stop)
            except Interrupted:
                progress.note(f"stopped after {put.done:,} episodes; the same command goes on")
                return 128 + stop.signal
    return 0


def _make_player(config: Config, state: Mapping[str, Any] | None, world: Environment, device: str) -> Acting:
    """Return what acts: a run's agent, or nobody in random play."""
    if state is None:
        return _Nobody()
    prepare_torch(config.threads)
    agent = make_agent(config, world, choose_device(device))
    agent.load_state_dict(state["agent"])
    return agent


class _Writer:
    """Writes the files of the episodes of these numbers, and tells how many of all are there."""

    def __init__(self, out: Path, numbers: Sequence[int], progress: Progress, count: int):
        self._out, self._numbers, self._progress, self._before = out, numbers, progress, count - len(numbers)
        self.done = 0

    def __call__(self, index: int, arrays: Mapping[str, np.ndarray]) -> None:
        with replacing(_path(self._out, self._numbers[index])) as (part,), part.open("wb") as file:
            np.savez_compressed(file, **arrays)  # pyright: ignore[reportArgumentType]
        self.done += 1
        self._progress.update(self._before + self.done)


def _make_worlds(config: Config, count: int, cleanup: ExitStack) -> list[Environment]:
    """Create environments that tell labels and states where they can, in processes where there are several."""
    extra = {"labels": True} if suites.SUITES[suites.suite_of(config.task)].labels == "segmentation" else {}
    if envs.tells_state(config.task):
        extra["state"] = True
    else:
        print(f"{config.task} tells no states; frames, actions and rewards are recorded", file=sys.stderr)
    config = dataclasses.replace(config, env=dataclasses.replace(config.env, overlap=count > 1))
    worlds = list[Environment]()
    for _ in range(count):
        worlds.append(world := make_environment(config, extra=extra))
        cleanup.callback(world.close)
    return worlds


def _told(config: Config, state: Mapping[str, Any] | None, **played: Any) -> dict[str, Any]:
    """Return all that decides what is recorded."""
    agent = None
    if state:
        settings = json.dumps(state["config"], sort_keys=True, default=str)
        agent = {"objective": config.objective.name, "settings": f"{zlib.crc32(settings.encode()):08x}"}
        agent |= {"seed": config.seed, **Clock(*state["clock"])._asdict()}
    settings = {**env_settings(config), "protocol": make_protocol(config)["hash"]}
    return {"task": config.task, "env": settings, "agent": agent, **played}


def _check_kind(out: Path, told: Mapping[str, Any]) -> None:
    """Write what a folder's recordings are of, or refuse those of another kind."""
    path = out / FILE
    if not any(each.suffix == ".npz" for each in out.iterdir()):
        write_whole({path: json.dumps(told, indent=2) + "\n"})
        return
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise ConfigError(f"{out} holds recordings of which no {FILE} tells: give another --out") from None
    check_same(flat(stored), flat(told), f"{out} holds recordings", "give another --out")


def _path(out: Path, index: int) -> Path:
    return out / f"episode-{index:05d}.npz"
