from __future__ import annotations

import numpy as np
import pytest
import torch

from scanseg.contracts import ClipTokens, InputError, ProposalGenerator
from scanseg.proposals.region_merging import adjacency, nearest, pooling_matrix, roots
from scanseg.proposals.superpixels import SuperpixelProposals, _padded


def context(dense: torch.Tensor | None) -> ClipTokens:
    return ClipTokens({}, {}, {}, torch.zeros(1, 3), dense)


def two_halves() -> tuple[torch.Tensor, torch.Tensor]:
    """A photo, red on the left and blue on the right, and a dense map that agrees."""
    pixels = torch.zeros(1, 3, 64, 128, dtype=torch.uint8)
    pixels[0, 0, :, :64] = 200
    pixels[0, 2, :, 64:] = 200
    dense = torch.zeros(1, 3, 2, 4)
    dense[0, 0, :, :2] = 1
    dense[0, 1, :, 2:] = 1
    return pixels, dense


def test_regions_follow_the_photo() -> None:
    pixels, dense = two_halves()
    proposals = SuperpixelProposals(cuts=(2,), superpixels=40)(pixels, context(dense))
    assert proposals.embeddings is None
    assert proposals.masks.shape == (1, 2, 64, 128)
    left = proposals.masks[0, :, 32, 10].argmax()
    assert proposals.masks[0, left, :, :60].all()
    assert not proposals.masks[0, left, :, 68:].any()


def test_every_pixel_lies_in_one_region_of_every_cut() -> None:
    torch.manual_seed(0)
    coarse = torch.randint(0, 256, (2, 3, 6, 5), dtype=torch.uint8)
    pixels = coarse.repeat_interleave(16, 2).repeat_interleave(16, 3)
    dense = torch.randn(2, 5, 3, 3)
    proposals = SuperpixelProposals(cuts=(3, 9), superpixels=60)(pixels, context(dense))
    assert proposals.masks.sum(1).max() <= 2
    assert (proposals.masks.sum(1) >= 1).all()
    assert set(proposals.masks.unique().tolist()) == {0.0, 1.0}


def test_the_same_photo_gives_the_same_regions() -> None:
    pixels, dense = two_halves()
    generator = SuperpixelProposals(cuts=(2, 5), superpixels=40)
    assert torch.equal(
        generator(pixels, context(dense)).masks, generator(pixels, context(dense)).masks
    )


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (40, 1), (3, 5)])
def test_tiny_photos(size: tuple[int, int]) -> None:
    pixels = torch.randint(0, 256, (1, 3, *size), dtype=torch.uint8)
    proposals = SuperpixelProposals()(pixels, context(torch.randn(1, 4, 1, 2)))
    assert proposals.masks.shape[2:] == size
    assert (proposals.masks.sum(1) >= 1).all()


def test_an_encoder_without_a_dense_map_is_refused() -> None:
    with pytest.raises(InputError, match="dense map"):
        SuperpixelProposals()(torch.zeros(1, 3, 8, 8, dtype=torch.uint8), context(None))


def test_it_is_a_proposal_generator() -> None:
    assert isinstance(SuperpixelProposals(), ProposalGenerator)


def test_pooling_reads_the_coarse_map_bilinearly() -> None:
    fine = np.array([[0, 0, 1, 1]])  # 1 x 4 pixels of a photo of the same size, stride 2
    weights, area = pooling_matrix(fine, (1, 2), (1.0, 1.0), 2)
    # cell centres at pixel coordinates 1 and 3; pixel centres at 0.5, 1.5, 2.5, 3.5 read the cells
    # at -0.25 -> 0, 0.25, 0.75, 1.25 -> 1
    assert area.tolist() == [2, 2]
    assert np.allclose(weights, [[(1 + 0.75) / 2, 0.25 / 2], [0.25 / 2, (0.75 + 1) / 2]])


def test_adjacency() -> None:
    fine = np.array([[0, 0, 1], [2, 2, 1]])
    # to the right: 0-1 and 2-1; below: 0-2 twice (columns 0 and 1)
    assert adjacency(fine).tolist() == [[0, 1], [0, 2], [2, 1]]


def test_roots_of_a_forest() -> None:
    parent = np.array([3, 3, 2, 3])  # leaves 0 and 1 are joined under 3, leaf 2 is alone
    assert roots(parent, 3).tolist() == [1, 1, 0]


def test_padding_adds_empty_masks() -> None:
    assert _padded(torch.ones(2, 3), 4).tolist() == [[1, 1, 1], [1, 1, 1], [0, 0, 0], [0, 0, 0]]


@pytest.mark.parametrize(("length", "old"), [(512, 400), (341, 266), (7, 7), (5, 1), (97, 13)])
def test_nearest_reads_where_torch_reads(length: int, old: int) -> None:
    theirs = torch.nn.functional.interpolate(torch.arange(old)[None, None].float(), size=length)
    assert nearest(length, old).tolist() == theirs[0, 0].tolist()
