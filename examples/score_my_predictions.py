"""Score predictions of any system, yours for example: folders of label PNGs, no model needed.

    python examples/score_my_predictions.py --output score_my_predictions

Three small scenes are drawn here together with their true labels. The "system" to be scored guesses
from brightness alone and takes every van for a car. Its maps are scored twice, by the program and
in Python, and the two agree. With your own folders only the two last steps are needed.
"""

import argparse
import json
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import numpy as np
from PIL import Image

from scanseg.cli import main
from scanseg.metrics import ConfusionMatrix, Relations, count_pairs, iou_scores, sg_iou

NAMES = ["road", "car", "van", "sky"]

parser = argparse.ArgumentParser(description="score predictions with scanseg")
parser.add_argument("--output", type=Path, default=Path("score_my_predictions"))
folder = parser.parse_args().output

# 1. Scenes with their truth, and what the system says. A label PNG holds class numbers.
for kind in ("truth", "mine"):
    (folder / kind).mkdir(parents=True, exist_ok=True)
random = np.random.default_rng(0)
pairs = []
for number in range(3):
    truth = np.zeros((60, 90), np.uint8)  # road
    truth[:25] = 3  # sky
    truth[30:45, 10 + 5 * number : 30 + 5 * number] = 1  # a car
    truth[28:50, 55:80] = 2  # a van
    brightness = np.array([90, 30, 40, 200])[truth] + random.normal(0, 12, truth.shape)
    guess = np.full(truth.shape, 0, np.uint8)
    guess[brightness > 150] = 3
    guess[brightness < 60] = 1  # never "van"
    Image.fromarray(truth).save(folder / "truth" / f"{number}.png")
    Image.fromarray(guess).save(folder / "mine" / f"{number}.png")
    pairs.append((guess, truth))
(folder / "labels.txt").write_text("\n".join(NAMES) + "\n")

# 2. "Van" has the parent "car", so SG-IoU gives credit for saying "car" (docs/metrics.md says how
#    much, and why it should be read beside the mIoU and never alone).
hierarchy = {"version": 1, "labels": NAMES, "parents": {"van": ["car"]}, "synonyms": {}}
(folder / "hierarchy.json").write_text(json.dumps(hierarchy))

# 3. By the program (in a shell: scanseg score --predictions ... --ground-truth ... --labels ...).
answer = StringIO()
with redirect_stdout(answer):
    options = {
        "--predictions": "mine",
        "--ground-truth": "truth",
        "--labels": "labels.txt",
        "--hierarchy": "hierarchy.json",
        "--output": "report",
    }
    given = [word for option, name in options.items() for word in (option, str(folder / name))]
    code = main(["score", *given, "--json", "--quiet"])
assert code == 0
report = json.loads(answer.getvalue())

# 4. In Python, from arrays.
matrix = ConfusionMatrix(len(NAMES))
for guess, truth in pairs:
    matrix.add(count_pairs(guess, truth, len(NAMES)))
plain = iou_scores(matrix.counts)
soft = sg_iou(matrix.counts, Relations.build(len(NAMES), parents={2: [1]}))

print(f"mIoU over classes in the truth: {plain.miou_present:.4f}")
for name, iou, released in zip(NAMES, plain.iou, soft.released.iou, strict=True):
    print(f"  {name:5} IoU {iou:.4f}   SG-IoU {released:.4f}")
print(f"the program says the same: {report['miou_present']:.2f} %")
assert abs(report["miou_present"] - 100 * plain.miou_present) < 1e-9
print(f"open {folder / 'report' / 'report.html'}")
