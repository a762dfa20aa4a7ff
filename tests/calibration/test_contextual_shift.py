"""Contextual shift: what is replaced, by what, where, how often; and that nothing else matters."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from scanseg.calibration import ContextualShift, cut_regions, patch_foreground
from scanseg.contracts import ClipTokens, InputError, Regions

GRID, SIDE, V = (5, 5), 20, 6
N = GRID[0] * GRID[1]
MEAN, STD = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)


def photos(batch: int = 2) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (batch, 3, 30, 40), generator=generator, dtype=torch.uint8)


def make_regions(batch: int = 2, queries: int = 4) -> Regions:
    """Letters L of different places and sizes: most of each box is background."""
    masks = torch.zeros(batch, queries, 30, 40)
    for b in range(batch):
        for q in range(queries):
            masks[b, q, 2 + b : 24 + q, 3 + 2 * q : 5 + 2 * q + b] = 1.0
            masks[b, q, 21 + q : 24 + q, 3 + 2 * q : 30 + q] = 1.0
    return cut_regions(photos(batch), masks, threshold=0.5, size=SIDE, mean=MEAN, std=STD)


def context(batch: int = 2) -> ClipTokens:
    """[CLS] of image b after layer l is the constant 100 (b + 1) + l."""
    cls = {
        layer: (100.0 * torch.arange(1, batch + 1) + layer)[:, None].expand(batch, V)
        for layer in range(7)
    }
    return ClipTokens({}, cls=cls, grids={}, pooled=torch.zeros(batch, 4))


def tokens_for(regions: Regions) -> Tensor:
    """Values that depend on the region, not on how regions are split."""
    number = regions.image * 10 + regions.query
    rows = [torch.randn(N, V, generator=torch.Generator().manual_seed(int(n))) for n in number]
    return torch.stack(rows)


def shift(batch: int = 2, **changes: Any) -> ContextualShift:
    return ContextualShift(context(batch), **{"layers": (1, 3, 5), "ratio": 0.4, **changes})


def replaced(edit: ContextualShift, regions: Regions, layer: int = 3) -> Tensor:
    before = tokens_for(regions)
    return (edit(before, layer, regions, GRID) != before).any(-1)  # (R, N)


# ------------------------------------------------------------------ what and by what


def test_only_background_changes_and_each_region_gets_its_own_images_cls() -> None:
    regions = make_regions()
    before = tokens_for(regions)
    after = shift()(before, 3, regions, GRID)
    changed = (after != before).any(-1)
    foreground = patch_foreground(regions.masks, GRID)
    assert changed.any(1).all()
    assert not (changed & foreground).any()
    for r, image in enumerate(regions.image.tolist()):
        assert (after[r][changed[r]] == 100.0 * (image + 1) + 3).all()


def test_the_tokens_given_are_left_alone() -> None:
    regions = make_regions()
    before = tokens_for(regions)
    copy = before.clone()
    assert shift()(before, 3, regions, GRID) is not before
    assert torch.equal(before, copy)


@pytest.mark.parametrize("ratio", [0.05, 0.15, 0.4, 1.0])
def test_the_number_is_the_integer_part_of_the_share(ratio: float) -> None:
    regions = make_regions()
    background = (~patch_foreground(regions.masks, GRID)).sum(1).tolist()
    expected = [int(ratio * n) for n in background]
    assert replaced(shift(ratio=ratio), regions).sum(1).tolist() == expected
    assert replaced(shift(ratio=ratio, order="first"), regions).sum(1).tolist() == expected


def test_first_order_takes_the_first_in_row_major_order() -> None:
    regions = make_regions(batch=1, queries=1)
    background = (~patch_foreground(regions.masks, GRID))[0].nonzero()[:, 0].tolist()
    changed = replaced(shift(batch=1, order="first", ratio=0.6), regions)[0].nonzero()[:, 0]
    assert len(background) > 3
    assert changed.tolist() == background[: int(0.6 * len(background))]


@pytest.mark.parametrize("changes", [{"ratio": 0.0}, {"source": "none"}, {"layers": ()}])
def test_nothing_to_do_is_the_identity(changes: dict[str, Any]) -> None:
    regions = make_regions()
    before = tokens_for(regions)
    assert shift(**changes)(before, 3, regions, GRID) is before


def test_no_regions() -> None:
    regions = make_regions()
    empty = next(regions.split(1))
    empty = cut_regions(
        photos(), torch.zeros(2, 3, 30, 40), threshold=0.5, size=SIDE, mean=MEAN, std=STD
    )
    before = torch.zeros(0, N, V)
    assert shift()(before, 3, empty, GRID) is before


def test_a_region_without_background_stays_as_it_is() -> None:
    full = cut_regions(
        photos(1), torch.ones(1, 1, 30, 40), threshold=0.5, size=SIDE, mean=MEAN, std=STD
    )
    assert not replaced(shift(batch=1, ratio=1.0), full).any()


# ------------------------------------------------------------------ where


def test_released_acts_after_the_listed_blocks_with_their_own_cls() -> None:
    regions = make_regions(batch=1)
    edit = shift(batch=1, layers=(1, 3))
    values = {layer: _incoming_value(edit, regions, layer) for layer in range(7)}
    assert values == {0: None, 1: 101, 2: None, 3: 103, 4: None, 5: None, 6: None}


def test_paper_acts_on_the_input_of_the_listed_blocks_with_the_cls_before() -> None:
    regions = make_regions(batch=1)
    edit = shift(batch=1, layers=(1, 3), semantics="paper")
    values = {layer: _incoming_value(edit, regions, layer) for layer in range(7)}
    assert values == {0: 100, 1: None, 2: 102, 3: None, 4: None, 5: None, 6: None}


def _incoming_value(edit: ContextualShift, regions: Regions, layer: int) -> float | None:
    before = tokens_for(regions)
    after = edit(before, layer, regions, GRID)
    changed = after[(after != before).any(-1)]
    return None if len(changed) == 0 else float(changed.unique())


# ------------------------------------------------------------------ reproducible


def test_same_seed_same_tokens_other_seed_other_tokens() -> None:
    regions = make_regions()
    usual = replaced(shift(seed=7), regions)
    assert torch.equal(usual, replaced(shift(seed=7), regions))
    assert not torch.equal(usual, replaced(shift(seed=8), regions))
    assert replaced(shift(seed=-1), regions).any()


def test_chosen_anew_at_each_block_and_for_each_proposal() -> None:
    regions = make_regions(batch=1)
    edit = shift(batch=1)
    assert not torch.equal(replaced(edit, regions, 1), replaced(edit, regions, 3))
    same_mask = make_regions(batch=1, queries=1)
    twin = Regions(**{**vars(same_mask), "query": same_mask.query + 1})
    assert not torch.equal(replaced(edit, same_mask), replaced(edit, twin))


def test_the_draw_is_splitmix64_over_seed_layer_query_and_position() -> None:
    """In Python's own integers. A change of the draw would silently change published numbers."""
    regions = make_regions(batch=1)
    seed, layer, query = 5, 3, 2
    stream = int(np.random.SeedSequence([seed, layer]).generate_state(1, np.uint64)[0])

    def key(position: int) -> int:
        z = (stream + (query * N + position + 1) * 0x9E3779B97F4A7C15) % 2**64
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        z = (z ^ (z >> 27)) * 0x94D049BB133111EB % 2**64
        return z ^ (z >> 31)

    background = (~patch_foreground(regions.masks, GRID))[query].nonzero()[:, 0].tolist()
    expected = sorted(background, key=key)[: int(0.4 * len(background))]
    changed = replaced(shift(batch=1, seed=seed), regions, layer)[query].nonzero()[:, 0].tolist()
    assert changed == sorted(expected) == [1, 2, 3, 11, 12, 19]


