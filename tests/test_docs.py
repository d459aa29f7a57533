"""What a user reads: links lead somewhere, commands compose, names and metrics have their place, README is followed."""

import ast
import functools
import itertools
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from places import ROOT
from tiny import run, tiny_batch, tiny_rainbow, tiny_sac

from curl_rl import cli
from curl_rl.benchmark.plans import load_benchmark, make_plans, select
from curl_rl.commands import distil, finetune, flag, learn
from curl_rl.commands.arguments import overrides_of
from curl_rl.config.finetuning import compose_distillation, compose_finetuning
from curl_rl.config.overrides import compose, hydra_arguments
from curl_rl.config.pretraining import compose_pretraining
from curl_rl.config.schema import GROUPS
from curl_rl.config.unknowns import compose_addition, compose_flagging
from curl_rl.nn.diagnostics import watch_features
from curl_rl.objectives import OBJECTIVES
from curl_rl.representation.probing.options import compose_probing
from curl_rl.run.restart import split_restart

README = ROOT / "README.md"
PAGES = [README, *(ROOT / f"{name}.md" for name in ("CHANGELOG", "CONTRIBUTING", "results/README", "examples/README"))]
PAGES += sorted((ROOT / "docs").glob("*.md"))
VERBS = (
    "train",
    "record",
    "pretrain",
    "finetune",
    "distil",
    "probe",
    "index",
    "search",
    "gallery",
    "serve",
    "select",
    "flag",
    "learn",
    "evaluate",
    "export",
    "benchmark",
    "report",
    "doctor",
)
PARTS = ("What it learns", "Its metrics explained", "Departures")
STARTS = ("pretrained.", "from_run=", "from=", "replay.preload=")  # which are not there
# What the tiny batch of six is too small for.
TINY = {"wmse": {"projection_dim": 2}, "pcl": {"clusters": (2,)}}


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


every_page = pytest.mark.parametrize("page", PAGES, ids=name_of)


def prose(page: Path) -> str:
    """Return a page without what stands in its fences."""
    return re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)


