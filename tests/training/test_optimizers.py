"""Parameter groups and schedule against the released settings, worked out by hand."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from scanseg.training.config import ModelConfig, OptimizerConfig, ScheduleConfig
from scanseg.training.models import starting_model
from scanseg.training.optimizers import (
    adamw,
    gradient_norm,
    parameter_groups,
    rate_factor,
    schedule,
)


@pytest.fixture(scope="module")
def proposals() -> nn.Module:
    segmenter, _ = starting_model(ModelConfig(preset="tiny"))
    return segmenter.requires_grad_(False).proposals.requires_grad_(True)  # type: ignore[attr-defined]


def test_what_does_not_decay(proposals: nn.Module) -> None:
    groups = parameter_groups(proposals, OptimizerConfig())
    spared = {name for g in groups if g.decay == 0 for name in g.names}
    decaying = {name for g in groups if g.decay == 0.01 for name in g.names}
    assert spared | decaying == {name for name, _ in proposals.named_parameters()}
    assert not spared & decaying
    norms = {
        f"{prefix}.{own}"
        for prefix, part in proposals.named_modules()
        if isinstance(part, (nn.LayerNorm, nn.GroupNorm))
        for own, _ in part.named_parameters(recurse=False)
    }
    tables = {n for n, _ in proposals.named_parameters() if "relative_position_bias_table" in n}
    queries = {n for n, _ in proposals.named_parameters() if "queries" in n}
    assert norms and tables and len(queries) == 2  # noqa: PT018
    assert norms | tables | queries <= spared
    assert (
        "model.pixel_level_module.encoder.swin.encoder.layers.0.blocks.0.mlp.fc1.bias" in decaying
    )
    assert "embedding_head.fc1.weight" in decaying


def test_backbone_has_a_rate_of_its_own(proposals: nn.Module) -> None:
    groups = parameter_groups(proposals, OptimizerConfig(rate=1e-3, backbone_factor=0.1))
    for group in groups:
        backbone = all(n.startswith("model.pixel_level_module.encoder.") for n in group.names)
        assert group.rate == pytest.approx(1e-4 if backbone else 1e-3)
    assert len(groups) == 4


def test_vectors_may_be_spared() -> None:
    groups = parameter_groups(nn.Linear(2, 3), OptimizerConfig(decay_vectors=False))
    assert {n: g.decay for g in groups for n in g.names} == {"weight": 0.01, "bias": 0.0}


def test_frozen_and_shared_parameters_are_counted_once() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    model[1].weight = model[0].weight
    model[0].bias.requires_grad_(False)
    groups = parameter_groups(model, OptimizerConfig())
    assert [n for g in groups for n in g.names] == ["0.weight", "1.bias"]


def test_schedule_by_hand() -> None:
    released = ScheduleConfig()
    assert rate_factor(0, released, 120_000) == pytest.approx(1e-6)
    # half of the warm-up: the mean of 1e-6 and 1, times (1 - 750 / 120000)^0.9
    assert rate_factor(750, released, 120_000) == pytest.approx(
        (1e-6 + 1) / 2 * (1 - 750 / 120_000) ** 0.9
    )
    assert rate_factor(1500, released, 120_000) == pytest.approx((1 - 0.0125) ** 0.9)
    assert rate_factor(60_000, released, 120_000) == pytest.approx(0.5**0.9)
    assert rate_factor(120_000, released, 120_000) == 0
    cosine = ScheduleConfig(kind="cosine", warmup_steps=0, end=0.1)
    assert rate_factor(50, cosine, 100) == pytest.approx(0.1 + 0.9 * 0.5)
    assert rate_factor(77, ScheduleConfig(kind="constant", warmup_steps=0), 100) == 1


def test_scheduler_sets_the_rate_of_each_step() -> None:
    config = OptimizerConfig(rate=2.0)
    optimizer = adamw(parameter_groups(nn.Linear(1, 1), config), config)
    rates = schedule(optimizer, ScheduleConfig(warmup_steps=2, warmup_start=0.5, power=1.0), 4)
    seen = []
    for _ in range(4):
        seen.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        rates.step()
    assert seen == pytest.approx([2 * 0.5, 2 * 0.75 * 0.75, 2 * 0.5, 2 * 0.25])


def test_gradient_norm() -> None:
    a, b = nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(1))
    assert gradient_norm([a, b]) == 0
    a.grad, b.grad = torch.tensor([3.0, 0.0]), torch.tensor([4.0])
    assert gradient_norm([a, b]) == 5
