"""The set criterion of mask classification: matching, then class, mask and dice losses (sec. 4.2).

Every target mask is given to one query (Hungarian matching); a matched query learns label and
mask, any other learns "no object". Masks are compared on sampled points only. As in Mask2Former,
and equal to transformers' ``Mask2FormerLoss`` term by term as long as a target says nothing more
than labels and masks. What is new are three things that a target may add, for images that are
labelled in part: pixels that count for nothing, the labels its annotator could have said, and
whether what was said is all there is.

Only torch and scipy; nothing here knows where logits come from.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from scanseg.contracts import InputError

IGNORED = -100
"""Class target of a query that learns nothing."""

Matches = list[tuple[Tensor, Tensor]]
"""Per image: matched queries and the targets they were given, both (M,) int64."""


@dataclass(frozen=True)
class LossSettings:
    """Weights and sampling of the criterion; the defaults are the released ones.

    Args:
        class_weight: of the cross entropy, in the loss and in the matching cost.
        mask_weight: of the binary cross entropy on points, in both.
        dice_weight: of the dice loss on points, in both.
        no_object_weight: weight of the void class inside the cross entropy.
        points: points on which two masks are compared.
        oversample: candidates per point, from which the uncertain ones are chosen.
        importance: share of the points that are the most uncertain candidates; the rest are random.
        auxiliary: supervise the predictions of all layers, not only the last one.
        last_auxiliary: whether the last auxiliary prediction, that of the layer before the final
            one, counts. In the released settings it has no weight.

    Raises:
        InputError: a value is out of range.
    """

    class_weight: float = 2.0
    mask_weight: float = 5.0
    dice_weight: float = 5.0
    no_object_weight: float = 0.1
    points: int = 12544
    oversample: float = 3.0
    importance: float = 0.75
    auxiliary: bool = True
    last_auxiliary: bool = False

    def __post_init__(self) -> None:
        for name in ("class_weight", "mask_weight", "dice_weight", "no_object_weight"):
            if getattr(self, name) < 0:
                raise InputError(f"{name} must not be negative, not {getattr(self, name)!r}")
        if self.points < 1 or self.oversample < 1:
            raise InputError("points and oversample must be at least 1")
        if not 0 <= self.importance <= 1:
            raise InputError(f"importance must lie in [0, 1], not {self.importance!r}")


@dataclass(frozen=True)
class Prediction:
    """What one layer says of a batch.

    Attributes:
        mask_logits: (B, Q, h, w), before the sigmoid, at any resolution.
        class_logits: (B, Q, K + 1), before the softmax, the last column is void.
    """

    mask_logits: Tensor
    class_logits: Tensor


@dataclass(frozen=True)
class Target:
    """What is known about one image.

    Attributes:
        labels: (T,) int64 in [0, K).
        masks: (T, H, W) bool, in the frame of the mask logits at a resolution of their own.
        void: (H, W) bool, pixels that count for nothing, such as unlabelled ones: no point on them
            enters matching, mask or dice loss. ``None``: a pixel in no mask is outside of all.
        candidates: (K,) bool, labels that could have been said of this image; class logits of the
            others take no part. ``None``: all.
        exhaustive: whether everything that is in the image has its mask; if not, queries without a
            match are not taught that they saw nothing.
    """

    labels: Tensor
    masks: Tensor
    void: Tensor | None = None
    candidates: Tensor | None = None
    exhaustive: bool = True


@dataclass(frozen=True)
class LayerLosses:
    """The three terms of one layer, not weighted; scalars."""

    classes: Tensor
    masks: Tensor
    dice: Tensor

    def weighted(self, settings: LossSettings) -> Tensor:
        """Their weighted sum."""
        return (
            settings.class_weight * self.classes
            + settings.mask_weight * self.masks
            + settings.dice_weight * self.dice
        )


@dataclass(frozen=True)
class Losses:
    """The criterion's answer.

    Attributes:
        total: what to minimise.
        layers: terms of the layers that were supervised; the final layer first, then the auxiliary
            ones in order.
    """

    total: Tensor
    layers: tuple[LayerLosses, ...]

    def terms(self) -> dict[str, Tensor]:
        """The total and the final layer's terms by name, for a log."""
        final = self.layers[0]
        return {
            "loss": self.total,
            "class": final.classes,
            "mask": final.masks,
            "dice": final.dice,
        }


