"""The proposals of the released ViT-B model, through the converter, number by number."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from scanseg.contracts import Proposals
from scanseg.proposals.mask2former import LayerPrediction, Mask2FormerProposals
from scanseg.weights import load_folder, load_into, skip_initialisation

pytestmark = [pytest.mark.parity, pytest.mark.timeout(600)]

Sample = Callable[[Tensor, str], np.ndarray]

SWIN = tuple(f"swin_res{i}" for i in (2, 3, 4, 5))
TOLERANCE = 1e-4  # of the largest reference number: embeddings and features
MASK_LOGITS = 1e-3  # absolute


@pytest.fixture(scope="module")
def model(converted_vitb: Path) -> Mask2FormerProposals:
    config, state = load_folder(converted_vitb)
    with skip_initialisation():
        proposals = Mask2FormerProposals(**config["architecture"]["proposals"])
    load_into(proposals, state.part("proposals."), source=str(converted_vitb))
    return proposals.eval()


@pytest.fixture(scope="module")
def computed(model: Mask2FormerProposals, photo_640: Tensor) -> dict[str, Tensor]:
    """Every intermediate that has a reference number, by its name there."""
    with torch.inference_mode():
        images = model.prepare(photo_640)
        features = model.backbone_features(images)
        mask_features, scales = model.pixel_decoder(features)
    named = dict(zip(SWIN, features, strict=True))
    named |= {f"pd_ms{i}": scale for i, scale in enumerate(scales)}
    return {"in_norm": images, "pd_mask_features": mask_features, **named}


@pytest.fixture(scope="module")
def proposals(model: Mask2FormerProposals, photo_640: Tensor) -> Proposals:
    with torch.inference_mode():
        return model(photo_640)


@pytest.fixture(scope="module")
def layers(model: Mask2FormerProposals, photo_640: Tensor) -> tuple[LayerPrediction, ...]:
    with torch.no_grad():
        return model.forward_layers(photo_640)


def test_memory_of_the_conversion(converted_vitb: Path) -> None:
    measured = json.loads((converted_vitb / "memory.json").read_text())
    if measured["peak"] is None:
        pytest.skip("this system does not tell the peak memory of a process")
    assert measured["peak"] <= 1.5 * measured["checkpoint"]


def test_converted_model_is_the_preset(converted_vitb: Path) -> None:
    config, tensors = load_folder(converted_vitb)
    assert config["preset"] == "vit_b"
    assert {name.partition(".")[0] for name in tensors} == {
        "proposals",
        "clip",
        "region_clip",
        "integration",
        "void",
    }


def assert_close(found: np.ndarray, expected: np.ndarray, tolerance: float) -> None:
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= tolerance


@pytest.mark.parametrize(
    "name",
    [
        "swin_res2__c16_s10",
        "swin_res3__c16_s5",
        "swin_res4__c16_s3",
        "swin_res5__c16_s2",
        "in_norm__s16",
        "pd_mask_features__c16_s8",
        "pd_ms0__c16_s1",
        "pd_ms1__c16_s2",
        "pd_ms2__c16_s4",
    ],
)
def test_features(
    name: str, computed: dict[str, Tensor], reference: dict[str, np.ndarray], sample: Sample
) -> None:
    expected = reference[name]
    found = sample(computed[name.partition("__")[0]], name)[0]
    assert_close(found, expected, TOLERANCE * np.abs(expected).max())


def test_padding_is_zero_after_normalisation(
    computed: dict[str, Tensor], reference: dict[str, np.ndarray]
) -> None:
    expected = reference["in_norm_lastcols"]  # (3, 10, 16): the last 16 columns, 11 of them padding
    assert not expected[..., 5:].any()
    assert not computed["in_norm"][..., 853:].any()
    rows = computed["in_norm"][0, :, :: 640 // expected.shape[1], -16:].numpy()
    assert_close(rows, expected, TOLERANCE * np.abs(expected).max())


def test_mask_logits(
    layers: tuple[LayerPrediction, ...], reference: dict[str, np.ndarray], sample: Sample
) -> None:
    logits = layers[-1].mask_logits
    assert logits.shape == (1, 100, 160, 216)
    name = "pred_masks__s6"
    assert_close(sample(logits, name)[0], reference[name], MASK_LOGITS)
    statistics = torch.stack([logits[0].mean((1, 2)), logits[0].std((1, 2))]).numpy()
    assert_close(statistics, reference["pred_masks_mean_std"], MASK_LOGITS)


def test_auxiliary_outputs(
    layers: tuple[LayerPrediction, ...], reference: dict[str, np.ndarray], sample: Sample
) -> None:
    auxiliary = layers[:-1]
    assert len(auxiliary) == 10
    logits = torch.cat([layer.mask_logits for layer in auxiliary])  # (10, 100, 160, 216)
    name = "aux_pred_masks__s20"
    assert_close(sample(logits, name), reference[name], MASK_LOGITS)
    embeddings = torch.cat(
        [layer.embeddings for layer in auxiliary if layer.embeddings is not None]
    )
    name = "aux_prop_emb__q10_c8"
    expected = reference[name]
    assert_close(sample(embeddings, name), expected, TOLERANCE * np.abs(expected).max())


def test_attention_masks(
    layers: tuple[LayerPrediction, ...], reference: dict[str, np.ndarray]
) -> None:
    """Where each layer may not look, counted per query; rounding may flip a pixel on the border."""
    expected = reference["attn_mask_true_count"]  # (11, 100)
    sizes = [(20, 27), (40, 54), (80, 108)]
    counts = []
    for index, layer in enumerate(layers):
        small = F.interpolate(layer.mask_logits, size=sizes[index % 3], mode="bilinear")
        counts.append((small.sigmoid() < 0.5).flatten(2).sum(-1)[0].numpy())
    assert np.abs(np.stack(counts) - expected).max() <= 2


def test_inference_takes_the_same_way_as_training(
    proposals: Proposals, layers: tuple[LayerPrediction, ...]
) -> None:
    last = layers[-1]
    assert proposals.embeddings is not None
    assert last.embeddings is not None
    assert_close(
        proposals.embeddings.numpy(),
        last.embeddings.numpy(),
        TOLERANCE * float(last.embeddings.abs().max()),
    )


def test_proposals(proposals: Proposals, reference: dict[str, np.ndarray], sample: Sample) -> None:
    expected = reference["prop_emb_before_sim"]  # (100, 512)
    assert proposals.embeddings is not None
    assert_close(proposals.embeddings[0].numpy(), expected, TOLERANCE * np.abs(expected).max())

    assert proposals.masks.shape == (1, 100, 640, 853)
    name = "mask_prob__s16"
    assert_close(sample(proposals.masks, name)[0], reference[name], MASK_LOGITS)

    inside = proposals.masks[0] > 0.4
    foreground = inside.flatten(1).sum(1).numpy()
    valid = foreground > 0
    np.testing.assert_array_equal(valid, reference["valid"])
    assert valid.sum() == 62
    boxes = []
    for mask in inside[torch.from_numpy(valid)].numpy():
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        boxes.append((columns[0], rows[0], columns[-1] + 1, rows[-1] + 1))
    np.testing.assert_array_equal(np.array(boxes), reference["boxes_xyxy"])
