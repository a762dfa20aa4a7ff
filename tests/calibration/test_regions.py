"""Crops of proposals: thresholds, boxes, fill colour, resizing, patches."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from scanseg.calibration.regions import cut_regions, normalise, patch_foreground, uncovered
from scanseg.contracts import InputError, Regions

MEAN, STD = (0.5, 0.25, 0.75), (0.5, 0.25, 0.5)


def cut(pixels: Tensor, masks: Tensor, *, threshold: float = 0.5, size: int = 8, **kw) -> Regions:
    return cut_regions(pixels, masks, threshold=threshold, size=size, mean=MEAN, std=STD, **kw)


def photo(b: int = 1, h: int = 10, w: int = 12) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (b, 3, h, w), generator=generator, dtype=torch.uint8)


def test_boxes_threshold_and_order() -> None:
    masks = torch.zeros(2, 3, 10, 12)
    masks[0, 0, 2:5, 3:9] = 0.6
    masks[0, 1] = 0.5  # not above the threshold
    masks[0, 2, 9, 11] = 1.0  # a single pixel in the last corner
    masks[1, 1] = 0.51
    regions = cut(photo(2), masks)
    assert regions.valid.tolist() == [[True, False, True], [False, True, False]]
    assert regions.boxes.tolist() == [[3, 2, 9, 5], [11, 9, 12, 10], [0, 0, 12, 10]]
    assert regions.boxes.dtype == torch.int64
    assert (regions.image.tolist(), regions.query.tolist()) == ([0, 0, 1], [0, 2, 1])
    assert torch.equal(regions.inside, masks > 0.5)
    assert len(regions) == 3


def test_box_spans_separate_parts_of_a_mask() -> None:
    masks = torch.zeros(1, 1, 10, 12)
    masks[0, 0, 1, 10] = masks[0, 0, 7, 2] = 1.0
    assert cut(photo(), masks).boxes.tolist() == [[2, 1, 11, 8]]


def test_crop_of_the_same_size_shows_the_photo_inside_and_the_mean_outside() -> None:
    pixels = photo()
    masks = torch.zeros(1, 1, 10, 12)
    masks[0, 0, 1:9, 2:10] = 1.0
    masks[0, 0, 4, 4] = 0.0
    regions = cut(pixels, masks, size=8)
    mean, std = torch.tensor(MEAN)[:, None, None], torch.tensor(STD)[:, None, None]
    expected = (pixels[0, :, 1:9, 2:10] / 255 - mean) / std
    expected[:, 3, 2] = 0.0  # the mean colour, normalised
    assert torch.allclose(regions.pixels[0], expected, atol=1e-6)
    assert (~regions.masks[0]).nonzero().tolist() == [[3, 2]]


@pytest.mark.parametrize(("semantics", "antialias"), [("released", False), ("paper", True)])
def test_crops_are_stretched_as_documented(semantics: str, antialias: bool) -> None:
    """The order of the released code: raw pixels with the mean colour x 255, normalise, bicubic."""
    pixels = photo(1, 40, 30)
    masks = (torch.rand(1, 2, 40, 30, generator=torch.Generator().manual_seed(1)) > 0.3).float()
    masks[0, 0, :7] = masks[0, 1, :, 20:] = 0
    regions = cut(pixels, masks, size=9, semantics=semantics)
    mean, std = torch.tensor(MEAN)[:, None, None], torch.tensor(STD)[:, None, None]
    for r, (x0, y0, x1, y1) in enumerate(regions.boxes.tolist()):
        inside = masks[0, r, y0:y1, x0:x1] > 0
        raw = torch.where(inside, pixels[0, :, y0:y1, x0:x1].float(), mean * 255)
        crop = ((raw - mean * 255) / (std * 255))[None]
        expected = F.interpolate(crop, (9, 9), mode="bicubic", antialias=antialias)[0]
        assert torch.allclose(regions.pixels[r], expected, atol=1e-5)
        nearest = F.interpolate(inside[None, None].float(), (9, 9), mode="nearest")[0, 0]
        assert torch.equal(regions.masks[r], nearest > 0)


@pytest.mark.parametrize("size", [7, 32, 224])
def test_masks_follow_torchs_nearest_at_every_box_size(size: int) -> None:
    extents = range(1, 60, 3)
    masks = torch.zeros(1, len(extents), 64, 64)
    noise = torch.rand(64, 64, generator=torch.Generator().manual_seed(2)) > 0.5
    for mask, extent in zip(masks[0], extents, strict=True):
        mask[:extent, : extent + 3] = noise[:extent, : extent + 3]
        mask[0, 0] = mask[extent - 1, extent + 2] = 1.0
    regions = cut(photo(1, 64, 64), masks, size=size)
    for found, mask, extent in zip(regions.masks, masks[0], extents, strict=True):
        inside = mask[None, None, :extent, : extent + 3]
        assert torch.equal(found, F.interpolate(inside, (size, size), mode="nearest")[0, 0] > 0)


def test_crop_reads_nothing_beyond_its_box() -> None:
    masks = torch.zeros(1, 1, 10, 12)
    masks[0, 0, 3:6, 3:6] = 1.0
    one, other = photo(), photo()
    other[:, :, :3] = other[:, :, 6:] = 255
    other[:, :, :, :3] = other[:, :, :, 6:] = 255
    assert torch.equal(cut(one, masks).pixels, cut(other, masks).pixels)


def test_batch_of_two_equals_two_batches_of_one() -> None:
    pixels = photo(2)
    masks = torch.rand(2, 4, 10, 12, generator=torch.Generator().manual_seed(3))
    both = cut(pixels, masks, threshold=0.9)
    alone = [cut(pixels[i : i + 1], masks[i : i + 1], threshold=0.9) for i in range(2)]
    assert torch.equal(both.pixels, torch.cat([a.pixels for a in alone]))
    assert torch.equal(both.boxes, torch.cat([a.boxes for a in alone]))
    assert both.image.tolist() == [0] * len(alone[0]) + [1] * len(alone[1])


@pytest.mark.parametrize("queries", [0, 3])
def test_no_valid_proposal_gives_no_regions(queries: int) -> None:
    regions = cut(photo(2), torch.zeros(2, queries, 10, 12))
    assert len(regions) == 0
    assert regions.pixels.shape == (0, 3, 8, 8)
    assert regions.masks.shape == (0, 8, 8)
    assert regions.boxes.shape == (0, 4)
    assert regions.valid.shape == (2, queries)
    assert list(regions.split(5)) == []


@pytest.mark.parametrize(("h", "w"), [(1, 12), (10, 1), (1, 1)])
def test_one_pixel_high_or_wide_photos(h: int, w: int) -> None:
    regions = cut(photo(1, h, w), torch.ones(1, 1, h, w))
    assert regions.boxes.tolist() == [[0, 0, w, h]]
    assert regions.pixels.isfinite().all()
    assert regions.masks.all()


def test_float_and_integer_photos_agree() -> None:
    masks = torch.ones(1, 1, 10, 12)
    assert torch.equal(cut(photo(), masks).pixels, cut(photo().float(), masks).pixels)


def test_uncovered_shows_the_photo_everywhere() -> None:
    pixels = photo()
    masks = torch.zeros(1, 1, 10, 12)
    masks[0, 0, 1, 2] = masks[0, 0, 8, 9] = 1.0
    regions = cut(pixels, masks)
    shown = uncovered(normalise(pixels, MEAN, STD), regions)
    full = torch.zeros(1, 1, 10, 12)
    full[0, 0, 1:9, 2:10] = 1.0
    assert torch.equal(shown, cut(pixels, full).pixels)


def test_a_patch_is_foreground_if_any_of_its_pixels_is() -> None:
    masks = torch.zeros(2, 6, 6, dtype=torch.bool)
    masks[0, 0, 0] = masks[0, 5, 2] = True
    foreground = patch_foreground(masks, (2, 3))
    # patches of 3 x 2 pixels: (0, 0) lies in the first, (5, 2) in the middle of the second row
    assert foreground.tolist() == [[True, False, False, False, True, False], [False] * 6]
    assert patch_foreground(masks[:0], (2, 3)).shape == (0, 6)


@pytest.mark.parametrize(
    ("pixels", "masks", "reason"),
    [
        ((3, 10, 12), (1, 2, 10, 12), r"pixels must be \(B, 3, h, w\)"),
        ((1, 1, 10, 12), (1, 2, 10, 12), r"pixels must be \(B, 3, h, w\)"),
        ((1, 3, 10, 12), (1, 2, 10, 11), r"\(1, Q, 10, 12\), not \(1, 2, 10, 11\)"),
        ((2, 3, 10, 12), (1, 2, 10, 12), r"masks must be"),
    ],
)
def test_shapes_that_disagree_are_refused(
    pixels: tuple[int, ...], masks: tuple[int, ...], reason: str
) -> None:
    with pytest.raises(InputError, match=reason):
        cut(torch.zeros(pixels), torch.zeros(masks))
