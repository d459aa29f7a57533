"""What a run leaves for people: CSV tables, TensorBoard, videos, and a line on the console."""

import importlib
import io
import math
import os
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from statistics import fmean
from typing import Any, TextIO

import numpy as np
import torch
from torch import Tensor

from curl_rl.files import write_atomically, writing
from curl_rl.types import Clock, ConfigError, Episode, Origin
from curl_rl.video import check_frames

EVAL_COLUMNS = ("agent_step", "frame", "update", "episode", "return", "length", "seconds", *Origin._fields)
TRAIN_COLUMNS = ("agent_step", "frame", "update", "name", "value")

_GIF_FRAMES = 128  # TensorBoard's checksum is pure Python (6 MB/s), so a long episode is shown with fewer frames
_GRID_GAP = 2
_PLAIN_SECONDS = 30.0


class RunLogger:
    """Write `eval.csv`, `train.csv` and TensorBoard events of one run.

    Rows of evaluations end with their `origin`. With `resume`, rows after its agent_step are cut off, and
    evaluations after that of agent_step `evaluated`; without, the tables start anew. TensorBoard's axis is agent_step.
    WriteError on a full disk.
    """

    def __init__(self, run_dir: Path, origin: Origin, *, resume: Clock | None = None, evaluated: int | None = None):
        self._origin = origin
        last = -1 if resume is None else resume.agent_step
        last_evaluated = last if evaluated is None else min(last, evaluated)
        with writing(run_dir):
            run_dir.mkdir(parents=True, exist_ok=True)
        self._eval = _Table(run_dir / "eval.csv", EVAL_COLUMNS, last_evaluated)
        self._train = _Table(run_dir / "train.csv", TRAIN_COLUMNS, last)
        self._events = _Events(run_dir / "tensorboard", last)

    def scalars(self, clock: Clock, values: Mapping[str, float]) -> None:
        """Write one row and one TensorBoard scalar for each value."""
        self._train.append((*clock, name, float(value)) for name, value in values.items())
        self._events.scalars(clock, values)

    def evaluation(self, clock: Clock, episodes: Sequence[Episode], seconds: float) -> None:
        """Write one row for each of at least one episodes; `seconds` stands in every row."""
        self._eval.append((*clock, e.index, float(e.score), e.length, float(seconds), *self._origin) for e in episodes)
        means = {"eval/return": fmean(e.score for e in episodes), "eval/length": fmean(e.length for e in episodes)}
        self._events.scalars(clock, means)

    def images(self, clock: Clock, name: str, grid: Tensor) -> None:
        """Show one image (3, H, W) uint8."""
        self._events.image(clock, name, "PNG", grid.permute(1, 2, 0)[None].cpu().numpy())

    def video(self, clock: Clock, name: str, frames: np.ndarray, fps: float) -> None:
        """Show frames (T, H, W, 3) uint8 as a moving image, at most 128 of them over the same duration."""
        check_frames(frames)
        stride = math.ceil(len(frames) / _GIF_FRAMES)
        duration = max(20, round(1000 * stride / fps))  # browsers slow down anything faster than 20 ms a frame
        self._events.image(clock, name, "GIF", frames[::stride], duration=duration, loop=0)

    def flush(self) -> None:
        """Force everything to the disk, before a checkpoint."""
        for file in (self._eval, self._train, self._events):
            file.flush()

    def close(self) -> None:
        for file in (self._eval, self._train, self._events):
            file.close()


class _File:
    """An append-only file without a buffer, so that nothing is left to fail in `close`."""

    def __init__(self, path: Path):
        self.path = path
        with writing(path):
            self._file = open(path, "ab", buffering=0)  # noqa: SIM115 - closed by close()

    def write(self, content: bytes) -> None:
        rest = memoryview(content)
        with writing(self.path):
            while rest:
                rest = rest[self._file.write(rest) :]

    def flush(self) -> None:
        with writing(self.path):
            os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()


class _Table(_File):
    """A CSV file, cut back to the rows at or before an agent_step when it is opened."""

    def __init__(self, path: Path, columns: tuple[str, ...], last: int):
        with writing(path):
            write_atomically(path, "".join([",".join(columns) + "\n", *_rows_until(path, columns, last)]))
        super().__init__(path)

    def append(self, rows: Iterable[tuple[int | float | str, ...]]) -> None:
        # repr keeps every bit of a float, so equal runs give equal files.
        self.write("".join(",".join(_cell(cell) for cell in row) + "\n" for row in rows).encode())


