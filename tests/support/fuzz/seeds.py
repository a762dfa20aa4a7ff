"""Inputs to start from: small valid files of every kind, and hand-made hostile ones."""

from __future__ import annotations

import csv
import gzip
import io
import json
import pickle
import sqlite3
import struct
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Sequence
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

RUN = {"model": "tiny", "seed": 0}
IMAGES = [
    {"id": i, "file_name": f"{n}.jpg", "height": 6, "width": 8} for i, n in ((1, "a"), (2, "b"))
]
BOUNDARY = "edge"


def _saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def _pixels(height: int = 24, width: int = 32) -> np.ndarray:
    rows, columns = np.mgrid[:height, :width]
    return np.stack([8 * columns, 10 * rows, 255 - 8 * columns], 2).astype(np.uint8)


def png(
    width: int, height: int, colour: int = 2, depth: int = 8, data: bytes = b"", **chunks: bytes
) -> bytes:
    """A PNG of any announced size around compressed ``data``."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        )

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    between = b"".join(chunk(name.encode(), body) for name, body in chunks.items())
    packed = zlib.compress(data, 9)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + between
        + chunk(b"IDAT", packed)
        + chunk(b"IEND", b"")
    )


@cache
def photos() -> Sequence[bytes]:
    """Every format and mode, and bombs."""
    rgb = Image.fromarray(_pixels())
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "a" * 500
    found = [
        *(_saved(rgb, kind) for kind in ("JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP", "DIB", "PPM", "JPEG2000", "AVIF", "QOI")),
        *(_saved(rgb.convert(mode), "PNG") for mode in ("1", "L", "LA", "P", "RGBA", "I;16")),
        *(_saved(rgb.convert(mode), "TIFF") for mode in ("1", "L", "CMYK", "YCbCr", "LAB", "I", "F")),
        *(_saved(rgb, "TIFF", compression=c) for c in ("tiff_lzw", "tiff_adobe_deflate", "jpeg", "packbits")),
        _saved(rgb.convert("CMYK"), "JPEG"),
        _saved(rgb, "JPEG", progressive=True, exif=exif, icc_profile=b"\0" * 300),
        _saved(rgb, "MPO", save_all=True, append_images=[rgb]),
        *(_saved(rgb, k, save_all=True, append_images=[rgb.rotate(90), rgb]) for k in ("GIF", "PNG", "WEBP", "TIFF")),
        _saved(rgb, "PNG", exif=exif),
        b"P6 8 6 255\n" + bytes(144), b"P1 3 3\n" + b"1 " * 9, b"Pf 2 2 -1.0\n" + bytes(16),
        png(60_000, 60_000), png(100_000, 1, data=bytes(300_001)), png(1, 100_000), png(0, 5),
        png(2**31 - 1, 2**31 - 1), png(11_000, 10_900, 0, 1, bytes(15_000_000)),
        png(8, 6, data=bytes(150), tEXt=b"a\0" + b"b" * 100),
        png(8, 6, data=bytes(150), zTXt=b"a\0\0" + zlib.compress(bytes(60_000_000), 9)),
        png(8, 6, data=bytes(150), iCCP=b"a\0\0" + zlib.compress(bytes(60_000_000), 9)),
        png(8, 6, data=bytes(50_000_000)),
        b"", b"<svg xmlns='http://www.w3.org/2000/svg'/>", b"%PDF-1.7", b"<!doctype html>", b"GIF89a",
        b"\0\0\0\x18ftypheic" + bytes(40), b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
    ]  # fmt: skip
    return tuple(found)


@cache
def maps() -> Sequence[bytes]:
    """Label maps, ours and others'."""
    from scanseg.contracts import Segmentation
    from scanseg.formats.png import indexed_png

    labels = np.arange(48, dtype=np.int32).reshape(6, 8) % 4 - 1
    names = ("wall", "building", "sky", "cat")
    ours = indexed_png(Segmentation(labels, names, np.ones((6, 8), np.float32)))
    values = (labels + 1).astype(np.uint8)
    about = json.dumps({"names": ["wall"] * 50, "offset": 10**9}).encode()
    return (
        ours,
        _saved(Image.fromarray(values), "PNG"),
        _saved(Image.fromarray(values.astype(np.uint16)), "PNG"),
        _saved(Image.fromarray(values).convert("P"), "PNG", bits=4),
        _saved(Image.fromarray(_pixels()), "PNG"),
        png(60_000, 60_000, 0),
        png(8, 6, 0, data=bytes(54), tEXt=b"scanseg\0" + about),
        png(8, 6, 0, data=bytes(54), zTXt=b"scanseg\0\0" + zlib.compress(b"[" * 900_000)),
        *(photos()[i] for i in (0, 2, 11, 14)),
    )


