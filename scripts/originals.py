"""Times an original's code with a configuration's settings, as JSON: python scripts/originals.py FOLDER overrides...

The modules of a clone are imported as they are. What they import beside torch and NumPy has stand-ins, so that a figure
does not depend on what is installed: Gymnasium for gym, NumPy's windows for scikit-image's, and a plain random crop for
kornia's, which in the version of that time needs a torch.solve that torch has no more.
"""

import dataclasses
import json
import sys
from collections.abc import Callable
from contextlib import closing
from importlib import import_module
from operator import attrgetter
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
import torch
from stopwatch import Stopwatch
from torch import Tensor, nn

from curl_rl.cli import explain
from curl_rl.config.overrides import compose
from curl_rl.config.schema import Config
from curl_rl.config.suites import suite_of
from curl_rl.run.assembly import make_environment
from curl_rl.run.device import choose_device
from curl_rl.run.machine import usable_cores
from curl_rl.types import ConfigError

WARMUP, UPDATES, STEPS = 4, 16, 60
EPISODE, STORED = 250, 2000  # of Rainbow, whose sampler never returns from a replay of a few hundred steps


class Original(NamedTuple):
    """A repository, by which modules it is known, and the settings that it has."""

    repository: str
    modules: tuple[str, ...]
    suite: str
    settings: dict[str, tuple[Any, ...]]
    time: Callable[[Config, Any, torch.device], dict[str, Any]]


def time_sac(config: Config, actions: Any, device: torch.device) -> dict[str, Any]:
    """Return the seconds of an update, its sampling included."""
    agent, channels, shape = config.agent, 3 * config.env.frame_stack, actions.shape
    seen, stored = ((channels, side, side) for side in (config.augmentation.size, config.env.image_size))
    capacity, rng = 4 * config.batch_size, np.random.default_rng(0)
    replay = import_module("utils").ReplayBuffer(stored, shape, capacity, config.batch_size, device, seen[-1])
    frames = rng.integers(0, 256, (16, *stored), np.uint8)
    for i in range(capacity):
        replay.add(frames[i % 16], rng.uniform(-1, 1, shape), rng.random(), frames[(i + 1) % 16], False)
    learner = import_module("curl_sac").CurlSacAgent(
        seen,
        shape,
        device,
        hidden_dim=agent.hidden_dim,
        actor_update_freq=agent.actor_period,
        critic_target_update_freq=agent.target_period,
        encoder_feature_dim=config.encoder.feature_dim,
        num_layers=config.encoder.depth,
        num_filters=config.encoder.filters,
    )
    watch = Stopwatch(device)
    for step in range(1, WARMUP + UPDATES + 1):
        with watch.timing("total" if step > WARMUP else "warm-up"):
            learner.update(replay, None, step)  # it would log the hundredth
    return {"seconds_per_update": {"total": watch.median("total")}}


def time_rainbow(config: Config, actions: Any, device: torch.device) -> dict[str, Any]:
    """Return the seconds of a whole step but for the game's own: noise, action, storing, update, moving average."""
    settings = _rainbow_settings(config, device)
    environment = SimpleNamespace(action_space=lambda: actions.n)
    learner = import_module("agent").Agent(settings, environment)
    replay = import_module("memory").ReplayMemory(settings, config.replay.capacity)
    states = torch.rand((16, config.env.frame_stack, 84, 84), device=device)
    for i in range(STORED):
        replay.append(states[i % 16], i % learner.action_space, 0.1, i % EPISODE == EPISODE - 1)
    watch = Stopwatch(device)
    for i in range(STEPS):
        with watch.timing("total"):
            learner.reset_noise()
            replay.append(states[i % 16], learner.act(states[i % 16]), 0.1, i % EPISODE == EPISODE - 1)
            learner.learn(replay)
            learner.update_momentum_net()
    return {"seconds_per_agent_step": {"total": watch.median("total")}}


