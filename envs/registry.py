"""Tasks by name: the table of suites, and what is asked of a task without its simulator."""

import dataclasses
import difflib
import hashlib
import inspect
import json
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, NamedTuple

import gymnasium as gym

from curl_rl.envs import atari, console, dmc, outside, toy
from curl_rl.envs.errors import EnvError


class Suite(NamedTuple):
    """What a suite's module gives; none of it imports a simulator before an environment is made."""

    tasks: Callable[[], Iterable[str]]
    makes: Callable[[str], Callable[..., gym.Env]]  # of a task's name, what takes settings by keyword
    find: Callable[[str], str | None] = str  # the listed name for any accepted spelling
    measured: Callable[[str], Any] | None = None  # the dataclass of a named protocol that decides what is measured
    make_lanes: Callable[..., list[atari.AtariLane]] | None = None
    tells_state: Callable[[str], bool] = lambda _: True  # of a task's name
    listed: bool = True  # whether it has the tasks that it lists alone; else `find` says what is one


def _outside(suite: str, find: Callable[[str], str]) -> Suite:
    """Return the row of a suite of environments that nobody here wrote."""
    make = partial(outside.make_outside, suite)
    return Suite(lambda: (), lambda name: partial(make, name), find=find, tells_state=lambda _: False, listed=False)


SUITES: dict[str, Suite] = {
    "atari": Suite(
        atari.games,
        lambda game: partial(console.make_game, game),
        find=atari.find_game,
        measured=atari.find_protocol,
        make_lanes=atari.make_lanes,
        tells_state=console.tells_state,
    ),
    "dmc": Suite(lambda: dmc.TASKS, lambda task: partial(dmc.DmcEnv, task)),
    "toy": Suite(lambda: toy.TASKS, lambda task: toy.TASKS[task]),
    "gym": _outside("gym", outside.find_gym),
    "own": _outside("own", outside.find_own),
}


def list_tasks() -> list[str]:
    """Return every task that `make_env` knows; imports no simulator."""
    return [f"{name}/{task}" for name, suite in SUITES.items() for task in suite.tasks()]


def canonical_task(task: str) -> str:
    """Return the listed name of a task: "atari/ms_pacman" for "atari/MsPacman", every other name as it is.

    Raises EnvError with the nearest names for an unknown task.
    """
    suite, name = _find(task)
    return name if ":" in name and suite == "own" else f"{suite}/{name}"


def split_task(task: str) -> tuple[str, str]:
    """Return a task's suite and its name there: "own" of "package.module:Class", else what stands before the slash."""
    suite, _, name = task.partition("/")
    return ("own", task) if ":" in suite else (suite, name)


def is_discrete(task: str) -> bool:
    """Return whether the actions of a task outside the listed suites are one number; makes its environment once."""
    return outside.is_discrete(*_find(task))


def make_env(task: str, **settings: Any) -> gym.Env:
    """Create the environment of `task`, e.g. "dmc/ball_in_cup_catch", "atari/ms_pacman" or "gym/CarRacing-v3".

    All take `obs="pixels"|"state"` (Atari only pixels) and `image_size`; `dmc` also `camera`, `action_repeat`,
    `time_limit` and distractions, `atari` also `protocol`; `dmc` and `toy` also `labels`, which puts a frame's label
    map into `info`; these and Atari also `state`, which puts the simulator's quantities there, by their names (see
    `tells_state`). What others take is said by `make_outside`.
    Pixels are one frame uint8: (1, 84, 84) of Atari, else (3, H, W). Raises EnvError for an unknown task, with the
    nearest names, and for settings that the environment cannot have.
    """
    suite, name = _find(task)
    return SUITES[suite].makes(name)(**settings)


def make_lanes(task: str, count: int, threads: int, **settings: Any) -> list[atari.AtariLane]:
    """Create `count` environments in this process, of which `threads` step at once; each is used like a LocalEnv.

    An empty list where the suite has none that can.
    """
    suite, name = _find(task)
    make = SUITES[suite].make_lanes
    return make(name, count, threads, **settings) if make else []


def tells_state(task: str) -> bool:
    """Return whether the environment of a task can give the simulator's quantities; imports no simulator."""
    suite, name = _find(task)
    return SUITES[suite].tells_state(name)


def protocol(task: str, **settings: Any) -> dict[str, Any]:
    """Return what an environment made with these settings measures, as plain JSON values; imports no simulator.

    The fields of the suite's named protocol where it has such, else the suite's name and its settings, each that is
    left out at its default; those of distractions only where there are some. "hash" is the first 12 hex digits of the
    SHA-256 of the rest as JSON with sorted keys.
    Raises TypeError for a setting that the environment does not take.
    """
    suite, name = _find(task)
    parameters = inspect.signature(SUITES[suite].makes(name)).parameters.values()
    known = {each.name: each.default for each in parameters if each.kind == each.KEYWORD_ONLY}
    if unknown := sorted(settings.keys() - known):
        raise TypeError(f"{task} takes {', '.join(known)}, not {', '.join(unknown)}")
    fields = {"name": suite, **known, **settings}
    unmeasured = {"render_mode", "labels", "state"}
    if not fields.get("distraction"):
        unmeasured |= {name for name in fields if name.startswith("distraction")}
    fields = {name: value for name, value in fields.items() if name not in unmeasured}
    if measured := SUITES[suite].measured:
        fields = dataclasses.asdict(measured(fields["protocol"]))
    text = json.dumps(fields, sort_keys=True, separators=(",", ":"))
    return {**fields, "hash": hashlib.sha256(text.encode()).hexdigest()[:12]}


def _find(task: str) -> tuple[str, str]:
    """Return a task's suite and its listed name there."""
    suite, spelling = split_task(str(task))
    if suite == "own" and ":" in spelling and spelling != str(task):
        raise EnvError(f"own/ stands before what a program made, and {spelling} is a class: write task={spelling}")
    name = SUITES[suite].find(spelling) if suite in SUITES else None
    if name is None or (SUITES[suite].listed and name not in SUITES[suite].tasks()):
        raise EnvError(_unknown(task))
    return suite, name


def _unknown(task: str) -> str:
    tasks = list_tasks()
    # Compared without case and with the suite left out too: "cartpole-swingup" should find "dmc/cartpole_swingup".
    keys = {key.lower(): name for name in tasks for key in (name, name.split("/")[1])}
    near = difflib.get_close_matches(str(task).lower(), keys, n=5, cutoff=0.5)
    names = list(dict.fromkeys(keys[key] for key in near))
    hint = f"; nearest: {', '.join(names[:3])}" if names else ""
    own = "one of your own is package.module:Class"
    return f"unknown task {task!r}{hint} (envs.list_tasks() lists all {len(tasks)}; {own})"
