"""Self-supervised objectives, found by name: a class in any module of this folder is an option of `objective=`."""

from collections.abc import Collection
from typing import Any

from curl_rl.objectives.base import Objective
from curl_rl.options import Registry, check
from curl_rl.types import ConfigError, Shapes, Views

OBJECTIVES = Registry(
    "objective",
    __name__,
    Objective,
    gives=("forward",),
    options=("coefficient", "horizon", "needs", "capturable", "check_batch"),
)


def check_needs(config: Any, gives: Collection[str], source: str) -> None:
    """Raise ConfigError where an objective needs what a source of frames has not; it names those that would do."""
    if lacking := sorted(config.needs - frozenset(gives)):
        known = ((name, cls.Config()) for name, cls in OBJECTIVES.items())
        others = [name for name, other in known if other.needs <= frozenset(gives) and other.coefficient != 0]
        own = "another objective.labels, or one of " if hasattr(config, "labels") else ""
        raise ConfigError(
            f"objective={config.name} needs {' and '.join(lacking)}, which {source} has not: choose {own}"
            f"{', '.join(sorted(others))}"
        )


def make_objective(config: Any, shapes: Shapes) -> Objective:
    """Build the objective that a configuration names.

    Raises ConfigError for an unknown one, one too large, or options out of bounds.
    """
    check(config, "objective.")
    try:
        objective = OBJECTIVES[config.name](config, shapes)
    except RuntimeError as error:  # torch's, where memory cannot be had
        raise ConfigError(f"objective={config.name} cannot be built ({error}): lower its sizes") from error
    if not set(objective.target_views) <= set(Views._fields):
        raise ConfigError(
            f"objective={config.name} has target_views={objective.target_views!r}: give a tuple of names, of "
            f"{' and '.join(Views._fields)}"
        )
    return objective
