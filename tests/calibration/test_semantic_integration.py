"""SIM against its equations, written out: plain DFT, attention by hand, every switch."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scanseg.calibration import (
    LowFrequencyEnhancement,
    SemanticIntegration,
    SemanticIntegrationConfig,
    low_frequency_enhancement,
    low_frequency_gain,
)
from scanseg.contracts import ClipTokens, InputError

B, Q, D, V, GRID = 2, 5, 16, 6, (4, 3)


def config(**changes: Any) -> SemanticIntegrationConfig:
    small = {"layers": (1, 3), "sigmas": (2.0, 1.0), "heads": 4, "encoder_width": 32}
    return SemanticIntegrationConfig(**{**small, **changes})


def module(widths: int | tuple[int, ...] = V, **changes: Any) -> SemanticIntegration:
    torch.manual_seed(0)
    return SemanticIntegration(config(**changes), joint_width=D, vision_widths=widths).eval()


def clip_tokens(widths: tuple[int, int] = (V, V), seed: int = 1) -> ClipTokens:
    generator = torch.Generator().manual_seed(seed)
    N = GRID[0] * GRID[1]
    patches = {
        layer: torch.randn(B, N, width, generator=generator)
        for layer, width in zip((1, 3), widths, strict=True)
    }
    pooled = F.normalize(torch.randn(B, D, generator=generator), dim=-1)
    return ClipTokens(patches, cls={}, grids={1: GRID, 3: GRID}, pooled=pooled)


def proposals() -> Tensor:
    return torch.randn(B, Q, D, generator=torch.Generator().manual_seed(2))


# ------------------------------------------------------------------ eq. 1


@pytest.mark.parametrize(
    ("grid", "sigma", "gain"),
    [
        (14, 9, 0.454), (14, 7, 0.632), (14, 3, 0.996),
        (16, 9, 0.546), (16, 7, 0.729), (16, 3, 0.999),
    ],
)  # fmt: skip
def test_gain_of_the_mean(grid: int, sigma: float, gain: float) -> None:
    """(0, 0) is g // 2 bins from the centre in both directions: 1 - exp(-2 (g // 2)^2 / 2 s^2)."""
    assert math.isclose(1 - math.exp(-((grid // 2) ** 2) / sigma**2), gain, abs_tol=6e-4)
    assert low_frequency_gain((grid, grid), sigma)[0, 0].item() == pytest.approx(gain, abs=6e-4)
    # a constant map is all mean: with the identity for conv and ReLU it grows by 1 + gain
    constant = torch.full((1, 2, grid, grid), 3.0)
    enhanced = low_frequency_enhancement(constant, sigma, lambda spectrum: spectrum)
    assert torch.allclose(enhanced, constant * (1 + gain), atol=3 * 6e-4)


def test_gain_is_zero_at_the_centre_and_grows_outwards() -> None:
    gain = low_frequency_gain((5, 4), sigma=2.0)
    assert gain.shape == (5, 4)
    assert gain[2, 2] == 0
    assert gain[2, 1].item() == pytest.approx(1 - math.exp(-1 / 8))
    assert gain[0, 0].item() == pytest.approx(1 - math.exp(-8 / 8))


@pytest.mark.parametrize("convolutions", [1, 2])
def test_enhancement_against_a_plain_dft(convolutions: int) -> None:
    torch.manual_seed(0)
    (h, w), sigma = GRID, 1.5
    enhance = LowFrequencyEnhancement(V, convolutions=convolutions).double()
    enhance.conv1.weight.data *= 3  # so that the spectrum's part is as large as the input
    features = torch.randn(1, V, h, w, dtype=torch.float64)

    def dft_matrix(n: int) -> Tensor:
        k = torch.arange(n, dtype=torch.float64)
        angle = -2 * math.pi * k[:, None] * k[None, :] / n
        return torch.complex(angle.cos(), angle.sin())

    spectrum = torch.zeros(V, h, w, dtype=torch.complex128)
    for v in range(V):
        spectrum[v] = dft_matrix(h) @ features[0, v].to(torch.complex128) @ dft_matrix(w)
    for y in range(h):
        for x in range(w):
            distance = (y - h // 2) ** 2 + (x - w // 2) ** 2
            spectrum[:, y, x] *= 1 - math.exp(-distance / (2 * sigma**2))
    channels = torch.cat([spectrum.real, spectrum.imag])  # (2V, h, w), real parts first
    for number, conv in enumerate((enhance.conv1, enhance.conv2)[:convolutions]):
        mixed = torch.einsum("oi,ihw->ohw", conv.weight[:, :, 0, 0], channels)
        channels = mixed + conv.bias[:, None, None]
        if number == 0:
            channels = channels.clamp(min=0)
    changed = torch.complex(channels[:V], channels[V:])
    back = torch.stack(
        [dft_matrix(h).conj() @ changed[v] @ dft_matrix(w).conj() / (h * w) for v in range(V)]
    )
    expected = back.real + features[0]
    assert torch.allclose(enhance(features, sigma)[0], expected, atol=1e-5)
    assert (expected - features[0]).abs().max() > 0.1


def test_enhancement_keeps_the_dtype_and_works_in_bfloat16() -> None:
    features = torch.randn(1, V, *GRID)
    enhance = LowFrequencyEnhancement(V)
    exact = enhance(features, 2.0)
    rough = enhance.bfloat16()(features.bfloat16(), 2.0)
    assert rough.dtype == torch.bfloat16
    assert torch.allclose(rough.float(), exact, atol=0.1)


def test_enhancement_is_not_autocast() -> None:
    features, enhance = torch.randn(1, V, *GRID), LowFrequencyEnhancement(V)
    exact = enhance(features, 2.0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(enhance(features, 2.0), exact)


def test_tokens_are_rounded_after_eq_1() -> None:
    sim, clip = module(token_projection=False), clip_tokens()
    exact = sim.memory(clip)
    assert torch.equal(sim.memory(clip, dtype=torch.bfloat16), exact.bfloat16())


# ------------------------------------------------------------------ eq. 2 and 3


def attention_by_hand(attention: nn.MultiheadAttention, x: Tensor, memory: Tensor) -> Tensor:
    """softmax(q k / sqrt(d)) v per head, for query, key and value of the same width."""
    heads = attention.num_heads
    weights = attention.in_proj_weight.chunk(3)
    biases = attention.in_proj_bias.chunk(3)
    q, k, v = (
        (given @ weight.T + bias).reshape(len(given), -1, heads, D // heads).transpose(1, 2)
        for given, weight, bias in zip((x, memory, memory), weights, biases, strict=True)
    )
    mixed = (q @ k.transpose(-1, -2) / math.sqrt(D // heads)).softmax(-1) @ v  # (B, heads, Q, d)
    return attention.out_proj(mixed.transpose(1, 2).reshape(len(x), -1, D))


def encoder_layer_by_hand(layer: nn.TransformerEncoderLayer, x: Tensor) -> Tensor:
    """Post-norm: attention, feed-forward with ReLU, each with residual and LayerNorm after it."""
    x = layer.norm1(x + attention_by_hand(layer.self_attn, x, x))
    return layer.norm2(x + layer.linear2(layer.linear1(x).clamp(min=0)))


def test_released_structure_written_out() -> None:
    sim, clip, x = module(), clip_tokens(), proposals()
    projected = []
    for layer, sigma in ((1, 2.0), (3, 1.0)):
        grid = clip.patches[layer].transpose(1, 2).reshape(B, V, *GRID)
        enhanced = sim.lfe(grid, sigma).reshape(B, V, -1).transpose(1, 2)
        projection = sim.token_projection
        projected.append(projection.fc2(projection.fc1(enhanced)))
    memory = torch.cat(projected, dim=1)
    assert memory.shape == (B, 24, D)

    expected = x
    assert len(sim.attention) == 5
    for i, attention in enumerate(sim.attention):
        expected = expected + attention_by_hand(attention, expected, memory)
        if i < 4:
            expected = sim.norms[i](expected)
    expected = expected + 0.1 * clip.pooled[:, None]
    expected = expected.reshape(B * Q, 1, D)
    assert len(sim.encoder.layers) == 5
    for layer in sim.encoder.layers:
        expected = encoder_layer_by_hand(layer, expected)
    with torch.no_grad():
        assert torch.allclose(sim(x, clip), expected.reshape(B, Q, D), atol=1e-5)


def test_paper_structure_written_out() -> None:
    sim, clip, x = module(semantics="paper"), clip_tokens(), proposals()
    per_layer = []
    for layer, sigma in ((1, 2.0), (3, 1.0)):
        grid = clip.patches[layer].transpose(1, 2).reshape(B, V, *GRID)
        per_layer.append(sim.lfe(grid, sigma).reshape(B, V, -1).transpose(1, 2))
    F_s = torch.cat(per_layer, dim=1)  # (B, 24, V)
    (attention,) = sim.attention
    heads = 4
    q_bias, k_bias, v_bias = attention.in_proj_bias.chunk(3)

    def split(t: Tensor) -> Tensor:
        return t.reshape(B, -1, heads, D // heads).transpose(1, 2)

    q = split(x @ attention.q_proj_weight.T + q_bias)
    k = split(F_s @ attention.k_proj_weight.T + k_bias)
    v = split(F_s @ attention.v_proj_weight.T + v_bias)
    mixed = (q @ k.transpose(-1, -2) / math.sqrt(D // heads)).softmax(-1) @ v
    expected = attention.out_proj(mixed.transpose(1, 2).reshape(B, Q, D))  # no residual
    (layer,) = sim.encoder.layers
    expected = encoder_layer_by_hand(layer, expected + 0.1 * clip.pooled[:, None])
    with torch.no_grad():
        assert torch.allclose(sim(x, clip), expected, atol=1e-5)


@pytest.mark.parametrize(("interact", "same"), [(False, True), (True, False)])
def test_whether_proposals_see_each_other(interact: bool, same: bool) -> None:
    sim, clip, x = module(proposals_interact=interact), clip_tokens(), proposals()
    other = x.clone()
    other[:, 1:] = 0
    with torch.no_grad():
        first, again = sim(x, clip)[:, 0], sim(other, clip)[:, 0]
    assert torch.allclose(first, again, atol=1e-6) is same


def test_batch_of_two_equals_two_batches_of_one() -> None:
    sim, clip, x = module(), clip_tokens(), proposals()
    with torch.no_grad():
        both = sim(x, clip)
        for i in range(B):
            alone = ClipTokens(
                {layer: t[i : i + 1] for layer, t in clip.patches.items()},
                cls={},
                grids=clip.grids,
                pooled=clip.pooled[i : i + 1],
            )
            assert torch.allclose(both[i], sim(x[i : i + 1], alone)[0], atol=1e-6)


def test_any_number_of_proposals() -> None:
    with torch.no_grad():
        assert module()(torch.zeros(B, 0, D), clip_tokens()).shape == (B, 0, D)
        assert module()(torch.zeros(B, 201, D), clip_tokens()).shape == (B, 201, D)


# ------------------------------------------------------------------ tables 4 and 5


SPATIAL = {"token_projection", "attention", "norms"}


@pytest.mark.parametrize(
    ("switches", "parameters"),
    [
        ({"use_spatial": False}, {"gamma"}),
        ({"use_cls": False, "low_frequency": False}, SPATIAL),
        ({"low_frequency": False}, {*SPATIAL, "gamma"}),
        ({"use_cls": False}, {*SPATIAL, "lfe"}),
        ({}, {*SPATIAL, "lfe", "gamma"}),
    ],
    ids=["cls", "spatial", "cls+spatial", "spatial+lfe", "all"],
)
def test_rows_of_table_4(switches: dict[str, bool], parameters: set[str]) -> None:
    sim = module(**switches)
    found = {name.split(".")[0] for name, _ in sim.named_parameters()}
    assert found == {*parameters, "encoder"}
    assert sim.required_layers == (() if switches.get("use_spatial") is False else (1, 3))
    with torch.no_grad():
        calibrated = sim(proposals(), clip_tokens())
        assert calibrated.shape == (B, Q, D)
        other_photo = clip_tokens(seed=9)
        assert not torch.allclose(calibrated, sim(proposals(), other_photo))


def test_cls_only_ignores_the_patches_and_spatial_only_the_cls() -> None:
    one, other = clip_tokens(), clip_tokens(seed=9)
    mixed = ClipTokens(other.patches, cls={}, grids=other.grids, pooled=one.pooled)
    with torch.no_grad():
        cls_only, spatial_only = module(use_spatial=False), module(use_cls=False)
        x = proposals()
        assert torch.equal(cls_only(x, one), cls_only(x, mixed))
        assert torch.equal(spatial_only(x, other), spatial_only(x, mixed))


def test_rows_of_table_5_change_the_result() -> None:
    x, clip = proposals(), clip_tokens()
    with torch.no_grad():
        usual, wider = module(), module(sigmas=(3.0, 2.0))
        assert not torch.allclose(usual(x, clip), wider(x, clip))
        assert module(layers=(3,), sigmas=(1.0,)).memory(clip).shape == (B, 12, D)


# ------------------------------------------------------------------ structure


def test_parameter_names_that_the_converter_relies_on() -> None:
    names = {name for name, _ in module().named_parameters()}
    assert {
        "lfe.conv1.weight",
        "lfe.conv2.bias",
        "token_projection.fc1.weight",
        "token_projection.fc2.bias",
        "attention.4.in_proj_weight",
        "attention.0.out_proj.bias",
        "norms.3.weight",
        "encoder.layers.4.self_attn.in_proj_weight",
        "encoder.layers.0.linear2.bias",
        "encoder.layers.0.norm1.weight",
        "gamma",
    } <= names
    assert "norms.4.weight" not in names
    assert module().gamma.tolist() == pytest.approx([0.1])


def test_defaults_of_released_and_paper() -> None:
    released, paper = SemanticIntegrationConfig(), SemanticIntegrationConfig(semantics="paper")
    fields = (
        "lfe_convolutions", "token_projection", "attention_layers", "attention_residual",
        "encoder_layers", "proposals_interact",
    )  # fmt: skip
    assert [getattr(released, f) for f in fields] == [2, True, 5, True, 5, False]
    assert [getattr(paper, f) for f in fields] == [1, False, 1, False, 1, True]
    assert SemanticIntegrationConfig(semantics="paper", encoder_layers=3).encoder_layers == 3


def test_layers_of_different_width_have_their_own_weights() -> None:
    sim = module(widths=(6, 10))
    names = {name for name, _ in sim.named_parameters()}
    assert {"lfe.1.conv1.weight", "token_projection.0.fc1.weight"} <= names
    with torch.no_grad():
        assert sim(proposals(), clip_tokens(widths=(6, 10))).shape == (B, Q, D)
    with pytest.raises(InputError, match="token_projection=True"):
        module(widths=(6, 10), token_projection=False)


def test_memory_can_be_shared_between_decoder_layers() -> None:
    sim, clip, x = module(), clip_tokens(), proposals()
    with torch.no_grad():
        assert torch.equal(sim(x, clip, memory=sim.memory(clip)), sim(x, clip))


def test_every_parameter_learns() -> None:
    sim = module().train()
    sim(proposals(), clip_tokens())[..., 0].sum().backward()
    silent = [name for name, p in sim.named_parameters() if p.grad is None]
    assert not silent
    assert sim.gamma.grad.abs() > 0
    assert sim.lfe.conv1.weight.grad.abs().sum() > 0


def test_encoder_layers_start_from_different_values() -> None:
    first, second, *_ = module().encoder.layers
    assert not torch.equal(first.linear1.weight, second.linear1.weight)


# ------------------------------------------------------------------ errors


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"semantics": "both"}, "'released' or 'paper'"),
        ({"use_cls": False, "use_spatial": False}, "without semantic integration"),
        ({"layers": (), "sigmas": ()}, "at least one CLIP layer"),
        ({"sigmas": (9.0,)}, "must pair up"),
        ({"sigmas": (9.0, 0.0)}, "must be positive"),
        ({"lfe_convolutions": 3}, "must be 1 or 2"),
        ({"attention_layers": 0}, "attention_layers must be at least 1"),
        ({"dropout": 1.0}, r"\[0, 1\)"),
    ],
)
def test_wrong_configurations_are_refused(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        config(**changes)


def test_widths_that_do_not_fit_are_refused() -> None:
    with pytest.raises(InputError, match="2 CLIP layers need as many vision widths, not 3"):
        module(widths=(6, 6, 6))
    with pytest.raises(InputError, match="must divide the joint width 16"):
        module(heads=3)


def test_inputs_that_do_not_fit_are_refused() -> None:
    sim, clip = module(), clip_tokens()
    with pytest.raises(InputError, match=r"embeddings must be \(B, Q, 16\)"):
        sim(torch.zeros(B, Q, D + 1), clip)
    with pytest.raises(InputError, match="another batch or encoder"):
        sim(torch.zeros(B + 1, Q, D), clip)
    lacking = ClipTokens({1: clip.patches[1]}, cls={}, grids=clip.grids, pooled=clip.pooled)
    with pytest.raises(InputError, match=r"CLIP layers \[3\] were not kept"):
        sim(proposals(), lacking)
