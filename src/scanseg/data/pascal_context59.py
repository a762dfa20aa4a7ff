"""PASCAL Context-59: the 59 most frequent classes of PASCAL Context."""

from __future__ import annotations

from functools import partial

from scanseg.data.pascal_context import PascalContext, archives, label_png
from scanseg.data.pictures import LabelTable

# fmt: off
LABEL_MAP_VALUES = (
    2, 23, 25, 31, 34, 45, 59, 65, 72, 98, 397, 113, 207, 258, 284, 308, 347, 368, 416, 427,
    9, 18, 22, 33, 44, 46, 68, 80, 85, 104, 115, 144, 158, 159, 162, 187, 189, 220, 232, 259,
    260, 105, 296, 355, 295, 324, 326, 349, 354, 360, 366, 19, 415, 420, 424, 440, 445, 454, 458,
)
# fmt: on
"""Value of class 0, 1, ... 58 in ``LabelMap``; the 400 others do not count."""

VOID = 255
_TABLE = LabelTable(LABEL_MAP_VALUES, voids=(0,), bits=16, others_void=True)


class PascalContext59(PascalContext):
    """``labels59/*.png``: 8 bit, 0..58 and 255 for pixels that do not count."""

    name = "pascal_context59"
    title = "PASCAL Context-59"
    label_set = "pc59"
    table = LabelTable(tuple(range(59)), voids=(VOID,))
    label_map = _TABLE
    labels = "labels59"
    archives = archives("labels59", partial(label_png, table=_TABLE, void=VOID))
    tree = "images/*.jpg, splits/{train,val}.txt, labels59/*.png (prepared)"
