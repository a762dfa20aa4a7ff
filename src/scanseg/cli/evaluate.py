"""``scanseg evaluate``: a model on a data set, resumable, sharded, with a report."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from scanseg.cli import EXIT_OK
from scanseg.cli.report_console import deliver_report, progress_bar
from scanseg.cli.score import make_task
from scanseg.cli.settings_options import given_settings
from scanseg.contracts import Branches, InferenceSettings, InputError, Mode, Semantics, ShiftSource
from scanseg.evaluation.report import build_report

if TYPE_CHECKING:
    from scanseg.evaluation.report_html import Example
    from scanseg.evaluation.runner import Evaluator
    from scanseg.evaluation.scoring import Counted
    from scanseg.metrics.average_recall import ProposalRecall

DEFAULT_FOLDER = "scanseg_evaluation"


def evaluate(
    *,
    dataset: str,
    root: str,
    split: str = "",
    preset: str = "embedded",
    weights: str | None = None,
    device: str = "auto",
    mode: Mode = "exact",
    operating_point: str | None = None,
    semantics: Semantics | None = None,
    branches: Branches | None = None,
    ensemble_weight: float | None = None,
    mask_threshold: float | None = None,
    log_fusion: bool = False,
    shift_source: ShiftSource | None = None,
    shift_ratio: float | None = None,
    shift_seed: int | None = None,
    words: Literal["official", "plain"] = "official",
    only: str | None = None,
    limit: int | None = None,
    hierarchy: str | None = None,
    seen: str | None = None,
    similarity: str | None = None,
    boundary: bool = False,
    proposals: bool = False,
    examples: int = 6,
    replicates: int = 1000,
    level: float = 0.95,
    seed: int = 0,
    workers: int = 1,
    shard: str | None = None,
    output: str | None = None,
    restart: bool = False,
    json: bool = False,
    quiet: bool = False,
) -> int:
    """Evaluate a model on a data set.

    Every image is counted once and its counts are kept in the output folder: a killed run goes on
    where it stopped when the same command is given again, and ends with the same numbers. Several
    processes may share a folder: torchrun --nproc-per-node 8 -m scanseg evaluate ..., or --shard
    0/4 to --shard 3/4 on different machines. The process that finds every image counted writes
    report.json, report.md and report.html. No background words, no unknown: every pixel gets one of
    the classes.

    Args:
        dataset: ade20k150, ade20k847, pascal_context59, pascal_context459, voc20, voc21,
            coco_stuff, coco_panoptic, camvid, or folder (images/, labels/, classes.txt)
        root: folder of the data set
        split: of the data set; NAME@held_out and NAME@rest divide one (default: the usual one)
        preset: embedded, vit_b, vit_l, zero_train, tiny, a model folder or a hub id
        weights: folder with the weights of a preset that ships none
        device: auto, cpu, cuda, mps, cuda:1 ...
        mode: exact, bf16 (region classifier in bfloat16) or fast (that, and approximations)
        operating_point: the released settings for a benchmark (ade150, pc59 ...) of vit_b and vit_l
        words: what the model is asked for: official (names as the benchmark writes them, such as
            "building, edifice") or plain (one word group each)
        only: file with image keys, one per line: evaluate these and no others
        limit: evaluate the first so many images
        hierarchy: parents and synonyms for SG-IoU: a JSON file, the name of one of ours, or "none"
            (default: ours for the label set, where there is one)
        seen: text file with the names of the classes seen in training: seen, unseen, harmonic IoU
        similarity: similarity file for Open-mIoU (scanseg similarity makes one)
        boundary: score contours too (boundary F); takes longer
        proposals: measure the recall of the mask proposals too (AR@Q), where segments are known
        examples: images to show in the HTML report, from the worst to the best; 0 for none
        replicates: of the bootstrap over images; 0 leaves the intervals out
        level: of the intervals, between 0 and 1
        seed: of the bootstrap
        workers: processes on this machine, each with a model of its own (for CPUs)
        shard: part of the images for this process, as 0/4 (default: from torchrun, else all)
        output: folder for counts and report (default: scanseg_evaluation/PRESET-DATASET-SPLIT;
            of a data set of your own scanseg_evaluation/PRESET-folder-ROOT-SPLIT)
        restart: throw away counts that the folder holds
        json: print one JSON object to standard output
        quiet: no progress bar
    """
    if limit is not None and limit < 1:
        raise InputError(f"--limit must be at least 1, not {limit}")
    if workers < 1:
        raise InputError(f"--workers must be at least 1, not {workers}")
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

    from scanseg.evaluation.runner import (
        DataSpec,
        Job,
        Measures,
        ModelSpec,
        count_missing,
        is_own,
        label_set_of,
        shard_from_environment,
        shard_of,
    )
    from scanseg.evaluation.store import CountStore, combine

    part = shard_from_environment() if shard is None else _parse_shard(shard)
    if restart and part[1] > 1:
        raise InputError("--restart cannot be shared by shards: delete the output folder first")
    data = DataSpec(dataset, root, split)
    opened = data.open()
    labels = label_set_of(opened)
    task = make_task(labels, hierarchy, seen, similarity)
    spoken = labels.names if words == "official" else labels.prompts
    job = Job(
        ModelSpec(preset, weights, device, operating_point, changes, mode),
        data,
        tuple(spoken),
        Measures(boundary=boundary, proposals=proposals),
    )
    if only is not None:
        opened = opened.only(_listed_keys(only))
    keys = opened.keys[:limit]
    named = f"{opened.name}-{opened.root.resolve().name}" if is_own(opened) else opened.name
    folder = Path(output or _default_folder(preset, named, opened.split))
    if restart:
        for old in folder.glob("counts-*.jsonl"):
            old.unlink()
    evaluator = job.evaluator()
    with CountStore(folder, evaluator.identity, len(labels), part[0]) as store:
        mine = shard_of(keys, part)
        known = len(set(mine) & set(store.records()))
        if known and not quiet:
            print(f"{known} of {len(mine)} images were counted before", file=sys.stderr)
        with progress_bar("images", len(mine), quiet=quiet) as advance:
            count_missing(evaluator, job, store, mine, workers=workers, advance=advance)
        records = store.records()
    missing = [key for key in keys if key not in records]
    if missing:
        print(
            f"this shard is done; {len(missing)} of {len(keys)} images are still to be counted "
            "by others",
            file=sys.stderr,
        )
        return EXIT_OK
    counted, recall = combine((records[key] for key in keys), len(labels))
    notes = []
    if only is not None:
        notes.append(f"Only the images listed in {only}.")
    if opened.expected is not None and len(keys) != opened.expected:
        notes.append(f"{len(keys)} of the {opened.expected} images of the official split.")
    if proposals and recall is None:
        notes.append("No image has known segments, so there is no proposal recall.")
    report = build_report(
        counted,
        task,
        title=f"{evaluator.segmenter.recipe.name} on {labels.title}",
        about={
            "command": _command(
                preset=preset,
                weights=weights,
                dataset=dataset,
                root=root,
                split=split or None,
                operating_point=operating_point,
                mode=None if mode == "exact" else mode,
                words=None if words == "official" else words,
                hierarchy=hierarchy,
                seen=seen,
                similarity=similarity,
                boundary=boundary,
                proposals=proposals,
                only=only,
                limit=limit,
                **changes,
            ),
            "data set": f"{opened.name}, split {opened.split}",
            **_about_model(evaluator),
        },
        replicates=replicates,
        level=level,
        seed=seed,
        proposals=None if recall is None else _recall(recall),
        notes=notes,
    )
    shown = _examples(evaluator, counted, labels.names, examples)
    return deliver_report(report, shown, str(folder), as_json=json)


COMMAND = evaluate


def _about_model(evaluator: Evaluator) -> dict[str, str]:
    identity = evaluator.identity
    default = InferenceSettings().to_dict()
    settings = {k: v for k, v in identity["settings"].items() if v != default[k]}
    changed = ", ".join(f"{k} {v}" for k, v in settings.items()) or "the released defaults"
    return {
        "model": f"{identity['preset']}, weights {identity['weights']}",
        "settings": changed,
        "made with": (
            f"scanseg {identity['scanseg']}, torch {identity['torch']}, {identity['device']}, "
            f"{identity['precision']}"
        ),
    }


def _command(**options: Any) -> str:
    """The command that gives this report again, without what does not change its numbers."""
    words = ["scanseg", "evaluate"]
    for name, value in options.items():
        if value is not None and value is not False:
            words.append("--" + name.replace("_", "-"))
            if value is not True:
                words.append(str(value))
    return shlex.join(words)


def _recall(recall: ProposalRecall) -> dict[str, float]:
    return {f"AR@{limit}": value for limit, value in recall.average_recall().items()}


def _examples(
    evaluator: Evaluator, counted: Counted, names: Sequence[str], count: int
) -> list[Example]:
    """The chosen images, segmented once more."""
    from scanseg.evaluation.pictures import choose_examples, example

    found = []
    for key, miou in choose_examples(counted, count):
        sample = evaluator.dataset.make(key)
        photo = sample.pixels()
        [labels] = evaluator.segment([photo])
        found.append(example(key, miou, photo, sample.truth(), labels, names))
    return found


def _parse_shard(text: str) -> tuple[int, int]:
    found = re.fullmatch(r"(\d+)/(\d+)", text)
    if not found:
        raise InputError(f"--shard is a number of a count, such as 0/4, not {text!r}")
    return int(found[1]), int(found[2])


def _listed_keys(file: str) -> list[str]:
    """Keys of ``--only``, each once, in the order of the file."""
    try:
        lines = Path(file).read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"--only {file} cannot be read: give a text file with one key per line"
        ) from error
    keys = dict.fromkeys(filter(None, map(str.strip, lines)))
    if not keys:
        raise InputError(f"--only {file} lists no image: put one key on each line")
    return list(keys)


def _default_folder(preset: str, dataset: str, split: str) -> str:
    name = f"{Path(preset).name}-{dataset}-{split}"
    return f"{DEFAULT_FOLDER}/{re.sub(r'[^A-Za-z0-9_.@-]', '_', name)}"
