"""Whether the frames that are near to one show a similar state of the simulator."""

from dataclasses import dataclass

import torch
from torch import Tensor

from curl_rl.options import option
from curl_rl.representation.probes.base import Probe, ProbeConfig, Subject
from curl_rl.representation.retrieval import rankings


@dataclass(frozen=True)
class NearestStatesConfig(ProbeConfig):
    name: str = "nearest_states"
    count: int = option(5, "frames of other episodes that are nearest", at_least=1)
    queries: int = option(1000, "frames drawn at random that are asked", at_least=1)


class NearestStates(Probe):
    """Mean distance of standardised states of the nearest frames, beside the best possible and that of any frames."""

    Config, needs, layers = NearestStatesConfig, frozenset({"states"}), ("features", "map")

    def measure(self, subject: Subject, layer: str, seed: int) -> dict[str, float]:
        """Return means over queries: `distance` of what was found, the `best` possible, that of `any` other frame."""
        frames, count, state = subject.frames, self.config.count, subject.frames.given("state").double()
        state = (state - state.mean(0)) / state.std(0).clamp(min=1e-9)
        drawn = torch.randperm(len(frames), generator=torch.Generator().manual_seed(seed))[: self.config.queries]
        found, best, any_other = list[Tensor](), list[Tensor](), list[Tensor]()
        for ids, near, apart in rankings(subject.vectors(layer), drawn, frames.episodes, torch.arange(len(frames))):
            distance = torch.cdist(state[ids], state).gather(1, near).masked_fill(~apart, torch.nan)
            found.append(distance[:, :count])
            best.append(distance.nan_to_num(torch.inf).sort(1).values[:, :count])
            any_other.append(distance.nanmean(1))
        nearest = torch.cat(best)
        return {
            "distance": float(torch.cat(found).nanmean()),
            "best": float(nearest[nearest.isfinite()].mean()),
            "any": float(torch.cat(any_other).nanmean()),
        }
