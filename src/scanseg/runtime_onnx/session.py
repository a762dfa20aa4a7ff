"""One place that opens ONNX Runtime sessions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from scanseg.contracts import InputError, MissingExtra


class Graph:
    """A graph that is called with its inputs by name; see :func:`open_session`."""

    def __init__(self, path: Path, *, threads: int | None = None) -> None:
        self._session = open_session(path, threads=threads)
        self._inputs = {i.name for i in self._session.get_inputs()}

    def __call__(self, **inputs: np.ndarray) -> list[np.ndarray]:
        """All outputs; inputs that the graph turned out not to need are left out."""
        return self._session.run(None, {k: v for k, v in inputs.items() if k in self._inputs})


def open_session(path: Path, *, threads: int | None = None) -> Any:
    """An ``onnxruntime.InferenceSession`` on the CPU.

    Args:
        path: the file; weights beside it are found by themselves.
        threads: of one operator; ``None``: as many as there are cores.

    Raises:
        MissingExtra: onnxruntime is not installed.
        InputError: the file cannot be read.
    """
    try:
        import onnxruntime
    except ImportError:
        raise MissingExtra("export", "ONNX Runtime") from None
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    if threads is not None:
        options.intra_op_num_threads = threads
    try:
        return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's own exceptions share no base class
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{path} cannot be opened ({reason}): export again") from error
