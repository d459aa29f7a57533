"""Several processes that train one encoder: each encodes its part of every batch, all see the whole of it."""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from curl_rl.nn.encoders import Encoder
from curl_rl.types import ConfigError


class Processes:
    """One process, alone."""

    main, count = True, 1
    device = ""  # of this process; empty: whichever is configured

    @contextmanager
    def sharing(self, *encoders: Encoder) -> Iterator[None]:
        """Let encoders compute a part of each batch inside, and give the whole."""
        yield

    def sum_gradients(self, encoder: Encoder) -> None:
        """Make of each process's share of an encoder's gradient the whole."""

    def average_statistics(self, *encoders: Encoder) -> None:
        """Make running statistics of batches alike in all processes."""

    def any(self, flag: bool) -> bool:
        """Return whether any process says so."""
        return flag

    def wait(self) -> None:
        """Wait until all have come here."""


class Group(Processes):
    """The processes that `accelerate launch` or `torchrun` has started.

    All draw the same batches and views, and each computes the whole loss of all features; so heads, queues and clusters
    are alike everywhere, and what one process would have. Only the layers up to the map are divided. Raises ConfigError
    where the package that starts them is missing.
    """

    def __init__(self, device: str):
        try:
            from accelerate import PartialState
        except ImportError:
            raise ConfigError(
                "several processes need the extra accelerate: pip install 'curl-rl[accelerate]', or start one"
            ) from None
        state = PartialState(cpu=device == "cpu" or not torch.cuda.is_available())
        self.main, self.count, self._rank = state.is_main_process, state.num_processes, state.process_index
        self.device = str(state.device)

    @contextmanager
    def sharing(self, *encoders: Encoder) -> Iterator[None]:
        try:
            for encoder in encoders:
                encoder.__dict__["map"] = self._shared(encoder.map)
            yield
        finally:
            for encoder in encoders:
                encoder.__dict__.pop("map", None)

    def _shared(self, look: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        def look_together(images: Tensor) -> Tensor:
            parts = images.tensor_split(self.count)
            return _Gather.apply(look(parts[self._rank]), [len(part) for part in parts], self._rank)

        return look_together

    def sum_gradients(self, encoder: Encoder) -> None:
        head = {id(parameter) for parameter in encoder.head.parameters()}  # which has seen the whole batch
        divided = [parameter for parameter in encoder.parameters() if id(parameter) not in head]
        _all_reduce([parameter.grad for parameter in divided if parameter.grad is not None])

    def average_statistics(self, *encoders: Encoder) -> None:
        buffers = [buffer for encoder in encoders for buffer in encoder.buffers() if buffer.is_floating_point()]
        _all_reduce(buffers, share=1 / self.count)

    def any(self, flag: bool) -> bool:
        told = torch.tensor(float(flag), device=self.device)
        dist.all_reduce(told, dist.ReduceOp.MAX)
        return bool(told)

    def wait(self) -> None:
        dist.barrier()


def launched(device: str) -> Processes:
    """Return the processes that a launcher has started, or this one alone. Args: device, as it is configured."""
    return Group(device) if int(os.environ.get("WORLD_SIZE", "1")) > 1 else Processes()


class _Gather(torch.autograd.Function):
    """Parts of a batch in order, from every process; of the gradient each process takes its own part."""

    @staticmethod
    def forward(ctx: Any, part: Tensor, sizes: list[int], rank: int) -> Tensor:
        ctx.sizes, ctx.rank = sizes, rank
        padded = part.new_zeros((max(sizes), *part.shape[1:]))
        padded[: len(part)] = part
        parts = [torch.empty_like(padded) for _ in sizes]
        dist.all_gather(parts, padded)
        return torch.cat([each[:size] for each, size in zip(parts, sizes, strict=True)])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        return grads[0].split(ctx.sizes)[ctx.rank], None, None


def _all_reduce(tensors: Sequence[Tensor], share: float = 1.0) -> None:
    """Put the sum over all processes, times a share, into each tensor; in one message for each type of number."""
    for kind in dict.fromkeys(tensor.dtype for tensor in tensors):
        alike = [tensor for tensor in tensors if tensor.dtype == kind]
        flat = torch.cat([tensor.flatten() for tensor in alike])
        dist.all_reduce(flat)
        for tensor, whole in zip(alike, flat.split([tensor.numel() for tensor in alike]), strict=True):
            tensor.copy_(whole.view_as(tensor) * share)
