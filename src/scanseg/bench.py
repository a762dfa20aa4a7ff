"""Where the time goes: a model stage by stage, two modes in alternation, and how time grows.

Timings on shared machines drift, so two modes run in turn, A B A B, and are compared by the median
of the ratios of neighbours. Arithmetic is counted by torch's own counter in one extra call and set
against the machine's matrix product rate, measured in the same run.
"""

from __future__ import annotations

import functools
import math
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from scanseg import cpu_products
from scanseg import segmenter as method
from scanseg.contracts import Segmentation
from scanseg.formats.photos import Photo, read_photo
from scanseg.fusion import TermOwners, label_map
from scanseg.recipe import Resize
from scanseg.segmenter import Segmenter
from scanseg.vocabulary import Vocabulary

STAGES = (
    # (stage, owner, method): a stage whose method the model lacks is left out
    ("decode", "method", "read_photo"),
    ("resize", "resize", "__call__"),
    ("text", "segmenter", "encode"),
    ("image encoder", "clip", "encode_image"),
    ("backbone", "proposals", "backbone_features"),
    ("pixel decoder", "proposals", "pixel_decoder"),
    ("masked decoder", "proposals", "_decode"),
    ("masks", "proposals", "forward"),
    ("dense head", "proposals", "dense_map"),
    ("superpixels", "proposals", "regions"),
    ("SIM", "integration", "forward"),
    ("crops", "segmenter", "cut"),
    ("region encoder", "region_clip", "encode_regions"),
    ("dense cells", "segmenter", "label_cells"),
    ("fusion", "method", "fuse"),
    ("map and arg max", "method", "label_map"),
)
REST = "everything else"


def _product_flops(x: Any, weight: Any, *_: Any, out_shape: Any = None, **__: Any) -> int:
    """A multiply and an add for each weight and row, by the shapes of input and weight."""
    return 2 * math.prod(x) * int(weight[0])


PRODUCTS = {cpu_products.OPERATOR: _product_flops} if cpu_products.OPERATOR is not None else {}
"""Operations of the products that torch's counter does not know."""


