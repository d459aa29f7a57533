"""Objectives that tell an image's other crop from the other images of the batch."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from curl_rl.encoders import Features
from curl_rl.losses import bilinear_logits, info_nce
from curl_rl.objectives.base import Objective, check_coefficient
from curl_rl.types import Batch, ConfigError, Metrics, Shapes, Views, option


@dataclass(frozen=True)
class NoneConfig:
    name: str = "none"
    coefficient: float = option(0.0, "weight of the loss; an objective of weight zero is not computed")

    def __post_init__(self) -> None:
        if self.coefficient != 0:
            raise ConfigError(
                f"objective.coefficient={self.coefficient} with objective=none: there is no loss to weigh; leave it 0 "
                "or choose another objective"
            )


class NoObjective(Objective):
    """The control: the same crops, no loss."""

    Config = NoneConfig

    def forward(self, batch: Batch, views: Views, online: Features, target: Features) -> tuple[Tensor, Metrics]:
        return batch.reward.new_zeros(()), {}


@dataclass(frozen=True)
class CurlConfig:
    name: str = "curl"
    coefficient: float = option(1.0, "weight of the loss")

    def __post_init__(self) -> None:
        check_coefficient(self)


class Curl(Objective):
    """Bilinear InfoNCE between a query and the moving-average encoder's key (Laskin et al. 2020, algorithm 1)."""

    Config = CurlConfig

    def __init__(self, config: CurlConfig, shapes: Shapes):
        super().__init__(config, shapes)
        # Uniform in [0, 1) as in the original code; the paper does not say.
        self.weight = nn.Parameter(torch.rand(shapes.feature_dim, shapes.feature_dim))

    def forward(self, batch: Batch, views: Views, online: Features, target: Features) -> tuple[Tensor, Metrics]:
        query = online(views.query.images)
        with torch.no_grad():
            key = target(views.key.images)
        loss, accuracy = info_nce(bilinear_logits(query, key, self.weight))
        return loss, {"accuracy": accuracy}
