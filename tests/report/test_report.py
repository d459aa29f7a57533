import csv
import html
import io
import json
import re
import resource
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from fake_runs import write_jobs, write_run, write_suite

from curl_rl.report.build import build_report, compare_runs
from curl_rl.run.files import WriteError
from curl_rl.types import ConfigError

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
browser = pytest.mark.skipif(CHROMIUM is None, reason="needs chromium: apt-get install chromium")
TASK = "dmc/walker_walk"
RISING = [[10.0 * i, 10.0 * i + 2] for i in range(1, 6)]


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """A report of Atari, where published figures of every kind stand beside own ones, and of a toy task."""
    root = tmp_path_factory.mktemp("runs")
    games = {"atari/freeway": 28.0, "atari/pong": -10.0, "atari/ms_pacman": 900.0}
    write_suite(root, {"curl": games, "none<b>": games}, seeds=3, budget=400_000, every=80_000)
    write_suite(root, {"curl": {"toy/reach": 5.0}}, seeds=2)
    write_run(root, "toy/reach", "curl", 9, RISING[:2], objective__name="curl")
    failed = ["toy/reach", "curl", 9, "failed", 3, 1, "toy_reach/curl-seed9", "curl-rl train seed=9", "<boom>\nno room"]
    write_jobs(root, [failed])
    return build_report([root], tmp_path_factory.mktemp("out") / "report")


