"""Votes of an earlier head, with the packaged towers and the shipped head."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from scanseg.contracts import InputError
from scanseg.encoders.embedded import EmbeddedEncoder
from scanseg.presets import MINILM_TEMPLATES
from scanseg.proposals.dense_head import load_dense_head
from scanseg.training.embedded_head import save_head
from scanseg.training.head_dataset import load_photos
from scanseg.training.head_labels import SoftLabels, label_layers, something_else
from scanseg.training.head_photos import Photo
from scanseg.training.head_vocabularies import ADE31, COCO133
from scanseg.training.self_votes import (
    check_earlier,
    head_votes,
    make_self_votes,
    read_self_votes,
    votes_folder,
)
from scanseg.training.teachers import KEPT, VOTE_GRID

NAMES = [words[0] for words in COCO133]
GRID = (VOTE_GRID, VOTE_GRID)


@pytest.fixture(scope="module")
def encoder() -> EmbeddedEncoder:
    return EmbeddedEncoder()


@pytest.fixture(scope="module")
def words(encoder: EmbeddedEncoder) -> torch.Tensor:
    prompts = [template.format(name) for name in NAMES for template in MINILM_TEMPLATES]
    rows = encoder.encode_text(prompts).view(len(NAMES), len(MINILM_TEMPLATES), -1).mean(1)
    return torch.nn.functional.normalize(rows, dim=-1)


def shipped() -> Path:
    import scanseg.proposals

    return Path(scanseg.proposals.__file__).parent / "embedded_head.safetensors"


def a_photo(folder: Path, **more: object) -> Photo:
    from skimage import data

    path = folder / "cat.png"
    Image.fromarray(data.chelsea()).resize((226, 150)).save(path)
    return Photo("imagenet_samples", "cat", path, **more)  # type: ignore[arg-type]


def index(name: str) -> int:
    return NAMES.index(name)


@pytest.mark.parametrize("corner", [(0, 0), (0, 1), (1, 0), (1, 1)])
def test_a_cat_is_found_in_its_corner(
    tmp_path: Path, encoder: EmbeddedEncoder, words: torch.Tensor, corner: tuple[int, int]
) -> None:
    """A canvas that is not square, and whose sides are not multiples of 32 at any size."""
    canvas = Image.new("RGB", (460, 300), (200, 205, 210))
    cat = a_photo(tmp_path).open().resize((230, 150))
    canvas.paste(cat, (230 * corner[1], 150 * corner[0]))
    ids, shares = head_votes(canvas, load_dense_head(), words, encoder, (300, 420))
    assert ids.shape == shares.shape == (KEPT, *GRID)
    assert (np.diff(shares.astype(int), axis=0) <= 0).all()  # the most probable first
    assert shares.astype(int).sum(0).max() <= 255 + KEPT
    found = np.where(ids == index("cat"), shares.astype(float), 0).sum(0)  # (G, G)
    half = VOTE_GRID // 2
    means = found.reshape(2, half, 2, half).mean((1, 3))  # of the four corners
    others = [means[y, x] for y in (0, 1) for x in (0, 1) if (y, x) != corner]
    assert means[corner] > 50
    assert max(others) < 0.25 * means[corner]


def test_votes_are_made_once_and_stand_beside_the_teachers(
    tmp_path: Path, encoder: EmbeddedEncoder, words: torch.Tensor
) -> None:
    photo = a_photo(tmp_path, image_class=281)  # tabby
    labelled = replace(photo, stem="all", vocabulary="coco133", exhaustive=133)
    elsewhere = replace(photo, source="facades_night_day")
    make_self_votes([photo, labelled, elsewhere], shipped(), words, encoder, tmp_path)
    folder = votes_folder(tmp_path, shipped())
    made = list(folder.rglob("*.npz"))
    assert made == [folder / "imagenet_samples" / "cat.npz"]
    before = made[0].stat().st_mtime_ns
    make_self_votes([photo], shipped(), words, encoder, tmp_path)
    assert made[0].stat().st_mtime_ns == before
    assert load_photos([photo], tmp_path, folder)[0].votes.keys() == {"coco133"}
    with pytest.raises(InputError, match="none of the photos has labels or votes"):
        load_photos([photo], tmp_path)


def test_an_earlier_head_that_knows_too_much_is_refused(tmp_path: Path) -> None:
    check_earlier(shipped(), recipe="default", hold_out=True)
    with pytest.raises(InputError, match="was taught clock, which are withheld"):
        check_earlier(shipped(), recipe="default", hold_out=True, withheld=["clock", "anvil"])
    with pytest.raises(InputError, match="photos that the permissive recipe leaves out"):
        check_earlier(shipped(), recipe="permissive", hold_out=True)
    trained = load_dense_head()
    everything = tmp_path / "everything.safetensors"
    notes = {"config": {"recipe": "permissive", "hold_out": False}}
    save_head(everything, trained.head.heads[0], 20.0, ["cat"], trained.taught[:1], notes)
    check_earlier(everything, recipe="permissive", hold_out=False)
    with pytest.raises(InputError, match="learned from the held-out photos"):
        check_earlier(everything, recipe="permissive", hold_out=True)
    with pytest.raises(InputError, match="no earlier head"):
        votes_folder(tmp_path, tmp_path / "missing.safetensors")


def write(folder: Path, photo: Photo, names: list[str], share: int = 255) -> None:
    """One vote per column of the grid's thirds."""
    path = folder / photo.source / f"{photo.stem}.npz"
    path.parent.mkdir(parents=True, exist_ok=True)
    ids = np.zeros((1, *GRID), np.uint8)
    for number, name in enumerate(names):
        ids[:, :, number * VOTE_GRID // len(names) :] = index(name)
    np.savez(path, ids=ids, shares=np.full(ids.shape, share, np.uint8))


def thirds(labels: SoftLabels) -> list[float]:
    return [float(labels.mass[0, VOTE_GRID * (2 * i + 1) // 6]) for i in range(3)]


def test_a_sure_teacher_silences_it_and_so_does_the_wrong_animal(tmp_path: Path) -> None:
    photo = a_photo(tmp_path)
    write(tmp_path, photo, ["road", "pavement", "kite"])
    sidewalk = [w[0] for w in ADE31].index("sidewalk")
    ids = np.full((1, *GRID), sidewalk, np.uint8)
    ids[..., 2 * VOTE_GRID // 3 :] = something_else("ade31")
    teacher = {"ade31": SoftLabels(ids, np.ones((1, *GRID), np.float32))}
    found = read_self_votes(photo, tmp_path, teacher)
    assert found is not None
    assert thirds(found) == [0, 1, 1]
    unsure = {"ade31": SoftLabels(ids, np.full((1, *GRID), 0.4, np.float32))}
    found = read_self_votes(photo, tmp_path, unsure)
    assert found is not None
    assert thirds(found) == [1, 1, 1]
    write(tmp_path, photo, ["cat", "dog", "bowl"])
    found = read_self_votes(replace(photo, image_class=281), tmp_path, {})
    assert found is not None
    assert thirds(found) == [1, 0, 1]
    write(tmp_path, photo, ["cat", "dog", "bowl"], share=120)
    found = read_self_votes(photo, tmp_path, {})
    assert found is not None
    assert thirds(found) == [0, 0, 0]
    assert read_self_votes(replace(photo, stem="none"), tmp_path, {}) is None
    write(tmp_path, photo, ["grass", "dog", "grass"])
    truth = np.full((60, 90), 255, np.uint8)
    truth[:, 60:] = index("sky")
    things = replace(photo, vocabulary="coco133", exhaustive=80)
    found = read_self_votes(things, tmp_path, {}, truth)
    assert found is not None
    assert thirds(found) == [1, 0, 0]  # a labelled thing would be labelled; the sky is known


def test_it_speaks_only_where_the_truth_does_not_and_names_no_labelled_thing() -> None:
    photo = Photo("coco_train", "a", Path("a"), vocabulary="coco133", exhaustive=80)
    truth = np.array([[index("dog"), 255, 255]], np.uint8)
    said = SoftLabels.hard(np.array([[index("grass"), index("grass"), index("cat")]], np.uint8))
    own, earlier = label_layers(photo, truth, {"coco133": said})
    np.testing.assert_array_equal(own.labels.mass, [[1, 0, 0]])
    np.testing.assert_array_equal(earlier.labels.mass, [[0, 1, 0]])
