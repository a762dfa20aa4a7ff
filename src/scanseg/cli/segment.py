"""``scanseg segment``: photos and words in; maps, overlays and records out."""

from __future__ import annotations

import errno
import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from scanseg.cli import EXIT_OK, EXIT_SOME_FAILED
from scanseg.cli.labels_file import read_labels_file, separated
from scanseg.cli.photo_arguments import (
    Outputs,
    PhotoFile,
    find_photos,
    plan_outputs,
    split_arguments,
)
from scanseg.cli.segment_export import Exports
from scanseg.cli.segment_report import Report
from scanseg.cli.segment_video import VideoOptions, segment_videos, videos_among
from scanseg.cli.settings_options import given_settings
from scanseg.contracts import (
    Branches,
    InferenceSettings,
    InputError,
    Mode,
    Segmentation,
    Semantics,
    ShiftSource,
)
from scanseg.formats.lettering import Lettering
from scanseg.storage import first_difference, parse_json

if TYPE_CHECKING:
    from scanseg.formats.photos import Photo
    from scanseg.runtime_onnx import OnnxSegmenter
    from scanseg.segmenter import Segmenter
    from scanseg.vocabulary import Vocabulary

DEFAULT_OUTPUT = "scanseg_output"


def segment(
    inputs: list[str],
    *,
    labels: str | None = None,
    labels_file: str | None = None,
    background: str | None = None,
    output: str | None = None,
    json_: bool = False,
    overwrite: bool = False,
    skip_existing: bool = False,
    recursive: bool = False,
    quiet: bool = False,
    font: str | None = None,
    explain: bool = False,
    export: str | None = None,
    things: str | None = None,
    min_area: int | None = None,
    every: int | None = None,
    fps: float | None = None,
    preset: str = "embedded",
    weights: str | None = None,
    device: str = "auto",
    mode: Mode = "exact",
    runtime: Literal["torch", "onnx"] = "torch",
    unknown_below: float | None = None,
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
    """Label the pixels of photos with your words.

    Photos come first, then words: scanseg segment photo.jpg "cat" "sofa" "window". A photo is a
    file, a folder, a quoted pattern such as "trip/*.jpg", or - for standard input. For each photo
    NAME three files are written: NAME.png (the map: pixel value 0 is unknown, value i is word i),
    NAME_overlay.png (a picture with a legend) and NAME.json (areas, boxes, confidences, masks).
    Words that begin with a dash go after --. A video (.mp4, .mov, .mkv ...) in place of photos
    gives NAME_overlay.mp4 and NAME.jsonl, a line per frame; with --skip-existing a run that was
    stopped goes on. Exit code 3 means that some photos could not be read;
    the others are done.

    Args:
        inputs: photos, then words
        labels: words, separated by commas, in place of words among the arguments
        labels_file: file with one word per line; "sofa: couch, settee" adds synonyms, # comments
        background: words, separated by commas, whose pixels become unknown; "none" for no such
            words (default: the preset's)
        output: folder for the results, which keep the folders of the photos; - writes the map of
            one photo to standard output (default: scanseg_output, or no files with --json)
        json_: print one JSON object per photo to standard output; files are then written only with
            --output
        overwrite: replace results that exist
        skip_existing: leave out photos whose results exist (of the same words and settings)
        recursive: look for photos in the folders of a folder too
        quiet: print nothing but errors
        font: font file for the names in overlays, for scripts that the fonts found here lack
        explain: also write NAME_explain.png: what the region classifier says of the largest
            regions, without and with contextual shift
        export: also write data sets of all photos for other tools, in OUTPUT/exports: coco,
            coco-polygons, coco-panoptic, yolo, cvat, cvat-polygons, label-studio, fiftyone, voc,
            geojson, separated by commas
        things: with --export, words whose connected regions are instances of their own, separated
            by commas, or "all" (default: one segment per word and photo)
        min_area: with --export, leave out segments of fewer pixels
        every: of a video, each n-th frame (default: all)
        fps: of a video, this many frames per second
        preset: embedded, vit_b, vit_l, zero_train, tiny, a model folder, a hub id, or the path of a
            function that returns a model (my_package.my_file.model)
        weights: folder with the weights of a preset that ships none
        device: auto, cpu, cuda, mps, cuda:1 ...
        mode: exact, bf16 (region classifier in bfloat16) or fast (that, and approximations)
        runtime: onnx runs the folder that scanseg export wrote (--weights FOLDER), without torch
        unknown_below: pixels of lower confidence become unknown, 0 to 1
        operating_point: the released settings for a benchmark (ade150, pc59 ...) of vit_b and vit_l
    """
    to_stdout = output == "-"
    if to_stdout and json_:
        raise InputError("--json and --output - both write to standard output: choose one")
    if overwrite and skip_existing:
        raise InputError("--overwrite and --skip-existing exclude each other: choose one")
    if labels is not None and labels_file is not None:
        raise InputError("--labels and --labels-file exclude each other: choose one")
    if explain and (to_stdout or (json_ and output is None)):
        raise InputError("--explain writes a picture: name a folder with --output")
    words_elsewhere = labels is not None or labels_file is not None
    photo_arguments, words = split_arguments(inputs, words_elsewhere=words_elsewhere)
    vocabulary = vocabulary_of(words, labels, labels_file, background)
    exports = Exports.of(export, things, min_area, vocabulary.names)
    if exports.formats and (to_stdout or (json_ and output is None)):
        raise InputError("--export writes files: name a folder with --output")
    changes = given_settings(
        unknown_below=unknown_below,
        semantics=semantics,
        branches=branches,
        ensemble_weight=ensemble_weight,
        mask_threshold=mask_threshold,
        log_fusion=log_fusion,
        shift_source=shift_source,
        shift_ratio=shift_ratio,
        shift_seed=shift_seed,
    )
    Lettering((), font)  # complains before the model is loaded

    if runtime == "onnx" and (
        explain or operating_point is not None or mode != "exact" or device not in ("auto", "cpu")
    ):
        raise InputError("--explain, --operating-point, --mode and --device need --runtime torch")

    def load() -> tuple[Any, InferenceSettings]:
        if runtime == "onnx":
            return _exported(preset, weights, changes)
        from scanseg.presets import load_configured

        return load_configured(
            preset,
            weights=weights,
            device=device,
            benchmark=operating_point,
            changes=changes,
            mode=mode,
        )

    folder = Path(DEFAULT_OUTPUT if output is None or to_stdout else output)
    frames = VideoOptions(every, fps, overwrite, skip_existing, font)
    videos = videos_among(photo_arguments)
    if videos:
        if to_stdout or explain or exports.formats:
            raise InputError("--output -, --explain and --export are for photos, not for videos")
        return segment_videos(videos, vocabulary, folder, frames, load, as_json=json_, quiet=quiet)
    if every is not None or fps is not None:
        raise InputError("--every and --fps choose frames of a video, and these are photos")
    photos = find_photos(photo_arguments, recursive=recursive, output=folder)
    report = Report(as_json=json_, quiet=quiet, total=len(photos))
    plan: list[Outputs | None] = [None] * len(photos)
    asked: list[tuple[PhotoFile, Outputs]] = []
    kept: dict[str, Path] = {}
    if to_stdout:
        _check_stdout(photos)
    elif not json_ or output is not None:
        outputs = plan_outputs(photos, folder)
        asked = list(zip(photos, outputs, strict=True))
        exports.check(photos, folder, may_replace=overwrite or skip_existing)
        photos, plan, kept = _left_to_do(asked, folder, overwrite, skip_existing, exports, report)

    if words and len(vocabulary) == 1 and "," in vocabulary.names[0]:
        report.remark(f'one word: {vocabulary.names[0]!r}; for several, use --labels "cat, dog"')
    alone = report.total == 1
    first = _read(photos[0]) if alone and photos else None  # a bad one should fail at once
    segmenter, settings = load()
    _check_kept(kept, segmenter, settings, vocabulary)
    if not photos:
        report.data_sets(exports.write(asked, folder))
        report.finish(folder)
        return EXIT_OK
    if explain:
        from scanseg.explain import check_explainable

        check_explainable(segmenter, settings)
    segmenter.encode(vocabulary)  # words that cannot be used, before the first photo
    with report.progress(len(photos)) as advance:
        for photo_file, outputs_of_photo in zip(photos, plan, strict=True):
            try:
                _check_names(outputs_of_photo)
                photo = first or _read(photo_file)
                result = _segment(segmenter, photo, vocabulary, settings)
            except _PhotoError as failure:
                if alone:
                    raise
                report.failed(photo_file, str(failure))
                exports.left_out.add(photo_file.target)
            else:
                if to_stdout:
                    _write_stdout(result)
                else:
                    _write_files(result, photo, outputs_of_photo, font, exports)
                    if explain:
                        _write_explanation(
                            segmenter, photo, vocabulary, settings, outputs_of_photo, report
                        )
                report.done(photo_file, photo, result, outputs_of_photo)
            advance()
    report.data_sets(exports.write(asked, folder))
    report.finish(folder)
    return EXIT_SOME_FAILED if report.failures else EXIT_OK


COMMAND = segment


def _exported(
    preset: str, weights: str | None, changes: Mapping[str, Any]
) -> tuple[OnnxSegmenter, InferenceSettings]:
    """An exported model and its settings."""
    from scanseg.runtime_onnx import OnnxSegmenter

    if weights is None:
        raise InputError(
            f"--runtime onnx needs an exported model: scanseg export {preset} --output FOLDER, "
            "then --weights FOLDER"
        )
    segmenter = OnnxSegmenter(weights)
    settings = segmenter.recipe.settings.replace(**changes)
    segmenter.export.check_settings(settings)
    return segmenter, settings


# -------------------------------------------------------------------------------- words


def vocabulary_of(
    words: Sequence[str], labels: str | None, labels_file: str | None, background: str | None
) -> Vocabulary:
    """The words of a command line: among its arguments, in ``--labels`` or in ``--labels-file``."""
    from scanseg.vocabulary import Vocabulary

    chosen: Sequence[str] | Mapping[str, list[str]] = words
    if labels is not None:
        chosen = separated(labels)
    elif labels_file is not None:
        chosen = read_labels_file(labels_file)
    decoys = None
    if background is not None:
        decoys = [] if background.strip().lower() == "none" else separated(background)
    return Vocabulary(chosen, background=decoys)


# -------------------------------------------------------------------------------- the work


class _PhotoError(InputError):
    """One photo could not be read or does not fit into memory; the others may go on."""


def _check_names(outputs: Outputs | None) -> None:
    """Complain about results that no file can be named."""
    for path in outputs.all() if outputs is not None else ():
        try:
            os.lstat(path)
        except OSError as error:
            if error.errno == errno.ENAMETOOLONG:
                raise _PhotoError(
                    f"{path.name} is too long for the name of a file: rename the photo"
                ) from error


def _read(photo_file: PhotoFile) -> Photo:
    from scanseg.formats.photos import read_photo

    try:
        if photo_file.path is None:
            if sys.stdin.isatty():
                raise InputError("standard input is a terminal: pipe a photo into it")
            return read_photo(sys.stdin.buffer)
        return read_photo(photo_file.path)
    except InputError as error:
        raise _PhotoError(str(error)) from error


def _segment(
    segmenter: Segmenter | OnnxSegmenter,
    photo: Photo,
    vocabulary: Vocabulary,
    settings: InferenceSettings,
) -> Segmentation:
    try:
        return segmenter(photo, vocabulary, settings=settings)
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, MemoryError) or "memory" in str(error).lower():
            raise _PhotoError(
                f"{photo.name} needs more memory than there is: shrink it, or use --device cpu"
            ) from error
        raise


