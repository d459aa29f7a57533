"""Pre-training: what it trains and leaves alone, how it goes on, and what is refused with which words."""

import copy
import csv
import json
import math
import signal
import subprocess
import sys
import time
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
import torch
from digits import accuracy, digits
from test_tap import Policy, words
from torch import nn

from curl_rl.config.pretraining import Training, compose_pretraining
from curl_rl.nn.augmentations import AUGMENTATIONS
from curl_rl.nn.encoders import encoder_config, make_encoder
from curl_rl.objectives import OBJECTIVES
from curl_rl.representation.export import EncoderError, load_encoder
from curl_rl.representation.frames.base import Frames, numbered
from curl_rl.representation.pretrain import Pretrainer, check_pace
from curl_rl.representation.session import rate
from curl_rl.representation.shares import Shared
from curl_rl.representation.tap import Tap
from curl_rl.run.locks import alone
from curl_rl.types import ConfigError

LOCAL = {"device": "cpu", "threads": 1}
TINY = {"batch_size": 8, "log_every": 3, "checkpoint_every": 4, **LOCAL}
# Of objectives whose queues and periods are made for longer trainings.
SHORT = {
    "moco": {"queue_size": 16},
    "mochi": {"queue_size": 16, "hardest": 8, "mixed": 4, "mixed_with_query": 2, "warmup": 2},
    "pcl": {"queue_size": 16, "clusters": (2, 4), "period": 3, "warmup": 3},
    "spcl": {"period": 3, "warmup": 3},
    "swav": {"queue_size": 16, "queue_start": 3, "freeze_updates": 2},
    "deepcluster": {"store_size": 16, "clusters": (2, 2), "period": 3},
    "wmse": {"projection_dim": 2},
    "open_world": {"start": 1, "period": 2},
}
ALL = sorted(set(OBJECTIVES) - {"none"})


def configured(name: str):
    return OBJECTIVES[name].Config(**SHORT.get(name, {}))


def play(count: int = 40, shape=(3, 16, 16), **known) -> Frames:
    """Frames of two episodes that know everything."""
    generator = torch.Generator().manual_seed(0)
    half = count // 2
    fields = {
        "episode": numbered([half, count - half]),
        "ordered": True,
        "action": torch.rand(count, 2, generator=generator),
        "reward": torch.rand(count, generator=generator),
        "classes": torch.arange(count) % 3,
        "labels": torch.randint(3, (count, 4, 4), generator=generator).byte(),
    }
    images = torch.randint(256, (count, *shape), generator=generator).byte()
    return Frames(images, source="the test", **{**fields, **known})


def small(shape=(3, 16, 16)):
    torch.manual_seed(0)
    return make_encoder(encoder_config("small", feature_dim=6, filters=4), shape)


def states(module: nn.Module) -> dict:
    return copy.deepcopy(module.state_dict())


def changed(before: dict, module: nn.Module) -> set[str]:
    return {
        key
        for key, value in module.state_dict().items()
        if not torch.equal(*map(torch.as_tensor, (value, before[key])))
    }


@pytest.mark.parametrize("name", ALL)
def test_every_objective_trains_an_encoder(name, tmp_path):
    encoder = small()
    before = states(encoder)
    trainer = Pretrainer(encoder, objective=configured(name), frames=play(), **TINY)
    assert trainer.train(updates=6, out=tmp_path) == 0
    assert {key for key in before if key.startswith("convs")} <= changed(before, encoder)
    loaded, images = load_encoder(tmp_path), play().obs(torch.arange(5))
    assert torch.equal(loaded(images), trainer.embed(images))
    told = json.loads((tmp_path / "config.json").read_text())
    assert (told["objective"]["name"], told["updates"], told["data"]["frames"]) == (name, 6, 40)
    assert told["labels_seen"] == (40 if name == "open_world" else 0)


def rows(out: Path) -> dict[str, list[tuple[int, float]]]:
    found: dict[str, list[tuple[int, float]]] = {}
    with (out / "training" / "train.csv").open() as file:
        for row in csv.DictReader(file):
            found.setdefault(row["name"], []).append((int(row["update"]), float(row["value"])))
    return {name: values for name, values in found.items() if name != "frames_per_second"}


