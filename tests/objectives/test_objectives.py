"""How objectives are found by name, and the seam that takes a new one without another edit."""

import copy
import dataclasses
import math
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import test_contract as contract
import torch
from places import ROOT
from tiny import (
    CROP,
    assert_equal_states,
    moved,
    run,
    tiny_batch,
    tiny_rainbow,
    tiny_sac,
    watch_maps,
    watch_steps,
)
from torch import Tensor, nn

from curl_rl import objectives
from curl_rl.config.overrides import compose
from curl_rl.objectives import OBJECTIVES, check_needs, make_objective
from curl_rl.objectives.base import Objective, ObjectiveConfig
from curl_rl.options import check, option
from curl_rl.run import trainer
from curl_rl.types import ConfigError, Shapes

SHAPES = Shapes(feature_dim=8, conv=(4, 7, 7), action_dim=2)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def test_objectives_are_found_by_name():
    assert {"none", "curl"} <= set(OBJECTIVES)
    for name, cls in OBJECTIVES.items():
        assert cls.Config().name == name
        assert isinstance(make_objective(cls.Config(), SHAPES), cls)


def test_an_unknown_objective_names_the_known_ones():
    @dataclasses.dataclass(frozen=True)
    class Config(ObjectiveConfig):
        name: str = "crul"

    with pytest.raises(ConfigError, match=r"unknown objective 'crul'; there are .*curl.*none"):
        make_objective(Config(), SHAPES)


@pytest.fixture
def folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """Give an empty folder in which objectives are looked for besides their own, while one test lasts."""
    shipped, before = dict(OBJECTIVES), set(sys.modules)
    monkeypatch.setattr(objectives, "__path__", [*objectives.__path__, str(tmp_path)])
    yield tmp_path
    OBJECTIVES.clear()
    OBJECTIVES.update(shipped)
    for name in set(sys.modules) - before:
        if name.startswith("curl_rl.objectives."):
            del sys.modules[name]


def test_objectives_are_found_at_any_depth_of_inheritance(folder):
    curl = sys.modules["curl_rl.objectives.curl"].Curl
    (folder / "deep.py").write_text(
        "from dataclasses import dataclass\n"
        "from curl_rl.objectives.curl import Curl, CurlConfig\n"
        "class Between(Curl):\n    pass\n"
        "@dataclass(frozen=True)\nclass DeepConfig(CurlConfig):\n    name: str = 'deep'\n"
        "class Deep(Between):\n    Config = DeepConfig\n"
    )
    OBJECTIVES.find()
    assert OBJECTIVES["deep"].__name__ == "Deep"
    assert OBJECTIVES["curl"] is curl  # and not the class between, which inherits its Config


def test_a_second_objective_of_a_shipped_name_is_refused_and_both_are_named(folder):
    (folder / "mine.py").write_text(
        "from dataclasses import dataclass\n"
        "from curl_rl.objectives.moco_mochi import Moco, MocoConfig\n"
        "class Mine(Moco):\n    Config = MocoConfig\n"
    )
    both = r"objective=moco is both curl_rl\.objectives\.\w+\.\w+ and curl_rl\.objectives\.\w+\.\w+: rename one of them"
    with pytest.raises(ConfigError, match=both) as error:
        OBJECTIVES.find()
    for place in ("curl_rl.objectives.mine.Mine", "curl_rl.objectives.moco_mochi.Moco"):
        assert place in str(error.value)


@pytest.mark.parametrize(
    ("text", "problem"), [("1 / 0", "ZeroDivisionError: division by zero"), ("def", "SyntaxError: invalid syntax")]
)
def test_a_broken_module_is_named_with_its_error(folder, text, problem):
    (folder / "broken.py").write_text(text)
    with pytest.raises(ConfigError, match=rf"curl_rl\.objectives\.broken cannot be imported \({problem}") as error:
        OBJECTIVES.find()
    assert type(error.value.__cause__).__name__ == problem.split(":")[0]


