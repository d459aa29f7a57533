"""Whether the frames that are near to one are of its class."""

from dataclasses import dataclass

import torch
from torch import Tensor

from curl_rl.options import option
from curl_rl.representation.frames import Frames
from curl_rl.representation.probes.base import Probe, ProbeConfig, Subject
from curl_rl.representation.retrieval import ranked_measures, rankings


@dataclass(frozen=True)
class RetrievalConfig(ProbeConfig):
    name: str = "retrieval"
    counts: tuple[int, ...] = option((1, 5, 10), "k of recall and precision", at_least=1)
    queries: int = option(1000, "frames drawn at random that are asked", at_least=1)


class Retrieval(Probe):
    """Recall, precision, R-precision and mean average precision of the frames of other episodes, ranked by cosine."""

    Config, needs, layers = RetrievalConfig, frozenset({"classes"}), ("features", "map")

    def measure(self, subject: Subject, layer: str, seed: int) -> dict[str, float]:
        """Return the measures of `ranked_measures`, means over the frames that are asked."""
        kinds, groups = self.kinds(subject.frames)
        known = (kinds >= 0).nonzero()[:, 0]
        drawn = known[torch.randperm(len(known), generator=torch.Generator().manual_seed(seed))[: self.config.queries]]
        blocks = rankings(subject.vectors(layer), drawn, groups, known)
        relevant = [(kinds[near] == kinds[ids][:, None]) & apart for ids, near, apart in blocks]
        return ranked_measures(torch.cat(relevant), self.config.counts)

    def kinds(self, frames: Frames) -> tuple[Tensor, Tensor]:
        """Return what frames are alike in (N,), -1 where unknown, and the groups (N,) within which none is found."""
        return frames.given("classes"), frames.episodes
