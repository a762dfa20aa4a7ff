"""What each approximation of the region classifier gains and costs, on one photo.

    python benchmarks/approximations.py --weights FOLDER [--photo FILE] [--plot FILE]

The exact map comes first, then the model's region classifier goes to bfloat16 and every setting is
tried on it, alone and together, on the same proposals and tokens. Agreement is the share of pixels
with the exact map's label, of 150 words. Times are processor seconds, which a busy machine changes
less than it changes the clock. Filled weights (``parity_l.py``) have thin margins: their agreement
is a lower bound of what trained weights would give; times do not hang on the weights.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from scanseg import Segmenter, Vocabulary
from scanseg.presets import MODES
from scanseg.vocabulary.label_sets import load_label_set

TRIED: dict[str, dict[str, Any]] = {
    "bf16 alone": {},
    "hopeless_below 0.2": {"hopeless_below": 0.2},
    "hopeless_below 0.4": {"hopeless_below": 0.4},
    "region_overlap 0.9": {"region_overlap": 0.9},
    "region_overlap 0.7": {"region_overlap": 0.7},
    "192 tokens": {"region_tokens": 192},
    "64 tokens": {"region_tokens": 64},
    "128 tokens after block 12": {"region_tokens": 128, "region_tokens_after": 12},
    "128 tokens after block 16": {"region_tokens": 128, "region_tokens_after": 16},
    "64 tokens after block 18": {"region_tokens": 64, "region_tokens_after": 18},
    "128 tokens after block 20": {"region_tokens": 128, "region_tokens_after": 20},
    "32 tokens after block 20": {"region_tokens": 32, "region_tokens_after": 20},
    "mode fast": dict(MODES["fast"].changes),
    "mode fast, 64 tokens after block 18": {
        **MODES["fast"].changes,
        "region_tokens": 64,
        "region_tokens_after": 18,
    },
    "mode fast, 32 tokens after block 20": {
        **MODES["fast"].changes,
        "region_tokens": 32,
        "region_tokens_after": 20,
    },
}


class Once:
    """A function that answers every later call as the first one."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function
        self.answer: Any = None

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        """The first answer."""
        if self.answer is None:
            self.answer = self.function(*arguments, **named)
        return self.answer


def plot(rows: list[tuple[str, float, int, float]], path: Path) -> None:
    """Agreement against processor seconds, a point per setting."""
    import matplotlib as mpl

    mpl.use("agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(9, 4.5), layout="constrained")
    markers = "osD^v<>pPX*hH"
    for i, (name, seconds, _, agreement) in enumerate(rows):
        marker = markers[i % len(markers)]
        axes.plot(seconds, 100 * agreement, marker, label=name, alpha=0.8)
    axes.set(xlabel="region classifier, processor seconds", xlim=(0, None))
    axes.set(ylabel="agreement with exact, % of pixels")
    axes.grid(alpha=0.3)
    figure.legend(loc="outside right center", fontsize=8)
    figure.savefig(path, dpi=110)


def main() -> None:
    """Measure and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--weights", type=Path, required=True, help="model folder")
    parser.add_argument("--photo", type=Path, default=Path("../shared/parity/photo.png"))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--plot", type=Path, help="also draw the figures into this picture")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    words = Vocabulary(load_label_set("ade150").names, background=())
    seg = Segmenter.from_pretrained(given.weights, device="cpu")
    base = seg.recipe.settings.replace(shift_order="first")
    seg.encode(words)
    inner, spent = seg.classify, [0.0, 0]

    def classify(regions: Any, *rest: Any) -> Any:
        started = time.process_time()
        features = inner(regions, *rest)
        spent[:] = [time.process_time() - started, len(regions)]
        return features

    seg.classify = classify  # type: ignore[method-assign]
    parts: Any = seg
    parts.proposals.forward = Once(parts.proposals.forward)
    parts.clip.encode_image = Once(parts.clip.encode_image)
    print(
        "| setting | region classifier, processor s | regions | agreement, % |\n|---|--:|--:|--:|"
    )
    exact = seg(given.photo, words, settings=base)
    rows: list[tuple[str, float, int, float]] = []

    def note(name: str, labels: Any) -> None:
        rows.append((name, spent[0], int(spent[1]), float((labels == exact.labels).mean())))
        print(f"| {name} | {spent[0]:.1f} | {spent[1]} | {100 * rows[-1][3]:.2f} |", flush=True)

    note("exact", exact.labels)
    seg.use_bfloat16()
    for name, changes in TRIED.items():
        note(name, seg(given.photo, words, settings=base.replace(**changes)).labels)
    if given.plot:
        plot(rows, given.plot)
    if given.json:
        given.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