class Page(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.tags = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def values(self, name):
        return [attributes[name] for _, attributes in self.tags if attributes.get(name)]


def test_the_page_needs_nothing_but_itself(report):
    text = report.read_text()
    page = Page(text)
    assert not page.values("src")
    assert not {"link", "img", "iframe", "object", "base"} & {tag for tag, _ in page.tags}
    assert "@import" not in text
    assert not re.findall(r"url\((?!#)", text)
    addresses = [value for value in page.values("href") + page.values("xlink:href") if not value.startswith("#")]
    assert all(re.fullmatch(r"(figures|tables)/[\w.]+", address) for address in addresses)
    inside = [value[1:] for value in page.values("href") if value.startswith("#")]
    assert set(inside) <= set(page.values("id"))


def test_ids_are_unique(report):
    ids = Page(report.read_text()).values("id")
    assert len(ids) == len(set(ids))


def test_every_table_and_figure_has_its_files(report):
    links = [value for value in Page(report.read_text()).values("href") if not value.startswith("#")]
    there = {path.relative_to(report.parent).as_posix() for path in report.parent.rglob("*.*")} - {"index.html"}
    assert set(links) == there
    assert {Path(name).suffix for name in there} == {".csv", ".md", ".tex", ".svg", ".png", ".pdf"}
    names = {Path(name).stem for name in there if name.startswith("figures/")}
    kinds = ("scores", "aggregates", "improvement", "percentiles", "profiles", "curves", "efficiency")
    assert names == {f"atari_400000_{kind}" for kind in kinds} | {"toy_100000_scores", "toy_100000_curves"}


def test_runs_that_failed_are_listed_with_command_and_log(report):
    text = report.read_text()
    assert "1 failed" in text
    assert "&lt;boom&gt;\nno room" in text
    assert "<boom>" not in text
    rows = (report.parent / "tables" / "without_score.csv").read_text().splitlines()
    assert rows[1].startswith("toy/reach,curl,9,failed,40000,100000,1,3,")
    scores = (report.parent / "tables" / "toy_100000_scores.csv").read_text().splitlines()
    assert dict(zip(*(line.split(",") for line in scores[:2]), strict=True))["curl seeds"] == "2"


def test_every_run_shows_its_command(report):
    text = report.read_text()
    for seed in (1, 2, 3):
        assert html.escape(f"curl-rl train task=atari/pong objective=none<b> seed={seed} ") in text
    for words in ("p0p0p0", "0123456789ab", "4 x Fake CPU", "torch=2.13.0"):
        assert words in text


def test_the_own_protocol_stands_under_each_title(report):
    text = report.read_text()
    heads = re.findall(r"</h2>\n(.*?)<h3", text, re.DOTALL)
    assert text.count("Measured with") == 2
    assert "Measured with: protocol without a name (hash p0p0p0); preset quick; 2 episodes" in heads[0]
    assert '<p class="warning" role="note">Settings of preset quick, not the published ones.</p>' in heads[0]
    assert "Measured with: images of 64 × 64 pixels; action repeat 4; preset quick; 2 episodes" in heads[1]


def test_kinds_of_published_figures_are_said(report):
    text = report.read_text()
    assert "best of training, that is the best of each run&#x27;s evaluations, which is not comparable" in text
    assert "not stated" in text
    head = (report.parent / "tables" / "atari_400000_scores.csv").read_text().splitlines()[0]
    assert "CURL (paper) [best of training]" in head
    assert "CURL (rliable final)" in head


def test_names_are_escaped_everywhere(report):
    assert "none<b>" not in report.read_text()
    assert "none&lt;b&gt;" in report.read_text()


# A file system holds all of them: a formula, markup, line ends, controls, a turned direction, bytes of no text.
HOSTILE = (
    "=1+1|x",
    "@a & b\n\r\tc",
    "</script><i>\x1b[31m\x07",
    "a\u202eb\u2028c",
    "\udcff\udc80",
    "$x$ {y} \\z",
    "[*]",
)


def test_hostile_names_break_no_file_and_stay_apart(tmp_path):
    for method in HOSTILE:
        for seed in (1, 2):
            folder = f"{method.replace('/', '_')}-seed{seed}"
            where = {"folder": folder, "run_dir": "moved from here"}
            written = write_run(tmp_path / "runs", "toy/reach", method, seed, RISING, commit="=c\0", **where)
            metadata = {"starts": [{"command": f"=curl-rl \0 {method.encode(errors='replace').decode()}"}]}
            (written / "metadata.json").write_text(json.dumps(metadata))
    job = ["toy/reach", "=j\x1b", 9, "failed", 3, 1, "=gone", "=c\0", "=== log\x07\n</pre>"]
    write_jobs(tmp_path / "runs", [job])
    page = build_report([tmp_path / "runs"], tmp_path / "out")
    for path in page.parent.rglob("*.*"):
        if path.suffix in (".html", ".svg", ".csv", ".md", ".tex"):
            text = path.read_text(encoding="utf-8")
            assert not re.search("[\0-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e]", text), path
        if path.suffix == ".svg":
            ElementTree.parse(path)
        if path.suffix == ".csv":
            with path.open(newline="") as file:
                cells = {cell for row in csv.reader(file) for cell in row}
            assert not [cell for cell in cells if re.match(r"[=@\t\n]|[+-](?![\d.]+$)", cell)], path
    assert "<i>" not in page.read_text()
    scores = (page.parent / "tables" / "toy_100000_scores.csv").read_text()
    assert [count for cell, count in zip(*csv.reader(io.StringIO(scores)), strict=True) if cell.endswith("seeds")] == [
        "2"
    ] * len(HOSTILE)
    first, second = (tmp_path / "runs" / f"{HOSTILE[i].replace('/', '_')}-seed1" for i in (2, 4))
    assert "\x1b" not in compare_runs(first, second, tmp_path / "two")
    ElementTree.parse(tmp_path / "two" / "figures" / "comparison_curves.svg")


def test_the_same_runs_give_the_same_files(tmp_path):
    write_suite(tmp_path / "runs", {"curl": {"toy/reach": 5.0}}, seeds=2)
    first, second = (build_report([tmp_path / "runs"], tmp_path / name) for name in ("a", "b"))
    files = sorted(path.relative_to(first.parent) for path in first.parent.rglob("*") if path.is_file())
    assert len(files) > 6
    for name in files:
        assert (first.parent / name).read_bytes() == (second.parent / name).read_bytes(), name


def test_an_old_reports_files_go(tmp_path):
    first = write_run(tmp_path / "a", "toy/reach", "curl", 1, RISING)
    second = write_run(tmp_path / "b", "toy/reach", "curl", 2, RISING[:2])
    out = tmp_path / "out"
    compare_runs(first, second, out)
    build_report([tmp_path / "a"], out)
    assert not (out / "figures" / "comparison_curves.svg").exists()
    assert (out / "figures" / "toy_100000_scores.svg").exists()
    mine = ["figures/mine.png", "tables/dmc_1_scores.txt", "tables/notes.md", "dmc_1_scores.md"]
    for name in mine:
        (out / name).write_text("mine")
    build_report([tmp_path / "b"], out)
    found = {path.relative_to(out).as_posix() for path in out.rglob("*.*")}
    assert found == {"index.html", *mine, *(f"tables/without_score.{kind}" for kind in ("csv", "md", "tex"))}


def test_refusals_write_nothing(tmp_path):
    write_run(tmp_path / "runs", TASK, "curl", 1, RISING)
    write_run(tmp_path / "runs", TASK, "none", 1, RISING, protocol="q1q1q1")
    with pytest.raises(ConfigError, match="protocols"):
        build_report([tmp_path / "runs"], tmp_path / "out")
    assert not (tmp_path / "out").exists()
    place = tmp_path / "file"
    place.write_text("mine")
    for out in (place, place / "inside"):
        with pytest.raises(WriteError, match="file is a file, no folder"):
            build_report([tmp_path / "runs"], out)
    assert place.read_text() == "mine"


def test_another_page_is_not_overwritten(tmp_path):
    write_run(tmp_path / "runs", "toy/reach", "curl", 1, RISING)
    out = tmp_path / "site"
    out.mkdir()
    (out / "index.html").write_text("mine")
    with pytest.raises(WriteError, match=r"index.html is no report's: give another --out, or move it away"):
        build_report([tmp_path / "runs"], out)
    assert [path.name for path in out.iterdir()] == ["index.html"]
    (out / "index.html").rename(out / "other.html")
    for _ in range(2):
        build_report([tmp_path / "runs"], out)
    assert (out / "other.html").read_text() == "mine"


@pytest.mark.parametrize("name", ["index.html", "tables", "figures", "tables/toy_100000_scores.csv"])
def test_what_is_in_the_way_is_told_before_anything_is_written(tmp_path, name):
    write_run(tmp_path / "runs", "toy/reach", "curl", 1, RISING)
    out, place = tmp_path / "out", tmp_path / "out" / name
    place.parent.mkdir(parents=True)
    place.symlink_to(tmp_path / "elsewhere")
    before = sorted(out.rglob("*"))
    with pytest.raises(WriteError, match=rf"{name}: a link is in the way|{name} is a file, no folder"):
        build_report([tmp_path / "runs"], out)
    assert sorted(out.rglob("*")) == before


def test_a_full_disk_leaves_the_page_before(tmp_path):
    write_run(tmp_path / "runs", "toy/reach", "curl", 1, RISING)
    page = build_report([tmp_path / "runs"], tmp_path / "out")
    before = {path: path.read_bytes() for path in page.parent.rglob("*.*")}
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2_000, limits[1]))
    try:
        with pytest.raises(WriteError, match=r"cannot write .*: File too large; free space"):
            build_report([tmp_path / "runs"], tmp_path / "out")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert {path: path.read_bytes() for path in page.parent.rglob("*.*")} == before


