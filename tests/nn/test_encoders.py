"""Encoders: shapes, scaling, precision, initialisation, and the memory that spares the second forward pass."""

import copy
import gc
import weakref
from contextlib import closing
from typing import Any

import pytest
import torch
from tiny import tiny_encoder, watch_maps
from torch import Tensor, nn

from curl_rl.envs import make_env
from curl_rl.nn.encoders import ENCODERS, Encoder, encoder_config, make_encoder, stack
from curl_rl.nn.encoders.base import TiledEncoder
from curl_rl.nn.encoders.stack import ConvStack
from curl_rl.nn.remembering import Remembering
from curl_rl.types import ConfigError

SMALL = {
    "paper": {"filters": 4, "feature_dim": 8},
    "strided": {"filters": 4, "feature_dim": 8},
    "small": {"filters": 4, "feature_dim": 8},
    "nature": {"feature_dim": 8},
    "impala": {"feature_dim": 8},
    "data_efficient": {},
    "canonical": {},
}
FLAT = ("data_efficient", "canonical")
NATURE = [(32, 8, 4), (64, 4, 2), (64, 3, 1)]
SHAPES = [(9, 84, 84), (3, 64, 64), (4, 44, 60)]


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def frames(shape: tuple[int, ...], batch: int = 3) -> Tensor:
    return torch.randint(256, (batch, *shape), dtype=torch.uint8)


def build(name: str, shape: tuple[int, ...] = (3, 40, 40), *, bf16: bool = False, **options: Any) -> Encoder:
    return make_encoder(encoder_config(name, **SMALL[name], **options), shape, bf16=bf16)


def test_the_registry_holds_every_encoder_by_its_own_name():
    assert set(ENCODERS) == {*SMALL, "state"}
    for name in ENCODERS:
        assert encoder_config(name).name == name


def test_defaults_are_the_published_sizes():
    paper = make_encoder(encoder_config("paper"), (9, 84, 84))
    assert (paper.conv_shape, paper.feature_dim) == ((32, 35, 35), 50)
    assert [tuple(layer.weight.shape) for layer in paper.convs if isinstance(layer, nn.Conv2d)] == [
        (32, 9, 3, 3), (32, 32, 3, 3), (32, 32, 3, 3), (32, 32, 3, 3)
    ]  # fmt: skip
    nature = make_encoder(encoder_config("nature"), (4, 84, 84))
    assert (nature.conv_shape, nature.feature_dim) == ((64, 7, 7), 512)
    impala = make_encoder(encoder_config("impala"), (3, 64, 64))
    assert (impala.conv_shape, impala.feature_dim) == ((32, 8, 8), 256)
    assert make_encoder(encoder_config("strided"), (9, 84, 84)).conv_shape == (32, 8, 8)
    data_efficient = make_encoder(encoder_config("data_efficient"), (4, 84, 84))
    assert (data_efficient.conv_shape, data_efficient.feature_dim) == ((64, 3, 3), 576)
    canonical = make_encoder(encoder_config("canonical"), (4, 84, 84))
    assert (canonical.conv_shape, canonical.feature_dim) == ((64, 7, 7), 3136)


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_any_image_size_and_channel_count(name, shape):
    encoder = build(name, shape)
    obs = frames(shape)
    kept = obs.clone()
    conv, features = encoder.conv(obs), encoder(obs)
    assert conv.shape == (3, *encoder.conv_shape)
    assert features.shape == (3, encoder.feature_dim)
    assert encoder.feature_dim == (torch.Size(encoder.conv_shape).numel() if name in FLAT else 8)
    assert conv.dtype == features.dtype == torch.float32
    torch.testing.assert_close(features, encoder.head(conv))
    assert torch.equal(obs, kept)


@pytest.mark.parametrize(
    ("name", "side"),
    [("paper", 14), ("small", 6), ("strided", 27), ("nature", 35), ("canonical", 35), ("data_efficient", 24)],
)
def test_the_smallest_image_works_and_a_smaller_one_names_the_mend(name, side):
    assert build(name, (3, side + 1, side + 1)).conv_shape[1:] == (1, 1)
    with pytest.raises(ConfigError, match=rf"too small for encoder={name}: enlarge them"):
        build(name, (3, side, 90))


