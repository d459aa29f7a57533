"""A sweep under Hydra's submitit launcher: every job trains in a process and a run directory of its own."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from runs import SMALL, rows, state

ROOT = Path(__file__).resolve().parent.parent
OVERRIDES = (
    *SMALL,
    "device=cpu",
    "threads=1",
    "evaluation.workers=1",
    "budget_frames=120",
    "evaluation.every_frames=60",
)


def sweep(cwd: Path, *overrides: str) -> subprocess.CompletedProcess[str]:
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    script = str(ROOT / "scripts" / "train.py")
    command = [sys.executable, script, "--multirun", "hydra/launcher=submitit_local", *OVERRIDES, *overrides]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=180, check=False)


@pytest.mark.slow
def test_a_sweep_trains_every_seed_where_a_single_run_would(tmp_path):
    (tmp_path / "envs").mkdir()  # another's, which no job may take for ours
    (tmp_path / "envs" / "__init__.py").write_text("raise RuntimeError('not ours')")
    done = sweep(tmp_path, "seed=1,2")
    assert done.returncode == 0, done.stderr
    runs = [tmp_path / "runs" / "toy_reach" / f"quick-curl-seed{seed}" for seed in (1, 2)]
    for seed, run_dir in zip((1, 2), runs, strict=True):
        assert json.loads((run_dir / "config.json").read_text())["seed"] == seed
        assert state(run_dir)["clock"][0] == 120
        assert [row[0] for row in rows(run_dir)] == ["60", "60", "120", "120"]
    assert rows(runs[0]) != rows(runs[1])
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == ["multirun", "toy_reach"]


@pytest.mark.slow
def test_a_run_dir_is_composed_for_each_job_and_a_failure_is_told(tmp_path):
    (tmp_path / "far" / "seed2").mkdir(parents=True)
    (tmp_path / "far" / "seed2" / "config.json").mkdir()
    done = sweep(tmp_path, "seed=1,2", f"run_dir={tmp_path}/far/seed${{seed}}")
    assert done.returncode == 1
    assert f"{tmp_path}/far/seed2/config.json cannot be read (it is a folder" in done.stderr
    assert state(tmp_path / "far" / "seed1")["clock"][0] == 120
    assert not (tmp_path / "far" / "seed2" / "eval.csv").exists() or rows(tmp_path / "far" / "seed2") == []
