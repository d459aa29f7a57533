"""A run's start from another: of its newest checkpoint the agent, or the encoder alone."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from curl_rl.config.schema import Config
from curl_rl.nn.state import Kept
from curl_rl.run.documents import has_checkpoints
from curl_rl.run.folder import tensors_hash
from curl_rl.run.playing import load_played
from curl_rl.run.pretrained import Source
from curl_rl.types import Agent, Clock, ConfigError, Environment


class Branch(NamedTuple):
    """What a run starts from."""

    given: Config  # of the new run
    other: Config
    clock: Clock  # of the other
    state: Mapping[str, Any]  # of the other's agent

    @property
    def told(self) -> dict[str, Any]:
        """What metadata.json says of it, with a hash of the weights that are taken."""
        agent, encoder = self.given.from_part == "agent", self.state["learner"]["encoder"]
        weights = {k: v.clone() for k, v in _tensors(self.state).items() if v.is_floating_point()} if agent else encoder
        return {
            "run": self.given.from_run,
            "checkpoint": self.clock.agent_step,
            "frame": self.clock.frame,
            "part": self.given.from_part,
            "weights": tensors_hash(weights),
        }

    def source(self, env: Environment) -> Source:
        """Return the encoder for a run in an environment."""
        size = self.other.augmentation.seen_size(self.other.env.image_size)
        weights = self.state["learner"]["encoder"]
        channels = next(iter(weights.values())).shape[1]
        seen = (channels, *[size for _ in (env.observation_space.shape or ())[1:]])
        return Source(Path(self.given.from_run), dataclasses.asdict(self.other.encoder), seen, weights)

    def give(self, agent: Agent) -> None:
        """Give an agent the networks and optimisers of the other where that is asked for; it draws as it would have.

        Raises ConfigError, which names the first that does not fit.
        """
        if self.given.from_part != "agent":
            return
        state, place = _with_streams(agent, self.state), f"from_run={self.given.from_run}"
        own, there = _tensors(agent.state_dict()), _tensors(state)
        for name in dict.fromkeys([*own, *there]):
            shapes = [str(tuple(each[name].shape)) if name in each else "absent" for each in (there, own)]
            if shapes[0] != shapes[1]:
                raise ConfigError(
                    f"{place}: agent.{name} is {shapes[0]} there and {shapes[1]} in this run: give agent, objective, "
                    "augmentation and env as in its config.json, or from=encoder"
                )
        try:
            agent.load_state_dict(state)
        except ValueError as error:
            raise ConfigError(f"{place} does not fit: {error}; give agent as in its config.json") from error


def read_branch(config: Config, *, anew: bool) -> Branch | None:
    """Return what a run starts from; None where that is no run, or it has begun: its own checkpoint has all then.

    Args: anew, whether what it has is set aside before it begins.

    Raises ConfigError where there is no such checkpoint, or it is of another agent or objective.
    """
    if not config.from_run or (has_checkpoints(Path(config.run_dir)) and not anew):
        return None
    path = Path(config.from_run)
    if path.resolve() == Path(config.run_dir).resolve():
        raise ConfigError(f"from_run={path} is the run itself: leave it out to go on, or give another run_dir")
    try:
        if not (path / "checkpoints").is_dir() and (path / "model.safetensors").is_file():
            raise ConfigError(f"from_run={path} is an encoder's folder, no run: give pretrained.path={path}")
        other, state = load_played(path)
    except FileNotFoundError as error:
        raise ConfigError(f"from_run={path} is no run ({error}): give the directory of one") from None
    if config.from_part == "agent":
        for group in ("agent", "objective"):
            had, has = getattr(other, group).name, getattr(config, group).name
            if had != has:
                mend = f"give {group}={had}, or from=encoder"
                raise ConfigError(f"from_run={path} was trained with {group}={had}, this run has {group}={has}: {mend}")
    return Branch(config, other, Clock(*state["clock"]), state["agent"])


def _with_streams(part: Any, state: Mapping[str, Any]) -> dict[str, Any]:
    """Return a state in which the random streams are those that a part has now."""
    merged = dict(state)
    for name in part.kept if isinstance(part, Kept) else ():
        inner = getattr(part, name)
        if isinstance(inner, torch.Generator):
            merged[name] = inner.get_state()
        elif isinstance(inner, Kept) and name in state:
            merged[name] = _with_streams(inner, state[name])
    return merged


def _tensors(state: Any, name: str = "") -> dict[str, Tensor]:
    """Return the tensors of a nested state by their dotted names, but for the moments of optimisers."""
    if isinstance(state, Tensor):
        return {name: state}
    if not isinstance(state, Mapping) or {"state", "param_groups"} <= state.keys():
        return {}
    prefix = f"{name}." if name else ""
    return {key: value for each, inner in state.items() for key, value in _tensors(inner, f"{prefix}{each}").items()}