def test_layers_that_do_not_take_the_images_are_told_with_torchs_words():
    class Narrow(Encoder):
        def layers(self, config):
            return nn.Conv2d(3, 4, 3)

    with pytest.raises(ConfigError, match=r"for encoder=paper: enlarge them \(.*channel"):
        Narrow(encoder_config("paper"), (6, 30, 30))


def test_unknown_names_fields_and_observations_are_refused():
    known = "canonical, data_efficient, impala, nature, paper, small, state, strided"
    with pytest.raises(ConfigError, match=f"unknown encoder 'papr'; there are {known}"):
        encoder_config("papr")
    with pytest.raises(ConfigError, match="encoder 'nature' has no filters"):
        encoder_config("nature", filters=3)
    with pytest.raises(ConfigError, match="need encoder=state, not encoder=paper"):
        make_encoder(encoder_config("paper"), (5,))
    with pytest.raises(ConfigError, match="need a pixel encoder, not encoder=state"):
        make_encoder(encoder_config("state"), (3, 84, 84))


@pytest.mark.parametrize("bf16", [False, True])
def test_pixels_are_scaled_once_to_the_unit_interval(bf16):
    encoder = tiny_encoder(bf16=bf16)
    encoder.convs = nn.Identity()
    obs = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16)
    expected = torch.arange(256).reshape(1, 1, 16, 16) / 255
    torch.testing.assert_close(encoder.conv(obs), expected, rtol=1e-2 if bf16 else 1e-7, atol=0)


def test_float_frames_are_scaled_on_a_copy():
    encoder, obs = tiny_encoder(), frames((9, 20, 20)).contiguous(memory_format=torch.channels_last)
    as_float = obs.float()
    torch.testing.assert_close(encoder.conv(as_float), encoder.conv(obs))
    assert torch.equal(as_float, obs.float())


@pytest.mark.parametrize("name", SMALL)
def test_bf16_runs_the_convolutions_in_bf16_and_stays_close(name):
    exact, low = build(name), build(name, bf16=True)
    low.load_state_dict(exact.state_dict())
    obs, inner = frames((3, 40, 40)), []
    next(m for m in low.modules() if isinstance(m, nn.Conv2d)).register_forward_hook(
        lambda module, inputs, output: inner.append(output.dtype)
    )
    with torch.no_grad():
        near, far = exact(obs), low(obs)
        maps = exact.conv(obs), low.conv(obs)
    # A stack passes no module on a CPU; its map tells all the same.
    assert inner == [torch.bfloat16] * (0 if isinstance(low.convs, ConvStack) else 2)
    assert [torch.equal(x, x.bfloat16()) for x in maps] == [False, True]
    assert far.dtype == torch.float32
    assert {p.dtype for p in low.parameters()} == {torch.float32}
    assert float((near - far).norm() / near.norm()) < 0.03
    assert not torch.equal(near, far)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        *((name, {}) for name in SMALL if name != "impala"),
        ("data_efficient", {"padding": 3}),
        ("data_efficient", {"padding": 8}),
        ("canonical", {"padded": True}),
        ("nature", {"padded": True}),
    ],
)
@pytest.mark.parametrize("shape", [(3, 41, 58), (9, 64, 64), (4, 84, 84)], ids=str)
@pytest.mark.parametrize("fused", [True, False])
def test_stacks_give_what_convolutions_of_scaled_images_give_and_their_gradients(
    monkeypatch, name, options, shape, fused
):
    monkeypatch.setattr(stack, "_FUSED", fused and stack._FUSED)
    encoder, obs = build(name, shape, **options), frames(shape)
    assert isinstance(encoder, TiledEncoder) == (name in ("strided", "data_efficient"))
    expected = obs.float() / 255
    for layer in encoder.convs:
        assert isinstance(layer, nn.Conv2d | nn.ReLU)
        if isinstance(layer, nn.Conv2d):
            expected = nn.functional.conv2d(expected, layer.weight, layer.bias, layer.stride, layer.padding).relu()
    weights = torch.randn_like(expected)
    conv = encoder.conv(obs)
    assert conv.is_contiguous() or name == "data_efficient"
    torch.testing.assert_close(conv, expected, rtol=1e-5, atol=1e-5)
    with torch.no_grad():
        assert torch.equal(encoder.conv(obs), conv)
    convs = list(encoder.convs.parameters())
    for grad, twin in zip(
        torch.autograd.grad((conv * weights).sum(), convs),
        torch.autograd.grad((expected * weights).sum(), convs),
        strict=True,
    ):
        torch.testing.assert_close(grad, twin, rtol=1e-4, atol=1e-4)


