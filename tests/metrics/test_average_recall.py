from __future__ import annotations

import numpy as np
import pytest

from scanseg.contracts import InputError
from scanseg.metrics.average_recall import ProposalRecall, mask_iou


def strip(start: int, stop: int) -> np.ndarray:
    """A (1, 20) mask with ones in [start, stop)."""
    mask = np.zeros((1, 20), bool)
    mask[0, start:stop] = True
    return mask


def test_by_hand() -> None:
    truth = np.stack([strip(0, 10), strip(10, 20)])
    # IoU with truth 0: 0.8 and 1.0; with truth 1: 6/10 of the third
    proposals = np.stack([strip(0, 8), strip(0, 10), strip(14, 20)])
    recall = ProposalRecall(limits=(1, 2, 3))
    recall.update(proposals, truth)
    # thresholds .50 .55 .60 .65 .70 .75 .80 .85 .90 .95
    # Q = 1: the 0.8 mask finds truth 0 at seven thresholds: 7 / 2 / 10
    # Q = 2: the perfect mask finds it at the three others: 10 / 2 / 10
    # Q = 3: truth 1 is found at .50 .55 .60: 13 / 2 / 10
    assert recall.average_recall() == pytest.approx({1: 0.35, 2: 0.5, 3: 0.65})
    assert mask_iou(proposals, truth)[:, 0] == pytest.approx([0.8, 1.0, 0.0])


def test_scores_give_the_order() -> None:
    truth = strip(0, 10)[None]
    proposals = np.stack([strip(0, 5), strip(0, 10)])
    recall = ProposalRecall(limits=(1,), thresholds=(0.9,))
    recall.update(proposals, truth, np.array([0.1, 0.7]))
    assert recall.average_recall() == {1: 1.0}


def test_equals_pycocotools() -> None:
    """COCO's own evaluator, class-agnostic, on random masks."""
    coco_module = pytest.importorskip("pycocotools.coco")
    from pycocotools import mask as coco_mask
    from pycocotools.cocoeval import COCOeval

    rng = np.random.default_rng(5)
    height, width, limits = 24, 30, (2, 5, 20)
    recall = ProposalRecall(limits=limits)
    images, truths, results = [], [], []

    def box() -> np.ndarray:
        mask = np.zeros((height, width), bool)
        y, x = rng.integers(0, height - 6), rng.integers(0, width - 6)
        mask[y : y + rng.integers(4, 12), x : x + rng.integers(4, 12)] = True
        return mask

    def encode(mask: np.ndarray) -> dict:
        return coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))

    for image in range(1, 9):
        truth = np.stack([box() for _ in range(4)])
        noisy = [np.roll(m, rng.integers(-2, 3), axis=1) for m in truth for _ in range(2)]
        proposals = np.stack([*noisy, *[box() for _ in range(12)]])
        scores = rng.permutation(len(proposals)) / 100
        recall.update(proposals, truth, scores)
        images.append({"id": image, "height": height, "width": width})
        for mask in truth:
            truths.append(
                {"id": len(truths) + 1, "image_id": image, "category_id": 1, "iscrowd": 0,
                 "area": int(mask.sum()), "bbox": [0, 0, 1, 1], "segmentation": encode(mask)}
            )  # fmt: skip
        for mask, score in zip(proposals, scores, strict=True):
            results.append(
                {
                    "image_id": image,
                    "category_id": 1,
                    "score": float(score),
                    "segmentation": encode(mask),
                }
            )
    truth_set = coco_module.COCO()
    truth_set.dataset = {
        "images": images,
        "annotations": truths,
        "categories": [{"id": 1, "name": "x"}],
        "info": {},
    }
    truth_set.createIndex()
    theirs = COCOeval(truth_set, truth_set.loadRes(results), "segm")
    theirs.params.useCats = 0
    theirs.params.maxDets = list(limits)
    theirs.evaluate()
    theirs.accumulate()
    expected = theirs.eval["recall"][:, 0, 0, :].mean(0)  # thresholds x limits, all areas
    assert list(recall.average_recall().values()) == pytest.approx(expected.tolist())


def test_shards_merge_exactly() -> None:
    truth = np.stack([strip(0, 10), strip(10, 20)])
    whole, first, second = ProposalRecall(), ProposalRecall(), ProposalRecall()
    for number, shard in enumerate((first, second)):
        proposals = np.stack([strip(number, 9), strip(12, 20)])
        whole.update(proposals, truth)
        shard.update(proposals, truth)
    first.merge(second)
    assert (first.found == whole.found).all()
    assert first.masks == whole.masks == 4


def test_errors() -> None:
    with pytest.raises(InputError, match="increasing"):
        ProposalRecall(limits=(10, 1))
    with pytest.raises(InputError, match="thresholds"):
        ProposalRecall(thresholds=(0.0,))
    with pytest.raises(InputError, match="of one size"):
        mask_iou(np.ones((1, 2, 2)), np.ones((1, 2, 3)))
    with pytest.raises(InputError, match="empty"):
        mask_iou(np.ones((1, 2, 2)), np.zeros((1, 2, 2)))
    with pytest.raises(InputError, match="same limits"):
        ProposalRecall().merge(ProposalRecall(limits=(5,)))
    assert np.isnan(ProposalRecall().recall()).all()
