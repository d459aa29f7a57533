"""Objectives that tell an image's other crop, seen by the moving-average encoder, from a queue of earlier ones."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from curl_rl.nn.losses import info_nce, mix_negatives, queue_logits
from curl_rl.nn.networks import frozen_copy, move_average
from curl_rl.nn.parts import Queue, Random, Schedule, projection_head
from curl_rl.objectives.base import Objective, ObjectiveConfig
from curl_rl.options import LONGEST, option
from curl_rl.types import Batch, ConfigError, Features, Metrics, Shapes, Views


@dataclass(frozen=True)
class MocoConfig(ObjectiveConfig):
    name: str = "moco"
    temperature: float = option(0.2, "divisor of the similarities; MoCo v2's, v1 took 0.07", above=0)
    queue_size: int = option(
        4096, "keys kept as negatives; the paper: 65536", at_least=1, at_most=2**20, counts="samples"
    )
    projection_dim: int = option(128, "width of the projections; the paper's", at_least=1)
    projection_hidden: int = option(256, "width of the head's hidden layer; MoCo v2: 2048", at_least=1)
    projection_tau: float = option(0.001, "weight of new parameters in the key's head; the paper's", above=0, at_most=1)


class Moco(Objective):
    """Momentum contrast: a query against its key and a queue of former keys (He et al. 2020, algorithm 1).

    The head's two layers are batch-normalised as in MoCo v3 (Chen et al. 2021): an agent's encoder and its moving
    average change faster than the paper's, and without it a key is told from older ones by their common drift alone.
    Batches are not shuffled between the two heads, as the paper does against statistics that query and key share.
    """

    Config = MocoConfig
    target_views = ("key",)

    def __init__(self, config: MocoConfig, shapes: Shapes):
        super().__init__(config, shapes)
        width = config.projection_dim
        self.head = projection_head(shapes.feature_dim, config.projection_hidden, width, last_norm=True)
        self.target_head = frozen_copy(self.head)
        self.queue = Queue(config.queue_size, width)
        self.owners = Queue(config.queue_size, 1)  # the replay slot of each key; float32 is exact up to 2^24 slots
        self.owners.rows.fill_(-1)
        self._pushed: tuple[Tensor, Tensor] | None = None

    def forward(self, batch: Batch, views: Views, online: Features, target: Features) -> tuple[Tensor, Metrics]:
        query = F.normalize(self.head(online(views.query.images)), dim=1)
        with torch.no_grad():
            key = F.normalize(self.target_head(target(views.key.images)), dim=1)
        self._pushed = key, batch.index[:, None]
        logits = self._logits(query, key, batch.index) / self.config.temperature
        loss, accuracy = info_nce(logits, torch.zeros_like(batch.index))
        return loss, {"accuracy": accuracy}

    def _logits(self, query: Tensor, key: Tensor, index: Tensor) -> Tensor:
        """Return the similarities (B, 1 + K) to the key and to the negatives."""
        # A small replay repeats an observation within the queue, which an epoch of the paper's data never did:
        # its own former keys are no negatives.
        own = F.pad(index[:, None] == self.owners.rows.T, (1, 0))
        return queue_logits(query, key, self.queue.rows).masked_fill(own, -math.inf)

    def after_step(self) -> None:
        """Move the key's head and put the new keys into the queue, whose rows the backward pass has read by now."""
        move_average(self.target_head, self.head, self.config.projection_tau)
        if self._pushed is not None:
            self.queue.push(self._pushed[0])
            self.owners.push(self._pushed[1])
            self._pushed = None


@dataclass(frozen=True)
class MochiConfig(MocoConfig):
    name: str = "mochi"
    hardest: int = option(256, "negatives of a query that mix; the paper: 1024", at_least=1, at_most="queue_size")
    mixed: int = option(256, "mixtures of two negatives for each query; the paper's 1024 for 16384 keys", at_least=0)
    mixed_with_query: int = option(32, "mixtures of negative and query; the paper: 128 of 16384", at_least=0)
    warmup: int = option(
        500, "updates before mixing begins; the paper: 10 epochs of 100", at_least=0, at_most=LONGEST, counts="updates"
    )

    def __post_init__(self) -> None:
        if not self.mixed and not self.mixed_with_query:
            raise ConfigError("objective.mixed and objective.mixed_with_query are both 0: that is objective=moco")

    @property
    def capturable(self) -> bool:
        return False


class Mochi(Moco):
    """Momentum contrast with harder negatives, mixed of each query's hardest (Kalantidis et al. 2020, section 4)."""

    Config = MochiConfig

    def __init__(self, config: MochiConfig, shapes: Shapes):
        super().__init__(config, shapes)
        self.random = Random()
        self.updates = Schedule(1)

    def _logits(self, query: Tensor, key: Tensor, index: Tensor) -> Tensor:
        logits = super()._logits(query, key, index)
        if self.updates.count < self.config.warmup:
            return logits
        hardest = logits[:, 1:].topk(self.config.hardest)
        mixtures, own = self._mixtures(query, hardest.indices, hardest.values.isinf())
        return torch.cat([logits, (mixtures @ query[:, :, None]).squeeze(2).masked_fill(own, -math.inf)], 1)

    def _mixtures(self, query: Tensor, hardest: Tensor, own: Tensor) -> tuple[Tensor, Tensor]:
        """Return unit-length negatives (B, s + s', d) mixed of the queue's rows `hardest` (B, N) and of the query.

        And which of them (B, s + s') have a part that is the query's `own` former key (B, N).
        """
        both, with_query = self.config.mixed, self.config.mixed_with_query
        size, generator = len(query), self.random.generator
        picks = torch.randint(hardest.shape[1], (size, 2 * both + with_query), generator=generator)
        share = torch.rand((size, both + with_query, 1), generator=generator).to(query.device)
        picks = picks.to(query.device)
        first, second, other = self.queue.rows[hardest.gather(1, picks)].split([both, both, with_query], 1)
        parts = own.gather(1, picks).split([both, both, with_query], 1)
        of_two = mix_negatives(first, second, share[:, :both])
        mixtures = torch.cat([of_two, mix_negatives(query[:, None], other, share[:, both:] / 2)], 1)
        return mixtures, torch.cat([parts[0] | parts[1], parts[2]], 1)

    def after_step(self) -> None:
        """Do what MoCo does, and count the update."""
        super().after_step()
        self.updates.due()
