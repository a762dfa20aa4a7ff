from __future__ import annotations

import base64
import json
import zlib
from dataclasses import replace
from io import BytesIO
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from scanseg.contracts import Segmentation
from scanseg.formats.photos import PhotoLimits
from scanseg.web.engine import Engine, Plan, Preset, maps, preview, with_unknown_below

PLAN = Plan((Preset("tiny", "tiny"),), "cpu", True, PhotoLimits(max_pixels=10_000))


@pytest.fixture(scope="module")
def engine() -> Engine:
    return Engine(PLAN)


def job(**changes: Any) -> dict[str, Any]:
    plain = {
        "preset": "tiny",
        "labels": {"cat": [], "sofa": ["couch"], "sky": []},
        "background": None,
        "unknown_below": None,
        "output": "json",
        "maps": False,
        "preview": False,
        "name": "photo.png",
    }
    return {**plain, **changes}


def test_records_are_those_of_the_model(engine: Engine, png: bytes) -> None:
    from scanseg.formats.records import to_record

    head, body = engine.answer(job(), png)
    assert (head["status"], head["type"]) == (200, "application/json")
    expected = engine.model("tiny")(png, {"cat": [], "sofa": ["couch"], "sky": []})
    assert json.loads(body) == json.loads(json.dumps(to_record(expected, name="photo.png")))


def test_models_are_loaded_in_the_mode_of_the_server() -> None:
    fast = Engine(replace(PLAN, mode="fast")).model("tiny").recipe.settings
    plain = Engine(PLAN).model("tiny").recipe.settings
    assert fast == plain.replace(region_overlap=0.9, hopeless_below=0.4)


def test_a_threshold_afterwards_is_the_threshold_before(engine: Engine, png: bytes) -> None:
    words = ["cat", "sofa", "sky"]
    whole = engine.model("tiny")(png, words)
    threshold = float(np.median(whole.confidence))  # half of the pixels lie on each side
    before = engine.model("tiny")(png, words, unknown_below=threshold)
    after = with_unknown_below(whole, threshold)
    assert (before.labels < 0).any()
    assert (before.labels >= 0).any()
    np.testing.assert_array_equal(after.labels, before.labels)
    assert after.settings == before.settings


def test_other_outputs_of_a_result_cost_no_second_run(engine: Engine, png: bytes) -> None:
    first, _ = engine.answer(job(background=["wall"]), png)
    second, body = engine.answer(job(background=["wall"], output="map", unknown_below=0.5), png)
    other, _ = engine.answer(job(background=[]), png)
    assert (first["fresh"], second["fresh"], other["fresh"]) == (True, False, True)
    assert Image.open(BytesIO(body)).mode == "P"
    overlay, body = engine.answer(job(background=["wall"], output="overlay"), png)
    assert overlay["type"] == "image/png"
    assert Image.open(BytesIO(body)).mode == "RGB"


