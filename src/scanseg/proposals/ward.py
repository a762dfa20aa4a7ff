"""Ward's clustering of neighbours (Ward, 1963): which two regions to join next, until one is left.

The same tree as scikit-learn's ``ward_tree`` with a connectivity matrix (tested on photos), which
would take 1 s to import; NumPy only.
"""

from __future__ import annotations

from heapq import heapify, heappop, heappush

import numpy as np


def ward_tree(features: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """Join the two neighbours whose union adds least to the variance within, again and again.

    Joining clusters a and b with n_a and n_b members and means m_a and m_b adds

        d(a, b) = n_a n_b / (n_a + n_b) |m_a - m_b|^2

    to the sum of squared distances from the means.

    Args:
        features: (S, F).
        pairs: (P, 2) neighbours, each pair at least once, in any order; they connect all of S.

    Returns:
        (S - 1, 2): what was joined at each step; S + i is the cluster that step i made.

    Raises:
        ValueError: the neighbours do not connect everything.
    """
    count = len(features)
    total = 2 * count - 1
    sizes = np.ones(total)
    sums = np.empty((total, features.shape[1]))  # float64, whatever the features are
    sums[:count] = features
    neighbours: list[set[int]] = [set() for _ in range(count)]
    for a, b in pairs.tolist():
        neighbours[a].add(b)
        neighbours[b].add(a)

    def cost(a: int | np.ndarray, b: np.ndarray) -> list[float]:
        n, m = sizes[a], sizes[b]
        apart = sums[a] / n[..., None] - sums[b] / m[:, None]  # m_a - m_b
        return (n * m / (n + m) * np.square(apart).sum(-1)).tolist()

    ends = np.array([(a, b) for a in range(count) for b in neighbours[a] if b < a]).reshape(-1, 2)
    heap = list(zip(cost(ends[:, 0], ends[:, 1]), *ends.T.tolist(), strict=True))
    heapify(heap)
    gone = np.zeros(total, bool)
    joined = np.empty((count - 1, 2), np.int64)
    for new in range(count, total):
        while heap:
            _, a, b = heappop(heap)
            if not (gone[a] or gone[b]):
                break
        else:
            raise ValueError("the neighbours do not connect everything")
        joined[new - count] = b, a
        gone[[a, b]] = True
        sizes[new] = sizes[a] + sizes[b]
        sums[new] = sums[a] + sums[b]
        around = (neighbours[a] | neighbours[b]) - {a, b}
        neighbours.append(around)
        for other in around:
            neighbours[other] -= {a, b}
            neighbours[other].add(new)
        others = np.fromiter(around, np.int64, len(around))
        for value, other in zip(cost(new, others), others.tolist(), strict=True):
            heappush(heap, (value, new, other))
    return joined
