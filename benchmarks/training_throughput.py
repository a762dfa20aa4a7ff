"""How fast photos are prepared, and where a training step's time goes.

    python benchmarks/training_throughput.py --data FOLDER [--experiment tiny] [--crops 96]

First images per second of the data pipeline at 640 crops (released augmentation) with 1 and 2
workers and at the experiment's own crops, then a step of the experiment by part, medians over
repeats in one process, single-threaded. Prints JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from scanseg.training.config import AugmentationConfig, Experiment, load_experiment
from scanseg.training.config import TrainerConfig as Trainer
from scanseg.training.crops import TrainingPhotos, collate, open_sources, targets_of
from scanseg.training.lightning_parts import StepLoader
from scanseg.training.losses import criterion
from scanseg.training.optimizers import adamw, parameter_groups
from scanseg.training.run import prepare


def images_per_second(photos: Any, workers: int, crops: int) -> float:
    """Rate after the first batch has arrived, so that starting workers does not count."""
    trainer = Trainer(steps=crops // 4 + 1, batch=4, workers=workers)
    batches = iter(StepLoader(photos, trainer, collate))
    next(batches)
    started = time.perf_counter()
    count = sum(len(batch.pixels) for batch in batches)
    return count / (time.perf_counter() - started)


def timed(parts: dict[str, list[float]], name: str, work: Callable[[], Any]) -> Any:
    """Do something and note how long it took."""
    started = time.perf_counter()
    result = work()
    parts.setdefault(name, []).append(time.perf_counter() - started)
    return result


def step_by_part(experiment: Experiment, repeats: int) -> dict[str, float]:
    """Median seconds of each part of a step."""
    prepared = prepare(experiment)
    stage = prepared.stage.train()
    segmenter, proposals = stage.segmenter, stage.segmenter.proposals
    optimizer = adamw(parameter_groups(stage, experiment.optimizer), experiment.optimizer)
    photos = TrainingPhotos(prepared.sources, experiment.augmentation, 0)
    size, parts = experiment.trainer.micro_batch, {}
    clip, layers = segmenter.clip, segmenter.recipe.token_layers
    for number in range(repeats + 1):
        places = range(number * size, (number + 1) * size)
        batch = timed(parts, "photos", lambda p=places: collate([photos[i] for i in p]))
        targets = targets_of(batch, stage.sources, stage.candidates)
        with torch.no_grad():
            timed(parts, "clip", partial(clip.encode_image, batch.pixels, layers=layers))
            images = proposals.prepare(batch.pixels)
            timed(parts, "backbone", partial(proposals.backbone_features, images))
        predictions = timed(parts, "forward (all)", partial(stage, batch.pixels))
        losses = timed(
            parts, "criterion", partial(criterion, predictions, targets, experiment.loss)
        )
        optimizer.zero_grad()
        timed(parts, "backward", losses.total.backward)
        timed(parts, "optimiser", optimizer.step)
    found = {name: statistics.median(values[1:]) for name, values in parts.items()}
    names = ("forward (all)", "criterion", "backward", "optimiser")
    found["step without photos"] = sum(found[name] for name in names)
    return found


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True)
    parser.add_argument("--split", default="")
    parser.add_argument("--experiment", default="tiny")
    parser.add_argument("--crops", type=int, default=96, help="timed per measurement")
    parser.add_argument("--repeats", type=int, default=9)
    options = parser.parse_args()
    torch.set_num_threads(1)
    changes = [f"data.root={options.data}", f"data.split={options.split}"]
    experiment = load_experiment(options.experiment, changes)
    sources = open_sources(experiment.data)
    result: dict[str, Any] = {"load": os.getloadavg()[0], "processors": os.cpu_count()}
    for name, augmentation in (
        ("640 crops", AugmentationConfig()),
        (f"{options.experiment}: {experiment.augmentation.crop} crops", experiment.augmentation),
    ):
        photos = TrainingPhotos(sources, augmentation, 0)
        for workers in (1, 2):
            rate = images_per_second(photos, workers, options.crops)
            result[f"images/s, {name}, workers {workers}"] = round(rate, 1)
            print(f"{name}, {workers} workers: {rate:.1f} images/s", file=sys.stderr)
    parts = step_by_part(experiment, options.repeats)
    result["seconds by part"] = {name: round(value, 4) for name, value in parts.items()}
    batch = experiment.trainer.micro_batch
    result["a step takes, images/s"] = round(batch / parts["step without photos"], 1)
    print(json.dumps(result, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
