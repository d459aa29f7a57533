"""Recordings of random play and of a run's agent: what they hold, going on, and what is refused."""

import contextlib
import dataclasses
import itertools
import json

import numpy as np
import pytest
import runs
import torch

from curl_rl import cli, envs
from curl_rl.config.overrides import compose
from curl_rl.envs.atari import AtariEnv, find_protocol
from curl_rl.envs.console import ConsoleEnv
from curl_rl.representation.frames import frames_of
from curl_rl.run import recording, trainer
from curl_rl.run.recording import record
from curl_rl.types import ConfigError


def toy(**changes):
    settings = [f"{key}={value}" for key, value in changes.items()]
    return compose(["task=toy/reach", "objective=none", "env.image_size=20", *settings])


def contents(folder):
    """Return every array of every episode, as bytes."""
    found = {}
    for path in sorted(folder.glob("*.npz")):
        with np.load(path) as file:
            found[path.name] = {name: file[name].tobytes() for name in file.files}
    return found


def test_recordings_hold_what_the_simulator_says(tmp_path):
    assert record(toy(), tmp_path, episodes=3, workers=1) == 0
    with np.load(tmp_path / "episode-00000.npz") as one:
        assert one["frames"].shape == (21, 3, 20, 20)
        assert one["labels"].shape == (21, 5, 5)
        assert one["state_names"].tolist() == ["point_x", "point_y", "target_x", "target_y"]
        state, action = one["states"], one["actions"]
        assert (state[:, 2:] == state[0, 2:]).all()  # the target stays
        moved = np.clip(state[:-1, :2].astype(float) + 0.25 * action, -1, 1)
        np.testing.assert_allclose(state[1:, :2], moved, atol=1e-6)
        distance = np.linalg.norm(state[1:, :2] - state[1:, 2:], axis=1)
        np.testing.assert_allclose(one["rewards"], np.maximum(0, 1 - distance), atol=1e-6)
    frames = frames_of(tmp_path)
    assert len(frames) == 63
    assert frames.gives == {"order", "episodes", "actions", "rewards", "labels", "states"}


def test_an_episode_is_a_function_of_its_number_alone(tmp_path):
    record(toy(), tmp_path / "one", episodes=5, workers=1)
    record(toy(), tmp_path / "two", episodes=2, workers=1)
    record(toy(), tmp_path / "two", episodes=5, workers=2)
    found = contents(tmp_path / "one")
    assert found == contents(tmp_path / "two")
    assert len({each["states"] for each in found.values()}) == 5
    record(toy(), tmp_path / "other", episodes=1, seed=1, workers=1)
    assert contents(tmp_path / "other")["episode-00000.npz"] != found["episode-00000.npz"]


def test_recording_again_writes_only_what_is_missing(tmp_path, capsys):
    record(toy(), tmp_path, episodes=3, workers=1)
    before = contents(tmp_path)
    kept = (tmp_path / "episode-00002.npz").stat().st_mtime_ns
    (tmp_path / "episode-00001.npz").unlink()
    (tmp_path / "tmp-episode-00001.npz").write_bytes(b"half")  # what a kill leaves
    assert len(frames_of(tmp_path)) == 42
    record(toy(), tmp_path, episodes=3, workers=1)
    assert contents(tmp_path) == before
    assert (tmp_path / "episode-00002.npz").stat().st_mtime_ns == kept
    record(toy(), tmp_path, episodes=3, workers=1)
    assert "has its 3 episodes" in capsys.readouterr().err


def test_a_stop_keeps_what_is_over_and_going_on_ends_alike(tmp_path, monkeypatch):
    record(toy(), tmp_path / "whole", episodes=4, workers=1)
    steps = itertools.count()

    def stop_at_50(request):
        if next(steps) == 50:
            request.signal = 15
        return request.signal != 0

    with monkeypatch.context() as patch:
        patch.setattr(recording.StopRequest, "__call__", stop_at_50)
        assert record(toy(), tmp_path / "cut", episodes=4, workers=1) == 143
    assert len(contents(tmp_path / "cut")) == 2
    assert record(toy(), tmp_path / "cut", episodes=4, workers=1) == 0
    assert contents(tmp_path / "cut") == contents(tmp_path / "whole")


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    path = tmp_path_factory.mktemp("recorded") / "run"
    settings = ("device=cpu", "threads=1", "budget_frames=60", "evaluation.workers=1")
    assert trainer.train(compose([*runs.SMALL, *settings, f"run_dir={path}"])) == 0
    return path


def test_an_agent_plays_but_for_the_share_that_is_random(run_dir, tmp_path):
    record(run_dir, tmp_path / "greedy", episodes=2, epsilon=0, workers=1)
    record(run_dir, tmp_path / "mixed", episodes=2, epsilon=0.5, workers=2)
    greedy, mixed = frames_of(tmp_path / "greedy"), frames_of(tmp_path / "mixed")
    assert (greedy.state[0] == mixed.state[0]).all()  # the same start
    same = (greedy.action[:20] == mixed.action[:20]).all(1)
    assert not same.all()
    told = json.loads((tmp_path / "mixed" / "recording.json").read_text())
    assert told["agent"]["update"] > 0
    assert told["epsilon"] == 0.5
    with pytest.raises(ConfigError, match=r"epsilon: 0\.5 -> 0"):
        record(run_dir, tmp_path / "mixed", episodes=3, epsilon=0)


