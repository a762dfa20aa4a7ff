"""The pictures of docs/gallery.md: photos that ship with pip packages, words of everyday speech.

python benchmarks/gallery.py --output docs/images
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from matplotlib import get_data_path
from PIL import Image
from skimage import data
from sklearn.datasets import load_sample_image

from scanseg import Segmenter

HOPPER = Path(get_data_path()) / "sample_data" / "grace_hopper.jpg"
WORDS = {
    "china": ["sky", "tree", "building"],
    "chelsea": ["cat", "wall"],
    "coffee": ["cup", "table", "spoon"],
    "astronaut": ["person", "flag", "space shuttle"],
    "motorcycle": ["motorcycle", "wall", "floor"],
    "camera": ["person", "camera", "grass", "sky", "building"],
    "hopper": ["person", "flag", "hat"],
    "flower": ["flower", "leaf", "tree"],
    "rocket": ["rocket", "sky", "tower"],
    "coins": ["coin", "table"],
    "brick": ["brick wall", "window", "door"],
    "grass": ["grass", "tree", "road"],
    "china_finer": ["sky", "forest", "pagoda", "lake"],
    "astronaut_finer": ["woman", "spacesuit", "helmet"],
}


def photos() -> dict[str, np.ndarray]:
    """(H, W, 3) uint8 by name."""
    found = {
        "china": load_sample_image("china.jpg"),
        "flower": load_sample_image("flower.jpg"),
        "hopper": np.asarray(Image.open(HOPPER).convert("RGB")),
        "motorcycle": data.stereo_motorcycle()[0],
    }
    for name in ("chelsea", "coffee", "astronaut", "camera", "rocket", "coins", "brick", "grass"):
        found[name] = np.asarray(Image.fromarray(getattr(data, name)()).convert("RGB"))
    return found


def main() -> None:
    """Draw all of them and print the shares."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, required=True)
    given = parser.parse_args()
    given.output.mkdir(parents=True, exist_ok=True)
    segmenter, known = Segmenter.from_pretrained("embedded"), photos()
    for name, words in WORDS.items():
        found = segmenter(known[name.removesuffix("_finer")], words)
        picture = found.overlay().convert("RGB")
        picture.thumbnail((640, 900))
        picture.save(given.output / f"gallery_{name}.jpg", quality=82)
        shares = {one.name: round(one.area / found.labels.size, 3) for one in found.segments}
        print(name, shares)


if __name__ == "__main__":
    main()
