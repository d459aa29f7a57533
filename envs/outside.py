"""Environments that nobody here wrote: of Gymnasium's registry, of a module of the user's own, or of a program."""

import contextlib
import difflib
import functools
import importlib
import inspect
import sys
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.wrappers import FlattenObservation, TimeLimit, TransformObservation

from curl_rl.envs.answers import OLD, Answers, Rendered
from curl_rl.envs.errors import EnvError
from curl_rl.envs.images import SquareFrames, is_image
from curl_rl.envs.spaces import CUT, AgentSpaces, check_actions, check_declared

ENDLESS = 10_000  # environment steps after which an episode is cut that has no limit of its own

Maker = Callable[..., gym.Env]

_OFFERED: dict[str, Maker] = {}


def offer(name: str, maker: Maker) -> str:
    """Make what makes an environment known in this process, and return its task, "own/<name>"."""
    if not name.replace("_", "").replace("-", "").replace(".", "").isalnum():
        raise EnvError(f"{name!r} cannot name an environment: use letters, digits, '-', '_' and '.'")
    _OFFERED[name] = maker
    is_discrete.cache_clear()  # another one had that name, perhaps
    return f"own/{name}"


def find_gym(name: str) -> str:
    """Return a registered id with its version, and its module where it names one. Raises EnvError for another."""
    module, colon, known = name.rpartition(":")
    try:
        spec = _spec(name)
    except (Exception, SystemExit) as error:  # a module may fail in any way
        raise EnvError(
            f"gym/{name} cannot be made ({error}){_nearest(known) if isinstance(error, gym.error.Error) else ''}: give "
            "gym/<id>, gym/<module>:<id>, whose module registers it, or a class as package.module:Class"
        ) from error
    return f"{module}{colon}{spec.id}"


def _spec(name: str) -> Any:
    """Return what is registered under an id, after its module, where it names one, was imported."""
    module, _, known = name.rpartition(":")
    _look_here()
    if module:
        importlib.import_module(module)
    return gym.spec(known)


def _nearest(known: str) -> str:
    """Return the registered ids that are most like one that is not, as a part of a line."""
    ids = {each.lower(): each for each in gym.registry}
    close = difflib.get_close_matches(known.lower(), ids, cutoff=0.7)
    return f"; nearest: {', '.join(f'gym/{ids[each]}' for each in close)}" if close else ""


def _look_here() -> None:
    """Let modules of the current folder be found too, those of environments and those that registered ones name."""
    if "" not in sys.path:
        sys.path.append("")


def find_own(name: str) -> str:
    """Return "package.module:Class", or the name of what was offered. Raises EnvError where there is none."""
    if ":" in name:
        _own(name)
    elif name not in _OFFERED:
        raise EnvError(
            f"own/{name} was made by a program, and is not known in this one: give it again, as "
            "curl_rl.train(env=..., run_dir=...), or name a class as task=package.module:Class"
        )
    return name


def make_outside(
    suite: str,
    name: str,
    *,
    obs: str = "pixels",
    image_size: int = 64,
    key: str = "",
    action_repeat: int = 1,
    max_steps: int = 0,
) -> gym.Env:
    """Make an environment of `suite` "gym" or "own", as an agent here sees it.

    Args:
        obs: "pixels", its own images; "render", what it draws; "state", all that it observes as one vector.
        image_size: side of the frames.
        key: of a Dict of observations.
        action_repeat: environment steps of one action, whose rewards are added up.
        max_steps: environment steps after which an episode is truncated; 0: its own limit, 10,000 where it has none.

    Raises EnvError, with what was seen and what is needed.
    """
    made = _made(suite, name, max_steps)
    try:
        check_actions(made.action_space)
        env = Answers(made, name)
        if max_steps or not (env.spec and env.spec.max_episode_steps):
            env = Limit(env, max_steps or ENDLESS, told=not max_steps)
        env = ActionRepeat(env, action_repeat) if action_repeat > 1 else env
        env = _seen(name, env, obs, image_size, key)
        _play_once(env)
        return env
    except BaseException as error:
        made.close()
        if isinstance(error, EnvError) or not isinstance(error, Exception):
            raise
        raise EnvError(f"{name} cannot be played ({type(error).__name__}: {error}): {OLD}") from error


@functools.cache
def is_discrete(suite: str, name: str) -> bool:
    """Return whether an environment's actions are one number; makes it once."""
    env = _made(suite, name, 0)
    try:
        return isinstance(env.action_space, gym.spaces.Discrete)
    finally:
        env.close()


def _made(suite: str, name: str, max_steps: int) -> gym.Env:
    """Return an environment as it comes, with another time limit where it is registered."""
    try:
        if suite == "gym":
            entry = _spec(name).entry_point
            options = _drawing(entry if callable(entry) else gym.envs.registration.load_env_creator(entry))
            env = gym.make(name, max_episode_steps=max_steps or None, disable_env_checker=True, **options)
        else:
            maker = _own(name)
            env = maker(**_drawing(maker))
    except EnvError:
        raise
    except Exception as error:
        raise EnvError(f"{name} cannot be made ({type(error).__name__}: {error})") from error
    if not isinstance(env, gym.Env):
        raise EnvError(f"{name} made {type(env).__module__}.{type(env).__name__}, which is no gymnasium.Env: {OLD}")
    for which in ("observation_space", "action_space"):
        if not isinstance(space := getattr(env, which, None), gym.Space):
            env.close()
            raise EnvError(f"{name} has the {which} {space!r}: set self.{which} to one of gymnasium.spaces")
    limit = env.spec.max_episode_steps if env.spec else None
    if limit and max_steps > limit:
        env.close()
        raise EnvError(f"env.max_steps={max_steps} has no effect: {name} ends its episodes after {limit} steps itself")
    return env


