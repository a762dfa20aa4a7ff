"""The method as one graph: what ``Segmenter.forward`` computes, in a form that can be traced.

Photo pixels and word embeddings go in, scores and masks come out. The networks are the model's own
modules; only three things are written differently, because their shape hangs on the photo:

* regions are cut by the operator ``scanseg::crops``, a loop in the file that slices, masks and
  resizes one box at a time, as :func:`scanseg.calibration.regions.cut_regions` does;
* contextual shift draws its tokens from tables made beforehand (the draw is a pure function of
  seed, block, proposal and position);
* a photo without any valid region sends one hidden region through the classifier and ignores it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from scanseg.calibration.contextual_shift import shuffling_keys
from scanseg.calibration.regions import (
    crop_masks,
    crop_pixels,
    extent,
    normalise,
    patch_foreground,
)
from scanseg.contracts import ClipTokens, InferenceSettings, InputError, Proposals, Regions
from scanseg.fusion import TermOwners, fuse, in_vocabulary_scores
from scanseg.proposals.mask_decoder import DecodedProposals
from scanseg.segmenter import Segmenter

EXPORTABLE_SHIFTS = ("cls", "none", "learnable")


class MethodGraph(nn.Module):
    """Figure 2 for one photo of one size; words come at run time.

    Args:
        segmenter: the model, whose proposals and encoders are modules that can be traced.
        settings: baked into the graph, but for ``ensemble_weight`` and ``unseen_weight`` (an input)
            and ``unknown_below`` (applied to the map).

    Raises:
        InputError: the settings ask for a source of the shift that has no such form.
    """

    def __init__(self, segmenter: Segmenter, settings: InferenceSettings) -> None:
        super().__init__()
        if settings.branches != "embedding" and settings.shift_source not in EXPORTABLE_SHIFTS:
            raise InputError(
                f"shift source {settings.shift_source!r} cannot be exported: "
                f"use one of {', '.join(EXPORTABLE_SHIFTS)}"
            )
        plain = InferenceSettings()
        for name in ("hopeless_below", "region_overlap", "region_tokens"):
            if getattr(settings, name) != getattr(plain, name):
                raise InputError(f"{name} cannot be exported: leave it at {getattr(plain, name)}")
        self.segmenter = segmenter
        self.settings = settings

    def forward(
        self, pixels: Tensor, text: Tensor, owner: Tensor, weight: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Scores and masks of one photo.

        Args:
            pixels: (1, 3, h, w) float32, RGB in 0..255.
            text: (T, D), unit norm, one row per name, synonym and background word.
            owner: (T,) int64, the label of each row, each of the K' labels at least once.
            weight: (K',) ensemble weight w of each label, in [0, 1].

        Returns:
            scores (Q, K') and masks (Q, h, w), whose product is the map (``fusion.label_map``).
        """
        model, settings, recipe = self.segmenter, self.settings, self.segmenter.recipe
        context = model.clip.encode_image(
            pixels, layers=recipe.token_layers, semantics=settings.semantics
        )
        proposals = model.proposals(pixels, context)
        embeddings = proposals.embeddings
        if embeddings is not None and model.integration is not None:
            embeddings = model.integration(embeddings, context)
        features, query, valid = None, None, proposals.masks.flatten(2).any(-1)
        if settings.branches != "embedding":
            regions = self._cut(pixels, proposals)
            shift = TabledShift(model, settings, context, proposals.masks.shape[1])
            features = model.region_clip.encode_regions(regions, context, shift)  # (R, D)
            query, valid = regions.query, regions.valid
        scores = opinions(model, settings, embeddings, features, query, valid, text, owner, weight)
        return scores[0], proposals.masks[0]

    def _cut(self, pixels: Tensor, proposals: Proposals) -> Regions:
        """As ``cut_regions``; where no proposal is valid, the first one stands in."""
        clip, settings = self.segmenter.region_clip, self.settings
        inside = proposals.masks > settings.mask_threshold  # (1, Q, h, w)
        valid = inside.flatten(2).any(-1)  # (1, Q)
        first = torch.arange(valid.shape[1], device=valid.device) == 0
        query = (valid[0] | (first & ~valid.any())).nonzero()[:, 0]  # (R,)
        torch._check(query.shape[0] >= 1)
        torch._check(query.shape[0] <= valid.shape[1])
        image = torch.zeros_like(query)
        picked = inside[0, query]  # (R, h, w)
        (x0, x1), (y0, y1) = extent(picked.any(1).byte()), extent(picked.any(2).byte())
        boxes = torch.stack([x0, y0, x1, y1], -1)  # (R, 4)
        photo = normalise(pixels, clip.pixel_mean, clip.pixel_std)[0]  # (3, h, w)
        paper = settings.semantics == "paper"
        return Regions(
            pixels=crops(photo, picked, boxes, clip.region_size, paper),
            masks=crop_masks(inside, image, query, boxes, clip.region_size),
            boxes=boxes,
            image=image,
            query=query,
            valid=valid,
            inside=inside,
        )


