"""Scores, pictures and a model folder on the way through a run."""

from __future__ import annotations

import contextlib
import copy
import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning import Callback, LightningModule, Trainer

from scanseg.contracts import Segmentation
from scanseg.metrics.confusion import ConfusionMatrix
from scanseg.metrics.iou import IouScores, iou_scores
from scanseg.segmenter import Segmenter
from scanseg.storage import atomic_write, write_json
from scanseg.training.config import DataConfig, EvaluationConfig
from scanseg.training.crops import Source, open_sources
from scanseg.training.ema import MovingAverage
from scanseg.training.lightning_parts import METRICS
from scanseg.training.pictures import overlay_sheet, plot_log
from scanseg.vocabulary import Vocabulary

SCORES = "evaluations.csv"
MODEL = "model"
FINISHED = "finished.json"
"""In the folder of a run whose last evaluation and model are those of its last step."""
_COLUMNS = ("step", "miou_present", "miou_union", "pixel_accuracy", "photos")


def evaluate(
    segmenter: Segmenter, photos: Source, words: Sequence[str], *, images: int, overlays: int = 0
) -> tuple[IouScores, list[tuple[Segmentation, Segmentation]]]:
    """Segment photos and compare with their truth.

    Args:
        images: how many, from the first on.
        overlays: for so many of them truth and prediction are returned as well.
    """
    vocabulary = Vocabulary.of(list(words)).with_background(())
    confusion = ConfusionMatrix(len(words))
    shown = []
    for number in range(images):
        pixels, truth = photos.read(number)
        found = segmenter(pixels, vocabulary)
        confusion.update(found.labels, truth)
        if number < overlays:
            certain = np.ones(truth.shape, np.float32)
            shown.append((Segmentation(truth, found.names, certain, image=pixels), found))
    return iou_scores(confusion.counts), shown


class Validation(Callback):
    """After every so many steps and at the end: scores, overlay sheet, curves, model folder.

    Args:
        segmenter: the model in training.
        config: how often, on what.
        fallback: the training data, for a config without data of its own.
        steps: of the run.
        output: folder of the run.
        average: what is evaluated and saved in place of the weights, if there is one.
    """

    def __init__(
        self,
        segmenter: Segmenter,
        config: EvaluationConfig,
        fallback: DataConfig,
        *,
        steps: int,
        output: Path,
        average: MovingAverage | None,
    ) -> None:
        self.segmenter, self.config, self.steps = segmenter, config, steps
        self.output, self.average = output, average
        if config.every and config.images:
            sources = open_sources([config.data if config.data.root else fallback])
            self.photos, self.words = sources.parts[0], sources.words
            self.images = min(config.images, len(self.photos.photos))
        self._step = -1

    @property
    def finished(self) -> bool:
        """Whether the look after the last step was taken to its end."""
        return (self.output / FINISHED).is_file() and (self.output / MODEL).is_dir()

    def on_train_batch_end(
        self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Once per step, if it is time; other ranks wait for the first."""
        step = trainer.global_step
        due = bool(self.config.every) and step % self.config.every == 0
        if step == self._step or not (due or step == self.steps):
            return
        self._step = step
        for logger in trainer.loggers:
            logger.save()
        if trainer.is_global_zero:
            self.look(step)
            module.train()
        trainer.strategy.barrier()

    def look(self, step: int) -> None:
        """Evaluate, draw and save."""
        self.segmenter.eval()
        place = self.average.in_place() if self.average else contextlib.nullcontext()
        with torch.no_grad(), place:
            segmenter = _in_float32(self.segmenter)
            if self.config.every and self.config.images:
                scores, shown = evaluate(
                    segmenter,
                    self.photos,
                    self.words,
                    images=self.images,
                    overlays=self.config.overlays,
                )
                self._record(step, scores)
                if shown:
                    overlay_sheet(shown, self.output / "overlays" / f"step_{step:08d}.png")
            segmenter.save_pretrained(self.output / MODEL)
        plot_log(self.output / "log" / METRICS, self.output / "losses.png")
        if step == self.steps:
            write_json(self.output / FINISHED, {"step": step})

    def _record(self, step: int, scores: IouScores) -> None:
        """One row per step; a resumed run replaces its own."""
        path = self.output / SCORES
        rows: dict[int, list[str]] = {}
        if path.is_file():
            with path.open(newline="", encoding="utf-8") as file:
                rows = {int(row[0]): row for row in list(csv.reader(file))[1:]}
        values = (scores.miou_present, scores.miou_union, scores.pacc)
        rows[step] = [str(step), *(f"{value:.6f}" for value in values), str(self.images)]
        lines = [list(_COLUMNS), *(rows[key] for key in sorted(rows))]
        with atomic_write(path) as file:
            file.write("".join(",".join(line) + "\n" for line in lines).encode())


def _in_float32(segmenter: Segmenter) -> Segmenter:
    """The model itself, or a copy of one in float64: photos and words come in float32."""
    if all(p.dtype != torch.float64 for p in segmenter.parameters()):
        return segmenter
    return copy.deepcopy(segmenter).float()
