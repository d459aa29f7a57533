"""MoCo and MoCHi: their losses against formulas in float64, their queue, their mixtures, their resumes."""

import copy
import math
from typing import Any

import pytest
import torch
from tiny import assert_equal_states, run, tiny_batch, tiny_encoder, tiny_rainbow, tiny_sac
from torch import Tensor
from torch.nn import functional as F

from curl_rl.nn.encoders import Encoder
from curl_rl.nn.losses import info_nce, mix_negatives, queue_logits
from curl_rl.nn.remembering import Remembering
from curl_rl.objectives import OBJECTIVES, make_objective
from curl_rl.objectives.moco_mochi import Mochi, Moco
from curl_rl.options import check
from curl_rl.types import Batch, ConfigError, Crop, Shapes, Views

SHAPES = Shapes(feature_dim=8, conv=(4, 7, 7), action_dim=2)
SMALL = {"queue_size": 7, "projection_dim": 5, "projection_hidden": 16}
MIXING = {**SMALL, "hardest": 3, "mixed": 4, "mixed_with_query": 2, "warmup": 0}


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture
def encoders() -> tuple[Encoder, Encoder]:
    return tiny_encoder(), tiny_encoder().requires_grad_(False)


def make(name: str, **fields: Any) -> Moco:
    objective = make_objective(OBJECTIVES[name].Config(**{**(MIXING if name == "mochi" else SMALL), **fields}), SHAPES)
    assert isinstance(objective, Moco)
    return objective


def draw(seed: int = 0, size: int = 6, first_slot: int = 0) -> tuple[Batch, Views]:
    """Draw a batch of noise and its views; the transitions have replay slots of their own from `first_slot` on."""
    batch = tiny_batch(seed, size=size, obs_shape=(9, 20, 20))
    batch = batch._replace(index=first_slot + torch.arange(size))
    offsets = torch.zeros((size, 2), dtype=torch.int64)
    return batch, Views(Crop(batch.obs, offsets), Crop(batch.next_obs, offsets))


def update(
    objective: Moco, encoders: tuple[Encoder, Encoder], seed: int, *, size: int = 6, step: float = 0.1
) -> Tensor:
    """Take one step of gradient descent and what follows it; return the loss."""
    batch, views = draw(seed, size, first_slot=100 * seed)
    trained = [p for module in (objective, encoders[0]) for p in module.parameters() if p.requires_grad]
    loss, _ = objective(batch, views, Remembering(encoders[0]), Remembering(encoders[1]))
    gradients = torch.autograd.grad(loss, trained)
    with torch.no_grad():
        for p, gradient in zip(trained, gradients, strict=True):
            p.sub_(step * gradient)
    objective.after_step()
    return loss.detach()


def standardised(x: Tensor) -> Tensor:
    """Write batch normalisation out."""
    return (x - x.mean(0)) / (x.var(0, correction=0) + 1e-5).sqrt()


def embed(objective: Moco, views: Views, encoders: tuple[Encoder, Encoder]) -> tuple[Tensor, Tensor]:
    """Write out the unit projections of query and key in float64, weights read one by one."""
    heads = (objective.head, objective.target_head)
    projections = []
    for head, encoder, crop in zip(heads, encoders, views, strict=True):
        w1, scale, shift, w2 = (p.detach().double() for p in head.parameters())
        hidden = (standardised(encoder(crop.images).detach().double() @ w1.T) * scale + shift).clamp_min(0)
        projections.append(standardised(hidden @ w2.T))
    query, key = (z / z.square().sum(1, keepdim=True).sqrt() for z in projections)
    return query, key


# The losses


def test_queue_logits_are_the_similarities_one_by_one():
    query, key, queue = (torch.randn(shape, dtype=torch.float64) for shape in ((4, 3), (4, 3), (5, 3)))
    expected = [[float(q @ k), *(float(q @ row) for row in queue)] for q, k in zip(query, key, strict=True)]
    torch.testing.assert_close(queue_logits(query, key, queue), torch.tensor(expected, dtype=torch.float64))


