"""A resume goes on exactly or is refused in words: nothing that was measured is truncated, doubled or mixed."""

import json
import os
import shutil
import signal
import threading
from pathlib import Path

import pytest
import runs
from runs import assert_equals, dying_at, kill_at, manifests, rows, state

from curl_rl import cli
from curl_rl.config.overrides import compose
from curl_rl.config.schema import Config
from curl_rl.run import stored, trainer
from curl_rl.run.checkpoint import Checkpoints
from curl_rl.run.playing import evaluate_run
from curl_rl.types import ConfigError

SMALL = (
    *runs.SMALL,
    "device=cpu",
    "threads=1",
    "env.overlap=false",
    "budget_frames=150",
    "evaluation.every_frames=60",
    "log.every_updates=1",
)
TINY = (*SMALL, "budget_frames=44", "evaluation.every_frames=44", "evaluation.episodes=1")


def small(run_dir: Path, *more: str) -> Config:
    return compose([*SMALL, f"run_dir={run_dir}", *more])


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    run_dir = tmp_path_factory.mktemp("whole") / "run"
    assert trainer.train(small(run_dir)) == 0
    return run_dir


@pytest.fixture(scope="module")
def dead(tmp_path_factory) -> Path:
    """A run that was killed at frame 120, after a checkpoint at 100."""
    run_dir = tmp_path_factory.mktemp("dead") / "run"
    kill_at(120, small(run_dir))
    return run_dir


@pytest.fixture
def killed(dead, tmp_path) -> Path:
    return shutil.copytree(dead, tmp_path / "run")


@pytest.fixture
def finished(whole, tmp_path) -> Path:
    return shutil.copytree(whole, tmp_path / "run")


def contents(run_dir: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in run_dir.rglob("*") if path.is_file()}


def test_a_row_logged_at_the_step_of_the_checkpoint_is_not_doubled(whole, killed):
    assert trainer.train(small(killed)) == 0
    assert_equals(killed, whole)


def test_a_run_killed_before_its_first_step_ended_goes_on(whole, tmp_path):
    kill_at(0, small(tmp_path))
    assert manifests(tmp_path) == {"manifest-000000000000.json"}
    assert trainer.train(small(tmp_path)) == 0
    assert_equals(tmp_path, whole)


@pytest.mark.parametrize(
    "deleted", [(), ("checkpoints",), ("checkpoints", "train.csv", "tensorboard", "metadata.json", ".lock")]
)
def test_a_finished_run_is_finished_by_its_results_and_stays_as_it_is(finished, capsys, deleted):
    for name in deleted:
        path = finished / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    before = contents(finished)
    for overrides in ([*SMALL], []):
        assert cli.main(["train", *overrides, f"run_dir={finished}"]) == 0
        assert capsys.readouterr().err == f"{finished} is finished: 150 frames\n"
    assert cli.main(["train", *SMALL, "batch_size=16", f"run_dir={finished}"]) == 2
    assert "left as it is (batch_size 8 -> 16): give a budget_frames above 150\n" in capsys.readouterr().err
    assert contents(finished) == before


def test_results_without_checkpoints_are_never_truncated(killed, capsys):
    shutil.rmtree(killed / "checkpoints")
    before = contents(killed)
    for lost in ("", "config.json"):
        if lost:
            del before[killed / lost]
            (killed / lost).unlink()
        assert cli.main(["train", *SMALL, f"run_dir={killed}"]) == 2
        told = capsys.readouterr().err
        assert "holds results, and no checkpoint goes on from them: restore checkpoints/ from a copy, or give" in told
        assert contents(killed) == before


def test_evaluation_without_checkpoints_gives_a_command_that_trains_anew_elsewhere(finished, whole, capsys):
    shutil.rmtree(finished / "checkpoints")
    before = contents(finished)
    with pytest.raises(ConfigError, match="were deleted, only its results are left: restore") as error:
        evaluate_run(finished, 1, None, seed=0, device="cpu")
    command = str(error.value).rpartition("another place: ")[2]
    again = Path(f"{finished}-again")
    assert command == f"mkdir {again} && cp {finished}/config.json {again}/ && curl-rl train run_dir={again}"
    again.mkdir()
    shutil.copy(finished / "config.json", again)
    assert cli.main(["train", f"run_dir={again}"]) == 0
    assert_equals(again, whole)
    assert contents(finished) == before


def test_evaluation_of_a_run_that_has_not_begun_says_how_to_train(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(small(tmp_path).to_dict()))
    with pytest.raises(ConfigError, match=rf"no checkpoint yet: train it with `curl-rl train run_dir={tmp_path}`"):
        evaluate_run(tmp_path, 1, None, seed=0, device="cpu")


