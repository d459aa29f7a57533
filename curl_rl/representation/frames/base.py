"""Frames without an agent: images in memory, and what else is known of them."""

import copy
import functools
import zlib
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from curl_rl.types import Batch, ConfigError, Future

_RANDOM = 0x5EED


class Frames:
    """Images of one size, and of some sources their order, actions, rewards, classes, labels and states.

    A frame is named by its number, 0 to N - 1. Frames of an episode follow one another; a split never divides one.

    Args:
        images: (N, C, H, W) uint8.
        source: what a message calls them.
        episode: (N,) int64, alike for neighbours of one episode; None where each frame stands alone.
        ordered: whether the frames of an episode follow one another in time.
        action, reward: (N, A) float32 or (N,) int64, and (N,) float32: from each frame to the next of its episode.
        classes: (N,) int64, -1 where unknown; class_names, of 0, 1, ...
        labels: (N, s, s) uint8 classes of each frame's cells.
        state: (N, Q) float32 of the simulator; state_names, of its quantities.
        names: of each frame; their numbers unless given.
        stack, padding: frames of an observation; before an episode's start stands its first frame (`repeat`) or `zero`.

    Raises ConfigError where these do not fit together.
    """

    def __init__(
        self,
        images: Tensor,
        *,
        source: str,
        episode: Tensor | None = None,
        ordered: bool = False,
        action: Tensor | None = None,
        reward: Tensor | None = None,
        classes: Tensor | None = None,
        class_names: Sequence[str] = (),
        labels: Tensor | None = None,
        state: Tensor | None = None,
        state_names: Sequence[str] = (),
        names: Sequence[str] = (),
        stack: int = 1,
        padding: str = "repeat",
    ):
        if images.dtype != torch.uint8 or images.dim() != 4 or not len(images):
            raise ConfigError(f"{source} gives images {tuple(images.shape)} {images.dtype}: give (N, C, H, W) uint8")
        self.source, self.stack, self._zero, self._images = source, stack, padding == "zero", images
        self.action, self.reward, self.classes, self.labels, self.state = action, reward, classes, labels, state
        self.class_names, self.state_names, self._names = tuple(class_names), tuple(state_names), names
        self.episodes = torch.arange(len(images)) if episode is None else episode
        given = {"order": ordered, "episodes": episode is not None, "actions": action is not None}
        given |= {"rewards": reward is not None, "classes": classes is not None, "labels": labels is not None}
        given |= {"states": state is not None}
        self.gives = frozenset(name for name, there in given.items() if there)
        self._check()
        self._first, self._last = _ends(self.episodes)
        self._check_stack()

    def _check(self) -> None:
        parts = {name: getattr(self, name) for name in ("action", "reward", "classes", "labels", "state", "episodes")}
        for name, part in parts.items():
            if part is not None and len(part) != len(self):
                raise ConfigError(f"{self.source} has {len(self):,} frames and {len(part):,} of {name}: give one each")
        if self.classes is not None and 0 < len(self.class_names) <= int(self.classes.max()):
            highest, count = int(self.classes.max()), len(self.class_names)
            raise ConfigError(f"{self.source} has a class {highest} and {count} names of classes: name all")
        if len(self._names) not in (0, len(self)):
            raise ConfigError(f"{self.source} has {len(self):,} frames and {len(self._names):,} names: give one each")

    def _check_stack(self) -> None:
        if "order" not in self.gives and self.stack > 1:
            raise ConfigError(
                f"{self.source} has no order, so {self.stack} frames make no stack: give stack=1, or their order"
            )

    def stacked(self, stack: int) -> "Frames":
        """Return the same frames, so many of which make an observation. Raises ConfigError where they have no order."""
        other = copy.copy(self)
        other.stack = stack
        other._check_stack()
        return other

    def __len__(self) -> int:
        return len(self._images)

    @property
    def frame_shape(self) -> tuple[int, ...]:
        """Of one frame, (C, H, W)."""
        return tuple(self._images.shape[1:])

    @property
    def obs_shape(self) -> tuple[int, ...]:
        """Of a stacked observation, (k*C, H, W)."""
        channels, *sides = self.frame_shape
        return (self.stack * channels, *sides)

    @property
    def action_dim(self) -> int:
        """How many discrete actions were taken, or their dimension; 0 without any."""
        if self.action is None:
            return 0
        return self.action.shape[1] if self.action.dim() > 1 else int(self.action.max()) + 1

    def given(self, name: str) -> Tensor:
        """Return action, reward, classes, labels or state. Raises ConfigError where the source has none."""
        if (value := getattr(self, name)) is None:
            raise ConfigError(f"{self.source} has no {name}: give frames that have")
        return value

    @property
    def known(self) -> Tensor:
        """Which frames (N,) have a class that is known."""
        return torch.zeros(len(self), dtype=torch.bool) if self.classes is None else self.classes >= 0

    @property
    def class_count(self) -> int:
        """How many classes there are, named or met."""
        met = 0 if self.classes is None else int(self.classes.max()) + 1
        return max(met, len(self.class_names))

    @property
    def discrete(self) -> bool:
        return self.action is not None and self.action.dim() == 1

    def classified(self, classes: Tensor, class_names: Sequence[str]) -> "Frames":
        """Return the same frames with other classes (N,) int64, -1 where unknown."""
        other = copy.copy(self)
        other.__dict__.pop("checksum", None)
        other.classes, other.class_names, other.gives = classes, tuple(class_names), self.gives | {"classes"}
        other._check()
        return other

    def name(self, index: int) -> str:
        """Return what its source calls a frame."""
        return self._names[index] if self._names else str(index)

    def episode(self, index: int) -> int:
        return int(self.episodes[index])

    def usable(self, needs: Collection[str]) -> Tensor:
        """Return the frames (n,) that an objective with such needs can learn from: all, or those that others follow."""
        following = {"order", "actions", "rewards"} & set(needs)
        numbers = torch.arange(len(self))
        return numbers[numbers < self._last] if following else numbers

    @functools.cached_property
    def checksum(self) -> int:
        """A CRC-32 of the images and all that is known of them."""
        parts = (self._images, self.action, self.reward, self.classes, self.labels, self.state, self.episodes)
        value = 0
        for part in parts:
            value = value if part is None else zlib.crc32(part.contiguous().numpy().data, value)
        return value

    def newest(self, ids: Tensor | slice) -> Tensor:
        """Return single frames (B, C, H, W); those of a slice are not copied."""
        return self._images[ids]

    def obs(self, ids: Tensor) -> Tensor:
        """Return observations (B, k*C, H, W), the oldest frame of a stack first."""
        if self.stack == 1:
            return self._images[ids]
        offsets = torch.arange(1 - self.stack, 1)
        wanted, first = ids[:, None] + offsets, self._first[ids][:, None]
        images = self._images[torch.maximum(wanted, first)]
        if self._zero:
            images[wanted < first] = 0
        return images.flatten(1, 2)

    def batch(self, ids: Tensor, *, horizon: int = 0, device: str | torch.device = "cpu") -> Batch:
        """Return what an objective may see of frames (B,) int64, and of so many steps after each.

        What a source does not give is zero, and none of it is read by an objective whose needs are met.
        """
        obs, zeros = self.obs(ids), torch.zeros(len(ids))
        batch = Batch(
            obs,
            torch.zeros(len(ids), 0) if self.action is None else self.action[ids],
            zeros if self.reward is None else self.reward[ids],
            zeros,
            self.obs(torch.minimum(ids + 1, self._last[ids])) if "order" in self.gives else obs,
            torch.ones(len(ids)),
            ids,
            self.episodes[ids],
            self._future(ids, horizon) if horizon else None,
            None if self.labels is None else self.labels[ids],
            None if self.classes is None else self.classes[ids],
        )
        return _moved(batch, device)

    def _future(self, ids: Tensor, horizon: int) -> Future:
        ahead, last = ids[:, None] + torch.arange(1, horizon + 1), self._last[ids][:, None]
        mask, places = ahead <= last, torch.minimum(ahead, last)
        taken = torch.minimum(ahead - 1, last)
        none = torch.zeros(*ahead.shape, 0)
        reward = torch.zeros(ahead.shape) if self.reward is None else self.reward[taken] * mask
        action = none if self.action is None else self.action[taken]
        return Future(self.obs(places.flatten()).unflatten(0, ahead.shape), action, reward, mask)

    def split(self, share: float, *, seed: int = 0) -> tuple[Tensor, Tensor]:
        """Divide the frames' numbers by whole episodes; of each class the second part takes about the share.

        Returns the first and the second part, in order. Raises ConfigError where that leaves a part, or a class in
        either, without a frame.
        """
        parts = divide(self.episodes, self.classes, share, seed=seed)
        self._check_split(parts)
        return parts

    def _check_split(self, parts: tuple[Tensor, Tensor]) -> None:
        count = len(torch.unique(self.episodes))
        if not all(map(len, parts)):
            raise ConfigError(
                f"{self.source} has {count} episodes, too few to leave some out: give more, or another share"
            )
        if self.classes is None:
            return
        known = set(self.classes.unique().tolist()) - {-1}
        for part in parts:
            if missing := known - set(self.classes[part].unique().tolist()):
                told = ", ".join(self.class_name(each) for each in sorted(missing))
                raise ConfigError(
                    f"a split of {self.source} leaves no frame of class {told}: give more, or another share"
                )

    def class_name(self, index: int) -> str:
        return self.class_names[index] if self.class_names else str(index)


