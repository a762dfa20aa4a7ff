"""Images as people have them -> upright 8-bit RGB, bounded before anything is decoded.

What is accepted and how each kind becomes RGB: ``docs/images.md``; why: ``docs/decisions/0050``.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import IO

import numpy as np
from PIL import Image

from scanseg.contracts import InputError
from scanseg.rgb import to_rgb, upright

FORMATS = (
    "JPEG",
    "MPO",
    "PNG",
    "WEBP",
    "GIF",
    "AVIF",
    "TIFF",
    "BMP",
    "DIB",
    "PPM",
    "JPEG2000",
    "QOI",
)
"""Pillow decoders that are tried, in this order; those that start other programs are left out."""

EXTENSIONS = frozenset((
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".webp", ".gif", ".avif", ".tif", ".tiff",
    ".bmp", ".dib", ".ppm", ".pgm", ".pbm", ".pnm", ".jp2", ".j2k", ".jpx", ".qoi",
))  # fmt: skip
"""Lower-case file name endings that mean "a photo" in folders and on the command line."""

UNREADABLE_EXTENSIONS = frozenset(
    (".heic", ".heif", ".hif", ".arw", ".cr2", ".cr3", ".dng", ".nef", ".orf", ".raf", ".rw2")
)
"""Endings that people mean as photos too; reading one gives a line that says what to do instead."""
_HEIC_EXTENSIONS = (".heic", ".heif", ".hif")

_MOST_FRAMES = 1000  # that are counted
_MOST_COMMAS = 200_000  # bytes of this value in a GIF whose frames are counted
_MOST_SCANS = 200  # of a progressive JPEG; encoders make about ten, and each costs a pass

PhotoSource = (
    str | os.PathLike[str] | bytes | bytearray | memoryview | IO[bytes] | Image.Image | np.ndarray
)


@dataclass(frozen=True)
class PhotoLimits:
    """What a photo may cost; checked on the header, before pixels are decoded.

    Args:
        max_pixels: width x height. 120 million is a 108-megapixel phone; decoded it takes 0.4 GB.
        max_bytes: size of the file.
        max_aspect: longer side divided by the shorter one.
    """

    max_pixels: int = 120_000_000
    max_bytes: int = 256 * 2**20
    max_aspect: float = 100.0


@dataclass(frozen=True, eq=False)
class Photo:
    """A decoded photo.

    Attributes:
        pixels: (H, W, 3) uint8 RGB, upright (EXIF orientation applied); the frame of every map.
        name: file name without its folder, or what kind of source it was.
        notes: remarks for the person, such as ``"first of 12 frames"``.
    """

    pixels: np.ndarray = field(repr=False)
    name: str
    notes: tuple[str, ...] = ()


class PhotoTooLarge(InputError):  # noqa: N818  (reads better in a traceback)
    """A photo over one of the limits."""


def read_photo(source: PhotoSource, *, limits: PhotoLimits | None = None) -> Photo:
    """Read one photo from whatever the caller has.

    Args:
        source: a path, the bytes of an image file, a binary file object (standard input), a PIL
            image, or a uint8 array: (H, W, 3) RGB, (H, W) grey or (H, W, 4) RGB with alpha.
        limits: bounds for untrusted input; default ``PhotoLimits()``.

    Raises:
        InputError: missing, unreadable, too large, truncated, not an image, or an array of another
            type or shape. The one-line message names the photo and says what to do.
    """
    limits = limits or PhotoLimits()
    if isinstance(source, np.ndarray):
        return _from_array(source, limits)
    if isinstance(source, Image.Image):
        name = Path(str(getattr(source, "filename", "") or "image")).name
        _check_size(name, source.size, limits)
        return _decode(source, name, name)
    if isinstance(source, bytes | bytearray | memoryview):
        return _from_bytes(bytes(source), "image", "the image", limits)
    if isinstance(source, str | os.PathLike):
        path = Path(source)
        return _from_bytes(_read_file(path, limits), path.name, str(path), limits)
    if hasattr(source, "read"):
        name = Path(str(getattr(source, "name", "") or "image")).name
        name = "stdin" if name in ("<stdin>", "0") else name
        return _from_bytes(_read_stream(source, name, limits), name, name, limits)
    raise InputError(
        f"a photo cannot be read from {type(source).__name__}: pass a path, bytes, a PIL image or "
        "an (H, W, 3) uint8 NumPy array"
    )


def open_bounded(
    data: bytes, shown: str, limits: PhotoLimits, formats: Sequence[str] = FORMATS
) -> Image.Image:
    """A PIL image of which only the header was read, its size within ``limits``.

    Args:
        data: the whole image file.
        shown: how error messages call it.
        limits: bounds on pixels and aspect.
        formats: Pillow decoders to try.

    Raises:
        InputError: not an image in one of the formats, or too large.
    """
    Image.init()
    known = [name for name in formats if name in Image.OPEN]
    try:
        with warnings.catch_warnings():  # our own limit decides, not Pillow's advice
            warnings.simplefilter("ignore")
            image = Image.open(BytesIO(data), formats=known)
    except Image.DecompressionBombError as error:
        raise PhotoTooLarge(
            f"{shown} has more than {_millions(limits.max_pixels)} pixels: shrink it first"
        ) from error
    except Exception as error:  # decoders raise many kinds of error on hostile bytes
        raise InputError(f"{shown} {_what_else(data)}") from error
    _check_size(shown, image.size, limits)
    if image.format in ("JPEG", "MPO") and data.count(b"\xff\xda") > _MOST_SCANS:
        raise InputError(f"{shown} has more than {_MOST_SCANS} scans: save it again as JPEG")
    return image


def _read_file(path: Path, limits: PhotoLimits) -> bytes:
    if path.suffix.lower() in UNREADABLE_EXTENSIONS.difference(_HEIC_EXTENSIONS):
        raise InputError(f"{path} is a camera raw file: develop it to JPEG or TIFF first")
    try:
        with open(path, "rb") as stream:
            return _read_stream(stream, str(path), limits)
    except IsADirectoryError:
        raise InputError(f"{path} is a folder, not a photo") from None
    except FileNotFoundError:
        if "://" in os.fspath(path) or ":/" in os.fspath(path)[2:]:
            raise InputError(f"{path} is a web address: download the photo first") from None
        raise InputError(f"{path} does not exist") from None
    except PermissionError:
        kind = (
            "is a folder, not a photo"
            if path.is_dir()
            else "may not be read: check its permissions"
        )
        raise InputError(f"{path} {kind}") from None
    except (OSError, ValueError) as error:  # ValueError: a null character in the path
        reason = getattr(error, "strerror", None) or str(error)
        raise InputError(f"{str(path)[:200]!r} cannot be read: {reason}") from None


def _read_stream(stream: IO[bytes], shown: str, limits: PhotoLimits) -> bytes:
    data = stream.read(limits.max_bytes + 1)  # one more tells that there is more
    if not isinstance(data, bytes):
        raise InputError(f"{shown} is open in text mode: open it in binary mode ('rb')")
    return data


def _from_bytes(data: bytes, name: str, shown: str, limits: PhotoLimits) -> Photo:
    if len(data) > limits.max_bytes:
        raise PhotoTooLarge(
            f"{shown} is larger than {limits.max_bytes / 2**20:.0f} MB: "
            "shrink it or save it as JPEG first"
        )
    with open_bounded(data, shown, limits) as image:
        return _decode(image, name, shown)


def _from_array(array: np.ndarray, limits: PhotoLimits) -> Photo:
    if array.dtype != np.uint8:
        raise InputError(
            f"an image array must be uint8 (0..255), not {array.dtype}: "
            + (
                "use (array * 255).round().astype('uint8') if it is in [0, 1]"
                if array.dtype.kind == "f"
                else "scale it to 0..255 and use .astype('uint8')"
            )
        )
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if array.ndim != 2 and not (array.ndim == 3 and array.shape[2] in (3, 4)):
        remedy = "pass (H, W, 3) RGB"
        if array.ndim == 3 and array.shape[0] in (1, 3, 4):
            remedy = "the channels come last: use array.transpose(1, 2, 0)"
        elif array.ndim == 4:
            remedy = "pass a list of (H, W, 3) arrays"
        raise InputError(f"an image array cannot have shape {array.shape}: {remedy}")
    if array.size == 0:
        raise InputError(f"the image array is empty: its shape is {array.shape}")
    _check_size("the image array", (array.shape[1], array.shape[0]), limits)
    if array.ndim == 2:
        return Photo(np.repeat(array[:, :, None], 3, axis=2), "array")
    if array.shape[2] == 4:
        return _decode(Image.fromarray(np.ascontiguousarray(array)), "array", "the image array")
    return Photo(np.array(array, order="C"), "array")  # a copy: the caller may reuse the buffer


def _check_size(shown: str, size: tuple[int, int], limits: PhotoLimits) -> None:
    width, height = size
    if width < 1 or height < 1:
        raise InputError(f"{shown} is empty: {width} x {height} pixels")
    if width * height > limits.max_pixels:
        raise PhotoTooLarge(
            f"{shown} has {width} x {height} pixels, more than {_millions(limits.max_pixels)}: "
            "shrink it first"
        )
    if max(size) > limits.max_aspect * min(size):
        raise PhotoTooLarge(
            f"{shown} is {width} x {height}, longer than {limits.max_aspect:g} : 1: "
            "cut it into pieces first"
        )


def _millions(pixels: int) -> str:
    return f"{pixels / 1e6:g} million"


def _decode(image: Image.Image, name: str, shown: str) -> Photo:
    notes: list[str] = []
    try:
        with warnings.catch_warnings():  # about side issues such as a corrupt EXIF block
            warnings.simplefilter("ignore")
            frames, frame = _frames(image)
            image.load()
            pixels = to_rgb(upright(image), notes)
    except MemoryError:
        raise InputError(f"{shown} does not fit into memory: shrink it first") from None
    except Exception as error:  # decoders raise many kinds of error on hostile bytes
        raise InputError(f"{shown} is truncated or damaged ({_reason(error)})") from error
    if frames > _MOST_FRAMES:
        notes.insert(0, f"one of more than {_MOST_FRAMES} frames")
    elif frames > 1:
        unit = "pages" if image.format == "TIFF" else "frames"
        notes.insert(
            0, f"first of {frames} {unit}" if frame == 0 else f"{unit[:-1]} {frame + 1} of {frames}"
        )
    return Photo(pixels, name, tuple(notes))


def _reason(error: Exception) -> str:
    lines = str(error).split("\n")
    return (lines[0] or type(error).__name__)[:120]


def _frames(image: Image.Image) -> tuple[int, int]:
    if image.format == "MPO":  # a phone's photo with previews or depth behind it, not an animation
        return 1, 0
    try:
        if _has_many_frames(image):
            return _MOST_FRAMES + 1, int(image.tell())
        return int(getattr(image, "n_frames", 1)), int(image.tell())
    except Exception:  # the tail of a truncated animation; the first frame may be whole
        return 1, 0


def _has_many_frames(image: Image.Image) -> bool:
    """Whether counting the frames, one after the other through the file, could take seconds."""
    if image.format == "GIF":
        data: bytes = getattr(getattr(image, "fp", None), "getvalue", bytes)()
        return data.count(b",") > _MOST_COMMAS  # every frame begins with one
    if image.format != "TIFF":  # the other formats tell the number in front
        return False
    current = image.tell()
    try:
        for frame in range(current, _MOST_FRAMES + 1):  # in one leap Pillow miscounts
            image.seek(frame)
    except EOFError:
        return False
    finally:
        image.seek(current)
    return True


def is_upright(path: str | Path) -> bool:
    """Whether a photo is stored as it is looked at: no EXIF orientation turns it."""
    with open_bounded(_read_file(Path(path), PhotoLimits()), str(path), PhotoLimits()) as image:
        return upright(image) is image


_HEIC = (
    "is a HEIC photo, which cannot be read here: save it as JPEG (iPhone: Settings > Camera > "
    "Formats > Most Compatible)"
)


def _what_else(data: bytes) -> str:
    """What bytes that are no readable image seem to be, and what to do about it."""
    head = data[:512].lstrip()
    lower = head.lower()
    if not data:
        return "is empty (0 bytes)"
    if data[4:8] == b"ftyp":
        brand = data[8:12]
        if brand in (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"):
            return _HEIC
        if brand not in (b"avif", b"avis"):
            return "is a video: take frames out of it first (ffmpeg -i video.mp4 frame%04d.png)"
    if head.startswith(b"%PDF"):
        return "is a PDF: export the page as PNG or JPEG first"
    if b"<svg" in lower:
        return "is an SVG drawing: export it as PNG first"
    if lower.startswith((b"<!doctype", b"<html")):
        return "is a web page, not an image: download the picture itself"
    if head.startswith(b"PK\x03\x04"):
        return "is a zip archive: unpack it first"
    for start, kind in (
        (b"\xff\xd8\xff", "JPEG"),
        (b"\x89PNG\r\n", "PNG"),
        (b"GIF8", "GIF"),
        (b"RIFF", "WebP"),
        (b"II*\0", "TIFF"),
        (b"MM\0*", "TIFF"),
    ):
        if head.startswith(start):
            return f"is truncated or damaged (it begins like a {kind} image)"
    return (
        "is not an image (JPEG, PNG, WebP, GIF, AVIF, TIFF, BMP, PPM, JPEG 2000 and QOI are read)"
    )
