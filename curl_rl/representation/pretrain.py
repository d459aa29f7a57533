"""Pre-training: an encoder, or any network, that learns from frames by an objective alone."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from curl_rl.config.pretraining import Pretraining, Training
from curl_rl.nn.augmentations import AUGMENTATIONS, Augmentation
from curl_rl.nn.diagnostics import watch_features
from curl_rl.nn.encoders import Encoder, make_encoder
from curl_rl.nn.networks import decayed
from curl_rl.nn.plain import plain
from curl_rl.nn.remembering import Remembering
from curl_rl.nn.state import Kept
from curl_rl.objectives import OBJECTIVES, check_needs, make_objective
from curl_rl.objectives.learner import Learner, Pace
from curl_rl.options import shown
from curl_rl.representation.augment import Augment, fit, make_augmentation, seen_shape
from curl_rl.representation.export import HEAD, ExportedEncoder, describe_encoder, save_encoder
from curl_rl.representation.frames import Frames, frames_of
from curl_rl.representation.order import passes
from curl_rl.representation.processes import launched
from curl_rl.representation.session import count_updates, run_training
from curl_rl.representation.shares import Shared
from curl_rl.representation.tap import Tap, evaluating
from curl_rl.run.device import choose_device
from curl_rl.run.logger import MetricMeans
from curl_rl.run.machine import lacks_memory
from curl_rl.types import Batch, ConfigError, Metrics, Shapes

_UPDATES = 5_000
_MEASURED = 1024  # frames whose statistics stand for all, in the folder's head


class Pretrainer(Kept):
    """Trains an encoder on frames by an objective; every part of it is in its checkpoints.

        run = Pretrainer(Tap(MyPolicy(), layer="trunk.4"), objective="byol", frames=frames_of(my_dataset))
        run.train(updates=5_000, out="pre/")

    Args:
        encoder: a `Tap` around a network, or an encoder of this package; trained in place. If it is in eval mode as a
            whole it is put into train mode; parts of it that alone are in eval mode stay so.
        objective: its name, or its configuration.
        frames: what `frames_of` takes.
        augment: by name, configured, or a callable that takes images (B, C, H, W) uint8 and gives as many of one size;
            augment_key, of the second view, the same unless given.
        options: those of `Training`, such as batch_size and learning_rate.

    Raises ConfigError for an objective that needs what the frames have not, and for whatever else does not fit.
    """

    kept = ("learner", "optimizer", "head", "head_optimizer", "means")
    kind: ClassVar[str] = "pre-training"

    def __init__(
        self,
        encoder: Encoder,
        *,
        objective: Any = "byol",
        frames: Any,
        augment: Augment = "shift",
        augment_key: Augment | None = None,
        **options: Any,
    ):
        if not isinstance(encoder, Encoder):
            raise ConfigError(f"{type(encoder).__name__} is no encoder: give Tap(net, layer=...) around a network")
        self.settings, self.frames = Training.given(options), frames_of(frames)
        self.processes = launched(self.settings.device)
        self.device = choose_device(self.processes.device or self.settings.device)
        torch.manual_seed(self.settings.seed)
        config = OBJECTIVES[objective].Config() if isinstance(objective, str) else objective
        views = [make_augmentation(each, self.frames) for each in (augment, augment_key or augment)]
        fit(encoder, self.frames, views[0])
        encoder.bf16 = self.settings.precision == "bf16"
        self.learner = self._make_learner(_awake(encoder), config, views)
        self.order = passes(self.frames, self.settings, config.needs)
        self._make_optimizers()
        self.means = MetricMeans()

    def _make_learner(self, encoder: Encoder, config: Any, views: Sequence[Augmentation]) -> Learner:
        settings, frames = self.settings, self.frames
        there = gives(frames, encoder)
        if config.needs - there == {"map"}:
            raise ConfigError(
                f"objective={config.name} needs a map (channels, height, width), and the encoder gives "
                f"{tuple(encoder.conv_shape)}: tap a convolutional layer"
            )
        check_needs(config, there, frames.source)
        config.check_batch(settings.batch_size)
        if config.coefficient == 0:
            raise ConfigError(f"objective={config.name} has no loss: choose one that trains an encoder")
        actions, side = (frames.action_dim, frames.discrete), frames.obs_shape[-1]
        shapes = Shapes(encoder.feature_dim, encoder.conv_shape, *actions, side, encoder.cells)
        pace = Pace(settings.learning_rate, settings.learning_rate, settings.tau)
        parts = {"key_augmentation": views[1], "pace": pace, "device": self.device, "seed": settings.seed}
        return Learner(encoder, make_objective(config, shapes), views[0], **parts)

    def _make_optimizers(self) -> None:
        settings = self.settings
        trained = [p for p in (*self.learner.encoder.parameters(), *self.learner.heads()) if p.requires_grad]
        if not any(p.requires_grad for p in self.learner.encoder.parameters()):
            raise ConfigError("no parameter of the encoder can be trained: give some requires_grad_(True)")
        groups = decayed(trained, settings.weight_decay)
        self.optimizer = torch.optim.AdamW(groups, lr=settings.learning_rate, fused=True)
        self.head = self.head_optimizer = None
        if settings.linear and self.frames.known.any():
            width = self.learner.encoder.feature_dim
            self.head = nn.Sequential(nn.BatchNorm1d(width, affine=False), nn.Linear(width, self.frames.class_count))
            self.head.to(self.device)
            self.head_optimizer = torch.optim.AdamW(self.head.parameters(), lr=1e-2)

    @property
    def encoder(self) -> Encoder:
        return self.learner.encoder

    @property
    def _exported(self) -> ExportedEncoder:
        return ExportedEncoder(self.encoder, self.frames.obs_shape)

    @torch.no_grad()
    def embed(self, images: Tensor, *, projection: bool = False) -> Tensor:
        """Return features (B, d) of observations (B, k*C, H, W) uint8, or their projections by the objective's head.

        Raises ValueError for images of another kind than the frames.
        """
        with evaluating(self.encoder):
            features = self._exported(images.to(self.device) if isinstance(images, Tensor) else images)
        if not projection:
            return features
        if (head := self.learner.objective.feature_head) is None:
            raise ConfigError(
                f"objective={self.learner.objective.config.name} projects no features: leave projection out"
            )
        return head(features)

    def train(self, *, updates: int = 0, epochs: int = 0, out: str | Path) -> int:
        """Train for so many updates or passes over the frames, or go on where `out` stopped; return the exit status.

        `out` becomes an encoder's folder that `load_encoder` reads; what made it lies in its folder `training`. With
        neither number 5,000 updates are taken.
        """
        total, numbers = count_updates(updates, epochs, self.order.epoch, _UPDATES), self.order.numbers
        check_pace(self.learner.objective.config, total, self.order.epoch, len(numbers))
        return run_training(self, total, Path(out), self.processes)

    def batch(self, update: int) -> Batch:
        """Return the frames of an update."""
        horizon = self.learner.objective.config.horizon
        return self.frames.batch(self.order.ids(update), horizon=horizon, device=self.device)

    def step(self, batch: Batch, rate: float) -> Metrics:
        """Take one update at a learning rate; return what is worth logging."""
        with self.processes.sharing(self.encoder, self.learner.target_encoder):
            return self._step(batch, rate)

    def _step(self, batch: Batch, rate: float) -> Metrics:
        batch, views = self.learner.views(batch)
        shared = self.settings.accumulate > 1
        online = Shared(self.encoder, self.settings.accumulate) if shared else Remembering(self.encoder)
        loss, metrics = self.learner.loss(batch, views, online)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.processes.sum_gradients(self.encoder)
        if self.head is not None and batch.classes is not None:
            with torch.no_grad():
                features = online(views.query.images)
            metrics = metrics | self._fit_head(features, batch.classes)
        self.optimizer.step()
        self.learner.move_target()
        self._after_step()
        self.processes.average_statistics(self.encoder, self.learner.target_encoder)
        return metrics

    def _after_step(self) -> None:
        """Let the objective do its own work, of which clustering takes memory by what it keeps."""
        config = self.learner.objective.config
        try:
            self.learner.after_step()
        except (RuntimeError, MemoryError) as error:
            if not lacks_memory(error):
                raise
            kept = [field.name for field in dataclasses.fields(config) if field.name.endswith(("_size", "clusters"))]
            told = " or ".join(f"objective.{name}={shown(getattr(config, name))}" for name in kept)
            raise ConfigError(f"memory ran out while objective={config.name} clustered: lower {told}") from error

    def _fit_head(self, features: Tensor, classes: Tensor) -> Metrics:
        known = classes >= 0
        if self.head is None or self.head_optimizer is None or known.sum() < 2:
            return {}
        logits = self.head(features.detach()[known])
        loss = F.cross_entropy(logits, classes[known])
        self.head_optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.head_optimizer.step()
        accuracy = (logits.argmax(1) == classes[known]).float().mean()
        return {"linear_loss": loss.detach(), "linear_accuracy": accuracy}

    def watch(self, batch: Batch) -> Metrics:
        """Return what shows how the features fare, without disturbing training."""
        with evaluating(self.encoder):
            return watch_features(self.learner, batch)

    def shown(self, batch: Batch) -> tuple[Mapping[str, Tensor], int]:
        """Return at most 16 of a batch's views, and how many frames each stacks."""
        return {name: images[:16] for name, images in self.learner.snapshot(batch).items()}, self.frames.stack

    def write(self, out: Path, update: int) -> None:
        """Write the encoder's folder, with the head that projects its features where there is one of plain layers."""
        told = {**self.describe(), "updates": update, "stack": self.frames.stack}
        head = self.plain_head()
        parts = {} if head is None else {HEAD: head}
        save_encoder(self.encoder, told.pop("encoder"), self.frames.obs_shape, out, parts=parts, training=True, **told)

    def plain_head(self) -> nn.Sequential | None:
        """Return the objective's head of features as plain layers, normalised by statistics of some of the frames."""
        if (head := self.learner.objective.feature_head) is None:
            return None
        some = torch.linspace(0, len(self.frames) - 1, min(len(self.frames), _MEASURED)).long()
        features = [self.embed(self.frames.obs(ids)) for ids in some.split(self.settings.batch_size)]
        return plain(head, torch.cat(features))

    def describe(self) -> dict[str, Any]:
        """Return what a folder says of how its encoder came to be."""
        views = {"augmentation": self.learner.augmentation, "key_augmentation": self.learner.key_augmentation}
        config = self.learner.objective.config
        told = {"objective": dataclasses.asdict(config)}
        told |= {name: dataclasses.asdict(view.config) for name, view in views.items()}
        seen = {"labels": len(self.frames), "classes": int(self.frames.known.sum())}
        return told | {
            "encoder": describe_encoder(self.encoder),
            "data": {"frames": len(self.frames), "crc32": self.frames.checksum},
            "labels_seen": max((count for kind, count in seen.items() if kind in config.needs), default=0),
        }


