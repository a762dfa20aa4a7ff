"""Data sets: one file each, with layout, preparation, verification and class order.

>>> from scanseg.data import open_dataset
>>> val = open_dataset("ade20k150", "datasets/ade20k", "val")     # doctest: +SKIP
>>> sample = val[0]                                                # doctest: +SKIP
>>> photo, truth = sample.pixels(), sample.truth()                 # doctest: +SKIP

Class names are not here: ``Dataset.label_set`` names a label set of ``scanseg.vocabulary``, whose
order the class indices follow. ``docs/data.md`` says where to get each data set.
"""

from __future__ import annotations

import difflib
from importlib import import_module
from pathlib import Path
from typing import Any

from scanseg.contracts import InputError
from scanseg.data.layout import Archive, Files, Folder, Layout, SplitFacts, Take
from scanseg.data.parallel import Progress
from scanseg.data.pictures import LabelTable
from scanseg.data.preparation import Prepared, prepare
from scanseg.data.samples import VOID, Dataset, Panoptic, Sample
from scanseg.data.splits import HELD_OUT_SHARE, held_out
from scanseg.data.verification import Finding, Verification, verify

__all__ = [
    "HELD_OUT_SHARE",
    "VOID",
    "Archive",
    "Dataset",
    "Files",
    "Finding",
    "Folder",
    "LabelTable",
    "Layout",
    "Panoptic",
    "Prepared",
    "Progress",
    "Sample",
    "SplitFacts",
    "Take",
    "Verification",
    "dataset_names",
    "held_out",
    "layout_of",
    "open_dataset",
    "prepare",
    "verify",
]

_LAYOUTS = {
    "ade20k150": "scanseg.data.ade20k150.Ade20k150",
    "ade20k847": "scanseg.data.ade20k847.Ade20k847",
    "pascal_context59": "scanseg.data.pascal_context59.PascalContext59",
    "pascal_context459": "scanseg.data.pascal_context459.PascalContext459",
    "voc20": "scanseg.data.voc2012.Voc20",
    "voc21": "scanseg.data.voc2012.Voc21",
    "coco_stuff": "scanseg.data.coco_stuff.CocoStuff",
    "coco_panoptic": "scanseg.data.coco_panoptic.CocoPanoptic",
    "camvid": "scanseg.data.camvid.Camvid",
    "bsds500": "scanseg.data.bsds500.Bsds500",
    "folder": "scanseg.data.folder.FolderLayout",
}


def dataset_names() -> tuple[str, ...]:
    """Names that :func:`open_dataset` takes."""
    return tuple(_LAYOUTS)


def open_dataset(name: str, root: str | Path, split: str = "") -> Dataset:
    """Open a split of a data set.

    Args:
        name: one of :func:`dataset_names`, or the class path of a :class:`Layout` of one's own.
        root: its folder.
        split: name of a split; ``@held_out`` or ``@rest`` after it takes a fixed fifth or the
            other four fifths (``"panoptic_full@held_out"``). Empty: the one for evaluation.

    Raises:
        InputError: no such data set, folder or split, or files are missing; one line says which
            and where to get them.
    """
    return layout_of(name).open(Path(root), split)


def layout_of(name: str) -> Layout:
    """The layout of a data set by name or class path.

    Raises:
        InputError: no such name, or the class path leads to no layout.
    """
    path = _LAYOUTS.get(name, name)
    if "." not in path:
        close = difflib.get_close_matches(name, _LAYOUTS, n=1)
        hint = f" (did you mean {close[0]!r}?)" if close else ""
        raise InputError(f"no data set {name!r}{hint}; there are {', '.join(_LAYOUTS)}")
    module, _, attribute = path.rpartition(".")
    try:
        found: Any = getattr(import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise InputError(f"no data set class {name!r}: {error}") from error
    if not (isinstance(found, type) and issubclass(found, Layout)):
        raise InputError(f"{name} is not a class derived from scanseg.data.Layout")
    return found()
