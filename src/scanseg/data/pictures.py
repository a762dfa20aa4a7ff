"""Label maps and photos as the data sets store them, checked before they are decoded.

The bit depth of a PNG is read from its header, not from what a decoder made of it: Pillow scales
grey values of 1, 2 or 4 bits, and an 8-bit map where 16 bits belong is a mistake worth a message.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from scanseg.contracts import InputError
from scanseg.rgb import ORIENTATION, to_rgb, upright

MAX_PIXELS = 120_000_000
"""Largest photo or label map that is decoded."""

MAX_FILE_BYTES = 256 * 2**20
"""Largest picture or label file that is read."""

MAX_MAT_BYTES = 2 * 2**20
"""Largest .mat file that is opened; those of the benchmarks have 10 to 400 kB."""

_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "DIB", "GIF", "TIFF", "PPM")
"""Decoders that are tried: none of those that start other programs."""

_MOST_SCANS = 200  # of a progressive JPEG; encoders make about ten, and each costs a pass
_STRIP_PIXELS = 2**22
_GREY, _COLOUR, _PALETTE = 0, 2, 3  # colour types of the PNG header
_UNDEFINED = -2


@dataclass(frozen=True)
class LabelTable:
    """From the values that a data set stores to class indices, and which values mean "void".

    Args:
        values: stored value of class 0, 1, ... K-1.
        voids: stored values of pixels that do not count.
        bits: 8 or 16, bit depth of the files.
        others_void: values that are neither are void too (a benchmark that keeps some of many
            annotated classes); otherwise they are an error of the file.
    """

    values: tuple[int, ...]
    voids: tuple[int, ...]
    bits: int = 8
    others_void: bool = False

    @cached_property
    def _lookup(self) -> np.ndarray:
        table = np.full(1 << self.bits, -1 if self.others_void else _UNDEFINED, dtype=np.int32)
        table[list(self.voids)] = -1
        table[list(self.values)] = np.arange(len(self.values), dtype=np.int32)
        return table

    def decode(self, stored: np.ndarray, source: str | Path) -> np.ndarray:
        """(H, W) stored values -> (H, W) int32 class indices, -1 for void.

        Raises:
            InputError: a value that the data set does not define; the message lists such values.
        """
        if stored.size and (int(stored.max()) >= 1 << self.bits or int(stored.min()) < 0):
            raise InputError(
                f"{source}: values from {stored.min()} to {stored.max()}, "
                f"but this data set has {self.bits}-bit labels"
            )
        indices = self._lookup[stored]
        if not self.others_void and bool((indices == _UNDEFINED).any()):
            wrong = np.unique(stored[indices == _UNDEFINED])
            shown = ", ".join(map(str, wrong[:8])) + (", ..." if len(wrong) > 8 else "")
            raise InputError(
                f"{source}: label value {shown} means nothing in this data set "
                f"({len(self.values)} classes)"
            )
        return indices


def read_label_png(path: Path, table: LabelTable) -> np.ndarray:
    """A grey or palette PNG -> (H, W) int32 class indices, -1 for void.

    Raises:
        InputError: missing, not such a PNG, of another bit depth, too large, or a stray value.
    """
    return table.decode(decode_grey(read_bytes(path), path, bits=table.bits), path)


def decode_grey(data: bytes, source: str | Path, *, bits: int) -> np.ndarray:
    """A grey or palette PNG of that bit depth -> (H, W) uint8 or uint16 stored values."""
    depth, colour = png_header(data, source)
    if colour not in (_GREY, _PALETTE):
        raise InputError(f"{source}: a colour PNG, expected a label map of {bits} bits per pixel")
    small_palette = colour == _PALETTE and depth < 8
    if depth != bits and not (small_palette and bits == 8):
        raise InputError(f"{source}: {depth} bits per pixel, this data set's labels have {bits}")
    return _decode(data, source).astype(np.uint8 if bits == 8 else np.uint16, copy=False)


def decode_colour(data: bytes, source: str | Path) -> np.ndarray:
    """An RGB PNG -> (H, W, 3) uint8."""
    depth, colour = png_header(data, source)
    if (depth, colour) != (8, _COLOUR):
        raise InputError(f"{source}: expected an RGB PNG of 8 bits per channel")
    return _decode(data, source)


def png_header(data: bytes, source: str | Path) -> tuple[int, int]:
    """(bit depth, colour type) of a PNG whose size is within bounds."""
    if len(data) < 33 or data[:8] != b"\x89PNG\r\n\x1a\n" or data[12:16] != b"IHDR":
        raise InputError(f"{source}: not a PNG file")
    width, height, depth, colour = struct.unpack(">IIBB", data[16:26])
    _check_pixels(width, height, source)
    return depth, colour


def encode_png(values: np.ndarray) -> bytes:
    """(H, W) uint8 or uint16 -> the bytes of a grey PNG of that depth."""
    stream = BytesIO()
    Image.fromarray(np.ascontiguousarray(values)).save(stream, format="PNG")
    return stream.getvalue()


def read_pixels(path: Path) -> np.ndarray:
    """A photo as it is stored (no EXIF rotation) -> (H, W, 3) uint8 RGB."""
    return decode_pixels(read_bytes(path), path)


def decode_pixels(data: bytes, source: str | Path) -> np.ndarray:
    """The bytes of a photo (no EXIF rotation) -> (H, W, 3) uint8 RGB."""
    return _decode(data, source, partial(_pixels, mode="RGB"))


def read_upright(path: Path) -> np.ndarray:
    """A photo as it is looked at -> (H, W, 3) uint8 RGB.

    The pixels that ``scanseg.formats.photos.read_photo`` gives.

    Raises:
        InputError: missing, damaged or too large.
    """
    return _decode(read_bytes(path), path, lambda picture: to_rgb(upright(picture), []))


def picture_size(path: Path) -> tuple[int, int, int]:
    """(H, W, EXIF orientation) from the header alone; orientation 1 is upright."""
    try:
        with Image.open(path, formats=_FORMATS) as picture:
            width, height = picture.size
            orientation = picture.getexif().get(ORIENTATION, 1)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except Exception as error:  # decoders raise many kinds of error on hostile bytes
        raise InputError(f"{path}: not a readable picture ({_first_line(error)})") from error
    _check_pixels(width, height, path)
    return height, width, orientation if orientation in range(1, 9) else 1


def load_mat(data: bytes, variable: str, source: str | Path) -> Any:
    """One variable of a MATLAB file up to version 7.2, an array of at least two axes.

    Cells and structs are arrays of objects; :func:`structs_in` takes the structs out.

    Raises:
        InputError: too large, damaged, version 7.3, or without that variable.
    """
    from scipy.io import loadmat, whosmat

    if len(data) > MAX_MAT_BYTES:
        raise InputError(f"{source}: {len(data)} bytes are too many for a label file")
    try:
        shapes = {name: shape for name, shape, _ in whosmat(BytesIO(data))}
        if variable not in shapes:
            raise InputError(f"{source}: no variable {variable!r} in this MATLAB file")
        if int(np.prod(shapes[variable], dtype=np.int64)) > MAX_PIXELS:
            raise InputError(f"{source}: {variable} has shape {shapes[variable]}, too large")
        content = loadmat(BytesIO(data), variable_names=[variable], struct_as_record=False)
    except InputError:
        raise
    except Exception as error:  # scipy raises many kinds for damaged files
        raise InputError(f"{source}: not a readable MATLAB file ({_first_line(error)})") from error
    return content[variable]


def structs_in(value: Any) -> list[Any]:
    """The structs in a struct, an array of structs or nested cells of them, in MATLAB's order."""
    if isinstance(value, np.ndarray) and value.dtype == object:
        return [struct for item in value.ravel(order="F") for struct in structs_in(item)]
    return [value]


