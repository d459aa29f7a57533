"""Train with a loss of one's own: from two observations the encoder must tell which action lies between them."""

import csv
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from curl_rl.config.overrides import compose
from curl_rl.objectives.base import Objective, ObjectiveConfig
from curl_rl.options import option
from curl_rl.run.trainer import train
from curl_rl.types import Batch, Features, Metrics, Shapes, Views


@dataclass(frozen=True)
class InverseConfig(ObjectiveConfig):
    name: str = "inverse"
    hidden_dim: int = option(64, "width of the head's hidden layer", at_least=1)

    @property
    def horizon(self) -> int:
        return 1  # steps of `batch.future`


class Inverse(Objective):
    """Inverse dynamics (Pathak et al. 2017, equation 2), for continuous and for discrete actions."""

    Config = InverseConfig

    def __init__(self, config: InverseConfig, shapes: Shapes):
        super().__init__(config, shapes)
        self.discrete = shapes.discrete
        widths = 2 * shapes.feature_dim, config.hidden_dim
        self.head = nn.Sequential(nn.Linear(*widths), nn.ReLU(), nn.Linear(config.hidden_dim, shapes.action_dim))

    def forward(self, batch: Batch, views: Views, online: Features, target: Features) -> tuple[Tensor, Metrics]:
        assert batch.future is not None
        later = batch.future.obs[:, 0].contiguous()
        guess = self.head(torch.cat([online(views.query.images), online(later)], 1))
        if self.discrete:
            losses = F.cross_entropy(guess, batch.action, reduction="none")
        else:
            losses = (guess - batch.action).square().mean(1)
        happened = batch.future.mask[:, 0]  # the episode can end here
        loss = torch.where(happened, losses, 0).sum() / happened.sum().clamp(min=1)
        return loss, {"action_error": loss.detach()}


def main() -> None:
    """Train with the objective above and print what it logged."""
    own = ["objective=own_objective:Inverse", "objective.hidden_dim=32"]
    config = compose(
        ["task=toy/reach", *own, "budget_frames=400", "log.every_updates=50", "run_dir=runs/own_objective"]
    )
    train(config)
    with Path(config.run_dir, "train.csv").open() as file:
        errors = [row for row in csv.DictReader(file) if row["name"] == "action_error"]
    print("\n".join(f"update {row['update']}: error of the action {float(row['value']):.3f}" for row in errors))


if __name__ == "__main__":
    main()
