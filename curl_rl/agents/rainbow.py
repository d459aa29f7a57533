"""Data-efficient Rainbow, its encoder trained by the value distribution and by a self-supervised objective.

Sources: Hessel et al. 2018 (Rainbow), van Hasselt et al. 2019 (data-efficient), Laskin et al. 2020 (CURL). The replay
brings n-step returns and priorities; what is left is double, duelling, noisy, distributional learning.
"""

import copy
import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from curl_rl.nn.augmentations import augment, augment_future, seen_size
from curl_rl.nn.cudagraph import make_step
from curl_rl.nn.encoders import Encoder
from curl_rl.nn.losses import categorical_loss, project_distribution
from curl_rl.nn.networks import NoisyLinear, grad_norm, move_average
from curl_rl.nn.remembering import Remembering
from curl_rl.nn.state import Parts, collect, restore
from curl_rl.objectives.base import Objective
from curl_rl.options import LONGEST, option
from curl_rl.types import Batch, ConfigError, Crop, Metrics, UpdateResult, Views

AUGMENTATIONS = ("crop_shift", "shift", "cutout", "color_jitter", "none")
PRIORITIES = ("value", "total")
PRECISIONS = ("float32", "bf16")
Images = tuple[Tensor, ...]


@dataclass(frozen=True)
class RainbowAugmentations:
    """RAD (one of each) and DrQ's averaging (Kostrikov et al. 2020, algorithm 1) of the value loss."""

    k: int = option(
        0,
        "augmentations of the next observation over which the target is averaged; 0: as it is",
        at_least=0,
        at_most=100,
    )
    m: int = option(
        0,
        "augmentations of the observation over which the value loss is averaged; 0: as it is",
        at_least=0,
        at_most=100,
    )


