import csv
import json

import numpy as np
import pytest
from fake_runs import write_jobs, write_run, write_suite

from curl_rl import config
from curl_rl.report import sections
from curl_rl.report.sections import difference, normalised, read_sections
from curl_rl.suites import ATARI_SCORES
from curl_rl.types import ConfigError

TASK = "dmc/walker_walk"
RISING = [[10.0 * i, 10.0 * i + 2] for i in range(1, 6)]


def test_what_is_local_is_what_the_configuration_calls_local():
    assert sections.LOCAL == config.LOCAL


def test_runs_are_grouped_by_suite_and_budget(tmp_path):
    write_suite(tmp_path, {"curl": {TASK: 500.0}, "none": {TASK: 400.0, "toy/reach": 3.0}}, seeds=2)
    write_run(tmp_path, TASK, "curl", 1, RISING, budget=500_000, every=100_000, folder="long/curl-seed1")
    found, absent = read_sections([tmp_path])
    assert [section.name for section in found] == ["dmc_100000", "dmc_500000", "toy_100000"]
    assert [len(section.runs) for section in found] == [4, 1, 2]
    assert found[0].methods == ["curl", "none"]
    assert found[1].scores("curl", TASK).tolist() == [51.0]
    assert absent == []


def test_aggregates_take_tasks_that_every_method_finished_and_that_have_a_scale(tmp_path):
    write_suite(tmp_path, {"a": {TASK: 5, "dmc/cheetah_run": 5}, "b": {TASK: 5, "dmc/finger_spin": 5}}, seeds=1)
    write_suite(tmp_path / "atari", {"a": {"atari/pong": -20, "atari/skiing": -900}}, seeds=1)
    control, atari = sorted(read_sections([tmp_path])[0], key=lambda section: section.suite, reverse=True)
    assert control.common_tasks == [TASK]
    assert control.tasks == ["dmc/cheetah_run", "dmc/finger_spin", TASK]
    assert atari.common_tasks == ["atari/pong"]


def test_the_same_folder_twice_is_read_once(tmp_path):
    write_run(tmp_path, TASK, "curl", 1, RISING)
    found, _ = read_sections([tmp_path, tmp_path / "dmc_walker_walk"])
    assert len(found[0].runs) == 1


def test_scores_are_normalised_by_their_suite():
    random, human = ATARI_SCORES["atari/pong"]
    assert normalised("atari/pong", human) == 1.0
    assert normalised("atari/pong", random) == 0.0
    np.testing.assert_allclose(normalised("atari/pong", np.array([-3.0])), [(-3 + 20.7) / (14.6 + 20.7)])
    assert normalised(TASK, 250.0) == 0.25
    assert normalised("toy/reach", 3.0) is None
    assert normalised("atari/skiing", 3.0) is None


def refused(tmp_path, *words):
    with pytest.raises(ConfigError) as caught:
        read_sections([tmp_path])
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message
    return message


def test_different_protocols_of_one_task_are_refused(tmp_path):
    write_run(tmp_path, TASK, "curl", 1, RISING)
    write_run(tmp_path, TASK, "none", 1, RISING, protocol="q1q1q1", env__image_size=84)
    refused(tmp_path, "curl-seed1", "none-seed1", "p0p0p0", "q1q1q1", "env.image_size 64 and 84", TASK)


def test_different_protocols_of_different_tasks_are_not(tmp_path):
    write_run(tmp_path, TASK, "curl", 1, RISING)
    write_run(tmp_path, "dmc/cheetah_run", "curl", 1, RISING, protocol="q1q1q1")
    assert len(read_sections([tmp_path])[0][0].runs) == 2


def test_one_method_with_two_configurations_is_refused(tmp_path):
    write_run(tmp_path, TASK, "curl", 1, RISING)
    write_run(tmp_path, TASK, "curl", 2, RISING, agent__learning_rate=0.01)
    refused(tmp_path, "curl-seed1", "curl-seed2", "agent.learning_rate 0.001 and 0.01", "another name")


def test_seeds_may_differ_in_where_they_ran(tmp_path):
    local = {"device": "cuda", "threads": 4, "replay__device": "cuda", "env__timeout": 5.0, "evaluation__workers": 4}
    write_run(tmp_path, TASK, "curl", 1, RISING)
    write_run(tmp_path, TASK, "curl", 2, RISING, **local)
    assert len(read_sections([tmp_path])[0][0].runs) == 2


