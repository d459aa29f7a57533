"""The contrasts with clusters: losses against formulas written out, PCL and SpCL against their parts."""

import copy
import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tiny import assert_equal_states, run, tiny_batch, tiny_encoder, tiny_rainbow, tiny_sac
from torch import Tensor
from torch.nn import functional as F

from curl_rl.nn.clustering import density_clusters, k_means, reciprocal_distances, reliable_clusters
from curl_rl.nn.losses import concentration, hybrid_contrast, info_nce, proto_nce, queue_logits
from curl_rl.objectives.pcl_spcl import Pcl, PclConfig, Spcl, SpclConfig
from curl_rl.options import check
from curl_rl.types import Batch, ConfigError, Crop, Shapes, Views

SHAPES = Shapes(feature_dim=8, conv=(4, 7, 7), action_dim=2)
SMALL: dict[str, Any] = {"projection_dim": 6, "projection_hidden": 10, "period": 1, "warmup": 0}


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def unit(*shape: int) -> Tensor:
    return F.normalize(torch.randn(*shape, dtype=torch.float64), dim=-1)


def test_concentration_is_the_formula_written_out():
    points, centres = unit(60, 5), unit(7, 5)
    assignment = torch.cat([torch.arange(6).repeat_interleave(9), torch.zeros(6, dtype=torch.int64)])  # 6 has no point
    values = []
    for cluster in range(6):
        mine = [points[i] for i in range(60) if assignment[i] == cluster]
        distances = [float((point - centres[cluster]).square().sum().sqrt()) for point in mine]
        values.append(sum(distances) / (len(mine) * math.log(len(mine) + 10)))
    values = torch.tensor([*values, max(values)], dtype=torch.float64)
    low, high = values.quantile(0.1), values.quantile(0.9)
    clamped = torch.tensor([min(max(v, low), high) for v in values])
    phi = concentration(points, centres, assignment, 0.2)
    torch.testing.assert_close(phi, 0.2 * clamped / clamped.mean())
    assert float(phi.mean()) == pytest.approx(0.2)


def test_concentration_by_hand():
    # three clusters of two points at distances 1, 2 and 4 from their centres, one of a single point
    points = torch.tensor([[1.0], [-1.0], [12.0], [8.0], [24.0], [16.0], [90.0]])
    centres, assignment = torch.tensor([[0.0], [10.0], [20.0], [90.0]]), torch.tensor([0, 0, 1, 1, 2, 2, 3])
    # 1, 2, 4 and the largest for the lone one; the tenths cut 1 to 1.3; all over log 12, which their mean takes away
    expected = torch.tensor([1.3, 2.0, 4.0, 4.0]) / 2.825
    torch.testing.assert_close(concentration(points, centres, assignment, 0.5), 0.5 * expected)


def test_larger_clusters_of_the_same_spread_are_denser():
    points = torch.tensor([1.0, -1.0]).repeat(10)[:, None] + torch.tensor([0.0] * 4 + [50.0] * 16)[:, None]
    assignment = torch.tensor([0] * 4 + [1] * 16)
    phi = concentration(points, torch.tensor([[0.0], [50.0]]), assignment, 0.2)
    assert float(phi[1] / phi[0]) < 1


def test_copies_leave_concentration_finite():
    copies, assignment = torch.ones(8, 3), torch.arange(4).repeat(2)
    assert concentration(copies, torch.ones(4, 3), assignment, 0.2).tolist() == pytest.approx([0.2] * 4)
    copies[0] = 2.0
    phi = concentration(copies, torch.ones(4, 3), assignment, 0.2)
    assert float(phi.min()) == pytest.approx(0.02)


