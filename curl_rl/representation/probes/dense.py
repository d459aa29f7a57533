"""What each cell of a map looks at, by a linear classifier on few labelled cells."""

from dataclasses import dataclass

import torch
from torch import Tensor

from curl_rl.options import option
from curl_rl.representation.probes.base import Probe, SplitConfig, Subject
from curl_rl.representation.probes.classifier import Classifier, few_of_each


@dataclass(frozen=True)
class DenseConfig(SplitConfig):
    name: str = "dense"
    labels: int = option(66, "labelled cells of each class", at_least=1)


class Dense(Probe):
    """Mean intersection over union of the classes of cells, on episodes left out."""

    Config, needs, layers = DenseConfig, frozenset({"labels"}), ("map",)

    def measure(self, subject: Subject, layer: str, seed: int) -> dict[str, float]:
        frames, maps = subject.frames, subject.of(layer)
        classes = of_cells(frames.given("labels"), maps.shape[2], maps.shape[3])
        pool, left_out = frames.split(self.config.share, seed=seed)
        cells, own = maps[pool].permute(0, 2, 3, 1).flatten(0, 2), classes[pool].flatten()
        few = few_of_each(own, self.config.labels, torch.Generator().manual_seed(seed))
        classifier = Classifier(cells[few], own[few], int(classes.max()) + 1, pool=cells)
        found = classifier(maps[left_out].permute(0, 2, 3, 1).flatten(0, 2)).argmax(1)
        return {"miou": mean_iou(found, classes[left_out].flatten())}


def of_cells(labels: Tensor, rows: int, columns: int) -> Tensor:
    """Return the label (N, rows, columns) int64 in the middle of each even share of label maps (N, s, s)."""
    places = [((torch.arange(count) + 0.5) * labels.shape[1] / count).long() for count in (rows, columns)]
    return labels[:, places[0]][:, :, places[1]].long()


def mean_iou(found: Tensor, truth: Tensor) -> float:
    """Return intersection over union, the mean over the classes that there are."""
    scores = []
    for each in truth.unique():
        mine, own = found == each, truth == each
        scores.append(float((mine & own).sum() / (mine | own).sum()))
    return sum(scores) / len(scores)
