"""The embedded head: a small MLP that turns the tower's features into dense proposal embeddings.

It starts from ConSE and adds a learned correction, so before training it *is* ConSE:

    F(y, x) = normalise(normalise(e) + MLP(z)),   z = [s8, s16, s32, 10 e, 10 global]

with the three stages' features standardised and brought to stride 16, e the dense ConSE embedding
and global the ConSE embedding of the whole photo.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scanseg.contracts import ClipTokens

CONSE_GAIN = 10.0
"""Unit-norm embeddings have entries near 1/sqrt(D); this brings them to the features' scale."""


class DenseHead(nn.Module):
    """Dense embeddings in the joint space at stride 16.

    Args:
        vision_widths: channels of the stages at stride 8, 16 and 32.
        joint_width: D.
        hidden: width of the two hidden layers.
        dropout: after each hidden layer, while training.

    The buffers ``mean`` and ``std`` (channels of all three stages) standardise the features; they
    are part of the weights.
    """

    def __init__(
        self,
        vision_widths: tuple[int, int, int] = (40, 112, 320),
        joint_width: int = 384,
        *,
        hidden: int = 512,
        dropout: float = 0.2,
    ) -> None:
        super().__init__()
        features = sum(vision_widths)
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("std", torch.ones(features))
        self.mlp = nn.Sequential(
            nn.Linear(features + 2 * joint_width, hidden),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Linear(hidden, hidden),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Linear(hidden, joint_width),
        )
        nn.init.normal_(self.mlp[-1].weight, std=1e-3)
        nn.init.zeros_(self.mlp[-1].bias)

    def inputs(self, context: ClipTokens) -> Tensor:
        """z at stride 16, (B, g_y, g_x, features + 2 D)."""
        grid = context.grids[2]
        maps = [
            F.adaptive_avg_pool2d(_as_map(context, 1), grid),  # stride 8 -> 16: area mean
            _as_map(context, 2),
            F.interpolate(_as_map(context, 3), grid, mode="bilinear", align_corners=False),
        ]
        features = torch.cat(maps, 1).movedim(1, -1)  # (B, g_y, g_x, features)
        assert context.dense is not None
        conse = F.interpolate(context.dense, grid, mode="bilinear", align_corners=False)
        conse = F.normalize(conse, dim=1).movedim(1, -1)  # (B, g_y, g_x, D)
        whole = context.pooled[:, None, None].expand_as(conse)
        return torch.cat(
            [(features - self.mean) / self.std, CONSE_GAIN * conse, CONSE_GAIN * whole], -1
        )

    def forward(self, z: Tensor) -> Tensor:
        """(..., features + 2 D) -> (..., D), unit norm."""
        width = self.mlp[-1].out_features
        conse = z[..., -2 * width : -width] / CONSE_GAIN
        return F.normalize(F.normalize(conse, dim=-1) + self.mlp(z), dim=-1)


def _as_map(context: ClipTokens, layer: int) -> Tensor:
    rows, columns = context.grids[layer]
    return context.patches[layer].transpose(1, 2).unflatten(2, (rows, columns))  # (B, V, g_y, g_x)
