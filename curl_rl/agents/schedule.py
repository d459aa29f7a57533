"""What of an agent changes as it learns: how far its returns look, how it explores, and when it starts anew.

Sources: Schwarzer et al. 2023 (BBF), Nikishin et al. 2022 and D'Oro et al. 2023 (resets).
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from curl_rl.options import LONGEST, option
from curl_rl.types import ConfigError


@dataclass(frozen=True)
class Annealing:
    """n and the horizon 1 / (1 - discount) go exponentially to what is named here, after each reset again (BBF)."""

    updates: int = option(0, "updates until n_step and discount are these; 0: they stay", at_least=0, at_most=LONGEST)
    n_step: int = option(3, "rewards summed at the end", at_least=1, at_most=LONGEST, where="updates")
    discount: float = option(0.997, "per agent step at the end", above=0, below=1, where="updates")

    def at(self, n_step: int, discount: float, updates: int) -> tuple[int, float]:
        """Return both after so many updates, given those at the start."""
        if not self.updates:
            return n_step, discount
        share = min(1.0, updates / self.updates)
        steps = math.exp((1 - share) * math.log(n_step) + share * math.log(self.n_step))
        rest = math.exp((1 - share) * math.log(1 - discount) + share * math.log(1 - self.discount))
        return round(steps), 1 - rest


@dataclass(frozen=True)
class Exploration:
    """The share of actions that are uniformly random; beside it noise may explore."""

    epsilon: float = option(0.0, "share of random actions in the end", at_least=0, at_most=1)
    steps: int = option(0, "agent steps in which it falls from 1, after random_steps", at_least=0, at_most=LONGEST)

    def at(self, steps: int) -> float:
        """Return the share after so many steps."""
        return self.epsilon + (1 - self.epsilon) * max(0.0, 1 - steps / self.steps) if self.steps else self.epsilon

    def mix(self, best: Tensor, actions: int, steps: int, generator: torch.Generator) -> Tensor:
        """Put random ones of so many actions in the place of a share of these (n,)."""
        if not (share := self.at(steps)):
            return best
        chance = torch.rand(best.shape, generator=generator, device=best.device)
        others = torch.randint(actions, best.shape, generator=generator, device=best.device)
        return torch.where(chance < share, others, best)


@dataclass(frozen=True)
class Resets:
    """Heads and objective start anew; the encoder keeps a share of its weights and takes the rest from a new one."""

    every: int = option(0, "updates from one reset to the next; 0: none", at_least=0, at_most=LONGEST)
    until: int | None = option(
        None,
        "updates, counted alike, after which is none; null: while the budget has as many left as from one to the next",
        at_least=0,
        at_most=LONGEST,
        where="every",
    )
    keep: float = option(0.5, "share of the encoder's weights that stays", at_least=0, at_most=1, where="every")

    def due(self, count: int) -> bool:
        """Return whether one follows the update with this count."""
        ended = self.until is not None and count > self.until
        return bool(self.every) and not ended and count % self.every == 0


def check_schedule(config: Any) -> None:
    """Raise ConfigError where an agent's annealing does not begin where its returns do, or one of its options rests."""
    if config.anneal.updates and config.anneal.n_step > config.n_step:
        raise ConfigError(
            f"agent.anneal.n_step={config.anneal.n_step} exceeds agent.n_step={config.n_step}, from which n falls: "
            "lower the one or raise the other"
        )
    if config.anneal.updates and config.anneal.discount < config.discount < 1:
        raise ConfigError(
            f"agent.anneal.discount={config.anneal.discount} is below agent.discount={config.discount}, from which it "
            "rises: raise the one or lower the other"
        )
    if config.anneal.updates and config.discount == 1:
        raise ConfigError("agent.discount=1 has no horizon to anneal: lower it, or set agent.anneal.updates=0")
    if config.target_acts and config.target_tau == config.target_period == 1:
        raise ConfigError(
            "agent.target_acts=true has no effect with agent.target_tau=1 and agent.target_period=1, where the target "
            "is the network: change one of them, or leave it out"
        )
    if config.atoms == 1 and (config.v_min, config.v_max) != (-10, 10):
        raise ConfigError("agent.v_min and agent.v_max have no effect with agent.atoms=1: leave them at -10 and 10")
