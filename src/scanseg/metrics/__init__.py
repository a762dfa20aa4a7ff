"""Metrics: pure functions of confusion matrices ``[prediction][truth]``, in NumPy.

===================  =============================================================================
``confusion``        label maps -> counts of pixels, at the speed of memory
``iou``              mIoU in both conventions, fwIoU, accuracies, seen / unseen / harmonic
``sg_iou``           Semantic-Guided IoU, as released and as equation 6, and the specificity view
``open_miou``        IoU weighted by a similarity matrix
``average_recall``   class-agnostic recall of mask proposals, AR@Q
``panoptic``         PQ, SQ, RQ of segment maps
``boundary``         boundary F-score
``bootstrap``        confidence intervals over images, paired comparison of two systems
``baselines``        what degenerate answers would score
``torchmetrics``     the same as ``torchmetrics.Metric``, merging exactly over ranks (imports torch)
===================  =============================================================================

Everything is a fraction in [0, 1] here; percent is a matter of reports. Nothing but the last module
imports torch.
"""

from scanseg.metrics.confusion import ConfusionMatrix, PairCounts, count_pairs
from scanseg.metrics.iou import IouScores, iou_scores
from scanseg.metrics.sg_iou import Relations, SgIou, sg_iou

__all__ = [
    "ConfusionMatrix",
    "IouScores",
    "PairCounts",
    "Relations",
    "SgIou",
    "count_pairs",
    "iou_scores",
    "sg_iou",
]
