from __future__ import annotations

import multiprocessing
import sqlite3
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from scanseg import Segmenter
from scanseg.recipe import Recipe
from scanseg.vocabulary import Vocabulary
from scanseg.vocabulary.embeddings import TextCache, embed_labels, embed_vocabulary


class LetterEncoder:
    """A text tower whose answer can be worked out: counts of the letters a, b, c."""

    joint_width = 3
    fingerprint = "letters/1"

    def __init__(self) -> None:
        self.calls: list[str] = []

    def encode_text(self, prompts: Sequence[str]) -> torch.Tensor:
        self.calls += prompts
        counts = torch.tensor([[p.count(c) for c in "abc"] for p in prompts], dtype=torch.float32)
        return torch.nn.functional.normalize(counts, dim=-1)


TEMPLATES = ("{}", "aaa{}")


def embed(labels: list[str], folder: Path | None) -> tuple[np.ndarray, LetterEncoder]:
    encoder = LetterEncoder()
    cache = TextCache(folder, encoder.fingerprint, encoder.joint_width)
    return embed_labels(labels, TEMPLATES, encoder, cache), encoder  # type: ignore[arg-type]


def test_mean_of_unit_norm_prompts_normalised_again(tmp_path: Path) -> None:
    rows, _ = embed(["bbb"], tmp_path)
    half = 2**-0.5  # "aaabbb" points at (1, 1, 0) / sqrt 2, "bbb" at (0, 1, 0)
    mean = np.array([half, 1 + half, 0]) / 2
    assert np.allclose(rows[0], mean / np.linalg.norm(mean))


def test_words_are_encoded_once_ever(tmp_path: Path) -> None:
    first, encoder = embed(["b", "c", "b"], tmp_path)
    assert len(encoder.calls) == 4  # two labels, two templates
    again, encoder = embed(["c", "ab", "b"], tmp_path)
    assert encoder.calls == ["ab", "aaaab"]
    assert np.array_equal(again[[2, 0]], first[:2])


@pytest.mark.parametrize("preset", ["tiny", "embedded"])
def test_to_the_last_bit_a_label_does_not_depend_on_the_labels_beside_it(preset: str) -> None:
    segmenter = Segmenter.from_pretrained(preset, device="cpu")
    encoder, templates = segmenter.region_clip, segmenter.recipe.templates
    labels = ["cat", "potted plant", *(f"thing number {i}" for i in range(30))]

    def rows(some: list[str]) -> np.ndarray:
        return embed_labels(some, templates, encoder, TextCache(None, "x", encoder.joint_width))

    together = rows(labels)
    assert np.array_equal(rows(["cat"])[0], together[0])
    assert np.array_equal(rows(["sofa", "potted plant", "cat"])[1:], together[[1, 0]])


def test_a_full_cache_is_read_but_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    embed(["b"], tmp_path)
    monkeypatch.setattr("scanseg.vocabulary.embeddings.MOST_BYTES", 10)
    for _ in range(2):
        _, encoder = embed(["b", "c"], tmp_path)
        assert encoder.calls == ["c", "aaac"]


def test_other_templates_are_other_entries(tmp_path: Path) -> None:
    embed(["b"], tmp_path)
    encoder = LetterEncoder()
    cache = TextCache(tmp_path, encoder.fingerprint, 3)
    embed_labels(["b"], ("{}",), encoder, cache)  # type: ignore[arg-type]
    assert encoder.calls == ["b"]


def test_a_template_may_hold_braces(tmp_path: Path) -> None:
    encoder = LetterEncoder()
    embed_labels(["{b}", "%s"], ("{} {c",), encoder, TextCache(None, "x", 3))  # type: ignore[arg-type]
    assert encoder.calls == ["{b} {c", "%s {c"]


