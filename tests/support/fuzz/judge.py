"""One input, one verdict: read, refused with one line, or a fault."""

from __future__ import annotations

import unicodedata
import warnings
from collections.abc import Callable
from pathlib import Path

from scanseg.contracts import InputError

MOST_CHARACTERS = 2000  # of a line for a person


def judge(read: Callable[[bytes, Path], object], data: bytes, folder: Path) -> tuple[str, str]:
    """What a parser makes of ``data``.

    Returns:
        ``("read", "")``, ``("refused", line)`` or ``("fault", what)``. A fault is any exception but
        ``InputError``, or an ``InputError`` that is not one printable line of sensible length.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            read(data, folder)
    except InputError as error:
        line = str(error)
        wrong = [c for c in line if unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp")]
        if not line.strip() or wrong:
            return "fault", f"the message is empty or not printable: {line[:300]!r}"
        if len(line) > MOST_CHARACTERS:
            return "fault", f"the message has {len(line)} characters: {line[:300]!r}"
        return "refused", line
    except Exception as error:  # the very thing that is looked for
        return "fault", f"{type(error).__name__}: {str(error)[:300]!r} at {_place(error)}"
    return "read", ""


def _place(error: Exception) -> str:
    trace, place = error.__traceback__, ""
    while trace is not None:
        file = trace.tb_frame.f_code.co_filename
        if "scanseg" in file:
            place = f"{Path(file).name}:{trace.tb_lineno}"
        trace = trace.tb_next
    return place