def test_proto_nce_matches_the_formula_and_its_gradient():
    query, prototypes, assignment = unit(5, 4), unit(7, 4), torch.tensor([0, 6, 2, 2, 4])
    phi = torch.rand(7, dtype=torch.float64) + 0.1
    losses = []
    for i, own in enumerate(assignment.tolist()):
        terms = [math.exp(float(query[i] @ prototypes[j]) / float(phi[j])) for j in range(7)]
        losses.append(-math.log(terms[own] / sum(terms)))
    loss, accuracy = proto_nce(query, prototypes, assignment, phi)
    assert float(loss) == pytest.approx(sum(losses) / 5)
    assert float(accuracy) == float(((query @ prototypes.T / phi).argmax(1) == assignment).float().mean())
    assert torch.autograd.gradcheck(lambda q: proto_nce(q, prototypes, assignment, phi)[0], query.requires_grad_())


def test_proto_nce_by_hand():
    # logits 0 and log 3 for the first, 2 log 3 and 0 for the second
    prototypes = torch.eye(2)
    query = torch.tensor([[0.0, math.log(3)], [2 * math.log(3), 0.0]])
    loss, accuracy = proto_nce(query, prototypes, torch.tensor([0, 0]), torch.ones(2))
    assert float(loss) == pytest.approx(-(math.log(1 / 4) + math.log(9 / 10)) / 2, rel=1e-6)
    assert float(accuracy) == 0.5
    halved = proto_nce(query, prototypes, torch.tensor([0, 0]), torch.tensor([2.0, 1.0]))[0]  # 2 log 3 becomes log 3
    assert float(halved) == pytest.approx(-(math.log(1 / 4) + math.log(3 / 4)) / 2, rel=1e-6)


def test_proto_nce_ignores_the_order_of_prototypes_and_is_float32():
    query, prototypes, assignment = unit(5, 4), unit(7, 4), torch.tensor([0, 6, 2, 2, 4])
    phi, order = torch.rand(7) + 0.1, torch.randperm(7)
    loss = proto_nce(query, prototypes, assignment, phi)[0]
    torch.testing.assert_close(proto_nce(query, prototypes[order], order.argsort()[assignment], phi[order])[0], loss)
    assert proto_nce(query.bfloat16(), prototypes.bfloat16(), assignment, phi)[0].dtype == torch.float32


LABELS = torch.tensor([0, -1, 2, 0, -2, 2, 2, -1])  # cluster 1 is empty, row 4 holds nothing


def hybrid_by_loops(query: Tensor, memory: Tensor, rows: list[int], temperature: float) -> list[float]:
    """Return each query's loss: softmax over the centroids and the lone instances."""
    names = [("cluster", k) for k in (0, 2)] + [("alone", m) for m in (1, 7)]
    classes = [memory[k == LABELS].mean(0) for k in (0, 2)] + [memory[m] for m in (1, 7)]
    losses = []
    for x, row in zip(query, rows, strict=True):
        terms = [math.exp(float(x @ c) / temperature) for c in classes]
        label = int(LABELS[row])
        losses.append(-math.log(terms[names.index(("cluster", label) if label >= 0 else ("alone", row))] / sum(terms)))
    return losses


def test_hybrid_contrast_matches_the_formula_and_its_gradient():
    query, memory, rows = unit(4, 3), unit(8, 3), torch.tensor([3, 1, 6, 7])
    valid, options = torch.tensor([True, True, False, True]), {"clusters": 3, "temperature": 0.3}
    loss, _ = hybrid_contrast(query, memory, LABELS, rows, valid, **options)
    losses = hybrid_by_loops(query, memory, rows.tolist(), 0.3)
    assert float(loss) == pytest.approx((losses[0] + losses[1] + losses[3]) / 3)
    arguments = memory, LABELS, rows, valid
    assert torch.autograd.gradcheck(lambda q: hybrid_contrast(q, *arguments, **options)[0], query.requires_grad_())


