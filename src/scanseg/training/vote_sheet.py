"""A contact sheet of what the teachers may say: ``python -m scanseg.training.vote_sheet --help``.

One row per photo: the photo, then each teacher's votes after all gates, the true labels' included.
Look at it before training on them.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from scanseg.contracts import UNKNOWN, InputError, Segmentation
from scanseg.formats.overlay import draw_overlay
from scanseg.storage import atomic_write
from scanseg.training.head_dataset import StoredPhoto, load_photos
from scanseg.training.head_labels import LEAST_SHARE, label_layers
from scanseg.training.head_photos import Photo, training_photos
from scanseg.training.head_vocabularies import VOCABULARIES
from scanseg.training.head_votes import vote_path
from scanseg.training.teachers import VOTE_GRID

TILE = (300, 300)
SIDE = 512
"""Long side of the photos that are drawn on."""


def evenly(photos: Sequence[Photo], work: Path, count: int) -> list[Photo]:
    """``count`` photos with votes of every data set, evenly spaced."""
    chosen = []
    for source in dict.fromkeys(photo.source for photo in photos):
        there = [p for p in photos if p.source == source and vote_path(work, p).is_file()]
        chosen += [there[i * len(there) // count] for i in range(min(count, len(there)))]
    if not chosen:
        raise InputError(f"{work} holds no votes: run make train-embedded first")
    return chosen


def tiles(stored: StoredPhoto) -> list[Image.Image]:
    """The photo, and an overlay per teacher: what it said that is believed."""
    grid = (VOTE_GRID, VOTE_GRID)
    truth = None
    if stored.truth is not None:
        rows, columns = (np.arange(VOTE_GRID) * n // VOTE_GRID for n in stored.truth.shape)
        truth = stored.truth[np.ix_(rows, columns)]
    said = {
        layer.vocabulary: layer.labels
        for layer in label_layers(stored.photo, truth, stored.votes)
        if layer.vocabulary in LEAST_SHARE
    }
    height, width = stored.pixels.shape[:2]
    scale = SIDE / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    pictures = [Image.fromarray(stored.pixels)]
    for teacher in LEAST_SHARE:
        labels = np.full(grid, UNKNOWN, np.int32)
        shares = np.zeros(grid, np.float32)
        if teacher in said:
            shares = said[teacher].shares[0]
            ids = said[teacher].ids[0].astype(np.int32)
            labels = np.where(shares > 0, ids, np.int32(UNKNOWN))
        names = (*(words[0] for words in VOCABULARIES[teacher]), "something else")
        full, sure = (
            np.asarray(Image.fromarray(values).resize(size, Image.Resampling.NEAREST))
            for values in (labels, shares)
        )
        photo = np.asarray(Image.fromarray(stored.pixels).resize(size))
        pictures.append(draw_overlay(Segmentation(full, names, sure, image=photo)))
    return pictures


def draw_sheet(photos: Sequence[Photo], work: Path) -> Image.Image:
    """All rows on one picture."""
    rows = [tiles(stored) for stored in load_photos(photos, work)]
    width, height = TILE
    sheet = Image.new("RGB", (width * len(rows[0]), height * len(rows)), "white")
    for y, row in enumerate(rows):
        for x, picture in enumerate(row):
            picture.thumbnail(TILE)
            sheet.paste(picture, (x * width, y * height))
    return sheet


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    from jsonargparse import ArgumentParser

    parser = ArgumentParser(prog="python -m scanseg.training.vote_sheet", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of the data sets")
    parser.add_argument("--work", type=Path, required=True, help="folder with the votes")
    parser.add_argument("--output", type=Path, required=True, help="picture to write (PNG)")
    parser.add_argument("--per_source", type=int, default=3, help="photos of each data set")
    given = parser.parse_args(arguments)
    photos = evenly(training_photos(given.data, hold_out=True), given.work, given.per_source)
    with atomic_write(given.output) as file:
        draw_sheet(photos, given.work).save(file, "PNG")


if __name__ == "__main__":
    main()