class _Part(nn.Module):
    """A part of the method, for models whose proposals are not networks alone."""

    def __init__(self, segmenter: Segmenter, settings: InferenceSettings) -> None:
        super().__init__()
        self.segmenter = segmenter
        self.settings = settings


class ContextGraph(_Part):
    """The part before proposals that are not networks (superpixels)."""

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        """(1, 3, h, w) float32 -> the map to merge regions on and the map to read them from.

        Returns:
            dense (D, g_y, g_x); last (V, rows, columns), the encoder's last layer, and coarse
            (D, rows, columns), its own dense map; with a mask decoder also its mask logits
            (Q, h / 4, w / 4) and objectness (Q,).
        """
        model: Any = self.segmenter
        context = model.clip.encode_image(
            pixels, layers=model.recipe.token_layers, semantics=self.settings.semantics
        )
        seen = context.for_regions
        dense = model.proposals.dense_map(context)[0]
        maps = dense[0], seen.feature_map(model.clip.depth)[0], seen.dense[0]
        if not isinstance(model.proposals, DecodedProposals):
            return maps
        found = model.proposals.decoder(context)[-1]
        return *maps, found.mask_logits[0], found.objectness[0]


class OpinionGraph(_Part):
    """The part after such proposals, for an encoder that reads regions from its last layer."""

    def forward(
        self,
        embeddings: Tensor,
        pooled: Tensor,
        valid: Tensor,
        text: Tensor,
        owner: Tensor,
        weight: Tensor,
    ) -> Tensor:
        """Scores of proposals.

        Args:
            embeddings: (Q, D) of the proposals.
            pooled: (Q, V) mean of the encoder's last layer under each mask.
            valid: (Q,) bool, masks that are not empty.
            text: as for ``MethodGraph``, and ``owner`` and ``weight`` too.

        Returns:
            (Q, K').
        """
        model: Any = self.segmenter
        features = None
        if self.settings.branches != "embedding":
            features = model.region_clip.conse(pooled)
        scores = opinions(
            model,
            self.settings,
            embeddings[None],
            features,
            None,
            valid[None],
            text,
            owner,
            weight,
        )
        return scores[0]


class CellGraph(_Part):
    """Both classifiers on the cells of the dense map."""

    def forward(
        self, dense: Tensor, coarse: Tensor, text: Tensor, owner: Tensor, weight: Tensor
    ) -> Tensor:
        """Scores of cells, times what a cell counts.

        Args:
            dense: (D, g_y, g_x).
            coarse: (D, rows, columns).
            text: as for ``MethodGraph``, and ``owner`` and ``weight`` too.

        Returns:
            (K', g_y, g_x).
        """
        owners = _Owners(owner, weight.shape[0])
        found = self.segmenter.label_cells(
            dense[None], coarse[None], text, owners, weight, self.settings
        )
        return found[0]


