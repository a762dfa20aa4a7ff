"""The page in headless Chromium, on a real server with the embedded preset."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path

import chromium
import numpy as np
import pytest
from PIL import Image
from web_server import Server, encoded

from scanseg.web.examples import available

pytestmark = pytest.mark.skipif(not chromium.installed(), reason="no chromium and chromedriver")

ENTER, TAB, ESCAPE, CONTROL, RIGHT, SPACE = "\ue007", "\ue004", "\ue00c", "\ue009", "\ue014", " "
ANSWERED = "!document.querySelector('#run').disabled && !document.querySelector('#result').hidden"


@pytest.fixture(scope="module")
def server(serve: Callable[..., Server]) -> Server:
    return serve("--max-mb", "2")


@pytest.fixture(scope="module")
def window(tmp_path_factory: pytest.TempPathFactory) -> Iterator[chromium.Browser]:
    browser = chromium.Browser(tmp_path_factory.mktemp("chromium"))
    yield browser
    browser.close()


@pytest.fixture
def page(window: chromium.Browser, server: Server) -> Iterator[chromium.Browser]:
    """A freshly opened page that must leave no complaint in the browser's log."""
    window.resize(1280, 900)
    window.open(server.address)
    window.wait("document.querySelectorAll('#examples button').length")
    yield window
    refused = "Failed to load resource: the server responded with a status of 4"
    assert [line for line in window.log() if refused not in line] == []


@pytest.fixture(scope="module")
def cat() -> Path:
    path = available()["cat"].path
    assert path is not None
    return path


def chips(page: chromium.Browser) -> list[str]:
    return page.script(
        "return [...document.querySelectorAll('#chips li span')].map(s => s.textContent)"
    )


def legend(page: chromium.Browser) -> dict[str, str]:
    rows = page.script(
        "return [...document.querySelectorAll('#legend li:not([hidden])')]"
        ".map(r => [r.querySelector('b').textContent, r.querySelector('output').textContent])"
    )
    return dict(rows)


def canvas(page: chromium.Browser) -> np.ndarray:
    """(H, W, 3) of what is drawn."""
    page.script("return new Promise(done => requestAnimationFrame(() => setTimeout(done, 20)))")
    data = page.script("return document.querySelector('#canvas').toDataURL('image/png')")
    image = Image.open(BytesIO(base64.b64decode(data.split(",")[1])))
    return np.asarray(image.convert("RGB")).astype(int)


def upload(page: chromium.Browser, photo: Path, words: str) -> None:
    page.type("#file", str(photo))
    page.wait("!document.querySelector('#view').hidden")
    page.type("#words", words)
    page.keys(f"{CONTROL}+{ENTER}")
    page.wait(ANSWERED)


def test_upload_words_result_hover_download(page: chromium.Browser, cat: Path) -> None:
    upload(page, cat, "cat, wall: tapestry, carpet")
    assert chips(page) == ["cat", "wall, tapestry, carpet"]
    shares = legend(page)
    assert set(shares) >= {"cat", "wall"}
    assert float(shares["cat"].split()[0]) > 50

    # the middle of the photo is the cat
    before = canvas(page)
    assert before.shape == (300, 451, 3)
    page.hover("#canvas", 0.5, 0.6)
    page.wait("!document.querySelector('#tip').hidden")
    name, sure = re.fullmatch(r"(\w+)\s*([\d.]+) %", page.text("#tip")).groups()
    assert name == "cat"
    assert float(sure) > 50

    # downloads: the map, the record, the picture
    page.click("#downloads [data-kind=map]")
    saved = Image.open(BytesIO(page.downloaded("chelsea_map.png")))
    names = json.loads(saved.info["scanseg"])["names"]
    assert names == ["cat", "wall"]
    values = np.asarray(saved)
    assert values.shape == (300, 451)
    assert values[180, 225] == 1
    page.click("#downloads [data-kind=json]")
    record = json.loads(page.downloaded("chelsea.json"))
    assert record["labels"] == ["cat", "wall"]
    assert f"{100 * record['segments'][0]['share']:.0f} %" == shares["cat"]
    page.click("#downloads [data-kind=overlay]")
    picture = Image.open(BytesIO(page.downloaded("chelsea_overlay.png")))
    assert picture.width == 451
    assert picture.height > 300  # the legend