def _rainbow_settings(config: Config, device: torch.device) -> SimpleNamespace:
    """Return what the original's command line would."""
    agent, replay = config.agent, config.replay
    return SimpleNamespace(
        device=device,
        game=config.task.partition("/")[2],
        model=None,
        architecture=config.encoder.name.replace("_", "-"),
        history_length=config.env.frame_stack,
        hidden_size=agent.hidden_dim,
        noisy_std=agent.noise_std,
        atoms=agent.atoms,
        V_min=agent.v_min,
        V_max=agent.v_max,
        batch_size=config.batch_size,
        multi_step=agent.n_step,
        discount=agent.discount,
        norm_clip=agent.max_grad_norm,
        learning_rate=agent.learning_rate,
        adam_eps=agent.adam_epsilon,
        priority_weight=replay.beta,
        priority_exponent=replay.exponent,
    )


_CURL = {"objective.name": ("curl",)}
ORIGINALS = (
    Original(
        "MishaLaskin/curl",
        ("curl_sac", "encoder", "utils"),
        "dmc",
        {"agent.name": ("sac",), "encoder.name": ("paper",), "augmentation.name": ("crop",), **_CURL},
        time_sac,
    ),
    Original(
        "aravindsrinivas/curl_rainbow",
        ("agent", "memory", "model"),
        "atari",
        {
            "preset": ("paper",),
            "agent.name": ("rainbow",),
            "encoder.name": ("data_efficient", "canonical"),
            "augmentation.name": ("crop_shift",),
            **_CURL,
        },
        time_rainbow,
    ),
)
REPOSITORIES = " or ".join(original.repository for original in ORIGINALS)


def find(folder: Path, config: Config) -> Original:
    """Return the original that a folder holds. Raises ConfigError where it holds none, or has not these settings."""
    found = (original for original in ORIGINALS if all((folder / f"{name}.py").is_file() for name in original.modules))
    if (original := next(found, None)) is None:
        raise ConfigError(f"{folder} holds no clone of {REPOSITORIES}: give one of those, or a commit")
    if suite_of(config.task) != original.suite:
        raise ConfigError(
            f"{original.repository} in {folder} has no task={config.task}: choose one of {original.suite}/..."
        )
    for key, values in original.settings.items():
        if (value := attrgetter(key)(config)) not in values:
            name, known = key.removesuffix(".name"), " or ".join(map(str, values))
            raise ConfigError(f"{original.repository} in {folder} has no {name}={value}: set {name}={known}")
    return original


class RandomCrop(nn.Module):
    """Cuts a window of one size out of each image, each at its own place."""

    def __init__(self, size: tuple[int, int]):
        super().__init__()
        self.size = size

    def forward(self, images: Tensor) -> Tensor:
        (height, width), (rows, columns) = self.size, images.shape[2:]
        tops = torch.randint(rows - height + 1, (len(images),)).tolist()
        lefts = torch.randint(columns - width + 1, (len(images),)).tolist()
        corners = zip(images, tops, lefts, strict=True)
        return torch.stack([image[:, top : top + height, left : left + width] for image, top, left in corners])


def _stand_in() -> None:
    """Let the originals find what they import."""
    contents = {
        "gym": vars(gym),
        "kornia": {},
        "kornia.augmentation": {"RandomCrop": RandomCrop},
        "skimage": {},
        "skimage.util": {},
        "skimage.util.shape": {"view_as_windows": np.lib.stride_tricks.sliding_window_view},
    }
    for name, content in contents.items():
        sys.modules[name] = module = ModuleType(name)
        module.__dict__.update(content)
        package, _, inner = name.rpartition(".")
        if package:
            setattr(sys.modules[package], inner, module)


def main() -> None:
    """Time the original in a folder."""
    folder, *overrides = sys.argv[1:]
    config = compose(overrides)
    original, device = find(Path(folder), config), choose_device(config.device)
    apart = dataclasses.replace(config, env=dataclasses.replace(config.env, overlap=True))  # no OpenGL in this process
    with closing(make_environment(apart)) as env:
        actions = env.action_space
    if config.threads:  # else as many as torch takes by itself, as the original does
        torch.set_num_threads(min(config.threads, usable_cores()))
    _stand_in()
    sys.path.insert(0, folder)
    print(json.dumps({"threads": torch.get_num_threads(), **original.time(config, actions, device)}))


if __name__ == "__main__":
    try:
        main()
    except Exception as error:
        if (status := explain(error, "originals.py")) is None:
            raise
        sys.exit(status)
