"""Plays episodes with an agent that does not explore and does not learn."""

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import gymnasium as gym
import numpy as np

from curl_rl.types import Agent, Episode


class Environment(Protocol):
    """An environment whose step is sent and received apart, so that several can run at once."""

    observation_space: gym.Space
    action_space: gym.Space

    def reset(self, seed: int) -> tuple[np.ndarray, dict[str, Any]]: ...

    def send(self, action: np.ndarray) -> None: ...

    def receive(self) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]: ...

    def render(self) -> np.ndarray: ...

    def close(self) -> None: ...


def random_action(space: gym.Space, rng: np.random.Generator) -> Any:
    """Draw a uniformly random action: one of Discrete's as int64, or float32 numbers in [-1, 1]."""
    if isinstance(space, gym.spaces.Discrete):
        return rng.integers(space.n)
    return rng.uniform(-1, 1, space.shape).astype(np.float32)


class Interrupted(Exception):  # noqa: N818 - a request, not an error
    """The caller asked for a stop before the last episode ended."""


class FrameStack:
    """The last `size` frames as one observation; before an episode's start its first frame repeats, or blanks stand."""

    def __init__(self, size: int, padding: str):
        self.padding = padding
        self.frames: deque[np.ndarray] = deque(maxlen=size)

    def reset(self, frame: np.ndarray) -> None:
        blank = frame if self.padding == "repeat" else np.zeros_like(frame)
        self.frames.extend([blank] * (self.frames.maxlen or 1))
        self.push(frame)

    def push(self, frame: np.ndarray) -> None:
        self.frames.append(frame)

    def observation(self) -> np.ndarray:
        return np.concatenate(self.frames)


class Camera(Protocol):
    """What takes the pictures of an episode."""

    def add(self, picture: Callable[[], np.ndarray], /) -> None:
        """Take the next step's picture (H, W, 3) uint8, or do not ask for it."""
        ...


class Film:
    """Pictures (H, W, 3) of an episode: all, or between half of `limit` and `limit` of them, `stride` steps apart."""

    def __init__(self, limit: int | None = None):
        self.frames: list[np.ndarray] = []
        self.stride = 1
        self._limit, self._seen = limit, 0

    def add(self, picture: Callable[[], np.ndarray]) -> None:
        """Take the next step's picture, if it is one to keep."""
        if self._seen % self.stride == 0:
            self.frames.append(picture())
            if len(self.frames) == self._limit:
                self.frames, self.stride = self.frames[::2], 2 * self.stride
        self._seen += 1


class _Lane:
    """One environment and the episode that it plays."""

    def __init__(self, env: Environment, stack: FrameStack):
        self.env, self.stack = env, stack

    def start(self, index: int, seed: int) -> None:
        self.index, self.score, self.length = index, 0.0, 0
        self.rng = np.random.default_rng(seed)
        self.stack.reset(self.env.reset(seed)[0])

    def send(self, action: Any, epsilon: float) -> None:
        if epsilon and self.rng.random() < epsilon:
            action = random_action(self.env.action_space, self.rng)
        self.env.send(action)

    def receive(self) -> bool:
        frame, reward, terminated, truncated, _ = self.env.receive()
        self.score += reward
        self.length += 1
        self.stack.push(frame)
        return terminated or truncated

    def picture(self) -> np.ndarray:
        frame = self.stack.frames[-1]
        if frame.ndim != 3:
            return self.env.render()
        return np.broadcast_to(frame.transpose(1, 2, 0), (*frame.shape[1:], 3))


def evaluate(
    agent: Agent,
    envs: Sequence[Environment],
    seeds: Sequence[int],
    make_stack: Callable[[], FrameStack],
    *,
    epsilon: float = 0.0,
    film: Camera | None = None,
    interrupted: Callable[[], bool] = lambda: False,
) -> list[Episode]:
    """Play one episode a seed, as many at once as there are environments.

    The agent acts for all running episodes in one batch, but for a share `epsilon` of random actions, drawn from each
    episode's own seed: a result does not depend on how many run at once. `film` receives the first episode, from its
    first observation to the last that was acted upon.
    Returns the episodes in the order of their seeds; raises Interrupted once `interrupted()` says so.
    """
    waiting = deque(enumerate(seeds))
    lanes = [_Lane(env, make_stack()) for env in envs[: len(seeds)]]
    for lane in lanes:
        lane.start(*waiting.popleft())
    episodes: list[Episode] = []
    while lanes:
        if interrupted():
            raise Interrupted
        if film is not None and lanes[0].index == 0:
            film.add(lanes[0].picture)
        actions = agent.act(np.stack([lane.stack.observation() for lane in lanes]), explore=False)
        for lane, action in zip(lanes, actions, strict=True):
            lane.send(action, epsilon)
        # Every step is received before any environment is reset: none is left with an answer unread.
        for lane in [lane for lane in lanes if lane.receive()]:
            episodes.append(Episode(lane.index, lane.score, lane.length))
            if waiting:
                lane.start(*waiting.popleft())
            else:
                lanes.remove(lane)
    return sorted(episodes)
