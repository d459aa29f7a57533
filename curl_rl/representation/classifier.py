"""A classifier of frames: an encoder with a head of plain layers, as one folder, which is an encoder's folder too."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from curl_rl.representation.export import (
    CLASSIFIER,
    EncoderError,
    ExportedEncoder,
    load_encoder,
    load_part,
    read_description,
    save_encoder,
)
from curl_rl.representation.frames import Frames
from curl_rl.representation.looking import device_of, embed
from curl_rl.representation.tap import Prepare, evaluating
from curl_rl.run.folder import Part


class Classifier(nn.Module):
    """Raw observations (B, k*C, H, W) uint8 to logits (B, classes) float32, as `ExportedEncoder` takes them.

    Args: encoder; head, plain layers on its features; classes, their names, in the order of the logits.
    """

    def __init__(self, encoder: ExportedEncoder, head: nn.Sequential, classes: Sequence[str]):
        super().__init__()
        self.encoder, self.head, self.classes = encoder, head, tuple(classes)

    @property
    def obs_shape(self) -> tuple[int, ...]:
        """Of one observation, (k*C, H, W)."""
        return self.encoder.obs_shape

    def features(self, obs: Tensor) -> Tensor:
        """Return the encoder's features (B, d), what comes before the head."""
        return self.encoder(obs)

    @property
    def last(self) -> nn.Linear:
        """The layer that gives the logits."""
        return cast(nn.Linear, self.head[-1])

    def before_last(self, features: Tensor) -> Tensor:
        """Return what the last layer is given (B, d'), of the encoder's features (B, d)."""
        return self.head[:-1](features)

    def forward(self, obs: Tensor) -> Tensor:
        return self.head(self.encoder(obs))


@torch.no_grad()
def logits_of(classifier: Classifier, frames: Frames, ids: Tensor | None = None) -> Tensor:
    """Return logits (N, classes) on the CPU of frames stacked as the classifier takes them; no weight changes.

    Args: ids (N,), of the frames, all unless given. Raises ConfigError for features that are not finite.
    """
    features = embed(classifier.encoder, frames, ids=ids)
    with evaluating(classifier):
        return classifier.head(features.to(device_of(classifier))).cpu()


def save_classifier(
    classifier: Classifier, config: dict[str, Any], out: Path, *, beside: Mapping[str, Part] | None = None, **extra: Any
) -> Path:
    """Write a classifier as a folder; an older one there stays whole until the new one is.

    Args and errors: as of `save_encoder`; beside, what else stands there, by its name.
    """
    told = {**extra, "classes": list(classifier.classes)}
    parts = {CLASSIFIER: classifier.head, **(beside or {})}
    return save_encoder(classifier.encoder.encoder, config, classifier.obs_shape, out, parts=parts, **told)


def load_classifier(
    path: str | Path,
    device: str | torch.device = "cpu",
    *,
    module: nn.Module | None = None,
    prepare: Prepare | None = None,
) -> Classifier:
    """Load a classifier in eval mode: uint8 frames (B, k*C, H, W) in, logits (B, classes) out.

    Args and errors: as of `load_encoder`; EncoderError too where the folder holds an encoder alone.
    """
    encoder, head = load_encoder(path, module=module, prepare=prepare), load_part(path, CLASSIFIER)
    classes = read_description(Path(path)).get("classes")
    if head is None:
        raise EncoderError(f"{path} holds an encoder and no classifier: curl-rl finetune {path} --labels CSV --out DIR")
    widths = [
        width for layer in head if isinstance(layer, nn.Linear) for width in (layer.in_features, layer.out_features)
    ]
    if not isinstance(classes, list) or [*widths[:1], *widths[-1:]] != [encoder.feature_dim, len(classes)]:
        raise EncoderError(f"{path} has a classifier that fits neither its encoder nor its classes: train it again")
    return Classifier(encoder, head, [str(name) for name in classes]).eval().to(device)
