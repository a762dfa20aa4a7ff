"""The fully labelled held-out photos of coco_train as a data set of their own.

    python benchmarks/held_out_folder.py --data DIR --output FOLDER

Copies photos, label maps and names, so that ``scanseg evaluate --dataset folder`` and the study's
suites see exactly the photos that no training saw.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from scanseg.training.head_photos import held_out

SPLIT = "panoptic_full"


def main() -> None:
    """Copy."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of the data sets")
    parser.add_argument("--output", type=Path, required=True)
    given = parser.parse_args()
    source, stems = given.data / "coco_train", held_out(given.data)[SPLIT]
    for part, ending in (("images", ".jpg"), ("labels", ".png")):
        (given.output / part).mkdir(parents=True, exist_ok=True)
        for stem in stems:
            shutil.copyfile(
                source / part / f"{stem}{ending}", given.output / part / f"{stem}{ending}"
            )
    (given.output / "splits").mkdir(exist_ok=True)
    (given.output / "splits" / f"{SPLIT}.txt").write_text("\n".join(stems) + "\n")
    shutil.copyfile(source / "classes.txt", given.output / "classes.txt")
    print(f"{len(stems)} photos in {given.output}")


if __name__ == "__main__":
    main()
