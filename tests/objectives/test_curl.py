"""The control without a loss, and CURL against its formula written out."""

import math
from typing import Any

import pytest
import torch
from tiny import tiny_batch, tiny_encoder
from torch import Tensor, nn

from curl_rl.config.overrides import compose
from curl_rl.nn.encoders import Encoder
from curl_rl.objectives import OBJECTIVES, make_objective
from curl_rl.objectives.curl import Curl
from curl_rl.options import check
from curl_rl.types import Batch, ConfigError, Crop, Shapes, Views

SHAPES = Shapes(feature_dim=8, conv=(4, 7, 7), action_dim=2)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture
def inputs() -> tuple[Batch, Views, Encoder, Encoder]:
    batch = tiny_batch(obs_shape=(9, 20, 20))
    offsets = torch.zeros((len(batch.obs), 2), dtype=torch.int64)
    views = Views(Crop(batch.obs, offsets), Crop(batch.next_obs, offsets))
    return batch, views, tiny_encoder(), tiny_encoder()


def test_none_is_a_zero_without_parameters(inputs):
    objective = make_objective(OBJECTIVES["none"].Config(), SHAPES)
    loss, metrics = objective(*inputs)
    assert float(loss) == 0.0
    assert metrics == {}
    assert objective.coefficient == 0
    assert list(objective.parameters()) == []
    assert inputs[2].convs[0].weight.grad is None


def test_curl_is_the_formula_written_out(inputs):
    batch, views, online, target = inputs
    curl = make_objective(OBJECTIVES["curl"].Config(), SHAPES)
    loss, metrics = curl(batch, views, online, target)
    with torch.no_grad():
        query, key = online(views.query.images).double(), target(views.key.images).double()
        logits = query @ curl.weight.double() @ key.T
        log_share = logits - logits.logsumexp(1, keepdim=True)
    assert float(loss.detach()) == pytest.approx(float(-log_share.diagonal().mean()), rel=1e-5)
    assert float(metrics["accuracy"]) == float((logits.argmax(1) == torch.arange(len(logits))).float().mean())


def projected(options: dict[str, Any] | None = None) -> Curl:
    """Build CURL with a projection whose target differs from it and whose biases are not zero."""
    fields = {"projection_dim": 5, "projection_hidden": 7, **(options or {})}
    curl = make_objective(OBJECTIVES["curl"].Config(**fields), SHAPES)
    assert isinstance(curl, Curl)
    for p in (*curl.head.parameters(), *curl.target_head.parameters()):
        nn.init.normal_(p)
    return curl


def project(head: nn.Module, features: Tensor) -> Tensor:
    """Write the projection out: two linear layers, each output normalised over its units, a ReLU between."""
    (w1, b1, w2, b2), x = (p.detach().double() for p in head.parameters()), features
    for weight, bias in ((w1, b1), (w2, b2)):
        x = x @ weight.T + bias
        x = (x - x.mean(1, keepdim=True)) / (x.var(1, correction=0, keepdim=True) + 1e-5).sqrt()
        x = x if weight is w2 else x.clamp_min(0)
    return x


@pytest.mark.parametrize("scale", [None, 0.1])
def test_curl_with_a_projection_is_the_formula_written_out(inputs, scale):
    batch, views, online, target = inputs
    curl = projected({"logit_scale": scale})
    loss, metrics = curl(batch, views, online, target)
    with torch.no_grad():
        query = project(curl.head, online(views.query.images).double())
        key = project(curl.target_head, target(views.key.images).double())
        logits = (scale or 1.0) * (query @ curl.weight.double() @ key.T)
    expected = (logits.logsumexp(1) - logits.diagonal()).mean()
    assert float(loss.detach()) == pytest.approx(float(expected), rel=1e-4)
    assert float(metrics["accuracy"]) == float((logits.argmax(1) == torch.arange(len(logits))).float().mean())


def test_curls_options_left_open_are_weight_one_scale_one_and_no_projection(inputs):
    curl = make_objective(OBJECTIVES["curl"].Config(), SHAPES)
    fields = {"coefficient": 1.0, "logit_scale": 1.0, "projection_dim": 0}
    same = make_objective(OBJECTIVES["curl"].Config(**fields), SHAPES)
    assert curl.coefficient == same.coefficient == 1.0
    assert [name for name, _ in curl.named_parameters()] == ["weight"]
    same.load_state_dict(curl.state_dict())
    assert torch.equal(curl(*inputs)[0], same(*inputs)[0])
    curl.after_step()


