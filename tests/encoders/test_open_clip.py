"""The OpenCLIP adapter: the hand-run forward, token edits, input size, text, names and tags."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from open_clip.constants import IMAGENET_MEAN, OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
from safetensors.torch import save_file
from torch import Tensor

from scanseg.contracts import ClipEncoder, ClipTokens, InputError, Regions
from scanseg.encoders.open_clip import OpenClipEncoder, hub_repository, pretrained_config

SIDE = 32


def tiny_config(*, quick_gelu: bool = False, custom_text: bool = False, **vision: Any) -> dict:
    config = {
        "embed_dim": 16,
        "quick_gelu": quick_gelu,
        "vision_cfg": {
            "image_size": SIDE,
            "patch_size": 8,
            "width": 24,
            "layers": 3,
            "head_width": 8,
            **vision,
        },
        "text_cfg": {
            "context_length": 77,
            "vocab_size": 49408,
            "width": 16,
            "heads": 2,
            "layers": 2,
        },
    }
    return {**config, "custom_text": True} if custom_text else config


def tiny(**options: Any) -> OpenClipEncoder:
    torch.manual_seed(0)
    return OpenClipEncoder(tiny_config(**options)).eval()


@pytest.fixture(scope="module")
def encoder() -> OpenClipEncoder:
    return tiny()


def regions_of(pixels: Tensor) -> Regions:
    count, size = len(pixels), pixels.shape[-1]
    return Regions(
        pixels=pixels,
        masks=torch.ones(count, size, size, dtype=torch.bool),
        boxes=torch.tensor([[0, 0, size, size]] * count),
        image=torch.zeros(count, dtype=torch.int64),
        query=torch.arange(count),
        valid=torch.ones(1, count, dtype=torch.bool),
        inside=torch.ones(1, count, size, size, dtype=torch.bool),
    )


def no_context() -> ClipTokens:
    return ClipTokens(patches={}, cls={}, grids={}, pooled=torch.zeros(1, 16))


def plain_forward(encoder: OpenClipEncoder, images: Tensor) -> Tensor:
    out = encoder.model.visual(images)
    return F.normalize(out[0] if isinstance(out, tuple) else out, dim=-1)


# ------------------------------------------------------------------ the hand-run forward


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"quick_gelu": True},
        {"ls_init_value": 0.1},
        {"pool_type": "avg", "final_ln_after_pool": True},
        {"no_ln_pre": True, "pos_embed_type": "sin_cos_2d"},
        {"attentional_pool": True, "attn_pooler_queries": 4, "output_tokens": True},
        {"qk_norm": True, "block_type": "custom"},
    ],
    ids=lambda options: "-".join(options) or "plain",
)
def test_hand_run_forward_equals_open_clip_bit_for_bit(options: dict) -> None:
    encoder = tiny(**options)
    images = torch.randn(2, 3, SIDE, SIDE)
    plain = plain_forward(encoder, images)  # with gradients: open_clip's own blocks
    assert torch.equal(encoder.encode_regions(regions_of(images), no_context()), plain)
    with torch.inference_mode():  # the quick way
        quick = encoder.encode_regions(regions_of(images), no_context())
    assert torch.allclose(quick, plain, atol=1e-6)


@pytest.mark.parametrize("name", ["ViT-B-16", "ViT-B-32-quickgelu"])
def test_hand_run_forward_equals_open_clip_at_real_size(name: str) -> None:
    with torch.device("meta"):
        encoder = OpenClipEncoder(name, text=False)
    encoder.to_empty(device="cpu").eval()
    for parameter in encoder.requires_grad_(False).parameters():
        parameter.normal_(std=0.05)
    images = torch.randn(2, 3, 224, 224)
    plain = plain_forward(encoder, images)
    assert torch.equal(encoder.encode_regions(regions_of(images), no_context()), plain)
    with torch.inference_mode():
        quick = encoder.encode_regions(regions_of(images), no_context())
    assert torch.allclose(quick, plain, atol=1e-4)


@torch.inference_mode()
def test_tokens_are_those_of_open_clips_own_intermediates(encoder: OpenClipEncoder) -> None:
    photo = torch.randint(0, 256, (2, 3, 50, 40), dtype=torch.uint8)
    tokens = encoder.encode_image(photo, layers=(1, 3))
    theirs = encoder.model.visual.forward_intermediates(
        encoder.preprocess(photo), output_fmt="NLC", output_extra_tokens=True
    )
    assert set(tokens.patches) == {1, 3}
    assert tokens.grids == {1: (4, 4), 3: (4, 4)}
    assert set(tokens.cls) == {0, 1, 2, 3}
    for layer in (1, 3):
        assert torch.equal(tokens.patches[layer], theirs["image_intermediates"][layer - 1])
        prefix = theirs["image_intermediates_prefix"][layer - 1]
        assert torch.equal(tokens.cls[layer], prefix[:, 0])
    first = encoder.model.visual._embeds(encoder.preprocess(photo))
    assert torch.equal(tokens.cls[0], first[:, 0])
    assert torch.allclose(tokens.pooled.norm(dim=-1), torch.ones(2))


@torch.inference_mode()
def test_bfloat16_products_change_little(encoder: OpenClipEncoder) -> None:
    images, photo = torch.randn(2, 3, SIDE, SIDE), torch.randint(0, 256, (1, 3, 50, 40))
    exact = encoder.encode_regions(regions_of(images), no_context())
    tokens = encoder.encode_image(photo, layers=(1, 3))
    rough = tiny().use_bfloat16()
    assert rough.precision == torch.bfloat16
    features = rough.encode_regions(regions_of(images), no_context())
    assert features.dtype == torch.float32
    assert not torch.equal(features, exact)
    assert torch.allclose(features, exact, atol=0.02)
    rough_tokens = rough.encode_image(photo, layers=(1, 3))
    assert torch.allclose(rough_tokens.patches[3], tokens.patches[3], atol=0.1)
    assert torch.allclose(rough_tokens.pooled, tokens.pooled, atol=0.02)
    assert torch.equal(rough.encode_text(["a cat"]), encoder.encode_text(["a cat"]))  # untouched


def test_unusual_blocks_keep_float32() -> None:
    with pytest.raises(InputError, match="keep float32"):
        tiny(qk_norm=True, block_type="custom").use_bfloat16()


def test_gradients_with_and_without_checkpointing() -> None:
    encoder = tiny()
    images = regions_of(torch.randn(2, 3, SIDE, SIDE))
    gradients = []
    for checkpointing in (False, True):
        encoder.model.visual.set_grad_checkpointing(checkpointing)
        encoder.zero_grad()
        encoder.encode_regions(images, no_context())[:, 0].sum().backward()
        gradients.append(encoder.model.visual.conv1.weight.grad.clone())
    assert gradients[0].abs().sum() > 0
    assert torch.allclose(*gradients)


# ------------------------------------------------------------------ edits


@torch.inference_mode()
def test_edit_sees_every_layer_and_what_it_returns_goes_on(encoder: OpenClipEncoder) -> None:
    images = torch.randn(2, 3, SIDE, SIDE)
    regions = regions_of(images)
    seen: list[tuple[int, tuple[int, ...], tuple[int, int]]] = []

    def zero_at_two(tokens: Tensor, layer: int, given: Regions, grid: tuple[int, int]) -> Tensor:
        assert given is regions
        seen.append((layer, tuple(tokens.shape), grid))
        return torch.zeros_like(tokens) if layer == 2 else tokens

    features = encoder.encode_regions(regions, no_context(), zero_at_two)
    # not after the last block, behind which only [CLS] is read
    assert seen == [(layer, (2, 16, 24), (4, 4)) for layer in range(3)]

    visual = encoder.model.visual
    x = visual._embeds(images)
    for block in visual.transformer.resblocks[:2]:
        x = block(x)
    x[:, 1:] = 0
    x = visual.transformer.resblocks[2](x)
    expected = F.normalize(visual._pool(x)[0] @ visual.proj, dim=-1)
    assert torch.allclose(features, expected, atol=1e-6)


@torch.inference_mode()
def test_no_regions_give_no_features(encoder: OpenClipEncoder) -> None:
    empty = regions_of(torch.zeros(0, 3, SIDE, SIDE))
    assert encoder.encode_regions(empty, no_context()).shape == (0, 16)


def test_crops_of_another_size_are_refused(encoder: OpenClipEncoder) -> None:
    with pytest.raises(InputError, match=r"crops must be \(R, 3, 32, 32\)"):
        encoder.encode_regions(regions_of(torch.zeros(1, 3, 16, 16)), no_context())


# ------------------------------------------------------------------ whole photos


@torch.inference_mode()
def test_released_input_is_padded_then_nearest(encoder: OpenClipEncoder) -> None:
    """A 48 x 40 photo, padded to 64 x 64: every second pixel is taken, the rest is padding."""
    photo = torch.randint(0, 256, (1, 3, 48, 40), dtype=torch.uint8)
    seen = encoder.preprocess(photo, semantics="released")
    mean = torch.tensor(OPENAI_DATASET_MEAN)[:, None, None]
    std = torch.tensor(OPENAI_DATASET_STD)[:, None, None]
    expected = (photo[0, :, ::2, ::2] / 255.0 - mean) / std  # (3, 24, 20)
    assert torch.allclose(seen[0, :, :24, :20], expected, atol=1e-5)
    assert seen[0, :, 24:].abs().max() == 0
    assert seen[0, :, :, 20:].abs().max() == 0


@torch.inference_mode()
def test_paper_input_is_the_whole_photo_antialiased(encoder: OpenClipEncoder) -> None:
    """A constant photo stays constant everywhere; a fine checkerboard becomes grey."""
    mean = torch.tensor(OPENAI_DATASET_MEAN)[:, None, None]
    std = torch.tensor(OPENAI_DATASET_STD)[:, None, None]
    constant = encoder.preprocess(torch.full((1, 3, 48, 64), 200.0), semantics="paper")
    assert torch.allclose(constant[0], ((200 / 255 - mean) / std).expand(3, 32, 32), atol=1e-5)
    edge = torch.zeros(1, 3, 48, 64)
    edge[..., 32:] = 255.0  # bicubic interpolation would overshoot on both sides
    seen = encoder.preprocess(edge, semantics="paper")[0] * std + mean
    assert seen.min() > -1e-5
    assert seen.max() < 1 + 1e-5
    checkers = 255.0 * ((torch.arange(128)[:, None] + torch.arange(128)) % 2)
    grey = encoder.preprocess(checkers.expand(1, 3, 128, 128), semantics="paper")
    assert torch.allclose(grey[0], ((0.5 - mean) / std).expand(3, 32, 32), atol=0.02)


@torch.inference_mode()
def test_batch_of_two_equals_two_batches_of_one(encoder: OpenClipEncoder) -> None:
    photos = torch.randint(0, 256, (2, 3, 33, 70), dtype=torch.uint8)
    both = encoder.encode_image(photos, layers=(2,))
    for i in range(2):
        one = encoder.encode_image(photos[i : i + 1], layers=(2,))
        assert torch.allclose(both.pooled[i], one.pooled[0], atol=1e-6)
        assert torch.allclose(both.patches[2][i], one.patches[2][0], atol=1e-5)


@torch.inference_mode()
def test_one_pixel_high_photo(encoder: OpenClipEncoder) -> None:
    for semantics in ("released", "paper"):
        tokens = encoder.encode_image(torch.zeros(1, 3, 1, 90), semantics=semantics)
        assert tokens.pooled.isfinite().all()


@pytest.mark.parametrize("layer", [0, 4])
def test_absent_layers_are_refused(encoder: OpenClipEncoder, layer: int) -> None:
    with pytest.raises(InputError, match=r"layers 1 to 3, not"):
        encoder.encode_image(torch.zeros(1, 3, 8, 8), layers=(2, layer))


@pytest.mark.parametrize("shape", [(3, 8, 8), (1, 1, 8, 8), (1, 3, 0, 8)])
def test_other_shapes_are_refused(encoder: OpenClipEncoder, shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match=r"pixels must be \(B, 3, h, w\)"):
        encoder.encode_image(torch.zeros(shape))


# ------------------------------------------------------------------ text


def test_text_equals_open_clip(encoder: OpenClipEncoder) -> None:
    prompts = ["a cat", "There is a building, edifice in the scene.", "a cat", "long " * 100]
    ours = encoder.encode_text(prompts)
    theirs = encoder.model.encode_text(encoder.tokenize(prompts), normalize=True)
    assert torch.allclose(ours, theirs, atol=1e-6)
    assert torch.equal(ours[0], ours[2])
    assert not ours.requires_grad


def test_text_is_computed_at_its_own_length(encoder: OpenClipEncoder) -> None:
    lengths: list[int] = []
    handle = encoder.model.transformer.register_forward_pre_hook(
        lambda module, inputs: lengths.append(inputs[0].shape[1])
    )
    encoder.encode_text(["a cat", "a dog", "a photo of a cat"])
    handle.remove()
    assert lengths == [4, 7]  # start, words, end


def test_text_batches_do_not_change_the_order() -> None:
    small, large = tiny(), tiny()
    small.text_batch = 2
    words = [f"{a} {b}" for a in ("red", "blue") for b in ("cat", "dog", "house")] + ["sky"]
    assert torch.allclose(small.encode_text(words), large.encode_text(words), atol=1e-6)


def test_other_text_towers_run_at_full_length() -> None:
    encoder = tiny(custom_text=True)
    theirs = encoder.model.encode_text(encoder.tokenize(["a cat"]), normalize=True)
    assert torch.equal(encoder.encode_text(["a cat"]), theirs.detach())


def test_no_prompts_give_no_rows(encoder: OpenClipEncoder) -> None:
    assert encoder.encode_text([]).shape == (0, 16)


def test_without_text_tower() -> None:
    encoder = OpenClipEncoder(tiny_config(), text=False)
    assert all(name.startswith("model.visual.") for name in encoder.state_dict())
    with pytest.raises(InputError, match="text=False"):
        encoder.encode_text(["a cat"])


def test_fingerprint_follows_the_text_tower_only() -> None:
    encoder, same = tiny(), tiny()
    before = encoder.fingerprint
    assert before == same.fingerprint
    with torch.no_grad():
        encoder.model.visual.conv1.weight.add_(1)
        encoder.model.logit_scale.add_(1)
    assert encoder.fingerprint == before
    with torch.no_grad():
        encoder.model.ln_final.weight[0] += 1
    assert encoder.fingerprint != before
    encoder.load_state_dict(same.state_dict(), assign=True)
    assert encoder.fingerprint == before
    assert tiny(quick_gelu=True).fingerprint != before
    assert same.bfloat16().fingerprint != before


# ------------------------------------------------------------------ construction


def test_contract_and_attributes(encoder: OpenClipEncoder) -> None:
    assert isinstance(encoder, ClipEncoder)
    described = (encoder.joint_width, encoder.vision_width, encoder.depth, encoder.region_size)
    assert described == (16, 24, 3, SIDE)
    assert encoder.grid == (4, 4)
    assert encoder.pixel_mean == OPENAI_DATASET_MEAN


def test_built_without_memory_then_loaded() -> None:
    with torch.device("meta"):
        empty = OpenClipEncoder(tiny_config())
    full = tiny()
    empty.load_state_dict(full.state_dict(), assign=True)
    assert torch.equal(empty.encode_text(["a cat"]), full.encode_text(["a cat"]))


def test_existing_model_is_wrapped_not_copied(encoder: OpenClipEncoder) -> None:
    wrapped = OpenClipEncoder(tiny_config(), model=encoder.model)
    assert wrapped.model is encoder.model
    with pytest.raises(InputError, match="differ in activation"):
        OpenClipEncoder(tiny_config(quick_gelu=True), model=encoder.model)


def test_mean_and_std_of_a_tag_and_of_the_caller() -> None:
    with torch.device("meta"):
        of_tag = OpenClipEncoder("ViT-L-14-CLIPA", tag="datacomp1b", text=False)
    assert of_tag.pixel_mean == IMAGENET_MEAN
    own = OpenClipEncoder(tiny_config(), pixel_mean=(0.1, 0.2, 0.3), pixel_std=(0.5, 0.5, 0.5))
    assert (own.pixel_mean, own.pixel_std) == ((0.1, 0.2, 0.3), (0.5, 0.5, 0.5))


@pytest.mark.parametrize(
    ("architecture", "reason"),
    [
        ("ViT-Q-17", "no architecture 'ViT-Q-17'"),
        ("RN50", "open_clip's own ViT"),
        ("ViT-B-16-SigLIP", "open_clip's own ViT"),
        ("roberta-ViT-B-32", "not supported"),
        ("coca_ViT-B-32", "not supported"),
        (tiny_config(image_size=(32, 16)), "square images"),
        (tiny_config(patch_dropout=0.5), "patch_dropout=0"),
    ],
)
def test_other_architectures_are_refused(architecture: Any, reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        OpenClipEncoder(architecture)


def test_a_model_without_a_vit_is_refused() -> None:
    with pytest.raises(InputError, match="has no open_clip ViT"):
        OpenClipEncoder(tiny_config(), model=torch.nn.Linear(2, 2))


def test_foreign_tokenizer_must_be_given() -> None:
    config = tiny_config()
    config["text_cfg"]["hf_tokenizer_name"] = "somebody/tokenizer"
    encoder = OpenClipEncoder(config)
    with pytest.raises(InputError, match="pass it as tokenizer="):
        encoder.encode_text(["a cat"])
    given = OpenClipEncoder(config, tokenizer=lambda words: torch.ones(len(words), 5).long())
    assert given.encode_text(["a cat"]).shape == (1, 16)


# ------------------------------------------------------------------ tags


def test_openai_weights_need_the_quickgelu_name() -> None:
    with pytest.raises(InputError, match="trained with QuickGELU: use 'ViT-B-16-quickgelu'"):
        pretrained_config("ViT-B-16", "openai")
    assert pretrained_config("ViT-B-16-quickgelu", "openai")["mean"] == OPENAI_DATASET_MEAN
    with pytest.raises(InputError, match="use 'ViT-L-14-quickgelu'"):
        OpenClipEncoder("ViT-L-14", tag="openai")


def test_plain_weights_refuse_the_quickgelu_name() -> None:
    with pytest.raises(InputError, match="trained with plain GELU: use 'ViT-L-14'"):
        pretrained_config("ViT-L-14-quickgelu", "datacomp_xl_s13b_b90k")


def test_unknown_tags_are_named_with_the_known_ones() -> None:
    with pytest.raises(InputError, match=r"has no weights 'nonsense'; it has: .*datacomp_xl"):
        pretrained_config("ViT-L-14", "nonsense")
    with pytest.raises(InputError, match="named architectures"):
        OpenClipEncoder(tiny_config(), tag="openai")


def test_hub_repository() -> None:
    found = hub_repository("ViT-L-14", "datacomp_xl_s13b_b90k")
    assert found == "laion/CLIP-ViT-L-14-DataComp.XL-s13B-b90K"


# ------------------------------------------------------------------ local folders


@pytest.fixture
def folder(tmp_path: Path, encoder: OpenClipEncoder) -> Path:
    described = {
        "model_cfg": tiny_config(),
        "preprocess_cfg": {"mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25]},
    }
    (tmp_path / "open_clip_config.json").write_text(json.dumps(described))
    save_file(encoder.model.state_dict(), tmp_path / "open_clip_model.safetensors")
    return tmp_path


@pytest.mark.parametrize("text", [True, False])
def test_folder_like_a_hub_repository(folder: Path, encoder: OpenClipEncoder, text: bool) -> None:
    loaded = OpenClipEncoder.from_folder(folder, text=text)
    images = torch.randn(2, 3, SIDE, SIDE)
    assert loaded.pixel_mean == (0.5, 0.5, 0.5)
    assert torch.equal(plain_forward(loaded, images), plain_forward(encoder, images))
    if text:
        assert loaded.fingerprint == encoder.fingerprint


def test_incomplete_folders_are_refused(folder: Path, tmp_path_factory: Any) -> None:
    with pytest.raises(InputError, match=r"has no open_clip_config\.json"):
        OpenClipEncoder.from_folder(tmp_path_factory.mktemp("empty"))
    other = tiny_config(layers=2)
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": other}))
    with pytest.raises(InputError, match="Unexpected key"):
        OpenClipEncoder.from_folder(folder)
