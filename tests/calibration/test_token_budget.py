"""Fewer tokens: which are kept, and that the shift still finds its share."""

from __future__ import annotations

import torch
from torch import Tensor

from scanseg.calibration.contextual_shift import ContextualShift
from scanseg.calibration.token_budget import TokenBudget
from scanseg.contracts import ClipTokens, Regions

GRID, V = (4, 4), 3


def region(*foreground: int) -> Regions:
    """One region of 4 x 4 patches of one pixel each."""
    masks = torch.zeros(1, 16, dtype=torch.bool)
    masks[0, list(foreground)] = True
    return Regions(
        pixels=torch.zeros(1, 3, 4, 4),
        masks=masks.view(1, 4, 4),
        boxes=torch.tensor([[0, 0, 4, 4]]),
        image=torch.tensor([0]),
        query=torch.tensor([5]),
        valid=torch.ones(1, 1, dtype=torch.bool),
        inside=masks.view(1, 1, 4, 4),
    )


def shift(ratio: float = 0.25, order: str = "first", seed: int = 0) -> ContextualShift:
    cls = {layer: torch.full((1, V), 100.0 + layer) for layer in range(4)}
    context = ClipTokens({}, cls, {}, torch.ones(1, V))
    return ContextualShift(context, layers=(1, 3), ratio=ratio, order=order, seed=seed)  # type: ignore[arg-type]


def tokens() -> Tensor:
    """Token i holds the number i."""
    return torch.arange(16.0)[None, :, None].expand(1, 16, V).clone()


def test_shifted_background_first_then_the_object_then_the_rest() -> None:
    some = region(6, 7, 10, 11)  # 12 of 16 are background: int(0.25 * 12) = 3 are shifted
    edit = TokenBudget(shift(), 6)
    kept = edit(tokens(), 0, some, GRID)
    assert kept[0, :, 0].tolist() == [0, 1, 2, 6, 7, 10]  # three of the background, three of four
    shifted = edit(kept + 0.5, 1, some, GRID)
    assert shifted[0, :, 0].tolist() == [101, 101, 101, 6.5, 7.5, 10.5]
    assert torch.equal(edit(kept, 2, some, GRID), kept)  # no shift after block 2


def test_the_others_may_go_after_a_later_block() -> None:
    some = region(6, 7, 10, 11)  # three of the background are shifted, as above
    edit = TokenBudget(shift(), 6, after=1)
    whole = edit(tokens(), 0, some, GRID)
    assert torch.equal(whole, tokens())
    kept = edit(whole + 0.5, 1, some, GRID)  # shifted first, then cut
    assert kept[0, :, 0].tolist() == [101, 101, 101, 6.5, 7.5, 10.5]
    assert edit(kept, 3, some, GRID)[0, :, 0].tolist() == [103, 103, 103, 6.5, 7.5, 10.5]
    assert torch.equal(edit(tokens(), 0, some, GRID), tokens())  # the next regions start anew


def test_spare_room_goes_to_other_background() -> None:
    edit = TokenBudget(shift(), 8)
    kept = edit(tokens(), 0, region(15), GRID)  # int(0.25 * 15) = 3 shifted
    assert kept[0, :, 0].tolist() == [0, 1, 2, 3, 4, 5, 6, 15]
    shifted = edit(kept, 3, region(15), GRID)
    assert shifted[0, :, 0].tolist() == [103, 103, 103, 3, 4, 5, 6, 15]


def test_enough_budget_changes_nothing() -> None:
    some = region(3, 9)
    plain, budget = shift(order="random"), TokenBudget(shift(order="random"), 16)
    x = tokens()
    for layer in range(4):
        assert torch.equal(budget(x, layer, some, GRID), plain(x, layer, some, GRID))


def test_random_choice_hangs_on_the_seed_only() -> None:
    some = region(*range(4, 16))
    first = TokenBudget(shift(order="random", seed=1), 6).choose(some, GRID)
    again = TokenBudget(shift(order="random", seed=1), 6).choose(some, GRID)
    other = TokenBudget(shift(order="random", seed=2), 6).choose(some, GRID)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert (first[0, 1:] > first[0, :-1]).all()
    assert ((first < 4).sum(), (first >= 4).sum()) == (1, 5)  # int(0.25 * 4) = 1 shifted


def test_without_shift_the_object_comes_first() -> None:
    some = region(12, 13)
    kept = TokenBudget(shift(ratio=0.0), 3).choose(some, GRID)
    assert kept.tolist() == [[0, 12, 13]]
