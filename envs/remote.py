"""An environment in a process of its own, which outlives a hanging render or a crash of that process."""

import contextlib
import logging
import os
import pickle
import signal
import socket
import struct
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np

Task = str | Callable[..., gym.Env]  # a name for make_env, or a picklable factory
Transition = tuple[Any, float, bool, bool, dict[str, Any]]


_LOG = logging.getLogger(__name__)
_CLOSE_SECONDS = 2.0
# The child's module search path travels in the command, so that it finds what the parent does, and no __main__ is run
# again as multiprocessing's spawn would do.
# Ctrl-C and a scheduler's SIGTERM reach the whole group: the parent decides.
_CHILD = """
import signal, sys
signal.signal(signal.SIGINT, signal.SIG_IGN)
signal.signal(signal.SIGTERM, signal.SIG_IGN)
sys.path[:] = {path!r}
from envs.remote import _serve
_serve({fd})
"""


class LocalEnv:
    """The interface of `RemoteEnv` in this process: `receive` steps with the action that `send` kept."""

    def __init__(self, env: gym.Env | Task, kwargs: Mapping[str, Any] | None = None):
        self._env = env if isinstance(env, gym.Env) else _make(env, kwargs or {})
        self._action: Any = None
        self._pending = False
        self.observation_space, self.action_space = self._env.observation_space, self._env.action_space
        self.render_info = _render_info(self._env)

    def reset(self, seed: int) -> tuple[Any, dict[str, Any]]:
        """Start the episode of `seed`; a step that was sent and not received is dropped."""
        self._pending = False
        return self._env.reset(seed=seed)

    def send(self, action: Any) -> None:
        """Keep an action."""
        _expect(not self._pending, "send: the last action's result was not received")
        self._action, self._pending = np.array(action), True

    def receive(self) -> Transition:
        """Step with the action that was sent; return observation, reward, terminated, truncated, info."""
        _expect(self._pending, "receive: no action was sent")
        self._pending = False
        return self._env.step(self._action)  # type: ignore[return-value]

    def render(self, size: tuple[int, int] | None = None) -> np.ndarray:
        """Return the present view (H, W, 3) uint8, at `size` if given."""
        return self._env.unwrapped.render(*_size_arguments(size))  # type: ignore[return-value]

    def close(self) -> None:
        self._env.close()


class RemoteEnv:
    """The environment `task` in a new process, which steps and renders between `send` and `receive`.

    The running episode's seed and actions are kept. When the process dies or leaves a request unanswered for `timeout`
    seconds (`start_timeout` for its start), it is killed and a new one plays the episode again up to the same step,
    which gives the same observations for an environment that is exact in its seed. After `restarts` times in one
    episode RuntimeError says what to try. An exception of the environment itself is raised here as it is.
    """

    def __init__(
        self,
        task: Task,
        kwargs: Mapping[str, Any] | None = None,
        *,
        timeout: float = 60.0,
        start_timeout: float = 120.0,
        restarts: int = 3,
    ):
        self._task, self._kwargs = task, dict(kwargs or {})
        self._timeout, self._start_timeout, self._restarts = timeout, start_timeout, restarts
        self._failures = 0
        self._episode: list[tuple[str, Any]] = []  # the requests that made the episode's present state
        self._pending = False
        self._closed = False
        self._child: _Child | None = None
        self.observation_space, self.action_space, self.render_info = self._answer(None)

    def reset(self, seed: int) -> tuple[Any, dict[str, Any]]:
        """Start the episode of `seed`; a step that was sent and not received is dropped."""
        if self._pending:
            self.receive()
        self._failures = 0
        self._episode = [("reset", seed)]
        self._post(self._episode[-1])
        return self._answer(self._episode[-1])

    def send(self, action: Any) -> None:
        """Start a step; returns at once."""
        _expect(not self._pending, "send: the last action's result was not received")
        _expect(bool(self._episode), "send: call reset first")
        self._episode.append(("step", np.array(action)))
        self._pending = True
        self._post(self._episode[-1])

    def receive(self) -> Transition:
        """Wait for the step that was sent; return observation, reward, terminated, truncated, info."""
        _expect(self._pending, "receive: no action was sent")
        self._pending = False
        return self._answer(self._episode[-1])

    def render(self, size: tuple[int, int] | None = None) -> np.ndarray:
        """Return the present view (H, W, 3) uint8, at `size` if given."""
        _expect(not self._pending, "render: the last action's result was not received")
        request = ("render", size)
        self._post(request)
        return self._answer(request)

    def close(self) -> None:
        """End the process; returns within seconds whatever the process does."""
        self._closed = True
        if self._child is not None:
            self._child.end(patience=_CLOSE_SECONDS)
            self._child = None

    def __enter__(self) -> "RemoteEnv":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def pid(self) -> int | None:
        """Process id of the running child."""
        return self._child.process.pid if self._child is not None else None

    def _post(self, request: tuple[str, Any]) -> None:
        _expect(not self._closed, "this environment is closed")
        if self._child is not None:
            with contextlib.suppress(_LostError):  # found again, and mended, when the answer is read
                self._child.post(request, self._timeout)

    def _answer(self, request: tuple[str, Any] | None) -> Any:
        """Read the answer to the request posted last; where there is none, start again and ask again."""
        while True:
            try:
                if self._child is None:
                    return self._start(request)
                return self._child.read(self._timeout)
            except _LostError as lost:
                self._lose(lost)

    def _start(self, request: tuple[str, Any] | None) -> Any:
        """Start a process, bring it to the episode's present state and return its answer to `request`."""
        self._child = _Child()
        self._child.post((self._task, self._kwargs, self._timeout), self._start_timeout)
        try:
            answer = self._child.read(self._start_timeout)
        except _LostError:
            raise
        except Exception:  # the environment cannot be made, and would not be at a second try
            self.close()
            raise
        # A render request is not part of the episode; without a request there is no episode yet.
        requests = self._episode if request is None or request[0] != "render" else [*self._episode, request]
        for each in requests:
            self._child.post(each, self._timeout)
            answer = self._child.read(self._timeout)
        return answer

    def _lose(self, lost: "_LostError") -> None:
        """Kill the process, and give up if that was once too often."""
        assert self._child is not None
        reason = f"{self._task}: {lost}{self._child.end(patience=_CLOSE_SECONDS if lost.ended else 0.0)}"
        self._child = None
        self._failures += 1
        if self._failures > self._restarts:
            self.close()
            raise RuntimeError(
                f"{reason}, {self._failures} times in one episode. Try another renderer (MUJOCO_GL=osmesa or egl; "
                "`curl-rl doctor` tests each), or give a slow machine a longer timeout than "
                f"{self._timeout:g} s (start: {self._start_timeout:g} s)"
            ) from None
        _LOG.warning("%s; restart %d of %d, step %d", reason, self._failures, self._restarts, len(self._episode) - 1)


