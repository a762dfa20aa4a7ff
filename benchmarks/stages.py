"""Stage by stage time and memory of a SCAN model in exact mode, beside the released code's.

    python benchmarks/stages.py --weights FOLDER [--photo FILE] [--threads 2] [--repeat 3]

FOLDER is a model folder (`scanseg convert`); without official weights `parity_l.py` beside it makes
one from the reference names, which gives 62 valid regions on the parity photo. Words: the 150 names
of ADE20K, their embeddings cached. The released times were measured on a quiet 2-core machine of
another kind, so compare orders, and compare ratios only within one run.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

RELEASED = {  # seconds, 150 cached labels, 62 regions
    "vit_l": {
        "backbone": 2.6,
        "pixel decoder": 1.8,
        "decoder": 0.36,
        "original CLIP": 0.73,
        "crops": 0.66,
        "region CLIP": 42.5,
        "total": 49.4,
        "peak GiB": 6.7,
    },
    "vit_b": {"region CLIP": 9.4, "total": 16.0, "peak GiB": 4.3},
}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--weights", type=Path, required=True, help="model folder")
    parser.add_argument("--photo", type=Path, default=Path("../shared/parity/photo.png"))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)

    from scanseg import Segmenter, Vocabulary, segmenter
    from scanseg.formats.photos import read_photo
    from scanseg.vocabulary.label_sets import load_label_set

    seg = Segmenter.from_pretrained(given.weights, device="cpu")
    words = Vocabulary(load_label_set("ade150").names, background=())
    photo = read_photo(given.photo)
    spent: dict[str, list[float]] = defaultdict(list)

    def watch(owner: Any, name: str, stage: str) -> None:
        inner = getattr(owner, name)

        def timed(*arguments: Any, **named: Any) -> Any:
            started = time.perf_counter()
            try:
                return inner(*arguments, **named)
            finally:
                spent[stage][-1] += time.perf_counter() - started

        setattr(owner, name, timed)

    watch(seg.proposals, "backbone_features", "backbone")
    watch(seg.proposals, "pixel_decoder", "pixel decoder")
    watch(seg.proposals, "_decode", "decoder")
    watch(seg.clip, "encode_image", "original CLIP")
    watch(seg.integration, "forward", "SIM")
    watch(seg, "cut", "crops")
    watch(seg.region_clip, "encode_regions", "region CLIP")
    watch(segmenter, "label_map", "map and arg max")
    stages = ["backbone", "pixel decoder", "decoder", "original CLIP", "SIM", "crops"]
    stages += ["region CLIP", "map and arg max", "total"]
    seg.encode(words)  # fills the text cache
    for _ in range(given.repeat + 1):  # the first run warms up
        for stage in stages:
            spent[stage].append(0.0)
        started = time.perf_counter()
        out = seg(photo, words)
        spent["total"][-1] = time.perf_counter() - started

    preset = seg.recipe.name
    figures: dict[str, Any] = {s: statistics.median(spent[s][1:]) for s in stages}
    figures["peak GiB"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    released = RELEASED.get(preset, {})
    print(f"{preset}, {given.threads} threads, {len(words)} labels, {given.repeat} runs, medians")
    print(f"{'stage':16s} {'s':>8s} {'range':>15s} {'released':>9s}")
    for stage in [*stages, "peak GiB"]:
        runs = spent.get(stage, [0.0, figures[stage]])[1:]
        known = f"{released[stage]:9.2f}" if stage in released else ""
        print(f"{stage:16s} {figures[stage]:8.2f} {min(runs):7.2f}-{max(runs):7.2f} {known}")
    print(f"{len(np.unique(out.labels))} labels found")
    if given.json:
        given.json.write_text(json.dumps({"preset": preset, **figures}, indent=1) + "\n")


if __name__ == "__main__":
    main()
