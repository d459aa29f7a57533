"""Overrides such as "preset=paper agent.hidden_dim=256": composed with the YAML files by Hydra, mistakes explained."""

import dataclasses
import functools
import hashlib
import itertools
import re
import typing
from collections.abc import Iterable, Mapping, Sequence
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any

import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, Glob, Override, Sweep
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import BooleanNode, DictConfig, FloatNode, IntegerNode, OmegaConf, StringNode
from omegaconf.errors import OmegaConfBaseException

from curl_rl.agents import AGENTS
from curl_rl.config import suites
from curl_rl.config.difference import flat
from curl_rl.config.frozen import explaining, schema
from curl_rl.config.moved import check_moved
from curl_rl.config.pretrained import encoder_settings
from curl_rl.config.schema import GROUPS, Config, fitting, from_node, groups_of, to_node
from curl_rl.envs import EnvError, canonical_task, is_discrete, list_tasks
from curl_rl.options import Kind, idle, kinds, quoted, shown
from curl_rl.types import ConfigError

CHOICES = ("task", "preset", *GROUPS)
_NODES = {bool: BooleanNode, int: IntegerNode, float: FloatNode, str: StringNode}
_STORED: dict[tuple[str, str], type] = {}  # the classes whose options Hydra knows
_LONGEST_NAME = 150  # of 255 bytes that file systems give a name


def config_dir() -> Path:
    """Return the folder of the YAML files: inside the package once installed, beside it in a checkout."""
    package = Path(__file__).resolve().parents[1]
    return package / "configs" if (package / "configs").is_dir() else package.parent / "configs"


def compose(overrides: Iterable[str]) -> Config:
    """Return the configuration that overrides such as "preset=paper" or "agent.hidden_dim=256" describe.

    Raises ConfigError, with the nearest names, for what no entry point, preset, option or field is called.
    """
    parsed = _with_encoder(parse_single(overrides))
    check_keys(parsed, _chosen(parsed))
    suite, arguments = _translated(parsed)
    return from_node(_owned(_compose(suite, arguments), arguments))


def hydra_arguments(arguments: Iterable[str]) -> tuple[str, list[str]]:
    """Return the entry point and a command line in Hydra's own words, for Hydra itself to run; sweeps stay."""
    flags, ours = [], []
    for text in arguments:
        (ours if "=" in text and not text.startswith(("-", "hydra")) else flags).append(text)
    parsed = _with_encoder(parse(ours))
    suite, translated = _translated(parsed)
    _check_sweep(parsed)
    if {"--multirun", "-m"} & set(flags):
        translated = _told_apart(parsed, suite) + translated
    return suite, flags + translated


def _with_encoder(parsed: Sequence[Override]) -> list[Override]:
    """Return overrides with the encoder of the folder that they start from, if they name one."""
    known = encoder_settings(parsed)
    others = [override for override in parsed if override.key_or_group not in known]
    return [*others, *parse(f"{key}={shown(value)}" for key, value in known.items())]


def _check_sweep(parsed: Sequence[Override]) -> None:
    """Refuse keys and kinds of values that no job could take, as `compose` does for one run."""
    each = []
    for override in parsed:
        swept = override.is_sweep_override()
        each.append(parse(f"{override.key_or_group}={value}" for value in _swept(override)) if swept else [override])
    first = [values[0] for values in each if values]
    settings = [override for values in each for override in values if override.key_or_group not in CHOICES]
    check_keys(settings, _chosen(first))


def _swept(override: Override) -> list[str]:
    """Return the first thousand values of a sweep, none of a glob or an interval, whose sweeper alone knows them."""
    if isinstance(override.value(), Glob) or not override.is_discrete_sweep():
        return []
    return [str(value) for value in itertools.islice(override.sweep_string_iterator(), 1000)]


def _told_apart(parsed: Sequence[Override], suite: str) -> list[str]:
    """Return what makes Hydra's name of a job that of the swept values which a run's default folder does not hold."""
    named = ("task", f"preset/{suite}", "objective", "seed", "run_dir")
    same = [override.key_or_group for override in parsed if not override.is_sweep_override()]
    name = "hydra.job.config.override_dirname"
    return [f"{name}.exclude_keys=[{','.join(repr(key) for key in (*named, *same))}]", f"{name}.item_sep='-'"]


