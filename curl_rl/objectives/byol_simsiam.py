"""Objectives that predict one view's projection from the other's, without negatives."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from curl_rl.nn.losses import cosine_distance
from curl_rl.nn.networks import frozen_copy, move_average
from curl_rl.nn.parts import projection_head
from curl_rl.objectives.base import Objective, ObjectiveConfig
from curl_rl.options import option
from curl_rl.types import Batch, Features, Metrics, Shapes, Views

Pair = tuple[Tensor, Tensor]  # of the query and of the key, each (B, d)


def _distance(predictor: nn.Module, projections: Pair, targets: Pair) -> tuple[Tensor, Metrics]:
    """Return the mean cosine distance of each view's prediction from the other view's target, and what tells collapse.

    "target_std" is the spread of targets of length 1, times sqrt(d): about 1 for distinct ones, 0 for equal ones (Chen
    and He 2020, section 4.1).
    """
    (query, key), (query_target, key_target) = projections, targets
    distance = cosine_distance(predictor(query), key_target) + cosine_distance(predictor(key), query_target)
    spread = F.normalize(key_target, dim=1).std(0).mean() * key_target.shape[1] ** 0.5
    return distance / 2, {"similarity": 1 - distance.detach() / 2, "target_std": spread}


@dataclass(frozen=True)
class ByolConfig(ObjectiveConfig):
    name: str = "byol"
    projection_dim: int = option(128, "width of the projections and predictions; the paper: 256", at_least=1)
    projection_hidden: int = option(256, "width of both heads' hidden layers; the paper: 4096", at_least=1)
    use_momentum: bool = option(True, "targets from the moving averages; false: from the online side, gradient stopped")
    projection_tau: float = option(
        0.004, "weight of new parameters in the target projector", above=0, at_most=1, where="use_momentum=true"
    )


class Byol(Objective):
    """Predict the moving average's projection of the other view (Grill et al. 2020, equation 2 and its mirror image).

    The encoder's average moves by the agent's own tau. Both stay constant; the paper's rises to a standstill at the end
    of a run, whose length an objective does not know.
    """

    Config, projects = ByolConfig, "projector"

    def __init__(self, config: ByolConfig, shapes: Shapes):
        super().__init__(config, shapes)
        self.projector = projection_head(shapes.feature_dim, config.projection_hidden, config.projection_dim)
        self.predictor = projection_head(config.projection_dim, config.projection_hidden, config.projection_dim)
        self.target_projector = frozen_copy(self.projector) if config.use_momentum else None
        self.target_views = ("query", "key") if config.use_momentum else ()

    def forward(self, batch: Batch, views: Views, online: Features, target: Features) -> tuple[Tensor, Metrics]:
        query, key = (self.projector(online(view.images)) for view in views)
        targets = query.detach(), key.detach()
        if self.target_projector is not None:
            with torch.no_grad():
                targets = (
                    self.target_projector(target(views.query.images)),
                    self.target_projector(target(views.key.images)),
                )
        distance, metrics = _distance(self.predictor, (query, key), targets)
        # Squared distances of vectors of length 1, added over both views.
        return 4 * distance, metrics

    def after_step(self) -> None:
        if self.target_projector is not None:
            move_average(self.target_projector, self.projector, self.config.projection_tau)


@dataclass(frozen=True)
class SimSiamConfig(ObjectiveConfig):
    name: str = "simsiam"
    projection_dim: int = option(256, "width of projections, projector and predictions; the paper: 2048", at_least=1)
    predictor_hidden: int = option(64, "width of the predictor's hidden layer, a quarter as in the paper", at_least=1)


class SimSiam(Objective):
    """Predict the other view's projection, whose gradient is stopped (Chen and He 2020, equation 4).

    1 is added to the paper's negative cosine, so that the loss is 0 at the least and can be part of a priority.
    """

    Config, projects = SimSiamConfig, "projector"

    def __init__(self, config: SimSiamConfig, shapes: Shapes):
        super().__init__(config, shapes)
        self.projector = projection_head(
            shapes.feature_dim, config.projection_dim, config.projection_dim, depth=3, last_norm=True
        )
        self.predictor = projection_head(config.projection_dim, config.predictor_hidden, config.projection_dim)

    def forward(self, batch: Batch, views: Views, online: Features, target: Features) -> tuple[Tensor, Metrics]:
        query, key = (self.projector(online(view.images)) for view in views)
        return _distance(self.predictor, (query, key), (query.detach(), key.detach()))
