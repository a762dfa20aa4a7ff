"""Names as pictures can show them: a font per name that has its letters, or a plainer spelling."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from PIL import ImageFont

from scanseg.contracts import InputError

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

_BUNDLED = ""  # the Latin font inside Pillow
_SYSTEM_FONTS = (  # looked for, in this order, when a letter is missing; Pillow knows the folders
    "DejaVuSans.ttf",
    "NotoSans-Regular.ttf",
    "NotoSansCJK-Regular.ttc",
    "wqy-microhei.ttc",
    "Arial Unicode.ttf",
    "PingFang.ttc",
    "Hiragino Sans GB.ttc",
    "AppleSDGothicNeo.ttc",
    "segoeui.ttf",
    "msyh.ttc",
    "YuGothM.ttc",
    "malgun.ttf",
    "Nirmala.ttf",
)
_NO_CHARACTER = "\U0010ffff"


class Lettering:
    """What to write for each name, and with which font.

    A name is written with the first of these that has all its letters: the caller's font, the font
    bundled with Pillow (ASCII only), fonts of the system. If none has, accents are left out; if
    that does not help either, the name becomes ``label 7``: its index, as in the JSON record.

    Args:
        names: the vocabulary.
        font: a TrueType or OpenType file of the caller's, tried first.

    Raises:
        InputError: the caller's font cannot be read.
    """

    def __init__(self, names: Sequence[str], font: str | Path | None = None) -> None:
        if font is None:
            files = [_BUNDLED]
        else:
            if _load(str(font), 16) is None:
                raise InputError(f"the font {font} cannot be read: pass a .ttf, .otf or .ttc file")
            files = [str(font), _BUNDLED]
        self.plain_file = files[0]
        chosen = [_spell(name, index, files) for index, name in enumerate(names)]
        self.names = [written for written, _ in chosen]
        self._files = [file for _, file in chosen]

    def font(self, size: int, label: int | None = None) -> Font:
        """The font of a label's name, or of other text, ``size`` pixels high."""
        font = _load(self.plain_file if label is None else self._files[label], size)
        assert font is not None  # it was loaded when it was chosen
        return font


def shortened(words: str, font: Font, width: float) -> str:
    """``words``, cut with three dots if they are wider than ``width`` pixels."""
    if font.getlength(words) <= width:
        return words
    low, high = 0, len(words)
    while low < high:
        middle = (low + high + 1) // 2
        if font.getlength(words[:middle].rstrip() + "...") <= width:
            low = middle
        else:
            high = middle - 1
    return words[:low].rstrip() + "..."


def _spell(name: str, index: int, files: Sequence[str]) -> tuple[str, str]:
    for file in [*files, *(() if name.isascii() else _SYSTEM_FONTS)]:
        if _can_write(file, name):
            return name, file
    plain = "".join(c for c in unicodedata.normalize("NFKD", name) if not unicodedata.combining(c))
    for file in files:
        if _can_write(file, plain):
            return plain, file
    return f"label {index}", _BUNDLED


def _can_write(file: str, name: str) -> bool:
    return all(c == " " or _has_glyph(file, c) for c in name)


@lru_cache(maxsize=8192)
def _has_glyph(file: str, character: str) -> bool:
    """Whether a font draws a character otherwise than one that no font has."""
    font = _load(file, 24)
    if font is None:
        return False
    missing, drawn = font.getmask(_NO_CHARACTER), font.getmask(character)
    return drawn.size != missing.size or bytes(drawn) != bytes(missing)


@lru_cache(maxsize=128)
def _load(file: str, size: int) -> Font | None:
    if file == _BUNDLED:
        return ImageFont.load_default(size)
    try:
        return ImageFont.truetype(file, size)
    except OSError:
        return None
