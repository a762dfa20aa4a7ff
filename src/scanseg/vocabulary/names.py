"""What a caller may ask for: a list of words, or a :class:`Vocabulary` with more to say."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from scanseg.contracts import InputError

MAX_LABELS = 20_000
MAX_CHARACTERS = 300
MAX_SYNONYMS = 64


@dataclass(frozen=True)
class Terms:
    """A vocabulary spelled out for the text tower.

    Attributes:
        prompts: the T words to encode: names, their synonyms, background words.
        owner: for each term the label it speaks for; labels 0..K-1 are the caller's, K and above
            are background words.
        labels: K.
        background: number of background labels.
    """

    prompts: tuple[str, ...]
    owner: tuple[int, ...]
    labels: int
    background: int


@dataclass(frozen=True)
class Vocabulary:
    """Labels, and what else to tell the model about them.

    Args:
        names: the labels in the caller's order. A mapping ``{"sofa": ["couch", "settee"]}`` gives
            names and synonyms at once. Repeated words (ignoring case and spacing) are kept once.
        synonyms: other words for a label; a label's evidence is that of its best word.
        background: decoy words. Pixels that they win become unknown (-1). ``None`` leaves the
            choice to the preset, ``()`` switches decoys off.
        templates: prompt templates with ``{}`` for the label; ``None`` takes the preset's.

    Raises:
        InputError: no label, an empty one, one of over 300 characters or with control characters,
            more than 20,000, a synonym of an unknown label, a template without ``{}``.

    The objects passed in are never modified.
    """

    names: tuple[str, ...]
    synonyms: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    background: tuple[str, ...] | None = None
    templates: tuple[str, ...] | None = None

    def __init__(
        self,
        names: Iterable[str] | Mapping[str, Iterable[str]],
        synonyms: Mapping[str, Iterable[str]] | None = None,
        background: Iterable[str] | None = None,
        templates: Iterable[str] | None = None,
    ) -> None:
        own_synonyms = names if isinstance(names, Mapping) else {}
        labels = _unique(_listed(names, "labels"))
        if not labels:
            raise InputError('no labels: pass at least one word, for example ["cat"]')
        if len(labels) > MAX_LABELS:
            raise InputError(f"{len(labels)} labels are too many: at most {MAX_LABELS}")
        known = {_key(name): name for name in labels}
        others: dict[str, tuple[str, ...]] = {}
        for name, words in (*own_synonyms.items(), *(synonyms or {}).items()):
            if _key(_clean(name)) not in known:
                raise InputError(f"synonyms given for {name!r}, which is not among the labels")
            own = known[_key(_clean(name))]
            more = _listed(words, f"synonyms of {name!r}")
            together = _unique([*others.get(own, ()), *more])  # a label may come twice
            extra = [w for w in together if _key(w) != _key(own)]
            if len(extra) > MAX_SYNONYMS:
                raise InputError(f"{name!r} has {len(extra)} synonyms: at most {MAX_SYNONYMS}")
            if extra:
                others[own] = tuple(extra)
        taken = set(known) | {_key(w) for words in others.values() for w in words}
        decoys = None
        if background is not None:
            decoys = tuple(
                w for w in _unique(_listed(background, "background")) if _key(w) not in taken
            )
        object.__setattr__(self, "names", tuple(labels))
        object.__setattr__(self, "synonyms", others)
        object.__setattr__(self, "background", decoys)
        object.__setattr__(self, "templates", _checked_templates(templates))

    @classmethod
    def of(cls, words: Vocabulary | Sequence[str] | Mapping[str, Iterable[str]]) -> Vocabulary:
        """``words`` as a vocabulary; one that is already passes through."""
        return words if isinstance(words, cls) else cls(words)  # type: ignore[arg-type]

    def __hash__(self) -> int:
        synonyms = frozenset(self.synonyms.items())
        return hash((self.names, synonyms, self.background, self.templates))

    def __len__(self) -> int:
        """K, background words not counted."""
        return len(self.names)

    def with_background(self, words: Iterable[str]) -> Vocabulary:
        """A copy with these background words."""
        return Vocabulary(self.names, self.synonyms, words, self.templates)

    def besides_names(self) -> dict[str, Any]:
        """What decides a map besides the names, plain values for JSON."""
        return {
            "synonyms": {name: list(words) for name, words in self.synonyms.items()},
            "background": None if self.background is None else list(self.background),
            "templates": None if self.templates is None else list(self.templates),
        }

    def terms(self) -> Terms:
        """Everything to encode. A label alone gets ``"others"`` beside it, as released."""
        background = self.background or ()
        if len(self.names) == 1 and not background:
            background = ("others",)
        prompts, owner = [], []
        for index, name in enumerate((*self.names, *background)):
            for word in (name, *self.synonyms.get(name, ())):
                prompts.append(word)
                owner.append(index)
        return Terms(tuple(prompts), tuple(owner), len(self.names), len(background))


def _listed(words: Iterable[str], what: str) -> list[str]:
    if isinstance(words, str):
        raise InputError(
            f'{what} must be a list of words: pass ["{words[:40]}"], not a single string'
        )
    try:
        return list(words)
    except TypeError:
        raise InputError(f"{what} must be a list of words, not {type(words).__name__}") from None


def _clean(word: str) -> str:
    """NFC, outer space stripped; inner text as the caller wrote it (as the released code does)."""
    if not isinstance(word, str):
        raise InputError(f"a label must be a string, not {type(word).__name__} ({word!r})")
    text = unicodedata.normalize("NFC", word).strip()
    if not text:
        raise InputError("a label is empty: remove it or write a word")
    if len(text) > MAX_CHARACTERS:
        raise InputError(
            f"a label has {len(text)} characters (at most {MAX_CHARACTERS}): {text[:40]!r}..."
        )
    bad = next((c for c in text if unicodedata.category(c) in ("Cc", "Cs")), None)
    if bad is not None:
        raise InputError(f"a label contains the control character U+{ord(bad):04X}: {text[:40]!r}")
    if all(unicodedata.category(c) == "Cf" for c in text):
        raise InputError("a label has no visible character: remove it or write a word")
    return text


def _key(word: str) -> str:
    """Words with the same key are the same label: case and spacing do not count."""
    return " ".join(word.casefold().split())


def _unique(words: Iterable[str]) -> list[str]:
    """Cleaned words, each once, in the order of their first appearance."""
    first: dict[str, str] = {}
    for word in words:
        clean = _clean(word)
        first.setdefault(_key(clean), clean)
    return list(first.values())


def _checked_templates(templates: Iterable[str] | None) -> tuple[str, ...] | None:
    if templates is None:
        return None
    checked = tuple(_listed(templates, "templates"))
    for template in checked:
        if template.count("{}") != 1:
            raise InputError(
                f"a prompt template needs exactly one {{}} for the label: {template!r}"
            )
    if not checked:
        raise InputError('no prompt templates: pass at least "{}"')
    return checked