def hydra_job(node: DictConfig, launched: Any) -> tuple[Config, list[str]]:
    """Return the configuration of a job of Hydra's, and the overrides with which `curl-rl train` runs it.

    Args: launched, Hydra's own configuration. In a sweep the default folder tells what differs from job to job.
    """
    config = from_node(_owned(node, launched.overrides.task))
    if launched.mode == RunMode.MULTIRUN and launched.job.override_dirname and not node.run_dir:
        # No "=": a folder's name can then be given as run_dir without quotes.
        name = re.sub(r"[^\w.+-]+", "_", launched.job.override_dirname).rstrip("_")
        if len(name) > _LONGEST_NAME:
            name = f"{name[:_LONGEST_NAME]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"
        config = dataclasses.replace(config, run_dir=f"{config.run_dir}-{name}")
    overrides = [re.sub(r"^preset/\w+=", "preset=", text) for text in launched.overrides.task]
    overrides = [text for text in overrides if not text.startswith("run_dir=")]
    return config, [*overrides, f"run_dir={quoted(config.run_dir)}"]


def register() -> None:
    """Tell Hydra the schema, every class that is found by name as an option of its group, and every suite's start."""
    store = ConfigStore.instance()
    store.store(name="schema", node=schema(Config))
    for group, registry in GROUPS.items():
        for name in registry:
            _register(group, name)
    for name, suite in suites.SUITES.items():
        chosen = suite.choices | ({f"preset/{name}": suite.preset} if presets(name) else {})
        own = [{group: choice} for group, choice in chosen.items()]
        defaults = ["schema", "launch", *own, {"override hydra/job_logging": "stdout"}, "_self_"]
        store.store(name=name, node={"defaults": defaults})


@explaining()
def _register(group: str, name: str) -> None:
    cls = GROUPS[group][name]
    if _STORED.get((group, name)) is not cls:  # one of the user's own may be written anew meanwhile
        ConfigStore.instance().store(group=group, name=name, node={**_defaults(cls.Config), "name": name})
        _STORED[group, name] = cls
        _base.cache_clear()


@functools.cache
def _defaults(cls: type) -> dict[str, Any]:
    # Plain, so that a preset may set an option that only its own choice has.
    return typing.cast(dict[str, Any], OmegaConf.to_container(OmegaConf.structured(schema(cls))))


def read_overrides(overrides: Iterable[str]) -> dict[str, Any]:
    """Return the values that overrides give, by their keys."""
    return {override.key_or_group: override.value() for override in parse(overrides)}


@explaining()
def change(config: Config, overrides: Iterable[str]) -> Config:
    """Return a configuration with the values of overrides in it, none of them a choice of a group."""
    parsed, node = parse(overrides), to_node(config.to_dict())
    check_keys(parsed, node)
    for override in parsed:
        OmegaConf.update(node, override.key_or_group, override.value())
    return from_node(node)


def presets(suite: str) -> list[str]:
    """Return the names of a suite's presets."""
    return sorted(path.stem for path in (config_dir() / "preset" / suite).glob("*.yaml"))


def parse(overrides: Iterable[str]) -> list[Override]:
    """Return overrides read as key=value. Raises ConfigError for what is none, adds a key or takes one away."""
    parser = OverridesParser.create()
    parsed = []
    for given in overrides:
        text = re.sub(r"^from=", "from_part=", given)  # which is no name of a field in Python
        try:
            override = parser.parse_override(text)
        except (HydraException, ValueError, RecursionError):  # the latter two: digits or brackets without end
            raise ConfigError(
                f"cannot read {_brief(text)!r}: write key=value, and quote special characters: \"key='value'\""
            ) from None
        if override.is_add() or override.is_delete() or override.package is not None:
            raise ConfigError(f"cannot read {text!r}: write key=value; keys are fixed, neither added nor removed")
        parsed.append(override)
    return parsed


def parse_single(overrides: Iterable[str]) -> list[Override]:
    """Do the same for one run, which takes one value of each."""
    parsed = parse(overrides)
    for override in parsed:
        if override.is_sweep_override():
            raise ConfigError(
                f"{override.input_line}: one run takes one value; python scripts/train.py --multirun takes several"
            )
    return parsed


def named_values(override: Override) -> list[str]:
    """Return the values that an override names, one unless it sweeps over choices."""
    value = override.value()
    values = value.list if isinstance(value, ChoiceSweep) else [] if isinstance(value, Sweep | Glob) else [value]
    for value in values:
        if value is None or isinstance(value, list | dict) or not str(value):
            raise ConfigError(
                f"{override.input_line}: {override.key_or_group} is one name; curl-rl train --help lists them"
            )
    return [str(getattr(value, "text", value)) for value in values]


