"""What learns to see: an encoder, its moving average, an objective, an augmentation, and their random draws."""

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from curl_rl.nn.augmentations import Augmentation
from curl_rl.nn.encoders import Encoder
from curl_rl.nn.images import unmoved
from curl_rl.nn.networks import frozen_copy, move_average
from curl_rl.nn.remembering import Remembering
from curl_rl.nn.state import Kept
from curl_rl.objectives.base import Objective
from curl_rl.types import Batch, Crop, Features, Metrics, Views


class Apart(Features, Protocol):
    """An encoder, and in the same way its moving average."""

    def of(self, encoder: Encoder) -> Features: ...


class Pace(NamedTuple):
    """How fast an agent of some kind lets its learner learn."""

    learning_rate: float  # of the objective's heads
    encoder_rate: float  # of the encoder on the objective's gradient
    tau: float  # weight of the new parameters in the encoder's moving average
    period: int = 1  # updates from one moving average to the next
    epsilon: float = 1e-8  # Adam's


class Learner(Kept):
    """Show an objective what it may see of a batch, whatever the agent: raw frames, B rows, and two views of them.

    It owns no optimiser: whoever holds it steps `parameter_groups`, then calls `move_target` and `after_step`. Its
    generator is its own, so that a control without an objective draws all else alike.
    """

    kept = ("encoder", "target_encoder", "objective", "generator")

    def __init__(
        self,
        encoder: Encoder,
        objective: Objective,
        augmentation: Augmentation,
        *,
        key_augmentation: Augmentation | None = None,
        pace: Pace,
        device: torch.device,
        seed: int,
    ):
        self.encoder, self.objective = encoder.to(device), objective.to(device)
        self.target_encoder: Encoder = frozen_copy(self.encoder)
        self.augmentation, self.key_augmentation = augmentation, key_augmentation or augmentation
        self.pace, self.device = pace, device
        self.generator = torch.Generator(device).manual_seed(seed)

    @property
    def learns(self) -> bool:
        """Whether the objective counts; one of weight zero is not computed."""
        return self.objective.coefficient != 0

    def heads(self) -> list[torch.nn.Parameter]:
        """Return what is trained of the objective's own."""
        return [parameter for parameter in self.objective.parameters() if parameter.requires_grad]

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return what the objective's loss trains as groups of an optimiser: the encoder, then the heads."""
        encoder = {"params": list(self.encoder.parameters()), "lr": self.pace.encoder_rate}
        heads = {"params": self.heads(), "lr": self.pace.learning_rate}
        return [group for group in (encoder, heads) if group["params"]]

    def whole(self, images: Tensor) -> Tensor:
        """Return images (B, C, H, W) as they are, of the size that the encoder sees; states (B, D) as they are."""
        return self.augmentation.centre(images) if images.dim() == 4 else images

    def observe(self, obs: np.ndarray) -> Tensor:
        """Return an environment's stacked observations (n, k*C, H, W) or (n, D) as acting shows them to the encoder."""
        return self.whole(torch.from_numpy(obs)).to(self.device)

    def draw(self, images: Tensor, count: int, generator: torch.Generator) -> list[Crop]:
        """Return so many augmentations of images for an agent's own loss; for none, the images as they are."""
        return [self.augmentation(images, generator) for _ in range(count)] or [unmoved(self.whole(images))]

    def views(self, batch: Batch, query: Crop | None = None) -> tuple[Batch, Views]:
        """Return a batch with its future augmented, and two views of its observations.

        Args: query, a view that the agent has drawn for its own loss, so that it is encoded once.
        """
        query = self.augmentation(batch.obs, self.generator) if query is None else query
        views, future = Views(query, self.key_augmentation(batch.obs, self.generator)), batch.future
        if future is not None:
            later = self.key_augmentation(future.obs.flatten(0, 1), self.generator).images
            future = future._replace(obs=later.unflatten(0, future.mask.shape))
        return batch._replace(future=future), views

    def begin(self, views: Views, online: Remembering) -> None:
        """Begin on those views that the objective will show the target encoder."""
        online.of(self.target_encoder).begin(*(getattr(views, name).images for name in self.objective.target_views))

    def loss(self, batch: Batch, views: Views, online: Apart | None = None) -> tuple[Tensor, Metrics]:
        """Return the objective's weighted loss of what `views` gave, and its metrics.

        Args: online, the encoder with what it remembers of images that the agent's own loss has seen.
        """
        online = Remembering(self.encoder) if online is None else online
        loss, metrics = self.objective(batch, views, online, online.of(self.target_encoder))
        return self.objective.coefficient * loss, {"objective_loss": loss.detach(), **metrics}

    def reset(self, keep: float) -> None:
        """Start the objective anew, and of the encoder and its average all but the share `keep`, each by a draw."""
        for encoder in (self.encoder, self.target_encoder):
            move_average(encoder, encoder.fresh().to(self.device), 1 - keep)
        self.objective.reset(keep)

    def move_target(self) -> None:
        move_average(self.target_encoder, self.encoder, self.pace.tau)

    def after_step(self) -> None:
        """Do what follows an optimiser step, such as a queue's update."""
        self.objective.after_step()

    def snapshot(self, batch: Batch) -> Mapping[str, Tensor]:
        """Return a batch's query and key views, drawn without disturbing training; none of states."""
        generator = self.generator.clone_state()
        augmentations = {"query": self.augmentation, "key": self.key_augmentation} if batch.obs.dim() == 4 else {}
        return {name: augment(batch.obs, generator).images for name, augment in augmentations.items()}
