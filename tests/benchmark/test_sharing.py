"""A run directory behind a URL: what is pulled is what was pushed, and a crash anywhere leaves a whole checkpoint."""

import os
import uuid
from pathlib import Path
from typing import Any

import fsspec
import pytest
import torch
from torch import Tensor

from curl_rl.benchmark.engines.sharing import SharedDirectory, TakenError, is_url
from curl_rl.run.checkpoint import Checkpoints
from curl_rl.types import ConfigError

WRITES = ("pipe_file", "put_file", "mv", "rm_file")


class Ring:
    """A journal whose slot j holds j."""

    def __init__(self, written: int = 0):
        self.capacity, self.written = 25, written
        self.seen = list(range(written))[-25:]

    def journal(self, since: int) -> dict[str, Tensor]:
        return {"slot": torch.arange(max(since, self.written - self.capacity), self.written)}

    def restore_journal(self, start: int, chunk: dict[str, Tensor]) -> None:
        self.seen += chunk["slot"].tolist()
        self.written = start + len(chunk["slot"])


class Dying:
    """A file system that notes what is written, and dies in the middle of one write."""

    def __init__(self, files: Any, *, writes: int = 10**9):
        self.files, self.left, self.log = files, writes, list[tuple[str, str]]()

    def __getattr__(self, name: str) -> Any:
        method = getattr(self.files, name)
        return (lambda *arguments: self._write(name, method, *arguments)) if name in WRITES else method

    def _write(self, name: str, method: Any, *arguments: Any) -> None:
        target = str(arguments[0] if name in ("pipe_file", "rm_file") else arguments[1])
        if self.left == 0:
            if name == "put_file":
                self.files.pipe_file(target, Path(arguments[0]).read_bytes()[:-100])
            elif name == "pipe_file":
                self.files.pipe_file(target, arguments[1][: len(arguments[1]) // 2])
            raise OSError("the network died")
        self.left -= 1
        method(*arguments)
        if name != "pipe_file":  # that only prepares a mv
            self.log.append((name, target.rpartition("/run/")[2]))


@pytest.fixture(params=["file", "memory"])
def url(request, tmp_path_factory) -> str:
    return (
        f"file://{tmp_path_factory.mktemp('far')}/run"
        if request.param == "file"
        else f"memory://{uuid.uuid4().hex}/run"
    )


def shared(url: str, local: Path, *, writes: int = 10**9) -> tuple[SharedDirectory, Dying]:
    directory = SharedDirectory(url, local)
    directory._files = dying = Dying(directory._files, writes=writes)
    return directory, dying


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def far(url: str) -> dict[str, bytes]:
    files, root = fsspec.url_to_fs(url)
    names = [path.removeprefix(f"{root}/") for path in files.find(root)]
    return {name: files.cat_file(f"{root}/{name}") for name in names if name != ".owner"}


def train(run_dir: Path, checkpoints: Checkpoints, *steps: int) -> None:
    """Do to a directory what training does: rows, then a checkpoint that counts on them."""
    (run_dir / "config.json").write_text("{}")
    for step in steps:
        with (run_dir / "eval.csv").open("a") as file:
            file.write(f"{step}\n")
        checkpoints.save(step, {"step": step, "weights": torch.full((400,), step)}, Ring(step))


def begun(url: str, local: Path, *, writes: int = 10**9) -> tuple[SharedDirectory, Dying, Checkpoints]:
    """A run of which two checkpoints are pushed."""
    directory, dying = shared(url, local)
    directory.pull()
    checkpoints = Checkpoints(local / "checkpoints")
    train(local, checkpoints, 10, 20)
    directory.push()
    dying.log.clear()
    dying.left = writes
    return directory, dying, checkpoints


def test_what_is_pulled_is_what_was_pushed(url, tmp_path):
    directory, _, checkpoints = begun(url, tmp_path / "a")
    (tmp_path / "a" / "tensorboard").mkdir()
    (tmp_path / "a" / "tensorboard" / "events").write_bytes(bytes(range(256)))
    train(tmp_path / "a", checkpoints, 30, 40)
    directory.push()
    (tmp_path / "b" / "old").mkdir(parents=True)
    (tmp_path / "b" / "old" / "eval.csv").write_text("of a job that was killed here")
    SharedDirectory(url, tmp_path / "b").pull()
    assert contents(tmp_path / "b") == contents(tmp_path / "a") == far(url)


def test_pulling_what_was_never_pushed_gives_an_empty_directory(url, tmp_path):
    directory, _ = shared(url, tmp_path / "a")
    directory.pull()
    assert list((tmp_path / "a").iterdir()) == []
    directory.push()
    assert far(url) == {}


def test_locks_and_files_half_written_stay_here(url, tmp_path):
    directory, _ = shared(url, tmp_path)
    directory.pull()
    for name in (".lock", "tmp-config.json", "checkpoints/tmp-state-000000000010", "log.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    directory.push()
    assert far(url) == {"log.txt": b""}
    lock = (tmp_path / ".lock").stat().st_ino
    directory.pull()
    assert (tmp_path / ".lock").stat().st_ino == lock
    assert not (tmp_path / "tmp-config.json").exists()


def test_a_push_writes_only_what_changed(url, tmp_path):
    directory, dying, _ = begun(url, tmp_path)
    directory.push()
    assert dying.log == []
    (tmp_path / "eval.csv").write_text("1\n")
    directory.push()
    assert dying.log == [("mv", "eval.csv")]
    dying.log.clear()
    (tmp_path / "eval.csv").unlink()
    directory.push()
    assert dying.log == [("rm_file", "eval.csv")]
    dying.log.clear()
    directory.pull()
    dying.log.clear()
    directory.push()
    assert dying.log == []


def test_a_manifest_comes_after_its_files_and_goes_before_them(url, tmp_path):
    directory, dying, checkpoints = begun(url, tmp_path)
    train(tmp_path, checkpoints, 30)
    directory.push()
    order = [f"{name} {target.removeprefix('checkpoints/').partition('-')[0]}" for name, target in dying.log]
    assert order[:4] == ["put_file journal", "put_file state", "mv config.json", "mv eval.csv"]
    assert order[4:] == ["mv manifest", "rm_file manifest", "rm_file state"]


@pytest.mark.parametrize("writes", range(17))
def test_a_crash_in_any_write_leaves_a_run_that_goes_on(url, tmp_path, writes):
    directory, _, checkpoints = begun(url, tmp_path / "a", writes=writes)
    train(tmp_path / "a", checkpoints, 30, 40)
    crashed = False
    try:
        directory.push()
    except OSError:
        crashed = True
    assert crashed == (writes < 16), "each write of this push is one of the cases"
    again, _ = shared(url, tmp_path / "b")
    again.pull()
    resumed, ring = Checkpoints(tmp_path / "b" / "checkpoints"), Ring()
    state = resumed.load(ring)
    assert state is not None
    step = state["step"]
    assert step in (20, 30, 40)
    assert ring.seen == list(range(step))[-25:]
    rows = [int(row) for row in (tmp_path / "b" / "eval.csv").read_text().split()]
    assert rows[: step // 10] == list(range(10, step + 1, 10))
    train(tmp_path / "b", resumed, step + 10, step + 20)
    again.push()
    assert far(url) == contents(tmp_path / "b")


def test_a_push_that_failed_is_made_good_by_the_next(url, tmp_path):
    directory, dying, checkpoints = begun(url, tmp_path, writes=3)
    train(tmp_path, checkpoints, 30)
    with pytest.raises(OSError, match="the network died"):
        directory.push()
    dying.left = 10**9
    directory.push()
    assert far(url) == contents(tmp_path)


def test_a_checkpoint_pruned_under_a_push_is_left_to_the_next(url, tmp_path, monkeypatch):
    directory, _, checkpoints = begun(url, tmp_path)
    train(tmp_path, checkpoints, 30)
    push_file = directory._push_file

    def late(name: str) -> bool:
        if "state-000000000030" in name and (tmp_path / name).exists():
            train(tmp_path, checkpoints, 40, 50)  # the first of which prunes 30's neighbour, the second 30 itself
        return push_file(name)

    monkeypatch.setattr(directory, "_push_file", late)
    directory.push()
    steps = sorted(name[-7:] for name in far(url) if "manifest" in name)
    assert steps == ["10.json", "20.json"]
    SharedDirectory(url, tmp_path / "b").pull()
    state = Checkpoints(tmp_path / "b" / "checkpoints").load(Ring())
    assert state is not None
    assert state["step"] == 20


def test_who_pulls_takes_over(url, tmp_path):
    first, _, checkpoints = begun(url, tmp_path / "a")
    second, _ = shared(url, tmp_path / "b")
    second.pull()
    train(tmp_path / "a", checkpoints, 30)
    before = far(url)
    with pytest.raises(TakenError, match="taken over"):
        first.push()
    assert far(url) == before
    second.push()


def test_fetching_copies_tables_that_changed_and_takes_nothing_over(url, tmp_path):
    writer, _, checkpoints = begun(url, tmp_path / "a")
    reader = SharedDirectory(url, tmp_path / "b")
    reader.fetch()
    assert contents(tmp_path / "b") == {"config.json": b"{}", "eval.csv": b"10\n20\n"}
    (tmp_path / "b" / "config.json").write_text("kept")
    train(tmp_path / "a", checkpoints, 30)
    os.utime(tmp_path / "a" / "config.json", (1, 1))
    writer._pushed["config.json"] = writer._stamps()["config.json"]
    writer.push()
    reader.fetch()
    assert contents(tmp_path / "b") == {"config.json": b"kept", "eval.csv": b"10\n20\n30\n"}


def test_a_url_that_cannot_be_opened_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="cannot open nonsense://bucket/run"):
        SharedDirectory("nonsense://bucket/run", tmp_path)
    fsspec.register_implementation("absent", "absent_package.Files", clobber=True, errtxt="Please install absentfs")
    with pytest.raises(ConfigError, match="package that is not installed: Please install absentfs"):
        SharedDirectory("absent://bucket/run", tmp_path)


def test_urls_are_told_from_paths():
    assert is_url("s3://bucket/runs/x")
    assert not is_url("/mnt/runs/x")
    assert not is_url("runs/task:1")
