"""The public contract, on the tiny preset: real parts, random weights."""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from skimage import data

import scanseg
from scanseg import InferenceSettings, InputError, Segmenter, Vocabulary
from scanseg.contracts import ClipTokens, MissingExtra, Proposals, Segmentation, UnknownName
from scanseg.presets import OPERATING_POINTS, build, operating_point, tiny
from scanseg.segmenter import full_float32

WORDS = ["cat", "sofa", "window"]


@pytest.fixture(scope="module")
def seg() -> Segmenter:
    return Segmenter.from_pretrained("tiny", device="cpu")


def photo(height: int = 48, width: int = 70, seed: int = 0) -> np.ndarray:
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 7, 3), np.uint8)
    return np.array(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


def test_the_result_keeps_the_contract(seg: Segmenter) -> None:
    out = seg(photo(), WORDS, scores=True)
    assert out.labels.shape == (48, 70)
    assert out.labels.dtype == np.int32
    assert out.names == tuple(WORDS)
    assert out.confidence.dtype == np.float32
    assert out.confidence.min() >= 0
    assert out.confidence.max() <= 1
    assert out.scores is not None
    assert out.scores.shape == (3, 48, 70)
    assert np.array_equal(out.scores.argmax(0), out.labels)
    assert sum(s.area for s in out.segments) == 48 * 70
    assert out.settings["preset"] == "tiny"
    assert out.settings["inference"]["shift_ratio"] == 0.15
    assert seg(photo(), WORDS).scores is None


def test_every_kind_of_source_gives_the_same_map(seg: Segmenter, tmp_path: Path) -> None:
    pixels = photo()
    path = tmp_path / "photo.png"
    Image.fromarray(pixels).save(path)
    buffer = io.BytesIO(path.read_bytes())
    expected = seg(pixels, WORDS).labels
    for source in (path, str(path), Image.fromarray(pixels), buffer.getvalue(), buffer):
        assert np.array_equal(seg(source, WORDS).labels, expected)


def test_a_list_is_each_photo_alone(seg: Segmenter) -> None:
    photos = [photo(48, 70, 0), photo(60, 40, 1), photo(48, 70, 2)]
    together = seg(photos, WORDS)
    assert [o.labels.shape for o in together] == [(48, 70), (60, 40), (48, 70)]
    for single, out in zip(photos, together, strict=True):
        assert np.array_equal(seg(single, WORDS).labels, out.labels)
    assert seg([], WORDS) == []


def test_a_batch_of_two_is_two_batches_of_one(seg: Segmenter) -> None:
    settings = InferenceSettings(mask_threshold=0.3)
    text, owners = seg.encode(WORDS)
    both = torch.stack([torch.from_numpy(photo(64, 64, s)).permute(2, 0, 1) for s in (3, 4)])
    with torch.inference_mode():
        together = seg.forward(both, text, owners, settings)
        alone = [seg.forward(p[None], text, owners, settings) for p in both]
    for i, one in enumerate(alone):
        assert torch.equal(together.regions.valid[i], one.regions.valid[0])  # type: ignore[union-attr]
        assert torch.allclose(together.scores[i], one.scores[0], atol=1e-5)


def test_the_same_input_gives_the_same_bytes(seg: Segmenter, tmp_path: Path) -> None:
    first, second = (seg(photo(), WORDS, scores=True) for _ in range(2))
    assert first.labels.tobytes() == second.labels.tobytes()
    assert first.confidence.tobytes() == second.confidence.tobytes()
    assert first.scores.tobytes() == second.scores.tobytes()
    fresh = Segmenter.from_pretrained("tiny", device="cpu")(photo(), WORDS)
    assert fresh.labels.tobytes() == first.labels.tobytes()


def test_the_callers_list_is_not_changed(seg: Segmenter) -> None:
    words = ["cat"]
    out = seg(photo(), words)
    assert words == ["cat"]
    assert out.names == ("cat",)
    assert set(np.unique(out.labels)) <= {-1, 0}


@pytest.mark.parametrize("count", [1, 2, 847, 2000])
def test_one_to_two_thousand_labels(count: int) -> None:
    seg = Segmenter.from_pretrained("tiny", device="cpu")
    out = seg(photo(20, 24), [f"thing {i}" for i in range(count)])
    assert out.labels.min() >= -1
    assert out.labels.max() < count
    assert len(out.names) == count


@pytest.mark.parametrize("size", [(1, 1), (1, 50), (50, 1), (2, 3)])
def test_photos_of_a_few_pixels(seg: Segmenter, size: tuple[int, int]) -> None:
    assert seg(photo(*size), WORDS).labels.shape == size


def test_no_valid_proposal(seg: Segmenter) -> None:
    class Faint:
        """Masks that stay below every threshold."""

        def __call__(self, pixels: torch.Tensor, context: object) -> Proposals:
            B, _, h, w = pixels.shape
            return Proposals(torch.full((B, 5, h, w), 0.1), torch.eye(32)[None, :5].repeat(B, 1, 1))

    faint = Segmenter(clip=seg.region_clip, proposals=Faint(), recipe=seg.recipe)
    both = faint(photo(), WORDS)  # the embeddings still speak
    assert both.labels.shape == (48, 70)
    assert (both.confidence > 0).all()
    nothing = faint(photo(), WORDS, settings=InferenceSettings(branches="clip"))
    assert (nothing.confidence == 0).all()
    assert (nothing.labels == -1).all()


def test_a_pixel_that_no_proposal_reaches_is_unknown(seg: Segmenter) -> None:
    def left(pixels: torch.Tensor, context: ClipTokens) -> Proposals:
        found = seg.proposals(pixels, context)
        masks = found.masks.clone()
        masks[..., masks.shape[-1] // 2 :] = 0
        return Proposals(masks, found.embeddings)

    half = Segmenter(clip=seg.clip, region_clip=seg.region_clip, proposals=left, recipe=seg.recipe)
    labels = half(np.full((40, 80, 3), 90, np.uint8), ["cat", "sofa"]).labels
    assert (labels[:, :30] >= 0).all()
    assert (labels[:, 50:] == -1).all()


def test_convolutions_on_cuda_are_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    with full_float32(torch.device("cuda:1")):
        assert not torch.backends.cudnn.allow_tf32
    assert torch.backends.cudnn.allow_tf32
    with full_float32(torch.device("cpu")):
        assert torch.backends.cudnn.allow_tf32


def test_building_a_model_leaves_all_generators_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    seeded: list[int] = []
    monkeypatch.setattr(torch.cuda, "manual_seed_all", seeded.append)
    before = torch.get_rng_state()
    build(tiny())
    assert torch.equal(before, torch.get_rng_state())
    assert seeded == []


def test_background_words_become_unknown(seg: Segmenter) -> None:
    plain = seg(photo(), ["cat", "sofa"], scores=True)
    winner = plain.names[int(plain.labels[0, 0])]
    other = "sofa" if winner == "cat" else "cat"
    out = seg(photo(), Vocabulary([other], background=[winner]))
    assert out.names == (other,)
    assert np.array_equal(out.labels == -1, plain.labels == plain.names.index(winner))


def test_unknown_below_a_confidence(seg: Segmenter) -> None:
    out = seg(photo(), WORDS)
    bound = float(np.median(out.confidence))
    cut = seg(photo(), WORDS, unknown_below=bound)
    assert np.array_equal(cut.labels == -1, out.confidence < bound)
    assert cut.settings["inference"]["unknown_below"] == bound


def test_synonyms_speak_for_their_label(seg: Segmenter) -> None:
    two = seg(photo(), ["cat", "sofa"], scores=True)
    merged = seg(photo(), Vocabulary({"cat": ["sofa"], "zebra": []}), scores=True)
    assert merged.names == ("cat", "zebra")
    assert two.scores is not None
    assert merged.scores is not None


@pytest.mark.parametrize(
    "changes",
    [
        {"branches": "embedding"},
        {"branches": "clip"},
        {"shift_source": "none"},
        {"shift_source": "noise"},
        {"shift_source": "background"},
        {"shift_order": "first"},
        {"shift_ratio": 1.0},
        {"shift_layers": (2,)},
        {"semantics": "paper"},
        {"log_fusion": True},
        {"ensemble_weight": 0.0},
        {"ensemble_weight": 1.0},
    ],
)
def test_every_switch_runs_and_changes_the_evidence(
    seg: Segmenter, changes: dict[str, object]
) -> None:
    base = InferenceSettings(mask_threshold=0.5, shift_ratio=0.5)
    plain = seg(photo(), WORDS, settings=base, scores=True).scores
    switched = seg(photo(), WORDS, settings=base.replace(**changes), scores=True).scores
    assert plain is not None
    assert switched is not None
    assert not np.array_equal(plain, switched)
    assert np.isfinite(switched).all()


def test_shift_ratio_zero_is_no_shift(seg: Segmenter) -> None:
    none = seg(photo(), WORDS, settings=InferenceSettings(shift_source="none"), scores=True)
    zero = seg(photo(), WORDS, settings=InferenceSettings(shift_ratio=0.0), scores=True)
    assert np.array_equal(none.scores, zero.scores)  # type: ignore[arg-type]


def test_region_batches_do_not_change_the_result(seg: Segmenter) -> None:
    one = seg(
        photo(), WORDS, settings=InferenceSettings(mask_threshold=0.3, region_batch=1), scores=True
    )
    all_ = seg(photo(), WORDS, settings=InferenceSettings(mask_threshold=0.3), scores=True)
    assert np.allclose(one.scores, all_.scores, atol=1e-5)  # type: ignore[arg-type]


def test_sim_can_be_left_out() -> None:
    from dataclasses import replace

    without = build(replace(tiny(), integration=None))
    with_sim = build(tiny())
    a, b = (
        s(photo(), WORDS, settings=InferenceSettings(branches="embedding"), scores=True)
        for s in (without, with_sim)
    )
    assert not np.allclose(a.scores, b.scores)


def test_learnable_shift_needs_its_token(seg: Segmenter) -> None:
    with pytest.raises(InputError, match="learnable"):
        seg(photo(), WORDS, settings=InferenceSettings(shift_source="learnable"))


def test_settings_of_the_model_are_the_default_of_calls() -> None:
    chosen = InferenceSettings(semantics="paper", mask_threshold=0.25)
    seg = Segmenter.from_pretrained("tiny", settings=chosen)
    recorded = seg(photo(), WORDS).settings["inference"]
    assert recorded["mask_threshold"] == 0.25
    assert recorded["shift_ratio"] == 0.30  # the paper's default


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"semantics": "both"}, "semantics must be one of 'released', 'paper'"),
        ({"mask_threshold": 1.0}, "mask_threshold"),
        ({"dense_weight": -1.0}, "dense_weight"),
        ({"ensemble_weight": 1.5}, "ensemble_weight"),
        ({"shift_ratio": -0.1}, "shift_ratio"),
        ({"branches": "all"}, "branches must be one of"),
        ({"shift_source": "zeros"}, "shift_source must be one of"),
        ({"shift_order": "last"}, "shift_order must be one of"),
        ({"region_batch": 0}, "region_batch"),
    ],
)
def test_settings_are_checked(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        InferenceSettings(**arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"unknown_below": "0.5"}, "unknown_below must be a number, not '0.5'"),
        ({"log_fusion": "no"}, "log_fusion must be true or false"),
        ({"shift_seed": 1.5}, "shift_seed must be a whole number"),
        ({"region_batch": True}, "region_batch must be a whole number"),
        ({"region_overlap": 0.0}, r"region_overlap must lie in \(0, 1\]"),
    ],
)
def test_types_of_settings_are_checked(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        InferenceSettings(**arguments)
    InferenceSettings(ensemble_weight=np.float32(0.5), region_batch=np.int64(2), mask_threshold=0)


def test_settings_of_another_kind_are_refused(seg: Segmenter) -> None:
    with pytest.raises(InputError, match="settings must be InferenceSettings"):
        seg(photo(), WORDS, settings={"branches": "clip"})


def test_labels_must_be_indices_of_the_names() -> None:
    for value in (2, -2):
        labels = np.full((2, 2), value, np.int32)
        with pytest.raises(InputError, match=rf"labels must be -1 .unknown. to 1.*found {value}"):
            Segmentation(labels, ("a", "b"), np.ones((2, 2), np.float32))


def test_errors_survive_the_way_between_processes() -> None:
    for error in (UnknownName("dgo", ("dog", "cat")), MissingExtra("eval", "plot()")):
        again = pickle.loads(pickle.dumps(error))
        assert type(again) is type(error)
        assert str(again) == str(error)


def test_replace_knows_its_fields_and_follows_the_semantics() -> None:
    with pytest.raises(InputError, match="no such inference setting: threshold"):
        InferenceSettings().replace(threshold=0.3)
    assert InferenceSettings().replace(semantics="paper").shift_ratio == 0.30
    assert InferenceSettings(shift_ratio=0.05).replace(semantics="paper").shift_ratio == 0.05


def test_released_operating_points() -> None:
    large = operating_point("vit_l", "ade847")
    assert (large.mask_threshold, large.ensemble_weight, large.shift_ratio, large.log_fusion) == (
        0.30,
        0.75,
        0.15,
        True,
    )
    assert operating_point("vit_b", "pc59").ensemble_weight == 0.35
    assert set(OPERATING_POINTS["vit_b"]) == {
        "default",
        "ade150",
        "ade847",
        "pc59",
        "pc459",
        "voc20",
    }
    with pytest.raises(InputError, match="no operating point 'cityscapes'"):
        operating_point("vit_l", "cityscapes")


@pytest.mark.parametrize("name", ["vit_b", "vit_l"])
def test_presets_without_weights_stop_and_say_what_to_do(name: str) -> None:
    with pytest.raises(InputError, match="needs SCAN weights"):
        Segmenter.from_pretrained(name)


def test_unknown_presets_folders_and_devices(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no preset or folder 'vit_x'; presets: embedded"):
        Segmenter.from_pretrained("vit_x")
    with pytest.raises(InputError, match=r"config\.json"):
        Segmenter.from_pretrained(tmp_path)
    with pytest.raises(InputError, match="cannot use device 'abacus'"):
        Segmenter.from_pretrained("tiny", device="abacus")


def test_save_and_load(seg: Segmenter, tmp_path: Path) -> None:
    folder = seg.save_pretrained(tmp_path / "model")
    assert {p.name for p in folder.iterdir()} == {"config.json", "model.safetensors", "NOTICE.md"}
    again = Segmenter.from_pretrained(folder)
    assert np.array_equal(
        again(photo(), WORDS, scores=True).scores, seg(photo(), WORDS, scores=True).scores
    )
    through_preset = Segmenter.from_pretrained("tiny", weights=folder)
    assert np.array_equal(through_preset(photo(), WORDS).labels, seg(photo(), WORDS).labels)
    with pytest.raises(InputError, match="holds weights of preset 'tiny', not 'vit_b'"):
        Segmenter.from_pretrained("vit_b", weights=folder)


def test_a_part_of_ones_own(seg: Segmenter) -> None:
    """Third parties pass objects that keep the protocols: no registry, no subclassing."""

    class Quarters:
        def __call__(self, pixels: torch.Tensor, context: ClipTokens) -> Proposals:
            B, _, h, w = pixels.shape
            masks = torch.zeros(B, 4, h, w)
            for i, (y, x) in enumerate([(0, 0), (0, 1), (1, 0), (1, 1)]):
                masks[:, i, y * h // 2 : (y + 1) * h // 2, x * w // 2 : (x + 1) * w // 2] = 1
            return Proposals(masks)

    own = Segmenter(clip=seg.region_clip, proposals=Quarters(), recipe=seg.recipe)
    out = own(photo(), WORDS, settings=InferenceSettings(branches="clip"))
    assert len(np.unique(out.labels[:20, :30])) == 1
    with pytest.raises(InputError, match='branches="clip"'):
        own(photo(), WORDS)
    with pytest.raises(InputError, match="composed by hand"):
        own.save_pretrained("anywhere")


def test_version_is_stated() -> None:
    assert scanseg.__version__.count(".") == 2


def test_unseen_words_are_weighed_apart(seg: Segmenter) -> None:
    text, owners = seg.encode(Vocabulary(["cat", "sofa"], background=()))
    knows_cats = Segmenter(
        clip=seg.region_clip,
        proposals=seg.proposals,
        recipe=seg.recipe,
        taught=text[:1].clone(),  # cosine 1 with "cat"
    )
    apart = InferenceSettings(ensemble_weight=0.1, unseen_weight=0.9)
    weights = knows_cats.ensemble_weights(text, owners, apart)
    near = float(text[0] @ text[1]) >= seg.recipe.taught_similarity
    assert torch.as_tensor(weights).tolist() == pytest.approx([0.1, 0.1 if near else 0.9])
    assert knows_cats.ensemble_weights(text, owners, InferenceSettings()) == 0.7
    assert seg.ensemble_weights(text, owners, apart) == 0.1  # a model that does not say


def test_the_embedded_preset_knows_what_it_was_taught() -> None:
    seg = Segmenter.from_pretrained("embedded", device="cpu")
    words = ["dog", "sky", "theodolite"]
    text, owners = seg.encode(Vocabulary(words, background=()))
    weights = seg.ensemble_weights(text, owners, seg.recipe.settings)
    assert torch.as_tensor(weights).tolist() == pytest.approx([0.1, 0.1, 0.7])


def test_cells_of_the_dense_map_speak_where_masks_are_coarse() -> None:
    seg = Segmenter.from_pretrained("embedded", device="cpu")
    photo = data.chelsea()
    settings = seg.recipe.settings
    assert settings.dense_weight > 0
    words = ["cat", "wall"]
    without = seg(photo, words, settings=settings.replace(dense_weight=0.0), scores=True)
    usual, more = (
        seg(photo, words, settings=settings.replace(dense_weight=w), scores=True)
        for w in (1.0, 2.0)
    )
    added = usual.scores - without.scores
    assert (added >= -1e-6).all()
    assert added.max() <= 1 + 1e-5  # one cell's probability
    np.testing.assert_allclose(more.scores - without.scores, 2 * added, atol=1e-5)
    assert (usual.labels == without.labels).mean() > 0.8


def test_regions_and_cells_are_named_on_the_smaller_photo() -> None:
    seg = Segmenter.from_pretrained("embedded", device="cpu")
    pixels = torch.from_numpy(data.chelsea().copy()).permute(2, 0, 1)[None]
    settings = seg.recipe.settings.replace(branches="clip")
    with torch.inference_mode():
        text, owners = seg.encode(["cat", "wall"])
        found = seg.forward(pixels, text, owners, settings)
        seen = seg.clip.encode_image(pixels).for_regions
        coarse = owners.best(seg.recipe.region_scale * seen.dense.movedim(1, -1) @ text.T)
        expected = torch.nn.functional.interpolate(
            coarse.softmax(-1).movedim(-1, 1),
            found.cells.shape[-2:],
            mode="bilinear",
            align_corners=False,
        )
    torch.testing.assert_close(found.cells, settings.dense_weight * expected, atol=1e-4, rtol=1e-4)


def test_decoys_of_the_embedded_preset_never_mean_what_was_asked() -> None:
    seg = Segmenter.from_pretrained("embedded", device="cpu")
    _, owners = seg.encode(["couch"])
    text, _ = seg.encode(["couch"])
    decoys = text[1:] @ text[0]
    assert owners.labels > 50
    assert decoys.max() < seg.recipe.sibling_similarity  # a couch is one of the decoys' names
    text, owners = seg.encode(["furniture"])  # which is none of them: chairs may be meant
    assert owners.labels > 50
    assert (text[1:] @ text[0]).max() < seg.recipe.decoy_similarity


def test_cat_in_a_real_photo() -> None:
    from skimage.data import chelsea

    out = Segmenter.from_pretrained("embedded", device="cpu")(chelsea(), ["cat", "car", "sea"])
    assert (out.labels == 0).mean() > 0.7
    assert (out.labels == 1).mean() < 0.02


# ------------------------------------------------------------------ modes


def test_modes_are_recorded_and_unknown_ones_refused() -> None:
    exact = Segmenter.from_pretrained("tiny", device="cpu")(photo(), WORDS)
    assert exact.settings["precision"] == "float32"
    fast = Segmenter.from_pretrained("tiny", device="cpu", mode="fast")
    out = fast(photo(), WORDS)
    assert out.settings["inference"]["region_overlap"] == 0.9
    assert out.settings["inference"]["hopeless_below"] == 0.4
    assert out.settings["precision"] in ("bfloat16", "float32")  # as the hardware has it
    with pytest.raises(InputError, match="no mode 'quick'; there are exact, bf16, fast"):
        Segmenter.from_pretrained("tiny", mode="quick")  # type: ignore[arg-type]


def test_fast_leaves_a_model_alone_that_reads_all_regions_at_once() -> None:
    """There is nothing to save in the embedded preset, and looking for it costs time."""
    settings = {
        mode: Segmenter.from_pretrained("embedded", device="cpu", mode=mode).recipe.settings
        for mode in ("exact", "fast")
    }
    assert settings["exact"] == settings["fast"]


def test_weights_read_in_bfloat16_are_those_converted_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scanseg.presets._has_bfloat16", lambda device: True)
    folder = Segmenter.from_pretrained("tiny", device="cpu").save_pretrained(tmp_path / "model")
    read = Segmenter.from_pretrained(folder, device="cpu", mode="bf16")
    converted = Segmenter.from_pretrained(folder, device="cpu").use_bfloat16()
    assert read.region_clip.precision == torch.bfloat16  # type: ignore[attr-defined]
    theirs = converted.state_dict()
    assert all(torch.equal(value, theirs[name]) for name, value in read.state_dict().items())
    assert all(value.dtype == theirs[name].dtype for name, value in read.state_dict().items())


def test_approximations_at_their_ends_are_exact(seg: Segmenter) -> None:
    plain = seg(photo(), WORDS, scores=True)
    settings = seg.recipe.settings.replace(region_tokens=10_000, region_overlap=1.0)
    same = seg(photo(), WORDS, settings=settings, scores=True)
    assert np.array_equal(plain.scores, same.scores)


def test_fewer_tokens_give_another_but_a_valid_map(seg: Segmenter) -> None:
    settings = seg.recipe.settings.replace(region_tokens=6, mask_threshold=0.2)
    out = seg(photo(), WORDS, settings=settings, scores=True)
    assert out.scores is not None
    assert np.isfinite(out.scores).all()
    whole = seg(photo(), WORDS, settings=settings.replace(region_tokens=None), scores=True)
    assert not np.array_equal(out.scores, whole.scores)
