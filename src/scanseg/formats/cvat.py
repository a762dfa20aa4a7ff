"""CVAT for images 1.1: ``annotations.xml`` with masks or polygons, for "Upload annotations".

The task in CVAT must have the photos under the same names and the labels under the same names
(``labels.json`` is what the task's "Raw" label editor takes). A mask's run lengths go row by row
through its box, starting outside the mask.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from xml.sax.saxutils import escape, quoteattr

import numpy as np

from scanseg.formats.datasets import Item
from scanseg.formats.outlines import mask_outlines
from scanseg.formats.palette import label_colours
from scanseg.storage import atomic_write, write_json

FILE = "annotations.xml"


def write(
    folder: Path, names: Sequence[str], items: Iterable[Item], *, polygons: bool = False
) -> None:
    """Write ``annotations.xml`` and ``labels.json`` into ``folder``."""
    colours = ["#{:02x}{:02x}{:02x}".format(*colour) for colour in label_colours(len(names))]
    pairs = list(zip(names, colours, strict=True))
    labels = "".join(
        f"<label><name>{escape(_printable(name))}</name><color>{colour}</color>"
        "<type>any</type><attributes></attributes></label>\n"
        for name, colour in pairs
    )
    with atomic_write(folder / FILE) as file:
        file.write(
            '<?xml version="1.0" encoding="utf-8"?>\n<annotations>\n<version>1.1</version>\n'
            f"<meta><task><name>scanseg</name><mode>annotation</mode><labels>\n{labels}"
            "</labels></task></meta>\n".encode()
        )
        for item in items:
            height, width = item.size
            file.write(
                f'<image id="{item.number - 1}" name={_attribute(item.file_name)} '
                f'width="{width}" height="{height}">\n'.encode()
            )
            for shape in _shapes(item, names, polygons):
                file.write(shape.encode())
            file.write(b"</image>\n")
        file.write(b"</annotations>\n")
    write_json(
        folder / "labels.json",
        [
            {"name": name, "color": colour, "type": "any", "attributes": []}
            for name, colour in pairs
        ],
    )


def _shapes(item: Item, names: Sequence[str], polygons: bool) -> Iterable[str]:
    group = 0
    for i, part in enumerate(item.parts.parts):
        x, y, width, height = part.bbox
        crop = item.parts.crop(i)
        common = f'label={_attribute(names[part.label])} source="auto" occluded="0" z_order="0"'
        if not polygons:
            runs = ", ".join(map(str, row_runs(crop)))
            yield (
                f'<mask {common} rle="{runs}" left="{x}" top="{y}" '
                f'width="{width}" height="{height}"/>\n'
            )
            continue
        outlines = mask_outlines(crop)
        group += len(outlines) > 1
        together = f' group_id="{group}"' if len(outlines) > 1 else ""
        for outline in outlines:
            points = ";".join(f"{px + x:.0f},{py + y:.0f}" for px, py in outline)
            yield f'<polygon {common}{together} points="{points}"/>\n'


def row_runs(mask: np.ndarray) -> list[int]:
    """Run lengths of a bool mask read row by row, outside first."""
    flat = mask.ravel()
    edges = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    runs = np.diff(np.concatenate([[0], edges, [flat.size]])).tolist()
    return [0, *runs] if flat[0] else runs


def _attribute(text: str) -> str:
    return quoteattr(_printable(text))


def _printable(text: str) -> str:
    """Without the control characters that XML cannot hold."""
    return "".join(c for c in text if c >= " " and not "\ud800" <= c <= "\udfff")
