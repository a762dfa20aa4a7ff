"""Train the study's model: ``python -m scanseg.training.mini_scan --help``.

Regions come from the shipped superpixels and stay as they are; what learns here is what SCAN adds
to a mask classifier: embeddings of the regions and, in most rows of the study, semantic
integration. Everything below is frozen, and its answers are kept in a cache that all rows and seeds
share.

A region is worth the class that covers at least ``LEAST_SHARE`` of it; the others teach nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scanseg import mini_scan
from scanseg.calibration.semantic_integration import SemanticIntegration
from scanseg.contracts import ClipTokens, InputError
from scanseg.encoders.embedded import EmbeddedEncoder
from scanseg.fusion import TermOwners, in_vocabulary_logits
from scanseg.segmenter import Segmenter
from scanseg.storage import atomic_write
from scanseg.training.embedded_head import Words
from scanseg.training.embedded_masks import SIDES, SOURCES, photos_with_segments
from scanseg.training.head_dataset import TrainingView
from scanseg.training.head_sampling import Views
from scanseg.training.head_segments import CROWD
from scanseg.training.head_vocabularies import COCO133
from scanseg.training.program import run_program
from scanseg.training.small_loop import Group, Loop, deciding

log = logging.getLogger(__name__)
LEAST_SHARE = 0.5
WINDOW = 320
NONE = -1


@dataclass(frozen=True)
class StudyConfig:
    """One training of the study.

    Args:
        data: folder of the data sets.
        work: folder of the cache, shared by all trainings.
        output: model folder to write.
        sim: with semantic integration.
        cls: its global half, gamma times [CLS] (table 4).
        spatial: its spatial half, attention to patch tokens (table 4).
        low_frequency: low-frequency enhancement of those tokens (table 4).
        withheld: words that are neither taught nor rivals.
        seed: of weights, dropout and draws. The cache does not depend on it.
        steps: optimiser steps.
        batch: views per step.
        views: windows per photo in the cache.
        rate: peak of AdamW's cosine schedule.
        weight_decay: of AdamW.
        warmup: steps of linear warm-up.
        threads: for torch.
    """

    data: Path
    work: Path
    output: Path
    sim: bool = True
    cls: bool = True
    spatial: bool = True
    low_frequency: bool = True
    withheld: tuple[str, ...] = ()
    seed: int = 0
    steps: int = 300
    batch: int = 8
    views: int = 6
    rate: float = 5e-4
    weight_decay: float = 0.05
    warmup: int = 30
    threads: int = 1

    def __post_init__(self) -> None:
        if min(self.steps, self.batch, self.views) < 1:
            raise InputError("steps, batch and views must be at least 1")


@dataclass(frozen=True)
class Cache:
    """Frozen answers for N views.

    Attributes:
        states: (N, Q, width) float16, of ``mini_scan.region_states``; zeros for no region.
        labels: (N, Q) int16 class in ``COCO133`` or ``NONE``.
        pooled: (N, D) float32, the whole view in the joint space.
        patches: layer -> (N, cells, V) float16.
    """

    states: np.ndarray
    labels: np.ndarray
    pooled: np.ndarray
    patches: dict[int, np.ndarray]

    def rows(self, chosen: np.ndarray) -> tuple[Tensor, Tensor, ClipTokens]:
        """States (B, Q, width), labels (B, Q) and tokens of some views."""

        def taken(values: np.ndarray) -> Tensor:
            return torch.from_numpy(values[chosen].astype(np.float32))

        pooled = taken(self.pooled)
        tokens = ClipTokens(
            patches={layer: taken(values) for layer, values in self.patches.items()},
            cls={},
            grids={layer: _grid(values.shape[1]) for layer, values in self.patches.items()},
            pooled=pooled,
        )
        labels = torch.from_numpy(self.labels[chosen].astype(np.int64))
        return taken(self.states), labels, tokens


def _grid(cells: int) -> tuple[int, int]:
    side = round(cells**0.5)
    return side, side


def region_labels(masks: np.ndarray, view: TrainingView) -> np.ndarray:
    """The class that covers at least ``LEAST_SHARE`` of each region, or ``NONE``.

    Args:
        masks: (Q, rows, columns) bool, at stride 4.
        view: with segments.

    Returns:
        (Q,) int16. Cells of a crowd do not count, and those that nobody labelled are no class.
    """
    assert view.segments is not None
    ids = view.segments.ravel()
    known = ids != CROWD
    classes = np.array((NONE, *view.segment_labels))[np.where(known, ids, 0)]  # (cells,)
    labels = np.full(len(masks), NONE, np.int16)
    for region, mask in enumerate(masks.reshape(len(masks), -1)):
        said = classes[mask & known]
        found = np.bincount(said[said != NONE], minlength=1)
        if len(said) and found.max() >= LEAST_SHARE * len(said):
            labels[region] = found.argmax()
    return labels


@torch.inference_mode()
def make_cache(config: StudyConfig, folder: Path) -> None:
    """Run the frozen parts over every view, once."""
    stored = photos_with_segments(config.data, config.work, "default", hold_out=True)
    frozen = mini_scan.Frozen.load(mini_scan.MiniScanConfig())
    layers, most = mini_scan.INTEGRATION.layers, sum(frozen.regions.merging.cuts)
    found: dict[str, list[np.ndarray]] = {}
    for number, one in enumerate(stored):
        views = Views([one], SOURCES, 0.0, dict.fromkeys(SOURCES, SIDES))
        views.restart(number)
        drawn = views.draw(config.views, WINDOW)
        pixels = torch.stack([view.pixels for view in drawn])
        tokens = frozen.encoder.encode_image(pixels, layers=mini_scan.LAYERS)
        masks = frozen.regions(pixels, tokens).masks
        masks = F.pad(masks, (0, 0, 0, 0, 0, most - masks.shape[1]))  # (views, most, h, w)
        inside = masks[..., 2::4, 2::4].numpy() > 0
        pieces = {
            "states": mini_scan.region_states(masks, tokens).half().numpy(),
            "labels": np.stack([region_labels(m, v) for m, v in zip(inside, drawn, strict=True)]),
            "pooled": tokens.pooled.numpy(),
            **{f"patches{i}": tokens.patches[i].half().numpy() for i in layers},
        }
        for name, values in pieces.items():
            found.setdefault(name, []).append(values)
        if number % 25 == 0:
            log.info("cache: photo %d of %d", number + 1, len(stored))
    folder.mkdir(parents=True, exist_ok=True)
    for name, parts in sorted(found.items(), key=lambda item: item[0] == "labels"):
        with atomic_write(folder / f"{name}.npy") as file:  # labels come last: then it is complete
            np.save(file, np.concatenate(parts), allow_pickle=False)


def open_cache(config: StudyConfig) -> Cache:
    """The cache of the shipped regions; made if it is not there."""
    folder = config.work / f"mini_scan-{mini_scan.shipped_head_hash()}-{config.views}"
    if not (folder / "labels.npy").is_file():
        make_cache(config, folder)

    def read(name: str) -> np.ndarray:
        return np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False)

    layers = mini_scan.INTEGRATION.layers
    patches = {layer: read(f"patches{layer}") for layer in layers}
    return Cache(read("states"), read("labels"), read("pooled"), patches)


class Trained(nn.Module):
    """What learns: the regions' embedding head and semantic integration."""

    def __init__(self, head: nn.Module, integration: nn.Module | None) -> None:
        super().__init__()
        self.head, self.integration = head, integration

    def forward(self, states: Tensor, tokens: ClipTokens) -> Tensor:
        """(B, Q, width) -> (B, Q, D)."""
        embeddings: Tensor = self.head(states)
        return embeddings if self.integration is None else self.integration(embeddings, tokens)


