"""Runs jobs on an engine until all are done or have failed for good."""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TextIO

from curl_rl.benchmark.board import Board, Standing
from curl_rl.benchmark.engines.base import LOST, Engine, Handle
from curl_rl.run.interrupts import StopRequest
from curl_rl.run.records import newest_step, read_run
from curl_rl.types import ConfigError

_ATTEMPTS = 3
_LOSSES = 20  # a job whose workers die so often is not to blame, but nothing will come of it
_POLL_SECONDS = 0.5
_STOP_SECONDS = 120.0  # for a clean stop: a step, or one move of every game of an evaluation, and a checkpoint


class Schedule:
    """Jobs that wait, run, are tried again, and end."""

    def __init__(self, standings: Sequence[Standing], engine: Engine, out: str, stream: TextIO):
        self._standings, self._engine, self._out = standings, engine, out
        for standing in standings:
            self._look(standing)
        self._board = Board(standings, out, stream)
        self._stop = StopRequest()  # told on the board: a line past it would disturb the table

    def run(self) -> int:
        """Return 0 when all are done, 1 when any failed, 128 + the signal's number when a signal stopped them."""
        self._board.write_jobs()  # before anything runs: a place that cannot be written is told at once
        before = sum(standing.status == "done" for standing in self._standings)
        self._board.say(f"{len(self._standings)} jobs, {before} of them done before, {self._engine.describe()}")
        with self._stop.listening(), _watching(self._out) as self._gone:
            try:
                while not self._stop() and any(each.status in ("waiting", "running") for each in self._standings):
                    self._check_place()
                    self._advance()
                    time.sleep(_POLL_SECONDS)
                self._wind_down()
            finally:
                self._kill()
                if not self._gone():  # what was deleted is not made anew
                    self._board.conclude()
        if self._stop():
            self._board.say("stopped; the same command goes on")
            return 128 + self._stop.signal
        return int(any(standing.status == "failed" for standing in self._standings))

    def _check_place(self) -> None:
        """Raise OSError where the folder of the results is not there any more: no job could keep its results."""
        if self._gone():
            raise FileNotFoundError(
                f"{self._out} was deleted or moved away while the benchmark ran: its jobs are ended; bring it back, or "
                "start anew, by the same command"
            )

    def _running(self) -> list[tuple[Standing, Handle]]:
        return [(standing, standing.handle) for standing in self._standings if standing.handle]

    def _advance(self) -> None:
        for standing, handle in self._running():
            self._poll(standing, handle)
        for standing in [standing for standing in self._standings if standing.status == "waiting"]:
            if not self._engine.free():
                break
            self._start(standing)
        if self._board.due():
            for standing, _ in self._running():
                self._look(standing)
            self._board.show()

    def _start(self, standing: Standing) -> None:
        try:
            standing.handle = self._engine.start(standing.job)
        except OSError as error:  # of this job's place: the others go on
            self._fail(standing, None, str(error))
            return
        standing.status = "running"
        self._board.note(standing, "starts" if standing.attempts + standing.losses == 0 else "starts again")

    def _fail(self, standing: Standing, status: int | None, tail: str) -> None:
        standing.attempts += 1
        standing.exit_code, standing.tail = status, tail
        standing.status = "waiting" if standing.attempts < _ATTEMPTS else "failed"
        how = f"failed with exit status {status}" if status is not None else f"could not start ({tail})"
        self._board.note(standing, f"{how}, attempt {standing.attempts} of {_ATTEMPTS}")

    def _poll(self, standing: Standing, handle: Handle) -> None:
        """Take note of a job that has ended, was paused, or goes on."""
        status = handle.poll()
        if status is None:
            self._look_for_pause(standing, handle)
            return
        self._check_place()
        finished = self._look(standing)
        standing.handle, standing.paused = None, False
        if status == 0 and finished:
            standing.attempts, standing.exit_code, standing.status = standing.attempts + 1, 0, "done"
            self._board.note(standing, f"is done: return {standing.score:.1f}")
        elif self._stop():
            standing.status = "stopped"
        elif status == LOST:
            standing.losses += 1
            standing.status = "waiting" if standing.losses < _LOSSES else "failed"
            self._board.note(standing, "lost its worker")
        else:
            self._fail(standing, status, handle.tail())

    def _look_for_pause(self, standing: Standing, handle: Handle) -> None:
        """Say when a job was paused by a signal, which it cannot say itself, and when it goes on."""
        process = handle.paused()
        if (process is not None) != standing.paused:
            standing.paused = process is not None
            self._board.note(standing, f"is paused: kill -CONT -{process} lets it go on" if process else "goes on")

    def _look(self, standing: Standing) -> bool:
        """Read how far a job is, and whether it is finished; what cannot be read changes nothing."""
        try:
            view = self._engine.view(standing.job)
            run = read_run(view)
        except (ConfigError, OSError):
            return False
        standing.steps = min(newest_step(view), standing.budget)
        standing.score = run.score if run.evaluations else None
        return run.finished

    def _wind_down(self) -> None:
        """After a signal, let every job write its checkpoint and end."""
        if self._stop():
            self._board.say("stopping all jobs, each after its step; once more kills them")
        for _, handle in self._running():
            handle.stop()
        deadline = time.monotonic() + _STOP_SECONDS
        while self._running() and time.monotonic() < deadline:
            for standing, handle in self._running():
                self._poll(standing, handle)
            time.sleep(_POLL_SECONDS / 5)

    def _kill(self) -> None:
        for standing, handle in self._running():
            handle.kill()
            standing.status, standing.handle = "stopped", None


@contextmanager
def _watching(out: str) -> Iterator[Callable[[], bool]]:
    """Give a question whether a local folder is gone or another one by now; held open, its inode is no other's."""
    if "://" in out:
        yield lambda: False
        return
    folder = os.open(out, os.O_RDONLY | os.O_DIRECTORY)

    def gone() -> bool:
        with suppress(FileNotFoundError):
            return not os.path.samefile(folder, out)
        return True

    try:
        yield gone
    finally:
        os.close(folder)
