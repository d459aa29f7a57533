"""A run that goes on with a larger budget or other settings keeps its results, learns with them and says so."""

import csv
import dataclasses
import json
import shutil
import signal
from contextlib import ExitStack
from pathlib import Path
from typing import Any, cast

import pytest
import runs
from runs import (
    assert_equals,
    assert_goes_on_to,
    assert_same,
    dying_at,
    kill_at,
    manifests,
    rows,
    start,
    state,
    wait_for,
)

from curl_rl import cli
from curl_rl.agents.rainbow import Rainbow
from curl_rl.config.continuing import continued
from curl_rl.config.overrides import compose
from curl_rl.run import trainer
from curl_rl.run.checkpoint import Checkpoints
from curl_rl.run.locks import alone
from curl_rl.run.playing import evaluate_run
from curl_rl.run.records import find_runs, read_run
from curl_rl.run.stored import configure, load_config
from curl_rl.types import ConfigError

SMALL = (
    *(word for word in runs.SMALL if not word.startswith("budget_frames=")),
    "device=cpu",
    "threads=1",
    "env.overlap=false",
    "evaluation.workers=1",
    "evaluation.every_frames=50",
    "evaluation.final_episodes=3",
    "checkpoint.every_frames=40",
    "log.every_updates=10",
)
FIRST = (*SMALL, "budget_frames=100")


def contents(run_dir: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in run_dir.rglob("*") if path.is_file() and path.name != ".lock"}


def starts(run_dir: Path) -> list[tuple[int, dict]]:
    told = json.loads((run_dir / "metadata.json").read_text())["starts"]
    return [(start["frame"], start["changed"]) for start in told]


def train(*overrides: str) -> int:
    return trainer.train(configure(overrides))


@pytest.fixture(scope="module")
def first(tmp_path_factory) -> Path:
    """A finished run of 100 frames."""
    run_dir = tmp_path_factory.mktemp("first") / "run"
    assert train(*FIRST, f"run_dir={run_dir}") == 0
    return run_dir


@pytest.fixture(scope="module")
def longer(first, tmp_path_factory) -> Path:
    """The same, gone on with to 200 frames."""
    run_dir = shutil.copytree(first, tmp_path_factory.mktemp("longer") / "run")
    assert train(f"run_dir={run_dir}", "budget_frames=200") == 0
    return run_dir


@pytest.fixture
def finished(first, tmp_path) -> Path:
    return shutil.copytree(first, tmp_path / "run")


GROWN = {"budget_frames": [100, 200], "replay.capacity": [100, 200]}


def test_a_larger_budget_keeps_what_was_measured_and_adds_to_it(first, longer):
    before, after = ((run_dir / "eval.csv").read_bytes() for run_dir in (first, longer))
    assert after.startswith(before)
    with (longer / "eval.csv").open() as file:
        told = [(row["frame"], row["episode"], row["budget"]) for row in csv.DictReader(file)]
    budgets = {50: "100 frames", 100: "100 frames", 150: "200 frames", 200: "200 frames"}
    counts = {50: 2, 100: 3, 150: 2, 200: 3}
    assert told == [(str(f), str(e), budgets[f]) for f in budgets for e in range(counts[f])]
    assert starts(first) == [(0, {})]
    assert starts(longer) == [(0, {}), (100, GROWN)]
    assert load_config(longer) == dataclasses.replace(
        configure([*SMALL, "budget_frames=200", f"run_dir={longer}-other"]), run_dir=str(longer)
    )
    run = read_run(longer)
    assert (run.finished, run.budget_frames) == (True, 200)
    assert run.segments == ("at 100 frames: budget_frames 100 -> 200, replay.capacity 100 -> 200",)
    assert read_run(first).segments == ()


def test_it_learns_as_if_it_had_been_asked_for_at_once(longer, tmp_path):
    run_dir = tmp_path / "run"
    assert train(*SMALL, "budget_frames=200", f"run_dir={run_dir}") == 0
    assert [row[:6] for row in rows(longer) if row[1] != "100"] == [row[:6] for row in rows(run_dir) if row[1] != "100"]
    ours, theirs = state(longer), state(run_dir)
    assert_same(ours, theirs)
    assert len(ours["replay"]["sampler"]["dense"]) > 150