def test_sliders_and_toggles_need_no_request(page: chromium.Browser, cat: Path) -> None:
    upload(page, cat, "cat, wall")
    page.script("window.fetch = () => { throw new Error('a request'); }")
    plain = canvas(page)

    def slide(name: str, value: int) -> np.ndarray:
        page.script(
            "const s = document.getElementById(arguments[0]); s.value = arguments[1];"
            "s.dispatchEvent(new Event('input'))",
            name,
            value,
        )
        return canvas(page)

    shown = slide("opacity", 0)
    photo = np.asarray(Image.open(cat).convert("RGB")).astype(int)
    assert np.abs(shown - photo).mean() < 1  # no colour: the photo itself
    assert np.abs(plain - photo).mean() > 20
    slide("opacity", 55)
    unknown = slide("threshold", 100)
    assert float(legend(page)["unknown"].split()[0]) > 90
    assert np.abs(unknown - plain).mean() > 10
    slide("threshold", 0)
    assert np.abs(canvas(page) - plain).max() == 0

    page.click("#legend li:first-child input")  # cat off: the cat looks as in the photo
    page.script("document.activeElement.blur()")
    off = canvas(page)
    np.testing.assert_array_equal(off[170:190, 215:235], photo[170:190, 215:235])
    page.click("#legend li:first-child input")
    page.script("document.activeElement.blur()")
    assert np.abs(canvas(page) - plain).max() == 0


def test_the_threshold_of_the_page_is_that_of_the_files(page: chromium.Browser, cat: Path) -> None:
    upload(page, cat, "cat, wall")
    page.script(
        "const s = document.getElementById('threshold'); s.value = 97;"
        "s.dispatchEvent(new Event('input'))"
    )
    shown = legend(page)
    for file in page.downloads.iterdir():
        file.unlink()
    page.click("#downloads [data-kind=json]")
    record = json.loads(page.downloaded("chelsea.json"))
    assert record["settings"]["inference"]["unknown_below"] == 0.97
    share = 100 * record["unknown_share"]
    assert shown["unknown"] == (f"{share:.1f} %" if share < 9.95 else f"{share:.0f} %")


def test_keyboard_alone(page: chromium.Browser) -> None:
    """From the first Tab to the name under the pointer, without a mouse."""
    page.script("document.querySelector('#examples button').focus()")
    page.keys(ENTER)
    page.wait(ANSWERED)
    assert chips(page) == ["cat", "wall"]
    page.script("document.querySelector('#legend input').focus()")
    assert re.fullmatch(r"cat: [\d.]+ % of the photo, confidence [\d.]+ %", page.text("#probe"))
    page.keys(SPACE)  # the toggle
    assert page.script("return document.querySelector('#legend li').className") == "off"
    page.keys(SPACE)
    page.script("document.querySelector('#canvas').focus()")
    page.keys(RIGHT)
    assert re.fullmatch(r"cat: confidence [\d.]+ %", page.text("#probe"))
    # words: Backspace takes the last one back, Enter keeps it, Enter on nothing asks
    page.script("document.querySelector('#words').focus()")
    page.keys("\ue003", "s", ENTER)
    assert chips(page) == ["cat", "walls"]
    page.keys(ENTER)
    page.wait("document.querySelector('#run').disabled")
    page.wait(ANSWERED)
    assert "walls" in page.text("#legend") + page.text("#absent")


def test_every_control_has_a_name_and_a_visible_focus(page: chromium.Browser, cat: Path) -> None:
    upload(page, cat, "cat, wall")
    nodes = page.devtools("Accessibility.getFullAXTree")["nodes"]
    roles = {"button", "textbox", "slider", "checkbox", "combobox", "link", "image", "canvas"}
    controls = [
        (node["role"]["value"].lower(), node.get("name", {}).get("value", ""))
        for node in nodes
        if not node["ignored"] and node["role"]["value"].lower() in roles
    ]
    assert len(controls) > 12
    assert [role for role, name in controls if not name] == []
    page.script("document.body.focus()")
    seen = set()
    for _ in range(30):
        page.keys(TAB)
        name, outline, own = page.script(
            "const e = document.activeElement, shown = getComputedStyle(e).outlineStyle;"
            "return [e.id, shown, e.matches('#words, #file, body')]"  # shown around these
        )
        seen.add(name)
        assert own or outline != "none"
    assert {"words", "run", "threshold", "opacity", "canvas", "file", "back", "theme"} <= seen


