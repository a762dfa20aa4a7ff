"""One plain line for what the parser complains about."""

from __future__ import annotations

from typing import Literal

import pytest

from scanseg.cli import run
from scanseg.cli.plain_errors import plain_reason
from scanseg.contracts import InputError


def command(
    *,
    shift_ratio: float | None = None,
    seed: int = 0,
    branches: Literal["both", "clip"] | None = None,
    path: str = "",
) -> int:
    """Do nothing.

    Args:
        shift_ratio: a share
        seed: a seed
        branches: which
        path: a file
    """
    return 0


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--shift-ratio", "x"], "--shift-ratio cannot be 'x': give a number;"),
        (["--seed", "1.5"], "--seed cannot be '1.5': give a whole number;"),
        (["--branches", "no"], "--branches cannot be 'no': give one of both, clip;"),
        (["--path"], "argument --path: expected one argument;"),
    ],
)
def test_the_parsers_complaints(arguments: list[str], line: str) -> None:
    with pytest.raises(InputError) as error:
        run(command, "scanseg test", arguments)
    assert str(error.value) == f"{line} see scanseg test --help"


def test_what_is_missing_is_named_as_one_types_it() -> None:
    def another(model: str, *, ground_truth: str, labels: str) -> int:
        """Do nothing.

        Args:
            model: one
            ground_truth: the truth
            labels: words
        """
        return 0

    with pytest.raises(InputError, match=r"^give MODEL \(one\) and --ground-truth and --labels;"):
        run(another, "scanseg test", [])
    with pytest.raises(InputError, match=r"^give --labels; see"):
        run(another, "scanseg test", ["m", "--ground-truth", "x"])


def test_other_complaints_come_on_one_line() -> None:
    assert plain_reason("two\n  lines") == "two lines"
