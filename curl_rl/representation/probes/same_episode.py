"""Whether the frames that are near to one are of its episode."""

from dataclasses import dataclass

import torch
from torch import Tensor

from curl_rl.representation.frames import Frames
from curl_rl.representation.probes.retrieval import Retrieval, RetrievalConfig


@dataclass(frozen=True)
class SameEpisodeConfig(RetrievalConfig):
    name: str = "same_episode"


class SameEpisode(Retrieval):
    """Recall, precision, R-precision and mean average precision of the frames of a frame's own episode."""

    Config, needs = SameEpisodeConfig, frozenset({"episodes"})

    def kinds(self, frames: Frames) -> tuple[Tensor, Tensor]:
        return frames.given("episodes"), torch.arange(len(frames))  # none but itself is left out
