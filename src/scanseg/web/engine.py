"""The process that decodes photos and runs the models.

It reads messages from a pipe, one after the other, and answers each: a JSON head and a body. It
holds what is expensive (networks) or risky (decoders of hostile bytes), so that the server's own
process stays small and can end this one at any time.
"""

from __future__ import annotations

import base64
import json
import signal
import time
import zlib
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from hashlib import sha256
from io import BytesIO
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any

import numpy as np

from scanseg.contracts import UNKNOWN, InputError, Mode, Segmentation
from scanseg.formats.overlay import draw_overlay
from scanseg.formats.palette import label_colours
from scanseg.formats.photos import PhotoLimits, PhotoTooLarge, read_photo
from scanseg.formats.png import indexed_png
from scanseg.formats.records import to_record
from scanseg.vocabulary import Vocabulary

if TYPE_CHECKING:
    from scanseg.segmenter import Segmenter

CONFIDENCE_STEPS = 200
"""Confidences in ``maps`` count the steps i / 200 that they reach."""
_REACHED = (np.arange(CONFIDENCE_STEPS + 1) / CONFIDENCE_STEPS).astype(np.float32)
LONGEST_MAP = 1600  # pixels; maps for the page are reduced to this long side
KEPT_PIXELS = 16_000_000  # of recent results, so that other outputs of them cost no second run


@dataclass(frozen=True)
class Preset:
    """A model that the server offers.

    Attributes:
        name: how requests call it.
        source: preset, folder or hub id, as ``Segmenter.from_pretrained`` takes it.
        weights: folder of a preset that ships no weights.
    """

    name: str
    source: str
    weights: str | None = None


@dataclass(frozen=True)
class Plan:
    """What an engine is started with."""

    presets: tuple[Preset, ...]
    device: str
    lazy: bool
    limits: PhotoLimits
    mode: Mode = "exact"


def main(connection: Connection, plan: Plan) -> None:
    """Answer messages until the other end closes the pipe, or the device fails for good."""
    for name in ("SIGINT", "SIGHUP"):  # Ctrl-C reaches the whole group; the server decides
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    engine = Engine(plan)
    try:
        if not plan.lazy:
            for preset in plan.presets:
                engine.model(preset.name)
    except InputError as error:
        _send(connection, {"failed": str(error)})
        return
    _send(connection, {"ready": True})
    while True:
        try:
            head, photo = connection.recv_bytes(), connection.recv_bytes()
        except (EOFError, OSError):
            return
        answer, body = engine.answer(json.loads(head), photo)
        _send(connection, answer, body)
        if answer.get("last"):
            return


def _send(connection: Connection, head: Mapping[str, Any], body: bytes = b"") -> None:
    connection.send_bytes(json.dumps(head).encode())
    connection.send_bytes(body)


