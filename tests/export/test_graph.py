"""The traceable form computes what the model computes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from scanseg.calibration.contextual_shift import ContextualShift
from scanseg.contracts import Regions
from scanseg.export.files import write_graph
from scanseg.export.graph import MethodGraph, TabledShift, crops
from scanseg.segmenter import Segmenter

WORDS = {"cat": ["kitten", "cats"], "wall": [], "sofa": ["couch"]}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"semantics": "paper"},
        {"log_fusion": True, "ensemble_weight": 0.3},
        {"branches": "clip", "shift_order": "first"},
        {"branches": "embedding"},
        {"mask_threshold": 0.9999999},  # nothing is valid: one stands in and is ignored
        {"shift_source": "none"},
    ],
)
@torch.no_grad()
def test_the_same_scores(tiny: Segmenter, photo: np.ndarray, changes: dict[str, Any]) -> None:
    settings = tiny.recipe.settings.replace(**changes)
    pixels = torch.from_numpy(tiny.recipe.resize(photo)).permute(2, 0, 1)[None]
    text, owners = tiny.encode(WORDS)
    expected = tiny.forward(pixels, text, owners, settings)
    weight = torch.full((owners.labels,), settings.ensemble_weight)
    scores, masks = MethodGraph(tiny, settings)(pixels.float(), text, owners.owner, weight)
    assert torch.allclose(scores, expected.scores[0], atol=1e-5)
    assert torch.equal(masks, expected.proposals.masks[0])


@pytest.mark.parametrize("order", ["random", "first"])
@pytest.mark.parametrize("semantics", ["released", "paper"])
@torch.no_grad()
def test_the_same_tokens_are_replaced(
    tiny: Segmenter, photo: np.ndarray, order: Any, semantics: Any
) -> None:
    settings = tiny.recipe.settings.replace(
        shift_order=order, semantics=semantics, shift_ratio=0.4, shift_seed=7
    )
    pixels = torch.from_numpy(tiny.recipe.resize(photo)).permute(2, 0, 1)[None]
    context = tiny.clip.encode_image(pixels, layers=tiny.recipe.token_layers)
    proposals = tiny.proposals(pixels, context)
    regions: Regions = tiny.cut(pixels, proposals, settings)
    ours = TabledShift(tiny, settings, context, proposals.masks.shape[1])
    theirs = ContextualShift(
        context,
        layers=tiny.recipe.shift_layers,
        ratio=0.4,
        order=order,
        seed=7,
        semantics=semantics,
    )
    grid = tiny.region_clip.grid
    tokens = torch.zeros(len(regions), grid[0] * grid[1], tiny.clip.vision_width)
    changed = 0
    for layer in range(5):
        found = ours(tokens, layer, regions, grid)
        assert torch.equal(found, theirs(tokens, layer, regions, grid))
        changed += int((found != 0).any())
    assert changed == len(tiny.recipe.shift_layers)


class _Crops(torch.nn.Module):
    def __init__(self, antialias: bool) -> None:
        super().__init__()
        self.antialias = antialias

    def forward(self, photo: torch.Tensor, masks: torch.Tensor, boxes: torch.Tensor) -> Any:
        return crops(photo, masks, boxes, 8, self.antialias)


@pytest.mark.parametrize("antialias", [False, True])
def test_crops_in_the_file(antialias: bool, tmp_path: Path) -> None:
    import onnxruntime

    generator = torch.Generator().manual_seed(0)
    photo = torch.randn(3, 30, 40, generator=generator)
    masks = torch.rand(3, 30, 40, generator=generator) > 0.3
    boxes = torch.tensor([[0, 0, 40, 30], [5, 7, 6, 8], [3, 2, 33, 9]])
    count = torch.export.Dim("regions")
    arguments = {"photo": photo, "masks": masks, "boxes": boxes}
    write_graph(
        _Crops(antialias),
        arguments,
        tmp_path / "crops.onnx",
        dynamic={"photo": None, "masks": {0: count}, "boxes": {0: count}},
        outputs=["crops"],
    )
    session = onnxruntime.InferenceSession(tmp_path / "crops.onnx")
    for part in (slice(0, 3), slice(1, 2)):
        expected = crops(photo, masks[part], boxes[part], 8, antialias)
        feed = {"photo": photo.numpy(), "masks": masks[part].numpy(), "boxes": boxes[part].numpy()}
        found = session.run(None, feed)[0]
        assert found.shape == expected.shape
        assert np.allclose(found, expected.numpy(), atol=2e-5)
