"""Each data set read in its original conventions; expected maps are worked out by hand."""

from __future__ import annotations

import csv
import json
import pickle
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from scanseg.contracts import InputError
from scanseg.data import VOID, LabelTable, Layout, dataset_names, layout_of, open_dataset
from scanseg.data.pictures import png_header, read_label_png
from scanseg.vocabulary.label_sets import load_label_set

BENCHMARKS = [name for name in dataset_names() if name not in ("folder", "bsds500")]


@pytest.mark.parametrize("name", BENCHMARKS)
def test_class_order_is_that_of_the_label_set(name):
    layout = layout_of(name)
    label_set = load_label_set(layout.label_set)
    assert label_set.name == layout.label_set
    assert layout.classes == len(label_set)
    assert layout.official_table.values == label_set.ids
    assert set(layout.official_table.voids) == set(label_set.void_ids)
    assert layout.official_table.others_void == label_set.partial


def test_class_order_against_the_official_lists(shared):
    def column(file, name):
        with (shared / "labels" / file).open(newline="") as lines:
            return [row[name] for row in csv.DictReader(lines)]

    def ints(values):
        return tuple(int(v) for v in values)

    stuff = ints(column("coco_stuff171.csv", "stuffthingmap_value"))
    assert layout_of("coco_stuff").table.values == stuff
    assert layout_of("ade20k847").official_table.values == ints(column("ade847.csv", "ade_full_id"))
    assert layout_of("voc20").table.values == ints(column("voc20.csv", "voc_id"))
    raw = column("pc459.csv", "name_in_labels_txt")
    expected = tuple(raw.index(name) + 1 for name in column("pc59.csv", "name"))
    assert layout_of("pascal_context59").official_table.values == expected
    categories = json.loads(
        (shared / "data/fixtures/coco_panopticapi_sample/panoptic_coco_categories.json").read_text()
    )
    assert layout_of("coco_panoptic").table.values == tuple(c["id"] for c in categories)


@pytest.mark.parametrize("name", dataset_names())
def test_every_layout_says_what_it_is(name):
    layout = layout_of(name)
    assert layout.name == name
    assert layout.title
    assert layout.tree
    assert layout.terms
    assert not layout.splits or layout.default_split in layout.splits
    for split in layout.splits:
        assert layout.needs(split)
        assert all(a.url.startswith("http") for a in layout.needs(split))


# ---------------------------------------------------------------------------- COCO-Stuff


def test_coco_stuff(make, tmp_path):
    # Values 11 and 25 were never used, so 10 -> 10, 12 -> 11, 26 -> 24; 181 is the last of 171.
    root = make.tree(
        tmp_path,
        {
            "images/val2017/000000000139.jpg": make.jpg(2, 3),
            "stuffthingmaps/val2017/000000000139.png": make.png([[0, 10, 12], [26, 181, 255]]),
        },
    )
    val = open_dataset("coco_stuff", root)
    assert (val.split, val.classes, val.label_set, val.expected) == (
        "val",
        171,
        "coco_stuff171",
        5000,
    )
    assert val[0].truth().tolist() == [[0, 10, 11], [24, 170, VOID]]
    assert val[0].truth().dtype == np.int32
    assert val[0].pixels().shape == (2, 3, 3)


def test_coco_stuff_refuses_a_value_that_was_never_used(make, tmp_path):
    root = make.tree(
        tmp_path,
        {
            "val2017/000000000139.jpg": make.jpg(1, 2),
            "annotations/val2017/000000000139.png": make.png([[0, 11]]),
        },
    )
    with pytest.raises(InputError, match=r"000000000139.png: label value 11 means nothing"):
        open_dataset("coco_stuff", root)[0].truth()


# ---------------------------------------------------------------------------- ADE20K


def test_ade20k150_original(shared, tmp_path):
    sample = shared / "data/fixtures/ade20k_sceneparsing_sample"
    base = tmp_path / "ADEChallengeData2016"
    for kind in ("images", "annotations"):
        (base / kind).mkdir(parents=True)
        (base / kind / "validation").symlink_to(sample / kind)
    val = open_dataset("ade20k150", tmp_path, "val")
    assert val.keys == tuple(f"ADE_val_0000000{i}" for i in (1, 2, 3))
    for item in val:
        stored = np.asarray(Image.open(sample / "annotations" / f"{item.key}.png")).astype(int)
        truth = item.truth()
        assert np.array_equal(truth[stored > 0], stored[stored > 0] - 1)
        assert (truth[stored == 0] == VOID).all()
        assert item.pixels().shape[:2] == truth.shape


