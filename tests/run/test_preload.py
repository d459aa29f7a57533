"""Demonstrations in a run's replay: stored as a run would have, needed no more once it has begun, refused by name."""

import dataclasses
import hashlib
import json
from contextlib import ExitStack, closing
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import runs
import torch

from curl_rl.config.overrides import compose
from curl_rl.replay.replay import Replay
from curl_rl.replay.samplers import UniformSampler
from curl_rl.run.assembly import make_environment, make_replay, make_rollout
from curl_rl.run.preload import preload
from curl_rl.run.recording import record
from curl_rl.run.records import read_run
from curl_rl.run.seeds import Purpose, derive_seed
from curl_rl.run.seen import Reward
from curl_rl.run.stored import configure, load_config
from curl_rl.run.trainer import Trainer, train
from curl_rl.types import ConfigError

LOCAL = ("device=cpu", "threads=1", "env.overlap=false", "evaluation.workers=1")
SMALL = (*runs.SMALL, *LOCAL, "budget_frames=60")
LENGTHS = (5, 1, 9)  # frames of each episode
COUNT = sum(LENGTHS)


def arrays(**changed) -> dict[str, np.ndarray]:
    """Three episodes, of which the last terminates; an array that is None is left out."""
    rng = np.random.default_rng(1)
    ends = np.zeros(COUNT, bool)
    ends[np.cumsum(LENGTHS) - 1] = True
    terminated = np.zeros(COUNT, bool)
    terminated[-1] = True
    found = {
        "frames": rng.integers(0, 256, (COUNT, 3, 28, 28), np.uint8),
        "actions": rng.uniform(-1, 1, (COUNT, 2)).astype(np.float32),
        "rewards": rng.normal(0, 2, COUNT).astype(np.float32),
        "ends": ends,
        "terminated": terminated,
    }
    return {name: value for name, value in (found | changed).items() if value is not None}


def saved(path: Path, **changed) -> Path:
    np.savez(path, **arrays(**changed))
    return path


class World:
    """The spaces of toy/reach, or of a discrete task."""

    def __init__(self, actions: gym.Space):
        self.action_space = actions


REACH = World(gym.spaces.Box(-1, 1, (2,), np.float32))


def filled(path: Path, *, stack: int = 2, n_step: int = 3, capacity: int = 40) -> Replay:
    replay = Replay(
        capacity=capacity,
        obs_shape=(3, 28, 28),
        obs_dtype=torch.uint8,
        action_shape=(2,),
        action_dtype=torch.float32,
        device=torch.device("cpu"),
        stack=stack,
        padding="repeat",
        n_step=n_step,
        sampler=UniformSampler(capacity),
    )
    preload(compose([*SMALL, f"replay.preload={path}"]), REACH, replay)
    return replay


def test_sampled_transitions_are_those_of_a_naive_replay(tmp_path, monkeypatch):
    data, n_step, gamma = arrays(), 3, 0.9
    monkeypatch.setattr("curl_rl.run.preload.learned_reward", lambda config: Reward(bound=1.0))
    replay = filled(saved(tmp_path / "data.npz"))
    rewards = np.clip(data["rewards"], -1, 1)
    starts = np.cumsum([0, *LENGTHS])
    possible = [frame for start, n in zip(starts, LENGTHS, strict=False) for frame in range(start, start + n - 1)]
    assert len(replay) == len(possible) == COUNT - len(LENGTHS)
    batch = replay.sample(256, np.random.default_rng(0), n_step, gamma)
    assert set(batch.index.tolist()) == set(possible)
    for row, index in enumerate(batch.index.tolist()):
        first = int(starts[starts <= index].max())
        last = first + LENGTHS[int(np.flatnonzero(starts == first)[0])] - 1
        steps = min(n_step, last - index)
        pairs = [(max(at - 1, first), at) for at in (index, index + steps)]
        stacked = [data["frames"][list(pair)].reshape(6, 28, 28) for pair in pairs]
        np.testing.assert_array_equal(batch.obs[row].numpy(), stacked[0])
        np.testing.assert_array_equal(batch.next_obs[row].numpy(), stacked[1])
        np.testing.assert_array_equal(batch.action[row].numpy(), data["actions"][index])
        expected = sum(gamma**k * rewards[index + k] for k in range(steps))
        assert batch.reward[row].item() == pytest.approx(expected, abs=1e-6)
        over = last == COUNT - 1 and index + steps == last  # truncated ends are gone on from
        assert batch.discount[row].item() == pytest.approx(0 if over else gamma**steps)


def test_a_recorded_folder_is_stored_as_the_run_stores(tmp_path):
    task = compose(["task=toy/reach", "objective=none"])
    assert record(task, tmp_path / "play", episodes=3, workers=1) == 0
    assert record(task, tmp_path / "play.npz", episodes=3, workers=1) == 0
    one, other = filled(tmp_path / "play", capacity=80), filled(tmp_path / "play.npz", capacity=80)
    for name, rows in one.journal(0).items():
        assert torch.equal(rows, other.journal(0)[name]), name
    assert one.written == 63
    runs.assert_same(one.state_dict(), other.state_dict())


