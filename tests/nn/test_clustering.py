"""Clustering against scikit-learn and against loops that follow the definitions."""

import warnings

import numpy as np
import pytest
import torch
from sklearn.cluster import DBSCAN, KMeans

from curl_rl.nn.clustering import density_clusters, k_means, nearest, reciprocal_distances, reliable_clusters


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def blobs(seed, n=120, d=5, centres=6, spread=1.5):
    rng = generator(seed)
    middle = 3 * torch.randn(centres, d, generator=rng, dtype=torch.float64)
    place = torch.randint(centres, (n,), generator=rng)
    return middle[place] + spread * torch.randn(n, d, generator=rng, dtype=torch.float64)


def spread_by_loops(points, count, seed):
    """k-means++: the point at which the running sum of squared distances passes the draw."""
    chosen = []
    for draw in torch.rand(count, generator=generator(seed), dtype=torch.float64).tolist():
        weight = [min(((p - points[c]) ** 2).sum() for c in chosen) if chosen else 1.0 for p in points]
        chosen.append(next(i for i in range(len(points)) if sum(weight[: i + 1]) > draw * sum(weight)))
    return chosen


def lloyd_by_loops(points, centres, iterations):
    for _ in range(iterations):
        distance = ((points[:, None] - centres) ** 2).sum(-1)
        nearest = distance.argmin(1)
        far = list(np.argsort(-distance.min(1), kind="stable"))
        for cluster in sorted(set(range(len(centres))) - set(nearest)):
            nearest[far.pop(0)] = cluster
        centres = np.stack(
            [points[nearest == k].mean(0) if (nearest == k).any() else centres[k] for k in range(len(centres))]
        )
    return centres, ((points[:, None] - centres) ** 2).sum(-1).argmin(1)


@pytest.mark.parametrize("iterations", [1, 2, 25])
@pytest.mark.parametrize("seed", range(20))
def test_k_means_follows_scikit_learn_from_the_same_start(seed, iterations):
    points, count = blobs(seed), 3 + seed % 9
    start, _ = k_means(points, count, generator(seed), iterations=0)
    centres, assignment = k_means(points, count, generator(seed), iterations=iterations)
    theirs = KMeans(count, init=start.numpy(), n_init=1, max_iter=iterations, tol=0.0, algorithm="lloyd")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it says that it has not converged
        theirs.fit(points.numpy())
    torch.testing.assert_close(centres, torch.from_numpy(theirs.cluster_centers_))
    assert assignment.tolist() == theirs.labels_.tolist()


@pytest.mark.parametrize("seed", range(10))
def test_k_means_starts_from_points_drawn_by_squared_distance(seed):
    points = blobs(seed, n=40)
    start, _ = k_means(points, 7, generator(seed), iterations=0)
    assert start.tolist() == points[spread_by_loops(points.numpy(), 7, seed)].tolist()


@pytest.mark.parametrize("seed", range(10))
def test_k_means_is_the_textbook_loop(seed):
    points = blobs(seed, n=40)
    start, _ = k_means(points, 9, generator(seed), iterations=0)
    centres, assignment = k_means(points, 9, generator(seed), iterations=4)
    expected, nearest = lloyd_by_loops(points.numpy(), start.numpy(), 4)
    np.testing.assert_allclose(centres.numpy(), expected)
    assert assignment.tolist() == nearest.tolist()


@pytest.mark.parametrize("at_once", [1, 40])
def test_means_of_many_points_are_taken_in_parts(monkeypatch, at_once):
    points = blobs(1, n=50)
    whole = k_means(points, 6, generator())
    monkeypatch.setattr("curl_rl.nn.clustering._AT_ONCE", at_once)
    torch.testing.assert_close(k_means(points, 6, generator()), whole)


def test_an_empty_cluster_takes_the_farthest_point(monkeypatch):
    points = torch.tensor([[0.0], [1.0], [2.0], [30.0]])
    monkeypatch.setattr("curl_rl.nn.clustering._spread", lambda *_: torch.tensor([0, 0, 0]))
    centres, assignment = k_means(points, 3, generator(), iterations=1)
    assert centres.tolist() == [[0.5], [30.0], [2.0]]
    assert assignment.tolist() == [0, 0, 2, 1]


@pytest.mark.parametrize("seed", range(5))
def test_more_clusters_than_distinct_points_leave_some_empty(seed):
    points = torch.tensor([[0.0, 1.0], [5.0, 1.0], [9.0, 7.0]]).repeat(4, 1)
    centres, assignment = k_means(points, 8, generator(seed))
    assert centres.isfinite().all()
    assert torch.equal(centres[assignment], points)
    assert len(assignment.unique()) == 3


