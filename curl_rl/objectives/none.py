"""The control: no loss."""

from dataclasses import dataclass

from torch import Tensor

from curl_rl.objectives.base import Objective, ObjectiveConfig
from curl_rl.options import option, shown
from curl_rl.types import Batch, ConfigError, Features, Metrics, Views


@dataclass(frozen=True)
class NoneConfig(ObjectiveConfig):
    name: str = "none"
    coefficient: float | None = option(0.0, "weight of the loss; zero: not computed", at_least=0)

    def __post_init__(self) -> None:
        if self.coefficient != 0:
            given = f"objective.coefficient={shown(self.coefficient)}"
            raise ConfigError(
                f"{given} with objective=none: there is no loss to weigh; leave it 0 or choose another objective"
            )

    def check_batch(self, size: int) -> None:
        """Take any: nothing is compared."""


class NoObjective(Objective):
    """The control: the same crops, no loss."""

    Config = NoneConfig

    def forward(self, batch: Batch, views: Views, online: Features, target: Features) -> tuple[Tensor, Metrics]:
        return batch.reward.new_zeros(()), {}
