"""Values and protocols that cross rooms; nothing here computes a model.

Letters used in every docstring and shape comment of the project:

====  =====================================================================
B     images in a batch
Q     proposals (learnable queries) of an image
R     valid regions of the whole batch (R <= B * Q)
K     labels of a vocabulary
T     terms: names, synonyms and background words together (T >= K)
H W   height and width of the caller's photo, in pixels
h w   height and width of the resized photo that the networks see
N     patch tokens of a vision transformer (a g x g grid, N = g * g)
L     layers (blocks) of CLIP's vision transformer
D     joint image-text width
V     vision width
====  =====================================================================

Importing this module imports neither torch nor any other room.
"""

from __future__ import annotations

import difflib
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cache, cached_property
from pathlib import Path
from typing import (
    TYPE_CHECKING,
    Any,
    Literal,
    Protocol,
    get_args,
    get_type_hints,
    runtime_checkable,
)

import numpy as np

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

    from scanseg.formats.parts import Parts

UNKNOWN = -1
"""Value in ``Segmentation.labels`` of a pixel that none of the caller's words explains."""

Semantics = Literal["released", "paper"]
Branches = Literal["both", "embedding", "clip"]
ShiftSource = Literal["cls", "none", "noise", "background", "learnable"]
ShiftOrder = Literal["random", "first"]
Mode = Literal["exact", "bf16", "fast"]
Things = Sequence[str] | Literal["all"]
"""Words whose connected regions are segments of their own; "all": every word."""


