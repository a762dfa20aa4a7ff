"""Label maps as PNG files that other programs open and that keep the names of their labels.

Pixel values are ``label + 1`` and 0 is unknown: an 8-bit palette image up to 255 labels, a 16-bit
grey one above. A text chunk ``scanseg`` holds JSON ``{"names": [...], "offset": 1, "settings":
{...}}``. Nothing else is written, no time and no host, so equal maps give equal files
(``docs/decisions/0051``).
"""

from __future__ import annotations

import json
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from scanseg.contracts import InputError, Segmentation
from scanseg.formats.palette import UNKNOWN_COLOUR, label_colours
from scanseg.formats.photos import PhotoLimits, open_bounded

CHUNK = "scanseg"
"""Keyword of the text chunk with names and settings."""

_OFFSET = 1
_MOST_8_BIT = 255
_MOST_16_BIT = 65_535


def indexed_png(segmentation: Segmentation) -> bytes:
    """The bytes of the PNG file of a label map.

    Raises:
        InputError: more than 65,535 labels.
    """
    count = len(segmentation.names)
    if count > _MOST_16_BIT:
        raise InputError(f"a PNG holds at most {_MOST_16_BIT} labels, not {count}")
    values = segmentation.labels + _OFFSET
    if count <= _MOST_8_BIT:
        image = Image.fromarray(values.astype(np.uint8)).convert("P")
        palette = np.concatenate([[UNKNOWN_COLOUR], label_colours(count)]).astype(np.uint8)
        image.putpalette(palette.tobytes())
    else:
        image = Image.fromarray(values.astype(np.uint16))
    about = {
        "names": list(segmentation.names),
        "offset": _OFFSET,
        "settings": dict(segmentation.settings),
    }
    info = PngInfo()
    info.add_text(CHUNK, json.dumps(about, separators=(",", ":"), sort_keys=True))
    file = BytesIO()
    image.save(file, "PNG", pnginfo=info, bits=8 if count <= _MOST_8_BIT else 16)
    return file.getvalue()


def picture_png(picture: Image.Image) -> bytes:
    """The bytes of a PNG file of a picture."""
    file = BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()


def save_indexed_png(segmentation: Segmentation, path: str | Path) -> Path:
    """Write a label map to ``path``, complete or not at all; returns the path.

    Raises:
        InputError: more than 65,535 labels, or the file cannot be written.
    """
    from scanseg.storage import atomic_write

    data, path = indexed_png(segmentation), Path(path)
    try:
        with atomic_write(path) as file:
            file.write(data)
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror or error}") from error
    return path


def load_indexed_png(
    path: str | Path, *, limits: PhotoLimits | None = None
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Read a label map that ``save_indexed_png`` wrote.

    Args:
        path: of the file.
        limits: bounds for untrusted files; default ``PhotoLimits()``.

    Returns:
        (H, W) int32 labels, -1 = unknown, and the names that they index.

    Raises:
        InputError: missing, damaged, too large, or without the names of its labels.
    """
    limits = limits or PhotoLimits()
    try:
        with open(path, "rb") as file:
            data = file.read(limits.max_bytes + 1)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from error
    if len(data) > limits.max_bytes:
        raise InputError(f"{path} is larger than {limits.max_bytes / 2**20:.0f} MB")
    with open_bounded(data, str(path), limits, formats=("PNG",)) as image:
        try:
            image.load()
            about = json.loads(str(image.info[CHUNK]))
            names, offset = tuple(map(str, about["names"])), int(about["offset"])
        except (KeyError, TypeError, ValueError, RecursionError):
            raise InputError(
                f"{path} is not a label map written by scanseg: no names in it"
            ) from None
        except Exception as error:  # decoders raise many kinds of error on hostile bytes
            raise InputError(f"{path} is truncated or damaged") from error
        if image.mode not in ("P", "I;16", "I"):
            raise InputError(f"{path} is not a label map written by scanseg: mode {image.mode}")
        labels = np.asarray(image).astype(np.int32) - offset
    if labels.min() < -1 or labels.max() >= len(names):
        raise InputError(f"{path} is damaged: it has labels without names")
    return labels, names
