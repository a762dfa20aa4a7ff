"""Superpixels of a photo, merged bottom-up; NumPy and scikit-image only.

``superpixels.py`` makes proposals of it, and so does the runner without torch.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from scanseg.proposals.ward import ward_tree


@dataclass(frozen=True)
class RegionMerging:
    """How regions are found; see ``SuperpixelProposals`` for the arguments."""

    cuts: tuple[int, ...] = (8, 24, 72)
    superpixels: int = 320
    compactness: float = 16.0
    colour_weight: float = 0.5
    work_side: int = 400

    def work_size(self, height: int, width: int) -> tuple[int, int]:
        """(rows, columns) at which the superpixels of a photo are found."""
        scale = min(1.0, self.work_side / max(height, width))
        return max(1, round(height * scale)), max(1, round(width * scale))

    def __call__(
        self, rgb: np.ndarray, dense: np.ndarray, size: tuple[int, int], stride: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Regions of one photo.

        Args:
            rgb: (rows, columns, 3) in [0, 1], the photo at ``work_size``.
            dense: (D, g_y, g_x) map of embeddings.
            size: (h, w) of the photo.
            stride: of the map, in pixels of the photo.

        Returns:
            masks (q, h, w) bool, and the regions' mean embeddings (q, D) float32.
        """
        from skimage.color import rgb2lab
        from skimage.segmentation import slic

        h, w = size
        work = rgb.shape[:2]
        lab = rgb2lab(rgb).astype(np.float32)
        fine = slic(
            rgb,  # slic rescales what it is given, so it must convert to CIELAB itself
            n_segments=self.superpixels,
            compactness=self.compactness,
            convert2lab=True,
            start_label=0,
            channel_axis=-1,
        )
        fine = np.unique(fine, return_inverse=True)[1].reshape(work).astype(np.int64)
        pooling, area = pooling_matrix(fine, dense.shape[-2:], (work[0] / h, work[1] / w), stride)
        embeddings = pooling @ dense.reshape(len(dense), -1).T  # (S, D)
        colour = np.stack([np.bincount(fine.ravel(), lab[..., c].ravel()) for c in range(3)], 1)
        colour = colour / area[:, None] / 100.0
        features = np.concatenate([embeddings, self.colour_weight * colour], 1)
        groups = self._cut_tree(features, fine)  # (S, cuts)

        fine_full = fine[nearest(h, work[0])[:, None], nearest(w, work[1])]  # (h, w)
        masks, rows, seen = [], [], set()
        for column in groups.T:
            members = np.eye(column.max() + 1, dtype=np.float32)[column]  # (S, regions)
            weights = members * area[:, None]
            means = (weights / weights.sum(0)).T @ embeddings  # (regions, D)
            region_map = column[fine_full]  # (h, w)
            for region in range(members.shape[1]):
                key = members[:, region].tobytes()
                if key not in seen:  # the same region at two cuts counts once
                    seen.add(key)
                    masks.append(region_map == region)
                    rows.append(means[region])
        return np.stack(masks), np.stack(rows).astype(np.float32)

    def _cut_tree(self, features: np.ndarray, fine: np.ndarray) -> np.ndarray:
        """(S, F) features -> (S, cuts) region number of each superpixel at each cut."""
        count = len(features)
        wanted = sorted({min(c, count) for c in self.cuts})
        if count == 1:
            return np.zeros((1, 1), np.int64)
        parent = np.arange(2 * count - 1)
        columns, merges = {}, ward_tree(features, adjacency(fine))
        for step in range(count):
            if count - step in wanted:
                columns[count - step] = roots(parent, count)
            if step < len(merges):
                parent[merges[step]] = count + step
        return np.stack([columns[c] for c in wanted], 1)


def roots(parent: np.ndarray, count: int) -> np.ndarray:
    """Group number 0..groups-1 of each leaf of a forest given by parent pointers."""
    root = np.arange(count)
    while True:
        above = parent[root]
        if (above == root).all():
            return np.unique(root, return_inverse=True)[1].astype(np.int64)
        root = above


def adjacency(fine: np.ndarray) -> np.ndarray:
    """(P, 2) pairs of superpixels that share a border (4-neighbourhood), some in both orders."""
    pairs = np.concatenate(
        [
            np.stack([fine[:, :-1].ravel(), fine[:, 1:].ravel()], 1),
            np.stack([fine[:-1].ravel(), fine[1:].ravel()], 1),
        ]
    )
    return np.unique(pairs[pairs[:, 0] != pairs[:, 1]], axis=0)


def pooling_matrix(
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


def nearest(length: int, old: int) -> np.ndarray:
    """Which of ``old`` places each of ``length`` reads, by the arithmetic of torch's "nearest"."""
    places = np.arange(length, dtype=np.float32) * np.float32(old / length)
    return np.minimum(places.astype(np.int64), old - 1)
