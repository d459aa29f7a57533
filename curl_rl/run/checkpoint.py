"""Checkpoints that are atomic, cost in proportion to what is new, and say when they are broken."""

import os
import sys
import zlib
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from curl_rl import Error
from curl_rl.run.files import WriteError, replacing, write_whole, writing
from curl_rl.run.manifest import BrokenError, Chunk, Manifest, OtherVersionError, read_manifest, read_tensors, verify

_LASTING = ("manifest-", "state-", "journal-")
_PREFIXES = (*_LASTING, "tmp-")


class CheckpointError(Error, OSError):
    """A checkpoint that cannot be written or read; the message names the mend."""


class Journaled(Protocol):
    """An append-only ring of slots, of which the last `capacity` are live."""

    @property
    def written(self) -> int: ...

    @property
    def capacity(self) -> int: ...

    def journal(self, since: int, /) -> dict[str, Tensor]:
        """Return the slots max(since, written - capacity)..written, one row each."""
        ...

    def restore_journal(self, start: int, chunk: dict[str, Tensor], /) -> Any:
        """Write back the rows of the slots start, start + 1, ...; called in ascending order without gaps."""
        ...


class Checkpoints:
    """Keep the newest checkpoints of a run in one directory, and of chosen older ones the state.

    A checkpoint is a state file, a manifest (`manifest-<step>.json`) and journal files that it shares with its
    neighbours: only slots written since the last checkpoint are written again. Every file carries its checksum in its
    name, so a save never touches a file that an older checkpoint needs, and nothing left behind by a kill can be
    mistaken for a newer file. Call `load` before the first `save`.

    Args: besides, returns of the steps of all checkpoints there those that are kept beside the newest ones. Of these
    the state alone is kept, which can be played: the slots of their journals are deleted as a ring overwrites its own.
    """

    def __init__(
        self, directory: Path, keep: int = 2, *, besides: Callable[[Sequence[int]], Collection[int]] = lambda steps: ()
    ):
        if keep < 1:
            raise ValueError(f"keep must be at least 1, got {keep}")
        self._directory = Path(directory)
        self._keep, self._besides = keep, besides
        self._chain: list[Manifest] | None = None  # the kept checkpoints, oldest first

    def save(self, step: int, state: Mapping[str, Any], journal: Journaled | None = None) -> None:
        """Write a checkpoint and drop those that are no longer kept.

        The state may hold dicts, lists and tuples of tensors, str, bytes, bool, None, float and int of any size;
        TypeError names the path of anything else. CheckpointError (disk full, unwritable) leaves the previous
        checkpoint intact and no temporary file.
        """
        plain = _plain(state, "state")
        chain = self._present(self._known())
        before = {path.name for path in self._own_files(_LASTING)}
        try:
            with writing(self._directory):
                manifest = self._write(step, plain, journal, chain)
        except BaseException as error:
            with suppress(OSError):  # the failure being reported matters more
                self._keep_only(before)
            if not isinstance(error, WriteError):
                raise
            kept = f"checkpoint {chain[-1].step} is intact" if chain else "there is no earlier one"
            raise CheckpointError(f"cannot write checkpoint {step} ({kept}): {error}") from error
        self._chain = self._kept([*(kept for kept in chain if kept.step < step), manifest])
        self._keep_only({name for kept in self._chain for name in (kept.name, *kept.files)})

    def load(
        self, journal: Journaled | None = None, *, check: Callable[[dict[str, Any]], None] | None = None
    ) -> dict[str, Any] | None:
        """Return the state of the newest intact checkpoint, all on the CPU, and write its slots back into `journal`.

        None if nothing was ever saved. A broken checkpoint is skipped with one line on stderr; CheckpointError if
        there is none left. Without `journal` only the state is read and checked, and nothing on disk changes. `check`
        sees an intact state first and raises for one that must not be taken, which leaves `journal` untouched.
        """
        paths = self._own_files("manifest-")
        broken: list[tuple[Path, BrokenError]] = []
        for path in reversed(paths):
            try:
                manifest = read_manifest(path)
                state = self._restore(manifest, journal, check)
            except BrokenError as reason:
                broken.append((path, reason))
                continue
            if broken:
                print(f"{_describe(broken)}; using checkpoint {manifest.step}", file=sys.stderr)
            self._chain = [*self._older(manifest, paths), manifest]
            return state
        if paths:
            raise CheckpointError(self._none_intact(broken))
        if self._own_files():
            print(f"no checkpoint was completed in {self._directory}: starting from the beginning", file=sys.stderr)
        self._chain = []
        return None

    def steps(self) -> list[int]:
        """Return the steps of the checkpoints there, the oldest first, but for those whose manifest is damaged."""
        found = list[int]()
        for path in self._own_files("manifest-"):
            with suppress(BrokenError):
                found.append(read_manifest(path).step)
        return found

    def read(self, step: int, check: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
        """Return the state of the checkpoint of one of these steps; `check` sees it first, as in `load`.

        Raises CheckpointError where it is broken.
        """
        path = self._directory / Manifest(step, "", {}).name
        try:
            return self._restore(read_manifest(path), None, check)
        except BrokenError as reason:
            raise CheckpointError(f"{_describe([(path, reason)])}; choose another, or put its files back") from reason

    def _kept(self, chain: list[Manifest]) -> list[Manifest]:
        """Return of a chain what is kept: the newest as they are, of others that are to be kept the state."""
        older, newest = chain[: -self._keep], chain[-self._keep :]
        wanted = self._besides([manifest.step for manifest in chain]) if older else ()
        return [*(self._thinned(manifest) for manifest in older if manifest.step in wanted), *newest]

    def _thinned(self, manifest: Manifest) -> Manifest:
        """Write a manifest anew, without its journal; return it as it was where the disk refuses."""
        if manifest.written is None:
            return manifest
        thin = Manifest(manifest.step, manifest.state, {manifest.state: manifest.files[manifest.state]})
        try:
            write_whole({self._directory / thin.name: thin.to_json()})
        except OSError:  # tried again at the next save
            return manifest
        return thin

    def _known(self) -> list[Manifest]:
        if self._chain is None:
            if self._own_files("manifest-"):
                raise RuntimeError(f"{self._directory} already holds checkpoints: load() before save()")
            self._chain = []
        return self._chain

    def _present(self, chain: list[Manifest]) -> list[Manifest]:
        """Return the checkpoints of which every file is still there; one line on stderr tells of those that are not.

        A checkpoint shares its neighbours' files: without this look, all that follow a lost file would be useless.
        """
        lost = {manifest.step: manifest.lost_from(self._directory) for manifest in chain}
        present = [manifest for manifest in chain if not lost[manifest.step]]
        if len(present) < len(chain):
            names = ", ".join(sorted({name for files in lost.values() for name in files}))
            print(
                f"{self._directory} has lost {names} since it was written: what the next checkpoint needs of it is "
                "written anew",
                file=sys.stderr,
            )
        return present

    def _write(self, step: int, state: Any, journal: Journaled | None, chain: list[Manifest]) -> Manifest:
        manifest = Manifest(step, "", {})
        if journal is not None:
            manifest = self._write_journal(manifest, journal, chain[-1] if chain else None)
        name, entry = self._write_tensors(f"state-{step:012d}", state)
        manifest = manifest._replace(state=name, files={**manifest.files, name: entry})
        self._sync()  # the files must be on disk before a manifest says so
        write_whole({self._directory / manifest.name: manifest.to_json()})
        self._sync()
        return manifest

    def _write_journal(self, manifest: Manifest, journal: Journaled, last: Manifest | None) -> Manifest:
        """Add the slots that `last` has not, and the chunks of `last` that are still live."""
        written, first = journal.written, max(0, journal.written - journal.capacity)
        since = 0 if last is None or last.written is None else last.written
        if written < since:
            raise ValueError(f"the journal has {written} slots, fewer than the last checkpoint's {since}: load() first")
        old = () if last is None else last.chunks
        chunks = [chunk for chunk in old if chunk.end > first]
        files = {chunk.name: last.files[chunk.name] for chunk in chunks} if last else {}
        start = max(since, first)
        if written > start:
            rows = _plain(journal.journal(start), "journal")
            _check_rows(rows, written - start)
            name, files[name] = self._write_tensors(f"journal-{start:012d}-{written:012d}", rows)
            chunks.append(Chunk(start, written, name))
        return manifest._replace(files=files, first=first, written=written, chunks=tuple(chunks))

    def _write_tensors(self, stem: str, content: Any) -> tuple[str, tuple[int, int]]:
        sink = _Sink()
        # Also over an equal name: that file may be the damaged one.
        with replacing(self._directory / stem, named=lambda path: path.with_name(stem + sink.ending)) as (temporary,):
            sink.save(content, temporary)
        return stem + sink.ending, (sink.size, sink.crc)

    def _restore(
        self, manifest: Manifest, journal: Journaled | None, check: Callable[[dict[str, Any]], None] | None
    ) -> dict[str, Any]:
        """Verify everything first, so that a broken checkpoint leaves `journal` untouched."""
        chunks = () if journal is None else manifest.chunks
        for name in [manifest.state, *(chunk.name for chunk in chunks)]:
            verify(self._directory / name, *manifest.files[name])
        if journal is not None and manifest.written is None:
            raise BrokenError("it was saved without a replay")
        state = read_tensors(self._directory / manifest.state)
        if check is not None:
            check(state)
        rows = [read_tensors(self._directory / chunk.name, mmap=True) for chunk in chunks]
        for chunk, content in zip(chunks, rows, strict=True):
            start = max(chunk.start, manifest.first)
            live = {key: value[start - chunk.start :] for key, value in content.items()}
            journal.restore_journal(start, live)  # pyright: ignore[reportOptionalMemberAccess]
        return state

    def _older(self, manifest: Manifest, paths: list[Path]) -> list[Manifest]:
        """Return the checkpoints before `manifest`, read from their manifests alone."""
        found = list[Manifest]()
        for path in paths:
            with suppress(BrokenError):
                found.append(read_manifest(path))
        return [each for each in found if each.step < manifest.step]

    def _none_intact(self, broken: list[tuple[Path, BrokenError]]) -> str:
        if any(isinstance(reason, OtherVersionError) for _, reason in broken):
            mend = "use the version of curl-rl that wrote it, whose commit metadata.json names"
        else:
            mend = "put its files back from a copy"
        told = f"{_describe(broken)}; {mend}, or start a new run in another run_dir"
        return f"no usable checkpoint in {self._directory}: {told}"

    def _own_files(self, prefixes: str | tuple[str, ...] = _PREFIXES) -> list[Path]:
        """Return this class's files in order of their names; unlike glob, an unreadable directory is an error."""
        try:
            return sorted(path for path in self._directory.iterdir() if path.name.startswith(prefixes))
        except FileNotFoundError:
            return []
        except OSError as error:
            raise CheckpointError(
                f"cannot read the checkpoints in {self._directory}: {error.strerror}; "
                "make it a readable directory, or choose another run_dir"
            ) from error

    def _keep_only(self, names: set[str]) -> None:
        """Delete this class's other files, manifests first: one must not outlive its files."""
        for path in [*self._own_files("manifest-"), *self._own_files()]:
            if path.name not in names:
                with suppress(OSError):  # what cannot be deleted now is tried again at the next save
                    path.unlink(missing_ok=True)

    def _sync(self) -> None:
        descriptor = os.open(self._directory, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


class _Sink:
    """Count and checksum what torch writes into a file."""

    def __init__(self) -> None:
        self.size = self.crc = 0
        self._file: Any = None
        self._error: BaseException | None = None

    @property
    def ending(self) -> str:
        """Return the end of a name that tells of the content."""
        return f"-{self.crc:08x}.pt"

    def save(self, content: Any, path: Path) -> None:
        with open(path, "wb") as self._file:
            try:
                torch.save(content, self)  # pyright: ignore[reportArgumentType]
            except RuntimeError:
                # torch hides the cause of a failed write behind "unexpected pos".
                if self._error is None:
                    raise
            if self._error is not None:
                raise self._error

    def write(self, data: Any) -> int:
        size = memoryview(data).nbytes
        if self._error is None:
            try:
                self._file.write(data)
            except BaseException as error:  # torch would replace even a KeyboardInterrupt
                self._error = error
        self.size += size
        self.crc = zlib.crc32(data, self.crc)
        return size

    def flush(self) -> None:
        pass


def _plain(value: Any, path: str) -> Any:
    """Copy nested plain values, tensors detached, on the CPU and without the rest of the storage they view."""
    if type(value) in (type(None), bool, int, float, str, bytes):
        return value
    if type(value) in (Tensor, torch.nn.Parameter, torch.nn.Buffer):
        tensor = value.detach().cpu()
        return tensor if tensor.untyped_storage().nbytes() == tensor.nbytes else tensor.clone()
    if isinstance(value, Mapping):
        for key in value:
            if type(key) not in (str, int):
                raise TypeError(f"{path} has the key {key!r}: a checkpoint holds keys of type str and int only")
        return {key: _plain(item, f"{path}[{key!r}]") for key, item in value.items()}
    if type(value) in (list, tuple):
        return type(value)(_plain(item, f"{path}[{index}]") for index, item in enumerate(value))
    kind = f"{type(value).__module__}.{type(value).__qualname__}"
    raise TypeError(f"{path} is a {kind}: a checkpoint holds tensors and plain Python only (convert it in state_dict)")


def _check_rows(rows: dict[str, Tensor], count: int) -> None:
    for key, value in rows.items():
        if len(value) != count:
            raise ValueError(f"journal[{key!r}] has {len(value)} rows for {count} slots")


def _describe(broken: list[tuple[Path, BrokenError]]) -> str:
    steps = [path.stem.removeprefix("manifest-").lstrip("0") or "0" for path, _ in broken]
    return ", ".join(f"checkpoint {step} is not usable ({why})" for step, (_, why) in zip(steps, broken, strict=True))
