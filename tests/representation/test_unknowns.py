"""How unknown frames are: scores and measures against others' formulas, what calibrates them, and what is laid out."""

import csv
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from digits import digits
from reach import reach
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import NearestNeighbors
from test_distil import distilled
from test_finetune import tuned
from test_memory import uneven
from test_pretrain import LOCAL, digits_encoder, looped, play, small
from test_tap import Policy
from torch import nn

from curl_rl import Finetuner, FrameIndex, Recogniser, Tap, cli, load_classifier, load_encoder
from curl_rl.config.overrides import compose
from curl_rl.config.unknowns import compose_flagging
from curl_rl.nn.augmentations import AUGMENTATIONS
from curl_rl.nn.novelty import threshold
from curl_rl.representation.classifier import Classifier
from curl_rl.representation.export import EncoderError, ExportedEncoder, save_encoder
from curl_rl.representation.frames import Frames
from curl_rl.representation.looking import embed
from curl_rl.representation.memory import load_memory
from curl_rl.representation.unknowns.flagging import find_unknown
from curl_rl.representation.unknowns.measures import auroc, open_set_error, open_set_measures, wilderness_impact
from curl_rl.representation.unknowns.scores import SCORES, Known, energy, make_score
from curl_rl.run.recording import record
from curl_rl.run.trainer import train
from curl_rl.types import ConfigError


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# Scores


@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_energy_is_the_papers(temperature):
    logits = 5 * drawn(20, 4)
    wanted = [-temperature * math.log(sum(math.exp(x / temperature) for x in row)) for row in logits.tolist()]
    assert energy(logits, temperature).tolist() == pytest.approx(wanted, rel=1e-5)
    assert energy(logits + 3).tolist() == pytest.approx((energy(logits) - 3).tolist(), rel=1e-4)
    assert energy(torch.tensor([[1000.0, 0.0]])).tolist() == [-1000.0]  # without overflow


def test_the_score_by_energy_is_of_the_classifiers_logits():
    last, features = nn.Linear(6, 3), drawn(9, 6)
    found = make_score("energy", Known(torch.empty(0, 6), last)).score(features)
    assert torch.equal(found, -last(features).detach().logsumexp(1))
    with pytest.raises(ConfigError, match="energy is of a classifier's logits: give a classifier, or --by neighbours"):
        make_score("energy", Known(features))


@pytest.mark.parametrize("count", [1, 5])
def test_the_score_by_neighbours_is_scikit_learns_distance(count):
    known, features = drawn(50, 6) + 1, drawn(20, 6, seed=1)
    score = SCORES["neighbours"](SCORES["neighbours"].Config(count=count), Known(known))
    unit = [(each / each.norm(dim=1, keepdim=True)).numpy() for each in (known, features)]
    wanted = NearestNeighbors(n_neighbors=count).fit(unit[0]).kneighbors(unit[1])[0][:, -1]
    assert score.score(features).numpy() == pytest.approx(wanted, abs=1e-5)
    assert score.score(7 * features).numpy() == pytest.approx(wanted, abs=1e-5)


def test_scores_that_cannot_be():
    with pytest.raises(ConfigError, match="unknown score 'entropy'; there are energy, neighbours"):
        make_score("entropy", Known(drawn(9, 2)))
    with pytest.raises(ConfigError, match="by neighbours needs 5 known frames, and 4 are remembered"):
        make_score("neighbours", Known(drawn(4, 2)))
    with pytest.raises(ConfigError, match=r"neighbours\.count must be at least 1"):
        SCORES["neighbours"](SCORES["neighbours"].Config(count=0), Known(drawn(9, 2)))


@pytest.mark.parametrize("accept", [0.07, 0.5, 0.95, 1.0])
@pytest.mark.parametrize("count", [1, 19, 20, 100])
def test_the_threshold_is_the_least_that_lets_the_share_pass(accept, count):
    scores = drawn(count).mul(3).round()  # with ties
    passing = [limit for limit in scores.tolist() if (scores <= limit).double().mean() >= accept - 1e-12]
    assert threshold(scores, accept) == min(passing)


