"""Barlow Twins, VICReg and W-MSE: by hand, against formulas written out in float64, and where features are constant."""

import copy
import math
from typing import Any

import pytest
import torch
from tiny import assert_equal_states, atari_batch, tiny_batch, tiny_encoder, tiny_rainbow, tiny_sac, watch_maps
from torch import Tensor, nn

from curl_rl.nn.encoders import Encoder
from curl_rl.nn.losses import barlow_twins_loss, vicreg_terms, whiten, wmse_loss
from curl_rl.nn.remembering import Remembering
from curl_rl.objectives import OBJECTIVES, make_objective
from curl_rl.options import check
from curl_rl.types import Batch, ConfigError, Crop, Shapes, Views

NAMES = ("barlow_twins", "vicreg", "wmse")
SHAPES = Shapes(feature_dim=8, conv=(4, 7, 7), action_dim=2)
SMALL = {"projection_dim": 4, "projection_hidden": 7}
Inputs = tuple[Batch, Views, Encoder, Encoder]


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def pair(size: int = 9, dim: int = 4, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    one = torch.randn(size, dim, dtype=dtype)
    return one, one + 0.5 * torch.randn(size, dim, dtype=dtype)


def make_inputs(size: int = 6) -> Inputs:
    batch = tiny_batch(size=size, obs_shape=(9, 20, 20))
    offsets = torch.zeros((size, 2), dtype=torch.int64)
    views = Views(Crop(batch.obs, offsets), Crop(batch.next_obs, offsets))
    return batch, views, tiny_encoder(), tiny_encoder()


@pytest.fixture
def inputs() -> Inputs:
    return make_inputs()


def small(name: str, **fields: Any) -> Any:
    return make_objective(OBJECTIVES[name].Config(**{**SMALL, **fields}), SHAPES)


def test_barlow_twins_by_hand():
    a, b = torch.tensor([1.0, 1.0, -1.0, -1.0]), torch.tensor([1.0, -1.0, 1.0, -1.0])
    one, other = torch.stack([a, b], 1), torch.stack([a, a], 1)
    # C = [[1, 1], [0, 0]]: the second diagonal entry is wrong, and one of the others
    assert float(barlow_twins_loss(one, other, 0.1)) == pytest.approx((1 + 0.1) / 2, rel=1e-4)
    assert float(barlow_twins_loss(one, one, 0.1)) == pytest.approx(0, abs=1e-8)
    assert float(barlow_twins_loss(one, -one, 0.1)) == pytest.approx(4, rel=1e-4)


def barlow_by_loops(one: Tensor, other: Tensor, weight: float) -> float:
    size, dim = one.shape
    columns = []
    for x in (one, other):
        means = [sum(x[b, i].item() for b in range(size)) / size for i in range(dim)]
        variances = [sum((x[b, i].item() - means[i]) ** 2 for b in range(size)) / size for i in range(dim)]
        columns.append(
            [[(x[b, i].item() - means[i]) / math.sqrt(variances[i] + 1e-5) for b in range(size)] for i in range(dim)]
        )
    total = 0.0
    for i in range(dim):
        for j in range(dim):
            c = sum(p * q for p, q in zip(columns[0][i], columns[1][j], strict=True)) / size
            total += (1 - c) ** 2 if i == j else weight * c**2
    return total / dim


def test_barlow_twins_is_the_formula_written_out():
    one, other = pair()
    loss = barlow_twins_loss(one, other, 0.3)
    assert loss.dtype == torch.float64
    assert float(loss) == pytest.approx(barlow_by_loops(one, other, 0.3))


def test_barlow_twins_ignores_scales_shifts_and_orders():
    one, other = pair(size=40)
    loss = barlow_twins_loss(one, other, 0.3)
    samples, features = torch.randperm(40), torch.randperm(4)
    for changed in (
        barlow_twins_loss(one * torch.tensor([3.0, 1, 2, 50]) + 7, other - torch.arange(4.0), 0.3),
        barlow_twins_loss(one[samples], other[samples], 0.3),
        barlow_twins_loss(one[:, features], other[:, features], 0.3),
        barlow_twins_loss(other, one, 0.3),
    ):
        torch.testing.assert_close(changed, loss, rtol=1e-4, atol=1e-6)
    assert barlow_twins_loss(one, other.roll(1, 0), 0.3) > loss


def test_vicreg_by_hand():
    one, other = torch.tensor([[0.0, 0.0], [2.0, 2.0]]), torch.tensor([[0.0, 0.0], [2.0, -2.0]])
    # One of four entries differs by 4; variances are 2, covariances 2 and -2.
    assert [float(term) for term in vicreg_terms(one, other)] == [4.0, 0.0, pytest.approx(8.0)]
    flat = torch.tensor([[0.5, 0.0], [0.5, 0.0]])
    lack = 1 - math.sqrt(1e-4)
    assert [float(term) for term in vicreg_terms(flat, flat)] == pytest.approx([0, lack, 0])
    half = torch.tensor([[0.0, 0.0], [0.5, 0.0]])  # one of four features of both views has a variance: 1/8
    assert float(vicreg_terms(half, flat)[1]) == pytest.approx((1 - math.sqrt(0.1251) + 3 * lack) / 4)


def vicreg_by_loops(one: Tensor, other: Tensor) -> list[float]:
    size, dim = one.shape
    invariance = sum((one[b, i] - other[b, i]).item() ** 2 for b in range(size) for i in range(dim)) / size / dim
    variance = covariance = 0.0
    for x in (one, other):
        means = [x[:, i].mean().item() for i in range(dim)]
        for i in range(dim):
            for j in range(dim):
                products = [(x[b, i].item() - means[i]) * (x[b, j].item() - means[j]) for b in range(size)]
                c = sum(products) / (size - 1)
                if i == j:
                    variance += max(0.0, 1 - math.sqrt(c + 1e-4)) / dim / 2
                else:
                    covariance += c**2 / dim
    return [invariance, variance, covariance]


def test_vicreg_is_the_formula_written_out():
    one, other = pair()
    one = one * torch.tensor([0.1, 0.5, 1.0, 2.0])
    terms = vicreg_terms(one, other)
    assert all(term.dtype == torch.float64 for term in terms)
    assert [float(term) for term in terms] == pytest.approx(vicreg_by_loops(one, other))
    assert float(terms[1]) > 0.1


def test_vicreg_ignores_orders_and_what_its_terms_say_they_ignore():
    one, other = pair()
    terms = torch.stack(vicreg_terms(one, other))
    samples, features = torch.randperm(9), torch.randperm(4)
    for changed in (
        vicreg_terms(one[samples], other[samples]),
        vicreg_terms(one[:, features], other[:, features]),
        vicreg_terms(other + 5, one + 5),
    ):
        torch.testing.assert_close(torch.stack(changed), terms)
    rolled = torch.stack(vicreg_terms(one, other.roll(1, 0)))
    torch.testing.assert_close(rolled[1:], terms[1:])  # only the first knows of pairs
    assert rolled[0] > terms[0]


def covariance(x: Tensor) -> Tensor:
    return torch.cov(x.T)


def test_whitened_rows_have_mean_zero_and_the_identity_as_covariance():
    x = torch.randn(30, 5, dtype=torch.float64) @ torch.randn(5, 5, dtype=torch.float64) + 3
    whitened = whiten(x, 1e-12)
    torch.testing.assert_close(whitened.mean(0), torch.zeros(5, dtype=torch.float64), rtol=0, atol=1e-9)
    torch.testing.assert_close(covariance(whitened), torch.eye(5, dtype=torch.float64), rtol=0, atol=1e-6)
    mapped = torch.linalg.lstsq(x - x.mean(0), whitened).solution.T
    torch.testing.assert_close(mapped, mapped.tril(), rtol=0, atol=1e-6)  # Cholesky's, hence triangular
    torch.testing.assert_close(mapped.T @ mapped, torch.linalg.inv(covariance(x)), rtol=1e-4, atol=1e-6)


def test_whitening_by_hand():
    x = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 2.0], [0.0, -2.0]], dtype=torch.float64)
    # Variances 2/3 and 8/3, no covariance.
    expected = [[math.sqrt(1.5), 0.0], [-math.sqrt(1.5), 0.0], [0.0, math.sqrt(1.5)], [0.0, -math.sqrt(1.5)]]
    torch.testing.assert_close(whiten(x, 1e-15), torch.tensor(expected, dtype=torch.float64))
    # Half of it gives way to 1/2 (1 + 5/3): the covariance becomes 5/3 and 8/3.
    shrunk = whiten(x, 0.5)
    assert shrunk[0].tolist() == pytest.approx([1 / math.sqrt(5 / 3), 0.0])
    assert shrunk[2].tolist() == pytest.approx([0.0, 2 / math.sqrt(8 / 3)])


