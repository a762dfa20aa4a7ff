"""Frozen configurations, and the only place that chooses classes.

========== ==================================================================== ===============
preset     parts                                                                weights
========== ==================================================================== ===============
embedded   EfficientNet-Lite0 + MiniLM (ConSE), superpixels, trained dense head in the wheel
vit_b      Swin-B Mask2Former, CLIP ViT-B/16, SIM, contextual shift             a user's folder
vit_l      Swin-B Mask2Former, CLIP ViT-L/14, SIM, contextual shift             a user's folder
zero_train COCO-panoptic Mask2Former, CLIP ViT-L/14, contextual shift, no SIM   hub, or folders
tiny       the parts of vit_b, very small                                       random, seeded
========== ==================================================================== ===============
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field, replace
from importlib import import_module
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from scanseg.calibration.semantic_integration import SemanticIntegration, SemanticIntegrationConfig
from scanseg.contracts import InferenceSettings, InputError, Mode
from scanseg.recipe import Recipe, Resize
from scanseg.segmenter import Segmenter
from scanseg.vocabulary.label_sets import load_label_set
from scanseg.vocabulary.templates import MINILM_TEMPLATES, SCAN_TEMPLATES
from scanseg.weights import (
    TensorFile,
    load_folder,
    load_into,
    no_larger_than,
    resolve_folder,
    save_folder,
    skip_initialisation,
)

DATACOMP = "datacomp_xl_s13b_b90k"
"""open_clip's tag of the CLIP weights that SCAN starts from."""


# --------------------------------------------------------------------------------------
# SCAN: every number that varies between its sizes
# --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ScanConfig:
    """A SCAN model: what ``config.json`` of a saved one holds.

    Args:
        clip: open_clip architecture, by name or as a configuration.
        clip_tag: open_clip's tag of the weights it starts from; chooses mean and std.
        proposals: arguments of ``Mask2FormerProposals``.
        integration: structure of SIM; ``None`` leaves SIM out.
        recipe: sizes, templates and default settings.
        same_clip: the region classifier is the original CLIP itself (not fine-tuned).
        seed: weights are random with this seed (``tiny``); ``None``: they come from a file.
        learnable_shift: the model has a trained token for ``shift_source="learnable"``.
    """

    clip: str | Mapping[str, Any]
    clip_tag: str | None
    proposals: Mapping[str, Any]
    integration: SemanticIntegrationConfig | None
    recipe: Recipe
    same_clip: bool = False
    seed: int | None = None
    learnable_shift: bool = False


def vit_b() -> ScanConfig:
    """SCAN with CLIP ViT-B/16 (no official weights were published)."""
    return ScanConfig(
        clip="ViT-B-16",
        clip_tag=DATACOMP,
        proposals={"joint_width": 512},
        integration=SemanticIntegrationConfig(layers=(6, 9, 12), sigmas=(9, 7, 3)),
        recipe=Recipe(
            name="vit_b", templates=SCAN_TEMPLATES, shift_layers=(1, 3, 5), token_layers=(6, 9, 12)
        ),
    )


def vit_l() -> ScanConfig:
    """SCAN with CLIP ViT-L/14 (convert the official weights with ``scanseg convert``)."""
    return ScanConfig(
        clip="ViT-L-14",
        clip_tag=DATACOMP,
        proposals={"joint_width": 768},
        integration=SemanticIntegrationConfig(layers=(12, 18, 24), sigmas=(9, 7, 3)),
        recipe=Recipe(
            name="vit_l",
            templates=SCAN_TEMPLATES,
            shift_layers=(1, 3, 5, 7, 9),
            token_layers=(12, 18, 24),
        ),
    )