class Engine:
    """Models by name, and the results that were asked for last."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self._models: dict[str, Segmenter] = {}
        self._kept: OrderedDict[str, Segmentation] = OrderedDict()

    def model(self, name: str) -> Segmenter:
        """The model of a preset, loaded at first use."""
        if name not in self._models:
            from scanseg.segmenter import Segmenter

            preset = next(p for p in self.plan.presets if p.name == name)
            self._models[name] = Segmenter.from_pretrained(
                preset.source,
                device=self.plan.device,
                weights=preset.weights,
                mode=self.plan.mode,
            )
        return self._models[name]

    def answer(self, job: Mapping[str, Any], photo: bytes) -> tuple[dict[str, Any], bytes]:
        """Do one job; never raises.

        Returns:
            The head (``status``; for errors ``message``; else ``type`` and ``seconds``) and the
            body of the HTTP answer. ``last`` in the head: no other job can be done, the process
            must end.
        """
        started = time.perf_counter()
        try:
            result, fresh = self._result(job, photo)
            kind, body = _written(result, job)
        except PhotoTooLarge as error:
            return {"status": 413, "message": str(error)}, b""
        except InputError as error:
            return {"status": 422, "message": str(error)}, b""
        except Exception as error:
            return _fault(error), b""
        seconds = time.perf_counter() - started
        return {"status": 200, "type": kind, "seconds": seconds, "fresh": fresh}, body

    def _result(self, job: Mapping[str, Any], data: bytes) -> tuple[Segmentation, bool]:
        """The segmentation, and whether it was computed now."""
        vocabulary = Vocabulary(job["labels"], background=job["background"])
        segmenter = self.model(job["preset"])
        default = segmenter.recipe.settings.unknown_below
        threshold = default if job["unknown_below"] is None else job["unknown_below"]
        question = json.dumps([job["preset"], job["labels"], job["background"]]).encode()
        key = sha256(sha256(data).digest() + question).hexdigest()
        whole = self._kept.get(key)
        fresh = whole is None
        if whole is None:
            file = BytesIO(data)
            file.name = job["name"] or "the photo"  # as messages call it
            photo = read_photo(file, limits=self.plan.limits)
            whole = segmenter(photo, vocabulary, unknown_below=0.0)
            self._keep(key, whole)
        else:
            self._kept.move_to_end(key)
        return with_unknown_below(whole, threshold), fresh

    def _keep(self, key: str, result: Segmentation) -> None:
        self._kept[key] = result
        while sum(r.labels.size for r in self._kept.values()) > KEPT_PIXELS:
            self._kept.popitem(last=False)


def _fault(error: Exception) -> dict[str, Any]:
    """The head of the answer to a job on which the model failed."""
    from scanseg.faults import device_is_lost, lacks_memory

    if lacks_memory(error):
        message = "this photo with these words needs more memory than there is: shrink it"
        return {"status": 413, "message": message}
    head = {"status": 500, "message": f"{type(error).__name__}: {error}"}
    return {**head, "last": True} if device_is_lost(error) else head


def with_unknown_below(result: Segmentation, threshold: float) -> Segmentation:
    """A result that was made with 0 as if it had been made with ``threshold``."""
    inference = {**result.settings["inference"], "unknown_below": threshold}
    labels = np.where(result.confidence < threshold, UNKNOWN, result.labels).astype(np.int32)
    return replace(result, labels=labels, settings={**result.settings, "inference": inference})


def _written(result: Segmentation, job: Mapping[str, Any]) -> tuple[str, bytes]:
    """The body that was asked for, and its media type."""
    if job["output"] == "map":
        return "image/png", indexed_png(result)
    if job["output"] == "overlay":
        return "image/png", _encoded(draw_overlay(result), "PNG")
    record = to_record(result, name=job["name"])
    if job["maps"]:
        record["maps"] = maps(result)
    if job["preview"]:
        record["preview"] = preview(result)
    return "application/json", json.dumps(record, ensure_ascii=False).encode(
        "utf-8", "backslashreplace"
    )


def maps(result: Segmentation) -> dict[str, Any]:
    """Label and confidence of every pixel for drawing, reduced to ``LONGEST_MAP``.

    ``labels`` holds ``label + 1`` as little-endian 16-bit numbers, ``confidence`` floor(200 c) in
    bytes, each written as its difference (modulo 256) from its left neighbour, the first of a row
    from 0. Both go row by row, are deflated (zlib) and coded in base 64. A threshold of i / 200
    divides these steps exactly as it divides the float32 confidences.
    """
    rows, columns = _reduced(result.labels.shape)
    labels = (result.labels[np.ix_(rows, columns)] + 1).astype("<u2")
    confidence = result.confidence[np.ix_(rows, columns)]
    steps = (np.searchsorted(_REACHED, confidence, side="right") - 1).astype(np.uint8)
    differences = np.diff(steps, axis=1, prepend=np.uint8(0))
    return {
        "width": len(columns),
        "height": len(rows),
        "labels": _packed(labels),
        "confidence": _packed(differences),
        "confidence_steps": CONFIDENCE_STEPS,
        "colours": ["#{:02x}{:02x}{:02x}".format(*c) for c in label_colours(len(result.names))],
    }


def preview(result: Segmentation) -> str:
    """The photo as the model saw it, a JPEG data URL of the maps' size."""
    from PIL import Image

    assert result.image is not None  # a segmenter keeps it
    rows, columns = _reduced(result.labels.shape)
    photo = Image.fromarray(result.image).resize((len(columns), len(rows)))
    return "data:image/jpeg;base64," + base64.b64encode(_encoded(photo, "JPEG")).decode()


def _reduced(shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns of the photo that the pixels of a reduced map stand for."""
    height, width = shape
    scale = min(1.0, LONGEST_MAP / max(shape))
    counts = max(1, round(height * scale)), max(1, round(width * scale))
    rows, columns = (
        ((np.arange(n) + 0.5) * side / n).astype(int) for n, side in zip(counts, shape, strict=True)
    )
    return rows, columns


def _packed(values: np.ndarray) -> str:
    return base64.b64encode(zlib.compress(values.tobytes(), 4)).decode()


def _encoded(picture: Any, kind: str) -> bytes:
    file = BytesIO()
    picture.save(file, kind)
    return file.getvalue()
