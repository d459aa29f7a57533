"""One job as a process of this machine, on cores of its own, which does not outlive the program that started it."""

import os
import signal
import subprocess
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from curl_rl.benchmark.engines.base import tail_of
from curl_rl.run.files import writing
from curl_rl.run.interpreter import environment, program, python

# Becomes the job, on its cores, and dies with the process that started it whatever kills that: a job that outlived it
# would hold its run directory against the one that goes on.
_STARTER = (
    "import ctypes, os, signal, sys; sys.platform == 'linux' and ctypes.CDLL(None).prctl(1, signal.SIGKILL); "
    "os.getppid() == int(sys.argv[1]) or os._exit(1); "
    "sys.argv[2] and os.sched_setaffinity(0, map(int, sys.argv[2].split(','))); os.execv(sys.argv[3], sys.argv[3:])"
)


def start_process(
    arguments: Sequence[str], log: Any, *, cores: Collection[int] = (), env: Mapping[str, str] | None = None
) -> subprocess.Popen[bytes]:
    """Start `curl-rl` with arguments, its output going to an open file, in a session of its own.

    A keyboard interrupt then reaches only the program that started it, which decides what becomes of it.
    """
    starter = [*python(), "-c", _STARTER, str(os.getpid()), ",".join(map(str, cores))]
    return subprocess.Popen(
        [*starter, *program(), *arguments],
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT,
        env={**environment(), "PYTHONUNBUFFERED": "1", **(env or {})},
        start_new_session=True,
    )


def exit_status(returned: int) -> int:
    """Return an exit status, 128 + the signal's number where a signal ended the process."""
    return 128 - returned if returned < 0 else returned


def _state(pid: int) -> str:
    """Return the letter by which the kernel tells how a process stands, "" where it cannot be asked."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return ""


def kill_all(process: subprocess.Popen[bytes]) -> None:
    """Kill what is left of a process and of those that it started, and wait for it."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


class JobProcess:
    """A running `curl-rl` command, its output appended to a log."""

    def __init__(
        self, arguments: Sequence[str], log: Path, *, cores: Collection[int] = (), env: Mapping[str, str] | None = None
    ):
        self._log = log
        with writing(log):
            log.parent.mkdir(parents=True, exist_ok=True)
            output = log.open("ab")
        with output:
            self._process = start_process(arguments, output, cores=cores, env=env)

    def poll(self) -> int | None:
        """Return the exit status, None while it runs."""
        returned = self._process.poll()
        return None if returned is None else exit_status(returned)

    def paused(self) -> int | None:
        """Return the process's number where a signal has paused it."""
        return self._process.pid if _state(self._process.pid) in ("T", "t") else None

    def stop(self) -> None:
        self._process.terminate()
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGCONT)  # one that is paused would not hear of it

    def kill(self) -> None:
        kill_all(self._process)

    def tail(self) -> str:
        return tail_of(self._log)
