"""Common faults of an environment of one's own: each is one line, said before a run writes anything."""

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from own_worlds import Drawn, World

from curl_rl import envs
from curl_rl.config.overrides import compose
from curl_rl.envs import EnvError, LocalEnv, RemoteEnv, make_env
from curl_rl.run.trainer import train
from curl_rl.types import ConfigError

SOME = spaces.Box(-1, 1, (2,), np.float32)


def offered(base: type = World, **attributes: Any) -> str:
    """Return the task of a class that has these attributes in place of its base's."""
    return envs.offer("faulty", type("Faulty", (base,), attributes))


def answering(reward: Any = 0.0, terminated: Any = False, truncated: Any = False, info: Any = None) -> str:
    def step(self, action):
        return self.observe(), reward, terminated, truncated, {} if info is None else info

    return offered(step=step)


@pytest.mark.parametrize(
    ("reward", "wanted"),
    [
        (2, 2.0),
        (True, 1.0),
        (np.float32(0.5), 0.5),
        (np.int64(-3), -3.0),
        (np.array([0.25]), 0.25),
        (np.array([[7]]), 7.0),
        ([1.5], 1.5),
        (torch.tensor([0.5]), 0.5),
    ],
    ids=repr,
)
@pytest.mark.parametrize("repeat", [1, 2])
def test_a_reward_is_one_number_however_it_is_wrapped(reward, wanted, repeat):
    env = LocalEnv(answering(reward), {"image_size": 8, "action_repeat": repeat})
    env.reset(0)
    env.send(np.float32([0]))
    given = env.receive()[1]
    assert (type(given), given) == (float, wanted * repeat)


@pytest.mark.parametrize(
    ("reward", "words"),
    [
        (None, "reward None"),
        ("1", "reward '1'"),
        ({}, "reward {}"),
        (np.array([1.0, 2.0]), "reward of shape .2,.: give one finite number"),
        (np.array([]), "reward of shape .0,."),
        (float("nan"), "reward nan"),
        (np.array([-np.inf]), "reward -inf"),
        (1 + 0j, "reward .1.0j."),
    ],
    ids=repr,
)
@pytest.mark.parametrize("repeat", [1, 2])
def test_another_reward_is_refused(reward, words, repeat):
    with pytest.raises(EnvError, match=f"the environment gave the {words}"):
        make_env(answering(reward), image_size=8, action_repeat=repeat)


@pytest.mark.parametrize("which", ["terminated", "truncated"])
def test_flags_are_true_or_false(which):
    env = make_env(answering(**{which: np.True_}), image_size=8)
    env.reset(seed=0)
    answer = env.step(np.float32([0]))
    assert answer[3 if which == "truncated" else 2] is True
    for flag in (None, 0, 1.0, "False", np.array([True, False])):
        with pytest.raises(EnvError, match=f"the step of faulty returned .* as {which}: give True or False"):
            make_env(answering(**{which: flag}), image_size=8)


def test_info_is_a_dict():
    with pytest.raises(EnvError, match=r"the step of faulty returned \[\] as info: give a dict, \{\} where"):
        make_env(answering(info=[]), image_size=8)
    with pytest.raises(EnvError, match=r"the reset of faulty returned None as info: give a dict, \{\} where"):
        make_env(offered(reset=lambda self, **_: (self.observe(), None)), image_size=8)


@pytest.mark.parametrize("which", ["observation_space", "action_space"])
@pytest.mark.parametrize("space", [None, (2,), spaces.Discrete])
def test_spaces_are_gymnasiums(which, space):
    task = offered(**{which: space})
    for ask in (make_env, envs.is_discrete, lambda task: compose([f"task={task}"])):
        with pytest.raises(
            (EnvError, ConfigError), match=f"faulty has the {which} .*: set self.{which} to one of gymnasium.spaces"
        ):
            ask(task)


