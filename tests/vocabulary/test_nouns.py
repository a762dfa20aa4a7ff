from __future__ import annotations

import json
from pathlib import Path

import pytest

from scanseg.contracts import InputError
from scanseg.vocabulary.nouns import NounList, caption_words, load_nouns, noun_finder

SMALL = NounList(
    frozenset({"dog", "hot dog", "fire hydrant", "bus", "woman", "glasses", "glass"}),
    {"women": "woman"},
)


def test_nouns_in_their_order_each_once() -> None:
    assert SMALL("A dog, a bus and another dog") == ["dog", "bus"]


def test_plurals_become_singular_also_irregular_ones() -> None:
    assert SMALL("Two women with dogs near buses") == ["woman", "dog", "bus"]


def test_the_longest_match_wins() -> None:
    assert SMALL("A hot dog beside a fire hydrant") == ["hot dog", "fire hydrant"]
    assert SMALL("hot weather for a dog") == ["dog"]


def test_a_listed_plural_stays_as_it_is() -> None:
    assert SMALL("glasses") == ["glasses"]


def test_capitals_accents_and_punctuation() -> None:
    assert caption_words("A Café's DOG.") == ["a", "cafe", "'", "s", "dog", "."]
    assert SMALL("DOG!") == ["dog"]


def test_nothing_listed_gives_nothing() -> None:
    assert SMALL("") == []
    assert SMALL("running quickly") == []


def test_the_shipped_list() -> None:
    nouns = load_nouns()
    found = nouns("A man sitting on a white bench looks down at two zebras and some people.")
    assert found == ["man", "bench", "zebra", "person"]


def test_a_list_of_ones_own(tmp_path: Path) -> None:
    file = tmp_path / "nouns.txt"
    file.write_text("Widget\n\ngear\n", encoding="utf-8")
    assert load_nouns(file)("gears of a widget") == ["gear", "widget"]


@pytest.mark.parametrize("content", ["", json.dumps({"nouns": 3}), json.dumps({"plurals": {}})])
def test_a_wrong_list_is_refused(tmp_path: Path, content: str) -> None:
    file = tmp_path / ("nouns.json" if content else "nouns.txt")
    file.write_text(content, encoding="utf-8")
    with pytest.raises(InputError, match="list"):
        load_nouns(file)


def test_a_parser_by_class_path() -> None:
    assert list(noun_finder("shlex.split")("a dog")) == ["a", "dog"]
    with pytest.raises(InputError, match="no parser"):
        noun_finder("shlex.nothing")
