"""The end of the method: two classifiers' opinions of each proposal, one labelled map.

In-vocabulary scores come from the proposal embeddings, out-of-vocabulary scores from the region
classifier; their geometric mean weighs the masks, and the masks add up to a map (sec. 3; released
steps 7 and 11-13).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from scanseg.contracts import Branches, InputError

EPSILON = 1e-8
ROUNDING = 1 + 1e-5
"""Bounds on sums are raised by this factor: sums in another order differ in the last digits."""


@dataclass(frozen=True)
class TermOwners:
    """Which label each term (name or synonym) speaks for.

    Attributes:
        owner: (T,) int64, label of each term.
        labels: K' = caller's labels and background labels together.
    """

    owner: Tensor
    labels: int

    def best(self, logits: Tensor, dim: int = -1) -> Tensor:
        """Term logits -> label logits along ``dim``: a label is as likely as its best word."""
        return logits if logits.shape[dim] == self.labels else self.gathered(logits, dim)

    def gathered(self, logits: Tensor, dim: int = -1) -> Tensor:
        """The same, without a look at the numbers of terms and labels."""
        dim %= logits.ndim
        shape = [*logits.shape]
        shape[dim] = self.labels
        index = self.owner.view(-1, *[1] * (logits.ndim - 1 - dim)).expand_as(logits)
        return logits.new_full(shape, -torch.inf).scatter_reduce(dim, index, logits, "amax")


def in_vocabulary_scores(
    embeddings: Tensor, text: Tensor, owners: TermOwners, void: Tensor | None, scale: float
) -> tuple[Tensor, Tensor]:
    """Classify proposals by their embeddings (released step 7).

    Args:
        embeddings: (B, Q, D), any norm.
        text: (T, D), unit norm.
        void: (D,) embedding of "no object", any norm; ``None`` where the model has none.
        scale: factor of the cosine before the softmax (100 in SCAN).

    Returns:
        p_in (B, Q, K'), softmax over labels and void, void dropped; p_void (B, Q).
    """
    probabilities = in_vocabulary_logits(embeddings, text, owners, void, scale).softmax(-1)
    if void is None:
        return probabilities, probabilities.new_zeros(probabilities.shape[:-1])
    return probabilities[..., :-1], probabilities[..., -1]


def in_vocabulary_logits(
    embeddings: Tensor, text: Tensor, owners: TermOwners, void: Tensor | None, scale: float
) -> Tensor:
    """(B, Q, K' + 1) scaled cosines with labels and void, or (B, Q, K') where void is ``None``.

    Arguments as for :func:`in_vocabulary_scores`, which is their softmax. In float32 at least,
    under any autocast: a cosine times 100 has no digits to spare.
    """
    with torch.autocast(embeddings.device.type, enabled=False):
        unit = F.normalize(_full(embeddings), dim=-1)
        logits = owners.best(scale * unit @ _full(text).T)  # (B, Q, K')
        if void is None:
            return logits
        nothing = scale * unit @ F.normalize(_full(void), dim=-1)  # (B, Q)
        return torch.cat([logits, nothing[..., None]], -1)


def _full(values: Tensor) -> Tensor:
    """Half precision as float32; any other type as it is."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def region_scores(
    features: Tensor, valid: Tensor, text: Tensor, owners: TermOwners, scale: float
) -> Tensor:
    """Classify regions by the region classifier's features (released steps 10-11).

    Args:
        features: (R, D), unit norm, in the row-major order of ``valid``.
        valid: (B, Q) bool, R of them true.
        text: (T, D), unit norm.
        scale: factor of the cosine before the softmax (100 in SCAN).

    Returns:
        p_clip (B, Q, K'): softmax over the labels; ones where no region was valid.
    """
    scores = features.new_ones((*valid.shape, owners.labels))
    scores[valid] = owners.best(scale * features @ text.T).softmax(-1)
    return scores


