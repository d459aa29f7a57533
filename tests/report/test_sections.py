import csv
import json

import numpy as np
import pytest
from fake_runs import write_jobs, write_run, write_suite

from curl_rl.config.difference import differing
from curl_rl.config.suites import ATARI_SCORES
from curl_rl.report.read import measured
from curl_rl.report.read.sections import normalised, read, read_sections
from curl_rl.types import ConfigError

TASK = "dmc/walker_walk"
RISING = [[10.0 * i, 10.0 * i + 2] for i in range(1, 6)]


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


def assert_refused(tmp_path, *words):
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
    assert_refused(tmp_path, "curl-seed1", "none-seed1", "p0p0p0", "q1q1q1", "env.image_size 64 and 84", TASK)


def test_an_atari_protocol_is_one_for_all_games(tmp_path):
    write_run(tmp_path, "atari/pong", "curl", 1, RISING, env__protocol="atari100k")
    write_run(tmp_path, "atari/boxing", "none", 1, RISING, protocol="q1q1q1", env__protocol="sticky")
    assert_refused(
        tmp_path, "atari_pong/curl-seed1", "atari_boxing/none-seed1", "atari/boxing and atari/pong", "q1q1q1"
    )
    assert_refused(tmp_path, 'env.protocol "sticky" and "atari100k"', "report them apart")


def test_tasks_may_have_protocols_of_their_own(tmp_path):
    own = {"env__frame_stack": 3, "env__overlap": True}
    write_run(tmp_path, TASK, "curl", 1, RISING, env__action_repeat=2, **own)
    other = {"env__action_repeat": 8, "env__timeout": 5.0, "protocol": "q1q1q1"}
    write_run(tmp_path, "dmc/cheetah_run", "curl", 1, RISING, **other, **own)
    own = {"env__frame_stack": 1, "env__overlap": False}  # another method's
    write_run(tmp_path, "dmc/cheetah_run", "blind", 1, RISING, **other, **own)
    assert len(read_sections([tmp_path])[0][0].runs) == 3


@pytest.mark.parametrize(("name", "value"), [("image_size", 84), ("obs", "state"), ("camera", 1)])
def test_tasks_measured_in_different_ways_are_refused(tmp_path, name, value):
    write_run(tmp_path, TASK, "curl", 1, RISING, env__camera=0)
    write_run(tmp_path, "dmc/cheetah_run", "other", 1, RISING, **{"protocol": "q1q1q1", f"env__{name}": value})
    words = "walker_walk/curl-seed1", "cheetah_run/other-seed1", f"env.{name} ", json.dumps(value), "report them apart"
    assert_refused(tmp_path, *words)


def test_tasks_of_ones_own_are_pooled_whatever_they_show_and_however_long_they_are(tmp_path):
    car = {"env__max_steps": 300, "env__obs": "render", "env__key": "", "env__reward_clip": 0, "env__reward_scale": 0.1}
    maze = {"env__max_steps": 0, "env__obs": "pixels", "env__key": "eye", "env__reward_clip": 1, "env__reward_scale": 1}
    write_run(tmp_path, "gym/CarRacing-v3", "car", 1, RISING, protocol="q1q1q1", **car)
    write_run(tmp_path, "maze:Maze", "grid", 1, RISING, **maze)
    assert len(read_sections([tmp_path])[0][0].runs) == 2
    write_run(tmp_path, "maze:Other", "grid", 1, RISING, **maze | {"env__max_steps": 50, "env__obs": "render"})
    assert len(read_sections([tmp_path])[0][0].runs) == 3  # one method of two tasks may differ there too
    write_run(tmp_path, "maze:Maze", "long", 1, RISING, protocol="q2q2q2", **maze | {"env__max_steps": 50})
    assert_refused(tmp_path, "maze:Maze by different protocols", "p0p0p0", "q2q2q2", "env.max_steps 0 and 50")


