"""The programs of examples/, each run as a user runs it, in an empty folder."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from places import ROOT

from curl_rl.config.overrides import compose
from curl_rl.run.recording import record

EXAMPLES = {
    "train.py": r"(frame \d+: mean return -?\d+\.\d\d over 20 episodes\n){3}",
    "own_objective.py": r"(update \d+: error of the action \d\.\d{3}\n){3,}",
    "own_encoder.py": "",
    "search_optuna.py": r"best of 3: trial [012], \{'agent.learning_rate': 0\.\d+\}, mean return \d+\.\d\d",
    "encoder_into_sb3.py": r"learned on 50 features\n",
    "encoder_into_cleanrl.py": r"learned from \d\d episodes, mean return 0\.\d\d",
    "simclr_v2.py": r"teacher: accuracy 0\.[5-9].*\nstudent: accuracy 0\.[5-9]",
}
_PATH = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))


def test_every_example_is_run_and_listed():
    found = {path.name for path in (ROOT / "examples").glob("*.py")}
    assert found == {*EXAMPLES, "minari_dataset.py"}
    assert found == set(re.findall(r"\]\((\w+\.py)\)", (ROOT / "examples" / "README.md").read_text()))


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_runs(name: str, tmp_path: Path):
    needed = {"encoder_into_sb3.py": "stable_baselines3", "search_optuna.py": "optuna"}
    if name in needed:
        pytest.importorskip(needed[name])
    environment = {**os.environ, "PYTHONPATH": _PATH}
    command = [sys.executable, ROOT / "examples" / name]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert re.search(EXAMPLES[name], done.stdout), done.stdout
    if name == "search_optuna.py":
        assert len(list((tmp_path / "runs" / "optuna").glob("240-frames/trial*/eval.csv"))) == 3
        return
    (run_dir,) = (tmp_path / "runs").iterdir()
    table = "clf_s/training/train.csv" if name == "simclr_v2.py" else "eval.csv"
    assert (run_dir / table).read_text().count("\n") > 1


def test_a_recording_becomes_a_minari_dataset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    minari = pytest.importorskip("minari")
    pytest.importorskip("h5py")
    record(compose(["task=toy/reach"]), tmp_path / "data.npz", episodes=3, workers=1)
    monkeypatch.setenv("PYTHONPATH", _PATH)
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "sets"))
    command = [sys.executable, ROOT / "examples" / "minari_dataset.py", "data.npz", "reach/random-v0"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.stdout == "reach/random-v0: 3 episodes, 60 steps\n", done.stderr
    episodes = [*minari.load_dataset("reach/random-v0").iterate_episodes()]
    with np.load(tmp_path / "data.npz") as file:
        for each, start in zip(episodes, (0, 21, 42), strict=True):
            steps = slice(start, start + 20)
            assert np.array_equal(each.observations, file["frames"][start : start + 21])
            assert np.array_equal(each.actions, file["actions"][steps])
            assert np.array_equal(each.rewards, file["rewards"][steps])
            assert each.truncations.tolist() == [False] * 19 + [True]
            assert not each.terminations.any()


def test_the_notebook_runs_and_holds_no_outputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    nbclient, nbformat = pytest.importorskip("nbclient"), pytest.importorskip("nbformat")
    pytest.importorskip("ipykernel")
    notebook = nbformat.read(ROOT / "examples" / "curl_rl.ipynb", as_version=4)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(cell.outputs == [] and cell.execution_count is None for cell in cells)
    monkeypatch.setenv("PYTHONPATH", _PATH)
    nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": tmp_path}}).execute()
    results = [
        output["data"]["text/plain"]
        for cell in cells
        for output in cell.outputs
        if output.output_type == "execute_result"
    ]
    assert results[0].count("(") == 3
    assert results[1].count("Episode(index=") == 3
    assert results[-1] == "torch.Size([1, 50])"
    assert (tmp_path / "enc" / "model.safetensors").exists()