def test_ade20k847_reads_16_bits_only(make, tmp_path):
    files = {"images/validation/ADE_val_00000001.jpg": make.jpg(1, 3)}
    label = "labels/validation/ADE_val_00000001.png"
    values = np.array([[0, 846, 65535]], dtype=np.uint16)
    root = make.tree(tmp_path, {**files, label: make.png(values)})
    assert open_dataset("ade20k847", root)[0].truth().tolist() == [[0, 846, VOID]]
    make.tree(tmp_path, {label: make.png(np.array([[0, 847, 3]], dtype=np.uint16))})
    with pytest.raises(InputError, match="label value 847 means nothing"):
        open_dataset("ade20k847", root)[0].truth()
    make.tree(tmp_path, {label: make.png([[0, 1, 255]])})
    with pytest.raises(InputError, match="8 bits per pixel, this data set's labels have 16"):
        open_dataset("ade20k847", root)[0].truth()


def test_ade20k847_conversion(make):
    from scanseg.data.ade20k847 import label_from_seg, photo_reduced, reduced_size

    # wall is 2978 = 11 * 256 + 162 (class 0), building 312 = 1 * 256 + 56 (class 1). Red holds ten
    # times the high part, its unit digit means nothing. 0 is nothing, 1 an object outside the 847.
    seg = [[(110, 162, 9), (117, 162, 40)], [(10, 56, 1), (0, 0, 0)], [(0, 1, 7), (10, 56, 2)]]
    png = label_from_seg(make.png(np.array(seg, dtype=np.uint8)))
    assert png_header(png, "label") == (16, 0)
    with Image.open(BytesIO(png)) as picture:
        assert np.asarray(picture).tolist() == [[0, 0], [1, 65535], [65535, 1]]
    assert reduced_size(512, 2000) == (512, 2000)
    assert reduced_size(1024, 1365) == (512, 682)  # 682.5 goes to the even neighbour
    assert reduced_size(1200, 600) == (1024, 512)
    small, large = make.jpg(20, 30), make.jpg(1024, 1300)
    assert photo_reduced(small) is small
    with Image.open(BytesIO(photo_reduced(large))) as picture:
        assert picture.size == (650, 512)


def test_nearest_takes_the_centre_of_each_new_pixel():
    from scanseg.data.ade20k847 import nearest

    # 6 -> 2 columns: centres at 0.5 * 3 = 1.5 and 4.5, so columns 1 and 4; rows 2 -> 1: row 1.
    values = np.array([[0, 1, 2, 3, 4, 5], [10, 11, 12, 13, 14, 15]])
    assert nearest(values, 1, 2).tolist() == [[11, 14]]


# ---------------------------------------------------------------------------- PASCAL


def test_pascal_context_conversion(make):
    from scanseg.data import layout_of

    # aeroplane 2, bicycle 23, unknown 431, table 397 (class 10 of 59), 0 nothing
    data = make.mat(LabelMap=np.array([[2, 23, 431], [397, 0, 459]], dtype=np.uint16))
    expected = {
        "pascal_context59": (8, [[0, 1, 255], [10, 255, 255]]),
        "pascal_context459": (16, [[1, 22, 430], [396, 65535, 458]]),
    }
    for name, (bits, values) in expected.items():
        convert = layout_of(name).archives[1].takes[0].convert
        png = convert(data)
        assert png_header(png, name) == (bits, 0)
        with Image.open(BytesIO(png)) as picture:
            assert np.asarray(picture).tolist() == values
    with pytest.raises(InputError, match="no variable 'LabelMap'"):
        convert(make.mat(Other=np.zeros((2, 2))))
    with pytest.raises(InputError, match="label value 460 means nothing"):
        convert(make.mat(LabelMap=np.array([[460]], dtype=np.uint16)))
    with pytest.raises(InputError, match="whole numbers"):
        convert(make.mat(LabelMap=np.array([[1.5, 2.0]])))
    with pytest.raises(InputError, match="not a readable MATLAB file"):
        convert(b"MATLAB 5.0 MAT-file" + bytes(200))


