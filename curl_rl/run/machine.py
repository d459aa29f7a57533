"""What this process may use of its machine: cores and main memory, as affinity and control groups leave them."""

import math
import os
from collections.abc import Iterator
from pathlib import Path

_ROOT = Path("/")


def affinity() -> list[int]:
    """Return the numbers of the cores on which this process may run."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def cpu_quota(*, root: Path = _ROOT) -> float:
    """Return how many cores' time the control groups give this process, infinity where they set no quota."""
    quotas = [math.inf]
    for version, folder in _groups("cpu", root):
        if version == 2:
            quota, _, period = _read(folder / "cpu.max").strip().partition(" ")
        else:
            quota, period = (_read(folder / f"cpu.cfs_{name}_us").strip() for name in ("quota", "period"))
        if quota.isdigit() and period.isdigit() and int(period):  # not "max", not -1
            quotas.append(int(quota) / int(period))
    return min(quotas)


def usable_cores() -> int:
    """Return how many cores this process can keep busy: of a quota, its whole cores, at least one.

    A thread more than that would be put to sleep in the middle of its work, and the others would wait for it.
    """
    return int(max(1, min(len(affinity()), cpu_quota())))


def free_main_memory(*, root: Path = _ROOT) -> float:
    """Return the bytes that can still be allocated: the smaller of the system's and every control group's."""
    available = _fields(root / "proc/meminfo").get("MemAvailable:", math.inf) * 1024  # from kB
    return min([available, *_free_in_groups(root)])


def _free_in_groups(root: Path) -> Iterator[int]:
    for version, folder in _groups("memory", root):
        if version == 2:
            limit, used, cache = "memory.max", "memory.current", "inactive_file"
        else:
            limit, used, cache = "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"
        bound, taken = _read(folder / limit).strip(), _read(folder / used).strip()
        if bound.isdigit() and taken.isdigit():  # not "max"
            yield int(bound) - int(taken) + _fields(folder / "memory.stat").get(cache, 0)


def _groups(controller: str, root: Path) -> Iterator[tuple[int, Path]]:
    """Yield the version and the folder of each control group above this process that may bound `controller`."""
    for line in _read(root / "proc/self/cgroup").splitlines():
        number, controllers, path = line.split(":", 2)
        if number == "0":
            version, base = 2, root / "sys/fs/cgroup"
        elif controller in controllers.split(","):
            version, base = 1, root / "sys/fs/cgroup" / controller
        else:
            continue
        group = base / path.lstrip("/")
        for folder in (group, *group.parents):
            yield version, folder
            if folder == base:
                break


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""  # this kernel or container has no such bound


def _fields(path: Path) -> dict[str, int]:
    rows = (line.split() for line in _read(path).splitlines())
    return {row[0]: int(row[1]) for row in rows if len(row) > 1}


def lacks_memory(error: Exception) -> bool:
    """Return whether an error says that there is no more memory, of the machine or a device."""
    told = isinstance(error, RuntimeError) and "memory" in str(error) and "allocate" in str(error)
    return told or isinstance(error, MemoryError)
