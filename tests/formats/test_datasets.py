"""Data sets are read back by the libraries of the tools that they are for: the same masks."""

from __future__ import annotations

import base64
import json
import os
import shutil
import zlib
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from scanseg.contracts import InputError, Segment, Segmentation
from scanseg.formats import coco as coco_format
from scanseg.formats import coco_panoptic, datasets
from scanseg.formats.datasets import FORMATS, parts_record, read_parts, write_dataset

Maps = list[tuple[Path, Segmentation]]
Found = list[tuple[str, np.ndarray]]  # (name, mask) of each segment


def same(found: Found, segments: Sequence[Segment], names: Sequence[str] | None = None) -> None:
    """Equal masks, whatever their order."""
    key = lambda entry: (entry[0], entry[1].tobytes())
    expected = sorted(((s.name, s.mask.astype(bool)) for s in segments), key=key)
    found = sorted(((name, mask.astype(bool)) for name, mask in found), key=key)
    assert [name for name, _ in found] == [name for name, _ in expected]
    for (_, mask), (_, wanted) in zip(found, expected, strict=True):
        np.testing.assert_array_equal(mask, wanted)


def united(found: Found) -> dict[str, np.ndarray]:
    """Name -> union of its masks."""
    result: dict[str, np.ndarray] = {}
    for name, mask in found:
        result[name] = result.get(name, np.zeros_like(mask, dtype=bool)) | mask.astype(bool)
    return result


def by_name(segmentation: Segmentation) -> dict[str, np.ndarray]:
    return {s.name: s.mask for s in segmentation}


def things_of(segmentation: Segmentation) -> list[str]:
    return list(segmentation.names[::2])


# ------------------------------------------------------------------ COCO


@pytest.mark.parametrize("name", ["coco", "coco-polygons"])
def test_coco_in_pycocotools(name: str, maps: Maps, tmp_path: Path) -> None:
    coco_module = pytest.importorskip("pycocotools.coco")
    things = things_of(maps[0][1])
    folder = write_dataset(name, tmp_path / "out", maps, things=things)
    coco = coco_module.COCO(str(folder / coco_format.FILE))
    names = {c["id"]: c["name"] for c in coco.loadCats(coco.getCatIds())}
    assert list(names.values()) == list(maps[0][1].names)
    numbers = [a["id"] for a in coco.dataset["annotations"]]
    assert numbers == list(range(1, len(numbers) + 1))
    for number, (path, segmentation) in enumerate(maps, start=1):
        (image,) = coco.loadImgs([number])
        assert image["file_name"] == path.name
        assert (image["height"], image["width"]) == segmentation.labels.shape
        found = coco.loadAnns(coco.getAnnIds(imgIds=[number]))
        same(
            [(names[a["category_id"]], coco.annToMask(a)) for a in found],
            segmentation.panoptic(things),
        )


def test_coco_in_datumaro(real_maps: Maps, tmp_path: Path) -> None:
    datumaro = pytest.importorskip("datumaro")
    folder = write_dataset("coco", tmp_path, real_maps)
    (folder / "images").mkdir()  # datumaro wants the folder to be there
    read = datumaro.Dataset.import_from(str(folder / coco_format.FILE), "coco_instances")
    same_as_datumaro(read, real_maps, things=())


def test_coco_panoptic_in_datumaro_and_by_hand(maps: Maps, tmp_path: Path) -> None:
    things = things_of(maps[0][1])
    folder = write_dataset("coco-panoptic", tmp_path / "out", maps, things=things)
    data = json.loads((folder / coco_panoptic.FILE).read_text())
    assert [c["name"] for c in data["categories"] if c["isthing"]] == things
    names = {c["id"]: c["name"] for c in data["categories"]}
    for annotation, (_, segmentation) in zip(data["annotations"], maps, strict=True):
        pixels = np.asarray(Image.open(folder / coco_panoptic.PICTURES / annotation["file_name"]))
        ids = pixels.astype(int) @ [1, 256, 65536]
        segments = annotation["segments_info"]
        assert set(np.unique(ids)) - {0} == {s["id"] for s in segments}
        for segment in segments:
            assert (ids == segment["id"]).sum() == segment["area"]
        same(
            [(names[s["category_id"]], ids == s["id"]) for s in segments],
            segmentation.panoptic(things),
        )


