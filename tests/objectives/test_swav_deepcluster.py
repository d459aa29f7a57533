"""SwAV and DeepCluster: their losses against loops in float64, codes, queue, clusters, refreshes and resumes."""

import copy
import math
from typing import Any

import pytest
import torch
from tiny import assert_equal_states, run, tiny_batch, tiny_encoder, tiny_rainbow, tiny_sac
from torch import Tensor
from torch.nn import functional as F

from curl_rl.nn.clustering import k_means
from curl_rl.nn.encoders import Encoder
from curl_rl.nn.losses import cluster_cross_entropy, sinkhorn, swapped_prediction
from curl_rl.nn.remembering import Remembering
from curl_rl.objectives import OBJECTIVES, make_objective
from curl_rl.objectives import swav_deepcluster as prototypes
from curl_rl.objectives.swav_deepcluster import DeepCluster, Swav
from curl_rl.options import check
from curl_rl.types import Batch, ConfigError, Crop, Metrics, Shapes, Views

SHAPES = Shapes(feature_dim=8, conv=(4, 7, 7), action_dim=2)
HEAD = {"projection_dim": 5, "projection_hidden": 16}
SWAV = {**HEAD, "prototypes": 7, "queue_size": 9, "queue_start": 0, "freeze_updates": 0}
DEEPCLUSTER = {**HEAD, "clusters": (4, 3), "store_size": 12, "period": 5}

Encoders = tuple[Encoder, Encoder]


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture
def encoders() -> Encoders:
    return tiny_encoder(), tiny_encoder().requires_grad_(False)


def make_swav(**fields: Any) -> Swav:
    fields = {**SWAV, **fields}
    if fields["queue_size"] == 0:
        del fields["queue_start"]
    objective = make_objective(OBJECTIVES["swav"].Config(**fields), SHAPES)
    assert isinstance(objective, Swav)
    return objective


def make_deepcluster(**fields: Any) -> DeepCluster:
    objective = make_objective(OBJECTIVES["deepcluster"].Config(**{**DEEPCLUSTER, **fields}), SHAPES)
    assert isinstance(objective, DeepCluster)
    return objective


MAKE = {"swav": make_swav, "deepcluster": make_deepcluster}


def draw(seed: int = 0, size: int = 6) -> tuple[Batch, Views]:
    """Draw a batch of textures and two noisy views of each."""
    batch = tiny_batch(seed, size=size, obs_shape=(9, 20, 20))
    offsets = torch.zeros((size, 2), dtype=torch.int64)
    noise = torch.randint(-20, 20, (2, *batch.obs.shape), generator=torch.Generator().manual_seed(seed))
    crops = [Crop((batch.obs + n).clamp(0, 255).to(torch.uint8), offsets) for n in noise]
    return batch, Views(*crops)


def loss_of(
    objective: Swav | DeepCluster, encoders: Encoders, seed: int = 0, size: int = 6
) -> tuple[Tensor, Metrics, Views]:
    batch, views = draw(seed, size)
    loss, metrics = objective(batch, views, *(Remembering(encoder) for encoder in encoders))
    return loss, metrics, views


def update(objective: Swav | DeepCluster, encoders: Encoders, seed: int, *, size: int = 6, step: float = 0.1) -> Tensor:
    """Take one step of gradient descent and what follows it; return the loss."""
    loss, _, _ = loss_of(objective, encoders, seed, size)
    trained = [p for module in (objective, encoders[0]) for p in module.parameters() if p.requires_grad]
    with torch.no_grad():
        for p, gradient in zip(trained, torch.autograd.grad(loss, trained), strict=True):
            p.sub_(step * gradient)
    objective.after_step()
    return loss.detach()


