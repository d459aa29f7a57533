"""The options of `curl-rl probe`: how frames are read, and those of every probe under its name."""

from collections.abc import Iterable
from typing import Any

from curl_rl.config.pretraining import Source
from curl_rl.representation.composing import compose_options
from curl_rl.representation.probes import PROBES


def compose_probing(overrides: Iterable[str]) -> Any:
    """Return the options that overrides such as "classes=folder" or "ridge.folds=3" describe.

    Raises ConfigError, with the nearest names, for what no option is called.
    """
    return compose_options(PROBES, (Source,), overrides, "probe")
