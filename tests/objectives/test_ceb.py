"""The conditional entropy bottleneck: its two informations, the loss written out, and what it learns from."""

import copy
import math
from typing import Any

import pytest
import torch
from test_temporal import MASK, SHAPES, SIZE, STEPS, affine, build, draw, noise
from tiny import tiny_encoder
from torch import Tensor
from torch.distributions import Normal

from curl_rl.nn.encoders import Encoder
from curl_rl.nn.losses import predictive_information, residual_information
from curl_rl.objectives import OBJECTIVES, make_objective
from curl_rl.objectives.temporal import Ceb, _Mean
from curl_rl.types import Batch, Views

EVERY = torch.ones(7).bool()


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def codes(dtype: torch.dtype = torch.float64) -> list[Tensor]:
    """Draw samples and the means of both Gaussians, all different."""
    return [torch.randn(7, 3, dtype=dtype) for _ in range(3)]


def log_density(z: Tensor, mean: Tensor) -> float:
    return float(Normal(mean, 1.0).log_prob(z).sum())


# The two informations


def test_the_informations_by_hand():
    # log e(z) = -1/2 and log b(z) = -5/2 but for the constant that both have; then no difference; then a row not valid.
    sample, forward = (
        torch.tensor([[1.0, 2.0], [3.0, 0.0], [9.0, 9.0]]),
        torch.tensor([[1.0, 1.0], [2.0, 5.0], [0.0, 0.0]]),
    )
    backward, valid = torch.tensor([[0.0, 0.0], [2.0, 5.0], [math.nan, 1.0]]), torch.tensor([True, True, False])
    assert float(residual_information(sample, forward, backward, valid)) == pytest.approx((2 + 0) / 2)
    # b(1 | y_1) is three times b(1 | y_2), and the other way round for -1: 3/4 against a mean of 1/2.
    sample, backward = (
        torch.tensor([[1.0], [-1.0], [7.0]]),
        torch.tensor([[math.log(3) / 2], [-math.log(3) / 2], [7.0]]),
    )
    information, accuracy = predictive_information(sample, backward, valid)
    assert (float(information), float(accuracy)) == (pytest.approx(math.log(1.5), rel=1e-6), 1)
    # With the other's code each is likelier to be the other: 1/4 against 1/2.
    information, accuracy = predictive_information(-sample, backward, valid)
    assert (float(information), float(accuracy)) == (pytest.approx(math.log(0.5), rel=1e-6), 0)


def test_the_informations_are_the_formulas_of_densities():
    sample, forward, backward = codes()
    valid = torch.tensor([1, 0, 1, 1, 0, 1, 1]).bool()
    kept = valid.nonzero().flatten().tolist()
    residual = [log_density(sample[i], forward[i]) - log_density(sample[i], backward[i]) for i in kept]
    information, right = [], []
    for i in kept:
        densities = {k: math.exp(log_density(sample[i], backward[k])) for k in kept}
        information.append(math.log(densities[i] / (sum(densities.values()) / len(kept))))
        right.append(max(densities, key=densities.__getitem__) == i)
    found, accuracy = predictive_information(sample, backward, valid)
    assert float(residual_information(sample, forward, backward, valid)) == pytest.approx(sum(residual) / len(kept))
    assert float(found) == pytest.approx(sum(information) / len(kept))
    assert float(accuracy) == pytest.approx(sum(right) / len(kept))


def test_the_informations_have_their_bounds():
    forward, backward = torch.randn(2, 20_000, 3)
    sample = forward + torch.randn(forward.shape)
    divergence = 0.5 * (forward - backward).square().sum(1).mean()  # of two Gaussians of variance 1
    valid = torch.ones(len(sample)).bool()
    torch.testing.assert_close(residual_information(sample, forward, backward, valid), divergence, rtol=0.02, atol=0)
    assert float(residual_information(sample, forward, forward, valid)) == 0
    sample, _, backward = codes()
    assert float(predictive_information(sample, backward[:1].expand(7, 3), EVERY)[0]) == pytest.approx(0, abs=1e-9)
    apart = 100 * torch.eye(7)
    assert float(predictive_information(apart, apart, EVERY)[0]) == pytest.approx(math.log(7))


def test_the_informations_ignore_where_codes_lie_how_they_are_turned_and_in_what_order_they_come():
    valid = torch.tensor([1, 0, 1, 1, 0, 1, 1]).bool()
    three = codes()

    def both(sample: Tensor, forward: Tensor, backward: Tensor, valid: Tensor) -> tuple[Tensor, ...]:
        return residual_information(sample, forward, backward, valid), *predictive_information(sample, backward, valid)

    expected, order = both(*three, valid), torch.randperm(7)
    turn = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64))[0]
    torch.testing.assert_close(both(*(x @ turn + 4 for x in three), valid), expected)
    torch.testing.assert_close(both(*(x[order] for x in three), valid[order]), expected)
    assert not torch.allclose(both(*(2 * x for x in three), valid)[0], expected[0])  # the variance stays 1