def test_however_few_pass_it_is_one():
    assert threshold(torch.tensor([3.0, 1.0, 2.0]), 1e-12) == 1


def test_a_threshold_of_nothing():
    with pytest.raises(ConfigError, match=r"no known frames were held out: fine-tune with held_out=0\.2, or"):
        threshold(torch.empty(0), 0.95)
    with pytest.raises(ConfigError, match="accept must be above 0 and at most 1, got 0"):
        threshold(torch.zeros(3), 0)


# Measures


@pytest.mark.parametrize("digits_kept", [0, 1, 6], ids=["ties", "some", "none"])
def test_auroc_is_scikit_learns(digits_kept):
    known, unknown = drawn(40).round(decimals=digits_kept), (drawn(30, seed=1) + 0.5).round(decimals=digits_kept)
    wanted = roc_auc_score([0] * 40 + [1] * 30, torch.cat([known, unknown]).numpy())
    assert auroc(known, unknown) == pytest.approx(wanted)
    assert auroc(unknown, known) == pytest.approx(1 - wanted)


def test_auroc_of_one_kind_is_none():
    assert (auroc(torch.zeros(3), torch.ones(2)), auroc(torch.zeros(3), torch.zeros(2))) == (1.0, 0.5)
    assert math.isnan(auroc(torch.zeros(3), torch.empty(0)))
    assert math.isnan(auroc(torch.empty(0), torch.zeros(3)))


def test_wilderness_impact_is_what_precision_loses():
    known, unknown, limit = drawn(60), drawn(50, seed=1) + 1, 0.7
    right = torch.arange(60) % 4 > 0
    true = int((right & (known <= limit)).sum())
    false = int((~right & (known <= limit)).sum())
    intruding = sum(score <= limit for score in unknown.tolist())
    alone, among = true / (true + false), true / (true + false + intruding)
    assert wilderness_impact(known, unknown, limit) == pytest.approx(alone / among - 1)
    assert open_set_error(unknown, limit) == intruding
    assert math.isnan(wilderness_impact(known, unknown, -9.0))
    found = open_set_measures(known, right, unknown, limit)
    assert found["accuracy"] == 0.75
    assert found["accepted"] == pytest.approx((true + false) / 60)
    assert (found["a_ose"], found["auroc"]) == (intruding, auroc(known, unknown))


# What calibrates them


@pytest.fixture
def clf(tmp_path) -> Path:
    tuned(small(), tmp_path / "clf", frames=uneven(), labels=None, held_out=0.25)
    return tmp_path / "clf"


def other(count: int = 30, shape=(3, 16, 16)):
    """Frames with names of their own that are nothing like noise."""
    ramp = torch.linspace(0, 255, shape[-1]).expand(shape)
    images = torch.stack([(ramp * (i + 1) / count).byte() for i in range(count)])
    return Frames(images, source="ramps", names=[f"ramp{i}" for i in range(count)])


def test_a_classifier_is_calibrated_by_what_fine_tuning_held_out(clf):
    classifier, frames = load_classifier(clf), uneven()
    memory = load_memory(clf)
    held_out = -classifier.last(classifier.before_last(memory.features[memory.held_out])).detach().logsumexp(1)
    recogniser = Recogniser(clf, accept=0.8)
    assert (recogniser.by, len(held_out)) == ("energy", 10)
    assert recogniser.limit == threshold(held_out, 0.8)
    logits = classifier(frames.obs(torch.arange(40))).detach()
    features = recogniser.embed(frames)
    torch.testing.assert_close(recogniser.scores(features), -logits.logsumexp(1))
    assert recogniser.nearest(features) == [classifier.classes[i] for i in logits.argmax(1).tolist()]


def test_neighbours_are_those_of_training_and_known_frames_calibrate_instead(clf):
    memory, known = load_memory(clf), other()
    recogniser = Recogniser(clf, by="neighbours", known=known, accept=0.5)
    assert torch.equal(recogniser.score.known.features, memory.features[~memory.held_out])
    features = load_classifier(clf).features(known.obs(torch.arange(30))).detach()
    assert recogniser.limit == threshold(recogniser.scores(features), 0.5)