def _translated(parsed: Sequence[Override]) -> tuple[str, list[str]]:
    """Return the suite, and the overrides with `preset=x` as the suite's group; refuse unknown choices."""
    chosen = {override.key_or_group: named_values(override) for override in parsed if override.key_or_group in CHOICES}
    tasks = [canonical(task) for task in chosen.get("task", [Config.task])]
    entry_points = {suites.suite_of(task) for task in tasks}
    if len(entry_points) > 1:
        raise ConfigError(f"tasks of {' and '.join(sorted(entry_points))} cannot share a sweep: run them one by one")
    (suite,) = entry_points
    fitting = _fitting_preset(suite, tasks, chosen)
    for key, name in ((key, name) for key, names in chosen.items() for name in names):
        if key in GROUPS:
            _register(key, name)  # a class of the user's own is known from now on
        elif key == "preset" and name not in (known := presets(suite)):
            raise ConfigError(f"unknown preset {name!r}; there are {', '.join(known)}")
    translated = {
        "preset": lambda o: f"preset/{suite}={o.get_value_string()}",
        "task": lambda _: f"task={','.join(tasks)}",
    }
    return suite, fitting + [str(translated.get(o.key_or_group, lambda o: o.input_line)(o)) for o in parsed]


def _fitting_preset(suite: str, tasks: Sequence[str], chosen: Mapping[str, Sequence[str]]) -> list[str]:
    """Return the choice of a preset that fits the tasks' actions, where they decide and none is named."""
    if not (preset := suites.SUITES[suite].discrete) or "preset" in chosen:
        return []
    if "agent" in chosen:
        kinds = {AGENTS[name].discrete for name in chosen["agent"]}
    else:
        try:
            kinds = {is_discrete(task) for task in tasks}
        except EnvError as error:
            raise ConfigError(str(error)) from error
    if len(kinds) > 1:
        raise ConfigError("tasks of discrete and of continuous actions cannot share a sweep: run them one by one")
    return [f"preset/{suite}={preset}"] if kinds == {True} else []


def canonical(task: str) -> str:
    """Return the task's own name for any accepted spelling. Raises ConfigError for what is no task."""
    try:
        return canonical_task(task)
    except EnvError as error:
        if suites.is_open(task):
            raise ConfigError(str(error)) from error
        hint = _nearest(task, list_tasks()) or f"; there are {suites.task_forms()}"
        raise ConfigError(f"unknown task {_brief(task)!r}{hint}") from None


def check_keys(parsed: Sequence[Override], base: DictConfig, root: type = Config, command: str = "train") -> None:
    """Refuse overrides of what the chosen agent, encoder, objective and the schema `root` do not have."""
    choices = CHOICES if root is Config else groups_of(root)
    names = {f"{group}.name" for group in choices}
    keys = flat(typing.cast(dict[str, Any], OmegaConf.to_container(base))).keys() - names
    for override in parsed:
        key = override.key_or_group
        group, _, name = key.partition(".")
        if key in names:
            raise ConfigError(f"{override.input_line}: choose with {group}={override.get_value_string()}")
        if key in choices:
            continue
        if any(known == key or known.startswith(key + ".") for known in keys):
            _check_kind(key, override.value(), override.get_value_string(), _kind(key, base, root))
            continue
        check_moved({key: override.value()})
        hint = _nearest(key, [*keys, *choices])
        if owners := [option for option, cls in GROUPS.get(group, {}).items() if hasattr(cls.Config, name)]:
            hint = f": {group}={base[group].name} has none, {group}={' or '.join(owners)} has"
        raise ConfigError(f"unknown key {key!r}{hint}; curl-rl {command} --help lists all")


def _kind(key: str, base: DictConfig, root: type) -> Any:
    """Return what a key's values are: a Kind, or the class of a group of settings."""
    kind: Any = root
    for part in key.split("."):
        kind = GROUPS[part][base[part].name].Config if kind is root and part in GROUPS else kinds(kind)[part]
    return kind


def _check_kind(key: str, value: Any, text: str, kind: Any) -> None:
    """Refuse a value that is of another kind than its key's; whether it is within bounds is seen when it is read."""
    if isinstance(kind, Kind):
        if not _fits(value, kind):
            raise ConfigError(f"{key} must be {kind}, got {_brief(text) or 'nothing'}")
        return
    names = kinds(kind)
    if not isinstance(value, dict) or not value.keys() <= names.keys():
        check_moved({key: value})
        known = ", ".join(f"{key}.{name}" for name in names)
        raise ConfigError(f"{key}={_brief(text)}: {key} is a group of settings; set one of {known}")
    for name, inner in value.items():
        _check_kind(f"{key}.{name}", inner, str(inner), names[name])


