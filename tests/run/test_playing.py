"""A run is played by its newest checkpoint, alike each time, and its film goes where it was told."""

import contextlib
from pathlib import Path

import pytest
import runs
from PIL import Image, ImageSequence

from curl_rl.config.overrides import compose
from curl_rl.run import judging, trainer
from curl_rl.run.checkpoint import Checkpoints
from curl_rl.run.files import WriteError
from curl_rl.run.playing import evaluate_run, load_played
from curl_rl.run.records import read_run
from curl_rl.run.stored import configure
from curl_rl.run.trainer import Trainer
from curl_rl.types import ConfigError, Episode

SMALL = (*runs.SMALL, "device=cpu", "threads=1", "budget_frames=60", "evaluation.workers=1")


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    run_dir = tmp_path_factory.mktemp("finished") / "run"
    assert trainer.train(compose([*SMALL, f"run_dir={run_dir}"])) == 0
    return run_dir


def test_evaluation_of_a_run_is_reproducible_and_filmed(finished, tmp_path):
    video = tmp_path / "new" / "folder" / "out.gif"
    episodes = evaluate_run(finished, 4, video, seed=5, device="cpu")
    assert [episode.index for episode in episodes] == [0, 1, 2, 3]
    assert all(episode.length == 20 for episode in episodes)
    assert episodes == evaluate_run(finished, 4, None, seed=5, device="cpu")
    assert episodes != evaluate_run(finished, 4, None, seed=6, device="cpu")
    with Image.open(video) as image:
        shown = [frame.info["duration"] for frame in ImageSequence.Iterator(image)]
    assert sum(shown) == 20 * 70  # a picture for each action; like neighbours are one


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("out.avi", ConfigError, r"ends in \.mp4 or \.gif"),
        ("folder.mp4", WriteError, "a folder is in the way"),
        ("link.mp4", WriteError, "a link is in the way"),
        ("file/out.mp4", WriteError, "file is a file, no folder"),
    ],
)
def test_a_film_that_cannot_be_is_refused_before_anything_is_loaded(tmp_path, name, error, message):
    (tmp_path / "folder.mp4").mkdir()
    (tmp_path / "link.mp4").symlink_to("/dev/full")
    (tmp_path / "file").touch()
    before = sorted(tmp_path.iterdir())
    with pytest.raises(error, match=message):
        evaluate_run(tmp_path / "no run", 2, tmp_path / name, seed=0, device="cpu")
    assert sorted(tmp_path.iterdir()) == before


