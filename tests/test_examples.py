"""The programs of examples/, each run as a user runs it, in an empty folder."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from places import ROOT

EXAMPLES = {
    "train.py": r"(frame \d+: mean return -?\d+\.\d\d over 20 episodes\n){3}",
    "own_objective.py": r"(update \d+: error of the action \d\.\d{3}\n){3,}",
    "own_encoder.py": "",
    "encoder_into_sb3.py": r"learned on 50 features\n",
    "encoder_into_cleanrl.py": r"learned from \d\d episodes, mean return 0\.\d\d",
    "simclr_v2.py": r"teacher: accuracy 0\.[5-9].*\nstudent: accuracy 0\.[5-9]",
}


def test_every_example_is_run_and_listed():
    found = {path.name for path in (ROOT / "examples").glob("*.py")}
    assert found == set(EXAMPLES)
    assert found == set(re.findall(r"\]\((\w+\.py)\)", (ROOT / "examples" / "README.md").read_text()))


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_runs(name: str, tmp_path: Path):
    if "sb3" in name:
        pytest.importorskip("stable_baselines3")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, ROOT / "examples" / name]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert re.search(EXAMPLES[name], done.stdout), done.stdout
    (run_dir,) = (tmp_path / "runs").iterdir()
    table = "clf_s/training/train.csv" if name == "simclr_v2.py" else "eval.csv"
    assert (run_dir / table).read_text().count("\n") > 1
