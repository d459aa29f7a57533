"""Two crews of threads: what an update does not wait for yet is computed beside the rest, to the same bits."""

import os
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Generic, TypeVar

import torch

_T = TypeVar("_T")


class _Task(Generic[_T]):
    """A computation for whichever crew comes to it first."""

    def __init__(self, compute: Callable[[], _T]):
        self._compute, self._taken, self._done = compute, threading.Lock(), threading.Event()
        self._crew = _second.crew
        self._error: BaseException | None = None

    def run(self) -> None:
        if not self._taken.acquire(blocking=False):
            return
        try:
            self._value = self._compute()
        except BaseException as error:
            self._error = error
            if not isinstance(error, Exception):
                raise
        finally:
            self._done.set()

    def value(self) -> _T:
        """Return the value; while the other crew is at it, do what else that one has to do."""
        self.run()
        while not self._done.is_set() and self._crew.run_oldest():
            pass
        self._done.wait()
        if self._error is not None:
            raise self._error
        return self._value


class _Crew:
    """The second crew, led by a thread of its own, where there is one."""

    def __init__(self):
        self.leader: ThreadPoolExecutor | None = None
        self.tasks: deque[_Task[Any]] = deque()

    def run_oldest(self) -> bool:
        """Run the task that has waited longest; return whether there was one."""
        try:
            task = self.tasks.popleft()
        except IndexError:
            return False
        task.run()
        return True

    def leave(self) -> None:
        """Forget the crew, in a child that has none of its parent's threads."""
        self.leader = None
        self.tasks.clear()


class _Second(threading.local):
    """The second crew of each thread that computes: runs in several threads have their own."""

    def __init__(self):
        self.crew = _Crew()


def _leave() -> None:
    _second.crew.leave()


_second = _Second()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_leave)


def width(number: int) -> int:
    """Return how many of so many threads one operation has: all of one, half of two or more. Rounding depends on it."""
    return max(1, number // 2)


def use_threads(number: int) -> None:
    """Use so many threads: one, or from two on half of them in each crew, of an odd number one fewer."""
    crew, each = _second.crew, width(number)
    if crew.leader is not None:
        crew.leader.shutdown()
    torch.set_num_threads(each)
    # A thread of Python's has a number of its own.
    crew.leader = ThreadPoolExecutor(1, "beside", torch.set_num_threads, (each,)) if number > 1 else None


def threads() -> int:
    """Return how many threads there are in both crews."""
    return torch.get_num_threads() * (1 if _second.crew.leader is None else 2)


def begin(compute: Callable[[], _T]) -> Callable[[], _T]:
    """Begin to compute by the second crew, where there is one, and return what gives the value, to be called once.

    Whoever computes, gradients are tracked as they are now; no other mode of torch is carried over.
    """
    compute = (torch.enable_grad if torch.is_grad_enabled() else torch.no_grad)()(compute)
    crew = _second.crew
    if crew.leader is None:
        return compute
    task = _Task(compute)
    crew.tasks.append(task)
    crew.leader.submit(crew.run_oldest)
    return task.value
