"""Words without torch: the same tokens, the same embeddings."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from scanseg.contracts import InputError
from scanseg.export.text import clip_tokenizer, write_words
from scanseg.fusion import DenseEvidence as TorchDenseEvidence
from scanseg.fusion import label_map as torch_label_map
from scanseg.runtime_onnx.maps import DenseEvidence, bilinear, label_map, place, scaled_to_fit
from scanseg.runtime_onnx.words import StoredWords, clean, token_ids
from scanseg.segmenter import Segmenter
from scanseg.vocabulary import SCAN_TEMPLATES, Vocabulary
from scanseg.vocabulary.embeddings import embed_vocabulary
from scanseg.vocabulary.label_sets import load_label_set


def test_tokens_are_open_clips() -> None:
    from open_clip import SimpleTokenizer

    theirs, ours = SimpleTokenizer(), clip_tokenizer()
    labels = [p for n in ("ade847", "pc459", "coco_stuff171") for p in load_label_set(n).prompts]
    odd = [
        "Café  au lait",
        "don't",
        "R2-D2 &amp; C-3PO",
        "日本語",
        "x" * 400,
        "a\nb",
        "3.5 mm",
        "é",
    ]
    prompts = [*(SCAN_TEMPLATES[0].replace("{}", label) for label in labels), *odd]
    expected = theirs(prompts)
    for row, ids in zip(expected, token_ids(ours, [clean(p) for p in prompts], 77), strict=True):
        assert ids == row[row != 0].tolist()


def test_stored_words_answer_as_the_text_tower_does(tiny: Segmenter, tmp_path: Path) -> None:
    vocabulary = Vocabulary({"cat": ["kitten"], "sofa": []})
    write_words(tiny, vocabulary, tmp_path)
    stored = StoredWords(tmp_path)
    for words in (vocabulary, Vocabulary(["sofa", "kitten"])):
        text, owners = tiny.encode(words)
        encoded = embed_vocabulary(words, tiny.recipe, stored, stored)  # type: ignore[arg-type]
        assert np.allclose(encoded.rows, text.numpy(), atol=1e-6)
        assert list(encoded.owner) == owners.owner.tolist()
    with pytest.raises(InputError, match="holds the words cat, kitten, sofa"):
        embed_vocabulary(Vocabulary(["zebra"]), tiny.recipe, stored, stored)  # type: ignore[arg-type]


@pytest.mark.parametrize("size", [(20, 30), (7, 11), (41, 64), (1, 1)])
def test_the_map_is_torchs(size: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(1)
    scores, masks = (
        torch.rand(6, 4, generator=generator),
        torch.rand(6, 20, 30, generator=generator),
    )
    cells = torch.rand(4, 3, 4, generator=generator)  # of 8 pixels: beyond the masks' 20 x 30
    expected = torch_label_map(
        scores, masks, size, dense=TorchDenseEvidence(cells, 8), keep_scores=True
    )
    for budget in (64 << 20, 1):  # all labels at once, and one at a time
        labels, confidence, evidence = label_map(
            scores.numpy(),
            masks.numpy(),
            size,
            dense=DenseEvidence(cells.numpy(), 8),
            keep_scores=True,
            budget=budget,
        )
        assert evidence is not None
        assert expected.scores is not None
        assert np.allclose(evidence, expected.scores.numpy(), atol=1e-5)
        assert (labels == expected.labels.numpy()).mean() > 0.999
        assert np.allclose(confidence, expected.confidence.numpy(), atol=1e-5)


def test_bilinear_by_hand() -> None:
    # from 2 to 4 places: centres at -0.25, 0.25, 0.75, 1.25; the outer ones repeat the border
    found = bilinear(np.array([[0.0, 8.0]], np.float32), 4, axis=1)
    assert found.tolist() == [[0.0, 2.0, 6.0, 8.0]]


def test_a_photo_on_a_canvas() -> None:
    photo = np.full((10, 40, 3), 200, np.uint8)
    scaled = scaled_to_fit(photo, (16, 20))  # halved: the width decides
    assert scaled.shape == (5, 20, 3)
    canvas = place(scaled, (16, 20), (1.0, 2.0, 3.5))
    assert canvas.pixels.shape == (1, 3, 16, 20)
    assert (canvas.pixels[0][:, *canvas.part] == 200).all()
    assert canvas.pixels[0, :, 5:].max(axis=(1, 2)).tolist() == [1.0, 2.0, 3.5]
