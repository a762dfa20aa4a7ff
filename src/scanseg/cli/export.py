"""``scanseg export``: a model as ONNX files that answer any words without torch."""

from __future__ import annotations

import json as json_format
import re
import sys
from typing import Literal

from scanseg.cli import EXIT_OK
from scanseg.cli.labels_file import read_labels_file, separated
from scanseg.cli.settings_options import given_settings
from scanseg.contracts import Branches, InputError, Semantics, ShiftSource


def export(
    model: str,
    *,
    output: str,
    format: Literal["onnx"] = "onnx",
    size: str | None = None,
    labels: str | None = None,
    labels_file: str | None = None,
    precision: Literal["float32", "int8"] = "float32",
    photos: list[str] | None = None,
    weights: str | None = None,
    overwrite: bool = False,
    json: bool = False,
    operating_point: str | None = None,
    semantics: Semantics | None = None,
    branches: Branches | None = None,
    ensemble_weight: float | None = None,
    mask_threshold: float | None = None,
    log_fusion: bool = False,
    shift_source: ShiftSource | None = None,
    shift_ratio: float | None = None,
    shift_seed: int | None = None,
) -> int:
    """Write a model as ONNX files: photos and word embeddings in, scores and masks out.

    The words are chosen at run time: scanseg segment photo.jpg cat sofa --runtime onnx --weights
    FOLDER. How far the answers are from torch's is measured and written to FOLDER/parity.json.
    Settings are part of the file, except the ensemble weight and the bound for unknown pixels.

    Args:
        model: embedded, vit_b, vit_l, zero_train, tiny, a model folder or a hub id
        output: folder to write
        format: kind of file
        size: height and width of the photo in the graph, such as 640x853 (default: any size for
            embedded, a 4:3 photo at the preset's short side for the others)
        labels: words, separated by commas: store their embeddings and leave the text tower out
        labels_file: the same, from a file with one word per line
        precision: int8 stores the weights of matrix products in 8 bits
        photos: photos to compare with torch on (default: three that scikit-image brings)
        weights: folder with the weights of a preset that ships none
        overwrite: replace an export that exists
        json: print the parity report as JSON
        operating_point: the released settings for a benchmark (ade150, pc59 ...) of vit_b and vit_l
        ensemble_weight: weight of the region classifier, 0 to 1; may be changed at run time
            (default: the model's)
        shift_source: what contextual shift puts in place of background tokens (default: the
            model's)
    """
    if labels is not None and labels_file is not None:
        raise InputError("--labels and --labels-file exclude each other: choose one")
    words = separated(labels) if labels is not None else None
    chosen = read_labels_file(labels_file) if labels_file is not None else words
    changes = given_settings(
        semantics=semantics,
        branches=branches,
        ensemble_weight=ensemble_weight,
        mask_threshold=mask_threshold,
        log_fusion=log_fusion,
        shift_source=shift_source,
        shift_ratio=shift_ratio,
        shift_seed=shift_seed,
    )
    pixels = _size(size)

    from scanseg.export import check_output, export_onnx
    from scanseg.presets import load_configured

    check_output(output, overwrite=overwrite)
    segmenter, settings = load_configured(
        model, weights=weights, device="cpu", benchmark=operating_point, changes=changes
    )
    done = export_onnx(
        segmenter,
        output,
        settings=settings,
        size=pixels,
        words=chosen,
        precision=precision,
        overwrite=overwrite,
        photos=photos or (),
        tell=lambda step: print(f"{step} ...", file=sys.stderr, flush=True),
    )
    if json:
        print(json_format.dumps(done.parity, indent=2))
    else:
        print(f"wrote {done.folder} ({done.bytes / 1e6:,.0f} MB)\n{done.line()}")
    return EXIT_OK


COMMAND = export


def _size(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    found = re.fullmatch(r"\s*(\d{1,5})\s*[x×,]\s*(\d{1,5})\s*", text)
    if not found or 0 in (sides := (int(found[1]), int(found[2]))):
        raise InputError(f"--size must be HEIGHTxWIDTH in pixels, such as 640x853, not {text!r}")
    return sides