def test_hybrid_contrast_by_hand():
    # one cluster with centroid (1/2, 1/2) and one lone (0, 1); the query's similarities are log 9 / 2 and 0
    memory, labels = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]]), torch.tensor([0, 0, -1])
    query, rows = torch.tensor([[math.log(9), 0.0]] * 2), torch.tensor([1, 2])
    arguments = query, memory, labels, rows
    loss, accuracy = hybrid_contrast(*arguments, torch.tensor([True, True]), clusters=1, temperature=1.0)
    assert float(loss) == pytest.approx(-(math.log(3 / 4) + math.log(1 / 4)) / 2, rel=1e-6)
    assert float(accuracy) == 0.5
    loss, accuracy = hybrid_contrast(*arguments, torch.tensor([True, False]), clusters=1, temperature=1.0)
    assert float(loss) == pytest.approx(-math.log(3 / 4), rel=1e-6)
    assert float(accuracy) == 1.0


def test_hybrid_contrast_without_clusters_is_that_of_instances():
    query, memory, rows = unit(4, 3), unit(8, 3), torch.tensor([3, 1, 6, 7])
    alone, everyone = torch.full((8,), -1), torch.ones(4, dtype=torch.bool)
    loss = hybrid_contrast(query, memory, alone, rows, everyone, clusters=5, temperature=0.1)
    torch.testing.assert_close(loss, info_nce(query @ memory.T / 0.1, rows))


def test_hybrid_contrast_ignores_the_order_of_rows_and_names_of_clusters():
    query, memory, rows = unit(4, 3), unit(8, 3), torch.tensor([3, 1, 6, 7])
    valid, order = torch.ones(4, dtype=torch.bool), torch.randperm(8)
    loss = hybrid_contrast(query, memory, LABELS, rows, valid, clusters=3, temperature=0.1)
    renamed = torch.tensor([1, 0, 2, -2, -1])[LABELS][order]
    turned = hybrid_contrast(query, memory[order], renamed, order.argsort()[rows], valid, clusters=3, temperature=0.1)
    torch.testing.assert_close(turned, loss)


def inputs(seed: int = 0, size: int = 6, index: list[int] | None = None, episode: int = 0) -> tuple[Batch, Views]:
    batch = tiny_batch(seed, size=size, obs_shape=(9, 20, 20))
    places = torch.tensor(index) if index else torch.arange(size)
    batch = batch._replace(index=places, episode=torch.full((size,), episode))
    offsets = torch.zeros((size, 2), dtype=torch.int64)
    return batch, Views(Crop(batch.obs, offsets), Crop(batch.next_obs, offsets))


@pytest.fixture
def encoders() -> SimpleNamespace:
    return SimpleNamespace(online=tiny_encoder(), target=tiny_encoder())


def pcl(**options: Any) -> Pcl:
    return Pcl(PclConfig(**{**SMALL, "queue_size": 24, "clusters": (3, 5), **options}), SHAPES)


def spcl(**options: Any) -> Spcl:
    defaults = {"memory_size": 32, "neighbors": 6, "expansion": 2, "min_samples": 2}
    return Spcl(SpclConfig(**{**SMALL, **defaults, **options}), SHAPES)


