"""What features know of the simulator's state."""

from dataclasses import dataclass

import numpy as np

from curl_rl.options import option
from curl_rl.representation.frames.base import Frames
from curl_rl.representation.probes.base import Probe, ProbeConfig, Subject
from curl_rl.representation.probes.regression import r2_scores, share_out
from curl_rl.types import ConfigError


@dataclass(frozen=True)
class RidgeConfig(ProbeConfig):
    name: str = "ridge"
    folds: int = option(5, "parts of the episodes, each of which is left out once", at_least=3, at_most=100)


class Ridge(Probe):
    """R2 of ridge regression on episodes left out, of each quantity and of all on average."""

    Config, needs, layers = RidgeConfig, frozenset({"states"}), ("features", "map")

    def check(self, frames: Frames) -> None:
        if (count := len(frames.episodes.unique())) < self.config.folds:
            mend = f"set ridge.folds={count}, or give" if count >= 3 else "name other probes, or give"
            raise ConfigError(
                f"ridge.folds={self.config.folds} needs as many episodes, and {frames.source} has {count}: {mend} more"
            )

    def measure(self, subject: Subject, layer: str, seed: int) -> dict[str, float]:
        frames = subject.frames
        fold = share_out(frames.episodes.numpy(), folds=self.config.folds, seed=seed)
        scores = r2_scores(subject.vectors(layer).numpy(), frames.given("state").numpy(), fold)
        names = frames.state_names or [f"state_{i}" for i in range(len(scores))]
        known = scores[np.isfinite(scores)]
        mean = float(known.mean()) if len(known) else float("nan")
        return {"r2": mean, **{f"r2_{name}": float(score) for name, score in zip(names, scores, strict=True)}}
