"""Train the embedded preset's affinities: ``python -m scanseg.training.embedded_affinity --help``.

Pairs of cells of a view show the same kind of thing or not; who says so is never mixed: two cells
are compared by one source's labels at a time. The network's squared distance has to tell:
P(same) = sigmoid(bias - |g_i - g_j|^2). The tower stays frozen.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from scipy import ndimage
from torch import Tensor, nn

from scanseg.contracts import ClipTokens, InputError
from scanseg.encoders.embedded import EmbeddedEncoder
from scanseg.proposals.affinity import LAYERS, Affinity
from scanseg.training.embedded_head import chosen_photos, standardise
from scanseg.training.head_dataset import StoredPhoto, TrainingView, load_photos
from scanseg.training.head_labels import Layer, something_else
from scanseg.training.head_photos import Recipe
from scanseg.training.head_sampling import Views
from scanseg.training.head_vocabularies import FIRST_CLASS
from scanseg.training.head_votes import make_votes
from scanseg.training.program import run_program
from scanseg.training.small_loop import Group, Loop, deciding
from scanseg.weights import write_sized

log = logging.getLogger(__name__)
SOURCES = {
    "coco_train": 5.0,
    "coco_train_more": 1.2,
    "facades_night_day": 0.6,
    "imagenet_samples": 2.5,
    "clothing_coparsing": 0.4,
}
"""Relative frequency of the views of each data set."""
TOO_FINE = ("clothing",)
"""Vocabularies that tell parts of one thing apart; a person is one thing here."""
LEAST_SHARE = 0.6
"""Probability from which on a teacher's answer is taken as a label."""
UNKNOWN, OTHER = -1, -2
"""Of a cell: nothing is said; certainly none of the labelled kinds."""
LEAST_CELLS = 8
NEAR_SHARE = 0.6
NEAR_REACH = (2, 4, 8, 16)
"""So many of the second cells lie near the first, at most one of these numbers of cells away along
either axis; the others lie anywhere."""
ONE_SIDED = 0.6
"""Weight of a view in which all pairs are the same, or all different."""
ASIDE = ("data", "teachers", "work", "name", "threads")
"""Fields of the configuration that do not decide what a training makes."""


@dataclass(frozen=True)
class AffinityConfig:
    """A training of the affinities.

    Args:
        data: folder of the data sets.
        teachers: folder of the three tflite files.
        work: folder for votes, results and checkpoints.
        recipe: which photos may be used.
        hold_out: leave the held-out part of coco_train out.
        steps: optimiser steps.
        batch: views per step.
        window: side of the square windows in pixels, a multiple of 32.
        pairs: per view and source.
        rate: peak of AdamW's cosine schedule.
        weight_decay: of AdamW.
        warmup: steps of linear warm-up.
        average: decay of the weights' moving average, which is what is saved.
        paste: probability of one pasted object more.
        width: of the context blocks.
        features: channels of g.
        seed: of everything that is drawn.
        threads: for torch; a second thread makes the next step's views and features.
        name: of the written file, in ``work``.
    """

    data: Path
    teachers: Path
    work: Path
    recipe: Recipe = "default"
    hold_out: bool = True
    steps: int = 3000
    batch: int = 8
    window: int = 384
    pairs: int = 1536
    rate: float = 1e-3
    weight_decay: float = 0.03
    warmup: int = 50
    average: float = 0.99
    paste: float = 0.4
    width: int = 128
    features: int = 32
    seed: int = 0
    threads: int = 1
    name: str = "affinity.safetensors"

    def __post_init__(self) -> None:
        if min(self.steps, self.batch, self.window, self.pairs) < 1 or self.window % 32:
            raise InputError(
                "steps, batch and pairs must be at least 1, window a multiple of 32, not "
                f"{self.steps}, {self.batch}, {self.pairs}, {self.window}"
            )


def kinds(layer: Layer, rest: np.ndarray) -> np.ndarray:
    """What a source says about the cells of a view, (rows, columns) int64.

    Args:
        layer: of the view.
        rest: cells that are certainly none of the classes of the view's own vocabulary.

    Returns:
        class ids, ``UNKNOWN`` where the source is not sure enough or says "something else", and
        ``OTHER`` where a cell is none of the labelled things.
    """
    ids = layer.labels.ids[0].astype(np.int64)
    sure = layer.labels.shares[0] >= LEAST_SHARE
    if layer.vocabulary in FIRST_CLASS:
        sure &= ids < something_else(layer.vocabulary)
    ids = np.where(sure, ids, UNKNOWN)
    if layer.vocabulary == "coco133":
        ids = np.where(rest & (ids == UNKNOWN), OTHER, ids)
    return ids


