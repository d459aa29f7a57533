"""A person sees how far a run is and how long it will take, on any terminal, in a pipe and in a file."""

import fcntl
import io
import os
import pty
import struct
import termios
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import runs

from curl_rl.config.overrides import compose
from curl_rl.run import progress, trainer
from curl_rl.run.progress import Forecast, Progress


def shown_on(size: tuple[int, int], show: Callable[[io.TextIOBase], None]) -> str:
    """Return what reaches a terminal of so many rows and columns."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", *size, 0, 0))
    seen = bytearray()

    def read() -> None:
        try:
            while block := os.read(master, 4096):
                seen.extend(block)
        except OSError:  # how Linux says that the other end is closed
            pass

    reader = threading.Thread(target=read)
    reader.start()
    with open(slave, "w", encoding="utf-8") as stream:
        show(stream)
    reader.join()
    os.close(master)
    return seen.decode()


def work(stream) -> None:
    shown = Progress(100, initial=10, stream=stream)
    shown.update(60, 871.26)
    shown.note("hello")
    shown.update(100)
    shown.close()


@pytest.mark.parametrize("size", [(0, 0), (24, 80), (24, 0), (0, 200)])
def test_a_bar_is_seen_on_a_terminal_of_any_size(size):
    shown = shown_on(size, work)
    assert "10/100" in shown
    assert "100/100" in shown
    assert "return 871.3" in shown
    assert "hello\r\n" in shown
    lines = [line for line in shown.replace("\r", "\n").split("\n") if "/100" in line]
    assert max(map(len, lines)) <= (size[1] or 80)


def test_a_bar_is_seen_on_a_terminal_that_the_system_does_not_know():
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    stream = Terminal()
    work(stream)
    assert "10/100" in stream.getvalue()
    assert "return 871.3" in stream.getvalue()


def test_plain_lines_come_at_once_and_every_half_minute_off_a_terminal(monkeypatch: pytest.MonkeyPatch):
    now, stream = [100.0], io.StringIO()
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    shown = Progress(1000, initial=200, unit="frame", stream=stream)
    assert stream.getvalue() == "200/1000 frames\n"
    for done in range(210, 610, 10):  # 10 frames a second for 40 seconds
        now[0] += 1.0
        shown.update(done, 12.345 if done == 300 else None)
    shown.note("hello")
    shown.close()
    _, first, hello, last = stream.getvalue().splitlines()
    assert first == "500/1000 frames, return 12.3, 10.0 frames/s, 0:00:50 left"
    assert hello == "hello"
    assert last == "600/1000 frames, return 12.3, 10.0 frames/s, 0:00:40 left"


def told(where: str, seconds: list[tuple[float, bool]], *, steps: int = 25_000) -> list[str]:
    forecast = Forecast(where, 4 * steps, 4)
    found = [forecast.add(each, 4 * done, learns=learns) for done, (each, learns) in enumerate(seconds, 1)]
    return [line for line in found if line is not None]


def test_the_time_that_a_run_takes_is_told_once_from_its_own_steps():
    random, compiling, learning = [(0.016, False)] * 1000, [(9.0, True)] * 5, [(0.1, True), (0.182, True)] * 100
    assert told("2 threads", [*random, *compiling, *learning]) == [
        "about 56 min for the 95,860 frames left, on 2 threads (141 ms an agent step with its updates, 16 ms without); "
        "evaluations come on top"
    ]


@pytest.mark.parametrize(("each", "span"), [(0.001, "24 s"), (0.1, "40 min"), (1.0, "6 h 39 min")])
def test_a_resumed_run_has_no_random_steps(each, span):
    (line,) = told("cuda", [(each, True)] * 50, steps=24_000)
    assert line.startswith(f"about {span} for the 95,860 frames left, on cuda ({1000 * each:.0f} ms an agent step with")
    assert "without" not in line


@pytest.mark.parametrize("terminal", [True, False])
def test_a_run_says_at_its_start_how_long_it_will_take(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, terminal: bool):
    overrides = (
        *runs.SMALL,
        "device=cpu",
        "threads=1",
        "env.overlap=false",
        "budget_frames=150",
        f"run_dir={tmp_path}",
    )

    def train(stream) -> None:
        monkeypatch.setattr("sys.stderr", stream)
        assert trainer.train(compose(overrides)) == 0

    if terminal:
        shown = shown_on((0, 0), train)
    else:
        train(stream := io.StringIO())
        shown = stream.getvalue()
    forecast = shown.index("for the 75 frames left, on 1 thread (")
    assert shown.index("0/150") < forecast < shown.index("frame 110: mean return")
    assert "150/150" in shown