def wmse_written_out(one: Tensor, other: Tensor, epsilon: float) -> Tensor:
    whitened = []
    for x in (one, other):
        c = covariance(x)
        identity = torch.eye(len(c), dtype=x.dtype)
        c = (1 - epsilon) * c + epsilon * (1 + c.trace() / len(c)) * identity
        rows = (x - x.mean(0)) @ torch.linalg.inv(torch.linalg.cholesky(c)).T
        whitened.append(rows / rows.norm(dim=1, keepdim=True))
    return (whitened[0] - whitened[1]).square().sum(1).mean()


def test_wmse_is_the_formula_written_out():
    one, other = pair()
    loss = wmse_loss(one, other, 1e-3)
    assert loss.dtype == torch.float64
    torch.testing.assert_close(loss, wmse_written_out(one, other, 1e-3))
    torch.testing.assert_close(wmse_loss(one.float(), other.float(), 1e-3).double(), loss, rtol=1e-4, atol=1e-5)


def test_wmse_by_hand():
    # Whitened, each is the corners of a cross; turned by a quarter each pair is at a right angle.
    one = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 2.0], [0.0, -2.0]])
    other = torch.tensor([[0.0, 3.0], [0.0, -3.0], [-1.0, 0.0], [1.0, 0.0]])
    assert float(wmse_loss(one, other, 1e-3)) == pytest.approx(2)
    assert float(wmse_loss(one, one.flip(1), 1e-3)) == pytest.approx(2)
    assert float(wmse_loss(one, one, 1e-3)) == pytest.approx(0, abs=1e-6)
    assert float(wmse_loss(one, -one, 1e-3)) == pytest.approx(4)