def opinions(
    model: Segmenter,
    settings: InferenceSettings,
    embeddings: Tensor | None,
    features: Tensor | None,
    query: Tensor | None,
    valid: Tensor,
    text: Tensor,
    owner: Tensor,
    weight: Tensor,
) -> Tensor:
    """Both classifiers and their ensemble, as the end of ``Segmenter.forward``; (1, Q, K').

    Args:
        embeddings: (1, Q, D), integrated, or ``None``.
        features: (R, D) of the regions, or ``None`` where the region classifier is silent.
        query: (R,) which proposal each region is; ``None``: R = Q, in order.
        valid: (1, Q).
    """
    owners, p_in, p_void, p_clip = _Owners(owner, weight.shape[0]), None, None, None
    if embeddings is not None:
        p_in, p_void = in_vocabulary_scores(
            embeddings, text, owners, model.void, model.recipe.embedding_scale
        )
    if features is not None:
        p_clip = owners.best(model.recipe.region_scale * features @ text.T).softmax(-1)  # (R, K')
        if query is not None:
            start = p_clip.new_ones(valid.shape[1], owners.labels)
            p_clip = start.index_copy(0, query, p_clip)
        p_clip = torch.where(valid[0][:, None], p_clip, 1.0)[None]  # (1, Q, K')
    return fuse(
        p_in,
        p_void,
        p_clip,
        valid,
        weight=weight,
        branches=settings.branches,
        log_fusion=settings.log_fusion,
    )


class _Owners(TermOwners):
    """Terms and labels whose numbers are not known yet, so that terms are always gathered."""

    def best(self, logits: Tensor, dim: int = -1) -> Tensor:
        """Term logits -> label logits along ``dim``."""
        return self.gathered(logits, dim)


class TabledShift:
    """Contextual shift (eq. 5) with its draw taken from tables; a ``contracts.TokenEdit``.

    Args:
        model: gives shift layers and the learnable vector.
        settings: ratio, source, order, seed, semantics.
        context: of the whole photo.
        queries: Q.
    """

    def __init__(
        self, model: Segmenter, settings: InferenceSettings, context: ClipTokens, queries: int
    ) -> None:
        before = 1 if settings.semantics == "paper" else 0
        layers = settings.shift_layers or model.recipe.shift_layers
        idle = settings.shift_source == "none" or not settings.shift_ratio
        self._layers = () if idle else tuple(layer - before for layer in layers)
        self._settings = settings
        self._context = context
        self._learnable = model.learnable_shift
        self._queries = queries

    def __call__(
        self, tokens: Tensor, layer: int, regions: Regions, grid: tuple[int, int]
    ) -> Tensor:
        """Replace background tokens after block ``layer``; see ``ContextualShift``."""
        if layer not in self._layers:
            return tokens
        if self._settings.shift_source == "learnable":
            assert self._learnable is not None
            incoming = self._learnable[None, None]  # (1, 1, V)
        else:
            incoming = self._context.cls[layer][:, None]  # (1, 1, V)
        chosen = self._choose(patch_foreground(regions.masks, grid), layer, regions.query)
        return torch.where(chosen[..., None], incoming, tokens)

    def _choose(self, foreground: Tensor, layer: int, query: Tensor) -> Tensor:
        """(R, N) bool: the first ``int(ratio * n)`` of the n background patches in drawn order."""
        N = foreground.shape[1]
        if self._settings.shift_order == "first":
            keys = np.tile(np.arange(N, dtype=np.int32), (self._queries, 1))
        else:
            seed = self._settings.shift_seed % 2**64
            keys = shuffling_keys(np.arange(self._queries), N, layer, seed)
        order = np.argsort(keys, axis=1, kind="stable")  # (Q, N): drawn order -> position
        place = np.argsort(order, axis=1)  # position -> drawn order
        drawn = torch.gather(~foreground, 1, torch.from_numpy(order)[query])  # (R, N)
        ratio = self._settings.shift_ratio or 0.0
        quotas = torch.tensor([int(ratio * n) for n in range(N + 1)])
        count = drawn.long().cumsum(1)  # (R, N)
        taken = drawn & (count <= quotas[count[:, -1]][:, None])
        return torch.gather(taken, 1, torch.from_numpy(place)[query])


@torch.library.custom_op("scanseg::crops", mutates_args=())
def crops(photo: Tensor, inside: Tensor, boxes: Tensor, size: int, antialias: bool) -> Tensor:
    """(3, h, w) normalised photo, (R, h, w) masks, (R, 4) boxes -> (R, 3, size, size)."""
    image = torch.zeros_like(boxes[:, 0])
    semantics: Any = "paper" if antialias else "released"
    query = torch.arange(len(boxes))
    return crop_pixels(photo[None], image, boxes, size, semantics, cover=(inside[None], query))


@crops.register_fake
def _(photo: Tensor, inside: Tensor, boxes: Tensor, size: int, antialias: bool) -> Tensor:
    return photo.new_empty(boxes.shape[0], 3, size, size)
