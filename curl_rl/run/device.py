"""Which device a run uses, and how torch is told to use it."""

import ctypes
import importlib
import mmap
import sys

import torch

from curl_rl.nn import beside
from curl_rl.run.machine import usable_cores
from curl_rl.types import ConfigError


def choose_device(name: str) -> torch.device:
    """Return the device that a setting names. Raises ConfigError where it is absent."""
    cuda = torch.cuda.is_available()
    if name == "auto":
        return torch.device("cuda" if cuda else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"unknown device {name!r}: choose auto, cpu, cuda or cuda:N") from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ConfigError(f"device={name} is absent ({torch.cuda.device_count()} CUDA devices here): use device=cpu")
    return device


def prepare_torch(threads: int) -> None:
    """Set the number of threads, flush denormal numbers to zero and let the C library keep freed memory.

    Zero threads means all usable cores; more than there are would wait for each other, and of an odd number one stays
    unused. The moments of units that have died decay into denormals, on which Adam takes eight times as long. Fresh
    memory costs page faults: keeping it takes a fifth off an update on a CPU.
    """
    # An optimiser's first step would import it, and with it Triton, whose LLVM crashes where Mesa's was loaded before.
    importlib.import_module("torch._dynamo")
    cores = usable_cores()
    torch.set_flush_denormal(True)  # before any other thread is started, for they inherit it
    beside.use_threads(min(threads, cores) or cores)
    if threads and (used := beside.threads()) != threads:
        told = f"threads={threads}, and {cores} usable core{'s' * (cores > 1)} here"
        print(f"{told}: {used} {'are' if used > 1 else 'is'} used, one or an even number", file=sys.stderr)
    _keep_memory(ctypes.CDLL(None))


def _keep_memory(libc: ctypes.CDLL) -> None:
    """Let the C library keep what is freed, in one heap of huge pages, whose addresses a processor finds sooner."""
    if not hasattr(libc, "mallopt"):
        return
    trim_threshold, top_pad, mmap_max, arena_max = -1, -2, -4, -8
    for parameter, value in ((mmap_max, 0), (trim_threshold, 2**31 - 1), (top_pad, 64 << 20), (arena_max, 1)):
        libc.mallopt(parameter, value)
    libc.malloc.argtypes, libc.malloc.restype = (ctypes.c_size_t,), ctypes.c_void_p
    libc.free.argtypes, libc.madvise.argtypes = (ctypes.c_void_p,), (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    reserved, page = 1 << 30, 2 << 20  # only what is written to is taken from the machine
    if start := libc.malloc(reserved):
        libc.madvise(-(-start // page) * page, reserved - 2 * page, mmap.MADV_HUGEPAGE)
        libc.free(start)


def describe(device: torch.device) -> str:
    """Return what an update runs on, for people."""
    number = beside.threads()
    return f"{number} thread{'s' if number > 1 else ''}" if device.type == "cpu" else str(device)
