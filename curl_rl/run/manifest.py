"""What one checkpoint consists of, as its manifest says, and whether all of it is there and intact."""

import json
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch

from curl_rl import __version__

FORMAT = 4  # raised whenever a file's meaning changes


class BrokenError(Exception):
    """Why one checkpoint on disk cannot be used."""


class OtherVersionError(BrokenError):
    """A checkpoint in another format than this program's."""


class Chunk(NamedTuple):
    start: int
    end: int
    name: str


class Manifest(NamedTuple):
    """What one checkpoint consists of; written last, so that its presence means the rest is there."""

    step: int
    state: str
    files: dict[str, tuple[int, int]]  # name -> bytes, CRC-32
    first: int = 0  # the first live slot
    written: int | None = None  # None without a journal
    chunks: tuple[Chunk, ...] = ()

    @property
    def name(self) -> str:
        return f"manifest-{self.step:012d}.json"

    def to_json(self) -> str:
        body = self._asdict()
        envelope = {"format": FORMAT, "program": f"curl-rl {__version__}", "crc32": _checksum(body), "body": body}
        return json.dumps(envelope, indent=1)

    def lost_from(self, directory: Path) -> list[str]:
        """Return which of its files are no longer in a directory with their size; nothing is read."""
        sizes = {self.name: None} | {name: size for name, (size, _) in self.files.items()}
        return [name for name, size in sizes.items() if not _is_there(directory / name, size)]


def read_manifest(path: Path) -> Manifest:
    """Read a manifest. Raises BrokenError for one that is damaged or of another format."""
    with _readable(path):
        envelope = json.loads(path.read_text(encoding="utf-8"))
        if envelope["format"] != FORMAT:
            program = envelope.get("program", "another version")
            raise OtherVersionError(f"has format {envelope['format']}, written by {program}; this one reads {FORMAT}")
        body = envelope["body"]
        if _checksum(body) != envelope["crc32"]:
            raise BrokenError(f"{path.name} has a wrong checksum")
        body["files"] = {name: tuple(entry) for name, entry in body["files"].items()}
        body["chunks"] = tuple(Chunk(*chunk) for chunk in body["chunks"])
        return Manifest(**body)


def verify(path: Path, size: int, crc: int) -> None:
    """Raise BrokenError unless a file has this size and checksum."""
    with _readable(path):
        found = path.stat().st_size
        if found != size:
            raise BrokenError(f"{path.name} has {found} bytes instead of {size}")
        actual = 0
        with open(path, "rb") as file:
            while block := file.read(1 << 20):
                actual = zlib.crc32(block, actual)
        if actual != crc:
            raise BrokenError(f"{path.name} has a wrong checksum")


def read_tensors(path: Path, *, mmap: bool = False) -> Any:
    """Load tensors and plain Python onto the CPU. Raises BrokenError for what is no such file."""
    with _readable(path):
        return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Turn whatever reading a damaged file can raise into one reason."""
    try:
        yield
    except FileNotFoundError:
        raise BrokenError(f"{path.name} is missing") from None
    except BrokenError:
        raise
    except OSError as error:
        raise BrokenError(f"{path.name} cannot be read: {error.strerror or error}") from error
    except Exception as error:  # a damaged JSON or zip file raises almost anything
        raise BrokenError(f"{path.name} cannot be read: {type(error).__name__}") from error


def _is_there(path: Path, size: int | None) -> bool:
    """Return whether a file exists with its size, where that is known."""
    try:
        found = path.stat().st_size
    except OSError:
        return False
    return size is None or found == size


def _checksum(body: dict[str, Any]) -> int:
    return zlib.crc32(json.dumps(body, sort_keys=True).encode())
