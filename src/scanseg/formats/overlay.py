"""A picture for people: the photo with coloured segments, their names and a legend.

Sizes, colours and what is left out when there is no room: ``docs/decisions/0052``.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw
from scipy import ndimage

from scanseg.contracts import InputError, Segmentation
from scanseg.formats.lettering import Font, Lettering, shortened
from scanseg.formats.palette import UNKNOWN_COLOUR, label_colours

Colour = tuple[int, int, int]

LONG_SIDE = (640, 1600)
"""Pictures with a legend: photos with a shorter long side are enlarged, larger ones reduced."""

_PAPER: Colour = (255, 255, 255)
_INK: Colour = (34, 34, 38)
_FAINT: Colour = (115, 115, 121)
_STRIP = 512  # rows that are painted at once; bounds memory on large photos
_GRID = 320  # long side of the coarse map on which places for names are sought
_NAMED_SHARE = 0.012  # a part smaller than this share of the photo gets no name in the picture
_MOST_NAMES = 40
_NAME_LENGTH = 16  # ems; longer names are cut in the picture
_LEGEND_SHARE = 0.6  # of the picture's height that a long legend may take


def draw_overlay(
    segmentation: Segmentation,
    *,
    opacity: float = 0.55,
    legend: bool = True,
    font: str | Path | None = None,
) -> Image.Image:
    """Draw a segmentation over its photo.

    Args:
        segmentation: the map; without its ``image`` the colours are drawn on their own.
        opacity: of the colours, in [0, 1].
        legend: write names into large segments, and names with shares below the photo. The picture
            is then scaled to a long side of 640 to 1600 pixels so that text can be read. Without a
            legend there is no text and the picture has exactly the photo's size.
        font: a TrueType or OpenType file for names in other scripts (see ``lettering``).

    Returns:
        An RGB picture. Pixels without a label are a darkened grey version of the photo.

    Raises:
        InputError: opacity out of range, or the font cannot be read.
    """
    if not 0.0 <= opacity <= 1.0:
        raise InputError(f"opacity must lie in [0, 1], not {opacity!r}")
    height, width = segmentation.labels.shape
    long_side = max(height, width)
    scale = min(max(long_side, LONG_SIDE[0]), LONG_SIDE[1]) / long_side if legend else 1.0
    size = (max(1, round(width * scale)), max(1, round(height * scale)))

    labels = _resize_labels(segmentation.labels, size)
    photo = _resize_photo(segmentation.image, size)
    colours = label_colours(len(segmentation.names))
    picture = Image.fromarray(_paint(labels, photo, colours, opacity))
    if not legend:
        return picture
    lettering = Lettering(segmentation.names, font)
    em = max(14, round(max(size) / 46))
    _write_names(picture, labels, lettering, em)
    return _with_legend(picture, segmentation, colours, lettering, em)


# -------------------------------------------------------------------------------- colours


def _resize_labels(labels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(H, W) int32 -> the labels of the nearest pixels in a picture of ``size`` (width, height)."""
    height, width = labels.shape
    if (width, height) == size:
        return labels
    rows = ((np.arange(size[1]) + 0.5) * height / size[1]).astype(int)
    columns = ((np.arange(size[0]) + 0.5) * width / size[0]).astype(int)
    return labels[rows[:, None], columns[None, :]]


def _resize_photo(photo: np.ndarray | None, size: tuple[int, int]) -> np.ndarray | None:
    if photo is None or (photo.shape[1], photo.shape[0]) == size:
        return photo
    return np.asarray(Image.fromarray(photo).resize(size, Image.Resampling.LANCZOS))


