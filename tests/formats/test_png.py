"""Indexed PNG: what other programs see, the round trip, identical bytes, atomic writing."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from scanseg.contracts import InputError, Segmentation
from scanseg.formats.palette import UNKNOWN_COLOUR, label_colours
from scanseg.formats.photos import PhotoLimits
from scanseg.formats.png import indexed_png, load_indexed_png, save_indexed_png


def segmentation(count: int, shape: tuple[int, int] = (21, 34)) -> Segmentation:
    labels = np.random.default_rng(count).integers(-1, count, shape).astype(np.int32)
    labels.flat[0], labels.flat[1] = -1, count - 1
    names = tuple(f"Wört {i}" for i in range(count))
    return Segmentation(labels, names, np.ones(shape, np.float32), settings={"preset": "tiny"})


def test_other_programs_see_values_colours_and_names(tmp_path: Path) -> None:
    labels = np.array([[-1, 0], [1, 1]], dtype=np.int32)
    result = Segmentation(labels, ("cat", "sofa"), np.ones((2, 2), np.float32), settings={"a": 1})
    path = result.save(tmp_path / "map.png")
    assert path == tmp_path / "map.png"
    with Image.open(path) as image:
        assert image.mode == "P"
        assert np.asarray(image).tolist() == [[0, 1], [2, 2]]
        assert json.loads(image.text["scanseg"]) == {
            "names": ["cat", "sofa"],
            "offset": 1,
            "settings": {"a": 1},
        }
        shown = np.asarray(image.convert("RGB"))
    assert tuple(shown[0, 0]) == UNKNOWN_COLOUR
    np.testing.assert_array_equal(shown[1, 0], label_colours(2)[1])


@pytest.mark.parametrize("count", [1, 2, 254, 255, 256, 2000])
def test_round_trip(tmp_path: Path, count: int) -> None:
    result = segmentation(count)
    labels, names = load_indexed_png(save_indexed_png(result, tmp_path / "map.png"))
    np.testing.assert_array_equal(labels, result.labels)
    assert labels.dtype == np.int32
    assert names == result.names
    with Image.open(tmp_path / "map.png") as image:
        assert image.mode == ("P" if count <= 255 else "I;16")


def test_too_many_labels() -> None:
    names = tuple(map(str, range(65_536)))
    result = Segmentation(np.zeros((1, 1), np.int32), names, np.ones((1, 1), np.float32))
    with pytest.raises(InputError, match="at most 65535 labels, not 65536"):
        indexed_png(result)


def test_same_map_same_bytes(tmp_path: Path) -> None:
    first = save_indexed_png(segmentation(30), tmp_path / "a.png").read_bytes()
    second = save_indexed_png(segmentation(30), tmp_path / "b.png").read_bytes()
    assert first == second == indexed_png(segmentation(30))


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    path = save_indexed_png(segmentation(3), tmp_path / "new folder" / "map.png")
    before = path.read_bytes()
    broken = Segmentation(
        segmentation(3).labels,
        ("a", "b", "c"),
        np.ones((21, 34), np.float32),
        settings={"x": object()},
    )
    with pytest.raises(TypeError):
        save_indexed_png(broken, path)
    assert path.read_bytes() == before
    assert [p.name for p in path.parent.iterdir()] == ["map.png"]


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(InputError, match="cannot be written"):
        save_indexed_png(segmentation(2), tmp_path / "file" / "map.png")


def write_png(path: Path, values: list[list[int]], about: object | None) -> Path:
    info = PngInfo()
    if about is not None:
        info.add_text("scanseg", about if isinstance(about, str) else json.dumps(about))
    Image.fromarray(np.array(values, dtype=np.uint8)).convert("P").save(path, pnginfo=info)
    return path


@pytest.mark.parametrize(
    ("values", "about", "line"),
    [
        ([[0]], None, "no names in it"),
        ([[0]], "{broken", "no names in it"),
        ([[0]], {"names": ["a"]}, "no names in it"),
        ([[0]], ["names"], "no names in it"),
        ([[2]], {"names": ["a"], "offset": 1}, "labels without names"),
        ([[0]], {"names": ["a"], "offset": 2}, "labels without names"),
    ],
)
def test_other_png_files(
    tmp_path: Path, values: list[list[int]], about: object | None, line: str
) -> None:
    with pytest.raises(InputError, match=line):
        load_indexed_png(write_png(tmp_path / "x.png", values, about))


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        load_indexed_png(tmp_path / "nope.png")
    whole = save_indexed_png(segmentation(9, (64, 64)), tmp_path / "map.png").read_bytes()
    (tmp_path / "half.png").write_bytes(whole[: len(whole) * 2 // 3])
    with pytest.raises(InputError, match="truncated or damaged"):
        load_indexed_png(tmp_path / "half.png")
    with pytest.raises(InputError, match="64 x 64 pixels, more than"):
        load_indexed_png(tmp_path / "map.png", limits=PhotoLimits(max_pixels=100))
    with pytest.raises(InputError, match="larger than"):
        load_indexed_png(tmp_path / "map.png", limits=PhotoLimits(max_bytes=100))
    Image.new("RGB", (2, 2)).save(tmp_path / "photo.jpg")
    with pytest.raises(InputError, match=r"photo\.jpg is truncated or damaged|not an image"):
        load_indexed_png(tmp_path / "photo.jpg")
