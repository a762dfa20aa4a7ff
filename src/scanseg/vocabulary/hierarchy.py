"""Which labels of a list are also right for which others: parents and synonyms (SCAN sec. 3.3).

A hierarchy says, for a list of labels, that a region of class *armchair* is rightly called *chair*
(a parent), or that *stairs* and *stairway* mean the same (synonyms). SG-IoU (eq. 6) reads it. The
relations are taken exactly as written: nothing is inferred, no transitive closure is formed.

A file is one JSON object::

    {"name": "mine", "version": "1.0", "source": "who decided and how",
     "labels":   ["chair", "armchair", "stairs", "stairway"],
     "parents":  {"armchair": ["chair"]},
     "synonyms": {"stairs": ["stairway"], "stairway": ["stairs"]},
     "reasons":  {"armchair -> chair": "...", "stairs = stairway": "..."}}

and may also hold ``rejected`` (pairs that were considered and left out, with the reason),
``senses`` (label -> WordNet synset, or null, where the meaning was picked by hand), ``reviewed``
(whether a person read every pair) and ``notes``.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from importlib.resources import files
from pathlib import Path
from types import MappingProxyType
from typing import Any

from scanseg.contracts import InputError
from scanseg.vocabulary.hierarchy_checks import KEYS, examine, pairs

Relations = Mapping[str, tuple[str, ...]]

_FOLDER = files("scanseg.vocabulary").joinpath("hierarchies")
MAX_BYTES = 16 * 2**20


@dataclass(frozen=True)
class Hierarchy:
    """Parents and synonyms among the labels of a list; see the module for their meaning.

    Attributes:
        name: of the hierarchy, usually that of the label set.
        version: of its content.
        source: who decided on the pairs and how.
        labels: the list it belongs to, in order.
        parents: child -> labels that are also right for a region of the child.
        synonyms: label -> labels that mean the same; written in both directions.
        reasons: :func:`parent_key` or :func:`synonym_key` -> why the pair holds.
        rejected: the same keys -> why a pair that suggests itself does not hold; ``"* -> parent"``
            speaks of every child that does not list the parent.
        senses: label -> WordNet synset picked by hand, ``None`` for "no meaning in WordNet".
        reviewed: whether a person read every pair.
        notes: remarks on the whole.
    """

    name: str
    version: str
    source: str
    labels: tuple[str, ...]
    parents: Relations
    synonyms: Relations = field(default_factory=dict)
    reasons: Mapping[str, str] = field(default_factory=dict)
    rejected: Mapping[str, str] = field(default_factory=dict)
    senses: Mapping[str, str | None] = field(default_factory=dict)
    reviewed: bool = False
    notes: str = ""

    def __post_init__(self) -> None:
        for what in ("parents", "synonyms", "reasons", "rejected", "senses"):
            object.__setattr__(self, what, MappingProxyType(dict(getattr(self, what))))

    @cached_property
    def sha256(self) -> str:
        """Hash of what decides numbers: labels in order, parents and synonyms in any order."""
        content = [
            self.labels,
            {child: sorted(above) for child, above in self.parents.items() if above},
            {label: sorted(same) for label, same in self.synonyms.items() if same},
        ]
        text = json.dumps(content, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()

    def index_maps(
        self, names: Sequence[str] | None = None
    ) -> tuple[dict[int, list[int]], dict[int, list[int]]]:
        """The relations as class indices, for the metrics.

        Args:
            names: class names in the order of a confusion matrix; ``None`` takes ``labels``.
                Labels of the hierarchy that are not among them are left out.

        Returns:
            ``(parents, synonyms)``: class index -> indices, in the order of the file; classes
            without a relation are absent.

        Raises:
            InputError: a name is not a label of this hierarchy, so that it belongs to another list.
        """
        names = self.labels if names is None else tuple(names)
        known = set(self.labels)
        strangers = [name for name in names if name not in known]
        if strangers:
            raise InputError(
                f"hierarchy {self.name!r} does not know {strangers[0]!r}"
                + (f" and {len(strangers) - 1} more names" if len(strangers) > 1 else "")
                + "; make one for this list with scanseg hierarchy build"
            )
        index = {name: i for i, name in enumerate(names)}

        def numbered(relations: Relations) -> dict[int, list[int]]:
            found = {
                index[label]: [index[other] for other in others if other in index]
                for label, others in relations.items()
                if label in index
            }
            return {label: others for label, others in found.items() if others}

        return numbered(self.parents), numbered(self.synonyms)

    def children(self, label: str) -> tuple[str, ...]:
        """Labels that list ``label`` as a parent, in the order of ``labels``."""
        return tuple(c for c in self.labels if label in self.parents.get(c, ()))

    @property
    def parent_pairs(self) -> tuple[tuple[str, str], ...]:
        """Every ``(child, parent)``."""
        return tuple(pairs(self.parents))

    @property
    def synonym_pairs(self) -> tuple[tuple[str, str], ...]:
        """Every unordered pair of synonyms once, the label that comes first in front."""
        place = {label: i for i, label in enumerate(self.labels)}
        both = {(a, b) if place[a] < place[b] else (b, a) for a, b in pairs(self.synonyms)}
        return tuple(sorted(both, key=lambda pair: (place[pair[0]], place[pair[1]])))

    def reason(self, key: str) -> str:
        """Why a pair holds; the empty string where nobody wrote it down."""
        a, sign, b = key.partition(" = ")
        return self.reasons.get(key) or (self.reasons.get(f"{b} = {a}", "") if sign else "")

    def is_rejected(self, child: str, parent: str) -> bool:
        """Whether the pair was considered and left out."""
        return not {parent_key(child, parent), parent_key("*", parent)}.isdisjoint(self.rejected)

    def to_json(self) -> str:
        """The file's text, one pair per line, so that a change shows as one changed line."""
        fields = [
            f'  "{key}": {json.dumps(value, ensure_ascii=False)}'
            for key, value in (
                ("name", self.name),
                ("version", self.version),
                ("source", self.source),
                ("reviewed", self.reviewed),
                ("notes", self.notes),
            )
            if value != ""
        ]
        labels = ",\n".join(f"    {json.dumps(n, ensure_ascii=False)}" for n in self.labels)
        fields.append(f'  "labels": [\n{labels}\n  ]')
        for key in ("parents", "synonyms", "reasons", "rejected", "senses"):
            value = getattr(self, key)
            if value or key in ("parents", "synonyms", "reasons"):
                rows = ",\n".join(
                    f"    {json.dumps(k, ensure_ascii=False)}: {json.dumps(v, ensure_ascii=False)}"
                    for k, v in value.items()
                )
                fields.append(f'  "{key}": {{\n{rows}\n  }}' if rows else f'  "{key}": {{}}')
        return "{\n" + ",\n".join(fields) + "\n}\n"


