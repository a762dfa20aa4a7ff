"""Folders of one's own, the held-out part, and the data sets beside the checkout."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from scanseg.contracts import InputError
from scanseg.data import VOID, held_out, layout_of, open_dataset, verify
from scanseg.data.folder import read_classes
from scanseg.data.splits import parse_split, read_keys
from scanseg.formats.photos import read_photo

CLASSES = "3\tcat\n7\tdog\tbig dog\tthing\tcoco_id=18\n9\twall-brick\timages=5\n"


@pytest.fixture
def folder(make, tmp_path):
    """Four samples, two of them in a list."""
    files = {"classes.txt": CLASSES, "splits/val.txt": "c\na\n"}
    for key in "abcd":
        files[f"images/{key}.jpg"] = make.jpg(1, 4)
        files[f"labels/{key}.png"] = make.png([[3, 7, 9, 255]])
    return make.tree(tmp_path, files)


def test_a_folder(folder):
    val = open_dataset("folder", folder, "val")
    assert val.keys == ("c", "a")
    assert (val.classes, val.label_set, val.expected) == (3, None, None)
    assert val.names == ("cat", "dog", "wall-brick")
    assert val.prompts == ("cat", "big dog", "wall-brick")
    assert val[0].truth().tolist() == [[0, 1, 2, VOID]]
    assert open_dataset("folder", folder).keys == ("a", "b", "c", "d")
    with pytest.raises(InputError, match="has no split 'test'; it has val"):
        open_dataset("folder", folder, "test")
    with pytest.raises(InputError, match="has no split"):
        open_dataset("folder", folder, "../classes")


def test_16_bit_labels(make, tmp_path):
    files = {
        "classes.txt": "0\ta\n300\tb\n",
        "images/x.png": make.png(np.zeros((1, 3, 3), dtype=np.uint8)),
        "labels/x.png": make.png(np.array([[0, 300, 65535]], dtype=np.uint16)),
    }
    root = make.tree(tmp_path, files)
    assert open_dataset("folder", root)[0].truth().tolist() == [[0, 1, VOID]]
    make.tree(root, {"labels/x.png": make.png([[0, 1, 255]])})
    with pytest.raises(InputError, match=r"8 bits per pixel, but classes.txt has ids above 255"):
        open_dataset("folder", root)[0].truth()
    make.tree(root, {"labels/x.png": make.png(np.array([[0, 255, 0]], dtype=np.uint16))})
    with pytest.raises(InputError, match="label value 255 means nothing"):
        open_dataset("folder", root)[0].truth()


def test_a_stray_label_value(make, folder):
    make.tree(folder, {"labels/a.png": make.png([[3, 4, 0, 255]])})
    with pytest.raises(InputError, match=r"a\.png: label value 0, 4 means nothing"):
        open_dataset("folder", folder, "val")[1].truth()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "lists no classes"),
        ("0 cat\n", "line 1 is not id, tab, name"),
        ("0\tcat\nx\tdog\n", "line 2 is not id, tab, name"),
        ("0\t \n", "line 1 is not id, tab, name"),
        ("0\tcat\n0\tdog\n", "the id 0 occurs twice"),
        ("0\tcat\n1\tcat\n", "the name 'cat' occurs twice"),
        ("255\tcat\n", "not 255, which means void"),
        ("65535\tcat\n", "ids must be below 65535"),
    ],
)
def test_class_lists_that_are_refused(make, tmp_path, text, message):
    path = make.tree(tmp_path, {"classes.txt": text}) / "classes.txt"
    with pytest.raises(InputError, match=message):
        read_classes(path)


def test_a_folder_without_its_parts(make, tmp_path):
    with pytest.raises(InputError, match=r"no list of classes .*has images/, labels/ and classes"):
        open_dataset("folder", tmp_path)
    make.tree(tmp_path, {"classes.txt": CLASSES})
    with pytest.raises(InputError, match="no photos under"):
        open_dataset("folder", tmp_path)


def test_segments_of_a_folder(make, folder):
    record = {"file_name": "a.png", "segments_info": [{"id": 5, "category_id": 18}]}
    index = {"annotations": [record], "categories": [{"id": 18, "name": "dog"}]}
    drawn = make.png(np.array([[(5, 0, 0), (0, 0, 0)]], dtype=np.uint8))
    make.tree(folder, {"panoptic.json": json.dumps(index), "panoptic/a.png": drawn})
    whole = open_dataset("folder", folder)
    assert whole[0].panoptic().labels == {5: 1}
    assert whole[0].regions()[0].tolist() == [[5, 0]]
    with pytest.raises(InputError, match="b: this data set has no panoptic truth"):
        whole[1].panoptic()
    index["categories"][0]["name"] = "horse"
    make.tree(folder, {"panoptic.json": json.dumps(index)})
    with pytest.raises(InputError, match=r"categories differ from classes.txt"):
        open_dataset("folder", folder)[0]


# ---------------------------------------------------------------------------- lists and parts


def test_held_out_by_hand():
    # first 8 bytes of SHA-256 over 2^64: a 0.791 (ca97...), b 0.243 (3e23...), c 0.181 (2e7d...),
    # d 0.096 (18ac...)
    assert held_out("abcd") == (["a", "b"], ["c", "d"])
    assert held_out("dcba", 0.25) == (["a"], ["d", "c", "b"])
    assert held_out("abcd", 0.0) == (list("abcd"), [])
    assert held_out("abcd", 1.0) == ([], list("abcd"))
    with pytest.raises(InputError, match=r"must lie in \[0, 1\]"):
        held_out("abcd", 1.5)


def test_held_out_is_about_a_fifth_and_never_moves():
    keys = [f"{i:012d}" for i in range(5_000)]
    rest, held = held_out(keys)
    assert sorted(rest + held) == keys
    # binomial: 1000 +- 3 * sqrt(5000 * 0.2 * 0.8) = 1000 +- 85
    assert 915 <= len(held) <= 1_085
    assert set(held_out(keys[:100])[1]) == set(held) & set(keys[:100])


def test_parts_of_a_split(folder):
    # of a and c, in the list's order c, a, only c is held out (see above)
    assert open_dataset("folder", folder, "val@held_out").keys == ("c",)
    assert open_dataset("folder", folder, "val@rest").keys == ("a",)
    assert open_dataset("folder", folder, "val@rest").split == "val@rest"
    assert parse_split("val") == ("val", "")
    with pytest.raises(InputError, match="after @ a split has held_out or rest, not 'half'"):
        open_dataset("folder", folder, "val@half")


def test_key_lists(make, tmp_path):
    text = "\ufeff/SegNet/CamVid/test/0001.png /SegNet/x\n\n2008_000002  -1\nimages\\b.JPG\n"
    root = make.tree(tmp_path, {"list.txt": text, "twice.txt": "a\nb\na.jpg\n", "bad.txt": b"\xff"})
    assert read_keys(root / "list.txt") == ("0001", "2008_000002", "b")
    with pytest.raises(InputError, match="a is listed twice"):
        read_keys(root / "twice.txt")
    for name in ("bad.txt", "absent.txt"):
        with pytest.raises(InputError, match="not a readable list"):
            read_keys(root / name)


def test_keys_with_spaces_in_a_list(make, tmp_path):
    files = {"classes.txt": CLASSES, "splits/val.txt": "\ufeffIMG 1\nimages/a b.jpg\nc 1\n"}
    for key in ("IMG 1", "a b", "c"):
        files[f"images/{key}.jpg"] = make.jpg(1, 4)
        files[f"labels/{key}.png"] = make.png([[3, 7, 9, 255]])
    assert open_dataset("folder", make.tree(tmp_path, files), "val").keys == ("IMG 1", "a b", "c")


def _photos():
    """Photos that are stored otherwise than they are looked at: (ending, PIL image, options)."""
    rng = np.random.default_rng(0)
    rgba = rng.integers(0, 256, (5, 7, 4), dtype=np.uint8)
    rgb = Image.fromarray(rgba[..., :3])
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        yield "jpg", rgb, {"exif": exif}
        yield "png", Image.fromarray(rgba), {"exif": exif}
    for most in (200, 1000, 4000, 65535):
        deep = np.linspace(0, most, 35).astype(np.uint16).reshape(5, 7)
        yield "png", Image.fromarray(deep), {}
    yield "png", Image.fromarray(rgba).convert("LA"), {}
    yield "webp", Image.fromarray(rgba), {"lossless": True}
    yield "png", rgb.quantize(8), {"transparency": 3}
    yield "jpg", rgb.convert("CMYK"), {}
    yield "png", rgb.convert("1"), {}


def test_photos_are_read_as_the_model_reads_them(make, tmp_path):
    for number, (ending, picture, options) in enumerate(_photos()):
        root = tmp_path / str(number)
        photo = root / f"images/a.{ending}"
        photo.parent.mkdir(parents=True)
        picture.save(photo, **options)
        expected = read_photo(photo).pixels
        labels = np.full(expected.shape[:2], 3, np.uint8)
        make.tree(root, {"classes.txt": CLASSES, "labels/a.png": make.png(labels)})
        found = open_dataset("folder", root)[0].pixels()
        assert found.dtype == np.uint8
        np.testing.assert_array_equal(found, expected)
        result = verify(layout_of("folder"), root)
        assert result.ok, result.problems
        assert not any(finding.check == "orientation" for finding in result.findings)


# ---------------------------------------------------------------------------- beside the checkout


@pytest.mark.parametrize(
    ("name", "folder", "split", "samples", "classes"),
    [
        ("camvid", "camvid", "test", 233, 11),
        ("camvid", "camvid", "val", 101, 11),
        ("folder", "camvid", "train", 123, 11),
        ("folder", "clothing_coparsing", "test", 200, 59),
        ("folder", "coco_train", "panoptic_full", 100, 133),
        ("folder", "coco_train", "things_only", 194, 133),
        ("folder", "facades_night_day", "val", 38, 10),
        ("bsds500", "bsds500", "test", 200, 0),
    ],
)
def test_data_beside_the_checkout(shared, name, folder, split, samples, classes):
    data = open_dataset(name, shared / "data" / folder, split)
    assert (len(data), data.classes) == (samples, classes)
    sample = data[len(data) // 2]
    maps = [sample.truth()] if classes else sample.regions()
    for values in maps:
        assert values.dtype == np.int32
        assert values.shape == sample.pixels().shape[:2]
        assert values.max() < classes or not classes
    result = verify(layout_of(name), shared / "data" / folder, splits=[split], quick=True)
    assert result.ok, result.problems


def test_coco_train_panoptic_and_semantic_truth_agree(shared):
    data = open_dataset("folder", shared / "data/coco_train", "panoptic_full@held_out")
    assert len(data) == 22
    for sample in data[:4]:
        truth, segments = sample.truth(), sample.panoptic()
        for number, label in segments.labels.items():
            inside = truth[segments.ids == number]
            assert ((inside == label) | (inside == VOID)).all()
    things = open_dataset("folder", shared / "data/coco_train", "things_only")[0]
    with pytest.raises(InputError, match="no panoptic truth"):
        things.panoptic()
