"""Objectives that compare every crop of the batch with every other one, both views through the online encoder."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from curl_rl.nn.losses import nt_xent, supervised_contrastive
from curl_rl.nn.parts import projection_head
from curl_rl.objectives.base import Objective, ObjectiveConfig
from curl_rl.options import option
from curl_rl.types import Batch, ConfigError, Features, Metrics, Shapes, Views


def _features(views: Views, online: Features) -> Tensor:
    """Return the features (2B, d) of the query's crops, then of the key's."""
    return torch.cat([online(views.query.images), online(views.key.images)])


@dataclass(frozen=True)
class SimClrConfig(ObjectiveConfig):
    name: str = "simclr"
    temperature: float = option(0.5, "divisor of the cosines; the paper's for small images", above=0)
    projection_dim: int = option(128, "width of the projections; the paper's", at_least=1)
    projection_hidden: int = option(256, "width of the head's hidden layers; the paper: 2048", at_least=1)
    projection_depth: int = option(2, "linear layers of the projection head; v1: 2, v2: 3", at_least=1, at_most=100)


class SimClr(Objective):
    """Tell each crop's other view from all other crops of the batch (Chen et al. 2020, algorithm 1).

    The head is batch-normalised after every layer, as in the original code; the paper does not describe it.
    """

    Config = SimClrConfig

    def __init__(self, config: SimClrConfig, shapes: Shapes):
        super().__init__(config, shapes)
        widths = shapes.feature_dim, config.projection_hidden, config.projection_dim
        self.head = projection_head(*widths, depth=config.projection_depth, last_norm=True)

    def forward(self, batch: Batch, views: Views, online: Features, target: Features) -> tuple[Tensor, Metrics]:
        first, second = self.head(_features(views, online)).chunk(2)
        loss, accuracy = nt_xent(first, second, self.config.temperature)
        return loss, {"accuracy": accuracy}


def _return_bin(reward: Tensor, bins: int) -> Tensor:
    """Return the quantile bin (B,) of each return within the batch, equal returns in one bin.

    By mid-ranks: edges drawn at quantiles would put a sparse reward into the bin of the zeros around it.
    """
    below = (reward[:, None] > reward).sum(1)
    up_to = (reward[:, None] >= reward).sum(1)
    return bins * (below + up_to) // (2 * len(reward))


def _known_classes(batch: Batch) -> Tensor:
    """Return the class (B,) of each sample, one of its own where it is unknown."""
    if batch.classes is None:
        raise ValueError("objective.labels=class reads Batch.classes: give frames that have classes")
    own = -1 - torch.arange(len(batch.classes), device=batch.classes.device)
    return torch.where(batch.classes < 0, own, batch.classes)


LABELS: dict[str, Callable[[Batch, int], Tensor]] = {
    "action": lambda batch, bins: batch.action,
    "return_sign": lambda batch, bins: batch.reward.sign(),
    "return_bin": lambda batch, bins: _return_bin(batch.reward, bins),
    "episode": lambda batch, bins: batch.episode,
    "class": lambda batch, bins: _known_classes(batch),
}
_NEEDED = {
    "action": "actions",
    "return_sign": "rewards",
    "return_bin": "rewards",
    "episode": "episodes",
    "class": "classes",
}


@dataclass(frozen=True)
class SupConConfig(ObjectiveConfig):
    name: str = "supcon"
    labels: str = option(
        "episode",
        "what a class shares; return_bin: the return's quantile; class: the frame's",
        one_of=tuple(LABELS),
    )
    bins: int = option(5, "quantile bins of the batch's returns", at_least=2, where="labels=return_bin")
    temperature: float = option(0.1, "divisor of the cosines; the paper's", above=0)
    projection_dim: int = option(128, "width of the projections; the paper's", at_least=1)
    projection_hidden: int = option(256, "width of the projection head's hidden layer; the paper: 2048", at_least=1)

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({_NEEDED[self.labels]})


class SupCon(Objective):
    """Draw together the crops of one class and tell them from the others (Khosla et al. 2020, equation 2).

    The paper's classes are annotated; here the transition gives them. Classes of returns make states of equal value
    alike, whichever action each calls for: soft actor-critic then learns `toy/reach` more slowly than without.
    """

    Config = SupConConfig

    def __init__(self, config: SupConConfig, shapes: Shapes):
        super().__init__(config, shapes)
        if config.labels == "action" and not shapes.discrete:
            raise ConfigError("objective.labels=action needs discrete actions: choose return_bin or episode")
        self.head = projection_head(shapes.feature_dim, config.projection_hidden, config.projection_dim, norm="none")

    def forward(self, batch: Batch, views: Views, online: Features, target: Features) -> tuple[Tensor, Metrics]:
        labels = LABELS[self.config.labels](batch, self.config.bins).repeat(2)
        embeddings = self.head(_features(views, online))
        loss, accuracy = supervised_contrastive(embeddings, labels, self.config.temperature)
        positives = (labels[:, None] == labels).sum(1).float().mean() - 1
        return loss, {"accuracy": accuracy, "positives": positives}
