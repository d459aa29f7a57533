"""Objectives about the future: their losses, each formula written out, and what a masked step must not do."""

import copy
import math
from typing import Any

import pytest
import torch
from tiny import assert_equal_states, run, tiny_encoder, tiny_rainbow, tiny_sac, watch_maps
from torch import Tensor, nn
from torch.nn import functional as F

from curl_rl.nn.encoders import Encoder
from curl_rl.nn.losses import info_nce, latent_prediction_loss, masked_info_nce
from curl_rl.nn.networks import stretched
from curl_rl.nn.remembering import Remembering
from curl_rl.objectives import OBJECTIVES, make_objective
from curl_rl.objectives.base import Objective
from curl_rl.objectives.temporal import Atc, Cpc, Spr, _standardise
from curl_rl.options import check
from curl_rl.types import Batch, ConfigError, Crop, Future, Shapes, Views

NAMES = ("atc", "spr", "cpc", "ceb")
DRAWN = {"ceb"}  # whose code is drawn, so that each sample has noise of its own by its place in the batch
SIZE, STEPS, ACTIONS = 6, 3, 3
SHAPES = Shapes(feature_dim=8, conv=(4, 7, 7), action_dim=ACTIONS)
SMALL: dict[str, dict[str, Any]] = {
    "atc": {"latent_dim": 5, "hidden_dim": 6},
    "spr": {"map_size": 4, "projection_dim": 5},
    "cpc": {"belief_dim": 5},
    "ceb": {"steps": STEPS - 1, "latent_dim": 5, "hidden_dim": 6},  # and one step more
}
# Sample 0 is known for all steps, 1 for one, 2 for none; the others differ.
MASK = torch.tensor([[1, 1, 1], [1, 0, 0], [0, 0, 0], [1, 1, 0], [1, 1, 1], [1, 1, 1]]).bool()

Inputs = tuple[Batch, Views, Encoder, Encoder]


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def noise(*shape: int) -> Tensor:
    return torch.randint(256, shape, dtype=torch.uint8)


def draw(*, mask: Tensor = MASK, steps: int = STEPS, discrete: bool = False) -> tuple[Batch, Views]:
    """Draw views of noise and what followed them."""
    size = len(mask)
    action = torch.randint(ACTIONS, (size, steps)) if discrete else torch.rand(size, steps, ACTIONS) * 2 - 1
    reward = torch.rand(size, steps) * mask[:, :steps]
    future = Future(noise(size, steps, 9, 20, 20), action, reward, mask[:, :steps])
    obs, offsets, ones = noise(size, 9, 20, 20), torch.zeros((size, 2), dtype=torch.int64), torch.ones(size)
    index = torch.arange(size)
    batch = Batch(obs, action[:, 0], ones, ones, future.obs[:, 0], ones, index, index, future)
    return batch, Views(Crop(obs, offsets), Crop(noise(*obs.shape), offsets))


def build(name: str, **fields: Any) -> Any:
    """Build an objective that draws, if it does, the same noise at each call."""
    objective = make_objective(OBJECTIVES[name].Config(**{"steps": STEPS, **SMALL[name], **fields}), SHAPES)
    if name in DRAWN:
        objective.register_forward_pre_hook(lambda module, _: module.random.generator.manual_seed(0) and None)
    return objective


@pytest.fixture
def encoders() -> tuple[Encoder, Encoder]:
    online, target = tiny_encoder(), tiny_encoder()
    for p in (*online.parameters(), *target.parameters()):
        nn.init.normal_(p, std=0.3)
    return online, target


def gradients(objective: Objective, encoder: Encoder) -> dict[str, Tensor]:
    """Return what a backward pass left, and forget it."""
    named = {f"{i}.{n}": p for i, m in enumerate((objective, encoder)) for n, p in m.named_parameters()}
    found = {name: p.grad for name, p in named.items() if p.grad is not None}
    for p in named.values():
        p.grad = None
    return found


# The losses


def contrast_one_by_one(logits: Tensor, valid: Tensor) -> tuple[float, float]:
    """Go through the valid rows, each against the valid columns, in float64."""
    losses, correct = [], []
    for row, here in enumerate(valid.tolist()):
        if here:
            kept = {column: math.exp(logits[row, column]) for column in range(len(valid)) if valid[column]}
            losses.append(-math.log(kept[row] / sum(kept.values())))
            correct.append(max(kept, key=kept.get) == row)
    return sum(losses), sum(correct)


