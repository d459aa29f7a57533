"""Fine-tuning: what it keeps and trains, what its folder says, how it goes on, and what is refused."""

import copy
import json
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from reach import QUADRANTS, reach
from test_export import description, sealed
from test_pretrain import LOCAL, TINY, changed, configured, looped, play, rows, small, states, wait_for
from test_tap import Policy, words

from curl_rl import Finetuner, Pretrainer, Tap, cli, load_classifier, load_encoder
from curl_rl.config.finetuning import compose_finetuning
from curl_rl.config.overrides import compose
from curl_rl.nn.augmentations import AUGMENTATIONS
from curl_rl.nn.encoders import encoder_config, make_encoder
from curl_rl.objectives import OBJECTIVES
from curl_rl.representation.export import HEAD, EncoderError, load_part, save_encoder
from curl_rl.representation.frames import frames_of
from curl_rl.representation.frames.base import Frames
from curl_rl.representation.labels import classify, labelled_frames, read_labels
from curl_rl.representation.order import Rounds
from curl_rl.representation.probes.classifier import few_of_each
from curl_rl.run.pretrained import begin_from
from curl_rl.types import ConfigError

FEW = {str(i): "abc"[i % 3] for i in (0, 1, 2, 3, 4, 5, 21, 22, 23, 24)}


def pretrained(out: Path, objective="simclr", encoder=None, **options) -> Path:
    config = OBJECTIVES[objective].Config(**options) if options else configured(objective)
    Pretrainer(encoder or small(), objective=config, frames=play(), **TINY).train(updates=3, out=out)
    return out


@pytest.fixture
def enc(tmp_path) -> Path:
    return pretrained(tmp_path / "enc", projection_depth=3, projection_hidden=12)


def tuned(encoder, out: Path, updates: int = 5, **options) -> Finetuner:
    options = {"frames": play(classes=None), "labels": FEW, **TINY, **options}
    trainer = Finetuner(encoder, **options)
    assert trainer.train(updates=updates, out=out) == 0
    return trainer


def told(folder: Path) -> dict:
    return json.loads((folder / "config.json").read_text())


# The head beside a pre-trained encoder


@pytest.mark.parametrize("name", ["simclr", "byol", "simsiam", "barlow_twins", "moco", "deepcluster"])
def test_a_pretrained_folder_holds_the_head_that_projected(name, tmp_path):
    trainer = Pretrainer(small(), objective=configured(name), frames=play(), **TINY)
    trainer.train(updates=4, out=tmp_path)
    head, images = load_part(tmp_path, HEAD), play().obs(torch.arange(40))
    assert head is not None
    wanted = trainer.embed(images, projection=True)
    torch.testing.assert_close(head(load_encoder(tmp_path)(images)), wanted, rtol=1e-3, atol=1e-4)


def test_a_folder_without_a_head_is_as_before(tmp_path):
    assert load_part(pretrained(tmp_path, "spr"), HEAD) is None
    assert "parts" not in told(tmp_path)
    assert not (tmp_path / "head.safetensors").exists()


def test_a_head_that_was_tampered_with_is_refused(enc):
    intact = (enc / "head.safetensors").read_bytes()
    for content in (b"", intact[:-1], intact[:-1] + bytes([intact[-1] ^ 1]), b"0" * 100):
        (enc / "head.safetensors").write_bytes(content)
        with pytest.raises(EncoderError, match=r"head\.safetensors cannot be used: its checksum is not the one in"):
            load_part(enc, HEAD)
    (enc / "head.safetensors").unlink()
    with pytest.raises(EncoderError, match=r"head\.safetensors cannot be used: it is missing"):
        tuned(enc, enc.parent / "clf", from_layer=1)
    assert load_encoder(enc).feature_dim == 6  # which needs no head


# What is trained