def criterion(
    layers: Sequence[Prediction],
    targets: Sequence[Target],
    settings: LossSettings | None = None,
    *,
    masks_per_batch: Tensor | float | None = None,
) -> Losses:
    """Losses of a batch, with deep supervision over the layers.

    Points are drawn from torch's global generator, the final layer's first.

    Args:
        layers: predictions from the first to the final layer, auxiliary ones included.
        targets: one for each image of the batch; the masks of all have one size.
        settings: weights and sampling; ``None``: the released ones.
        masks_per_batch: target masks in this batch, or their mean over batches whose gradients are
            averaged (accumulation); ``None`` counts them. Averaged over ranks, at least 1.

    Raises:
        InputError: shapes do not fit, or a label is out of range.
    """
    settings = settings or LossSettings()
    _check(layers, targets)
    masks = num_masks(targets, layers[-1].mask_logits.device, masks_per_batch)
    auxiliary = layers[:-1] if settings.auxiliary else layers[:0]
    if auxiliary and not settings.last_auxiliary:
        auxiliary = auxiliary[:-1]
    found = tuple(layer_losses(p, targets, masks, settings) for p in (layers[-1], *auxiliary))
    total = torch.stack([terms.weighted(settings) for terms in found]).sum()
    return Losses(total, found)


def layer_losses(
    prediction: Prediction, targets: Sequence[Target], masks: Tensor, settings: LossSettings
) -> LayerLosses:
    """The terms of one layer, in float32 under any autocast.

    Args:
        masks: by how many masks to divide, scalar; see :func:`num_masks`.
    """
    with torch.autocast(prediction.mask_logits.device.type, enabled=False):
        mask_logits = prediction.mask_logits.float()
        class_logits = allowed_logits(prediction.class_logits.float(), targets)
        matches = match(Prediction(mask_logits, class_logits), targets, settings)
        mask_loss, dice = mask_losses(mask_logits, targets, matches, masks, settings)
        classes = class_loss(class_logits, targets, matches, settings.no_object_weight)
    return LayerLosses(classes, mask_loss, dice)


def num_masks(
    targets: Sequence[Target], device: torch.device, counted: Tensor | float | None = None
) -> Tensor:
    """Target masks per batch, averaged over ranks, at least 1; scalar float32."""
    if counted is None:
        counted = sum(len(target.labels) for target in targets)
    count = torch.as_tensor(counted, dtype=torch.float32, device=device)
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        count = count.clone()
        torch.distributed.all_reduce(count)
        count = count / torch.distributed.get_world_size()
    return count.clamp(min=1)


def allowed_logits(class_logits: Tensor, targets: Sequence[Target]) -> Tensor:
    """(B, Q, K + 1) with minus infinity at labels that an image's source could not have said."""
    if all(target.candidates is None for target in targets):
        return class_logits
    K = class_logits.shape[-1] - 1
    everything = torch.ones(K, dtype=torch.bool, device=class_logits.device)
    candidates = torch.stack(
        [everything if t.candidates is None else t.candidates.to(everything) for t in targets]
    )  # (B, K)
    allowed = F.pad(candidates, (0, 1), value=True)[:, None]  # void is always allowed
    return class_logits.masked_fill(~allowed, -torch.inf)


# --------------------------------------------------------------------------------------
# Matching
# --------------------------------------------------------------------------------------


