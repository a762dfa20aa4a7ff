"""SCAN straight from the paper, and how many times faster each mode of ours is, in one run.

    python benchmarks/naive_reference.py --weights FOLDER [--modes exact bf16 fast] [--pairs 2]

The reference here is float32 and does the plain thing at every step: transformers' own Mask2Former,
one crop and one pass through open_clip's own tower per region, the K x H x W map held whole,
resized, arg max. It reads the weights of the model folder that our modes read (``scanseg convert``;
``parity_l.py`` makes one from the reference names). Reference and mode run in turn, A B A B, on 150
cached labels; ratios are taken pair by pair. The region classifier is also set against the
machine's measured matrix product rate.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from scanseg import Segmenter, Vocabulary, bench
from scanseg.calibration.regions import patch_foreground
from scanseg.contracts import InferenceSettings, Regions
from scanseg.formats.photos import read_photo
from scanseg.proposals import quick_layers
from scanseg.vocabulary.label_sets import load_label_set

WORK_PER_REGION = {"vit_l": 162e9, "vit_b": 35e9}
"""Floating point operations of one region's pass, rounded (a multiply and an add are two)."""


@torch.inference_mode()
def naive_map(seg: Segmenter, photo: Path, words: Vocabulary, settings: InferenceSettings) -> Any:
    """The label map, (H, W) int64, and the seconds that the region classifier took."""
    picture = read_photo(photo)
    pixels = torch.from_numpy(seg.recipe.resize(picture.pixels)).permute(2, 0, 1)[None]
    text, _ = seg.encode(words)
    context = seg.clip.encode_image(pixels, layers=seg.recipe.token_layers)

    masks, embeddings = naive_proposals(seg, pixels)
    masks = masks[0]  # (Q, h, w)
    embeddings = seg.integration(embeddings, context)[0]  # (Q, D)

    candidates = torch.cat([text, F.normalize(seg.void, dim=-1)[None]])
    p_in = (100 * F.normalize(embeddings, dim=-1) @ candidates.T).softmax(-1)[:, :-1]
    p_clip = torch.ones_like(p_in)
    started = time.perf_counter()
    for q in range(len(masks)):
        inside = masks[q] > settings.mask_threshold
        if not inside.any():
            continue
        feature = classify_one(seg, pixels, inside, q, context, settings)
        p_clip[q] = (100 * feature @ text.T).softmax(-1)
    spent = time.perf_counter() - started
    weight = settings.ensemble_weight
    scores = p_in ** (1 - weight) * p_clip**weight  # (Q, K)
    maps = torch.einsum("qk,qhw->khw", scores, masks)
    size = picture.pixels.shape[:2]
    maps = F.interpolate(maps[None], size=size, mode="bilinear", align_corners=False)[0]
    return maps.argmax(0), spent


def naive_proposals(seg: Segmenter, pixels: Any) -> tuple[Any, Any]:
    """Masks (1, Q, h, w) and embeddings (1, Q, D) from transformers' own forward pass."""
    proposals: Any = seg.proposals
    images = proposals.prepare(pixels)
    with stock_layers(proposals):
        out = proposals.model(pixel_values=images)
    logits = out.masks_queries_logits[-1]  # (1, Q, h', w')
    masks = F.interpolate(logits, size=images.shape[-2:], mode="bilinear", align_corners=False)
    masks = masks[..., : pixels.shape[-2], : pixels.shape[-1]].sigmoid()
    norm = proposals.model.transformer_module.decoder.layernorm
    return masks, proposals.embedding_head(norm(out.transformer_decoder_last_hidden_state))


def classify_one(
    seg: Segmenter, pixels: Any, inside: Any, q: int, context: Any, settings: InferenceSettings
) -> Any:
    """Crop, mask, resize and classify one region with contextual shift; (D,), unit norm."""
    from scanseg.calibration.contextual_shift import ContextualShift

    clip: Any = seg.region_clip
    visual = clip.model.visual  # the region encoder has its text tower
    ys, xs = inside.nonzero(as_tuple=True)
    y0, y1, x0, x1 = int(ys.min()), int(ys.max()) + 1, int(xs.min()), int(xs.max()) + 1
    mean = torch.tensor(clip.pixel_mean)[:, None, None] * 255
    std = torch.tensor(clip.pixel_std)[:, None, None] * 255
    part = torch.where(inside[y0:y1, x0:x1], pixels[0, :, y0:y1, x0:x1].float(), mean)
    S = clip.region_size
    crop = F.interpolate(((part - mean) / std)[None], (S, S), mode="bicubic", align_corners=False)
    mask = F.interpolate(inside[None, None, y0:y1, x0:x1].float(), (S, S), mode="nearest")[0] > 0
    region = Regions(
        pixels=crop,
        masks=mask,
        boxes=torch.tensor([[x0, y0, x1, y1]]),
        image=torch.tensor([0]),
        query=torch.tensor([q]),
        valid=torch.ones(1, 1, dtype=torch.bool),
        inside=inside[None, None],
    )
    shift = ContextualShift(
        context,
        layers=seg.recipe.shift_layers,
        ratio=settings.shift_ratio or 0.0,
        order=settings.shift_order,
        seed=settings.shift_seed,
    )
    assert patch_foreground(mask, clip.grid).any()
    x = visual._embeds(crop)
    for layer, block in enumerate(visual.transformer.resblocks, start=1):
        x = block(x)
        x = torch.cat([x[:, :1], shift(x[:, 1:], layer, region, clip.grid)], 1)
    return F.normalize(visual._pool(x)[0] @ visual.proj, dim=-1)[0]


