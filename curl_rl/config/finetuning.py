"""The configurations of fine-tuning and distillation: what trains a classifier of frames from an encoder."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from curl_rl.config.overrides import parse
from curl_rl.config.pretrained import OWN, described_encoder, text_of
from curl_rl.config.pretraining import Learning, Length, Source, check_given, composed
from curl_rl.options import LONGEST, option
from curl_rl.types import ConfigError

START = {"augmentation": "shift"}
STUDENT = "strided"  # shown by `--help` where no teacher is named


@dataclass(frozen=True, kw_only=True)
class Tuning(Learning):
    """How a classifier is trained on labelled frames, whichever encoder it begins with."""

    from_layer: int = option(0, "linear layers kept of the pre-trained head; 0: the encoder's features", at_least=0)
    freeze: bool = option(False, "train a new linear layer alone; encoder and head stay as they are")
    balanced: bool = option(True, "show every class equally often, however many of its frames are labelled")
    held_out: float = option(0.0, "share of the labelled episodes on which accuracy is measured", at_least=0, below=1)
    exemplars: int = option(
        20, "frames of each class kept in the folder, to learn further classes beside, and as many held out", at_least=0
    )


@dataclass(frozen=True, kw_only=True)
class Finetuning(Tuning, Source, Length):
    """One fine-tuning."""

    updates: int = option(0, "to take; with epochs=0 too: 400", at_least=0, at_most=LONGEST)
    pretrained: str = option("", "folder of the encoder to begin with")
    labels: str = option("", "CSV file, name,class; without data its names are of images beside it")
    augmentation: Any


@dataclass(frozen=True, kw_only=True)
class Distilling(Learning):
    """How a student learns to name frames as its teacher does."""

    temperature: float = option(1.0, "divisor of the logits of both; above 1 softer labels", above=0)
    alpha: float = option(1.0, "weight of the teacher's labels; the rest is that of true ones", at_least=0, at_most=1)


@dataclass(frozen=True, kw_only=True)
class Distillation(Distilling, Source, Length):
    """One distillation. Its groups hold the `Config` of the class that each one's name picks."""

    updates: int = option(0, "to take; with epochs=0 too: 2,000", at_least=0, at_most=LONGEST)
    teacher: str = option("", "folder of a classifier")
    labels: str = option("", "CSV file, name,class, of some of the frames; needs alpha below 1")
    augmentation: Any
    encoder: Any


def compose_finetuning(overrides: Iterable[str], *, complete: bool = True) -> Finetuning:
    """Return the fine-tuning that overrides describe. Args and errors: as of `compose_pretraining`."""
    config = composed(Finetuning, overrides, START, "finetune")
    if complete:
        check_given(config, ("pretrained", "out"), "curl-rl finetune enc --labels few.csv --out clf")
    return config


def compose_distillation(overrides: Iterable[str], *, complete: bool = True) -> Distillation:
    """Return the distillation that overrides describe; its encoder is the teacher's unless they choose another.

    Args and errors: as of `compose_pretraining`.
    """
    overrides = list(overrides)
    values = {override.key_or_group: text_of(override) for override in parse(overrides)}
    student: Any = STUDENT
    if values.get("teacher") and "encoder" not in values:
        student = described_encoder(Path(str(values["teacher"])), "teacher")
        if student["name"] == OWN:
            raise ConfigError(
                f"teacher={values['teacher']} holds a network of your own: distil it in Python, "
                "Distiller(load_classifier(..., module=...), ...)"
            )
    config = composed(Distillation, overrides, {**START, "encoder": student}, "distil")
    if complete:
        check_given(config, ("teacher", "data", "out"), "curl-rl distil clf --data runs/x --out clf_s")
    return config