_MOST_TOLD = 1000  # characters of a message; a file may have put a megabyte into it
_HEAD, _TAIL = 600, 380  # of a longer one: what is wrong stands in front, what to do at the end
_UNPRINTABLE = frozenset(("Cc", "Cs", "Zl", "Zp"))
_TURNING = frozenset("\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


class InputError(ValueError):
    """A user's mistake. The message is one line and says what to do; the CLI exits with 2.

    Messages quote names and values out of files that anybody may have written, so line breaks,
    control characters and changes of the writing direction become escapes, and what is longer than
    1,000 characters is cut in the middle.
    """

    def __init__(self, message: object = "") -> None:
        super().__init__(_one_line(str(message)))


def _one_line(text: str) -> str:
    if len(text) > _MOST_TOLD:  # also before escaping, which takes its time
        text = f"{text[:_HEAD]} ... {text[-_TAIL:]}"
    if not text.isprintable():
        text = "".join(_escaped(c) for c in text)
    return text if len(text) <= _MOST_TOLD else f"{text[:_HEAD]} ... {text[-_TAIL:]}"


def _escaped(character: str) -> str:
    if character in _TURNING or unicodedata.category(character) in _UNPRINTABLE:
        return character.encode("unicode_escape").decode("ascii")
    return character


class MissingExtra(InputError, ImportError):  # noqa: N818  (reads better in a traceback)
    """An optional dependency is absent; the message names the extra that brings it."""

    def __init__(self, extra: str, needed_for: str) -> None:
        self._made_of = (extra, needed_for)
        super().__init__(f'{needed_for} needs an optional part: pip install "scanseg[{extra}]"')

    def __reduce__(self) -> tuple[type, tuple[str, str]]:
        return type(self), self._made_of


class UnknownName(InputError, KeyError):  # noqa: N818  (reads better in a traceback)
    """A name that is not in the vocabulary; the message names the nearest one."""

    __str__ = Exception.__str__  # a KeyError shows its message in quotes

    def __init__(self, name: object, names: Sequence[str]) -> None:
        close = difflib.get_close_matches(str(name), names, n=1)
        hint = f" (did you mean {close[0]!r}?)" if close else ""
        known = ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
        self._made_of = (str(name), tuple(names))
        super().__init__(f"{name!r} is not one of the words{hint}: {known}")

    def __reduce__(self) -> tuple[type, tuple[str, tuple[str, ...]]]:
        return type(self), self._made_of


# --------------------------------------------------------------------------------------
# Settings
# --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class InferenceSettings:
    """Every choice of the method at inference; recorded in each output.

    The defaults are those of the released SCAN for both sizes.

    Args:
        semantics: where paper and released code differ, which one to compute
            (``docs/decisions/`` has a page for each difference).
        mask_threshold: probability in [0, 1) above which a pixel belongs to a region.
        ensemble_weight: exponent w of the region classifier, in [0, 1]:
            ``p = p_in^(1-w) * p_clip^w``. It never selects a branch; ``branches`` does.
        unseen_weight: exponent for labels that the proposals' embeddings were never taught, for
            models that know what they were taught (``embedded``); ``None``: the same as
            ``ensemble_weight``.
        branches: which classifiers speak (table 8): the proposal ``"embedding"``, the region
            ``"clip"`` (proposals without a valid region are then left out), or ``"both"``.
        shift_ratio: share alpha in [0, 1] of the background tokens that contextual shift replaces;
            ``None`` takes the default of the semantics (0.15 released, 0.30 paper, table 7).
        shift_source: what replaces them (table 6); ``"none"`` switches contextual shift off.
        shift_order: ``"random"`` draws the tokens with ``shift_seed``; ``"first"`` takes the first
            ones in row-major order (parity with the reference numbers).
        shift_seed: seed of the draw; the same seed gives the same tokens, whatever the batch.
        shift_layers: CLIP blocks around which tokens are replaced (1-based); ``None`` takes the
            preset's.
        dense_weight: what a cell of the proposals' dense map counts in the map, beside a mask's 1,
            at least 0; 0, or proposals without a dense map: masks alone speak.
        log_fusion: fuse in log space and weigh with the void probability (for very large
            vocabularies).
        unknown_below: pixels whose confidence is lower become unknown (-1); in [0, 1].
        region_batch: regions that go through the region classifier at once; bounds memory,
            does not change results.
        region_tokens: patch tokens of a region that the region classifier keeps, at least 1;
            ``None`` keeps all. This and the next three are approximations that save time.
        region_tokens_after: block of the region classifier after which the other tokens are left
            out; 0: before the first one.
        region_overlap: proposals whose masks have at least this intersection over union share one
            look of the region classifier, in (0, 1]; 1 looks at each.
        hopeless_below: proposals that reach this share of the strongest evidence at no pixel are
            left out, in [0, 1]; 0 keeps all.

    Raises:
        InputError: a value is out of its range, or none of its choices.
    """

    semantics: Semantics = "released"
    mask_threshold: float = 0.4
    ensemble_weight: float = 0.7
    unseen_weight: float | None = None
    branches: Branches = "both"
    shift_ratio: float | None = None
    shift_source: ShiftSource = "cls"
    shift_order: ShiftOrder = "random"
    shift_seed: int = 0
    shift_layers: tuple[int, ...] | None = None
    dense_weight: float = 0.0
    log_fusion: bool = False
    unknown_below: float = 0.0
    region_batch: int = 8
    region_tokens: int | None = None
    region_tokens_after: int = 0
    region_overlap: float = 1.0
    hopeless_below: float = 0.0

    def __post_init__(self) -> None:
        for name, choices in _CHOICES.items():
            value = getattr(self, name)
            if value not in get_args(choices):
                allowed = ", ".join(map(repr, get_args(choices)))
                raise InputError(f"{name} must be one of {allowed}, not {value!r}")
        if self.shift_ratio is None:
            object.__setattr__(self, "shift_ratio", DEFAULT_SHIFT_RATIO[self.semantics])
        self._check_types()
        for name in (
            "ensemble_weight",
            "unseen_weight",
            "shift_ratio",
            "unknown_below",
            "region_overlap",
            "hopeless_below",
        ):
            value = getattr(self, name)
            if value is not None and not 0.0 <= value <= 1.0:
                raise InputError(f"{name} must lie in [0, 1], not {value!r}")
        if self.region_overlap == 0.0:
            raise InputError("region_overlap must lie in (0, 1], not 0.0")
        if not 0.0 <= self.mask_threshold < 1.0:
            raise InputError(f"mask_threshold must lie in [0, 1), not {self.mask_threshold!r}")
        if not 0.0 <= self.dense_weight < float("inf"):
            raise InputError(f"dense_weight must be at least 0, not {self.dense_weight!r}")
        if self.region_batch < 1:
            raise InputError(f"region_batch must be at least 1, not {self.region_batch!r}")
        if self.region_tokens is not None and self.region_tokens < 1:
            raise InputError(f"region_tokens must be at least 1, not {self.region_tokens!r}")
        if self.region_tokens_after < 0:
            raise InputError(
                f"region_tokens_after must be at least 0, not {self.region_tokens_after!r}"
            )
        if self.shift_layers is not None:
            object.__setattr__(self, "shift_layers", tuple(int(i) for i in self.shift_layers))

    def _check_types(self) -> None:
        for name, kind in _setting_kinds().items():
            value = getattr(self, name)
            if kind is bool and not isinstance(value, bool):
                raise InputError(f"{name} must be true or false, not {value!r}")
            whole = kind in (int, int | None)
            if not (whole or kind in (float, float | None)) or value is None:
                continue
            numbers = (int, np.integer) if whole else (int, float, np.integer, np.floating)
            if isinstance(value, bool) or not isinstance(value, numbers):
                kind_of = "a whole number" if whole else "a number"
                raise InputError(f"{name} must be {kind_of}, not {value!r}")

    def replace(self, **changes: Any) -> InferenceSettings:
        """A copy with some fields changed (``settings.replace(shift_ratio=0.05)``).

        Raises:
            InputError: no such setting, or a value that it cannot have.
        """
        unknown = set(changes) - {f.name for f in fields(self)}
        if unknown:
            raise InputError(f"no such inference setting: {', '.join(sorted(unknown))}")
        at_default = self.shift_ratio == DEFAULT_SHIFT_RATIO[self.semantics]
        if "semantics" in changes and "shift_ratio" not in changes and at_default:
            changes["shift_ratio"] = None
        return replace(self, **changes)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


@cache
def _setting_kinds() -> dict[str, Any]:
    """Types of the settings by name; settings are made for every call with a threshold."""
    return get_type_hints(InferenceSettings)


_CHOICES: dict[str, Any] = {
    "semantics": Semantics,
    "branches": Branches,
    "shift_source": ShiftSource,
    "shift_order": ShiftOrder,
}
DEFAULT_SHIFT_RATIO: dict[str, float] = {"released": 0.15, "paper": 0.30}


# --------------------------------------------------------------------------------------
# Values that pass between the parts of the method
# --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ClipTokens:
    """What the original, frozen CLIP says of whole images (sec. 3.1).

    Attributes:
        patches: layer -> patch tokens F_HW of that layer, (B, N, V). Layers are 1-based and mean
            "after that block"; only the layers that were asked for are kept. A convolutional tower
            keeps one map per stage, flattened row by row, and V may differ from layer to layer.
        cls: layer -> [CLS] token F_CLS of that layer, (B, V); key 0 is the token before the first
            block.
        grids: layer -> (rows, columns) of that layer's tokens.
        pooled: F_CLS^final, the projected [CLS] in the joint space, (B, D), unit norm.
        dense: joint-space map of the image for encoders that have one, (B, D, rows, columns),
            unit norm over D; ``None`` otherwise.
        smaller: the same photo seen smaller, resampled to the same grids, for encoders that name
            regions better so; ``None`` otherwise.
    """

    patches: Mapping[int, Tensor]
    cls: Mapping[int, Tensor]
    grids: Mapping[int, tuple[int, int]]
    pooled: Tensor
    dense: Tensor | None = None
    smaller: ClipTokens | None = None

    def feature_map(self, layer: int) -> Tensor:
        """The patch tokens of a layer as a map, (B, V, rows, columns)."""
        return self.patches[layer].transpose(1, 2).unflatten(2, self.grids[layer])

    @property
    def for_regions(self) -> ClipTokens:
        """What regions and cells are classified by: patches of the last layer and ``dense``, on
        the grids of these tokens."""
        return self if self.smaller is None else self.smaller


@dataclass(frozen=True)
class Proposals:
    """Class-agnostic masks M_N and their embeddings F_N (sec. 3).

    Attributes:
        masks: mask probabilities in the frame of the resized photo, (B, Q, h, w), in [0, 1].
        embeddings: proposal embeddings in the joint space, (B, Q, D), not normalised; ``None`` for
            generators that learn none (then only the region classifier can speak).
        objectness: how likely a proposal is one thing or surface at all, (B, Q), in [0, 1]; weighs
            what it adds to the map. ``None`` for generators that leave this to the void embedding.
        dense: embeddings of the cells of a grid over the photo, (B, D, g_y, g_x), for generators
            that make them; the grid starts at the photo's upper left corner and may reach beyond
            its other sides.
        dense_stride: side of such a cell, pixels of the resized photo.
    """

    masks: Tensor
    embeddings: Tensor | None = None
    objectness: Tensor | None = None
    dense: Tensor | None = None
    dense_stride: int = 0


@dataclass(frozen=True)
class Regions:
    """The sub-images delta(I, M_k) of eq. 4: proposals over the threshold, cropped and masked.

    Attributes:
        pixels: crops, (R, 3, S, S), normalised as the region classifier expects; outside the mask
            they hold CLIP's mean colour.
        masks: the binary masks in the frame of the crops, (R, S, S), bool.
        boxes: (R, 4) int64, x0 y0 x1 y1 in pixels of the resized photo, end exclusive.
        image: (R,) int64, which image of the batch a region comes from.
        query: (R,) int64, which proposal of that image it is.
        valid: (B, Q) bool, proposals with at least one pixel over the threshold; R is their count
            and the order is row-major.
        inside: (B, Q, h, w) bool, the thresholded masks.
    """

    pixels: Tensor
    masks: Tensor
    boxes: Tensor
    image: Tensor
    query: Tensor
    valid: Tensor
    inside: Tensor

    def __len__(self) -> int:
        return int(self.image.shape[0])

    def split(self, size: int) -> Iterator[Regions]:
        """The same regions in pieces of at most ``size`` (``valid`` and ``inside`` stay whole)."""
        for start in range(0, len(self), size):
            yield self.select(slice(start, start + size))

    def select(self, part: slice | Tensor) -> Regions:
        """Some of the regions, by a slice or an index (``valid`` and ``inside`` stay whole)."""
        return replace(
            self,
            pixels=self.pixels[part],
            masks=self.masks[part],
            boxes=self.boxes[part],
            image=self.image[part],
            query=self.query[part],
        )


class TokenEdit(Protocol):
    """A change to the tokens of regions between two blocks of the region classifier."""

    def __call__(
        self, tokens: Tensor, layer: int, regions: Regions, grid: tuple[int, int]
    ) -> Tensor:
        """Return the tokens to go on with.

        Args:
            tokens: (R, N, V) patch tokens after block ``layer`` (0: before the first block),
                without the [CLS] token; never changed in place.
            layer: 1-based block number.
            regions: the regions these tokens belong to, in the same order.
            grid: (rows, columns) of the tokens.
        """


@runtime_checkable
class ClipEncoder(Protocol):
    """An image-text encoder; one file in ``encoders/`` or a class of the user's own."""

    joint_width: int
    """D."""
    vision_width: int
    """V of the last layer."""
    depth: int
    """L."""
    region_size: int
    """Side S of the square crops that ``encode_regions`` takes, in pixels."""
    grid: tuple[int, int]
    """(rows, columns) of the patch tokens of such a crop."""
    pixel_mean: tuple[float, float, float]
    """Mean of the normalisation, of values in [0, 1]; also the fill colour of masked crops."""
    pixel_std: tuple[float, float, float]

    @property
    def fingerprint(self) -> str:
        """Changes whenever ``encode_text`` would answer differently; key of the text cache."""

    def encode_text(self, prompts: Sequence[str]) -> Tensor:
        """(P, D) float32 on the CPU or the encoder's device, unit norm."""

    def encode_image(
        self, pixels: Tensor, *, layers: Sequence[int] = (), semantics: Semantics = "released"
    ) -> ClipTokens:
        """Tokens of whole photos.

        Args:
            pixels: (B, 3, h, w) uint8 or float, RGB in 0..255, the resized photos. Resizing to the
                tower's own size, padding and normalisation happen inside.
            layers: layers whose patch tokens to keep. [CLS] tokens are kept for all.
        """

    def encode_regions(
        self, regions: Regions, context: ClipTokens, edit: TokenEdit | None = None
    ) -> Tensor:
        """Features of regions in the joint space, (R, D), unit norm.

        Args:
            context: the whole images' tokens, for encoders that read a region from them.
            edit: called after the embedding (layer 0) and after every block whose tokens are read
                again. It may return fewer tokens.
        """


@runtime_checkable
class ProposalGenerator(Protocol):
    """Class-agnostic masks of a photo; one file in ``proposals/`` or a class of the user's own."""

    def __call__(self, pixels: Tensor, context: ClipTokens) -> Proposals:
        """Masks of (B, 3, h, w) photos, RGB in 0..255 (uint8 or float)."""


# --------------------------------------------------------------------------------------
# The result
# --------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Segment:
    """One labelled part of the map.

    Attributes:
        label: index into the vocabulary's names.
        name: that name.
        score: mean confidence over the segment's pixels, in [0, 1].
        area: pixels.
        bbox: (x, y, width, height) in pixels, as COCO has it.
        mask: (H, W) bool.
    """

    label: int
    name: str
    score: float
    area: int
    bbox: tuple[int, int, int, int]
    mask: np.ndarray = field(repr=False)


@dataclass(frozen=True, eq=False)
class Segmentation:
    """A labelled map of one photo, in the photo's own frame; the value everything else consumes.

    Attributes:
        labels: (H, W) int32, index into ``names``; -1 is unknown.
        names: the vocabulary in the caller's order.
        confidence: (H, W) float32 in [0, 1]: the share of the winning label in the evidence of all
            words at that pixel, background words included.
        scores: (K, H, W) float32, the evidence for each label, if it was asked for.
        image: (H, W, 3) uint8, the photo, upright; kept for overlays.
        settings: what produced the map: preset, inference settings, what the vocabulary holds
            besides names, versions.
        notes: remarks for the person, such as "first of 12 frames".

    ``for segment in out`` goes through ``out.segments``; ``out["sky"]`` is the segment of a word,
    empty if the word was not found; ``"sky" in out`` says whether it was.
    """

    labels: np.ndarray
    names: tuple[str, ...]
    confidence: np.ndarray
    scores: np.ndarray | None = None
    image: np.ndarray | None = field(default=None, repr=False)
    settings: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.labels.ndim != 2 or self.labels.dtype != np.int32:
            raise InputError(
                f"labels must be an (H, W) int32 array, not {self.labels.shape} {self.labels.dtype}"
            )
        if self.confidence.shape != self.labels.shape:
            raise InputError(
                f"confidence has shape {self.confidence.shape}, labels {self.labels.shape}"
            )
        object.__setattr__(self, "names", tuple(self.names))
        if self.labels.size:
            least, most = int(self.labels.min()), int(self.labels.max())
            if least < UNKNOWN or most >= len(self.names):
                raise InputError(
                    f"labels must be -1 (unknown) to {len(self.names) - 1}, an index into names; "
                    f"found {least if least < UNKNOWN else most}"
                )

    @cached_property
    def segments(self) -> list[Segment]:
        """One segment per label that occurs, the largest first."""
        found = []
        for label in np.unique(self.labels):
            if label == UNKNOWN:
                continue
            mask = self.labels == label
            rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
            x, y = int(columns[0]), int(rows[0])
            found.append(
                Segment(
                    label=int(label),
                    name=self.names[label],
                    score=float(self.confidence[mask].mean(dtype=np.float64)),
                    area=int(mask.sum()),
                    bbox=(x, y, int(columns[-1]) - x + 1, int(rows[-1]) - y + 1),
                    mask=mask,
                )
            )
        return sorted(found, key=lambda s: (-s.area, s.label))

    def __iter__(self) -> Iterator[Segment]:
        return iter(self.segments)

    def __getitem__(self, name: str) -> Segment:
        """The segment of a word; of a word that was not found an empty one (area 0, score 0).

        Raises:
            UnknownName: the word is not in the vocabulary (an ``InputError`` and a ``KeyError``).
        """
        if name not in self.names:
            raise UnknownName(name, self.names)
        label = self.names.index(name)
        found = next((s for s in self.segments if s.label == label), None)
        empty = np.zeros(self.labels.shape, dtype=bool)
        return found or Segment(label, name, 0.0, 0, (0, 0, 0, 0), empty)

    def __contains__(self, name: object) -> bool:
        return any(segment.name == name for segment in self.segments)

    def instances(self, things: Things = "all", *, min_area: int = 1) -> Parts:
        """The connected regions of each word as segments of their own, the largest first.

        Things of one word that touch are one region: the map does not say where one ends.

        Args:
            things: the words to look at; others are left out.
            min_area: regions of fewer pixels are left out.

        Raises:
            UnknownName: a thing is not among the words.
        """
        from scanseg.formats.parts import find_instances

        return find_instances(self, things, min_area=min_area)

    def panoptic(self, things: Things = (), *, min_area: int = 1) -> Parts:
        """One segment per connected region of each thing, and one per other word ("stuff").

        ``ids`` of the result is an (H, W) map of segment numbers from 1, 0 being unknown.

        Args:
            things: words that are things.
            min_area: segments of fewer pixels are left out.

        Raises:
            UnknownName: a thing is not among the words.
        """
        from scanseg.formats.parts import find_panoptic

        return find_panoptic(self, things, min_area=min_area)

    def save(self, path: str | Path) -> Path:
        """Write an indexed PNG with a palette; names and settings are in its metadata.

        Pixel values are ``labels + 1``, 0 is unknown (8 bit up to 255 labels, 16 bit grey above).

        Raises:
            InputError: the file cannot be written.
        """
        from scanseg.formats.png import save_indexed_png

        return save_indexed_png(self, path)

    def overlay(self, *, opacity: float = 0.55, legend: bool = True) -> Image.Image:
        """The photo with coloured segments and a legend.

        Args:
            opacity: of the colours, in [0, 1].
            legend: draw names and shares below the photo.

        Raises:
            InputError: opacity out of its range.
        """
        from scanseg.formats.overlay import draw_overlay

        return draw_overlay(self, opacity=opacity, legend=legend)

    def plot(self, axes: Any = None, *, opacity: float = 0.55) -> Any:
        """Draw the overlay and a legend with matplotlib; returns the axes.

        Args:
            axes: where to draw; ``None`` makes a figure.
            opacity: of the colours, in [0, 1].

        Raises:
            MissingExtra: matplotlib is not installed.
        """
        from scanseg.formats.plot import plot

        return plot(self, axes, opacity=opacity)

    def _repr_png_(self) -> bytes:
        """The overlay, for notebooks."""
        from scanseg.formats.png import picture_png

        return picture_png(self.overlay())

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON: names, settings, segments with area, box, confidence, COCO RLE."""
        from scanseg.formats.records import to_record

        return to_record(self)

    def to_coco(
        self,
        *,
        image_id: int = 1,
        file_name: str = "",
        things: Things = (),
        polygons: bool = False,
    ) -> dict[str, Any]:
        """A COCO ``images / annotations / categories`` dictionary.

        Args:
            image_id: of the photo.
            file_name: of the photo.
            things: words with one annotation per connected region (see ``panoptic``).
            polygons: polygons in place of run-length masks.

        Raises:
            UnknownName: a thing is not among the words.
        """
        from scanseg.formats.coco import to_coco

        return to_coco(
            self, image_id=image_id, file_name=file_name, things=things, polygons=polygons
        )

    def to_geojson(self, things: Things = ()) -> dict[str, Any]:
        """A GeoJSON FeatureCollection of polygons in pixel coordinates (x right, y down).

        Args:
            things: words with one feature per connected region (see ``panoptic``).

        Raises:
            UnknownName: a thing is not among the words.
        """
        from scanseg.formats.polygons import to_geojson

        return to_geojson(self, self.panoptic(things) if things else None)

    def to_detections(self, things: Things = ()) -> Any:
        """A ``supervision.Detections`` with one row per segment (needs supervision).

        Args:
            things: words with one row per connected region (see ``panoptic``).

        Raises:
            MissingExtra: supervision is not installed.
            UnknownName: a thing is not among the words.
        """
        from scanseg.formats.detections import to_detections

        return to_detections(self, self.panoptic(things) if things else None)
