"""The parser's complaints in one plain line."""

from __future__ import annotations

import re

_KINDS = {"float": "a number", "int": "a whole number", "bool": "true or false", "str": "text"}


def plain_reason(complaint: str) -> str:
    """``--shift-ratio cannot be 'x': give a number`` instead of a page about types.

    A complaint of another form comes back on one line, otherwise unchanged.
    """
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
    option = "--" + key[1].rstrip("_").replace("_", "-")
    return f"{option} cannot be {value[1].strip()!r}" + (
        f": give {' or '.join(kinds)}" if kinds else ""
    )
