from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from scanseg.contracts import InputError
from scanseg.metrics.baselines import always_parent, most_frequent_class
from scanseg.metrics.confusion import without_ignore
from scanseg.metrics.iou import class_pixels, iou_scores, split_scores
from scanseg.metrics.sg_iou import Relations, eq6_credit, released_credit, sg_iou, specificity


def as_lists(table: dict) -> dict[int, list[int]]:
    return {int(q): f if isinstance(f, list) else [f] for q, f in table.items()}


@pytest.fixture(scope="module")
def cases() -> dict:
    path = Path(__file__).resolve().parents[3] / "shared/parity/sgiou_cases.json"
    if not path.is_file():
        pytest.skip("no reference numbers beside the checkout")
    return json.loads(path.read_text())


@pytest.mark.parametrize("number", range(3))
@pytest.mark.parametrize("kind", ["vanilla", "sgiou"])
def test_what_the_released_evaluator_prints(cases: dict, number: int, kind: str) -> None:
    """Every one of the 49 numbers of every case, to 12 digits."""
    case = cases["cases"][number]
    matrix = without_ignore(np.array(case["conf_matrix"]))
    relations = Relations.build(cases["num_classes"], as_lists(case["father_class"]))
    seen = case["evaluation_set"]["seen"]
    if kind == "vanilla":
        scores, split = iou_scores(matrix), split_scores(matrix, seen)
    else:
        scores = sg_iou(matrix, relations).released
        split = split_scores(matrix, seen, released_credit(matrix, relations))
    in_truth = class_pixels(matrix).truth > 0
    ours = {
        "mIoU": scores.miou_union,
        "fwIoU": scores.fwiou,
        "mACC": scores.macc,
        "pACC": scores.pacc,
        "mIoU-seen": split.seen_union,
        "mIoU-unseen": split.unseen_union,
        "hIoU-seen": split.harmonic_union,
        "pAcc-seen": split.seen_pacc,
        "pAcc-unseen": split.unseen_pacc,
    }
    for index, name in enumerate(cases["class_names"]):
        # the released evaluator prints NaN for a class that is predicted but never true
        ours[f"IoU-{name}"] = scores.iou[index] if in_truth[index] else np.nan
        ours[f"ACC-{name}"] = scores.accuracy[index]
    assert set(ours) == set(case[kind])
    for name, expected in case[kind].items():
        if expected is None:
            assert np.isnan(ours[name]), name
        else:
            assert 100 * ours[name] == pytest.approx(expected, rel=1e-12), name


# [prediction][truth] of chair 0, armchair 1 (a chair), swivel chair 2 (a chair, also called
# office chair 3) and wall 4; the last row is unknown.
CHAIRS = np.array(
    [
        [40, 12, 6, 0, 2],
        [3, 20, 0, 0, 0],
        [0, 0, 10, 0, 0],
        [1, 0, 8, 5, 1],
        [6, 0, 0, 0, 90],
        [0, 0, 2, 0, 0],
    ]
)
PARENTS = {1: [0], 2: [0]}
SYNONYMS = {2: [3], 3: [2]}


def test_equation_6_by_hand() -> None:
    """Class 2 (swivel chair), Q = {0, 3}.

    P_Q G_q = C[0][2] + C[3][2] = 6 + 8 = 14
    P_Q     = (40 + 12 + 6 + 0 + 2) + (1 + 0 + 8 + 5 + 1) = 60 + 15 = 75
    P_Q G_Q = C[0][0] + C[0][3] + C[3][0] + C[3][3] = 40 + 0 + 1 + 5 = 46
    beta    = (14 + 46) / 75 = 0.8
    union   = truth 26 + predicted 10 - hits 10 = 26
    SG-IoU  = (10 + 14 * 0.8) / 26 = 21.2 / 26
    """
    relations = Relations.build(5, PARENTS, SYNONYMS)
    scores = sg_iou(CHAIRS, relations).eq6
    assert scores.iou[2] == pytest.approx(21.2 / 26)
    # class 1, Q = {0}: (20 + 12 * (12 + 40) / 60) / (32 + 23 - 20)
    assert scores.iou[1] == pytest.approx((20 + 12 * 52 / 60) / 35)
    # class 3, Q = {2}: nothing true of class 3 was called 2, so plain IoU: 5 / (5 + 15 - 5)
    assert scores.iou[3] == pytest.approx(5 / 15)
    assert scores.iou[[0, 4]] == pytest.approx(iou_scores(CHAIRS).iou[[0, 4]])


def test_the_released_rule_by_hand() -> None:
    """Class 2: f = 0 adds 6 * (6 + 40) / 60 = 4.6, f = 3 adds 8 * (8 + 5) / 15 = 104 / 15."""
    relations = Relations.build(5, PARENTS, SYNONYMS)
    assert released_credit(CHAIRS, relations) == pytest.approx(
        [0, 12 * 52 / 60, 4.6 + 104 / 15, 0, 0]
    )
    assert sg_iou(CHAIRS, relations).released.iou[2] == pytest.approx((10 + 4.6 + 104 / 15) / 26)


def test_a_parent_that_is_never_said_gives_nothing() -> None:
    """P_Q = 0: beta is 1 by definition, but P_Q G_q is 0 too."""
    matrix = np.array([[0, 0], [0, 7]])
    relations = Relations.build(2, {1: [0]})
    assert eq6_credit(matrix, relations).tolist() == [0, 0]
    assert sg_iou(matrix, relations).eq6.iou[1] == 1.0


def random_matrix(seed: int, num_classes: int = 9) -> np.ndarray:
    rng = np.random.default_rng(seed)
    matrix = rng.integers(0, 50, (num_classes + 1, num_classes)) * (
        rng.random((num_classes + 1, 1)) < 0.8
    )
    matrix[:, 3] = 0  # a class without truth
    return matrix


