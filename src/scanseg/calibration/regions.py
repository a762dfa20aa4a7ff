"""From masks to the sub-images that the region classifier sees: delta(I, M_k) of eq. 4.

Frame: x to the right, y down, boxes ``x0 y0 x1 y1`` with exclusive ends, all in pixels of the
resized photo.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from scanseg.contracts import InputError, Regions, Semantics


def cut_regions(
    pixels: Tensor,
    masks: Tensor,
    *,
    threshold: float,
    size: int,
    mean: Sequence[float],
    std: Sequence[float],
    semantics: Semantics = "released",
) -> Regions:
    """Crop every valid mask to its box, hide what is outside the mask, resize to a square.

    A proposal is valid if any of its pixels exceeds the threshold. The crop holds the photo inside
    the mask and CLIP's mean colour outside, is normalised, and is stretched to ``size`` x ``size``
    (aspect not kept); the mask goes along by nearest neighbour.

    Args:
        pixels: (B, 3, h, w) resized photos, RGB in 0..255, uint8 or float.
        masks: (B, Q, h, w) mask probabilities in [0, 1].
        threshold: in [0, 1), compared with ``>``.
        size: side S of the crops in pixels.
        mean: of the normalisation, of values in [0, 1]; also the fill colour.
        std: of the normalisation.
        semantics: ``"released"`` resizes by plain bicubic interpolation, ``"paper"`` with
            antialiasing, which is how CLIP's own images are made
            (``docs/decisions/0014-region-crops.md``).

    Returns:
        The R valid regions of all images, ordered by image, then proposal. R may be 0.

    Raises:
        InputError: shapes disagree.
    """
    _check_shapes(pixels, masks)
    inside = masks > threshold  # (B, Q, h, w)
    occupied = inside.view(torch.uint8)  # as numbers: their maximum is much faster than any()
    columns, rows = occupied.amax(-2), occupied.amax(-1)  # (B, Q, w), (B, Q, h)
    valid = rows.amax(-1) > 0  # (B, Q)
    image, query = valid.nonzero(as_tuple=True)  # (R,), (R,)
    (x0, x1), (y0, y1) = extent(columns[image, query]), extent(rows[image, query])
    boxes = torch.stack([x0, y0, x1, y1], dim=-1)  # (R, 4)
    photos = normalise(pixels.to(masks.device), mean, std)  # (B, 3, h, w)
    return Regions(
        pixels=crop_pixels(photos, image, boxes, size, semantics, cover=(inside, query)),
        masks=crop_masks(inside, image, query, boxes, size),
        boxes=boxes,
        image=image,
        query=query,
        valid=valid,
        inside=inside,
    )


def uncovered(photos: Tensor, regions: Regions, *, semantics: Semantics = "released") -> Tensor:
    """The crops of ``regions`` with the photo outside the mask as well.

    Args:
        photos: (B, 3, h, w), normalised.
        regions: which boxes of which photos, and the size of the crops.
        semantics: as for :func:`cut_regions`.

    Returns:
        (R, 3, S, S), normalised.
    """
    return crop_pixels(photos, regions.image, regions.boxes, regions.pixels.shape[-1], semantics)


def patch_foreground(masks: Tensor, grid: tuple[int, int]) -> Tensor:
    """Which patches of a region are foreground: those with any pixel of the mask (sec. 3.2).

    Args:
        masks: (R, S, S) bool, in the frame of the crops.
        grid: (rows, columns) of the patch tokens. Where they do not divide S, cells overlap by a
            pixel, so that none is missed.

    Returns:
        (R, N) bool, row-major.
    """
    if masks.shape[0] == 0:  # not len(): the number may be a symbol (export)
        return masks.new_zeros((0, grid[0] * grid[1]), dtype=torch.bool)
    return F.adaptive_max_pool2d(masks.float()[:, None], grid).flatten(1) > 0


def normalise(pixels: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """(B, 3, h, w) RGB in 0..255 -> float32 with the given mean and std of values in [0, 1]."""
    shift = 255.0 * torch.tensor(mean, device=pixels.device)[:, None, None]
    scale = 255.0 * torch.tensor(std, device=pixels.device)[:, None, None]
    return (pixels.float() - shift) / scale


def _check_shapes(pixels: Tensor, masks: Tensor) -> None:
    if pixels.ndim != 4 or pixels.shape[1] != 3:
        raise InputError(f"pixels must be (B, 3, h, w), not {tuple(pixels.shape)}")
    B, _, h, w = pixels.shape
    if masks.ndim != 4 or (masks.shape[0], *masks.shape[2:]) != (B, h, w):
        raise InputError(
            f"masks must be (B, Q, h, w) of the same photos, ({B}, Q, {h}, {w}), "
            f"not {tuple(masks.shape)}"
        )


def extent(occupied: Tensor) -> tuple[Tensor, Tensor]:
    """First place that holds 1 in each row of (R, length) zeros and ones, and one past the last."""
    return occupied.argmax(-1), occupied.shape[-1] - occupied.flip(-1).argmax(-1)


def crop_pixels(
    photos: Tensor,
    image: Tensor,
    boxes: Tensor,
    size: int,
    semantics: Semantics,
    *,
    cover: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """(R, 3, S, S) bicubic crops of normalised photos, hidden outside the masks of ``cover``.

    One crop at a time: each reads only its box, and the cubic filter must not reach beyond it.
    """
    crops = photos.new_empty(len(image), 3, size, size)
    inside, query = cover if cover is not None else (None, image)
    places = zip(image.tolist(), query.tolist(), boxes.tolist(), strict=True)
    for crop, (i, q, (x0, y0, x1, y1)) in zip(crops, places, strict=True):
        part = photos[i, :, y0:y1, x0:x1]  # (3, y1 - y0, x1 - x0)
        if inside is not None:
            part = part * inside[i, q, y0:y1, x0:x1]  # normalised, the mean colour is 0
        crop.copy_(
            F.interpolate(
                part[None],
                (size, size),
                mode="bicubic",
                align_corners=False,
                antialias=semantics == "paper",
            )[0]
        )
    return crops


def crop_masks(inside: Tensor, image: Tensor, query: Tensor, boxes: Tensor, size: int) -> Tensor:
    """The masks inside their boxes at S x S, by the index arithmetic of torch's "nearest"."""
    x0, y0, x1, y1 = boxes[:, :, None].unbind(1)  # (R, 1) each
    steps = torch.arange(size, device=boxes.device, dtype=torch.float32)
    x = x0 + torch.minimum((steps * ((x1 - x0) / size)).long(), x1 - x0 - 1)  # (R, S)
    y = y0 + torch.minimum((steps * ((y1 - y0) / size)).long(), y1 - y0 - 1)
    return inside[image[:, None, None], query[:, None, None], y[:, :, None], x[:, None, :]]