@pytest.mark.parametrize("source", ["cls", "noise"])
@pytest.mark.parametrize("size", [1, 3, 100])
def test_splitting_regions_changes_nothing(source: str, size: int) -> None:
    regions = make_regions()
    edit = shift(source=source)
    whole = edit(tokens_for(regions), 3, regions, GRID)
    parts = [edit(tokens_for(part), 3, part, GRID) for part in regions.split(size)]
    assert torch.equal(whole, torch.cat(parts))


@pytest.mark.parametrize("source", ["cls", "noise"])
def test_batch_of_two_equals_two_batches_of_one(source: str) -> None:
    both = make_regions(batch=2)
    whole = shift(source=source)(tokens_for(both), 3, both, GRID)
    full = context(2)
    for i in range(2):
        mine = both.image == i
        alone = Regions(
            pixels=both.pixels[mine],
            masks=both.masks[mine],
            boxes=both.boxes[mine],
            image=torch.zeros(int(mine.sum()), dtype=torch.int64),
            query=both.query[mine],
            valid=both.valid[i : i + 1],
            inside=both.inside[i : i + 1],
        )
        own = ClipTokens(
            {}, cls={k: v[i : i + 1] for k, v in full.cls.items()}, grids={}, pooled=full.pooled[:1]
        )
        edit = ContextualShift(own, layers=(1, 3, 5), ratio=0.4, source=source)
        assert torch.equal(whole[mine], edit(tokens_for(both)[mine], 3, alone, GRID))


def test_every_background_patch_is_equally_likely() -> None:
    """Share of each background patch over 2,000 seeds: 0.4 +- 5 standard deviations (0.055)."""
    regions = make_regions(batch=1, queries=1)
    background = ~patch_foreground(regions.masks, GRID)[0]
    total = torch.zeros(N)
    for seed in range(2000):
        total += replaced(shift(batch=1, seed=seed), regions)[0]
    n = int(background.sum())
    share = total[background] / 2000
    assert (share - int(0.4 * n) / n).abs().max() < 0.055


