"""``scanseg::crops`` in ONNX: a loop over the boxes, each cut, masked and resized by itself.

Importing this needs onnxscript; ``graph.py`` holds the same operator for torch.
"""

from typing import Any

from onnxscript import BOOL, FLOAT, INT64, script
from onnxscript import opset18 as op

OPSET = 18


@script(default_opset=op)  # type: ignore[untyped-decorator]
def crops_onnx(photo: FLOAT, inside: BOOL, boxes: INT64, size: int, antialias: int) -> FLOAT:
    """See ``graph.crops``; torch's cubic factor is -0.75, with antialiasing -0.5."""
    side = op.Reshape(op.Constant(value_int=size), [1])
    shape = op.Concat([1, 3], side, side, axis=0)
    smooth = op.Cast(op.Constant(value_int=antialias), to=9)
    found = op.SequenceEmpty(dtype=1)
    for i in range(op.Squeeze(op.Shape(boxes, start=0, end=1))):
        box = op.Gather(boxes, i)
        start = op.Gather(box, [1, 0])
        end = op.Gather(box, [3, 2])
        mask = op.Slice(op.Gather(inside, i), start, end, [0, 1])
        part = op.Unsqueeze(op.Slice(photo, start, end, [1, 2]) * op.Cast(mask, to=1), [0])
        if smooth:
            crop = op.Resize(
                part,
                None,
                None,
                shape,
                mode="cubic",
                antialias=1,
                cubic_coeff_a=-0.5,
                exclude_outside=1,  # weights of torch's filter add up inside the crop
            )
        else:
            crop = op.Resize(part, None, None, shape, mode="cubic", cubic_coeff_a=-0.75)
        found = op.SequenceInsert(found, crop)
    return op.ConcatFromSequence(found, axis=0)


def translations() -> dict[Any, Any]:
    """For ``torch.onnx.export(custom_translation_table=...)``."""
    from scanseg.export import graph

    return {graph.crops._opoverload: crops_onnx}
