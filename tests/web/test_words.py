from __future__ import annotations

import pytest

from scanseg.contracts import InputError
from scanseg.web.words import count, read_words


@pytest.mark.parametrize(
    ("texts", "names", "synonyms"),
    [
        (["cat, sofa"], ("cat", "sofa"), {}),
        (["cat", " sofa "], ("cat", "sofa"), {}),
        (["cat\nsofa,,\n"], ("cat", "sofa"), {}),
        (["sofa: couch, settee\ncat"], ("sofa", "cat"), {"sofa": ("couch", "settee")}),
        (["cat, sofa: couch"], ("cat", "sofa"), {"sofa": ("couch",)}),
        (['["cat, big", "sofa"]'], ("cat, big", "sofa"), {}),
        (['{"cat": [], "sofa": ["couch"]}'], ("cat", "sofa"), {"sofa": ("couch",)}),
        (["sofa: couch", "sofa: settee"], ("sofa",), {"sofa": ("couch", "settee")}),
        (["Katze, 猫, sofá"], ("Katze", "猫", "sofá"), {}),
    ],
)
def test_words_as_text_and_as_json(
    texts: list[str], names: tuple[str, ...], synonyms: dict[str, tuple[str, ...]]
) -> None:
    vocabulary = read_words(texts)
    assert vocabulary.names == names
    assert vocabulary.synonyms == synonyms
    assert vocabulary.background is None


def test_background_words() -> None:
    assert read_words(["cat"], "none").background == ()
    assert read_words(["cat"], "wall, floor").background == ("wall", "floor")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no labels"),
        (" ,\n, ", "no labels"),
        (": couch", "no word before the colon"),
        ('{"sofa": "couch"}', "another shape"),
        ('["cat", 3]', "another shape"),
        ('["cat"', "none"),
        ("[" * 100_000, "none"),
        ("c\x00t", "control character"),
        ("x" * 301, "301 characters"),
    ],
)
def test_words_that_cannot_be_used(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_words([text])


def test_everything_that_costs_time_is_counted() -> None:
    vocabulary = read_words(["cat, sofa: couch"], "wall")
    assert count(vocabulary) == (4, len("cat") + len("sofa") + len("couch") + len("wall"))
