"""Train the embedded preset's dense head: ``python -m scanseg.training.embedded_head --help``.

Four steps, each of which goes on where it was stopped: the teachers vote, the frozen tower's
features are stored, the head is trained on both, and the averaged weights are written as
safetensors together with the words that the head was taught.

The loss is one cross entropy over several vocabularies: a cell is scored only against the words
that its source could have said, on cosine times a learned scale.
"""

from __future__ import annotations

import json
import logging
import math
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scanseg.contracts import InputError
from scanseg.encoders.embedded import EmbeddedEncoder
from scanseg.proposals.dense_head import DenseHead
from scanseg.training.head_dataset import (
    IMAGE_CLASSES,
    TrainingView,
    class_counts,
    load_views,
    spoken,
    stack_maps,
)
from scanseg.training.head_photos import Photo, Recipe, training_photos
from scanseg.training.head_views import make_features
from scanseg.training.head_vocabularies import VOCABULARIES
from scanseg.training.head_votes import make_votes

log = logging.getLogger(__name__)
TEMPLATES = ("{}", "a photo of a {}.", "a {} in the scene.", "a picture of the {}.")
EVERY = {"clothing_coparsing": 6, "imagenet_samples": 2}
"""Of these data sets only every n-th photo is used (time; the photos are much alike)."""


@dataclass(frozen=True)
class ViewPlan:
    """Long sides in pixels of a source's whole views and crops."""

    sides: tuple[int, ...]
    crops: tuple[int, ...] = ()


PLANS = {
    "coco_train": ViewPlan((512, 640, 384, 512), (448, 448, 512, 512)),
    "coco_train_more": ViewPlan((512, 640, 384, 512), (448, 448, 512, 512)),
    "facades_night_day": ViewPlan((512, 384), (448, 448)),
    "imagenet_samples": ViewPlan((320, 256)),
    "clothing_coparsing": ViewPlan((416, 416), (384,)),
}


@dataclass(frozen=True)
class HeadConfig:
    """A training of the dense head.

    Args:
        data: folder of the data sets.
        teachers: folder of the teachers' tflite files.
        work: folder for votes, features and results; nothing else is written.
        recipe: which photos may be used.
        hold_out: leave the held-out part of coco_train out (development).
        withheld: words whose classes are never taught, in any vocabulary (measures how the
            head treats unseen words).
        steps: optimiser steps.
        batch: views per step.
        points: labelled cells per layer of a view and step.
        window: side of the random square window of a view that a step looks at, in cells at
            stride 32.
        learning_rate: peak of AdamW's cosine schedule.
        weight_decay: of AdamW.
        warmup: steps of linear warm-up.
        dropout: of the head.
        average: decay of the weights' moving average, which is what is saved.
        main_word: probability that a class is spoken for by its first word, else by a synonym.
        scale: cosine scale at the start; it is learned.
        image_class_weight: weight of ImageNet's image-level labels.
        sources: relative frequency of the data sets among the views.
        seed: of everything that is drawn.
        threads: for torch.
        name: of the written file, in ``work``.
    """

    data: Path
    teachers: Path
    work: Path
    recipe: Recipe = "default"
    hold_out: bool = False
    withheld: tuple[str, ...] = ()
    steps: int = 300
    batch: int = 12
    points: int = 64
    window: int = 8
    learning_rate: float = 2e-3
    weight_decay: float = 0.03
    warmup: int = 30
    dropout: float = 0.1
    average: float = 0.98
    main_word: float = 0.5
    scale: float = 16.0
    image_class_weight: float = 0.2
    sources: Mapping[str, float] = field(
        default_factory=lambda: {
            "coco_train": 5.0,
            "coco_train_more": 0.8,
            "facades_night_day": 0.7,
            "imagenet_samples": 2.0,
            "clothing_coparsing": 0.7,
        }
    )
    seed: int = 0
    threads: int = 2
    name: str = "embedded_head.safetensors"

    def __post_init__(self) -> None:
        if min(self.steps, self.batch, self.points, self.window) < 1:
            raise InputError("steps, batch, points and window must be at least 1")
        unknown = set(self.sources) - set(PLANS)
        if unknown:
            raise InputError(
                f"no such data set: {', '.join(sorted(unknown))}; there are {', '.join(PLANS)}"
            )
        known = {word for table in VOCABULARIES.values() for words in table for word in words}
        missing = set(self.withheld) - known
        if missing:
            raise InputError(f"withheld words that no source says: {', '.join(sorted(missing))}")


