"""The configurations of flagging what is unknown, and of learning it as further classes."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from curl_rl.config.finetuning import START
from curl_rl.config.overrides import parse
from curl_rl.config.pretrained import described_encoder, text_of
from curl_rl.config.pretraining import Learning, Length, Source, check_given, composed
from curl_rl.config.schema import check_device
from curl_rl.options import LONGEST, check, option


@dataclass(frozen=True, kw_only=True)
class Flagging(Source):
    """One search for frames that are like nothing known."""

    network: str = option("", "folder of a classifier or an encoder, or a run")
    known: str = option("", "frames as data, of kinds that are known; without them those that fine-tuning held out")
    accept: float = option(0.95, "share of known frames, which were held out, that pass as known", above=0, at_most=1)
    by: str = option("", "energy or neighbours; of a classifier energy unless given")
    clusters: int = option(4, "groups of alike frames among those that are flagged", at_least=1)
    out: str = option("", "folder of what is flagged")
    seed: int = option(1, "of the clusters, and of what is remembered", at_least=0, at_most=2**63 - 1)
    device: str = option("auto", "auto (CUDA where there is one), cpu, cuda or cuda:N")

    def __post_init__(self) -> None:
        check(self)
        check_device(self.device)


@dataclass(frozen=True, kw_only=True)
class Adding(Learning):
    """How a classifier learns further classes."""

    exemplars: int = option(
        20, "frames of each class, if it has as many, learned from again, and kept; 0: none, which forgets", at_least=0
    )
    held_out: float = option(0.2, "share of the new classes' episodes on which they are measured", at_least=0, below=1)
    accept: float = option(0.95, "share of known frames that pass as known, where A-OSE is told", above=0, at_most=1)


@dataclass(frozen=True, kw_only=True)
class Addition(Adding, Source, Length):
    """One learning of further classes."""

    updates: int = option(0, "to take; with epochs=0 too: 400", at_least=0, at_most=LONGEST)
    classifier: str = option("", "folder of the classifier to begin with")
    labels: str = option("", "CSV file, name,class, of the new classes alone; without data of images beside it")
    augmentation: Any


def compose_flagging(overrides: Iterable[str], *, complete: bool = True) -> Flagging:
    """Return what overrides ask to be flagged. Args and errors: as of `compose_pretraining`."""
    config = composed(Flagging, overrides, {}, "flag")
    if complete:
        check_given(config, ("network", "data", "out"), "curl-rl flag clf --data runs/new --out flagged")
    return config


def compose_addition(overrides: Iterable[str], *, complete: bool = True) -> Addition:
    """Return the learning that overrides describe; its augmentation is the classifier's unless they choose another.

    Args and errors: as of `compose_pretraining`.
    """
    overrides = list(overrides)
    values = {override.key_or_group: text_of(override) for override in parse(overrides)}
    start: dict[str, Any] = dict(START)
    if values.get("classifier") and "augmentation" not in values:
        start = {"augmentation": described_encoder(Path(str(values["classifier"])), "classifier", "augmentation")}
    config = composed(Addition, overrides, start, "learn")
    if complete:
        check_given(config, ("classifier", "labels", "out"), "curl-rl learn clf --labels new.csv --out clf2")
    return config