def divide(episodes: Tensor, classes: Tensor | None, share: float, *, seed: int) -> tuple[Tensor, Tensor]:
    """Divide frames (N,) by whole episodes; of each class, where there are any, the second part takes about the share.

    Returns the numbers of the first and the second part, in order. Raises ConfigError for a share that leaves nothing.
    """
    if not 0 < share < 1:
        raise ConfigError(f"a split's share must be above 0 and below 1, got {share}")
    apart, group = torch.unique(episodes, return_inverse=True)
    kind = torch.full((len(apart),), -1)
    if classes is not None:
        kind.scatter_reduce_(0, group, classes, "amax")
    order = torch.from_numpy(np.random.default_rng([_RANDOM, seed]).permutation(len(apart)))
    second = torch.zeros(len(apart), dtype=torch.bool)
    for each in kind.unique():
        members = order[kind[order] == each]
        second[members[: round(share * len(members))]] = True
    return (~second[group]).nonzero()[:, 0], second[group].nonzero()[:, 0]


def _ends(episode: Tensor) -> tuple[Tensor, Tensor]:
    """Return the first and the last frame (N,) of each frame's episode."""
    number = torch.arange(len(episode))
    new = torch.ones(len(episode), dtype=torch.bool)
    new[1:] = episode[1:] != episode[:-1]
    first = torch.where(new, number, 0).cummax(0).values
    last = torch.where(new.roll(-1), number, len(episode)).flip(0).cummin(0).values.flip(0)
    return first, last


def _moved(value: Any, device: str | torch.device) -> Any:
    """Return a named tuple with all its tensors on a device."""
    if value is None or isinstance(value, Tensor):
        return value if value is None else value.to(device)
    return type(value)(*(_moved(each, device) for each in value))


def called(path: Path, source: str) -> str:
    """Return what frames of a file are called: its path in the folder that is their source, or its name."""
    return path.relative_to(source).as_posix() if path.is_relative_to(source) and path != Path(source) else path.name


def numbered(lengths: Sequence[int]) -> Tensor:
    """Return the episode (N,) of each frame of episodes of these lengths."""
    return torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
