"""Distractions: colours, camera and background of a task of control that change while its physics does not.

Kinds and intensities are those of the Distracting Control Suite (Stone, Ramirez, Konolige and Jonschkowski 2021,
https://arxiv.org/abs/2101.02722, and its code in google-research/distracting_control).
"""

import re
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import numpy as np

from curl_rl.envs.errors import EnvError
from curl_rl.envs.footage import SIDE, Footage, split_videos

INTENSITIES = {"easy": 0.1, "medium": 0.2, "hard": 0.3}  # of colours and of the camera
VIDEOS = {"easy": (4, 4), "medium": (8, 8), "hard": (9, None)}  # how many there must be, and how many are played
SPLITS = ("train", "evaluation")
KINDS = ("color", "camera", "video")

_WORDS = "color, camera or video:FOLDER, or several of them joined by +, such as color+camera"
_FLOOR = {"reacher": 0.0, "walker": 1.0, "cheetah": 1.0}  # how opaque it is before a video; 0.3 elsewhere
_FOLLOWING = (1, 2)  # mjCAMLIGHT_TRACK, mjCAMLIGHT_TRACKCOM


def check_distraction(distraction: str, obs: str, camera: int | str) -> None:
    """Raise EnvError for words that name no distraction, and for one that nothing would show; reads no folder."""
    named = [kind for kind, _ in _parts(distraction)]
    if named and obs != "pixels":
        raise EnvError(f"distraction={distraction!r} changes images, and env.obs={obs} has none: leave it out")
    if "camera" in named and camera == -1:
        raise EnvError(f"distraction={distraction!r} moves a fixed camera, and -1 is the free one: set env.camera=0")


def _parts(distraction: str) -> Iterator[tuple[str, str]]:
    """Yield each kind with its folder, which is empty but for videos."""
    seen = set[str]()
    for part in re.split(r"\+(?=color|camera|video:)", distraction) if distraction else ():
        kind, _, folder = part.partition(":")
        if part not in ("color", "camera") and not (kind == "video" and folder.strip()):
            raise EnvError(f"distraction={distraction!r} is none of {_WORDS}")
        if kind in seen:
            raise EnvError(f"distraction={distraction!r} names {kind} twice: name it once")
        seen.add(kind)
        yield kind, folder


class Distraction:
    """What distracts in one environment: nothing where `distraction` is empty.

    Args:
        distraction: "color", "camera", "video:FOLDER", or several joined by "+".
        intensity: "easy", "medium" or "hard".
        dynamic: whether what an episode draws moves on with each simulator step, or stays.
        split: "train" or "evaluation", which draw other colours and views and play other videos.
        domain: the task's, which decides how opaque the floor is before a video.

    What an episode shows is a function of its seed. Raises EnvError for words that are none of these, and for a folder
    without enough videos of both splits that can be read.
    """

    def __init__(self, distraction: str, intensity: str, *, dynamic: bool, split: str, domain: str, camera: int):
        if intensity not in INTENSITIES:
            raise EnvError(f"env.distraction_intensity={intensity!r} is none of {', '.join(INTENSITIES)}")
        if split not in SPLITS:
            raise EnvError(f"distraction_split={split!r} is none of {', '.join(SPLITS)}")
        self._split, scale = SPLITS.index(split), INTENSITIES[intensity]
        self._kinds: dict[str, _Kind] = {}
        for kind, folder in _parts(distraction):
            if kind == "color":
                self._kinds[kind] = _Colors(scale, dynamic)
            elif kind == "camera":
                self._kinds[kind] = _Camera(scale, dynamic, camera)
            else:
                videos = split_videos(folder, *VIDEOS[intensity])[self._split]
                self._kinds[kind] = _Background(videos, dynamic, _FLOOR.get(domain, 0.3))

    @property
    def texture(self) -> int | None:
        """The number of the texture that changes, which an OpenGL context must be given anew; None without one."""
        background = self._kinds.get("video")
        return background.texture if isinstance(background, _Background) else None

    def prepare(self, physics: Any) -> None:
        """Take note of a model that has been loaded, before any context is made of it."""
        for kind in self._kinds.values():
            kind.prepare(physics)

    def start(self, physics: Any, seed: int | None) -> None:
        """Draw an episode's distractions from its seed, without one go on with the last's draws, and show them."""
        for name, kind in self._kinds.items():
            if seed is not None:  # of each its own, so that one shows the same beside others
                kind.rng = np.random.default_rng([seed, self._split, KINDS.index(name)])
            kind.draw(physics)
            kind.show(physics)

    def advance(self, physics: Any, steps: int) -> None:
        """Move on by as many simulator steps, and show what became of it; once after the physics has moved."""
        for kind in self._kinds.values():
            for _ in range(steps if kind.dynamic else 0):
                kind.walk()
            kind.show(physics)