def test_kept_results_are_bounded(png: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scanseg.web.engine.KEPT_PIXELS", 2 * 48 * 64)
    engine = Engine(PLAN)
    for name in ("a", "b", "c"):
        engine.answer(job(labels={name: [], "sky": []}), png)
    assert len(engine._kept) == 2
    head, _ = engine.answer(job(labels={"c": [], "sky": []}), png)
    assert not head["fresh"]


def test_maps_hold_every_pixel() -> None:
    labels = np.array([[0, 0, 1], [2, -1, 299]], dtype=np.int32)
    confidence = np.array([[0.0, 0.5, 1.0], [0.0049, 0.005, 0.07]], dtype=np.float32)
    names = tuple(f"word {i}" for i in range(300))
    found = maps(Segmentation(labels, names, confidence))
    assert (found["width"], found["height"], found["confidence_steps"]) == (3, 2, 200)
    assert len(found["colours"]) == 300
    assert found["colours"][0] == "#3c87e1"
    values = np.frombuffer(zlib.decompress(base64.b64decode(found["labels"])), "<u2")
    assert values.tolist() == [1, 1, 2, 3, 0, 300]
    steps = np.frombuffer(zlib.decompress(base64.b64decode(found["confidence"])), np.uint8)
    # floor(200 c) = 0 100 200 | 0 1 14, then differences along each row
    assert steps.tolist() == [0, 100, 100, 0, 1, 13]


def test_steps_divide_pixels_as_confidences_do() -> None:
    exact = (np.arange(201) / 200).astype(np.float32)
    beside = np.concatenate([np.nextafter(exact, np.float32(0)), exact])
    confidence = np.concatenate([beside, np.nextafter(exact, np.float32(2))]).clip(0, 1)[None]
    found = maps(Segmentation(np.zeros_like(confidence, np.int32), ("cat",), confidence))
    differences = np.frombuffer(zlib.decompress(base64.b64decode(found["confidence"])), np.uint8)
    steps = np.cumsum(differences, dtype=np.uint8)
    for i in range(201):
        unknown = confidence[0] < np.float32(i / 200)
        np.testing.assert_array_equal(steps < i, unknown)


def test_maps_of_large_photos_are_reduced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scanseg.web.engine.LONGEST_MAP", 4)
    labels = np.repeat(np.arange(8, dtype=np.int32)[None], 4, axis=0)
    image = np.zeros((4, 8, 3), np.uint8)
    result = Segmentation(labels, tuple("abcdefgh"), np.ones((4, 8), np.float32), image=image)
    found = maps(result)
    assert (found["width"], found["height"]) == (4, 2)
    values = np.frombuffer(zlib.decompress(base64.b64decode(found["labels"])), "<u2")
    assert values.reshape(2, 4).tolist() == [[2, 4, 6, 8]] * 2  # centres of pairs: columns 1 3 5 7
    picture = base64.b64decode(preview(result).removeprefix("data:image/jpeg;base64,"))
    assert Image.open(BytesIO(picture)).size == (4, 2)


@pytest.mark.parametrize(
    ("photo", "changes", "status", "message"),
    [
        (b"", {}, 422, "photo.png is empty"),
        (b"no image", {"name": ""}, 422, "the photo is not an image"),
        (b"\x89PNG\r\n\x1a\n" + b"\0" * 40, {}, 422, "truncated or damaged"),
        (None, {"labels": {"": []}}, 422, "a label is empty"),
        (None, {"preset": "other"}, 500, "StopIteration"),
    ],
)
def test_answers_never_raise(
    engine: Engine,
    png: bytes,
    photo: bytes | None,
    changes: dict[str, Any],
    status: int,
    message: str,
) -> None:
    head, body = engine.answer(job(**changes), png if photo is None else photo)
    assert head["status"] == status
    assert message in head["message"]
    assert body == b""


@pytest.mark.parametrize(
    ("fault", "status", "last"),
    [
        (torch.AcceleratorError("CUDA error: an illegal memory access was encountered"), 500, True),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), 500, True),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), 413, False),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), 413, False),
        (RuntimeError("memory format is not contiguous"), 500, False),
    ],
)
def test_faults_of_the_model(
    png: bytes, monkeypatch: pytest.MonkeyPatch, fault: Exception, status: int, last: bool
) -> None:
    def forward(*arguments: Any) -> Any:
        raise fault

    engine = Engine(PLAN)
    monkeypatch.setattr(engine.model("tiny"), "forward", forward)
    head, _ = engine.answer(job(), png)
    assert (head["status"], head.get("last", False)) == (status, last)
    assert ("shrink it" in head["message"]) == (status == 413)


def test_too_many_pixels_are_refused_unread(engine: Engine) -> None:
    file = BytesIO()
    Image.new("L", (101, 100)).save(file, "PNG")
    head, _ = engine.answer(job(), file.getvalue())
    assert head["status"] == 413
    assert "101 x 100" in head["message"]
