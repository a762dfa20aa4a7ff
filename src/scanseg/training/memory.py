"""How much memory a device will need, without needing it.

Weights, gradients and AdamW's two moments are counted. What a forward pass keeps for the backward
pass is measured on tensors that have shapes but no values.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.weak import WeakIdKeyDictionary

from scanseg.training.config import Experiment

_GIB = 2**30


@dataclass(frozen=True)
class Memory:
    """Bytes.

    Attributes:
        weights: parameters and buffers, and the moving average.
        optimizer: gradients and moments of what trains.
        activations: kept between forward and backward pass; ``None`` if it could not be measured.
    """

    weights: int
    optimizer: int
    activations: int | None

    def lines(self) -> list[str]:
        """For people."""
        lines = [
            f"  weights {self.weights / _GIB:.2f} GiB",
            f"  gradients and moments {self.optimizer / _GIB:.2f} GiB",
        ]
        if self.activations is None:
            return [*lines, "  activations: could not be measured"]
        total = self.weights + self.optimizer + self.activations
        return [
            *lines,
            f"  activations {self.activations / _GIB:.2f} GiB",
            f"  together {total / _GIB:.2f} GiB, and what the libraries need for themselves",
        ]


def estimate(stage: nn.Module, experiment: Experiment) -> Memory:
    """Memory of training ``stage`` on one device."""
    tensors = [*stage.parameters(), *stage.buffers()]
    weights = sum(t.numel() * t.element_size() for t in tensors)
    trained = [p for p in stage.parameters() if p.requires_grad]
    once = sum(p.numel() * p.element_size() for p in trained)
    if experiment.ema.decay is not None:
        weights += once
    return Memory(weights, 3 * once, activations(stage, experiment))


def activations(stage: nn.Module, experiment: Experiment) -> int | None:
    """Bytes that autograd keeps of one forward pass; the criterion's own are left out."""
    crop, batch = experiment.augmentation.crop, experiment.trainer.micro_batch
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    kept = WeakIdKeyDictionary()

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage] = storage.nbytes()
        return tensor

    try:
        with mode:
            state: dict[str, Tensor] = {
                name: mode.from_tensor(tensor)
                for name, tensor in [*stage.named_parameters(), *stage.named_buffers()]
            }
            pixels = torch.zeros(batch, 3, crop, crop, dtype=torch.uint8)
            own = {id(t.untyped_storage()) for t in state.values()}
            with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
                output = torch.func.functional_call(stage, dict(state), (pixels,))
            total = sum(size for storage, size in kept.items() if id(storage) not in own)
            del output
            return total
    except Exception:
        return None