def test_masked_info_nce_is_the_formula_over_the_valid_ones():
    logits, valid = torch.randn(4, 7, 7, dtype=torch.float64) * 2, torch.rand(4, 7) < 0.6
    logits[0] += 9 * torch.eye(7, dtype=torch.float64)  # of which some are told for certain
    logits[1] -= 9 * torch.eye(7, dtype=torch.float64)
    valid[:2] = True
    loss, accuracy = masked_info_nce(logits, valid)
    sums = [contrast_one_by_one(*pair) for pair in zip(logits, valid, strict=True)]
    assert loss.dtype == torch.float64
    assert float(loss) == pytest.approx(sum(s[0] for s in sums) / int(valid.sum()), rel=1e-12)
    assert float(accuracy) == pytest.approx(sum(s[1] for s in sums) / int(valid.sum()))
    assert 0 < float(accuracy) < 1


def test_masked_info_nce_by_hand():
    # Without the third sample, the positives have probability 1/4 and 3/4.
    logits = torch.tensor([[0.0, math.log(3), 9.0], [0.0, math.log(3), 9.0], [9.0, 9.0, 0.0]])
    loss, accuracy = masked_info_nce(logits, torch.tensor([True, True, False]))
    assert float(loss) == pytest.approx(-(math.log(1 / 4) + math.log(3 / 4)) / 2, rel=1e-6)
    assert float(accuracy) == 0.5
    alone = masked_info_nce(logits, torch.tensor([False, False, True]))
    assert [float(x) for x in alone] == [0, 1]  # nothing to tell it from


def test_masked_info_nce_of_valid_rows_only_is_info_nce():
    logits = torch.randn(6, 6)
    torch.testing.assert_close(masked_info_nce(logits, torch.ones(6).bool()), info_nce(logits))


@pytest.mark.parametrize("garbage", [0.0, 1e30, math.inf, math.nan])
def test_what_is_not_valid_is_neither_anchor_nor_negative(garbage):
    valid = torch.tensor([True, False, True, True, False])
    logits = torch.randn(5, 5)
    kept = logits[valid][:, valid].requires_grad_()
    expected = masked_info_nce(kept, torch.ones(3).bool())
    spoilt = torch.where(valid[:, None] & valid, logits, garbage).requires_grad_()
    loss, accuracy = masked_info_nce(spoilt, valid)
    torch.testing.assert_close((loss, accuracy), expected)
    loss.backward()
    expected[0].backward()
    torch.testing.assert_close(spoilt.grad[valid][:, valid], kept.grad)
    assert not spoilt.grad[~valid].any()
    assert not spoilt.grad[:, ~valid].any()


def test_without_a_valid_row_the_losses_and_gradients_are_zero():
    logits, prediction = torch.randn(2, 4, 4, requires_grad=True), torch.randn(4, 2, 3, requires_grad=True)
    for loss, metric in (
        masked_info_nce(logits, torch.zeros(2, 4).bool()),
        latent_prediction_loss(prediction, torch.randn(4, 2, 3), torch.zeros(4, 2).bool()),
    ):
        assert (float(loss.detach()), float(metric)) == (0, 0)
        loss.backward()
    assert torch.equal(logits.grad, torch.zeros(2, 4, 4))
    assert torch.equal(prediction.grad, torch.zeros(4, 2, 3))


def test_masked_info_nce_invariances():
    logits, valid = torch.randn(6, 6), torch.tensor([1, 1, 0, 1, 1, 0]).bool()
    order = torch.randperm(6)
    results = masked_info_nce(logits, valid)
    torch.testing.assert_close(masked_info_nce(logits + torch.randn(6, 1), valid), results)
    torch.testing.assert_close(masked_info_nce(logits[order][:, order], valid[order]), results)
    assert float(masked_info_nce(torch.zeros(6, 6), valid)[0]) == pytest.approx(math.log(4), rel=1e-6)


