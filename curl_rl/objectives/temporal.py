"""Objectives about what follows: contrast with a later observation, and predictions step by step."""

import copy
import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from curl_rl.nn.losses import latent_prediction_loss, masked_info_nce, predictive_information, residual_information
from curl_rl.nn.networks import frozen_copy, move_average, stretched
from curl_rl.nn.parts import Random, projection_head
from curl_rl.objectives.base import Objective, ObjectiveConfig
from curl_rl.options import option
from curl_rl.types import Batch, Features, Future, Metrics, Shapes, Views


@dataclass(frozen=True)
class _TemporalConfig(ObjectiveConfig):
    """What objectives about the future have in common: how far they look ahead."""

    steps: int = option(5, "agent steps to look ahead", at_least=1, at_most=1000)

    @property
    def horizon(self) -> int:
        return self.steps

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"order", "actions"})


def _future(batch: Batch, config: _TemporalConfig) -> Future:
    if batch.future is None:
        raise ValueError(f"objective={config.name} reads Batch.future: build the replay with horizon={config.horizon}")
    return batch.future


def _images(obs: Tensor) -> Tensor:
    """Return observations (B, K, C, H, W) as one batch of images (B * K, C, H, W)."""
    return obs.flatten(0, 1).contiguous()


def _vectors(action: Tensor, width: int) -> Tensor:
    """Return actions as float32 vectors (B, K, width): continuous ones as they are, (B, K) indices one-hot."""
    if not action.is_floating_point():
        action = action[..., None] == torch.arange(width, device=action.device)
    return action.float()


@dataclass(frozen=True)
class AtcConfig(_TemporalConfig):
    # The original's on DeepMind Control; on Atari it takes 3 steps and codes of 256.
    name: str = "atc"
    steps: int = option(1, "agent steps from anchor to positive; the original: 1, Atari 3", at_least=1, at_most=1000)
    latent_dim: int = option(128, "width of the compressed codes; the original's, Atari: 256", at_least=1)
    hidden_dim: int = option(512, "width of the residual predictor's hidden layer; the original's", at_least=1)
    compressor_tau: float = option(0.01, "weight of new parameters in the positives' compressor", above=0, at_most=1)

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"order"})


class Atc(Objective):
    """Augmented temporal contrast: tell the observation some steps later from the batch's others (Stooke et al. 2021).

    A linear compressor makes codes of the convolutional maps, its moving average those of the positives; a residual
    predictor stands for the steps between.
    """

    Config = AtcConfig

    def __init__(self, config: AtcConfig, shapes: Shapes):
        super().__init__(config, shapes)
        width = config.latent_dim
        self.compressor = nn.Linear(math.prod(shapes.conv), width)
        self.target_compressor = frozen_copy(self.compressor)
        self.predictor = projection_head(width, config.hidden_dim, width, norm="none")
        self.contrast = nn.Linear(width, width, bias=False)

    def forward(self, batch: Batch, views: Views, online: Features, target: Features) -> tuple[Tensor, Metrics]:
        future = _future(batch, self.config)
        anchor = self.compressor(online.conv(views.query.images).flatten(1))
        with torch.no_grad():
            positive = self.target_compressor(target.conv(_images(future.obs[:, -1:])).flatten(1))
        prediction = self.contrast(anchor + self.predictor(anchor))
        loss, accuracy = masked_info_nce(prediction @ positive.T, future.mask[:, -1])
        return loss, {"accuracy": accuracy}

    def after_step(self) -> None:
        move_average(self.target_compressor, self.compressor, self.config.compressor_tau)


@dataclass(frozen=True)
class SprConfig(_TemporalConfig):
    name: str = "spr"
    coefficient: float | None = option(2.0, "weight of the loss; the paper's", at_least=0)
    steps: int = option(5, "agent steps to predict; the paper's", at_least=1, at_most=1000)
    map_size: int = option(8, "side beyond which convolutional maps are averaged down; the paper's have 7", at_least=1)
    projection_dim: int = option(512, "width of the projections that are compared; the original's", at_least=1)
    projection_tau: float = option(0.01, "weight of new parameters in the targets' head; paper: 1", above=0, at_most=1)

    @property
    def needs(self) -> frozenset[str]:
        return super().needs | {"map"}


def _standardise(maps: Tensor, valid: Tensor, epsilon: float = 1e-5) -> Tensor:
    """Give each channel of maps (N, c, ...) mean 0 and variance 1 over the samples that are `valid` (N,).

    Batch normalisation as in training, to which a step past an episode's end adds nothing.
    """
    axes = [0, *range(2, maps.dim())]
    share = valid.to(maps.dtype) / (valid.sum() * maps[0, 0].numel()).clamp(min=1)
    share = share[(..., *[None] * (maps.dim() - 1))]
    centred = maps - (share * maps).sum(axes, keepdim=True)
    return centred * ((share * centred.square()).sum(axes, keepdim=True) + epsilon).rsqrt()


