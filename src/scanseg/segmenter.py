"""The whole method on one screen (figure 2): encode, propose, integrate, shift, fuse."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from scanseg import __version__
from scanseg.calibration.contextual_shift import ContextualShift
from scanseg.calibration.regions import cut_regions
from scanseg.calibration.shortlist import same_as, without_hopeless
from scanseg.calibration.token_budget import TokenBudget
from scanseg.contracts import (
    UNKNOWN,
    ClipEncoder,
    ClipTokens,
    InferenceSettings,
    InputError,
    Mode,
    ProposalGenerator,
    Proposals,
    Regions,
    Segmentation,
    TokenEdit,
)
from scanseg.formats.photos import Photo, PhotoSource, read_photo
from scanseg.fusion import (
    DenseEvidence,
    LabelMap,
    TermOwners,
    dense_scores,
    fuse,
    in_vocabulary_scores,
    label_map,
    region_scores,
)
from scanseg.recipe import Recipe
from scanseg.storage import cache_folder
from scanseg.vocabulary import Vocabulary
from scanseg.vocabulary.embeddings import TextCache, embed_vocabulary


@dataclass(frozen=True)
class EncodedWords:
    """A vocabulary that the text tower has read, to be used for many calls of one model."""

    vocabulary: Vocabulary
    text: Tensor  # (T, D) unit norm
    owners: TermOwners


Words = Sequence[str] | Mapping[str, Sequence[str]] | Vocabulary
CPU_BATCH, DEVICE_BATCH = 1, 8  # photos of one size at once; batching gains nothing on CPUs


@contextmanager
def full_float32(device: torch.device) -> Iterator[None]:
    """On CUDA, convolutions in float32 where cuDNN would take TF32, whose 10 bits move labels."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = before and device.type != "cuda"
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before


@dataclass(frozen=True)
class Evidence:
    """What the method found on the way to the map; K' is K plus background labels."""

    proposals: Proposals
    embeddings: Tensor | None  # (B, Q, D) F_N^final
    regions: Regions | None
    features: Tensor | None  # (R, D) F_m, unit norm
    p_in: Tensor | None  # (B, Q, K')
    p_clip: Tensor | None  # (B, Q, K')
    scores: Tensor  # (B, Q, K') the ensemble of both
    cells: Tensor | None = None  # (B, K', g_y, g_x) the same for a dense map's cells

    def dense(self, photo: int) -> DenseEvidence | None:
        """What the cells of one photo of the batch add to its map."""
        if self.cells is None:
            return None
        return DenseEvidence(self.cells[photo], self.proposals.dense_stride)


