"""A run's stored configuration with what a command names of it: what is not named keeps its value."""

import math
from collections.abc import Sequence

from curl_rl.agents.schedule import Resets
from curl_rl.config.difference import told
from curl_rl.config.overrides import CHOICES, canonical, change, compose, named_values, parse_single
from curl_rl.config.schema import GROUPS, Config
from curl_rl.options import LONGEST, quoted
from curl_rl.types import ConfigError


def continued(stored: Config, overrides: Sequence[str]) -> Config:
    """Return a stored configuration with the values that overrides name.

    What the budget gave grows with it, unless it is named: a replay that held all, and the time of resets. Raises
    ConfigError for another task, preset or class than the stored ones, whose other options would not be of it.
    """
    parsed = parse_single(overrides)
    chosen = {o.key_or_group: named_values(o)[0] for o in parsed if o.key_or_group in CHOICES}
    if "task" in chosen:
        chosen["task"] = canonical(chosen["task"])
    own = {key: getattr(stored, key).name if key in GROUPS else getattr(stored, key) for key in chosen}
    if other := {key: (own[key], name) for key, name in chosen.items() if name != own[key]}:
        lines = "".join(f"  {line}\n" for line in told(other))
        raise ConfigError(
            f"{stored.run_dir} holds a run of another configuration:\n{lines}leave {' and '.join(other)} out, give "
            "another run_dir, or start it anew by its whole command, task=... and all, with restart=true"
        )
    given = {o.key_or_group: o.input_line or "" for o in parsed if o.key_or_group not in CHOICES}
    config = change(stored, [*_of_the_budget(stored), *given.values()])
    before, steps, capacity = _steps(stored), _steps(config), stored.replay.capacity
    if steps > before and "replay.capacity" not in given and capacity >= before:
        grown = max(capacity, min(capacity + steps - before, _most(stored)))
        config = change(config, [f"replay.capacity={grown}"])
    return config


def _of_the_budget(stored: Config) -> list[str]:
    """Return what leaves the end of resets to the budget again, where the stored one gave it."""
    resets, word = getattr(stored.agent, "resets", None), "agent.resets.until=null"
    return [word] if isinstance(resets, Resets) and resets.every and change(stored, [word]) == stored else []


def _steps(config: Config) -> int:
    """Return the agent steps of a budget."""
    return math.ceil(config.budget_frames / config.env.action_repeat)


def _most(config: Config) -> int:
    """Return how many transitions the preset keeps of the longest budget."""
    choices = [f"task={quoted(config.task)}", f"preset={quoted(config.preset)}"]
    return compose([*choices, f"budget_frames={LONGEST}"]).replay.capacity
