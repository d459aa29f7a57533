"""How another Python is started that finds this project's modules, whatever the current folder holds."""

import os
import sys
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[2]  # holds curl_rl


def python() -> list[str]:
    """Return the start of a command line: this interpreter, which imports nothing from the current folder."""
    return [sys.executable, "-P"]


def program() -> list[str]:
    """Return the command line of `curl-rl` in another process."""
    return [*python(), "-m", "curl_rl"]


def environment() -> dict[str, str]:
    """Return the environment variables with which it finds a checkout that is not installed."""
    if _ROOT.name in ("site-packages", "dist-packages"):
        return dict(os.environ)
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [str(_ROOT), os.environ.get("PYTHONPATH")]))}


def forget_current_folder() -> None:
    """Take from the module search path the current folder, which `python -m` has put there in the first place."""
    if not sys.flags.safe_path:
        del sys.path[0]
    if str(_ROOT) not in sys.path:
        sys.path.insert(0, str(_ROOT))
