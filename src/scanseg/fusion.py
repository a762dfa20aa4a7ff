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


@dataclass(frozen=True)
class TermOwners:
    """Which label each term (name or synonym) speaks for.

    Attributes:
        owner: (T,) int64, label of each term.
        labels: K' = caller's labels and background labels together.
    """

    owner: Tensor
    labels: int

    def best(self, logits: Tensor) -> Tensor:
        """(..., T) term logits -> (..., K') label logits: a label is as likely as its best word."""
        if logits.shape[-1] == self.labels:
            return logits
        shape = (*logits.shape[:-1], self.labels)
        index = self.owner.expand_as(logits)
        start = logits.new_full(shape, -torch.inf)
        return start.scatter_reduce(-1, index, logits, "amax")


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

    Arguments as for :func:`in_vocabulary_scores`, which is their softmax.
    """
    unit = F.normalize(embeddings, dim=-1)
    logits = owners.best(scale * unit @ text.T)  # (B, Q, K')
    if void is None:
        return logits
    nothing = scale * unit @ F.normalize(void, dim=-1)  # (B, Q)
    return torch.cat([logits, nothing[..., None]], -1)


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
    keep_scores: bool = False,
    budget: int = 64 << 20,
) -> LabelMap:
    """``map = sum_q scores[q, k] * masks[q]``, brought to the photo's size, arg max (step 13).

    Labels go through in chunks, so that K' x H x W is never held whole unless ``keep_scores``; and
    without it, first only those that lead some proposal. Masks and scores are not negative, so at a
    pixel no other label has more evidence than ``sum_q mask[q] max_(other k) scores[q, k]``. Where
    the winner has more than that everywhere, as it nearly always does, the others need no maps, and
    time hardly grows with the vocabulary; otherwise more labels join.

    Args:
        scores: (Q, K'), not negative.
        masks: (Q, h, w) mask probabilities in [0, 1].
        size: (H, W) of the photo; bilinear, half-pixel centres.
        budget: bytes that one chunk of maps may take; does not change results.
    """
    h, w = masks.shape[1:]
    flat = masks.flatten(1)  # (Q, h*w)
    chunk = max(1, budget // (4 * max(h * w, size[0] * size[1])))

    def full_size(columns: Tensor) -> Tensor:  # (Q, k) scores -> (k, H, W) evidence
        maps = (columns.T @ flat).unflatten(1, (h, w))
        if (h, w) == size:
            return maps
        return F.interpolate(maps[None], size=size, mode="bilinear", align_corners=False)[0]

    total = full_size(scores.sum(1, keepdim=True))[0]
    kept: list[Tensor] = []
    for leaders in (None,) if keep_scores else (1, 4, 16, None):  # of each proposal
        among = _leading(scores, leaders)
        best, winner = total.new_full(size, -torch.inf), among.new_zeros(size)
        for part in among.split(chunk):
            maps = full_size(scores[:, part])  # (k, H, W)
            value, index = maps.max(0)
            better = value > best
            winner = torch.where(better, part[index], winner)
            best = torch.where(better, value, best)
            if keep_scores:
                kept.append(maps)
        if len(among) == scores.shape[1]:
            break
        others = scores.index_fill(1, among, 0.0).amax(1, keepdim=True)  # (Q, 1)
        bound = full_size(others)[0] * (1 + 1e-5)  # rounding
        if not ((bound >= best) & (bound > 0)).any():
            break
    confidence = (best / total.clamp_min(EPSILON)).clamp(0, 1)
    return LabelMap(winner, confidence, torch.cat(kept) if keep_scores else None)


def _leading(scores: Tensor, leaders: int | None) -> Tensor:
    """Labels among the ``leaders`` best of any proposal, ascending; ``None``: all.

    The first label is always there: it is the arg max where there is no evidence at all.
    """
    labels = scores.shape[1]
    if leaders is None or leaders * scores.shape[0] >= labels:
        return torch.arange(labels, device=scores.device)
    best = scores.topk(leaders, dim=1).indices.flatten()
    return torch.cat([best, best.new_zeros(1)]).unique()