@contextmanager
def stock_layers(proposals: Any) -> Iterator[None]:
    """transformers' own layers in place of our quick ones."""
    plain = {
        quick_layers.DeformableAttention: quick_layers.StockDeformableAttention,
        quick_layers.WindowLayer: quick_layers.SwinLayer,
        quick_layers.OneDnnLinear: torch.nn.Linear,
    }
    swapped = [(m, type(m)) for m in proposals.model.modules() if type(m) in plain]
    for module, kind in swapped:
        module.__class__ = plain[kind]
    try:
        yield
    finally:
        for module, kind in swapped:
            module.__class__ = kind


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--weights", type=Path, required=True, help="model folder")
    parser.add_argument("--photo", type=Path, default=Path("../shared/parity/photo.png"))
    parser.add_argument("--modes", nargs="+", default=["exact", "bf16", "fast"])
    parser.add_argument("--pairs", type=int, default=2)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    words = Vocabulary(load_label_set("ade150").names, background=())
    plain = Segmenter.from_pretrained(given.weights, device="cpu")
    settings = plain.recipe.settings.replace(shift_order="first")
    plain.encode(words)
    cpu = torch.device("cpu")
    peaks = {t: bench.gemm_peak(t, cpu) for t in (torch.float32, torch.bfloat16)}
    found: dict[str, Any] = {
        "preset": plain.recipe.name,
        "threads": given.threads,
        "gemm_gflop_per_s": {str(t)[6:]: round(p, 1) for t, p in peaks.items()},
        "modes": {},
    }
    print(json.dumps(found["gemm_gflop_per_s"]), flush=True)
    naive_map(plain, given.photo, words, settings)  # warms up
    for mode in given.modes:
        model = Segmenter.from_pretrained(given.weights, device="cpu", mode=mode)
        chosen = model.recipe.settings.replace(shift_order="first")
        inner, regions = model.classify, [0.0, 0]

        def classify(*a: Any, inner: Any = inner, regions: list = regions) -> Any:
            started = time.perf_counter()
            features = inner(*a)
            regions[:] = [time.perf_counter() - started, len(features)]
            return features

        model.classify = classify  # type: ignore[method-assign]
        out = model(given.photo, words, settings=chosen)  # warms up
        rows = []
        for _ in range(given.pairs):
            started = time.perf_counter()
            labels, naive_regions = naive_map(plain, given.photo, words, settings)
            between = time.perf_counter()
            out = model(given.photo, words, settings=chosen)
            ours = time.perf_counter() - between
            rows.append((between - started, naive_regions, ours, regions[0]))
        naive_s, naive_r, ours_s, ours_r = (statistics.median(c) for c in zip(*rows, strict=True))
        ratios = [a / c for a, _, c, _ in rows]
        work = WORK_PER_REGION.get(plain.recipe.name, 0.0) * regions[1]
        peak = peaks[torch.float32 if mode == "exact" else torch.bfloat16] * 1e9
        row = {
            "naive_s": round(naive_s, 2),
            "naive_region_classifier_s": round(naive_r, 2),
            "ours_s": round(ours_s, 2),
            "region_classifier_s": round(ours_r, 2),
            "ratio": [round(r, 2) for r in ratios],
            "ratio_median": round(statistics.median(ratios), 2),
            "agreement": round(float((out.labels == labels.numpy()).mean()), 5),
            "precision": out.settings["precision"],
        }
        if chosen.region_tokens is None and work:
            row["region_classifier_share_of_gemm_peak"] = round(work / ours_r / peak, 3)
        found["modes"][mode] = row
        print(mode, json.dumps(row), flush=True)
        del model, inner, classify
    found["peak_gib"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2)
    if given.json:
        given.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