def test_masked_losses_pass_gradcheck():
    logits = torch.randn(2, 4, 4, dtype=torch.float64, requires_grad=True)
    valid = torch.tensor([[1, 0, 1, 1], [1, 1, 1, 0]]).bool()
    assert torch.autograd.gradcheck(lambda x: masked_info_nce(x, valid)[0], logits)
    one, other = (torch.randn(2, 4, 3, dtype=torch.float64, requires_grad=True) for _ in range(2))
    assert torch.autograd.gradcheck(lambda x, y: latent_prediction_loss(x, y, valid)[0], (one, other))


def test_masked_losses_are_float32_at_least():
    valid = torch.ones(4, 4).bool()
    assert masked_info_nce(torch.randn(4, 4).bfloat16(), valid[0])[0].dtype == torch.float32
    vectors = torch.randn(4, 4, 3).bfloat16()
    loss, cosine = latent_prediction_loss(vectors, vectors, valid)
    assert loss.dtype == cosine.dtype == torch.float32


def test_latent_prediction_by_hand():
    prediction = torch.tensor([[[2.0, 0.0], [0.0, 3.0]], [[1.0, 1.0], [5.0, 0.0]]])
    target = torch.tensor([[[4.0, 0.0], [9.0, 0.0]], [[-1.0, -1.0], [5.0, 0.0]]])
    valid = torch.tensor([[True, True], [True, False]])
    # Cosines 1, 0 and -1; the fourth is not valid.
    loss, cosine = latent_prediction_loss(prediction, target, valid)
    assert float(loss) == pytest.approx(((0 + 1) + 2) / 2)
    assert float(cosine) == pytest.approx(0, abs=1e-7)


def test_latent_prediction_is_the_formula_and_the_originals_up_to_a_factor():
    prediction, target = (torch.randn(5, 4, 6, dtype=torch.float64) for _ in range(2))
    valid = torch.rand(5, 4) < 0.7
    cosines = [
        [float(p @ t / (p.norm() * t.norm())) for p, t in zip(*rows, strict=True)]
        for rows in zip(prediction, target, strict=True)
    ]
    kept = [cosines[i][k] for i, k in valid.nonzero().tolist()]
    loss, cosine = latent_prediction_loss(prediction, target, valid)
    assert float(loss) == pytest.approx(sum(1 - c for c in kept) / 5, rel=1e-12)
    assert float(cosine) == pytest.approx(sum(kept) / len(kept), rel=1e-12)
    # The original weighs the mean over steps of squared distances by 5: the paper's coefficient of 2 at 5 steps.
    squares = (F.normalize(prediction, dim=-1) - F.normalize(target, dim=-1)).square().sum(-1) * valid
    assert 2 * float(loss) * 5 / 4 == pytest.approx(5 * float(squares.mean()), rel=1e-12)


def test_latent_prediction_ignores_lengths_but_bounds_its_gradient():
    prediction, target = torch.randn(5, 2, 6), torch.randn(5, 2, 6)
    valid = torch.ones(5, 2).bool()
    loss = latent_prediction_loss(prediction, target, valid)[0]
    longer = torch.rand(5, 2, 1) * 10 + 0.1
    torch.testing.assert_close(latent_prediction_loss(prediction * longer, target / longer, valid)[0], loss)
    nothing = torch.zeros(5, 2, 6, requires_grad=True)
    latent_prediction_loss(nothing, target, valid)[0].backward()
    assert float(nothing.grad.norm(dim=-1).max()) == pytest.approx(1e3 / 5, rel=1e-4)


# Options and the contract


