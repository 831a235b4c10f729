"""The page of ``noisebank report``, opened in a real browser: what it shows, and what stays text."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.browser import NAMES, Browser, find_browser
from tests.support.projects import CAPTIONS, Project, Row, noisebank

MARKUP = "<img src=x onerror=window.taken=1></article><script>window.taken=1</script>{{ 7 * 7 }} &lt;b&gt; \"'`"
CONTROLS = "\x01\x07\x1b\x1f\x7f"
HOSTILE = {
    "markup": MARKUP,
    "direction": "\u202eesrever \u05e9\u05dc\u05d5\u05dd \u2066 an unclosed isolate" + CONTROLS,
    "emoji": "👩‍👩‍👧‍👦🏴‍☠️ e\u0301\u0301\u0301\u0301 ﷽ 🦊",
    "long": "W" * 10_000,
}
"""Captions by the id of their clip."""
ADDRESS = "videos/<script>window.taken=1</script>.mp4"
PHONE, DESK = 390, 1280


@pytest.fixture(scope="module")
def bank(module_project: Callable[[str], Project]) -> Project:
    """A bank of two snapshots: five clips whose captions and addresses mean harm, then one more; two rows failed."""
    project = module_project("report")
    plain = project.rows(1)
    videos = iter(project.rows(len(HOSTILE), 1))
    hostile = [Row(id, next(videos).uri, caption) for id, caption in HOSTILE.items()]
    bad = [Row("gone", ADDRESS, "a video that is not there"), Row("mute", "videos/v01.mp4", " ")]
    project.write_list([*plain, *hostile, *bad])
    project.build("--max_failed", 0.5)
    project.write_list([*plain, *hostile, *bad, *project.rows(1, 6)])
    project.build("--max_failed", 0.5)
    return project


@pytest.fixture(scope="module")
def replays(bank: Project, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a replay of one clip, and one of a clip that is not in the bank."""
    folder = tmp_path_factory.mktemp("replays")
    for id in ("mine-clip00", "mine-nobody"):
        shutil.copy(bank.folder / "videos" / "v00.mp4", folder / f"{id}.mp4")
    return folder


@pytest.fixture(scope="module")
def page(bank: Project, replays: Path) -> Path:
    """The page of the second snapshot beside the first."""
    path = bank.folder / "report.html"
    bank.look("report", "-o", path, "--compare", 1, "--replays", replays)
    return path


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    program = find_browser()
    if program is None:
        pytest.skip(f"no browser on the PATH: none of {', '.join(NAMES)}; 'apt-get install chromium' brings one")
    with Browser(program) as running:
        yield running


def texts(browser: Browser, selector: str) -> list[str]:
    """The text of every element that a selector finds."""
    found = browser.evaluate(f"JSON.stringify([...document.querySelectorAll({selector!r})].map(e => e.textContent))")
    return list(json.loads(found))


def test_its_json_says_what_the_page_shows(bank: Project, replays: Path) -> None:
    words = ["-o", bank.folder / "other.html", "--compare", 1, "--replays", replays]
    document = bank.look("report", *words)
    shown = bank.look("show")
    assert {name: document[name] for name in shown} == shown
    assert document["difference"] == bank.look("show", "--diff", 1, 2)
    assert document["unknown_replays"] == ["mine-nobody"]
    assert [clip["id"] for clip in document["clips"] if clip["replayed"]] == ["mine-clip00"]
    assert {clip["id"] for clip in document["clips"]} == {"mine-clip00", "mine-clip06", *map("mine-{}".format, HOSTILE)}
    assert all(len(clip["neighbours"]) == 3 and clip["id"] not in clip["neighbours"] for clip in document["clips"])
    assert [(one["rows"], one["code"], one["id"]) for one in document["failed"]] == [
        (1, "missing_file", "mine-gone"),
        (1, "empty_caption", "mine-mute"),
    ]
    assert sum(files["bytes"] for files in document["files"].values()) == shown["bytes"]
    small = document["records"]["small"]
    assert (small["records"], small["looked_at"]) == (6, 6)
    assert small["max_residual"]["measured"] == 6
    assert document["stages_of"] == 2
    assert document["seconds"].keys() == {"clips", "captions", "index", "noise/small"}


def test_the_same_bank_gives_the_same_page(bank: Project, page: Path, replays: Path) -> None:
    again = bank.folder / "again.html"
    bank.look("report", "-o", again, "--compare", 1, "--replays", replays)
    assert again.read_bytes() == page.read_bytes()


