"""SCAN, whole, on the packaged towers: small enough to train its every switch on a laptop.

The method of ``segmenter.py`` with the embedded encoder in CLIP's place: the mask decoder's queries
get embeddings F_N of their own (no dense head), semantic integration (eq. 1-3) reads the tower's
stages, regions are cut out, shifted (eq. 5) and classified by ConSE. Its purpose is the study in
``docs/results/embedded_study.md``; ``embedded`` labels photos better.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from scanseg.calibration.semantic_integration import (
    SemanticIntegration,
    SemanticIntegrationConfig,
)
from scanseg.contracts import ClipTokens, InferenceSettings, InputError, Proposals
from scanseg.encoders.embedded import EmbeddedEncoder
from scanseg.proposals.mask2former import EmbeddingHead
from scanseg.proposals.mask_decoder import LAYERS, MaskDecoder
from scanseg.recipe import Recipe, Resize
from scanseg.segmenter import Segmenter
from scanseg.vocabulary.templates import MINILM_TEMPLATES
from scanseg.weights import TensorFile, load_into, no_larger_than, save_folder

NAME = "mini_scan"
EMBEDDING_SCALE = 20.0
REGION_SCALE = 24.0
INTEGRATION = SemanticIntegrationConfig(
    semantics="paper",
    layers=(1, 2, 3),
    sigmas=(9.0, 5.0, 3.0),
    heads=6,
    encoder_width=768,
    token_projection=True,
)
"""One attention and one encoder layer, as the paper writes them; the stages differ in width."""
NOTICE = """\
# Weights of a study

Research weights; their sources and terms are those of scanseg's `model_cards/embedded_head.md`.
"""


@dataclass(frozen=True)
class MiniScanConfig:
    """What to build.

    Args:
        decoder: arguments of ``MaskDecoder``.
        integration: semantic integration; ``None``: without (table 3's baseline).
        head_width: hidden width of the queries' embedding head.
        region_size: side of the regions' crops in pixels, a multiple of 32.
        ensemble_weight: exponent of the region classifier for taught words.
        unseen_weight: for other words.
    """

    decoder: Mapping[str, Any] = field(default_factory=dict)
    integration: SemanticIntegrationConfig | None = INTEGRATION
    head_width: int = 512
    region_size: int = 128
    ensemble_weight: float = 0.3
    unseen_weight: float = 0.7


class QueryProposals(nn.Module):
    """The decoder's queries as proposals: masks, embeddings F_N, objectness.

    Args:
        decoder: makes the masks.
        head_width: of the embedding head.
    """

    def __init__(self, decoder: MaskDecoder, head_width: int) -> None:
        super().__init__()
        self.decoder = decoder
        width = int(decoder.config["width"])
        self.embedding_head = EmbeddingHead(width, head_width, EmbeddedEncoder.joint_width)

    def __call__(self, pixels: Tensor, context: ClipTokens) -> Proposals:
        """(B, Q, h, w) masks of (B, 3, h, w) photos, whose tokens are those of ``LAYERS``."""
        found = self.decoder(context)[-1]
        masks = found.masks(pixels.shape[-2:])
        return Proposals(masks, self.embedding_head(found.states), found.objectness)


def build(
    config: MiniScanConfig, taught: Tensor, encoder: EmbeddedEncoder | None = None
) -> Segmenter:
    """The model with random weights, but for the packaged towers.

    Args:
        config: what to build.
        taught: (words, D) unit-norm embeddings of the words that it is taught.
        encoder: the packaged towers, if they are there already.
    """
    encoder = encoder or _encoder(config)
    integration = None
    if config.integration is not None:
        integration = SemanticIntegration(
            config.integration,
            joint_width=EmbeddedEncoder.joint_width,
            vision_widths=[EmbeddedEncoder.vision_widths[i] for i in config.integration.layers],
        )
    segmenter = Segmenter(
        clip=encoder,
        proposals=QueryProposals(MaskDecoder(**config.decoder), config.head_width),
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


def _encoder(config: MiniScanConfig) -> EmbeddedEncoder:
    return EmbeddedEncoder(region_size=config.region_size, region_view="crop")


def save(segmenter: Segmenter, folder: Path) -> Path:
    """Write a model folder that ``Segmenter.from_pretrained`` reads."""
    assert isinstance(segmenter.proposals, nn.Module)
    assert segmenter.taught is not None
    state = {f"proposals.{k}": v for k, v in segmenter.proposals.state_dict().items()}
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
        encoder = _encoder(config)  # its weights are in pip packages, not in this file
        with no_larger_than(tensors, source=source):
            segmenter = build(config, tensors["taught"], encoder)
    except InputError:
        raise
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"{source}/config.json describes no {NAME} model ({error})") from error
    load_into(segmenter.proposals, tensors.part("proposals."), source=source)  # type: ignore[arg-type]
    if segmenter.integration is not None:
        load_into(segmenter.integration, tensors.part("integration."), source=source)  # type: ignore[arg-type]
    return segmenter
