from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from PIL import Image

from scanseg import InferenceSettings, InputError, Segmenter
from scanseg.cli import main
from scanseg.contracts import ClipTokens, Proposals
from scanseg.explain import draw_explanation, explain

SHIFT = InferenceSettings(mask_threshold=0.5, shift_ratio=0.8)
WORDS = ["cat", "sofa", "window"]


@pytest.fixture(scope="module")
def seg() -> Segmenter:
    return Segmenter.from_pretrained("tiny", device="cpu")


def photo() -> np.ndarray:
    coarse = np.random.default_rng(0).integers(0, 256, (6, 9, 3), np.uint8)
    return coarse.repeat(12, 0).repeat(12, 1)


def test_before_and_after_are_the_classifiers_own_scores(seg: Segmenter) -> None:
    found = explain(seg, photo(), WORDS, settings=SHIFT, count=12)
    assert 3 <= len(found.regions) <= 12
    for region in found.regions:
        assert region.crop.shape == (32, 32, 3)
        assert region.before.sum() == pytest.approx(1, abs=1e-5)
        assert region.after.sum() == pytest.approx(1, abs=1e-5)
    assert any(not np.allclose(r.before, r.after) for r in found.regions)


def test_the_picture_has_a_row_per_region(seg: Segmenter) -> None:
    one, three = (
        draw_explanation(explain(seg, photo(), WORDS, settings=SHIFT, count=n)) for n in (1, 3)
    )
    assert one.width == three.width
    assert three.height - one.height == 2 * (150 + 18)
    assert len(set(three.get_flattened_data())) > 10


@pytest.mark.parametrize(
    "off", [{"shift_source": "none"}, {"branches": "embedding"}, {"shift_ratio": 0.0}]
)
def test_nothing_to_explain(seg: Segmenter, off: dict[str, object]) -> None:
    with pytest.raises(InputError, match="nothing to explain"):
        explain(seg, photo(), WORDS, settings=SHIFT.replace(**off))


def test_background_words_take_their_share(seg: Segmenter) -> None:
    found = explain(seg, photo(), ["cat"], settings=SHIFT, count=1)  # "others" stands beside it
    assert found.regions[0].before.shape == (1,)
    assert 0 < found.regions[0].before[0] < 1


def test_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Image.fromarray(photo()).save(tmp_path / "photo.png")
    out = tmp_path / "out"
    command = ["segment", str(tmp_path / "photo.png"), *WORDS, "--preset", "tiny", "--explain"]
    assert main([*command, "--output", str(out)]) == 0
    with Image.open(out / "photo_explain.png") as picture:
        assert picture.width > 500
    assert main([*command, "--json"]) == 2
    assert "--explain writes a picture" in capsys.readouterr().err


def test_photos_without_a_region_are_passed_over(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a", "b"):
        Image.fromarray(photo()).save(tmp_path / f"{name}.png")
    model = Segmenter.from_pretrained("tiny", device="cpu")

    def faint(pixels: torch.Tensor, context: ClipTokens) -> Proposals:
        found = model.proposals(pixels, context)
        return Proposals(0.1 * found.masks, found.embeddings)

    made = Segmenter(
        clip=model.clip, region_clip=model.region_clip, proposals=faint, recipe=model.recipe
    )
    module = ModuleType("scanseg_faint")
    module.model = lambda: made  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "scanseg_faint", module)
    command = ["segment", str(tmp_path), *WORDS, "--preset", "scanseg_faint.model", "--explain"]
    assert main([*command, "--branches", "both", "--output", str(tmp_path / "o")]) == 0
    assert "b.png: no explanation: no proposal exceeds" in capsys.readouterr().err
    assert len(list((tmp_path / "o").glob("*_overlay.png"))) == 2
    assert not list((tmp_path / "o").glob("*_explain.png"))
