"""The embedded head: a network that turns the tower's features into dense embeddings.

It reads the frozen tower's map at stride 8 and goes on with a *branch* of its own: a copy of the
tower's later blocks, fine-tuned for labelling pixels, while the frozen ones keep serving ConSE. On
top of the branch, context blocks at strides 32, 16 and 8 learn a correction of ConSE, so before
training the head *is* ConSE:

    F = normalise(normalise(e) + MLP(context(s8 + up(context(s16 + up(context(s32, e, global)))))))

with s8 the frozen stage, s16 and s32 the branch's stages (all standardised), e the dense ConSE
embedding and global that of the whole photo.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scanseg.contracts import ClipTokens, InputError
from scanseg.efficientnet import blocks
from scanseg.weights import read_trained, shipped, skip_initialisation

CONSE_GAIN = 10.0
"""Unit-norm embeddings have entries near 1/sqrt(D); this brings them to the features' scale."""


@dataclass(frozen=True)
class StageMaps:
    """What the head reads of the frozen tower, channels first.

    Attributes:
        s8: the stage at stride 8, (B, V, rows, columns).
        conse: dense ConSE embedding at stride 32, (B, D, rows, columns), unit norm.
        pooled: ConSE embedding of the whole photo, (B, D), unit norm.
    """

    s8: Tensor
    conse: Tensor
    pooled: Tensor

    @classmethod
    def from_tokens(cls, context: ClipTokens) -> StageMaps:
        """From ``EmbeddedEncoder.encode_image(pixels, layers=(1,))``."""
        assert context.dense is not None
        return cls(context.feature_map(1), context.dense, context.pooled)


def tower_branch() -> nn.Sequential:
    """Blocks 3 to 6 of EfficientNet-Lite0 (strides 8 to 32), not yet loaded."""
    return nn.Sequential(*blocks()[3:])


MIDDLE_BLOCKS = 2
"""Blocks of the branch that lead to its map at stride 16."""


class ContextBlock(nn.Module):
    """x + g MLP(LayerNorm(depthwise(x))): mixes neighbours, then channels."""

    def __init__(
        self, width: int, *, kernel: int = 5, dilation: int = 1, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.neighbours = nn.Conv2d(
            width,
            width,
            kernel,
            padding=kernel // 2 * dilation,
            dilation=dilation,
            groups=width,
        )
        self.norm = nn.LayerNorm(width)
        self.mlp = nn.Sequential(
            nn.Linear(width, 2 * width), nn.GELU(), nn.Dropout(dropout), nn.Linear(2 * width, width)
        )
        self.gain = nn.Parameter(torch.full((width,), 0.1))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, rows, columns), same shape."""
        y = self.neighbours(x).movedim(1, -1)  # (B, rows, columns, C)
        return x + (self.gain * self.mlp(self.norm(y))).movedim(-1, 1)


class DenseHead(nn.Module):
    """Dense embeddings in the joint space at stride 8.

    Args:
        vision_widths: channels of the stages at stride 8, 16 and 32.
        joint_width: D.
        hidden: width of the context blocks.
        dropout: inside the last MLP, while training.

    The buffers ``mean`` and ``std`` (channels of all three stages) standardise the features; they
    are part of the weights.
    """

    def __init__(
        self,
        vision_widths: tuple[int, int, int] = (40, 112, 320),
        joint_width: int = 384,
        *,
        hidden: int = 256,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        fine, middle, coarse = vision_widths
        self.widths = vision_widths
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.zeros(sum(vision_widths)))
        self.register_buffer("std", torch.ones(sum(vision_widths)))
        self.branch = tower_branch()
        self.coarse = nn.Linear(coarse + 2 * joint_width, hidden)
        self.coarse_context = nn.Sequential(
            ContextBlock(hidden),
            ContextBlock(hidden, dilation=2),
        )
        self.middle = nn.Linear(middle, hidden)
        self.middle_context = ContextBlock(hidden)
        self.fine = nn.Linear(fine, hidden)
        self.fine_context = ContextBlock(hidden)
        correction = nn.Linear(2 * hidden, joint_width)
        nn.init.normal_(correction.weight, std=1e-3)
        nn.init.zeros_(correction.bias)
        self.mlp = nn.Sequential(
            nn.LayerNorm(hidden),
            nn.Linear(hidden, 2 * hidden),
            nn.GELU(),
            nn.Dropout(dropout),
            correction,
        )

    def train(self, mode: bool = True) -> DenseHead:
        """As usual, but the branch's batch norms keep the statistics of the tower."""
        super().train(mode)
        for module in self.branch.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()
        return self

    def forward(self, context: ClipTokens) -> Tensor:
        """Dense embeddings of whole photos, (B, D, rows, columns) at stride 8, unit norm over D."""
        maps = StageMaps.from_tokens(context)
        return self.embed(self.hidden(maps), maps.conse)

    def stages(self, s8: Tensor) -> tuple[Tensor, Tensor]:
        """The branch's maps at strides 16 and 32."""
        s16 = self.branch[:MIDDLE_BLOCKS](s8)
        return s16, self.branch[MIDDLE_BLOCKS:](s16)

    def hidden(self, maps: StageMaps) -> Tensor:
        """What the embeddings are made of: (B, C, rows, columns) at stride 8."""
        s16, s32 = self.stages(maps.s8)
        coarse = self._standardised(s32.movedim(1, -1), 2)  # (B, rows, columns, V)
        conse = CONSE_GAIN * maps.conse.movedim(1, -1)
        whole = CONSE_GAIN * maps.pooled[:, None, None].expand_as(conse)
        x = self.coarse(torch.cat([coarse, conse, whole], -1)).movedim(-1, 1)
        x = _resized(self.coarse_context(x), s16)
        middle = self._standardised(s16.movedim(1, -1), 1)
        x = self.middle_context(x + self.middle(middle).movedim(-1, 1))
        fine = self._standardised(maps.s8.movedim(1, -1), 0)
        return self.fine_context(_resized(x, maps.s8) + self.fine(fine).movedim(-1, 1))

    def embed(self, hidden: Tensor, conse: Tensor) -> Tensor:
        """Hidden map (B, C, rows, columns) and dense ConSE -> (B, D, rows, columns), unit norm."""
        correction = self.mlp(hidden.movedim(1, -1)).movedim(-1, 1)
        return F.normalize(F.normalize(_resized(conse, hidden), dim=1) + correction, dim=1)

    def _standardised(self, features: Tensor, stage: int) -> Tensor:
        start = sum(self.widths[:stage])
        part = slice(start, start + self.widths[stage])
        return (features - self.mean[part]) / self.std[part]


