"""``scanseg convert``: official checkpoints and pre-trained parts -> a model folder of ours."""

from __future__ import annotations

import json as json_format
from typing import Literal

from scanseg.cli import EXIT_OK


def convert(
    checkpoints: list[str],
    *,
    output: str,
    as_: Literal["auto", "scan", "finetuned_clip", "open_clip", "swin"] = "auto",
    ignore_unknown: bool = False,
    overwrite: bool = False,
    json: bool = False,
) -> int:
    """Convert official SCAN weights, or OpenCLIP and Swin weights to train from, to one folder.

    Every weight is accounted for in FOLDER/conversion.json. Converted weights keep their licence:
    official SCAN weights are CC BY-NC 4.0. Checkpoints are read as tensors only; files that would
    run code are refused.

    Args:
        checkpoints: a SCAN segmentation model and, beside it, its fine-tuned CLIP; or a plain
            OpenCLIP model, a Swin ImageNet-22k backbone, or both.
        output: folder to write.
        as_: what the checkpoint is, if its names do not tell.
        ignore_unknown: leave out weights that no rule knows.
        overwrite: replace a model that is already in the folder.
        json: print the whole report as JSON.
    """
    from scanseg.convert import convert as convert_checkpoints

    report = convert_checkpoints(
        checkpoints, output, kind=as_, ignore_unknown=ignore_unknown, overwrite=overwrite
    )
    print(json_format.dumps(report.to_dict(), indent=2) if json else report.text())
    return EXIT_OK


COMMAND = convert
