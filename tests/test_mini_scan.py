"""SCAN on the packaged towers: the study's model and its training, on tiny synthetic data."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from scanseg import Segmenter, mini_scan
from scanseg.contracts import ClipTokens, InputError, Proposals
from scanseg.mini_scan import MiniScanConfig, QueryProposals
from scanseg.proposals.mask_decoder import MaskDecoder
from scanseg.training.embedded_masks import save_decoder
from scanseg.training.head_dataset import StoredPhoto, TrainingView
from scanseg.training.head_photos import Photo
from scanseg.training.head_segments import CROWD, PhotoSegments
from scanseg.training.mini_scan import NONE, StudyConfig, query_labels, train

SMALL = {"queries": 4, "width": 32, "layers": 1, "feedforward": 32}


def a_model(**changes: object) -> Segmenter:
    torch.manual_seed(0)
    taught = torch.nn.functional.normalize(torch.randn(3, 384), dim=-1)
    config = replace(MiniScanConfig(decoder=SMALL, region_size=64), **changes)
    model = mini_scan.build(config, taught)
    assert isinstance(model.proposals, QueryProposals)
    for name, value in model.proposals.decoder.named_parameters():
        if "queries" in name:
            torch.nn.init.normal_(value)
    return model


class Triangles(torch.nn.Module):
    """A model's proposals with triangles in place of their masks: they leave background."""

    def __init__(self, made: torch.nn.Module) -> None:
        super().__init__()
        self.made = made

    def forward(self, pixels: torch.Tensor, context: ClipTokens) -> Proposals:
        found = self.made(pixels, context)
        return replace(found, masks=torch.ones_like(found.masks).tril())


def a_photo() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (60, 90, 3)).astype(np.uint8)


def test_every_part_of_the_method_takes_part() -> None:
    model = a_model()
    pixels = torch.from_numpy(a_photo()).permute(2, 0, 1)[None]
    text, owners = model.encode(["cat", "dog"])
    settings = model.recipe.settings
    model.proposals = Triangles(model.proposals)
    with torch.inference_mode():
        found = model.forward(pixels, text, owners, settings)
        unshifted = model.forward(pixels, text, owners, settings.replace(shift_source="none"))
        model.integration = None
        plain = model.forward(pixels, text, owners, settings)
    assert found.scores.shape == (1, 4, 2)
    assert found.proposals.objectness is not None
    assert found.features is not None
    assert unshifted.features is not None
    assert not torch.allclose(found.features, unshifted.features)  # eq. 5
    assert not torch.allclose(found.embeddings, plain.embeddings)  # eq. 1-3
    mixed = found.p_in**0.3 * found.p_clip**0.7 * found.proposals.objectness[..., None]
    other = found.p_in**0.7 * found.p_clip**0.3 * found.proposals.objectness[..., None]
    weights = model.ensemble_weights(text, owners, settings)
    assert isinstance(weights, torch.Tensor)
    assert weights.tolist() == pytest.approx([0.7, 0.7])  # the taught words are random
    torch.testing.assert_close(found.scores, mixed)
    assert not torch.allclose(found.scores, other)


@pytest.mark.parametrize("sim", [True, False])
def test_a_saved_model_says_the_same(sim: bool, tmp_path: Path) -> None:
    model = a_model(integration=mini_scan.INTEGRATION if sim else None)
    folder = model.save_pretrained(tmp_path / "m")
    again = Segmenter.from_pretrained(folder, device="cpu")
    first, second = (m(a_photo(), ["cat", "dog"]) for m in (model, again))
    np.testing.assert_array_equal(first.labels, second.labels)
    torch.testing.assert_close(again.taught, model.taught)
    assert (again.integration is not None) == sim


def test_a_config_that_describes_something_else(tmp_path: Path) -> None:
    folder = a_model().save_pretrained(tmp_path / "m")
    config = json.loads((folder / "config.json").read_text())
    for change in ({"model": None}, {"model": {}}, {"model": {**config["model"], "x": 1}}):
        (folder / "config.json").write_text(json.dumps({**config, **change}))
        with pytest.raises(InputError, match=r"describes no mini_scan model"):
            Segmenter.from_pretrained(folder, device="cpu")


def a_view(segments: np.ndarray, labels: tuple[int, ...], everything: bool) -> TrainingView:
    pixels = torch.zeros(3, 32, 32, dtype=torch.uint8)
    rest = np.zeros((4, 4), bool)
    return TrainingView(pixels, [], rest, "coco133", 80, -1, segments, labels, everything)


def test_a_query_is_worth_the_segment_that_it_shows() -> None:
    segments = np.zeros((8, 8), np.uint16)
    segments[:4, :4], segments[:4, 4:], segments[7] = 1, 2, CROWD
    masks = np.zeros((4, 8, 8), bool)
    masks[0, :4, :3] = True  # 12 of the 16 cells of segment 1: IoU 0.75
    masks[1, :4] = True  # both: IoU 16 / 32, the first of them
    masks[2, :6, 4:] = True  # segment 2 and 8 cells that nobody labelled: 16 / 24, or 16 / 16
    masks[3, 7] = True  # a crowd
    assert query_labels(masks, a_view(segments, (5, 9), True)).tolist() == [5, 5, 9, NONE]
    masks[2, :8, 3:] = True  # 20 cells beside it, 4 of segment 1: 16 / 36 if all is labelled
    assert query_labels(masks, a_view(segments, (5, 9), True))[2] == NONE
    assert query_labels(masks, a_view(segments, (5, 9), False))[2] == 9  # 16 / 20


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StudyConfig:
    """Two photos, each a coloured square on grey; the words are two of COCO's."""
    from scanseg.training import mini_scan as training

    stored = []
    for number, (colour, label) in enumerate([((250, 30, 30), 0), ((30, 60, 250), 2)]):
        ids = np.ones((96, 96), np.uint16)
        ids[20:76, 20:76] = 2
        pixels = np.full((96, 96, 3), 128, np.uint8)
        pixels[ids == 2] = colour
        segments = PhotoSegments(ids, (131, label), everything=True)
        photo = Photo("coco_train", str(number), Path("x.jpg"), None, "coco133", exhaustive=133)
        stored.append(StoredPhoto(photo, pixels, None, {}, segments))
    monkeypatch.setattr(training, "photos_with_segments", lambda *_, **__: stored)
    monkeypatch.setattr(training, "WINDOW", 96)
    torch.manual_seed(0)
    save_decoder(tmp_path / "decoder.safetensors", MaskDecoder(**SMALL), {})
    return StudyConfig(
        tmp_path, tmp_path / "decoder.safetensors", tmp_path / "work", tmp_path / "out",
        steps=3, batch=2, views=2,
    )  # fmt: skip


def test_a_training_writes_a_model_and_shares_its_cache(study: StudyConfig) -> None:
    folder = train(study)
    model = Segmenter.from_pretrained(folder, device="cpu")
    assert model.integration is not None
    assert model.taught is not None
    assert len(model.taught) == 133
    cache = next(study.work.glob("mini_scan-*")) / "labels.npy"
    made = cache.stat().st_mtime_ns
    withhold = study.work / "withheld.txt"
    withhold.write_text("person\nzebra\n")
    other = replace(study, output=study.work / "b", sim=False, withhold=str(withhold))
    model = Segmenter.from_pretrained(train(other), device="cpu")
    assert model.integration is None
    assert len(model.taught) == 131
    assert cache.stat().st_mtime_ns == made
    found = model(np.zeros((64, 64, 3), np.uint8), ["person", "car"])
    assert found.labels.shape == (64, 64)