def test_a_classifier_comes_back_bit_for_bit_and_is_an_encoders_folder_too(enc, tmp_path):
    trainer = tuned(enc, tmp_path / "clf", from_layer=2)
    loaded, images = load_classifier(tmp_path / "clf"), play().obs(torch.arange(7))
    logits = trainer.classifier.eval()(images)
    assert loaded.classes == ("a", "b", "c")
    assert torch.equal(loaded(images), logits)
    assert torch.equal(loaded(images[:1]), loaded(images)[:1]) or torch.allclose(loaded(images[:1]), logits[:1])
    assert torch.equal(loaded.features(images), load_encoder(tmp_path / "clf")(images))
    assert (logits.shape, loaded.obs_shape) == ((7, 3), (3, 16, 16))
    before = load_encoder(enc)
    assert not torch.equal(before(images), loaded.features(images))
    config = compose(["task=toy/reach", "env.image_size=16", f"pretrained.path={tmp_path / 'clf'}"])
    assert config.encoder.feature_dim == 6
    encoder = make_encoder(config.encoder, (3, 16, 16))
    begin_from(config, encoder)
    assert torch.equal(encoder(images), loaded.features(images))


def test_a_classifier_that_does_not_fit_its_classes_is_refused(enc, tmp_path):
    tuned(enc, tmp_path / "clf")
    for changes in ({"classes": ["a", "b"]}, {"classes": None}, {"parts": {"classifier": {"layers": [["tanh"]]}}}):
        described = description(tmp_path / "clf")
        described["parts"]["classifier"] |= changes.get("parts", {}).get("classifier", {})
        sealed(tmp_path / "clf", described | {key: value for key, value in changes.items() if key != "parts"})
        with pytest.raises(
            EncoderError, match=r"fits neither its encoder nor its classes|that this version cannot build"
        ):
            load_classifier(tmp_path / "clf")


def test_it_begins_with_the_weights_of_the_folder_and_the_first_layers_of_its_head(enc):
    whole, images = load_part(enc, HEAD), play().obs(torch.arange(5))
    assert whole is not None
    for count, places in ((0, 0), (1, 3), (3, 8)):
        trainer = Finetuner(enc, frames=play(classes=None), labels=FEW, from_layer=count, **TINY)
        features = load_encoder(enc)(images)
        wanted = trainer.head[-1](whole[:places](features))
        torch.testing.assert_close(trainer.classifier.eval()(images), wanted)
        assert len(trainer.head) == places + 1


def test_the_folder_says_what_it_was_made_of(enc, tmp_path):
    trainer = tuned(enc, tmp_path / "clf", from_layer=1)
    described = told(tmp_path / "clf")
    assert {
        key: described[key] for key in ("made_by", "classes", "from_layer", "freeze", "labels_seen", "updates")
    } == {
        "made_by": "finetune",
        "classes": ["a", "b", "c"],
        "from_layer": 1,
        "freeze": False,
        "labels_seen": len(FEW),
        "updates": 5,
    }
    assert described["from"] == {"weights": told(enc)["weights"], "labels_seen": 0, "objective": "simclr"}
    assert described["data"] == {"frames": 40, "crc32": trainer.frames.checksum}
    assert {"loss", "accuracy"} <= rows(tmp_path / "clf").keys()


def test_frozen_is_frozen_in_a_network_with_batch_norm(tmp_path):
    net = Policy()
    pretrained(tmp_path / "enc", encoder=Tap(net, layer="trunk.4"), projection_hidden=12)
    again = Policy()
    trainer = Finetuner(tmp_path / "enc", module=again, frames=play(), labels=FEW, freeze=True, from_layer=1, **TINY)
    before, kept, last = states(again), states(trainer.head[:-1]), states(trainer.head[-1])
    again.train()
    trainer.train(updates=5, out=tmp_path / "clf")
    assert changed(before, again) == set()
    assert changed(kept, trainer.head[:-1]) == set()
    assert changed(last, trainer.head[-1]) == {"weight", "bias"}
    assert told(tmp_path / "clf")["weights"] == told(tmp_path / "enc")["weights"]
    assert again.trunk.training  # the mode that it was left in
    loaded = load_classifier(tmp_path / "clf", module=Policy())
    images = play().obs(torch.arange(3))
    assert torch.equal(loaded(images), trainer.classifier.eval()(images))
    with pytest.raises(EncoderError, match="module=Policy"):
        load_classifier(tmp_path / "clf")


