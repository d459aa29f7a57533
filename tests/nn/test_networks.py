"""Initialisation, noisy layers, moving averages and gradient norms."""

import copy
import math

import pytest
import torch
from torch import Tensor, nn

from curl_rl.nn.networks import NoisyLinear, grad_norm, initialise, mlp, move_average


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


def test_mlp_with_layers_normalised_is_the_formula_and_starts_from_the_same_weights():
    torch.manual_seed(1)
    plain = mlp(5, 7, 3)
    torch.manual_seed(1)
    net = mlp(5, 7, 3, norm="layer").double()
    linear = [layer for layer in net if isinstance(layer, nn.Linear)]
    norms = [layer for layer in net if isinstance(layer, nn.LayerNorm)]
    assert len(norms) == 2
    for layer, other in zip(linear, (plain[0], plain[2], plain[4]), strict=True):
        assert torch.equal(layer.weight.float(), other.weight)
    for p in (p for norm in norms for p in norm.parameters()):
        nn.init.normal_(p)
    x = hidden = torch.randn(4, 5, dtype=torch.float64)
    for layer, norm in zip(linear, norms, strict=False):
        units = layer(hidden)
        centred = units - units.mean(1, keepdim=True)
        deviation = (centred.square().mean(1, keepdim=True) + 1e-5).sqrt()
        hidden = (centred / deviation * norm.weight + norm.bias).clamp_min(0)
    torch.testing.assert_close(net(x), linear[2](hidden))
    with torch.no_grad():  # what a layer's scale and common part are, the next does not see
        before = net(x)
        linear[0].weight *= 100
        linear[0].bias.mul_(100).add_(3)
    torch.testing.assert_close(net(x), before, rtol=1e-3, atol=1e-4)


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
    initialise(layer, "delta")
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


def test_the_default_initialisation_is_left_as_it_is():
    net = nn.Sequential(nn.Conv2d(3, 6, 3), nn.Flatten(), nn.Linear(6, 2))
    before = copy.deepcopy(net.state_dict())
    initialise(net, "default")
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def noise_of(layer: NoisyLinear) -> tuple[Tensor, Tensor]:
    """Return the noise in a layer's weights and biases, read off its outputs in float64."""
    layer = copy.deepcopy(layer).double()
    with torch.no_grad():
        zero, one = torch.zeros(1, layer.weight.shape[1]).double(), torch.eye(layer.weight.shape[1]).double()
        bias = layer(zero, noisy=True)[0]
        weight = (layer(one, noisy=True) - bias).T
        return (weight - layer.weight) / layer.weight_std, (bias - layer.bias) / layer.bias_std


def test_noisy_layers_start_as_published():
    layer = NoisyLinear(100, 400, 0.1)
    for mean in (layer.weight.detach(), layer.bias.detach()):  # U[-1/sqrt(p), 1/sqrt(p)] for p inputs
        assert -0.1 <= float(mean.min()) < -0.095
        assert 0.095 < float(mean.max()) <= 0.1
        assert float(mean.std()) == pytest.approx(0.1 / math.sqrt(3), rel=0.1)
    torch.testing.assert_close(layer.weight_std.detach(), torch.full((400, 100), 0.1 / 10))
    torch.testing.assert_close(layer.bias_std.detach(), torch.full((400,), 0.1 / 20))  # by the outputs
    assert all(p.requires_grad for p in layer.parameters())


def test_noise_is_the_signed_root_of_a_gaussian():
    layer, generator = NoisyLinear(30, 20, 0.5), torch.Generator().manual_seed(0)
    inputs, outputs = [], []
    for _ in range(2000):
        layer.draw(generator)
        inputs.append(layer.noise_in.clone())
        outputs.append(layer.noise_out.clone())
    noise = torch.cat([torch.stack(inputs), torch.stack(outputs)], 1).double()
    for side in (noise[:, :30], noise[:, 30:]):
        assert float(side.mean()) == pytest.approx(0, abs=0.015)
        assert float(side.square().mean()) == pytest.approx(math.sqrt(2 / math.pi), abs=0.015)  # E|e|
        assert float(side.pow(4).mean()) == pytest.approx(1, abs=0.03)  # E[e^2]
    correlation = torch.corrcoef(noise.T) - torch.eye(50)
    assert float(correlation.abs().max()) < 0.12  # over five standard errors, between and within both sides


def test_the_noise_of_weights_is_the_product_of_outputs_and_inputs():
    layer, generator = NoisyLinear(6, 5, 0.5), torch.Generator().manual_seed(0)
    layer.draw(generator)
    weight, bias = noise_of(layer)
    assert torch.linalg.matrix_rank(weight, rtol=1e-6) == 1
    torch.testing.assert_close(bias.float(), layer.noise_out)
    torch.testing.assert_close(weight.float(), layer.noise_out[:, None] * layer.noise_in)


def test_noise_is_new_at_each_draw_and_stays_in_between():
    layer, generator = NoisyLinear(6, 5, 0.5), torch.Generator().manual_seed(0)
    x = torch.randn(3, 6)
    seen = []
    for _ in range(4):
        layer.draw(generator)
        first = layer(x, noisy=True)
        layer(x, noisy=False)
        assert torch.equal(layer(x, noisy=True), first)
        seen.append(torch.cat([layer.noise_in, layer.noise_out]))
    drawn = torch.stack(seen)
    assert len(drawn.unique()) == drawn.numel()
    generator.manual_seed(0)
    layer.draw(generator)
    assert torch.equal(layer.noise_in, drawn[0, :6])  # nothing else decides it


def test_without_noise_a_layer_is_its_mean_exactly():
    layer, x = NoisyLinear(6, 5, 0.5), torch.randn(3, 6)
    layer.draw(torch.Generator().manual_seed(0))
    expected = nn.functional.linear(x, layer.weight, layer.bias)
    assert torch.equal(layer(x, noisy=False), expected)
    assert not torch.equal(layer(x, noisy=True), expected)


def test_a_layer_formed_under_its_noise_gives_the_same_values_and_gradients():
    layer, x = NoisyLinear(6, 5, 0.5).double(), torch.randn(3, 6, dtype=torch.float64, requires_grad=True)
    layer.draw(torch.Generator().manual_seed(0))
    weights, inputs = torch.randn(3, 5, dtype=torch.float64), [x, *layer.parameters()]
    formed, expected = layer.formed()(x), layer(x, noisy=True)
    torch.testing.assert_close(formed, expected)
    grads = (torch.autograd.grad((values * weights).sum(), inputs) for values in (formed, expected))
    torch.testing.assert_close(*grads)


def test_the_noise_is_part_of_the_state():
    layer, other, x = NoisyLinear(6, 5, 0.5), NoisyLinear(6, 5, 0.5), torch.randn(3, 6)
    layer.draw(torch.Generator().manual_seed(0))
    other.load_state_dict(copy.deepcopy(layer.state_dict()))
    assert torch.equal(other(x, noisy=True), layer(x, noisy=True))


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
