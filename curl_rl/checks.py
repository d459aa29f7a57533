"""Checks of configuration fields; each raises ConfigError naming the field, what it may be and what it was."""

import math
from collections.abc import Sequence
from typing import Any

from curl_rl.types import ConfigError


def one_of(config: Any, prefix: str, choices: Sequence[str], *names: str) -> None:
    """Check that fields are among some choices."""
    for name in names:
        if getattr(config, name) not in choices:
            raise ConfigError(f"{prefix}{name}={getattr(config, name)!r} is none of {', '.join(choices)}")


def at_least(config: Any, prefix: str, least: float, *names: str) -> None:
    """Check that fields are finite and not below a number."""
    for name in names:
        value = getattr(config, name)
        if not least <= value < math.inf:
            finite = "" if isinstance(value, int) else "finite and "
            raise ConfigError(f"{prefix}{name} must be {finite}at least {least}, got {value}")


def positive(config: Any, prefix: str, *names: str) -> None:
    """Check that fields are finite and above zero."""
    for name in names:
        if not 0 < getattr(config, name) < math.inf:
            raise ConfigError(f"{prefix}{name} must be finite and positive, got {getattr(config, name)}")


def fraction(config: Any, prefix: str, *names: str) -> None:
    """Check that fields are above 0 and at most 1."""
    for name in names:
        if not 0 < getattr(config, name) <= 1:
            raise ConfigError(f"{prefix}{name} must be in (0, 1], got {getattr(config, name)}")


def share(config: Any, prefix: str, *names: str) -> None:
    """Check that fields lie between 0 and 1, both included."""
    for name in names:
        if not 0 <= getattr(config, name) <= 1:
            raise ConfigError(f"{prefix}{name} must be in [0, 1], got {getattr(config, name)}")
