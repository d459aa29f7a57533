"""The page on unknowns is followed, at a small size."""

import re
import shlex
from pathlib import Path

import torch
from PIL import Image
from places import ROOT
from test_memory import uneven
from test_pretrain import small
from test_unknowns import other

from curl_rl import FrameIndex, Pretrainer, cli, frames_of
from curl_rl.config.overrides import compose
from curl_rl.run.recording import record
from curl_rl.run.trainer import train

PAGE = (ROOT / "docs" / "unknown.md").read_text()
SHORT = {"finetune": ["updates=20", "batch_size=8"], "learn": ["updates=20", "batch_size=8"], "flag": []}


def blocks(language: str) -> list[str]:
    found = re.findall(r"^```(\w*)\n(.*?)^```$", PAGE, flags=re.MULTILINE | re.DOTALL)
    return [block for each, block in found if each == language]


def save(frames, folder: str, count: int) -> None:
    Path(folder).mkdir()
    for i in range(count):
        Image.fromarray(frames.obs(torch.tensor([i]))[0].permute(1, 2, 0).numpy()).save(f"{folder}/{i}.png")


def follow(line: str) -> None:
    verb, *words = shlex.split(line, comments=True)[1:]
    assert cli.main([verb, *words, "device=cpu", *SHORT[verb]]) == 0


def test_the_page_is_followed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save(other(), "shots", 30)
    save(uneven(), "later", 30)
    rows = "".join(f"{i}.png,{'dim' if i < 15 else 'bright'}\n" for i in range(30))
    Path("shots/few.csv").write_text(f"name,class\n{rows}")
    Pretrainer(small(), objective="simclr", frames=frames_of("shots"), batch_size=8).train(updates=3, out="enc")
    (tune, flag, learn), (strange,) = (block.splitlines() for block in blocks(""))
    follow(tune)
    follow(flag)
    names = [row.rstrip(",") for row in Path("new/labels.csv").read_text().splitlines()[1:]]
    assert set(names) <= {f"{i}.png" for i in range(30)}
    assert FrameIndex.load("new/index").rows.names == names
    Path("named.csv").write_text("name,class\n" + "".join(f"{i}.png,noise\n" for i in range(20)))
    follow(learn)
    scores, more = blocks("python")
    known: dict = {}
    exec(scores, known)
    assert known["told_apart"] > 0.8
    exec(more.replace("updates=40", "updates=4"), known)
    assert known["after"].keys() == {"old_accuracy", "new_accuracy", "auroc", "a_ose"}
    settings = ["budget_frames=80", "random_steps=60", "evaluation.every_frames=80", "evaluation.episodes=1"]
    assert train(compose(["task=toy/reach", "run_dir=runs/reach", "device=cpu", "threads=1", *settings])) == 0
    record(compose(["task=toy/reach", "seed=7"]), Path("other"), episodes=2, workers=1)
    follow(strange)
    assert Path("strange/flagged.csv").is_file()
