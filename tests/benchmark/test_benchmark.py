"""A benchmark's file becomes public commands, and mistakes in it are told before anything runs."""

import json
import os
import shlex
from io import StringIO
from pathlib import Path

import pytest
from test_schedule import FakeEngine, finish

from curl_rl import cli
from curl_rl.benchmark.plans import _is_done, load_benchmark, make_plans, run_benchmark, select
from curl_rl.config.overrides import compose, config_dir
from curl_rl.config.suites import ATARI_SCORES, PLANET_SIX, SUITES, suite_of
from curl_rl.objectives import OBJECTIVES
from curl_rl.run.locks import alone
from curl_rl.run.stored import load_config
from curl_rl.types import ConfigError

SHIPPED = sorted(path.stem for path in (config_dir() / "benchmark").glob("*.yaml"))
TOY = """
tasks: [toy/reach]
seeds: 2
settings: {budget_frames: 60, random_steps: 20, evaluation.every_frames: 30, evaluation.episodes: 2}
methods:
  curl: {objective: curl}
  shifted: {objective: none, agent.averaging.k: 1, evaluation.video: true}
"""


def toy(folder: Path, text: str = TOY) -> str:
    path = folder / "mine.yaml"
    path.write_text(text)
    return str(path)


def test_those_that_are_shipped_cover_what_they_are_named_for():
    assert SHIPPED == ["atari100k", "candidates", "dmc100k", "dmc500k", "evidence", "objectives"]
    assert load_benchmark("atari100k").tasks == tuple(ATARI_SCORES)
    assert load_benchmark("dmc100k").tasks == load_benchmark("dmc500k").tasks == PLANET_SIX
    of_agents = {name for name, cls in OBJECTIVES.items() if "classes" not in cls.Config().needs}
    assert set(load_benchmark("objectives").methods) == of_agents
    assert {*PLANET_SIX} < {*load_benchmark("evidence").tasks} < {*PLANET_SIX, *ATARI_SCORES}


@pytest.mark.parametrize("name", SHIPPED)
def test_those_that_are_shipped_compose(name):
    benchmark = load_benchmark(name)
    first = {suite_of(task): task for task in reversed(benchmark.tasks)}
    plans = make_plans(select(benchmark, first.values()), [], "out")
    assert len(plans) == len(first) * benchmark.seeds * len(benchmark.methods)
    for plan in plans:
        suite, settings = suite_of(plan.job.task), benchmark.settings | benchmark.methods[plan.job.method]
        assert plan.config.preset == settings.get("preset", SUITES[suite].preset)
        assert plan.config.objective.name == settings["objective"]
        budget = 400_000 if suite == "atari" else 500_000 if name == "dmc500k" else 100_000
        assert plan.config.budget_frames == budget


def test_plans_are_the_public_command(tmp_path):
    plans = make_plans(load_benchmark(toy(tmp_path)), ["batch_size=8", "budget_frames=80"], "results/mine")
    assert [(plan.job.method, plan.job.seed) for plan in plans] == [
        ("curl", 1),
        ("shifted", 1),
        ("curl", 2),
        ("shifted", 2),
    ]
    line = plans[3].job.line()
    assert line == (
        "curl-rl train task=toy/reach budget_frames=80 random_steps=20 evaluation.every_frames=30 "
        "evaluation.episodes=2 objective=none agent.averaging.k=1 evaluation.video=true batch_size=8 seed=2 "
        "run_dir=results/mine/toy_reach/shifted-seed2"
    )
    for plan in plans:
        assert compose(shlex.split(plan.job.line())[2:]) == plan.config


@pytest.mark.parametrize("out", ["out dir", "a=b, c", "it's (here)", "~x[1]"])
def test_places_with_special_characters_reach_the_command(tmp_path, out):
    plan = make_plans(load_benchmark(toy(tmp_path)), [], out)[0]
    assert compose(shlex.split(plan.job.line())[2:]).run_dir == f"{out}/toy_reach/curl-seed1"


def test_tasks_are_selected_in_any_spelling():
    benchmark = load_benchmark("atari100k")
    some = select(benchmark, ["pong", "atari/BankHeist", "BankHeist", "atari/pong"])
    assert some.tasks == ("atari/pong", "atari/bank_heist")
    with pytest.raises(ConfigError, match=r"atari100k has no task 'dmc/cheetah_run'; it has atari/alien, "):
        select(benchmark, ["dmc/cheetah_run"])


def test_every_task_comes_once_before_any_comes_twice():
    names = "dmc/cheetah_run", "atari/pong"
    some = select(load_benchmark("evidence"), names, ["none", "curl"], seeds=2)
    order = [(plan.job.seed, plan.job.method, plan.job.task) for plan in make_plans(some, [], "out")]
    assert order == [(seed, method, task) for seed in (1, 2) for method in ("none", "curl") for task in names]
    assert select(some) == some
    with pytest.raises(ConfigError, match="evidence has no method 'paper'; it has none, curl"):
        select(some, methods=["curl", "paper"])


