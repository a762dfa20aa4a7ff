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

import torch
import torch.nn.functional as F
from torch import Tensor


@cache
def prefers_onednn() -> bool:
    """Whether float32 products go to oneDNN: the CPU is AMD's, and this torch has the operator."""
    return _has_onednn() and _vendor_is_amd()


def linear(x: Tensor, weight: Tensor, bias: Tensor | None, *, gelu: bool = False) -> Tensor:
    """``x W^T + b``, (..., in) -> (..., out), and the exact GELU of it if ``gelu``."""
    quick = (
        x.device.type == "cpu"
        and not torch.is_grad_enabled()
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
    )
    half = gelu and x.dtype == torch.bfloat16 and _has_onednn()  # its products are oneDNN's anyway
    if quick and ((x.dtype == torch.float32 and prefers_onednn()) or half):
        after: tuple[str, list[float], str] = ("gelu", [], "none") if gelu else ("none", [], "")
        return torch.ops.mkldnn._linear_pointwise(x, weight, bias, *after)
    y = F.linear(x, weight, bias)
    return F.gelu(y) if gelu else y


@cache
def _has_onednn() -> bool:
    operator = getattr(torch.ops.mkldnn, "_linear_pointwise", None)
    return operator is not None and torch.backends.mkldnn.is_available()


def _vendor_is_amd() -> bool:
    try:
        described = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace")
    except OSError:
        described = platform.processor()
    return "AuthenticAMD" in described
