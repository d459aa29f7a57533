"""One start of a training in its folder: it goes on where the last one stopped, logs, watches and saves."""

import dataclasses
import math
import sys
from collections.abc import Mapping
from contextlib import closing, nullcontext
from pathlib import Path
from typing import Any, ClassVar, Protocol

from torch import Tensor

from curl_rl.config.difference import check_same, identity
from curl_rl.config.pretraining import Learning
from curl_rl.representation.export import TRAINING, check_place
from curl_rl.representation.processes import Processes
from curl_rl.run.checkpoint import Checkpoints
from curl_rl.run.device import prepare_torch
from curl_rl.run.folder import EncoderError, part_files, read_folder
from curl_rl.run.interrupts import StopRequest
from curl_rl.run.locks import alone
from curl_rl.run.logger import MetricMeans, RunLogger, raise_on_nonfinite
from curl_rl.run.progress import Progress, Stopwatch
from curl_rl.run.provenance import make_origin, surroundings, write_metadata
from curl_rl.types import Batch, Clock, ConfigError, Metrics, Stateful

ONE = Processes()
_COLLAPSED = 2.0  # effective rank of features below which they tell hardly anything apart


class Trained(Stateful, Protocol):
    """What a session drives: something that learns from frames in updates, each a function of its number."""

    kind: ClassVar[str]  # what a message calls such a training
    means: MetricMeans

    @property
    def settings(self) -> Learning: ...

    def describe(self) -> dict[str, Any]:
        """Return what, beside the settings, decides what is learned; the folder says it too."""
        ...

    def batch(self, update: int) -> Batch:
        """Return what an update learns from."""
        ...

    def step(self, batch: Batch, rate: float) -> Metrics:
        """Take one update at a learning rate; return what is worth logging."""
        ...

    def watch(self, batch: Batch) -> Metrics:
        """Return what shows how the features fare, without disturbing training."""
        ...

    def shown(self, batch: Batch) -> tuple[Mapping[str, Tensor], int]:
        """Return named images of a batch worth looking at, and how many frames each stacks."""
        ...

    def write(self, out: Path, update: int) -> None:
        """Write the folder of what has been learned."""
        ...


def count_updates(updates: int, epochs: int, epoch: int, default: int) -> int:
    """Return how many updates a training takes, of which an epoch has so many. Raises ConfigError for no length."""
    if (updates and epochs) or min(updates, epochs) < 0:
        raise ConfigError(f"updates={updates} and epochs={epochs} are no length: give one of them, above 0")
    return updates or epochs * epoch or default


def run_training(trainer: Trained, total: int, out: Path, processes: Processes = ONE) -> int:
    """Train for so many updates, or go on where `out` stopped; return the exit status."""
    check_place(out, training=True)
    lock = alone(out / TRAINING / ".lock", f"another process trains in {out}: wait for it or give another out")
    with lock if processes.main else nullcontext():
        processes.wait()
        return Session(trainer, total, out, processes).run()


class _Silent:
    """The logger and the progress of a process that is not the main one."""

    def __getattr__(self, name: str) -> Any:
        return lambda *_, **__: None


