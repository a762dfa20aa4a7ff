"""The loop of the small trainings."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import nn

from scanseg.contracts import InputError
from scanseg.training.small_loop import Group, Loop, deciding


def a_run(
    steps: int,
    checkpoint: Path | None,
    stop_at: int | None = None,
    average: float = 0.5,
    **settings: object,
) -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.5), nn.Linear(4, 1))

    def batch(step: int) -> torch.Tensor:
        return torch.full((2, 3), float(step % 5))

    def loss(step: int, x: torch.Tensor) -> torch.Tensor:
        if step == stop_at:
            raise KeyboardInterrupt
        return (model(x) - 1).square().mean()

    loop = Loop(
        steps=steps,
        warmup=2,
        weight_decay=0.1,
        average=average,
        seed=1,
        batch=batch,
        loss=loss,
        save_every=4,
        settings=settings,
    )
    return loop.run(model.train(), [Group(list(model.parameters()), 0.05)], checkpoint)


def test_a_run_that_was_stopped_goes_on_as_if_it_had_not_been(tmp_path: Path) -> None:
    straight = a_run(12, None).state_dict()
    path = tmp_path / "state"
    with pytest.raises(KeyboardInterrupt):
        a_run(12, path, stop_at=10)  # steps 8 and 9 are lost and made again
    resumed = a_run(12, path).state_dict()
    assert all(torch.equal(straight[name], resumed[name]) for name in straight)


def test_a_state_of_other_settings_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "state"
    a_run(4, path, seed=1, rate=0.5)
    a_run(4, path, seed=1, rate=0.5)
    for other, words in (({"seed": 2}, "seed = 1, not 2"), ({}, "seed = 1, not None")):
        with pytest.raises(InputError, match=f"state is of a training with {words}: take another"):
            a_run(4, path, rate=0.5, **other)


def test_a_state_from_before_settings_were_kept_is_taken(tmp_path: Path) -> None:
    path = tmp_path / "state"
    first = a_run(4, path, seed=1).state_dict()
    state = torch.load(path, weights_only=True)
    del state["settings"]
    torch.save(state, path)
    again = a_run(4, path, seed=2).state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)


@dataclass(frozen=True)
class Sheet:
    folder: Path
    words: tuple[str, ...] = ("a", "b")
    rate: float = 0.1


def test_what_decides_is_plain() -> None:
    """As it comes back from a file."""
    assert deciding(Sheet(Path("x")), ("folder",)) == {"words": ["a", "b"], "rate": 0.1}


def test_what_comes_back_is_the_moving_average() -> None:
    kept = a_run(1, None, average=0.0).state_dict()
    torch.manual_seed(0)
    first = nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.5), nn.Linear(4, 1)).state_dict()
    assert not torch.equal(kept["0.weight"], first["0.weight"])
    result = a_run(3, None)
    assert not result.training
    assert not any(p.requires_grad for p in result.parameters())


def test_rate_rises_then_falls_to_nothing() -> None:
    loop = Loop(
        steps=10, warmup=4, weight_decay=0, average=0.9, seed=0,
        batch=lambda step: step, loss=lambda step, _: torch.zeros(()),
    )  # fmt: skip
    assert loop._factor(0) == pytest.approx(0.25)  # (0 + 1) / 4, cos(0) = 1
    assert loop._factor(5) == pytest.approx(0.5)  # half way down
    assert loop._factor(10) == pytest.approx(0.0)
