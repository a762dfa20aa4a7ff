"""Segmentation -> supervision.Detections."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from scanseg.contracts import MissingExtra, Segmentation


def segmentation(labels: list[list[int]]) -> Segmentation:
    array = np.array(labels, dtype=np.int32)
    return Segmentation(array, ("cat", "sofa"), np.full(array.shape, 0.5, np.float32))


def test_rows() -> None:
    pytest.importorskip("supervision")
    found = segmentation([[0, 1, 1], [0, 1, -1]]).to_detections()
    assert len(found) == 2
    assert found.xyxy.tolist() == [[1, 0, 3, 2], [0, 0, 1, 2]]
    assert found.class_id.tolist() == [1, 0]
    assert found.confidence.tolist() == [0.5, 0.5]
    assert found.data["class_name"].tolist() == ["sofa", "cat"]
    assert found.mask.tolist() == [
        [[False, True, True], [False, True, False]],
        [[True, False, False], [True, False, False]],
    ]


def test_nothing_found() -> None:
    pytest.importorskip("supervision")
    assert len(segmentation([[-1]]).to_detections()) == 0


def test_without_supervision(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "supervision", None)
    with pytest.raises(MissingExtra, match=r'pip install "scanseg\[formats\]"'):
        segmentation([[0]]).to_detections()
