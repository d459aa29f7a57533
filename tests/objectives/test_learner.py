"""What a learner shows an objective, what it draws and keeps, and which parameters step at which rate."""

import copy

import pytest
import torch
from tiny import ATARI, CROP, FRAMES, atari_batch, leaves, tiny_batch, tiny_encoder, tiny_learner

from curl_rl.agents.rainbow import RainbowConfig
from curl_rl.agents.sac import SacConfig
from curl_rl.nn.augmentations import AUGMENTATIONS
from curl_rl.nn.remembering import Remembering
from curl_rl.objectives.learner import Learner
from curl_rl.types import Shapes


def learner(objective: str = "curl", *, augmentation="crop", seed: int = 0, config=None, **options) -> Learner:
    torch.manual_seed(seed)
    encoder = tiny_encoder()
    shapes = Shapes(encoder.feature_dim, encoder.conv_shape, 2, image_size=FRAMES[-1], cells=encoder.cells)
    config = config or SacConfig(learning_rate=1e-3)
    return tiny_learner(encoder, objective, shapes, augmentation=augmentation, config=config, seed=seed, **options)


def test_views_are_two_augmentations_drawn_from_the_learners_own_generator():
    seeing, batch = learner(), tiny_batch()
    generator = torch.Generator().manual_seed(1)
    torch.manual_seed(5)
    expected = [seeing.augmentation(batch.obs, generator) for _ in range(2)]
    given, views = seeing.views(batch)
    for view, crop in zip(views, expected, strict=True):
        assert torch.equal(view.images, crop.images)
        assert torch.equal(view.offsets, crop.offsets)
    assert not torch.equal(views.query.images, views.key.images)
    assert all(one is other for one, other in zip(given, batch, strict=True))  # raw frames, B rows


def test_a_view_that_the_agent_has_drawn_is_the_query():
    seeing, batch = learner(), tiny_batch()
    (drawn,) = seeing.draw(batch.obs, 1, torch.Generator().manual_seed(9))
    _, views = seeing.views(batch, drawn)
    assert views.query is drawn
    assert torch.equal(views.key.images, seeing.augmentation(batch.obs, torch.Generator().manual_seed(1)).images)


def test_the_future_is_augmented_row_by_row_and_the_rest_stays():
    seeing, batch = learner("atc"), tiny_batch(horizon=3)
    assert batch.future is not None
    given, _ = seeing.views(batch)
    generator = torch.Generator().manual_seed(1)
    for _ in range(2):
        seeing.augmentation(batch.obs, generator)
    later = seeing.augmentation(batch.future.obs.flatten(0, 1), generator).images.unflatten(0, (6, 3))
    assert given.future is not None
    assert torch.equal(given.future.obs, later)
    assert given.future.mask is batch.future.mask
    assert given.obs is batch.obs


@pytest.mark.parametrize("count", [1, 3])
def test_an_agents_own_draws_come_from_its_own_generator(count):
    seeing, batch = learner(), tiny_batch()
    before = seeing.generator.get_state()
    crops = seeing.draw(batch.obs, count, torch.Generator().manual_seed(4))
    twin = torch.Generator().manual_seed(4)
    assert len(crops) == count
    assert all(torch.equal(crop.images, seeing.augmentation(batch.obs, twin).images) for crop in crops)
    assert torch.equal(seeing.generator.get_state(), before)


def test_no_draw_gives_the_whole_image_in_the_size_that_the_encoder_sees():
    seeing, batch = learner(), tiny_batch()
    generator = torch.Generator().manual_seed(4)
    (whole,) = seeing.draw(batch.obs, 0, generator)
    margin = (FRAMES[-1] - CROP) // 2
    assert torch.equal(whole.images, batch.obs[:, :, margin:-margin, margin:-margin])
    assert torch.equal(generator.get_state(), torch.Generator().manual_seed(4).get_state())
    states = torch.randn(3, 5)
    assert seeing.whole(states) is states