def test_a_weight_must_be_finite_and_none_has_nothing_to_weigh():
    for coefficient in (-0.5, math.nan, math.inf):
        with pytest.raises(ConfigError, match=r"objective\.coefficient must be at least 0 and"):
            check(OBJECTIVES["curl"].Config(coefficient=coefficient), "objective.")
    assert OBJECTIVES["curl"].Config(coefficient=0.0).coefficient == 0
    with pytest.raises(ConfigError, match="there is no loss to weigh"):
        OBJECTIVES["none"].Config(coefficient=1.0)


def test_an_objective_without_a_loss_says_so():
    class Unfinished(Objective):
        @dataclasses.dataclass(frozen=True)
        class Config(ObjectiveConfig):
            name: str = "unfinished"

    objective = Unfinished(Unfinished.Config(), SHAPES)
    nothing: tuple[Tensor | nn.Module | None, ...] = (None, None, None, None)
    with pytest.raises(TypeError, match="Unfinished gives no loss"):
        objective(*nothing)


@dataclasses.dataclass(frozen=True)
class BrightnessConfig(ObjectiveConfig):
    name: str = "brightness"
    coefficient: float | None = option(0.5, "weight of the loss")


@pytest.fixture
def brightness(monkeypatch: pytest.MonkeyPatch) -> None:
    """Register an objective for one test: predict the query's brightness; nothing else of the project knows of it."""

    class Brightness(Objective):
        Config = BrightnessConfig

        def __init__(self, config, shapes):
            super().__init__(config, shapes)
            self.head = nn.Linear(shapes.feature_dim, 1)
            self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

        def forward(self, batch, views, online, target):
            goal = views.query.images.float().mean((1, 2, 3)) / 255
            loss = (self.head(online(views.query.images))[:, 0] - goal).square().mean()
            return loss, {"goal": goal.mean()}

        def after_step(self):
            self.steps += 1

    monkeypatch.setitem(OBJECTIVES, "brightness", Brightness)


@pytest.mark.parametrize("update", ["joint", "sequential"])
def test_a_new_objective_needs_one_class_and_no_other_edit(update, brightness):
    agent, control = tiny_sac("brightness", update=update), tiny_sac("none", update=update)
    steps, seen = watch_steps(agent), watch_maps(agent.learner.encoder)
    start = copy.deepcopy(agent.learner.objective.head)
    result = agent.update(tiny_batch())
    control.update(tiny_batch())
    name = "critic" if update == "joint" else "objective"
    assert {"encoder", "objective"} <= moved(*next(s[1:] for s in reversed(steps) if s[0] == name))
    assert not torch.equal(start.weight, agent.learner.objective.head.weight)
    assert not torch.equal(agent.learner.encoder.convs[0].weight, control.learner.encoder.convs[0].weight)
    assert {"objective_loss", "goal"} <= set(result.metrics)
    assert len(seen) == (2 if update == "joint" else 3)  # what the critic computed is read, not computed again
    assert int(agent.learner.objective.steps) == 1

    resumed = tiny_sac("brightness", update=update, seed=3)
    resumed.load_state_dict(copy.deepcopy(agent.state_dict()))
    run(agent, range(1, 4))
    run(resumed, range(1, 4))
    assert int(resumed.learner.objective.steps) == 4
    assert_equal_states(agent, resumed)


def test_a_new_objective_trains_under_rainbow_too(brightness):
    agent, control = tiny_rainbow("brightness"), tiny_rainbow("none")
    seen = watch_maps(agent.learner.encoder)
    start = copy.deepcopy(agent.learner.objective.head)
    metrics = run(agent, range(2))
    run(control, range(2))
    assert not torch.equal(start.weight, agent.learner.objective.head.weight)
    assert not torch.equal(agent.learner.encoder.convs[0].weight, control.learner.encoder.convs[0].weight)
    assert {"objective_loss", "goal"} <= set(metrics[0])
    assert len(seen) == 2 * 3  # acting, obs with the query, next_obs
    assert int(agent.learner.objective.steps) == 2

    resumed = tiny_rainbow("brightness", seed=3)
    resumed.load_state_dict(copy.deepcopy(agent.state_dict()))
    run(agent, range(2, 4))
    run(resumed, range(2, 4))
    assert int(resumed.learner.objective.steps) == 4
    assert_equal_states(agent, resumed)


