"""Frames from the replay of a run, finished or running, which is only read."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from curl_rl.representation.frames.base import Frames
from curl_rl.run.checkpoint import CheckpointError, Checkpoints
from curl_rl.run.stored import load_config
from curl_rl.types import ConfigError

_ATTEMPTS = 3  # a running run may drop the checkpoint that is being read


class _Collector:
    """Takes a journal's rows in their order."""

    written = capacity = 0  # nothing is ever saved from here

    def __init__(self) -> None:
        self.chunks = list[Mapping[str, Tensor]]()

    def journal(self, since: int) -> dict[str, Tensor]:
        raise RuntimeError("a collector only reads")

    def restore_journal(self, start: int, chunk: Mapping[str, Tensor]) -> None:
        self.chunks.append({name: rows.clone() for name, rows in chunk.items()})


def read_run(run_dir: Path, *, stack: int = 0) -> Frames:
    """Read what the newest checkpoint of a run holds of its replay; stack 0 is the run's own.

    Raises FileNotFoundError where there is no run or no checkpoint, ConfigError for a run of states.
    """
    from curl_rl.run.assembly import make_stack

    config = load_config(run_dir)
    if config.env.obs == "state":
        raise ConfigError(f"{run_dir} is a run of states, and has no images: give one of pixels")
    rows = _rows(run_dir)
    if not len(rows.get("frame", ())):
        raise FileNotFoundError(f"{run_dir} has no replay on disk yet: let it come to its first checkpoint")
    age = rows["age"]
    began = torch.ones(len(age), dtype=torch.bool)
    began[1:] = age[1:] != age[:-1] + 1
    # A slot holds what led to its frame; here it stands with the frame that it led away from.
    action, reward = rows["action"].roll(-1, 0), rows["reward"].roll(-1, 0)
    known: dict[str, Any] = {"labels": rows["labels"]} if "labels" in rows else {}
    return Frames(
        rows["frame"],
        source=str(run_dir),
        episode=began.cumsum(0) - 1,
        ordered=True,
        action=action,
        reward=reward,
        stack=stack or config.env.frame_stack,
        padding=make_stack(config).padding,
        **known,
    )


def _rows(run_dir: Path) -> dict[str, Tensor]:
    for attempt in range(_ATTEMPTS):
        collector = _Collector()
        try:
            if Checkpoints(run_dir / "checkpoints").load(collector) is None:
                return {}
        except CheckpointError:
            if attempt == _ATTEMPTS - 1:
                raise
            continue
        chunks = collector.chunks
        return {name: torch.cat([chunk[name] for chunk in chunks]) for name in chunks[0]} if chunks else {}
    return {}
