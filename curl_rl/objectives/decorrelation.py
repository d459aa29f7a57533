"""Objectives that bring two views together and keep the features of a batch apart by their second moments."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from curl_rl.nn.losses import barlow_twins_loss, vicreg_terms, wmse_loss
from curl_rl.nn.parts import projection_head
from curl_rl.objectives.base import Objective, ObjectiveConfig
from curl_rl.options import option
from curl_rl.types import Batch, ConfigError, Features, Metrics, Shapes, Views


@dataclass(frozen=True)
class _EmbeddingConfig(ObjectiveConfig):
    projection_hidden: int = option(256, "width of the head's hidden layers; the papers: 1024 to 8192", at_least=1)
    projection_dim: int = option(256, "width of the embeddings; the papers: 8192", at_least=1)


class _Embedding(Objective):
    """Embeddings of both views by the online encoder and one head; no target."""

    depth: ClassVar[int] = 3

    def __init__(self, config: _EmbeddingConfig, shapes: Shapes):
        super().__init__(config, shapes)
        self.head = projection_head(
            shapes.feature_dim, config.projection_hidden, config.projection_dim, depth=self.depth
        )
        # The losses centre the embeddings, so a last bias would never learn.
        self.head[-1].register_parameter("bias", None)

    def embed(self, views: Views, online: Features) -> tuple[Tensor, Tensor]:
        """Return the embeddings of query and key, each (B, d), batch normalisation taking each view by itself."""
        return self.head(online(views.query.images)), self.head(online(views.key.images))


@dataclass(frozen=True)
class BarlowTwinsConfig(_EmbeddingConfig):
    name: str = "barlow_twins"
    redundancy_weight: float = option(0.0051, "weight of features' squared correlations; the paper's", at_least=0)


class BarlowTwins(_Embedding):
    """Bring the cross-correlation of both views' features to the identity (Zbontar et al. 2021)."""

    Config = BarlowTwinsConfig

    def forward(self, batch: Batch, views: Views, online: Features, target: Features) -> tuple[Tensor, Metrics]:
        return barlow_twins_loss(*self.embed(views, online), self.config.redundancy_weight), {}


@dataclass(frozen=True)
class VicregConfig(_EmbeddingConfig):
    name: str = "vicreg"
    # The paper's 25, 25 and 1 over 25: the same minima on the scale of the other losses.
    invariance_weight: float = option(1.0, "weight of the views' squared difference; the paper: 25", at_least=0)
    variance_weight: float = option(1.0, "weight of what standard deviations lack of 1; the paper: 25", at_least=0)
    covariance_weight: float = option(0.04, "weight of features' squared covariances; the paper: 1", at_least=0)


class Vicreg(_Embedding):
    """Keep each feature's variance up, both views together, different features uncorrelated (Bardes et al. 2022)."""

    Config = VicregConfig

    def forward(self, batch: Batch, views: Views, online: Features, target: Features) -> tuple[Tensor, Metrics]:
        invariance, variance, covariance = vicreg_terms(*self.embed(views, online))
        c = self.config
        loss = c.invariance_weight * invariance + c.variance_weight * variance + c.covariance_weight * covariance
        terms = {"invariance": invariance, "variance": variance, "covariance": covariance}
        return loss, {name: term.detach() for name, term in terms.items()}


@dataclass(frozen=True)
class WmseConfig(_EmbeddingConfig):
    name: str = "wmse"
    # The paper whitens twice as many samples as dimensions; the smallest preset's batch is 32.
    projection_dim: int = option(16, "width of the embeddings, from 2 to below batch_size; the paper: 64", at_least=2)
    epsilon: float = option(1e-3, "share of the covariance that is the identity's", above=0, at_most=1)

    @property
    def capturable(self) -> bool:
        return False  # the factorisation is a solver's, not known to work under capture

    def check_batch(self, size: int) -> None:
        """Raise ConfigError for a batch whose covariance cannot have full rank."""
        if size <= self.projection_dim:
            raise ConfigError(
                f"objective=wmse whitens {self.projection_dim} dimensions, which takes more samples than that, got "
                f"{size}: raise batch_size to {self.projection_dim + 1} or more, or lower objective.projection_dim "
                "below batch_size (not below 2)"
            )


class Wmse(_Embedding):
    """Bring both views together after each is whitened (Ermolov et al. 2021).

    The whole batch is whitened at once; the authors' random parts of it matter where it is many times the dimension.
    """

    Config = WmseConfig
    depth = 2

    def forward(self, batch: Batch, views: Views, online: Features, target: Features) -> tuple[Tensor, Metrics]:
        self.config.check_batch(len(views.query.images))
        return wmse_loss(*self.embed(views, online), self.config.epsilon), {}
