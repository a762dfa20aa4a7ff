"""COCO files whose entries name no file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from scanseg.contracts import InputError
from scanseg.evaluation.coco_maps import open_coco
from scanseg.formats.records import encode_rle


@pytest.mark.parametrize("name", ["", "/", "."])
@pytest.mark.parametrize("content", [{"segments_info": []}, {"category_id": 1, "segmentation": []}])
def test_an_empty_file_name_is_a_mistake_of_the_file(
    tmp_path: Path, name: str, content: dict[str, Any]
) -> None:
    path = tmp_path / "coco.json"
    path.write_text(json.dumps({"annotations": [{"file_name": name, **content}]}))
    with pytest.raises(InputError, match=f"{path}: .* file_name"):
        open_coco(path, ["cat"], [1], "truth")


def _masks(path: Path, *names: str) -> dict[str, Any]:
    """A file in which image i is 1 x 4 pixels, the first i of them a cat."""
    entries = [
        {"image_id": i, "category_id": 1, "segmentation": encode_rle(np.arange(4)[None] < i)}
        for i in range(1, len(names) + 1)
    ]
    images = [
        {"id": i, "file_name": name, "height": 1, "width": 4} for i, name in enumerate(names, 1)
    ]
    path.write_text(json.dumps({"images": images, "annotations": entries}))
    return {"path": path, "names": ["cat"], "official": [1], "role": "truth"}


@pytest.mark.parametrize(
    ("names", "keys"),
    [
        (["a/x.jpg", "b/x.jpg"], ("a/x", "b/x")),
        (["./a/x.jpg", "b\\x.jpg", "y.jpg"], ("a/x", "b/x", "y")),
        (["images/x.jpg", "images/y.jpg"], ("x", "y")),
        (["x.1.jpg", "y.jpg"], ("x.1", "y")),
    ],
)
def test_equal_names_in_folders_are_different_images(
    tmp_path: Path, names: list[str], keys: tuple[str, ...]
) -> None:
    maps = open_coco(**_masks(tmp_path / "coco.json", *names))
    assert maps.keys == keys
    for i, key in enumerate(keys, 1):
        assert (maps.labels(key) == 0).sum() == i


def test_entries_with_file_names_find_the_listed_images(tmp_path: Path) -> None:
    path = tmp_path / "coco.json"
    for names, named, key in (
        (("a/x.jpg", "b/x.jpg"), "b/x.png", "b/x"),
        (("val/x.jpg", "val/y.jpg"), "x.jpg", "x"),
    ):
        arguments = _masks(path, *names)
        content = json.loads(path.read_text())
        entry = {**content["annotations"][0], "file_name": named}
        path.write_text(json.dumps({**content, "annotations": [entry]}))
        maps = open_coco(**arguments)
        assert len(maps.keys) == 2
        assert (maps.labels(key) == 0).sum() == 1


def test_images_of_one_name_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="two images are named a/x"):
        open_coco(**_masks(tmp_path / "coco.json", "a/x.jpg", "a/x.png", "b/x.png"))


def test_panoptic_maps_in_folders(tmp_path: Path) -> None:
    annotations = []
    for folder, number in (("a", 1), ("b", 2)):
        (tmp_path / "coco" / folder).mkdir(parents=True)
        ids = np.zeros((1, 4, 3), np.uint8)
        ids[0, :number, 0] = 1
        Image.fromarray(ids).save(tmp_path / f"coco/{folder}/x.png")
        segments = [{"id": 1, "category_id": 1}]
        annotations.append({"file_name": f"{folder}/x.png", "segments_info": segments})
    path = tmp_path / "coco.json"
    path.write_text(json.dumps({"annotations": annotations}))
    maps = open_coco(path, ["cat"], [1], "truth")
    assert maps.keys == ("a/x", "b/x")
    assert [(maps.labels(key) == 0).sum() for key in maps.keys] == [1, 2]
    path.write_text(json.dumps({"annotations": [*annotations, annotations[0]]}))
    with pytest.raises(InputError, match="two annotations have the same file_name"):
        open_coco(path, ["cat"], [1], "truth")
