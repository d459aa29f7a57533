"""Races of two trees: ratios, turns, worktrees, clones of originals, and what is refused."""

import json
import subprocess
import sys
from types import SimpleNamespace

import gymnasium as gym
import numpy as np
import pytest
import torch
from places import ROOT

SCRIPTS = ROOT / "scripts"
sys.path.insert(0, str(SCRIPTS))

import originals  # noqa: E402
import race  # noqa: E402
import speed  # noqa: E402
from stopwatch import Stopwatch  # noqa: E402

from curl_rl.config.overrides import compose  # noqa: E402
from curl_rl.types import ConfigError  # noqa: E402

needs_git = pytest.mark.skipif(not (ROOT / ".git").exists(), reason="no git checkout")
RAINBOW = {
    "agent": """
import kornia.augmentation
import torch

class Agent:
    def __init__(self, args, env):
        assert (args.batch_size, args.multi_step, args.architecture) == (16, 20, "data-efficient")
        self.action_space, self.crop = env.action_space(), kornia.augmentation.RandomCrop((80, 80))
    def reset_noise(self): self.fresh = True
    def act(self, state): return self.fresh - 1
    def learn(self, memory):
        assert memory.stored > 2000
        assert self.crop(torch.zeros(2, 4, 84, 84)).shape == (2, 4, 80, 80)
    def update_momentum_net(self): self.fresh = False
""",
    "memory": """
class ReplayMemory:
    stored = 0
    def __init__(self, args, capacity): assert capacity == 100_000
    def append(self, state, action, reward, terminal):
        assert state.shape == (4, 84, 84) and 0 <= action < 6
        self.stored += 1
""",
    "model": "",
}


def told(update, step=None, alone=None):
    """Return a script's report with only these seconds."""
    report = {"seconds_per_update": {"total": update}, "seconds_per_agent_step": {"total": step}}
    report = {name: group for name, group in report.items() if group["total"] is not None}
    return report if alone is None else {**report, "environment_step_alone": alone}


def write_rainbow(folder):
    for name, text in RAINBOW.items():
        (folder / f"{name}.py").write_text(text)
    return folder


def worktrees():
    listed = subprocess.run(["git", "worktree", "list"], cwd=ROOT, check=True, capture_output=True, text=True)
    return listed.stdout


def test_seconds_are_the_median_of_blocks_of_four():
    watch = Stopwatch(torch.device("cpu"))
    watch.seconds["alternating"] = [1.0, 3.0] * 6
    watch.seconds["disturbed"] = [1.0, 3.0, 1.0, 3.0, 90.0, 3.0, 1.0, 3.0, 1.0, 3.0, 1.0, 3.2, 50.0]
    watch.seconds["few"] = [1.0, 3.0]
    assert watch.median("alternating") == watch.median("few") == 2
    assert watch.median("disturbed") == pytest.approx(2.05)


def test_what_takes_long_is_repeated_less_in_whole_blocks(monkeypatch):
    watch, times = Stopwatch(torch.device("cpu")), iter(range(1000))
    assert list(watch.repeat(30)) == list(range(30))
    monkeypatch.setattr(watch, "now", lambda: 7.0 * next(times))  # asked where a block could be the last alone
    assert list(watch.repeat(60)) == list(range(20))
    assert list(watch.repeat(10)) == list(range(10))


def test_ratios_are_of_each_round_and_above_one_where_this_tree_is_faster():
    pairs = [
        (told(1.0, 2.0, 0.5), told(3.0, 2.0)),
        (told(2.0, 4.0, 0.5), told(4.0, 2.0)),
        (told(1.0, 1.0), told(9.0, 3)),
    ]
    table = race.compare(pairs)
    ratio = {"median": 3.0, "least": 2.0, "greatest": 9.0}
    assert table["seconds_per_update.total"] == {"this": 1.0, "other": 4.0, "ratio": ratio}
    assert table["seconds_per_agent_step.total"]["ratio"] == {"median": 1.0, "least": 0.5, "greatest": 3.0}
    assert "environment_step_alone" not in table


def test_who_goes_first_alternates():
    ran = []

    class Stub:
        def __init__(self, name):
            self.name = name

        def run(self):
            ran.append(self.name)
            return self.name

    this, other = Stub("this"), Stub("other")
    assert list(race.take_turns(this, other, 3)) == [("this", "other")] * 3
    assert ran == ["this", "other", "other", "this", "this", "other"]


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("import sys; sys.exit('first\\nlast words')", "commit abc failed: last words"),
        ("import os; os._exit(3)", "commit abc failed: it ended with status 3"),
        ("print('hello')", "commit abc failed: .* printed no JSON"),
    ],
)
def test_a_side_that_fails_is_told_in_its_own_last_words(code, said):
    with pytest.raises(ConfigError, match=f"^{said}$"):
        race.Side("commit abc", "abc", ROOT, ("-c", code)).run()


def test_a_side_imports_its_own_tree(tmp_path):
    race.Side("this tree", "", ROOT, ()).check()
    with pytest.raises(ConfigError, match=r"commit abc would import .*curl_rl/__init__.py instead of its own"):
        race.Side("commit abc", "abc", tmp_path, ()).check()


@needs_git
def test_a_worktree_is_removed_when_its_race_is_interrupted():
    seen = []

    def race_until_interrupted():
        with race._worktree(race._find_commit("HEAD")) as tree:
            seen.append(tree)
            assert (tree / "scripts" / "speed.py").is_file()
            assert str(tree) in worktrees()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        race_until_interrupted()
    assert not seen[0].parent.exists()
    assert str(seen[0]) not in worktrees()


