"""Segments of a run: from which frame on it went on with other settings, a larger budget among them."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from curl_rl.config.difference import differing, identity, in_line
from curl_rl.config.schema import Config
from curl_rl.run.documents import CONFIG, has_checkpoints
from curl_rl.run.logger import as_written, written_since
from curl_rl.run.records import read_run
from curl_rl.run.stored import load_config
from curl_rl.types import ConfigError


def is_finished(config: Config) -> bool:
    """Return whether the run is finished and stays as it is, having said so; False where its budget has grown.

    Raises ConfigError for other settings without frames to train with them, and where no checkpoint can go on.
    """
    run_dir = Path(config.run_dir)
    if not (run_dir / CONFIG).exists() or not (run := read_run(run_dir)).finished:
        return False
    frame, stored = run.evaluations[-1].frame, load_config(run_dir)
    changes = differing(identity(stored.to_dict()), identity(config.to_dict()))
    if not changes:
        print(f"{run_dir} is finished: {frame:,} frames", file=sys.stderr)
        return True
    asked = f"{run_dir} is finished, with {frame:,} frames trained, and is left as it is"
    if config.budget_frames <= frame:
        raise ConfigError(f"{asked} ({in_line(changes)}): give a budget_frames above {frame}")
    if not has_checkpoints(run_dir):
        raise ConfigError(
            f"{asked}: its checkpoints were deleted, and nothing goes on ({in_line(changes)}) without them; restore "
            "checkpoints/ from a copy, give another run_dir, or start it anew with restart=true"
        )
    return False


def go_on_from(
    loaded: dict[str, Any] | None, identity: Mapping[str, Any], run_dir: Path
) -> tuple[dict[str, Any] | None, dict[str, list[Any]]]:
    """Return the state from which a run goes on, and {key: [old, new]} of what it is configured otherwise than there.

    Raises ConfigError where other settings would cut evaluations. Args: loaded, a checkpoint's state, None without one.
    """
    changed = {key: list(values) for key, values in differing(loaded["config"], identity).items()} if loaded else {}
    if not loaded or not changed:
        return loaded, {}
    state = _with_all_rows(loaded, run_dir)
    print(f"{run_dir} goes on at {state['clock'][1]:,} frames: {in_line(changed)}", file=sys.stderr)
    return state, changed


def _with_all_rows(state: Mapping[str, Any], run_dir: Path) -> dict[str, Any]:
    """Return a state with the last evaluation of a finished run in it, which came after its checkpoint.

    Raises ConfigError where the run has evaluated since the checkpoint: those rows are never cut, and with other
    settings they would not be written again.
    """
    frame, rows = state["clock"][1], written_since(run_dir, state["log"], "eval.csv")
    if not rows:
        return dict(state)
    settings = state["config"]
    episodes = settings["evaluation.final_episodes"] or settings["evaluation.episodes"]
    ended = frame >= settings["budget_frames"] and {row["frame"] for row in rows} == {str(frame)}
    if not ended or len(rows) < episodes:
        raise ConfigError(
            f"{run_dir / 'eval.csv'} holds evaluations after the newest checkpoint, at frame {frame:,}, and no other "
            f"settings would give them again: go on to the next checkpoint with `curl-rl train run_dir={run_dir}`, "
            "then with these"
        )
    seconds = max(state["seconds"], *(float(row["seconds"]) for row in rows))
    log = as_written(run_dir, state["log"], state["clock"][0])
    return {**state, "log": log, "evaluated": frame, "seconds": seconds}