def test_queue_logits_by_hand():
    query, key = torch.tensor([[1.0, 0.0], [0.6, 0.8]]), torch.tensor([[0.0, 1.0], [0.6, 0.8]])
    queue = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0]])
    torch.testing.assert_close(
        queue_logits(query, key, queue), torch.tensor([[0.0, 1.0, -1.0, 0.0], [1.0, 0.6, -0.6, 0.8]])
    )


def test_queue_logits_are_float32_whatever_comes_in():
    query, key, queue = torch.randn(4, 3).bfloat16(), torch.randn(4, 3).bfloat16(), torch.randn(5, 3)
    logits = queue_logits(query, key, queue)
    assert logits.dtype == torch.float32
    assert torch.equal(logits, queue_logits(query.float(), key.float(), queue))


def test_info_nce_with_named_positives_by_hand():
    logits = torch.tensor([[0.0, math.log(2), 0.0], [math.log(6), 0.0, 0.0]])
    loss, accuracy = info_nce(logits, torch.tensor([0, 0]))  # the positives have probability 1/4 and 6/8
    assert float(loss) == pytest.approx(-(math.log(1 / 4) + math.log(3 / 4)) / 2, rel=1e-6)
    assert float(accuracy) == 0.5


def test_the_positives_of_info_nce_are_the_diagonal_unless_named():
    logits = torch.randn(5, 5)
    for mine, other in zip(info_nce(logits), info_nce(logits, torch.arange(5)), strict=True):
        assert torch.equal(mine, other)


def test_the_order_of_the_queue_does_not_matter():
    query, key, queue = (torch.randn(shape) for shape in ((4, 3), (4, 3), (9, 3)))
    column = torch.zeros(4, dtype=torch.int64)
    loss = info_nce(queue_logits(query, key, queue), column)
    torch.testing.assert_close(info_nce(queue_logits(query, key, queue[torch.randperm(9)]), column), loss)


def test_the_queues_loss_passes_gradcheck():
    query, key, queue = (torch.randn(shape, dtype=torch.float64) for shape in ((4, 3), (4, 3), (5, 3)))
    column = torch.zeros(4, dtype=torch.int64)
    inputs = query.requires_grad_(), key.requires_grad_()
    assert torch.autograd.gradcheck(lambda q, k: info_nce(queue_logits(q, k, queue), column)[0], inputs)


def test_mixtures_by_hand():
    first, second = torch.tensor([[[1.0, 0.0], [1.0, 0.0]]]), torch.tensor([[[0.0, 1.0], [0.0, 1.0]]])
    mixed = mix_negatives(first, second, torch.tensor([[[0.5], [0.2]]]))
    # (0.5, 0.5) and (0.2, 0.8), whose lengths are sqrt(0.5) and sqrt(0.68)
    expected = [[0.5 / math.sqrt(0.5)] * 2, [0.2 / math.sqrt(0.68), 0.8 / math.sqrt(0.68)]]
    torch.testing.assert_close(mixed, torch.tensor([expected]))


def test_mixtures_equal_a_loop_in_float64():
    query, other = (F.normalize(torch.randn(shape, dtype=torch.float64), dim=-1) for shape in ((4, 1, 3), (4, 5, 3)))
    share = torch.rand(4, 5, 1, dtype=torch.float64)
    mixed = mix_negatives(query, other, share)
    for i in range(4):
        for j in range(5):
            row = float(share[i, j]) * query[i, 0] + (1 - float(share[i, j])) * other[i, j]
            torch.testing.assert_close(mixed[i, j], row / row.norm())


def test_mixtures_have_unit_length_pass_no_gradient_and_end_at_their_parts():
    first, second = (F.normalize(torch.randn(4, 5, 3), dim=-1).requires_grad_() for _ in range(2))
    mixed = mix_negatives(first, second, torch.rand(4, 5, 1))
    assert not mixed.requires_grad
    torch.testing.assert_close(mixed.norm(dim=-1), torch.ones(4, 5))
    torch.testing.assert_close(mix_negatives(first, second, torch.ones(4, 5, 1)), first.detach())
    torch.testing.assert_close(mix_negatives(first, second, torch.zeros(4, 5, 1)), second.detach())


