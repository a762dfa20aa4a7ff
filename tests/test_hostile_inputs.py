"""A few hundred hostile inputs over every parser, and one test per hole that was found."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from fuzz.judge import judge
from fuzz.parsers import PARSERS, Parser
from fuzz.seeds import png
from fuzz.worker import make_input

from scanseg.contracts import InputError
from scanseg.evaluation.coco_maps import rasterise
from scanseg.formats.photos import read_photo
from scanseg.formats.records import decode_rle
from scanseg.training.config import load_experiment

_SLOW = ("server request", "config.json of a model", "photo", "picture of a data set")
"""Parsers whose inputs need a process of their own, or seconds; ``make fuzz`` runs them."""


@pytest.mark.parametrize(
    "parser", [p for p in PARSERS if p.name not in _SLOW], ids=lambda p: p.name
)
def test_every_parser_reads_or_refuses(parser: Parser, tmp_path: Path) -> None:
    first = len(parser.seeds())
    for index in range(first, first + 8):
        folder = tmp_path / str(index)
        folder.mkdir()
        verdict, line = judge(parser.read, make_input(parser, 7, index), folder)
        assert verdict in ("read", "refused"), f"seed 7, index {index}: {line}"


def test_the_judge_finds_faults(tmp_path: Path) -> None:
    def fails(data: bytes, folder: Path) -> None:
        raise KeyError("x")

    assert judge(fails, b"", tmp_path)[0] == "fault"
    assert judge(lambda data, folder: None, b"", tmp_path) == ("read", "")


def test_a_message_is_one_printable_line() -> None:
    assert str(InputError("a\nb\x1b[2J\u202ec é")) == "a\\nb\\x1b[2J\\u202ec é"
    long = str(InputError("x" * 5000 + " do this"))
    assert len(long) == 985  # 600 + " ... " + 380
    assert long.endswith("do this")


def test_aliases_in_an_experiment(tmp_path: Path) -> None:
    path = tmp_path / "laughs.yaml"
    path.write_text("a: &a [x, x]\nname: *a\n")
    with pytest.raises(InputError, match="aliases are not read"):
        load_experiment(path)


@pytest.mark.parametrize(
    "rle",
    [
        {"size": [10**6, 10**6], "counts": [10**12]},
        {"size": [6, 8], "counts": [2**62, 2**62]},
        {"size": [6, 8], "counts": "~" * 50},
        {"size": [6], "counts": [48]},
        {"size": [6, 8], "counts": [0.5, 47.5]},
    ],
)
def test_masks_that_lie(rle: dict) -> None:
    with pytest.raises(InputError):
        decode_rle(rle)


@pytest.mark.parametrize("polygon", [[1e308] * 6, [float("nan")] * 6, [0, 0], [0, 0, 99, 0, 5, 5]])
def test_polygons_that_lie(polygon: list[float]) -> None:
    with pytest.raises(InputError):
        rasterise([polygon], (6, 8))


def test_a_jpeg_of_very_many_scans() -> None:
    from io import BytesIO

    from PIL import Image

    file = BytesIO()
    Image.new("RGB", (8, 8)).save(file, "JPEG", progressive=True)
    data = file.getvalue()
    scan = data[data.index(b"\xff\xda") : -2]
    with pytest.raises(InputError, match="scans"):
        read_photo(data[:-2] + scan * 201 + data[-2:])


def test_strips_join_without_a_seam() -> None:
    # 2,100 rows of 2,100 pixels are two strips; alpha 0 in the last row only
    pixels = np.full((2100, 2100, 4), (10, 20, 30, 255), np.uint8)
    pixels[-1, :, 3] = 0
    photo = read_photo(pixels)
    assert (photo.pixels[:-1] == (10, 20, 30)).all()
    assert (photo.pixels[-1] == 255).all()
    assert photo.notes == ("transparent parts are read as white",)


def test_an_offset_of_a_map_does_not_fill_the_memory(tmp_path: Path) -> None:
    from scanseg.evaluation.label_maps import Coding, PngFolder

    about = json.dumps({"names": ["wall"], "offset": 10**9}).encode()
    (tmp_path / "a.png").write_bytes(png(2, 2, 0, data=bytes(6), tEXt=b"scanseg\0" + about))
    with pytest.raises(InputError, match="not that of a label map"):
        PngFolder(tmp_path, Coding(("wall",)), "prediction").labels("a")