def test_it_logs_what_shows_learning_and_collapse(tmp_path):
    Pretrainer(small(), objective="byol", frames=play(), **TINY).train(updates=7, out=tmp_path)
    found = rows(tmp_path)
    assert {"objective_loss", "feature_rank", "uniformity", "linear_loss", "linear_accuracy"} <= found.keys()
    assert [update for update, _ in found["objective_loss"]] == [3, 6, 7]
    assert (tmp_path / "training" / "metadata.json").is_file()
    assert list((tmp_path / "training" / "tensorboard").iterdir())


def test_a_collapse_is_said_once(tmp_path, capsys):
    encoder = small()
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.zero_()
    Pretrainer(encoder, frames=play(), **{**TINY, "learning_rate": 1e-12}).train(updates=7, out=tmp_path)
    assert capsys.readouterr().err.count("the features have collapsed after 3 updates (effective rank 1.0)") == 1


def test_a_network_of_ones_own_is_trained_up_to_its_layer(tmp_path):
    torch.manual_seed(0)
    net = Policy()
    net.policy.eval()
    before = states(net)
    trainer = Pretrainer(Tap(net, layer="trunk.4"), objective="byol", frames=play(), **TINY)
    trainer.train(updates=5, out=tmp_path)
    names = changed(before, net)
    assert {name.partition(".")[0] for name in names} == {"trunk"}
    assert {"trunk.0.weight", "trunk.4.weight", "trunk.1.running_mean"} <= names
    assert (net.trunk.training, net.policy.training) == (True, False)
    fresh, images = Policy(), play().obs(torch.arange(5))
    loaded = load_encoder(tmp_path, module=fresh)
    assert torch.equal(loaded(images), trainer.embed(images))
    assert all(torch.equal(value, net.state_dict()[key]) for key, value in fresh.state_dict().items())
    with pytest.raises(EncoderError, match=r"of your own, test_tap:Policy: give it, module=Policy\(\)"):
        load_encoder(tmp_path)
    with pytest.raises(EncoderError, match=r"of another network than Sequential: Sequential has no layer 'trunk\.4'"):
        load_encoder(tmp_path, module=nn.Sequential())


def test_prepare_must_be_given_again(tmp_path):
    def grey(obs):
        return obs.float().expand(-1, 3, -1, -1) / 255

    frames = play(shape=(1, 16, 16))
    Pretrainer(Tap(Policy(), layer="trunk.4", prepare=grey), frames=frames, **TINY).train(updates=2, out=tmp_path)
    with pytest.raises(EncoderError, match=r"was trained with prepare=.*grey: give the same prepare"):
        load_encoder(tmp_path, module=Policy())
    assert load_encoder(tmp_path, module=Policy(), prepare=grey)(frames.obs(torch.arange(2))).shape == (2, 10)
    small_one = tmp_path / "small"
    Pretrainer(small(), frames=play(), **TINY).train(updates=2, out=small_one)
    with pytest.raises(EncoderError, match="holds an encoder of this package: leave module and prepare out"):
        load_encoder(small_one, module=Policy())


def flip(images):
    return images.flip(-1) if torch.rand(()) < 0.5 else images


def black(images):
    return torch.zeros_like(images)


def test_augmentations_of_ones_own_make_the_views():
    trainer = Pretrainer(small(), frames=play(), augment=flip, augment_key=black, **TINY)
    batch, views = trainer.learner.views(trainer.batch(0))
    assert not views.key.images.any()
    assert any(torch.equal(views.query.images, each) for each in (batch.obs, batch.obs.flip(-1)))
    random = torch.get_rng_state()
    drawn = [torch.equal(trainer.learner.views(batch)[1].query.images, batch.obs) for _ in range(20)]
    assert 3 < sum(drawn) < 17
    assert torch.equal(torch.get_rng_state(), random)  # its draws are its own
    told = trainer.describe()
    assert (told["augmentation"]["name"], told["key_augmentation"]["name"]) == ("own:flip", "own:black")


