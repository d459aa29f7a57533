"""An index as a folder: a description, and for each source a part of embeddings, rows and pictures."""

import csv
import hashlib
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from curl_rl.representation.index.rows import Rows
from curl_rl.run.files import check_folder, write_whole
from curl_rl.types import ConfigError

DESCRIPTION = "index.json"
ENCODER = "encoder"  # the folder beside of what embedded the frames
LOCK = ".lock"
_EMBEDDINGS, _ROWS = "embeddings.safetensors", "frames.csv"


_OWN = re.compile(r"encoder|part-\d+|\.lock|(tmp-)?index\.json")  # what stands in an index's folder
_EXPORTED = re.compile(r"(tmp-)?(config\.json|.+\.safetensors)")  # and in its encoder's


class IndexFolderError(ConfigError):
    """An index that cannot be used; the message names file, fault and mend."""


class Part(NamedTuple):
    """What an index holds of one source."""

    embeddings: Tensor  # (N, d) float32
    rows: Rows
    sheets: tuple[bytes, ...]  # JPEG files
    told: dict[str, Any]  # the source: how its frames are read again, and their CRC-32


def write_index(out: Path, described: dict[str, Any], parts: Sequence[Part]) -> None:
    """Write an index, or add to one the parts that it lacks; until that is done it stays as it was.

    Args: described, what is true of all parts. Raises FileExistsError where the folder holds another index or something
    else, WriteError.
    """
    there, told = check_same(out, described), []
    contents = [_contents(part) for part in parts]
    for part, files in zip(parts, contents, strict=True):
        hashes = {name: _hash(content) for name, content in files.items()}
        told.append({"source": part.told, "frames": len(part.embeddings), "files": hashes})
    if there != told[: len(there)]:
        raise FileExistsError(f"{out} holds an index of other frames: give another --out, or append to it")
    for number in range(len(there), len(parts)):
        write_whole({_place(out, number) / name: content for name, content in contents[number].items()})
    whole = {**described, "parts": told}
    whole["checksum"] = _hash(json.dumps(whole, sort_keys=True).encode())
    write_whole({out / DESCRIPTION: json.dumps(whole, indent=2) + "\n"})


def read_index(path: Path) -> tuple[dict[str, Any], list[Part]]:
    """Return what an index says of itself, and its parts, each file checked by its hash.

    Raises FileNotFoundError where there is none, IndexFolderError where it is no longer as it was written.
    """
    described = _description(path)
    try:
        return described, [_part(_place(path, i), entry) for i, entry in enumerate(described["parts"])]
    except (LookupError, TypeError, AttributeError) as error:
        raise _damaged(path / DESCRIPTION, "it describes no index of this version") from error


def check_place(out: Path) -> None:
    """Raise an OSError where no index can be written: where a file is, or a folder of something else."""
    check_folder(out)
    if not out.is_dir() or (out / DESCRIPTION).is_file():
        return
    encoder = out / ENCODER
    if not all(_OWN.fullmatch(path.name) for path in out.iterdir()) or (
        encoder.exists() and not all(_EXPORTED.fullmatch(path.name) for path in encoder.iterdir())
    ):
        raise FileExistsError(f"{out} holds something else than an index: give another --out")


def check_outside(file: Path | None, index: Path) -> None:
    """Raise ConfigError for a file to be written among an index's own."""
    if file is not None and file.resolve().is_relative_to(index.resolve()):
        raise ConfigError(f"{file} would lie in the index {index}: give a place outside of it")


def check_same(out: Path, described: dict[str, Any]) -> list[dict[str, Any]]:
    """Return what a folder's index says of its parts, none where there is no index yet.

    Raises an OSError where none can be, or one is that differs in what is true of all parts.
    """
    check_place(out)
    if not (out / DESCRIPTION).is_file():
        return []
    stored = _description(out)
    if {name: stored.get(name) for name in described} != described:
        raise FileExistsError(f"{out} holds an index by another encoder or metric: give another --out")
    return stored["parts"]


def _contents(part: Part) -> dict[str, bytes]:
    """Return a part's files by their names."""
    files = {_EMBEDDINGS: save({"embeddings": part.embeddings}), _ROWS: part.rows.to_csv().encode()}
    return files | {f"pictures-{place:04d}.jpg": sheet for place, sheet in enumerate(part.sheets)}


def _place(out: Path, number: int) -> Path:
    return out / f"part-{number:03d}"


def _description(path: Path) -> dict[str, Any]:
    file = path / DESCRIPTION
    try:
        described = json.loads(file.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise FileNotFoundError(
            f"no index in {path} ({DESCRIPTION} is missing): curl-rl index ENCODER --data SOURCE --out {path}"
        ) from None
    except ValueError as error:
        raise _damaged(file, f"it is no JSON ({error})") from error
    if not isinstance(described, dict) or "checksum" not in described:
        raise _damaged(file, "it has no checksum")
    if described.pop("checksum") != _hash(json.dumps(described, sort_keys=True).encode()):
        raise _damaged(file, "it is not as it was written, by its checksum")
    return described


def _part(place: Path, entry: dict[str, Any]) -> Part:
    contents = {name: _read(place / name, checksum) for name, checksum in entry["files"].items()}
    try:
        embeddings = load(contents.pop(_EMBEDDINGS))["embeddings"]
        rows = Rows.from_csv(contents.pop(_ROWS).decode())
    except (SafetensorError, ValueError, csv.Error) as error:
        raise _damaged(place, str(error)) from error
    if not len(embeddings) == len(rows.names) == entry["frames"]:
        raise _damaged(place, "its embeddings and rows differ in number")
    return Part(embeddings, rows, tuple(contents[name] for name in sorted(contents)), entry["source"])


def _read(path: Path, checksum: str) -> bytes:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise _damaged(path, f"it cannot be read ({error.strerror})") from error
    if _hash(content) != checksum:
        raise _damaged(path, "it is not as it was written, by its checksum; it may have been cut off")
    return content


def _damaged(path: Path, fault: str) -> IndexFolderError:
    return IndexFolderError(f"{path} cannot be used: {fault}; remove the index and make it again: curl-rl index")


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
