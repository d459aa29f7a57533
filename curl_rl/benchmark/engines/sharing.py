"""A run directory kept in step with a URL that fsspec opens: pulled before its command starts, pushed while it runs."""

import json
import os
import shutil
import uuid
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import fsspec

from curl_rl.run.files import replacing
from curl_rl.types import ConfigError

TABLES = ("config.json", "metadata.json", "eval.csv", "train.csv")
_CHECKPOINTS = "checkpoints/"
_MANIFEST = "checkpoints/manifest-"
_OWNER = ".owner"
_PART = ".part-"


class TakenError(RuntimeError):
    """Another process pulled the directory, so what this one does no longer counts."""


def is_url(run_dir: str) -> bool:
    """Return whether a run directory is opened by fsspec and not by the operating system."""
    return "://" in run_dir


class SharedDirectory:
    """A directory behind a URL and its copy on this machine.

    At every moment what lies behind the URL is a run that can be resumed: a manifest says that a checkpoint is whole,
    so it is written after the files that it names and after the tables that are at least as new, and goes before them.
    Raises ConfigError for a URL that cannot be opened, OSError of fsspec for what cannot be read or written.
    """

    def __init__(self, url: str, local: Path):
        try:
            self._files, root = fsspec.url_to_fs(url)
        except ImportError as error:
            raise ConfigError(f"{url} needs a package that is not installed: {error}") from None
        except ValueError as error:
            raise ConfigError(f"cannot open {url}: {error}") from None
        self.url, self.local, self._root = url, local, root.rstrip("/")
        self._token = ""
        self._pushed: dict[str, Any] = {}  # what lies there: the bytes of a manifest, size and time of other files
        self._fetched: dict[str, str] = {}
        self._made = set[str]()

    def pull(self) -> None:
        """Take the directory over from whoever pushed there, and make the local one equal to it."""
        self._token = uuid.uuid4().hex
        self._replace(_OWNER, self._token.encode())
        self._empty()
        self._files.invalidate_cache()
        for path in self._files.find(self._root):
            name = path.removeprefix(self._root).removeprefix("/")
            if Path(name).name.startswith(_PART):  # a push died here
                self._files.rm_file(self._at(name))
            elif name and not name.endswith("/") and name != _OWNER:
                target = self.local / name
                target.parent.mkdir(parents=True, exist_ok=True)
                self._files.get_file(self._at(name), str(target))
        self._pushed = self._stamps() | self._manifests()

    def push(self) -> None:
        """Bring what changed since the last push or pull; a later push makes good for one that failed.

        Raises TakenError, having written nothing, once another process has pulled.
        """
        self._check_owner()
        # Manifests are read first: the tables read after them know all that they know, or more.
        manifests, stamps = self._manifests(), self._stamps()
        needed = {name: _files_of(body) for name, body in manifests.items()}
        for name in sorted(stamps, key=lambda name: (not name.startswith(_CHECKPOINTS), name)):
            if self._pushed.get(name) != stamps[name] and self._push_file(name):
                self._pushed[name] = stamps[name]
        whole = [name for name in sorted(manifests) if needed[name] <= self._pushed.keys()]
        for name in whole:
            if self._pushed.get(name) != manifests[name]:
                self._replace(name, manifests[name])
                self._pushed[name] = manifests[name]
        if len(whole) == len(manifests):  # else a checkpoint was pruned under this push, and the next one tidies up
            self._remove(self._pushed.keys() - manifests.keys() - stamps.keys() - set().union(*needed.values()))

    def fetch(self, names: Iterable[str] = TABLES) -> None:
        """Copy some files that changed since the last call, without taking the directory over."""
        self._files.invalidate_cache()
        for name in names:
            with suppress(FileNotFoundError):
                key = self._files.ukey(self._at(name))
                if self._fetched.get(name) != key:
                    with replacing(self.local / name) as (part,):
                        self._files.get_file(self._at(name), str(part))
                    self._fetched[name] = key

    def _at(self, name: str) -> str:
        return f"{self._root}/{name}"

    def _stamps(self) -> dict[str, Any]:
        """Return size and time of every local file that is pushed, but manifests."""
        stamps = {}
        for folder, _, names in os.walk(self.local):
            for path in (Path(folder, name) for name in names):
                name = path.relative_to(self.local).as_posix()
                if path.name.startswith(("tmp-", _PART)) or name == ".lock" or name.startswith(_MANIFEST):
                    continue
                with suppress(FileNotFoundError):
                    found = path.stat()
                    stamps[name] = found.st_size, found.st_mtime_ns
        return stamps

    def _manifests(self) -> dict[str, Any]:
        found = {}
        for path in self.local.glob(f"{_MANIFEST}*"):
            with suppress(FileNotFoundError):
                found[path.relative_to(self.local).as_posix()] = path.read_bytes()
        return found

    def _push_file(self, name: str) -> bool:
        """Return whether the file was still there."""
        path = self.local / name
        try:
            if name.startswith(_CHECKPOINTS):
                # Half of one does no harm: no manifest names it yet, and its own name holds its checksum.
                self._make_folder(name)
                self._files.put_file(str(path), self._at(name))
            else:
                self._replace(name, path.read_bytes())
        except FileNotFoundError:
            if path.exists():
                raise
            return False
        return True

    def _replace(self, name: str, content: bytes) -> None:
        """Write a file whole or not at all, also where writing is not atomic."""
        self._make_folder(name)
        folder, _, last = self._at(name).rpartition("/")
        self._files.pipe_file(f"{folder}/{_PART}{last}", content)
        self._files.mv(f"{folder}/{_PART}{last}", self._at(name))

    def _make_folder(self, name: str) -> None:
        folder = self._at(name).rpartition("/")[0]
        if folder not in self._made:
            self._files.makedirs(folder, exist_ok=True)
            self._made.add(folder)

    def _remove(self, names: Iterable[str]) -> None:
        for name in sorted(names, key=lambda name: (not name.startswith(_MANIFEST), name)):
            with suppress(FileNotFoundError):
                self._files.rm_file(self._at(name))
            del self._pushed[name]

    def _check_owner(self) -> None:
        owner = ""
        with suppress(FileNotFoundError):
            owner = self._files.cat_file(self._at(_OWNER)).decode()
        if owner != self._token:
            raise TakenError(f"{self.url} was taken over by another process, or removed: nothing more is written to it")

    def _empty(self) -> None:
        self.local.mkdir(parents=True, exist_ok=True)
        for path in self.local.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            elif path.name != ".lock":
                path.unlink()


def _files_of(manifest: bytes) -> set[str]:
    """Return the files that a checkpoint consists of, besides its manifest."""
    return {f"{_CHECKPOINTS}{name}" for name in json.loads(manifest)["body"]["files"]}
