"""Takes times by name, on CUDA with the device waited for."""

import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

BLOCK, LEAST_BLOCKS, LONG = 4, 3, 20.0  # the last in seconds


class Stopwatch:
    """Collects seconds by name; on CUDA every reading waits for the device."""

    def __init__(self, device: torch.device):
        self.device = device
        self.seconds: dict[str, list[float]] = defaultdict(list)

    def now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    @contextmanager
    def timing(self, name: str) -> Iterator[None]:
        start = self.now()
        yield
        self.seconds[name].append(self.now() - start)

    def wrap(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any, **kwargs: Any) -> Any:
            with self.timing(name):
                return function(*args, **kwargs)

        return timed

    def repeat(self, most: int) -> Iterator[int]:
        """Count `most` repetitions, or fewer whole blocks, three at least, of what would take long."""
        start = self.now()
        for index in range(most):
            if index >= LEAST_BLOCKS * BLOCK and index % BLOCK == 0 and self.now() - start > LONG:
                return
            yield index

    def median(self, name: str) -> float:
        """Return the median over the means of four readings in a row, since an actor may step in every second only."""
        readings = self.seconds[name]
        starts = range(0, max(1, len(readings) - BLOCK + 1), BLOCK)
        return statistics.median(statistics.mean(readings[start : start + BLOCK]) for start in starts)
