"""What an agent here sees and does, whatever spaces an environment has of its own: all are honoured or refused."""

import math
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np

from curl_rl.envs.errors import EnvError

CUT = "cut"  # in `info`: the steps after which an episode without an end was truncated
CHANNELS = (1, 3, 4)  # grey, colour, and colour with one more

Convert = Callable[[Any], Any]


class AgentSpaces(gym.Wrapper, gym.utils.RecordConstructorArgs):
    """An environment whose frames are (C, H, W) uint8 or its states (D,) float32, and whose actions are alike for all.

    Continuous actions are float32 in [-1, 1], one dimension each, scaled to the environment's own bounds; discrete ones
    count from 0. Frames (H, W) and (H, W, C) are turned round, and other floating-point vectors become float32. An
    episode of `longest` steps is truncated, which `info[CUT]` tells. Raises EnvError for any other space, for an
    observation that is not of the space that was declared, and for states and rewards that are not finite.
    """

    def __init__(self, env: gym.Env, longest: int | None = None):
        gym.utils.RecordConstructorArgs.__init__(self, longest=longest)
        gym.Wrapper.__init__(self, env)
        self._declared: Any = env.observation_space
        self.observation_space, self._see = _seen(env.observation_space)
        self.action_space, self._act = check_actions(env.action_space)
        self._longest, self._age = longest, 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None):
        observation, info = self.env.reset(seed=seed, options=options)
        self._age = 0
        return self._observe(observation), info

    def step(self, action: Any):
        observation, reward, terminated, truncated, info = self.env.step(self._act(action))
        self._age += 1
        terminated, truncated = bool(terminated), bool(truncated)
        if self._age == self._longest and not (terminated or truncated):
            truncated, info = True, {**info, CUT: self._age}
        return self._observe(observation), check_reward(reward), terminated, truncated, info

    def _observe(self, observation: Any) -> np.ndarray:
        return self._see(check_declared(observation, self._declared))


def check_declared(observation: Any, space: Any) -> np.ndarray:
    """Return an observation as an array. Raises EnvError where it is not of the space that was declared."""
    array = np.asarray(observation)
    if array.shape != space.shape or array.dtype != space.dtype:
        raise EnvError(
            f"the environment returned an observation {array.shape} {array.dtype} and declares {space.shape} "
            f"{space.dtype}: let its observation_space say what it returns"
        )
    return array


def check_reward(reward: Any) -> float:
    """Return a reward, or an array of one, as Python's own number. Raises EnvError where it is no finite one.

    A NumPy scalar's precision would go into their sum, and no checkpoint holds one.
    """
    array = np.asarray(reward)
    number = float(array.item()) if array.size == 1 and array.dtype.kind in "biuf" else math.nan
    if not math.isfinite(number):
        given = repr(array.item()) if array.size == 1 else f"of shape {array.shape}"
        raise EnvError(
            f"the environment gave the reward {given}: give one finite number, for only those can be learned from and "
            "summed"
        )
    return number


def _seen(space: gym.Space) -> tuple[gym.spaces.Box, Convert]:
    """Return what the agent sees of a space, and what makes it of an observation: a copy, in order in memory."""
    if isinstance(space, gym.spaces.Box):
        bright = space.dtype == np.uint8 and (space.low == 0).all() and (space.high == 255).all()
        if bright and (turn := _upright(space.shape)):
            shape = turn(np.empty(space.shape, np.uint8)).shape
            return gym.spaces.Box(0, 255, shape, np.uint8), lambda frame: np.array(turn(frame), order="C")
        if np.issubdtype(space.dtype, np.floating) and len(space.shape) == 1 and space.shape[0]:
            with np.errstate(over="ignore"):  # a bound of float64 may be infinite in float32
                low, high = space.low.astype(np.float32), space.high.astype(np.float32)
            return gym.spaces.Box(low, high, dtype=np.float32), _state
    raise EnvError(
        "an agent here sees square frames uint8 from 0 to 255 of 1, 3 or 4 channels, or vectors of floats, and the "
        f"environment's observations are {space}: wrap it, e.g. by gymnasium.wrappers.ResizeObservation or "
        "FlattenObservation"
    )


def _state(observation: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):
        state = np.array(observation, np.float32)
    if not np.isfinite(state).all():
        raise EnvError(f"the environment's state {observation} is not finite in float32: no agent can learn from it")
    return state


def _upright(shape: tuple[int, ...]) -> Convert | None:
    """Return what makes (C, H, W) of frames of a shape, None where they cannot be square frames."""
    if len(shape) == 2 and shape[0] == shape[1] > 0:
        return lambda frame: frame[None]
    if len(shape) == 3 and shape[0] in CHANNELS and shape[1] == shape[2] > 0:
        return lambda frame: frame
    if len(shape) == 3 and shape[2] in CHANNELS and shape[0] == shape[1] > 0:
        return lambda frame: frame.transpose(2, 0, 1)
    return None


def check_actions(space: gym.Space) -> tuple[gym.Space, Convert]:
    """Return the actions that an agent has, and what makes the environment's own of one; EnvError for other spaces."""
    if isinstance(space, gym.spaces.Discrete):
        if space.n == 1:
            raise EnvError(f"the environment's actions are {space}, and one alone leaves nothing to choose: give two")
        start, kind = int(space.start), space.dtype.type
        return gym.spaces.Discrete(int(space.n)), lambda action: kind(start + int(action))
    if isinstance(space, gym.spaces.Box) and np.issubdtype(space.dtype, np.floating) and space.low.size:
        low, high = space.low.astype(np.float64), space.high.astype(np.float64)
        if np.isfinite(low).all() and np.isfinite(high).all() and (low < high).all():
            return gym.spaces.Box(-1, 1, (low.size,), np.float32), _scaling(space, low, high)
    raise EnvError(
        f"an agent here acts by one Discrete number, or by floats each between two finite bounds, and the "
        f"environment's actions are {space}: wrap it, e.g. by gymnasium.wrappers.TransformAction"
    )


def _scaling(space: gym.spaces.Box, low: np.ndarray, high: np.ndarray) -> Convert:
    """Return the affine map from [-1, 1] to a space's bounds; what is the agent's own already stays bit for bit."""
    if len(space.shape) == 1 and space.dtype == np.float32 and (low == -1).all() and (high == 1).all():
        return lambda action: action

    def scale(action: Any) -> np.ndarray:
        share = (np.clip(np.asarray(action, np.float64), -1, 1).reshape(space.shape) + 1) / 2
        return np.asarray(np.clip(low * (1 - share) + high * share, low, high), space.dtype)  # both bounds met exactly

    return scale