def test_where_playing_fails_no_film_is_left(finished, tmp_path, monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("lost")

    monkeypatch.setattr("curl_rl.run.playing.evaluate", fail)
    with pytest.raises(RuntimeError, match="lost"):
        evaluate_run(finished, 2, tmp_path / "out.mp4", seed=0, device="cpu")
    assert list(tmp_path.iterdir()) == []


def kept(run_dir: Path, *more: str, score=lambda frame: -abs(frame - 110)) -> list[int]:
    """Train for 330 frames with evaluations at 110, 220 and 330 that give these scores; return the steps kept."""
    with pytest.MonkeyPatch.context() as patch:
        known = {}

        def scored(player, lanes, seeds, **_):
            known.setdefault(tuple(seeds), 110 * (len(known) + 1))
            return [Episode(index, float(score(known[tuple(seeds)])), 20) for index in range(len(seeds))]

        patch.setattr(judging, "evaluate", scored)
        words = [*runs.SMALL, "device=cpu", "threads=1", "evaluation.workers=1", f"run_dir={run_dir}", *more]
        assert trainer.train(configure(words)) == 0
    return Checkpoints(run_dir / "checkpoints").steps()


def test_what_is_kept_of_checkpoints_and_which_is_the_best(tmp_path):
    assert kept(tmp_path / "last") == [300, 330]
    assert kept(tmp_path / "best", "checkpoint.keep=best") == [110, 300, 330]
    assert kept(tmp_path / "all", "checkpoint.keep=all") == [0, 50, 100, 110, 150, 200, 250, 300, 330]
    # Where the last evaluation is the best, so is the last checkpoint, which was written before it.
    assert kept(tmp_path / "rising", "checkpoint.keep=best", score=lambda frame: frame) == [220, 300, 330]
    for name, best in (("best", 110), ("all", 110), ("rising", 330)):
        assert load_played(tmp_path / name, "best")[1]["clock"][0] == best
    assert load_played(tmp_path / "all", "50")[1]["clock"][0] == 50
    assert load_played(tmp_path / "best")[1]["clock"][0] == 330
    # Saves at other times change nothing, and what is reported is the last evaluation.
    runs.assert_same(runs.state(tmp_path / "last"), runs.state(tmp_path / "all"))
    assert runs.rows(tmp_path / "last") == runs.rows(tmp_path / "best")
    assert read_run(tmp_path / "best").score == -220


def test_the_best_checkpoint_plays_as_its_evaluation_did(tmp_path):
    kept(tmp_path / "best", "checkpoint.keep=best")
    assert kept(tmp_path / "cut", "budget_frames=110") == [100, 110]
    told = list[str]()
    episodes = evaluate_run(tmp_path / "best", 3, None, 5, "cpu", checkpoint="best", tell=told.append)
    assert told == [f"checkpoint 110 of {tmp_path / 'best'} (frame 110), the best one"]
    assert episodes == evaluate_run(tmp_path / "cut", 3, None, 5, "cpu")
    assert episodes != evaluate_run(tmp_path / "best", 3, None, 5, "cpu")


def test_a_run_that_is_stopped_keeps_its_best(tmp_path, monkeypatch):
    run_dir, step = tmp_path / "run", Trainer._step

    def stop_at_240(self):
        step(self)
        if self.clock.frame == 240:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, contextlib.suppress(KeyboardInterrupt):
        patch.setattr(Trainer, "_step", stop_at_240)
        kept(run_dir, "checkpoint.keep=best")
    assert Checkpoints(run_dir / "checkpoints").steps() == [110, 150, 200]
    assert kept(run_dir, "checkpoint.keep=best", score=lambda frame: -500) == [110, 300, 330]
    assert load_played(run_dir, "best")[1]["clock"][0] == 110


@pytest.mark.parametrize(
    ("checkpoint", "message"),
    [
        ("70", r"has no checkpoint 70; there are those of agent steps 50, 60: give one of them, or best"),
        ("worst", r"has no checkpoint worst; there are those of agent steps 50, 60"),
    ],
)
def test_a_checkpoint_that_is_not_there_is_refused(finished, checkpoint, message):
    with pytest.raises(ConfigError, match=message):
        evaluate_run(finished, 2, None, 0, "cpu", checkpoint=checkpoint)


def test_a_best_that_was_not_kept_is_refused(tmp_path):
    kept(tmp_path / "run")
    with pytest.raises(
        ConfigError, match=r"at agent step 110, of which no checkpoint was kept; there are .* 300, 330: train with"
    ):
        evaluate_run(tmp_path / "run", 2, None, 0, "cpu", checkpoint="best")


def test_another_task_of_the_suite_is_played_as_it_is(tmp_path):
    words = ["preset=state", "agent.hidden_dim=8", "random_steps=20", "evaluation.episodes=1", "evaluation.workers=1"]
    words += [
        "task=dmc/cartpole_swingup",
        "budget_frames=200",
        "device=cpu",
        "threads=1",
        f"run_dir={tmp_path / 'run'}",
    ]
    assert trainer.train(compose(words)) == 0
    told = list[str]()
    options = {"task": "dmc/cartpole_balance", "tell": told.append}
    (episode,) = evaluate_run(tmp_path / "run", 1, None, 0, "cpu", **options)
    assert told[0].endswith("the newest one, in dmc/cartpole_balance")
    assert episode.length == 125  # agent steps of 8 frames, as it was trained
    assert episode.score > 100  # the pole begins upright there, and hangs where the run was trained
    (own,) = evaluate_run(tmp_path / "run", 1, None, 0, "cpu")
    assert own.score < 100
    with pytest.raises(ConfigError, match="intensity=hard has no effect without a distraction: give --distraction too"):
        evaluate_run(tmp_path / "run", 1, None, 0, "cpu", intensity="hard")
    with pytest.raises(ConfigError, match=r"dmc/cartpole_swingup has frames Box.*\(5,\).*dmc/walker_walk Box.*\(24,\)"):
        evaluate_run(tmp_path / "run", 1, None, 0, "cpu", task="dmc/walker_walk")


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ("toy/grid", r"does not fit toy/grid: toy/reach has actions Box\(.*, toy/grid Discrete\(4\)"),
        ("dmc/walker_walk", "trained in toy/reach, and dmc/walker_walk is of another suite"),
        ("toy/reech", "unknown task 'toy/reech'; did you mean toy/reach"),
    ],
    ids=["actions", "suite", "unknown"],
)
def test_a_task_that_does_not_fit_is_refused(finished, task, message):
    with pytest.raises(ConfigError, match=message):
        evaluate_run(finished, 2, None, 0, "cpu", task=task)
