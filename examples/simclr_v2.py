"""SimCLR v2's three steps on toy/reach: learn from frames alone, fine-tune on eighty labels, distil into less."""

import csv
from pathlib import Path

import numpy as np
import torch

from curl_rl import frames_of, load_classifier
from curl_rl.cli import main as curl_rl
from curl_rl.envs import make_env

PLACE = Path("runs/simclr_v2")
QUADRANTS = ("upper left", "upper right", "lower left", "lower right")


def record(name: str, seed: int, episodes: int = 40) -> list[str]:
    """Record random play; return in which quadrant from the point the target lies, frame by frame."""
    both = [make_env("toy/reach", image_size=24), make_env("toy/reach", obs="state")]  # alike under one seed
    rng, frames, classes = np.random.default_rng(seed), [], []
    for episode in range(episodes):
        frame, state = (env.reset(seed=1000 * seed + episode)[0] for env in both)
        for _ in range(20):
            frames.append(frame)
            right, below = state[2:] > state[:2]
            classes.append(QUADRANTS[right + 2 * below])
            action = rng.uniform(-1, 1, 2).astype(np.float32)
            frame, state = (env.step(action)[0] for env in both)
    np.savez(PLACE / f"{name}.npz", frames=np.stack(frames))
    return classes


def label(classes: list[str], each: int) -> None:
    """Write a sheet with so many labels of each class."""
    with (PLACE / "few.csv").open("w", newline="") as file:
        sheet = csv.writer(file)
        sheet.writerow(("name", "class"))
        for quadrant in QUADRANTS:
            places = np.random.default_rng(0).permutation([i for i, name in enumerate(classes) if name == quadrant])
            sheet.writerows((f"train.npz#{place}", quadrant) for place in places[:each])


def accuracy(folder: Path, classes: list[str]) -> float:
    """Return how often a classifier names the class of frames that it has never seen."""
    frames, classifier = frames_of(PLACE / "test.npz"), load_classifier(folder)
    with torch.no_grad():
        found = classifier(frames.obs(torch.arange(len(frames)))).argmax(1).tolist()
    return float(np.mean([classifier.classes[i] == name for i, name in zip(found, classes, strict=True)]))


def main() -> None:
    """Run the three commands, and tell how well teacher and student do."""
    PLACE.mkdir(parents=True, exist_ok=True)
    label(record("train", 1), each=20)
    unseen = record("test", 2)
    enc, clf, student, data = (str(PLACE / name) for name in ("enc", "clf", "clf_s", "train.npz"))
    views = ["augmentation.pad=2", "batch_size=64", "learning_rate=3e-3"]
    head = ["objective=simclr", "objective.projection_depth=3"]
    curl_rl(["pretrain", *head, f"data={data}", f"out={enc}", "encoder=small", "updates=200", *views])
    labels = ["--data", data, "--labels", str(PLACE / "few.csv"), "--from-layer", "1"]
    curl_rl(["finetune", enc, *labels, "--out", clf, "updates=150", "augmentation.pad=2", "batch_size=32"])
    curl_rl(["distil", clf, "--data", data, "--out", student, "encoder.filters=8", "updates=300", *views])
    for name, folder in (("teacher", clf), ("student", student)):
        print(f"{name}: accuracy {accuracy(Path(folder), unseen):.3f} on 800 unseen frames")


if __name__ == "__main__":
    main()
