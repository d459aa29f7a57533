"""The jobs of a benchmark as Ray tasks: each worker starts the public command and watches over it.

curl-rl must be importable on every node: the same checkout at the same place, or the same version installed.
"""

import hashlib
import logging
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from curl_rl.benchmark.engines.base import LOST, Job
from curl_rl.benchmark.engines.process import JobProcess, tail_of
from curl_rl.benchmark.engines.sharing import TABLES, SharedDirectory, TakenError, is_url
from curl_rl.run.interpreter import python
from curl_rl.run.locks import alone
from curl_rl.types import ConfigError

_LOG = "log.txt"
_CONNECT = 5.0  # seconds until a host has answered
_INIT = 30.0  # seconds until a cluster has let a driver in; Ray itself waits for two minutes
_LOCKED = 150.0  # seconds until a file server has given up the lock of a machine that died
_VIEW_EVERY = 10.0  # seconds for which a fetched table is new enough
_STOPPED = 128 + signal.SIGTERM

# A trial in a process of its own: Ray ends the process that cannot connect, and not within the time anyone waits.
_TRIAL = """
import sys, ray
try:
    ray.init(address=sys.argv[1], log_to_driver=False, logging_level="ERROR")
except Exception as error:
    sys.exit(str(error))
"""


class RayEngine:
    """Slots of a running Ray cluster, each of `cpus` cores and `gpus` GPUs (a fraction shares one).

    A job whose worker or node dies is LOST; started again, it goes on elsewhere from its shared run directory.
    Raises ConfigError without Ray, where `address` cannot be reached, or where no node has room for a job.
    """

    def __init__(self, address: str, *, cpus: int = 1, gpus: float = 0.0, push_every: float = 20.0):
        """Connect; what a run directory behind a URL has that is new gets there every `push_every` seconds."""
        self._ray = _connect(address)
        self._address, self._cpus, self._gpus, self._push_every = address, cpus, gpus, push_every
        self._shares = {"CPU": float(cpus)} | ({"GPU": gpus} if gpus else {})
        self._task = self._ray.remote(num_cpus=cpus, num_gpus=gpus, max_retries=0)(run_job)
        self._running: list[RayHandle] = []
        self._cache = tempfile.TemporaryDirectory(prefix="curl-rl-views-")
        self._views: dict[str, SharedDirectory] = {}
        self._viewed: dict[str, float] = {}
        if not self._slots():
            self.close()
            raise ConfigError(
                f"no node of the Ray cluster at {address} has {self._size()}: ask for less, or add such a node first"
            )

    def free(self) -> bool:
        """Return whether the nodes that are up now hold another job."""
        self._running = [handle for handle in self._running if handle.poll() is None]
        return len(self._running) < self._slots()

    def start(self, job: Job) -> "RayHandle":
        """Start a job, or go on with it, in its run directory: one path for all nodes, or a URL."""
        if is_url(job.run_dir):
            self._shared(job.run_dir)  # refuses here and now what no worker could open
        else:
            job = job._replace(run_dir=str(Path(job.run_dir).absolute()))
        device = "device=cuda" if self._gpus else "device=cpu"
        share = (device, f"threads={self._cpus}", f"evaluation.workers={self._cpus}")
        reference = self._task.remote(job, share, self._cpus, self._push_every)
        handle = RayHandle(self._ray, reference, lambda: self._log(job), lambda: self._viewed.pop(job.run_dir, None))
        self._running.append(handle)
        return handle

    def view(self, job: Job) -> Path:
        """Return the mounted run directory itself, or a copy of its tables that is some seconds old at most."""
        fresh = time.monotonic() - self._viewed.get(job.run_dir, -_VIEW_EVERY) < _VIEW_EVERY
        if not fresh:
            self._viewed[job.run_dir] = time.monotonic()
        return self._fetched(job, () if fresh else TABLES)

    def describe(self) -> str:
        return f"Ray at {self._address}: {self._slots()} x {self._size()}"

    def close(self) -> None:
        """Leave the cluster, which ends what still runs there."""
        self._ray.shutdown()
        self._cache.cleanup()

    def _slots(self) -> int:
        return sum(
            int(min(node["Resources"].get(name, 0) / share for name, share in self._shares.items()))
            for node in self._ray.nodes()
            if node["Alive"]
        )

    def _size(self) -> str:
        cores = f"{self._cpus} core{'s' if self._cpus > 1 else ''}"
        return f"{cores} and {self._gpus:g} GPU" if self._gpus else cores

    def _shared(self, url: str) -> SharedDirectory:
        if url not in self._views:
            local = Path(self._cache.name, *Path(url.partition("://")[2]).parts[1:])
            self._views[url] = SharedDirectory(url, local)
        return self._views[url]

    def _fetched(self, job: Job, names: Iterable[str]) -> Path:
        if not is_url(job.run_dir):
            return Path(job.run_dir)
        shared = self._shared(job.run_dir)
        with suppress(OSError):  # what was fetched before is shown until the network is back
            shared.fetch(names)
        return shared.local

    def _log(self, job: Job) -> str:
        return tail_of(self._fetched(job, [_LOG]) / _LOG)