def fuse(
    p_in: Tensor | None,
    p_void: Tensor | None,
    p_clip: Tensor | None,
    valid: Tensor,
    *,
    weight: float | Tensor,
    branches: Branches,
    log_fusion: bool,
    objectness: Tensor | None = None,
) -> Tensor:
    """The ensemble ``p = p_in^(1-w) * p_clip^w`` (released steps 11-12), (B, Q, K').

    Args:
        p_in: (B, Q, K') or ``None`` when ``branches="clip"``.
        p_void: (B, Q), probability that a proposal is no object; ``None`` counts as 0.
        p_clip: (B, Q, K') or ``None`` when ``branches="embedding"``.
        valid: (B, Q) bool; ``branches="clip"`` leaves the other proposals out (score 0).
        weight: w in [0, 1], one number or one per label (K').
        branches: which classifiers speak; ``weight`` counts only for ``"both"``.
        log_fusion: renormalise over the labels, weigh with the void probability and take a second
            softmax over labels and void (released step 12).
        objectness: (B, Q) factor of each proposal; ``None``: 1.

    Raises:
        InputError: the branches ask for embeddings that the proposals do not have.
    """
    if branches == "embedding":
        if p_in is None:
            raise InputError('these proposals have no embeddings: use branches="clip"')
        scores = p_in
    elif branches == "clip":
        assert p_clip is not None
        scores = p_clip
    else:
        if p_in is None:
            raise InputError('these proposals have no embeddings: use branches="clip"')
        assert p_clip is not None
        scores = p_in ** (1 - weight) * p_clip**weight
    if log_fusion:
        p_void = scores.new_zeros(scores.shape[:-1]) if p_void is None else p_void
        share = scores.clamp_min(torch.finfo(scores.dtype).tiny).log().softmax(-1)
        mixed = torch.cat([share * (1 - p_void)[..., None], p_void[..., None]], -1)
        scores = (mixed + EPSILON).log().softmax(-1)[..., :-1]
    if branches == "clip":
        scores = scores * valid[..., None]
    return scores if objectness is None else scores * objectness[..., None]


def dense_scores(
    embeddings: Tensor,
    region_map: Tensor | None,
    text: Tensor,
    owners: TermOwners,
    void: Tensor | None,
    *,
    embedding_scale: float,
    region_scale: float,
    weight: float | Tensor,
    branches: Branches,
    log_fusion: bool,
) -> Tensor:
    """The same ensemble for every cell of a dense map, (B, K', g_y, g_x).

    Worked out in logarithms, for thousands of labels times thousands of cells take time.

    Args:
        embeddings: (B, D, g_y, g_x), any norm: what speaks for proposals, cell by cell.
        region_map: (B, D, rows, columns), unit norm, coarser, over the same part of the photo: what
            speaks for regions; ``None`` where the encoder has no such map.
        text: as for :func:`in_vocabulary_scores`, and ``owners``, ``void`` and the scales too.
        weight: as for :func:`fuse`, and what follows too.

    Raises:
        InputError: the branches ask for a map that the encoder does not have.
    """
    grid = embeddings.shape[-2:]
    if branches != "embedding" and region_map is None:
        raise InputError('this encoder has no dense map: use branches="embedding"')
    unit = F.normalize(embeddings.flatten(2), dim=1)  # (B, D, N)
    log_p = owners.best(text @ (embedding_scale * unit), 1)  # (B, K', N)
    rivals = log_p.logsumexp(1, keepdim=True)
    p_void = None
    if void is not None:
        nothing = (embedding_scale * F.normalize(void, dim=-1) @ unit)[:, None]  # (B, 1, N)
        rivals = torch.logaddexp(rivals, nothing)
        p_void = (nothing - rivals).exp()
    log_p = log_p - rivals
    if branches != "embedding":
        assert region_map is not None
        coarse = owners.best(region_scale * region_map.movedim(1, -1) @ text.T).softmax(-1)
        fine = F.interpolate(coarse.movedim(-1, 1), grid, mode="bilinear", align_corners=False)
        log_clip = fine.flatten(2).clamp_(min=torch.finfo(fine.dtype).tiny).log_()
        if branches == "clip":
            log_p = log_clip
        else:
            weight = weight[:, None] if isinstance(weight, Tensor) else weight
            log_p = log_p.mul_(1 - weight).add_(log_clip.mul_(weight))
    scores = log_p.softmax(1) if log_fusion else log_p.exp_()
    if log_fusion and p_void is not None:
        scores = scores * (1 - p_void)
    return scores.unflatten(2, grid)


