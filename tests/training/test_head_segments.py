"""Single objects of photos and pasting them, on tiny synthetic data; values worked out by hand."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from scanseg.training.head_dataset import StoredPhoto, TrainingView, draw_view
from scanseg.training.head_labels import Layer, SoftLabels
from scanseg.training.head_paste import Clippings, pasted
from scanseg.training.head_photos import Photo
from scanseg.training.head_segments import CROWD, PhotoSegments, read_photo_segments

pytest.importorskip("pycocotools")
SQUARE = [4, 4, 12, 4, 12, 12, 4, 12]  # x, y of the corners: columns and rows 4 to 11


def coco_photo(folder: Path, stem: str, exhaustive: int) -> Photo:
    path = folder / "images" / f"{stem}.jpg"
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (32, 24)).save(path)
    return Photo("coco_train", stem, path, None, "coco133", exhaustive=exhaustive)


def write_polygons(folder: Path) -> None:
    annotations = [
        {"image_id": 7, "category_id": 2, "iscrowd": 0, "area": 64, "segmentation": [SQUARE]},
        {
            "image_id": 7, "category_id": 0, "iscrowd": 0, "area": 320,
            "segmentation": [[0, 0, 20, 0, 20, 16, 0, 16]],
        },
        {
            "image_id": 7, "category_id": 5, "iscrowd": 1, "area": 8,
            "segmentation": {"size": [24, 32], "counts": [24 * 31, 8, 16]},
        },
    ]  # fmt: skip
    images = [{"id": 7, "file_name": "a.jpg"}]
    content = {"images": images, "annotations": annotations}
    (folder / "instances.json").write_text(json.dumps(content))


def test_polygons_small_over_large_and_crowds_below(tmp_path: Path) -> None:
    photo = coco_photo(tmp_path, "a", 80)
    write_polygons(tmp_path)
    found = read_photo_segments(photo)
    assert found is not None
    assert found.labels == (0, 2)  # the larger one was drawn first
    assert not found.everything
    expected = np.zeros((24, 32), int)
    expected[:8, 31] = CROWD
    expected[:16, :20] = 1
    expected[4:12, 4:12] = 2
    np.testing.assert_array_equal(found.ids, expected)
    rows, columns, mask = found.boxed(1)
    assert (rows, columns) == (slice(4, 12), slice(4, 12))
    assert mask.all()
    assert found.boxed(5)[2].size == 0


def test_panoptic_segments(tmp_path: Path) -> None:
    photo = coco_photo(tmp_path, "b", 133)
    colours = np.zeros((24, 32, 3), np.uint8)
    colours[:, :16, 0], colours[:, 16:24, 1], colours[:, 24:, 2] = 9, 1, 1  # ids 9, 256, 65536
    (tmp_path / "panoptic").mkdir()
    Image.fromarray(colours).save(tmp_path / "panoptic" / "b.png")
    segments = [
        {"id": 9, "category_id": 1, "iscrowd": 0},  # person
        {"id": 256, "category_id": 1, "iscrowd": 1},
        {"id": 65536, "category_id": 199, "iscrowd": 0},  # wall-other-merged
    ]
    index = {"annotations": [{"file_name": "b.png", "segments_info": segments}]}
    (tmp_path / "panoptic.json").write_text(json.dumps(index))
    found = read_photo_segments(photo)
    assert found is not None
    assert found.everything
    assert sorted(found.labels) == [0, 131]
    assert (found.ids[:, 16:24] == CROWD).all()
    assert (found.ids[:, :16] == found.labels.index(0) + 1).all()
    assert (found.ids[:, 24:] == found.labels.index(131) + 1).all()


def test_other_data_sets_tell_no_segments(tmp_path: Path) -> None:
    photo = coco_photo(tmp_path, "c", 80)
    assert read_photo_segments(Photo("x", "c", photo.image, None, "facades")) is None


def view_of(side: int, layers: list[Layer], segments: np.ndarray | None = None) -> TrainingView:
    cells = side // 8
    return TrainingView(
        torch.zeros(3, side, side, dtype=torch.uint8),
        layers,
        np.ones((cells, cells), bool),
        "coco133",
        80,
        -1,
        segments,
        (131,) if segments is not None else (),
    )


def test_what_is_pasted_covers_what_was_said_below() -> None:
    said = SoftLabels.hard(np.full((8, 8), 131, np.uint8))
    votes = SoftLabels(np.full((1, 8, 8), 3, np.uint8), np.full((1, 8, 8), 0.9, np.float32))
    layers = [Layer("coco133", said, 1.0), Layer("ade31", votes, 0.5)]
    view = view_of(64, layers, np.ones((16, 16), np.uint16))
    thing = np.full((20, 20, 3), 200, np.uint8)
    found = pasted(view, thing, np.ones((20, 20), bool), 17, random.Random(3))
    covered = (found.pixels[0] == 200).numpy()
    assert 0.15**2 * 64 * 64 * 0.3 < covered.sum() < 0.6**2 * 64 * 64
    cells = covered[4::8, 4::8]
    coco, ade = (layer.labels for layer in found.layers)
    np.testing.assert_array_equal(coco.ids[0] == 17, cells)
    assert (coco.shares == 1).all()  # the rest still says what it said
    assert (coco.ids[0][~cells] == 131).all()
    np.testing.assert_array_equal(ade.shares[0] == 0, cells)
    np.testing.assert_array_equal(found.rest, ~cells)
    np.testing.assert_array_equal(found.shows_itself, ~cells)
    assert view.shows_itself.all()
    assert found.segment_labels == (131, 17)
    assert found.segments is not None
    np.testing.assert_array_equal(found.segments == 2, covered[2::4, 2::4])
    assert (view.layers[0].labels.ids == 131).all()  # the view itself is as it was
    assert (view.pixels == 0).all()


def test_a_view_without_coco_labels_gets_a_layer_for_the_object() -> None:
    votes = SoftLabels.hard(np.full((8, 8), 3, np.uint8))
    view = view_of(64, [Layer("ade31", votes, 0.5)])
    thing = np.full((30, 30, 3), 9, np.uint8)
    found = pasted(view, thing, np.ones((30, 30), bool), 2, random.Random(0))
    assert [layer.vocabulary for layer in found.layers] == ["ade31", "coco133"]
    said = found.layers[1].labels
    cells = (found.pixels[0] == 9).numpy()[4::8, 4::8]
    np.testing.assert_array_equal(said.shares[0] == 1, cells)
    assert (said.ids[0][cells] == 2).all()
    assert found.segments is None


def test_clippings_are_things_that_are_large_enough() -> None:
    ids = np.zeros((96, 96), np.uint16)
    ids[:48, :48], ids[50:60, 50:60], ids[64:, :] = 1, 2, 3
    segments = PhotoSegments(ids, (16, 16, 131), everything=False)  # large, too small, stuff
    pixels = np.zeros((96, 96, 3), np.uint8)
    photo = Photo("coco_train", "x", Path("x.jpg"), None, "coco133")
    stored = StoredPhoto(photo, pixels, None, {}, segments)
    clippings = Clippings([stored])
    assert {k: [s for _, s in v] for k, v in clippings.of_class.items()} == {16: [0]}
    view = draw_view(stored, (96, 96), 96, random.Random(0))
    assert view.segments is not None
    found = clippings.paste(view, random.Random(0))
    assert found.segment_labels == (16, 16, 131, 16)
    nothing = Clippings([])
    assert nothing.paste(view, random.Random(0)) is view