def same_as_datumaro(read: Any, maps: Maps, things: Any, polygons: bool = False) -> None:
    from datumaro.components.annotation import AnnotationType

    labels = read.categories()[AnnotationType.label]
    items = {item.id: item for item in read}
    for path, segmentation in maps:
        height, width = segmentation.labels.shape
        found = []
        for annotation in items[path.stem].annotations:
            if annotation.type not in (AnnotationType.mask, AnnotationType.polygon):
                continue
            name = labels[annotation.label].name
            if annotation.type == AnnotationType.mask:
                found.append((name, np.asarray(annotation.image, dtype=bool)))
            else:
                from pycocotools import mask as coco

                rle = coco.merge(coco.frPyObjects([annotation.points], height, width))
                found.append((name, coco.decode(rle).astype(bool)))
        if polygons:
            expected = by_name(segmentation)
            got = united(found)
            assert got.keys() == expected.keys()
            for name, mask in expected.items():
                np.testing.assert_array_equal(got[name], mask)
        else:
            same(found, segmentation.panoptic(things))


# ------------------------------------------------------------------ YOLO


def test_yolo_in_supervision(maps: Maps, tmp_path: Path) -> None:
    supervision = pytest.importorskip("supervision")
    folder = write_dataset("yolo", tmp_path / "out", maps)
    read = supervision.DetectionDataset.from_yolo(
        images_directory_path=str(folder / "images"),
        annotations_directory_path=str(folder / "labels"),
        data_yaml_path=str(folder / "data.yaml"),
        force_masks=True,
    )
    names = maps[0][1].names
    assert tuple(read.classes) == names
    assert len(read) == len(maps)
    for image, _, detections in read:
        name = Path(image).stem
        segmentation = next(s for path, s in maps if path.stem == name)
        found = (
            [(names[c], m) for c, m in zip(detections.class_id, detections.mask, strict=True)]
            if len(detections)
            else []
        )
        got, expected = united(found), by_name(segmentation)
        assert got.keys() == expected.keys()
        for label, mask in expected.items():
            np.testing.assert_array_equal(got[label], mask)


def test_yolo_filled_as_ultralytics_fills_it(maps: Maps, tmp_path: Path) -> None:
    """Shares times size, cut to integers, ``cv2.fillPoly``: each line is one connected region."""
    cv2 = pytest.importorskip("cv2")
    folder = write_dataset("yolo", tmp_path / "out", maps)
    for path, segmentation in maps:
        height, width = segmentation.labels.shape
        found = []
        for line in (folder / "labels" / f"{path.stem}.txt").read_text().splitlines():
            label, *values = line.split()
            points = np.array(values, dtype=np.float32).reshape(-1, 2)
            assert points.min() >= 0
            assert points.max() <= 1
            assert len(points) >= 3
            mask = np.zeros((height, width), dtype=np.uint8)
            cv2.fillPoly(mask, [(points * [width, height]).astype(np.int32)], 1)
            found.append((segmentation.names[int(label)], mask))
        same(found, segmentation.instances())


def test_yolo_saves_upright_photos(tmp_path: Path) -> None:
    photo = Image.new("RGB", (40, 20), "red")
    exif = Image.Exif()
    exif[0x0112] = 6  # lies on its side
    photo.save(tmp_path / "side.jpg", exif=exif)
    photo.save(tmp_path / "plain.jpg")
    photo.save(tmp_path / "other.gif")
    upright = Segmentation(np.zeros((40, 20), np.int32), ("a",), np.ones((40, 20), np.float32))
    wide = Segmentation(np.zeros((20, 40), np.int32), ("a",), np.ones((20, 40), np.float32))
    folder = write_dataset(
        "yolo",
        tmp_path / "out",
        [
            (tmp_path / "side.jpg", upright),
            (tmp_path / "plain.jpg", wide),
            (tmp_path / "other.gif", wide),
        ],
    )
    assert sorted(p.name for p in (folder / "images").iterdir()) == [
        "other.png",
        "plain.jpg",
        "side.png",
    ]
    assert Image.open(folder / "images" / "side.png").size == (20, 40)
    same_bytes = (tmp_path / "plain.jpg").read_bytes()
    assert (folder / "images" / "plain.jpg").read_bytes() == same_bytes


def one_word(name: str) -> Segmentation:
    return Segmentation(np.zeros((2, 3), np.int32), (name,), np.ones((2, 3), np.float32))


def yolo_files(folder: Path) -> list[str]:
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