class Words:
    """The text targets: every word of every vocabulary, embedded once.

    Args:
        encoder: with ``encode_text``.
        tables: vocabulary -> classes -> words.
        withheld: classes that contain one of these words are closed: never a target, never a rival.
        cache: file that keeps the embeddings from run to run; ``None`` keeps none.
    """

    def __init__(
        self,
        encoder: EmbeddedEncoder,
        tables: Mapping[str, Sequence[Sequence[str]]],
        withheld: Sequence[str] = (),
        cache: Path | None = None,
    ) -> None:
        self.tables = tables
        every = sorted({word for table in tables.values() for words in table for word in words})
        self.embeddings = _embed_words(encoder, every, cache)  # (words, D)
        self.index = {word: number for number, word in enumerate(every)}
        self.open = {
            name: torch.tensor([not set(words) & set(withheld) for words in table])
            for name, table in tables.items()
        }

    def draw(self, vocabulary: str, main_word: float, rng: random.Random) -> Tensor:
        """(K, D) unit-norm targets: the main word of each class, or one of its synonyms."""
        chosen = [
            words[0] if len(words) == 1 or rng.random() < main_word else rng.choice(words[1:])
            for words in self.tables[vocabulary]
        ]
        return self.embeddings[[self.index[word] for word in chosen]]


def _embed_words(encoder: EmbeddedEncoder, every: Sequence[str], cache: Path | None) -> Tensor:
    known: dict[str, Tensor] = {}
    if cache is not None and cache.is_file():
        known = torch.load(cache, weights_only=True)
    new = [word for word in every if word not in known]
    if new:
        prompts = [template.format(word) for word in new for template in TEMPLATES]
        embedded = encoder.encode_text(prompts).view(len(new), len(TEMPLATES), -1).mean(1)
        known.update(zip(new, F.normalize(embedded, dim=-1), strict=True))
        if cache is not None:
            cache.parent.mkdir(parents=True, exist_ok=True)
            torch.save(known, cache)
    return torch.stack([known[word] for word in every])


class Sampler:
    """Draws views by source and, within a view, labelled cells by the rarity of their class.

    Args:
        views: the training set.
        words: which classes are open.
        frequencies: source -> relative frequency of its views.
        points: cells per layer.
        seed: of the draws.
    """

    def __init__(
        self,
        views: Sequence[TrainingView],
        words: Words,
        frequencies: Mapping[str, float],
        points: int,
        seed: int,
    ) -> None:
        self.by_source: dict[str, list[TrainingView]] = {}
        for view in views:
            self.by_source.setdefault(view.source, []).append(view)
        self.sources = sorted(self.by_source)
        self.frequencies = [frequencies.get(source, 1.0) for source in self.sources]
        self.points = points
        self.rng = random.Random(seed)
        self.generator = torch.Generator().manual_seed(seed)
        self.counts, self.rarity = {}, {}
        for name, table in words.tables.items():
            counts = class_counts(views, name, len(table))
            self.counts[name] = counts
            self.rarity[name] = (counts + 200).rsqrt().float() * words.open[name]

    def views(self, count: int, window: int) -> list[TrainingView]:
        """Windows of ``count`` views, drawn independently."""
        sources = self.rng.choices(self.sources, self.frequencies, k=count)
        return [self._window(self.rng.choice(self.by_source[source]), window) for source in sources]

    def _window(self, view: TrainingView, size: int) -> TrainingView:
        rows, columns = view.maps["s32"].shape[-2:]
        row = self.rng.randint(0, max(0, rows - size))
        column = self.rng.randint(0, max(0, columns - size))
        return view.window(row, column, size)

    def cells(self, view: TrainingView, vocabulary: str) -> Tensor:
        """Up to ``points`` labelled cells of a layer: (p,) indices."""
        ids = view.layers[vocabulary]
        chance = torch.where(
            spoken(ids, vocabulary),
            self.rarity[vocabulary][ids.clamp(0, len(self.rarity[vocabulary]) - 1)],
            0.0,
        )
        available = int((chance > 0).sum())
        if available == 0:
            return torch.empty(0, dtype=torch.long)
        count = min(self.points, available)
        return torch.multinomial(chance, count, generator=self.generator)


