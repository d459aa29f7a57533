"""The comparison of objectives on toy data: regression, episodes, training, tables, and what the commands refuse."""

import dataclasses
import subprocess
import sys
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from places import ROOT

SCRIPTS = ROOT / "scripts"
sys.path.insert(0, str(SCRIPTS))

import compare  # noqa: E402
from comparison import cost, curves, probe, recordings, tables  # noqa: E402

from curl_rl.config.overrides import compose  # noqa: E402
from curl_rl.envs.atari import AtariEnv, find_protocol  # noqa: E402
from curl_rl.nn.parts import Schedule  # noqa: E402
from curl_rl.objectives import OBJECTIVES  # noqa: E402
from curl_rl.representation.probes import base  # noqa: E402
from curl_rl.run.logger import RunLogger  # noqa: E402
from curl_rl.types import Clock, ConfigError, Episode, Origin  # noqa: E402

EPISODES = 40
FRAMES = 21 * EPISODES  # of toy/reach
SETTINGS = ("device=cpu", "threads=1", "batch_size=8", "encoder.filters=4", "env.image_size=20", "augmentation.pad=1")


class Inline:
    """A pool of no processes, which does a job when it is submitted and keeps it."""

    def __init__(self, done):
        self.done = done

    def __enter__(self):
        return self

    def __exit__(self, *_):
        return None

    def submit(self, function, job):
        future = Future()
        self.done.append(job)
        try:
            future.set_result(function(job))
        except Exception as error:
            future.set_exception(error)
        return future


