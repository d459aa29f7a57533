"""The script that probes every objective, run small."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from places import ROOT

from curl_rl.nn.encoders import encoder_config, make_encoder
from curl_rl.representation.export import save_encoder
from curl_rl.run.measurements import read_rows
from curl_rl.run.records import read_run

SMALL = {
    "SEEDS": "1",
    "UPDATES": "3",
    "EPISODES": "6",
    "OBJECTIVES": "byol",
    "BUDGET": "budget_frames=60 random_steps=40 batch_size=8 evaluation.episodes=1",
    "SETTINGS": "batch_size=16",
}


@pytest.mark.slow
def test_it_goes_from_an_agent_to_a_table(tmp_path):
    program = tmp_path / "curl-rl"  # whichever Python runs this
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m curl_rl "$@"\n')
    program.chmod(0o755)
    place = {"OUT": str(tmp_path / "out"), "WORK": str(tmp_path / "work"), "PYTHONPATH": str(ROOT)}
    environment = {**os.environ, **SMALL, **place, "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}
    command = ["bash", str(ROOT / "scripts" / "reproduce_representation.sh"), "toy/reach"]
    subprocess.run(command, cwd=tmp_path, env=environment, check=True, capture_output=True)
    rows = read_rows(Path(place["OUT"]) / "toy_reach" / "probe.csv")
    assert {row["subject"].split()[0] for row in rows} == {"pixels", "untrained", "byol"}
    assert {row["probe"] for row in rows} == {"geometry", "ridge", "dense", "nearest_states", "same_episode"}
    assert {row["encoder"] for row in rows if row["subject"] == "byol"} == {"byol-seed1"}


@pytest.mark.slow
def test_agents_start_in_four_ways(tmp_path):
    for name, words in (("curl-rl", "-m curl_rl "), ("python", "")):
        (tmp_path / name).write_text(f'#!/bin/sh\nexec "{sys.executable}" {words}"$@"\n')
        (tmp_path / name).chmod(0o755)
    encoder = make_encoder(encoder_config("small"), (6, 28, 28))
    save_encoder(encoder, vars(encoder.config), (6, 28, 28), tmp_path / "enc-seed1")
    small = {"TASK": "toy/reach", "SEEDS": "1", "BUDGET": "budget_frames=60 random_steps=40 batch_size=8"}
    place = {"OUT": str(tmp_path / "out"), "WORK": str(tmp_path / "work"), "PYTHONPATH": str(ROOT)}
    environment = {**os.environ, **small, **place, "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}
    command = ["bash", str(ROOT / "scripts" / "reproduce_starts.sh"), str(tmp_path / "enc")]
    subprocess.run(command, cwd=tmp_path, env=environment, check=True, capture_output=True)
    runs = [read_run(path) for path in (tmp_path / "out" / "toy_reach").iterdir()]
    assert {(run.method, run.seed) for run in runs} == {
        (name, 1) for name in ("scratch", "frozen", "frozen_untrained", "finetuned")
    }
    assert all(run.finished for run in runs)
    assert (tmp_path / "work" / "report" / "index.html").is_file()