def _fits(value: Any, kind: Kind) -> bool:
    """Return whether OmegaConf turns a value into one of this kind; what refers to another setting may."""
    value = getattr(value, "text", value)
    if isinstance(value, str) and "${" in value:
        return True
    if kind.many or isinstance(value, list):
        return kind.many and isinstance(value, list) and all(_fits(item, kind._replace(many=False)) for item in value)
    if value == "???" or (kind.type is bool and value not in (0, 1, None) and not isinstance(value, str)):
        return False
    try:
        _NODES[kind.type](value, is_optional=kind.optional)
    except (OmegaConfBaseException, OverflowError):
        return False
    return True


def _brief(text: str) -> str:
    return text if len(text) <= 60 else f"{text[:60]}..."


def _nearest(name: str, known: Iterable[str]) -> str:
    """Return "; did you mean ...?" by the whole name or by its last part."""

    def last(key: str) -> str:
        return re.split(r"[./]", key)[-1]

    def likeness(key: str) -> float:
        return max(SequenceMatcher(None, name, key).ratio(), SequenceMatcher(None, last(name), last(key)).ratio())

    close = [key for key in sorted(known, key=likeness, reverse=True)[:3] if likeness(key) > 0.75]
    return f"; did you mean {', '.join(close)}" if close else ""


def _chosen(parsed: Iterable[Override]) -> DictConfig:
    """Return what the choices among overrides compose to without the others."""
    suite, choices = _translated([override for override in parsed if override.key_or_group in CHOICES])
    return fitting(_base(suite, *choices))


@functools.lru_cache(maxsize=64)
def _base(suite: str, *choices: str) -> DictConfig:
    """Return what some choices compose to, to be read: most commands and all jobs of a benchmark make few."""
    node = _compose(suite, list(choices))
    OmegaConf.set_readonly(node, True)
    return node


def _owned(node: DictConfig, arguments: Sequence[str]) -> DictConfig:
    """Return a composed configuration in which a preset's options are those of its own encoder and the like alone.

    Another one starts from its own defaults; an agent, which another of the kind extends, keeps what a preset sets.
    What a preset sets for something that was turned off falls back to its default.
    """
    given = parse(arguments)
    _replace_options(node, given, arguments)
    keys = [override.key_or_group for override in given]
    for key, default in _idle(node).items():
        if not any(f"{key}.".startswith(f"{other}.") for other in keys):
            OmegaConf.update(node, key, default)
    return node


def _idle(node: DictConfig) -> dict[str, Any]:
    """Return what has no effect in a composed configuration, as keys with their defaults."""
    values = typing.cast(dict[str, Any], OmegaConf.to_container(node))
    found = {}
    for name, kind in kinds(Config).items():
        cls = GROUPS[name][values[name]["name"]].Config if name in GROUPS else kind
        if dataclasses.is_dataclass(cls):
            found |= {f"{name}.{key}": default for key, default in idle(typing.cast(type, cls), values[name]).items()}
    return found


def _replace_options(node: DictConfig, given: Sequence[Override], arguments: Sequence[str]) -> None:
    """Give every chosen class that is not the preset's own its defaults, and what was given."""
    named = {override.key_or_group for override in given} & (GROUPS.keys() - {"agent"})
    if not named:
        return
    own = _base(suites.suite_of(node.task), *(text for text in arguments if text.startswith(("task=", "preset/"))))
    for group in named:
        if (chosen := node[group].name) == own[group].name:
            continue
        node[group] = {**_defaults(GROUPS[group][chosen].Config), "name": chosen}
        for override in given:
            if override.key_or_group.startswith(f"{group}."):
                OmegaConf.update(node, override.key_or_group, override.value())


@explaining()
def _compose(suite: str, arguments: list[str]) -> DictConfig:
    register()
    around, GlobalHydra.instance().hydra = GlobalHydra.instance().hydra, None  # in a job of Hydra's there is one
    try:
        with hydra.initialize_config_dir(str(config_dir()), version_base="1.3", job_name="train"):
            return hydra.compose(suite, overrides=arguments)
    finally:
        GlobalHydra.instance().hydra = around
