"""Proposals that need no look of their own."""

from __future__ import annotations

import torch

from scanseg.calibration.regions import cut_regions
from scanseg.calibration.shortlist import same_as, without_hopeless
from scanseg.contracts import Proposals, Regions


def test_a_proposal_that_matters_nowhere_is_emptied() -> None:
    masks = torch.zeros(1, 3, 1, 4)
    masks[0, 0] = torch.tensor([1.0, 1.0, 0.2, 0.2])
    masks[0, 1] = torch.tensor([0.3, 0.3, 0.1, 0.1])
    masks[0, 2] = torch.tensor([0.0, 0.0, 0.9, 0.9])
    p_in = torch.tensor([[[0.8, 0.1], [0.1, 0.2], [0.5, 0.4]]])
    # strongest evidence per pixel: 0.8 (first) and 0.45 (third); the second adds at most
    # 0.3 * 0.2 = 0.06, which is 7.5 %, and 0.1 * 0.2 = 0.02, which is 4.4 %
    kept = without_hopeless(Proposals(masks), p_in, 0.08)
    assert kept.masks.flatten(2).any(-1).tolist() == [[True, False, True]]
    assert torch.equal(kept.masks[0, 0], masks[0, 0])
    assert torch.equal(without_hopeless(Proposals(masks), p_in, 0.07).masks, masks)
    assert without_hopeless(Proposals(masks), p_in, 0.0).masks is masks


def test_without_scores_masks_alone_count() -> None:
    masks = torch.tensor([[[[1.0, 1.0]], [[0.4, 0.1]]]])
    assert without_hopeless(Proposals(masks), None, 0.5).masks[0, 1].max() == 0
    assert without_hopeless(Proposals(masks), None, 0.3).masks[0, 1].max() > 0


def regions_of(masks: torch.Tensor) -> Regions:
    photos = torch.zeros(masks.shape[0], 3, *masks.shape[2:])
    return cut_regions(photos, masks, threshold=0.5, size=4, mean=(0.5,) * 3, std=(0.5,) * 3)


def test_twins_share_the_first_ones_look() -> None:
    masks = torch.zeros(2, 4, 10, 10)
    masks[0, 0, :, :5] = 1  # 50 pixels
    masks[0, 1, :, 5:] = 1
    masks[0, 2, :9, :5] = 1  # 45 of the first's 50: overlap 0.9
    masks[1, 0, :, :5] = 1  # the same mask in another photo
    regions = regions_of(masks)
    assert len(regions) == 4
    assert same_as(regions, 0.9).tolist() == [0, 1, 0, 3]
    assert same_as(regions, 0.91).tolist() == [0, 1, 2, 3]
    assert same_as(regions, 1.0).tolist() == [0, 1, 2, 3]
    assert same_as(regions_of(torch.zeros(1, 2, 4, 4)), 0.5).tolist() == []


def test_twins_of_twins_lead_to_one_that_is_looked_at() -> None:
    masks = torch.zeros(1, 3, 1, 10)
    masks[0, 0, :, :8] = 1
    masks[0, 1, :, :9] = 1  # 8/9 with the first
    masks[0, 2, :, :10] = 1  # 9/10 with the second, 8/10 with the first
    found = same_as(regions_of(masks), 0.85)
    assert found.tolist() == [0, 0, 2]  # its only twin has no look of its own
    assert torch.equal(found[found], found)
