"""What makes a hierarchy file unusable; see :mod:`scanseg.vocabulary.hierarchy` for the format."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from scanseg.contracts import InputError
from scanseg.storage import parse_json

Level = Literal["error", "warning", "note"]

KEYS: dict[str, tuple[type | tuple[type, ...], str]] = {
    # key: type in the file, how a person would call it
    "name": (str, "a text"),
    "version": ((str, int, float), "a text or a number"),
    "source": (str, "a text"),
    "notes": (str, "a text"),
    "reviewed": (bool, "true or false"),
    "labels": (list, "a list of names"),
    "parents": (dict, "an object, child -> list of names"),
    "synonyms": (dict, "an object, label -> list of names"),
    "reasons": (dict, "an object, pair -> text"),
    "rejected": (dict, "an object, pair -> text"),
    "senses": (dict, "an object, label -> WordNet synset or null"),
}
NEEDED = ("version", "labels", "parents")


@dataclass(frozen=True)
class Problem:
    """One finding of the linter.

    Attributes:
        level: ``"error"``: the file cannot be used; ``"warning"``: it can, but should be
            corrected; ``"note"``: worth a look.
        message: one line that says what and where.
    """

    level: Level
    message: str

    def __str__(self) -> str:
        return f"{self.level}: {self.message}"


def examine(raw: bytes) -> tuple[dict[str, Any], list[Problem]]:
    """Decode a file and find what makes it unusable.

    Returns:
        The content, which is only to be used if none of the problems is an error, and the problems.
    """
    problems: list[Problem] = []

    def unique(entries: list[tuple[str, Any]]) -> dict[str, Any]:
        content: dict[str, Any] = {}
        for key, value in entries:
            if key in content:
                problems.append(
                    Problem("error", f"the key {key!r} occurs twice in one object; merge them")
                )
            content[key] = value
        return content

    try:
        content = parse_json(raw, unique)
    except InputError as error:
        return {}, [Problem("error", str(error))]
    if not isinstance(content, dict):
        return {}, [Problem("error", "expected one JSON object with labels, parents and synonyms")]
    problems += _unknown_keys(content)
    for stage in (_check_types, _check_names, _check_relations):
        found = list(stage(content))
        problems += [Problem("error", message) for message in found]
        if found:  # the later stages rest on the earlier ones
            break
    return content, problems


def _unknown_keys(content: Mapping[str, Any]) -> Iterator[Problem]:
    for key in content:
        if key not in KEYS:
            close = difflib.get_close_matches(key, KEYS, n=1, cutoff=0.8)
            if close:
                yield Problem("error", f"unknown key {key!r}; did you mean {close[0]!r}?")
            else:
                yield Problem("warning", f"unknown key {key!r} (known: {', '.join(KEYS)})")


def _check_types(content: Mapping[str, Any]) -> Iterator[str]:
    for key in NEEDED:
        if key not in content:
            yield f"the key {key!r} is missing"
    for key, (kind, told) in KEYS.items():
        value = content.get(key)
        if key not in content:
            continue
        if not isinstance(value, kind):
            yield f"{key!r} must be {told}"
        elif key == "labels":
            if not _are_names(value) or not value:
                yield "'labels' must be a list of names, none of them empty"
        elif kind is dict:
            yield from _check_entries(key, content[key])


def _check_entries(key: str, entries: Mapping[str, Any]) -> Iterator[str]:
    for entry, value in entries.items():
        if key in ("parents", "synonyms"):
            if not _are_names(value):
                yield f"{key} of {entry!r} must be a list of names"
        elif not isinstance(value, str) and not (key == "senses" and value is None):
            yield f"{key}: the value of {entry!r} must be {KEYS[key][1].rpartition('-> ')[2]}"


def _are_names(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(v, str) and v for v in value)


def _check_names(content: Mapping[str, Any]) -> Iterator[str]:
    labels = content["labels"]
    known = set(labels)
    if len(known) != len(labels):
        twice = next(label for label, times in Counter(labels).items() if times > 1)
        yield f"the label {twice!r} occurs twice in 'labels'"
    for key in ("parents", "synonyms"):
        for label, others in content.get(key, {}).items():
            for name in (label, *others):
                if name not in known:
                    yield f"{key} of {label!r}: {name!r} is not among the labels"
    for label in content.get("senses", {}):
        if label not in known:
            yield f"senses: {label!r} is not among the labels"


def _check_relations(content: Mapping[str, Any]) -> Iterator[str]:
    parents, synonyms = content["parents"], content.get("synonyms", {})
    for key, relations in (("parent", parents), ("synonym", synonyms)):
        for label, others in relations.items():
            if label in others:
                yield f"{label!r} is its own {key}"
            if len(set(others)) != len(others):
                twice = next(o for o, times in Counter(others).items() if times > 1)
                yield f"{label!r} lists the {key} {twice!r} twice"
    same = {frozenset(pair) for pair in pairs(synonyms)}
    for child, parent in pairs(parents):
        if frozenset((child, parent)) in same and child != parent:
            yield f"{child!r} and {parent!r} are both parent and synonym; keep one"
    cycle = _cycle({child: above for child, above in parents.items() if child not in above})
    if cycle:
        yield "the parents form a cycle: " + " -> ".join(map(repr, cycle))


def pairs(relations: Mapping[str, Iterable[str]]) -> Iterator[tuple[str, str]]:
    """Every (label, other) of a relation."""
    for label, others in relations.items():
        for other in others:
            yield label, other


def _cycle(parents: Mapping[str, Sequence[str]]) -> list[str]:
    """Some cycle of the directed graph, first label repeated at the end; [] if there is none."""
    done: set[str] = set()
    for start in parents:
        path: list[str] = []
        on_path: set[str] = set()
        stack = [(start, iter(parents.get(start, ())))] if start not in done else []
        while stack:
            label, above = stack[-1]
            if not path or path[-1] != label:
                path.append(label)
                on_path.add(label)
            parent = next((p for p in above if p not in done), None)
            if parent is None:
                done.add(label)
                stack.pop()
                on_path.remove(path.pop())
            elif parent in on_path:
                return [*path[path.index(parent) :], parent]
            else:
                stack.append((parent, iter(parents.get(parent, ()))))
    return []
