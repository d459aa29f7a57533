"""Environments that nobody here wrote: Gymnasium's, one's own, and those that a program offers."""

import dataclasses
import re
import sys

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.utils.env_checker import check_env
from own_worlds import Right, World
from PIL import Image

from curl_rl import envs
from curl_rl.config.overrides import compose
from curl_rl.config.suites import SUITES
from curl_rl.envs import EnvError, LocalEnv, RemoteEnv, make_env
from curl_rl.envs.images import SquareFrames
from curl_rl.envs.outside import ENDLESS
from curl_rl.envs.spaces import CUT, AgentSpaces
from curl_rl.run.records import read_run
from curl_rl.run.trainer import train
from curl_rl.types import ConfigError

SHORT = [
    "budget_frames=300",
    "random_steps=100",
    "batch_size=16",
    "threads=1",
    "device=cpu",
    "env.overlap=false",
    "env.image_size=32",
    "evaluation.every_frames=150",
    "evaluation.episodes=2",
    "evaluation.workers=1",
    "evaluation.video=false",
    "checkpoint.every_frames=150",
]


def world(space: spaces.Space, image) -> World:
    env = World()
    env.observation_space = space
    env.observe = lambda: image
    return env


def frame(space: spaces.Box, image, size: int = 4) -> np.ndarray:
    return SquareFrames(world(space, image), size).reset()[0]


def counted(shape: tuple[int, ...]) -> np.ndarray:
    return np.arange(np.prod(shape), dtype=np.uint8).reshape(shape)


@pytest.mark.parametrize("shape", [(6, 6), (6, 6, 1), (1, 6, 6), (6, 6, 3), (3, 6, 6)], ids=str)
def test_every_layout_becomes_channels_first(shape):
    image = counted(shape)
    wanted = image[None] if len(shape) == 2 else image if shape[0] in (1, 3) else image.transpose(2, 0, 1)
    got = frame(spaces.Box(0, 255, shape, np.uint8), image, size=6)
    assert got.tolist() == wanted.tolist()
    assert got.dtype == np.uint8


def test_four_channels_stay_four_and_do_not_touch_each_other():
    image = np.zeros((8, 8, 4), np.uint8)
    image[..., 0], image[..., 3] = 200, np.arange(8) * 10  # a fourth that is taken for opacity would darken the first
    got = frame(spaces.Box(0, 255, image.shape, np.uint8), image)
    assert (got[0] == 200).all()
    assert got[3, 0].tolist() == [5, 25, 45, 65]


@pytest.mark.parametrize(
    ("low", "high", "dtype", "values"),
    [
        (0.0, 1.0, np.float32, [-0.001, 0.5, 1, 1.001]),  # as far beyond as rounding goes
        (-1.0, 1.0, np.float64, [-1, 0, 1, 1 + 1e-9]),
        (0, 1, np.uint8, [0, 1, 1, 1]),
        (0, 255, np.float32, [0, 127.5, 255, 255.4]),
    ],
)
def test_bounds_become_black_and_white(low, high, dtype, values):
    image = np.array(values, dtype).reshape(2, 2)
    got = frame(spaces.Box(low, high, (2, 2), dtype), image, size=2)
    assert got.tolist() == [[[0, 128 if dtype != np.uint8 else 255], [255, 255]]]


@pytest.mark.parametrize(
    ("low", "high", "dtype", "values", "words"),
    [
        (0.0, 1.0, np.float32, [0, 255], "of values from 0 to 255, and declares 0 to 1"),
        (0.0, 1.0, np.float32, [0, 1.01], "of values from 0 to 1.01, and declares 0 to 1"),
        (0.0, 1.0, np.float64, [-1, 1], "of values from -1 to 1, and declares 0 to 1"),
        (0, 1, np.uint8, [0, 2], "of values from 0 to 2, and declares 0 to 1"),
        (0.0, 1.0, np.float32, [0, np.nan], "is not finite"),
        (0.0, 1.0, np.float32, [0, np.inf], "is not finite"),
    ],
    ids=str,
)
def test_an_image_beyond_its_bounds_is_refused(low, high, dtype, values, words):
    with pytest.raises(EnvError, match=words):
        frame(spaces.Box(low, high, (1, 2), dtype), np.array([values], dtype), size=2)


