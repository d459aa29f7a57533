"""stable-baselines3's agents train on an exported encoder, and what they are told to keep frozen stays as it was."""

import builtins
import copy
import importlib
import json
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch
from encoders import CONFIG, fingerprint, normalised, save_small
from stable_baselines3 import PPO, SAC
from stable_baselines3.common.vec_env import DummyVecEnv, VecFrameStack

from curl_rl.adapters.sb3 import CurlFeatures
from curl_rl.envs import make_env
from curl_rl.nn.encoders import encoder_config, make_encoder
from curl_rl.representation.export import load_encoder, save_encoder

SPACE = gym.spaces.Box(0, 255, (6, 32, 32), np.uint8)


@pytest.fixture
def folder(tmp_path):
    return save_small(tmp_path / "enc")


def stacked_env():
    """Two stacked 32x32 frames of toy/reach, (6, 32, 32) uint8, as a DMC agent's three of 100x100 would be."""
    return VecFrameStack(DummyVecEnv([lambda: make_env("toy/reach", image_size=32)]), 2, channels_order="first")


def policy_kwargs(folder, **kwargs):
    return {
        "features_extractor_class": CurlFeatures,
        "features_extractor_kwargs": {"encoder": folder, **kwargs},
        "net_arch": [8],
    }


def sac(folder, **kwargs):
    options = {
        "buffer_size": 64,
        "learning_starts": 8,
        "batch_size": 8,
        "seed": 0,
        "device": "cpu",
        "learning_rate": 0.01,
    }
    return SAC("CnnPolicy", stacked_env(), policy_kwargs=policy_kwargs(folder, **kwargs), **options)


def ppo(folder, **kwargs):
    options = {"n_steps": 16, "batch_size": 8, "n_epochs": 1, "seed": 0, "device": "cpu", "learning_rate": 0.01}
    return PPO("CnnPolicy", stacked_env(), policy_kwargs=policy_kwargs(folder, **kwargs), **options)


def trained_extractor(model):
    return model.critic.features_extractor if isinstance(model, SAC) else model.policy.features_extractor


def moved(extractor, folder) -> list[str]:
    """Return the names of the encoder's weights that are not the exported ones any more."""
    exported = load_encoder(folder).state_dict()
    return [name for name, weight in extractor.encoder.state_dict().items() if not torch.equal(weight, exported[name])]


@pytest.mark.parametrize("make", [sac, ppo])
def test_a_frozen_encoder_stays_as_exported_while_the_agent_learns(make, folder):
    model = make(folder, freeze=True)
    heads = {name: weight.clone() for name, weight in model.policy.state_dict().items() if "encoder" not in name}
    model.learn(32)
    assert moved(trained_extractor(model), folder) == []
    after = model.policy.state_dict()
    assert any(not torch.equal(weight, after[name]) for name, weight in heads.items())


@pytest.mark.parametrize("make", [sac, ppo])
def test_statistics_of_a_frozen_network_stay_too(make):
    given = normalised()
    model = make(given, freeze=True)
    extractor = trained_extractor(model)
    before = fingerprint(extractor.encoder)
    model.learn(32)
    model.policy.train()  # as SB3 does before each update
    assert fingerprint(extractor.encoder) == before
    assert not any(part.training for part in extractor.encoder.modules())
    unfrozen = make(given, freeze=False)
    before = fingerprint(trained_extractor(unfrozen).encoder)
    unfrozen.learn(32)
    assert fingerprint(trained_extractor(unfrozen).encoder) != before


@pytest.mark.parametrize("make", [sac, ppo])
def test_an_unfrozen_encoder_starts_as_exported_and_is_trained(make, folder):
    model = make(folder, freeze=False)
    # PPO's ortho_init would have replaced the weights here already.
    assert moved(trained_extractor(model), folder) == []
    model.learn(32)
    changed = moved(trained_extractor(model), folder)
    assert {"encoder.convs.0.weight", "encoder.head.1.weight"} <= set(changed)


@pytest.mark.parametrize("normalize", [True, False])
def test_a_policy_sees_the_features_of_the_raw_frames(normalize, folder):
    kwargs = {**policy_kwargs(folder, normalize_images=normalize), "normalize_images": normalize}
    model = PPO("CnnPolicy", stacked_env(), policy_kwargs=kwargs, n_steps=64, device="cpu")
    frames = torch.arange(256, dtype=torch.uint8).repeat(24).reshape(1, 6, 32, 32)  # every brightness there is
    assert torch.equal(model.policy.extract_features(frames), load_encoder(folder)(frames))


@pytest.mark.parametrize(("policy", "extractor"), [(False, True), (True, False)])
def test_a_policy_that_scales_otherwise_than_told_is_refused(policy, extractor, folder):
    kwargs = {**policy_kwargs(folder, normalize_images=extractor), "normalize_images": policy}
    model = PPO("CnnPolicy", stacked_env(), policy_kwargs=kwargs, n_steps=64, device="cpu")
    with pytest.raises(ValueError, match=r"normalize_images=False too"):
        model.predict(np.full((1, 6, 32, 32), 200, np.uint8))


