"""Plays a trained run: episodes of one of its checkpoints, and a film of the first."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing, nullcontext
from pathlib import Path
from typing import Any

from curl_rl.config import suites
from curl_rl.config.overrides import canonical
from curl_rl.config.schema import Config, PretrainedConfig
from curl_rl.run.assembly import make_agent, make_environment, make_stack
from curl_rl.run.checkpoint import Checkpoints
from curl_rl.run.device import choose_device, prepare_torch
from curl_rl.run.documents import explain_missing
from curl_rl.run.evaluate import evaluate
from curl_rl.run.judging import make_judges
from curl_rl.run.keeping import best_evaluation
from curl_rl.run.rollout import Lane
from curl_rl.run.seeds import Purpose, derive_seed
from curl_rl.run.stored import check_state, load_config
from curl_rl.run.video import check_film, filming
from curl_rl.types import Agent, Clock, ConfigError, Episode


def evaluate_run(
    run_dir: Path,
    episodes: int | None,
    video: Path | None,
    seed: int,
    device: str,
    *,
    checkpoint: str = "",
    task: str = "",
    distraction: str | None = None,
    intensity: str | None = None,
    tell: Callable[[str], None] = lambda text: None,
) -> list[Episode]:
    """Evaluate a run's checkpoint in environments seeded from `seed`; film the first episode.

    Args:
        episodes: how many; None: as many as the run's last evaluation.
        checkpoint: "best", or an agent step; empty: the newest intact one.
        task: another one of the run's suite; the agent's settings, such as its action repeat, stay.
        distraction: of control, "none" for none; None: the run's own, as its `intensity`.
        tell: is told which checkpoint is played, and in which task.

    Raises ConfigError where frames or actions of the other task do not fit the agent.
    """
    if video is not None:  # before anything is loaded or played
        check_film(video)
    config, state = load_played(run_dir, checkpoint)
    clock = Clock(*state["clock"])
    config = _distracted(_elsewhere(config, task) if task else config, distraction, intensity)
    which = {"": "the newest one", "best": "the best one"}.get(checkpoint, "as asked")
    played = f"checkpoint {clock.agent_step} of {run_dir} (frame {clock.frame}), {which}"
    tell(f"{played}, in {config.task}" if task else played)
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
    if intensity and not (distraction or config.env.distraction):
        raise ConfigError(f"intensity={intensity} has no effect without a distraction: give --distraction too")
    if not (given := {name: value for name, value in changes.items() if value is not None}):
        return config
    data = config.to_dict()
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


def load_played(run_dir: Path, checkpoint: str = "") -> tuple[Config, Mapping[str, Any]]:
    """Return the configuration and the state of a checkpoint of a run that is only played.

    Args: checkpoint, "best", or an agent step; empty: the newest intact one.

    Raises ConfigError, which names the mend, where it has none.
    """
    config, checkpoints = load_config(run_dir), Checkpoints(Path(run_dir) / "checkpoints")

    def check(state: dict[str, Any]) -> None:
        check_state(state, config, plays=True)

    if not (steps := checkpoints.steps()) or not checkpoint:
        state = checkpoints.load(check=check)
    else:
        state = checkpoints.read(_chosen(config, checkpoint, steps), check)
    if state is None:
        raise ConfigError(explain_missing(run_dir))
    return dataclasses.replace(config, pretrained=PretrainedConfig()), state  # the checkpoint has the weights


def _elsewhere(config: Config, task: str) -> Config:
    """Return the configuration of a run that plays another task. Raises ConfigError where that does not fit."""
    task = canonical(task)
    if suites.suite_of(task) != suites.suite_of(config.task):
        raise ConfigError(
            f"{config.run_dir} was trained in {config.task}, and {task} is of another suite: give its own"
        )
    other, spaces = dataclasses.replace(config, task=task), list[tuple[Any, Any]]()
    for each in (config, other):
        alone = dataclasses.replace(each, env=dataclasses.replace(each.env, overlap=False))
        with closing(make_environment(alone, extra={})) as env:
            spaces.append((env.observation_space, env.action_space))
    for what, own, found in zip(("frames", "actions"), *spaces, strict=True):
        if own != found:
            raise ConfigError(
                f"the agent of {config.run_dir} does not fit {task}: {config.task} has {what} {own}, {task} {found}; "
                "give a task with the same"
            )
    return other


def _chosen(config: Config, checkpoint: str, steps: Sequence[int]) -> int:
    """Return the step of the checkpoint that is asked for. Raises ConfigError where it is none of those there."""
    there = f"there are those of agent steps {', '.join(map(str, steps))}"
    if checkpoint != "best":
        if not checkpoint.isdecimal() or int(checkpoint) not in steps:
            raise ConfigError(f"{config.run_dir} has no checkpoint {checkpoint}; {there}: give one of them, or best")
        return int(checkpoint)
    if (best := best_evaluation(Path(config.run_dir), steps[-1])) is None:
        raise ConfigError(f"{config.run_dir} has not been evaluated, so none is the best; {there}")
    if best.agent_step not in steps:
        raise ConfigError(
            f"the best evaluation of {config.run_dir} was at agent step {best.agent_step}, of which no checkpoint was "
            f"kept; {there}: train with checkpoint.keep=best to keep it"
        )
    return best.agent_step
