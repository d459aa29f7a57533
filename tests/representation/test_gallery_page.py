"""A gallery in a browser: what a mouse, a finger and keys find there is what the index knows."""

import json
import threading
from urllib.parse import quote

import numpy as np
import pytest
from chromium import CHROMIUM, Browser
from shown import colour_of, index_of, table_of

from curl_rl.representation.gallery import build_gallery
from curl_rl.representation.gallery.contents import Contents, Gallery
from curl_rl.representation.gallery.serving import open_server

pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="needs chromium: apt-get install chromium"),
    pytest.mark.slow,
]
HOSTILE = '</script><img src=x onerror="document.title=1">'
NAMES = [HOSTILE, 'a "b", c.png', *(f"frame {n}" for n in range(2, 58)), "twice", "twice"]
LOOKS = [(1280, "light"), (1280, "dark"), (390, "light"), (390, "dark")]
SHIFT, ALT = 8, 1


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with Browser(tmp_path_factory.mktemp("profile")) as browser:
        yield browser


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    index = index_of(60, names=NAMES)
    return index, build_gallery(index, tmp_path_factory.mktemp("page") / "page.html", neighbours=6)


def open_page(browser, page, width=1280, scheme="light"):
    browser.show(page.as_uri(), width=width, height=800, scheme=scheme)


def on_screen(browser) -> np.ndarray:
    """Return where the browser has each point, (n, 2) in pixels of the window."""
    code = "const box = canvas.getBoundingClientRect(); return told.names.map((_, i) => chart.at(i)"
    found = browser.look(f"(() => {{ {code}.map((value, k) => value + [box.left, box.top][k])); }})()")
    return np.array(found)


def lonely(places: np.ndarray, *, many: int = 1) -> list[int]:
    """Return the points that lie farthest from their nearest others, which no click can miss."""
    apart = np.linalg.norm(places[:, None] - places[None], axis=2) + np.eye(len(places)) * 1e6
    return np.argsort(-apart.min(1))[:many].tolist()


def colour_in(browser, selector: str) -> tuple[int, ...]:
    """Return the colour in the middle of a picture, once it is drawn."""
    browser.wait(f"document.querySelector({json.dumps(selector)})?.dataset.painted")
    canvas = f"document.querySelector({json.dumps(selector)})"
    return tuple(browser.look(f"[...{canvas}.getContext('2d').getImageData(8, 8, 1, 1).data.slice(0, 3)]"))


def numbers_in(browser, place: str) -> list[int]:
    return browser.look(f"[...document.querySelectorAll('#{place} .tile')].map((each) => Number(each.dataset.number))")


def text_of(browser, selector: str) -> str:
    return browser.look(f"document.querySelector({json.dumps(selector)}).textContent")


def around(centre: np.ndarray, radius: float) -> list[tuple[float, float]]:
    angles = np.linspace(0, 2 * np.pi, 14)
    return [(centre[0] + radius * np.cos(angle), centre[1] + radius * np.sin(angle)) for angle in angles]


def enclosed(places: np.ndarray, line: list[tuple[float, float]]) -> list[int]:
    """Return the points left of every side of a line that turns left."""
    corners = np.array(line)
    sides, off = np.diff(corners, axis=0), places[:, None] - corners[:-1]
    return np.flatnonzero((sides[:, 0] * off[:, :, 1] - sides[:, 1] * off[:, :, 0] > 0).all(1)).tolist()


@pytest.mark.parametrize("width", [1280, 390])
def test_the_map_is_that_of_the_index_at_one_scale(built, browser, width):
    index, page = built
    open_page(browser, page, width)
    places, wanted = on_screen(browser), Contents(index, Gallery(), {}).places.numpy() * [1, -1]
    scale = np.ptp(places[:, 0]) / np.ptp(wanted[:, 0])
    assert places - places.mean(0) == pytest.approx(scale * (wanted - wanted.mean(0)), abs=0.1)
    box = browser.look("canvas.getBoundingClientRect().toJSON()")
    assert (places.min(0) > [box["left"], box["top"]]).all()
    assert (places.max(0) < [box["right"], box["bottom"]]).all()


