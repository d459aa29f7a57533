"""Several processes train what one would have trained: every objective, queues and clusters, stops and resumes."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from processes import NAMES, main

from curl_rl.representation.processes import Processes, launched
from curl_rl.run.checkpoint import Checkpoints
from curl_rl.run.folder import read_folder
from curl_rl.types import ConfigError

UPDATES = 5
PROGRAM = Path(__file__).with_name("processes.py")


def start(out: Path, *words: str, count: int = 2) -> list[subprocess.Popen]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    place = {"WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    return [
        subprocess.Popen(
            [sys.executable, str(PROGRAM), str(out), *words],
            env={**os.environ, **place, "RANK": str(rank), "LOCAL_RANK": str(rank), "OMP_NUM_THREADS": "1"},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(count)
    ]


def finish(processes: list[subprocess.Popen]) -> list[str]:
    said = [process.communicate(timeout=500)[1] for process in processes]
    assert [process.returncode for process in processes] == [0] * len(processes), said
    return said


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    out = tmp_path_factory.mktemp("alone")
    assert main(out, UPDATES, NAMES) == 0
    return out


@pytest.fixture(scope="module")
def together(tmp_path_factory):
    out = tmp_path_factory.mktemp("together")
    said = finish(start(out, str(UPDATES)))
    assert "0/5 updates" in said[0]
    assert "updates" not in said[1]  # the second says nothing
    return out


def state_of(folder: Path) -> dict[str, torch.Tensor]:
    """Return every tensor of what a training's last checkpoint holds of its learner, by its place."""
    found = {}

    def walk(value, place):
        if isinstance(value, torch.Tensor):
            found[place] = value
        elif isinstance(value, dict):
            for key, inner in value.items():
                walk(inner, f"{place}.{key}")
        elif isinstance(value, list | tuple):
            for i, inner in enumerate(value):
                walk(inner, f"{place}.{i}")

    walk(Checkpoints(folder / "training" / "checkpoints").load()["trainer"]["learner"], "learner")
    return found


@pytest.mark.parametrize("name", NAMES)
def test_two_processes_train_what_one_does(alone, together, name):
    """Encoder, its average, heads, queues, clusters and draws."""
    one, two = state_of(alone / name), state_of(together / name)
    assert one.keys() == two.keys()
    for place, value in one.items():
        if value.is_floating_point():
            # What open_world stores is not of unit length, and batch norm magnifies what hardly differs.
            near = 1e-5 * (max(1.0, float(value.abs().max())) if name == "open_world" else 1)
            torch.testing.assert_close(two[place], value, rtol=0, atol=near, msg=f"{name} {place}")
        else:
            assert torch.equal(two[place], value), place
    first, second = (read_folder(out / name)[0] for out in (alone, together))
    of_weights = {"weights": "", "parts": {}}
    assert first | of_weights == second | of_weights


def test_a_number_of_processes_that_does_not_divide_the_batch_trains_alike(alone, tmp_path):
    finish(start(tmp_path, str(UPDATES), "byol", count=3))  # of 16 frames
    one, three = state_of(alone / "byol"), state_of(tmp_path / "byol")
    assert all(torch.allclose(three[place], value, rtol=0, atol=1e-5) for place, value in one.items())


def test_statistics_of_batch_norm_are_of_all_parts(tmp_path):
    """Each process normalises its own part; the running ones are averaged, so that they are alike everywhere."""
    finish(start(tmp_path, "4", "normalised"))
    assert main(tmp_path / "one", 4, ["normalised"]) == 0
    found, single = (read_folder(place / "normalised")[1] for place in (tmp_path, tmp_path / "one"))
    for name in ("net.1.running_mean", "net.1.running_var"):
        torch.testing.assert_close(found[name], single[name], rtol=0, atol=0.02)
    assert not torch.equal(found["net.0.weight"], single["net.0.weight"])  # documented: parts are normalised apart


def test_a_stop_in_one_stops_all_and_going_on_ends_alike(tmp_path):
    running = start(tmp_path / "cut", "60", "simclr")
    deadline = time.monotonic() + 300
    while not list((tmp_path / "cut" / "simclr" / "training" / "checkpoints").glob("manifest-*")):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    running[1].send_signal(signal.SIGTERM)
    said = [process.communicate(timeout=300)[1] for process in running]
    assert "stopped after" in said[0]
    assert running[1].returncode == 128 + signal.SIGTERM
    begun = json.loads((tmp_path / "cut" / "simclr" / "config.json").read_text())["updates"]
    assert 0 < begun < 60
    finish(start(tmp_path / "cut", "60", "simclr"))
    finish(start(tmp_path / "whole", "60", "simclr"))
    cut, whole = state_of(tmp_path / "cut" / "simclr"), state_of(tmp_path / "whole" / "simclr")
    assert all(torch.equal(cut[place], value) for place, value in whole.items())


def test_one_process_needs_no_launcher(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert type(launched("auto")) is Processes
    assert launched("cpu").any(True)
    assert not launched("cpu").any(False)


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setitem(sys.modules, "accelerate", None)
    with pytest.raises(ConfigError, match=r"pip install 'curl-rl\[accelerate\]'"):
        launched("cpu")
