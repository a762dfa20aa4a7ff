"""Cells of one kind speak together: worked out by hand."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from scanseg import Segmenter, presets
from scanseg.contracts import InputError
from scanseg.encoders.embedded import EmbeddedEncoder
from scanseg.proposals.affinity import LAYERS, Affinity, gathered, load_affinity
from scanseg.proposals.superpixels import SuperpixelProposals
from scanseg.weights import write_trained

A, B = (1.0, 0.0), (0.0, 1.0)


def the_map(cells: list[tuple[float, float]]) -> torch.Tensor:
    """(1, 2, 2, 4): two blocks of 2 x 2 cells side by side, one embedding each."""
    left, right = (torch.tensor(cell)[:, None, None].expand(2, 2, 2) for cell in cells)
    return torch.cat([left, right], 2)[None]


def test_two_blocks_by_hand() -> None:
    """Distance 1 between the blocks: exp(-2) for the other one, 1 for one's own."""
    places = torch.zeros(1, 1, 2, 4)
    places[..., 2:] = 1.0
    found = gathered(the_map([A, B]), places, sharpness=2.0, share=0.8)
    own = 1 / (1 + math.exp(-2.0))
    left = F.normalize(torch.tensor([0.8 * own + 0.2, 0.8 * (1 - own)]), dim=0)
    torch.testing.assert_close(found[0, :, 0, 0], left)
    torch.testing.assert_close(found[0, :, 1, 3], left.flip(0))


def test_one_kind_agrees_and_far_kinds_do_not_meet() -> None:
    dense, far = the_map([A, B]), torch.zeros(1, 1, 2, 4)
    one = gathered(dense, far, sharpness=2.0, share=1.0)
    torch.testing.assert_close(one, torch.full_like(one, 0.5**0.5))  # the mean of both
    far[..., 2:] = 10.0
    torch.testing.assert_close(gathered(dense, far, 2.0, 0.8), dense)
    torch.testing.assert_close(gathered(dense, torch.zeros(1, 1, 2, 4), 2.0, 0.0), dense)


def test_equal_to_the_formula_written_out() -> None:
    """With keys of one value per block, the sum over blocks is the sum over cells."""
    torch.manual_seed(0)
    places = F.interpolate(torch.randn(1, 3, 2, 3), scale_factor=2, mode="nearest")
    dense = F.normalize(torch.randn(1, 5, 4, 6), dim=1)
    found = gathered(dense, places, sharpness=0.7, share=0.6)
    g, f = places[0].flatten(1).T, dense[0].flatten(1).T  # (24, 3), (24, 5)
    weights = (-0.7 * (g[:, None] - g[None]).square().sum(-1)).softmax(1)
    by_hand = F.normalize(0.6 * weights @ f + 0.4 * f, dim=1)
    torch.testing.assert_close(found[0].flatten(1).T, by_hand)


def test_a_head_is_needed() -> None:
    with pytest.raises(InputError, match="pass a head too"):
        SuperpixelProposals(affinity=Affinity())


def test_what_is_loaded_is_what_was_written(tmp_path: Path) -> None:
    torch.manual_seed(1)
    network = Affinity(width=16, features=4).eval()
    path = tmp_path / "affinity.safetensors"
    write_trained(path, network.state_dict(), {"sizes": '{"width": 16, "features": 4}'})
    loaded = load_affinity(path)
    encoder = EmbeddedEncoder()
    context = encoder.encode_image(torch.rand(1, 3, 64, 96) * 255, layers=LAYERS)
    with torch.inference_mode():
        found = loaded.places(context)
        assert found.shape == (1, 4, 8, 12)
        torch.testing.assert_close(found, network.places(context), atol=2e-2, rtol=0)
    with pytest.raises(InputError, match="make one with make train-affinity"):
        load_affinity(tmp_path / "none.safetensors")
    write_trained(path, network.state_dict(), {})
    with pytest.raises(InputError, match="is no trained affinity network"):
        load_affinity(path)


def test_the_preset_gathers_unless_told_otherwise() -> None:
    usual, plain = presets.embedded(), presets.embedded(affinity=False)
    pixels = torch.rand(1, 3, 64, 96, generator=torch.Generator().manual_seed(0)) * 255
    with torch.inference_mode():
        context = usual.clip.encode_image(pixels, layers=LAYERS)
        dense, stride = plain.proposals.dense_map(context)
        together, same_stride = usual.proposals.dense_map(context)
        by_hand = usual.proposals.affinity(context, dense)
    assert stride == same_stride == 8
    torch.testing.assert_close(together, by_hand)
    assert not torch.allclose(together, dense, atol=1e-3)
    assert plain.recipe.token_layers == (1,)


def test_a_model_folder_keeps_them_or_has_none(tmp_path: Path) -> None:
    """Folders of before have none, and go on without."""
    for kept in (True, False):
        segmenter = presets.embedded(affinity=kept)
        folder = segmenter.save_pretrained(tmp_path / str(kept))
        loaded = Segmenter.from_pretrained(str(folder), device="cpu")
        assert (loaded.proposals.affinity is not None) == kept  # type: ignore[attr-defined]
        assert loaded.recipe == segmenter.recipe


def test_the_shipped_one_tells_kinds_apart() -> None:
    """The astronaut's suit is further from the flag than its own cells are from each other."""
    data = pytest.importorskip("skimage.data")
    photo = torch.from_numpy(data.astronaut()).permute(2, 0, 1)[None].float()  # (1, 3, 512, 512)
    encoder = EmbeddedEncoder()
    with torch.inference_mode():
        places = load_affinity().places(encoder.encode_image(photo, layers=LAYERS))[0]
    face, suit, flag = places[:, 10:14, 26:30], places[:, 50:58, 22:34], places[:, 10:30, 2:8]
    mean = [part.flatten(1).mean(1) for part in (face, suit, flag)]
    within = (suit.flatten(1) - mean[1][:, None]).square().sum(0).mean()
    assert (mean[1] - mean[2]).square().sum() > within