def connected_parts(ids: np.ndarray) -> np.ndarray:
    """(rows, columns) number of the connected part of one kind, from 1; 0 where none is known."""
    parts, count = np.zeros(ids.shape, np.int64), 0
    for kind in np.unique(ids[ids >= 0]):
        found, more = ndimage.label(ids == kind)
        parts = np.where(found > 0, found + count, parts)
        count += more
    return parts


@dataclass(frozen=True)
class Pairs:
    """Cells to compare.

    Attributes:
        first, second: (P,) indices of cells.
        same: (P,) float32, 1 where both show the same kind.
        weight: (P,) float32; same and different weigh alike in all.
    """

    first: np.ndarray
    second: np.ndarray
    same: np.ndarray
    weight: np.ndarray


def draw_pairs(ids: np.ndarray, count: int, rng: np.random.Generator) -> Pairs | None:
    """Up to ``count`` pairs of cells whose kinds one source knows; ``None`` if it knows too little.

    The first cell has a known kind, drawn so that small parts are not forgotten (by 1 / sqrt of
    their size). Two cells that are ``OTHER`` may show anything and are no pair.

    Args:
        ids: (rows, columns) as :func:`kinds` tells.
        count: of draws; pairs that fall off the view or on unknown cells are left out.
        rng: of all draws.
    """
    rows, columns = ids.shape
    known = np.flatnonzero((ids >= 0).ravel())
    if len(known) < LEAST_CELLS:
        return None
    parts = connected_parts(ids).ravel()
    chance = 1 / np.sqrt(np.bincount(parts)[parts[known]])
    first = rng.choice(known, count, p=chance / chance.sum())
    y, x = first // columns, first % columns
    near = rng.random(count) < NEAR_SHARE
    reach = rng.choice(NEAR_REACH, count)
    dy = np.rint(rng.uniform(-1, 1, count) * reach).astype(np.int64)
    dx = np.rint(rng.uniform(-1, 1, count) * reach).astype(np.int64)
    y = np.where(near, y + dy, rng.integers(0, rows, count))
    x = np.where(near, x + dx, rng.integers(0, columns, count))
    usable = (y >= 0) & (y < rows) & (x >= 0) & (x < columns)
    second = y.clip(0, rows - 1) * columns + x.clip(0, columns - 1)
    one, other = ids.ravel()[first], ids.ravel()[second]
    usable &= (other != UNKNOWN) & (first != second)
    first, second, same = first[usable], second[usable], (one == other)[usable]
    if not len(first):
        return None
    alike = int(same.sum())
    weight = np.where(same, 0.5 / max(alike, 1), 0.5 / max(len(same) - alike, 1))
    if alike in (0, len(same)):
        weight = weight * ONE_SIDED
    return Pairs(first, second, same.astype(np.float32), weight.astype(np.float32))


@dataclass(frozen=True)
class AffinityBatch:
    """Frozen features of some views, and pairs of their cells (indices into all of them)."""

    context: ClipTokens
    first: Tensor
    second: Tensor
    same: Tensor
    weight: Tensor


@torch.no_grad()
def batch_of(
    config: AffinityConfig, encoder: EmbeddedEncoder, views: Views, step: int
) -> AffinityBatch:
    """The views and pairs of a step, which depend on seed and step only."""
    views.restart(config.seed * 1_000_003 + step)
    rng = np.random.default_rng(config.seed * 1_000_003 + step)
    drawn = views.draw(config.batch, config.window)
    pixels = torch.stack([view.pixels for view in drawn])
    context = encoder.encode_image(
        pixels.contiguous(memory_format=torch.channels_last), layers=LAYERS
    )
    found = [pairs for n, view in enumerate(drawn) for pairs in _pairs_of(n, view, config, rng)]
    if not found:  # a batch without labels teaches nothing
        none = np.zeros(0, np.int64)
        found = [Pairs(none, none, none.astype(np.float32), none.astype(np.float32))]

    def joined(name: str) -> Tensor:
        return torch.from_numpy(np.concatenate([getattr(pairs, name) for pairs in found]))

    return AffinityBatch(
        context, joined("first"), joined("second"), joined("same"), joined("weight")
    )


