"""Heads in plain form: linear layers and what normalises and activates after them, described by words and numbers."""

import copy
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

_KINDS: dict[str, type[nn.Module]] = {
    "linear": nn.Linear,
    "batch_norm": nn.BatchNorm1d,
    "layer_norm": nn.LayerNorm,
    "relu": nn.ReLU,
}


def plain(head: nn.Module | None, features: Tensor) -> nn.Sequential | None:
    """Return a head as plain layers that need no batch: normalised by statistics of features (B, d), B at least 2.

    None for one that is made of anything else. Its function of those features is the same; biases and scales that it
    lacks are there as zeros and ones.
    """
    if not isinstance(head, nn.Sequential) or not all(map(_is_plain, head)):
        return None
    layers, x = build_layers(describe_layers(head)).to(features.device).eval(), features
    with torch.no_grad():
        for mine, theirs in zip(layers, head, strict=True):
            given = {key: value for key, value in theirs.state_dict().items() if key in ("weight", "bias")}
            mine.load_state_dict(_filled(mine) | given)
            if isinstance(mine, nn.BatchNorm1d):
                variance, mean = torch.var_mean(x, 0, correction=0)
                mine.load_state_dict({"running_mean": mean, "running_var": variance}, strict=False)
            x = mine(x)
    return layers


def describe_layers(layers: Iterable[nn.Module]) -> list[list[Any]]:
    """Return what `build_layers` makes them of, as JSON holds it: ["linear", 50, 256], ["relu"], ..."""
    names = {kind: name for name, kind in _KINDS.items()}
    return [[names[type(layer)], *_sizes(layer)] for layer in layers]


def build_layers(described: Sequence[Sequence[Any]]) -> nn.Sequential:
    """Build layers. Raises LookupError, TypeError or ValueError for what describes none."""
    return nn.Sequential(*(_KINDS[name](*sizes) for name, *sizes in described))


def count_linear(layers: nn.Sequential) -> int:
    return sum(isinstance(layer, nn.Linear) for layer in layers)


def first_layers(layers: nn.Sequential, count: int) -> nn.Sequential:
    """Return a copy of the first so many linear layers with what normalises and activates after them."""
    places = [place for place, layer in enumerate(layers) if isinstance(layer, nn.Linear)]
    return copy.deepcopy(nn.Sequential(*list(layers)[: [*places, len(layers)][count]]))


def out_features(layers: nn.Sequential, in_features: int) -> int:
    """Return how wide it is what layers give of so many features."""
    return next((layer.out_features for layer in reversed(layers) if isinstance(layer, nn.Linear)), in_features)


def _is_plain(layer: nn.Module) -> bool:
    usual = getattr(layer, "eps", 1e-5) == 1e-5 and len(getattr(layer, "normalized_shape", (1,))) == 1
    return type(layer) in _KINDS.values() and usual


def _sizes(layer: nn.Module) -> list[int]:
    if isinstance(layer, nn.Linear):
        return [layer.in_features, layer.out_features]
    if isinstance(layer, nn.BatchNorm1d):
        return [layer.num_features]
    return list(layer.normalized_shape) if isinstance(layer, nn.LayerNorm) else []


def _filled(layer: nn.Module) -> dict[str, Tensor]:
    """Return a fresh layer's state, of a linear one with a bias of zeros."""
    state = layer.state_dict()
    return {**state, "bias": torch.zeros_like(state["bias"])} if "bias" in state else state
