"""Options anywhere among the other arguments: ``scanseg segment photo.jpg --device cpu "cat"``."""

from __future__ import annotations

import argparse
import re
from collections import deque
from collections.abc import Sequence

from scanseg.contracts import InputError


def options_first(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> list[str]:
    """The same arguments with the options in front and ``--`` before the others.

    argparse gives a positional list only the arguments that stand together; with this, words may
    follow options. What comes after a ``--`` is never taken for an option.

    Raises:
        InputError: a word that begins with a dash stands before any ``--``.
    """
    if all(action.option_strings for action in parser._actions):
        return list(arguments)  # nothing but options; one of them may take several values
    options: list[str] = []
    others: list[str] = []
    rest = deque(arguments)
    while rest:
        argument = rest.popleft()
        if argument == "--":
            others += rest
            break
        if not argument.startswith("-") or argument == "-":
            others.append(argument)
            continue
        values = _values(parser, argument)
        if values == 0 and re.fullmatch(r"-\d.*|-\s.*|-[^-=]*\s.*", argument):  # no option at all
            raise InputError(f"{argument!r} begins with a dash: put -- before words that do")
        options.append(argument)
        if values is None and rest:
            options.append(rest.popleft())
        while values == "+" and rest and not rest[0].startswith("-"):
            options.append(rest.popleft())
    return [*options, "--", *others] if others else options


def _values(parser: argparse.ArgumentParser, option: str) -> int | str | None:
    """How many of the next arguments belong to ``option`` (which may be shortened).

    As argparse's ``nargs``: ``None`` is one, ``"+"`` all up to the next option.
    """
    meant = [a for a in parser._actions if option in a.option_strings] or [
        a for a in parser._actions for name in a.option_strings if name.startswith(option)
    ]
    counts = {a.nargs for a in meant}
    return counts.pop() if len(counts) == 1 else 0