@dataclass(frozen=True)
class RainbowConfig:
    name: str = "rainbow"
    augmentation: str = option(
        "crop_shift", "of views: crop_shift, shift, cutout, color_jitter or none", one_of=AUGMENTATIONS
    )
    augmentations: RainbowAugmentations = field(default_factory=RainbowAugmentations)
    shift_pad: int = option(4, "pixels that a crop takes away, and that a shift pads and moves by", at_least=0)
    cutout_min: int = option(10, "smallest side of the rectangle that cutout blacks out", at_least=1)
    cutout_max: int = option(30, "greatest side of the rectangle that cutout blacks out", at_least=1)
    # The range of the intensity jitter of DrQ(eps) (Agarwal et al. 2021), there a normal variable clipped to it.
    brightness: float = option(
        0.1, "by what share color_jitter lowers or raises brightness at most", at_least=0, at_most=1
    )
    contrast: float = option(0.0, "by what share color_jitter lowers or raises contrast at most", at_least=0, at_most=1)
    saturation: float = option(
        0.0, "by what share color_jitter lowers or raises saturation at most, if not grey", at_least=0, at_most=1
    )
    hue: float = option(
        0.0, "by what share of the circle color_jitter turns hues at most, if not grey", at_least=0, at_most=1
    )
    hidden_dim: int = option(256, "width of the value's and the advantages' hidden layers", at_least=1)
    atoms: int = option(51, "atoms of the value distribution", at_least=2, at_most=1001)
    v_min: float = option(-10.0, "lowest return of the value distribution")
    v_max: float = option(10.0, "highest return of the value distribution")
    noise_std: float = option(0.1, "size of the noisy layers' noise at the start", at_least=0)
    learning_rate: float = option(1e-4, "of encoder, value distribution and objective", above=0)
    adam_epsilon: float = option(1.5e-4, "Adam's epsilon", above=0)
    max_grad_norm: float = option(10.0, "norm to which gradients are clipped", above=0)
    discount: float = option(0.99, "per agent step", above=0, at_most=1)
    target_period: int = option(
        2000, "updates from one copy of the target network to the next", at_least=1, at_most=LONGEST
    )
    encoder_tau: float = option(
        0.001, "weight of the new parameters in the key's encoder, at each update", above=0, at_most=1
    )
    priority: str = option(
        "value", "what becomes a priority: the value loss, or the total of both losses", one_of=PRIORITIES
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
        if self.v_min >= self.v_max:
            raise ConfigError(f"agent.v_min={self.v_min} must be below agent.v_max={self.v_max}")


class DuellingHeads(nn.Module):
    """Distributions over returns on features, as a value plus centred advantages (Wang et al. 2016, equation 9)."""

    def __init__(self, feature_dim: int, actions: int, config: RainbowConfig):
        super().__init__()
        self.shape = (actions, config.atoms)
        hidden, std = config.hidden_dim, config.noise_std
        self.value_hidden = NoisyLinear(feature_dim, hidden, std)
        self.value = NoisyLinear(hidden, config.atoms, std)
        self.advantage_hidden = NoisyLinear(feature_dim, hidden, std)
        self.advantage = NoisyLinear(hidden, actions * config.atoms, std)

    def forward(self, features: Tensor, *, noisy: bool = True) -> Tensor:
        """Return the logits of each action's distribution, (B, actions, atoms)."""
        value = self.value(self.value_hidden(features, noisy=noisy).relu_(), noisy=noisy)
        advantage = self.advantage(self.advantage_hidden(features, noisy=noisy).relu_(), noisy=noisy)
        advantage = advantage.unflatten(1, self.shape)
        return value[:, None] + advantage - advantage.mean(1, keepdim=True)

    def draw(self, generator: torch.Generator) -> None:
        """Draw new noise for every layer."""
        for layer in (self.value_hidden, self.value, self.advantage_hidden, self.advantage):
            layer.draw(generator)


class Rainbow:
    """The agent that the trainer drives; it owns the encoder, the objective and their optimiser."""

    Config = RainbowConfig
    discrete = True
    reports_priorities = True

    def __init__(
        self,
        config: RainbowConfig,
        *,
        encoder: Encoder,
        objective: Objective,
        action_dim: int,
        device: torch.device,
        seed: int,
    ):
        self.config, self.device = config, device
        self.encoder, self.objective = encoder.to(device), objective.to(device)
        self.heads = self.networks(config, encoder, action_dim)[0].to(device)
        self.target_encoder = copy.deepcopy(self.encoder).requires_grad_(False)
        self.target_heads = copy.deepcopy(self.heads).requires_grad_(False)
        self.key_encoder = copy.deepcopy(self.encoder).requires_grad_(False)
        self.support = torch.linspace(config.v_min, config.v_max, config.atoms, device=device)
        self.updates = 0
        everything = itertools.chain(*(m.parameters() for m in (self.encoder, self.heads, self.objective)))
        self.trained = [parameter for parameter in everything if parameter.requires_grad]
        on_gpu = device.type == "cuda"
        self.optimizers = {
            "all": torch.optim.Adam(
                self.trained, lr=config.learning_rate, eps=config.adam_epsilon, fused=True, capturable=on_gpu
            )
        }
        # The objective's views have a generator of their own, so that the control without one sees all else the same.
        self.generator = torch.Generator(device).manual_seed(seed)
        self.view_generator = torch.Generator(device).manual_seed(seed + 1)
        self.heads.draw(self.generator)
        self._step = self._make_step()

    @staticmethod
    def networks(config: RainbowConfig, encoder: Encoder, action_dim: int) -> tuple[DuellingHeads]:
        """Build what the agent trains beside the encoder and the objective."""
        return (DuellingHeads(encoder.feature_dim, action_dim, config),)

    @staticmethod
    def image_size(config: RainbowConfig, size: int) -> int:
        """Return the side of the images that the encoder sees, of an environment's `size`."""
        return seen_size(config, size)

    def _make_step(self) -> Any:
        return make_step(self._descend, capture=self.config.capture and self.device.type == "cuda")

    @torch.no_grad()
    def act(self, obs: np.ndarray, *, explore: bool) -> np.ndarray:
        """Choose actions (n,) int64 for stacked observations: under new noise to explore, otherwise without any.

        The noise stays for the update that follows: it is drawn once a step, as in the original.
        """
        if explore:
            self.heads.draw(self.generator)
        features = self.encoder(torch.from_numpy(obs).to(self.device))
        return self._values(self.heads(features, noisy=explore)).argmax(1).cpu().numpy()

    def _values(self, logits: Tensor) -> Tensor:
        return logits.float().softmax(-1) @ self.support

    def update(self, batch: Batch) -> UpdateResult:
        """Take one gradient update; unless told otherwise only the objective's views are augmented."""
        k, m = self.config.augmentations.k, self.config.augmentations.m
        seen = [self._augment(batch.obs, self.generator) for _ in range(m)]
        obs = tuple(crop.images for crop in seen) or (batch.obs,)
        next_obs = tuple(self._augment(batch.next_obs, self.generator).images for _ in range(k)) or (batch.next_obs,)
        views = None
        if self.objective.coefficient:
            query = seen[0] if seen else self._augment(batch.obs)  # what the value loss encodes anyway
            views = Views(query, self._augment(batch.obs))
            batch = batch._replace(future=augment_future(batch.future, self.config, self.view_generator))
        self.target_heads.draw(self.generator)
        metrics = self._step(batch, obs, next_obs, views)
        self.updates += 1
        if self.updates % self.config.target_period == 0:
            self.target_encoder.load_state_dict(self.encoder.state_dict())
            self.target_heads.load_state_dict(self.heads.state_dict())
        return UpdateResult(metrics, metrics.pop("priorities"))

    def _augment(self, images: Tensor, generator: torch.Generator | None = None) -> Crop:
        return augment(images, self.config, self.view_generator if generator is None else generator)

    def _descend(self, batch: Batch, obs: Images, next_obs: Images, views: Views | None) -> Metrics:
        """Step everything on one backward pass; the key's encoder follows."""
        online = Remembering(self.encoder)
        losses, metrics = self._value_losses(batch, obs, next_obs, online)
        total = losses
        if views is not None:
            objective_loss, more = self.objective(batch, views, online, Remembering(self.key_encoder))
            # As in the original, so that the importance weights apply to it too.
            total = losses + self.objective.coefficient * objective_loss
            metrics |= {"objective_loss": objective_loss.detach(), **more}
        metrics["priorities"] = (total if self.config.priority == "total" else losses).detach()
        loss = (batch.weight * total).mean()
        self.optimizers["all"].zero_grad(set_to_none=True)
        loss.backward()
        metrics["encoder_grad_norm"] = grad_norm(list(self.encoder.parameters()))
        metrics["grad_norm"] = nn.utils.clip_grad_norm_(self.trained, self.config.max_grad_norm)
        self.optimizers["all"].step()
        if views is not None:
            move_average(self.key_encoder, self.encoder, self.config.encoder_tau)
            self.objective.after_step()
        return metrics

    def _value_losses(self, batch: Batch, obs: Images, next_obs: Images, online: Remembering) -> tuple[Tensor, Metrics]:
        """Return each sample's cross-entropy (B,) against the projected target distribution, averaged over views."""
        rows = torch.arange(len(batch.action), device=self.device)
        logits = [self.heads(online(images)) for images in obs]
        target = torch.stack([self._target(batch, images, online) for images in next_obs]).mean(0)
        losses = torch.stack([categorical_loss(each[rows, batch.action], target) for each in logits]).mean(0)
        seen = logits[0].detach().float()
        return losses, {
            "value_loss": losses.detach().mean(),
            "q": self._values(seen).amax(1).mean(),
            "value_entropy": -(seen.softmax(-1) * seen.log_softmax(-1)).sum(-1).mean(),
            "batch_reward": batch.reward.mean(),
        }

    @torch.no_grad()
    def _target(self, batch: Batch, next_obs: Tensor, online: Remembering) -> Tensor:
        """Return the projected distribution (B, atoms) of the action that the online network prefers."""
        rows = torch.arange(len(batch.action), device=self.device)
        best = self._values(self.heads(online(next_obs))).argmax(1)
        logits = self.target_heads(Remembering(self.target_encoder, online)(next_obs))
        probabilities = logits[rows, best].float().softmax(-1)
        return project_distribution(probabilities, batch.reward, batch.discount, self.support)

    def snapshot(self, batch: Batch) -> Mapping[str, Tensor]:
        """Return a batch's query and key views, drawn without disturbing training."""
        if batch.obs.dim() != 4:
            return {}
        state = self.view_generator.get_state()
        views = {name: self._augment(batch.obs).images for name in ("query", "key")}
        self.view_generator.set_state(state)
        return views

    def _parts(self) -> Parts:
        names = ("encoder", "heads", "target_encoder", "target_heads", "key_encoder", "objective")
        return {name: getattr(self, name) for name in (*names, "generator", "view_generator")}

    def state_dict(self) -> dict[str, Any]:
        return {**collect(self._parts()), "optimizers": collect(self.optimizers), "updates": self.updates}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        restore(self._parts(), state)
        restore(self.optimizers, state["optimizers"])
        self.updates = state["updates"]
        self._step = self._make_step()  # a captured graph would go on with the optimiser's former moments
