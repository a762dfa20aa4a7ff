"""How sure is a number? Confidence intervals and paired tests by resampling images.

The images of a benchmark are a sample; another sample of the same size would give another mIoU.
The bootstrap draws images with replacement, adds up their confusion matrices and computes the
metric again, many times (Efron 1979). Two systems on the same images are compared on the same
draws, which removes what the images have in common.

Replicates of mIoU are biased where classes are rare: a replicate that has a class's image often
lacks the images in which the class is said wrongly. So replicates are shifted to have the value on
the whole set as their mean before quantiles are taken (``docs/decisions/0037``).

Neighbouring video frames are not independent: intervals over them are too narrow.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from scanseg.contracts import InputError
from scanseg.metrics.confusion import PairCounts, empty_confusion

Metric = Callable[[np.ndarray], Mapping[str, float]]
"""(K + 1, K) confusion matrix -> named numbers."""


@dataclass(frozen=True, eq=False)
class ImageCounts:
    """The confusion matrices of n images, sparse.

    Attributes:
        num_classes: K.
        image: (m,) int64, image of each entry, increasing.
        cells: (m,) int64, ``prediction * K + truth``.
        counts: (m,) int64 pixels.
        images: n.
    """

    num_classes: int
    image: np.ndarray
    cells: np.ndarray
    counts: np.ndarray
    images: int

    @classmethod
    def stack(cls, pairs: Sequence[PairCounts]) -> ImageCounts:
        """Put images one after another.

        Raises:
            InputError: there are none, or they have different numbers of classes.
        """
        if not pairs:
            raise InputError("there are no images to resample")
        if len({p.num_classes for p in pairs}) != 1:
            raise InputError("all images must be counted with the same number of classes")
        return cls(
            pairs[0].num_classes,
            np.repeat(np.arange(len(pairs)), [len(p.cells) for p in pairs]),
            np.concatenate([p.cells for p in pairs]),
            np.concatenate([p.counts for p in pairs]),
            len(pairs),
        )

    def total(self, weights: np.ndarray | None = None) -> np.ndarray:
        """(K + 1, K) confusion matrix of all images.

        Args:
            weights: (n,) how often each image counts; once by default. Sums are exact below 2**53.
        """
        matrix = empty_confusion(self.num_classes)
        counts = self.counts if weights is None else self.counts * weights[self.image]
        flat = np.bincount(self.cells, counts, minlength=matrix.size)
        return flat.astype(np.int64).reshape(matrix.shape)


@dataclass(frozen=True)
class Interval:
    """A number with its bootstrap confidence interval.

    Attributes:
        value: on the images as they are.
        low: lower end.
        high: upper end.
        error: standard error, the standard deviation over replicates.
    """

    value: float
    low: float
    high: float
    error: float


@dataclass(frozen=True)
class PairedDifference:
    """First system minus second, on the same images.

    Attributes:
        difference: on the images as they are.
        low: lower end of the confidence interval of the difference.
        high: upper end.
        p_value: two-sided bootstrap probability of a difference at least this far from 0 if there
            is none, in (0, 1].
        first_wins: share of the replicates in which the first system is better (ties count half):
            how stable the ranking is.
    """

    difference: float
    low: float
    high: float
    p_value: float
    first_wins: float


def bootstrap(
    images: ImageCounts,
    metric: Metric,
    *,
    replicates: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> dict[str, Interval]:
    """Confidence intervals of a metric over images.

    Args:
        images: per-image counts.
        metric: what to compute.
        replicates: how many times to resample.
        level: of the interval, in (0, 1).
        seed: of the draws; the same seed gives the same intervals.

    Returns:
        name -> interval. Replicates in which a number is undefined (NaN) are left out of it.

    Raises:
        InputError: too few replicates or an impossible level.
    """
    _check_settings(replicates, level)
    value = metric(images.total())
    drawn = [metric(images.total(w)) for w in _draws(images.images, replicates, seed)]
    result = {}
    for name, here in value.items():
        sample = _centred(np.array([d[name] for d in drawn]), here)
        low, high = _interval(sample, level)
        error = float(sample.std()) if sample.size else float("nan")
        result[name] = Interval(float(here), low, high, error)
    return result


def paired_bootstrap(
    first: ImageCounts,
    second: ImageCounts,
    metric: Metric,
    *,
    replicates: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> dict[str, PairedDifference]:
    """Compare two systems on the same images, in the same order.

    The p-value is twice the smaller share of replicates on either side of 0, counted with one
    replicate more so that it is never 0 (Davison and Hinkley 1997).

    Raises:
        InputError: different numbers of images or classes, too few replicates, an impossible level.
    """
    _check_settings(replicates, level)
    if (first.images, first.num_classes) != (second.images, second.num_classes):
        raise InputError("paired systems must be counted on the same images with the same classes")
    a, b = metric(first.total()), metric(second.total())
    drawn = [
        (metric(first.total(w)), metric(second.total(w)))
        for w in _draws(first.images, replicates, seed)
    ]
    result = {}
    for name in a:
        difference = a[name] - b[name]
        gaps = _centred(np.array([x[name] - y[name] for x, y in drawn]), difference)
        low, high = _interval(gaps, level)
        below, above = int((gaps <= 0).sum()), int((gaps >= 0).sum())
        p_value = min(1.0, 2 * (1 + min(below, above)) / (1 + len(gaps)))
        wins = float(((gaps > 0) + 0.5 * (gaps == 0)).mean()) if gaps.size else float("nan")
        result[name] = PairedDifference(float(difference), low, high, p_value, wins)
    return result


def _draws(images: int, replicates: int, seed: int) -> list[np.ndarray]:
    if seed < 0:
        raise InputError(f"the seed of the bootstrap must be at least 0, not {seed}")
    rng = np.random.default_rng(seed)
    return [
        np.bincount(rng.integers(images, size=images), minlength=images) for _ in range(replicates)
    ]


def _centred(sample: np.ndarray, value: float) -> np.ndarray:
    """The replicates that are defined, shifted so that their mean is ``value``."""
    known = sample[~np.isnan(sample)]
    if not known.size or np.isnan(value) or (known == known[0]).all():
        return known
    return known + (value - known.mean())


def _interval(sample: np.ndarray, level: float) -> tuple[float, float]:
    if not sample.size:
        return float("nan"), float("nan")
    low, high = np.quantile(sample, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _check_settings(replicates: int, level: float) -> None:
    if replicates < 10:
        raise InputError(f"the bootstrap needs at least 10 replicates, not {replicates}")
    if not 0 < level < 1:
        raise InputError(f"the level of an interval lies in (0, 1), not {level}")
