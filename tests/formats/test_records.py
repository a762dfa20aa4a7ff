"""Records and COCO: run lengths by hand and beside pycocotools, summaries beside ``segments``."""

from __future__ import annotations

import json

import numpy as np
import pytest

from scanseg.contracts import InputError, Segmentation
from scanseg.formats.records import decode_rle, encode_rle, to_record


def segmentation(labels: list[list[int]] | np.ndarray, names: str = "abc") -> Segmentation:
    array = np.array(labels, dtype=np.int32)
    confidence = np.full(array.shape, 0.5, dtype=np.float32)
    return Segmentation(array, tuple(names), confidence, settings={"preset": "tiny"}, notes=("n",))


def test_run_lengths_by_hand() -> None:
    mask = np.array([[0, 1, 1], [0, 1, 0]], dtype=bool)  # by columns: 0 0 | 1 1 | 1 0
    # counts 2 3 1, none above the third, so each is one character: 48 + count
    assert encode_rle(mask) == {"size": [2, 3], "counts": "231"}
    np.testing.assert_array_equal(decode_rle({"size": [2, 3], "counts": [2, 3, 1]}), mask)


def test_large_and_negative_numbers_by_hand() -> None:
    # 40 = 1 * 32 + 8: low group 8 with "more follow" (8 + 32 + 48 = "X"), then 1 ("1")
    mask = np.zeros((60, 1), dtype=bool)
    mask[40:42] = True
    mask[43:44] = True
    # counts 40 2 1 1 16; the fourth is written as 1 - 2 = -1: group 31, sign bit set, 79 = "O"
    # the fifth as 16 - 1 = 15: "?"
    assert encode_rle(mask)["counts"] == "X121O?"


def test_empty_and_full_masks() -> None:
    assert encode_rle(np.zeros((2, 2), dtype=bool))["counts"] == "4"
    assert encode_rle(np.ones((2, 2), dtype=bool))["counts"] == "04"


def test_run_lengths_equal_pycocotools() -> None:
    coco = pytest.importorskip("pycocotools.mask")
    rng = np.random.default_rng(0)
    for trial in range(200):
        mask = rng.random(rng.integers(1, 50, 2)) < rng.random()
        if trial % 3 == 0:  # long runs
            mask = np.kron(mask, np.ones(rng.integers(1, 60, 2), dtype=bool))
        theirs = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
        ours = encode_rle(mask)
        assert ours == {"size": theirs["size"], "counts": theirs["counts"].decode()}
        np.testing.assert_array_equal(decode_rle(ours), mask)


def test_counts_that_do_not_fill_the_mask() -> None:
    with pytest.raises(InputError, match="add up to 2 x 3"):
        decode_rle({"size": [2, 3], "counts": [2, 3]})
    with pytest.raises(InputError, match="add up"):
        decode_rle({"size": [2, 3], "counts": [-1, 7]})


def test_record_by_hand() -> None:
    record = to_record(segmentation([[0, 2, 2], [0, 2, -1]]), name="cat.jpg")
    assert record == {
        "image": {"width": 3, "height": 2, "name": "cat.jpg"},
        "labels": ["a", "b", "c"],
        "settings": {"preset": "tiny"},
        "notes": ["n"],
        "unknown_share": 0.166667,
        "segments": [
            {
                "label": 2,
                "name": "c",
                "score": 0.5,
                "area": 3,
                "share": 0.5,
                "bbox": [1, 0, 2, 2],
                "segmentation": {"size": [2, 3], "counts": "231"},
            },
            {
                "label": 0,
                "name": "a",
                "score": 0.5,
                "area": 2,
                "share": 0.333333,
                "bbox": [0, 0, 1, 2],
                "segmentation": {"size": [2, 3], "counts": "024"},
            },
        ],
    }
    json.dumps(record)


def test_nothing_found() -> None:
    record = to_record(segmentation([[-1, -1]]))
    assert record["segments"] == []
    assert record["unknown_share"] == 1.0


def test_records_agree_with_segments() -> None:
    rng = np.random.default_rng(3)
    for trial in range(60):
        labels = rng.integers(-1, 3, rng.integers(1, 12, 2)).astype(np.int32)
        if trial % 2:
            labels = np.kron(labels, np.ones(rng.integers(1, 9, 2), dtype=np.int32))
        confidence = rng.random(labels.shape).astype(np.float32)
        result = Segmentation(labels, ("a", "b", "c"), confidence)
        for found, segment in zip(to_record(result)["segments"], result.segments, strict=True):
            assert found["label"] == segment.label
            assert found["area"] == segment.area
            assert tuple(found["bbox"]) == segment.bbox
            assert found["score"] == pytest.approx(segment.score, abs=1e-6)
            np.testing.assert_array_equal(decode_rle(found["segmentation"]), segment.mask)


def test_coco_loads_in_pycocotools() -> None:
    coco_module = pytest.importorskip("pycocotools.coco")
    result = segmentation([[0, 2, 2], [0, 2, -1]])
    data = result.to_coco(image_id=7, file_name="cat.jpg")
    assert data["images"] == [{"id": 7, "width": 3, "height": 2, "file_name": "cat.jpg"}]
    assert [c["name"] for c in data["categories"]] == ["a", "b", "c"]
    coco = coco_module.COCO()
    coco.dataset = json.loads(json.dumps(data))
    coco.createIndex()
    for label in (0, 2):
        (annotation,) = coco.loadAnns(coco.getAnnIds(imgIds=[7], catIds=[label + 1]))
        np.testing.assert_array_equal(coco.annToMask(annotation), result.labels == label)
        assert annotation["area"] == (result.labels == label).sum()
