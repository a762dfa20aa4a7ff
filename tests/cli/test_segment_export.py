"""``scanseg segment --export``: data sets of a run, resumed runs, failures, mistakes."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from scanseg.cli import main
from scanseg.cli.segment_export import FOLDER
from scanseg.formats import coco
from scanseg.formats.datasets import FORMATS
from scanseg.formats.png import load_indexed_png
from scanseg.formats.records import decode_rle


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A current folder with two photos of one name in two folders, and one beside them."""
    monkeypatch.chdir(tmp_path)
    for seed, name in enumerate(("in/a.png", "in/one/b.png", "in/two/b.png")):
        path = Path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        noise = np.random.default_rng(seed).integers(0, 256, (4, 6, 3), dtype=np.uint8)
        Image.fromarray(noise).resize((48, 32)).save(path)
    return tmp_path


def segment(*arguments: str) -> int:
    return main(["segment", "--preset", "tiny", "--device", "cpu", *arguments])


def contents(folder: str) -> dict[str, bytes]:
    paths = [p for p in Path(folder).rglob("*") if p.is_file()]
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in paths}


def dataset(folder: str = "scanseg_output") -> dict:
    return json.loads(Path(folder, FOLDER, "coco", coco.FILE).read_text())


def test_one_data_set_of_many_photos(capsys: pytest.CaptureFixture[str]) -> None:
    assert segment("in", "cat", "dog", "--recursive", "--export", "coco") == 0
    data = dataset()
    images = [(i["id"], i["file_name"]) for i in data["images"]]
    assert images == [(1, "a.png"), (2, "one/b.png"), (3, "two/b.png")]
    assert [c["name"] for c in data["categories"]] == ["cat", "dog"]
    for number, name in images:
        labels, _ = load_indexed_png(Path("scanseg_output", name))
        found = [a for a in data["annotations"] if a["image_id"] == number]
        assert {a["category_id"] for a in found} == set(np.unique(labels + 1)) - {0}
        for entry in found:
            mask = decode_rle(entry["segmentation"])
            np.testing.assert_array_equal(mask, labels == entry["category_id"] - 1)
    said = capsys.readouterr().err
    assert f"data set -> {os.path.join('scanseg_output', FOLDER, 'coco')}" in said


def test_things_are_instances() -> None:
    assert segment("in/a.png", "cat", "dog", "--export", "coco", "--things", "all") == 0
    record = json.loads(Path("scanseg_output/a.json").read_text())
    assert len(dataset()["annotations"]) == len(record["parts"]["list"])
    assert record["parts"]["things"] == [0, 1]
    assert record["parts"]["min_area"] == 1
    large = ["--overwrite", "--export", "coco", "--things", "cat,dog", "--min-area", "100"]
    assert segment("in/a.png", "cat", "dog", *large) == 0
    assert all(a["area"] >= 100 for a in dataset()["annotations"])


def test_all_formats_at_once() -> None:
    assert segment("in/a.png", "cat", "dog", "--export", ",".join(FORMATS), "--quiet") == 0
    assert sorted(os.listdir(f"scanseg_output/{FOLDER}")) == sorted(FORMATS)


def test_a_run_that_was_stopped_gives_the_same_data_set() -> None:
    words = ["in", "cat", "dog", "--recursive", "--export", "coco,yolo", "--quiet"]
    assert segment(*words, "--output", "whole") == 0
    assert segment("in/a.png", "cat", "dog", "--output", "part", "--quiet") == 0  # no parts in it
    assert segment(*words, "--output", "part", "--skip-existing") == 0
    assert contents("whole") == contents("part")
    Path("part/one/b.json").unlink()
    before = Path("part/two/b.json").stat().st_mtime_ns
    assert segment(*words, "--output", "part", "--skip-existing") == 0
    assert contents("whole") == contents("part")
    assert Path("part/two/b.json").stat().st_mtime_ns == before  # not done again


def test_photos_that_share_a_name_do_not_share_files() -> None:
    Image.open("in/a.png").save("in/a.jpg")
    formats = ["--export", "yolo,coco-panoptic,geojson,voc", "--quiet"]
    assert segment("in/a.png", "in/a.jpg", "cat", "dog", *formats) == 0
    exports = Path("scanseg_output", FOLDER)
    assert sorted(os.listdir(exports / "yolo/images")) == ["a.jpg.jpg", "a.png.png"]
    assert sorted(os.listdir(exports / "yolo/labels")) == ["a.jpg.txt", "a.png.txt"]
    assert sorted(os.listdir(exports / "geojson")) == ["a.jpg.geojson", "a.png.geojson"]
    for folder in ("coco-panoptic/annotations/panoptic_default", "voc/SegmentationClass"):
        assert sorted(os.listdir(exports / folder)) == ["a.jpg.png", "a.png.png"]


def test_other_words_stop_it_and_other_things_are_done_again(
    capsys: pytest.CaptureFixture[str],
) -> None:
    again = ["--export", "coco", "--quiet", "--skip-existing"]
    assert segment("in/a.png", "cat", "--export", "coco", "--quiet") == 0
    assert segment("in/a.png", "fox", *again) == 2
    assert "a.json was made with other labels" in capsys.readouterr().err
    assert segment("in/a.png", "cat", *again, "--things", "all") == 0
    assert json.loads(Path("scanseg_output/a.json").read_text())["parts"]["things"] == [0]


def test_a_photo_that_fails_is_left_out_and_ids_stay() -> None:
    Path("in/one/b.png").write_bytes(b"no photo")
    assert segment("in", "cat", "--recursive", "--export", "coco", "--quiet") == 3
    assert [i["id"] for i in dataset()["images"]] == [1, 3]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--export", "cocoo"], r"no format 'cocoo' (did you mean 'coco'?)"),
        (["--export", ","], "--export names no format"),
        (["--export", "coco", "--things", "dgo"], "'dgo' is not one of the words"),
        (["--things", "cat"], "--things is about data sets: name a format with --export"),
        (["--min-area", "5"], "--min-area is about data sets"),
        (["--export", "coco", "--min-area", "0"], "--min-area counts pixels, 1 or more, not 0"),
        (["--export", "coco", "--output", "-"], "--export writes files"),
        (["--export", "coco", "--json"], "--export writes files"),
    ],
)
def test_mistakes(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert segment("in/a.png", "cat", "dog", *arguments) == 2
    assert message in capsys.readouterr().err
    assert not Path("scanseg_output").exists()


def test_existing_data_sets_are_not_replaced_silently(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert segment("in/a.png", "cat", "--export", "coco", "--quiet") == 0
    for name in ("a.png", "a.json", "a_overlay.png"):
        Path("scanseg_output", name).unlink()
    assert segment("in/a.png", "cat", "--export", "coco") == 2
    assert "coco exists: use --overwrite" in capsys.readouterr().err
    assert segment("in/a.png", "cat", "--export", "coco", "--overwrite") == 0
