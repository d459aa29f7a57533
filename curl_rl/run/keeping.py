"""Which checkpoints of a run are kept beside the newest, and which one is its best."""

import math
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

from curl_rl.config.schema import Config
from curl_rl.run.checkpoint import Checkpoints
from curl_rl.run.records import Evaluation, read_run
from curl_rl.types import Clock


def best_evaluation(run_dir: Path, newest: int) -> Evaluation | None:
    """Return a run's evaluation of the highest mean return, of equal ones the first; None without any.

    Args: newest, the agent step up to which evaluations count: a resume forgets those after its checkpoint.
    """
    played = [each for each in read_run(run_dir).evaluations if each.agent_step <= newest]
    return max(played, key=lambda each: -math.inf if math.isnan(each.mean) else each.mean, default=None)


def open_checkpoints(config: Config) -> Checkpoints:
    """Return a run's checkpoints, which keep what `checkpoint.keep` asks for."""
    run_dir = Path(config.run_dir)
    return Checkpoints(run_dir / "checkpoints", besides=_besides(config.checkpoint.keep, run_dir))


def surpasses(config: Config, clock: Clock) -> bool:
    """Return whether the evaluation at a run's clock is its best so far, and is to be kept as such."""
    if config.checkpoint.keep == "last":
        return False
    best = best_evaluation(Path(config.run_dir), clock.agent_step)
    return best is not None and best.frame == clock.frame


def _besides(keep: str, run_dir: Path) -> Callable[[Sequence[int]], Collection[int]]:
    """Return what chooses the checkpoints that `checkpoint.keep` asks for beside the newest, of all by their steps."""
    if keep == "all":
        return lambda steps: steps
    if keep == "last":
        return lambda steps: ()

    def choose(steps: Sequence[int]) -> Collection[int]:
        best = best_evaluation(run_dir, steps[-1])
        return () if best is None else (best.agent_step,)

    return choose
