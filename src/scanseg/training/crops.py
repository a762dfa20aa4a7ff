"""Photos to learn from: resized, cropped, jittered, flipped, label maps alongside (sec. 4.2).

Nothing here depends on what came before: the photo at a position of the run is prepared from the
seed and the position alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset as TorchDataset
from torchvision import tv_tensors
from torchvision.transforms import v2

from scanseg.contracts import InputError
from scanseg.data import VOID, Dataset, open_dataset
from scanseg.training.config import AugmentationConfig, DataConfig
from scanseg.training.losses import Target
from scanseg.training.order import DataOrder, derived_seed


class Augmentation:
    """Random size, crop, SSD's colour jitter, flip and padding; photo and map move together.

    Randomness is torch's global generator.
    """

    def __init__(self, config: AugmentationConfig) -> None:
        self.config = config
        sizes = list(range(config.short_min, config.short_max + 1, config.short_step))
        self.resize = v2.RandomShortestSize(sizes, max_size=config.longest, antialias=True)
        self.flip = v2.RandomHorizontalFlip(config.flip)

    def __call__(self, pixels: np.ndarray, labels: np.ndarray) -> tuple[Tensor, Tensor]:
        """One photo and its class map.

        Args:
            pixels: (H, W, 3) uint8.
            labels: (H, W) class indices, -1 unlabelled.

        Returns:
            (3, crop, crop) uint8 and (crop, crop) int32, -1 where there is no label.
        """
        config = self.config
        photo = tv_tensors.Image(torch.from_numpy(pixels).permute(2, 0, 1))
        classes = tv_tensors.Mask(torch.from_numpy(labels.astype(np.int32, copy=False))[None])
        photo, classes = self.resize(photo, classes)
        height, width = photo.shape[-2:]
        size = (min(config.crop, height), min(config.crop, width))
        photo, classes = v2.RandomCrop(size)(photo, classes)
        if config.colour:
            photo = ssd_jitter(photo)
        photo, classes = self.flip(photo, classes)
        beyond = [0, 0, config.crop - size[1], config.crop - size[0]]  # right and bottom
        photo = v2.functional.pad(photo, beyond, fill=config.pad)
        classes = v2.functional.pad(classes, beyond, fill=VOID)
        return photo.as_subclass(Tensor).contiguous(), classes.as_subclass(Tensor)[0].contiguous()


def ssd_jitter(photo: Tensor) -> Tensor:
    """SSD's photometric distortion: brightness, contrast, saturation, hue, each half of the time.

    Contrast comes before or after saturation and hue, at random. Channels are not exchanged: words
    for colours must keep their meaning (docs/decisions/0062-augmentation.md).
    """
    photo = _half(v2.ColorJitter(brightness=(0.875, 1.125)), photo)
    early = bool(torch.rand(()) < 0.5)
    if early:
        photo = _half(_CONTRAST, photo)
    photo = _half(_SATURATION, photo)
    photo = _half(_HUE, photo)
    return photo if early else _half(_CONTRAST, photo)


_CONTRAST = v2.ColorJitter(contrast=(0.5, 1.5))
_SATURATION = v2.ColorJitter(saturation=(0.5, 1.5))
_HUE = v2.ColorJitter(hue=(-0.05, 0.05))


def _half(transform: Any, photo: Tensor) -> Tensor:
    return transform(photo) if torch.rand(()) < 0.5 else photo


# --------------------------------------------------------------------------------------
# Data sets and batches
# --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Source:
    """A data set as training sees it.

    Attributes:
        config: what was asked for.
        photos: the photos and their maps.
        labels: (K_own,) int32, index in the union of all vocabularies of each own class.
    """

    config: DataConfig
    photos: Dataset
    labels: np.ndarray

    def read(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """(H, W, 3) uint8 pixels and (H, W) int32 classes of the union, -1 unlabelled."""
        sample = self.photos[index]
        truth = sample.truth()
        pixels = sample.pixels()
        if pixels.shape[:2] != truth.shape:
            raise InputError(
                f"{sample.key}: the photo is {pixels.shape[:2]} but its label map {truth.shape}"
            )
        known = np.concatenate([self.labels, [VOID]]).astype(np.int32)  # index -1 is the last
        return pixels, known[truth]


@dataclass(frozen=True)
class Sources:
    """All data of a run.

    Attributes:
        parts: the data sets.
        words: the union of their vocabularies, as the text encoder is asked.
    """

    parts: tuple[Source, ...]
    words: tuple[str, ...]

    @property
    def candidates(self) -> Tensor | None:
        """(data sets, K) bool, the classes of each; ``None`` where all have all."""
        allowed = torch.zeros(len(self.parts), len(self.words), dtype=torch.bool)
        for row, part in zip(allowed, self.parts, strict=True):
            row[torch.from_numpy(part.labels.astype(np.int64))] = True
        return None if bool(allowed.all()) else allowed

    def order(self, seed: int) -> DataOrder:
        """The order in which the photos are seen."""
        return DataOrder(
            tuple(len(part.photos) for part in self.parts),
            tuple(part.config.weight for part in self.parts),
            seed,
        )


def open_source(config: DataConfig) -> tuple[Dataset, tuple[str, ...]]:
    """A data set and the plain words for its classes, in order.

    Raises:
        InputError: no root was given, the data are not there, or have no classes.
    """
    if not config.root:
        raise InputError(f"data {config.name}: no folder; say --set data.root=FOLDER")
    dataset = open_dataset(config.name, config.root, config.split)
    if config.limit is not None:
        dataset = dataset[: config.limit]
    if not dataset.classes:
        raise InputError(f"data {config.name} has regions but no class labels to learn from")
    if not len(dataset):
        raise InputError(f"data {config.name} {dataset.split}: no photos under {config.root}")
    if dataset.label_set is None:
        return dataset, dataset.prompts
    from scanseg.vocabulary.label_sets import load_label_set

    return dataset, load_label_set(dataset.label_set).prompts


def open_sources(configs: Sequence[DataConfig]) -> Sources:
    """Open all data sets of a run; classes of one word are one class.

    Raises:
        InputError: as :func:`open_source`, or there is nothing to open.
    """
    if not configs:
        raise InputError("no data to train on; say --set data.root=FOLDER")
    opened = [open_source(config) for config in configs]
    words = tuple(dict.fromkeys(word for _, prompts in opened for word in prompts))
    index = {word: i for i, word in enumerate(words)}
    return Sources(
        tuple(
            Source(config, dataset, np.array([index[w] for w in prompts], np.int32))
            for config, (dataset, prompts) in zip(configs, opened, strict=True)
        ),
        words,
    )


@dataclass(frozen=True)
class TrainingPhoto:
    """One augmented photo.

    Attributes:
        pixels: (3, crop, crop) uint8.
        labels: (crop, crop) int32, -1 unlabelled.
        source: which data set it is from.
        masks: classes present in the crop.
    """

    pixels: Tensor
    labels: Tensor
    source: int
    masks: int


class TrainingPhotos(TorchDataset[TrainingPhoto]):
    """The photo at each position of a run."""

    def __init__(self, sources: Sources, augmentation: AugmentationConfig, seed: int) -> None:
        self.sources = sources
        self.order = sources.order(seed)
        self.seed = seed
        self.augment = Augmentation(augmentation)

    def __getitem__(self, position: int) -> TrainingPhoto:
        which, index = self.order[position]
        pixels, labels = self.sources.parts[which].read(index)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derived_seed(self.seed, 1, position))
            crop, classes = self.augment(pixels, labels)
        present = int((classes.unique() >= 0).sum())
        return TrainingPhoto(crop, classes, which, present)


@dataclass
class Batch:
    """Photos that go through the model at once.

    Not frozen: for ``64-true``, lightning converts a copy field by field.

    Attributes:
        pixels: (B, 3, crop, crop) uint8.
        labels: (B, crop, crop) int32, -1 unlabelled.
        sources: (B,) int64, data set of each.
        masks: target masks in it.
        masks_per_batch: mean of ``masks`` over the batches whose gradients one step averages on
            this device.
    """

    pixels: Tensor
    labels: Tensor
    sources: Tensor
    masks: int
    masks_per_batch: float

    def to(self, device: torch.device, **_: Any) -> Batch:
        """The same on another device."""
        return self._each(lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> Batch:
        """The same in memory that a GPU copies from directly."""
        return self._each(Tensor.pin_memory)

    def _each(self, change: Callable[[Tensor], Tensor]) -> Batch:
        return replace(
            self,
            pixels=change(self.pixels),
            labels=change(self.labels),
            sources=change(self.sources),
        )


def collate(photos: Sequence[TrainingPhoto]) -> Batch:
    """Photos of one size to a batch."""
    masks = sum(photo.masks for photo in photos)
    return Batch(
        torch.stack([photo.pixels for photo in photos]),
        torch.stack([photo.labels for photo in photos]),
        torch.tensor([photo.source for photo in photos]),
        masks,
        float(masks),
    )


def targets_of(
    batch: Batch, sources: Sequence[DataConfig], candidates: Tensor | None
) -> list[Target]:
    """One target mask per class present in each photo.

    Args:
        sources: settings of each data set.
        candidates: (data sets, K) bool, see :attr:`Sources.candidates`.
    """
    targets = []
    for labels, source in zip(batch.labels, batch.sources.tolist(), strict=True):
        present = labels.unique()
        present = present[present >= 0]
        config = sources[source]
        targets.append(
            Target(
                labels=present.long(),
                masks=labels[None] == present[:, None, None],
                void=labels < 0 if config.unlabelled == "ignored" else None,
                candidates=None if candidates is None else candidates[source],
                exhaustive=config.exhaustive,
            )
        )
    return targets