@pytest.mark.parametrize("frame", [0, 100, 165])
def test_a_kill_in_the_second_segment_changes_nothing(finished, longer, frame):
    kill_at(frame, configure([f"run_dir={finished}", "budget_frames=200"]))
    assert train(f"run_dir={finished}") == 0
    assert_equals(finished, longer)
    assert starts(finished) == [(0, {}), (100, GROWN), (160 if frame == 165 else 100, {})]


@pytest.mark.slow
def test_a_process_killed_in_the_second_segment_goes_on_to_the_same(finished, longer):
    before = manifests(finished)
    process = start(finished, "budget_frames=200")
    wait_for(lambda: manifests(finished) - before, process)
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert_goes_on_to(longer, finished)


@pytest.mark.parametrize("moment", ["_kept", "save_config", "write_metadata", "start", "save"])
def test_a_kill_before_the_segments_first_checkpoint_loses_nothing(finished, longer, moment):
    with dying_at(moment):
        assert cli.main(["train", f"run_dir={finished}", "budget_frames=200"]) == 130
    if load_config(finished).budget_frames == 200:  # in force: the folder alone is enough
        assert len(evaluate_run(finished, 1, None, seed=0, device="cpu")) == 1
        assert train(f"run_dir={finished}") == 0
    assert train(f"run_dir={finished}", "budget_frames=200") == 0
    assert_equals(finished, longer)
    assert read_run(finished).segments == read_run(longer).segments


@pytest.mark.learning
def test_a_run_of_1500_frames_goes_on_to_2500(tmp_path):
    run_dir = tmp_path / "run"
    words = (*runs.SMALL, "device=cpu", "threads=1", "evaluation.every_frames=500", "checkpoint.every_frames=400")
    assert train(*words, "budget_frames=1500", f"run_dir={run_dir}") == 0
    before = (run_dir / "eval.csv").read_bytes()
    killed = shutil.copytree(run_dir, tmp_path / "killed")
    assert train(f"run_dir={run_dir}", "budget_frames=2500") == 0
    assert (run_dir / "eval.csv").read_bytes().startswith(before)
    assert [each.frame for each in read_run(run_dir).evaluations] == [500, 1000, 1500, 2000, 2500]
    assert starts(run_dir)[1] == (1500, {"budget_frames": [1500, 2500], "replay.capacity": [1500, 2500]})
    kill_at(2100, configure([f"run_dir={killed}", "budget_frames=2500"]))
    assert train(f"run_dir={killed}") == 0
    assert_equals(killed, run_dir)


def rates(words: tuple[str, ...], monkeypatch) -> dict[str, list[float]]:
    """Start a run, and return the rates of its optimisers when its loop begins."""
    found = {}

    def look(self):
        for name, optimizer in self.agent.optimizers.items():
            found[name] = [group["lr"] for group in optimizer.param_groups]

    with monkeypatch.context() as patch:
        patch.setattr(trainer.Trainer, "_loop", look)
        assert train(*words) == 0
    return found


def test_other_learning_rates_reach_the_loaded_optimisers(finished, monkeypatch):
    words = (f"run_dir={finished}", "budget_frames=120", "agent.learning_rate=0.02", "agent.alpha_learning_rate=0.003")
    wanted = {"critic": [0.02], "actor": [0.02], "alpha": [0.003], "objective": [0.04, 0.02]}
    assert rates(words, monkeypatch) == wanted
    saved = state(finished)["agent"]["optimizers"]
    assert {name: [group["lr"] for group in each["param_groups"]] for name, each in saved.items()} == wanted
    assert all(each["state"] for each in saved.values())  # whose moments were kept
    assert starts(finished)[1][1] == {
        "budget_frames": [100, 120],
        "replay.capacity": [100, 120],
        "agent.learning_rate": [0.001, 0.02],
        "agent.alpha_learning_rate": [0.0001, 0.003],
    }
    assert train(f"run_dir={finished}") == 0
    assert load_config(finished).agent.learning_rate == 0.02


