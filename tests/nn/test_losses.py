"""The losses against formulas written out in float64, values found by hand, and their invariances."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.distributions import Independent, Normal, TransformedDistribution
from torch.distributions.transforms import TanhTransform

from curl_rl.nn.losses import (
    bilinear_logits,
    categorical_loss,
    info_nce,
    project_distribution,
    soft_q_target,
    squashed_gaussian,
    twin_q_loss,
)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture
def gaussian() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    mean, log_std, noise = (torch.randn((64, 3), generator=generator, dtype=torch.float64) for _ in range(3))
    return mean, log_std * 0.5 - 1, noise


def test_squashed_gaussian_is_the_transformed_distribution(gaussian):
    mean, log_std, noise = gaussian
    normal = Independent(Normal(mean, log_std.exp()), 1)
    squashed = TransformedDistribution(normal, TanhTransform(cache_size=1))
    u = mean + log_std.exp() * noise
    action, log_prob = squashed_gaussian(mean, log_std, noise)
    assert action.dtype == log_prob.dtype == torch.float32
    torch.testing.assert_close(action.double(), u.tanh(), rtol=1e-5, atol=1e-6)
    expected = normal.log_prob(u) - squashed.transforms[0].log_abs_det_jacobian(u, u.tanh()).sum(-1)
    torch.testing.assert_close(log_prob.double(), expected, rtol=1e-5, atol=1e-5)


def test_squashed_gaussian_gradients_are_those_of_the_float64_formula(gaussian):
    def formula(mean, log_std, noise):
        u = mean + log_std.exp() * noise
        normal = -0.5 * ((u - mean) / log_std.exp()) ** 2 - log_std - 0.5 * math.log(2 * math.pi)
        return u.tanh(), (normal - torch.log(1 - u.tanh() ** 2)).sum(-1)

    gradients = []
    for sample in (squashed_gaussian, formula):
        mean, log_std = (x.clone().requires_grad_() for x in gaussian[:2])
        action, log_prob = sample(mean, log_std, gaussian[2])
        (action.sum() + 0.3 * log_prob.sum()).backward()
        gradients.append((mean.grad, log_std.grad))
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("u", [-40.0, -9.0, 9.0, 40.0])
def test_log_probability_stays_exact_where_tanh_saturates(u):
    # log(1 - tanh(u)^2) = 2 log 2 - 2 log(e^u + e^-u), in float64
    expected = -0.5 * math.log(2 * math.pi) - (2 * math.log(2) - 2 * float(np.logaddexp(u, -u)))
    _, log_prob = squashed_gaussian(torch.tensor([[u]]), torch.zeros(1, 1), torch.zeros(1, 1))
    assert float(log_prob) == pytest.approx(expected, rel=1e-5)


def test_squashed_density_integrates_to_one():
    mean, std = 0.4, 0.6
    action = torch.linspace(-1, 1, 20_001, dtype=torch.float64)[1:-1]
    noise = (action.atanh() - mean) / std
    shape = (len(action), 1)
    _, log_prob = squashed_gaussian(torch.full(shape, mean), torch.full(shape, std).log(), noise[:, None])
    assert float(torch.trapezoid(log_prob.double().exp(), action)) == pytest.approx(1.0, abs=1e-4)


def test_soft_target_by_hand():
    target = soft_q_target(
        reward=torch.tensor([1.0, 2.0]),
        discount=torch.tensor([0.5, 0.0]),  # the second transition terminates
        next_q=torch.tensor([[3.0, 9.0], [5.0, 8.0]]),
        next_log_prob=torch.tensor([-2.0, 4.0]),
        alpha=torch.tensor(0.1),
    )
    torch.testing.assert_close(target, torch.tensor([1 + 0.5 * (3 + 0.2), 2.0]))


def test_soft_target_ignores_the_order_of_the_heads():
    next_q, rest = torch.tensor([[3.0], [5.0]]), (torch.tensor([0.7]), torch.tensor(0.2))
    args = torch.ones(1), torch.ones(1)
    assert torch.equal(soft_q_target(*args, next_q, *rest), soft_q_target(*args, next_q.flip(0), *rest))


def test_twin_loss_by_hand():
    q, target, weight = torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([0.0, 1.0]), torch.tensor([1.0, 0.5])
    # first head (1 + 0.5) / 2, second head (9 + 4.5) / 2
    assert float(twin_q_loss(q, target, weight)) == pytest.approx(0.75 + 6.75)


def test_twin_loss_with_weight_one_is_two_mean_squared_errors():
    q, target = torch.randn(2, 7), torch.randn(7)
    expected = sum(torch.nn.functional.mse_loss(head, target) for head in q)
    torch.testing.assert_close(twin_q_loss(q, target, torch.ones(7)), expected)


def test_value_losses_pass_gradcheck():
    q, target, weight, log_prob = (torch.randn(s, dtype=torch.float64) for s in ((2, 5), 5, 5, 5))
    assert torch.autograd.gradcheck(lambda q: twin_q_loss(q, target, weight.abs()), q.requires_grad_())
    alpha = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    inputs = [x.requires_grad_() for x in (target, q.detach(), log_prob)] + [alpha]
    assert torch.autograd.gradcheck(lambda r, q, p, a: soft_q_target(r, weight, q, p, a), inputs)


ATOMS = torch.tensor([-1.0, -0.5, 0.0, 0.5, 1.0])


@pytest.mark.parametrize(
    ("atom", "reward", "discount", "expected"),
    [
        (2, 0.0, 1.0, [0, 0, 1, 0, 0]),  # nothing moves
        (2, 0.5, 1.0, [0, 0, 0, 1, 0]),  # exactly onto an atom
        (4, 0.0, 0.5, [0, 0, 0, 1, 0]),
        (2, 0.125, 1.0, [0, 0, 0.75, 0.25, 0]),  # a quarter of the way to the next
        (3, -1.25, 1.0, [0.5, 0.5, 0, 0, 0]),
        (3, 9.0, 1.0, [0, 0, 0, 0, 1]),  # above the support
        (3, -9.0, 1.0, [1, 0, 0, 0, 0]),  # below it
        (0, 0.25, 0.0, [0, 0, 0.5, 0.5, 0]),  # terminated: the reward alone
    ],
)
def test_projection_by_hand(atom, reward, discount, expected):
    probabilities = torch.eye(5)[atom][None]
    projected = project_distribution(probabilities, torch.tensor([reward]), torch.tensor([discount]), ATOMS)
    assert projected.tolist() == [expected]


def project_one_by_one(probabilities: Tensor, reward: Tensor, discount: Tensor, support: Tensor) -> Tensor:
    """Hand each atom's mass to its two neighbours, as in algorithm 1 of Bellemare et al. 2017, in float64."""
    low, high, projected = float(support[0]), float(support[-1]), torch.zeros_like(probabilities, dtype=torch.float64)
    for i, row in enumerate(probabilities.tolist()):
        for mass, atom in zip(row, support.tolist(), strict=True):
            moved = min(max(float(reward[i]) + float(discount[i]) * atom, low), high)
            place = (moved - low) / (high - low) * (len(support) - 1)
            below = min(math.floor(place), len(support) - 2)
            projected[i, below] += mass * (below + 1 - place)
            projected[i, below + 1] += mass * (place - below)
    return projected


