"""Options: what a bound lets pass, what is refused and with which words; and how classes are found by name."""

import dataclasses
import importlib
import math
import sys
import typing
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from curl_rl.config.schema import GROUPS, Config
from curl_rl.options import OwnClassError, Registry, check, option
from curl_rl.types import ConfigError


@dataclass(frozen=True)
class Inner:
    share: float = option(0.5, "a share", at_least=0, below=1)


@dataclass(frozen=True)
class Outer:
    name: str = "outer"
    size: int = option(2, "a size", at_least=1)
    rate: float = option(1.0, "a rate", above=0)
    weight: float | None = option(None, "a weight", at_least=0, at_most=2)
    mode: str = option("a", "a mode", one_of=("a", "b"))
    sides: tuple[int, ...] = option((1, 2), "sides", at_least=1, at_most=9)
    part: int = option(1, "part of the whole", at_least=0, at_most="whole")
    whole: int = option(3, "the whole", above="part")
    layers: tuple[int, ...] = option((4, 5), "layers", at_most="most")
    most: int = option(5, "most of the layers")
    quick: bool = option(False, "whether quick")
    queue: int = option(0, "a queue", at_least=0)
    plain: float = 1.0
    inner: Inner = field(default_factory=Inner)


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"size": 0}, "agent.size must be at least 1 and at most 65536, got 0"),
    ({"size": 65_537}, "agent.size must be at least 1 and at most 65536, got 65537"),
    ({"size": 1.5}, "agent.size must be a whole number, got 1.5"),
    ({"size": True}, "agent.size must be a whole number, got True"),
    ({"size": None}, "agent.size must be a whole number, got None"),
    ({"rate": 0.0}, "agent.rate must be above 0 and at most 1000000.0, got 0.0"),
    ({"rate": math.nan}, "agent.rate must be above 0 and at most 1000000.0, got nan"),
    ({"rate": "1"}, "agent.rate must be a number, got '1'"),
    ({"weight": 2.5}, "agent.weight must be at least 0 and at most 2, got 2.5"),
    ({"mode": "c"}, "agent.mode='c' is none of a, b"),
    ({"mode": 3}, "agent.mode must be a word, got 3"),
    ({"sides": (1, 10)}, "agent.sides must be at least 1 and at most 9, got 10"),
    ({"sides": ()}, "agent.sides must be a list of numbers such as [1,2], got ()"),
    ({"part": 4}, "agent.part=4 must be at most agent.whole=3: change one of the two"),
    ({"part": 3}, "agent.whole=3 must be above agent.part=3: change one of the two"),
    ({"part": -1}, "agent.part must be at least 0, got -1"),
    ({"layers": (4, 6)}, "agent.layers=[4,6] must be at most agent.most=5: change one of the two"),
    ({"sides": 3}, "agent.sides must be a list of numbers such as [1,2], got 3"),
    ({"quick": 1}, "agent.quick must be true or false, got 1"),
    ({"plain": -math.inf}, "agent.plain must be at least -1000000.0 and at most 1000000.0, got -inf"),
    ({"inner": Inner(1.0)}, "agent.inner.share must be at least 0 and below 1, got 1.0"),
]


@pytest.mark.parametrize(("fields", "message"), REFUSED)
def test_a_value_out_of_bounds_is_refused_with_what_it_may_be(fields, message):
    with pytest.raises(ConfigError) as error:
        check(Outer(**fields), "agent.")
    assert str(error.value) == message


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"size": 1, "rate": 1e-9, "weight": 0},
        {"size": 65_536, "rate": 1e6, "weight": 2.0, "mode": "b", "quick": True, "sides": (9, 1)},
        {"inner": Inner(0), "plain": -5, "part": 4, "whole": 5},
    ],
)
def test_the_bounds_themselves_pass(fields):
    config = Outer(**fields)
    check(config)
    assert config == Outer(**fields)


@dataclass(frozen=True)
class Dependent:
    mode: str | None = option("plain", "a mode", one_of=("plain", "mixed"))
    queue: int = option(0, "a queue", at_least=0)
    share: float = option(0.5, "of a mixture", at_least=0, at_most=1, where="mode=mixed")
    start: int = option(10, "of the queue's use", at_least=0, where="queue")


def test_a_value_that_has_no_effect_is_refused():
    for passing in (
        Dependent(),
        Dependent("mixed", share=0.7),
        Dependent(None, share=0.7),
        Dependent(queue=1, start=3),
    ):
        check(passing)
    for fields, message in (
        ({"share": 0.7}, "objective.share=0.7 has no effect with objective.mode=plain: set objective.mode=mixed, or"),
        (
            {"start": 3},
            "objective.start=3 has no effect with objective.queue=0: raise objective.queue, or objective.start=10",
        ),
    ):
        with pytest.raises(ConfigError) as error:
            check(Dependent(**fields), "objective.")
        assert str(error.value).startswith(message)


class Thing:
    """What the classes of the tests' own registry are."""

    def act(self) -> str:
        raise TypeError("a thing does nothing")


MODULE = """
from dataclasses import dataclass
from test_options import Thing

@dataclass(frozen=True)
class OneConfig:
    name: str = "one"
    size: int = 3

class Between(Thing):
    pass

class One(Between):
    Config = OneConfig

    def act(self):
        return "one"
"""


