"""Distillation: whose answers a student learns, what its folder says, how it goes on, and what is refused."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from digits import digits
from test_finetune import FEW, told, tuned
from test_pretrain import LOCAL, TINY, changed, looped, play, rows, small, states
from test_tap import Policy, words

from curl_rl import Distiller, Finetuner, Pretrainer, Tap, load_classifier, load_encoder
from curl_rl.config.finetuning import compose_distillation
from curl_rl.nn.augmentations import AUGMENTATIONS
from curl_rl.nn.encoders import encoder_config, make_encoder
from curl_rl.objectives import OBJECTIVES
from curl_rl.representation.probes.classifier import few_of_each
from curl_rl.types import ConfigError


@pytest.fixture
def clf(tmp_path) -> Path:
    tuned(small(), tmp_path / "clf")
    return tmp_path / "clf"


def distilled(teacher, out: Path, updates: int = 5, **options) -> Distiller:
    trainer = Distiller(teacher, **{"frames": play(classes=None), **TINY, **options})
    assert trainer.train(updates=updates, out=out) == 0
    return trainer


def softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_the_loss_is_the_papers(clf, temperature):
    trainer = Distiller(clf, frames=play(), temperature=temperature, augment="none", **TINY)
    batch, teacher = trainer.batch(0), load_classifier(clf)
    loss, metrics = trainer.loss(batch.obs, batch)
    asked, given = (net(batch.obs).detach().numpy() for net in (teacher, trainer.classifier))
    wanted = -(softmax(asked / temperature) * np.log(softmax(given / temperature))).sum(1).mean()
    assert loss.item() == pytest.approx(wanted, rel=1e-5)
    assert metrics["agreement"].item() == pytest.approx((asked.argmax(1) == given.argmax(1)).mean())


def test_labels_count_by_what_alpha_leaves(clf):
    options = {"frames": play(classes=None), "augment": "none", **TINY}
    trainer = Distiller(clf, labels=FEW, alpha=0.7, **options)
    batch, plain = trainer.batch(3), Distiller(clf, **options)
    assert len(batch.obs) == 16
    classes = batch.classes[8:]
    assert (classes >= 0).all()
    loss, metrics = trainer.loss(batch.obs, batch)
    taught, _ = plain.loss(batch.obs, batch)
    given = softmax(trainer.classifier(batch.obs).detach().numpy())[8:]
    true = -np.log(given[np.arange(8), classes.numpy()]).mean()
    assert metrics["label_loss"].item() == pytest.approx(true, rel=1e-5)
    assert loss.item() == pytest.approx(0.7 * taught.item() + 0.3 * true, rel=1e-5)


def test_the_folder_tells_teacher_and_labels(clf, tmp_path):
    before = {path.name: path.read_bytes() for path in clf.iterdir() if path.is_file()}
    trainer = distilled(clf, tmp_path / "one")
    described, of_teacher = told(tmp_path / "one"), told(clf)
    assert (described["made_by"], described["labels_seen"], described["classes"]) == ("distil", 0, ["a", "b", "c"])
    parts = of_teacher["parts"]["classifier"]["weights"]
    assert described["teacher"] == {"weights": of_teacher["weights"], "classifier": parts, "labels_seen": len(FEW)}
    loaded, images = load_classifier(tmp_path / "one"), play().obs(torch.arange(5))
    assert torch.equal(loaded(images), trainer.classifier.eval()(images))
    assert load_encoder(tmp_path / "one").feature_dim == 6
    assert {"loss", "agreement"} <= rows(tmp_path / "one").keys()
    assert {path.name: path.read_bytes() for path in clf.iterdir() if path.is_file()} == before
    distilled(clf, tmp_path / "two", labels=FEW, alpha=0.5)
    assert told(tmp_path / "two")["labels_seen"] == len(FEW)


def test_without_a_student_it_is_one_like_the_teacher_from_its_beginning(clf):
    teacher = load_classifier(clf)
    before = states(teacher)
    trainer = Distiller(teacher, frames=play(), **TINY)
    assert trainer.encoder.config == teacher.encoder.encoder.config
    assert {"convs.0.weight", "head.1.weight"} <= changed(states(teacher.encoder.encoder), trainer.encoder)
    looped(trainer, 4)
    assert changed(before, teacher) == set()


def test_a_teacher_with_batch_norm_stays_as_it_is(tmp_path):
    teacher = tuned(Tap(Policy(), layer="trunk.4"), tmp_path / "clf").classifier.train()
    before, student = states(teacher), Tap(Policy(), layer="trunk.4")
    distilled(teacher, tmp_path / "out", student=student)
    assert changed(before, teacher) == set()
    assert load_classifier(tmp_path / "out", module=Policy()).classes == ("a", "b", "c")
    with pytest.raises(ConfigError, match="the teacher is a network of your own: give the student, Tap"):
        Distiller(teacher, frames=play(), **TINY)


def test_a_larger_student_is_allowed_and_said(clf, tmp_path, capsys):
    large = make_encoder(encoder_config("small", feature_dim=20, filters=8), (3, 16, 16))
    distilled(clf, tmp_path / "large", student=large)
    assert "is larger than its teacher (" in capsys.readouterr().err
    distilled(clf, tmp_path / "same")
    assert "larger" not in capsys.readouterr().err


def test_it_goes_on_bit_for_bit(clf, tmp_path, monkeypatch):
    options = {"labels": FEW, "alpha": 0.5}
    distilled(clf, tmp_path / "whole", 11, **options)
    step, calls = Distiller.step, []

    def stopping(self, *given):
        calls.append(1)
        if len(calls) == 7:
            raise KeyboardInterrupt
        return step(self, *given)

    monkeypatch.setattr(Distiller, "step", stopping)
    with pytest.raises(KeyboardInterrupt):
        distilled(clf, tmp_path / "parts", 11, **options)
    monkeypatch.setattr(Distiller, "step", step)
    distilled(clf, tmp_path / "parts", 11, **options)
    assert rows(tmp_path / "parts") == rows(tmp_path / "whole")
    for name in ("config.json", "model.safetensors", "classifier.safetensors"):
        assert (tmp_path / "parts" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    with pytest.raises(ConfigError, match=r"holds a distillation of another configuration:\n  alpha: 0\.5 -> 0\.6\n"):
        distilled(clf, tmp_path / "parts", 11, labels=FEW, alpha=0.6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"alpha": 0.5}, "alpha=0.5 leaves a share to true labels: give labels, or alpha=1"),
        ({"labels": FEW}, "alpha=1 leaves labels without effect: give alpha=0.5, say"),
        ({"labels": {"0": "d"}, "alpha": 0.5}, "'d' is none of the classes a, b, c: label with these alone"),
        ({"labels": {"99": "a"}, "alpha": 0.5}, "the test has no frame '99'"),
        ({"frames": play(shape=(1, 16, 16))}, r"the encoder takes images \(3, 16, 16\), and the test shows it \(1"),
        ({"batch_size": 41}, "batch_size=41 exceeds the 40 frames"),
        ({"temperature": 0.0}, "temperature must be above 0"),
    ],
    ids=words,
)
def test_what_does_not_fit_is_refused(clf, changes, message):
    with pytest.raises(ConfigError, match=message):
        Distiller(clf, **{"frames": play(classes=None), **TINY, **changes})


# The command


def test_a_command_distils_into_an_encoder_of_the_teachers_kind_or_another(clf, tmp_path):
    assert compose_distillation([f"teacher={clf}", "data=x", "out=y"]).encoder == encoder_config(
        "small", feature_dim=6, filters=4
    )
    np.savez(tmp_path / "play.npz", frames=play().obs(torch.arange(40)).numpy())
    out = tmp_path / "out"
    command = ["distil", str(clf), "--data", str(tmp_path / "play.npz"), "--out", str(out)]
    command += ["encoder=small", "encoder.filters=2", "batch_size=8", "updates=4", "device=cpu", "threads=1"]
    subprocess.run([sys.executable, "-m", "curl_rl", *command], check=True, capture_output=True)
    assert json.loads((out / "config.json").read_text())["encoder"]["filters"] == 2
    assert load_classifier(out).classes == ("a", "b", "c")


def test_commands_that_cannot_be_honoured(tmp_path):
    tuned(Tap(Policy(), layer="trunk.4"), tmp_path / "own")
    for overrides, message in (
        (["data=x"], "teacher and out must be given: curl-rl distil clf --data runs/x --out clf_s"),
        ([f"teacher={tmp_path}"], "teacher=.* is no encoder's folder"),
        ([f"teacher={tmp_path / 'own'}"], "own holds a network of your own: distil it in Python"),
    ):
        with pytest.raises(ConfigError, match=message):
            compose_distillation(overrides)


# Learning


def test_a_small_student_learns_from_its_teachers_answers():
    """The small sister of the test over several seeds."""
    teacher, alone, student = of_digits(1, pretraining=100)
    assert student >= alone + 0.02, (teacher, alone, student)


@pytest.mark.learning
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_student_of_a_thirtieth_is_as_good_as_its_teacher(seed):
    teacher, alone, student = of_digits(seed, pretraining=400)
    assert student >= alone + 0.03, (teacher, alone, student)
    assert student >= teacher - 0.02, (teacher, alone, student)


def of_digits(seed: int, pretraining: int) -> tuple[float, float, float]:
    """Return accuracies with two labels a class: of a pre-trained teacher, of a student alone, and of one distilled."""
    (frames, test), shift = digits(), AUGMENTATIONS["shift"](AUGMENTATIONS["shift"].Config(pad=2))
    options = {"augment": shift, "seed": seed, **LOCAL}
    few = few_of_each(frames.classes, 2, torch.Generator().manual_seed(seed))
    given = {"frames": frames, "labels": {frames.name(i): str(int(frames.classes[i])) for i in few.tolist()}}

    def encoder(width: int, filters: int):
        torch.manual_seed(seed)
        return make_encoder(encoder_config("small", feature_dim=width, filters=filters), (1, 24, 24))

    def score(trainer) -> float:
        found = trainer.classifier.eval()(test.obs(torch.arange(len(test)))).argmax(1)
        return float((found == test.classes).float().mean())

    objective = OBJECTIVES["deepcluster"].Config(store_size=1200, period=9)
    first = Pretrainer(encoder(128, 32), objective=objective, frames=frames, learning_rate=3e-3, **options)
    looped(first, pretraining)
    teacher = Finetuner(first.encoder, batch_size=40, **given, **options)
    alone = Finetuner(encoder(15, 8), batch_size=40, **given, **options)
    for trainer in (teacher, alone):
        looped(trainer, 150)
    parts = {"frames": frames, "student": encoder(15, 8), "learning_rate": 3e-3}
    student = Distiller(teacher.classifier, **parts, **options)
    looped(student, 400)
    sizes = [sum(p.numel() for p in trainer.classifier.parameters()) for trainer in (teacher, student)]
    assert sizes[0] > 32 * sizes[1]
    return score(teacher), score(alone), score(student)
