"""An environment in a process of its own, which outlives a hanging render or a crash of that process."""

import contextlib
import functools
import logging
from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import numpy as np

from curl_rl.envs.child import CLOSE_SECONDS, Child, LostError, Task, make, render, render_info
from curl_rl.envs.errors import EnvError
from curl_rl.envs.spaces import CUT

Transition = tuple[Any, float, bool, bool, dict[str, Any]]

_LOG = logging.getLogger(__name__)


class LocalEnv:
    """The interface of `RemoteEnv` in this process: `receive` steps with the action that `send` kept."""

    def __init__(self, env: gym.Env | Task, kwargs: Mapping[str, Any] | None = None, *, longest: int | None = None):
        self._task, self._env = env, make(env, kwargs or {}, longest)
        self._action: Any = None
        self._pending = False
        self.observation_space, self.action_space = self._env.observation_space, self._env.action_space
        self.render_info = render_info(self._env)

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
        return _told(self._task, self._env.step(self._action))

    def render(self, size: tuple[int, int] | None = None) -> np.ndarray:
        """Return the present view (H, W, 3) uint8, at `size` if given."""
        return render(self._env, size)

    def close(self) -> None:
        self._env.close()


class RemoteEnv:
    """The environment `task` in a new process, which steps and renders between `send` and `receive`.

    The running episode's seed and actions are kept. When the process dies or leaves a request unanswered for `timeout`
    seconds (`start_timeout` for its start), it is killed and a new one plays the episode again up to the same step,
    which gives the same observations for an environment that is exact in its seed. After `restarts` times in one
    episode EnvError says what to try. An exception of the environment itself is raised here as it is.
    """

    def __init__(
        self,
        task: Task,
        kwargs: Mapping[str, Any] | None = None,
        *,
        longest: int | None = None,
        timeout: float = 60.0,
        start_timeout: float = 120.0,
        restarts: int = 3,
    ):
        self._task, self._kwargs, self._longest = task, dict(kwargs or {}), longest
        self._timeout, self._start_timeout, self._restarts = timeout, start_timeout, restarts
        self._failures = 0
        self._episode: list[tuple[str, Any]] = []  # the requests that made the episode's present state
        self._pending = False
        self._closed = False
        self._child: Child | None = None
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
        return _told(self._task, self._answer(self._episode[-1]))

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
            self._child.end(patience=CLOSE_SECONDS)
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
            with contextlib.suppress(LostError):  # found again, and mended, when the answer is read
                self._child.post(request, self._timeout)

    def _answer(self, request: tuple[str, Any] | None) -> Any:
        """Read the answer to the request posted last; where there is none, start again and ask again."""
        while True:
            try:
                if self._child is None:
                    return self._start(request)
                return self._child.read(self._timeout)
            except LostError as lost:
                self._lose(lost)

    def _start(self, request: tuple[str, Any] | None) -> Any:
        """Start a process, bring it to the episode's present state and return its answer to `request`."""
        self._child = Child()
        self._child.post((self._task, self._kwargs, self._longest, self._timeout), self._start_timeout)
        try:
            answer = self._child.read(self._start_timeout)
        except LostError:
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

    def _lose(self, lost: LostError) -> None:
        """Kill the process, and give up if that was once too often."""
        assert self._child is not None
        reason = f"{self._task}: {lost}{self._child.end(patience=CLOSE_SECONDS if lost.ended else 0.0)}"
        self._child = None
        self._failures += 1
        if self._failures > self._restarts:
            self.close()
            raise EnvError(
                f"{reason}, {self._failures} times in one episode. Try another renderer (MUJOCO_GL=osmesa or egl; "
                "`curl-rl doctor` tests each), or give a slow machine a longer timeout than "
                f"{self._timeout:g} s (start: {self._start_timeout:g} s)"
            ) from None
        _LOG.warning("%s; restart %d of %d, step %d", reason, self._failures, self._restarts, len(self._episode) - 1)


def _told(task: gym.Env | Task, transition: Any) -> Transition:
    """Return a transition, and say so where it cut an episode short."""
    if steps := transition[4].get(CUT):
        _tell_cut(str(task), steps)
    return transition


@functools.cache
def _tell_cut(task: str, steps: int) -> None:  # once a process
    _LOG.warning("%s: an episode did not end and was cut after %d steps; its return counts up to there", task, steps)


def _expect(condition: bool, message: str) -> None:
    if not condition:
        raise RuntimeError(message)