def tiny() -> ScanConfig:
    """The whole path in a second, with random weights: for tests and for wiring things up."""
    return ScanConfig(
        clip={
            "embed_dim": 32,
            "vision_cfg": {
                "image_size": 32,
                "layers": 4,
                "width": 32,
                "head_width": 16,
                "patch_size": 4,
            },
            "text_cfg": {
                "context_length": 32,
                "vocab_size": 49408,
                "width": 32,
                "heads": 2,
                "layers": 2,
            },
        },
        clip_tag=None,
        proposals={
            "joint_width": 32,
            "backbone": {
                "model_type": "swin",
                "image_size": 32,
                "embed_dim": 16,
                "depths": [1, 1, 1, 1],
                "num_heads": [1, 2, 2, 2],
                "window_size": 4,
                "out_features": ["stage1", "stage2", "stage3", "stage4"],
            },
            "queries": 12,
            "width": 32,
            "heads": 2,
            "pixel_layers": 1,
            "pixel_feedforward": 64,
            "decoder_layers": 2,
            "decoder_feedforward": 64,
            "head_width": 32,
        },
        integration=SemanticIntegrationConfig(
            layers=(2, 3, 4), sigmas=(3, 2, 1), heads=2, encoder_width=64
        ),
        recipe=Recipe(
            name="tiny",
            templates=("a photo of a {}.", "{}"),
            resize=Resize(short=64, longest=256),
            shift_layers=(1, 3),
            token_layers=(2, 3, 4),
        ),
        seed=0,
    )


SCAN_PRESETS = {"vit_b": vit_b, "vit_l": vit_l, "tiny": tiny}


def build(config: ScanConfig, *, for_training: bool = False) -> Segmenter:
    """The model of a configuration, weights random (seeded) or yet to be loaded.

    Args:
        config: what to build.
        for_training: random proposals start where the network itself starts, which learns well but
            makes proposals that hardly differ.
    """
    from scanseg.encoders.open_clip import OpenClipEncoder
    from scanseg.proposals.mask2former import Mask2FormerProposals

    random = nullcontext() if config.seed is not None else skip_initialisation()
    with torch.random.fork_rng(devices=[]), random:
        torch.default_generator.manual_seed(config.seed or 0)  # not those of the GPUs
        clip = OpenClipEncoder(config.clip, tag=config.clip_tag, text=config.same_clip)
        region_clip = clip
        if not config.same_clip:
            region_clip = OpenClipEncoder(config.clip, tag=config.clip_tag)
        proposals = Mask2FormerProposals(**config.proposals)
        if config.seed is not None and not for_training:
            _spread(proposals)
        integration = None
        if config.integration is not None:
            integration = SemanticIntegration(
                config.integration, joint_width=clip.joint_width, vision_widths=clip.vision_width
            )
        void = torch.randn(clip.joint_width) * clip.joint_width**-0.5
        token = torch.zeros(region_clip.vision_width) if config.learnable_shift else None
    return Segmenter(
        clip=clip,
        region_clip=region_clip,
        proposals=proposals,
        integration=integration,
        void=void,
        learnable_shift=token,
        recipe=config.recipe,
        config=config,
    )


def _spread(network: nn.Module) -> None:
    """Random weights large enough that proposals differ (a network's own start is near zero)."""
    for name, parameter in network.named_parameters():
        if "queries" in name:
            nn.init.normal_(parameter)
        elif parameter.ndim > 1:
            gain = 2.0 if "mask" in name else 1.5
            nn.init.normal_(parameter, std=gain * parameter[0].numel() ** -0.5)


# --------------------------------------------------------------------------------------
# The presets that are not SCAN's own networks
# --------------------------------------------------------------------------------------


REGION_RESIZE = 0.6
"""Size of the photo that the embedded preset reads regions from (decision 119)."""


