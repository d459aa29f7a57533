"""An environment of any spaces, in a module that its process imports quickly."""

import gymnasium as gym
import numpy as np
from gymnasium import spaces

FRAMES = spaces.Box(0, 255, (3, 8, 8), np.uint8)
MOVES = spaces.Box(-1, 1, (2,), np.float32)


class Mirror(gym.Env):
    """An environment of given spaces that keeps the actions it gets and never ends."""

    reward = np.float32(0.5)

    def __init__(self, observation_space=FRAMES, action_space=MOVES, observation=None):
        self.observation_space, self.action_space = observation_space, action_space
        self.observation = observation
        self.actions = []

    def observe(self):
        space = self.observation_space
        return np.ones(space.shape, space.dtype) if self.observation is None else self.observation

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self.observe(), {}

    def step(self, action):
        self.actions.append(action)
        assert self.action_space.contains(action)
        return self.observe(), self.reward, np.False_, np.False_, {}


def make_mirror() -> gym.Env:
    return Mirror(spaces.Box(0, 255, (8, 8, 3), np.uint8), spaces.Box(-2, 2, (1,), np.float64))


def make_refused() -> gym.Env:
    return Mirror(spaces.Dict({"image": FRAMES}))
