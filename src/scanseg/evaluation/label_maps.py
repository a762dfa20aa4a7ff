"""Label maps of any system: which stored value means which class, and PNG folders of them.

Values follow one of two codings. *By index* (the default): class c is stored as ``c + offset``, one
value more means "no class" (255, or 65535 in 16 bits). *Official*: the values of the data set's own
files, which a label set lists. Maps that scanseg wrote carry the names of their labels and are
understood whatever the coding says.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from scanseg.contracts import UNKNOWN, InputError
from scanseg.data.pictures import png_header, read_bytes
from scanseg.formats.png import CHUNK
from scanseg.metrics.panoptic import VOID
from scanseg.storage import parse_json

Role = Literal["ground truth", "prediction"]

_UNDEFINED = -2
_MOST_VALUES = 1 << 16  # of a label map
_GREY, _PALETTE = 0, 3  # colour types of the PNG header
_OVERLAY = "_overlay"  # scanseg segment writes NAME_overlay.png beside NAME.png


@dataclass(frozen=True)
class Coding:
    """Which stored value means which class.

    Args:
        names: the K class names in order.
        offset: stored value of class 0, for coding by index.
        ignore: stored value that means "no class"; ``None`` takes the usual ones: 255 where no
            class is stored as 255, and 65535 in 16-bit files. Values below ``offset`` mean it too.
        official: stored value of each class, (K,), for maps in a data set's own coding.
        official_void: stored values that mean "no class" in that coding.
        others_void: with official values, any further value means "no class" too.
    """

    names: tuple[str, ...]
    offset: int = 0
    ignore: int | None = None
    official: tuple[int, ...] | None = None
    official_void: tuple[int, ...] = ()
    others_void: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.offset <= 255:
            raise InputError(f"an offset lies in 0..255, not {self.offset}")
        if self.ignore is not None and not 0 <= self.ignore <= 65535:
            raise InputError(f"an ignore value lies in 0..65535, not {self.ignore}")
        if self.ignore is not None and self.ignore in self.values:
            raise InputError(
                f"--ignore {self.ignore} is the value of class "
                f"{self.names[self.values.index(self.ignore)]!r}"
            )

    @property
    def values(self) -> tuple[int, ...]:
        """Stored value of each class."""
        if self.official is not None:
            return self.official
        return tuple(range(self.offset, self.offset + len(self.names)))

    def decode(self, stored: np.ndarray, bits: int, source: str | Path) -> np.ndarray:
        """(H, W) stored values of ``bits`` bits -> (H, W) int32 class indices, -1 for "no class".

        Raises:
            InputError: a value without a meaning, or too few bits for the classes.
        """
        if max(self.values) >= 1 << bits:
            raise InputError(
                f"{source}: an 8-bit PNG cannot hold {len(self.names)} classes with values up to "
                f"{max(self.values)}; save 16-bit PNGs (numpy.uint16)"
            )
        labels = _lookup(self, bits)[stored]
        if bool((labels == _UNDEFINED).any()):
            wrong = np.unique(stored[labels == _UNDEFINED])
            raise InputError(f"{source}: {self._complaint(wrong, np.unique(stored), bits)}")
        return labels

    def _complaint(self, wrong: np.ndarray, found: np.ndarray, bits: int) -> str:
        values = self.values
        listed = ", ".join(map(str, wrong[:6])) + (", ..." if len(wrong) > 6 else "")
        text = (
            f"value {listed} is no class: the {len(values)} classes are stored as "
            f"{min(values)}..{max(values)}"
        )
        scaled = bits == 16 and found.size > 1 and any((found % by == 0).all() for by in (256, 257))
        if scaled:
            return f"{text}; these are 8-bit values scaled to 16 bits: save them as they are"
        if len(wrong) == 1 and int(wrong[0]) in (255, 65535):
            return f"{text}; if it means void, add --ignore {wrong[0]}"
        if self.official is None and len(wrong) == 1 and int(wrong[0]) == max(values) + 1:
            return f"{text}; if they start at {self.offset + 1}, add --offset {self.offset + 1}"
        return text


@lru_cache(maxsize=32)
def _lookup(coding: Coding, bits: int) -> np.ndarray:
    size = 1 << bits
    table = np.full(size, UNKNOWN if coding.others_void else _UNDEFINED, np.int32)
    if coding.official is None:
        table[: coding.offset] = UNKNOWN
        usual = {255, size - 1} if coding.ignore is None else {coding.ignore}
        voids = {value for value in usual if value < size}
    else:
        voids = {v for v in (*coding.official_void, coding.ignore) if v is not None and v < size}
    table[list(voids)] = UNKNOWN
    table[list(coding.values)] = np.arange(len(coding.names), dtype=np.int32)
    return table


@dataclass(frozen=True, eq=False)
class Segments:
    """Segments of one image, for panoptic quality.

    Attributes:
        ids: (H, W) int, 0 belongs to no segment.
        classes: segment id -> class index.
        crowds: ids of segments that stand for many objects.
    """

    ids: np.ndarray
    classes: Mapping[int, int]
    crowds: tuple[int, ...] = ()

    @classmethod
    def of_classes(cls, labels: np.ndarray) -> Segments:
        """One segment per class that occurs in (H, W) class indices."""
        return cls(
            labels.astype(np.int64) + 1, {int(c) + 1: int(c) for c in np.unique(labels) if c >= 0}
        )

    def labels(self) -> np.ndarray:
        """(H, W) int32 class indices, -1 where there is no segment. A crowd has its class."""
        found, index = np.unique(self.ids, return_inverse=True)
        of = [UNKNOWN if i == VOID else self.classes[i] for i in found.tolist()]
        return np.array(of, np.int32)[index].reshape(self.ids.shape)


class PngFolder:
    """Label PNGs in a folder and its sub-folders; the key is the path without its ending.

    Grey or palette PNGs of 8 or 16 bits. ``NAME_overlay.png`` beside ``NAME.png`` is passed over.

    Args:
        folder: where to look.
        coding: of the values.
        role: what the maps are, for messages.

    Raises:
        InputError: there is no PNG in the folder.
    """

    has_segments = False

    def __init__(self, folder: Path, coding: Coding, role: Role) -> None:
        self._folder, self._coding, self._role = folder, coding, role
        found = {
            p.relative_to(folder).with_suffix("").as_posix(): p
            for p in sorted(folder.rglob("*"))
            if p.suffix.lower() == ".png" and p.is_file()
        }
        self._files = {
            key: path
            for key, path in found.items()
            if not (key.endswith(_OVERLAY) and key.removesuffix(_OVERLAY) in found)
        }
        if not self._files:
            raise InputError(f"{folder}: there is no PNG in this folder of {role} maps")

    @property
    def keys(self) -> tuple[str, ...]:
        """Names of the images, sorted."""
        return tuple(self._files)

    def labels(self, key: str) -> np.ndarray:
        """(H, W) int32 class indices, -1 unknown or void.

        Raises:
            InputError: the file is damaged, not a label map, or holds a value without a meaning.
        """
        path = self._files[key]
        data = read_bytes(path)
        depth, colour = png_header(data, path)
        if colour not in (_GREY, _PALETTE):
            raise InputError(
                f"{path}: a colour PNG; label maps have one channel (grey or palette) whose values "
                "are class ids"
            )
        if depth < 8 and colour == _GREY:
            raise InputError(f"{path}: {depth} bits per pixel; save 8-bit or 16-bit label maps")
        try:
            with Image.open(BytesIO(data)) as picture:
                picture.load()
                about, stored = picture.info.get(CHUNK), np.asarray(picture)
        except Exception as error:  # decoders raise many kinds of error on hostile bytes
            raise InputError(f"{path}: damaged ({' '.join(str(error).split())})") from error
        if about is not None:
            return _decode_own(stored, str(about), self._coding.names, path)
        return self._coding.decode(stored, 16 if depth == 16 else 8, path)

    def segments(self, key: str) -> Segments:
        """One segment per class: a label map knows no objects."""
        return Segments.of_classes(self.labels(key))


def _decode_own(stored: np.ndarray, about: str, names: tuple[str, ...], path: Path) -> np.ndarray:
    """A map that scanseg wrote: its own names say what its values mean."""
    try:
        table = _own_lookup(about, names)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    if stored.size and int(stored.max()) >= len(table):
        raise InputError(f"{path}: value {stored.max()} has no name in the file; it is damaged")
    return table[stored]


@lru_cache(maxsize=8)
def _own_lookup(about: str, names: tuple[str, ...]) -> np.ndarray:
    """Stored value -> class index by name; values below the file's offset are unknown."""
    try:
        content = parse_json(about)
        own, offset = [str(name) for name in content["names"]], int(content["offset"])
        if not 0 <= offset <= _MOST_VALUES:
            raise ValueError("an offset beyond 16 bits")
    except (ValueError, TypeError, KeyError, OverflowError):
        raise InputError(f"its text {CHUNK!r} is not that of a label map of scanseg") from None
    index = {_plain(name): i for i, name in enumerate(names)}
    strange = [name for name in own if _plain(name) not in index]
    if strange:
        raise InputError(
            f"it was made with the word {strange[0]!r}, which is not among the {len(names)} labels"
        )
    return np.array([UNKNOWN] * offset + [index[_plain(name)] for name in own], np.int32)


def _plain(name: str) -> str:
    return " ".join(name.split()).casefold()
