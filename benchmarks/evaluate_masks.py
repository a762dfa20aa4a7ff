"""Average recall of the embedded preset's proposals, class-agnostic.

    python benchmarks/evaluate_masks.py --data DIR [--decoder FILE]

AR@100 over IoU 0.50 to 0.95, on the fully labelled held-out photos of coco_train (things and stuff,
no crowds) and on the test part of bsds500 (every annotator's regions), of

- superpixels merged on ConSE and colour alone, which nothing was trained for;
- the preset's superpixels, merged on the trained head's dense map;
- with --decoder, its queries, and both together,

with 95 % bootstrap intervals over photos and, for the ratio to the first, over the same photos.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from scanseg import presets
from scanseg.contracts import Proposals
from scanseg.formats.photos import read_photo
from scanseg.metrics.average_recall import ProposalRecall
from scanseg.proposals.mask_decoder import DecodedProposals
from scanseg.proposals.superpixels import SuperpixelProposals
from scanseg.training.head_photos import held_out, training_photos
from scanseg.training.head_segments import CROWD, read_photo_segments

LIMIT = 100
DRAWS, SEED = 2000, 0


def coco(data: Path) -> Iterator[tuple[Path, list[np.ndarray]]]:
    """(photo, stacks of true masks) of the held-out fully labelled photos."""
    away = set(held_out(data)["panoptic_full"])
    for photo in training_photos(data):
        if photo.source == "coco_train" and photo.stem in away:
            segments = read_photo_segments(photo)
            assert segments is not None
            ids = np.where(segments.ids == CROWD, 0, segments.ids)
            yield photo.image, [_stack(ids)]


def bsds(data: Path, every: int) -> Iterator[tuple[Path, list[np.ndarray]]]:
    """(photo, one stack of regions per annotator) of the test part."""
    from PIL import Image

    folder = data / "bsds500"
    for stem in (folder / "splits" / "test.txt").read_text(encoding="utf-8").split()[::every]:
        maps = [np.asarray(Image.open(p)) for p in sorted((folder / "segs").glob(f"{stem}_a*.png"))]
        yield folder / "images" / f"{stem}.jpg", [_stack(m) for m in maps]


def _stack(ids: np.ndarray) -> np.ndarray:
    return np.stack([ids == i for i in np.unique(ids) if i > 0])


UNTRAINED, SUPERPIXELS = "superpixels, nothing trained", "superpixels"


@torch.inference_mode()
def proposals(segmenter: presets.Segmenter, path: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Kind -> (Q, H, W) bool masks and (Q,) scores."""
    photo = read_photo(path).pixels
    pixels = torch.from_numpy(segmenter.recipe.resize(photo)).permute(2, 0, 1)[None]
    context = segmenter.clip.encode_image(pixels, layers=(0, 1, 2, 3))
    size = photo.shape[:2]
    kinds = {UNTRAINED: _sized(SuperpixelProposals()(pixels, context), size)}
    made = segmenter.proposals
    masks, sure = _sized(made(pixels, context), size)
    if not isinstance(made, DecodedProposals):
        return {**kinds, SUPERPIXELS: (masks, sure)}
    learned = made.decoder.config["queries"]
    parts = {SUPERPIXELS: slice(learned, None), "decoder": slice(learned), "both": slice(None)}
    return {**kinds, **{kind: (masks[part], sure[part]) for kind, part in parts.items()}}


def _sized(found: Proposals, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Masks at a photo's size and how sure they are, on average inside."""
    masks = F.interpolate(found.masks, size, mode="bilinear", align_corners=False)[0]
    inside = masks > 0.5
    area = inside.flatten(1).sum(1).clamp_min(1)
    sure = (masks * inside).flatten(1).sum(1) / area
    if found.objectness is not None:
        sure = sure * found.objectness[0]
    return inside.numpy(), sure.numpy()


def main() -> None:
    """Print one line per test and kind; JSON if asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--decoder", type=Path, help="a mask decoder beside the superpixels")
    parser.add_argument("--head", type=Path, help="default: the shipped one")
    parser.add_argument("--bsds-step", type=int, default=1, help="every n-th BSDS photo")
    parser.add_argument("--superpixel-objectness", type=float, help="default: the preset's")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    segmenter = presets.embedded(arguments.head, arguments.decoder)
    made = segmenter.proposals
    if arguments.superpixel_objectness is not None and isinstance(made, DecodedProposals):
        made.superpixel_objectness = arguments.superpixel_objectness
    record = {}
    for name, items in {
        "coco held out": coco(arguments.data),
        "bsds500 test": bsds(arguments.data, arguments.bsds_step),
    }.items():
        counts: dict[str, list[tuple[float, int]]] = {}
        for path, stacks in items:
            for kind, (masks, scores) in proposals(segmenter, path).items():
                recall = ProposalRecall((LIMIT,))
                for truth in stacks:
                    recall.update(masks, truth, scores)
                counts.setdefault(kind, []).append((recall.found[0].mean(), recall.masks))
        base = np.array(counts[UNTRAINED])
        drawn = np.random.default_rng(SEED).integers(len(base), size=(DRAWS, len(base)))
        reference = base[drawn, 0].sum(1) / base[drawn, 1].sum(1)
        for kind, rows in counts.items():
            values = np.array(rows)
            value = values[:, 0].sum() / values[:, 1].sum()
            draws = values[drawn, 0].sum(1) / values[drawn, 1].sum(1)
            low, high = np.quantile(draws, (0.025, 0.975))
            ratio = value / (base[:, 0].sum() / base[:, 1].sum())
            r_low, r_high = np.quantile(draws / reference, (0.025, 0.975))
            print(
                f"{name}, {len(rows)} photos, {kind}: AR@{LIMIT} {value:.3f} "
                f"[{low:.3f}, {high:.3f}]"
                f", x {ratio:.2f} [{r_low:.2f}, {r_high:.2f}]",
                flush=True,
            )
            record[f"{name}, {kind}"] = [value, low, high, ratio, r_low, r_high]
    if arguments.json:
        arguments.json.write_text(json.dumps(record, indent=1))


if __name__ == "__main__":
    main()
