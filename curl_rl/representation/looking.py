"""What an encoder makes of frames: stacked as it was trained on them, and embedded."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from curl_rl.nn.encoders import Encoder
from curl_rl.representation.export import ExportedEncoder
from curl_rl.representation.frames import Frames
from curl_rl.representation.tap import evaluating
from curl_rl.types import ConfigError

_AT_ONCE = 256


def exported(encoder: ExportedEncoder | Encoder) -> ExportedEncoder:
    """Return an encoder as what takes raw observations."""
    return encoder if isinstance(encoder, ExportedEncoder) else ExportedEncoder(encoder, encoder.obs_shape)


def as_seen(frames: Frames, encoder: ExportedEncoder, name: str = "the encoder") -> Frames:
    """Return frames, stacked as an encoder takes them. Raises ConfigError for frames that it does not take."""
    channels, wanted = frames.frame_shape[0], encoder.obs_shape[0]
    if "order" in frames.gives and wanted % channels == 0:
        frames = frames.stacked(wanted // channels)
    try:
        encoder.check(frames.obs_shape)
    except ValueError as error:
        raise ConfigError(f"{name} does not take {frames.source}: {error}") from None
    return frames


def device_of(module: nn.Module) -> torch.device:
    """Return where a module's parameters are, the CPU where it has none."""
    return next((parameter.device for parameter in module.parameters()), torch.device("cpu"))


@torch.no_grad()
def embed(
    encoder: ExportedEncoder,
    frames: Frames,
    done: Callable[[int], None] = lambda count: None,
    *,
    ids: Tensor | None = None,
) -> Tensor:
    """Return features (N, d) float32 on the CPU of frames stacked as the encoder takes them; no weight changes.

    Args: done, is told how many frames are embedded; ids (N,), of the frames, all unless given.

    Raises ConfigError for features that are not finite.
    """
    device, parts, count = device_of(encoder), [torch.empty(0, encoder.feature_dim)], 0
    with evaluating(encoder):
        for some in (torch.arange(len(frames)) if ids is None else ids).split(_AT_ONCE):
            features = encoder(frames.obs(some).to(device)).float().cpu()
            if not (fine := features.isfinite().all(1)).all():
                name = frames.name(int(some[~fine][0]))
                raise ConfigError(f"the encoder gives values that are not finite for frame {name}: train it again")
            parts.append(features)
            count += len(some)
            done(count)
    return torch.cat(parts)