def units(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return F.normalize(torch.randn(shape, dtype=dtype), dim=-1)


# The losses


def balance_one_by_one(scores: Tensor, epsilon: float, iterations: int) -> list[list[float]]:
    """Normalise columns to 1 / K and rows to 1 / n in turns, as in the original's order, in float64."""
    samples, columns = range(scores.shape[0]), range(scores.shape[1])
    q = [[math.exp(float(score) / epsilon) for score in row] for row in scores]
    for _ in range(iterations):
        for j in columns:
            total = sum(q[i][j] for i in samples)
            for i in samples:
                q[i][j] /= total * len(columns)
        for i in samples:
            total = sum(q[i])
            for j in columns:
                q[i][j] /= total * len(samples)
    return [[mass * len(samples) for mass in row] for row in q]


@pytest.mark.parametrize("iterations", [1, 3, 8])
@pytest.mark.parametrize("shape", [(5, 3), (3, 7)], ids=str)
def test_codes_equal_a_loop_in_float64(shape, iterations):
    scores = units(shape[0], 4) @ units(shape[1], 4).T
    expected = torch.tensor(balance_one_by_one(scores, 0.05, iterations), dtype=torch.float64)
    torch.testing.assert_close(sinkhorn(scores, 0.05, iterations=iterations), expected, rtol=1e-9, atol=1e-12)
    codes = sinkhorn(scores.float(), 0.05, iterations=iterations)
    torch.testing.assert_close(codes.double(), expected, rtol=1e-4, atol=1e-5)


def test_codes_by_hand():
    # exp gives 3, 1 and 1, 1; columns then hold 3/4, 1/4 and 1/2, 1/2; rows are divided by 5/4 and 3/4
    scores = torch.tensor([[math.log(3), 0.0], [0.0, 0.0]])
    expected = torch.tensor([[3 / 5, 2 / 5], [1 / 3, 2 / 3]])
    torch.testing.assert_close(sinkhorn(scores, 1.0, iterations=1), expected)
    torch.testing.assert_close(sinkhorn(torch.zeros(3, 4), 0.05), torch.full((3, 4), 1 / 4))
    assert sinkhorn(scores.half(), 1.0).dtype == torch.float32


def test_codes_use_all_prototypes_alike_where_nearness_would_not():
    scores = torch.rand(12, 4) + torch.tensor([1.0, 0, 0, 0])
    assert int((scores.argmax(1) == 0).sum()) > 8
    codes = sinkhorn(scores, 0.2, iterations=100)
    torch.testing.assert_close(codes.sum(1), torch.ones(12))
    torch.testing.assert_close(codes.sum(0), torch.full((4,), 3.0), rtol=1e-4, atol=1e-4)
    few = sinkhorn(scores, 0.2)
    torch.testing.assert_close(few.sum(1), torch.ones(12))
    assert float((few.sum(0) - 3).abs().max()) < float((scores.div(0.2).softmax(1).sum(0) - 3).abs().max()) / 10


@pytest.mark.parametrize("iterations", [3, 300])
@pytest.mark.parametrize("scale", [1e4, -1e4, 1e20])
def test_codes_stay_finite_for_extreme_scores(scale, iterations):
    for scores in (torch.randn(8, 5), torch.eye(8)[:, :5], torch.zeros(8, 5) + torch.eye(5)[0]):
        codes = sinkhorn(scores * scale, 0.05, iterations=iterations)
        assert torch.isfinite(codes).all()
        torch.testing.assert_close(codes.sum(1), torch.ones(8))
    order = torch.randperm(6)
    torch.testing.assert_close(sinkhorn(abs(scale) * torch.eye(6)[order], 0.05), torch.eye(6)[order])


@pytest.mark.parametrize("left_out", [0.0, 1e4, -1e4])
def test_samples_left_out_do_not_weigh(left_out):
    scores = torch.randn(9, 4)
    counted = torch.arange(9) % 3 != 1
    mixed = torch.where(counted[:, None], scores, left_out)
    codes = sinkhorn(mixed, 0.3, counted=counted)
    torch.testing.assert_close(codes[counted], sinkhorn(scores[counted], 0.3))
    assert torch.isfinite(codes).all()
    assert not torch.allclose(sinkhorn(mixed, 0.3)[counted], codes[counted], atol=1e-3)


def test_codes_follow_the_order_ignore_offsets_and_take_each_view_alone():
    scores = torch.randn(2, 6, 4)
    codes, rows, columns = sinkhorn(scores, 0.3), torch.randperm(6), torch.randperm(4)
    torch.testing.assert_close(sinkhorn(scores[:, rows][:, :, columns], 0.3), codes[:, rows][:, :, columns])
    torch.testing.assert_close(sinkhorn(scores + torch.randn(4), 0.3), codes)  # a prototype's bias is balanced away
    torch.testing.assert_close(torch.stack([sinkhorn(view, 0.3) for view in scores]), codes)


def test_codes_take_no_gradient_and_leave_the_scores_alone():
    scores = torch.randn(6, 4, requires_grad=True)
    before = scores.detach().clone()
    assert not sinkhorn(scores, 1.0).requires_grad
    assert torch.equal(scores.detach(), before)


def test_swapped_prediction_by_hand():
    # the first view predicts 1/4, 3/4, the second 1/2, 1/2; codes: all on the first, then one fifth on it
    logits = torch.tensor([[[0.0, math.log(3)]], [[2.0, 2.0]]])
    codes = torch.tensor([[[1.0, 0.0]], [[0.2, 0.8]]])
    loss, accuracy = swapped_prediction(logits, codes)
    first = -(0.2 * math.log(1 / 4) + 0.8 * math.log(3 / 4))
    assert float(loss) == pytest.approx((first + math.log(2)) / 2, rel=1e-6)
    assert float(accuracy) == 1.0
    assert float(swapped_prediction(logits, codes.flip(0))[1]) == 0.0


def test_swapped_prediction_equals_a_loop_in_float64():
    logits, codes = torch.randn(2, 5, 4, dtype=torch.float64), torch.randn(2, 5, 4, dtype=torch.float64).softmax(-1)
    total = 0.0
    for view in (0, 1):
        for i in range(5):
            whole = sum(math.exp(float(logit)) for logit in logits[view, i])
            for k in range(4):
                total -= float(codes[1 - view, i, k]) * math.log(math.exp(float(logits[view, i, k])) / whole)
    loss, _ = swapped_prediction(logits, codes)
    assert float(loss) == pytest.approx(total / 10, rel=1e-12)
    assert swapped_prediction(logits.bfloat16(), codes)[0].dtype == torch.float64
    assert swapped_prediction(logits.bfloat16(), codes.float())[0].dtype == torch.float32


def test_swapped_prediction_is_symmetric_and_passes_gradcheck():
    logits, codes = torch.randn(2, 3, 4, dtype=torch.float64), torch.randn(2, 3, 4, dtype=torch.float64).softmax(-1)
    loss, _ = swapped_prediction(logits, codes)
    torch.testing.assert_close(swapped_prediction(logits.flip(0), codes.flip(0))[0], loss)
    torch.testing.assert_close(swapped_prediction(logits + torch.randn(2, 3, 1), codes)[0], loss)
    assert torch.autograd.gradcheck(lambda x: swapped_prediction(x, codes)[0], logits.requires_grad_())


def test_cluster_cross_entropy_by_hand():
    centroids = torch.eye(2)
    query, key = torch.tensor([[1.0, 0.0], [0.6, 0.8]]), torch.tensor([[0.8, 0.6], [1.0, 0.0]])
    # both keys are nearest to the first centroid; the queries' similarities to the centroids are 1, 0 and 0.6, 0.8
    loss, accuracy = cluster_cross_entropy(query, key, centroids, 0.5)
    expected = (math.log(1 + math.exp(-2)) + math.log(1 + math.exp(0.4))) / 2
    assert float(loss) == pytest.approx(expected, rel=1e-6)
    assert float(accuracy) == 0.5


def test_cluster_cross_entropy_equals_a_loop_in_float64():
    query, key, centroids = units(6, 4), units(6, 4), units(5, 4)
    total, hits = 0.0, 0
    for q, k in zip(query, key, strict=True):
        distances = [float((k - c).square().sum()) for c in centroids]
        label = distances.index(min(distances))
        similarities = [float(q @ c) / 0.1 for c in centroids]
        total += math.log(sum(math.exp(s) for s in similarities)) - similarities[label]
        hits += similarities[label] == max(similarities)
    loss, accuracy = cluster_cross_entropy(query, key, centroids, 0.1)
    assert float(loss) == pytest.approx(total / 6, rel=1e-12)
    assert float(accuracy) == pytest.approx(hits / 6)
    assert cluster_cross_entropy(query.half(), key.half(), centroids.float(), 0.1)[0].dtype == torch.float32


def test_cluster_cross_entropy_ignores_order_and_rotation_and_passes_gradcheck():
    query, key, centroids = units(6, 4), units(6, 4), units(5, 4)
    loss, _ = cluster_cross_entropy(query, key, centroids, 0.1)
    turn = torch.linalg.qr(torch.randn(4, 4, dtype=torch.float64))[0]
    order = torch.randperm(5)
    torch.testing.assert_close(cluster_cross_entropy(query, key, centroids[order], 0.1)[0], loss)
    torch.testing.assert_close(cluster_cross_entropy(query @ turn, key @ turn, centroids @ turn, 0.1)[0], loss)
    assert torch.autograd.gradcheck(lambda q: cluster_cross_entropy(q, key, centroids, 0.5)[0], query.requires_grad_())


# SwAV


def project(swav: Swav, encoder: Encoder, views: Views) -> Tensor:
    """Return the projections of both views, (2, B, d)."""
    features = torch.cat([encoder(views.query.images), encoder(views.key.images)])
    z = swav.head(features)
    return (z / z.norm(dim=1, keepdim=True)).view(2, -1, z.shape[1])


def test_swav_is_the_formula_written_out_with_its_queue(encoders):
    swav = make_swav(temperature=0.3, epsilon=0.2, sinkhorn_iterations=4)
    past = []
    for seed in (1, 2):  # 12 samples in a queue of 9
        past.append(project(swav, encoders[0], draw(seed)[1]).detach())
        update(swav, encoders, seed, step=0.0)
    queue = torch.cat(past, 1)[:, 3:]
    loss, metrics, views = loss_of(swav, encoders)
    z, weight = project(swav, encoders[0], views), swav.prototypes
    total = torch.zeros(())
    for one, other in ((0, 1), (1, 0)):
        rows = torch.cat([queue[other], z[other]]) @ weight.T
        code = torch.tensor(balance_one_by_one(rows.detach(), 0.2, 4))[-6:]
        total = total - (code * (z[one] @ weight.T / 0.3).log_softmax(1)).sum(1).mean() / 2
    torch.testing.assert_close(loss, total, rtol=1e-4, atol=1e-5)
    parameters = [*encoders[0].parameters(), *swav.head.parameters(), swav.prototypes]
    expected = torch.autograd.grad(total, parameters, retain_graph=True)
    for one, other in zip(torch.autograd.grad(loss, parameters), expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)
    use = (z @ weight.T / 0.3).softmax(-1).mean((0, 1))
    torch.testing.assert_close(metrics["perplexity"], (-(use * use.log()).sum()).exp().detach())
    assert not any(value.requires_grad for value in metrics.values())


@pytest.mark.parametrize(("start", "uses"), [(0, [0, 0, 9, 9, 9]), (4, [0, 0, 0, 0, 9])], ids=str)
def test_the_queue_joins_once_it_is_full_and_its_start_is_past(start, uses, encoders, monkeypatch):
    seen = []

    def watched(scores: Tensor, *args: Any, counted: Tensor, **fields: Any) -> Tensor:
        assert scores.shape == (2, 9 + 6, 7)
        assert counted[9:].all()
        seen.append(int(counted[:9].sum()))
        return sinkhorn(scores, *args, counted=counted, **fields)

    monkeypatch.setattr(prototypes, "sinkhorn", watched)
    swav = make_swav(queue_start=start)
    for seed in range(5):
        update(swav, encoders, seed)
    assert seen == uses


def test_a_queue_that_is_not_ready_changes_nothing(encoders):
    swav = make_swav(queue_start=10)
    without = make_swav(queue_size=0)
    kept = {name: value for name, value in swav.state_dict().items() if "queue.rows" not in name}
    without.load_state_dict(kept, strict=False)
    twins = copy.deepcopy(encoders)
    for seed in range(4):
        torch.testing.assert_close(update(swav, encoders, seed), update(without, twins, seed))


def test_prototypes_are_frozen_at_first_and_always_on_the_sphere(encoders):
    swav = make_swav(freeze_updates=2)
    start = swav.prototypes.detach().clone()
    for seed in range(4):
        update(swav, encoders, seed, step=0.5)
        torch.testing.assert_close(swav.prototypes.detach().norm(dim=1), torch.ones(7))
        moved = float((swav.prototypes.detach() - start).abs().max())
        assert moved < 1e-6 if seed < 2 else moved > 1e-3


@pytest.mark.parametrize("build", [tiny_sac, tiny_rainbow])
def test_frozen_prototypes_do_not_move_under_adam(build):
    agent = build("swav", options={**SWAV, "freeze_updates": 3})
    start = agent.learner.objective.prototypes.detach().clone()
    run(agent, range(3))
    torch.testing.assert_close(agent.learner.objective.prototypes.detach(), start, rtol=0, atol=1e-6)
    run(agent, range(3, 4))
    assert float((agent.learner.objective.prototypes.detach() - start).abs().max()) > 1e-5


def test_both_views_pass_gradient_to_the_online_encoder_alone(encoders):
    swav = make_swav()
    target = copy.deepcopy(encoders[1]).requires_grad_(True)  # though it could take one here
    maps, encoder_map = [], encoders[0].map

    def watched(images: Tensor) -> Tensor:
        maps.append(encoder_map(images))
        maps[-1].retain_grad()
        return maps[-1]

    encoders[0].map = watched
    loss, _, _ = loss_of(swav, (encoders[0], target))
    loss.backward()
    assert len(maps) == 2
    assert all(each.grad is not None and each.grad.any() for each in maps)
    assert all(p.grad is not None and p.grad.any() for p in swav.parameters())
    assert all(p.grad is None for p in target.parameters())


def test_a_constant_encoder_cannot_predict_balanced_codes():
    constant = tiny_encoder()
    with torch.no_grad():
        for p in constant.head.parameters():
            p.zero_()
    swav = make_swav(queue_size=0)  # whose rows of earlier updates would be told from the batch's
    for seed in range(4):
        update(swav, (constant, constant), seed)
        loss, _, _ = loss_of(swav, (constant, constant), seed)
        assert float(loss.detach()) >= math.log(7) - 1e-4


# DeepCluster


def test_deepcluster_is_the_formula_written_out_for_each_of_its_heads(encoders):
    objective = make_deepcluster(temperature=0.3)
    update(objective, encoders, 1)
    with torch.no_grad():  # heads apart, so that a mix-up shows
        for p in objective.target_head.parameters():
            p.add_(0.3 * torch.randn_like(p))
    heads = copy.deepcopy((objective.head, objective.target_head))
    loss, metrics, views = loss_of(objective, encoders)
    query = F.normalize(heads[0](encoders[0](views.query.images)), dim=1)
    key = F.normalize(heads[1](encoders[1](views.key.images)), dim=1)
    losses, hits = [], []
    for centroids in (objective.centroids[:4], objective.centroids[4:]):
        labels = torch.cdist(key, centroids).argmin(1)
        logits = query @ centroids.T / 0.3
        losses.append(-logits.log_softmax(1)[torch.arange(6), labels].mean())
        hits.append((logits.argmax(1) == labels).float().mean())
    torch.testing.assert_close(loss, sum(losses) / 2)
    torch.testing.assert_close(metrics["accuracy"], sum(hits) / 2)
    assert len(objective.centroids) == 7
    assert not any(value.requires_grad for value in metrics.values())


def test_deepcluster_trains_the_query_side_only(encoders):
    objective = make_deepcluster()
    target = copy.deepcopy(encoders[1]).requires_grad_(True)
    loss, _, _ = loss_of(objective, (encoders[0], target))
    loss.backward()
    assert all(p.grad is not None and p.grad.any() for p in encoders[0].parameters())
    assert all(p.grad is not None and p.grad.any() for p in objective.head.parameters())
    assert all(p.grad is None for p in (*target.parameters(), *objective.target_head.parameters()))
    assert not objective.centroids.requires_grad


def test_the_target_head_follows_by_its_tau(encoders):
    objective = make_deepcluster(projection_tau=0.3)
    before = [p.clone() for p in objective.target_head.parameters()]
    update(objective, encoders, 0, step=1.0)
    for old, new, online in zip(before, objective.target_head.parameters(), objective.head.parameters(), strict=True):
        torch.testing.assert_close(new, 0.7 * old + 0.3 * online.detach())


def refreshes(objective: DeepCluster, encoders: Encoders, updates: int, size: int) -> list[int]:
    """Return the updates, counted from 1, that moved the centroids."""
    moved = []
    for i in range(1, updates + 1):
        before = objective.centroids.clone()
        update(objective, encoders, i, size=size)
        if not torch.equal(before, objective.centroids):
            moved.append(i)
    return moved


@pytest.mark.parametrize(
    ("fields", "size", "expected"),
    [
        ({}, 6, [2, 5, 10]),  # full after two batches of six, then every fifth
        ({}, 5, [3, 5, 10]),
        ({}, 9, [2, 5, 10]),
        ({"store_size": 4}, 6, [1, 5, 10]),  # a batch larger than the store
        ({"store_size": 100}, 2, [5, 10]),  # the period ends first
        ({"store_size": 100, "period": 1, "clusters": (7,)}, 2, [4, 5, 6, 7, 8, 9, 10]),  # not with 6 rows for 7
    ],
    ids=str,
)
def test_clusters_are_refreshed_when_the_store_is_full_and_then_every_period(fields, size, expected, encoders):
    assert refreshes(make_deepcluster(**fields), encoders, 10, size) == expected


def test_a_refresh_is_k_means_over_the_stored_target_projections(encoders):
    objective = make_deepcluster(store_size=100, period=3)
    stored = []
    for seed in range(3):
        images = draw(seed)[1].key.images
        stored.append(F.normalize(copy.deepcopy(objective.target_head)(encoders[1](images)), dim=1).detach())
        if seed == 2:
            state = objective.random.generator.get_state()
        update(objective, encoders, seed)
    generator = torch.Generator()
    generator.set_state(state)
    rows = torch.cat(stored)
    expected = torch.cat([k_means(rows, count, generator, iterations=10)[0] for count in (4, 3)])
    torch.testing.assert_close(objective.centroids, expected / expected.norm(dim=1, keepdim=True))
    assert not torch.equal(objective.random.generator.get_state(), state)


def test_centroids_are_the_directions_in_which_the_projections_lie():
    objective = make_deepcluster(clusters=(3,), store_size=60)
    directions = torch.eye(5)[:3]
    rows = F.normalize(directions.repeat(20, 1) + 0.05 * torch.randn(60, 5), dim=1)
    objective.store.push(rows)
    objective._refresh()
    found = objective.centroids @ directions.T
    assert sorted(found.argmax(1).tolist()) == [0, 1, 2]
    assert float(found.amax(1).min()) > 0.99
    loss, accuracy = cluster_cross_entropy(rows, rows.roll(3, 0), objective.centroids, 0.1)
    assert float(accuracy) == 1.0
    assert float(loss) < 0.01


# Both


@pytest.mark.parametrize("name", MAKE)
def test_without_a_loss_nothing_follows_a_step(name):
    objective = MAKE[name]()
    before = copy.deepcopy(objective.state_dict())
    objective.after_step()
    after = objective.state_dict()
    assert all(v.equal(after[k]) if isinstance(v, Tensor) else v == after[k] for k, v in before.items())


@pytest.mark.parametrize("name", MAKE)
@pytest.mark.parametrize("fields", [{}, {"queue_size": 0}, {"queue_size": 4}], ids=str)
def test_batch_sizes_may_change_and_exceed_what_is_kept(name, fields, encoders):
    if name == "deepcluster":
        fields = {"store_size": max(fields.get("queue_size", 12), 4)}
    objective = MAKE[name](**fields)
    for size in (2, 9, 3, 20, 5):
        assert torch.isfinite(update(objective, encoders, size, size=size))


@pytest.mark.parametrize("name", MAKE)
@pytest.mark.parametrize("after", [1, 3, 6])
def test_a_resume_goes_on_bit_for_bit(name, after, encoders):
    objective = MAKE[name]()
    for seed in range(after):
        update(objective, encoders, seed)
    torch.rand(3)  # the other starts from other random numbers
    other, twins = MAKE[name](), copy.deepcopy(encoders)
    other.load_state_dict(copy.deepcopy(objective.state_dict()))
    for seed in range(after, after + 5):
        assert torch.equal(update(objective, encoders, seed), update(other, twins, seed))
    state = other.state_dict()
    for key, value in objective.state_dict().items():
        assert value.equal(state[key]) if isinstance(value, Tensor) else value == state[key], key


@pytest.mark.parametrize(("name", "options"), [("swav", SWAV), ("deepcluster", DEEPCLUSTER)], ids=["swav", "deep"])
@pytest.mark.parametrize("build", [tiny_sac, tiny_rainbow])
def test_both_agents_train_it_and_resume(name, options, build):
    agent, resumed = build(name, options=options), build(name, options=options, seed=3)
    start = copy.deepcopy(agent.learner.objective)
    metrics = run(agent, range(3))[-1]
    assert {"objective_loss", "accuracy", "perplexity"} <= set(metrics)
    assert not torch.equal(start.head[0].weight, agent.learner.objective.head[0].weight)
    resumed.load_state_dict(copy.deepcopy(agent.state_dict()))
    for each in (agent, resumed):
        run(each, range(3, 6))
    assert_equal_states(agent, resumed)


@pytest.mark.parametrize("name", MAKE)
def test_descent_teaches_which_view_is_whose(name):
    encoder = tiny_encoder()
    fields = {"queue_size": 0} if name == "swav" else {"store_size": 9, "clusters": (6, 6), "projection_tau": 0.1}
    objective, target = MAKE[name](**fields), copy.deepcopy(encoder).requires_grad_(False)
    trained = [p for p in (*encoder.parameters(), *objective.parameters()) if p.requires_grad]
    optimiser = torch.optim.Adam(trained, lr=3e-3)
    batch, views = draw(size=9)
    for _ in range(60):
        loss, metrics = objective(batch, views, Remembering(encoder), Remembering(target))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        target.load_state_dict(encoder.state_dict())
        objective.after_step()
    assert float(metrics["accuracy"]) > 0.8
    assert float(metrics["perplexity"]) > 3  # and not by putting all samples in one place
    rolled = Views(views.query, Crop(views.key.images.roll(1, 0), views.key.offsets))
    shuffled, _ = objective(batch, rolled, Remembering(encoder), Remembering(target))
    assert float(shuffled.detach()) > float(loss.detach()) + 0.5


@pytest.mark.parametrize(
    ("name", "fields", "message"),
    [
        ("swav", {"coefficient": -1.0}, "objective.coefficient must be at least 0 and at most .*, got -1.0"),
        ("swav", {"temperature": 0.0}, "objective.temperature must be above 0 and at most 1000000.0, got 0.0"),
        ("swav", {"epsilon": 0.0}, "objective.epsilon must be above 0 and at most 1000000.0, got 0.0"),
        ("swav", {"projection_dim": 0}, "objective.projection_dim must be at least 1 and at most .*, got 0"),
        ("swav", {"projection_hidden": 0}, "objective.projection_hidden must be at least 1 and at most .*, got 0"),
        ("swav", {"prototypes": 1}, "objective.prototypes must be at least 2 and at most .*, got 1"),
        ("swav", {"sinkhorn_iterations": 0}, "objective.sinkhorn_iterations must be at least 1 and at most .*, got 0"),
        ("swav", {"queue_size": -1}, "objective.queue_size must be at least 0 and at most .*, got -1"),
        ("swav", {"queue_start": -1}, "objective.queue_start must be at least 0 and at most .*, got -1"),
        ("swav", {"freeze_updates": -1}, "objective.freeze_updates must be at least 0 and at most .*, got -1"),
        (
            "deepcluster",
            {"temperature": math.inf},
            "objective.temperature must be above 0 and at most 1000000.0",
        ),
        ("deepcluster", {"iterations": 0}, "objective.iterations must be at least 1 and at most .*, got 0"),
        ("deepcluster", {"period": 0}, "objective.period must be at least 1 and at most .*, got 0"),
        ("deepcluster", {"projection_tau": 0.0}, r"objective.projection_tau must be above 0 and at most 1, got 0.0"),
        ("deepcluster", {"clusters": (8, 1)}, "clusters must be at least 2, got 1"),
        ("deepcluster", {"clusters": ()}, r"clusters must be a list of numbers such as \[1,2\], got \(\)"),
        ("deepcluster", {"clusters": (9,), "store_size": 8}, r"clusters=\[9\] must be at most objective.store_size=8"),
    ],
    ids=str,
)
def test_options_that_cannot_be_honoured_are_refused(name, fields, message):
    with pytest.raises(ConfigError, match=message):
        check(OBJECTIVES[name].Config(**fields), "objective.")


def test_what_they_ask_of_a_run():
    swav, deepcluster = (OBJECTIVES[name].Config() for name in ("swav", "deepcluster"))
    assert swav.capturable
    assert not deepcluster.capturable  # k-means runs between updates and draws random numbers
    for config in (swav, deepcluster):
        assert (config.horizon, config.needs) == (0, frozenset())
        with pytest.raises(ConfigError, match="it needs batch_size=2 or more, got 1"):
            config.check_batch(1)