@pytest.mark.parametrize(
    ("name", "fields", "message"),
    [
        *((name, {"steps": 0}, "objective.steps must be at least 1 and at most .*, got 0") for name in NAMES),
        *((name, {"coefficient": -1.0}, "objective.coefficient must be at least 0 and") for name in NAMES),
        ("atc", {"latent_dim": 0}, "objective.latent_dim must be at least 1 and at most .*, got 0"),
        ("atc", {"hidden_dim": 0}, "objective.hidden_dim must be at least 1 and at most .*, got 0"),
        ("atc", {"compressor_tau": 0.0}, r"objective.compressor_tau must be above 0 and at most 1, got 0.0"),
        ("spr", {"map_size": 0}, "objective.map_size must be at least 1 and at most .*, got 0"),
        ("spr", {"projection_dim": 0}, "objective.projection_dim must be at least 1 and at most .*, got 0"),
        ("spr", {"projection_tau": 1.5}, r"objective.projection_tau must be above 0 and at most 1, got 1.5"),
        ("cpc", {"belief_dim": 0}, "objective.belief_dim must be at least 1 and at most .*, got 0"),
        ("ceb", {"latent_dim": 0}, "objective.latent_dim must be at least 1 and at most .*, got 0"),
        ("ceb", {"hidden_dim": 0}, "objective.hidden_dim must be at least 1 and at most .*, got 0"),
        ("ceb", {"beta": -0.1}, r"objective.beta must be at least 0 and at most .*, got -0.1"),
        ("ceb", {"smoothing": -0.1}, r"objective.smoothing must be at least 0 and at most .*, got -0.1"),
    ],
    ids=str,
)
def test_options_that_cannot_be_honoured_are_refused(name, fields, message):
    with pytest.raises(ConfigError, match=message):
        check(OBJECTIVES[name].Config(**fields), "objective.")


def test_defaults_and_horizons_are_the_papers():
    configs = {name: OBJECTIVES[name].Config() for name in NAMES}
    assert {name: sorted(c.needs) for name, c in configs.items()} == {
        "atc": ["order"],
        "spr": ["actions", "map", "order"],
        "cpc": ["actions", "order"],
        "ceb": ["actions", "order", "rewards"],
    }
    assert {name: (c.coefficient, c.horizon) for name, c in configs.items()} == {
        "atc": (1.0, 1),
        "spr": (2.0, 5),
        "cpc": (1.0, 5),
        "ceb": (1.0, 4),
    }
    for name in NAMES:
        assert OBJECTIVES[name].Config(steps=4).horizon == (5 if name == "ceb" else 4)
        assert configs[name].capturable == (name not in DRAWN)
        assert "labels" not in configs[name].needs


@pytest.mark.parametrize("name", NAMES)
def test_one_sample_is_refused(name):
    with pytest.raises(ConfigError, match=rf"objective={name} .* batch_size=2"):
        OBJECTIVES[name].Config().check_batch(1)


@pytest.mark.parametrize("name", NAMES)
def test_a_batch_without_a_future_is_refused_with_its_mend(name, encoders):
    batch, views = draw()
    with pytest.raises(ValueError, match=rf"objective={name} reads Batch.future: .* horizon=3"):
        build(name)(batch._replace(future=None), views, *encoders)


