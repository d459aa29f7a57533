"""Where a result comes from: commit, versions, hardware and command of every start of a run."""

import json
import platform
import shlex
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from curl_rl.run.documents import METADATA, read_starts
from curl_rl.run.files import write_whole
from curl_rl.run.machine import usable_cores
from curl_rl.types import Origin

_PACKAGES = ("curl-rl", "torch", "numpy", "gymnasium", "dm-control", "mujoco", "ale-py")
_SOURCES = ("curl_rl", "envs", "configs", "pyproject.toml")  # results written into a checkout change no result


def surroundings(command: str = "") -> dict[str, Any]:
    """Return when, where, with what and how this process was started.

    Args: command, that does this again where this process's own command line would not.
    """
    return {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": command or _command(),
        "versions": {name: _version(name) for name in _PACKAGES},
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu": _cpu_model(),
        "cores": usable_cores(),
        "gpus": [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())],
        "git": _git_state(Path(__file__).resolve().parents[2]),
    }


def make_origin(start: Mapping[str, Any], protocol: str, budget_frames: int) -> Origin:
    """Return what every evaluation row carries of a start's surroundings; cells hold no commas."""
    git = start["git"] or {"commit": "", "dirty": False}  # an installed package: its version says what ran
    versions = {"python": start["python"], **start["versions"]}
    origin = Origin(
        protocol=protocol,
        budget=f"{budget_frames} frames",
        commit=git["commit"][:12] + ("+" if git["dirty"] else ""),
        versions=" ".join(f"{name}={version}" for name, version in versions.items() if version),
        hardware="; ".join([f"{start['cores']} x {start['cpu']}", *start["gpus"]]),
    )
    return Origin(*(cell.replace(",", " ") for cell in origin))


def write_metadata(run_dir: Path, start: Mapping[str, Any]) -> None:
    """Append a start, its `surroundings` and what else describes it (seed, gl_renderer), to `metadata.json`."""
    starts = [*read_starts(run_dir), start]
    write_whole({run_dir / METADATA: json.dumps({"starts": starts}, indent=2) + "\n"})


def _command() -> str:
    """Return the command that does this again: in the words of `curl-rl`, or another program's own."""
    program = Path(sys.argv[0])
    ours = program.name == "curl-rl" or program.parts[-2:] == ("curl_rl", "__main__.py")
    return shlex.join(["curl-rl", *sys.argv[1:]] if ours else sys.orig_argv)


def _version(package: str) -> str | None:
    with suppress(metadata.PackageNotFoundError):
        return metadata.version(package)


def _cpu_model() -> str:
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _git_state(root: Path) -> dict[str, Any] | None:
    """Return the commit of a source checkout, "unknown" where git cannot tell; None for an installed package."""
    if not (root / ".git").exists():
        return None

    def git(*arguments: str) -> str:
        command = ["git", "--no-optional-locks", "-C", str(root), *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()

    try:
        return {"commit": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain", "--", *_SOURCES))}
    except (OSError, subprocess.SubprocessError):
        return {"commit": "unknown", "dirty": False}
