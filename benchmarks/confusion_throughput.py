"""Pixels per second of counting an 847-class confusion matrix, three ways in the same run.

    python benchmarks/confusion_throughput.py [--height 1024] [--width 1024] [--repeats 9]

Ours is beside plain ``numpy.bincount`` (the usual one-liner) and ``torchmetrics`` (if installed),
on maps like real ones (regions with ragged outlines) and on pure noise, the worst case for runs.
All three must give the same matrix. Copying both maps shows the speed of memory.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import numpy as np

from scanseg.metrics.confusion import ConfusionMatrix

NUM_CLASSES = 847


def ragged_regions(height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """A label map of about 60 regions with wavy outlines: the cells of random points, warped."""
    points = rng.random((60, 2)) * (height, width)
    labels = rng.integers(0, NUM_CLASSES, len(points))
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    y, x = y + 6 * np.sin(x / 5), x + 6 * np.sin(y / 7)
    nearest, best = (
        np.zeros((height, width), np.int64),
        np.full((height, width), np.inf, np.float32),
    )
    for index, (row, column) in enumerate(points):
        distance = (y - row) ** 2 + (x - column) ** 2
        closer = distance < best
        nearest[closer], best[closer] = index, distance[closer]
    return labels[nearest]


def best_time(function: Callable[[], object], repeats: int) -> float:
    """The shortest of several runs, in seconds."""
    function()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return min(times)


def main() -> None:
    """Run and print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--height", type=int, default=1024)
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--repeats", type=int, default=9)
    options = parser.parse_args()
    height, width = options.height, options.width
    rng = np.random.default_rng(0)
    truth = ragged_regions(height, width, rng)
    prediction = np.where(ragged_regions(height, width, rng) % 3 == 0, truth[::-1], truth)
    noise = rng.integers(0, NUM_CLASSES, (2, height, width))
    cases = {"regions": (prediction, truth), "noise": (noise[0], noise[1])}

    print(f"{NUM_CLASSES} classes, {height} x {width} pixels, best of {options.repeats} runs\n")
    print(f"{'maps':<10}{'type':<8}{'method':<22}{'Mpixel/s':>10}{'GB/s':>8}{'vs bincount':>13}")
    for name, maps in cases.items():
        for dtype in (np.uint16, np.int32):
            _compare(name, *(np.ascontiguousarray(m.astype(dtype)) for m in maps), options.repeats)


def _compare(name: str, prediction: np.ndarray, truth: np.ndarray, repeats: int) -> None:
    ours = ConfusionMatrix(NUM_CLASSES)
    plain = np.zeros((NUM_CLASSES, NUM_CLASSES), np.int64)

    def bincount() -> None:
        cells = prediction.ravel().astype(np.int64) * NUM_CLASSES + truth.ravel()
        np.add(plain, np.bincount(cells, minlength=plain.size).reshape(plain.shape), out=plain)

    methods: dict[str, Callable[[], object]] = {
        "numpy.bincount": bincount,
        "scanseg": lambda: ours.update(prediction, truth),
    }
    matrices: dict[str, Callable[[], np.ndarray]] = {
        "numpy.bincount": lambda: plain,
        "scanseg": lambda: ours.counts[:-1],
    }
    theirs = _torchmetrics(prediction, truth)
    if theirs is not None:
        methods["torchmetrics"], matrices["torchmetrics"] = theirs
    for function in methods.values():
        function()
    assert all((matrix() == plain).all() for matrix in matrices.values()), "the matrices differ"
    methods["copy both maps"] = lambda: (prediction.copy(), truth.copy())

    seconds = {method: best_time(function, repeats) for method, function in methods.items()}
    for method, taken in seconds.items():
        speed = prediction.size / taken / 1e6
        traffic = (prediction.nbytes + truth.nbytes) / taken / 1e9
        factor = seconds["numpy.bincount"] / taken
        print(
            f"{name:<10}{prediction.dtype.name:<8}{method:<22}"
            f"{speed:>10.0f}{traffic:>8.2f}{factor:>12.1f}x"
        )


def _torchmetrics(
    prediction: np.ndarray, truth: np.ndarray
) -> tuple[Callable[[], object], Callable[[], np.ndarray]] | None:
    """Its update and its matrix, or ``None`` where it is not installed."""
    try:
        import torch
        from torchmetrics.classification import MulticlassConfusionMatrix
    except ImportError:
        return None
    metric = MulticlassConfusionMatrix(NUM_CLASSES)
    first, second = (torch.from_numpy(m.astype(np.int64)) for m in (prediction, truth))
    return (lambda: metric.update(first, second)), (lambda: metric.compute().numpy().T)


if __name__ == "__main__":
    main()
