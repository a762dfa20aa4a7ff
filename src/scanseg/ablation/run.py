"""Make the pieces of a plan, one after the other; what is finished is never made again."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from scanseg.ablation.plan import DONE, Piece, Plan
from scanseg.ablation.trainers import Progress, clip_experiment
from scanseg.contracts import InputError
from scanseg.evaluation.runner import (
    DataSpec,
    Job,
    Measures,
    ModelSpec,
    count_missing,
    label_set_of,
)
from scanseg.evaluation.scoring import Counted
from scanseg.evaluation.store import CountStore, combine
from scanseg.storage import write_json
from scanseg.training.typed_values import nearest

Reporter = Callable[[str], AbstractContextManager[Progress]]
"""What is made -> a context with a function to be told step, steps and loss."""


def run_plan(plan: Plan, output: Path, report: Reporter, *, device: str = "auto") -> int:
    """Make what is missing, until the suite's budget is spent.

    Args:
        plan: what to make.
        output: folder of all pieces.
        report: shows progress.
        device: to evaluate on.

    Returns:
        How many pieces are still missing.

    Raises:
        InputError: data or weights are missing or do not fit.
    """
    suite, output = plan.suite, output.resolve()  # paths in done.json hold in any folder
    limit = None if suite.budget_minutes is None else time.monotonic() + 60 * suite.budget_minutes
    for place, piece in enumerate(plan.pieces):
        if piece.done(output) is not None:
            continue
        if limit is not None and time.monotonic() >= limit:
            break
        started = time.monotonic()
        what = f"{place + 1}/{len(plan.pieces)} {piece.kind}, {piece.row}, seed {piece.seed}"
        with report(what) as tell:
            made = _MAKERS[piece.kind](plan, piece, output, tell, device)
        made["seconds"] = round(time.monotonic() - started, 3)
        write_json(piece.folder(output) / DONE, made)
    return sum(piece.done(output) is None for piece in plan.pieces)


def counts(plan: Plan, piece: Piece, output: Path) -> Counted | None:
    """The counts of a finished evaluation; ``None`` if it is not finished."""
    done = piece.done(output)
    if done is None:
        return None
    with CountStore(piece.folder(output), done["run"], done["classes"]) as store:
        records = store.records()
    return combine((records[key] for key in done["keys"]), done["classes"])[0]


def _train(plan: Plan, piece: Piece, output: Path, tell: Progress, _: str) -> dict[str, Any]:
    folder = piece.folder(output)
    folder.mkdir(parents=True, exist_ok=True)
    return {"model": plan.trainer.train(piece.settings, piece.seed, folder, tell)}


def _clip(plan: Plan, piece: Piece, output: Path, tell: Progress, _: str) -> dict[str, Any]:
    from scanseg.training.clip_run import train_clip

    experiment = clip_experiment(plan.suite.clip, piece.settings, piece.seed)
    tower = train_clip(experiment, piece.folder(output), resume=True, progress=tell)
    return {"tower": str(tower)}


def _evaluate(
    plan: Plan, piece: Piece, output: Path, tell: Progress, device: str
) -> dict[str, Any]:
    data = plan.suite.data[piece.data]
    spec = DataSpec(data.name, data.root, data.split)
    opened = spec.open()
    labels = label_set_of(opened)
    job = Job(
        ModelSpec(
            _model(plan, piece, output), None, device, data.operating_point or None, piece.settings
        ),
        spec,
        tuple(labels.names if data.words == "official" else labels.prompts),
        Measures(panoptic=False),
    )
    seen = seen_words(plan.suite.unseen, job.words)
    keys = opened.keys[: data.limit]
    evaluator = job.evaluator()
    counted = 0

    def advance() -> None:
        nonlocal counted
        counted += 1
        tell(counted, len(keys), float("nan"))

    with CountStore(piece.folder(output), evaluator.identity, len(labels)) as store:
        count_missing(evaluator, job, store, keys, advance=advance)
    made = {"run": evaluator.identity, "classes": len(labels), "keys": list(keys)}
    return made if seen is None else {**made, "seen": seen}


def seen_words(unseen: Sequence[str], words: Sequence[str]) -> list[int] | None:
    """Indices of the words that are not ``unseen``; ``None`` where all words are seen.

    Raises:
        InputError: an unseen word is not among the words.
    """
    for word in unseen:
        if word not in words:
            raise InputError(f"unseen: {word!r} is none of the words{nearest(word, words)}")
    return [i for i, word in enumerate(words) if word not in unseen] if unseen else None


def _model(plan: Plan, piece: Piece, output: Path) -> str:
    """What an evaluation loads: the trained model, its region CLIP exchanged if there is one."""
    trained, tuned = piece.needs
    assert trained is not None
    done = plan.find("train", trained, piece.seed).done(output)
    if done is None:
        raise InputError(f"{output}: the training of {piece.row} vanished; run the suite again")
    if tuned is None:
        return str(done["model"])
    tower = plan.find("clip", tuned, piece.seed).done(output)
    if tower is None:
        raise InputError(f"{output}: the fine-tuning of {piece.row} vanished; run the suite again")
    from scanseg.training.clip_run import fuse_clip
    from scanseg.weights import CONFIG

    fused = output / f"model-{trained}-{tuned}-seed{piece.seed}"
    if not (fused / CONFIG).exists():  # it is written last
        fuse_clip(str(done["model"]), tower["tower"], fused)
    return str(fused)


_MAKERS: dict[str, Callable[[Plan, Piece, Path, Progress, str], dict[str, Any]]] = {
    "train": _train,
    "clip": _clip,
    "evaluate": _evaluate,
}
