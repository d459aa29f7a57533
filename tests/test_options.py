"""Options: what a bound lets pass, what is refused, and that the refusal says what may stand there."""

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Any

import pytest

from curl_rl.config.schema import GROUPS, Config
from curl_rl.options import by_name, check, option
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
        {"inner": Inner(0), "plain": -5, "sides": ()},
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
            "objective.start=3 has no effect with objective.queue=0: raise objective.queue, or leave it out",
        ),
    ):
        with pytest.raises(ConfigError) as error:
            check(Dependent(**fields), "objective.")
        assert str(error.value).startswith(message)


def test_two_classes_of_one_name_are_both_named():
    def of(name: str, title: str) -> Any:
        config = dataclasses.make_dataclass("Config", [("name", str, field(default=name))])
        return type(title, (), {"Config": config})

    one, two, nameless = of("one", "One"), of("one", "Two"), of("", "Nameless")
    assert by_name("agent", [one]) == {"one": one}
    with pytest.raises(ConfigError, match=r"agent=one is both test_options\.One and test_options\.Two: rename one"):
        by_name("agent", [one, two])
    with pytest.raises(ConfigError, match=r"test_options\.Nameless has no name"):
        by_name("agent", [nameless])


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
