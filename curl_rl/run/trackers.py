"""Whom a run tells its rows of metrics besides its own files: a callback, Weights & Biases, MLflow."""

import importlib
import os
import secrets
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol, TypeAlias

from curl_rl.config.difference import flat
from curl_rl.config.schema import Config
from curl_rl.options import shown
from curl_rl.run.interrupts import StopRequest
from curl_rl.types import Clock, ConfigError

Callback: TypeAlias = Callable[[Clock, Mapping[str, float]], object]  # of every row; what it returns is not looked at

_PROJECT = "curl-rl"  # where neither service's own variable names another
_BATCH = 100  # of MLflow's parameters: the most that a server takes at once


class Tracker(Protocol):
    """What is told every row; `id` finds it again on a resume."""

    id: str

    def scalars(self, clock: Clock, values: Mapping[str, float], /) -> object: ...

    def close(self) -> None: ...


class Audience:
    """The trackers of a run, by name. An exception of one asks for a stop, and is raised by `close`.

    So a run ends with a checkpoint of a whole step, whatever they do.
    """

    def __init__(self, trackers: Mapping[str, Tracker] | None = None, stop: StopRequest | None = None):
        self._trackers, self._stop = trackers or {}, stop or StopRequest()

    def scalars(self, clock: Clock, values: Mapping[str, float]) -> None:
        """Tell everyone, but none after the first exception."""
        for tracker in self._trackers.values():
            if self._stop.error is None:
                try:
                    tracker.scalars(clock, values)
                except BaseException as error:
                    self._stop.error = error

    def state_dict(self) -> dict[str, str]:
        return {name: tracker.id for name, tracker in self._trackers.items() if tracker.id}

    def close(self) -> None:
        for tracker in self._trackers.values():
            tracker.close()
        if self._stop.error is not None:
            raise self._stop.error


def open_audience(
    config: Config, state: Mapping[str, str], callback: Callback | None = None, stop: StopRequest | None = None
) -> Audience:
    """Begin to tell whom a configuration and the caller name. Raises ConfigError where a service is not to be had.

    Args: state, of the audience at the save from which the run goes on.
    """
    trackers: dict[str, Tracker] = {}
    if callback is not None:
        trackers["callback"] = Told(callback)
    for name, service in (("wandb", Wandb), ("mlflow", Mlflow)):
        if getattr(config.log, name):
            trackers[name] = service(config, state.get(name, ""))
    return Audience(trackers, stop)


class Told:
    """A callback as a tracker."""

    id = ""

    def __init__(self, callback: Callback):
        self.scalars = callback

    def close(self) -> None:
        pass


class Wandb:
    """A run of Weights & Biases, whose own variables say where: WANDB_PROJECT, WANDB_ENTITY, WANDB_MODE, WANDB_DIR."""

    def __init__(self, config: Config, known: str):
        wandb = _imported("wandb")
        self.id = known or secrets.token_hex(4)
        options = {"project": os.environ.get("WANDB_PROJECT", _PROJECT), "name": Path(config.run_dir).name}
        options["dir"] = os.environ.get("WANDB_DIR", config.run_dir)
        settings = wandb.Settings(console="off")  # it would take the place of standard error, which a run guards
        try:
            # A run of its own: another one in this process, of another thread or of the user's, goes on.
            self._run = wandb.init(
                **options, id=self.id, resume="allow", config=config.to_dict(), reinit="create_new", settings=settings
            )
        except wandb.Error as error:
            raise _refused("wandb", error, "log in with `wandb login`, or set WANDB_MODE=offline") from error

    def scalars(self, clock: Clock, values: Mapping[str, float]) -> None:
        # What a resume repeats is of a step that W&B has, and drops.
        self._run.log({**values, "frame": clock.frame, "update": clock.update}, step=clock.agent_step)

    def close(self) -> None:
        self._run.finish()


class Mlflow:
    """A run of MLflow, whose own variables say where: MLFLOW_TRACKING_URI, MLFLOW_EXPERIMENT_NAME."""

    def __init__(self, config: Config, known: str):
        mlflow = _imported("mlflow")
        self._metric, self._last = mlflow.entities.Metric, dict[str, int]()
        try:
            self._client = mlflow.MlflowClient()
            self.id = known or self._begin(config, mlflow.entities.Param)
            self._client.update_run(self.id, status="RUNNING")
            if known:
                self._last = {name: self._newest(name) for name in self._client.get_run(known).data.metrics}
        except mlflow.MlflowException as error:
            raise _refused("mlflow", error, "set MLFLOW_TRACKING_URI to where its runs are") from error

    def _begin(self, config: Config, param: Any) -> str:
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", _PROJECT)
        found = self._client.get_experiment_by_name(name)
        place = found.experiment_id if found else self._client.create_experiment(name)
        begun = self._client.create_run(place, run_name=Path(config.run_dir).name).info.run_id
        params = [param(key, shown(value)) for key, value in flat(config.to_dict()).items()]
        for i in range(0, len(params), _BATCH):
            self._client.log_batch(begun, params=params[i : i + _BATCH])
        return begun

    def _newest(self, name: str) -> int:
        return max(metric.step for metric in self._client.get_metric_history(self.id, name))

    def scalars(self, clock: Clock, values: Mapping[str, float]) -> None:
        now, step = int(time.time() * 1000), clock.agent_step
        told = {**values, "frame": clock.frame, "update": clock.update}
        new = [self._metric(key, float(value), now, step) for key, value in told.items() if step > self._since(key)]
        self._client.log_batch(self.id, metrics=new)

    def _since(self, name: str) -> int:
        """Return the step of a metric up to which a resume repeats what MLflow has."""
        return self._last.get(name, -1)

    def close(self) -> None:
        self._client.set_terminated(self.id)


def _imported(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ConfigError(f"log.{name}=true needs {name} ({error}): pip install 'curl-rl[{name}]'") from error


def _refused(name: str, error: Exception, mend: str) -> ConfigError:
    return ConfigError(f"log.{name}=true: {name} refuses ({error}): {mend}, or leave it out")