class Padded(Encoder):
    """An encoder of one's own, whose first convolution pads and overlaps."""

    def layers(self, config):
        return ConvStack(self.obs_shape[0], [(4, 3, 2, 2), (6, 3, 1, 1)])


@pytest.mark.parametrize("fused", [True, False])
def test_a_stack_pads_whether_its_windows_overlap_or_not(monkeypatch, fused):
    monkeypatch.setattr(stack, "_FUSED", fused and stack._FUSED)
    encoder, obs = Padded(encoder_config("small"), (3, 21, 30)), frames((3, 21, 30))
    conv, expected = encoder.conv(obs), encoder.convs(obs.float() / 255)
    assert conv.shape[1:] == encoder.conv_shape
    torch.testing.assert_close(conv, expected, rtol=1e-5, atol=1e-5)
    found, twins = (torch.autograd.grad(x.square().sum(), list(encoder.convs.parameters())) for x in (conv, expected))
    for grad, twin in zip(found, twins, strict=True):
        torch.testing.assert_close(grad, twin, rtol=1e-4, atol=1e-4)


def test_padded_convolutions_are_dopamines_in_a_mirror():
    encoder, obs = build("canonical", (4, 84, 84), padded=True), frames((4, 84, 84))
    assert encoder.conv_shape == (64, 11, 11)
    x = obs.flip(2, 3).float() / 255
    for layer, padding in zip(encoder.convs.convolutions, ((2, 2), (1, 2), (1, 1)), strict=True):  # TensorFlow's "same"
        x = nn.functional.pad(x, padding * 2)
        x = nn.functional.conv2d(x, layer.weight.flip(2, 3), layer.bias, layer.stride).relu()
    torch.testing.assert_close(encoder.conv(obs), x.flip(2, 3), rtol=1e-4, atol=1e-5)
    seen = torch.rand(1, 4, 84, 84, requires_grad=True)
    encoder.convs(seen).sum().backward()
    assert seen.grad is not None
    assert seen.grad.count_nonzero() > 0.9 * seen.numel()  # corners too, where a ReLU is not shut
    assert all(seen.grad[:, :, i].any() and seen.grad[:, :, :, i].any() for i in (0, 83))


def test_bbfs_impala_gives_its_map_and_nothing_is_learned_of_it():
    encoder = make_encoder(encoder_config("impala", width=4, feature_dim=0), (4, 84, 84))
    assert (encoder.conv_shape, encoder.feature_dim) == ((128, 11, 11), 128 * 121)
    assert not list(encoder.head.parameters())


@pytest.mark.parametrize(
    ("name", "options"), [("data_efficient", {}), ("canonical", {}), ("impala", {"feature_dim": 0})]
)
def test_stretched_features_go_from_0_to_1_whatever_the_maps_scale(name, options):
    torch.manual_seed(0)
    encoder = make_encoder(encoder_config(name, stretch=True, **options), (3, 40, 40))
    obs = frames((3, 40, 40))
    with torch.no_grad():
        features, flat = encoder(obs), encoder.conv(obs).flatten(1).double()
        low, high = flat.min(1, keepdim=True).values, flat.max(1, keepdim=True).values
        torch.testing.assert_close(features.double(), (flat - low) / (high - low), rtol=1e-4, atol=1e-5)
        assert (features.amin(1).tolist(), features.amax(1).tolist()) == ([0.0] * len(obs), [1.0] * len(obs))
        for layer in encoder.convs.modules():
            if isinstance(layer, nn.Conv2d):
                layer.weight.zero_()
                layer.bias.zero_()
        assert not encoder(obs).any()  # a constant map


