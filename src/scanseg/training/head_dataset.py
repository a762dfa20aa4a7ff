"""The training set of the embedded head in memory: stored views with their layers of labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from scanseg.contracts import InputError
from scanseg.proposals.dense_head import StageMaps
from scanseg.training.head_labels import IGNORE, Layer, gated_votes, label_layers
from scanseg.training.head_photos import Photo
from scanseg.training.head_views import View, feature_path
from scanseg.training.head_votes import vote_path

IMAGE_CLASSES = "imagenet1k"
"""Vocabulary of the image-level labels: the lemmas of the 1000 ImageNet classes."""
IMAGE_CLASS_SIMILARITY = 0.7
"""Cosine of a cell's ConSE embedding with the key of the photo's class from which the cell takes
the image-level label."""


@dataclass(frozen=True)
class TrainingView:
    """One view, ready to train on.

    Attributes:
        source: the photo's data set.
        key: name of the photo.
        maps: float16 feature maps without the batch axis (``feature_maps``).
        layers: vocabulary -> (cells,) int64 class ids, ``IGNORE`` where nothing is said.
        weights: vocabulary -> weight of the layer.
    """

    source: str
    key: str
    maps: Mapping[str, Tensor]
    layers: Mapping[str, Tensor]
    weights: Mapping[str, float]

    @property
    def grid(self) -> tuple[int, int]:
        """(rows, columns) of the cells, at stride 8."""
        rows, columns = self.maps["s8"].shape[-2:]
        return rows, columns

    def window(self, row: int, column: int, size: int) -> TrainingView:
        """The part of ``size`` x ``size`` cells at stride 32 that starts at (row, column).

        The features keep what the tower saw around the window; the head's own context ends there.
        """
        maps = {
            name: self.maps[name][
                :,
                row * finer : (row + size) * finer,
                column * finer : (column + size) * finer,
            ]
            for name, finer in (("s8", 4), ("s16", 2), ("s32", 1), ("conse", 1))
        }
        rows, columns = self.grid
        layers = {
            name: ids.view(rows, columns)[
                row * 4 : (row + size) * 4, column * 4 : (column + size) * 4
            ].flatten()
            for name, ids in self.layers.items()
        }
        return replace(self, maps={**maps, "pooled": self.maps["pooled"]}, layers=layers)


def stack_maps(views: Sequence[TrainingView]) -> StageMaps:
    """The maps of views of one size as the head reads them, float32."""
    return StageMaps(
        **{name: torch.stack([view.maps[name] for view in views]).float() for name in views[0].maps}
    )


def load_views(
    photos: Sequence[Photo], work: Path, keys: Tensor, *, image_class_weight: float = 0.0
) -> list[TrainingView]:
    """Read the stored views and votes of the photos.

    Args:
        photos: those without stored features are left out.
        work: folder with ``features/`` and ``votes/``.
        keys: (1000, D) ImageNet class keys, for the image-level labels.
        image_class_weight: weight of the image-level labels' layer; 0 leaves it out.

    Raises:
        InputError: no photo has features.
    """
    views = []
    for photo in photos:
        features = feature_path(work, photo)
        if not features.is_file():
            continue
        votes = {}
        if vote_path(work, photo).is_file():
            with np.load(vote_path(work, photo)) as stored:
                votes = gated_votes(photo, dict(stored))
        truth = photo.truth()
        for stored_view in torch.load(features, map_location="cpu", weights_only=True):
            view = View(**stored_view.pop("view"))
            layers = label_layers(
                photo,
                None if truth is None else view.sample(truth),
                {name: view.sample(ids) for name, ids in votes.items()},
            )
            if photo.image_class >= 0 and image_class_weight > 0:
                labels = _image_class_cells(stored_view, photo.image_class, keys)
                layers.append(Layer(IMAGE_CLASSES, labels, image_class_weight))
            views.append(
                TrainingView(
                    source=photo.source,
                    key=photo.key,
                    maps=stored_view,
                    layers={
                        layer.vocabulary: torch.from_numpy(layer.labels.astype(np.int64)).flatten()
                        for layer in layers
                    },
                    weights={layer.vocabulary: layer.weight for layer in layers},
                )
            )
    if not views:
        raise InputError(f"{work} holds no features of these photos: run the first steps again")
    return views


def _image_class_cells(maps: Mapping[str, Tensor], image_class: int, keys: Tensor) -> np.ndarray:
    near = torch.einsum("dyx,d->yx", maps["conse"].float(), keys[image_class])
    rows, columns = maps["s8"].shape[-2:]
    near = torch.nn.functional.interpolate(near[None, None], (rows, columns), mode="bilinear")[0, 0]
    labels = np.where(near.numpy() >= IMAGE_CLASS_SIMILARITY, image_class, -1).astype(np.int64)
    return labels


def class_counts(views: Sequence[TrainingView], vocabulary: str, classes: int) -> Tensor:
    """(classes,) labelled cells per class of a vocabulary."""
    counts = torch.zeros(classes, dtype=torch.float64)
    for view in views:
        if vocabulary in view.layers:
            counts += torch.bincount(labelled(view, vocabulary), minlength=classes)[:classes]
    return counts


def labelled(view: TrainingView, vocabulary: str) -> Tensor:
    """The class ids of the cells about which a layer says something."""
    ids = view.layers[vocabulary]
    return ids[spoken(ids, vocabulary)]


def spoken(ids: Tensor, vocabulary: str) -> Tensor:
    """(cells,) bool: where a layer says something."""
    return ids >= 0 if vocabulary == IMAGE_CLASSES else ids != IGNORE
