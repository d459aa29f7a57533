"""What a benchmark asks of a place where jobs run."""

import shlex
from pathlib import Path
from typing import NamedTuple, Protocol

from curl_rl.options import quoted

LOST = -9999  # the exit status of a job whose worker died under it: nothing is known to be wrong with the job


class Job(NamedTuple):
    """One task, method and seed: the command `curl-rl train` with these overrides."""

    task: str
    method: str
    seed: int
    overrides: tuple[str, ...]  # all but run_dir and the machine's share
    run_dir: str  # a path, or a URL that fsspec opens

    def command(self, *share: str, run_dir: str = "") -> tuple[str, ...]:
        """Return the arguments of `curl-rl`, with the machine's `share` such as "threads=1"."""
        return ("train", *self.overrides, f"run_dir={quoted(run_dir or self.run_dir)}", *share)

    def line(self) -> str:
        """Return its command as one types it, without a machine's share."""
        return shlex.join(["curl-rl", *self.command()])


class Handle(Protocol):
    """A job that was started."""

    def poll(self) -> int | None:
        """Return its exit status, LOST where its worker died, None while it runs."""
        ...

    def paused(self) -> int | None:
        """Return the number of a process that SIGSTOP holds up, None where it runs or cannot be asked."""
        ...

    def stop(self) -> None:
        """Ask it to write a checkpoint and end; return at once."""
        ...

    def kill(self) -> None: ...

    def tail(self) -> str:
        """Return the last lines of its log."""
        ...


class Engine(Protocol):
    """A place where jobs run side by side."""

    def free(self) -> bool:
        """Return whether another job can be started now."""
        ...

    def start(self, job: Job) -> Handle: ...

    def view(self, job: Job) -> Path:
        """Return a local directory with the job's newest tables, as far as there are any."""
        ...

    def describe(self) -> str: ...

    def close(self) -> None: ...
