"""Objectives that contrast an image with clusters found now and then among the latest features."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from curl_rl.nn.clustering import density_clusters, k_means, nearest, reciprocal_distances, reliable_clusters
from curl_rl.nn.losses import concentration, hybrid_contrast, info_nce, proto_nce, queue_logits
from curl_rl.nn.networks import frozen_copy, move_average
from curl_rl.nn.parts import Queue, Random, Schedule, projection_head
from curl_rl.objectives.base import Objective, ObjectiveConfig
from curl_rl.options import LONGEST, option
from curl_rl.types import Batch, Features, Metrics, Shapes, Views

_EMPTY = -2  # the label of a memory row that holds nothing yet; -1 is an instance in no cluster


@dataclass(frozen=True)
class _ClusteringConfig(ObjectiveConfig):
    temperature: float = option(0.2, "divisor of the similarities; PCL's", above=0)
    period: int = option(
        500, "updates between clusterings; the originals: an epoch", at_least=1, at_most=LONGEST, counts="updates"
    )
    warmup: int = option(
        500, "updates of instances alone, rounded up to the period", at_least=0, at_most=LONGEST, counts="updates"
    )
    projection_dim: int = option(128, "width of the projections; PCL's", at_least=1)
    projection_hidden: int = option(256, "width of the head's hidden layer; PCL: 2048, its encoder's", at_least=1)
    projection_tau: float = option(0.001, "weight of new parameters in the key's head; PCL's", above=0, at_most=1)

    @property
    def capturable(self) -> bool:
        return False  # the clustering runs between updates


class _Clustering(Objective):
    """Projections of unit length, the key's by moving averages, and a clustering every `period` updates."""

    target_views = ("key",)

    def __init__(self, config: _ClusteringConfig, shapes: Shapes):
        super().__init__(config, shapes)
        # The originals' networks are batch-normalised throughout. Without it all features drift in one direction as the
        # encoder learns, and what is remembered gives itself away by its age.
        self.head = projection_head(shapes.feature_dim, config.projection_hidden, config.projection_dim, last_norm=True)
        self.target_head = frozen_copy(self.head)
        self.schedule = Schedule(config.period)

    def embed(self, views: Views, online: Features, target: Features) -> tuple[Tensor, Tensor]:
        """Return query and key, each (B, d)."""
        query = F.normalize(self.head(online(views.query.images)), dim=1)
        with torch.no_grad():
            return query, F.normalize(self.target_head(target(views.key.images)), dim=1)

    def after_step(self) -> None:
        move_average(self.target_head, self.head, self.config.projection_tau)
        if self.schedule.due() and self.schedule.count >= self.config.warmup:
            self.refresh()

    def refresh(self) -> None:
        """Find the clusters anew; it may wait for the device."""
        raise TypeError(f"{type(self).__name__} finds no clusters")


@dataclass(frozen=True)
class PclConfig(_ClusteringConfig):
    name: str = "pcl"
    queue_size: int = option(
        2048, "latest keys, negatives and clustered; PCL: 16384", at_least=1, at_most=2**20, counts="samples"
    )
    # As many keys to a prototype as the paper has images: 1.28 million to 25, 50 and 100 thousand.
    clusters: tuple[int, ...] = option(
        (40, 80, 160), "prototypes of each set; PCL: 25, 50 and 100 thousand", at_least=2, at_most="queue_size"
    )