def test_projection_equals_a_scatter_in_float64():
    support = torch.linspace(-10, 10, 51)
    probabilities, reward = torch.randn(64, 51).mul(3).softmax(1), torch.randn(64) * 6
    discount = torch.rand(64) * (torch.arange(64) % 4 != 0)
    projected = project_distribution(probabilities, reward, discount, support)
    assert projected.dtype == torch.float32
    expected = project_one_by_one(probabilities, reward, discount, support)
    torch.testing.assert_close(projected.double(), expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(projected.sum(1), torch.ones(64))
    inside = (reward.abs() + 10 * discount) <= 10
    assert 10 < int(inside.sum()) < 60
    mean = reward + discount * (probabilities @ support)
    torch.testing.assert_close((projected @ support)[inside], mean[inside], rtol=1e-4, atol=1e-4)
    assert float(((projected @ support) - mean)[~inside].abs().max()) > 0.1  # clipped


def test_categorical_loss_by_hand():
    # probabilities 1/4, 3/4 against 1/2, 1/2, then against all on the second atom
    logits = torch.tensor([[0.0, math.log(3)], [5.0, 5.0 + math.log(3)]])
    losses = categorical_loss(logits, torch.tensor([[0.5, 0.5], [0.0, 1.0]]))
    assert losses.tolist() == pytest.approx([-(math.log(1 / 4) + math.log(3 / 4)) / 2, -math.log(3 / 4)], rel=1e-6)


def test_categorical_loss_is_least_at_the_target():
    target = torch.randn(6, 9).softmax(1)
    logits = target.log().requires_grad_()
    losses = categorical_loss(logits, target)
    torch.testing.assert_close(losses.detach(), -(target * target.log()).sum(1))  # its entropy
    losses.sum().backward()
    torch.testing.assert_close(logits.grad, torch.zeros(6, 9), rtol=0, atol=1e-6)
    for _ in range(20):
        assert (categorical_loss(logits.detach() + 0.1 * torch.randn(6, 9), target) > losses.detach()).all()


def test_categorical_loss_has_the_gradient_of_a_softmax():
    logits, target = torch.randn(6, 9, requires_grad=True), torch.randn(6, 9).softmax(1)
    categorical_loss(logits, target).sum().backward()
    torch.testing.assert_close(logits.grad, logits.detach().softmax(1) - target)


def test_categorical_loss_is_float32_and_ignores_a_shift_of_the_logits():
    logits, target = torch.randn(6, 9).bfloat16(), torch.randn(6, 9).softmax(1)
    losses = categorical_loss(logits, target)
    assert losses.dtype == torch.float32
    torch.testing.assert_close(categorical_loss(logits.float() + torch.randn(6, 1) * 50, target), losses)


def test_bilinear_logits_are_query_weight_key():
    query, key, weight = (torch.randn(shape, dtype=torch.float64) for shape in ((4, 3), (4, 3), (3, 3)))
    expected = torch.stack([torch.stack([q @ weight @ k for k in key]) for q in query])
    expected -= expected.max(1, keepdim=True).values
    logits = bilinear_logits(query, key, weight)
    torch.testing.assert_close(logits.double(), expected, rtol=1e-4, atol=1e-5)
    assert torch.equal(logits.amax(1), torch.zeros(4))


def test_bilinear_logits_are_float32_whatever_comes_in():
    query, key, weight = torch.randn(4, 3).bfloat16(), torch.randn(4, 3).bfloat16(), torch.randn(3, 3)
    logits = bilinear_logits(query, key, weight)
    assert logits.dtype == torch.float32
    assert torch.equal(logits, bilinear_logits(query.float(), key.float(), weight))


def test_the_row_maximum_carries_no_gradient():
    query, key = torch.randn(4, 3), torch.randn(4, 3)
    weight = torch.randn(3, 3, requires_grad=True)
    bilinear_logits(query, key, weight).sum().backward()
    torch.testing.assert_close(weight.grad, query.sum(0)[:, None] * key.sum(0)[None, :])


def test_info_nce_by_hand():
    logits = torch.tensor([[0.0, math.log(3)], [0.0, math.log(3)]])
    loss, accuracy = info_nce(logits)  # the positives have probability 1/4 and 3/4
    assert float(loss) == pytest.approx(-(math.log(1 / 4) + math.log(3 / 4)) / 2, rel=1e-6)
    assert float(accuracy) == 0.5


def test_info_nce_matches_the_formula_and_its_gradient():
    logits = torch.randn(6, 6, dtype=torch.float64, requires_grad=True)
    loss = info_nce(logits)[0]
    loss.backward()
    exponentials = logits.detach().exp()
    share = exponentials / exponentials.sum(1, keepdim=True)
    assert float(loss.detach()) == pytest.approx(float(-share.diagonal().log().mean()), rel=1e-5)
    torch.testing.assert_close(logits.grad, (share - torch.eye(6)) / 6, rtol=1e-4, atol=1e-6)


def test_info_nce_invariances():
    logits = torch.randn(6, 6)
    loss, accuracy = info_nce(logits)
    shifted = info_nce(logits + torch.randn(6, 1))
    order = torch.randperm(6)
    reordered = info_nce(logits[order][:, order])
    for other in (shifted, reordered):
        torch.testing.assert_close(other, (loss, accuracy))
    assert float(info_nce(torch.full((6, 6), 5.0))[0]) == pytest.approx(math.log(6), rel=1e-6)
