"""Demonstrations: recorded transitions that stand in a run's replay before its first step."""

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np

from curl_rl.config.preloaded import recordings_of
from curl_rl.config.schema import Config
from curl_rl.replay.replay import Replay
from curl_rl.run.assembly import learned_reward
from curl_rl.run.recorded import channels_first, episode_lengths, read_recording
from curl_rl.run.seen import Reward
from curl_rl.types import ConfigError, Environment


def preload(config: Config, env: Environment, replay: Replay) -> dict[str, Any]:
    """Store recorded episodes as a run would have stored them; return what metadata.json says of them.

    An episode ends as `terminated` says and is otherwise truncated, rewards are scaled and clipped as the run's own.
    Raises ConfigError, which names file and run, where they do not fit the run, or the replay cannot hold them.
    """
    path, learned = Path(config.replay.preload), learned_reward(config)
    told, digest = {"path": str(path), "episodes": 0, "transitions": 0}, hashlib.sha256()
    for file in recordings_of(path):
        digest.update(file.read_bytes())
        for episode in _episodes(file, read_recording(file), config, env.action_space):
            if replay.written + len(episode.frames) > replay.capacity:
                raise ConfigError(
                    f"replay.capacity={config.replay.capacity} does not hold the transitions of {path}: leave it out, "
                    "or raise it"
                )
            try:
                _store(episode, replay, learned)
            except ValueError as error:  # another shape, type or size of label maps
                raise ConfigError(f"{file} does not fit {config.task}: {error}; record it with its env") from None
            told["episodes"] += 1
            told["transitions"] += len(episode.frames) - 1
    if not told["transitions"]:
        raise ConfigError(f"replay.preload={path} holds no transition: give episodes of two frames and more")
    return {**told, "sha256": digest.hexdigest()}


class _Episode(NamedTuple):
    """The rows of one episode: frames, what was done and got from each on, and what became of each."""

    frames: np.ndarray
    actions: np.ndarray
    rewards: np.ndarray
    terminated: np.ndarray
    life_lost: np.ndarray
    labels: np.ndarray | None


def _episodes(
    file: Path, arrays: Mapping[str, np.ndarray], config: Config, actions: gym.Space[Any]
) -> Iterator[_Episode]:
    if missing := sorted({"actions", "rewards"} - arrays.keys()):
        raise ConfigError(f"{file} has no {' and no '.join(missing)}, of which {config.task} learns: record them too")
    _check_actions(file, arrays["actions"], config, actions)
    frames, none, start = channels_first(arrays["frames"], file), np.zeros(len(arrays["frames"]), bool), 0
    for length in episode_lengths(arrays):
        rows = slice(start, start + length)
        terminated, life_lost = (arrays.get(name, none)[rows] for name in ("terminated", "life_lost"))
        if terminated[:-1].any():
            place = start + int(np.argmax(terminated))
            raise ConfigError(
                f"{file} has terminated inside an episode, at row {place}: give ends, true at its last row"
            )
        labels = arrays["labels"][rows] if "labels" in arrays else None
        yield _Episode(frames[rows], arrays["actions"][rows], arrays["rewards"][rows], terminated, life_lost, labels)
        start += length


def _check_actions(file: Path, actions: np.ndarray, config: Config, space: gym.Space[Any]) -> None:
    """Refuse actions of another kind than the environment's, or beyond its bounds."""
    if isinstance(space, gym.spaces.Discrete):
        fits = actions.ndim == 1 and actions.dtype.kind in "iu" and bool(((actions >= 0) & (actions < space.n)).all())
    else:
        fits = actions.shape[1:] == space.shape and actions.dtype.kind == "f" and bool((abs(actions) <= 1).all())
    if not fits:
        seen = f"{actions.shape[1:]} {actions.dtype} from {actions.min():g} to {actions.max():g}"
        raise ConfigError(f"{file} has actions {seen}, and {config.task} takes {space}: record it in this task")


def _store(episode: _Episode, replay: Replay, learned: Reward) -> None:
    def labels(step: int) -> np.ndarray | None:
        return None if episode.labels is None else episode.labels[step]

    last = len(episode.frames) - 1
    replay.begin(episode.frames[0], labels=labels(0))
    for step, action in enumerate(episode.actions[:last], start=1):
        reward, terminated = learned(float(episode.rewards[step - 1])), bool(episode.terminated[step])
        ended = terminated, step == last and not terminated
        marks = {"life_lost": bool(episode.life_lost[step]), "labels": labels(step)}
        replay.add(action, reward, *ended, episode.frames[step], **marks)