class Pcl(_Clustering):
    """Contrast a query with its key and with the prototypes of its key's clusters (Li et al. 2021, PCL, algorithm 1).

    The data set of a replay grows and is larger than what can be clustered, so k-means runs over the latest keys, and a
    key belongs to its nearest prototype of the moment instead of keeping its image's cluster for an epoch.
    """

    Config = PclConfig

    def __init__(self, config: PclConfig, shapes: Shapes):
        super().__init__(config, shapes)
        self.queue = Queue(config.queue_size, config.projection_dim)
        self.random = Random()
        self.centres: Tensor
        self.phi: Tensor
        self.ready: Tensor  # 1 once there are prototypes, 0 before
        self.register_buffer("centres", torch.zeros(sum(config.clusters), config.projection_dim))
        self.register_buffer("phi", torch.full((sum(config.clusters),), config.temperature))
        self.register_buffer("ready", torch.zeros(()))
        self._pushed: Tensor | None = None

    def forward(self, batch: Batch, views: Views, online: Features, target: Features) -> tuple[Tensor, Metrics]:
        query, key = self.embed(views, online, target)
        logits = queue_logits(query, key, self.queue.rows) / self.config.temperature
        loss, accuracy = info_nce(logits, torch.zeros(len(query), dtype=torch.int64, device=query.device))
        prototype_loss, prototype_accuracy = self._prototype_loss(query, key)
        self._pushed = key
        metrics = {"prototype_loss": prototype_loss.detach(), "prototype_accuracy": prototype_accuracy}
        return loss + prototype_loss, {"accuracy": accuracy, **metrics}

    def after_step(self) -> None:
        """Put the new keys into the queue, then do what every clustering does."""
        if self._pushed is not None:
            self.queue.push(self._pushed)
            self._pushed = None
        super().after_step()

    def _prototype_loss(self, query: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
        """Return loss and accuracy, each the mean over the sets of prototypes, 0 before there are any."""
        results = [
            proto_nce(query, F.normalize(centres, dim=1), nearest(key, centres), phi) for centres, phi in self._sets()
        ]
        loss, accuracy = (torch.stack(values).mean() * self.ready for values in zip(*results, strict=True))
        return loss, accuracy

    def _sets(self) -> Iterator[tuple[Tensor, ...]]:
        """Yield each set's centres (K, d) and concentrations (K,), as views of the buffers."""
        return zip(self.centres.split(self.config.clusters), self.phi.split(self.config.clusters), strict=True)

    @torch.no_grad()
    def refresh(self) -> None:
        """Find the prototypes and their concentrations, once there are as many keys as prototypes."""
        keys = self.queue.rows[: int(self.queue.filled)]
        if len(keys) < max(self.config.clusters):
            return
        for centres, phi in self._sets():
            found, assignment = k_means(keys, len(centres), self.random.generator)
            centres.copy_(found)
            phi.copy_(concentration(keys, found, assignment, self.config.temperature))
        self.ready.fill_(1)


@dataclass(frozen=True)
class SpclConfig(_ClusteringConfig):
    name: str = "spcl"
    temperature: float = option(0.05, "divisor of the similarities; SpCL's", above=0)
    memory_size: int = option(1024, "rows of the memory; SpCL: one for each image", at_least=1, at_most=16_384)
    memory_tau: float = option(0.8, "weight of a transition's new key in its memory row; SpCL's", above=0, at_most=1)
    # The original's radius 0.6 and 30 neighbours, for 13 thousand images, join most of a thousand rows in one cluster.
    radius: float = option(0.5, "largest Jaccard distance in a cluster; SpCL: 0.6 of 30", above=0, at_most=1)
    radius_gap: float = option(0.02, "change of radius that tells reliable clusters", at_least=0, below="radius")
    min_samples: int = option(4, "neighbours, itself too, that make a core; SpCL's", at_least=1, at_most="memory_size")
    neighbors: int = option(20, "nearest rows among which neighbours must find each other; SpCL: 30", at_least=1)
    expansion: int = option(6, "nearest rows over which the sets of neighbours are averaged; SpCL's", at_least=1)
    join: bool = option(True, "a new row joins its nearest neighbour's cluster at once; false: at the next clustering")


class Spcl(_Clustering):
    """Contrast a query with the clusters and lone instances of a memory (Ge et al. 2020, SpCL, without labelled data).

    The original keeps a row for each image of its data set; a replay grows and forgets, so the memory is a hash table:
    the transition in replay slot i has row i modulo the memory's size, with slot and episode kept beside it to tell
    whose it is. A transition that finds its own row moves it by `memory_tau`; any other takes the row over. Where two
    of a batch want one row, the later has it and the other is left out of the loss. Rows are written before the
    contrast, as a new transition has none to be compared with, and from the key, not from the query itself.

    A row taken over is in no cluster until the next clustering. As a large replay takes all rows over long before that,
    `join` lets it in at once: into the cluster of the nearest row, if the two are reciprocal neighbours.
    """

    Config = SpclConfig

    def __init__(self, config: SpclConfig, shapes: Shapes):
        super().__init__(config, shapes)
        size = config.memory_size
        # Every cluster has that many rows around a core; those that share them so that more fit are left out.
        self.clusters = size // config.min_samples
        self.rows: Tensor
        self.owner: Tensor  # (M, 2): replay slot and episode
        self.labels: Tensor
        self.register_buffer("rows", torch.zeros(size, config.projection_dim))
        self.register_buffer("owner", torch.full((size, 2), -1))
        self.register_buffer("labels", torch.full((size,), _EMPTY))
        self._written: tuple[Tensor, Tensor, Tensor] | None = None

    def forward(self, batch: Batch, views: Views, online: Features, target: Features) -> tuple[Tensor, Metrics]:
        query, key = self.embed(views, online, target)
        owner = torch.stack([batch.index, batch.episode], 1)
        memory, owners, labels = self._written = self._write(owner, key)
        row = batch.index % len(memory)
        valid = (owners[row] == owner).all(1)
        loss, accuracy = hybrid_contrast(
            query, memory, labels, row, valid, clusters=self.clusters, temperature=self.config.temperature
        )
        clustered = (valid & (labels[row] >= 0)).sum() / valid.sum()
        return loss, {"accuracy": accuracy, "clustered": clustered}

    def after_step(self) -> None:
        """Keep what was written, then do what every clustering does."""
        self._keep()
        super().after_step()

    def _keep(self) -> None:
        if self._written is not None:
            for kept, new in zip((self.rows, self.owner, self.labels), self._written, strict=True):
                kept.copy_(new)
            self._written = None

    def _write(self, owner: Tensor, key: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the memory (M, d), its owners (M, 2) and labels (M,) with the keys (B, d) of these owners (B, 2)."""
        size = len(self.rows)
        place = torch.arange(len(key), device=key.device)
        last = torch.full((size,), -1, device=key.device).scatter_reduce_(0, owner[:, 0] % size, place, "amax")
        written, last = last >= 0, last.clamp(min=0)  # from here on each row gathers what is its own: no write collides
        same = written & (self.owner == owner[last]).all(1)
        moved = F.normalize(self.rows.lerp(key[last], self.config.memory_tau), dim=1)
        rows = torch.where(written[:, None], torch.where(same[:, None], moved, key[last]), self.rows)
        fresh = self._join(key)[last] if self.config.join else -1
        labels = torch.where(written & ~same, fresh, self.labels)
        return rows, torch.where(written[:, None], owner[last], self.owner), labels

    def _join(self, key: Tensor) -> Tensor:
        """Return the clusters (B,) that new keys (B, d) join, -1 for none."""
        empty = self.labels == _EMPTY
        similarity, row = (key @ self.rows.T).masked_fill(empty, -torch.inf).max(1)
        others = (self.rows[row] @ self.rows.T).masked_fill(empty, -torch.inf)
        reach = others.topk(min(self.config.neighbors, len(empty))).values[:, -1]
        return torch.where(similarity >= reach, self.labels[row], -1).clamp(min=-1)

    @torch.no_grad()
    def refresh(self) -> None:
        """Cluster the memory, and make instances of the clusters that are not reliable."""
        c = self.config
        filled = (self.labels != _EMPTY).nonzero()[:, 0]
        distances = reciprocal_distances(self.rows[filled], c.neighbors, c.expansion)
        radii = (c.radius, c.radius - c.radius_gap, c.radius + c.radius_gap)
        labels, tight, loose = (density_clusters(distances, radius, c.min_samples) for radius in radii)
        labels = reliable_clusters(labels, tight, loose)
        self.labels[filled] = labels.masked_fill(labels >= self.clusters, -1)
