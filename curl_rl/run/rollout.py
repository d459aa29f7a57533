"""An environment and its episode in progress: what the agent sees of it, and the way back to it on a resume."""

import sys
from collections.abc import Mapping
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
import torch

from curl_rl.replay.replay import Replay
from curl_rl.run.seeds import Purpose, derive_seed
from curl_rl.run.seen import FrameStack, Reward
from curl_rl.types import Environment


class Step(NamedTuple):
    """What an environment answers to an action."""

    frame: np.ndarray
    reward: float
    terminated: bool
    truncated: bool
    info: dict[str, Any]

    @property
    def over(self) -> bool:
        return self.terminated or self.truncated


class Lane:
    """One environment, the episode that it plays (its index, score and actions), and the frames seen of it."""

    def __init__(self, env: Environment, stack: FrameStack):
        self.env, self.stack = env, stack
        self.index, self.score, self.actions = 0, 0.0, list[Any]()

    def reset(self, seed: int, index: int = 0) -> tuple[np.ndarray, dict[str, Any]]:
        frame, info = self.env.reset(seed)
        self.stack.reset(frame)
        self.index, self.score, self.actions = index, 0.0, []
        return frame, info

    def send(self, action: Any) -> None:
        self.env.send(action)
        self.actions.append(action)

    def receive(self) -> Step:
        step = Step(*self.env.receive())
        self.stack.push(step.frame)
        self.score += step.reward
        return step


class Rollout(Lane):
    """The lane in which a run trains: what it sees goes into the replay, its rewards as they are learned from.

    Each episode has a seed of its own. An environment is exact in its seed and actions, so a checkpoint keeps those and
    not its inner state.
    """

    def __init__(self, env: Environment, stack: FrameStack, replay: Replay, *, seed: int, learned: Reward):
        super().__init__(env, stack)
        self._replay, self._seed, self._learned = replay, seed, learned

    def begin(self, index: int) -> None:
        """Start an episode of the run, the one before it cut off where it was not over."""
        frame, info = self.reset(self._seed_of(index), index)
        self._replay.begin(frame, labels=info.get("labels"))

    def receive(self) -> Step:
        step = super().receive()
        kept = self._learned(step.reward)
        marks = {"life_lost": step.info.get("life_lost", False), "labels": step.info.get("labels")}
        self._replay.add(self.actions[-1], kept, step.terminated, step.truncated, step.frame, **marks)
        return step

    def state_dict(self) -> dict[str, Any]:
        return {
            "index": self.index,
            "score": self.score,
            "actions": torch.from_numpy(np.array(self.actions)),
            "frame": torch.from_numpy(self.stack.frames[-1].copy()),
        }

    def start(self, saved: Mapping[str, Any] | None) -> None:
        """Begin the first episode, or bring the environment back to where a state was taken; the replay is there."""
        if saved is None:
            self.begin(0)
            return
        frame, _ = self.reset(self._seed_of(saved["index"]), saved["index"])
        for action in saved["actions"].numpy():
            self.send(action)
            frame = super().receive().frame
        if self.score != saved["score"] or not np.array_equal(frame, saved["frame"].numpy()):
            print(
                "warning: the environment did not repeat the interrupted episode bit for bit (another renderer or "
                "machine?); training goes on, but not exactly as it would have",
                file=sys.stderr,
            )

    def _seed_of(self, index: int) -> int:
        return derive_seed(self._seed, Purpose.TRAINING, index)


def random_action(space: gym.Space, rng: np.random.Generator) -> Any:
    """Draw a uniformly random action: one of Discrete's as int64, or float32 numbers in [-1, 1]."""
    if isinstance(space, gym.spaces.Discrete):
        return rng.integers(space.n)
    return rng.uniform(-1, 1, space.shape).astype(np.float32)