def test_a_mixture_with_the_query_is_nearer_to_it_than_its_negative():
    query, other = (F.normalize(torch.randn(shape), dim=-1) for shape in ((20, 1, 8), (20, 6, 8)))
    mixed = mix_negatives(query, other, 0.05 + 0.45 * torch.rand(20, 6, 1))
    assert ((mixed * query).sum(-1) > (other * query).sum(-1)).all()
    assert ((mixed * query).sum(-1) < 1).all()


# MoCo


def test_moco_is_the_formula_written_out(encoders):
    moco = make("moco", temperature=0.3)
    for p in moco.target_head.parameters():
        torch.nn.init.normal_(p)
    batch, views = draw()
    moco.queue.push(F.normalize(torch.randn(4, 5), dim=1))
    moco.owners.push(torch.tensor([[50], [2], [51], [2]]))  # two of them are of the third transition
    loss, metrics = moco(batch, views, Remembering(encoders[0]), Remembering(encoders[1]))
    query, key = embed(moco, views, encoders)
    losses, right = [], 0
    for i in range(6):
        rows = moco.queue.rows.double()[[j for j in range(7) if i != 2 or j not in (1, 3)]]
        similarities = torch.cat([(query[i] @ key[i])[None], rows @ query[i]]) / 0.3
        losses.append(float(similarities.logsumexp(0) - similarities[0]))
        right += int(similarities.argmax()) == 0
    assert loss.dtype == torch.float32
    assert float(loss.detach()) == pytest.approx(sum(losses) / 6, rel=1e-5)
    assert float(metrics["accuracy"]) == pytest.approx(right / 6)


@pytest.mark.parametrize("name", ["moco", "mochi"])
def test_gradient_reaches_the_query_side_alone(name, encoders):
    objective = make(name)
    encoders[1].requires_grad_(True)  # it could take one
    objective(*draw(), Remembering(encoders[0]), Remembering(encoders[1]))[0].backward()
    assert all(p.grad is not None and p.grad.any() for p in objective.head.parameters())
    assert all(p.grad is None and not p.requires_grad for p in objective.target_head.parameters())
    assert all(p.grad is not None for p in encoders[0].parameters())
    assert all(p.grad is None for p in encoders[1].parameters())


@pytest.mark.parametrize("name", ["moco", "mochi"])
def test_the_keys_head_follows_by_its_tau(name, encoders):
    objective = make(name, projection_tau=0.3)
    before = [p.clone() for p in objective.target_head.parameters()]
    assert all(torch.equal(a, b) for a, b in zip(before, objective.head.parameters(), strict=True))
    update(objective, encoders, 0)
    for old, new, online in zip(before, objective.target_head.parameters(), objective.head.parameters(), strict=True):
        torch.testing.assert_close(new, 0.7 * old + 0.3 * online.detach())
        assert not torch.equal(new, old)


def test_the_keys_enter_the_queue_after_the_step_and_the_oldest_leave(encoders):
    moco = make("moco")
    start = moco.queue.rows.clone()
    torch.testing.assert_close(start.norm(dim=1), torch.ones(7))  # random directions until keys have come
    batch, views = draw(size=4, first_slot=10)
    _, key = embed(moco, views, encoders)
    moco(batch, views, Remembering(encoders[0]), Remembering(encoders[1]))
    assert torch.equal(moco.queue.rows, start)
    moco.after_step()
    torch.testing.assert_close(moco.queue.rows[:4], key.float())
    assert torch.equal(moco.queue.rows[4:], start[4:])
    moco.after_step()  # no key comes twice
    assert torch.equal(moco.queue.rows[4:], start[4:])
    assert moco.owners.rows[:4, 0].tolist() == [10, 11, 12, 13]
    kept = moco.queue.rows.clone()
    update(moco, encoders, 1, size=4)  # places 4, 5, 6 and 0
    assert torch.equal(moco.queue.rows[1:4], kept[1:4])
    assert moco.owners.rows[:, 0].tolist() == [103, 11, 12, 13, 100, 101, 102]
    assert not (moco.queue.rows[[4, 5, 6, 0]] == kept[[4, 5, 6, 0]]).all(1).any()


