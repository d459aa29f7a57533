"""Frozen dataclasses as schemas that Hydra and OmegaConf check, and the way back."""

import dataclasses
import functools
import re
import typing
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import field
from typing import Any

from hydra.errors import HydraException
from omegaconf import MISSING
from omegaconf.errors import OmegaConfBaseException

from curl_rl.config.moved import MOVED
from curl_rl.options import check_values, kinds
from curl_rl.types import ConfigError


@functools.cache
def schema(cls: type) -> type:
    """Return a mutable twin of a frozen dataclass: OmegaConf makes frozen ones read-only and knows no tuples."""
    hints, fields = typing.get_type_hints(cls), []
    for f in dataclasses.fields(cls):
        hint, default = hints[f.name], MISSING if f.default is dataclasses.MISSING else f.default
        make = (lambda default=default: default) if f.default_factory is dataclasses.MISSING else f.default_factory
        if dataclasses.is_dataclass(hint):
            hint = schema(typing.cast(type, hint))
        elif typing.get_origin(hint) is tuple:
            hint = list[typing.get_args(hint)[0]]
        fields.append((f.name, hint, field(default_factory=lambda make=make: _thawed(make()))))
    return dataclasses.make_dataclass(cls.__name__, fields)


def _thawed(value: Any) -> Any:
    """Return a frozen dataclass's twin with its values, lists for tuples."""
    if dataclasses.is_dataclass(value):
        return schema(type(value))(**{name: _thawed(inner) for name, inner in vars(value).items()})
    return list(value) if isinstance(value, tuple) else value


def frozen(cls: type, data: Mapping[str, Any], prefix: str = "") -> Any:
    """Build a frozen dataclass from the plain form of its schema, which `prefix` stands before where a user types it.

    Raises ConfigError where the names differ, or a value is not what its option allows.
    """
    if data.keys() != (known := kinds(cls)).keys():
        raise ConfigError(f"{cls.__name__} has the fields {', '.join(known)}, got {', '.join(data)}")
    values = {name: tuple(value) if isinstance(value, list) else value for name, value in data.items()}
    for name, kind in known.items():
        if dataclasses.is_dataclass(kind):
            values[name] = frozen(typing.cast(type, kind), data[name], f"{prefix}{name}.")
    check_values(cls, values, prefix)  # before the conditions between fields, which trust each of them
    return cls(**values)


@contextmanager
def explaining() -> Iterator[None]:
    """Raise what Hydra, OmegaConf and our own checks refuse as a ConfigError of one line."""
    try:
        yield
    except ConfigError:
        raise
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        raise ConfigError(_explained(error)) from None


def _explained(error: BaseException) -> str:
    """Say of Hydra's chain of exceptions which key was wrong, and what with it."""
    while error.__cause__ is not None:
        error = error.__cause__
    message, *lines = str(error).strip().split("\n")
    if (place := re.match(r"In '(.+)': .*composing config:$", message)) and lines:
        message = f"{place[1]} does not go with the other choices ({lines[0].strip()}): choose another preset or agent"
    key = getattr(error, "full_key", None) or "".join(re.findall(r"full_key: (\S+)", "\n".join(lines)))
    if key in MOVED:
        return f"{key!r} is {MOVED[key]} now"
    return f"{key}: {message}" if key else message
