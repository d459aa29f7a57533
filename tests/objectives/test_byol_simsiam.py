"""BYOL and SimSiam: the distance, the losses written out from their parts, what learns and what stands still."""

import copy
import math
from typing import Any

import pytest
import torch
from tiny import assert_equal_states, run, tiny_batch, tiny_encoder, tiny_rainbow, tiny_sac, watch_maps
from torch import Tensor, nn

from curl_rl.nn.encoders import Encoder
from curl_rl.nn.losses import cosine_distance
from curl_rl.nn.remembering import Remembering
from curl_rl.objectives import OBJECTIVES, make_objective
from curl_rl.options import check
from curl_rl.types import Batch, ConfigError, Crop, Shapes, Views

SHAPES = Shapes(feature_dim=8, conv=(4, 7, 7), action_dim=2)
SMALL: dict[str, dict[str, Any]] = {
    "byol": {"projection_dim": 5, "projection_hidden": 7},
    "simsiam": {"projection_dim": 6, "predictor_hidden": 3},
}
Inputs = tuple[Batch, Views, Encoder, Encoder]


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def make_inputs(size: int = 6) -> Inputs:
    batch = tiny_batch(size=size, obs_shape=(9, 20, 20))
    offsets = torch.zeros((size, 2), dtype=torch.int64)
    views = Views(Crop(batch.obs, offsets), Crop(batch.next_obs, offsets))
    return batch, views, tiny_encoder(), tiny_encoder()


@pytest.fixture
def inputs() -> Inputs:
    return make_inputs()


def small(name: str, **fields: Any) -> Any:
    return make_objective(OBJECTIVES[name].Config(**{**SMALL[name], **fields}), SHAPES)


def test_cosine_distance_by_hand():
    prediction = torch.tensor([[3.0, 4.0], [1.0, 0.0], [0.0, 2.0], [1.0, 0.0]])
    target = torch.tensor([[6.0, 8.0], [0.0, 5.0], [0.0, -7.0], [3.0, 4.0]])
    # the same direction, a right angle, the opposite one, a cosine of 3/5
    assert float(cosine_distance(prediction, target)) == pytest.approx((0 + 1 + 2 + 0.4) / 4)


def test_cosine_distance_is_half_the_squared_distance_of_unit_vectors():
    prediction, target = torch.randn(7, 4, dtype=torch.float64), torch.randn(7, 4, dtype=torch.float64)
    total = 0.0
    for p, t in zip(prediction.tolist(), target.tolist(), strict=True):
        lengths = math.hypot(*p), math.hypot(*t)
        total += sum((a / lengths[0] - b / lengths[1]) ** 2 for a, b in zip(p, t, strict=True))
    distance = cosine_distance(prediction, target)
    assert distance.dtype == torch.float64
    assert float(distance) == pytest.approx(total / 7 / 2)


