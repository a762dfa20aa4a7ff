"""One training run from an experiment: prepare, describe, train, resume."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from scanseg.contracts import InputError, MissingExtra
from scanseg.fusion import TermOwners
from scanseg.segmenter import Segmenter
from scanseg.storage import atomic_write
from scanseg.training.checkpoints import CHECKPOINTS, SETTINGS, CheckpointStore
from scanseg.training.config import Experiment
from scanseg.training.crops import Sources, TrainingPhotos, collate, open_sources
from scanseg.training.ema import MovingAverage
from scanseg.training.models import StartingPoint, require_clip, starting_model
from scanseg.training.optimizers import Group, parameter_groups

if TYPE_CHECKING:
    from scanseg.training.lightning_parts import Progress
    from scanseg.training.segmenter_stage import SegmenterStage


@dataclass(frozen=True)
class Prepared:
    """Everything a run needs, before its first step.

    Attributes:
        experiment: its settings.
        sources: its data.
        segmenter: the model, its weights as they are at the start.
        start: where these came from.
        stage: the same in lightning's hands.
    """

    experiment: Experiment
    sources: Sources
    segmenter: Segmenter
    start: StartingPoint
    stage: SegmenterStage

    @property
    def groups(self) -> list[Group]:
        """Parameters that train, in groups."""
        return parameter_groups(self.stage, self.experiment.optimizer)


def prepare(experiment: Experiment, *, encode: bool = True) -> Prepared:
    """Open data and model.

    Args:
        encode: read the words with the text tower; without, their embeddings are zeros, which is
            enough to describe a run and saves minutes for a large CLIP.

    Raises:
        InputError: something is missing or does not fit.
        MissingExtra: lightning is not there.
    """
    if experiment.stage != "segmenter":
        raise InputError(
            f"stage {experiment.stage!r} is not trained here: scanseg finetune-clip train does that"
        )
    try:
        from scanseg.training.segmenter_stage import SegmenterStage
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] != "lightning":
            raise
        raise MissingExtra("train", "training") from error
    sources = open_sources(experiment.data)
    segmenter, start = starting_model(experiment.model)
    if encode:
        text, owners = segmenter.encode(list(sources.words))
    else:
        K = len(sources.words)
        text, owners = torch.zeros(K, segmenter.clip.joint_width), TermOwners(torch.arange(K), K)
    stage = SegmenterStage(segmenter, experiment, text, owners, sources.candidates, experiment.data)
    return Prepared(experiment, sources, segmenter, start, stage)


def train(
    experiment: Experiment,
    output: str | Path,
    *,
    resume: bool = False,
    progress: Progress | None = None,
) -> Path:
    """Train, or go on where a run in ``output`` was cut short.

    Args:
        experiment: settings; when resuming, those that change what is computed must be the same.
        output: gets ``experiment.yaml``, ``checkpoints/``, ``log/metrics.csv``, ``losses.png``,
            ``evaluations.csv``, ``overlays/``, ``model/`` and, at the end, ``finished.json``.
        resume: go on from the newest good checkpoint; without one, begin at the beginning.
        progress: told of every step.

    Returns:
        The model folder, for ``Segmenter.from_pretrained``.

    Raises:
        InputError: something is missing or does not fit, or ``output`` holds a run and ``resume``
            is off.
    """
    output = Path(output)
    store = CheckpointStore(output / CHECKPOINTS, experiment.checkpoint.keep)
    prepared = prepare(experiment)
    require_clip(experiment.model, prepared.start)
    from scanseg.training.lightning_parts import (
        Keeper,
        Observer,
        StepLoader,
        begin,
        forget_log_after,
        make_trainer,
    )
    from scanseg.training.validation import FINISHED, MODEL, Validation

    steps = experiment.trainer.steps
    step, checkpoint = begin(experiment, output, store, resume=resume)
    stage = prepared.stage
    decay = experiment.ema.decay
    average = MovingAverage(stage.trainable(), decay) if decay is not None else None
    validation = Validation(
        prepared.segmenter,
        experiment.evaluation,
        experiment.data[0],
        steps=steps,
        output=output,
        average=average,
    )
    keeper = Keeper(store, experiment, average)
    trainer = make_trainer(experiment, output, store, [keeper, Observer(progress), validation])
    if trainer.is_global_zero:
        with atomic_write(output / SETTINGS) as file:
            file.write(experiment.to_yaml().encode())
        forget_log_after(output / "log", step)
        if step < steps:
            (output / FINISHED).unlink(missing_ok=True)
    loader = StepLoader(
        TrainingPhotos(prepared.sources, experiment.augmentation, experiment.trainer.seed),
        experiment.trainer,
        collate,
        start=step,
        rank=lambda: trainer.global_rank,
    )
    if step < steps or not validation.finished:
        trainer.fit(stage, loader, ckpt_path=None if checkpoint is None else str(checkpoint))
    if step == steps and trainer.is_global_zero and not validation.finished:
        # killed between the last checkpoint and the end of the last look
        prepared.segmenter.to(trainer.strategy.root_device)
        validation.look(steps)
    return output / MODEL


def describe(prepared: Prepared, *, names: bool = True) -> str:
    """What a dry run says: settings, data, words, parameters that train, memory.

    Args:
        names: list every trainable parameter.
    """
    experiment, trainer = prepared.experiment, prepared.experiment.trainer
    lines = [experiment.to_yaml().rstrip(), "", "data"]
    for part in prepared.sources.parts:
        weight = f", {part.config.weight:g} visits per pass" if part.config.weight != 1 else ""
        lines.append(
            f"  {part.photos.name} {part.photos.split}: {len(part.photos)} photos, "
            f"{part.photos.classes} classes{weight}"
        )
    order = prepared.sources.order(trainer.seed)
    seen = trainer.steps * trainer.batch
    lines += [
        f"  {len(prepared.sources.words)} words in all",
        f"  {trainer.steps} steps x {trainer.batch} photos = {seen} crops, "
        f"{seen / order.pass_length:.1f} passes; {trainer.micro_batch} at once",
        "",
        f"weights {prepared.start.text()}",
        "",
        "what trains",
    ]
    for group in prepared.groups:
        lines.append(
            f"  {group.name}: {len(group.parameters)} tensors, {group.size:,} numbers, "
            f"rate {group.rate:g}, weight decay {group.decay:g}"
        )
        if names:
            lines += [f"    {name}" for name in group.names]
    frozen = Counter(
        name.split(".")[1] for name, p in prepared.stage.named_parameters() if not p.requires_grad
    )
    lines.append("  frozen: " + ", ".join(f"{part} ({n} tensors)" for part, n in frozen.items()))
    from scanseg.training.memory import estimate

    lines += ["", "memory of one device, estimated", *estimate(prepared.stage, experiment).lines()]
    return "\n".join(lines)
