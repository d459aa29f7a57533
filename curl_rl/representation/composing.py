"""The options of all classes of a kind, each under its own name, as `curl-rl probe` and `curl-rl select` take them."""

import dataclasses
import functools
from collections.abc import Iterable
from typing import Any

from omegaconf import OmegaConf

from curl_rl.config.frozen import explaining
from curl_rl.config.overrides import check_keys, parse
from curl_rl.config.schema import built, to_node
from curl_rl.options import Registry


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


@functools.cache
def _schema(command: str, bases: tuple[type, ...], classes: tuple[tuple[str, Any], ...]) -> type:
    """Return the dataclass of all options."""
    fields = [(name, cls.Config, dataclasses.field(default_factory=cls.Config)) for name, cls in classes]
    return dataclasses.make_dataclass(command.title(), fields, bases=bases, frozen=True, kw_only=True)
