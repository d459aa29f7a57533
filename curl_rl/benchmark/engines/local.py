"""Runs jobs as processes of this machine that do not fight for its cores, several on a GPU where there is one."""

import os
from pathlib import Path
from typing import NamedTuple

from curl_rl.benchmark.engines.base import Handle, Job
from curl_rl.benchmark.engines.process import JobProcess
from curl_rl.run.machine import affinity, usable_cores
from curl_rl.types import ConfigError


class _Slot(NamedTuple):
    """What one worker may use."""

    cores: tuple[int, ...]
    threads: int  # fewer than cores where a quota gives less time than they have
    gpu: str  # as CUDA_VISIBLE_DEVICES names it; empty without one

    def share(self) -> tuple[str, ...]:
        count = self.threads
        return f"device={'cuda' if self.gpu else 'cpu'}", f"threads={count}", f"evaluation.workers={count}"

    def environment(self) -> dict[str, str]:
        return {"OMP_NUM_THREADS": str(self.threads), **({"CUDA_VISIBLE_DEVICES": self.gpu} if self.gpu else {})}


class LocalEngine:
    """So many workers side by side, or `per_gpu` on each GPU, each pinned to its share of the cores.

    Without a number there is one worker a usable core, or one a GPU. Raises ConfigError for more workers than
    usable cores.
    """

    def __init__(self, *, workers: int | None = None, per_gpu: int | None = None):
        if workers is not None and per_gpu is not None:
            raise ConfigError("--workers and --per-gpu both say how many jobs run at once: give one of them")
        cores, usable, gpus = affinity(), usable_cores(), visible_gpus()
        if per_gpu is not None and not gpus:
            raise ConfigError("--per-gpu needs a GPU, and there is none here: give --workers")
        if per_gpu is not None or (gpus and workers is None):
            workers = (per_gpu or 1) * len(gpus)
        workers = workers or usable
        if workers > usable:
            raise ConfigError(f"{workers} workers need as many CPU cores, and there are {usable}: ask for fewer")
        each, threads = len(cores) // workers, usable // workers
        self._slots = [
            _Slot(tuple(cores[i * each : (i + 1) * each]), threads, gpus[i % len(gpus)] if gpus else "")
            for i in range(workers)
        ]
        self._busy: dict[_Slot, Handle] = {}

    def free(self) -> bool:
        self._busy = {slot: handle for slot, handle in self._busy.items() if handle.poll() is None}
        return len(self._busy) < len(self._slots)

    def start(self, job: Job) -> Handle:
        """Start a job on a free worker."""
        slot = next(slot for slot in self._slots if slot not in self._busy)
        log = Path(job.run_dir) / "log.txt"
        handle = JobProcess(job.command(*slot.share()), log, cores=slot.cores, env=slot.environment())
        self._busy[slot] = handle
        return handle

    def view(self, job: Job) -> Path:
        return Path(job.run_dir)

    def describe(self) -> str:
        each = self._slots[0].threads
        gpus = len({slot.gpu for slot in self._slots if slot.gpu})
        on_gpus = f" on {gpus} GPU{'s' * (gpus > 1)}" if gpus else ""
        return f"{len(self._slots)} worker{'s' * (len(self._slots) > 1)} x {each} core{'s' * (each > 1)}{on_gpus}"

    def close(self) -> None:
        for handle in self._busy.values():
            handle.kill()


def visible_gpus() -> list[str]:
    """Return this process's GPUs by the names that CUDA_VISIBLE_DEVICES gives them."""
    import torch

    named = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    return (named or [str(index) for index in range(torch.cuda.device_count())])[: torch.cuda.device_count()]