def test_a_report_of_unfinished_runs_only_lists_them(tmp_path):
    write_run(tmp_path / "runs", TASK, "curl", 1, RISING[:2])
    text = build_report([tmp_path / "runs"], tmp_path / "out").read_text()
    assert "No run is finished yet." in text
    assert "1 unfinished" in text
    assert "<svg" not in text


# Two runs


def test_a_run_that_went_on_is_marked_wherever_runs_are_listed(tmp_path):
    first, second = (write_run(tmp_path, TASK, "curl", seed, RISING) for seed in (1, 2))
    metadata = json.loads((second / "metadata.json").read_text())
    grown = {"frame": 60_000, "changed": {"budget_frames": [60_000, 100_000]}}
    metadata["starts"].append(grown)
    (second / "metadata.json").write_text(json.dumps(metadata))
    told = "went on at 60,000 frames: budget_frames 60000 -> 100000"
    text = build_report([tmp_path], tmp_path / "out").read_text()
    assert f"curl on {TASK}, seed 2, {told}.".replace(">", "&gt;") in text
    with (tmp_path / "out" / "tables" / "dmc_100000_runs.csv").open(newline="") as file:
        assert [(row["Seed"], row["Segments"]) for row in csv.DictReader(file)] == [("1", ""), ("2", told)]
    assert f"warning: {second} {told}." in compare_runs(first, second, None).splitlines()
    (second / "eval.csv").write_text("\n".join((second / "eval.csv").read_text().split("\n")[:-3]) + "\n")
    build_report([tmp_path], tmp_path / "out")
    with (tmp_path / "out" / "tables" / "without_score.csv").open(newline="") as file:
        assert [(row["State"], row["Segments"]) for row in csv.DictReader(file)] == [("unfinished", told)]


