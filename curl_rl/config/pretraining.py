"""The configuration of pre-training: what trains an encoder without an agent, checked and frozen like a run's."""

import dataclasses
import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Self

from omegaconf import DictConfig, OmegaConf

from curl_rl.config.frozen import explaining
from curl_rl.config.overrides import check_keys, named_values, parse
from curl_rl.config.schema import built, check_device, groups_of, to_node
from curl_rl.options import LONGEST, check, option
from curl_rl.types import ConfigError

START = {"augmentation": "shift", "encoder": "strided", "objective": "byol"}


@dataclass(frozen=True, kw_only=True)
class Learning:
    """How whatever learns from frames is trained."""

    batch_size: int = option(128, "frames of one update", at_least=2, at_most=65_536)
    learning_rate: float = option(1e-3, "of Adam, at its highest", above=0)
    warmup: float = option(
        0.05, "share of the updates over which it rises; then it falls as a cosine", at_least=0, below=1
    )
    weight_decay: float = option(1e-4, "of weights; biases and what normalises have none", at_least=0)
    precision: str = option("float32", "of the encoder", one_of=("float32", "bf16"))
    seed: int = option(1, "of everything random", at_least=0, at_most=2**63 - 1)
    device: str = option("auto", "auto (CUDA where there is one), cpu, cuda or cuda:N")
    threads: int = option(0, "CPU threads; 0: all", at_least=0, at_most=1024)
    log_every: int = option(50, "updates from one row of metrics to the next", at_least=1, at_most=LONGEST)
    checkpoint_every: int = option(500, "updates from one checkpoint to the next", at_least=1, at_most=LONGEST)

    def __post_init__(self) -> None:
        check(self)
        check_device(self.device)

    @classmethod
    def given(cls, options: Mapping[str, Any]) -> Self:
        """Return these options, by their names. Raises ConfigError, with the nearest names, for any others."""
        names = [field.name for field in dataclasses.fields(cls)]
        if odd := [name for name in options if name not in names]:
            near = difflib.get_close_matches(odd[0], names, 3, 0.4) or names
            raise ConfigError(f"there is no option {odd[0]}: give {' or '.join(near)}")
        return cls(**options)

    @classmethod
    def of(cls, config: Any) -> Self:
        """Return these options of a configuration that has more."""
        return cls(**{field.name: getattr(config, field.name) for field in dataclasses.fields(cls)})


@dataclass(frozen=True, kw_only=True)
class Training(Learning):
    """How an encoder is trained on frames, whichever encoder and objective."""

    accumulate: int = option(1, "pieces in which a batch is encoded: less memory, the same loss", at_least=1)
    tau: float = option(0.01, "weight of new parameters in the encoder's moving average", above=0, at_most=1)
    linear: bool = option(
        True, "train a linear classifier beside, where frames have classes; the encoder feels nothing"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.accumulate > self.batch_size:
            raise ConfigError(f"accumulate={self.accumulate} exceeds batch_size={self.batch_size}: lower the one")


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where frames come from, as `frames_of` takes it."""

    data: str = option("", "a run, a folder of images, a video, recordings (.npz)")
    order: str = option("", "name: the images of a folder are a sequence in the order of their names")
    classes: str = option("", "folder: the name of an image's folder is its class")
    stack: int = option(0, "frames of an observation; 0: the run's own, elsewhere 1", at_least=0, at_most=64)
    size: int = option(0, "side to which images are resized; 0: as they are", at_least=0, at_most=4096)
    channels: int = option(0, "1 grey, 3 colours, 2 and 4 with transparency; 0: as they are", at_least=0, at_most=4)
    every: int = option(1, "of a video one frame of so many", at_least=1, at_most=LONGEST)
    skip_bad: bool = option(False, "leave out images that cannot be read, and name them")

    def arguments(self) -> dict[str, Any]:
        """Return what `frames_of` takes beside the data."""
        names = [field.name for field in dataclasses.fields(Source)]
        return {name: getattr(self, name) for name in names if name != "data"}


def check_own_stack(source: Source) -> None:
    """Raise ConfigError where frames are to be stacked that a trained encoder looks at."""
    if source.stack:
        raise ConfigError("an encoder takes as many frames as it was trained on: leave stack out")


@dataclass(frozen=True, kw_only=True)
class Length:
    """Where what is trained goes, and for how long; how many updates are taken unless told is each command's own."""

    out: str = option("", "folder of what is trained")
    epochs: int = option(0, "passes over the frames instead of updates", at_least=0, at_most=LONGEST)


@dataclass(frozen=True, kw_only=True)
class Pretraining(Training, Source, Length):
    """One pre-training. The three groups hold the `Config` of the class that each one's name picks."""

    updates: int = option(0, "to take; with epochs=0 too: 5,000", at_least=0, at_most=LONGEST)
    augmentation: Any
    encoder: Any
    objective: Any


def compose_pretraining(overrides: Iterable[str], *, complete: bool = True) -> Pretraining:
    """Return the pre-training that overrides such as "objective=byol" or "data=runs/x" describe.

    Args: complete, whether data and out must be there. Raises ConfigError, with the nearest names, for what no option
    or class is called.
    """
    config = composed(Pretraining, overrides, START, "pretrain")
    if complete:
        check_given(config, ("data", "out"), "curl-rl pretrain objective=byol data=runs/x out=enc")
    return config


def composed(root: type, overrides: Iterable[str], start: Mapping[str, Any], command: str) -> Any:
    """Return the configuration of a command that overrides describe.

    Args: root, its dataclass; start, of each of its groups the name or, as a mapping, name and options that are chosen
    unless overrides choose. Raises ConfigError as above.
    """
    parsed = parse(overrides)
    for override in parsed:
        if override.is_sweep_override():
            raise ConfigError(f"{override.input_line}: {command} takes one value; start it once for each")
    groups = groups_of(root)
    chosen = {group: {"name": name} if isinstance(name, str) else name for group, name in start.items()}
    chosen |= {o.key_or_group: {"name": named_values(o)[0]} for o in parsed if o.key_or_group in groups}
    node = to_node(chosen, root)
    check_keys(parsed, node, root, command)
    return _read(root, node, {o.key_or_group: o.value() for o in parsed if o.key_or_group not in groups})


def check_given(config: Any, names: Iterable[str], example: str) -> None:
    """Raise ConfigError where an option is left empty that a command cannot do without."""
    if lacking := [name for name in names if not getattr(config, name)]:
        raise ConfigError(f"{' and '.join(lacking)} must be given: {example}")


@explaining()
def _read(root: type, node: DictConfig, values: dict[str, Any]) -> Any:
    for key, value in values.items():
        OmegaConf.update(node, key, value)
    return built(node, root)
