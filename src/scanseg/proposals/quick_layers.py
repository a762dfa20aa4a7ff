"""Layers of transformers' Mask2Former and Swin, quicker on a CPU without gradients.

Each class is a subclass with the same parameters and one overridden ``forward``, which computes the
same sums in another order and falls back to transformers' own wherever gradients, another device,
compilation or export ask for it. ``take_over`` puts them in place.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.models.mask2former.modeling_mask2former import (
    Mask2FormerPixelDecoderEncoderMultiscaleDeformableAttention as StockDeformableAttention,
)
from transformers.models.swin.modeling_swin import (
    SwinLayer,
    window_partition,
    window_reverse,
)

from scanseg.cpu_products import linear, plain_inference, prefers_onednn


def take_over(model: nn.Module) -> None:
    """Exchange the layers of a ``Mask2FormerModel``, in place; names and parameters stay."""
    for module in model.modules():
        if type(module) is StockDeformableAttention:
            module.__class__ = DeformableAttention
        elif type(module) is SwinLayer:
            module.__class__ = WindowLayer
        elif type(module) is nn.Linear and prefers_onednn():
            module.__class__ = OneDnnLinear


def _quick(x: Tensor) -> bool:
    """Whether the quick path may run for this input."""
    return x.dtype == torch.float32 and plain_inference(x)


class WindowLayer(SwinLayer):
    """A Swin block that projects photos and not their padding.

    Maps are padded to whole windows after the norm, with zeros, so the query, key and value of a
    padded token are the biases of their projections. At 640 x 864 pixels padding is a third of the
    tokens of stage 3 and more than half of stage 4.
    """

    def forward(
        self,
        hidden_states: Tensor,
        input_dimensions: tuple[int, int],
        always_partition: bool = False,
        **kwargs: Any,
    ) -> Any:
        """As transformers' layer; the quick path returns no attention weights."""
        if self.training or not always_partition or not _quick(hidden_states):
            return super().forward(hidden_states, input_dimensions, always_partition, **kwargs)
        height, width = input_dimensions
        batch, _, channels = hidden_states.shape
        attention, size = self.attention, self.window_size
        rows, columns = height + -height % size, width + -width % size
        normed = self.layernorm_before(hidden_states)  # (B, N, C)

        def windows(projection: nn.Linear) -> Tensor:
            tokens = projection(normed).view(batch, height, width, channels)
            if (rows, columns) != (height, width):
                whole = tokens.new_zeros(batch, rows, columns, channels)
                if projection.bias is not None:
                    whole += projection.bias
                whole[:, :height, :width] = tokens
                tokens = whole
            parts = window_partition(self.cyclic_shift(tokens), size)  # (windows, size, size, C)
            return parts.flatten(1, 2).unflatten(-1, (-1, attention.head_dim)).transpose(1, 2)

        bias = attention.relative_position_bias()  # (1, heads, size^2, size^2)
        apart = self.get_attn_mask(rows, columns, dtype=normed.dtype, device=normed.device)
        if apart is not None:
            bias = (bias + apart[:, None]).repeat(batch, 1, 1, 1)
        attended = F.scaled_dot_product_attention(
            windows(attention.q_proj),
            windows(attention.k_proj),
            windows(attention.v_proj),
            attn_mask=bias,
            scale=attention.scaling,
        )  # (windows, heads, size^2, d)
        attended = attended.transpose(1, 2).reshape(-1, size, size, channels)
        attended = window_reverse(attended, size, rows, columns)
        attended = self.cyclic_shift(attended, reverse=True)[:, :height, :width]
        attended = attended.reshape(batch, height * width, channels)
        hidden_states = hidden_states + attention.o_proj(attended)
        return hidden_states + self.mlp(self.layernorm_after(hidden_states)), None


