"""Small real photos, cut from those that come with scikit-image."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from PIL import Image


def cut_photos(folder: Path, count: int) -> Path:
    """``count`` tiles of 96 x 72 pixels of the cat and the cup of coffee, as JPEG."""
    from skimage.data import chelsea, coffee

    folder.mkdir(parents=True, exist_ok=True)
    tiles = []
    for photo in (chelsea(), coffee()):
        height, width = photo.shape[:2]
        tiles += [
            photo[y : y + 72, x : x + 96]
            for y in range(0, height - 71, 72)
            for x in range(0, width - 95, 96)
        ]
    for number in range(count):
        Image.fromarray(tiles[number]).save(folder / f"{number:03d}.jpg", quality=95)
    return folder


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ten photos and a damaged one; not to be changed."""
    folder = cut_photos(tmp_path_factory.mktemp("few") / "photos", 10)
    whole = (folder / "004.jpg").read_bytes()
    (folder / "004-damaged.jpg").write_bytes(whole[: len(whole) // 2])
    return folder


@pytest.fixture
def own_photos(photos: Path, tmp_path: Path) -> Path:
    """The same, for tests that change it."""
    return Path(shutil.copytree(photos, tmp_path / "photos"))


@pytest.fixture(scope="session")
def many_photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with twenty photos."""
    return cut_photos(tmp_path_factory.mktemp("many") / "photos", 20)
