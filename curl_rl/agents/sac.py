"""Soft actor-critic from pixels, its encoder trained by the critic and by a self-supervised objective.

Sources: Haarnoja et al. 2018 (SAC), Laskin et al. 2020 (CURL).
"""

import copy
import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from curl_rl.nn.augmentations import augment, augment_future, center_fit, seen_size
from curl_rl.nn.cudagraph import make_step
from curl_rl.nn.encoders import Encoder
from curl_rl.nn.losses import soft_q_target, squashed_gaussian, twin_q_loss
from curl_rl.nn.networks import grad_norm, initialise, mlp, move_average
from curl_rl.nn.remembering import Remembering
from curl_rl.nn.state import Parts, collect, restore
from curl_rl.objectives.base import Objective
from curl_rl.options import LONGEST, option
from curl_rl.types import Batch, ConfigError, Crop, Metrics, UpdateResult, Views

AUGMENTATIONS = ("crop", "shift", "translate", "cutout", "color_jitter", "none")
UPDATES = ("joint", "sequential")
PRECISIONS = ("float32", "bf16")
Images = tuple[Tensor, ...]


@dataclass(frozen=True)
class SacAugmentations:
    """DrQ's averaging (Kostrikov et al. 2020, algorithm 1); one of each is RAD's single augmentation."""

    k: int = option(
        1, "augmentations of the next observation over which the target is averaged", at_least=1, at_most=100
    )
    m: int = option(
        1, "augmentations of the observation over which the critic's loss is averaged", at_least=1, at_most=100
    )


@dataclass(frozen=True)
class SacConfig:
    name: str = "sac"
    augmentation: str = option(
        "crop", "of all images: crop, shift, translate, cutout, color_jitter or none", one_of=AUGMENTATIONS
    )
    augmentations: SacAugmentations = field(default_factory=SacAugmentations)
    crop_size: int = option(84, "side of the random crop, and of the centre crop that acting takes", at_least=1)
    shift_pad: int = option(4, "pixels that a random shift pads and moves by", at_least=0)
    translate_pad: int = option(
        4, "black pixels on each side of the canvas that translate puts the image on", at_least=0
    )
    cutout_min: int = option(10, "smallest side of the rectangle that cutout blacks out", at_least=1)
    cutout_max: int = option(30, "greatest side of the rectangle that cutout blacks out", at_least=1)
    brightness: float = option(
        0.4, "by what share color_jitter lowers or raises brightness at most", at_least=0, at_most=1
    )
    contrast: float = option(0.4, "by what share color_jitter lowers or raises contrast at most", at_least=0, at_most=1)
    saturation: float = option(
        0.4, "by what share color_jitter lowers or raises saturation at most", at_least=0, at_most=1
    )
    hue: float = option(0.5, "by what share of the circle color_jitter turns hues at most", at_least=0, at_most=1)
    hidden_dim: int = option(1024, "width of the actor's and the critic's hidden layers", at_least=1)
    learning_rate: float = option(
        0.0, "of encoder, critic, actor and objective; 0: the paper's value for the task", at_least=0
    )
    alpha_learning_rate: float = option(1e-4, "of the temperature", at_least=0)
    discount: float = option(0.99, "per agent step", above=0, at_most=1)
    init_temperature: float = option(0.1, "temperature at the start", above=0)
    critic_tau: float = option(0.01, "weight of the new parameters in the target critic", above=0, at_most=1)
    encoder_tau: float = option(0.05, "weight of the new parameters in the target encoder", above=0, at_most=1)
    actor_period: int = option(
        2, "updates from one actor and temperature step to the next", at_least=1, at_most=LONGEST
    )
    target_period: int = option(2, "updates from one moving average to the next", at_least=1, at_most=LONGEST)
    log_std_min: float = option(-10.0, "lower bound of the policy's log standard deviation", at_least=-80, at_most=80)
    log_std_max: float = option(2.0, "upper bound of the policy's log standard deviation", at_least=-80, at_most=80)
    update: str = option(
        "sequential", "sequential: the original's order; joint: one backward pass, see README", one_of=UPDATES
    )
    precision: str = option(
        "float32", "of the convolutions: float32 or bf16; losses are always float32", one_of=PRECISIONS
    )
    capture: bool = option(False, "replay the update as a CUDA graph")

    def __post_init__(self) -> None:
        if self.cutout_max < self.cutout_min:
            raise ConfigError(
                f"agent.cutout_max={self.cutout_max} is below agent.cutout_min={self.cutout_min}: raise the one or "
                "lower the other"
            )
        if self.log_std_min >= self.log_std_max:
            raise ConfigError(
                f"agent.log_std_min={self.log_std_min} must be below agent.log_std_max={self.log_std_max}"
            )