def whole_numbers(values: Any, source: str | Path) -> np.ndarray:
    """A matrix out of a MATLAB file -> (H, W) int32.

    Raises:
        InputError: not a matrix of whole numbers.
    """
    matrix = np.asarray(values)
    if matrix.ndim != 2 or matrix.dtype.kind not in "uif":
        raise InputError(f"{source}: expected a matrix of label values, found {matrix.dtype}")
    whole = matrix.astype(np.int32)
    if matrix.dtype.kind == "f" and not np.array_equal(whole, matrix):
        raise InputError(f"{source}: label values must be whole numbers")
    return whole


def read_bytes(path: Path) -> bytes:
    """The bytes of a picture or label file.

    Raises:
        InputError: it cannot be read, or is larger than any picture of a data set.
    """
    try:
        size = path.stat().st_size
        if size > MAX_FILE_BYTES:
            raise InputError(f"{path}: {size} bytes are too many for a picture or label file")
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from error


def _decode(
    data: bytes, source: str | Path, take: Callable[[Image.Image], np.ndarray] | None = None
) -> np.ndarray:
    """What ``take`` makes of the loaded picture; its stored values without."""
    try:
        with Image.open(BytesIO(data), formats=_FORMATS) as picture:
            _check_pixels(*picture.size, source)
            if picture.format in ("JPEG", "MPO") and data.count(b"\xff\xda") > _MOST_SCANS:
                raise InputError(f"{source}: more than {_MOST_SCANS} scans, save it again as JPEG")
            picture.load()
            return (take or _pixels)(picture)
    except InputError:
        raise
    except Exception as error:  # decoders raise many kinds of error on hostile bytes
        raise InputError(f"{source}: damaged or not a picture ({_first_line(error)})") from error


def _pixels(picture: Image.Image, mode: str | None = None) -> np.ndarray:
    """A loaded picture, in another mode if told so.

    Strip by strip: as a whole the steps in between would take several times the picture's memory.
    """
    width, height = picture.size
    step = max(1, _STRIP_PIXELS // width)
    pixels = np.empty(0)
    for top in range(0, height, step):
        strip = picture.crop((0, top, width, min(top + step, height)))
        rows = np.asarray(strip.convert(mode) if mode else strip)
        if top == 0:
            pixels = np.empty((height, *rows.shape[1:]), rows.dtype)
        pixels[top : top + step] = rows
    return pixels


def _check_pixels(width: int, height: int, source: str | Path) -> None:
    if width < 1 or height < 1 or width * height > MAX_PIXELS:
        raise InputError(f"{source}: {width} x {height} pixels, the limit is {MAX_PIXELS}")


def _first_line(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "of no known kind"
    return str(error).strip().splitlines()[0][:160] if str(error).strip() else type(error).__name__