def parent_key(child: str, parent: str) -> str:
    """Key of a child and its parent in ``reasons`` and ``rejected``."""
    return f"{child} -> {parent}"


def synonym_key(a: str, b: str) -> str:
    """Key of two synonyms in ``reasons`` and ``rejected``; either order is understood."""
    return f"{a} = {b}"


def hierarchy_names() -> tuple[str, ...]:
    """Names of the hierarchies that come with the package."""
    names = (f.name for f in _FOLDER.iterdir())
    return tuple(sorted(n.removesuffix(".json") for n in names if n.endswith(".json")))


def load_hierarchy(name: str | Path) -> Hierarchy:
    """A hierarchy of the package by name (that of its label set), or one's own file by path.

    Raises:
        InputError: no such hierarchy, or the file has an error: not JSON, a key twice in an object,
            an unknown name, a label related to itself or twice to the same label, a pair that is
            both parent and synonym, a cycle of parents. ``lint_hierarchy`` lists them all.
    """
    return _shipped(str(name)) if name in hierarchy_names() else _load(name)


def read_hierarchy_bytes(name: str | Path) -> bytes:
    """The file of :func:`load_hierarchy`, unread.

    Raises:
        InputError: no such hierarchy, or a file too large to be one.
    """
    if name in hierarchy_names():
        return _FOLDER.joinpath(f"{name}.json").read_bytes()
    path = Path(name)
    if not path.is_file():
        raise InputError(
            f"no hierarchy {str(name)!r}: give one of {', '.join(hierarchy_names())} or a JSON file"
        )
    if path.stat().st_size > MAX_BYTES:
        raise InputError(f"{path}: larger than {MAX_BYTES // 2**20} MiB; that is no hierarchy")
    return path.read_bytes()


def parse_hierarchy(content: Mapping[str, Any], stem: str) -> Hierarchy:
    """A hierarchy from the checked content of a file; ``stem`` names one that has no name."""
    values = {key: content[key] for key in KEYS if key in content}
    values["version"] = str(content["version"])
    values["labels"] = tuple(content["labels"])
    for key in ("parents", "synonyms"):
        values[key] = {label: tuple(others) for label, others in content.get(key, {}).items()}
    return Hierarchy(**{"name": stem, "source": "", **values})


def _load(name: str | Path) -> Hierarchy:
    content, problems = examine(read_hierarchy_bytes(name))
    errors = [p for p in problems if p.level == "error"]
    if errors:
        more = f" (and {len(errors) - 1} more: scanseg hierarchy lint {name})" if errors[1:] else ""
        raise InputError(f"{name}: {errors[0].message}{more}")
    return parse_hierarchy(content, Path(name).stem)


@lru_cache
def _shipped(name: str) -> Hierarchy:
    return _load(name)
