"""Encoders that adapters are tried with: what a parent's `train()` would change, and how that is seen."""

import hashlib
from pathlib import Path

import torch
from torch import Tensor, nn

from curl_rl.nn.encoders import encoder_config, make_encoder
from curl_rl.representation.export import ExportedEncoder, save_encoder
from curl_rl.representation.tap import Tap

CONFIG = {"name": "strided", "feature_dim": 6, "filters": 4}


def save_small(place: Path) -> Path:
    """Write the folder of an encoder of two 32x32 frames, of which it sees 28x28."""
    encoder = make_encoder(encoder_config(**CONFIG), (6, 28, 28))
    return save_encoder(encoder, CONFIG, (6, 32, 32), place)


def frames(*shape: int) -> Tensor:
    return torch.randint(256, (*shape, 6, 32, 32), dtype=torch.uint8)


def normalised() -> ExportedEncoder:
    """Return a user's network that in training moves its statistics and drops features."""
    net = nn.Sequential(nn.Conv2d(6, 4, 5, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.5), nn.Flatten())
    return ExportedEncoder(Tap(net).see((6, 32, 32)), (6, 32, 32))


def fingerprint(module: nn.Module) -> str:
    """Return a hash of every weight and buffer, whatever is kept in files."""
    digest = hashlib.sha256()
    for name, tensor in sorted([*module.named_parameters(), *module.named_buffers()]):
        digest.update(name.encode() + tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
