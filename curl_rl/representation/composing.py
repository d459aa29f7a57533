"""The options of all classes of a kind, each under its own name, as `curl-rl probe` and `curl-rl select` take them."""

import dataclasses
import functools
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from omegaconf import OmegaConf

from curl_rl.config.frozen import explaining
from curl_rl.config.overrides import check_keys, parse
from curl_rl.config.schema import built, to_node
from curl_rl.options import Registry
from curl_rl.types import ConfigError


def compose_options(registry: Registry, bases: tuple[type, ...], overrides: Iterable[str], command: str) -> Any:
    """Return the options that overrides such as "ridge.folds=3" describe, with those of `bases` beside.

    Raises ConfigError, with the nearest names, for what no option is called.
    """
    parsed, root = parse(overrides), _schema(command, bases, tuple(registry.items()))
    with explaining():
        node = to_node({}, root)
        check_keys(parsed, node, root, command)
        for override in parsed:
            OmegaConf.update(node, override.key_or_group, override.value())
        return built(node, root)


def check_effect(config: Any, classes: Mapping[str, Any], chosen: Collection[str], command: str) -> None:
    """Raise ConfigError for an option of a class that is not chosen."""
    for name, cls in classes.items():
        usual, given = dataclasses.asdict(cls.Config()), dataclasses.asdict(getattr(config, name))
        if name not in chosen and (odd := [key for key in usual if given[key] != usual[key]]):
            raise ConfigError(
                f"{name}.{odd[0]} has no effect on this {command}, which does without {name}: leave it out"
            )


@functools.cache
def _schema(command: str, bases: tuple[type, ...], classes: tuple[tuple[str, Any], ...]) -> type:
    """Return the dataclass of all options."""
    fields = [(name, cls.Config, dataclasses.field(default_factory=cls.Config)) for name, cls in classes]
    return dataclasses.make_dataclass(command.title(), fields, bases=bases, frozen=True, kw_only=True)