def test_two_runs_are_compared(tmp_path):
    better = [[value + 50 for value in returns] for returns in RISING]
    first = write_run(tmp_path, TASK, "curl", 1, RISING)
    second = write_run(tmp_path, TASK, "none", 1, better, objective__name="none", threads=4)
    text = compare_runs(first, second, tmp_path / "out")
    assert "curl-seed1 51.0 (2 episodes at 100,000 frames), none-seed1 101 (2 episodes" in text
    interval = re.search(r"none-seed1 minus curl-seed1: ([\d.]+) \[([\d.]+), ([\d.]+)\]", text)
    assert interval is not None
    assert [float(number) for number in interval.groups()] == [50.0, 48.0, 52.0]
    assert "over the episodes" in text
    assert "warning" not in text
    settings = {line.split()[0]: line.split()[1:] for line in text.splitlines() if line.startswith(("obj", "thr"))}
    assert settings == {"objective.name": ['"curl"', '"none"', "yes"], "threads": ["1", "4", "no"]}
    assert f"A  curl-rl train task={TASK} objective=curl seed=1" in text
    page = (tmp_path / "out" / "index.html").read_text()
    assert page.count("<svg") == 1
    rows = (tmp_path / "out" / "tables" / "comparison_evaluations.csv").read_text().splitlines()
    assert len(rows) == 6
    assert rows[1].split(",") == ["20000", "11.0", "2", "61.0", "2"]
    assert compare_runs(first, second, None) == text


def test_a_comparison_says_where_both_come_from(tmp_path):
    first = write_run(tmp_path, TASK, "curl", 1, RISING, commit="abc+")
    second = write_run(tmp_path, TASK, "none", 1, RISING, commit="abc+", hardware="8 x Fake CPU")
    third = write_run(tmp_path, TASK, "last", 1, RISING, commit="def", versions="python=3.12")
    lines = compare_runs(first, second, tmp_path / "out").splitlines()
    at = lines.index("Code and machines")
    versions = ["  A  python=3.11.7 torch=2.13.0", "  B  python=3.11.7 torch=2.13.0"]
    assert lines[at + 1 : at + 10] == [
        *("commit  differs: unknown (uncommitted changes)", "  A  abc+", "  B  abc+"),
        *("versions  differs: no", *versions),
        *("hardware  differs: yes", "  A  4 x Fake CPU", "  B  8 x Fake CPU"),
    ]
    rows = (tmp_path / "out" / "tables" / "comparison_origins.csv").read_text().splitlines()
    assert rows[3] == "hardware,4 x Fake CPU,8 x Fake CPU,yes"
    text = compare_runs(first, third, None)
    assert "commit  differs: yes" in text
    assert "versions  differs: yes" in text