class Counting(Policy):
    """A network whose buffer moves in eval mode too."""

    def __init__(self):
        super().__init__()
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x):
        self.seen += len(x)
        return super().forward(x)


class Restless(Policy):
    """A network whose weights move as it runs."""

    def forward(self, x):
        with torch.no_grad():
            self.trunk[0].weight.add_(1e-3)
        return super().forward(x)


def test_a_buffer_that_moves_in_eval_mode_too_is_put_back(tmp_path):
    net = Counting()
    tap = Tap(net, layer="trunk.4")
    tuned(tap, tmp_path / "clf", freeze=True)
    assert net.seen == 0
    assert Tap(net, layer="trunk.4").see((3, 16, 16)).net.seen == 0


def test_a_network_that_will_not_be_frozen_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(ConfigError, match="the network was to stay as it is and has changed"):
        tuned(Tap(Restless(), layer="trunk.4"), tmp_path / "clf", freeze=True)
    assert not (tmp_path / "clf").exists()


def test_a_network_of_ones_own_is_tuned_up_to_its_layer(tmp_path):
    net = Policy()
    before = states(net)
    tuned(Tap(net, layer="trunk.4"), tmp_path)
    assert {name.partition(".")[0] for name in changed(before, net)} == {"trunk"}


# Which frames


def test_rounds_meet_every_class_equally_often_and_every_frame_of_one_in_turn():
    groups = [np.array([3, 5, 8]), np.array([1]), np.array([0, 2])]
    order = Rounds(groups, 7, seed=2)
    met = np.concatenate([order.ids(update).numpy() for update in range(9)])
    assert order.epoch == 1
    for which, group in enumerate(groups):
        mine = met[which::3]
        passes = [sorted(mine[i : i + len(group)]) for i in range(0, len(mine) // len(group) * len(group), len(group))]
        assert passes == [sorted(group)] * len(passes)
    assert [order.ids(4).tolist()] * 2 == [Rounds(groups, 7, seed=2).ids(4).tolist(), order.ids(4).tolist()]
    assert len({tuple(met[0::3][i : i + 3]) for i in range(0, 21, 3)}) > 1


def test_batches_are_balanced_unless_asked_otherwise():
    uneven = {str(i): "b" if i < 3 else "a" for i in range(30)}
    for balanced, least in ((True, 0.5), (False, 0.1)):
        trainer = Finetuner(small(), frames=play(), labels=uneven, balanced=balanced, **{**TINY, "batch_size": 30})
        classes = torch.cat([trainer.batch(update).classes for update in range(2)])
        assert (classes == 1).float().mean() == pytest.approx(least)


def test_what_is_held_out_is_measured_and_never_learned_from(tmp_path):
    episodes = torch.arange(40) // 2
    frames = play(classes=torch.arange(40) // 2 % 2, episode=episodes)
    trainer = Finetuner(small(), frames=frames, held_out=0.3, **TINY)
    learned = {int(i) for update in range(20) for i in trainer.batch(update).index}
    assert set(trainer.held_out.tolist()) | learned == set(range(40))
    assert not {i // 2 for i in learned} & {i // 2 for i in trainer.held_out.tolist()}
    trainer.train(updates=3, out=tmp_path)
    ids = trainer.held_out
    found = load_classifier(tmp_path)(frames.obs(ids)).argmax(1)
    wanted = float((found == frames.classes[ids]).float().mean())
    assert rows(tmp_path)["held_out_accuracy"] == [(3, pytest.approx(wanted))]
    assert (told(tmp_path)["labels_seen"], told(tmp_path)["held_out"]) == (len(learned), len(ids))


def test_a_class_that_a_split_leaves_empty_is_named():
    with pytest.raises(ConfigError, match="leaves no frame of class"):
        Finetuner(small(), frames=play(episode=None), labels={"0": "a", "1": "a", "21": "b"}, held_out=0.3, **TINY)


def test_the_command_tells_the_accuracy_on_what_is_held_out(shots, tmp_path, capsys, enc):
    sheet(shots, "name,class\n" + "".join(f"{'deep/' * (i % 2)}{i}.png,{'ab'[i % 2]}\n" for i in range(8)))
    words = [str(enc), "--labels", str(shots / "few.csv"), "--out", str(tmp_path / "clf")]
    assert cli.main(["finetune", *words, "held_out=0.5", "batch_size=4", "updates=2", "device=cpu", "threads=1"]) == 0
    assert re.fullmatch(r"accuracy \d\.\d{3} on 4 frames held out\n", capsys.readouterr().out)


# Labels


def sheet(folder: Path, text: str) -> Path:
    (folder / "few.csv").write_text(text)
    return folder / "few.csv"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a.png,cat\n", r"few\.csv begins with 'a\.png,cat': make name,class its first row"),
        ("", "begins with '': make name,class"),
        ("name,class\n", "labels nothing: give a row for each frame"),
        ("name,class\na,cat\nb\n", r"few\.csv, row 3: 'b' is no name and class: give both"),
        ("name,class\na,\n", "row 2: 'a,' is no name and class"),
        ("name,class\na,cat\n\nb,dog\na,dog\n", "row 5: 'a' is 'dog' here and 'cat' before: keep one"),
        ("name,class\n./a/b,cat\na//b,dog\n", "row 3: 'a/b' is 'dog' here and 'cat' before"),
        ('name,class\n"a,cat\n', "cannot be read as CSV"),
    ],
    ids=words,
)
def test_files_of_labels_that_are_none(tmp_path, text, message):
    with pytest.raises(ConfigError, match=message):
        read_labels(sheet(tmp_path, text))


def test_a_file_of_labels_is_read(tmp_path):
    text = "\ufeffname, class\n1 , cat\n\n./1,cat\n2,dog\n"
    assert read_labels(sheet(tmp_path, text)) == {"1": "cat", "2": "dog"}
    with pytest.raises(ConfigError, match=r"there is no .*none\.csv: give a CSV file"):
        read_labels(tmp_path / "none.csv")


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ({"0": "a", "41": "b", "x": "a", "y": "b", "z": "b"}, r"the test has no frame '41', 'x', 'y' and 1 more; .*1"),
        ({"0": "a", "1": "a"}, "the test is labelled with one class, 'a': label two or more"),
    ],
    ids=["names", "one"],
)
def test_labels_that_do_not_fit_the_frames(labels, message):
    with pytest.raises(ConfigError, match=message):
        labelled_frames(labels, play())


