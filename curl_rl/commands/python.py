"""What a program calls: `train` and `load_run`, in the settings and with the checks of `curl-rl train`."""

import copy
import importlib
import inspect
import re
import shlex
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import cached_property, partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeAlias

import gymnasium as gym
import numpy as np

from curl_rl.config.difference import LOCAL
from curl_rl.config.schema import Config
from curl_rl.envs import EnvError, offer
from curl_rl.options import quoted, shown
from curl_rl.representation.export import ExportedEncoder, export_run, load_encoder
from curl_rl.run.caller import Caller
from curl_rl.run.documents import CONFIG, read_settings
from curl_rl.run.logger import EVAL_COLUMNS
from curl_rl.run.player import Player, make_stacked
from curl_rl.run.playing import evaluate_run, load_agent
from curl_rl.run.records import Evaluation, read_run
from curl_rl.run.restart import begin_anew
from curl_rl.run.stored import configure, load_config
from curl_rl.run.trackers import Callback
from curl_rl.run.trainer import train as train_run
from curl_rl.types import Clock, ConfigError, Episode, Origin

Maker: TypeAlias = Callable[..., gym.Env]

_COMPOSING = threading.Lock()  # Hydra has one state for all threads
_NAMING = threading.Lock()
_TRAINING: dict[str, list[Maker]] = {}  # what makes the environments of the runs that train now, one each, by name


def train(
    *,
    task: str | None = None,
    env: gym.Env | Maker | Mapping[str, Any] | None = None,
    callback: Callback | None = None,
    progress: bool = True,
    restart: bool = False,
    **settings: Any,
) -> "TrainedRun":
    """Train, or go on with, a run in this process, and return it.

    Args:
        task: what to learn, as on the command line.
        env: an environment of your own instead: a class or a function that makes one, or one that is copied. A mapping
            is the settings of that name, as `env={"image_size": 64}`.
        callback: called as `callback(clock, metrics)` with every row of metrics, evaluations too; what it raises stops
            the run with a checkpoint, and is raised here.
        progress: whether a bar or lines are shown; what is said once, such as the replay's size, is said anyway.
        restart: whether the run begins anew; what it held is kept in its folder, in before-1, before-2 and so on.
        settings: those of `curl-rl train` by their names; nested ones as mappings, or as `**{"agent.hidden_dim": 64}`.

    Raises curl_rl.Error for what the command line refuses, KeyboardInterrupt where Ctrl-C or a notebook's stop ended
    the run. The same call goes on from its checkpoint.
    """
    for name, value in (("restart", restart), ("progress", progress)):
        if not isinstance(value, bool):
            raise ConfigError(f"{name} must be true or false, got {value!r}")
    _check_callback(callback)
    if isinstance(env, Mapping):
        settings, env = {**settings, "env": env}, None
    if task is not None and env is not None:
        raise ConfigError(f"task={task} and env are both what to learn: give one of them")
    given = ({} if task is None else {"task": task}) | _flat(settings)
    with ExitStack() as held:
        own = {} if env is None else held.enter_context(_offered(env, given))
        with _COMPOSING:
            config = configure([f"{key}={_word(key, value)}" for key, value in (own | given).items()], restart=restart)
        _check_thread(config)
        caller = Caller(command=_command(given, config), callback=callback, progress=progress)
        status = begin_anew(config, caller) if restart else train_run(config, caller)
    if status == 130:
        raise KeyboardInterrupt
    if status:
        raise SystemExit(status)
    return TrainedRun(config.run_dir)