def test_what_cannot_be_recorded_is_refused(tmp_path, run_dir):
    states = compose(["task=dmc/cartpole_swingup", "preset=state"])
    with pytest.raises(ConfigError, match=r"no images to record: set env\.obs=pixels"):
        record(states, tmp_path, episodes=1)
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    np.savez(foreign / "a.npz", frames=np.zeros((2, 3, 8, 8), np.uint8))
    with pytest.raises(ConfigError, match=r"no recording\.json tells"):
        record(toy(), foreign, episodes=1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["task=toy/nowhere"], "unknown task"),
        (["runs/none"], "runs/none"),
        (["runs/none", "task=toy/reach"], "not both"),
        (["task=toy/reach", "--epsilon", "2"], "is not a number from 0 to 1"),
    ],
    ids=["task", "run", "both", "share"],
)
def test_the_command_refuses_in_one_line(arguments, message, tmp_path, capsys):
    with contextlib.suppress(SystemExit):  # of the reader of arguments
        assert cli.main(["record", *arguments, "--out", str(tmp_path / "rec")]) in (1, 2)
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
    assert not list(tmp_path.glob("rec/*.npz"))


def test_the_command_records(tmp_path):
    assert cli.main(["record", "task=toy/grid", "--out", str(tmp_path), "--episodes", "2", "--workers", "1"]) == 0
    assert frames_of(tmp_path).discrete


def test_a_game_without_annotated_memory_is_recorded_without_states(tmp_path, capsys, monkeypatch):
    short = dataclasses.replace(find_protocol("atari100k"), max_frames=40)
    monkeypatch.setitem(envs.atari.PROTOCOLS, "atari100k", short)
    record(compose(["task=atari/freeway", "objective=none"]), tmp_path, episodes=1, workers=1)
    assert "tells no states" in capsys.readouterr().err
    frames = frames_of(tmp_path)
    assert len(frames) == 11
    assert frames.gives == {"order", "episodes", "actions", "rewards"}


def test_a_breakout_with_readable_memory_shows_the_frames_of_the_runs():
    protocol = dataclasses.replace(find_protocol("atari100k"), noop_max=0)
    world, game = ConsoleEnv("breakout", protocol), AtariEnv("breakout", protocol=protocol)
    frame, info = world.reset(seed=1)
    assert np.array_equal(frame, game.reset(seed=1)[0])
    states = [[*info["state"].values()]]
    for action in [1, 2, 2, 3, 0] * 20:
        ours, theirs = world.step(action), game.step(action)
        assert np.array_equal(ours[0], theirs[0])
        assert ours[1:4] == theirs[1:4]
        assert ours[4]["life_lost"] == theirs[4]["life_lost"]
        states.append([*ours[4]["state"].values()])
    assert (np.std(states, 0)[:3] > 5).all()  # ball and paddle move


def test_one_file_holds_what_the_folder_does(run_dir, tmp_path):
    record(run_dir, tmp_path / "folder", episodes=3, workers=1)
    assert record(run_dir, tmp_path / "new" / "data.npz", episodes=3, workers=1) == 0
    folder, file = frames_of(tmp_path / "folder", stack=2), frames_of(tmp_path / "new" / "data.npz", stack=2)
    assert file.gives == folder.gives == {"order", "episodes", "actions", "rewards", "labels", "states"}
    for name in ("episodes", "action", "reward", "labels", "state"):
        assert (getattr(file, name) == getattr(folder, name)).all(), name
    assert file.state_names == folder.state_names
    assert torch.equal(file.obs(torch.arange(63)), folder.obs(torch.arange(63)))
    with np.load(tmp_path / "new" / "data.npz") as arrays:
        assert np.flatnonzero(arrays["ends"]).tolist() == [20, 41, 62]
        assert not arrays["terminated"].any()  # its time is up
        rows = ["frames", "actions", "rewards", "terminated", "labels", "states"]
        assert arrays.files == ["state_names", *rows, "ends"]  # in one order: the file's hash is kept of it
        assert all(len(arrays[name]) == 63 for name in arrays.files if name != "state_names")
    with pytest.raises(ConfigError, match=r"data.npz is there already: move it away, or give another --out"):
        record(run_dir, tmp_path / "new" / "data.npz", episodes=3)


def test_a_stop_leaves_no_file(tmp_path, monkeypatch):
    def stop(request):
        request.signal = 15
        return True

    monkeypatch.setattr(recording.StopRequest, "__call__", stop)
    assert record(toy(), tmp_path / "data.npz", episodes=4, workers=1) == 143
    assert list(tmp_path.iterdir()) == []


def test_a_folder_of_before_is_read_beside_a_new_one(tmp_path):
    record(toy(), tmp_path, episodes=2, workers=1)
    path = tmp_path / "episode-00000.npz"
    with np.load(path) as file:
        older = {name: file[name] for name in file.files if name != "terminated"}
    np.savez(path, **older)
    assert len(frames_of(tmp_path)) == 42
