"""The teachers' own files: logits and features are found, votes lie where the photo shows them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from skimage import data

from scanseg.contracts import InputError
from scanseg.training.head_vocabularies import FIRST_CLASS, VOC20
from scanseg.training.teachers import KEPT, TEACHERS, VOTE_GRID, Teacher

CAT = [words[0] for words in VOC20].index("cat") + FIRST_CLASS["voc21"]


@pytest.fixture
def folder(shared: Path) -> Path:
    pytest.importorskip("ai_edge_litert")
    if not (shared / "teachers").is_dir():
        pytest.skip("no teachers beside the checkout")
    return shared / "teachers"


@pytest.mark.parametrize("name", TEACHERS)
def test_probabilities_are_those_of_the_teachers_own_map(folder: Path, name: str) -> None:
    teacher = Teacher(folder, name)
    photo = Image.fromarray(data.astronaut())
    own, probabilities = teacher(photo), teacher.probabilities(photo)
    assert len(probabilities) == teacher.spec.classes
    torch.testing.assert_close(probabilities.sum(0), torch.ones(probabilities.shape[1:]))
    size = (teacher.size, teacher.size)
    full = F.interpolate(probabilities.log()[None], size, mode="bilinear", align_corners=True)
    assert (full[0].argmax(0).numpy() == own).mean() > 0.95  # theirs is quantised on the way


def test_a_vote_lies_where_the_photo_shows_it(folder: Path) -> None:
    teacher = Teacher(folder, "voc21")
    photo = np.full((400, 600, 3), 128, np.uint8)
    photo[50:350, 130:581] = data.chelsea()  # a cat right of the middle
    ids, shares, features = teacher.vote(Image.fromarray(photo), crops=4)
    assert ids.shape == shares.shape == (KEPT, VOTE_GRID, VOTE_GRID)
    assert (np.diff(shares, axis=0) <= 1e-6).all()
    assert (shares.sum(0) <= 1 + 1e-5).all()
    cat = (shares * (ids == CAT)).sum(0)
    rows, columns = np.indices(cat.shape)
    assert cat.sum() > 0.1 * cat.size
    assert 0.5 < (columns * cat).sum() / cat.sum() / VOTE_GRID < 0.75
    assert 0.35 < (rows * cat).sum() / cat.sum() / VOTE_GRID < 0.65
    # features tell the cat from the grey margin
    cells = np.linalg.norm(features - features[:, :3].mean((0, 1)), axis=-1)
    assert cells[:, 12:28].mean() > 2 * cells[:, :4].mean()


def test_a_missing_teacher_is_named(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="pass the folder that holds voc21_deeplabv3"):
        Teacher(tmp_path, "voc21")