class RayHandle:
    """A job that was handed to a cluster."""

    def __init__(self, ray: Any, reference: Any, log: Callable[[], str], ended: Callable[[], Any]):
        self._ray, self._reference, self._log, self._ended = ray, reference, log, ended
        self._status: int | None = None
        self._tail = ""

    def poll(self) -> int | None:
        """Return the exit status, LOST where worker or node died, None while it runs or waits for a node."""
        if self._status is None and self._ray.wait([self._reference], timeout=0)[0]:
            self._status, self._tail = self._result()
            self._ended()
        return self._status

    def paused(self) -> None:
        """Return None: nobody asks other machines for the state of a process."""

    def stop(self) -> None:
        """Ask for a checkpoint and the end; a job that still waits for a node never starts."""
        self._ray.cancel(self._reference)

    def kill(self) -> None:
        self._ray.cancel(self._reference, force=True)

    def tail(self) -> str:
        """Return the last lines of the log; of a job that ended, as they were then."""
        return self._tail or self._log()

    def _result(self) -> tuple[int, str]:
        errors = self._ray.exceptions
        try:
            return self._ray.get(self._reference)
        except errors.TaskCancelledError:
            return _STOPPED, ""
        except (errors.RayTaskError, errors.OutOfMemoryError, errors.RuntimeEnvSetupError) as error:
            return 1, "\n".join(str(error).splitlines()[-20:])  # elsewhere it would fail as well
        except errors.RayError:
            return LOST, ""


def run_job(job: Job, share: tuple[str, ...], cpus: int, push_every: float) -> tuple[int, str]:
    """Run a job on this worker; return its exit status and the end of its log."""
    if is_url(job.run_dir):
        run_dir = _scratch(job.run_dir)
        shared = SharedDirectory(job.run_dir, run_dir)
        pull, push = shared.pull, shared.push
    else:
        run_dir = Path(job.run_dir)
        pull = push = lambda: None  # every node sees the same directory
    with _cancelled() as cancel:
        _wait_until_free(run_dir / ".lock", cancel)
        if cancel.asked:
            return _STOPPED, ""
        pull()
        arguments = job.command(*share, run_dir=str(run_dir))
        cancel.child = child = JobProcess(arguments, run_dir / _LOG, env={"OMP_NUM_THREADS": str(cpus)})
        if cancel.asked:
            child.stop()
        try:
            status = _watch(child, push, push_every)
        finally:
            child.kill()
        _push_last(push)
    tail = child.tail()
    if is_url(job.run_dir):
        shutil.rmtree(run_dir, ignore_errors=True)
    return status, tail


class _Cancel:
    """What Ray's cancelling, which reaches a task as SIGINT, does to its job."""

    asked = False
    child: JobProcess | None = None

    def __call__(self, *_: Any) -> None:
        self.asked = True
        if self.child is not None:
            self.child.stop()


@contextmanager
def _cancelled() -> Iterator[_Cancel]:
    cancel = _Cancel()
    before = signal.signal(signal.SIGINT, cancel)
    try:
        yield cancel
    finally:
        signal.signal(signal.SIGINT, before)


def _watch(child: JobProcess, push: Callable[[], None], push_every: float) -> int:
    """Push now and then until the job ends; return its exit status."""
    due = time.monotonic() + push_every
    while (status := child.poll()) is None:
        time.sleep(0.1)
        if (begun := time.monotonic()) >= due:
            try:
                push()
            except TakenError:
                raise
            except Exception as error:  # of any file system; the next push brings what this one did not
                with child.log.open("a", encoding="utf-8") as log:
                    log.write(f"cannot write to the shared run directory yet: {error}\n")
            # A slow network gets a fifth of the time at most.
            due = max(begun + push_every, time.monotonic() + 4 * (time.monotonic() - begun))
    return status


def _push_last(push: Callable[[], None]) -> None:
    for pause in (1, 5, 20):
        try:
            return push()
        except TakenError:
            raise
        except Exception:
            time.sleep(pause)
    push()


def _wait_until_free(lock: Path, cancel: _Cancel) -> None:
    """Wait for a run directory whose last holder died, perhaps with its machine; training itself refuses others."""
    deadline = time.monotonic() + _LOCKED
    while lock.exists() and time.monotonic() < deadline and not cancel.asked:
        try:
            with alone(lock, "held"):
                return
        except ConfigError:
            time.sleep(0.2)


def _scratch(url: str) -> Path:
    """Return the one place on this machine for a URL's copy, so that what a killed job left behind is used up."""
    folder = Path(tempfile.gettempdir(), f"curl-rl-{os.getuid()}", hashlib.sha256(url.encode()).hexdigest()[:16])
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder


def _connect(address: str) -> Any:
    """Return the module `ray`, connected."""
    try:
        import ray
    except ImportError:
        raise ConfigError("the engine ray needs Ray: pip install 'curl-rl[ray]'") from None
    meant = os.environ.get("RAY_ADDRESS", address) if address == "auto" else address
    handler = signal.getsignal(signal.SIGTERM)
    try:
        _try(address, meant)
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except (OSError, OverflowError, ValueError, RuntimeError) as error:
        reason = str(error).strip().partition("\n")[0] or "no reason given"
        raise ConfigError(
            f"cannot reach a Ray cluster at {meant!r} ({reason}): start one with `ray start --head`, "
            "or give its address as host:port"
        ) from None
    signal.signal(signal.SIGTERM, handler)  # Ray puts one of its own there
    with suppress(ImportError):
        # A death is told by its job's state, not by a page of a raylet's log amid the table; Ray has no setting for it.
        from ray._private import worker

        worker.print_to_stdstream = lambda *_, **__: None
    return ray


def _try(address: str, meant: str) -> None:
    """Raise an error where no cluster answers in time; `meant` is what the address stands for."""
    host, _, port = meant.removeprefix("ray://").rpartition(":")
    if host and port.isdecimal():
        socket.create_connection((host, int(port)), _CONNECT).close()
    try:
        command = [*python(), "-W", "ignore", "-c", _TRIAL, address]
        done = subprocess.run(command, capture_output=True, text=True, timeout=_INIT, check=False)
    except subprocess.TimeoutExpired:
        raise TimeoutError(f"no answer within {_INIT:g} s") from None
    if done.returncode:
        raise RuntimeError(done.stderr)
