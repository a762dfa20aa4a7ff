"""Experiments: typed settings of both training stages, read from YAML that states differences only.

An experiment file may begin with ``extends: NAME``, another file beside it or one that scanseg
ships; what it says itself is laid over that, mapping by mapping (lists are replaced). Whatever no
file mentions has the default below. Every key is checked: an unknown one is an error that names the
nearest known one and the place, and so is a value of another type.

>>> load_experiment("tiny", ["trainer.steps=10", "data.root=photos"])    # doctest: +SKIP
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from scanseg.calibration.semantic_integration import SemanticIntegrationConfig
from scanseg.contracts import InferenceSettings, InputError, ShiftSource
from scanseg.recipe import Resize
from scanseg.training.losses import LossSettings
from scanseg.training.typed_values import build, check_arguments
from scanseg.training.yaml_layers import read_layers, set_value

# --------------------------------------------------------------------------------------
# What an experiment may say
# --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ModelConfig:
    """The model to train, as differences from a preset.

    Args:
        preset: ``vit_b``, ``vit_l`` or ``tiny``.
        weights: model folder to start from: a whole model, or the converted CLIP and Swin that
            ``scanseg convert`` wrote; parts it lacks start at random. ``None``: all at random.
        sim: with semantic integration (table 3).
        integration: changes to ``SemanticIntegrationConfig`` (tables 4 and 5).
        proposals: changes to the arguments of ``Mask2FormerProposals``.
        inference: changes to the ``InferenceSettings`` saved with the model, which evaluation uses
            (tables 3, 6, 7, 8).
        resize: changes to the size at which photos are evaluated.
        shift_layers: blocks of contextual shift; empty: the preset's.
        seed: of the random weights.
    """

    preset: str = "vit_b"
    weights: str | None = None
    sim: bool = True
    integration: dict[str, Any] = field(default_factory=dict)
    proposals: dict[str, Any] = field(default_factory=dict)
    inference: dict[str, Any] = field(default_factory=dict)
    resize: dict[str, Any] = field(default_factory=dict)
    shift_layers: tuple[int, ...] = ()
    seed: int = 0


@dataclass(frozen=True)
class DataConfig:
    """A data set to train or evaluate on.

    Args:
        name: as for ``scanseg evaluate`` (``coco_stuff``, ``folder``, ...), or a class path.
        root: its folder.
        split: empty: the data set's default.
        weight: how often a pass over the data visits each photo; a fraction visits some.
        unlabelled: pixels without a label are in no mask and so teach "outside" (``background``,
            as released), or count for nothing (``ignored``).
        exhaustive: everything in a photo is labelled; if not, queries without a mask are not taught
            that they saw nothing.
        limit: the first so many photos only; ``None``: all.
    """

    name: str = "folder"
    root: str = ""
    split: str = ""
    weight: float = 1.0
    unlabelled: Literal["background", "ignored"] = "background"
    exhaustive: bool = True
    limit: int | None = None

    def __post_init__(self) -> None:
        if self.weight <= 0:
            raise InputError(f"weight must be above 0, not {self.weight!r}")


@dataclass(frozen=True)
class OptimizerConfig:
    """AdamW with parameter groups.

    Args:
        rate: base learning rate.
        backbone_factor: times the base rate, for the backbone.
        weight_decay: of matrices; norms, embeddings and relative position tables have none, nor has
            anything of one dimension if ``decay_vectors`` is off.
        decay_vectors: whether biases and other vectors decay (released segmentation stage: yes;
            CLIP stage: no).
        betas: of AdamW.
        eps: of AdamW.
        clip_norm: bound on the gradient norm of the whole model; ``None``: none.
    """

    rate: float = 6e-5
    backbone_factor: float = 1.0
    weight_decay: float = 0.01
    decay_vectors: bool = True
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    clip_norm: float | None = 0.01

    def __post_init__(self) -> None:
        for name in ("rate", "backbone_factor", "weight_decay", "eps"):
            value = getattr(self, name)
            if not 0 <= value < math.inf:
                raise InputError(f"{name} must be at least 0, not {value!r}")
        if not all(0 <= beta < 1 for beta in self.betas):
            raise InputError(f"betas must lie in [0, 1), not {self.betas!r}")
        if self.clip_norm is not None and not 0 < self.clip_norm < math.inf:
            raise InputError(f"clip_norm must be above 0, not {self.clip_norm!r}")


@dataclass(frozen=True)
class ScheduleConfig:
    """Factor of the learning rate over the steps.

    Args:
        kind: after the warm-up: ``poly`` (1 - t)^power down to ``end``, ``cosine``, ``constant``.
        warmup_steps: steps of the linear warm-up.
        warmup_start: factor at step 0.
        power: of ``poly``.
        end: factor at the last step.
    """

    kind: Literal["poly", "cosine", "constant"] = "poly"
    warmup_steps: int = 1500
    warmup_start: float = 1e-6
    power: float = 0.9
    end: float = 0.0

    def __post_init__(self) -> None:
        if self.warmup_steps < 0:
            raise InputError(f"warmup_steps must be at least 0, not {self.warmup_steps}")
        for name in ("warmup_start", "end", "power"):
            value = getattr(self, name)
            if not 0 <= value < math.inf:
                raise InputError(f"{name} must be at least 0, not {value!r}")


@dataclass(frozen=True)
class AugmentationConfig:
    """What happens to a photo before it is learned from (released settings).

    Args:
        short_min: least short side after resizing, pixels.
        short_max: largest.
        short_step: distance of the sizes in between.
        longest: bound on the long side; it wins over the short side.
        crop: side of the square crop.
        colour: SSD's colour jitter.
        flip: probability of a left-right flip.
        pad: value of pixels beyond the photo where it is smaller than the crop.
    """

    short_min: int = 320
    short_max: int = 1280
    short_step: int = 64
    longest: int = 2560
    crop: int = 640
    colour: bool = True
    flip: float = 0.5
    pad: int = 128

    def __post_init__(self) -> None:
        if not 1 <= self.short_min <= self.short_max or self.short_step < 1:
            raise InputError("sizes must satisfy 1 <= short_min <= short_max and short_step >= 1")
        if self.crop < 32 or self.crop % 32:
            raise InputError(f"crop must be a multiple of 32, not {self.crop}")
        if not 0 <= self.flip <= 1 or not 0 <= self.pad <= 255:
            raise InputError("flip must lie in [0, 1] and pad in [0, 255]")


@dataclass(frozen=True)
class TrainerConfig:
    """Steps and machines.

    Args:
        steps: optimiser steps.
        batch: photos per optimiser step, over all devices and accumulation.
        accumulate: parts a device's share of a batch goes through in.
        precision: lightning's: ``32-true``, ``64-true``, ``bf16-mixed``, ``16-mixed``.
        accelerator: lightning's: ``auto``, ``cpu``, ``gpu``, ``mps``.
        devices: per node.
        nodes: how many.
        workers: processes that prepare photos, per device; never changes the order of the data.
        seed: of data order, augmentation, sampled points and dropout.
        log_every: steps between rows of the log.
        tensorboard: log for TensorBoard too.
    """

    steps: int = 120_000
    batch: int = 32
    accumulate: int = 1
    precision: Literal["32-true", "bf16-mixed", "16-mixed", "64-true"] = "32-true"
    accelerator: Literal["auto", "cpu", "gpu", "mps"] = "auto"
    devices: int = 1
    nodes: int = 1
    workers: int = 4
    seed: int = 0
    log_every: int = 20
    tensorboard: bool = False

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "accumulate", "devices", "nodes", "log_every"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be at least 1, not {getattr(self, name)}")
        parts = self.devices * self.nodes * self.accumulate
        if self.batch % parts:
            raise InputError(
                f"batch {self.batch} does not divide into {self.nodes} nodes x {self.devices} "
                f"devices x {self.accumulate} parts; choose a multiple of {parts}"
            )

    @property
    def micro_batch(self) -> int:
        """Photos that go through one device at once."""
        return self.batch // (self.devices * self.nodes * self.accumulate)


@dataclass(frozen=True)
class CheckpointConfig:
    """Args: ``every``: steps between checkpoints; ``keep``: how many good ones stay."""

    every: int = 1000
    keep: int = 2

    def __post_init__(self) -> None:
        if self.every < 1 or self.keep < 1:
            raise InputError("every and keep must be at least 1")


@dataclass(frozen=True)
class EmaConfig:
    """A moving average of the weights, evaluated and saved in their place.

    Args:
        decay: per step, in (0, 1); ``None`` switches it off (as released).
    """

    decay: float | None = None

    def __post_init__(self) -> None:
        if self.decay is not None and not 0 < self.decay < 1:
            raise InputError(f"decay must lie in (0, 1), not {self.decay!r}")


@dataclass(frozen=True)
class EvaluationConfig:
    """Scores and pictures on the way.

    Args:
        every: steps between evaluations; one at the end in any case. 0: none at all.
        data: what to evaluate on; without a root, the training data.
        images: how many of its photos.
        overlays: how many of them on the sheet of pictures.
    """

    every: int = 5000
    data: DataConfig = field(default_factory=DataConfig)
    images: int = 100
    overlays: int = 6


@dataclass(frozen=True)
class ClipStageConfig:
    """What only the CLIP stage needs (released settings).

    Args:
        pairs: folder of the mined masked crops and nouns.
        epochs: passes over the pairs, in place of ``trainer.steps``; 0: as many steps as that says.
        shift_source: what replaces background tokens while training (table 6); ``none``: no shift.
        shift_ratio: share of the background tokens.
        shift_layers: after which blocks; empty: the preset's.
        train_scale: train the logit scale.
        scale_cap: its bound.
    """

    pairs: str = ""
    epochs: int = 0
    shift_source: ShiftSource = "cls"
    shift_ratio: float = 0.15
    shift_layers: tuple[int, ...] = ()
    train_scale: bool = True
    scale_cap: float = 100.0

    def __post_init__(self) -> None:
        if self.epochs < 0 or self.scale_cap < 1 or not 0 <= self.shift_ratio <= 1:
            raise InputError("epochs >= 0, scale_cap >= 1 and shift_ratio in [0, 1] are needed")


@dataclass(frozen=True)
class Experiment:
    """One training run; both stages share it.

    Args:
        name: for people.
        stage: ``segmenter`` (SIM and proposals) or ``clip`` (the region CLIP).
        model: what to train.
        data: what to train on.
        optimizer: steps in weight space.
        schedule: of the learning rate.
        augmentation: of the photos.
        loss: weights and sampling of the criterion.
        trainer: steps and machines.
        checkpoint: how often.
        ema: moving average.
        evaluation: on the way.
        clip: for the CLIP stage.
    """

    name: str = ""
    stage: Literal["segmenter", "clip"] = "segmenter"
    model: ModelConfig = field(default_factory=ModelConfig)
    data: tuple[DataConfig, ...] = ()
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    augmentation: AugmentationConfig = field(default_factory=AugmentationConfig)
    loss: LossSettings = field(default_factory=LossSettings)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    ema: EmaConfig = field(default_factory=EmaConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    clip: ClipStageConfig = field(default_factory=ClipStageConfig)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, all defaults filled in."""
        return _plain(asdict(self))

    def to_yaml(self) -> str:
        """The resolved experiment as a file that :func:`load_experiment` reads back."""
        import yaml

        return yaml.safe_dump(self.to_dict(), sort_keys=False, allow_unicode=True)


