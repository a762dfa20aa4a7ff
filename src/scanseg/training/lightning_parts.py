"""What both stages plug into lightning's Trainer: checkpoints, moving average, log, progress."""

from __future__ import annotations

import csv
import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.fabric.plugins import CheckpointIO
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only
from torch.utils.data import DataLoader

from scanseg.contracts import InputError
from scanseg.storage import atomic_write
from scanseg.training.checkpoints import SETTINGS, CheckpointStore, restore_rng, rng_state
from scanseg.training.config import Experiment, TrainerConfig
from scanseg.training.ema import MovingAverage
from scanseg.training.optimizers import gradient_norm
from scanseg.training.order import Batches, grouped

Progress = Callable[[int, int, float], None]
"""Called after a step with its number, the number of all, and the loss."""

METRICS = "metrics.csv"
_MAY_CHANGE = (
    ("trainer", "workers"),
    ("trainer", "devices"),
    ("trainer", "nodes"),
    ("trainer", "accumulate"),
    ("trainer", "accelerator"),
    ("trainer", "log_every"),
    ("trainer", "tensorboard"),
    ("checkpoint",),
    ("evaluation",),
    ("name",),
)
"""Settings that may differ when a run is resumed; they do not change what is computed.

In the CLIP stage ``accumulate`` does: the pairs of a part are each other's negatives.
"""


class StepLoader:
    """Batches from a step to the end; each knows the masks of its whole step (one iteration).

    Args:
        photos: data set by position.
        trainer: steps, sizes, workers.
        collate: photos -> a batch.
        start: optimiser steps that are behind.
        rank: number of this process, asked when iteration starts.
    """

    def __init__(
        self,
        photos: Any,
        trainer: TrainerConfig,
        collate: Callable[[Any], Any],
        *,
        start: int = 0,
        rank: Callable[[], int] = lambda: 0,
    ) -> None:
        self.photos, self.trainer, self.collate = photos, trainer, collate
        self.start, self.rank = start, rank

    def __iter__(self) -> Iterator[Any]:
        loader = DataLoader(
            self.photos,
            batch_sampler=Batches(self.trainer, self.start, self.rank()),
            collate_fn=self.collate,
            num_workers=self.trainer.workers,
            pin_memory=torch.cuda.is_available(),
        )
        for step in grouped(iter(loader), self.trainer.accumulate):
            mean = sum(batch.masks for batch in step) / len(step)
            for batch in step:
                yield replace(batch, masks_per_batch=mean)


