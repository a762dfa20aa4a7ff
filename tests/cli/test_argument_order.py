"""Options may stand anywhere among photos and words."""

from __future__ import annotations

import argparse

import pytest

from scanseg.cli.argument_order import options_first
from scanseg.contracts import InputError


@pytest.fixture
def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser()
    parser.add_argument("inputs", nargs="*")
    parser.add_argument("--output")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--set", nargs="+", action="extend", default=[])
    return parser


@pytest.mark.parametrize(
    ("given", "ordered"),
    [
        ([], []),
        (["a", "b"], ["--", "a", "b"]),
        (["a", "--output", "o", "b"], ["--output", "o", "--", "a", "b"]),
        (["a", "--output=o", "b"], ["--output=o", "--", "a", "b"]),
        (["--json", "a", "--out", "o", "b"], ["--json", "--out", "o", "--", "a", "b"]),
        (["-", "cat", "-h"], ["-h", "--", "-", "cat"]),
        (["a", "--output", "-"], ["--output", "-", "--", "a"]),
        (["a", "--", "--json", "-x"], ["--", "a", "--json", "-x"]),
        (["a", "--unheard", "b"], ["--unheard", "--", "a", "b"]),
        (["a", "--output"], ["--output", "--", "a"]),
        (["a", "--set", "x=1", "y=2"], ["--set", "x=1", "y=2", "--", "a"]),
        (["a", "--set", "x=1", "--set", "y=2"], ["--set", "x=1", "--set", "y=2", "--", "a"]),
        (["--set", "x=1", "--json", "a"], ["--set", "x=1", "--json", "--", "a"]),
    ],
)
def test_order(parser: argparse.ArgumentParser, given: list[str], ordered: list[str]) -> None:
    assert options_first(parser, given) == ordered


def test_argparse_understands_the_result(parser: argparse.ArgumentParser) -> None:
    found = parser.parse_args(
        options_first(parser, ["a.jpg", "--dev", "cpu", "cat", "--json", "dog"])
    )
    assert found.inputs == ["a.jpg", "cat", "dog"]
    assert found.device == "cpu"
    assert found.json


@pytest.mark.parametrize("word", ["-5", "- dash", "-a b"])
def test_words_with_a_dash_are_named(parser: argparse.ArgumentParser, word: str) -> None:
    with pytest.raises(InputError, match="begins with a dash: put -- before"):
        options_first(parser, ["photo.jpg", word])
    assert options_first(parser, ["photo.jpg", "--", word])[-1] == word
