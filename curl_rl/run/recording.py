"""Records episodes with all that the environment tells, of random play or of a run's agent: a file each, or one."""

import dataclasses
import json
import os
import sys
import zlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any, NamedTuple

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
from curl_rl.run.rollout import Lane, Step
from curl_rl.run.seeds import Purpose, derive_seed
from curl_rl.run.seen import FrameStack
from curl_rl.run.stored import env_settings, make_protocol
from curl_rl.types import Acting, Clock, ConfigError, Environment

FILE = "recording.json"  # what a folder of recordings is of


class Recorder(Lane):
    """A lane whose episodes become files, each when it is over. Args: put, takes an episode's index and arrays."""

    def __init__(self, env: Environment, stack: FrameStack, put: Callable[[int, Mapping[str, np.ndarray]], None]):
        super().__init__(env, stack)
        self._put, self._frames, self._steps, self._infos = put, list[np.ndarray](), list[Step](), list[Any]()

    def reset(self, seed: int, index: int = 0) -> tuple[np.ndarray, dict[str, Any]]:
        frame, info = super().reset(seed, index)
        self._frames, self._steps, self._infos = [frame], [], [info]
        return frame, info

    def receive(self) -> Step:
        step = super().receive()
        self._frames.append(step.frame)
        self._steps.append(step._replace(frame=np.empty(0), info={}))
        self._infos.append(step.info)
        if step.over:
            self._put(self.index, self._arrays())
        return step

    def _arrays(self) -> dict[str, np.ndarray]:
        """Return the arrays that a recording holds, a row for each frame but the last where a step follows."""
        arrays = {"frames": np.stack(self._frames), "actions": np.array(self.actions)}
        arrays["rewards"] = np.array([step.reward for step in self._steps], np.float32)
        arrays["terminated"] = np.array([False, *(step.terminated for step in self._steps)])
        if "life_lost" in self._infos[-1]:
            arrays["life_lost"] = np.array([info.get("life_lost", False) for info in self._infos])
        if "labels" in self._infos[0]:
            arrays["labels"] = np.stack([info["labels"] for info in self._infos])
        if "state" in self._infos[0]:
            arrays["states"] = np.array([[*info["state"].values()] for info in self._infos], np.float32)
            arrays["state_names"] = np.array(list(self._infos[0]["state"]))
        return arrays


def joined(episodes: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Return the arrays of one recording of several episodes, a row for each frame in all of them."""
    counts = [len(each["frames"]) for each in episodes]
    arrays = {name: each for name, each in episodes[0].items() if name == "state_names"}
    for name in [name for name in episodes[0] if name not in arrays]:
        rows = list[np.ndarray]()
        for each, count in zip(episodes, counts, strict=True):
            part = each[name]
            blank = np.zeros((count - len(part), *part.shape[1:]), part.dtype)  # nothing leads out of the last frame
            rows += [part, blank] if len(blank) else [part]
        arrays[name] = np.concatenate(rows)
    arrays["ends"] = np.zeros(sum(counts), bool)
    arrays["ends"][np.cumsum(counts) - 1] = True
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

    Where `out` ends in .npz all go into that one file, which is written whole at the end.

    Args:
        source: a run's directory, whose newest checkpoint plays, or a configuration for random play.
        epsilon: share of random actions that a run's agent is given.
        workers: environments at once; 0: one a core. They change nothing in what is recorded, but for the last bits of
            what an agent computes for several at once.

    Each episode is a function of its number and the seed. Raises ConfigError for a run of states, and where `out`
    holds recordings of another kind or, as a file, is there.
    """
    config, state = load_played(source) if isinstance(source, Path) else (source, None)
    if config.env.obs == "state":
        raise ConfigError(f"{config.task} with env.obs={config.env.obs} has no images to record: set env.obs=pixels")
    play = _Play(config, state, seed, epsilon if state else 1.0, workers, device)
    if out.suffix == ".npz":
        return _record_file(play, out, episodes)
    check_folder(out)
    with alone(out / ".lock", f"another process records in {out}: wait for it or give another --out"):
        _check_kind(out, _told(config, state, seed=seed, epsilon=play.epsilon))
        todo = [index for index in range(episodes) if not _path(out, index).is_file()]
        if not todo:
            print(f"{out} has its {episodes:,} episodes", file=sys.stderr)
            return 0
        return play(todo, episodes, lambda index, arrays: _write(_path(out, index), arrays), "the same command goes on")


def _record_file(play: "_Play", out: Path, count: int) -> int:
    if os.path.lexists(out):
        raise ConfigError(f"{out} is there already: move it away, or give another --out")
    check_folder(out.parent)
    found: dict[int, Mapping[str, np.ndarray]] = {}
    status = play(range(count), count, found.__setitem__, f"{out} is written at the end alone")
    if status == 0:
        _write(out, joined([found[index] for index in range(count)]))
    return status


def _write(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    with replacing(path) as (part,), part.open("wb") as file:
        np.savez_compressed(file, **arrays)  # pyright: ignore[reportArgumentType]


class _Play(NamedTuple):
    """How episodes are played."""

    config: Config
    state: Mapping[str, Any] | None
    seed: int
    epsilon: float
    workers: int
    device: str

    def __call__(
        self, todo: Sequence[int], count: int, put: Callable[[int, Mapping[str, np.ndarray]], None], after: str
    ) -> int:
        """Play the episodes of these numbers, of so many in all; return the exit status.

        Args: put, takes the number and arrays of each; after, what is said beside where a signal stops it.
        """
        seeds = [derive_seed(self.seed, Purpose.RECORDING, index) for index in todo]
        stop, done = StopRequest("stopping; once more stops at once"), count - len(todo)
        with ExitStack() as cleanup:
            progress = cleanup.enter_context(closing(Progress(count, initial=done, unit="episode")))

            def take(index: int, arrays: Mapping[str, np.ndarray]) -> None:
                nonlocal done
                put(todo[index], arrays)
                done += 1
                progress.update(done)

            worlds = _make_worlds(self.config, min(self.workers or usable_cores(), len(todo)), cleanup)
            agent = _make_player(self.config, self.state, worlds[0], self.device)
            lanes = [Recorder(world, make_stack(self.config), take) for world in worlds]
            cleanup.enter_context(stop.listening())
            try:
                evaluate(agent, lanes, seeds, epsilon=self.epsilon, interrupted=stop)
            except Interrupted:
                progress.note(f"stopped after {done - count + len(todo):,} episodes; {after}")
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