def panoptic_png() -> bytes:
    """6 x 8 pixels, segments 1 and 2."""
    pixels = np.zeros((6, 8, 3), np.uint8)
    pixels[:3, :, 0], pixels[3:, :, 0] = 1, 2
    return _saved(Image.fromarray(pixels), "PNG")


@cache
def matlab() -> Sequence[bytes]:
    """MATLAB 5 files, packed and not."""
    from scipy.io import savemat

    found = []
    for packed in (False, True):
        for value in (np.arange(48.0).reshape(6, 8), np.array([{"a": [1, 2]}], object), "text"):
            file = io.BytesIO()
            savemat(file, {"LabelMap": value}, do_compression=packed)
            found.append(file.getvalue())
    return tuple(found)


# ------------------------------------------------------------------------------ archives

_BAD_NAMES = (
    "../out.jpg", "/etc/passwd", "a/../../b.jpg", "C:\\x.jpg", "a\\..\\b.jpg", "a.jpg", "A.JPG", "a.jpg",
    "a\0.jpg", "", ".", "x" * 300 + ".jpg", "\u202egpj.exe", "a/b/c/d.jpg", "caf\u00e9.jpg", "cafe\u0301.jpg",
)  # fmt: skip


@cache
def zips() -> Sequence[bytes]:
    """Traversal, bombs, duplicates, links and lies."""
    found = []
    for names in (
        ("a.jpg", "b/c.png"),
        *((name,) for name in _BAD_NAMES),
        ("a.jpg", "A.jpg", "a.jpg"),
    ):
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
            for name in names:
                archive.writestr(zipfile.ZipInfo(name or "x"), b"hello" * 20)
        found.append(file.getvalue())
    bomb = io.BytesIO()
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bomb.jpg", bytes(30_000_000))
        link = zipfile.ZipInfo("link.jpg")
        link.external_attr = 0o120777 << 16
        archive.writestr(link, "/etc/passwd")
    found.append(bomb.getvalue())
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w", method) as archive:
            archive.writestr("a.jpg", b"x" * 2000)
        found.append(file.getvalue())
    return tuple(found)


@cache
def tars() -> Sequence[bytes]:
    """Traversal, links, devices, sparse files and giant headers."""
    found = []
    for form in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        file = io.BytesIO()
        with tarfile.open(fileobj=file, mode="w", format=form) as tar:
            for name in ("000.jpg", "000.json", "001.png", "d/" * 60 + "x.jpg"):
                entry = tarfile.TarInfo(name)
                entry.size = 300
                tar.addfile(entry, io.BytesIO(bytes(300)))
        found.append(file.getvalue())
    for name in _BAD_NAMES:
        found.append(_tar_of(name, tarfile.REGTYPE))
    for kind in (
        tarfile.SYMTYPE,
        tarfile.LNKTYPE,
        tarfile.CHRTYPE,
        tarfile.BLKTYPE,
        tarfile.FIFOTYPE,
        tarfile.DIRTYPE,
        tarfile.GNUTYPE_SPARSE,
    ):
        found.append(_tar_of("a.jpg", kind))
    for kind in (tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE, tarfile.XGLTYPE):
        entry = tarfile.TarInfo("x")
        entry.type, entry.size = kind, 2**33
        found.append(entry.tobuf(tarfile.GNU_FORMAT) + bytes(1024))
    pax = b"30 size=99999999999999999999\n"
    entry = tarfile.TarInfo("x")
    entry.type, entry.size = tarfile.XHDTYPE, len(pax)
    found.append(entry.tobuf() + pax.ljust(512, b"\0") + _tar_of("a.jpg", tarfile.REGTYPE))
    return tuple(found)


