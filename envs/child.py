"""The process of a remote environment, seen from both ends: how it starts, what goes between, and how it ends."""

import contextlib
import functools
import os
import pickle
import queue
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np

from curl_rl.envs.registry import make_env
from curl_rl.envs.spaces import AgentSpaces

Task = str | Callable[..., gym.Env]  # a name for make_env, or a picklable factory

CLOSE_SECONDS = 2.0
# The child's module search path travels in the command, so that it finds what the parent does, and no __main__ is run
# again as multiprocessing's spawn would do; nothing of the current folder is imported before (-P).
# Ctrl-C and a scheduler's SIGTERM reach the whole group: the parent decides.
# A parent that dies ends the child through their socket, and also one that is stopped or deaf, by the kernel.
_CHILD = """
import ctypes, os, signal, sys
signal.signal(signal.SIGINT, signal.SIG_IGN)
signal.signal(signal.SIGTERM, signal.SIG_IGN)
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
os.getppid() == {parent} or os._exit(1)
sys.path[:] = {path!r}
from curl_rl.envs.child import serve
serve({fd})
"""


class LostError(Exception):
    """The process at the other end has `ended`, or does not answer."""

    def __init__(self, message: str, *, ended: bool = False):
        super().__init__(message)
        self.ended = ended


class _Failure(NamedTuple):
    """An exception of the environment on its way to the parent."""

    error: Exception


class _Starter(threading.Thread):
    """The thread that starts processes: the kernel ends them with their thread, so it lives as long as this process."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self._orders: queue.SimpleQueue[tuple[Future[subprocess.Popen], Any, Any]] = queue.SimpleQueue()
        self.start()

    def start_process(self, command: Sequence[str], options: Mapping[str, Any]) -> subprocess.Popen:
        started: Future[subprocess.Popen] = Future()
        self._orders.put((started, command, options))
        return started.result()

    def run(self) -> None:
        while True:
            started, command, options = self._orders.get()
            try:
                started.set_result(subprocess.Popen(command, **options))
            except Exception as error:
                started.set_exception(error)


@functools.cache
def _starter(_: int) -> _Starter:
    """Return this process's own, by its id: a forked one has none of its parent's threads."""
    return _Starter()


class Child:
    """A running process and the socket to it."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            code = _CHILD.format(parent=os.getpid(), path=sys.path, fd=theirs.fileno())
            options = {"stdin": subprocess.DEVNULL, "pass_fds": [theirs.fileno()]}
            self.process = _starter(os.getpid()).start_process([sys.executable, "-P", "-c", code], options)
        self._socket = ours

    def post(self, message: Any, timeout: float) -> None:
        _write(self._socket, message, timeout)

    def read(self, timeout: float) -> Any:
        answer = _read(self._socket, timeout)
        if isinstance(answer, _Failure):
            raise answer.error
        return answer

    def end(self, patience: float) -> str:
        """Close the socket, at which an idle child ends; kill it after `patience` seconds. Say how it ended."""
        self._socket.close()
        try:
            return f" ({_ending(self.process.wait(patience))})"
        except subprocess.TimeoutExpired:
            self.process.kill()
            with contextlib.suppress(subprocess.TimeoutExpired):  # stuck inside a driver: nothing more can be done
                self.process.wait(CLOSE_SECONDS)
            return ""


def _ending(code: int) -> str:
    if code >= 0:
        return f"exit status {code}"
    if -code == signal.SIGALRM:
        return "its own time limit"
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"


def _write(channel: socket.socket, message: Any, timeout: float | None) -> None:
    data = pickle.dumps(message, pickle.HIGHEST_PROTOCOL)
    channel.settimeout(timeout)
    try:
        channel.sendall(struct.pack("!Q", len(data)) + data)
    except TimeoutError:
        raise LostError(f"the environment's process did not take a request within {timeout:g} s") from None
    except OSError:
        raise LostError("the environment's process ended", ended=True) from None


def _read(channel: socket.socket, timeout: float | None) -> Any:
    deadline = None if timeout is None else time.monotonic() + timeout
    try:
        (size,) = struct.unpack("!Q", _read_exactly(channel, 8, deadline))
        return pickle.loads(_read_exactly(channel, size, deadline))
    except TimeoutError:
        raise LostError(f"the environment's process did not answer within {timeout:g} s") from None
    except OSError:
        raise LostError("the environment's process ended", ended=True) from None


def _read_exactly(channel: socket.socket, size: int, deadline: float | None) -> bytearray:
    data = bytearray(size)
    view, got = memoryview(data), 0
    while got < size:
        remaining = None if deadline is None else deadline - time.monotonic()
        if remaining is not None and remaining <= 0:
            raise TimeoutError
        channel.settimeout(remaining)
        count = channel.recv_into(view[got:])
        if count == 0:
            raise ConnectionResetError
        got += count
    return data


def serve(fd: int) -> None:
    """Be the child: make the environment, answer requests, end with the parent."""
    # Mesa gives the same bits from any number of threads; one costs a quarter less processor time, which the training
    # beside it can use.
    os.environ.setdefault("LP_NUM_THREADS", "1")
    with socket.socket(fileno=fd) as channel:
        with contextlib.suppress(LostError):  # the parent has closed its end or died
            _answer_requests(channel)
        os._exit(0)  # not through the interpreter's end, where OpenGL's teardown has hung


def _answer_requests(channel: socket.socket) -> None:
    task, kwargs, longest, timeout = _read(channel, None)
    made: list[gym.Env] = []

    def prepare() -> Any:
        made.append(make(task, kwargs, longest))
        return made[0].observation_space, made[0].action_space, render_info(made[0])

    _write(channel, _attempt(prepare), None)
    while made:
        kind, argument = _read(channel, None)
        # The parent kills a request that hangs. Were the parent dead by then, this ends the process even from within a
        # driver that never gives the interpreter back.
        signal.setitimer(signal.ITIMER_REAL, timeout + CLOSE_SECONDS)
        answer = _attempt(lambda kind=kind, argument=argument: _perform(made[0], kind, argument))
        signal.setitimer(signal.ITIMER_REAL, 0)
        _write(channel, answer, None)


def _perform(env: gym.Env, kind: str, argument: Any) -> Any:
    if kind == "reset":
        return env.reset(seed=argument)
    if kind == "step":
        return env.step(argument)
    return render(env, argument)


def _attempt(action: Callable[[], Any]) -> Any:
    """Return what `action` returns, or its exception with the traceback as a note, made fit for the way."""
    try:
        return action()
    except Exception as error:
        error.add_note("in the environment's process:\n" + traceback.format_exc())
        try:
            pickle.loads(pickle.dumps(error))
        except Exception:
            error = RuntimeError("".join(traceback.format_exception(error)))
        return _Failure(error)


def make(task: Task | gym.Env, kwargs: Mapping[str, Any], longest: int | None) -> gym.Env:
    """Make an environment, or take one that is made, whose spaces are those of an agent here."""
    if not isinstance(task, gym.Env):
        task = make_env(task, **kwargs) if isinstance(task, str) else task(**kwargs)
    return AgentSpaces(task, longest)


def render(env: gym.Env, size: tuple[int, int] | None) -> np.ndarray:
    """Return the present view (H, W, 3) uint8, at `size` if given."""
    return env.unwrapped.render(*(() if size is None else (size,)))  # type: ignore[return-value]


def render_info(env: gym.Env) -> dict[str, str]:
    """Return what decides an image's bits beside the task."""
    return dict(getattr(env.unwrapped, "render_info", {}))
