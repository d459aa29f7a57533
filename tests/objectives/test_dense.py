"""Contrast of pixels: its loss, what its cells look at, its memory, and both kinds of labels written out in loops."""

import copy
import itertools
import math
from collections import deque
from fractions import Fraction
from typing import Any

import pytest
import torch
from tiny import assert_equal_states, run, tiny_batch, tiny_encoder, tiny_rainbow, tiny_sac
from torch import Tensor, nn
from torch.nn import functional as F

from curl_rl.nn.encoders import Encoder, encoder_config, make_encoder
from curl_rl.nn.losses import pixel_nce
from curl_rl.nn.remembering import Remembering
from curl_rl.objectives import OBJECTIVES, make_objective
from curl_rl.objectives.dense import ClassMemory, PixelContrast, by_class, cell_classes, evenly, normalised, scrambled
from curl_rl.options import check
from curl_rl.types import Batch, ConfigError, Crop, Shapes, Views

IMAGE, CROP, SIDE, BATCH = 24, 20, 7, 4
SHAPES = Shapes(feature_dim=8, conv=(4, SIDE, SIDE), action_dim=2, image_size=IMAGE)
CELLS = (CROP / SIDE / 2, CROP / SIDE)
EVERY = 2 * BATCH * SIDE**2  # anchors enough for every pixel to be in both halves
MODES = ("segmentation", "offset")


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def build(labels: str = "segmentation", shapes: Shapes = SHAPES, **fields: Any) -> PixelContrast:
    return make_objective(OBJECTIVES["pixel_contrast"].Config(labels=labels, **fields), shapes)


def draw(seed: int = 0, *, size: int = BATCH, side: int = 6, span: int = IMAGE - CROP + 1) -> tuple[Batch, Views]:
    """Draw views of noise at random offsets, with labels of three classes."""
    batch = tiny_batch(seed, size=size, obs_shape=(9, CROP, CROP), label_side=side)
    generator = torch.Generator().manual_seed(seed)
    offsets = torch.randint(span, (2, size, 2), generator=generator)
    return batch, Views(Crop(batch.obs, offsets[0]), Crop(batch.next_obs, offsets[1]))


@pytest.fixture
def encoders() -> tuple[Encoder, Encoder]:
    return tiny_encoder(), tiny_encoder()


def loss_of(objective: PixelContrast, batch: Batch, views: Views, encoders: tuple[Encoder, Encoder]) -> Tensor:
    return objective(batch, views, Remembering(encoders[0]), Remembering(encoders[1]))[0]


# The loss


def masks(rows: int, columns: int) -> tuple[Tensor, Tensor]:
    kind = torch.randint(3, (rows, columns))
    return kind == 0, kind == 1


