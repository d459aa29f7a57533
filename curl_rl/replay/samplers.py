"""Samplers that choose replay slots: exactly uniform, or in proportion to priorities kept in a sum tree."""

from collections.abc import Mapping
from typing import Any, ClassVar, Protocol, cast

import numpy as np
import torch
from torch import Tensor

from curl_rl.types import ConfigError

_SMALLEST_PRIORITY = 1e-8  # a priority of 0 would make a live slot indistinguishable from a removed one


class Sampler(Protocol):
    """What a replay needs to choose among its slots 0..capacity-1."""

    bytes_per_slot: ClassVar[int]

    @property
    def capacity(self) -> int: ...

    def __len__(self) -> int:
        """Return how many slots can be drawn."""
        ...

    def add(self, index: int) -> None:
        """Make a slot drawable; ValueError if it already is."""
        ...

    def remove(self, index: int) -> None:
        """Make a slot undrawable; ValueError if it already is."""
        ...

    def sample(self, batch_size: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Return slots (B,) int64 and importance weights (B,) float32; RuntimeError if there is none to draw."""
        ...

    def update(self, index: np.ndarray, priorities: np.ndarray) -> None:
        """Set the priorities (B,) of slots (B,); slots removed meanwhile are left alone."""
        ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: Mapping[str, Any], places: np.ndarray | None = None) -> None:
        """Take a state back. Args: places, the slot of each slot of a smaller sampler, of which the state is."""
        ...


class UniformSampler:
    """Draw every slot with the same probability, with replacement.

    A dense list of slots and each slot's place in it: removal swaps the last one in, so no draw is ever rejected.
    """

    bytes_per_slot: ClassVar[int] = 8  # two int32

    def __init__(self, capacity: int):
        self._dense = np.zeros(capacity, np.int32)
        self._place = np.full(capacity, -1, np.int32)
        self._count = 0

    @property
    def capacity(self) -> int:
        return len(self._dense)

    def __len__(self) -> int:
        return self._count

    def add(self, index: int) -> None:
        if self._place[index] >= 0:
            raise ValueError(f"slot {index} is already in the sampler")
        self._dense[self._count] = index
        self._place[index] = self._count
        self._count += 1

    def remove(self, index: int) -> None:
        place = self._place[index]
        if place < 0:
            raise ValueError(f"slot {index} is not in the sampler")
        self._count -= 1
        last = self._dense[self._count]
        self._dense[place] = last
        self._place[last] = place
        self._place[index] = -1

    def sample(self, batch_size: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        _check_not_empty(self._count)
        index = self._dense[rng.integers(self._count, size=batch_size)].astype(np.int64)
        return index, np.ones(batch_size, np.float32)

    def update(self, index: np.ndarray, priorities: np.ndarray) -> None:
        """Ignore priorities: an agent may report them whatever the sampler."""

    def state_dict(self) -> dict[str, Any]:
        # The order of the list decides which slot a draw means, so a resume must keep it.
        return {"dense": torch.from_numpy(self._dense[: self._count].copy())}

    def load_state_dict(self, state: Mapping[str, Any], places: np.ndarray | None = None) -> None:
        dense = state["dense"].numpy() if places is None else places[state["dense"].numpy()]
        self._count = len(dense)
        self._dense[: self._count] = dense
        self._place.fill(-1)
        self._place[dense] = np.arange(self._count)


class PrioritizedSampler:
    """Draw slots in proportion to priority ** exponent (Schaul et al. 2016, proportional variant, stratified).

    Weights are (N * p) ** -beta divided by the batch's largest. It goes linearly from the first of `betas` to the last
    over `anneal_updates` calls of `update` (0: it stays). A new slot gets the largest priority seen so far. ConfigError
    for options out of range.
    """

    bytes_per_slot: ClassVar[int] = 16  # two float64

    def __init__(
        self,
        capacity: int,
        *,
        exponent: float = 0.5,
        betas: tuple[float, float] = (0.4, 1.0),
        anneal_updates: int = 0,
    ):
        for name, value in (("exponent", exponent), ("beta", betas[0]), ("last_beta", betas[1])):
            if not 0 <= value <= 1:
                raise ConfigError(f"replay.{name}={value} is not between 0 and 1: choose replay.{name} in that range")
        if anneal_updates < 0:
            raise ConfigError(f"replay.anneal_updates={anneal_updates} is negative: choose 0 to keep beta, or more")
        self._exponent, self._betas, self._anneal_updates = exponent, betas, anneal_updates
        self._tree = _SumTree(capacity)
        self._largest = 1.0
        self._count = 0
        self._updates = 0

    @property
    def capacity(self) -> int:
        return self._tree.size

    @property
    def beta(self) -> float:
        """Exponent of the importance weights, after the updates so far."""
        first, last = self._betas
        share = min(1.0, self._updates / self._anneal_updates) if self._anneal_updates else 0.0
        return first + (last - first) * share

    def __len__(self) -> int:
        return self._count

    def add(self, index: int) -> None:
        if self._tree.mass_of(index) > 0:
            raise ValueError(f"slot {index} is already in the sampler")
        self._tree.set_one(index, self._largest**self._exponent)
        self._count += 1

    def remove(self, index: int) -> None:
        if self._tree.mass_of(index) == 0:
            raise ValueError(f"slot {index} is not in the sampler")
        self._tree.set_one(index, 0.0)
        self._count -= 1

    def sample(self, batch_size: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        _check_not_empty(self._count)
        # One draw from each of B equal slices of the total mass: less variance, the same expected frequencies.
        targets = (np.arange(batch_size) + rng.random(batch_size)) * (self._tree.total / batch_size)
        index = self._tree.find(targets)
        mass = self._tree.masses[index]
        # The batch's smallest mass has its largest weight; N and the total cancel, so no quotient can overflow.
        return index, ((mass.min() / mass) ** self.beta).astype(np.float32)

    def update(self, index: np.ndarray, priorities: np.ndarray) -> None:
        """Set priorities, the last one of a slot that occurs twice; FloatingPointError if one is not finite."""
        priorities = np.asarray(priorities, np.float64)
        if not np.all(np.isfinite(priorities)):
            raise FloatingPointError(
                "a priority is not finite, so the agent's loss is not either; no checkpoint was written of this. Try a "
                "lower agent.learning_rate or agent.precision=float32 in a new run_dir"
            )
        if np.any(priorities < 0):
            raise ValueError(f"priorities must not be negative, got {priorities.min()}")
        self._updates += 1
        live = self._tree.masses[index] > 0
        index, priorities = index[live], np.maximum(priorities[live], _SMALLEST_PRIORITY)
        if len(index):
            self._largest = max(self._largest, float(priorities.max()))
            self._tree.set(index, priorities**self._exponent)

    def state_dict(self) -> dict[str, Any]:
        # Inner sums follow from the leaves bit for bit.
        return {"mass": torch.from_numpy(self._tree.masses.copy()), "largest": self._largest, "updates": self._updates}

    def load_state_dict(self, state: Mapping[str, Any], places: np.ndarray | None = None) -> None:
        mass = state["mass"].numpy()
        if places is not None:
            mass = np.zeros(self.capacity)
            mass[places] = state["mass"].numpy()
        self._tree.rebuild(mass)
        self._largest, self._updates = state["largest"], state["updates"]
        self._count = int(np.count_nonzero(mass))


class PriorityCopy:
    """Priorities (B,) of slots (B,) on their way to main memory, where `take` is the first to wait for the device.

    The values are those of the moment it is made, whatever is written into the tensors afterwards.
    """

    def __init__(self, index: Tensor, priorities: Tensor):
        self._index, self._priorities = _to_host(index), _to_host(priorities)
        self._copied = torch.cuda.current_stream(index.device).record_event() if index.is_cuda else None

    def take(self) -> tuple[np.ndarray, np.ndarray]:
        """Return slots (B,) and priorities (B,) float32."""
        if self._copied is not None:
            self._copied.synchronize()
        return self._index.numpy(), self._priorities.float().numpy()


def _to_host(tensor: Tensor) -> Tensor:
    host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=tensor.is_cuda)
    return host.copy_(tensor.detach(), non_blocking=True)


SAMPLERS: dict[str, type[Sampler]] = {"uniform": UniformSampler, "prioritized": PrioritizedSampler}


class _SumTree:
    """Sums of float64 masses: node i holds nodes 2i and 2i + 1, the root is 1, leaf j is node size + j.

    A parent is always recomputed from its children and never adjusted by a difference, so sums do not drift and are a
    function of the leaves alone. `size` need not be a power of two; leaves then lie on two levels.
    """

    def __init__(self, size: int):
        self.size = size
        self._node = np.zeros(2 * size)
        self._scalar: memoryview[float] = cast(Any, self._node.data)  # scalar access at a third of the cost of NumPy's
        self._levels = (2 * size - 1).bit_length() - 1  # from the deepest leaf to the root
        self.masses = self._node[size:]

    @property
    def total(self) -> float:
        return self._scalar[1]

    def mass_of(self, leaf: int) -> float:
        return self._scalar[self.size + leaf]

    def set_one(self, leaf: int, mass: float) -> None:
        node, scalar = self.size + leaf, self._scalar
        scalar[node] = mass
        while node > 1:
            node >>= 1
            scalar[node] = scalar[2 * node] + scalar[2 * node + 1]

    def set(self, leaves: np.ndarray, masses: np.ndarray) -> None:
        node = leaves + self.size
        self._node[node] = masses
        for _ in range(self._levels):
            # Paths of a shallow leaf arrive early and wait at the root while deep ones correct what they share.
            node = np.maximum(node >> 1, 1)
            left = 2 * node
            self._node[node] = self._node.take(left) + self._node.take(left + 1)

    def rebuild(self, masses: np.ndarray) -> None:
        self.masses[:] = masses
        stop = self.size
        while stop > 1:  # each slice's children all lie behind it
            start = (stop + 1) // 2
            node = self._node
            node[start:stop] = node[2 * start : 2 * stop : 2] + node[2 * start + 1 : 2 * stop : 2]
            stop = start

    def find(self, targets: np.ndarray) -> np.ndarray:
        """Return for each target (B,) the first leaf whose cumulative mass in the tree's order exceeds it.

        A branch of mass 0 is never entered, however the subtraction rounded, so an empty leaf is never returned while
        any other is left; the work is fixed by the depth.
        """
        node = np.ones(len(targets), np.int64)
        for _ in range(self._levels - 1):
            node, targets = self._descend(node, targets)
        inner = node < self.size  # on the last level but one some have reached a leaf
        node[inner], _ = self._descend(node[inner], targets[inner])
        return node - self.size

    def _descend(self, node: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        left = 2 * node
        below = self._node.take(left)
        right = (targets >= below) & (self._node.take(left + 1) > 0)
        return left + right, targets - below * right


def _check_not_empty(count: int) -> None:
    if count == 0:
        raise RuntimeError("nothing to sample: the replay holds no complete transition yet; collect more steps")
