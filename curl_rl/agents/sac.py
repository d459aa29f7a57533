"""Soft actor-critic from pixels, its encoder trained by the critic and by a self-supervised objective.

Sources: Haarnoja et al. 2018 (SAC), Laskin et al. 2020 (CURL).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from curl_rl.agents.base import AugmentedConfig
from curl_rl.nn.augmentations import Averaging
from curl_rl.nn.cudagraph import make_step
from curl_rl.nn.encoders import Encoder
from curl_rl.nn.heads import Actor, TwinQ
from curl_rl.nn.losses import soft_q_target, twin_q_loss
from curl_rl.nn.networks import frozen_copy, grad_norm, move_average
from curl_rl.nn.remembering import Remembering
from curl_rl.nn.state import Kept
from curl_rl.objectives.learner import Learner, Pace
from curl_rl.options import LONGEST, option
from curl_rl.types import Batch, Images, Metrics, UpdateResult, Views


@dataclass(frozen=True)
class SacConfig(AugmentedConfig):
    name: str = "sac"
    averaging: Averaging = field(default_factory=lambda: Averaging(k=1, m=1))
    hidden_dim: int = option(1024, "width of the actor's and the critic's hidden layers", at_least=1)
    learning_rate: float = option(0.0, "of all but the temperature; 0: the paper's value", at_least=0)
    alpha_learning_rate: float = option(1e-4, "of the temperature", at_least=0)
    init_temperature: float = option(0.1, "temperature at the start", above=0)
    target_entropy: float = option(1.0, "entropy sought, in minus the action's dimensions; PI-SAC: 0.5", at_least=0)
    # Before each ReLU, as in RLPD (Ball et al. 2023, section 4.2) and DroQ (Hiraoka et al. 2022), without its dropout.
    critic_norm: str = option("none", "normalisation of the critic's hidden layers", one_of=("none", "layer"))
    critic_tau: float = option(0.01, "weight of the new parameters in the target critic", above=0, at_most=1)
    encoder_tau: float = option(0.05, "weight of the new parameters in the target encoder", above=0, at_most=1)
    actor_period: int = option(2, "updates from one step of the actor to the next", at_least=1, at_most=LONGEST)
    target_period: int = option(2, "updates from one moving average to the next", at_least=1, at_most=LONGEST)
    log_std_min: float = option(-10.0, "least log standard deviation of the policy", at_least=-80, below="log_std_max")
    log_std_max: float = option(2.0, "greatest log standard deviation of the policy", at_least=-80, at_most=80)
    update: str = option("sequential", "the original's order, or one backward pass", one_of=("joint", "sequential"))

    @property
    def pace(self) -> Pace:
        # In the original two Adam optimisers step the encoder on the same gradient: one at twice the rate.
        rate = self.learning_rate * (1 if self.update == "joint" else 2)
        return Pace(self.learning_rate, rate, self.encoder_tau, self.target_period)


class Sac(Kept):
    """The agent that the trainer drives; it owns the learner, its networks and their optimisers."""

    Config = SacConfig
    discrete, reports_priorities = False, False
    kept = ("learner", "critic", "target_critic", "actor", "log_alpha", "optimizers", "generator", "updates")

    def __init__(self, config: SacConfig, *, learner: Learner, action_dim: int, device: torch.device, seed: int):
        self.config, self.learner, self.device, self.action_dim = config, learner, device, action_dim
        self.n_step, self.discount = config.n_step, config.discount
        critic, actor = self.networks(config, learner.encoder, action_dim)
        self.critic, self.actor = critic.to(device), actor.to(device)
        self.target_critic = frozen_copy(self.critic)
        self.log_alpha = nn.Parameter(torch.tensor(config.init_temperature, device=device).log())
        self.target_entropy = -config.target_entropy * action_dim
        self.updates = 0
        self.optimizers = self._make_optimizers()
        self.generator = torch.Generator(device).manual_seed(seed)
        self._step = make_step(self._descend_all, device, capture=config.capture)

    @staticmethod
    def networks(config: SacConfig, encoder: Encoder, action_dim: int) -> tuple[TwinQ, Actor]:
        """Build what the agent trains beside its learner."""
        critic = TwinQ(encoder.feature_dim, action_dim, config.hidden_dim, norm=config.critic_norm)
        log_std = config.log_std_min, config.log_std_max
        actor = Actor(encoder.make_head(), encoder.feature_dim, action_dim, config.hidden_dim, log_std=log_std)
        return critic, actor

    def _make_optimizers(self) -> dict[str, torch.optim.Adam]:
        c, joint = self.config, self.config.update == "joint"
        groups: dict[str, list[dict[str, Any]]] = {
            "critic": [{"params": [*self.learner.encoder.parameters(), *self.critic.parameters()]}],
            "actor": [{"params": list(self.actor.parameters())}],
            "alpha": [{"params": [self.log_alpha], "lr": c.alpha_learning_rate, "betas": (0.5, 0.999)}],
        }
        if self.learner.learns and joint:
            groups["critic"] += self.learner.parameter_groups()[1:]
        elif self.learner.learns:
            groups["objective"] = self.learner.parameter_groups()
        on_gpu = self.device.type == "cuda"
        return {
            name: torch.optim.Adam(group, lr=c.learning_rate, fused=True, capturable=on_gpu)
            for name, group in groups.items()
        }

    @torch.no_grad()
    def act(self, obs: np.ndarray, *, explore: bool) -> np.ndarray:
        """Choose actions (n, A) for stacked observations; exploring samples the policy, otherwise its mode is taken."""
        conv = self.learner.encoder.conv(self.learner.observe(obs))
        if not explore:
            return self.actor.mode(conv).cpu().numpy()
        return self.actor(conv, self._noise(len(obs)))[0].cpu().numpy()

    def _noise(self, rows: int) -> Tensor:
        return torch.randn((rows, self.action_dim), generator=self.generator, device=self.device)

    def update(self, batch: Batch) -> UpdateResult:
        """Take one gradient update on a batch of raw observations."""
        k, m = self.config.averaging.k, self.config.averaging.m
        obs = self.learner.draw(batch.obs, min(m, 1), self.generator)
        next_obs = [crop.images for crop in self.learner.draw(batch.next_obs, k, self.generator)]
        noise = self._noise((len(next_obs) + 1) * len(batch.action))
        obs += self.learner.draw(batch.obs, m - 1, self.generator) if m > 1 else []
        views = None
        if self.learner.learns:
            batch, views = self.learner.views(batch, obs[0] if m else None)
        flags = (self.updates % self.config.actor_period == 0, self.updates % self.config.target_period == 0)
        self.updates += 1
        seen = tuple(crop.images for crop in obs), next_obs[0] if len(next_obs) == 1 else torch.cat(next_obs)
        return UpdateResult(self._step(batch, *seen, views, noise, flags=flags))

    def _descend_all(
        self, batch: Batch, obs: Images, next_obs: Tensor, views: Views | None, noise: Tensor, *flags: bool
    ) -> Metrics:
        """Step critic, actor, objective, jointly the last with the first. The actor moves nothing that is averaged."""
        train_actor, average = flags
        joint = self.config.update == "joint"
        next_noise, actor_noise = noise.split((len(next_obs), len(batch.action)))
        online = Remembering(self.learner.encoder)
        loss, metrics = self._critic_loss(batch, obs, next_obs, online, next_noise)
        if views is not None and joint:
            objective_loss, more = self.learner.loss(batch, views, online)
            loss, metrics = loss + objective_loss, metrics | more
        self._descend("critic", loss)
        metrics["encoder_grad_norm"] = grad_norm(list(self.learner.encoder.parameters()))
        if not joint:
            online = Remembering(self.learner.encoder, online)  # the critic's step moved the encoder
        if average:
            self._average()
        if views is not None and not joint:
            self.learner.begin(views, online)
        if train_actor:
            metrics |= self._train_actor(online.conv(obs[0]).detach(), actor_noise)
        if views is not None:
            if not joint:
                loss, more = self.learner.loss(batch, views, online)
                self._descend("objective", loss)
                metrics |= more
            self.learner.after_step()
        return metrics

    def _critic_loss(
        self, batch: Batch, obs: Images, next_obs: Tensor, online: Remembering, noise: Tensor
    ) -> tuple[Tensor, Metrics]:
        target = online.begin(next_obs).of(self.learner.target_encoder).begin(next_obs)
        q = [self.critic(online(images), batch.action) for images in obs]
        k = len(next_obs) // len(batch.action)
        with torch.no_grad():
            next_action, next_log_prob = self.actor(online.conv(next_obs), noise)
            next_q = self.target_critic(target(next_obs), next_action)
            reward, discount = batch.reward.repeat(k), batch.discount.repeat(k)
            goal = soft_q_target(reward, discount, next_q, next_log_prob, self.log_alpha.exp()).view(k, -1).mean(0)
        loss = torch.stack([twin_q_loss(each, goal, batch.weight) for each in q]).mean()
        return loss, {"critic_loss": loss.detach(), "q": q[0].detach().mean(), "batch_reward": batch.reward.mean()}

    def _train_actor(self, conv: Tensor, noise: Tensor) -> Metrics:
        """Step the policy and the temperature; the encoder and the critic stay as they are."""
        with torch.no_grad():
            features = self.learner.encoder.head(conv)
        self.critic.requires_grad_(False)
        action, log_prob = self.actor(conv, noise)
        q = self.critic(features, action).amin(0)
        self.critic.requires_grad_(True)
        alpha = self.log_alpha.exp()
        loss = (alpha.detach() * log_prob - q).mean()
        self._descend("actor", loss)
        alpha_loss = (alpha * (-log_prob - self.target_entropy).detach()).mean()
        self._descend("alpha", alpha_loss)
        return {
            "actor_loss": loss.detach(),
            "alpha_loss": alpha_loss.detach(),
            "temperature": alpha.detach(),
            "entropy": -log_prob.detach().mean(),
        }

    def _descend(self, name: str, loss: Tensor) -> None:
        self.optimizers[name].zero_grad(set_to_none=True)
        loss.backward()
        self.optimizers[name].step()

    def _average(self) -> None:
        move_average(self.target_critic, self.critic, self.config.critic_tau)
        self.learner.move_target()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        # A captured graph would go on with the optimisers' former moments.
        self._step = make_step(self._descend_all, self.device, capture=self.config.capture)