def test_as_many_clusters_as_points_leave_each_point_alone():
    points = blobs(0, n=12)
    centres, assignment = k_means(points, 12, generator())
    assert torch.equal(centres[assignment], points)
    assert sorted(assignment.tolist()) == list(range(12))


def test_k_means_repeats_itself_and_follows_its_generator():
    points = blobs(0).float()
    once, twice = (k_means(points, 8, generator(3))[0] for _ in range(2))
    assert torch.equal(once, twice)
    assert not torch.equal(once, k_means(points, 8, generator(4))[0])


def test_k_means_takes_no_gradient_and_computes_half_precision_in_single():
    points = blobs(0).half().requires_grad_()
    centres, _ = k_means(points, 4, generator())
    assert centres.dtype == torch.float32
    assert not centres.requires_grad


@pytest.mark.parametrize("count", [0, 4])
def test_k_means_refuses_an_impossible_number_of_clusters(count):
    with pytest.raises(ValueError, match=f"got {count} for 3 points"):
        k_means(torch.zeros(3, 2), count, generator())


def dbscan_by_loops(distances, radius, min_samples):
    near = [[j for j, d in enumerate(row) if d <= radius] for row in distances]
    labels, clusters = [-1] * len(near), 0
    for i in range(len(near)):
        if labels[i] >= 0 or len(near[i]) < min_samples:
            continue
        reached = [i]
        while reached:
            j = reached.pop()
            if labels[j] < 0:
                labels[j] = clusters
                reached += near[j] if len(near[j]) >= min_samples else []
        clusters += 1
    return labels


@pytest.mark.parametrize("min_samples", [1, 2, 4, 9])
@pytest.mark.parametrize("seed", range(15))
def test_density_clusters_are_those_of_scikit_learn_and_of_the_textbook(seed, min_samples):
    points = blobs(seed, n=90, d=2)
    distances = torch.cdist(points, points, compute_mode="donot_use_mm_for_euclid_dist")
    for radius in (0.0, 0.2, 0.5, 1.0, 2.0, 100.0):
        labels = density_clusters(distances, radius, min_samples).tolist()
        if radius:
            theirs = DBSCAN(eps=radius, min_samples=min_samples, metric="precomputed").fit(distances.numpy())
            assert labels == theirs.labels_.tolist()
        assert labels == dbscan_by_loops(distances.tolist(), radius, min_samples)


@pytest.mark.parametrize("seed", range(5))
def test_density_clusters_follow_a_chain_in_any_order(seed):
    place = torch.randperm(300, generator=generator(seed)).double()
    place += 50 * (place >= 150)
    labels = density_clusters((place[:, None] - place).abs(), 1.0, 2)
    assert torch.equal(labels, ((place >= 150) != (place[0] >= 150)).long())


def test_a_border_point_between_two_clusters_joins_the_first():
    place = torch.tensor([0.0, 0.1, 0.2, 1.1, 2.0, 2.1, 2.2, 9.0])
    labels = density_clusters((place[:, None] - place).abs(), 0.95, 4)
    assert labels.tolist() == [0, 0, 0, 0, 1, 1, 1, -1]


@pytest.mark.parametrize("shape", [(2, 3), (3,), (0, 0)])
def test_density_clusters_refuse_what_is_no_matrix_of_distances(shape):
    with pytest.raises(ValueError, match="square matrix"):
        density_clusters(torch.zeros(shape), 1.0, 2)


def test_nearest_is_the_least_distance():
    points, centres = blobs(0), blobs(1, n=9)
    assert torch.equal(nearest(points, centres), torch.cdist(points, centres).argmin(1))


def unit_blobs(seed, n=70, spread=0.6):
    return torch.nn.functional.normalize(blobs(seed, n=n, d=6, spread=spread), dim=1)


