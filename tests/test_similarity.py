"""``scanseg similarity`` and the file it writes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from scanseg.cli import main
from scanseg.contracts import InputError
from scanseg.evaluation.similarity import (
    from_embeddings,
    from_wordnet,
    load_similarity,
    similarity_json,
)
from scanseg.vocabulary.wordnet import WordNet


@pytest.fixture(scope="module")
def dictionary() -> WordNet:
    try:
        return WordNet()
    except InputError:
        pytest.skip("no WordNet dictionary on this machine")


def test_cosines_by_hand() -> None:
    table = from_embeddings(np.array([[2.0, 0], [3, 4], [-1, 0]]))
    assert table == pytest.approx(np.array([[1, 0.6, 0], [0.6, 1, 0], [0, 0, 1]]))
    for wrong in ([[0.0, 0]], [[np.nan, 1]]):
        with pytest.raises(InputError, match="finite embedding"):
            from_embeddings(np.array(wrong))


def test_path_similarity_by_hand(dictionary: WordNet) -> None:
    """In WordNet 3.0 armchair and chair are one step apart, chair and seat too."""
    names = ("armchair.n.01", "chair.n.01", "seat.n.03")
    offsets = [*map(dictionary.find, names), None]
    table = from_wordnet(offsets, dictionary)
    expected = [[1, 1 / 2, 1 / 3, 0], [1 / 2, 1, 1 / 2, 0], [1 / 3, 1 / 2, 1, 0], [0, 0, 0, 1]]
    assert table == pytest.approx(np.array(expected))


def test_a_file_is_read_in_the_order_of_the_labels(tmp_path: Path) -> None:
    table = np.array([[1, 0.25], [0.5, 1]])
    path = tmp_path / "s.json"
    path.write_text(similarity_json(table, ["a", "b"], "by hand"))
    found, source = load_similarity(path, ["b", "a"])
    assert found.tolist() == [[1, 0.5], [0.25, 1]]
    assert source == "by hand"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"labels": ["a"], "similarity": [[1]]}, "not a similarity file"),
        ({"labels": ["a"], "similarity": [["x"]], "source": ""}, "not a similarity file"),
        ({"labels": ["b"], "similarity": [[1]], "source": ""}, "has no label 'a'"),
        ({"labels": ["a"], "similarity": [[2]], "source": ""}, r"\[0, 1\]"),
    ],
)
def test_files_that_cannot_be_used(tmp_path: Path, content: dict, message: str) -> None:
    path = tmp_path / "s.json"
    path.write_text(json.dumps(content))
    with pytest.raises(InputError, match=message):
        load_similarity(path, ["a"])


def test_the_command(
    tmp_path: Path, dictionary: WordNet, capsys: pytest.CaptureFixture[str]
) -> None:
    names = tmp_path / "names.txt"
    names.write_text("chair\narmchair\nflurbl\n")
    command = ["similarity", "--labels", str(names), "--output"]
    assert main([*command, str(tmp_path / "w.json"), "--source", "wordnet"]) == 0
    assert "no meaning in WordNet: flurbl" in capsys.readouterr().err
    table, source = load_similarity(tmp_path / "w.json", ["chair", "armchair", "flurbl"])
    assert table.tolist() == [[1, 0.5, 0], [0.5, 1, 0], [0, 0, 1]]
    assert source == "path similarity in WordNet 3.0"
    assert main([*command, str(tmp_path / "t.json"), "--source", "tiny"]) == 0
    table, source = load_similarity(tmp_path / "t.json", ["chair", "armchair", "flurbl"])
    assert source == "cosines of the text tower of tiny"
    assert np.allclose(table, table.T)
    assert len(np.unique(table)) == 4  # three pairs and the diagonal
    names.write_text("chair\nChair\n")
    assert main([*command, str(tmp_path / "x.json"), "--source", "tiny"]) == 2
    assert "the same word" in capsys.readouterr().err
