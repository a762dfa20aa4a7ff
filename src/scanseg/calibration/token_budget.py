"""Fewer patch tokens for a region: the classifier's cost in proportion to what it must see.

Most of a region's patches are hidden background, all of one colour. Contextual shift replaces a
share of them and leaves the rest; the rest costs as much as the object and says little. This edit
keeps a fixed number of patches: those that contextual shift replaces, then the object's own, and of
the remaining background only what fits. An approximation, measured in ``docs/results/speed.md``.
"""

from __future__ import annotations

import torch
from torch import Tensor

from scanseg.calibration.contextual_shift import ContextualShift
from scanseg.calibration.regions import patch_foreground
from scanseg.contracts import InputError, Regions


class TokenBudget:
    """Contextual shift on ``tokens`` patches of each region, a :class:`contracts.TokenEdit`.

    Which patches are kept hangs on the shift's order and seed, the proposal's number and the mask,
    not on the batch.

    Args:
        shift: decides which background is replaced, and by what.
        tokens: patches to keep, at least 1; towers with fewer keep all.
        after: block after which the others are left out; 0: before the first one.
    """

    def __init__(self, shift: ContextualShift, tokens: int, *, after: int = 0) -> None:
        if tokens < 1:
            raise InputError(f"at least one token of a region must be kept, not {tokens}")
        self.shift = shift
        self.tokens = tokens
        self.after = after
        self._kept: Tensor | None = None

    def __call__(
        self, tokens: Tensor, layer: int, regions: Regions, grid: tuple[int, int]
    ) -> Tensor:
        """Shift, and once leave tokens out: before the first block or after block ``after``."""
        if layer == 0:
            self._kept = None
        if layer != self.after or tokens.shape[1] <= self.tokens:
            return self.shift.edit(tokens, layer, regions, grid, self._kept)
        tokens = self.shift.edit(tokens, layer, regions, grid)
        self._kept = self.choose(regions, grid)  # (R, M)
        return tokens.gather(1, self._kept[..., None].expand(-1, -1, tokens.shape[-1]))

    def choose(self, regions: Regions, grid: tuple[int, int]) -> Tensor:
        """(R, M) int64 patches to keep, ascending.

        In order: as many background patches as contextual shift replaces, then foreground, then
        other background; within each of these by the shift's own order of patches, a random one by
        default, so that a large object is sampled all over.
        """
        foreground = patch_foreground(regions.masks, grid)  # (R, N)
        key = self.shift.keys(foreground.shape[1], 0, regions).to(foreground.device).long()
        among_background = key.masked_fill(foreground, torch.iinfo(torch.int32).max)
        rank = among_background.argsort(dim=1, stable=True).argsort(dim=1)
        idle = self.shift.source in ("none", "background")
        quota = torch.zeros_like(rank[:, :1]) if idle else self.shift.quota(foreground)[:, None]
        turn = torch.where(foreground, 1, torch.where(rank < quota, 0, 2))  # (R, N)
        order = (turn * 2**32 + key).argsort(dim=1, stable=True)
        return order[:, : self.tokens].sort(dim=1).values