def embed(objective: Pcl | Spcl, views: Views, encoders: SimpleNamespace) -> tuple[Tensor, Tensor]:
    """Write the projections out: two linear layers, each normalised over the batch, a ReLU between, unit length."""

    def normalised(x: Tensor) -> Tensor:
        return (x - x.mean(0)) / (x.var(0, correction=0) + 1e-5).sqrt()

    results = []
    for head, features in (
        (objective.head, encoders.online(views.query.images)),
        (objective.target_head, encoders.target(views.key.images)),
    ):
        w1, scale, shift, w2 = (p.detach() for p in head.parameters())
        out = normalised((scale * normalised(features.detach() @ w1.T) + shift).clamp(min=0) @ w2.T)
        results.append(out / out.square().sum(1, keepdim=True).sqrt())
    return results[0], results[1]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (lambda: PclConfig(temperature=0.0), "objective.temperature must be above 0 and at most 1000000.0, got 0.0"),
        (lambda: PclConfig(period=0), "objective.period must be at least 1 and at most .*, got 0"),
        (lambda: PclConfig(warmup=-1), "objective.warmup must be at least 0 and at most .*, got -1"),
        (lambda: PclConfig(projection_tau=0.0), r"objective.projection_tau must be above 0 and at most 1, got 0.0"),
        (lambda: PclConfig(clusters=()), r"clusters must be a list of numbers such as \[1,2\], got \(\)"),
        (lambda: PclConfig(clusters=(1, 5)), "clusters must be at least 2, got 1"),
        (lambda: PclConfig(clusters=(5, 9), queue_size=8), r"clusters=\[5,9\] must be at most objective.queue_size=8"),
        (lambda: PclConfig(coefficient=-1.0), "objective.coefficient must be at least 0 and"),
        (lambda: SpclConfig(memory_size=3), "min_samples=4 must be at most objective.memory_size=3: change one"),
        (lambda: SpclConfig(radius_gap=0.6), "radius_gap=0.6 must be below objective.radius=0.5"),
        (lambda: SpclConfig(radius=1.5), r"objective.radius must be above 0 and at most 1, got 1.5"),
        (lambda: SpclConfig(memory_tau=0.0), r"objective.memory_tau must be above 0 and at most 1, got 0.0"),
        (lambda: SpclConfig(neighbors=0), "objective.neighbors must be at least 1 and at most .*, got 0"),
        (lambda: SpclConfig().check_batch(1), "needs batch_size=2 or more, got 1"),
    ],
)
def test_options_that_cannot_be_honoured_are_refused(config, message):
    with pytest.raises(ConfigError, match=message):
        check(config(), "objective.")


@pytest.mark.parametrize("make", [pcl, spcl])
def test_only_the_query_side_learns_and_the_keys_head_follows(make, encoders):
    objective = make(projection_tau=0.3)
    before = [p.clone() for p in objective.target_head.parameters()]
    for i in range(3):
        objective(*inputs(i), encoders.online, encoders.target)[0].backward()
        assert all(p.grad.any() for p in objective.head.parameters())
        assert all(p.grad is None for p in (*objective.target_head.parameters(), *encoders.target.parameters()))
        with torch.no_grad():
            objective.head[0].weight.add_(1)
        objective.after_step()
    assert encoders.online.convs[0].weight.grad.any()
    old, new = before[0], objective.target_head[0].weight
    weight = objective.head[0].weight.detach()
    expected = old
    for lag in (2, 1, 0):
        expected = 0.7 * expected + 0.3 * (weight - lag)
    torch.testing.assert_close(new, expected)


def test_pcl_begins_as_instance_contrast_with_a_queue(encoders):
    objective, (batch, views) = pcl(warmup=100), inputs()
    negatives = objective.queue.rows.clone()
    loss, metrics = objective(batch, views, encoders.online, encoders.target)
    query, key = embed(objective, views, encoders)
    logits = torch.cat([(query * key).sum(1)[:, None], query @ negatives.T], 1) / 0.2
    torch.testing.assert_close(loss.detach(), (logits.logsumexp(1) - logits[:, 0]).mean(), rtol=1e-4, atol=1e-5)
    assert float(metrics["accuracy"]) == float((logits.argmax(1) == 0).float().mean())
    assert float(metrics["prototype_loss"]) == float(metrics["prototype_accuracy"]) == 0
    objective.after_step()
    torch.testing.assert_close(objective.queue.rows[:6], key)
    assert torch.equal(objective.queue.rows[6:], negatives[6:])


