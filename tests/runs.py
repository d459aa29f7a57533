"""Runs started, watched, killed and compared: what the tests of whole runs share."""

import csv
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from curl_rl.config.schema import Config
from curl_rl.run.checkpoint import Checkpoints
from curl_rl.run.trainer import Trainer, train

# A run of seconds. Checkpoints fall in mid-episode (episodes take 20 steps), evaluations at neither.
SMALL = (
    "task=toy/reach",
    "budget_frames=330",
    "random_steps=40",
    "batch_size=8",
    "augmentation=crop",
    "augmentation.size=24",
    "agent.hidden_dim=16",
    "encoder.filters=4",
    "encoder.feature_dim=8",
    "evaluation.every_frames=110",
    "evaluation.episodes=2",
    "checkpoint.every_frames=50",
    "log.every_updates=30",
)


def rows(run_dir: Path) -> list[tuple[str, ...]]:
    """eval.csv without its clock on the wall."""
    with (run_dir / "eval.csv").open() as file:
        return [tuple(value for key, value in row.items() if key != "seconds") for row in csv.DictReader(file)]


def metrics(run_dir: Path) -> list[tuple[str, ...]]:
    """train.csv without the values of its clock on the wall."""
    with (run_dir / "train.csv").open() as file:
        return [tuple(row) if row[3] != "frames_per_second" else tuple(row[:4]) for row in csv.reader(file)]


def scalars(run_dir: Path) -> dict[str, list[tuple[int, float]]]:
    """What TensorBoard shows, as (agent step, value) of each name, without the values of its clock on the wall."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(run_dir / "tensorboard"), size_guidance={"scalars": 0}).Reload()
    return {
        tag: [(event.step, 0.0 if tag == "frames_per_second" else event.value) for event in found.Scalars(tag)]
        for tag in found.Tags()["scalars"]
    }


def state(run_dir: Path) -> dict:
    found = Checkpoints(run_dir / "checkpoints").load()
    assert found is not None
    return found


def assert_same(a, b, path: str = "state") -> None:
    """Compare nested states bit for bit, but for the seconds that passed and what was logged of them."""
    assert type(a) is type(b), path
    if isinstance(a, dict):
        assert a.keys() == b.keys(), path
        for key in a.keys() - {"seconds", "log"}:
            assert_same(a[key], b[key], f"{path}.{key}")
    elif isinstance(a, list | tuple):
        assert len(a) == len(b), path
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            assert_same(x, y, f"{path}[{i}]")
    elif isinstance(a, torch.Tensor):
        assert torch.equal(a, b), path
    else:
        assert a == b, path


@contextmanager
def dying_at(moment: str) -> Iterator[None]:
    """Interrupt what trains at one of the things that it does before its loop."""

    def die(*_, **__):
        raise KeyboardInterrupt

    place = {"_kept": "curl_rl.run.logger", "start": "curl_rl.run.rollout.Rollout"}
    place["save"] = "curl_rl.run.checkpoint.Checkpoints"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(f"{place.get(moment, 'curl_rl.run.trainer')}.{moment}", die)
        yield


def start(run_dir: Path, *overrides: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "curl_rl", "train", *overrides, f"run_dir={run_dir}"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def wait_for(condition, process: subprocess.Popen, seconds: float = 120.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition() and process.poll() is None:
        assert time.monotonic() < deadline, "nothing happened"
        time.sleep(0.01)


def assert_goes_on_to(finished: Path, run_dir: Path, *overrides: str) -> None:
    """Resume a run in a process of its own, and check that it ends as an uninterrupted one did."""
    process = start(run_dir, *overrides)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output
    assert "bit for bit" not in output
    assert_equals(run_dir, finished)


def assert_equals(run_dir: Path, finished: Path) -> None:
    """Compare all that two runs left, but for what tells of time and place."""
    assert rows(run_dir) == rows(finished)
    assert metrics(run_dir) == metrics(finished)
    assert scalars(run_dir) == scalars(finished)
    assert_same(state(run_dir), state(finished))


def kill_at(frame: int, config: Config) -> None:
    """Train in this process until a frame, and die there as a killed process does: without another checkpoint."""
    step = Trainer._step

    def die(self: Trainer) -> None:
        if self.clock.frame >= frame:
            raise KeyboardInterrupt
        step(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "_step", die)
        with pytest.raises(KeyboardInterrupt):
            train(config)


def manifests(run_dir: Path) -> set[str]:
    return {path.name for path in (run_dir / "checkpoints").glob("manifest-*")}
