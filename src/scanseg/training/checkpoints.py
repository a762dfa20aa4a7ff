"""Checkpoints of a training run that survive being killed at any moment.

A checkpoint is two files, ``step_00001000.ckpt`` with the state and, written after it is complete
and synced, ``step_00001000.json`` with its size and SHA-256. Both appear by renaming. So whatever
is cut short, by a signal, a crash or a power cut, is either not there or does not match, and the
newest checkpoint that does match is the one to go on from.

The state is a nest of dicts, lists, tuples, numbers, text and tensors. It is read with torch's
``weights_only`` loader, never as a free pickle.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import random
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
import torch

from scanseg.contracts import InputError
from scanseg.pickles import read_pickle
from scanseg.storage import atomic_write, file_hash, write_json

CHECKPOINTS, SETTINGS = "checkpoints", "experiment.yaml"
"""In the folder of a run: the folder of its checkpoints, and the settings it was begun with."""

_NAME = re.compile(r"step_(\d{8,})\.json")


@dataclass(frozen=True)
class CheckpointStore:
    """The checkpoints of one run.

    Args:
        folder: where they are; made when the first one is written.
        keep: how many good ones stay when a new one is written, at least 1.
    """

    folder: Path
    keep: int = 2

    def write(self, step: int, state: Mapping[str, Any]) -> Path:
        """Write the state after ``step`` steps, then remove what is no longer needed.

        Call it from one process only.

        Returns:
            The state's file.
        """
        path = self._state(step)
        with contextlib.suppress(FileNotFoundError):
            self._record(step).unlink()  # whoever writes a step again must not match its old record
        with atomic_write(path) as file:
            hashed = _Hashed(file)
            torch.save(dict(state), cast(BinaryIO, hashed))
        record = {"step": step, "bytes": path.stat().st_size, "sha256": hashed.digest.hexdigest()}
        write_json(self._record(step), record)
        self._prune()
        return path

    def steps(self) -> list[int]:
        """Steps of all complete checkpoints, newest first; checksums are not looked at."""
        if not self.folder.is_dir():
            return []
        found = (_NAME.fullmatch(path.name) for path in self.folder.iterdir())
        return sorted((int(match[1]) for match in found if match), reverse=True)

    def good(self) -> Iterator[tuple[int, Path]]:
        """Step and file of the checkpoints whose size and checksum are right, newest first."""
        for step in self.steps():
            if self._matches(step):
                yield step, self._state(step)

    def read(self, path: Path | None = None) -> dict[str, Any] | None:
        """The state of a checkpoint, on the CPU.

        Args:
            path: which one; ``None``: the newest good one.

        Returns:
            The state, or ``None`` if there is no good checkpoint.

        Raises:
            InputError: the file holds something other than plain values and tensors.
        """
        if path is None:
            path = next((path for _, path in self.good()), None)
        if path is None:
            return None
        try:
            state = read_pickle(path)
        except Exception as error:
            reason = " ".join(str(error).split())[:200]
            raise InputError(f"{path} is no checkpoint of scanseg ({reason})") from error
        return cast(dict[str, Any], state)

    def _state(self, step: int) -> Path:
        return self.folder / f"step_{step:08d}.ckpt"

    def _record(self, step: int) -> Path:
        return self.folder / f"step_{step:08d}.json"

    def _matches(self, step: int) -> bool:
        path = self._state(step)
        try:
            record = json.loads(self._record(step).read_bytes())
            if path.stat().st_size != record["bytes"]:
                return False
            return file_hash(path) == record["sha256"]
        except (OSError, ValueError, KeyError, TypeError):
            return False

    def _prune(self) -> None:
        """Remove old checkpoints, the record first, and what killed writers left behind."""
        kept = self.steps()[: self.keep]
        for step in self.steps()[self.keep :]:
            self._record(step).unlink(missing_ok=True)
        names = {path.name for step in kept for path in (self._state(step), self._record(step))}
        for path in self.folder.iterdir():
            ours = path.name.lstrip(".").startswith("step_") and path.suffix in (".ckpt", ".tmp")
            if ours and path.name not in names:
                path.unlink(missing_ok=True)


class _Hashed:
    """A binary file that hashes what is written to it."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.digest = hashlib.sha256()

    def write(self, data: Any) -> int:
        self.digest.update(data)
        return self._file.write(data)

    def flush(self) -> None:
        self._file.flush()


# --------------------------------------------------------------------------------------
# Random number generators
# --------------------------------------------------------------------------------------


def rng_state() -> dict[str, Any]:
    """States of this process's generators: Python's, NumPy's, torch's on the CPU and its GPUs."""
    version, words, gauss = random.getstate()
    numpy: dict[str, Any] = dict(np.random.get_state(legacy=False))
    numpy["state"] = {
        "key": torch.from_numpy(numpy["state"]["key"].astype(np.int64)),
        "pos": int(numpy["state"]["pos"]),
    }
    return {
        "python": [version, list(words), gauss],
        "numpy": numpy,
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def restore_rng(state: Mapping[str, Any]) -> None:
    """Put back what :func:`rng_state` found; GPUs only if there are as many."""
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words), gauss))
    numpy = dict(state["numpy"])
    key = numpy["state"]["key"].numpy().astype(np.uint32)
    np.random.set_state({**numpy, "state": {"key": key, "pos": numpy["state"]["pos"]}})
    torch.set_rng_state(state["torch"].cpu())
    if torch.cuda.is_available() and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all([s.cpu() for s in state["cuda"]])
