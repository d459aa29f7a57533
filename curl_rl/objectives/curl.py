"""The objective of CURL: a crop tells its image's other crop from the other images of the batch."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from curl_rl.nn.losses import bilinear_logits, info_nce
from curl_rl.nn.networks import frozen_copy, move_average
from curl_rl.objectives.base import Objective, ObjectiveConfig
from curl_rl.options import option
from curl_rl.types import Batch, Features, Metrics, Shapes, Views


@dataclass(frozen=True)
class CurlConfig(ObjectiveConfig):
    name: str = "curl"
    coefficient: float | None = option(None, "weight of the loss; null: the original's for the task", at_least=0)
    logit_scale: float | None = option(None, "factor of the logits; null: the original's for the suite", above=0)
    projection_dim: int | None = option(None, "width of a projection head, 0: none; null: the original's", at_least=0)
    projection_hidden: int = option(256, "width of the head's hidden layer", at_least=1, where="projection_dim")
    projection_tau: float = option(0.001, "weight of the new in the key's", above=0, at_most=1, where="projection_dim")
    initial_weight: str | None = option(
        None, "how W starts; null: identity, on Atari uniform", one_of=("identity", "uniform")
    )


class _Projection(nn.Sequential):
    """Two linear layers, each normalised over its units (the original's on Atari; the paper does not describe it)."""

    def __init__(self, in_dim: int, hidden_dim: int, out_dim: int):
        super().__init__(
            nn.Linear(in_dim, hidden_dim),
            nn.LayerNorm(hidden_dim, elementwise_affine=False),
            nn.ReLU(),
            nn.Linear(hidden_dim, out_dim),
            nn.LayerNorm(out_dim, elementwise_affine=False),
        )
        for name, parameter in self.named_parameters():
            # [0, 1) as in the original: the normalisation takes the common part away.
            (nn.init.zeros_ if name.endswith("bias") else nn.init.uniform_)(parameter)


class Curl(Objective):
    """Bilinear InfoNCE between a query and the moving-average encoder's key (Laskin et al. 2020, algorithm 1).

    On Atari the original compares projections, the key's by a moving average of the query's head.
    """

    Config, target_views = CurlConfig, ("key",)

    def __init__(self, config: CurlConfig, shapes: Shapes):
        super().__init__(config, shapes)
        self.logit_scale = 1.0 if config.logit_scale is None else config.logit_scale
        width = config.projection_dim or shapes.feature_dim
        self.head: nn.Module = nn.Identity()
        if config.projection_dim:
            self.head = _Projection(shapes.feature_dim, config.projection_hidden, width)
        self.target_head = frozen_copy(self.head)
        # The paper does not say how W starts. The original code's uniform numbers make the first logits noise of a
        # deviation of 14 on control, and the encoder first learns to make all features alike.
        uniform = config.initial_weight == "uniform"
        self.weight = nn.Parameter(torch.rand(width, width) if uniform else torch.eye(width) / math.sqrt(width))

    def forward(self, batch: Batch, views: Views, online: Features, target: Features) -> tuple[Tensor, Metrics]:
        query = self.head(online(views.query.images))
        with torch.no_grad():
            key = self.target_head(target(views.key.images))
        loss, accuracy = info_nce(self.logit_scale * bilinear_logits(query, key, self.weight))
        return loss, {"accuracy": accuracy}

    def after_step(self) -> None:
        if self.config.projection_dim:
            move_average(self.target_head, self.head, self.config.projection_tau)
