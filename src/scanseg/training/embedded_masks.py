"""Train the embedded preset's mask decoder: ``python -m scanseg.training.embedded_masks --help``.

On top of the frozen tower, with the set criterion of the method (``training/losses.py``) and one
class, "an object or a surface". Photos whose stuff is not labelled
teach masks of things only: unlabelled pixels count for nothing there, and queries without a match
are not taught that they saw nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from scanseg.contracts import ClipTokens, InputError
from scanseg.encoders.embedded import EmbeddedEncoder
from scanseg.proposals.mask_decoder import LAYERS, MaskDecoder
from scanseg.training.head_dataset import StoredPhoto, TrainingView, load_photos
from scanseg.training.head_photos import Recipe, training_photos
from scanseg.training.head_sampling import Views
from scanseg.training.head_segments import CROWD
from scanseg.training.losses import Losses, LossSettings, Prediction, Target, criterion
from scanseg.training.program import run_program
from scanseg.training.small_loop import Group, Loop, deciding
from scanseg.weights import write_sized

log = logging.getLogger(__name__)
SOURCES = {"coco_train": 5.0, "coco_train_more": 1.2}
SIDES = (320, 640)
"""Least and largest long side, in pixels, to which the photos are resized."""
LEAST_CELLS = 6
"""Segments with fewer cells at stride 4 are void: too small to be drawn."""


@dataclass(frozen=True)
class MasksConfig:
    """A training of the mask decoder.

    Args:
        data: folder of the data sets.
        work: folder for results and checkpoints.
        recipe: which photos may be used.
        hold_out: leave the held-out part of coco_train out.
        steps: optimiser steps.
        batch: views per step.
        window: side of the square windows in pixels, a multiple of 32.
        rate: peak of AdamW's cosine schedule.
        weight_decay: of AdamW.
        warmup: steps of linear warm-up.
        average: decay of the weights' moving average, which is what is saved.
        paste: probability of one pasted object more.
        queries: of the decoder.
        width: of the decoder.
        layers: of the decoder.
        points: on which masks are compared.
        no_object_weight: of "nothing" in the cross entropy.
        seed: of everything that is drawn.
        threads: for torch; a second thread makes the next step's views and features.
        name: of the written file, in ``work``.
    """

    data: Path
    work: Path
    recipe: Recipe = "default"
    hold_out: bool = True
    steps: int = 1200
    batch: int = 8
    window: int = 320
    rate: float = 5e-4
    weight_decay: float = 0.03
    warmup: int = 50
    average: float = 0.99
    paste: float = 0.4
    queries: int = 100
    width: int = 128
    layers: int = 3
    points: int = 2048
    no_object_weight: float = 0.2
    seed: int = 0
    threads: int = 1
    name: str = "mask_decoder.safetensors"

    def __post_init__(self) -> None:
        if min(self.steps, self.batch, self.window) < 1 or self.window % 32:
            raise InputError(
                "steps and batch must be at least 1, window a multiple of 32, not "
                f"{self.steps}, {self.batch}, {self.window}"
            )


def photos_with_segments(
    data: Path, work: Path, recipe: Recipe, hold_out: bool
) -> list[StoredPhoto]:
    """The photos of ``SOURCES`` whose objects are told one by one."""
    photos = training_photos(data, recipe, hold_out=hold_out)
    photos = [photo for photo in photos if photo.source in SOURCES]
    return [one for one in load_photos(photos, work) if one.segments is not None]


def target_of(view: TrainingView) -> Target:
    """What a view teaches: one mask per segment, all of the one class."""
    assert view.segments is not None
    ids = view.segments.astype(np.int32)
    counts = np.bincount(ids.ravel(), minlength=CROWD + 1)
    present = [i for i in range(1, len(view.segment_labels) + 1) if counts[i] >= LEAST_CELLS]
    masks = ids[None] == np.array(present, np.int32).reshape(-1, 1, 1)  # (T, rows, columns)
    return Target(
        labels=torch.zeros(len(present), dtype=torch.int64),
        masks=torch.from_numpy(masks),
        void=torch.from_numpy(~masks.any(0)),
        exhaustive=view.everything,
    )


@dataclass(frozen=True)
class MasksBatch:
    """Frozen features of some views and what they teach."""

    context: ClipTokens
    targets: Sequence[Target]


@torch.no_grad()
def batch_of(config: MasksConfig, encoder: EmbeddedEncoder, views: Views, step: int) -> MasksBatch:
    """The views of a step, which depend on seed and step only, with their frozen features."""
    views.restart(config.seed * 1_000_003 + step)
    drawn = views.draw(config.batch, config.window)
    pixels = torch.stack([view.pixels for view in drawn])
    context = encoder.encode_image(
        pixels.contiguous(memory_format=torch.channels_last), layers=LAYERS
    )
    return MasksBatch(context, [target_of(view) for view in drawn])


def losses_of(decoder: MaskDecoder, batch: MasksBatch, settings: LossSettings) -> Losses:
    """The set criterion on every layer's prediction."""
    layers = [Prediction(one.mask_logits, one.object_logits) for one in decoder(batch.context)]
    return criterion(layers, batch.targets, settings)


def fit(
    config: MasksConfig,
    encoder: EmbeddedEncoder,
    photos: Sequence[StoredPhoto],
    checkpoint: Path | None = None,
) -> MaskDecoder:
    """Train on the photos that have segments; goes on from ``checkpoint`` if it exists.

    Raises:
        InputError: ``checkpoint`` is of a training with other settings.
    """
    torch.manual_seed(config.seed)
    decoder = MaskDecoder(queries=config.queries, width=config.width, layers=config.layers)
    views = Views(photos, SOURCES, config.paste, dict.fromkeys(SOURCES, SIDES))
    settings = LossSettings(points=config.points, no_object_weight=config.no_object_weight)
    terms: dict[str, Tensor] = {}

    def loss(step: int, batch: MasksBatch) -> Tensor:
        found = losses_of(decoder, batch, settings)
        terms.update(found.terms())
        return found.total

    loop = Loop(
        steps=config.steps,
        warmup=config.warmup,
        weight_decay=config.weight_decay,
        average=config.average,
        seed=config.seed,
        batch=lambda step: batch_of(config, encoder, views, step),
        loss=loss,
        tell=lambda: "".join(f"{k} {float(v.detach()):.2f}, " for k, v in terms.items()),
        settings=deciding(config, ("data", "work", "name", "threads")),
    )
    found = loop.run(decoder.train(), [Group(list(decoder.parameters()), config.rate)], checkpoint)
    assert isinstance(found, MaskDecoder)
    return found


def train(config: MasksConfig) -> Path:
    """Read photos, train, write; returns the written safetensors file."""
    torch.set_num_threads(config.threads)
    stored = photos_with_segments(config.data, config.work, config.recipe, config.hold_out)
    log.info("recipe %s: %d photos with segments", config.recipe, len(stored))
    path = config.work / config.name
    decoder = fit(config, EmbeddedEncoder(), stored, path.with_suffix(".checkpoint"))
    settings = {k: v for k, v in asdict(config).items() if k not in ("data", "work", "name")}
    write_sized(path, decoder, {"config": settings, "photos": len(stored)})
    log.info("wrote %s (%.1f MB)", path, path.stat().st_size / 1e6)
    return path


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line: the fields of ``MasksConfig`` are the options."""
    run_program("scanseg.training.embedded_masks", __doc__, MasksConfig, train, arguments)


if __name__ == "__main__":
    main()