def test_a_run_of_other_names_of_settings_is_told(tmp_path):
    old = write_run(tmp_path, TASK, "old", 1, RISING, replay__n_step=3)
    new = write_run(tmp_path, TASK, "new", 1, RISING, agent__n_step=3)
    told = "Configuration difference (one run is of a version that named some settings otherwise)"
    assert told in compare_runs(old, new, None).splitlines()
    assert told not in compare_runs(new, write_run(tmp_path, TASK, "newer", 1, RISING, threads=4), None)


def test_what_makes_two_runs_incomparable_is_said(tmp_path):
    first = write_run(tmp_path, TASK, "curl", 1, RISING)
    second = write_run(tmp_path, TASK, "curl", 2, RISING[:3], protocol="q1q1q1", budget=500_000)
    text = compare_runs(first, second, None)
    assert "warning: the protocols differ, p0p0p0 and q1q1q1" in text
    assert "warning: the budgets differ, 100,000 and 500,000 frames" in text
    assert "curl-seed2 is unfinished: 60,000 of 500,000 frames" in text


def test_runs_that_cannot_be_compared_are_refused(tmp_path):
    first = write_run(tmp_path, TASK, "curl", 1, RISING)
    other = write_run(tmp_path, "dmc/cheetah_run", "curl", 1, RISING)
    empty = write_run(tmp_path, TASK, "none", 1, [])
    with pytest.raises(ConfigError, match=r"dmc/walker_walk .* dmc/cheetah_run"):
        compare_runs(first, other, None)
    with pytest.raises(ConfigError, match="no evaluation"):
        compare_runs(first, empty, None)
    with pytest.raises(ConfigError, match="one run"):
        compare_runs(first, first, None)
    with pytest.raises(ConfigError, match="no run directory"):
        compare_runs(first, tmp_path / "nowhere", None)


# In a browser

_WATCH = """<script>
window.problems = [];
addEventListener("error", (event) => problems.push(event.message));
addEventListener("securitypolicyviolation", (event) => problems.push(event.violatedDirective));
console.error = console.warn = (...words) => problems.push(words.join(" "));
</script>"""


def browse(page: Path, look: str, *flags: str, width: int = 390):
    """Show a page in a frame of some width, run `look` on its document `page`, and return what that returns."""
    assert CHROMIUM is not None
    framed = html.escape(page.read_text().replace("<head>", f"<head>{_WATCH}", 1))
    script = f"""const view = document.querySelector("iframe").contentWindow, page = view.document;
    const output = document.body.appendChild(document.createElement("output"));
    output.textContent = JSON.stringify((() => {{{look}}})());"""
    wrapper = page.with_name("wrapper.html")
    frame = f'<iframe srcdoc="{framed}" style="width:{width}px;height:800px;border:0"></iframe>'
    wrapper.write_text(f"<!doctype html><body>{frame}<script>onload = () => {{{script}}}</script>")
    command = [
        CHROMIUM,
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--hide-scrollbars",
    ]
    try:
        done = subprocess.run(
            [*command, f"--user-data-dir={page.parent / 'profile'}", *flags, "--dump-dom", wrapper.as_uri()],
            capture_output=True,
            text=True,
            timeout=120,
            check=True,
        )
    finally:
        wrapper.unlink()
        shutil.rmtree(page.parent / "profile", ignore_errors=True)
    found = re.search(r"<output>(.*?)</output>", done.stdout, re.DOTALL)
    assert found, done.stderr
    return json.loads(html.unescape(found[1]))


