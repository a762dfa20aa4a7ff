"""List the fully labelled photos that the shipped embedded head never saw.

    python benchmarks/unseen_photos.py DATA > docs/results/coco_unseen.txt

The shipped head (`model_cards/embedded_head.md`) was trained without the held-out part of
coco_train, so those are clean test photos: COCO image ids, one per line, for `scanseg evaluate
--only`.
"""

import sys
from pathlib import Path

from scanseg.training.head_photos import held_out

if __name__ == "__main__":
    print("\n".join(held_out(Path(sys.argv[1]))["panoptic_full"]))
