"""Similarity files for Open-mIoU: made beforehand, versioned, read at scoring time.

A file is one JSON object ``{"source", "labels": [...], "similarity": [[...], ...]}`` with one row
per label that was said and one column per label that is true, values in [0, 1], 1 on the diagonal.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from scanseg.contracts import InputError
from scanseg.metrics.open_miou import check_similarity
from scanseg.storage import read_json
from scanseg.vocabulary.wordnet import WordNet

_DIGITS = 4
_MOST_BYTES = 128 * 2**20  # of a file; one for ADE20K-847 has 5 million bytes


def from_embeddings(vectors: np.ndarray) -> np.ndarray:
    """(K, K) cosines of text embeddings, negative ones cut to 0.

    Args:
        vectors: (K, D), one per label; need not be normalised.

    Raises:
        InputError: a vector is zero or not finite.
    """
    rows = np.asarray(vectors, np.float64)
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    if not np.isfinite(rows).all() or not lengths.all():
        raise InputError("every label needs a finite embedding that is not zero")
    cosines = np.clip((rows / lengths) @ (rows / lengths).T, 0, 1)
    np.fill_diagonal(cosines, 1.0)
    return cosines


def similarity_json(similarity: np.ndarray, names: Sequence[str], source: str) -> str:
    """The text of a similarity file, values with four digits.

    Raises:
        InputError: not a (K, K) matrix in [0, 1] with ones on the diagonal.
    """
    rows = check_similarity(similarity, len(names)).round(_DIGITS).tolist()
    lines = ",\n".join(json.dumps(row, separators=(",", ":")) for row in rows)
    labels = json.dumps(list(names), ensure_ascii=False)
    about = json.dumps(source, ensure_ascii=False)
    return f'{{"source": {about},\n"labels": {labels},\n"similarity": [\n{lines}\n]}}\n'


def load_similarity(path: str | Path, names: Sequence[str]) -> tuple[np.ndarray, str]:
    """A file's similarities in the order of ``names``, and its source.

    Raises:
        InputError: unreadable, not such a file, or without one of the names.
    """
    content = read_json(path, _MOST_BYTES)
    try:
        labels, table = list(content["labels"]), np.array(content["similarity"], np.float64)
        source = str(content["source"])
        if not all(isinstance(label, str) for label in labels):
            raise TypeError("a label is no text")
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise InputError(f"{path}: not a similarity file ({error})") from error
    index = {name: i for i, name in enumerate(labels)}
    missing = [name for name in names if name not in index]
    if missing:
        raise InputError(f"{path}: has no label {missing[0]!r}; it was made for another list")
    try:
        table = check_similarity(table, len(labels))
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    order = [index[name] for name in names]
    return table[np.ix_(order, order)], source


def from_wordnet(synsets: Sequence[int | None], dictionary: WordNet) -> np.ndarray:
    """(K, K) path similarities 1 / (1 + shortest way over hypernyms) between WordNet meanings.

    Args:
        synsets: offset of each label's meaning; ``None`` (no meaning in WordNet) is similar to
            nothing but itself.
        dictionary: WordNet.
    """
    ways = [{} if offset is None else _steps_up(offset, dictionary) for offset in synsets]
    table = np.eye(len(ways))
    for a, first in enumerate(ways):
        for b in range(a):
            shared = first.keys() & ways[b].keys()
            if shared:
                steps = min(first[offset] + ways[b][offset] for offset in shared)
                table[a, b] = table[b, a] = 1 / (1 + steps)
    return table


def _steps_up(offset: int, dictionary: WordNet) -> dict[int, int]:
    """Every meaning above a meaning, itself included -> the fewest steps to it."""
    found, level, steps = {offset: 0}, [offset], 0
    while level:
        steps += 1
        above = {up for each in level for up in dictionary.synset(each).hypernyms}
        level = [up for up in above if up not in found]
        found.update(dict.fromkeys(level, steps))
    return found
