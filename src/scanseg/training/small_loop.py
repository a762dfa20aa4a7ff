"""The training loop of the embedded preset's parts: AdamW, warm-up and cosine, averaged weights.

Small networks on a CPU: one thread computes a step while another makes the next one's views and
frozen features. What a step draws depends on seed and step alone, and the state is kept every few
steps, so a run that was stopped goes on as if it had not been.
"""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

from scanseg.contracts import InputError
from scanseg.storage import atomic_write, first_difference

log = logging.getLogger(__name__)
_B = TypeVar("_B")


@dataclass(frozen=True)
class Group:
    """Parameters that share a learning rate; matrices among them decay."""

    parameters: Sequence[nn.Parameter]
    rate: float


@dataclass(frozen=True)
class Loop(Generic[_B]):
    """A run.

    Attributes:
        steps: optimiser steps.
        warmup: steps of linear warm-up before the cosine.
        weight_decay: of AdamW, on parameters with more than one dimension.
        average: decay of the moving average of the weights.
        seed: of dropout and sampled points.
        batch: step -> what it learns from; runs in the second thread, without gradients.
        loss: step, batch -> scalar.
        tell: what else a line of the log says.
        save_every: steps between two states on disk.
        tell_every: steps between two lines of the log.
        settings: plain values that decide the result, kept with the state; see :func:`deciding`.
    """

    steps: int
    warmup: int
    weight_decay: float
    average: float
    seed: int
    batch: Callable[[int], _B]
    loss: Callable[[int, _B], Tensor]
    tell: Callable[[], str] = str
    save_every: int = 20
    tell_every: int = 20
    settings: Mapping[str, Any] = field(default_factory=dict)

    def run(self, model: nn.Module, groups: Sequence[Group], checkpoint: Path | None) -> nn.Module:
        """Train ``model`` in place.

        Args:
            model: all that is trained, in training mode.
            groups: its parameters.
            checkpoint: keeps the state; if it exists, training goes on from it. ``None``: nowhere.

        Returns:
            a copy of ``model`` with averaged weights, in evaluation mode.

        Raises:
            InputError: the state in ``checkpoint`` is of a run with other settings.
        """
        optimiser = torch.optim.AdamW(
            [
                {"params": found, "lr": group.rate, "weight_decay": decay}
                for group in groups
                for decay, found in self._by_decay(group)
            ]
        )
        schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, self._factor)
        averaged = torch.optim.swa_utils.AveragedModel(
            model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(self.average)
        )
        parts = {"model": model, "averaged": averaged, "optimiser": optimiser, "order": schedule}
        done = 0
        if checkpoint is not None and checkpoint.is_file():
            state = torch.load(checkpoint, weights_only=True)
            self._refuse_other_settings(checkpoint, state.get("settings"))
            for name, part in parts.items():
                part.load_state_dict(state[name])  # type: ignore[attr-defined]
            done = int(state["step"])
        began, recent = time.monotonic(), 0.0
        for step, batch in _ahead(self.batch, range(done, self.steps)):
            torch.manual_seed(self.seed * 1_000_003 + step)
            loss = self.loss(step, batch)
            optimiser.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimiser.step()
            schedule.step()
            averaged.update_parameters(model)
            recent = 0.95 * recent + 0.05 * loss.item() if step > done else loss.item()
            if step % self.tell_every == 0 or step == self.steps - 1:
                log.info(
                    "step %d/%d: loss %.3f, %s%.0f s",
                    step + 1, self.steps, recent, self.tell(), time.monotonic() - began,
                )  # fmt: skip
            if checkpoint is not None and (step + 1) % self.save_every == 0:
                state = {name: part.state_dict() for name, part in parts.items()}  # type: ignore[attr-defined]
                state |= {"step": step + 1, "settings": dict(self.settings)}
                with atomic_write(checkpoint) as file:
                    torch.save(state, file)
        result: nn.Module = averaged.module
        return result.eval().requires_grad_(False)

    def _refuse_other_settings(self, checkpoint: Path, stored: Mapping[str, Any] | None) -> None:
        """A state without settings, written before they were kept, is taken as it is."""
        if stored is None:
            return
        name = first_difference(stored, self.settings)
        if name is not None:
            raise InputError(
                f"{checkpoint} is of a training with {name} = {stored.get(name)!r}, not "
                f"{self.settings.get(name)!r}: take another name for this one, or delete the file"
            )

    def _factor(self, step: int) -> float:
        """Of the learning rate."""
        rising = min(1.0, (step + 1) / max(1, self.warmup))
        return rising * 0.5 * (1 + math.cos(math.pi * min(1.0, step / self.steps)))

    def _by_decay(self, group: Group) -> Iterator[tuple[float, list[nn.Parameter]]]:
        matrices = [p for p in group.parameters if p.ndim > 1]
        vectors = [p for p in group.parameters if p.ndim <= 1]
        yield from ((d, p) for d, p in ((self.weight_decay, matrices), (0.0, vectors)) if p)


def deciding(config: Any, aside: Collection[str]) -> dict[str, Any]:
    """The fields of a configuration that decide what its training makes, as plain values.

    Args:
        config: a dataclass.
        aside: its fields that do not, such as folders, names and threads.
    """
    kept = {name: value for name, value in asdict(config).items() if name not in aside}
    plain: dict[str, Any] = json.loads(json.dumps(kept))  # tuples become lists
    return plain


def _ahead(make: Callable[[int], _B], steps: Iterable[int]) -> Iterator[tuple[int, _B]]:
    """(step, ``make(step)``) in order; the next one is made by a second thread meanwhile."""
    with ThreadPoolExecutor(1) as worker:
        coming: tuple[int, Future[_B]] | None = None
        for step in steps:
            following = (step, worker.submit(make, step))
            if coming is not None:
                yield coming[0], coming[1].result()
            coming = following
        if coming is not None:
            yield coming[0], coming[1].result()