def _write_files(
    result: Segmentation,
    photo: Photo,
    outputs: Outputs | None,
    font: str | None,
    exports: Exports,
) -> None:
    """Write map, overlay and record, the record last, each complete or not at all."""
    from scanseg.formats.overlay import draw_overlay
    from scanseg.formats.records import to_record
    from scanseg.storage import atomic_write

    if outputs is None:
        return
    overlay = draw_overlay(result, font=font)
    values = to_record(result, name=photo.name)
    exports.extend(values, result)
    record = json.dumps(values, ensure_ascii=False, indent=1)
    result.save(outputs.map)
    try:
        with atomic_write(outputs.overlay) as file:
            overlay.save(file, "PNG")
        with atomic_write(outputs.record) as file:
            file.write(record.encode("utf-8", "backslashreplace") + b"\n")
    except OSError as error:
        raise _not_writable(outputs.map.parent, error) from error


def _write_explanation(
    segmenter: Segmenter,
    photo: Photo,
    vocabulary: Vocabulary,
    settings: InferenceSettings,
    outputs: Outputs | None,
    report: Report,
) -> None:
    """Write figure 3 for this photo, where any proposal was cut; otherwise say that none was."""
    from scanseg.explain import draw_explanation, explain
    from scanseg.storage import atomic_write

    assert outputs is not None  # checked with the options
    try:
        found = explain(segmenter, photo, vocabulary, settings=settings)
    except InputError as error:
        report.remark(f"{photo.name}: no explanation: {error}")
        return
    path = outputs.map.with_name(f"{outputs.map.stem}_explain.png")
    try:
        with atomic_write(path) as file:
            draw_explanation(found).save(file, "PNG")
    except OSError as error:
        raise _not_writable(path.parent, error) from error


