"""Pairs of masked crop and noun from captioned photos (SCAN sec. 3.2 end; OVSeg's procedure).

The nouns of a caption are looked for among the proposals of its photo: each noun takes the proposal
whose masked crop the region CLIP finds most like it. No label is used.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from scanseg import __version__
from scanseg.contracts import InputError, Regions
from scanseg.formats.lettering import Lettering, shortened
from scanseg.formats.photos import read_photo
from scanseg.segmenter import Segmenter
from scanseg.storage import atomic_write, write_json
from scanseg.training.captions import CaptionedPhoto
from scanseg.training.order import derived_seed
from scanseg.training.pairs import (
    SUMMARY,
    Pair,
    PairFolder,
    PairInfo,
    masked,
    read_record,
    read_summary,
    write_shard,
)
from scanseg.vocabulary import Vocabulary
from scanseg.vocabulary.nouns import NounFinder, NounList
from scanseg.weights import fingerprints

SHEET = "contact_sheet.png"
_QUANTILES = (0, 5, 25, 50, 75, 95, 100)


@dataclass(frozen=True)
class MiningSettings:
    """What is kept.

    Args:
        captions: of each photo, drawn with the seed; released: 1.
        min_score: least cosine of crop and noun. CLIPs differ: look at the contact sheet.
        min_area: least share of the photo that a crop's mask covers, in [0, 1].
        max_overlap: of two pairs of a photo whose masks overlap more (IoU), the lower score goes.
        per_image: most pairs of a photo, the best ones.
        per_noun: most pairs of a noun, the first ones; ``None``: no bound.
        surroundings: keep the crop without its mask too, for shift source ``background``.
        shard: photos in a shard.
        seed: which captions.
    """

    captions: int = 1
    min_score: float = 0.0
    min_area: float = 0.001
    max_overlap: float = 0.8
    per_image: int = 8
    per_noun: int | None = None
    surroundings: bool = False
    shard: int = 500
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("captions", "per_image", "shard"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be at least 1, not {getattr(self, name)}")
        if self.per_noun is not None and self.per_noun < 1:
            raise InputError(f"per_noun must be at least 1, not {self.per_noun}")
        for name, low in (("min_score", -1), ("min_area", 0), ("max_overlap", 0)):
            if not low <= getattr(self, name) <= 1:
                raise InputError(f"{name} must lie in [{low}, 1], not {getattr(self, name)}")


@dataclass(frozen=True)
class Match:
    """A noun and its proposal: number of the region, cosine."""

    noun: str
    region: int
    score: float


def match(similarity: Tensor, nouns: Sequence[str], masks: Tensor, limit: float) -> list[Match]:
    """Each noun with its best region; of two that overlap, the better one.

    Args:
        similarity: (nouns, R) cosines.
        nouns: their words.
        masks: (R, h, w) bool.
        limit: IoU above which two masks are the same thing.

    Returns:
        The best first; equal scores in the order of ``nouns``.
    """
    best = similarity.max(1)
    order = sorted(range(len(nouns)), key=lambda i: (-float(best.values[i]), i))
    kept: list[Match] = []
    for i in order:
        region = int(best.indices[i])
        if all(_iou(masks[region], masks[other.region]) <= limit for other in kept):
            kept.append(Match(nouns[i], region, float(best.values[i])))
    return kept


def _iou(a: Tensor, b: Tensor) -> float:
    union = int((a | b).sum())
    return int((a & b).sum()) / union if union else 1.0


class Miner:
    """Finds the pairs of a photo.

    Args:
        segmenter: its proposals and its region CLIP, without contextual shift.
        nouns: caption -> nouns.
        settings: what is kept.
    """

    def __init__(self, segmenter: Segmenter, nouns: NounFinder, settings: MiningSettings) -> None:
        self.segmenter, self.nouns, self.settings = segmenter, nouns, settings
        self.inference = segmenter.recipe.settings.replace(shift_source="none")
        self.counts: Counter[str] = Counter()

    def sentences(self, photo: CaptionedPhoto) -> list[str]:
        """The captions to use: all, or as many as the settings say, drawn by seed and key."""
        count = min(self.settings.captions, len(photo.captions))
        seed = derived_seed(self.settings.seed, 4, *photo.key.encode())
        drawn = np.random.default_rng(seed).permutation(len(photo.captions))[:count]
        return [photo.captions[i] for i in sorted(drawn)]

    @torch.inference_mode()
    def __call__(self, photo: CaptionedPhoto) -> list[Pair]:
        """The pairs of a photo, the best first.

        Raises:
            InputError: the photo cannot be read.
        """
        settings = self.settings
        spoken: dict[str, str] = {}  # noun -> caption
        for sentence in self.sentences(photo):
            for noun in self.nouns(sentence):
                spoken.setdefault(noun, sentence)
        words = list(spoken)
        if not words:
            self.counts["photos without nouns"] += 1
            return []
        source = read_photo(photo.image).pixels
        resized = self.segmenter.recipe.resize(source)
        regions, features = self._regions(resized)
        if not len(regions):
            self.counts["photos without proposals"] += 1
            return []
        masks = regions.inside[regions.image, regions.query].cpu()  # (R, h, w)
        large = masks.flatten(1).float().mean(1) >= settings.min_area
        similarity = self._text(words) @ features.float().cpu().T  # (nouns, R)
        similarity = similarity.masked_fill(~large, -2.0)  # below every cosine
        found = match(similarity, words, masks, settings.max_overlap)
        self.counts["doubles"] += len(words) - len(found)
        good = [m for m in found if m.score >= settings.min_score and bool(large[m.region])]
        self.counts["too unlike or too small"] += len(found) - len(good)
        self.counts["beyond per_image"] += max(0, len(good) - settings.per_image)
        whole = self._stretched(source)
        pairs = []
        for number, chosen in enumerate(good[: settings.per_image]):
            x0, y0, x1, y1 = regions.boxes[chosen.region].tolist()
            around = resized[y0:y1, x0:x1]
            info = PairInfo(
                f"{photo.key.replace('.', '_')}_{number:02d}",
                chosen.noun,
                round(chosen.score, 6),
                (x0, y0, x1, y1),
                photo.key,
                spoken[chosen.noun],
                settings.seed,
            )
            crop = masked(around, masks[chosen.region][y0:y1, x0:x1].numpy())
            pairs.append(Pair(info, crop, whole, around if settings.surroundings else None))
        return pairs

    def _regions(self, resized: np.ndarray) -> tuple[Regions, Tensor]:
        segmenter, settings = self.segmenter, self.inference
        pixels = torch.from_numpy(resized).permute(2, 0, 1)[None].to(segmenter.device)
        context = segmenter.clip.encode_image(
            pixels, layers=segmenter.recipe.token_layers, semantics=settings.semantics
        )
        regions = segmenter.cut(pixels, segmenter.proposals(pixels, context), settings)
        return regions, segmenter.classify(regions, pixels, context, settings)

    def _text(self, words: Sequence[str]) -> Tensor:
        return self.segmenter.encode(Vocabulary(words, background=()))[0].float().cpu()

    def _stretched(self, source: np.ndarray) -> np.ndarray:
        size = (self.segmenter.region_clip.region_size,) * 2
        return np.array(Image.fromarray(source).resize(size, Image.Resampling.BICUBIC))


def mine(
    photos: Sequence[CaptionedPhoto],
    miner: Miner,
    output: str | Path,
    *,
    about: Mapping[str, Any],
    advance: Callable[[], None] = lambda: None,
) -> Mapping[str, Any]:
    """Mine all photos into shards, going on where an earlier call was cut short.

    Args:
        photos: in a fixed order.
        miner: finds the pairs.
        output: folder of the shards, of ``mining.json`` and the contact sheet.
        about: what decides the pairs besides the settings (preset, files), plain values.
        advance: called after each photo.

    Returns:
        What ``mining.json`` holds: settings, counts, quantiles of the scores, nouns.

    Raises:
        InputError: the folder holds pairs that were mined otherwise, or a photo cannot be read.
    """
    output, settings = Path(output), miner.settings
    run = {"scanseg": __version__, **about, "settings": asdict(settings), "photos": len(photos)}
    if (output / SUMMARY).exists():
        there = read_summary(output).get("run")
        if there != run:
            differs = next(k for k in run if not isinstance(there, dict) or there.get(k) != run[k])
            raise InputError(
                f"{output} holds pairs mined with another {differs}: choose another --output"
            )
    write_json(output / SUMMARY, {"run": run, "finished": False})
    per_noun: Counter[str] = Counter()
    totals: Counter[str] = Counter()
    for number, start in enumerate(range(0, len(photos), settings.shard)):
        part = photos[start : start + settings.shard]
        record = read_record(output, number)
        if record is None:
            miner.counts.clear()
            found = []
            for photo in part:
                found += _within(miner(photo), settings.per_noun, per_noun, miner.counts)
                advance()
            record = write_shard(output, number, found, miner.counts)
        else:
            for pair in record["pairs"]:
                per_noun[pair["noun"]] += 1
            for _ in part:
                advance()
        totals.update(record["left out"])
    return _summarise(output, run, totals)


def identity(
    segmenter: Segmenter, photos: Sequence[CaptionedPhoto], parser: str, finder: NounFinder
) -> dict[str, Any]:
    """What decides the pairs besides the settings: model, captions, nouns."""
    words = hashlib.sha256()
    if isinstance(finder, NounList):
        words.update("\n".join(sorted(finder.nouns)).encode())
    said = hashlib.sha256(repr([(p.key, p.captions) for p in photos]).encode())
    return {
        "preset": segmenter.recipe.name,
        **fingerprints(segmenter),
        "parser": f"{parser} {words.hexdigest()[:16]}",
        "captions": said.hexdigest()[:16],
    }


def _within(
    pairs: Sequence[Pair], bound: int | None, seen: Counter[str], counts: Counter[str]
) -> list[Pair]:
    """The pairs whose noun was not met too often; they are counted in ``seen``."""
    kept = []
    for pair in pairs:
        if bound is not None and seen[pair.info.noun] >= bound:
            counts["beyond per_noun"] += 1
            continue
        seen[pair.info.noun] += 1
        kept.append(pair)
    return kept


def _summarise(output: Path, run: Mapping[str, Any], totals: Mapping[str, int]) -> dict[str, Any]:
    summary: dict[str, Any] = {
        "run": run,
        "finished": True,
        "left out": dict(sorted(totals.items())),
    }
    write_json(output / SUMMARY, summary)
    pairs = PairFolder(output)
    scores = [info.score for info in pairs.infos]
    nouns = Counter(info.noun for info in pairs.infos)
    summary |= {
        "pairs": len(pairs),
        "photos with pairs": len({info.image for info in pairs.infos}),
        "different nouns": len(nouns),
        "score quantiles": {
            f"{q} %": round(float(np.percentile(scores, q)), 4) for q in _QUANTILES
        },
        "nouns": dict(sorted(nouns.items(), key=lambda entry: (-entry[1], entry[0]))),
    }
    write_json(output / SUMMARY, summary)
    contact_sheet(pairs, output / SHEET)
    return summary


def contact_sheet(pairs: PairFolder, output: Path, *, most: int = 96, columns: int = 12) -> None:
    """A PNG of crops with noun and score, from the best to the worst score, evenly spread."""
    order = sorted(range(len(pairs)), key=lambda i: (-pairs.infos[i].score, pairs.infos[i].key))
    chosen = [order[i] for i in np.linspace(0, len(order) - 1, min(most, len(order))).astype(int)]
    side, line, gap = 112, 16, 6
    rows = -(-len(chosen) // columns)
    cell = side + line + gap
    sheet = Image.new("RGB", (columns * (side + gap) + gap, rows * cell + gap), "white")
    draw, lettering = ImageDraw.Draw(sheet), Lettering([pairs.infos[i].noun for i in chosen])
    for place, number in enumerate(chosen):
        pair: Pair = pairs[number]
        x, y = gap + place % columns * (side + gap), gap + place // columns * cell
        crop = Image.fromarray(pair.crop)
        crop.thumbnail((side, side), Image.Resampling.LANCZOS)
        sheet.paste(crop, (x + (side - crop.width) // 2, y + (side - crop.height) // 2))
        font = lettering.font(11, place)
        text = f"{pair.info.score:.2f} {lettering.names[place]}"
        draw.text((x, y + side + 1), shortened(text, font, side), fill="black", font=font)
    with atomic_write(output) as file:
        sheet.save(file, format="PNG")