class _Events(_File):
    """A TensorBoard event file, written in this thread so that an error reaches the caller, unlike SummaryWriter's."""

    def __init__(self, directory: Path, last: int):
        self._record_writer = importlib.import_module("tensorboard.summary.writer.record_writer").RecordWriter(self)
        # These classes are made at import, where a type checker cannot see them.
        self._event_pb2: Any = importlib.import_module("tensorboard.compat.proto.event_pb2")
        self._summary: Any = importlib.import_module("tensorboard.compat.proto.summary_pb2").Summary
        with writing(directory):
            directory.mkdir(exist_ok=True)
            count = len(list(directory.iterdir()))
        super().__init__(directory / f"events.out.tfevents.{time.time():010.0f}.{count:04d}")
        self._add(last + 1, file_version="brain.Event:2")
        # A session's start hides the earlier sessions' events from this step on.
        log = self._event_pb2.SessionLog
        self._add(last + 1, session_log=log(status=log.START))

    def scalars(self, clock: Clock, values: Mapping[str, float]) -> None:
        cells = [self._summary.Value(tag=tag, simple_value=value) for tag, value in values.items()]
        self._add(clock.agent_step, summary=self._summary(value=cells))

    def image(self, clock: Clock, tag: str, kind: str, frames: np.ndarray, **options: Any) -> None:
        """Write frames (T, H, W, 3) as one file of an image format, moving where there are several."""
        from PIL import Image

        first, *rest = [Image.fromarray(frame) for frame in np.ascontiguousarray(frames)]
        buffer = io.BytesIO()
        first.save(buffer, kind, save_all=bool(rest), append_images=rest, **options)
        size = {"height": first.height, "width": first.width, "colorspace": 3}
        image = self._summary.Image(**size, encoded_image_string=buffer.getvalue())
        self._add(clock.agent_step, summary=self._summary(value=[self._summary.Value(tag=tag, image=image)]))

    def _add(self, step: int, **content: Any) -> None:
        event = self._event_pb2.Event(wall_time=time.time(), step=step, **content)
        self._record_writer.write(event.SerializeToString())


class MetricMeans:
    """Average metrics on their device; only `take` waits for it."""

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

    def take(self) -> dict[str, float]:
        """Return the means by name, sorted, and start again."""
        if not self._sums:
            return {}
        flat = torch.cat([total.to(self._device) for total, _ in self._sums.values()]).tolist()
        totals: dict[str, tuple[float, int]] = {}
        cells = [(name, count) for names, (_, count) in self._sums.items() for name in names]
        for (name, count), value in zip(cells, flat, strict=True):
            total, seen = totals.get(name, (0.0, 0))
            totals[name] = (total + value, seen + count)
        self._sums = {}
        return {name: total / count for name, (total, count) in sorted(totals.items())}

    def state_dict(self) -> dict[str, Any]:
        return {"groups": [(list(names), total.cpu(), count) for names, (total, count) in self._sums.items()]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._sums = {tuple(names): (total, count) for names, total, count in state["groups"]}


class Progress:
    """Show return, speed and time left: a bar on a terminal, else a line every half minute."""

    def __init__(self, total: int, *, initial: int = 0, unit: str = "step", stream: TextIO | None = None):
        self._total, self._done, self._unit = total, initial, unit
        self._stream = stream or sys.stderr
        self._return: float | None = None
        self._printed = (time.monotonic(), initial)
        self._bar: Any = None
        if self._stream.isatty():
            from tqdm import tqdm

            self._bar = tqdm(total=total, initial=initial, unit=unit, file=self._stream, dynamic_ncols=True)

    def update(self, done: int, episode_return: float | None = None) -> None:
        """Tell how many of the total are done, and the newest return if there is one."""
        new, self._done = done - self._done, done
        self._return = self._return if episode_return is None else episode_return
        if self._bar is not None:
            if episode_return is not None:
                self._bar.set_postfix_str(f"return {episode_return:.1f}", refresh=False)
            self._bar.update(new)
        elif time.monotonic() - self._printed[0] >= _PLAIN_SECONDS:
            self._print_line()

    def note(self, text: str) -> None:
        """Print a line without breaking the bar."""
        if self._bar is not None:
            self._bar.write(text, file=self._stream)
        else:
            print(text, file=self._stream, flush=True)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()
        elif self._done != self._printed[1]:
            self._print_line()

    def _print_line(self) -> None:
        now, (then, before) = time.monotonic(), self._printed
        rate = (self._done - before) / max(now - then, 1e-9)
        left = timedelta(seconds=round((self._total - self._done) / rate)) if rate > 0 else "?"
        result = "" if self._return is None else f"return {self._return:.1f}, "
        self.note(f"{self._done}/{self._total} {self._unit}s, {result}{rate:.1f} {self._unit}s/s, {left} left")
        self._printed = (now, self._done)


def raise_on_nonfinite(means: Mapping[str, float], clock: Clock) -> None:
    """Raise FloatingPointError naming every mean that is NaN or infinite; call it before a checkpoint is written."""
    bad = ", ".join(f"{name} is {value}" for name, value in means.items() if not math.isfinite(value))
    if bad:
        raise FloatingPointError(
            f"{bad} at agent step {clock.agent_step} (frame {clock.frame}, update {clock.update}); no checkpoint "
            "was written of this. Try a lower agent.learning_rate or agent.precision=float32 in a new run_dir"
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


def _rows_until(path: Path, columns: tuple[str, ...], last: int) -> Iterator[str]:
    """Yield the complete rows of a table up to an agent_step; a kill may have torn the end of the file."""
    text = path.read_bytes().decode(errors="replace") if last >= 0 and path.exists() else ""
    header, *rows = text.split("\n")[:-1] or [",".join(columns)]
    if header != ",".join(columns):
        mend = "resume with the version that wrote it, or start a new run in another run_dir"
        raise ConfigError(f"{path} has the columns {header}, this version writes {','.join(columns)}: {mend}")
    for row in rows:
        step = row.partition(",")[0]
        if row.count(",") == len(columns) - 1 and step.isdecimal() and int(step) <= last:
            yield row + "\n"


def _cell(value: float | str) -> str:
    if isinstance(value, str) and set(value) & set(',"\n\r'):
        raise ValueError(f"a metric's name cannot hold commas, quotes or line ends: {value!r}")
    return value if isinstance(value, str) else repr(value)
