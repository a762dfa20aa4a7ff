"""Options anywhere among the other arguments: ``scanseg segment photo.jpg --device cpu "cat"``."""

from __future__ import annotations

import argparse
from collections.abc import Sequence


def options_first(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> list[str]:
    """The same arguments with the options in front and ``--`` before the others.

    argparse gives a positional list only the arguments that stand together; with this, words may
    follow options. What comes after a ``--`` is never taken for an option.
    """
    if all(action.option_strings for action in parser._actions):
        return list(arguments)  # nothing but options; one of them may take several values
    options: list[str] = []
    others: list[str] = []
    rest = iter(arguments)
    for argument in rest:
        if argument == "--":
            others += rest
        elif argument.startswith("-") and argument != "-":
            options.append(argument)
            if _takes_value(parser, argument):
                options += [value for value in [next(rest, None)] if value is not None]
        else:
            others.append(argument)
    return [*options, "--", *others] if others else options


def _takes_value(parser: argparse.ArgumentParser, option: str) -> bool:
    """Whether the next argument belongs to ``option`` (which may be shortened)."""
    meant = [a for a in parser._actions if option in a.option_strings] or [
        a for a in parser._actions for name in a.option_strings if name.startswith(option)
    ]
    return bool(meant) and all(a.nargs is None for a in meant)