def test_the_rate_rises_in_a_line_and_falls_as_a_cosine():
    settings = Training(learning_rate=0.5, warmup=0.1)
    rates = [rate(settings, update, 100) for update in range(100)]
    assert rates[:10] == pytest.approx([0.05 * (i + 1) for i in range(10)])
    assert rates[10] == 0.5
    assert rates[55] == pytest.approx(0.25)
    assert rates[99] == pytest.approx(0.25 * (1 + math.cos(math.pi * 89 / 90)))
    assert rate(Training(warmup=0.0), 0, 9) == 1e-3


def test_biases_and_norms_do_not_decay():
    trainer = Pretrainer(Tap(Policy(), layer="trunk.4"), frames=play(), weight_decay=0.3, **TINY)
    decays = {id(p): group["weight_decay"] for group in trainer.optimizer.param_groups for p in group["params"]}
    named = {name: decays[id(parameter)] for name, parameter in trainer.encoder.net.trunk.named_parameters()}
    assert named == {"0.weight": 0.3, "0.bias": 0, "1.weight": 0, "1.bias": 0, "4.weight": 0.3, "4.bias": 0}


def test_an_epoch_shows_every_frame_once():
    trainer = Pretrainer(small(), frames=play(), **TINY)
    seen = [trainer.batch(update).index.tolist() for update in range(10)]
    assert sorted(chain(*seen[:5])) == sorted(chain(*seen[5:])) == list(range(40))
    assert seen[:5] != seen[5:]
    ordered = Pretrainer(small(), objective="atc", frames=play(), **TINY)
    assert 39 not in chain(*(ordered.batch(update).index.tolist() for update in range(40)))


def test_the_head_beside_leaves_the_encoder_alone(tmp_path):
    first, second = small(), small()
    Pretrainer(first, frames=play(), **TINY).train(updates=5, out=tmp_path / "a")
    Pretrainer(second, frames=play(), linear=False, **TINY).train(updates=5, out=tmp_path / "b")
    assert changed(states(first), second) == set()
    assert "linear_loss" not in rows(tmp_path / "b")


