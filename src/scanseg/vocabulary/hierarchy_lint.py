"""Everything that is wrong or doubtful in a hierarchy file, for ``scanseg hierarchy lint``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from scanseg.vocabulary.hierarchy import (
    Hierarchy,
    parent_key,
    parse_hierarchy,
    read_hierarchy_bytes,
    synonym_key,
)
from scanseg.vocabulary.hierarchy_checks import Problem, examine, pairs


def lint_hierarchy(name: str | Path) -> list[Problem]:
    """Findings on a hierarchy of the package or a file; an empty list for a clean one.

    Errors make a file unusable. Warnings: a pair without a reason, a reason without a pair,
    one-sided synonyms, a pair both accepted and rejected. Notes: pairs that follow from others but
    are neither listed nor rejected, no name, no source, not reviewed.

    Raises:
        InputError: no such file.
    """
    content, problems = examine(read_hierarchy_bytes(name))
    if not any(p.level == "error" for p in problems):
        problems += _review(parse_hierarchy(content, Path(name).stem), content)
    return problems


def _review(hierarchy: Hierarchy, content: Mapping[str, Any]) -> list[Problem]:
    return [
        *(Problem("warning", message) for message in _doubts(hierarchy)),
        *(Problem("note", message) for message in _gaps(hierarchy)),
        *(Problem("note", f"no {key!r}") for key in ("name", "source") if not content.get(key)),
        *([] if hierarchy.reviewed else [Problem("note", "not marked as reviewed by a person")]),
    ]


def _doubts(hierarchy: Hierarchy) -> Iterator[str]:
    for a, b in pairs(hierarchy.synonyms):
        if a not in hierarchy.synonyms.get(b, ()):
            yield f"{a!r} lists the synonym {b!r}, but not the other way round"
    keys = {parent_key(*pair) for pair in hierarchy.parent_pairs}
    for a, b in hierarchy.synonym_pairs:
        keys |= {synonym_key(a, b), synonym_key(b, a)}
        if not hierarchy.reason(synonym_key(a, b)).strip():
            yield f"no reason for {synonym_key(a, b)!r}"
    for child, parent in hierarchy.parent_pairs:
        if not hierarchy.reason(parent_key(child, parent)).strip():
            yield f"no reason for {parent_key(child, parent)!r}"
    for key in hierarchy.reasons:
        if key not in keys:
            yield f"a reason for {key!r}, which is no pair of this file"
    known = set(hierarchy.labels)
    for key in hierarchy.rejected:
        a, b = _split(key)
        if b not in known or (a not in known and key != parent_key("*", b)):
            yield f"rejected {key!r}: write 'child -> parent' or 'a = b' with names of the labels"
        elif key in keys:
            yield f"{key!r} is both accepted and rejected"


def _gaps(hierarchy: Hierarchy) -> Iterator[str]:
    """Pairs that follow from others but are neither listed nor rejected."""
    for child, parent in hierarchy.parent_pairs:
        for kind, relations in (("parent", hierarchy.parents), ("synonym", hierarchy.synonyms)):
            for further in relations.get(parent, ()):
                listed = further in hierarchy.parents.get(child, ())
                if not listed and not hierarchy.is_rejected(child, further):
                    yield (
                        f"{child!r} has the parent {parent!r}, but not {further!r}, "
                        f"which is a {kind} of {parent!r}"
                    )
    for a, b in pairs(hierarchy.synonyms):
        for above in hierarchy.parents.get(a, ()):
            listed = above in hierarchy.parents.get(b, ())
            if not listed and not hierarchy.is_rejected(b, above):
                yield f"{a!r} has the parent {above!r}, but its synonym {b!r} has not"


def _split(key: str) -> tuple[str, str]:
    for sign in (" -> ", " = "):
        a, found, b = key.partition(sign)
        if found:
            return a, b
    return key, ""