def _not_writable(path: Path, error: OSError) -> InputError:
    return InputError(f"{path} cannot be written: {error.strerror or error}")


def _write_stdout(result: Segmentation) -> None:
    from scanseg.formats.png import indexed_png

    sys.stdout.buffer.write(indexed_png(result))
    sys.stdout.buffer.flush()


def _check_stdout(photos: Sequence[PhotoFile]) -> None:
    if len(photos) != 1:
        raise InputError(
            f"--output - holds the map of one photo, not of {len(photos)}: name a folder"
        )
    if sys.stdout.isatty():
        raise InputError("--output - writes a PNG file: redirect it, for example > map.png")


def _left_to_do(
    plan: list[tuple[PhotoFile, Outputs]],
    folder: Path,
    overwrite: bool,
    skip_existing: bool,
    exports: Exports,
    report: Report,
) -> tuple[list[PhotoFile], list[Outputs | None], dict[str, Path]]:
    """Make the output folder and settle what happens to results that exist.

    Returns:
        The photos that are left, their results, and what results that exist were made with: JSON
        of the settings in a record -> the first such record.

    Raises:
        InputError: results exist and may not stay, are of other words, or cannot be written.
    """
    existing = [path for _, outputs in plan for path in outputs.all() if os.path.lexists(path)]
    if existing and not (overwrite or skip_existing):
        more = f" (and {len(existing) - 1} more)" if len(existing) > 1 else ""
        raise InputError(
            f"{existing[0]} exists{more}: use --overwrite, --skip-existing or another --output"
        )
    try:
        for parent in sorted({outputs.map.parent for _, outputs in plan}):
            parent.mkdir(parents=True, exist_ok=True)
            if not os.access(parent, os.W_OK):
                raise InputError(f"the folder {parent} cannot be written: check its permissions")
    except OSError as error:
        raise _not_writable(folder, error) from error
    left: list[tuple[PhotoFile, Outputs]] = []
    kept: dict[str, Path] = {}
    for photo, outputs in plan:
        if skip_existing and all(os.path.isfile(path) for path in outputs.all()):
            made_with = _made_with(outputs.record, exports.names)
            if made_with is not None:
                kept.setdefault(made_with, outputs.record)
                if exports.complete(outputs.record):
                    continue
        left.append((photo, outputs))
    report.skipped = len(plan) - len(left)
    return [photo for photo, _ in left], [outputs for _, outputs in left], kept


