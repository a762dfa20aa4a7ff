"""``scanseg score``: anybody's predictions against a ground truth, without a model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from scanseg.cli.report_console import deliver_comparison, deliver_report, progress_bar
from scanseg.contracts import InputError
from scanseg.data.folder import IMAGE_SUFFIXES
from scanseg.data.pictures import read_pixels
from scanseg.evaluation.comparison import compare as compare_systems
from scanseg.evaluation.label_maps import Coding
from scanseg.evaluation.pictures import choose_examples, example
from scanseg.evaluation.report import Task, build_report, find_hierarchy
from scanseg.evaluation.report_html import Example
from scanseg.evaluation.scoring import Counted, count_maps
from scanseg.evaluation.similarity import load_similarity
from scanseg.evaluation.sources import Maps, open_maps, pair
from scanseg.vocabulary.label_sets import LabelSet, load_label_set

Values = Literal["index", "official"]


def score(
    *,
    ground_truth: str,
    labels: str,
    predictions: str | None = None,
    compare: list[str] | None = None,
    hierarchy: str | None = None,
    ignore: int | None = None,
    offset: int = 0,
    prediction_offset: int | None = None,
    reduce_zero: bool = False,
    ground_truth_values: Values = "index",
    prediction_values: Values = "index",
    common: bool = False,
    seen: str | None = None,
    similarity: str | None = None,
    boundary: bool = False,
    photos: str | None = None,
    examples: int = 6,
    replicates: int = 1000,
    level: float = 0.95,
    seed: int = 0,
    workers: int | None = None,
    output: str | None = None,
    json: bool = False,
    quiet: bool = False,
) -> int:
    """Score the predictions of any system against a ground truth.

    Both are a folder of label PNGs (grey or palette, 8 or 16 bits; sub-folders are searched), or
    COCO: a panoptic JSON with its PNGs, annotations, or a list of results. Images are paired by
    name without the ending. Maps written by scanseg carry the names of their labels and need no
    options. mIoU is given in both conventions, SG-IoU by both of its definitions. No network is
    loaded.

    Args:
        ground_truth: folder of label PNGs, or a COCO JSON
        labels: ade150, ade847, pc59, pc459, voc20, voc21, coco_stuff171, coco_panoptic133,
            camvid11; or a .txt file with one name per line, or a .json file of names or COCO
            categories
        predictions: folder of label PNGs, or a COCO JSON
        compare: two such folders: the paired test between two systems
        hierarchy: parents and synonyms for SG-IoU: a JSON file, the name of one of ours, or "none"
            (default: ours for the label set, where there is one)
        ignore: stored value that means "no class" (default: 255, and 65535 in 16-bit files). In the
            ground truth such pixels are left out, in predictions they are unknown and count as
            wrong
        offset: stored value of the first class; values below it mean "no class"
        prediction_offset: the same for the predictions, if it is another
        reduce_zero: the ground truth stores 0 for "no class" and classes from 1, the predictions
            classes from 0 (the same as --offset 1 --prediction-offset 0)
        ground_truth_values: index (0, 1, 2 ...) or official (the data set's own values, such as
            COCO-Stuff's 0..181 with gaps)
        prediction_values: the same for the predictions
        common: score the images that both sides have, instead of refusing sets that differ
        seen: text file with the names of the classes seen in training, one per line: seen, unseen
            and harmonic IoU
        similarity: similarity file for Open-mIoU (scanseg similarity makes one)
        boundary: score contours too (boundary F); takes longer
        photos: folder of the photos, for the examples in the HTML report
        examples: images to show in the HTML report, from the worst to the best
        replicates: of the bootstrap over images; 0 leaves the intervals out
        level: of the intervals, between 0 and 1
        seed: of the bootstrap
        workers: threads that read and count (default: one per core)
        output: folder for report.json, report.md and report.html
        json: print one JSON object to standard output
        quiet: no progress bar
    """
    if (predictions is None) == (compare is None):
        raise InputError("give either --predictions FOLDER or --compare FOLDER_A FOLDER_B")
    if compare is not None and len(compare) != 2:
        raise InputError(f"--compare takes two folders, not {len(compare)}")
    if reduce_zero and (offset or prediction_offset):
        raise InputError("--reduce-zero already sets the offsets: give it alone")
    if compare is not None and replicates < 10:
        raise InputError("--compare needs --replicates of at least 10")

    label_set = load_label_set(labels)
    task = make_task(label_set, hierarchy, seen, similarity)
    true_offset = 1 if reduce_zero else offset
    said_offset = (0 if reduce_zero else offset) if prediction_offset is None else prediction_offset
    truth_coding = make_coding(label_set, ground_truth_values, true_offset, ignore)
    said_coding = make_coding(label_set, prediction_values, said_offset, ignore)
    truth = open_maps(ground_truth, label_set, truth_coding, "ground truth")
    systems = [predictions] if compare is None else compare
    said = [
        open_maps(str(path), label_set, said_coding, "prediction", truth=Path(ground_truth))
        for path in systems
    ]
    keys = sorted(set.intersection(*(set(pair(maps, truth, common=common)) for maps in said)))
    if not keys:
        raise InputError("the two systems have no image in common")

    counted = []
    with progress_bar("images", len(keys) * len(said), quiet=quiet or json) as advance:
        for maps in said:
            counted.append(
                count_maps(
                    maps,
                    truth,
                    keys,
                    len(label_set),
                    boundary=boundary,
                    workers=workers,
                    advance=advance,
                )
            )
    left_out = [len(set(maps.keys) ^ set(truth.keys)) for maps in said]
    reports = [
        build_report(
            counts,
            task,
            title=f"{Path(str(path)).resolve().name} on {label_set.title}",
            about={"predictions": str(path), "ground truth": ground_truth},
            replicates=replicates,
            level=level,
            seed=seed,
            notes=[f"{n} images are on one side only and were left out."] if n else [],
        )
        for path, counts, n in zip(systems, counted, left_out, strict=True)
    ]
    if compare is None:
        shown = []
        if output is not None:
            shown = _examples(counted[0], said[0], truth, label_set, photos, examples)
        return deliver_report(reports[0], shown, output, as_json=json)
    comparison = compare_systems(
        _names(compare),
        (reports[0], reports[1]),
        (counted[0], counted[1]),
        task,
        replicates=replicates,
        level=level,
        seed=seed,
    )
    return deliver_comparison(comparison, output, as_json=json)


COMMAND = score


def make_task(
    label_set: LabelSet, hierarchy: str | None, seen: str | None, similarity: str | None
) -> Task:
    """Label set, relations, split and similarities from the command line's words.

    Raises:
        InputError: a file that cannot be used, or of other labels.
    """
    matrix, source = None, ""
    if similarity is not None:
        matrix, source = load_similarity(similarity, label_set.names)
    return Task(
        label_set,
        find_hierarchy(hierarchy, label_set),
        None if seen is None else _read_seen(Path(seen), label_set),
        matrix,
        source,
    )


def make_coding(label_set: LabelSet, values: Values, offset: int, ignore: int | None) -> Coding:
    """What stored values mean, from the command line's words.

    Raises:
        InputError: options that contradict each other.
    """
    if values == "index":
        return Coding(label_set.names, offset, ignore)
    if offset:
        raise InputError(
            "an offset goes with values by index: leave it out, or give the values as index"
        )
    return Coding(
        label_set.names,
        ignore=ignore,
        official=label_set.ids,
        official_void=label_set.void_ids,
        others_void=label_set.partial,
    )


def _read_seen(path: Path, label_set: LabelSet) -> tuple[int, ...]:
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not a readable list of classes ({error})") from error
    return tuple(label_set.index(" ".join(line.split())) for line in lines if line.strip())


def _examples(
    counted: Counted, said: Maps, truth: Maps, label_set: LabelSet, photos: str | None, count: int
) -> list[Example]:
    files = {} if photos is None else _photo_files(Path(photos))
    return [
        example(
            key,
            miou,
            read_pixels(files[Path(key).name]) if Path(key).name in files else None,
            truth.labels(key),
            said.labels(key),
            label_set.names,
        )
        for key, miou in choose_examples(counted, count)
    ]


def _photo_files(folder: Path) -> dict[str, Path]:
    """Photos of a folder by name without the ending."""
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder of photos")
    return {p.stem: p for p in sorted(folder.rglob("*")) if p.suffix.lower() in IMAGE_SUFFIXES}


def _names(folders: Sequence[str]) -> tuple[str, str]:
    """Short names of two systems that tell them apart."""
    short = [Path(folder).resolve().name for folder in folders]
    return (short[0], short[1]) if short[0] != short[1] else (folders[0], folders[1])
