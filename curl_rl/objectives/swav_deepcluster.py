"""Objectives that tell from one crop to which of many prototypes the other belongs."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from curl_rl.nn.clustering import k_means
from curl_rl.nn.losses import cluster_cross_entropy, sinkhorn, swapped_prediction
from curl_rl.nn.networks import frozen_copy, move_average
from curl_rl.nn.parts import Queue, Random, Schedule, projection_head
from curl_rl.objectives.base import Objective, ObjectiveConfig
from curl_rl.options import LONGEST, option
from curl_rl.types import Batch, Features, Metrics, Shapes, Views


@dataclass(frozen=True)
class _PrototypesConfig(ObjectiveConfig):
    temperature: float = option(0.1, "divisor of the similarities in the cross-entropy; the paper's", above=0)
    projection_dim: int = option(128, "width of the projections; the paper's", at_least=1)
    projection_hidden: int = option(256, "width of the head's hidden layer; the paper: 2048, its encoder's", at_least=1)


@dataclass(frozen=True)
class SwavConfig(_PrototypesConfig):
    # The original's but for sizes: as many prototypes as Proto-RL (Yarats et al. 2021), as many samples for each as the
    # original's queue and batch bring, and a queue from 8 % of 25,000 updates on, for the original's 15 of 200 epochs.
    name: str = "swav"
    prototypes: int = option(512, "number of prototypes; the paper: 3000 for 1.28 million images", at_least=2)
    epsilon: float = option(0.05, "weight of the codes' entropy; the paper's", above=0)
    sinkhorn_iterations: int = option(3, "rounds of normalisation that make codes", at_least=1, at_most=1000)
    queue_size: int = option(
        640, "past samples in the codes; 0: none; the paper: 3840", at_least=0, at_most=2**20, counts="samples"
    )
    queue_start: int = option(
        2000, "updates before the queue is used", at_least=0, at_most=LONGEST, where="queue_size", counts="updates"
    )
    freeze_updates: int = option(
        313, "updates before prototypes learn; the original's", at_least=0, at_most=LONGEST, counts="updates"
    )


class Swav(Objective):
    """Each view predicts the other's code, an assignment to prototypes that uses all of them alike.

    Both views pass through the online encoder; codes take no gradient. Source: Caron et al. 2020 (SwAV), two crops.
    """

    Config = SwavConfig

    def __init__(self, config: SwavConfig, shapes: Shapes):
        super().__init__(config, shapes)
        width = config.projection_dim
        self.head = projection_head(shapes.feature_dim, config.projection_hidden, width)
        self.prototypes = nn.Parameter(F.normalize(torch.randn(config.prototypes, width), dim=1))
        self.queue = Queue(config.queue_size, 2 * width)  # both views of a sample in one row
        self.updates: Tensor
        self.register_buffer("updates", torch.zeros((), dtype=torch.int64))
        self._fresh: Tensor | None = None

    def forward(self, batch: Batch, views: Views, online: Features, target: Features) -> tuple[Tensor, Metrics]:
        features = torch.cat([online(views.query.images), online(views.key.images)])
        projections = F.normalize(self.head(features), dim=1).unflatten(0, (2, -1))
        self._fresh = projections.detach()
        frozen = self.updates < self.config.freeze_updates
        scores = projections @ torch.where(frozen, self.prototypes.detach(), self.prototypes).T
        logits = scores / self.config.temperature
        loss, accuracy = swapped_prediction(logits, self._codes(scores))
        return loss, {"accuracy": accuracy, "perplexity": _perplexity(logits)}

    @torch.no_grad()
    def _codes(self, scores: Tensor) -> Tensor:
        """Return the codes of a batch's scores (2, B, K), balanced over the queue and the batch."""
        size, count = self.config.queue_size, scores.shape[1]
        # The original only then begins to fill its queue; here it holds the latest projections by that time.
        ready = (self.updates >= self.config.queue_start) & (self.queue.filled == size)
        counted = torch.cat([ready.expand(size), ready.new_ones(count)])
        past = self.queue.rows.unflatten(1, (2, -1)).transpose(0, 1) @ self.prototypes.T
        everything = torch.cat([past, scores], 1)
        codes = sinkhorn(everything, self.config.epsilon, iterations=self.config.sinkhorn_iterations, counted=counted)
        return codes[:, size:]

    @torch.no_grad()
    def after_step(self) -> None:
        if self._fresh is None:  # a loss of weight zero is not computed
            return
        if self.config.queue_size:
            self.queue.push(self._fresh.transpose(0, 1).flatten(1))
        self._fresh = None
        self.prototypes.copy_(F.normalize(self.prototypes, dim=1))
        self.updates += 1


