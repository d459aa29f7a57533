"""What pre-training is worth, by objective: digits with few labels, and states and cells of toy/reach."""

import functools

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
from curl_rl.representation.probing.measure import probe
from curl_rl.run.recording import record

# Those that learn from plain images, or classes, and train the features.
PLAIN = (
    *("barlow_twins", "byol", "curl", "deepcluster", "mochi", "moco", "pcl"),
    *("simclr", "simsiam", "spcl", "supcon", "swav", "vicreg", "wmse"),
)


@functools.cache
def trained(name: str) -> Pretrainer:
    return learned(name, 400, digits_encoder(feature_dim=128, filters=32), 1e-3 if name == "simsiam" else 3e-3)


@pytest.mark.learning
@pytest.mark.parametrize("name", PLAIN)
def test_every_objective_helps_where_five_labels_a_class_are_known(name):
    bar = 0.86 if name == "curl" else 0.88  # curl reached .881; untrained: .85
    assert accuracy(trained(name).embed, count=5) >= bar


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


def known_of(frames, name: str = "", updates: int = 400, rate: float = 3e-3, **fields) -> dict[tuple[str, str], float]:
    """Return mean R2 and IoU by probe and layer of an encoder that an objective has trained, or of an initial one."""
    torch.manual_seed(1)
    encoder = make_encoder(encoder_config("small"), (3, 28, 28))
    if name:
        shift = AUGMENTATIONS["shift"](AUGMENTATIONS["shift"].Config(pad=2))
        config = OBJECTIVES[name].Config(**fields)
        options = {"objective": config, "frames": frames, "augment": shift, "learning_rate": rate, **LOCAL}
        looped(Pretrainer(encoder, **options), updates)
    chosen = choose(["ridge", "dense"], frames.gives, "reach")
    rows = [row for _, rows in probe({"it": encoder}, frames, probes=chosen, seeds=1) for row in rows]
    mine = [row for row in rows if row["encoder"] == "it" and row["quantity"] in ("r2", "miou")]
    return {(row["probe"], row["layer"]): row["value"] for row in mine}


def test_features_learn_where_things_are(reach):
    """The small sister of the next: half as long."""
    assert known_of(reach, "simclr", 200)["ridge", "features"] >= known_of(reach)["ridge", "features"] + 0.2


@pytest.mark.learning
def test_the_state_is_read_from_features(reach):
    assert known_of(reach, "simclr")["ridge", "features"] >= 0.85  # untrained: .45


@pytest.mark.learning
def test_objectives_of_the_map_know_best_what_its_cells_show(reach):
    initial, simclr = known_of(reach)["dense", "map"], known_of(reach, "simclr")["dense", "map"]
    offset = known_of(reach, "pixel_contrast", rate=1e-3)["dense", "map"]
    segmentation = known_of(reach, "pixel_contrast", rate=1e-3, labels="segmentation")["dense", "map"]
    assert initial < simclr < offset < segmentation