@pytest.mark.parametrize("garbage", [1e3, math.nan])
def test_what_is_not_valid_changes_nothing_and_gets_no_gradient(garbage):
    valid = torch.tensor([1, 0, 1, 1, 0, 1, 1]).bool()
    three = codes()
    few = [x[valid] for x in three]
    spoilt = [torch.where(valid[:, None], x, garbage).requires_grad_() for x in three]
    torch.testing.assert_close(residual_information(*spoilt, valid), residual_information(*few, EVERY[:5]))
    found = predictive_information(spoilt[0], spoilt[2], valid)
    torch.testing.assert_close(found, predictive_information(few[0], few[2], EVERY[:5]))
    if math.isfinite(garbage):  # as what a network gives of any batch is
        (found[0] + residual_information(*spoilt, valid)).backward()
        assert not any(x.grad[~valid].any() for x in spoilt)


def test_the_informations_of_nothing_are_zero():
    sample, forward, backward = (x.requires_grad_() for x in codes())
    information, accuracy = predictive_information(sample, backward, ~EVERY)
    residual = residual_information(sample, forward, backward, ~EVERY)
    assert [float(x.detach()) for x in (information, accuracy, residual)] == [0, 0, 0]
    (information + residual).backward()
    assert not any(x.grad.any() for x in (sample, forward, backward))


def test_the_informations_pass_gradcheck_and_are_float32_at_least():
    inputs = [x.requires_grad_() for x in codes()]
    assert torch.autograd.gradcheck(lambda *x: residual_information(*x, EVERY), inputs)
    assert torch.autograd.gradcheck(lambda x, y: predictive_information(x, y, EVERY)[0], inputs[:2])
    low = codes(torch.bfloat16)
    assert residual_information(*low, EVERY).dtype == predictive_information(*low[:2], EVERY)[0].dtype == torch.float32


# The objective


@pytest.fixture
def encoders() -> tuple[Encoder, Encoder]:
    online, target = tiny_encoder(), tiny_encoder()
    for p in (*online.parameters(), *target.parameters()):
        torch.nn.init.normal_(p, std=0.3)
    return online, target


def mean_written_out(head: _Mean, valid: Tensor, *inputs: Tensor) -> Tensor:
    """Return what a head gives of the valid rows, in float64."""
    hidden = torch.cat([x.double() for x in inputs], 1)[valid]
    for layer in (head.first, head.second):
        hidden = affine(layer, hidden).clamp_min(0)
    last = affine(head.last, hidden)
    deviation = (last.var(0, correction=0) + 1e-3).sqrt()
    return (last - last.mean(0)) / deviation * head.scale.detach().double() + head.shift.detach().double()


@pytest.mark.parametrize("smoothing", [0.6, 0.0])
def test_ceb_is_the_formula_written_out(smoothing, encoders):
    batch, views = draw(mask=(mask := torch.tensor([[1, 1, 1]] * 4 + [[1, 1, 0], [1, 0, 0]]).bool()))
    ceb: Ceb = build("ceb", beta=0.3, smoothing=smoothing)
    for p in ceb.parameters():
        torch.nn.init.normal_(p)
    if not smoothing:  # another step less to look ahead
        batch = batch._replace(future=type(batch.future)(*(x[:, :2] for x in batch.future)))
    future, valid = batch.future, mask[:, 2 if smoothing else 1]
    loss, metrics = ceb(batch, views, *encoders)
    with torch.no_grad():
        e = mean_written_out(ceb.code, valid, encoders[0](views.query.images), future.action[:, 0], future.action[:, 1])
        seen = [encoders[1](future.obs[:, step].contiguous()) for step in range(future.obs.shape[1])]
        b = mean_written_out(ceb.later, valid, seen[1], future.reward[:, :2])
        after = mean_written_out(ceb.later, valid, seen[2], future.reward[:, 1:]) if smoothing else e
    drawn = torch.randn(SIZE, 5, generator=torch.Generator().manual_seed(0))[valid]
    total = residuals = informations = 0.0
    for i, z in enumerate(e + drawn):
        mean = sum(math.exp(log_density(z, other)) for other in b) / len(b)
        information = log_density(z, b[i]) - math.log(mean)
        residual = log_density(z, e[i]) - log_density(z, b[i])
        total += 0.3 * residual - information + smoothing * 0.3 * (log_density(z, e[i]) - log_density(z, after[i]))
        residuals, informations = residuals + residual, informations + information
    assert len(e) == (4 if smoothing else 5)
    assert float(loss.detach()) == pytest.approx(total / len(e), rel=1e-4)
    assert float(metrics["residual_information"]) == pytest.approx(residuals / len(e), rel=1e-4)
    assert float(metrics["predictive_information"]) == pytest.approx(informations / len(e), rel=1e-4)


