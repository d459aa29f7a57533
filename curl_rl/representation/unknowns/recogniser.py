"""Tells frames that are like nothing known, to a classifier or to any encoder."""

import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from curl_rl.nn.novelty import threshold
from curl_rl.representation.classifier import Classifier, load_classifier
from curl_rl.representation.export import CLASSIFIER, ExportedEncoder, export_run, load_encoder, read_description
from curl_rl.representation.frames import Frames, frames_of
from curl_rl.representation.looking import as_seen, device_of, embed
from curl_rl.representation.memory import load_memory
from curl_rl.representation.tap import Prepare
from curl_rl.representation.unknowns.scores import Known, make_score
from curl_rl.types import ConfigError


class _Remembered(NamedTuple):
    """Features (n, d) of known frames and their classes' names, and features (m, d) of others that were held out."""

    features: Tensor
    classes: list[str]
    held_out: Tensor


class Recogniser:
    """Says how unknown frames are, and beyond which score hardly any known frame is.

        recogniser = Recogniser("clf", accept=0.95)
        unknown = recogniser.scores(recogniser.embed("runs/new")) > recogniser.limit

    Args:
        network: the folder of a classifier or an encoder, or a run, whose newest encoder it is.
        known: frames of kinds that are known, as `frames_of` takes them, that nothing was learned from. Without them
            they are those that fine-tuning held out. Where no frames are remembered, as of an encoder, half of their
            episodes are what is known, and the other half says how far known frames are from it.
        by: "energy" or "neighbours"; of a classifier energy unless given.
        accept: the share of the held-out known frames that are not beyond `limit`.
        module, prepare: as of `load_encoder`, where the folder holds a network of one's own.

    Raises ConfigError where known frames are lacking or do not fit, and for a score that needs a classifier.
    """

    def __init__(
        self,
        network: str | Path,
        *,
        known: Any = None,
        by: str = "",
        accept: float = 0.95,
        seed: int = 1,
        device: str | torch.device = "cpu",
        module: nn.Module | None = None,
        prepare: Prepare | None = None,
    ):
        self.name, self.network = str(network), load_network(network, device, module=module, prepare=prepare)
        remembered = self._remembered(Path(network), known, seed)
        self.by = by or ("energy" if isinstance(self.network, Classifier) else "neighbours")
        last = self.network.last if isinstance(self.network, Classifier) else None
        self._known, self._classes = self.compared(remembered.features), remembered.classes
        self.score = make_score(self.by, Known(self._known, last))
        self.held_out = self.scores(remembered.held_out)
        self.limit = threshold(self.held_out, accept)

    @property
    def encoder(self) -> ExportedEncoder:
        """What makes features of frames."""
        return self.network.encoder if isinstance(self.network, Classifier) else self.network

    def frames(self, source: Any, **arguments: Any) -> Frames:
        """Return frames, as `frames_of` takes them, stacked as the network takes them."""
        return as_seen(frames_of(source, **arguments), self.encoder, self.name)

    def embed(self, source: Any) -> Tensor:
        """Return the encoder's features (N, d) of frames."""
        return embed(self.encoder, self.frames(source))

    @torch.no_grad()
    def compared(self, features: Tensor) -> Tensor:
        """Return what scores compare (N, d'), of features (N, d): of a classifier what its last layer is given."""
        if not isinstance(self.network, Classifier):
            return features
        return self.network.before_last(features.to(device_of(self.network))).cpu()

    def scores(self, features: Tensor) -> Tensor:
        """Return how unknown frames are (N,), of their features (N, d)."""
        return self.score.score(self.compared(features))

    @torch.no_grad()
    def nearest(self, features: Tensor) -> list[str]:
        """Return the known class that each frame is taken for, "" where no classes are known."""
        if isinstance(self.network, Classifier):
            logits = self.network.last(self.compared(features).to(self.network.last.weight.device))
            return [self.network.classes[i] for i in logits.argmax(1).tolist()]
        if not self._classes:
            return [""] * len(features)
        found = torch.cdist(F.normalize(features, dim=1), F.normalize(self._known, dim=1)).argmin(1)
        return [self._classes[i] for i in found.tolist()]

    def _remembered(self, path: Path, known: Any, seed: int) -> _Remembered:
        memory = load_memory(path) if isinstance(self.network, Classifier) else None
        if known is None:
            if memory is None:
                raise ConfigError(
                    f"{self.name} remembers no frames (a fine-tuned classifier does): give --known frames of kinds "
                    "that are known, half of which are remembered"
                )
            if not memory.held_out.any():
                raise ConfigError(
                    f"no frames were held out when {self.name} was trained: fine-tune with held_out=0.2, or give "
                    "--known frames that it was not trained on"
                )
            return _Remembered(memory.features[~memory.held_out], [], memory.features[memory.held_out])
        frames = self.frames(known)
        if memory is not None:
            return _Remembered(memory.features[~memory.held_out], [], embed(self.encoder, frames))
        first, second = frames.split(0.5, seed=seed)
        features = (embed(self.encoder, frames, ids=part) for part in (first, second))
        classes = frames.given("classes")[first].tolist() if frames.known.any() else []
        names = [frames.class_name(each) if each >= 0 else "" for each in classes]
        return _Remembered(next(features), names, next(features))


def load_network(
    path: str | Path,
    device: str | torch.device = "cpu",
    *,
    module: nn.Module | None = None,
    prepare: Prepare | None = None,
) -> Classifier | ExportedEncoder:
    """Load the classifier or the encoder of a folder, or the encoder of a run's newest checkpoint."""
    path = Path(path)
    if (path / "checkpoints").is_dir():
        with tempfile.TemporaryDirectory() as place:
            return load_encoder(export_run(path, Path(place, "encoder")), device)
    load = load_classifier if CLASSIFIER in read_description(path).get("parts", {}) else load_encoder
    return load(path, device, module=module, prepare=prepare)
