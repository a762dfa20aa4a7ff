"""How ``--help`` shows an option: a value's kind in its place, defaults that say something."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from jsonargparse import DefaultHelpFormatter

_KINDS = {int: "N", float: "NUMBER", Path: "PATH"}


class HelpFormatter(DefaultHelpFormatter):
    """Leaves help texts as they are; :func:`described` has already said the default."""

    def _get_help_string(self, action: Any) -> str:
        return action.help or ""


def metavar(kind: Any) -> str | None:
    """What stands for a value: ``N``, ``NUMBER``, ``PATH`` or ``{a,b}``.

    ``None``: the option's name says it.
    """
    kinds = [k for k in get_args(kind) if k is not type(None)]
    if get_origin(kind) is not Literal and len(kinds) == 1:  # X | None
        kind = kinds[0]
    if get_origin(kind) is Literal:
        return "{" + ",".join(map(str, get_args(kind))) + "}"
    return _KINDS.get(kind)


def described(text: str, default: Any) -> str:
    """A help text with its default, unless that says nothing or the text tells it."""
    text = " ".join(text.split()).replace("%", "%%")
    if default is inspect.Parameter.empty:
        return f"{text} (required)"
    if default in (None, False, "", []) or "(default" in text:
        return text
    return f"{text} (default: {default})"