def jaccard_by_loops(points, k, expansion):
    """Zhong et al. 2017 with sets, in NumPy."""
    similarity = points @ points.T
    rank = [sorted(range(len(points)), key=lambda j: (j != i, -similarity[i, j])) for i in range(len(points))]

    def reciprocal(size):
        return [{j for j in rank[i][:size] if i in rank[j][:size]} for i in range(len(points))]

    whole, half = reciprocal(k), reciprocal(round(k / 2) + 1)
    weights = np.zeros_like(similarity)
    for i, row in enumerate(weights):
        inside = sorted(whole[i].union(*(half[j] for j in whole[i] if len(half[j] & whole[i]) > 2 / 3 * len(half[j]))))
        kernel = np.exp(-((points[i] - points[inside]) ** 2).sum(1))
        row[inside] = kernel / kernel.sum()
    weights = np.stack([weights[r[:expansion]].mean(0) for r in rank])
    return np.array([[1 - np.minimum(a, b).sum() / np.maximum(a, b).sum() for b in weights] for a in weights])


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(("k", "expansion"), [(10, 3), (15, 1), (30, 6)])
def test_reciprocal_distances_are_those_of_sets(seed, k, expansion):
    points = unit_blobs(seed)
    expected = jaccard_by_loops(points.numpy(), k, expansion)
    np.testing.assert_allclose(reciprocal_distances(points, k, expansion).numpy(), expected, atol=1e-9)


def test_reciprocal_distances_are_a_distance_in_single_precision():
    distances = reciprocal_distances(unit_blobs(0).float(), 10, 3)
    assert distances.dtype == torch.float32
    assert torch.equal(distances, distances.T)
    assert not distances.diagonal().any()
    assert 0 < float(distances.max()) <= 1
    order = torch.randperm(70, generator=generator())
    turned = reciprocal_distances(unit_blobs(0).float()[order], 10, 3)
    torch.testing.assert_close(turned, distances[order][:, order])


def test_reciprocal_distances_of_copies_and_of_few_points_are_finite():
    assert reciprocal_distances(torch.ones(40, 4) / 2, 10, 3).isfinite().all()
    assert reciprocal_distances(torch.ones(1, 4) / 2, 10, 3).tolist() == [[0.0]]


def reliable_by_loops(labels, tight, loose):
    """Ge et al. 2020 with sets: what stays keeps its label."""

    def sets(names):
        return [{j for j, other in enumerate(names) if j == i or other == name >= 0} for i, name in enumerate(names)]

    mine, closer, wider = sets(labels), sets(tight), sets(loose)
    independence = [len(a & b) / len(a | b) for a, b in zip(mine, wider, strict=True)]
    compactness = [len(a & b) / len(a | b) for a, b in zip(mine, closer, strict=True)]
    scores = {k: max(v for v, name in zip(independence, labels, strict=True) if name == k) for k in set(labels) - {-1}}
    ordered = sorted((scores[k] for k in scores if labels.count(k) > 1), reverse=True)
    least = ordered[min(len(ordered) - 1, round(0.9 * len(ordered)))] if ordered else 0
    return [
        name if name >= 0 and scores[name] >= least and compactness[i] == max(compactness[j] for j in mine[i]) else -1
        for i, name in enumerate(labels)
    ]


@pytest.mark.parametrize("seed", range(20))
def test_reliable_clusters_are_those_of_sets(seed):
    points = blobs(seed, n=80, d=2)
    distances = torch.cdist(points, points)
    found = [density_clusters(distances, radius, 3) for radius in (0.6, 0.45, 0.75)]
    expected = reliable_by_loops(*(labels.tolist() for labels in found))
    names = sorted(set(expected) - {-1})
    assert reliable_clusters(*found).tolist() == [names.index(name) if name >= 0 else -1 for name in expected]


@pytest.mark.parametrize(("count", "dropped"), [(20, True), (10, False)])
def test_the_least_independent_tenth_of_many_clusters_is_dropped(count, dropped):
    labels = torch.cat([torch.arange(count).repeat_interleave(3), torch.tensor([-1])])
    loose = labels.clone()
    loose[-1] = 0  # the first grows by a point
    expected = torch.where(labels > 0, labels - 1, -1) if dropped else labels
    assert reliable_clusters(labels, labels, loose).tolist() == expected.tolist()


def test_points_that_a_smaller_radius_splits_off_are_dropped():
    labels = torch.tensor([0, 0, 0, 1, 1, 1, 1, 1, -1])
    tight = torch.tensor([0, 0, -1, 1, 1, 1, 2, 2, -1])
    assert reliable_clusters(labels, tight, labels).tolist() == [0, 0, -1, 1, 1, 1, -1, -1, -1]
    alone = torch.tensor([0, 0, -1, 1, 1, -1, -1, -1, -1])  # noise is not together
    assert reliable_clusters(labels, alone, labels).tolist() == [0, 0, -1, 1, 1, -1, -1, -1, -1]


def test_noise_stays_noise():
    noise = torch.full((5,), -1)
    assert reliable_clusters(noise, noise, torch.zeros(5, dtype=torch.int64)).tolist() == [-1] * 5
