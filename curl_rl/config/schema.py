"""The composed configuration: Hydra YAML and command-line overrides in, checked and frozen dataclasses out."""

import dataclasses
import math
import re
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from curl_rl.agents import AGENTS
from curl_rl.agents.schedule import Resets
from curl_rl.config import suites
from curl_rl.config.frozen import explaining, frozen, schema
from curl_rl.config.moved import check_moved
from curl_rl.config.preloaded import count_frames
from curl_rl.config.pretrained import check_start
from curl_rl.config.settings import (
    CheckpointConfig,
    EnvConfig,
    EvaluationConfig,
    LogConfig,
    PretrainedConfig,
    ReplayConfig,
)
from curl_rl.envs import EnvError, check_distraction, protocol
from curl_rl.nn.augmentations import AUGMENTATIONS
from curl_rl.nn.encoders import ENCODERS
from curl_rl.objectives import OBJECTIVES, check_needs
from curl_rl.options import LONGEST, Registry, check, kinds, option
from curl_rl.types import ConfigError

_GIVEN = frozenset({"order", "episodes", "actions", "rewards", "map"})  # of every run from pixels
GROUPS: dict[str, Registry] = {registry.kind: registry for registry in (AGENTS, AUGMENTATIONS, ENCODERS, OBJECTIVES)}


