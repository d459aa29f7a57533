"""Thresholds of matches: against every threshold tried in turn, and what is refused."""

import numpy as np
import pytest
import torch
from torch import nn

from curl_rl.representation.frames.base import Frames, divide
from curl_rl.representation.index import FrameIndex
from curl_rl.representation.retrieval import UNKNOWN, calibrate, match, ranked_measures
from curl_rl.representation.tap import Tap
from curl_rl.types import ConfigError


def index(spread: float = 0.8, metric: str = "cosine", unknown: int = 20) -> FrameIndex:
    """Three classes around three centres, and some frames of no known class."""
    rng = np.random.default_rng(0)
    own = np.arange(300) % 3
    points = rng.normal(size=(3, 5))[own] + spread * rng.normal(size=(300, 5))
    classes = torch.from_numpy(np.where(np.arange(300) < unknown, -1, own))
    made = Frames(torch.zeros(300, 1, 2, 2).byte(), source="points", classes=classes, class_names=("a", "b", "c"))
    built = FrameIndex.build(Tap(nn.Flatten()).see((1, 2, 2)), made, metric=metric)
    built.embeddings = torch.from_numpy(points).float()
    return built


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_the_threshold_answers_most_at_its_precision(metric):
    given = index(metric=metric)
    found = calibrate(given, precision=0.9, seed=1)
    classes = torch.tensor(["abc".find(each) if each else -1 for each in given.rows.classes])
    known = (classes >= 0).nonzero()[:, 0]
    first, out = (known[part].numpy() for part in divide(given.episodes[known], classes[known], 0.25, seed=1))
    points = given.embeddings.double().numpy()
    if metric == "cosine":
        points /= np.linalg.norm(points, axis=1, keepdims=True)
        likeness = points[out] @ points[first].T
    else:
        likeness = -np.linalg.norm(points[out][:, None] - points[first], axis=2)
    nearest, alike = likeness.argmax(1), likeness.max(1)
    right = classes[first[nearest]].numpy() == classes[out].numpy()
    tried = {value: (right[alike >= value].mean(), (alike >= value).mean()) for value in alike}
    best = max(answered for precision, answered in tried.values() if precision >= 0.9)
    assert (found.precision >= 0.9, found.frames) == (True, len(out))
    assert found.answered == pytest.approx(best)
    assert found.precision == pytest.approx(right[alike >= found.value - 1e-6].mean(), abs=0.02)


def test_a_match_is_the_nearest_class_or_unknown():
    given = index()
    threshold = calibrate(given, 0.9)
    queries = torch.randn(40, 5, generator=torch.Generator().manual_seed(3))
    known = [i for i, each in enumerate(given.rows.classes) if each]
    points, asked = (each / each.norm(dim=1, keepdim=True) for each in (given.embeddings[known], queries))
    cosine, nearest = (asked @ points.T).max(1)
    expected = [
        given.rows.classes[known[i]] if value >= threshold.value else UNKNOWN
        for i, value in zip(nearest.tolist(), cosine.tolist(), strict=True)
    ]
    assert match(given, queries, threshold) == expected
    assert UNKNOWN in expected
    assert len(set(expected)) > 2
    assert match(given, queries[0], threshold) == expected[:1]


def test_rankings_without_anything_relevant_take_no_part():
    ranks = torch.tensor([[True, False, True], [False, False, False]])
    found = ranked_measures(ranks, (1, 2, 5))
    assert found["recall_1"] == found["precision_1"] == 1
    assert found["precision_2"] == found["r_precision"] == 0.5
    assert found["precision_5"] == pytest.approx(2 / 5)
    assert found["map"] == pytest.approx((1 + 2 / 3) / 2)
    assert np.isnan(list(ranked_measures(ranks[1:], (1,)).values())).all()


def test_what_cannot_be_calibrated_is_refused():
    with pytest.raises(ConfigError, match="no two classes to tell apart"):
        calibrate(index(unknown=300))
    with pytest.raises(ConfigError, match=r"no threshold gives a precision of 1 on 7\d held-out frames"):
        calibrate(index(spread=50.0), 1.0)
    with pytest.raises(ConfigError, match=r"precision must be above 0 and at most 1, got 1\.5"):
        calibrate(index(), 1.5)
