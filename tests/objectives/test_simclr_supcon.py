"""SimCLR and supervised contrast: their losses against loops in float64, their labels, their heads."""

import copy
import dataclasses
import math
from typing import Any

import pytest
import torch
from tiny import assert_equal_states, run, tiny_batch, tiny_encoder, tiny_rainbow, tiny_sac
from torch import Tensor, nn
from torch.nn import functional as F

from curl_rl.nn.encoders import Encoder
from curl_rl.nn.losses import nt_xent, supervised_contrastive
from curl_rl.nn.remembering import Remembering
from curl_rl.objectives import OBJECTIVES, make_objective
from curl_rl.objectives.base import Objective
from curl_rl.objectives.simclr_supcon import LABELS
from curl_rl.options import check
from curl_rl.types import Batch, ConfigError, Crop, Shapes, Views

SHAPES = Shapes(feature_dim=8, conv=(4, 7, 7), action_dim=2)
DISCRETE = SHAPES._replace(discrete=True)
SMALL = {"projection_dim": 5, "projection_hidden": 16}
BINS = {"return_bin": {"bins": 2}}


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture
def inputs() -> tuple[Batch, Views]:
    return draw()


def draw(seed: int = 0, size: int = 6) -> tuple[Batch, Views]:
    batch = tiny_batch(seed, size=size, obs_shape=(9, 20, 20), discrete=True)
    batch = batch._replace(classes=torch.arange(size) % 4 - 1)
    offsets = torch.zeros((size, 2), dtype=torch.int64)
    return batch, Views(Crop(batch.obs, offsets), Crop(batch.next_obs, offsets))


def make(name: str, **fields: Any) -> Objective:
    return make_objective(OBJECTIVES[name].Config(**{**SMALL, **fields}), DISCRETE)


def loss_of(objective: Objective, batch: Batch, views: Views, encoder: Encoder) -> tuple[Tensor, dict[str, Tensor]]:
    """Hand the objective a target that it must not ask."""
    return objective(batch, views, Remembering(encoder), None)  # pyright: ignore[reportArgumentType]


def cosine(a: Tensor, b: Tensor) -> float:
    return float(a @ b) / (float(a @ a) * float(b @ b)) ** 0.5


def nt_xent_one_by_one(first: Tensor, second: Tensor, temperature: float) -> float:
    """Write out equation 1 of Chen et al. 2020 and its mean over both orders of every pair."""
    z, size = torch.cat([first, second]), len(first)
    total = 0.0
    for i in range(2 * size):
        others = [math.exp(cosine(z[i], z[k]) / temperature) for k in range(2 * size) if k != i]
        total -= math.log(math.exp(cosine(z[i], z[(i + size) % (2 * size)]) / temperature) / sum(others))
    return total / (2 * size)


def supcon_one_by_one(z: Tensor, labels: list[int], temperature: float) -> float:
    """Write out equation 2 of Khosla et al. 2020, averaged over the anchors."""
    total = 0.0
    for i in range(len(z)):
        scores = {a: math.exp(cosine(z[i], z[a]) / temperature) for a in range(len(z)) if a != i}
        positives = [p for p in scores if labels[p] == labels[i]]
        total -= sum(math.log(scores[p] / sum(scores.values())) for p in positives) / len(positives)
    return total / len(z)


# The losses


def test_nt_xent_equals_the_formula_in_float64():
    first, second = (torch.randn(7, 4, dtype=torch.float64) for _ in range(2))
    loss, accuracy = nt_xent(first, second, 0.3)
    assert float(loss) == pytest.approx(nt_xent_one_by_one(first, second, 0.3), rel=1e-10)
    z = F.normalize(torch.cat([first, second]), dim=1)
    nearest = (z @ z.T - 3 * torch.eye(14)).argmax(1)
    assert float(accuracy) == pytest.approx(float((nearest == (torch.arange(14) + 7) % 14).float().mean()))


def test_nt_xent_by_hand():
    # Two images whose views coincide, at right angles: each row sees 1 / T once and 0 twice.
    views = torch.tensor([[2.0, 0.0], [0.0, 3.0]])
    loss, accuracy = nt_xent(views, views, temperature=1 / math.log(6))
    assert float(loss) == pytest.approx(-math.log(6 / 8), rel=1e-6)
    assert float(accuracy) == 1.0
    loss, accuracy = nt_xent(views, views.flip(0), temperature=1 / math.log(6))
    assert float(loss) == pytest.approx(-math.log(1 / 8), rel=1e-6)
    assert float(accuracy) == 0.0


