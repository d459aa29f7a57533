"""Sweeps, in one process and under Hydra's submitit launcher: every job trains in a run directory of its own."""

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from hydra.types import RunMode
from omegaconf import OmegaConf
from places import ROOT
from runs import SMALL, rows, state

from curl_rl.config.overrides import compose, hydra_arguments, hydra_job
from curl_rl.config.schema import to_node
from curl_rl.run.stored import configure, load_config

OVERRIDES = (
    *SMALL,
    "device=cpu",
    "threads=1",
    "evaluation.workers=1",
    "budget_frames=120",
    "evaluation.every_frames=60",
)


TWICE = """
import sys
import train
for _ in range(2):
    sys.argv[:] = {arguments!r}
    train.main()
"""


@pytest.mark.slow
def test_jobs_that_differ_in_any_setting_have_folders_of_their_own_and_commands_that_run(tmp_path, monkeypatch):
    fixed = [*OVERRIDES, "preset=quick"]
    swept = ["agent.learning_rate=1e-3,1e-4,3e-4", "seed=3"]
    code = TWICE.format(arguments=["train.py", "--multirun", *fixed, *swept])
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "scripts")])}
    command = [sys.executable, "-c", code]
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=180, check=False
    )
    assert done.returncode == 0, done.stderr
    names = [f"runs/toy_reach/quick-curl-seed3-agent.learning_rate_{rate}" for rate in ("0.001", "0.0001", "0.0003")]
    assert sorted(path.name for path in (tmp_path / "runs" / "toy_reach").iterdir()) == sorted(
        Path(n).name for n in names
    )
    monkeypatch.chdir(tmp_path)
    for name, rate in zip(names, (1e-3, 1e-4, 3e-4), strict=True):
        assert f"{name} is finished" in done.stderr  # the second time
        config = load_config(name)
        assert config.agent.learning_rate == rate
        (start,) = json.loads(Path(name, "metadata.json").read_text())["starts"]
        program, verb, *overrides = shlex.split(start["command"])
        assert (program, verb) == ("curl-rl", "train")
        assert configure(overrides) == config


def test_a_folder_is_named_for_what_is_swept_and_not_in_its_name_already():
    def excluded(*arguments: str) -> str:
        return next(text for text in hydra_arguments(arguments)[1] if "exclude_keys" in text)

    slurm = ("--multirun", "task=dmc/cartpole_swingup,dmc/cheetah_run", "objective=curl,none", "seed=1,2,3")
    for key in ("'task'", "'preset/dmc'", "'objective'", "'seed'", "'run_dir'", "'batch_size'"):
        assert key in excluded(*slurm, "batch_size=64")
    assert "'batch_size'" not in excluded(*slurm, "batch_size=64,128")
    assert not any("exclude_keys" in text for text in hydra_arguments(slurm[1:])[1])


def test_a_job_of_many_or_odd_settings_has_a_name_that_a_file_system_takes():
    launched = OmegaConf.create(
        {"mode": RunMode.MULTIRUN, "job": {"override_dirname": "a.b='x/y z'-c=[1,2]"}, "overrides": {"task": []}}
    )
    node = to_node(compose(["task=toy/reach"]).to_dict() | {"run_dir": ""})
    first, _ = hydra_job(node, launched)
    assert Path(first.run_dir).name == "quick-curl-seed1-a.b_x_y_z_-c_1_2"
    launched.job.override_dirname = "x" * 1000
    long, overrides = hydra_job(node, launched)
    assert len(Path(long.run_dir).name) < 255
    assert overrides == [f"run_dir={long.run_dir}"]
    launched.job.override_dirname = "x" * 1001
    assert hydra_job(node, launched)[0].run_dir != long.run_dir
    node.run_dir = "given = here"
    given, overrides = hydra_job(node, launched)
    assert (given.run_dir, overrides) == ("given = here", ["run_dir='given = here'"])


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
