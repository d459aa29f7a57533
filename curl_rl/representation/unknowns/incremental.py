"""Learning further classes: a classifier goes on with new frames and with exemplars of what it knows."""

import dataclasses
import json
import math
import sys
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from curl_rl.config.unknowns import Adding, Addition
from curl_rl.nn.augmentations import AUGMENTATIONS
from curl_rl.nn.novelty import threshold
from curl_rl.representation.augment import Augment, fit, make_augmentation
from curl_rl.representation.classifier import Classifier, load_classifier, logits_of
from curl_rl.representation.classifying import ClassifierTrainer
from curl_rl.representation.export import read_description
from curl_rl.representation.frames import Frames
from curl_rl.representation.labels import Labels, labelled_frames
from curl_rl.representation.looking import as_seen
from curl_rl.representation.memory import MEMORY, Memory, load_memory, remember
from curl_rl.representation.order import rounds
from curl_rl.representation.probes.base import labelled
from curl_rl.representation.probes.classifier import few_of_each
from curl_rl.representation.tap import Prepare
from curl_rl.representation.unknowns.measures import auroc
from curl_rl.representation.unknowns.scores import energy
from curl_rl.run.device import choose_device
from curl_rl.run.files import write_whole
from curl_rl.run.folder import Part, weights_hash
from curl_rl.types import Batch, ConfigError, Metrics

REPORT = "learned.json"


class Incremental(ClassifierTrainer[Adding]):
    """Adds classes to a classifier by balanced fine-tuning (Joseph et al. 2021, section 4.4, and what it builds on).

        run = Incremental("clf", labels="new.csv", frames="runs/new")
        run.train(updates=400, out="clf2/")

    Args:
        classifier: a folder that fine-tuning wrote, or such a learning.
        labels, frames: as of `Finetuner`, of the new classes alone, one or several.
        module, prepare: as of `load_classifier`.
        augment: as of `Pretrainer`.
        options: those of `Adding`, such as exemplars.

    Raises ConfigError for frames that do not fit the classifier, for classes that it has already, and where it
    remembers no exemplars.
    """

    kind, updates = "learning of further classes", 400

    def __init__(
        self,
        classifier: str | Path,
        *,
        labels: Labels | None = None,
        frames: Any = None,
        module: nn.Module | None = None,
        prepare: Prepare | None = None,
        augment: Augment = "shift",
        **options: Any,
    ):
        self.settings = settings = Adding.given(options)
        device, path = choose_device(settings.device), Path(classifier)
        old, memory = load_classifier(path, module=module, prepare=prepare), _memory(path, settings)
        new = _fitting(labelled_frames(labels, frames, least=1), old, str(path))
        self.old = len(old.classes)
        joined, self.learned, self.held_out = _joined(old, memory, new, settings)
        augmentation = make_augmentation(augment, joined)
        fit(old.encoder.encoder, joined, augmentation)
        self.told: dict[str, Any] = {
            "weights": weights_hash(old.encoder.encoder),
            "classifier": weights_hash(old.head),
            "labels_seen": read_description(path).get("labels_seen", 0),
            "classes": self.old,
        }
        self.new_frames = int((joined.given("classes")[self.learned] >= self.old).sum())
        head = _widened(old.head, len(new.class_names), settings.seed)
        encoder = old.encoder.encoder.train()
        parts = {"trained": [encoder, head.train()], "frames": joined, "augmentation": augmentation, "device": device}
        super().__init__(encoder, head, joined.class_names, **parts)
        self.stack = new.stack
        self.order = rounds(joined, self.learned, settings, balanced=True)
        self.before = self.measure(old.to(device))

    def loss(self, images: Tensor, batch: Batch) -> tuple[Tensor, Metrics]:
        """Return the cross-entropy of old and new classes, and the accuracy."""
        classes, logits = cast(Tensor, batch.classes), self.head(self.encoder(images))
        return F.cross_entropy(logits, classes), {"accuracy": (logits.argmax(1) == classes).float().mean()}

    def watch(self, batch: Batch) -> Metrics:
        """Return what `measure` does of what was held out."""
        found = self.measure(self.classifier)
        return {name: torch.tensor(value) for name, value in found.items() if not math.isnan(value)}

    def _measured(self) -> tuple[Tensor, Tensor]:
        """Return the held-out frames of old and of new classes."""
        is_old = self.frames.given("classes")[self.held_out] < self.old
        return self.held_out[is_old], self.held_out[~is_old]

    def measure(self, classifier: Classifier) -> dict[str, float]:
        """Return how well a classifier, of the old or of all classes, does on the held-out frames.

        Accuracies of old and of new classes; `auroc`, how well the energy of the old classes' logits tells new frames
        from old ones; `a_ose`, how many of the new frames pass as an old class where a share `accept` of the old ones
        does. NaN where nothing was held out.
        """
        old, new = self._measured()
        of_old, of_new = (logits_of(classifier, self.frames, ids) for ids in (old, new))
        classes = self.frames.given("classes")
        known, unknown = (energy(logits[:, : self.old]) for logits in (of_old, of_new))
        a_ose = math.nan
        if len(old) and len(new):
            passing = unknown <= threshold(known, self.settings.accept)
            a_ose = float((passing & (of_new.argmax(1) < self.old)).sum())
        return {
            "old_accuracy": float((of_old.argmax(1) == classes[old]).double().mean()),
            "new_accuracy": float((of_new.argmax(1) == classes[new]).double().mean()),
            "auroc": auroc(known, unknown),
            "a_ose": a_ose,
        }

    def train(self, *, updates: int = 0, epochs: int = 0, out: str | Path) -> int:
        """Train as `ClassifierTrainer` does; at the end write and tell what was measured before and after."""
        status = super().train(updates=updates, epochs=epochs, out=out)
        if status == 0:
            told = self.report()
            write_whole({Path(out) / REPORT: json.dumps(told, indent=2) + "\n"})
            print("\n".join(_lines(told)), file=sys.stderr)
        return status

    def report(self) -> dict[str, Any]:
        """Return what was measured before learning and is now, null where nothing was held out."""
        names, held_out = self.classes, self._measured()
        of_old = {"old_classes": list(names[: self.old]), "old_frames": len(held_out[0])}
        of_new = {"new_classes": list(names[self.old :]), "new_frames": len(held_out[1])}
        found = {"before": self.before, "after": self.measure(self.classifier)}
        return {**of_old, **of_new, **{when: _filled(measures) for when, measures in found.items()}}

    def beside(self) -> dict[str, Part]:
        """Return what the folder remembers of old and new frames."""
        given, settings = (self.frames, self.learned, self.held_out), self.settings
        kept = remember(self.classifier.encoder, *given, count=settings.exemplars, seed=settings.seed)
        return {MEMORY: kept.part()}

    def describe(self) -> dict[str, Any]:
        """Return what a folder says of how its classifier came to be."""
        return super().describe() | {
            "made_by": "learn",
            "from": self.told,
            "labels_seen": self.told["labels_seen"] + self.new_frames,
            "held_out": len(self.held_out),
        }


