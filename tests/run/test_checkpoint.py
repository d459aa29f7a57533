"""Checkpoints survive kills, damage, full disks and wrap-around, and cost what is new."""

import json
import os
import resource
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor

from curl_rl.run import checkpoint, manifest
from curl_rl.run.checkpoint import CheckpointError, Checkpoints


class Ring:
    """The plainest journal: slot j holds a row that is a function of j."""

    def __init__(self, capacity: int, width: int = 8):
        self.capacity, self.width, self.written = capacity, width, 0
        self.rows = torch.zeros(capacity, width, dtype=torch.int64)
        self.starts: list[int] = []

    def fill(self, count: int) -> None:
        for slot in range(self.written, self.written + count):
            self.rows[slot % self.capacity] = slot * 1000 + torch.arange(self.width)
        self.written += count

    def journal(self, since: int) -> dict[str, Tensor]:
        slots = torch.arange(max(since, self.written - self.capacity), self.written)
        return {"rows": self.rows[slots % self.capacity]}

    def restore_journal(self, start: int, chunk: dict[str, Tensor]) -> None:
        assert self.written in (0, start)  # ascending, without gaps
        self.starts.append(start)
        assert len(chunk["rows"]) <= self.capacity
        for offset, row in enumerate(chunk["rows"]):
            self.rows[(start + offset) % self.capacity] = row
        self.written = start + len(chunk["rows"])


def filled(capacity: int, count: int) -> Ring:
    ring = Ring(capacity)
    ring.fill(count)
    return ring


def resumed(directory: Path, capacity: int) -> tuple[Checkpoints, Ring, dict]:
    checkpoints, ring = Checkpoints(directory), Ring(capacity)
    state = checkpoints.load(ring)
    assert state is not None
    return checkpoints, ring, state


def assert_holds(ring: Ring, count: int) -> None:
    assert ring.written == count
    assert torch.equal(ring.rows, filled(ring.capacity, count).rows)


def two_checkpoints(directory: Path, state: dict | None = None) -> None:
    """Checkpoint 100 with 30 slots, checkpoint 200 with 50, of 40 live ones."""
    checkpoints, ring = Checkpoints(directory), filled(40, 30)
    checkpoints.load()
    checkpoints.save(100, {"step": 100, **(state or {})}, ring)
    ring.fill(20)
    checkpoints.save(200, {"step": 200, **(state or {})}, ring)


def names(directory: Path, prefix: str = "") -> list[str]:
    return sorted(path.name for path in directory.iterdir() if path.name.startswith(prefix))


def test_state_comes_back_equal(tmp_path: Path):
    generator = np.random.default_rng(3).bit_generator.state  # two integers of 128 bits
    state = {
        "rng": generator,
        "tensors": {"weight": torch.randn(3, 4), "empty": torch.empty(0, 2), "half": torch.ones(2).bfloat16()},
        "plain": [1, (2.5, None, True, "word", b"bytes"), {7: -(1 << 200)}, float("inf"), [], {}],
    }
    Checkpoints(tmp_path).save(1, state)
    loaded = Checkpoints(tmp_path).load()
    assert loaded is not None
    assert loaded["rng"] == generator
    assert loaded["plain"] == state["plain"]
    for name, tensor in state["tensors"].items():
        assert loaded["tensors"][name].dtype == tensor.dtype
        assert torch.equal(loaded["tensors"][name], tensor)
    restored = np.random.default_rng()
    restored.bit_generator.state = loaded["rng"]
    assert restored.integers(1 << 60) == np.random.default_rng(3).integers(1 << 60)


def test_module_and_optimiser_states_come_back(tmp_path: Path):
    net = torch.nn.Linear(3, 2)
    adam = torch.optim.Adam(net.parameters())
    net(torch.ones(1, 3)).sum().backward()
    adam.step()
    Checkpoints(tmp_path).save(1, {"net": net.state_dict(), "adam": adam.state_dict(), "raw": net.weight})
    loaded = Checkpoints(tmp_path).load()
    assert loaded is not None
    assert not loaded["raw"].requires_grad
    torch.nn.Linear(3, 2).load_state_dict(loaded["net"])
    torch.optim.Adam(torch.nn.Linear(3, 2).parameters()).load_state_dict(loaded["adam"])
    assert torch.equal(loaded["net"]["weight"], net.weight)
    assert torch.equal(loaded["adam"]["state"][0]["exp_avg"], adam.state_dict()["state"][0]["exp_avg"])


