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
from scanseg.mini_scan import LAYERS, STATE_WIDTH, Frozen, MiniScanConfig, region_states
from scanseg.training.head_dataset import StoredPhoto, TrainingView
from scanseg.training.head_photos import Photo
from scanseg.training.head_segments import CROWD, PhotoSegments
from scanseg.training.mini_scan import NONE, StudyConfig, region_labels, train
from scanseg.training.small_loop import Loop

CONFIG = MiniScanConfig(region_size=64)


@pytest.fixture(scope="module")
def frozen() -> Frozen:
    return Frozen.load(CONFIG)


def a_model(frozen: Frozen, **changes: object) -> Segmenter:
    torch.manual_seed(0)
    taught = torch.nn.functional.normalize(torch.randn(3, 384), dim=-1)
    return mini_scan.build(replace(CONFIG, **changes), taught, frozen)


class Triangles(torch.nn.Module):
    """A model's proposals with triangles in place of their masks: they leave background."""

    def __init__(self, made: torch.nn.Module) -> None:
        super().__init__()
        self.made = made

    def forward(self, pixels: torch.Tensor, context: ClipTokens) -> Proposals:
        found = self.made(pixels, context)
        return replace(found, masks=torch.ones_like(found.masks).tril())


def a_photo() -> np.ndarray:
    """Coloured tiles."""
    tiles = np.random.default_rng(0).integers(0, 256, (6, 9, 3)).astype(np.uint8)
    return tiles.repeat(10, 0).repeat(10, 1)


def test_every_part_of_the_method_takes_part(frozen: Frozen) -> None:
    model = a_model(frozen)
    pixels = torch.from_numpy(a_photo()).permute(2, 0, 1)[None]
    text, owners = model.encode(["cat", "dog"])
    settings = model.recipe.settings
    model.proposals = Triangles(model.proposals)
    with torch.inference_mode():
        found = model.forward(pixels, text, owners, settings)
        unshifted = model.forward(pixels, text, owners, settings.replace(shift_source="none"))
        model.integration = None
        plain = model.forward(pixels, text, owners, settings)
    assert found.scores.shape == (1, found.proposals.masks.shape[1], 2)
    assert found.scores.shape[1] > 30
    assert found.features is not None
    assert unshifted.features is not None
    assert not torch.allclose(found.features, unshifted.features)  # eq. 5
    assert not torch.allclose(found.embeddings, plain.embeddings)  # eq. 1-3
    mixed = found.p_in**0.3 * found.p_clip**0.7
    other = found.p_in**0.7 * found.p_clip**0.3
    weights = model.ensemble_weights(text, owners, settings)
    assert isinstance(weights, torch.Tensor)
    assert weights.tolist() == pytest.approx([0.7, 0.7])  # the taught words are random
    torch.testing.assert_close(found.scores, mixed)
    assert not torch.allclose(found.scores, other)


@pytest.mark.parametrize("sim", [True, False])
def test_a_saved_model_says_the_same(sim: bool, frozen: Frozen, tmp_path: Path) -> None:
    model = a_model(frozen, integration=mini_scan.INTEGRATION if sim else None)
    folder = model.save_pretrained(tmp_path / "m")
    again = Segmenter.from_pretrained(folder, device="cpu")
    first, second = (m(a_photo(), ["cat", "dog"]) for m in (model, again))
    np.testing.assert_array_equal(first.labels, second.labels)
    torch.testing.assert_close(again.taught, model.taught)
    assert (again.integration is not None) == sim


def test_what_the_tower_holds_under_a_mask(frozen: Frozen) -> None:
    """The mean of a stage's tokens over whole cells, then zero mean and unit variance."""
    pixels = torch.from_numpy(a_photo()).permute(2, 0, 1)[None]  # 60 x 90: cells reach beyond it
    tokens = frozen.encoder.encode_image(pixels, layers=LAYERS)
    masks = torch.zeros(1, 3, 60, 90)
    masks[0, 0, :32, 32:64] = 1  # one cell at stride 32, 2 x 2 at 16, 4 x 4 at 8
    masks[0, 1, 56:] = 1  # the last row of cells at stride 8, half of it beyond the photo
    states = region_states(masks, tokens)
    assert states.shape == (1, 3, STATE_WIDTH)
    assert not states[0, 2].any()  # an empty mask

    def standardised(values: torch.Tensor) -> torch.Tensor:
        return (values - values.mean()) / (values.var(correction=0) + 1e-5).sqrt()

    fine, middle = tokens.feature_map(1)[0], tokens.feature_map(2)[0]  # (40, 8, 12), (112, 4, 6)
    torch.testing.assert_close(
        states[0, 0, :40], standardised(fine[:, :4, 4:8].mean((1, 2))), rtol=0, atol=1e-4
    )
    torch.testing.assert_close(
        states[0, 0, 40:152], standardised(middle[:, :2, 2:4].mean((1, 2))), rtol=0, atol=1e-4
    )
    last = fine[:, 7]  # 12 columns, of which 11 are whole and the last holds 2 pixels of 8
    share = torch.tensor([8.0] * 11 + [2.0])
    torch.testing.assert_close(
        states[0, 1, :40], standardised(last @ (share / share.sum())), rtol=0, atol=1e-4
    )