def test_a_space_that_was_never_set_is_named():
    class Spaceless(gym.Env):
        observation_space = SOME

    task = envs.offer("faulty", Spaceless)
    with pytest.raises(EnvError, match="faulty has the action_space None"):
        envs.is_discrete(task)


@pytest.mark.parametrize(
    "observation_space", [SOME, spaces.Box(0, 9, (2,), np.int64), spaces.Box(0, 1, (2, 1))], ids=str
)
@pytest.mark.parametrize("given", [np.zeros(3), np.zeros((3, 2), np.float32), None, "left"], ids=repr)
@pytest.mark.parametrize("late", [False, True])
def test_a_state_of_another_shape_or_type_is_refused(observation_space, given, late):
    right = np.zeros(observation_space.shape, observation_space.dtype)
    task = offered(observation_space=observation_space, observe=lambda self: right if late and not self.age else given)
    with pytest.raises(EnvError, match=r"returned an observation .*: let its observation_space say what it returns"):
        make_env(task, obs="state")


def test_a_state_that_is_not_finite_is_refused():
    task = offered(observation_space=SOME, observe=lambda self: np.float32([0, np.nan]))
    with pytest.raises(EnvError, match="is not finite in float32"):
        make_env(task, obs="state")


def test_an_empty_dict_holds_no_state():
    task = offered(observation_space=spaces.Dict({}), observe=lambda self: {})
    with pytest.raises(EnvError, match=r"env\.obs=state needs a fixed count of numbers, and faulty observes Dict"):
        make_env(task, obs="state")
    with pytest.raises(EnvError, match=r"observes a Dict of nothing .images: none"):
        make_env(task)


def _absent(self):
    raise NotImplementedError


@pytest.mark.parametrize(
    ("render", "drawn"),
    [
        (_absent, "nothing"),
        (lambda self: None, "nothing"),
        (lambda self: [[0]], "list"),
        (lambda self: np.zeros((40, 60, 3)), ".40, 60, 3. float64"),
        (lambda self: np.zeros((40, 60, 2), np.uint8), ".40, 60, 2. uint8"),
        (lambda self: np.zeros((40 + self.age, 60, 3), np.uint8), ".41, 60, 3. uint8 after .40, 60, 3."),
        (lambda self: None if self.age else np.zeros((40, 60, 3), np.uint8), "nothing after .40, 60, 3."),
    ],
    ids=["absent", "None", "list", "float", "channels", "growing", "late"],
)
def test_what_is_no_picture_is_refused(render, drawn):
    with pytest.raises(
        EnvError, match=rf"faulty drew {drawn}: let its render\(\) return \(H, W, 3\) uint8 of one size"
    ):
        make_env(offered(Drawn, render=render), obs="render", image_size=8)


@pytest.mark.parametrize("make", [LocalEnv, RemoteEnv])
def test_what_an_environment_raises_later_is_its_own_with_its_task(make):
    env = make("own_worlds:Trapped", {"image_size": 8})
    try:
        env.reset(0)
        for _ in range(2):
            env.send(np.float32([0]))
            env.receive()
        env.send(np.float32([0]))
        with pytest.raises(KeyError, match="door") as raised:
            env.receive()
        assert raised.value.__notes__[0] == "raised by the step of own_worlds:Trapped"
    finally:
        env.close()


def test_what_an_environment_raises_at_once_is_one_line():
    def step(self, action):
        raise KeyError("door")

    with pytest.raises(EnvError, match=r"faulty cannot be played .KeyError: 'door'"):
        make_env(offered(step=step), image_size=8)


def test_a_fault_is_said_before_anything_is_written(tmp_path):
    settings = [f"task={answering(float('nan'))}", "threads=1", "device=cpu", "env.overlap=false", "env.image_size=32"]
    with pytest.raises(EnvError, match="gave the reward nan"):
        train(compose([*settings, f"run_dir={tmp_path / 'run'}"]))
    assert not (tmp_path / "run" / "config.json").exists()
    assert not list(tmp_path.rglob("*.csv"))
