"""What a preset fixes besides the networks."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from PIL import Image

from scanseg.contracts import InferenceSettings


@dataclass(frozen=True)
class Resize:
    """Bilinear resize that keeps the aspect ratio (released step 1): the size the networks see.

    Args:
        short: wanted short side, pixels.
        longest: bound on the long side, pixels; it wins over ``short``.
    """

    short: int = 640
    longest: int = 2560

    def size(self, height: int, width: int) -> tuple[int, int]:
        """(h, w) for a photo of (H, W); each side at least 1."""
        scale = min(self.short / min(height, width), self.longest / max(height, width))
        return max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))

    def __call__(self, pixels: np.ndarray) -> np.ndarray:
        """(H, W, 3) uint8 -> (h, w, 3) uint8."""
        h, w = self.size(*pixels.shape[:2])
        if (h, w) == pixels.shape[:2]:
            return np.array(pixels)
        image = Image.fromarray(pixels)
        return np.array(image.resize((w, h), Image.Resampling.BILINEAR))


@dataclass(frozen=True)
class Recipe:
    """Sizes, scales, words and settings that belong to a preset.

    Args:
        name: of the preset.
        templates: prompt templates for its text tower.
        resize: rule for the size that the networks see.
        embedding_scale: factor of the cosine in the in-vocabulary softmax.
        region_scale: factor of the cosine in the region classifier's softmax.
        shift_layers: blocks around which contextual shift replaces tokens (1-based).
        token_layers: layers whose patch tokens SIM or the proposals read.
        decoys: background words for callers who name none.
        decoy_similarity: decoys whose cosine with one of the caller's words reaches this are left
            out, because they may mean the same, or a kind of it ("animal", "dog").
        sibling_similarity: this bound for words that are among the decoys themselves: what else is
            on the list is something else ("sofa", "bed"), unless it is nearer than this.
        taught_similarity: a label counts as taught if its cosine with a taught word reaches this
            (``InferenceSettings.unseen_weight``).
        settings: inference settings for callers who give none.
    """

    name: str
    templates: tuple[str, ...]
    resize: Resize = field(default_factory=Resize)
    embedding_scale: float = 100.0
    region_scale: float = 100.0
    shift_layers: tuple[int, ...] = ()
    token_layers: tuple[int, ...] = ()
    decoys: tuple[str, ...] = ()
    decoy_similarity: float = 0.5
    sibling_similarity: float = 0.5
    taught_similarity: float = 0.8
    settings: InferenceSettings = field(default_factory=InferenceSettings)
