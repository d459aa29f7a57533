"""What a classifier's folder remembers of labelled frames: their features, and of each class some exemplars."""

from pathlib import Path
from typing import NamedTuple, Self

import torch
from torch import Tensor

from curl_rl.representation.export import ExportedEncoder
from curl_rl.representation.frames import Frames
from curl_rl.representation.looking import embed
from curl_rl.representation.probes.classifier import few_of_each
from curl_rl.run.folder import Part, damaged, read_description, read_part

MEMORY = "memory"
_MOST = 10_000  # frames learned from, and held out, whose features are kept: drawn at random where there are more


class Memory(NamedTuple):
    """Labelled frames as their encoder sees them, and some of them as they are."""

    features: Tensor  # (N, d) float32
    classes: Tensor  # (N,) int64
    held_out: Tensor  # (N,) bool: never learned from
    exemplars: Tensor  # (E,) int64: the frames, of the N, that are kept as they are
    images: Tensor  # (E, k*C, H, W) uint8: their observations
    names: tuple[str, ...]  # of the exemplars

    def exemplars_of(self, *, held_out: bool) -> Tensor:
        """Return the numbers (n,), among the exemplars, of those that were learned from, or were held out."""
        return (self.held_out[self.exemplars] == held_out).nonzero()[:, 0]

    def part(self) -> Part:
        """Return it as a folder holds it."""
        tensors = self._asdict()
        return Part({"names": list(tensors.pop("names"))}, tensors)

    @classmethod
    def of(cls, part: Part) -> Self:
        """Return what `part` gave. Raises LookupError or TypeError for anything else."""
        return cls(**part.tensors, names=tuple(part.told["names"]))


def remember(
    encoder: ExportedEncoder, frames: Frames, learned: Tensor, held_out: Tensor, *, count: int, seed: int
) -> Memory:
    """Return what is remembered of frames.

    Args: learned and held_out, their numbers; count, how many exemplars of each class are kept of either.
    """
    generator, ids, exemplars = torch.Generator().manual_seed(seed), list[Tensor](), list[Tensor]()
    for part in (learned, held_out):
        kept = part[few_of_each(frames.given("classes")[part], count, generator)] if len(part) else part
        exemplars.append(kept)
        ids.append(torch.cat([kept, part[torch.randperm(len(part), generator=generator)[:_MOST]]]).unique())
    numbers, kept = torch.cat(ids), torch.cat(exemplars)
    places, order = numbers.sort()
    return Memory(
        embed(encoder, frames, ids=numbers),
        frames.given("classes")[numbers],
        torch.arange(len(numbers)) >= len(ids[0]),
        order[torch.searchsorted(places, kept)],
        frames.obs(kept),
        tuple(frames.name(each) for each in kept.tolist()),
    )


def load_memory(path: str | Path) -> Memory | None:
    """Read what a classifier's folder remembers, None where that is nothing: a distilled one, an encoder.

    Raises EncoderError where it is no longer as it was written.
    """
    path = Path(path)
    if (part := read_part(path, read_description(path), MEMORY)) is None:
        return None
    try:
        return Memory.of(part)
    except (LookupError, TypeError) as error:
        raise damaged(path, f"{MEMORY}.safetensors", f"it is no memory of this version ({error})") from error