@pytest.mark.parametrize("edited", [False, True])
def test_yolo_does_not_mix_runs_with_other_words(tmp_path: Path, edited: bool) -> None:
    a, b = tmp_path / "a.png", tmp_path / "b.png"
    for path in (a, b):
        Image.new("RGB", (3, 2)).save(path)
    out = tmp_path / "out"
    write_dataset("yolo", out, [(a, one_word("cat")), (b, one_word("cat"))])
    (out / "images" / "mine.png").touch()  # no label file, so not of an earlier run
    everything = yolo_files(out)
    write_dataset("yolo", out, [(a, one_word("cat"))])
    assert yolo_files(out) == everything  # the same words
    if edited:
        with (out / "data.yaml").open("a") as file:
            file.write("nc: 1\n")
    write_dataset("yolo", out, [(a, one_word("dog"))])
    gone = set() if edited else {"images/b.png", "labels/b.txt"}
    assert yolo_files(out) == [name for name in everything if name not in gone]


# ------------------------------------------------------------------ CVAT and VOC


def test_voc_names_are_told_apart(tmp_path: Path) -> None:
    names = ("background", "a:b", "a b", "background_2", "c:d", "c:d ")
    labels = np.arange(6, dtype=np.int32).reshape(2, 3)
    made = Segmentation(labels, names, np.ones((2, 3), np.float32))
    folder = write_dataset("voc", tmp_path, [(tmp_path / "p.png", made)])
    lines = (folder / "labelmap.txt").read_text().splitlines()[1:]
    found = [line.partition(":")[0] for line in lines]
    assert found == [
        "background", "background_3", "a b_2", "a b", "background_2", "c d", "c d ",
    ]  # fmt: skip


@pytest.mark.parametrize("name", [f for f in FORMATS if f != "yolo"])
def test_a_photo_whose_name_is_not_utf8(name: str, tmp_path: Path) -> None:
    photo = Path(os.fsdecode(b"\xff.png"))
    try:
        (tmp_path / photo).touch()
    except OSError:
        pytest.skip("this file system takes text only")
    folder = write_dataset(name, tmp_path / "out", [(photo, one_word("cat"))])
    if name == "voc":
        assert (folder / "ImageSets/Segmentation/default.txt").read_bytes() == b"\xff\n"
    if name == "label-studio":
        assert b"?d=%FF.png" in (folder / "tasks.json").read_bytes()


@pytest.mark.parametrize("name", ["cvat", "cvat-polygons"])
def test_cvat_in_datumaro(name: str, maps: Maps, tmp_path: Path) -> None:
    datumaro = pytest.importorskip("datumaro")
    if not maps[0][1].segments:
        pytest.skip("datumaro cannot read an image without shapes (its None is no list)")
    polygons = name == "cvat-polygons"
    things = () if polygons else things_of(maps[0][1])
    folder = write_dataset(name, tmp_path / "out", maps, things=things)
    (folder / "images").mkdir()  # datumaro wants to see the photos
    for path, _ in maps:
        shutil.copy(path, folder / "images" / path.name)
    read = datumaro.Dataset.import_from(str(folder), "cvat")
    same_as_datumaro(read, maps, things, polygons=polygons)


def test_cvat_file_by_hand(tmp_path: Path) -> None:
    labels = np.array([[-1, 0, 0], [0, 0, -1]], np.int32)
    segmentation = Segmentation(labels, ("a<b",), np.ones((2, 3), np.float32))
    folder = write_dataset("cvat", tmp_path, [("p.jpg", segmentation)])
    root = ElementTree.parse(folder / "annotations.xml").getroot()
    assert root.findtext("version") == "1.1"
    assert root.findtext("meta/task/labels/label/name") == "a<b"
    image = root.find("image")
    assert image is not None
    assert image.attrib == {"id": "0", "name": "p.jpg", "width": "3", "height": "2"}
    mask = image.find("mask")
    assert mask is not None
    assert mask.get("label") == "a<b"
    assert mask.get("rle") == "1, 4, 1"  # row by row: one outside, four inside, one outside
    assert [mask.get(k) for k in ("left", "top", "width", "height")] == ["0", "0", "3", "2"]


def test_voc_in_datumaro(maps: Maps, tmp_path: Path) -> None:
    datumaro = pytest.importorskip("datumaro")
    if len(maps[0][1].names) > 254:
        with pytest.raises(InputError, match="at most 254 words, not 300"):
            write_dataset("voc", tmp_path / "out", maps)
        return
    folder = write_dataset("voc", tmp_path / "out", maps)
    for path, segmentation in maps:
        pixels = np.asarray(Image.open(folder / "SegmentationClass" / f"{path.stem}.png"))
        np.testing.assert_array_equal(pixels, segmentation.labels + 1)
    if ":" in "".join(maps[0][1].names) or not maps[0][1].segments:
        return  # a colon ends a name in labelmap.txt, so the names differ
    read = datumaro.Dataset.import_from(str(folder), "voc_segmentation")
    same_as_datumaro(read, maps, things=())


