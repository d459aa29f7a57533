"""What a run asks of its environment's spaces: what the encoder sees of a frame, and actions that the agent has."""

import gymnasium as gym

from curl_rl.agents import AGENTS
from curl_rl.config import suites
from curl_rl.config.schema import Config
from curl_rl.types import ConfigError


def seen_shape(config: Config, frames: gym.Space) -> tuple[int, ...]:
    """Return the shape of what the encoder sees of a stacked observation.

    Raises ConfigError where an environment shows something else than the configuration asked it for.
    """
    size, shape, pixels = config.env.image_size, _shape(frames), config.env.obs != "state"
    if shape[1:] != ((size, size) if pixels else ()):
        wanted = f"frames of env.image_size={size}" if pixels else "vectors (env.obs=state)"
        raise ConfigError(f"{config.task} gives observations {shape} where {wanted} were asked for: mend its settings")
    return (shape[0] * config.env.frame_stack, *[config.augmentation.seen_size(size) for _ in shape[1:]])


def count_actions(config: Config, actions: gym.Space) -> int:
    """Return how many actions there are, or their dimension. Raises ConfigError where the agent takes others."""
    discrete = AGENTS[config.agent.name].discrete
    if isinstance(actions, gym.spaces.Discrete) != discrete:
        kind = "discrete" if discrete else "continuous"
        others = " or ".join(f"agent={name}" for name, cls in AGENTS.items() if cls.discrete != discrete)
        there = suites.SUITES[suites.suite_of(config.task)].discrete and not discrete
        made = "preset=rainbow or preset=rainbow_state" if there else "a preset made for it"
        raise ConfigError(
            f"agent={config.agent.name} needs {kind} actions, and {config.task} has others: choose {others}, with "
            f"{made} ({config.preset} may not be)"
        )
    return int(actions.n) if isinstance(actions, gym.spaces.Discrete) else _shape(actions)[0]


def _shape(space: gym.Space) -> tuple[int, ...]:
    if space.shape is None:
        raise ConfigError(f"an agent here needs spaces of arrays, not {space}")
    return space.shape
