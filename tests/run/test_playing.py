"""A run is played by its newest checkpoint, alike each time, and its film goes where it was told."""

from pathlib import Path

import pytest
import runs
from PIL import Image, ImageSequence

from curl_rl.config.overrides import compose
from curl_rl.run import trainer
from curl_rl.run.files import WriteError
from curl_rl.run.playing import evaluate_run
from curl_rl.types import ConfigError

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