def toy(*overrides: str, objective: str = "curl"):
    budget = f"budget_frames={FRAMES}"
    return compose(["task=toy/reach", "env.overlap=false", f"objective={objective}", budget, *SETTINGS, *overrides])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Forty recorded episodes."""
    path, config = tmp_path_factory.mktemp("toy_reach"), toy()
    for index in range(EPISODES):
        recordings._record_file(config, 0, index, recordings._path(path, index))
    return path


def test_recordings_hold_what_the_simulator_says(folder):
    one = next(recordings.read(folder, FRAMES))
    assert one.frame.shape == (21, 3, 20, 20)
    assert one.labels.shape == (21, 5, 5)
    assert one.names.tolist() == ["point_x", "point_y", "target_x", "target_y"]
    assert (one.state[:, 2:] == one.state[0, 2:]).all()  # the target stays
    moved = np.clip(one.state[:-1, :2].astype(float) + 0.25 * one.action, -1, 1)
    np.testing.assert_allclose(one.state[1:, :2], moved, atol=1e-6)
    again = recordings.record(toy(), 0, 0)
    assert all(np.array_equal(a, b) for a, b in zip(one, again, strict=True))


def test_recordings_are_cut_to_the_frames_asked_for(folder):
    episodes = list(recordings.read(folder, 50))
    assert [len(each.frame) for each in episodes] == [21, 21, 8]
    assert [len(episodes[-1].action), len(episodes[-1].labels), len(episodes[-1].state)] == [7, 8, 8]
    with pytest.raises(FileNotFoundError, match="collect"):
        list(recordings.read(folder, FRAMES + 10))


def test_collecting_goes_on_where_it_stopped(tmp_path, folder):
    recordings._path(tmp_path, 0).write_bytes(recordings._path(folder, 0).read_bytes())
    before = recordings._path(tmp_path, 0).stat().st_mtime_ns
    recordings.collect(toy(), tmp_path, 40, workers=2)
    assert recordings._path(tmp_path, 0).stat().st_mtime_ns == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["episode-00000.npz", "episode-00001.npz"]
    recorded, expected = (list(recordings.read(each, 42)) for each in (tmp_path, folder))
    assert all(np.array_equal(a.frame, b.frame) for a, b in zip(recorded, expected, strict=True))


def test_a_breakout_with_readable_memory_shows_the_frames_of_the_runs():
    config = compose(["task=atari/breakout"])
    protocol = dataclasses.replace(find_protocol(config.env.protocol), noop_max=0)
    world, game = recordings._Console(config.task, protocol), AtariEnv("breakout", protocol=protocol)
    frame, info = world.reset(seed=1)
    assert np.array_equal(frame, game.reset(seed=1)[0])
    states = [info["state"]]
    for action in [1, 2, 2, 3, 0] * 20:
        ours, theirs = world.step(action), game.step(action)
        assert np.array_equal(ours[0], theirs[0])
        assert ours[1:4] == theirs[1:4]
        assert ours[4]["life_lost"] == theirs[4]["life_lost"]
        states.append(ours[4]["state"])
    assert (np.std(states, 0)[:3] > 5).all()  # ball and paddle move


def test_the_replay_is_filled_as_a_run_would(folder):
    config = toy()
    episodes = list(recordings.read(folder, FRAMES))
    _, replay = probe._make_parts(config, episodes)
    assert len(replay) == FRAMES - EPISODES  # every step is a transition
    stacked = torch.cat(list(probe.observations(episodes, config)))
    batch = replay.sample(64, np.random.default_rng(0), n_step=1, discount=0.99)
    assert torch.equal(batch.obs, stacked[batch.index])  # slots are frames in order


def test_rewards_are_clipped_and_ends_kept(folder):
    _, replay = probe._make_parts(toy("agent.n_step=1"), [])
    (episode,) = recordings.read(folder, 21)
    episode = episode._replace(reward=np.full(20, 5.0), terminated=np.array(True), life_lost=np.arange(20) == 3)
    probe.fill(replay, [episode], reward_clip=1.0)
    batch = replay.sample(256, np.random.default_rng(0), n_step=1, discount=0.99)
    assert (batch.reward == 1).all()
    assert set(batch.index[batch.discount == 0].tolist()) == {3, 19}


def test_training_steps_the_encoder_its_heads_and_its_average(folder):
    config = toy()
    learner, replay = probe._make_parts(config, list(recordings.read(folder, FRAMES)))
    parts = {"encoder": learner.encoder, "objective": learner.objective, "target": learner.target_encoder}
    before = {name: [p.detach().clone() for p in part.parameters()] for name, part in parts.items()}
    losses = probe.train(learner, replay, config, 2)
    assert len(losses) == 2
    assert np.isfinite(losses).all()
    for name, part in parts.items():
        assert not any(torch.equal(p, old) for p, old in zip(part.parameters(), before[name], strict=True)), name


def test_the_loss_that_is_trained_falls(folder):
    config = toy()
    learner, replay = probe._make_parts(config, list(recordings.read(folder, FRAMES)))
    losses = probe.train(learner, replay, config, 60)
    assert np.mean(losses[-10:]) < 0.8 * np.mean(losses[:10])


@pytest.mark.parametrize("name", ["none", "curl"])
def test_the_probe_of_a_tiny_objective_runs_end_to_end(folder, name):
    job = probe.Job(name, toy(objective=name), folder, FRAMES, 2)
    rows = probe.run_job(job)
    assert {(row["layer"], row["quantity"]) for row in rows} == {
        (layer, name) for layer in ("features", "conv") for name in ("point_x", "point_y", "target_x", "target_y")
    }
    assert {tuple(row[column] for column in probe.KEY) for row in rows} == {job.key}
    assert all(-5 < row["r2"] <= 1 for row in rows)
    assert [row["r2"] for row in probe.run_job(job)] == [row["r2"] for row in rows]  # exactly repeatable


def test_pixels_tell_where_the_point_is(folder, monkeypatch):
    monkeypatch.setattr(base, "_SIDE", 8)
    rows = probe.run_job(probe.Job(probe.PIXELS, toy(), folder, FRAMES, 2))
    point = [row["r2"] for row in rows if row["quantity"].startswith("point")]
    assert len(point) == 2
    assert min(point) > 0.3


def test_features_of_a_flat_encoder_are_probed_once(folder):
    config = compose(
        ["task=toy/grid", "preset=rainbow", "env.overlap=false", "encoder=data_efficient", "env.image_size=28"]
    )
    learner, replay = probe._make_parts(config, [])
    images = torch.zeros((2, 6, 28, 28), dtype=torch.uint8)
    assert probe.encode(learner, images).keys() == {"features"}
    assert not len(replay)


def test_labels_that_were_not_recorded_are_asked_for(folder, monkeypatch):
    config = toy()
    bare = [each._replace(labels=np.zeros(0, np.uint8)) for each in recordings.read(folder, 42)]
    monkeypatch.setattr(type(config.objective), "needs", frozenset({"labels"}))
    with pytest.raises(ConfigError, match="recorded without labels"):
        probe._make_parts(config, bare)


def test_the_ranking_puts_floors_first_then_the_best():
    entries = [
        ("curl", "a", "1", 0.5),
        ("curl", "a", "1", 0.7),  # another quantity
        ("curl", "a", "2", 0.8),
        ("byol", "a", "1", 0.9),
        ("byol", "a", "2", float("nan")),
        ("none", "a", "1", 0.1),
        ("broken", "a", "1", float("nan")),
        ("pixels", "b", "1", 0.2),
    ]
    table = tables.ranking(tables.gather(entries), ["a", "b"], first=("pixels", "none"), digits=2)
    assert table.splitlines() == [
        "| objective | a | b |",
        "| --- | ---: | ---: |",
        "| pixels |  | 0.20 |",
        "| none | 0.10 |  |",
        "| curl | 0.70 ± 0.14 |  |",
        "| byol | nan ± nan |  |",
        "| broken | nan |  |",
    ]


def test_merging_replaces_rows_of_the_same_key(tmp_path):
    path = tmp_path / "new" / "table.csv"
    tables.merge_rows(path, [{"a": "x", "b": 1, "c": 2.5}, {"a": "y", "b": 1, "c": 3}], ("a", "b"))
    tables.merge_rows(path, [{"a": "x", "b": 1, "c": 4}, {"a": "x", "b": 1, "c": 5}], ("a", "b"))
    assert path.read_text() == "a,b,c\ny,1,3\nx,1,4\nx,1,5\n"
    assert tables.read_rows(tmp_path / "absent.csv") == []


def test_rows_that_stay_keep_what_they_say(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text("a,old\nx,1\ny,2\n")
    tables.merge_rows(path, [{"a": "y", "command": "c"}], ("a",))
    assert path.read_text() == "a,old,command\nx,1,\ny,,c\n"


def test_rows_that_are_merged_at_once_are_all_kept(tmp_path):
    path = tmp_path / "table.csv"

    def merge(worker: int) -> None:
        for i in range(10):
            tables.merge_rows(path, [{"a": f"{worker}-{i}"}], ("a",))

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(merge, range(4)))
    assert len(tables.read_rows(path)) == 40


def test_each_row_says_what_made_it(monkeypatch):
    made = tables.made_by(["python", "scripts/compare.py", "cost", "--tasks", "a b"])
    assert tuple(made) == tables.MADE_BY
    assert made["command"] == "python scripts/compare.py cost --tasks 'a b'"
    assert "torch=" in made["versions"]
    assert made["hardware"]
    other = {**made, "commit": "", "command": "other"}
    listed = tables.makers([made, other, made, {"task": "of an earlier version"}]).splitlines()
    assert listed[0].startswith("* 2 rows: `python scripts/compare.py cost --tasks 'a b'`, ")
    assert listed[1].startswith("* 1 row: `other`, unknown, python=")
    assert listed[2:] == ["* 1 row: not recorded by what"]


@pytest.mark.parametrize("command", ["probe", "cost", "curves"])
def test_tools_write_below_runs_unless_told(command):
    out = compare._parser().parse_args([command]).out
    assert out == Path("runs/objectives")


def test_a_second_cost_command_leaves_the_rows_of_the_first_as_they_were(tmp_path, monkeypatch, capsys):
    """By its commands and into its own folder, as it is run."""
    monkeypatch.setattr(cost, "measure", lambda config, *_: {
        "task": config.task, "objective": config.objective.name, "seconds": 1.0, "ratio": 1.0, "control_seconds": 1.0,
        "after_step_share": 0.0, "refresh_share": 0.0, "own_bytes": 0, "replay_bytes": 0, "device": "cpu", "threads": 1,
    })  # fmt: skip
    monkeypatch.setattr(compare, "prepare_torch", lambda *_, **__: None)
    for name in ("none", "curl"):
        arguments = ["cost", "--tasks", "toy/reach", "--objectives", name, "--out", str(tmp_path)]
        monkeypatch.setattr(sys, "argv", ["compare.py", *arguments])
        assert compare.main(arguments) == 0
    rows = tables.read_rows(tmp_path / "cost.csv")
    assert [row["command"].split()[6] for row in rows] == ["none", "curl"]
    text = (tmp_path / "cost.md").read_text()
    assert text.count("* 1 row: `python scripts/compare.py cost --tasks toy/reach --objectives") == 2
    assert text in capsys.readouterr().out


def test_the_probe_command_resumes_and_writes_its_table(folder, tmp_path, capsys, monkeypatch):
    done = []
    monkeypatch.setattr(base, "_SIDE", 4)
    monkeypatch.setattr(probe, "ProcessPoolExecutor", lambda *_: Inline(done))
    jobs = [probe.Job(name, toy(objective="none"), folder, FRAMES, 2) for name in (probe.PIXELS, "none")]
    out = tmp_path / "probe.csv"
    assert probe.run(jobs[:1], out, {"command": "one"}, workers=1) == 0
    assert probe.run(jobs, out, {"command": "two"}, workers=1) == 0
    assert [job.name for job in done] == ["pixels", "none"]  # neither twice
    assert {(row["objective"], row["command"]) for row in tables.read_rows(out)} == {("pixels", "one"), ("none", "two")}
    lines = probe.tables(tables.read_rows(out), FRAMES, 2).splitlines()
    assert lines[0] == "| objective | toy/reach conv | toy/reach features |"
    assert [line.split(" | ")[0] for line in lines[2:4]] == ["| pixels", "| none"]
    assert lines[5:8:2] == ["toy/reach features:", "| objective | point_x | point_y | target_x | target_y |"]
    assert lines[12] == "toy/reach conv:"
    assert "toy/reach none 1: R2" in capsys.readouterr().out


def test_one_failing_job_does_not_stop_the_others(folder, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(probe, "ProcessPoolExecutor", lambda *_: Inline([]))
    lost = probe.Job("curl", toy(), tmp_path / "nowhere", FRAMES, 2)
    jobs = [lost, probe.Job("none", toy(objective="none"), folder, FRAMES, 2)]
    assert probe.run(jobs, tmp_path / "probe.csv", {}, workers=1) == 1
    assert {row["objective"] for row in tables.read_rows(tmp_path / "probe.csv")} == {"none"}
    assert "curl 1 failed" in capsys.readouterr().err


def test_costs_are_told_beside_the_control(tmp_path):
    row = cost.measure(toy(), toy(objective="none"), torch.device("cpu"), 3)
    assert row["objective"] == "curl"
    assert row["ratio"] == pytest.approx(row["seconds"] / row["control_seconds"], rel=0.05)
    assert row["own_bytes"] == 50 * 50 * 4  # the bilinear weight
    assert row["replay_bytes"] == 0
    assert 0 <= row["after_step_share"] < 0.5
    tables.merge_rows(tmp_path / "cost.csv", [row], ("task",))
    line = cost.table(tables.read_rows(tmp_path / "cost.csv")).splitlines()[2]
    assert line.startswith("| toy/reach | curl | ")
    assert line.endswith(" | 10,000 | 0 |")


def test_periodic_work_is_spread_over_its_period(monkeypatch):
    candidate = cost._Candidate(toy(), torch.device("cpu"))
    schedule = Schedule(4)
    candidate.agent.learner.objective.schedule = schedule
    candidate.agent.learner.objective.after_step = lambda: time.sleep(0.2 if schedule.due() else 0)
    for _ in range(3):
        candidate.update()
    assert candidate.refresh() == pytest.approx(0.05, abs=0.02)


def test_runs_are_commands_of_the_public_tool(tmp_path):
    run = curves.Run("toy/reach", "curl", 3, 400, tmp_path)
    assert run.run_dir == tmp_path / "toy_reach" / "curl-seed3-400"
    assert run.arguments[0] == "train"
    compose(run.arguments[1:])  # every setting is known
    assert not run.finished


def test_curves_are_taken_from_what_runs_wrote(tmp_path):
    run = curves.Run("toy/reach", "curl", 1, 400, tmp_path)
    run.run_dir.mkdir(parents=True)
    (run.run_dir / "eval.csv").write_text("frame,return\n200,1\n400,2\n400,4\n")
    assert run.finished
    other = [{**row, "seed": "2", "return": "5"} for row in run.rows()]
    table = curves.table([*run.rows(), *other])
    assert table.splitlines() == [
        "| objective | toy/reach at 400 frames |",
        "| --- | ---: |",
        "| curl | 4.0 ± 1.4 |",  # 3 and 5, the earlier evaluation left out
    ]
    assert curves.play([run], 1) == 0  # nothing left to do


def test_curves_read_the_table_of_a_real_run(tmp_path):
    run = curves.Run("toy/reach", "curl", 1, 400, tmp_path)
    log = RunLogger(run.run_dir, Origin("p", "400 frames", "c", "v", "h"))
    log.evaluation(Clock(400, 400, 400), [Episode(0, 2.0, 20), Episode(1, 4.0, 20)], 1.0)
    log.close()
    rows = run.rows()
    assert {(row["budget"], row["commit"], row["versions"]) for row in rows} == {("400", "c", "v")}
    assert rows[0]["command"].startswith("curl-rl train task=toy/reach objective=curl seed=1 budget_frames=400 ")
    assert curves.table(rows).splitlines()[2] == "| curl | 3.0 |"


def test_a_run_that_fails_is_counted(tmp_path, capsys):
    assert curves.play([curves.Run("toy/reach", "nothing", 1, 400, tmp_path)], 1) == 1
    assert "status 2" in capsys.readouterr().out


def test_a_label_objective_is_left_out_where_there_are_no_labels(capsys, monkeypatch):
    arguments = compare._parser().parse_args(["cost", "--tasks", "atari/breakout", "--objectives", "curl", "none"])
    monkeypatch.setattr(OBJECTIVES["curl"].Config, "needs", frozenset({"labels"}))
    assert [name for name, _ in compare._configs(arguments)] == ["none"]
    assert "left out: objective=curl needs labels, which atari/breakout has not" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["probe", "--objectives", "curl", "foo"], "unknown objective foo; there are "),
        (["cost", "--objectives", "foo"], "unknown objective foo; there are "),
        (["curves", "--tasks", "dmc/cheetah_walk"], "did you mean dmc/cheetah_run"),
        (["probe", "--tasks", "atari/pong"], "of Atari there are atari/breakout"),
    ],
)
def test_wrong_names_are_told_with_the_known_ones(arguments, message, capsys):
    assert compare.main(arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_probe_jobs_cover_every_seed_and_floors_once(tmp_path):
    arguments = compare._parser().parse_args(
        ["probe", "--tasks", "toy/reach", "--objectives", "none", "curl", "--frames", "300", "--data", str(tmp_path)]
    )
    jobs = list(compare._jobs(arguments))
    assert [(job.name, job.config.seed) for job in jobs] == [
        ("pixels", 1),
        ("none", 1),
        ("curl", 1),
        ("none", 2),
        ("curl", 2),
    ]
    assert {job.folder for job in jobs} == {tmp_path / "toy_reach"}
    assert {job.config.replay.capacity for job in jobs[1:]} == {300}


def test_the_script_says_what_it_does():
    done = subprocess.run(
        [sys.executable, str(SCRIPTS / "compare.py"), "--help"], capture_output=True, text=True, check=True
    )
    assert all(command in done.stdout for command in ("collect", "probe", "cost", "curves"))
