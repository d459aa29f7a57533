"""The index: against brute force, across processes, as it grows, and what is refused with which words."""

import csv
import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from curl_rl import cli
from curl_rl.nn.encoders import encoder_config, make_encoder
from curl_rl.representation.export import ExportedEncoder, load_encoder, save_encoder
from curl_rl.representation.frames.base import Frames, numbered
from curl_rl.representation.index import FrameIndex, IndexFolderError, approximate, exact, folder
from curl_rl.representation.index.pictures import TILES
from curl_rl.representation.tap import Tap
from curl_rl.run.files import WriteError
from curl_rl.run.folder import weights_hash
from curl_rl.types import ConfigError

LENGTHS = (7, 1, 12, 10)


def frames(lengths=LENGTHS, *, shape=(3, 16, 16), seed=0, **known) -> Frames:
    count = sum(lengths)
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(256, (count, *shape), generator=generator, dtype=torch.uint8)
    known = {"reward": torch.arange(count).float(), "episode": numbered(lengths), "ordered": True} | known
    return Frames(images, source=f"seed {seed}", names=[f"clip{seed}#{i}" for i in range(count)], **known)


def encoder(channels: int = 3, seed: int = 1) -> ExportedEncoder:
    torch.manual_seed(seed)
    shape = (channels, 16, 16)
    return ExportedEncoder(make_encoder(encoder_config("small", feature_dim=8, filters=4), shape), shape).eval()


def encoder_folder(out: Path, seed: int = 1) -> Path:
    made = encoder(seed=seed)
    config = {"name": "small", "feature_dim": 8, "filters": 4}
    return save_encoder(made.encoder, {**vars(made.encoder.config), **config}, made.obs_shape, out)


@pytest.fixture
def index() -> FrameIndex:
    return FrameIndex.build(encoder(), frames())


def brute(index: FrameIndex, query: np.ndarray) -> np.ndarray:
    """Cosines, or distances below zero, of a query and every frame."""
    points = index.embeddings.double().numpy()
    if index.metric == "euclidean":
        return -np.linalg.norm(points - query, axis=1)
    return points @ query / np.linalg.norm(points, axis=1) / np.linalg.norm(query)


@pytest.mark.parametrize("at_once", [1, 1 << 25])
@pytest.mark.parametrize("metric", exact.METRICS)
def test_a_search_is_what_brute_force_finds(metric, at_once, monkeypatch):
    monkeypatch.setattr(exact, "_AT_ONCE", at_once)
    index = FrameIndex.build(encoder(), frames(), metric=metric)
    queries = torch.randn(5, 8, generator=torch.Generator().manual_seed(2))
    found = index.search(queries, count=6)
    for query, ids, values in zip(queries.double().numpy(), *found, strict=True):
        likeness = brute(index, query)
        assert ids.tolist() == np.argsort(-likeness)[:6].tolist()
        np.testing.assert_allclose(abs(values), abs(np.sort(likeness)[::-1][:6]), atol=1e-5)
    one = index.search(queries[0], count=6)
    assert one.ids.tolist() == found.ids[0].tolist()
    assert one.similarity.shape == (6,)


def test_images_are_embedded_by_the_indexs_encoder(index):
    images = frames().obs(torch.tensor([4, 9]))
    hits = index.search(images, count=1)
    assert hits.ids[:, 0].tolist() == [4, 9]
    np.testing.assert_allclose(hits.similarity[:, 0], 1, atol=1e-5)
    assert index.search(images[0].numpy(), count=1).ids.tolist() == [4]


def test_neighbours_are_without_the_frame_itself_and_on_demand_without_its_episode(index):
    likeness = brute(index, index.embeddings[3].double().numpy())
    order = [i for i in np.argsort(-likeness).tolist() if i != 3]
    assert index.neighbours(3, count=29).ids.tolist() == order
    assert index.neighbours("clip0#3", count=5).ids.tolist() == order[:5]
    others = [i for i in order if i >= LENGTHS[0]]
    hits = index.neighbours(3, count=29, other_episodes=True)
    assert hits.ids.tolist() == others + [-1] * (LENGTHS[0] - 1)  # there are no more
    assert hits.similarity.isnan().sum() == LENGTHS[0] - 1
    several = index.neighbours(torch.tensor([3, 8]), count=4)
    assert several.ids[0].tolist() == order[:4]


