"""Encodes a batch in pieces, so that memory holds one of them and an objective sees the whole."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from curl_rl.nn.encoders import Encoder


class Shared:
    """An encoder whose features of a whole batch are put together of pieces, in order.

    Each piece is encoded again for the backward pass, so that no more than one piece's activations are held. A layer
    that normalises over a batch sees one piece at a time.
    """

    def __init__(self, encoder: Encoder, pieces: int):
        self.encoder, self._pieces = encoder, pieces

    def of(self, encoder: Encoder) -> "Shared":
        """Return another encoder in the same way."""
        return Shared(encoder, self._pieces)

    def conv(self, obs: Tensor) -> Tensor:
        return self._see(self.encoder.conv, obs)

    def __call__(self, obs: Tensor) -> Tensor:
        return self._see(self.encoder, obs)

    def _see(self, look: Callable[[Tensor], Tensor], obs: Tensor) -> Tensor:
        def contexts():
            return nullcontext(), still(self.encoder)

        if not torch.is_grad_enabled():
            return torch.cat([look(piece) for piece in obs.chunk(self._pieces)])
        options = {"use_reentrant": False, "context_fn": contexts}
        return torch.cat([checkpoint(look, piece, **options) for piece in obs.chunk(self._pieces)])  # pyright: ignore[reportArgumentType]


@contextmanager
def still(module: nn.Module) -> Iterator[None]:
    """Keep running statistics inside as they are: a batch that is encoded a second time counts once."""
    norms = [part for part in module.modules() if isinstance(part, _BatchNorm)]
    before = [(norm.momentum, norm.num_batches_tracked, int(norm.num_batches_tracked or 0)) for norm in norms]
    try:
        for norm in norms:
            norm.momentum = 0.0
        yield
    finally:
        for norm, (momentum, counter, count) in zip(norms, before, strict=True):
            norm.momentum = momentum
            if counter is not None:
                counter.fill_(count)