def test_classes_are_sorted_words_and_frames_keep_the_rest():
    frames = play()
    other = classify(frames, {"3": "dog", 0: "cat"})
    assert other.class_names == ("cat", "dog")
    assert other.classes.tolist()[:4] == [0, -1, -1, 1]
    assert other.known.sum() == 2
    assert frames.known.all()
    assert other.checksum != frames.checksum
    assert torch.equal(other.obs(torch.arange(40)), frames.obs(torch.arange(40)))


def test_labels_are_by_names_that_are_a_frames_own(tmp_path):
    for folder in ("x", "y"):
        (tmp_path / folder).mkdir()
        np.savez(tmp_path / folder / "play.npz", frames=np.zeros((3, 1, 8, 8), np.uint8))
    frames = classify(frames_of(tmp_path), {"x/play.npz#0": "a", "y/play.npz#0": "b"})
    assert frames.classes.tolist() == [0, -1, -1, 1, -1, -1]
    twice = Frames(torch.zeros(3, 1, 8, 8).byte(), source="twice", names=["a", "b", "a"])
    assert classify(twice, {"b": "x"}).classes.tolist() == [-1, 0, -1]
    with pytest.raises(ConfigError, match="twice has two frames 'a': label frames whose names are their own"):
        classify(twice, {"a": "x"})


