"""scikit-learn's digits as frames of 24 pixels, 1,200 to train on and 597 to test, and how well a few labels do."""

import functools

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

from curl_rl.representation.frames.base import Frames

TRAIN = 1200


@functools.cache
def digits() -> tuple[Frames, Frames]:
    found = load_digits()
    images = torch.tensor(found.images / 16 * 255)[:, None].float()
    images = torch.nn.functional.interpolate(images, 24, mode="bilinear").round().byte()
    order = torch.from_numpy(np.random.default_rng(0).permutation(len(images)))
    images, classes = images[order], torch.tensor(found.target)[order]
    parts = (slice(TRAIN), slice(TRAIN, None))
    first, second = (Frames(images[part], source="digits", classes=classes[part]) for part in parts)
    return first, second


def accuracy(look, count: int = 5, seeds: int = 5) -> float:
    """Return the mean accuracy on the test frames of linear classifiers on so many labels a class."""
    train, test = digits()
    first, second = (
        look(frames.obs(torch.arange(len(frames)))).detach().flatten(1).numpy() for frames in (train, test)
    )
    mean, scale = first.mean(0), first.std(0) + 1e-6
    x, other, classes = (first - mean) / scale, (second - mean) / scale, train.classes.numpy()
    scores = []
    for seed in range(seeds):
        rng = np.random.default_rng(seed)
        few = np.concatenate([rng.permutation(np.flatnonzero(classes == each))[:count] for each in range(10)])
        fitted = LogisticRegression(max_iter=2000).fit(x[few], classes[few])
        scores.append(fitted.score(other, test.classes.numpy()))
    return float(np.mean(scores))