@pytest.mark.parametrize("shape", [(12, 8), (8, 12), (64, 96)], ids=str)
def test_another_size_is_the_mean_over_its_area(shape):
    image = np.random.default_rng(0).integers(0, 256, (*shape, 3)).astype(np.uint8)
    got = frame(spaces.Box(0, 255, image.shape, np.uint8), image)
    height, width = shape[0] // 4, shape[1] // 4
    naive = image.reshape(4, height, 4, width, 3).mean((1, 3)).transpose(2, 0, 1)
    assert np.abs(got - naive).max() <= 1


def test_a_square_of_the_right_size_stays_bit_for_bit():
    image = np.random.default_rng(0).integers(0, 256, (4, 4, 3)).astype(np.uint8)
    assert (frame(spaces.Box(0, 255, image.shape, np.uint8), image) == image.transpose(2, 0, 1)).all()


def test_larger_ones_too():
    image = np.array([[0, 200]], np.uint8)
    assert frame(spaces.Box(0, 255, (1, 2), np.uint8), image).tolist() == [[[0, 0, 200, 200]] * 4]


@pytest.mark.parametrize(
    ("task", "settings", "words"),
    [
        ("own_worlds:Drawn", {}, "env.obs=pixels needs images .* set env.obs=render"),
        ("own_worlds:Several", {}, "Dict of eye, hand, n .images: eye., and env.key='' is none .*env.key=<one>"),
        ("own_worlds:Several", {"key": "ear"}, "env.key='ear' is none"),
        ("own_worlds:World", {"key": "eye"}, "env.key=eye names one of a Dict's"),
        ("own_worlds:World", {"obs": "render"}, "needs the render mode rgb_array"),
        ("own_worlds:Drawn", {"obs": "render", "key": "eye"}, "env.key=eye has no effect with env.obs=render"),
        (
            "own_worlds:Unending",
            {"obs": "state"},
            "env.obs=state needs a fixed count of numbers, and own_worlds:Unending observes Seq",
        ),
        (
            "own_worlds:Strange",
            {"obs": "state"},
            "env.obs=state needs a fixed count of numbers, and own_worlds:Strange observes",
        ),
        ("own_worlds:Torn", {}, "the step of own_worlds:Torn returned 4 values: .*shimmy"),
        ("own_worlds:Bare", {}, "the reset of own_worlds:Bare returned a ndarray: .*shimmy"),
        ("own_worlds:Seedless", {}, "cannot be played .TypeError: .*seed.*shimmy"),
        ("own_worlds:Many", {}, "one Discrete number, or by floats .* MultiDiscrete"),
        ("own_worlds:Broken", {}, "own_worlds:Broken cannot be made .OSError: no such device"),
        ("own_worlds:no_environment", {}, "made builtins.object, which is no gymnasium.Env"),
        ("own_worlds:Nothing", {}, "no class or function 'Nothing'"),
        ("own_worldz:World", {}, "own_worldz cannot be imported .*start where it lies"),
        ("own/never", {}, "own/never was made by a program"),
        ("gym/Pendulum", {}, "nearest: gym/Pendulum-v1: give gym/<id>, .* package.module:Class"),
        ("gym/pendulm-v1", {}, "nearest: gym/Pendulum-v1"),
        ("gym/CartPole-v9", {}, "nearest: gym/CartPole-v1, gym/CartPole-v0"),
        ("gym/CartPole-v1", {}, "preset=state for a vector .rainbow_state where its actions are Discrete"),
        ("own/own_worlds:World", {}, "own_worlds:World is a class: write task=own_worlds:World"),
        ("own_worlds.World", {}, "one of your own is package.module:Class"),
        ("gym/nomodule:Pendulum-v1", {}, "No module named 'nomodule'"),
        ("gym/FrozenLake-v1", {}, "Discrete.16.: set env.obs=render"),
        ("gym/Taxi-v3", {}, "is deprecated. Please use `Taxi-v4`"),
    ],
)
def test_what_cannot_be_is_refused_with_the_mend(task, settings, words):
    with pytest.raises(EnvError, match=words):
        AgentSpaces(make_env(task, image_size=16, **settings))


def test_an_image_without_bounds_is_refused():
    with pytest.raises(EnvError, match="what is black and what is white"):
        SquareFrames(world(spaces.Box(-np.inf, np.inf, (8, 8, 3), np.float32), None), 4)