@pytest.mark.parametrize(
    ("bad", "path"),
    [
        ({"a": [1, {"b": np.zeros(2)}]}, r"state\['a'\]\[1\]\['b'\] is a numpy.ndarray"),
        ({"a": np.float64(1)}, r"state\['a'\] is a numpy.float64"),
        ({"a": SimpleNamespace()}, r"state\['a'\] is a types.SimpleNamespace"),
        ({"a": {(1, 2): 3}}, r"state\['a'\] has the key \(1, 2\)"),
    ],
)
def test_what_cannot_be_read_back_is_refused_with_its_path(tmp_path: Path, bad: dict, path: str):
    with pytest.raises(TypeError, match=path):
        Checkpoints(tmp_path).save(1, bad)
    assert names(tmp_path) == []


def test_a_view_does_not_drag_its_storage_along(tmp_path: Path):
    Checkpoints(tmp_path).save(1, {"view": torch.zeros(1_000_000)[:10]})
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) < 20_000


def test_nothing_saved_is_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert Checkpoints(tmp_path / "absent").load(Ring(4)) is None
    assert capsys.readouterr().err == ""
    (tmp_path / "tmp-state-000000000001").touch()  # as a kill during the first save leaves it
    assert Checkpoints(tmp_path).load(Ring(4)) is None
    assert "no checkpoint was completed" in capsys.readouterr().err


@pytest.mark.parametrize("sizes", [[5, 3, 4], [16, 1, 15], [7, 9, 7, 9, 40, 1, 0, 6], [100]])
def test_the_journal_wraps_round(tmp_path: Path, sizes: list[int]):
    checkpoints, ring = Checkpoints(tmp_path), Ring(16)
    for step, size in enumerate(sizes):
        ring.fill(size)
        checkpoints.save(step, {"step": step}, ring)
        _, copy, state = resumed(tmp_path, 16)
        assert state == {"step": step}
        assert_holds(copy, ring.written)
        assert copy.starts[0] == max(0, ring.written - 16)  # dead slots are not brought back
        first = max(0, sum(sizes[:step]) - 16)  # the older kept checkpoint's first live slot
        assert all(int(name.split("-")[2]) > first for name in names(tmp_path, "journal-"))
        assert len(names(tmp_path, "manifest-")) == min(2, step + 1)


