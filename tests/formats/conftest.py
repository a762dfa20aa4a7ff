"""Maps to write and read back: of real photos, and made by hand to be awkward."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from scanseg.contracts import Segmentation

WORDS = ["cat", "cup", "table", "person", "rocket", "wall"]


@pytest.fixture(scope="session")
def real_maps(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[Path, Segmentation]]:
    """Photos of scikit-image as files, segmented by the embedded preset."""
    from PIL import Image
    from skimage import data

    from scanseg import Segmenter

    folder = tmp_path_factory.mktemp("photos")
    segmenter = Segmenter.from_pretrained("embedded")
    found = []
    for name in ("chelsea", "coffee", "astronaut"):
        path = folder / f"{name}.png"
        Image.fromarray(getattr(data, name)()).save(path)
        found.append((path, segmenter(path, WORDS)))
    return found


def _made(labels: np.ndarray, names: tuple[str, ...]) -> Segmentation:
    rng = np.random.default_rng(labels.size)
    confidence = rng.random(labels.shape, dtype=np.float32)
    return Segmentation(labels.astype(np.int32), names, confidence)


def _holes() -> Segmentation:
    labels = np.full((60, 80), -1)
    labels[5:55, 5:75] = 0  # a plate with holes beside, above and inside each other
    labels[10:50, 10:40] = 1
    labels[15:45, 15:35] = 0
    labels[20:40, 20:30] = -1
    labels[8:12, 50:60] = labels[20:30, 50:60] = labels[40:50, 45:70] = 2
    labels[30, 55] = labels[31, 56] = 2  # touch a hole only at corners
    return _made(labels, ("plate", "hole", "third"))


def _pixels() -> Segmentation:
    labels = np.full((9, 11), -1)
    labels[0, 0] = labels[8, 10] = labels[4, 4] = labels[5, 5] = 0
    labels[2, 7:10] = labels[0:9, 2] = 1
    return _made(labels, ("dot", "line"))


def _noise() -> Segmentation:
    rng = np.random.default_rng(7)
    return _made(np.kron(rng.integers(-1, 3, (23, 31)), np.ones((2, 3))), ("a", "b", "c"))


def _many() -> Segmentation:
    labels = np.arange(300).reshape(15, 20).repeat(4, 0).repeat(5, 1)
    return _made(labels, tuple(f"word {i}" for i in range(300)))


def _odd_names() -> Segmentation:
    labels = np.arange(6).reshape(2, 3).repeat(10, 0).repeat(7, 1)
    return _made(labels, ("кошка", "猫", 'a "b" <c> & d', "it's: x", "café, noir", "🙂"))


HAND_MADE: dict[str, Callable[[], Segmentation]] = {
    "holes": _holes,
    "pixels": _pixels,
    "noise": _noise,
    "many": _many,
    "odd_names": _odd_names,
    "whole": lambda: _made(np.zeros((7, 5)), ("all",)),
    "one_pixel": lambda: _made(np.zeros((1, 1)), ("all",)),
    "unknown": lambda: _made(np.full((6, 8), -1), ("nothing",)),
}


@pytest.fixture(params=["real", *HAND_MADE])
def maps(request: pytest.FixtureRequest, tmp_path: Path) -> list[tuple[Path, Segmentation]]:
    """(photo, map) of a data set: the real ones, or one made by hand."""
    if request.param == "real":
        found: list[tuple[Path, Segmentation]] = request.getfixturevalue("real_maps")
        return found
    from PIL import Image

    segmentation = HAND_MADE[request.param]()
    height, width = segmentation.labels.shape
    path = tmp_path / "photo.png"
    Image.new("RGB", (width, height)).save(path)
    return [(path, segmentation)]
