"""Products by one library or the other are the same products."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from scanseg import cpu_products
from scanseg.bench import PRODUCTS
from scanseg.cpu_products import linear


def operands(dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, ...]:
    draw = torch.Generator().manual_seed(6)
    x = torch.randn(2, 5, 37, generator=draw)
    weight, bias = torch.randn(19, 37, generator=draw) / 6, torch.randn(19, generator=draw)
    return x.to(dtype), weight.to(dtype), bias.to(dtype)


@pytest.mark.parametrize("amd", [False, True])
@pytest.mark.parametrize("gelu", [False, True])
def test_both_libraries_agree(amd: bool, gelu: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu_products, "prefers_onednn", lambda: amd)
    x, weight, bias = operands()
    expected = torch.einsum("bni,oi->bno", x.double(), weight.double()) + bias.double()
    if gelu:  # y Phi(y)
        expected = expected * 0.5 * (1 + torch.erf(expected / 2**0.5))
    with torch.no_grad():
        torch.testing.assert_close(
            linear(x, weight, bias, gelu=gelu).double(), expected, atol=1e-5, rtol=1e-5
        )


@pytest.mark.skipif(not cpu_products._has_bfloat16(), reason="oneDNN has no bfloat16 here")
def test_bfloat16_rounds_once_after_the_activation() -> None:
    x, weight, bias = operands(torch.bfloat16)
    exact = F.gelu(F.linear(x.double(), weight.double(), bias.double()))
    with torch.no_grad():
        found = linear(x, weight, bias, gelu=True)
    assert found.dtype == torch.bfloat16
    half_a_step = 2.0**-8 * exact.abs().clamp_min(2.0**-4)
    assert ((found.double() - exact).abs() <= half_a_step * 1.01).all()


def test_other_types_and_gradients_take_torchs_own_way() -> None:
    x, weight, bias = operands(torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(linear(x, weight, bias, gelu=True), F.gelu(x @ weight.T + bias))
    x, weight, bias = operands()
    weight.requires_grad_()
    linear(x, weight, bias, gelu=True).sum().backward()
    assert weight.grad is not None
    assert linear(x[0], weight, None).shape == (5, 19)
    with torch.no_grad():
        torch.testing.assert_close(
            linear(x, weight.detach(), bias.repeat_interleave(2)[::2]), F.linear(x, weight, bias)
        )


def test_an_old_cpu_takes_torchs_own_bfloat16() -> None:
    told = subprocess.run(
        [
            sys.executable,
            "-c",
            "import torch; from scanseg.cpu_products import linear\n"
            "x = torch.ones(1, 4, 8, dtype=torch.bfloat16)\n"
            "with torch.no_grad(): print(linear(x, x[0], None, gelu=True)[0, 0, 0].item())",
        ],
        env={**os.environ, "ONEDNN_MAX_CPU_ISA": "SSE41"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert told.returncode == 0, told.stderr
    assert float(told.stdout) == 8.0


@pytest.mark.parametrize("amd", [False, True])
def test_operations_are_counted_whoever_multiplies(
    amd: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cpu_products, "prefers_onednn", lambda: amd)
    x, weight, bias = operands()
    counter = FlopCounterMode(display=False, custom_mapping=PRODUCTS)
    with torch.inference_mode(), counter:
        linear(x, weight, bias, gelu=True)
    assert counter.get_total_flops() == 2 * (2 * 5) * 37 * 19
