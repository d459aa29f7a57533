"""Environments as users write them, in a module that a run's processes import by its name."""

import gymnasium as gym
import numpy as np
from gymnasium import spaces


class World(gym.Env):
    """An environment of given spaces that never ends; its observation counts its steps."""

    observation_space = spaces.Box(0, 255, (64, 96, 3), np.uint8)
    action_space = spaces.Box(-2, 2, (1,), np.float32)

    def __init__(self):
        self.age = 0

    def observe(self):
        return np.full(self.observation_space.shape, min(self.age, 255), self.observation_space.dtype)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.age = 0
        return self.observe(), {}

    def step(self, action):
        assert self.action_space.contains(action)
        self.age += 1
        return self.observe(), self.reward(action), False, False, {}

    def reward(self, action):
        return float(action[0] > 1.2)


class Right(World):
    """The action above 1.2 of -2 to 2 pays 1; an episode has 20 steps."""

    def step(self, action):
        observation, reward, _, _, info = super().step(action)
        return observation, reward, False, self.age >= 20, info


class Second(World):
    """The second of the actions 1, 2 and 3 pays 1; an episode has 20 steps."""

    action_space = spaces.Discrete(3, start=1)

    def reward(self, action):
        return float(action == 2)

    def step(self, action):
        observation, reward, _, _, info = super().step(action)
        return observation, reward, False, self.age >= 20, info


class Drawn(World):
    """Observes a vector and draws a picture."""

    metadata = {"render_modes": ["rgb_array"]}  # noqa: RUF012 (Gymnasium declares it so)
    observation_space = spaces.Box(-1000, 1000, (2,), np.float32)

    def __init__(self, render_mode=None):
        super().__init__()
        self.render_mode = render_mode

    def render(self):
        return np.full((40, 60, 3), self.age, np.uint8)


class Several(World):
    """Observes a picture, a number and a vector."""

    observation_space = spaces.Dict(
        {
            "eye": spaces.Box(0, 255, (8, 8, 3), np.uint8),
            "hand": spaces.Box(-1, 1, (2,), np.float64),
            "n": spaces.Discrete(3),
        }
    )

    def observe(self):
        return {"eye": np.full((8, 8, 3), self.age, np.uint8), "hand": np.array([0.5, -0.5]), "n": 2}


def short():
    """Make a registered environment, whose episodes have 200 steps."""
    return gym.make("Pendulum-v1", disable_env_checker=True)


class Unending(World):
    """Observes sequences of any length."""

    observation_space = spaces.Sequence(spaces.Discrete(2))

    def observe(self):
        return (1,) * self.age


class Strange(World):
    """Observes what only its author knows."""

    observation_space = type("Smell", (spaces.Space,), {"is_np_flattenable": False})()

    def observe(self):
        return "roses"


class Torn(World):
    """Returns four values from a step, as the old gym package did."""

    def step(self, action):
        return super().step(action)[:4]


class Bare(World):
    """Returns an observation alone from a reset, as the old gym package did."""

    def reset(self, *, seed=None, options=None):
        return self.observe()


class Seedless(World):
    """Takes no seed, as the old gym package did."""

    def reset(self):
        return self.observe(), {}


class Trapped(World):
    """Raises an error of its own in the third step."""

    def step(self, action):
        if self.age == 2:
            raise KeyError("door")
        return super().step(action)


class Many(World):
    """Acts by two numbers at once."""

    action_space = spaces.MultiDiscrete([2, 3])


class Broken(World):
    """Cannot be made."""

    def __init__(self):
        raise OSError("no such device")


def no_environment():
    """Make what is no environment."""
    return object()


def second():
    """Make an environment by a function."""
    return Second()
