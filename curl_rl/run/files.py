"""How a file is written: whole or not at all, in the place of nothing but a regular file, and refused with a mend."""

import csv
import os
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from curl_rl import Error


class WriteError(Error, OSError):
    """A file that cannot be written; the message names the mend."""


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn what the disk refuses into a WriteError that names the mend."""
    try:
        yield
    except WriteError:
        raise
    except OSError as error:
        occupied = isinstance(error, FileExistsError | NotADirectoryError | IsADirectoryError)
        change = "move away what stands in its place" if occupied else "free space or make the directory writable"
        mend = f"{change}, then run the same command again"
        raise WriteError(f"cannot write {path}: {error.strerror or error}; {mend}") from error


def check_target(path: Path) -> None:
    """Raise WriteError where a file of this name would take the place of a folder, a link, a pipe or a device."""
    with writing(path):
        try:
            mode = path.lstat().st_mode
        except FileNotFoundError:
            return
        if not stat.S_ISREG(mode):
            kinds = {stat.S_IFDIR: "a folder", stat.S_IFLNK: "a link", stat.S_IFIFO: "a pipe"}
            kind = kinds.get(stat.S_IFMT(mode), "a device")
            raise WriteError(f"cannot write {path}: {kind} is in the way; give the name of a new or a regular file")


@contextmanager
def replacing(*paths: Path, named: Callable[[Path], Path] = lambda path: path) -> Iterator[list[Path]]:
    """Give the names of temporary files to write, which take the places of `paths` at the end or are removed.

    All are on the disk before the first takes its place, in their order. Args: named, gives a file whose name tells of
    its content the place that it takes once it is written.
    """
    temporaries = [path.with_name(f"tmp-{path.name}") for path in paths]
    for path in paths:
        check_target(path)
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield temporaries
        for path, temporary in zip(paths, temporaries, strict=True):
            with writing(path), open(temporary, "rb") as file:
                os.fsync(file.fileno())
        for path, temporary in zip(paths, temporaries, strict=True):
            with writing(path):
                os.replace(temporary, named(path))
    finally:
        for temporary in temporaries:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)


def write_whole(contents: Mapping[Path, str | bytes]) -> None:
    """Write files whole and durably, or leave what was there."""
    with replacing(*contents) as temporaries:
        for (path, content), temporary in zip(contents.items(), temporaries, strict=True):
            with writing(path):
                temporary.write_bytes(content.encode() if isinstance(content, str) else content)


def move_into(folder: Path, paths: Iterable[Path]) -> None:
    """Move files and folders into a folder of the same disk, one after another; one that is not there is made."""
    with writing(folder):
        folder.mkdir(exist_ok=True)
        for path in paths:
            path.rename(folder / path.name)


def csv_text(rows: Iterable[Iterable[object]]) -> str:
    """Return rows as a CSV file holds them, their lines ending in a line feed alone; what ends a line is quoted."""
    lines = _Lines()
    csv.writer(lines).writerows(rows)  # whose own line end lets it quote both of its characters
    return "".join(line.removesuffix("\r\n") + "\n" for line in lines)


class _Lines(list[str]):
    """What a CSV writer writes into, a row at a time."""

    write = list.append


def check_folder(path: Path) -> None:
    """Raise WriteError where no folder can be made of `path`: a file, a pipe, a device or a dead link is in the way."""
    with writing(path):
        place = next(place for place in (path, *path.parents, Path()) if place.exists() or place.is_symlink())
        if not place.is_dir():
            raise WriteError(f"cannot write into {path}: {place} is a file, no folder; give another place")
