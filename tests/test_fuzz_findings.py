"""What `make fuzz` once found, kept as plain tests."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import pytest

from scanseg import Segmenter
from scanseg.contracts import InputError
from scanseg.data.archives import Bounds, open_archive
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