@browser
def test_a_browser_shows_everything_without_a_complaint(report):
    found = browse(
        report,
        """const sizes = [...page.querySelectorAll("figure svg")].map((svg) => svg.getBoundingClientRect());
        return {
          problems: view.problems,
          figures: sizes.length,
          drawn: sizes.filter((box) => box.width > 300 && box.height > 50).length,
          tables: page.querySelectorAll("table").length,
          rows: page.querySelectorAll("#table-atari_400000_scores tbody tr").length,
          fetched: view.performance.getEntriesByType("resource").length,
        };""",
        width=1200,
    )
    assert found == {"problems": [], "figures": 9, "drawn": 9, "tables": 12, "rows": 3, "fetched": 0}


@browser
def test_the_browser_would_tell_of_complaints(report, tmp_path):
    broken = tmp_path / "index.html"
    image = '<img src="https://example.invalid/x.png">'
    broken.write_text(report.read_text().replace("</main>", f"{image}<script>undefined.x</script></main>"))
    problems = browse(broken, "return view.problems;")
    assert any("undefined" in problem for problem in problems)
    assert "img-src" in problems


@browser
def test_a_phone_shows_the_page_without_scrolling_sideways(report):
    found = browse(
        report,
        """for (const fold of page.querySelectorAll("details")) fold.open = true;
        const wide = [...page.querySelectorAll("main *")].filter(
          (node) => !node.closest(".scroll") && node.getBoundingClientRect().right > view.innerWidth);
        return {
          width: view.innerWidth,
          content: page.documentElement.scrollWidth,
          wide: wide.map((node) => node.outerHTML.slice(0, 80)),
          text: parseFloat(view.getComputedStyle(page.body).fontSize),
        };""",
    )
    assert found == {"width": 390, "content": 390, "wide": [], "text": 16}


@browser
def test_a_phone_shows_a_comparison(tmp_path):
    first, second = (write_run(tmp_path, TASK, method, 1, RISING) for method in ("curl", "n" * 80))
    compare_runs(first, second, tmp_path / "out")
    look = "return [view.problems, page.documentElement.scrollWidth, page.querySelectorAll('figure svg').length];"
    assert browse(tmp_path / "out" / "index.html", look) == [[], 390, 1]


@browser
def test_a_press_on_a_heading_sorts(report):
    found = browse(
        report,
        """const table = page.querySelector("#table-atari_400000_aggregates table");
        const heading = table.tHead.rows[0].cells[4];
        const column = () => [...table.tBodies[0].rows].map((row) => row.cells[4].dataset.value ?? "");
        const seen = [[heading.ariaSort, column()]];
        for (let press = 0; press < 2; press++) {
          heading.firstChild.click();
          seen.push([heading.ariaSort, column()]);
        }
        table.tHead.rows[0].cells[0].firstChild.click();
        seen.push([heading.ariaSort, [...table.tBodies[0].rows].map((row) => row.cells[0].textContent)]);
        return seen;""",
    )
    (before, start), (up, rising), (down, falling), (after, names) = found
    assert (before, up, down, after) == ("none", "ascending", "descending", "none")
    known = [value for value in start if value]
    assert len(known) == 10 < len(start)  # own methods, and published ones with single runs
    assert rising == sorted(known, key=float) + [""] * (len(start) - 10)
    assert falling == sorted(known, key=float, reverse=True) + [""] * (len(start) - 10)
    assert names == sorted(names, key=str.casefold)


@browser
@pytest.mark.parametrize(("scheme", "dark"), [(0, True), (1, False)])
def test_it_is_readable_in_light_and_dark(report, scheme, dark):
    found = browse(
        report,
        """const levels = (node, name) => view.getComputedStyle(node)[name].match(/[0-9]+/g).slice(0, 3).map(Number);
        return {
          paper: levels(page.body, "backgroundColor"),
          ink: levels(page.body, "color"),
          axis: levels(page.querySelector("figure svg text"), "fill"),
        };""",
        f"--blink-settings=preferredColorScheme={scheme}",
    )
    paper, ink, axis = (np.mean(found[name]) for name in ("paper", "ink", "axis"))
    assert (paper < 60) == dark
    assert abs(paper - ink) > 150
    assert abs(paper - axis) > 150
