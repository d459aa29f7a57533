"""Fine-tuning: a pre-trained encoder, and what is kept of its head, become a classifier on few labels."""

import dataclasses
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from curl_rl.config.finetuning import Finetuning, Tuning
from curl_rl.nn.augmentations import AUGMENTATIONS
from curl_rl.nn.encoders import Encoder
from curl_rl.nn.plain import count_linear, first_layers, out_features
from curl_rl.representation.augment import Augment, fit, make_augmentation
from curl_rl.representation.classifier import logits_of
from curl_rl.representation.classifying import ClassifierTrainer
from curl_rl.representation.export import HEAD, load_encoder, load_part, read_description
from curl_rl.representation.labels import Labels, labelled_frames
from curl_rl.representation.memory import MEMORY, remember
from curl_rl.representation.order import rounds
from curl_rl.representation.probes.base import labelled
from curl_rl.representation.tap import Prepare, evaluating, unchanged
from curl_rl.run.device import choose_device
from curl_rl.run.folder import Part, weights_hash
from curl_rl.types import Batch, ConfigError, Metrics


class Finetuner(ClassifierTrainer[Tuning]):
    """Trains an encoder and a linear layer on labelled frames (Chen et al. 2020b, SimCLR v2, section 2.2).

        run = Finetuner("enc", frames="shots/", labels="few.csv")
        run.train(updates=400, out="clf/")

    Args:
        encoder: a folder that `load_encoder` reads; or an encoder, or a `Tap`, which is trained in place.
        labels: a CSV file, or a mapping, of the frames' names to classes; without it classes are the frames' own.
        frames: what `frames_of` takes; without it the images that the CSV file names, by their paths beside it.
        module, prepare: as of `load_encoder`, where the folder holds a network of one's own.
        augment: as of `Pretrainer`.
        options: those of `Tuning`, such as from_layer, freeze and learning_rate.

    Raises ConfigError for labels that do not fit the frames, frames that do not fit the encoder, and a layer that is
    not there.
    """

    kind, updates = "fine-tuning", 400

    def __init__(
        self,
        encoder: str | Path | Encoder,
        *,
        labels: Labels | None = None,
        frames: Any = None,
        module: nn.Module | None = None,
        prepare: Prepare | None = None,
        augment: Augment = "shift",
        **options: Any,
    ):
        self.settings = settings = Tuning.given(options)
        device, frames = choose_device(settings.device), labelled_frames(labels, frames)
        augmentation = make_augmentation(augment, frames)
        kept, self.told = _kept(encoder, settings.from_layer), {} if isinstance(encoder, Encoder) else _told(encoder)
        if not isinstance(encoder, Encoder):
            encoder = load_encoder(encoder, module=module, prepare=prepare).encoder
        fit(encoder, frames, augmentation)
        self.began, self.kept_head = weights_hash(encoder), weights_hash(nn.Sequential(*kept))
        torch.manual_seed(settings.seed)
        last = nn.Linear(out_features(kept, encoder.feature_dim), len(frames.class_names))
        head = nn.Sequential(*kept, last).train()
        trained = [last] if settings.freeze else [encoder.train(), head]
        parts = {"trained": trained, "frames": frames, "augmentation": augmentation, "device": device}
        super().__init__(encoder, head, frames.class_names, **parts)
        self._try_freezing()
        self.learned, self.held_out = self._divided()
        self.order = rounds(frames, self.learned, settings, balanced=settings.balanced)

    def _try_freezing(self) -> None:
        """Look at two frames. Raises ConfigError where a network that shall stay as it is moves its own weights."""
        if self.settings.freeze:
            with unchanged(self.encoder, "the network"), torch.no_grad():
                self._logits(self.frames.obs(torch.arange(min(2, len(self.frames)))).to(self.device))

    def _divided(self) -> tuple[Tensor, Tensor]:
        """Return the labelled frames that are learned from, and those of the episodes that are held out."""
        if not self.settings.held_out:
            return self.frames.known.nonzero()[:, 0], torch.empty(0, dtype=torch.int64)
        return labelled(self.frames, self.settings.held_out, self.settings.seed)

    def loss(self, images: Tensor, batch: Batch) -> tuple[Tensor, Metrics]:
        """Return the cross-entropy of the labels, and the accuracy."""
        classes, logits = cast(Tensor, batch.classes), self._logits(images)
        return F.cross_entropy(logits, classes), {"accuracy": (logits.argmax(1) == classes).float().mean()}

    def _logits(self, images: Tensor) -> Tensor:
        if not self.settings.freeze:
            return self.head(self.encoder(images))
        with evaluating(self.encoder), evaluating(self.head), torch.no_grad():
            features = self.head[:-1](self.encoder(images))
        return self.head[-1](features)

    def accuracy(self) -> float:
        """Return the share of the held-out frames whose class is found, NaN without any."""
        found = logits_of(self.classifier, self.frames, self.held_out).argmax(1)
        return float((found == self.frames.given("classes")[self.held_out]).float().mean())

    def watch(self, batch: Batch) -> Metrics:
        """Return the accuracy on the held-out frames."""
        return {"held_out_accuracy": torch.tensor(self.accuracy())} if len(self.held_out) else {}

    def write(self, out: Path, update: int) -> None:
        """Write the classifier's folder. Raises ConfigError where an encoder that shall stay as it is has changed."""
        now = weights_hash(self.encoder), weights_hash(self.head[:-1])
        if self.settings.freeze and now != (self.began, self.kept_head):
            raise ConfigError("the network was to stay as it is and has changed: leave freeze out")
        super().write(out, update)

    def beside(self) -> dict[str, Part]:
        """Return what the folder remembers of the frames."""
        given, settings = (self.frames, self.learned, self.held_out), self.settings
        kept = remember(self.classifier.encoder, *given, count=settings.exemplars, seed=settings.seed)
        return {MEMORY: kept.part()}

    def describe(self) -> dict[str, Any]:
        """Return what a folder says of how its classifier came to be."""
        told = super().describe() | {
            "made_by": "finetune",
            "from": {"weights": self.began, **self.told},
            "from_layer": self.settings.from_layer,
            "freeze": self.settings.freeze,
            "labels_seen": len(self.learned),
        }
        return told | ({"held_out": len(self.held_out)} if len(self.held_out) else {})


