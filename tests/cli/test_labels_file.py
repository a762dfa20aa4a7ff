"""Words from a file and from an option."""

from __future__ import annotations

from pathlib import Path

import pytest

from scanseg.cli.labels_file import read_labels_file, separated
from scanseg.contracts import InputError


def test_words_synonyms_and_comments(tmp_path: Path) -> None:
    path = tmp_path / "words.txt"
    path.write_bytes(
        "\ufeff# furniture\n"
        "sofa: couch, settee\r\n"
        "\n"
        "  Tür # a door\n"
        "C#\n"
        "\t# more\n"
        "sofa: divan\n".encode()
    )
    assert read_labels_file(str(path)) == {
        "sofa": ["couch", "settee", "divan"],
        "Tür": [],
        "C#": [],
    }


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (b"", "has no words in it"),
        (b"# only\n\n", "has no words in it"),
        (b"cat\n: kitten\n", "line 2: no word before the colon"),
        (b"\xff\xfeca\x00t", "is not UTF-8 text"),
        (b"cat\n" * (2**22 + 1), "is too large"),
    ],
)
def test_files_that_hold_no_words(tmp_path: Path, content: bytes, line: str) -> None:
    (tmp_path / "words.txt").write_bytes(content)
    with pytest.raises(InputError, match=line):
        read_labels_file(str(tmp_path / "words.txt"))


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        read_labels_file(str(tmp_path / "words.txt"))


def test_words_between_commas() -> None:
    assert separated(" cat, traffic light ,,dog,") == ["cat", "traffic light", "dog"]
