"""Open-mIoU: IoU with soft hits, weighted by how similar the said word is to the true one.

After Zhou et al., "Rethinking Evaluation Metrics of Open-Vocabulary Segmentation" (2023), which
replaces the yes or no of a hit by a similarity S in [0, 1]. With C the confusion matrix
``[prediction][truth]`` and S ``[prediction][truth]``, per class c::

    TP_c = sum_p S[p][c] C[p][c]      FN_c = sum_p (1 - S[p][c]) C[p][c]
    FP_c = sum_t (1 - S[c][t]) C[c][t]
    IoU_c = TP_c / (TP_c + FN_c + FP_c)

An identity matrix gives plain IoU. Unknown pixels are similar to nothing. The similarities are
data: a file built beforehand from text embeddings or WordNet (``scanseg.evaluation.similarity``).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from scanseg.contracts import InputError
from scanseg.metrics.confusion import as_confusion
from scanseg.metrics.iou import mean_over, ratio


@dataclass(frozen=True, eq=False)
class OpenMiou:
    """Open-mIoU of one confusion matrix, fractions in [0, 1].

    Attributes:
        iou: (K,) soft IoU, NaN for classes in neither truth nor prediction.
        present: mean over classes in the truth.
        union: mean over classes in truth or prediction.
    """

    iou: np.ndarray
    present: float
    union: float


def open_miou(confusion: np.ndarray, similarity: np.ndarray) -> OpenMiou:
    """Soft IoU of a (K, K) or (K + 1, K) confusion matrix.

    Args:
        confusion: ``[prediction][truth]``.
        similarity: (K, K) ``[prediction][truth]`` in [0, 1], 1 on the diagonal; need not be
            symmetric.

    Raises:
        InputError: ``similarity`` has another shape, leaves [0, 1] or is not 1 on the diagonal.
    """
    matrix = as_confusion(confusion)
    S = check_similarity(similarity, matrix.shape[1])
    decided = matrix[:-1]
    truth, predicted = matrix.sum(0), decided.sum(1)
    soft_hits = (S * decided).sum(0)
    soft_false = ((1 - S) * decided).sum(1)
    iou = ratio(soft_hits, truth + soft_false)
    in_truth, in_either = truth > 0, (truth > 0) | (predicted > 0)
    # A class that was only ever said where something identical to it is true has no error and no
    # truth: it counts with 0, as in plain IoU.
    iou[in_either & np.isnan(iou)] = 0.0
    return OpenMiou(iou, mean_over(iou, in_truth), mean_over(iou, in_either))


def check_similarity(similarity: np.ndarray, num_classes: int) -> np.ndarray:
    """The similarity matrix as float64.

    Raises:
        InputError: not (K, K), outside [0, 1], or not 1 on the diagonal.
    """
    S = np.asarray(similarity, np.float64)
    if S.shape != (num_classes, num_classes):
        raise InputError(
            f"similarities of {num_classes} classes are a ({num_classes}, {num_classes}) matrix, "
            f"not {S.shape}"
        )
    if not ((S >= 0) & (S <= 1)).all():
        raise InputError("similarities must lie in [0, 1]")
    if not (S.diagonal() == 1).all():
        raise InputError("a class must have similarity 1 with itself")
    return S
