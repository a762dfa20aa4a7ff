"""The embedded preset's mask decoder; values worked out by hand where there are any."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from scanseg.contracts import ClipTokens, InputError
from scanseg.encoders.embedded import EmbeddedEncoder
from scanseg.proposals.dense_head import DenseHead
from scanseg.proposals.mask_decoder import (
    LAYERS,
    DecodedProposals,
    MaskDecoder,
    load_mask_decoder,
    pooled_embeddings,
)
from scanseg.proposals.masked_attention import MaskedDecoder
from scanseg.proposals.superpixels import SuperpixelProposals
from scanseg.weights import write_sized


def small(queries: int = 5) -> MaskDecoder:
    torch.manual_seed(0)
    return MaskDecoder(queries=queries, width=32, layers=2, feedforward=32).eval()


def tokens(height: int = 64, width: int = 96) -> tuple[torch.Tensor, ClipTokens]:
    draw = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (1, 3, height, width), generator=draw, dtype=torch.uint8)
    return pixels, EmbeddedEncoder().encode_image(pixels, layers=LAYERS)


def test_a_prediction_per_layer_and_one_before() -> None:
    _, context = tokens(70, 90)  # padded to 96 x 96
    found = small()(context)
    assert len(found) == 3
    for one in found:
        assert one.mask_logits.shape == (1, 5, 24, 24)
        assert one.object_logits.shape == (1, 5, 2)
        assert one.states.shape == (1, 5, 32)


def test_the_decoder_equals_that_of_transformers() -> None:
    from transformers import Mask2FormerConfig
    from transformers.models.mask2former.modeling_mask2former import Mask2FormerTransformerModule

    config = Mask2FormerConfig(
        hidden_dim=32, feature_size=32, mask_feature_size=32, num_queries=7, num_attention_heads=4,
        decoder_layers=5, dim_feedforward=24, dropout=0.0,
    )  # fmt: skip
    torch.manual_seed(1)
    theirs = Mask2FormerTransformerModule(32, config).eval()
    ours = MaskedDecoder(32, queries=7, layers=4, heads=4, feedforward=24).eval()
    for value in theirs.parameters():
        torch.nn.init.normal_(value, std=0.3)
    ours.load_state_dict(theirs.state_dict())
    scales = [torch.randn(2, 32, 2 * n, 3 * n) for n in (1, 2, 4)]
    features = torch.randn(2, 32, 16, 24)
    with torch.inference_mode():
        expected, found = theirs(scales, features), ours(scales, features)
    for logits, states, theirs_logits, theirs_states in zip(
        found.mask_logits, found.states, expected.masks_queries_logits,
        expected.intermediate_hidden_states, strict=True,
    ):  # fmt: skip
        torch.testing.assert_close(logits, theirs_logits, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(states, theirs_states.transpose(0, 1), atol=1e-4, rtol=1e-4)


def test_an_empty_mask_looks_everywhere() -> None:
    decoder = MaskedDecoder(16, queries=2, layers=1, heads=2, feedforward=8).eval()
    scales = [torch.randn(1, 16, 2, 2) for _ in range(3)]
    nowhere = torch.zeros(1, 16, 4, 4)  # logits of 0 are one half, so make them negative
    last = decoder.decoder.mask_predictor.mask_embedder[2][0]
    torch.nn.init.zeros_(last.weight)
    torch.nn.init.constant_(last.bias, -1.0)
    found = decoder(scales, nowhere + 1.0)
    assert (found.mask_logits[0] < 0).all()
    assert found.states[1].isfinite().all()


def test_mean_embedding_under_a_mask() -> None:
    dense = torch.tensor([[[[3.0, 0.0]], [[0.0, 4.0]]]])  # (1, 2, 1, 2)
    masks = torch.tensor([[[[1.0, 0.0]], [[0.5, 0.5]], [[0.0, 0.0]]]])
    found = pooled_embeddings(masks, dense)[0]
    torch.testing.assert_close(found[0], torch.tensor([1.0, 0.0]))
    torch.testing.assert_close(found[1], torch.tensor([0.6, 0.8]))  # (1.5, 2) / 2.5
    torch.testing.assert_close(found[2], torch.zeros(2))


def test_queries_first_then_superpixels() -> None:
    pixels, context = tokens(64, 90)
    superpixels = SuperpixelProposals(DenseHead().eval(), cuts=(3,), superpixels=20)
    made = DecodedProposals(superpixels, small(), superpixel_objectness=0.25)
    with torch.inference_mode():
        found = made(pixels, context)
        regions = superpixels(pixels, context)
        last = made.decoder(context)[-1]
    queries, others = 5, regions.masks.shape[1]
    assert found.masks.shape == (1, queries + others, 64, 90)
    assert found.embeddings is not None
    assert found.objectness is not None
    torch.testing.assert_close(found.masks[:, queries:], regions.masks)
    torch.testing.assert_close(found.embeddings[:, queries:], regions.embeddings)
    assert (found.objectness[0, queries:] == 0.25).all()
    objectness = last.object_logits.softmax(-1)[..., 0]
    torch.testing.assert_close(found.objectness[:, :queries], objectness)
    logits = torch.nn.functional.interpolate(
        last.mask_logits, (64, 96), mode="bilinear", align_corners=False
    )
    torch.testing.assert_close(found.masks[:, :queries], logits[..., :90].sigmoid())
    norms = found.embeddings[0, :queries].norm(dim=-1)
    torch.testing.assert_close(norms, torch.ones(queries))


def test_superpixels_without_a_head_are_refused() -> None:
    with pytest.raises(InputError, match="dense head"):
        DecodedProposals(SuperpixelProposals(), small())


def test_weights_come_back_from_the_file(tmp_path: Path) -> None:
    path = tmp_path / "decoder.safetensors"
    decoder = small()
    write_sized(path, decoder, {"seed": 0})
    loaded = load_mask_decoder(path)
    assert dict(loaded.config) == dict(decoder.config)
    for name, value in decoder.state_dict().items():
        torch.testing.assert_close(loaded.state_dict()[name], value.half().float())


def test_files_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no trained mask decoder"):
        load_mask_decoder(tmp_path / "nothing")
    (tmp_path / "text").write_text("hello")
    with pytest.raises(InputError, match="not a safetensors file"):
        load_mask_decoder(tmp_path / "text")
    from safetensors.torch import save_file

    save_file({"a": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(InputError, match="is no trained mask decoder"):
        load_mask_decoder(tmp_path / "other.safetensors")