@pytest.mark.parametrize("discrete", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_the_query_side_learns_and_the_target_side_only_follows(name, discrete, encoders):
    objective, (online, target) = build(name), encoders
    before = copy.deepcopy(target.state_dict())
    loss, metrics = objective(*draw(discrete=discrete), online, target)
    assert (loss.shape, loss.dtype) == ((), torch.float32)
    assert not any(m.requires_grad for m in metrics.values())
    loss.backward()
    assert all((p.grad is not None) == p.requires_grad for p in objective.parameters())
    assert all(p.grad.any() for p in objective.parameters() if p.requires_grad)
    assert online.convs[0].weight.grad.any()
    assert all(p.grad is None for p in target.parameters())
    assert all(torch.equal(p, before[n]) for n, p in target.state_dict().items())


@pytest.mark.parametrize(("name", "part", "tau"), [("atc", "compressor", 0.3), ("spr", "projection", 0.2)])
def test_the_targets_head_starts_as_a_copy_and_follows_by_its_tau(name, part, tau):
    objective = build(name, **{f"{part}_tau": tau})
    online, target = getattr(objective, part), getattr(objective, f"target_{part}")
    assert torch.equal(online.weight, target.weight)
    nn.init.normal_(online.weight)
    before = target.weight.clone()
    objective.after_step()
    torch.testing.assert_close(target.weight, (1 - tau) * before + tau * online.weight.detach())
    assert not target.weight.requires_grad


@pytest.mark.parametrize("name", NAMES)
def test_the_encoders_run_once_each_over_contiguous_images(name, encoders):
    batch, views = draw()
    seen = [watch_maps(encoder) for encoder in encoders]
    online = Remembering(encoders[0])
    online(views.query.images)  # what the critic has paid for
    build(name)(batch, views, online, Remembering(encoders[1], online))
    assert [len(maps) for maps in seen] == [1, 1]
    expected = batch.future.obs[:, {"atc": -1, "ceb": -2}.get(name, 0) :].reshape(-1, 9, 20, 20)
    assert torch.equal(seen[1][0], expected.float())


@pytest.mark.parametrize("name", NAMES)
def test_any_memory_layout_of_the_future_will_do(name, encoders):
    batch, views = draw()
    objective = build(name)
    loss = objective(batch, views, *encoders)[0]
    obs = batch.future.obs.permute(1, 0, 3, 4, 2).contiguous().permute(1, 0, 4, 2, 3)
    assert not obs.is_contiguous()
    turned = batch._replace(future=batch.future._replace(obs=obs))
    assert torch.equal(objective(turned, views, *encoders)[0], loss)


# What a step that is not valid must not do


@pytest.mark.parametrize("discrete", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_a_step_that_is_not_valid_adds_exactly_nothing(name, discrete, encoders):
    batch, views = draw(discrete=discrete)
    other = draw(discrete=discrete)[0].future
    objective, results = build(name), []
    future = batch.future
    spoilt = Future(
        *(torch.where(MASK[(..., *[None] * (x.dim() - 2))], x, y) for x, y in zip(future, other, strict=True))
    )
    assert not torch.equal(spoilt.obs, future.obs)
    for seen in (future, spoilt):
        loss, metrics = objective(batch._replace(future=seen), views, *encoders)
        loss.backward()
        results.append((loss.detach(), metrics, gradients(objective, encoders[0])))
    for one, two in zip(*(({"loss": loss, **m, **g}).items() for loss, m, g in results), strict=True):
        assert one[0] == two[0]
        assert torch.equal(one[1], two[1]), one[0]


@pytest.mark.parametrize("name", NAMES)
def test_a_valid_step_does_add_something(name, encoders):
    batch, views = draw()
    objective = build(name)
    loss = objective(batch, views, *encoders)[0]
    counts = {"atc": {"obs"}, "ceb": {"obs", "reward"}}.get(name, {"obs", "action"})  # that CEB sees no later
    for part in ("obs", "action", "reward"):
        changed = getattr(batch.future, part).clone()
        changed[4, -1] = changed[5, -1]
        other = objective(batch._replace(future=batch.future._replace(**{part: changed})), views, *encoders)[0]
        assert torch.equal(loss, other) == (part not in counts)


@pytest.mark.parametrize("name", NAMES)
def test_a_batch_without_a_valid_step_costs_nothing(name, encoders):
    objective = build(name)
    loss, metrics = objective(*draw(mask=torch.zeros_like(MASK)), *encoders)
    loss.backward()
    assert float(loss.detach()) == 0
    assert all(float(m) == 0 for m in metrics.values())
    assert all(not g.any() for g in gradients(objective, encoders[0]).values())  # which NaN would not pass


@pytest.mark.parametrize("name", sorted({*NAMES} - DRAWN))
def test_only_valid_samples_are_counted(name, encoders):
    """A batch with samples that nothing valid followed is the batch without them; SPR averages over all."""
    batch, views = draw(mask=torch.tensor([[1, 1, 1]] * 4 + [[0, 0, 0]] * 2).bool())
    objective = build(name)
    loss = objective(batch, views, *encoders)[0]
    short = batch._replace(future=Future(*(x[:4] for x in batch.future)))
    few = Views(*(Crop(images[:4], offsets[:4]) for images, offsets in views))
    expected = objective(short, few, *encoders)[0] * (4 / 6 if name == "spr" else 1)
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", sorted({*NAMES} - DRAWN))
def test_the_order_of_the_batch_does_not_matter(name, encoders):
    batch, views = draw()
    objective = build(name)
    loss = objective(batch, views, *encoders)[0]
    order = torch.randperm(SIZE)
    turned = batch._replace(future=Future(*(x[order] for x in batch.future)))
    seen = Views(*(Crop(images[order], offsets[order]) for images, offsets in views))
    torch.testing.assert_close(objective(turned, seen, *encoders)[0], loss, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["spr", "cpc", "ceb"])
def test_a_discrete_action_is_its_one_hot_vector(name, encoders):
    batch, views = draw(discrete=True)
    objective = build(name)
    vectors = F.one_hot(batch.future.action, ACTIONS).float()
    other = batch._replace(future=batch.future._replace(action=vectors))
    assert torch.equal(objective(batch, views, *encoders)[0], objective(other, views, *encoders)[0])


def test_spr_gains_nothing_from_an_encoder_that_sees_nothing(encoders):
    for encoder in encoders:
        nn.init.zeros_(encoder.convs[0].weight)
    loss, metrics = build("spr")(*draw(), *encoders)
    assert float(loss.detach()) == pytest.approx(int(MASK.sum()) / SIZE, abs=0.05)  # all cosines are 0
    assert float(metrics["cosine_similarity"]) == pytest.approx(0, abs=0.05)


@pytest.mark.parametrize("name", ["atc", "cpc"])
def test_an_encoder_that_sees_nothing_pays_for_every_negative(name, encoders):
    for encoder in encoders:
        nn.init.zeros_(encoder.convs[0].weight)
    counts = MASK.sum(0)[-1:] if name == "atc" else MASK.sum(0)
    loss, _ = build(name)(*draw(), *encoders)
    expected = float((counts * counts.log()).sum() / counts.sum())
    # Actions tell CPC's anchors apart, yet not its keys.
    assert float(loss.detach()) == pytest.approx(expected, rel=1e-5)


# Each formula written out


def test_atc_is_the_formula_written_out(encoders):
    batch, views = draw()
    atc: Atc = build("atc")
    nn.init.normal_(atc.target_compressor.weight)
    loss, metrics = atc(batch, views, *encoders)
    parts = [layer for layer in atc.predictor if isinstance(layer, nn.Linear)]
    with torch.no_grad():
        query = encoders[0].conv(views.query.images).flatten(1).double()
        key = encoders[1].conv(batch.future.obs[:, 2].contiguous()).flatten(1).double()
        code, positive = affine(atc.compressor, query), affine(atc.target_compressor, key)
        code = code + affine(parts[1], affine(parts[0], code).clamp_min(0))
        logits = code @ atc.contrast.weight.double().T @ positive.T
    total, correct = contrast_one_by_one(logits, MASK[:, 2])
    count = int(MASK[:, 2].sum())
    assert count == 3
    assert len(parts) == 2
    assert float(loss.detach()) == pytest.approx(total / count, rel=1e-4)
    assert float(metrics["accuracy"]) == pytest.approx(correct / count)


def affine(layer: nn.Linear, x: Tensor) -> Tensor:
    return x @ layer.weight.detach().double().T + (0 if layer.bias is None else layer.bias.detach().double())


def stretch(maps: Tensor) -> Tensor:
    return torch.stack([(x - x.min()) / (x.max() - x.min()) for x in maps])


def average(maps: Tensor, window: int) -> Tensor:
    """Average each window of a map, those at the border over what is left of them."""
    sides = range(0, maps.shape[-1], window)
    rows = [[maps[..., r : r + window, c : c + window].mean((-1, -2)) for c in sides] for r in sides]
    return torch.stack([torch.stack(row, -1) for row in rows], -2)


def test_spr_is_the_formula_written_out(encoders):
    batch, views = draw()
    spr: Spr = build("spr")
    for p in (spr.transition.scale, spr.transition.shift, *spr.target_projection.parameters()):
        nn.init.normal_(p)
    loss, metrics = spr(batch, views, *encoders)
    model = copy.deepcopy(spr.transition).double()
    with torch.no_grad():
        latent = stretch(average(encoders[0].conv(views.query.images).double(), 2))
        assert latent.shape == (SIZE, 4, 4, 4)
        predictions, goals = torch.zeros(2, SIZE, STEPS, 5, dtype=torch.float64)
        for step in range(STEPS):
            planes = batch.future.action[:, step].double()[:, :, None, None].expand(-1, -1, 4, 4)
            hidden = F.conv2d(torch.cat([latent, planes], 1), model.first.weight, model.first.bias, padding=1).relu()
            known = hidden[MASK[:, step]].transpose(0, 1).flatten(1)  # one row a channel, over samples and cells
            mean, std = known.mean(1), (known.var(1, correction=0) + 1e-5).sqrt()
            hidden = (hidden - mean[:, None, None]) / std[:, None, None] * model.scale[:, None, None] + model.shift[
                :, None, None
            ]
            latent = stretch(F.conv2d(hidden, model.second.weight, model.second.bias, padding=1).relu())
            later = stretch(average(encoders[1].conv(batch.future.obs[:, step].contiguous()).double(), 2))
            predictions[:, step] = affine(spr.projection, latent.flatten(1))
            goals[:, step] = affine(spr.target_projection, later.flatten(1))
        for x in (predictions, goals):
            x.sub_(x[MASK].mean(0)).div_((x[MASK].var(0, correction=0) + 1e-5).sqrt())
        cosines = F.cosine_similarity(affine(spr.predictor, predictions), goals, dim=-1)
    assert float(loss.detach()) == pytest.approx(float((1 - cosines)[MASK].sum() / SIZE), rel=1e-4)
    assert float(metrics["cosine_similarity"]) == pytest.approx(float(cosines[MASK].mean()), rel=1e-4)


def test_cpc_is_the_formula_written_out(encoders):
    batch, views = draw()
    cpc: Cpc = build("cpc")
    loss, metrics = cpc(batch, views, *encoders)
    w_in, w_belief, b_in, b_belief = (p.detach().double() for p in cpc.roll.parameters())
    total = correct = 0.0
    with torch.no_grad():
        belief = affine(cpc.start, encoders[0](views.query.images).double()).tanh()
        for step in range(STEPS):
            reset, update, new = (batch.future.action[:, step].double() @ w_in.T + b_in).chunk(3, 1)
            old_reset, old_update, old_new = (belief @ w_belief.T + b_belief).chunk(3, 1)
            gate = (update + old_update).sigmoid()
            candidate = (new + (reset + old_reset).sigmoid() * old_new).tanh()
            belief = (1 - gate) * candidate + gate * belief
            key = encoders[1](batch.future.obs[:, step].contiguous()).double()
            logits = belief @ cpc.predictors[step].weight.double().T @ key.T
            sums = contrast_one_by_one(logits, MASK[:, step])
            total, correct = total + sums[0], correct + sums[1]
    assert float(loss.detach()) == pytest.approx(total / int(MASK.sum()), rel=1e-4)
    assert float(metrics["accuracy"]) == pytest.approx(correct / int(MASK.sum()))


@pytest.mark.parametrize(("cells", "torchs"), [((3, 3), nn.BatchNorm2d), ((), nn.BatchNorm1d)])
def test_statistics_of_valid_samples_are_those_of_batch_normalisation(cells, torchs):
    maps, valid = torch.randn(6, 4, *cells) * 3 + 1, torch.tensor([1, 0, 1, 1, 0, 1]).bool()
    expected = torchs(4, affine=False)(maps[valid])
    torch.testing.assert_close(_standardise(maps, valid)[valid], expected, rtol=1e-4, atol=1e-5)
    assert _standardise(maps, torch.zeros(6).bool()).isfinite().all()


def test_renormalised_maps_lie_between_zero_and_one_and_dead_ones_stay_finite():
    maps = torch.randn(5, 4, 3, 3).relu()
    maps[2] = 0
    maps.requires_grad_()
    found = stretched(maps)
    assert found.amin((1, 2, 3)).tolist() == [0] * 5
    torch.testing.assert_close(found.amax((1, 2, 3)), torch.tensor([1.0, 1.0, 0.0, 1.0, 1.0]))
    found.square().sum().backward()
    assert maps.grad.isfinite().all()


@pytest.mark.parametrize(
    ("conv", "sides"), [((32, 35, 35), 7), ((64, 3, 3), 3), ((64, 7, 7), 7), ((32, 8, 8), 8), ((32, 11, 11), 6)]
)
def test_only_large_maps_are_averaged_down(conv, sides):
    spr = make_objective(OBJECTIVES["spr"].Config(), SHAPES._replace(conv=conv))
    assert isinstance(spr, Spr)
    assert spr.projection.in_features == conv[0] * sides**2
    maps = torch.randn(2, *conv)
    latent = spr._latent(maps)
    assert latent.shape == (2, conv[0], sides, sides)
    expected = average(maps, math.ceil(conv[1] / sides))
    torch.testing.assert_close(latent, stretch(expected), rtol=1e-4, atol=1e-5)


# Learning and resuming


def train(objective: Objective, encoder: Encoder, target: Encoder, steps: range, **fields: Any) -> list[Tensor]:
    parameters = [p for p in (*objective.parameters(), *encoder.parameters()) if p.requires_grad]
    optimizer, losses = torch.optim.SGD(parameters, 0.1), []
    for seed in steps:
        torch.manual_seed(seed)
        loss, _ = objective(*draw(mask=MASK[: 2 + seed % 5], **fields), encoder, target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        objective.after_step()
        losses.append(loss.detach())
    return losses


@pytest.mark.parametrize("name", NAMES)
def test_a_resume_goes_on_to_the_bit_with_any_batch_size(name, encoders):
    objective, (online, target) = build(name), encoders
    train(objective, online, target, range(4))
    other, copied = build(name), copy.deepcopy(online)
    other.load_state_dict(objective.state_dict())
    losses = [train(*pair, target, range(4, 9)) for pair in ((objective, online), (other, copied))]
    assert all(torch.equal(*pair) for pair in zip(*losses, strict=True))
    assert all(torch.equal(p, other.state_dict()[n]) for n, p in objective.state_dict().items())


@pytest.mark.parametrize("kind", ["joint", "sequential", "rainbow"])
@pytest.mark.parametrize("name", NAMES)
def test_agents_learn_from_it_and_resume_to_the_bit(name, kind):
    def make(objective: str = name) -> Any:
        return tiny_rainbow(objective) if kind == "rainbow" else tiny_sac(objective, update=kind)

    agent, control, resumed = make(), make("none"), make()
    metrics = run(agent, range(2))[-1]
    run(control, range(2))
    assert all(value.isfinite().all() for value in metrics.values())
    assert {"objective_loss", "cosine_similarity" if name == "spr" else "accuracy"} <= set(metrics)
    assert not torch.equal(agent.learner.encoder.convs[0].weight, control.learner.encoder.convs[0].weight)
    resumed.load_state_dict(copy.deepcopy(agent.state_dict()))
    run(agent, range(2, 4))
    run(resumed, range(2, 4))
    assert_equal_states(agent, resumed)


def moving_patterns(name: str, patterns: Tensor) -> tuple[Batch, Views]:
    """Draw a future that the actions alone foretell, each sample another action; for ATC one that the query does."""
    batch, views = draw(mask=torch.ones(SIZE, STEPS).bool(), discrete=True)
    action = torch.stack([torch.randperm(SIZE) for _ in range(STEPS)], 1)
    obs = patterns[torch.arange(SIZE)[:, None].expand(-1, STEPS) if name == "atc" else action].clone()
    obs[..., :4, :] = noise(*obs[..., :4, :].shape)
    if name == "atc":
        views = views._replace(query=views.query._replace(images=patterns.roll(2, -1)))
    return batch._replace(future=batch.future._replace(obs=obs, action=action)), views


@pytest.mark.parametrize("name", NAMES)
def test_what_can_be_foretold_is_and_nothing_else(name):
    """After some training the right future costs a fraction of the neighbour's."""
    online, target = tiny_encoder(), tiny_encoder()
    wide = {"cpc": {"belief_dim": 16}, **{key: {"latent_dim": 16, "hidden_dim": 16} for key in ("atc", "ceb")}}
    config = OBJECTIVES[name].Config(**{"steps": STEPS} | SMALL[name] | wide.get(name, {}))
    objective = make_objective(config, SHAPES._replace(action_dim=SIZE))
    patterns = noise(SIZE, 9, 20, 20)
    optimizer = torch.optim.Adam([p for p in (*objective.parameters(), *online.parameters()) if p.requires_grad], 1e-2)
    for _ in range(100):
        loss = objective(*moving_patterns(name, patterns), online, target)[0]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        objective.after_step()
    batch, views = moving_patterns(name, patterns)
    wrong = batch._replace(future=batch.future._replace(obs=batch.future.obs.roll(1, 0)))
    with torch.no_grad():
        (right, metrics), (others, _) = (objective(b, views, online, target) for b in (batch, wrong))
    assert float(right) < 0.5 * float(others)
    if name != "spr":
        assert float(metrics["accuracy"]) > 0.7
