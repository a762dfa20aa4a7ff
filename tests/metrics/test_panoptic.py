from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from scanseg.contracts import InputError
from scanseg.metrics.panoptic import PanopticQuality


def test_by_hand() -> None:
    """One match of IoU 4/5, one miss, one false segment; class 0 a thing, class 1 stuff."""
    truth = np.array([[1, 1, 1, 1, 2, 2, 2, 2, 0, 0]])
    prediction = np.array([[5, 5, 5, 5, 5, 6, 6, 6, 7, 7]])
    quality = PanopticQuality(2)
    quality.update(prediction, {5: 0, 6: 0, 7: 1}, truth, {1: 0, 2: 1})
    # 5 on 1: 4 of 5 -> match. 6 (class 0) on 2 (class 1): classes differ -> false and missed.
    # 7 lies on void only: not counted.
    scores = quality.scores(things=[0])
    assert scores.sq[0] == pytest.approx(0.8)
    assert scores.rq[0] == pytest.approx(1 / 1.5)
    assert scores.pq[0] == pytest.approx(0.8 / 1.5)
    assert scores.pq[1] == 0
    assert scores.mean["all"]["pq"] == pytest.approx(0.4 / 1.5)
    assert scores.mean["things"] == pytest.approx(
        {"pq": 0.8 / 1.5, "sq": 0.8, "rq": 1 / 1.5, "classes": 1}
    )
    assert scores.mean["stuff"]["pq"] == 0


def test_void_pixels_leave_the_union_and_crowds_excuse() -> None:
    truth = np.array([[1, 1, 1, 0, 0, 0, 9, 9, 9, 9]])
    prediction = np.array([[4, 4, 4, 4, 4, 4, 8, 8, 8, 8]])
    quality = PanopticQuality(1)
    quality.update(prediction, {4: 0, 8: 0}, truth, {1: 0, 9: 0}, crowds=[9])
    scores = quality.scores()
    assert scores.pq[0] == 1.0  # IoU 3 / (3 + 6 - 3 - 3), and segment 8 lies on a crowd


def test_exactly_half_is_no_match() -> None:
    quality = PanopticQuality(1)
    quality.update(np.array([[3, 3, 3]]), {3: 0}, np.array([[1, 1, 2]]), {1: 0, 2: 0})
    assert quality.scores().pq[0] == pytest.approx((2 / 3) / (1 + 0.5))
    half = PanopticQuality(1)
    half.update(np.array([[3, 3]]), {3: 0}, np.array([[1, 2]]), {1: 0, 2: 0})
    assert half.scores().pq[0] == 0


def definition(pairs: list[tuple], num_classes: int) -> np.ndarray:
    """PQ per class, straight from the definition: loops over segments, masks compared as sets."""
    iou_sum, tp, fp, fn = (np.zeros(num_classes) for _ in range(4))
    for prediction, predicted_class, truth, true_class, crowds in pairs:
        void, used = truth == 0, set()
        for t, label in true_class.items():
            if t in crowds:
                continue
            hit = False
            for p, said in predicted_class.items():
                a, b = prediction == p, truth == t
                iou = (a & b).sum() / ((a | b) & ~(a & void)).sum()
                if said == label and iou > 0.5:
                    iou_sum[label] += iou
                    tp[label] += 1
                    used.add(p)
                    hit = True
            fn[label] += not hit
        for p, said in predicted_class.items():
            mine = prediction == p
            excuse = void | np.isin(truth, [c for c in crowds if true_class[c] == said])
            if p not in used and (mine & excuse).sum() / mine.sum() <= 0.5:
                fp[said] += 1
    with np.errstate(invalid="ignore"):
        return iou_sum / (tp + fp / 2 + fn / 2)


@pytest.fixture(scope="module")
def sample() -> tuple[list[tuple], list[int], int]:
    """The two images of panopticapi's own sample: id map, classes and crowds of each."""
    folder = Path(__file__).resolve().parents[3] / "shared/data/fixtures/coco_panopticapi_sample"
    if not folder.is_dir():
        pytest.skip("no panoptic sample beside the checkout")
    categories = json.loads((folder / "panoptic_coco_categories.json").read_text())
    index = {c["id"]: i for i, c in enumerate(categories)}
    things = [index[c["id"]] for c in categories if c["isthing"]]
    images = []
    for annotation in json.loads((folder / "panoptic_examples.json").read_text())["annotations"]:
        rgb = np.asarray(Image.open(folder / "panoptic_examples" / annotation["file_name"])).astype(
            np.int64
        )
        ids = rgb[..., 0] + 256 * rgb[..., 1] + 65536 * rgb[..., 2]
        classes = {s["id"]: index[s["category_id"]] for s in annotation["segments_info"]}
        crowds = [s["id"] for s in annotation["segments_info"] if s["iscrowd"]]
        images.append((ids, classes, crowds))
    return images, things, len(categories)


def test_the_sample_against_itself_is_perfect(sample: tuple) -> None:
    images, things, num_classes = sample
    quality = PanopticQuality(num_classes)
    for ids, classes, crowds in images:
        quality.update(ids, classes, ids, classes, crowds)
    mean = quality.scores(things).mean
    assert mean["all"]["pq"] == mean["things"]["pq"] == mean["stuff"]["pq"] == 1.0


@pytest.mark.parametrize("seed", range(3))
def test_the_disturbed_sample_equals_the_definition(sample: tuple, seed: int) -> None:
    images, things, num_classes = sample
    rng = np.random.default_rng(seed)
    whole, shards, pairs = PanopticQuality(num_classes), [], []
    for ids, classes, crowds in images:
        prediction = np.roll(ids, rng.integers(-25, 26, 2), (0, 1))
        said = dict(classes)
        segments = list(said)
        for segment in rng.choice(segments, 2, replace=False):  # wrong classes
            said[segment] = int(rng.integers(num_classes))
        gone = int(rng.choice(segments))  # a segment that was not found
        prediction[prediction == gone] = 0
        said = {s: c for s, c in said.items() if (prediction == s).any()}
        pairs.append((prediction, said, ids, classes, crowds))
        whole.update(*pairs[-1])
        shards.append(PanopticQuality(num_classes))
        shards[-1].update(*pairs[-1])
    scores = whole.scores(things)
    np.testing.assert_allclose(scores.pq, definition(pairs, num_classes), rtol=1e-12)
    assert 0 < scores.mean["all"]["pq"] < 1
    shards[1].merge(shards[0])
    assert shards[1].scores(things).pq.tobytes() == scores.pq.tobytes()


@pytest.mark.parametrize(
    ("prediction", "said", "message"),
    [
        (np.array([[1, 2]]), {1: 0}, "segment 2 of the prediction map has no entry"),
        (np.array([[1, 1]]), {1: 0, 2: 0}, "segment 2 of the prediction's list has no pixels"),
        (np.array([[1, 1]]), {1: 3}, "class 3 of a prediction segment"),
        (np.array([[-1, 1]]), {1: 0, -1: 0}, "negative"),
        (np.array([[1]]), {1: 0}, "must agree"),
    ],
)
def test_errors(prediction: np.ndarray, said: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        PanopticQuality(2).update(prediction, said, np.array([[5, 5]]), {5: 0})
    with pytest.raises(InputError, match="2 and 3 classes"):
        PanopticQuality(2).merge(PanopticQuality(3))
