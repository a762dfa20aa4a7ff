"""Augmented photos: photo and map stay together, labels survive, nothing depends on the past."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from scanseg.contracts import InputError
from scanseg.training.config import AugmentationConfig, DataConfig, TrainerConfig
from scanseg.training.crops import (
    Augmentation,
    TrainingPhotos,
    collate,
    open_sources,
    ssd_jitter,
    targets_of,
)
from scanseg.training.lightning_parts import StepLoader

SMALL = AugmentationConfig(short_min=48, short_max=96, short_step=16, longest=160, crop=64)


def write_folder(root: Path, classes: list[str], photos: int = 4, seed: int = 0) -> Path:
    """A data set of one's own: blocks of class c have the colour (40 c, 200 - 40 c, 90)."""
    generator = np.random.default_rng(seed)
    (root / "images").mkdir(parents=True)
    (root / "labels").mkdir()
    lines = [f"{i}\t{name}\n" for i, name in enumerate(classes)]
    (root / "classes.txt").write_text("".join(lines))
    for number in range(photos):
        blocks = generator.integers(0, len(classes), (3, 4))
        labels = np.kron(blocks, np.ones((30, 25), int)).astype(np.uint8)
        pixels = np.stack([40 * labels, 200 - 40 * labels, np.full_like(labels, 90)], -1)
        labels[:5] = 255  # a strip without labels
        Image.fromarray(labels).save(root / "labels" / f"{number:03}.png")
        Image.fromarray(pixels.astype(np.uint8)).save(root / "images" / f"{number:03}.png")
    return root


def test_photo_and_map_move_together(tmp_path: Path) -> None:
    sources = open_sources([DataConfig(root=str(write_folder(tmp_path / "d", ["a", "b", "c"])))])
    plain = Augmentation(AugmentationConfig(**{**vars(SMALL), "colour": False}))
    agreed = []
    for number in range(12):
        torch.manual_seed(number)
        pixels, labels = plain(*sources.parts[0].read(number % 4))
        assert pixels.shape == (3, 64, 64)
        assert labels.shape == (64, 64)
        assert (pixels.dtype, labels.dtype) == (torch.uint8, torch.int32)
        known = labels >= 0
        agreed.append(((pixels[0].int() - 40 * labels).abs() < 12)[known].float().mean().item())
    assert min(agreed) > 0.8  # all but blended pixels at borders
    assert len(set(agreed)) > 6


def test_padding_is_right_and_below() -> None:
    config = AugmentationConfig(
        short_min=40, short_max=40, longest=50, crop=64, colour=False, flip=0.0, pad=77
    )
    pixels, labels = Augmentation(config)(np.zeros((40, 50, 3), np.uint8), np.ones((40, 50), int))
    assert (labels[:40, :50] == 1).all()
    assert (pixels[:, :40, :50] == 0).all()
    assert (labels[40:] == -1).all()
    assert (labels[:, 50:] == -1).all()
    assert (pixels[:, 40:] == 77).all()
    assert (pixels[:, :, 50:] == 77).all()


def test_sizes_are_those_of_the_list() -> None:
    resize = Augmentation(AugmentationConfig()).resize
    assert list(resize.min_size) == list(range(320, 1281, 64))
    assert resize.max_size == 2560


def test_jitter_changes_colours_half_of_the_time_and_keeps_channels() -> None:
    photo = torch.zeros(3, 4, 4, dtype=torch.uint8)
    photo[0], photo[1], photo[2] = 200, 100, 40
    changed, order_kept = 0, 0
    for seed in range(200):
        torch.manual_seed(seed)
        found = ssd_jitter(photo)
        changed += not torch.equal(found, photo)
        r, g, b = found[:, 0, 0].tolist()
        order_kept += r >= g >= b
    assert 160 < changed < 200  # 1 - 1/16 of them
    assert order_kept > 150  # hue moves by at most 1/20 of the circle, channels are not exchanged


def test_same_position_same_photo_whatever_happened_before(tmp_path: Path) -> None:
    sources = open_sources([DataConfig(root=str(write_folder(tmp_path / "d", ["a", "b"])))])
    photos = TrainingPhotos(sources, SMALL, seed=3)
    first = photos[17]
    torch.rand(5)
    state = torch.get_rng_state()
    again = TrainingPhotos(sources, SMALL, seed=3)[17]
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first.pixels, again.pixels)
    assert torch.equal(first.labels, again.labels)
    assert not torch.equal(first.pixels, TrainingPhotos(sources, SMALL, seed=4)[17].pixels)


