"""Semantic-Guided IoU (SCAN sec. 3.3, eq. 6): credit for saying a parent or a synonym of the truth.

Two definitions are in use and they differ; a report gives both (``docs/decisions/0031``). With C
the confusion matrix ``[prediction][truth]``, P_f the pixels predicted f, and Q the listed parents
and synonyms of class q:

released code
    every f in Q adds ``C[f][q] * beta_f`` with ``beta_f = (C[f][q] + C[f][f]) / P_f``.
equation 6
    Q acts as one class: it adds ``P_Q G_q * beta`` with ``beta = (P_Q G_q + P_Q G_Q) / P_Q``, where
    P_Q G_q are the pixels predicted in Q whose truth is q, P_Q G_Q those predicted in Q whose truth
    is in Q too, P_Q all pixels predicted in Q; beta is 1 if P_Q is 0.

Only listed relations count; nothing is closed transitively. The unions stay as they are, so a score
never exceeds 1. Predictions are counted among pixels whose truth is not void.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from scanseg.contracts import InputError
from scanseg.metrics.confusion import as_confusion
from scanseg.metrics.iou import IouScores, class_pixels, mean_over, ratio, scores_with_credit

IndexLists = Mapping[int, Sequence[int]]
"""Class index -> indices of its parents, or of its synonyms."""


@dataclass(frozen=True, eq=False)
class Relations:
    """Parents and synonyms of K classes, checked, as index arrays.

    Attributes:
        num_classes: K.
        child: (n,) class q of each relation, increasing.
        parent: (n,) its parent or synonym f.
        synonym: (n,) bool, f is a synonym of q (a class listed as both counts as a synonym).
        pair_child: (m,) class q of every ordered pair of classes in Q(q), both also equal.
        pair_predicted: (m,) first class of that pair.
        pair_true: (m,) second class of that pair.
    """

    num_classes: int
    child: np.ndarray
    parent: np.ndarray
    synonym: np.ndarray
    pair_child: np.ndarray
    pair_predicted: np.ndarray
    pair_true: np.ndarray

    @classmethod
    def build(
        cls, num_classes: int, parents: IndexLists | None = None, synonyms: IndexLists | None = None
    ) -> Relations:
        """Check index lists and prepare them.

        Args:
            num_classes: K.
            parents: class -> its parents. A cycle of parents is allowed here because only listed
                relations count; ``scanseg hierarchy lint`` refuses it.
            synonyms: class -> its synonyms, as listed: a synonym that shall count in both
                directions stands in both lists.

        Raises:
            InputError: an index out of range, or a class related to itself.
        """
        kinds = {False: parents or {}, True: synonyms or {}}
        related: dict[int, dict[int, bool]] = {}
        for listed_as_synonym, lists in kinds.items():
            for child, others in lists.items():
                for other in others:
                    _check_pair(child, other, num_classes)
                    related.setdefault(int(child), {})[int(other)] = listed_as_synonym
        rows = [(q, f, int(related[q][f])) for q in sorted(related) for f in sorted(related[q])]
        pairs = [
            (q, f, g)
            for q in sorted(related)
            for f in sorted(related[q])
            for g in sorted(related[q])
        ]
        q, f, is_synonym = _columns(rows, 3)
        return cls(num_classes, q, f, is_synonym.astype(bool), *_columns(pairs, 3))


@dataclass(frozen=True, eq=False)
class SgIou:
    """SG-IoU of one confusion matrix.

    Attributes:
        released: scores by the released code's rule.
        eq6: scores by the paper's equation 6.
        released_credit: (K,) pixels of credit that each class received by the released rule.
        eq6_credit: the same by equation 6.
    """

    released: IouScores
    eq6: IouScores
    released_credit: np.ndarray
    eq6_credit: np.ndarray


@dataclass(frozen=True, eq=False)
class Specificity:
    """How specific the answers were: where the truth's pixels went, and what the credit was for.

    Attributes:
        pixels: kind -> (K,) int64 pixels of each true class, by what was said: ``exact``,
            ``synonym``, ``parent`` (less specific), ``child`` (the truth is a listed parent of what
            was said), ``other`` and ``unknown``. The kinds add up to the truth.
        shares: kind -> share of all pixels of the truth, in [0, 1].
        gain_from_parents: part of SG-IoU minus mIoU that comes from saying a parent, keyed
            ``released_union``, ``released_present``, ``eq6_union`` and ``eq6_present``.
        gain_from_synonyms: the other part, from saying a synonym; the two add up to the gain.
    """

    pixels: Mapping[str, np.ndarray]
    shares: Mapping[str, float]
    gain_from_parents: Mapping[str, float]
    gain_from_synonyms: Mapping[str, float]


def sg_iou(confusion: np.ndarray, relations: Relations) -> SgIou:
    """SG-IoU by both definitions, each in both mIoU conventions.

    Args:
        confusion: (K, K) or (K + 1, K), ``[prediction][truth]``.
        relations: of the same K classes; empty relations give plain IoU.

    Raises:
        InputError: the relations are those of another number of classes.
    """
    matrix, pixels = _same_classes(confusion, relations), class_pixels(confusion)
    released = _sum_by(relations.child, _released_credit(matrix, relations), relations.num_classes)
    eq6 = _sum_by(relations.child, _eq6_credit(matrix, relations), relations.num_classes)
    return SgIou(
        scores_with_credit(pixels, released), scores_with_credit(pixels, eq6), released, eq6
    )


def released_credit(confusion: np.ndarray, relations: Relations) -> np.ndarray:
    """(K,) pixels of credit by the released rule: the sum over f of ``C[f][q] * beta_f``."""
    matrix = _same_classes(confusion, relations)
    return _sum_by(relations.child, _released_credit(matrix, relations), relations.num_classes)


def eq6_credit(confusion: np.ndarray, relations: Relations) -> np.ndarray:
    """(K,) pixels of credit by equation 6: P_Q G_q * beta."""
    matrix = _same_classes(confusion, relations)
    return _sum_by(relations.child, _eq6_credit(matrix, relations), relations.num_classes)


def specificity(confusion: np.ndarray, relations: Relations) -> Specificity:
    """Where the truth's pixels went, and how much of the SG-IoU gain is "said the parent".

    Raises:
        InputError: the relations are those of another number of classes.
    """
    matrix, pixels = _same_classes(confusion, relations), class_pixels(confusion)
    num_classes, child, parent = relations.num_classes, relations.child, relations.parent
    kind = np.zeros((num_classes, num_classes), np.int8)  # [prediction][truth]
    names = ("other", "child", "parent", "synonym", "exact")
    upwards, synonyms = ~relations.synonym, relations.synonym
    kind[child[upwards], parent[upwards]] = 1
    kind[parent[upwards], child[upwards]] = 2
    kind[parent[synonyms], child[synonyms]] = 3
    np.fill_diagonal(kind, 4)
    decided = matrix[:-1]
    found = {name: np.where(kind == code, decided, 0).sum(0) for code, name in enumerate(names)}
    found["unknown"] = matrix[-1]
    total = pixels.truth.sum()
    order = ("exact", "synonym", "parent", "child", "other", "unknown")

    from_parents: dict[str, float] = {}
    from_synonyms: dict[str, float] = {}
    union = pixels.truth + pixels.predicted - pixels.hits
    conventions = {"union": union > 0, "present": pixels.truth > 0}
    for rule, credit in (
        ("released", _released_credit(matrix, relations)),
        ("eq6", _eq6_credit(matrix, relations)),
    ):
        for convention, chosen in conventions.items():
            for part, gains in ((upwards, from_parents), (synonyms, from_synonyms)):
                earned = _sum_by(child[part], credit[part], num_classes)
                gains[f"{rule}_{convention}"] = mean_over(ratio(earned, union), chosen)
    return Specificity(
        pixels={name: found[name] for name in order},
        shares={
            name: float(found[name].sum() / total) if total else float("nan") for name in order
        },
        gain_from_parents=from_parents,
        gain_from_synonyms=from_synonyms,
    )


def _released_credit(matrix: np.ndarray, relations: Relations) -> np.ndarray:
    """Credit of each relation (q, f): ``C[f][q] * (C[f][q] + C[f][f]) / P_f``."""
    q, f = relations.child, relations.parent
    said = matrix[f, q]
    beta = np.nan_to_num(ratio(said + matrix[f, f], matrix.sum(1)[f]))
    return said * beta


def _eq6_credit(matrix: np.ndarray, relations: Relations) -> np.ndarray:
    """Credit of each relation (q, f): its share ``C[f][q]`` of P_Q G_q, times the beta of Q."""
    q, f, num_classes = relations.child, relations.parent, relations.num_classes
    said = matrix[f, q]
    inside = matrix[relations.pair_predicted, relations.pair_true]
    P_Q_G_q = _sum_by(q, said, num_classes)
    P_Q_G_Q = _sum_by(relations.pair_child, inside, num_classes)
    P_Q = _sum_by(q, matrix.sum(1)[f], num_classes)
    beta = np.where(P_Q > 0, np.nan_to_num(ratio(P_Q_G_q + P_Q_G_Q, P_Q)), 1.0)
    return said * beta[q]


def _sum_by(classes: np.ndarray, values: np.ndarray, num_classes: int) -> np.ndarray:
    return np.bincount(classes, values, minlength=num_classes)


def _same_classes(confusion: np.ndarray, relations: Relations) -> np.ndarray:
    matrix = as_confusion(confusion)
    if matrix.shape[1] != relations.num_classes:
        raise InputError(
            f"the relations are of {relations.num_classes} classes, the confusion matrix of "
            f"{matrix.shape[1]}"
        )
    return matrix


def _check_pair(child: int, other: int, num_classes: int) -> None:
    for index in (child, other):
        if not 0 <= index < num_classes:
            raise InputError(f"related class {index} is not one of 0..{num_classes - 1}")
    if child == other:
        raise InputError(f"class {child} is listed as its own parent or synonym")


def _columns(rows: Iterable[Sequence[int]], width: int) -> list[np.ndarray]:
    table = np.array(list(rows), np.int64).reshape(-1, width)
    return [table[:, column].copy() for column in range(width)]
