"""A run is played by its newest checkpoint, alike each time, and its film goes where it was told."""

from pathlib import Path

import pytest
import runs

from curl_rl import trainer
from curl_rl.overrides import compose
from curl_rl.playing import evaluate_run

SMALL = (*runs.SMALL, "device=cpu", "threads=1", "budget_frames=60", "evaluation.workers=2")


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    run_dir = tmp_path_factory.mktemp("finished") / "run"
    assert trainer.train(compose([*SMALL, f"run_dir={run_dir}"])) == 0
    return run_dir


def test_evaluation_of_a_run_is_reproducible_and_filmed(finished, tmp_path):
    video = tmp_path / "out.mp4"
    episodes = evaluate_run(finished, 4, video, seed=5, device="cpu")
    assert [episode.index for episode in episodes] == [0, 1, 2, 3]
    assert all(episode.length == 20 for episode in episodes)
    assert episodes == evaluate_run(finished, 4, None, seed=5, device="cpu")
    assert episodes != evaluate_run(finished, 4, None, seed=6, device="cpu")
    assert video.stat().st_size > 1000