def _pairs_of(
    number: int, view: TrainingView, config: AffinityConfig, rng: np.random.Generator
) -> list[Pairs]:
    start, found = number * view.grid[0] * view.grid[1], []
    for layer in view.layers:
        if layer.vocabulary in TOO_FINE:
            continue
        pairs = draw_pairs(kinds(layer, view.rest), config.pairs, rng)
        if pairs is not None:
            weight = pairs.weight * layer.weight
            found.append(Pairs(pairs.first + start, pairs.second + start, pairs.same, weight))
    return found


class Trained(nn.Module):
    """What is trained: the network, and the squared distance at which "same" is even odds."""

    def __init__(self, affinity: Affinity) -> None:
        super().__init__()
        self.affinity = affinity
        self.bias = nn.Parameter(torch.tensor(2.0))

    def logits(self, batch: AffinityBatch) -> Tensor:
        """(P,) log odds of "same"."""
        cells = self.affinity.places(batch.context).movedim(1, -1).flatten(0, 2)  # (cells, C)
        apart = cells[batch.first] - cells[batch.second]
        return self.bias - apart.square().sum(1)


def pair_loss(logits: Tensor, batch: AffinityBatch) -> Tensor:
    """Binary cross entropy, weighted mean over the pairs; 0 without pairs."""
    losses = F.binary_cross_entropy_with_logits(logits, batch.same, reduction="none")
    return (losses * batch.weight).sum() / batch.weight.sum().clamp_min(1e-6)


def fit(
    config: AffinityConfig,
    encoder: EmbeddedEncoder,
    photos: Sequence[StoredPhoto],
    checkpoint: Path | None = None,
) -> Affinity:
    """Train on the photos; goes on from ``checkpoint`` if it exists.

    Raises:
        InputError: ``checkpoint`` is of a training with other settings.
    """
    torch.manual_seed(config.seed)
    affinity = Affinity(width=config.width, features=config.features)
    views = Views(photos, SOURCES, config.paste)
    some = [batch_of(config, encoder, views, 1_000_000 + i) for i in range(4)]
    standardise(affinity, [[b.context.feature_map(layer) for layer in LAYERS] for b in some])
    trained = Trained(affinity)
    right = [0.5]

    def loss(step: int, batch: AffinityBatch) -> Tensor:
        logits = trained.logits(batch)
        hits = ((logits > 0) == (batch.same > 0)).float() * batch.weight
        right[0] = 0.95 * right[0] + 0.05 * float(hits.sum() / batch.weight.sum().clamp_min(1e-6))
        return pair_loss(logits, batch)

    loop = Loop(
        steps=config.steps,
        warmup=config.warmup,
        weight_decay=config.weight_decay,
        average=config.average,
        seed=config.seed,
        batch=lambda step: batch_of(config, encoder, views, step),
        loss=loss,
        tell=lambda: f"{right[0]:.3f} of the pairs right, ",
        settings=deciding(config, ASIDE),
    )
    groups = [Group(list(trained.parameters()), config.rate)]
    found = loop.run(trained.train(), groups, checkpoint)
    assert isinstance(found, Trained)
    return found.affinity


def train(config: AffinityConfig) -> Path:
    """Ask the teachers where nobody has, train, write; returns the written safetensors file."""
    torch.set_num_threads(config.threads)
    photos = chosen_photos(config.data, config.recipe, hold_out=config.hold_out)
    make_votes(photos, config.teachers, config.work)
    stored = load_photos(photos, config.work)
    log.info("recipe %s: %d photos", config.recipe, len(stored))
    path = config.work / config.name
    affinity = fit(config, EmbeddedEncoder(), stored, path.with_suffix(".checkpoint"))
    write_sized(path, affinity, {"config": deciding(config, ASIDE), "photos": len(stored)})
    log.info("wrote %s (%.1f MB)", path, path.stat().st_size / 1e6)
    return path


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line: the fields of ``AffinityConfig`` are the options."""
    run_program("scanseg.training.embedded_affinity", __doc__, AffinityConfig, train, arguments)


if __name__ == "__main__":
    main()
