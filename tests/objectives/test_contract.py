"""The contract that every registered objective keeps, with both agents' shapes."""

import copy
import dataclasses
import io
from typing import Any, NamedTuple

import pytest
import torch
from tiny import ACTIONS, assert_equal_states, run, tiny_batch, tiny_rainbow, tiny_sac, watch_inputs
from torch import Tensor, nn

from curl_rl.config.suites import objective_defaults
from curl_rl.nn.encoders import Encoder, encoder_config, make_encoder
from curl_rl.nn.networks import move_average
from curl_rl.nn.remembering import Remembering
from curl_rl.objectives import OBJECTIVES, make_objective
from curl_rl.objectives.base import Objective
from curl_rl.types import Batch, ConfigError, Crop, Shapes, Views

LEARNING = sorted(set(OBJECTIVES) - {"none"})
# So that queues turn over and clusters are found within a few updates; everything else is as shipped.
TINY: dict[str, dict[str, Any]] = {
    "moco": {"queue_size": 64},
    "mochi": {"queue_size": 64, "hardest": 16, "mixed": 8, "mixed_with_query": 4, "warmup": 3},
    "wmse": {"projection_dim": 2},
    "supcon": {"labels": "return_bin"},
    "pcl": {"queue_size": 64, "clusters": (4, 8), "period": 4, "warmup": 8},
    "spcl": {"memory_size": 64, "period": 4, "warmup": 8, "neighbors": 6, "expansion": 2},
    "swav": {"prototypes": 16, "queue_size": 24, "queue_start": 5, "freeze_updates": 3},
    "pixel_contrast": {"labels": "segmentation", "memory": 10},
    "open_world": {"start": 1, "period": 2, "momentum": 0.5},
    "deepcluster": {"clusters": (8, 8), "store_size": 64, "period": 4},
}
# Heads without normalisation take a while to tell features apart that all have a large part in common.
UPDATES = dict.fromkeys(("curl", "moco", "mochi", "pcl", "spcl", "supcon", "pixel_contrast", "spr"), 400)
# A constant encoder is the best that these can do: what keeps them from it is the asymmetry of their two sides.
CONSTANT_IS_BEST = {"byol", "simsiam"}