@pytest.mark.parametrize("override", ["agent.learning_rate=0.5", "seed=2"])
def test_a_checkpoint_knows_its_configuration_without_the_file(killed, override):
    (killed / "config.json").unlink()
    before = contents(killed)
    key, _, value = override.partition("=")
    with pytest.raises(ConfigError, match=rf"checkpoints of another configuration:\n  {key}: .* -> {value}\nput the"):
        trainer.train(small(killed, override))
    assert contents(killed) == before
    assert trainer.train(small(killed)) == 0
    assert json.loads((killed / "config.json").read_text())["seed"] == 1


def test_a_checkpoint_of_another_run_is_refused_with_what_differs(killed, tmp_path):
    other = tmp_path / "other"
    kill_at(60, small(other, "seed=7", "batch_size=4"))
    shutil.rmtree(killed / "checkpoints")
    shutil.copytree(other / "checkpoints", killed / "checkpoints")
    before = contents(killed)
    differ = r"\n  seed: 7 -> 1\n  batch_size: 4 -> 8\n"
    with pytest.raises(ConfigError, match=differ):
        trainer.train(small(killed))
    with pytest.raises(ConfigError, match=differ):
        evaluate_run(killed, 1, None, seed=0, device="cpu")
    assert contents(killed) == before


def test_an_environment_that_measures_something_else_is_refused(killed, monkeypatch):
    monkeypatch.setattr(stored, "make_protocol", lambda _: {"hash": "changed"})
    with pytest.raises(ConfigError, match=r"protocol: .* -> changed"):
        trainer.train(small(killed))


@pytest.mark.parametrize("name", ["eval.csv", "train.csv"])
@pytest.mark.parametrize("lost", ["all", "a row"])
def test_lost_rows_are_noticed(killed, name, lost):
    table = killed / name
    lines = table.read_text().splitlines(keepends=True)
    table.unlink() if lost == "all" else table.write_text("".join([lines[0], *lines[2:]]))
    before = contents(killed)
    with pytest.raises(ConfigError, match=rf"{name} is not the table .*: restore it from a copy"):
        trainer.train(small(killed))
    assert contents(killed) == before


def test_a_file_lost_during_a_run_is_written_anew(whole, tmp_path, monkeypatch, capsys):
    save = Checkpoints.save

    def lose(self, step, *arguments):
        if step == 100:
            min((tmp_path / "checkpoints").glob("journal-*")).unlink()
        save(self, step, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "save", lose)
        kill_at(120, small(tmp_path))
    assert "has lost journal-000000000000" in capsys.readouterr().err
    assert trainer.train(small(tmp_path)) == 0
    assert_equals(tmp_path, whole)


def test_every_checkpoint_is_written_once(tmp_path, monkeypatch):
    steps, save = [], Checkpoints.save

    def count(self, step, *arguments):
        steps.append(step)
        save(self, step, *arguments)

    monkeypatch.setattr(Checkpoints, "save", count)
    assert trainer.train(small(tmp_path)) == 0
    assert steps == [0, 50, 100, 150]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_in_the_last_save_does_not_undo_the_end(whole, tmp_path, monkeypatch, number):
    save = Checkpoints.save

    def interrupted(self, step, *arguments):
        if step == 150:
            os.kill(os.getpid(), number)
        save(self, step, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "save", interrupted)
        assert trainer.train(small(tmp_path)) == 128 + number  # in the evaluation that follows
    assert state(tmp_path)["clock"][0] == 150
    assert trainer.train(small(tmp_path)) == 0
    assert_equals(tmp_path, whole)


@pytest.mark.parametrize("moment", ["_kept", "write_metadata", "save_config", "start", "save"])
def test_a_kill_before_the_loop_leaves_what_the_same_command_starts(tmp_path, moment):
    with dying_at(moment):
        assert cli.main(["train", *TINY, f"run_dir={tmp_path}"]) == 130
    assert cli.main(["train", *TINY, f"run_dir={tmp_path}"]) == 0
    assert len(rows(tmp_path)) == 1


@pytest.mark.parametrize("name", [".lock", "eval.csv", "train.csv", "tensorboard", "checkpoints", "config.json"])
def test_what_stands_in_a_runs_way_is_named_with_the_mend(tmp_path, capsys, name):
    path = tmp_path / name
    path.write_text("mine") if "." not in name else path.mkdir()
    assert cli.main(["train", *TINY, f"run_dir={tmp_path}"]) in (1, 2)
    told = capsys.readouterr().err.splitlines()[-1]
    assert str(path) in told
    assert "Errno" not in told
    assert "move " in told or "readable directory" in told
    assert path.is_dir() or path.read_text() == "mine"


