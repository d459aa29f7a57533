"""Frames of toy/reach under random actions, whose class is the quadrant in which the target lies from the point."""

import functools

import numpy as np
import torch

from curl_rl.envs import make_env
from curl_rl.representation.frames.base import Frames, numbered

QUADRANTS = ("upper left", "upper right", "lower left", "lower right")


@functools.cache
def reach(episodes: int, seed: int) -> Frames:
    both = [make_env("toy/reach", image_size=24), make_env("toy/reach", obs="state")]  # alike under one seed
    rng, images, classes = np.random.default_rng(seed), [], []
    for episode in range(episodes):
        image, state = (env.reset(seed=1000 * seed + episode)[0] for env in both)
        for _ in range(20):
            images.append(image)
            right, below = state[2:] > state[:2]
            classes.append(int(right) + 2 * int(below))
            action = rng.uniform(-1, 1, 2).astype(np.float32)
            image, state = (env.step(action)[0] for env in both)
    known = {"classes": torch.tensor(classes), "class_names": QUADRANTS}
    return Frames(torch.tensor(np.array(images)), source="reach", episode=numbered([20] * episodes), **known)
