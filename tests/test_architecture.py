"""The import table of the design, held literally; sizes; and what importing the package must not load."""

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# What each module may import from this project, besides `types` and `options`; "x.*" stands for the package x and all
# inside it.
MAY_IMPORT: dict[str, set[str]] = {
    "__init__": {"export"},  # load_encoder, when it is asked for
    "__main__": {"cli", "interpreter"},
    "interpreter": set(),
    "types": set(),
    "suites": set(),
    "sampling": set(),
    "checkpoint": {"manifest"},
    "manifest": set(),
    "files": set(),
    "video": {"evaluate", "files"},
    "logger": {"documents", "files", "video"},
    "progress": set(),
    "streams": set(),
    "machine": set(),
    "provenance": {"documents", "files", "machine"},
    "doctor": {"interpreter", "machine"},
    "schema": set(),
    "settings": set(),
    "documents": set(),
    "options": set(),
    "state": set(),
    "losses": set(),
    "augmentations": set(),
    "networks": set(),
    "capture": set(),
    "clustering": set(),
    "diagnostics": set(),
    "memory": {"machine", "sampling"},
    "encoders": {"networks"},
    "replay": {"sampling"},
    "objectives": {"objectives.base"},
    "objectives.base": {"encoders"},
    "objectives.parts": set(),
    "objectives.*": {"clustering", "losses", "networks", "encoders", "objectives.base", "objectives.parts"},
    "agents": {"agents.*"},
    "agents.*": {"state", "networks", "encoders", "augmentations", "losses", "capture", "objectives.base"},
    "export": {"__init__", "augmentations", "checkpoint", "documents", "encoders", "files", "networks"},
    "adapters": {"adapters.*"},
    "adapters.*": {"export"},
    "evaluate": set(),
    "config": {"agents", "documents", "encoders", "files", "objectives", "sampling", "schema", "settings", "suites"},
    "overrides": {"config", "schema", "settings", "suites", "envs"},
    "assembly": {
        "agents",
        "config",
        "encoders",
        "envs",
        "evaluate",
        "machine",
        "memory",
        "objectives",
        "replay",
        "sampling",
        "suites",
    },
    "interrupts": set(),
    "trainer": {
        "assembly",
        "checkpoint",
        "config",
        "diagnostics",
        "documents",
        "evaluate",
        "files",
        "interrupts",
        "locks",
        "logger",
        "progress",
        "provenance",
        "records",
        "streams",
    },
    "playing": {"assembly", "checkpoint", "config", "documents", "evaluate", "video"},
    "records": {"documents"},
    "engines": {"engines.*"},
    "engines.*": {"engines.base", "engines.process", "engines.sharing", "files", "interpreter", "locks", "machine"},
    "cells": set(),
    "jobs": {"cells"},
    "board": {"engines.base", "files", "jobs"},
    "schedule": {"board", "engines.base", "interrupts", "records"},
    "locks": {"files"},
    "benchmark": {"board", "config", "engines.base", "locks", "overrides", "records", "schedule", "suites"},
    "report": set(),
    "report.*": {"cells", "files", "jobs", "records", "report.*", "settings", "suites"},
    "cli": {
        "config",
        "overrides",
        "suites",
        "trainer",
        "playing",
        "export",
        "doctor",
        "benchmark",
        "engines",
        "report.build",
        "streams",
        "__init__",
    },
}


def modules() -> dict[str, Path]:
    """Return every module of curl_rl by its name inside the package."""
    found = {}
    for path in sorted((ROOT / "curl_rl").rglob("*.py")):
        parts = path.relative_to(ROOT / "curl_rl").with_suffix("").parts
        name = ".".join(parts[:-1] if len(parts) > 1 and parts[-1] == "__init__" else parts)
        found[name] = path
    return found