def embed_cells(head: DenseHead, views: Sequence[TrainingView], cells: Tensor) -> Tensor:
    """Embeddings of some cells of views of one size; equal to the head's dense output there.

    Args:
        head: any mode.
        views: B views with the same grid.
        cells: (B, P) indices of cells, row by row.

    Returns:
        (B, P, D), unit norm.
    """
    maps = stack_maps(views)
    rows, columns = views[0].grid
    where = torch.stack(
        [(cells % columns + 0.5) / columns * 2 - 1, (cells // columns + 0.5) / rows * 2 - 1], -1
    )[:, None]  # (B, 1, P, 2) as x, y in [-1, 1]

    def at_cells(values: Tensor) -> Tensor:
        picked = F.grid_sample(values, where, padding_mode="border", align_corners=False)
        return picked[:, :, 0].transpose(1, 2)  # (B, P, C)

    fine = maps.s8.flatten(2).transpose(1, 2)  # (B, cells, V)
    fine = fine.gather(1, cells[..., None].expand(-1, -1, fine.shape[2]))  # (B, P, V)
    return head.embed(at_cells(head.hidden(maps)), fine, at_cells(maps.conse))


def step_loss(
    head: DenseHead,
    log_scale: Tensor,
    batch: Sequence[TrainingView],
    sampler: Sampler,
    words: Words,
    main_word: float,
) -> Tensor:
    """Cross entropy of a batch: every layer against its own vocabulary, weighted mean of cells."""
    by_grid: dict[tuple[int, int], list[tuple[TrainingView, dict[str, Tensor]]]] = {}
    for view in batch:
        cells = {name: sampler.cells(view, name) for name in view.layers}
        if sum(len(where) for where in cells.values()):
            by_grid.setdefault(view.grid, []).append((view, cells))
    gathered: dict[str, list[tuple[Tensor, Tensor, float]]] = {}
    for group in by_grid.values():
        chosen = nn.utils.rnn.pad_sequence(
            [torch.cat(list(cells.values())) for _, cells in group], batch_first=True
        )  # (B, P)
        embedded = embed_cells(head, [view for view, _ in group], chosen)  # (B, P, D)
        for (view, cells), row in zip(group, embedded, strict=True):
            start = 0
            for name, where in cells.items():
                part = row[start : start + len(where)]
                start += len(where)
                gathered.setdefault(name, []).append(
                    (part, view.layers[name][where], view.weights[name])
                )
    total, weight = log_scale.new_zeros(()), 0.0
    for name, parts in gathered.items():
        targets = words.draw(name, main_word, sampler.rng)  # (K, D)
        points = torch.cat([part[0] for part in parts])  # (p, D)
        ids = torch.cat([part[1] for part in parts])
        each = torch.cat([part[0].new_full((len(part[1]),), part[2]) for part in parts])
        scores = log_scale.exp() * points @ targets.T  # (p, K)
        scores = scores.masked_fill(~words.open[name], -math.inf)
        total = total + (each * F.cross_entropy(scores, ids, reduction="none")).sum()
        weight += float(each.sum())
    return total / max(weight, 1.0)


def standardise(head: DenseHead, views: Sequence[TrainingView]) -> None:
    """Set the head's feature statistics from (a few hundred of) the views."""
    some = views[:: max(1, len(views) // 300)]
    means, stds = [], []
    for stage in ("s8", "s16", "s32"):
        values = torch.cat([view.maps[stage].float().flatten(1)[:, ::7] for view in some], 1)
        means.append(values.mean(1))
        stds.append(values.std(1).clamp_min(1e-3))
    head.mean.copy_(torch.cat(means))
    head.std.copy_(torch.cat(stds))


def fit(
    config: HeadConfig, views: Sequence[TrainingView], words: Words
) -> tuple[DenseHead, float, Sampler]:
    """Train on the views.

    Returns:
        the head with averaged weights, the learned scale, and the sampler (which holds the counts).
    """
    torch.manual_seed(config.seed)
    head = DenseHead(dropout=config.dropout)
    standardise(head, views)
    sampler = Sampler(views, words, config.sources, config.points, config.seed)
    log_scale = nn.Parameter(torch.tensor(math.log(config.scale)))
    matrices = [p for p in head.parameters() if p.ndim > 1]
    vectors = [p for p in head.parameters() if p.ndim <= 1]
    optimiser = torch.optim.AdamW(
        [
            {"params": matrices, "weight_decay": config.weight_decay},
            {"params": [*vectors, log_scale], "weight_decay": 0.0},
        ],
        lr=config.learning_rate,
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser,
        lambda step: (
            min(1.0, (step + 1) / config.warmup)
            * 0.5
            * (1 + math.cos(math.pi * step / config.steps))
        ),
    )
    averaged = torch.optim.swa_utils.AveragedModel(
        head, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(config.average)
    )
    head.train()
    began, recent = time.monotonic(), 0.0
    for step in range(config.steps):
        loss = step_loss(
            head,
            log_scale,
            sampler.views(config.batch, config.window),
            sampler,
            words,
            config.main_word,
        )
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(head.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        averaged.update_parameters(head)
        recent = 0.98 * recent + 0.02 * loss.item() if step else loss.item()
        if step % 50 == 0 or step == config.steps - 1:
            log.info(
                "step %d/%d: loss %.3f, scale %.1f, %.0f s",
                step + 1, config.steps, recent, log_scale.detach().exp(), time.monotonic() - began,
            )  # fmt: skip
    result: DenseHead = averaged.module  # type: ignore[assignment]
    result.eval().requires_grad_(False)
    return result, float(log_scale.detach().exp()), sampler


TAUGHT_CELLS = 200
"""A class counts as taught from this many labelled cells on."""


def taught_words(words: Words, sampler: Sampler) -> list[str]:
    """The words of all open classes with enough labels, image-level labels aside."""
    taught: set[str] = set()
    for name, table in words.tables.items():
        if name == IMAGE_CLASSES:
            continue
        enough = (sampler.counts[name] >= TAUGHT_CELLS) & words.open[name]
        taught.update(
            word for words_, yes in zip(table, enough, strict=True) if yes for word in words_
        )
    return sorted(taught)


def save_head(
    path: Path,
    head: DenseHead,
    scale: float,
    names: Sequence[str],
    embeddings: Tensor,
    notes: Mapping[str, object],
) -> None:
    """Write weights (float16), the learned scale and the taught words with their embeddings."""
    from safetensors.torch import save_file

    tensors = {
        f"head.{name}": value.half().contiguous() for name, value in head.state_dict().items()
    }
    tensors["taught"] = embeddings.half().contiguous()
    metadata = {"names": json.dumps(list(names)), "scale": str(scale), "notes": json.dumps(notes)}
    partial = path.with_suffix(".partial")
    save_file(tensors, partial, metadata=metadata)
    partial.replace(path)


def tables(config: HeadConfig) -> dict[str, Sequence[Sequence[str]]]:
    """The vocabularies of a training, ImageNet's lemmas included if they are used."""
    from scanseg.encoders.embedded import class_descriptions

    every: dict[str, Sequence[Sequence[str]]] = dict(VOCABULARIES)
    if config.image_class_weight > 0:
        every[IMAGE_CLASSES] = [
            [lemma.strip() for lemma in line.split(":")[0].split(",")]
            for line in class_descriptions()
        ]
    return every


def prepare(config: HeadConfig, encoder: EmbeddedEncoder, photos: Sequence[Photo]) -> None:
    """Teachers' votes and stored features of all photos; what exists is kept."""
    make_votes(photos, config.teachers, config.work)
    for source, plan in PLANS.items():
        some = [photo for photo in photos if photo.source == source]
        make_features(some, encoder, config.work, sides=plan.sides, crops=plan.crops)


def chosen_photos(config: HeadConfig) -> list[Photo]:
    """The photos of the recipe, thinned out as ``EVERY`` says."""
    seen: dict[str, int] = {}
    chosen = []
    for photo in training_photos(config.data, config.recipe, hold_out=config.hold_out):
        number = seen.get(photo.source, 0)
        seen[photo.source] = number + 1
        if number % EVERY.get(photo.source, 1) == 0:
            chosen.append(photo)
    return chosen


def train(config: HeadConfig) -> Path:
    """All four steps; returns the written safetensors file."""
    torch.set_num_threads(config.threads)
    encoder = EmbeddedEncoder()
    photos = chosen_photos(config)
    log.info("recipe %s: %d photos", config.recipe, len(photos))
    prepare(config, encoder, photos)
    views = load_views(
        photos, config.work, encoder.keys, image_class_weight=config.image_class_weight
    )
    words = Words(encoder, tables(config), config.withheld, config.work / "words.pt")
    head, scale, sampler = fit(config, views, words)
    names = taught_words(words, sampler)
    embeddings = words.embeddings[[words.index[name] for name in names]]
    counted: dict[str, int] = {}
    for photo in photos:
        counted[photo.source] = counted.get(photo.source, 0) + 1
    kept = {
        k: v for k, v in asdict(config).items() if k not in ("data", "teachers", "work", "name")
    }
    path = config.work / config.name
    save_head(path, head, scale, names, embeddings, {"config": kept, "photos": counted})
    log.info("wrote %s (%.1f MB)", path, path.stat().st_size / 1e6)
    return path


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line: the fields of ``HeadConfig`` are the options."""
    from jsonargparse import ArgumentParser

    parser = ArgumentParser(prog="python -m scanseg.training.embedded_head", description=__doc__)
    parser.add_class_arguments(HeadConfig)
    settings = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    train(HeadConfig(**vars(parser.instantiate(settings))))


if __name__ == "__main__":
    main()