def test_pascal_context_reads_the_lists(make, tmp_path):
    files = {"splits/train.txt": "2008_000003\n", "splits/val.txt": "2008_000009\n2008_000002\n"}
    for key in ("2008_000002", "2008_000003", "2008_000009"):
        files[f"images/{key}.jpg"] = make.jpg(1, 2)
        files[f"labels59/{key}.png"] = make.png([[58, 255]])
    val = open_dataset("pascal_context59", make.tree(tmp_path, files))
    assert val.keys == ("2008_000009", "2008_000002")  # the list's order
    assert val[1].truth().tolist() == [[58, VOID]]
    with pytest.raises(
        InputError, match=r"no prepared label maps .*labels459.*scanseg data prepare"
    ):
        open_dataset("pascal_context459", tmp_path)


def test_voc_originals(shared, tmp_path):
    sample = shared / "data/fixtures/voc_palette_sample"
    base = tmp_path / "VOCdevkit" / "VOC2012"
    base.mkdir(parents=True)
    for kind in ("JPEGImages", "SegmentationClass", "SegmentationObject"):
        (base / kind).symlink_to(sample / kind)
    lists = base / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    (lists / "val.txt").write_text("2011_000006\n2011_000003\n")
    val20, val21 = open_dataset("voc20", tmp_path), open_dataset("voc21", tmp_path)
    assert val20.keys == ("2011_000006", "2011_000003")
    first20, first21 = val20[0].truth(), val21[0].truth()
    # the palette values of 2011_000006 are background, chair 9, person 15, sofa 18 and 255
    assert np.unique(first20).tolist() == [VOID, 8, 14, 17]
    assert np.unique(first21).tolist() == [VOID, 0, 9, 15, 18]
    assert ((first21 == 0) <= (first20 == VOID)).all()
    (regions,) = val20[0].regions()
    assert np.unique(regions).tolist() == [0, 1, 2, 3, 4, 5, 7]


def test_voc_augmented_takes_vocs_own_map_where_there_is_one(make, tmp_path):
    keys = ("2007_000001", "2008_000002")
    files = {f"JPEGImages/{key}.jpg": make.jpg(1, 2) for key in keys}
    files |= {
        "ImageSets/Segmentation/train_aug.txt": "\n".join(keys),
        "SegmentationClass/2007_000001.png": make.png([[1, 255]], palette=True),
        "SegmentationClassAug/2007_000001.png": make.png([[2, 2]]),
        "SegmentationClassAug/2008_000002.png": make.png([[0, 20]]),
    }
    both = open_dataset("voc20", make.tree(tmp_path, files), "train_aug")
    assert [s.truth().tolist() for s in both] == [[[0, VOID]], [[VOID, 19]]]
    with pytest.raises(InputError, match="no regions"):
        both[0].regions()


def test_sbd_conversion(make):
    from scanseg.data.voc2012 import label_from_sbd

    truth = {"Segmentation": np.array([[0, 20], [15, 1]], dtype=np.uint8), "Boundaries": 0}
    with Image.open(BytesIO(label_from_sbd(make.mat(GTcls=truth)))) as picture:
        assert np.asarray(picture).tolist() == [[0, 20], [15, 1]]
    with pytest.raises(InputError, match="no field Segmentation"):
        label_from_sbd(make.mat(GTcls={"Boundaries": 0}))
    with pytest.raises(InputError, match="label value 21 means nothing"):
        label_from_sbd(make.mat(GTcls={"Segmentation": np.array([[21, 0]], dtype=np.uint8)}))


# ---------------------------------------------------------------------------- COCO panoptic


@pytest.fixture
def panoptic(shared, tmp_path):
    """The panopticapi sample in the layout of the official archives."""
    sample = shared / "data/fixtures/coco_panopticapi_sample"
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations/panoptic_val2017.json").symlink_to(sample / "panoptic_examples.json")
    (tmp_path / "annotations/panoptic_val2017").symlink_to(sample / "panoptic_examples")
    (tmp_path / "val2017").symlink_to(sample / "input_images")
    return tmp_path


def test_panoptic_originals(shared, panoptic):
    sample = shared / "data/fixtures/coco_panopticapi_sample"
    annotations = json.loads((sample / "panoptic_examples.json").read_text())["annotations"]
    order = [c["id"] for c in json.loads((sample / "panoptic_coco_categories.json").read_text())]
    val = open_dataset("coco_panoptic", panoptic)
    assert val.keys == ("000000142238", "000000439180")
    for item in val:
        (known,) = [a for a in annotations if a["file_name"] == f"{item.key}.png"]
        segments, truth = item.panoptic(), item.truth()
        assert segments.ids.dtype == np.int32
        pixels_of_class = np.zeros(133, dtype=int)
        for segment in known["segments_info"]:
            label = order.index(segment["category_id"])
            assert segments.labels[segment["id"]] == label
            assert int((segments.ids == segment["id"]).sum()) == segment["area"]
            assert (segment["id"] in segments.crowds) == bool(segment["iscrowd"])
            pixels_of_class[label] += segment["area"]
        assert np.bincount(truth[truth >= 0], minlength=133).tolist() == pixels_of_class.tolist()
        assert np.array_equal(truth == VOID, segments.ids == 0)
        assert np.array_equal(item.regions()[0], segments.ids)