def _tar_of(name: str, kind: bytes) -> bytes:
    entry = tarfile.TarInfo(name)
    entry.type, entry.linkname = kind, "/etc/passwd"
    entry.size = 20 if kind == tarfile.REGTYPE else 0
    body = bytes(512) if entry.size else b""
    return entry.tobuf(tarfile.PAX_FORMAT, errors="surrogateescape") + body + bytes(1024)


@cache
def gzips() -> Sequence[bytes]:
    """Small ones, a bomb, several members."""
    return (
        gzip.compress(tars()[0]),
        gzip.compress(bytes(40_000_000)),
        gzip.compress(b"a") * 50,
        gzip.compress(b"a")[:-3],
    )


# ------------------------------------------------------------------------------- weights


def _safetensors(header: object, body: bytes = b"", length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + body


@cache
def safetensors() -> Sequence[bytes]:
    """Headers that lie about lengths, shapes and types."""
    one = {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}
    return (
        _safetensors({"a": one, "__metadata__": {"format": "pt"}}, bytes(24)),
        *(
            _safetensors({"a": {**one, "dtype": kind, "shape": [24 // size]}}, bytes(24))
            for kind, size in (("F64", 8), ("BF16", 2), ("I64", 8), ("U8", 1), ("BOOL", 1), ("F8_E4M3", 1), ("U16", 2))
        ),
        *(_safetensors({"a": one}, bytes(24), length=n) for n in (2**60, 2**63, 2**64 - 1, 10**8, 0)),
        _safetensors({"a": {**one, "shape": [2**40, 2**40]}}, bytes(24)),
        _safetensors({"a": {**one, "shape": [0, 2**62], "data_offsets": [0, 0]}}),
        _safetensors({"a": {**one, "shape": [1] * 500 + [6]}}, bytes(24)),
        _safetensors({"a": one, "b": one}, bytes(24)),
        _safetensors({"a": {**one, "data_offsets": [0, 2**60]}}, bytes(24)),
        _safetensors(b"[" * 60_000),
        _safetensors(b'{"a":' * 30_000 + b"}" * 30_000),
    )  # fmt: skip


class _Runs:
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        import os

        return os.system, ("echo owned > owned",)


@cache
def pickles() -> Sequence[bytes]:
    """Checkpoints: good, with code in them, and bombs."""
    import torch

    found = []
    for value in (
        {"model": {"a.weight": torch.ones(3, 2), "a.bias": torch.ones(3)}, "step": 3},
        {"clip_adapter.clip_model.logit_scale": torch.ones(())},
        {"state_dict": {"layers.0.blocks.0.norm1.weight": torch.ones(128)}},
        {"model": {"a": 5}}, [torch.ones(2)], {},
    ):  # fmt: skip
        for new in (True, False):
            file = io.BytesIO()
            torch.save(value, file, _use_new_zipfile_serialization=new)
            found.append(file.getvalue())
    for protocol in (0, 2, 4):
        found.append(pickle.dumps({"model": _Runs()}, protocol))
    found.append(b"\x80\x02" + b"(" * 100_000 + b"t" * 100_000 + b".")
    found.append(b"\x80\x04]" + b"(" + b"]\x94h\x00" * 3000 + b"l.")
    found.append(b"\x80\x02X" + struct.pack("<I", 2**32 - 1) + b"a.")
    found.append(b"\x80\x04\x8e" + struct.pack("<Q", 2**60) + b"a.")
    return tuple(found)


@cache
def tiny_folder() -> Path:
    """A saved model of the preset ``tiny``; made once per process."""
    from scanseg.presets import load, save

    kept = tempfile.TemporaryDirectory(prefix="scanseg-fuzz-")
    _KEPT.append(kept)
    return save(load("tiny", device="cpu"), Path(kept.name) / "tiny")


_KEPT: list[tempfile.TemporaryDirectory[str]] = []


@cache
def model_configs() -> Sequence[bytes]:
    """``config.json`` of the saved model, and empty ones."""
    good = (tiny_folder() / "config.json").read_bytes()
    weights = json.loads(good)["weights"]
    return (
        good,
        good,
        good,
        json.dumps({"preset": "vit_b", "weights": weights}).encode(),
        b"{}",
        b"[]",
    )


# ---------------------------------------------------------------------------- vocabulary


@cache
def words() -> Sequence[bytes]:
    """Word lists, long ones, odd ones."""
    odd = (
        "\u202egnp.tac",
        "a\u200bb",
        "e\u0301",
        "\ufb01sh",
        "\ufdfa" * 100,
        "cat\0",
        "\x1b[31m",
        "dog\r",
        "🐈‍⬛",
        "\u0130",
        "a\u0300" * 300,
    )
    return (
        b"cat\nsofa: couch, settee\nwindow\n",
        b'["cat", "sofa"]', b'{"cat": [], "sofa": ["couch", "settee"]}', b"cat, sofa, window",
        "\n".join(odd).encode(),
        b"\n".join(b"word %d" % i for i in range(100_000)),
        b"a" * 10_000_000, b"a " * 500_000, b"\n" * 100_000, b"cat\n" * 50_000,
        b"a:" + b",".join(b"s%d" % i for i in range(5000)),
        b"\xff\xfe" + "cat\nsofa".encode("utf-16-le"), b"\xef\xbb\xbfcat\n", b"cat\xff\xfe\n", b"\xed\xa0\x80",
        b"0\tcat\n1\tsofa\tx\n", b"# only a comment", "\n".join("{}[](){%s}" for _ in range(5)).encode(),
    )  # fmt: skip


@cache
def label_sets() -> Sequence[bytes]:
    """Lists, COCO categories, whole sets."""
    full = {
        "name": "mine", "title": "Mine", "void": 255, "void_ids": [0], "partial": True, "other_ids": {"x": 0},
        "classes": [
            {"id": 1, "name": "cat", "prompt": "a cat", "synonyms": ["kitty"], "kind": "thing", "other_ids": {"x": 4}},
            {"id": 2, "name": "sky", "kind": "stuff", "isthing": 0, "other_ids": {"x": 5}},
        ],
    }  # fmt: skip
    return (
        b'["cat", "sofa"]',
        json.dumps([{"id": 1, "name": "cat", "isthing": 1}, {"id": 2, "name": "sky"}]).encode(),
        json.dumps(full).encode(),
        json.dumps([f"w{i}" for i in range(70_000)]).encode(),
        json.dumps([f"w{i % 9}, x{i}" for i in range(30_000)]).encode(),
        b"[" * 100_000,
        b"[" + b"9" * 5000 + b"]",
    )


@cache
def class_lists() -> Sequence[bytes]:
    """``classes.txt`` of a folder."""
    many = b"".join(b"%d\tn%d\n" % (i, i) for i in range(256, 30_000))
    return (
        b"0\twall\n1\tsky\tthe sky\tstuff\tx=1\n", b"0\ta\n0\tb\n", "\u0663\ta\n".encode(), "\u00b2\tb\n".encode(),
        many, many + b"299\tagain\n", b"9" * 5000 + b"\ta\n", b"-1\tx\n",
    )  # fmt: skip


@cache
def hierarchies() -> Sequence[bytes]:
    """Good, cyclic, deep, wide, with a key twice."""
    base: dict[str, Any] = {
        "name": "m", "version": "1", "source": "us", "labels": ["chair", "armchair", "stairs", "stairway"],
        "parents": {"armchair": ["chair"]}, "synonyms": {"stairs": ["stairway"], "stairway": ["stairs"]},
        "reasons": {"armchair -> chair": "is one"}, "rejected": {"* -> stairs": "no"}, "senses": {"chair": None},
    }  # fmt: skip
    many = [f"l{i}" for i in range(20_000)]
    chain = {a: [b] for a, b in pairwise(many)}
    return (
        json.dumps(base).encode(),
        json.dumps({**base, "parents": {"armchair": ["chair"], "chair": ["armchair"]}}).encode(),
        json.dumps({**base, "labels": many, "parents": chain, "synonyms": {}, "senses": {}}).encode(),
        json.dumps({**base, "labels": many, "parents": {**chain, many[-1]: [many[0]]}, "synonyms": {}, "senses": {}}).encode(),
        json.dumps({**base, "labels": many + many, "parents": {}, "synonyms": {}, "senses": {}}).encode(),
        json.dumps({**base, "labels": many[:2000], "parents": {"l0": many[1:2000]}, "synonyms": {l: [m for m in many[:300] if m != l] for l in many[:300]}, "senses": {}}).encode(),
        b'{"version": 1, "version": 2, "labels": ["a"], "parents": {}}',
        b'{"version": 1, "labels": ["a"], "parents": ' + b'{"a":' * 100_000,
        b'{"version": ' + b"9" * 5000 + b', "labels": ["a"], "parents": {}}',
    )  # fmt: skip


@cache
def senses() -> Sequence[bytes]:
    """Meanings picked by hand."""
    good = {"Sky": "sky.n.01", "sky": None}
    return (
        json.dumps(good).encode(),
        json.dumps({"senses": good}).encode(),
        b"[]",
        b"[" * 100_000,
        b"1" * 5000,
    )


@cache
def similarities() -> Sequence[bytes]:
    """Square, not square, not numbers."""
    names = ["wall", "building", "sky", "cat"]
    table = np.eye(4).tolist()
    return (
        json.dumps({"source": "s", "labels": names, "similarity": table}).encode(),
        json.dumps(
            {"source": "s", "labels": [*names, "x"], "similarity": np.eye(5).tolist()}
        ).encode(),
        json.dumps({"source": "s", "labels": names, "similarity": [[1, 0], [1]]}).encode(),
        json.dumps({"source": "s", "labels": names, "similarity": [[[1]] * 4] * 4}).encode(),
        json.dumps({"source": "s", "labels": [[1]] * 4, "similarity": table}).encode(),
        b"[" * 100_000,
    )


@cache
def caches() -> Sequence[bytes]:
    """SQLite files: ours, another table, none."""
    found = [b"", b"not a database" * 100]
    for table in (
        "embedding (key BLOB PRIMARY KEY, vector BLOB NOT NULL, made REAL NOT NULL)",
        "embedding (x)",
    ):
        with tempfile.TemporaryDirectory() as folder:
            connection = sqlite3.connect(Path(folder) / "a.sqlite")
            connection.execute(f"CREATE TABLE {table}")
            if "vector" in table:
                rows = [(b"a" * 32, np.ones(4, "<f4").tobytes(), 1.0), (b"b" * 32, b"short", 1.0)]
                connection.executemany("INSERT INTO embedding VALUES (?, ?, ?)", rows)
            connection.commit()
            connection.close()
            found.append((Path(folder) / "a.sqlite").read_bytes())
    return tuple(found)


# ------------------------------------------------------------------- scores and data sets


@cache
def coco() -> Sequence[bytes]:
    """Results, annotations, panoptic files; masks that lie."""
    from scanseg.formats.records import encode_rle

    mask = encode_rle(np.arange(48).reshape(6, 8) % 3 == 0)
    results = [
        {"image_id": i, "category_id": 1, "segmentation": mask, "score": 0.5} for i in (1, 2)
    ]
    polygon = [{"image_id": 1, "category_id": 2, "segmentation": [[0, 0, 5, 0, 5, 5]], "area": 9}]
    categories = [{"id": i, "name": n} for i, n in enumerate(("wall", "building", "sky", "cat"))]
    whole = {"images": IMAGES, "annotations": results + polygon, "categories": categories}
    segments = [{"id": 1, "category_id": 0}, {"id": 2, "category_id": 3, "iscrowd": 1}]
    panoptic = {
        "images": IMAGES, "categories": categories,
        "annotations": [{"image_id": 1, "file_name": n, "segments_info": segments} for n in ("a.png", "b.png")],
    }  # fmt: skip
    hostile = (
        {"size": [6, 8], "counts": [2**62, 2**62]}, {"size": [10**6, 10**6], "counts": [10**12]},
        {"size": [6, 8], "counts": "~" * 50_000}, {"size": [-6, -8], "counts": [48]}, {"size": [6], "counts": "0"},
        {"size": ["6", 8], "counts": [48]}, {"size": [6, 8], "counts": [[48]]}, {"size": [60_000, 60_000], "counts": "é"},
        {"size": [6, 8], "counts": [0.5, 47.5]}, {"size": [6.0, 8.0], "counts": []}, {"size": [10**6, 10**6], "counts": "0" * 9},
        [[1e308, 1e308, 0, 0, 5, 5]], [[0, 0]], [[]], [], [[float("nan")] * 6], "x", None, 5,
    )  # fmt: skip
    return (
        *(json.dumps(value).encode() for value in (results, polygon, whole, panoptic)),
        *(json.dumps([{**results[0], "segmentation": s}]).encode() for s in hostile),
        json.dumps({**whole, "images": [{**IMAGES[0], "height": 10**9}], "annotations": polygon}).encode(),
        json.dumps({**panoptic, "annotations": [{**panoptic["annotations"][0], "file_name": "../../a.png"}]}).encode(),
        b"[" * 100_000, b"9" * 5000, b"[]", b"{}",
    )  # fmt: skip


@cache
def counts() -> Sequence[bytes]:
    """Count files of an evaluation; the checksums are right also where the content is hostile."""

    def line(content: object) -> bytes:
        text = json.dumps(content).encode()
        return b"%08x %s\n" % (zlib.crc32(text), text)

    head = line({"scanseg_counts": 1, "classes": 4, "run": RUN})
    record: dict[str, Any] = {"key": "a", "cells": [0, 5], "counts": [3, 4]}
    panoptic = {"matches": {"0": [0.5]}, "false": {"1": 2}, "missed": {}}
    odd = (
        {**record, "cells": [10**9]}, {**record, "cells": "x"}, {**record, "counts": [-1, -2]}, {**record, "cells": [[0]], "counts": [[1]]},
        {**record, "panoptic": {**panoptic, "false": {"99": 1}}}, {**record, "panoptic": {**panoptic, "matches": {"0": 5}}},
        {**record, "panoptic": []}, {**record, "boundary": {"-9": [1]}}, {**record, "proposals": {"limits": [], "found": [9], "masks": 1e400}},
        {**record, "proposals": {"limits": [1, 10], "found": [[0.5]], "masks": "3"}}, {**record, "counts": [2**70, 1]}, [], 5, None,
        {**record, "key": None}, {**record, "cells": [0, 0], "counts": [1, 1]}, {**record, "counts": [1.5, 2]},
    )  # fmt: skip
    heads = (
        {"scanseg_counts": 1, "classes": 4, "run": []},
        {"scanseg_counts": 1, "classes": 4, "run": "x"},
        {"scanseg_counts": 2},
        [],
        None,
    )
    return (
        head + line(record) + line({**record, "key": "b", "panoptic": panoptic}),
        *(head + line(o) for o in odd),
        *(line(h) + line(record) for h in heads),
        head + line(record)[:20], head + b"00000000 {}\n" + line(record), head + b"[" * 50_000 + b"\n",
    )  # fmt: skip


@cache
def lists() -> Sequence[bytes]:
    """Keys and checksums."""
    return (
        b"a/b.jpg\nc.png x\n", b"a\na\n", b"0" * 64 + b"  a.png\n", b"0" * 64 + b"  ../../a\n", b"\xff\n", b"\0\n" * 1000,
        b"..\n.\n/\n", b"\n".join(b"%d" % i for i in range(100_000)),
    )  # fmt: skip


# ----------------------------------------------------------- jobs, experiments, requests


@cache
def csv_manifests() -> Sequence[bytes]:
    """Paths that lead elsewhere, odd quotes, fields without end."""
    file = io.StringIO()
    rows = csv.writer(file)
    rows.writerows(
        [["path", "labels"], ["a.jpg", "cat, sofa"], ["b.jpg", ""], ["../../../../etc/passwd", "x"]]
    )
    return (
        file.getvalue().encode(), b"path\n/etc/passwd\n", b"name\na.jpg\n", b"path\na.jpg,b,c,d\n", b'path\n"a.jpg\n',
        b"path,labels\n" + b"a" * 300_000 + b"\n", b"path\n\0\n", b"\xff\xfep\0a\0t\0h\0", b"path,path\na,b\n", b"path\n\n ,\n",
        b"path\n" + b"a.jpg\n" * 50_000, b"path,labels\na.jpg," + b"x," * 50_000 + b"\n", b"", b"path\r\r\na\r",
    )  # fmt: skip


@cache
def parquet_manifests() -> Sequence[bytes]:
    """Columns of the right and of wrong types."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    tables: tuple[dict[str, Any], ...] = (
        {"path": ["a.jpg", "b.jpg"], "labels": [["cat"], None]},
        {"path": ["a.jpg", "../b.jpg"], "labels": ["cat, sofa", ""]},
        {"path": [1, 2]}, {"path": [b"\xff", b"a"]}, {"name": ["a"]}, {"path": [None, "a"]}, {"path": [["a"], ["b"]]},
        {"path": ["a"], "labels": [[1, 2]]}, {"path": ["a"], "labels": [{"x": 1}]}, {"path": [float("nan")]},
        {"path": ["a" * 100_000] * 3}, {"path": ["a.jpg"] * 100_000},
    )  # fmt: skip
    found = []
    for table in tables:
        for codec in ("snappy", "none"):
            file = io.BytesIO()
            pq.write_table(pa.table(table), file, compression=codec)
            found.append(file.getvalue())
    return tuple(found)


@cache
def experiments() -> Sequence[bytes]:
    """YAML: good, with aliases, tags, and numbers that are none."""
    laughs = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
        f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 12)
    )
    merges = "a0: &a0 {x: 1}\n" + "".join(
        f"a{i}: &a{i}\n  <<: [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 9)
    )
    return (
        b"extends: tiny\ntrainer:\n  steps: 10\n  batch: 2\ndata:\n  - root: photos\n    name: folder\noptimizer: {rate: 6e-5, betas: [0.9, 0.99]}\n",
        b"name: x\nmodel:\n  preset: tiny\n  sim: false\n  inference: {shift_ratio: 0.3}\n  integration: {heads: 2}\n  resize: {short: 64}\n",
        laughs.encode(), (laughs + "name: *a11\n").encode(), (laughs + "model:\n  inference: *a11\n").encode(), merges.encode(),
        b"!!python/object/apply:os.system ['echo owned > owned']", b"name: !!python/name:os.system\n", b"name: &a [*a]\n",
        b"extends: mine.yaml\n", b"extends: [mine, mine, mine]\n", b"extends: ../../etc/passwd\n", b"extends: /dev/zero\n",
        b"? [a, b]\n: 1\n", b"trainer: {steps: 1e400}\n", b"trainer: {steps: " + b"9" * 5000 + b"}\n", b"1: 2\n", b"2024-99-99: 1\n",
        b"name: 2024-99-99\n", b"[" * 5000, b"{a: " * 5000, b"- " * 5000, b"trainer: {steps: 1_000_000_000_000:59:59}\n", b"name: \"\\ud800\"\n",
        b"optimizer: {rate: .nan, betas: [.inf, 2]}\n", b"name: !!binary aGk=\n", b"name: !!set {a, b}\n", b"a: b: c", b"\0", b"%YAML 9.9\n---\n",
    )  # fmt: skip


def _form(*parts: tuple[str, bytes, str | None]) -> bytes:
    body = b""
    for name, content, file in parts:
        extra = f'; filename="{file}"' if file is not None else ""
        head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"{extra}\r\n\r\n'
        body += head.encode("utf-8", "surrogateescape") + content + b"\r\n"
    return body + f"--{BOUNDARY}--\r\n".encode()


@cache
def requests() -> Sequence[bytes]:
    """Forms: good, with parts missing, doubled, misnamed or huge."""
    photo = ("photo", photos()[0], "photo.jpg")
    labels = ("labels", b"cat, sofa: couch", None)
    return (
        _form(photo, labels), _form(photo, labels, ("maps", b"true", None), ("unknown_below", b"0.4", None)),
        _form(labels), _form(photo), _form(photo, photo, labels), _form(("photo", b"cat", None), labels),
        _form(photo, labels, ("output", b"overlay", None)), _form(photo, labels, ("output", b"\0\x1b[2J\nx", None)),
        _form(photo, labels, ("unknown_below", b"nan", None)), _form(photo, labels, ("\n\x1b", b"1", None)),
        _form(photo, ("labels", b"[" * 50_000, None)), _form(photo, ("labels", b"\xff\xfe\0", None)),
        _form(photo, ("labels", words()[4], None)), _form(photo, ("labels", b"x," * 30_000, None)),
        _form(photo, *(("labels", b"a", None) for _ in range(150))), _form(photo, labels, ("background", b"none", None)),
        *(_form(("photo", p, "../../x\0.png"), labels) for p in photos()[18:60] if len(p) < 300_000), b"", b"--edge--", b"--edge\r\n" * 5000,
        _form(photo, ("labels", b"a" * 2_000_000, None)), _form(photo, ("labels", b'{"a": 1}', None)), _form(photo, labels, ("preset", b"../tiny", None)),
    )  # fmt: skip


@cache
def command_lines() -> Sequence[bytes]:
    """Arguments, one per line."""
    return tuple(
        line.replace(" ", "\n").encode("utf-8", "surrogateescape")
        for line in (
            "segment nothing.jpg cat sofa --output out", "segment x.jpg --labels cat,sofa --unknown-below 2",
            "segment x.jpg cat --preset ../x --device cpu", "segment \x1b[2J.jpg cat", "segment --labels-file x.txt a.jpg",
            "score --ground-truth a --predictions b --labels ade150", "score --labels \u202ex --ground-truth \0",
            "hierarchy lint a.json ade150", "hierarchy show ade150 wall", "hierarchy build ade150 --output x.json",
            "data verify ade20k150 --root x", "data prepare voc2012 --source x --output y", "data list",
            "convert x.pth --output y", "convert x --as swin --output y", "cache show", "similarity ade150 --output x.json",
            "evaluate --preset tiny --data folder --root x --output y", "batch", "serve", "train", "nothing", "--version", "--debug-x", "segment --help",
            "evaluate a b c --limit 999999999999999999999 --seed nan", "score --offset -5 --ignore 99999999 --labels x --ground-truth y --predictions z",
        )
    )  # fmt: skip