class _Kind(Protocol):
    """What changes in what is seen. `dynamic`: with each simulator step. Every draw comes from `rng`."""

    rng: np.random.Generator
    dynamic: bool

    def prepare(self, physics: Any) -> None:
        """Take note of a model that has been loaded, before any context is made of it."""
        ...

    def draw(self, physics: Any) -> None:
        """Draw what an episode begins with."""
        ...

    def walk(self) -> None:
        """Move on by one simulator step."""
        ...

    def show(self, physics: Any) -> None:
        """Change what is rendered next, and nothing that moves."""
        ...


class _Colors:
    """Colours of materials, each within `scale` of the task's own, on a random walk."""

    def __init__(self, scale: float, dynamic: bool):
        self.rng, self.dynamic, self._scale = np.random.default_rng(), dynamic, scale

    def prepare(self, physics: Any) -> None:
        own = physics.model.mat_rgba[:, :3].copy()
        self._low, self._high = np.clip(own - self._scale, 0, 1), np.clip(own + self._scale, 0, 1)

    def draw(self, physics: Any) -> None:
        self._rgb = self.rng.uniform(self._low, self._high)

    def walk(self) -> None:
        step = self.rng.normal(0, 0.03 * self._scale, self._rgb.shape)
        self._rgb = np.clip(self._rgb + step, self._low, self._high)

    def show(self, physics: Any) -> None:
        physics.model.mat_rgba[:, :3] = self._rgb


class _Camera:
    """A camera on a walk over a part of a sphere, looking at the same point, rolling.

    Its place is (distance, angle around the vertical, angle from it): seen from the body's centre of mass where the
    camera follows that, else from the world's origin.
    """

    def __init__(self, scale: float, dynamic: bool, number: int):
        self.rng, self.dynamic, self._scale, self._number = np.random.default_rng(), dynamic, scale, number

    def prepare(self, physics: Any) -> None:
        self._follows = physics.model.cam_mode[self._number] in _FOLLOWING
        self._fixed = physics.model.cam_mode[self._number] == 0

    def draw(self, physics: Any) -> None:
        """Draw where an episode's walk begins, and within what and how fast it goes."""
        place = physics.data.cam_xpos[self._number] - self._centre(physics)
        self._target = self._seen(physics)
        self._from_above = physics.data.cam_xmat[self._number][8] > 0.99
        self._home = distance, around, down = _to_sphere(place)
        reach, scale = np.pi / 2 * self._scale, self._scale
        low = np.array([distance * (1 - 0.5 * scale), around - reach, down - reach])
        high = np.array([distance * (1 + 1.5 * scale), around + reach, down + reach])
        if not self._from_above:  # neither below the floor nor behind the scene; some have their camera there already
            low[2], high[2] = max(low[2], 0), max(min(high[2], np.pi / 2), low[2])
            if -np.pi <= around <= 0:
                low[1], high[1] = max(low[1], -np.pi), min(high[1], 0)
        self._low, self._high, self._most_roll = low, high, reach
        self._place, self._roll = self.rng.uniform(low, high), self.rng.uniform(-reach, reach)
        self._fastest, self._fastest_roll = 0.4 * scale * distance / 4, np.pi / 50 * scale
        direction = self.rng.normal(size=3)
        self._velocity = direction / np.linalg.norm(direction) * self.rng.uniform(0, 0.4 * scale)
        self._rolling = self.rng.uniform(-self._fastest_roll, self._fastest_roll)
        if self.dynamic:
            self.walk()  # as the original does
        else:
            self._place = self._within(_to_point(self._place))

    def walk(self) -> None:
        scale, point = self._scale, _to_point(self._place)
        velocity = self._velocity + self.rng.normal(0, 0.1 * scale * self._home[0] / 4, 3)
        velocity *= min(1, self._fastest / np.linalg.norm(velocity))
        self._place = self._within(point + velocity)
        self._velocity = _to_point(self._place) - point
        rolling = np.clip(
            self._rolling + self.rng.normal(0, np.pi / 300 * scale), -self._fastest_roll, self._fastest_roll
        )
        roll = np.clip(self._roll + rolling, -self._most_roll, self._most_roll)
        self._rolling, self._roll = roll - self._roll, roll

    def show(self, physics: Any) -> None:
        data, number = physics.data, self._number
        target = self._target if self._fixed else self._seen(physics)
        place = _to_point(self._place) + self._centre(physics)
        cos, sin = np.cos(self._roll), np.sin(self._roll)
        roll = np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]])
        look = _turned_down if self._from_above else _upright
        data.cam_xmat[number] = (look(target - place) @ roll).ravel()
        data.cam_xpos[number] = place

    def _within(self, point: np.ndarray) -> np.ndarray:
        """Return the allowed place that is nearest to a point, in each of its three numbers."""
        place = _to_sphere(point)
        turned = place[1] - self._home[1]
        place[1] = self._home[1] + (turned + np.pi) % (2 * np.pi) - np.pi
        return np.clip(place, self._low, self._high)

    def _centre(self, physics: Any) -> np.ndarray:
        return physics.data.subtree_com[1].copy() if self._follows else np.zeros(3)

    def _seen(self, physics: Any) -> np.ndarray:
        """Return the point that the task's own camera looks at, as far away as the body's centre of mass."""
        place, axes = physics.data.cam_xpos[self._number], physics.data.cam_xmat[self._number]
        return place - np.linalg.norm(place - physics.data.subtree_com[1]) * axes.reshape(3, 3)[:, 2]


