"""What `make fuzz` once found, kept as plain tests."""

from __future__ import annotations

import json
import zipfile
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from scanseg import Segmenter
from scanseg.contracts import InputError
from scanseg.convert.checkpoints import read_checkpoint
from scanseg.data.archives import Bounds, open_archive
from scanseg.data.pictures import decode_grey, decode_pixels, picture_size
from scanseg.pickles import read_pickle
from scanseg.training.checkpoints import CheckpointStore
from scanseg.training.yaml_layers import read_layers


def test_messages_stay_short_when_they_are_escaped() -> None:
    told = str(InputError("\x00" * 900))
    assert len(told) <= 1000
    assert told.isprintable()


def test_a_zip_member_outside_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("x.txt", "hello")
    data = bytearray(path.read_bytes())
    at = data.index(b"PK\x01\x02") + 42  # offset of the local header, in the central directory
    data[at : at + 4] = (0xFFFFFF00).to_bytes(4, "little")
    path.write_bytes(data)
    with pytest.raises(InputError):
        _unpack(path, tmp_path / "out")


def _unpack(path: Path, to: Path) -> None:
    bundle = open_archive(path, Bounds(1000, 1 << 20))
    for member in bundle.members:
        with to.open("wb") as target:
            bundle.copy(member, target)


@pytest.mark.parametrize(
    "packing", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA]
)
def test_a_zip_member_whose_bytes_are_wrong(packing: int, tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w", packing) as file:
        file.writestr("x.txt", bytes(range(256)) * 8)
    data = bytearray(path.read_bytes())
    at = 30 + len("x.txt") + 20  # inside the packed bytes, behind the local header
    data[at : at + 40] = bytes(b ^ 0x55 for b in data[at : at + 40])
    path.write_bytes(data)
    with pytest.raises(InputError, match="damaged"):
        _unpack(path, tmp_path / "out")


@pytest.mark.parametrize(
    ("part", "number", "value"),
    [
        ("integration", "encoder_layers", 65_536),
        ("proposals", "decoder_layers", 2**31),
        ("proposals", "decoder_feedforward", 2**31),
        ("proposals", "decoder_feedforward", 2**50),
    ],
)
def test_a_config_of_a_giant_model(part: str, number: str, value: int, tmp_path: Path) -> None:
    folder = Segmenter.from_pretrained("tiny", device="cpu").save_pretrained(tmp_path / "m")
    config = json.loads((folder / "config.json").read_text())
    assert number in config["model"][part]
    config["model"][part][number] = value
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match=r"larger model than its weights|allocate memory"):
        Segmenter.from_pretrained(folder, device="cpu")


def _pickle_of_global(name: bytes) -> bytes:
    return b"\x80\x02c" + name + b"\nx\n)R."


@pytest.mark.parametrize("zipped", [False, True])
def test_a_pickle_with_a_very_long_name(zipped: bool, tmp_path: Path) -> None:
    # torch would search its message about it in quadratic time
    path, lie = tmp_path / "a.ckpt", _pickle_of_global(b"x" * 1_000_000)
    if zipped:
        torch.save({"a": torch.zeros(2)}, path)
        with zipfile.ZipFile(path) as file:
            members = {name: file.read(name) for name in file.namelist()}
        with zipfile.ZipFile(path, "w") as file:
            for name, data in members.items():
                file.writestr(name, lie if name.endswith("data.pkl") else data)
    else:
        path.write_bytes(lie)
    with pytest.raises(InputError, match="no checkpoint"):
        CheckpointStore(tmp_path).read(path)
    with pytest.raises(InputError, match=r"refused|damaged"):
        read_checkpoint(path)


@pytest.mark.parametrize("zipped", [False, True])
def test_pickles_of_both_formats_are_read(zipped: bool, tmp_path: Path) -> None:
    state = {"a": torch.arange(3), "b": [1, "x", {"c": torch.nn.Parameter(torch.ones(2))}]}
    torch.save(state, tmp_path / "a", _use_new_zipfile_serialization=zipped)
    found = read_pickle(tmp_path / "a")
    assert torch.equal(found["a"], state["a"])
    assert found["b"][:2] == [1, "x"]


@pytest.mark.parametrize(
    "change",
    [{"preset": {"a": 1}}, {"proposals": {"joint_width": 32, "gpj.exe": 1}}],
)
def test_a_config_that_describes_no_model(change: dict, tmp_path: Path) -> None:
    folder = Segmenter.from_pretrained("tiny", device="cpu").save_pretrained(tmp_path / "m")
    config = json.loads((folder / "config.json").read_text())
    if "preset" in change:
        config |= change
    else:
        config["model"] |= change
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match=r"config\.json"):
        Segmenter.from_pretrained(folder, device="cpu")


def test_an_experiment_whose_name_is_too_long(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no experiment"):
        read_layers("." * 5000, tmp_path)


def _palette_png(height: int, width: int) -> bytes:
    picture = Image.new("P", (width, height))
    picture.putpalette([10, 20, 30, 40, 50, 60])
    picture.paste(1, (0, height - 1, width, height))  # the last row has the second colour
    file = BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()


def test_strips_of_a_picture_of_a_data_set_join_without_a_seam() -> None:
    data = _palette_png(2100, 2100)  # two strips
    pixels = decode_pixels(data, "a.png")
    assert pixels.shape == (2100, 2100, 3)
    assert (pixels[:-1] == (10, 20, 30)).all()
    assert (pixels[-1] == (40, 50, 60)).all()
    stored = decode_grey(data, "a.png", bits=8)
    assert stored.dtype == np.uint8
    assert (stored[:-1] == 0).all()
    assert (stored[-1] == 1).all()


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="asks Linux")
def test_a_large_picture_of_a_data_set_takes_little_more_than_its_pixels() -> None:
    def peak() -> int:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) * 1024

    data = _palette_png(6000, 10_000)
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    before = peak()
    pixels = decode_pixels(data, "a.png")
    # one byte per pixel as it is stored, three as it is returned; as a whole it took eleven
    assert peak() - before < pixels.size * 5 / 3 + 64 * 2**20


def test_a_picture_of_a_data_set_starts_no_other_program(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n")
    with Image.open(path) as picture:  # Pillow would hand it to Ghostscript
        assert picture.format == "EPS"
    with pytest.raises(InputError, match="of no known kind"):
        picture_size(path)
    with pytest.raises(InputError, match="of no known kind"):
        decode_pixels(path.read_bytes(), path)


def test_a_picture_of_a_data_set_of_very_many_scans() -> None:
    file = BytesIO()
    Image.new("RGB", (8, 8)).save(file, "JPEG", progressive=True)
    data = file.getvalue()
    scan = data[data.index(b"\xff\xda") : -2]
    with pytest.raises(InputError, match="scans"):
        decode_pixels(data[:-2] + scan * 201 + data[-2:], "a.jpg")