def test_the_keys_projection_follows_by_its_tau_and_takes_no_gradient(inputs):
    curl = projected({"projection_tau": 0.3})
    before = [p.clone() for p in curl.target_head.parameters()]
    curl(*inputs)[0].backward()
    assert all(p.grad is not None and p.grad.any() for p in curl.head.parameters())
    assert all(p.grad is None and not p.requires_grad for p in curl.target_head.parameters())
    assert all(torch.equal(a, b) for a, b in zip(before, curl.target_head.parameters(), strict=True))
    curl.after_step()
    for old, new, online in zip(before, curl.target_head.parameters(), curl.head.parameters(), strict=True):
        torch.testing.assert_close(new, 0.7 * old + 0.3 * online.detach())


def test_a_projection_starts_uniform_with_zero_bias_and_its_target_as_a_copy():
    fields = {"projection_dim": 50, "projection_hidden": 40}
    curl = make_objective(OBJECTIVES["curl"].Config(**fields), SHAPES)
    assert isinstance(curl, Curl)
    assert curl.weight.shape == (50, 50)
    shapes = {name: tuple(p.shape) for name, p in curl.head.named_parameters()}
    assert shapes == {"0.weight": (40, 8), "0.bias": (40,), "3.weight": (50, 40), "3.bias": (50,)}
    for name, p in curl.head.named_parameters():
        assert torch.equal(p, curl.target_head.get_parameter(name))
        if name.endswith("bias"):
            assert not p.any()
        else:
            assert 0 <= float(p.detach().min()) < 0.05
            assert 0.95 < float(p.detach().max()) < 1


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"logit_scale": 0.0}, "objective.logit_scale must be above 0 and at most 1000000.0, got 0.0"),
        ({"logit_scale": math.nan}, "objective.logit_scale must be above 0 and at most 1000000.0, got nan"),
        ({"projection_dim": -1}, "projection_dim must be at least 0 and at most 65536, got -1"),
        ({"projection_hidden": 0}, "projection_hidden must be at least 1 and at most 65536, got 0"),
        ({"projection_tau": 0.0}, r"objective.projection_tau must be above 0 and at most 1, got 0.0"),
        ({"projection_tau": 1.5}, r"objective.projection_tau must be above 0 and at most 1, got 1.5"),
    ],
    ids=str,
)
def test_curls_options_that_cannot_be_honoured_are_refused(fields, message):
    with pytest.raises(ConfigError, match=message):
        check(OBJECTIVES["curl"].Config(**fields), "objective.")


def test_curl_cannot_tell_crops_apart_that_look_alike(inputs):
    batch, views, online, target = inputs
    alike = views.query._replace(images=batch.obs[:1].expand_as(batch.obs))
    curl = make_objective(OBJECTIVES["curl"].Config(), SHAPES)
    loss, _ = curl(batch, Views(alike, alike), online, target)
    assert float(loss.detach()) == pytest.approx(math.log(len(batch.obs)), rel=1e-4)


def test_curl_ignores_the_order_of_the_batch(inputs):
    batch, views, online, target = inputs
    curl = make_objective(OBJECTIVES["curl"].Config(), SHAPES)
    order = torch.randperm(len(batch.obs))
    turned = Views(*(Crop(images[order], offsets[order]) for images, offsets in views))
    loss, _ = curl(batch, views, online, target)
    torch.testing.assert_close(curl(batch, turned, online, target)[0], loss, rtol=1e-4, atol=1e-5)


def test_curl_trains_the_query_side_only(inputs):
    batch, views, online, target = inputs
    curl = make_objective(OBJECTIVES["curl"].Config(), SHAPES)
    curl(batch, views, online, target)[0].backward()
    assert curl.weight.grad.any()
    assert all(p.grad is not None for p in online.parameters())
    assert all(p.grad is None for p in target.parameters())  # though they could take one here


def test_curl_starts_from_the_similarity_or_uniformly_as_the_original():
    shapes = SHAPES._replace(feature_dim=50)
    curl = OBJECTIVES["curl"]
    assert torch.equal(make_objective(curl.Config(), shapes).weight, torch.eye(50) / 50**0.5)
    weight = make_objective(curl.Config(initial_weight="uniform"), shapes).weight.detach()
    assert weight.shape == (50, 50)
    assert 0 <= float(weight.min()) < 0.05
    assert 0.95 < float(weight.max()) < 1
    with pytest.raises(ConfigError, match=r"objective.initial_weight='zero' is none of identity, uniform"):
        check(curl.Config(initial_weight="zero"), "objective.")


@pytest.mark.parametrize(("task", "start"), [("dmc/cheetah_run", "identity"), ("atari/pong", "uniform")])
def test_each_suite_has_its_start(task, start):
    assert compose([f"task={task}"]).objective.initial_weight == start