def test_an_unknown_benchmark_names_those_that_exist(tmp_path):
    with pytest.raises(ConfigError, match=r"unknown benchmark 'dmc'; there are atari100k, candidates, dmc100k"):
        load_benchmark("dmc")
    with pytest.raises(ConfigError, match=r"absent.yaml"):
        load_benchmark(str(tmp_path / "absent.yaml"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "it needs tasks and methods"),
        ("[1, 2", "cannot be read as YAML"),
        (TOY.replace("shifted:", "curl:"), "duplicate key curl"),
        (TOY.replace("curl:", "1:", 1), "method 1 cannot name a folder"),
        (TOY.replace("{objective: curl}", "{task: toy/grid}"), "methods.curl sets task, which tasks, seeds"),
        (TOY.replace("random_steps: 20", "seed: 7"), "settings sets seed, which tasks, seeds"),
        (TOY.replace("tasks", "task"), "has .*'task'"),
        (TOY.replace("[toy/reach]", "toy/reach"), "tasks is a list"),
        (TOY.replace("[toy/reach]", "[]"), "tasks is a list"),
        (TOY.replace("toy/reach", "toy/none"), "unknown task 'toy/none'"),
        (TOY.replace("seeds: 2", "seeds: two"), "seeds is a number from 1 to 1000, not 'two'"),
        (TOY.replace("seeds: 2", "seeds: 100000000"), "seeds is a number from 1 to 1000, not 100000000"),
        (TOY.replace("seeds: 2", "seeds: 0"), "seeds is a number from 1 to 1000, not 0"),
        (TOY.replace("curl:", "a/b:"), "method 'a/b' cannot name a folder"),
        (TOY.replace("curl:", "curl-seed1:"), "method 'curl-seed1' cannot name a folder"),
        (TOY.replace("{objective: curl}", "curl"), "methods.curl is a mapping of settings to values, not 'curl'"),
    ],
)
def test_a_file_that_is_no_benchmark_is_refused(tmp_path, text, message):
    with pytest.raises(ConfigError, match=message):
        load_benchmark(toy(tmp_path, text))


@pytest.mark.parametrize("override", ["seed=3", "task=toy/grid", "run_dir=x", "batch_size"])
def test_overrides_cannot_be_what_options_are_for(tmp_path, override):
    with pytest.raises(ConfigError, match="task, seed and run_dir are --tasks, --seeds, --out"):
        make_plans(load_benchmark(toy(tmp_path)), [override], "out")


def test_overrides_cannot_undo_a_method(tmp_path):
    with pytest.raises(ConfigError, match="would undo what makes the method curl: objective"):
        make_plans(load_benchmark(toy(tmp_path)), ["objective=none"], "out")


def test_a_file_of_other_bytes_is_refused(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match=r"mine.yaml cannot be read as YAML"):
        load_benchmark(str(path))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"7",
        b"- 1\n- 2",
        b"a: ${",
        b"a: &a [*a]",
        b"[" * 5_000,
        b"\0\0",
        b"\x89PNG\r\n\x1a\n",
        b"x" * 100_000,
        b"a: 1\n\tb: 2",
        b"? [1, 2]\n: 3",
        b"!!python/object:os.system x",
        b"tasks: [[1]]\nmethods: {a: }",
        b"tasks: [toy/reach]\nmethods: {a: }\nseeds: .nan",
        b"tasks: ${x}\nmethods: {a: }",
    ],
)
def test_foreign_files_are_one_short_line(tmp_path, content):
    path = tmp_path / "mine.yaml"
    path.write_bytes(content)
    with pytest.raises(
        ConfigError, match=r"mine.yaml (cannot be read as YAML|does not describe a benchmark): "
    ) as error:
        load_benchmark(str(path))
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 600


def test_what_is_no_file_is_told(tmp_path):
    (tmp_path / "folder.yaml").mkdir()
    os.mkfifo(tmp_path / "pipe.yaml")  # which would block a reader for ever
    for name in ("folder.yaml", "pipe.yaml"):
        with pytest.raises(ConfigError, match=f"{name} is no file: give a YAML file"):
            load_benchmark(str(tmp_path / name))


