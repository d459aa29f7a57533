"""Data-efficient Rainbow, its encoder trained by the value distribution and by a self-supervised objective.

Sources: Hessel et al. 2018 (Rainbow), van Hasselt et al. 2019 (data-efficient), Laskin et al. 2020 (CURL), Schwarzer et
al. 2023 (BBF). The replay brings n-step returns and priorities; what is left is double, duelling, noisy, distributional
learning, and BBF's schedule.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from curl_rl.agents.base import AugmentedConfig
from curl_rl.agents.schedule import Annealing, Exploration, Resets, check_schedule
from curl_rl.nn.cudagraph import make_step
from curl_rl.nn.encoders import Encoder
from curl_rl.nn.heads import DuellingHeads
from curl_rl.nn.networks import decayed, frozen_copy, grad_norm, move_average, random_seed, seeded
from curl_rl.nn.remembering import Remembering
from curl_rl.nn.returns import Returns
from curl_rl.nn.state import Kept
from curl_rl.objectives.learner import Learner, Pace
from curl_rl.options import LONGEST, option
from curl_rl.types import Batch, Images, Metrics, UpdateResult, Views

Heads = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class RainbowConfig(AugmentedConfig):
    name: str = "rainbow"
    hidden_dim: int = option(256, "width of the value's and the advantages' hidden layers", at_least=1)
    shared: bool = option(False, "one hidden layer for the value and the advantages, as in Dopamine")
    atoms: int = option(51, "of the value distribution; 1: the mean alone, by Huber's loss", at_least=1, at_most=1001)
    v_min: float = option(-10.0, "lowest return of the value distribution", below="v_max")
    v_max: float = option(10.0, "highest return of the value distribution")
    noise_std: float = option(0.1, "size of the noisy layers' noise at the start; 0: plain layers", at_least=0)
    learning_rate: float = option(1e-4, "of encoder, value distribution and objective", above=0)
    adam_epsilon: float = option(1.5e-4, "Adam's epsilon", above=0)
    weight_decay: float = option(0.0, "AdamW's, of weights and not of biases", at_least=0)
    max_grad_norm: float = option(10.0, "norm to which gradients are clipped; 0: they are not", at_least=0)
    target_period: int = option(2000, "updates from one step of the target to the next", at_least=1, at_most=LONGEST)
    # Programs that count agent steps count random ones, too.
    offset: int | None = option(
        0, "updates that periods count before the first; null: random_steps' worth", at_least=0, at_most=LONGEST
    )
    target_tau: float = option(1.0, "weight of the new parameters in the target", above=0, at_most=1)
    target_acts: bool = option(False, "whether the target chooses the actions")
    priority: str = option("value", "the loss that becomes one; total: with the objective's", one_of=("value", "total"))
    anneal: Annealing = field(default_factory=Annealing)
    explore: Exploration = field(default_factory=Exploration)
    resets: Resets = field(default_factory=Resets)

    def __post_init__(self) -> None:
        check_schedule(self)

    @property
    def pace(self) -> Pace:
        return Pace(self.learning_rate, self.learning_rate, self.encoder_tau, epsilon=self.adam_epsilon)


class Rainbow(Kept):
    """The agent that the trainer drives; it owns the learner, its heads and their optimiser."""

    Config = RainbowConfig
    discrete, reports_priorities = True, True
    kept = ("learner", "heads", "target_network", "optimizers", "generator", "updates", "explored", "reset_at")

    def __init__(self, config: RainbowConfig, *, learner: Learner, action_dim: int, device: torch.device, seed: int):
        self.config, self.learner, self.device, self.action_dim = config, learner, device, action_dim
        self.heads = self.networks(config, learner.encoder, action_dim)[0].to(device)
        self.network = nn.ModuleDict({"encoder": learner.encoder, "heads": self.heads})
        self.target_network = frozen_copy(self.network)
        self.target_heads = cast(DuellingHeads, self.target_network["heads"])
        self.returns = Returns(config.atoms, config.v_min, config.v_max, device)
        self.updates, self.explored, self.reset_at = 0, 0, 0
        self.trained = [*self.network.parameters(), *learner.heads()]
        options: dict[str, Any] = {"fused": True, "capturable": device.type == "cuda"}
        groups = decayed(self.trained, config.weight_decay)
        adam = torch.optim.AdamW(groups, lr=config.learning_rate, eps=config.adam_epsilon, **options)
        self.optimizers = {"all": adam}
        self.generator = torch.Generator(device).manual_seed(seed)
        self.heads.draw(self.generator)
        self._step = make_step(self._descend, device, capture=config.capture)

    @staticmethod
    def networks(config: RainbowConfig, encoder: Encoder, action_dim: int) -> tuple[DuellingHeads]:
        """Build what the agent trains beside its learner."""
        sizes = encoder.feature_dim, action_dim, config.atoms, config.hidden_dim
        return (DuellingHeads(*sizes, noise_std=config.noise_std, shared=config.shared),)

    @property
    def n_step(self) -> int:
        """Of the returns that it wants now."""
        return self._horizon[0]

    @property
    def discount(self) -> float:
        return self._horizon[1]

    @property
    def _horizon(self) -> tuple[int, float]:
        c = self.config
        return c.anneal.at(c.n_step, c.discount, min(self.updates, self._count - self.reset_at))

    @property
    def _count(self) -> int:
        return self.updates + (self.config.offset or 0)

    @torch.no_grad()
    def act(self, obs: np.ndarray, *, explore: bool) -> np.ndarray:
        """Choose actions (n,) int64 for stacked observations: under new noise to explore, otherwise without any.

        The noise stays for the update that follows: it is drawn once a step, as in the original.
        """
        network = self.target_network if self.config.target_acts else self.network
        heads = cast(DuellingHeads, network["heads"])
        if explore:
            for each in dict.fromkeys((heads, self.heads)):  # those that act, and those that learn
                each.draw(self.generator)
        features = network["encoder"](self.learner.observe(obs))
        actions = self.returns.mean(heads(features, noisy=explore)).argmax(1)
        if explore:
            actions = self.config.explore.mix(actions, self.action_dim, self.explored, self.generator)
            self.explored += 1
        return actions.cpu().numpy()

    def update(self, batch: Batch) -> UpdateResult:
        """Take one gradient update on raw observations; unless told otherwise only views are augmented."""
        drawn = self.learner.draw(batch.obs, self.config.averaging.m, self.generator)
        later = self.learner.draw(batch.next_obs, self.config.averaging.k, self.generator)
        obs, next_obs = (tuple(crop.images for crop in crops) for crops in (drawn, later))
        views = None
        if self.learner.learns:
            batch, views = self.learner.views(batch, drawn[0] if self.config.averaging.m else None)
        self.target_heads.draw(self.generator)
        metrics = self._step(batch, obs, next_obs, views)
        self.updates += 1
        if self._count % self.config.target_period == 0:
            move_average(self.target_network, self.network, self.config.target_tau)
        if self.config.resets.due(self._count):
            self._reset()
        return UpdateResult(metrics, metrics.pop("priorities"))

    def _reset(self) -> None:
        """Start heads, objective and optimiser anew, the encoder by a share, and the target by draws of its own."""
        encoder, keep = cast(Encoder, self.target_network["encoder"]), self.config.resets.keep
        with seeded(random_seed(self.generator)):
            self.learner.reset(keep)
            move_average(encoder, encoder.fresh().to(self.device), 1 - keep)
            for heads in (self.heads, self.target_heads):
                fresh = self.networks(self.config, encoder, self.action_dim)[0]
                heads.load_state_dict(fresh.state_dict())
        self.heads.draw(self.generator)  # for the step's further updates
        self.optimizers["all"].state.clear()
        self.reset_at = self._count
        self._step = make_step(self._descend, self.device, capture=self.config.capture)

    def _descend(self, batch: Batch, obs: Images, next_obs: Images, views: Views | None) -> Metrics:
        """Step everything on one backward pass; the encoder's moving average follows."""
        online = Remembering(self.learner.encoder, together=obs if views is None else (*obs, views.query.images))
        if views is not None:
            self.learner.begin(views, online)
        losses, metrics = self._value_losses(batch, obs, next_obs, online)
        total = losses
        if views is not None:
            objective_loss, more = self.learner.loss(batch, views, online)
            # As in the original, so that the importance weights apply to it too.
            total, metrics = losses + objective_loss, metrics | more
        metrics["priorities"] = (total if self.config.priority == "total" else losses).detach()
        self.optimizers["all"].zero_grad(set_to_none=True)
        (batch.weight * total).mean().backward()
        metrics["encoder_grad_norm"] = grad_norm(list(self.learner.encoder.parameters()))
        metrics["grad_norm"] = nn.utils.clip_grad_norm_(self.trained, self.config.max_grad_norm or math.inf)
        self.optimizers["all"].step()
        if views is not None:
            self.learner.move_target()
            self.learner.after_step()
        return metrics

    def _value_losses(self, batch: Batch, obs: Images, next_obs: Images, online: Remembering) -> tuple[Tensor, Metrics]:
        """Return each sample's loss (B,) against the projected target distribution, averaged over views."""
        rows = torch.arange(len(batch.action), device=self.device)
        online.begin(*next_obs).of(cast(Encoder, self.target_network["encoder"])).begin(*next_obs)
        heads = self.heads.formed()
        logits = [heads(online(images)) for images in obs]
        target = torch.stack([self._target(batch, images, online, heads) for images in next_obs]).mean(0)
        losses = torch.stack([self.returns.compare(each[rows, batch.action], target) for each in logits]).mean(0)
        seen = logits[0].detach().float()
        return losses, {
            "value_loss": losses.detach().mean(),
            "q": self.returns.mean(seen).amax(1).mean(),
            "value_entropy": -(seen.softmax(-1) * seen.log_softmax(-1)).sum(-1).mean(),
            "batch_reward": batch.reward.mean(),
        }

    @torch.no_grad()
    def _target(self, batch: Batch, next_obs: Tensor, online: Remembering, heads: Heads) -> Tensor:
        """Return the projected distribution (B, atoms) of the action that the online network prefers, or its mean."""
        rows = torch.arange(len(batch.action), device=self.device)
        best = self.returns.mean(heads(online(next_obs))).argmax(1)
        features = online.of(cast(Encoder, self.target_network["encoder"]))(next_obs)
        return self.returns.target(self.target_heads(features)[rows, best], batch.reward, batch.discount)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        # A captured graph would go on with the optimiser's former moments.
        self._step = make_step(self._descend, self.device, capture=self.config.capture)
