"""Any network as an encoder: what it gives, what it leaves as it was, and what is refused with which words."""

import copy

import pytest
import torch
from torch import nn

from curl_rl.nn.networks import frozen_copy, move_average
from curl_rl.nn.remembering import Remembering
from curl_rl.representation.tap import Tap, evaluating
from curl_rl.types import ConfigError


class Policy(nn.Module):
    """A network of some user's: batch-normalised, with heads that nobody asked about."""

    def __init__(self):
        super().__init__()
        self.trunk = nn.Sequential(
            nn.Conv2d(3, 4, 3, stride=2), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 49, 10), nn.ReLU()
        )
        self.policy, self.value = nn.Sequential(nn.Linear(10, 6), nn.BatchNorm1d(6)), nn.Linear(10, 1)
        self.unused = nn.Linear(3, 3)
        self.calls = 0

    def forward(self, x):
        hidden = self.trunk(x)
        self.calls += 1
        return self.policy(hidden), self.value(hidden)


def words(value) -> str:
    """Name a case by its words alone: what a lambda is called differs from process to process."""
    return value if isinstance(value, str) else ""


@pytest.fixture
def net() -> Policy:
    torch.manual_seed(0)
    return Policy()


def images(count: int = 4, shape=(3, 16, 16)):
    return torch.randint(256, (count, *shape), dtype=torch.uint8)


@pytest.mark.parametrize(("layer", "depth", "map_shape"), [("trunk.2", 3, (4, 7, 7)), ("trunk.4", 5, (10,))])
def test_a_layer_gives_what_the_network_computes_up_to_it(net, layer, depth, map_shape):
    tap, obs = Tap(net, layer=layer).see((3, 16, 16)), images()
    assert (tap.obs_shape, tap.conv_shape, tap.feature_dim) == (
        (3, 16, 16),
        map_shape,
        map_shape[0] * 49 ** (depth < 5),
    )
    expected = copy.deepcopy(net).trunk[:depth](obs / 255)
    torch.testing.assert_close(tap.conv(obs), expected)
    net.trunk[1].reset_running_stats()
    torch.testing.assert_close(tap(obs), expected.flatten(1))
    assert net.calls == 0  # stopped before
    assert not net.trunk.get_submodule(layer.removeprefix("trunk."))._forward_hooks


def test_layers_by_number_are_children_as_in_byol_pytorch(net):
    assert Tap(net, layer=-4).layer == "trunk"
    assert Tap(net.trunk, layer=-2).layer == "4"
    assert Tap(net.trunk, layer=-2).see((3, 16, 16)).feature_dim == 10
    assert Tap(net.trunk).see((3, 16, 16)).feature_dim == 10


def test_looking_changes_nothing(net):
    net.trunk[1].eval()
    before, modes = copy.deepcopy(net.state_dict()), [part.training for part in net.modules()]
    random = torch.get_rng_state()
    Tap(net, layer="trunk.4").see((3, 16, 16))
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
    assert [part.training for part in net.modules()] == modes
    assert torch.equal(torch.get_rng_state(), random)
    assert [part.training for part in net.modules()].count(False) == 1
    with evaluating(net):
        assert not any(part.training for part in net.modules())


def test_frames_are_prepared_as_told(net):
    tap = Tap(net, layer="trunk.4", prepare=lambda obs: obs.float()[:, :3] - 100).see((4, 16, 16))
    obs = images(shape=(4, 16, 16))
    net.eval()
    torch.testing.assert_close(tap(obs), net.trunk[:5](obs[:, :3].float() - 100))


def test_gradients_reach_what_comes_before_the_layer_alone(net):
    tap = Tap(net, layer="trunk.4").see((3, 16, 16))
    tap(images()).square().sum().backward()
    reached = {name for name, parameter in net.named_parameters() if parameter.grad is not None}
    assert reached == {f"trunk.{i}.{kind}" for i in (0, 1, 4) for kind in ("weight", "bias")}


def test_its_moving_average_has_statistics_of_its_own(net):
    tap = Tap(net, layer="trunk.4").see((3, 16, 16))
    target = frozen_copy(tap)
    tap(images())
    tap(images())
    norm, averaged = net.trunk[1], target.net.trunk[1]
    before = averaged.running_mean.clone()
    move_average(target, tap, 0.25)
    torch.testing.assert_close(averaged.running_mean, 0.75 * before + 0.25 * norm.running_mean)
    torch.testing.assert_close(averaged.running_var, 0.75 + 0.25 * norm.running_var)
    assert averaged.num_batches_tracked == norm.num_batches_tracked == 2


def test_it_is_remembered_like_any_encoder(net):
    tap, obs = Tap(net, layer="trunk.2").see((3, 16, 16)), images()
    seen = Remembering(tap)
    assert torch.equal(seen(obs), seen.conv(obs).flatten(1))
    assert net.trunk[1].num_batches_tracked == 1


def test_bf16_runs_the_network_and_leaves_floats(net):
    tap, obs = Tap(net.eval(), layer="trunk.4").see((3, 16, 16)), images()
    tap.bf16 = True
    exact = Tap(net, layer="trunk.4").see((3, 16, 16))(obs)
    assert tap(obs).dtype == torch.float32
    assert not torch.equal(tap(obs), exact)
    torch.testing.assert_close(tap(obs), exact, atol=0.03, rtol=0.03)


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn, self.ids = nn.LSTM(4, 4), nn.Identity()

    def forward(self, x):
        return self.rnn(self.ids(x.flatten(1)[:, :4].long()).float())


@pytest.mark.parametrize(
    ("make", "shape", "message"),
    [
        (
            lambda: Tap(Policy(), layer="trunk.44"),
            (3, 16, 16),
            r"Policy has no layer 'trunk.44'; there are, .*trunk\.4",
        ),
        (lambda: Tap(Policy(), layer="qqq"), (3, 16, 16), r"has no layer 'qqq'; there are, among others, trunk"),
        (
            lambda: Tap(Policy(), layer=4),
            (3, 16, 16),
            r"Policy has 4 children, no number 4: trunk, policy, value, unused",
        ),
        (lambda: Tap(Policy(), layer="unused"), (3, 16, 16), "layer 'unused' of Policy is not run by its forward pass"),
        (lambda: Tap(Policy()), (3, 16, 16), "Policy gives tuple: tap one that gives a tensor of floats"),
        (
            lambda: Tap(Policy(), layer="trunk.4"),
            (1, 16, 16),
            r"Policy cannot take images \(1, 16, 16\) \(.*\): give frames",
        ),
        (lambda: Tap(Policy(), layer="trunk.4"), (3, 15, 20), r"Policy cannot take images \(3, 15, 20\)"),
        (lambda: Tap(Recurrent(), layer="rnn"), (3, 16, 16), "layer 'rnn' of Recurrent gives tuple: tap one"),
        (lambda: Tap(Recurrent(), layer="ids"), (3, 16, 16), "layer 'ids' of Recurrent gives torch.int64: tap one"),
        (lambda: Tap(nn.Flatten(0)), (3, 4, 4), r"Flatten gives \(96,\) for 2 images: tap one with a row each"),
    ],
    ids=words,
)
def test_networks_that_cannot_be_tapped(make, shape, message):
    with pytest.raises(ConfigError, match=message):
        make().see(shape)
