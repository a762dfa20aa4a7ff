"""``scanseg hierarchy``: which labels of a list are also right for which others."""

from __future__ import annotations

import difflib
import json
import os
import sys
import tempfile
from pathlib import Path

from scanseg.contracts import InputError
from scanseg.storage import read_json
from scanseg.vocabulary.hierarchy import (
    MAX_BYTES,
    Hierarchy,
    load_hierarchy,
    parent_key,
    synonym_key,
)
from scanseg.vocabulary.hierarchy_candidates import candidates, meanings, read_senses
from scanseg.vocabulary.hierarchy_lint import lint_hierarchy
from scanseg.vocabulary.label_sets import load_label_set
from scanseg.vocabulary.wordnet import WordNet


def build(
    labels: str,
    *,
    output: Path,
    wordnet: Path | None = None,
    senses: Path | None = None,
    force: bool = False,
) -> int:
    """Propose parents and synonyms for a list of labels from WordNet, for you to review.

    Needs the dictionary files of WordNet 3.0 (Debian: wordnet-base and wordnet-sense-index).
    Labels that WordNet does not know are named on stderr.

    Args:
        labels: a label set (ade150, pc459, ...) or a .txt or .json file with one label per entry.
        output: the hierarchy file to write.
        wordnet: folder with data.noun, index.noun and index.sense; the usual places by default.
        senses: JSON file with meanings picked by hand, {"mouse": "mouse.n.04", "sky": null}; a
            hierarchy file with "senses" works too.
        force: replace the output file if it exists.
    """
    if output.exists() and not force:
        raise InputError(f"{output} exists; give another --output, or --force to replace it")
    if not output.parent.is_dir():
        raise InputError(f"the folder {output.parent} does not exist")
    label_set = load_label_set(labels)
    dictionary = WordNet(wordnet)
    picked = {} if senses is None else read_senses(read_json(senses, MAX_BYTES), label_set)
    found = candidates(label_set, dictionary, picked)
    _write(output, found.to_json())
    unknown = [n for n, m in meanings(label_set, dictionary, picked).items() if m.synset is None]
    if unknown:
        print(f"no meaning in WordNet: {'; '.join(unknown)}", file=sys.stderr)
    print(
        f"{output}: {len(found.parent_pairs)} parents and {len(found.synonym_pairs)} synonyms "
        f"proposed for {len(label_set)} labels.\n"
        "Read every pair: is it right to call the child by the parent's name in a photo? Remove "
        'the others, set "reviewed": true, then run scanseg hierarchy lint.',
        file=sys.stderr,
    )
    return 0


def lint(files: list[str], *, json_: bool = False) -> int:
    """Check hierarchy files: names, duplicate keys, cycles, reasons.

    Exits with 2 if a file has errors or warnings; notes alone are fine.

    Args:
        files: hierarchy files, or names of those that come with the package.
        json_: print one JSON object, file -> list of findings.
    """
    findings = {name: lint_hierarchy(name) for name in files}
    serious = sum(p.level != "note" for problems in findings.values() for p in problems)
    if json_:
        as_objects = {f: [vars(p) for p in problems] for f, problems in findings.items()}
        print(json.dumps(as_objects, ensure_ascii=False, indent=2))
    else:
        for name, problems in findings.items():
            for problem in problems:
                print(f"{name}: {problem}")
    if serious:
        raise InputError(f"{serious} {'finding' if serious == 1 else 'findings'} to correct")
    print(f"{len(files)} clean", file=sys.stderr)
    return 0