def test_the_page_has_no_character_that_html_may_not_have(page: Path) -> None:
    text = page.read_text()
    assert "an unclosed isolate<" in text and not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", text)


def test_captions_of_others_are_shown_as_text(browser: Browser, page: Path) -> None:
    browser.open(page)
    shown = texts(browser, ".caption")
    assert {*(text.removesuffix(CONTROLS) for text in HOSTILE.values()), CAPTIONS[0], CAPTIONS[6]} == {*shown}
    assert browser.evaluate("document.querySelectorAll('script, .caption *, .text *, .foreign img').length") == 0
    assert browser.evaluate("window.taken === undefined")
    assert any(ADDRESS.rpartition("videos/")[2] in text for text in texts(browser, ".foreign"))
    assert browser.evaluate("document.querySelectorAll('article').length") == 6
    isolated = "[...document.querySelectorAll('.caption')].every(e => getComputedStyle(e).unicodeBidi === 'isolate')"
    assert browser.evaluate(isolated)


def test_the_page_asks_for_nothing(browser: Browser, page: Path) -> None:
    browser.open(page)
    assert browser.evaluate("Promise.all([...document.images].map(i => i.decode())).then(() => true)")
    assert browser.requests() == []
    assert browser.complaints() == []
    sizes = browser.evaluate("JSON.stringify([...document.images].map(i => [i.naturalWidth, i.naturalHeight]))")
    assert sorted(json.loads(sizes)) == [[64, 64]] * 5 + [[129, 64]]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [PHONE, DESK])
def test_nothing_is_wider_than_the_screen(browser: Browser, page: Path, width: int, scheme: str) -> None:
    browser.open(page, width=width, scheme=scheme)
    assert browser.evaluate("window.innerWidth") == width
    assert browser.evaluate("document.documentElement.scrollWidth") == width
    out = "[...document.querySelectorAll('main > *, .card, figure')].map(e => e.getBoundingClientRect())"
    assert browser.evaluate(f"{out}.every(r => r.left >= 0 && r.right <= innerWidth)")


CONTRAST = """
(() => {
  const light = colour => {
    const [r, g, b] = colour.match(/[0-9.]+/g).slice(0, 3).map(c => c / 255)
      .map(c => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const ground = light(getComputedStyle(document.querySelector('figure')).backgroundColor);
  const of = e => light(getComputedStyle(e)[e.closest('svg') ? 'fill' : 'color']);
  const contrasts = [...document.querySelectorAll('h1, .caption, .facts, td, th, figcaption small, svg text')]
    .map(of).map(l => (Math.max(l, ground) + 0.05) / (Math.min(l, ground) + 0.05));
  return JSON.stringify([ground, Math.min(...contrasts), document.querySelectorAll('svg text').length]);
})()
"""
"""Luminance of a plot's background, the least contrast of any text to it, and how many texts plots have."""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_can_be_read_in_light_and_dark(browser: Browser, page: Path, scheme: str) -> None:
    browser.open(page, scheme=scheme)
    ground, contrast, labels = json.loads(browser.evaluate(CONTRAST))
    assert (ground > 0.5) == (scheme == "light")
    assert contrast >= 4.5
    assert labels > 20


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--compare", 7], "no snapshot 7; the latest is 2"),
        (["--replays", "/nowhere"], "--replays: /nowhere: no such folder"),
        (["--clips", -1], "at least 0"),
    ],
    ids=["an unknown snapshot", "no replays", "fewer clips than none"],
)
def test_what_cannot_be_shown_is_named_and_no_page_is_written(bank: Project, words: list[Any], says: str) -> None:
    path = bank.folder / "none.html"
    ran = noisebank("report", bank.bank, "-o", path, *words)
    assert ran.exit_code in (1, 2)
    assert says in ran.stderr
    assert not path.exists()


def test_a_replay_that_is_no_video_is_named(bank: Project, tmp_path: Path) -> None:
    (tmp_path / "mine-clip00.mp4").write_text("no video")
    ran = noisebank("report", bank.bank, "-o", tmp_path / "page.html", "--replays", tmp_path)
    assert ran.exit_code == 2
    assert f"--replays: {tmp_path / 'mine-clip00.mp4'}: cannot be decoded" in ran.stderr


def test_a_gallery_may_be_smaller_or_left_out(bank: Project, tmp_path: Path) -> None:
    two, none = (bank.look("report", "-o", tmp_path / "page.html", "--clips", count)["clips"] for count in (2, 0))
    assert (len(two), len(none)) == (2, 0)
    assert 'id="clips"' not in (tmp_path / "page.html").read_text()
