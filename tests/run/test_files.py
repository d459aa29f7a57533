"""A file is written whole, or what was there stays."""

import ast
import os
from pathlib import Path

import pytest
from places import ROOT

from curl_rl.run.files import WriteError, check_folder, check_target, replacing, write_whole


def test_a_text_takes_the_place_of_another_and_leaves_nothing_beside_it(tmp_path: Path):
    path = tmp_path / "new" / "a.json"
    write_whole({path: "one\n"})
    write_whole({path: b"two\n"})
    assert path.read_text() == "two\n"
    assert os.listdir(path.parent) == ["a.json"]


def test_what_fails_half_way_leaves_the_old_file(tmp_path: Path):
    path = tmp_path / "a"
    path.write_text("old")

    def fail(temporary: Path) -> None:
        temporary.write_text("ne")
        raise RuntimeError("half way")

    with pytest.raises(RuntimeError, match="half way"), replacing(path) as (temporary,):
        fail(temporary)
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a"]


def test_all_are_on_the_disk_before_the_first_takes_its_place_in_their_order(tmp_path: Path, monkeypatch):
    done, sync, replace = [], os.fsync, os.replace

    def synced(descriptor: int) -> None:
        done.append(("sync", Path(os.readlink(f"/proc/self/fd/{descriptor}")).name))
        sync(descriptor)

    def replaced(source: Path, target: Path) -> None:
        done.append((source.name, target.name))
        replace(source, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", replaced)
    write_whole({tmp_path / "b": "1", tmp_path / "a": "2"})
    assert done == [("sync", "tmp-b"), ("sync", "tmp-a"), ("tmp-b", "b"), ("tmp-a", "a")]
    assert [path.read_text() for path in sorted(tmp_path.iterdir())] == ["2", "1"]


def test_of_several_none_is_replaced_where_one_cannot_be_written(tmp_path: Path):
    (tmp_path / "b").mkdir()
    (tmp_path / "a").write_text("old")
    with pytest.raises(WriteError, match=f"cannot write {tmp_path / 'b'}: a folder is in the way"):
        write_whole({tmp_path / "a": "new", tmp_path / "b": "new"})
    assert (tmp_path / "a").read_text() == "old"
    assert sorted(os.listdir(tmp_path)) == ["a", "b"]


def test_a_name_may_tell_of_what_was_written(tmp_path: Path):
    with replacing(tmp_path / "x", named=lambda path: path.with_name(f"{path.name}-3")) as (temporary,):
        temporary.write_text("abc")
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("x-3", "abc")]


def test_an_error_of_whoever_writes_stays_its_own(tmp_path: Path):
    def fail() -> None:
        with replacing(tmp_path / "x"):
            raise FileNotFoundError("elsewhere")

    with pytest.raises(FileNotFoundError, match=r"^elsewhere$"):
        fail()
    assert os.listdir(tmp_path) == []


def moves(path: Path) -> list[str]:
    """Return the calls in a file that put a file in the place of another, or write one where it shall lie."""
    calls = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
    found = [(call, call.func) for call in calls if isinstance(call.func, ast.Attribute)]
    names = {"rename", "renames", "write_text", "write_bytes", "move", "link", "NamedTemporaryFile", "mkstemp"}
    return [
        ast.unparse(call)
        for call, function in found
        if function.attr in names
        or ast.unparse(function) == "os.replace"
        or (function.attr == "replace" and len(call.args) == 1 and not call.keywords)  # a path's own
    ]


def test_files_are_written_whole_in_one_way(tmp_path: Path):
    assert len(moves(ROOT / "curl_rl" / "run" / "files.py")) == 3
    (tmp_path / "x.py").write_text("os.rename(a, b)\npart.replace(path)\nos.replace(a, b)\ntext.replace('a', 'b')\n")
    assert moves(tmp_path / "x.py") == ["os.rename(a, b)", "part.replace(path)", "os.replace(a, b)"]
    for folder in ("curl_rl", "scripts"):
        others = [path for path in (ROOT / folder).rglob("*.py") if path.parts[-2:] != ("run", "files.py")]
        assert len(others) > 5
        assert {str(path): found for path in others if (found := moves(path))} == {}


@pytest.mark.parametrize("kind", ["a folder", "a link", "a pipe", "a device"])
def test_nothing_but_a_regular_file_is_replaced(tmp_path: Path, kind: str):
    path = Path("/dev/full") if kind == "a device" else tmp_path / "x"
    make = {"a folder": path.mkdir, "a link": lambda: path.symlink_to("y"), "a pipe": lambda: os.mkfifo(path)}
    make.get(kind, lambda: None)()
    before = path.lstat()
    for write in (check_target, lambda path: write_whole({path: "text"})):
        with pytest.raises(WriteError, match=f"cannot write {path}: {kind} is in the way; give the name of a new"):
            write(path)
    assert path.lstat().st_mode == before.st_mode
    assert list(tmp_path.iterdir()) == ([path] if kind != "a device" else [])


@pytest.mark.parametrize("kind", ["a file", "a dead link", "a pipe", "a device"])
def test_no_folder_is_made_of_anything_else(tmp_path: Path, kind: str):
    path = Path("/dev/full") if kind == "a device" else tmp_path / "x"
    make = {"a file": path.touch, "a dead link": lambda: path.symlink_to("y"), "a pipe": lambda: os.mkfifo(path)}
    make.get(kind, lambda: None)()
    for place in (path, path / "below" / "it"):
        with pytest.raises(WriteError, match=f"cannot write into {place}: {path} is a file, no folder; give another"):
            check_folder(place)


def test_a_folder_can_be_made_where_nothing_is_or_a_folder_or_a_link_to_one(tmp_path: Path, monkeypatch):
    (tmp_path / "link").symlink_to(tmp_path)
    monkeypatch.chdir(tmp_path)
    for place in (tmp_path, tmp_path / "a" / "b", tmp_path / "link" / "c", Path("relative/d"), Path()):
        check_folder(place)
    assert list(tmp_path.iterdir()) == [tmp_path / "link"]
    with pytest.raises(WriteError, match=r"cannot write .*: File name too long"):
        check_folder(tmp_path / ("n" * 300))
