"""Fine-tuning the region CLIP: prepare, describe, train, resume, and fuse into a model folder."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from scanseg.contracts import InputError, MissingExtra
from scanseg.encoders.open_clip import OpenClipEncoder
from scanseg.presets import ScanConfig, build, load
from scanseg.segmenter import Segmenter
from scanseg.storage import atomic_write, cache_folder
from scanseg.training.checkpoints import CHECKPOINTS, SETTINGS, CheckpointStore
from scanseg.training.config import Experiment
from scanseg.training.ema import MovingAverage
from scanseg.training.models import StartingPoint, require_clip, starting_model
from scanseg.training.optimizers import parameter_groups
from scanseg.training.pairs import PairFolder
from scanseg.vocabulary.embeddings import TextCache, embed_labels
from scanseg.weights import load_folder, load_into, save_folder

if TYPE_CHECKING:
    from scanseg.training.clip_stage import ClipStage
    from scanseg.training.lightning_parts import Progress

TOWER = "clip"
"""Folder of the fine-tuned tower in that of a run."""
_KIND = "region-clip"
_VISUAL, _TOKEN = "visual.", "learnable_shift"
_NOTICE = """\
# A fine-tuned image tower of CLIP

Made by `scanseg finetune-clip train` (Apache-2.0). The weights keep the terms of the CLIP they
started from and of the photos and captions they learned from.
"""


@dataclass(frozen=True)
class PreparedClip:
    """Everything a run needs, before its first step.

    Attributes:
        experiment: its settings, steps worked out.
        pairs: its data.
        segmenter: the model at the start.
        start: where its weights came from.
        stage: the same in lightning's hands.
    """

    experiment: Experiment
    pairs: PairFolder
    segmenter: Segmenter
    start: StartingPoint
    stage: ClipStage


def prepare_clip(experiment: Experiment, *, describe: bool = False) -> PreparedClip:
    """Open pairs and model.

    Args:
        describe: only to describe the run: the CLIP may be random, and nouns are not read by the
            text tower, which takes minutes for a large CLIP.

    Raises:
        InputError: something is missing or does not fit.
        MissingExtra: lightning is not there.
    """
    if experiment.stage != "clip":
        raise InputError(
            f"stage {experiment.stage!r} is not trained here: scanseg train does that; an "
            "experiment for the region CLIP says stage: clip (clip_tiny, clip_vit_b, clip_vit_l)"
        )
    if experiment.model.preset in ("embedded", "zero_train"):
        raise InputError(
            f"model.preset {experiment.model.preset!r} cannot be fine-tuned: its tower has no "
            "tokens between blocks or no model folder to be put into; take vit_b, vit_l or tiny "
            "(its pairs can be mined by any preset)"
        )
    try:
        from scanseg.training.clip_stage import ClipStage
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] != "lightning":
            raise
        raise MissingExtra("train", "training") from error
    settings, trainer = experiment.clip, experiment.trainer
    if not settings.pairs:
        raise InputError("name the mined pairs: --pairs FOLDER, or clip.pairs in the experiment")
    pairs = PairFolder(settings.pairs)
    if settings.shift_source == "background" and not pairs.has_surroundings:
        raise InputError(
            "shift source 'background' needs the crops without their masks: mine again with "
            "--surroundings"
        )
    if settings.epochs:
        steps = max(1, settings.epochs * len(pairs) // trainer.batch)
        experiment = replace(experiment, trainer=replace(trainer, steps=steps))
    if experiment.model.weights is None and not describe:  # before minutes of building
        require_clip(experiment.model, StartingPoint(None, {}, {"region_clip": 1}))
    segmenter, start = starting_model(experiment.model)
    clip = segmenter.region_clip
    text = torch.zeros(len(pairs.nouns), clip.joint_width)
    if not describe:
        require_clip(experiment.model, start)
        cache = TextCache(cache_folder() / "text", clip.fingerprint, clip.joint_width)
        found = embed_labels(pairs.nouns, segmenter.recipe.templates, clip, cache)
        text = torch.from_numpy(found)
    stage = ClipStage(segmenter, experiment, text)
    return PreparedClip(experiment, pairs, segmenter, start, stage)


def train_clip(
    experiment: Experiment,
    output: str | Path,
    *,
    resume: bool = False,
    progress: Progress | None = None,
) -> Path:
    """Fine-tune, or go on where a run in ``output`` was cut short.

    Args:
        experiment: settings; when resuming, those that change what is computed must be the same.
        output: gets ``experiment.yaml``, ``checkpoints/``, ``log/metrics.csv``, ``losses.png`` and
            ``clip/``, the fine-tuned tower.
        resume: go on from the newest good checkpoint; without one, begin at the beginning.
        progress: told of every step.

    Returns:
        The folder of the tower, for :func:`fuse_clip`.

    Raises:
        InputError: something is missing or does not fit, or ``output`` holds a run and ``resume``
            is off.
    """
    output = Path(output)
    store = CheckpointStore(output / CHECKPOINTS, experiment.checkpoint.keep)
    prepared = prepare_clip(experiment)
    experiment, stage = prepared.experiment, prepared.stage
    from scanseg.training.crop_batches import TrainingCrops, collate_crops
    from scanseg.training.lightning_parts import (
        METRICS,
        Keeper,
        Observer,
        StepLoader,
        begin,
        forget_log_after,
        make_trainer,
    )
    from scanseg.training.pictures import plot_log

    step, checkpoint = begin(experiment, output, store, resume=resume)
    decay = experiment.ema.decay
    average = MovingAverage(stage.trainable(), decay) if decay is not None else None
    trainer = make_trainer(
        experiment, output, store, [Keeper(store, experiment, average), Observer(progress)]
    )
    if trainer.is_global_zero:
        with atomic_write(output / SETTINGS) as file:
            file.write(experiment.to_yaml().encode())
        forget_log_after(output / "log", step)
    settings, clip = experiment.clip, prepared.segmenter.region_clip
    loader = StepLoader(
        TrainingCrops(
            prepared.pairs,
            clip,
            prepared.segmenter.recipe.settings.semantics,
            settings.shift_source == "background",
            experiment.trainer.seed,
        ),
        experiment.trainer,
        collate_crops,
        start=step,
        rank=lambda: trainer.global_rank,
    )
    # also for a run that is complete: its last checkpoint has the weights
    trainer.fit(stage, loader, ckpt_path=None if checkpoint is None else str(checkpoint))
    if trainer.is_global_zero:
        for logger in trainer.loggers:
            logger.save()
        with average.in_place() if average else contextlib.nullcontext():
            save_tower(stage, experiment, len(prepared.pairs), output / TOWER)
        plot_log(output / "log" / METRICS, output / "losses.png")
    return output / TOWER


def describe_clip(prepared: PreparedClip) -> str:
    """What a dry run says: settings, pairs, steps, parameters that train."""
    experiment, trainer = prepared.experiment, prepared.experiment.trainer
    pairs = prepared.pairs
    seen = trainer.steps * trainer.batch
    lines = [
        experiment.to_yaml().rstrip(),
        "",
        f"pairs {pairs.folder}: {len(pairs)}, {len(pairs.nouns)} different nouns",
        f"  {trainer.steps} steps x {trainer.batch} pairs = {seen / len(pairs):.1f} passes",
        f"weights {prepared.start.text()}",
        "what trains",
    ]
    for group in parameter_groups(prepared.stage, experiment.optimizer):
        lines.append(
            f"  {group.name}: {len(group.parameters)} tensors, {group.size:,} numbers, "
            f"rate {group.rate:g}, weight decay {group.decay:g}"
        )
    still = Counter(
        name.split(".")[1]
        for name, p in prepared.stage.named_parameters()
        if not p.requires_grad and "." in name
    )
    lines.append("  frozen: " + ", ".join(f"{part} ({n} tensors)" for part, n in still.items()))
    return "\n".join(lines)


# --------------------------------------------------------------------------------------
# The result
# --------------------------------------------------------------------------------------


def save_tower(stage: ClipStage, experiment: Experiment, pairs: int, folder: Path) -> Path:
    """Write the image tower, the logit scale and the shift token as a folder of its own."""
    segmenter = stage.segmenter
    state = {_VISUAL + name: value for name, value in stage.tower.model.visual.state_dict().items()}
    state["logit_scale"] = stage.logit_scale.detach()
    if experiment.clip.shift_source == "learnable" and segmenter.learnable_shift is not None:
        state[_TOKEN] = segmenter.learnable_shift.detach()
    layers = experiment.clip.shift_layers or segmenter.recipe.shift_layers
    config = {
        "kind": _KIND,
        "preset": segmenter.recipe.name,
        "shift_source": experiment.clip.shift_source,
        "shift_layers": list(layers),
        "pairs": pairs,
        "experiment": experiment.to_dict(),
    }
    return save_folder(folder, state, config, _NOTICE)


def fuse_clip(model: str, tower: str | Path, output: str | Path) -> Path:
    """Put a fine-tuned tower into a model as its region CLIP; the original CLIP stays for SIM.

    The result's settings take the shift source and the layers that the tower was trained with.

    Args:
        model: preset that has weights (``tiny``) or a model folder.
        tower: that :func:`train_clip` wrote, or the folder of its run.
        output: folder of the new model.

    Raises:
        InputError: a folder is none of these, or tower and model do not fit.
    """
    tower, output = Path(tower), Path(output)
    if (tower / TOWER).is_dir():
        tower = tower / TOWER
    config, tensors = load_folder(tower, verify=True)
    if config.get("kind") != _KIND:
        raise InputError(f"{tower} is no fine-tuned CLIP: give the folder of a finetune-clip run")
    for place in (tower, Path(model)):
        if output.resolve() == place.resolve():
            raise InputError(f"{output} is what the new model is made from: give another --output")
    base = load(model, device="cpu")
    if not isinstance(base.config, ScanConfig) or not isinstance(base.region_clip, OpenClipEncoder):
        raise InputError(f"{model} takes no fine-tuned CLIP: give a model of vit_b, vit_l or tiny")
    has_token = _TOKEN in tensors
    recipe = replace(
        base.recipe,
        settings=base.recipe.settings.replace(shift_source=config["shift_source"]),
        shift_layers=tuple(config["shift_layers"]),
    )
    made = replace(
        base.config, same_clip=False, learnable_shift=has_token, recipe=recipe, seed=None
    )
    fused = build(made)
    load_into(fused, _fused_state(base, tensors, has_token), source=f"{model} with {tower}")
    return fused.save_pretrained(output)


def _fused_state(base: Segmenter, tensors: Any, has_token: bool) -> Mapping[str, torch.Tensor]:
    """The state of the base model, one tower and perhaps one token exchanged."""
    region = "region_clip.model."
    state = dict(base.state_dict())
    state.pop(_TOKEN, None)
    if base.region_clip is base.clip:  # the original gets a copy without the text tower
        state = {
            name: value
            for name, value in state.items()
            if not name.startswith("clip.model.") or name.startswith("clip.model.visual.")
        }
    for name in tensors:
        if name.startswith(_VISUAL) or name == "logit_scale":
            state[region + name] = tensors[name]
    if has_token:
        state[_TOKEN] = tensors[_TOKEN]
    return state
