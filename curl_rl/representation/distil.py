"""Distillation: a student learns from its teacher's answers to unlabelled frames."""

import dataclasses
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from curl_rl.config.finetuning import Distillation, Distilling
from curl_rl.nn.augmentations import AUGMENTATIONS
from curl_rl.nn.encoders import Encoder, make_encoder
from curl_rl.representation.augment import Augment, fit, make_augmentation, seen_shape
from curl_rl.representation.classifier import Classifier, load_classifier
from curl_rl.representation.classifying import ClassifierTrainer
from curl_rl.representation.export import read_description
from curl_rl.representation.frames import Frames, frames_of
from curl_rl.representation.labels import Labels, classify, read_labels
from curl_rl.representation.order import Rounds, passes, rounds
from curl_rl.representation.tap import Prepare, Tap, evaluating
from curl_rl.run.device import choose_device
from curl_rl.run.folder import weights_hash
from curl_rl.types import Batch, ConfigError, Metrics


class Distiller(ClassifierTrainer[Distilling]):
    """Trains a student on its teacher's soft labels (Chen et al. 2020b, SimCLR v2, equations 2 and 3).

        run = Distiller("clf", frames="runs/x", student=make_encoder(encoder_config("small"), (9, 84, 84)))
        run.train(updates=2_000, out="clf_s/")

    Args:
        teacher: a classifier, or its folder.
        frames: what `frames_of` takes.
        student: an encoder, or a `Tap`, trained in place; unless given one as the teacher's, from its beginning.
        labels: as of `Finetuner`, of some of the frames, whose cross-entropy has the weight 1 - alpha.
        augment: as of `Pretrainer`; teacher and student see the same view.
        module, prepare: as of `load_classifier`, where the teacher's folder holds a network of one's own.
        options: those of `Distilling`, such as temperature.

    Raises ConfigError for frames that do not fit teacher or student, and for labels that fit neither.
    """

    kind, updates = "distillation", 2_000

    def __init__(
        self,
        teacher: str | Path | Classifier,
        *,
        frames: Any,
        student: Encoder | None = None,
        labels: Labels | None = None,
        augment: Augment = "shift",
        module: nn.Module | None = None,
        prepare: Prepare | None = None,
        **options: Any,
    ):
        self.settings = settings = Distilling.given(options)
        device, frames = choose_device(settings.device), frames_of(frames)
        augmentation = make_augmentation(augment, frames)
        self.told = {} if isinstance(teacher, Classifier) else {"labels_seen": _labels_seen(teacher)}
        loaded = not isinstance(teacher, Classifier)
        self.teacher = (load_classifier(teacher, module=module, prepare=prepare) if loaded else teacher).to(device)
        self.began = weights_hash(self.teacher)
        torch.manual_seed(settings.seed)
        student = _like(self.teacher) if student is None else student
        for encoder in (self.teacher.encoder.encoder, student):
            fit(encoder, frames, augmentation)
        head = nn.Sequential(nn.Linear(student.feature_dim, len(self.teacher.classes)))
        self.labels, frames = self._labelled(frames, labels)
        parts = {"trained": [student.train(), head], "frames": frames, "augmentation": augmentation, "device": device}
        super().__init__(student, head, self.teacher.classes, **parts)
        self.order = passes(frames, settings)

    def _labelled(self, frames: Frames, labels: Labels | None) -> tuple[Rounds | None, Frames]:
        """Return the order of the frames that are labelled, if any are, and the frames with these classes."""
        settings = self.settings
        if labels is None:
            if settings.alpha < 1:
                raise ConfigError(f"alpha={settings.alpha} leaves a share to true labels: give labels, or alpha=1")
            return None, frames
        if settings.alpha == 1:
            raise ConfigError("alpha=1 leaves labels without effect: give alpha=0.5, say, or leave them out")
        named = labels if isinstance(labels, Mapping) else read_labels(labels)
        frames = classify(frames, named, self.teacher.classes)
        return rounds(frames, frames.known.nonzero()[:, 0], settings, balanced=True), frames

    def train(self, *, updates: int = 0, epochs: int = 0, out: str | Path) -> int:
        """Train as `ClassifierTrainer` does; say where a student is larger than its teacher, which may be meant."""
        mine, theirs = (sum(p.numel() for p in net.parameters()) for net in (self.classifier, self.teacher))
        if mine > theirs:
            print(f"note: the student ({mine:,} parameters) is larger than its teacher ({theirs:,})", file=sys.stderr)
        return super().train(updates=updates, epochs=epochs, out=out)

    def batch(self, update: int) -> Batch:
        """Return the frames of an update: batch_size of all, then where there are labels as many that have one."""
        if self.labels is None:
            return super().batch(update)
        ids = torch.cat([self.order.ids(update), self.labels.ids(update)])
        return self.frames.batch(ids, device=self.device)

    def loss(self, images: Tensor, batch: Batch) -> tuple[Tensor, Metrics]:
        """Return the cross-entropy of the teacher's answers, and how often both name the same class."""
        with evaluating(self.teacher), torch.no_grad():
            answers = self.teacher.head(self.teacher.encoder.encoder(images))
        logits, temperature, alpha = self.head(self.encoder(images)), self.settings.temperature, self.settings.alpha
        loss = F.cross_entropy(logits / temperature, (answers / temperature).softmax(1))
        metrics = {"agreement": (logits.argmax(1) == answers.argmax(1)).float().mean()}
        if self.labels is None:
            return loss, metrics
        size = self.settings.batch_size
        true = F.cross_entropy(logits[size:], cast(Tensor, batch.classes)[size:])
        return alpha * loss + (1 - alpha) * true, metrics | {"label_loss": true.detach()}

    def write(self, out: Path, update: int) -> None:
        """Write the student's folder. Raises ConfigError where the teacher has changed."""
        if weights_hash(self.teacher) != self.began:
            raise ConfigError("the teacher has changed: its own forward pass moves its weights, in eval mode too")
        super().write(out, update)

    def describe(self) -> dict[str, Any]:
        """Return what a folder says of how its classifier came to be."""
        encoder, head = (weights_hash(part) for part in (self.teacher.encoder.encoder, self.teacher.head))
        return super().describe() | {
            "made_by": "distil",
            "teacher": {"weights": encoder, "classifier": head, **self.told},
            "labels_seen": 0 if self.labels is None else int(self.frames.known.sum()),
        }


def _like(teacher: Classifier) -> Encoder:
    """Return a new encoder of the teacher's kind. Raises ConfigError where that is a network of one's own."""
    if isinstance(teacher.encoder.encoder, Tap):
        raise ConfigError("the teacher is a network of your own: give the student, Tap(MyNet(), layer=...)")
    return teacher.encoder.encoder.fresh()


def _labels_seen(folder: str | Path) -> int:
    return read_description(Path(folder)).get("labels_seen", 0)


def distil(config: Distillation) -> int:
    """Distil as configured; return the exit status."""
    frames = frames_of(config.data, **config.arguments())
    augmentation = AUGMENTATIONS[config.augmentation.name](config.augmentation)
    torch.manual_seed(config.seed)
    student = make_encoder(config.encoder, seen_shape(frames, config.augmentation))
    given = {"student": student, "labels": config.labels or None, "augment": augmentation}
    trainer = Distiller(config.teacher, frames=frames, **given, **dataclasses.asdict(Distilling.of(config)))
    return trainer.train(updates=config.updates, epochs=config.epochs, out=config.out)