def _resized(values: Tensor, like: Tensor) -> Tensor:
    return F.interpolate(values, like.shape[-2:], mode="bilinear", align_corners=False)


class HeadEnsemble(nn.Module):
    """Several heads as one: the mean of their embeddings, at unit norm again.

    With one cosine scale s the mean of embeddings is the geometric mean of the heads' softmaxes,
    ``prod_i exp(s t.F_i)^(1/n) = exp(s t.mean_i(F_i))``; bringing it back to unit norm sharpens it
    where they differ. Separately trained heads err differently, above all when photos are few.

    Args:
        heads: of one tower and one text space.
    """

    def __init__(self, heads: Sequence[DenseHead]) -> None:
        super().__init__()
        self.heads = nn.ModuleList(heads)

    def forward(self, context: ClipTokens) -> Tensor:
        """Dense embeddings of whole photos, (B, D, rows, columns) at stride 8, unit norm over D."""
        first, *others = self.heads
        total = first(context)
        for head in others:
            total = total + head(context)
        return F.normalize(total, dim=1)


@dataclass(frozen=True)
class TrainedHead:
    """A head as it was saved, with what it was taught.

    Attributes:
        head: in evaluation mode, float32.
        scale: cosine scale at the end of training (softmax of ``scale * cosine``).
        names: the words that it was taught, sorted.
        taught: their text embeddings, (words, D), unit norm.
        notes: recipe, settings and photo counts of the training; of an ensemble, ``heads`` is a
            list of these.
    """

    head: DenseHead | HeadEnsemble
    scale: float
    names: tuple[str, ...]
    taught: Tensor
    notes: Mapping[str, Any]

    def nearness(self, text: Tensor) -> Tensor:
        """How close words are to what the head was taught: (K, D) unit norm -> (K,) in [-1, 1].

        The largest cosine with a taught word; 1 for a taught word itself.
        """
        return (text @ self.taught.T).amax(1)


def blank_head(together: int) -> DenseHead | HeadEnsemble:
    """A head whose weights are yet to be loaded, or so many heads together (0: one alone)."""
    with skip_initialisation():
        if together:
            return HeadEnsemble([DenseHead() for _ in range(together)])
        return DenseHead()


def load_dense_head(path: Path | None = None) -> TrainedHead:
    """Read a trained head, or several in one file.

    Args:
        path: a file that ``scanseg.training.embedded_head`` or ``head_ensemble`` wrote; ``None``
            takes the shipped one (``model_cards/embedded_head.md``).

    Raises:
        InputError: the file is missing or is not such a file.
    """
    if path is None:
        with shipped("scanseg.proposals", "embedded_head.safetensors") as file:
            return load_dense_head(file)
    tensors, metadata = read_trained(path, "trained head", "make train-embedded")
    if "taught" not in tensors or "scale" not in metadata:
        raise InputError(f"{path} is not a trained head: pass a file that scanseg.training wrote")
    taught = F.normalize(tensors.pop("taught"), dim=-1)
    notes = json.loads(metadata["notes"])
    head = blank_head(len(notes.get("heads", ())))
    state = {name.removeprefix("head."): value for name, value in tensors.items()}
    head.load_state_dict(state, assign=True)
    return TrainedHead(
        head=head.eval().requires_grad_(False),
        scale=float(metadata["scale"]),
        names=tuple(json.loads(metadata["names"])),
        taught=taught,
        notes=notes,
    )