def show(name: str, *, label: str | None = None, reasons: bool = False) -> int:
    """Print a hierarchy as a tree, or everything about one label.

    Args:
        name: one that comes with the package (ade150, ade847, pc59, pc459, coco_stuff171, ...) or a
            file.
        label: show this label's parents, synonyms and children with their reasons.
        reasons: print the reason under every pair of the tree.
    """
    hierarchy = load_hierarchy(name)
    if label is not None:
        print("\n".join(_about(hierarchy, label)))
        return 0
    print(
        f"{hierarchy.name} {hierarchy.version}: {len(hierarchy.labels)} labels, "
        f"{len(hierarchy.parent_pairs)} parents, {len(hierarchy.synonym_pairs)} synonyms, "
        f"{'reviewed' if hierarchy.reviewed else 'not reviewed'}, sha256 {hierarchy.sha256[:12]}"
    )
    for text in filter(None, (hierarchy.source, hierarchy.notes)):
        print(text)
    print("\n".join(_tree(hierarchy, reasons)))
    return 0


COMMANDS = {"build": build, "lint": lint, "show": show}


def _tree(hierarchy: Hierarchy, reasons: bool) -> list[str]:
    """Children below their nearest parents; then synonyms that have neither parent nor child."""
    lines: list[str] = []

    def down(label: str, depth: int) -> None:
        lines.append("  " * depth + " = ".join((label, *hierarchy.synonyms.get(label, ()))))
        children = [c for c in hierarchy.children(label) if _is_direct(hierarchy, c, label)]
        for child in _one_of_synonyms(hierarchy, children):
            down(child, depth + 1)
            if reasons:
                why = hierarchy.reason(parent_key(child, label))
                lines.append("  " * (depth + 2) + f"({why})")

    parents = {parent for _, parent in hierarchy.parent_pairs}
    roots = [n for n in hierarchy.labels if n in parents and not hierarchy.parents.get(n)]
    for label in _one_of_synonyms(hierarchy, roots):
        down(label, 0)
    related = parents | set(hierarchy.parents)
    alone = [n for n in hierarchy.labels if hierarchy.synonyms.get(n) and n not in related]
    for label in _one_of_synonyms(hierarchy, alone):
        lines.append(" = ".join((label, *hierarchy.synonyms[label])))
        if reasons:
            others = hierarchy.synonyms[label]
            lines += [f"  ({hierarchy.reason(synonym_key(label, other))})" for other in others]
    return lines


def _one_of_synonyms(hierarchy: Hierarchy, labels: list[str]) -> list[str]:
    """The labels without those that are synonyms of an earlier one."""
    kept: list[str] = []
    for label in labels:
        if not any(label in hierarchy.synonyms.get(earlier, ()) for earlier in kept):
            kept.append(label)
    return kept


def _is_direct(hierarchy: Hierarchy, child: str, parent: str) -> bool:
    """Whether no other parent of the child stands between the two."""
    return not any(
        parent in hierarchy.parents.get(between, ())
        for between in hierarchy.parents[child]
        if between != parent
    )


def _about(hierarchy: Hierarchy, label: str) -> list[str]:
    if label not in hierarchy.labels:
        close = difflib.get_close_matches(label, hierarchy.labels, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise InputError(f"{hierarchy.name} has no label {label!r}{hint}")
    rows = [
        (f"also right: {parent}", parent_key(label, parent))
        for parent in hierarchy.parents.get(label, ())
    ]
    rows += [
        (f"means the same: {other}", synonym_key(label, other))
        for other in hierarchy.synonyms.get(label, ())
    ]
    rows += [
        (f"right for: {child}", parent_key(child, label)) for child in hierarchy.children(label)
    ]
    lines = [label]
    for text, key in rows:
        lines += [f"  {text}", f"    {hierarchy.reason(key) or 'no reason given'}"]
    for key, why in hierarchy.rejected.items():
        a, _, b = key.replace(" = ", " -> ").partition(" -> ")
        if label in (a, b):
            lines += [f"  not accepted: {key}", f"    {why}"]
    return lines if len(lines) > 1 else [f"{label}: no relation to another label"]


def _write(path: Path, text: str) -> None:
    """Whole or not at all."""
    with tempfile.NamedTemporaryFile(
        "w", encoding="utf-8", dir=path.parent, prefix=path.name, delete=False
    ) as file:
        file.write(text)
    os.chmod(file.name, 0o644)
    os.replace(file.name, path)