def test_a_code_is_drawn_anew_at_each_call_from_a_generator_that_is_kept(encoders):
    ceb = make_objective(OBJECTIVES["ceb"].Config(steps=2), SHAPES)
    batch, views = draw()
    before = torch.get_rng_state()
    first = ceb(batch, views, *encoders)[0]
    other, state = make_objective(ceb.config, SHAPES), copy.deepcopy(ceb.state_dict())
    torch.set_rng_state(before)
    second = ceb(batch, views, *encoders)[0]
    assert torch.equal(torch.get_rng_state(), before)  # torch's own is left alone
    assert not torch.equal(first, second)
    other.load_state_dict(state)
    assert torch.equal(other(batch, views, *encoders)[0], second)


def test_codes_start_nearly_alike(encoders):
    ceb = make_objective(OBJECTIVES["ceb"].Config(steps=2), SHAPES)
    _, metrics = ceb(*draw(mask=torch.ones(SIZE, STEPS).bool()), *encoders)
    assert abs(float(metrics["predictive_information"])) < 1
    assert abs(float(metrics["residual_information"])) < 1


def foretold(patterns: Tensor) -> tuple[Batch, Views]:
    """Draw what follows: one of two pictures, by the second action alone, and one of three rewards, by the query."""
    batch, views = draw(mask=torch.ones(SIZE, 2).bool(), steps=2, discrete=True)
    action = torch.stack([torch.randint(SIZE, (SIZE,)), torch.arange(SIZE) % 2], 1)
    group = torch.arange(SIZE) // 2
    obs = noise(*batch.future.obs.shape)
    obs[:, 1, :, 4:] = patterns[action[:, 1], :, 4:]
    reward = (group[:, None] - 1).float().expand(-1, 2)
    images = noise(*views.query.images.shape)
    images[:, :, 4:] = patterns[2 + group, :, 4:]
    views = views._replace(query=views.query._replace(images=images))
    return batch._replace(future=batch.future._replace(obs=obs, action=action, reward=reward)), views


def trained(patterns: Tensor, updates: int, **fields: Any) -> tuple[Ceb, Encoder, Encoder]:
    online, target = tiny_encoder(), tiny_encoder()
    config = OBJECTIVES["ceb"].Config(steps=2, latent_dim=8, hidden_dim=16, smoothing=0.0, **fields)
    ceb = make_objective(config, SHAPES._replace(action_dim=SIZE))
    optimizer = torch.optim.Adam([*ceb.parameters(), *online.parameters()], 1e-2)
    for _ in range(updates):
        loss = ceb(*foretold(patterns), online, target)[0]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return ceb, online, target


def test_actions_and_query_tell_picture_and_rewards_and_each_shuffled_costs():
    patterns = noise(5, 9, 20, 20)
    ceb, online, target = trained(patterns, 250)
    ceb.register_forward_pre_hook(lambda module, _: module.random.generator.manual_seed(0) and None)
    batch, views = foretold(patterns)
    future = batch.future
    assert future is not None
    query = views.query._replace(images=views.query.images.roll(2, 0))
    other = future.action.clone()
    other[:, 1] = 1 - other[:, 1]
    wrong = {
        "action": (batch._replace(future=future._replace(action=other)), views),
        "picture": (batch._replace(future=future._replace(obs=future.obs[[1, 0, 3, 2, 5, 4]])), views),
        "reward": (batch._replace(future=future._replace(reward=future.reward.roll(2, 0))), views),
        "query": (batch, views._replace(query=query)),
        "pair": (batch._replace(future=type(future)(*(x.roll(2, 0) for x in future))), views),
    }
    with torch.no_grad():
        loss, metrics = ceb(batch, views, online, target)
        others = {name: float(ceb(*pair, online, target)[0]) for name, pair in wrong.items()}
    assert float(metrics["predictive_information"]) > math.log(SIZE) - 0.5  # of the log 6 that there are
    assert {name: other > float(loss) + 0.5 for name, other in others.items()} == dict.fromkeys(others, True)


def test_a_greater_beta_leaves_less_of_what_does_not_tell():
    patterns = noise(5, 9, 20, 20)
    residuals = []
    for beta in (0.0, 1.0):
        torch.manual_seed(0)
        parts = trained(patterns, 120, beta=beta)
        found = [parts[0](*foretold(patterns), *parts[1:])[1]["residual_information"] for _ in range(20)]
        residuals.append(float(torch.stack(found).mean()))
    assert residuals[1] < 0.5 * residuals[0]


def test_a_mask_at_the_last_step_decides(encoders):
    """A row that goes on for the steps but not for one more counts only where nothing is smoothed."""
    for smoothing, expected in ((0.6, 3), (0.0, 4)):
        ceb = build("ceb", smoothing=smoothing)
        batch, views = draw()
        future = type(batch.future)(*(x[:, : ceb.config.horizon] for x in batch.future))
        loss = ceb(batch._replace(future=future), views, *encoders)[0]
        kept = MASK[:, ceb.config.horizon - 1]
        assert int(kept.sum()) == expected
        for row in range(SIZE):
            changed = future.obs.clone()
            changed[row] = noise(*changed[row].shape)
            spoilt = batch._replace(future=future._replace(obs=changed))
            assert torch.equal(ceb(spoilt, views, *encoders)[0], loss) == (not kept[row])
