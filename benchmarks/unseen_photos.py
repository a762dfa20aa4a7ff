"""List the fully labelled photos that the shipped embedded head never saw.

    python benchmarks/unseen_photos.py DATA/coco_train > docs/results/coco_unseen.txt

The shipped head (`model_cards/embedded_head.md`) learned from photos under permissive licences
only, so the others are clean test photos: COCO image ids, one per line, for `scanseg evaluate
--only`.
"""

import csv
import sys
from pathlib import Path

from scanseg.training.head_photos import PERMISSIVE_LICENCES

if __name__ == "__main__":
    root = Path(sys.argv[1])
    with (root / "manifest.csv").open(newline="") as file:
        licences = {row["image"]: row["image_licence"] for row in csv.DictReader(file)}
    for key in (root / "splits/panoptic_full.txt").read_text().split():
        if licences[key] not in PERMISSIVE_LICENCES:
            print(key)