def test_nt_xent_ignores_lengths_order_and_which_view_is_first():
    first, second = torch.randn(6, 4), torch.randn(6, 4)
    loss = nt_xent(first, second, 0.5)
    order = torch.randperm(6)
    for other in ((second, first), (first[order], second[order]), (3 * first, torch.rand(6, 1) * second)):
        torch.testing.assert_close(nt_xent(*other, 0.5), loss)


def test_nt_xent_of_alike_embeddings_is_the_logarithm_of_the_choices():
    z = torch.randn(1, 4).expand(6, 4)
    assert float(nt_xent(z, z, 0.1)[0]) == pytest.approx(math.log(11), rel=1e-5)


@pytest.mark.parametrize("labels", [[0, 0, 0, 1, 1, 1, 1, 2, 2], [5, 4, 5, 4, 5, 4, 5, 4, 5], [3] * 9], ids=str)
def test_supervised_contrast_equals_the_formula_in_float64(labels):
    z = torch.randn(9, 4, dtype=torch.float64)
    loss, _ = supervised_contrastive(z, torch.tensor(labels), 0.2)
    assert float(loss) == pytest.approx(supcon_one_by_one(z, labels, 0.2), rel=1e-10)


def test_supervised_contrast_by_hand():
    # Similarities 1, -1 and 0 weigh 2, 1/2 and 1.
    z = torch.tensor([[1.0, 0.0], [2.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, 5.0]])
    loss, accuracy = supervised_contrastive(z, torch.tensor([0, 0, 0, 1, 1]), 1 / math.log(2))
    # The first two: positives 2 and 1/2 of 9/2; the third: 1/2 and 1/2 of 3; the others: 2 of 5.
    rows = [(math.log(4 / 9) + math.log(1 / 9)) / 2] * 2 + [math.log(1 / 6)] + [math.log(2 / 5)] * 2
    assert float(loss) == pytest.approx(-sum(rows) / 5, rel=1e-6)
    assert float(accuracy) == pytest.approx(4 / 5)  # the third is nearer to the other class


def test_supervised_contrast_where_every_pair_is_a_class_is_nt_xent():
    first, second = torch.randn(6, 4), torch.randn(6, 4)
    names = torch.tensor([9, 4, 7, 1, 0, 3]).repeat(2)
    supervised = supervised_contrastive(torch.cat([first, second]), names, 0.5)
    torch.testing.assert_close(supervised, nt_xent(first, second, 0.5))


def test_supervised_contrast_ignores_names_order_and_lengths():
    z, labels = torch.randn(8, 4), torch.tensor([0, 1, 0, 1, 2, 2, 2, 1])
    loss = supervised_contrastive(z, labels, 0.2)
    order = torch.randperm(8)
    for other in ((z, 7 - 3 * labels), (z[order], labels[order]), (z * (0.1 + torch.rand(8, 1)), labels)):
        torch.testing.assert_close(supervised_contrastive(*other, 0.2), loss)


def test_both_losses_pass_gradcheck():
    first, second = (torch.randn(4, 3, dtype=torch.float64, requires_grad=True) for _ in range(2))
    assert torch.autograd.gradcheck(lambda a, b: nt_xent(a, b, 0.5)[0], (first, second))
    labels = torch.tensor([0, 1, 0, 1, 0, 0, 2, 2])
    z = torch.randn(8, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda z: supervised_contrastive(z, labels, 0.2)[0], z)


def test_both_losses_are_float32_whatever_comes_in():
    first, second = torch.randn(6, 4).bfloat16(), torch.randn(6, 4).bfloat16()
    loss, _ = nt_xent(first, second, 0.05)
    assert loss.dtype == torch.float32
    assert torch.equal(loss, nt_xent(first.float(), second.float(), 0.05)[0])


# The labels


def bins(reward: list[float], count: int) -> list[int]:
    batch = tiny_batch(size=len(reward))._replace(reward=torch.tensor(reward))
    return LABELS["return_bin"](batch, count).tolist()


