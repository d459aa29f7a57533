"""Plays a trained run: episodes of its newest checkpoint, and a film of the first."""

import dataclasses
from collections.abc import Mapping
from contextlib import ExitStack, closing, nullcontext
from pathlib import Path
from typing import Any

from curl_rl.config.schema import Config, PretrainedConfig
from curl_rl.run.assembly import make_agent, make_environment, make_judges, make_stack
from curl_rl.run.checkpoint import Checkpoints
from curl_rl.run.device import choose_device, prepare_torch
from curl_rl.run.documents import explain_missing
from curl_rl.run.evaluate import evaluate
from curl_rl.run.rollout import Lane
from curl_rl.run.seeds import Purpose, derive_seed
from curl_rl.run.stored import check_state, load_config
from curl_rl.run.video import check_film, filming
from curl_rl.types import Agent, ConfigError, Episode


def evaluate_run(
    run_dir: Path,
    episodes: int | None,
    video: Path | None,
    seed: int,
    device: str,
    *,
    distraction: str | None = None,
    intensity: str | None = None,
) -> list[Episode]:
    """Evaluate a run's newest intact checkpoint in environments seeded from `seed`; film the first episode.

    Without a number of `episodes` it plays as many as the run's last evaluation, without a `distraction` or its
    `intensity` under the run's own; "none" is none.
    """
    if video is not None:  # before anything is loaded or played
        check_film(video)
    config, state = load_played(run_dir)
    config = _distracted(config, distraction, intensity)
    episodes = episodes or config.evaluation.final_episodes or config.evaluation.episodes
    chosen = choose_device(device)
    prepare_torch(config.threads)
    with ExitStack() as cleanup:
        judges = make_judges(config, episodes)
        for env in judges:
            cleanup.callback(env.close)
        agent = make_agent(config, judges[0], chosen)
        agent.load_state_dict(state["agent"])
        seeds = [derive_seed(seed, Purpose.COMMAND, i) for i in range(episodes)]
        with filming(video, fps=15) if video is not None else nullcontext() as film:
            options: dict[str, Any] = {"epsilon": config.evaluation.epsilon, "film": film}
            return evaluate(agent, [Lane(env, make_stack(config)) for env in judges], seeds, **options)


def _distracted(config: Config, distraction: str | None, intensity: str | None) -> Config:
    """Return a configuration with another distraction. Raises ConfigError for a task that has none."""
    plain = {"distraction": "", "distraction_intensity": "easy", "distraction_dynamic": True}
    changes: dict[str, Any] = plain if distraction == "none" else {"distraction": distraction}
    changes |= {"distraction_intensity": intensity} if intensity else {}
    data = config.to_dict()
    given = {name: value for name, value in changes.items() if value is not None}
    return Config.from_dict({**data, "env": data["env"] | given})


def load_agent(run_dir: Path, device: str) -> Agent:
    """Return the agent of a run's newest intact checkpoint. Raises as `load_played`."""
    config, state = load_played(run_dir)
    with closing(
        make_environment(dataclasses.replace(config, env=dataclasses.replace(config.env, overlap=False)))
    ) as env:
        agent = make_agent(config, env, choose_device(device))
    agent.load_state_dict(state["agent"])
    return agent


def load_played(run_dir: Path) -> tuple[Config, Mapping[str, Any]]:
    """Return the configuration and the newest intact checkpoint's state of a run that is only played.

    Raises ConfigError, which names the mend, where it has none.
    """
    config = load_config(run_dir)
    state = Checkpoints(Path(run_dir) / "checkpoints").load(check=lambda state: check_state(state, config, plays=True))
    if state is None:
        raise ConfigError(explain_missing(run_dir))
    return dataclasses.replace(config, pretrained=PretrainedConfig()), state  # the checkpoint has the weights
