"""Look at this machine and say what stands in the way of training, and how to mend it."""

import importlib.util
import json
import locale
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from curl_rl.run.interpreter import environment, python
from curl_rl.run.machine import affinity, cpu_quota, free_main_memory, usable_cores

BACKENDS = ("egl", "osmesa", "glfw")
GL_SECONDS = 60.0
GL_MEND = "apt-get update && apt-get install -y --no-install-recommends libegl1 libgl1-mesa-dri libopengl0"
SOFTWARE = "egl renders on the CPU: most of an environment's step goes into drawing"
DRIVER = "; for the GPU's install libnvidia-gl, or in a container set NVIDIA_DRIVER_CAPABILITIES=all"
EXTRAS = ("sb3", "torchrl", "onnx", "hub")  # of an encoder that is taken elsewhere
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
MIN_FILES = 10_000  # a run makes about a hundred
MIN_ROOM = 5e9  # bytes: 500K frames at action repeat 4 are 125,000 stored steps of 30 KB, and everything else


class Check(NamedTuple):
    """One row of the table: mark is ok, warn, fail, or - for what training does not need."""

    mark: str
    name: str
    found: str
    mend: str = ""


def main() -> int:
    """Print the table. Returns 1 where training could not run, else 0."""
    here = (check_python, check_packages, check_shadows, check_devices, check_gl, check_ale, check_disk, check_tools)
    checks = [check for look in here for check in look()]
    width = max(len(check.name) for check in checks)
    for check in checks:
        print(f"{check.mark:<4}  {check.name:<{width}}  {check.found}")
    print()
    for check in checks:
        if check.mend:
            print(f"{check.mark}: {check.name}: {check.mend}")
    failed = any(check.mark == "fail" for check in checks)
    print("training cannot run here" if failed else "ready to train")
    return int(failed)


def check_python() -> Iterator[Check]:
    wanted = SpecifierSet(metadata.metadata("curl-rl")["Requires-Python"] if _version("curl-rl") else ">=3.11,<3.13")
    found = platform.python_version()
    good = wanted.contains(found, prereleases=True)
    mend = "" if good else f"it must be {wanted}: rm -r .venv and make train PYTHON=/path/to/python3.12"
    yield Check("ok" if good else "fail", "python", f"{found} ({sys.executable})", mend)


def check_packages() -> Iterator[Check]:
    """Compare what is installed with what the installed curl-rl asks for; an extra may be absent, but not wrong."""
    if _version("curl-rl") is None:
        yield Check("fail", "curl-rl", "not installed", "pip install -e . in the project's folder")
        return
    for line in metadata.requires("curl-rl") or []:
        requirement = Requirement(line)
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            yield _check_package(requirement, needed=True)
        elif any(requirement.marker.evaluate({"extra": extra}) for extra in EXTRAS):
            yield _check_package(requirement, needed=False)


def _check_package(requirement: Requirement, *, needed: bool) -> Check:
    name, wanted, found = requirement.name, requirement.specifier, _version(requirement.name)
    if found is None and not needed:
        return Check("-", name, "not installed, optional")
    if found is not None and wanted.contains(found, prereleases=True):
        return Check("ok", name, found)
    mark = "fail" if needed else "warn"
    return Check(mark, name, f"{found or 'not installed'}, wanted {wanted}", f"pip install '{name}{wanted}'")


def check_shadows() -> Iterator[Check]:
    """Look for another package that Python would take for ours: found earlier, or in the current folder."""
    ours = Path(__file__).resolve().parent
    spec = importlib.util.find_spec("curl_rl")
    found = Path(spec.origin).resolve().parent if spec and spec.origin else None
    here = Path.cwd().resolve() / "curl_rl"
    if found != ours:
        mend = f"take the folder that holds it off PYTHONPATH, so that {ours} is found"
        yield Check("fail", "module curl_rl", f"is {found}, not this project's", mend)
    elif here != ours and (here.is_dir() or here.with_suffix(".py").exists()):
        mend = "start `curl-rl` itself, not Python or a notebook, in this folder"
        yield Check("warn", "module curl_rl", "the current folder has another", mend)


def check_devices() -> Iterator[Check]:
    """Describe processor, memory and CUDA devices."""
    yield _check_cpu()
    free = free_main_memory()
    yield _room("memory free", free, "a long run from pixels keeps its replay in memory: lower replay.capacity")
    try:
        import torch
    except Exception as error:  # a broken wheel or a missing system library: the package row tells the mend
        yield Check("fail", "torch", f"does not import: {error}", "reinstall it: pip install --force-reinstall torch")
        return
    gpus = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
    for i, gpu in enumerate(gpus):
        yield Check("ok", f"cuda:{i}", f"{gpu.name}, {gpu.total_memory / 1e9:.0f} GB, CUDA {torch.version.cuda}")
    if not gpus and shutil.which("nvidia-smi"):
        mend = f"torch {torch.__version__} finds no GPU: update the driver, or install torch's CUDA build"
        yield Check("warn", "cuda", "nvidia-smi is here, but torch cannot use a GPU", mend)
    elif not gpus:
        yield Check("-", "cuda", "no GPU; the quick preset is made for this")