class Actor(nn.Module):
    """A squashed Gaussian policy on a convolutional map, with a head of its own."""

    def __init__(self, head: nn.Module, feature_dim: int, action_dim: int, config: SacConfig):
        super().__init__()
        self.head = head
        self.trunk = mlp(feature_dim, config.hidden_dim, 2 * action_dim)
        self.log_std_min, self.log_std_max = config.log_std_min, config.log_std_max
        initialise(self)

    def forward(self, conv: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Return actions (B, A) and their log-probabilities (B,)."""
        mean, log_std = self.trunk(self.head(conv)).chunk(2, -1)
        log_std = self.log_std_min + 0.5 * (self.log_std_max - self.log_std_min) * (log_std.tanh() + 1)
        return squashed_gaussian(mean, log_std, noise)

    def mode(self, conv: Tensor) -> Tensor:
        return self.trunk(self.head(conv)).chunk(2, -1)[0].tanh()


class TwinQ(nn.Module):
    """Two state-action values on features, (2, B)."""

    def __init__(self, feature_dim: int, action_dim: int, hidden_dim: int):
        super().__init__()
        self.q1 = mlp(feature_dim + action_dim, hidden_dim, 1)
        self.q2 = mlp(feature_dim + action_dim, hidden_dim, 1)
        initialise(self)

    def forward(self, features: Tensor, action: Tensor) -> Tensor:
        x = torch.cat([features, action], -1)
        return torch.cat([self.q1(x), self.q2(x)], -1).T


class Sac:
    """The agent that the trainer drives; it owns the encoder, the objective and their optimisers."""

    Config = SacConfig
    discrete = False
    reports_priorities = False

    def __init__(
        self,
        config: SacConfig,
        *,
        encoder: Encoder,
        objective: Objective,
        action_dim: int,
        device: torch.device,
        seed: int,
    ):
        self.config, self.device = config, device
        self.encoder, self.objective = encoder.to(device), objective.to(device)
        critic, actor = self.networks(config, encoder, action_dim)
        self.critic, self.actor = critic.to(device), actor.to(device)
        self.target_encoder = copy.deepcopy(self.encoder).requires_grad_(False)
        self.target_critic = copy.deepcopy(self.critic).requires_grad_(False)
        self.log_alpha = nn.Parameter(torch.tensor(config.init_temperature, device=device).log())
        self.target_entropy = -float(action_dim)
        self.action_dim = action_dim
        self.updates = 0
        self.optimizers = self._make_optimizers()
        # The key's crops have a generator of their own, so that the control without an objective sees the same others.
        self.generator = torch.Generator(device).manual_seed(seed)
        self.key_generator = torch.Generator(device).manual_seed(seed + 1)
        self._step = self._make_step()

    @staticmethod
    def networks(config: SacConfig, encoder: Encoder, action_dim: int) -> tuple[TwinQ, Actor]:
        """Build what the agent trains beside the encoder and the objective."""
        critic = TwinQ(encoder.feature_dim, action_dim, config.hidden_dim)
        return critic, Actor(encoder.make_head(), encoder.feature_dim, action_dim, config)

    def _make_optimizers(self) -> dict[str, torch.optim.Adam]:
        c = self.config
        learns = self.objective.coefficient != 0
        critic = itertools.chain(self.encoder.parameters(), self.critic.parameters())
        groups: dict[str, list[dict[str, Any]]] = {
            "critic": [{"params": list(critic)}],
            "actor": [{"params": list(self.actor.parameters())}],
            "alpha": [{"params": [self.log_alpha], "lr": c.alpha_learning_rate, "betas": (0.5, 0.999)}],
        }
        heads = {"params": [p for p in self.objective.parameters() if p.requires_grad]}
        if learns and c.update == "joint":
            groups["critic"].append(heads)
        elif learns:
            # In the original two Adam optimisers step the encoder on the same gradient: one at twice the rate.
            groups["objective"] = [{"params": list(self.encoder.parameters()), "lr": 2 * c.learning_rate}, heads]
        on_gpu = self.device.type == "cuda"
        return {
            name: torch.optim.Adam([g for g in group if g["params"]], lr=c.learning_rate, fused=True, capturable=on_gpu)
            for name, group in groups.items()
        }

    @staticmethod
    def image_size(config: SacConfig, size: int) -> int:
        """Return the side of the images that the encoder sees, of an environment's `size`."""
        return seen_size(config, size)

    def _make_step(self) -> Any:
        step = self._joint_step if self.config.update == "joint" else self._sequential_step
        return make_step(step, capture=self.config.capture and self.device.type == "cuda")

    @torch.no_grad()
    def act(self, obs: np.ndarray, *, explore: bool) -> np.ndarray:
        """Choose actions (n, A) for stacked observations; exploring samples the policy, otherwise its mode is taken."""
        images = torch.from_numpy(obs)
        if images.dim() == 4:
            images = center_fit(images, self.encoder.obs_shape[-1])
        conv = self.encoder.conv(images.to(self.device))
        if not explore:
            return self.actor.mode(conv).cpu().numpy()
        noise = torch.randn((len(obs), self.action_dim), generator=self.generator, device=self.device)
        return self.actor(conv, noise)[0].cpu().numpy()

    def update(self, batch: Batch) -> UpdateResult:
        """Take one gradient update on a batch of uncropped observations."""
        k, m = self.config.augmentations.k, self.config.augmentations.m
        query = self._augment(batch.obs, self.generator)
        next_obs = [self._augment(batch.next_obs, self.generator).images for _ in range(k)]
        views, future = Views(query, query), None
        if self.objective.coefficient:
            views = Views(query, self._augment(batch.obs, self.key_generator))
            future = augment_future(batch.future, self.config, self.key_generator)
        rows = (k + 1) * len(batch.action)
        noise = torch.randn((rows, self.action_dim), generator=self.generator, device=self.device)
        others = tuple(self._augment(batch.obs, self.generator).images for _ in range(m - 1))
        flags = (self.updates % self.config.actor_period == 0, self.updates % self.config.target_period == 0)
        self.updates += 1
        joined = next_obs[0] if k == 1 else torch.cat(next_obs)
        augmented = batch._replace(obs=query.images, next_obs=joined, future=future)
        return UpdateResult(self._step(augmented, views, others, noise, flags=flags))

    def _augment(self, images: Tensor, generator: torch.Generator) -> Crop:
        return augment(images, self.config, generator)

    def _joint_step(self, batch: Batch, views: Views, others: Images, noise: Tensor, *flags: bool) -> Metrics:
        """Step encoder, critic and objective on one backward pass, then the actor on the same convolutional map."""
        train_actor, average = flags
        next_noise, actor_noise = noise.split((len(batch.next_obs), len(batch.obs)))
        online = Remembering(self.encoder)
        target = Remembering(self.target_encoder, online)
        critic_loss, metrics = self._critic_loss(batch, others, online, target, next_noise)
        loss = critic_loss
        if self.objective.coefficient:
            objective_loss, more = self.objective(batch, views, online, target)
            loss = loss + self.objective.coefficient * objective_loss
            metrics |= {"objective_loss": objective_loss.detach(), **more}
        self._descend("critic", loss)
        metrics["encoder_grad_norm"] = grad_norm(list(self.encoder.parameters()))
        if train_actor:
            metrics |= self._train_actor(online.conv(batch.obs).detach(), actor_noise)
        if average:
            self._average()
        if self.objective.coefficient:
            self.objective.after_step()
        return metrics

    def _sequential_step(self, batch: Batch, views: Views, others: Images, noise: Tensor, *flags: bool) -> Metrics:
        """Step in the original's order: critic, actor and temperature, moving averages, objective."""
        train_actor, average = flags
        next_noise, actor_noise = noise.split((len(batch.next_obs), len(batch.obs)))
        online = Remembering(self.encoder)
        target = Remembering(self.target_encoder, online)
        critic_loss, metrics = self._critic_loss(batch, others, online, target, next_noise)
        self._descend("critic", critic_loss)
        metrics["encoder_grad_norm"] = grad_norm(list(self.encoder.parameters()))
        online = Remembering(self.encoder, online)  # the critic's step moved the encoder
        if train_actor:
            metrics |= self._train_actor(online.conv(batch.obs).detach(), actor_noise)
        if average:
            self._average()
        if self.objective.coefficient:
            loss, more = self.objective(batch, views, online, Remembering(self.target_encoder, online))
            self._descend("objective", self.objective.coefficient * loss)
            metrics |= {"objective_loss": loss.detach(), **more}
            self.objective.after_step()
        return metrics

    def _critic_loss(
        self, batch: Batch, others: Images, online: Remembering, target: Remembering, noise: Tensor
    ) -> tuple[Tensor, Metrics]:
        k = self.config.augmentations.k
        with torch.no_grad():
            next_action, next_log_prob = self.actor(online.conv(batch.next_obs), noise)
            next_q = self.target_critic(target(batch.next_obs), next_action)
            reward, discount = batch.reward.repeat(k), batch.discount.repeat(k)
            goal = soft_q_target(reward, discount, next_q, next_log_prob, self.log_alpha.exp()).view(k, -1).mean(0)
        q = [self.critic(online(obs), batch.action) for obs in (batch.obs, *others)]
        loss = torch.stack([twin_q_loss(each, goal, batch.weight) for each in q]).mean()
        return loss, {"critic_loss": loss.detach(), "q": q[0].detach().mean(), "batch_reward": batch.reward.mean()}

    def _train_actor(self, conv: Tensor, noise: Tensor) -> Metrics:
        """Step the policy and the temperature; the encoder and the critic stay as they are."""
        with torch.no_grad():
            features = self.encoder.head(conv)
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
        move_average(self.target_encoder, self.encoder, self.config.encoder_tau)

    def snapshot(self, batch: Batch) -> Mapping[str, Tensor]:
        """Return a batch's query and key crops, drawn without disturbing training."""
        if batch.obs.dim() != 4:
            return {}
        generator = torch.Generator(self.device).manual_seed(self.updates)
        return {name: self._augment(batch.obs, generator).images for name in ("query", "key")}

    def _parts(self) -> Parts:
        names = ("encoder", "target_encoder", "critic", "target_critic", "actor", "objective")
        return {name: getattr(self, name) for name in (*names, "generator", "key_generator")}

    def state_dict(self) -> dict[str, Any]:
        return {
            **collect(self._parts()),
            "log_alpha": self.log_alpha.detach().clone(),
            "optimizers": collect(self.optimizers),
            "updates": self.updates,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        restore(self._parts(), state)
        with torch.no_grad():
            self.log_alpha.copy_(state["log_alpha"])
        restore(self.optimizers, state["optimizers"])
        self.updates = state["updates"]
        self._step = self._make_step()  # a captured graph would go on with the optimisers' former moments
