"""Contrastive clustering: its loss against the formula, its store and prototypes against a naive twin."""

import math
from collections import defaultdict, deque

import numpy as np
import pytest
import torch
from tiny import tiny_batch, tiny_encoder
from torch import Tensor, nn

from curl_rl.nn.losses import hinged_distances
from curl_rl.objectives import OBJECTIVES, make_objective
from curl_rl.options import check
from curl_rl.types import ConfigError, Crop, Shapes, Views

SHAPES = Shapes(8, (4, 7, 7), 2)
SMALL = {"classes": 4, "items": 5, "start": 3, "period": 2, "momentum": 0.6, "projection_dim": 3}


def make(**fields):
    torch.manual_seed(0)
    return make_objective(OBJECTIVES["open_world"].Config(**{**SMALL, **fields}), SHAPES)


def inputs(seed: int, classes: list[int]):
    """Return a batch of these classes, and its views, of images that are noise."""
    batch = tiny_batch(seed, size=len(classes), obs_shape=(9, 20, 20))
    offsets = torch.zeros((len(classes), 2), dtype=torch.int64)
    views = Views(Crop(batch.obs, offsets), Crop(batch.next_obs, offsets))
    return batch._replace(classes=torch.tensor(classes)), views


def loss_one_by_one(z: np.ndarray, classes: list[int], prototypes: dict[int, np.ndarray], margin: float) -> float:
    """Equations 1 and 2, of those whose class has a prototype."""
    losses = []
    for row, own in zip(z, classes, strict=True):
        if own in prototypes:
            near = {k: math.dist(row, p) for k, p in prototypes.items()}
            losses.append(sum(d if k == own else max(0.0, margin - d) for k, d in near.items()))
    return sum(losses) / max(1, len(losses))


@pytest.mark.parametrize("margin", [0.5, 2.0, 50.0])
def test_the_loss_is_the_formula_written_out(margin):
    rng = np.random.default_rng(0)
    z, prototypes, classes = rng.normal(size=(9, 3)), rng.normal(size=(5, 3)), [0, 1, 2, 3, 4, 0, -1, 2, 4]
    made = torch.tensor([True, True, False, True, True])
    given = torch.tensor(z), torch.tensor(classes), torch.tensor(prototypes), made
    loss, accuracy = hinged_distances(*given, margin)
    known = {k: prototypes[k] for k in (0, 1, 3, 4)}
    assert float(loss) == pytest.approx(loss_one_by_one(z, classes, known, margin))
    hits = [min(known, key=lambda k: math.dist(z[i], known[k])) == c for i, c in enumerate(classes) if c in known]
    assert float(accuracy) == pytest.approx(sum(hits) / len(hits))


def test_moving_and_turning_all_changes_nothing():
    z, prototypes, classes = torch.randn(6, 3), torch.randn(4, 3), torch.tensor([0, 1, 2, 3, 0, 1])
    made, turn = torch.ones(4, dtype=torch.bool), torch.linalg.qr(torch.randn(3, 3)).Q
    loss, _ = hinged_distances(z, classes, prototypes, made, 2.0)
    other, _ = hinged_distances(z @ turn + 5, classes, prototypes @ turn + 5, made, 2.0)
    torch.testing.assert_close(loss, other, rtol=1e-4, atol=1e-5)


def test_an_embedding_on_its_prototype_has_a_finite_gradient():
    z = torch.zeros(1, 3, requires_grad=True)
    loss, _ = hinged_distances(z, torch.tensor([0]), torch.zeros(2, 3), torch.tensor([True, True]), 1.0)
    loss.backward()
    assert z.grad.isfinite().all()
    assert float(loss.detach()) == pytest.approx(1.0, abs=1e-4)


def test_without_prototypes_the_loss_is_zero():
    z = torch.randn(4, 3, requires_grad=True)
    loss, accuracy = hinged_distances(z, torch.zeros(4).long(), torch.zeros(2, 3), torch.zeros(2).bool(), 1.0)
    loss.backward()
    assert (float(loss.detach()), float(accuracy), float(z.grad.abs().sum())) == (0, 0, 0)


class Twin:
    """Algorithm 1, one item at a time."""

    def __init__(self, config):
        self.config, self.count, self.prototypes = config, 0, {}
        self.store = defaultdict(lambda: deque(maxlen=config.items))

    def step(self, embeddings: Tensor, classes: list[int]) -> None:
        for row, each in zip(embeddings.detach().double().numpy(), classes, strict=True):
            if each >= 0:
                self.store[min(each, self.config.classes - 1)].append(row)
        self.count += 1
        since = self.count - self.config.start
        if since < 0 or since % self.config.period:
            return
        for each, items in self.store.items():
            mean, old = np.mean(items, 0), self.prototypes.get(each)
            kept = self.config.momentum
            self.prototypes[each] = mean if old is None else kept * old + (1 - kept) * mean


