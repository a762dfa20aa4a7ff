"""The dense head and its training, on tiny synthetic data; values worked out by hand."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from scanseg.contracts import ClipTokens, InputError
from scanseg.proposals.dense_head import DenseHead, StageMaps, load_dense_head
from scanseg.training.embedded_head import (
    HeadConfig,
    Sampler,
    Words,
    embed_cells,
    fit,
    save_head,
    standardise,
    step_loss,
    taught_words,
)
from scanseg.training.head_dataset import TrainingView, class_counts
from scanseg.training.head_labels import IGNORE, gated_votes, is_street, label_layers
from scanseg.training.head_photos import HELD_OUT, Photo, held_out, training_photos
from scanseg.training.head_views import View, views_of
from scanseg.training.head_vocabularies import ADE31, CITY19, COCO133, VOC20, VOCABULARIES

D = 384


def tokens(rows: int = 4, columns: int = 6, seed: int = 0) -> ClipTokens:
    """Random tokens of a photo whose grid at stride 32 is rows x columns."""
    draw = torch.Generator().manual_seed(seed)
    widths, grids = {1: 40, 2: 112, 3: 320}, {}
    patches = {}
    for layer, factor in ((1, 4), (2, 2), (3, 1)):
        grids[layer] = (rows * factor, columns * factor)
        count = rows * factor * columns * factor
        patches[layer] = torch.randn(1, count, widths[layer], generator=draw)
    return ClipTokens(
        patches=patches,
        cls={},
        grids=grids,
        pooled=F.normalize(torch.randn(1, D, generator=draw), dim=-1),
        dense=F.normalize(torch.randn(1, D, rows, columns, generator=draw), dim=1),
    )


def view_of(context: ClipTokens, layers: dict[str, np.ndarray]) -> TrainingView:
    maps = StageMaps.from_tokens(context)
    return TrainingView(
        source="coco_train",
        key="coco_train/x",
        maps={n: getattr(maps, n)[0].half() for n in ("s8", "s16", "s32", "conse", "pooled")},
        layers={n: torch.from_numpy(ids.astype(np.int64)).flatten() for n, ids in layers.items()},
        weights=dict.fromkeys(layers, 1.0),
    )


class TwoWords:
    """A text tower for tests: every word that starts with "a" is one axis, others another."""

    def encode_text(self, prompts: list[str]) -> torch.Tensor:
        axis = [
            0 if any(w.startswith("a") and len(w) > 1 for w in p.split()) else 1 for p in prompts
        ]
        return F.one_hot(torch.tensor(axis), D).float()


def test_an_untrained_head_is_conse_at_stride_8() -> None:
    context = tokens()
    head = DenseHead().eval()
    torch.nn.init.zeros_(head.mlp[-1].weight)
    out = head(context)
    assert out.shape == (1, D, 16, 24)
    expected = F.interpolate(context.dense, (16, 24), mode="bilinear", align_corners=False)
    torch.testing.assert_close(out, F.normalize(expected, dim=1))


def test_training_cells_equal_the_dense_output() -> None:
    torch.manual_seed(0)
    context = tokens()
    head = DenseHead().eval()
    torch.nn.init.normal_(head.mlp[-1].weight, std=0.1)
    dense = head(context)[0].flatten(1).T  # (cells, D)
    cells = torch.tensor([0, 23, 24 * 8 + 11, 24 * 16 - 1])
    picked = embed_cells(head, [view_of(context, {})], cells[None])[0]
    torch.testing.assert_close(picked, dense[cells], atol=5e-3, rtol=0)  # the view is float16


def test_standardise_makes_features_zero_mean_and_unit_variance() -> None:
    context = tokens()
    shifted = replace(context, patches={k: 3 * v + 2 for k, v in context.patches.items()})
    head = DenseHead()
    standardise(head, [view_of(shifted, {})])
    assert head.mean[:40].mean() == pytest.approx(2.0, abs=0.2)
    assert head.std[:40].mean() == pytest.approx(3.0, abs=0.3)


def test_a_window_keeps_features_and_labels_together() -> None:
    context = tokens()  # 4 x 6 cells at stride 32, 16 x 24 at stride 8
    ids = np.arange(16 * 24).reshape(16, 24)
    part = view_of(context, {"v": ids}).window(1, 2, 3)
    assert part.maps["s32"].shape == (320, 3, 3)
    assert part.maps["s8"].shape == (40, 12, 12)
    np.testing.assert_array_equal(part.layers["v"].numpy(), ids[4:16, 8:20].ravel())
    whole = StageMaps.from_tokens(context).s8[0]
    torch.testing.assert_close(part.maps["s8"], whole[:, 4:16, 8:20].half())


def test_view_samples_the_cell_centres_and_mirrors() -> None:
    values = np.arange(16).reshape(4, 4)
    whole = View(0, 0, 1, 1, 32, 32)
    np.testing.assert_array_equal(whole.sample(values), values)
    mirrored = View(0, 0, 1, 1, 32, 32, mirrored=True)
    np.testing.assert_array_equal(mirrored.sample(values), values[:, ::-1])
    lower_right = View(0.5, 0.5, 1, 1, 32, 32)  # 4 cells for 2 values each way
    expected = np.repeat(np.repeat(values[2:, 2:], 2, 0), 2, 1)
    np.testing.assert_array_equal(lower_right.sample(values), expected)


def test_view_pixels_and_labels_move_together() -> None:
    photo = np.zeros((64, 64, 3), np.uint8)
    photo[:, 32:] = 255  # right half white
    labels = (photo[..., 0] > 0).astype(np.uint8)
    for mirrored in (False, True):
        view = View(0, 0, 1, 1, 64, 64, mirrored=mirrored)
        bright = view.pixels(Image.fromarray(photo))[0, 0, 4::8, 4::8].numpy() > 127
        np.testing.assert_array_equal(bright, view.sample(labels) > 0)


def test_views_have_sides_in_multiples_of_32_and_keep_the_first_ones_plain() -> None:
    import random

    views = views_of((640, 427), (512, 384), (448,), random.Random(0))
    assert [(v.width, v.height) for v in views] == [(512, 352), (384, 256), (448, 288)]
    assert [v.mirrored for v in views] == [False, True, False]
    assert views[0].brightness == views[1].contrast == 1.0
    assert views[2].brightness != 1.0
    assert views[2].x1 - views[2].x0 < 0.76


def coco_photo(exhaustive: int) -> Photo:
    return Photo("coco_train", "x", Path("x.jpg"), vocabulary="coco133", exhaustive=exhaustive)


def index(table: tuple[tuple[str, ...], ...], word: str) -> int:
    return [words[0] for words in table].index(word)


def test_teachers_are_silenced_where_the_truth_contradicts_them() -> None:
    sky, person, chair = (index(ADE31, word) for word in ("sky", "person", "chair"))
    said = np.array([[sky, sky, person, chair, IGNORE]])
    truth = np.array(
        [[index(COCO133, "sky"), index(COCO133, "dog"), IGNORE, IGNORE, IGNORE]], np.uint8
    )
    layers = label_layers(coco_photo(80), truth, {"ade31": said})
    assert [layer.vocabulary for layer in layers] == ["coco133", "ade31"]
    # sky on sky stays; sky on dog, and things where all things are labelled, go
    np.testing.assert_array_equal(layers[1].labels, [[sky, IGNORE, IGNORE, IGNORE, IGNORE]])
    only_persons = label_layers(coco_photo(1), truth, {"ade31": said})[1].labels
    np.testing.assert_array_equal(only_persons, [[sky, IGNORE, IGNORE, chair, IGNORE]])


def test_votes_need_agreement_and_background_means_unknown() -> None:
    cat = index(VOC20, "cat") + 1
    votes = {
        "voc21": np.array([[cat, cat, 0]], np.uint8),
        "voc21_agreement": np.array([[1.0, 0.5, 1.0]]),
    }
    np.testing.assert_array_equal(
        gated_votes(coco_photo(0), votes)["voc21"], [[cat - 1, IGNORE, IGNORE]]
    )


def street_votes(ground: str) -> dict[str, np.ndarray]:
    scene = np.full((10, 10), index(ADE31, "sky") + 1, np.uint8)
    scene[5:] = index(ADE31, ground) + 1
    city = np.full((10, 10), index(CITY19, "sky"), np.uint8)
    city[8:] = index(CITY19, "road")
    sure = np.ones((10, 10))
    return {"ade31": scene, "ade31_agreement": sure, "city19": city, "city19_agreement": sure,
            "voc21": np.zeros((10, 10), np.uint8), "voc21_agreement": sure}  # fmt: skip


def test_street_teacher_speaks_on_streets_only_and_not_against_the_scene_teacher() -> None:
    assert is_street(street_votes("road"))
    assert not is_street(street_votes("grass"))
    assert "city19" not in gated_votes(coco_photo(0), street_votes("grass"))
    city = gated_votes(coco_photo(0), street_votes("road"))["city19"]
    assert (city[:5] == index(CITY19, "sky")).all()
    assert (city[5:8] == IGNORE).all()  # "sky" where the scene teacher sees a road
    assert (city[8:] == index(CITY19, "road")).all()


def test_animals_must_be_those_of_the_image_label() -> None:
    dog, cat = index(VOC20, "dog") + 1, index(VOC20, "cat") + 1
    person, rug = index(ADE31, "person") + 1, index(ADE31, "rug") + 1
    sure = np.ones((1, 3))
    votes = {
        "voc21": np.array([[dog, cat, 0]], np.uint8), "voc21_agreement": sure,
        "ade31": np.array([[rug, rug, person]], np.uint8), "ade31_agreement": sure,
    }  # fmt: skip
    beagle = Photo("imagenet_samples", "x", Path("x.jpg"), image_class=162)
    gated = gated_votes(beagle, votes)
    np.testing.assert_array_equal(gated["voc21"], [[dog - 1, IGNORE, IGNORE]])
    np.testing.assert_array_equal(gated["ade31"], [[IGNORE, rug - 1, IGNORE]])


def test_words_close_withheld_classes_in_every_vocabulary() -> None:
    tables = {"one": [["apple", "fruit"], ["bear"]], "two": [["fruit"], ["dog"]]}
    words = Words(TwoWords(), tables, withheld=("fruit",))
    assert words.open["one"].tolist() == [False, True]
    assert words.open["two"].tolist() == [False, True]


def test_loss_scores_cells_against_their_own_vocabulary_only() -> None:
    # both words of "same" share one embedding: whatever the head says, p = 1/2 and the loss log 2
    tables = {"same": [["bear"], ["dog"]], "lone": [["cat"]]}
    words = Words(TwoWords(), tables)
    context = tokens()
    cells = np.zeros((16, 24))
    same = view_of(context, {"same": cells})
    sampler = Sampler([same], words, {}, points=8, seed=0)
    loss = step_loss(DenseHead(), torch.tensor(2.0), [same], sampler, words, 0.5)
    assert loss.item() == pytest.approx(np.log(2), abs=1e-5)
    lone = view_of(context, {"lone": cells})  # a single word has no rival: no loss
    sampler = Sampler([lone], words, {}, points=8, seed=0)
    assert step_loss(DenseHead(), torch.tensor(2.0), [lone], sampler, words, 0.5).item() == 0.0


def test_sampler_prefers_rare_classes_and_skips_ignored_cells() -> None:
    ids = np.full((16, 24), IGNORE)
    ids[:8], ids[8, :2] = 0, 1
    words = Words(TwoWords(), {"v": [["apple"], ["bear"]]})
    view = view_of(tokens(), {"v": ids})
    assert class_counts([view], "v", 2).tolist() == [192, 2]
    sampler = Sampler([view], words, {}, points=500, seed=0)
    drawn = sampler.cells(view, "v")
    assert len(drawn) == 194
    assert not (view.layers["v"][drawn] == IGNORE).any()
    expected = (392 / 202) ** 0.5  # 1/sqrt(count + 200)
    assert float(sampler.rarity["v"][1] / sampler.rarity["v"][0]) == pytest.approx(expected)


def test_a_few_steps_teach_a_split_and_the_file_gives_it_back(tmp_path: Path) -> None:
    context = tokens(seed=3)
    ids = (StageMaps.from_tokens(context).s8[0, 0] > 0).numpy().astype(int)  # a rule of one channel
    words = Words(TwoWords(), {"v": [["apple"], ["bear"]]})
    view = view_of(context, {"v": ids})
    config = HeadConfig(
        tmp_path,
        tmp_path,
        tmp_path,
        steps=40,
        batch=2,
        points=256,
        window=6,
        warmup=5,
        average=0.8,
        learning_rate=5e-3,
    )
    head, scale, sampler = fit(config, [view], words)
    text = words.embeddings[[words.index["apple"], words.index["bear"]]]
    right = (torch.einsum("dyx,kd->kyx", head(context)[0], text).argmax(0).numpy() == ids).mean()
    assert right > 0.8

    names = taught_words(words, sampler)
    assert names == []  # each class has fewer than 200 cells
    path = tmp_path / "head.safetensors"
    save_head(path, head, scale, ["apple", "bear"], text, {"recipe": "test"})
    loaded = load_dense_head(path)
    assert loaded.names == ("apple", "bear")
    assert loaded.notes == {"recipe": "test"}
    assert loaded.scale == pytest.approx(scale)
    torch.testing.assert_close(loaded.head(context), head(context), atol=5e-3, rtol=0)
    torch.testing.assert_close(loaded.nearness(text), torch.ones(2), atol=1e-3, rtol=0)


def test_load_names_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="make train-embedded-head"):
        load_dense_head(tmp_path / "none.safetensors")
    bad = tmp_path / "bad.safetensors"
    bad.write_bytes(b"not a header")
    with pytest.raises(InputError, match="not a safetensors file"):
        load_dense_head(bad)
    from safetensors.torch import save_file

    save_file({"x": torch.zeros(1)}, bad)
    with pytest.raises(InputError, match="not a trained head"):
        load_dense_head(bad)


def test_config_rejects_what_cannot_work(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="at least 1"):
        HeadConfig(tmp_path, tmp_path, tmp_path, steps=0)
    with pytest.raises(InputError, match="camvid"):
        HeadConfig(tmp_path, tmp_path, tmp_path, sources={"camvid": 1.0})
    with pytest.raises(InputError, match="unicorn"):
        HeadConfig(tmp_path, tmp_path, tmp_path, withheld=("unicorn",))


def test_no_photos_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no data set"):
        training_photos(tmp_path)


def test_vocabularies_have_no_word_twice() -> None:
    for name, table in VOCABULARIES.items():
        every = [word for words in table for word in words]
        assert len(every) == len(set(every)), name
    assert [len(VOCABULARIES[n]) for n in ("coco133", "ade31", "voc21", "city19")] == [
        133,
        31,
        20,
        19,
    ]


def test_recipes_and_held_out_part_on_the_real_lists(shared: Path) -> None:
    data = shared / "data"
    away = held_out(data)
    assert {split: len(stems) for split, stems in away.items()} == HELD_OUT
    assert away == held_out(data)
    everything = training_photos(data)
    assert not {p.source for p in everything} & {"camvid", "bsds500"}
    development = {p.key for p in training_photos(data, hold_out=True)}
    assert len(everything) - len(development) == 70
    assert not development & {f"coco_train/{s}" for stems in away.values() for s in stems}
    permissive = training_photos(data, "permissive")
    assert {p.source for p in permissive} == {"coco_train", "coco_train_more", "facades_night_day"}
    # 42 BY + 35 BY-SA + 3 free of coco_train, 14 + 3 of coco_train_more, 182 facades
    assert len(permissive) == 80 + 17 + 182


@pytest.mark.parametrize("teacher", ["ade31", "voc21", "city19"])
def test_shipped_head_is_small_and_was_taught_everyday_words(teacher: str) -> None:
    trained = load_dense_head()
    assert {"sky", "tree", "building", "person", "table"} <= set(trained.names)
    assert trained.taught.shape == (len(trained.names), D)
    assert json.dumps(trained.notes)
    assert {words[0] for words in VOCABULARIES[teacher]} & set(trained.names)
