"""The parser's complaints in one plain line."""

from __future__ import annotations

import re
from collections.abc import Mapping

_KINDS = {"float": "a number", "int": "a whole number", "bool": "true or false", "str": "text"}


def plain_reason(complaint: str, positional: Mapping[str, str] = {}) -> str:
    """``--shift-ratio cannot be 'x': give a number`` instead of a page about types.

    A complaint of another form comes back on one line, otherwise unchanged.

    Args:
        complaint: the parser's.
        positional: arguments that are no options, and what to call them.
    """
    missing = re.match(r"the following arguments are required: (.*)", complaint)
    if missing is not None:
        return "give " + " and ".join(
            positional.get(name, _option(name)) for name in missing[1].split(", ")
        )
    key = re.match(r'Parser key "([^"]+)"', complaint)
    value = re.search(r"Given value: (.*)\Z", complaint, flags=re.DOTALL) or re.search(
        r"Got value: (.*)\Z", complaint, flags=re.DOTALL
    )
    if key is None or value is None:
        return " ".join(complaint.split())
    kinds = []
    for expected in re.findall(r"Expected an? ([^\n]*?)(?:\. |$)", complaint, flags=re.MULTILINE):
        choices = re.search(r"Literal\[(.*?)\]", expected)
        name = re.search(r"<class '(?:\w+\.)*(\w+)'>", expected)
        if choices is not None:
            kinds.append("one of " + choices[1].replace("'", ""))
        elif name is not None and name[1] != "NoneType":
            kinds.append(_KINDS.get(name[1], name[1]))
    return f"{_option(key[1])} cannot be {value[1].strip()!r}" + (
        f": give {' or '.join(kinds)}" if kinds else ""
    )


def _option(name: str) -> str:
    return "--" + name.rstrip("_").replace("_", "-")
