"""A small Mask2Former on the embedded tower's stages: class-agnostic masks.

A top-down pixel decoder of context blocks brings the stages at strides 32, 16 and 8 together, the
one at stride 4 draws the outlines, and a masked transformer decoder reads them.
Queries predict masks and whether they are anything at all, never what it is: names come from
embeddings, so that the masks serve any vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scanseg.contracts import ClipTokens, InputError, Proposals
from scanseg.proposals.dense_head import ContextBlock
from scanseg.proposals.masked_attention import MaskedDecoder
from scanseg.proposals.superpixels import SuperpixelProposals
from scanseg.weights import read_sized

LAYERS = (0, 1, 2, 3)
"""The encoder's layers that are read: strides 4, 8, 16, 32."""
MASK_STRIDE = 4
GROUPS = 8


@dataclass(frozen=True)
class QueryPrediction:
    """What one decoder layer says of a batch.

    Attributes:
        mask_logits: (B, Q, rows, columns) at stride 4 of the padded photo, before the sigmoid.
        object_logits: (B, Q, 2), an object or a surface / nothing, before the softmax.
        states: (B, Q, width), normalised.
    """

    mask_logits: Tensor
    object_logits: Tensor
    states: Tensor

    @property
    def objectness(self) -> Tensor:
        """(B, Q) probability that a query shows anything at all."""
        return self.object_logits.softmax(-1)[..., 0]

    def masks(self, size: tuple[int, ...]) -> Tensor:
        """(B, Q, h, w) mask probabilities in the frame of a photo of (h, w)."""
        logits = F.interpolate(
            self.mask_logits, scale_factor=MASK_STRIDE, mode="bilinear", align_corners=False
        )
        return logits[..., : size[0], : size[1]].sigmoid()


class MaskDecoder(nn.Module):
    """Queries -> class-agnostic masks.

    Args:
        queries: Q.
        width: channels of queries and mask features, a multiple of 16.
        layers: of the masked decoder; they read strides 32, 16, 8 in turn.
        heads: attention heads.
        feedforward: hidden width of the layers' feed-forward part.
        dropout: in the pixel decoder, while training.
        vision_widths: channels of the encoder's ``LAYERS``.
    """

    def __init__(
        self,
        *,
        queries: int = 100,
        width: int = 128,
        layers: int = 3,
        heads: int = 4,
        feedforward: int = 512,
        dropout: float = 0.1,
        vision_widths: tuple[int, int, int, int] = (24, 40, 112, 320),
    ) -> None:
        super().__init__()
        self.config: Mapping[str, Any] = {
            "queries": queries,
            "width": width,
            "layers": layers,
            "heads": heads,
            "feedforward": feedforward,
        }
        self.stages = nn.ModuleList(_projection(channels, width) for channels in vision_widths)
        self.coarse = nn.Sequential(
            ContextBlock(width, dropout=dropout), ContextBlock(width, dilation=2, dropout=dropout)
        )
        self.middle = ContextBlock(width, dropout=dropout)
        self.fine = ContextBlock(width, dropout=dropout)
        self.mask_features = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1, groups=width),
            nn.Conv2d(width, width, 1),
            nn.GELU(),
            nn.Conv2d(width, width, 1),
        )
        self.transformer = MaskedDecoder(
            width, queries=queries, layers=layers, heads=heads, feedforward=feedforward
        )
        self.objectness = nn.Linear(width, 2)

    def forward(self, context: ClipTokens) -> list[QueryPrediction]:
        """Predictions of the queries as they are, then after every layer.

        Args:
            context: of the encoder, with tokens of ``LAYERS``.
        """
        scales, features = self.pixels(context)
        found = self.transformer(scales, features)
        return [
            QueryPrediction(logits, self.objectness(states), states)
            for states, logits in zip(found.states, found.mask_logits, strict=True)
        ]

    def pixels(self, context: ClipTokens) -> tuple[list[Tensor], Tensor]:
        """Multi-scale features at strides 32, 16 and 8, and mask features at stride 4."""
        x4, x8, x16, x32 = (
            stage(context.feature_map(layer))
            for stage, layer in zip(self.stages, LAYERS, strict=True)
        )
        x32 = self.coarse(x32)
        x16 = self.middle(x16 + _resized(x32, x16))
        x8 = self.fine(x8 + _resized(x16, x8))
        return [x32, x16, x8], self.mask_features(x4 + _resized(x8, x4))


def _projection(channels: int, width: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(channels, width, 1), nn.GroupNorm(GROUPS, width))


def _resized(values: Tensor, like: Tensor) -> Tensor:
    return F.interpolate(values, like.shape[-2:], mode="bilinear", align_corners=False)


def pooled_embeddings(masks: Tensor, dense: Tensor) -> Tensor:
    """Mean dense embedding under each mask.

    Args:
        masks: (B, Q, rows, columns) weights of at least 0, on the grid of ``dense``.
        dense: (B, D, rows, columns).

    Returns:
        (B, Q, D), unit norm; of an empty mask zero.
    """
    weights = masks / masks.sum((2, 3), keepdim=True).clamp_min(1e-6)
    return F.normalize(torch.einsum("bqyx,bdyx->bqd", weights, dense), dim=-1)


class DecodedProposals(nn.Module):
    """The decoder's masks as a :class:`scanseg.contracts.ProposalGenerator`, beside superpixels.

    The decoder finds things and surfaces; superpixels see to it that every pixel lies in some
    proposal. Both are described by the dense embeddings under their masks.

    Args:
        superpixels: with a dense head.
        decoder: trained.
        superpixel_objectness: objectness of every superpixel region, in [0, 1]: how much it counts
            in the map beside the decoder's masks, and where it ranks among them.
    """

    def __init__(
        self,
        superpixels: SuperpixelProposals,
        decoder: MaskDecoder,
        *,
        superpixel_objectness: float = 0.3,
    ) -> None:
        super().__init__()
        if superpixels.head is None:
            raise InputError("the decoder's proposals need superpixels with a dense head")
        self.superpixels, self.decoder = superpixels, decoder
        self.superpixel_objectness = superpixel_objectness

    def dense_map(self, context: ClipTokens) -> tuple[Tensor, int]:
        """As that of the superpixels."""
        return self.superpixels.dense_map(context)

    def __call__(self, pixels: Tensor, context: ClipTokens) -> Proposals:
        """Queries first, then superpixel regions: masks, embeddings, objectness."""
        dense, stride = self.dense_map(context)
        regions = self.superpixels.regions(pixels, dense, stride)
        assert regions.embeddings is not None
        found = self.decoder(context)[-1]
        coarse = F.avg_pool2d(found.mask_logits.sigmoid(), stride // MASK_STRIDE)  # (B, Q, y, x)
        masks, objectness = found.masks(pixels.shape[-2:]), found.objectness
        others = objectness.new_full(regions.masks.shape[:2], self.superpixel_objectness)
        return Proposals(
            masks=torch.cat([masks, regions.masks], 1),
            embeddings=torch.cat([pooled_embeddings(coarse, dense), regions.embeddings], 1),
            objectness=torch.cat([objectness, others], 1),
            dense=dense,
            dense_stride=stride,
        )


def load_mask_decoder(path: Path) -> MaskDecoder:
    """Read a trained decoder.

    Args:
        path: a file that ``scanseg.training.embedded_masks`` wrote.

    Raises:
        InputError: the file is missing or is not such a file.
    """
    return read_sized(path, MaskDecoder, "trained mask decoder", "make train-masks")