# ------------------------------------------------------------------ sources of table 6


def test_noise_has_the_mean_and_spread_of_the_regions_own_tokens() -> None:
    regions = make_regions(batch=1)
    before = torch.randn(4, N, 2000, generator=torch.Generator().manual_seed(1)) * 3.0 + 5.0
    after = shift(batch=1, source="noise", ratio=1.0)(before, 3, regions, GRID)
    changed = (after != before).any(-1)
    assert after[changed].mean().item() == pytest.approx(5.0, abs=0.05)
    assert after[changed].std().item() == pytest.approx(3.0, abs=0.1)
    again = shift(batch=1, source="noise", ratio=1.0)(before, 3, regions, GRID)
    assert torch.equal(after, again)
    assert not torch.equal(after, shift(batch=1, source="noise", seed=1)(before, 3, regions, GRID))


def test_learnable_vector_replaces_and_learns() -> None:
    regions = make_regions()
    vector = torch.nn.Parameter(torch.full((V,), 7.0))
    before = tokens_for(regions)
    after = shift(source="learnable", learnable=vector)(before, 3, regions, GRID)
    changed = (after != before).any(-1)
    assert (after[changed] == 7.0).all()
    after.sum().backward()
    assert vector.grad.tolist() == [float(changed.sum())] * V


@pytest.mark.parametrize(("semantics", "at"), [("released", 3), ("paper", 2)])
def test_one_learnable_vector_per_listed_layer(semantics: str, at: int) -> None:
    regions = make_regions()
    before = tokens_for(regions)
    vectors = {layer: torch.full((V,), float(layer)) for layer in (1, 3, 5)}
    edit = shift(source="learnable", learnable=vectors, semantics=semantics)
    after = edit(before, at, regions, GRID)
    assert (after[(after != before).any(-1)] == 3.0).all()


def test_background_restores_the_photo_in_the_chosen_patches() -> None:
    regions = make_regions()
    edit = shift(source="background", order="first")
    shown = edit.prepare(regions, photos(), grid=GRID, mean=MEAN, std=STD)
    everywhere = torch.ones(2, 4, 30, 40)
    for mask, inside in zip(everywhere.flatten(0, 1), regions.inside.flatten(0, 1), strict=True):
        mask[~inside.any(1)] = 0  # the same box, filled
        mask[:, ~inside.any(0)] = 0
    original = cut_regions(photos(), everywhere, threshold=0.5, size=SIDE, mean=MEAN, std=STD)
    assert torch.equal(original.boxes, regions.boxes)

    side = SIDE // GRID[0]
    background = ~patch_foreground(regions.masks, GRID)
    for r in range(len(regions)):
        candidates = background[r].nonzero()[:, 0].tolist()
        chosen = candidates[: int(0.4 * len(candidates))]
        for n in range(N):
            y, x = side * (n // GRID[1]), side * (n % GRID[1])
            patch = (r, slice(None), slice(y, y + side), slice(x, x + side))
            source = original if n in chosen else regions
            assert torch.equal(shown.pixels[patch], source.pixels[patch])
    before = tokens_for(regions)
    assert edit(before, 3, shown, GRID) is before  # done in pixels, once


def test_other_sources_leave_the_pixels_alone() -> None:
    regions = make_regions()
    for source in ("cls", "noise", "none"):
        edit = shift(source=source)
        assert edit.prepare(regions, photos(), grid=GRID, mean=MEAN, std=STD) is regions


# ------------------------------------------------------------------ errors


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"source": "dog"}, "shift source must be one of"),
        ({"order": "last"}, "shift order must be one of"),
        ({"ratio": 1.5}, r"must lie in \[0, 1\]"),
        ({"layers": (0,)}, "count from 1"),
        ({"source": "learnable"}, "needs the trained vector"),
        ({"layers": (3, 9)}, r"needs \[CLS\] of layers \[9\]"),
    ],
)
def test_wrong_settings_are_refused(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        shift(**changes)


def test_background_without_prepare_is_refused() -> None:
    regions = make_regions()
    with pytest.raises(InputError, match="prepare"):
        shift(source="background")(tokens_for(regions), 3, regions, GRID)


def test_towers_of_different_width_are_refused() -> None:
    regions = make_regions()
    with pytest.raises(InputError, match="same vision width"):
        shift()(torch.zeros(len(regions), N, V + 1), 3, regions, GRID)


def test_context_on_half_precision_is_cast_to_the_tokens() -> None:
    regions = make_regions()
    before = tokens_for(regions).bfloat16()
    after = shift()(before, 3, regions, GRID)
    assert after.dtype == torch.bfloat16
    assert np.isin(float(after.max()), (103.0, 203.0))
