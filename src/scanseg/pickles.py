"""Files of ``torch.save``, which are pickles, read under guard: tensors and plain values only.

There is no other way in and no fallback. Used by ``scanseg convert`` and for checkpoints of
training; weights that are shared are safetensors (``scanseg.weights``).
"""

from __future__ import annotations

import pickle
import pickletools
from pathlib import Path
from typing import Any

import torch
from torch.serialization import get_unsafe_globals_in_checkpoint

_LONGEST_NAME = 1000  # characters of the name of a class or function
_OLD_FORMAT_PICKLES = 4  # in front of the tensors: magic number, version, system, content


def read_pickle(path: Path, *, mapped: bool = False) -> Any:
    """What a file of ``torch.save`` holds, tensors on the CPU.

    Args:
        path: the file, in the format of today (zip) or in the one before PyTorch 1.6.
        mapped: leave the tensors on disk until they are used; only for the format of today.

    Raises:
        pickle.UnpicklingError: it asks for something that could run code.
        Exception: whatever else the reader raises for a damaged file; there are many kinds.
    """
    _refuse_long_names(path)
    return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)


def _refuse_long_names(path: Path) -> None:
    """Refuse names that keep torch busy: it searches its own message in quadratic time."""
    with path.open("rb") as file:
        if file.read(4) == b"PK\x03\x04":
            names = get_unsafe_globals_in_checkpoint(str(path))
        else:
            file.seek(0)
            names = [
                str(argument)
                for _ in range(_OLD_FORMAT_PICKLES)
                if file.peek(1)  # there is one more
                for code, argument, _ in pickletools.genops(file)
                if code.name in ("GLOBAL", "INST")
            ]
    for name in names:
        if len(name) > _LONGEST_NAME:
            raise pickle.UnpicklingError(f"GLOBAL {name[:100]}... is no name of a class")