def test_wmse_ignores_the_order_of_samples_shifts_and_triangular_maps():
    one, other = pair(size=20)
    loss, order = wmse_loss(one, other, 1e-12), torch.randperm(20)
    maps = [(torch.randn(4, 4, dtype=torch.float64).tril(-1) + torch.diag(torch.rand(4) + 0.5)).T for _ in range(2)]
    for changed in (
        wmse_loss(one @ maps[0] + 3, other @ maps[1] - 1, 1e-12),
        wmse_loss(one[order], other[order], 1e-12),
        wmse_loss(other, one, 1e-12),
    ):
        torch.testing.assert_close(changed, loss, rtol=1e-5, atol=1e-8)
    assert wmse_loss(one, other.roll(1, 0), 1e-12) > loss


LOSSES = {
    "barlow_twins": lambda one, other: barlow_twins_loss(one, other, 0.3),
    "vicreg": lambda one, other: sum(vicreg_terms(one, other)),
    "wmse": lambda one, other: wmse_loss(one, other, 1e-3),
}
CONSTANT = {"barlow_twins": 1.0, "vicreg": 0.99, "wmse": 2.0}


@pytest.mark.parametrize("name", NAMES)
def test_losses_pass_gradcheck(name):
    one, other = pair(size=7, dim=3)
    assert torch.autograd.gradcheck(LOSSES[name], [one.requires_grad_(), other.requires_grad_()])


@pytest.mark.parametrize("name", NAMES)
def test_losses_are_float32_whatever_comes_in(name):
    one, other = (x.bfloat16() for x in pair(size=7, dim=3))
    loss = LOSSES[name](one, other)
    assert loss.dtype == torch.float32
    assert torch.equal(loss, LOSSES[name](one.float(), other.float()))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("level", [0.0, 1.0, 1e4])
