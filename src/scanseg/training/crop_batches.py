"""Mined pairs as batches: crops made exactly as at inference, photos for the shift, nouns."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import Dataset as TorchDataset

from scanseg.calibration.regions import cut_regions
from scanseg.contracts import ClipEncoder, Regions, Semantics
from scanseg.training.order import DataOrder
from scanseg.training.pairs import Pair, PairFolder


@dataclass(frozen=True, eq=False)
class Crop:
    """One pair as tensors.

    Attributes:
        pixels: (3, S, S), normalised, CLIP's mean colour outside the mask.
        mask: (S, S) bool.
        photo: (3, S, S) uint8, the whole photo, stretched.
        around: (3, S, S) float, RGB in 0..255, the crop without its mask; ``None`` if not needed.
        noun: index of its noun.
    """

    pixels: Tensor
    mask: Tensor
    photo: Tensor
    around: Tensor | None
    noun: int


@dataclass(eq=False)
class CropBatch:
    """Pairs that go through the model at once; attributes as in :class:`Crop`, stacked.

    Not frozen: for ``64-true``, lightning converts a copy field by field.
    ``masks`` and ``masks_per_batch`` count them, for the loader that both stages share.
    """

    pixels: Tensor
    crop_masks: Tensor
    photos: Tensor
    around: Tensor | None
    nouns: Tensor
    masks: int
    masks_per_batch: float

    def to(self, device: torch.device, **_: Any) -> CropBatch:
        """The same on another device."""
        return self._each(lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> CropBatch:
        """The same in memory that a GPU copies from directly."""
        return self._each(Tensor.pin_memory)

    def regions(self, first: int) -> Regions:
        """The crops as regions, each of an image of its own.

        Args:
            first: number of the first one; the draws of contextual shift depend on it.
        """
        count, side = len(self.pixels), self.pixels.shape[-1]
        device = self.pixels.device
        numbers = torch.arange(count, device=device)
        return Regions(
            pixels=self.pixels,
            masks=self.crop_masks,
            boxes=torch.tensor([0, 0, side, side], device=device).expand(count, 4),
            image=numbers,
            query=numbers + first,
            valid=torch.ones(count, 1, dtype=torch.bool, device=device),
            inside=self.crop_masks[:, None],
        )

    def _each(self, change: Callable[[Tensor], Tensor]) -> CropBatch:
        return replace(
            self,
            pixels=change(self.pixels),
            crop_masks=change(self.crop_masks),
            photos=change(self.photos),
            around=None if self.around is None else change(self.around),
            nouns=change(self.nouns),
        )


def crop_of(pair: Pair, noun: int, clip: ClipEncoder, semantics: Semantics, around: bool) -> Crop:
    """A pair as the region classifier would see it.

    The mask is what the fill colour leaves; the crop is then made by ``cut_regions``, as at
    inference (docs/decisions/0071-crops-for-training.md).
    """
    side = clip.region_size
    pixels = _planes(pair.crop)[None]  # (1, 3, h, w)
    regions = cut_regions(
        pixels,
        torch.from_numpy(pair.mask)[None, None].float(),
        threshold=0.5,
        size=side,
        mean=clip.pixel_mean,
        std=clip.pixel_std,
        semantics=semantics,
    )
    shown = None
    if around and pair.around is not None:
        x0, y0, x1, y1 = regions.boxes[0].tolist()
        part = _planes(pair.around)[None, :, y0:y1, x0:x1].float()
        smooth = semantics == "paper"
        shown = F.interpolate(part, (side, side), mode="bicubic", antialias=smooth)[0]
    return Crop(regions.pixels[0], regions.masks[0], _planes(pair.photo), shown, noun)


def _planes(pixels: np.ndarray) -> Tensor:
    return torch.from_numpy(pixels).permute(2, 0, 1).contiguous()


class TrainingCrops(TorchDataset[Crop]):
    """The pair at each position of a run.

    Args:
        pairs: mined ones.
        clip: the region CLIP, for size and normalisation; only numbers of it are kept.
        semantics: of the crops.
        around: keep the surroundings, for shift source ``background``.
        seed: of the order.
    """

    def __init__(
        self, pairs: PairFolder, clip: ClipEncoder, semantics: Semantics, around: bool, seed: int
    ) -> None:
        self.pairs, self.semantics, self.around = pairs, semantics, around
        self.clip: Any = _Sizes(clip.region_size, clip.pixel_mean, clip.pixel_std)
        self.order = DataOrder((len(pairs),), (1.0,), seed)
        self.numbers = {noun: i for i, noun in enumerate(pairs.nouns)}

    def __getitem__(self, position: int) -> Crop:
        pair: Pair = self.pairs[self.order[position][1]]
        number = self.numbers[pair.info.noun]
        return crop_of(pair, number, self.clip, self.semantics, self.around)


@dataclass(frozen=True)
class _Sizes:
    """What cutting crops needs of an encoder; goes to worker processes without its weights."""

    region_size: int
    pixel_mean: tuple[float, float, float]
    pixel_std: tuple[float, float, float]


def collate_crops(crops: Sequence[Crop]) -> CropBatch:
    """Crops to a batch."""
    shown = [crop.around for crop in crops if crop.around is not None]
    return CropBatch(
        torch.stack([crop.pixels for crop in crops]),
        torch.stack([crop.mask for crop in crops]),
        torch.stack([crop.photo for crop in crops]),
        torch.stack(shown) if shown else None,
        torch.tensor([crop.noun for crop in crops]),
        len(crops),
        float(len(crops)),
    )
