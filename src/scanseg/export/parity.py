"""How far an export's answers are from torch's, measured on photos with two label lists."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from time import perf_counter
from typing import Any

import numpy as np
import torch

from scanseg.contracts import InferenceSettings
from scanseg.formats.photos import Photo
from scanseg.fusion import label_map
from scanseg.runtime_onnx import OnnxSegmenter, maps
from scanseg.segmenter import Segmenter, Words

SHORT_LIST: Words = ["animal", "table", "wall"]
LONG_LIST: Words = {
    "cat": ["kitten"],
    "cup": ["mug", "coffee"],
    "person": ["woman", "astronaut"],
    "spoon": [],
    "rocket": [],
    "flag": [],
    "grass": [],
    "sky": [],
}
"""Words for the photos that scikit-image brings; the second list has synonyms."""


@dataclass(frozen=True)
class Comparison:
    """One photo with one label list.

    Attributes:
        photo: its name.
        labels: K' of the list, background words included.
        text_difference: largest difference of the word embeddings.
        mask_difference: largest difference of the mask probabilities.
        same_regions: share of the proposals whose thresholded masks agree in every pixel.
        score_difference: largest difference of a proposal's scores.
        score_difference_same_regions: the same among proposals whose masks agree.
        cell_difference: largest difference of the scores of a dense map's cells, each counted once
            (not ``dense_weight`` times); 0 without.
        agreement: share of the photo's pixels with the same arg max.
        torch_seconds: forward pass and map in torch.
        onnx_seconds: the same in ONNX Runtime.
    """

    photo: str
    labels: int
    text_difference: float
    mask_difference: float
    same_regions: float
    score_difference: float
    score_difference_same_regions: float
    cell_difference: float
    agreement: float
    torch_seconds: float
    onnx_seconds: float


@torch.inference_mode()
def compare(
    segmenter: Segmenter,
    runner: OnnxSegmenter,
    settings: InferenceSettings,
    photo: Photo,
    words: Words,
) -> Comparison:
    """Both sides see the same pixels; each uses its own word embeddings."""
    canvas = runner.canvas(photo.pixels)
    size = photo.pixels.shape[:2]
    text, owners = segmenter.encode(words)
    encoded = runner.encode(words)

    started = perf_counter()
    if runner.export.size is None:
        pixels = torch.from_numpy(canvas.photo).permute(2, 0, 1)[None]
    else:
        pixels = torch.from_numpy(canvas.pixels)
    found = segmenter.forward(pixels.to(segmenter.device), text, owners, settings)
    seen = found.proposals.masks[0, :, *canvas.part]
    expected_labels = (
        label_map(found.scores[0], seen, size, dense=found.dense(0)).labels.cpu().numpy()
    )
    torch_seconds = perf_counter() - started

    started = perf_counter()
    scores, masks, cells = runner.run(canvas, encoded, settings)
    masks = masks[:, *canvas.part]
    labels = maps.label_map(scores, masks, size, dense=cells)[0]
    onnx_seconds = perf_counter() - started

    expected, expected_masks = found.scores[0].cpu().numpy(), seen.cpu().numpy()
    threshold = settings.mask_threshold
    same = ((masks > threshold) == (expected_masks > threshold)).all((1, 2))
    apart = np.abs(scores - expected).max(1)
    cells_apart = 0.0
    if cells is not None and found.cells is not None:
        most = float(np.abs(cells.scores - found.cells[0].cpu().numpy()).max())
        cells_apart = most / settings.dense_weight
    return Comparison(
        photo=photo.name,
        labels=owners.labels,
        text_difference=float(np.abs(encoded.rows - text.cpu().numpy()).max()),
        mask_difference=float(np.abs(masks - expected_masks).max()),
        same_regions=float(same.mean()),
        score_difference=float(apart.max()),
        score_difference_same_regions=float(apart[same].max(initial=0.0)),
        cell_difference=cells_apart,
        agreement=float((labels == expected_labels).mean()),
        torch_seconds=torch_seconds,
        onnx_seconds=onnx_seconds,
    )


def report(comparisons: Sequence[Comparison]) -> dict[str, Any]:
    """The worst of all comparisons, and each of them."""
    worst = {
        name: max(getattr(c, name) for c in comparisons)
        for name in (
            "text_difference",
            "mask_difference",
            "score_difference",
            "score_difference_same_regions",
            "cell_difference",
        )
    }
    least = {
        name: min(getattr(c, name) for c in comparisons) for name in ("same_regions", "agreement")
    }
    return {**worst, **least, "comparisons": [asdict(c) for c in comparisons]}
