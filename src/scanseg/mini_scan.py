"""SCAN, whole, on the packaged towers: small enough to train its every switch on a laptop.

The method of ``segmenter.py`` with the embedded encoder in CLIP's place. Masks are the superpixel
regions of ``embedded``; what the frozen tower holds under a region is its query state, from which
an embedding F_N is made; semantic integration (eq. 1-3) reads the tower's stages; regions are cut
out, shifted (eq. 5) and classified by ConSE. Its purpose is the study in
``docs/results/embedded_study.md``; ``embedded`` labels photos better.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scanseg.calibration.semantic_integration import (
    SemanticIntegration,
    SemanticIntegrationConfig,
)
from scanseg.contracts import ClipTokens, InferenceSettings, InputError, Proposals
from scanseg.encoders.embedded import STRIDES, EmbeddedEncoder
from scanseg.proposals.dense_head import load_dense_head
from scanseg.proposals.mask2former import EmbeddingHead
from scanseg.proposals.superpixels import SuperpixelProposals
from scanseg.recipe import Recipe, Resize
from scanseg.segmenter import Segmenter
from scanseg.storage import file_hash
from scanseg.vocabulary.templates import MINILM_TEMPLATES
from scanseg.weights import TensorFile, load_into, no_larger_than, save_folder, shipped

NAME = "mini_scan"
LAYERS = (1, 2, 3, 4)
"""Stages of the tower that the states of regions are made of."""
STATE_WIDTH = sum(EmbeddedEncoder.vision_widths[layer] for layer in LAYERS)
EMBEDDING_SCALE = 20.0
REGION_SCALE = 24.0
INTEGRATION = SemanticIntegrationConfig(
    layers=(1, 2, 3),
    sigmas=(9.0, 5.0, 3.0),
    heads=6,
    encoder_width=768,
    attention_layers=1,
    encoder_layers=1,
)
"""The released structure with one attention and one encoder layer in place of five."""
NOTICE = """\
# Weights of a study

Research weights; their sources and terms are those of scanseg's `model_cards/embedded_head.md`.
"""


@cache
def shipped_head_hash() -> str:
    """First 12 digits of the SHA-256 of the wheel's dense head."""
    with shipped("scanseg.proposals", "embedded_head.safetensors") as file:
        return file_hash(file)[:12]


@dataclass(frozen=True)
class MiniScanConfig:
    """What to build.

    Args:
        masks: hash of the dense head that regions are merged on, which is the shipped one; another
            head would draw other regions than those that the model learned from.
        integration: semantic integration; ``None``: without (table 3's baseline).
        head_width: hidden width of the regions' embedding head.
        region_size: side of the regions' crops in pixels, a multiple of 32.
        ensemble_weight: exponent of the region classifier for taught words.
        unseen_weight: for other words.

    Raises:
        InputError: ``masks`` is not the hash of the shipped head.
    """

    masks: str = field(default_factory=shipped_head_hash)
    integration: SemanticIntegrationConfig | None = INTEGRATION
    head_width: int = 512
    region_size: int = 128
    ensemble_weight: float = 0.3
    unseen_weight: float = 0.7

    def __post_init__(self) -> None:
        if self.masks != shipped_head_hash():
            raise InputError(
                f"the model's regions come from the dense head {self.masks}, this scanseg ships "
                f"{shipped_head_hash()}: train it again (make study)"
            )


class RegionProposals(nn.Module):
    """Superpixel regions with embeddings F_N that are learned from the frozen tower.

    Args:
        regions: makes the masks.
        head_width: hidden width of the embedding head.
    """

    def __init__(self, regions: SuperpixelProposals, head_width: int) -> None:
        super().__init__()
        self.regions = regions
        self.embedding_head = EmbeddingHead(STATE_WIDTH, head_width, EmbeddedEncoder.joint_width)

    def __call__(self, pixels: Tensor, context: ClipTokens) -> Proposals:
        """(B, Q, h, w) masks of (B, 3, h, w) photos, whose tokens are those of ``LAYERS``."""
        masks = self.regions(pixels, context).masks
        return Proposals(masks, self.embedding_head(region_states(masks, context)))


