"""Replay that stores each frame once; stacks and n-step returns are put together when a batch is sampled."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import Tensor

from curl_rl.replay.samplers import PriorityCopy, Sampler
from curl_rl.replay.slots import Slots, to_device
from curl_rl.types import Batch, ConfigError, Future

_TERMINATED, _TRUNCATED, _LIFE_LOST = 1, 2, 3  # how a slot ends its episode, or a life within it; 0: neither


class Replay(Slots):
    """Transitions from one environment, in a ring of slots.

    A slot holds a frame and what led to it: action, reward, its age in the episode and how it ended the episode.
    Nothing is changed once written, so that new slots alone bring an older copy up to date (`journal`). A transition is
    named by its observation's slot; it can be sampled once its n-step window is complete or its episode is over, until
    the first frame of its stack is overwritten. An episode that `begin` cuts off counts as truncated at its last frame.
    A lost life ends returns with discount 0, as termination does, but episode, stack and future go on across it.

    Args:
        stack, padding: frames of an observation; before an episode's start, `repeat` shows its first frame (dm_control)
            and `zero` black ones (Atari).
        n_step: of the longest returns that will be asked for.
        horizon: agent steps of `Batch.future`; 0 for none.
        sampler: draws the slots; of the same capacity, and empty.
        layout: what `Slots` takes.
    """

    def __init__(self, *, stack: int, padding: str, n_step: int, sampler: Sampler, horizon: int = 0, **layout: Any):
        capacity = layout["capacity"]
        if capacity < stack + n_step:
            raise ConfigError(
                f"replay.capacity={capacity} cannot hold one transition of {stack} stacked frames and {n_step} steps; "
                f"raise it to {stack + n_step} or more"
            )
        if padding not in ("repeat", "zero"):
            raise ConfigError(f"padding={padding} is none of repeat, zero")
        if sampler.capacity != capacity or len(sampler):
            raise ValueError(f"the sampler must be empty and of the replay's capacity {capacity}")
        super().__init__(**layout)
        self._stack, self._n_step, self._horizon, self._zero = stack, n_step, horizon, padding == "zero"
        self._sampler = sampler
        self._oldest = 0  # transitions before it have lost a frame
        self._ready = 0  # transitions before it have been offered to the sampler
        self._open = False
        self._pending: tuple[PriorityCopy, int] | None = None  # and the slots written at that time

    def __len__(self) -> int:
        """Return the number of transitions that can be sampled."""
        return len(self._sampler)

    @property
    def nbytes(self) -> int:
        """Bytes held for frames, metadata and the sampler; see `memory.predict_bytes`."""
        metadata = sum(array.nbytes for array in self._metadata().values())
        return self._frame.nbytes + metadata + self.capacity * self._sampler.bytes_per_slot

    def begin(self, frame: np.ndarray, *, labels: np.ndarray | None = None) -> None:
        """Start an episode at its first frame."""
        self._check(frame, labels)
        if self._open:
            self._release(self.written - 1)
        self._forget(self.written - self.capacity)
        self._write(frame, 0, 0.0, 0, 0, labels=labels)
        self._ready = self.written - 1
        self._open = True

    def add(
        self,
        action: np.ndarray | int,
        reward: float,
        terminated: bool,
        truncated: bool,
        frame: np.ndarray,
        *,
        life_lost: bool = False,
        labels: np.ndarray | None = None,
    ) -> None:
        """Append a step and the frame it led to, which at an episode's end is that episode's own last frame.

        After `life_lost` the episode goes on with the next add(), unless it is over too; either way returns end there.
        Raises RuntimeError outside an episode, ValueError for a frame or action of another shape or type, or a reward
        that is not finite; nothing is stored then.
        """
        if not self._open:
            raise RuntimeError("no episode is running: call begin(frame) with the reset's frame before add()")
        self._check(frame, labels)
        self._check_step(action, reward)
        age = int(self._age[(self.written - 1) % self.capacity]) + 1
        # Departure: the original blanks the stack after each lost life, in its memory only. Acting and evaluation see
        # the frames before it, so what is learned from must show them too.
        over = terminated or truncated
        end = (_TERMINATED if over else _LIFE_LOST) if terminated or life_lost else _TRUNCATED if truncated else 0
        self._forget(self.written - self.capacity)
        self._write(frame, action, reward, age, end, labels=labels)
        self._open = not over
        self._release(self.written - 1 if end else self.written - self._n_step)

    def sample(self, batch_size: int, rng: np.random.Generator, n_step: int, discount: float) -> Batch:
        """Draw transitions with the returns of so many steps, cut short at an episode's end; RuntimeError if none is.

        Images are views of one of two buffers used in turn: valid until the second next call, and obs and next_obs of a
        one-step batch share frames in memory, so write to neither. On CUDA it waits for nothing but pending priorities.
        """
        if not 1 <= n_step <= self._n_step:
            most = f"the replay was built for returns of 1 to {self._n_step} steps"
            raise ConfigError(f"{most}, asked for {n_step}: raise agent.n_step to the most that the agent will want")
        self._apply_pending()
        index, weight = self._sampler.sample(batch_size, rng)
        steps, reward, following = self._returns(index, discount ** np.arange(n_step + 1))
        known, ahead = self._known(index, self._horizon), self._after(index, max(1, self._horizon))
        each = np.where(known, self._reward[ahead[:, : self._horizon]], np.float32(0))
        rows = self._rows(index, steps, known)
        episode = self.written - 1 - (self.written - 1 - index) % self.capacity - self._age[index]
        small = (self._action[ahead], each, reward, following, weight, index, episode, known, self._labels[index], rows)
        action, each, reward, following, weight, index, episode, known, labels, there = to_device(small, self._device)
        images, channels = self._gather(rows, there), self._stack * self._frame.shape[1]
        return Batch(
            images[:, :channels],
            action[:, 0],
            reward,
            following,
            images[:, -channels:],
            weight,
            index,
            episode,
            Future(self._windows(images), action, each, known) if self._horizon else None,
            labels if labels.numel() else None,
        )

    def update_priorities(self, index: Tensor, priorities: Tensor) -> None:
        """Take new priorities (B,) of sampled slots (B,), in force from the next sample() or state_dict() on.

        Waits for nothing but the call before. Slots added in between get the largest priority of before, on any device.
        """
        self._apply_pending()
        self._pending = PriorityCopy(index, priorities), self.written

    def _apply_pending(self) -> None:
        if self._pending is not None:
            (copy, written), self._pending = self._pending, None
            index, priorities = copy.take()
            kept = (index - written) % self.capacity >= self.written - written  # the others name new transitions
            self._sampler.update(index[kept], priorities[kept])

    def state_dict(self) -> dict[str, Any]:
        """Return counters and the sampler's state; frames are in the journal."""
        self._apply_pending()
        return {
            "capacity": self.capacity,
            "written": self.written,
            "oldest": self._oldest,
            "ready": self._ready,
            "open": self._open,
            "sampler": self._sampler.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue where `state_dict` was taken; ValueError if of a larger ring, or slots have not been restored."""
        self._check_restored(state["capacity"], state["written"], state["oldest"], self._stack)
        self._oldest, self._ready, self._open = state["oldest"], state["ready"], state["open"]
        self._pending = None
        self._sampler.load_state_dict(state["sampler"], self._places(state["capacity"]))

    def _release(self, stop: int) -> None:
        """Offer the transitions before `stop` to the sampler."""
        for transition in range(self._ready, stop):
            self._sampler.add(transition % self.capacity)
        self._ready = max(self._ready, stop)

    def _forget(self, dead: int) -> None:
        """Take the transitions that need the frame of slot `dead` from the sampler before it is overwritten."""
        if dead < 0:
            return
        while True:
            slot = self._oldest % self.capacity
            if self._oldest - min(int(self._age[slot]), self._stack - 1) > dead:
                return
            last = self._end[slot] in (_TERMINATED, _TRUNCATED) or self._age[(slot + 1) % self.capacity] == 0
            if not last:  # hence sampleable: the capacity leaves room for a stack and an n-step window
                self._sampler.remove(slot)
            self._oldest += 1

    def _returns(self, index: np.ndarray, powers: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the steps taken (B,), the discounted sum of their rewards and the discount that follows.

        Args: powers, of the discount, from 0 to the number of steps.
        """
        slots = self._after(index, len(powers) - 1)
        end, taken = self._end[slots], np.ones(slots.shape, bool)
        # Age 0 after a slot without an end: the episode was cut off there.
        goes_on = (end[:, :-1] == 0) & (self._age[slots[:, 1:]] > 0)
        taken[:, 1:] = np.logical_and.accumulate(goes_on, axis=1)
        steps = taken.sum(1)
        reward = (np.where(taken, self._reward[slots], 0) * powers[:-1]).sum(1)
        last = end[np.arange(len(index)), steps - 1]
        discount = np.where((last == _TERMINATED) | (last == _LIFE_LOST), 0, powers[steps])
        return steps, reward.astype(np.float32), discount.astype(np.float32)

    def _rows(self, index: np.ndarray, steps: np.ndarray, known: np.ndarray) -> np.ndarray:
        """Return the frames' rows (B, R): those of obs, of the future, of next_obs, shared if that is one step on.

        The future's frames after its last known one repeat that one.
        """
        age, stack = self._age[index][:, None], np.arange(1 - self._stack, 1)
        parts = [np.broadcast_to(stack, (len(index), self._stack))]
        parts += [np.minimum(np.arange(1, self._horizon + 1), known.sum(1)[:, None])]
        if self._horizon or self._n_step > 1:
            parts += [stack + steps[:, None]]
        else:
            parts += [steps[:, None]]
        offsets = np.concatenate(parts, 1)
        rows = (index[:, None] + np.maximum(offsets, -age)) % self.capacity
        return np.where(offsets < -age, self.capacity, rows) if self._zero else rows

    def _windows(self, images: Tensor) -> Tensor:
        """Return the stacks (B, horizon, k * C, H, W) 1 to `horizon` steps later, views of the gathered frames."""
        channels = self._frame.shape[1]
        seen = images[:, channels : channels * (self._horizon + self._stack)]
        return seen.unfold(1, self._stack * channels, channels).movedim(-1, 2)
