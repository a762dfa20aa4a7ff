"""Training of the mask decoder, on tiny synthetic data; values worked out by hand."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from scanseg.contracts import InputError
from scanseg.encoders.embedded import EmbeddedEncoder
from scanseg.proposals.mask_decoder import LAYERS
from scanseg.training import embedded_masks
from scanseg.training.embedded_masks import MasksConfig, fit, target_of
from scanseg.training.head_dataset import StoredPhoto, TrainingView
from scanseg.training.head_photos import Photo
from scanseg.training.head_segments import CROWD, PhotoSegments
from scanseg.training.small_loop import Loop


def a_view(segments: np.ndarray, labels: tuple[int, ...], everything: bool) -> TrainingView:
    side = 4 * segments.shape[0]
    rest = np.zeros((side // 8, side // 8), bool)
    pixels = torch.zeros(3, side, side, dtype=torch.uint8)
    return TrainingView(pixels, [], rest, "coco133", 80, -1, segments, labels, everything)


def test_masks_void_and_what_is_too_small() -> None:
    segments = np.zeros((8, 8), np.uint16)
    segments[:, :4], segments[0, 4:6], segments[7, 4:] = 2, 1, CROWD
    target = target_of(a_view(segments, (5, 7), everything=False))
    assert target.labels.tolist() == [0]  # segment 1 has two cells: too small
    np.testing.assert_array_equal(target.masks.numpy(), [segments == 2])
    assert target.void is not None
    np.testing.assert_array_equal(target.void.numpy(), segments != 2)
    assert not target.exhaustive
    assert target_of(a_view(segments, (5, 7), everything=True)).exhaustive
    nothing = target_of(a_view(np.zeros((8, 8), np.uint16), (), everything=True))
    assert nothing.masks.shape == (0, 8, 8)


def a_square() -> StoredPhoto:
    """A yellow square on black."""
    ids = np.zeros((96, 96), np.uint16)
    ids[:] = 1
    ids[24:72, 24:72] = 2
    pixels = np.zeros((96, 96, 3), np.uint8)
    pixels[ids == 2] = (250, 220, 30)
    segments = PhotoSegments(ids, (131, 17), everything=True)
    photo = Photo("coco_train", "x", Path("x.jpg"), None, "coco133", exhaustive=133)
    return StoredPhoto(photo, pixels, None, {}, segments)


def test_a_few_steps_find_a_square(tmp_path: Path) -> None:
    stored = a_square()
    config = MasksConfig(
        tmp_path, tmp_path, steps=40, batch=2, window=96, rate=2e-3, warmup=3, average=0.8,
        paste=0.0, queries=6, width=32, layers=1, points=256,
    )  # fmt: skip
    encoder = EmbeddedEncoder()
    decoder = fit(config, encoder, [stored])
    pixels = torch.from_numpy(stored.pixels).permute(2, 0, 1)[None]
    context = encoder.encode_image(pixels, layers=LAYERS)
    last = decoder(context)[-1]
    found = (last.mask_logits[0] > 0).numpy()
    assert stored.segments is not None
    true = stored.segments.ids[2::4, 2::4] == 2
    overlap = (found & true).sum((1, 2)) / np.maximum((found | true).sum((1, 2)), 1)
    sure = last.object_logits[0].softmax(-1)[:, 0].numpy() > 0.5
    assert overlap[sure].max() > 0.75  # one of the queries, and it says so


def test_a_checkpoint_of_other_settings_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedded_masks, "Loop", partial(Loop, save_every=1))
    config, file = MasksConfig(
        tmp_path, tmp_path, steps=1, batch=1, window=96, queries=6, width=32, layers=1, points=16,
    ), tmp_path / "state"  # fmt: skip
    encoder = EmbeddedEncoder()
    fit(config, encoder, [a_square()], file)
    moved = replace(config, data=tmp_path / "b", work=tmp_path / "b", name="b", threads=2)
    fit(moved, encoder, [a_square()], file)  # none of these decides the result
    with pytest.raises(InputError, match=r"rate = 0\.0005, not 0\.1: take another name"):
        fit(replace(config, rate=0.1), encoder, [a_square()], file)


def test_settings_out_of_range(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="multiple of 32"):
        MasksConfig(tmp_path, tmp_path, window=100)
    with pytest.raises(InputError, match="steps"):
        MasksConfig(tmp_path, tmp_path, steps=0)