class StoreIO(CheckpointIO):
    """Lightning's checkpoints through a :class:`CheckpointStore`."""

    def __init__(self, store: CheckpointStore) -> None:
        self.store = store

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None
    ) -> None:
        """Write it under its step; ``path`` is not used."""
        self.store.write(int(checkpoint["global_step"]), checkpoint)

    def load_checkpoint(
        self, path: Any, map_location: Any = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Read a checkpoint onto the CPU."""
        found = self.store.read(Path(path))
        assert found is not None
        return found

    def remove_checkpoint(self, path: Any) -> None:
        """The store removes old ones itself."""


class Keeper(Callback):
    """Checkpoints every so many steps, with everything that a run needs to go on.

    Args:
        store: where.
        experiment: settings; stored, and compared when a run is resumed.
        average: moving average, if there is one.
    """

    def __init__(
        self, store: CheckpointStore, experiment: Experiment, average: MovingAverage | None
    ) -> None:
        self.store, self.experiment, self.average = store, experiment, average
        self._generators: list[dict[str, Any]] = []
        self._step = 0

    def on_save_checkpoint(
        self, trainer: Trainer, module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Add generators of all ranks, averages, position in the data, settings."""
        mine: list[Any] = [rng_state()]
        if trainer.world_size > 1:
            mine = [None] * trainer.world_size
            torch.distributed.all_gather_object(mine, rng_state())
        checkpoint["scanseg"] = {
            "generators": mine,
            "average": self.average.values if self.average else {},
            "position": trainer.global_step * self.experiment.trainer.batch,
            "experiment": self.experiment.to_dict(),
        }

    def on_load_checkpoint(
        self, trainer: Trainer, module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Take back what was added, and count batches as this run does."""
        count_parts(checkpoint, self.experiment.trainer.accumulate)
        stored = checkpoint["scanseg"]
        self._generators = stored["generators"]
        if self.average is not None:
            self.average.load(stored["average"])

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        """Put the generators back, where there are as many processes as before."""
        self._step = trainer.global_step
        if len(self._generators) == trainer.world_size:
            restore_rng(self._generators[trainer.global_rank])

    def on_train_batch_end(
        self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """After each optimiser step: average, and save if it is time."""
        if trainer.global_step == self._step:
            return  # a part of a step
        self._step = trainer.global_step
        if self.average is not None:
            self.average.update()
        due = self._step % self.experiment.checkpoint.every == 0
        if due or self._step == self.experiment.trainer.steps:
            trainer.save_checkpoint(self.store.folder / "by_step")  # StoreIO names it


def count_parts(checkpoint: Mapping[str, Any], accumulate: int) -> None:
    """Count a checkpoint's batches as if each step so far had had ``accumulate`` parts.

    Lightning ends a step where ``accumulate`` divides the number of batches, those before the
    checkpoint included. The last batch was not completed when the checkpoint was made.
    """
    batches = int(checkpoint["global_step"]) * accumulate
    progress = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]
    for counts in (progress["total"], progress["current"]):
        counts.update(ready=batches, started=batches, processed=batches, completed=batches - 1)


class Observer(Callback):
    """Logs gradient norm and learning rate, and tells the caller how far it is."""

    def __init__(self, progress: Progress | None) -> None:
        self.progress = progress

    def on_before_optimizer_step(
        self, trainer: Trainer, module: LightningModule, optimizer: Any
    ) -> None:
        """Norm before clipping."""
        parameters = [p for p in module.parameters() if p.requires_grad]
        module.log("gradient_norm", gradient_norm(parameters))
        module.log("rate", float(optimizer.param_groups[0]["lr"]))

    def on_train_batch_end(
        self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Report on rank 0."""
        if self.progress is not None and trainer.is_global_zero:
            total = int(trainer.max_steps)
            self.progress(trainer.global_step, total, float(outputs["loss"]))


def is_first_process() -> bool:
    """Whether this process is rank 0, by what launchers put in its environment."""
    return int(getattr(rank_zero_only, "rank", None) or 0) == 0


def make_trainer(
    experiment: Experiment, output: Path, store: CheckpointStore, callbacks: list[Callback]
) -> Trainer:
    """Lightning's Trainer for an experiment; whatever it logs goes to ``output``."""
    for name in ("lightning.pytorch", "lightning.fabric"):  # remarks nobody can act on
        logging.getLogger(name).setLevel(logging.WARNING)
    config = experiment.trainer
    loggers: list[Any] = [
        CSVLogger(output, name="", version="log", flush_logs_every_n_steps=config.log_every)
    ]
    loggers[0].LOGGER_JOIN_CHAR = "-"
    if is_first_process():
        _keep_rows(loggers[0], output / "log" / METRICS)
    if config.tensorboard:
        loggers.append(TensorBoardLogger(output, name="", version="log"))
    return Trainer(
        accelerator=config.accelerator,
        devices=config.devices,
        num_nodes=config.nodes,
        strategy="ddp" if config.devices * config.nodes > 1 else "auto",
        precision=config.precision,
        max_steps=config.steps,
        max_epochs=-1,
        accumulate_grad_batches=config.accumulate,
        gradient_clip_val=experiment.optimizer.clip_norm,
        gradient_clip_algorithm="norm",
        logger=loggers,
        log_every_n_steps=config.log_every,
        callbacks=callbacks,
        plugins=[StoreIO(store)],
        use_distributed_sampler=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=output,
    )


def _keep_rows(logger: CSVLogger, path: Path) -> None:
    """Start a logger, which removes the file of an earlier run, and put that file back."""
    rows = path.read_bytes() if path.is_file() else b""
    _ = logger.experiment
    if rows:
        with atomic_write(path) as file:
            file.write(rows)


def begin(
    experiment: Experiment, output: Path, store: CheckpointStore, *, resume: bool
) -> tuple[int, Path | None]:
    """Where a run starts: its step, and the checkpoint to go on from.

    Raises:
        InputError: ``output`` holds a run and ``resume`` is off, or that run had other settings.
    """
    taken = bool(store.steps()) or (output / SETTINGS).exists()
    if taken and not resume and is_first_process():  # the first one may have begun to write
        raise InputError(
            f"{output} already holds a run: --resume goes on with it, or choose another"
        )
    step, checkpoint = next(store.good(), (0, None)) if resume else (0, None)
    if checkpoint is not None:
        state = store.read(checkpoint)
        assert state is not None
        refuse_other_settings(experiment, state["scanseg"]["experiment"])
    return step, checkpoint


def refuse_other_settings(experiment: Experiment, stored: Mapping[str, Any]) -> None:
    """A run goes on with the settings it began with.

    Raises:
        InputError: one that changes what is computed differs; the message names it.
    """
    ours, theirs = (_flat(_without(s)) for s in (experiment.to_dict(), stored))
    for key in sorted(ours.keys() | theirs.keys()):
        if ours.get(key) != theirs.get(key):
            raise InputError(
                f"the run to resume has {key} = {theirs.get(key)!r}, not {ours.get(key)!r}; "
                "resume with its settings, or train into another --output"
            )


def _without(settings: Mapping[str, Any]) -> dict[str, Any]:
    kept = {k: dict(v) if isinstance(v, dict) else v for k, v in settings.items()}
    for path in _MAY_CHANGE:
        if path[-1] == "accumulate" and kept.get("stage") == "clip":
            continue
        place = kept if len(path) == 1 else kept[path[0]]
        place.pop(path[-1], None)
    return kept


def _flat(values: Any, path: str = "") -> dict[str, Any]:
    if not isinstance(values, (dict, list)) or not values:
        return {path: values}
    items = values.items() if isinstance(values, dict) else enumerate(values)
    found: dict[str, Any] = {}
    for key, value in items:
        found.update(_flat(value, f"{path}.{key}" if path else str(key)))
    return found


def forget_log_after(folder: Path, step: int) -> None:
    """Drop rows of the CSV log from ``step`` on: a resumed run writes them again."""
    path = folder / METRICS
    rows = read_log(path)
    if not rows:
        return
    names = list(dict.fromkeys(name for row in rows for name in row))
    with atomic_write(path) as file:
        lines = [names] + [
            [row.get(name, "") for name in names] for row in rows if int(row["step"]) < step
        ]
        file.write("".join(",".join(line) + "\n" for line in lines).encode())


def read_log(path: Path) -> list[dict[str, str]]:
    """Rows of a CSV log by step; half-written ones are left out."""
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        rows = [r for r in csv.DictReader(file) if (r.get("step") or "").isdecimal()]
    return [{k: v for k, v in r.items() if k and v is not None} for r in rows if None not in r]