def embedded(
    head: Path | None = None, decoder: Path | None = None, affinity: Path | bool = True
) -> Segmenter:
    """The offline default: packaged towers, superpixel proposals, the trained dense head.

    Args:
        head: a trained head's file in place of the shipped one.
        affinity: whether cells of the same kind speak together, or a trained network's file in
            place of the shipped one.
        decoder: a trained mask decoder's file: its masks stand beside the superpixels. None is
            shipped (``docs/results/embedded_head.md`` tells why).
    """
    from scanseg.encoders.embedded import EmbeddedEncoder
    from scanseg.proposals.affinity import LAYERS, load_affinity
    from scanseg.proposals.dense_head import load_dense_head
    from scanseg.proposals.superpixels import SuperpixelProposals

    trained = load_dense_head(head)
    gathers = load_affinity(None if affinity is True else affinity) if affinity else None
    proposals: Any = SuperpixelProposals(trained.head, affinity=gathers)
    layers: tuple[int, ...] = (1,) if gathers is None else LAYERS
    if decoder is not None:
        from scanseg.proposals.mask_decoder import LAYERS as DECODER_LAYERS
        from scanseg.proposals.mask_decoder import DecodedProposals, load_mask_decoder

        layers = tuple(sorted({*layers, *DECODER_LAYERS}))
        proposals = DecodedProposals(proposals, load_mask_decoder(decoder))
    return Segmenter(
        clip=EmbeddedEncoder(region_resize=REGION_RESIZE),
        proposals=proposals,
        taught=trained.taught,
        recipe=Recipe(
            name="embedded",
            templates=MINILM_TEMPLATES,
            resize=Resize(short=640, longest=640),
            embedding_scale=trained.scale,
            region_scale=24.0,
            token_layers=layers,
            decoys=load_label_set("coco_panoptic133").prompts,
            decoy_similarity=0.5,
            sibling_similarity=0.55,
            taught_similarity=0.8,
            settings=InferenceSettings(
                ensemble_weight=0.1,
                unseen_weight=0.7,
                shift_source="none",
                dense_weight=3.0 if gathers is None else 12.0,
            ),
        ),
    )


ZERO_TRAIN_PROPOSALS = "facebook/mask2former-swin-base-coco-panoptic"
ZERO_TRAIN_CLIP = "laion/CLIP-ViT-L-14-DataComp.XL-s13B-b90K"


def zero_train(weights: str | Path | None = None) -> Segmenter:
    """Hub weights only, no SCAN training: COCO-panoptic masks, classified by a shifted CLIP.

    Args:
        weights: folder with two folders in the hub's layout, ``proposals/`` (a transformers
            Mask2Former) and ``clip/`` (an OpenCLIP model); ``None`` takes them from the hub.
    """
    from scanseg.encoders.open_clip import OpenClipEncoder
    from scanseg.proposals.mask2former import Mask2FormerProposals

    if weights is None:
        folders = [resolve_folder(ZERO_TRAIN_PROPOSALS), resolve_folder(ZERO_TRAIN_CLIP)]
    else:
        folders = [resolve_folder(weights) / part for part in ("proposals", "clip")]
    clip = OpenClipEncoder.from_folder(folders[1])
    return Segmenter(
        clip=clip,
        proposals=Mask2FormerProposals.from_transformers(folders[0], min_objectness=0.5),
        recipe=Recipe(
            name="zero_train",
            templates=SCAN_TEMPLATES,
            shift_layers=(1, 3, 5, 7, 9) if clip.depth >= 24 else (1, 3, 5),
            settings=InferenceSettings(branches="clip"),
        ),
    )


# --------------------------------------------------------------------------------------
# From and to disk
# --------------------------------------------------------------------------------------

MOST_HEADS = 16
"""That one model folder may hold."""
MINI_SCAN = "mini_scan"
"""Model folders of the study (``mini_scan.py``); no preset, since no weights are shipped."""
PRESETS = ("embedded", "vit_b", "vit_l", "zero_train", "tiny")


def load(
    name: str | Path,
    *,
    device: str = "auto",
    settings: InferenceSettings | None = None,
    weights: str | Path | None = None,
    mode: Mode = "exact",
) -> Segmenter:
    """A ready model; see ``Segmenter.from_pretrained``."""
    if mode not in MODES:
        raise InputError(f"no mode {mode!r}; there are {', '.join(MODES)}")
    target = _device(device)
    bfloat16 = MODES[mode].bfloat16 and _has_bfloat16(target)
    segmenter = _load(str(name), weights, bfloat16=bfloat16)
    settings = in_mode(settings or segmenter.recipe.settings, mode, segmenter)
    segmenter.recipe = replace(segmenter.recipe, settings=settings)
    segmenter = segmenter.eval().requires_grad_(False)
    if bfloat16:
        segmenter.use_bfloat16()
    return segmenter.to(target)


