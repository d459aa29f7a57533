"""Frames of toy/reach under random actions, whose class is the quadrant in which the target lies from the point."""

import functools

import numpy as np
import torch

from curl_rl.envs import make_env
from curl_rl.representation.frames.base import Frames, numbered

QUADRANTS = ("upper left", "upper right", "lower left", "lower right")


@functools.cache
def reach(episodes: int, seed: int) -> Frames:
    env, rng, images, classes = make_env("toy/reach", image_size=24, state=True), np.random.default_rng(seed), [], []
    for episode in range(episodes):
        image, info = env.reset(seed=1000 * seed + episode)
        for _ in range(20):
            images.append(image)
            at = info["state"]
            classes.append((at["target_x"] > at["point_x"]) + 2 * (at["target_y"] > at["point_y"]))
            image, *_, info = env.step(rng.uniform(-1, 1, 2).astype(np.float32))
    known = {"classes": torch.tensor(classes), "class_names": QUADRANTS}
    return Frames(torch.tensor(np.array(images)), source="reach", episode=numbered([20] * episodes), **known)