@pytest.mark.parametrize("name", ["config", "metadata", "eval.csv", "train.csv", "events", "state", "manifest"])
def test_a_full_disk_is_named_with_the_mend_whatever_is_written(tmp_path, capsys, monkeypatch, name):
    sync = os.fsync

    def full(descriptor: int) -> None:
        if name in os.readlink(f"/proc/self/fd/{descriptor}").rpartition("/")[2]:
            raise OSError(28, "No space left on device")
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    assert cli.main(["train", *TINY, f"run_dir={tmp_path}"]) == 1
    told = capsys.readouterr().err.splitlines()[-1]
    assert str(tmp_path) in told
    assert "No space left on device" in told
    assert "free space" in told
    monkeypatch.undo()
    assert cli.main(["train", *TINY, f"run_dir={tmp_path}"]) == 0


def test_training_in_a_thread_works(whole, tmp_path):
    statuses = []
    thread = threading.Thread(target=lambda: statuses.append(trainer.train(small(tmp_path))))
    thread.start()
    thread.join()
    assert statuses == [0]
    assert_equals(tmp_path, whole)


def test_a_finished_run_without_its_configuration_gets_it_back_and_keeps_its_rows(whole, tmp_path, capsys):
    run_dir = shutil.copytree(whole, tmp_path / "run")
    (run_dir / "config.json").unlink()
    before = (run_dir / "eval.csv").read_bytes(), (run_dir / "train.csv").read_bytes()
    assert trainer.train(small(run_dir)) == 0
    assert "is finished" in capsys.readouterr().err
    assert ((run_dir / "eval.csv").read_bytes(), (run_dir / "train.csv").read_bytes()) == before
    assert (run_dir / "config.json").is_file()
    (run_dir / "config.json").unlink()
    with pytest.raises(ConfigError, match=r"seed: 1 -> 2"):
        trainer.train(small(run_dir, "seed=2"))
    assert not (run_dir / "config.json").exists()


@pytest.mark.parametrize("lost", ["eval.csv", "train.csv", "config.json"])
def test_what_is_deleted_during_a_run_is_there_at_its_end(whole, tmp_path, monkeypatch, lost):
    run_dir, saves = tmp_path / "run", trainer.Trainer._save

    def delete_first(self):
        if self.clock.frame >= 100:
            (run_dir / lost).unlink(missing_ok=True)
        saves(self)

    monkeypatch.setattr(trainer.Trainer, "_save", delete_first)
    assert trainer.train(small(run_dir)) == 0
    assert_equals(whole, run_dir)
    assert (run_dir / "config.json").is_file()


def of_before(run_dir: Path, *, plain: bool) -> None:
    """Make of a run what the version before would have left: its keys, and checkpoints of its format."""
    path = run_dir / "config.json"
    settings = json.loads(path.read_text())
    augmentation = settings.pop("augmentation")
    settings["replay"]["n_step"] = settings["agent"].pop("n_step")
    settings["agent"]["augmentations"] = settings["agent"].pop("averaging")
    settings["agent"] |= {"augmentation": augmentation["name"], "crop_size": augmentation["size"]}
    if plain:
        settings["augmentation"] = augmentation["name"]
    path.write_text(json.dumps(settings))
    for path in (run_dir / "checkpoints").glob("manifest-*"):
        path.write_text(json.dumps({**json.loads(path.read_text()), "format": 2}))


@pytest.mark.parametrize("plain", [False, True])
@pytest.mark.parametrize("command", ["train", "train as before", "evaluate", "export"])
def test_a_run_of_the_version_before_is_refused_in_one_line_with_what_to_do(killed, capsys, command, plain):
    of_before(killed, plain=plain)
    before = contents(killed)
    given = {
        "train": ["train", f"run_dir={killed}"],
        "train as before": ["train", *SMALL, f"run_dir={killed}"],
        "evaluate": ["evaluate", str(killed)],
        "export": ["export", str(killed), "--out", str(killed.parent / "out")],
    }
    assert cli.main(given[command]) in (1, 2)
    (told,) = capsys.readouterr().err.splitlines()
    assert "use the version of curl-rl that wrote it, whose commit metadata.json names, " in told
    fault = 'augmentation is "crop", no group of settings' if plain else "it has no augmentation"
    assert f"{killed}/config.json cannot be read ({fault}" in told
    assert told.endswith(f"or move {killed} away")
    assert contents(killed) == before
    assert not (killed.parent / "out").exists()


def test_checkpoints_of_the_version_before_are_refused_beside_a_configuration_of_now(killed, capsys):
    settings = (killed / "config.json").read_text()
    of_before(killed, plain=False)
    (killed / "config.json").write_text(settings)
    export = ["export", str(killed), "--out", str(killed.parent / "out")]
    for command in (["train", f"run_dir={killed}"], ["evaluate", str(killed)], export):
        before = contents(killed)
        assert cli.main(command) == 1
        told = capsys.readouterr().err.splitlines()[-1]
        assert "checkpoint 100 is not usable (has format 2, written by curl-rl" in told
        assert told.endswith("whose commit metadata.json names, or start a new run in another run_dir")
        assert contents(killed) == before
