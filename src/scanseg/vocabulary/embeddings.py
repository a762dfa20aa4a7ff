"""Words -> text embeddings, kept on disk: each is encoded once per text tower, ever.

One SQLite file per text tower (named by its fingerprint) in the user's cache folder; a row per
(template set, label). SQLite makes writes atomic and safe between processes. A cache that cannot be
read or written (no space, no rights, damaged) is ignored: it only ever saves time.
"""

from __future__ import annotations

import hashlib
import logging
import sqlite3
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from scanseg.vocabulary.names import Vocabulary

if TYPE_CHECKING:
    from scanseg.contracts import ClipEncoder
    from scanseg.recipe import Recipe

log = logging.getLogger(__name__)

_TABLE = (
    "CREATE TABLE IF NOT EXISTS embedding "
    "(key BLOB PRIMARY KEY, vector BLOB NOT NULL, made REAL NOT NULL)"
)
_LOOKUP = 500  # SQLite's limit on variables is 999 in old builds
_LOCK_SECONDS = 5.0
_FORM = 2  # how rows come about; rows of 1 could depend on the labels that were encoded beside
MOST_BYTES = 2**30  # of a file; a server that takes anybody's words must not fill the disk


class TextCache:
    """The embeddings of one text tower.

    Args:
        folder: where the files are; ``None`` keeps nothing on disk.
        fingerprint: of the text tower (``ClipEncoder.fingerprint``).
        width: D; rows of another width are ignored.
    """

    def __init__(self, folder: Path | None, fingerprint: str, width: int) -> None:
        name = "".join(c if c.isalnum() or c in "-_." else "_" for c in fingerprint)
        self.path = folder / f"{name}-{_FORM}.sqlite" if folder else None
        self.width = width

    def read(self, keys: Sequence[bytes]) -> dict[bytes, np.ndarray]:
        """The rows that are there: key -> (D,) float32."""
        if self.path is None or not self.path.exists():
            return {}
        found: dict[bytes, np.ndarray] = {}
        try:
            with closing(self._open()) as connection:
                for start in range(0, len(keys), _LOOKUP):
                    part = keys[start : start + _LOOKUP]
                    marks = ",".join("?" * len(part))
                    rows = connection.execute(
                        f"SELECT key, vector FROM embedding WHERE key IN ({marks})", part
                    )
                    for key, blob in rows:
                        vector = np.frombuffer(blob, dtype="<f4")
                        if vector.shape == (self.width,) and np.isfinite(vector).all():
                            found[key] = vector.astype(np.float32)
        except (sqlite3.Error, OSError, TypeError, ValueError) as error:  # or a row of another kind
            self._ignore(error)
            return {}
        return found

    def write(self, rows: dict[bytes, np.ndarray]) -> None:
        """Add rows, all or none; none if the file is full (``scanseg cache prune`` makes room)."""
        if self.path is None or not rows:
            return
        if self.path.exists() and self.path.stat().st_size > MOST_BYTES:
            log.warning("text cache %s is full: scanseg cache prune makes room", self.path)
            return
        now = time.time()
        values = [(k, np.ascontiguousarray(v, dtype="<f4").tobytes(), now) for k, v in rows.items()]
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with closing(self._open()) as connection, connection:
                connection.execute(_TABLE)
                connection.executemany("INSERT OR REPLACE INTO embedding VALUES (?, ?, ?)", values)
        except (sqlite3.Error, OSError) as error:
            self._ignore(error)

    def _open(self) -> sqlite3.Connection:
        assert self.path is not None
        return sqlite3.connect(self.path, timeout=_LOCK_SECONDS)

    def _ignore(self, error: Exception) -> None:
        log.warning("text cache %s not used: %s", self.path, error)
        if isinstance(error, sqlite3.DatabaseError) and "not a database" in str(error):
            assert self.path is not None
            self.path.unlink(missing_ok=True)


def label_key(label: str, templates: Sequence[str]) -> bytes:
    """Key of a label's embedding in a text cache."""
    context = hashlib.sha256("\n".join(templates).encode()).digest()
    return hashlib.sha256(context + label.encode()).digest()


def embed_labels(
    labels: Sequence[str],
    templates: Sequence[str],
    encoder: ClipEncoder,
    cache: TextCache,
    *,
    chunk: int = 256,
) -> np.ndarray:
    """(T, D) float32 unit-norm embeddings of labels, from the cache or the text tower.

    Each label goes into every template, each prompt's embedding has unit norm, their mean is
    normalised again. A label's embedding does not depend on the labels beside it, to the last bit:
    each goes through the tower alone, because matrix products round differently for other sizes,
    and what is in the cache must not decide what is computed.

    Args:
        chunk: labels that are put into the cache at a time.
    """
    keys = [label_key(label, templates) for label in labels]
    rows = cache.read(list(dict.fromkeys(keys)))
    missing = list(
        {k: label for k, label in zip(keys, labels, strict=True) if k not in rows}.items()
    )
    for start in range(0, len(missing), chunk):
        part = missing[start : start + chunk]
        fresh = {key: _embed(label, templates, encoder) for key, label in part}
        cache.write(fresh)
        rows.update(fresh)
    return np.stack([rows[key] for key in keys])


def _embed(label: str, templates: Sequence[str], encoder: ClipEncoder) -> np.ndarray:
    """(D,) float32, unit norm: the mean over templates of one label."""
    found = encoder.encode_text([template.replace("{}", label) for template in templates])
    encoded = found if isinstance(found, np.ndarray) else found.detach().float().cpu().numpy()
    mean: np.ndarray = encoded.mean(0)
    return mean / np.linalg.norm(mean)


@dataclass(frozen=True)
class EncodedVocabulary:
    """A vocabulary as the classifiers use it.

    Attributes:
        rows: (T, D) float32, unit norm: names, synonyms, background words.
        owner: (T,) label of each row; labels from K on are background.
        labels: K' = K + background labels.
    """

    rows: np.ndarray
    owner: tuple[int, ...]
    labels: int


SAME_WORD = 0.9
"""Cosine from which a word counts as one of the decoys, by this or another name."""


def embed_vocabulary(
    vocabulary: Vocabulary, recipe: Recipe, encoder: ClipEncoder, cache: TextCache
) -> EncodedVocabulary:
    """Encode names, synonyms and background words with the preset's templates.

    A vocabulary that leaves its background to the preset gets the preset's decoys that none of the
    caller's words means.
    """
    templates = vocabulary.templates or recipe.templates
    if vocabulary.background is None:
        words = vocabulary.with_background(()).terms().prompts
        vocabulary = vocabulary.with_background(
            _distant(recipe.decoys, words, recipe, encoder, cache)
        )
    terms = vocabulary.terms()
    rows = embed_labels(terms.prompts, templates, encoder, cache)
    return EncodedVocabulary(rows, terms.owner, terms.labels + terms.background)


def _distant(
    decoys: Sequence[str],
    words: Sequence[str],
    recipe: Recipe,
    encoder: ClipEncoder,
    cache: TextCache,
) -> list[str]:
    """Decoys whose cosine with every word is below the recipe's bound for that word."""
    if not decoys:
        return []
    rows = embed_labels([*decoys, *words], recipe.templates, encoder, cache)
    cosines = rows[: len(decoys)] @ rows[len(decoys) :].T  # (decoys, words)
    among = cosines.max(0) >= SAME_WORD
    bounds = np.where(among, recipe.sibling_similarity, recipe.decoy_similarity)
    distant = (cosines < bounds).all(1)
    return [decoy for decoy, far in zip(decoys, distant, strict=True) if far]
