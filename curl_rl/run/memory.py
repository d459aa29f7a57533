"""How much memory a replay, a batch and networks take, how much is free, and so where frames live."""

import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, nn

from curl_rl.agents import AGENTS
from curl_rl.config.schema import Config
from curl_rl.nn.augmentations import Averaging
from curl_rl.nn.encoders import Encoder, make_encoder
from curl_rl.nn.networks import seeded
from curl_rl.objectives import OBJECTIVES
from curl_rl.replay.samplers import SAMPLERS, Sampler
from curl_rl.run.machine import free_main_memory
from curl_rl.types import ConfigError, Shapes

_CUDA_RESERVE = 4 << 30  # left on the accelerator for networks, activations and captured graphs


def predict_bytes(
    capacity: int,
    *,
    obs_shape: Sequence[int],
    obs_dtype: torch.dtype,
    action_shape: Sequence[int],
    action_dtype: torch.dtype,
    sampler: type[Sampler],
    label_side: int = 0,
) -> int:
    """Return the bytes that a Replay and its sampler will hold, batches not counted, without allocating them."""
    frame = math.prod(obs_shape) * obs_dtype.itemsize
    metadata = 4 + 4 + 1 + label_side**2 + math.prod(action_shape) * action_dtype.itemsize  # reward, age, end
    return (capacity + 1) * frame + capacity * (metadata + sampler.bytes_per_slot)


def predict_training_bytes(networks: Iterable[nn.Module]) -> int:
    """Return the bytes that networks take in training; built on the meta device they take none to be asked.

    What is trained has a gradient, two moments of Adam and a moving average beside it.
    """
    tensors = (t for network in networks for t in (*network.parameters(), *network.buffers()))
    return sum(t.nbytes * (5 if t.requires_grad else 1) for t in tensors)


def predict_activation_bytes(layers: nn.Module, batch: Tensor) -> int:
    """Return the bytes that a batch leaves in layers for the backward pass, with a gradient of each number.

    Both are on the meta device, where they take none.
    """
    left = list[int]()
    for layer in layers.modules():
        if not any(layer.children()):
            layer.register_forward_hook(lambda *passed: left.append(passed[2].nbytes))
    layers(batch)
    return 2 * sum(left)


def check_networks(config: Config, encoder: Encoder, shapes: Shapes, device: torch.device) -> None:
    """Refuse networks that memory cannot hold before any of it is taken; the encoder is on the meta device."""
    agent, first = config.agent, f"encoder={config.encoder.name}"
    parts: dict[str, list[nn.Module]] = {first: [encoder]}
    with torch.device("meta"):
        parts[f"agent={agent.name}"] = list(AGENTS[agent.name].networks(agent, encoder, shapes.action_dim))
        with suppress(RuntimeError, TypeError):  # one that reads its tensors while it is built tells nothing here
            parts[f"objective={config.objective.name}"] = [OBJECTIVES[config.objective.name](config.objective, shapes)]
    needed = {part: predict_training_bytes(networks) for part, networks in parts.items()}
    largest = max(needed, key=lambda part: needed[part])
    mend = f"the sizes of {largest}" + f" or {first}" * (largest != first)
    check_fits("the networks in training", sum(needed.values()), device, mend)


def check_batch(config: Config, layout: Mapping[str, Any], seen: tuple[int, ...], device: torch.device) -> None:
    """Refuse batches that memory cannot hold, as observations or on their way through the encoder.

    Args: layout, of the replay; seen, the shape of what the encoder sees of an observation.
    """
    averaged, horizon = config.agent.averaging or Averaging(1, 1), config.horizon
    observations = config.batch_size * config.env.frame_stack * (max(averaged.k, 1) + max(averaged.m, 1) + horizon)
    # As sampled, as augmented, and as the float32 that encoders read.
    needed = observations * math.prod(layout["obs_shape"]) * (2 * layout["obs_dtype"].itemsize + 4)
    with seeded(0), torch.device("meta"):
        layers = make_encoder(config.encoder, seen).convs
        needed += predict_activation_bytes(layers, torch.empty(config.batch_size, *seen))
    mend = (
        f"batch_size, env.image_size, the sizes of encoder={config.encoder.name}{', objective.steps' * bool(horizon)}"
    )
    check_fits(f"{config.batch_size} transitions of a batch", needed, device, mend)


def check_fits(what: str, needed: int, device: torch.device, mend: str) -> None:
    """Raise ConfigError where `needed` bytes are not free any more on a device."""
    free = max(free_memory(device), 0)
    if needed > free:
        where = "main memory" if device.type == "cpu" else f"the {device.type.upper()} device"
        raise ConfigError(
            f"{what} need {needed / 2**30:.2f} GiB and {where} has {free / 2**30:.2f} GiB free: lower {mend}"
        )


def choose_storage(setting: str, device: torch.device, needed: int) -> torch.device:
    """Choose where `needed` bytes of frames live: for `auto` on the training device `device` if they fit, else the CPU.

    Raises ConfigError if they do not fit where they must, or `cuda` is asked for beside training on the CPU.
    """
    if setting == "cuda" and device.type != "cuda":
        raise ConfigError("replay.device=cuda needs training on CUDA: set device=cuda or replay.device=auto")
    if setting != "cpu" and device.type == "cuda":
        free = free_memory(device) - _CUDA_RESERVE
        if needed <= free:
            return device
        if setting == "cuda":
            raise _too_large(needed, free, "CUDA device, 4 GiB set aside,", "replay.device=cpu, ")
    free = free_memory(torch.device("cpu"))
    if needed > free:
        raise _too_large(needed, free, "main memory", "")
    return torch.device("cpu")


def find_room(config: Config, layout: Mapping[str, Any], device: torch.device) -> torch.device:
    """Return where a replay's frames live, its predicted size printed first; ConfigError where they do not fit."""
    needed = predict_bytes(sampler=SAMPLERS[config.replay.sampler], **layout)
    storage = choose_storage(config.replay.device, device, needed)
    print(f"replay: {layout['capacity']:,} frames, {needed / 2**30:.2f} GiB on {storage}", file=sys.stderr)
    return storage


def _too_large(needed: int, free: float, where: str, mend: str) -> ConfigError:
    free = max(free, 0)
    return ConfigError(
        f"the replay needs {needed / 2**30:.2f} GiB and the {where} has {free / 2**30:.2f} GiB free: choose {mend}"
        f"a smaller replay.capacity ({free / needed:.0%} of it would fit), smaller images, or fewer frames to train for"
    )


def free_memory(device: torch.device) -> float:
    """Return the bytes that can still be allocated on a device, or in main memory."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else free_main_memory()