def test_panoptic_png_and_json_must_agree(make, tmp_path):
    # segment 1 + 256 * 2 + 65536 * 3 = 197121 is drawn; the JSON calls it 7
    record = {
        "file_name": "000000000001.png",
        "segments_info": [{"id": 7, "category_id": 1, "iscrowd": 0}],
    }
    index = {"annotations": [record]}
    files = {
        "images/val2017/000000000001.jpg": make.jpg(1, 1),
        "annotations/panoptic_val2017.json": json.dumps(index),
        "annotations/panoptic_val2017/000000000001.png": make.png(
            np.array([[(1, 2, 3)]], dtype=np.uint8)
        ),
    }
    root = make.tree(tmp_path / "a", files)
    with pytest.raises(InputError, match="segment 7 is only in the PNG or only in the JSON"):
        open_dataset("coco_panoptic", root)[0].panoptic()
    record["segments_info"][0] |= {"id": 197121, "iscrowd": 1}
    files["annotations/panoptic_val2017.json"] = json.dumps(index)
    sample = open_dataset("coco_panoptic", make.tree(tmp_path / "b", files))[0]
    assert sample.panoptic().crowds == {197121}
    assert sample.truth().tolist() == [[0]]
    record["segments_info"][0]["category_id"] = 12  # never used by COCO
    files["annotations/panoptic_val2017.json"] = json.dumps(index)
    with pytest.raises(InputError, match="category 12 is not in the label set"):
        open_dataset("coco_panoptic", make.tree(tmp_path / "c", files))
    for text in ("{}", "[1]", "{", '{"annotations": [{"file_name": "x.png"}]}'):
        files["annotations/panoptic_val2017.json"] = text
        with pytest.raises(InputError, match=r"not JSON|not a COCO panoptic file"):
            open_dataset("coco_panoptic", make.tree(tmp_path / str(len(text)), files))


# ---------------------------------------------------------------------------- CamVid, BSDS500


def test_camvid_as_segnet_has_it(make, tmp_path):
    files = {
        "CamVid/test/0001TP_008550.png": make.png(np.zeros((1, 3, 3), dtype=np.uint8)),
        "CamVid/testannot/0001TP_008550.png": make.png([[0, 10, 11]]),
    }
    test = open_dataset("camvid", make.tree(tmp_path, files))
    assert (test.split, test.classes, test.expected) == ("test", 11, 233)
    assert test[0].truth().tolist() == [[0, 10, VOID]]
    with pytest.raises(InputError, match="camvid has no split 'dev'; it has train, val, test"):
        open_dataset("camvid", tmp_path, "dev")


def test_camvid_as_a_folder(make, tmp_path):
    files = {
        "images/a.jpg": make.jpg(1, 2),
        "labels/a.png": make.png([[10, 255]]),
        "splits/test.txt": "a\n",
        "classes.txt": "".join(f"{i}\tclass {i}\n" for i in range(11)),
    }
    root = make.tree(tmp_path, files)
    assert open_dataset("camvid", root)[0].truth().tolist() == [[10, VOID]]
    make.tree(root, {"classes.txt": "".join(f"{i}\tclass {i}\n" for i in range(1, 12))})
    with pytest.raises(InputError, match="its ids must be 0 to 10"):
        open_dataset("camvid", root)


def test_bsds_as_published(make, tmp_path):
    maps = [
        np.array([[1, 1], [2, 3]], dtype=np.uint16),
        np.array([[1, 2], [2, 2]], dtype=np.uint16),
    ]
    cells = np.empty((1, 2), dtype=object)
    for i, values in enumerate(maps):
        cells[0, i] = {"Segmentation": values, "Boundaries": np.zeros((2, 2), dtype=bool)}
    files = {
        "BSDS500/data/images/test/100007.jpg": make.jpg(2, 2),
        "BSDS500/data/groundTruth/test/100007.mat": make.mat(groundTruth=cells),
    }
    test = open_dataset("bsds500", make.tree(tmp_path, files))
    assert (test.classes, test.label_set) == (0, None)
    assert [m.tolist() for m in test[0].regions()] == [m.tolist() for m in maps]
    with pytest.raises(InputError, match="regions but no class labels"):
        test[0].truth()
    with pytest.raises(InputError, match="no panoptic truth"):
        test[0].panoptic()