# --------------------------------------------------------------------------------------
# From YAML
# --------------------------------------------------------------------------------------


def load_experiment(source: str | Path, changes: Sequence[str] = ()) -> Experiment:
    """Read an experiment.

    Args:
        source: a YAML file, or the name of a shipped experiment.
        changes: ``a.b=value`` (YAML values) laid over the file. In a list of mappings, as ``data``
            is, ``data.0.root=...`` means the first and ``data.root=...`` all of them.

    Raises:
        InputError: no such file, not YAML, an unknown key or a value of another type; the message
            has the full path of the key.
    """
    values = read_layers(str(source), Path())
    for change in changes:
        set_value(values, change)
    return parse_experiment(values)


def parse_experiment(values: Mapping[str, Any]) -> Experiment:
    """The experiment of a mapping, checked; see :func:`load_experiment`."""
    for name, target in _changeable().items():
        model = values.get("model")
        if isinstance(model, dict) and name in model:
            model = {**model, name: check_arguments(target, model[name], f"model.{name}")}
            values = {**values, "model": model}
    found: Experiment = build(Experiment, dict(values), "")
    return found


def _changeable() -> Mapping[str, Any]:
    """Settings of ``model`` that are arguments of a class."""
    from scanseg.proposals.mask2former import Mask2FormerProposals

    return {
        "integration": SemanticIntegrationConfig,
        "proposals": Mask2FormerProposals,
        "inference": InferenceSettings,
        "resize": Resize,
    }


def _plain(value: Any) -> Any:
    """Tuples as lists, for YAML."""
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items()}
    return [_plain(entry) for entry in value] if isinstance(value, (list, tuple)) else value
