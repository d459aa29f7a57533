"""The original program's numbers on real frames (tests/data/rainbow_breakout.npz).

Losses are held to 1e-5. Gradients are held to 5e-5 of the largest element of their tensor, since single elements are
sums of cancelling terms; the original's norm of them all is 0.207.
"""

import numpy as np
import pytest
import torch
from places import DATA
from tiny import gradients, parameters
from torch import Tensor

from curl_rl.agents.rainbow import DuellingHeads, Rainbow, RainbowConfig
from curl_rl.nn.augmentations import NoAugmentation
from curl_rl.nn.encoders import encoder_config, make_encoder
from curl_rl.nn.losses import bilinear_logits
from curl_rl.nn.remembering import Remembering
from curl_rl.objectives import OBJECTIVES, make_objective
from curl_rl.objectives.curl import Curl
from curl_rl.objectives.learner import Learner
from curl_rl.types import Batch, Crop, Metrics, Shapes, Views

Values = dict[str, Tensor]

LAYERS = {"value_hidden": "fc_h_v", "value": "fc_z_v", "advantage_hidden": "fc_h_a", "advantage": "fc_z_a"}
NOISY = {"weight": "weight_mu", "bias": "bias_mu", "weight_std": "weight_sigma", "bias_std": "bias_sigma"}
PROJECTION = {"0.weight": "W_h", "0.bias": "b_h", "3.weight": "W_c", "3.bias": "b_c"}
TRANSPOSED = ("W_h", "W_c")  # the original multiplies x W, a linear layer x W^T

# our trained parameter -> the original's, module by module
NAMES = {
    "encoder": {f"encoder.convs.{n}": f"convs.{n}" for n in ("0.weight", "0.bias", "2.weight", "2.bias")},
    **{
        layer: {f"heads.{layer}.{ours}": f"{theirs}.{name}" for ours, name in NOISY.items()}
        for layer, theirs in LAYERS.items()
    },
    "projection": {f"objective.head.{ours}": theirs for ours, theirs in PROJECTION.items()},
    "bilinear": {"objective.weight": "W"},
}


@pytest.fixture(scope="module")
def original() -> Values:
    with np.load(DATA / "rainbow_breakout.npz") as file:
        return {key: torch.from_numpy(file[key]) for key in file.files}


def read(original: Values, key: str) -> Tensor:
    return original[key].T if key.endswith(TRANSPOSED) else original[key]


def load_heads(heads: DuellingHeads, original: Values, prefix: str) -> None:
    """Load noisy layers and the noise in use; the original keeps the product of its two sides and the outputs' own."""
    for layer, theirs in LAYERS.items():
        state = {ours: original[f"{prefix}/{theirs}.{name}"] for ours, name in NOISY.items()}
        product, noise_out = (original[f"{prefix}/{theirs}.{name}_epsilon"] for name in ("weight", "bias"))
        state |= {"noise_out": noise_out, "noise_in": product[0] / noise_out[0]}
        torch.testing.assert_close(torch.outer(noise_out, state["noise_in"]), product)
        getattr(heads, layer).load_state_dict(state)


def make_agent(original: Values, **fields: object) -> tuple[Rainbow, Curl]:
    encoder = make_encoder(encoder_config("data_efficient"), (4, 84, 84))
    options = {
        "coefficient": float(original["curl/coefficient"]),
        "logit_scale": 0.1,
        "projection_dim": 128,
        "projection_hidden": 16,
    }
    curl = make_objective(OBJECTIVES["curl"].Config(**options), Shapes(576, encoder.conv_shape, 4))
    assert isinstance(curl, Curl)
    config = RainbowConfig(**{"hidden_dim": 16, **fields})
    cpu, still = torch.device("cpu"), NoAugmentation(NoAugmentation.Config())
    learner = Learner(encoder, curl, still, pace=config.pace, device=cpu, seed=1)
    agent = Rainbow(config, learner=learner, action_dim=4, device=cpu, seed=0)
    encoders = {"online": encoder, "target": agent.target_network["encoder"], "momentum": learner.target_encoder}
    for prefix, module in encoders.items():
        module.load_state_dict({name: original[f"{prefix}/{name}"] for name in encoder.state_dict()})
    load_heads(agent.heads, original, "online")
    load_heads(agent.target_heads, original, "target")
    for prefix, head in (("online", curl.head), ("momentum", curl.target_head)):
        head.load_state_dict({ours: read(original, f"{prefix}/{theirs}") for ours, theirs in PROJECTION.items()})
    curl.weight.data.copy_(original["online/W"])
    return agent, curl


@pytest.fixture(scope="module")
def batch(original: Values) -> Batch:
    return Batch(
        obs=original["batch/states"],
        action=original["batch/actions"],
        reward=original["batch/returns"],
        discount=original["batch/nonterminal"][:, 0] * float(original["discount"]) ** int(original["n_step"]),
        next_obs=original["batch/next_states"],
        weight=original["batch/weights"],
        index=torch.arange(8),
        episode=torch.arange(8),
    )


