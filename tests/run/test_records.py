"""Runs are read back as they were written, torn ends and all, and nothing of another kind is taken for one."""

import json
from pathlib import Path

import pytest

from curl_rl.run.logger import EVAL_COLUMNS, RunLogger
from curl_rl.run.records import find_runs, newest_step, read_run
from curl_rl.types import Clock, ConfigError, Episode, Origin

ORIGIN = Origin("p1", "80 frames", "c0ffee", "torch=2", "1 x cpu")
HEADER = ",".join(EVAL_COLUMNS) + "\n"
CONFIG = {"task": "toy/reach", "seed": 3, "budget_frames": 80, "evaluation": {"episodes": 2, "final_episodes": 0}}
CONFIG |= {group: {} for group in ("env", "agent", "encoder", "objective", "replay")}


def write_run(run_dir: Path, *, frames: tuple[int, ...] = (40, 80), episodes: int = 2, origin: Origin = ORIGIN) -> Path:
    run_dir.mkdir(parents=True)
    (run_dir / "config.json").write_text(json.dumps(CONFIG))
    log = RunLogger(run_dir, origin)
    for frame in frames:
        clock = Clock(frame // 4, frame, frame // 8)
        log.scalars(clock._replace(agent_step=frame // 4 - 1), {"loss": 1.0})
        log.evaluation(clock, [Episode(i, frame + i / 2, 10) for i in range(episodes)], frame / 10)
    log.close()
    return run_dir


def go_on(run_dir: Path, origin: Origin) -> None:
    """Evaluate once more, as another start of the same run."""
    with (run_dir / "eval.csv").open("a") as file:
        file.write(",".join(["20", "80", "10", "0", "1.0", "10", "8.0", *origin]) + "\n")


def test_a_run_is_read_as_it_was_written(tmp_path: Path):
    run = read_run(write_run(tmp_path / "curl-seed3"))
    assert (run.task, run.method, run.seed, run.budget_frames) == ("toy/reach", "curl", 3, 80)
    assert [(e.agent_step, e.frame, e.seconds, e.returns) for e in run.evaluations] == [
        (10, 40, 4.0, (40.0, 40.5)),
        (20, 80, 8.0, (80.0, 80.5)),
    ]
    assert run.score == 80.25  # the last, though here also the best
    assert run.finished
    assert run.origins == (ORIGIN,)
    assert run.protocol == "p1"
    assert run.command == ""
    assert newest_step(run.path) == 20


def test_a_score_is_the_last_evaluation_and_not_the_best(tmp_path: Path):
    run_dir = write_run(tmp_path / "run")
    rows = (run_dir / "eval.csv").read_text()
    (run_dir / "eval.csv").write_text(rows.replace(",80.0,", ",-10.0,").replace(",80.5,", ",-20.0,"))
    assert read_run(run_dir).score == -15.0


def test_a_run_is_finished_by_its_last_evaluation_alone(tmp_path: Path):
    assert not read_run(write_run(tmp_path / "early", frames=(40,))).finished
    assert not read_run(write_run(tmp_path / "few", episodes=1)).finished
    more = write_run(tmp_path / "more")
    (more / "config.json").write_text(json.dumps(CONFIG | {"evaluation": {"episodes": 2, "final_episodes": 5}}))
    assert not read_run(more).finished
    assert not read_run(write_run(tmp_path / "none", frames=())).finished


@pytest.mark.parametrize("torn", ["20,80", "20,80,10,1,8", "\x00\x00"])
def test_a_torn_end_is_left_out(tmp_path: Path, torn: str):
    run_dir = write_run(tmp_path / "run", frames=(40,))
    whole = read_run(run_dir)
    for name in ("eval.csv", "train.csv"):
        with (run_dir / name).open("a") as file:
            file.write(torn)
    assert read_run(run_dir) == whole
    assert newest_step(run_dir) == 10


def test_the_command_is_that_of_the_first_start(tmp_path: Path):
    run_dir = write_run(tmp_path / "run")
    starts = [{"command": "curl-rl train seed=3"}, {"command": "curl-rl train run_dir=run"}]
    (run_dir / "metadata.json").write_text(json.dumps({"starts": starts}))
    assert read_run(run_dir).command == "curl-rl train seed=3"


@pytest.mark.parametrize("missing", ["protocol", "budget", "commit", "return", "seconds"])
def test_missing_columns_are_named(tmp_path: Path, missing: str):
    run_dir = write_run(tmp_path / "run")
    (run_dir / "eval.csv").write_text(HEADER.replace(missing, "other") + "1,2\n")
    with pytest.raises(ConfigError, match=rf"eval.csv has no column {missing}: another version wrote it"):
        read_run(run_dir)


@pytest.mark.parametrize(
    "row",
    [
        "20,80,10\n",
        "20,80,10,0,high,10,8,p1,80 frames,c,t,h\n",
        "20,nan,10,0,1,10,8,p1,80 frames,c,t,h\n",
        "20,80,10,0,1,10,inf,p1,80 frames,c,t,h\n",
        "20,1e300,10,0,1,10,8,p1,80 frames,c,t,h\n",
        "20,80,10,-1,1,10,8,p1,80 frames,c,t,h\n",
        "20,80,10,0.5,1,10,8,p1,80 frames,c,t,h\n",
        "20,80,10,0,1,10,8,p1,80 frames,c,t,h,more\n",
    ],
)
def test_a_broken_line_is_named(tmp_path: Path, row: str):
    run_dir = write_run(tmp_path / "run", frames=(40,))
    with (run_dir / "eval.csv").open("a") as file:
        file.write(row)
    with pytest.raises(ConfigError, match=r"eval.csv, line 4, is broken"):
        read_run(run_dir)


@pytest.mark.parametrize("score", ["40.0", "-7.0"])
def test_a_repeated_row_is_named_and_not_averaged(tmp_path: Path, score: str):
    run_dir = write_run(tmp_path / "run", frames=(40,))
    with (run_dir / "eval.csv").open("a") as file:
        file.write(f"10,40,5,0,{score},10,4.0,{','.join(ORIGIN)}\n")
    with pytest.raises(ConfigError, match=r"eval.csv, line 4, repeats episode 0 of frame 40: restore it"):
        read_run(run_dir)


@pytest.mark.parametrize(("field", "message"), [("protocol", "protocols p1, p2"), ("budget", "budgets 80 frames, p2")])
def test_rows_of_several_protocols_are_refused(tmp_path: Path, field: str, message: str):
    run_dir = write_run(tmp_path / "run", frames=(40,))
    go_on(run_dir, ORIGIN._replace(**{field: "p2"}))
    with pytest.raises(ConfigError, match=rf"mixes {message}: they cannot be pooled"):
        read_run(run_dir)


def test_budgets_that_grow_are_of_a_run_that_went_on_and_others_are_refused(tmp_path: Path):
    run_dir = write_run(tmp_path / "run", frames=(20, 40))
    (run_dir / "config.json").write_text(json.dumps(CONFIG | {"budget_frames": 90}))
    go_on(run_dir, ORIGIN._replace(budget="90 frames"))
    run = read_run(run_dir)
    assert [origin.budget for origin in run.origins] == ["80 frames", "90 frames"]
    assert not run.finished
    (run_dir / "eval.csv").write_text((run_dir / "eval.csv").read_text().replace(",90 frames,", ",70 frames,"))
    with pytest.raises(ConfigError, match=r"mixes budgets 70 frames, 80 frames: they cannot be pooled"):
        read_run(run_dir)
    again = ",".join(["30", "120", "15", "0", "1.0", "10", "9.0", *ORIGIN])
    (run_dir / "eval.csv").write_text((run_dir / "eval.csv").read_text().replace(",70 f", ",90 f") + again + "\n")
    with pytest.raises(ConfigError, match=r"mixes budgets 80 frames, 90 frames"):  # one after the other, and back
        read_run(run_dir)


def test_how_a_run_went_on_is_told_once(tmp_path: Path):
    run_dir = write_run(tmp_path / "run")
    grown = {"frame": 1500, "changed": {"budget_frames": [1500, 2500]}}
    slower = {"frame": 1800, "changed": {"agent.learning_rate": [0.1, 0.01], "batch_size": [8, 4]}}
    starts = [{"command": "a"}, {"frame": 9, "changed": {}}, grown, grown, slower]
    (run_dir / "metadata.json").write_text(json.dumps({"starts": starts}))
    assert read_run(run_dir).segments == (
        "at 1,500 frames: budget_frames 1500 -> 2500",
        "at 1,800 frames: agent.learning_rate 0.1 -> 0.01, batch_size 8 -> 4",
    )


@pytest.mark.parametrize("start", [{"changed": 3}, {"changed": {"a": 1}}, {"changed": {"a": [1]}}, {"frame": "x"}])
def test_starts_that_tell_no_changes_are_refused(tmp_path: Path, start):
    run_dir = write_run(tmp_path / "run")
    (run_dir / "metadata.json").write_text(json.dumps({"starts": [start]}))
    with pytest.raises(ConfigError, match=r"metadata.json cannot be read \(it does not tell what a start changed"):
        read_run(run_dir)


def test_a_resume_elsewhere_keeps_both_origins(tmp_path: Path):
    run_dir = write_run(tmp_path / "run", frames=(40,))
    elsewhere = ORIGIN._replace(commit="beef", hardware="8 x gpu")
    go_on(run_dir, elsewhere)
    assert read_run(run_dir).origins == (ORIGIN, elsewhere)


@pytest.mark.parametrize("config", ["", "{", "[]", "{}", '{"evaluation": 3}', '{"evaluation": {"episodes": 1}}'])
def test_what_is_no_configuration_is_refused(tmp_path: Path, config: str):
    run_dir = write_run(tmp_path / "run")
    (run_dir / "config.json").write_text(config)
    with pytest.raises(ConfigError, match=r"config.json .*move .*run away"):
        read_run(run_dir)


def test_runs_are_found_in_and_below_folders(tmp_path: Path):
    names = ["a/curl-seed3", "a/none-seed3", "b"]
    for name in names:
        write_run(tmp_path / name)
    assert [str(run.path.relative_to(tmp_path)) for run in find_runs([tmp_path])] == names
    assert [run.path for run in find_runs([tmp_path / "b"])] == [tmp_path / "b"]


def test_a_folder_without_results_is_named(tmp_path: Path):
    with pytest.raises(ConfigError, match=r"none is no folder"):
        find_runs([tmp_path / "none"])
    with pytest.raises(ConfigError, match=r"holds no results"):
        find_runs([tmp_path])
