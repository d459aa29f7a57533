"""Classes of the user's own, package.module:Class, from the command line to an exported encoder."""

import dataclasses
import importlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from places import ROOT
from runs import rows, state

from curl_rl import cli
from curl_rl.benchmark.plans import load_benchmark, make_plans
from curl_rl.config.overrides import compose, hydra_arguments
from curl_rl.config.schema import GROUPS, Config
from curl_rl.options import OwnClassError, quoted
from curl_rl.representation.export import EncoderError, load_encoder
from curl_rl.run.stored import configure, load_config
from curl_rl.types import ConfigError

MINE = '''
"""One class of each kind, beside the user."""

from dataclasses import dataclass

from torch import nn

from curl_rl.agents.sac import Sac, SacConfig
from curl_rl.nn.augmentations import Augmentation, AugmentationConfig
from curl_rl.nn.encoders import Encoder
from curl_rl.nn.images import unmoved
from curl_rl.objectives.base import Objective, ObjectiveConfig
from curl_rl.options import option


@dataclass(frozen=True)
class AgreeConfig(ObjectiveConfig):
    name: str = "agree"
    weight: float = option(1.0, "of what there is", above=0, at_most=3)


class Agree(Objective):
    """Two views of a frame are one."""

    Config = AgreeConfig

    def forward(self, batch, views, online, target):
        apart = (online(views.query.images) - target(views.key.images)).square().mean()
        return self.config.weight * apart, {"apart": apart.detach()}


@dataclass(frozen=True)
class EyeConfig:
    name: str = ""
    feature_dim: int = option(5, "width of the features", at_least=1, at_most=9)


class Eye(Encoder):
    """One wide look."""

    Config = EyeConfig

    def layers(self, config):
        return nn.Sequential(nn.Conv2d(self.obs_shape[0], 3, 8, 8), nn.ReLU())


@dataclass(frozen=True)
class NegativeConfig(AugmentationConfig):
    depth: int = option(255, "of white", at_least=1, at_most=255)


class Negative(Augmentation):
    """Black for white."""

    Config = NegativeConfig

    def __call__(self, images, generator):
        return unmoved(self.config.depth - images.clamp(max=self.config.depth))


@dataclass(frozen=True)
class CalmConfig(SacConfig):
    name: str = "calm"
    calm: float = option(0.5, "share of an action that is taken", above=0, at_most=1)


class Calm(Sac):
    """It halves its actions."""

    Config = CalmConfig

    def act(self, obs, *, explore):
        return self.config.calm * super().act(obs, explore=explore)
'''
KINDS = {
    "objective": ("Agree", "weight", 2.0, "must be above 0 and at most 3", "of what there is"),
    "encoder": ("Eye", "feature_dim", 4, "must be at least 1 and at most 9", "width of the features"),
    "augmentation": ("Negative", "depth", 99, "must be at least 1 and at most 255", "of white"),
    "agent": ("Calm", "calm", 0.25, "must be above 0 and at most 1", "share of an action that is taken"),
}
AGREES = """
from dataclasses import dataclass
from torch import nn
from curl_rl.objectives.base import Objective, ObjectiveConfig
from curl_rl.options import option

@dataclass(frozen=True)
class AgreeConfig(ObjectiveConfig):
    name: str = "agree"
    spread: float = option(1.0, "spread", above=0)

class Agree(Objective):
    Config = AgreeConfig

    def __init__(self, config, shapes):
        super().__init__(config, shapes)
        self.head = nn.Linear(4, 4)

    def forward(self, batch, views, online, target):
        return online(views.query.images).square().mean() + self.head.weight.sum() * 0, {}
"""
OWN = [f"{kind}=mine:{title}" for kind, (title, *_) in KINDS.items()]
RUN = [
    *("task=toy/reach", "budget_frames=60", "random_steps=20", "batch_size=4", "agent.hidden_dim=8", "device=cpu"),
    *("evaluation.every_frames=60", "evaluation.episodes=1", "threads=1", "log.every_updates=10"),
]