def test_workers_do_not_change_the_batches(tmp_path: Path) -> None:
    sources = open_sources([DataConfig(root=str(write_folder(tmp_path / "d", ["a", "b"])))])
    photos = TrainingPhotos(sources, SMALL, seed=0)
    found = []
    for workers in (0, 1, 2):
        trainer = TrainerConfig(steps=3, batch=4, accumulate=2, workers=workers)
        found.append(list(StepLoader(photos, trainer, collate)))
    for batches in found[1:]:
        for one, other in zip(found[0], batches, strict=True):
            assert torch.equal(one.pixels, other.pixels)
            assert torch.equal(one.labels, other.labels)
    resumed = list(StepLoader(photos, TrainerConfig(steps=3, batch=4, workers=1), collate, start=2))
    assert torch.equal(resumed[0].pixels[:2], found[0][4].pixels)


def test_batches_know_the_masks_of_their_step(tmp_path: Path) -> None:
    sources = open_sources([DataConfig(root=str(write_folder(tmp_path / "d", ["a", "b", "c"])))])
    photos = TrainingPhotos(sources, SMALL, seed=0)
    trainer = TrainerConfig(steps=4, batch=2, accumulate=2, workers=0)
    batches = list(StepLoader(photos, trainer, collate))
    for first, second in zip(batches[::2], batches[1::2], strict=True):
        counts = [int((b.labels.unique() >= 0).sum()) for b in (first, second)]
        assert [first.masks, second.masks] == counts
        assert first.masks_per_batch == second.masks_per_batch == sum(counts) / 2


def test_one_mask_per_class_present(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "d", ["a", "b", "c"])
    config = DataConfig(root=str(root), unlabelled="ignored", exhaustive=False)
    sources = open_sources([config])
    photos = TrainingPhotos(sources, SMALL, seed=0)
    batch = collate([photos[0], photos[1]])
    for target, labels in zip(targets_of(batch, [config], None), batch.labels, strict=True):
        assert target.labels.tolist() == sorted({int(v) for v in labels.unique()} - {-1})
        for label, mask in zip(target.labels, target.masks, strict=True):
            assert torch.equal(mask, labels == label)
        assert target.void is not None
        assert torch.equal(target.void, labels == -1)
        assert not target.exhaustive
    plain = targets_of(batch, [DataConfig(root=str(root))], None)[0]
    assert plain.void is None
    assert plain.exhaustive


def test_vocabularies_are_united_by_word(tmp_path: Path) -> None:
    one = write_folder(tmp_path / "one", ["cat", "dog"])
    two = write_folder(tmp_path / "two", ["dog", "tree"], seed=1)
    configs = [DataConfig(root=str(one)), DataConfig(root=str(two))]
    sources = open_sources(configs)
    assert sources.words == ("cat", "dog", "tree")
    assert sources.candidates is not None
    assert sources.candidates.tolist() == [[True, True, False], [False, True, True]]
    _, own = sources.parts[1].photos[0].pixels(), sources.parts[1].photos[0].truth()
    _, united = sources.parts[1].read(0)
    assert np.array_equal(united, np.where(own >= 0, own + 1, -1))
    assert open_sources(configs[:1]).candidates is None


@pytest.mark.parametrize(
    ("configs", "message"),
    [
        ([], "no data to train on; say --set data.root=FOLDER"),
        ([DataConfig()], "no folder; say --set data.root"),
        ([DataConfig(name="foldr", root=".")], "did you mean 'folder'"),
    ],
)
def test_mistakes(configs: list[DataConfig], message: str) -> None:
    with pytest.raises(InputError, match=message):
        open_sources(configs)


def test_a_map_of_another_size_is_named(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "d", ["a", "b"])
    Image.new("L", (10, 10)).save(root / "labels" / "002.png")
    with pytest.raises(InputError, match=r"002: the photo is .* but its label map"):
        open_sources([DataConfig(root=str(root))]).parts[0].read(2)


def test_loader_takes_a_plain_dataset(tmp_path: Path) -> None:
    sources = open_sources([DataConfig(root=str(write_folder(tmp_path / "d", ["a"])))])
    loader = DataLoader(TrainingPhotos(sources, SMALL, 0), sampler=range(2), collate_fn=collate)
    assert len(list(loader)) == 2
