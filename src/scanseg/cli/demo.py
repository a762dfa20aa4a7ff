"""``make demo``: real photos that ship with pip packages, words as a person would type them.

    python -m scanseg.cli.demo --output demo

The photos are copied beside the results, and each result is made by the command that is printed.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from scanseg.cli import EXIT_MISTAKE, EXIT_OK, main

PHOTOS: dict[str, tuple[str, tuple[str, ...]]] = {
    # name: (package, words)
    "chelsea": ("skimage", ("cat", "wall")),
    "coffee": ("skimage", ("cup", "spoon", "table")),
    "china": ("sklearn", ("sky", "tree", "building")),
}


def demo(output: Path) -> int:
    """Write photos and results to ``output``; returns the exit code of the last failure, or 0."""
    photos = output / "photos"
    photos.mkdir(parents=True, exist_ok=True)
    failed = EXIT_OK
    for name, (package, words) in PHOTOS.items():
        path = photos / f"{name}.png"
        try:
            _photo(package, name).save(path)
        except ImportError:
            print(f"{name}: needs {package} (pip install scikit-learn); left out", file=sys.stderr)
            continue
        arguments = ["segment", str(path), *words, "--output", str(output), "--overwrite"]
        print(f"\n$ scanseg {shlex.join(arguments)}", flush=True)
        failed = main(arguments) or failed
    if not failed:
        print(f"\nLook at them: {output}/*_overlay.png")
    return failed


def _photo(package: str, name: str) -> Image.Image:
    if package == "skimage":
        from skimage import data

        return Image.fromarray(getattr(data, name)())
    from sklearn.datasets import load_sample_image

    return Image.fromarray(load_sample_image(f"{name}.jpg"))


def _main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m scanseg.cli.demo",
        description="segment photos that ship with scikit-image and scikit-learn",
    )
    parser.add_argument("--output", type=Path, default=Path("demo"), help="folder for the results")
    try:
        return demo(parser.parse_args(argv).output)
    except OSError as error:
        print(f"demo: {error}", file=sys.stderr)
        return EXIT_MISTAKE


if __name__ == "__main__":
    sys.exit(_main())
