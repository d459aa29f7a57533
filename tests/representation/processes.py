"""Trains with every objective, alone or as one of several processes: python processes.py OUT UPDATES [NAMES]."""

import sys
from pathlib import Path

import numpy as np
import torch
from torch import nn

from curl_rl import Tap
from curl_rl.nn.augmentations import AUGMENTATIONS
from curl_rl.nn.encoders import encoder_config, make_encoder
from curl_rl.objectives import OBJECTIVES
from curl_rl.representation.frames.base import Frames, numbered
from curl_rl.representation.pretrain import Pretrainer

# What fits 96 frames and a handful of updates.
FITTING = {
    "moco": {"queue_size": 64},
    "mochi": {"queue_size": 64, "warmup": 1, "hardest": 32},
    "pcl": {"queue_size": 64, "period": 2, "warmup": 2, "clusters": (4,)},
    "spcl": {"period": 2, "warmup": 2},
    "swav": {"queue_size": 64, "queue_start": 1, "freeze_updates": 1},
    "deepcluster": {"store_size": 64, "period": 2, "clusters": (4,)},
    "wmse": {"projection_dim": 4},
    "open_world": {"start": 1, "period": 2},
}
NAMES = sorted(set(OBJECTIVES) - {"none"})
LOCAL = {"device": "cpu", "threads": 1, "batch_size": 16, "log_every": 2, "checkpoint_every": 2}


def frames() -> Frames:
    """Sequences with all that an objective may need."""
    rng = np.random.default_rng(0)
    return Frames(
        torch.from_numpy(rng.integers(256, size=(96, 3, 20, 20))).byte(),
        source="noise",
        episode=numbered([12] * 8),
        ordered=True,
        action=torch.from_numpy(rng.uniform(-1, 1, (96, 2))).float(),
        reward=torch.from_numpy(rng.uniform(0, 1, 96)).float(),
        labels=torch.from_numpy(rng.integers(3, size=(96, 5, 5))).byte(),
    )


def trainer(name: str) -> Pretrainer:
    torch.manual_seed(0)
    encoder = make_encoder(encoder_config("small", filters=4, feature_dim=8), (3, 20, 20))
    config = OBJECTIVES[name].Config(**FITTING.get(name, {}))
    shift = AUGMENTATIONS["shift"](AUGMENTATIONS["shift"].Config(pad=2))
    given = frames()
    if "classes" in config.needs:
        given = given.classified(torch.arange(96) % 3, "abc")
    made = Pretrainer(encoder, objective=config, frames=given, augment=shift, learning_rate=0.05, linear=False, **LOCAL)
    # Adam would make a whole step of the rounding in a gradient that is zero, such as a shift's before batch norm.
    made.optimizer = torch.optim.SGD(made.optimizer.param_groups, lr=0.05)
    return made


def normalised() -> Pretrainer:
    """A network with batch norm, which sees a part of each batch where several processes train."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 4, 4), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(100, 8))
    return Pretrainer(Tap(net), objective="byol", frames=frames(), **LOCAL)


def main(out: Path, updates: int, names: list[str]) -> int:
    for name in names:
        made = normalised() if name == "normalised" else trainer(name)
        if status := made.train(updates=updates, out=out / name):
            return status
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3:] or NAMES))
