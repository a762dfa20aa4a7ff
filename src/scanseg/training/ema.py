"""A moving average of the trained weights."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn


class MovingAverage:
    """``average = decay * average + (1 - decay) * weights`` after every step.

    Args:
        parameters: by name; the average starts at their values.
        decay: per step, in (0, 1).
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter], decay: float) -> None:
        self.parameters = dict(parameters)
        self.decay = decay
        self.values = {name: p.detach().clone() for name, p in self.parameters.items()}

    @torch.no_grad()
    def update(self) -> None:
        """Take in the weights of a step; the averages move to where these are."""
        for name, parameter in self.parameters.items():
            value = self.values[name] = self.values[name].to(parameter.device)
            value.lerp_(parameter.to(value.dtype), 1 - self.decay)

    @contextlib.contextmanager
    def in_place(self) -> Iterator[None]:
        """The averages in place of the weights, which come back at the end of the block."""
        trained = {name: p.detach().clone() for name, p in self.parameters.items()}
        self._put(self.values)
        try:
            yield
        finally:
            self._put(trained)

    def load(self, values: Mapping[str, Tensor]) -> None:
        """Go on from averages that were stored."""
        for name, value in values.items():
            self.values[name].copy_(value)

    @torch.no_grad()
    def _put(self, values: Mapping[str, Tensor]) -> None:
        for name, parameter in self.parameters.items():
            parameter.copy_(values[name])
