"""Self-training with pseudo-labels: an earlier head votes over the 133 COCO names.

The teachers know 31, 21 and 19 words, and only a few photos have every pixel labelled. An earlier
head, which learned from all of these sources together, knows all the words; asked at several sizes
it is better than it is in one look, and a new head that learns from its answers on what nobody
labelled starts where it ended (noisy student, Xie et al., 2020, arXiv:1911.04252: the student sees
distorted windows, its teacher the plain photo).
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from scanseg.contracts import InputError
from scanseg.encoders.embedded import EmbeddedEncoder
from scanseg.proposals.dense_head import TrainedHead, load_dense_head
from scanseg.storage import atomic_write
from scanseg.training.head_labels import (
    COMPATIBLE,
    LEAST_SHARE,
    SoftLabels,
    animals_in,
    contradicted,
)
from scanseg.training.head_photos import Photo, Recipe
from scanseg.training.head_vocabularies import VOCABULARIES
from scanseg.training.teachers import KEPT, VOTE_GRID

log = logging.getLogger(__name__)
VOCABULARY = "coco133"
SIDES = {
    "coco_train": (448, 640, 832),
    "coco_train_more": (448, 640, 832),
    "imagenet_samples": (320, 448),
    "clothing_coparsing": (416, 576),
}
"""Long sides, in pixels, at which the head looks at a data set's photos; others it does not see.
The middle one, or the second, is mirrored."""


def check_earlier(
    head: Path, *, recipe: Recipe, hold_out: bool, withheld: Sequence[str] = ()
) -> None:
    """Whether a new head may learn from an earlier one.

    Args:
        head: file of the earlier head, or heads together.
        recipe: of the new one.
        hold_out: whether the new one must know nothing of the held-out photos.
        withheld: words that the new one must not learn.

    Raises:
        InputError: it may not, or there is no such file.
    """
    trained = load_dense_head(head)
    known = sorted(set(withheld) & set(trained.names))
    if known:
        raise InputError(f"{head} was taught {', '.join(known)}, which are withheld")
    for notes in trained.notes.get("heads", [trained.notes]):
        own = notes.get("config", {})
        if recipe == "permissive" and own.get("recipe") != "permissive":
            raise InputError(f"{head} learned from photos that the permissive recipe leaves out")
        if hold_out and not own.get("hold_out"):
            raise InputError(f"{head} learned from the held-out photos")


def votes_folder(work: Path, head: Path) -> Path:
    """Where a head's votes are kept; another file, other names or other sizes vote anew.

    Raises:
        InputError: there is no such head.
    """
    if not head.is_file():
        raise InputError(f"no earlier head {head}: pass a file that make train-embedded wrote")
    asked = hashlib.sha256(head.read_bytes())
    names = [words[0] for words in VOCABULARIES[VOCABULARY]]
    asked.update(repr((names, sorted(SIDES.items()))).encode())
    return work / "votes" / f"head-{asked.hexdigest()[:12]}"


def make_self_votes(
    photos: Iterable[Photo], head: Path, words: Tensor, encoder: EmbeddedEncoder, work: Path
) -> None:
    """Ask a head about every photo that has no votes of it yet; safe to interrupt and go on.

    Photos on which every pixel is labelled are left out, and data sets without ``SIDES``.

    Args:
        photos: the training set.
        head: file of the head, or heads together.
        words: (133, D) unit-norm text embeddings of the COCO names.
        encoder: the towers.
        work: ``votes/head-HASH/SOURCE/STEM.npz`` is written in it.

    Raises:
        InputError: there is no such head.
    """
    folder = votes_folder(work, head)
    trained = load_dense_head(head)
    for photo in photos:
        path = folder / photo.source / f"{photo.stem}.npz"
        everything = photo.vocabulary == VOCABULARY and photo.exhaustive == len(words)
        if path.is_file() or everything or photo.source not in SIDES:
            continue
        ids, shares = head_votes(photo.open(), trained, words, encoder, SIDES[photo.source])
        with atomic_write(path) as file:
            np.savez_compressed(file, allow_pickle=False, ids=ids, shares=shares)
        log.info("votes of %s: %s", head.name, photo.key)


@torch.inference_mode()
def head_votes(
    photo: Image.Image,
    trained: TrainedHead,
    words: Tensor,
    encoder: EmbeddedEncoder,
    sides: Sequence[int],
) -> tuple[np.ndarray, np.ndarray]:
    """Mean probabilities over several sizes of a photo, for the ``KEPT`` most probable words.

    Args:
        photo: RGB.
        trained: the head, or heads together.
        words: (K, D), unit norm.
        encoder: the towers.
        sides: long sides of the photo, in pixels; at the middle one, or the second, it is looked
            at mirrored too.

    Returns:
        (KEPT, G, G) uint8 words, the most probable first; (KEPT, G, G) uint8 probabilities, 255 =
        certain, G = ``VOTE_GRID`` over the whole photo, whatever its shape.
    """
    total = torch.zeros(len(words), VOTE_GRID, VOTE_GRID)
    looks = [(side, False) for side in sides] + [(sides[len(sides) // 2], True)]
    for side, mirrored in looks:
        scale = side / max(photo.size)
        size = (max(1, round(photo.width * scale)), max(1, round(photo.height * scale)))
        shown = photo.resize(size, Image.Resampling.BICUBIC)
        if mirrored:
            shown = shown.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        pixels = torch.from_numpy(np.array(shown)).permute(2, 0, 1)[None]
        dense = trained.head(encoder.encode_image(pixels, layers=(1,)))  # (1, D, rows, columns)
        found = torch.einsum("bdyx,kd->bkyx", dense, trained.scale * words).softmax(1)
        read = F.grid_sample(
            found, _grid(size, dense.shape[-2:]), padding_mode="border", align_corners=False
        )[0]
        total += read.flip(-1) if mirrored else read
    best, ids = (total / len(looks)).topk(KEPT, 0)
    return ids.numpy().astype(np.uint8), (255 * best).round().numpy().astype(np.uint8)


def _grid(size: tuple[int, int], cells: Sequence[int]) -> Tensor:
    """Centres of the vote grid in a map of (rows, columns) cells at stride 8 over a padded photo
    of (width, height), for ``grid_sample``."""
    centre = (torch.arange(VOTE_GRID) + 0.5) / VOTE_GRID
    y = centre * size[1] / (cells[0] * 8) * 2 - 1
    x = centre * size[0] / (cells[1] * 8) * 2 - 1
    return torch.stack(torch.meshgrid(y, x, indexing="ij")[::-1], -1)[None]


def read_self_votes(
    photo: Photo,
    folder: Path,
    teachers: Mapping[str, SoftLabels],
    truth: np.ndarray | None = None,
) -> SoftLabels | None:
    """What the earlier head may say about a photo: nothing where the truth is known, nothing that a
    confident teacher contradicts, and on ImageNet's photos no animal that is not in the photo's
    class.

    Args:
        photo: whose votes they are.
        folder: ``votes_folder`` of the head.
        teachers: the teachers' gated votes.
        truth: (H, W) true ids of the photo, 255 = not labelled.

    Returns:
        soft labels on the vote grid, or ``None`` where it did not vote.
    """
    path = folder / photo.source / f"{photo.stem}.npz"
    if not path.is_file():
        return None
    with np.load(path) as file:
        ids, shares = file["ids"], file["shares"].astype(np.float32) / 255
    forbidden = np.zeros(ids.shape, bool)
    if truth is not None:
        rows, columns = (np.arange(VOTE_GRID) * n // VOTE_GRID for n in truth.shape)
        forbidden |= contradicted(photo, VOCABULARY, ids, truth[np.ix_(rows, columns)])
    for name, said in teachers.items():
        table = COMPATIBLE[VOCABULARY, name]  # (teacher's classes + 1, 133)
        sure = said.shares[0] >= LEAST_SHARE[name]
        forbidden |= sure & ~table[said.ids[0], ids]
    if photo.image_class >= 0:
        names = [words[0] for words in VOCABULARIES[VOCABULARY]]
        forbidden |= ~animals_in(photo.image_class, names)[ids]
    return SoftLabels(ids, shares).without(forbidden, LEAST_SHARE[VOCABULARY])
