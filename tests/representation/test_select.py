"""Selection: each selector against its definition, rare classes found, what a folder holds, and what is refused."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from digits import digits
from PIL import Image
from runs import SMALL
from torch import nn
from torch.nn import functional as F

from curl_rl import cli
from curl_rl.config.overrides import compose
from curl_rl.nn.encoders import encoder_config, make_encoder
from curl_rl.representation.export import export_run, save_encoder
from curl_rl.representation.frames import frames_of
from curl_rl.representation.frames.base import Frames
from curl_rl.representation.index import FrameIndex
from curl_rl.representation.labels import labelled_frames
from curl_rl.representation.probes.classifier import Classifier
from curl_rl.representation.selecting import select
from curl_rl.representation.tap import Tap
from curl_rl.run.playing import load_agent
from curl_rl.run.trainer import train


def index(points: torch.Tensor, **known) -> FrameIndex:
    """Frames with these embeddings, compared by their Euclidean distances."""
    frames = Frames(torch.zeros(len(points), 1, 2, 2).byte(), source="points", **known)
    built = FrameIndex.build(Tap(nn.Flatten()).see((1, 2, 2)), frames, metric="euclidean")
    built.embeddings = points.float()
    return built


def cloud(count: int = 60, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, 3, generator=torch.Generator().manual_seed(seed))


def test_coverage_takes_the_farthest_each_time():
    points = cloud()
    chosen = select(index(points), ["coverage"], 8).tolist()
    distance = torch.cdist(points, points)
    expected = [int((points - points.mean(0)).norm(dim=1).argmin())]
    while len(expected) < 8:
        expected.append(int(distance[:, expected].amin(1).argmax()))
    assert chosen == expected
    further = select(index(points), ["coverage"], 3, labelled=chosen[:5]).tolist()
    assert further == expected[5:8]


def test_typical_takes_the_middle_of_each_cluster_and_leaves_out_those_with_a_label():
    centres = torch.tensor([[0.0, 0, 0], [50, 0, 0], [0, 50, 0], [0, 0, 50]])
    sizes = (20, 16, 12, 8)
    points = torch.cat(
        [centre + cloud(size, seed=i) for i, (centre, size) in enumerate(zip(centres, sizes, strict=True))]
    )
    group = torch.repeat_interleave(torch.arange(4), torch.tensor(sizes))
    chosen = select(index(points), ["typical"], 4)
    assert group[chosen].tolist() == [0, 1, 2, 3]  # the largest first
    for number in chosen.tolist():
        members = (group == group[number]).nonzero()[:, 0]
        distance = torch.cdist(points[members], points[members]).sort(1).values[:, 1:21].mean(1)
        assert number == int(members[distance.argmin()])
    labelled = (group == 1).nonzero()[:1, 0].tolist()
    assert 1 not in group[select(index(points), ["typical"], 3, labelled=labelled)].tolist()


def test_the_least_sure_come_first_and_a_seed_decides_chance():
    doubt = torch.rand(60, generator=torch.Generator().manual_seed(1))
    given = index(cloud())
    assert select(given, ["uncertain"], 60, doubt=lambda: doubt).tolist() == doubt.argsort(descending=True).tolist()
    drawn = [select(given, ["random"], 60, seed=seed).tolist() for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert sorted(drawn[0]) == list(range(60))


def test_several_are_combined_by_the_sum_of_their_ranks_after_every_choice():
    points, doubt = cloud(), torch.rand(60, generator=torch.Generator().manual_seed(1))
    both = select(index(points), ["coverage", "uncertain"], 10, doubt=lambda: doubt)
    expected, distance = list[int](), torch.cdist(points, points)
    for _ in range(10):
        far = distance[:, expected].amin(1) if expected else -(points - points.mean(0)).norm(dim=1)
        left = sorted(set(range(60)) - set(expected))
        places = [sorted(left, key=lambda i, worth=worth: -worth[i]) for worth in (far.tolist(), doubt.tolist())]
        expected.append(min(left, key=lambda i: places[0].index(i) + places[1].index(i)))
    assert both.tolist() == expected


def test_several_do_not_agree_on_many_frames_of_one_kind():
    """Of frames that come again in every episode, one is enough; ranks summed once took 47 of 50 at one moment."""
    again = torch.tensor([20.0, 0, 0]) + 0.01 * cloud(300)
    points = torch.cat([again, 5 * cloud(300, seed=1)])
    chosen = select(index(points), ["coverage", "typical"], 20)
    assert 1 <= int((chosen < 300).sum()) <= 3


def rare(seed: int, count: int = 5) -> torch.Tensor:
    """Numbers of digits of which five classes have few frames."""
    generator, (train_, _) = torch.Generator().manual_seed(seed), digits()
    few = set(torch.randperm(10, generator=generator)[:5].tolist())
    ids = []
    for each in range(10):
        members = (train_.classes == each).nonzero()[:, 0]
        ids.append(members[torch.randperm(len(members), generator=generator)][: count if each in few else None])
    return torch.cat(ids).sort().values


def pixels(frames: Frames) -> torch.Tensor:
    return F.adaptive_avg_pool2d(frames.obs(torch.arange(len(frames))).float() / 255, 12).flatten(1)


def test_fifty_frames_of_a_pool_with_rare_classes():
    train_, test = digits()
    scores = {name: [] for name in ("random", "coverage")}
    for seed in range(5):
        ids = rare(seed)
        points, classes = pixels(train_)[ids], train_.classes[ids]
        for name, found in scores.items():
            chosen = select(index(points), [name], 50, seed=seed)
            classifier = Classifier(points[chosen], classes[chosen], 10, pool=points)
            found.append((len(classes[chosen].unique()), classifier.accuracy(pixels(test), test.classes)))
    met, accuracy = np.mean(scores["coverage"], 0)
    assert met >= 9
    assert accuracy >= 0.68
    assert accuracy >= np.mean(scores["random"], 0)[1] + 0.1


def encoder_folder(out: Path) -> Path:
    torch.manual_seed(1)
    encoder = make_encoder(encoder_config("small", feature_dim=8, filters=4), (3, 16, 16))
    return save_encoder(encoder, vars(encoder.config), (3, 16, 16), out)


@pytest.fixture
def shots(tmp_path) -> Path:
    """An index of a folder of images, one of them in a folder inside and with a comma in its name."""
    images, rng = tmp_path / "shots", np.random.default_rng(0)
    for i in range(12):
        place = images / ("in, side" if i == 5 else "") / f"frame {i}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(256, size=(16, 16, 3), dtype=np.uint8)).save(place)
    out = tmp_path / "idx"
    given = ["index", str(encoder_folder(tmp_path / "enc")), "--data", str(images), "--out", str(out)]
    assert cli.main(given) == 0
    return out


def rows(table: Path) -> list[list[str]]:
    return list(csv.reader(table.read_text().splitlines()))


@pytest.mark.parametrize("link", [False, True])
def test_a_folder_to_be_labelled(shots, tmp_path, link):
    out = tmp_path / "sel"
    words = ["select", str(shots), "--by", "coverage", "typical", "--count", "12", "--out", str(out), "typical.least=2"]
    assert cli.main([*words, "--link"] if link else words) == 0
    header, *named = rows(out / "labels.csv")
    assert header == ["name", "class"]
    assert "in, side/frame 5.png" in [name for name, _ in named]
    for name, label in named:
        copy, original = out / "images" / name, tmp_path / "shots" / name
        assert label == ""
        assert copy.is_symlink() == link
        assert copy.read_bytes() == original.read_bytes()
    told = json.loads((out / "selection.json").read_text())
    assert told["index"]["encoder"] == FrameIndex.load(shots).weights
    assert [each["name"] for each in told["by"]] == ["coverage", "typical"]
    assert told["by"][1]["least"] == 2
    assert [each["name"] for each in told["chosen"]] == [name for name, _ in named]


def test_a_selection_that_was_cut_off_is_done_again(shots, tmp_path):
    words = ["select", str(shots), "--by", "coverage", "--count", "3", "--link", "--out", str(tmp_path / "sel")]
    assert cli.main(words) == 0
    table = rows(tmp_path / "sel" / "labels.csv")
    for name in ("labels.csv", "selection.json"):
        (tmp_path / "sel" / name).unlink()
    (tmp_path / "sel" / "images" / table[1][0]).unlink()
    assert cli.main(words) == 0
    assert rows(tmp_path / "sel" / "labels.csv") == table
    assert all((tmp_path / "sel" / "images" / name).is_symlink() for name, _ in table[1:])


def test_frames_of_one_name_are_told_apart_by_their_numbers(tmp_path, capsys):
    enc = str(encoder_folder(tmp_path / "enc"))
    for seed in (0, 1):
        (tmp_path / f"shots{seed}").mkdir()
        for i in range(4):
            colour = tuple(np.random.default_rng(10 * seed + i).integers(256, size=3).tolist())
            Image.new("RGB", (16, 16), colour).save(tmp_path / f"shots{seed}" / f"{i}.png")
        words = ["index", enc, "--data", str(tmp_path / f"shots{seed}"), "--out", str(tmp_path / "idx")]
        assert cli.main([*words, *["--append"][:seed]]) == 0
    words = ["select", str(tmp_path / "idx"), "--by", "coverage", "--out"]
    assert cli.main([*words, str(tmp_path / "sel"), "--count", "8"]) == 0
    header, *named = rows(tmp_path / "sel" / "labels.csv")
    assert header == ["name", "class", "number"]
    assert sorted(int(number) for _, _, number in named) == list(range(8))
    for name, _, number in named:
        original = tmp_path / f"shots{int(number) // 4}" / name
        assert (tmp_path / "sel" / "images" / f"{number} {name}").read_bytes() == original.read_bytes()
    (tmp_path / "few.csv").write_text("name,class\n0.png,a\n1.png,b\n")
    more = [*words, str(tmp_path / "more"), "--labels", str(tmp_path / "few.csv"), "--count"]
    assert cli.main([*more, "5"]) == 2
    assert "at most 4" in capsys.readouterr().err  # both frames of each name are labelled
    assert cli.main([*more, "4"]) == 0


def test_a_name_with_a_space_at_an_end_is_labelled_as_it_is_written(tmp_path):
    images = tmp_path / "shots"
    images.mkdir()
    for place, name in enumerate((" lead.png", "b.png", "c.png")):
        Image.new("RGB", (16, 16), (80 * place, 0, 0)).save(images / name)
    built = FrameIndex.build(encoder_folder(tmp_path / "enc"), images)
    built.save(tmp_path / "idx")
    (tmp_path / "few.csv").write_text('name,class\n" lead.png",a\nb.png , b\n')
    labelled = labelled_frames(tmp_path / "few.csv", images)
    assert [labelled.class_name(int(each)) for each in labelled.classes[:2]] == ["a", "b"]
    words = ["select", str(tmp_path / "idx"), "--by", "random", "--count", "1", "--out", str(tmp_path / "sel")]
    assert cli.main([*words, "--labels", str(tmp_path / "few.csv")]) == 0
    assert [name for name, _ in rows(tmp_path / "sel" / "labels.csv")[1:]] == ["c.png"]


def test_selectors_may_be_given_one_by_one(shots, tmp_path):
    words = ["select", str(shots), "--count", "4", "--by", "coverage"]
    assert cli.main([*words, "typical", "typical.least=2", "--out", str(tmp_path / "one")]) == 0
    assert cli.main([*words, "--by", "typical", "typical.least=2", "--out", str(tmp_path / "two")]) == 0
    assert rows(tmp_path / "one" / "labels.csv") == rows(tmp_path / "two" / "labels.csv")


def test_no_picture_is_written_outside_of_the_folder(shots, tmp_path, capsys):
    built = FrameIndex.load(shots)
    built.parts[0].rows.names[0] = "../out.png"
    built.save(tmp_path / "odd")
    words = ["select", str(tmp_path / "odd"), "--by", "random", "--count", "12", "--out", str(tmp_path / "sel")]
    assert cli.main(words) != 0
    assert "leads out of" in capsys.readouterr().err
    assert not (tmp_path / "sel").exists()


def test_what_is_labelled_is_not_chosen_again_and_a_labelled_table_is_never_lost(shots, tmp_path, capsys):
    out = tmp_path / "first"
    words = ["select", str(shots), "--by", "coverage", "--out"]
    assert cli.main([*words, str(out), "--count", "4"]) == 0
    _, *named = rows(out / "labels.csv")
    (out / "labels.csv").write_text("name,class\n" + "".join(f'"{name}",a\n' for name, _ in named))
    assert cli.main([*words, str(out), "--count", "4"]) == 1
    assert "holds a selection, perhaps labelled by now: give another --out" in capsys.readouterr().err
    more = [*words, str(tmp_path / "second"), "--labels", str(out / "labels.csv"), "--count"]
    assert cli.main([*more, "9"]) == 2
    assert "count=9 must be at least 1 and at most 8, the frames without a label" in capsys.readouterr().err
    assert cli.main([*more, "8"]) == 0
    second = rows(tmp_path / "second" / "labels.csv")[1:]
    assert not {name for name, _ in second} & {name for name, _ in named}


def test_frames_of_a_run_are_chosen_by_the_disagreement_of_its_critics(tmp_path, capsys):
    run, enc, out = tmp_path / "run", tmp_path / "enc", tmp_path / "sel"
    assert train(compose([*SMALL, f"run_dir={run}", "device=cpu", "threads=1", "env.overlap=false"])) == 0
    export_run(run, enc)
    assert cli.main(["index", str(enc), "--data", str(run), "--out", str(tmp_path / "idx"), "--device", "cpu"]) == 0
    words = ["select", str(tmp_path / "idx"), "--by", "uncertain", "--count", "5", "--device", "cpu"]
    assert cli.main([*words, "--out", str(out), "--run", str(run)]) == 0
    frames, agent = frames_of(run), load_agent(run, "cpu")
    obs = frames.obs(torch.arange(len(frames))).numpy()
    with torch.no_grad():
        features = agent.learner.encoder(agent.learner.observe(obs))
        one, other = agent.critic(features, torch.from_numpy(agent.act(obs, explore=False)))
    expected = (one - other).abs().argsort(descending=True)[:5].tolist()
    names = [name for name, _ in rows(out / "labels.csv")[1:]]
    assert names == [str(number) for number in expected]
    with Image.open(out / "images" / f"{names[0]}.png") as picture:
        newest = frames.newest(torch.tensor([expected[0]]))[0]
        assert np.array_equal(np.asarray(picture).transpose(2, 0, 1), newest.numpy())
    assert cli.main([*words, "--out", str(tmp_path / "none")]) == 2
    assert "give a classifier, or a run" in capsys.readouterr().err
    assert cli.main([*words, "--out", str(tmp_path / "none"), "--run", str(run), "--link"]) == 2
    assert "leave --link out" in capsys.readouterr().err
    assert not (tmp_path / "none" / "labels.csv").exists()


def test_frames_are_chosen_by_a_classifiers_margin(shots, tmp_path):
    from curl_rl.representation.classifier import load_classifier

    labels = tmp_path / "few.csv"
    labels.write_text("name,class\n" + "".join(f"frame {i}.png,{'ab'[i % 2]}\n" for i in (0, 1, 2, 3)))
    clf, enc, data = tmp_path / "clf", tmp_path / "enc", tmp_path / "shots"
    words = ["finetune", str(enc), "--labels", str(labels), "--data", str(data), "--out", str(clf), "updates=3"]
    assert cli.main([*words, "batch_size=4", "device=cpu"]) == 0
    words = ["select", str(shots), "--by", "uncertain", "--count", "12", "--out", str(tmp_path / "sel")]
    assert cli.main([*words, "--classifier", str(clf), "--device", "cpu"]) == 0
    frames = frames_of(data)
    with torch.no_grad():
        likely = load_classifier(clf)(frames.obs(torch.arange(12))).softmax(1)
    order = (likely[:, 0] - likely[:, 1]).abs().argsort()
    assert [name for name, _ in rows(tmp_path / "sel" / "labels.csv")[1:]] == [frames.name(i) for i in order.tolist()]


def test_what_does_not_fit_is_refused(shots, tmp_path, capsys):
    (tmp_path / "odd.csv").write_text("name,class\nnobody.png,a\n")
    words = ["select", str(shots), "--out", str(tmp_path / "sel"), "--count", "2", "--by"]
    cases = [
        ([*words, "nearest"], "unknown selector 'nearest'; there are coverage, random, typical, uncertain"),
        ([*words, "coverage", "--labels", str(tmp_path / "odd.csv")], "no frame 'nobody.png'"),
        ([*words, "uncertain", "--classifier", "a", "--run", "b"], "give one of them"),
        ([*words, "typical", "typical.leest=3"], "typical.least"),
        ([*words, "coverage", "--classifier", "a"], "--classifier has no effect without --by uncertain"),
        ([*words, "random", "--run", "b"], "--run has no effect without --by uncertain"),
        ([*words, "coverage", "--seed", "3"], "--seed has no effect on coverage"),
        ([*words, "random", "--device", "cpu"], "--device has no effect without --by uncertain"),
        ([*words, "random", "random"], "random is given twice"),
        ([*words, "random", "--link", "--no-pictures"], "--link has no effect beside --no-pictures"),
        (["select", "typical.least=3", *words[2:], "random"], "give one index: curl-rl select idx"),
    ]
    for given, told in cases:
        assert cli.main(given) == 2
        assert told in capsys.readouterr().err
    next(iter((tmp_path / "shots").glob("*.png"))).unlink()
    assert cli.main([*words, "random"]) == 2
    assert "other frames than when it was indexed: index it again" in capsys.readouterr().err
    assert not (tmp_path / "sel").exists()
