"""Proposals that need no training: SLIC superpixels merged by what the encoder sees in them.

Neighbouring superpixels are joined bottom-up (Ward linkage over the region adjacency graph) on the
encoder's dense embeddings and colour. Cutting the tree at several sizes gives coarse and fine
regions of the same photo; each pixel lies in one region of every cut.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scanseg.contracts import ClipTokens, InputError, Proposals
from scanseg.proposals.affinity import Affinity
from scanseg.proposals.dense_head import DenseHead, HeadEnsemble
from scanseg.proposals.region_merging import RegionMerging


class SuperpixelProposals(nn.Module):
    """A :class:`scanseg.contracts.ProposalGenerator` on region merging.

    Args:
        head: gives dense embeddings from the encoder's tokens; regions average them into proposal
            embeddings F_N. ``None``: regions are merged on the encoder's own dense map and have
            no embeddings.
        cuts: numbers of regions at which the tree is cut; Q is at most their sum.
        superpixels: wanted number of SLIC superpixels.
        compactness: SLIC's weight of distance against colour.
        colour_weight: weight of CIELAB colour (divided by 100) against embeddings in merging.
        work_side: long side at which superpixels are found, pixels.
    """

    def __init__(
        self,
        head: DenseHead | HeadEnsemble | None = None,
        *,
        affinity: Affinity | None = None,
        cuts: tuple[int, ...] = (8, 24, 72),
        superpixels: int = 320,
        compactness: float = 16.0,
        colour_weight: float = 0.5,
        work_side: int = 400,
    ) -> None:
        super().__init__()
        if affinity is not None and head is None:
            raise InputError("affinities gather a head's embeddings: pass a head too")
        self.head, self.affinity = head, affinity
        self.merging = RegionMerging(
            cuts=cuts,
            superpixels=superpixels,
            compactness=compactness,
            colour_weight=colour_weight,
            work_side=work_side,
        )

    def __call__(self, pixels: Tensor, context: ClipTokens) -> Proposals:
        """Masks (B, Q, h, w), 0 or 1; with a head embeddings (B, Q, D) and the dense map too.

        A photo with fewer regions than another of its batch gets empty masks.

        Raises:
            InputError: the encoder has no dense map.
        """
        return self.regions(pixels, *self.dense_map(context))

    def regions(self, pixels: Tensor, dense: Tensor, stride: int) -> Proposals:
        """The same from the dense map, (B, D, g_y, g_x), and its stride in pixels."""
        found = [self._regions(p, d, stride) for p, d in zip(pixels, dense, strict=True)]
        most = max(len(masks) for masks, _ in found)
        masks = _stacked([_padded(m, most) for m, _ in found])
        embeddings = _stacked([_padded(e, most) for _, e in found])
        if self.head is None:
            return Proposals(masks)
        return Proposals(masks, embeddings, dense=dense, dense_stride=stride)

    def dense_map(self, context: ClipTokens) -> tuple[Tensor, int]:
        """The map on which regions are merged, (B, D, g_y, g_x), and its stride in pixels."""
        if self.head is not None:
            dense = self.head(context)
            if self.affinity is not None:
                dense = self.affinity(context, dense)
            return dense, 8
        if context.dense is None:
            raise InputError("superpixel proposals need an encoder with a dense map (embedded)")
        return context.dense, 32

    def _regions(self, pixels: Tensor, dense: Tensor, stride: int) -> tuple[Tensor, Tensor]:
        """Photo (3, h, w), dense map (D, g_y, g_x) -> masks (q, h, w), embeddings (q, D)."""
        h, w = pixels.shape[-2:]
        small = F.interpolate(
            pixels[None].float(),
            size=self.merging.work_size(h, w),
            mode="bilinear",
            antialias=True,
            align_corners=False,
        )[0]
        rgb = small.clamp(0, 255).permute(1, 2, 0).cpu().numpy() / 255.0
        masks, rows = self.merging(rgb, dense.cpu().numpy(), (h, w), stride)
        device = pixels.device
        return torch.from_numpy(masks).float().to(device), torch.from_numpy(rows).to(device)


def _padded(rows: Tensor, count: int) -> Tensor:
    """(q, ...) -> (count, ...), padded with zeros: empty masks are never valid regions."""
    missing = count - rows.shape[0]
    return torch.cat([rows, rows.new_zeros((missing, *rows.shape[1:]))]) if missing else rows


def _stacked(parts: list[Tensor]) -> Tensor:
    """As ``torch.stack``; one alone is not copied (masks of one photo are 70 MB)."""
    return parts[0][None] if len(parts) == 1 else torch.stack(parts)