@pytest.mark.parametrize(
    ("reward", "count", "expected"),
    [
        ([5.0, 1.0, 3.0, 2.0, 4.0, 6.0], 3, [2, 0, 1, 0, 1, 2]),
        ([5.0, 1.0, 3.0, 2.0], 4, [3, 0, 2, 1]),
        ([1.0, 2.0, 3.0], 2, [0, 1, 1]),  # the middle one goes up
        ([7.0, 7.0, 7.0, 7.0], 5, [2, 2, 2, 2]),  # equal returns are one class
        ([0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0], 5, [2, 2, 2, 2, 2, 2, 2, 4]),  # a rare reward is its own
        ([-1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0], 5, [0, 2, 2, 2, 2, 2, 2, 4]),
    ],
    ids=str,
)
def test_return_bins_by_hand(reward, count, expected):
    assert bins(reward, count) == expected


def test_return_bins_are_quantiles_that_only_the_order_decides():
    reward = torch.randn(60).tolist()
    found = bins(reward, 5)
    assert [found.count(i) for i in range(5)] == [12] * 5
    assert sorted(zip(reward, found, strict=True)) == list(zip(sorted(reward), sorted(found), strict=True))
    assert bins([math.exp(x) for x in reward], 5) == found


def test_every_kind_of_label_is_read_from_the_transition():
    batch = tiny_batch(discrete=True)._replace(reward=torch.tensor([0.5, -2.0, 0.0, 0.1, -0.1, 0.0]))
    assert torch.equal(LABELS["action"](batch, 5), batch.action)
    assert LABELS["return_sign"](batch, 5).tolist() == [1, -1, 0, 1, -1, 0]
    assert LABELS["return_bin"](batch, 3).tolist() == [2, 0, 1, 2, 0, 1]
    assert torch.equal(LABELS["episode"](batch, 5), batch.episode)
    with pytest.raises(ValueError, match=r"reads Batch\.classes: give frames that have classes"):
        LABELS["class"](batch, 5)


def test_what_is_of_no_known_class_is_alike_to_nothing_else():
    batch = tiny_batch()._replace(classes=torch.tensor([2, -1, 0, 2, -1, -1]))
    assert LABELS["class"](batch, 5).tolist() == [2, -2, 0, 2, -5, -6]


def test_what_supcon_needs_follows_its_labels():
    needs = {labels: set(OBJECTIVES["supcon"].Config(labels=labels).needs) for labels in LABELS}
    assert needs == {
        "action": {"actions"},
        "return_sign": {"rewards"},
        "return_bin": {"rewards"},
        "episode": {"episodes"},
        "class": {"classes"},
    }


# The objectives


def project(head: nn.Module, features: Tensor) -> Tensor:
    """Write a two-layer head out in float64, batch statistics where it holds a normalisation."""
    layers, x = list(head.children()), features.double()
    for layer in layers:
        if isinstance(layer, nn.Linear):
            x = x @ layer.weight.detach().double().T + (0 if layer.bias is None else layer.bias.detach().double())
        elif isinstance(layer, nn.BatchNorm1d):
            x = (x - x.mean(0)) / (x.var(0, correction=0) + 1e-5).sqrt()
            if layer.affine:
                x = x * layer.weight.detach().double() + layer.bias.detach().double()
        else:
            x = x.clamp_min(0)
    return x


def embeddings(objective: Objective, views: Views, encoder: Encoder) -> Tensor:
    with torch.no_grad():
        return project(objective.head, torch.cat([encoder(crop.images) for crop in views]))


@pytest.mark.parametrize("depth", [2, 3])
def test_simclr_is_the_formula_written_out(inputs, depth):
    encoder, simclr = tiny_encoder(), make("simclr", projection_depth=depth, temperature=0.3)
    kinds = [type(layer) for layer in simclr.head.children()]
    assert kinds.count(nn.Linear) == depth
    assert kinds.count(nn.BatchNorm1d) == depth  # the last layer's too
    loss, metrics = loss_of(simclr, *inputs, encoder)
    z = embeddings(simclr, inputs[1], encoder)
    assert loss.dtype == torch.float32
    assert float(loss.detach()) == pytest.approx(nt_xent_one_by_one(z[:6], z[6:], 0.3), rel=1e-4)
    assert set(metrics) == {"accuracy"}
    torch.testing.assert_close(metrics["accuracy"], nt_xent(z[:6], z[6:], 0.3)[1])