def load_run(run_dir: str | Path, *, env: gym.Env | Maker | None = None) -> "TrainedRun":
    """Return the run that lives in a folder.

    Args: env, of a run that was trained with one: what makes it, or one that is copied.

    Raises curl_rl.Error where there is no run, or its configuration is damaged.
    """
    if not isinstance(run_dir, str | Path):
        raise ConfigError(f"run_dir is a {type(run_dir).__name__}: give the folder of a run")
    try:
        task = str(read_settings(Path(run_dir))["task"])
    except FileNotFoundError as error:
        raise ConfigError(f"{error}: give the folder of a run") from None
    if env is not None:
        if not task.startswith("own/"):
            raise ConfigError(f"the run in {run_dir} is of {task}, which has its own environment: leave env out")
        offer(task.removeprefix("own/"), _maker(env))
    return TrainedRun(run_dir)


class TrainedRun:
    """A run that lives in a folder; nothing is read before it is asked for.

    `evaluate` plays the newest checkpoint, `agent` and `encoder` are of the one that was newest when first asked for.
    """

    def __init__(self, run_dir: str | Path):
        self.path = Path(run_dir)

    def __repr__(self) -> str:
        return f"TrainedRun({str(self.path)!r})"

    @property
    def config(self) -> Config:
        return load_config(self.path)

    @property
    def finished(self) -> bool:
        """Whether the whole budget was trained and its last evaluation is complete."""
        return read_run(self.path).finished

    @property
    def evaluations(self) -> tuple[Evaluation, ...]:
        return read_run(self.path).evaluations

    @property
    def results(self) -> Any:
        """Every row of eval.csv, an evaluation episode each, as a pandas frame; `evaluations` needs no pandas."""
        try:
            pandas = importlib.import_module("pandas")
        except ImportError as error:
            raise ConfigError(
                f"run.results needs pandas ({error}): pip install pandas, or read run.evaluations"
            ) from error
        if not read_run(self.path).evaluations:  # which also says what is wrong with a damaged table
            return pandas.DataFrame(columns=list(EVAL_COLUMNS))
        rows = pandas.read_csv(self.path / "eval.csv", dtype=dict.fromkeys(Origin._fields, str))
        return rows.fillna(dict.fromkeys(Origin._fields, ""))

    @cached_property
    def agent(self) -> Player:
        return Player(load_agent(self.path, "auto"), self.config)

    @cached_property
    def encoder(self) -> ExportedEncoder:
        with TemporaryDirectory() as place:
            return load_encoder(self.export(Path(place, "encoder")))

    def make_env(self) -> gym.Env:
        """Return its environment, which gives what `agent.act` takes and takes what that returns."""
        return make_stacked(self.config)

    def evaluate(
        self, episodes: int | None = None, *, video: str | Path | None = None, seed: int = 0, device: str = "auto"
    ) -> list[Episode]:
        """Play episodes without exploring, as many as the run's last evaluation if no number is given.

        Args: video, a file, .mp4 or .gif, for a film of the first; seed, of the episodes.
        """
        count = None if episodes is None else _whole("episodes", episodes, 1, 10_000)
        film = None if video is None else Path(video)
        return evaluate_run(self.path, count, film, _whole("seed", seed, 0, 2**63 - 1), device)

    def export(self, out: str | Path) -> Path:
        """Write its encoder as a folder that `curl_rl.load_encoder` reads; return that."""
        try:
            return export_run(self.path, out)
        except (FileNotFoundError, FileExistsError) as error:
            raise ConfigError(str(error)) from error