def test_an_objectives_gradient_is_scaled_by_its_coefficient(brightness):
    agent, batch = tiny_sac("brightness", augmentation="none", update="joint"), tiny_batch(obs_shape=(9, CROP, CROP))
    encoder, head = copy.deepcopy((agent.learner.encoder, agent.learner.objective.head))
    agent.update(batch)
    goal = batch.obs.float().mean((1, 2, 3)) / 255
    (0.5 * (head(encoder(batch.obs))[:, 0] - goal).square().mean()).backward()
    torch.testing.assert_close(agent.learner.objective.head.weight.grad, head.weight.grad, rtol=1e-4, atol=1e-6)


def put_readmes_objective(folder: Path) -> None:
    """Follow the README's section on adding an objective."""
    readme = ROOT.joinpath("README.md").read_text()
    section = readme.split("## Adding an objective")[1].split("\n## ")[0]
    (folder / "agree.py").write_text(section.split("```python\n")[1].split("```")[0])
    OBJECTIVES.find()


@pytest.mark.parametrize(("task", "preset"), [("toy/reach", "quick"), ("toy/grid", "rainbow")])
def test_the_readmes_objective_trains_by_its_name(folder, tmp_path_factory, task, preset):
    put_readmes_objective(folder)
    run_dir = tmp_path_factory.mktemp("agree") / "run"
    wanted = [f"task={task}", f"preset={preset}", "objective=agree", "objective.spread=2"]
    config = compose([*wanted, "device=cpu", "budget_frames=60", "random_steps=40", "log.every_updates=10"])
    assert trainer.train(dataclasses.replace(config, run_dir=str(run_dir))) == 0
    assert config.objective.spread == 2
    logged = {row.split(",")[3] for row in (run_dir / "train.csv").read_text().splitlines()}
    assert {"distance", "objective_loss", "feature_rank", "alignment", "view_accuracy"} <= logged
    with pytest.raises(ConfigError, match=r"objective\.spread must be above 0 and at most 1000000.0, got 0.0"):
        compose(["task=toy/reach", "objective=agree", "objective.spread=0"])


@pytest.mark.parametrize("kind", ["sac", "rainbow"])
def test_the_readmes_objective_keeps_the_contract(folder, kind):
    put_readmes_objective(folder)
    contract.test_a_loss_is_a_finite_scalar_whose_gradient_reaches_the_online_side_alone("agree", contract.make(kind))
    learned, mixed, constant = contract.trained_losses("agree", contract.make(kind))
    assert min(mixed, constant) > 1.05 * learned > 0


def test_sizes_that_no_memory_holds_are_refused():
    with pytest.raises(ConfigError, match=r"objective=moco cannot be built .* lower its sizes"):
        make_objective(OBJECTIVES["moco"].Config(queue_size=2**20, projection_dim=65_536), SHAPES)


def test_what_data_lack_is_refused_with_the_objectives_that_would_do():
    pictures = {"map"}
    for name in ("byol", "moco", "pixel_contrast"):
        check_needs(OBJECTIVES[name].Config(), pictures, "the folder")
    with pytest.raises(
        ConfigError, match=r"^objective=cpc needs actions and order, which the folder has not: choose b"
    ):
        check_needs(OBJECTIVES["cpc"].Config(), pictures, "the folder")
    with pytest.raises(ConfigError) as error:
        check_needs(OBJECTIVES["supcon"].Config(), {"classes"}, "the folder")
    assert str(error.value) == (
        "objective=supcon needs episodes, which the folder has not: choose another objective.labels, or one of "
        "barlow_twins, byol, curl, deepcluster, mochi, moco, open_world, pcl, simclr, simsiam, spcl, swav, vicreg, wmse"
    )
