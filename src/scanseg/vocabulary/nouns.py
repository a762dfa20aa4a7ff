"""Nouns of captions: which words of a sentence name something that a photo can show.

A shipped list of about 5,000 nouns (made from WordNet 3.0 and the benchmarks' labels by
``benchmarks/build_nouns.py``; WordNet's licence stands in ``hierarchies/WORDNET_LICENSE.txt``) is
looked up in the words of a caption. No grammar: a word that is in the list counts as a noun. Who
has a parser passes it by class path instead (``docs/finetune_clip.md``).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import Any

from scanseg.contracts import InputError
from scanseg.vocabulary.wordnet import inflections

TARGET = Path(__file__).with_name("nouns.json")
NounFinder = Callable[[str], Sequence[str]]
"""Caption -> its nouns, in the singular and in small letters, in their order."""


@dataclass(frozen=True)
class NounList:
    """Finds listed nouns in captions; the longest match wins ("fire hydrant", not "fire").

    Attributes:
        nouns: in the singular, small letters, words apart by a space.
        irregular: irregular plural -> singular.
    """

    nouns: frozenset[str]
    irregular: Mapping[str, str]

    def __call__(self, caption: str) -> list[str]:
        """The nouns of a caption in their order, each once.

        >>> NounList(frozenset({"dog", "fire hydrant"}), {})("Two dogs at a fire hydrant.")
        ['dog', 'fire hydrant']
        """
        words = caption_words(caption)
        found: dict[str, None] = {}
        start = 0
        while start < len(words):
            for length in range(min(self._longest, len(words) - start), 0, -1):
                noun = self.singular(words[start : start + length])
                if noun is not None:
                    found[noun] = None
                    break
            else:
                length = 1
            start += length
        return list(found)

    def singular(self, words: Sequence[str]) -> str | None:
        """The listed noun that these words are a form of; ``None`` if there is none."""
        for form in inflections(" ".join(words), self.irregular):
            if listed_form(form) in self.nouns:
                return listed_form(form)
        return None

    @cached_property
    def _longest(self) -> int:
        return max((len(noun.split()) for noun in self.nouns), default=0)


def caption_words(caption: str) -> list[str]:
    """Words and punctuation marks, in small letters without accents, by tokenizers' BERT rules."""
    from tokenizers.normalizers import BertNormalizer
    from tokenizers.pre_tokenizers import BertPreTokenizer

    normal = BertNormalizer(lowercase=True, strip_accents=True).normalize_str(caption)
    return [word for word, _ in BertPreTokenizer().pre_tokenize_str(normal)]


def listed_form(word: str) -> str:
    """A word of WordNet as the list spells it: ``fire_hydrant`` -> ``fire hydrant``."""
    return word.replace("_", " ")


def load_nouns(path: str | Path | None = None) -> NounList:
    """The shipped list, or one of the user's own: such a JSON file, or a text file, one a line.

    Raises:
        InputError: there is no such file, or it lists no nouns.
    """
    file = TARGET if path is None else Path(path)
    try:
        text = file.read_text(encoding="utf-8")
        if file.suffix != ".json":
            nouns, irregular = [line.strip().lower() for line in text.splitlines()], {}
        else:
            content = json.loads(text)
            nouns, irregular = content["nouns"], content["plurals"]
        listed = frozenset(noun for noun in nouns if noun)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{file} is no list of nouns ({type(error).__name__}): give a text file with one noun "
            "per line"
        ) from error
    if not listed:
        raise InputError(f"{file} lists no nouns")
    return NounList(listed, irregular)


def noun_finder(path: str) -> NounFinder:
    """A parser of the user's own, by class path: an object made without arguments, or a function.

    Raises:
        InputError: the path leads to nothing that can be called.
    """
    module, _, name = path.rpartition(".")
    try:
        found: Any = getattr(import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise InputError(f"no parser {path!r}: {error}; write package.module.Name") from error
    made = found() if isinstance(found, type) else found
    if not callable(made):
        raise InputError(f"{path} must be callable: caption -> list of nouns")
    return made


def nouns_json(nouns: Iterable[str], plurals: Mapping[str, str], version: str) -> str:
    """The list as its file holds it, one noun a line."""
    content = {
        "about": (
            f"Nouns that photos can show: from WordNet {version} (Copyright 2006 by Princeton "
            "University, licence in hierarchies/WORDNET_LICENSE.txt) and the benchmarks' labels; "
            "made by benchmarks/build_nouns.py"
        ),
        "plurals": dict(sorted(plurals.items())),
        "nouns": list(nouns),
    }
    return json.dumps(content, ensure_ascii=False, indent=0) + "\n"