def _awake(encoder: Encoder) -> Encoder:
    """Put an encoder, or a network, that is in eval mode as a whole into train mode."""
    whole = encoder.net if isinstance(encoder, Tap) else encoder
    if not whole.training:
        whole.train()
    return encoder


def gives(frames: Frames, encoder: Encoder) -> frozenset[str]:
    """Return what frames and an encoder give an objective."""
    return frames.gives | ({"map"} if len(encoder.conv_shape) == 3 else set())


def check_pace(config: Any, total: int, epoch: int, samples: int) -> None:
    """Raise ConfigError for what an objective would begin only after so many updates, or keep more of than there is."""
    told = []
    for field in dataclasses.fields(config):
        value, counts = getattr(config, field.name), field.metadata.get("counts")
        where = field.metadata.get("where", "")
        late = counts == "updates" and value >= total
        if (late or (counts == "samples" and value > samples)) and (not where or getattr(config, where)):
            told.append(f"objective.{field.name}={max(1, min(epoch, total // 4)) if late else samples} (not {value:,})")
    if told:
        raise ConfigError(
            f"objective={config.name} would never come to work in {total:,} updates over {samples:,} frames, of which "
            f"an epoch takes {epoch:,}: set, for example, {' '.join(told)}"
        )


def pretrain(config: Pretraining) -> int:
    """Pre-train as configured; return the exit status."""
    frames = frames_of(config.data, **config.arguments())
    augmentation = AUGMENTATIONS[config.augmentation.name](config.augmentation)
    torch.manual_seed(config.seed)
    encoder = make_encoder(config.encoder, seen_shape(frames, config.augmentation))
    options = dataclasses.asdict(Training.of(config))
    trainer = Pretrainer(encoder, objective=config.objective, frames=frames, augment=augmentation, **options)
    return trainer.train(updates=config.updates, epochs=config.epochs, out=config.out)
