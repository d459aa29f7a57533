"""What an objective costs beside the control: the measure, its table, and what the command refuses."""

import sys
import time

import pytest
import torch
from places import ROOT

SCRIPTS = ROOT / "scripts"
sys.path.insert(0, str(SCRIPTS))

import cost  # noqa: E402

from curl_rl.config.overrides import compose  # noqa: E402
from curl_rl.nn.parts import Schedule  # noqa: E402
from curl_rl.objectives import OBJECTIVES  # noqa: E402
from curl_rl.run.measurements import merge_rows, read_rows  # noqa: E402


def toy(objective: str = "curl"):
    small = ("device=cpu", "threads=1", "batch_size=8", "encoder.filters=4", "env.image_size=20", "augmentation.pad=1")
    return compose(["task=toy/reach", "env.overlap=false", f"objective={objective}", "budget_frames=840", *small])


def test_costs_are_told_beside_the_control(tmp_path):
    row = cost.measure(toy(), toy("none"), torch.device("cpu"), 3)
    assert row["objective"] == "curl"
    assert row["ratio"] == pytest.approx(row["seconds"] / row["control_seconds"], rel=0.05)
    assert row["own_bytes"] == 50 * 50 * 4  # the bilinear weight
    assert row["replay_bytes"] == 0
    assert 0 <= row["after_step_share"] < 0.5
    merge_rows(tmp_path / "cost.csv", [row | {"command": "c", "commit": "", "versions": "v"}], ("task",))
    text = cost.table(read_rows(tmp_path / "cost.csv"))
    line = next(line for line in text.splitlines() if line.startswith("| toy"))
    assert line.startswith("| toy/reach | curl | ")
    assert line.endswith(" | 10,000 | 0 |")
    assert text.endswith("* 1 row: `c`, unknown, v, unknown\n")


def test_periodic_work_is_spread_over_its_period():
    candidate = cost._Candidate(toy(), torch.device("cpu"))
    schedule = Schedule(4)
    candidate.agent.learner.objective.schedule = schedule
    candidate.agent.learner.objective.after_step = lambda: time.sleep(0.2 if schedule.due() else 0)
    for _ in range(3):
        candidate.update()
    assert candidate.refresh() == pytest.approx(0.05, abs=0.02)


def test_a_second_command_leaves_the_rows_of_the_first_as_they_were(tmp_path, monkeypatch, capsys):
    """By its commands and into its own folder, as it is run."""
    monkeypatch.setattr(cost, "measure", lambda config, *_: {
        "task": config.task, "objective": config.objective.name, "seconds": 1.0, "ratio": 1.0, "control_seconds": 1.0,
        "after_step_share": 0.0, "refresh_share": 0.0, "own_bytes": 0, "replay_bytes": 0, "device": "cpu", "threads": 1,
    })  # fmt: skip
    monkeypatch.setattr(cost, "prepare_torch", lambda *_, **__: None)
    for name in ("none", "curl"):
        assert cost.main(["--tasks", "toy/reach", "--objectives", name, "--out", str(tmp_path)]) == 0
    assert [row["objective"] for row in read_rows(tmp_path / "cost.csv")] == ["none", "curl"]
    assert (tmp_path / "cost.md").read_text() in capsys.readouterr().out


def test_a_label_objective_is_left_out_where_there_are_no_labels(capsys, monkeypatch):
    monkeypatch.setattr(OBJECTIVES["curl"].Config, "needs", frozenset({"labels"}))
    configs = cost._configs(["atari/breakout"], ["curl", "none"], ())
    assert [config.objective.name for config in configs] == ["none"]
    assert "left out: objective=curl needs labels, which atari/breakout has not" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["--objectives", "curl", "foo"], "foo"), (["--tasks", "dmc/cheetah_walk"], "did you mean dmc/cheetah_run")],
    ids=["objective", "task"],
)
def test_wrong_names_are_told_with_the_known_ones(arguments, message, capsys):
    assert cost.main(arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
