"""One job as a process of this machine, on cores of its own, which does not outlive the program that started it."""

import ctypes
import os
import signal
import subprocess
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from curl_rl.engines.base import program, tail_of

_PR_SET_PDEATHSIG = 1


class JobProcess:
    """A running `curl-rl` command, its output appended to a log.

    It has its own session, so that a keyboard interrupt reaches only the program that started it, which decides. It is
    killed when that program dies: a resumed benchmark must find its run directories unlocked.
    """

    def __init__(
        self, arguments: Sequence[str], log: Path, *, cores: Collection[int] = (), env: Mapping[str, str] | None = None
    ):
        self._log = log
        log.parent.mkdir(parents=True, exist_ok=True)
        libc = ctypes.CDLL(None)

        def prepare() -> None:
            if hasattr(libc, "prctl"):
                libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
            if cores:
                os.sched_setaffinity(0, cores)

        with log.open("ab") as output:
            self._process = subprocess.Popen(
                [*program(), *arguments],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, **(env or {})},
                start_new_session=True,
                preexec_fn=prepare,  # noqa: PLW1509 - two system calls, no lock that another thread could hold
            )

    def poll(self) -> int | None:
        """Return the exit status, 128 + the signal's number where one ended it, None while it runs."""
        status = self._process.poll()
        return 128 - status if status is not None and status < 0 else status

    def stop(self) -> None:
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()

    def tail(self) -> str:
        return tail_of(self._log)
