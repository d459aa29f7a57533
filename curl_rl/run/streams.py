"""Standard error that cannot end what writes to it, whatever becomes of it, and standard output that says its name."""

import io
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout, suppress
from typing import Any, TextIO

_CHANGING = threading.RLock()  # held by whoever changes standard error, which all threads share


class _Guarded:
    """A stream that answers in its own way for what it cannot write."""

    def __init__(self, stream: TextIO):
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        with self._guarding():
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with self._guarding():
            self._stream.flush()

    @contextmanager
    def _guarding(self) -> Iterator[None]:
        yield


class _Unfailing(_Guarded):
    """One that falls silent for good, instead of raising, at the first thing that it cannot write."""

    @contextmanager
    def _guarding(self) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError):  # ValueError where Python has closed it
            with suppress(OSError, ValueError):
                # Also for what is left in its buffers, for C libraries, and for the processes started from here on.
                _silence(self._stream.fileno())


@contextmanager
def unfailing_stderr() -> Iterator[None]:
    """Make standard error one that never raises, whatever becomes of it; nested, the outer one does."""
    with ExitStack() as changed:
        with _CHANGING:
            if sys.stderr is None:
                changed.enter_context(redirect_stderr(changed.enter_context(_nowhere())))
            elif not isinstance(sys.stderr, _Unfailing):
                changed.enter_context(redirect_stderr(_Unfailing(sys.stderr)))  # pyright: ignore[reportArgumentType]
        try:
            yield
        finally:
            with _CHANGING:
                changed.close()


def _nowhere() -> TextIO:
    """Return what stands for a standard error that was closed before this process began."""
    try:
        os.fstat(2)
    except OSError:
        _silence(2)  # or the next file that anything opens would become the place of its messages
    return open(os.devnull, "w", encoding="utf-8")


@contextmanager
def silent_stderr() -> Iterator[None]:
    """Let nothing be written to standard error; other threads wait with what would change it too."""
    with _CHANGING, redirect_stderr(io.StringIO()):
        yield


class _Named(_Guarded):
    """One whose failures say which stream it is."""

    @contextmanager
    def _guarding(self) -> Iterator[None]:
        try:
            yield
        except BrokenPipeError:
            raise
        except OSError as error:
            with suppress(OSError, ValueError):
                _silence(self._stream.fileno())  # what is left in its buffer would fail again at the exit
            raise OSError(f"cannot write to standard output: {error.strerror}; send it elsewhere") from error


@contextmanager
def named_stdout() -> Iterator[None]:
    """Make standard output one whose failures name it, also those of what is left in its buffer at the end."""
    if sys.stdout is None:
        yield
        return
    stream = _Named(sys.stdout)
    with redirect_stdout(stream):  # pyright: ignore[reportArgumentType]
        yield
        stream.flush()


def _silence(descriptor: int) -> None:
    nowhere = os.open(os.devnull, os.O_WRONLY)
    if nowhere == descriptor:  # the lowest free number
        os.set_inheritable(descriptor, True)
        return
    os.dup2(nowhere, descriptor)
    os.close(nowhere)