def test_rows_tell_episode_step_return_and_class():
    classes = torch.tensor([0, -1, 1] * 10)
    rows = FrameIndex.build(encoder(), frames(classes=classes, class_names=("near", "far"))).rows
    number = 0
    for episode, length in enumerate(LENGTHS):
        for step in range(length):
            rest = sum(range(number, number + length - 1 - step))  # the last frame leads nowhere
            place = (int(rows.episodes[number]), int(rows.steps[number]), float(rows.returns[number]))
            assert place == (episode, step, rest)
            number += 1
    assert rows.classes[:3] == ["near", "", "far"]
    assert np.isnan(FrameIndex.build(encoder(), frames(reward=None)).rows.returns).all()


def test_a_stack_of_frames_is_embedded_as_the_encoder_sees_it():
    built = FrameIndex.build(encoder(channels=9), frames())
    module = encoder(channels=9)
    with torch.no_grad():
        expected = module(frames(stack=3).obs(torch.arange(30)))
    torch.testing.assert_close(built.embeddings, expected)
    assert built.side == 16


def test_nothing_of_the_encoder_moves():
    net = nn.Sequential(nn.Conv2d(3, 4, 3, 2), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(196, 5)).train()
    tap = Tap(net).see((3, 16, 16))
    before = weights_hash(tap)
    index = FrameIndex.build(tap, frames())
    index.search(frames().obs(torch.tensor([1])), 3)
    assert weights_hash(tap) == before
    assert net.training


def test_what_was_saved_is_found_in_a_fresh_process(index, tmp_path):
    out = index.save(tmp_path / "idx")
    program = (
        "import json, sys; from curl_rl import FrameIndex; index = FrameIndex.load(sys.argv[1]); "
        "hits = index.neighbours(3, 5); rows = index.rows; "
        "print(json.dumps([hits.ids.tolist(), hits.similarity.tolist(), index.embeddings.tolist(), rows.names,"
        "rows.returns.tolist()]))"
    )
    told = subprocess.run([sys.executable, "-c", program, str(out)], capture_output=True, text=True, check=True).stdout
    hits = index.neighbours(3, 5)
    kept = [hits.ids.tolist(), hits.similarity.tolist(), index.embeddings.tolist(), index.rows.names]
    assert json.loads(told) == [*kept, index.rows.returns.tolist()]


def test_appended_frames_are_found_as_if_they_had_been_there(index, tmp_path):
    index.save(tmp_path / "idx")
    grown = FrameIndex.load(tmp_path / "idx")
    assert (len(grown.sheets), len(grown.classes[1]), len(grown.points)) == (1, 30, 30)
    assert grown.number("clip0#3") == 3
    grown.append(frames(seed=5))
    assert (len(grown.sheets), len(grown.classes[1]), len(grown.points)) == (2, 60, 60)
    assert grown.number("clip5#3") == 33
    assert grown.search(grown.embeddings[40], 1).ids.tolist() == [40]
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "idx").rglob("*.safetensors")}
    grown.save(tmp_path / "idx")
    assert {path: path.stat().st_mtime_ns for path in before} == before
    read = FrameIndex.load(tmp_path / "idx")
    assert len(read) == 60
    torch.testing.assert_close(read.embeddings[30:], FrameIndex.build(encoder(), frames(seed=5)).embeddings)
    assert len(read.episodes.unique()) == 2 * len(LENGTHS)  # of each source apart
    assert read.rows.names[30] == "clip5#0"
    with pytest.raises(ConfigError, match="seed 5 are in the index already"):
        read.append(frames(seed=5))


