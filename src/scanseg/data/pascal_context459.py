"""PASCAL Context-459: all labels of PASCAL Context, "unknown" among them (class 430)."""

from __future__ import annotations

from functools import partial

from scanseg.data.pascal_context import LABELS, PascalContext, archives, label_png
from scanseg.data.pictures import LabelTable

VOID = 65535
_TABLE = LabelTable(tuple(range(1, LABELS + 1)), voids=(0,), bits=16)


class PascalContext459(PascalContext):
    """``labels459/*.png``: 16 bit, 0..458 and 65535 for pixels that do not count."""

    name = "pascal_context459"
    title = "PASCAL Context-459"
    label_set = "pc459"
    table = LabelTable(tuple(range(LABELS)), voids=(VOID,), bits=16)
    label_map = _TABLE
    labels = "labels459"
    archives = archives("labels459", partial(label_png, table=_TABLE, void=VOID))
    tree = "images/*.jpg, splits/{train,val}.txt, labels459/*.png (prepared)"