class DeformableAttention(StockDeformableAttention):
    """transformers' multi-scale deformable attention with a quick path for inference on a CPU.

    Bilinear sampling and the weighted sum over levels and points are one sum of 4 * levels * points
    rows of the value table per head and query: an embedding bag. Nothing is gathered into memory.
    Training, other devices and export take transformers' own path.
    """

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        encoder_hidden_states: Any = None,
        encoder_attention_mask: Any = None,
        position_embeddings: Tensor | None = None,
        reference_points: Any = None,
        spatial_shapes_list: Any = None,
        level_start_index: Any = None,
        output_attentions: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """As transformers' layer; the quick path returns no attention weights.

        ``attention_mask`` marks padding inside a batch. Proposals never have any (photos of one
        batch have one size), and transformers passes a mask of zeros.
        """
        if output_attentions or not _quick(hidden_states):
            return super().forward(
                hidden_states,
                attention_mask,
                encoder_hidden_states,
                encoder_attention_mask,
                position_embeddings,
                reference_points,
                spatial_shapes_list,
                level_start_index,
                output_attentions,
            )
        queries = (
            hidden_states if position_embeddings is None else hidden_states + position_embeddings
        )
        batch, count, _ = queries.shape
        heads, levels, points = self.n_heads, self.n_levels, self.n_points
        value = self.value_proj(encoder_hidden_states).view(batch, -1, heads, self.d_model // heads)
        offsets = self.sampling_offsets(queries).view(batch, count, heads, levels, points, 2)
        weights = self.attention_weights(queries).view(batch, count, heads, levels * points)
        weights = weights.softmax(-1).view(batch, count, heads, levels, points)
        output = torch.cat(
            [
                sample_levels(
                    value[b], spatial_shapes_list, reference_points[b], offsets[b], weights[b]
                )
                for b in range(batch)
            ]
        )
        return self.output_proj(output.view(batch, count, -1)), None


def sample_levels(
    value: Tensor,
    shapes: list[tuple[int, int]],
    reference: Tensor,
    offsets: Tensor,
    weights: Tensor,
    *,
    chunk: int = 1024,
) -> Tensor:
    """Weighted sums of bilinear samples from several maps (deformable attention of one photo).

    A sample at pixel (x, y) of a level, in coordinates where pixel centres are integers, is the sum
    over its four neighbours of (1 - |dx|)(1 - |dy|) times their value; neighbours outside the map
    count as zero (``grid_sample`` with ``align_corners=False`` and zero padding).

    Args:
        value: (N, heads, d), the maps of all levels one after the other, row by row.
        shapes: (rows, columns) of each level.
        reference: (N', levels, 2), x and y of the query in each level, in [0, 1].
        offsets: (N', heads, levels, points, 2), from there, in pixels of the level.
        weights: (N', heads, levels, points).
        chunk: queries at once; keeps the index arrays in the cache of the CPU.

    Returns:
        (N', heads * d).
    """
    heads, depth = value.shape[1:]
    table = value.reshape(-1, depth)  # row (position * heads + head)
    index_type = torch.int32 if len(table) < 2**31 else torch.int64
    size = torch.tensor([(columns, rows) for rows, columns in shapes], dtype=value.dtype)
    areas = torch.tensor([rows * columns for rows, columns in shapes], dtype=index_type)
    start = (areas.cumsum(0, dtype=index_type) - areas)[:, None]  # (levels, 1)
    stride = size[:, :1].to(index_type)
    head = torch.arange(heads, dtype=index_type)[:, None, None]
    last = size[:, None, :] - 1  # (levels, 1, 2), last valid x and y
    outputs = []
    for begin in range(0, len(offsets), chunk):
        part = slice(begin, begin + chunk)
        centre = (reference[part] * size - 0.5)[:, None, :, None, :]
        at = centre + offsets[part]  # (n, heads, levels, points, 2)
        low = at.floor()
        high = low + 1
        high_share = at - low
        low_share = (1 - high_share) * ((low >= 0) & (low <= last))
        high_share *= (high >= 0) & (high <= last)
        low = torch.minimum(low.clamp_(min=0), last).to(index_type)
        high = torch.minimum(high.clamp_(min=0), last).to(index_type)
        bag = torch.empty(*at.shape[:-1], 4, dtype=index_type)
        shares = torch.empty(*at.shape[:-1], 4, dtype=value.dtype)
        corner = 0
        for y, y_share in ((low, low_share), (high, high_share)):
            row = (y[..., 1] * stride + start) * heads + head
            y_weight = y_share[..., 1] * weights[part]
            for x, x_share in ((low, low_share), (high, high_share)):
                torch.add(row, x[..., 0], alpha=heads, out=bag[..., corner])
                torch.mul(y_weight, x_share[..., 0], out=shares[..., corner])
                corner += 1
        bag = bag.flatten(2).flatten(0, 1)  # (n * heads, levels * points * 4)
        outputs.append(
            F.embedding_bag(bag, table, per_sample_weights=shares.view_as(bag), mode="sum")
        )
    return torch.cat(outputs).view(-1, heads * depth)


class OneDnnLinear(nn.Linear):
    """``nn.Linear`` that asks oneDNN where the quick path may run (``cpu_products``)."""

    def forward(self, input: Tensor) -> Tensor:
        """(..., in) -> (..., out)."""
        return linear(input, self.weight, self.bias)
