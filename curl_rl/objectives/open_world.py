"""The objective that gathers each known class, so that what belongs to none shows by its distance."""

from dataclasses import dataclass

import torch
from torch import Tensor

from curl_rl.nn.losses import hinged_distances
from curl_rl.nn.parts import ClassMemory, by_class, projection_head
from curl_rl.objectives.base import Objective, ObjectiveConfig
from curl_rl.options import LONGEST, option
from curl_rl.types import Batch, Features, Metrics, Shapes, Views


@dataclass(frozen=True)
class OpenWorldConfig(ObjectiveConfig):
    name: str = "open_world"
    classes: int = option(32, "classes of the frames, at most; the last has the rest", at_least=2, at_most=256)
    items: int = option(20, "latest embeddings kept of each class; the original's", at_least=1)
    margin: float = option(10.0, "distance from another class's prototype that is enough; the original's", above=0)
    start: int = option(
        100, "updates before prototypes are made; the paper: 1,000", at_least=1, at_most=LONGEST, counts="updates"
    )
    period: int = option(
        100, "updates from one move of prototypes to the next; the paper: 3,000", at_least=1, at_most=LONGEST,
        counts="updates",
    )  # fmt: skip
    momentum: float = option(0.99, "weight of a prototype's old place; the paper's", at_least=0, below=1)
    projection_dim: int = option(128, "width of the embeddings; the paper: 2,048, its features", at_least=1)
    projection_hidden: int = option(256, "width of the projection head's hidden layer", at_least=1)

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"classes"})


class OpenWorld(Objective):
    """Pull embeddings to the prototype of their class, and push them a margin away from all others.

    Contrastive clustering of Joseph et al. 2021 (ORE), section 4.1: equations 1 and 2, algorithm 1. A prototype is a
    moving average of the mean of its class's latest embeddings; before there are any, the loss is zero.
    """

    Config = OpenWorldConfig

    def __init__(self, config: OpenWorldConfig, shapes: Shapes):
        super().__init__(config, shapes)
        widths = shapes.feature_dim, config.projection_hidden, config.projection_dim
        self.head = projection_head(*widths, last_norm=True)
        self.store = ClassMemory(config.classes, config.items, config.projection_dim)
        self.prototypes: Tensor
        self.made: Tensor  # which classes have a prototype
        self.count: Tensor  # updates taken
        self.register_buffer("prototypes", torch.zeros(config.classes, config.projection_dim))
        self.register_buffer("made", torch.zeros(config.classes, dtype=torch.bool))
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))
        self._pending: tuple[Tensor, Tensor] | None = None

    def forward(self, batch: Batch, views: Views, online: Features, target: Features) -> tuple[Tensor, Metrics]:
        if batch.classes is None:
            raise ValueError("objective=open_world reads Batch.classes: give frames that have classes")
        embeddings = self.head(torch.cat([online(view.images) for view in views]))
        classes = batch.classes.clamp(max=self.config.classes - 1).repeat(2)
        self._pending = embeddings.detach(), classes
        loss, accuracy = hinged_distances(embeddings, classes, self.prototypes, self.made, self.config.margin)
        return loss, {"accuracy": accuracy, "prototypes": self.made.sum().float()}

    @torch.no_grad()
    def after_step(self) -> None:
        """Store the embeddings, and where it is time move the prototypes; a class that has none yet gets the mean."""
        if self._pending is None:
            return
        self.store.push(*_grouped(*self._pending, self.config.classes, self.config.items))
        self._pending = None
        self.count.add_(1)
        known = self.store.known()
        means = (self.store.rows * known[..., None]).sum(1) / known.sum(1, keepdim=True).clamp(min=1)
        since = self.count - self.config.start
        due = (since >= 0) & (since % self.config.period == 0) & known.any(1)
        moved = torch.where(self.made[:, None], means.lerp(self.prototypes, self.config.momentum), means)
        self.prototypes.copy_(torch.where(due[:, None], moved, self.prototypes))
        self.made.logical_or_(due)


def _grouped(rows: Tensor, classes: Tensor, count: int, most: int) -> tuple[Tensor, Tensor]:
    """Return the last rows (n, D) of each class as (count, V, D), at most `most`, and which are some (count, V).

    Rows of class -1, which is none, are left out.
    """
    rank = torch.arange(len(rows), device=rows.device)
    order, starts = by_class(torch.where(classes < 0, count, classes), count, rank)
    first = torch.maximum(starts[:-1], starts[1:] - most)
    places = first[:, None] + rank[:most]
    return rows[order[places.clamp(max=len(rows) - 1)]], places < starts[1:, None]