def region_states(masks: Tensor, context: ClipTokens) -> Tensor:
    """What the tower holds under masks: the mean of each stage, standardised, all stages in a row.

    Args:
        masks: (B, Q, h, w) in [0, 1].
        context: tokens of ``LAYERS``; its grids start at the photo's upper left corner and may
            reach beyond its other sides.

    Returns:
        (B, Q, ``STATE_WIDTH``); zeros for empty masks.
    """
    states = []
    for layer in LAYERS:
        tokens, stride = context.patches[layer], STRIDES[layer]
        rows, columns = context.grids[layer]
        beyond = (0, columns * stride - masks.shape[-1], 0, rows * stride - masks.shape[-2])
        weights = F.avg_pool2d(F.pad(masks, beyond), stride).flatten(2)  # (B, Q, N)
        weights = weights / weights.sum(-1, keepdim=True).clamp_min(1e-6)
        states.append(F.layer_norm(weights @ tokens, tokens.shape[-1:]))
    return torch.cat(states, -1)


@dataclass(frozen=True)
class Frozen:
    """What is never trained here: the packaged towers, and regions from the shipped dense head."""

    encoder: EmbeddedEncoder
    regions: SuperpixelProposals

    @classmethod
    def load(cls, config: MiniScanConfig) -> Frozen:
        """From the pip packages."""
        encoder = EmbeddedEncoder(region_size=config.region_size, region_view="crop")
        return cls(encoder, SuperpixelProposals(load_dense_head().head))


def build(config: MiniScanConfig, taught: Tensor, frozen: Frozen | None = None) -> Segmenter:
    """The model with random weights, but for what is frozen.

    Args:
        config: what to build.
        taught: (words, D) unit-norm embeddings of the words that it is taught.
        frozen: if it is there already.
    """
    frozen = frozen or Frozen.load(config)
    integration = None
    if config.integration is not None:
        integration = SemanticIntegration(
            config.integration,
            joint_width=EmbeddedEncoder.joint_width,
            vision_widths=[EmbeddedEncoder.vision_widths[i] for i in config.integration.layers],
        )
    segmenter = Segmenter(
        clip=frozen.encoder,
        proposals=RegionProposals(frozen.regions, config.head_width),
        integration=integration,
        taught=taught,
        config=config,
        recipe=Recipe(
            name=NAME,
            templates=MINILM_TEMPLATES,
            resize=Resize(short=512, longest=512),
            embedding_scale=EMBEDDING_SCALE,
            region_scale=REGION_SCALE,
            token_layers=LAYERS,
            shift_layers=(1, 2, 3),
            settings=InferenceSettings(
                mask_threshold=0.5,
                ensemble_weight=config.ensemble_weight,
                unseen_weight=config.unseen_weight,
                shift_ratio=0.15,
            ),
        ),
    )
    return segmenter.eval().requires_grad_(False)


def save(segmenter: Segmenter, folder: Path) -> Path:
    """Write a model folder that ``Segmenter.from_pretrained`` reads."""
    assert isinstance(segmenter.proposals, RegionProposals)
    assert segmenter.taught is not None
    learned = segmenter.proposals.embedding_head.state_dict()
    state = {f"embedding_head.{k}": v for k, v in learned.items()}
    if isinstance(segmenter.integration, nn.Module):
        integration = segmenter.integration.state_dict()
        state |= {f"integration.{k}": v for k, v in integration.items()}
    state["taught"] = segmenter.taught
    return save_folder(folder, state, {"preset": NAME, "model": asdict(segmenter.config)}, NOTICE)


def load(folder: Path, found: Mapping[str, Any], tensors: TensorFile) -> Segmenter:
    """What :func:`save` wrote; ``found`` is its ``config.json``.

    Raises:
        InputError: the configuration describes something else, or weights do not fit it.
    """
    source = str(folder)
    try:
        model = dict(found["model"])
        integration = model.pop("integration")
        config = MiniScanConfig(
            **model, integration=integration and SemanticIntegrationConfig(**integration)
        )
        frozen = Frozen.load(config)  # its weights are in pip packages, not in this file
        with no_larger_than(tensors, source=source):
            segmenter = build(config, tensors["taught"], frozen)
    except InputError:
        raise
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"{source}/config.json describes no {NAME} model ({error})") from error
    assert isinstance(segmenter.proposals, RegionProposals)
    head = segmenter.proposals.embedding_head
    load_into(head, tensors.part("embedding_head."), source=source)
    if segmenter.integration is not None:
        load_into(segmenter.integration, tensors.part("integration."), source=source)  # type: ignore[arg-type]
    return segmenter
