from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from scanseg.contracts import InputError
from scanseg.storage import write_json
from scanseg.training.captions import read_captions
from scanseg.training.crop_batches import crop_of
from scanseg.training.mining import MiningSettings, match
from scanseg.training.pairs import (
    FILL,
    SUMMARY,
    Pair,
    PairFolder,
    PairInfo,
    masked,
    read_record,
    write_shard,
)


def a_pair(key: str, noun: str = "dog", seed: int = 0, around: bool = False) -> Pair:
    generator = np.random.default_rng(seed)
    pixels = generator.integers(0, 256, (5, 7, 3), np.uint8)
    mask = np.zeros((5, 7), bool)
    mask[0, 0] = mask[4, 6] = mask[2, 3] = True
    info = PairInfo(key, noun, 0.25, (0, 0, 7, 5), "photo", "a dog", 0)
    photo = generator.integers(0, 256, (8, 8, 3), np.uint8)
    return Pair(info, masked(pixels, mask), photo, pixels if around else None)


def test_a_mask_is_recovered_even_where_the_photo_has_the_fill_colour() -> None:
    pixels = np.full((2, 2, 3), FILL, np.uint8)
    mask = np.array([[True, False], [False, True]])
    pair = Pair(a_pair("a").info, masked(pixels, mask), pixels)
    assert (pair.mask == mask).all()
    assert pair.crop[0, 0].tolist() == [124, 116, 104]  # one step bluer
    assert pair.crop[0, 1].tolist() == [124, 116, 103]


def test_shards_come_back_exactly_and_have_equal_bytes(tmp_path: Path) -> None:
    pairs = [a_pair("x_00", seed=1, around=True), a_pair("x_01", "cat", seed=2, around=True)]
    first = write_shard(tmp_path / "a", 0, pairs, {})
    assert first["sha256"] == write_shard(tmp_path / "b", 0, pairs, {})["sha256"]
    write_json(tmp_path / "a" / SUMMARY, {"finished": True})
    found = PairFolder(tmp_path / "a")
    assert found.nouns == ("cat", "dog")
    assert found.has_surroundings
    for here, there in zip(found, pairs, strict=True):
        assert here.info == there.info
        assert (here.crop == there.crop).all()
        assert (here.photo == there.photo).all()
        assert (here.around == there.around).all()


def test_webdataset_reads_the_shards(tmp_path: Path) -> None:
    wds = pytest.importorskip("webdataset")
    pairs = [a_pair("x_00", seed=1), a_pair("x_01", "cat", seed=2)]
    write_shard(tmp_path, 0, pairs, {})
    shards = wds.WebDataset(str(tmp_path / "pairs-000000.tar"), shardshuffle=False).decode("rgb8")
    found = list(shards)
    assert [s["__key__"] for s in found] == ["x_00", "x_01"]
    assert (found[1]["png"] == pairs[1].crop).all()
    assert found[1]["json"]["noun"] == "cat"


def test_a_damaged_or_unfinished_shard_is_written_again(tmp_path: Path) -> None:
    write_shard(tmp_path, 0, [a_pair("x_00")], {})
    assert read_record(tmp_path, 0) is not None
    path = tmp_path / "pairs-000000.tar"
    data = bytearray(path.read_bytes())
    data[600] ^= 1
    path.write_bytes(data)
    assert read_record(tmp_path, 0) is None
    with pytest.raises(InputError, match="mine makes them"):
        PairFolder(tmp_path)
    write_json(tmp_path / SUMMARY, {"finished": False})
    with pytest.raises(InputError, match="cut short"):
        PairFolder(tmp_path)


def test_a_crop_for_training_is_the_crop_of_inference() -> None:
    """The crop made from the stored pair equals what ``cut_regions`` makes of the whole photo."""
    from scanseg.calibration.regions import cut_regions
    from scanseg.presets import load

    clip = load("tiny", device="cpu").region_clip
    photo = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)
    mask = np.zeros((40, 60), bool)
    mask[10:30, 20:50] = np.random.default_rng(1).random((20, 30)) > 0.4
    mask[10, 20] = mask[29, 49] = True
    planes = torch.from_numpy(photo).permute(2, 0, 1)[None]
    there = cut_regions(
        planes,
        torch.from_numpy(mask)[None, None].float(),
        threshold=0.5,
        size=clip.region_size,
        mean=clip.pixel_mean,
        std=clip.pixel_std,
    )
    x0, y0, x1, y1 = there.boxes[0].tolist()
    crop = masked(photo[y0:y1, x0:x1], mask[y0:y1, x0:x1])
    pair = Pair(a_pair("a").info, crop, photo)
    here = crop_of(pair, 0, clip, "released", around=False)
    assert torch.equal(here.mask, there.masks[0])
    assert torch.allclose(here.pixels, there.pixels[0], atol=1e-6)


def test_each_noun_takes_its_best_region_and_doubles_lose() -> None:
    masks = torch.zeros(3, 2, 2, dtype=torch.bool)
    masks[0, 0], masks[1, 0], masks[2, 1] = True, True, True  # 0 and 1 are the same place
    #                     region 0    1    2
    similarity = torch.tensor(
        [
            [0.30, 0.10, 0.00],  # dog -> 0
            [0.10, 0.40, 0.20],  # cat -> 1, better than dog at the same place
            [0.00, 0.10, 0.15],  # sky -> 2
        ]
    )
    found = match(similarity, ["dog", "cat", "sky"], masks, 0.8)
    assert [(m.noun, m.region) for m in found] == [("cat", 1), ("sky", 2)]
    assert [m.score for m in found] == pytest.approx([0.40, 0.15])
    assert len(match(similarity, ["dog", "cat", "sky"], masks, 1.0)) == 3  # nothing counts double


def test_impossible_settings_are_refused() -> None:
    with pytest.raises(InputError, match="captions"):
        MiningSettings(captions=0)
    with pytest.raises(InputError, match="min_score"):
        MiningSettings(min_score=2)


def test_captions_of_a_folder_and_of_coco(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    for stem in ("b", "a", "c"):
        (tmp_path / "images" / f"{stem}.jpg").touch()
    own = tmp_path / "captions.json"
    own.write_text(json.dumps({"b": ["two", "three"], "a": ["one"]}), encoding="utf-8")
    coco = tmp_path / "captions_train2017.json"
    coco.write_text(
        json.dumps(
            {
                "images": [{"id": 7, "file_name": "b.jpg"}, {"id": 5, "file_name": "a.jpg"}],
                "annotations": [
                    {"id": 10, "image_id": 7, "caption": "three"},
                    {"id": 9, "image_id": 7, "caption": "two"},
                    {"id": 2, "image_id": 5, "caption": "one"},
                ],
            }
        ),
        encoding="utf-8",
    )
    for file in (own, coco):
        found = read_captions(file, tmp_path / "images")
        assert [(p.key, p.captions) for p in found] == [("a", ("one",)), ("b", ("two", "three"))]


@pytest.mark.parametrize("content", ["[]", "{}", '{"a": "one"}', '{"a": []}', '{"a": [1]}', "no"])
def test_other_captions_are_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "captions.json").write_text(content, encoding="utf-8")
    with pytest.raises(InputError, match=r"captions"):
        read_captions(tmp_path / "captions.json", tmp_path)


def test_captions_without_their_photo_are_refused(tmp_path: Path) -> None:
    (tmp_path / "captions.json").write_text('{"a": ["one"]}', encoding="utf-8")
    with pytest.raises(InputError, match="lacks 1 of 1 photos"):
        read_captions(tmp_path / "captions.json", tmp_path)
