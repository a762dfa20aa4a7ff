"""Original CLIP, semantic integration, text and crops against the reference numbers (RELEASED.md).

The reference weights are a function of each tensor's official name (``fill.py``), so only what a
test needs is made.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from scanseg.calibration import SemanticIntegration, SemanticIntegrationConfig, cut_regions
from scanseg.contracts import ClipTokens
from scanseg.encoders.open_clip import OpenClipEncoder
from scanseg.vocabulary.templates import SCAN_TEMPLATES

pytestmark = [pytest.mark.parity, pytest.mark.timeout(600)]

LAYERS = (6, 9, 12)
LABELS = ("sky", "building", "tree", "grass", "person", "car")
SIM_NAMES = {
    "LFM.": "lfe.",
    "oriclip_mlp.": "token_projection.",
    "fusion_decoder.multiattn.": "attention.",
    "fusion_decoder.ln.": "norms.",
    "lightweight_transformer.": "encoder.",
    "learnable_weight": "gamma",
}

Weights = Callable[[str, str], dict[str, Tensor]]


@pytest.fixture(scope="module")
def reference(shared: Path) -> dict[str, np.ndarray]:
    with np.load(shared / "parity" / "parity_vitB.npz") as stored:
        return dict(stored)


@pytest.fixture(scope="module")
def weights(shared: Path) -> Weights:
    """(official prefix, our prefix) -> filled tensors with the prefix exchanged."""
    fill = _load_module(shared / "parity" / "fill.py")
    keys = json.loads((shared / "parity" / "keys_scan_vitB.json").read_text())["keys"]

    def make(official: str, ours: str) -> dict[str, Tensor]:
        made = {}
        for key, entry in keys.items():
            if key.startswith(official):
                value = fill.value(key, entry["shape"])
                filled = torch.zeros(entry["shape"]) if value is None else torch.from_numpy(value)
                made[ours + key.removeprefix(official)] = filled
        return made

    return make


@pytest.fixture(scope="module")
def photo(shared: Path) -> Tensor:
    """(1, 3, 640, 853) uint8."""
    pixels = np.array(Image.open(shared / "parity" / "photo_640.png").convert("RGB"))
    return torch.from_numpy(pixels).permute(2, 0, 1)[None]


@pytest.fixture(scope="module")
def original_clip(weights: Weights) -> OpenClipEncoder:
    with torch.device("meta"):
        encoder = OpenClipEncoder("ViT-B-16", tag="datacomp_xl_s13b_b90k", text=False)
    encoder.load_state_dict(weights("clip_adapter.original_clip.", "model.visual."), assign=True)
    return encoder.eval()


@pytest.fixture(scope="module")
def tokens(original_clip: OpenClipEncoder, photo: Tensor) -> ClipTokens:
    with torch.inference_mode():
        return original_clip.encode_image(photo, layers=LAYERS)


@pytest.fixture(scope="module")
def integration(weights: Weights) -> Iterator[SemanticIntegration]:
    config = SemanticIntegrationConfig(layers=LAYERS, sigmas=(9, 7, 3))
    with torch.device("meta"):
        module = SemanticIntegration(config, joint_width=512, vision_widths=768)
    state: dict[str, Tensor] = {}
    for official, ours in SIM_NAMES.items():
        state |= weights(official, ours)
    module.load_state_dict(state, assign=True)
    with torch.inference_mode():
        yield module.eval()


def assert_agrees(ours: Tensor, theirs: np.ndarray) -> None:
    """max |difference| <= 1e-4 x max |reference|."""
    assert tuple(ours.shape) == theirs.shape
    difference = np.abs(ours.detach().numpy() - theirs).max()
    assert difference <= 1e-4 * np.abs(theirs).max(), f"differs by {difference:.3g}"


def test_input_of_the_original_clip(
    original_clip: OpenClipEncoder, photo: Tensor, reference: dict[str, np.ndarray]
) -> None:
    seen = original_clip.preprocess(photo)
    assert_agrees(seen[0, :, ::4, ::4], reference["oclip_input__s4"])


@pytest.mark.parametrize("layer", LAYERS)
def test_patch_tokens(tokens: ClipTokens, reference: dict[str, np.ndarray], layer: int) -> None:
    assert tokens.grids[layer] == (14, 14)
    assert_agrees(tokens.patches[layer][0, ::2, ::16], reference[f"oclip_layer{layer}__t2_c16"])


@pytest.mark.parametrize("layer", [0, 1, 3, 5, 12])
def test_cls_tokens(tokens: ClipTokens, reference: dict[str, np.ndarray], layer: int) -> None:
    assert_agrees(tokens.cls[layer][0], reference[f"oclip_cls_layer{layer}"])


def test_final_cls(tokens: ClipTokens, reference: dict[str, np.ndarray]) -> None:
    theirs = reference["oclip_final_cls"]
    assert_agrees(tokens.pooled[0], theirs / np.linalg.norm(theirs))


@pytest.mark.parametrize(("layer", "sigma"), zip(LAYERS, (9, 7, 3), strict=True))
def test_low_frequency_enhancement(
    tokens: ClipTokens,
    integration: SemanticIntegration,
    reference: dict[str, np.ndarray],
    layer: int,
    sigma: float,
) -> None:
    grid = tokens.patches[layer].transpose(1, 2).reshape(1, 768, 14, 14)
    enhanced = integration.lfe(grid, sigma)
    assert_agrees(enhanced[0, ::16], reference[f"lfm_out_layer{layer}__c16"])


def test_projected_tokens(
    tokens: ClipTokens, integration: SemanticIntegration, reference: dict[str, np.ndarray]
) -> None:
    memory = integration.memory(tokens)
    assert_agrees(memory[0, ::4, ::8], reference["oriclip_mlp_out__t4_c8"])


def test_cross_attention(
    tokens: ClipTokens, integration: SemanticIntegration, reference: dict[str, np.ndarray]
) -> None:
    """Five attentions over 588 tokens with the sharp reference weights amplify rounding.

    Between any two float32 runs of CLIP, or float32 and float64, the memory differs by about 4e-5
    (its values reach 48). Noise of that size moves the result by as much as we differ from the
    reference, so the bound is set by it: root mean square, and most proposals.
    """
    embeddings = torch.from_numpy(reference["prop_emb_before_sim"])[None]  # (1, 100, 512)
    theirs = torch.from_numpy(reference["after_fusion_decoder"])
    memory = integration.memory(tokens)
    ours = integration.inject(embeddings, memory)[0]
    noise = 4e-5 * torch.randn(memory.shape, generator=torch.Generator().manual_seed(0))
    noisy = integration.inject(embeddings, memory + noise)[0]

    largest = theirs.abs().max()
    difference, inherent = (ours - theirs) / largest, (ours - noisy) / largest
    assert difference.square().mean().sqrt() < 2 * inherent.square().mean().sqrt() < 2e-3
    assert (difference.abs().amax(1) < 1e-3).float().mean() > 0.8


def test_final_cls_is_added(
    tokens: ClipTokens, integration: SemanticIntegration, reference: dict[str, np.ndarray]
) -> None:
    injected = torch.from_numpy(reference["after_fusion_decoder"])
    assert_agrees(injected + integration.gamma * tokens.pooled, reference["lwt_input"])


def test_encoder_sees_each_proposal_alone(
    integration: SemanticIntegration, reference: dict[str, np.ndarray]
) -> None:
    alone = torch.from_numpy(reference["lwt_input"])[:, None]  # (100, 1, 512)
    calibrated = integration.encoder(alone)[:, 0]
    assert_agrees(calibrated, reference["after_lightweight_transformer"])


def test_semantic_integration_as_a_whole(
    tokens: ClipTokens, integration: SemanticIntegration, reference: dict[str, np.ndarray]
) -> None:
    """The same directions from the same proposals; the bound is as in ``test_cross_attention``."""
    embeddings = torch.from_numpy(reference["prop_emb_before_sim"])[None]
    theirs = torch.from_numpy(reference["after_lightweight_transformer"])
    cosine = F.cosine_similarity(integration(embeddings, tokens)[0], theirs, dim=-1)
    assert cosine.min() > 0.999
    assert cosine.median() > 0.999999


def test_text_features_and_in_vocabulary_logits(
    weights: Weights, reference: dict[str, np.ndarray]
) -> None:
    with torch.device("meta"):
        encoder = OpenClipEncoder("ViT-B-16", tag="datacomp_xl_s13b_b90k")
    encoder.load_state_dict(weights("clip_adapter.clip_model.", "model."), assign=True)
    void = weights("clip_adapter.non_object_embedding", "void")["void"]
    prompts = [template.format(label) for label in LABELS for template in SCAN_TEMPLATES]
    each = encoder.eval().encode_text(prompts).reshape(len(LABELS), len(SCAN_TEMPLATES), -1)
    text = F.normalize(torch.cat([F.normalize(each, dim=-1).mean(1), void]), dim=-1)
    assert_agrees(text, reference["text_features"])

    calibrated = torch.from_numpy(reference["after_lightweight_transformer"])
    logits = 100 * F.normalize(calibrated, dim=-1) @ text.T
    assert_agrees(logits, reference["in_vocab_logits"])


def test_crops_inside_the_masks(
    original_clip: OpenClipEncoder, photo: Tensor, reference: dict[str, np.ndarray]
) -> None:
    """Boxes of the reference, filled completely, agree with its crops inside its masks.

    The masks themselves are not among the numbers. Of the sampled pixels inside them, those near a
    border differ from a filled box; with a box off by one pixel nearly all do.
    """
    boxes = reference["boxes_xyxy"][::8].astype(int)  # (8, 4)
    theirs = torch.from_numpy(reference["regions_norm__n8_s16"])  # (8, 3, 14, 14)
    inside = torch.from_numpy(reference["region_masks__n8_s16"])[:, 0] > 0  # (8, 14, 14)

    def share_that_agrees(narrower: int) -> float:
        masks = torch.zeros(1, len(boxes), *photo.shape[2:])
        for mask, (x0, y0, x1, y1) in zip(masks[0], boxes, strict=True):
            mask[y0:y1, x0 : x1 - narrower] = 1.0
        clip = original_clip
        crops = cut_regions(
            photo, masks, threshold=0.4, size=224, mean=clip.pixel_mean, std=clip.pixel_std
        ).pixels[:, :, ::16, ::16]
        return float(((crops - theirs).abs() < 1e-4).all(1)[inside].float().mean())

    assert inside.sum() == 95
    assert share_that_agrees(narrower=0) > 0.7
    assert share_that_agrees(narrower=1) < 0.2


def _load_module(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