@pytest.mark.parametrize(
    ("config", "encoder_rate", "period"),
    [
        (SacConfig(learning_rate=1e-3, update="sequential", target_period=2), 2e-3, 2),
        (SacConfig(learning_rate=1e-3, update="joint", target_period=3), 1e-3, 3),
        (RainbowConfig(learning_rate=1e-4), 1e-4, 1),
    ],
)
def test_the_encoder_and_the_heads_step_at_their_agents_rates(config, encoder_rate, period):
    seeing = learner(config=config)
    encoder, heads = seeing.parameter_groups()
    assert (encoder["lr"], heads["lr"], seeing.pace.period) == (encoder_rate, config.learning_rate, period)
    assert [id(p) for p in encoder["params"]] == [id(p) for p in seeing.encoder.parameters()]
    assert [id(p) for p in heads["params"]] == [id(p) for p in seeing.objective.parameters() if p.requires_grad]
    assert [len(group["params"]) for group in learner("none").parameter_groups()] == [len(encoder["params"])]


def test_the_target_moves_by_tau_when_told_and_takes_no_gradient():
    seeing = learner(config=SacConfig(learning_rate=1e-3, encoder_tau=0.25))
    start = [p.clone() for p in seeing.target_encoder.parameters()]
    with torch.no_grad():
        for parameter in seeing.encoder.parameters():
            parameter.add_(1.0)
    batch, views = seeing.views(tiny_batch())
    loss, _ = seeing.loss(batch, views, Remembering(seeing.encoder))
    loss.backward()
    seeing.after_step()
    assert all(torch.equal(p, old) for p, old in zip(seeing.target_encoder.parameters(), start, strict=True))
    seeing.move_target()
    for parameter, old in zip(seeing.target_encoder.parameters(), start, strict=True):
        torch.testing.assert_close(parameter, old + 0.25)
        assert parameter.grad is None


def test_the_loss_is_weighted_and_told_as_it_is():
    batch, losses = tiny_batch(), []
    for coefficient in (1.0, 0.5):
        seeing = learner(coefficient=coefficient)
        loss, metrics = seeing.loss(*seeing.views(batch), Remembering(seeing.encoder))
        assert not metrics["objective_loss"].requires_grad
        losses.append((loss.detach(), metrics["objective_loss"]))
    (full, told), (half, told_again) = losses
    assert torch.equal(full, told)
    assert torch.equal(told, told_again)
    torch.testing.assert_close(half, told / 2)
    assert not learner(coefficient=0.0).learns


@pytest.mark.parametrize("augmentation", sorted(AUGMENTATIONS))
def test_a_snapshot_is_what_would_be_drawn_next_and_disturbs_nothing(augmentation):
    seeing, batch = learner(augmentation=augmentation), tiny_batch()
    twin = copy.deepcopy(seeing.generator.get_state())
    shown = seeing.snapshot(batch)
    assert torch.equal(seeing.generator.get_state(), twin)
    _, views = seeing.views(batch)
    assert torch.equal(shown["query"], views.query.images)
    assert torch.equal(shown["key"], views.key.images)
    assert seeing.snapshot(tiny_batch(obs_shape=(5,))) == {}


@pytest.mark.parametrize("objective", ["curl", "moco", "spcl"])
def test_a_state_loaded_goes_on_bit_for_bit(objective):
    def step(seeing: Learner, seed: int) -> torch.Tensor:
        optimizer = torch.optim.SGD(seeing.parameter_groups())
        optimizer.zero_grad()
        loss, _ = seeing.loss(*seeing.views(tiny_batch(seed, size=16)), Remembering(seeing.encoder))
        loss.backward()
        optimizer.step()
        seeing.move_target()
        seeing.after_step()
        return loss.detach()

    one, other = learner(objective), learner(objective, seed=7)
    step(one, 0)
    other.load_state_dict(copy.deepcopy(one.state_dict()))
    assert torch.equal(step(one, 1), step(other, 1))
    for (name, left), (_, right) in zip(leaves(one.state_dict()), leaves(other.state_dict()), strict=True):
        assert torch.equal(left, right) if torch.is_tensor(left) else left == right, name


def test_grey_frames_of_another_agent_are_shown_alike():
    torch.manual_seed(0)
    encoder = tiny_encoder(ATARI)
    shapes = Shapes(encoder.feature_dim, encoder.conv_shape, 2, True, ATARI[-1], encoder.cells)
    seeing = tiny_learner(encoder, "curl", shapes, augmentation="shift", config=RainbowConfig(), seed=0)
    batch = atari_batch()
    given, views = seeing.views(batch)
    assert given is not batch
    assert given == batch  # the same tensors in a new tuple
    assert views.query.images.shape == batch.obs.shape