def test_one_of_several_observations_is_seen_by_its_key():
    env = make_env("own_worlds:Several", key="eye", image_size=8)
    env.reset(seed=0)
    assert (env.step(np.float32([0]))[0] == 1).all()
    state = make_env("own_worlds:Several", key="hand", obs="state")
    assert state.reset(seed=0)[0].tolist() == [0.5, -0.5]


def test_a_state_is_all_that_is_observed_as_one_vector():
    env = AgentSpaces(make_env("own_worlds:Several", obs="state"))
    seen = env.reset(seed=0)[0]
    assert seen.shape == (8 * 8 * 3 + 2 + 3,)
    assert seen[-5:].tolist() == [0.5, -0.5, 0, 0, 1]  # Discrete as Gymnasium flattens it
    assert seen.dtype == np.float32


def test_what_is_drawn_is_seen():
    env = make_env("own_worlds:Drawn", obs="render", image_size=16, action_repeat=3)
    assert env.observation_space == spaces.Box(0, 255, (3, 16, 16), np.uint8)
    env.reset(seed=0)
    assert (env.step(np.float32([0]))[0] == 3).all()


def test_an_action_is_repeated_to_the_episodes_end():
    env = make_env("own_worlds:Right", image_size=16, action_repeat=8)
    env.reset(seed=0)
    answers = [env.step(np.float32([2])) for _ in range(3)]
    assert [reward for _, reward, *_ in answers] == [8, 8, 4]
    assert [answer[3] for answer in answers] == [False, False, True]


def test_an_environment_without_an_end_gets_one_and_says_so():
    env = make_env("own_worlds:World", image_size=8)
    env.reset(seed=0)
    for step in range(1, ENDLESS + 1):
        *_, truncated, info = env.step(np.float32([0]))
        assert truncated == (step == ENDLESS)
    assert info[CUT] == ENDLESS
    asked = make_env("own_worlds:World", image_size=8, max_steps=5)
    asked.reset(seed=0)
    answers = [asked.step(np.float32([0]))[3:] for _ in range(5)]
    assert answers == [(False, {})] * 4 + [(True, {})]


def test_registered_limits_are_kept_or_replaced():
    def length(**settings) -> int:
        env = make_env("gym/Pendulum-v1", obs="state", **settings)
        env.reset(seed=0)
        return next(step for step in range(1, 1000) if env.step(np.float32([0]))[3])

    assert [length(), length(max_steps=30), length(max_steps=300)] == [200, 30, 300]


def test_a_limit_of_ones_own_environment_is_shortened_and_never_silently_kept():
    env = make_env("own_worlds:short", obs="state", max_steps=30)
    env.reset(seed=0)
    assert [env.step(np.float32([0]))[3] for _ in range(30)] == [False] * 29 + [True]
    with pytest.raises(
        EnvError, match=r"env\.max_steps=300 has no effect: own_worlds:short ends its episodes after 200"
    ):
        make_env("own_worlds:short", obs="state", max_steps=300)


@pytest.mark.parametrize(
    ("task", "settings"),
    [
        ("own_worlds:Second", {}),
        ("own_worlds:Several", {"key": "eye"}),
        ("own_worlds:Drawn", {"obs": "render"}),
        ("gym/Pendulum-v1", {"obs": "state"}),
        ("gym/CartPole-v1", {"obs": "state", "max_steps": 20}),
    ],
    ids=str,
)
@pytest.mark.filterwarnings("ignore::UserWarning")  # which a wrapped environment and infinite bounds bring
def test_gymnasiums_own_checker_passes(task, settings):
    env = AgentSpaces(make_env(task, image_size=16, **settings))
    check_env(env, skip_render_check=True)
    assert env.unwrapped.spec is None or env.spec.id in task


HERE = """
import gymnasium as gym

class World(gym.Env):
    observation_space = gym.spaces.Box(-1, 1, (2,))
    action_space = gym.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        return self.observation_space.low, {}

    def step(self, action):
        return self.observation_space.low, 1.0, True, False, {}

gym.register("Named-v0", entry_point="lying_here:World")
gym.register("Given-v0", entry_point=World)
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    """Be in a folder that holds a module, which Python's path does not lead to."""
    (tmp_path / "lying_here.py").write_text(HERE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [place for place in sys.path if place])
    yield
    sys.modules.pop("lying_here", None)
    for name in ("Named-v0", "Given-v0", "Unloaded-v0"):
        gymnasium.registry.pop(name, None)