def _play_once(env: gym.Env) -> None:
    """Reset and step as an agent here would, so that what cannot be is refused before anything else is done."""
    seen = AgentSpaces(env)
    seen.reset(seed=0)
    seen.action_space.seed(0)
    seen.step(seen.action_space.sample())


class Limit(TimeLimit):
    """Truncates episodes; where nobody asked for the limit, `told`, the last step's info says so."""

    def __init__(self, env: gym.Env, max_episode_steps: int, *, told: bool):
        gym.utils.RecordConstructorArgs.__init__(self, max_episode_steps=max_episode_steps, told=told)
        TimeLimit.__init__(self, env, max_episode_steps)
        self._steps, self._told = max_episode_steps, told

    def step(self, action: Any):
        """Step, and truncate at the limit."""
        observation, reward, terminated, truncated, info = super().step(action)
        if truncated and not terminated and self._told and self._elapsed_steps == self._steps:
            info = {**info, CUT: self._steps}
        return observation, reward, terminated, truncated, info


class ActionRepeat(gym.Wrapper, gym.utils.RecordConstructorArgs):
    """Holds an action for several steps, or to the episode's end, and adds up the rewards."""

    def __init__(self, env: gym.Env, count: int):
        gym.utils.RecordConstructorArgs.__init__(self, count=count)
        gym.Wrapper.__init__(self, env)
        self._count = count

    def step(self, action: Any):
        """Step until the count or the episode ends."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        total = reward
        for _ in range(self._count - 1):
            if terminated or truncated:
                break
            observation, reward, terminated, truncated, info = self.env.step(action)
            total += reward
        return observation, total, terminated, truncated, info


def _seen(name: str, env: gym.Env, obs: str, size: int, key: str) -> gym.Env:
    """Return an environment that shows what was asked for."""
    if obs == "render":
        if key:
            raise EnvError(f"env.key={key} has no effect with env.obs=render: leave it out, or set env.obs=pixels")
        if env.render_mode != "rgb_array":
            raise EnvError(
                f"env.obs=render needs the render mode rgb_array, and {name} has {env.metadata.get('render_modes')}: "
                "name it in its metadata and let its constructor take render_mode, or set env.obs=pixels or state"
            )
        return SquareFrames(Rendered(env, name), size)
    env = _keyed(name, env, key) if key or obs == "pixels" else env
    return SquareFrames(env, size) if obs == "pixels" else _flat(name, env)


def _keyed(name: str, env: gym.Env, key: str) -> gym.Env:
    """Return an environment of one of several observations, where a key names one."""
    space = env.observation_space
    if not isinstance(space, gym.spaces.Dict):
        if key:
            raise EnvError(f"env.key={key} names one of a Dict's observations, and {name} has {space}: leave it out")
        return env
    if key in space.spaces:
        return TransformObservation(env, lambda observation: observation[key], space[key])
    known = ", ".join(space.spaces) or "nothing"
    images = ", ".join(each for each, inner in space.spaces.items() if is_image(inner)) or "none"
    raise EnvError(
        f"{name} observes a Dict of {known} (images: {images}), and env.key={key!r} is none of them: "
        "give env.key=<one>, or set env.obs=render"
    )


def _flat(name: str, env: gym.Env) -> gym.Env:
    """Return an environment whose observation is one vector of floats."""
    own: Any = env.observation_space
    if isinstance(own, gym.spaces.Box):  # before its shape is flattened, and its type is cast
        env = TransformObservation(env, functools.partial(check_declared, space=own), own)
    if not (isinstance(own, gym.spaces.Box) and len(own.shape) == 1):
        with contextlib.suppress(NotImplementedError, ValueError):  # of a space unknown to Gymnasium, of an empty one
            env = FlattenObservation(env)
    space = env.observation_space
    if not (isinstance(space, gym.spaces.Box) and len(space.shape) == 1):
        raise EnvError(f"env.obs=state needs a fixed count of numbers, and {name} observes {own}: wrap it")
    if not np.issubdtype(space.dtype, np.floating):
        low, high = space.low.astype(np.float32), space.high.astype(np.float32)
        env = TransformObservation(env, np.float32, gym.spaces.Box(low, high, dtype=np.float32))
    return env


def _own(name: str) -> Maker:
    """Return what makes an environment of the user's own: what was offered, or a class or function of a module."""
    if name in _OFFERED:
        return _OFFERED[name]
    module, _, title = name.partition(":")
    _look_here()
    try:
        maker = getattr(importlib.import_module(module), title, None)
    except (Exception, SystemExit) as error:
        raise EnvError(
            f"task={name}: {module} cannot be imported ({type(error).__name__}: {error}): mend it, or start where it "
            "lies"
        ) from error
    if not callable(maker):
        raise EnvError(f"task={name}: {module} has no class or function {title!r} that makes an environment")
    return maker


def _drawing(maker: Any) -> dict[str, str]:
    """Return what tells the maker of an environment that it shall draw arrays, nothing where it cannot."""
    takes = inspect.signature(maker).parameters.values()
    named = any(each.name == "render_mode" for each in takes)
    able = named or any(each.kind == each.VAR_KEYWORD for each in takes)
    modes = getattr(maker, "metadata", {}).get("render_modes", ["rgb_array"] if named else [])
    return {"render_mode": "rgb_array"} if able and "rgb_array" in modes else {}
