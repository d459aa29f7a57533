"""Whoever is told of a run hears every row once, over a resume too, and cannot tear a step when it fails."""

import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from places import ROOT
from runs import SMALL

from curl_rl.config.overrides import compose
from curl_rl.run import trackers
from curl_rl.run.interrupts import StopRequest
from curl_rl.run.stored import configure
from curl_rl.run.trackers import Audience, open_audience
from curl_rl.run.trainer import train
from curl_rl.types import Clock, ConfigError


class Listener:
    def __init__(self, name: str, fails_at: int = -1):
        self.id, self.heard, self.closed = name, [], 0
        self._fails_at = fails_at

    def scalars(self, clock: Clock, values: Mapping[str, float]) -> None:
        if clock.agent_step == self._fails_at:
            raise OSError(f"{self.id} is gone")
        self.heard.append((clock.agent_step, dict(values)))

    def close(self) -> None:
        self.closed += 1


def test_an_exception_asks_for_a_stop_and_is_raised_at_the_end():
    first, second, stop = Listener("first", fails_at=2), Listener("second"), StopRequest()
    audience = Audience({"first": first, "second": second}, stop)
    assert not stop()
    for step in (1, 2, 3):
        audience.scalars(Clock(step), {"loss": 0.5})
    assert stop()
    assert stop.signal == 0
    assert (first.heard, second.heard) == ([(1, {"loss": 0.5})], [(1, {"loss": 0.5})])
    with pytest.raises(OSError, match="first is gone"):
        audience.close()
    assert (first.closed, second.closed) == (1, 1)


def test_a_state_finds_each_again(monkeypatch):
    known: list[tuple[str, str]] = []
    for name in ("Wandb", "Mlflow"):

        def open_listener(config: Any, state: str, name: str = name) -> Listener:
            known.append((name, state))
            return Listener(state or f"new {name}")

        monkeypatch.setattr(trackers, name, open_listener)
    config = compose([*SMALL, "log.wandb=true", "log.mlflow=true"])
    state = open_audience(config, {}, callback=print).state_dict()
    assert state == {"wandb": "new Wandb", "mlflow": "new Mlflow"}
    assert open_audience(config, state).state_dict() == state
    assert known == [("Wandb", ""), ("Mlflow", ""), ("Wandb", "new Wandb"), ("Mlflow", "new Mlflow")]
    assert open_audience(compose(SMALL), {}).state_dict() == {}


def test_a_finished_run_that_goes_on_stays_the_same_run_to_them(tmp_path, monkeypatch):
    known = list[str]()

    def open_listener(config: Any, state: str) -> Listener:
        known.append(state)
        return Listener(state or "new")

    monkeypatch.setattr(trackers, "Wandb", open_listener)
    words = [*SMALL, "budget_frames=110", "device=cpu", "threads=1", "env.overlap=false", "evaluation.workers=1"]
    assert train(configure([*words, "log.wandb=true", f"run_dir={tmp_path}"])) == 0
    assert train(configure([f"run_dir={tmp_path}", "budget_frames=150"])) == 0
    assert known == ["", "new"]


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_a_service_that_is_not_installed_is_named_with_its_extra(name, monkeypatch):
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ConfigError, match=rf"log\.{name}=true needs {name} .*: pip install 'curl-rl\[{name}\]'"):
        open_audience(compose([*SMALL, f"log.{name}=true"]), {})


TWICE = """
import curl_rl

class Stop(Exception): pass

def stop(clock, metrics):
    if clock.agent_step >= 60:
        raise Stop

def go(**more):
    return curl_rl.train(run_dir="run", progress=False, **dict(word.split("=") for word in {words!r}), **more)

try:
    go(callback=stop)
except Stop:
    go()
"""


def train_twice(folder: Path, service: str, **variables: str) -> None:
    """Train with a service in a process of its own, stopped once and gone on with."""
    words = [*SMALL, "budget_frames=120", "evaluation.every_frames=60", "env.overlap=false", f"log.{service}=true"]
    code = textwrap.dedent(TWICE).format(words=list(dict(word.split("=") for word in words).items()))
    code = code.replace('dict(word.split("=") for word in ', "dict(")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    command = [sys.executable, "-c", code]
    done = subprocess.run(
        command, cwd=folder, env=environment | variables, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr


def test_mlflow_has_each_row_once_and_the_configuration(tmp_path):
    pytest.importorskip("mlflow")
    train_twice(tmp_path, "mlflow", MLFLOW_TRACKING_URI=(tmp_path / "store").as_uri(), MLFLOW_ALLOW_FILE_STORE="true")
    (run,) = [path.parent for path in (tmp_path / "store").rglob("params")]
    returns = [line.split() for line in (run / "metrics" / "eval" / "return").read_text().splitlines()]
    assert [int(step) for _, _, step in returns] == [60, 120]
    losses = [line.split() for line in (run / "metrics" / "critic_loss").read_text().splitlines()]
    assert [int(step) for _, _, step in losses] == [69, 99]
    assert (run / "params" / "agent.hidden_dim").read_text() == "16"


def test_wandb_writes_one_run_offline(tmp_path):
    pytest.importorskip("wandb")
    train_twice(tmp_path, "wandb", WANDB_MODE="offline", WANDB_SILENT="true")
    folders = sorted((tmp_path / "run" / "wandb").glob("offline-run-*"))
    assert len(folders) == 2  # starts
    assert len({path.name.rpartition("-")[2] for path in folders}) == 1  # of one run
    assert all(list(path.glob("*.wandb")) for path in folders)
    assert json.loads((tmp_path / "run" / "config.json").read_text())["log"]["wandb"] is True