def _told(folder: str | Path) -> dict[str, Any]:
    """Return what a folder says of how its encoder came to be: its objective and how many labels that saw."""
    described = read_description(Path(folder))
    objective = described.get("objective", {}).get("name")
    return {"labels_seen": described.get("labels_seen", 0)} | ({"objective": objective} if objective else {})


def _kept(encoder: str | Path | Encoder, count: int) -> nn.Sequential:
    """Return the first so many linear layers of a folder's head. Raises ConfigError where they are not there."""
    if not count:
        return nn.Sequential()
    if isinstance(encoder, Encoder):
        raise ConfigError(f"from_layer={count} is of a pre-trained head: give the folder that holds it, not an encoder")
    if (head := load_part(encoder, HEAD)) is None:
        objective = _told(encoder).get("objective")
        why = f"objective={objective} projects no features" if objective else "only curl-rl pretrain keeps one"
        raise ConfigError(f"{encoder} holds no projection head ({why}): leave from_layer out")
    if count > (there := count_linear(head)):
        raise ConfigError(f"the head of {encoder} has {there} linear layers: give from_layer from 0 to {there}")
    return first_layers(head, count)


def finetune(config: Finetuning) -> int:
    """Fine-tune as configured; return the exit status."""
    frames = labelled_frames(config.labels or None, config.data or None, **config.arguments())
    augmentation = AUGMENTATIONS[config.augmentation.name](config.augmentation)
    options = dataclasses.asdict(Tuning.of(config))
    trainer = Finetuner(config.pretrained, frames=frames, augment=augmentation, **options)
    status = trainer.train(updates=config.updates, epochs=config.epochs, out=config.out)
    if len(trainer.held_out):
        print(f"accuracy {trainer.accuracy():.3f} on {len(trainer.held_out):,} frames held out")
    return status