def test_impala_with_a_head_of_its_own_has_nothing_to_stretch():
    with pytest.raises(ConfigError, match=r"encoder\.stretch=true has no effect with encoder.feature_dim=256"):
        encoder_config("impala", stretch=True)


@pytest.mark.parametrize("name", SMALL)
def test_a_fresh_encoder_is_another_of_its_kind_and_settings(name):
    torch.manual_seed(0)
    encoder = build(name)
    torch.manual_seed(1)
    fresh = encoder.fresh()
    torch.manual_seed(1)
    expected = build(name)
    for one, other, mine in zip(fresh.parameters(), expected.parameters(), encoder.parameters(), strict=True):
        assert torch.equal(one, other)
        assert not torch.equal(one, mine) or not one.any() or one.unique().numel() == 1  # biases and scales
        assert one.data_ptr() != mine.data_ptr()


def steered(game: str, action: int) -> Tensor:
    """Return a game's frame (1, 1, 84, 84) after steering one way from one start."""
    with closing(make_env(f"atari/{game}")) as env:
        env.reset(seed=3)
        frames = [env.step(action)[0] for _ in range(6)]
    return torch.from_numpy(frames[-1])[None]


@pytest.mark.parametrize(("game", "rows"), [("breakout", (75, 77)), ("pong", (13, 77))])
def test_with_padding_the_data_efficient_encoder_sees_the_player(game, rows):
    right, left = steered(game, 2), steered(game, 3)
    moved = (right != left).nonzero()[:, 2]
    assert (int(moved.min()), int(moved.max())) == rows  # nothing but the paddle, which is lower than 75 in Breakout
    seen = {}
    for padding in (0, 8):
        encoder = build("data_efficient", (1, 84, 84), padding=padding)
        assert encoder.conv_shape == ((64, 4, 4) if padding else (64, 3, 3))
        with torch.no_grad():
            seen[padding] = not torch.equal(encoder(right), encoder(left))
    assert seen == {0: game != "breakout", 8: True}


@pytest.mark.parametrize(("stride", "padding"), [(1, 0), (2, 0), (2, 1)])
def test_a_fused_relu_in_bf16_has_the_gradients_of_both_within_its_rounding(stride, padding):
    x = torch.rand(4, 8, 20, 20).contiguous(memory_format=torch.channels_last).bfloat16().requires_grad_()
    weight, bias = (torch.randn(shape).mul(0.1).requires_grad_() for shape in ((16, 8, 3, 3), (16,)))
    inputs = (x, weight, bias)
    y = stack.conv_relu(x, weight, bias, stride, padding)
    expected = nn.functional.conv2d(x.float(), weight, bias, stride, padding).relu()
    assert y.dtype == torch.bfloat16
    with torch.no_grad():
        assert 0.1 < float((y == 0).float().mean()) < 0.9
        assert float((y.float() - expected).norm() / expected.norm()) < 0.01
    weights = torch.randn_like(expected)
    found = torch.autograd.grad((y.float() * weights).sum(), inputs)
    twins = torch.autograd.grad((expected * weights).sum(), inputs)
    for grad, twin, given in zip(found, twins, inputs, strict=True):
        assert grad.dtype == given.dtype
        # Where rounding moves a sum over zero, its whole gradient comes or goes.
        assert float((grad.float() - twin.float()).norm() / twin.float().norm()) < 0.05


