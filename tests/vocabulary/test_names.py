from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scanseg.contracts import InputError
from scanseg.vocabulary import Vocabulary


def test_the_callers_order_and_list_are_kept() -> None:
    words = [" sofa", "cat", "window "]
    assert Vocabulary(words).names == ("sofa", "cat", "window")
    assert words == [" sofa", "cat", "window "]


def test_repeated_words_are_kept_once_the_first_wins() -> None:
    assert Vocabulary(["Cat", "dog", "cat", "CAT ", "palm  tree", "palm tree"]).names == (
        "Cat",
        "dog",
        "palm  tree",
    )


def test_synonyms_from_a_mapping_and_terms() -> None:
    vocabulary = Vocabulary(
        {"sofa": ["couch", "settee", "Sofa"], "cat": []}, background=["wall", "couch"]
    )
    terms = vocabulary.terms()
    assert terms.prompts == (
        "sofa",
        "couch",
        "settee",
        "cat",
        "wall",
    )  # couch is no background word
    assert terms.owner == (0, 0, 0, 1, 2)
    assert (terms.labels, terms.background) == (2, 1)


def test_one_label_alone_gets_others_beside_it() -> None:
    terms = Vocabulary(["cat"]).terms()
    assert terms.prompts == ("cat", "others")
    assert (terms.labels, terms.background) == (1, 1)


def test_commas_stay_inside_a_label() -> None:
    assert Vocabulary(["building, edifice"]).names == ("building, edifice",)


def test_unicode_is_composed() -> None:
    assert Vocabulary(["cafe\u0301"]).names == ("caf\u00e9",)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "at least one word"),
        ("cat", r'\["cat"\]'),
        ([""], "empty"),
        (["  "], "empty"),
        ([3], "must be a string"),
        (5, "list of words"),
        (["a" * 301], "301 characters"),
        (["cat\x00"], "U[+]0000"),
        (["a\nb"], "U[+]000A"),
        ([str(i) for i in range(20_001)], "too many"),
    ],
)
def test_what_cannot_be_used_is_refused_in_one_line(words: object, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        Vocabulary(words)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


def test_synonyms_of_an_unknown_label() -> None:
    with pytest.raises(InputError, match="not among the labels"):
        Vocabulary(["cat"], synonyms={"dog": ["hound"]})


@pytest.mark.parametrize("template", ["photo", "{} and {}", ""])
def test_templates_need_one_place_for_the_label(template: str) -> None:
    with pytest.raises(InputError, match="exactly one"):
        Vocabulary(["cat"], templates=[template])


@given(st.lists(st.text(max_size=40), max_size=8))
def test_any_text_is_accepted_or_refused_clearly(words: list[str]) -> None:
    usable = [w for w in words if w.strip()]
    try:
        vocabulary = Vocabulary(words)
    except InputError:
        odd = any(ord(c) < 32 or ord(c) > 126 for w in words for c in w)
        assert not words or len(usable) < len(words) or odd
    else:
        assert 1 <= len(vocabulary) <= len(words)
        assert all(name == name.strip() and name for name in vocabulary.names)


def test_synonyms_of_a_word_that_comes_twice_are_joined() -> None:
    words = Vocabulary({"sofa": ["couch"], "Sofa": ["settee"]}, synonyms={"sofa": ["divan"]})
    assert words.names == ("sofa",)
    assert words.synonyms == {"sofa": ("couch", "settee", "divan")}


def test_characters_that_python_does_not_know_yet_are_words() -> None:
    assert Vocabulary(["\U0001fae9", "\ue000"]).names == ("\U0001fae9", "\ue000")
    with pytest.raises(InputError, match="no visible character"):
        Vocabulary(["\u200b"])


def test_equal_vocabularies_are_one_key() -> None:
    first = Vocabulary({"sofa": ["couch"], "cat": ["kitten"]}, background=["sky"])
    same = Vocabulary(["sofa", "cat"], {"cat": ["kitten"], "sofa": ["couch"]}, ["sky"])
    assert {first: 1}[same] == 1
    assert len({first, same, Vocabulary(["sofa", "cat"], background=["sky"])}) == 2
