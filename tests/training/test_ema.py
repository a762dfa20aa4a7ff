"""The moving average: by hand, and where it is kept."""

from __future__ import annotations

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from scanseg.training.ema import MovingAverage


def test_by_hand() -> None:
    weight = nn.Parameter(torch.tensor([4.0, 0.0]))
    average = MovingAverage({"w": weight}, 0.75)
    weight.data = torch.tensor([0.0, 8.0])
    average.update()
    assert average.values["w"].tolist() == [3.0, 2.0]  # 0.75 old + 0.25 new
    with average.in_place():
        assert weight.tolist() == [3.0, 2.0]
    assert weight.tolist() == [0.0, 8.0]


def test_it_moves_to_where_the_weights_are() -> None:
    """Tensors with a device and no values: no GPU is needed."""
    with FakeTensorMode():
        average = MovingAverage({"w": nn.Parameter(torch.ones(3))}, 0.5)
        moved = torch.ones(3, dtype=torch.float64, device="cuda")
        average.parameters["w"] = nn.Parameter(moved)
        average.update()
        assert average.values["w"].device.type == "cuda"
        assert average.values["w"].dtype == torch.float32
