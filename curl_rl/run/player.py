"""A trained agent and its environment, as whoever uses Gymnasium holds them."""

from typing import Any, cast

import gymnasium as gym
import numpy as np

from curl_rl import envs
from curl_rl.config import suites
from curl_rl.config.schema import Config
from curl_rl.nn.encoders import Encoder
from curl_rl.run.assembly import make_stack
from curl_rl.run.seen import FrameStack
from curl_rl.run.stored import env_settings
from curl_rl.types import Agent, ConfigError


class Player:
    """Acts on observations as the environment of its run gives them, one or a batch."""

    def __init__(self, agent: Agent, config: Config):
        self.agent = agent
        wide, size = cast(Encoder, agent.learner.encoder).obs_shape[0], config.env.image_size
        self._pixels = config.env.obs != "state"
        self._shape = (wide, size, size) if self._pixels else (wide,)  # before augmentations crop it

    def act(self, obs: np.ndarray, *, explore: bool = False) -> Any:
        """Return an action, or one for each of a batch.

        Args: obs, stacked frames ([n,] k*C, H, W) uint8 or states ([n,] D), as `TrainedRun.make_env` gives them.

        Raises ConfigError for what are no such observations.
        """
        obs = self._checked(obs)
        if obs.ndim == len(self._shape):
            return self.agent.act(obs[None], explore=explore)[0]
        return self.agent.act(obs, explore=explore)

    def _checked(self, given: Any) -> np.ndarray:
        try:
            obs = np.asarray(given)
            got = f"{obs.shape} {obs.dtype}"
        except ValueError:  # such as all that reset returns
            obs, got = np.empty(0), f"a {type(given).__name__} of several things"
        known = obs.dtype == np.uint8 if self._pixels else obs.dtype.kind in "fiu"
        if not known or obs.shape[-len(self._shape) :] != self._shape or obs.ndim > len(self._shape) + 1:
            wanted = f"stacked frames {self._shape} uint8" if self._pixels else f"states {self._shape}"
            raise ConfigError(
                f"this agent sees {wanted} or a batch of them, got {got}: give the observation that reset and step of "
                "run.make_env() return"
            )
        return obs


class Stacked(gym.Wrapper):
    """An environment whose observations are stacks of its last frames."""

    def __init__(self, env: gym.Env, stack: FrameStack):
        super().__init__(env)
        self._stack, seen = stack, env.observation_space
        assert isinstance(seen, gym.spaces.Box)
        low, high = (np.concatenate([bound] * (stack.frames.maxlen or 1)) for bound in (seen.low, seen.high))
        self.observation_space = gym.spaces.Box(low, high, dtype=seen.dtype.type)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None):
        """Begin an episode; its first frame repeats, or blanks stand before it, as in training."""
        frame, info = self.env.reset(seed=seed, options=options)
        self._stack.reset(frame)
        return self._stack.observation(), info

    def step(self, action: Any):
        """Step with an action of the agent's: [-1, 1] is scaled to the environment's own bounds."""
        frame, reward, terminated, truncated, info = self.env.step(action)
        self._stack.push(frame)
        return self._stack.observation(), reward, terminated, truncated, info


def make_stacked(config: Config) -> gym.Env:
    """Return the environment of a run in this process, which gives what its agent sees and takes what it does."""
    longest = suites.longest_steps(config.task, config.env.action_repeat)
    env = envs.AgentSpaces(envs.make_env(config.task, **env_settings(config)), longest)
    return Stacked(env, make_stack(config))
