"""The order of the data is a function of seed and position."""

from __future__ import annotations

from collections import Counter

import pytest

from scanseg.training.config import TrainerConfig
from scanseg.training.order import Batches, DataOrder, derived_seed, grouped


def test_a_pass_visits_every_photo_once() -> None:
    order = DataOrder((5, 3), (1.0, 1.0), seed=4)
    first = [order[p] for p in range(8)]
    second = [order[p] for p in range(8, 16)]
    everything = [(0, i) for i in range(5)] + [(1, i) for i in range(3)]
    assert sorted(first) == sorted(second) == everything
    assert first != second
    assert first == [DataOrder((5, 3), (1.0, 1.0), seed=4)[p] for p in range(8)]
    assert first != [DataOrder((5, 3), (1.0, 1.0), seed=5)[p] for p in range(8)]


def test_weights_are_visits() -> None:
    order = DataOrder((4, 10), (2.0, 0.5), seed=0)
    assert order.pass_length == 13
    seen = Counter(order[p] for p in range(13))
    assert all(seen[0, i] == 2 for i in range(4))
    assert sum(n for (which, _), n in seen.items() if which == 1) == 5
    over_many = Counter(order[p] for p in range(13 * 40))
    assert all(8 < over_many[1, i] < 32 for i in range(10))  # each half of the time


def test_any_position_without_those_before() -> None:
    order = DataOrder((7,), (1.0,), seed=1)
    assert order[10_000] == [order[p] for p in range(9_995, 10_005)][5]


def test_ranks_and_parts_take_the_same_groups() -> None:
    alone = list(Batches(TrainerConfig(steps=3, batch=8, accumulate=2)))
    ranks = [
        list(Batches(TrainerConfig(steps=3, batch=8, devices=2), rank=rank)) for rank in (0, 1)
    ]
    dealt = [group for step in zip(*ranks, strict=True) for group in step]
    assert alone == dealt
    assert [p for group in alone for p in group] == list(range(24))


def test_resuming_gives_the_rest() -> None:
    config = TrainerConfig(steps=5, batch=4, accumulate=2)
    assert list(Batches(config, start=3)) == list(Batches(config))[6:]


def test_seeds_differ() -> None:
    seeds = {derived_seed(0, a, b) for a in range(20) for b in range(50)}
    assert len(seeds) == 1000
    assert all(0 <= s < 2**63 for s in seeds)
    assert derived_seed(1, 2, 3) == derived_seed(1, 2, 3)


@pytest.mark.parametrize(("size", "expected"), [(1, [[0], [1], [2], [3]]), (2, [[0, 1], [2, 3]])])
def test_grouped(size: int, expected: list[list[int]]) -> None:
    assert list(grouped(iter(range(4)), size)) == expected
