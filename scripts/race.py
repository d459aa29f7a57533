"""Times this tree beside another commit of the project, or beside an original, in turn on the same machine."""

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import originals

from curl_rl.config.schema import Config
from curl_rl.types import ConfigError

Report = dict[str, Any]

ROOT = Path(__file__).resolve().parents[1]
FIGURES = ("seconds_per_update.total", "seconds_per_agent_step.total", "environment_step_alone")
_SHARED = ("versions", "hardware", "task", "preset", "batch_size", "device")


class Side(NamedTuple):
    """A script that prints a report as JSON, and the tree whose curl_rl it imports."""

    name: str
    commit: str
    tree: Path
    command: tuple[str, ...]

    def run(self) -> Report:
        """Return the script's report. Raises ConfigError with its last words where it fails."""
        try:
            return json.loads(self._python(*self.command))
        except json.JSONDecodeError:
            raise ConfigError(f"{self.name} failed: its {Path(self.command[0]).name} printed no JSON") from None

    def check(self) -> None:
        """Raise ConfigError where another curl_rl than the tree's would be timed."""
        found = Path(self._python("-P", "-c", "import curl_rl; print(curl_rl.__file__)").strip()).resolve()
        if not found.is_relative_to(self.tree):
            raise ConfigError(
                f"{self.name} would import {found} instead of its own curl_rl: pip uninstall curl-rl, or take an "
                "environment without it"
            )

    def _python(self, *arguments: str) -> str:
        paths = os.pathsep.join(filter(None, (str(self.tree), os.environ.get("PYTHONPATH"))))
        environment = {**os.environ, "PYTHONPATH": paths}
        done = subprocess.run(
            [sys.executable, *arguments], env=environment, check=False, capture_output=True, text=True
        )
        if done.returncode:
            raise ConfigError(f"{self.name} failed: {_last_line(done)}")
        return done.stdout


def race(against: str, config: Config, overrides: Sequence[str], rounds: int) -> Report:
    """Run both sides `rounds` times and return their figures; the ratios are the other's seconds by this tree's."""
    this = Side("this tree", "", ROOT, (str(ROOT / "scripts" / "speed.py"), *overrides))
    pairs = []
    with opponent(against, config, overrides) as other:
        for side in (this, other):
            side.check()
        for pair in take_turns(this, other, rounds):
            pairs.append(pair)
            ratios = ", ".join(f"{name} x{row['ratio']['median']:.2f}" for name, row in compare([pair]).items())
            print(f"round {len(pairs)} of {rounds}: {ratios}", file=sys.stderr)
    mine, theirs = pairs[0]
    return {
        **{name: mine[name] for name in _SHARED},
        "rounds": rounds,
        "this": {"commit": mine["commit"], "threads": mine["threads"]},
        "other": {"name": other.name, "commit": other.commit, "threads": theirs["threads"]},
        **compare(pairs),
    }


def take_turns(this: Side, other: Side, rounds: int) -> Iterator[tuple[Report, Report]]:
    """Yield the reports of this side and of the other, who goes first alternating."""
    for index in range(rounds):
        order = (other, this) if index % 2 else (this, other)
        reports = {side: side.run() for side in order}
        yield reports[this], reports[other]


def compare(pairs: Sequence[tuple[Report, Report]]) -> dict[str, Any]:
    """Return the medians and the ratios other / this of each figure that both sides report: above 1, this is faster."""
    table = {}
    for name in FIGURES:
        mine, theirs = ([_figure(report, name) for report in reports] for reports in zip(*pairs, strict=True))
        if None not in (*mine, *theirs):
            ratios = [other / this for this, other in zip(mine, theirs, strict=True)]
            ratio = {"median": statistics.median(ratios), "least": min(ratios), "greatest": max(ratios)}
            table[name] = {"this": statistics.median(mine), "other": statistics.median(theirs), "ratio": ratio}
    return table


def _figure(report: Report, name: str) -> Any:
    group, _, part = name.partition(".")
    found = report.get(group)
    return found[part] if found and part else found


@contextmanager
def opponent(against: str, config: Config, overrides: Sequence[str]) -> Iterator[Side]:
    """Give the side that `--against` names: an original's clone, or a commit, which is checked out until the end.

    Raises ConfigError for what is neither, and for settings that an original does not have.
    """
    folder = Path(against)
    if folder.is_dir():
        original = originals.find(folder, config)
        commit = _git(folder, "rev-parse", "HEAD")[:12] if (folder / ".git").exists() else ""
        command = (str(ROOT / "scripts" / "originals.py"), str(folder), *overrides)
        yield Side(original.repository, commit, ROOT, command)
        return
    commit = _find_commit(against)
    with _worktree(commit) as tree:
        yield Side(f"commit {against}", commit[:12], tree, (str(tree / "scripts" / "speed.py"), *overrides))


def _find_commit(name: str) -> str:
    """Return a commit's full name."""
    if not (ROOT / ".git").exists():
        raise ConfigError(f"--against {name}: {ROOT} is no git checkout, so it has no other commits; clone the project")
    try:
        return _git(ROOT, "rev-parse", "--verify", f"{name}^{{commit}}")
    except ConfigError as error:
        raise ConfigError(
            f"--against {name}: git knows no such commit here ({error}), and it is no folder; give one that git log "
            f"lists, or a clone of {originals.REPOSITORIES}"
        ) from None


@contextmanager
def _worktree(commit: str) -> Iterator[Path]:
    """Check a commit out into a temporary worktree."""
    with TemporaryDirectory(prefix="curl_rl_") as folder:
        tree = Path(folder).resolve() / commit[:12]
        try:
            _git(ROOT, "worktree", "add", "--quiet", "--detach", str(tree), commit)
            yield tree
        finally:
            with suppress(ConfigError):  # where it was not even made
                _git(ROOT, "worktree", "remove", "--force", str(tree))


def _git(folder: Path, *arguments: str) -> str:
    """Return what git prints. Raises ConfigError with its last words where it fails."""
    try:
        done = subprocess.run(["git", "-C", str(folder), *arguments], check=False, capture_output=True, text=True)
    except OSError as error:
        raise ConfigError(f"git cannot be run ({error.strerror}): install it") from error
    if done.returncode:
        raise ConfigError(_last_line(done))
    return done.stdout.strip()


def _last_line(done: subprocess.CompletedProcess[str]) -> str:
    return (done.stderr.strip().splitlines() or [f"it ended with status {done.returncode}"])[-1]