def test_pcl_adds_the_mean_contrast_with_its_sets_of_prototypes(encoders):
    objective = pcl(temperature=0.1)
    for i in range(3):
        objective(*inputs(i), encoders.online, encoders.target)
        objective.after_step()
    objective(*inputs(3), encoders.online, encoders.target)
    generator = torch.Generator()
    generator.set_state(objective.random.generator.get_state())
    objective.after_step()
    keys, (batch, views) = objective.queue.rows.clone(), inputs(9)
    query, key = embed(objective, views, encoders)
    losses = []
    for count in (3, 5):
        centres, assignment = k_means(keys, count, generator)
        phi = concentration(keys, centres, assignment, 0.1)
        nearest = torch.cdist(key, centres).argmin(1)
        losses.append(proto_nce(query, F.normalize(centres, dim=1), nearest, phi))
    instances, accuracy = info_nce(queue_logits(query, key, keys) / 0.1, torch.zeros(6, dtype=torch.int64))
    loss, metrics = objective(batch, views, encoders.online, encoders.target)
    torch.testing.assert_close(loss.detach(), instances + sum(values[0] for values in losses) / 2)
    torch.testing.assert_close(metrics["prototype_loss"], sum(values[0] for values in losses) / 2)
    torch.testing.assert_close(metrics["prototype_accuracy"], sum(values[1] for values in losses) / 2)
    assert float(metrics["accuracy"]) == float(accuracy)


def test_pcl_clusters_from_the_warmup_on_every_period_and_only_with_enough_keys(encoders):
    objective = pcl(period=2, warmup=3, clusters=(2, 15))
    changed = []
    for i in range(8):
        objective(*inputs(i, size=3), encoders.online, encoders.target)
        before = objective.centres.clone()
        objective.after_step()
        changed.append(not torch.equal(before, objective.centres))
        assert bool(objective.ready) == any(changed)
    # the fourth finds 12 keys for 15 prototypes
    assert changed == [False, False, False, False, False, True, False, True]


def test_pcl_clusters_pushed_keys_only(encoders):
    objective = pcl(clusters=(2, 6))
    objective(*inputs(), encoders.online, encoders.target)
    objective.after_step()
    keys, mine = objective.queue.rows[:6], objective.centres[2:]
    torch.testing.assert_close(torch.cdist(keys, mine).amin(1), torch.zeros(6), rtol=0, atol=1e-3)


@pytest.mark.parametrize("size", [2, 3, 30])
@pytest.mark.parametrize("make", [pcl, spcl])
def test_batches_of_any_size_follow_each_other(make, size, encoders):
    objective = make()
    for i in range(4):
        loss, _ = objective(*inputs(i, size=size if i % 2 else 5), encoders.online, encoders.target)
        objective.after_step()
        assert loss.isfinite()


def test_spcl_begins_as_contrast_with_the_instances_of_its_memory(encoders):
    objective = spcl(warmup=100, temperature=0.1)
    objective(*inputs(1, size=4, index=[6, 7, 40, 9]), encoders.online, encoders.target)
    objective._keep()
    first = embed(objective, inputs(1, size=4)[1], encoders)[1]
    batch, views = inputs(2)
    loss, metrics = objective(batch, views, encoders.online, encoders.target)
    query, key = embed(objective, views, encoders)
    logits = query @ torch.cat([key, first]).T / 0.1
    torch.testing.assert_close(loss.detach(), (logits.logsumexp(1) - logits.diagonal()).mean())
    assert float(metrics["accuracy"]) == float((logits.argmax(1) == torch.arange(6)).float().mean())
    assert float(metrics["clustered"]) == 0
    objective._keep()
    assert objective.labels.tolist() == [-1] * 10 + [-2] * 22  # 40 is 8 modulo 32


def test_a_transition_moves_its_own_row_and_another_takes_it_over(encoders):
    objective = spcl(memory_tau=0.25, join=False)
    both = encoders.online, encoders.target
    objective(*inputs(0, size=2, index=[3, 4]), *both)
    objective._keep()
    first = objective.rows.clone()
    objective.labels[[3, 4]] = 1
    batch, views = inputs(1, size=2, index=[3, 36])  # 36 is 4 modulo 32
    objective(batch, views, *both)
    objective._keep()
    key = embed(objective, views, encoders)[1]
    torch.testing.assert_close(objective.rows[3], F.normalize(0.75 * first[3] + 0.25 * key[0], dim=0))
    torch.testing.assert_close(objective.rows[4], key[1])
    assert objective.labels[[3, 4]].tolist() == [1, -1]
    assert objective.owner[[3, 4]].tolist() == [[3, 0], [36, 0]]