@pytest.mark.parametrize("task", ["lying_here:World", "gym/lying_here:Named-v0", "gym/lying_here:Given-v0"])
def test_a_module_of_the_current_folder_is_found(here, task):
    assert envs.canonical_task(task) == task
    env = make_env(task, obs="state")
    assert env.reset(seed=0)[0].tolist() == [-1, -1]
    assert env.step(1)[1:4] == (1.0, True, False)


def test_an_entry_point_in_the_current_folder_is_found(here):
    gymnasium.register("Unloaded-v0", entry_point="lying_here:World")
    assert make_env("gym/Unloaded-v0", obs="state").action_space == spaces.Discrete(2)


def test_names_are_those_that_a_run_keeps():
    assert envs.canonical_task("own_worlds:Second") == "own_worlds:Second"
    assert envs.canonical_task("gym/Pendulum-v1") == "gym/Pendulum-v1"
    assert envs.split_task("package.module:Class") == ("own", "package.module:Class")
    assert envs.split_task("gym/module:Id-v0") == ("gym", "module:Id-v0")


def test_the_preset_is_chosen_by_the_actions():
    continuous, discrete = compose(["task=own_worlds:Right"]), compose(["task=own_worlds:second"])
    assert (continuous.preset, continuous.agent.name) == ("quick", "sac")
    assert (discrete.preset, discrete.agent.name) == ("rainbow", "rainbow")
    assert compose(["task=own_worlds:second", "agent=sac"]).preset == "quick"
    assert compose(["task=own_worlds:second", "preset=quick"]).agent.name == "sac"
    assert compose(["task=gym/CartPole-v1", "env.obs=render"]).agent.name == "rainbow"
    assert compose(["task=gym/Pendulum-v1", "preset=state"]).env.obs == "state"
    assert continuous.run_dir == "runs/own_worlds_Right/quick-curl-seed1"


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["task=own_worlds:Nothing"], "no class or function 'Nothing'"),
        (["task=gym/Pendulm-v1"], "Did you mean: `Pendulum`"),
        (["task=own/own_worlds:Right"], "write task=own_worlds:Right"),
        (["task=own_worlds.Right"], "unknown task 'own_worlds.Right'; there are .* gym/... or package.module:Class"),
        (["task=dmc/cheetah_run", "env.obs=render"], "cannot be had of dmc/cheetah_run: set env.obs=pixels or state"),
        (["task=toy/reach", "env.max_steps=5"], "env.max_steps is always 0 in toy/reach"),
        (["task=toy/reach", "env.key=eye"], "env.key is always '' in toy/reach"),
        (["task=atari/pong", "env.reward_scale=2"], "env.reward_scale is always 1.0 in atari/pong"),
        (["task=own_worlds:Right", "env.reward_clip=-1"], "env.reward_clip must be at least 0"),
        (["task=own_worlds:Right", "env.camera=1"], "env.camera is always 0"),
    ],
)
def test_settings_that_cannot_be_are_refused(overrides, words):
    with pytest.raises(ConfigError, match=words):
        compose(overrides)


@pytest.mark.parametrize("make", [LocalEnv, RemoteEnv])
def test_one_is_played_here_and_in_its_own_process(make):
    env = make("own_worlds:Second", {"image_size": 16})
    try:
        env.reset(seed=1)
        env.send(np.int64(1))  # the agent's second is the environment's 2
        assert env.receive()[1] == 1
        env.send(np.int64(0))
        assert env.receive()[1] == 0
    finally:
        env.close()


@pytest.mark.parametrize(
    ("task", "settings", "best"),
    [
        ("own_worlds:Right", ["agent.hidden_dim=32"], 20),
        ("own_worlds:Second", ["agent.hidden_dim=32", "replay.sampler=prioritized"], 20),
    ],
    ids=["Box(-2,2)", "Discrete(3,start=1)"],
)
def test_a_run_learns_evaluates_and_is_read(task, settings, best, tmp_path):
    config = compose([f"task={task}", f"run_dir={tmp_path / 'run'}", *SHORT, *settings])
    assert train(config) == 0
    run = read_run(tmp_path / "run")
    assert run.finished
    assert [each.frame for each in run.evaluations] == [150, 300]
    assert all(0 <= score <= best for each in run.evaluations for score in each.returns)


