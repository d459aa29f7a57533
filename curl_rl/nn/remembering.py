"""An encoder that computes each input once within an update."""

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from curl_rl.nn.beside import begin
from curl_rl.nn.encoders import Encoder
from curl_rl.nn.encoders.stack import ConvStack

_Memory = dict[int, tuple[Tensor, Tensor, bool]]  # id of an input -> (the input, its value, whether in the graph)


class Remembering:
    """An encoder that computes each input's features once, so that an objective reads what the critic already paid for.

    It lives within one update: the encoder's parameters must not change between two reads. Scaled images do not depend
    on them and are shared with the encoder `beside` it. Inputs `together` (B, ...) will all be read with gradient: the
    first that is takes the others with it through the convolutions, as one batch for layers that normalise over it.
    """

    def __init__(self, encoder: Encoder, beside: "Remembering | None" = None, *, together: Sequence[Tensor] = ()):
        self.encoder = encoder
        self._together = {id(obs): obs for obs in together}
        if len(self._together) == 1:  # alone, it need not be copied into a batch
            self._together.clear()
        self._images: _Memory = beside._images if beside else {}
        self._maps: _Memory = {}
        self._features: _Memory = {}
        self._begun: dict[int, Callable[[], Tensor]] = {}
        self._others: dict[Encoder, Remembering] = {}

    def of(self, encoder: Encoder) -> "Remembering":
        """Return what is remembered of another encoder beside this one, the same each time."""
        return self._others.setdefault(encoder, Remembering(encoder, self))

    def begin(self, *inputs: Tensor) -> "Remembering":
        """Let the second crew begin on inputs that will be read without gradient.

        Only where the network is a ConvStack: layers of others may keep or draw something, in the order of their calls.
        """
        if isinstance(self.encoder.convs, ConvStack):
            with torch.no_grad():
                self._begun |= {id(obs): begin(partial(self._map, obs)) for obs in inputs if obs.device.type == "cpu"}
        return self

    def conv(self, obs: Tensor) -> Tensor:
        if id(obs) in self._begun:
            self._begun.pop(id(obs))()
        if id(obs) in self._together and torch.is_grad_enabled():
            self._map_together()
        return self._map(obs)

    def _map(self, obs: Tensor) -> Tensor:
        images = self._recall(self._images, obs, lambda: self.encoder.scale(obs))
        return self._recall(self._maps, obs, lambda: self.encoder.map(images))

    def _map_together(self) -> None:
        inputs, self._together = tuple(self._together.values()), {}
        images = self.encoder.scale(torch.cat(inputs))
        for memory, values in ((self._images, images), (self._maps, self.encoder.map(images))):
            parts = values.split([len(obs) for obs in inputs])
            memory |= {id(obs): (obs, part, True) for obs, part in zip(inputs, parts, strict=True)}

    def __call__(self, obs: Tensor) -> Tensor:
        return self._recall(self._features, obs, lambda: self.encoder.head(self.conv(obs)))

    def _recall(self, memory: _Memory, obs: Tensor, compute: Callable[[], Tensor]) -> Tensor:
        # Under no_grad a reader wants no graph, and what was computed there would cut another reader's gradient.
        tracked = torch.is_grad_enabled()
        if id(obs) not in memory or (tracked and not memory[id(obs)][2]):
            # The input is kept beside its value: a freed tensor's id could come back as another's.
            memory[id(obs)] = (obs, compute(), tracked)
        value = memory[id(obs)][1]
        return value if tracked else value.detach()