def test_a_slot_of_the_replay_that_holds_another_episode_is_another_transition(encoders):
    objective = spcl(join=False)
    objective(*inputs(0, size=2, index=[3, 4]), encoders.online, encoders.target)
    objective._keep()
    objective.labels[[3, 4]] = 1
    batch, views = inputs(1, size=2, index=[3, 4], episode=7)
    objective(batch, views, encoders.online, encoders.target)
    objective._keep()
    torch.testing.assert_close(objective.rows[[3, 4]], embed(objective, views, encoders)[1])
    assert objective.labels[[3, 4]].tolist() == [-1, -1]
    assert objective.owner[3].tolist() == [3, 7]


def test_where_two_of_a_batch_want_one_row_the_later_has_it_and_the_other_is_left_out(encoders):
    objective = spcl(temperature=0.5)
    batch, views = inputs(0, size=4, index=[5, 1, 37, 37])  # 5 and twice the same 37 want row 5
    loss, _ = objective(batch, views, encoders.online, encoders.target)
    query, key = embed(objective, views, encoders)
    objective._keep()
    torch.testing.assert_close(objective.rows[5], key[3])
    logits = query @ key[[1, 3]].T / 0.5
    losses = logits.logsumexp(1) - logits[torch.arange(4), torch.tensor([1, 0, 1, 1])]
    torch.testing.assert_close(loss.detach(), losses[1:].mean())


def fill(objective: Spcl, rows: Tensor) -> None:
    """Put rows into the memory as transitions of episode 0."""
    objective.rows[: len(rows)] = rows
    objective.labels[: len(rows)] = -1
    objective.owner[: len(rows), 0] = torch.arange(len(rows))
    objective.owner[: len(rows), 1] = 0


def remember(objective: Spcl, owner: Tensor, keys: Tensor) -> None:
    objective._written = objective._write(owner, keys)
    objective._keep()


def bundles(seed: int = 0) -> Tensor:
    """Return three bundles of eight unit rows and four rows apart."""
    rng = torch.Generator().manual_seed(seed)
    middles = F.normalize(torch.randn(3, 6, generator=rng), dim=1).repeat_interleave(8, 0)
    rows = torch.cat([middles + 0.05 * torch.randn(24, 6, generator=rng), torch.randn(4, 6, generator=rng)])
    return F.normalize(rows, dim=1)


def test_spcl_finds_reliable_clusters_among_its_rows():
    objective, rows = spcl(radius=0.7, radius_gap=0.1), bundles()
    fill(objective, rows)
    distances = reciprocal_distances(rows, 6, 2)
    labels = reliable_clusters(*(density_clusters(distances, radius, 2) for radius in (0.7, 0.6, 0.8)))
    objective.refresh()
    assert objective.labels.tolist() == labels.tolist() + [-2] * 4
    assert len(set(labels.tolist())) > 3
    assert -1 in labels


def test_clusters_for_which_there_is_no_room_are_left_out():
    objective = spcl(memory_size=28, min_samples=14)
    fill(objective, bundles())
    object.__setattr__(objective.config, "min_samples", 2)
    objective.refresh()
    assert objective.labels.max() == objective.clusters - 1 == 1