class _Transition(nn.Module):
    """The next latent of a latent and an action: two 3x3 convolutions, the action constant planes beside the map."""

    def __init__(self, channels: int, action_dim: int):
        super().__init__()
        self.first = nn.Conv2d(channels + action_dim, channels, 3, padding=1)
        self.scale = nn.Parameter(torch.ones(channels))
        self.shift = nn.Parameter(torch.zeros(channels))
        self.second = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, latent: Tensor, action: Tensor, valid: Tensor) -> Tensor:
        """Return latents (B, c, h, w) after actions (B, A); `valid` (B,) tells which of them are steps."""
        planes = action[:, :, None, None].expand(-1, -1, *latent.shape[2:])
        hidden = _standardise(self.first(torch.cat([latent, planes], 1)).relu(), valid)
        hidden = hidden * self.scale[:, None, None] + self.shift[:, None, None]
        return stretched(self.second(hidden).relu())


class Spr(Objective):
    """Self-predictive representations: foretell the moving average's latents step by step (Schwarzer et al. 2021).

    Departures: larger maps than the paper's are averaged down, for the transition's and the projection's cost grow with
    their area (maps of 35x35 left as they are take three times as long on a CPU). The paper's projection is the first
    layer of the value heads, which rewards keep from collapsing; this one is its own and batch-normalised (Chen and He
    2020), for latents in [0, 1] are nearly parallel without. The value heads see stretched latents only where the
    encoder stretches them.
    """

    Config = SprConfig

    def __init__(self, config: SprConfig, shapes: Shapes):
        super().__init__(config, shapes)
        channels, *sides = shapes.conv
        self.action_dim = shapes.action_dim
        self.window = [math.ceil(side / config.map_size) for side in sides]
        cells = math.prod(math.ceil(side / window) for side, window in zip(sides, self.window, strict=True))
        self.transition = _Transition(channels, shapes.action_dim)
        self.projection = nn.Linear(channels * cells, config.projection_dim, bias=False)
        self.target_projection = frozen_copy(self.projection)
        self.predictor = nn.Linear(config.projection_dim, config.projection_dim)

    def forward(self, batch: Batch, views: Views, online: Features, target: Features) -> tuple[Tensor, Metrics]:
        """Roll the query's latent forward by the actions taken and compare it with each later observation's."""
        future = _future(batch, self.config)
        latent, rolled = self._latent(online.conv(views.query.images)), []
        actions = _vectors(future.action, self.action_dim)
        for action, valid in zip(actions.unbind(1), future.mask.unbind(1), strict=True):
            latent = self.transition(latent, action, valid)
            rolled.append(latent.flatten(1))
        valid = future.mask.flatten()
        prediction = self.predictor(_standardise(self.projection(torch.stack(rolled, 1).flatten(0, 1)), valid))
        with torch.no_grad():
            later = self._latent(target.conv(_images(future.obs))).flatten(1)
            goal = _standardise(self.target_projection(later), valid)
        prediction, goal = (x.unflatten(0, future.mask.shape) for x in (prediction, goal))
        loss, similarity = latent_prediction_loss(prediction, goal, future.mask)
        return loss, {"cosine_similarity": similarity}

    def reset(self, keep: float) -> None:
        """Start anew, but for the transition, of which as much stays as of the encoder, as in BBF."""
        former = copy.deepcopy(self.transition)
        super().reset(keep)
        move_average(self.transition, former, keep)

    def _latent(self, maps: Tensor) -> Tensor:
        # Not adaptive pooling, whose backward pass on CUDA adds up in no fixed order.
        return stretched(F.avg_pool2d(maps, self.window, ceil_mode=True))

    def after_step(self) -> None:
        move_average(self.target_projection, self.projection, self.config.projection_tau)


@dataclass(frozen=True)
class CpcConfig(_TemporalConfig):
    name: str = "cpc"
    steps: int = option(5, "agent steps to predict; the papers look further, at more cost", at_least=1, at_most=1000)
    belief_dim: int = option(256, "width of the recurrent belief; rlpyt's", at_least=1)


class Cpc(Objective):
    """Action-conditioned contrastive predictive coding (van den Oord et al. 2018; Guo et al. 2018, CPC|Action).

    Each step's prediction tells that step's features from those of the batch's others, by the former's bilinear
    contrast instead of the latter's classifier. Departures: the belief begins with the stacked frames' features instead
    of a recurrence over the past, and the features foretold are the moving average's, without a gradient, which saves
    as many backward passes through the encoder as there are steps.
    """

    Config = CpcConfig

    def __init__(self, config: CpcConfig, shapes: Shapes):
        super().__init__(config, shapes)
        self.action_dim = shapes.action_dim
        self.start = nn.Linear(shapes.feature_dim, config.belief_dim)
        self.roll = nn.GRUCell(shapes.action_dim, config.belief_dim)
        # One matrix a step (van den Oord et al. 2018, equation 3).
        predictors = [nn.Linear(config.belief_dim, shapes.feature_dim, bias=False) for _ in range(config.steps)]
        self.predictors = nn.ModuleList(predictors)

    def forward(self, batch: Batch, views: Views, online: Features, target: Features) -> tuple[Tensor, Metrics]:
        future = _future(batch, self.config)
        belief, predictions = self.start(online(views.query.images)).tanh(), []
        actions = _vectors(future.action, self.action_dim)
        for action, predictor in zip(actions.unbind(1), self.predictors, strict=True):
            belief = self.roll(action, belief)
            predictions.append(predictor(belief))
        with torch.no_grad():
            later = target(_images(future.obs)).unflatten(0, future.mask.shape)
        logits = torch.stack(predictions) @ later.permute(1, 2, 0)  # (K, B, B)
        loss, accuracy = masked_info_nce(logits, future.mask.T)
        return loss, {"accuracy": accuracy}


