"""Reads finished and unfinished runs back from their directories: configuration, evaluations, where they come from."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from curl_rl.config.difference import in_line
from curl_rl.run.documents import TABLES, is_set_aside, read_bytes, read_settings, read_starts
from curl_rl.types import ConfigError, Origin

_COUNTS = ("agent_step", "frame", "episode")
_NUMBERS = (*_COUNTS, "return", "seconds")


@dataclass(frozen=True)
class Evaluation:
    """The episodes that one state of an agent played."""

    agent_step: int
    frame: int
    seconds: float  # of training and evaluation until its end
    returns: tuple[float, ...]

    @property
    def mean(self) -> float:
        return float(np.mean(self.returns))


@dataclass(frozen=True)
class Run:
    """One seed of one method on one task."""

    path: Path
    task: str
    method: str  # the directory's name without "-seed<n>"
    seed: int
    config: Mapping[str, Any]
    evaluations: tuple[Evaluation, ...]
    origins: tuple[Origin, ...]  # of its rows, each once: a run resumed elsewhere has several
    command: str  # of its first start; empty where its metadata is absent
    segments: tuple[str, ...] = ()  # how it went on otherwise: "at 1,500 frames: budget_frames 1500 -> 2500"

    @property
    def budget_frames(self) -> int:
        return self.config["budget_frames"]

    @property
    def finished(self) -> bool:
        """Whether the whole budget was trained and its last evaluation is complete."""
        settings = self.config["evaluation"]
        return bool(
            self.evaluations
            and self.evaluations[-1].frame >= self.budget_frames
            and len(self.evaluations[-1].returns) >= (settings["final_episodes"] or settings["episodes"])
        )

    @property
    def score(self) -> float:
        """Mean return of the last evaluation: of the final checkpoint, once the run is finished."""
        return self.evaluations[-1].mean

    @property
    def went_on(self) -> str:
        """How it went on with a larger budget or other settings after its start; empty where it did not."""
        return f"went on {', then '.join(self.segments)}" if self.segments else ""

    @property
    def protocol(self) -> str:
        return self.origins[0].protocol


def read_run(path: Path) -> Run:
    """Read a run directory; an `eval.csv` that is not there yet has no evaluations.

    Raises ConfigError for a file that is damaged or not this version's, a repeated row, rows of several protocols, or
    of budgets that do not grow as those of a run that went on.
    """
    try:
        config = read_settings(path)
    except FileNotFoundError as error:
        raise ConfigError(str(error)) from None
    rows = list(_rows(path / "eval.csv"))
    origins = tuple(dict.fromkeys(Origin(*(row[name] for name in Origin._fields)) for row in rows))
    _one(path, "protocols", {origin.protocol for origin in origins})
    _check_budgets(path, [row["budget"] for row in rows])
    starts = read_starts(path)
    return Run(
        path=path,
        task=config["task"],
        method=path.resolve().name.removesuffix(f"-seed{config['seed']}"),
        seed=config["seed"],
        config=config,
        evaluations=tuple(_evaluations(rows)),
        origins=origins,
        command=next((str(start.get("command", "")) for start in starts), ""),
        segments=segments_of(starts),
    )


def find_runs(folders: Iterable[Path]) -> list[Run]:
    """Return every run in or below some folders. Raises ConfigError where there is none."""
    runs = []
    for folder in folders:
        if not folder.is_dir():
            raise ConfigError(f"{folder} is no folder: give one that holds runs, e.g. results/dmc100k")
        found = [path for path in folders_with("config.json", folder) if (path / "eval.csv").is_file()]
        if not found:
            raise ConfigError(f"{folder} holds no results: no folder in it has a config.json and an eval.csv")
        runs += [read_run(path) for path in found]
    return runs


def folders_with(name: str, folder: Path) -> list[Path]:
    """Return the folder and those below it that hold such a file, but for what runs left before they began anew."""
    found = (path.parent for path in sorted(folder.rglob(name)))
    return [path for path in found if path == folder or not is_set_aside(path)]


def segments_of(starts: Iterable[Mapping[str, Any]]) -> tuple[str, ...]:
    """Return how a run went on with other settings, by its starts.

    Two in a row say the same where the first was killed before its checkpoint.
    """
    changes = [(start.get("frame"), start["changed"]) for start in starts if start.get("changed")]
    return tuple(dict.fromkeys(f"at {frame:,} frames: {in_line(changed)}" for frame, changed in changes))


def newest_step(path: Path) -> int:
    """Return the last agent step that a run's tables tell of, 0 where there are none."""
    steps = [0]
    for name in TABLES:
        table = path / name
        if table.is_file():
            with table.open("rb") as file:
                file.seek(max(0, table.stat().st_size - 4096))
                cells = (line.partition(b",")[0] for line in file.read().split(b"\n")[1:-1])
                steps += [int(cell) for cell in cells if cell.isdigit()]
    return max(steps)


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the complete rows: a run that is writing, or was killed, may have left a torn end."""
    mend = f"restore it from a copy, or move {path.parent} away and run its command again"
    try:
        whole = read_bytes(path).rpartition(b"\n")[0].decode()
    except FileNotFoundError:
        return
    except UnicodeError:
        raise ConfigError(f"{path} cannot be read (it is not UTF-8 text): {mend}") from None
    header, *lines = (line.rstrip("\r").split(",") for line in whole.split("\n"))
    missing = [name for name in (*_NUMBERS, *Origin._fields) if name not in header]
    if missing:
        raise ConfigError(f"{path} has no column {', '.join(missing)}: another version wrote it; {mend}")
    seen = set[tuple[float, float]]()
    for number, cells in enumerate(lines, start=2):
        try:
            row: dict[str, Any] = dict(zip(header, cells, strict=True))
            numbers = _numbers(row)
        except ValueError:
            raise ConfigError(f"{path}, line {number}, is broken: {mend}") from None
        if (played := (numbers["frame"], numbers["episode"])) in seen:
            where = f"{path}, line {number}, repeats"
            raise ConfigError(f"{where} episode {played[1]:.0f} of frame {played[0]:.0f}: {mend}")
        seen.add(played)
        yield row | numbers


def _numbers(row: Mapping[str, Any]) -> dict[str, float]:
    """Return the numbers of a row. Raises ValueError for one that no run writes."""
    numbers = {name: float(row[name]) for name in _NUMBERS}
    # A return that is no number is a result; a clock that is none is not.
    whole = all(0 <= numbers[name] < 2**53 and numbers[name].is_integer() for name in _COUNTS)
    if not whole or not np.isfinite(numbers["seconds"]):
        raise ValueError
    return numbers


def _evaluations(rows: Iterable[Mapping[str, Any]]) -> Iterator[Evaluation]:
    """Yield one evaluation for each frame at which episodes were played, in their order."""
    by_frame: dict[int, list[Mapping[str, Any]]] = {}
    for row in rows:
        by_frame.setdefault(int(row["frame"]), []).append(row)
    for frame, played in sorted(by_frame.items()):
        returns = tuple(row["return"] for row in played)
        yield Evaluation(int(played[0]["agent_step"]), frame, max(row["seconds"] for row in played), returns)


def _check_budgets(path: Path, budgets: Sequence[str]) -> None:
    """Raise ConfigError unless rows have one budget, or larger ones as the run went on."""
    different = list(dict.fromkeys(budgets))
    frames = [int(number) if number.isdecimal() else -1 for number in (text.partition(" ")[0] for text in different)]
    if sorted(set(frames)) != frames or budgets != sorted(budgets, key=different.index):
        _one(path, "budgets", set(different))


def _one(path: Path, kind: str, values: set[str]) -> None:
    if len(values) > 1:
        raise ConfigError(f"{path / 'eval.csv'} mixes {kind} {', '.join(sorted(values))}: they cannot be pooled")
