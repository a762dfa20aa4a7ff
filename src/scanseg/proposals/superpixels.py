"""Proposals that need no training: SLIC superpixels merged by what the encoder sees in them.

Neighbouring superpixels are joined bottom-up (Ward linkage over the region adjacency graph) on the
encoder's dense embeddings and colour. Cutting the tree at several sizes gives coarse and fine
regions of the same photo; each pixel lies in one region of every cut. scikit-image and scikit-learn
do the work.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scanseg.contracts import ClipTokens, InputError, Proposals
from scanseg.proposals.dense_head import DenseHead


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
        head: DenseHead | None = None,
        *,
        cuts: tuple[int, ...] = (8, 24, 72),
        superpixels: int = 320,
        compactness: float = 16.0,
        colour_weight: float = 0.5,
        work_side: int = 400,
    ) -> None:
        super().__init__()
        self.head = head
        self.cuts = cuts
        self.superpixels = superpixels
        self.compactness = compactness
        self.colour_weight = colour_weight
        self.work_side = work_side

    def __call__(self, pixels: Tensor, context: ClipTokens) -> Proposals:
        """Masks (0 or 1) and, with a head, embeddings; photos with fewer regions repeat none.

        Raises:
            InputError: the encoder has no dense map.
        """
        if self.head is not None:
            dense, stride = self.head(context), 8  # (B, D, g_y, g_x)
        elif context.dense is not None:
            dense, stride = context.dense, 32
        else:
            raise InputError("superpixel proposals need an encoder with a dense map (embedded)")
        found = [self._regions(p, d, stride) for p, d in zip(pixels, dense, strict=True)]
        most = max(len(masks) for masks, _ in found)
        masks = torch.stack([_padded(m, most) for m, _ in found])
        embeddings = torch.stack([_padded(e, most) for _, e in found])
        return Proposals(masks, embeddings if self.head is not None else None)

    def _regions(self, pixels: Tensor, dense: Tensor, stride: int) -> tuple[Tensor, Tensor]:
        """Photo (3, h, w), dense map (D, g_y, g_x) -> masks (q, h, w), embeddings (q, D)."""
        from skimage.color import rgb2lab
        from skimage.segmentation import slic

        h, w = pixels.shape[-2:]
        scale = min(1.0, self.work_side / max(h, w))
        size = (max(1, round(h * scale)), max(1, round(w * scale)))
        small = F.interpolate(
            pixels[None].float(), size=size, mode="bilinear", antialias=True, align_corners=False
        )[0]
        rgb = small.clamp(0, 255).permute(1, 2, 0).cpu().numpy() / 255.0
        lab = rgb2lab(rgb).astype(np.float32)
        fine = slic(
            rgb,  # slic rescales what it is given, so it must convert to CIELAB itself
            n_segments=self.superpixels,
            compactness=self.compactness,
            convert2lab=True,
            start_label=0,
            channel_axis=-1,
        )
        fine = np.unique(fine, return_inverse=True)[1].reshape(size).astype(np.int64)
        pooling, area = _pooling_matrix(fine, dense.shape[-2:], (size[0] / h, size[1] / w), stride)
        embeddings = pooling @ dense.flatten(1).T.cpu().numpy()  # (S, D)
        colour = np.stack([np.bincount(fine.ravel(), lab[..., c].ravel()) for c in range(3)], 1)
        colour = colour / area[:, None] / 100.0
        features = np.concatenate([embeddings, self.colour_weight * colour], 1)
        groups = self._cut_tree(features, fine)  # (S, cuts)

        grown = F.interpolate(torch.from_numpy(fine)[None, None].float(), size=(h, w))
        fine_full = grown[0, 0].long()  # (h, w) superpixel of each pixel
        found: list[tuple[Tensor, int]] = []  # region maps (h, w) and the region's number in them
        rows, seen = [], set()
        for column in groups.T:
            members = np.eye(column.max() + 1, dtype=np.float32)[column]  # (S, regions)
            weights = members * area[:, None]
            means = (weights / weights.sum(0)).T @ embeddings  # (regions, D)
            region_map = torch.from_numpy(column)[fine_full]  # (h, w)
            for region in range(members.shape[1]):
                key = members[:, region].tobytes()
                if key not in seen:  # the same region at two cuts counts once
                    seen.add(key)
                    found.append((region_map, region))
                    rows.append(means[region])
        masks = torch.empty(len(found), h, w)
        for mask, (region_map, region) in zip(masks, found, strict=True):
            mask.copy_(region_map == region)
        device = pixels.device
        return masks.to(device), torch.from_numpy(np.stack(rows).astype(np.float32)).to(device)

    def _cut_tree(self, features: np.ndarray, fine: np.ndarray) -> np.ndarray:
        """(S, F) features -> (S, cuts) region number of each superpixel at each cut."""
        count = len(features)
        wanted = sorted({min(c, count) for c in self.cuts})
        if count == 1:
            return np.zeros((1, 1), np.int64)
        from sklearn.cluster import AgglomerativeClustering

        tree: Any = AgglomerativeClustering(
            n_clusters=1,
            linkage="ward",
            connectivity=_adjacency(fine, count),
            compute_full_tree=True,
        ).fit(features)
        parent = np.arange(2 * count - 1)
        columns, merges = {}, tree.children_
        for step in range(count):
            if count - step in wanted:
                columns[count - step] = _roots(parent, count)
            if step < len(merges):
                parent[merges[step]] = count + step
        return np.stack([columns[c] for c in wanted], 1)


def _roots(parent: np.ndarray, count: int) -> np.ndarray:
    """Group number 0..groups-1 of each leaf of a forest given by parent pointers."""
    root = np.arange(count)
    while True:
        above = parent[root]
        if (above == root).all():
            return np.unique(root, return_inverse=True)[1].astype(np.int64)
        root = above


def _adjacency(fine: np.ndarray, count: int) -> Any:
    """Sparse symmetric (S, S) matrix: which superpixels share a border (4-neighbourhood)."""
    from scipy.sparse import coo_matrix

    pairs = np.concatenate(
        [
            np.stack([fine[:, :-1].ravel(), fine[:, 1:].ravel()], 1),
            np.stack([fine[:-1].ravel(), fine[1:].ravel()], 1),
        ]
    )
    pairs = np.unique(pairs[pairs[:, 0] != pairs[:, 1]], axis=0)
    both = np.concatenate([pairs, pairs[:, ::-1]])
    return coo_matrix((np.ones(len(both)), (both[:, 0], both[:, 1])), shape=(count, count)).tocsr()


def _pooling_matrix(
    fine: np.ndarray, grid: tuple[int, ...], scale: tuple[float, float], stride: int
) -> tuple[np.ndarray, np.ndarray]:
    """Weights that average a coarse map, read bilinearly, over each superpixel.

    Args:
        fine: (y, x) superpixel numbers at the working size.
        grid: (g_y, g_x) of the coarse map.
        scale: working size divided by the size of the photo, per axis.
        stride: of the coarse map, in pixels of the photo.

    Returns:
        (S, g_y * g_x) float32 with rows summing to 1, and the (S,) areas in working pixels.
    """
    axes = []
    for axis in (0, 1):
        centre = (np.arange(fine.shape[axis]) + 0.5) / scale[axis]  # in pixels of the photo
        position = np.clip(centre / stride - 0.5, 0, grid[axis] - 1)
        low = np.minimum(position.astype(np.int64), max(grid[axis] - 2, 0))
        axes.append((low, np.minimum(low + 1, grid[axis] - 1), position - low))
    (y0, y1, fy), (x0, x1, fx) = axes
    count, cells = int(fine.max()) + 1, grid[0] * grid[1]
    total = np.zeros(count * cells)
    for ys, wy in ((y0, 1 - fy), (y1, fy)):
        for xs, wx in ((x0, 1 - fx), (x1, fx)):
            cell = ys[:, None] * grid[1] + xs[None]
            weight = wy[:, None] * wx[None]
            total += np.bincount(
                (fine * cells + cell).ravel(), weight.ravel(), minlength=count * cells
            )
    area = np.bincount(fine.ravel(), minlength=count).astype(np.float64)
    return (total.reshape(count, cells) / area[:, None]).astype(np.float32), area


def _padded(rows: Tensor, count: int) -> Tensor:
    """(q, ...) -> (count, ...), padded with zeros: empty masks are never valid regions."""
    missing = count - rows.shape[0]
    return torch.cat([rows, rows.new_zeros((missing, *rows.shape[1:]))]) if missing else rows
