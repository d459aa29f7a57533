"""Turns a signal into a request that is answered at a good moment."""

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class StopRequest:
    """Whether a stop was asked for: the first SIGINT or SIGTERM is a request; a second one acts at once.

    So is an exception of what the run tells its rows to, which is kept to be raised once the run has stopped.
    """

    def __init__(self, answer: str = "") -> None:
        self.signal = 0
        self.error: BaseException | None = None
        self._answer = answer  # what the first signal prints at once

    def __call__(self) -> bool:
        return self.signal != 0 or self.error is not None

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Take signals as requests inside; in a thread, which Python tells of none, nothing changes."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self._ask) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _ask(self, number: int, _: Any) -> None:
        self.signal = number
        if self._answer:
            print(self._answer, file=sys.stderr)
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