def test_store_and_prototypes_are_those_of_a_naive_twin():
    objective, encoder = make(), tiny_encoder()
    twin, rng = Twin(objective.config), np.random.default_rng(1)
    for update in range(12):
        # A class comes later than the others, one is beyond those there are, and some are unknown.
        classes = rng.integers(-1, 3 if update < 6 else 6, size=rng.integers(2, 9)).tolist()
        batch, views = inputs(update, classes)
        loss, metrics = objective(batch, views, encoder, encoder)
        z = objective.head(torch.cat([encoder(view.images) for view in views])).detach()
        capped = [min(each, 3) for each in classes] * 2
        wanted = loss_one_by_one(z.double().numpy(), capped, twin.prototypes, objective.config.margin)
        assert float(loss.detach()) == pytest.approx(wanted, rel=1e-4, abs=1e-6)
        assert float(metrics["prototypes"]) == len(twin.prototypes)
        objective.after_step()
        twin.step(z, classes * 2)
        assert objective.made.nonzero()[:, 0].tolist() == sorted(twin.prototypes)
        for each, place in twin.prototypes.items():
            assert objective.prototypes[each].tolist() == pytest.approx(place.tolist(), rel=1e-4, abs=1e-5)
            kept = objective.store.rows[each, objective.store.known()[each]]
            assert kept.sort(0).values.numpy() == pytest.approx(np.sort(np.array(twin.store[each]), 0), abs=1e-5)
    assert len(twin.prototypes) == 4


def test_it_starts_anew_and_a_reset_forgets_the_prototypes():
    objective, encoder = make(start=1, period=1), tiny_encoder()
    batch, views = inputs(0, [0, 1, 0, 1])
    objective(batch, views, encoder, encoder)
    objective.after_step()
    assert objective.made.tolist() == [True, True, False, False]
    objective.after_step()  # without a loss between, nothing happens
    assert int(objective.count) == 1
    objective.reset(0.5)
    assert (objective.made.any(), objective.store.filled.any(), int(objective.count)) == (False, False, 0)
    assert float(objective(batch, views, encoder, encoder)[0].detach()) == 0


def test_descent_gathers_the_classes():
    objective, encoder = make(start=1, period=1, margin=2.0, classes=2), tiny_encoder()
    batch, views = inputs(0, [0, 1] * 4)
    optimizer = torch.optim.Adam([*encoder.parameters(), *objective.parameters()], lr=3e-3)
    for _ in range(80):
        loss, metrics = objective(batch, views, encoder, encoder)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        objective.after_step()
    z = objective.head(torch.cat([encoder(view.images) for view in views])).detach()
    apart = torch.cdist(z, z)
    alike = (batch.classes.repeat(2)[:, None] == batch.classes.repeat(2)) & ~torch.eye(16, dtype=torch.bool)
    assert float(metrics["accuracy"]) == 1
    assert apart[alike].mean() < 0.5 * apart[batch.classes.repeat(2)[:, None] != batch.classes.repeat(2)].mean()


def test_what_it_needs_and_where_it_may_run():
    config = OBJECTIVES["open_world"].Config()
    assert config.needs == {"classes"}
    assert config.capturable  # counts and moves are tensors
    objective, encoder = make(), tiny_encoder()
    assert not any(isinstance(module, type(encoder)) for module in objective.modules())
    assert isinstance(objective.head[-1], nn.BatchNorm1d)
    batch, views = inputs(0, [0, 1])
    with pytest.raises(ValueError, match=r"objective=open_world reads Batch\.classes: give frames that have classes"):
        objective(batch._replace(classes=None), views, encoder, encoder)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"classes": 1}, "objective.classes must be at least 2 and at most 256, got 1"),
        ({"items": 0}, "objective.items must be at least 1"),
        ({"margin": 0.0}, "objective.margin must be above 0"),
        ({"momentum": 1.0}, "objective.momentum must be at least 0 and below 1, got 1.0"),
        ({"start": 0}, "objective.start must be at least 1"),
        ({"period": 0}, "objective.period must be at least 1"),
    ],
    ids=["classes", "items", "margin", "momentum", "start", "period"],
)
def test_options_out_of_bounds(fields, message):
    with pytest.raises(ConfigError, match=message):
        check(OBJECTIVES["open_world"].Config(**fields), "objective.")
