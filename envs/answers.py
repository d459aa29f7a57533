"""What an environment that nobody here wrote answers and draws: Gymnasium's, or refused in one line."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import gymnasium as gym
import numpy as np

from curl_rl.envs.errors import EnvError
from curl_rl.envs.images import is_image
from curl_rl.envs.spaces import check_reward

OLD = (
    "derive it from gymnasium.Env, whose reset(seed=..., options=...) returns (observation, info) and whose step "
    "returns (observation, reward, terminated, truncated, info); one of the old gym package by shimmy's "
    "GymV21CompatibilityV0"
)


class Answers(gym.Wrapper, gym.utils.RecordConstructorArgs):
    """An environment whose rewards and flags are Python's own, and whose other answers are as Gymnasium asks.

    Raises EnvError for any other answer. What the environment itself raises passes, with a note that names its task.
    """

    def __init__(self, env: gym.Env, name: str):
        gym.utils.RecordConstructorArgs.__init__(self, name=name)
        gym.Wrapper.__init__(self, env)
        self._name = name

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None):
        """Reset; return observation and info."""
        observation, info = self._asked("reset", 2, lambda: self.env.reset(seed=seed, options=options))
        return observation, info

    def step(self, action: Any):
        """Step; return observation, reward, terminated, truncated and info."""
        answer = self._asked("step", 5, lambda: self.env.step(action))
        observation, reward, terminated, truncated, info = answer
        for which, flag in (("terminated", terminated), ("truncated", truncated)):
            if not isinstance(flag, bool | np.bool_):
                raise EnvError(f"the step of {self._name} returned {flag!r} as {which}: give True or False")
        return observation, check_reward(reward), bool(terminated), bool(truncated), info

    def render(self) -> Any:
        """Return what the environment draws."""
        with self._naming("render"):
            return self.env.render()

    def _asked(self, what: str, count: int, ask: Callable[[], Any]) -> Any:
        """Return an answer of so many values, of which the last is a dictionary."""
        with self._naming(what):
            answer = ask()
        if not isinstance(answer, tuple) or len(answer) != count:
            size = f"{len(answer)} values" if isinstance(answer, tuple) else f"a {type(answer).__name__}"
            raise EnvError(f"the {what} of {self._name} returned {size}: {OLD}")
        if not isinstance(answer[-1], dict):
            raise EnvError(
                f"the {what} of {self._name} returned {answer[-1]!r} as info: give a dict, {{}} where nothing is told"
            )
        return answer

    @contextlib.contextmanager
    def _naming(self, what: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            error.add_note(f"raised by the {what} of {self._name}")
            raise


class Rendered(gym.ObservationWrapper, gym.utils.RecordConstructorArgs):
    """Shows what an environment draws, uint8 and of one size, in place of what it observes; EnvError for less."""

    def __init__(self, env: gym.Env, name: str):
        gym.utils.RecordConstructorArgs.__init__(self, name=name)
        gym.ObservationWrapper.__init__(self, env)
        self._name, self._shape = name, None
        env.reset(seed=0)  # before which nothing can be drawn
        self._shape = self.observation(None).shape
        self.observation_space = gym.spaces.Box(0, 255, self._shape, np.uint8)

    def observation(self, observation: Any) -> np.ndarray:
        """Return what is drawn now."""
        try:
            frame = self.env.render()
        except NotImplementedError:
            frame = None  # as Gymnasium's own render raises where a class has none
        if isinstance(frame, np.ndarray) and frame.dtype == np.uint8 and self._fits(frame.shape):
            return frame
        drawn = "nothing" if frame is None else type(frame).__name__
        if isinstance(frame, np.ndarray):
            drawn = f"{frame.shape} {frame.dtype}"
        raise EnvError(
            f"{self._name} drew {drawn}{f' after {self._shape}' if self._shape else ''}: let its render() return "
            "(H, W, 3) uint8 of one size, or set env.obs=pixels or state"
        )

    def _fits(self, shape: tuple[int, ...]) -> bool:
        """Return whether a frame has the first one's shape, and the first one that of an image."""
        return shape == self._shape if self._shape else is_image(gym.spaces.Box(0, 255, shape, np.uint8))