def _paint(
    labels: np.ndarray, photo: np.ndarray | None, colours: np.ndarray, opacity: float
) -> np.ndarray:
    """(H, W, 3) uint8: colours over the photo, thin light lines where labels meet."""
    height, width = labels.shape
    table = np.concatenate([[UNKNOWN_COLOUR], colours]).astype(np.float32)
    thickness = max(1, round(max(height, width) / 800))
    halo = thickness + 4  # rows beyond a strip that its lines depend on
    picture = np.empty((height, width, 3), dtype=np.uint8)
    for top in range(0, height, _STRIP):
        rows = slice(top, min(top + _STRIP, height))
        around = slice(max(0, rows.start - halo), rows.stop + halo)
        lines = _border_lines(labels[around], thickness)[rows.start - around.start :][
            : rows.stop - rows.start, :, None
        ]
        flat = table[labels[rows] + 1]
        if photo is not None:
            flat = _blend(photo[rows].astype(np.float32), flat, labels[rows] < 0, opacity)
        picture[rows] = np.rint(flat + lines * (255 - flat)).clip(0, 255)
    return picture


def _blend(photo: np.ndarray, flat: np.ndarray, unknown: np.ndarray, opacity: float) -> np.ndarray:
    """Colours (H, W, 3) over a photo; under a colour the photo loses its own, so that the result
    looks like the colour's swatch."""
    grey = (photo @ np.array([0.299, 0.587, 0.114], np.float32))[:, :, None]
    dim = 0.75 * (0.35 * photo + 0.65 * grey) + 12
    blended = (1 - opacity) * (photo + opacity * (dim - photo)) + opacity * flat
    strength = min(1.0, 1.7 * opacity)
    blended[unknown] = (1 - strength) * photo[unknown] + strength * 0.5 * grey[unknown]
    return blended


def _border_lines(labels: np.ndarray, thickness: int) -> np.ndarray:
    """How opaque the border line is at each pixel, (H, W) float32 in [0, 1]."""
    border = np.zeros(labels.shape, dtype=np.float32)
    border[:, 1:][labels[:, 1:] != labels[:, :-1]] = 1
    border[1:][labels[1:] != labels[:-1]] = 1
    if thickness > 1:
        border = ndimage.maximum_filter(border, size=thickness)
    return 0.85 * np.minimum(1.5 * ndimage.gaussian_filter(border, 0.6, truncate=3.0), 1.0)


# -------------------------------------------------------------------------------- names