def imports(path: Path, *, only_top: bool = False) -> Iterator[str]:
    """Yield the dotted names that a file imports; `from a import b` gives a.b where that is a module, else a."""
    tree = ast.parse(path.read_text())
    for node in tree.body if only_top else ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}: a relative import"
            module = node.module or ""
            for alias in node.names:
                inner = ROOT.joinpath(*module.split("."), alias.name)
                is_module = inner.with_suffix(".py").exists() or (inner / "__init__.py").exists()
                yield f"{module}.{alias.name}" if is_module else module


def inside(names: Iterator[str]) -> set[str]:
    """Return what of the names is the project's own, without the package's name; envs as a whole."""
    own = set()
    for name in names:
        package, _, rest = name.partition(".")
        if package == "curl_rl":
            own.add(rest or "__init__")
        elif package == "envs":
            own.add("envs")
    return own


def allowed(module: str) -> set[str]:
    """Return the row of a module: its own, else its package's."""
    package = module.partition(".")[0]
    row = MAY_IMPORT.get(module, MAY_IMPORT.get(f"{package}.*"))
    assert row is not None, f"{module} has no row in the table"
    return row | {"types", "options"}


def may(imported: str, permitted: set[str]) -> bool:
    return imported in permitted or f"{imported.partition('.')[0]}.*" in permitted


@pytest.mark.parametrize("module", modules())
def test_imports_follow_the_table(module):
    permitted = allowed(module)
    wrong = sorted(name for name in inside(imports(modules()[module])) if not may(name, permitted))
    assert not wrong, f"curl_rl.{module} imports {', '.join(wrong)}"


def test_the_table_names_modules_that_exist():
    names = {row.removesuffix(".*") for row in MAY_IMPORT}
    assert names <= set(modules()) | {module.partition(".")[0] for module in modules()}


def test_the_reader_of_imports_sees_them():
    assert inside(imports(ROOT / "curl_rl" / "encoders.py")) == {"networks", "options", "types"}
    assert {"objectives.base", "encoders"} <= inside(imports(modules()["objectives.contrastive"]))
    assert "envs" in inside(imports(ROOT / "curl_rl" / "overrides.py"))
    assert not may("agents.sac", allowed("objectives.contrastive"))
    assert not may("objectives.contrastive", allowed("agents.sac"))
    assert not may("replay", allowed("agents.sac"))


def test_environments_know_nothing_of_the_learner():
    for path in sorted((ROOT / "envs").rglob("*.py")):
        own = {name for name in imports(path) if name.partition(".")[0] in ("curl_rl", "torch")}
        assert not own, f"{path.name} imports {own}"


def test_simulators_are_imported_inside_functions():
    for path in sorted([*(ROOT / "envs").rglob("*.py"), *(ROOT / "curl_rl").rglob("*.py")]):
        top = {name.partition(".")[0] for name in imports(path, only_top=True)}
        assert not top & {"dm_control", "mujoco", "ale_py"}, path.name


def test_the_command_line_imports_nothing_heavy_at_its_top():
    assert inside(imports(ROOT / "curl_rl" / "cli.py", only_top=True)) == {"__init__"}


@pytest.mark.parametrize("module", ["curl_rl", "curl_rl.export", "curl_rl.overrides", "curl_rl.report.build"])
def test_importing_loads_no_simulator(module):
    heavy = {"dm_control", "mujoco", "ale_py"} | ({"envs", "hydra"} if module != "curl_rl.overrides" else set())
    heavy |= {"torch", "numpy"} if module == "curl_rl" else set()
    heavy |= {"torch"} if module.startswith("curl_rl.report") else set()
    code = f"import sys, {module}; print(sorted({heavy!r} & set(sys.modules)))"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_no_module_is_long():
    paths = [path for folder in ("curl_rl", "envs", "scripts") for path in sorted((ROOT / folder).rglob("*.py"))]
    assert len(paths) > 20
    lengths = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in paths}
    assert {name: lines for name, lines in lengths.items() if lines > 400} == {}


def test_every_module_says_what_it_is():
    paths = [path for folder in ("curl_rl", "envs", "scripts") for path in sorted((ROOT / folder).rglob("*.py"))]
    assert [path.name for path in paths if not ast.get_docstring(ast.parse(path.read_text()))] == []