@pytest.mark.parametrize("join", [True, False])
def test_a_new_row_joins_the_cluster_of_its_nearest_reciprocal_neighbour_if_it_may(join):
    objective, rows = spcl(join=join), bundles()
    fill(objective, rows)
    objective.labels[:24] = torch.arange(3).repeat_interleave(8)
    keys = F.normalize(torch.cat([rows[[1, 9, 17]] + rows[[2, 10, 18]], bundles(3)[24:]]), dim=1)
    expected, similarity = [], rows @ rows.T
    for key in keys:
        nearest = int((rows @ key).argmax())
        sixth = similarity[nearest].sort(descending=True).values[5]  # itself is the first
        expected.append(int(objective.labels[nearest]) if float(rows[nearest] @ key) >= sixth else -1)
    assert expected[:3] == [0, 1, 2]
    assert -1 in expected
    remember(objective, torch.tensor([[32 + i, 0] for i in range(7)]), keys)
    assert objective.labels[:7].tolist() == (expected if join else [-1] * 7)
    assert objective.labels[7:24].tolist() == [0, *[1] * 8, *[2] * 8]


def test_among_fewer_rows_than_neighbours_every_row_is_one():
    objective, row = spcl(neighbors=6), bundles()[:1]
    fill(objective, row)
    objective.labels[0] = 2
    assert objective._join(-row).tolist() == [2]


def test_the_first_rows_of_all_join_nothing():
    objective = spcl()
    remember(objective, torch.tensor([[0, 0], [1, 0]]), bundles()[:2])
    assert objective.labels.tolist() == [-1, -1] + [-2] * 30


def test_spcl_contrasts_with_its_clusters(encoders):
    objective, rows = spcl(radius=0.9, temperature=0.2, join=False), bundles()
    fill(objective, rows)
    objective.refresh()
    batch, views = inputs(0, size=3, index=[1, 9, 25])
    names = objective.labels[[1, 9, 25]].tolist()
    loss, metrics = objective(batch, views, encoders.online, encoders.target)
    objective._keep()
    query, _ = embed(objective, views, encoders)
    labels = objective.labels[:28]
    clusters = [objective.rows[:28][labels == k].mean(0) for k in range(int(labels.max()) + 1)]
    lone = (labels == -1).nonzero()[:, 0].tolist()
    logits = query @ torch.stack([*clusters, *objective.rows[lone]]).T / 0.2
    own = torch.tensor([n if n >= 0 else len(clusters) + lone.index(i) for n, i in zip(names, (1, 9, 25), strict=True)])
    torch.testing.assert_close(loss.detach(), info_nce(logits, own)[0])
    assert float(metrics["clustered"]) == pytest.approx(sum(n >= 0 for n in names) / 3)
    assert names[0] >= 0


@pytest.mark.parametrize("make", [pcl, spcl])
def test_state_is_kept_to_the_bit(make, encoders):
    def go(objective: Pcl | Spcl, start: int) -> list[float]:
        losses = []
        for i in range(start, start + 6):
            losses.append(float(objective(*inputs(i), encoders.online, encoders.target)[0].detach()))
            objective.after_step()
        return losses

    objective = make(period=2, warmup=5)
    go(objective, 0)
    torch.manual_seed(5)
    resumed = make(period=2, warmup=5)
    resumed.load_state_dict(copy.deepcopy(objective.state_dict()))
    assert go(objective, 6) == go(resumed, 6)
    one, other = objective.state_dict(), resumed.state_dict()
    assert all(v.equal(other[k]) if torch.is_tensor(v) else v == other[k] for k, v in one.items())
    assert objective.schedule.count == 12


@pytest.mark.parametrize("name", ["pcl", "spcl"])
@pytest.mark.parametrize("make", [tiny_sac, tiny_rainbow])
def test_agents_train_with_it_and_resume_exactly(name, make):
    agent = make(name)
    agent.learner.objective.schedule.period = 2
    object.__setattr__(agent.learner.objective.config, "warmup", 2)
    metrics = run(agent, range(5))
    assert all(math.isfinite(float(m["objective_loss"])) for m in metrics)
    resumed = make(name, seed=3)
    resumed.learner.objective.schedule.period = 2
    object.__setattr__(resumed.learner.objective.config, "warmup", 2)
    resumed.load_state_dict(copy.deepcopy(agent.state_dict()))
    run(agent, range(5, 9))
    run(resumed, range(5, 9))
    assert_equal_states(agent, resumed)
