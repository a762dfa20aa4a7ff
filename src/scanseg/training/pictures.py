"""Files to look at while training: curves of the losses, photos with truth and prediction."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from scanseg.contracts import MissingExtra, Segmentation
from scanseg.storage import atomic_write
from scanseg.training.lightning_parts import read_log

CURVES = ("loss", "class", "mask", "dice", "gradient_norm", "rate")
_WIDTH = 480  # pixels of one picture on a sheet
_GAP = 8


def plot_log(log: Path, output: Path) -> None:
    """Curves of a CSV log as a PNG; a curve nobody logged is left out, and no file without any.

    Raises:
        MissingExtra: matplotlib is not there.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtra("train", "plotting losses") from error
    rows = read_log(log)
    curves: dict[str, np.ndarray] = {}
    for name in CURVES:
        found = [(int(row["step"]), float(row[name])) for row in rows if row.get(name)]
        if found:
            curves[name] = np.array(sorted(found))
    if not curves:
        return
    figure = Figure(figsize=(10, 2.6 * ((len(curves) + 1) // 2)), layout="constrained")
    FigureCanvasAgg(figure)
    for place, (name, points) in enumerate(curves.items(), 1):
        axes = figure.add_subplot((len(curves) + 1) // 2, 2, place)
        axes.plot(points[:, 0], points[:, 1], linewidth=0.8, alpha=0.45, color="tab:blue")
        smooth = _running_mean(points[:, 1])
        axes.plot(points[:, 0], smooth, linewidth=1.6, color="tab:blue")
        axes.set_title(name)
        axes.set_xlabel("step")
        axes.grid(alpha=0.3)
    with atomic_write(output) as file:
        figure.savefig(file, format="png", dpi=90, metadata={"Software": None})


def _running_mean(values: np.ndarray) -> np.ndarray:
    """Mean of the last tenth of the values at each point."""
    width = max(1, len(values) // 10)
    sums = np.cumsum(np.concatenate([[0.0], values]))
    ends = np.arange(1, len(values) + 1)
    starts = np.maximum(0, ends - width)
    return (sums[ends] - sums[starts]) / (ends - starts)


def overlay_sheet(rows: Sequence[Sequence[Segmentation]], output: Path) -> None:
    """A PNG with one row per photo, such as truth and prediction side by side."""
    pictures = [[_shrunk(segmentation.overlay()) for segmentation in row] for row in rows]
    heights = [max(picture.height for picture in row) for row in pictures]
    width = max(len(row) for row in pictures) * (_WIDTH + _GAP) + _GAP
    sheet = Image.new("RGB", (width, sum(heights) + _GAP * (len(heights) + 1)), "white")
    top = _GAP
    for row, height in zip(pictures, heights, strict=True):
        for column, picture in enumerate(row):
            sheet.paste(picture, (_GAP + column * (_WIDTH + _GAP), top))
        top += height + _GAP
    with atomic_write(output) as file:
        sheet.save(file, format="PNG")


def _shrunk(picture: Image.Image) -> Image.Image:
    height = max(1, round(picture.height * _WIDTH / picture.width))
    return picture.convert("RGB").resize((_WIDTH, height), Image.Resampling.LANCZOS)
