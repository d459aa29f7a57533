"""Measures of features against their formulas, at their extremes, and as an agent's run reports them."""

import copy
import math

import pytest
import torch
from tiny import assert_equal_states, atari_batch, tiny_batch, tiny_rainbow, tiny_sac

from curl_rl.nn.diagnostics import alignment, effective_rank, uniformity, view_accuracy, watch_features

NAMES = {"feature_rank", "feature_std", "feature_std_min", "uniformity", "alignment", "view_accuracy"}


@pytest.fixture
def features() -> torch.Tensor:
    return torch.randn(12, 5, generator=torch.Generator().manual_seed(0))


def test_effective_rank_is_the_formula_written_out(features):
    values = torch.linalg.eigvalsh(torch.cov(features.double().T)).sqrt()
    share = (values / values.sum()).tolist()
    expected = math.exp(-sum(p * math.log(p) for p in share))
    assert float(effective_rank(features)) == pytest.approx(expected, rel=1e-4)
    assert 1 < expected < 5


def test_effective_rank_counts_directions():
    axes = torch.eye(4)[:, :3].repeat(5, 1)  # three directions of equal size after centring, none of them alone
    assert float(effective_rank(torch.cat([axes, -axes]))) == pytest.approx(3, rel=1e-5)
    line = torch.arange(6.0)[:, None] * torch.tensor([1.0, 2.0, 3.0]) + 7
    assert float(effective_rank(line)) == pytest.approx(1, rel=1e-3)
    assert float(effective_rank(torch.full((6, 3), 2.5))) == 1


def test_alignment_uniformity_and_accuracy_are_their_formulas_written_out(features):
    key = features + 0.5 * torch.randn(features.shape, generator=torch.Generator().manual_seed(1))
    q, k = (x.double() / x.double().norm(dim=1, keepdim=True) for x in (features, key))
    n = len(q)
    squares = [float((q[i] - k[i]) @ (q[i] - k[i])) for i in range(n)]
    assert float(alignment(features, key)) == pytest.approx(sum(squares) / n, rel=1e-5)
    pairs = [math.exp(-2 * float((q[i] - q[j]) @ (q[i] - q[j]))) for i in range(n) for j in range(i)]
    assert float(uniformity(features)) == pytest.approx(math.log(sum(pairs) / len(pairs)), rel=1e-5)
    hits = sum(max(range(n), key=lambda j: float(q[i] @ k[j])) == i for i in range(n))
    assert 0 < hits < n
    assert float(view_accuracy(features, key)) == pytest.approx(hits / n)


def test_the_measures_ignore_the_features_scale(features):
    for measure in (effective_rank, uniformity, lambda x: alignment(x, features), lambda x: view_accuracy(x, features)):
        torch.testing.assert_close(measure(3 * features), measure(features), rtol=1e-5, atol=1e-6)


def test_features_all_alike_are_told():
    same = torch.ones(6, 4)
    assert float(alignment(same, same)) == 0
    assert float(uniformity(same)) == pytest.approx(0, abs=1e-6)
    assert float(view_accuracy(same, same)) == pytest.approx(1 / 6)


@pytest.mark.parametrize(("tiny", "draw"), [(tiny_sac, tiny_batch), (tiny_rainbow, atari_batch)])
def test_watching_an_agent_changes_nothing_of_it(tiny, draw):
    agent, batch = tiny("none"), draw()
    before = copy.deepcopy(agent)
    metrics = watch_features(agent.learner, batch)
    assert metrics.keys() == NAMES
    assert all(value.shape == () and torch.isfinite(value) and not value.requires_grad for value in metrics.values())
    assert_equal_states(agent, before)
    query = agent.learner.encoder(agent.learner.snapshot(batch)["query"])
    torch.testing.assert_close(metrics["feature_std"], query.std(0).mean().detach())
    with torch.no_grad():
        for p in agent.learner.encoder.parameters():
            p.zero_()
    collapsed = watch_features(agent.learner, batch)
    assert float(collapsed["feature_rank"]) == 1
    assert float(collapsed["feature_std"]) == float(collapsed["alignment"]) == 0


def test_without_images_there_is_one_view_and_of_one_sample_nothing_to_say():
    agent = tiny_sac("none", obs_shape=(5,), augmentation="none")
    assert watch_features(agent.learner, tiny_batch(obs_shape=(5,))).keys() == NAMES - {"alignment", "view_accuracy"}
    assert watch_features(agent.learner, tiny_batch(obs_shape=(5,), size=1)) == {}


def test_features_that_are_not_finite_are_told_and_raise_nothing():
    agent = tiny_sac("none")
    with torch.no_grad():
        next(agent.learner.encoder.head.parameters()).fill_(math.nan)
    assert math.isnan(watch_features(agent.learner, tiny_batch())["feature_rank"])