def test_cosine_distance_passes_gradcheck():
    inputs = [torch.randn(5, 3, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    assert torch.autograd.gradcheck(cosine_distance, inputs)


def test_cosine_distance_ignores_lengths_rotations_and_order():
    prediction, target = torch.randn(7, 4), torch.randn(7, 4)
    distance = cosine_distance(prediction, target)
    order, rotation = torch.randperm(7), torch.linalg.qr(torch.randn(4, 4)).Q
    for other in (
        cosine_distance(prediction * torch.rand(7, 1).add(0.1), target * 30),
        cosine_distance(prediction @ rotation, target @ rotation),
        cosine_distance(prediction[order], target[order]),
        cosine_distance(target, prediction),
    ):
        torch.testing.assert_close(other, distance)


def test_cosine_distance_is_float32_and_bounded_in_its_slope_at_zero():
    low = torch.randn(3, 4).bfloat16()
    assert cosine_distance(low, low).dtype == torch.float32
    prediction = torch.zeros(2, 4, requires_grad=True)
    distance = cosine_distance(prediction, torch.ones(2, 4))
    distance.backward()
    assert float(distance.detach()) == 1.0
    torch.testing.assert_close(prediction.grad, torch.full((2, 4), -0.5 / 1e-3 / 2))


def norm(x: Tensor, layer: nn.BatchNorm1d | None = None) -> Tensor:
    """Write batch normalisation by the batch's own statistics out."""
    x = (x - x.mean(0)) / (x.var(0, correction=0) + 1e-5).sqrt()
    return x if layer is None else x * layer.weight.double() + layer.bias.double()


def linear(x: Tensor, layer: nn.Linear) -> Tensor:
    bias = 0.0 if layer.bias is None else layer.bias.double()
    return x @ layer.weight.double().T + bias


def two_layers(head: nn.Sequential, x: Tensor) -> Tensor:
    first, normalise, _, last = head
    return linear(norm(linear(x, first), normalise).clamp_min(0), last)


def three_layers(head: nn.Sequential, x: Tensor) -> Tensor:
    first, one, _, second, two, _, last, _ = head
    x = norm(linear(x, first), one).clamp_min(0)
    return norm(linear(norm(linear(x, second), two).clamp_min(0), last))


def cosines(one: Tensor, other: Tensor) -> Tensor:
    return (one * other).sum(1) / one.norm(dim=1) / other.norm(dim=1)


def stir(objective: nn.Module) -> None:
    """Give every head weights of its own, so that no two of them can be confused."""
    for p in objective.parameters():
        nn.init.normal_(p)


@pytest.mark.parametrize("use_momentum", [True, False])
def test_byol_is_the_formula_written_out(use_momentum, inputs):
    _, views, online, target = inputs
    byol = small("byol", use_momentum=use_momentum)
    stir(byol)
    loss, metrics = byol(*inputs)
    with torch.no_grad():
        images = views.query.images, views.key.images
        projections = [two_layers(byol.projector, online(x).double()) for x in images]
        targets = projections
        if use_momentum:
            targets = [two_layers(byol.target_projector, target(x).double()) for x in images]
        query, key = (two_layers(byol.predictor, projection) for projection in projections)
        ahead, back = cosines(query, targets[1]), cosines(key, targets[0])
    assert float(loss.detach()) == pytest.approx(float((2 - 2 * ahead + 2 - 2 * back).mean()), rel=1e-4)
    assert float(metrics["similarity"]) == pytest.approx(float((ahead + back).mean() / 2), rel=1e-4, abs=1e-4)
    unit = targets[1] / targets[1].norm(dim=1, keepdim=True)
    assert float(metrics["target_std"]) == pytest.approx(float(unit.std(0).mean()) * math.sqrt(5), rel=1e-4)


def test_simsiam_is_the_formula_written_out(inputs):
    _, views, online, _ = inputs
    simsiam = small("simsiam")
    stir(simsiam)
    loss, metrics = simsiam(*inputs)
    with torch.no_grad():
        query, key = (three_layers(simsiam.projector, online(view.images).double()) for view in views)
        ahead = cosines(two_layers(simsiam.predictor, query), key)
        back = cosines(two_layers(simsiam.predictor, key), query)
    assert float(loss.detach()) == pytest.approx(1 - float((ahead / 2 + back / 2).mean()), rel=1e-4)
    assert float(metrics["similarity"]) == pytest.approx(1 - float(loss.detach()), rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("name", ["byol", "simsiam"])
def test_the_views_may_change_places(name, inputs):
    batch, views, online, target = inputs
    objective = small(name)
    loss = objective(*inputs)[0]
    torch.testing.assert_close(objective(batch, Views(views.key, views.query), online, target)[0], loss)


def gradients(loss: Tensor, modules: list[nn.Module]) -> list[Tensor]:
    return list(torch.autograd.grad(loss, [p for module in modules for p in module.parameters() if p.requires_grad]))


@pytest.mark.parametrize(("name", "fields"), [("byol", {"use_momentum": False}), ("simsiam", {})])
def test_no_gradient_passes_through_the_online_target(name, fields, inputs):
    _, views, online, _ = inputs
    objective = small(name, **fields)
    modules = [online, objective]
    got = gradients(objective(*inputs)[0], modules)
    projections = [objective.projector(online(view.images)) for view in views]
    query, key = (objective.predictor(projection) for projection in projections)
    expected = []
    for targets in ([p.detach().clone() for p in projections], projections):
        distance = cosine_distance(query, targets[1]) + cosine_distance(key, targets[0])
        loss = distance * (2 if name == "byol" else 0.5)
        expected.append(torch.autograd.grad(loss, [p for m in modules for p in m.parameters()], retain_graph=True))
    for one, other in zip(got, expected[0], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)
    assert any(
        not torch.allclose(one, other, rtol=1e-2, atol=1e-4) for one, other in zip(got, expected[1], strict=True)
    )


def test_byol_trains_the_online_side_and_the_targets_stand_still(inputs):
    _, _, online, target = inputs
    byol = small("byol")
    before = [p.clone() for p in byol.target_projector.parameters()]
    byol(*inputs)[0].backward()
    for module in (online, byol.projector, byol.predictor):
        assert all(p.grad is not None and p.grad.any() for p in module.parameters())
    for module in (target, byol.target_projector):
        assert all(p.grad is None for p in module.parameters())  # though the encoder's could take one here
    assert all(torch.equal(a, b) for a, b in zip(before, byol.target_projector.parameters(), strict=True))


def test_byols_target_projector_starts_as_a_copy_and_follows_by_its_tau(inputs):
    byol = small("byol", projection_tau=0.3)
    pairs = list(zip(byol.target_projector.parameters(), byol.projector.parameters(), strict=True))
    assert all(torch.equal(target, online) and not target.requires_grad for target, online in pairs)
    stir(byol)
    before = [target.clone() for target, _ in pairs]
    byol.after_step()
    for old, (target, online) in zip(before, pairs, strict=True):
        torch.testing.assert_close(target, 0.7 * old + 0.3 * online.detach())


def test_without_momentum_there_is_no_target_to_ask_nor_to_move(inputs):
    batch, views, online, target = inputs
    byol = small("byol", use_momentum=False)
    seen, asked = watch_maps(online), watch_maps(target)
    loss, _ = byol(batch, views, Remembering(online), Remembering(target))
    loss.backward()
    assert (len(seen), len(asked)) == (2, 0)
    assert not any(name.startswith("target") for name in byol.state_dict())
    before = copy.deepcopy(byol.state_dict())
    byol.after_step()
    assert all(torch.equal(value, before[name]) for name, value in byol.state_dict().items())


def test_byols_targets_are_computed_once_a_view_and_without_a_graph(inputs):
    batch, views, online, target = inputs
    seen, asked = watch_maps(online), watch_maps(target)
    small("byol")(batch, views, Remembering(online), Remembering(target))
    assert (len(seen), len(asked)) == (2, 2)


def test_simsiams_layers_are_the_papers():
    simsiam = small("simsiam")
    kinds = [type(layer).__name__ for layer in simsiam.projector]
    assert kinds == [*["Linear", "BatchNorm1d", "ReLU"] * 2, "Linear", "BatchNorm1d"]
    assert not simsiam.projector[-1].affine
    assert [type(layer).__name__ for layer in simsiam.predictor] == ["Linear", "BatchNorm1d", "ReLU", "Linear"]
    assert simsiam.predictor[-1].bias is not None


@pytest.mark.parametrize("name", ["byol", "simsiam"])
@pytest.mark.parametrize("size", [2, 3, 40])
def test_any_batch_of_two_or_more_gives_finite_numbers(name, size):
    batch, views, online, target = make_inputs(size)
    alike = Crop(batch.obs[:1].expand_as(batch.obs), views.query.offsets)
    for pair in (views, Views(alike, alike)):
        objective = small(name)
        loss, metrics = objective(batch, pair, online, target)
        assert loss.dtype == torch.float32
        for value in (loss, *metrics.values(), *gradients(loss, [online, objective])):
            assert value.isfinite().all()


def test_the_spread_of_the_targets_tells_collapse(inputs):
    batch, views, online, target = inputs
    alike = Crop(batch.obs[:1].expand_as(batch.obs), views.query.offsets)
    byol = small("byol")
    stir(byol)
    assert float(byol(batch, Views(alike, alike), online, target)[1]["target_std"]) == pytest.approx(0, abs=1e-2)
    assert float(byol(*inputs)[1]["target_std"]) > 0.5


@pytest.mark.parametrize("name", ["byol", "simsiam"])
def test_a_single_sample_is_refused(name):
    OBJECTIVES[name].Config().check_batch(2)
    with pytest.raises(ConfigError, match=rf"objective={name} compares samples .* batch_size=2 or more, got 1"):
        OBJECTIVES[name].Config().check_batch(1)


@pytest.mark.parametrize(
    ("name", "fields", "message"),
    [
        ("byol", {"projection_dim": 0}, r"objective\.projection_dim must be at least 1 and at most .*, got 0"),
        ("byol", {"projection_hidden": -3}, r"objective\.projection_hidden must be at least 1 and at most .*, got -3"),
        ("byol", {"projection_tau": 0.0}, r"objective\.projection_tau must be above 0 and at most 1, got 0.0"),
        ("byol", {"projection_tau": 1.1}, r"objective\.projection_tau must be above 0 and at most 1, got 1.1"),
        ("byol", {"coefficient": -1.0}, r"objective\.coefficient must be at least 0 and"),
        ("simsiam", {"projection_dim": 0}, r"objective\.projection_dim must be at least 1 and at most .*, got 0"),
        ("simsiam", {"predictor_hidden": 0}, r"objective\.predictor_hidden must be at least 1 and at most .*, got 0"),
        ("simsiam", {"coefficient": math.nan}, r"objective\.coefficient must be at least 0 and"),
    ],
    ids=str,
)
def test_options_that_cannot_be_honoured_are_refused(name, fields, message):
    with pytest.raises(ConfigError, match=message):
        check(OBJECTIVES[name].Config(**fields), "objective.")


@pytest.mark.parametrize("name", ["byol", "simsiam"])
@pytest.mark.parametrize("make", [tiny_sac, tiny_rainbow])
def test_a_resume_goes_on_bit_by_bit(name, make):
    agent, resumed = make(name), make(name, seed=3)
    run(agent, range(2))
    resumed.load_state_dict(copy.deepcopy(agent.state_dict()))
    run(agent, range(2, 4))
    run(resumed, range(2, 4))
    assert_equal_states(agent, resumed)
