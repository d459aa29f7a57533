"""SimCLR v2's three steps on toy/reach: learn from frames alone, fine-tune on eighty labels, distil into less."""

import csv
from pathlib import Path

import numpy as np
import torch

from curl_rl import frames_of, load_classifier
from curl_rl.cli import main as curl_rl
from curl_rl.representation.frames import Frames

PLACE = Path("runs/simclr_v2")
QUADRANTS = ("upper left", "upper right", "lower left", "lower right")


def record(name: str, seed: int) -> tuple[Frames, list[str]]:
    """Record random play; return its frames, and in which quadrant from the point the target lies in each."""
    curl_rl(["record", "task=toy/reach", "env.image_size=24", "--out", str(PLACE / name), "--seed", str(seed)])
    frames = frames_of(PLACE / name)
    point, target = frames.given("state").chunk(2, dim=1)
    right, below = (target > point).T.int()
    return frames, [QUADRANTS[i] for i in (right + 2 * below).tolist()]


def label(frames: Frames, classes: list[str], each: int) -> None:
    """Write a sheet with so many labels of each class."""
    with (PLACE / "few.csv").open("w", newline="") as file:
        sheet = csv.writer(file)
        sheet.writerow(("name", "class"))
        for quadrant in QUADRANTS:
            places = np.random.default_rng(0).permutation([i for i, name in enumerate(classes) if name == quadrant])
            sheet.writerows((frames.name(place), quadrant) for place in places[:each])


def accuracy(folder: Path, frames: Frames, classes: list[str]) -> float:
    """Return how often a classifier names the class of frames."""
    classifier = load_classifier(folder)
    with torch.no_grad():
        found = classifier(frames.obs(torch.arange(len(frames)))).argmax(1).tolist()
    return float(np.mean([classifier.classes[i] == name for i, name in zip(found, classes, strict=True)]))


def main() -> None:
    """Run the three commands, and tell how well teacher and student do."""
    PLACE.mkdir(parents=True, exist_ok=True)
    label(*record("train", 1), each=20)
    unseen = record("test", 2)
    enc, clf, student, data = (str(PLACE / name) for name in ("enc", "clf", "clf_s", "train"))
    views = ["augmentation.pad=2", "batch_size=64", "learning_rate=3e-3"]
    head = ["objective=simclr", "objective.projection_depth=3"]
    curl_rl(["pretrain", *head, f"data={data}", f"out={enc}", "encoder=small", "updates=200", *views])
    labels = ["--data", data, "--labels", str(PLACE / "few.csv"), "--from-layer", "1"]
    curl_rl(["finetune", enc, *labels, "--out", clf, "updates=150", "augmentation.pad=2", "batch_size=32"])
    curl_rl(["distil", clf, "--data", data, "--out", student, "encoder.filters=8", "updates=300", *views])
    for name, folder in (("teacher", clf), ("student", student)):
        print(f"{name}: accuracy {accuracy(Path(folder), *unseen):.3f} on {len(unseen[1])} unseen frames")


if __name__ == "__main__":
    main()