def test_frames_that_have_classes_need_no_labels():
    sparse = torch.where(torch.arange(40) % 2 == 0, torch.arange(40) % 3 * 5, -1)
    own = labelled_frames(None, play(classes=sparse))
    assert own.class_names == ("0", "5", "10")
    assert own.classes.unique().tolist() == [-1, 0, 1, 2]
    with pytest.raises(ConfigError, match="the test has no classes: give labels, or frames that have"):
        labelled_frames(None, play(classes=None))
    with pytest.raises(ConfigError, match="frames are named by nothing"):
        labelled_frames(None)


@pytest.fixture
def shots(tmp_path) -> Path:
    """Images in a folder, of which a sheet beside them labels some."""
    folder = tmp_path / "shots"
    (folder / "deep").mkdir(parents=True)
    for i in range(8):
        name = f"deep/{i}.png" if i % 2 else f"{i}.png"
        Image.fromarray(play().obs(torch.tensor([i]))[0].permute(1, 2, 0).numpy()).save(folder / name)
    Image.new("RGB", (5, 5)).save(folder / "other.png")  # which nobody names
    sheet(folder, "name,class\n0.png,cat\ndeep/1.png,dog\n2.png,cat\ndeep/3.png,dog\n")
    return folder


def test_labels_name_images_beside_them(shots):
    frames = labelled_frames(shots / "few.csv")
    assert {frames.name(i): frames.class_names[int(frames.classes[i])] for i in range(4)} == read_labels(
        shots / "few.csv"
    )
    sheet(shots, "name,class\n0.png,cat\ndeep/2.png,dog\nother.png,cat\n")
    with pytest.raises(ConfigError, match=r"shots has no frame 'deep/2\.png'; there are, among others, deep/"):
        labelled_frames(shots / "few.csv")
    sheet(shots, f"name,class\n{shots / '0.png'},cat\ndeep/1.png,dog\n")
    with pytest.raises(ConfigError, match=r"0\.png' is no path in .*shots: give names relative to it"):
        labelled_frames(shots / "few.csv")
    sheet(shots, "name,class\n0.png,cat\ndeep/1.png,dog\nother.png,cat\n")
    with pytest.raises(ConfigError, match=r"other\.png: it is 3x5x5 .* and .*0\.png is 3x16x16"):
        labelled_frames(shots / "few.csv")
    assert len(labelled_frames(shots / "few.csv", size=16)) == 3
    for idle, told_why in (({"every": 2}, "every would have no effect on"), ({"classes": "folder"}, "beside labels")):
        with pytest.raises(ConfigError, match=told_why):
            labelled_frames(shots / "few.csv", **idle)


# The command


def command(*arguments) -> list[str]:
    more = ("batch_size=8", "device=cpu", "threads=1", "checkpoint_every=10")
    return [sys.executable, "-m", "curl_rl", "finetune", *map(str, arguments), *more]


def test_a_command_that_was_killed_goes_on_bit_for_bit(enc, shots, tmp_path):
    whole, parts = (command(enc, "--labels", shots / "few.csv", "--out", tmp_path / n, "updates=60") for n in "ab")
    subprocess.run(whole, check=True, capture_output=True)
    with subprocess.Popen(parts, stderr=subprocess.DEVNULL) as process:
        wait_for(tmp_path / "b" / "training" / "checkpoints" / "manifest-000000000020.json")
        process.send_signal(signal.SIGKILL)
    done = subprocess.run(parts, check=True, capture_output=True, text=True)
    assert "60/60 updates" in done.stderr
    for name in ("config.json", "model.safetensors", "classifier.safetensors", "memory.safetensors"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    assert rows(tmp_path / "a") == rows(tmp_path / "b")


def test_another_training_does_not_take_its_place(enc, tmp_path):
    tuned(enc, tmp_path / "clf")
    with pytest.raises(ConfigError, match=r"holds a fine-tuning of another configuration:\n  from_layer: 0 -> 1\n"):
        tuned(enc, tmp_path / "clf", from_layer=1)
    with pytest.raises(ConfigError, match=r"enc holds a pre-training, and this is a fine-tuning: give another out"):
        tuned(enc, enc)
    tuned(enc, tmp_path / "clf")
    other = pretrained(tmp_path / "other", "byol")
    with pytest.raises(ConfigError, match=r"from\.weights: \w+ -> \w+"):
        tuned(other, tmp_path / "clf")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["labels=x"], "pretrained and out must be given: curl-rl finetune enc --labels few.csv --out clf"),
        (["pretrained=x", "out=y", "tau=1"], "unknown key 'tau'"),
        (["pretrained=x", "out=y", "from_layer=-1"], "from_layer must be at least 0"),
        (["pretrained=x", "out=y", "freez=true"], "unknown key 'freez'; did you mean freeze"),
        (["pretrained=x", "out=y", "seed=1,2"], "finetune takes one value"),
    ],
    ids=words,
)
def test_commands_that_cannot_be_honoured(overrides, message):
    with pytest.raises(ConfigError, match=message):
        compose_finetuning(overrides)