@torch.no_grad()
def match(prediction: Prediction, targets: Sequence[Target], settings: LossSettings) -> Matches:
    """Give each target mask to a query so that the total cost is least.

    The cost of a pair is minus the probability of the target's label, mask and dice losses on
    ``settings.points`` random points, the same ones for all masks of an image, each times its
    weight.
    """
    found = []
    for class_logits, mask_logits, target in zip(
        prediction.class_logits, prediction.mask_logits, targets, strict=True
    ):
        points = random_points(1, settings.points, mask_logits)
        truth = sample(target.masks.to(mask_logits)[:, None], points)  # (T, P)
        guess = sample(mask_logits[:, None], points)  # (Q, P)
        if target.void is not None:
            counts = sample(target.void[None, None].to(mask_logits), points, mode="nearest")[0] == 0
            truth, guess = truth[:, counts], guess[:, counts]
        cost = (
            settings.mask_weight * _pairwise_cross_entropy(guess, truth)
            - settings.class_weight * class_logits.softmax(-1)[:, target.labels]
            + settings.dice_weight * _pairwise_dice(guess, truth)
        )  # (Q, T)
        worst = torch.finfo(cost.dtype).max
        cost = torch.nan_to_num(cost, nan=worst, posinf=worst, neginf=worst)
        queries, given = linear_sum_assignment(cost.cpu().numpy())
        found.append(
            (
                torch.as_tensor(queries, dtype=torch.int64, device=cost.device),
                torch.as_tensor(given, dtype=torch.int64, device=cost.device),
            )
        )
    return found


def _pairwise_cross_entropy(guess: Tensor, truth: Tensor) -> Tensor:
    """Mean binary cross entropy of every query with every target: (Q, P), (T, P) -> (Q, T)."""
    points = max(1, guess.shape[1])
    inside = F.softplus(-guess) / points  # -log sigmoid
    outside = F.softplus(guess) / points
    return inside @ truth.T + outside @ (1 - truth).T


def _pairwise_dice(guess: Tensor, truth: Tensor) -> Tensor:
    """``1 - (2 sum p t + 1) / (sum p + sum t + 1)`` for every pair: (Q, P), (T, P) -> (Q, T)."""
    p = guess.sigmoid()
    return 1 - (2 * p @ truth.T + 1) / (p.sum(-1)[:, None] + truth.sum(-1)[None] + 1)


# --------------------------------------------------------------------------------------
# Losses of matched queries
# --------------------------------------------------------------------------------------


def class_loss(
    class_logits: Tensor, targets: Sequence[Target], matches: Matches, no_object_weight: float
) -> Tensor:
    """Cross entropy over K labels and void, (B, Q, K + 1) -> scalar.

    A weighted mean over the queries, void's weight being ``no_object_weight``. Queries without a
    match learn void, or nothing where the image's labels are not exhaustive.
    """
    B, Q, columns = class_logits.shape
    device = class_logits.device
    wanted = torch.empty(B, Q, dtype=torch.int64, device=device)
    for i, (target, (queries, given)) in enumerate(zip(targets, matches, strict=True)):
        wanted[i] = columns - 1 if target.exhaustive else IGNORED
        wanted[i, queries] = target.labels.to(device)[given]
    if not (wanted != IGNORED).any():
        return class_logits.nan_to_num(neginf=0.0).sum() * 0.0  # a mean over nothing
    weight = class_logits.new_ones(columns)
    weight[-1] = no_object_weight
    return F.cross_entropy(
        class_logits.transpose(1, 2), wanted, weight=weight, ignore_index=IGNORED
    )


def mask_losses(
    mask_logits: Tensor,
    targets: Sequence[Target],
    matches: Matches,
    masks: Tensor,
    settings: LossSettings,
) -> tuple[Tensor, Tensor]:
    """Binary cross entropy and dice loss of matched masks, on points; two scalars.

    Sums over the masks, divided by ``masks``.
    """
    images = [torch.full_like(queries, i) for i, (queries, _) in enumerate(matches)]
    taken = torch.cat([queries for queries, _ in matches])
    logits = mask_logits[torch.cat(images), taken][:, None]  # at once: one gradient to fill
    if len(logits) == 0:
        nothing = mask_logits.sum() * 0.0
        return nothing, nothing
    truth = torch.cat(
        [t.masks[given.to(t.masks.device)] for t, (_, given) in zip(targets, matches, strict=True)]
    ).to(logits)[:, None]  # (M, 1, H, W)
    void = _void_of_each(targets, matches)
    with torch.no_grad():
        points = uncertain_points(logits, settings, void)  # (M, P, 2)
        wanted = sample(truth, points)  # (M, P)
        weight = None if void is None else 1 - sample(void.to(logits), points, mode="nearest")
    guess = sample(logits, points)  # (M, P)
    cross_entropy = F.binary_cross_entropy_with_logits(guess, wanted, reduction="none")
    p = guess.sigmoid()
    if weight is None:
        each = cross_entropy.mean(1)
    else:
        each = (cross_entropy * weight).sum(1) / weight.sum(1).clamp(min=1)
        p, wanted = p * weight, wanted * weight
    dice = 1 - (2 * (p * wanted).sum(-1) + 1) / (p.sum(-1) + wanted.sum(-1) + 1)
    return each.sum() / masks, dice.sum() / masks