def test_one_seed_twice_is_refused(tmp_path):
    write_run(tmp_path, TASK, "curl", 1, RISING)
    write_run(tmp_path, TASK, "curl", 1, RISING, folder="again/curl-seed1")
    refused(tmp_path, "again/curl-seed1", "dmc_walker_walk/curl-seed1", "seed 1", "keep one")


def test_returns_that_are_no_numbers_are_refused(tmp_path):
    write_run(tmp_path, TASK, "curl", 1, [*RISING[:4], [1.0, float("nan")]])
    refused(tmp_path, "eval.csv", "no number")


def test_no_results_are_refused(tmp_path):
    refused(tmp_path, "no results")
    refused(tmp_path / "nowhere", "nowhere", "no folder")


def test_missing_columns_are_refused(tmp_path):
    run = write_run(tmp_path, TASK, "curl", 1, RISING)
    rows = list(csv.DictReader((run / "eval.csv").read_text().splitlines()))
    with (run / "eval.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, [name for name in rows[0] if name != "protocol"], extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    refused(tmp_path, "eval.csv", "protocol")


def test_unfinished_runs_are_listed_and_never_scored(tmp_path):
    write_run(tmp_path, TASK, "curl", 1, RISING)
    write_run(tmp_path, TASK, "curl", 2, RISING[:3])
    write_run(tmp_path, TASK, "curl", 3, [*RISING[:4], [1.0]])  # the last evaluation is torn
    silent = write_run(tmp_path, TASK, "curl", 4, [])
    (silent / "eval.csv").unlink()
    found, absent = read_sections([tmp_path])
    assert [run.seed for run in found[0].runs] == [1]
    assert [(run.seed, run.status, run.frame) for run in absent] == [
        (2, "unfinished", 60_000),
        (3, "unfinished", 100_000),
        (4, "unfinished", 0),
    ]
    assert absent[0].command.startswith("curl-rl train task=dmc/walker_walk objective=curl seed=2")


def test_jobs_tell_why_a_run_has_no_score(tmp_path):
    write_run(tmp_path, TASK, "curl", 1, RISING)
    write_run(tmp_path, TASK, "curl", 2, RISING[:2])
    folder = "dmc_walker_walk/curl-seed"
    jobs = [
        [TASK, "curl", 1, "done", 1, 0, f"{folder}1", "train 1", ""],
        [TASK, "curl", 2, "failed", 3, 1, f"{folder}2", "train 2", "Traceback\nMemoryError"],
        [TASK, "curl", 3, "waiting", 0, "", f"{folder}3", "train 3", ""],
        [TASK, "curl", 4, "done", 1, 0, f"{folder}4", "train 4", ""],  # someone removed its directory
    ]
    write_jobs(tmp_path, jobs)
    _, absent = read_sections([tmp_path])
    assert [(run.seed, run.status, run.frame) for run in absent] == [
        (2, "failed", 40_000),
        (3, "waiting", 0),
        (4, "missing", 0),
    ]
    failed = absent[0]
    assert (failed.exit_code, failed.attempts, failed.command) == ("1", "3", "train 2")
    assert failed.tail == "Traceback\nMemoryError"


def test_broken_job_lists_are_refused(tmp_path):
    write_run(tmp_path, TASK, "curl", 1, RISING)
    (tmp_path / "jobs.csv").write_text("task,method\n")
    refused(tmp_path, "jobs.csv", "seed, status")
    write_jobs(tmp_path, [[TASK, "curl", "one", "done", 1, 0, "x", "y", ""]])
    refused(tmp_path, "jobs.csv, line 2")


def test_difference_is_by_dotted_keys():
    first = {"a": 1, "env": {"size": 64, "same": 2}, "only": "x"}
    second = {"a": 1, "env": {"size": 84, "same": 2}, "new": None, "more": [1]}
    assert difference(first, second) == {"env.size": (64, 84), "only": ("x", None), "more": (None, [1])}
    assert difference(first, second, ignored=["env.size", "more"]) == {"only": ("x", None)}
    assert json.dumps(difference(first, first)) == "{}"
