"""A decoded picture as a person sees it: upright, 8-bit RGB, on white where transparent."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from PIL import Image

ORIENTATION = 0x0112
"""EXIF tag."""
_STRIP_PIXELS = 2**22
UPRIGHT = {  # EXIF orientation -> what brings the stored picture upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def upright(image: Image.Image) -> Image.Image:
    """Apply the EXIF orientation; a decoder that did so on loading has removed the tag."""
    try:
        turn = UPRIGHT.get(int(image.getexif().get(ORIENTATION, 1)))
    except Exception:  # a broken EXIF block does not spoil the picture
        return image
    return image if turn is None else image.transpose(turn)


def to_rgb(image: Image.Image, notes: list[str]) -> np.ndarray:
    """(H, W, 3) uint8 of a loaded image in any of Pillow's modes, on white where it is transparent.

    Strip by strip: as a whole the steps in between would take several times the photo's memory.

    Args:
        image: decoded.
        notes: gets remarks for the person.

    Raises:
        ValueError: infinite grey values.
    """
    width, height = image.size
    pixels = np.empty((height, width, 3), np.uint8)
    if image.mode.startswith("I") or image.mode == "F":
        values = np.asarray(image)
        scale = _deep_grey_scale(values, notes)
        for rows in _strips(width, height):
            pixels[rows] = scale(values[rows])[:, :, None]
        return pixels
    seen_through = False
    for rows in _strips(width, height):
        strip = image.crop((0, rows.start, width, rows.stop))
        if image.has_transparency_data:
            strip = strip.convert("RGBA")
            if np.asarray(strip.getchannel("A")).min() < 255:
                seen_through = True
                strip = Image.alpha_composite(Image.new("RGBA", strip.size, "white"), strip)
        pixels[rows] = np.asarray(strip if strip.mode == "RGB" else strip.convert("RGB"))
    if seen_through:
        notes.append("transparent parts are read as white")
    return pixels


def _strips(width: int, height: int) -> Iterator[slice]:
    step = max(1, _STRIP_PIXELS // width)
    return (slice(start, min(start + step, height)) for start in range(0, height, step))


def _deep_grey_scale(values: np.ndarray, notes: list[str]) -> Callable[[np.ndarray], np.ndarray]:
    """What turns rows of grey of more than 8 bits into uint8."""
    low, high = float(np.nanmin(values)), float(np.nanmax(values))
    if values.dtype.kind in "iu" and low >= 0 and high <= 65535:
        bits = next(b for b in (8, 10, 12, 16) if high < 2**b)
        if bits < 16:
            notes.append(f"16-bit grey that uses {bits} bits; read as {bits}-bit")
        top = 2**bits - 1
        return lambda rows: ((rows.astype(np.uint32) * 255 + top // 2) // top).astype(np.uint8)
    if not (np.isfinite(low) and np.isfinite(high)):
        raise ValueError("infinite grey values")
    notes.append(f"grey values {low:g} to {high:g} are stretched to black and white")
    factor = 255.0 / ((high - low) or 1.0)
    return lambda rows: np.rint(
        (np.nan_to_num(rows.astype(np.float64), nan=low) - low) * factor
    ).astype(np.uint8)
