"""No number of any configuration, however small or large, gets past its bounds and fails later."""

import dataclasses
import itertools
import math
from collections.abc import Iterator
from functools import cache
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from tiny import tiny_rainbow, tiny_sac

from curl_rl.config.overrides import compose
from curl_rl.config.schema import GROUPS, Config
from curl_rl.config.suites import objective_defaults
from curl_rl.objectives import OBJECTIVES
from curl_rl.options import LONGEST, WIDEST, Kind, kinds
from curl_rl.run import memory
from curl_rl.run.assembly import make_agent, make_learner, make_replay
from curl_rl.run.memory import predict_activation_bytes, predict_training_bytes
from curl_rl.types import ConfigError

EXTREMES = (0, -1, 2**31, 2**63, 10**18, math.nan, math.inf, -math.inf, 1e308, 1e-308)
APART = {name for name, cls in OBJECTIVES.items() if "classes" in cls.Config().needs}  # which no run can give
CHOICES = [(group, name) for group, registry in GROUPS.items() for name in registry if name not in APART]
WITHOUT = ("none", "state", "data_efficient", "canonical")  # a number to raise, or pixels
SMALL = {"crop": {"size": 24}, "cutout": {"most": 20}}  # what fits in a toy task's images
FIXED = ["env", "replay", "evaluation", "checkpoint", "log"]


@cache
def base(kind: str) -> Config:
    return compose(["task=toy/grid", "preset=rainbow"] if kind == "rainbow" else ["task=toy/reach"])


def chosen(group: str, name: str) -> Config:
    """Return a run on a toy task with this agent, encoder or objective, as shipped."""
    if group == "agent" or name == "state":
        return compose(["preset=state"]) if name == "state" else base(name)
    config = GROUPS[group][name].Config(**SMALL.get(name, {}))
    defaults = objective_defaults("toy/reach")
    config = dataclasses.replace(config, **{k: v for k, v in defaults.items() if getattr(config, k, "") is None})
    return dataclasses.replace(base("sac"), **{group: config})


def numbers(config: Any, prefix: str = "") -> Iterator[tuple[str, Kind]]:
    """Yield the dotted key and the kind of every number."""
    for name, kind in kinds(type(config)).items():
        if not isinstance(kind, Kind):
            yield from numbers(getattr(config, name), f"{prefix}{name}.") if dataclasses.is_dataclass(kind) else ()
        elif kind.type in (int, float):
            yield prefix + name, kind


def changed(config: Any, key: str, value: Any) -> Any:
    first, _, rest = key.partition(".")
    return dataclasses.replace(config, **{first: changed(getattr(config, first), rest, value) if rest else value})


@pytest.mark.parametrize(("group", "name"), [*CHOICES, *((part, "") for part in FIXED), ("", "")])
def test_an_extreme_number_is_refused_by_name_or_valid(group, name):
    config = chosen(group, name) if name else base("sac")
    part, prefix = (getattr(config, group), f"{group}.") if group else (config, "")
    keys = [(key, kind) for key, kind in numbers(part, prefix) if group or "." not in key]
    for (key, kind), value in itertools.product(keys, EXTREMES):
        try:
            changed(config, key, (value,) if kind.many else value)
        except ConfigError as error:
            assert key in str(error), (key, value)  # noqa: PT017
        else:
            assert -WIDEST <= value <= LONGEST or (key, value) in (("seed", 2**31), ("seed", 10**18)), (key, value)


class Spaces:
    """An environment's spaces and nothing else."""

    def __init__(self, config: Config):
        discrete = config.agent.name == "rainbow"
        side = config.env.image_size
        self.observation_space = gym.spaces.Box(0, 255, (3, side, side), np.uint8)
        self.action_space = gym.spaces.Discrete(4) if discrete else gym.spaces.Box(-1, 1, (2,), np.float32)


CPU = torch.device("cpu")


def ends(config: Any, prefix: str) -> Iterator[tuple[str, Any]]:
    """Yield every number's key and the largest value that its bounds allow."""
    for key, kind in numbers(config, prefix):
        for value in (LONGEST, 2**20, WIDEST, 1024, 1000, 100, 1.0):
            yield key, (kind.type(value),) if kind.many else kind.type(value)


@pytest.mark.parametrize(("group", "name"), [choice for choice in CHOICES if choice[1] not in WITHOUT])
def test_what_the_bounds_allow_is_built_or_refused_before_memory_is_taken(group, name, monkeypatch):
    monkeypatch.setattr(memory, "free_memory", lambda device: 2.0**24)  # so that what is built is built quickly
    config, tried = chosen(group, name), set()
    for key, value in ends(getattr(config, group), f"{group}."):
        if key in tried:
            continue
        try:
            extreme = changed(config, key, value)
        except ConfigError:
            continue
        tried.add(key)  # the largest that passes
        try:
            make_agent(extreme, Spaces(extreme), CPU)
        except ConfigError as error:
            words = str(error)
            assert "networks in training need" in words or "too small" in words, words
    assert tried


@pytest.mark.parametrize("tiny", [tiny_sac, tiny_rainbow])
def test_networks_in_training_take_what_was_predicted(tiny):
    agent = tiny("none")
    own = [agent.learner.encoder, *([agent.critic, agent.actor] if tiny is tiny_sac else [agent.heads])]
    weights = [p for network in own for p in network.parameters()]
    noise = sum(b.nbytes for network in own for b in network.buffers())
    assert predict_training_bytes(own) == 5 * 4 * sum(p.numel() for p in weights) + noise
    # A parameter, its gradient, two moments and the moving average of all but the actor.


def test_what_passes_through_an_encoder_is_predicted_layer_by_layer():
    with torch.device("meta"):
        layers = torch.nn.Sequential(torch.nn.Conv2d(3, 5, 3, stride=2), torch.nn.ReLU(), torch.nn.Conv2d(5, 7, 3))
        batch = torch.empty(6, 3, 11, 11)
    first, last = 6 * 5 * 5 * 5, 6 * 7 * 3 * 3  # numbers of four bytes, each with its gradient
    assert predict_activation_bytes(layers, batch) == 2 * 4 * (first + first + last)


@pytest.mark.parametrize("change", [{"batch_size": 4096}, {"objective": OBJECTIVES["spr"].Config(steps=1000)}])
def test_a_batch_that_memory_cannot_hold_is_refused_with_its_size(change, monkeypatch):
    config = dataclasses.replace(base("sac"), **change)
    monkeypatch.setattr(memory, "free_memory", lambda device: 2.0**28)
    with pytest.raises(ConfigError, match=r"of a batch need \d+\.\d+ GiB .* 0\.25 GiB free: lower batch_size"):
        make_replay(config, Spaces(config), CPU)


def test_capture_is_refused_where_the_device_is_chosen_to_train_and_not_to_evaluate():
    config = changed(base("sac"), "agent.capture", True)
    assert config.device == "auto"
    assert make_agent(config, Spaces(config), CPU).learner.encoder
    with pytest.raises(ConfigError, match=r"agent\.capture=true .* on the CPU here"):
        make_replay(config, Spaces(config), CPU)


def test_an_objective_that_reads_its_tensors_while_it_is_built_is_built_all_the_same(monkeypatch):
    none = OBJECTIVES["none"]

    class Reading(none):
        def __init__(self, config, shapes):
            super().__init__(config, shapes)
            self.drawn = float(torch.rand(3).sum()), torch.rand(3).numpy()

    monkeypatch.setitem(OBJECTIVES, "none", Reading)
    config = dataclasses.replace(base("sac"), objective=none.Config())
    assert isinstance(make_learner(config, Spaces(config), CPU).objective, Reading)
