"""What trains a classifier of frames, whatever it learns from: fine-tuning and distillation are of this kind."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

import torch
from torch import Tensor, nn

from curl_rl.config.pretraining import Learning
from curl_rl.nn.augmentations import Augmentation
from curl_rl.nn.encoders import Encoder
from curl_rl.nn.networks import decayed
from curl_rl.nn.state import Kept
from curl_rl.representation.classifier import Classifier, save_classifier
from curl_rl.representation.export import ExportedEncoder, describe_encoder
from curl_rl.representation.frames import Frames
from curl_rl.representation.order import Passes, Rounds
from curl_rl.representation.session import count_updates, run_training
from curl_rl.run.folder import Part
from curl_rl.run.logger import MetricMeans
from curl_rl.types import Batch, Metrics

S = TypeVar("S", bound=Learning)


class ClassifierTrainer(Kept, Generic[S]):
    """Trains an encoder and a head on one augmented view of each frame; a subclass gives `loss` and `order`."""

    kept = ("encoder", "head", "optimizer", "generator", "means")
    kind: ClassVar[str]
    updates: ClassVar[int]  # taken unless told otherwise
    settings: S
    order: Passes | Rounds

    def __init__(
        self,
        encoder: Encoder,
        head: nn.Sequential,
        classes: Sequence[str],
        *,
        trained: Sequence[nn.Module],
        frames: Frames,
        augmentation: Augmentation,
        device: torch.device,
    ):
        encoder.bf16 = self.settings.precision == "bf16"
        self.encoder, self.head, self.classes = encoder.to(device), head.to(device), tuple(classes)
        self.frames, self.augmentation, self.device = frames, augmentation, device
        self.stack = frames.stack
        parameters = [p for part in trained for p in part.parameters() if p.requires_grad]
        groups = decayed(parameters, self.settings.weight_decay)
        self.optimizer = torch.optim.AdamW(groups, lr=self.settings.learning_rate, fused=True)
        self.generator = torch.Generator(device).manual_seed(self.settings.seed)
        self.means = MetricMeans()

    @property
    def classifier(self) -> Classifier:
        """What is trained; it shares its parts with this trainer."""
        return Classifier(ExportedEncoder(self.encoder, self.frames.obs_shape), self.head, self.classes)

    def train(self, *, updates: int = 0, epochs: int = 0, out: str | Path) -> int:
        """Train for so many updates or passes over the frames, or go on where `out` stopped; return the exit status.

        `out` becomes a classifier's folder that `load_classifier` reads, and `load_encoder` too; what made it lies in
        its folder `training`.
        """
        total = count_updates(updates, epochs, self.order.epoch, self.updates)
        return run_training(self, total, Path(out))

    def batch(self, update: int) -> Batch:
        """Return the frames of an update."""
        return self.frames.batch(self.order.ids(update), device=self.device)

    def step(self, batch: Batch, rate: float) -> Metrics:
        """Take one update at a learning rate; return what is worth logging."""
        loss, metrics = self.loss(self.augmentation(batch.obs, self.generator).images, batch)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        return {"loss": loss.detach(), **metrics}

    def loss(self, images: Tensor, batch: Batch) -> tuple[Tensor, Metrics]:
        """Return the loss of a batch, whose augmented observations are `images`, and metrics."""
        raise TypeError(f"{type(self).__name__} gives no loss")

    def watch(self, batch: Batch) -> Metrics:
        """Return what is measured beside training, without disturbing it."""
        return {}

    def shown(self, batch: Batch) -> tuple[Mapping[str, Tensor], int]:
        """Return at most 16 augmented frames of a batch, and how many each stacks."""
        images = self.augmentation(batch.obs[:16], self.generator.clone_state()).images
        return {"view": images}, self.stack

    def write(self, out: Path, update: int) -> None:
        """Write the classifier's folder."""
        told = {**self.describe(), "updates": update, "stack": self.stack}
        save_classifier(self.classifier, told.pop("encoder"), out, beside=self.beside(), training=True, **told)

    def beside(self) -> dict[str, Part]:
        """Return what stands beside the classifier in its folder, by its name."""
        return {}

    def describe(self) -> dict[str, Any]:
        """Return what a folder says of how its classifier came to be."""
        return {
            "classes": list(self.classes),
            "encoder": describe_encoder(self.encoder),
            "augmentation": dataclasses.asdict(self.augmentation.config),
            "data": {"frames": len(self.frames), "crc32": self.frames.checksum},
        }
