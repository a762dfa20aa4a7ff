"""A suite: the rows of a table, how they are trained and on what they are evaluated (YAML)."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from scanseg.contracts import InferenceSettings, InputError
from scanseg.evaluation.published_ablations import ABLATIONS
from scanseg.training.typed_values import build, check_arguments, nearest
from scanseg.training.yaml_layers import SUFFIX, read_layers, set_value


@dataclass(frozen=True)
class TrainerConfig:
    """How rows are trained.

    Args:
        kind: ``segmenter``: ``scanseg train``; ``none``: nothing is trained, rows name models;
            ``command``: a program of your own; or the class path of a ``RowTrainer``.
        experiment: of ``segmenter``, which rows change.
        set: changes to it for all rows, as ``scanseg train --set`` has them; of ``command``, what
            fills braces in every row.
        command: words of the program; ``{seed}``, ``{output}``, the keys of ``set`` and of the
            row's ``train`` in braces are filled in. It must go on by itself if ``{output}`` is half
            done.
        model: of ``command``: the model folder (or a preset) that it leaves.
        seconds: what a training takes, for the dry run before the first is done.
    """

    kind: str = "segmenter"
    experiment: str = ""
    set: dict[str, Any] = field(default_factory=dict)
    command: tuple[str, ...] = ()
    model: str = "{output}/model"
    seconds: float | None = None


@dataclass(frozen=True)
class ClipConfig:
    """How region CLIPs are fine-tuned; without an experiment they are not.

    Args:
        experiment: of ``scanseg finetune-clip train``, which rows change.
        set: changes to it for all rows.
        seconds: what a fine-tuning takes, for the dry run.
    """

    experiment: str = ""
    set: dict[str, Any] = field(default_factory=dict)
    seconds: float | None = None


@dataclass(frozen=True)
class EvaluationData:
    """A data set to evaluate on.

    Args:
        name: as for ``scanseg evaluate --dataset``.
        root: its folder.
        split: empty: the usual one.
        limit: the first so many images; ``None``: all.
        words: ``official`` or ``plain`` names.
        operating_point: released settings of a benchmark to start from; empty: the model's own.
        paper: column of the paper's table: ade150, ade847, pc59; empty: none.
        seconds: what an evaluation takes, for the dry run.
    """

    name: str = "folder"
    root: str = ""
    split: str = ""
    limit: int | None = None
    words: Literal["official", "plain"] = "official"
    operating_point: str = ""
    paper: Literal["", "ade150", "ade847", "pc59"] = ""
    seconds: float | None = None

    @property
    def title(self) -> str:
        """For people."""
        return f"{self.name} {self.split}".strip()


@dataclass(frozen=True)
class Row:
    """A row of the table.

    Args:
        name: unique.
        paper: the row's label in the paper's table; empty: it is not there.
        model: for ``trainer.kind: none``: preset, folder or hub id.
        train: changes to the experiment (dotted or nested keys), or what the trainer takes.
        clip: changes to the CLIP stage's experiment.
        fine_tuned: whether the row's region CLIP is fine-tuned, where the suite has a CLIP stage.
        inference: inference settings. Rows that differ here only share a training.
    """

    name: str = ""
    paper: str = ""
    model: str = ""
    train: dict[str, Any] = field(default_factory=dict)
    clip: dict[str, Any] = field(default_factory=dict)
    fine_tuned: bool = True
    inference: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Suite:
    """A table of rows.

    Args:
        name: for files.
        title: for people.
        table: number of the paper's table, 3 to 8; ``None``: none.
        baseline: name of the row that others are compared with; empty: the first.
        seeds: each row is trained and evaluated once with each.
        unseen: words of the data that no row is taught, as they are asked for; the table then tells
            their mIoU and that of the others. Empty: no such split.
        rows: at least one.
        data: at least one.
        trainer: how rows are trained.
        clip: how region CLIPs are fine-tuned.
        budget_minutes: no new piece is begun after so long; ``None``: no bound.
        replicates: of the paired bootstrap.
    """

    name: str = ""
    title: str = ""
    table: int | None = None
    baseline: str = ""
    seeds: tuple[int, ...] = (0,)
    unseen: tuple[str, ...] = ()
    rows: tuple[Row, ...] = ()
    data: tuple[EvaluationData, ...] = ()
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    clip: ClipConfig = field(default_factory=ClipConfig)
    budget_minutes: float | None = None
    replicates: int = 1000

    @property
    def base(self) -> Row:
        """The row that others are compared with."""
        return next(row for row in self.rows if row.name == (self.baseline or self.rows[0].name))

    def row(self, name: str) -> Row:
        """A row by name."""
        return next(row for row in self.rows if row.name == name)


def shipped_suites() -> tuple[str, ...]:
    """Names of the suites that scanseg brings along, such as ``table3_tiny``."""
    names = (path.name for path in _shipped().iterdir())
    return tuple(sorted(n.removesuffix(SUFFIX) for n in names if n.endswith(SUFFIX)))


def _shipped() -> Any:
    return resources.files("scanseg") / "configs" / "suites"


def load_suite(source: str, changes: Sequence[str] = (), *, root: str | None = None) -> Suite:
    """Read a suite.

    Args:
        source: a YAML file, or the name of a shipped suite.
        changes: ``key.key=value`` laid over the file.
        root: folder of every data set that names none, also of the experiment's.

    Raises:
        InputError: no such suite, an unknown key, a value of another type, rows that clash.
    """
    path: Any = Path(source)
    if not path.is_file():
        path = _shipped() / (source.removesuffix(SUFFIX) + SUFFIX)
        if not path.is_file():
            names = shipped_suites()
            raise InputError(
                f"no suite {source!r}{nearest(source, names)}; give a YAML file or one of "
                f"{', '.join(names)}"
            )
    values = read_layers(str(path), Path())
    for change in changes:
        set_value(values, change)
    return parse_suite(values, root=root)


def parse_suite(values: Mapping[str, Any], *, root: str | None = None) -> Suite:
    """The suite of a mapping, checked; see :func:`load_suite`."""
    suite: Suite = build(Suite, dict(values), "")
    if root is not None:
        data = tuple(replace(d, root=d.root or root) for d in suite.data)
        trainer = suite.trainer
        if trainer.kind == "segmenter" and "data.root" not in flat(trainer.set):
            trainer = replace(trainer, set={**flat(trainer.set), "data.root": root})
        suite = replace(suite, data=data, trainer=trainer)
    _check(suite)
    return suite


def _check(suite: Suite) -> None:
    for what in ("rows", "data", "seeds"):
        if not getattr(suite, what):
            raise InputError(f"a suite needs {what}: give at least one")
    names = [row.name for row in suite.rows]
    if not suite.name or not all(names):
        raise InputError("the suite and each of its rows need a name")
    twice = next((name for name, count in Counter(names).items() if count > 1), None)
    if twice is not None:
        raise InputError(f"two rows are called {twice!r}: give each a name of its own")
    if len(set(suite.seeds)) < len(suite.seeds):
        raise InputError(f"a seed occurs twice in {list(suite.seeds)}")
    if suite.baseline and suite.baseline not in names:
        hint = nearest(suite.baseline, names)
        raise InputError(f"baseline {suite.baseline!r} is no row{hint}; there are {names}")
    if suite.table is not None and suite.table not in ABLATIONS:
        raise InputError(f"table must be one of {list(ABLATIONS)}, not {suite.table}")
    for row in suite.rows:
        _check_row(suite, row)
    for data in suite.data:
        if not data.root:
            raise InputError(
                f"data {data.title} has no root: give --root FOLDER, or --set data.0.root=FOLDER"
            )
    trainer = suite.trainer
    if trainer.kind == "segmenter" and not trainer.experiment:
        raise InputError("trainer.experiment must name what scanseg train is to run")
    if trainer.kind == "command" and not trainer.command:
        raise InputError("trainer.command must list the words of a program")
    if "." not in trainer.kind and trainer.kind not in ("segmenter", "none", "command"):
        hint = nearest(trainer.kind, ("segmenter", "none", "command"))
        raise InputError(
            f"trainer.kind {trainer.kind!r}{hint}: segmenter, none, command or a class path"
        )


def _check_row(suite: Suite, row: Row) -> None:
    here = f"row {row.name!r}"
    inference = check_arguments(InferenceSettings, row.inference, f"{here}: inference")
    InferenceSettings().replace(**inference)
    if any(key.startswith("model.inference") for key in flat(row.train)):
        raise InputError(f"{here}: put model.inference under inference, which needs no training")
    if (suite.trainer.kind == "none") != bool(row.model):
        raise InputError(f"{here}: rows name a model if, and only if, trainer.kind is none")
    if row.clip and not (suite.clip.experiment and row.fine_tuned):
        raise InputError(f"{here}: clip needs clip.experiment and fine_tuned")
    if row.paper and suite.table is not None and row.paper not in ABLATIONS[suite.table]:
        rows = list(ABLATIONS[suite.table])
        raise InputError(
            f"{here}: table {suite.table} has no row {row.paper!r}{nearest(row.paper, rows)}; it "
            f"has {'; '.join(rows)}"
        )


def flat(values: Mapping[str, Any], path: str = "") -> dict[str, Any]:
    """Nested mappings as dotted keys: ``{"a": {"b": 1}}`` -> ``{"a.b": 1}``."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        here = f"{path}.{key}" if path else str(key)
        if isinstance(value, dict) and value:
            found.update(flat(value, here))
        else:
            found[here] = value
    return found


def as_changes(*layers: Mapping[str, Any]) -> list[str]:
    """Mappings as ``key.key=value``, later ones last."""
    return [f"{key}={json.dumps(value)}" for layer in layers for key, value in flat(layer).items()]
