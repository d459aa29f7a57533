"""Which class a frame is of, by a linear classifier on frozen features."""

from dataclasses import dataclass

from curl_rl.representation.probes.base import Probe, SplitConfig, Subject, labelled
from curl_rl.representation.probes.classifier import Classifier


@dataclass(frozen=True)
class LinearConfig(SplitConfig):
    name: str = "linear"


class Linear(Probe):
    """Accuracy on episodes left out of a linear classifier fitted on all others."""

    Config, needs, layers = LinearConfig, frozenset({"classes"}), ("features", "map")

    def measure(self, subject: Subject, layer: str, seed: int) -> dict[str, float]:
        frames, features = subject.frames, subject.vectors(layer)
        fitted, left_out = labelled(frames, self.config.share, seed)
        classes = frames.given("classes")
        classifier = Classifier(features[fitted], classes[fitted], frames.class_count)
        return {"accuracy": classifier.accuracy(features[left_out], classes[left_out])}