def test_rewards_learned_from_are_the_methods_in_every_suite(tmp_path):
    write_run(tmp_path, TASK, "plain", 1, RISING, env__reward_clip=0, env__reward_scale=1)
    write_run(tmp_path, "dmc/cheetah_run", "clipped", 1, RISING, env__reward_clip=1, env__reward_scale=0.1)
    assert len(read_sections([tmp_path])[0][0].runs) == 2
    write_run(tmp_path, "dmc/finger_spin", "clipped", 1, RISING, env__reward_clip=0, env__reward_scale=0.1)
    assert_refused(tmp_path, "both called clipped", "env.reward_clip 1 and 0", "another name")


def test_a_method_may_be_set_as_the_papers_set_it_by_task(tmp_path):
    write_run(tmp_path, TASK, "curl", 1, RISING)
    settings = {"env__action_repeat": 8, "replay__capacity": 12_500, "agent__learning_rate": 2e-4}
    write_run(tmp_path, "dmc/cheetah_run", "curl", 7, RISING, **settings, objective__coefficient=0.01, threads=4)
    assert len(read_sections([tmp_path])[0][0].runs) == 2


def test_a_method_is_one_configuration_on_all_tasks(tmp_path):
    write_run(tmp_path, TASK, "curl", 1, RISING)
    write_run(tmp_path, "dmc/finger_spin", "none", 1, RISING, batch_size=32)  # another method may
    assert read_sections([tmp_path])[0][0].methods == ["curl", "none"]
    write_run(tmp_path, "dmc/cheetah_run", "curl", 1, RISING, batch_size=512, agent__name="other")
    words = "cheetah_run/curl-seed1", "walker_walk/curl-seed1", "both called curl", "batch_size 512 and 128"
    assert_refused(tmp_path, *words, 'agent.name "other" and "sac"', "another name")


def test_settings_that_a_version_did_not_have_are_no_difference(tmp_path):
    write_run(tmp_path, "dmc/cheetah_run", "curl", 1, RISING)
    write_run(tmp_path, "dmc/finger_spin", "curl", 1, RISING, augmentation__hue=0.1)
    assert len(read_sections([tmp_path])[0][0].runs) == 2
    write_run(tmp_path, TASK, "curl", 1, RISING, augmentation__hue=0.2)  # the first run says nothing of it
    assert_refused(tmp_path, "finger_spin/curl-seed1", "walker_walk/curl-seed1", "augmentation.hue 0.1 and 0.2")


def test_one_method_with_two_configurations_is_refused(tmp_path):
    write_run(tmp_path, TASK, "curl", 1, RISING)
    write_run(tmp_path, TASK, "curl", 2, RISING, agent__learning_rate=0.01)
    assert_refused(tmp_path, "curl-seed1", "curl-seed2", "agent.learning_rate 0.001 and 0.01", "another name")


def test_seeds_may_differ_in_where_they_ran(tmp_path):
    local = {"device": "cuda", "threads": 4, "replay__device": "cuda", "env__timeout": 5.0, "evaluation__workers": 4}
    write_run(tmp_path, TASK, "curl", 1, RISING)
    write_run(tmp_path, TASK, "curl", 2, RISING, **local)
    assert len(read_sections([tmp_path])[0][0].runs) == 2