@dataclass
class Stopwatch:
    """Seconds and floating point operations by stage, without those of stages inside.

    Attributes:
        seconds: stage -> one number per call of the model.
        flops: stage -> operations of the last counted call.
    """

    device: torch.device
    seconds: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    flops: dict[str, int] = field(default_factory=dict)
    _inner: list[float] = field(default_factory=lambda: [0.0])
    _counter: FlopCounterMode | None = None
    _counted: list[int] = field(default_factory=lambda: [0])

    def wrap(self, stage: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """``function``, its time and operations on the account of ``stage``."""

        @functools.wraps(function)
        def watched(*arguments: Any, **named: Any) -> Any:
            self._inner.append(0.0)
            self._counted.append(0)
            before = self._operations()
            started = self.now()
            try:
                return function(*arguments, **named)
            finally:
                spent = self.now() - started
                own = spent - self._inner.pop()
                self._inner[-1] += spent
                self.seconds[stage][-1] += own
                done = self._operations() - before
                self.flops[stage] = self.flops.get(stage, 0) + done - self._counted.pop()
                self._counted[-1] += done

        return watched

    def start(self, stages: Sequence[str]) -> None:
        """Open a column for the next call."""
        for stage in stages:
            self.seconds[stage].append(0.0)

    @contextmanager
    def counting(self) -> Iterator[None]:
        """Count operations inside."""
        self.flops.clear()
        with FlopCounterMode(display=False, custom_mapping=PRODUCTS) as self._counter:
            yield
        self._counter = None

    def now(self) -> float:
        """Seconds, once the device has done what it was asked to do."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

    def _operations(self) -> int:
        return 0 if self._counter is None else self._counter.get_total_flops()


@contextmanager
def watched(segmenter: Segmenter, watch: Stopwatch) -> Iterator[list[str]]:
    """Put the watch on a model's stages; yields their names; takes it off again."""
    owners: dict[str, Any] = {
        "method": method,
        "resize": Resize,
        "segmenter": segmenter,
        "clip": segmenter.clip,
        "proposals": segmenter.proposals,
        "integration": segmenter.integration,
        "region_clip": segmenter.region_clip,
    }
    placed: list[tuple[Any, str, Any]] = []
    names = []
    for stage, owner_name, name in STAGES:
        owner = owners[owner_name]
        inner = getattr(owner, name, None)
        if owner is None or inner is None:
            continue
        own = vars(owner).get(name) if owner_name in ("method", "resize") else None
        setattr(owner, name, watch.wrap(stage, own or inner))
        placed.append((owner, name, own))
        names.append(stage)
    try:
        yield names
    finally:
        for owner, name, own in placed:
            if own is None:
                delattr(owner, name)
            else:
                setattr(owner, name, own)


@dataclass(frozen=True)
class Timing:
    """One model in one mode.

    Attributes:
        seconds: stage -> seconds of each counted call; ``"total"`` for the whole call.
        flops: stage -> floating point operations of one call.
        result: the map of the last call.
    """

    seconds: dict[str, list[float]]
    flops: dict[str, int]
    result: Segmentation

    def summary(self) -> dict[str, dict[str, float]]:
        """Stage -> median, low, high (seconds) and GFLOP/s where there is arithmetic to count."""
        rows = {}
        for stage, runs in self.seconds.items():
            row = {"median": statistics.median(runs), "low": min(runs), "high": max(runs)}
            work = sum(self.flops.values()) if stage == "total" else self.flops.get(stage, 0)
            if work > 1e6 and row["median"] > 0:
                row["gflop"] = work / 1e9
                row["gflop_per_s"] = work / row["median"] / 1e9
            rows[stage] = row
        return rows


def time_models(
    models: Sequence[Segmenter],
    photo: Path | Photo,
    words: Vocabulary,
    *,
    repeat: int,
    count_flops: bool = True,
    advance: Callable[[], None] = lambda: None,
) -> list[Timing]:
    """Time models on one photo, in turn.

    Args:
        models: one, or two to compare.
        photo: a file (decoding is then a stage) or a photo.
        words: encoded once before; the text stage is a look into the cache.
        repeat: counted calls of each, after one that warms up.
        count_flops: one more call of each, to count operations.
        advance: called after each call.
    """
    watches = [Stopwatch(model.device) for model in models]
    results: list[Any] = [None] * len(models)

    def call(i: int) -> None:
        with watched(models[i], watches[i]) as stages:
            watches[i].start([*stages, "total"])
            started = watches[i].now()
            results[i] = models[i](photo, words)
            watches[i].seconds["total"][-1] = watches[i].now() - started
        advance()

    flops: list[dict[str, int]] = []
    for i in range(len(models)):
        models[i].encode(words)
        call(i)
        if count_flops:
            with watches[i].counting():
                call(i)
        flops.append(dict(watches[i].flops))
        watches[i].seconds.clear()
    for _ in range(repeat):
        for i in range(len(models)):
            call(i)
    timings = []
    for watch, work, result in zip(watches, flops, results, strict=True):
        seconds = {k: v for k, v in watch.seconds.items() if k == "total" or max(v) > 0}
        stages = [v for k, v in seconds.items() if k != "total"]
        rest = [t - sum(run) for t, *run in zip(seconds["total"], *stages, strict=True)]
        seconds = {REST: rest, **seconds}
        timings.append(Timing({**seconds, "total": seconds.pop("total")}, work, result))
    return timings


def compare(first: Timing, second: Timing) -> dict[str, float]:
    """Two modes: how many times faster the second is, pair by pair, and how alike the maps are."""
    ratios = [a / b for a, b in zip(first.seconds["total"], second.seconds["total"], strict=True)]
    return {
        "ratio_median": statistics.median(ratios),
        "ratio_low": min(ratios),
        "ratio_high": max(ratios),
        "agreement": float((first.result.labels == second.result.labels).mean()),
    }


def gemm_peak(dtype: torch.dtype, device: torch.device, *, side: int = 4096) -> float:
    """Best measured rate of a square matrix product, in GFLOP/s, whichever library is quicker."""
    a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    watch = Stopwatch(device)
    best = float("inf")
    with torch.inference_mode():
        for multiply in (torch.mm, functools.partial(cpu_products.linear, bias=None)):
            for _ in range(5):
                started = watch.now()
                multiply(a, b)
                best = min(best, watch.now() - started)
    return 2 * side**3 / best / 1e9


def by_labels(
    segmenter: Segmenter, photo: Photo, counts: Sequence[int], *, repeat: int = 3
) -> dict[int, float]:
    """Median seconds of a call from decoded photo to map, by number of labels.

    The words are random unit vectors: the hard case, for none stands out and many must be looked
    at. Encoding real ones comes on top once, then they are in the cache.
    """
    found = {}
    for count in counts:
        generator = np.random.default_rng(count)
        rows = generator.standard_normal((count, segmenter.clip.joint_width)).astype(np.float32)
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        text = torch.from_numpy(rows).to(segmenter.device)
        owners = TermOwners(torch.arange(count, device=segmenter.device), count)
        call = functools.partial(_call, segmenter, photo, text, owners)
        found[count] = _median(segmenter, call, repeat)
    return found


def by_regions(
    segmenter: Segmenter, photo: Photo, counts: Sequence[int], *, repeat: int = 3
) -> dict[int, float]:
    """Median seconds of the region classifier alone, by number of regions (taken in turn)."""
    settings = segmenter.recipe.settings
    with torch.inference_mode():
        pixels = _pixels(segmenter, photo)
        context = segmenter.clip.encode_image(pixels, layers=segmenter.recipe.token_layers)
        regions = segmenter.cut(pixels, segmenter.proposals(pixels, context), settings)
    if not len(regions):
        return {}
    found = {}
    for count in counts:
        index = torch.arange(count, device=segmenter.device) % len(regions)
        some = regions.select(index)

        def classify(some: Any = some) -> None:
            with torch.inference_mode():
                segmenter.classify(some, pixels, context, settings)

        found[count] = _median(segmenter, classify, repeat)
    return found


def _pixels(segmenter: Segmenter, photo: Photo) -> Tensor:
    resized = segmenter.recipe.resize(photo.pixels)
    return torch.from_numpy(resized).permute(2, 0, 1)[None].to(segmenter.device)


@torch.inference_mode()
def _call(segmenter: Segmenter, photo: Photo, text: Tensor, owners: TermOwners) -> None:
    found = segmenter.forward(_pixels(segmenter, photo), text, owners, segmenter.recipe.settings)
    size = photo.pixels.shape[:2]
    label_map(found.scores[0], found.proposals.masks[0], size, dense=found.dense(0))


def _median(segmenter: Segmenter, work: Callable[[], None], repeat: int) -> float:
    watch = Stopwatch(segmenter.device)
    times = []
    for _ in range(repeat + 1):
        started = watch.now()
        work()
        times.append(watch.now() - started)
    return statistics.median(times[1:])


def load_photo(path: str | Path | None) -> Photo:
    """A photo to time on: the file, or scikit-image's cat at long side 640."""
    if path is not None:
        return read_photo(path)
    from PIL import Image
    from skimage.data import chelsea

    return read_photo(Image.fromarray(chelsea()).resize((640, 426), Image.Resampling.BICUBIC))
