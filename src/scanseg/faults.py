"""What an exception of the model means: for the photo, or for the whole process."""

from __future__ import annotations

import torch

_NO_MEMORY = (  # of torch's allocators that raise a plain RuntimeError
    "not enough memory: you tried to allocate",
    "can't allocate memory",
    "backend out of memory",
)


class DeviceLost(RuntimeError):  # noqa: N818
    """The device answers no further call of this process; a new process can use it again."""


def device_is_lost(error: BaseException) -> bool:
    """Whether every later call will fail too, as after a device assert or an illegal access."""
    if isinstance(error, (DeviceLost, getattr(torch, "AcceleratorError", DeviceLost))):
        return True
    return isinstance(error, RuntimeError) and "CUDA error" in str(error)


def lacks_memory(error: BaseException) -> bool:
    """Whether there was too little memory, of the device or the machine."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(t in str(error).lower() for t in _NO_MEMORY)


def in_short(error: BaseException) -> str:
    """Type and first line of an exception."""
    first = (str(error).splitlines() or [""])[0]
    return f"{type(error).__name__}: {first}"
