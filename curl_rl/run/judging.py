"""The evaluations of a run: episodes in environments of their own, with seeds of their own."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

from curl_rl import envs
from curl_rl.config.schema import Config
from curl_rl.run.assembly import make_environment, make_stack
from curl_rl.run.evaluate import evaluate
from curl_rl.run.machine import usable_cores
from curl_rl.run.rollout import Lane
from curl_rl.run.seeds import Purpose, derive_seed
from curl_rl.run.stored import env_settings, judge_settings
from curl_rl.run.video import Film
from curl_rl.types import Acting, Environment, Episode

_LANES = 32  # of one evaluation: enough to fill the cores, few enough to have little idle at the end
_SHOWN_FRAMES = 256  # of an evaluation's film at most: an episode of Atari can have 27,000


def make_judges(config: Config, episodes: int) -> Sequence[Environment]:
    """Create the environments that evaluate side by side: processes, or lanes where the suite has them."""
    workers = config.evaluation.workers or usable_cores()
    lanes = envs.make_lanes(config.task, min(episodes, _LANES), workers, **env_settings(config))
    extra = judge_settings(config)
    return lanes or [make_environment(config, extra=extra) for _ in range(min(episodes, workers))]


class Judging:
    """Plays a run's evaluations, in environments that are made when they are first needed."""

    def __init__(self, config: Config, cleanup: ExitStack):
        self._config, self._worlds = config, list[Environment]()
        cleanup.callback(lambda: [env.close() for env in self._worlds])

    def play(
        self, player: Acting, frame: int, *, last: bool, interrupted: Callable[[], bool]
    ) -> tuple[Sequence[Episode], Film | None]:
        """Return the episodes of the evaluation at a frame and the film of the first. Raises Interrupted."""
        settings, config = self._config.evaluation, self._config
        count = (settings.final_episodes if last else 0) or settings.episodes
        seeds = [derive_seed(config.seed, Purpose.EVALUATION, frame, i) for i in range(count)]
        if not self._worlds:
            self._worlds.extend(make_judges(config, max(settings.episodes, settings.final_episodes)))
        film = Film(limit=_SHOWN_FRAMES) if settings.video else None
        lanes = [Lane(env, make_stack(config)) for env in self._worlds]
        options: dict[str, Any] = {"epsilon": settings.epsilon, "film": film, "interrupted": interrupted}
        return evaluate(player, lanes, seeds, **options), film
