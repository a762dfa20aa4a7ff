"""The model that an experiment trains: a preset with changes, and the weights it starts from."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from scanseg.calibration.semantic_integration import SemanticIntegrationConfig
from scanseg.contracts import InputError
from scanseg.presets import SCAN_PRESETS, ScanConfig, build
from scanseg.segmenter import Segmenter
from scanseg.training.config import ModelConfig
from scanseg.weights import PARTS, load_folder, load_into, resolve_folder

_BY_SEMANTICS = (
    "lfe_convolutions",
    "token_projection",
    "attention_layers",
    "attention_residual",
    "encoder_layers",
    "proposals_interact",
)
"""Fields of SIM's configuration whose defaults follow its semantics."""


@dataclass(frozen=True)
class StartingPoint:
    """Where the weights of a model came from.

    Attributes:
        folder: that they were read from; ``None``: all random.
        read: part of the model -> tensors read.
        random: part of the model -> tensors at their random start.
    """

    folder: Path | None
    read: dict[str, int]
    random: dict[str, int]

    def text(self) -> str:
        """A line for people."""
        origin = f"from {self.folder}" if self.folder else "all at random"
        parts = [f"{count} {part} read" for part, count in self.read.items()]
        parts += [f"{count} {part} random" for part, count in self.random.items()]
        return f"{origin}: {', '.join(parts)}" if parts else origin


def scan_config(model: ModelConfig) -> ScanConfig:
    """The preset's configuration with the experiment's changes.

    Raises:
        InputError: no such preset, or a change is out of range.
    """
    if model.preset not in SCAN_PRESETS:
        raise InputError(
            f"model.preset must be one of {', '.join(SCAN_PRESETS)}, not {model.preset!r}; to go "
            "on from a folder give its preset and model.weights"
        )
    base = SCAN_PRESETS[model.preset]()
    integration = _integration(base.integration, model) if model.sim else None
    recipe = replace(
        base.recipe,
        settings=base.recipe.settings.replace(**model.inference),
        resize=replace(base.recipe.resize, **model.resize),
        shift_layers=model.shift_layers or base.recipe.shift_layers,
        token_layers=integration.layers if integration is not None else (),
    )
    proposals = {**base.proposals, **model.proposals}
    return replace(
        base, proposals=proposals, integration=integration, recipe=recipe, seed=model.seed
    )


def _integration(
    base: SemanticIntegrationConfig | None, model: ModelConfig
) -> SemanticIntegrationConfig:
    values = asdict(base) if base is not None else {}
    if "semantics" in model.integration:
        values.update(dict.fromkeys(_BY_SEMANTICS))
    return SemanticIntegrationConfig(**{**values, **model.integration})


def starting_model(model: ModelConfig) -> tuple[Segmenter, StartingPoint]:
    """The model to train, with its first weights.

    Parts that the folder lacks keep their seeded random start; a part is never filled by half.

    Raises:
        InputError: as :func:`scan_config`, or the folder's weights do not fit the model.
    """
    segmenter = build(scan_config(model), for_training=True)
    names = list(segmenter.state_dict())
    if model.weights is None:
        return segmenter, StartingPoint(None, {}, _by_part(names))
    folder = resolve_folder(model.weights)
    _, tensors = load_folder(folder)
    lacking = [name for name in names if name not in tensors]
    free = _whole_parts(lacking, names)
    load_into(segmenter, tensors, source=str(folder), may_miss=free)
    read = [name for name in names if name in tensors]
    return segmenter, StartingPoint(folder, _by_part(read), _by_part(lacking))


def _whole_parts(lacking: list[str], names: list[str]) -> tuple[str, ...]:
    """Beginnings of names that may be missing: parts of which the folder has nothing at all.

    A Swin backbone alone is part of the proposals, so these are looked at one level deeper.
    """
    backbone = "proposals.model.pixel_level_module.encoder."
    absent = set(lacking)
    parts = [[n for n in names if n.startswith(p)] for p in PARTS if p != "proposals."]
    parts.append([n for n in names if n.startswith(backbone)])
    parts.append([n for n in names if n.startswith("proposals.") and not n.startswith(backbone)])
    return tuple(name for part in parts if absent.issuperset(part) for name in part)


def _by_part(names: list[str]) -> dict[str, int]:
    found = Counter(next(p for p in PARTS if n.startswith(p)).rstrip(".") for n in names)
    return dict(found)


def require_clip(model: ModelConfig, start: StartingPoint) -> None:
    """Refuse to train a full-size model on top of a CLIP that knows nothing.

    Raises:
        InputError: the words or the photos would be read by a random CLIP.
    """
    if model.preset != "tiny" and {"clip", "region_clip"} & start.random.keys():
        raise InputError(
            f"{model.preset} starts from a trained CLIP and Swin: scanseg convert "
            "CLIP.safetensors SWIN.safetensors --output FOLDER, then --set model.weights=FOLDER"
        )
