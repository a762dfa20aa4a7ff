"""Pictures of the page for the documentation, from a real server and a real browser.

    python tests/support/page_pictures.py [--output docs/images]

Needs chromium and chromedriver. The photos shown are samples of scikit-image (CC0) and scikit-learn
(CC BY 2.0).
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from io import BytesIO
from pathlib import Path

from PIL import Image

sys.path.insert(0, str(Path(__file__).parent))

from chromium import Browser
from web_server import running

ANSWERED = "!document.querySelector('#run').disabled && !document.querySelector('#result').hidden"
LOADED = "[...document.images].every(i => i.complete)"


def save(page: Browser, path: Path) -> None:
    page.wait(LOADED)
    page.script("return new Promise(done => requestAnimationFrame(() => setTimeout(done, 300)))")
    Image.open(BytesIO(page.screenshot())).convert("RGB").save(path, quality=82, method=6)
    print(f"{path}: {path.stat().st_size // 1024} KB")


def start(page: Browser, address: str) -> None:
    page.open(address)
    page.wait("document.querySelectorAll('#examples button').length")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("docs/images"))
    output = parser.parse_args().output
    with tempfile.TemporaryDirectory() as folder, running() as server:
        page = Browser(Path(folder), size=(1280, 800))
        try:
            start(page, server.address)
            page.click("#examples li:nth-child(3) button")  # the palace
            page.wait(ANSWERED)
            page.hover("#legend li:nth-child(1)", 0.5, -9)
            save(page, output / "serve_result.webp")
            page.script("document.documentElement.dataset.theme = 'dark'")
            page.hover("#canvas", 0.45, 0.65)
            save(page, output / "serve_dark.webp")
            page.script("document.documentElement.dataset.theme = 'light'")
            page.resize(390, 844, mobile=True)
            start(page, server.address)
            page.click("#examples li:nth-child(1) button")
            page.wait(ANSWERED)
            save(page, output / "serve_phone.webp")
            page.click("#back")
            page.click("#run")
            save(page, output / "serve_phone_error.webp")
        finally:
            page.close()


if __name__ == "__main__":
    main()