def _check_cpu() -> Check:
    cores, quota, told = len(affinity()), cpu_quota(), Path("/proc/cpuinfo").read_text()
    flags = re.search(r"^(?:flags|Features)\s*:(.*)$", told, re.MULTILINE)
    fast = [name for name in ("amx_bf16", "avx512_bf16", "avx512f", "avx2") if flags and name in flags[1].split()]
    found = f"{platform.machine()}, {' '.join(fast) or 'no AVX2'}"
    if quota >= cores:
        return Check("ok", "cpu", f"{cores} cores, {found}")
    mend = "raise the quota (docker run --cpus) for more" if quota >= 1 else "give it a whole core at least"
    found = f"{usable_cores()} of {cores} cores, quota {quota:g}, {found}"
    return Check("ok" if quota >= 1 else "warn", "cpu", found, mend)


def check_gl() -> Iterator[Check]:
    """Render with every backend at once, each in its own process with a time limit."""
    with ThreadPoolExecutor(len(BACKENDS)) as pool:
        results = dict(zip(BACKENDS, pool.map(probe_gl, BACKENDS), strict=True))
    for name, result in results.items():
        if "error" in result:
            yield Check("-", f"gl {name}", textwrap.shorten(result["error"], 110, placeholder=" ..."))
            continue
        found = f"{result['gl_renderer']}, {result['frames_per_second']:.0f} frames/s"
        if name == "egl" and result["software"]:
            yield Check("warn", f"gl {name}", found, SOFTWARE + (DRIVER if shutil.which("nvidia-smi") else ""))
        else:
            yield Check("ok", f"gl {name}", found)
    if all("error" in result for result in results.values()):
        mend = f"{GL_MEND}; training from states (preset=state) or in ALE needs no GL"
        yield Check("fail", "gl", "no backend renders", mend)


def probe_gl(backend: str, timeout: float = GL_SECONDS) -> dict[str, Any]:
    """Return what `python -m curl_rl.envs.probe BACKEND` reports, or {"error": why it reports nothing}."""
    command = [*python(), "-m", "curl_rl.envs.probe", backend]
    try:
        done = subprocess.run(
            command, input="", capture_output=True, text=True, timeout=timeout, check=False, env=environment()
        )
    except subprocess.TimeoutExpired:
        return {"error": f"hangs: no image within {timeout:g} s"}
    try:
        return json.loads(done.stdout.strip().splitlines()[-1])
    except (IndexError, ValueError):  # the driver took the process down, or wrote over its answer
        said = done.stderr.strip().splitlines()[-1:]
        return {"error": f"exit status {done.returncode} {' '.join(said)}".strip()}


def check_ale() -> Iterator[Check]:
    try:
        from ale_py.roms import get_all_rom_ids

        yield Check("ok", "atari", f"{len(get_all_rom_ids())} games")
    except Exception as error:  # a broken wheel raises more than ImportError
        mend = "DeepMind Control trains; for Atari: pip install ale-py"
        yield Check("warn", "atari", f"ale-py does not import: {error}", mend)


def check_disk() -> Iterator[Check]:
    """See that the current folder, where runs go, and the one for temporary files can be written."""
    here = Path.cwd()
    if not os.access(here, os.W_OK):
        yield Check("warn", "folder", f"{here} cannot be written", "go to another folder, or give a run_dir elsewhere")
    yield _room("disk free here", shutil.disk_usage(here).free, "free space, or give a run_dir on another disk")
    disk = os.statvfs(here)
    if disk.f_files and disk.f_favail < MIN_FILES:  # some file systems count none
        mend = "remove small files, or give a run_dir on another disk"
        yield Check("warn", "files free here", f"{disk.f_favail:,}", mend)
    try:
        tempfile.gettempdir()
    except FileNotFoundError:
        mend = "set TMPDIR to a folder that can be written"
        yield Check("warn", "temporary files", "no folder for them can be written", mend)


def check_tools() -> Iterator[Check]:
    """Look for what a run records or shows by, and for what only tests use."""
    if not shutil.which("git") and (Path(__file__).resolve().parents[1] / ".git").exists():
        yield Check("warn", "git", "not installed", "install git, or results cannot say of what commit they are")
    if (encoding := locale.getpreferredencoding(False).lower().replace("-", "")) != "utf8":
        yield Check("warn", "encoding", encoding, "set PYTHONUTF8=1: names and tables are written in UTF-8")
    if sys.stderr.isatty() and not os.get_terminal_size(sys.stderr.fileno()).columns:
        yield Check("warn", "terminal", "tells no width", "stty columns 120, for the progress bar to fit")
    if not any(map(shutil.which, BROWSERS)):
        yield Check("-", "chromium", "not installed; only tests of the report's page use it")


def _room(name: str, free: float, mend: str) -> Check:
    enough = free >= MIN_ROOM
    return Check("ok" if enough else "warn", name, f"{free / 1e9:.1f} GB", "" if enough else mend)


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
