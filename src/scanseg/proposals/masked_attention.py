"""Mask2Former's masked transformer decoder (Cheng et al., 2022, arXiv:2112.01527, sec. 3.2).

The same computation as transformers' ``Mask2FormerTransformerModule``, with the same names of
weights, and compared with it in the tests. It stands here in plain torch because importing that
module takes longer than labelling a photo, and the offline default must start quickly
(``docs/decisions/0084``).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

TEMPERATURE = 10000
LEVELS = 3


@dataclass(frozen=True)
class DecodedQueries:
    """What the decoder says: of the queries as they are, then after every layer.

    Attributes:
        states: normalised states, each (B, Q, width).
        mask_logits: each (B, Q, rows, columns), in the size of the mask features.
    """

    states: list[Tensor]
    mask_logits: list[Tensor]


class MaskedDecoder(nn.Module):
    """Queries that look where their own mask, as predicted one layer before, is over one half.

    Args:
        width: channels of queries, scales and mask features.
        queries: Q.
        layers: they read the scales in turn.
        heads: attention heads.
        feedforward: hidden width of the feed-forward part.
    """

    def __init__(
        self, width: int, *, queries: int, layers: int, heads: int, feedforward: int
    ) -> None:
        super().__init__()
        self.heads = heads
        self.queries_embedder = nn.Embedding(queries, width)
        self.queries_features = nn.Embedding(queries, width)
        self.level_embed = nn.Embedding(LEVELS, width)
        self.decoder = _Decoder(width, layers, heads, feedforward)

    def forward(self, scales: Sequence[Tensor], mask_features: Tensor) -> DecodedQueries:
        """Decode.

        Args:
            scales: three maps, (B, width, rows, columns) each, coarse to fine.
            mask_features: (B, width, rows, columns).
        """
        values, keys = [], []
        for level, scale in enumerate(scales):
            value = scale.flatten(2).transpose(1, 2) + self.level_embed.weight[level]
            values.append(value)  # (B, N, width)
            keys.append(
                value + sine_positions(scale.shape[-2], scale.shape[-1], scale.shape[1]).to(value)
            )
        batch = mask_features.shape[0]
        places = self.queries_embedder.weight  # (Q, width)
        hidden = self.queries_features.weight.expand(batch, -1, -1)
        found = DecodedQueries([], [])
        self._predict(hidden, mask_features, found)
        for index, layer in enumerate(self.decoder.layers):
            level = index % LEVELS
            with torch.no_grad():
                near = F.interpolate(
                    found.mask_logits[-1],
                    scales[level].shape[-2:],
                    mode="bilinear",
                    align_corners=False,
                )
                hide = near.flatten(2).sigmoid() < 0.5  # (B, Q, N)
                hide = hide & ~hide.all(-1, keepdim=True)  # an empty mask looks everywhere
            hidden = layer(hidden, places, keys[level], values[level], hide)
            self._predict(hidden, mask_features, found)
        return found

    def _predict(self, hidden: Tensor, mask_features: Tensor, found: DecodedQueries) -> None:
        states = self.decoder.layernorm(hidden)
        masks = self.decoder.mask_predictor.mask_embedder(states)
        found.states.append(states)
        found.mask_logits.append(torch.einsum("bqc,bchw->bqhw", masks, mask_features))


class _Decoder(nn.Module):
    def __init__(self, width: int, layers: int, heads: int, feedforward: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(_Layer(width, heads, feedforward) for _ in range(layers))
        self.layernorm = nn.LayerNorm(width)
        self.mask_predictor = _MaskPredictor(width)


class _MaskPredictor(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.mask_embedder = nn.Sequential(
            nn.Sequential(nn.Linear(width, width), nn.ReLU()),
            nn.Sequential(nn.Linear(width, width), nn.ReLU()),
            nn.Sequential(nn.Linear(width, width)),
        )


class _Layer(nn.Module):
    """Masked cross-attention, self-attention, feed-forward; norms come after each."""

    def __init__(self, width: int, heads: int, feedforward: int) -> None:
        super().__init__()
        self.heads = heads
        self.cross_attn = nn.MultiheadAttention(width, heads, batch_first=True)
        self.cross_attn_layer_norm = nn.LayerNorm(width)
        self.self_attn = nn.ModuleDict(
            {name: nn.Linear(width, width) for name in ("q_proj", "k_proj", "v_proj", "out_proj")}
        )
        self.self_attn_layer_norm = nn.LayerNorm(width)
        self.fc1 = nn.Linear(width, feedforward)
        self.fc2 = nn.Linear(feedforward, width)
        self.final_layer_norm = nn.LayerNorm(width)

    def forward(
        self, hidden: Tensor, places: Tensor, keys: Tensor, values: Tensor, hide: Tensor
    ) -> Tensor:
        """(B, Q, width) states, (Q, width) places, (B, N, width) pixels, (B, Q, N) bool."""
        cross = self.cross_attn
        weights = cross.in_proj_weight.chunk(3)
        biases = cross.in_proj_bias.chunk(3)
        attended = self._attend(
            F.linear(hidden + places, weights[0], biases[0]),
            F.linear(keys, weights[1], biases[1]),
            F.linear(values, weights[2], biases[2]),
            ~hide[:, None],
        )
        hidden = self.cross_attn_layer_norm(hidden + cross.out_proj(attended))
        own, placed = self.self_attn, hidden + places
        attended = self._attend(
            own["q_proj"](placed), own["k_proj"](placed), own["v_proj"](hidden), None
        )
        hidden = self.self_attn_layer_norm(hidden + own["out_proj"](attended))
        return self.final_layer_norm(hidden + self.fc2(F.relu(self.fc1(hidden))))

    def _attend(self, query: Tensor, key: Tensor, value: Tensor, look: Tensor | None) -> Tensor:
        q, k, v = (x.unflatten(-1, (self.heads, -1)).transpose(1, 2) for x in (query, key, value))
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=look)
        return attended.transpose(1, 2).flatten(2)


def sine_positions(rows: int, columns: int, width: int) -> Tensor:
    """(rows * columns, width): half the channels tell the row, half the column, in sines."""
    half = width // 2
    channel = torch.arange(half)
    wave = TEMPERATURE ** (2 * torch.div(channel, 2, rounding_mode="floor") / half)

    def axis(length: int) -> Tensor:
        place = torch.arange(1, length + 1) / (length + 1e-6) * 2 * math.pi
        angle = place[:, None] / wave  # (length, half)
        return torch.stack([angle[:, 0::2].sin(), angle[:, 1::2].cos()], -1).flatten(1)

    y = axis(rows)[:, None].expand(rows, columns, half)
    x = axis(columns)[None].expand(rows, columns, half)
    return torch.cat([y, x], -1).flatten(0, 1)