def test_without_a_loss_nothing_enters_the_queue():
    moco = make("moco")
    start = moco.queue.rows.clone()
    moco.after_step()
    assert torch.equal(moco.queue.rows, start)


def test_a_batch_may_exceed_the_queue_and_change_its_size(encoders):
    moco = make("moco")
    for seed, size in enumerate((9, 2, 16, 3)):
        assert update(moco, encoders, seed, size=size).isfinite()
    assert sorted(moco.owners.rows[:, 0].tolist()) == [212, 213, 214, 215, 300, 301, 302]


def test_an_observations_own_former_keys_are_no_negatives(encoders):
    moco = make("moco")
    batch, views = draw()
    inputs = batch, views, Remembering(encoders[0]), Remembering(encoders[1])
    update(moco, encoders, 3, step=0.0)
    moco.queue.rows[2] = embed(moco, views, encoders)[0][4].float()  # as hard a negative of the fifth as can be
    as_another = float(moco(*inputs)[0].detach())
    moco.owners.rows[2] = 99
    assert float(moco(*inputs)[0].detach()) == as_another
    moco.owners.rows[2] = 4
    assert float(moco(*inputs)[0].detach()) < as_another - 0.1


def test_alike_images_cost_the_logarithm_of_the_choices():
    encoder = tiny_encoder()
    moco = make("moco")
    batch, views = draw()
    alike = views.query._replace(images=batch.obs[:1].expand_as(batch.obs))
    for slot in (100, 200):
        loss, _ = moco(batch._replace(index=slot + torch.arange(6)), Views(alike, alike), encoder, encoder)
        moco.after_step()
    assert float(loss.detach()) < 2
    loss, _ = moco(batch, Views(alike, alike), encoder, encoder)
    assert float(loss.detach()) == pytest.approx(math.log(8), rel=1e-4)


# MoCHi


def test_mochi_is_moco_until_its_warm_up_ends(encoders):
    mochi, moco = make("mochi", warmup=2), make("moco")
    moco.load_state_dict(mochi.state_dict(), strict=False)
    start = copy.deepcopy(encoders)
    assert [float(update(mochi, encoders, i)) - float(update(moco, start, i)) for i in range(2)] == [0.0, 0.0]
    assert float(update(mochi, encoders, 2)) > float(update(moco, start, 2))  # more negatives, harder ones


def mixtures(mochi: Moco, query: Tensor, hardest: Tensor) -> Tensor:
    assert isinstance(mochi, Mochi)
    return mochi._mixtures(query, hardest, torch.zeros_like(hardest, dtype=torch.bool))[0]


