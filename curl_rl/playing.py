"""Plays a trained run: episodes of its newest checkpoint, and a film of the first."""

from contextlib import ExitStack
from pathlib import Path

import numpy as np

from curl_rl.assembly import (
    Purpose,
    choose_device,
    derive_seed,
    make_agent,
    make_judges,
    make_stack,
    prepare_torch,
)
from curl_rl.checkpoint import Checkpoints
from curl_rl.config import load_config
from curl_rl.evaluate import Film, evaluate
from curl_rl.files import check_target
from curl_rl.types import ConfigError, Episode
from curl_rl.video import write_mp4


def evaluate_run(run_dir: Path, episodes: int | None, video: Path | None, seed: int, device: str) -> list[Episode]:
    """Evaluate a run's newest intact checkpoint in environments seeded from `seed`; film the first episode.

    Without a number of `episodes` it plays as many as the run's last evaluation.
    """
    config = load_config(run_dir)
    episodes = episodes or config.evaluation.final_episodes or config.evaluation.episodes
    state = Checkpoints(Path(run_dir) / "checkpoints").load()
    if state is None:
        raise ConfigError(f"{run_dir} holds no checkpoint: train there first, or name another run")
    chosen = choose_device(device)
    if video is not None:  # before anything is played
        check_target(video)
    prepare_torch(config.threads, spare_core=False)
    with ExitStack() as cleanup:
        judges = make_judges(config, episodes)
        for env in judges:
            cleanup.callback(env.close)
        agent = make_agent(config, judges[0], chosen)
        agent.load_state_dict(state["agent"])
        seeds = [derive_seed(seed, Purpose.COMMAND, i) for i in range(episodes)]
        film = Film() if video else None
        epsilon = config.evaluation.epsilon
        played = evaluate(agent, judges, seeds, lambda: make_stack(config), epsilon=epsilon, film=film)
        if video and film and film.frames:
            write_mp4(video, np.stack(film.frames), fps=15)
    return played