pytestmark = pytest.mark.usefixtures("folder")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Stand in a folder with mine.py, and forget it afterwards."""
    (tmp_path / "mine.py").write_text(MINE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield tmp_path
    sys.modules.pop("mine", None)


def in_another_process(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Python as an installed command does: it finds nothing in the current folder by itself."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-P", *arguments]
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=180, check=False
    )


def curl_rl(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return in_another_process(folder, "-m", "curl_rl", *arguments)


@pytest.mark.parametrize("kind", KINDS)
def test_a_class_of_ones_own_has_its_options_with_their_bounds_and_errors(kind, capsys):
    title, option, value, bounds, meaning = KINDS[kind]
    chosen = ["task=toy/reach", f"{kind}=mine:{title}"]
    config = compose([*chosen, f"{kind}.{option}={value}"])
    options = getattr(config, kind)
    assert (options.name, getattr(options, option)) == (f"mine:{title}", value)
    assert type(options) is GROUPS[kind][f"mine:{title}"].Config
    assert config.to_dict()[kind]["name"] == f"mine:{title}"
    assert Config.from_dict(config.to_dict()) == config
    for override, message in (
        (f"{option}=0", f"{kind}.{option} {bounds}, got 0"),
        (f"{option}=a", f"{kind}.{option} must be a "),
        (f"{option}s=1", f"unknown key '{kind}.{option}s'; did you mean {kind}.{option}"),
        ("name=mine", f"{kind}.name=mine: choose with {kind}=mine"),
    ):
        with pytest.raises(ConfigError) as error:
            compose([*chosen, f"{kind}.{override}"])
        assert str(error.value).startswith(message)
    assert cli.main(["train", *chosen, f"{kind}.{option}={value}", "--help"]) == 0
    shown = capsys.readouterr().out
    title_line = f"{kind}=mine:{title} (chosen)  {sys.modules['mine'].__dict__[title].__doc__}"
    assert title_line in shown
    line = next(line for line in shown.splitlines() if line.strip().startswith(f"{kind}.{option}={value} "))
    assert line.endswith(meaning)


def test_what_is_left_to_the_task_is_so_in_a_class_of_ones_own():
    assert (
        compose(["task=atari/pong", "objective=mine:Agree", "objective.coefficient=null"]).objective.coefficient == 0.01
    )


def test_the_default_folder_has_a_name_that_needs_no_quotes():
    config = compose(["task=toy/reach", "objective=mine:Agree"])
    assert config.run_dir == "runs/toy_reach/quick-mine.Agree-seed1" == quoted(config.run_dir)


def test_a_module_in_a_package_and_one_that_is_installed_are_taken_as_well(folder):
    (folder / "pack").mkdir()
    (folder / "pack" / "deep.py").write_text(MINE)
    config = compose(["task=toy/reach", "objective=pack.deep:Agree"])
    assert (config.objective.name, Path(config.run_dir).name) == ("pack.deep:Agree", "quick-pack.deep.Agree-seed1")
    shipped = compose(["task=toy/reach", "objective=curl_rl.objectives.moco_mochi:Moco"]).objective
    assert dataclasses.replace(shipped, name="moco") == compose(["task=toy/reach", "objective=moco"]).objective


@pytest.mark.slow
def test_a_run_of_ones_own_classes_trains_goes_on_plays_and_is_exported(folder, capsys):
    run = folder / "runs" / "toy_reach" / "quick-mine.Agree-seed1"
    assert cli.main(["train", *RUN, *OWN, "objective.weight=2"]) == 0
    assert "apart" in (run / "train.csv").read_text()
    stored = json.loads((run / "config.json").read_text())
    assert [stored[kind]["name"] for kind in KINDS] == [f"mine:{title}" for title, *_ in KINDS.values()]
    assert load_config(run).objective.weight == 2.0
    assert dataclasses.replace(configure([f"run_dir={run}"]), run_dir="") == dataclasses.replace(
        compose([*RUN, *OWN, "objective.weight=2"]), run_dir=""
    )
    assert state(run)["clock"][0] == 60
    assert cli.main(["evaluate", str(run), "--episodes", "1"]) == 0
    assert cli.main(["export", str(run), "--out", "eye"]) == 0
    capsys.readouterr()
    loaded = load_encoder("eye")
    assert (type(loaded.encoder).__name__, loaded.feature_dim) == ("Eye", 5)

    again = curl_rl(folder, "train", f"run_dir={run}")  # another process imports it again
    assert (again.returncode, "is finished" in again.stderr) == (0, True), again.stderr
    (folder / "mine.py").unlink()
    lost = (
        "cannot be used: mine cannot be imported (ModuleNotFoundError: No module named 'mine'): mend it, or start where"
    )
    for arguments in (["train", f"run_dir={run}"], ["evaluate", str(run)], ["export", str(run), "--out", "other"]):
        done = curl_rl(folder, *arguments)
        (line,) = done.stderr.splitlines()
        assert (done.returncode, line.startswith(f"curl-rl: the run in {run} needs a class of its own: ")) == (2, True)
        assert lost in line
    del sys.modules["mine"]
    with pytest.raises(EncoderError) as error:
        load_encoder("eye")
    assert str(error.value).startswith(
        f"eye/config.json names a class that is not in the folder: encoder=mine:Eye {lost}"
    )


def test_an_encoder_is_loaded_without_what_else_its_run_was_made_of(folder):
    assert cli.main(["train", *RUN, "objective=mine:Agree", "agent=mine:Calm", "encoder=small", "run_dir=run"]) == 0
    assert cli.main(["export", "run", "--out", "small"]) == 0
    code = (
        "import sys; from curl_rl.representation.export import load_encoder; print(load_encoder('small').feature_dim); "
        "print('mine' in sys.modules, '' in sys.path)"
    )
    done = in_another_process(folder, "-c", code)
    assert (done.stdout, done.stderr) == ("50\nFalse False\n", "")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("objective=mine:Agre", "mine.py has no class 'Agre'"),
        (
            "objective=thine:Agree",
            "thine cannot be imported (ModuleNotFoundError: No module named 'thine'): mend it, or",
        ),
        ("objective=mine:Eye", "mine.Eye is no objective: derive it from curl_rl.objectives.base.Objective"),
        ("encoder=mine:Agree", "mine.Agree is no encoder: derive it from curl_rl.nn.encoders.base.Encoder"),
        (
            "augmentation=mine:Calm",
            "mine.Calm is no augmentation: derive it from curl_rl.nn.augmentations.Augmentation",
        ),
        (
            "agent=mine:Eye",
            "mine.Eye has no discrete, reports_priorities, networks, act, update: every agent gives that",
        ),
        ("agent=mine:CalmConfig", "mine.CalmConfig has no Config, discrete, "),
        (
            "objective=broken:Agree",
            "broken cannot be imported (ZeroDivisionError: division by zero): mend it, or start",
        ),
    ],
)
def test_what_cannot_be_used_is_one_line(folder, capsys, override, message):
    (folder / "broken.py").write_text("1 / 0")
    assert cli.main(["train", "task=toy/reach", override]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"curl-rl: {override} cannot be used: ")
    assert message in line
    with pytest.raises(OwnClassError):
        hydra_arguments(["--multirun", "task=toy/reach", f"{override},none"])


@pytest.mark.slow
def test_the_command_finds_a_module_beside_the_user_and_hides_nothing_that_is_installed(folder):
    (folder / "torch.py").write_text("raise RuntimeError('not this one')")
    done = curl_rl(folder, "train", *RUN, *OWN)
    assert done.returncode == 0, done.stderr
    assert rows(folder / "runs" / "toy_reach" / "quick-mine.Agree-seed1")


@pytest.mark.slow
def test_a_benchmark_measures_methods_of_ones_own(folder):
    settings = "budget_frames: 60, random_steps: 20, evaluation.every_frames: 60, evaluation.episodes: 1"
    methods = "methods: {agree: {objective: 'mine:Agree', objective.weight: 2}, none: {objective: none}}"
    Path("own.yaml").write_text(f"tasks: [toy/reach]\nseeds: 1\nsettings: {{{settings}}}\n{methods}\n")
    agree, none = make_plans(load_benchmark("own.yaml"), [], "out")
    assert (agree.config.objective.name, agree.config.objective.weight) == ("mine:Agree", 2.0)
    assert none.config.objective.name == "none"
    assert "objective=mine:Agree" in agree.job.line()
    Path("own.yaml").write_text(Path("own.yaml").read_text().replace(", none: {objective: none}", ""))
    done = curl_rl(folder, "benchmark", "own.yaml", "--out", "out", "--workers", "1")
    assert done.returncode == 0, done.stderr
    assert rows(folder / "out" / "toy_reach" / "agree-seed1")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        (["agent=mine:Calm"], ["quick-mine.Agree-seed1"]),
        (
            ["--multirun", "hydra/launcher=submitit_local", "agent=sac,mine:Calm"],
            ["quick-mine.Agree-seed1-agent_mine_Calm", "quick-mine.Agree-seed1-agent_sac"],
        ),
    ],
)
def test_hydra_trains_with_classes_of_ones_own(folder, arguments, names):
    if "--multirun" in arguments:
        pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    script = str(ROOT / "scripts" / "train.py")
    done = in_another_process(folder, script, *RUN, "objective=mine:Agree", *arguments)
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in (folder / "runs" / "toy_reach").iterdir()) == names
    assert {load_config(folder / "runs" / "toy_reach" / name).objective.name for name in names} == {"mine:Agree"}


def test_a_class_that_is_written_anew_in_one_process_has_its_own_options(folder):
    def weight(key: str, least: int) -> float:
        text = MINE.replace("weight: float = option(1.0,", f"{key}: float = option({least}.0,")
        (folder / "mine.py").write_text(text.replace("config.weight", f"config.{key}"))
        importlib.invalidate_caches()
        sys.modules.pop("mine", None)
        return getattr(
            compose(["task=toy/reach", "objective=mine:Agree", f"objective.{key}={least + 1}"]).objective, key
        )

    assert weight("weight", 1) == 2
    assert weight("strength", 1) == 2
    assert weight("weight", 1) == 2
    with pytest.raises(ConfigError, match=r"unknown key 'objective\.strength'"):
        compose(["task=toy/reach", "objective=mine:Agree", "objective.strength=1"])


CHANGED = [
    ("spread: float", "width: float", "does not fit objective=mine:Agree any more .*: put it back as it was"),
    ("nn.Linear(4, 4)", "nn.Linear(4, 5)", "objective cannot take its state back .*size mismatch"),
]


@pytest.mark.parametrize(("before", "after", "told"), CHANGED)
def test_a_class_that_changed_since_its_run_is_what_is_named(tmp_path, monkeypatch, before, after, told):
    text = AGREES
    (tmp_path / "mine.py").write_text(text)
    trained = curl_rl(tmp_path, "train", *RUN, "objective=mine:Agree", "run_dir=run")
    assert trained.returncode == 0, trained.stderr
    assert before in text
    (tmp_path / "mine.py").write_text(text.replace(before, after).replace("config.spread", "config." + after[:5]))
    played = curl_rl(tmp_path, "evaluate", "run", "--episodes", "1")
    assert played.returncode == 2
    assert re.search(told, played.stderr), played.stderr
    assert played.stderr.count("\n") == 1