@dataclass(frozen=True)
class DenseEvidence:
    """What the cells of a grid over one photo add to its map.

    Attributes:
        scores: (K', g_y, g_x), not negative, times what a cell counts.
        stride: side of a cell, pixels of the masks.
    """

    scores: Tensor
    stride: int

    def maps(self, scores: Tensor, size: tuple[int, int]) -> Tensor:
        """(k, g_y, g_x) -> (k, h, w): each cell is a bilinear tent around its centre."""
        whole = (scores.shape[1] * self.stride, scores.shape[2] * self.stride)
        full = F.interpolate(scores[None], size=whole, mode="bilinear", align_corners=False)[0]
        return full[:, : size[0], : size[1]]


@dataclass(frozen=True)
class LabelMap:
    """The map of one photo at its own size.

    Attributes:
        labels: (H, W) int64, the winning label among all K' (background included).
        confidence: (H, W), the winner's share of the evidence of all K' labels, in [0, 1].
        scores: (K', H, W) evidence, or ``None``.
    """

    labels: Tensor
    confidence: Tensor
    scores: Tensor | None


def label_map(
    scores: Tensor,
    masks: Tensor,
    size: tuple[int, int],
    *,
    dense: DenseEvidence | None = None,
    keep_scores: bool = False,
    budget: int = 64 << 20,
) -> LabelMap:
    """``map = sum_q scores[q, k] * masks[q]``, brought to the photo's size, arg max (step 13).

    Cells of a dense map count as proposals more, whose masks are bilinear tents.

    Labels go through in chunks, so that K' x H x W is never held whole unless ``keep_scores``; and
    without it, first only those that lead some proposal. Masks and scores are not negative, so at a
    pixel no other label has more evidence than ``sum_q mask[q] max_(other k) scores[q, k]``. Where
    the winner has more than that, as it nearly always does, the others need no maps, and time
    hardly grows with the vocabulary; elsewhere those follow that could win (``_contenders``).

    Args:
        scores: (Q, K'), not negative.
        masks: (Q, h, w) mask probabilities in [0, 1].
        size: (H, W) of the photo; bilinear, half-pixel centres.
        dense: the cells' scores, or ``None``.
        keep_scores: return the evidence of every label.
        budget: bytes that one chunk of maps may take; does not change results.
    """
    h, w = masks.shape[1:]
    flat = masks.flatten(1)  # (Q, h*w)
    chunk = max(1, budget // (4 * max(h * w, size[0] * size[1])))

    def full_size(columns: Tensor, cells: Tensor | None) -> Tensor:
        """(Q, k) scores of masks, (k, g_y, g_x) of cells -> (k, H, W) evidence."""
        maps = (columns.T @ flat).unflatten(1, (h, w))
        if dense is not None and cells is not None:
            maps += dense.maps(cells, (h, w))
        if (h, w) == size:
            return maps
        return F.interpolate(maps[None], size=size, mode="bilinear", align_corners=False)[0]

    cells = None if dense is None else dense.scores
    all_cells = None if cells is None else cells.sum(0, keepdim=True)
    total = full_size(scores.sum(1, keepdim=True), all_cells)[0]
    best, winner = total.new_full(size, -torch.inf), masks.new_zeros(size, dtype=torch.int64)
    kept: list[Tensor] = []

    def compete(among: Tensor) -> None:
        nonlocal best, winner
        for part in among.split(chunk) if len(among) else ():
            maps = full_size(scores[:, part], None if cells is None else cells[part])  # (k, H, W)
            value, index = maps.max(0)
            label = part[index]
            better = (value > best) | ((value == best) & (label < winner))
            winner = torch.where(better, label, winner)
            best = torch.where(better, value, best)
            if keep_scores:
                kept.append(maps)

    leading = _leading(scores, cells)
    if keep_scores or 2 * len(leading) >= scores.shape[1]:
        leading = torch.arange(scores.shape[1], device=scores.device)
    compete(leading)
    if len(leading) < scores.shape[1]:
        rest = scores.new_ones(scores.shape[1]).index_fill(0, leading, 0.0).nonzero()[:, 0]
        others = scores[:, rest].amax(1, keepdim=True)  # (Q, 1)
        other_cells = None
        if cells is not None:
            parts = [cells[part].amax(0, keepdim=True) for part in rest.split(512)]
            other_cells = torch.cat(parts).amax(0, keepdim=True)
        bound = full_size(others, other_cells)[0] * ROUNDING
        open_ = (bound >= best) & (bound > 0)
        if open_.any():
            floor = best.masked_fill(~open_, torch.inf)
            compete(_contenders(scores, masks, dense, rest, floor))
    confidence = (best / total.clamp_min(EPSILON)).clamp(0, 1)
    return LabelMap(winner, confidence, torch.cat(kept) if keep_scores else None)


def _leading(scores: Tensor, cells: Tensor | None) -> Tensor:
    """Labels with the highest score of some proposal or cell, ascending.

    The first label is always there: it is the arg max where there is no evidence at all.
    """
    best = [scores.argmax(1), scores.new_zeros(1, dtype=torch.int64)]
    if cells is not None:
        best.append(cells.argmax(0).flatten())
    return torch.cat(best).unique()


def _contenders(
    scores: Tensor, masks: Tensor, dense: DenseEvidence | None, rest: Tensor, floor: Tensor
) -> Tensor:
    """Those labels among ``rest``, (k,) ascending, that could reach ``floor`` at some pixel.

    The photo is cut into blocks. Within one, a label has at most its scores times the masks' maxima
    there, and the maximum of its cells in and around the block.

    Args:
        floor: (H, W), what there is to beat; infinite where nothing needs to be looked at.
    """
    side = 16 if dense is None else dense.stride
    h, w = masks.shape[1:]
    rows, columns = -(-h // side), -(-w // side)
    wanted = _block_minima(floor, (h, w), side, (rows, columns)).flatten()  # (blocks,)
    blocks = wanted.isfinite().nonzero()[:, 0]
    wanted = wanted[blocks] / ROUNDING
    ceilings = torch.cat([_maxima(masks, p, side, columns) for p in blocks.split(256)], 1)  # (Q, u)
    if dense is not None:
        around = _neighbourhoods(blocks, columns, dense.scores.shape[1:])  # (9, u)
    found = []
    for part in rest.split(256):
        most = scores[:, part].T @ ceilings  # (k, u)
        if dense is not None:
            most += dense.scores[part].flatten(1)[:, around].amax(1)
        found.append(part[((most >= wanted) & (most > 0)).any(1)])
    return torch.cat(found)


def _block_minima(
    values: Tensor, size: tuple[int, int], side: int, blocks: tuple[int, int]
) -> Tensor:
    """(H, W) -> minimum of each block of ``side`` pixels of a map of ``size``; infinite if none."""
    for axis in (0, 1):
        length, old = values.shape[axis], size[axis]
        place = ((torch.arange(length, device=values.device) + 0.5) * (old / length)).long()
        block = place.clamp_max(old - 1) // side
        shape = list(values.shape)
        shape[axis] = blocks[axis]
        index = (block[:, None] if axis == 0 else block).expand_as(values)
        values = values.new_full(shape, torch.inf).scatter_reduce(axis, index, values, "amin")
    return values


def _maxima(masks: Tensor, blocks: Tensor, side: int, columns: int) -> Tensor:
    """(Q, h, w) masks, (u,) blocks -> (Q, u) maxima over the blocks and one pixel around them.

    A pixel of the photo lies between those pixels of the masks that touch the one it falls in.
    """
    h, w = masks.shape[1:]
    inside = torch.arange(-1, side + 1, device=masks.device)
    y = (blocks // columns * side)[:, None] + inside  # (u, side + 2)
    x = (blocks % columns * side)[:, None] + inside
    around = masks[:, y.clamp(0, h - 1)[:, :, None], x.clamp(0, w - 1)[:, None]]
    return around.flatten(2).amax(2)


def _neighbourhoods(blocks: Tensor, columns: int, grid: torch.Size) -> Tensor:
    """(u,) blocks -> (9, u) cells that reach into them: their own and those around it.

    Blocks and cells are numbered row by row; the grid of cells may have more columns, and rows.
    """
    steps = torch.tensor([-1, 0, 1], device=blocks.device)[:, None]
    y = (blocks // columns + steps).clamp(0, grid[0] - 1)  # (3, u)
    x = (blocks % columns + steps).clamp(0, grid[1] - 1)
    return (y[:, None] * grid[1] + x[None]).flatten(0, 1)
