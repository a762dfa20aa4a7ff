"""``scanseg serve``: a page to try words on photos, and an interface for programs."""

from __future__ import annotations

import sys
import webbrowser
from importlib.util import find_spec

from scanseg.cli import EXIT_OK
from scanseg.contracts import MissingExtra, Mode

_NEEDED = ("fastapi", "uvicorn", "python_multipart", "psutil")  # the extra's packages


def serve(
    *,
    preset: str = "embedded",
    weights: str | None = None,
    mode: Mode = "exact",
    device: str = "auto",
    host: str = "127.0.0.1",
    port: int = 8000,
    allow_host: list[str] | None = None,
    open_: bool = False,
    lazy: bool = False,
    max_mb: int = 32,
    max_megapixels: float = 30.0,
    max_labels: int = 1000,
    max_characters: int = 20_000,
    max_queue: int = 8,
    max_seconds: float = 120.0,
    upload_seconds: float = 30.0,
) -> int:
    """Serve a web page and a REST interface on this machine.

    Nothing is sent anywhere else, and nobody else can reach the server unless --host says so. The
    page's address is printed to standard error; Ctrl-C ends the server. What programs can ask for
    is described at /docs and /openapi.json.

    Args:
        preset: embedded, vit_b, vit_l, zero_train, tiny, a model folder or a hub id; the page can
            choose between it and embedded
        weights: folder with the weights of a preset that ships none
        mode: exact, bf16 (region classifier in bfloat16) or fast (that, and approximations)
        device: auto, cpu, cuda, mps, cuda:1 ...
        host: address to listen on; 0.0.0.0 lets other machines in, without any password
        port: to listen on; 0 takes a free one
        allow_host: further names that browsers and proxies may call this server by
        open_: open the page in the browser
        lazy: load a model when it is first asked for, not at the start
        max_mb: size of a photo's file
        max_megapixels: size of a photo, in millions of pixels
        max_labels: words of one request, synonyms included
        max_characters: of these words together
        max_queue: requests that may wait
        max_seconds: that a request may wait, and again that it may be worked on
        upload_seconds: within which a photo must have been sent
    """
    if not all(map(find_spec, _NEEDED)):
        raise MissingExtra("web", "scanseg serve")
    from scanseg.web.limits import ServeLimits
    from scanseg.web.server import is_local, offered
    from scanseg.web.server import serve as run

    limits = ServeLimits(
        max_bytes=max_mb * 2**20,
        max_pixels=round(max_megapixels * 1e6),
        max_labels=max_labels,
        max_characters=max_characters,
        max_queue=max_queue,
        max_seconds=max_seconds,
        upload_seconds=upload_seconds,
    )
    presets = offered(preset, weights)
    if not is_local(host):
        _tell(f"warning: everybody who can reach {host} can use this server; it has no password")
    if not lazy:
        _tell(f"loading {' and '.join(p.name for p in presets)} ...")

    def ready(address: str) -> None:
        _tell(f"serving {address} (Ctrl-C ends it)")
        if open_:
            webbrowser.open(address)

    run(
        presets,
        device=device,
        mode=mode,
        lazy=lazy,
        host=host,
        port=port,
        hosts=allow_host or [],
        limits=limits,
        ready=ready,
    )
    return EXIT_OK


COMMAND = serve


def _tell(line: str) -> None:
    print(f"scanseg: {line}", file=sys.stderr, flush=True)