def load_configured(
    name: str,
    *,
    weights: str | None,
    device: str,
    benchmark: str | None,
    changes: Mapping[str, Any],
    mode: Mode = "exact",
) -> tuple[Segmenter, InferenceSettings]:
    """A ready model and its settings, as command lines describe them.

    Args:
        name: as for ``load``, and ``weights`` and ``device`` too.
        benchmark: name of an operating point, or ``None`` for the model's own settings.
        changes: single inference settings to change on top.
        mode: a name of ``MODES``.

    Raises:
        InputError: as ``load``, or the preset has no such operating point; a preset's name is
            enough to say so before the model is loaded.
    """
    if benchmark is not None and name in PRESETS:
        operating_point(name, benchmark)
    segmenter = load(name, device=device, weights=weights, mode=mode)
    settings = segmenter.recipe.settings
    if benchmark is not None:
        settings = operating_point(segmenter.recipe.name, benchmark)
        settings = in_mode(settings, mode, segmenter)
    return segmenter, settings.replace(**changes)


def _by_path(path: str) -> Segmenter:
    """A model from somebody's own function, ``my_package.my_file.my_model``."""
    module, _, function = path.rpartition(".")
    try:
        made: Any = getattr(import_module(module), function)()
    except ModuleNotFoundError as error:
        raise InputError(
            f"no preset or folder {path!r}, and as a class path: {error}; presets: "
            f"{', '.join(PRESETS)}"
        ) from error
    except AttributeError as error:
        raise InputError(f"{path} leads to no model: {error}") from error
    if not isinstance(made, Segmenter):
        raise InputError(f"{path}() must return a Segmenter, not {type(made).__name__}")
    return made


def _load(name: str, weights: str | Path | None, *, bfloat16: bool) -> Segmenter:
    """A model in evaluation mode or not.

    Args:
        name: as for ``load``.
        weights: as for ``load``.
        bfloat16: read a SCAN folder's region classifier in bfloat16 right away, so that memory
            never holds it in float32.
    """
    if name == "zero_train":
        return zero_train(weights)
    if name == "embedded" and weights is None:
        return embedded()
    if name in SCAN_PRESETS and weights is None:
        config = SCAN_PRESETS[name]()
        if config.seed is not None:
            return build(config)
        hint = (
            "convert the official checkpoints with `scanseg convert CHECKPOINT... --output FOLDER`"
        )
        if name == "vit_b":
            hint = "official ones exist for vit_l only: train them, or use vit_l"
        raise InputError(f"preset {name!r} needs SCAN weights: {hint}, then pass weights=FOLDER")
    if name not in PRESETS and "/" not in name and not Path(name).exists():
        if "." in name and weights is None:
            return _by_path(name)
        raise InputError(f"no preset or folder {name!r}; presets: {', '.join(PRESETS)}")
    folder = resolve_folder(name if weights is None else weights)
    found, tensors = load_folder(folder)
    preset = found.get("preset")
    if name in PRESETS and preset != name:
        raise InputError(
            f"{folder} holds weights of preset {preset!r}, not {name!r}: ask for {preset!r}, or "
            "give the folder itself as preset"
        )
    if preset == "embedded":
        return _embedded_from(found, tensors, folder)
    if preset == MINI_SCAN:
        from scanseg import mini_scan

        return mini_scan.load(folder, found, tensors)
    config = _config_of(found, folder)
    # every weight is loaded right after
    with skip_initialisation(), no_larger_than(tensors, source=str(folder)):
        try:
            segmenter = build(config)
        except InputError:
            raise
        except Exception as error:  # the libraries' parts raise many kinds for numbers that lie
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise InputError(
                f"{folder}/config.json does not describe a scanseg model ({reason})"
            ) from error
    one_clip = segmenter.region_clip is segmenter.clip  # then its weights are there once
    if bfloat16:
        segmenter.use_bfloat16()  # nothing but the type: values come next
    shared = ("region_clip.",) if one_clip else ()
    reader = "clip." if one_clip else "region_clip."
    text = [f"{reader}model.{part}" for part in ("transformer.", "token_embedding.", "text.")]
    load_into(segmenter, tensors, source=str(folder), may_miss=shared, mapped=text)
    cast(Any, segmenter.region_clip).read_fingerprint(tensors.part(reader))
    return segmenter


