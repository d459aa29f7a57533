"""Captures a function of CUDA tensors as graphs, so that an update costs one launch instead of hundreds."""

from collections import Counter
from collections.abc import Callable

import torch
from torch import Tensor

Flags = tuple[bool, ...]
Step = Callable[..., dict[str, Tensor]]


def make_step(step: Step, *, capture: bool) -> Callable[..., dict[str, Tensor]]:
    """Return `step` to be called as `f(*tensors, flags=...)`, captured or as it is."""
    return Captured(step) if capture else lambda *tensors, flags=(): step(*tensors, *flags)


class Captured:
    """Call `step(*tensors, *flags)` as a CUDA graph, one graph for each combination of flags.

    Shapes must stay as they are at the first call. The first calls of each combination run eagerly (they are real
    steps, and let allocators and optimisers settle); outputs are overwritten by the next call.
    """

    def __init__(self, step: Step, *, warmup: int = 3):
        self.step = step
        self.warmup = warmup
        self._calls: Counter[Flags] = Counter()
        self._graphs: dict[Flags, tuple[torch.cuda.CUDAGraph, dict[str, Tensor]]] = {}
        self._inputs: list[Tensor] = []

    def __call__(self, *tensors: Tensor, flags: Flags = ()) -> dict[str, Tensor]:
        self._calls[flags] += 1
        if self._calls[flags] <= self.warmup:
            return self._eagerly(tensors, flags)
        if not self._inputs:
            self._inputs = [tensor.clone() for tensor in tensors]
        for held, tensor in zip(self._inputs, tensors, strict=True):
            held.copy_(tensor, non_blocking=True)
        if flags not in self._graphs:
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                outputs = self.step(*self._inputs, *flags)
            self._graphs[flags] = graph, outputs
        graph, outputs = self._graphs[flags]
        graph.replay()
        return dict(outputs)

    def _eagerly(self, tensors: tuple[Tensor, ...], flags: Flags) -> dict[str, Tensor]:
        # Capture forbids what a first call does on the default stream, so warm up on another.
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            outputs = self.step(*tensors, *flags)
        torch.cuda.current_stream().wait_stream(stream)
        return outputs
