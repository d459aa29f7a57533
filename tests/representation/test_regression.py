"""Ridge regression on episodes left out, against the normal equations written out."""

import numpy as np
import pytest

from curl_rl.representation.probes.regression import r2_scores, share_out


def linear_data(rng, frames=400, noise=0.0):
    features = rng.normal(size=(frames, 12)) * rng.uniform(0.1, 10, 12) + 5
    targets = features @ rng.normal(size=(12, 3)) + noise * rng.normal(size=(frames, 3))
    return features, targets, share_out(np.repeat(np.arange(frames // 20), 20))


def test_ridge_recovers_a_linear_map_and_nothing_from_shuffled_targets():
    rng = np.random.default_rng(0)
    features, targets, fold = linear_data(rng)
    assert r2_scores(features, targets, fold).min() > 0.9999
    assert r2_scores(features, rng.permutation(targets), fold).max() < 0.1


def test_ridge_agrees_with_the_normal_equations_written_out(monkeypatch):
    features, targets, fold = linear_data(np.random.default_rng(1), noise=3.0)
    features[:, 4] *= 1e-4
    monkeypatch.setattr("curl_rl.representation.probes.regression._STRENGTHS", np.array([0.3]))
    expected = []
    for i in range(5):
        train, test = fold != i, fold == i
        x = (features - features[train].mean(0)) / features[train].std(0)
        centred = targets[train] - targets[train].mean(0)
        weights = np.linalg.solve(x[train].T @ x[train] + 0.3 * train.sum() * np.eye(12), x[train].T @ centred)
        errors = ((x[test] @ weights + targets[train].mean(0) - targets[test]) ** 2).sum(0)
        expected.append(1 - errors / ((targets[test] - targets[test].mean(0)) ** 2).sum(0))
    np.testing.assert_allclose(r2_scores(features, targets, fold), np.median(expected, axis=0), rtol=1e-9)


def test_the_strength_is_chosen_for_each_target():
    rng = np.random.default_rng(2)
    features = rng.normal(size=(400, 150))
    targets = np.stack([features[:, 0], rng.normal(size=400)], 1)
    clean, noise = r2_scores(features, targets, share_out(np.repeat(np.arange(20), 20)))
    assert clean > 0.99  # a weak penalty
    assert noise > -0.1  # a strong one; without any it is near -1


def test_one_strange_fold_does_not_decide(monkeypatch):
    features, targets, fold = linear_data(np.random.default_rng(5))
    tests = []
    monkeypatch.setattr(
        "curl_rl.representation.probes.regression._r2", lambda predicted, truth: tests.append(truth) or fake(len(tests))
    )

    def fake(call):  # odd calls choose the strength, even ones score a fold
        return np.zeros((9, 3)) if call % 2 else np.full(3, {2: -100.0, 4: 0.5, 6: 0.7, 8: 0.6, 10: 0.8}[call])

    np.testing.assert_array_equal(r2_scores(features, targets, fold), [0.6, 0.6, 0.6])
    assert [len(truth) for truth in tests] == [80] * 10
    for i in range(5):
        assert np.array_equal(tests[2 * i], targets[fold == (i + 1) % 5])
        assert np.array_equal(tests[2 * i + 1], targets[fold == i])


def test_what_cannot_be_scored_is_nan():
    features, targets, fold = linear_data(np.random.default_rng(3))
    targets[:, 1] = 7
    features[:, 0] = 1  # constant
    features[:, 1] = fold == 2  # constant but where fold 2 is not fitted
    scores = r2_scores(features, targets, fold)
    assert np.isnan(scores[1])
    assert np.isfinite(scores[[0, 2]]).all()
    features[3, 2] = np.nan
    assert np.isnan(r2_scores(features, targets, fold)).all()


def test_episodes_never_cross_folds():
    episode = np.repeat(np.arange(42) + 7, np.random.default_rng(4).integers(1, 30, 42))
    fold = share_out(episode)
    parts = [set(episode[fold == i]) for i in range(5)]
    assert len(set.union(*parts)) == sum(len(part) for part in parts) == 42
    assert {len(part) for part in parts} == {8, 9}
    assert np.array_equal(fold, share_out(episode))
    assert not np.array_equal(fold, share_out(episode, seed=1))
    with pytest.raises(ValueError, match="4 episodes are too few for 5 folds"):
        share_out(np.array([0, 1, 2, 3, 3]))
