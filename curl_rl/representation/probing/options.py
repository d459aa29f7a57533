"""The options of `curl-rl probe`: how frames are read, and those of every probe under its name."""

import dataclasses
import functools
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from omegaconf import OmegaConf

from curl_rl.config.frozen import explaining
from curl_rl.config.overrides import check_keys, parse
from curl_rl.config.pretraining import Source
from curl_rl.config.schema import built, to_node
from curl_rl.representation.probes import PROBES
from curl_rl.types import ConfigError


@functools.cache
def schema() -> type:
    """Return the dataclass of all options."""
    fields = [(name, cls.Config, dataclasses.field(default_factory=cls.Config)) for name, cls in PROBES.items()]
    return dataclasses.make_dataclass("Probing", fields, bases=(Source,), frozen=True, kw_only=True)


def check_effect(config: Any, classes: Mapping[str, Any], chosen: Collection[str], command: str) -> None:
    """Raise ConfigError for an option of a class that is not chosen."""
    for name, cls in classes.items():
        usual, given = dataclasses.asdict(cls.Config()), dataclasses.asdict(getattr(config, name))
        if name not in chosen and (odd := [key for key in usual if given[key] != usual[key]]):
            raise ConfigError(
                f"{name}.{odd[0]} has no effect on this {command}, which does without {name}: leave it out"
            )


def compose_probing(overrides: Iterable[str]) -> Any:
    """Return the options that overrides such as "classes=folder" or "ridge.folds=3" describe.

    Raises ConfigError, with the nearest names, for what no option is called.
    """
    parsed, root = parse(overrides), schema()
    with explaining():
        node = to_node({}, root)
        check_keys(parsed, node, root, "probe")
        for override in parsed:
            OmegaConf.update(node, override.key_or_group, override.value())
        return built(node, root)
