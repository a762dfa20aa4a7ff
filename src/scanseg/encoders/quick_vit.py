"""open_clip's vision transformer without gradients: the same parameters, fewer steps.

The blocks are run part by part with torch's own functions, which leaves out what nobody reads:

* after the last block only [CLS] is pooled, so its query, its output and its feed-forward part are
  computed for that one token;
* the residual stream stays in float32 while the matrix products take the type of their weights, so
  a tower in bfloat16 loses little and never meets the layout that torch's attention module runs
  hundreds of times too slowly on some CPUs;
* matrix products take the quicker library, which also applies the GELU between the two of a
  feed-forward part (``cpu_products``).

Anything these functions do not know (gradients, other blocks, attention pooling, compilation) goes
through open_clip's own ``forward``; ``applies`` tells.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from open_clip.transformer import ResidualAttentionBlock
from torch import Tensor, nn

from scanseg.cpu_products import linear


def applies(visual: Any) -> bool:
    """Whether this tower can be run here and now."""
    return (
        not torch.is_grad_enabled()
        and not torch.compiler.is_compiling()
        and all(_plain(block) for block in visual.transformer.resblocks)
    )


def run_blocks(
    visual: Any,
    tokens: Tensor,
    visit: Callable[[Tensor, int], Tensor],
    *,
    every_layer: bool,
) -> Tensor:
    """The blocks and the pooling of ``visual``.

    Args:
        visual: an ``open_clip`` vision transformer for which ``applies`` holds.
        tokens: (B, 1 + N, V) embedded tokens, [CLS] first; float32.
        visit: called with the tokens and the 1-based layer after each block; returns those to go
            on with. Their number may change.
        every_layer: ``visit`` wants whole token sets after the last block too.

    Returns:
        (B, V) or (B, D) pooled, not normalised.
    """
    blocks = visual.transformer.resblocks
    only_cls = (
        not every_layer and visual.attn_pool is None and getattr(visual, "pool_type", "") == "tok"
    )
    for layer, block in enumerate(blocks, start=1):
        last = only_cls and layer == len(blocks)
        tokens = _block(block, tokens, queries=1 if last else None)
        if not last:
            tokens = visit(tokens, layer)
    pooled, _ = visual._pool(tokens)
    return pooled @ visual.proj if visual.proj is not None else pooled


def products_in(visual: Any, dtype: torch.dtype) -> None:
    """Bring the weights of the blocks' matrix products to ``dtype``, in place.

    Norms, embeddings and the final projection keep their type.
    """
    for block in visual.transformer.resblocks:
        attention = block.attn
        held = [attention.out_proj, block.mlp.c_fc, block.mlp.c_proj]
        for parameter in (
            attention.in_proj_weight,
            attention.in_proj_bias,
            *(p for module in held for p in module.parameters()),
        ):
            parameter.data = parameter.data.to(dtype)


def _block(block: Any, x: Tensor, queries: int | None) -> Tensor:
    """One residual block; with ``queries``, only for that many tokens from the first one on."""
    attention = block.attn
    heads, dtype = attention.num_heads, attention.in_proj_weight.dtype
    y = block.ln_1(x).to(dtype)  # (B, T, V)
    weight, bias = attention.in_proj_weight, attention.in_proj_bias
    if queries is None:
        q, k, v = linear(y, weight, bias).chunk(3, dim=-1)
    else:
        V = x.shape[-1]
        q = linear(y[:, :queries], weight[:V], bias[:V])
        k, v = linear(y, weight[V:], bias[V:]).chunk(2, dim=-1)
        x = x[:, :queries]
    q, k, v = (part.unflatten(-1, (heads, -1)).transpose(1, 2) for part in (q, k, v))
    attended = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
    out = attention.out_proj
    x = x + block.ls_1(linear(attended, out.weight, out.bias))
    return x + block.ls_2(_feed_forward(block.mlp, block.ln_2(x).to(dtype)))


def _feed_forward(mlp: Any, x: Tensor) -> Tensor:
    """c_proj(GELU(c_fc(x)))."""
    first, activation, second = mlp.c_fc, mlp.gelu, mlp.c_proj
    exact = type(activation) is nn.GELU and activation.approximate == "none"
    hidden = linear(x, first.weight, first.bias, gelu=exact)
    if not exact:
        hidden = activation(hidden)
    return linear(hidden, second.weight, second.bias)


def _plain(block: Any) -> bool:
    attention = getattr(block, "attn", None)
    return (
        type(block) is ResidualAttentionBlock
        and isinstance(attention, nn.MultiheadAttention)
        and attention.in_proj_weight is not None
        and attention.in_proj_bias is not None
        and attention.bias_k is None
        and not attention.add_zero_attn
        and not (block.training and attention.dropout)
        and not hasattr(block, "ln_1_kv")
    )