class Setting(NamedTuple):
    """What an objective is given, of one agent's kind."""

    shapes: Shapes
    online: Encoder
    target: Encoder

    def inputs(self, objective: Objective, size: int = 16, seed: int = 0) -> tuple[Batch, Views]:
        """Draw distinct images, each in two views and a future that differ from it by a little noise.

        Rewards and labels follow from the images, so that they can be learned.
        """
        config, generator = objective.config, torch.Generator().manual_seed(seed)
        batch = tiny_batch(
            seed,
            size=size,
            obs_shape=self.online.obs_shape,
            discrete=self.shapes.discrete,
            horizon=config.horizon,
            label_side=10 * ("labels" in config.needs),
        )
        bright = torch.rand((size, 1, 1, 1), generator=generator)
        coarse = bright * torch.rand((size, self.online.obs_shape[0], 5, 5), generator=generator)
        images = nn.functional.interpolate(coarse, self.online.obs_shape[-1], mode="bilinear") * 220

        def noisy() -> Tensor:
            return (images + 30 * torch.rand(images.shape, generator=generator)).byte()

        if batch.future is not None:
            steps = torch.stack([noisy() for _ in range(config.horizon)], 1)
            batch = batch._replace(future=batch.future._replace(obs=steps))
        if batch.labels is not None:
            shown = nn.functional.interpolate(coarse[:, -1:], 10, mode="bilinear")[:, 0]
            batch = batch._replace(labels=(4 * shown).byte())
        if "classes" in config.needs:
            batch = batch._replace(classes=(4 * bright[:, 0, 0, 0]).long())
        offsets = torch.zeros((size, 2), dtype=torch.int64)
        index = torch.arange(size) + 1000 * seed
        batch = batch._replace(obs=noisy(), reward=bright[:, 0, 0, 0], index=index, episode=index // 4)
        return batch, Views(Crop(batch.obs, offsets), Crop(noisy(), offsets))

    def loss(self, objective: Objective, batch: Batch, views: Views) -> tuple[Tensor, dict[str, Tensor]]:
        return objective(batch, views, Remembering(self.online), Remembering(self.target))

    def train(self, objective: Objective, updates: int) -> list[float]:
        """Take Adam steps as an agent does, on new images each; return the losses."""
        trained = [p for m in (self.online, objective) for p in m.parameters() if p.requires_grad]
        optimizer, losses = torch.optim.Adam(trained, lr=1e-3), []
        for i in range(updates):
            loss, _ = self.loss(objective, *self.inputs(objective, seed=100 + i))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            objective.after_step()
            move_average(self.target, self.online, 0.05)
            losses.append(loss.item())
        return losses


def make(kind: str) -> Setting:
    """Return the setting of an agent's kind."""
    torch.manual_seed(0)
    if kind == "sac":
        name, fields, shape = "strided", {"filters": 8, "feature_dim": 12}, (9, 40, 40)
    else:
        name, fields, shape = "data_efficient", {}, (4, 84, 84)
    online, target = (make_encoder(encoder_config(name, **fields), shape) for _ in range(2))
    target.requires_grad_(False)
    discrete = kind == "rainbow"
    return Setting(
        Shapes(online.feature_dim, online.conv_shape, ACTIONS, discrete, shape[-1], online.cells), online, target
    )


@pytest.fixture(params=["sac", "rainbow"])
def setting(request: pytest.FixtureRequest) -> Setting:
    return make(request.param)


def build(name: str, setting: Setting) -> Objective:
    """Build an objective as a run on the setting's suite does."""
    torch.manual_seed(1)
    task = "atari/alien" if setting.shapes.discrete else "dmc/cheetah_run"
    by_place = name == "pixel_contrast" and setting.shapes.discrete  # as on Atari, which has no classes
    config = OBJECTIVES[name].Config(**({} if by_place else TINY.get(name, {})))
    defaults = {key: value for key, value in objective_defaults(task).items() if getattr(config, key, "") is None}
    return make_objective(dataclasses.replace(config, **defaults), setting.shapes)


def saved(module: nn.Module) -> Any:
    """Return a module's state as a checkpoint gives it back."""
    file = io.BytesIO()
    torch.save(module.state_dict(), file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@pytest.mark.parametrize("name", LEARNING)
def test_a_loss_is_a_finite_scalar_whose_gradient_reaches_the_online_side_alone(name, setting):
    objective = build(name, setting)
    assert [field.name for field in dataclasses.fields(objective.config)][:2] == ["name", "coefficient"]
    assert not any(isinstance(module, Encoder) for module in objective.modules())
    batch, views = setting.inputs(objective)
    setting.target.requires_grad_(True)  # it could take a gradient here, and must not
    before = copy.deepcopy(setting.target.state_dict())
    setting.train(objective, 2)  # so that the prototypes of swav and what starts at zero are past their first steps
    setting.target.load_state_dict(before)
    objective.zero_grad()
    setting.online.zero_grad()
    loss, metrics = setting.loss(objective, batch, views)
    assert (loss.shape, loss.dtype) == ((), torch.float32)
    assert torch.isfinite(loss)
    for value in metrics.values():
        assert value.shape == ()
        assert torch.isfinite(value)
        assert not value.requires_grad
    loss.backward()
    assert any(p.grad is not None and p.grad.any() for p in setting.online.parameters())
    assert all((p.grad is not None) == p.requires_grad for p in objective.parameters())
    assert all(p.grad is None for p in setting.target.parameters())
    assert all(torch.equal(before[name], value) for name, value in setting.target.state_dict().items())


@pytest.mark.parametrize("name", LEARNING)
def test_an_objective_names_the_views_that_it_shows_the_target_encoder(name, setting):
    objective = build(name, setting)
    batch, views = setting.inputs(objective)
    seen = watch_inputs(setting.target.convs)
    setting.target.map = lambda images: setting.target.convs(images.float())  # whole, so that what passes is recognised
    setting.target.scale = lambda obs: obs
    setting.loss(objective, batch, views)
    shown = {key for key, view in views._asdict().items() if any(images.equal(view.images.float()) for images in seen)}
    assert shown == set(objective.target_views)


def trained_losses(name: str, setting: Setting) -> tuple[float, float, float]:
    """Return the loss after training, the same with pairs shuffled, and that of a constant encoder."""
    objective = build(name, setting)
    losses = setting.train(objective, UPDATES.get(name, 120))
    assert torch.isfinite(torch.tensor(losses)).all()
    batch, views = setting.inputs(objective)
    wrong = views._replace(key=Crop(views.key.images.roll(1, 0), views.key.offsets))
    shuffled = batch
    if batch.future is not None:
        shuffled = batch._replace(future=batch.future._replace(obs=batch.future.obs.roll(1, 0)))
    with torch.no_grad():
        learned, mixed = (
            setting.loss(copy.deepcopy(objective), *pair)[0].item() for pair in ((batch, views), (shuffled, wrong))
        )
        for encoder in (setting.online, setting.target):
            for p in encoder.parameters():
                p.fill_(0.5 if p.dim() == 1 else 0.0)
        for seed in range(5):  # so that queues hold what a collapsed encoder gives
            setting.loss(objective, *setting.inputs(objective, seed=1000 + seed))
            objective.after_step()
        constant = setting.loss(objective, batch, views)[0].item()
    return learned, mixed, constant


@pytest.mark.parametrize("name", LEARNING)
def test_a_trained_loss_rises_when_pairs_are_shuffled_or_the_encoder_is_constant(name, setting):
    learned, mixed, constant = trained_losses(name, setting)
    margin = 0.05 * abs(learned)
    assert mixed > learned + margin
    assert name in CONSTANT_IS_BEST or constant > learned + margin


@pytest.mark.parametrize("name", LEARNING)
def test_a_state_loaded_goes_on_bit_for_bit(name, setting):
    objective, other = build(name, setting), build(name, setting)
    setting.train(objective, 12)
    batch, views = setting.inputs(objective, seed=1)
    setting.loss(other, batch, views)  # a history of its own, which loading must replace
    other.load_state_dict(saved(objective))
    for seed in range(5):
        batch, views = setting.inputs(objective, seed=seed)
        found = [setting.loss(each, batch, views)[0].item() for each in (objective, other)]
        assert found[0] == found[1]
        for each in (objective, other):
            each.after_step()
    for key, value in objective.state_dict().items():
        assert torch.equal(torch.as_tensor(value), torch.as_tensor(other.state_dict()[key])), key


@pytest.mark.parametrize("name", LEARNING)
def test_a_loss_changes_nothing_that_is_kept(name, setting):
    objective = build(name, setting)
    setting.train(objective, 12)  # past every warm-up
    kept = {key: value for key, value in saved(objective).items() if not key.endswith("random._extra_state")}
    for seed in (1, 1, 2):
        setting.loss(objective, *setting.inputs(objective, seed=seed))
        after = saved(objective)
        assert [
            key for key, value in kept.items() if not torch.equal(torch.as_tensor(value), torch.as_tensor(after[key]))
        ] == []


@pytest.mark.parametrize("name", LEARNING)
def test_batches_of_any_size_follow_each_other(name, setting):
    objective = build(name, setting)
    for size in (5, 2, 40, 7, 3):
        try:
            objective.config.check_batch(size)
        except ConfigError as error:
            assert f"got {size}" in str(error)  # noqa: PT017
            continue
        loss, _ = setting.loss(objective, *setting.inputs(objective, size, seed=size))
        loss.backward()
        objective.after_step()
        assert torch.isfinite(loss)
        assert all(torch.isfinite(p.grad).all() for p in setting.online.parameters() if p.grad is not None)


@pytest.mark.parametrize("name", LEARNING)
def test_one_sample_works_or_is_refused_with_the_mend(name, setting):
    objective = build(name, setting)
    try:
        objective.config.check_batch(1)
    except ConfigError as error:
        assert "batch_size" in str(error)  # noqa: PT017
        return
    loss, _ = setting.loss(objective, *setting.inputs(objective, 1))
    assert torch.isfinite(loss)


@pytest.mark.parametrize("name", LEARNING)
def test_low_precision_stops_at_the_features(name, setting):
    objective = build(name, setting)
    batch, views = setting.inputs(objective)
    exact, _ = setting.loss(copy.deepcopy(objective), batch, views)
    setting.online.bf16 = setting.target.bf16 = True
    low, _ = setting.loss(objective, batch, views)
    assert low.dtype == torch.float32
    torch.testing.assert_close(low, exact, rtol=0.1, atol=0.1)


@pytest.mark.parametrize("name", sorted(OBJECTIVES))
@pytest.mark.parametrize("tiny", [tiny_sac, tiny_rainbow])
def test_an_agent_resumes_exactly(name, tiny):
    fields: dict[str, Any] = {"options": TINY.get(name)} if tiny is tiny_sac or name != "curl" else {}
    if tiny is tiny_rainbow:
        fields["obs_shape"] = (4, 28, 28)
    agent, resumed = tiny(name, **fields), tiny(name, seed=3, **fields)
    run(agent, range(3))
    resumed.load_state_dict(copy.deepcopy(agent.state_dict()))
    for one, two in zip(run(agent, range(3, 6)), run(resumed, range(3, 6)), strict=True):
        assert all(torch.equal(value, two[key]) for key, value in one.items())
    assert_equal_states(agent, resumed)


@pytest.mark.parametrize("name", LEARNING)
@pytest.mark.parametrize("tiny", [tiny_sac, tiny_rainbow])
def test_an_objective_of_weight_zero_costs_and_does_nothing(name, tiny):
    options = {**TINY.get(name, {}), "coefficient": 0.0}
    if name in ("pcl", "spcl"):
        options |= {"period": 1, "warmup": 0}
    agent = tiny(name, options=options)
    before = copy.deepcopy(agent.learner.objective.state_dict())
    metrics = run(agent, range(3))
    assert "objective_loss" not in metrics[0]
    for key, value in agent.learner.objective.state_dict().items():
        assert torch.equal(torch.as_tensor(value), torch.as_tensor(before[key])), key


@pytest.mark.parametrize("views", [("kee",), ("key")])
def test_views_that_are_none_are_refused_where_the_objective_is_built(views, monkeypatch):
    monkeypatch.setattr(OBJECTIVES["curl"], "target_views", views)
    told = r"objective=curl has target_views=.*: give a tuple of names, of query and key"
    with pytest.raises(ConfigError, match=told):
        build("curl", make("sac"))
