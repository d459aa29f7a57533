"""Which class a frame is of, by a linear classifier on frozen features."""

from dataclasses import dataclass

from curl_rl.options import option
from curl_rl.representation.probes.base import Probe, ProbeConfig, Subject
from curl_rl.representation.probes.classifier import Classifier


@dataclass(frozen=True)
class LinearConfig(ProbeConfig):
    name: str = "linear"
    share: float = option(0.25, "of the episodes that are left out of the fit", above=0, below=1)


class Linear(Probe):
    """Accuracy on episodes left out of a linear classifier fitted on all others."""

    Config, needs, layers = LinearConfig, frozenset({"classes"}), ("features", "map")

    def measure(self, subject: Subject, layer: str, seed: int) -> dict[str, float]:
        frames, features = subject.frames, subject.of(layer).flatten(1)
        fitted, left_out = (part[frames.known[part]] for part in frames.split(self.config.share, seed=seed))
        classes = frames.given("classes")
        classifier = Classifier(features[fitted], classes[fitted], frames.class_count)
        return {"accuracy": classifier.accuracy(features[left_out], classes[left_out])}
