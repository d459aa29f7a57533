"""Self-supervised objectives, found by name: a class in any module of this folder is an option of `objective=`."""

from typing import Any

from curl_rl.objectives.base import Objective
from curl_rl.options import Registry, check
from curl_rl.types import ConfigError, Shapes, Views

OBJECTIVES = Registry(
    "objective",
    __name__,
    Objective,
    gives=("forward",),
    options=("coefficient", "horizon", "needs_labels", "capturable", "check_batch"),
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
