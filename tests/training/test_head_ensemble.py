"""Heads that speak together: the mean by hand, and the file."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from scanseg import Segmenter
from scanseg.contracts import ClipTokens, InputError
from scanseg.presets import embedded
from scanseg.proposals.dense_head import DenseHead, HeadEnsemble, load_dense_head
from scanseg.training.embedded_head import save_head
from scanseg.training.head_ensemble import EnsembleConfig, join, main

D = 384


def tokens() -> ClipTokens:
    """Random tokens of a photo of 2 x 3 cells at stride 32."""
    draw = torch.Generator().manual_seed(0)
    return ClipTokens(
        patches={1: torch.randn(1, 96, 40, generator=draw)},
        cls={},
        grids={1: (8, 12)},
        pooled=F.normalize(torch.randn(1, D, generator=draw), dim=-1),
        dense=F.normalize(torch.randn(1, D, 2, 3, generator=draw), dim=1),
    )


def a_head(seed: int) -> DenseHead:
    torch.manual_seed(seed)
    head = DenseHead().eval().requires_grad_(False)
    torch.nn.init.normal_(head.mlp[-1].weight, std=0.02)
    return head


def saved(folder: Path, seed: int, scale: float, *names: str) -> Path:
    path = folder / f"{seed}.safetensors"
    text = F.one_hot(torch.tensor([ord(name[0]) - 97 for name in names]), D).float()
    save_head(path, a_head(seed), scale, names, text, {"config": {"seed": seed}})
    return path


def test_an_ensemble_is_the_mean_at_unit_norm() -> None:
    heads, context = [a_head(0), a_head(1), a_head(2)], tokens()
    with torch.inference_mode():
        parts = [head(context) for head in heads]
        found = HeadEnsemble(heads)(context)
    mean = (parts[0] + parts[1] + parts[2]) / 3
    torch.testing.assert_close(found, mean / mean.norm(dim=1, keepdim=True))
    assert (parts[0] - parts[1]).abs().max() > 0.01  # they differ


def test_heads_are_joined_in_one_file(tmp_path: Path) -> None:
    files = (saved(tmp_path, 0, 20.0, "apple", "bear"), saved(tmp_path, 1, 30.0, "bear", "cat"))
    path = tmp_path / "both.safetensors"
    main(["--heads", f"[{files[0]},{files[1]}]", "--output", str(path)])
    both = load_dense_head(path)
    assert both.scale == 25.0
    assert both.names == ("apple", "bear", "cat")
    assert both.taught.argmax(1).tolist() == [0, 1, 2]
    assert [note["config"]["seed"] for note in both.notes["heads"]] == [0, 1]
    context = tokens()
    with torch.inference_mode():
        parts = [load_dense_head(file).head(context) for file in files]
        found = both.head(context)
    torch.testing.assert_close(found, F.normalize(parts[0] + parts[1], dim=1))

    # and the preset takes it
    segmenter = embedded(path)
    assert segmenter.recipe.embedding_scale == 25.0
    photo = torch.zeros(40, 64, 3, dtype=torch.uint8).numpy()
    assert segmenter(photo, ["apple", "bear"]).labels.shape == (40, 64)


def test_model_folders_hold_any_number_of_heads(tmp_path: Path) -> None:
    one, two = saved(tmp_path, 0, 20.0, "apple"), saved(tmp_path, 1, 30.0, "bear", "cat")
    three = saved(tmp_path, 2, 40.0, "apple")
    join(EnsembleConfig((one, two, three), tmp_path / "three.safetensors"))
    photo = torch.randint(0, 255, (64, 96, 3), dtype=torch.uint8).numpy()
    for path, scale, taught in ((one, 20.0, 1), (tmp_path / "three.safetensors", 30.0, 3)):
        before = embedded(path)
        folder = before.save_pretrained(tmp_path / f"folder of {path.stem}")
        again = Segmenter.from_pretrained(folder, device="cpu")
        assert again.recipe.embedding_scale == scale
        assert again.taught is not None
        assert len(again.taught) == taught
        found, expected = (s(photo, ["apple", "bear"], scores=True) for s in (again, before))
        np.testing.assert_allclose(found.scores, expected.scores, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("scale", ["27", -1.0, None])
def test_a_folder_of_another_making_is_refused_or_takes_the_usual_scale(
    tmp_path: Path, scale: object
) -> None:
    folder = embedded(saved(tmp_path, 0, 20.0, "apple")).save_pretrained(tmp_path / "folder")
    config = json.loads((folder / "config.json").read_text())
    config["embedding_scale"] = scale
    (folder / "config.json").write_text(json.dumps(config))
    if scale is None:  # as folders of earlier versions
        usual = load_dense_head().scale
        assert Segmenter.from_pretrained(folder, device="cpu").recipe.embedding_scale == usual
    else:
        with pytest.raises(InputError, match="positive number"):
            Segmenter.from_pretrained(folder, device="cpu")


def test_what_cannot_be_joined(tmp_path: Path) -> None:
    one, two = saved(tmp_path, 0, 20.0, "apple"), saved(tmp_path, 1, 20.0, "bear")
    with pytest.raises(InputError, match="at least two"):
        EnsembleConfig((one,), tmp_path / "x")
    both = join(EnsembleConfig((one, two), tmp_path / "both.safetensors"))
    with pytest.raises(InputError, match="ensemble already"):
        join(EnsembleConfig((one, both), tmp_path / "x"))
    with pytest.raises(InputError, match="make train-embedded"):
        join(EnsembleConfig((one, tmp_path / "none"), tmp_path / "x"))
