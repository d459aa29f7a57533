"""What a run says while it works: return, speed, the time left, and at its start how long it will take."""

import os
import sys
import time
from datetime import timedelta
from typing import Any, TextIO

_PLAIN_SECONDS, _WIDTH, _ROWS = 30.0, 80, 24
_WARM_UP, _SAMPLE = 5, 30  # agent steps with updates: those that allocate and compile, and those that are timed


class Progress:
    """Show return, speed and time left: a bar on a terminal or in a notebook, else a line now and every half minute.

    One that is `quiet` shows nothing.
    """

    def __init__(
        self, total: int, *, initial: int = 0, unit: str = "frame", stream: TextIO | None = None, quiet: bool = False
    ):
        self._total, self._done, self._unit = total, initial, unit
        self._stream = stream or sys.stderr
        self._return: float | None = None
        self._quiet = quiet
        self._printed = (time.monotonic(), initial)
        self._bar: Any = None
        if quiet:
            return
        if _in_notebook():
            from tqdm.auto import tqdm

            self._bar = tqdm(total=total, initial=initial, unit=unit)
        elif self._stream.isatty():
            from tqdm import tqdm

            shape = _shape(self._stream)
            options = {"initial": initial, "unit": unit, "ncols": shape[0], "nrows": shape[1]}
            self._bar = tqdm(total=total, file=self._stream, **options)
            self._bar.dynamic_ncols = _shape
        else:
            self.note(f"{initial}/{total} {unit}s")

    def update(self, done: int, episode_return: float | None = None) -> None:
        """Tell how many of the total are done, and the newest return if there is one."""
        new, self._done = done - self._done, done
        self._return = self._return if episode_return is None else episode_return
        if self._bar is not None:
            if episode_return is not None:
                self._bar.set_postfix_str(f"return {episode_return:.1f}", refresh=False)
            self._bar.update(new)
        elif not self._quiet and time.monotonic() - self._printed[0] >= _PLAIN_SECONDS:
            self._print_line()

    def note(self, text: str) -> None:
        """Print a line without breaking the bar."""
        if self._quiet:
            return
        if self._bar is not None:
            self._bar.write(text, file=self._stream)
        else:
            print(text, file=self._stream, flush=True)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()
        elif not self._quiet and self._done != self._printed[1]:
            self._print_line()

    def _print_line(self) -> None:
        now, (then, before) = time.monotonic(), self._printed
        rate = (self._done - before) / max(now - then, 1e-9)
        left = timedelta(seconds=round((self._total - self._done) / rate)) if rate > 0 else "?"
        result = "" if self._return is None else f"return {self._return:.1f}, "
        self.note(f"{self._done}/{self._total} {self._unit}s, {result}{rate:.1f} {self._unit}s/s, {left} left")
        self._printed = (now, self._done)


class Stopwatch:
    """The seconds of a run over all its starts, and its speed from one question to the next."""

    def __init__(self, seconds: float = 0.0, frame: int = 0):
        self._before, self._began = seconds, time.monotonic()
        self._asked = frame, self._began

    def seconds(self) -> float:
        return self._before + time.monotonic() - self._began

    def speed(self, frame: int) -> float:
        """Return the frames a second since this was last asked."""
        (last, then), now = self._asked, time.monotonic()
        self._asked = frame, now
        return (frame - last) / (now - then)


class Forecast:
    """How long a run will take on this machine, by the time of its own first steps; told once."""

    def __init__(self, where: str, budget_frames: int, repeat: int):
        self._where, self._budget, self._repeat = where, budget_frames, repeat
        self._random, self._learning = list[float](), list[float]()
        self._told = False

    def add(self, seconds: float, frame: int, *, learns: bool) -> str | None:
        """Take note of an agent step to `frame`, with or without updates; return the line once it is known."""
        if self._told:
            return None
        (self._learning if learns else self._random).append(seconds)
        if len(self._learning) < _WARM_UP + _SAMPLE:
            return None
        self._told = True
        each = sum(self._learning[_WARM_UP:]) / _SAMPLE
        without = f", {1000 * sum(self._random) / len(self._random):.0f} ms without" if self._random else ""
        left = -(-(self._budget - frame) // self._repeat)
        return (
            f"about {_span(each * left)} for the {self._repeat * left:,} frames left, on {self._where} "
            f"({1000 * each:.0f} ms an agent step with its updates{without}); evaluations come on top"
        )


def _in_notebook() -> bool:
    kernel = sys.modules.get("ipykernel.kernelapp")  # loaded before any cell, where there is one
    return kernel is not None and kernel.IPKernelApp.initialized()


def _span(seconds: float) -> str:
    minutes = round(seconds / 60)
    if minutes < 2:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60:02} min"


def _shape(stream: Any) -> tuple[int, int]:
    """Return the columns and rows that a bar may take: some containers' terminals say that they have none."""
    try:
        columns = os.get_terminal_size(stream.fileno()).columns
    except (OSError, ValueError):  # no terminal of the operating system's
        columns = 0
    return (columns if columns > 1 else _WIDTH) - 1, _ROWS
