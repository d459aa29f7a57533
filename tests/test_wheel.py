"""The package as others install it: a wheel in an environment of its own, far from any checkout."""

import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest
from places import ROOT

TINY = ("budget_frames=60", "random_steps=40", "batch_size=8", "evaluation.every_frames=60", "evaluation.episodes=2")


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of an environment that has the wheel, and of the project's packages nothing else."""
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run([sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder], cwd=ROOT, check=True)
    (wheel,) = folder.glob("*.whl")
    place = folder / "environment"
    venv.create(place, with_pip=False)
    packages = sysconfig.get_path("purelib", vars={"base": str(place), "platbase": str(place)})
    # The dependencies as they are; a path named here is searched, but its own .pth files, the checkout's, are not read.
    Path(packages, "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    pip = [sys.executable, "-m", "pip", "--python", str(place), "install", "--quiet", "--no-deps", "--no-index"]
    subprocess.run([*pip, "--disable-pip-version-check", str(wheel)], check=True)
    return place


def run(installed: Path, folder: Path, *arguments: str) -> str:
    """Run the installed `curl-rl` in a folder and return what it printed."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    command = [installed / "bin" / "curl-rl", *arguments]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.mark.slow
def test_a_wheel_trains_evaluates_exports_reports_and_looks_at_the_machine(installed: Path, tmp_path: Path):
    where = "import curl_rl.envs; print(curl_rl.__file__, curl_rl.envs.__file__)"
    found = subprocess.check_output([installed / "bin" / "python", "-c", where], text=True, cwd=tmp_path)
    assert found.count(str(installed)) == 2
    assert "ready to train" in run(installed, tmp_path, "doctor")
    run(installed, tmp_path, "train", "task=toy/reach", *TINY, "run_dir=runs/reach/curl-seed1")
    assert "over 3 episodes" in run(installed, tmp_path, "evaluate", "runs/reach/curl-seed1", "--episodes", "3")
    run(installed, tmp_path, "export", "runs/reach/curl-seed1", "--out", "encoder")
    loads = "import curl_rl; print(curl_rl.load_encoder('encoder').feature_dim)"
    found = subprocess.check_output([installed / "bin" / "python", "-c", loads], text=True, cwd=tmp_path)
    assert found.strip().isdecimal()
    run(installed, tmp_path, "report", "runs", "--out", "report")
    assert "toy/reach" in (tmp_path / "report" / "index.html").read_text()
    jobs = run(installed, tmp_path, "benchmark", "dmc100k", "--seeds", "1", "--dry-run").splitlines()
    assert len(jobs) == 12