def test_rainbow_goes_on_with_another_rate_and_its_weights_anneal_to_the_new_budget(tmp_path, monkeypatch):
    words = ["task=toy/grid", "preset=rainbow", "random_steps=20", "batch_size=4", "agent.hidden_dim=8", "device=cpu"]
    words += ["threads=1", "env.overlap=false", "evaluation.episodes=1", "evaluation.workers=1", "budget_frames=60"]
    words += ["evaluation.every_frames=60", f"run_dir={tmp_path}", "replay.sampler=prioritized", "replay.beta=0.5"]
    assert train(*words) == 0
    repeat = load_config(tmp_path).env.action_repeat
    more = (f"run_dir={tmp_path}", "budget_frames=120", "agent.learning_rate=0.5")
    assert rates(more, monkeypatch) == {"all": [0.5, 0.5]}  # decayed, and not
    with ExitStack() as cleanup:
        again = trainer.Trainer(load_config(tmp_path), cleanup)
        found = again.checkpoints.load(again.replay)
        assert found is not None
        again.load_state_dict(found)
        sampler: Any = again.replay._sampler
        done = 60 // repeat - 20
        assert sampler.beta == pytest.approx(0.5 + 0.5 * (done - 1) / (120 // repeat - 20), abs=0.02)
        assert sampler.capacity == again.replay.capacity > 120 // repeat


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("task=toy/grid", "task: toy/reach -> toy/grid"),
        ("preset=paper", "preset: quick -> paper"),
        ("objective=byol", "objective: curl -> byol"),
        ("encoder=impala", "encoder: small -> impala"),
        ("agent=rainbow", "agent: sac -> rainbow"),
        ("augmentation=shift", "augmentation: crop -> shift"),
        ("seed=2", "seed: 1 -> 2"),
        ("agent.hidden_dim=32", "agent.hidden_dim: 16 -> 32"),
        ("agent.discount=0.9", "agent.discount: 0.99 -> 0.9"),
        ("evaluation.epsilon=0.1", "evaluation.epsilon: 0.0 -> 0.1"),
        ("objective.coefficient=0", "objective.coefficient: 1.0 -> 0.0"),
        ("replay.capacity=50", "replay.capacity: 100 -> 50"),
        ("budget_frames=90", "budget_frames: 100 -> 90"),
    ],
)
def test_what_cannot_change_is_refused_by_name(finished, capsys, override, line):
    before = contents(finished)
    words = [f"run_dir={finished}", override]
    words += ["budget_frames=200"] if "budget" not in override and "capacity" not in override else []
    assert cli.main(["train", *words]) == 2
    told = capsys.readouterr().err
    assert f"{finished} holds a run of another configuration:\n" in told
    assert f"\n  {line}\n" in told
    assert "restart=true" in told
    assert contents(finished) == before


def test_what_a_refusal_lists_may_change(finished, capsys):
    assert cli.main(["train", f"run_dir={finished}", "seed=2"]) == 2
    told = capsys.readouterr().err
    assert (
        "what may change is a larger budget_frames or replay.capacity, and batch_size, updates_per_step, agent." in told
    )
    assert told.endswith("evaluation.video, checkpoint.*, log.*\n")


@pytest.mark.parametrize(
    "words", [["batch_size=4"], ["budget_frames=100", "agent.learning_rate=1"], ["evaluation.final_episodes=9"]]
)
def test_a_finished_run_has_no_frames_for_other_settings_alone(finished, capsys, words):
    before = contents(finished)
    assert cli.main(["train", f"run_dir={finished}", *words]) == 2
    told = capsys.readouterr().err
    assert (
        f"{finished} is finished, with 100 frames trained, and is left as it is ({words[-1].partition('=')[0]}" in told
    )
    assert told.endswith("give a budget_frames above 100\n")
    assert contents(finished) == before


def test_a_finished_run_without_checkpoints_stays_as_it_is(finished, capsys):
    shutil.rmtree(finished / "checkpoints")
    before = contents(finished)
    assert cli.main(["train", f"run_dir={finished}"]) == 0
    assert capsys.readouterr().err == f"{finished} is finished: 100 frames\n"
    assert cli.main(["train", f"run_dir={finished}", "budget_frames=200"]) == 2
    told = capsys.readouterr().err
    assert "its checkpoints were deleted, and nothing goes on (budget_frames 100 -> 200, " in told
    assert "restore checkpoints/ from a copy, give another run_dir, or start it anew with restart=true" in told
    assert contents(finished) == before


def test_the_first_command_lowers_nothing_of_a_run_that_went_on(longer, capsys):
    before = contents(longer)
    assert cli.main(["train", *FIRST, f"run_dir={longer}"]) == 2
    assert "\n  budget_frames: 200 -> 100\n" in capsys.readouterr().err
    assert cli.main(["train", *SMALL, f"run_dir={longer}"]) == 0  # of a command that named no budget: as it is
    assert contents(longer) == before