@needs_git
def test_a_race_against_the_same_commit():
    small = ["batch_size=8", "env.image_size=20", "encoder.filters=4", "augmentation.pad=1", "agent.hidden_dim=16"]
    arguments = ["--against", "HEAD", "--rounds", "1", "task=toy/reach", "device=cpu", *small]
    command = [sys.executable, str(SCRIPTS / "speed.py"), *arguments]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    assert done.stderr.startswith("round 1 of 1: seconds_per_update.total x")
    report = json.loads(done.stdout)
    assert report["command"].startswith("python scripts/speed.py --against HEAD --rounds 1 task=toy/reach")
    assert report["this"]["commit"].rstrip("+") == report["other"]["commit"] == race._find_commit("HEAD")[:12]
    assert (report["task"], report["batch_size"], report["device"], report["rounds"]) == ("toy/reach", 8, "cpu", 1)
    assert report["hardware"]
    assert "torch=" in report["versions"]
    for name in race.FIGURES:
        row = report[name]
        assert row["other"] / row["this"] == row["ratio"]["median"] == row["ratio"]["least"] == row["ratio"]["greatest"]
        assert 0.2 < row["ratio"]["median"] < 5  # the same code, on a machine that others share
    assert "curl_rl_" not in worktrees()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--against"], "expected one argument"),
        (["--against", "HEAD", "--rounds", "0"], "'0' is not a whole number from 1 to 1000"),
        (["--rounds", "2"], "add --against"),
    ],
)
def test_a_wrong_command_line_ends_with_status_two(arguments, said, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["speed.py", *arguments])
    with pytest.raises(SystemExit) as ended:
        speed.main()
    assert ended.value.code == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("against", "said"),
    [
        pytest.param("nonesuch", "--against nonesuch: git knows no such commit", marks=needs_git),
        (str(ROOT / "docs"), "docs holds no clone of MishaLaskin/curl or aravindsrinivas/curl_rainbow"),
    ],
)
def test_what_is_neither_a_commit_nor_an_original_is_refused(against, said, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["speed.py", "--against", against, "task=toy/reach"])
    with pytest.raises(ConfigError, match=said):
        speed.main()


def test_a_commit_outside_a_checkout_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(race, "ROOT", tmp_path)
    with pytest.raises(ConfigError, match="is no git checkout"):
        race._find_commit("HEAD")


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["task=dmc/cheetah_run", "preset=paper"], "has no task=dmc/cheetah_run: choose one of atari/"),
        (["task=atari/pong", "preset=der"], "has no preset=der: set preset=paper"),
        (["task=atari/pong", "preset=paper", "objective=none"], "has no objective=none: set objective=curl"),
        (
            ["task=atari/pong", "preset=paper", "encoder=nature"],
            "has no encoder=nature: set encoder=data_efficient or canonical",
        ),
    ],
)
def test_settings_that_the_original_does_not_have_are_refused(overrides, said, tmp_path):
    with (
        pytest.raises(ConfigError, match=f"aravindsrinivas/curl_rainbow in .* {said}"),
        race.opponent(str(write_rainbow(tmp_path)), compose(overrides), overrides),
    ):
        pass


def test_an_original_is_found_by_its_modules_and_timed_by_whole_steps(tmp_path):
    overrides = ["task=atari/pong", "preset=paper", "batch_size=16", "device=cpu", "threads=1"]
    with race.opponent(str(write_rainbow(tmp_path)), compose(overrides), overrides) as side:
        assert (side.name, side.commit, side.tree) == ("aravindsrinivas/curl_rainbow", "", ROOT)
        report = side.run()
    assert report.keys() == {"threads", "seconds_per_agent_step"}
    assert report["threads"] == 1
    assert 0 < report["seconds_per_agent_step"]["total"] < 1


def test_an_original_of_control_gets_our_settings(monkeypatch):
    steps, given = [], {}

    class ReplayBuffer:
        def __init__(self, *arguments):
            given["replay"] = arguments

        def add(self, obs, action, reward, next_obs, done):
            assert obs.shape == next_obs.shape == (9, 100, 100)
            assert action.shape == (2,)

    class CurlSacAgent:
        def __init__(self, *arguments, **options):
            given["agent"] = arguments, options

        def update(self, replay, logger, step):
            steps.append(step)

    monkeypatch.setitem(sys.modules, "utils", SimpleNamespace(ReplayBuffer=ReplayBuffer))
    monkeypatch.setitem(sys.modules, "curl_sac", SimpleNamespace(CurlSacAgent=CurlSacAgent))
    cpu, actions = torch.device("cpu"), gym.spaces.Box(-1, 1, (2,), np.float32)
    config = compose(["task=dmc/cheetah_run", "preset=paper", "batch_size=4", "agent.hidden_dim=32", "encoder.depth=2"])
    assert originals.time_sac(config, actions, cpu)["seconds_per_update"]["total"] > 0
    assert given["replay"] == ((9, 100, 100), (2,), 16, 4, cpu, 84)
    arguments, options = given["agent"]
    assert arguments == ((9, 84, 84), (2,), cpu)
    assert options == {
        "hidden_dim": 32,
        "actor_update_freq": 2,
        "critic_target_update_freq": 2,
        "encoder_feature_dim": 50,
        "num_layers": 2,
        "num_filters": 32,
    }
    assert steps == list(range(1, len(steps) + 1))
    assert len(steps) < 100  # the original would log the hundredth


def test_the_plain_crop_cuts_a_window_out_of_each_image():
    images = torch.arange(3 * 2 * 6 * 6).view(3, 2, 6, 6)
    crops = originals.RandomCrop((4, 5))(images)
    assert crops.shape == (3, 2, 4, 5)
    for image, crop in zip(images, crops, strict=True):
        top, left = (int(at) for at in (image[0] == crop[0, 0, 0]).nonzero()[0])
        assert torch.equal(crop, image[:, top : top + 4, left : left + 5])
