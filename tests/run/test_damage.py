"""Whatever has become of a file of a run, every command that reads it says so in one line."""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from curl_rl import cli
from curl_rl.benchmark import plans as benchmark
from curl_rl.benchmark.engines.base import Job
from curl_rl.config.overrides import compose
from curl_rl.run.documents import read_document
from curl_rl.run.logger import RunLogger
from curl_rl.run.provenance import write_metadata
from curl_rl.run.stored import load_config, save_config
from curl_rl.types import Clock, ConfigError, Episode, Origin

OVERRIDES = ("task=toy/reach", "budget_frames=60", "random_steps=40", "evaluation.episodes=2")
PLANNED = compose(OVERRIDES)


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """A finished run, as training leaves it once its checkpoints have been deleted."""
    run_dir = tmp_path_factory.mktemp("whole") / "curl-seed1"
    save_config(PLANNED, run_dir)
    write_metadata(run_dir, {"command": "curl-rl train"})
    log = RunLogger(run_dir, Origin("p", "60 frames", "c", "v", "h"))
    log.evaluation(Clock(60, 60, 60), [Episode(i, 10.0, 20) for i in range(2)], 1.0)
    log.close()
    return run_dir


@pytest.fixture
def run(whole: Path, tmp_path: Path) -> Path:
    shutil.copytree(whole, tmp_path / "curl-seed2")
    return shutil.copytree(whole, tmp_path / "curl-seed1")


def look_at_job(run_dir: Path) -> int:
    """Do as a benchmark does before it starts anything."""
    plan = benchmark.Plan(Job("toy/reach", "curl", 1, OVERRIDES, str(run_dir)), PLANNED)
    return int(not benchmark._is_done(plan, run_dir))


def compare(run_dir: Path) -> int:
    return cli.main(["report", "--compare", str(run_dir.with_name("curl-seed2")), str(run_dir)])


NAMES = ("config.json", "metadata.json", "eval.csv")
COMMANDS: dict[str, tuple[Callable[[Path], int], tuple[str, ...]]] = {
    "train": (lambda run: cli.main(["train", f"run_dir={run}"]), NAMES),
    "train the same": (lambda run: cli.main(["train", *OVERRIDES, f"run_dir={run}"]), NAMES[:1]),
    "evaluate": (lambda run: cli.main(["evaluate", str(run), "--device", "cpu"]), NAMES[:1]),
    "export": (lambda run: cli.main(["export", str(run), "--out", f"{run}-encoder"]), NAMES[:1]),
    "report": (lambda run: cli.main(["report", str(run), "--out", f"{run}-report"]), NAMES),
    "compare": (compare, NAMES),
}
DAMAGES: dict[str, bytes | Callable[[Path], object]] = {
    "empty": b"",
    "other bytes": b"\xff\xfe{}\n\x80\n",
    "a list": b"[]\n",
    "a mapping of something else": b'{"model_type": "bert", "starts": 3}\n',
    "a huge number": b'{"seed": ' + b"9" * 5000 + b"}\n",
    "an infinite number": b'{"seed": 1e999}\n',
    "not a number": b'{"seed": NaN}\n',
    "deep": b"[" * 200_000 + b"\n",
    "half a surrogate pair": b'{"task": "\\ud800"}\n',
    "cut": b'{"task": "toy/re',
    "a folder": Path.mkdir,
    "a pipe": os.mkfifo,
}


def damaged(run: Path, name: str, damage: str) -> None:
    path, made = run / name, DAMAGES[damage]
    path.unlink()
    path.write_bytes(made) if isinstance(made, bytes) else made(path)


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", NAMES)
def test_every_damage_is_one_line_in_every_command(run: Path, capsys, name: str, damage: str):
    damaged(run, name, damage)
    # A benchmark refuses it too, or leaves what is no file to the job.
    if name == "config.json" and not (run / name).is_file():
        assert look_at_job(run) == 1
    else:
        with pytest.raises(ConfigError, match=name):
            look_at_job(run)
    for command, reads in COMMANDS.values():
        if name in reads:
            status, told = command(run), capsys.readouterr().err
            assert status in (1, 2), told
            assert told.startswith("curl-rl: ")
            assert told.count("\n") == 1
            # A report looks for runs, and a folder of another name's is none.
            assert name in told or "holds no results" in told


@pytest.mark.parametrize("name", NAMES)
def test_a_file_that_may_not_be_read_is_one_line(run: Path, capsys, monkeypatch, name: str):
    read = Path.read_bytes

    def refuse(path: Path) -> bytes:  # for root, who may read everything
        if path == run / name:
            raise PermissionError(13, "Permission denied", str(path))
        return read(path)

    monkeypatch.setattr(Path, "read_bytes", refuse)
    for command, reads in COMMANDS.values():
        if name in reads:
            assert command(run) == 2
            told = capsys.readouterr().err
            assert told.startswith(f"curl-rl: {run / name} cannot be read (Permission denied): make it readable")
            assert told.count("\n") == 1


def test_nothing_whole_is_refused(run: Path, capsys):
    statuses = {name: command(run) for name, (command, _) in COMMANDS.items()}
    assert statuses == dict.fromkeys(COMMANDS, 0) | {"evaluate": 2, "export": 1}
    assert look_at_job(run) == 0
    assert "is finished" in (told := capsys.readouterr().err)
    assert "were deleted, only its results are left" in told


VALUES = (
    None,
    True,
    -1,
    1.5,
    2**62,
    "",
    "x",
    "${seed}",
    "${nothing}",
    "???",
    [],
    [1],
    {},
    {"name": 3},
    {"x": {"y": [1]}},
)


@pytest.mark.parametrize(
    "key", ["task", "seed", "run_dir", "batch_size", "env", "env.image_size", "evaluation", "agent", "agent.name",
            "agent.learning_rate", "encoder", "encoder.name", "objective", "objective.name", "replay.sampler"]
)  # fmt: skip
def test_a_stored_value_of_another_kind_is_refused_or_means_something(run: Path, key: str):
    whole = json.loads((run / "config.json").read_text())
    group, _, name = key.rpartition(".")
    told = []
    for value in VALUES:
        data = json.loads(json.dumps(whole))
        (data[group] if group else data)[name] = value
        (run / "config.json").write_text(json.dumps(data))
        with suppress_as(told):
            load_config(run)
    assert told
    assert all(line.startswith(f"{run}/config.json cannot be read (") and "\n" not in line for line in told)


@contextmanager
def suppress_as(told: list[str]) -> Iterator[None]:
    try:
        yield
    except ConfigError as error:
        told.append(str(error))


def test_a_document_that_is_whole_is_read_as_it_is(tmp_path: Path):
    path, data = tmp_path / "x.json", {"a": [1, -2.5, None, True, "ü"], "b": {"c": 2**62}}
    path.write_text(json.dumps(data))
    assert read_document(path) == data
    with pytest.raises(FileNotFoundError, match="there is no"):
        read_document(tmp_path / "absent")
