"""The package as others install it: wheel and source distribution, and a wheel far from any checkout."""

import os
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest
import torch
from places import ROOT

TINY = ("budget_frames=60", "random_steps=40", "batch_size=8", "evaluation.every_frames=60", "evaluation.episodes=2")


def build(target: str, project: Path, folder: Path) -> Path:
    """Build a distribution of a project into a folder and return its file."""
    before = set(folder.glob("*"))
    command = [sys.executable, "-m", "hatchling", "build", "-t", target, "-d", folder]
    done = subprocess.run(command, cwd=project, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (built,) = set(folder.glob("*")) - before
    return built


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build("wheel", ROOT, tmp_path_factory.mktemp("wheel"))


def test_the_wheel_is_the_package_with_its_environments_and_presets(wheel: Path):
    names = set(zipfile.ZipFile(wheel).namelist())
    presets = {f"curl_rl/configs/{path.relative_to(ROOT / 'configs')}" for path in (ROOT / "configs").rglob("*.yaml")}
    modules = {str(path.relative_to(ROOT)) for path in (ROOT / "curl_rl").rglob("*.py")}
    environments = {f"curl_rl/{path.relative_to(ROOT)}" for path in (ROOT / "envs").rglob("*.py")}
    assert len(presets) > 5
    assert len(environments) > 5
    assert presets | modules | environments | {"curl_rl/py.typed"} <= names
    assert {name.partition("/")[0].partition("-")[0] for name in names} == {"curl_rl"}


def test_a_source_distribution_builds_the_same_wheel(wheel: Path, tmp_path: Path):
    packed = build("sdist", ROOT, tmp_path)
    with tarfile.open(packed) as archive:
        archive.extractall(tmp_path / "source", filter="data")
    (project,) = (tmp_path / "source").iterdir()
    again = build("wheel", project, tmp_path)
    assert zipfile.ZipFile(again).namelist() == zipfile.ZipFile(wheel).namelist()


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of an environment that has the wheel, and of the project's packages nothing else."""
    place = tmp_path_factory.mktemp("environment")
    venv.create(place, with_pip=False)
    packages = sysconfig.get_path("purelib", vars={"base": str(place), "platbase": str(place)})
    # The dependencies as they are; a path named here is searched, but its own .pth files, the checkout's, are not read.
    Path(packages, "dependencies.pth").write_text(str(Path(torch.__file__).parents[1]))
    pip = [sys.executable, "-m", "pip", "--python", str(place), "install", "--quiet", "--no-deps", "--no-index"]
    subprocess.run([*pip, "--disable-pip-version-check", str(wheel)], check=True)
    return place


def run(installed: Path, folder: Path, *arguments: str) -> str:
    """Run the installed package in a folder and return what it printed."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    command = [installed / "bin" / "python", *arguments]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.mark.slow
def test_a_wheel_trains_evaluates_exports_reports_and_looks_at_the_machine(installed: Path, tmp_path: Path):
    where = "import curl_rl.envs; print(curl_rl.__file__, curl_rl.envs.__file__)"
    assert run(installed, tmp_path, "-c", where).count(str(installed)) == 2
    # What many projects have in their folders.
    (tmp_path / "envs").mkdir()
    (tmp_path / "envs" / "__init__.py").write_text("raise RuntimeError('not ours')")

    def curl_rl(*arguments: str) -> str:
        return run(installed, tmp_path, "-m", "curl_rl", *arguments)

    script = subprocess.check_output([installed / "bin" / "curl-rl", "--version"], text=True, cwd=tmp_path)
    assert script == curl_rl("--version")
    assert "ready to train" in curl_rl("doctor")
    curl_rl("train", "task=toy/reach", *TINY, "env.overlap=true", "run_dir=runs/reach/curl-seed1")
    assert "over 3 episodes" in curl_rl("evaluate", "runs/reach/curl-seed1", "--episodes", "3")
    curl_rl("export", "runs/reach/curl-seed1", "--out", "encoder")
    loads = "import curl_rl; print(curl_rl.load_encoder('encoder').feature_dim)"
    assert run(installed, tmp_path, "-c", loads).strip().isdecimal()
    curl_rl("report", "runs", "--out", "report")
    assert "toy/reach" in (tmp_path / "report" / "index.html").read_text()
    assert len(curl_rl("benchmark", "dmc100k", "--seeds", "1", "--dry-run").splitlines()) == 12
