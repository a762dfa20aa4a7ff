"""One place that turns a module into an ONNX file."""

from __future__ import annotations

import contextlib
import logging
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from scanseg.contracts import InputError, MissingExtra

ONE_FILE_BYTES = 1_500_000_000
"""Graphs with more weights than this get a second file; protobuf ends at 2 GB."""


def write_graph(
    module: nn.Module,
    arguments: Mapping[str, Tensor],
    path: Path,
    *,
    dynamic: Mapping[str, Any],
    outputs: Sequence[str],
) -> list[Path]:
    """Trace a module and write it.

    Args:
        module: in evaluation mode.
        arguments: an example of each input, by name, in the order of ``forward``.
        path: ``NAME.onnx``; weights go to ``NAME.onnx.data`` beside it where they are large.
        dynamic: input -> {axis: torch.export.Dim}, or ``None`` for a fixed shape.
        outputs: names of the outputs.

    Returns:
        The files that were written.

    Raises:
        MissingExtra: onnx or onnxscript is not installed.
        InputError: the module has no exportable form.
    """
    try:
        from scanseg.export.operators import OPSET, translations
    except ImportError:
        raise MissingExtra("export", "writing ONNX") from None
    size = sum(p.numel() * p.element_size() for p in module.parameters())
    with quiet(), torch.no_grad():
        try:
            program = torch.export.export(
                module, tuple(arguments.values()), dynamic_shapes=dict(dynamic), strict=False
            )
        except Exception as error:  # whatever a third party's module does wrong in tracing
            reason = " ".join(str(error).split())[:200]
            raise InputError(f"this model cannot be traced: {reason}") from error
        exported = torch.onnx.export(
            program,
            input_names=list(arguments),
            output_names=list(outputs),
            opset_version=OPSET,
            custom_translation_table=translations(),
            verbose=False,
        )
        assert exported is not None
        large = size > ONE_FILE_BYTES
        exported.save(path, external_data=large)
    written = [path, *([path.with_name(path.name + ".data")] if large else [])]
    for file in written:
        with file.open("rb") as stream:
            os.fsync(stream.fileno())
    return written


def write_convolutions(
    module: nn.Module, pixels: Tensor, path: Path, *, outputs: Sequence[str]
) -> None:
    """Write a convolutional module that takes pictures of any size.

    By torch's older exporter: the newer one reasons about every layer's size in symbols, which
    takes it minutes for a tower of convolutions (``docs/decisions/0102-two-exporters.md``).
    """
    with quiet(), torch.no_grad(), _PlainShapes():
        torch.onnx.export(
            module,
            (pixels,),
            path,
            dynamo=False,
            opset_version=18,
            input_names=["pixels"],
            output_names=list(outputs),
            dynamic_axes={"pixels": {2: "height", 3: "width"}},
        )


class _PlainShapes(TorchFunctionMode):
    """Changes of shape in words that the older exporter gets right for any size.

    It mistakes negative axes of ``movedim``, and ``unflatten`` makes constants of its sizes.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """One call of torch."""
        if func in (torch.movedim, Tensor.movedim) and isinstance(args[1], int):
            x, source, target = args[0], args[1] % args[0].ndim, args[2] % args[0].ndim
            axes = [axis for axis in range(x.ndim) if axis != source]
            axes.insert(target, source)
            return x.permute(axes)
        if func is Tensor.unflatten:
            x, axis, sizes = args[0], args[1] % args[0].ndim, args[2]
            return x.reshape(*x.shape[:axis], *sizes, *x.shape[axis + 1 :])
        return func(*args, **(kwargs or {}))


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without the remarks of tracer, optimiser and quantiser; what is wrong is raised."""
    names = ("onnxscript", "onnx_ir", "torch.onnx", "torch.export", "torch.__trace")
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)  # some remarks go to the root logger
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
