"""Which class a frame is of where only a few are labelled."""

from dataclasses import dataclass

import torch

from curl_rl.options import option
from curl_rl.representation.probes.base import Probe, SplitConfig, Subject, labelled
from curl_rl.representation.probes.classifier import Classifier, few_of_each


@dataclass(frozen=True)
class LowShotConfig(SplitConfig):
    name: str = "low_shot"
    labels: tuple[int, ...] = option((1, 2, 5, 10), "how many of each class are labelled", at_least=1)


class LowShot(Probe):
    """Accuracy of linear classifiers on a few labels a class, features standardised over all that are not left out."""

    Config, needs, layers = LowShotConfig, frozenset({"classes"}), ("features", "map")

    def measure(self, subject: Subject, layer: str, seed: int) -> dict[str, float]:
        frames, features = subject.frames, subject.vectors(layer)
        pool, left_out = labelled(frames, self.config.share, seed)
        classes, generator, found = frames.given("classes"), torch.Generator().manual_seed(seed), dict[str, float]()
        for count in self.config.labels:
            few = pool[few_of_each(classes[pool], count, generator)]
            classifier = Classifier(features[few], classes[few], frames.class_count, pool=features[pool])
            found[f"accuracy_{count}"] = classifier.accuracy(features[left_out], classes[left_out])
        return found