def test_regions_of_another_head_are_refused(frozen: Frozen, tmp_path: Path) -> None:
    folder = a_model(frozen).save_pretrained(tmp_path / "m")
    config = json.loads((folder / "config.json").read_text())
    config["model"]["masks"] = "0" * 12
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match=r"from the dense head 000000000000.*train it again"):
        Segmenter.from_pretrained(folder, device="cpu")


def test_a_config_that_describes_something_else(frozen: Frozen, tmp_path: Path) -> None:
    folder = a_model(frozen).save_pretrained(tmp_path / "m")
    config = json.loads((folder / "config.json").read_text())
    for change in ({"model": None}, {"model": {}}, {"model": {**config["model"], "x": 1}}):
        (folder / "config.json").write_text(json.dumps({**config, **change}))
        with pytest.raises(InputError, match=r"describes no mini_scan model"):
            Segmenter.from_pretrained(folder, device="cpu")


def a_view(segments: np.ndarray, labels: tuple[int, ...], everything: bool) -> TrainingView:
    pixels = torch.zeros(3, 32, 32, dtype=torch.uint8)
    rest = np.zeros((4, 4), bool)
    return TrainingView(pixels, [], rest, "coco133", 80, -1, segments, labels, everything)


def test_a_region_is_worth_the_class_that_covers_half_of_it() -> None:
    segments = np.zeros((8, 8), np.uint16)
    segments[:4, :4], segments[:4, 4:], segments[4, :4], segments[7] = 1, 2, 3, CROWD
    masks = np.zeros((6, 8, 8), bool)
    masks[0, 1, :3] = True  # a part of segment 1
    masks[1, :4, :7] = True  # 16 cells of segment 1 and 12 of segment 2
    masks[2, 3:5, :4] = True  # segments 1 and 3, half each
    masks[3, 4:7, :4] = True  # 4 cells of segment 3, 8 that nobody labelled
    masks[4, 4:8, 0] = True  # 1 of segment 3, 2 that nobody labelled, 1 of the crowd
    masks[5, 7] = True  # a crowd
    labels = region_labels(masks, a_view(segments, (5, 9, 2), True))
    assert labels.tolist() == [5, 5, 2, NONE, NONE, NONE]
    same = region_labels(masks, a_view(segments, (5, 9, 5), True))  # both segments are one class
    assert same.tolist() == [5, 5, 5, NONE, NONE, NONE]
    masks[3, 6] = False  # 4 and 4
    assert region_labels(masks, a_view(segments, (5, 9, 2), False))[3] == 2


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
    return StudyConfig(tmp_path, tmp_path / "work", tmp_path / "out", steps=3, batch=2, views=2)


def test_a_training_writes_a_model_and_shares_its_cache(study: StudyConfig) -> None:
    folder = train(study)
    model = Segmenter.from_pretrained(folder, device="cpu")
    assert model.integration is not None
    assert model.taught is not None
    assert len(model.taught) == 133
    cache = next(study.work.glob("mini_scan-*")) / "labels.npy"
    made = cache.stat().st_mtime_ns
    other = replace(study, output=study.work / "b", sim=False, withheld=("person", "zebra"))
    model = Segmenter.from_pretrained(train(other), device="cpu")
    assert model.integration is None
    assert len(model.taught) == 131
    assert cache.stat().st_mtime_ns == made
    found = model(np.zeros((64, 64, 3), np.uint8), ["person", "car"])
    assert found.labels.shape == (64, 64)


def test_a_checkpoint_of_another_row_is_refused(
    study: StudyConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only folders and threads may differ."""
    from scanseg.training import mini_scan as training

    class Eager(Loop):  # type: ignore[type-arg]
        def __init__(self, **given: object) -> None:
            super().__init__(**{**given, "save_every": 1})  # type: ignore[arg-type]

    monkeypatch.setattr(training, "Loop", Eager)
    row = replace(study, steps=1)
    train(row)
    train(replace(row, threads=2))
    for change in ({"sim": False}, {"withheld": ("zebra",)}):
        with pytest.raises(InputError, match=f"{next(iter(change))} = .*take another name"):
            train(replace(row, **change))
