"""A gallery's page holds what the index knows, and nothing that a file's name could run; the projector's files."""

import io
import re
import sys
import types
from base64 import b64decode

import numpy as np
import pytest
import torch
from google.protobuf import text_format
from PIL import Image
from places import ROOT
from shown import SIDE, built_index, colour_of, column_of, data_of, index_of, table_of
from sklearn.decomposition import PCA
from tensorboard.plugins.projector.projector_config_pb2 import ProjectorConfig

from curl_rl import cli
from curl_rl.representation.gallery import build_gallery, projector, write_projector
from curl_rl.representation.gallery.maps import pca, quantised, umap
from curl_rl.representation.index import FrameIndex
from curl_rl.run.files import WriteError
from curl_rl.types import ConfigError

HOSTILE = (
    "</script><script>problem()</script>",
    "<img src=x onerror=problem()>.png",
    "<!--<script>",
    "line\u2028and\u2029paragraph",
    'quote",comma',
    "$title ${data} %s",
    "half \ud800 of a character",
    "\u202egnp.exe",
)


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Give an index in three parts, and what its page holds."""
    index = index_of(60, sources=3)
    page = build_gallery(index, tmp_path_factory.mktemp("page") / "page.html", clusters=4, neighbours=5)
    return index, page.read_text(), data_of(page.read_text())


# The map


@pytest.mark.parametrize("shape", [(40, 7), (7, 40)], ids=["tall", "wide"])
def test_pca_is_that_of_scikit_learn(shape):
    points = torch.randn(shape, generator=torch.Generator().manual_seed(0)) * torch.arange(1, shape[1] + 1)
    places, told = pca(points)
    other = PCA(2, svd_solver="full").fit(points.numpy())
    expected = torch.from_numpy(other.transform(points.numpy())).float()
    signs = (places * expected).sum(0).sign()
    torch.testing.assert_close(places, expected * signs, rtol=1e-4, atol=1e-4)
    assert told == f"PCA, {other.explained_variance_ratio_.sum():.0%} of the variance"


def test_the_same_points_give_the_same_map_however_they_are_turned_round():
    points = torch.randn(30, 5, generator=torch.Generator().manual_seed(1))
    mirrored = points.flip(0)
    torch.testing.assert_close(pca(points)[0], pca(mirrored)[0].flip(0))
    directions = torch.linalg.lstsq((points - points.mean(0)).double(), pca(points)[0].double()).solution
    assert (directions.gather(0, directions.abs().argmax(0, keepdim=True)) > 0).all()


@pytest.mark.parametrize("points", [torch.ones(3, 4), torch.ones(1, 4), torch.arange(4.0)[:, None]], ids=str)
def test_pca_of_points_without_a_plane_is_finite(points):
    places, _ = pca(points)
    assert places.shape == (len(points), 2)
    assert places.isfinite().all()


def test_quantised_places_are_within_half_a_unit_at_one_scale():
    places = torch.randn(500, 2, generator=torch.Generator().manual_seed(0)) * torch.tensor([5.0, 0.3])
    numbers, origin, unit = quantised(places)
    assert numbers.min() == 0
    assert numbers.max() == 65535
    assert (torch.tensor(origin) + numbers * unit - places).abs().max() <= unit * 0.51
    assert quantised(torch.zeros(3, 2))[0].eq(0).all()


def test_umap_is_asked_for_by_name_where_it_is_missing(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "umap", None)
    with pytest.raises(ConfigError, match=r"pip install 'curl-rl\[umap\]'"):
        build_gallery(index_of(40), tmp_path / "page.html", map="umap")
    with pytest.raises(ConfigError, match="more than 15 frames"):
        build_gallery(index_of(10), tmp_path / "page.html", map="umap")
    assert not list(tmp_path.iterdir())


def test_umap_gets_the_points_and_a_seed(monkeypatch):
    given = {}

    class Fake:
        def __init__(self, **options):
            given.update(options)

        def fit_transform(self, points):
            return points[:, 1:3].astype(np.float64)

    monkeypatch.setitem(sys.modules, "umap", types.SimpleNamespace(UMAP=Fake))
    points = torch.randn(20, 4)
    assert torch.equal(umap(points)[0], points[:, 1:3])
    assert given == {"n_neighbors": 15, "random_state": 0}


def test_umap_keeps_apart_what_is_apart():
    pytest.importorskip("umap")
    points = torch.cat([torch.randn(40, 5), torch.randn(40, 5) + 20])
    places = umap(points)[0]
    assert torch.equal(places, umap(points)[0])
    gap = (places[:40].mean(0) - places[40:].mean(0)).norm()
    assert gap > 2 * max(places[:40].std(), places[40:].std())


# What the page holds


def test_places_are_those_of_the_normalised_embeddings(built):
    index, _, told = built
    expected, _ = pca(torch.nn.functional.normalize(index.embeddings, dim=1))
    x, y = (told["origin"][axis] + told["arrays"]["xy"[axis]] * told["unit"] for axis in range(2))
    assert np.abs(np.stack([x, y], 1) - expected.numpy()).max() <= told["unit"] * 0.51


def test_rows_are_those_of_the_index(built):
    index, _, told = built
    assert told["names"] == index.rows.names
    assert told["arrays"]["number"].tolist() == list(range(60))
    assert column_of(told, "class") == [each or None for each in index.rows.classes]
    assert column_of(told, "source") == index.rows.sources
    for name, values in (("episode", index.rows.episodes), ("step", index.rows.steps)):
        assert column_of(told, name) == values.tolist()
    assert column_of(told, "return") == [None if np.isnan(each) else each for each in index.rows.returns]
    assert [each["name"] for each in told["columns"]] == ["class", "return", "episode", "step", "cluster", "source"]
    assert all(each["varies"] for each in told["columns"])
    assert (told["total"], told["dim"], told["metric"], told["side"]) == (60, 6, "cosine", SIDE)


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_neighbours_are_exact(metric, tmp_path):
    index = index_of(60, metric=metric, seed=3)
    arrays = data_of(build_gallery(index, tmp_path / "page.html", neighbours=5).read_text())["arrays"]
    for kind, other_episodes in (("near", False), ("far", True)):
        ids, values = index.neighbours(torch.arange(60), 5, other_episodes=other_episodes)
        assert arrays[kind].tolist() == ids.flatten().tolist()
        assert arrays[f"{kind}Values"] == pytest.approx(values.flatten().numpy(), nan_ok=True)


def test_clusters_are_numbered_and_the_same_again(built, tmp_path):
    index, page, told = built
    clusters = column_of(told, "cluster")
    assert set(clusters) == set("0123")
    again = build_gallery(index, tmp_path / "page.html", clusters=4, neighbours=5).read_text()
    assert again == page
    none = data_of(build_gallery(index, tmp_path / "none.html", clusters=0).read_text())
    assert "cluster" not in [each["name"] for each in none["columns"]]


def test_pictures_are_the_sheets_of_the_index(built):
    index, page, told = built
    assert embedded(page) == index.sheets
    assert told["arrays"]["picture"].tolist() == [1024 * (n // 20) + n % 20 for n in range(60)]


def embedded(page: str) -> list[bytes]:
    return [b64decode(text) for text in re.findall(r'<script type="text/plain" id="sheet-\d+">(.*?)</script>', page)]


def test_more_frames_than_wanted_are_thinned_evenly(tmp_path):
    index = index_of(2500, sources=2)
    page = build_gallery(index, tmp_path / "page.html", most=1100, neighbours=3).read_text()
    told = data_of(page)
    numbers = told["arrays"]["number"]
    assert len(numbers) == 1100
    assert set(np.diff(numbers)) == {2, 3}
    assert told["total"] == 2500
    assert told["names"] == [f"frame {number}" for number in numbers]
    points = torch.nn.functional.normalize(index.embeddings[numbers.tolist()], dim=1)
    likeness = (points @ points.T).fill_diagonal_(-2)
    assert told["arrays"]["near"].reshape(-1, 3).tolist() == likeness.topk(3).indices.tolist()
    sheets = embedded(page)
    assert len(sheets) == 2
    for point in (0, 31, 700, 1023, 1024, 1099):
        place = told["arrays"]["picture"][point]
        row, column = place % 1024 // 32, place % 32
        with Image.open(io.BytesIO(sheets[place // 1024])) as sheet:
            pixel = sheet.getpixel((column * SIDE + 8, row * SIDE + 8))
        assert pixel == pytest.approx(colour_of(numbers[point]), abs=12)


def test_columns_of_the_caller_come_first_and_replace_those_of_their_name(tmp_path):
    index = index_of(30)
    score, kind = torch.linspace(0, 1, 30), [f"kind {n % 12}" if n else "" for n in range(30)]
    page = build_gallery(index, tmp_path / "page.html", columns={"score": score, "cluster": kind}).read_text()
    told = data_of(page)
    names = [each["name"] for each in told["columns"]]
    assert names == ["score", "cluster", "class", "return", "episode", "step", "source"]
    assert column_of(told, "score") == score.tolist()
    assert column_of(told, "cluster") == [each or None for each in kind]
    assert told["columns"][1]["names"] == [f"kind {n}" for n in range(12)]
    assert [each["name"] for each in told["columns"] if not each["varies"]] == ["source"]


@pytest.mark.parametrize(
    ("columns", "told"),
    [({"score": [1.0]}, "1 values: give one for each of 30"), ({"score": ["a"] * 29 + [1.0]}, "numbers beside texts")],
    ids=["short", "mixed"],
)
def test_columns_that_do_not_fit_are_refused(columns, told, tmp_path):
    with pytest.raises(ConfigError, match=told):
        build_gallery(index_of(30), tmp_path / "page.html", columns=columns)


def test_one_frame_alone_has_a_page(tmp_path):
    told = data_of(build_gallery(index_of(1), tmp_path / "page.html").read_text())
    assert told["names"] == ["frame 0"]
    assert "near" not in told["arrays"]


@pytest.mark.parametrize(
    ("options", "told"),
    [({"map": "tsne"}, "map='tsne' is none of pca, umap"), ({"most": 0}, "most must"), ({"clusters": -1}, "clusters")],
    ids=str,
)
def test_options_that_cannot_be_are_refused(options, told, tmp_path):
    with pytest.raises(ConfigError, match=told):
        build_gallery(index_of(5), tmp_path / "page.html", **options)


def test_an_index_of_values_that_are_not_finite_is_refused(tmp_path):
    index = index_of(20)
    index.embeddings[3, 1] = torch.nan
    with pytest.raises(ConfigError, match="not finite"):
        build_gallery(index, tmp_path / "page.html")


def test_a_folder_in_the_pages_place_is_kept(tmp_path):
    (tmp_path / "page.html").mkdir()
    with pytest.raises(WriteError, match="a folder is in the way"):
        build_gallery(index_of(5), tmp_path / "page.html")


# Names from outside


def test_no_name_ends_the_data_or_begins_a_tag(tmp_path):
    index = index_of(len(HOSTILE), names=HOSTILE)
    columns = {HOSTILE[0]: [1.0] * len(HOSTILE), "kind": HOSTILE}
    page = build_gallery(index, tmp_path / "page.html", columns=columns).read_text()
    told = data_of(page)
    assert told["names"] == list(HOSTILE)
    assert column_of(told, "kind") == list(HOSTILE)
    assert told["columns"][0]["name"] == HOSTILE[0]
    data = page[page.index('id="data">') : page.index("</script>", page.index('id="data">'))]
    assert not re.search("[<&\u2028\u2029\u202e]", data)
    assert page.count("</script>") == page.count("<script") == 3


def test_the_title_is_text(tmp_path, monkeypatch):
    place = tmp_path / "<b>&'index"
    built_index(place)
    page = build_gallery(place, tmp_path / "page.html").read_text()
    assert "<h1><bdi>&lt;b&gt;&amp;&#x27;index</bdi></h1>" in page
    assert "<b>" not in page.partition("<style>")[0]
    page = build_gallery(place, tmp_path / "page.html", title="A & B \ud800").read_text()
    assert r"<h1><bdi>A &amp; B \ud800</bdi></h1>" in page


def test_a_column_without_bounds_is_refused(tmp_path):
    index = FrameIndex.load(built_index(tmp_path / "idx"))
    for value in (float("inf"), 1e300):
        with pytest.raises(ConfigError, match="column 'x' has values without bound"):
            build_gallery(index, tmp_path / "page.html", columns={"x": [value] * len(index)})
    assert not (tmp_path / "page.html").exists()


# The projector


def test_the_projector_reads_its_files(tmp_path):
    names = [*HOSTILE[:5], "tab\tand\nline", *(f"frame {n}" for n in range(6, 30))]
    index = index_of(30, names=names)
    folder, count = write_projector(index, tmp_path / "p")
    config = text_format.Parse((folder / "projector_config.pbtxt").read_text(), ProjectorConfig())
    (shown,) = config.embeddings
    vectors = np.loadtxt(folder / shown.tensor_path, delimiter="\t")
    assert vectors == pytest.approx(index.embeddings.numpy(), rel=1e-5)
    header, *rows = [line.split("\t") for line in (folder / shown.metadata_path).read_text().split("\n")[:-1]]
    assert header == ["number", "name", "source", "episode", "step", "return", "class"]
    assert len(rows) == count == 30
    assert rows[5][:2] == ["5", "tab and line"]
    assert {len(row) for row in rows} == {7}
    assert list(shown.sprite.single_image_dim) == [SIDE, SIDE]
    with Image.open(folder / shown.sprite.image_path) as sprite:
        assert sprite.size == (6 * SIDE, 6 * SIDE)
        for number in (0, 7, 29):
            pixel = sprite.getpixel((number % 6 * SIDE + 8, number // 6 * SIDE + 8))
            assert pixel == pytest.approx(colour_of(number), abs=8)


def test_the_projectors_sprite_is_never_too_large(tmp_path, monkeypatch):
    monkeypatch.setattr(projector, "_WIDEST", 4 * SIDE + 5)
    folder, count = write_projector(index_of(40), tmp_path / "p")
    assert count == 16
    with Image.open(folder / "sprite.png") as sprite:
        assert sprite.size == (4 * SIDE, 4 * SIDE)
    assert len((folder / "tensors.tsv").read_text().splitlines()) == 16
    assert write_projector(index_of(40), tmp_path / "q", most=3)[1] == 3


# The command, and the page of the docs


def test_the_python_of_the_docs_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    index = FrameIndex.load(built_index(tmp_path / "idx"))
    (code,) = re.findall(
        r"^```python\n(.*?)^```$", (ROOT / "docs" / "gallery.md").read_text(), re.MULTILINE | re.DOTALL
    )
    exec(code, {})
    told = data_of((tmp_path / "page.html").read_text())
    bright = [index.picture(number).float().mean().item() for number in range(60)]
    assert column_of(told, "brightness") == pytest.approx(bright)


def test_the_command_writes_a_page_and_the_projectors_files(tmp_path, capsys):
    index = built_index(tmp_path / "idx")
    page, folder = tmp_path / "page.html", tmp_path / "projector"
    assert cli.main(["gallery", str(index), "--out", str(page), "--projector", str(folder), "--most", "40"]) == 0
    told = data_of(page.read_text())
    assert len(told["names"]) == 40
    assert told["title"] == "idx"
    assert len(table_of((folder / "metadata.tsv").read_text().replace("\t", ","))) == 41
    assert f"tensorboard --logdir {folder}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["idx"], "give a page or a folder: curl-rl gallery idx --out page.html"),
        (["idx", "--projector", "p", "--map", "pca"], "--map has no effect on the projector"),
        (["nowhere", "--out", "page.html"], "no index in nowhere"),
    ],
    ids=["nothing", "idle", "nowhere"],
)
def test_the_command_says_what_is_wrong(words, told, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["gallery", *words]) in (1, 2)
    assert told in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
