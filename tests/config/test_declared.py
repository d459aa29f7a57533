"""Declarations of a user's own options that could not be held are refused where the class is found."""

from dataclasses import dataclass
from typing import Any

import pytest

from curl_rl.objectives.base import Objective, ObjectiveConfig
from curl_rl.options import Registry, check, option
from curl_rl.types import ConfigError


def found(config: type) -> Any:
    registry = Registry("objective", __name__, Objective, gives=("forward",))
    return registry._options_of(
        type("Mine", (Objective,), {"Config": config, "forward": lambda self: None, "__module__": "mine"})
    )


@dataclass(frozen=True)
class Unnamed(ObjectiveConfig):
    name: str = "a"
    low: int = option(1, "low", at_most="nowhere")


@dataclass(frozen=True)
class Worded(ObjectiveConfig):
    name: str = "b"
    low: int = option(1, "low", at_most="word")
    word: str = option("x", "a word")


@dataclass(frozen=True)
class Word(ObjectiveConfig):
    name: str = "c"
    word: str = option("x", "a word", at_most=3)


@dataclass(frozen=True)
class Listed(ObjectiveConfig):
    name: str = "d"
    low: int = option(1, "low", at_most="most")
    most: tuple[int, ...] = option((1, 2), "most")


@dataclass(frozen=True)
class Nowhere(ObjectiveConfig):
    name: str = "e"
    low: int = option(1, "low", where="nowhere=1")


@dataclass(frozen=True)
class Plain(ObjectiveConfig):
    name: str = "f"
    coefficient: float = 0.5


@pytest.mark.parametrize(
    ("config", "fault"),
    [
        (Unnamed, "low is bounded by nowhere, which is no number beside it"),
        (Worded, "low is bounded by word, which is no number beside it"),
        (Word, "word is no number and has bounds"),
        (Listed, "low is bounded by most, which is no number beside it"),
        (Nowhere, "low has no effect without nowhere, which is no option beside it"),
        (Plain, "coefficient loses its bounds: give it by option"),
    ],
)
def test_what_could_not_be_held_is_refused(config, fault):
    with pytest.raises(ConfigError, match=fault):
        found(config)


@dataclass(frozen=True)
class Open(ObjectiveConfig):
    name: str = "g"
    low: int | None = option(None, "low", at_most="high")
    high: int | None = option(None, "high")


def test_a_bound_that_is_not_decided_yet_binds_nothing():
    assert found(Open).low is None
    for low, high in ((None, 1), (5, None), (1, 1)):
        check(Open(low=low, high=high), "objective.")
    with pytest.raises(ConfigError, match=r"objective\.low=2 must be at most objective\.high=1"):
        check(Open(low=2, high=1), "objective.")