def test_classes_that_train_the_encoder_are_told(tmp_path):
    config = OBJECTIVES["supcon"].Config(labels="class")
    Pretrainer(small(), objective=config, frames=play(), **TINY).train(updates=2, out=tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["labels_seen"] == 40


# Pieces


@pytest.mark.parametrize("name", ["simclr", "byol", "curl", "spr", "pcl"])
def test_a_batch_in_pieces_has_the_same_gradient(name):
    gradients = []
    for pieces in (1, 3):
        trainer = Pretrainer(small(), objective=configured(name), frames=play(), accumulate=pieces, **TINY)
        metrics = trainer.step(trainer.batch(0), 0.0)
        gradients.append([p.grad for p in trainer.encoder.parameters() if p.grad is not None])
        gradients[-1].append(metrics["objective_loss"])
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def test_a_piece_that_is_encoded_twice_counts_once():
    net = Policy()
    before, tap = states(net), Tap(net, layer="trunk.4").see((3, 16, 16))
    seen, images = Shared(tap, 2), play().obs(torch.arange(8))
    seen(images).sum().backward()
    norm, twin = net.trunk[1], Policy()
    twin.load_state_dict(before)
    for piece in images.chunk(2):
        twin.trunk(piece / 255)
    assert norm.num_batches_tracked == 2
    assert torch.equal(norm.running_mean, twin.trunk[1].running_mean)
    assert torch.equal(norm.running_var, twin.trunk[1].running_var)
    assert norm.momentum == 0.1


# Resume


def continued(out: Path, updates: int, **options) -> Pretrainer:
    tap, settings = Tap(seeded(Policy()), layer="trunk.4"), {**TINY, **options}
    trainer = Pretrainer(tap, objective=configured("pcl"), frames=play(), augment=flip, **settings)
    trainer.train(updates=updates, out=out)
    return trainer


def seeded(net: nn.Module) -> nn.Module:
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.normal_(0, 0.1, generator=generator)
    return net


def test_a_training_that_was_stopped_goes_on_bit_for_bit(tmp_path, monkeypatch):
    whole = continued(tmp_path / "whole", 11)
    step, calls = Pretrainer.step, []

    def stopping(self, *given):
        calls.append(1)
        if len(calls) == 7:
            raise KeyboardInterrupt
        return step(self, *given)

    monkeypatch.setattr(Pretrainer, "step", stopping)
    with pytest.raises(KeyboardInterrupt):
        continued(tmp_path / "parts", 11)
    monkeypatch.setattr(Pretrainer, "step", step)
    parts = continued(tmp_path / "parts", 11)
    assert rows(tmp_path / "parts") == rows(tmp_path / "whole")
    for one, other in ((whole.encoder, parts.encoder), (whole.learner.objective, parts.learner.objective)):
        assert changed(states(one), other) == set()
    first, second = (tmp_path / name / "model.safetensors" for name in ("whole", "parts"))
    assert first.read_bytes() == second.read_bytes()


def test_a_finished_training_is_left_as_it_is(tmp_path, capsys):
    done = continued(tmp_path, 5)
    before = (tmp_path / "model.safetensors").stat().st_mtime_ns
    again = continued(tmp_path, 5)
    assert "is finished: 5 updates" in capsys.readouterr().err
    assert (tmp_path / "model.safetensors").stat().st_mtime_ns == before
    assert changed(states(done.encoder), again.encoder) == set()


def test_another_training_does_not_take_its_place(tmp_path):
    continued(tmp_path, 5)
    with pytest.raises(ConfigError, match=r"holds a pre-training of another configuration:\n  updates: 5 -> 6\n"):
        continued(tmp_path, 6)
    with pytest.raises(ConfigError, match=r"tau: 0\.01 -> 0\.5"):
        continued(tmp_path, 5, tau=0.5)
    with pytest.raises(ConfigError, match=r"data\.crc32: \d+ -> \d+"):
        Pretrainer(
            Tap(Policy(), layer="trunk.4"), objective=configured("pcl"), frames=play(42), augment=flip, **TINY
        ).train(updates=5, out=tmp_path)
    (tmp_path / "training").rename(tmp_path / "away")
    with pytest.raises(FileExistsError, match="holds an encoder that was not trained there: give another out"):
        continued(tmp_path, 5)


def wait_for(path: Path, seconds: float = 60) -> None:
    until = time.monotonic() + seconds
    while not list(path.parent.glob(path.name)):
        assert time.monotonic() < until, f"{path} did not come"
        time.sleep(0.05)


COMMAND = ("objective=moco", "objective.queue_size=16", "batch_size=8", "encoder=small", "updates=60", "threads=1")


def command(data: Path, out: Path, *more: str) -> list[str]:
    rest = (f"data={data}", f"out={out}", "checkpoint_every=10", "device=cpu", *more)
    return [sys.executable, "-m", "curl_rl", "pretrain", *COMMAND, *rest]


@pytest.fixture
def data(tmp_path) -> Path:
    np.savez(tmp_path / "play.npz", frames=play().obs(torch.arange(40)).numpy())
    return tmp_path / "play.npz"


def test_a_command_that_was_killed_goes_on_bit_for_bit(data, tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    subprocess.run(command(data, whole), check=True, capture_output=True)
    with subprocess.Popen(command(data, parts), stderr=subprocess.DEVNULL) as process:
        wait_for(parts / "training" / "checkpoints" / "manifest-000000000020.json")
        process.send_signal(signal.SIGKILL)
    done = subprocess.run(command(data, parts), check=True, capture_output=True, text=True)
    assert "60/60 updates" in done.stderr
    assert (parts / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
    assert rows(parts) == rows(whole)


def test_a_command_that_is_asked_to_stop_says_how_to_go_on(data, tmp_path):
    with subprocess.Popen(
        command(data, tmp_path / "out", "updates=100000"), stderr=subprocess.PIPE, text=True
    ) as process:
        wait_for(tmp_path / "out" / "training" / "checkpoints" / "manifest-*.json")
        process.send_signal(signal.SIGTERM)
        told = process.communicate()[1]
    assert process.returncode == 128 + signal.SIGTERM
    assert "the same command goes on" in told
    assert load_encoder(tmp_path / "out").obs_shape == (3, 16, 16)


# What is refused


def refused(**changes):
    encoder = changes.pop("encoder", None) or small()
    options = {"frames": play(), **TINY, **changes}
    return lambda: Pretrainer(encoder, **options)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Pretrainer(nn.Linear(2, 2), frames=play()), "Linear is no encoder: give Tap"),
        (refused(batch_size=41), "batch_size=41 exceeds the 40 frames that can be learned from"),
        (refused(objective="wmse"), "objective=wmse whitens 16 dimensions, which takes more samples"),
        (refused(objective="none"), "objective=none has no loss"),
        (refused(objective="foo"), "unknown objective 'foo'; there are"),
        (refused(augment="crop"), "augmentation.size=84 does not fit in images of side 16"),
        (refused(augment=lambda images: images.float()), r"gave \(2, 3, 16, 16\) torch.float32 for images \(2, 3"),
        (refused(augment=lambda images: images[:1]), r"gave \(1, 3, 16, 16\) torch.uint8 for images"),
        (refused(encoder=small((1, 16, 16))), r"the encoder takes images \(1, 16, 16\), and the test shows it \(3"),
        (refused(frames=play(shape=(3, 16, 20))), "need square images"),
        (refused(learning_rate=0.0), "learning_rate must be above 0"),
        (refused(device="gpu"), "device='gpu' is none of auto, cpu"),
        (refused(accumulate=9), "accumulate=9 exceeds batch_size=8"),
        (refused(objective="cpc", frames=play(action=None)), "objective=cpc needs actions, which the test has not"),
        (
            refused(objective="spr", encoder=Tap(Policy(), layer="trunk.4")),
            "objective=spr needs a map .channels, height, width., and the encoder gives .10,.: tap a conv",
        ),
    ],
    ids=words,
)
def test_what_does_not_fit_is_refused_before_anything_starts(make, message):
    with pytest.raises(ConfigError, match=message):
        make()