def test_each_extractor_owns_a_copy_of_a_given_module(folder):
    given = load_encoder(folder)
    first, second = CurlFeatures(SPACE, given, freeze=False), CurlFeatures(SPACE, given, freeze=True)
    assert first.features_dim == 6
    parameters = [*given.parameters(), *first.parameters(), *second.parameters()]
    assert len(set(map(id, parameters))) == 3 * len(list(given.parameters()))
    assert all(parameter.requires_grad for parameter in (*given.parameters(), *first.parameters()))
    assert not any(parameter.requires_grad for parameter in second.parameters())


def test_a_saved_agent_comes_back(folder, tmp_path):
    model = ppo(folder)
    model.save(tmp_path / "agent")
    obs = np.full((1, 6, 32, 32), 7, np.uint8)
    loaded = PPO.load(tmp_path / "agent")
    assert np.array_equal(loaded.predict(obs, deterministic=True)[0], model.predict(obs, deterministic=True)[0])


_LOADER = """
import sys, numpy as np, stable_baselines3
for name, path in (("SAC", sys.argv[1]), ("PPO", sys.argv[2])):
    load = getattr(stable_baselines3, name).load
    load(path, device="cpu").save(path)
    print(load(path, device="cpu").predict(np.full((1, 6, 32, 32), 7, np.uint8), deterministic=True)[0][0].tolist())
"""


def test_a_saved_agent_comes_back_in_another_process_without_the_folder(folder, tmp_path):
    other = Path(shutil.copytree(folder, tmp_path / "other"))
    models = [sac(f"{folder}/", freeze=False), ppo(other, freeze=False)]
    paths = [tmp_path / "sac.zip", tmp_path / "ppo.zip"]
    for model, path in zip(models, paths, strict=True):
        model.learn(16)
        model.save(path)
    shutil.rmtree(folder)
    config = {**CONFIG, "feature_dim": 9}  # of the same name, and another width
    save_encoder(make_encoder(encoder_config(**config), (6, 28, 28)), config, (6, 32, 32), other)
    done = subprocess.run([sys.executable, "-c", _LOADER, *paths], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for model, line in zip(models, done.stdout.splitlines(), strict=True):
        expected = model.predict(np.full((1, 6, 32, 32), 7, np.uint8), deterministic=True)[0][0]
        assert json.loads(line) == pytest.approx(expected.tolist(), abs=1e-6)


def test_a_new_agent_reads_the_folder_though_the_space_knows_an_older_one(folder):
    space = copy.deepcopy(SPACE)
    assert CurlFeatures(space, folder).features_dim == 6
    config = {**CONFIG, "feature_dim": 9}
    save_encoder(make_encoder(encoder_config(**config), (6, 28, 28)), config, (6, 32, 32), folder)
    for again in (space, copy.deepcopy(space)):
        assert CurlFeatures(again, folder).features_dim == 9
    assert space == SPACE


def test_an_extractor_out_of_a_saved_space_has_no_features_before_its_weights(folder):
    space = copy.deepcopy(SPACE)
    given = CurlFeatures(space, folder)
    images = torch.zeros(1, 6, 32, 32)
    made = CurlFeatures(pickle.loads(pickle.dumps(space)), folder)
    with pytest.raises(ValueError, match="no weights yet: load the saved agent's"):
        made(images)
    made.load_state_dict(given.state_dict())
    assert torch.equal(made(images), given(images))


@pytest.mark.parametrize(
    ("space", "message"),
    [
        (gym.spaces.Box(0, 255, (3, 32, 32), np.uint8), r"trained on observations of shape \(6, 32, 32\)"),
        (gym.spaces.Box(0, 255, (6, 20, 20), np.uint8), "render or resize images to 32x32 or 28x28"),
        (gym.spaces.Box(0, 1, (6, 32, 32), np.float32), "uint8 image space"),
        (gym.spaces.Dict(image=SPACE), "uint8 image space"),
    ],
)
def test_observations_that_do_not_fit_are_refused(space, message, folder):
    with pytest.raises(ValueError, match=message):
        CurlFeatures(space, folder)


def test_without_stable_baselines3_the_message_names_the_extra(monkeypatch):
    real = builtins.__import__

    def without_sb3(name, *args, **kwargs):
        if name.startswith("stable_baselines3"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.delitem(sys.modules, "curl_rl.adapters.sb3")
    monkeypatch.setattr(builtins, "__import__", without_sb3)
    with pytest.raises(ImportError, match=r"pip install 'curl-rl\[sb3\]'"):
        importlib.import_module("curl_rl.adapters.sb3")
