"""How unlike what an agent meets in evaluation is to what it has replayed, to its own encoder."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from curl_rl.nn.novelty import NEIGHBOURS, neighbour_distances, threshold
from curl_rl.types import Agent, Batch

_FRAMES = 4_000  # of the replay that are looked at; about half of them are what is known
_AT_ONCE = 200
_ACCEPT = 0.95


class Watched:
    """Plays as an agent does, and keeps what its encoder makes of what it sees."""

    def __init__(self, agent: Agent, device: torch.device):
        self.agent, self._device, self._seen = agent, device, list[Tensor]()

    def act(self, obs: np.ndarray, *, explore: bool) -> np.ndarray:
        """Choose actions as the agent does."""
        self._seen.append(self._look(torch.from_numpy(obs)))
        return self.agent.act(obs, explore=explore)

    def novelty(
        self, sample: Callable[[int, np.random.Generator], Batch], available: int, seed: int
    ) -> dict[str, float]:
        """Return mean and maximum distance of what was seen to its 5th nearest replayed frame, and a share.

        `novelty_share` is of what lies farther than 95 % of replayed frames of other episodes do. Nothing is told where
        the replay holds too few frames or episodes. Args: sample, draws from the replay; available, its frames.
        """
        rng = np.random.default_rng(seed)
        counts = [_AT_ONCE] * (min(available, _FRAMES) // _AT_ONCE) or [available]
        drawn = [(self._look(batch.obs), batch.episode.cpu()) for batch in (sample(each, rng) for each in counts)]
        features, episodes = (torch.cat(parts) for parts in zip(*drawn, strict=True))
        apart, group = episodes.unique(return_inverse=True)
        held_out = torch.from_numpy(rng.permutation(len(apart)) % 2 == 1)[group]
        known = features[~held_out]
        if len(known) < NEIGHBOURS or not held_out.any():
            return {}
        distances = neighbour_distances(torch.cat(self._seen), known)
        beyond = distances > threshold(neighbour_distances(features[held_out], known), _ACCEPT)
        told = {"mean": distances.mean(), "max": distances.max(), "share": beyond.float().mean()}
        return {f"novelty_{name}": float(value) for name, value in told.items()}

    @torch.no_grad()
    def _look(self, obs: Tensor) -> Tensor:
        learner = self.agent.learner
        return learner.encoder(learner.whole(obs).to(self._device)).float().cpu()
