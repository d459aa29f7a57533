"""What a suite fixes is said once; a new one is a module of environments, a line in their table and a Suite."""

import functools
import importlib
import re
import sys

import pytest
import torch
from fake_runs import write_suite
from places import ROOT

from curl_rl import envs
from curl_rl.config import suites
from curl_rl.config.overrides import compose
from curl_rl.config.suites import Scale, Suite
from curl_rl.envs import atari, registry
from curl_rl.report.build import build_report
from curl_rl.run.assembly import make_agent, make_environment, make_protocol, make_replay, make_stack
from curl_rl.run.judging import make_judges
from curl_rl.run.trainer import train
from curl_rl.types import ConfigError

MODULE = '''
import gymnasium as gym
import numpy as np


class Blink(gym.Env):
    """A light that should be named: 0 for off, 1 for on."""

    observation_space = gym.spaces.Box(0, 255, (1, 32, 32), np.uint8)
    action_space = gym.spaces.Discrete(2)

    def __init__(self, task, *, obs="pixels", image_size=32, render_mode="rgb_array"):
        self.observation_space = gym.spaces.Box(0, 255, (1, image_size, image_size), np.uint8)
        self.length = {"short": 5, "long": 50}[task]

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.age = 0
        return self.look(), {}

    def step(self, action):
        reward = float(action == self.on)
        self.age += 1
        return self.look(), reward, False, self.age == self.length, {}

    def look(self):
        self.on = int(self.np_random.integers(2))
        return np.full(self.observation_space.shape, 255 * self.on, np.uint8)

    def render(self, size=None):
        return np.zeros((*(size or (32, 32)), 3), np.uint8)
'''
TINY = [
    "agent=rainbow",
    "replay.sampler=prioritized",
    "env.image_size=32",
    "env.overlap=false",
    "budget_frames=100",
    "random_steps=20",
    "batch_size=8",
    "agent.hidden_dim=16",
    "evaluation.every_frames=100",
    "evaluation.episodes=2",
    "evaluation.video=false",
    "checkpoint.every_frames=100",
]


