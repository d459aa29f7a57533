"""Options, whose meaning and bounds stand with their default, and the classes that have them, found by name."""

import dataclasses
import functools
import importlib
import operator
import pkgutil
import re
import sys
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from curl_rl.types import ConfigError

WIDEST = 65_536  # the most of a whole number that says no other: one layer of that width takes 16 GiB
LONGEST = 10**9  # of frames, updates and what is kept of them: five times the longest published run's frames
LARGEST = 1e6  # the most of a real number that says no other: losses scaled by more lose float32's digits


def option(
    default: Any,
    help: str,
    *,
    at_least: float | str | None = None,
    above: float | str | None = None,
    at_most: float | str | None = None,
    below: float | str | None = None,
    one_of: Sequence[str] = (),
    where: str = "",
    counts: str = "",
) -> Any:
    """Declare a field with its meaning and choices, which `--help` prints, and its bounds, which `check` holds.

    Args: where, the option beside it without which it has no effect: "sampler=prioritized", or "queue_size" for any
    value but 0. Bounds of a tuple are those of each of its numbers; a bound may be the name of an option beside it.
    counts, "updates" that pass before something begins, or "samples" that it keeps: pre-training, which knows how many
    of either there will be, refuses more.
    """
    bounds = {"at_least": at_least, "above": above, "at_most": at_most, "below": below}
    told = f"{help} ({', '.join(one_of)})" if one_of else help
    return dataclasses.field(
        default=default, metadata={"help": told, "bounds": bounds, "one_of": one_of, "where": where, "counts": counts}
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
        elif isinstance(kind, Kind):
            _check_value(key, value, kind, field.metadata)
    for field, _ in _fields(cls):
        _check_beside(values, prefix, field)
        _check_effect(values, prefix, field)


class OwnClassError(ConfigError):
    """A class of the user's own, `package.module:Class`, that cannot be used here."""


class Registry(dict[str, Any]):
    """The classes of one kind by the names in their `Config`: all that the modules of a package define, or one module.

    `registry["package.module:Class"]` is a class of the user's own, whose module is looked for in the current folder
    last of all. Raises ConfigError for an unknown name, a module that cannot be imported, and a class that has not what
    its kind needs.

    Args: kind, as in `kind=name`; place, the package or module; base, of which all are; gives and options, what a class
    has besides, and what its `Config` has.
    """

    def __init__(
        self, kind: str, place: str, base: type = object, *, gives: Sequence[str] = (), options: Sequence[str] = ()
    ):
        super().__init__()
        self.kind, self._place, self._base = kind, place, base
        self._gives, self._options = ("Config", *gives), options
        self.find()

    def find(self) -> None:
        """Take every class that has options of its own; one that others derive from has none."""
        inside = pkgutil.iter_modules(getattr(sys.modules[self._place], "__path__", ()))
        for module in (self._place, *(f"{self._place}.{info.name}" for info in inside)):
            for cls in vars(_imported(module, "mend it or move it out of the folder")).values():
                own = isinstance(cls, type) and issubclass(cls, self._base) and cls.__module__ == module
                if own and "Config" in vars(cls):
                    self._add(cls)

    def _add(self, cls: type) -> None:
        if not (name := self._options_of(cls).name):
            raise ConfigError(f"{_title(cls)} has no name: give its Config a field name: str = ...")
        if (other := self.setdefault(name, cls)) is not cls:
            raise ConfigError(f"{self.kind}={name} is both {_title(other)} and {_title(cls)}: rename one of them")

    def __missing__(self, name: str) -> type:
        module, colon, title = str(name).partition(":")
        if not colon or not all(part.isidentifier() for part in (*module.split("."), title)):
            known = f"there are {', '.join(sorted(self))}, and package.module:Class for one of your own"
            raise ConfigError(f"unknown {self.kind} {name!r}; {known}")
        if "" not in sys.path:
            sys.path.append("")
        try:
            members = vars(_imported(module, f"mend it, or start where {module.partition('.')[0]} lies"))
            if not isinstance(cls := members.get(title), type):
                raise ConfigError(f"{members.get('__file__', module)} has no class {title!r}")
            self._options_of(cls)
        except ConfigError as error:
            raise OwnClassError(f"{self.kind}={name} cannot be used: {error}") from error
        return cls

    def _options_of(self, cls: type) -> Any:
        """Return a class's default options. Raises ConfigError where it has not what its kind needs."""
        if not issubclass(cls, self._base):
            raise ConfigError(f"{_title(cls)} is no {self.kind}: derive it from {_title(self._base)}")
        if lacking := [name for name in self._gives if getattr(cls, name, None) is getattr(self._base, name, None)]:
            raise ConfigError(f"{_title(cls)} has no {', '.join(lacking)}: every {self.kind} gives that")
        try:
            options = _defaults(typing.cast(Any, cls).Config)
        except Exception as error:
            wanted = "must be a frozen dataclass of options, each with a default"
            raise ConfigError(f"{_title(cls)}.Config {wanted} ({_told(error)})") from error
        if lacking := [name for name in self._options if not hasattr(options, name)]:
            raise ConfigError(f"{_title(cls)}.Config has no {', '.join(lacking)}: every {self.kind}'s does")
        return options


def _imported(name: str, mend: str) -> types.ModuleType:
    try:
        return importlib.import_module(name)
    except (Exception, SystemExit) as error:
        raise ConfigError(f"{name} cannot be imported ({_told(error)}): {mend}") from error


def _defaults(config: Any) -> Any:
    """Return what a class of options makes of nothing. Raises TypeError where no schema can be made of it."""
    found = kinds(config)
    if not config.__dataclass_params__.frozen:
        raise TypeError("it is not frozen")
    if "name" not in found:
        raise TypeError("it has no field name: str = ...")
    for name, kind in found.items():
        if not isinstance(kind, Kind) and not dataclasses.is_dataclass(kind):
            raise TypeError(f"{name} is of type {kind}, which no option can be")
    for field, kind in _fields(config):
        _check_declared(config, field, kind, found)
    return config()


def _check_declared(config: type, field: "dataclasses.Field[Any]", kind: Any, found: Mapping[str, Any]) -> None:
    """Raise TypeError for an option whose declaration could not be held."""
    bounds = [bound for bound in field.metadata.get("bounds", {}).values() if bound is not None]
    if bounds and getattr(kind, "type", None) not in (int, float):
        raise TypeError(f"{field.name} is no number and has bounds")
    for other in (bound for bound in bounds if isinstance(bound, str)):
        if not isinstance(beside := found.get(other), Kind) or beside.many or beside.type not in (int, float):
            raise TypeError(f"{field.name} is bounded by {other}, which is no number beside it")
    if (where := field.metadata.get("where", "").partition("=")[0]) and where not in found:
        raise TypeError(f"{field.name} has no effect without {where}, which is no option beside it")
    inherited = [getattr(base, "__dataclass_fields__", {}).get(field.name) for base in config.__mro__[1:]]
    if not field.metadata and any(each.metadata for each in inherited if each):
        raise TypeError(f"{field.name} loses its bounds: give it by option(...) again")


def _title(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"


def _told(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".partition("\n")[0]


class Kind(NamedTuple):
    """What a field's annotation says: of which type its values are, and whether it may be null or has several."""

    type: type
    optional: bool
    many: bool

    def __str__(self) -> str:
        return "a list of numbers such as [1,2]" if self.many else _NAMES[self.type] + " or null" * self.optional


def kinds(cls: type) -> dict[str, Any]:
    """Return for each field of a configuration its Kind, or the class of a nested configuration."""
    return {field.name: kind for field, kind in _fields(cls)}


@functools.cache
def _fields(cls: type) -> list[tuple[dataclasses.Field[Any], Any]]:
    hints = typing.get_type_hints(cls)
    return [(field, _kind(hints[field.name])) for field in dataclasses.fields(cls)]


def _kind(hint: Any) -> Any:
    """Return what an annotation such as `float | None` or `tuple[int, ...]` says; any other is returned."""
    inner = [each for each in typing.get_args(hint) if each not in (types.NoneType, Ellipsis)]
    optional = types.NoneType in typing.get_args(hint)
    many = typing.get_origin(hint) is tuple
    of = inner[0] if (optional or many) and len(inner) == 1 else hint
    return Kind(of, optional, many) if of in _NAMES else hint


_HOLDS = {"at_least": operator.ge, "above": operator.gt, "at_most": operator.le, "below": operator.lt}
_NAMES = {bool: "true or false", int: "a whole number", float: "a number", str: "a word"}


def _check_value(key: str, value: Any, kind: Kind, metadata: Mapping[str, Any]) -> None:
    if kind.many:
        if not isinstance(value, tuple) or not value:
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


def _check_number(key: str, value: float, kind: Kind, bounds: Mapping[str, Any]) -> None:
    most = WIDEST if kind.type is int else LARGEST
    given = {name: bound for name, bound in bounds.items() if bound is not None}
    low = {} if given.keys() & {"at_least", "above"} else {"at_least": -most}
    high = {} if given.keys() & {"at_most", "below"} else {"at_most": most}
    bounds = {name: bound for name, bound in {**low, **given, **high}.items() if not isinstance(bound, str)}
    if not all(_HOLDS[name](value, bound) for name, bound in bounds.items()):
        allowed = " and ".join(f"{name.replace('_', ' ')} {bound}" for name, bound in bounds.items())
        raise ConfigError(f"{key} must be {allowed}, got {value}")


def _check_beside(values: Mapping[str, Any], prefix: str, field: "dataclasses.Field[Any]") -> None:
    """Refuse a number, or one of several, that is beyond what an option beside it allows."""
    given = values[field.name]
    for name, other in field.metadata.get("bounds", {}).items():
        if not isinstance(other, str):
            continue
        limit = values[other]
        if given is None or limit is None:  # not decided yet
            continue
        if not all(_HOLDS[name](each, limit) for each in (given if isinstance(given, tuple) else [given])):
            allowed = f"{name.replace('_', ' ')} {prefix}{other}={shown(limit)}"
            raise ConfigError(f"{prefix}{field.name}={shown(given)} must be {allowed}: change one of the two")


def _check_effect(values: Mapping[str, Any], prefix: str, field: "dataclasses.Field[Any]") -> None:
    """Refuse a value that was given where another option leaves it without effect."""
    if not _is_idle(values, field):
        return
    where = field.metadata["where"]
    other, _, wanted = where.partition("=")
    mend = f"set {prefix}{where}" if wanted or isinstance(values[other], str) else f"raise {prefix}{other}"
    given, instead = f"{prefix}{field.name}={shown(values[field.name])}", f"{prefix}{other}={shown(values[other])}"
    raise ConfigError(f"{given} has no effect with {instead}: {mend}, or {prefix}{field.name}={shown(field.default)}")


def _is_idle(values: Mapping[str, Any], field: "dataclasses.Field[Any]") -> bool:
    """Return whether a value is not the default, and another option leaves it without effect."""
    value, where = values[field.name], field.metadata.get("where", "")
    if not where or value == field.default:
        return False
    other, _, wanted = where.partition("=")
    chosen = values[other]
    return not (chosen is None or (shown(chosen) == wanted if wanted else chosen))  # null is not decided yet


def idle(cls: type, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options whose values have no effect beside the others, nested ones by dotted names: their defaults."""
    found = {}
    for field, kind in _fields(cls):
        if dataclasses.is_dataclass(kind):
            inner = idle(typing.cast(type, kind), values[field.name])
            found |= {f"{field.name}.{name}": default for name, default in inner.items()}
        elif _is_idle(values, field):
            found[field.name] = field.default
    return found


def shown(value: Any) -> str:
    """Return a value as a user types it."""
    if isinstance(value, tuple):
        return f"[{','.join(map(shown, value))}]"
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def repeated(values: Sequence[str]) -> list[str]:
    """Return those of some values that came before, in their order."""
    return [value for place, value in enumerate(values) if value in values[:place]]


def quoted(path: str) -> str:
    """Return a path as an override may hold it."""
    return path if re.fullmatch(r"[\w./:@+-]+", path) else "'" + path.replace("'", "\\'") + "'"
