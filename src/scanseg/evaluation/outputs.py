"""Files of a report, written all or none."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from scanseg.contracts import InputError
from scanseg.storage import umask


def write_all(folder: str | Path, files: Mapping[str, str]) -> list[Path]:
    """Write text files into a folder: everything is on disk before the first gets its name.

    Args:
        folder: is made if it does not exist.
        files: name -> content.

    Returns:
        Their paths.

    Raises:
        InputError: the folder cannot be written.
    """
    place = Path(folder)
    made: list[tuple[str, Path]] = []
    try:
        place.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            handle, temporary = tempfile.mkstemp(dir=place, prefix=f".{name}.")
            made.append((temporary, place / name))
            with open(handle, "w", encoding="utf-8") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.chmod(temporary, 0o666 & ~umask())
        for temporary, final in made:
            os.replace(temporary, final)
    except OSError as error:
        raise InputError(f"{place}: cannot be written ({error.strerror or error})") from error
    finally:  # those that were not renamed, whatever the reason
        for temporary, _ in made:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
    return [final for _, final in made]


def json_text(content: Any) -> str:
    """JSON as it goes into files and to standard output; NaN is refused, undefined is ``null``."""
    return json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False)
