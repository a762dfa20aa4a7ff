"""Where training views come from: a data set, a photo of it, a window, pasted objects."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

from scanseg.training.head_dataset import StoredPhoto, TrainingView, draw_view
from scanseg.training.head_paste import Clippings

SIDES = {
    "coco_train": (384, 832),
    "coco_train_more": (384, 832),
    "facades_night_day": (384, 640),
    "imagenet_samples": (320, 448),
    "clothing_coparsing": (384, 640),
}
"""Least and largest long side, in pixels, to which a source's photos are resized."""
MOST_PASTED = 2


class Views:
    """Random views of a training set.

    Args:
        photos: the training set.
        frequencies: data set -> relative frequency of its views; 1 for those that are not named.
        paste: probability of one pasted object more, up to ``MOST_PASTED``.
        sides: data set -> least and largest long side.
    """

    def __init__(
        self,
        photos: Sequence[StoredPhoto],
        frequencies: Mapping[str, float],
        paste: float,
        sides: Mapping[str, tuple[int, int]] = SIDES,
    ) -> None:
        self.photos, self.paste, self.sides = photos, paste, sides
        self.clippings = Clippings(photos)
        self.by_source: dict[str, list[StoredPhoto]] = {}
        for stored in photos:
            self.by_source.setdefault(stored.photo.source, []).append(stored)
        self.sources = sorted(self.by_source)
        self.frequencies = [frequencies.get(source, 1.0) for source in self.sources]
        self.rng = random.Random(0)

    def restart(self, seed: int) -> None:
        """Draw on from a seed."""
        self.rng = random.Random(seed)

    def draw(self, count: int, window: int) -> list[TrainingView]:
        """Square windows of ``count`` photos, drawn independently."""
        sources = self.rng.choices(self.sources, self.frequencies, k=count)
        return [self._view(source, window) for source in sources]

    def _view(self, source: str, window: int) -> TrainingView:
        stored = self.rng.choice(self.by_source[source])
        view = draw_view(stored, self.sides[source], window, self.rng)
        for _ in range(MOST_PASTED):
            if self.rng.random() < self.paste:
                view = self.clippings.paste(view, self.rng)
        return view
