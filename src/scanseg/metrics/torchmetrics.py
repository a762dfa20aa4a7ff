"""The metrics as ``torchmetrics.Metric``, for training loops and distributed evaluation.

Thin: the state is a table of int64 counts that torchmetrics sums over ranks, so any number of ranks
or shards gives the same bits as one process. The mathematics stays in the pure functions. This is
the only module of the room that imports torch; it needs the extra ``scanseg[eval]``.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from scanseg.contracts import UNKNOWN, InputError, MissingExtra
from scanseg.metrics.average_recall import COCO_THRESHOLDS, ProposalRecall
from scanseg.metrics.confusion import ConfusionMatrix
from scanseg.metrics.iou import iou_scores
from scanseg.metrics.sg_iou import Relations, sg_iou

try:
    from torchmetrics import Metric
except ImportError as error:
    raise MissingExtra("eval", "scanseg.metrics.torchmetrics") from error


class SegmentationIou(Metric):
    """mIoU in both conventions, fwIoU and accuracies; SG-IoU too if relations are given.

    Args:
        num_classes: K.
        relations: parents and synonyms of the classes, for SG-IoU.
        ignore: a value of the truth besides -1 that means void.
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False
    confusion: Tensor

    def __init__(
        self, num_classes: int, relations: Relations | None = None, ignore: int | None = None
    ) -> None:
        super().__init__()
        self.num_classes, self.relations, self.ignore = num_classes, relations, ignore
        empty = torch.zeros((num_classes + 1, num_classes), dtype=torch.int64)
        self.add_state("confusion", default=empty, dist_reduce_fx="sum")

    def update(self, prediction: Tensor, truth: Tensor) -> None:
        """Count a batch.

        Args:
            prediction: integer class ids of any shape, -1 unknown, on any device.
            truth: class ids of the same shape, -1 or ``ignore`` void.

        Raises:
            InputError: shapes differ or an id is out of range.
        """
        if prediction.device.type == "cpu":
            counted = ConfusionMatrix(self.num_classes)
            counted.update(prediction.numpy(), truth.cpu().numpy(), ignore=self.ignore)
            self.confusion += torch.from_numpy(counted.counts).to(self.confusion.device)
        else:
            counts = _count_on_device(
                prediction, truth.to(prediction.device), self.num_classes, self.ignore
            )
            self.confusion += counts.to(self.confusion.device)

    def compute(self) -> dict[str, Tensor]:
        """Fractions in [0, 1], float64 scalars on the CPU (NaN before any pixel was counted)."""
        counts = self.confusion.cpu().numpy()
        scores = iou_scores(counts)
        names = ("miou_present", "miou_union", "fwiou", "macc", "pacc")
        values = {name: getattr(scores, name) for name in names}
        if self.relations is not None:
            guided = sg_iou(counts, self.relations)
            for rule, found in (("released", guided.released), ("eq6", guided.eq6)):
                values[f"sg_iou_{rule}"] = found.miou_union
                values[f"sg_iou_{rule}_present"] = found.miou_present
        return {name: torch.tensor(v, dtype=torch.float64) for name, v in values.items()}


class ProposalAverageRecall(Metric):
    """Class-agnostic AR@Q of mask proposals.

    Args:
        limits: numbers Q of proposals to allow, increasing.
        thresholds: IoU thresholds; COCO's by default.
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False
    found: Tensor
    masks: Tensor

    def __init__(
        self,
        limits: Sequence[int] = (1, 10, 100),
        thresholds: Sequence[float] = COCO_THRESHOLDS,
    ) -> None:
        super().__init__()
        self.limits, self.thresholds = tuple(limits), tuple(thresholds)
        empty = ProposalRecall(self.limits, self.thresholds)
        self.add_state("found", default=torch.from_numpy(empty.found), dist_reduce_fx="sum")
        self.add_state("masks", default=torch.tensor(0), dist_reduce_fx="sum")

    def update(self, proposals: Tensor, truth: Tensor, scores: Tensor | None = None) -> None:
        """Count one image: (Q, H, W) and (G, H, W) bool masks, (Q,) scores or masks in order."""
        counted = ProposalRecall(self.limits, self.thresholds)
        order = None if scores is None else scores.detach().cpu().float().numpy()
        counted.update(proposals.cpu().numpy(), truth.cpu().numpy(), order)
        self.found += torch.from_numpy(counted.found).to(self.found.device)
        self.masks += counted.masks

    def compute(self) -> dict[str, Tensor]:
        """``"AR@Q"`` for every limit, fractions in [0, 1], float64."""
        total = ProposalRecall(self.limits, self.thresholds)
        total.found, total.masks = self.found.cpu().numpy(), int(self.masks)
        values = total.average_recall()
        return {f"AR@{q}": torch.tensor(v, dtype=torch.float64) for q, v in values.items()}


def _count_on_device(
    prediction: Tensor, truth: Tensor, num_classes: int, ignore: int | None
) -> Tensor:
    """What ``ConfusionMatrix.update`` does, with torch, for tensors that live on an accelerator."""
    if prediction.shape != truth.shape:
        raise InputError(
            f"prediction has shape {tuple(prediction.shape)}, truth {tuple(truth.shape)}: "
            "they must agree"
        )
    predicted, true = prediction.reshape(-1).long(), truth.reshape(-1).long()
    void = true == UNKNOWN
    if ignore is not None:
        void |= true == ignore
    for what, wrong, values in (
        ("prediction", (predicted < UNKNOWN) | (predicted >= num_classes), predicted),
        ("truth", ((true < 0) | (true >= num_classes)) & ~void, true),
    ):
        if bool(wrong.any()):
            raise InputError(
                f"the {what} holds id {int(values[wrong][0])}, but {num_classes} classes have ids "
                f"0..{num_classes - 1}"
            )
    rows = torch.where(predicted == UNKNOWN, num_classes, predicted)
    cells = (rows * num_classes + true)[~void]
    size = (num_classes + 1) * num_classes
    return torch.bincount(cells, minlength=size).reshape(num_classes + 1, num_classes)
