"""Slots of a ring: each holds a frame and what led to it, is written once, and is read back through a journal."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor


class Slots:
    """The last `capacity` frames of one environment, with the action, reward, age and end that led to each.

    Args:
        obs_shape, obs_dtype: of one frame, (C, H, W) uint8, or (D,) float32.
        label_side: of the label maps (side, side) that come with each frame; 0 for none.
        device: where batches are wanted. storage: where frames live, `device` unless given.
    """

    def __init__(
        self,
        *,
        capacity: int,
        obs_shape: Sequence[int],
        obs_dtype: torch.dtype,
        action_shape: Sequence[int],
        action_dtype: torch.dtype,
        device: torch.device,
        storage: torch.device | None = None,
        label_side: int = 0,
    ):
        self.capacity = capacity
        self._device = torch.device(device)
        # One row more, the blank before an episode. Untouched pages cost nothing, so a large replay starts at once.
        self._frame = torch.empty((capacity + 1, *obs_shape), dtype=obs_dtype, device=storage or device)
        self._frame[capacity] = 0
        self._labels = np.zeros((capacity, label_side, label_side), np.uint8)
        self._action = np.zeros((capacity, *action_shape), torch.empty(0, dtype=action_dtype).numpy().dtype)
        self._reward = np.zeros(capacity, np.float32)
        self._age = np.zeros(capacity, np.int32)
        self._end = np.zeros(capacity, np.uint8)
        self._obs_dtype = torch.empty(0, dtype=obs_dtype).numpy().dtype
        self._buffers: list[Tensor] = []
        self.written = 0  # slots ever written, so the next one is `written % capacity`
        self._restored_from = 0

    def _metadata(self) -> dict[str, np.ndarray]:
        rows = {"action": self._action, "reward": self._reward, "age": self._age, "end": self._end}
        return {**rows, "labels": self._labels} if self._labels.size else rows

    def _check(self, frame: np.ndarray, labels: np.ndarray | None) -> None:
        if frame.shape != self._frame.shape[1:] or frame.dtype != self._obs_dtype:
            expected = f"{tuple(self._frame.shape[1:])} {self._obs_dtype}"
            raise ValueError(f"the replay stores frames {expected}, got {frame.shape} {frame.dtype}")
        side = self._labels.shape[1:]
        if self._labels.size and (labels is None or labels.shape != side):
            raise ValueError(f"the replay stores label maps {side}, got {None if labels is None else labels.shape}")

    def _check_step(self, action: Any, reward: float) -> None:
        if np.shape(action) != self._action.shape[1:]:
            raise ValueError(f"the replay stores actions {self._action.shape[1:]}, got {np.shape(action)}")
        if not math.isfinite(reward):
            raise ValueError(f"the environment gave the reward {reward}; only finite ones can be learned from")

    def _check_restored(self, capacity: int, written: int, oldest: int, stack: int) -> None:
        """Raise ValueError where the slots of a ring of this capacity do not fit or have not been restored.

        Args: written, the slots so far; oldest, the first whose stack of frames is needed.
        """
        first = oldest - min(int(self._age[oldest % self.capacity]), stack - 1)
        if capacity > self.capacity:
            raise ValueError(f"the state is of a replay of capacity {capacity}, this one has {self.capacity}")
        if self.written != written or self._restored_from > first:
            raise ValueError(
                f"the state needs the slots up to {written}, restored are {self._restored_from} to {self.written}; "
                "call restore_journal() first"
            )

    def _write(self, frame: np.ndarray, action: Any, reward: float, age: int, end: int, *, labels: Any) -> None:
        slot = self.written % self.capacity
        if self._frame.is_cuda:
            source = torch.empty(frame.shape, dtype=self._frame.dtype, pin_memory=True)
            source.numpy()[...] = frame
            self._frame[slot].copy_(source, non_blocking=True)  # the block is not reused before the copy is done
        else:
            self._frame[slot].numpy()[...] = frame
        if self._labels.size:
            self._labels[slot] = labels
        self._action[slot] = action
        self._reward[slot] = reward
        self._age[slot] = age
        self._end[slot] = end
        self.written += 1

    def journal(self, since: int) -> dict[str, Tensor]:
        """Copy the live ones of the slots since..written, one row each, to the CPU."""
        start = max(since, self.written - self.capacity, 0)
        slots = torch.arange(start, self.written) % self.capacity
        rows = {name: torch.from_numpy(array[slots.numpy()]) for name, array in self._metadata().items()}
        return {"frame": self._frame.index_select(0, slots.to(self._frame.device)).cpu(), **rows}

    def restore_journal(self, start: int, chunk: Mapping[str, Tensor]) -> None:
        """Write slots start, start + 1, ... back, in ascending order without gaps; `load_state_dict` comes after.

        Raises ValueError for rows of another shape or type, or a gap.
        """
        frame = chunk["frame"]
        if frame.shape[1:] != self._frame.shape[1:] or frame.dtype != self._frame.dtype or len(frame) > self.capacity:
            raise ValueError(f"a journal of {_describe(frame)} does not fit a replay of {_describe(self._frame[:-1])}")
        if self.written == 0 or len(frame) == self.capacity:  # nothing older is live
            self._restored_from = self.written = start
        if start != self.written:
            raise ValueError(f"the journal misses the slots {self.written} to {start}")
        slots = torch.arange(start, start + len(frame)) % self.capacity
        self._frame[slots.to(self._frame.device)] = frame.to(self._frame.device)
        for name, array in self._metadata().items():
            array[slots.numpy()] = chunk[name].numpy()
        self.written = start + len(frame)

    def _places(self, capacity: int) -> np.ndarray | None:
        """Return where each slot of a smaller ring lies here, once its journal is restored; None of one as large."""
        if capacity == self.capacity:
            return None
        newest = self.written - 1
        return (newest - (newest - np.arange(capacity)) % capacity) % self.capacity

    def _after(self, index: np.ndarray, steps: int) -> np.ndarray:
        """Return the slots (B, steps) that follow each, with what led to them."""
        return (index[:, None] + np.arange(1, steps + 1)) % self.capacity

    def _known(self, index: np.ndarray, steps: int) -> np.ndarray:
        """Return which of the next `steps` frames are written and of the same episode, (B, steps)."""
        slots, ahead = self._after(index, steps), np.arange(1, steps + 1)
        written = ahead <= (self.written - 1 - index[:, None]) % self.capacity
        # Ages grow by one within an episode and start anew in the next one.
        return np.logical_and.accumulate(written & (self._age[slots] == self._age[index][:, None] + ahead), axis=1)

    def _gather(self, rows: np.ndarray, device_rows: Tensor) -> Tensor:
        """Copy frames side by side, (B, R * C, H, W) on the training device."""
        shape = (rows.shape[0], rows.shape[1] * self._frame.shape[1], *self._frame.shape[2:])
        if self._frame.device.type == self._device.type:
            return self._select(device_rows, self._next_buffer(shape))
        # Pinned blocks come from a cache that waits for their copies, so these need no turn.
        host = torch.empty(shape, dtype=self._frame.dtype, pin_memory=True)
        return self._select(torch.from_numpy(rows), host).to(self._device, non_blocking=True)

    def _select(self, rows: Tensor, out: Tensor) -> Tensor:
        torch.index_select(self._frame.flatten(1), 0, rows.flatten(), out=out.view(rows.numel(), -1))
        return out

    def _next_buffer(self, shape: tuple[int, ...]) -> Tensor:
        # Fresh memory costs more in page faults than the copy itself, hence two buffers in turn.
        if len(self._buffers) < 2 or self._buffers[0].shape != shape:
            self._buffers = [torch.empty(shape, dtype=self._frame.dtype, device=self._device) for _ in range(2)]
        self._buffers.reverse()
        return self._buffers[0]


def to_device(arrays: Sequence[np.ndarray], device: torch.device) -> list[Tensor]:
    """Return arrays as tensors on `device`, sent in one transfer."""
    if device.type == "cpu":
        return [torch.from_numpy(array) for array in arrays]
    starts = np.cumsum([0, *(-(-array.nbytes // 8) * 8 for array in arrays)])  # aligned for every type
    host = torch.empty(int(starts[-1]), dtype=torch.uint8, pin_memory=True)
    for start, array in zip(starts, arrays, strict=False):
        host.numpy()[start : start + array.nbytes] = np.ascontiguousarray(array).view(np.uint8).reshape(-1)
    there = host.to(device, non_blocking=True)
    return [
        there[start : start + array.nbytes].view(torch.from_numpy(array).dtype).view(array.shape)
        for start, array in zip(starts, arrays, strict=False)
    ]


def _describe(frames: Tensor) -> str:
    return f"{len(frames)} slots of {tuple(frames.shape[1:])} {frames.dtype}"
