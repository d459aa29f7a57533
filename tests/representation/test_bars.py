"""What pre-training is worth, by objective: digits with few labels, and states and cells of toy/reach."""

import functools
from statistics import fmean

import pytest
import torch
from digits import accuracy
from test_pretrain import LOCAL, digits_encoder, learned, looped
from torch import nn

from curl_rl import Pretrainer, Tap
from curl_rl.config.overrides import compose
from curl_rl.nn.augmentations import AUGMENTATIONS
from curl_rl.nn.encoders import encoder_config, make_encoder
from curl_rl.objectives import OBJECTIVES
from curl_rl.representation.frames import frames_of
from curl_rl.representation.probes import choose
from curl_rl.representation.probes.base import Subject, look_through
from curl_rl.run.recording import record

# Those that learn from plain images, or classes, and train the features.
PLAIN = (
    *("barlow_twins", "byol", "curl", "deepcluster", "mochi", "moco", "open_world", "pcl"),
    *("simclr", "simsiam", "spcl", "supcon", "swav", "vicreg", "wmse"),
)


@functools.cache
def trained(name: str) -> Pretrainer:
    rate = {"simsiam": 1e-3, "curl": 2e-3}.get(name, 3e-3)
    return learned(name, 400, digits_encoder(feature_dim=128, filters=32), rate)


@pytest.mark.learning
@pytest.mark.parametrize("name", PLAIN)
def test_every_objective_helps_where_five_labels_a_class_are_known(name):
    assert accuracy(trained(name).embed, count=5) >= 0.88  # untrained: .85


@pytest.mark.learning
@pytest.mark.parametrize("name", ["byol", "simclr", "deepcluster"])
def test_one_label_a_class_is_enough_to_beat_pixels(name):
    assert accuracy(trained(name).embed, count=1) >= 0.67  # pixels: .61


class Policy(nn.Module):
    """A network with batch norm and more than its features."""

    def __init__(self):
        super().__init__()
        self.trunk = nn.Sequential(
            nn.Conv2d(1, 32, 3, 2), nn.BatchNorm2d(32), nn.ReLU(), nn.Conv2d(32, 32, 3, 2), nn.ReLU(), nn.Flatten(),
            nn.Linear(800, 128),
        )  # fmt: skip
        self.action = nn.Linear(128, 4)

    def forward(self, images):
        return self.action(self.trunk(images))


@pytest.mark.learning
def test_a_policy_with_batch_norm_learns_up_to_its_layer():
    torch.manual_seed(1)
    net = Policy()
    before = {name: tensor.clone() for name, tensor in net.action.state_dict().items()}
    run = learned("byol", 400, Tap(net, layer="trunk.6"))
    assert accuracy(run.embed, count=5) >= 0.88
    assert all(torch.equal(tensor, net.action.state_dict()[name]) for name, tensor in before.items())


@pytest.fixture(scope="module")
def reach(tmp_path_factory):
    folder = tmp_path_factory.mktemp("reach")
    record(compose(["task=toy/reach", "objective=none"]), folder, episodes=200, workers=1)
    return frames_of(folder)


def taught(frames, name: str = "", updates: int = 400, batch_size: int = 128, **fields):
    """Return an encoder that an objective has trained, or an initial one."""
    torch.manual_seed(1)
    encoder = make_encoder(encoder_config("small"), (3, 28, 28))
    if name:
        shift = AUGMENTATIONS["shift"](AUGMENTATIONS["shift"].Config(pad=2))
        config, settings = OBJECTIVES[name].Config(**fields), {"batch_size": batch_size, "learning_rate": 3e-3, **LOCAL}
        looped(Pretrainer(encoder, objective=config, frames=frames, augment=shift, **settings), updates)
    return encoder


def known_of(encoder, frames, name: str, layer: str, quantity: str, *, seeds: int = 1) -> float:
    """Return what a probe finds of an encoder, the mean over seeds."""
    (asked,) = choose([name], frames.gives, "reach")
    subject = Subject("it", look_through(encoder, lambda obs: obs), frames)
    return fmean(asked.measure(subject, layer, seed)[quantity] for seed in range(1, seeds + 1))


def test_features_learn_where_things_are(reach):
    """The small sister of the next: half as long."""
    initial, trained = (
        known_of(encoder, reach, "ridge", "features", "r2") for encoder in (taught(reach), taught(reach, "simclr", 200))
    )
    assert trained >= initial + 0.2


@pytest.mark.learning
def test_the_state_is_read_from_features(reach):
    assert known_of(taught(reach, "simclr"), reach, "ridge", "features", "r2") >= 0.85  # untrained: .45


@pytest.mark.learning
def test_what_is_found_is_in_a_similar_state(reach, tmp_path):
    """On unseen episodes, in standard deviations; any frame 2.71, pixels .96, untrained 1.45, simclr .60, best .55."""
    record(compose(["task=toy/reach", "objective=none"]), tmp_path, episodes=100, seed=1, workers=1)
    unseen = frames_of(tmp_path)
    found = {
        title: known_of(taught(reach, title), unseen, "nearest_states", "features", "distance")
        for title in ("", "simclr")
    }
    assert found["simclr"] < 0.75  # in the units of the arena .43
    assert found[""] > 1.2


@pytest.fixture(scope="module")
def cells(reach) -> dict[str, float]:
    """Mean IoU of the map's cells, by what has trained it: .402, .415, .414 and .433 were seen."""
    objectives = {"initial": {}, "simclr": {"name": "simclr"}, "offset": {"name": "pixel_contrast"}}
    objectives["segmentation"] = {"name": "pixel_contrast", "labels": "segmentation"}
    encoders = {title: taught(reach, **given, batch_size=64) for title, given in objectives.items()}
    return {title: known_of(encoder, reach, "dense", "map", "miou", seeds=5) for title, encoder in encoders.items()}


@pytest.mark.learning
def test_the_simulators_segmentation_teaches_best_what_a_cell_shows(cells):
    others = [value for title, value in cells.items() if title != "segmentation"]
    assert cells["segmentation"] > max(others) + 0.005
    assert cells["initial"] < min(value for title, value in cells.items() if title != "initial")


@pytest.mark.learning
@pytest.mark.xfail(
    strict=True, reason="offsets and simclr come out alike here, .414 and .415, and within the probe's spread of .01"
)
def test_objectives_of_the_map_know_best_what_its_cells_show(cells):
    assert cells["initial"] < cells["simclr"] < cells["offset"] < cells["segmentation"]
