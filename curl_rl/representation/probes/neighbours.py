"""Which class a frame is of by its nearest neighbours."""

from dataclasses import dataclass

import torch
from torch.nn import functional as F

from curl_rl.options import option
from curl_rl.representation.probes.base import Probe, SplitConfig, Subject, labelled


@dataclass(frozen=True)
class NeighboursConfig(SplitConfig):
    name: str = "neighbours"
    count: int = option(20, "neighbours that vote", at_least=1)
    temperature: float = option(0.07, "divisor of the cosines in the votes' weights; Wu et al. 2018", above=0)


class Neighbours(Probe):
    """Accuracy of a vote of the nearest frames of other episodes, weighted by cosine (Wu et al. 2018, section 3.4)."""

    Config, needs, layers = NeighboursConfig, frozenset({"classes"}), ("features", "map")

    def measure(self, subject: Subject, layer: str, seed: int) -> dict[str, float]:
        frames, classes = subject.frames, subject.frames.given("classes")
        known, left_out = labelled(frames, self.config.share, seed)
        features = F.normalize(subject.vectors(layer), dim=1)
        right, count = 0, min(self.config.count, len(known))
        for part in left_out.split(512):
            cosine, nearest = (features[part] @ features[known].T).topk(count)
            votes = torch.zeros(len(part), frames.class_count)
            votes.scatter_add_(1, classes[known][nearest], (cosine / self.config.temperature).exp())
            right += int((votes.argmax(1) == classes[part]).sum())
        return {"accuracy": right / len(left_out)}
