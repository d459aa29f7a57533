"""Self-supervised objectives, found by name: a class in any module of this folder is an option of `objective=`."""

import importlib
import pkgutil
from collections.abc import Iterator
from typing import Any

from curl_rl.objectives.base import Objective
from curl_rl.options import by_name, check
from curl_rl.types import ConfigError, Shapes


def _discover() -> dict[str, type[Objective]]:
    return by_name("objective", (cls for module in pkgutil.iter_modules(__path__) for cls in _classes(module.name)))


def _classes(module: str) -> Iterator[type[Objective]]:
    """Yield the objectives that a module of this folder defines: what has options of its own."""
    name = f"{__name__}.{module}"
    try:
        members = vars(importlib.import_module(name))
    except Exception as error:
        problem = f"{type(error).__name__}: {error}"
        raise ConfigError(f"{name} cannot be imported ({problem}): mend it or move it out of the folder") from error
    for value in members.values():
        own = isinstance(value, type) and issubclass(value, Objective) and value.__module__ == name
        if own and "Config" in vars(value):
            yield value


OBJECTIVES = _discover()


def make_objective(config: Any, shapes: Shapes) -> Objective:
    """Build the objective that a configuration names.

    Raises ConfigError for an unknown one, one too large, or options out of bounds.
    """
    check(config, "objective.")
    if config.name not in OBJECTIVES:
        raise ConfigError(f"unknown objective {config.name!r}; there are {', '.join(sorted(OBJECTIVES))}")
    try:
        return OBJECTIVES[config.name](config, shapes)
    except RuntimeError as error:  # torch's, where memory cannot be had
        raise ConfigError(f"objective={config.name} cannot be built ({error}): lower its sizes") from error
