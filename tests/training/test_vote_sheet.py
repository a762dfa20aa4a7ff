"""The contact sheet of what teachers may say."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from scanseg.contracts import InputError
from scanseg.training.head_dataset import StoredPhoto
from scanseg.training.head_labels import SoftLabels
from scanseg.training.head_photos import Photo
from scanseg.training.head_vocabularies import ADE31
from scanseg.training.teachers import VOTE_GRID
from scanseg.training.vote_sheet import TILE, draw_sheet, evenly, tiles

SKY = [words[0] for words in ADE31].index("sky")


def a_photo(folder: Path, stem: str) -> Photo:
    path = folder / f"{stem}.png"
    Image.new("RGB", (80, 40), (90, 90, 90)).save(path)
    return Photo("facades_night_day", stem, path)


def write_votes(work: Path, photo: Photo) -> None:
    path = work / "votes" / photo.source / f"{photo.stem}.npz"
    path.parent.mkdir(parents=True, exist_ok=True)
    ids = np.full((3, VOTE_GRID, VOTE_GRID), SKY + 1, np.uint8)  # 0 is their background
    shares = np.zeros(ids.shape, np.uint8)
    shares[0] = 255
    np.savez(path, ade31=ids, ade31_shares=shares)


def test_what_was_said_is_drawn_and_what_was_not_is_grey(tmp_path: Path) -> None:
    photo = a_photo(tmp_path, "a")
    ids = np.full((1, VOTE_GRID, VOTE_GRID), SKY, np.uint8)
    shares = np.zeros(ids.shape, np.float32)
    shares[:, :, : VOTE_GRID // 2] = 1.0
    pixels = np.asarray(photo.open())
    stored = StoredPhoto(photo, pixels, None, {"ade31": SoftLabels(ids, shares)})
    own, scenes, objects, streets = (np.asarray(t).astype(int) for t in tiles(stored))
    assert own.shape == (40, 80, 3)
    height, width = 160, scenes.shape[1]  # inside the photo, above the legend
    left, right = scenes[height, width // 8], scenes[height, width * 7 // 8]
    assert np.ptp(right) == 0  # grey: unknown
    assert np.ptp(left) > 20
    for silent in (objects, streets):
        assert np.ptp(silent[height, width // 8]) == 0


def test_a_row_per_photo_evenly_chosen(tmp_path: Path) -> None:
    photos = [a_photo(tmp_path, stem) for stem in "abcdef"]
    with pytest.raises(InputError, match="no votes"):
        evenly(photos, tmp_path, 2)
    for photo in photos[:4]:
        write_votes(tmp_path, photo)
    chosen = evenly(photos, tmp_path, 2)
    assert [photo.stem for photo in chosen] == ["a", "c"]
    assert draw_sheet(chosen, tmp_path).size == (4 * TILE[0], 2 * TILE[1])
