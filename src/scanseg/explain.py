"""Figure 3 for one's own photo: what the region classifier says of each region, with and without
contextual shift.

>>> from scanseg.explain import draw_explanation, explain    # doctest: +SKIP
>>> found = explain(seg, "photo.jpg", ["cat", "sofa"])       # doctest: +SKIP
>>> draw_explanation(found).save("explain.png")              # doctest: +SKIP
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image, ImageDraw

from scanseg.contracts import InferenceSettings, InputError
from scanseg.formats.lettering import Lettering, shortened
from scanseg.formats.photos import Photo, PhotoSource, read_photo
from scanseg.fusion import region_scores
from scanseg.segmenter import Segmenter, Words
from scanseg.vocabulary import Vocabulary


@dataclass(frozen=True, eq=False)
class RegionOpinion:
    """What the region classifier says of one region.

    Attributes:
        query: number of the proposal.
        crop: (S, S, 3) uint8, the masked crop that the classifier sees.
        before: (K,) probabilities without contextual shift; they sum to at most 1, the rest is the
            background words'.
        after: (K,) with it.
    """

    query: int
    crop: np.ndarray
    before: np.ndarray
    after: np.ndarray


@dataclass(frozen=True, eq=False)
class Explanation:
    """The opinions on a photo's largest regions, and the words they are about."""

    names: tuple[str, ...]
    regions: list[RegionOpinion]
    settings: InferenceSettings


def check_explainable(segmenter: Segmenter, settings: InferenceSettings) -> None:
    """Whether there is a contextual shift to look at.

    Raises:
        InputError: the shift or the region classifier is off, or the encoder reads no crops.
    """
    off = settings.shift_source == "none" or settings.branches == "embedding"
    if (
        off
        or not settings.shift_ratio
        or not (settings.shift_layers or segmenter.recipe.shift_layers)
    ):
        raise InputError(
            f"nothing to explain: preset {segmenter.recipe.name!r} with these settings does no "
            "contextual shift (it takes a CLIP preset, a shift source and the region classifier)"
        )


@torch.inference_mode()
def explain(
    segmenter: Segmenter,
    photo: PhotoSource | Photo,
    words: Words,
    *,
    settings: InferenceSettings | None = None,
    count: int = 6,
) -> Explanation:
    """Classify the largest regions of a photo with and without contextual shift.

    Args:
        segmenter: any model.
        photo: as ``Segmenter`` takes it.
        words: as ``Segmenter`` takes them.
        settings: with the shift to look at; ``None`` takes the model's.
        count: regions to show, at least 1.

    Raises:
        InputError: the settings leave nothing to compare, or no proposal exceeds the threshold.
    """
    chosen = settings or segmenter.recipe.settings
    check_explainable(segmenter, chosen)
    source = photo if isinstance(photo, Photo) else read_photo(photo)
    vocabulary = Vocabulary.of(words)
    text, owners = segmenter.encode(vocabulary)
    pixels = torch.from_numpy(segmenter.recipe.resize(source.pixels)).permute(2, 0, 1)[None]
    pixels = pixels.to(segmenter.device)

    context = segmenter.clip.encode_image(
        pixels, layers=segmenter.recipe.token_layers, semantics=chosen.semantics
    )
    regions = segmenter.cut(pixels, segmenter.proposals(pixels, context), chosen)
    if not len(regions):
        raise InputError(
            f"no proposal exceeds the mask threshold {chosen.mask_threshold}: lower mask_threshold"
        )
    opinions = []
    for case in (chosen.replace(shift_source="none"), chosen):
        features = segmenter.classify(regions, pixels, context, case)
        scores = region_scores(features, regions.valid, text, owners, segmenter.recipe.region_scale)
        opinions.append(scores[regions.image, regions.query, : len(vocabulary)].cpu().numpy())
    areas = regions.inside[regions.image, regions.query].flatten(1).sum(1)  # (R,)
    largest = areas.argsort(descending=True, stable=True)[: max(1, count)].tolist()
    return Explanation(
        names=vocabulary.names,
        settings=chosen,
        regions=[
            RegionOpinion(
                query=int(regions.query[r]),
                crop=_as_picture(regions.pixels[r], segmenter),
                before=opinions[0][r],
                after=opinions[1][r],
            )
            for r in largest
        ],
    )


_CROP, _BARS, _ROW, _MARGIN = 150, 330, 22, 18  # pixels
_BEFORE, _AFTER, _INK, _FAINT = (178, 182, 190), (34, 116, 165), (34, 34, 38), (115, 115, 121)


def draw_explanation(explanation: Explanation, *, labels: int = 5) -> Image.Image:
    """A row per region: its crop, and bars for the likeliest words before (grey) and after (blue).

    Args:
        labels: words shown per region: the likeliest before or after the shift.
    """
    lettering = Lettering(explanation.names)
    font, small = lettering.font(15), lettering.font(13)
    shown = min(labels, len(explanation.names))
    height = max(_CROP, shown * (_ROW + 8)) + _MARGIN
    width = 2 * _MARGIN + _CROP + 150 + _BARS + 60
    picture = Image.new("RGB", (width, len(explanation.regions) * height + 62), "white")
    draw = ImageDraw.Draw(picture)
    settings = explanation.settings
    draw.text((_MARGIN, 10), "What the region classifier sees, and says", _INK, font)
    x = _MARGIN
    shift = f"with shift ({settings.shift_source}, ratio {settings.shift_ratio:g})"
    for colour, words in ((_BEFORE, "without contextual shift"), (_AFTER, shift)):
        draw.rectangle((x, 37, x + 12, 49), fill=colour)
        draw.text((x + 18, 34), words, _FAINT, small)
        x += 40 + int(small.getlength(words))
    for row, region in enumerate(explanation.regions):
        top = 62 + row * height
        crop = Image.fromarray(region.crop).resize((_CROP, _CROP), Image.Resampling.BICUBIC)
        picture.paste(crop, (_MARGIN, top))
        best = np.argsort(-np.maximum(region.before, region.after), kind="stable")[:shown]
        for line, label in enumerate(best.tolist()):
            y, left = top + line * (_ROW + 8), 2 * _MARGIN + _CROP
            name = shortened(lettering.names[label], lettering.font(15, label), 140)
            draw.text((left, y + 2), name, _INK, lettering.font(15, label))
            for offset, colour, values in ((0, _BEFORE, region.before), (11, _AFTER, region.after)):
                share = float(values[label])
                end = left + 150 + max(1, round(share * _BARS))
                draw.rectangle((left + 150, y + offset, end, y + offset + 9), fill=colour)
                draw.text((end + 5, y + offset - 3), f"{share:.0%}", _FAINT, lettering.font(11))
    return picture


def _as_picture(pixels: torch.Tensor, segmenter: Segmenter) -> np.ndarray:
    """A normalised crop (3, S, S) back as (S, S, 3) uint8."""
    clip = segmenter.region_clip
    mean = torch.tensor(clip.pixel_mean, device=pixels.device)[:, None, None]
    std = torch.tensor(clip.pixel_std, device=pixels.device)[:, None, None]
    values = ((pixels * std + mean) * 255).round().clamp(0, 255).byte()
    return values.permute(1, 2, 0).cpu().numpy()