class Session:
    """One start of a training in its folder."""

    def __init__(self, trainer: Trained, total: int, out: Path, processes: Processes):
        self.trainer, self.total, self.out, self.processes = trainer, total, out, processes
        self.place = out / TRAINING
        self.checkpoints = Checkpoints(self.place / "checkpoints")
        self.stop = StopRequest("stopping after this update; once more stops at once")
        self.identity = identity(dataclasses.asdict(trainer.settings) | {"updates": total} | trainer.describe())
        self.update, self.saved, self.warned = 0, -1, False

    def run(self) -> int:
        """Train to the end, or to a signal; return the exit status, 128 + the signal's number where one asked."""
        prepare_torch(self.trainer.settings.threads)
        state = self.checkpoints.load(check=self._check)
        if state is not None:
            self.trainer.load_state_dict(state["trainer"])
            self.update = self.saved = state["update"]
        if self.update == self.total:
            mended = self._mend()
            self._tell(f"{self.out} is finished: {self.total:,} updates{mended}")
            return 0
        self.watch = Stopwatch(state["seconds"] if state else 0.0, self._clock.frame)
        with (
            closing(self._make_logger(state)) as self.logger,
            self.stop.listening(),
            closing(self._make_progress()) as self.progress,
        ):
            self._loop()
        if self.update < self.total:
            self._tell(f"stopped after {self.update:,} updates; the same command goes on")
            return 128 + self.stop.signal
        return 0

    def _mend(self) -> str:
        """Write what was trained anew where its folder is not as it was written; say so."""
        if not self.processes.main:
            return ""
        try:
            described, _ = read_folder(self.out)
            part_files(self.out, described)
        except (EncoderError, OSError):
            self.trainer.write(self.out, self.update)
            return "; its folder was damaged and is written anew"
        return ""

    def _tell(self, text: str) -> None:
        if self.processes.main:
            print(text, file=sys.stderr)

    def _make_progress(self) -> Any:
        return Progress(self.total, initial=self.update, unit="update") if self.processes.main else _Silent()

    def _make_logger(self, state: Mapping[str, Any] | None) -> Any:
        if not self.processes.main:
            return _Silent()
        start = surroundings() | {"seed": self.trainer.settings.seed}
        log = {"resume": state and state["log"], "tables": ("train.csv",)}
        logger = RunLogger(self.place, make_origin(start, "", 0), **log)
        write_metadata(self.place, start)
        return logger

    def _check(self, state: Mapping[str, Any]) -> None:
        holder = f"{self.out} holds a {state['kind']}"
        if state["kind"] != self.trainer.kind:
            raise ConfigError(f"{holder}, and this is a {self.trainer.kind}: give another out")
        mend = "go on with the same settings and frames, or give another out"
        check_same(state["identity"], self.identity, holder, mend)

    @property
    def _clock(self) -> Clock:
        return Clock(self.update, self.update * self.trainer.settings.batch_size, self.update)

    def _loop(self) -> None:
        trainer, settings = self.trainer, self.trainer.settings
        while self.update < self.total and not self.processes.any(self.stop()):
            if self.update % settings.checkpoint_every == 0 and self.saved != self.update:
                self._save()
            batch = trainer.batch(self.update)
            trainer.means.add(trainer.step(batch, rate(settings, self.update, self.total)))
            self.update += 1
            self.progress.update(self.update)
            if self.update % settings.log_every == 0 or self.update == self.total:
                self._log(batch)
        if self.saved != self.update:
            self._save()

    def _log(self, batch: Batch) -> None:
        if self.processes.main:
            self.trainer.means.add(self.trainer.watch(batch))
        means = self.trainer.means.take()
        raise_on_nonfinite(means, self._clock, "learning_rate or precision=float32 with another out")
        self.logger.scalars(self._clock, {**means, "frames_per_second": self.watch.speed(self._clock.frame)})
        if (rank := means.get("feature_rank", math.inf)) < _COLLAPSED and not self.warned:
            self.warned = True
            self.progress.note(
                f"warning: the features have collapsed after {self.update:,} updates (effective rank {rank:.1f}): "
                "lower learning_rate, or choose another objective or augmentation"
            )

    def _save(self) -> None:
        raise_on_nonfinite(self.trainer.means.peek(), self._clock, "learning_rate with another out")
        self.saved = self.update
        if not self.processes.main:
            return
        images, stack = self.trainer.shown(self.trainer.batch(max(0, self.update - 1)))
        self.logger.views(self._clock, images, stack)
        self.logger.flush()
        self.trainer.write(self.out, self.update)
        state = {"update": self.update, "identity": self.identity, "trainer": self.trainer.state_dict()}
        state["kind"] = self.trainer.kind
        self.checkpoints.save(self.update, {**state, "log": self.logger.state_dict(), "seconds": self.watch.seconds()})


def rate(settings: Learning, update: int, total: int) -> float:
    """Return the learning rate of an update: it rises in a line, then falls as half a cosine."""
    rising = math.ceil(settings.warmup * total)
    if update < rising:
        return settings.learning_rate * (update + 1) / rising
    return settings.learning_rate * (1 + math.cos(math.pi * (update - rising) / max(1, total - rising))) / 2