def model_of(config: StudyConfig, taught: Tensor) -> Segmenter:
    """The row's model, what learns as the seed has it."""
    integration = None
    if config.sim:
        integration = replace(
            mini_scan.INTEGRATION,
            use_cls=config.cls,
            use_spatial=config.spatial,
            low_frequency=config.low_frequency,
        )
    torch.manual_seed(config.seed)
    return mini_scan.build(mini_scan.MiniScanConfig(integration=integration), taught)


def train(config: StudyConfig) -> Path:
    """Train one row with one seed; returns the written model folder.

    Raises:
        InputError: a training with other settings began under this output.
    """
    torch.set_num_threads(config.threads)
    words = Words(
        EmbeddedEncoder(), {"coco133": COCO133}, config.withheld, config.work / "words.pt"
    )
    text = words.embeddings[[words.index[names[0]] for names in COCO133]]  # (133, D)
    open_ = words.open["coco133"]
    cache = open_cache(config)
    segmenter = model_of(config, text[open_])
    integration = segmenter.integration
    assert isinstance(segmenter.proposals, mini_scan.RegionProposals)
    assert integration is None or isinstance(integration, SemanticIntegration)
    trained = Trained(segmenter.proposals.embedding_head, integration)
    trained.requires_grad_(True)
    labels = np.asarray(cache.labels)
    counts = np.bincount(labels[labels >= 0], minlength=len(text)).astype(np.float32)
    weights = torch.from_numpy((counts + 50) ** -0.5) * open_
    owners = TermOwners(torch.arange(len(text)), len(text))

    def batch(step: int) -> tuple[Tensor, Tensor, ClipTokens]:
        drawn = np.random.default_rng(config.seed * 1_000_003 + step)
        return cache.rows(np.sort(drawn.choice(len(labels), config.batch, replace=False)))

    def loss(_: int, drawn: tuple[Tensor, Tensor, ClipTokens]) -> Tensor:
        states, said, tokens = drawn
        logits = in_vocabulary_logits(
            trained(states, tokens), text, owners, None, mini_scan.EMBEDDING_SCALE
        ).masked_fill(~open_, -1e4)
        said = torch.where(open_[said.clamp_min(0)], said, NONE)
        if not (said >= 0).any():
            return logits.sum() * 0.0
        return F.cross_entropy(logits.flatten(0, 1), said.flatten(), weights, ignore_index=NONE)

    loop = Loop(
        steps=config.steps,
        warmup=config.warmup,
        weight_decay=config.weight_decay,
        average=0.99,
        seed=config.seed,
        batch=batch,
        loss=loss,
        save_every=100,
        tell_every=100,
        settings={
            **deciding(config, ("data", "work", "output", "threads")),
            "regions": mini_scan.shipped_head_hash(),
        },
    )
    checkpoint = config.output.with_suffix(".checkpoint")
    result = loop.run(trained.train(), [Group(list(trained.parameters()), config.rate)], checkpoint)
    assert isinstance(result, Trained)
    segmenter.proposals.embedding_head.load_state_dict(result.head.state_dict())
    if integration is not None and result.integration is not None:
        integration.load_state_dict(result.integration.state_dict())
    folder = mini_scan.save(segmenter.eval().requires_grad_(False), config.output)
    log.info("wrote %s: %s", folder, {k: str(v) for k, v in asdict(config).items()})
    return folder


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line: the fields of ``StudyConfig`` are the options."""
    run_program("scanseg.training.mini_scan", __doc__, StudyConfig, train, arguments)


if __name__ == "__main__":
    main()