@contextmanager
def _offered(env: gym.Env | Maker, given: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Make an environment of the program's own known while a run trains, and after; give the settings that name it.

    A run that is there already keeps the name that it was begun with, and needs no other setting.
    """
    if given.get("env.overlap"):
        raise ConfigError(
            "env.overlap=true steps in another process, which does not know what this program made: leave it out, or "
            "give task='package.module:Class'"
        )
    maker, title = _maker(env), re.sub(r"\W", "", getattr(env, "__name__", type(env).__name__))
    begun = _begun(given)
    name = begun or (title if title not in ("", "lambda") else "env")
    with _NAMING:
        running = _TRAINING.setdefault(name, [])
        if any(other is not maker for other in running):
            raise ConfigError(
                f"another environment named {name} trains in this process: give its function another name"
            )
        running.append(maker)
    try:
        task = offer(name, maker)
        yield {} if begun and given.keys() <= set(LOCAL) else {"task": task, "env.overlap": False}
    finally:
        with _NAMING:
            running.remove(maker)


def _begun(given: Mapping[str, Any]) -> str:
    """Return the name of the environment of the run that is there already, "" where there is none of a program's."""
    run_dir = str(given.get("run_dir") or "")
    if not run_dir or not Path(run_dir, CONFIG).is_file():
        return ""
    suite, _, name = str(read_settings(Path(run_dir))["task"]).partition("/")
    return name if suite == "own" else ""


def _maker(env: gym.Env | Maker) -> Maker:
    """Return what makes environments like one, or is given for that. Raises EnvError where nothing can."""
    if not isinstance(env, gym.Env):
        if callable(env):
            return env
        raise EnvError(f"env is a {type(env).__name__}: give a gymnasium.Env, its class, or a function that makes it")
    try:
        if (spec := env.spec) is not None:
            gym.make(spec).close()
            return partial(gym.make, spec)
    except Exception:  # a wrapper that cannot be made again: the environment is copied as it is
        pass
    try:
        pristine = copy.deepcopy(env)
    except Exception as error:
        raise EnvError(
            f"evaluation needs environments beside the one that trains, and this one cannot be copied ({error}): give "
            "a function that makes it"
        ) from error
    return lambda: copy.deepcopy(pristine)


def _flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return settings by their dotted names. Raises ConfigError for one that is given twice."""
    found: dict[str, Any] = {}
    for name, value in settings.items():
        inner = _flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
        if twice := inner.keys() & found.keys():
            raise ConfigError(f"{min(twice)} is given twice: leave one of them out")
        found |= inner
    return found


def _check_callback(callback: Any) -> None:
    """Raise ConfigError for what cannot be called as `callback(clock, metrics)`, which a run would find out late."""
    if callback is None:
        return
    try:
        inspect.signature(callback).bind(Clock(), {})
    except TypeError as error:
        raise ConfigError(f"callback={callback!r} cannot be called as callback(clock, metrics): {error}") from None
    except ValueError:  # one of C's, which does not tell
        pass


def _whole(name: str, value: Any, least: int, most: int) -> int:
    """Return a whole number. Raises ConfigError for another kind, or one out of bounds."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or not least <= value <= most:
        raise ConfigError(f"{name} must be a whole number from {least} to {most}, got {value!r}")
    return int(value)


def _word(key: str, value: Any) -> str:
    """Return a value as the command line takes it."""
    value = value.item() if isinstance(value, np.generic) else value
    if isinstance(value, list | tuple):
        return f"[{','.join(_word(key, each) for each in value)}]"
    if isinstance(value, str | Path):
        return quoted(str(value))
    if value is None or isinstance(value, bool | int | float):
        return shown(value)
    raise ConfigError(f"{key} is a {type(value).__name__}: give a number, a word or a list, as on the command line")


def _check_thread(config: Config) -> None:
    """Raise ConfigError for a simulator that would draw in a thread of its own: OpenGL's contexts are of one thread."""
    draws = config.task.startswith("dmc/") and config.env.obs != "state" and not config.env.overlap
    if draws and threading.current_thread() is not threading.main_thread():
        raise ConfigError(f"env.overlap=false draws {config.task} in this thread: set env.overlap=true")


def _command(given: Mapping[str, Any], config: Config) -> str:
    """Return what does this again: a command, or for an environment of the program's own the call."""
    named = {**given, "run_dir": config.run_dir}
    if config.task.startswith("own/"):
        told = {key: str(value) if isinstance(value, Path) else value for key, value in named.items()}
        return f"curl_rl.train(env=..., **{told!r})"
    return shlex.join(["curl-rl", "train", *(f"{key}={_word(key, value)}" for key, value in named.items())])