def test_of_an_encoder_half_the_episodes_are_known_and_half_calibrate(tmp_path):
    frames = play(episode=torch.arange(40) // 4)
    save_encoder(small(), {"name": "small", "feature_dim": 6, "filters": 4}, (3, 16, 16), tmp_path / "enc")
    recogniser = Recogniser(tmp_path / "enc", known=frames, accept=0.9, seed=3)
    first, second = frames.split(0.5, seed=3)
    encoder = load_encoder(tmp_path / "enc")
    assert torch.equal(recogniser.score.known.features, embed(encoder, frames, ids=first))
    assert recogniser.limit == threshold(recogniser.scores(embed(encoder, frames, ids=second)), 0.9)
    assert not set(frames.episodes[first].tolist()) & set(frames.episodes[second].tolist())
    features = embed(encoder, frames, ids=first)
    assert recogniser.nearest(features) == [frames.class_name(each) for each in frames.classes[first].tolist()]
    unnamed = Recogniser(tmp_path / "enc", known=play(episode=torch.arange(40) // 4, classes=None))
    assert unnamed.nearest(features) == [""] * len(first)


def test_what_lacks_known_frames_is_refused_with_the_mend(clf, tmp_path):
    distilled(clf, tmp_path / "student")
    tuned(small(), tmp_path / "all", frames=uneven(), labels=None)
    save_encoder(small(), {"name": "small", "feature_dim": 6, "filters": 4}, (3, 16, 16), tmp_path / "enc")
    for name, told in (
        ("student", r"student remembers no frames \(a fine-tuned classifier does\): give --known frames"),
        ("enc", r"enc remembers no frames .*: give --known frames"),
        (
            "all",
            r"no frames were held out when .*all was trained: fine-tune with held_out=0\.2, or give --known frames",
        ),
    ):
        with pytest.raises(ConfigError, match=told):
            Recogniser(tmp_path / name)
    assert Recogniser(tmp_path / "student", known=uneven()).by == "energy"
    assert Recogniser(tmp_path / "all", known=uneven()).limit < math.inf
    with pytest.raises(ConfigError, match=r"clf does not take the test: .*render or resize images to 16x16"):
        Recogniser(clf, known=play(shape=(3, 20, 20)))
    with pytest.raises(ConfigError, match="energy is of a classifier's logits"):
        Recogniser(tmp_path / "enc", known=uneven(), by="energy")


def test_a_network_of_ones_own_is_given_again(tmp_path):
    tuned(Tap(Policy(), layer="trunk.4"), tmp_path, frames=uneven(), labels=None, held_out=0.25)
    with pytest.raises(EncoderError, match="module=Policy"):
        Recogniser(tmp_path)
    recogniser = Recogniser(tmp_path, module=Policy())
    wanted = load_classifier(tmp_path, module=Policy())(uneven().obs(torch.arange(40))).detach()
    torch.testing.assert_close(recogniser.scores(recogniser.embed(uneven())), -wanted.logsumexp(1))


def test_features_that_are_not_finite_name_the_frame(tmp_path):
    encoder = small()
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.mul_(1e30)
    save_encoder(encoder, {"name": "small", "feature_dim": 6, "filters": 4}, (3, 16, 16), tmp_path)
    with pytest.raises(ConfigError, match="gives values that are not finite for frame"):
        Recogniser(tmp_path, known=uneven())


# What is laid out


def test_clusters_stand_by_size_and_in_each_the_most_unknown_first(clf):
    recogniser = Recogniser(clf, accept=0.5)
    features = recogniser.embed(uneven())
    found, scores = find_unknown(recogniser, features, clusters=3), recogniser.scores(features)
    assert sorted(found.ids.tolist()) == (scores > recogniser.limit).nonzero()[:, 0].tolist()
    assert torch.equal(found.scores, scores[found.ids])
    sizes = found.clusters.bincount().tolist()
    assert sizes == sorted(sizes, reverse=True)
    assert found.clusters.tolist() == sorted(found.clusters.tolist())
    for cluster in range(len(sizes)):
        inside = found.scores[found.clusters == cluster].tolist()
        assert inside == sorted(inside, reverse=True)
    nothing = find_unknown(recogniser, features[scores <= recogniser.limit])
    assert (len(nothing.ids), nothing.nearest) == (0, [])
    one = find_unknown(recogniser, features[found.ids[:1]], clusters=3)  # fewer frames than clusters
    assert one.clusters.tolist() == [0]


@pytest.fixture(scope="module")
def played(tmp_path_factory) -> Path:
    """Recordings of toy/reach, a folder where its run could be, and an encoder for their frames."""
    place = tmp_path_factory.mktemp("played")
    record(compose(["task=toy/reach", "objective=none"]), place / "old", episodes=6, workers=1)
    record(compose(["task=toy/reach", "objective=none", "seed=9"]), place / "new", episodes=3, workers=1)
    save_encoder(small((3, 28, 28)), {"name": "small", "feature_dim": 6, "filters": 4}, (3, 28, 28), place / "enc")
    return place


def flagged(place: Path, *words: str, network: str = "enc", known: str = "old") -> list[dict[str, str]]:
    data = ["--data", str(place / "new"), "--known", str(place / known), "--out", words[0]]
    assert cli.main(["flag", str(place / network), *data, "device=cpu", *words[1:]]) == 0
    with Path(words[0], "flagged.csv").open() as file:
        return list(csv.DictReader(file))


def test_frames_are_flagged_anew_where_the_tables_were_moved_away(played, tmp_path):
    out = str(tmp_path / "flags")
    flagged(played, out, "accept=0.95")
    for name in ("flagged.csv", "labels.csv"):
        (tmp_path / "flags" / name).unlink()
    found = flagged(played, out, "accept=0.05")
    index = FrameIndex.load(tmp_path / "flags" / "index")
    assert index.rows.names == [row["name"] for row in found]
    for name in ("flagged.csv", "labels.csv"):
        (tmp_path / "flags" / name).unlink()
    assert flagged(played, out, "accept=1", known="new") == []
    assert sorted(path.name for path in (tmp_path / "flags").iterdir()) == ["flagged.csv", "labels.csv"]


def test_the_command_lays_out_tables_and_an_index(played, tmp_path, capsys):
    out = tmp_path / "out"
    rows = flagged(played, str(out), "--accept", "0.5", "clusters=2")
    recogniser = Recogniser(played / "enc", known=played / "old", accept=0.5)
    frames = recogniser.frames(played / "new")
    found = find_unknown(recogniser, recogniser.embed(frames), clusters=2)
    assert [row["name"] for row in rows] == [frames.name(i) for i in found.ids.tolist()]
    assert [float(row["score"]) for row in rows] == pytest.approx(found.scores.tolist(), rel=1e-4)
    assert [int(row["cluster"]) for row in rows] == found.clusters.tolist()
    assert {row["nearest"] for row in rows} == {""}
    assert (out / "labels.csv").read_text() == "name,class\n" + "".join(f"{row['name']},\n" for row in rows)
    index = FrameIndex.load(out / "index")
    assert index.rows.names == [row["name"] for row in rows]
    torch.testing.assert_close(index.embeddings, recogniser.embed(frames)[found.ids])
    assert torch.equal(index.episodes, frames.episodes[found.ids])
    assert index.search(frames.obs(found.ids[:1])[0], 1).ids.tolist() == [0]
    told = capsys.readouterr().err
    assert f"{len(rows)} of 63 frames are more unknown than 0.5 of 63 known ones (neighbours beyond " in told
    assert cli.main(["flag", str(played / "enc"), "--data", "x", "--out", str(out)]) == 1
    assert "flagged.csv is there, perhaps with labels: give another --out" in capsys.readouterr().err


def test_nothing_unknown_is_an_empty_table(played, tmp_path):
    assert flagged(played, str(tmp_path / "out"), "--accept", "1", known="new") == []
    assert (tmp_path / "out" / "labels.csv").read_text() == "name,class\n"
    assert not (tmp_path / "out" / "index").exists()


def test_a_run_shows_where_its_agent_has_never_been(played, tmp_path):
    run, out = tmp_path / "run", tmp_path / "out"
    settings = ["budget_frames=80", "random_steps=60", "evaluation.every_frames=80", "evaluation.episodes=1"]
    settings += ["device=cpu", "threads=1", "env.overlap=false", f"run_dir={run}"]
    assert train(compose(["task=toy/reach", *settings])) == 0
    before = sorted(path.name for path in run.iterdir())
    rows = flagged(played, str(out), "--accept", "0.3", network=str(run), known=str(run))
    assert 0 < len(rows) <= 63
    assert FrameIndex.load(out / "index").encoder.obs_shape == (6, 28, 28)
    assert sorted(path.name for path in run.iterdir()) == before


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["data=x", "out=y"], "network must be given: curl-rl flag clf --data runs/new --out flagged"),
        (["network=x", "data=y", "out=z", "accept=0"], "accept must be above 0"),
        (["network=x", "data=y", "out=z", "accept=1.5"], "accept must be .*at most 1"),
        (["network=x", "data=y", "out=z", "clusters=0"], "clusters must be at least 1"),
        (["network=x", "data=y", "out=z", "acept=1"], "unknown key 'acept'; did you mean accept"),
    ],
    ids=["network", "none", "more", "clusters", "word"],
)
def test_flags_that_cannot_be_honoured(words, message):
    with pytest.raises(ConfigError, match=message):
        compose_flagging(words)


