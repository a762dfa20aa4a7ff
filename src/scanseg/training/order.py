"""The order of the data: a function of seed and position, nothing else.

Position p counts photos since the start of the run. Which photo it is, how it is cropped, and which
process prepares it follow from p alone, so runs are the same with any number of workers, and a run
resumed at step n sees exactly what was still to come.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Any

import numpy as np

from scanseg.training.config import TrainerConfig


def derived_seed(*numbers: int) -> int:
    """A 63-bit seed from several numbers, independent for different ones."""
    return int(np.random.SeedSequence(list(numbers)).generate_state(1, np.uint64)[0] >> 1)


@dataclass(frozen=True)
class DataOrder:
    """Which photo stands at a position.

    A pass visits each photo of a data set ``weight`` times, in a new order each; of a fractional
    weight the rest is a chance, drawn anew each pass.

    Args:
        sizes: photos in each data set.
        weights: visits of each photo per pass.
        seed: of the run.
    """

    sizes: tuple[int, ...]
    weights: tuple[float, ...]
    seed: int

    def __getitem__(self, position: int) -> tuple[int, int]:
        """(data set, photo) at a position."""
        length = self.pass_length
        entry = int(_pass(self, position // length)[position % length])
        starts = np.cumsum([0, *self.sizes])
        which = int(np.searchsorted(starts, entry, side="right")) - 1
        return which, entry - int(starts[which])

    @property
    def pass_length(self) -> int:
        """Positions in a pass."""
        visits = sum(round(s * w) for s, w in zip(self.sizes, self.weights, strict=True))
        return max(1, visits)


@lru_cache(maxsize=4)
def _pass(order: DataOrder, number: int) -> np.ndarray:
    """The photos of pass ``number``, counted through all data sets."""
    generator = np.random.default_rng([order.seed, number])
    starts = np.cumsum([0, *order.sizes])
    parts = []
    for (start, end), weight in zip(pairwise(starts), order.weights, strict=True):
        photos = np.arange(start, end)
        visits = round(len(photos) * weight)
        whole, rest = divmod(visits, len(photos))
        parts += [photos] * whole + [generator.permutation(photos)[:rest]]
    chosen = np.concatenate(parts)
    if not len(chosen):
        chosen = np.arange(1)
    return generator.permutation(chosen)


@dataclass(frozen=True)
class Batches:
    """Positions of this process's batches, from a step to the end; a sampler for a ``DataLoader``.

    A step's photos are dealt to parts (accumulation), in them to ranks, in them to batches, so that
    n ranks and one rank with n parts take the same photos in the same groups.

    Args:
        trainer: steps and sizes.
        start: optimiser steps that are behind.
        rank: of this process.
    """

    trainer: TrainerConfig
    start: int = 0
    rank: int = 0

    def __iter__(self) -> Iterator[list[int]]:
        size = self.trainer.micro_batch
        for step in range(self.start, self.trainer.steps):
            for part in range(self.trainer.accumulate):
                first = self.group(step, part) * size
                yield list(range(first, first + size))

    def group(self, step: int, part: int) -> int:
        """Number of a batch among those of all steps, parts and ranks."""
        world = self.trainer.devices * self.trainer.nodes
        return (step * self.trainer.accumulate + part) * world + self.rank


def grouped(items: Iterator[Any], size: int) -> Iterator[Sequence[Any]]:
    """Lists of ``size`` neighbours."""
    group: list[Any] = []
    for item in items:
        group.append(item)
        if len(group) == size:
            yield group
            group = []
