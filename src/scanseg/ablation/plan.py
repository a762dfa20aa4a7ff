"""What a suite takes: trainings, some of them shared by rows, and evaluations."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from scanseg.ablation.suite import EvaluationData, Suite
from scanseg.ablation.trainers import RowTrainer, clip_experiment, trainer_of, weights_of

Kind = Literal["train", "clip", "evaluate"]
DONE = "done.json"


@dataclass(frozen=True)
class Piece:
    """One training, CLIP fine-tuning or evaluation; it has a folder of its own.

    Attributes:
        kind: which of these.
        key: of what decides its result; with the seed the name of its folder.
        seed: of it.
        row: first row that needs it.
        settings: what its maker takes.
        data: number of the data set, for evaluations.
        needs: keys of the training and the fine-tuning that an evaluation needs.
    """

    kind: Kind
    key: str
    seed: int
    row: str
    settings: Mapping[str, Any]
    data: int = -1
    needs: tuple[str | None, str | None] = (None, None)

    def folder(self, output: Path) -> Path:
        """Where it is kept."""
        return output / f"{self.kind}-{self.key}-seed{self.seed}"

    def done(self, output: Path) -> dict[str, Any] | None:
        """What was written when it was finished; ``None`` before."""
        try:
            found: dict[str, Any] = json.loads((self.folder(output) / DONE).read_bytes())
        except (OSError, ValueError):
            return None
        return found


@dataclass(frozen=True)
class Plan:
    """All pieces of a suite, in the order in which they are made.

    Attributes:
        suite: what it is for.
        trainer: of its rows.
        pieces: each once, what others need first.
        users: (kind, key) -> names of the rows that use it.
        evaluations: (row, seed, data) -> piece.
    """

    suite: Suite
    trainer: RowTrainer
    pieces: tuple[Piece, ...]
    users: Mapping[tuple[str, str], tuple[str, ...]]
    evaluations: Mapping[tuple[str, int, int], Piece]

    def of(self, kind: Kind) -> list[Piece]:
        """The pieces of a kind."""
        return [piece for piece in self.pieces if piece.kind == kind]

    def find(self, kind: Kind, key: str, seed: int) -> Piece:
        """A piece."""
        return next(p for p in self.of(kind) if p.key == key and p.seed == seed)

    def seconds(self, piece: Piece, output: Path) -> float | None:
        """What a piece will take: as its finished sisters did, else as the suite says."""
        like = [p.done(output) for p in self.of(piece.kind) if p.data == piece.data]
        known = [float(found["seconds"]) for found in like if found]
        if known:
            return sum(known) / len(known)
        if piece.kind == "evaluate":
            return self.suite.data[piece.data].seconds
        return (self.suite.trainer if piece.kind == "train" else self.suite.clip).seconds


def make_plan(suite: Suite) -> Plan:
    """Work out the pieces; settings of all rows are checked on the way.

    Raises:
        InputError: an experiment or a row's change is wrong.
    """
    trainer = trainer_of(suite)
    pieces: dict[tuple[str, str, int], Piece] = {}
    users: dict[tuple[str, str], list[str]] = {}
    evaluations: dict[tuple[str, int, int], Piece] = {}

    def add(piece: Piece) -> Piece:
        found = pieces.setdefault((piece.kind, piece.key, piece.seed), piece)
        names = users.setdefault((piece.kind, piece.key), [])
        if piece.row not in names:
            names.append(piece.row)
        return found

    for seed in suite.seeds:
        for row in suite.rows:
            settings = {"model": row.model} if suite.trainer.kind == "none" else row.train
            resolved = _without_seeds(trainer.resolve(settings, seed))
            trained = add(Piece("train", _key(resolved), seed, row.name, settings))
            tuned = None
            if suite.clip.experiment and row.fine_tuned:
                experiment = clip_experiment(suite.clip, row.clip, seed)
                key = _key(_without_seeds(weights_of(experiment)))
                tuned = add(Piece("clip", key, seed, row.name, row.clip))
            needs = (trained.key, None if tuned is None else tuned.key)
            for number, data in enumerate(suite.data):
                inference = {"shift_seed": seed, **row.inference}
                told = {**inference, "shift_seed": row.inference.get("shift_seed", "seed")}
                key = _key([needs, told, _identity(data)])
                piece = Piece("evaluate", key, seed, row.name, inference, number, needs)
                evaluations[row.name, seed, number] = add(piece)
    frozen = {place: tuple(names) for place, names in users.items()}
    return Plan(suite, trainer, tuple(pieces.values()), frozen, evaluations)


def describe(plan: Plan, output: Path) -> str:
    """The plan for people: what is trained, shared, evaluated, done, and how long it will take."""
    suite = plan.suite
    lines = [f"{suite.title or suite.name}: {len(suite.rows)} rows x {len(suite.seeds)} seeds"]
    titles = {"train": "trainings", "clip": "CLIP fine-tunings", "evaluate": "evaluations"}
    total, unknown = 0.0, False
    for kind, title in titles.items():
        found = plan.of(kind)  # type: ignore[arg-type]
        if not found or (kind == "train" and suite.trainer.kind == "none"):
            continue
        left = [piece for piece in found if piece.done(output) is None]
        times = [plan.seconds(piece, output) for piece in left]
        unknown = unknown or None in times
        total += sum(time for time in times if time is not None)
        whole = len(suite.rows) * len(suite.seeds) * (len(suite.data) if kind == "evaluate" else 1)
        lines.append(
            f"{title}: {len(found)} ({whole} without sharing), {len(found) - len(left)} done"
        )
        if kind != "evaluate":
            for key in dict.fromkeys(piece.key for piece in found):
                rows = plan.users[kind, key]
                shared = ", shared" if len(rows) > 1 else ""
                lines.append(f"  {key}{shared}: {'; '.join(rows)}")
    for data in suite.data:
        lines.append(f"data: {data.title} in {data.root}, {data.limit or 'all'} images")
    known = "" if not unknown else " and what has no known time yet (first pieces will tell)"
    lines.append(f"estimated time left: {_duration(total)}{known}")
    return "\n".join(lines)


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _key(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:10]


def _identity(data: EvaluationData) -> list[Any]:
    return [data.name, data.root, data.split, data.limit, data.words, data.operating_point]


def _without_seeds(values: Mapping[str, Any]) -> Any:
    """The same without the seeds, so that one key stands for all seeds of a row."""
    if isinstance(values, Mapping):
        return {k: _without_seeds(v) for k, v in values.items() if k != "seed"}
    return values
