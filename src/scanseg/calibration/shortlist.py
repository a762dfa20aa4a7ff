"""Which proposals the region classifier needs to look at: an approximation to spare it work.

Every region costs a pass through CLIP. A proposal that is nowhere near the strongest one at any of
its pixels cannot change the map, and a proposal whose mask is all but that of another one needs no
look of its own. Both are options with their effect measured in ``docs/results/speed.md``.
"""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from scanseg.contracts import Proposals, Regions

_SIDE = 96
"""Masks are compared at this many pixels along the longer side."""


def without_hopeless(proposals: Proposals, p_in: Tensor | None, share: float) -> Proposals:
    """Proposals with the masks of those emptied that matter at no pixel.

    What a proposal can add to a pixel is its mask there times its best score. It is hopeless if
    that is, at every pixel, below ``share`` of what the strongest proposal adds there.

    Args:
        proposals: (B, Q, h, w) masks.
        p_in: (B, Q, K') in-vocabulary scores; ``None`` counts masks alone.
        share: in [0, 1]; 0 keeps all.
    """
    if share <= 0:
        return proposals
    strength = _small(proposals.masks)  # (B, Q, y, x)
    if p_in is not None:
        strength = strength * p_in.amax(-1)[..., None, None]
    matters = (strength >= share * strength.amax(1, keepdim=True)).flatten(2).any(-1)  # (B, Q)
    return replace(proposals, masks=proposals.masks * matters[..., None, None])


def same_as(regions: Regions, overlap: float) -> Tensor:
    """For each region, the one whose features it may share: itself, or an earlier twin.

    Args:
        regions: R regions.
        overlap: intersection over union of two masks of one image from which they count as twins,
            in (0, 1]; 1 means no region has a twin.

    Returns:
        (R,) int64 index into the regions; ``result[result] == result``.
    """
    own = torch.arange(len(regions), device=regions.image.device)
    if overlap >= 1 or len(regions) < 2:
        return own
    masks = _small(regions.inside.float()).flatten(2)  # (B, Q, pixels)
    flat = masks[regions.image, regions.query]  # (R, pixels)
    both = flat @ flat.T
    area = flat.sum(1)
    union = area[:, None] + area[None] - both
    twins = (both >= overlap * union) & (regions.image[:, None] == regions.image[None])
    result = own.clone()
    for i in range(1, len(regions)):
        earlier = (twins[i, :i] & (result[:i] == own[:i])).nonzero()
        if len(earlier):
            result[i] = earlier[0, 0]
    return result


def _small(masks: Tensor) -> Tensor:
    """(B, Q, h, w) -> the same at no more than ``_SIDE`` pixels along the longer side."""
    step = max(1, max(masks.shape[-2:]) // _SIDE)
    return F.avg_pool2d(masks, step, ceil_mode=True) if step > 1 else masks