def fenced(text: str, language: str) -> list[str]:
    """Return the blocks of a language, "" for commands."""
    blocks = re.findall(r"^```(\w*)\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)
    return [block for found, block in blocks if found == language]


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings as GitHub makes them."""
    seen: dict[str, int] = {}
    found = set()
    for title in re.findall(r"^#+ (.+)$", prose(page), flags=re.MULTILINE):
        anchor = re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")
        found.add(f"{anchor}-{seen[anchor]}" if anchor in seen else anchor)
        seen[anchor] = seen.get(anchor, 0) + 1
    return found


def section(text: str, title: str, level: int = 2) -> str:
    """Return what stands under a heading, to the next of its level or above; "" where there is no such heading."""
    start = re.search(rf"^{'#' * level} {re.escape(title)}$", text, flags=re.MULTILINE)
    return "" if start is None else re.split(rf"^#{{1,{level}}} ", text[start.end() :], flags=re.MULTILINE)[0]


@every_page
def test_links_and_anchors_lead_somewhere(page):
    links = re.findall(r"\]\(([^)\s]+)\)", prose(page))
    broken = []
    for link in links:
        if link.startswith(("https://", "http://")):
            continue
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    assert broken == []


def test_the_check_of_links_knows_githubs_anchors(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "# `none` and *curl*\n## Steps or frames?\n## DeepMind Control, 100K frames\n## A\n## A\n```\n# no\n```\n"
    )
    found = {"none-and-curl", "steps-or-frames", "deepmind-control-100k-frames", "a", "a-1"}
    assert anchors(page) == found


@every_page
def test_paths_of_the_project_that_a_page_names_exist(page):
    named = re.findall(r"`((?:curl_rl|envs|configs|scripts|tests|results|docs|examples)/[\w./]*)`", prose(page))
    assert [path for path in named if not (ROOT / path).exists()] == []


def test_the_readme_is_short_and_leads_to_every_page():
    assert len(README.read_text().splitlines()) <= 180
    linked = {
        link for page in (README, ROOT / "docs" / "README.md") for link in re.findall(r"([\w_]+\.md)", page.read_text())
    }
    assert {page.name for page in PAGES} <= linked | {"README.md"}


def methods() -> list[tuple[str, str]]:
    """Return each objective and agent with its page's text about it."""
    pages = [path.read_text() for path in sorted((ROOT / "docs").glob("*.md"))]
    found = [(name, "".join(section(page, f"`{name}`") for page in pages)) for name in OBJECTIVES]
    return found + [(name, (ROOT / "docs" / f"{name}.md").read_text()) for name in GROUPS["agent"]]


@pytest.mark.parametrize(("name", "text"), methods(), ids=[name for name, _ in methods()])
def test_every_method_has_its_three_parts(name, text):
    level = 2 if name in GROUPS["agent"] else 3
    for part in PARTS:
        assert section(text, part, level).strip(), f"docs say nothing of {name} under {part!r}"


@pytest.mark.parametrize("group", ["augmentation", "encoder"])
def test_every_augmentation_and_encoder_has_its_row(group):
    page = (ROOT / "docs" / f"{group}s.md").read_text()
    assert [name for name in GROUPS[group] if f"\n| `{name}` |" not in page] == []


def explained(text: str, level: int) -> set[str]:
    """Return the metrics that a method's text explains: the names in the first cells of its table."""
    rows = re.findall(r"^\| (`[^|]*) \|", section(text, "Its metrics explained", level), flags=re.MULTILINE)
    return {name for row in rows for name in re.findall(r"`(\w+)`", row)}


@pytest.mark.parametrize("name", sorted(OBJECTIVES))
@pytest.mark.parametrize("tiny", [tiny_sac, tiny_rainbow])
def test_every_metric_of_an_objective_is_explained_and_no_other(name, tiny):
    learned, control = (
        {key for metrics in run(tiny(each, options=TINY.get(each)), range(2)) for key in metrics}
        for each in (name, "none")
    )
    own = learned - control - {"objective_loss"}
    assert own == explained(dict(methods())[name], 3)


@pytest.mark.parametrize(("name", "tiny"), [("sac", tiny_sac), ("rainbow", tiny_rainbow)])
def test_every_metric_of_an_agent_is_explained_and_no_other(name, tiny):
    reported = {key for metrics in run(tiny("none"), range(2)) for key in metrics}
    assert reported == explained(dict(methods())[name], 2)


def test_what_every_run_logs_is_explained():
    agent, page = tiny_sac(), (ROOT / "docs" / "metrics.md").read_text()
    logged = {*watch_features(agent.learner, tiny_batch()), "objective_loss", "encoder_grad_norm"}
    logged |= {"return", "length", "frames_per_second"}
    rows = re.findall(r"^\| (`[^|]*) \|", page, flags=re.MULTILINE)
    assert logged == {name for row in rows for name in re.findall(r"`(\w+)`", row)}


def commands(page: Path) -> Iterator[list[str]]:
    """Yield the words of each command in a page: a line of a fenced block, or one in backticks."""
    lines = [line for block in fenced(page.read_text(), "") for line in block.replace("\\\n", " ").splitlines()]
    if page.name not in ("CHANGELOG.md", "CONTRIBUTING.md") and page.parent.name != "results":  # which tell of the past
        lines += re.findall(r"`((?:curl-rl|python scripts)[^`]+)`", prose(page).replace("\n", " "))
    for line in lines:
        words = shlex.split(line, comments=True)
        if words[:1] == ["curl-rl"] or words[:1] == ["python"]:
            yield words


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Iterator[Path]:
    """Give an empty folder in which commands are read, with the modules that the pages have one write."""
    monkeypatch.chdir(tmp_path)
    for title in ("Adding an objective", "Adding an agent"):
        written(title, tmp_path)
    for name, block in zip(
        ("maze", "worlds"), fenced((ROOT / "docs/environments.md").read_text(), "python"), strict=True
    ):
        (tmp_path / f"{name}.py").write_text(block)
    yield tmp_path
    for path in tmp_path.glob("*.py"):  # tests after this one have modules of these names too
        sys.modules.pop(path.stem, None)


@every_page
def test_commands_are_understood(page, folder):
    for program, *words in commands(page):
        if program == "curl-rl":
            check_command(words)
        elif "--multirun" in words:
            assert hydra_arguments(words[1:])
        else:
            assert (ROOT / words[0]).is_file(), words


def check_command(words: list[str]) -> None:
    if len(words) == 1 and words[0] in VERBS:  # named in passing
        return
    arguments = cli._parser().parse_args(words)
    if words[0] == "train":
        compose(text for text in split_restart(arguments.overrides)[1] if not text.startswith(STARTS))
    elif words[0] == "pretrain":
        compose_pretraining(arguments.overrides)
    elif words[0] == "probe":
        compose_probing(text for text in arguments.encoders if "=" in text)
    elif words[0] == "finetune":
        compose_finetuning(overrides_of(arguments, "pretrained", finetune.FLAGS))
    elif words[0] == "distil":
        # Without an encoder's name the teacher is asked, who is not there.
        compose_distillation(["encoder=small", *overrides_of(arguments, "teacher", distil.FLAGS)])
    elif words[0] == "flag":
        compose_flagging(overrides_of(arguments, "network", flag.FLAGS))
    elif words[0] == "learn":
        # Without an augmentation's name the classifier is asked, who is not there either.
        compose_addition(["augmentation=shift", *overrides_of(arguments, "classifier", learn.FLAGS)])
    elif words[0] == "benchmark" and arguments.name != "mine.yaml":
        benchmark = load_benchmark(arguments.name)
        chosen = select(benchmark, arguments.tasks or benchmark.tasks[:1], arguments.methods, seeds=1)
        assert make_plans(chosen, arguments.overrides, "runs/x")


@pytest.mark.parametrize(
    "words",
    [
        ["trian"],
        ["evaluate", "a", "b"],
        ["report", "a", "--outt", "b"],
        ["finetune", "a", "--label", "b", "--out", "c", "encoder=small"],
        ["distil", "a", "--data", "b"],
        ["flag", "a", "--data", "b"],
        ["learn", "a", "--label", "b"],
        ["train", "objective=crul"],
        ["benchmark", "dmc99k"],
    ],
    ids=" ".join,
)
def test_a_wrong_command_would_be_seen(words, folder):
    with pytest.raises((ValueError, SystemExit)):
        check_command(words)


@every_page
def test_python_in_a_page_is_python(page):
    assert all(ast.parse(block).body for block in fenced(page.read_text(), "python"))


def test_a_benchmark_of_ones_own_is_as_the_page_says(folder):
    (block,) = fenced((ROOT / "docs" / "benchmarks.md").read_text(), "yaml")
    (folder / "mine.yaml").write_text(block)
    benchmark = load_benchmark("mine.yaml")
    assert len(make_plans(benchmark, [], "runs/mine")) == len(benchmark.methods) * benchmark.seeds == 4


@pytest.mark.slow
def test_the_encoders_page_is_followed_literally(folder):
    """Train, export, load, and into every other library; the Hub's block would need its network."""
    page = (ROOT / "docs" / "encoders.md").read_text()
    blocks = fenced(page, "python")
    called("train", "task=toy/reach", "run_dir=runs/reach", *SHORT)
    called("export", "runs/reach", "--out", "enc")
    called("train", "task=toy/reach", "pretrained.path=enc", "pretrained.freeze=true", "run_dir=runs/again", *SHORT)
    executed(blocks[0] + "assert features.shape == (4, encoder.feature_dim)\n")
    for title in ("ONNX", "Hugging Face Hub"):
        ((command,),) = (block.splitlines() for block in fenced(section(page, title), ""))
        called(*command.split()[1:])
    assert (Path("card") / "README.md").exists()
    ends = {"TorchRL": "action.shape == (4, 7, 2)", "CleanRL, and any agent that is one file": "action.shape == (4, 2)"}
    for title, end in (ends | {"ONNX": "features.shape == (5, 50)"}).items():
        (block,) = fenced(section(page, title), "python")
        executed(f"{block}assert {end}\n")
    pytest.importorskip("stable_baselines3")
    (block,) = fenced(section(page, "stable-baselines3"), "python")
    executed(block.replace("agent.learn(200)", "agent.learn(110)"))


@pytest.mark.slow
def test_the_page_of_python_is_followed_literally(folder):
    blocks = fenced((ROOT / "docs" / "python.md").read_text(), "python")
    ends = ("assert run.finished", 'assert Path("enc", "model.safetensors").exists()', "assert run.finished")
    ends += (
        'assert not curl_rl.load_run("runs/thread").finished',
        'assert "did you mean agent.learning_rate" in str(told)',
    )
    blocks[-1] = blocks[-1].replace("print(error)", "told = error")
    for block, end in zip(blocks, ends, strict=True):
        executed(f"from pathlib import Path\n{block}{end}\n")


# The story at a small size: its agent acts at random, and no picture has the number that was asked for.
SMALL_STORY = {
    "budget_frames=100000": "budget_frames=3000 random_steps=370 evaluation.every_frames=3000 evaluation.episodes=1",
    "updates=400": "updates=2",
    "updates=200": "updates=2",
    "--episodes 8 --seed 7": "--episodes 1",
    "--episodes 8": "--episodes 3",
    "--count 50": "--count 40",
    "12400": "300",
    "11980": "280",
}


@pytest.mark.slow
def test_the_story_is_followed_literally(folder):
    page = (ROOT / "docs" / "story.md").read_text()
    small = functools.reduce(lambda text, old: text.replace(old, SMALL_STORY[old]), SMALL_STORY, page)
    for block in fenced(small, ""):
        for line in block.splitlines():
            program, *words = shlex.split(line)
            assert (cli.main(words) if program == "curl-rl" else subprocess.call(line, shell=True)) == 0
        if Path("sel").exists():  # and a person looks at it
            header, *rows = Path("sel/labels.csv").read_text().splitlines()
            named = [f"{row}{'up' if i % 2 else 'down'}" for i, row in enumerate(rows)]
            Path("named.csv").write_text("\n".join([header, *named]) + "\n")
    (block,) = fenced(small, "python")
    executed(f"{block}assert 0 <= accuracy <= 1\n")
    assert cli.main(shlex.split(re.findall(r"`(curl-rl flag [^`]*)`", small)[0])[1:]) == 0
    learned = json.loads(Path("clf2/learned.json").read_text())
    assert learned["after"].keys() == learned["before"].keys() >= {"old_accuracy", "new_accuracy", "a_ose"}
    assert all(Path(name).is_file() for name in ("saw.html", "upright.png", "leaving.png", "strange/gallery.html"))


SHORT = (
    "budget_frames=80",
    "random_steps=40",
    "evaluation.every_frames=80",
    "evaluation.episodes=2",
    "log.every_updates=20",
)


def called(*arguments: str) -> None:
    """Run `curl-rl` in the current folder, as a user's shell does."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "curl_rl", *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def executed(code: str) -> None:
    Path("page.py").write_text(code)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "page.py"], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def written(title: str, place: Path) -> str:
    """Write the class of one of README's sections into the file that it names; return the section."""
    text = section(README.read_text(), title)
    files = re.findall(r"`(\w+\.py)`", text)
    for block, file in itertools.product(fenced(text, "python")[:1], files[:1]):
        (place / file).write_text(block)
    return text


def follow(title: str, place: Path) -> list[list[str]]:
    """Do what one of README's sections says, for some steps; return the commands."""
    text = written(title, place)
    assert fenced(text, "python"), f"README's section {title!r} has no class"
    given = [shlex.split(line)[1:] for block in fenced(text, "") for line in block.splitlines()]
    assert given, f"README's section {title!r} has no command"
    for words in given:
        called(*words, *SHORT)
    return given


def test_the_readmes_objective_is_one_class_in_one_file(folder):
    ((*_, last),) = follow("Adding an objective", folder)
    run_dir = Path(last.removeprefix("run_dir="))
    logged = {row.split(",")[3] for row in (run_dir / "train.csv").read_text().splitlines()}
    assert {"distance", "lack", "objective_loss", "critic_loss"} <= logged
    assert len((run_dir / "eval.csv").read_text().splitlines()) == 3
    called("train", last)  # finished, and found again by what config.json says


def test_the_readmes_agent_is_one_class_in_one_file(folder):
    for *_, last in follow("Adding an agent", folder):
        assert len((Path(last.removeprefix("run_dir=")) / "eval.csv").read_text().splitlines()) == 3