@dataclass(frozen=True)
class CebConfig(_TemporalConfig):
    name: str = "ceb"
    steps: int = option(3, "agent steps foretold at once; the original: as many as frames", at_least=1, at_most=1000)
    beta: float = option(0.01, "weight of what is compressed away; the original's", at_least=0)
    smoothing: float = option(0.6, "weight beside it of the same one step later; the original's", at_least=0)
    latent_dim: int = option(50, "width of the code; the original's", at_least=1)
    hidden_dim: int = option(128, "width of both heads' two hidden layers; the original's", at_least=1)

    @property
    def horizon(self) -> int:
        return self.steps + bool(self.smoothing)

    @property
    def needs(self) -> frozenset[str]:
        return super().needs | {"rewards"}

    @property
    def capturable(self) -> bool:
        return False


class _Mean(nn.Module):
    """The mean of a code's Gaussian: two hidden layers, and a batch normalisation over what is `valid`."""

    def __init__(self, in_dim: int, hidden_dim: int, out_dim: int):
        super().__init__()
        self.first, self.second = nn.Linear(in_dim, hidden_dim), nn.Linear(hidden_dim, hidden_dim)
        self.last = nn.Linear(hidden_dim, out_dim, bias=False)  # the normalisation would take a bias away
        self.scale, self.shift = nn.Parameter(torch.ones(out_dim)), nn.Parameter(torch.zeros(out_dim))
        for layer in (self.first, self.second):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)
        # The original's, as the normalisation's epsilon, which such small numbers feel: all codes start nearly alike.
        nn.init.normal_(self.last.weight, std=0.01 / math.sqrt(hidden_dim))

    def forward(self, valid: Tensor, *inputs: Tensor) -> Tensor:
        hidden = self.second(self.first(torch.cat(inputs, 1)).relu()).relu()
        return _standardise(self.last(hidden), valid, epsilon=1e-3) * self.scale + self.shift


class Ceb(Objective):
    """The predictive information of PI-SAC by the conditional entropy bottleneck (Lee et al. 2020; Fischer 2020).

    A code drawn from e(z | observation, actions) tells what follows, by b(z | later observation, rewards), from the
    batch's others; what it knows beyond that costs beta a nat. Departures: what follows is seen through the moving
    average that the value targets use too, and nothing is learned before the agent begins.
    """

    Config = CebConfig

    def __init__(self, config: CebConfig, shapes: Shapes):
        super().__init__(config, shapes)
        self.action_dim = shapes.action_dim
        sizes = config.hidden_dim, config.latent_dim
        self.code = _Mean(shapes.feature_dim + config.steps * shapes.action_dim, *sizes)
        self.later = _Mean(shapes.feature_dim + config.steps, *sizes)
        self.random = Random()

    def forward(self, batch: Batch, views: Views, online: Features, target: Features) -> tuple[Tensor, Metrics]:
        """Tell by a code of the query and the actions what follows, of those samples whose episode goes on so far."""
        config, future = self.config, _future(batch, self.config)
        valid = future.mask[:, -1]  # as the original takes only what goes on so far
        actions = _vectors(future.action[:, : config.steps], self.action_dim).flatten(1)
        code = self.code(valid, online(views.query.images), actions)
        sample = code + torch.randn(code.shape, generator=self.random.generator).to(code.device)
        now, *after = self._later(future, valid, target)
        information, accuracy = predictive_information(sample, now, valid)
        residual = residual_information(sample, code, now, valid)
        loss = config.beta * residual - information
        for each in after:
            loss = loss + config.smoothing * config.beta * residual_information(sample, code, each, valid)
        metrics = {"predictive_information": information.detach(), "residual_information": residual.detach()}
        return loss, {"accuracy": accuracy, **metrics}

    def _later(self, future: Future, valid: Tensor, target: Features) -> list[Tensor]:
        """Return the means of b given what follows, and given the same one step later where the loss is smoothed."""
        steps, ends = self.config.steps, range(self.config.steps, self.config.horizon + 1)
        with torch.no_grad():
            seen = target(_images(future.obs[:, steps - 1 :])).unflatten(0, (-1, len(ends)))
        rewards = [future.reward[:, end - steps : end] for end in ends]
        return [self.later(valid, *pair) for pair in zip(seen.unbind(1), rewards, strict=True)]