class Segmenter(nn.Module):
    """Open-vocabulary segmentation: a photo and any words in, a labelled map out.

    Args:
        clip: the original, frozen encoder, which sees whole photos.
        proposals: makes class-agnostic masks and their embeddings.
        recipe: what the preset fixes besides the networks.
        region_clip: classifies regions and encodes words; ``None``: ``clip`` does.
        integration: the semantic integration module; ``None`` switches SIM off (table 3).
        void: (D,) embedding of "no object", or ``None``.
        taught: (words, D) unit-norm text embeddings of the words that the proposals' embeddings
            learned from; ``None`` where that is not known.
        learnable_shift: (V,) token for ``shift_source="learnable"``, or ``None``.
        config: what ``presets.build`` made this from, for ``save_pretrained``.
    """

    def __init__(
        self,
        *,
        clip: ClipEncoder,
        proposals: ProposalGenerator,
        recipe: Recipe,
        region_clip: ClipEncoder | None = None,
        integration: Callable[[Tensor, ClipTokens], Tensor] | None = None,
        void: Tensor | None = None,
        taught: Tensor | None = None,
        learnable_shift: Tensor | None = None,
        config: Any = None,
    ) -> None:
        super().__init__()
        self.taught: Tensor | None
        self.clip = clip
        self.region_clip = clip if region_clip is None else region_clip
        self.proposals = proposals
        self.integration = integration
        self.void = None if void is None else nn.Parameter(void)
        self.register_buffer("taught", taught, persistent=False)
        self.learnable_shift = None if learnable_shift is None else nn.Parameter(learnable_shift)
        self.recipe = recipe
        self.config = config
        self.eval()

    def forward(
        self, pixels: Tensor, text: Tensor, owners: TermOwners, settings: InferenceSettings
    ) -> Evidence:
        """Figure 2 for photos of one size, (B, 3, h, w) uint8 RGB, and words from ``encode``."""
        context = self.clip.encode_image(  # F_HW, F_CLS
            pixels, layers=self.recipe.token_layers, semantics=settings.semantics
        )
        proposals = self.proposals(pixels, context)  # M_N, F_N

        embeddings, p_in, p_void = proposals.embeddings, None, None
        if embeddings is not None:
            if self.integration is not None:
                embeddings = self.integration(embeddings, context)  # F_N^final, eq. 1-3
            p_in, p_void = in_vocabulary_scores(
                embeddings, text, owners, self.void, self.recipe.embedding_scale
            )

        proposals = without_hopeless(proposals, p_in, settings.hopeless_below)
        regions, features, p_clip = None, None, None
        if settings.branches == "embedding":
            valid = proposals.masks.flatten(2).any(-1)
        else:
            regions = self.cut(pixels, proposals, settings)  # delta(I, M_k), eq. 4
            features = self.classify(regions, pixels, context, settings)  # F_m, eq. 5
            valid = regions.valid
            p_clip = region_scores(features, valid, text, owners, self.recipe.region_scale)

        weight = self.ensemble_weights(text, owners, settings)
        scores = fuse(
            p_in,
            p_void,
            p_clip,
            valid,
            weight=weight,
            branches=settings.branches,
            log_fusion=settings.log_fusion,
            objectness=proposals.objectness,
        )
        cells = None
        if proposals.dense is not None and settings.dense_weight > 0:
            coarse = context.for_regions.dense
            cells = self.label_cells(proposals.dense, coarse, text, owners, weight, settings)
        return Evidence(proposals, embeddings, regions, features, p_in, p_clip, scores, cells)

    def encode(self, words: Words) -> tuple[Tensor, TermOwners]:
        """Words -> (T, D) unit-norm embeddings and the label that each speaks for (disk cache).

        Raises:
            InputError: a word cannot be used.
        """
        vocabulary = Vocabulary.of(words)
        clip, recipe = self.region_clip, self.recipe
        kind = self.device.type  # other devices round differently, and their rows are kept apart
        name = clip.fingerprint if kind == "cpu" else f"{clip.fingerprint}-{kind}"
        cache = TextCache(cache_folder() / "text", name, clip.joint_width)
        encoded = embed_vocabulary(vocabulary, recipe, clip, cache)
        owner = torch.tensor(encoded.owner, device=self.device)
        return torch.from_numpy(encoded.rows).to(self.device), TermOwners(owner, encoded.labels)

    def prepare(self, words: Words) -> EncodedWords:
        """Words encoded once, for callers that label many photos with the same ones.

        Raises:
            InputError: a word cannot be used.
        """
        vocabulary = Vocabulary.of(words)
        return EncodedWords(vocabulary, *self.encode(vocabulary))

    def ensemble_weights(
        self, text: Tensor, owners: TermOwners, settings: InferenceSettings
    ) -> float | Tensor:
        """The exponent w: one number, or (K',) where taught and unseen labels differ."""
        unseen = settings.unseen_weight
        if unseen is None or self.taught is None:
            return settings.ensemble_weight
        nearness = owners.best((text @ self.taught.T).amax(1))  # (K',) cosine with a taught word
        known = nearness >= self.recipe.taught_similarity
        return torch.where(known, settings.ensemble_weight, unseen)

    def cut(self, pixels: Tensor, proposals: Proposals, settings: InferenceSettings) -> Regions:
        """Crop and mask the proposals over the threshold (eq. 4's delta)."""
        return cut_regions(
            pixels,
            proposals.masks,
            threshold=settings.mask_threshold,
            size=self.region_clip.region_size,
            mean=self.region_clip.pixel_mean,
            std=self.region_clip.pixel_std,
            semantics=settings.semantics,
        )

    def classify(
        self, regions: Regions, pixels: Tensor, context: ClipTokens, settings: InferenceSettings
    ) -> Tensor:
        """Contextually shifted features of the regions, (R, D), unit norm (eq. 5)."""
        clip = self.region_clip
        shift = ContextualShift(
            context,
            layers=settings.shift_layers or self.recipe.shift_layers,
            ratio=settings.shift_ratio or 0.0,
            source=settings.shift_source,
            order=settings.shift_order,
            seed=settings.shift_seed,
            semantics=settings.semantics,
            learnable=self.learnable_shift,
        )
        regions = shift.prepare(
            regions,
            pixels,
            grid=clip.grid,
            mean=clip.pixel_mean,
            std=clip.pixel_std,
            semantics=settings.semantics,
        )
        edit: TokenEdit = shift
        if settings.region_tokens is not None:
            edit = TokenBudget(shift, settings.region_tokens, after=settings.region_tokens_after)
        twin = same_as(regions, settings.region_overlap)  # (R,)
        looked_at, where = twin.unique(return_inverse=True)
        parts = [
            clip.encode_regions(r, context, edit)
            for r in regions.select(looked_at).split(settings.region_batch)
        ]
        return torch.cat(parts)[where] if parts else regions.pixels.new_zeros(0, clip.joint_width)

    def label_cells(
        self,
        dense: Tensor,
        coarse: Tensor | None,
        text: Tensor,
        owners: TermOwners,
        weight: float | Tensor,
        settings: InferenceSettings,
    ) -> Tensor:
        """Both classifiers on the cells of a dense map, times what a cell counts.

        Args:
            dense: (B, D, g_y, g_x), of the proposals.
            coarse: (B, D, rows, columns), of the encoder.
            text: (T, D) unit norm; ``owners`` tells which label each speaks for.
            weight: as ``ensemble_weights`` gives it.

        Returns:
            (B, K', g_y, g_x).
        """
        found = dense_scores(
            dense,
            coarse,
            text,
            owners,
            self.void,
            embedding_scale=self.recipe.embedding_scale,
            region_scale=self.recipe.region_scale,
            weight=weight,
            branches=settings.branches,
            log_fusion=settings.log_fusion,
        )
        return settings.dense_weight * found

    # ------------------------------------------------------------------ photos in, maps out

    @torch.inference_mode()
    def __call__(
        self,
        photos: PhotoSource | Photo | Sequence[PhotoSource | Photo],
        words: Words | EncodedWords,
        *,
        settings: InferenceSettings | None = None,
        scores: bool = False,
        unknown_below: float | None = None,
    ) -> Any:
        """Label photos with words.

        Args:
            photos: a path, image bytes, a PIL image, an (H, W, 3) uint8 array; or a list of these.
            words: the labels: a list of strings, ``{"sofa": ["couch"]}``, a ``Vocabulary``, or
                what ``prepare`` made of one of these.
            settings: inference settings for this call; ``None`` takes the model's own.
            scores: keep the evidence for every label, (K, H, W), in the result.
            unknown_below: confidence below which a pixel is unknown; overrides the settings'.

        Returns:
            A ``Segmentation`` in the photo's own size, or a list in the order of ``photos``.

        Raises:
            InputError: a photo cannot be read, or a word cannot be used.
        """
        chosen = settings or self.recipe.settings
        if not isinstance(chosen, InferenceSettings):
            raise InputError(
                "settings must be InferenceSettings, such as recipe.settings.replace(...), not "
                f"{type(chosen).__name__}"
            )
        if unknown_below is not None:
            chosen = chosen.replace(unknown_below=unknown_below)
        encoded = words if isinstance(words, EncodedWords) else self.prepare(words)
        many = isinstance(photos, (list, tuple))
        results = []
        for batch in self._batches(photos if many else [photos]):  # type: ignore[arg-type]
            pixels = torch.stack([resized for _, resized in batch]).to(self.device)
            with full_float32(self.device):
                found = self.forward(pixels, encoded.text, encoded.owners, chosen)
            for i, (photo, _) in enumerate(batch):
                size = photo.pixels.shape[:2]
                mapped = label_map(
                    found.scores[i],
                    found.proposals.masks[i],
                    size,
                    dense=found.dense(i),
                    keep_scores=scores,
                )
                results.append(self._result(photo, mapped, encoded.vocabulary, chosen))
        return results if many else results[0]

    def _batches(self, sources: Sequence[Any]) -> Iterator[list[tuple[Photo, Tensor]]]:
        """Neighbours of equal size, resized to (3, h, w)."""
        limit = CPU_BATCH if self.device.type == "cpu" else DEVICE_BATCH
        batch: list[tuple[Photo, Tensor]] = []
        for source in sources:
            photo = source if isinstance(source, Photo) else read_photo(source)
            pixels = torch.from_numpy(self.recipe.resize(photo.pixels)).permute(2, 0, 1)
            if batch and (len(batch) == limit or batch[0][1].shape != pixels.shape):
                yield batch
                batch = []
            batch.append((photo, pixels))
        if batch:
            yield batch

    def _result(
        self, photo: Photo, found: LabelMap, vocabulary: Vocabulary, settings: InferenceSettings
    ) -> Segmentation:
        K = len(vocabulary)
        nothing = found.confidence <= 0  # no proposal reaches these pixels
        unknown = (found.labels >= K) | nothing | (found.confidence < settings.unknown_below)
        return Segmentation(
            labels=found.labels.masked_fill(unknown, UNKNOWN).cpu().numpy().astype(np.int32),
            names=vocabulary.names,
            confidence=found.confidence.float().cpu().numpy(),
            scores=None if found.scores is None else found.scores[:K].float().cpu().numpy(),
            image=photo.pixels,
            settings={
                "preset": self.recipe.name,
                "inference": settings.to_dict(),
                "vocabulary": vocabulary.besides_names(),
                "precision": self.precision,
                "scanseg": __version__,
                "torch": torch.__version__,
            },
            notes=photo.notes,
        )

    # ------------------------------------------------------------------ from and to disk

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path,
        *,
        device: str = "auto",
        settings: InferenceSettings | None = None,
        weights: str | Path | None = None,
        mode: Mode = "exact",
    ) -> Segmenter:
        """A ready model.

        Args:
            name: a preset (``embedded``, ``vit_b``, ``vit_l``, ``zero_train``, ``tiny``), a folder
                that ``save_pretrained`` or ``scanseg convert`` wrote, a hub id (``owner/name``), or
                the path of a function that returns a ``Segmenter`` (``my_package.my_file.model``).
            device: ``"auto"``, ``"cpu"``, ``"cuda"``, ``"cuda:1"``, ``"mps"``.
            settings: inference settings in place of the preset's.
            weights: folder or hub id with the weights of a preset that ships none.
            mode: ``"exact"`` (float32), ``"bf16"`` (region classifier in bfloat16 where the
                hardware has it) or ``"fast"`` (that, and approximations; ``docs/speed.md``).

        Raises:
            InputError: no such preset, folder or mode, or weights that are missing or do not fit.
        """
        from scanseg.presets import load

        return load(name, device=device, settings=settings, weights=weights, mode=mode)

    def save_pretrained(self, folder: str | Path) -> Path:
        """Write weights (safetensors), configuration and notice to ``folder``; returns it.

        Raises:
            InputError: the model was composed by hand, so there is no configuration to write.
        """
        from scanseg.presets import save

        return save(self, folder)

    def use_bfloat16(self) -> Segmenter:
        """Region classifier in bfloat16, where it knows how; inference only from then on."""
        if hasattr(self.region_clip, "use_bfloat16"):
            self.region_clip.use_bfloat16()
        return self

    @property
    def precision(self) -> str:
        """Type of the region classifier's matrix products, such as ``"float32"``."""
        return str(getattr(self.region_clip, "precision", torch.float32)).removeprefix("torch.")

    @property
    def device(self) -> torch.device:
        """Where the networks are."""
        return next((p.device for p in self.parameters()), torch.device("cpu"))
