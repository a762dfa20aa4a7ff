"""Hints: the head also predicts what the teachers' last layers hold (Romero et al., 2015,
arXiv:1412.6550).

A name is one number per cell; a teacher's features are hundreds, and they say how alike two cells
are even where no name is given. The linear maps that predict them are thrown away after training.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from scanseg.training.head_dataset import Hint, StoredPhoto, TrainingView

EVERY = 4
"""Of the photos, every n-th sets the features' mean and deviation."""


@dataclass(frozen=True)
class HintPoint:
    """Cells of one view and a teacher's features there.

    Attributes:
        teacher: whose.
        cells: (p,) indices into the batch's cells.
        features: (p, C).
    """

    teacher: str
    cells: Tensor
    features: Tensor


def hint_points(
    number: int, view: TrainingView, draw: Callable[[Hint], np.ndarray]
) -> list[HintPoint]:
    """What a step learns from the teachers' features in view ``number`` of its batch.

    Args:
        number: of the view.
        view: with hints, or without.
        draw: chooses cells of a hint: (p,) indices.
    """
    start = number * view.grid[0] * view.grid[1]
    found = []
    for teacher, hint in view.hints.items():
        cells = draw(hint)
        features = torch.from_numpy(hint.features[hint.place.reshape(-1)[cells]]).float()
        found.append(HintPoint(teacher, torch.from_numpy(cells) + start, features))
    return [point for point in found if len(point.cells)]


class Hints(nn.Module):
    """Linear maps from the head's hidden map to the teachers' features, standardised.

    Args:
        width: of the hidden map.
        photos: whose stored features set mean and deviation per channel.
    """

    def __init__(self, width: int, photos: Sequence[StoredPhoto]) -> None:
        super().__init__()
        self.maps = nn.ModuleDict()
        for teacher in sorted({name for stored in photos for name in stored.hints}):
            some = [one.hints[teacher] for one in photos if teacher in one.hints][::EVERY]
            values = torch.from_numpy(np.concatenate([f.reshape(-1, f.shape[-1]) for f in some]))
            values = values.float()
            self.maps[teacher] = nn.Linear(width, values.shape[1])
            self.register_buffer(f"mean_{teacher}", values.mean(0))
            self.register_buffer(f"std_{teacher}", values.std(0).clamp_min(1e-3))

    def forward(self, teacher: str, hidden: Tensor, features: Tensor) -> Tensor:
        """(p, width), (p, C) -> mean squared error of each cell, (p,)."""
        mean, std = getattr(self, f"mean_{teacher}"), getattr(self, f"std_{teacher}")
        error: Tensor = self.maps[teacher](hidden) - (features - mean) / std
        return error.square().mean(1)

    def loss(self, hidden: Tensor, points: Sequence[HintPoint]) -> Tensor:
        """(B, C, rows, columns) and cells in it -> sum over teachers of their cells' mean error."""
        cells = hidden.movedim(1, -1).flatten(0, 2)
        total = hidden.new_zeros(())
        for teacher in sorted({point.teacher for point in points}):
            mine = [point for point in points if point.teacher == teacher]
            seen = cells[torch.cat([point.cells for point in mine])]
            features = torch.cat([point.features for point in mine])
            total = total + self(teacher, seen, features).mean()
        return total