WANTED = "things.two.One.Config must be a frozen dataclass of options, each with a default"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Give a package, `things`, with one module that defines a class."""
    path, modules = list(sys.path), set(sys.modules)
    monkeypatch.setitem(sys.modules, "test_options", sys.modules[__name__])
    monkeypatch.syspath_prepend(tmp_path)
    package = tmp_path / "things"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "one.py").write_text(MODULE)
    yield package
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        del sys.modules[name]


def registry(place: str = "things") -> Registry:
    importlib.import_module(place)
    return Registry("thing", place, Thing, gives=("act",), options=("size",))


def test_what_a_package_defines_is_found_by_the_name_of_its_options(folder):
    things = registry()
    assert list(things) == ["one"]
    assert (things["one"]().act(), things["one"].Config().size, len(things)) == ("one", 3, 1)
    assert "one" in things
    assert "two" not in things
    assert dict(registry("things.one")) == {"one": things["one"]}  # one module is a place too


def test_a_module_that_is_put_beside_the_others_needs_no_other_edit(folder):
    (folder / "two.py").write_text(MODULE.replace('"one"', '"two"'))
    (folder / "__init__.py").write_text(MODULE.replace('"one"', '"three"'))
    things = registry()
    assert {name: things[name]().act() for name in things} == {"one": "one", "two": "two", "three": "three"}
    assert things["two"].__module__ == "things.two"


def test_an_unknown_name_names_the_known_ones(folder):
    (folder / "two.py").write_text(MODULE.replace('"one"', '"two"'))
    for name in ("on", "things.one", "own:", ":One", ".own:One", "./own.py:One", None):
        with pytest.raises(ConfigError) as error:
            registry()[typing.cast(str, name)]
        assert str(error.value) == (
            f"unknown thing {name!r}; there are one, two, and package.module:Class for one of your own"
        )


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("", "", "thing=one is both things.one.One and things.two.One: rename one of them"),
        ('name: str = "one"', 'name: str = ""', "things.two.One has no name: give its Config a field name: str = ..."),
        ('name: str = "one"', "title: str = ''", f"{WANTED} (TypeError: it has no field name: str = ...)"),
        ("size: int = 3", "wide: int = 3", "things.two.One.Config has no size: every thing's does"),
        ('name: str = "one"', "name: str", f"{WANTED} (TypeError: "),
        ("(frozen=True)", "", f"{WANTED} (TypeError: it is not frozen)"),
        ("@dataclass(frozen=True)", "", f"{WANTED} (TypeError: "),
        (
            "size: int = 3",
            "size: dict = None",
            f"{WANTED} (TypeError: size is of type <class 'dict'>, which no option can",
        ),
        ("size: int = 3", "size: 'Size' = 3", f"{WANTED} (NameError: name 'Size' is not defined)"),
        ("def act", "def do", "things.two.One has no act: every thing gives that"),
        ("from", "1 / 0\nfrom", "things.two cannot be imported (ZeroDivisionError: division by zero): mend it or move"),
        (
            "from",
            "exit(3)\nfrom",
            "things.two cannot be imported (SystemExit: 3): mend it or move it out of the folder",
        ),
        ("class One(", "class One)", "things.two cannot be imported (SyntaxError: "),
    ],
)
def test_what_is_no_thing_is_one_clear_error(folder, before, after, message):
    (folder / "two.py").write_text(MODULE.replace(before, after, 1))
    with pytest.raises(ConfigError) as error:
        dict(registry())
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_class_of_ones_own_is_found_last_in_the_current_folder(folder, tmp_path, monkeypatch):
    there = tmp_path / "there"
    there.mkdir()
    (there / "own.py").write_text(MODULE)
    (there / "things.py").write_text("1 / 0")  # hides nothing that is found elsewhere
    things = registry()
    monkeypatch.chdir(there)
    assert "own:One" not in things
    own = things["own:One"]
    assert (own.__module__, own().act(), sys.path[-1]) == ("own", "one", "")
    assert list(things) == ["one"]
    assert things["own:One"] is own
    assert things["things.one:One"] is things["one"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("own:Two", "own.py has no class 'Two'"),
        ("own:act", "own.py has no class 'act'"),
        ("sys:Two", "sys has no class 'Two'"),
        ("owns:One", "owns cannot be imported (ModuleNotFoundError: No module named 'owns'): mend it, or start where"),
        ("own.one:One", "own.one cannot be imported (ModuleNotFoundError: No module named 'own.one'; 'own' is not a"),
        (
            "broken:One",
            "broken cannot be imported (NameError: name 'nothing' is not defined): mend it, or start where ",
        ),
        ("own:OneConfig", "own.OneConfig is no thing: derive it from test_options.Thing"),
        ("own:Between", "own.Between has no Config, act: every thing gives that"),
    ],
)
def test_a_class_of_ones_own_that_cannot_be_used_is_one_clear_error(folder, tmp_path, monkeypatch, name, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.py").write_text(MODULE)
    (tmp_path / "broken.py").write_text("nothing\n")
    with pytest.raises(OwnClassError) as error:
        registry()[name]
    assert str(error.value).startswith(f"thing={name} cannot be used: ")
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def every_config() -> list[type]:
    """Return every configuration class that a run is made of."""
    nested = [f.default_factory for f in dataclasses.fields(Config) if isinstance(f.default_factory, type)]
    return [Config, *nested, *(cls.Config for registry in GROUPS.values() for cls in registry.values())]


@pytest.mark.parametrize("cls", every_config(), ids=lambda cls: cls.__name__)
def test_every_option_has_a_meaning_and_a_default_within_its_bounds(cls):
    for f in dataclasses.fields(cls):
        if f.name != "name" and f.default is not dataclasses.MISSING:
            assert f.metadata["help"], f.name
    if cls is not Config:
        check(cls())
