"""The contract of a self-supervised objective."""

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from curl_rl.options import option
from curl_rl.types import Batch, ConfigError, Features, Metrics, Shapes, Views


@dataclass(frozen=True)
class ObjectiveConfig:
    """What every objective's options have in common, and what they ask of the rest of a run."""

    name: str = ""
    # None stands for the task's published weight, which is put in its place before an objective is built.
    coefficient: float | None = option(1.0, "weight of the loss; 0: not computed", at_least=0)

    @property
    def horizon(self) -> int:
        """How many agent steps of `Batch.future` the replay must deliver."""
        return 0

    @property
    def needs(self) -> frozenset[str]:
        """What it must be given beside images.

        Of data "order" of frames, "episodes", "actions" and "rewards" between frames, "classes" of whole frames and
        "labels" of their cells; of the encoder a convolutional "map".
        """
        return frozenset()

    @property
    def capturable(self) -> bool:
        """Whether a CUDA graph may replay it: no random draw of its own, no work between updates."""
        return True

    def check_batch(self, size: int) -> None:
        """Raise ConfigError for a batch too small to learn from."""
        if size < 2:
            raise ConfigError(
                f"objective={self.name} compares samples with each other: it needs batch_size=2 or more, got {size}"
            )


class Objective(nn.Module):
    """A loss that trains the encoder beside the agent's own.

    It owns its heads, queues and prototypes (persistent buffers, so that a resume keeps them), never an encoder and
    never an optimiser: the agent passes both encoders and steps every parameter found here that needs a gradient. A
    subclass names its frozen dataclass of options as `Config` and is found by that one's `name`.
    """

    Config: ClassVar[type[ObjectiveConfig]]
    projects: ClassVar[str] = "head"  # the part through which features pass before they are compared; "" for none
    target_views: tuple[str, ...] = ()  # those that `forward` shows the target encoder, so that it begins early

    def __init__(self, config: Any, shapes: Shapes):
        super().__init__()
        self.config, self.shapes = config, shapes
        self.coefficient: float = 1.0 if config.coefficient is None else config.coefficient

    def forward(self, batch: Batch, views: Views, online: Features, target: Features) -> tuple[Tensor, Metrics]:
        """Return the scalar loss and what is worth logging; gradients may reach `online`, never `target`.

        Nothing that a checkpoint keeps changes here, but for a generator's state: that is what `after_step` is for.
        """
        raise TypeError(f"{type(self).__name__} gives no loss")

    @property
    def feature_head(self) -> nn.Module | None:
        """What projects features, if anything does."""
        return getattr(self, self.projects, None) if self.projects else None

    def reset(self, keep: float) -> None:
        """Start anew under torch's own random numbers, where the agent does; `keep` of the encoder stays."""
        self.load_state_dict(type(self)(self.config, self.shapes).state_dict())

    def after_step(self) -> None:
        """Do what follows an optimiser step, such as a queue's or a moving average's update."""
