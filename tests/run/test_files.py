"""A file is written whole, or what was there stays."""

import os
from pathlib import Path

import pytest

from curl_rl.run.files import WriteError, check_folder, check_target, replacing, write_atomically


def test_a_text_takes_the_place_of_another_and_leaves_nothing_beside_it(tmp_path: Path):
    path = tmp_path / "new" / "a.json"
    write_atomically(path, "one\n")
    write_atomically(path, "two\n")
    assert path.read_text() == "two\n"
    assert os.listdir(path.parent) == ["a.json"]


def test_what_fails_half_way_leaves_the_old_file(tmp_path: Path):
    path = tmp_path / "a"
    path.write_text("old")

    def fail(temporary: Path) -> None:
        temporary.write_text("ne")
        raise RuntimeError("half way")

    with pytest.raises(RuntimeError, match="half way"), replacing(path) as temporary:
        fail(temporary)
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a"]


@pytest.mark.parametrize("kind", ["a folder", "a link", "a pipe", "a device"])
def test_nothing_but_a_regular_file_is_replaced(tmp_path: Path, kind: str):
    path = Path("/dev/full") if kind == "a device" else tmp_path / "x"
    make = {"a folder": path.mkdir, "a link": lambda: path.symlink_to("y"), "a pipe": lambda: os.mkfifo(path)}
    make.get(kind, lambda: None)()
    before = path.lstat()
    for write in (check_target, lambda path: write_atomically(path, "text")):
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