@pytest.fixture
def blink(tmp_path, monkeypatch) -> str:
    """Add a suite in three places, and return a task of it."""
    (tmp_path / "blink.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    make = importlib.import_module("blink").Blink
    row = registry.Suite(lambda: ("short", "long"), lambda task: functools.partial(make, task))
    monkeypatch.setitem(registry.SUITES, "blink", row)
    suite = Suite(
        title="Lights",
        settings=("obs", "image_size"),
        fixed={"protocol": "", "camera": 0, "action_repeat": 2},
        episode_frames=10,
        action_repeat=2,
        frame_stack=4,
        padding="zero",
        labels="offset",
        grey=True,
        scale=Scale("named lights", "named lights", {"blink/short": (0.0, 5.0)}.get, "no number of lights"),
    )
    monkeypatch.setitem(suites.SUITES, "blink", suite)
    yield "blink/short"
    sys.modules.pop("blink")


def test_a_new_suite_is_known_everywhere(blink):
    assert {"blink/short", "blink/long"} <= set(envs.list_tasks())
    assert envs.canonical_task(blink) == blink
    with pytest.raises(ConfigError, match="did you mean blink/short"):
        compose(["task=blink/shrt"])
    config = compose([f"task={blink}", *TINY])
    assert (config.env.action_repeat, config.env.frame_stack, config.agent.name) == (2, 4, "rainbow")
    with pytest.raises(ConfigError, match=r"env\.camera is always 0 in blink/short, got 1"):
        compose([f"task={blink}", *TINY, "env.camera=1"])


def test_a_new_suite_builds_every_part_of_a_run(blink):
    config = compose([f"task={blink}", *TINY])
    env = make_environment(config)
    replay, agent = make_replay(config, env, torch.device("cpu")), make_agent(config, env, torch.device("cpu"))
    stack = make_stack(config)
    stack.reset(env.reset(1)[0])
    stacked = stack.observation()
    assert stacked.shape == (4, 32, 32)
    assert not stacked[:3].any()  # zero padding
    assert agent.act(stacked[None], explore=False)[0] in (0, 1)
    assert (replay._stack, replay._zero) == (4, True)
    assert len(make_judges(config, 2)) >= 1
    protocol = make_protocol(config)
    assert {**protocol, "hash": ""} == {"name": "blink", "obs": "pixels", "image_size": 32, "hash": ""}


def test_a_new_suite_trains(blink, tmp_path):
    assert train(compose([f"task={blink}", *TINY, f"run_dir={tmp_path / 'run'}"])) == 0
    assert (tmp_path / "run" / "eval.csv").read_text().count("\n") == 1 + 2  # episodes


def test_a_new_suite_is_reported(blink, tmp_path):
    write_suite(tmp_path / "runs", {"curl": {blink: 4.0, "blink/long": 20.0}, "none": {blink: 2.0}}, seeds=2)
    page = build_report([tmp_path / "runs"], tmp_path / "out").read_text()
    for words in ("Lights, 100,000 frames", "Aggregates of named lights over 1 task", "blink/long has no number of"):
        assert words in page
    assert {path.stem for path in (tmp_path / "out" / "tables").iterdir()} >= {"blink_100000_aggregates"}


OTHER = atari.Protocol("other", frame_stack=3, padding="repeat", action_repeat=3, screen=96)


def test_the_agent_sees_what_the_protocol_states(monkeypatch):
    monkeypatch.setitem(atari.PROTOCOLS, "other", OTHER)
    names = [*atari.PROTOCOLS]
    assert names[-1] == "other"
    for name in names:
        size = atari.PROTOCOLS[name].screen
        small = ["budget_frames=3000", "random_steps=30", f"env.image_size={size}"]
        config = compose(["task=atari/pong", f"env.protocol={name}", *small])
        stated, stack = make_protocol(config), make_stack(config)
        env = make_environment(config)
        replay = make_replay(config, env, torch.device("cpu"))
        stack.reset(env.reset(0)[0])
        assert stack.observation().shape == (stated["frame_stack"], stated["screen"], stated["screen"])
        assert (replay._stack, replay._zero) == (stated["frame_stack"], stated["padding"] == "zero")
        assert stack.padding == stated["padding"]
        assert config.env.action_repeat == stated["action_repeat"]
        assert config.env.frame_stack == stated["frame_stack"]


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("env.frame_stack=4", "env.frame_stack is always 3 in atari/pong, got 4"),
        ("env.action_repeat=4", "env.action_repeat is always 3 in atari/pong, got 4"),
        ("env.image_size=84", "env.image_size is always 96 in atari/pong, got 84"),
    ],
)
def test_what_the_protocol_does_not_state_is_refused(monkeypatch, setting, words):
    monkeypatch.setitem(atari.PROTOCOLS, "other", OTHER)
    with pytest.raises(ConfigError, match=re.escape(words)):
        compose(["task=atari/pong", "env.protocol=other", "env.image_size=96", setting])


@pytest.mark.parametrize(
    ("task", "settings", "hash"),
    [
        ("atari/pong", {}, "cbde2f1eadf2"),
        ("atari/MsPacman", {"protocol": "sticky", "obs": "pixels", "image_size": 84}, "53f64a193955"),
        ("toy/grid", {"image_size": 28}, "723543e1fdff"),
    ],
)
def test_protocols_keep_their_hashes(task, settings, hash):
    assert envs.protocol(task, **settings)["hash"] == hash


@pytest.mark.parametrize(("preset", "hash"), [("quick", "ca30d93be0a8"), ("state", "685191d04bf7")])
def test_a_configured_protocol_keeps_its_hash(preset, hash):
    assert make_protocol(compose(["task=dmc/cartpole_swingup", f"preset={preset}"]))["hash"] == hash


def test_no_module_asks_for_a_suite_by_its_name():
    named = re.compile(r"[\"'](atari|dmc|toy)[\"']")
    data = {"config/suites.py", "report/read/published.py"}  # where suites and their published results are written down
    package = ROOT / "curl_rl"
    paths = [path for path in package.rglob("*.py") if package / "envs" not in path.parents]
    found = {str(path.relative_to(package)) for path in paths if named.search(path.read_text())}
    assert found == data | {"doctor.py"}  # its row of ale-py has this name
