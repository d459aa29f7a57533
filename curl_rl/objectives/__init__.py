"""Self-supervised objectives, found by name: a class in any module of this folder is an option of `objective=`."""

import importlib
import pkgutil
from typing import Any

from curl_rl.objectives.base import Objective
from curl_rl.types import ConfigError, Shapes


def _discover() -> dict[str, type[Objective]]:
    for module in pkgutil.iter_modules(__path__):
        importlib.import_module(f"{__name__}.{module.name}")
    return {cls.Config().name: cls for cls in Objective.__subclasses__()}


OBJECTIVES = _discover()


def make_objective(config: Any, shapes: Shapes) -> Objective:
    """Build the objective that a configuration names. Raises ConfigError for an unknown one."""
    if config.name not in OBJECTIVES:
        raise ConfigError(f"unknown objective {config.name!r}; there are {', '.join(sorted(OBJECTIVES))}")
    return OBJECTIVES[config.name](config, shapes)