class _Background:
    """A video in place of the sky, played forwards and backwards from any of its frames, and seen through the floor."""

    def __init__(self, videos: Sequence[Footage], dynamic: bool, floor: float):
        self.rng, self.dynamic, self._videos, self._floor = np.random.default_rng(), dynamic, videos, floor

    def prepare(self, physics: Any) -> None:
        model = physics.model.ptr
        skies = np.flatnonzero(model.tex_type == 2)  # mjTEXTURE_SKYBOX
        if not len(skies):
            raise EnvError(
                "env.distraction=video needs a task with a sky, and this one has none: set env.distraction=color+camera"
            )
        self.texture = int(skies[0])
        model.tex_width[self.texture] = model.tex_height[self.texture] = SIDE  # one image on all six sides
        for material in range(model.nmat):
            if model.material(material).name == "grid":
                model.mat_rgba[material, 3] = self._floor

    def draw(self, physics: Any) -> None:
        self._frames = self._videos[self.rng.integers(len(self._videos))].frames()
        self._index = int(self.rng.integers(len(self._frames)))
        self._direction = int(self.rng.choice([-1, 1]))

    def walk(self) -> None:
        last = len(self._frames) - 1
        self._index += self._direction
        if self._index <= 0:
            self._index, self._direction = 0, 1
        elif self._index >= last:
            self._index, self._direction = last, -1

    def show(self, physics: Any) -> None:
        frame = self._frames[self._index].ravel()
        start = physics.model.ptr.tex_adr[self.texture]
        physics.model.ptr.tex_data[start : start + frame.size] = frame


def _to_sphere(point: np.ndarray) -> np.ndarray:
    x, y, z = point
    return np.array([np.linalg.norm(point), np.arctan2(y, x), np.arctan2(np.hypot(x, y), z)])


def _to_point(place: np.ndarray) -> np.ndarray:
    distance, around, down = place
    return distance * np.array([np.sin(down) * np.cos(around), np.sin(down) * np.sin(around), np.cos(down)])


def _upright(view: np.ndarray) -> np.ndarray:
    """Return the axes (right, up, back) of a camera that looks along `view` with a level horizon."""
    back = -view / np.linalg.norm(view)
    right = np.array([-back[1], back[0], 0]) / max(np.hypot(back[0], back[1]), 1e-9)
    return np.stack([right, np.cross(back, right), back], axis=1)


def _turned_down(view: np.ndarray) -> np.ndarray:
    """Return the same turned from a camera that looks straight down, by the shortest way."""
    view = view / np.linalg.norm(view)
    x, y, _ = axis = np.cross([0, 0, -1], view)
    cross = np.array([[0, -axis[2], y], [axis[2], 0, -x], [-y, x, 0]])
    return np.eye(3) + cross + cross @ cross / (1 - view[2])
