"""What several objectives are made of: projection heads, queues, schedules and random numbers, all kept by a resume."""

import itertools
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Norm = Literal["batch", "layer", "none"]


def projection_head(
    in_dim: int, hidden_dim: int, out_dim: int, *, depth: int = 2, norm: Norm = "batch", last_norm: bool = False
) -> nn.Sequential:
    """Build `depth` linear layers with a normalisation and a ReLU between them.

    Batches are normalised by their own statistics alone: a head is never used outside training, and keeps none.
    `last_norm` adds a batch normalisation without scale and shift after the last one (Chen and He 2020).
    """
    widths = [in_dim, *[hidden_dim] * (depth - 1), out_dim]
    layers: list[nn.Module] = []
    for i, (width, following) in enumerate(itertools.pairwise(widths)):
        last = i == depth - 1
        layers.append(nn.Linear(width, following, bias=norm == "none" or (last and not last_norm)))
        if not last:
            layers += [*_normalisation(norm, following), nn.ReLU()]
    if last_norm:
        layers.append(nn.BatchNorm1d(out_dim, affine=False, track_running_stats=False))
    return nn.Sequential(*layers)


def _normalisation(norm: Norm, width: int) -> list[nn.Module]:
    return {"batch": [nn.BatchNorm1d(width, track_running_stats=False)], "layer": [nn.LayerNorm(width)], "none": []}[
        norm
    ]


class Queue(nn.Module):
    """A ring of the last `size` rows pushed; what has not been pushed yet are random unit vectors (He et al. 2020).

    Batches need not divide it, and nothing waits for the device.
    """

    def __init__(self, size: int, dim: int):
        super().__init__()
        self.rows: Tensor
        self.place: Tensor
        self.filled: Tensor
        self.register_buffer("rows", F.normalize(torch.randn(size, dim), dim=1))
        self.register_buffer("place", torch.zeros((), dtype=torch.int64))
        self.register_buffer("filled", torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def push(self, rows: Tensor) -> None:
        """Put rows (B, dim) in the places of the oldest; of more rows than places the last stay."""
        size = len(self.rows)
        rows = rows.detach()[-size:].to(self.rows.dtype)
        places = (self.place + torch.arange(len(rows), device=rows.device)) % size
        self.rows.index_copy_(0, places, rows)
        self.place.add_(len(rows)).remainder_(size)
        self.filled.add_(len(rows)).clamp_(max=size)


class ClassMemory(nn.Module):
    """A ring of the last `size` embeddings of each class."""

    def __init__(self, classes: int, size: int, dim: int):
        super().__init__()
        self.rows: Tensor
        self.place: Tensor
        self.filled: Tensor
        self.register_buffer("rows", torch.zeros(classes, size, dim))
        self.register_buffer("place", torch.zeros(classes, dtype=torch.int64))
        self.register_buffer("filled", torch.zeros(classes, dtype=torch.int64))

    def known(self) -> Tensor:
        """Return which rows have been pushed, (classes, size) bool."""
        return torch.arange(self.rows.shape[1], device=self.rows.device) < self.filled[:, None]

    @torch.no_grad()
    def push(self, rows: Tensor, valid: Tensor) -> None:
        """Put the valid rows of each class, the first ones of (classes, V, dim), in the places of its oldest."""
        size, count = self.rows.shape[1], valid.sum(1)
        places = (self.place[:, None] + torch.arange(rows.shape[1], device=rows.device)) % size
        kept = self.rows.take_along_dim(places[..., None], 1)
        new = torch.where(valid[..., None], rows.to(kept.dtype), kept)
        self.rows.scatter_(1, places[..., None].expand_as(new), new)
        self.place.add_(count).remainder_(size)
        self.filled.add_(count).clamp_(max=size)


def by_class(classes: Tensor, count: int, rank: Tensor) -> tuple[Tensor, Tensor]:
    """Return the items in order of class, within a class of rank (n,), and where each class starts (count + 1,).

    Args: classes (n,) int64 below `count`, rank (n,) int64 in [0, 2**32).
    """
    keys, order = ((classes << 32) | rank).sort(stable=True)
    return order, torch.searchsorted(keys, torch.arange(count + 1, device=keys.device) << 32)


class Schedule(nn.Module):
    """Counts calls, and tells every `period`-th."""

    def __init__(self, period: int):
        super().__init__()
        self.period, self.count = period, 0

    def due(self) -> bool:
        """Count a call; return whether it is one of every `period`."""
        self.count += 1
        return self.count % self.period == 0

    def get_extra_state(self) -> int:
        return self.count

    def set_extra_state(self, state: int) -> None:
        self.count = state


class Random(nn.Module):
    """A generator on the CPU, seeded from torch's own when it is made."""

    def __init__(self) -> None:
        super().__init__()
        self.generator = torch.Generator().manual_seed(int(torch.randint(2**62, (), device="cpu")))

    def get_extra_state(self) -> Tensor:
        return self.generator.get_state()

    def set_extra_state(self, state: Tensor) -> None:
        self.generator.set_state(state.cpu())
