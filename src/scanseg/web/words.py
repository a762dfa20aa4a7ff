"""The words of a request, as text or JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence

from scanseg.contracts import InputError
from scanseg.vocabulary import Vocabulary


def read_words(texts: Sequence[str], background: str | None = None) -> Vocabulary:
    """Words as a request has them.

    Args:
        texts: JSON (``["cat", "sofa"]`` or ``{"cat": [], "sofa": ["couch", "settee"]}``), or words
            separated by commas or lines. On a line, what follows ``sofa:`` are synonyms of
            "sofa". Several texts are joined.
        background: words whose pixels become unknown, separated by commas; ``"none"`` for no such
            words, ``None`` leaves the choice to the preset.

    Raises:
        InputError: no word, one that cannot be used, or JSON of another shape.
    """
    words: dict[str, list[str]] = {}
    for text in texts:
        for name, synonyms in _words_of(text).items():
            words.setdefault(name, []).extend(synonyms)
    decoys = None
    if background is not None:
        decoys = [] if background.strip().lower() == "none" else _separated(background)
    return Vocabulary(words, background=decoys)


def count(vocabulary: Vocabulary) -> tuple[int, int]:
    """Words of a vocabulary, synonyms and background words included, and their characters."""
    synonyms = [w for words in vocabulary.synonyms.values() for w in words]
    words = [*vocabulary.names, *synonyms, *(vocabulary.background or ())]
    return len(words), sum(map(len, words))


def _words_of(text: str) -> dict[str, list[str]]:
    if text.lstrip()[:1] in ("[", "{"):
        return _from_json(text)
    found: dict[str, list[str]] = {}
    for line in text.splitlines():
        before, _, synonyms = line.partition(":")
        names = _separated(before)
        if synonyms.strip() and not names:
            raise InputError("there is no word before the colon: write sofa: couch, settee")
        for name in names:
            found.setdefault(name, [])
        if names:
            found[names[-1]].extend(_separated(synonyms))
    return found


def _from_json(text: str) -> dict[str, list[str]]:
    remedy = 'send ["cat", "sofa"] or {"cat": [], "sofa": ["couch"]}'
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        raise InputError(f"labels begin like JSON but are none: {remedy}") from None
    if isinstance(value, list) and all(isinstance(word, str) for word in value):
        return {word: [] for word in value}
    if isinstance(value, dict) and all(
        isinstance(words, list) and all(isinstance(word, str) for word in words)
        for words in value.values()
    ):
        return value
    raise InputError(f"labels in JSON have another shape: {remedy}")


def _separated(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]
