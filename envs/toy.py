"""Small tasks without a simulator, which an agent learns from pixels in seconds: for tests and first trials."""

import copy
from typing import Any

import gymnasium as gym
import numpy as np

from curl_rl.envs.errors import EnvError
from curl_rl.envs.labels import check_labels, label_side

_POINT, _TARGET = (255, 64, 64), (64, 255, 64)
_QUANTITIES = ("point_x", "point_y", "target_x", "target_y")


class ToyEnv(gym.Env[np.ndarray, Any]):
    """A red point and a green target in a square.

    Observations are frames (3, H, W) uint8 or, with `obs="state"`, both positions as float32 (4,) in [-1, 1]. Every
    number is plain float64 arithmetic, so a seed gives the same episode on every machine. With `labels`,
    `info["labels"]` (s, s) uint8 with s = label_side(image_size) says what covers at least half of each cell of the
    frame: 0 nothing, 1 the target, 2 the point. With `state`, `info["state"]` names both positions' numbers.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 5}  # noqa: RUF012 (Gymnasium declares it so)
    length = 20  # steps after which an episode is truncated
    actions: gym.Space[Any]

    def __init__(
        self,
        *,
        obs: str = "pixels",
        image_size: int = 24,
        render_mode: str | None = "rgb_array",
        labels: bool = False,
        state: bool = False,
    ):
        if obs not in ("pixels", "state"):
            raise EnvError(f"obs must be 'pixels' or 'state', not {obs!r}")
        if image_size < 8:
            raise EnvError(f"image_size must be at least 8, not {image_size}")
        check_labels(labels, obs, image_size)
        self.render_mode = render_mode
        self._obs, self._size, self._labels, self._tells = obs, image_size, labels, state
        self._point, self._target, self._age = np.zeros(2), np.zeros(2), self.length
        if obs == "pixels":
            self.observation_space = gym.spaces.Box(0, 255, (3, image_size, image_size), np.uint8)
        else:
            self.observation_space = gym.spaces.Box(-1, 1, (4,), np.float32)
        self.action_space = copy.deepcopy(self.actions)  # which may be seeded

    def render(self, size: tuple[int, int] | None = None) -> np.ndarray:
        """Return the square (H, W, 3) uint8, `size` = (H, W) if not that of the observations."""
        height, width = size or (self._size, self._size)
        image = np.zeros((height, width, 3))
        for place, colour in ((self._target, _TARGET), (self._point, _POINT)):
            cover = self._cover(place, height, width)[..., None]
            image = image * (1 - cover) + np.array(colour) * cover
        return image.astype(np.uint8)

    def _cover(self, place: np.ndarray, height: int, width: int) -> np.ndarray:
        """Return how much of each pixel a disc covers, with soft edges that show moves smaller than a pixel."""
        row = (np.arange(height) + 0.5) * 2 / height - 1
        column = (np.arange(width) + 0.5) * 2 / width - 1
        # Shrunk a little, so that a disc at the border stays in the picture.
        distance = np.sqrt((row[:, None] - 0.85 * place[1]) ** 2 + (column - 0.85 * place[0]) ** 2)
        return np.clip((0.2 - distance) * min(height, width) / 2 + 0.5, 0, 1)

    def _observe(self) -> np.ndarray:
        if self._obs == "pixels":
            return np.ascontiguousarray(self.render().transpose(2, 0, 1))
        return self._state()

    def _state(self) -> np.ndarray:
        return np.concatenate([self._point, self._target]).astype(np.float32)

    def _info(self) -> dict[str, Any]:
        info: dict[str, Any] = {"labels": self._label_map()} if self._labels else {}
        if self._tells:
            info["state"] = dict(zip(_QUANTITIES, self._state().tolist(), strict=True))
        return info

    def _label_map(self) -> np.ndarray:
        side = label_side(self._size)
        labels = np.zeros((side, side), np.uint8)
        for value, place in ((1, self._target), (2, self._point)):
            labels[self._cover(place, side, side) >= 0.5] = value
        return labels

    def _advance(self) -> bool:
        """Count a step and tell whether it was the last before the time limit."""
        if self._age >= self.length:
            raise RuntimeError("this episode has ended: call reset before step")
        self._age += 1
        return self._age >= self.length


class ReachEnv(ToyEnv):
    """`toy/reach`: a two-dimensional action moves the point; the reward is 1 on the target and falls with distance."""

    actions = gym.spaces.Box(-1, 1, (2,), np.float32)
    speed = 0.25  # of the square's half side, in one step

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None):
        """Draw point and target."""
        super().reset(seed=seed, options=options)
        self._point, self._target = self.np_random.uniform(-1, 1, (2, 2))
        self._age = 0
        return self._observe(), self._info()

    def step(self, action: np.ndarray):
        """Move, clipped to the square; the reward is max(0, 1 - distance to the target)."""
        truncated = self._advance()
        action = np.asarray(action, np.float64)
        if action.shape != (2,):
            raise ValueError(f"toy/reach takes actions of shape (2,), not {action.shape}")
        self._point = np.clip(self._point + self.speed * np.clip(action, -1, 1), -1, 1)
        offset = self._point - self._target
        reward = max(0.0, 1.0 - float(np.sqrt(offset @ offset)))
        return self._observe(), reward, False, truncated, self._info()


class GridEnv(ToyEnv):
    """`toy/grid`: four discrete moves on a 5x5 grid; reaching the target pays 1 and terminates."""

    actions = gym.spaces.Discrete(4)
    cells = 5
    moves = np.array([(0, -1), (1, 0), (0, 1), (-1, 0)])  # up, right, down, left in (column, row)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None):
        """Draw two different cells."""
        super().reset(seed=seed, options=options)
        start, goal = self.np_random.choice(self.cells**2, 2, replace=False)
        self._start_at(int(start), int(goal))
        return self._observe(), self._info()

    def step(self, action: int):
        """Move to a neighbouring cell, or stay where the grid ends."""
        truncated = self._advance()
        self._cell = np.clip(self._cell + self.moves[int(action)], 0, self.cells - 1)
        self._point = self._place(self._cell)
        terminated = bool((self._cell == self._goal).all())
        return self._observe(), float(terminated), terminated, truncated and not terminated, self._info()

    def _start_at(self, start: int, goal: int) -> None:
        self._cell, self._goal = (np.array([index % self.cells, index // self.cells]) for index in (start, goal))
        self._point, self._target, self._age = self._place(self._cell), self._place(self._goal), 0

    def _place(self, cell: np.ndarray) -> np.ndarray:
        return cell * 2 / (self.cells - 1) - 1


TASKS: dict[str, type[ToyEnv]] = {"reach": ReachEnv, "grid": GridEnv}
