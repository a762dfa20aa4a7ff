"""The naive reference of the speed benchmark computes what the exact mode computes."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from skimage.data import coffee

from scanseg import Segmenter, Vocabulary
from scanseg.proposals import quick_layers


def test_naive_and_exact_agree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # one library for both: large random weights carry rounding to 1.2e-4 in mask probability
    monkeypatch.setattr(quick_layers, "prefers_onednn", lambda: False)
    path = Path(__file__).parents[1] / "benchmarks" / "naive_reference.py"
    spec = importlib.util.spec_from_file_location("naive_reference", path)
    assert spec is not None
    assert spec.loader is not None
    naive = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(naive)
    Image.fromarray(coffee()).resize((160, 107)).save(tmp_path / "photo.png")
    seg = Segmenter.from_pretrained("tiny", device="cpu")
    pixels = torch.from_numpy(np.array(coffee()[:96, :128])).permute(2, 0, 1)[None]
    with torch.inference_mode():
        masks, embeddings = naive.naive_proposals(seg, pixels)
        ours = seg.proposals(pixels, seg.clip.encode_image(pixels))
    assert torch.allclose(masks, ours.masks, atol=1e-4)
    assert torch.allclose(embeddings, ours.embeddings, atol=1e-4)
    words = Vocabulary([f"word {i}" for i in range(40)], background=())
    settings = seg.recipe.settings.replace(mask_threshold=0.3)
    out = seg(tmp_path / "photo.png", words, settings=settings)
    labels, seconds = naive.naive_map(seg, tmp_path / "photo.png", words, settings)
    assert seconds > 0
    assert len(np.unique(out.labels)) > 1
    assert (out.labels == labels.numpy()).mean() > 0.999
    again = seg(tmp_path / "photo.png", words, settings=settings)  # our layers are back
    assert np.array_equal(again.labels, out.labels)
