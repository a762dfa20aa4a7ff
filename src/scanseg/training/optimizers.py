"""AdamW's parameter groups and the learning rate over the steps, as released (sec. 4.2)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from scanseg.training.config import OptimizerConfig, ScheduleConfig

NORMS = (
    nn.LayerNorm,
    nn.GroupNorm,
    nn.modules.batchnorm._BatchNorm,
    nn.modules.instancenorm._InstanceNorm,
    nn.LocalResponseNorm,
)
WITHOUT_DECAY = ("relative_position_bias_table", "position_embeddings", "segmenter.void")
"""Tables of positions and the void embedding: parameters with these names do not decay."""
BACKBONE = "pixel_level_module.encoder."
"""In the names of the backbone's parameters."""


@dataclass(frozen=True)
class Group:
    """Parameters with one rate and one decay.

    Attributes:
        name: for people.
        rate: base learning rate.
        decay: weight decay.
        names: of the parameters.
        parameters: themselves, in the order of ``names``.
    """

    name: str
    rate: float
    decay: float
    names: tuple[str, ...]
    parameters: tuple[nn.Parameter, ...]

    @property
    def size(self) -> int:
        """Numbers in it."""
        return sum(p.numel() for p in self.parameters)


def parameter_groups(module: nn.Module, config: OptimizerConfig) -> list[Group]:
    """What trains, in groups; parameters that need no gradient are left out.

    Norms (their biases too), embeddings and tables of relative positions do not decay.
    """
    members: dict[tuple[bool, bool], list[tuple[str, nn.Parameter]]] = {}
    seen: set[int] = set()
    for prefix, part in module.named_modules():
        for own, parameter in part.named_parameters(recurse=False):
            name = f"{prefix}.{own}" if prefix else own
            if not parameter.requires_grad or id(parameter) in seen:
                continue
            seen.add(id(parameter))
            spared = isinstance(part, (*NORMS, nn.Embedding))
            spared = spared or any(word in name for word in WITHOUT_DECAY)
            spared = spared or (parameter.ndim < 2 and not config.decay_vectors)
            members.setdefault((BACKBONE in name, not spared), []).append((name, parameter))
    groups = []
    for (backbone, decays), entries in sorted(members.items()):
        part_name = "backbone" if backbone else "heads"
        groups.append(
            Group(
                f"{part_name}, {'decay' if decays else 'no decay'}",
                config.rate * (config.backbone_factor if backbone else 1.0),
                config.weight_decay if decays else 0.0,
                tuple(name for name, _ in entries),
                tuple(parameter for _, parameter in entries),
            )
        )
    return groups


def adamw(groups: Sequence[Group], config: OptimizerConfig) -> torch.optim.AdamW:
    """The optimiser of these groups."""
    entries: list[dict[str, object]] = [
        {"params": list(g.parameters), "lr": g.rate, "weight_decay": g.decay} for g in groups
    ]
    return torch.optim.AdamW(entries, lr=config.rate, betas=config.betas, eps=config.eps)


def rate_factor(step: int, config: ScheduleConfig, steps: int) -> float:
    """Factor of the base rate for the step that follows ``step`` steps.

    Linear from ``warmup_start`` to 1 over the warm-up, times ``kind``'s course over all ``steps``,
    so the two meet without a jump: as released, poly counts from step 0.
    """
    t = min(step, steps) / steps
    if config.kind == "poly":
        course = config.end + (1 - config.end) * (1 - t) ** config.power
    elif config.kind == "cosine":
        course = config.end + (1 - config.end) * 0.5 * (1 + math.cos(math.pi * t))
    else:
        course = 1.0
    if step >= config.warmup_steps:
        return course
    share = step / config.warmup_steps
    return course * (config.warmup_start * (1 - share) + share)


def schedule(
    optimizer: torch.optim.Optimizer, config: ScheduleConfig, steps: int
) -> torch.optim.lr_scheduler.LambdaLR:
    """:func:`rate_factor` as torch's scheduler, one count per optimiser step."""
    factor = partial(rate_factor, config=config, steps=steps)
    return torch.optim.lr_scheduler.LambdaLR(optimizer, factor)


def gradient_norm(parameters: Sequence[Tensor]) -> Tensor:
    """Euclidean norm of all gradients together; 0 without any."""
    gradients = [p.grad for p in parameters if p.grad is not None]
    return torch.nn.utils.get_total_norm(gradients) if gradients else torch.zeros(())