@pytest.mark.parametrize("name", SMALL)
def test_memory_format_changes_no_value(name):
    encoder = build(name)
    kernel = next(p for p in encoder.parameters() if p.dim() == 4)
    assert kernel.is_contiguous(memory_format=torch.channels_last)
    plain = copy.deepcopy(encoder).to(memory_format=torch.contiguous_format)
    obs = frames((3, 40, 40))
    features = encoder(obs)
    torch.testing.assert_close(features, encoder(obs.contiguous(memory_format=torch.channels_last)))
    torch.testing.assert_close(features, plain(obs), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", SMALL)
def test_features_do_not_depend_on_the_rest_of_the_batch(name):
    encoder, obs = build(name), frames((3, 40, 40), batch=5)
    together = encoder(obs)
    alone = torch.cat([encoder(obs[i : i + 1]) for i in range(5)])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)


def test_state_encoder_reads_float_observations_as_they_are():
    encoder = tiny_encoder((5,))
    obs = torch.randn(4, 5)
    assert encoder.conv_shape == (5,)
    assert torch.equal(encoder.conv(obs), obs)
    assert encoder.conv(obs.double()).dtype == torch.float32
    assert encoder(obs).shape == (4, 8)


@pytest.mark.parametrize("name", [*SMALL, "state"])
def test_each_head_is_fresh(name):
    encoder = tiny_encoder((5,)) if name == "state" else build(name)
    heads = [encoder.head, encoder.make_head(), encoder.make_head()]
    owned = [{p.data_ptr() for p in head.parameters()} for head in heads]
    assert all(not a & b for a, b in ((owned[0], owned[1]), (owned[0], owned[2]), (owned[1], owned[2])))
    assert [[p.shape for p in head.parameters()] for head in heads[1:]] == [
        [p.shape for p in heads[0].parameters()]
    ] * 2


def test_the_paper_starts_from_delta_orthogonal_kernels_and_the_others_do_not():
    for name in SMALL:
        kernel = next(p for p in build(name).parameters() if p.dim() == 4).detach().clone()
        middle = kernel.shape[-1] // 2
        centre = kernel[:, :, middle, middle].clone()
        kernel[:, :, middle, middle] = 0
        assert bool(kernel.any()) == (name != "paper")
        if name == "paper":  # 4 filters of 3 channels
            torch.testing.assert_close(centre.T @ centre, 2 * torch.eye(3), atol=1e-5, rtol=0)


@pytest.mark.parametrize("shape", [(4, 84, 84), (4, 40, 40), (3, 57, 64)], ids=str)
@pytest.mark.parametrize(("name", "layers"), [("data_efficient", [(32, 5, 5), (64, 5, 5)]), ("canonical", NATURE)])
def test_flat_encoders_are_their_convolutions_and_start_as_pytorch_does(name, layers, shape):
    torch.manual_seed(1)
    encoder = build(name, shape)
    torch.manual_seed(1)
    channels, modules = shape[0], []
    for filters, kernel, stride in layers:
        modules += [nn.Conv2d(channels, filters, kernel, stride), nn.ReLU()]
        channels = filters
    plain, obs = nn.Sequential(*modules), frames(shape)
    for ours, theirs in zip(encoder.parameters(), plain.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    expected, features = plain(obs / 255).flatten(1), encoder(obs)
    torch.testing.assert_close(features, expected, rtol=1e-4, atol=1e-5)
    cotangent = torch.randn(features.shape)
    (features * cotangent).sum().backward()
    (expected * cotangent).sum().backward()
    for ours, theirs in zip(encoder.parameters(), plain.parameters(), strict=True):
        assert ours.grad is not None
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-4, atol=1e-5 * float(theirs.grad.abs().max()))


def test_remembering_computes_each_input_once_and_returns_the_same_values():
    encoder = tiny_encoder()
    seen = watch_maps(encoder)
    one, two = frames((9, 20, 20)), frames((9, 20, 20))
    online = Remembering(encoder)
    for _ in range(3):
        maps = online.conv(one), online(one), online(two), online.conv(two)
    assert len(seen) == 2
    for memory, value in zip(maps, (encoder.conv(one), encoder(one), encoder(two), encoder.conv(two)), strict=True):
        assert torch.equal(memory, value)