@dataclass(frozen=True)
class DeepClusterConfig(_PrototypesConfig):
    # Three clusterings as in the original; their sizes leave 64 samples for each cluster, and k-means 2 % of the time.
    name: str = "deepcluster"
    clusters: tuple[int, ...] = option(
        (64, 64, 64), "clusters of each k-means; the original: 3 times 3000", at_least=2, at_most="store_size"
    )
    store_size: int = option(
        4096, "past samples that are clustered; the original: all", at_least=1, at_most=2**20, counts="samples"
    )
    iterations: int = option(10, "rounds of k-means; the original's", at_least=1, at_most=1000)
    period: int = option(500, "updates from one k-means to the next", at_least=1, at_most=LONGEST, counts="updates")
    projection_tau: float = option(0.001, "weight of new parameters in the target's head", above=0, at_most=1)

    @property
    def capturable(self) -> bool:
        return False  # k-means runs between updates


class DeepCluster(Objective):
    """The query predicts the key's cluster; k-means over past projections renews the clusters every `period` updates.

    The form is DeepCluster-v2's: projections and centroids on the unit sphere, centroids in the classifier's place, one
    k-means for each entry of `clusters`. There a label is the cluster of what the image was projected to in the epoch
    before, kept for each image of the data set. A replay's images come and go, and one is drawn again only after many a
    refresh, when a kept label would name a cluster that is no more. So a ring keeps the latest projections, and a
    sample's label is the centroid nearest to its key under the *target* encoder and head: as in the original, an older
    network gives it, it hardly changes from one refresh to the next, and it depends on another crop than the one that
    predicts it. Until the first refresh centroids are random directions: a hash of the image on which crops must agree.

    Source: Caron et al. 2018 (DeepCluster); Caron et al. 2020 (SwAV), section 4.2 and repository (DeepCluster-v2).
    """

    Config = DeepClusterConfig
    target_views = ("key",)

    def __init__(self, config: DeepClusterConfig, shapes: Shapes):
        super().__init__(config, shapes)
        width = config.projection_dim
        self.head = projection_head(shapes.feature_dim, config.projection_hidden, width)
        self.target_head = frozen_copy(self.head)
        self.store = Queue(config.store_size, width)
        self.centroids: Tensor
        self.register_buffer("centroids", F.normalize(torch.randn(sum(config.clusters), width), dim=1))
        self.schedule, self.random = Schedule(config.period), Random()
        self._fresh: Tensor | None = None

    def forward(self, batch: Batch, views: Views, online: Features, target: Features) -> tuple[Tensor, Metrics]:
        # In the original every crop predicts; here the query alone, whose features the critic has already paid for.
        query = F.normalize(self.head(online(views.query.images)), dim=1)
        with torch.no_grad():
            key = F.normalize(self.target_head(target(views.key.images)), dim=1)
        self._fresh = key
        temperature, clusters = self.config.temperature, self.centroids.split(self.config.clusters)
        heads = [cluster_cross_entropy(query, key, centroids, temperature) for centroids in clusters]
        loss, accuracy = (torch.stack(values).mean() for values in zip(*heads, strict=True))
        return loss, {"accuracy": accuracy, "perplexity": _perplexity(query @ clusters[0].T / temperature)}

    def after_step(self) -> None:
        if self._fresh is None:  # a loss of weight zero is not computed
            return
        move_average(self.target_head, self.head, self.config.projection_tau)
        self.store.push(self._fresh)
        full = math.ceil(self.config.store_size / len(self._fresh))  # counted here: reading `filled` would wait
        self._fresh = None
        if self.schedule.due() or self.schedule.count == full:
            self._refresh()

    @torch.no_grad()
    def _refresh(self) -> None:
        """Cluster the stored projections; with fewer of them than clusters, wait for the next time."""
        rows, generator = self.store.rows[: int(self.store.filled)], self.random.generator
        if len(rows) < max(self.config.clusters):
            return
        # The original draws its first centroids uniformly and puts centroids back on the sphere at every round.
        runs = (k_means(rows, count, generator, iterations=self.config.iterations) for count in self.config.clusters)
        self.centroids.copy_(F.normalize(torch.cat([centres for centres, _ in runs]), dim=1))


@torch.no_grad()
def _perplexity(logits: Tensor) -> Tensor:
    """Return how many prototypes the mean prediction amounts to: K where all are used alike, 1 where one is."""
    mean = logits.softmax(-1).flatten(0, -2).mean(0)
    return torch.special.entr(mean).sum().exp()
