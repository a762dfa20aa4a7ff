"""First steps: a photo and words in; a map, pictures, numbers and a data set out.

    python examples/first_steps.py --output first_steps

Takes a few seconds on a laptop, without a network: the photo comes with scikit-image and the model
with scanseg. To try your own, replace ``photo`` by a path and the words by yours.
"""

import argparse
from pathlib import Path

from skimage import data

import scanseg
from scanseg.formats.datasets import write_dataset

parser = argparse.ArgumentParser(description="first steps with scanseg")
parser.add_argument("--output", type=Path, default=Path("first_steps"), help="folder for results")
folder = parser.parse_args().output
folder.mkdir(parents=True, exist_ok=True)

# 1. A model, a photo, words.
photo = data.coffee()  # (400, 600, 3) uint8; a path or a PIL image does as well
segmenter = scanseg.Segmenter.from_pretrained("embedded")
out = segmenter(photo, ["cup", "spoon", "table"])

# 2. What was found: a segment per word, the largest first.
for segment in out:
    share = segment.area / out.labels.size
    print(f"{segment.name:6} {share:5.1%} of the photo, confidence {segment.score:.2f}")

# 3. One word: its mask is an (H, W) array of bool, empty if the word was not found.
cup = out["cup"]
print(f"the cup's box (x, y, width, height): {cup.bbox}")
print(f"its mean colour: {photo[cup.mask].mean(0).round().astype(int).tolist()}")

# 4. Connected regions of a word as instances of their own, small ones left out.
print(f"regions of at least 200 pixels: {len(out.instances(min_area=200))}")

# 5. Pictures and files.
out.overlay().save(folder / "overlay.png")
out.save(folder / "map.png")  # pixel value 0 is unknown, i is word i
write_dataset("coco", folder / "coco", [("coffee.jpg", out)], things=["cup", "spoon"])
print(f"look at {folder / 'overlay.png'}")