@pytest.mark.parametrize(
    ("name", "lengths", "told"),
    [
        ("mochi", {"updates": 400}, "objective.queue_size=40 (not 4,096) objective.warmup=5 (not 500)"),
        (
            "pcl",
            {"updates": 10},
            "objective.period=2 (not 500) objective.warmup=2 (not 500) objective.queue_size=40 (not",
        ),
        ("moco", {"epochs": 3}, "never come to work in 15 updates over 40 frames, of which an epoch takes 5"),
        ("deepcluster", {"updates": 400}, "objective.store_size=40 (not 4,096) objective.period=5 (not 500)"),
    ],
)
def test_periods_and_queues_that_the_data_never_fill_are_refused(name, lengths, told, tmp_path):
    trainer = Pretrainer(small(), objective=name, frames=play(), **TINY)
    with pytest.raises(ConfigError) as error:
        trainer.train(out=tmp_path, **lengths)
    assert told in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_as_many_updates_as_frames_are_still_updates():
    with pytest.raises(ConfigError, match=r"objective\.period=5 \(not 40\)"):
        check_pace(OBJECTIVES["pcl"].Config(queue_size=40, period=40, warmup=0, clusters=(2,)), 40, 5, 40)
    check_pace(OBJECTIVES["pcl"].Config(queue_size=40, period=39, warmup=0, clusters=(2,)), 40, 5, 40)


def test_two_lengths_and_two_processes_are_refused(tmp_path):
    trainer = Pretrainer(small(), frames=play(), **TINY)
    with pytest.raises(ConfigError, match="updates=3 and epochs=2 are no length: give one of them"):
        trainer.train(updates=3, epochs=2, out=tmp_path)
    with (
        alone(tmp_path / "training" / ".lock", "no"),
        pytest.raises(ConfigError, match=r"another process trains in .*: wait for it or give another out"),
    ):
        trainer.train(updates=3, out=tmp_path)


