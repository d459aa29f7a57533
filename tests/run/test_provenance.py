"""Every start of a run, and every row of its results, says what it comes from."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from curl_rl.run import provenance
from curl_rl.run.files import WriteError
from curl_rl.run.provenance import make_origin, surroundings, write_metadata
from curl_rl.types import ConfigError, Origin


def test_metadata_lists_every_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "argv", ["/somewhere/curl-rl", "train", "task=dmc/cartpole_swingup", "name=a b"])
    write_metadata(tmp_path, surroundings() | {"seed": 3, "gl_renderer": "llvmpipe"})
    first = json.loads((tmp_path / "metadata.json").read_text())["starts"]
    write_metadata(tmp_path, surroundings() | {"seed": 3, "gl_renderer": "other"})
    starts = json.loads((tmp_path / "metadata.json").read_text())["starts"]
    assert starts[0] == first[0]
    assert [start["gl_renderer"] for start in starts] == ["llvmpipe", "other"]
    start = starts[0]
    assert start["command"] == "curl-rl train task=dmc/cartpole_swingup 'name=a b'"
    assert torch.__version__.startswith(start["versions"]["torch"])  # which may add its build
    assert start["versions"]["mujoco"] == "3.17.0"
    assert start["time"].endswith("+00:00")
    assert start["seed"] == 3
    assert start["cores"] >= 1
    assert start["cpu"]


def test_the_command_is_curl_rls_or_that_of_the_program_which_trains(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "orig_argv", ["python", "study.py", "a b"])
    for argv, command in (
        (["/x/curl_rl/__main__.py", "train", "seed=2"], "curl-rl train seed=2"),
        (["study.py", "a b"], "python study.py 'a b'"),
    ):
        monkeypatch.setattr(sys, "argv", argv)
        assert surroundings()["command"] == command


def test_metadata_that_is_not_ours_is_kept(tmp_path: Path):
    (tmp_path / "metadata.json").write_text("{}")
    with pytest.raises(ConfigError, match="move it away"):
        write_metadata(tmp_path, {})
    assert (tmp_path / "metadata.json").read_text() == "{}"


def test_metadata_that_cannot_be_written_names_the_mend(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(WriteError, match="move away what stands in its place"):
        write_metadata(tmp_path / "file" / "run", {})


def test_an_origin_is_cells_of_a_table():
    start = {
        "python": "3.11.7",
        "versions": {"torch": "2.13.0+cpu", "mujoco": None},
        "cores": 2,
        "cpu": "Fast CPU, 3 GHz",
        "gpus": ["A", "B"],
        "git": {"commit": "0123456789abcdef", "dirty": True},
    }
    assert make_origin(start, "cafe", 100_000) == Origin(
        protocol="cafe",
        budget="100000 frames",
        commit="0123456789ab+",
        versions="python=3.11.7 torch=2.13.0+cpu",
        hardware="2 x Fast CPU  3 GHz; A; B",
    )
    assert make_origin(start | {"git": None}, "cafe", 1).commit == ""


def test_git_state_of_a_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    assert provenance._git_state(tmp_path) is None
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run([*git, "init", "-q"], check=True)
    assert provenance._git_state(tmp_path) == {"commit": "unknown", "dirty": False}  # no commit yet
    source = tmp_path / "curl_rl" / "file"
    source.parent.mkdir()
    source.write_text("one")
    subprocess.run([*git, "add", "."], check=True)
    subprocess.run([*git, "commit", "-q", "-m", "first"], check=True)
    commit = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "eval.csv").write_text("not source")
    assert provenance._git_state(tmp_path) == {"commit": commit, "dirty": False}
    source.write_text("two")
    assert provenance._git_state(tmp_path) == {"commit": commit, "dirty": True}
    monkeypatch.setenv("PATH", "")
    assert provenance._git_state(tmp_path) == {"commit": "unknown", "dirty": False}