def test_a_save_costs_what_is_new(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    written, replace = [], os.replace

    def measured(source: Path, target: Path) -> None:
        written.append(source.stat().st_size)
        replace(source, target)

    monkeypatch.setattr(os, "replace", measured)
    ring = Ring(4000, width=100)  # 800 bytes a slot
    checkpoints = Checkpoints(tmp_path)
    costs = []
    for step, new in enumerate([3000, 100, 100, 0]):
        ring.fill(new)
        written.clear()
        checkpoints.save(step, {"step": step}, ring)
        costs.append(sum(written))
    overhead = costs[3]
    assert overhead < 5_000
    for cost, new in zip(costs, [3000, 100, 100], strict=False):
        assert 800 * new < cost < 800 * new + overhead + 2_000


def damage(path: Path, how: str) -> None:
    content = bytearray(path.read_bytes())
    if how == "delete":
        path.unlink()
    elif how == "truncate":
        path.write_bytes(content[: len(content) // 2])
    else:
        content[len(content) // 2] ^= 1
        path.write_bytes(content)


@pytest.mark.parametrize("how", ["delete", "truncate", "flip"])
@pytest.mark.parametrize("part", ["manifest", "state", "journal"])
def test_damage_falls_back_to_the_previous(tmp_path: Path, capsys: pytest.CaptureFixture[str], part: str, how: str):
    two_checkpoints(tmp_path)
    newest = tmp_path / names(tmp_path, f"{part}-")[-1]
    damage(newest, how)
    checkpoints, ring, state = resumed(tmp_path, 40)
    assert state == {"step": 100}
    assert_holds(ring, 30)
    message = capsys.readouterr().err
    if (part, how) == ("manifest", "delete"):
        assert message == ""  # the same as a kill just before the manifest was written
    else:
        assert message.count("\n") == 1
        if part != "manifest":
            assert {"delete": "is missing", "truncate": "bytes instead of", "flip": "wrong checksum"}[how] in message
        assert "checkpoint 200 is not usable" in message
        assert newest.name in message
        assert "using checkpoint 100" in message

    # What follows continues the chain of checkpoint 100, and the damaged files do no harm.
    ring.fill(5)
    checkpoints.save(150, {"step": 150}, ring)
    assert [int(name[9:-5]) for name in names(tmp_path, "manifest-")] == [100, 150]
    ring.fill(15)
    checkpoints.save(200, {"step": 200}, ring)
    _, ring, state = resumed(tmp_path, 40)
    assert state == {"step": 200}
    assert capsys.readouterr().err == ""
    assert_holds(ring, 50)
    damage(tmp_path / names(tmp_path, "state-")[-1], "flip")
    _, ring, state = resumed(tmp_path, 40)
    assert state == {"step": 150}
    assert_holds(ring, 35)


def test_a_manifest_that_was_altered_is_noticed(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    two_checkpoints(tmp_path)
    path = tmp_path / names(tmp_path, "manifest-")[-1]
    path.write_text(path.read_text().replace('"step": 200', '"step": 201'))
    assert resumed(tmp_path, 40)[2] == {"step": 100}
    assert f"{path.name} has a wrong checksum" in capsys.readouterr().err


def test_saving_the_same_again_mends_a_damaged_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    two_checkpoints(tmp_path)
    newest = names(tmp_path, "journal-")[-1]
    damage(tmp_path / newest, "flip")
    checkpoints, ring, _ = resumed(tmp_path, 40)
    ring.fill(20)
    checkpoints.save(200, {"step": 200}, ring)
    assert newest in names(tmp_path)
    capsys.readouterr()
    _, ring, state = resumed(tmp_path, 40)
    assert state == {"step": 200}
    assert capsys.readouterr().err == ""
    assert_holds(ring, 50)


@pytest.mark.parametrize("lost", ["journal-", "state-", "manifest-", ""])
def test_what_is_lost_during_a_run_is_written_anew(tmp_path: Path, capsys: pytest.CaptureFixture[str], lost: str):
    checkpoints, ring = Checkpoints(tmp_path), Ring(40)
    for step in (100, 200):
        ring.fill(25)
        checkpoints.save(step, {"step": step}, ring)
    for name in names(tmp_path, lost)[: 1 if lost else None]:
        (tmp_path / name).unlink()
    ring.fill(5)
    checkpoints.save(300, {"step": 300}, ring)
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert f"{lost}" in told
    assert "written anew" in told
    _, copy, state = resumed(tmp_path, 40)
    assert state == {"step": 300}
    assert_holds(copy, 55)
    ring.fill(1)
    checkpoints.save(400, {"step": 400}, ring)
    assert len(names(tmp_path, "manifest-")) == 2
    assert capsys.readouterr().err == ""


def test_a_state_that_must_not_be_taken_leaves_the_journal_alone(tmp_path: Path):
    def refuse(state: dict) -> None:
        raise ValueError(f"not step {state['step']}")

    two_checkpoints(tmp_path)
    ring = Ring(40)
    with pytest.raises(ValueError, match="not step 200"):  # and no older one is taken instead
        Checkpoints(tmp_path).load(ring, check=refuse)
    assert ring.written == 0


def test_none_intact_is_an_error(tmp_path: Path):
    two_checkpoints(tmp_path)
    for name in names(tmp_path, "state-"):
        damage(tmp_path / name, "truncate")
    before, ring = names(tmp_path), Ring(40)
    with pytest.raises(CheckpointError, match=r"checkpoint 200 .*checkpoint 100 .*put its files back") as error:
        Checkpoints(tmp_path).load(ring)
    assert isinstance(error.value, OSError)
    assert ring.written == 0
    assert names(tmp_path) == before


def test_a_shared_chunk_that_is_damaged_leaves_no_checkpoint(tmp_path: Path):
    two_checkpoints(tmp_path)
    damage(tmp_path / names(tmp_path, "journal-")[0], "flip")
    ring = Ring(40)
    with pytest.raises(CheckpointError, match="wrong checksum"):
        Checkpoints(tmp_path).load(ring)
    assert ring.written == 0
    assert Checkpoints(tmp_path).load() == {"step": 200}  # the state alone is intact, and enough to evaluate


def test_another_version_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    two_checkpoints(tmp_path)
    path = tmp_path / names(tmp_path, "manifest-")[-1]
    path.write_text(json.dumps({**json.loads(path.read_text()), "format": 99, "program": "curl-rl 9.9"}))
    assert Checkpoints(tmp_path).load(Ring(40)) == {"step": 100}
    message = capsys.readouterr().err
    assert "has format 99, written by curl-rl 9.9" in message
    assert "using checkpoint 100" in message
    monkeypatch.setattr(manifest, "FORMAT", 98)
    with pytest.raises(CheckpointError, match=r"use the version of curl-rl that wrote it, whose commit metadata\.json"):
        Checkpoints(tmp_path).load(Ring(40))


def test_a_full_disk_keeps_the_previous(tmp_path: Path):
    two_checkpoints(tmp_path)
    checkpoints, ring, _ = resumed(tmp_path, 40)
    before = names(tmp_path)
    ring.fill(10)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(
            CheckpointError, match=r"cannot write checkpoint 300 .*checkpoint 200 is intact.*free space"
        ):
            checkpoints.save(300, {"big": torch.zeros(1_000_000)}, ring)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert names(tmp_path) == before  # the journal's new chunk went too
    assert resumed(tmp_path, 40)[2] == {"step": 200}
    checkpoints.save(300, {"step": 300}, ring)  # with space again, the same object goes on
    assert_holds(resumed(tmp_path, 40)[1], 60)


@pytest.mark.parametrize("call", range(1, 9))
def test_a_failure_at_any_point_keeps_the_previous(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: int):
    two_checkpoints(tmp_path)
    checkpoints, ring, _ = resumed(tmp_path, 40)
    ring.fill(10)
    before, calls, replace = names(tmp_path), [0], os.replace

    def failing(source, target=None):
        calls[0] += 1
        if calls[0] == call:
            raise OSError(28, "No space left on device")
        return replace(source, target) if target is not None else None

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", failing)
        patch.setattr(os, "fsync", failing)
        with pytest.raises(CheckpointError, match="No space left"):
            checkpoints.save(300, {"step": 300}, ring)
    assert names(tmp_path) == before
    _, ring, state = resumed(tmp_path, 40)
    assert state == {"step": 200}
    assert_holds(ring, 50)


def test_an_interrupted_save_is_still_an_interrupt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    checkpoints = Checkpoints(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint.zlib, "crc32", interrupt)
        with pytest.raises(KeyboardInterrupt):
            checkpoints.save(1, {"x": torch.zeros(1000)})
    assert names(tmp_path) == []


def test_a_directory_that_is_a_file(tmp_path: Path):
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointError, match="cannot read the checkpoints"):
        Checkpoints(tmp_path / "file").load()


def test_misuse_is_named(tmp_path: Path):
    two_checkpoints(tmp_path)
    with pytest.raises(RuntimeError, match=r"load\(\) before save\(\)"):
        Checkpoints(tmp_path).save(300, {})
    checkpoints, _, _ = resumed(tmp_path, 40)
    with pytest.raises(ValueError, match="fewer than the last checkpoint's 50"):
        checkpoints.save(300, {}, Ring(40))
    ring = filled(40, 60)
    ring.journal = lambda since: {"rows": torch.zeros(3, 8)}
    with pytest.raises(ValueError, match="3 rows for 10 slots"):
        checkpoints.save(300, {}, ring)
    with pytest.raises(ValueError, match="at least 1"):
        Checkpoints(tmp_path, keep=0)


def test_keep_and_foreign_files(tmp_path: Path):
    (tmp_path / "notes.txt").write_text("mine")
    checkpoints = Checkpoints(tmp_path, keep=3)
    for step in range(5):
        checkpoints.save(step, {"step": step})
    assert len(names(tmp_path, "manifest-")) == len(names(tmp_path, "state-")) == 3
    assert (tmp_path / "notes.txt").read_text() == "mine"
    again = Checkpoints(tmp_path, keep=3)
    again.load()
    again.save(5, {"step": 5})
    assert [int(name[9:-5]) for name in names(tmp_path, "manifest-")] == [3, 4, 5]
    again = Checkpoints(tmp_path, keep=1)
    again.load()
    again.save(6, {"step": 6})
    assert names(tmp_path, "manifest-") == ["manifest-000000000006.json"]


def test_of_older_checkpoints_that_are_kept_besides_only_the_state_is(tmp_path: Path):
    checkpoints, ring = Checkpoints(tmp_path, besides=lambda steps: (100,)), filled(40, 30)
    checkpoints.load()
    for step in (100, 200, 300, 400):
        checkpoints.save(step, {"step": step}, ring)
        ring.fill(30)
    assert checkpoints.steps() == [100, 300, 400]
    assert len(names(tmp_path, "state-")) == 3
    # Slots 80..120 are live at the last; those of the first checkpoint, and what held them, are gone.
    assert [name[8:33] for name in names(tmp_path, "journal-")] == [
        "000000000030-000000000060",
        "000000000060-000000000090",
        "000000000090-000000000120",
    ]
    seen = list[dict]()
    assert Checkpoints(tmp_path).read(100, seen.append) == {"step": 100}
    assert seen == [{"step": 100}]
    again, copy = Checkpoints(tmp_path, besides=lambda steps: (100,)), Ring(40)
    assert again.load(copy) == {"step": 400}
    assert_holds(copy, 120)
    copy.fill(30)
    again.save(500, {"step": 500}, copy)
    assert again.steps() == [100, 400, 500]
    with pytest.raises(CheckpointError, match=r"300 is not usable \(manifest-000000000300.json is missing\)"):
        again.read(300, seen.append)
    for name in (*names(tmp_path, "manifest-000000000400"), *names(tmp_path, "manifest-000000000500")):
        (tmp_path / name).unlink()
    with pytest.raises(CheckpointError, match=r"checkpoint 100 is not usable \(it was saved without a replay\)"):
        Checkpoints(tmp_path).load(Ring(40))


KILLS = """
import os, random, signal, sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[2])
import torch
from test_checkpoint import Ring, assert_holds
from curl_rl.run.checkpoint import Checkpoints

directory, rng = Path(sys.argv[1]), random.Random(0)

def restore():
    checkpoints, ring = Checkpoints(directory), Ring(300)
    state = checkpoints.load(ring) or {"step": 0, "weight": torch.zeros(50_000)}
    assert_holds(ring, 37 * state["step"])
    assert torch.equal(state["weight"], torch.full((50_000,), float(state["step"])))
    return checkpoints, ring, state["step"]

def train(report):
    checkpoints, ring, step = restore()
    while True:
        step += 1
        ring.fill(37)
        checkpoints.save(step, {"step": step, "weight": torch.full((50_000,), float(step))}, ring)
        os.write(report, b"%d\\n" % step)

last = 0
for _ in range(12):
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            train(writer)
        finally:
            os._exit(1)
    os.close(writer)
    line = os.read(reader, 100)
    time.sleep(rng.random() * 0.03)
    os.kill(child, signal.SIGKILL)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL
    while more := os.read(reader, 10_000):
        line += more
    os.close(reader)
    step = restore()[2]
    done = int(line.split()[-1])
    assert done in (step, step - 1), (done, step)
    assert step > last
    last = step
print("steps", last)
"""


def test_kill_at_any_moment(tmp_path: Path):
    command = [sys.executable, "-c", KILLS, str(tmp_path / "run"), str(Path(__file__).parent)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert result.returncode == 0, result.stderr
    assert "not usable" not in result.stderr  # a kill alone never breaks a checkpoint
    assert int(result.stdout.split()[1]) >= 12