def test_one_seed_twice_is_refused(tmp_path):
    write_run(tmp_path, TASK, "curl", 1, RISING)
    write_run(tmp_path, TASK, "curl", 1, RISING, folder="again/curl-seed1")
    assert_refused(tmp_path, "again/curl-seed1", "dmc_walker_walk/curl-seed1", "seed 1", "keep one")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_returns_that_are_no_numbers_give_no_score(tmp_path, value):
    write_run(tmp_path, TASK, "curl", 1, RISING)
    write_run(tmp_path, TASK, "curl", 2, [*RISING[:4], [1.0, value]])
    write_run(tmp_path, TASK, "curl", 3, [RISING[0], [value, 1.0], *RISING[2:]])  # its curve has no such point
    found, absent = read_sections([tmp_path])
    assert [run.seed for run in found[0].runs] == [1]
    assert [(run.seed, run.status, run.frame) for run in absent] == [
        (2, "not a number", 100_000),
        (3, "not a number", 100_000),
    ]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"budget_frames": "400000"}, ["budget_frames", '"400000"', "whole number"]),
        ({"seed": 1.5}, ["seed", "1.5", "whole number"]),
        ({"evaluation": {"episodes": None, "final_episodes": 0}}, ["evaluation.episodes", "null", "whole number"]),
        ({"task": 3}, ["task", "3"]),
        ({"env": []}, ["env"]),
    ],
)
def test_configurations_of_the_wrong_kind_are_refused(tmp_path, settings, words):
    run = write_run(tmp_path, TASK, "curl", 1, RISING)
    config = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps(config | settings))
    assert_refused(tmp_path, "curl-seed1/config.json", "move", *words)
    with pytest.raises(ConfigError, match=r"config\.json"):
        read(run)


@pytest.mark.parametrize("value", ["nan", "inf"])
def test_clocks_that_are_no_numbers_are_refused(tmp_path, value):
    run = write_run(tmp_path, TASK, "curl", 1, RISING)
    table = (run / "eval.csv").read_text()
    (run / "eval.csv").write_text(table.replace(",1201.0,", f",{value},"))
    assert_refused(tmp_path, "eval.csv, line 4, is broken")


def test_methods_are_in_their_natural_order(tmp_path):
    write_suite(tmp_path, {f"m{i}": {TASK: 5} for i in (10, 2, 1)}, seeds=2)
    (section,), _ = read_sections([tmp_path])
    assert section.methods == ["m1", "m2", "m10"]
    assert [run.method for run in section.runs] == ["m1", "m1", "m2", "m2", "m10", "m10"]


def test_no_results_are_refused(tmp_path):
    assert_refused(tmp_path, "no results")
    assert_refused(tmp_path / "nowhere", "nowhere", "no folder")