@pytest.mark.parametrize("seed", range(5))
def test_an_empty_hierarchy_gives_plain_iou(seed: int) -> None:
    matrix = random_matrix(seed)
    plain, guided = iou_scores(matrix), sg_iou(matrix, Relations.build(9))
    for scores in (guided.released, guided.eq6):
        assert scores.miou_union == plain.miou_union
        assert scores.miou_present == plain.miou_present
        assert scores.iou.tobytes() == plain.iou.tobytes()


@pytest.mark.parametrize("seed", range(5))
def test_the_order_of_classes_does_not_matter(seed: int) -> None:
    rng = np.random.default_rng(seed)
    matrix = random_matrix(seed)
    parents, synonyms = {0: [1, 2], 4: [2], 5: [4, 6]}, {7: [8], 8: [7]}
    order = rng.permutation(9)  # new position of each class
    shuffled = np.zeros_like(matrix)
    shuffled[np.ix_([*order, 9], order)] = matrix

    def moved(lists: dict) -> dict:
        return {int(order[q]): [int(order[f]) for f in fs] for q, fs in lists.items()}

    before = sg_iou(matrix, Relations.build(9, parents, synonyms))
    after = sg_iou(shuffled, Relations.build(9, moved(parents), moved(synonyms)))
    for rule in ("released", "eq6"):
        old, new = getattr(before, rule), getattr(after, rule)
        np.testing.assert_allclose(new.iou[order], old.iou, rtol=1e-14)
        assert new.miou_union == pytest.approx(old.miou_union, rel=1e-14)
        assert new.miou_present == pytest.approx(old.miou_present, rel=1e-14)


@pytest.mark.parametrize("seed", range(20))
def test_scores_lie_between_iou_and_one(seed: int) -> None:
    rng = np.random.default_rng(seed)
    matrix = random_matrix(seed)
    parents = {q: [int(f) for f in rng.choice(9, 3, replace=False) if f != q] for q in range(9)}
    guided, plain = sg_iou(matrix, Relations.build(9, parents)), iou_scores(matrix).iou
    known = ~np.isnan(plain)
    for scores in (guided.released, guided.eq6):
        assert (scores.iou[known] >= plain[known]).all()
        assert (scores.iou[known] <= 1 + 1e-12).all()


def test_specificity_by_hand() -> None:
    view = specificity(CHAIRS, Relations.build(5, PARENTS, SYNONYMS))
    assert view.pixels["exact"].tolist() == [40, 20, 10, 5, 90]
    assert view.pixels["parent"].tolist() == [0, 12, 6, 0, 0]
    assert view.pixels["synonym"].tolist() == [0, 0, 8, 0, 0]
    assert view.pixels["child"].tolist() == [3, 0, 0, 0, 0]  # chairs called armchair
    assert view.pixels["unknown"].tolist() == [0, 0, 2, 0, 0]
    assert view.pixels["other"].tolist() == [7, 0, 0, 0, 3]
    assert sum(view.shares.values()) == pytest.approx(1)
    # released: parents earn 10.4 / 35 on class 1 and 4.6 / 26 on class 2; five classes
    assert view.gain_from_parents["released_union"] == pytest.approx((10.4 / 35 + 4.6 / 26) / 5)
    assert view.gain_from_synonyms["released_union"] == pytest.approx(104 / 15 / 26 / 5)


@pytest.mark.parametrize("seed", range(3))
def test_gains_add_up(seed: int) -> None:
    matrix = random_matrix(seed)
    relations = Relations.build(9, {0: [1], 5: [6, 7]}, {0: [2], 2: [0]})
    view, guided, plain = (
        specificity(matrix, relations),
        sg_iou(matrix, relations),
        iou_scores(matrix),
    )
    for rule in ("released", "eq6"):
        for convention in ("union", "present"):
            key = f"{rule}_{convention}"
            gain = getattr(getattr(guided, rule), f"miou_{convention}") - getattr(
                plain, f"miou_{convention}"
            )
            assert view.gain_from_parents[key] + view.gain_from_synonyms[key] == pytest.approx(gain)


def test_wrong_relations_are_refused() -> None:
    with pytest.raises(InputError, match=r"related class 5 is not one of 0\.\.4"):
        Relations.build(5, {0: [5]})
    with pytest.raises(InputError, match="class 1 is listed as its own"):
        Relations.build(5, None, {1: [1]})
    with pytest.raises(InputError, match="relations are of 4 classes"):
        sg_iou(CHAIRS, Relations.build(4))


def test_degenerate_baselines() -> None:
    truth = np.array([10, 30, 20])
    frequent = most_frequent_class(truth)
    assert frequent.tolist() == [[0, 0, 0], [10, 30, 20], [0, 0, 0], [0, 0, 0]]
    assert iou_scores(frequent).miou_present == pytest.approx(0.5 / 3)
    parents = {0: [1]}
    lazy = always_parent(truth, parents)
    assert lazy.tolist() == [[0, 0, 0], [10, 30, 0], [0, 0, 20], [0, 0, 0]]
    # plain IoU of class 0 is 0, by equation 6: 10 * (10 + 30) / 40 of a union of 10
    assert iou_scores(lazy).iou.tolist() == [0, 0.75, 1]
    assert sg_iou(lazy, Relations.build(3, parents)).eq6.iou.tolist() == [1, 0.75, 1]
    with pytest.raises(InputError, match="pixel counts"):
        most_frequent_class(np.array([0.5]))
    with pytest.raises(InputError, match="not one of"):
        always_parent(truth, {0: [9]})