def test_two_benchmarks_cannot_share_a_place(tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    plans = make_plans(load_benchmark(toy(tmp_path)), [], str(out))
    engine = FakeEngine({})
    with (
        alone(out / ".lock", "held"),
        pytest.raises(ConfigError, match=r"another benchmark runs in .*out: wait for it or give another --out"),
    ):
        run_benchmark(plans, engine, str(out), StringIO())
    assert engine.started == []


def test_overrides_that_train_would_refuse_are_refused_at_once(tmp_path):
    with pytest.raises(ConfigError, match="unknown key 'batchsize'; did you mean batch_size"):
        make_plans(load_benchmark(toy(tmp_path)), ["batchsize=8"], "out")


def test_what_is_done_is_skipped_and_the_rest_runs(tmp_path):
    out = str(tmp_path / "out")
    plans = make_plans(load_benchmark(toy(tmp_path)), [], out)
    finish(plans[0].job, plans[0].config)
    engine = FakeEngine({}, finish=lambda job: finish(job, next(p.config for p in plans if p.job == job)))
    stream = StringIO()
    assert run_benchmark(plans, engine, out, stream) == 0
    assert [job.run_dir for job in engine.started] == [plan.job.run_dir for plan in plans[1:]]
    assert "4 jobs, 1 of them done before" in stream.getvalue()
    assert load_config(plans[0].job.run_dir).seed == 1


def test_results_of_another_configuration_stop_it_before_anything_runs(tmp_path):
    out = str(tmp_path / "out")
    benchmark = load_benchmark(toy(tmp_path))
    plans = make_plans(benchmark, [], out)
    finish(plans[2].job, plans[2].config)
    engine = FakeEngine({})
    with pytest.raises(ConfigError, match=r"curl-seed2 holds a run of another configuration:\n  batch_size: 64 -> 8"):
        run_benchmark(make_plans(benchmark, ["batch_size=8"], out), engine, out, StringIO())
    assert engine.started == []


def test_a_larger_budget_goes_on_with_what_is_there_and_a_smaller_one_is_refused(tmp_path):
    out, benchmark = str(tmp_path / "out"), load_benchmark(toy(tmp_path))
    for plan in make_plans(benchmark, [], out):
        finish(plan.job, plan.config)
    plans = make_plans(benchmark, ["budget_frames=90"], out)
    assert [_is_done(plan, Path(plan.job.run_dir)) for plan in plans] == [False] * 4
    finish(plans[0].job, plans[0].config, frame=90)
    assert [_is_done(plan, Path(plan.job.run_dir)) for plan in plans] == [True, False, False, False]
    for words, line in (([], "budget_frames: 90 -> 60"), (["budget_frames=90", "batch_size=8"], "batch_size: 64 -> 8")):
        with pytest.raises(ConfigError, match=f"holds a run of another configuration:\n  {line}\n"):
            run_benchmark(make_plans(benchmark, words, out), FakeEngine({}), out, StringIO())


def test_the_command_line_prints_commands_and_runs_nothing(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["benchmark", toy(tmp_path), "--seeds", "1", "--dry-run", "--overrides", "batch_size=8"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:3] for line in lines] == [["curl-rl", "train", "task=toy/reach"]] * 2
    assert lines[0].endswith("seed=1 run_dir=runs/mine/toy_reach/curl-seed1")
    assert not (tmp_path / "runs").exists()


def test_a_dry_run_leaves_out_what_is_done(tmp_path, capsys):
    out, name = str(tmp_path / "out"), toy(tmp_path)
    plans = make_plans(load_benchmark(name), [], out)
    finish(plans[1].job, plans[1].config)
    assert cli.main(["benchmark", name, "--out", out, "--dry-run"]) == 0
    said = capsys.readouterr()
    assert said.out.splitlines() == [plan.job.line() for plan in (plans[0], *plans[2:])]
    assert said.err == "1 of 4 jobs are done and left out\n"
    assert cli.main(["benchmark", name, "--out", out, "--dry-run", "--overrides", "batch_size=8"]) == 2
    assert "batch_size: 64 -> 8" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nothing"], "unknown benchmark 'nothing'"),
        (["dmc100k", "--tasks", "humanoid_walk"], "dmc100k has no task 'humanoid_walk'"),
        (["MINE", "--workers", "1", "--per-gpu", "1"], "both say how many jobs run at once"),
        (["MINE", "--out", "${x}"], "holds a $"),
        (["MINE", "--workers", "9999"], "9999 workers need as many CPU cores"),
        (["MINE", "--out", "s3://bucket/x"], "--engine local writes into a folder"),
        (["MINE", "--cpus", "2"], "--cpus and --address are of --engine ray"),
        (["MINE", "--engine", "ray", "--workers", "2"], "--workers is of --engine local"),
    ],
)
def test_bad_input_is_one_line(tmp_path, capsys, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    arguments = [toy(tmp_path) if argument == "MINE" else argument for argument in arguments]
    assert cli.main(["benchmark", *arguments]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1
    assert not (tmp_path / "runs").exists()


def test_a_finished_run_is_what_train_leaves(tmp_path):
    """What the other tests take for a finished run has the columns and the configuration of a real one."""
    plans = make_plans(load_benchmark(toy(tmp_path)), [], str(tmp_path / "out"))
    finish(plans[0].job, plans[0].config)
    made = Path(plans[0].job.run_dir)
    assert cli.main(["train", *plans[1].job.command()[1:], "threads=1"]) == 0
    real = Path(plans[1].job.run_dir)
    assert (real / "eval.csv").read_text().splitlines()[0] == (made / "eval.csv").read_text().splitlines()[0]
    assert (
        json.loads((real / "config.json").read_text()).keys() == json.loads((made / "config.json").read_text()).keys()
    )
