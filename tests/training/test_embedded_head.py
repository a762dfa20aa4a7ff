"""The dense head and its training, on tiny synthetic data; values worked out by hand."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from scanseg.contracts import ClipTokens, InputError
from scanseg.encoders.embedded import EmbeddedEncoder
from scanseg.proposals.dense_head import DenseHead, StageMaps, load_dense_head
from scanseg.training import embedded_head
from scanseg.training.embedded_head import (
    Batch,
    HeadConfig,
    Point,
    Sampler,
    Words,
    fit,
    image_class_layer,
    points_of,
    save_head,
    step_loss,
    taught_words,
)
from scanseg.training.head_dataset import StoredPhoto, TrainingView, class_counts, draw_view
from scanseg.training.head_hints import HintPoint, Hints, hint_points
from scanseg.training.head_labels import (
    IGNORE,
    Layer,
    SoftLabels,
    gated_votes,
    is_street,
    label_layers,
    rivals,
    something_else,
)
from scanseg.training.head_photos import HELD_OUT, Photo, held_out, training_photos
from scanseg.training.head_sampling import Views
from scanseg.training.head_views import View, random_view
from scanseg.training.head_vocabularies import ADE31, CITY19, COCO133, VOC20, VOCABULARIES

D = 384


def tokens(rows: int = 2, columns: int = 3, seed: int = 0) -> ClipTokens:
    """Random tokens of a photo whose grid at stride 32 is rows x columns."""
    draw = torch.Generator().manual_seed(seed)
    grid = (rows * 4, columns * 4)
    return ClipTokens(
        patches={1: torch.randn(1, grid[0] * grid[1], 40, generator=draw)},
        cls={},
        grids={1: grid},
        pooled=F.normalize(torch.randn(1, D, generator=draw), dim=-1),
        dense=F.normalize(torch.randn(1, D, rows, columns, generator=draw), dim=1),
    )


class TwoWords:
    """A text tower for tests: every word that starts with "a" is one axis, others another."""

    def encode_text(self, prompts: list[str]) -> torch.Tensor:
        axis = [
            0 if any(w.startswith("a") and len(w) > 1 for w in p.split()) else 1 for p in prompts
        ]
        return F.one_hot(torch.tensor(axis), D).float()


def hard(*ids: int) -> SoftLabels:
    return SoftLabels.hard(np.array([ids], np.uint8))


def test_an_untrained_head_is_conse_at_stride_8() -> None:
    context = tokens()
    head = DenseHead().eval()
    torch.nn.init.zeros_(head.mlp[-1].weight)
    out = head(context)
    assert out.shape == (1, D, 8, 12)
    expected = F.interpolate(context.dense, (8, 12), mode="bilinear", align_corners=False)
    torch.testing.assert_close(out, F.normalize(expected, dim=1))


def test_the_branch_starts_as_the_towers_own_blocks() -> None:
    encoder = EmbeddedEncoder()
    head = DenseHead()
    blocks = torch.nn.Sequential(*encoder.tower.blocks[3:])
    head.branch.load_state_dict(blocks.state_dict())
    context = encoder.encode_image(torch.rand(1, 3, 64, 96) * 255, layers=(1, 2, 3))
    s16, s32 = head.eval().stages(StageMaps.from_tokens(context).s8)
    torch.testing.assert_close(s16.flatten(2).transpose(1, 2), context.patches[2])
    torch.testing.assert_close(s32.flatten(2).transpose(1, 2), context.patches[3])


def test_batch_norms_of_the_branch_keep_their_statistics_while_training() -> None:
    head = DenseHead().train()
    before = {k: v.clone() for k, v in head.branch.state_dict().items()}
    head.stages(torch.randn(2, 40, 8, 8))
    for name, value in head.branch.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert head.mlp.training


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


def test_random_views_show_the_photo_at_the_wanted_scale_and_stretch_only_small_ones() -> None:
    rng = random.Random(0)
    for _ in range(50):
        view = random_view((640, 320), (640, 1280), 320, rng)
        assert (view.width, view.height) == (320, 320)
        assert 0.25 <= view.x1 - view.x0 <= 0.5  # 320 of 640 to 1280 pixels
        assert 0.5 <= view.y1 - view.y0 <= 1.0
        assert 0 <= view.x0 <= view.x1 <= 1
    small = random_view((100, 100), (160, 160), 320, rng)
    assert (small.x0, small.y0, small.x1, small.y1) == (0, 0, 1, 1)


def coco_photo(exhaustive: int) -> Photo:
    return Photo("coco_train", "x", Path("x.jpg"), vocabulary="coco133", exhaustive=exhaustive)


def index(table: tuple[tuple[str, ...], ...], word: str) -> int:
    return [words[0] for words in table].index(word)


def test_soft_labels_lose_forbidden_shares_and_cells_with_too_little_left() -> None:
    soft = SoftLabels(
        np.array([[[3, 3]], [[5, 6]]], np.uint8), np.array([[[0.6, 0.4]], [[0.4, 0.6]]], np.float32)
    )
    left = soft.without(soft.ids == 3, least=0.5)
    np.testing.assert_allclose(left.shares, [[[0, 0]], [[0, 0.6]]])  # 0.4 is not enough
    np.testing.assert_allclose(left.mass, [[0, 0.6]])


def test_teachers_are_silenced_where_the_truth_contradicts_them() -> None:
    sky, person, chair = (index(ADE31, word) for word in ("sky", "person", "chair"))
    said = hard(sky, sky, person, chair, IGNORE)
    truth = np.array(
        [[index(COCO133, "sky"), index(COCO133, "dog"), IGNORE, IGNORE, IGNORE]], np.uint8
    )
    layers = label_layers(coco_photo(80), truth, {"ade31": said})
    assert [layer.vocabulary for layer in layers] == ["coco133", "ade31"]
    # sky on sky stays; sky on dog, and things where all things are labelled, go
    np.testing.assert_array_equal(layers[1].labels.mass, [[1, 0, 0, 0, 0]])
    only_persons = label_layers(coco_photo(1), truth, {"ade31": said})[1].labels
    np.testing.assert_array_equal(only_persons.mass, [[1, 0, 0, 1, 0]])
    assert only_persons.ids[0, 0, 3] == chair


def test_a_street_that_may_be_road_or_pavement_gates_but_names_nothing() -> None:
    street, facade = index(VOCABULARIES["facades"], "street"), 0
    photo = Photo("facades_night_day", "a", Path("a"), vocabulary="facades", unnamed=(street,))
    truth = np.array([[street, street, facade]])
    said = hard(index(ADE31, "sidewalk"), index(ADE31, "wall"), index(ADE31, "building"))
    own, teacher = label_layers(photo, truth, {"ade31": said})
    assert own.vocabulary == "facades"
    np.testing.assert_array_equal(own.labels.mass, [[0, 0, 1]])
    np.testing.assert_array_equal(teacher.labels.mass, [[1, 0, 1]])  # a wall is no street
    stored = StoredPhoto(
        photo, np.zeros((8, 24, 3), np.uint8), np.repeat(np.repeat(truth, 8, 0), 8, 1), {}
    )
    assert class_counts([stored], "facades", 11)[[street, facade]].tolist() == [0, 1]


def test_background_is_a_class_of_its_own_and_what_is_kept_must_be_probable() -> None:
    cat, dog = index(VOC20, "cat") + 1, index(VOC20, "dog") + 1
    votes = {  # three cells: cat and background; cat and dog; four classes share the rest
        "voc21": np.array([[[cat, cat, cat]], [[0, dog, dog]]], np.uint8),
        "voc21_shares": np.array([[[153, 153, 51]], [[102, 102, 51]]], np.uint8),
    }
    gated = gated_votes(coco_photo(0), votes)["voc21"]
    np.testing.assert_allclose(gated.shares, [[[0.6, 0.6, 0]], [[0.4, 0.4, 0]]], atol=1e-6)
    assert gated.ids[:, 0, 0].tolist() == [cat - 1, something_else("voc21")]
    assert gated.ids[:, 0, 1].tolist() == [cat - 1, dog - 1]


def test_something_else_is_what_no_class_of_the_teacher_covers() -> None:
    names = rivals("voc21")
    assert {"truck", "zebra", "sky", "window"} <= set(names)
    assert not {"cat", "couch", "table", "airplane"} & set(names)
    # true sky may be "something else" to the object teacher, a true cat may not
    truth = np.array([[index(COCO133, "sky"), index(COCO133, "cat")]], np.uint8)
    other = hard(*[something_else("voc21")] * 2)
    layers = label_layers(coco_photo(0), truth, {"voc21": other})
    np.testing.assert_array_equal(layers[1].labels.mass, [[1, 0]])
    assert layers[1].labels.ids[0, 0, 0] == len(VOC20)


def sure(ids: np.ndarray) -> np.ndarray:
    return np.full((1, *ids.shape), 255, np.uint8)


def street_votes(ground: str) -> dict[str, np.ndarray]:
    scene = np.full((10, 10), index(ADE31, "sky") + 1, np.uint8)
    scene[5:] = index(ADE31, ground) + 1
    city = np.full((10, 10), index(CITY19, "sky"), np.uint8)
    city[8:] = index(CITY19, "road")
    return {
        "ade31": scene[None], "ade31_shares": sure(scene),
        "city19": city[None], "city19_shares": sure(city),
    }  # fmt: skip


def test_street_teacher_does_not_speak_against_the_scene_teacher() -> None:
    assert is_street(street_votes("road"))
    assert not is_street(street_votes("grass"))
    city = gated_votes(coco_photo(0), street_votes("road"))["city19"]
    sky = (city.ids[0] == index(CITY19, "sky")) & (city.mass > 0)
    assert sky[:5].all()
    assert (city.mass[5:8] == 0).all()  # "sky" where the scene teacher sees a road
    assert (city.ids[0, 8:] == index(CITY19, "road")).all()
    assert (city.mass[8:] == 1).all()


def test_animals_must_be_those_of_the_image_label() -> None:
    dog, cat = index(VOC20, "dog") + 1, index(VOC20, "cat") + 1
    person, rug = index(ADE31, "person") + 1, index(ADE31, "rug") + 1
    objects, scene = np.array([[dog, cat, 0]], np.uint8), np.array([[rug, rug, person]], np.uint8)
    votes = {
        "voc21": objects[None], "voc21_shares": sure(objects),
        "ade31": scene[None], "ade31_shares": sure(scene),
    }  # fmt: skip
    beagle = Photo("imagenet_samples", "x", Path("x.jpg"), image_class=162)  # and "background"
    gated = gated_votes(beagle, votes)
    np.testing.assert_array_equal(gated["voc21"].mass, [[1, 0, 0]])
    np.testing.assert_array_equal(gated["ade31"].mass, [[0, 1, 0]])
    assert gated["ade31"].ids[0, 0, 1] == rug - 1
    lizard = Photo(
        "imagenet_samples", "x", Path("x.jpg"), image_class=40
    )  # no class of the teacher
    gated = gated_votes(lizard, votes)
    np.testing.assert_array_equal(gated["voc21"].mass, [[0, 0, 1]])
    np.testing.assert_array_equal(gated["ade31"].mass, [[1, 1, 0]])  # a person is still no lizard


def test_words_close_withheld_classes_in_every_vocabulary() -> None:
    tables = {"one": [["apple", "fruit"], ["bear"]], "two": [["fruit"], ["dog"]]}
    words = Words(TwoWords(), tables, withheld=("fruit",))
    assert words.open["one"].tolist() == [False, True]
    assert words.open["two"].tolist() == [False, True]


def all_cells(vocabulary: str, labels: SoftLabels, **more: int) -> Point:
    J = len(labels.ids)
    return Point(
        vocabulary,
        torch.arange(labels.mass.size),
        torch.from_numpy(labels.ids.reshape(J, -1)).long(),
        torch.from_numpy(labels.shares.reshape(J, -1)),
        1.0,
        **more,
    )


def loss_of(words: Words, *points: Point) -> float:
    maps, rng = StageMaps.from_tokens(tokens()), random.Random(0)
    head = DenseHead().eval()
    return step_loss(head, torch.tensor(2.0), Batch(maps, points), words, 0.5, rng).item()


def test_loss_scores_cells_against_their_own_vocabulary_only() -> None:
    # both words of "same" share one embedding: whatever the head says, p = 1/2 and the loss log 2
    words = Words(TwoWords(), {"same": [["bear"], ["dog"]], "lone": [["cat"]]})
    zeros = SoftLabels.hard(np.zeros((8, 12), np.uint8))
    assert loss_of(words, all_cells("same", zeros)) == pytest.approx(np.log(2), abs=1e-5)
    # a single word has no rival: no loss
    assert loss_of(words, all_cells("lone", zeros)) == pytest.approx(0, abs=1e-6)
    # a mean over cells, whatever their vocabulary
    both = loss_of(words, all_cells("same", zeros), all_cells("lone", zeros))
    assert both == pytest.approx(np.log(2) / 2, abs=1e-5)


def test_soft_shares_and_cells_that_only_say_what_they_are_not() -> None:
    words = Words(TwoWords(), {"v": [["bear"], ["dog"], ["cat"]]})  # p = 1/3 each
    soft = SoftLabels(
        np.stack([np.zeros((8, 12), np.uint8), np.ones((8, 12), np.uint8)]),
        np.full((2, 8, 12), 0.5, np.float32),
    )
    assert loss_of(words, all_cells("v", soft)) == pytest.approx(np.log(3), abs=1e-5)
    nothing = SoftLabels.hard(np.zeros((8, 12), np.uint8))
    # none of the first one: -log(1/3 + 1/3)
    assert loss_of(words, all_cells("v", nothing, first=1)) == pytest.approx(np.log(1.5), abs=1e-5)


def test_rivals_of_a_vocabulary_are_one_class_together() -> None:
    tables = {"v": [["bear"], ["dog"], ["cat"], ["cow"]]}  # p = 1/4 each
    words = Words(TwoWords(), tables, own={"v": 1})
    assert words.classes("v") == 2
    zeros = SoftLabels.hard(np.zeros((8, 12), np.uint8))
    assert loss_of(words, all_cells("v", zeros)) == pytest.approx(np.log(4), abs=1e-5)
    others = SoftLabels.hard(np.ones((8, 12), np.uint8))
    assert loss_of(words, all_cells("v", others)) == pytest.approx(np.log(4 / 3), abs=1e-5)
    # a withheld rival is closed, "something else" never is
    words = Words(TwoWords(), tables, withheld=("dog",), own={"v": 1})
    assert loss_of(words, all_cells("v", others)) == pytest.approx(np.log(3 / 2), abs=1e-5)


def test_hints_are_the_teachers_features_in_the_cells_of_the_view() -> None:
    ids = np.zeros((64, 64))
    features = np.arange(4, dtype=np.float16).reshape(2, 2, 1)  # one channel: 0 1 / 2 3
    stored = replace(stored_photo(ids), hints={"voc21": features})
    words = Words(TwoWords(), {"coco133": [["apple"], ["bear"]]})
    sampler = Sampler(Views([stored], {}, 0.0), words, points=500)
    view = draw_view(stored, (64, 64), 64, random.Random(0))
    (point,) = hint_points(1, view, sampler.hinted)
    assert point.cells.tolist() == list(range(64, 128))
    quarters = np.repeat(np.repeat([[0, 1], [2, 3]], 4, 0), 4, 1)
    seen = point.features[:, 0].reshape(8, 8).numpy()
    assert any((seen == expected).all() for expected in (quarters, quarters[:, ::-1]))
    # mean 1.5, deviation sqrt(5/3): a map to 0 is wrong by ((f - 1.5)^2) / (5/3)
    hints = Hints(2, [stored])
    torch.nn.init.zeros_(hints.maps["voc21"].weight)
    torch.nn.init.zeros_(hints.maps["voc21"].bias)
    error = hints("voc21", torch.zeros(2, 2), torch.tensor([[0.0], [2.0]]))
    torch.testing.assert_close(error, torch.tensor([2.25, 0.25]) * 3 / 5)


def test_hints_add_their_error_to_the_loss() -> None:
    words = Words(TwoWords(), {"lone": [["cat"]]})  # no rival: no loss of its own
    labels = all_cells("lone", SoftLabels.hard(np.zeros((8, 12), np.uint8)))
    stored = replace(
        stored_photo(np.zeros((64, 64))),
        hints={"voc21": np.array([[[-1.0], [1.0]]], np.float16)},  # mean 0, deviation sqrt(2)
    )
    hints = Hints(256, [stored])
    torch.nn.init.zeros_(hints.maps["voc21"].weight)
    torch.nn.init.zeros_(hints.maps["voc21"].bias)
    point = HintPoint("voc21", torch.arange(4), torch.full((4, 1), 2.0))
    batch = Batch(StageMaps.from_tokens(tokens()), [labels], [point])
    head, rng = DenseHead().eval(), random.Random(0)
    loss = step_loss(head, torch.tensor(2.0), batch, words, 0.5, rng, hints, 0.25)
    assert loss.item() == pytest.approx(0.25 * 4 / 2, abs=1e-5)


def test_withheld_classes_are_neither_target_nor_rival() -> None:
    tables = {"v": [["bear"], ["dog"], ["cat"]]}
    words = Words(TwoWords(), tables, withheld=("cat",))
    zeros = SoftLabels.hard(np.zeros((8, 12), np.uint8))
    assert loss_of(words, all_cells("v", zeros)) == pytest.approx(np.log(2), abs=1e-5)
    cats = SoftLabels.hard(np.full((8, 12), 2, np.uint8))
    assert loss_of(words, all_cells("v", cats)) == 0.0


def stored_photo(ids: np.ndarray, exhaustive: int = 0) -> StoredPhoto:
    pixels = np.repeat((ids == 1).astype(np.uint8)[..., None] * 255, 3, 2)
    return StoredPhoto(coco_photo(exhaustive), pixels, ids.astype(np.uint8), {})


def test_a_view_says_what_unlabelled_cells_are_not() -> None:
    ids = np.full((64, 64), IGNORE)
    ids[:32] = 3
    rng = random.Random(0)
    things = draw_view(stored_photo(ids, exhaustive=80), (64, 64), 64, rng)
    assert things.rest.sum() == 32
    np.testing.assert_array_equal(things.rest, things.layers[0].labels.mass == 0)
    for exhaustive in (0, 133):  # nothing known; or all known, and then unlabelled means void
        assert not draw_view(stored_photo(ids, exhaustive), (64, 64), 64, rng).rest.any()


def test_sampler_prefers_rare_classes_and_skips_ignored_cells() -> None:
    ids = np.full((128, 192), IGNORE)
    ids[:64], ids[64:72, :16] = 0, 1
    words = Words(TwoWords(), {"coco133": [["apple"], ["bear"]]})
    stored = stored_photo(ids)
    assert class_counts([stored], "coco133", 2).tolist() == [192, 2]
    sampler = Sampler(Views([stored], {}, 0.0), words, points=500)
    labels = SoftLabels.hard(ids[4::8, 4::8])
    drawn = sampler.cells(Layer("coco133", labels, 1.0))
    assert len(drawn) == 194
    assert (labels.mass.ravel()[drawn] == 1).all()
    expected = (392 / 202) ** 0.5  # 1/sqrt(count + 200)
    assert sampler.rarity["coco133"][1] / sampler.rarity["coco133"][0] == pytest.approx(expected)


def test_points_of_a_batch_start_at_their_view() -> None:
    words = Words(TwoWords(), {"coco133": [["apple"], ["bear"]]})
    sampler = Sampler(Views([stored_photo(np.zeros((64, 64)))], {}, 0.0), words, points=500)
    rest = np.array([[False, True], [False, False]])
    layer = Layer("coco133", SoftLabels.hard(np.array([[1, IGNORE], [IGNORE, 0]])), 1.0)
    view = TrainingView(torch.zeros(3, 16, 16), [layer], rest, "coco133", 1, -1)
    labelled, unlabelled = points_of(2, view, sampler, view.layers, 0.5)
    assert labelled.cells.tolist() == [8, 11]
    assert labelled.ids.tolist() == [[1, 0]]
    assert (unlabelled.cells.tolist(), unlabelled.first, unlabelled.weight) == ([9], 1, 0.5)


def test_image_labels_hold_where_conse_agrees() -> None:
    keys = torch.eye(3)
    conse = torch.stack([torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]]), torch.zeros(1, 2)])
    layer = image_class_layer(conse, 1, keys, np.ones((1, 2), bool), 0.2)
    np.testing.assert_array_equal(layer.labels.shares, [[[0, 1]]])
    assert (layer.labels.ids == 1).all()
    layer = image_class_layer(conse, 1, keys, np.array([[True, False]]), 0.2)
    assert not layer.labels.shares.any()  # another photo's cell, whatever ConSE says


def small_config(folder: Path, steps: int) -> HeadConfig:
    return HeadConfig(
        folder,
        folder,
        folder,
        steps=steps,
        batch=2,
        points=64,
        window=64,
        warmup=2,
        average=0.8,
        learning_rate=3e-3,
    )


@pytest.fixture
def halves() -> StoredPhoto:
    ids = np.zeros((96, 96))
    ids[:, 48:] = 1
    return stored_photo(ids)


def test_a_few_steps_teach_a_split_and_the_file_gives_it_back(
    tmp_path: Path, halves: StoredPhoto
) -> None:
    encoder = EmbeddedEncoder()
    words = Words(TwoWords(), {"coco133": [["apple"], ["bear"]], "imagenet1k": [["bear"]]})
    head, scale, sampler = fit(small_config(tmp_path, 100), encoder, [halves], words)
    text = words.embeddings[[words.index["apple"], words.index["bear"]]]
    unmixed = Views([halves], {}, 0.0)
    unmixed.restart(12345)  # views that were not trained on
    views = unmixed.draw(24, 64)
    context = encoder.encode_image(torch.stack([view.pixels for view in views]), layers=(1,))
    said = torch.einsum("bdyx,kd->bkyx", head(context), text).argmax(1).numpy()
    true = np.stack([view.layers[0].labels.ids[0] for view in views])
    assert 0.2 < true.mean() < 0.8
    assert (said == true).mean() > 0.9

    assert taught_words(words, sampler) == []  # each class has fewer than 200 cells
    path = tmp_path / "head.safetensors"
    save_head(path, head, scale, ["apple", "bear"], text, {"recipe": "test"})
    loaded = load_dense_head(path)
    assert loaded.names == ("apple", "bear")
    assert loaded.notes == {"recipe": "test"}
    assert loaded.scale == pytest.approx(scale)
    torch.testing.assert_close(loaded.head(context), head(context), atol=2e-2, rtol=0)
    torch.testing.assert_close(loaded.nearness(text), torch.ones(2), atol=1e-3, rtol=0)


def test_an_interrupted_training_ends_as_an_uninterrupted_one(
    tmp_path: Path, halves: StoredPhoto, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = EmbeddedEncoder()
    words = Words(TwoWords(), {"coco133": [["apple"], ["bear"]], "imagenet1k": [["bear"]]})
    config, file = replace(small_config(tmp_path, 4), save_every=2), tmp_path / "state"
    straight, scale, _ = fit(config, encoder, [halves], words)
    real, calls = step_loss, []

    def stop_at_the_fourth(*given: object) -> torch.Tensor:
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return real(*given)

    monkeypatch.setattr(embedded_head, "step_loss", stop_at_the_fourth)
    with pytest.raises(KeyboardInterrupt):
        fit(config, encoder, [halves], words, file)
    monkeypatch.setattr(embedded_head, "step_loss", real)
    resumed, again, _ = fit(config, encoder, [halves], words, file)
    assert again == scale
    for name, value in straight.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


def test_a_checkpoint_of_other_settings_is_refused(tmp_path: Path, halves: StoredPhoto) -> None:
    encoder = EmbeddedEncoder()
    words = Words(TwoWords(), {"coco133": [["apple"], ["bear"]], "imagenet1k": [["bear"]]})
    config, file = replace(small_config(tmp_path, 1), save_every=1), tmp_path / "state"
    fit(config, encoder, [halves], words, file)
    away = tmp_path / "away"
    moved = replace(config, data=away, teachers=away, work=away, name="b", threads=2, save_every=9)
    fit(moved, encoder, [halves], words, file)  # none of these decides the result
    for change in ({"seed": 1}, {"withheld": ("zebra",)}, {"sources": {"coco_train": 1.0}}):
        with pytest.raises(InputError, match=f"{next(iter(change))} = .*take another name"):
            fit(replace(config, **change), encoder, [halves], words, file)


def test_load_names_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="make train-embedded"):
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