def test_bsds_with_one_annotator_as_pngs(make, tmp_path):
    files = {
        "images/5.jpg": make.jpg(1, 2),
        "segs/5_a0.png": make.png([[1, 2]]),
        "splits/test.txt": "5",
    }
    (regions,) = open_dataset("bsds500", make.tree(tmp_path, files))[0].regions()
    assert regions.tolist() == [[1, 2]]


# ---------------------------------------------------------------------------- common


def test_a_label_table_worked_out_by_hand():
    table = LabelTable(values=(7, 3), voids=(0,))
    stored = np.array([[7, 3, 0]], dtype=np.uint8)
    assert table.decode(stored, "x").tolist() == [[0, 1, VOID]]
    with pytest.raises(InputError, match="x: label value 1, 2 means nothing in this data set"):
        table.decode(np.array([[2, 1, 7]], dtype=np.uint8), "x")
    with pytest.raises(InputError, match="values from 0 to 256, but this data set has 8-bit"):
        table.decode(np.array([[0, 256]], dtype=np.uint16), "x")
    partial = LabelTable(values=(7, 3), voids=(0,), others_void=True)
    assert partial.decode(np.array([[9, 7]], dtype=np.uint8), "x").tolist() == [[VOID, 0]]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not a PNG file"),
        (b"\x89PNG\r\n\x1a\n" + bytes(40), "not a PNG file"),
        ("colour", "a colour PNG, expected a label map of 8 bits"),
        ("16 bit", "16 bits per pixel, this data set's labels have 8"),
        ("1 bit", "1 bits per pixel, this data set's labels have 8"),
        ("cut", "damaged or not a picture"),
        ("huge", "120000 x 120000 pixels, the limit is"),
    ],
)
def test_label_maps_that_are_refused(make, tmp_path, content, message):
    whole = make.png(np.random.default_rng(0).integers(0, 20, (40, 40), dtype=np.uint8))
    if content == "colour":
        content = make.png(np.zeros((2, 2, 3), dtype=np.uint8))
    elif content == "16 bit":
        content = make.png(np.zeros((2, 2), dtype=np.uint16))
    elif content == "1 bit":
        path = tmp_path / "bit.png"
        Image.new("1", (2, 2)).save(path)
        content = path.read_bytes()
    elif content == "cut":
        content = whole[: len(whole) // 2]
    elif content == "huge":
        content = whole[:16] + (120_000).to_bytes(4, "big") * 2 + whole[24:]
    path = tmp_path / "label.png"
    path.write_bytes(content)
    with pytest.raises(InputError, match=message) as error:
        read_label_png(path, LabelTable(tuple(range(20)), (255,)))
    assert "\n" not in str(error.value)
    with pytest.raises(InputError, match="cannot be read"):
        read_label_png(tmp_path / "absent.png", LabelTable((0,), ()))


def test_two_bit_palettes_are_label_maps(tmp_path):
    picture = Image.fromarray(np.array([[0, 1], [2, 3]], dtype=np.uint8))
    picture.putpalette([0, 0, 0, 90, 0, 0, 0, 90, 0, 0, 0, 90])
    picture.save(tmp_path / "small.png", bits=2)
    truth = read_label_png(tmp_path / "small.png", LabelTable((0, 1, 2), (3,)))
    assert truth.tolist() == [[0, 1], [2, VOID]]


def test_missing_samples_stop_the_opening(make, tmp_path):
    files = {
        "images/val2017/000000000001.jpg": make.jpg(1, 1),
        "images/val2017/000000000002.jpg": make.jpg(1, 1),
        "stuffthingmaps/val2017/000000000001.png": make.png([[0]]),
    }
    root = make.tree(tmp_path, files)
    with pytest.raises(InputError, match=r"1 samples .* have no label, the first is 000000000002"):
        open_dataset("coco_stuff", root)
    (root / "images/val2017/000000000002.jpg").unlink()
    (root / "images/val2017/000000000001.jpg").rename(root / "images/val2017/9.jpg")
    with pytest.raises(InputError, match="no label, the first is 9"):
        open_dataset("coco_stuff", root)
    (root / "images/val2017/9.jpg").unlink()
    with pytest.raises(InputError, match="have no photo, the first is 000000000001"):
        open_dataset("coco_stuff", root)
    (root / "stuffthingmaps/val2017/000000000001.png").unlink()
    with pytest.raises(InputError, match="coco_stuff val: no samples"):
        open_dataset("coco_stuff", root)


def test_missing_folders_say_where_to_get_them(tmp_path):
    with pytest.raises(InputError) as error:
        open_dataset("coco_stuff", tmp_path / "nowhere", "val")
    message = str(error.value)
    assert "no folder" in message
    assert "http://images.cocodataset.org/zips/val2017.zip" in message
    assert "train2017.zip" not in message  # not needed for val
    assert "scanseg data prepare coco_stuff --source FOLDER --output" in message
    assert "\n" not in message


def test_datasets_are_sequences(make, tmp_path):
    files = {}
    for i in range(5):
        files[f"images/val2017/00000000000{i}.jpg"] = make.jpg(1, 1)
        files[f"stuffthingmaps/val2017/00000000000{i}.png"] = make.png([[i]])
    val = open_dataset("coco_stuff", make.tree(tmp_path, files))
    assert len(val) == 5
    assert [s.key[-1] for s in val] == list("01234")
    assert val[-1].truth().tolist() == [[4]]
    shard = val[1::2]
    assert [s.key[-1] for s in shard] == ["1", "3"]
    assert [s.truth().item() for s in val.only([val.keys[3], val.keys[0]])] == [3, 0]
    with pytest.raises(InputError, match="has no sample 'x'"):
        val.only(["x"])
    with pytest.raises(IndexError):
        val[5]
    clone = pickle.loads(pickle.dumps(val))
    assert clone[2].truth().tolist() == [[2]]


def test_photos_are_read_in_the_frame_of_the_labels(make, tmp_path):
    files = {
        "images/val2017/000000000001.jpg": make.jpg(2, 5, orientation=6),
        "stuffthingmaps/val2017/000000000001.png": make.png(np.zeros((2, 5), dtype=np.uint8)),
    }
    sample = open_dataset("coco_stuff", make.tree(tmp_path, files))[0]
    assert sample.pixels().shape == (2, 5, 3)
    assert sample.truth().shape == (2, 5)
    sample.image.write_bytes(b"not a photo")
    with pytest.raises(InputError, match="damaged or not a picture"):
        sample.pixels()


def test_unknown_names_and_class_paths():
    with pytest.raises(InputError, match="did you mean 'camvid'"):
        layout_of("camvit")
    with pytest.raises(InputError, match="no data set class"):
        layout_of("no_such_package.Layout")
    with pytest.raises(InputError, match="no data set class"):
        layout_of("scanseg.data.camvid.Nothing")
    with pytest.raises(InputError, match="not a class derived from"):
        layout_of("pathlib.Path")
    assert layout_of("scanseg.data.camvid.Camvid").name == "camvid"
    assert isinstance(layout_of("camvid"), Layout)


def test_a_layout_of_ones_own_is_one_class(make, tmp_path, monkeypatch):
    code = """
from pathlib import Path
from scanseg.data import Files, Folder, LabelTable, Layout, SplitFacts

class Twins(Layout):
    name, title, label_set = "twins", "Twins", "voc20"
    table = LabelTable((5, 6), voids=(0,))
    default_split, splits = "val", {"val": SplitFacts(1)}
    tree, terms = "photos/*.jpg, maps/*.png", "ours"

    def files(self, root: Path, split: str) -> Files:
        images = Folder.scan(self.need(root, split, "photos", "photos"), ".jpg")
        labels = Folder.scan(self.need(root, split, "maps", "maps"), ".png")
        return Files(tuple(labels.files), images, labels, listed=False)
"""
    make.tree(tmp_path, {"their_data.py": code, "photos/a.jpg": make.jpg(1, 2)})
    make.tree(tmp_path, {"maps/a.png": make.png([[6, 0]])})
    monkeypatch.syspath_prepend(str(tmp_path))
    ours = open_dataset("their_data.Twins", tmp_path)
    assert ours[0].truth().tolist() == [[1, VOID]]
    assert ours.expected == 1


def test_one_stem_in_two_files_is_ambiguous(make, tmp_path):
    from scanseg.data import Folder

    make.tree(tmp_path, {"a.jpg": b"", "a.JPG": b"", "b.txt": b""})
    with pytest.raises(InputError, match="keep one"):
        Folder.scan(Path(tmp_path), ".jpg")