@pytest.mark.parametrize(("width", "scheme"), LOOKS, ids=str)
def test_a_click_shows_a_frame_its_neighbours_and_its_episode(built, browser, width, scheme):
    index, page = built
    open_page(browser, page, width, scheme)
    places = on_screen(browser)
    for number in lonely(places, many=3):
        browser.click(*places[number])
        browser.wait(f"document.querySelector('#frame h2')?.textContent === {json.dumps(NAMES[number])}")
        ids, values = index.neighbours(number, 6)
        assert numbers_in(browser, "near") == ids.tolist()
        captions = browser.look("[...document.querySelectorAll('#near .value')].map((each) => each.textContent)")
        assert captions == [f"{value:.3f}" for value in values.tolist()]
        assert colour_in(browser, ".card canvas") == pytest.approx(colour_of(number), abs=10)
        for rank, neighbour in enumerate(ids.tolist(), 1):
            shown = colour_in(browser, f"#near .tile:nth-child({rank}) canvas")
            assert shown == pytest.approx(colour_of(neighbour), abs=10)
        first, last = max(number // 10 * 10, number - 8), min(number // 10 * 10 + 9, number + 8)
        assert numbers_in(browser, "strip") == list(range(first, last + 1))
        assert browser.look("Number(document.querySelector('#strip [aria-current]').dataset.number)") == number
        told = browser.look("[...document.querySelectorAll('.card dl > *')].map((each) => each.textContent)")
        facts = dict(zip(told[::2], told[1::2], strict=True))
        assert (facts["episode"], facts["step"]) == (str(number // 10), str(number % 10))
        assert facts.get("class", "") == index.rows.classes[number]
    browser.look("document.querySelector('#panel input').click()")
    ids = index.neighbours(number, 6, other_episodes=True).ids.tolist()
    assert numbers_in(browser, "near") == ids
    browser.look(f"document.querySelector('#near [data-number=\"{ids[2]}\"]').click()")
    browser.wait(f"document.querySelector('#frame h2')?.textContent === {json.dumps(NAMES[ids[2]])}")
    assert browser.problems == []
    assert browser.requests == [page.as_uri()]
    assert browser.look("document.documentElement.scrollWidth") == width
    dark = browser.look("getComputedStyle(document.body).backgroundColor") != "rgb(255, 255, 255)"
    assert dark == (scheme == "dark")


@pytest.mark.parametrize(("width", "scheme"), LOOKS, ids=str)
def test_a_lasso_saves_the_names_of_what_it_holds(built, browser, width, scheme, tmp_path):
    _, page = built
    open_page(browser, page, width, scheme)
    browser.call("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(tmp_path))
    places = on_screen(browser)
    middle = places[places[:, 0].argsort()[len(places) // 2]]
    browser.look("document.getElementById('lasso').click()")
    line = around(middle, 70)
    browser.drag(line)
    browser.settle()
    inside = enclosed(places, line)
    assert 5 < len(inside) < 55
    assert text_of(browser, "#count") == str(len(inside))
    browser.drag(around(places[0], 12), modifiers=SHIFT)
    less = around(middle, 30)
    browser.drag(less, modifiers=ALT)
    browser.settle()
    chosen = sorted((set(inside) | set(enclosed(places, around(places[0], 12)))) - set(enclosed(places, less)))
    assert text_of(browser, "#count") == str(len(chosen))
    browser.look("document.getElementById('save').click()")
    file = tmp_path / "labels.csv"
    wait_for(browser, file)
    numbered = bool({58, 59} & set(chosen))
    header, *rows = table_of(file.read_text())
    assert header == ["name", "class", *["number"] * numbered]
    assert rows == [[NAMES[number], "", *[str(number)] * numbered] for number in chosen]
    assert browser.problems == []
    browser.look("document.getElementById('clear').click()")
    assert text_of(browser, "#count") == "0"
    assert browser.look("document.getElementById('save').disabled")


def wait_for(browser, file):
    for _ in range(500):
        if file.exists() and file.stat().st_size:
            return
        browser.look("new Promise((done) => setTimeout(done, 20))")
    raise AssertionError(f"{file} was never written")


def test_names_that_are_there_twice_are_saved_with_numbers(built, browser):
    open_page(browser, built[1])
    csv = "(change([frameOf(3), frameOf({})], true), csvOfSet())"
    assert table_of(browser.look(csv.format(59))) == [
        ["name", "class", "number"],
        ["frame 3", "", "3"],
        ["twice", "", "59"],
    ]
    open_page(browser, built[1])
    assert table_of(browser.look(csv.format(0))) == [["name", "class"], [HOSTILE, ""], ["frame 3", ""]]


def test_hovering_shows_the_frame_under_the_mouse(built, browser):
    _, page = built
    open_page(browser, page)
    places = on_screen(browser)
    for number in lonely(places, many=4):
        browser.mouse("Moved", *(places[number] + 3))
        browser.wait(f"document.querySelector('#tip b')?.textContent === {json.dumps(NAMES[number])}")
        assert colour_in(browser, "#tip canvas") == pytest.approx(colour_of(number), abs=10)
        assert f"step {number % 10}" in text_of(browser, "#tip")
    browser.mouse("Moved", 2, 2)
    assert browser.look("document.getElementById('tip').hidden")


def test_fingers_select_and_zoom(built, browser):
    open_page(browser, built[1], 390)
    places = on_screen(browser)
    number = lonely(places)[0]
    browser.touch([places[number] + 5])
    browser.wait(f"document.querySelector('#frame h2')?.textContent === {json.dumps(NAMES[number])}")
    assert text_of(browser, "#tip b") == NAMES[number]
    middle = places.mean(0)
    near, far = np.array([40, 0]), np.array([80, 10])
    browser.touch([middle - near, middle + near], [middle - far, middle + far])
    now = on_screen(browser)
    assert np.ptp(now, axis=0) == pytest.approx(np.ptp(places, axis=0) * np.hypot(80, 10) / 40, rel=0.01)
    still = (now - middle) * 40 / np.hypot(80, 10)
    assert still == pytest.approx(places - middle, abs=12)
    assert text_of(browser, "#count") == "0"
    assert browser.problems == []


def test_names_are_text_wherever_they_are_shown(built, browser):
    open_page(browser, built[1])
    browser.look("select(0)")
    browser.look("goTo(0)")
    assert text_of(browser, "#frame h2") == text_of(browser, "#tip b") == HOSTILE
    assert browser.look("document.images.length + document.querySelectorAll('#frame script').length") == 0
    assert browser.look("document.title") == "Frames: a gallery of frames"
    assert browser.problems == []


def test_everything_is_done_by_keys_too(built, browser):
    index, page = built
    open_page(browser, page)
    places = on_screen(browser)
    browser.look("canvas.focus()")
    assert browser.look("getComputedStyle(canvas).outlineStyle") == "solid"
    browser.key("Home")
    at = 0
    for key, way in (("ArrowRight", (1, 0)), ("ArrowDown", (0, 1)), ("ArrowLeft", (-1, 0)), ("ArrowUp", (0, -1))):
        browser.key(key)
        at = beyond(places, at, way)
        assert browser.look("state.cursor") == at
        assert text_of(browser, "#live").startswith(NAMES[at])
    browser.key("Enter")
    browser.wait(f"document.querySelector('#frame h2')?.textContent === {json.dumps(NAMES[at])}")
    assert text_of(browser, "#live").startswith(f"selected {NAMES[at]}")
    browser.key(" ")
    assert text_of(browser, "#count") == "1"
    assert browser.look("[...chosen.keys()]") == [at]
    browser.key("PageDown")
    assert browser.look("state.cursor") == at + 1
    browser.key("PageUp")
    for control in ("apart", "put"):  # which are made anew when pressed
        browser.look(f"document.getElementById('{control}').focus()")
        browser.key(" ")
        browser.key(" ")
        assert browser.look("document.activeElement.id") == control
    ids = index.neighbours(at, 6).ids.tolist()
    browser.look("document.querySelector('#near .tile').focus()")
    browser.key("ArrowRight")
    assert browser.look("Number(document.activeElement.dataset.number)") == ids[1]
    browser.key("Enter")
    browser.wait(f"document.querySelector('#frame h2')?.textContent === {json.dumps(NAMES[ids[1]])}")
    assert browser.look("document.activeElement.closest('#near') !== null")
    browser.key("Escape")
    assert browser.look("document.activeElement === canvas && document.querySelector('#frame h2') === null")
    assert browser.problems == []


def beyond(places: np.ndarray, at: int, way: tuple[int, int]) -> int:
    """Return the next point in a direction: ahead, and twice as bad for each pixel aside."""
    off = places - places[at]
    ahead, aside = off @ np.array(way), np.abs(off @ np.array(way[::-1]) * np.array(1))
    cost = np.where((ahead > 0) & (aside <= ahead), ahead + 2 * aside, np.inf)
    return int(cost.argmin()) if np.isfinite(cost).any() else at


def test_a_lasso_is_drawn_by_keys(built, browser):
    open_page(browser, built[1])
    places = on_screen(browser)
    corners = [int(places[:, 0].argmin()), int(places[:, 1].argmin()), int(places[:, 0].argmax())]
    browser.look("canvas.focus()")
    for corner in corners:
        browser.look(f"goTo({corner})")
        browser.key("l")
    assert "3 corners" in text_of(browser, "#live")
    browser.key("+")  # the corners stay where they are on the map
    browser.key("Enter")
    inside = set(enclosed(places, [places[each] for each in [*corners, corners[0]]]))
    found = set(browser.look("[...chosen.keys()]"))
    assert 3 < len(inside) < 57
    assert inside <= found <= inside | set(corners)


def test_a_class_is_highlighted_and_put_into_the_set(built, browser):
    index, page = built
    open_page(browser, page)
    assert text_of(browser, "#colour option:checked") == "class"
    names = browser.look("[...document.querySelectorAll('#legend bdi')].map((each) => each.textContent)")
    assert names == ["door", "key", "wall", "unknown"]
    browser.look("document.querySelectorAll('#legend button')[1].click()")
    assert browser.look("document.activeElement.getAttribute('aria-pressed')") == "true"
    wanted = [number for number, name in enumerate(index.rows.classes) if name == "key"]
    browser.look("document.getElementById('highlighted').click()")
    assert sorted(browser.look("[...chosen.keys()]")) == wanted
    places = on_screen(browser)
    hidden = next(number for number in lonely(places, many=60) if number not in wanted)
    browser.click(*places[hidden])
    browser.settle()
    assert browser.look("state.look?.frame.number") != hidden


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_points_have_the_colour_of_their_value(built, browser, scheme):
    index, page = built
    open_page(browser, page, scheme=scheme)
    places, seen = on_screen(browser), {}
    for name in ("class", "return", "episode", "step", "cluster"):
        browser.look(f"menu.value = varying.findIndex((each) => each.name === '{name}')")
        browser.look("menu.dispatchEvent(new Event('change'))")
        browser.settle()
        point = lonely(places)[0]
        x, y = browser.look(f"chart.at({point}).map(Math.round)")
        pixel = browser.look(f"[...chart.context.getImageData({x}, {y}, 1, 1).data.slice(0, 3)]")
        colour = browser.look(f"chart.colours[{point}]")
        paper = browser.look("packed(getComputedStyle(document.documentElement).getPropertyValue('--map').trim())")
        mixed = [0.88 * (colour >> shift & 255) + 0.12 * (paper >> shift & 255) for shift in (0, 8, 16)]
        assert pixel == pytest.approx(mixed, abs=3)
        seen[name] = browser.look("Array.from(chart.colours)")
    classes = index.rows.classes
    assert len(set(zip(classes, seen["class"], strict=True))) == len(set(classes)) == len(set(seen["class"]))
    assert len(set(seen["step"])) == 10
    assert seen["step"][0] == browser.look("rampColour(0)")
    assert seen["step"][9] == browser.look("rampColour(1)")


def test_twenty_thousand_points_are_drawn_once_and_found_by_few_looks(browser, tmp_path):
    index = index_of(20_000, dim=3)
    page = build_gallery(index, tmp_path / "page.html", neighbours=1)
    open_page(browser, page)
    work = "({ ...chart.work, sheets: sheets.size })"
    start = browser.look(work)
    assert start["stamps"] == 20_000 * start["draws"] <= 40_000
    assert (start["tested"], start["sheets"]) == (0, 0)
    box, places = browser.look("canvas.getBoundingClientRect().toJSON()"), on_screen(browser)
    spread, corner = (np.array([box[name] for name in names]) for names in (("width", "height"), ("left", "top")))
    for x, y in np.round(np.random.default_rng(0).uniform(0.1, 0.9, (100, 2)) * spread) + corner:
        browser.mouse("Moved", x, y)
        apart = np.linalg.norm(places - [x, y], axis=1)
        found = browser.look("state.hover")
        assert found == -1 if apart.min() > 14 else apart[found] == pytest.approx(apart.min())
    hovered = browser.look(work)
    assert hovered["stamps"] == start["stamps"]  # the points are not drawn again
    assert 0 < hovered["tested"] < 100 * 200
    assert hovered["draws"] <= start["draws"] + 100
    # Twenty turns of the wheel before the next frame are one drawing, of what is in sight.
    wheel = "new WheelEvent('wheel', { deltaY: -200, clientX: 400, clientY: 400 })"
    browser.look(f"(() => {{ for (let i = 0; i < 20; i++) canvas.dispatchEvent({wheel}); }})()")
    browser.settle()
    zoomed = browser.look(work)
    assert zoomed["draws"] == hovered["draws"] + 1
    assert zoomed["stamps"] < hovered["stamps"] + 4_000
    assert zoomed["sheets"] <= 12
    assert browser.problems == []


def test_no_picture_is_decoded_before_it_is_shown(browser, tmp_path):
    page = build_gallery(index_of(3000), tmp_path / "page.html", neighbours=4)
    open_page(browser, page)
    assert browser.look("sheets.size") == 0
    browser.look("select(2100)")
    wanted = {number // 1024 for number in [2100, *browser.look("state.look.near.map((each) => each.number)")]}
    assert set(browser.look("[...sheets.keys()]")) <= wanted | {2}


def test_a_thinned_page_says_so(browser, tmp_path):
    page = build_gallery(index_of(300), tmp_path / "page.html", most=100)
    open_page(browser, page)
    assert text_of(browser, "#about").startswith("100 of 300 frames, evenly chosen · PCA")


def test_a_served_page_shows_frames_that_are_not_on_the_map(browser):
    index = index_of(90, names=[*NAMES, *(f"late {n}" for n in range(30))], sources=2)
    gone = {"offline": True, "latency": 0, "downloadThroughput": -1, "uploadThroughput": -1}
    with open_server(index, most=30, neighbours=8) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            browser.show(server.url)
            places = on_screen(browser)
            point = lonely(places)[0]
            browser.click(*places[point])
            ids = index.neighbours(3 * point, 8).ids.tolist()
            browser.wait("document.querySelectorAll('#near .tile').length === 8")
            assert numbers_in(browser, "near") == ids
            off_map = next(each for each in ids if each % 3)
            browser.look(f"document.querySelector('#near [data-number=\"{off_map}\"]').click()")
            browser.wait(f"state.look.frame.number === {off_map}")
            assert colour_in(browser, ".card canvas") == pytest.approx(colour_of(off_map), abs=10)
            assert numbers_in(browser, "near") == index.neighbours(off_map, 8).ids.tolist()
            assert browser.problems == []
            assert all(url.startswith(server.url) for url in browser.requests)
            browser.call("Network.emulateNetworkConditions", **gone)
            browser.look(f"select({ids[1]})")
            assert "is the server still running?" in text_of(browser, "#frame")
        finally:
            browser.call("Network.emulateNetworkConditions", **(gone | {"offline": False}))
            server.shutdown()
            thread.join()


def test_colours_follow_the_machine_from_light_to_dark(built, browser):
    open_page(browser, built[1])
    before = browser.look("chart.colours[1]")
    browser.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": "dark"}])
    browser.settle()
    assert browser.look("theme()") == "dark"
    assert browser.look("chart.colours[1]") != before
    assert browser.look("[...chart.context.getImageData(1, 1, 1, 1).data]") == [16, 19, 23, 255]


def test_the_browser_would_tell_of_what_a_page_must_not_do(browser):
    bad = "<meta http-equiv='Content-Security-Policy' content=\"img-src data:\"><img src=https://example.invalid/x.png>"
    browser.show("data:text/html," + quote(f"<!doctype html>{bad}<script>undefined.x</script>", safe=""))
    assert any("undefined" in problem for problem in browser.problems)
    assert any("Content Security Policy" in problem for problem in browser.problems)