def test_weights_that_are_not_finite_replace_no_good_ones(tmp_path):
    with pytest.raises(FloatingPointError, match="Try a lower learning_rate or precision=float32 with another out"):
        Pretrainer(small(), objective="vicreg", frames=play(), **{**TINY, "learning_rate": 1e6}, warmup=0.0).train(
            updates=50, out=tmp_path
        )
    assert load_encoder(tmp_path).feature_dim == 6


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["data=x"], "out must be given: curl-rl pretrain objective=byol data=runs/x out=enc"),
        (["data=x", "out=y", "objective=foo"], "unknown objective 'foo'"),
        (["data=x", "out=y", "encoder.depth=3"], "encoder=strided has none, encoder=paper has"),
        (["data=x", "out=y", "objectiv=byol"], "unknown key 'objectiv'; did you mean objective"),
        (["data=x", "out=y", "batch_size=1"], "batch_size must be at least 2"),
        (["data=x", "out=y", "task=toy/reach"], "unknown key 'task'"),
        (["data=x", "out=y", "seed=1,2"], "pretrain takes one value"),
        (["data=x", "out=y", "batch_size=many"], "batch_size must be a whole number, got many"),
        (["data=x", "out=y", "objective.projection_tau=2"], "objective.projection_tau must be above 0 and at most 1"),
    ],
    ids=words,
)
def test_commands_that_cannot_be_honoured(overrides, message):
    with pytest.raises(ConfigError, match=message):
        compose_pretraining(overrides)


def test_a_command_is_the_same_as_its_settings():
    config = compose_pretraining(
        ["data=x", "out=y", "objective=pcl", "objective.clusters=[3,5]", "encoder=small", "order=name"]
    )
    assert (config.data, config.out, config.order, config.objective.clusters) == ("x", "y", "name", (3, 5))
    assert (config.encoder.name, config.augmentation.name) == ("small", "shift")
    assert {name: getattr(config, name) for name in vars(Training())} == vars(Training())


def test_out_of_memory_while_clustering_names_what_to_lower(tmp_path, monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 68719476736 bytes")

    config = OBJECTIVES["deepcluster"].Config(store_size=16, clusters=(4,), period=2)
    trainer = Pretrainer(small(), objective=config, frames=play(), **TINY)
    with monkeypatch.context() as patch:
        patch.setattr("curl_rl.objectives.swav_deepcluster.k_means", fail)
        with pytest.raises(
            ConfigError, match=r"clustered: lower objective\.clusters=\[4\] or objective\.store_size=16"
        ):
            trainer.train(updates=6, out=tmp_path)
    again = Pretrainer(small(), objective=config, frames=play(), **TINY)
    assert again.train(updates=6, out=tmp_path) == 0  # from its last checkpoint


# Learning


def test_pretraining_helps_where_labels_are_few():
    """The small sister of the test of every objective: half as long."""
    initial = accuracy(digits_encoder())
    trained = accuracy(learned("simclr", 200).embed)
    assert trained >= initial + 0.03
    assert trained >= 0.86


def looped(trainer, updates: int) -> None:
    """Train without a folder."""
    for update in range(updates):
        trainer.step(trainer.batch(update), rate(trainer.settings, update, updates))


def digits_encoder(**options):
    torch.manual_seed(1)
    return make_encoder(encoder_config("small", **options), (1, 24, 24))


def learned(name: str, updates: int, encoder=None, rate: float = 3e-3) -> Pretrainer:
    """Return what an objective has trained on the digits."""
    config = OBJECTIVES[name].Config(**FITTING.get(name, {}))
    shift = AUGMENTATIONS["shift"](AUGMENTATIONS["shift"].Config(pad=2))
    options = {"objective": config, "frames": digits()[0], "augment": shift, "learning_rate": rate, **LOCAL}
    trainer = Pretrainer(encoder or digits_encoder(), **options)
    looped(trainer, updates)
    return trainer


# What fits 1,200 frames and 400 updates.
FITTING = {
    "moco": {"queue_size": 1024},
    "mochi": {"queue_size": 1024, "warmup": 50},
    "pcl": {"queue_size": 1024, "period": 9, "warmup": 50},
    "spcl": {"period": 9, "warmup": 50},
    "swav": {"queue_start": 100, "freeze_updates": 9},
    "deepcluster": {"store_size": 1200, "period": 9},
    "supcon": {"labels": "class"},
    "open_world": {"start": 10, "period": 10, "momentum": 0.9},
    "curl": {"projection_dim": 128, "logit_scale": 10.0, "projection_tau": 0.05},
}


# What a user's own program may give


def test_embedding_takes_only_what_it_was_trained_on():
    trainer = Pretrainer(small(), frames=play(), **TINY)
    images = play().obs(torch.arange(3))
    assert trainer.embed(images).shape == (3, 6)
    for given, error, message in (
        (images / 255, ValueError, "got float32 from 0 to 1: give"),
        (images[0], ValueError, r"got one observation of \(3, 16, 16\): give obs\[None\]"),
        (images[:, :, :8], ValueError, "render or resize images to 16x16"),
        ([1, 2], TypeError, "takes a tensor, got list"),
    ):
        with pytest.raises(error, match=message):
            trainer.embed(given)


def test_a_network_in_eval_mode_is_trained_in_train_mode(tmp_path):
    net = Policy().eval()
    trainer = Pretrainer(Tap(net, layer="trunk.4"), frames=play(), **TINY)
    assert trainer.train(updates=2, out=tmp_path) == 0
    assert net.trunk[1].num_batches_tracked > 0
    assert net.trunk[1].training


def test_the_folder_counts_the_labels_that_were_seen(tmp_path):
    classes = torch.where(torch.arange(40) < 12, torch.arange(40) % 3, -1)
    trainer = Pretrainer(
        small(), objective=OBJECTIVES["supcon"].Config(labels="class"), frames=play(classes=classes), **TINY
    )
    assert trainer.describe()["labels_seen"] == 12
    assert Pretrainer(small(), objective="byol", frames=play(), **TINY).describe()["labels_seen"] == 0


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Pretrainer(small(), frames=play(), lr=1), "there is no option lr: give "),
        (lambda: Pretrainer(small(), frames=play(), learning_rat=1), "no option learning_rat: give learning_rate"),
        (
            lambda: Pretrainer(small().requires_grad_(False), frames=play(), **TINY),
            "no parameter of the encoder can be",
        ),
        (lambda: Pretrainer(Tap(nn.Flatten()), frames=play(), **TINY), "no parameter of the encoder can be trained"),
        (
            lambda: Pretrainer(Tap(Policy(), layer="trunk.4"), objective="pixel_contrast", frames=play(), **TINY),
            r"pixel_contrast needs a map .*, and the encoder gives \(10,\): tap a convolutional layer",
        ),
        (lambda: Tap(lambda x: x), "is no network: give a torch.nn.Module"),
        (lambda: Tap(Policy(), layer=1.5), "layer=1.5 is neither a name nor a whole number: give one of trunk"),
        (lambda: Tap(Policy(), layer=None), "layer=None is neither a name nor a whole number"),
        (
            lambda: Pretrainer(Tap(Policy()), frames=play(shape=(3, 16, 20)), **TINY),
            "need square images, got .16, 20.: give size=16, which makes them square",
        ),
    ],
    ids=range(9),
)
def test_what_a_program_cannot_give(make, message):
    with pytest.raises(ConfigError, match=message):
        make()


