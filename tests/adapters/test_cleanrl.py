"""The network of a one-file agent: floats in [0, 1] are the uint8 frames that they were, and frozen is frozen."""

import subprocess
import sys

import pytest
import torch
from encoders import fingerprint, frames, normalised, save_small
from torch import nn

from curl_rl.adapters.cleanrl import CurlFeatures
from curl_rl.nn.encoders import encoder_config, make_encoder
from curl_rl.representation.export import ExportedEncoder, load_encoder


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16], ids=str)
def test_divided_images_are_the_frames_that_they_were(dtype, folder):
    obs = torch.arange(256, dtype=torch.uint8).repeat(24).reshape(1, 6, 32, 32)  # every brightness there is
    network, expected = CurlFeatures(folder), load_encoder(folder)(obs)
    assert torch.equal(network((obs / 255.0).to(dtype)), expected)
    assert torch.equal(network(obs.to(dtype) / 255), expected)
    assert torch.equal(network(obs), expected)
    assert network.feature_dim == expected.shape[1] == 6


@pytest.mark.parametrize(
    "images",
    [
        frames(2).float(),
        frames(2).float() / 255 - 0.5,
        torch.full((1, 6, 32, 32), 0.5),  # between two levels
        torch.full((1, 6, 32, 32), 256 / 255),
        torch.full((1, 6, 32, 32), torch.nan),
        torch.full((1, 6, 32, 32), torch.inf),
        (frames(2) / 255.0).bfloat16(),
    ],
    ids=["undivided", "centred", "between", "above", "nan", "inf", "bfloat16"],
)
def test_images_that_were_scaled_otherwise_are_refused(images, folder):
    with pytest.raises(ValueError, match="are not uint8 frames divided by 255: give those, or the uint8 frames"):
        CurlFeatures(folder)(images)


def test_images_of_another_shape_are_refused(folder):
    with pytest.raises(ValueError, match=r"trained on observations of shape \(6, 32, 32\), got \(3, 32, 32\)"):
        CurlFeatures(folder)(torch.zeros(2, 3, 32, 32))


def test_states_are_floats_as_they_are():
    encoder, states = ExportedEncoder(make_encoder(encoder_config("state"), (5,)), (5,)), torch.randn(3, 5)
    assert torch.equal(CurlFeatures(encoder)(states), encoder(states))


class Agent(nn.Module):
    """As CleanRL writes one."""

    def __init__(self, encoder, **options):
        super().__init__()
        self.network = CurlFeatures(encoder, **options)
        self.actor = nn.Linear(self.network.feature_dim, 3)

    def forward(self, x):
        return self.actor(self.network(x / 255.0))


@pytest.mark.parametrize("freeze", [True, False])
def test_an_agent_trains_the_encoder_unless_it_is_frozen(freeze):
    given = normalised()
    agent = Agent(given, freeze=freeze)
    before, first, obs = fingerprint(given), fingerprint(agent.network), frames(8)
    optimizer = torch.optim.AdamW(agent.parameters(), lr=0.1, weight_decay=0.1)
    for _ in range(3):
        agent.eval()
        agent.train()
        optimizer.zero_grad()
        agent(obs).square().mean().backward()
        optimizer.step()
    assert (fingerprint(agent.network) == first) == freeze
    assert fingerprint(given) == before
    assert any(part.training for part in agent.network.encoder.modules()) != freeze
    assert agent.training
    if freeze:
        assert torch.equal(agent.network(obs), given.eval()(obs))


def test_a_saved_agent_comes_back(folder, tmp_path):
    agent, obs = Agent(folder), frames(2)
    torch.save(agent.state_dict(), tmp_path / "agent.pt")
    torch.manual_seed(9)
    again = Agent(save_small(tmp_path / "other"))
    again.load_state_dict(torch.load(tmp_path / "agent.pt", weights_only=True))
    assert torch.equal(again(obs), agent(obs))


def test_it_loads_no_simulator():
    heavy = {"gymnasium", "mujoco", "dm_control", "ale_py", "hydra"}
    code = f"import sys, curl_rl.adapters.cleanrl; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