def test_layers_and_frames_that_do_not_fit(enc, tmp_path):
    exported = save_encoder(small(), {"name": "small", "feature_dim": 6, "filters": 4}, (3, 16, 16), tmp_path / "run")
    given = {"frames": play(), "labels": FEW, **TINY}
    for encoder, layer, message in (
        (enc, 4, r"the head of .*enc has 3 linear layers: give from_layer from 0 to 3"),
        (pretrained(tmp_path / "spr", "spr"), 1, r"spr holds no projection head \(objective=spr projects no features"),
        (exported, 1, r"run holds no projection head \(only curl-rl pretrain keeps one\): leave from_layer out"),
        (small(), 1, "from_layer=1 is of a pre-trained head: give the folder that holds it"),
    ):
        with pytest.raises(ConfigError, match=message):
            Finetuner(encoder, from_layer=layer, **given)
    with pytest.raises(ConfigError, match=r"the encoder takes images \(3, 16, 16\), and the test shows it \(1, 16, 16"):
        Finetuner(enc, **{**given, "frames": play(shape=(1, 16, 16))})
    with pytest.raises(EncoderError, match=r"enc holds an encoder and no classifier: curl-rl finetune .*enc --labels"):
        load_classifier(enc)
    with pytest.raises(FileNotFoundError, match="no exported encoder in"):
        Finetuner(tmp_path / "nowhere", **given)


# Learning


def test_a_pretrained_encoder_needs_fewer_labels():
    """The small sister of the test over several seeds."""
    own, alone = few_labels(2, updates=200)
    assert own >= alone + 0.04, (own, alone)


@pytest.mark.learning
def test_a_pretrained_encoder_needs_fewer_labels_on_several_seeds():
    scores = [few_labels(seed, updates=400) for seed in range(1, 5)]
    own, alone = np.mean(scores, 0)
    assert own >= alone + 0.06, scores


def few_labels(seed: int, updates: int) -> tuple[float, float]:
    """Return the accuracy of one and the same training on five labels a class, after pre-training and without it."""
    frames, test = reach(60, 1), reach(30, 2)
    shift = AUGMENTATIONS["shift"](AUGMENTATIONS["shift"].Config(pad=2))
    options = {"augment": shift, "seed": seed, **LOCAL}
    few = few_of_each(frames.classes, 5, torch.Generator().manual_seed(seed))
    labels = {frames.name(i): QUADRANTS[int(frames.classes[i])] for i in few.tolist()}
    torch.manual_seed(seed)
    encoder = make_encoder(encoder_config("small"), (3, 24, 24))
    fresh = copy.deepcopy(encoder)
    taught = Pretrainer(encoder, objective="simclr", frames=frames, batch_size=64, learning_rate=3e-3, **options)
    looped(taught, updates)
    scores = []
    for start in (encoder, fresh):
        tuner = Finetuner(start, frames=frames, labels=labels, batch_size=32, **options)
        looped(tuner, 150)
        found = tuner.classifier.eval()(test.obs(torch.arange(len(test)))).argmax(1)
        names = [tuner.classes[i] for i in found.tolist()]
        scores.append(np.mean([name == QUADRANTS[i] for name, i in zip(names, test.classes.tolist(), strict=True)]))
    return float(scores[0]), float(scores[1])