def test_errors_are_shown_well(page: chromium.Browser, cat: Path, tmp_path: Path) -> None:
    def trouble() -> str:
        page.wait("!document.querySelector('#trouble').hidden")
        return " ".join(page.text("#trouble").split())

    page.click("#run")
    assert trouble() == "There is no photo yet. Choose one, drop one or paste one."
    page.type("#file", str(cat))
    page.wait("!document.querySelector('#view').hidden")
    page.click("#run")
    assert trouble() == "There are no words yet. Write what to look for, such as cat, sofa."
    page.type("#words", "cat\n")
    assert not page.shown("#trouble")

    bad = tmp_path / "report.png"
    bad.write_bytes(b"%PDF-1.7 not a photo")
    page.type("#file", str(bad))
    page.wait("document.querySelector('#caption').textContent.includes('report.png')")
    page.click("#run")
    assert trouble() == "Report.png is a PDF. Export the page as PNG or JPEG first."
    large = tmp_path / "large.bmp"
    large.write_bytes(encoded(np.zeros((900, 900, 3), np.uint8), "BMP"))
    page.type("#file", str(large))
    assert trouble() == "large.bmp is larger than 2 MB. Shrink it or save it as JPEG first."
    page.type("#file", str(cat))
    page.wait("document.querySelector('#caption').textContent.includes('chelsea')")
    page.click("#run")
    page.wait(ANSWERED)  # and goes on as if nothing had been
    assert not page.shown("#trouble")


def test_a_photo_that_only_the_server_reads(page: chromium.Browser, tmp_path: Path) -> None:
    path = tmp_path / "scan.tif"
    path.write_bytes(encoded(np.full((60, 90, 3), (200, 30, 30), np.uint8), "TIFF"))
    upload(page, path, "wall, sky")
    page.script(
        "const s = document.getElementById('opacity'); s.value = 0;"
        "s.dispatchEvent(new Event('input'))"
    )
    shown = canvas(page)
    assert shown.shape == (60, 90, 3)
    assert np.abs(shown.mean((0, 1)) - (200, 30, 30)).max() < 12


def test_cancel_makes_room_for_another_question(page: chromium.Browser, tmp_path: Path) -> None:
    path = tmp_path / "noise.jpg"
    noise = np.random.default_rng(0).integers(0, 256, (200, 300, 3), np.uint8)
    path.write_bytes(encoded(np.kron(noise, np.ones((8, 8, 1), np.uint8)), "JPEG"))
    page.type("#file", str(path))
    page.wait("!document.querySelector('#view').hidden")
    page.type("#words", ", ".join(f"thing {i}" for i in range(30)))
    page.click("#run")
    page.wait("!document.querySelector('#veil').hidden")
    page.keys(ESCAPE)
    page.wait("document.querySelector('#veil').hidden")
    assert not page.shown("#result")
    assert not page.shown("#trouble")
    assert not page.script("return document.querySelector('#run').disabled")


def test_a_phone(page: chromium.Browser) -> None:
    page.resize(390, 844, mobile=True)
    page.click("#examples li:nth-child(2) button")
    page.wait(ANSWERED)
    assert page.script("return document.documentElement.scrollWidth") <= 390
    small = page.script(
        "return [...document.querySelectorAll('main button, main .button, main select')]"
        ".filter(e => e.checkVisibility() && !e.closest('#chips')"
        " && e.getBoundingClientRect().height < 34).map(e => e.id)"
    )
    assert small == []
    left, right = page.script(
        "const b = document.querySelector('#canvas').getBoundingClientRect();"
        "return [b.left, innerWidth - b.right]"
    )
    assert min(left, right) >= 0
    page.script("document.documentElement.dataset.theme = 'dark'")
    background = page.script("return getComputedStyle(document.body).backgroundColor")
    assert background == "rgb(18, 21, 29)"
