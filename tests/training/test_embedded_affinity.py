"""Training of the affinities, on tiny synthetic data; values worked out by hand."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from scanseg.contracts import InputError
from scanseg.encoders.embedded import EmbeddedEncoder
from scanseg.proposals.affinity import LAYERS, load_affinity
from scanseg.training import embedded_affinity
from scanseg.training.embedded_affinity import (
    OTHER,
    UNKNOWN,
    AffinityBatch,
    AffinityConfig,
    connected_parts,
    draw_pairs,
    fit,
    kinds,
    pair_loss,
)
from scanseg.training.head_dataset import StoredPhoto
from scanseg.training.head_labels import Layer, SoftLabels, something_else
from scanseg.training.head_photos import Photo
from scanseg.training.small_loop import Loop
from scanseg.weights import write_sized


def test_what_sources_say() -> None:
    ids = np.array([[3, 3, 20, 5]], np.uint8)
    shares = np.array([[1.0, 0.5, 0.9, 0.6]], np.float32)
    rest = np.array([[False, True, False, True]])
    assert something_else("voc21") == 20
    teacher = kinds(Layer("voc21", SoftLabels(ids[None], shares[None]), 0.5), rest)
    assert teacher.tolist() == [[3, UNKNOWN, UNKNOWN, 5]]
    truth = kinds(Layer("coco133", SoftLabels(ids[None], shares[None]), 1.0), rest)
    assert truth.tolist() == [[3, OTHER, 20, 5]]


def test_parts_are_connected_and_of_one_kind() -> None:
    ids = np.array([[0, 0, 1, 0], [UNKNOWN, OTHER, 1, 0]])
    parts = connected_parts(ids)
    assert parts.tolist() == [[1, 1, 3, 2], [0, 0, 3, 2]]


def test_pairs_are_of_known_kinds_and_weigh_alike() -> None:
    ids = np.full((12, 12), UNKNOWN)
    ids[:4], ids[4:8], ids[8:10] = 2, 7, OTHER
    pairs = draw_pairs(ids, 4000, np.random.default_rng(0))
    assert pairs is not None
    one, other = ids.ravel()[pairs.first], ids.ravel()[pairs.second]
    assert set(one) == {2, 7}
    assert set(other) == {2, 7, OTHER}  # never an unknown cell
    np.testing.assert_array_equal(pairs.same, one == other)
    assert (pairs.first != pairs.second).all()
    same = pairs.same > 0
    assert pairs.weight[same].sum() == pytest.approx(0.5, rel=1e-4)
    assert pairs.weight[~same].sum() == pytest.approx(0.5, rel=1e-4)


def test_small_parts_are_not_forgotten() -> None:
    """Parts of 1 and 100 cells are drawn 1 : 10, not 1 : 100."""
    ids = np.full((12, 12), UNKNOWN)
    ids[:10, :10], ids[11, 11] = 0, 1
    pairs = draw_pairs(ids, 20_000, np.random.default_rng(0))
    assert pairs is not None
    small = (pairs.first == 143).sum() / max(1, (pairs.first != 143).sum())
    assert 0.05 < small < 0.2


def test_one_kind_alone_counts_less_and_none_not_at_all() -> None:
    only = draw_pairs(np.zeros((4, 4), np.int64), 500, np.random.default_rng(0))
    assert only is not None
    assert only.weight.sum() == pytest.approx(0.5 * 0.6, rel=1e-4)
    assert draw_pairs(np.full((4, 4), OTHER), 500, np.random.default_rng(0)) is None
    lonely = np.full((4, 4), UNKNOWN)
    lonely[0] = 1
    assert draw_pairs(lonely, 500, np.random.default_rng(0)) is None  # fewer than eight cells


def test_the_loss_by_hand() -> None:
    """Log odds 0 and ln 3, both "same", weights 1 and 3: (ln 2 + 3 ln(4/3)) / 4."""
    nothing = torch.zeros(0, dtype=torch.int64)
    batch = AffinityBatch(None, nothing, nothing, torch.ones(2), torch.tensor([1.0, 3.0]))  # type: ignore[arg-type]
    loss = pair_loss(torch.tensor([0.0, np.log(3.0)]), batch)
    assert float(loss) == pytest.approx((np.log(2) + 3 * np.log(4 / 3)) / 4, rel=1e-5)


def a_square(folder: Path) -> StoredPhoto:
    """A yellow square on black."""
    ids = np.full((96, 96), 131, np.uint8)
    ids[24:72, 24:72] = 17
    pixels = np.zeros((96, 96, 3), np.uint8)
    pixels[ids == 17] = (250, 220, 30)
    photo = Photo("coco_train", "x", folder / "x.jpg", None, "coco133", exhaustive=133)
    return StoredPhoto(photo, pixels, ids, {})


def a_config(folder: Path, steps: int) -> AffinityConfig:
    return AffinityConfig(
        folder, folder, folder, steps=steps, batch=2, window=96, pairs=200, rate=2e-3, warmup=3,
        average=0.8, paste=0.0, width=16, features=4,
    )  # fmt: skip


def test_a_few_steps_tell_a_square_from_the_ground(tmp_path: Path) -> None:
    stored, encoder = a_square(tmp_path), EmbeddedEncoder()
    affinity = fit(a_config(tmp_path, 40), encoder, [stored])
    path = tmp_path / "a.safetensors"
    write_sized(path, affinity, {"photos": 1})
    pixels = torch.from_numpy(stored.pixels).permute(2, 0, 1)[None]
    with torch.inference_mode():
        context = encoder.encode_image(pixels, layers=LAYERS)
        places = load_affinity(path).places(context)[0].flatten(1).T
    assert stored.truth is not None
    square = torch.from_numpy(stored.truth[4::8, 4::8] == 17).flatten()
    apart = torch.cdist(places, places).square()
    between = apart[square][:, ~square].mean()
    assert between > 3 * apart[square][:, square].mean()
    assert between > 3 * apart[~square][:, ~square].mean()


def test_a_checkpoint_of_other_settings_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedded_affinity, "Loop", partial(Loop, save_every=1))
    config, file, encoder = a_config(tmp_path, 1), tmp_path / "state", EmbeddedEncoder()
    fit(config, encoder, [a_square(tmp_path)], file)
    moved = replace(config, data=tmp_path / "b", work=tmp_path / "b", name="b", threads=2)
    fit(moved, encoder, [a_square(tmp_path)], file)  # none of these decides the result
    with pytest.raises(InputError, match=r"rate = 0\.002, not 0\.1: take another name"):
        fit(replace(config, rate=0.1), encoder, [a_square(tmp_path)], file)


def test_settings_out_of_range(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="multiple of 32"):
        AffinityConfig(tmp_path, tmp_path, tmp_path, window=100)
    with pytest.raises(InputError, match="pairs"):
        AffinityConfig(tmp_path, tmp_path, tmp_path, pairs=0)


def test_the_notes_tell_the_training(tmp_path: Path) -> None:
    """The shipped file says how it was made."""
    from importlib import resources

    from safetensors import safe_open

    shipped = resources.files("scanseg.proposals") / "embedded_affinity.safetensors"
    with resources.as_file(shipped) as path, safe_open(path, "pt") as file:
        notes = json.loads(file.metadata()["notes"])
    assert notes["config"]["hold_out"] is True
    assert notes["config"]["recipe"] == "default"