# ------------------------------------------------------------------ Label Studio


def test_label_studio_brush_by_hand() -> None:
    from scanseg.formats.label_studio import brush_runs

    # 2 pixels, the second inside: 8 values; runs of 4 zeros and of 4 times 255, each of length
    # 4 <= 2^3, so size number 0: 1 00 011 vvvvvvvv
    bits = f"{8:032b}" + "00111" + "0010" + "0011" + "0111" + "1111"
    bits += "1" + "00" + "011" + "00000000" + "1" + "00" + "011" + "11111111"
    bits += "0" * (-len(bits) % 8)
    expected = [int(bits[i : i + 8], 2) for i in range(0, len(bits), 8)]
    assert brush_runs(np.array([[False, True]])) == expected


def decode_brush(data: list[int]) -> np.ndarray:
    """Label Studio's published decoder, written down again: bits to values."""
    bits = "".join(f"{byte:08b}" for byte in data)
    at = 0

    def read(size: int) -> int:
        nonlocal at
        at += size
        return int(bits[at - size : at], 2)

    total, word = read(32), read(5) + 1
    sizes = [read(4) + 1 for _ in range(4)]
    values = np.zeros(total, dtype=np.uint8)
    i = 0
    while i < total:
        repeated = read(1)
        j = i + 1 + read(sizes[read(2)])
        if repeated:
            values[i:j] = read(word)
        else:
            values[i:j] = [read(word) for _ in range(j - i)]
        i = j
    return values


def test_label_studio_tasks(maps: Maps, tmp_path: Path) -> None:
    try:
        from label_studio_sdk.converter.brush import decode_rle as decode
    except ImportError:
        decode = decode_brush
    things = things_of(maps[0][1])
    folder = write_dataset("label-studio", tmp_path / "out", maps, things=things)
    tasks = json.loads((folder / "tasks.json").read_text())
    config = ElementTree.parse(folder / "label_config.xml").getroot()
    assert [e.get("value") for e in config.iter("Label")] == list(maps[0][1].names)
    image, brush = config.find("Image"), config.find("BrushLabels")
    assert image is not None
    assert brush is not None
    for task, (path, segmentation) in zip(tasks, maps, strict=True):
        assert task["data"] == {image.get("value", "")[1:]: f"/data/local-files/?d={path.name}"}
        (prediction,) = task["predictions"]
        found = []
        for result in prediction["result"]:
            assert result["from_name"] == brush.get("name")
            assert result["to_name"] == brush.get("toName") == image.get("name")
            size = result["original_height"], result["original_width"]
            assert size == segmentation.labels.shape
            pixels = np.asarray(decode(result["value"]["rle"])).reshape(*size, 4)
            (name,) = result["value"][result["type"]]
            found.append((name, pixels[:, :, 3] > 0))
        same(found, segmentation.panoptic(things))


# ------------------------------------------------------------------ FiftyOne


def test_fiftyone_samples(maps: Maps, tmp_path: Path) -> None:
    """FiftyOne's documented form: relative boxes, masks as zlib-compressed ``.npy`` in base64."""
    things = things_of(maps[0][1])
    folder = write_dataset("fiftyone", tmp_path / "out", maps, things=things)
    samples = json.loads((folder / "samples.json").read_text())["samples"]
    for sample, (path, segmentation) in zip(samples, maps, strict=True):
        height, width = segmentation.labels.shape
        assert Path(sample["filepath"]) == path.resolve()
        assert sample["metadata"] == {"_cls": "ImageMetadata", "width": width, "height": height}
        found = []
        for detection in sample["scanseg"]["detections"]:
            assert detection["_cls"] == "Detection"
            assert 0 <= detection["confidence"] <= 1
            packed = base64.b64decode(detection["mask"]["$binary"]["base64"])
            crop = np.load(BytesIO(zlib.decompress(packed)), allow_pickle=False)
            x, y, w, h = detection["bounding_box"]
            left, top = round(x * width), round(y * height)
            assert crop.shape == (round(h * height), round(w * width))
            mask = np.zeros((height, width), dtype=bool)
            mask[top : top + crop.shape[0], left : left + crop.shape[1]] = crop
            found.append((detection["label"], mask))
        same(found, segmentation.panoptic(things))


def test_fiftyone_itself(maps: Maps, tmp_path: Path) -> None:
    fiftyone = pytest.importorskip("fiftyone")
    folder = write_dataset("fiftyone", tmp_path / "out", maps)
    samples = json.loads((folder / "samples.json").read_text())["samples"]
    for values, (_, segmentation) in zip(samples, maps, strict=True):
        sample = fiftyone.Sample.from_dict(values)
        size = segmentation.labels.shape[::-1]
        same(
            [
                (d.label, d.to_segmentation(frame_size=size).mask > 0)
                for d in sample["scanseg"].detections
            ],
            segmentation.segments,
        )


