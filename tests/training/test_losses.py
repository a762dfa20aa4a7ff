"""The set criterion: term by term against transformers, and its own additions by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from transformers import Mask2FormerConfig
from transformers.models.mask2former.modeling_mask2former import Mask2FormerLoss

from scanseg.contracts import InputError
from scanseg.training.losses import (
    LayerLosses,
    LossSettings,
    Prediction,
    Target,
    class_loss,
    criterion,
    layer_losses,
    mask_losses,
    match,
    num_masks,
    sample,
    uncertain_points,
)

B, Q, K, SIZE = 3, 7, 5, 16
SMALL = LossSettings(points=64)


def random_layers(count: int, seed: int = 0) -> list[Prediction]:
    generator = torch.Generator().manual_seed(seed)
    return [
        Prediction(
            4 * torch.randn(B, Q, SIZE, SIZE, generator=generator),
            torch.randn(B, Q, K + 1, generator=generator),
        )
        for _ in range(count)
    ]


def random_targets(seed: int = 0, counts: tuple[int, ...] = (3, 1, 4)) -> list[Target]:
    generator = torch.Generator().manual_seed(seed)
    return [
        Target(
            torch.randperm(K, generator=generator)[:count],
            torch.rand(count, 4 * SIZE, 4 * SIZE, generator=generator) > 0.6,
        )
        for count in counts
    ]


def stock_loss(settings: LossSettings) -> Mask2FormerLoss:
    config = Mask2FormerConfig(
        num_labels=K,
        class_weight=settings.class_weight,
        mask_weight=settings.mask_weight,
        dice_weight=settings.dice_weight,
        no_object_weight=settings.no_object_weight,
        train_num_points=settings.points,
        oversample_ratio=settings.oversample,
        importance_sample_ratio=settings.importance,
    )
    return Mask2FormerLoss(config, {})


@pytest.mark.parametrize("counts", [(3, 1, 4), (2, 0, 5), (1, 1, 1)])
@pytest.mark.parametrize("points", [64, 400])
def test_every_term_equals_transformers(counts: tuple[int, ...], points: int) -> None:
    settings = LossSettings(points=points, last_auxiliary=True)
    layers, targets = random_layers(3), random_targets(counts=counts)
    torch.manual_seed(3)
    ours = criterion(layers, targets, settings)
    torch.manual_seed(3)
    *auxiliary, final = layers
    stock = stock_loss(settings)(
        final.mask_logits,
        final.class_logits,
        [t.masks.float() for t in targets],
        [t.labels for t in targets],
        [
            {"masks_queries_logits": p.mask_logits, "class_queries_logits": p.class_logits}
            for p in auxiliary
        ],
    )
    for suffix, terms in zip(("", "_0", "_1"), ours.layers, strict=True):
        assert terms.classes.item() == pytest.approx(
            stock["loss_cross_entropy" + suffix].item(), rel=1e-6
        )
        assert terms.masks.item() == pytest.approx(stock["loss_mask" + suffix].item(), rel=1e-6)
        assert terms.dice.item() == pytest.approx(stock["loss_dice" + suffix].item(), rel=1e-6)


def test_gradients_equal_transformers() -> None:
    settings = LossSettings(points=64, auxiliary=False)
    targets = random_targets()
    gradients = []
    for stock in (False, True):
        (layer,) = random_layers(1)
        leaves = [layer.mask_logits.requires_grad_(), layer.class_logits.requires_grad_()]
        torch.manual_seed(5)
        if stock:
            found = stock_loss(settings)(
                layer.mask_logits,
                layer.class_logits,
                [t.masks.float() for t in targets],
                [t.labels for t in targets],
            )
            total = (
                2 * found["loss_cross_entropy"] + 5 * found["loss_mask"] + 5 * found["loss_dice"]
            )
        else:
            total = criterion([layer], targets, settings).total
        gradients.append(torch.autograd.grad(total, leaves))
    for mine, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-8)
        assert mine.abs().sum() > 0


def test_which_layers_count() -> None:
    layers, targets = random_layers(4), random_targets()
    for changes, expected in (({}, 3), ({"last_auxiliary": True}, 4), ({"auxiliary": False}, 1)):
        found = criterion(layers, targets, LossSettings(points=16, **changes))  # type: ignore[arg-type]
        assert len(found.layers) == expected
        weighted = [2 * t.classes + 5 * t.masks + 5 * t.dice for t in found.layers]
        assert found.total.item() == pytest.approx(sum(w.item() for w in weighted), rel=1e-6)


def one_query(logit: float, rows: int = 2) -> Tensor:
    """(1, 1, 2, 2) with ``logit`` in the first ``rows`` rows and its negative below."""
    logits = torch.full((1, 1, 2, 2), -logit)
    logits[:, :, :rows] = logit
    return logits


def test_mask_and_dice_by_hand() -> None:
    # Constant logits, so every point sees the same: sigmoid(log 3) = 3/4, the truth is one.
    logits = torch.full((1, 1, 4, 4), math.log(3.0))
    target = Target(torch.tensor([0]), torch.ones(1, 8, 8, dtype=torch.bool))
    settings = LossSettings(points=100)
    where = [(torch.tensor([0]), torch.tensor([0]))]
    torch.manual_seed(0)
    masks, dice = mask_losses(logits, [target], where, torch.tensor(2.0), settings)
    torch.manual_seed(0)
    chosen = uncertain_points(logits, settings)
    z, t = sample(logits, chosen)[0], sample(target.masks[:, None].float(), chosen)[0]
    p = 1 / (1 + torch.exp(-z))
    by_hand = -(t * p.log() + (1 - t) * (1 - p).log()).mean() / 2
    assert masks.item() == pytest.approx(by_hand.item(), rel=1e-5)
    overlap = (2 * (p * t).sum() + 1) / (p.sum() + t.sum() + 1)
    assert dice.item() == pytest.approx((1 - overlap).item() / 2, rel=1e-4)


def test_cross_entropy_by_hand() -> None:
    logits = torch.tensor([[[math.log(2.0), 0.0, 0.0], [0.0, 0.0, math.log(8.0)]]])  # (1, 2, K + 1)
    target = Target(torch.tensor([0]), torch.ones(1, 2, 2, dtype=torch.bool))
    where = [(torch.tensor([0]), torch.tensor([0]))]
    # query 0 is label 0 with p = 2/4, query 1 is void with p = 8/10 and weight 0.1
    expected = (-math.log(0.5) - 0.1 * math.log(0.8)) / 1.1
    assert class_loss(logits, [target], where, 0.1).item() == pytest.approx(expected, rel=1e-6)
    partial = Target(target.labels, target.masks, exhaustive=False)
    assert class_loss(logits, [partial], where, 0.1).item() == pytest.approx(math.log(2.0))


def test_matching_takes_the_cheapest_pairs() -> None:
    top = torch.zeros(1, 32, 32, dtype=torch.bool)
    top[:, :16] = True
    target = Target(torch.tensor([1, 0]), torch.cat([~top, top]))  # label 1 below, label 0 on top
    logits = torch.cat([one_query(5.0, rows=0), one_query(-5.0, rows=1), one_query(5.0, rows=1)], 1)
    classes = torch.zeros(1, 3, 3)
    ((queries, given),) = match(Prediction(logits, classes), [target], SMALL)
    assert dict(zip(queries.tolist(), given.tolist(), strict=True)) == {1: 0, 2: 1}


def test_void_pixels_change_nothing() -> None:
    """Neither targets nor logits under void move a loss; the same void elsewhere would."""
    torch.manual_seed(0)
    void = torch.zeros(32, 32, dtype=torch.bool)
    void[:, 16:] = True
    masks = torch.rand(3, 32, 32) > 0.5
    logits = torch.randn(1, 5, 32, 32)
    classes = torch.randn(1, 5, K + 1)
    other_masks, other_logits = masks.clone(), logits.clone()
    other_masks[:, :, 17:] = ~other_masks[:, :, 17:]  # bilinear points at the border see one pixel
    other_logits[..., 17:] = 0.0  # and logits of 0 would be the most uncertain of all
    found = []
    for m, z in ((masks, logits), (other_masks, other_logits)):
        torch.manual_seed(1)
        target = Target(torch.tensor([0, 1, 2]), m, void=void)
        found.append(
            layer_losses(
                Prediction(z, classes), [target], torch.tensor(3.0), LossSettings(points=8)
            )
        )
    assert_same(*found)
    torch.manual_seed(1)
    without = layer_losses(
        Prediction(logits, classes),
        [Target(torch.tensor([0, 1, 2]), masks)],
        torch.tensor(3.0),
        LossSettings(points=8),
    )
    assert without.masks.item() != pytest.approx(found[0].masks.item())


def assert_same(one: LayerLosses, other: LayerLosses) -> None:
    for name in ("classes", "masks", "dice"):
        assert getattr(one, name).item() == pytest.approx(getattr(other, name).item(), rel=1e-6)


def test_empty_void_equals_no_void() -> None:
    layers, targets = random_layers(1), random_targets()
    torch.manual_seed(2)
    plain = layer_losses(layers[0], targets, torch.tensor(8.0), SMALL)
    none = torch.zeros(4 * SIZE, 4 * SIZE, dtype=torch.bool)
    torch.manual_seed(2)
    spelled = [Target(t.labels, t.masks, void=none) for t in targets]
    assert_same(plain, layer_losses(layers[0], spelled, torch.tensor(8.0), SMALL))


def test_all_void_costs_nothing_but_dice_of_nothing() -> None:
    everything = torch.ones(4 * SIZE, 4 * SIZE, dtype=torch.bool)
    targets = [Target(t.labels, t.masks, void=everything) for t in random_targets()]
    layer = random_layers(1)[0]
    layer.mask_logits.requires_grad_()
    found = layer_losses(layer, targets, torch.tensor(8.0), SMALL)
    assert found.masks.item() == 0
    assert found.dice.item() == 0
    found.weighted(SMALL).backward()
    assert layer.mask_logits.grad is not None
    assert not layer.mask_logits.grad.any()


def test_candidates_leave_other_labels_alone() -> None:
    layer, targets = random_layers(1)[0], random_targets(counts=(1, 1, 1))
    allowed = torch.zeros(K, dtype=torch.bool)
    allowed[[int(t.labels) for t in targets]] = True
    allowed[0] = True
    some = [Target(t.labels, t.masks, candidates=allowed) for t in targets]
    layer.class_logits.requires_grad_()
    torch.manual_seed(0)
    criterion([layer], some, SMALL).total.backward()
    gradient = layer.class_logits.grad
    assert gradient is not None
    assert torch.isfinite(gradient).all()
    assert not gradient[..., :-1][..., ~allowed].any()
    assert gradient[..., :-1][..., allowed].any()
    assert gradient[..., -1].any()


def test_partial_labels_do_not_teach_void() -> None:
    layer = random_layers(1)[0]
    targets = [Target(t.labels, t.masks, exhaustive=False) for t in random_targets()]
    layer.class_logits.requires_grad_()
    criterion([layer], targets, SMALL).total.backward()
    taught = layer.class_logits.grad.abs().sum(-1) > 0  # type: ignore[union-attr]
    assert taught.sum(1).tolist() == [3, 1, 4]  # the matched queries alone


def test_nothing_to_learn_is_zero_and_finite() -> None:
    layer = random_layers(1)[0]
    nothing = Target(
        torch.zeros(0, dtype=torch.int64), torch.zeros(0, 8, 8, dtype=torch.bool), exhaustive=False
    )
    layer.class_logits.requires_grad_()
    found = criterion([layer], [nothing] * B, SMALL)
    found.total.backward()
    assert found.total.item() == 0
    assert torch.isfinite(layer.class_logits.grad).all()  # type: ignore[arg-type]


def test_masks_are_counted_and_at_least_one() -> None:
    device = torch.device("cpu")
    assert num_masks(random_targets(), device).item() == 8
    assert num_masks(random_targets(counts=(0, 0, 0)), device).item() == 1
    assert num_masks(random_targets(), device, 2.5).item() == 2.5
    layers, targets = random_layers(1), random_targets()
    torch.manual_seed(0)
    once = criterion(layers, targets, SMALL).layers[0]
    torch.manual_seed(0)
    double = criterion(layers, targets, SMALL, masks_per_batch=16).layers[0]
    assert double.masks.item() == pytest.approx(once.masks.item() / 2)
    assert double.classes.item() == once.classes.item()


def test_autocast_does_not_decide_who_is_matched() -> None:
    """The second query is better by less than bfloat16 can tell."""
    target = Target(torch.tensor([0]), torch.ones(1, 8, 8, dtype=torch.bool))
    logits = torch.stack([torch.full((8, 8), 3.0), torch.full((8, 8), 3.001)])[None]
    layer = Prediction(logits, torch.zeros(1, 2, K + 1))
    found = []
    for half in (False, True):
        torch.manual_seed(0)
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            terms = layer_losses(layer, [target], torch.tensor(1.0), SMALL)
        found.append((terms.classes.item(), terms.masks.item(), terms.dice.item()))
    assert found[0] == found[1]


@pytest.mark.parametrize("void", [False, True])
def test_logits_decide_the_type(void: bool) -> None:
    """Under 64-true, torch makes new tensors in float64."""
    layers, targets = random_layers(2), random_targets()
    if void:
        nothing = torch.rand(4 * SIZE, 4 * SIZE) > 0.8
        targets = [Target(t.labels, t.masks, void=nothing) for t in targets]
    totals = []
    for default in (torch.float32, torch.float64):
        torch.manual_seed(0)
        torch.set_default_dtype(default)
        try:
            totals.append(criterion(layers, targets, SMALL).total)
        finally:
            torch.set_default_dtype(torch.float32)
    assert totals[0].dtype == totals[1].dtype == torch.float32
    assert totals[0].item() == totals[1].item()


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        (random_targets()[:2], "3 images need as many targets"),
        ([Target(torch.tensor([9]), torch.ones(1, 8, 8).bool())] * 3, r"lie in \[0, 5\)"),
        ([Target(torch.tensor([1, 2]), torch.ones(1, 8, 8).bool())] * 3, "2 labels but 1"),
        (
            [Target(torch.tensor([1]), torch.ones(1, s, 8).bool()) for s in (8, 8, 4)],
            "of one size",
        ),
        (
            [
                Target(
                    torch.tensor([1]), torch.ones(1, 8, 8).bool(), candidates=torch.zeros(K).bool()
                )
            ]
            * 3,
            "not among its candidates",
        ),
    ],
)
def test_mistakes_are_named(targets: list[Target], message: str) -> None:
    with pytest.raises(InputError, match=message):
        criterion(random_layers(1), targets, SMALL)


def test_settings_are_checked() -> None:
    with pytest.raises(InputError, match="importance"):
        LossSettings(importance=1.5)
    with pytest.raises(InputError, match="points"):
        LossSettings(points=0)
