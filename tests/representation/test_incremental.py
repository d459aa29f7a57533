"""Learning further classes: what it goes on with, what it keeps and measures, how it goes on, and what is refused."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from digits import digits
from PIL import Image
from test_distil import distilled
from test_finetune import told, tuned
from test_memory import uneven
from test_pretrain import LOCAL, TINY, digits_encoder, play, rows, small
from test_tap import Policy
from test_unknowns import other

from curl_rl import Finetuner, Incremental, Tap, cli, load_classifier
from curl_rl.config.unknowns import compose_addition
from curl_rl.nn.augmentations import AUGMENTATIONS
from curl_rl.nn.novelty import threshold
from curl_rl.representation.memory import load_memory
from curl_rl.representation.unknowns.measures import auroc
from curl_rl.representation.unknowns.scores import energy
from curl_rl.types import ConfigError

NEW = {f"ramp{i}": "de"[i % 2] for i in range(20)}


@pytest.fixture
def clf(tmp_path) -> Path:
    tuned(small(), tmp_path / "clf", frames=uneven(class_names="abc"), labels=None, held_out=0.25, exemplars=4)
    return tmp_path / "clf"


def adding(clf: Path, **options) -> Incremental:
    return Incremental(clf, **{"frames": other(), "labels": NEW, **TINY, **options})


def added(clf: Path, out: Path, updates: int = 6, **options) -> Incremental:
    trainer = adding(clf, **options)
    assert trainer.train(updates=updates, out=out) == 0
    return trainer


# What it begins with


def test_the_old_logits_start_as_they_were(clf):
    trainer, old, images = adding(clf), load_classifier(clf), uneven().obs(torch.arange(9))
    logits = trainer.classifier.eval()(images)
    assert logits.shape == (9, 5)
    torch.testing.assert_close(logits[:, :3], old(images))
    assert trainer.classes == ("a", "b", "c", "d", "e")


def test_it_learns_from_exemplars_and_new_frames_evenly_and_from_nothing_held_out(clf):
    trainer, memory = adding(clf, exemplars=3, batch_size=50), load_memory(clf)
    batch = trainer.batch(0)
    assert batch.classes.bincount().tolist() == [10] * 5
    seen = {trainer.frames.name(i) for update in range(20) for i in trainer.batch(update).index.tolist()}
    kept = [{memory.names[i] for i in memory.exemplars_of(held_out=apart).tolist()} for apart in (False, True)]
    old = seen - NEW.keys()
    assert (len(old), old < kept[0], old & kept[1]) == (9, True, set())
    tested = {trainer.frames.name(i) for i in trainer.held_out.tolist()}
    assert kept[1] == tested - NEW.keys()
    assert (len(seen & NEW.keys()), len(tested & NEW.keys()), seen & tested) == (16, 4, set())
    place = trainer.frames.name(int(batch.index[0]))
    assert torch.equal(batch.obs[0], memory.images[memory.names.index(place)])


def test_without_exemplars_it_learns_the_new_alone(clf):
    trainer = adding(clf, exemplars=0)
    assert torch.cat([trainer.batch(update).classes for update in range(9)]).unique().tolist() == [3, 4]
    assert len(trainer.held_out) > 4  # what the old folder held out still shows what is forgotten


def test_one_new_class_is_enough_and_frames_may_be_stacked(tmp_path):
    half = play(classes=torch.tensor([0] * 20 + [1] * 20), episode=torch.arange(40) // 4, stack=2)
    tuned(small((6, 16, 16)), tmp_path / "clf", frames=half, labels=None, held_out=0.25)
    fresh = play(classes=None, episode=torch.arange(40) // 4)  # one image an observation, until the classifier asks
    trainer = added(tmp_path / "clf", tmp_path / "two", frames=fresh, labels={str(i): "new" for i in range(0, 40, 2)})
    assert trainer.classes == ("0", "1", "new")
    assert (told(tmp_path / "two")["stack"], load_classifier(tmp_path / "two").obs_shape) == (2, (6, 16, 16))
    number = int(trainer.learned[-1])
    name = int(trainer.frames.name(number))
    assert torch.equal(trainer.frames.obs(torch.tensor([number])), fresh.stacked(2).obs(torch.tensor([name])))


def test_a_network_of_ones_own_learns_too(tmp_path):
    tuned(Tap(Policy(), layer="trunk.4"), tmp_path / "clf", frames=uneven(), labels=None, held_out=0.25)
    net = Policy()
    added(tmp_path / "clf", tmp_path / "two", module=net)
    assert load_classifier(tmp_path / "two", module=Policy()).classes == ("0", "1", "2", "d", "e")


# What it tells


def test_the_report_is_what_the_folders_show(clf, tmp_path, capsys):
    trainer = added(clf, tmp_path / "two", updates=9)
    report = json.loads((tmp_path / "two" / "learned.json").read_text())
    classes = trainer.frames.classes[trainer.held_out]
    images = trainer.frames.obs(trainer.held_out)
    for when, folder in (("before", clf), ("after", tmp_path / "two")):
        logits = load_classifier(folder)(images).detach()
        right, is_old = (logits.argmax(1) == classes).double(), classes < 3
        scores = energy(logits[:, :3])
        limit = threshold(scores[is_old], 0.95)
        wrong = [bool(s <= limit) and int(row.argmax()) < 3 for s, row in zip(scores, logits, strict=True)]
        assert report[when] == {
            "old_accuracy": pytest.approx(float(right[is_old].mean())),
            "new_accuracy": pytest.approx(float(right[~is_old].mean())),
            "auroc": pytest.approx(auroc(scores[is_old], scores[~is_old])),
            "a_ose": sum(np.array(wrong)[~is_old.numpy()]),
        }
    assert (report["old_classes"], report["new_classes"]) == (["a", "b", "c"], ["d", "e"])
    assert (report["old_frames"], report["new_frames"]) == (int((classes < 3).sum()), 4)
    assert f"{report['old_frames']} old and 4 new frames held out\n  old_accuracy: " in capsys.readouterr().err
    logged = rows(tmp_path / "two")
    assert logged["new_accuracy"][-1] == (9, pytest.approx(report["after"]["new_accuracy"]))


def test_what_was_not_held_out_is_not_measured(tmp_path, capsys):
    tuned(small(), tmp_path / "clf", frames=uneven(), labels=None)
    added(tmp_path / "clf", tmp_path / "two", held_out=0.0)
    report = json.loads((tmp_path / "two" / "learned.json").read_text())
    assert set(report["before"].values()) == set(report["after"].values()) == {None}
    assert "auroc: not measured" in capsys.readouterr().err


def test_the_folder_says_what_it_was_made_of_and_learns_again(clf, tmp_path):
    trainer, before = added(clf, tmp_path / "two"), told(clf)
    assert trainer.old == 3
    described = told(tmp_path / "two")
    assert described["from"] == {
        "weights": before["weights"],
        "classifier": before["parts"]["classifier"]["weights"],
        "labels_seen": before["labels_seen"],
        "classes": 3,
    }
    assert (described["made_by"], described["labels_seen"]) == ("learn", before["labels_seen"] + 16)
    memory = load_memory(tmp_path / "two")
    kept = memory.classes[memory.exemplars[memory.exemplars_of(held_out=False)]]
    assert kept.bincount().tolist() == [4, 4, 4, 8, 8]
    again = added(tmp_path / "two", tmp_path / "three", labels={f"ramp{i}": "f" for i in range(20, 30)})
    assert again.classes == ("a", "b", "c", "d", "e", "f")
    assert set(load_memory(tmp_path / "three").classes.tolist()) == set(range(6))
    assert told(clf) == before


def test_it_goes_on_bit_for_bit(clf, tmp_path, monkeypatch):
    added(clf, tmp_path / "whole", updates=11)
    step, calls = Incremental.step, []

    def stopping(self, *given):
        calls.append(1)
        if len(calls) == 7:
            raise KeyboardInterrupt
        return step(self, *given)

    with monkeypatch.context() as patch:
        patch.setattr(Incremental, "step", stopping)
        with pytest.raises(KeyboardInterrupt):
            added(clf, tmp_path / "parts", updates=11)
    assert not (tmp_path / "parts" / "learned.json").exists()
    added(clf, tmp_path / "parts", updates=11)
    for name in ("config.json", "model.safetensors", "classifier.safetensors", "memory.safetensors", "learned.json"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "parts" / name).read_bytes()
    with pytest.raises(
        ConfigError, match=r"holds a learning of further classes of another .*:\n  exemplars: 20 -> 2\n"
    ):
        added(clf, tmp_path / "parts", updates=11, exemplars=2)


# What is refused


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"labels": {"ramp0": "a", "ramp1": "d"}}, "'a' is a class of .*clf already: give new classes alone"),
        ({"labels": {"ramp99": "d"}}, "ramps has no frame 'ramp99'"),
        ({"labels": {f"ramp{i}": "d" for i in range(2)}}, "leaves no frame of class d: give more, or another share"),
        ({"frames": other(shape=(3, 20, 20))}, r"clf does not take ramps: .*resize images to 16x16"),
        ({"augment": "crop"}, r"augmentation\.size=84 does not fit in images of side 16"),
        ({"labels": None}, "ramps has no classes: give labels"),
        ({"held_out": 1.0}, "held_out must be at least 0 and below 1"),
    ],
    ids=["class", "name", "few", "size", "augmentation", "labels", "share"],
)
def test_frames_and_labels_that_do_not_fit(clf, options, message):
    with pytest.raises(ConfigError, match=message):
        adding(clf, **options)


def test_a_classifier_that_remembers_too_little(clf, tmp_path):
    tuned(small(), tmp_path / "none", frames=uneven(), labels=None, exemplars=0)
    distilled(clf, tmp_path / "student")
    with pytest.raises(ConfigError, match=r"none keeps no exemplars: fine-tune it with exemplars=20, or"):
        adding(tmp_path / "none")
    assert adding(tmp_path / "none", exemplars=0).old == 3
    with pytest.raises(ConfigError, match=r"student remembers no frames, as only a fine-tuned classifier does"):
        adding(tmp_path / "student", exemplars=0)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["out=x"], "classifier and labels must be given: curl-rl learn clf --labels new.csv --out clf2"),
        (["classifier=nowhere", "labels=x", "out=y"], "classifier=nowhere is no encoder's folder"),
        (["labels=x", "exemplars=-1"], "exemplars must be at least 0"),
        (["labels=x", "freeze=true"], "unknown key 'freeze'"),
    ],
    ids=["lacking", "nowhere", "exemplars", "freeze"],
)
def test_commands_that_cannot_be_honoured(words, message):
    with pytest.raises(ConfigError, match=message):
        compose_addition(words)


# The commands, one after another


def test_what_is_flagged_and_named_is_learned(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    tuned(small(), Path("clf"), frames=other(), labels={f"ramp{i}": "ab"[i % 2] for i in range(30)}, held_out=0.25)
    Path("shots").mkdir()
    for i in range(20):
        Image.fromarray(uneven().obs(torch.tensor([i]))[0].permute(1, 2, 0).numpy()).save(f"shots/{i}.png")
    local = ["device=cpu", "seed=2"]
    assert cli.main(["flag", "clf", "--data", "shots", "--by", "neighbours", "--out", "new", *local]) == 0
    with Path("new/labels.csv").open() as file:
        names = [row["name"] for row in csv.DictReader(file)]
    assert len(names) >= 15  # noise is like no ramp
    words = ["learn", "clf", "--labels", "new/labels.csv", "--data", "shots", "--out", "clf2", "--exemplars", "3"]
    assert cli.main(words) == 2
    assert f"labels.csv, row 2: '{names[0]},' is no name and class: give both" in capsys.readouterr().err
    assert not Path("clf2").exists()
    Path("new/labels.csv").write_text("name,class\n" + "".join(f"{name},noise\n" for name in names))
    assert cli.main([*words, "updates=4", "batch_size=8", "threads=1", *local]) == 0
    assert load_classifier("clf2").classes == ("a", "b", "noise")
    assert told(Path("clf2"))["augmentation"] == told(Path("clf"))["augmentation"]


# Learning


def grown(seed: int, updates: int, exemplars: int, out: Path) -> tuple[float, float]:
    """Return the accuracy on test digits 0 to 4, learned first, and 5 to 9, learned with so many exemplars."""
    train_frames, test = digits()
    shift = AUGMENTATIONS["shift"](AUGMENTATIONS["shift"].Config(pad=2))
    options = {"frames": train_frames, "augment": shift, "batch_size": 64, "seed": seed, **LOCAL}

    def labels(which: range) -> dict[str, str]:
        return {train_frames.name(i): str(c) for i, c in enumerate(train_frames.classes.tolist()) if c in which}

    first = Finetuner(digits_encoder(feature_dim=64, filters=32), labels=labels(range(5)), **options)
    first.train(updates=updates, out=out / "first")  # goes on, and is finished, for another number of exemplars
    run = Incremental(out / "first", labels=labels(range(5, 10)), exemplars=exemplars, **options)
    run.train(updates=updates, out=out / str(exemplars))
    right = load_classifier(out / str(exemplars))(test.obs(torch.arange(len(test)))).argmax(1) == test.classes
    old, new = (float(right[part].double().mean()) for part in (test.classes < 5, test.classes >= 5))
    return old, new


def test_exemplars_keep_what_was_learned(tmp_path):
    """The small sister of the next: one seed, fewer updates."""
    kept, forgotten = (grown(1, 90, exemplars, tmp_path) for exemplars in (20, 0))
    assert kept[0] >= 0.9
    assert kept[1] >= 0.9
    assert forgotten[0] <= 0.3


@pytest.mark.learning
def test_five_classes_more_are_learned_and_the_old_are_kept(tmp_path):
    for seed in (1, 2, 3):
        old, new = grown(seed, 300, 20, tmp_path / str(seed))
        assert (old >= 0.93, new >= 0.95) == (True, True), (seed, old, new)
        assert grown(seed, 300, 0, tmp_path / str(seed))[0] <= 0.3
