"""Matrix products on a CPU, without gradients, by the library that is quicker there.

torch multiplies float32 matrices with MKL, whose quick kernels are for Intel CPUs. oneDNN, which
torch ships as well, has them for AMD's too, and can apply the activation to a product before it
leaves the cache. What is taken hangs on the CPU and the type of the numbers and never on a
measurement, so that the same machine gives the same bytes (decision 25).
"""

from __future__ import annotations

import platform
from functools import cache
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

OPERATOR: Any = getattr(torch.ops.mkldnn, "_linear_pointwise", None)
"""oneDNN's linear map with an activation, which torch's own compiler emits; ``None``: not there."""


@cache
def prefers_onednn() -> bool:
    """Whether float32 products go to oneDNN: the CPU is AMD's, and this torch has the operator."""
    return _has_onednn() and _vendor_is_amd()


def plain_inference(x: Tensor) -> bool:
    """Whether ``x`` is on a CPU and nobody watches: no gradients, autocast or compilation."""
    return (
        x.device.type == "cpu"
        and not torch.is_grad_enabled()
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
    )


def linear(x: Tensor, weight: Tensor, bias: Tensor | None, *, gelu: bool = False) -> Tensor:
    """``x W^T + b``, (..., in) -> (..., out), and the exact GELU of it if ``gelu``."""
    quick = plain_inference(x) and x.dtype == weight.dtype
    quick = quick and (bias is None or bias.is_contiguous())
    half = gelu and x.dtype == torch.bfloat16 and _has_bfloat16()  # oneDNN's product anyway
    if quick and ((x.dtype == torch.float32 and prefers_onednn()) or half):
        after: tuple[str, list[float], str] = ("gelu", [], "none") if gelu else ("none", [], "")
        y: Tensor = OPERATOR(x, weight, bias, *after)
        return y
    y = F.linear(x, weight, bias)
    return F.gelu(y) if gelu else y


@cache
def _has_onednn() -> bool:
    return OPERATOR is not None and torch.backends.mkldnn.is_available()


@cache
def _has_bfloat16() -> bool:
    """Whether oneDNN can multiply bfloat16 here; it refuses on CPUs that are too old."""
    if not _has_onednn():
        return False
    one = torch.ones(1, 1, dtype=torch.bfloat16)
    try:
        OPERATOR(one, one, None, "gelu", [], "none")
    except RuntimeError:
        return False
    return True


def _vendor_is_amd() -> bool:
    try:
        described = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace")
    except OSError:
        described = platform.processor()
    return "AuthenticAMD" in described