@pytest.mark.parametrize("labels", sorted(LABELS))
def test_supcon_is_the_formula_written_out(inputs, labels):
    encoder, supcon = tiny_encoder(), make("supcon", labels=labels, temperature=0.3, **BINS.get(labels, {}))
    assert not any(isinstance(layer, nn.BatchNorm1d) for layer in supcon.head.children())
    loss, metrics = loss_of(supcon, *inputs, encoder)
    names = LABELS[labels](inputs[0], 2).tolist() * 2
    z = embeddings(supcon, inputs[1], encoder)
    assert float(loss.detach()) == pytest.approx(supcon_one_by_one(z, names, 0.3), rel=1e-4)
    assert float(metrics["positives"]) == pytest.approx(sum(names.count(n) - 1 for n in names) / 12)
    assert 0 <= float(metrics["accuracy"]) <= 1


def test_a_class_of_one_transition_still_has_its_other_view(inputs):
    batch, views = inputs
    alone = batch._replace(reward=torch.arange(6.0))
    supcon = make("supcon", labels="return_bin", bins=6)
    encoder = tiny_encoder()
    loss, metrics = loss_of(supcon, alone, views, encoder)
    z = embeddings(supcon, views, encoder)
    assert float(metrics["positives"]) == 1.0
    assert float(loss.detach()) == pytest.approx(nt_xent_one_by_one(z[:6], z[6:], 0.1), rel=1e-4)


@pytest.mark.parametrize("name", ["simclr", "supcon"])
def test_gradient_reaches_the_encoder_through_both_views_and_every_layer(name, inputs):
    encoder, objective = tiny_encoder(), make(name)
    batch, views = inputs
    features = {id(crop.images): encoder(crop.images).detach().requires_grad_() for crop in views}
    loss, _ = objective(batch, views, lambda images: features[id(images)], None)
    loss.backward()
    assert all(f.grad is not None and f.grad.any(1).all() for f in features.values())
    assert all(p.grad is not None and p.grad.any() for p in objective.parameters())
    loss_of(objective, batch, views, encoder)[0].backward()
    assert all(p.grad is not None for p in encoder.parameters())


@pytest.mark.parametrize("name", ["simclr", "supcon"])
def test_alike_images_cost_the_logarithm_of_the_choices(name, inputs):
    batch, views = inputs
    alike = views.query._replace(images=batch.obs[:1].expand_as(batch.obs))
    loss, _ = loss_of(make(name), batch, Views(alike, alike), tiny_encoder())
    assert float(loss.detach()) == pytest.approx(math.log(11), rel=1e-3)


@pytest.mark.parametrize("name", ["simclr", "supcon"])
def test_the_batch_may_change_its_size(name):
    objective, encoder = make(name), tiny_encoder()
    for size in (2, 9, 3):
        assert loss_of(objective, *draw(size, size), encoder)[0].isfinite()


def descend(objective: Objective, encoder: Encoder, views: Views, batch: Batch, steps: int) -> list[Tensor]:
    optimiser = torch.optim.Adam([*encoder.parameters(), *objective.parameters()], lr=3e-3)
    losses = []
    for _ in range(steps):
        loss, _ = loss_of(objective, batch, views, encoder)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        objective.after_step()
        losses.append(loss.detach())
    return losses


@pytest.mark.parametrize("name", ["simclr", "supcon"])
def test_a_resume_goes_on_bit_for_bit(name, inputs):
    objective, encoder = make(name), tiny_encoder()
    descend(objective, encoder, inputs[1], inputs[0], 2)
    other, twin = make(name), copy.deepcopy(encoder)
    other.load_state_dict(copy.deepcopy(objective.state_dict()))
    ours, theirs = (descend(o, e, *reversed(draw(1)), 3) for o, e in ((objective, encoder), (other, twin)))
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
    for mine, yours in zip(objective.state_dict().values(), other.state_dict().values(), strict=True):
        assert torch.equal(mine, yours)