def test_recorded_play_is_stored_as_a_run_stores_it(tmp_path, monkeypatch):
    path = tmp_path / "play.npz"
    config = compose(["task=toy/grid", "preset=rainbow", *LOCAL])
    assert record(config, path, episodes=6, workers=1) == 0
    config = dataclasses.replace(config, replay=dataclasses.replace(config.replay, preload=str(path), capacity=200))
    with closing(make_environment(config)) as env:
        found, lived = (make_replay(config, env, torch.device("cpu")) for _ in range(2))
        assert preload(config, env, found)["episodes"] == 6
        rollout = make_rollout(config, env, lived)
        monkeypatch.setattr(rollout, "_seed_of", lambda index: derive_seed(0, Purpose.RECORDING, index))
        with np.load(path) as file:
            actions, ends, terminated = file["actions"], file["ends"], file["terminated"]
        assert 0 < terminated.sum() < 6  # some find the target, some have no time left
        over = True
        for action, end in zip(actions, ends, strict=True):
            if over:
                rollout.begin(rollout.index + 1 if lived.written else 0)
            over = bool(end)
            if not over:
                rollout.send(action)
                rollout.receive()
        runs.assert_same(found.state_dict(), lived.state_dict())
        runs.assert_same(found.journal(0), lived.journal(0))


def test_a_run_begins_with_them_and_a_resume_needs_the_file_no_more(tmp_path, monkeypatch):
    path, step = saved(tmp_path / "data.npz"), Trainer._step
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    words = [*SMALL, f"replay.preload={path}"]
    assert train(configure([*words, f"run_dir={tmp_path / 'whole'}"])) == 0
    (start,) = json.loads((tmp_path / "whole" / "metadata.json").read_text())["starts"]
    assert start["preload"] == {"path": str(path), "episodes": 3, "transitions": 12, "sha256": digest}

    def stop_at_53(self):
        assert len(self.replay) >= 12  # from the first step on
        assert self.learning == (self.clock.agent_step >= 40)  # after the random ones, as ever
        step(self)
        if self.clock.frame == 53:
            raise KeyboardInterrupt

    cut = configure([*words, f"run_dir={tmp_path / 'cut'}"])
    assert cut.replay.capacity == 60 + COUNT
    monkeypatch.setattr(Trainer, "_step", stop_at_53)
    with pytest.raises(KeyboardInterrupt):
        train(cut)
    monkeypatch.undo()
    path.unlink()
    assert train(configure([f"run_dir={tmp_path / 'cut'}"])) == 0
    runs.assert_equals(tmp_path / "cut", tmp_path / "whole")
    assert train(configure([f"run_dir={tmp_path / 'cut'}", "budget_frames=80"])) == 0  # nor does one that goes on
    assert load_config(tmp_path / "cut").replay.capacity == 80 + COUNT
    assert read_run(tmp_path / "cut").segments == (
        f"at 60 frames: budget_frames 60 -> 80, replay.capacity {60 + COUNT} -> {80 + COUNT}",
    )


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"rewards": None}, r"data.npz has no rewards, of which toy/reach learns"),
        (
            {"frames": np.zeros((COUNT, 3, 20, 20), np.uint8)},
            r"does not fit toy/reach: .* \(3, 28, 28\) uint8, got",
        ),
        ({"frames": np.zeros((COUNT, 3, 28, 28), np.float32)}, r"data.npz has frames .* float32: give"),
        ({"actions": np.zeros(COUNT, np.int64)}, r"has actions \(\) int64 from 0 to 0, and toy/reach takes Box\(-1.0"),
        ({"actions": np.full((COUNT, 2), 1.5)}, r"has actions \(2,\) float64 from 1.5 to 1.5, and toy/reach takes Box"),
        ({"rewards": np.full(COUNT, np.inf)}, r"data.npz does not fit toy/reach: .*finite ones can be learned from"),
        ({"rewards": np.zeros((COUNT, 2))}, r"data.npz has rewards of shape \(15, 2\): give one number each"),
        ({"terminated": np.ones(COUNT, bool)}, r"data.npz has terminated inside an episode, at row 0: give ends"),
        ({"terminated": np.arange(COUNT) == 8}, r"data.npz has terminated inside an episode, at row 8: give ends"),
        ({"terminated": np.zeros(COUNT)}, r"data.npz has terminated of type float64: give whole numbers"),
        ({"ends": np.zeros(COUNT - 1, bool)}, r"data.npz has 14 ends for 15 frames: give one each"),
        ({"ends": np.zeros((COUNT, 2), bool)}, r"data.npz has ends of shape \(15, 2\): give one number each"),
        ({"ends": np.zeros(COUNT)}, r"data.npz has ends of type float64: give whole numbers"),
        ({"ends": np.True_}, r"data.npz has ends of shape \(\): give one number each"),
        (
            {"ends": np.ones(COUNT, bool), "terminated": None},
            r"replay.preload=.*data.npz holds no transition: give episodes of two frames and more",
        ),
    ],
)
def test_what_does_not_fit_is_refused_and_nothing_is_written(tmp_path, changed, message):
    words = [*SMALL, f"replay.preload={saved(tmp_path / 'data.npz', **changed)}", f"run_dir={tmp_path / 'run'}"]
    with pytest.raises(ConfigError, match=message):
        train(configure(words))
    assert not (tmp_path / "run").exists()


def test_a_small_replay_and_a_missing_file_are_refused(tmp_path):
    path = saved(tmp_path / "data.npz")
    words = [*SMALL, f"run_dir={tmp_path / 'run'}"]
    with ExitStack() as cleanup, pytest.raises(ConfigError, match=r"replay.capacity=10 does not hold the transitions"):
        Trainer(configure([*words, f"replay.preload={path}", "replay.capacity=10"]), cleanup).run()
    with pytest.raises(ConfigError, match=r"replay.preload=nowhere has no recording: give an .npz file"):
        configure([*words, "replay.preload=nowhere"])
    path.write_bytes(b"no zip")
    with pytest.raises(ConfigError, match=r"replay.preload: .*data.npz cannot be read"):
        configure([*words, f"replay.preload={path}"])