def test_constant_features_cost_much_and_their_gradient_is_finite(name, level):
    one = torch.full((6, 4), level, requires_grad=True)
    loss = LOSSES[name](one, one)
    loss.backward()
    assert float(loss.detach()) == pytest.approx(CONSTANT[name])
    assert one.grad.isfinite().all()
    distinct = 2 * torch.cat([torch.eye(4), -torch.eye(4)])
    assert float(LOSSES[name](distinct, distinct)) < 1e-3


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e4])
def test_batches_of_little_rank_give_finite_numbers(name, scale):
    rows = scale * torch.randn(2, 16).repeat(10, 1)
    one, other = rows.requires_grad_(), rows.detach().roll(1, 0)
    loss = LOSSES[name](one, other)
    loss.backward()
    assert loss.isfinite()
    assert one.grad.isfinite().all()


@pytest.mark.parametrize("name", ["barlow_twins", "vicreg"])
def test_two_samples_are_enough(name):
    one, other = (x.requires_grad_() for x in pair(size=2, dtype=torch.float32))
    loss = LOSSES[name](one, other)
    loss.backward()
    assert loss.isfinite()
    assert one.grad.isfinite().all()
    assert one.grad.any()


def embed(head: nn.Sequential, x: Tensor) -> Tensor:
    """Write the head out in float64: linear layers without biases, batch normalisation and a ReLU between them."""
    for layer in head:
        if isinstance(layer, nn.Linear):
            assert layer.bias is None
            x = x @ layer.weight.double().T
        elif isinstance(layer, nn.BatchNorm1d):
            x = (x - x.mean(0)) / (x.var(0, correction=0) + 1e-5).sqrt()
            x = x * layer.weight.double() + layer.bias.double()
        else:
            x = x.clamp_min(0)
    return x


@pytest.mark.parametrize(
    ("name", "fields", "depth"),
    [
        ("barlow_twins", {"redundancy_weight": 0.2}, 3),
        ("vicreg", {"invariance_weight": 3.0, "variance_weight": 2.0, "covariance_weight": 0.5}, 3),
        ("wmse", {"epsilon": 0.01}, 2),
    ],
)
def test_objectives_are_the_formula_on_both_views_of_the_online_encoder(name, fields, depth, inputs):
    _, views, online, _ = inputs
    objective = small(name, **fields)
    for p in objective.parameters():
        nn.init.normal_(p)
    loss, metrics = objective(*inputs)
    with torch.no_grad():
        one, other = (embed(objective.head, online(view.images).double()) for view in views)
    if name == "barlow_twins":
        expected = barlow_by_loops(one, other, 0.2)
    elif name == "vicreg":
        terms = vicreg_by_loops(one, other)
        expected = 3 * terms[0] + 2 * terms[1] + 0.5 * terms[2]
        assert [float(metrics[key]) for key in ("invariance", "variance", "covariance")] == pytest.approx(
            terms, rel=1e-4
        )
    else:
        expected = float(wmse_written_out(one, other, 0.01))
    assert float(loss.detach()) == pytest.approx(expected, rel=1e-3)
    assert sum(isinstance(layer, nn.Linear) for layer in objective.head) == depth


def test_vicregs_weights_have_the_papers_ratio_and_barlows_is_the_papers():
    c = OBJECTIVES["vicreg"].Config()
    weights = (c.invariance_weight, c.variance_weight, c.covariance_weight)
    assert [25 * weight for weight in weights] == pytest.approx([25, 25, 1])
    assert OBJECTIVES["barlow_twins"].Config().redundancy_weight == 0.0051


@pytest.mark.parametrize("name", NAMES)
def test_both_views_train_the_online_encoder_and_the_target_is_not_asked(name, inputs):
    batch, views, online, target = inputs
    objective = small(name)
    seen, asked = watch_maps(online), watch_maps(target)
    loss, metrics = objective(batch, views, Remembering(online), Remembering(target))
    assert (len(seen), len(asked)) == (2, 0)
    loss.backward()
    assert all(p.grad is not None and p.grad.any() for m in (online, objective) for p in m.parameters())
    assert not any(value.requires_grad for value in metrics.values())
    for view in views:  # each view alone carries a gradient
        other = next(v for v in views if v is not view)
        features = {id(view.images): online(view.images), id(other.images): online(other.images).detach()}
        part, _ = objective(batch, views, lambda images, known=features: known[id(images)], target)
        assert torch.autograd.grad(part, online.convs[0].weight)[0].any()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("alike", [False, True])