def descend(agent: Rainbow, original: Values, batch: Batch) -> Metrics:
    """Step on the original's views and leave the gradients where they are."""
    offsets = torch.zeros((8, 2), dtype=torch.int64)
    views = Views(Crop(original["batch/view_1"], offsets), Crop(original["batch/view_2"], offsets))
    return agent._descend(batch, (batch.obs,), (batch.next_obs,), views)


def test_settings_and_trainable_values_are_the_originals(original):
    config = RainbowConfig()
    assert (config.atoms, config.v_min, config.v_max) == (51, int(original["v_min"]), int(original["v_max"]))
    assert config.discount == float(original["discount"])
    agent, _ = make_agent(original)
    trained = {name: p.shape for name, p in parameters(agent).items() if p.requires_grad}
    expected = {
        ours: read(original, f"grad/{theirs}").shape for names in NAMES.values() for ours, theirs in names.items()
    }
    assert trained == expected
    assert {f"grad/{theirs}" for names in NAMES.values() for theirs in names.values()} == {
        key for key in original if key.startswith("grad/")
    }


def test_log_probabilities(original, batch):
    agent, _ = make_agent(original)
    with torch.no_grad():
        log_probs = agent.heads(agent.learner.encoder(batch.obs)).log_softmax(-1)
    torch.testing.assert_close(log_probs, original["log_probs"], rtol=1e-5, atol=1e-6)


def test_contrastive_latents_logits_and_loss(original, batch):
    agent, curl = make_agent(original)
    with torch.no_grad():
        anchor = curl.head(agent.learner.encoder(original["batch/view_1"]))
        positive = curl.target_head(agent.learner.target_encoder(original["batch/view_2"]))
        logits = curl.logit_scale * bilinear_logits(anchor, positive, curl.weight)
    torch.testing.assert_close(anchor, original["curl/anchor"], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(positive, original["curl/positive"], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(logits, original["curl/logits"], rtol=1e-4, atol=1e-5)
    loss = descend(agent, original, batch)["objective_loss"]
    torch.testing.assert_close(loss, original["curl/loss"], rtol=1e-5, atol=0)


@pytest.mark.parametrize("priority", ["total", "value"])
def test_each_samples_loss_is_its_priority(original, batch, priority):
    agent, _ = make_agent(original, priority=priority)
    expected = original["per_sample_loss"]
    if priority == "value":
        expected = expected - original["curl/coefficient"] * original["curl/loss"]
    priorities = descend(agent, original, batch)["priorities"]
    torch.testing.assert_close(priorities, expected, rtol=1e-5, atol=0)


def test_projected_targets_by_the_value_losses_alone(original, batch):
    agent, _ = make_agent(original)
    target = agent._target(batch, batch.next_obs, Remembering(agent.learner.encoder), agent.heads).double()
    chosen = original["log_probs"][torch.arange(8), batch.action].double()
    expected = original["per_sample_loss"] - original["curl/coefficient"] * original["curl/loss"]
    torch.testing.assert_close(-(target * chosen).sum(1).float(), expected, rtol=1e-5, atol=0)


@pytest.fixture(scope="module", params=[10.0, 0.05], ids=["unclipped", "clipped"])
def found(request: pytest.FixtureRequest, original: Values, batch: Batch) -> tuple[float, Metrics, Values]:
    """Return the norm to which gradients are clipped, the metrics, and the gradients after one step."""
    agent, _ = make_agent(original, max_grad_norm=request.param)
    return request.param, descend(agent, original, batch), gradients(agent)


def norm(values: Values) -> float:
    return float(torch.stack([value.double().norm() for value in values.values()]).norm())


@pytest.mark.parametrize("module", NAMES)
def test_gradients(original, found, module):
    max_norm, _, grads = found
    whole = norm({key: value for key, value in original.items() if key.startswith("grad/")})
    factor = min(1.0, max_norm / whole)
    for ours, theirs in NAMES[module].items():
        expected = factor * read(original, f"grad/{theirs}")
        scale = float(expected.abs().max())
        assert scale > 0
        torch.testing.assert_close(grads[ours], expected, rtol=5e-5, atol=5e-5 * scale, msg=lambda m, n=ours: n + m)


def test_gradient_norms_are_reported_before_clipping(original, found):
    max_norm, metrics, grads = found
    whole = {key: value for key, value in original.items() if key.startswith("grad/")}
    convs = {key: value for key, value in whole.items() if "convs" in key}
    assert float(metrics["grad_norm"]) == pytest.approx(norm(whole), rel=1e-4)
    assert float(metrics["encoder_grad_norm"]) == pytest.approx(norm(convs), rel=1e-4)
    assert norm(grads) == pytest.approx(min(max_norm, norm(whole)), rel=1e-4)