def test_remembering_holds_its_inputs_whose_ids_would_else_come_back_as_others():
    encoder = tiny_encoder()
    online = Remembering(encoder)
    held = []
    for value in range(5):
        obs = torch.full((1, 9, 20, 20), value, dtype=torch.uint8)
        held.append(weakref.ref(obs))
        assert torch.equal(online(obs), encoder(obs))
    del obs
    assert all(ref() is not None for ref in held)
    del online
    gc.collect()
    assert all(ref() is None for ref in held)


def test_remembering_lets_gradients_through_the_shared_features():
    encoder, obs = tiny_encoder(), frames((9, 20, 20))
    online = Remembering(encoder)
    (online(obs).sum() + online(obs).square().sum() + online.conv(obs).sum()).backward()
    shared = [p.grad.clone() for p in encoder.parameters()]
    encoder.zero_grad()
    (encoder(obs).sum() + encoder(obs).square().sum() + encoder.conv(obs).sum()).backward()
    torch.testing.assert_close(shared, [p.grad for p in encoder.parameters()], rtol=1e-4, atol=1e-4)


def test_remembering_computes_what_is_seen_together_in_one_pass():
    encoder, inputs, other = tiny_encoder(), [frames((9, 20, 20), batch) for batch in (3, 2)], frames((9, 20, 20))
    seen = watch_maps(encoder)
    online = Remembering(encoder, together=(*inputs, inputs[0]))
    beside = Remembering(tiny_encoder(), online)
    with torch.no_grad():
        online(other), online(inputs[1])
    assert len(seen) == 2  # whoever wants no graph waits for nobody
    (online(inputs[1]).sum() + online.conv(inputs[0]).square().sum()).backward()
    assert [len(images) for images in seen] == [3, 2, 5]
    torch.testing.assert_close(online(inputs[0]), encoder(inputs[0]))
    torch.testing.assert_close(beside(inputs[1]), beside.encoder(inputs[1]))
    shared = [p.grad.clone() for p in encoder.parameters()]
    encoder.zero_grad()
    (encoder(inputs[1]).sum() + encoder.conv(inputs[0]).square().sum()).backward()
    torch.testing.assert_close(shared, [p.grad for p in encoder.parameters()], rtol=1e-4, atol=1e-4)


def test_remembering_keeps_what_no_grad_promises():
    encoder, obs = tiny_encoder(), frames((9, 20, 20))
    online = Remembering(encoder)
    with torch.no_grad():
        first = online(obs)
    with_gradient = online(obs)  # not the map that was made without a graph
    with torch.no_grad():
        later = online(obs), online.conv(obs)  # not the ones that hang in a graph
    assert with_gradient.requires_grad
    assert online.conv(obs).requires_grad
    assert not any(x.requires_grad for x in (first, *later))
    assert torch.equal(first, with_gradient)
    with torch.no_grad():
        before = Remembering(encoder)
        before.conv(obs)
    assert before(obs).requires_grad


@pytest.mark.parametrize("name", sorted(set(ENCODERS) - {"state", "impala"}))
def test_cells_look_where_their_gradients_come_from(name):
    encoder = make_encoder(encoder_config(name), (3, 64, 64))
    for layer in (layer for layer in encoder.convs if isinstance(layer, nn.Conv2d)):
        nn.init.ones_(layer.weight)
        nn.init.zeros_(layer.bias)
    images = torch.ones(1, 3, 64, 64, requires_grad=True)
    encoder.convs(images)[0, 0, 1, 0].backward()
    first, step = encoder.cells
    for axis, middle in ((0, first + step), (1, first)):
        seen = images.grad[0, 0].any(1 - axis).nonzero()
        assert (seen.min().item() + seen.max().item() + 1) / 2 == middle


def test_cells_of_padded_layers_begin_at_the_border():
    assert make_encoder(encoder_config("impala"), (3, 64, 64)).cells == (0.5, 8.0)