@dataclass(frozen=True, kw_only=True)
class Config:
    """One run. What `GROUPS` names holds the `Config` of the class that its name picks."""

    task: str = option("dmc/cartpole_swingup", "what to learn, as suite/name")
    preset: str = option("quick", "the suite's preset that the other values start from")
    seed: int = option(1, "of everything random in the run", at_least=0, at_most=2**63 - 1)
    run_dir: str = option("", "where the run lives; empty: runs/<task>/<preset>-<objective>-seed<seed>")
    device: str = option("auto", "auto (CUDA where there is one), cpu, cuda or cuda:N")
    threads: int = option(0, "CPU threads of an update; 0: measured at the start, then kept", at_least=0, at_most=1024)
    from_run: str = option("", "a run whose newest checkpoint this one starts from, with its encoder's architecture")
    from_part: str = option(
        "agent", "what of it, typed from=encoder: that alone; else networks and optimisers", one_of=("agent", "encoder")
    )
    budget_frames: int = option(100_000, "simulator frames to train for, repeats counted", at_least=1, at_most=LONGEST)
    random_steps: int = option(1000, "agent steps with random actions at the start", at_least=1, at_most=LONGEST)
    batch_size: int = option(128, "transitions of one update", at_least=1, at_most=4096)
    updates_per_step: int = option(1, "gradient updates for each agent step", at_least=1, at_most=1000)
    novelty: bool = option(False, "tell how unlike replayed frames those of evaluations are; they are encoded twice")
    env: EnvConfig = field(default_factory=EnvConfig)
    replay: ReplayConfig = field(default_factory=ReplayConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    log: LogConfig = field(default_factory=LogConfig)
    pretrained: PretrainedConfig = field(default_factory=PretrainedConfig)
    agent: Any
    augmentation: Any
    encoder: Any
    objective: Any

    def __post_init__(self) -> None:
        check(self)
        check_device(self.device)
        if self.env.action_repeat:  # else it is still left to the task
            _check_budget(self)
        _check_priorities(self)
        _check_frozen(self)
        check_start(self)
        check_capture(self, self.device)
        _check_distraction(self.env)
        _check_views(self)
        if self.objective.coefficient:
            _check_objective(self)

    @property
    def horizon(self) -> int:
        """How many agent steps the objective looks ahead; 0 where it is not computed."""
        return self.objective.horizon if self.objective.coefficient else 0

    def to_dict(self) -> dict[str, Any]:
        """Return plain Python that JSON can hold and `from_dict` reads."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Config":
        """Read what `to_dict` gave. Raises ConfigError for an unknown name, key or type."""
        if not isinstance(data, Mapping):
            raise ConfigError(f"a configuration is a mapping, got {type(data).__name__}")
        try:
            return from_node(to_node(data))
        except ConfigError:
            check_moved(data)
            raise


def check_device(device: str) -> None:
    """Raise ConfigError for what is no device's name; whether there is one is seen when it is taken."""
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", device):
        raise ConfigError(f"device={device!r} is none of auto, cpu, cuda, cuda:N")


def _check_budget(config: Config) -> None:
    """Refuse steps that the budget does not hold: of one action, of returns, and those that learn nothing."""
    budget, repeat, n_step = config.budget_frames, config.env.action_repeat, config.agent.n_step
    steps = math.ceil(budget / repeat)
    if repeat > budget:
        raise ConfigError(
            f"env.action_repeat={repeat} exceeds budget_frames={budget}: lower the one or raise the other"
        )
    if n_step + 2 > steps:
        raise ConfigError(
            f"agent.n_step={n_step} does not fit in the {steps} agent steps of budget_frames={budget}: lower the one "
            "or raise the other"
        )
    if config.random_steps <= n_step:
        raise ConfigError(
            f"random_steps={config.random_steps} leaves the first update nothing to learn from: raise it to "
            f"agent.n_step + 1 = {n_step + 1} or more"
        )
    if config.random_steps >= steps:
        raise ConfigError(
            f"random_steps={config.random_steps} leaves nothing of the {steps} agent steps of budget_frames={budget} "
            f"to learn in: lower random_steps, or raise budget_frames above {config.random_steps * repeat}"
        )


def _check_priorities(config: Config) -> None:
    """Refuse a sampler that would wait for priorities in vain, and priorities that no sampler reads."""
    if config.replay.sampler == "prioritized":
        if not AGENTS[config.agent.name].reports_priorities:
            others = " or ".join(f"agent={name}" for name, cls in AGENTS.items() if cls.reports_priorities)
            raise ConfigError(
                f"replay.sampler=prioritized has no effect with agent={config.agent.name}, which reports no "
                f"priorities: set replay.sampler=uniform, or choose {others}"
            )
    elif getattr(config.agent, "priority", "value") != "value":
        raise ConfigError(
            f"agent.priority={config.agent.priority} has no effect with replay.sampler={config.replay.sampler}: set "
            "replay.sampler=prioritized, or agent.priority=value"
        )


def _check_frozen(config: Config) -> None:
    """Refuse to reset an encoder that shall stay as it is."""
    resets = getattr(config.agent, "resets", None)
    if config.pretrained.freeze and resets and resets.every:
        raise ConfigError(
            f"agent.resets.every={resets.every} replaces a part of the encoder, and pretrained.freeze=true keeps it: "
            "set agent.resets.every=0, or pretrained.freeze=false"
        )


def check_capture(config: Config, device: str) -> None:
    """Raise ConfigError where a CUDA graph is asked for and the update runs on a CPU."""
    if config.agent.capture and device == "cpu":
        raise ConfigError(
            "agent.capture=true replays updates as CUDA graphs, and they run on the CPU here: set agent.capture=false"
        )


def _check_distraction(env: EnvConfig) -> None:
    """Refuse words that name no distraction, and one that nothing shows; its folder is read by the environment."""
    try:
        check_distraction(env.distraction, env.obs, env.camera)
    except EnvError as error:
        raise ConfigError(f"env.{error}") from None


def _check_views(config: Config) -> None:
    """Refuse what the agent cannot look at: a crop larger than the image, or crops of joint angles."""
    pixels, suite = ENCODERS[config.encoder.name].pixels, suites.SUITES[suites.suite_of(config.task)]
    if config.env.obs not in suite.views:
        views = " or ".join(suite.views)
        raise ConfigError(f"env.obs={config.env.obs} cannot be had of {config.task}: set env.obs={views}")
    if config.env.obs == "state":
        cropped = {name: getattr(config, name).name for name in ("objective", "augmentation")}
        odd = [f"encoder={config.encoder.name}"] * pixels + [f"{k}={v}" for k, v in cropped.items() if v != "none"]
        if odd:
            discrete = ", preset=rainbow_state where actions are discrete" if suite.discrete else ""
            raise ConfigError(
                f"env.obs=state has no pixels for {' '.join(odd)}: it needs encoder=state objective=none "
                f"augmentation=none; preset=state gives all of them{discrete}"
            )
        if config.agent.precision == "bf16":
            raise ConfigError(
                f"agent.precision={config.agent.precision} has no effect with env.obs=state, where nothing is "
                "convolved: leave it out"
            )
        return
    if not pixels:
        raise ConfigError("encoder=state reads joint angles, not pixels: add env.obs=state, or take preset=state")
    _check_augmentation(config)


def _check_augmentation(config: Config) -> None:
    """Refuse an augmentation that does not go with the images, or that nothing would see."""
    augmentation, averaged = config.augmentation, config.agent.averaging
    shows = AUGMENTATIONS[augmentation.name](augmentation)
    copies = {name: count for name in ("k", "m") if averaged and (count := getattr(averaged, name)) > 1}
    if copies and augmentation.name == "none":
        named = " and ".join(f"agent.averaging.{name}={count}" for name, count in copies.items())
        raise ConfigError(
            f"{named} would average over copies of one image with augmentation=none: choose an augmentation, or leave "
            "it out"
        )
    unseen = averaged and config.objective.coefficient == 0 and not (averaged.k or averaged.m)
    if unseen and not shows.rests:
        raise ConfigError(
            f"augmentation={augmentation.name} would augment nothing: objective=none has no views; set "
            "agent.averaging.k=1 agent.averaging.m=1 for the value loss to see it"
        )
    channels = 1 if suites.SUITES[suites.suite_of(config.task)].grey else 3
    shows.check(torch.zeros((2, channels, config.env.image_size, config.env.image_size), dtype=torch.uint8))


def _check_objective(config: Config) -> None:
    """Refuse what the objective cannot work with: a small batch, absent labels, a captured update."""
    objective = config.objective
    objective.check_batch(config.batch_size)
    if 0 < config.replay.capacity <= objective.horizon:
        raise ConfigError(
            f"objective={objective.name} looks {objective.horizon} steps ahead, and the replay keeps "
            f"{config.replay.capacity}: lower objective.steps or raise replay.capacity"
        )
    segmented = suites.SUITES[suites.suite_of(config.task)].labels == "segmentation"
    check_needs(objective, {*_GIVEN, "labels"} if segmented else _GIVEN, config.task)
    if config.agent.capture and not objective.capturable:
        raise ConfigError(f"objective={objective.name} works between updates too: set agent.capture=false")


@explaining()
def from_node(node: DictConfig) -> Config:
    """Return the frozen configuration of a composed one, with all that was left to the task made explicit."""
    return _resolved(built(to_node(typing.cast(dict[str, Any], OmegaConf.to_container(fitting(node))))))


def fitting(node: DictConfig) -> DictConfig:
    """Return a composed configuration without the options that a preset sets for other classes than the chosen ones."""
    kept = OmegaConf.masked_copy(node, list(node))
    for group, registry in GROUPS.items():
        known = kinds(registry[node[group].name].Config)
        others = {option for cls in registry.values() for option in kinds(cls.Config)} - known.keys()
        kept[group] = OmegaConf.masked_copy(node[group], [key for key in node[group] if key not in others])
    return kept


@explaining()
def to_node(data: Mapping[str, Any], root: type = Config) -> DictConfig:
    """Return plain data as a node that refuses unknown keys and wrong types, as a composed one does."""
    node = OmegaConf.structured(schema(root))
    for group in groups_of(root):
        node[group] = OmegaConf.structured(schema(GROUPS[group][data.get(group, {}).get("name")].Config))
    return typing.cast(DictConfig, OmegaConf.merge(node, dict(data)))


def groups_of(root: type) -> list[str]:
    """Return which of a schema's fields hold the options of a class that is chosen by name."""
    return [group for group in GROUPS if group in kinds(root)]


def built(node: DictConfig, root: type = Config) -> Any:
    """Return the frozen configuration of a node that `to_node` gave."""
    data = typing.cast(dict[str, Any], OmegaConf.to_container(node, resolve=True, throw_on_missing=True))
    for group in groups_of(root):
        data[group] = frozen(GROUPS[group][data[group]["name"]].Config, data[group], f"{group}.")
    return frozen(root, data)


def _resolved(config: Config) -> Config:
    """Make explicit what zeros, empty strings and `auto` leave to the task, the papers and the machine."""
    task, env, suite = config.task, config.env, suites.SUITES[suites.suite_of(config.task)]
    fixed, pixels = _fixed(config, suite), env.obs != "state"
    repeat = env.action_repeat or fixed.get("action_repeat") or suites.action_repeat(task)
    stack = env.frame_stack or fixed.get("frame_stack") or (suite.frame_stack if pixels else 1)
    # No memory for what the budget cannot fill, but always enough for a first transition.
    capacity = max(math.ceil(config.budget_frames / repeat), stack + config.agent.n_step)
    if config.replay.preload:
        capacity = config.replay.capacity or capacity + count_frames(Path(config.replay.preload))
    capacity = min(config.replay.capacity or capacity, capacity)
    agent = config.agent
    if agent.learning_rate == 0:
        agent = dataclasses.replace(agent, learning_rate=suites.learning_rate(task))
    if agent.precision == "auto":
        agent = dataclasses.replace(agent, precision=_fast_precision(config.device) if pixels else "float32")
    if getattr(agent, "offset", 0) is None:
        agent = dataclasses.replace(agent, offset=config.random_steps * config.updates_per_step)
    resets = getattr(agent, "resets", None)
    if isinstance(resets, Resets) and resets.every and resets.until is None:
        # A reset that nothing follows would be evaluated untrained.
        updates = (config.budget_frames // repeat - config.random_steps) * config.updates_per_step
        until = min(max(0, updates + agent.offset - resets.every), LONGEST)
        agent = dataclasses.replace(agent, resets=dataclasses.replace(resets, until=until))
    name = f"{config.preset}-{config.objective.name.replace(':', '.')}-seed{config.seed}"
    resolved = dataclasses.replace(
        config,
        env=dataclasses.replace(env, action_repeat=repeat, frame_stack=stack),
        agent=agent,
        augmentation=_filled(config.augmentation, suite.augmentation),
        objective=_filled(config.objective, suites.objective_defaults(task)),
        replay=dataclasses.replace(config.replay, capacity=capacity),
        run_dir=config.run_dir or str(Path("runs") / re.sub("[/:]", "_", task) / name),
    )
    for key, value in fixed.items():
        if getattr(resolved.env, key) != value:
            raise ConfigError(f"env.{key} is always {value!r} in {task}, got {getattr(resolved.env, key)!r}")
    if re.search(r"[\x00-\x1f\x7f\ud800-\udfff]", resolved.run_dir):
        raise ConfigError(f"run_dir={resolved.run_dir!a} holds what is no text: give another name")
    if "://" in resolved.run_dir:
        raise ConfigError(
            f"run_dir={resolved.run_dir} is a URL, and a run lives in a folder: give a path; only curl-rl benchmark "
            "--engine ray takes a URL, as its --out"
        )
    return resolved


def _fast_precision(device: str) -> str:
    """Return the precision of a run whose convolutions run on this machine: bf16 on a CPU with instructions for it."""
    if device == "cpu" or (device == "auto" and not torch.cuda.is_available()):
        able = torch.cpu.get_capabilities()
        return "bf16" if able.get("amx_bf16") or able.get("avx512_bf16") else "float32"
    return "float32"


def _filled(options: Any, published: Mapping[str, Any]) -> Any:
    """Return options in which what was left open (null) is as published."""
    left_open = {name: value for name, value in published.items() if getattr(options, name, "") is None}
    return dataclasses.replace(options, **left_open)


def _fixed(config: Config, suite: suites.Suite) -> dict[str, Any]:
    """Return the environment settings that the suite, or the protocol by which it is played, leaves no choice of."""
    others = {name for each in suites.SUITES.values() for name in each.settings} - {*suite.settings}
    fixed = {name: getattr(EnvConfig(), name) for name in others} | suite.fixed
    if "protocol" not in suite.settings:
        return fixed
    try:
        stated = protocol(config.task, protocol=config.env.protocol)
    except EnvError as error:
        raise ConfigError(f"env.{error}") from None
    names = {"image_size": "screen", "action_repeat": "action_repeat", "frame_stack": "frame_stack"}
    return fixed | {key: stated[name] for key, name in names.items() if name in stated}