class _LostError(Exception):
    """The process at the other end has `ended`, or does not answer."""

    def __init__(self, message: str, *, ended: bool = False):
        super().__init__(message)
        self.ended = ended


class _Failure(NamedTuple):
    """An exception of the environment on its way to the parent."""

    error: Exception


class _Child:
    """A running process and the socket to it."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            code = _CHILD.format(path=sys.path, fd=theirs.fileno())
            command = [sys.executable, "-c", code]
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, pass_fds=[theirs.fileno()])
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
                self.process.wait(_CLOSE_SECONDS)
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
        raise _LostError(f"the environment's process did not take a request within {timeout:g} s") from None
    except OSError:
        raise _LostError("the environment's process ended", ended=True) from None


def _read(channel: socket.socket, timeout: float | None) -> Any:
    deadline = None if timeout is None else time.monotonic() + timeout
    try:
        (size,) = struct.unpack("!Q", _read_exactly(channel, 8, deadline))
        return pickle.loads(_read_exactly(channel, size, deadline))
    except TimeoutError:
        raise _LostError(f"the environment's process did not answer within {timeout:g} s") from None
    except OSError:
        raise _LostError("the environment's process ended", ended=True) from None


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


def _serve(fd: int) -> None:
    """Be the child: make the environment, answer requests, end with the parent."""
    # Mesa gives the same bits from any number of threads; one costs a quarter less processor time, which the training
    # beside it can use.
    os.environ.setdefault("LP_NUM_THREADS", "1")
    with socket.socket(fileno=fd) as channel:
        with contextlib.suppress(_LostError):  # the parent has closed its end or died
            _answer_requests(channel)
        os._exit(0)  # not through the interpreter's end, where OpenGL's teardown has hung


def _answer_requests(channel: socket.socket) -> None:
    task, kwargs, timeout = _read(channel, None)
    made: list[gym.Env] = []

    def make() -> Any:
        made.append(_make(task, kwargs))
        return made[0].observation_space, made[0].action_space, _render_info(made[0])

    _write(channel, _attempt(make), None)
    while made:
        kind, argument = _read(channel, None)
        # The parent kills a request that hangs. Were the parent dead by then, this ends the process even from within a
        # driver that never gives the interpreter back.
        signal.setitimer(signal.ITIMER_REAL, timeout + _CLOSE_SECONDS)
        answer = _attempt(lambda kind=kind, argument=argument: _perform(made[0], kind, argument))
        signal.setitimer(signal.ITIMER_REAL, 0)
        _write(channel, answer, None)


def _perform(env: gym.Env, kind: str, argument: Any) -> Any:
    if kind == "reset":
        return env.reset(seed=argument)
    if kind == "step":
        return env.step(argument)
    return env.unwrapped.render(*_size_arguments(argument))


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


def _make(task: Task, kwargs: Mapping[str, Any]) -> gym.Env:
    if not isinstance(task, str):
        return task(**kwargs)
    from envs import make_env

    return make_env(task, **kwargs)


def _render_info(env: gym.Env) -> dict[str, str]:
    return dict(getattr(env.unwrapped, "render_info", {}))


def _size_arguments(size: tuple[int, int] | None) -> tuple[Any, ...]:
    return () if size is None else (size,)


def _expect(condition: bool, message: str) -> None:
    if not condition:
        raise RuntimeError(message)
