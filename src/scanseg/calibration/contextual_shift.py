"""Contextual shift: hidden background gives way to the whole photo (SCAN sec. 3.2, eq. 5).

Between some shallow blocks of the region classifier, a share of the tokens outside the mask is
replaced by the [CLS] token that the original CLIP formed of the whole, natural photo. That brings
context back and breaks up the artificial shape of the hidden background. Table 6's other sources
are here too, for comparison.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import get_args

import numpy as np
import torch
from torch import Tensor

from scanseg.calibration.regions import normalise, patch_foreground, uncovered
from scanseg.contracts import (
    ClipTokens,
    InputError,
    Regions,
    Semantics,
    ShiftOrder,
    ShiftSource,
)


class ContextualShift:
    """Eq. 5 as a :class:`scanseg.contracts.TokenEdit`.

    Which tokens are replaced is chosen anew at each block and for each region:
    ``int(ratio * background patches)`` of them. The choice depends on the seed, the proposal's
    number and the block, and on nothing else: not on the batch, on other images, on how regions are
    split, or on the device.

    Args:
        context: the original CLIP's tokens of the whole photos; ``Regions.image`` points into it.
        layers: 1-based blocks, the paper's *idx*. Released: tokens are replaced after block i, by
            [CLS] after block i. Paper: in the input of block i, by [CLS] after block i - 1
            (``docs/decisions/0015-shift-position.md``).
        ratio: share alpha of the background patches, in [0, 1]; 0 changes nothing.
        source: what comes in (table 6, ``docs/decisions/0017-shift-sources.md``):
            ``"cls"`` the photo's [CLS]; ``"noise"`` Gaussian noise with the mean and spread, per
            channel, of the region's own tokens; ``"background"`` the photo's own pixels, restored
            in the crop before the classifier sees it (by :meth:`prepare`, once, not per block);
            ``"learnable"`` a trained vector; ``"none"`` nothing.
        order: ``"random"``, or ``"first"`` for the first background patches in row-major order.
        seed: of the random order and of the noise.
        semantics: see ``layers``.
        learnable: (V,) for all layers, or one for each number in ``layers``; for that source only.

    Raises:
        InputError: a value is out of range, or the context lacks a [CLS] that will be needed.
    """

    def __init__(
        self,
        context: ClipTokens,
        *,
        layers: Sequence[int],
        ratio: float,
        source: ShiftSource = "cls",
        order: ShiftOrder = "random",
        seed: int = 0,
        semantics: Semantics = "released",
        learnable: Tensor | Mapping[int, Tensor] | None = None,
    ) -> None:
        if source not in get_args(ShiftSource):
            raise InputError(f"shift source must be one of {get_args(ShiftSource)}, not {source!r}")
        if order not in get_args(ShiftOrder):
            raise InputError(f"shift order must be one of {get_args(ShiftOrder)}, not {order!r}")
        if not 0.0 <= ratio <= 1.0:
            raise InputError(f"shift ratio must lie in [0, 1], not {ratio!r}")
        if any(layer < 1 for layer in layers):
            raise InputError(f"shift layers count from 1, not {tuple(layers)}")
        if source == "learnable" and learnable is None:
            raise InputError("shift source 'learnable' needs the trained vector: learnable=...")
        self.context = context
        self.ratio = ratio
        self.source: ShiftSource = source
        self.order: ShiftOrder = order
        self.seed = seed % 2**64
        self.semantics: Semantics = semantics
        self.learnable = learnable
        # after which block to act -> number of that layer in the paper's list
        before = 1 if semantics == "paper" else 0
        self._positions = {layer - before: layer for layer in layers}
        absent = [at for at in self._positions if at not in context.cls] if source == "cls" else []
        if absent:
            raise InputError(
                f"contextual shift needs [CLS] of layers {absent}, the context has "
                f"{sorted(context.cls)}: choose shift layers within the encoder's depth"
            )
        self._prepared = False

    def prepare(
        self,
        regions: Regions,
        pixels: Tensor,
        *,
        grid: tuple[int, int],
        mean: Sequence[float],
        std: Sequence[float],
        semantics: Semantics | None = None,
    ) -> Regions:
        """Regions as the classifier should see them; unchanged unless the source is "background".

        For that source the chosen background patches show the photo again. A patch embedding reads
        no pixel outside its patch, so this equals replacing the tokens before the first block by
        those of the unmasked crop.

        Args:
            regions: as :func:`scanseg.calibration.regions.cut_regions` made them.
            pixels: (B, 3, h, w) the photos they were cut from, RGB in 0..255.
            grid: (rows, columns) of the classifier's patches.
            mean: as for ``cut_regions``.
            std: as for ``cut_regions``.
            semantics: as for ``cut_regions``; by default that of the shift.
        """
        self._prepared = True
        if self.source != "background" or self.ratio == 0 or len(regions) == 0:
            return regions
        chosen = self._choose(patch_foreground(regions.masks, grid), 0, regions)  # (R, N)
        size = regions.pixels.shape[-1]
        rows = torch.arange(size, device=chosen.device) * grid[0] // size  # (S,)
        columns = torch.arange(size, device=chosen.device) * grid[1] // size
        shown = chosen.reshape(-1, *grid)[:, rows][:, :, columns]  # (R, S, S)
        photos = normalise(pixels.to(regions.pixels.device), mean, std)
        original = uncovered(photos, regions, semantics=semantics or self.semantics)  # (R, 3, S, S)
        return replace(regions, pixels=torch.where(shown[:, None], original, regions.pixels))

    def __call__(
        self, tokens: Tensor, layer: int, regions: Regions, grid: tuple[int, int]
    ) -> Tensor:
        """Replace background tokens after block ``layer`` (:class:`scanseg.contracts.TokenEdit`).

        Returns:
            The very same tensor where there is nothing to do; a new one otherwise.
        """
        if self.source == "background" and not self._prepared:
            raise InputError(
                "shift source 'background' works on pixels: pass the regions through "
                "ContextualShift.prepare() first"
            )
        return self.edit(tokens, layer, regions, grid)

    def edit(
        self,
        tokens: Tensor,
        layer: int,
        regions: Regions,
        grid: tuple[int, int],
        kept: Tensor | None = None,
    ) -> Tensor:
        """The same where only some of the tokens are left.

        Args:
            kept: (R, M) int64, which patches the M tokens are; the share that is replaced still
                refers to all background patches of a region. ``None``: all of them.
        """
        idle = self.source in ("none", "background") or self.ratio == 0 or len(regions) == 0
        if idle or layer not in self._positions:
            return tokens
        foreground = patch_foreground(regions.masks, grid)  # (R, N)
        chosen = self._choose(foreground, layer, regions, kept)  # (R, N or M)
        incoming = self._incoming(tokens, layer, regions)  # (R, 1 or N, V)
        return torch.where(chosen[..., None], incoming, tokens)

    def quota(self, foreground: Tensor) -> Tensor:
        """(R, N) bool -> (R,) int64: background patches that are replaced, ``int(ratio * n)``."""
        N = foreground.shape[1]
        # for every possible n, in Python's own arithmetic on any device
        counts = torch.tensor([int(self.ratio * n) for n in range(N + 1)], device=foreground.device)
        return counts[(~foreground).sum(1)]

    def keys(self, N: int, layer: int, regions: Regions) -> Tensor:
        """(R, N) int32 sort keys of the order in which background patches are taken."""
        if self.order == "first":
            return torch.arange(N, dtype=torch.int32).expand(len(regions), N)
        return torch.from_numpy(shuffling_keys(regions.query.cpu().numpy(), N, layer, self.seed))

    def _incoming(self, tokens: Tensor, layer: int, regions: Regions) -> Tensor:
        """What replaces the chosen tokens, broadcastable to (R, N, V)."""
        if self.source == "noise":
            return self._noise(tokens, layer, regions)
        if self.source == "learnable":
            given = self.learnable
            vector = given[self._positions[layer]] if isinstance(given, Mapping) else given
            assert vector is not None  # checked in __init__
            incoming = vector.to(tokens)[None, None]  # (1, 1, V)
        else:
            image = regions.image.to(self.context.cls[layer].device)
            incoming = self.context.cls[layer][image].to(tokens)[:, None]  # (R, 1, V)
        if incoming.shape[-1] != tokens.shape[-1]:
            raise InputError(
                f"contextual shift brings width {incoming.shape[-1]} into tokens of width "
                f"{tokens.shape[-1]}: original and region CLIP must have the same vision width"
            )
        return incoming

    def _noise(self, tokens: Tensor, layer: int, regions: Regions) -> Tensor:
        """Normal noise with the mean and spread of each region's own tokens, per channel."""
        shape = tokens.shape[1:]
        drawn = [
            np.random.default_rng([self.seed, 1, layer, query]).standard_normal(shape, np.float32)
            for query in regions.query.tolist()
        ]
        noise = torch.from_numpy(np.stack(drawn)).to(tokens)  # (R, N, V)
        spread, mean = torch.std_mean(tokens, dim=1, keepdim=True, correction=0)  # (R, 1, V)
        return mean + spread * noise

    def _choose(
        self, foreground: Tensor, layer: int, regions: Regions, kept: Tensor | None = None
    ) -> Tensor:
        """(R, N or M) bool, true at the background patches to replace."""
        quota = self.quota(foreground)
        key = self.keys(foreground.shape[1], layer, regions).to(foreground.device)
        key = key.masked_fill(foreground, torch.iinfo(torch.int32).max)
        background = ~foreground
        if kept is not None:
            key, background = key.gather(1, kept), background.gather(1, kept)
        rank = key.argsort(dim=1, stable=True).argsort(dim=1)  # background first
        return (rank < quota[:, None]) & background


def shuffling_keys(query: np.ndarray, N: int, layer: int, seed: int) -> np.ndarray:
    """(R, N) int32 sort keys, a pure function of (seed, layer, query, position).

    The finaliser of SplitMix64 (Steele, Lea and Flood, 2014) hashes a counter, so the draw needs no
    generator state and is the same on every device and version.
    """
    stream = np.random.SeedSequence([seed, layer]).generate_state(1, np.uint64)
    counter = query.astype(np.uint64)[:, None] * np.uint64(N) + np.arange(N, dtype=np.uint64)
    z: np.ndarray = stream + (counter + np.uint64(1)) * np.uint64(
        0x9E3779B97F4A7C15
    )  # wraps around
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return ((z ^ (z >> np.uint64(31))) >> np.uint64(34)).astype(np.int32)
