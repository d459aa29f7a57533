"""How unknown a frame is, by what a network makes of it: scores found by name, the higher the more unknown."""

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from curl_rl.nn.novelty import NEIGHBOURS, neighbour_distances
from curl_rl.options import Registry, check, option
from curl_rl.types import ConfigError


class Known(NamedTuple):
    """What a score is told of what is known."""

    features: Tensor  # (n, d) float32 of frames that are known; none where nothing is remembered
    last: nn.Linear | None = None  # makes the logits of known classes of such features


@dataclass(frozen=True)
class ScoreConfig:
    """What every score's options have in common."""

    name: str = ""


class Score:
    """Says how unknown frames are. A subclass names its options as `Config`, and is found by its name."""

    Config: ClassVar[type[ScoreConfig]]

    def __init__(self, config: Any, known: Known):
        check(config, f"{config.name}.")
        self.config, self.known = config, known

    def score(self, features: Tensor) -> Tensor:
        """Return how unknown each is (B,) of features (B, d) float32, what the classifier's last layer is given."""
        raise TypeError(f"{type(self).__name__} gives no score")


@dataclass(frozen=True)
class EnergyConfig(ScoreConfig):
    name: str = "energy"
    temperature: float = option(1.0, "divisor of the logits; the paper's", above=0)


class Energy(Score):
    """The negative log-sum-exp of the logits of the known classes (Liu et al. 2020, equation 4)."""

    Config = EnergyConfig

    def __init__(self, config: EnergyConfig, known: Known):
        super().__init__(config, known)
        if known.last is None:
            raise ConfigError("energy is of a classifier's logits: give a classifier, or --by neighbours")
        self._last = known.last

    @torch.no_grad()
    def score(self, features: Tensor) -> Tensor:
        return energy(self._last(features.to(self._last.weight.device)).cpu(), self.config.temperature)


@dataclass(frozen=True)
class NeighboursConfig(ScoreConfig):
    name: str = "neighbours"
    count: int = option(NEIGHBOURS, "the neighbour whose distance counts; the paper: 50 of CIFAR's 50,000", at_least=1)


class Neighbours(Score):
    """The distance to the `count`-th nearest known frame, of features of unit length (Sun et al. 2022, section 3)."""

    Config = NeighboursConfig

    def __init__(self, config: NeighboursConfig, known: Known):
        super().__init__(config, known)
        if len(known.features) < config.count:
            raise ConfigError(
                f"the score by neighbours needs {config.count} known frames, and {len(known.features)} are remembered: "
                "fine-tune on more, give --known frames, or --by energy"
            )

    def score(self, features: Tensor) -> Tensor:
        return neighbour_distances(features, self.known.features, self.config.count)


SCORES = Registry("score", __name__, Score, gives=("score",))


def energy(logits: Tensor, temperature: float = 1.0) -> Tensor:
    """Return -T log sum exp(logits / T) (B,) of logits (B, classes)."""
    return -temperature * (logits / temperature).logsumexp(1)


def make_score(name: str, known: Known) -> Score:
    """Build a score with its own options. Raises ConfigError for an unknown one, and where it lacks what it needs."""
    return SCORES[name](SCORES[name].Config(), known)
