"""Probes, found by name: a class in any module of this folder is one of `curl-rl probe --probes`."""

from collections.abc import Collection

from curl_rl.options import Registry
from curl_rl.representation.probes.base import Probe
from curl_rl.types import ConfigError

PROBES = Registry("probe", __name__, Probe, gives=("measure",))


def choose(names: Collection[str], gives: Collection[str], source: str) -> list[Probe]:
    """Return the probes of these names with their own options, or, of no names, all that frames can answer.

    Raises ConfigError for an unknown name, and where a named one needs what the frames have not.
    """
    chosen = [PROBES[name](PROBES[name].Config()) for name in names or sorted(PROBES)]
    for probe in chosen if names else ():
        if lacking := sorted(probe.needs - set(gives)):
            raise ConfigError(f"probe {probe.config.name} needs {' and '.join(lacking)}, which {source} has not")
    return [probe for probe in chosen if probe.needs <= set(gives)]