def _void_of_each(targets: Sequence[Target], matches: Matches) -> Tensor | None:
    """(M, 1, H, W) bool, the void of each matched mask's image; ``None`` where nobody has any."""
    if all(target.void is None for target in targets):
        return None
    parts = []
    for target, (queries, _) in zip(targets, matches, strict=True):
        void = (
            target.masks.new_zeros(target.masks.shape[1:]) if target.void is None else target.void
        )
        parts.append(void.bool().expand(len(queries), 1, *void.shape))
    return torch.cat(parts)


def uncertain_points(logits: Tensor, settings: LossSettings, void: Tensor | None = None) -> Tensor:
    """Points where the masks are least sure of themselves, and some random ones.

    Args:
        logits: (M, 1, h, w).
        void: (M, 1, H, W) bool, where points are worth nothing: chosen last.

    Returns:
        (M, P, 2) x and y in [0, 1].
    """
    M = len(logits)
    candidates = random_points(M, int(settings.points * settings.oversample), logits)
    unsure = -sample(logits, candidates).abs()  # (M, candidates)
    if void is not None:
        outside = sample(void.to(logits), candidates, mode="nearest") > 0
        unsure = unsure.masked_fill(outside, -torch.inf)
    chosen = int(settings.importance * settings.points)
    index = unsure.topk(chosen, dim=1).indices
    points = candidates.gather(1, index[..., None].expand(-1, -1, 2))
    others = settings.points - chosen
    if others > 0:
        points = torch.cat([points, random_points(M, others, logits)], dim=1)
    return points


def random_points(M: int, count: int, like: Tensor) -> Tensor:
    """(M, count, 2) in [0, 1), of type and device of ``like``, whatever torch's default type."""
    return torch.rand(M, count, 2, dtype=like.dtype, device=like.device)


def sample(maps: Tensor, points: Tensor, *, mode: str = "bilinear") -> Tensor:
    """Values of maps at points, zero outside.

    Args:
        maps: (M, 1, h, w).
        points: (M, P, 2) or (1, P, 2), x and y in [0, 1], corner to corner.

    Returns:
        (M, P).
    """
    grid = (2.0 * points - 1.0).expand(len(maps), -1, -1)[:, :, None]  # (M, P, 1, 2)
    return F.grid_sample(maps, grid, mode=mode, align_corners=False)[:, 0, :, 0]


def _check(layers: Sequence[Prediction], targets: Sequence[Target]) -> None:
    if not layers:
        raise InputError("the criterion needs the prediction of at least one layer")
    masks, classes = layers[-1].mask_logits, layers[-1].class_logits
    if masks.ndim != 4 or classes.ndim != 3 or masks.shape[:2] != classes.shape[:2]:
        raise InputError(
            f"mask logits must be (B, Q, h, w) and class logits (B, Q, K + 1), "
            f"not {tuple(masks.shape)} and {tuple(classes.shape)}"
        )
    if len(targets) != len(masks):
        raise InputError(f"{len(masks)} images need as many targets, not {len(targets)}")
    sizes = {tuple(target.masks.shape[1:]) for target in targets}
    if len(sizes) != 1 or len(next(iter(sizes))) != 2:
        raise InputError(f"target masks must be (T, H, W) of one size in a batch, not {sizes}")
    K = classes.shape[-1] - 1
    for target in targets:
        if len(target.labels) != len(target.masks):
            raise InputError(f"{len(target.labels)} labels but {len(target.masks)} target masks")
        if len(target.labels) and not 0 <= int(target.labels.min()) <= int(target.labels.max()) < K:
            raise InputError(f"labels must lie in [0, {K})")
        if target.candidates is not None and not bool(target.candidates[target.labels].all()):
            raise InputError("a target's label is not among its candidates")
