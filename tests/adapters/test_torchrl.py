"""The encoder as a tensordict module: any batch, TorchRL's keys, and frozen where it is told so."""

import copy
import subprocess
import sys

import pytest
import torch
from encoders import fingerprint, frames, normalised
from tensordict import TensorDict
from tensordict.nn import TensorDictModule, TensorDictSequential
from torch import nn

from curl_rl.adapters.torchrl import CurlFeatures
from curl_rl.nn.encoders import encoder_config, make_encoder
from curl_rl.representation.export import ExportedEncoder, load_encoder


@pytest.mark.parametrize("batch", [(), (1,), (5,), (2, 3), (2, 1, 4)], ids=str)
def test_a_batch_may_have_any_dimensions(batch, folder):
    obs = frames(*batch)
    found = CurlFeatures(folder)(TensorDict({"pixels": obs}, batch))
    assert found["features"].shape == (*batch, 6)
    assert found["features"].dtype == torch.float32
    assert torch.equal(found["features"].reshape(-1, 6), load_encoder(folder)(obs.reshape(-1, 6, 32, 32)))
    assert torch.equal(found["pixels"], obs)


def test_keys_are_its_own_and_may_be_nested(folder):
    module = CurlFeatures(folder, in_key=("next", "pixels"), out_key=("next", "embed"))
    assert (module.in_keys, module.out_keys) == ([("next", "pixels")], [("next", "embed")])
    found = module(TensorDict({"next": {"pixels": frames(2)}}, [2]))
    assert found["next", "embed"].shape == (2, 6)
    assert CurlFeatures(folder).in_keys == ["pixels"]
    assert CurlFeatures(folder).out_keys == ["features"]


def test_it_is_called_by_keyword_and_stands_in_a_sequence(folder):
    module, obs = CurlFeatures(folder), frames(3)
    assert module.feature_dim == 6
    assert torch.equal(module(pixels=obs), load_encoder(folder)(obs))
    policy = TensorDictSequential(module, TensorDictModule(nn.Linear(6, 2), ["features"], ["action"]))
    assert policy(TensorDict({"pixels": obs}, [3]))["action"].shape == (3, 2)


def test_images_that_are_cut_already_and_states_are_taken(folder):
    obs = frames(2, 2)
    assert torch.equal(CurlFeatures(folder)(pixels=obs[..., 2:-2, 2:-2]), CurlFeatures(folder)(pixels=obs))
    states = torch.randn(2, 3, 5)
    encoder = ExportedEncoder(make_encoder(encoder_config("state"), (5,)), (5,))
    found = CurlFeatures(encoder, in_key="observation")(observation=states)
    assert torch.equal(found, encoder(states.reshape(6, 5)).reshape(2, 3, -1))


def test_frozen_is_frozen_whatever_the_parent_does():
    given = normalised()
    module = CurlFeatures(given)
    policy = TensorDictSequential(module, TensorDictModule(nn.LazyLinear(2), ["features"], ["action"]))
    data = TensorDict({"pixels": frames(8)}, [8])
    policy(data)
    policy.train()
    assert policy[1].training
    assert not any(part.training for part in module.module.encoder.modules())
    before, head = fingerprint(module), fingerprint(policy[1])
    expected = given.eval()(data["pixels"])
    optimizer = torch.optim.AdamW(policy.parameters(), lr=0.1, weight_decay=0.1)
    for _ in range(3):
        found = policy(data)
        assert torch.equal(found["features"], expected)
        optimizer.zero_grad()
        found["action"].square().mean().backward()
        optimizer.step()
    assert fingerprint(module) == before
    assert fingerprint(policy[1]) != head
    assert all(parameter.grad is None for parameter in module.parameters())


def test_unfrozen_it_is_trained_and_the_given_encoder_is_not():
    given = normalised()
    module = CurlFeatures(given, freeze=False).train()
    before, mine = fingerprint(given), fingerprint(module)
    module(pixels=frames(8)).square().mean().backward()
    torch.optim.SGD(module.parameters(), lr=0.1).step()
    assert fingerprint(given) == before
    assert fingerprint(module) != mine
    assert all(part.training for part in module.modules())
    assert all(parameter.requires_grad for parameter in given.parameters())


def test_a_copy_of_a_frozen_one_is_frozen(folder):
    copied = copy.deepcopy(CurlFeatures(folder)).train()
    assert not any(part.training for part in copied.module.encoder.modules())


@pytest.mark.parametrize(
    ("obs", "message"),
    [
        (torch.zeros(2, 3, 32, 32, dtype=torch.uint8), r"trained on observations of shape \(6, 32, 32\), got \(3, 32"),
        (torch.zeros(2, 32, 32, 6, dtype=torch.uint8), r"move the channels first"),
        (torch.zeros(32, 32, dtype=torch.uint8), "stack as many frames"),
        (torch.rand(2, 6, 32, 32), r"give \(obs \* 255\).round\(\).to\(torch.uint8\)"),
    ],
    ids=["channels", "channels last", "dimensions", "floats"],
)
def test_observations_that_do_not_fit_are_refused(obs, message, folder):
    with pytest.raises(ValueError, match=message):
        CurlFeatures(folder)(pixels=obs)


def test_without_tensordict_the_message_names_the_extra():
    code = "import sys; sys.modules['tensordict'] = None; import curl_rl.adapters.torchrl"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "needs tensordict: pip install 'curl-rl[torchrl]'" in done.stderr


def test_torchrl_itself_is_not_loaded(folder):
    code = "import sys, curl_rl.adapters.torchrl; print('torchrl' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
