"""A segmentation drawn with matplotlib, for notebooks and papers."""

from __future__ import annotations

from typing import Any

from scanseg.contracts import MissingExtra, Segmentation
from scanseg.formats.overlay import draw_overlay
from scanseg.formats.palette import UNKNOWN_COLOUR, label_colours

_MOST = 20  # names in the legend


def plot(segmentation: Segmentation, axes: Any = None, *, opacity: float = 0.55) -> Any:
    """Draw the overlay in pixels of the photo, with a legend beside it.

    Args:
        segmentation: the map.
        axes: matplotlib axes; ``None`` makes a figure of its own.
        opacity: of the colours, in [0, 1].

    Returns:
        The axes.

    Raises:
        MissingExtra: matplotlib is not installed.
    """
    try:
        from matplotlib import pyplot
        from matplotlib.patches import Patch
    except ImportError:
        raise MissingExtra("eval", "plot()") from None
    if axes is None:
        _, axes = pyplot.subplots(layout="constrained")
    axes.imshow(draw_overlay(segmentation, opacity=opacity, legend=False))
    axes.set_axis_off()
    colours = label_colours(len(segmentation.names)) / 255
    total = segmentation.labels.size
    entries = [
        Patch(color=colours[s.label], label=f"{s.name} {_percent(s.area / total)}")
        for s in segmentation.segments[:_MOST]
    ]
    unknown = int((segmentation.labels < 0).sum())
    if unknown:
        grey = tuple(c / 255 for c in UNKNOWN_COLOUR)
        entries.append(Patch(color=grey, label=f"unknown {_percent(unknown / total)}"))
    axes.legend(handles=entries, loc="upper left", bbox_to_anchor=(1.01, 1.0), frameon=False)
    return axes


def _percent(share: float) -> str:
    return f"{share:.0%}" if share >= 0.01 else "<1%"
