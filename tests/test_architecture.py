"""The import table of the design, held literally; sizes; and what importing the package must not load."""

import ast
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from places import ROOT

# Which rooms a room may import from, besides itself; a module at the top of the package is a room of its own.
ROOMS: dict[str, set[str]] = {
    "types": set(),
    "options": {"types"},
    "envs": set(),
    "nn": {"types", "options"},
    "replay": {"types", "options"},
    "objectives": {"types", "options", "nn"},
    "agents": {"types", "options", "nn", "objectives"},
    "config": {"types", "options", "nn", "replay", "objectives", "agents", "envs"},
    "run": {"types", "options", "nn", "replay", "objectives", "agents", "config", "envs"},
    "representation": {"types", "options", "nn", "objectives", "config", "run"},
    "benchmark": {"types", "options", "config", "run"},
    "report": {"types", "config", "run", "benchmark"},
    "adapters": {"representation"},
    "entry": {"types", "options", "config", "run", "representation", "benchmark", "report", "adapters", "envs"},
}
ENTRY = {"__init__", "__main__", "cli", "commands", "doctor"}  # what a user calls
# Inside a room all may import each other but for circles; of these each stands alone, but for what it is made of.
ALONE = {"objectives": {"objectives.base", "objectives.learner"}, "agents": {"agents.base", "agents.schedule"}}


def room(module: str) -> str:
    name = module.partition(".")[0]
    return "entry" if name in ENTRY else name


def modules() -> dict[str, Path]:
    """Return every module of curl_rl by its name inside the package; `envs` is linked into it."""
    found = {}
    for path in [*sorted((ROOT / "curl_rl").rglob("*.py")), *sorted((ROOT / "envs").rglob("*.py"))]:
        parts = path.relative_to(ROOT if path.is_relative_to(ROOT / "envs") else ROOT / "curl_rl").with_suffix("").parts
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
    """Return what of the names is the project's own, without the package's name."""
    return {rest or "__init__" for package, _, rest in (name.partition(".") for name in names) if package == "curl_rl"}


def may(module: str, imported: str) -> bool:
    """Return whether the rooms let a module import another."""
    if imported == "__init__":  # the version
        return True
    mine, other = room(module), room(imported)
    if mine != other:
        return other in ROOMS[mine]
    if mine in ALONE and module != mine:
        return imported in ALONE[mine]
    return True


@pytest.mark.parametrize("module", modules())
def test_imports_follow_the_table(module):
    wrong = sorted(name for name in inside(imports(modules()[module])) if not may(module, name))
    assert not wrong, f"curl_rl.{module} imports {', '.join(wrong)}"


def test_the_table_is_of_the_rooms_there_are():
    assert {room(module) for module in modules()} == set(ROOMS)
    assert len(ROOMS) <= 14
    names = {
        path.name for path in (ROOT / "curl_rl").iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()
    }
    assert len(names) <= 18


def test_rooms_are_in_order():
    """Each imports only what stands before it: never back up, so no circle of rooms can be."""
    order = list(ROOMS)
    for name, permitted in ROOMS.items():
        assert {other for other in permitted if order.index(other) >= order.index(name)} == set(), name


def test_no_modules_import_each_other_in_a_circle():
    found = {module: inside(imports(path)) & modules().keys() - {"__init__"} for module, path in modules().items()}
    left = dict(found)
    while done := {module for module, needed in left.items() if not (needed - {module}) & left.keys()}:
        left = {module: needed for module, needed in left.items() if module not in done}
    assert left == {}


def test_the_reader_of_imports_sees_them():
    assert inside(imports(modules()["nn.encoders"])) == {"nn.encoders.base", "options", "types"}
    assert {"objectives.base", "types"} <= inside(imports(modules()["objectives.curl"]))
    assert "envs" in inside(imports(modules()["config.overrides"]))
    assert not may("objectives.curl", "agents.sac")
    assert not may("objectives.curl", "objectives.dense")
    assert not may("agents.sac", "agents.rainbow")
    assert not may("agents.sac", "replay.replay")
    assert not may("run.trainer", "report.build")


def test_environments_know_nothing_of_the_learner():
    for path in sorted((ROOT / "envs").rglob("*.py")):
        names = set(imports(path))
        own = {name for name in names if name.startswith("curl_rl") and not name.startswith("curl_rl.envs")}
        if path.name == "errors.py":  # the root of what the package raises stands above all rooms
            assert "\nfrom curl_rl import Error\n" in path.read_text()
            own.remove("curl_rl")
        assert not own, f"{path.name} imports {own}"
        assert not {name for name in names if name.partition(".")[0] in ("torch", "envs")}


def test_nothing_takes_the_environments_for_a_package_of_their_own():
    places = ("curl_rl", "envs", "scripts", "tests", "configs", "docs", "examples")
    paths = [path for place in places for path in (ROOT / place).rglob("*") if path.suffix in (".py", ".yaml", ".md")]
    assert len(paths) > 100
    foreign = re.compile(r"(?<!curl_rl )\bimport (\w+, )*envs\b|\bfrom envs\b|-m envs\b")
    assert all(map(foreign.search, ("import envs", "import sys, envs", "from envs import x", "from envs.gl import x")))
    assert not foreign.search("from curl_rl import cli, envs")
    others = (path for path in paths if path.name != Path(__file__).name)
    assert [str(path) for path in others if foreign.search(path.read_text())] == []


def test_simulators_are_imported_inside_functions():
    for path in sorted([*(ROOT / "envs").rglob("*.py"), *(ROOT / "curl_rl").rglob("*.py")]):
        top = {name.partition(".")[0] for name in imports(path, only_top=True)}
        assert not top & {"dm_control", "mujoco", "ale_py"}, path.name


def test_the_command_line_imports_nothing_heavy_at_its_top():
    assert inside(imports(ROOT / "curl_rl" / "cli.py", only_top=True)) == {"__init__"}


@pytest.mark.parametrize(
    "module", ["curl_rl", "curl_rl.representation.export", "curl_rl.config.overrides", "curl_rl.report.build"]
)
def test_importing_loads_no_simulator(module):
    heavy = {"dm_control", "mujoco", "ale_py"} | (
        {"curl_rl.envs", "hydra"} if module != "curl_rl.config.overrides" else set()
    )
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


def statements(path: Path) -> list[str]:
    """Return a module's lines without those that import, say nothing, or are blank."""
    tree, left_out = ast.parse(path.read_text()), set[int]()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            left_out |= set(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    lines = enumerate(path.read_text().splitlines(), 1)
    return [line.strip() for number, line in lines if number not in left_out and line.strip()]


def test_no_two_agents_share_six_lines_in_a_row():
    paths = [path for path in sorted((ROOT / "curl_rl" / "agents").glob("*.py")) if path.stem != "__init__"]
    assert len(paths) > 2
    seen: dict[tuple[str, ...], str] = {}
    for path in paths:
        lines = statements(path)
        for six in zip(*(lines[i:] for i in range(6)), strict=False):
            assert seen.setdefault(six, path.name) == path.name, six


def test_one_run_of_both_suites_is_read_in_1480_lines():
    agents = ("agents/sac", "agents/rainbow", "objectives/learner", "objectives/base", "objectives/curl")
    read = (*agents, "replay/replay", "run/trainer", "run/rollout", "run/assembly", "run/evaluate")
    lengths = {name: len((ROOT / "curl_rl" / f"{name}.py").read_text().splitlines()) for name in read}
    assert sum(lengths.values()) <= 1480, lengths
