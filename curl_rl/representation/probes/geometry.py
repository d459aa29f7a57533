"""How features lie: how many directions they use, how alike two views are, how evenly they cover the sphere."""

from dataclasses import dataclass

import torch

from curl_rl.nn.augmentations import AUGMENTATIONS
from curl_rl.nn.diagnostics import alignment, effective_rank, uniformity, view_accuracy
from curl_rl.options import option
from curl_rl.representation.probes.base import Probe, ProbeConfig, Subject


@dataclass(frozen=True)
class GeometryConfig(ProbeConfig):
    name: str = "geometry"
    count: int = option(2048, "frames looked at, drawn at random", at_least=2, at_most=16_384)
    pad: int = option(4, "pixels by which two views are shifted apart at most", at_least=1)


class Geometry(Probe):
    """Effective rank (Roy and Vetterli 2007); alignment and uniformity (Wang and Isola 2020) of two shifted views."""

    Config = GeometryConfig

    def measure(self, subject: Subject, layer: str, seed: int) -> dict[str, float]:
        generator = torch.Generator().manual_seed(seed)
        obs = subject.frames.obs(torch.randperm(len(subject.frames), generator=generator)[: self.config.count])
        shift = AUGMENTATIONS["shift"](AUGMENTATIONS["shift"].Config(pad=self.config.pad))
        views = [subject.look(shift(obs, generator).images)[layer].flatten(1).cpu() for _ in range(2)]
        measures = {
            "rank": effective_rank(views[0]),
            "alignment": alignment(*views),
            "uniformity": uniformity(views[0]),
            "view_accuracy": view_accuracy(*views),
        }
        return {name: float(value) for name, value in measures.items()}