def test_images_that_are_not_square_need_an_augmentation_that_takes_them(tmp_path):
    net = nn.Sequential(nn.Conv2d(3, 4, 3, 2), nn.ReLU(), nn.Flatten(), nn.LazyLinear(5))
    net(torch.zeros(1, 3, 16, 20))
    for augment in ("none", lambda images: images.flip(3)):
        trainer = Pretrainer(Tap(net), frames=play(shape=(3, 16, 20)), augment=augment, **TINY)
        assert trainer.train(updates=1, out=tmp_path / str(augment)[:5]) == 0
        assert trainer.embed(play(shape=(3, 16, 20)).obs(torch.arange(2))).shape == (2, 5)


@pytest.mark.parametrize("damage", ["changed", "lost", "all"])
def test_a_finished_training_writes_a_damaged_folder_anew(tmp_path, damage, capsys):
    def train() -> None:
        assert Pretrainer(small(), frames=play(), **TINY).train(updates=2, out=tmp_path / "enc") == 0

    train()
    files = {path: path.read_bytes() for path in (tmp_path / "enc").iterdir() if path.is_file()}
    assert len(files) == 3
    for path in files if damage == "all" else [tmp_path / "enc" / "model.safetensors"]:
        path.unlink() if damage != "changed" else path.write_bytes(path.read_bytes() + b"x")
    train()
    assert "finished: 2 updates; its folder was damaged and is written anew" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in files} == files
    train()
    assert capsys.readouterr().err.endswith("finished: 2 updates\n")
