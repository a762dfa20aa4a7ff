"""One place that opens ONNX Runtime sessions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from scanseg.contracts import InputError, MissingExtra


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