def _write_names(picture: Image.Image, labels: np.ndarray, lettering: Lettering, em: int) -> None:
    """Write each name once into the largest part of its label, where it fits well inside."""
    step = max(1, round(max(labels.shape) / _GRID))
    coarse = labels[step // 2 :: step, step // 2 :: step]
    smallest = _NAMED_SHARE * coarse.size
    areas = np.bincount((coarse + 1).ravel(), minlength=len(lettering.names) + 1)[1:]
    draw = ImageDraw.Draw(picture)
    for label in np.argsort(-areas, kind="stable")[:_MOST_NAMES]:
        if areas[label] < smallest:
            break
        parts, _ = ndimage.label(coarse == label)
        sizes = np.bincount(parts.ravel())
        sizes[0] = 0  # everything else
        inside = parts == int(np.argmax(sizes))
        if sizes.max() < smallest:
            continue
        for factor in (1.5, 1.2, 1.0, 0.85):
            size = max(12, round(em * factor))
            font = lettering.font(size, int(label))
            name = shortened(lettering.names[label], font, _NAME_LENGTH * em)
            left, top, right, bottom = font.getbbox(name)
            place = _place(inside, ((bottom - top) / step + 2, (right - left) / step + 2))
            if place is not None:
                row, column = place
                draw.text(
                    (column * step - (left + right) / 2, row * step - (top + bottom) / 2),
                    name,
                    font=font,
                    fill=_PAPER,
                    stroke_width=max(1, round(size / 11)),
                    stroke_fill=_INK,
                )
                break


def _place(inside: np.ndarray, box: tuple[float, float]) -> tuple[float, float] | None:
    """Centre (row, column) of a box (rows, columns) that lies inside; deep, near the middle."""
    rows, columns = (int(np.ceil(side)) | 1 for side in box)
    fits = ndimage.minimum_filter(inside, size=(rows, columns), mode="constant", cval=0)
    if not fits.any():
        return None
    depth = ndimage.distance_transform_edt(np.pad(inside, 1))[1:-1, 1:-1]
    ys, xs = np.nonzero(inside)
    y, x = np.nonzero(fits)
    away = np.hypot(y - ys.mean(), x - xs.mean())
    best = int(np.argmax(np.minimum(depth[y, x], 2 * rows) - 0.3 * away))
    return float(y[best]) + 0.5, float(x[best]) + 0.5


# -------------------------------------------------------------------------------- legend


@dataclass(frozen=True)
class _Entry:
    colour: Colour
    name: str
    share: float
    font: Font


def _with_legend(
    picture: Image.Image,
    segmentation: Segmentation,
    colours: np.ndarray,
    lettering: Lettering,
    em: int,
) -> Image.Image:
    """The picture on white; below it swatches, names and shares of the photo, the largest first."""
    plain = lettering.font(em)
    margin, gap, between, line = em, em // 2, round(2.5 * em), round(1.75 * em)
    width = max(picture.width, 24 * em)
    entries, absent = _entries(segmentation, colours, lettering, em)

    widest = max((e.font.getlength(e.name) for e in entries), default=0)
    name_width = min(widest, width - 2 * margin - 6 * em)
    column = round(em + gap + name_width + gap + plain.getlength("100 %"))
    columns = max(1, (width - 2 * margin + between) // (column + between))
    most = columns * max(6, int(_LEGEND_SHARE * picture.height / line))
    remarks = []
    if len(entries) > most:
        remarks.append(f"and {len(entries) - most} more")
        unknown = [e for e in entries if e.colour == UNKNOWN_COLOUR]
        entries = entries[: most - len(unknown)] + unknown
    if absent:
        remarks.append("not found: " + ", ".join(absent))
    rows = -(-len(entries) // columns)

    canvas = Image.new(
        "RGB", (width, picture.height + 2 * margin + (rows + len(remarks)) * line), _PAPER
    )
    canvas.paste(picture, ((width - picture.width) // 2, 0))
    draw = ImageDraw.Draw(canvas)
    middle = picture.height + margin + line // 2  # of the first line
    for number, entry in enumerate(entries):
        x, y = margin + number // rows * (column + between), middle + number % rows * line
        swatch = (x, y - em // 2, x + em, y - em // 2 + em)
        draw.rounded_rectangle(swatch, radius=em // 5, fill=entry.colour)
        name = shortened(entry.name, entry.font, name_width)
        draw.text((x + em + gap, y), name, font=entry.font, fill=_INK, anchor="lm")
        draw.text((x + column, y), _percent(entry.share), font=plain, fill=_FAINT, anchor="rm")
    for number, remark in enumerate(remarks, start=rows):
        words = shortened(remark, plain, width - 2 * margin)
        draw.text((margin, middle + number * line), words, font=plain, fill=_FAINT, anchor="lm")
    return canvas


def _entries(
    segmentation: Segmentation, colours: np.ndarray, lettering: Lettering, em: int
) -> tuple[list[_Entry], list[str]]:
    """The legend's entries, the largest first and unknown last, and the names of absent labels."""
    names = lettering.names
    areas = np.bincount((segmentation.labels + 1).ravel(), minlength=len(names) + 1)
    shares = areas / segmentation.labels.size
    entries = [
        _Entry(_rgb(colours[i]), names[i], float(shares[i + 1]), lettering.font(em, int(i)))
        for i in np.argsort(-areas[1:], kind="stable")
        if areas[i + 1]
    ]
    if areas[0]:
        entries.append(_Entry(UNKNOWN_COLOUR, "unknown", float(shares[0]), lettering.font(em)))
    plain = lettering.font(em)
    absent = [
        name if lettering.font(em, i) is plain else f"label {i}"
        for i, name in enumerate(names)
        if not areas[i + 1]
    ]
    return entries, absent


def _rgb(colour: np.ndarray) -> Colour:
    red, green, blue = (int(c) for c in colour)
    return red, green, blue


def _percent(share: float) -> str:
    percent = 100 * share
    if percent < 0.1:
        return "<0.1 %"
    return f"{percent:.1f} %" if percent < 9.95 else f"{percent:.0f} %"