def save(segmenter: Segmenter, folder: str | Path) -> Path:
    """Write a model folder; see ``Segmenter.save_pretrained``."""
    name = segmenter.recipe.name
    if name == "embedded":
        if hasattr(segmenter.proposals, "decoder"):
            raise InputError(
                "the embedded preset with a mask decoder cannot be saved as a folder: keep the "
                "decoder's file, and give the path of a function that builds the model as preset"
            )
        head = cast(nn.Module, segmenter.proposals).state_dict()
        state = {f"proposals.{k}": v for k, v in head.items()}
        if segmenter.taught is not None:
            state["taught"] = segmenter.taught
        config = {"preset": name, "embedding_scale": segmenter.recipe.embedding_scale}
        return save_folder(folder, state, config, EMBEDDED_NOTICE)
    if name == MINI_SCAN:
        from scanseg import mini_scan

        return mini_scan.save(segmenter, Path(folder))
    if segmenter.config is None:
        raise InputError(
            f"a model composed by hand (preset {name!r}) cannot be saved as a folder: save its "
            "parts, and give the path of the function that builds it as preset (docs/python.md)"
        )
    made = replace(
        segmenter.config,
        same_clip=segmenter.region_clip is segmenter.clip,
        learnable_shift=segmenter.learnable_shift is not None,
    )
    state = segmenter.state_dict()
    if made.same_clip:
        state = {k: v for k, v in state.items() if not k.startswith("region_clip.")}
    described = {"preset": name, "model": asdict(made)}
    return save_folder(folder, state, described, SCAN_NOTICE)


def _embedded_from(found: Mapping[str, Any], tensors: TensorFile, folder: Path) -> Segmenter:
    """The embedded preset with the head, or heads, of a folder."""
    from scanseg.proposals.dense_head import blank_head

    gathers = any(name.startswith("proposals.affinity.") for name in tensors)  # not of old folders
    segmenter = embedded(affinity=gathers)
    proposals: Any = segmenter.proposals
    prefix = "proposals.head.heads."
    together = {name[len(prefix) :].split(".")[0] for name in tensors if name.startswith(prefix)}
    if len(together) > MOST_HEADS:
        raise InputError(f"{folder} holds {len(together)} heads; {MOST_HEADS} are the most")
    proposals.head = blank_head(len(together)).eval()
    load_into(proposals, tensors.part("proposals."), source=str(folder))
    scale = found.get("embedding_scale")  # folders of earlier versions have neither of these
    if scale is not None:
        if not isinstance(scale, (int, float)) or not 0 < scale < math.inf:
            raise InputError(f"{folder}/config.json: embedding_scale must be a positive number")
        segmenter.recipe = replace(segmenter.recipe, embedding_scale=float(scale))
    if "taught" in tensors:
        taught = tensors["taught"].float()
        if taught.ndim != 2 or taught.shape[1] != segmenter.clip.joint_width:
            raise InputError(f"{folder}: 'taught' must be rows of {segmenter.clip.joint_width}")
        segmenter.taught = taught
    return segmenter


def _config_of(found: Mapping[str, Any], folder: Path) -> ScanConfig:
    """The configuration that ``config.json`` describes, on top of its preset."""
    preset = found.get("preset")
    if not isinstance(preset, str) or preset not in SCAN_PRESETS:
        raise InputError(
            f"{folder}/config.json names the preset {preset!r}, which this version lacks"
        )
    given = found.get("model")
    if given is None:
        return replace(SCAN_PRESETS[preset](), seed=None)
    try:
        recipe = dict(given["recipe"])
        recipe["resize"] = Resize(**recipe["resize"])
        recipe["settings"] = InferenceSettings(**recipe["settings"])
        integration = given["integration"]
        return ScanConfig(
            **{
                **given,
                "recipe": Recipe(**_tupled(recipe)),
                "integration": integration and SemanticIntegrationConfig(**_tupled(integration)),
                "seed": None,
            }
        )
    except (KeyError, TypeError) as error:
        raise InputError(
            f"{folder}/config.json does not describe a scanseg model ({error})"
        ) from error