def test_nothing_is_written_where_frames_do_not_fit(clf, played, tmp_path, capsys):
    words = ["flag", str(clf), "--data", str(played / "new"), "--out", str(tmp_path / "out"), "device=cpu"]
    assert cli.main(words) == 2
    assert "clf does not take" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


# Learning


def told_apart(split: int, updates: int) -> tuple[float, float]:
    """Return the AUROC of both scores on digits of which six, drawn by the number of the split, are known."""
    train_frames, test = digits()
    known = np.random.default_rng(split).permutation(10)[:6].tolist()
    labels = {train_frames.name(i): str(c) for i, c in enumerate(train_frames.classes.tolist()) if c in known}
    shift = AUGMENTATIONS["shift"](AUGMENTATIONS["shift"].Config(pad=2))
    options = {"frames": train_frames, "labels": labels, "augment": shift, "batch_size": 64, **LOCAL}
    tuner = Finetuner(digits_encoder(feature_dim=64, filters=32), held_out=0.2, **options)
    looped(tuner, updates)
    classifier: Classifier = tuner.classifier.eval()
    seen, asked = embed(classifier.encoder, train_frames, ids=tuner.learned), embed(classifier.encoder, test)
    is_known = torch.tensor([each in known for each in test.classes.tolist()])
    scores = (make_score(name, Known(seen, classifier.last)).score(asked) for name in ("energy", "neighbours"))
    one, two = (auroc(score[is_known], score[~is_known]) for score in scores)
    return one, two


def test_digits_that_were_never_seen_are_told_apart():
    """The small sister of the next: one split, half as long."""
    assert min(told_apart(0, updates=120)) >= 0.88


@pytest.mark.learning
def test_digits_that_were_never_seen_are_told_apart_on_several_splits():
    found = np.array([told_apart(split, updates=300) for split in range(3)])
    assert (found.mean(0) >= 0.88).all(), found  # .97 and .98 were seen


def test_the_held_out_share_that_passes_is_the_one_asked_for():
    """On frames of known kinds that calibrated nothing about as many are flagged as the acceptance says."""
    frames, fresh = reach(40, 1), reach(20, 2)
    encoder = ExportedEncoder(small(frames.obs_shape), frames.obs_shape)
    first, second = frames.split(0.5)
    score = make_score("neighbours", Known(embed(encoder, frames, ids=first)))
    limit = threshold(score.score(embed(encoder, frames, ids=second)), 0.9)
    passed = float((score.score(embed(encoder, fresh)) <= limit).float().mean())
    assert passed == pytest.approx(0.9, abs=0.05)
