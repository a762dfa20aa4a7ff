from __future__ import annotations

import numpy as np
import pytest

from scanseg.proposals.region_merging import RegionMerging, adjacency, roots
from scanseg.proposals.ward import ward_tree


def test_by_hand() -> None:
    features = np.array([[0.0], [1.0], [3.0], [10.0]])
    chain = np.array([[0, 1], [1, 2], [2, 3]])
    # costs: (0, 1) 1/2 * 1 = 0.5; (1, 2) 1/2 * 4 = 2; (2, 3) 1/2 * 49. Join 0 and 1: 4 = {0, 1},
    # mean 0.5. Then (4, 2): 2 * 1 / 3 * 2.5^2 = 4.17 against 24.5. Then what is left.
    assert [set(row) for row in ward_tree(features, chain).tolist()] == [{0, 1}, {4, 2}, {5, 3}]


def test_only_neighbours_are_joined() -> None:
    features = np.array([[0.0], [5.0], [0.0]])  # 0 and 2 are equal, but 1 lies between them
    assert set(ward_tree(features, np.array([[0, 1], [1, 2]]))[0].tolist()) in ({0, 1}, {1, 2})


def test_size_counts() -> None:
    # (1, 2) cost 1/2 first; then 4 = {1, 2} at mean 1 and 0 at -1: 2/3 * 4 = 2.67 against
    # 3 at 3.2: 2/3 * 2.2^2 = 3.23
    features = np.array([[-1.0], [0.5], [1.5], [3.2]])
    chain = np.array([[0, 1], [1, 2], [2, 3]])
    assert [set(row) for row in ward_tree(features, chain).tolist()] == [{1, 2}, {4, 0}, {5, 3}]


def test_parts_without_a_border_are_refused() -> None:
    with pytest.raises(ValueError, match="do not connect"):
        ward_tree(np.zeros((4, 2)), np.array([[0, 1], [2, 3]]))


@pytest.mark.parametrize("name", ["chelsea", "coffee", "astronaut"])
def test_the_tree_is_scikit_learns(name: str) -> None:
    import skimage.data
    from scipy.sparse import coo_matrix
    from skimage.segmentation import slic
    from sklearn.cluster import AgglomerativeClustering

    photo = getattr(skimage.data, name)()[::2, ::2] / 255.0
    fine = slic(photo, n_segments=200, start_label=0).astype(np.int64)
    count = fine.max() + 1
    colour = [np.bincount(fine.ravel(), photo[..., c].ravel()) for c in range(3)]
    noise = np.random.default_rng(0).normal(size=(count, 16))
    features = np.concatenate([np.stack(colour, 1) / np.bincount(fine.ravel())[:, None], noise], 1)
    pairs = adjacency(fine)
    a, b = np.concatenate([pairs, pairs[:, ::-1]]).T
    matrix = coo_matrix((np.ones(len(a)), (a, b)), shape=(count, count)).tocsr()
    theirs = AgglomerativeClustering(
        n_clusters=1, linkage="ward", connectivity=matrix, compute_full_tree=True
    ).fit(features)
    assert np.array_equal(ward_tree(features, pairs), theirs.children_)


def test_a_cut_of_the_tree() -> None:
    fine = np.array([[0, 0, 1, 2]])
    features = np.array([[0.0], [0.1], [9.0]])
    groups = RegionMerging(cuts=(2, 3))._cut_tree(features, fine)
    assert groups.tolist() == [[1, 0], [1, 1], [0, 2]]  # groups in the order of their roots
    assert roots(np.arange(3), 3).tolist() == [0, 1, 2]
