"""GeoJSON: a file of polygons per photo (``polygons`` says what is in it)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from scanseg.formats.datasets import Item, json_line
from scanseg.formats.polygons import feature_collection
from scanseg.storage import atomic_write


def write(folder: Path, names: Sequence[str], items: Iterable[Item]) -> None:
    """Write ``NAME.geojson`` for each photo into ``folder``."""
    for item in items:
        with atomic_write(folder / f"{item.stem}.geojson") as file:
            file.write(json_line(feature_collection(item.parts, item.size)) + b"\n")