@pytest.mark.parametrize("name", ["simclr", "supcon"])
@pytest.mark.parametrize("build", [tiny_sac, tiny_rainbow])
def test_both_agents_train_it_and_resume(name, build):
    agent, resumed = build(name), build(name, seed=3)
    start = copy.deepcopy(agent.learner.objective)
    metrics = run(agent, range(2))[-1]
    assert {"objective_loss", "accuracy"} <= set(metrics)
    assert not torch.equal(start.head[0].weight, agent.learner.objective.head[0].weight)
    resumed.load_state_dict(copy.deepcopy(agent.state_dict()))
    for each in (agent, resumed):
        run(each, range(2, 4))
    assert_equal_states(agent, resumed)


def test_descent_teaches_simclr_which_crops_belong_together(inputs):
    batch, views = inputs
    simclr, encoder = make("simclr"), tiny_encoder()
    noisy = (batch.obs.int() + torch.randint(-20, 20, batch.obs.shape)).clamp(0, 255).to(torch.uint8)
    views = views._replace(key=Crop(noisy, views.key.offsets))
    last = descend(simclr, encoder, views, batch, 30)[-1]
    loss, metrics = loss_of(simclr, batch, views, encoder)
    rolled, _ = loss_of(simclr, batch, views._replace(key=Crop(noisy.roll(1, 0), views.key.offsets)), encoder)
    assert float(metrics["accuracy"]) > 0.8
    assert float(rolled.detach()) > float(loss.detach()) + 0.5
    assert float(loss.detach()) <= float(last) + 0.1


def test_descent_teaches_supcon_the_classes_and_not_the_images(inputs):
    batch, views = inputs
    supcon, encoder = make("supcon", labels="episode"), tiny_encoder()  # three episodes of two transitions
    descend(supcon, encoder, views, batch, 60)
    z = F.normalize(embeddings(supcon, views, encoder), dim=1)
    similar, episode = z @ z.T, batch.episode.repeat(2)
    alike = episode[:, None] == episode
    assert float(similar[alike].min()) > float(similar[~alike].max()) + 0.3


def test_actions_can_be_labels_only_where_they_are_discrete():
    config = OBJECTIVES["supcon"].Config(labels="action")
    make_objective(config, DISCRETE)
    with pytest.raises(ConfigError, match=r"labels=action needs discrete actions: choose return_bin"):
        make_objective(config, SHAPES)
    for labels in sorted(set(LABELS) - {"action"}):
        make_objective(dataclasses.replace(config, labels=labels), SHAPES)


@pytest.mark.parametrize(
    ("name", "fields", "message"),
    [
        ("simclr", {"coefficient": math.nan}, "objective.coefficient must be at least 0 and at most .*, got nan"),
        ("simclr", {"temperature": 0.0}, "objective.temperature must be above 0 and at most 1000000.0, got 0.0"),
        ("simclr", {"projection_dim": 0}, "objective.projection_dim must be at least 1 and at most .*, got 0"),
        ("simclr", {"projection_hidden": 0}, "objective.projection_hidden must be at least 1 and at most .*, got 0"),
        ("simclr", {"projection_depth": 0}, "objective.projection_depth must be at least 1 and at most .*, got 0"),
        ("supcon", {"labels": "reward"}, "objective.labels='reward' is none of action, return_sign, return_bin"),
        ("supcon", {"bins": 1}, "objective.bins must be at least 2 and at most .*, got 1"),
        ("supcon", {"temperature": math.inf}, "objective.temperature must be above 0 and at most 1000000.0, got inf"),
        ("supcon", {"projection_dim": 0}, "objective.projection_dim must be at least 1 and at most .*, got 0"),
        ("supcon", {"projection_hidden": 0}, "objective.projection_hidden must be at least 1 and at most .*, got 0"),
    ],
    ids=str,
)
def test_options_that_cannot_be_honoured_are_refused(name, fields, message):
    with pytest.raises(ConfigError, match=message):
        check(OBJECTIVES[name].Config(**fields), "objective.")


def test_one_sample_has_nothing_to_be_told_from():
    for name in ("simclr", "supcon", "moco", "mochi"):
        with pytest.raises(ConfigError, match="batch_size"):
            OBJECTIVES[name].Config().check_batch(1)