def test_an_append_that_is_cut_off_leaves_the_index_as_it_was(index, tmp_path, monkeypatch):
    out = index.save(tmp_path / "idx")
    whole = folder.write_whole

    def fail(contents):
        if out / folder.DESCRIPTION in contents:
            raise WriteError("the disk is full")
        whole(contents)

    monkeypatch.setattr(folder, "write_whole", fail)
    grown = FrameIndex.load(out)
    grown.append(frames(seed=5))
    with pytest.raises(WriteError):
        grown.save(out)
    monkeypatch.undo()
    assert len(FrameIndex.load(out)) == 30
    grown.save(out)
    assert len(FrameIndex.load(out)) == 60


@pytest.mark.parametrize("shape", [(1, 16, 16), (2, 16, 16), (3, 100, 60), (4, 40, 100)])
def test_pictures_show_the_frames(shape):
    net = nn.Sequential(nn.Flatten(), nn.Linear(int(np.prod(shape)), 2))
    steps = torch.linspace(0, 255, 40).to(torch.uint8)
    images = steps[:, None, None, None].expand(-1, *shape).contiguous()
    index = FrameIndex.build(Tap(net).see(shape), Frames(images, source="steps"))
    side = min(64, max(shape[1:]))
    for number in (0, 17, 39):
        picture = index.picture(number)
        assert picture.shape == (3 if shape[0] >= 3 else 1, side, side)
        middle = picture[:, side // 2 - 2 : side // 2 + 2, side // 2 - 2 : side // 2 + 2].float()
        assert abs(float(middle.mean()) - float(steps[number])) < 6
    if shape[1] != shape[2]:  # black beside
        assert index.picture(39)[:, 0].float().mean() < 20 or index.picture(39)[:, :, 0].float().mean() < 20


def test_pictures_are_counted_over_sheets_and_parts():
    net = Tap(nn.Flatten()).see((1, 2, 2))
    values = torch.arange(TILES + 5) % 256
    first, second = (
        Frames(
            (values + shift).remainder(256).to(torch.uint8)[:, None, None, None].expand(-1, 1, 2, 2).contiguous(),
            source=name,
        )
        for name, shift in (("first", 0), ("second", 100))
    )
    index = FrameIndex.build(net, first)
    index.append(second)
    assert len(index.sheets) == 4
    tiles = [tuple(index.tile(number)) for number in (0, 33, TILES, TILES + 5, 2 * TILES + 5)]
    assert tiles == [(0, 0, 0), (0, 1, 1), (1, 0, 0), (2, 0, 0), (3, 0, 0)]
    names = index.rows.names
    assert len(names) == 2 * (TILES + 5)
    with pytest.raises(ConfigError, match=f"7 is the name of the frames 7 and {TILES + 12}: give a number"):
        index.number("7")


def test_what_does_not_fit_is_refused(index, tmp_path):
    refused = [
        (lambda: index.search(torch.zeros(8), 31), "count=31 must be at least 1 and at most 30"),
        (lambda: index.neighbours(0, 30), "count=30 must be at least 1 and at most 29"),
        (lambda: index.search(torch.zeros(7)), "8 numbers a frame"),
        (lambda: index.search(torch.full((8,), torch.nan)), "not finite"),
        (lambda: index.search(torch.zeros(3, 20, 20, dtype=torch.uint8)), "resize images to 16x16"),
        (lambda: index.number("clip0#33"), "no frame 'clip0#33'; there are, among others, clip0#"),
        (lambda: index.number(30), "30 frames, 0 to 29, and no 30"),
        (lambda: index.append(frames(shape=(3, 20, 20))), "resize images to 16x16"),
        (lambda: FrameIndex.build(encoder(), frames(), metric="dot"), "metric='dot' is none of cosine, euclidean"),
    ]
    for call, told in refused:
        with pytest.raises(ConfigError, match=told):
            call()
    out = index.save(tmp_path / "idx")
    with pytest.raises(ConfigError, match="built by another encoder"):
        FrameIndex.load(out, encoder=encoder(seed=2))
    with pytest.raises(FileExistsError, match="another encoder or metric"):
        FrameIndex.build(encoder(seed=2), frames()).save(out)
    with pytest.raises(FileExistsError, match="other frames"):
        FrameIndex.build(encoder(), frames(seed=3)).save(out)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").touch()
    with pytest.raises(FileExistsError, match="something else than an index"):
        index.save(tmp_path / "full")
    with pytest.raises(FileNotFoundError, match="no index in"):
        FrameIndex.load(tmp_path / "full")


def test_features_that_are_not_finite_are_refused_by_the_frames_name():
    net = nn.Sequential(nn.Flatten(), nn.Linear(768, 2))
    images = frames()
    tap = Tap(
        net,
        prepare=lambda obs: torch.where(obs.float().flatten(1).mean(1) > 255, torch.nan, 1.0)[:, None] * obs.float(),
    )
    images._images[11] = 255
    tap.prepare = lambda obs: obs.float() / (obs.float().amin((1, 2, 3), keepdim=True) < 255)
    with pytest.raises(ConfigError, match="not finite for frame clip0#11"):
        FrameIndex.build(tap.see((3, 16, 16)), images)


@pytest.mark.parametrize("name", ["embeddings.safetensors", "frames.csv", "pictures-0000.jpg", "../index.json"])
@pytest.mark.parametrize("damage", ["cut", "lost", "changed"])
def test_a_damaged_index_is_refused_by_the_file(index, tmp_path, name, damage):
    out = index.save(tmp_path / "idx")
    path = (out / "part-000" / name).resolve()
    content = path.read_bytes()
    if damage == "lost":
        path.unlink()
    else:
        path.write_bytes(content[: len(content) // 2] if damage == "cut" else content.replace(b"c", b"d"))
    with pytest.raises((IndexFolderError, FileNotFoundError), match=path.name):
        FrameIndex.load(out)


def test_an_index_of_ones_own_network_answers_of_its_frames_and_asks_for_it_otherwise(tmp_path):
    net = nn.Sequential(nn.Conv2d(3, 4, 3, 2), nn.Flatten(), nn.Linear(196, 5))
    tap = Tap(net).see((3, 16, 16))
    index = FrameIndex.build(tap, frames())
    out = index.save(tmp_path / "idx")
    read = FrameIndex.load(out)
    assert read.neighbours(2, 4).ids.tolist() == index.neighbours(2, 4).ids.tolist()
    image = frames().obs(torch.tensor([2]))
    with pytest.raises(ConfigError, match=r"network of your own: give FrameIndex.load\(..., encoder=...\)"):
        read.search(image)
    assert FrameIndex.load(out, encoder=tap).search(image, 1).ids.tolist() == [[2]]


def test_many_frames_are_searched_by_faiss_which_says_how_much_it_finds(monkeypatch):
    pytest.importorskip("faiss")
    monkeypatch.setattr("curl_rl.representation.index.base.EXACT_UP_TO", 1000)
    rng = torch.Generator().manual_seed(0)
    centres = torch.randn(50, 16, generator=rng)
    points = centres.repeat_interleave(100, 0) + 0.3 * torch.randn(5000, 16, generator=rng)
    for metric in exact.METRICS:
        index = FrameIndex.build(
            Tap(nn.Flatten()).see((1, 2, 2)), Frames(torch.zeros(2, 1, 2, 2).byte(), source="two"), metric=metric
        )
        index.embeddings = points
        assert isinstance(index._searcher, approximate.Approximate)
        recall = index.recall(10)
        assert 0.9 < recall <= 1
        assert not index.exact
        found, true = index.search(points[7], 3), exact.Exact(points, metric).search(points[7:8], 3)
        assert found.ids[0] == 7
        np.testing.assert_allclose(found.similarity, true[1][0], atol=2e-3)


def test_the_command_says_how_much_faiss_finds(tmp_path, monkeypatch, capsys):
    pytest.importorskip("faiss")
    monkeypatch.setattr("curl_rl.representation.index.base.EXACT_UP_TO", 100)
    made = frames([400], seed=3)
    np.savez(tmp_path / "rec.npz", frames=made.newest(slice(400)).numpy())
    words = ["--data", str(tmp_path / "rec.npz"), "--out", str(tmp_path / "idx"), "--device", "cpu"]
    assert cli.main(["index", str(encoder_folder(tmp_path / "enc")), *words]) == 0
    assert f"; searched by faiss, which finds {FrameIndex.load(tmp_path / 'idx').recall():.1%} of the 10 nearest" in (
        capsys.readouterr().err
    )


def test_without_faiss_many_frames_are_searched_one_by_one(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "faiss", None)
    assert isinstance(approximate.approximate(torch.randn(9, 4), "cosine"), exact.Exact)
    assert "pip install 'curl-rl[faiss]'" in capsys.readouterr().err


def recording(path: Path, seed: int) -> None:
    made = frames(seed=seed)
    np.savez(path, frames=made.newest(torch.arange(30)).numpy(), rewards=np.arange(30.0), ends=np.arange(30) % 10 == 9)


def test_commands_index_append_and_search(tmp_path, capsys):
    folder_of, data, out = encoder_folder(tmp_path / "enc"), tmp_path / "rec.npz", tmp_path / "idx"
    recording(data, 0)
    given = ["index", str(folder_of), "--out", str(out), "--device", "cpu", "--data"]
    assert cli.main([*given, str(data), "--csv", str(tmp_path / "lightly.csv")]) == 0
    said = capsys.readouterr().err
    assert said.startswith("30 frames: 0.0 MB of embeddings in memory, about 0.0 MB of pictures on disk")
    index = FrameIndex.load(out)
    header, *rows = csv.reader((tmp_path / "lightly.csv").read_text().splitlines())
    assert header == ["filenames", *(f"embedding_{i}" for i in range(8)), "labels"]
    assert [row[0] for row in rows] == index.rows.names == [f"rec.npz#{i}" for i in range(30)]
    np.testing.assert_allclose(np.array([row[1:9] for row in rows], float), index.embeddings)
    assert {row[9] for row in rows} == {"-1"}

    recording(tmp_path / "more.npz", 1)
    assert cli.main([*given, str(tmp_path / "more.npz")]) == 2
    assert "holds an index of other frames: add --append" in capsys.readouterr().err
    assert cli.main([*given, str(tmp_path / "more.npz"), "--append"]) == 0
    assert cli.main([*given, str(data)]) == 0  # which is there
    assert len(FrameIndex.load(out)) == 60
    capsys.readouterr()

    hits = FrameIndex.load(out).neighbours(3, 4, other_episodes=True)
    picture = tmp_path / "found.png"
    asked = ["search", str(out), "rec.npz#3", "-k", "4", "--other-episodes", "--picture", str(picture)]
    assert cli.main(asked) == 0
    table = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [int(row["number"]) for row in table] == hits.ids.tolist()
    np.testing.assert_allclose([float(row["cosine"]) for row in table], hits.similarity, atol=1e-6)
    with Image.open(picture) as shown:
        assert shown.size == (5 * 20 + 8, 20)

    image = tmp_path / "frame.png"
    Image.fromarray(frames(seed=1).obs(torch.tensor([6]))[0].permute(1, 2, 0).numpy()).save(image)
    assert cli.main(["search", str(out), str(image), "-k", "1"]) == 0
    assert next(csv.DictReader(io.StringIO(capsys.readouterr().out)))["number"] == "36"


def test_commands_refuse_what_does_not_belong_together(tmp_path, capsys):
    data, out = tmp_path / "rec.npz", tmp_path / "idx"
    recording(data, 0)
    first, second = encoder_folder(tmp_path / "enc"), encoder_folder(tmp_path / "other", seed=2)
    assert cli.main(["index", str(first), "--data", str(data), "--out", str(out)]) == 0
    small = tmp_path / "small.png"
    Image.new("RGB", (8, 8)).save(small)
    cases = [
        (["index", str(second), "--data", str(data), "--out", str(out)], "built by another encoder"),
        (["index", str(first), "--data", str(data), "--out", str(tmp_path / "new"), "--append"], "leave --append out"),
        (["index", str(first), "--data", str(data), "--out", str(out), "metric=euclidean"], "give metric=cosine"),
        (["index", str(first), "--data", str(data), "--out", str(out), "stack=2"], "leave stack out"),
        (["index", "--data", str(data), "--out", str(out), "metric=cosine"], "give one encoder's folder"),
        (["index", str(first), "--data", str(data), "--out", str(out), "metrik=cosine"], "metric"),
        (["search", str(out), "rec.npz#99"], "there are, among others, rec.npz#"),
        (["search", str(out), "99"], "has 30 frames, 0 to 29"),
        (["search", str(out), "0", "-k", "30"], "at most 29"),
        (["search", str(out), str(small)], "is 8x8, and the index is of frames of 16x16: resize it"),
        (["search", str(out), str(small), "--other-episodes"], "leave --other-episodes out"),
        (["search", str(tmp_path / "nowhere"), "0"], "no index in"),
    ]
    for words, told in cases:
        assert cli.main(words) != 0
        assert told in capsys.readouterr().err
    assert load_encoder(out / "encoder").obs_shape == (3, 16, 16)


# What a build, a name or a question may be that is out of the ordinary


def test_a_build_that_was_cut_off_is_gone_on_with_by_another_encoder(tmp_path, capsys):
    data, out = tmp_path / "rec.npz", tmp_path / "idx"
    recording(data, 0)
    first, second = encoder_folder(tmp_path / "enc"), encoder_folder(tmp_path / "other", seed=2)
    shutil.copytree(first, out / "encoder")
    (out / "part-000").mkdir()
    assert cli.main(["index", str(second), "--data", str(data), "--out", str(out)]) == 0
    assert FrameIndex.load(out).weights == weights_hash(load_encoder(second).encoder)
    shutil.rmtree(out / "encoder")
    assert cli.main(["search", str(out), "3"]) != 0
    assert "index the same frames by it once more" in capsys.readouterr().err
    assert cli.main(["index", str(second), "--data", str(data), "--out", str(out)]) == 0
    assert cli.main(["search", str(out), "3"]) == 0


def test_an_index_by_another_encoder_stays_whole(index, tmp_path):
    out = index.save(tmp_path / "idx")
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    with pytest.raises(FileExistsError, match="by another encoder or metric: give another --out"):
        FrameIndex.build(encoder(seed=2), frames()).save(out)
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before


def test_a_folder_of_something_else_is_not_taken_for_an_index(index, tmp_path):
    (tmp_path / "project" / "encoder").mkdir(parents=True)
    (tmp_path / "project" / "encoder" / "notes.txt").write_text("x")
    with pytest.raises(FileExistsError, match="holds something else than an index"):
        index.save(tmp_path / "project")
    assert [path.name for path in (tmp_path / "project").rglob("*")] == ["encoder", "notes.txt"]


def test_files_of_any_name_are_indexed_and_found_again(tmp_path):
    images, names = tmp_path / "shots", ["c\rr.png", "²3.png", 'a "b",\n.png', " lead.png", "٣.png"]
    images.mkdir()
    for place, name in enumerate(names):
        Image.new("RGB", (16, 16), (40 * place, 0, 0)).save(images / name)
    FrameIndex.build(encoder_folder(tmp_path / "enc"), images).save(tmp_path / "idx")
    assert sorted(FrameIndex.load(tmp_path / "idx").rows.names) == sorted(names)


@pytest.mark.skipif(sys.platform == "darwin", reason="whose file systems have names in UTF-8 alone")
def test_a_name_that_no_table_can_hold_is_refused_before_work(tmp_path):
    images = tmp_path / "shots"
    images.mkdir()
    Image.new("RGB", (16, 16)).save(images / "a.png")
    os.rename(images / "a.png", os.fsencode(images) + b"/\xff.png")
    with pytest.raises(ConfigError, match="is no name in UTF-8: rename the file"):
        FrameIndex.build(encoder(), images)


@pytest.mark.parametrize("offset", [0, 10, 1000, 100_000])
def test_distances_are_exact_wherever_the_points_lie(offset):
    generator = torch.Generator().manual_seed(0)
    points = (torch.randn(500, 20, generator=generator) + offset).float()
    queries = points[:30] + 0.1 * torch.randn(30, 20, generator=generator)
    ids, values = exact.Exact(points, "euclidean").search(queries, 10)
    true = torch.cdist(queries.double(), points.double(), compute_mode="donot_use_mm_for_euclid_dist")
    nearest = true.sort(1).values[:, :10]
    np.testing.assert_allclose(true.gather(1, ids), nearest, rtol=1e-4)
    np.testing.assert_allclose(values, nearest, rtol=1e-2 if offset > 1000 else 1e-4)
    assert (values.diff(dim=1) >= 0).all()


def test_frames_are_named_by_any_whole_number_and_by_no_other(index):
    wanted = index.neighbours(7, 3).ids.tolist()
    for same in (np.int64(7), torch.tensor(7), "clip0#7"):
        assert index.neighbours(same, 3).ids.tolist() == wanted
    for same in ([7], np.array([7]), torch.tensor([7])):
        assert index.neighbours(same, 3).ids.tolist() == [wanted]
    for other in (-1, 30, [0, -1], torch.tensor([30])):
        with pytest.raises(ConfigError, match="has 30 frames, 0 to 29"):
            index.neighbours(other, 3)


def test_of_no_query_nothing_is_found(index):
    assert index.search(torch.empty(0, 8), 3).ids.shape == (0, 3)
    assert index.neighbours(torch.empty(0, dtype=torch.int64), 3).similarity.shape == (0, 3)
    for count in (2.5, True, 0):
        with pytest.raises(ConfigError, match="must be at least 1"):
            index.search(torch.zeros(1, 8), count)


@pytest.mark.parametrize("kind", [tuple, list, set])
def test_an_index_of_named_images_grows(tmp_path, kind):
    images = tmp_path / "shots"
    images.mkdir()
    for place in range(4):
        Image.new("RGB", (16, 16), (40 * place, 0, 0)).save(images / f"{place}.png")
    grown = FrameIndex.build(encoder(), images, only=kind(["0.png", "1.png"]))
    grown.save(tmp_path / "idx")
    grown.append(images, only=kind(["2.png"]))
    grown.save(tmp_path / "idx")
    assert FrameIndex.load(tmp_path / "idx").rows.names == ["0.png", "1.png", "2.png"]


def test_a_frames_name_comes_before_a_file_of_that_name(tmp_path, capsys, monkeypatch):
    images, rng = tmp_path / "shots", np.random.default_rng(0)
    images.mkdir()
    for place in range(4):
        Image.fromarray(rng.integers(256, size=(16, 16, 3), dtype=np.uint8)).save(images / f"{place}.png")
    FrameIndex.build(encoder_folder(tmp_path / "enc"), images).save(tmp_path / "idx")
    monkeypatch.chdir(images)
    assert cli.main(["search", "../idx", "2.png", "-k", "3"]) == 0
    assert "2.png" not in capsys.readouterr().out
    assert cli.main(["search", "../idx", "./2.png", "-k", "1"]) == 0
    assert ",2.png," in capsys.readouterr().out


def test_nothing_is_written_into_an_index(index, tmp_path, capsys):
    out = index.save(tmp_path / "idx")
    before = (out / "index.json").read_bytes()
    for words in (
        ["gallery", str(out), "--out", str(out / "index.json")],
        ["search", str(out), "3", "--picture", str(out / "index.json")],
        ["select", str(out), "--by", "random", "--count", "2", "--out", str(out / "encoder")],
    ):
        assert cli.main(words) == 2
        assert "would lie in the index" in capsys.readouterr().err
    assert (out / "index.json").read_bytes() == before