def nce(logits: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
    losses = []
    for row, p, n in zip(logits.double(), positive, negative, strict=True):
        if p.any() and n.any():
            rest = row[n].exp().sum()
            losses.append(-(row[p].exp() / (row[p].exp() + rest)).log().mean())
    return torch.stack(losses).mean()


def test_pixel_nce_is_the_papers_formula():
    logits, (positive, negative) = torch.randn(9, 12) * 3, masks(9, 12)
    positive[2], negative[4], positive[5] = False, False, True
    loss, accuracy = pixel_nce(logits, positive, negative)
    torch.testing.assert_close(loss.double(), nce(logits, positive, negative), rtol=1e-5, atol=1e-6)
    counted = [i for i in range(9) if positive[i].any() and negative[i].any()]
    nearest = [
        max((j for j in range(12) if positive[i, j] or negative[i, j]), key=lambda j: logits[i, j]) for i in counted
    ]
    right = [positive[i, j].item() for i, j in zip(counted, nearest, strict=True)]
    assert accuracy.item() == pytest.approx(sum(right) / len(right))


def test_pixel_nce_by_hand():
    # One positive of weight 3 against 1, and two of weights 2 and 6 against 2: log 4/3; (log 2 + log 4/3) / 2.
    logits = torch.tensor([[3.0, 1.0, 9.0], [2.0, 2.0, 6.0]]).log()
    positive, negative = torch.tensor([[1, 0, 0], [1, 0, 1]]).bool(), torch.tensor([[0, 1, 0], [0, 1, 0]]).bool()
    loss, accuracy = pixel_nce(logits, positive, negative)
    assert loss.item() == pytest.approx((0.2876821 + (0.6931472 + 0.2876821) / 2) / 2)
    assert accuracy.item() == 1


def test_pixel_nce_depends_on_differences_and_on_no_order():
    logits, (positive, negative) = torch.randn(5, 8).double(), masks(5, 8)
    loss = pixel_nce(logits, positive, negative)[0]
    order = torch.randperm(8)
    shifted = pixel_nce(logits + torch.randn(5, 1), positive, negative)[0]
    torch.testing.assert_close(shifted, loss)
    torch.testing.assert_close(pixel_nce(logits[:, order], positive[:, order], negative[:, order])[0], loss)
    torch.testing.assert_close(pixel_nce(logits + 1e4, positive, negative)[0], loss)


def test_pixel_nce_has_the_gradient_of_its_value_and_none_of_what_does_not_count():
    logits, (positive, negative) = torch.randn(4, 6, dtype=torch.float64, requires_grad=True), masks(4, 6)
    positive[1], negative[2] = False, False
    assert torch.autograd.gradcheck(lambda x: pixel_nce(x, positive, negative)[0], (logits,))
    pixel_nce(logits, positive, negative)[0].backward()
    assert torch.isfinite(logits.grad).all()
    assert not logits.grad[1:3].any()
    assert not logits.grad[~(positive | negative)].any()
    empty, accuracy = pixel_nce(logits, positive & False, negative)
    assert (empty.item(), accuracy.item()) == (0, 0)


# What a cell looks at


@pytest.mark.parametrize(("image", "side", "size", "cells"), [(24, 6, 20, 7), (100, 25, 84, 35), (84, 21, 84, 3)])
def test_cells_have_the_class_of_the_place_that_they_look_at(image, side, size, cells):
    labels = torch.randint(200, (3, side, side), dtype=torch.uint8)
    offsets = torch.tensor([[0, image - size], [-3, 5], [4, 2]])
    found = cell_classes(
        labels, Crop(torch.zeros(3, 1, size, size), offsets), cells, image, (size / cells / 2, size / cells)
    )
    assert found.dtype == torch.int64
    for sample, i, j in itertools.product(range(3), range(cells), range(cells)):
        row, column = (
            int(offsets[sample, axis]) + Fraction(2 * place + 1, 2) * size / cells for axis, place in ((0, i), (1, j))
        )
        at = (min(max(x * side // image, 0), side - 1) for x in (row, column))
        assert found[sample, i, j] == labels[sample, *at]


def test_classes_of_cells_by_hand():
    labels = torch.arange(9, dtype=torch.uint8).view(1, 3, 3)  # of 12 pixels: a label covers 4
    crop = Crop(torch.zeros(1, 1, 8, 8), torch.tensor([[4, -2]]))
    # Two cells of 4 pixels look at rows 6 and 10, columns 0 and 4; one pixel further right the column is a border's.
    assert cell_classes(labels, crop, 2, 12, (2, 4)).tolist() == [[[3, 4], [6, 7]]]
    assert cell_classes(labels, crop._replace(offsets=torch.tensor([[-9, 9]])), 2, 12, (2, 4)).tolist() == [
        [[2, 2], [2, 2]]
    ]


def test_cells_look_where_the_encoder_says(encoders):
    told, untold = (build(anchors=EVERY, shapes=SHAPES._replace(cells=cells)) for cells in (CELLS, None))
    other = build(anchors=EVERY, shapes=SHAPES._replace(cells=encoders[0].cells))
    for objective in (untold, other):
        objective.load_state_dict(told.state_dict())
    losses = [loss_of(objective, *draw(), encoders) for objective in (told, untold, other)]
    assert losses[0] == losses[1] != losses[2]


def test_classes_beyond_the_last_are_the_last(encoders):
    batch, views = draw()
    few, many = (build(classes=classes) for classes in (2, 3))
    merged = batch._replace(labels=batch.labels.clamp(max=1))
    assert loss_of(few, batch, views, encoders) == loss_of(few, merged, views, encoders)
    assert loss_of(many, batch, views, encoders) != loss_of(many, merged, views, encoders)


# Drawing


def test_items_are_drawn_class_by_class_in_turn():
    classes, rank = torch.tensor([0, 0, 0, 0, 3, 3, 1]), torch.tensor([5, 2, 9, 2**32 - 1, 7, 6, 0])
    order, starts = by_class(classes, 5, rank)
    assert order.tolist() == [1, 0, 2, 3, 6, 5, 4]
    assert starts.tolist() == [0, 4, 5, 5, 7, 7]
    turns = [1, 6, 5, 0, 4, 2, 3]  # the first of classes 0, 1 and 3, then the second of 0 and 3, then what is left
    for size in (1, 3, 7, 50):
        assert evenly(classes, 5, rank, size).tolist() == turns[:size]


def test_scrambled_numbers_are_murmurs_and_differ():
    assert scrambled(torch.tensor([0, 1, 2**32 - 1])).tolist() == [0, 0x514E28B7, 0x81F16F39]
    numbers = scrambled(torch.arange(2**16))
    assert len(numbers.unique()) == 2**16
    assert ((numbers >= 0) & (numbers < 2**32)).all()
    assert numbers.double().mean().item() == pytest.approx(2**31, rel=0.01)


@pytest.mark.parametrize("mode", MODES)
def test_anchors_change_with_every_step_and_with_no_generator(mode, encoders):
    objective, inputs = build(mode, anchors=8), draw()
    before = torch.get_rng_state()
    first, again = (loss_of(objective, *inputs, encoders) for _ in range(2))
    assert first == again
    objective.draws += 1
    assert loss_of(objective, *inputs, encoders) != first
    assert torch.equal(torch.get_rng_state(), before)
    assert objective.config.capturable


def test_half_of_a_classs_anchors_are_its_hardest():
    objective = build(anchors=4, classes=2, shapes=SHAPES._replace(conv=(2, 1, 1)))
    objective.head = nn.Identity()
    # Pixels at angles from their class's mean towards the other's; that of 80 degrees is hard for either.
    angles = torch.tensor([0.0, 10, 80, 20, 90, 80, 10, 85]).deg2rad()
    classes, means = torch.tensor([0, 0, 0, 0, 1, 1, 1, 1]), torch.eye(2)
    maps = torch.stack([angles.cos(), angles.sin()], 1)
    for step in range(5):
        objective.draws.fill_(step)
        picked, own = objective._anchors(maps, classes, means)
        assert own.tolist() == [0, 1, 0, 1]
        torch.testing.assert_close(picked[2:], maps[[2, 6]])


# The memory


def test_memory_keeps_the_last_of_each_class():
    memory, twin = ClassMemory(3, 5, 2), [deque(maxlen=5) for _ in range(3)]
    for _ in range(9):
        count = torch.randint(5, (3,))
        rows, valid = torch.randn(3, 4, 2), torch.arange(4) < count[:, None]
        memory.push(rows, valid)
        for c in range(3):
            twin[c].extend(rows[c, : count[c]].tolist())
            kept = memory.rows[c, memory.known()[c]].tolist()
            assert sorted(kept) == sorted(list(row) for row in twin[c])
    assert memory.filled.tolist() == [5, 5, 5]


# Objectives against loops


def embedded(head: nn.Module, maps: Tensor) -> Tensor:
    """Return unit vectors (B, h, w, D) of maps, one cell at a time."""
    rows = [[[head(cell) for cell in row] for row in sample] for sample in maps.permute(0, 2, 3, 1)]
    return F.normalize(torch.stack([torch.stack([torch.stack(row) for row in sample]) for sample in rows]), dim=-1)


def test_maps_are_normalised_over_the_batch():
    maps = torch.randn(3, 2, 4, 4) * 5 + 7
    mean, std = (getattr(maps, name)((0, 2, 3), keepdim=True) for name in ("mean", "std"))
    torch.testing.assert_close(normalised(maps), (maps - mean) / std, rtol=0.02, atol=1e-3)
    assert torch.isfinite(normalised(torch.ones(2, 1, 1, 1))).all()


def test_segmentation_contrasts_pixels_with_pixels_and_regions_of_all_that_is_known(encoders):
    objective = build(anchors=2 * EVERY, classes=4, added=EVERY, memory=2 * EVERY, temperature=0.3)
    known: list[tuple[int, Tensor]] = []
    for step in range(2):
        batch, views = draw(step)
        labels = [cell_classes(batch.labels, crop, SIDE, IMAGE, CELLS) for crop in views]
        query = embedded(objective.head, normalised(encoders[0].conv(views.query.images)))
        key = embedded(objective.target_head, normalised(encoders[1].conv(views.key.images))).detach()
        for sample, shown in zip(key, labels[1], strict=True):
            known += [(int(c), k) for c, k in zip(shown.flatten(), sample.flatten(0, 1), strict=True)]
            known += [(int(c), F.normalize(sample[shown == c].mean(0), dim=0)) for c in shown.unique()]
        classes, keys = torch.tensor([c for c, _ in known]), torch.stack([k for _, k in known])
        own = labels[0].flatten()
        alike = own[:, None] == classes
        expected = nce(query.flatten(0, 2).double() @ keys.double().T / 0.3, alike, ~alike)
        loss = loss_of(objective, batch, views, encoders)
        torch.testing.assert_close(loss.double(), expected, rtol=1e-5, atol=1e-5)
        objective.after_step()


def test_offset_contrasts_cells_that_look_at_one_place_with_all_others(encoders):
    objective = build("offset", anchors=EVERY, negatives=EVERY, temperature=0.3, distance=0.6)
    batch, views = draw(span=6)
    query = embedded(objective.head, normalised(encoders[0].conv(views.query.images)))
    key = embedded(objective.target_head, normalised(encoders[1].conv(views.key.images)))
    cells, cell = list(itertools.product(range(BATCH), range(SIDE), range(SIDE))), CROP / SIDE
    starts = [crop.offsets.tolist() for crop in views]
    near = torch.zeros(len(cells), len(cells), dtype=torch.bool)
    for (i, one), (j, other) in itertools.product(enumerate(cells), enumerate(cells)):
        places = (
            [start[at[0]][axis] + (at[1 + axis] + 0.5) * cell for axis in (0, 1)]
            for start, at in zip(starts, (one, other), strict=True)
        )
        near[i, j] = one[0] == other[0] and math.dist(*places) < 0.6 * cell * 2**0.5
    loss = loss_of(objective, batch, views, encoders)
    assert near.any(1).sum() < len(cells)  # some places are only in one of the crops
    logits = query.flatten(0, 2).double() @ key.flatten(0, 2).double().T / 0.3
    torch.testing.assert_close(loss.double(), nce(logits, near, ~near), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("mode", MODES)
def test_only_the_online_side_learns_and_the_rest_follows(mode, encoders):
    objective, (batch, views) = build(mode, projection_tau=0.25), draw()
    with torch.no_grad():
        for p in objective.head.parameters():
            p.add_(1)
    before = copy.deepcopy(objective.state_dict())
    loss_of(objective, batch, views, encoders).backward()
    assert all(p.grad.any() for p in objective.head.parameters())
    assert all(p.grad is None for module in (objective.target_head, encoders[1]) for p in module.parameters())
    assert any(p.grad is not None and p.grad.any() for p in encoders[0].convs.parameters())
    assert all(torch.equal(value, before[name]) for name, value in objective.state_dict().items())
    objective.after_step()
    for target, start, online in zip(
        objective.target_head.parameters(),
        (before[f"target_head.{name}"] for name, _ in objective.target_head.named_parameters()),
        objective.head.parameters(),
        strict=True,
    ):
        torch.testing.assert_close(target, 0.75 * start + 0.25 * online)
    if mode == "segmentation":
        assert objective.pixels.filled.tolist()[:4] == [10, 10, 10, 0]
        assert objective.regions.filled.tolist()[:4] == [BATCH] * 3 + [0]


@pytest.mark.parametrize("labels", [*MODES, None])
@pytest.mark.parametrize("tiny", [tiny_sac, tiny_rainbow])
def test_an_agent_resumes_bit_for_bit(tiny, labels):
    options = {"labels": labels, "anchors": 16} | ({} if labels == "segmentation" else {"negatives": 16})
    agent, resumed = (tiny("pixel_contrast", seed=seed, options=options) for seed in (0, 3))
    run(agent, range(3))
    resumed.load_state_dict(copy.deepcopy(agent.state_dict()))
    for one, other in zip(run(agent, range(3, 6)), run(resumed, range(3, 6)), strict=True):
        assert all(torch.equal(value, other[name]) for name, value in one.items())
    assert_equal_states(agent, resumed)


@pytest.mark.parametrize("mode", MODES)
def test_nine_cells_of_a_game_are_enough(mode):
    encoders = tuple(make_encoder(encoder_config("data_efficient"), (4, 84, 84)) for _ in range(2))
    assert encoders[0].conv_shape == (64, 3, 3)
    objective = build(mode, Shapes(576, (64, 3, 3), 4, discrete=True, image_size=84))
    batch = tiny_batch(size=32, obs_shape=(4, 84, 84), label_side=21)
    offsets = torch.randint(-4, 5, (2, 32, 2))
    loss = loss_of(objective, batch, Views(Crop(batch.obs, offsets[0]), Crop(batch.next_obs, offsets[1])), encoders)
    loss.backward()
    assert 0 < loss < 12


class Patches(nn.Module):
    """A layer that sees each cell's share of an image and no more."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Conv2d(9, 4, CROP // 5, CROP // 5)

    def conv(self, obs: Tensor) -> Tensor:
        return self.layer(obs / 255)


def coloured(seed: int) -> tuple[Batch, Views]:
    """Draw views whose cells each show one class, as a colour of its own under as much noise."""
    batch, views = draw(seed, size=16, span=2)
    crops = []
    for view in views:
        crop = view._replace(offsets=CROP // 5 * view.offsets)  # a cell's side: none sees two classes
        classes = cell_classes(batch.labels, crop, CROP, IMAGE, (0.5, 1))
        colours = F.one_hot(classes, 3).permute(0, 3, 1, 2).repeat(1, 3, 1, 1) * 100
        noise = torch.randint(100, crop.images.shape, dtype=torch.uint8)
        crops.append(crop._replace(images=(colours + noise).byte()))
    return batch, Views(*crops)


@pytest.mark.parametrize("seed", range(3))
def test_classes_are_told_apart_by_what_they_look_like(seed):
    torch.manual_seed(seed)
    encoder = Patches()
    target = copy.deepcopy(encoder)
    objective = build(anchors=64, classes=4, memory=20)
    optimizer = torch.optim.Adam([*encoder.parameters(), *objective.head.parameters()], lr=1e-2)
    for step in range(40):
        batch, views = coloured(100 * seed + step)
        loss, metrics = objective(batch, views, encoder, target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        objective.after_step()
    mixed, others = objective(batch._replace(labels=batch.labels.roll(1, 0)), views, encoder, target)
    assert metrics["accuracy"] > others["accuracy"] + 0.1  # of anchors of which half are the hardest
    assert mixed > 1.3 * loss


# Options


def test_labels_are_asked_for_only_by_segmentation():
    make = OBJECTIVES["pixel_contrast"].Config
    assert [sorted(make(labels=labels).needs) for labels in ("segmentation", "offset", None)] == [
        ["labels", "map"],
        ["map"],
        ["map"],
    ]
    assert not hasattr(build("offset"), "pixels")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"labels": "colour"}, r"objective\.labels='colour' is none of segmentation, offset"),
        ({"temperature": 0.0}, r"objective\.temperature must be above 0"),
        ({"projection_tau": 0.0}, r"objective\.projection_tau must be above 0 and at most 1"),
        ({"classes": 1}, r"objective\.classes must be at least 2"),
        ({"anchors": 1}, r"objective\.anchors must be at least 2"),
        ({"negatives": 0}, r"objective\.negatives must be at least 1"),
        ({"added": 65}, r"objective\.added=65 must be at most objective\.memory=64: change one"),
        ({"distance": 0.8}, r"objective\.distance must be above 0 and at most 0\.7, got 0\.8"),
        ({"coefficient": -1.0}, r"objective\.coefficient must be at least 0 and"),
    ],
)
def test_options_are_refused_with_the_reason(fields, message):
    with pytest.raises(ConfigError, match=message):
        check(OBJECTIVES["pixel_contrast"].Config(**fields), "objective.")


def test_what_is_missing_is_named(encoders):
    with pytest.raises(ConfigError, match="train from pixels or choose another objective"):
        build(shapes=SHAPES._replace(conv=(17,)))
    with pytest.raises(ConfigError, match=r"needs Shapes\.image_size"):
        build(shapes=SHAPES._replace(image_size=0))
    batch, views = draw()
    with pytest.raises(ValueError, match=r"make the environment with labels=True"):
        loss_of(build(), batch._replace(labels=None), views, encoders)