# ------------------------------------------------------------------ GeoJSON and supervision


def test_geojson_in_shapely(maps: Maps, tmp_path: Path) -> None:
    shapely = pytest.importorskip("shapely")
    folder = write_dataset("geojson", tmp_path / "out", maps, things="all")
    for path, segmentation in maps:
        data = json.loads((folder / f"{path.stem}.geojson").read_text())
        height, width = segmentation.labels.shape
        rows, columns = np.mgrid[:height, :width] + 0.5
        found = []
        for feature in data["features"]:
            shape = shapely.geometry.shape(feature["geometry"])
            assert shape.is_valid
            assert shape.area == feature["properties"]["area"]
            mask = shapely.contains_xy(shape, columns.ravel(), rows.ravel())
            found.append((feature["properties"]["name"], mask.reshape(height, width)))
        same(found, segmentation.instances())


def test_instances_as_detections(maps: Maps) -> None:
    pytest.importorskip("supervision")
    for _, segmentation in maps:
        detections = segmentation.to_detections(things="all")
        assert len(detections) == len(segmentation.instances())
        if len(detections):
            names = [str(n) for n in detections.data["class_name"]]
            same(list(zip(names, detections.mask, strict=True)), segmentation.instances())


# ------------------------------------------------------------------ what is common


def test_parts_survive_their_record(maps: Maps) -> None:
    for _, segmentation in maps:
        parts = segmentation.panoptic(things_of(segmentation))
        record = json.loads(json.dumps(parts_record(parts)))
        shape = segmentation.labels.shape
        again = read_parts(record, segmentation.names, (shape[0], shape[1]))
        np.testing.assert_array_equal(again.ids, parts.ids)
        assert again.things == parts.things
        for one, other in zip(again.parts, parts.parts, strict=True):
            assert (one.label, one.area, one.bbox) == (other.label, other.area, other.bbox)
            assert one.score == pytest.approx(other.score, abs=1e-6)


@pytest.mark.parametrize("name", [f for f in FORMATS if f != "voc"])
def test_equal_maps_give_equal_files(name: str, real_maps: Maps, tmp_path: Path) -> None:
    for folder in ("one", "two"):
        write_dataset(name, tmp_path / folder, real_maps, things=["cup"], min_area=9)
    files = sorted(p.relative_to(tmp_path / "one") for p in (tmp_path / "one").rglob("*.*"))
    assert files
    for file in files:
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()


def test_mistakes(real_maps: Maps, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"'cocoo' \(did you mean 'coco'\?\).*label-studio"):
        write_dataset("cocoo", tmp_path, real_maps)
    with pytest.raises(InputError, match=r"'kat' is not one of the words \(did you mean 'cat'"):
        write_dataset("coco", tmp_path, real_maps, things=["kat"])
    with pytest.raises(InputError, match="at least one photo"):
        write_dataset("coco", tmp_path, [])
    path, first = real_maps[0]
    other = Segmentation(first.labels, (*first.names[:-1], "sky"), first.confidence)
    with pytest.raises(InputError, match="other words than the photos before"):
        write_dataset("coco", tmp_path, [(path, first), ("b.png", other)])
    with pytest.raises(InputError, match=r"two photos .* called chelsea"):
        write_dataset("coco", tmp_path, [(path, first), (path, first)])
    with pytest.raises(InputError, match=r"yolo needs the photo no\.png itself"):
        write_dataset("yolo", tmp_path, [("no.png", first)])
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        write_dataset("coco", tmp_path / "file", real_maps)
    assert not list(tmp_path.glob("**/instances*.json"))


def test_memory_does_not_grow_with_photos(real_maps: Maps, tmp_path: Path) -> None:
    """A writer asks for one photo at a time and forgets the one before."""
    import weakref

    alive: list[Any] = []

    def items() -> Any:
        path, segmentation = real_maps[0]
        for number in range(1, 6):
            parts = segmentation.panoptic()
            item = datasets.Item(number, f"{number}.png", str(number), parts, path)
            alive.append(weakref.ref(item))
            del parts
            yield item
            del item
            assert sum(ref() is not None for ref in alive) <= 1

    for name in FORMATS:
        alive.clear()
        datasets.write_items(name, tmp_path / name, real_maps[0][1].names, items())
        assert len(alive) == 5
