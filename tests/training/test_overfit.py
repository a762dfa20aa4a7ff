"""Two real photos are learned by heart: every part of the stage works together."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

import pytest

from scanseg.training.config import load_experiment
from scanseg.training.run import train

PHOTOS = ("000000000042", "000000000034")  # a dog in a shop, a zebra on grass
EXPERIMENT = """\
extends: tiny
name: overfit
model:
  resize: {short: 128, longest: 256}
  proposals:
    width: 64
    heads: 4
    decoder_layers: 3
    pixel_layers: 2
    pixel_feedforward: 128
    decoder_feedforward: 128
    backbone: {model_type: swin, image_size: 64, embed_dim: 32, depths: [1, 1, 2, 1],
      num_heads: [1, 2, 4, 8], window_size: 4, drop_path_rate: 0.0}
augmentation: {short_min: 128, short_max: 128, crop: 192, colour: false, flip: 0.0}
trainer: {steps: 240, batch: 2, workers: 0}
checkpoint: {every: 240}
ema: {decay: 0.95}
evaluation: {every: 240, images: 2, overlays: 2}
"""


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_two_photos_are_learned_by_heart(shared: Path, tmp_path: Path) -> None:
    source, data = shared / "data" / "coco_train", tmp_path / "data"
    for name, suffix in (("images", ".jpg"), ("labels", ".png")):
        (data / name).mkdir(parents=True)
        for key in PHOTOS:
            shutil.copy(source / name / (key + suffix), data / name)
    shutil.copy(source / "classes.txt", data)  # all 133 classes compete
    (tmp_path / "overfit.yaml").write_text(EXPERIMENT)
    run = tmp_path / "run"
    train(load_experiment(tmp_path / "overfit.yaml", [f"data.root={data}"]), run)
    with (run / "log" / "metrics.csv").open() as file:
        losses = [float(row["loss"]) for row in csv.DictReader(file) if row["loss"]]
    assert losses[-1] < 0.1 * losses[0]
    with (run / "evaluations.csv").open() as file:
        (last,) = csv.DictReader(file)
    assert float(last["miou_present"]) > 0.9
