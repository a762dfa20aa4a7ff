"""Checkpoints of others, opened under guard: nothing in a file can make us run its code.

PyTorch checkpoints are pickles. They are read with ``weights_only=True``, which knows tensors and
plain containers and nothing else, and memory-mapped. There is no other way in, and no fallback.
"""

from __future__ import annotations

import logging
import pickle
import re
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from scanseg.contracts import InputError
from scanseg.pickles import read_pickle
from scanseg.weights import TensorFile

log = logging.getLogger(__name__)

_CONTAINERS = ("model", "state_dict")
_FLOATS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)


_REMAP_AFTER = 256 * 2**20  # bytes


@dataclass(frozen=True)
class Checkpoint:
    """The tensors of one file.

    Attributes:
        path: the file.
        tensors: name -> tensor, read when touched.
        beside: names of what else is in the file (optimizer, counters), not read.
    """

    path: Path
    tensors: Mapping[str, Tensor]
    beside: tuple[str, ...] = ()


def read_checkpoint(path: str | Path) -> Checkpoint:
    """Open a checkpoint: safetensors, or a PyTorch file of tensors.

    Args:
        path: a file whose tensors stand at the top, under ``"model"`` or under ``"state_dict"``.

    Raises:
        InputError: there is no such file, it is none of these, it is damaged, or it holds objects
            other than tensors and plain values (which could run code).
    """
    path = Path(path)
    if path.is_dir():
        raise InputError(f"{path} is a folder; name the checkpoint file in it")
    if not path.is_file():
        raise InputError(f"no checkpoint {path}")
    with path.open("rb") as file:
        start = file.read(9)
    if start[8:9] == b"{":
        return Checkpoint(path, TensorFile(path))
    if not (start.startswith(b"PK\x03\x04") or start[:1] == b"\x80"):
        raise InputError(f"{path} is neither a PyTorch nor a safetensors checkpoint")
    if zipfile.is_zipfile(path):
        try:
            with zipfile.ZipFile(path) as archive:
                scripted = any(name.endswith("/constants.pkl") for name in archive.namelist())
        except (zipfile.BadZipFile, NotImplementedError, ValueError, OSError) as error:
            raise InputError(f"{path} is damaged ({error}); download or copy it again") from error
        if scripted:
            raise InputError(
                f"{path} is a TorchScript archive; give a checkpoint of tensors (for OpenAI's "
                "CLIP, the safetensors file of the hub)"
            )
        mapped = MappedTensors(path)
        return Checkpoint(path, mapped, mapped.beside)
    log.warning("%s is in PyTorch's old format and is read into memory as a whole", path)
    tensors, beside = _unwrap(path, _load(path, mapped=False))
    return Checkpoint(path, tensors, beside)


class MappedTensors(Mapping[str, Tensor]):
    """Tensors of a memory-mapped PyTorch file.

    Pages that were read stay in the memory of the process as long as their mapping lives, so the
    file is mapped anew after every 256 MiB: do not hold on to the tensors.

    Args:
        path: a PyTorch file in the zip format.

    Raises:
        InputError: as ``read_checkpoint``.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._tensors, self.beside = _unwrap(path, _load(path, mapped=True))
        self._touched = 0

    def __getitem__(self, name: str) -> Tensor:
        if self._touched > _REMAP_AFTER:
            self._tensors, _ = _unwrap(self._path, _load(self._path, mapped=True))
            self._touched = 0
        tensor = self._tensors[name]
        self._touched += tensor.numel() * tensor.element_size()
        return tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor, without reading it."""
        return tuple(self._tensors[name].shape)


def _load(path: Path, *, mapped: bool) -> Any:
    try:
        return read_pickle(path, mapped=mapped)
    except pickle.UnpicklingError as error:
        wanted = re.search(r"(?:GLOBAL|global|class) `?([\w.]+)`?", str(error))
        inside = wanted.group(1) if wanted else "objects"
        raise InputError(
            f"{path} is refused: it asks for {inside}, and loading that could run code; only "
            "tensors are read. If you trust the file, save its weights as safetensors first"
        ) from error
    except Exception as error:  # the reader raises many kinds, MemoryError among them
        raise InputError(
            f"{path} is damaged or no PyTorch checkpoint ({type(error).__name__}); "
            "download or copy it again"
        ) from error


def _unwrap(path: Path, loaded: Any) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """The weights in a loaded file, and names of what else is in it."""
    if not isinstance(loaded, Mapping):
        raise InputError(f"{path} holds a {type(loaded).__name__}, not a dictionary of weights")
    container = next((c for c in _CONTAINERS if isinstance(loaded.get(c), Mapping)), None)
    tensors = loaded[container] if container else loaded
    beside = tuple(str(k) for k in loaded if k != container) if container else ()
    if not tensors:
        raise InputError(f"{path} holds no weights")
    for name, value in tensors.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise InputError(
                f"{path} is no checkpoint of weights: {str(name)[:80]!r} is a "
                f"{type(value).__name__}, not a tensor"
            )
        if value.is_sparse or value.is_quantized or value.is_complex():
            raise InputError(f"{path}: {name} is no plain tensor of numbers")
    return dict(tensors), beside