def _made_with(path: Path, names: Sequence[str]) -> str | None:
    """JSON of the settings in a record; ``None``: it cannot be read, so it is made again.

    Raises:
        InputError: it has other words.
    """
    try:
        record = parse_json(path.read_bytes())
        labels, settings = record["labels"], json.dumps(record["settings"], sort_keys=True)
    except (OSError, InputError, KeyError, TypeError):
        return None
    if labels != list(names):
        raise _other(path, "labels")
    return settings


def _check_kept(
    kept: Mapping[str, Path],
    segmenter: Segmenter | OnnxSegmenter,
    settings: InferenceSettings,
    vocabulary: Vocabulary,
) -> None:
    """Complain about results that another model, other words or other settings made."""
    ours = json.loads(json.dumps(settings.to_dict()))
    words = vocabulary.besides_names()
    for text, path in kept.items():
        theirs = json.loads(text)
        if not isinstance(theirs, dict) or theirs.get("preset") != segmenter.recipe.name:
            raise _other(path, "preset")
        other = theirs.get("vocabulary", words)  # records of earlier versions have none
        if other != words:
            told = first_difference(other, words) if isinstance(other, dict) else None
            raise _other(path, told or "words")
        inference = theirs.get("inference")
        differs = first_difference(inference if isinstance(inference, dict) else {}, ours)
        precision = getattr(segmenter, "precision", None)  # of --mode; onnx has but one
        if precision is not None and theirs.get("precision", precision) != precision:
            differs = differs or "precision"
        if differs is not None:
            raise _other(path, f"settings ({differs})")


def _other(path: Path, what: str) -> InputError:
    kind = f"another {what}" if what == "preset" else f"other {what}"
    return InputError(f"{path} was made with {kind}: use --overwrite, or another --output")
