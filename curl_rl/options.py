"""Options of a configuration: what one means and what it may be stand with its default, and one check holds for all."""

import dataclasses
import functools
import math
import re
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

from curl_rl.types import ConfigError

WIDEST = 65_536  # the most of a whole number that says no other: one layer of that width takes 16 GiB
LONGEST = 10**9  # of frames, updates and what is kept of them: five times the longest published run's frames
LARGEST = 1e6  # the most of a real number that says no other: losses scaled by more lose float32's digits

Class = TypeVar("Class", bound=type)


def option(
    default: Any,
    help: str,
    *,
    at_least: float | None = None,
    above: float | None = None,
    at_most: float | None = None,
    below: float | None = None,
    one_of: Sequence[str] = (),
    where: str = "",
) -> Any:
    """Declare a configuration field with its meaning, which `--help` prints, and its bounds, which `check` holds.

    Args: where, the option beside it without which it has no effect: "sampler=prioritized", or "queue_size" for any
    value but 0. Bounds of a tuple are those of each of its numbers.
    """
    bounds = {"at_least": at_least, "above": above, "at_most": at_most, "below": below}
    return dataclasses.field(
        default=default, metadata={"help": help, "bounds": bounds, "one_of": one_of, "where": where}
    )


def check(config: Any, prefix: str = "") -> None:
    """Raise ConfigError for the first field, of nested configurations too, that is not what its option allows.

    Args: prefix, what stands before the fields' names where a user types them, such as "agent.".
    """
    check_values(type(config), vars(config), prefix)


def check_values(cls: type, values: Mapping[str, Any], prefix: str = "") -> None:
    """Do the same for the values from which a configuration is to be built."""
    for field, kind in _fields(cls):
        key, value = prefix + field.name, values[field.name]
        if dataclasses.is_dataclass(value):
            check(value, f"{key}.")
        elif kind is not None:
            _check_value(key, value, kind, field.metadata)
    for field, _ in _fields(cls):
        _check_effect(values, prefix, field)


def by_name(kind: str, classes: Iterable[Class]) -> dict[str, Class]:
    """Return classes by the name that their `Config` has. Raises ConfigError where two share one, or one has none."""
    found: dict[str, Class] = {}
    for cls in classes:
        name = typing.cast(Any, cls).Config().name
        if not name:
            raise ConfigError(f"{_place(cls)} has no name: give its Config a field name: str = ...")
        if name in found:
            raise ConfigError(f"{kind}={name} is both {_place(found[name])} and {_place(cls)}: rename one of them")
        found[name] = cls
    return found


def _place(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"


class Kind(NamedTuple):
    """What a field's annotation says: of which type its values are, and whether it may be null or has several."""

    type: type
    optional: bool
    many: bool

    def __str__(self) -> str:
        return "a list of numbers such as [1,2]" if self.many else _NAMES[self.type] + " or null" * self.optional


def kinds(cls: type) -> dict[str, Any]:
    """Return for each field of a configuration its Kind, or the class of a nested configuration."""
    hints = typing.get_type_hints(cls)
    return {field.name: kind or hints[field.name] for field, kind in _fields(cls)}


@functools.cache
def _fields(cls: type) -> list[tuple[dataclasses.Field[Any], Kind | None]]:
    hints = typing.get_type_hints(cls)
    return [(field, _kind(hints[field.name])) for field in dataclasses.fields(cls)]


def _kind(hint: Any) -> Kind | None:
    """Return what an annotation such as `float | None` or `tuple[int, ...]` says, None for any other."""
    inner = [each for each in typing.get_args(hint) if each not in (types.NoneType, Ellipsis)]
    optional = types.NoneType in typing.get_args(hint)
    many = typing.get_origin(hint) is tuple
    of = inner[0] if (optional or many) and len(inner) == 1 else hint
    return Kind(of, optional, many) if of in _NAMES else None


_NAMES = {bool: "true or false", int: "a whole number", float: "a number", str: "a word"}


def _check_value(key: str, value: Any, kind: Kind, metadata: Mapping[str, Any]) -> None:
    if kind.many:
        if not isinstance(value, tuple):
            raise ConfigError(f"{key} must be {kind}, got {value!r}")
        for item in value:
            _check_value(key, item, kind._replace(many=False), metadata)
        return
    if value is None and kind.optional:
        return
    accepted = (int, float) if kind.type is float else kind.type
    if not isinstance(value, accepted) or (isinstance(value, bool) and kind.type is not bool):
        raise ConfigError(f"{key} must be {kind}, got {value!r}")
    if choices := metadata.get("one_of"):
        if value not in choices:
            raise ConfigError(f"{key}={value!r} is none of {', '.join(choices)}")
    elif kind.type in (int, float):
        _check_number(key, typing.cast(float, value), kind, metadata.get("bounds", {}))


def _check_number(key: str, value: float, kind: Kind, bounds: Mapping[str, float | None]) -> None:
    most = WIDEST if kind.type is int else LARGEST
    bounds = {name: bound for name, bound in bounds.items() if bound is not None}
    if not bounds.keys() & {"at_least", "above"}:
        bounds = {"at_least": -most, **bounds}
    if not bounds.keys() & {"at_most", "below"}:
        bounds = {**bounds, "at_most": most}
    high_enough = value >= bounds.get("at_least", -math.inf) and value > bounds.get("above", -math.inf)
    low_enough = value <= bounds.get("at_most", math.inf) and value < bounds.get("below", math.inf)
    if not (high_enough and low_enough):
        allowed = " and ".join(f"{name.replace('_', ' ')} {bound}" for name, bound in bounds.items())
        raise ConfigError(f"{key} must be {allowed}, got {value}")


def _check_effect(values: Mapping[str, Any], prefix: str, field: "dataclasses.Field[Any]") -> None:
    """Refuse a value that was given where another option leaves it without effect."""
    value, where = values[field.name], field.metadata.get("where", "")
    if not where or value == field.default:
        return
    other, _, wanted = where.partition("=")
    chosen = values[other]
    if chosen is None or (shown(chosen) == wanted if wanted else chosen):  # null is not decided yet
        return
    mend = f"set {prefix}{where}" if wanted else f"raise {prefix}{other}"
    given, instead = f"{prefix}{field.name}={shown(value)}", f"{prefix}{other}={shown(chosen)}"
    raise ConfigError(f"{given} has no effect with {instead}: {mend}, or leave it out")


def shown(value: Any) -> str:
    """Return a value as a user types it."""
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def quoted(path: str) -> str:
    """Return a path as an override may hold it."""
    return path if re.fullmatch(r"[\w./:@+-]+", path) else "'" + path.replace("'", "\\'") + "'"
