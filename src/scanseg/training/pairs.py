"""Pairs of a masked crop and a noun on disk: WebDataset shards, written whole or not at all.

A shard is a tar file. A pair is three files of one key in it: ``KEY.png``, the crop in its own size
with everything outside the mask in ``FILL``; ``KEY.image.png``, the whole photo stretched to the
size of CLIP's input; ``KEY.json`` with noun, score, box, photo and seed. ``KEY.around.png``, the
crop without the mask, is there if it was asked for. Everything is lossless, and no pixel inside the
mask has the fill colour, so a mask is read back exactly.

Any WebDataset reader reads the shards. Training here reads by number, so that the order of the data
can follow from the seed alone.
"""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from scanseg.contracts import InputError
from scanseg.storage import atomic_write, file_hash, write_json

FILL = (124, 116, 103)
"""Colour outside the mask (released), RGB."""
SUMMARY = "mining.json"
_SHARD = "pairs-{:06d}"


@dataclass(frozen=True)
class PairInfo:
    """What is known of a pair.

    Attributes:
        key: unique in all shards.
        noun: the word.
        score: cosine of crop and noun by the region CLIP that mined it.
        box: x0 y0 x1 y1 of the crop in pixels of the resized photo, end exclusive.
        image: key of the photo.
        caption: the sentence that the noun is from.
        seed: of the mining run.
    """

    key: str
    noun: str
    score: float
    box: tuple[int, int, int, int]
    image: str
    caption: str
    seed: int


@dataclass(frozen=True, eq=False)
class Pair:
    """A pair with its pictures.

    Attributes:
        info: noun, score, place.
        crop: (h, w, 3) uint8, ``FILL`` outside the mask.
        photo: (S, S, 3) uint8, the whole photo, stretched.
        around: (h, w, 3) uint8, the crop without the mask, or ``None``.
    """

    info: PairInfo
    crop: np.ndarray
    photo: np.ndarray
    around: np.ndarray | None = None

    @property
    def mask(self) -> np.ndarray:
        """(h, w) bool, recovered from the fill colour."""
        return (self.crop != np.array(FILL, np.uint8)).any(-1)


def masked(pixels: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The crop that shows ``pixels`` (h, w, 3) inside ``mask`` (h, w) and ``FILL`` outside.

    A pixel inside that happens to have the fill colour becomes one step bluer.
    """
    fill = np.array(FILL, np.uint8)
    inside = np.where(
        (pixels == fill).all(-1, keepdims=True), fill + np.array([0, 0, 1], np.uint8), pixels
    )
    return np.where(mask[..., None], inside, fill)


# --------------------------------------------------------------------------------------
# Shards
# --------------------------------------------------------------------------------------


def write_shard(
    folder: Path, number: int, pairs: Iterable[Pair], left_out: Mapping[str, int]
) -> dict[str, Any]:
    """Write a shard and its record; the same pairs give the same bytes.

    Returns:
        The record: bytes, SHA-256, what is known of each pair, and ``left_out``.
    """
    path = folder / (_SHARD.format(number) + ".tar")
    infos = []
    with atomic_write(path) as file, tarfile.open(fileobj=file, mode="w") as tar:
        for pair in pairs:
            infos.append(pair.info)
            _add(tar, f"{pair.info.key}.png", _png(pair.crop))
            _add(tar, f"{pair.info.key}.image.png", _png(pair.photo))
            if pair.around is not None:
                _add(tar, f"{pair.info.key}.around.png", _png(pair.around))
            _add(tar, f"{pair.info.key}.json", json.dumps(asdict(pair.info)).encode())
    record = {
        "bytes": path.stat().st_size,
        "sha256": file_hash(path),
        "left out": dict(left_out),
        "pairs": [asdict(info) for info in infos],
    }
    write_json(path.with_suffix(".json"), record)
    return record


def read_record(folder: Path, number: int) -> dict[str, Any] | None:
    """The record of a shard that is whole; ``None`` if it has to be written (again)."""
    path = folder / (_SHARD.format(number) + ".tar")
    try:
        record: dict[str, Any] = json.loads(path.with_suffix(".json").read_bytes())
        whole = path.stat().st_size == record["bytes"] and file_hash(path) == record["sha256"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return record if whole else None


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    entry = tarfile.TarInfo(name)  # time, owner and rights have fixed values
    entry.size = len(data)
    tar.addfile(entry, io.BytesIO(data))


def _png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    return buffer.getvalue()


class PairFolder(Sequence[Pair]):
    """The pairs of a mined folder, by number, in the order of shards and of the tars.

    Args:
        folder: that ``scanseg finetune-clip mine`` wrote.

    Raises:
        InputError: there are no pairs, a shard is damaged, or mining was not finished.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        summary = read_summary(self.folder)
        if not summary.get("finished"):
            raise InputError(f"mining into {folder} was cut short: give the same command again")
        self.infos: list[PairInfo] = []
        self._places: list[tuple[Path, dict[str, tuple[int, int]]]] = []
        for path in sorted(self.folder.glob("pairs-*.tar")):
            self._index(path)
        if not self.infos:
            raise InputError(
                f"{folder} holds no pairs: mine again with a lower --min-score or more captions"
            )

    def __len__(self) -> int:
        return len(self.infos)

    def __getitem__(self, number: Any) -> Any:
        info, (path, members) = self.infos[number], self._places[number]
        read = {name: _pixels(path, place) for name, place in members.items() if name != "json"}
        return Pair(info, read["png"], read["image.png"], read.get("around.png"))

    @property
    def nouns(self) -> tuple[str, ...]:
        """All different nouns, in the order of the alphabet."""
        return tuple(sorted({info.noun for info in self.infos}))

    @property
    def has_surroundings(self) -> bool:
        """Whether the crops without their masks were kept."""
        return all("around.png" in members for _, members in self._places)

    def _index(self, path: Path) -> None:
        found: dict[str, dict[str, tuple[int, int]]] = {}
        try:
            with tarfile.open(path) as tar:
                for member in tar:
                    key, _, suffix = member.name.partition(".")
                    found.setdefault(key, {})[suffix] = (member.offset_data, member.size)
            for members in found.values():
                content = json.loads(_bytes(path, members["json"]))
                self.infos.append(PairInfo(**{**content, "box": tuple(content["box"])}))
                self._places.append((path, members))
        except (OSError, tarfile.TarError, ValueError, KeyError, TypeError) as error:
            raise InputError(f"{path} is no whole shard of pairs ({error}); mine again") from error


def read_summary(folder: Path) -> Mapping[str, Any]:
    """``mining.json`` of a folder of pairs.

    Raises:
        InputError: there is none.
    """
    try:
        found: dict[str, Any] = json.loads((folder / SUMMARY).read_bytes())
    except (OSError, ValueError) as error:
        raise InputError(
            f"{folder} holds no mined pairs: scanseg finetune-clip mine makes them"
        ) from error
    return found


def _bytes(path: Path, place: tuple[int, int]) -> bytes:
    offset, size = place
    with path.open("rb") as file:
        file.seek(offset)
        return file.read(size)


def _pixels(path: Path, place: tuple[int, int]) -> np.ndarray:
    with Image.open(io.BytesIO(_bytes(path, place))) as image:
        return np.array(image.convert("RGB"))
