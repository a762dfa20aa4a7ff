"""The hierarchy format, its checks, and the hierarchies that come with the package."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from scanseg.cli import main
from scanseg.contracts import InputError
from scanseg.vocabulary.hierarchy import (
    Hierarchy,
    hierarchy_names,
    load_hierarchy,
    parent_key,
    synonym_key,
)
from scanseg.vocabulary.hierarchy_lint import lint_hierarchy
from scanseg.vocabulary.label_sets import label_set_names, load_label_set

every_shipped = pytest.mark.parametrize("name", hierarchy_names())

MINE: dict[str, Any] = {
    "name": "mine",
    "version": "1.0",
    "source": "a test",
    "reviewed": True,
    "labels": ["seat", "chair", "armchair", "stairs", "stairway"],
    "parents": {"armchair": ["chair", "seat"], "chair": ["seat"]},
    "synonyms": {"stairs": ["stairway"], "stairway": ["stairs"]},
    "reasons": {
        "armchair -> chair": "has arms",
        "armchair -> seat": "one sits on it",
        "chair -> seat": "one sits on it",
        "stairway = stairs": "two words",
    },
}


def written(tmp_path: Path, **changes: Any) -> Path:
    path = tmp_path / "mine.json"
    path.write_text(json.dumps({**MINE, **changes}))
    return path


def messages(path: Path) -> list[str]:
    return [str(problem) for problem in lint_hierarchy(path)]


# --------------------------------------------------------------------------------------
# Loading
# --------------------------------------------------------------------------------------


def test_a_clean_file(tmp_path: Path) -> None:
    path = written(tmp_path)
    assert messages(path) == []
    hierarchy = load_hierarchy(path)
    assert hierarchy.parents["armchair"] == ("chair", "seat")
    assert hierarchy.children("seat") == ("chair", "armchair")
    assert hierarchy.synonym_pairs == (("stairs", "stairway"),)
    assert hierarchy.reason(synonym_key("stairs", "stairway")) == "two words"


def test_index_maps() -> None:
    hierarchy = Hierarchy(
        "mine",
        "1",
        "",
        ("a", "b", "c", "d"),
        {"b": ("a",), "c": ("a", "b")},
        {"a": ("d",), "d": ("a",)},
    )
    assert hierarchy.index_maps() == ({1: [0], 2: [0, 1]}, {0: [3], 3: [0]})
    # another order, and without d: 0 = c, 1 = b, 2 = a
    assert hierarchy.index_maps(["c", "b", "a"]) == ({1: [2], 0: [2, 1]}, {})


def test_relations_are_taken_as_written(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        parents={"armchair": ["chair"], "chair": ["seat"]},
        synonyms={"stairs": ["stairway"]},
        reasons={},
    )
    parents, synonyms = load_hierarchy(path).index_maps()
    assert parents == {2: [1], 1: [0]}  # no armchair -> seat
    assert synonyms == {3: [4]}  # not the other way round


def test_names_of_another_list() -> None:
    with pytest.raises(InputError, match="'ade150' does not know 'sofas' and 1 more names"):
        load_hierarchy("ade150").index_maps(["sofa", "sofas", "stools"])


def test_round_trip(tmp_path: Path) -> None:
    for name in ("ade150", "voc20"):
        shipped = load_hierarchy(name)
        path = tmp_path / f"{name}.json"
        path.write_text(shipped.to_json(), encoding="utf-8")
        again = load_hierarchy(path)
        assert again == shipped
        assert again.to_json() == shipped.to_json()


def test_hash_is_that_of_the_relations(tmp_path: Path) -> None:
    original = load_hierarchy(written(tmp_path)).sha256
    turned = {"chair": ["seat"], "armchair": ["seat", "chair"]}
    assert load_hierarchy(written(tmp_path, parents=turned, version="2")).sha256 == original
    fewer = {"armchair": ["chair"], "chair": ["seat"]}
    assert load_hierarchy(written(tmp_path, parents=fewer)).sha256 != original
    as_synonyms = load_hierarchy(
        written(tmp_path, parents={}, synonyms={"chair": ["seat"]}, reasons={})
    )
    as_parents = load_hierarchy(
        written(tmp_path, parents={"chair": ["seat"]}, synonyms={}, reasons={})
    )
    assert as_synonyms.sha256 != as_parents.sha256


def test_optional_keys(tmp_path: Path) -> None:
    path = tmp_path / "small.json"
    path.write_text('{"version": 1, "labels": ["a", "b"], "parents": {"a": ["b"]}}')
    hierarchy = load_hierarchy(path)
    assert (hierarchy.name, hierarchy.version, hierarchy.synonyms) == ("small", "1", {})


# --------------------------------------------------------------------------------------
# Errors: one line, and the file is not used
# --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"parents": {"armchair": ["sofa"]}}, "parents of 'armchair': 'sofa' is not among"),
        ({"synonyms": {"steps": ["stairs"]}}, "synonyms of 'steps': 'steps' is not among"),
        ({"senses": {"sofa": None}}, "senses: 'sofa' is not among"),
        ({"labels": ["chair", "chair"]}, "the label 'chair' occurs twice"),
        ({"parents": {"chair": ["chair"]}}, "'chair' is its own parent"),
        ({"synonyms": {"chair": ["chair"]}}, "'chair' is its own synonym"),
        ({"parents": {"chair": ["seat", "seat"]}}, "lists the parent 'seat' twice"),
        (
            {"parents": {"chair": ["seat"], "seat": ["chair"]}},
            "cycle: 'chair' -> 'seat' -> 'chair'",
        ),
        (
            {"parents": {"armchair": ["chair"], "chair": ["seat"], "seat": ["armchair"]}},
            "cycle: 'armchair' -> 'chair' -> 'seat' -> 'armchair'",
        ),
        ({"synonyms": {"seat": ["chair"]}}, "'chair' and 'seat' are both parent and synonym"),
        ({"parents": {"chair": "seat"}}, "parents of 'chair' must be a list of names"),
        ({"parents": []}, "'parents' must be an object"),
        ({"labels": []}, "'labels' must be a list of names"),
        ({"labels": ["seat", ""]}, "'labels' must be a list of names, none of them empty"),
        ({"reasons": {"a -> b": 1}}, "reasons: the value of 'a -> b' must be text"),
        ({"senses": {"seat": 1}}, "the value of 'seat' must be WordNet synset or null"),
        ({"reviewed": "yes"}, "'reviewed' must be true or false"),
        ({"synonym": {}}, "unknown key 'synonym'; did you mean 'synonyms'"),
    ],
)
def test_errors(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    path = written(tmp_path, **changes)
    with pytest.raises(InputError, match=re.escape(message)) as raised:
        load_hierarchy(path)
    assert str(raised.value).startswith(str(path))
    assert "\n" not in str(raised.value)
    assert any(m.startswith("error:") and message in m for m in messages(path))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"labels": ["a"], "parents": {}}', "the key 'version' is missing"),
        ("{}", "the key 'version' is missing"),
        ("[]", "expected one JSON object"),
        ('{"version": ', "not JSON"),
        ("[" * 100_000, "not JSON"),
        (
            '{"version": "1", "labels": ["a", "b"], "parents": {"a": ["b"], "a": []}}',
            "the key 'a' occurs twice in one object",
        ),
        (
            '{"version": "1", "labels": ["a"], "labels": ["b"], "parents": {}}',
            "the key 'labels' occurs twice",
        ),
    ],
)
def test_unreadable_files(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "broken.json"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        load_hierarchy(path)
    assert lint_hierarchy(path)[0].level == "error"


def test_several_errors_are_counted(tmp_path: Path) -> None:
    path = written(tmp_path, parents={"armchair": ["sofa"], "chair": ["couch"]})
    with pytest.raises(InputError, match=r"\(and 1 more: scanseg hierarchy lint"):
        load_hierarchy(path)


def test_no_such_hierarchy() -> None:
    with pytest.raises(InputError, match="no hierarchy 'ade151': give one of ade150, ade847"):
        load_hierarchy("ade151")


def test_a_file_that_is_too_large(tmp_path: Path) -> None:
    path = tmp_path / "large.json"
    with path.open("wb") as file:
        file.truncate(16 * 2**20 + 1)
    with pytest.raises(InputError, match="larger than 16 MiB"):
        load_hierarchy(path)


# --------------------------------------------------------------------------------------
# Warnings and notes: the file can be used
# --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"synonyms": {"stairs": ["stairway"]}},
            "warning: 'stairs' lists the synonym 'stairway', but not the other way round",
        ),
        (
            {"reasons": {**MINE["reasons"], "chair -> seat": " "}},
            "warning: no reason for 'chair -> seat'",
        ),
        (
            {"reasons": {k: v for k, v in MINE["reasons"].items() if "=" not in k}},
            "warning: no reason for 'stairs = stairway'",
        ),
        (
            {"reasons": {**MINE["reasons"], "seat -> chair": "?"}},
            "warning: a reason for 'seat -> chair', which is no pair of this file",
        ),
        (
            {"rejected": {"chair -> seat": "no"}},
            "warning: 'chair -> seat' is both accepted and rejected",
        ),
        (
            {"rejected": {"chair": "no"}},
            "warning: rejected 'chair': write 'child -> parent' or 'a = b' with names of the "
            "labels",
        ),
        ({"name": ""}, "note: no 'name'"),
        ({"reviewed": False}, "note: not marked as reviewed by a person"),
    ],
)
def test_doubts(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    path = written(tmp_path, **changes)
    assert messages(path) == [message]
    load_hierarchy(path)


def test_unknown_keys_are_ignored_with_a_warning(tmp_path: Path) -> None:
    path = written(tmp_path, author="somebody")
    assert messages(path)[0].startswith("warning: unknown key 'author' (known: name, version")
    load_hierarchy(path)


def test_gaps_between_parents(tmp_path: Path) -> None:
    reasons = {k: v for k, v in MINE["reasons"].items() if k != "armchair -> seat"}
    parents = {"armchair": ["chair"], "chair": ["seat"]}
    gap = "note: 'armchair' has the parent 'chair', but not 'seat', which is a parent of 'chair'"
    assert messages(written(tmp_path, parents=parents, reasons=reasons)) == [gap]
    for decision in ("armchair -> seat", "* -> seat"):
        path = written(tmp_path, parents=parents, reasons=reasons, rejected={decision: "no"})
        assert messages(path) == []


def test_gaps_between_synonyms(tmp_path: Path) -> None:
    parents = {**MINE["parents"], "stairs": ["seat"]}
    reasons = {**MINE["reasons"], "stairs -> seat": "a test"}
    assert messages(written(tmp_path, parents=parents, reasons=reasons)) == [
        "note: 'stairs' has the parent 'seat', but its synonym 'stairway' has not"
    ]


# --------------------------------------------------------------------------------------
# The hierarchies of the package
# --------------------------------------------------------------------------------------

PAIRS = {
    # name: parents, synonyms; a change here is a new version of the file
    "ade150": (39, 2),
    "ade847": (280, 51),
    "camvid11": (0, 0),
    "coco_panoptic133": (4, 0),
    "coco_stuff171": (12, 1),
    "pc459": (94, 4),
    "pc59": (1, 0),
    "voc20": (0, 0),
    "voc21": (0, 0),
}


def test_every_label_set_has_one() -> None:
    assert set(hierarchy_names()) == set(label_set_names()) == set(PAIRS)


@every_shipped
def test_shipped_files_are_clean(name: str) -> None:
    assert lint_hierarchy(name) == []


@every_shipped
def test_shipped_files_belong_to_their_label_set(name: str) -> None:
    hierarchy = load_hierarchy(name)
    assert hierarchy.name == name
    assert hierarchy.labels == load_label_set(name).names
    assert hierarchy.reviewed
    assert hierarchy.version
    assert "WordNet 3.0" in hierarchy.source
    assert (len(hierarchy.parent_pairs), len(hierarchy.synonym_pairs)) == PAIRS[name]
    assert hierarchy.notes or hierarchy.parent_pairs


@every_shipped
def test_every_reason_has_an_example(name: str) -> None:
    for key, reason in load_hierarchy(name).reasons.items():
        assert re.search(r"\. Example: \w.+\.$", reason), (key, reason)


@pytest.mark.parametrize(
    ("name", "child", "parent"),
    [
        ("ade150", "armchair", "chair"),
        ("ade150", "swivel chair", "chair"),
        ("ade150", "coffee table", "table"),
        ("ade150", "house", "building"),
        ("coco_stuff171", "dining table", "table"),
        ("coco_stuff171", "apple", "fruit"),
        ("pc459", "laptop", "computer"),
    ],
)
def test_right_in_a_photo(name: str, child: str, parent: str) -> None:
    hierarchy = load_hierarchy(name)
    assert parent in hierarchy.parents[child]
    assert child not in hierarchy.parents.get(parent, ())


@pytest.mark.parametrize(
    ("name", "child", "parent"),
    [
        ("ade150", "person", "animal"),
        ("ade150", "door", "wall"),
        ("ade150", "curtain", "blind"),
        ("ade847", "car, auto, automobile, machine, motorcar", "container"),
        ("coco_stuff171", "wall-brick", "wall-other"),
        ("coco_stuff171", "teddy bear", "bear"),
        ("coco_stuff171", "hot dog", "dog"),
        ("pc459", "toy car", "car"),
    ],
)
def test_wrong_in_a_photo(name: str, child: str, parent: str) -> None:
    hierarchy = load_hierarchy(name)
    assert parent not in hierarchy.parents.get(child, ())
    assert parent not in hierarchy.synonyms.get(child, ())


def test_labels_for_the_rest_are_never_parents() -> None:
    for name in ("coco_stuff171", "coco_panoptic133"):
        parents = {parent for _, parent in load_hierarchy(name).parent_pairs}
        assert not {p for p in parents if "-other" in p}


def test_wordnet_licence_is_beside_them() -> None:
    from importlib.resources import files

    folder = files("scanseg.vocabulary").joinpath("hierarchies")
    text = folder.joinpath("WORDNET_LICENSE.txt").read_text()
    assert "WordNet 3.0 Copyright 2006 by Princeton University" in text


# --------------------------------------------------------------------------------------
# Commands
# --------------------------------------------------------------------------------------


def test_lint_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["hierarchy", "lint", "ade150", str(written(tmp_path))]) == 0
    assert capsys.readouterr().err == "2 clean\n"
    bad = written(tmp_path, reasons={})
    assert main(["hierarchy", "lint", str(bad)]) == 2
    out, err = capsys.readouterr()
    assert len(out.splitlines()) == 4  # three parents and one pair of synonyms without a reason
    assert err == "scanseg: 4 findings to correct\n"


def test_lint_lets_notes_pass(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = written(tmp_path, reviewed=False)
    assert main(["hierarchy", "lint", "--json", str(path)]) == 0
    assert json.loads(capsys.readouterr().out) == {
        str(path): [{"level": "note", "message": "not marked as reviewed by a person"}]
    }


def test_show_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = written(tmp_path)
    assert main(["hierarchy", "show", str(path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    sha = load_hierarchy(path).sha256[:12]
    assert lines == [
        f"mine 1.0: 5 labels, 3 parents, 1 synonyms, reviewed, sha256 {sha}",
        "a test",
        "seat",
        "  chair",
        "    armchair",
        "stairs = stairway",
    ]


def test_show_with_reasons(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["hierarchy", "show", str(written(tmp_path)), "--reasons"]) == 0
    out = capsys.readouterr().out
    assert "    armchair\n      (has arms)\n" in out
    assert out.endswith("stairs = stairway\n  (two words)\n")


def test_show_one_label(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["hierarchy", "show", "ade150", "--label", "chair"]) == 0
    out = capsys.readouterr().out
    assert "  also right: seat\n" in out
    assert "  right for: armchair\n    WordNet: armchair.n.01 < chair.n.01 (" in out
    assert main(["hierarchy", "show", "ade150", "--label", "microwave"]) == 0
    assert "  not accepted: microwave -> oven\n" in capsys.readouterr().out
    assert main(["hierarchy", "show", "ade150", "--label", "sky"]) == 0
    assert capsys.readouterr().out == "sky: no relation to another label\n"


def test_show_an_unknown_label(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["hierarchy", "show", "ade150", "--label", "chiar"]) == 2
    assert capsys.readouterr().err == (
        "scanseg: ade150 has no label 'chiar'; did you mean 'chair'?\n"
    )


def test_keys() -> None:
    assert parent_key("a", "b") == "a -> b"
    assert synonym_key("a", "b") == "a = b"
