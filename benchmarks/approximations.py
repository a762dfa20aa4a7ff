"""What each approximation of the region classifier gains and costs, on one photo.

    python benchmarks/approximations.py --weights FOLDER [--photo FILE]

The exact map comes first, then the model's region classifier goes to bfloat16 and every setting is
tried on it, alone and together. Agreement is the share of pixels with the exact map's label, of 150
words. Filled weights (``parity_l.py``) have thin margins: their agreement is a lower bound of what
trained weights would give; times do not hang on the weights.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch

from scanseg import Segmenter, Vocabulary
from scanseg.presets import MODES
from scanseg.vocabulary.label_sets import load_label_set

TRIED: dict[str, dict[str, Any]] = {
    "bf16 alone": {},
    "hopeless_below 0.05": {"hopeless_below": 0.05},
    "hopeless_below 0.2": {"hopeless_below": 0.2},
    "region_overlap 0.9": {"region_overlap": 0.9},
    "region_overlap 0.7": {"region_overlap": 0.7},
    "region_tokens 192": {"region_tokens": 192},
    "region_tokens 128": {"region_tokens": 128},
    "region_tokens 96": {"region_tokens": 96},
    "region_tokens 64": {"region_tokens": 64},
    "region_tokens 32": {"region_tokens": 32},
    "mode fast": dict(MODES["fast"].changes),
}


def main() -> None:
    """Measure and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--weights", type=Path, required=True, help="model folder")
    parser.add_argument("--photo", type=Path, default=Path("../shared/parity/photo.png"))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    words = Vocabulary(load_label_set("ade150").names, background=())
    seg = Segmenter.from_pretrained(given.weights, device="cpu")
    base = seg.recipe.settings.replace(shift_order="first")
    seg.encode(words)
    inner, spent = seg.classify, [0.0, 0]

    def classify(regions: Any, *rest: Any) -> Any:
        started = time.perf_counter()
        features = inner(regions, *rest)
        spent[:] = [time.perf_counter() - started, len(regions)]
        return features

    seg.classify = classify  # type: ignore[method-assign]
    exact = seg(given.photo, words, settings=base)
    rows = [("exact", spent[0], spent[1], 1.0)]
    seg.use_bfloat16()
    seg(given.photo, words, settings=base)  # warms up
    for name, changes in TRIED.items():
        out = seg(given.photo, words, settings=base.replace(**changes))
        rows.append((name, *spent, float((out.labels == exact.labels).mean())))
    print("| setting | region classifier, s | regions | agreement, % |\n|---|--:|--:|--:|")
    for name, seconds, regions, agreement in rows:
        print(f"| {name} | {seconds:.2f} | {regions} | {100 * agreement:.2f} |")
    if given.json:
        given.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
