"""Words -> embeddings without torch: a text tower in ONNX, or a file of embeddings.

Token ids come from the ``tokenizers`` library and ``tokenizer.json``.
"""

from __future__ import annotations

import html
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from scanseg.contracts import InputError
from scanseg.runtime_onnx.folder import TEXT, TOKENIZER, WORDS
from scanseg.runtime_onnx.session import Graph


class OnnxTextTower:
    """What ``vocabulary.embeddings`` needs of an encoder, on ONNX Runtime.

    Args:
        folder: holds ``text.onnx`` and ``tokenizer.json``.
        kind: ``"clip"`` (cleaned and lower-cased, cut at ``context`` tokens) or ``"sentence"``.
        context: most tokens of a prompt.
        fingerprint: names the tower in the text cache.
        joint_width: D.
    """

    batch = 64

    def __init__(
        self, folder: Path, *, kind: str, context: int, fingerprint: str, joint_width: int
    ) -> None:
        self.fingerprint = fingerprint
        self.joint_width = joint_width
        self._folder, self._kind, self._context = folder, kind, context
        self._tower: Any = None
        self._tokenizer: Any = None

    def encode_text(self, prompts: Sequence[str]) -> np.ndarray:
        """(P, D) float32, unit norm; the tower is opened on first use."""
        if self._tower is None:
            self._tower = Graph(self._folder / TEXT)
            self._tokenizer = load_tokenizer(self._folder / TOKENIZER)
        if self._kind == "clip":
            prompts = [clean(p) for p in prompts]
        ids = token_ids(self._tokenizer, prompts, self._context)
        rows = np.empty((len(ids), self.joint_width), np.float32)
        order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
        for start in range(0, len(order), self.batch):
            part = order[start : start + self.batch]
            length = max(len(ids[i]) for i in part)
            tokens = np.zeros((len(part), length), np.int64)
            for row, i in zip(tokens, part, strict=True):
                row[: len(ids[i])] = ids[i]
            feed = {"tokens": tokens}
            if self._kind == "sentence":
                counts = np.array([[len(ids[i])] for i in part])
                feed["mask"] = (np.arange(length)[None] < counts).astype(np.int64)
            rows[part] = self._tower(**feed)[0]
        return rows


class StoredWords:
    """Embeddings of the words that an export was made for; takes the text cache's place.

    Args:
        folder: holds ``words.npz``: ``keys`` (n, 32) uint8, ``rows`` (n, D), ``words`` (n,).
    """

    def __init__(self, folder: Path) -> None:
        with np.load(folder / WORDS, allow_pickle=False) as file:
            self._rows = {
                bytes(key): row for key, row in zip(file["keys"], file["rows"], strict=True)
            }
            self._words = [str(word) for word in file["words"]]

    def read(self, keys: Sequence[bytes]) -> dict[bytes, np.ndarray]:
        """The rows that are there: key -> (D,) float32."""
        return {key: self._rows[key] for key in keys if key in self._rows}

    def write(self, rows: dict[bytes, np.ndarray]) -> None:
        """Nothing is ever added."""

    def encode_text(self, prompts: Sequence[str]) -> np.ndarray:
        """Refuse: whoever asks wants a word that is not in the file."""
        shown = ", ".join(self._words[:8]) + (" ..." if len(self._words) > 8 else "")
        raise InputError(
            f"this export holds the words {shown} and no text tower; asked for "
            f"{prompts[0]!r}: export again with that word, or without --labels for any word"
        )


def clean(text: str) -> str:
    """What CLIP does before it cuts a text into tokens: repair, unescape, one space, lower case."""
    import ftfy

    text = html.unescape(html.unescape(ftfy.fix_text(text)))
    return " ".join(text.split()).lower()


def load_tokenizer(path: Path) -> Any:
    """A ``tokenizers.Tokenizer``."""
    from tokenizers import Tokenizer

    return Tokenizer.from_file(str(path))


def token_ids(tokenizer: Any, prompts: Sequence[str], context: int) -> list[list[int]]:
    """Token ids with the two special tokens; a long prompt keeps its end token."""
    found = []
    for encoding in tokenizer.encode_batch(list(prompts)):
        ids = encoding.ids
        found.append(ids if len(ids) <= context else [*ids[: context - 1], ids[-1]])
    return found