def test_in_the_default_folder_what_is_not_named_keeps_its_value_too(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    named = [word for word in FIRST if not word.startswith("log.")]
    assert train(*named) == 0
    assert train(*SMALL, "budget_frames=120", "log.every_updates=20", "agent.learning_rate=0.01") == 0
    (run_dir,) = (tmp_path / "runs" / "toy_reach").iterdir()
    assert train(*named[:-1], "budget_frames=130") == 0  # in whose words neither of the two is
    config = load_config(run_dir)
    assert (config.budget_frames, config.log.every_updates, config.agent.learning_rate) == (130, 20, 0.01)


def test_evaluations_after_the_checkpoint_are_not_cut_by_other_settings(tmp_path, capsys, monkeypatch):
    saves = trainer.Trainer._save

    def die_after_the_evaluation(self):
        if self.clock.frame >= 50:
            raise KeyboardInterrupt
        saves(self)

    with monkeypatch.context() as patch:
        patch.setattr(trainer.Trainer, "_save", die_after_the_evaluation)
        assert cli.main(["train", *FIRST, "checkpoint.every_frames=25", f"run_dir={tmp_path}"]) == 130
    capsys.readouterr()
    assert len(rows(tmp_path)) == 2
    before = contents(tmp_path)
    assert cli.main(["train", f"run_dir={tmp_path}", "batch_size=4"]) == 2
    assert (
        "holds evaluations after the newest checkpoint, at frame 25, and no other settings" in capsys.readouterr().err
    )
    assert contents(tmp_path) == before
    assert train(f"run_dir={tmp_path}") == 0


def test_a_run_that_was_stopped_goes_on_with_other_settings(tmp_path):
    kill_at(45, compose([*FIRST, f"run_dir={tmp_path}"]))
    assert train(f"run_dir={tmp_path}", "batch_size=4", "updates_per_step=2", "evaluation.every_frames=30") == 0
    assert starts(tmp_path)[1] == (
        40,
        {"batch_size": [8, 4], "updates_per_step": [1, 2], "evaluation.every_frames": [50, 30]},
    )
    assert [each.frame for each in read_run(tmp_path).evaluations] == [40, 60, 90, 100]
    assert state(tmp_path)["clock"] == [100, 100, 120]  # 40 frames with no update, then two of each
    assert load_config(tmp_path).batch_size == 4


def test_a_capacity_that_was_named_or_is_the_presets_does_not_grow(tmp_path):
    paper = compose(["task=dmc/cartpole_swingup", "preset=paper", f"run_dir={tmp_path}"])
    assert (paper.budget_frames, paper.env.action_repeat, paper.replay.capacity) == (100_000, 8, 12_500)
    assert continued(paper, ["budget_frames=600_000"]).replay.capacity == 75_000
    assert continued(paper, ["budget_frames=8_000_000"]).replay.capacity == 100_000  # as of a new run
    assert continued(paper, ["budget_frames=600_000", "replay.capacity=12_500"]).replay.capacity == 12_500
    small = compose(["task=toy/reach", "budget_frames=2000", "replay.capacity=50"])
    assert continued(small, ["budget_frames=4000"]).replay.capacity == 50
    assert continued(small, ["budget_frames=4000", "replay.capacity=0"]).replay.capacity == 4000


def test_resets_go_on_with_a_larger_budget_unless_their_end_was_named(tmp_path):
    words = ["task=atari/pong", "preset=sr_spr", f"run_dir={tmp_path}"]
    for more, until, grown in (([], 95_000 * 8, 245_000 * 8), (["agent.resets.until=7"], 7, 7)):
        stored = compose([*words, *more])
        assert stored.agent.resets.until == until
        assert continued(stored, ["budget_frames=1_000_000"]).agent.resets.until == grown
        assert continued(stored, ["budget_frames=1_000_000", "agent.resets.until=9"]).agent.resets.until == 9


def test_a_run_that_goes_on_resets_when_a_longer_one_would(tmp_path):
    words = ["task=toy/grid", "preset=rainbow", "random_steps=6", "batch_size=4", "agent.hidden_dim=8", "device=cpu"]
    words += ["threads=1", "env.overlap=false", "evaluation.episodes=1", "evaluation.workers=1"]
    words += ["evaluation.every_frames=60", f"run_dir={tmp_path}", "agent.resets.every=10"]

    def resets_at(*more: str) -> tuple[int, int]:
        """Return when the last reset was, and after which count there is none."""
        assert train(*more) == 0
        with ExitStack() as cleanup:
            again = trainer.Trainer(load_config(tmp_path), cleanup)
            agent = cast(Rainbow, again.agent)
            again.load_state_dict(again.checkpoints.load(again.replay) or {})
            return agent.reset_at, agent.config.resets.until or 0

    repeat = compose(words).env.action_repeat
    short, long = 42 * repeat, 67 * repeat
    assert resets_at(*words, f"budget_frames={short}") == (20, 26)
    assert resets_at(*words, f"budget_frames={long}") == (50, 51)


def test_a_restart_keeps_what_was_there_and_no_reader_counts_it(finished, capsys):
    old = contents(finished)
    assert (
        cli.main(["train", f"run_dir={finished}", "restart=true", "budget_frames=60", "agent.learning_rate=0.01"]) == 0
    )
    assert f"{finished} begins anew; what it held is in {finished}/before-1\n" in capsys.readouterr().err
    kept = contents(finished / "before-1")
    assert kept == {finished / "before-1" / path.relative_to(finished): content for path, content in old.items()}
    assert starts(finished) == [(0, {})]
    assert [each.frame for each in read_run(finished).evaluations] == [50, 60]
    config = json.loads((finished / "config.json").read_text())
    assert (config["budget_frames"], config["agent"]["learning_rate"], "restart" in config) == (60, 0.01, False)
    assert [run.path for run in find_runs([finished.parent])] == [finished]
    assert [run.budget_frames for run in find_runs([finished / "before-1"])] == [100]  # asked for by its name
    assert cli.main(["train", *FIRST, "objective=none", f"run_dir={finished}", "restart=true"]) == 0
    assert load_config(finished).objective.name == "none"
    assert load_config(finished / "before-2").budget_frames == 60
    assert contents(finished / "before-1") == kept


def test_a_restart_that_is_killed_is_made_good_by_the_same_command(finished, monkeypatch):
    old, rename = contents(finished), Path.rename

    def die_at_the_table(self, target):
        if self.name == "eval.csv":
            raise KeyboardInterrupt
        return rename(self, target)

    words = ["train", f"run_dir={finished}", "restart=true", "budget_frames=60"]
    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", die_at_the_table)
        assert cli.main(words) == 130
    assert cli.main(["train", f"run_dir={finished}", "budget_frames=200"]) == 2  # there is nothing to go on from
    assert cli.main(words) == 0
    kept = contents(finished / "before-1")
    assert kept == {finished / "before-1" / path.relative_to(finished): content for path, content in old.items()}
    assert [path.name for path in finished.glob("before-*")] == ["before-1"]


def test_a_run_in_progress_is_not_restarted(finished, capsys):
    before = contents(finished)
    with alone(finished / ".lock", "held"):
        assert cli.main(["train", f"run_dir={finished}", "restart=true"]) == 2
    assert "another process trains in" in capsys.readouterr().err
    assert contents(finished) == before


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["restart=maybe"], "restart must be true or false, got maybe"),
        (["restart="], "restart must be true or false, got nothing"),
        (["restart=true", "objective=byol"], "objective: curl -> byol"),
        (["restart=true", "device=cuda:99"], "use device=cpu"),
        (["restart=true", "budget_frames=1,2"], "one run takes one value"),
    ],
    ids=["word", "nothing", "choice", "device", "sweep"],
)
def test_a_restart_that_cannot_begin_leaves_everything(finished, capsys, words, message):
    before = contents(finished)
    assert cli.main(["train", f"run_dir={finished}", *words]) == 2
    assert message in capsys.readouterr().err
    assert contents(finished) == before


def test_restart_false_is_no_restart(finished, capsys):
    before = contents(finished)
    assert cli.main(["train", f"run_dir={finished}", "restart=false"]) == 0
    assert capsys.readouterr().err == f"{finished} is finished: 100 frames\n"
    assert contents(finished) == before


def test_a_folder_named_so_elsewhere_is_a_run_as_any(first, tmp_path):
    shutil.copytree(first, tmp_path / "before-1")
    assert [run.path for run in find_runs([tmp_path])] == [tmp_path / "before-1"]


def test_a_checkpoint_beside_the_configuration_of_before_is_refused(longer, first, tmp_path):
    mixed = shutil.copytree(longer, tmp_path / "run")
    shutil.copy(first / "config.json", mixed / "config.json")
    with pytest.raises(ConfigError, match=r"checkpoints of another configuration:\n  budget_frames: 200 -> 100\n"):
        evaluate_run(mixed, 1, None, seed=0, device="cpu")
    assert Checkpoints(mixed / "checkpoints").load() is not None
