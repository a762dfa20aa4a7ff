"""Headless Chromium by the WebDriver protocol (chromedriver speaks JSON over HTTP)."""

from __future__ import annotations

import base64
import json
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

_ELEMENT = "element-6066-11e4-a52e-4f735466cecf"  # the protocol's key for element references
_OPTIONS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--no-first-run", "--disable-dev-shm-usage",
]  # fmt: skip


def installed() -> bool:
    return all(shutil.which(program) for program in ("chromium", "chromedriver"))


class Browser:
    """One window. ``css`` arguments are selectors."""

    def __init__(self, folder: Path, *, size: tuple[int, int] = (1280, 900)) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self._driver = subprocess.Popen(
            ["chromedriver", f"--port={port}"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        self._address = f"http://127.0.0.1:{port}"
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            self._wait_for_driver()
            (folder / "downloads").mkdir(exist_ok=True)
            options = {
                "args": [*_OPTIONS, f"--user-data-dir={folder / 'profile'}"],
                "prefs": {"download.default_directory": str(folder / "downloads")},
            }
            capabilities = {
                "browserName": "chrome",
                "goog:chromeOptions": options,
                "goog:loggingPrefs": {"browser": "ALL"},
            }
            created = self._call(
                "POST", "/session", {"capabilities": {"alwaysMatch": capabilities}}
            )
        except BaseException:
            self._driver.kill()
            raise
        self._address += f"/session/{created['sessionId']}"
        self.downloads = folder / "downloads"
        self.resize(*size)

    def close(self) -> None:
        try:
            self._call("DELETE", "")
        finally:
            self._driver.terminate()
            self._driver.wait(10)

    def resize(self, width: int, height: int, *, mobile: bool = False) -> None:
        """The size of the page itself; windows cannot be as narrow as a phone."""
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": mobile}
        self.devtools("Emulation.setDeviceMetricsOverride", **metrics)

    def devtools(self, command: str, **parameters: Any) -> Any:
        return self._call("POST", "/goog/cdp/execute", {"cmd": command, "params": parameters})

    def open(self, address: str) -> None:
        self._call("POST", "/url", {"url": address})

    def script(self, code: str, *arguments: Any) -> Any:
        return self._call("POST", "/execute/sync", {"script": code, "args": list(arguments)})

    def text(self, css: str) -> str:
        return self._call("GET", f"/element/{self._find(css)}/text")

    def shown(self, css: str) -> bool:
        return bool(
            self.script("return document.querySelector(arguments[0]).checkVisibility()", css)
        )

    def click(self, css: str) -> None:
        self._call("POST", f"/element/{self._find(css)}/click", {})

    def type(self, css: str, text: str) -> None:
        """Type into an element; for file inputs the text is a path."""
        self._call("POST", f"/element/{self._find(css)}/value", {"text": text})

    def keys(self, *keys: str) -> None:
        """Press keys where the focus is, one after the other; "\\ue009+x" holds Control."""
        actions = []
        for key in keys:
            chord = key.split("+") if len(key) > 1 and "+" in key else [key]
            actions += [{"type": "keyDown", "value": k} for k in chord]
            actions += [{"type": "keyUp", "value": k} for k in reversed(chord)]
        source = {"type": "key", "id": "keyboard", "actions": actions}
        self._call("POST", "/actions", {"actions": [source]})

    def hover(self, css: str, x: float, y: float) -> None:
        """Move the mouse to a place in an element; (0, 0) is its left top, (1, 1) its other end."""
        box = self.script(
            "const b = document.querySelector(arguments[0]).getBoundingClientRect();"
            "return [b.left, b.top, b.width, b.height]",
            css,
        )
        move = {
            "type": "pointerMove",
            "duration": 0,
            "x": round(box[0] + x * box[2]),
            "y": round(box[1] + y * box[3]),
        }
        source = {"type": "pointer", "id": "mouse", "actions": [move]}
        self._call("POST", "/actions", {"actions": [source]})

    def wait(self, code: str, seconds: float = 30) -> Any:
        """Wait until an expression in the page is true; returns its value."""
        end = time.monotonic() + seconds
        while not (value := self.script(f"return {code}")):
            if time.monotonic() > end:
                raise AssertionError(f"not within {seconds} s: {code}")
            time.sleep(0.05)
        return value

    def downloaded(self, name: str, seconds: float = 15) -> bytes:
        path, end = self.downloads / name, time.monotonic() + seconds
        while not path.exists():
            if time.monotonic() > end:
                raise AssertionError(f"{name} was not downloaded: {list(self.downloads.iterdir())}")
            time.sleep(0.05)
        return path.read_bytes()

    def screenshot(self) -> bytes:
        return base64.b64decode(self._call("GET", "/screenshot"))

    def log(self) -> list[str]:
        """What the browser complained about since the last call."""
        return [
            entry["message"]
            for entry in self._call("POST", "/se/log", {"type": "browser"})
            if entry["level"] in ("WARNING", "SEVERE")
        ]

    def _find(self, css: str) -> str:
        found = self._call("POST", "/element", {"using": "css selector", "value": css})
        return found[_ELEMENT]

    def _call(self, method: str, path: str, body: Any = None) -> Any:
        request = urllib.request.Request(
            self._address + path,
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Content-Type": "application/json"},
        )
        try:
            with self._opener.open(request, timeout=60) as reply:
                return json.load(reply)["value"]
        except urllib.error.HTTPError as error:
            raise AssertionError(json.load(error)["value"]["message"]) from None

    def _wait_for_driver(self) -> None:
        end = time.monotonic() + 20
        while True:
            try:
                self._call("GET", "/status")
                return
            except OSError:
                if time.monotonic() > end:
                    raise
                time.sleep(0.05)