def test_missing_columns_are_refused(tmp_path):
    run = write_run(tmp_path, TASK, "curl", 1, RISING)
    rows = list(csv.DictReader((run / "eval.csv").read_text().splitlines()))
    with (run / "eval.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, [name for name in rows[0] if name != "protocol"], extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    assert_refused(tmp_path, "eval.csv", "protocol")


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
    assert_refused(tmp_path, "jobs.csv", "seed, status")
    (tmp_path / "jobs.csv").write_bytes(b"\xff\xfe")
    assert_refused(tmp_path, "jobs.csv is no table of jobs")
    (tmp_path / "jobs.csv").unlink()
    (tmp_path / "jobs.csv").mkdir()
    assert_refused(tmp_path, "jobs.csv is no file")
    (tmp_path / "jobs.csv").rmdir()
    write_jobs(tmp_path, [[TASK, "curl", "one", "done", 1, 0, "x", "y", ""]])
    assert_refused(tmp_path, "jobs.csv, line 2")


def test_differing_settings_are_by_dotted_keys():
    first = {"a": 1, "env": {"size": 64, "same": 2}, "only": "x"}
    second = {"a": 1, "env": {"size": 84, "same": 2}, "new": None, "more": [1]}
    assert differing(first, second) == {"env.size": (64, 84), "only": ("x", None), "more": (None, [1])}
    assert differing(first, second, ignored=["env.size", "more"]) == {"only": ("x", None)}
    assert json.dumps(differing(first, first)) == "{}"


# How they were measured


def section(tmp_path):
    (found,), _ = read_sections([tmp_path])
    return found


def test_the_protocol_is_said_in_words(tmp_path):
    paper = {"preset": "paper", "env__image_size": 100}
    write_run(tmp_path, TASK, "curl", 1, RISING, **paper, env__action_repeat=2)
    write_run(tmp_path, "dmc/cartpole_swingup", "curl", 1, RISING, **paper, env__action_repeat=8)
    found = section(tmp_path)
    words = measured.protocol(found)
    for part in ("100 × 100 pixels", "action repeat 2 (walker_walk), 8 (cartpole_swingup)", "preset paper;"):
        assert part in words
    assert "2 episodes in the last evaluation" in words
    assert measured.warnings(found) == []


def test_the_protocol_of_atari_is_named(tmp_path):
    write_run(tmp_path / "a", "atari/pong", "curl", 1, RISING, preset="paper", env__protocol="atari100k")
    assert "protocol atari100k (hash p0p0p0); preset paper" in measured.protocol(section(tmp_path / "a"))
    assert measured.warnings(section(tmp_path / "a")) == []
    write_run(tmp_path / "b", "atari/pong", "curl", 1, RISING, preset="paper", env__protocol="sticky")
    (warning,) = measured.warnings(section(tmp_path / "b"))
    assert warning.startswith("Protocol sticky, not atari100k")


def test_settings_that_are_not_the_published_ones_are_said(tmp_path):
    write_run(tmp_path, TASK, "curl", 1, RISING, preset="quick")
    assert measured.warnings(section(tmp_path)) == ["Settings of preset quick, not the published ones."]
    write_run(tmp_path, TASK, "none", 1, RISING, preset="paper")
    assert measured.warnings(section(tmp_path)) == ["Settings of preset quick (curl), not the published ones."]
    write_run(tmp_path / "toys", "toy/reach", "curl", 1, RISING)
    assert measured.warnings(section(tmp_path / "toys")) == []


def test_methods_with_other_numbers_of_episodes_are_said(tmp_path):
    write_run(tmp_path, TASK, "curl", 1, RISING, preset="paper")
    write_run(tmp_path, TASK, "none", 1, [[1.0] * 7] * 5, preset="paper", evaluation__episodes=7)
    (warning,) = measured.warnings(section(tmp_path))
    assert warning.endswith("of their last evaluation: 2 (curl), 7 (none).")


def test_seeds_of_several_commits_and_machines_are_said(tmp_path):
    for method in ("curl", "none"):
        write_run(tmp_path, TASK, method, 1, RISING, preset="paper")
        write_run(tmp_path, TASK, method, 2, RISING, preset="paper", commit="", hardware="8 x Fake CPU")
    write_run(tmp_path, TASK, "curl", 3, RISING, preset="paper", versions="python=3.11.7 torch=2.14.0")
    (warning,) = measured.warnings(section(tmp_path))
    assert "commit 0123456789ab | none (an installed package) (curl, none)" in warning
    assert "versions torch=2.13.0 | torch=2.14.0 (curl)" in warning
    assert "hardware 4 x Fake CPU | 8 x Fake CPU (curl, none)" in warning


def test_methods_of_different_machines_are_not_seeds_of_one(tmp_path):
    write_run(tmp_path, TASK, "curl", 1, RISING, preset="paper")
    write_run(tmp_path, TASK, "none", 1, RISING, preset="paper", hardware="8 x Fake CPU")
    assert measured.warnings(section(tmp_path)) == []


def test_unequal_numbers_of_seeds_are_said(tmp_path):
    write_suite(tmp_path, {"curl": {TASK: 5, "dmc/finger_spin": 5}, "none": {TASK: 5}}, seeds=2, preset="paper")
    assert measured.warnings(section(tmp_path)) == []  # nothing is averaged over the task that one method lacks
    write_run(tmp_path, "dmc/finger_spin", "none", 1, RISING, preset="paper", objective__name="none")
    (warning,) = measured.warnings(section(tmp_path))
    assert "(none 1 to 2)" in warning


def test_a_section_says_under_which_distraction_it_was_measured(tmp_path):
    told = {"distraction": "color+camera", "distraction_intensity": "hard", "distraction_dynamic": False}
    write_run(tmp_path, TASK, "curl", 1, RISING, **{f"env__{name}": value for name, value in told.items()})
    (section,), _ = read_sections([tmp_path])
    words = "under color+camera (hard, changing from episode to episode; evaluated on others than trained on)"
    assert words in measured.protocol(section)
