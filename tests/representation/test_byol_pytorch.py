"""The pages on coming from byol-pytorch, on pre-training and on fine-tuning are followed literally."""

import copy
import re
from typing import Any

import torch
from PIL import Image
from places import ROOT
from test_pretrain import play, small

from curl_rl import Pretrainer, frames_of, load_classifier
from curl_rl.config.overrides import compose
from curl_rl.run.trainer import train


def blocks(page: str) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```$", (ROOT / "docs" / page).read_text(), flags=re.MULTILINE | re.DOTALL)


def test_every_block_of_byol_pytorchs_page_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    usage, sizes, views, embeddings = blocks("byol_pytorch.md")
    exec(usage.replace("updates=100", "updates=20"), names)
    saved = torch.load("improved-net.pt")
    assert saved.keys() == names["Net"]().state_dict().keys()
    assert all(torch.equal(value, names["net"].state_dict()[key]) for key, value in saved.items())
    exec(sizes, names)
    objective = names["run"].learner.objective
    assert (objective.projector[0].out_features, objective.projector[-1].out_features) == (4096, 256)
    exec(views, names)
    exec(embeddings, names)
    assert (names["features"].shape, names["projections"].shape) == ((4, 32), (4, 128))


def test_every_block_of_the_page_on_pretraining_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    settings = ["budget_frames=200", "random_steps=50", "batch_size=4", "evaluation.every_frames=200"]
    settings += ["evaluation.episodes=1", "device=cpu", "threads=1", "env.overlap=false", "run_dir=runs/reach"]
    assert train(compose(["task=toy/reach", *settings])) == 0
    names: dict[str, Any] = {}
    frames, network = blocks("pretraining.md")
    exec(frames, names)
    assert names["batch"].obs.shape == (4, 6, 28, 28)
    exec(network, names)
    assert names["features"].shape == (64, 32)
    before, after = (copy.deepcopy(names[net].state_dict()) for net in ("net", "again"))
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert torch.equal(names["encoder"](names["images"]), names["features"])


def test_every_block_of_the_page_on_fine_tuning_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "shots").mkdir()
    for i in range(40):
        Image.fromarray(play().obs(torch.tensor([i]))[0].permute(1, 2, 0).numpy()).save(f"shots/{i}.png")
    rows = "".join(f"{i}.png,{('cat', 'dog')[i % 2]}\n" for i in range(8))
    (tmp_path / "shots" / "few.csv").write_text(f"name,class\n{rows}")
    taught = Pretrainer(small(), objective="simclr", frames=frames_of("shots"), batch_size=8)
    taught.train(updates=3, out="enc")
    names: dict[str, Any] = {}
    training, use = blocks("finetuning.md")
    exec(training, names)
    exec(use, names)
    assert names["logits"].shape == (4, 2)
    assert set(names["names"]) <= {"cat", "dog"}
    assert names["features"].shape == (4, 6)
    assert load_classifier("clf").head[0].in_features == 6