def test_batches_of_any_size_give_finite_numbers_and_constant_images_cost_much(name, alike):
    objective = small(name, projection_dim=2)
    for size in (9, 3, 2, 40)[: 2 if name == "wmse" else 4]:
        batch, views, online, target = make_inputs(size)
        if alike:
            views = Views(*[Crop(batch.obs[:1].expand_as(batch.obs), views.query.offsets)] * 2)
        loss, _ = objective(batch, views, online, target)
        loss.backward()
        assert loss.dtype == torch.float32
        assert loss.isfinite()
        assert all(p.grad.isfinite().all() for p in (*online.parameters(), *objective.parameters()))
        if alike:
            assert float(loss.detach()) == pytest.approx(CONSTANT[name], rel=1e-2)


@pytest.mark.parametrize("name", ["barlow_twins", "vicreg"])
def test_a_single_sample_is_refused(name):
    OBJECTIVES[name].Config().check_batch(2)
    with pytest.raises(ConfigError, match=rf"objective={name} compares samples .* batch_size=2 or more, got 1"):
        OBJECTIVES[name].Config().check_batch(1)


@pytest.mark.parametrize("size", [1, 2, 4])
def test_wmse_refuses_a_batch_that_its_dimension_exceeds_and_names_both_mends(size, inputs):
    wmse = small("wmse")
    message = (
        rf"whitens 4 dimensions, .* got {size}: raise batch_size to 5 or more, or lower objective\.projection_dim below"
    )
    with pytest.raises(ConfigError, match=message):
        wmse.config.check_batch(size)
    with pytest.raises(ConfigError, match=message):
        wmse(*make_inputs(size))
    wmse.config.check_batch(5)
    assert wmse(*make_inputs(5))[0].isfinite()


def test_wmses_dimension_suits_every_presets_batch():
    config = OBJECTIVES["wmse"].Config()
    config.check_batch(32)
    assert 2 * config.projection_dim <= 32  # the paper's ratio
    assert not config.capturable
    assert OBJECTIVES["vicreg"].Config().capturable


@pytest.mark.parametrize(
    ("name", "fields", "message"),
    [
        ("barlow_twins", {"projection_dim": 0}, r"objective\.projection_dim must be at least 1 and at most .*, got 0"),
        (
            "barlow_twins",
            {"redundancy_weight": -0.1},
            r"objective\.redundancy_weight must be at least 0 and .* -0.1",
        ),
        ("barlow_twins", {"coefficient": -1.0}, r"objective\.coefficient must be at least 0 and"),
        ("vicreg", {"projection_hidden": 0}, r"objective\.projection_hidden must be at least 1 and at most .*, got 0"),
        ("vicreg", {"invariance_weight": -1.0}, r"objective\.invariance_weight must be at least 0 and"),
        ("vicreg", {"variance_weight": math.inf}, r"objective\.variance_weight must be at least 0 and"),
        ("vicreg", {"covariance_weight": math.nan}, r"objective\.covariance_weight must be at least 0 and"),
        ("wmse", {"projection_dim": 1}, r"objective\.projection_dim must be at least 2 and at most .*, got 1"),
        ("wmse", {"projection_hidden": 0}, r"objective\.projection_hidden must be at least 1 and at most .*, got 0"),
        ("wmse", {"epsilon": 0.0}, r"objective\.epsilon must be above 0 and at most 1, got 0.0"),
    ],
    ids=str,
)
def test_options_that_cannot_be_honoured_are_refused(name, fields, message):
    with pytest.raises(ConfigError, match=message):
        check(OBJECTIVES[name].Config(**fields), "objective.")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("make", [tiny_sac, tiny_rainbow])
def test_a_resume_goes_on_bit_by_bit(name, make):
    agent, resumed = make(name), make(name, seed=3)
    train(agent, range(2))
    resumed.load_state_dict(copy.deepcopy(agent.state_dict()))
    train(agent, range(2, 4))
    train(resumed, range(2, 4))
    assert_equal_states(agent, resumed)


def train(agent: Any, updates: range) -> None:
    for i in updates:
        batch = atari_batch(i, size=18) if hasattr(agent, "heads") else tiny_batch(i, size=18)
        agent.update(batch)