def test_rewards_are_scaled_then_clipped_for_learning_alone(tmp_path):
    from curl_rl.run.playing import load_played

    overrides = ["env.reward_scale=-3"]
    with pytest.raises(ConfigError, match=r"env\.reward_scale must be above 0"):
        compose(["task=own_worlds:Right", *overrides])
    settings = ["env.reward_scale=0.5", "env.reward_clip=0.25", "objective=none", "agent.n_step=1"]
    config = compose(["task=own_worlds:Right", f"run_dir={tmp_path / 'run'}", *SHORT, *settings])
    assert train(config) == 0
    from curl_rl.representation.frames import frames_of

    rewards = frames_of(tmp_path / "run").batch(torch.arange(200)).reward
    assert set(np.unique(rewards).tolist()) == {0.0, 0.25}
    assert load_played(tmp_path / "run")[0].env.reward_scale == 0.5
    scores = {score for each in read_run(tmp_path / "run").evaluations for score in each.returns}
    assert all(float(score).is_integer() for score in scores)


def test_a_program_offers_an_environment_by_a_name():
    task = envs.offer("right", Right)
    assert task == "own/right"
    assert compose([f"task={task}"]).agent.name == "sac"
    assert LocalEnv(task, {"image_size": 16}).reset(1)[0].shape == (3, 16, 16)
    with pytest.raises(EnvError, match="cannot name an environment"):
        envs.offer("a/b", Right)


def test_pictures_of_every_number_of_channels_are_shown():
    from curl_rl.run.evaluate import _picture

    class Still:
        def __init__(self, channels):
            self.stack = type("Stack", (), {"frames": [np.zeros((channels, 8, 8), np.uint8)]})()

    assert [_picture(Still(channels)).shape for channels in (1, 3, 4)] == [(8, 8, 3)] * 3


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_area_averaging_is_pillows_of_each_channel(channels):
    image = np.random.default_rng(1).integers(0, 256, (50, 70, channels)).astype(np.uint8)
    got = frame(spaces.Box(0, 255, image.shape, np.uint8), image, 16)
    for channel, each in zip(np.moveaxis(image, 2, 0), got, strict=True):
        assert (each == np.asarray(Image.fromarray(channel).resize((16, 16), Image.Resampling.BOX))).all()


def test_the_suite_of_ones_own_has_presets_for_both_kinds_of_actions():
    assert SUITES["gym"].discrete == "rainbow"
    assert SUITES["gym"].preset == "quick"


def test_a_vector_and_discrete_actions_are_one_preset():
    config = compose(["task=gym/CartPole-v1", "preset=rainbow_state"])
    choices = ["encoder=state", "objective=none", "augmentation=none", "evaluation.video=false"]
    named = compose(["task=gym/CartPole-v1", "preset=rainbow", "env.obs=state", *choices, f"run_dir={config.run_dir}"])
    assert config == dataclasses.replace(named, preset="rainbow_state")
    assert (config.agent.name, config.env.obs, config.encoder.name) == ("rainbow", "state", "state")


def test_what_contradicts_a_vector_is_named():
    told = (
        "env.obs=state has no pixels for encoder=canonical: it needs encoder=state objective=none augmentation=none; "
        "preset=state gives all of them, preset=rainbow_state where actions are discrete"
    )
    with pytest.raises(ConfigError, match=re.escape(told)):
        compose(["task=gym/CartPole-v1", "preset=rainbow_state", "encoder=canonical"])


def test_the_presets_of_discrete_actions_are_named(tmp_path):
    words = ["task=gym/CartPole-v1", "preset=state", f"run_dir={tmp_path / 'run'}"]
    told = r"needs continuous actions, .* with preset=rainbow or preset=rainbow_state \(state may not be\)"
    with pytest.raises(ConfigError, match=told):
        train(compose(words))
    assert not (tmp_path / "run").exists()


def test_a_vector_and_discrete_actions_are_learned_from(tmp_path):
    changes = ["env.image_size=64", "agent.hidden_dim=32", "env.max_steps=20"]
    run = [f"run_dir={tmp_path / 'run'}", "task=gym/CartPole-v1", "preset=rainbow_state"]
    assert train(compose([*run, *(each for each in SHORT if "image_size" not in each), *changes])) == 0
    scores = [score for each in read_run(tmp_path / "run").evaluations for score in each.returns]
    assert all(8 <= score <= 20 for score in scores)
