"""Mask2Former proposals: against transformers' own layers, and by hand where that is possible."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import Mask2FormerForUniversalSegmentation

from scanseg.contracts import InputError, ProposalGenerator
from scanseg.proposals import quick_layers
from scanseg.proposals.mask2former import EmbeddingHead, Mask2FormerProposals
from scanseg.proposals.quick_layers import OneDnnLinear, sample_levels

TINY: dict[str, Any] = {
    "joint_width": 24,
    "backbone": {
        "model_type": "swin",
        "image_size": 32,
        "embed_dim": 16,
        "depths": [2, 1, 1, 1],
        "num_heads": [1, 2, 2, 4],
        "window_size": 4,
    },
    "queries": 7,
    "width": 32,
    "heads": 4,
    "pixel_layers": 2,
    "pixel_feedforward": 48,
    "decoder_layers": 4,
    "decoder_feedforward": 40,
    "head_width": 20,
}


def tiny(**changes: Any) -> Mask2FormerProposals:
    """A small model whose weights are large enough that masks differ and samples wander."""
    torch.manual_seed(0)
    model = Mask2FormerProposals(**{**TINY, **changes}).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if "sampling_offsets.bias" in name or "queries" in name:
                parameter.copy_(2 * noise)
            elif parameter.ndim > 1:
                parameter.copy_(1.5 * noise * parameter[0].numel() ** -0.5)
            else:
                parameter.add_(0.1 * noise)
    return model


@pytest.fixture(scope="module")
def model() -> Mask2FormerProposals:
    return tiny()


@pytest.fixture(scope="module")
def photos() -> Tensor:
    generator = torch.Generator().manual_seed(2)
    return torch.randint(0, 256, (2, 3, 70, 101), generator=generator, dtype=torch.uint8)


# --------------------------------------------------------------------------------------
# The frame: normalisation, padding, cutting
# --------------------------------------------------------------------------------------


def test_prepare_normalises_then_pads_with_zeros(model: Mask2FormerProposals) -> None:
    pixels = torch.full((1, 3, 33, 65), 200, dtype=torch.uint8)
    images = model.prepare(pixels)
    assert images.shape == (1, 3, 64, 96)
    # (200 - 255 * mean) / (255 * std): 76.325 / 58.395, 83.72 / 57.12, 96.47 / 57.375
    expected = torch.tensor([1.307047, 1.465686, 1.681394])
    torch.testing.assert_close(images[0, :, 32, 64], expected, rtol=1e-5, atol=0)
    assert not images[..., 33:, :].any()
    assert not images[..., 65:].any()


def test_sizes_that_need_no_padding_get_none(model: Mask2FormerProposals) -> None:
    assert model.prepare(torch.zeros(1, 3, 64, 32)).shape == (1, 3, 64, 32)


@pytest.mark.parametrize("shape", [(3, 64, 64), (1, 4, 64, 64), (1, 3, 0, 64), (0, 3, 8, 8)])
def test_other_shapes_are_refused(model: Mask2FormerProposals, shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match=r"\(B, 3, h, w\)"):
        model(torch.zeros(shape))


@torch.no_grad()
def test_masks_are_upsampled_logits_in_the_frame_of_the_photo(
    model: Mask2FormerProposals, photos: Tensor
) -> None:
    found = model(photos)
    assert isinstance(model, ProposalGenerator)
    assert found.masks.shape == (2, 7, 70, 101)
    assert found.embeddings is not None
    assert found.embeddings.shape == (2, 7, 24)
    logits = model.forward_layers(photos)[-1].mask_logits
    assert logits.shape == (2, 7, 24, 32)  # 96 x 128 padded, a quarter of it
    full = F.interpolate(logits, size=(96, 128), mode="bilinear", align_corners=False)
    torch.testing.assert_close(found.masks, full.sigmoid()[..., :70, :101])


@torch.no_grad()
def test_two_photos_are_twice_one_photo(model: Mask2FormerProposals, photos: Tensor) -> None:
    both = model(photos)
    for index in range(2):
        one = model(photos[index : index + 1].float())  # and floats are as good as bytes
        torch.testing.assert_close(one.masks[0], both.masks[index], atol=1e-4, rtol=0)
        assert both.embeddings is not None
        assert one.embeddings is not None
        torch.testing.assert_close(one.embeddings[0], both.embeddings[index], atol=1e-4, rtol=1e-4)
    assert not torch.allclose(both.masks[0], both.masks[1], atol=1e-2)


@torch.no_grad()
@pytest.mark.parametrize("size", [(1, 200), (200, 1), (1, 1)])
def test_photos_one_pixel_high_or_wide(size: tuple[int, int]) -> None:
    masks = tiny(width=64)(torch.full((1, 3, *size), 90, dtype=torch.uint8)).masks
    assert masks.shape == (1, 7, *size)
    assert masks.isfinite().all()


# --------------------------------------------------------------------------------------
# The decoder against transformers' own
# --------------------------------------------------------------------------------------


@pytest.mark.parametrize("gradients", [False, True])
def test_every_layer_is_what_transformers_computes(
    model: Mask2FormerProposals, photos: Tensor, gradients: bool
) -> None:
    with torch.no_grad():
        mask_features, scales = model.pixel_decoder(model.backbone_features(model.prepare(photos)))
        stock = model.model.transformer_module(scales, mask_features, output_hidden_states=True)
    with torch.set_grad_enabled(gradients):
        ours = model._decode(mask_features, scales, every_layer=True)
    assert len(ours) == len(stock.masks_queries_logits) == 5
    for index, (states, logits) in enumerate(ours):
        expected = stock.intermediate_hidden_states[index].transpose(0, 1)
        torch.testing.assert_close(states, expected, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(logits, stock.masks_queries_logits[index], atol=1e-3, rtol=1e-4)
        # the masks do decide where later layers look, or this test would prove little
        inside = logits > 0
        assert inside.any()
        assert not inside.all()


def test_decisions_without_gradients_are_those_of_double_precision(
    model: Mask2FormerProposals, photos: Tensor
) -> None:
    with torch.no_grad():
        mask_features, scales = model.pixel_decoder(model.backbone_features(model.prepare(photos)))
        found = model._decode(mask_features, scales, every_layer=True)[-1][0]
        exact = (
            tiny()
            .double()
            ._decode(mask_features.double(), tuple(s.double() for s in scales), every_layer=True)[
                -1
            ][0]
        )
    assert (found - exact).abs().max() < 2e-6


@torch.no_grad()
def test_an_empty_mask_attends_everywhere() -> None:
    model = tiny(decoder_layers=1)
    block = model.model.transformer_module.decoder.mask_predictor.mask_embedder.layers[-1]
    block.layers[0].weight.zero_()
    block.layers[0].bias.zero_()
    features = [torch.randn(1, 32, 16, 16)] + [torch.randn(1, 32, s, s) for s in (2, 4, 8)]

    def states(mask_value: float) -> Tensor:
        mask_features = torch.full_like(features[0], mask_value)
        block.layers[0].bias.fill_(1.0)
        return model._decode(mask_features, tuple(features[1:]), every_layer=False)[-1][0]

    torch.testing.assert_close(states(-1.0), states(1.0))  # nowhere over 1/2, everywhere over 1/2


def test_embedding_head_by_hand() -> None:
    head = EmbeddingHead(2, 2, 1)
    with torch.no_grad():
        head.fc1.weight.copy_(torch.tensor([[1.0, 0.0], [0.0, -1.0]]))
        head.fc1.bias.copy_(torch.tensor([0.5, 0.0]))
        head.fc2.weight.copy_(torch.tensor([[2.0, 3.0]]))
        head.fc2.bias.copy_(torch.tensor([-1.0]))
    # relu(1 + 0.5), relu(-2) -> 2 * 1.5 + 3 * 0 - 1 = 2;  relu(-3 + 0.5), relu(4) -> 12 - 1
    found = head(torch.tensor([[[1.0, 2.0], [-3.0, -4.0]]]))
    torch.testing.assert_close(found, torch.tensor([[[2.0], [11.0]]]))


# --------------------------------------------------------------------------------------
# Deformable attention
# --------------------------------------------------------------------------------------


def test_samples_by_hand() -> None:
    # one head of one channel; a 2 x 3 map, then a 1 x 1 map
    value = torch.tensor([0.0, 1.0, 2.0, 10.0, 11.0, 12.0, 100.0]).view(7, 1, 1)
    shapes = [(2, 3), (1, 1)]
    # the centre of the first map's pixel (x=1, y=0) is at ((1 + 0.5) / 3, 0.5 / 2)
    reference = torch.tensor([[[0.5, 0.25], [0.5, 0.5]]])
    offsets = torch.zeros(1, 1, 2, 1, 2)

    def sample(first: tuple[float, float], weights: tuple[float, float]) -> float:
        offsets[0, 0, 0, 0] = torch.tensor(first)
        shares = torch.tensor(weights).view(1, 1, 2, 1)
        return float(sample_levels(value, shapes, reference, offsets, shares))

    assert sample((0, 0), (1, 0)) == 1
    assert sample((0.5, 0), (1, 0)) == 1.5  # between 1 and 2
    assert (
        sample((0.25, 0.5), (1, 0)) == 6.25
    )  # 0.5 * (0.75 * 1 + 0.25 * 2 + 0.75 * 11 + 0.25 * 12)
    assert sample((1.5, 0), (1, 0)) == 1  # half of 2, half outside
    assert sample((0, -0.75), (1, 0)) == 0.25  # a quarter of 1
    assert sample((5, 0), (1, 0)) == 0
    assert sample((0, 0), (0.25, 0.75)) == 75.25  # 0.25 * 1 + 0.75 * 100


def test_quick_path_is_the_stock_path(model: Mask2FormerProposals) -> None:
    layer = model.model.pixel_level_module.decoder.encoder.layers[0].self_attn
    generator = torch.Generator().manual_seed(3)
    shapes = [(3, 5), (6, 10), (12, 20)]
    count = sum(h * w for h, w in shapes)
    arguments: dict[str, Any] = {
        "hidden_states": torch.randn(2, count, 32, generator=generator),
        "encoder_hidden_states": torch.randn(2, count, 32, generator=generator),
        "position_embeddings": torch.randn(2, count, 32, generator=generator),
        "reference_points": torch.rand(2, count, 3, 2, generator=generator) * 1.4 - 0.2,
        "spatial_shapes_list": shapes,
    }
    with torch.no_grad():
        quick, none = layer(**arguments)
    with torch.enable_grad():
        stock, weights = layer(**arguments)
    assert none is None
    assert weights is not None
    torch.testing.assert_close(quick, stock, atol=1e-5, rtol=1e-5)


def test_chunks_do_not_change_the_sums() -> None:
    torch.manual_seed(0)
    shapes = [(4, 4), (2, 2)]
    value, reference = torch.randn(20, 2, 3), torch.rand(9, 2, 2)
    offsets, weights = torch.randn(9, 2, 2, 4, 2), torch.rand(9, 2, 2, 4)
    whole = sample_levels(value, shapes, reference, offsets, weights)
    parts = sample_levels(value, shapes, reference, offsets, weights, chunk=2)
    torch.testing.assert_close(whole, parts, atol=0, rtol=0)


# --------------------------------------------------------------------------------------
# Windows and linear layers
# --------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(64, 64), (96, 160), (32, 224)])
def test_windows_without_their_padding_are_the_stock_windows(size: tuple[int, int]) -> None:
    # windows of 5 fit no map, so that shifted windows are padded as well
    model = tiny(backbone={**TINY["backbone"], "window_size": 5})
    images = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        quick = model.backbone_features(images)
    stock = model.backbone_features(images)  # gradients: transformers' own layers
    for ours, theirs in zip(quick, stock, strict=True):
        torch.testing.assert_close(ours, theirs.detach(), atol=1e-4, rtol=1e-4)


def test_onednn_multiplies_as_torch_does() -> None:
    plain, quick = torch.nn.Linear(37, 19), torch.nn.Linear(37, 19)
    quick.load_state_dict(plain.state_dict())
    quick.__class__ = OneDnnLinear
    x = torch.randn(2, 5, 37, generator=torch.Generator().manual_seed(6))
    with torch.no_grad():
        torch.testing.assert_close(quick(x), plain(x), atol=1e-5, rtol=1e-5)
        assert quick.double()(x.double()).dtype == torch.float64
    quick.float()(x).sum().backward()
    assert quick.weight.grad is not None


@pytest.mark.parametrize("amd", [False, True])
def test_onednn_is_for_amd(amd: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quick_layers, "prefers_onednn", lambda: amd)
    head = Mask2FormerProposals(**TINY).model.transformer_module.decoder.layers[0].fc1
    assert isinstance(head, OneDnnLinear) == amd


# --------------------------------------------------------------------------------------
# Training
# --------------------------------------------------------------------------------------


def test_deep_supervision_reaches_every_parameter(photos: Tensor) -> None:
    model = tiny().train()
    layers = model.forward_layers(photos[:, :, :64, :64])
    assert len(layers) == TINY["decoder_layers"] + 1
    loss = torch.zeros(())
    for layer in layers:
        assert layer.embeddings is not None
        loss = loss + layer.mask_logits.square().mean() + layer.embeddings.square().mean()
    loss.backward()  # type: ignore[no-untyped-call]
    lacking = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    # a softmax does not see a constant added to all keys
    assert not [n for n in lacking if "k_proj.bias" not in n]


def test_last_training_output_is_the_inference_output(
    model: Mask2FormerProposals, photos: Tensor
) -> None:
    with torch.no_grad():
        inference = model(photos)
    last = model.forward_layers(photos)[-1]
    assert inference.embeddings is not None
    assert last.embeddings is not None
    torch.testing.assert_close(inference.embeddings, last.embeddings, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_autocast_stops_at_the_pixel_decoder(model: Mask2FormerProposals, photos: Tensor) -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        features = model.backbone_features(model.prepare(photos))
        mask_features, scales = model.pixel_decoder(features)
    assert mask_features.dtype == torch.float32
    assert {s.dtype for s in scales} == {torch.float32}


# --------------------------------------------------------------------------------------
# Building
# --------------------------------------------------------------------------------------


def test_architecture_is_plain_and_rebuilds_the_model(model: Mask2FormerProposals) -> None:
    described = json.loads(json.dumps(model.architecture))
    again = Mask2FormerProposals(**described)
    again.load_state_dict(model.state_dict())
    assert again.architecture == model.architecture


def test_decoder_layers_are_as_many_as_named(model: Mask2FormerProposals) -> None:
    assert len(model.model.transformer_module.decoder.layers) == 4


@torch.no_grad()
def test_timm_backbone(photos: Tensor) -> None:
    backbone = {"model_type": "timm_backbone", "backbone": "resnet18", "out_indices": [1, 2, 3, 4]}
    model = Mask2FormerProposals(**{**TINY, "backbone": backbone}).eval()
    assert model(photos).masks.shape == (2, 7, 70, 101)


def test_backbone_with_other_strides(photos: Tensor) -> None:
    backbone = {"model_type": "timm_backbone", "backbone": "resnet18", "out_indices": [0, 1, 2, 3]}
    model = Mask2FormerProposals(**{**TINY, "backbone": backbone}).eval()
    with pytest.raises(InputError, match="strides 4, 8, 16, 32"):
        model(photos)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"width": 48}, "multiple of 32"),
        ({"heads": 3}, "heads=3"),
        ({"backbone": {"model_type": "swim"}}, "no backbone type 'swim'"),
        ({"min_objectness": 2.0}, r"\[0, 1\]"),
        ({"min_objectness": 0.5}, "class head"),
    ],
)
def test_wrong_arguments(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Mask2FormerProposals(**{**TINY, **changes})


# --------------------------------------------------------------------------------------
# Stock models of the hub
# --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def stock(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    """A small Mask2FormerForUniversalSegmentation and the folder that transformers saved it to."""
    config = tiny().model.config
    config.id2label = {i: str(i) for i in range(5)}
    torch.manual_seed(4)
    stock = Mask2FormerForUniversalSegmentation(config).eval()
    stock.model.load_state_dict(tiny().model.state_dict(), strict=False)
    folder = tmp_path_factory.mktemp("stock")
    stock.save_pretrained(folder)
    return stock, folder


@torch.no_grad()
def test_stock_masks(stock: tuple[Any, Path], photos: Tensor) -> None:
    original, folder = stock
    found = Mask2FormerProposals.from_transformers(folder)
    proposals = found(photos)
    assert proposals.embeddings is None
    expected = original(found.prepare(photos))
    logits = F.interpolate(expected.masks_queries_logits, size=(96, 128), mode="bilinear")
    torch.testing.assert_close(proposals.masks, logits.sigmoid()[..., :70, :101], atol=1e-4, rtol=0)


@torch.no_grad()
def test_proposals_that_are_no_object_get_empty_masks(
    stock: tuple[Any, Path], photos: Tensor
) -> None:
    original, folder = stock
    everything = Mask2FormerProposals.from_transformers(folder)(photos)
    classes = original(tiny().prepare(photos)).class_queries_logits
    objectness = 1 - classes.softmax(-1)[..., -1]
    threshold = float(objectness.median())
    some = Mask2FormerProposals.from_transformers(folder, min_objectness=threshold)(photos)
    keep = objectness >= threshold
    assert keep.any()
    assert not keep.all()
    torch.testing.assert_close(some.masks[keep], everything.masks[keep])
    assert not some.masks[~keep].any()


@torch.no_grad()
def test_names_of_older_transformers(
    stock: tuple[Any, Path], photos: Tensor, tmp_path: Path
) -> None:
    _, folder = stock
    old = {}
    for name, tensor in load_file(folder / "model.safetensors").items():
        for new, former in OLD_NAMES:
            name = name.replace(new, former)
        old[name] = tensor
    assert any("attention.self.query" in name for name in old)
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    save_file(old, tmp_path / "model.safetensors", metadata={"format": "pt"})
    torch.testing.assert_close(
        Mask2FormerProposals.from_transformers(tmp_path)(photos).masks,
        Mask2FormerProposals.from_transformers(folder)(photos).masks,
    )


OLD_NAMES = (
    ("encoder.swin.", "encoder."),
    ("attention.q_proj", "attention.self.query"),
    ("attention.k_proj", "attention.self.key"),
    ("attention.v_proj", "attention.self.value"),
    ("attention.o_proj", "attention.output.dense"),
    ("attention.relative_position_bias.relative", "attention.self.relative"),
    ("mlp.fc1", "intermediate.dense"),
    ("mlp.fc2", "output.dense"),
)


def test_loading_a_stock_model_is_silent(
    stock: tuple[Any, Path], capfd: pytest.CaptureFixture[str]
) -> None:
    Mask2FormerProposals.from_transformers(stock[1])
    assert capfd.readouterr() == ("", "")


def test_folders_that_are_no_mask2former(stock: tuple[Any, Path], tmp_path: Path) -> None:
    _, folder = stock
    with pytest.raises(InputError, match=r"no config\.json"):
        Mask2FormerProposals.from_transformers(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(InputError, match="bert model, not a mask2former"):
        Mask2FormerProposals.from_transformers(tmp_path)
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    with pytest.raises(InputError, match=r"no model\.safetensors"):
        Mask2FormerProposals.from_transformers(tmp_path)
    lacking = load_file(folder / "model.safetensors")
    del lacking["model.transformer_module.queries_features.weight"]
    save_file(lacking, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match=r"1 of the weights .* first \S+queries_features"):
        Mask2FormerProposals.from_transformers(tmp_path)
    config = json.loads((folder / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "pre_norm": True}))
    with pytest.raises(InputError, match="pre_norm=True"):
        Mask2FormerProposals.from_transformers(tmp_path)