def test_mixtures_are_made_of_the_hardest_negatives_and_of_the_query():
    """Each must solve for two known parts with shares that sum to one after scaling, in the ranges of the paper."""
    mochi = make("mochi", queue_size=40, projection_dim=16, hardest=3, mixed=30, mixed_with_query=30)
    query = F.normalize(torch.randn(5, 16), dim=1)
    hardest = (query @ mochi.queue.rows.T).topk(3).indices
    shares = []
    for i, rows in enumerate(mixtures(mochi, query, hardest)):
        parts = torch.cat([mochi.queue.rows[hardest[i]], query[i : i + 1]]).double()  # (4, 16)
        weights = torch.linalg.lstsq(parts.T, rows.double().T).solution.T  # (60, 4)
        torch.testing.assert_close(weights @ parts, rows.double(), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(rows.norm(dim=1), torch.ones(60))
        weights = weights / weights.sum(1, keepdim=True)
        assert (weights > -1e-4).all()
        assert (weights[:30, 3].abs() < 1e-4).all()  # the first half knows nothing of the query
        assert ((weights > 1e-4).sum(1) <= 2).all()
        assert (weights[:30, :3] > 1e-4).any(0).all()  # each of the hardest is drawn
        shares.append(weights[30:, 3])
    assert 0.4 < float(torch.cat(shares).max()) < 0.5
    assert 0.0 <= float(torch.cat(shares).min()) < 0.05


def test_mochi_is_the_formula_written_out_from_its_parts(encoders):
    mochi = make("mochi", temperature=0.4)
    batch, views = draw(first_slot=10)
    again = copy.deepcopy(mochi)
    loss, _ = mochi(batch, views, Remembering(encoders[0]), Remembering(encoders[1]))
    query, key = embed(again, views, encoders)
    rows = again.queue.rows.double()
    mixed = mixtures(again, query.float(), (query @ rows.T).topk(3).indices).double()
    assert mixed.shape == (6, 6, 5)
    losses = []
    for i in range(6):
        similarities = torch.cat([(query[i] @ key[i])[None], rows @ query[i], mixed[i] @ query[i]]) / 0.4
        losses.append(float(similarities.logsumexp(0) - similarities[0]))
    assert float(loss.detach()) == pytest.approx(sum(losses) / 6, rel=1e-5)


@pytest.mark.parametrize("fields", [{"mixed": 0}, {"mixed_with_query": 0}], ids=str)
def test_either_kind_of_mixture_may_be_left_out(fields, encoders):
    mochi = make("mochi", **fields)
    kept = 2 if "mixed" in fields else 4
    query = F.normalize(torch.randn(6, 5), dim=1)
    assert mixtures(mochi, query, torch.zeros(6, 3, dtype=torch.int64)).shape == (6, kept, 5)
    assert update(mochi, encoders, 0).isfinite()


def test_the_gradient_of_the_mixtures_takes_them_as_constants(encoders):
    mochi = make("mochi")
    batch, views = draw()
    query, key = embed(mochi, views, encoders)
    query = query.float().requires_grad_()
    again = copy.deepcopy(mochi)
    (gradient,) = torch.autograd.grad(mochi._logits(query, key.float(), batch.index).sum(), query)
    mixed = mixtures(again, query.detach(), (query.detach() @ again.queue.rows.T).topk(3).indices)
    torch.testing.assert_close(gradient, key.float() + again.queue.rows.sum(0) + mixed.sum(1))


# Both


@pytest.mark.parametrize(("name", "fields"), [("moco", {}), ("mochi", {}), ("mochi", {"warmup": 4})], ids=str)
def test_a_resume_goes_on_bit_for_bit(name, fields, encoders):
    objective = make(name, **fields)
    for seed in range(3):
        update(objective, encoders, seed, size=4)
    other = make(name, **fields)
    other.load_state_dict(copy.deepcopy(objective.state_dict()))
    twins = copy.deepcopy(encoders)
    for seed in range(3, 6):
        assert torch.equal(update(objective, encoders, seed, size=4), update(other, twins, seed, size=4))
    state = other.state_dict()
    for key, value in objective.state_dict().items():
        assert torch.equal(value, state[key]) if isinstance(value, Tensor) else value == state[key], key


@pytest.mark.parametrize(("name", "options"), [("moco", SMALL), ("mochi", MIXING)], ids=["moco", "mochi"])
@pytest.mark.parametrize("build", [tiny_sac, tiny_rainbow])
def test_both_agents_train_it_and_resume(name, options, build, monkeypatch):
    defaults = OBJECTIVES[name].Config
    monkeypatch.setattr(OBJECTIVES[name], "Config", lambda **fields: defaults(**{**options, **fields}))
    agent, resumed = build(name), build(name, seed=3)
    start = copy.deepcopy(agent.learner.objective)
    metrics = run(agent, range(2))[-1]
    assert {"objective_loss", "accuracy"} <= set(metrics)
    assert not torch.equal(start.head[0].weight, agent.learner.objective.head[0].weight)
    assert int(agent.learner.objective.queue.filled) == 7
    resumed.load_state_dict(copy.deepcopy(agent.state_dict()))
    for each in (agent, resumed):
        run(each, range(2, 4))
    assert_equal_states(agent, resumed)


@pytest.mark.parametrize("name", ["moco", "mochi"])
def test_descent_teaches_which_key_is_whose(name):
    # Nine textures, each transition's two views of one of them: a real task, unlike views of noise.
    encoder = tiny_encoder()
    objective = make(name, queue_size=32, projection_tau=0.1)
    target = copy.deepcopy(encoder).requires_grad_(False)
    optimiser = torch.optim.Adam([*encoder.parameters(), *objective.head.parameters()], lr=3e-3)
    batch, views = draw(size=9)
    noisy = (batch.obs.int() + torch.randint(-20, 20, batch.obs.shape)).clamp(0, 255).to(torch.uint8)
    views = views._replace(key=Crop(noisy, views.key.offsets))
    for _ in range(30):
        loss, metrics = objective(batch, views, Remembering(encoder), Remembering(target))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        target.load_state_dict(encoder.state_dict())
        objective.after_step()
    assert float(metrics["accuracy"]) > 0.8
    rolled = Views(views.query, Crop(noisy.roll(1, 0), views.key.offsets))
    shuffled, _ = objective(batch, rolled, Remembering(encoder), Remembering(target))
    assert float(shuffled.detach()) > float(loss.detach()) + 1


@pytest.mark.parametrize(
    ("name", "fields", "message"),
    [
        ("moco", {"coefficient": -1.0}, "objective.coefficient must be at least 0 and at most .*, got -1.0"),
        ("moco", {"temperature": 0.0}, "objective.temperature must be above 0 and at most 1000000.0, got 0.0"),
        ("moco", {"queue_size": 0}, "objective.queue_size must be at least 1 and at most .*, got 0"),
        ("moco", {"projection_dim": 0}, "objective.projection_dim must be at least 1 and at most .*, got 0"),
        ("moco", {"projection_hidden": 0}, "objective.projection_hidden must be at least 1 and at most .*, got 0"),
        ("moco", {"projection_tau": 0.0}, r"objective.projection_tau must be above 0 and at most 1, got 0.0"),
        ("mochi", {"temperature": -1.0}, "objective.temperature must be above 0 and at most 1000000.0, got -1.0"),
        ("mochi", {"hardest": 0}, "objective.hardest must be at least 1, got 0"),
        ("mochi", {"mixed": -1}, "objective.mixed must be at least 0 and at most .*, got -1"),
        ("mochi", {"mixed_with_query": -1}, "objective.mixed_with_query must be at least 0 and at most .*, got -1"),
        ("mochi", {"warmup": -1}, "objective.warmup must be at least 0 and at most .*, got -1"),
        ("mochi", {"hardest": 8, "queue_size": 7}, "hardest=8 must be at most objective.queue_size=7: change one"),
        ("mochi", {"mixed": 0, "mixed_with_query": 0}, "are both 0: that is objective=moco"),
    ],
    ids=str,
)
def test_options_that_cannot_be_honoured_are_refused(name, fields, message):
    with pytest.raises(ConfigError, match=message):
        check(OBJECTIVES[name].Config(**fields), "objective.")


def test_only_what_draws_no_random_numbers_may_be_captured():
    assert OBJECTIVES["moco"].Config().capturable
    assert not OBJECTIVES["mochi"].Config().capturable


def test_mixtures_of_an_observations_own_former_keys_are_no_negatives(encoders):
    mochi = make("mochi", **{**MIXING, "hardest": 7})
    batch, views = draw()
    inputs = batch, views, Remembering(encoders[0]), Remembering(encoders[1])
    update(mochi, encoders, 3, step=0.0)
    mochi.owners.rows.fill_(4)  # all are the fifth's: nothing of the queue may count against it
    query, key = embed(mochi, views, encoders)
    logits = mochi._logits(query.float(), key.float(), batch.index)
    assert logits[4, 1:].isinf().all()
    assert logits[:4].isfinite().all()
    assert mochi(*inputs)[0].isfinite()
