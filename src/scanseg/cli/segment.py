"""``scanseg segment``: photos and words in; maps, overlays and records out."""

from __future__ import annotations

import json as json_format
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scanseg.cli import EXIT_OK, EXIT_SOME_FAILED
from scanseg.cli.photo_arguments import (
    Outputs,
    PhotoFile,
    find_photos,
    plan_outputs,
    split_arguments,
)
from scanseg.contracts import (
    Branches,
    InferenceSettings,
    InputError,
    Segmentation,
    Semantics,
    ShiftSource,
)

if TYPE_CHECKING:
    from scanseg.formats.photos import Photo
    from scanseg.segmenter import Segmenter
    from scanseg.vocabulary import Vocabulary

DEFAULT_OUTPUT = "scanseg_output"
_LABELS_FILE_LIMIT = 16 * 2**20  # bytes


def segment(
    inputs: list[str],
    *,
    labels: str | None = None,
    labels_file: str | None = None,
    background: str | None = None,
    output: str | None = None,
    json: bool = False,
    overwrite: bool = False,
    skip_existing: bool = False,
    recursive: bool = False,
    quiet: bool = False,
    font: str | None = None,
    preset: str = "embedded",
    weights: str | None = None,
    device: str = "auto",
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
    Words that begin with a dash go after --. Exit code 3 means that some photos could not be read;
    the others are done.

    Args:
        inputs: photos, then words
        labels: words, separated by commas, in place of words among the arguments
        labels_file: file with one word per line; "sofa: couch, settee" adds synonyms, # comments
        background: words, separated by commas, whose pixels become unknown; "none" for no such
            words (default: the preset's)
        output: folder for the results, which keep the folders of the photos; - writes the map of
            one photo to standard output (default: scanseg_output, or no files with --json)
        json: print one JSON object per photo to standard output; files are then written only with
            --output
        overwrite: replace results that exist
        skip_existing: leave out photos whose results exist
        recursive: look for photos in the folders of a folder too
        quiet: print nothing but errors
        font: font file for the names in overlays, for scripts that the fonts found here lack
        preset: embedded, vit_b, vit_l, zero_train, tiny, a model folder or a hub id
        weights: folder with the weights of a preset that ships none
        device: auto, cpu, cuda, mps, cuda:1 ...
        unknown_below: pixels of lower confidence become unknown, 0 to 1
        operating_point: the released settings for a benchmark (ade150, pc59 ...) of vit_b and vit_l
        semantics: where paper and released code differ, which to follow
        branches: which classifiers speak
        ensemble_weight: weight of the region classifier, 0 to 1
        mask_threshold: probability above which a pixel belongs to a region, 0 to 1
        log_fusion: fuse in log space (for very large vocabularies)
        shift_source: what contextual shift puts in place of background tokens; none: no shift
        shift_ratio: share of the background tokens that contextual shift replaces, 0 to 1
        shift_seed: seed of the choice of these tokens
    """
    to_stdout = output == "-"
    if to_stdout and json:
        raise InputError("--json and --output - both write to standard output: choose one")
    if overwrite and skip_existing:
        raise InputError("--overwrite and --skip-existing exclude each other: choose one")
    if labels is not None and labels_file is not None:
        raise InputError("--labels and --labels-file exclude each other: choose one")
    words_elsewhere = labels is not None or labels_file is not None
    photo_arguments, words = split_arguments(inputs, words_elsewhere=words_elsewhere)
    vocabulary = _vocabulary(words, labels, labels_file, background)
    changes = {
        "unknown_below": unknown_below,
        "semantics": semantics,
        "branches": branches,
        "ensemble_weight": ensemble_weight,
        "mask_threshold": mask_threshold,
        "log_fusion": log_fusion or None,
        "shift_source": shift_source,
        "shift_ratio": shift_ratio,
        "shift_seed": shift_seed,
    }
    changes = {name: value for name, value in changes.items() if value is not None}
    InferenceSettings().replace(**changes)  # complains before the model is loaded

    folder = Path(DEFAULT_OUTPUT if output is None or to_stdout else output)
    photos = find_photos(photo_arguments, recursive=recursive, leave_out=folder)
    report = _Report(json=json, quiet=quiet or to_stdout, total=len(photos))
    plan: list[Outputs | None] = [None] * len(photos)
    if to_stdout:
        _check_stdout(photos)
    elif not json or output is not None:
        outputs = plan_outputs(photos, folder)
        photos, plan = _left_to_do(photos, outputs, folder, overwrite, skip_existing, report)
    if not photos:
        report.finish(folder)
        return EXIT_OK

    first = _read(photos[0]) if len(photos) == 1 else None  # a bad one should fail at once
    segmenter, settings = _load(preset, weights, device, operating_point, changes)
    segmenter.encode(vocabulary)  # words that cannot be used, before the first photo
    with report.progress(len(photos)) as advance:
        for photo_file, outputs_of_photo in zip(photos, plan, strict=True):
            try:
                photo = first or _read(photo_file)
                result = _segment(segmenter, photo, vocabulary, settings)
            except _PhotoError as failure:
                if len(photos) == 1:
                    raise InputError(str(failure)) from failure
                report.failed(photo_file, str(failure))
            else:
                if to_stdout:
                    _write_stdout(result)
                else:
                    _write_files(result, photo, outputs_of_photo, font)
                report.done(photo_file, photo, result, outputs_of_photo)
            advance()
    report.finish(folder)
    return EXIT_SOME_FAILED if report.failures else EXIT_OK


COMMAND = segment


# -------------------------------------------------------------------------------- words


def _vocabulary(
    words: Sequence[str], labels: str | None, labels_file: str | None, background: str | None
) -> Vocabulary:
    from scanseg.vocabulary import Vocabulary

    chosen: Sequence[str] | Mapping[str, list[str]] = words
    if labels is not None:
        chosen = _separated(labels)
    elif labels_file is not None:
        chosen = read_labels_file(labels_file)
    decoys = None
    if background is not None:
        decoys = [] if background.strip().lower() == "none" else _separated(background)
    return Vocabulary(chosen, background=decoys)


def _separated(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


def read_labels_file(path: str) -> dict[str, list[str]]:
    """Words and their synonyms: one word per line, ``sofa: couch, settee``, ``#`` comments.

    Raises:
        InputError: the file is missing, not UTF-8 text, or has no word in it.
    """
    try:
        with open(path, "rb") as file:
            data = file.read(_LABELS_FILE_LIMIT + 1)
        text = data.decode("utf-8-sig")
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError:
        raise InputError(f"{path} is not UTF-8 text: save it as UTF-8") from None
    if len(data) > _LABELS_FILE_LIMIT:
        raise InputError(f"{path} is too large for a list of words")
    found: dict[str, list[str]] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        if line.lstrip().startswith("#"):
            continue
        content = line.split(" #", 1)[0].split("\t#", 1)[0].strip()
        if not content:
            continue
        name, _, synonyms = content.partition(":")
        if not name.strip():
            raise InputError(f"{path}, line {number}: no word before the colon")
        found.setdefault(name.strip(), []).extend(_separated(synonyms))
    if not found:
        raise InputError(f"{path} has no words in it: write one per line")
    return found


# -------------------------------------------------------------------------------- the work


class _PhotoError(Exception):
    """One photo could not be read or does not fit into memory; the others may go on."""


def _load(
    preset: str,
    weights: str | None,
    device: str,
    operating_point: str | None,
    changes: Mapping[str, Any],
) -> tuple[Segmenter, InferenceSettings]:
    from scanseg import presets
    from scanseg.segmenter import Segmenter

    if operating_point is not None and preset in presets.PRESETS:
        presets.operating_point(preset, operating_point)  # complains before the model is loaded
    segmenter = Segmenter.from_pretrained(preset, weights=weights, device=device)
    settings = segmenter.recipe.settings
    if operating_point is not None:
        settings = presets.operating_point(segmenter.recipe.name, operating_point)
    return segmenter, settings.replace(**changes)


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
    segmenter: Segmenter, photo: Photo, vocabulary: Vocabulary, settings: InferenceSettings
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
    result: Segmentation, photo: Photo, outputs: Outputs | None, font: str | None
) -> None:
    """Write map, overlay and record, the record last, each complete or not at all."""
    from scanseg.formats.overlay import draw_overlay
    from scanseg.formats.records import to_record
    from scanseg.weights import atomic_write

    if outputs is None:
        return
    overlay = draw_overlay(result, font=font)
    record = json_format.dumps(to_record(result, name=photo.name), ensure_ascii=False, indent=1)
    result.save(outputs.map)
    try:
        with atomic_write(outputs.overlay) as file:
            overlay.save(file, "PNG")
        with atomic_write(outputs.record) as file:
            file.write(record.encode("utf-8", "surrogateescape") + b"\n")
    except OSError as error:
        raise _not_writable(outputs.map.parent, error) from error


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
    photos: list[PhotoFile],
    plan: list[Outputs],
    folder: Path,
    overwrite: bool,
    skip_existing: bool,
    report: _Report,
) -> tuple[list[PhotoFile], list[Outputs | None]]:
    """Make the output folder and settle what happens to results that exist."""
    existing = [path for outputs in plan for path in outputs.all() if os.path.lexists(path)]
    if existing and not (overwrite or skip_existing):
        more = f" (and {len(existing) - 1} more)" if len(existing) > 1 else ""
        raise InputError(
            f"{existing[0]} exists{more}: use --overwrite, --skip-existing or another --output"
        )
    try:
        for parent in sorted({outputs.map.parent for outputs in plan}):
            parent.mkdir(parents=True, exist_ok=True)
            if not os.access(parent, os.W_OK):
                raise InputError(f"the folder {parent} cannot be written: check its permissions")
    except OSError as error:
        raise _not_writable(folder, error) from error
    left = [
        (photo, outputs)
        for photo, outputs in zip(photos, plan, strict=True)
        if not (skip_existing and all(path.is_file() for path in outputs.all()))
    ]
    report.skipped = len(photos) - len(left)
    return [photo for photo, _ in left], [outputs for _, outputs in left]


# -------------------------------------------------------------------------------- the report


@dataclass
class _Report:
    """What the person (standard error) and the machine (standard output) are told."""

    json: bool
    quiet: bool
    total: int
    skipped: int = 0
    written: int = 0
    failures: list[tuple[PhotoFile, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        from rich.console import Console

        self._console = Console(stderr=True, highlight=False, soft_wrap=True, markup=False)

    @contextmanager
    def progress(self, count: int) -> Iterator[Callable[[], None]]:
        """A progress bar where there is something to wait for and a terminal to show it on."""
        if count < 2 or self.quiet or not self._console.is_terminal:
            yield lambda: None
            return
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

        columns = ("photos", BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(
            *columns, console=self._console, transient=True, redirect_stdout=False
        ) as progress:
            task = progress.add_task("", total=count)
            yield lambda: progress.advance(task)

    def done(
        self, photo_file: PhotoFile, photo: Photo, result: Segmentation, outputs: Outputs | None
    ) -> None:
        """One photo is finished."""
        from scanseg.formats.records import to_record

        self.written += 1
        if self.json:
            files = {}
            if outputs is not None:
                files = {
                    "map": str(outputs.map),
                    "overlay": str(outputs.overlay),
                    "record": str(outputs.record),
                }
            record = to_record(result, name=photo.name)
            self._line({"photo": photo_file.shown, "files": files, **record})
        elif not self.quiet:
            height, width = result.labels.shape
            notes = f" ({'; '.join(photo.notes)})" if photo.notes else ""
            self._console.print(f"{photo_file.shown}, {width} x {height}{notes}")
            self._console.print(f"  {_summary(result)}")
            if outputs is not None:
                names = ", ".join(path.name for path in outputs.all())
                self._console.print(f"  -> {outputs.map.parent}{os.sep}: {names}")

    def failed(self, photo_file: PhotoFile, reason: str) -> None:
        """One photo could not be done."""
        self.failures.append((photo_file, reason))
        if self.json:
            self._line({"photo": photo_file.shown, "error": reason})

    def finish(self, folder: Path) -> None:
        """After the last photo: how many, and which failed."""
        if self.total > 1 and not self.quiet and not self.json:
            parts = [f"{self.written} of {self.total} photos done"]
            if self.skipped:
                parts.append(f"{self.skipped} skipped, their results exist in {folder}{os.sep}")
            self._console.print("; ".join(parts))
        elif self.skipped and not self.quiet and not self.json:
            self._console.print(f"skipped: its results exist in {folder}{os.sep}")
        if self.failures:
            self._console.print(f"{len(self.failures)} could not be done:")
            for _, reason in self.failures:
                self._console.print(f"  {reason}")

    @staticmethod
    def _line(value: Mapping[str, Any]) -> None:
        print(json_format.dumps(value), flush=True)


def _summary(result: Segmentation) -> str:
    """``cat 41 %, sofa 30 %, unknown 29 %; not found: window``, at most eight of each."""
    import numpy as np

    areas = np.bincount((result.labels + 1).ravel(), minlength=len(result.names) + 1)
    shares = 100 * areas / result.labels.size
    found = [int(i) for i in np.argsort(-areas[1:], kind="stable") if areas[i + 1]]
    parts = [f"{result.names[i]} {shares[i + 1]:.0f} %" for i in found[:8]]
    if len(found) > 8:
        parts.append(f"{len(found) - 8} more {shares[[i + 1 for i in found[8:]]].sum():.0f} %")
    if areas[0]:
        parts.append(f"unknown {shares[0]:.0f} %")
    absent = [name for i, name in enumerate(result.names) if not areas[i + 1]]
    text = ", ".join(parts)
    if absent:
        text += "; not found: " + ", ".join(absent[:8])
        text += f" and {len(absent) - 8} more" if len(absent) > 8 else ""
    return text
