"""Initialisation, moving averages and gradient norms."""

import copy

import pytest
import torch
from torch import nn

from curl_rl.networks import grad_norm, initialise, mlp, move_average


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def test_mlp_has_two_hidden_layers_and_no_output_activation():
    net = mlp(5, 7, 3)
    widths = [(layer.in_features, layer.out_features) for layer in net if isinstance(layer, nn.Linear)]
    assert widths == [(5, 7), (7, 7), (7, 3)]
    x = torch.randn(4, 5)
    hidden = (net[2](net[0](x).clamp_min(0))).clamp_min(0)
    torch.testing.assert_close(net(x), net[4](hidden))


@pytest.mark.parametrize(("inputs", "outputs"), [(8, 5), (5, 8)])
def test_linear_layers_start_orthogonal_with_zero_bias(inputs, outputs):
    layer = nn.Linear(inputs, outputs)
    initialise(layer)
    weight = layer.weight.detach()
    product = weight @ weight.T if outputs < inputs else weight.T @ weight
    torch.testing.assert_close(product, torch.eye(min(inputs, outputs)), atol=1e-5, rtol=0)
    assert not layer.bias.any()


@pytest.mark.parametrize("channels", [3, 6, 12])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_delta_initialisation_is_an_orthogonal_centre_with_relu_gain(channels, memory_format):
    layer = nn.Conv2d(channels, 6, 3).to(memory_format=memory_format)
    initialise(layer, delta=True)
    weight = layer.weight.detach().clone()
    centre = weight[:, :, 1, 1].clone()
    product = centre @ centre.T if channels > 6 else centre.T @ centre
    torch.testing.assert_close(product, 2 * torch.eye(min(channels, 6)), atol=1e-5, rtol=0)
    weight[:, :, 1, 1] = 0
    assert not weight.any()
    assert not layer.bias.any()


def test_other_convolutions_start_orthogonal_over_the_whole_kernel():
    layer = nn.Conv2d(3, 6, 4, bias=False)
    initialise(layer)
    rows = layer.weight.detach().flatten(1)
    torch.testing.assert_close(rows @ rows.T, 2 * torch.eye(6), atol=1e-5, rtol=0)


@pytest.mark.parametrize("tau", [0.0, 0.05, 1.0])
def test_tau_weighs_the_new_parameters(tau):
    online, target = mlp(3, 4, 2), mlp(3, 4, 2)
    before = copy.deepcopy(target)
    kept = copy.deepcopy(online)
    move_average(target, online, tau)
    for new, old, fresh in zip(target.parameters(), before.parameters(), online.parameters(), strict=True):
        torch.testing.assert_close(new, (1 - tau) * old + tau * fresh, rtol=1e-6, atol=1e-7)
    for now, then in zip(online.parameters(), kept.parameters(), strict=True):
        assert torch.equal(now, then)


@pytest.mark.parametrize("requires_grad", [False, True])
def test_a_moving_average_stays_out_of_the_graph(requires_grad):
    online, target = mlp(3, 4, 2), mlp(3, 4, 2).requires_grad_(requires_grad)
    move_average(target, online, 0.1)
    for parameter in target.parameters():
        assert parameter.is_leaf
        assert parameter.grad_fn is None
        assert parameter.requires_grad == requires_grad


def test_grad_norm_is_the_norm_of_all_gradients_together():
    three, four, without = (nn.Parameter(torch.zeros(2)) for _ in range(3))
    three.grad, four.grad = torch.tensor([3.0, 0.0]), torch.tensor([0.0, 4.0])
    assert float(grad_norm([three, without, four])) == pytest.approx(5.0)
    assert float(grad_norm([without])) == 0.0


def test_grad_norm_stays_on_the_parameters_device():
    assert grad_norm([nn.Parameter(torch.zeros(2, device="meta"))]).device.type == "meta"
