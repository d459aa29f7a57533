"""Captures a function of CUDA tensors as graphs, so that an update costs one launch instead of hundreds."""

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

Flags = tuple[bool, ...]
Step = Callable[..., dict[str, Tensor]]


def make_step(step: Step, device: torch.device, *, capture: bool) -> Callable[..., dict[str, Tensor]]:
    """Return `step` to be called as `f(*inputs, flags=...)`, captured on a GPU where that is asked for."""
    return Captured(step) if capture and device.type == "cuda" else lambda *inputs, flags=(): step(*inputs, *flags)


class Captured:
    """Call `step(*inputs, *flags)` as a CUDA graph, one graph for each combination of flags.

    Inputs are tensors, None, or tuples of inputs. Their shapes must stay as they are at the first call, and so must
    which of them are one and the same tensor. The first calls of each combination run eagerly (they are real
    steps, and let allocators and optimisers settle); outputs are overwritten by the next call.
    """

    def __init__(self, step: Step, *, warmup: int = 3):
        self.step = step
        self.warmup = warmup
        self._calls: Counter[Flags] = Counter()
        self._graphs: dict[Flags, tuple[torch.cuda.CUDAGraph, dict[str, Tensor]]] = {}
        self._inputs: tuple[Any, ...] = ()

    def __call__(self, *inputs: Any, flags: Flags = ()) -> dict[str, Tensor]:
        self._calls[flags] += 1
        if self._calls[flags] <= self.warmup:
            return self._eagerly(inputs, flags)
        if not self._inputs:
            clones = {id(tensor): tensor.clone() for tensor in tensors(inputs)}
            self._inputs = replaced(inputs, clones)
        copied = dict(zip(tensors(self._inputs), tensors(inputs), strict=True))
        for held, tensor in copied.items():
            held.copy_(tensor, non_blocking=True)
        if flags not in self._graphs:
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                outputs = self.step(*self._inputs, *flags)
            self._graphs[flags] = graph, outputs
        graph, outputs = self._graphs[flags]
        graph.replay()
        return dict(outputs)

    def _eagerly(self, inputs: tuple[Any, ...], flags: Flags) -> dict[str, Tensor]:
        # Capture forbids what a first call does on the default stream, so warm up on another.
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            outputs = self.step(*inputs, *flags)
        torch.cuda.current_stream().wait_stream(stream)
        return outputs


def tensors(inputs: Any) -> Iterator[Tensor]:
    """Yield the tensors of nested tuples, in order."""
    if isinstance(inputs, Tensor):
        yield inputs
    elif inputs is not None:
        for item in inputs:
            yield from tensors(item)


def replaced(inputs: Any, clones: dict[int, Tensor]) -> Any:
    """Return nested tuples with another tensor in the place of each, by its id."""
    if isinstance(inputs, Tensor):
        return clones[id(inputs)]
    if inputs is None:
        return None
    items = [replaced(item, clones) for item in inputs]
    return type(inputs)(*items) if hasattr(inputs, "_fields") else tuple(items)
