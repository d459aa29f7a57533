"""The contract of a self-supervised objective."""

import math
from typing import Any, ClassVar

from torch import Tensor, nn

from curl_rl.encoders import Features
from curl_rl.types import Batch, ConfigError, Metrics, Shapes, Views


def check_coefficient(config: Any) -> None:
    """Raise ConfigError for a weight that is negative or not finite; made for a `Config`'s `__post_init__`.

    None stands for the published weight of the task, which is put in its place before an objective is built.
    """
    if config.coefficient is not None and not 0 <= config.coefficient < math.inf:
        raise ConfigError(f"objective.coefficient must be finite and at least 0, got {config.coefficient}")


class Objective(nn.Module):
    """A loss that trains the encoder beside the agent's own.

    It owns its heads, queues and prototypes (persistent buffers, so that a resume keeps them), never an encoder and
    never an optimiser: the agent passes both encoders and steps every parameter found here that needs a gradient. A
    subclass names its frozen dataclass of options as `Config` (first fields `name` and `coefficient`) and is found by
    that name.
    """

    Config: ClassVar[type]

    def __init__(self, config: Any, shapes: Shapes):
        super().__init__()
        self.config = config
        self.coefficient: float = 1.0 if config.coefficient is None else config.coefficient

    def forward(self, batch: Batch, views: Views, online: Features, target: Features) -> tuple[Tensor, Metrics]:
        """Return the scalar loss and what is worth logging; gradients may reach `online`, never `target`."""
        raise TypeError(f"{type(self).__name__} gives no loss")

    def after_step(self) -> None:
        """Do what follows an optimiser step, such as a queue's or a moving average's update."""