def _tupled(values: Mapping[str, Any]) -> dict[str, Any]:
    return {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}


@dataclass(frozen=True)
class ModeSettings:
    """What a mode trades for time; each effect is measured in ``docs/results/speed.md``.

    Args:
        bfloat16: matrix products of the region classifier in bfloat16, where the hardware has it.
        changes: inference settings that differ.
    """

    bfloat16: bool = False
    changes: Mapping[str, Any] = field(default_factory=dict)


MODES: dict[Mode, ModeSettings] = {
    "exact": ModeSettings(),
    "bf16": ModeSettings(bfloat16=True),
    "fast": ModeSettings(bfloat16=True, changes={"region_overlap": 0.9, "hopeless_below": 0.4}),
}


def in_mode(settings: InferenceSettings, mode: Mode, segmenter: Segmenter) -> InferenceSettings:
    """Settings with the changes of the mode, which save work where each region has its own pass.

    One that reads all regions from one pass over the photo has no such work: its settings stay.
    """
    if getattr(segmenter.region_clip, "region_view", "crop") == "pool":
        return settings
    return settings.replace(**MODES[mode].changes)


def _has_bfloat16(device: torch.device) -> bool:
    """Whether matrix products in bfloat16 are quicker than in float32 on this device."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu":
        able = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
        return bool(able.get("avx512_bf16") or able.get("amx_bf16") or able.get("bf16"))
    return False


def _device(name: str) -> torch.device:
    """``"auto"`` -> CUDA, then MPS, then the CPU."""
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = " ".join(str(error).split())[:120]
        raise InputError(f'cannot use device {name!r} ({reason}); try "auto" or "cpu"') from error
    return device


SCAN_NOTICE = """\
# Weights of a SCAN model

Saved by scanseg (Apache-2.0). The weights keep the terms of what they were made from: training
images, CLIP and Swin weights, and CC BY-NC 4.0 if they derive from the official SCAN checkpoints.
"""

EMBEDDED_NOTICE = """\
# Weights of the embedded head

Research weights; their sources and terms are listed in scanseg's `model_cards/embedded_head.md`.
"""


# --------------------------------------------------------------------------------------
# Operating points
# --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class OperatingPoint:
    """Inference settings of the released SCAN on one benchmark."""

    mask_threshold: float
    ensemble_weight: float
    shift_ratio: float
    log_fusion: bool = False

    def settings(self) -> InferenceSettings:
        """As inference settings."""
        return InferenceSettings(**asdict(self))


OPERATING_POINTS: dict[str, dict[str, OperatingPoint]] = {
    "vit_l": {
        "default": OperatingPoint(0.40, 0.70, 0.15),
        "ade150": OperatingPoint(0.55, 0.75, 0.05),
        "ade847": OperatingPoint(0.30, 0.75, 0.15, log_fusion=True),
        "pc59": OperatingPoint(0.50, 0.50, 0.05),
        "pc459": OperatingPoint(0.25, 0.65, 0.05, log_fusion=True),
        "voc20": OperatingPoint(0.20, 0.65, 0.10),
    },
    "vit_b": {
        "default": OperatingPoint(0.40, 0.70, 0.15),
        "ade150": OperatingPoint(0.40, 0.70, 0.05),
        "ade847": OperatingPoint(0.25, 0.75, 0.05, log_fusion=True),
        "pc59": OperatingPoint(0.25, 0.35, 0.05),
        "pc459": OperatingPoint(0.25, 0.70, 0.05, log_fusion=True),
        "voc20": OperatingPoint(0.20, 0.45, 0.10),
    },
}
"""Preset -> benchmark -> the released settings (`docs/paper_to_code.md`)."""


def operating_point(preset: str, benchmark: str) -> InferenceSettings:
    """Inference settings of a preset on a benchmark.

    Raises:
        InputError: the preset has no such operating point.
    """
    table = OPERATING_POINTS.get(preset, {})
    if benchmark not in table:
        known = ", ".join(table) or "none"
        raise InputError(
            f"preset {preset!r} has no operating point {benchmark!r} (it has: {known})"
        )
    return table[benchmark].settings()