def _memory(path: Path, settings: Adding) -> Memory:
    """Return what a classifier remembers. Raises ConfigError where that is too little to learn beside."""
    memory = load_memory(path)
    if memory is None:
        raise ConfigError(f"{path} remembers no frames, as only a fine-tuned classifier does: begin with such a one")
    if settings.exemplars and not len(memory.exemplars_of(held_out=False)):
        raise ConfigError(
            f"{path} keeps no exemplars: fine-tune it with exemplars=20, or give --exemplars 0, which forgets"
        )
    return memory


def _fitting(new: Frames, old: Classifier, name: str) -> Frames:
    """Return labelled frames, stacked as a classifier takes them. Raises ConfigError where they do not fit it."""
    if known := sorted(set(new.class_names) & set(old.classes)):
        raise ConfigError(f"{known[0]!r} is a class of {name} already: give new classes alone, or fine-tune on all")
    new = as_seen(new, old.encoder, name)
    if new.obs_shape != old.obs_shape:
        raise ConfigError(
            f"{name} keeps frames {old.obs_shape}, and {new.source} has {new.obs_shape}: give such frames"
        )
    return new


def _joined(old: Classifier, memory: Memory, new: Frames, settings: Adding) -> tuple[Frames, Tensor, Tensor]:
    """Return exemplars and new frames as one, and which are learned from and which are held out."""
    generator = torch.Generator().manual_seed(settings.seed)
    kept, apart = (memory.exemplars_of(held_out=held_out) for held_out in (False, True))
    if len(kept):
        kept = kept[few_of_each(memory.classes[memory.exemplars[kept]], settings.exemplars, generator)]
    fresh, tested = new.known.nonzero()[:, 0], torch.empty(0, dtype=torch.int64)
    if settings.held_out:
        fresh, tested = labelled(new, settings.held_out, settings.seed)
    told, ids = torch.cat([kept, apart]), torch.cat([fresh, tested])
    known = memory.classes[memory.exemplars[told]], new.given("classes")[ids] + len(old.classes)
    names = [*(memory.names[i] for i in told.tolist()), *(new.name(i) for i in ids.tolist())]
    classes = {"classes": torch.cat(known), "class_names": (*old.classes, *new.class_names)}
    images = torch.cat([memory.images[told], new.obs(ids)])
    frames = Frames(images, source=new.source, names=names, **classes)
    numbers = torch.arange(len(frames)).split([len(kept), len(apart), len(fresh), len(tested)])
    return frames, torch.cat(numbers[::2]), torch.cat(numbers[1::2])


def _widened(head: nn.Sequential, count: int, seed: int) -> nn.Sequential:
    """Return a head with so many more logits; the old ones start as they were."""
    last = cast(nn.Linear, head[-1])
    torch.manual_seed(seed)
    wider = nn.Linear(last.in_features, last.out_features + count)
    with torch.no_grad():
        for mine, theirs in ((wider.weight, last.weight), (wider.bias, last.bias)):
            mine[: len(theirs)] = theirs
    return nn.Sequential(*list(head)[:-1], wider)


def _filled(measures: dict[str, float]) -> dict[str, float | None]:
    """Return measures as JSON holds them."""
    return {name: None if math.isnan(value) else value for name, value in measures.items()}


def _lines(told: dict[str, Any]) -> list[str]:
    """Return a report as a person reads it."""
    lines = [f"{told['old_frames']:,} old and {told['new_frames']:,} new frames held out"]
    for name in told["before"]:
        before, after = (told[when][name] for when in ("before", "after"))
        shown = "not measured" if None in (before, after) else f"{before:.4g} -> {after:.4g}"
        lines.append(f"  {name}: {shown}")
    return lines


def learn(config: Addition) -> int:
    """Learn as configured; return the exit status."""
    frames = labelled_frames(config.labels, config.data or None, least=1, **config.arguments())
    augmentation = AUGMENTATIONS[config.augmentation.name](config.augmentation)
    options = dataclasses.asdict(Adding.of(config))
    trainer = Incremental(config.classifier, frames=frames, augment=augmentation, **options)
    return trainer.train(updates=config.updates, epochs=config.epochs, out=config.out)
