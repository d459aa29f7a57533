"""What a run leaves for people: CSV tables, TensorBoard and videos."""

import importlib
import io
import math
import os
import sys
import time
import zlib
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch
from torch import Tensor

from curl_rl import Error
from curl_rl.run.documents import read_bytes
from curl_rl.run.files import WriteError, write_whole, writing
from curl_rl.run.trackers import Audience
from curl_rl.run.video import check_frames
from curl_rl.types import Clock, ConfigError, Episode, Origin

EVAL_COLUMNS = ("agent_step", "frame", "update", "episode", "return", "length", "seconds", *Origin._fields)
TRAIN_COLUMNS = ("agent_step", "frame", "update", "name", "value")
COLUMNS = {"eval.csv": EVAL_COLUMNS, "train.csv": TRAIN_COLUMNS}
_EVENTS = "events.out.tfevents."
_GIF_FRAMES = 128  # TensorBoard's checksum is pure Python (6 MB/s), so a long episode is shown with fewer frames
_GRID_GAP = 2


class RunLogger:
    """Write `eval.csv`, `train.csv` and TensorBoard events of one run.

    Rows of evaluations end with their `origin`. `resume` is the state at the save from which the run goes on: what was
    written after it is cut off. `tables` are those that there shall be. `audience` is told every row too, of an
    evaluation the means. TensorBoard's axis is agent_step. ConfigError, with nothing changed, for tables that are not
    those of the state, or hold rows where there is none; WriteError on a full disk.
    """

    def __init__(
        self,
        run_dir: Path,
        origin: Origin,
        *,
        resume: Mapping[str, Any] | None = None,
        tables: Sequence[str] = tuple(COLUMNS),
        audience: Audience | None = None,
    ):
        self._origin, self._audience = origin, audience or Audience()
        with writing(run_dir):
            run_dir.mkdir(parents=True, exist_ok=True)
        marks = dict.fromkeys(tables) if resume is None else resume["tables"]
        kept = {name: _kept(run_dir / name, COLUMNS[name], marks[name]) for name in tables}
        with ExitStack() as opened:
            self._tables = {n: opened.enter_context(closing(_Table(run_dir / n, kept[n]))) for n in kept}
            self._events = _Events(run_dir / "tensorboard", None if resume is None else resume["tensorboard"])
            opened.pop_all()  # none failed: they are this logger's to close

    def state_dict(self) -> dict[str, Any]:
        """Return how much has been written, and the checksum of each table."""
        tables = {name: (table.size, table.crc) for name, table in self._tables.items()}
        told = {"trackers": self._audience.state_dict()}
        return {"tables": tables, "tensorboard": self._events.state_dict(), **told}

    def scalars(self, clock: Clock, values: Mapping[str, float]) -> None:
        """Write one row and one TensorBoard scalar for each value."""
        self._tables["train.csv"].append((*clock, name, float(value)) for name, value in values.items())
        self._events.scalars(clock, values)
        self._audience.scalars(clock, values)

    def evaluation(self, clock: Clock, episodes: Sequence[Episode], seconds: float) -> None:
        """Write one row for each of at least one episodes; `seconds` stands in every row."""
        rows = [(*clock, e.index, float(e.score), e.length, float(seconds), *self._origin) for e in episodes]
        self._tables["eval.csv"].append(rows)
        means = {"eval/return": fmean(e.score for e in episodes), "eval/length": fmean(e.length for e in episodes)}
        self._events.scalars(clock, means)
        self._audience.scalars(clock, means)

    def images(self, clock: Clock, name: str, grid: Tensor) -> None:
        """Show one image (3, H, W) uint8."""
        self._events.image(clock, name, "PNG", grid.permute(1, 2, 0)[None].cpu().numpy())

    def views(self, clock: Clock, views: Mapping[str, Tensor], stack: int) -> None:
        """Show the newest frames of named batches of stacked ones (B, k*C, h, w) uint8."""
        for name, images in views.items():
            newest = images[:, -(images.shape[1] // stack) :][:, :3].expand(-1, 3, -1, -1)
            self.images(clock, f"crops/{name}", image_grid(newest, 4))

    def video(self, clock: Clock, name: str, frames: np.ndarray, fps: float) -> None:
        """Show frames (T, H, W, 3) uint8 as a moving image, at most 128 of them over the same duration."""
        check_frames(frames)
        stride = math.ceil(len(frames) / _GIF_FRAMES)
        duration = max(20, round(1000 * stride / fps))  # browsers slow down anything faster than 20 ms a frame
        self._events.image(clock, name, "GIF", frames[::stride], duration=duration, loop=0)

    def flush(self) -> None:
        """Force everything to the disk, before a checkpoint; a table that was deleted meanwhile is written anew.

        WriteError where another file, or another folder, has taken its place.
        """
        for table in self._tables.values():
            table.restore()
        for file in (*self._tables.values(), self._events):
            file.flush()

    def close(self) -> None:
        """Close every file; raises what the audience has raised."""
        for file in (*self._tables.values(), self._events):
            file.close()
        self._audience.close()


class _File:
    """An append-only file without a buffer, so that nothing is left to fail in `close`."""

    def __init__(self, path: Path):
        self.path = path
        with writing(path):
            self._file = open(path, "a+b", buffering=0)  # noqa: SIM115 - closed by close()
        self.size = self._file.seek(0, os.SEEK_END)

    def write(self, content: bytes) -> None:
        rest = memoryview(content)
        with writing(self.path):
            while rest:
                rest = rest[self._file.write(rest) :]
        self.size += len(content)

    def flush(self) -> None:
        with writing(self.path):
            os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()


class _Table(_File):
    """A CSV file, cut back to its first bytes when it is opened."""

    def __init__(self, path: Path, kept: bytes):
        with writing(path):
            content = path.read_bytes() if path.exists() else b""
            if not content.startswith(kept):  # a new table, or a header that a kill has torn
                write_whole({path: kept})
            elif content != kept:
                os.truncate(path, len(kept))
        super().__init__(path)
        self.crc = zlib.crc32(kept)

    def append(self, rows: Iterable[tuple[int | float | str, ...]]) -> None:
        # repr keeps every bit of a float, so equal runs give equal files.
        content = "".join(",".join(_cell(cell) for cell in row) + "\n" for row in rows).encode()
        self.write(content)
        self.crc = zlib.crc32(content, self.crc)

    def restore(self) -> None:
        """Write the file anew where it was deleted: what was written is still to be had as long as it is open."""
        ours = os.fstat(self._file.fileno())
        with writing(self.path):
            found = self.path.lstat() if self.path.parent.exists() and os.path.lexists(self.path) else None
        if found is not None and os.path.samestat(found, ours):
            return
        if found is not None or ours.st_nlink:
            raise WriteError(
                f"{self.path} is not the file that this run writes, which was moved or replaced: bring it back, then "
                "run the same command again"
            )
        self._file.seek(0)
        write_whole({self.path: self._file.read()})
        print(f"{self.path} was deleted while it was written: it is written anew", file=sys.stderr)
        self._file.close()
        self._file = open(self.path, "a+b", buffering=0)  # noqa: SIM115 - closed by close()


class _Events(_File):
    """A TensorBoard event file, written in this thread so that an error reaches the caller, unlike SummaryWriter's.

    One for each start of a run. `resume` says how long the earlier ones were at the save from which the run goes on.
    """

    def __init__(self, directory: Path, resume: Mapping[str, Any] | None):
        self._record_writer = importlib.import_module("tensorboard.summary.writer.record_writer").RecordWriter(self)
        # These classes are made at import, where a type checker cannot see them.
        self._event_pb2: Any = importlib.import_module("tensorboard.compat.proto.event_pb2")
        self._summary: Any = importlib.import_module("tensorboard.compat.proto.summary_pb2").Summary
        self._last, self._sizes = (-1, {}) if resume is None else (resume["last"], dict(resume["sizes"]))
        with writing(directory):
            directory.mkdir(exist_ok=True)
            if resume is not None:
                self._cut(directory)
            count = len(list(directory.iterdir()))
        super().__init__(directory / f"{_EVENTS}{time.time():010.0f}.{count:04d}")
        self._add(self._last + 1, file_version="brain.Event:2")
        # In a TensorBoard that has read what was cut off, a session's start hides the events from this step on.
        log = self._event_pb2.SessionLog
        self._add(self._last + 1, session_log=log(status=log.START))

    def _cut(self, directory: Path) -> None:
        """Take away what was written after the save: a session's start hides by step, and one step has many events."""
        for path in sorted(directory.glob(f"{_EVENTS}*")):
            if path.name not in self._sizes:
                path.unlink()
            elif path.stat().st_size > self._sizes[path.name]:
                os.truncate(path, self._sizes[path.name])

    def state_dict(self) -> dict[str, Any]:
        return {"last": self._last, "sizes": {**self._sizes, self.path.name: self.size}}

    def scalars(self, clock: Clock, values: Mapping[str, float]) -> None:
        cells = [self._summary.Value(tag=tag, simple_value=value) for tag, value in values.items()]
        self._log(clock, cells)

    def image(self, clock: Clock, tag: str, kind: str, frames: np.ndarray, **options: Any) -> None:
        """Write frames (T, H, W, 3) as one file of an image format, moving where there are several."""
        from PIL import Image

        first, *rest = [Image.fromarray(frame) for frame in np.ascontiguousarray(frames)]
        buffer = io.BytesIO()
        first.save(buffer, kind, save_all=bool(rest), append_images=rest, **options)
        size = {"height": first.height, "width": first.width, "colorspace": 3}
        image = self._summary.Image(**size, encoded_image_string=buffer.getvalue())
        self._log(clock, [self._summary.Value(tag=tag, image=image)])

    def _log(self, clock: Clock, cells: Sequence[Any]) -> None:
        self._last = max(self._last, clock.agent_step)
        self._add(clock.agent_step, summary=self._summary(value=cells))

    def _add(self, step: int, **content: Any) -> None:
        event = self._event_pb2.Event(wall_time=time.time(), step=step, **content)
        self._record_writer.write(event.SerializeToString())


class NonFiniteError(Error, FloatingPointError):
    """A metric that is NaN or infinite; the message names the mend."""


class MetricMeans:
    """Average metrics on their device; only `peek` and `take` wait for it."""

    def __init__(self) -> None:
        # Metrics that are reported together share one sum, so an update costs two small kernels, not two a metric.
        self._sums: dict[tuple[str, ...], tuple[Tensor, int]] = {}
        self._device = torch.device("cpu")

    @torch.no_grad()
    def add(self, metrics: Mapping[str, Tensor]) -> None:
        """Add scalar tensors of one device; a name may be absent from some updates."""
        if not metrics:
            return
        values = torch.stack([value.detach().reshape(()) for value in metrics.values()]).double()
        total, count = self._sums.get(tuple(metrics), (torch.zeros_like(values), 0))
        self._device = values.device
        self._sums[tuple(metrics)] = (total.to(self._device) + values, count + 1)

    def peek(self) -> dict[str, float]:
        """Return the means by name, sorted."""
        if not self._sums:
            return {}
        flat = torch.cat([total.to(self._device) for total, _ in self._sums.values()]).tolist()
        totals: dict[str, tuple[float, int]] = {}
        cells = [(name, count) for names, (_, count) in self._sums.items() for name in names]
        for (name, count), value in zip(cells, flat, strict=True):
            total, seen = totals.get(name, (0.0, 0))
            totals[name] = (total + value, seen + count)
        return {name: total / count for name, (total, count) in sorted(totals.items())}

    def take(self) -> dict[str, float]:
        """Return the means and start again."""
        means, self._sums = self.peek(), {}
        return means

    def state_dict(self) -> dict[str, Any]:
        return {"groups": [(list(names), total.cpu(), count) for names, (total, count) in self._sums.items()]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._sums = {tuple(names): (total, count) for names, total, count in state["groups"]}


def raise_on_nonfinite(
    means: Mapping[str, float],
    clock: Clock,
    mend: str = "agent.learning_rate or agent.precision=float32 in a new run_dir",
) -> None:
    """Raise NonFiniteError naming every mean that is NaN or infinite; call it before a checkpoint is written."""
    bad = ", ".join(f"{name} is {value}" for name, value in means.items() if not math.isfinite(value))
    if bad:
        raise NonFiniteError(
            f"{bad} at agent step {clock.agent_step} (frame {clock.frame}, update {clock.update}); no checkpoint "
            f"was written of this. Try a lower {mend}"
        )


def image_grid(batch: Tensor, columns: int) -> Tensor:
    """Lay images (B, 3, h, w) uint8 out in rows with a black gap; returns (3, H, W) on the CPU."""
    if batch.ndim != 4 or batch.shape[1] != 3 or batch.dtype != torch.uint8 or len(batch) == 0:
        raise ValueError(f"expected images (B, 3, h, w) uint8, got {tuple(batch.shape)} {batch.dtype}")
    columns = min(columns, len(batch))
    rows = math.ceil(len(batch) / columns)
    missing = rows * columns - len(batch)
    cells = torch.nn.functional.pad(batch.cpu(), (0, _GRID_GAP, 0, _GRID_GAP, 0, 0, 0, missing))
    grid = cells.unflatten(0, (rows, columns)).permute(2, 0, 3, 1, 4).flatten(3, 4).flatten(1, 2)
    return grid[:, :-_GRID_GAP, :-_GRID_GAP].contiguous()


def _kept(path: Path, columns: tuple[str, ...], mark: tuple[int, int] | None) -> bytes:
    """Return the part of a table that a state knows by its size and checksum, or the header of a new one."""
    header = (",".join(columns) + "\n").encode()
    try:
        content = read_bytes(path)
    except FileNotFoundError:
        content = b""
    if mark is None:
        if content.count(b"\n") > 1:
            mend = "restore checkpoints/ from a copy, or give another run_dir, or restart=true, which keeps them beside"
            raise ConfigError(f"{path} holds results, and no checkpoint goes on from them: {mend}")
        return header
    size, crc = mark
    kept = content[:size]
    fault = "is missing" if not content else f"has {len(content)} bytes of {size}" if len(content) < size else ""
    if not fault and zlib.crc32(kept) != crc:
        fault = "was changed since"
    if not fault and not kept.startswith(header):
        fault = "has the columns of another version"
    if fault:
        mend = "restore it from a copy, or start a new run in another run_dir"
        raise ConfigError(f"{path} is not the table that the checkpoint was saved with (it {fault}): {mend}")
    return kept


def written_since(run_dir: Path, log: Mapping[str, Any], name: str) -> list[dict[str, str]]:
    """Return the whole rows that a table has beyond what a logger's state knows. Raises ConfigError as a resume."""
    kept, header = _kept(run_dir / name, COLUMNS[name], log["tables"][name]), COLUMNS[name]
    lines = (run_dir / name).read_bytes()[len(kept) :].split(b"\n")[:-1]
    return [dict(zip(header, line.decode(errors="replace").split(","), strict=False)) for line in lines]


def as_written(run_dir: Path, log: Mapping[str, Any], agent_step: int) -> dict[str, Any]:
    """Return a logger's state as if it had been taken after all that was written since, up to an agent step."""
    tables = {}
    for name, mark in log["tables"].items():
        _kept(run_dir / name, COLUMNS[name], mark)
        whole = (run_dir / name).read_bytes().rpartition(b"\n")
        tables[name] = len(content := whole[0] + whole[1]), zlib.crc32(content)
    files = (run_dir / "tensorboard").glob(f"{_EVENTS}*")
    sizes = {path.name: path.stat().st_size for path in files}
    events = {"last": max(log["tensorboard"]["last"], agent_step), "sizes": sizes}
    return {**log, "tables": tables, "tensorboard": events}


def _cell(value: float | str) -> str:
    if isinstance(value, str) and set(value) & set(',"\n\r'):
        raise ValueError(f"a metric's name cannot hold commas, quotes or line ends: {value!r}")
    return value if isinstance(value, str) else repr(value)
