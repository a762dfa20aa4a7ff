"""Cells that show the same kind of thing speak together.

A network on the frozen tower's stages gives every cell of a photo a point g in a small space in
which squared distances tell whether two cells show the same kind of thing. It knows no words: pairs
of cells of the training photos taught it "same" or "different", which takes far fewer photos than
names do (affinities: Ahn and Kwak, 2018, arXiv:1803.10464). A cell's embedding F_i then becomes a
mean over the whole photo, as in non-local means (Buades et al., 2005; Wang et al., 2018,
arXiv:1711.07971):

    a_ij = softmax_j(-sharpness |g_i - g_j|^2)
    F_i' = normalise(share * sum_j a_ij F_j + (1 - share) * F_i)
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scanseg.contracts import ClipTokens
from scanseg.proposals.dense_head import CONSE_GAIN, ContextBlock
from scanseg.weights import read_sized, shipped

LAYERS = (0, 1, 2, 3)
"""The encoder's layers that are read: strides 4, 8, 16, 32."""
KEY_CELLS = 2
"""A key is the mean of so many cells squared: a fourth of the work, for the same maps."""


class Affinity(nn.Module):
    """Where each cell lies, by the kind of thing that it shows; see the module's formulas.

    Args:
        vision_widths: channels of the encoder's ``LAYERS``.
        joint_width: D of the encoder's dense map.
        width: of the context blocks.
        features: channels of g.
        sharpness: factor of the squared distance.
        share: of the mean over the photo in the result, in [0, 1].

    The buffers ``mean`` and ``std`` (channels of all stages) standardise the features; they are
    part of the weights.
    """

    def __init__(
        self,
        vision_widths: tuple[int, int, int, int] = (24, 40, 112, 320),
        joint_width: int = 384,
        *,
        width: int = 128,
        features: int = 32,
        sharpness: float = 2.0,
        share: float = 0.5,
    ) -> None:
        super().__init__()
        outline, fine, middle, coarse = vision_widths
        self.config: Mapping[str, Any] = {"width": width, "features": features}
        self.widths, self.sharpness, self.share = vision_widths, sharpness, share
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.zeros(sum(vision_widths)))
        self.register_buffer("std", torch.ones(sum(vision_widths)))
        self.outline = nn.Linear(4 * outline, width)
        self.fine = nn.Linear(fine, width)
        self.middle = nn.Linear(middle, width)
        self.coarse = nn.Linear(coarse + joint_width, width)
        self.coarse_context = nn.Sequential(ContextBlock(width), ContextBlock(width, dilation=2))
        self.middle_context = ContextBlock(width)
        self.fine_context = nn.Sequential(ContextBlock(width), ContextBlock(width))
        self.norm = nn.LayerNorm(width)
        self.out = nn.Linear(width, features)

    def forward(self, context: ClipTokens, dense: Tensor) -> Tensor:
        """Embeddings of cells, each with those of its kind.

        Args:
            context: of the encoder, with tokens of ``LAYERS``.
            dense: (B, D, rows, columns) at stride 8, unit norm.

        Returns:
            the same shape, unit norm.
        """
        return gathered(dense, self.places(context), self.sharpness, self.share)

    def places(self, context: ClipTokens) -> Tensor:
        """g, (B, features, rows, columns) at stride 8."""
        assert context.dense is not None
        x4, x8, x16, x32 = self._standardised(context)  # (B, rows, columns, V) each
        outline = F.pixel_unshuffle(x4.movedim(-1, 1), 2).movedim(1, -1)  # stride 8
        conse = CONSE_GAIN * context.dense.movedim(1, -1)
        x = self.coarse_context(self.coarse(torch.cat([x32, conse], -1)).movedim(-1, 1))
        x = self.middle_context(_resized(x, x16) + self.middle(x16).movedim(-1, 1))
        fine = self.fine(x8) + self.outline(outline)
        x = self.fine_context(_resized(x, x8) + fine.movedim(-1, 1))
        return self.out(self.norm(x.movedim(1, -1))).movedim(-1, 1)

    def _standardised(self, context: ClipTokens) -> list[Tensor]:
        found, start = [], 0
        for layer, width in zip(LAYERS, self.widths, strict=True):
            part = slice(start, start + width)
            features = context.feature_map(layer).movedim(1, -1)
            found.append((features - self.mean[part]) / self.std[part])
            start += width
        return found


def _resized(values: Tensor, like: Tensor) -> Tensor:
    """(B, C, ...) to the grid of (B, rows, columns, V)."""
    return F.interpolate(values, like.shape[1:3], mode="bilinear", align_corners=False)


def gathered(dense: Tensor, places: Tensor, sharpness: float, share: float) -> Tensor:
    """The mean of a map's embeddings over the cells of the same kind (formulas of the module).

    Worked out as attention, for -|g_i - g_j|^2 = 2 g_i g_j - |g_j|^2 and a term that is the same
    for all j. The j are blocks of ``KEY_CELLS`` squared cells.

    Args:
        dense: (B, D, rows, columns), unit norm, rows and columns even.
        places: (B, C, rows, columns).
        sharpness: of the softmax.
        share: of the mean in the result, in [0, 1].

    Returns:
        (B, D, rows, columns), unit norm.
    """
    keys = F.avg_pool2d(places, KEY_CELLS).flatten(2)  # (B, C, blocks)
    values = F.avg_pool2d(dense, KEY_CELLS).flatten(2)  # (B, D, blocks)
    queries = places.flatten(2)  # (B, C, cells)
    norms = keys.square().sum(1, keepdim=True)  # (B, 1, blocks)
    mean = F.scaled_dot_product_attention(
        torch.cat([queries, torch.ones_like(queries[:, :1])], 1).transpose(1, 2)[:, None],
        torch.cat([2 * sharpness * keys, -sharpness * norms], 1).transpose(1, 2)[:, None],
        values.transpose(1, 2)[:, None],
        scale=1.0,
    )  # (B, 1, cells, D)
    mean = mean[:, 0].transpose(1, 2).unflatten(2, dense.shape[-2:])
    return F.normalize(share * mean + (1 - share) * dense, dim=1)


def load_affinity(path: Path | None = None) -> Affinity:
    """Read a trained affinity network.

    Args:
        path: a file that ``scanseg.training.embedded_affinity`` wrote; ``None`` takes the shipped
            one (``model_cards/embedded_head.md``).

    Raises:
        InputError: the file is missing or is not such a file.
    """
    if path is None:
        with shipped("scanseg.proposals", "embedded_affinity.safetensors") as file:
            return load_affinity(file)
    return read_sized(path, Affinity, "trained affinity network", "make train-affinity")