def test_a_damaged_cache_costs_time_not_results(tmp_path: Path) -> None:
    expected, _ = embed(["b"], None)
    cache = TextCache(tmp_path, "letters/1", 3)
    assert cache.path is not None
    cache.path.write_bytes(b"this is no database" * 100)
    rows, _ = embed(["b"], tmp_path)
    assert np.array_equal(rows, expected)
    rows, encoder = embed(["b"], tmp_path)  # the damaged file was replaced meanwhile
    rows, encoder = embed(["b"], tmp_path)
    assert np.array_equal(rows, expected)
    assert not encoder.calls


def test_rows_of_another_width_or_not_finite_are_ignored(tmp_path: Path) -> None:
    embed(["b"], tmp_path)
    cache = TextCache(tmp_path, "letters/1", 3)
    assert cache.path is not None
    with sqlite3.connect(cache.path) as connection:
        connection.execute(
            "UPDATE embedding SET vector = ?", (np.full(3, np.nan, "<f4").tobytes(),)
        )
    _, encoder = embed(["b"], tmp_path)
    assert len(encoder.calls) == 2


def test_a_folder_that_cannot_be_written_is_no_error(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    rows, _ = embed(["b"], blocked)
    assert rows.shape == (1, 3)


def _fill(folder: Path, start: int) -> None:
    embed(["b" * (1 + (start + i) % 40) + "c" * (i % 3) for i in range(120)], folder)


def test_processes_may_write_at_the_same_time(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=_fill, args=(tmp_path, s)) for s in (0, 7, 13)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
        assert worker.exitcode == 0
    _, encoder = embed(["b", "bbc"], tmp_path)
    assert not [c for c in encoder.calls if c == "b"]


def test_presets_decoys_leave_out_what_the_caller_means() -> None:
    recipe = Recipe(name="t", templates=("{}",), decoys=("aab", "cc"), decoy_similarity=0.8)
    encoder = LetterEncoder()
    words = Vocabulary(["aa", "b"])  # "aab" is close to "aa": cosine 2 / sqrt 5 = 0.894
    found = embed_vocabulary(words, recipe, encoder, TextCache(None, "x", 3))  # type: ignore[arg-type]
    assert found.owner == (0, 1, 2)
    assert found.labels == 3
    assert np.allclose(found.rows[2], [0, 0, 1])
    none = embed_vocabulary(
        words.with_background(()),
        recipe,
        encoder,
        TextCache(None, "x", 3),  # type: ignore[arg-type]
    )
    assert none.labels == 2


def test_a_word_that_is_a_decoy_itself_keeps_its_siblings() -> None:
    recipe = Recipe(
        name="t", templates=("{}",), decoys=("aab", "ab", "cc"), decoy_similarity=0.5,
        sibling_similarity=0.95,
    )  # fmt: skip

    def decoys(word: str) -> int:
        words, cache = Vocabulary([word, "c"]), TextCache(None, "x", 3)  # "cc" means "c"
        found = embed_vocabulary(words, recipe, LetterEncoder(), cache)  # type: ignore[arg-type]
        return found.labels - 2

    # "aaaaaabbb" is "aab" itself: "ab", with 3 / sqrt 10 = 0.949, is something else and stays
    assert decoys("aaaaaabbb") == 1
    # "b" is none of them (1 / sqrt 5 = 0.447 and 1 / sqrt 2 = 0.707): what is near it goes
    assert decoys("b") == 1
    # "abb" is (1, 2): 0.949 from "ab", which is it, and 0.8 from "aab": both are below 0.95
    assert decoys("abb") == 2


@pytest.mark.parametrize("count", [1, 700])
def test_many_labels(tmp_path: Path, count: int) -> None:
    labels = ["a" * (i % 17 + 1) + "b" * (i % 23) + "c" * (i // 23 + 1) for i in range(count)]
    rows, _ = embed(labels, tmp_path)
    again, encoder = embed(labels, tmp_path)
    assert np.array_equal(rows, again)
    assert not encoder.calls
