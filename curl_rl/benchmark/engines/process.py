"""One job as a process of this machine, on cores of its own, which does not outlive the program that started it."""

import os
import signal
import subprocess
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from curl_rl.run.files import writing
from curl_rl.run.interpreter import environment, program, python

_TAIL = 20
# Becomes the job, on its cores, and dies with the process that started it whatever kills that: a job that outlived it
# would hold its run directory against the one that goes on.
_STARTER = (
    "import ctypes, os, signal, sys; sys.platform == 'linux' and ctypes.CDLL(None).prctl(1, signal.SIGKILL); "
    "os.getppid() == int(sys.argv[1]) or os._exit(1); "
    "sys.argv[2] and os.sched_setaffinity(0, map(int, sys.argv[2].split(','))); os.execv(sys.argv[3], sys.argv[3:])"
)


class JobProcess:
    """A running `curl-rl` command, its output appended to a log, in a session of its own.

    A keyboard interrupt then reaches only the program that started it, which decides what becomes of it.
    """

    def __init__(
        self, arguments: Sequence[str], log: Path, *, cores: Collection[int] = (), env: Mapping[str, str] | None = None
    ):
        self.log = log
        starter = [*python(), "-c", _STARTER, str(os.getpid()), ",".join(map(str, cores))]
        with writing(log):
            log.parent.mkdir(parents=True, exist_ok=True)
            output = log.open("ab")
        with output:
            self._process = subprocess.Popen(
                [*starter, *program(), *arguments],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**environment(), "PYTHONUNBUFFERED": "1", **(env or {})},
                start_new_session=True,
            )

    def poll(self) -> int | None:
        """Return the exit status, 128 + the signal's number where a signal ended it, None while it runs."""
        returned = self._process.poll()
        return 128 - returned if returned is not None and returned < 0 else returned

    def paused(self) -> int | None:
        """Return the process's number where a signal has paused it."""
        pid = self._process.pid
        with suppress(OSError):  # where the kernel tells nothing
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in ("T", "t"):
                return pid
        return None

    def stop(self) -> None:
        self._process.terminate()
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGCONT)  # one that is paused would not hear of it

    def kill(self) -> None:
        """Kill what is left of it and of the processes that it started, and wait for it."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def tail(self) -> str:
        return tail_of(self.log)


def tail_of(log: Path) -> str:
    """Return the last lines of a log file, "" where there is none."""
    if not log.is_file():
        return ""
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - 8192))
        return "\n".join(file.read().decode(errors="replace").splitlines()[-_TAIL:])
