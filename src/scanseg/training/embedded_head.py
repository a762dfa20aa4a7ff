"""Train the embedded preset's dense head: ``python -m scanseg.training.embedded_head --help``.

The teachers vote on every photo once; then the head is trained on random windows of the photos, on
top of the frozen tower, and its averaged weights are written as safetensors together with the words
that it was taught. Both steps go on where they were stopped.

The loss is one cross entropy over several vocabularies: a cell is scored only against the words
that its source could have said, on cosine times a learned scale. Where a photo's things are all
labelled, an unlabelled cell learns that it is none of them; where a teacher says "background", that
it is something else than all the teacher knows. Besides, two linear maps that are thrown away
afterwards predict the teachers' features from the head's (hints; Romero et al., 2015,
arXiv:1412.6550): a few hundred numbers per cell tell more than one name.
"""

from __future__ import annotations

import json
import logging
import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scanseg.contracts import InputError
from scanseg.encoders.embedded import EmbeddedEncoder
from scanseg.proposals.affinity import Affinity
from scanseg.proposals.dense_head import DenseHead, HeadEnsemble, StageMaps
from scanseg.training.head_dataset import (
    IMAGE_CLASSES,
    Hint,
    StoredPhoto,
    TrainingView,
    class_counts,
    load_photos,
)
from scanseg.training.head_hints import HintPoint, Hints, hint_points
from scanseg.training.head_labels import Layer, SoftLabels, rivals, something_else
from scanseg.training.head_photos import Photo, Recipe, training_photos
from scanseg.training.head_sampling import SIDES, Views
from scanseg.training.head_vocabularies import FIRST_CLASS, VOCABULARIES
from scanseg.training.head_votes import make_votes
from scanseg.training.program import run_program
from scanseg.training.small_loop import Group, Loop, deciding
from scanseg.weights import write_trained

log = logging.getLogger(__name__)
_T = TypeVar("_T")
TEMPLATES = ("{}", "a photo of a {}.", "a {} in the scene.", "a picture of the {}.")
EVERY = {"clothing_coparsing": 4}
"""Of these data sets only every n-th photo is used (time; the photos are much alike)."""
IMAGE_CLASS_SIMILARITY = 0.7
"""Cosine of a cell's ConSE embedding with the key of the photo's class from which the cell takes
the image-level label."""


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
        window: side of the random square windows, in pixels, a multiple of 32.
        learning_rate: peak of AdamW's cosine schedule.
        branch_rate: the same for the branch, which starts from trained weights.
        weight_decay: of AdamW.
        warmup: steps of linear warm-up.
        dropout: of the head's last layers.
        average: decay of the weights' moving average, which is what is saved.
        main_word: probability that a class is spoken for by its first word, else by a synonym.
        scale: cosine scale at the start; it is learned.
        rest_weight: weight of cells that only say which words they are not.
        hint_weight: of the mean squared error of the teachers' features, standardised.
        image_class_weight: weight of ImageNet's image-level labels.
        paste: probability that a view gets one object of another photo, and again a second one.
        sources: relative frequency of the data sets among the views.
        seed: of everything that is drawn.
        threads: for torch; a second thread makes the next step's views and features.
        save_every: steps between two states on disk.
        name: of the written file, in ``work``.
    """

    data: Path
    teachers: Path
    work: Path
    recipe: Recipe = "default"
    hold_out: bool = False
    withheld: tuple[str, ...] = ()
    steps: int = 1800
    batch: int = 16
    points: int = 96
    window: int = 320
    learning_rate: float = 1.5e-3
    branch_rate: float = 3e-4
    weight_decay: float = 0.03
    warmup: int = 30
    dropout: float = 0.1
    average: float = 0.99
    main_word: float = 0.5
    scale: float = 16.0
    image_class_weight: float = 0.2
    rest_weight: float = 0.5
    hint_weight: float = 0.5
    paste: float = 0.4
    sources: Mapping[str, float] = field(
        default_factory=lambda: {
            "coco_train": 5.0,
            "coco_train_more": 1.2,
            "facades_night_day": 0.8,
            "imagenet_samples": 2.2,
            "clothing_coparsing": 0.6,
        }
    )
    seed: int = 0
    threads: int = 1
    save_every: int = 20
    name: str = "embedded_head.safetensors"

    def __post_init__(self) -> None:
        if min(self.steps, self.batch, self.points, self.window) < 1:
            raise InputError("steps, batch, points and window must be at least 1")
        if self.window % 32:
            raise InputError(f"window must be a multiple of 32, not {self.window}")
        unknown = set(self.sources) - set(SIDES)
        if unknown:
            raise InputError(
                f"no such data set: {', '.join(sorted(unknown))}; there are {', '.join(SIDES)}"
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
        own: vocabulary -> number of leading classes after which all others together are one more
            class, "something else"; vocabularies that are not named have no such class.
        cache: file that keeps the embeddings from run to run; ``None`` keeps none.
    """

    def __init__(
        self,
        encoder: EmbeddedEncoder,
        tables: Mapping[str, Sequence[Sequence[str]]],
        withheld: Sequence[str] = (),
        cache: Path | None = None,
        own: Mapping[str, int] | None = None,
    ) -> None:
        self.tables = tables
        self.own = own or {}
        every = sorted({word for table in tables.values() for words in table for word in words})
        self.embeddings = _embed_words(encoder, every, cache)  # (words, D)
        self.index = {word: number for number, word in enumerate(every)}
        self.open = {
            name: torch.tensor([not set(words) & set(withheld) for words in table])
            for name, table in tables.items()
        }

    def classes(self, vocabulary: str) -> int:
        """Number of classes that a label can name, "something else" included."""
        return self.own[vocabulary] + 1 if vocabulary in self.own else len(self.tables[vocabulary])

    def may_be_said(self, vocabulary: str) -> Tensor:
        """(classes,) bool: not withheld."""
        if vocabulary not in self.own:
            return self.open[vocabulary]
        return F.pad(self.open[vocabulary][: self.own[vocabulary]], (0, 1), value=True)

    def log_probabilities(self, vocabulary: str, logits: Tensor) -> Tensor:
        """(p, words) cosines times scale -> (p, classes)."""
        log_p = logits.masked_fill(~self.open[vocabulary], -1e4).log_softmax(1)
        if vocabulary not in self.own:
            return log_p
        own = self.own[vocabulary]
        return torch.cat([log_p[:, :own], log_p[:, own:].logsumexp(1, keepdim=True)], 1)

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
    """Draws views and, within a view, labelled cells by the rarity of their class.

    Args:
        views: where views come from.
        words: which classes are open.
        points: cells per layer.
    """

    def __init__(self, views: Views, words: Words, points: int) -> None:
        self.views, self.words, self.points = views, words, points
        self.restart(0)
        self.counts, self.rarity = {}, {}
        for name in words.tables:
            counts = class_counts(views.photos, name, words.classes(name))
            self.counts[name] = counts
            self.rarity[name] = ((counts + 200).rsqrt() * words.may_be_said(name)).numpy()

    def restart(self, seed: int) -> None:
        """Draw on from a seed."""
        self.views.restart(seed)
        self.generator = np.random.default_rng(seed)

    def cells(self, layer: Layer) -> np.ndarray:
        """Up to ``points`` labelled cells of a layer: (p,) indices."""
        labels = layer.labels
        chance = self.rarity[layer.vocabulary][labels.ids[0]] * labels.mass
        return self._drawn(chance.ravel())

    def rest(self, view: TrainingView) -> np.ndarray:
        """Up to half as many cells that are none of the exhaustive classes: (p,) indices."""
        return self._drawn(view.rest.ravel().astype(np.float64))[: self.points // 2]

    def hinted(self, hint: Hint) -> np.ndarray:
        """Up to ``points`` cells whose features are known: (p,) indices."""
        return self._drawn((hint.place >= 0).ravel().astype(np.float64))

    def _drawn(self, chance: np.ndarray) -> np.ndarray:
        possible = np.flatnonzero(chance)
        if len(possible) <= self.points:
            return possible
        p = chance[possible] / chance[possible].sum()
        return self.generator.choice(possible, self.points, replace=False, p=p)


@dataclass(frozen=True)
class Point:
    """Cells of one view that are scored together.

    Attributes:
        vocabulary: against whose words.
        cells: (p,) indices into the batch's cells.
        ids: (J, p) classes.
        shares: (J, p) their shares.
        weight: of each cell, times its mass.
        first: 0, or the number of leading classes that these cells are certainly none of; then
            ids and shares mean nothing.
    """

    vocabulary: str
    cells: Tensor
    ids: Tensor
    shares: Tensor
    weight: float
    first: int = 0


def points_of(
    number: int, view: TrainingView, sampler: Sampler, layers: Sequence[Layer], rest_weight: float
) -> list[Point]:
    """What a step learns from view ``number`` of its batch."""
    start = number * view.grid[0] * view.grid[1]
    found = []
    for layer in layers:
        cells = sampler.cells(layer)
        labels = layer.labels
        found.append(
            Point(
                layer.vocabulary,
                torch.from_numpy(cells) + start,
                torch.from_numpy(labels.ids.reshape(len(labels.ids), -1)[:, cells]).long(),
                torch.from_numpy(labels.shares.reshape(len(labels.ids), -1)[:, cells]),
                layer.weight,
            )
        )
    if rest_weight > 0 and view.exhaustive and view.rest.any():
        cells = sampler.rest(view)
        nothing = torch.zeros(1, len(cells))
        found.append(
            Point(
                view.vocabulary,
                torch.from_numpy(cells) + start,
                nothing.long(),
                nothing,
                rest_weight,
                view.exhaustive,
            )
        )
    return [point for point in found if len(point.cells)]


def image_class_layer(
    conse: Tensor, image_class: int, keys: Tensor, own: np.ndarray, weight: float
) -> Layer:
    """Cells of a photo of one thing whose ConSE embedding agrees with it.

    Args:
        conse: (D, rows, columns), unit norm, of the view, at stride 32.
        image_class: 0 to 999.
        keys: (1000, D), unit norm, of ImageNet's classes.
        own: cells of the view, at stride 8, that show the photo itself, (g_y, g_x) bool.
        weight: of each such cell in the loss.
    """
    near = torch.einsum("dyx,d->yx", conse, keys[image_class])
    near = F.interpolate(near[None, None], own.shape, mode="bilinear", align_corners=False)[0]
    shares = ((near >= IMAGE_CLASS_SIMILARITY).numpy() & own).astype(np.float32)  # (1, g_y, g_x)
    ids = np.full(shares.shape, image_class, np.int16)
    return Layer(IMAGE_CLASSES, SoftLabels(ids, shares), weight)


@dataclass(frozen=True)
class Batch:
    """What a step learns from.

    Attributes:
        maps: the frozen tower's, of all views.
        points: labelled cells.
        hints: cells with teachers' features.
    """

    maps: StageMaps
    points: Sequence[Point]
    hints: Sequence[HintPoint] = ()


def step_loss(
    head: DenseHead,
    log_scale: Tensor,
    batch: Batch,
    words: Words,
    main_word: float,
    rng: random.Random,
    hints: Hints | None = None,
    hint_weight: float = 0.0,
) -> Tensor:
    """Cross entropy of a batch: every layer against its own vocabulary, weighted mean of cells;
    and the error of the teachers' features, mean over the cells of each."""
    maps, points = batch.maps, batch.points
    hidden = head.hidden(maps)  # (B, C, rows, columns)
    loss = _naming_loss(head, log_scale, hidden, maps, points, words, main_word, rng)
    if hints is not None and batch.hints:
        loss = loss + hint_weight * hints.loss(hidden, batch.hints)
    return loss


def _naming_loss(
    head: DenseHead,
    log_scale: Tensor,
    hidden: Tensor,
    maps: StageMaps,
    points: Sequence[Point],
    words: Words,
    main_word: float,
    rng: random.Random,
) -> Tensor:
    conse = F.interpolate(maps.conse, hidden.shape[-2:], mode="bilinear", align_corners=False)
    chosen, back = torch.cat([point.cells for point in points]).unique(return_inverse=True)

    def at_cells(values: Tensor) -> Tensor:
        return values.movedim(1, -1).flatten(0, 2)[chosen].T[None, :, None]  # (1, C, 1, p)

    embedded = head.embed(at_cells(hidden), at_cells(conse))[0, :, 0].T[back]  # (points, D)
    parts = embedded.split([len(point.cells) for point in points])
    total, weight = log_scale.new_zeros(()), 0.0
    for name in sorted({point.vocabulary for point in points}):
        targets = words.draw(name, main_word, rng)  # (K, D)
        for point, part in zip(points, parts, strict=True):
            if point.vocabulary != name:
                continue
            logits = log_scale.exp() * part @ targets.T  # (p, K)
            log_p = words.log_probabilities(name, logits)  # (p, classes)
            if point.first:
                total = total - point.weight * log_p[:, point.first :].logsumexp(1).sum()
                weight += point.weight * len(part)
            else:
                shares = point.shares * words.may_be_said(name)[point.ids]  # (J, p)
                total = total - point.weight * (log_p.gather(1, point.ids.T) * shares.T).sum()
                weight += point.weight * float(shares.sum())
    return total / max(weight, 1.0)


@torch.no_grad()
def frozen_maps(encoder: EmbeddedEncoder, pixels: Tensor) -> StageMaps:
    """The frozen tower on (B, 3, h, w) photos."""
    tokens = encoder.encode_image(pixels, layers=(1,))
    return StageMaps.from_tokens(tokens)


@torch.no_grad()
def standardise(network: DenseHead | Affinity, batches: Sequence[Sequence[Tensor]]) -> None:
    """Set a network's feature statistics from some batches: of each the maps that it reads, stage
    by stage, (B, V, rows, columns)."""
    means, stds = [], []
    for stage in zip(*batches, strict=True):
        values = torch.cat([maps.movedim(1, -1).flatten(0, 2) for maps in stage])
        means.append(values.mean(0))
        stds.append(values.std(0).clamp_min(1e-3))
    network.mean.copy_(torch.cat(means))
    network.std.copy_(torch.cat(stds))


def batch_of(config: HeadConfig, encoder: EmbeddedEncoder, sampler: Sampler, step: int) -> Batch:
    """Features and labelled cells of a step; its draws depend on seed and step only."""
    sampler.restart(config.seed * 1_000_003 + step)
    views = sampler.views.draw(config.batch, config.window)
    pixels = torch.stack([view.pixels for view in views])
    maps = frozen_maps(encoder, pixels.contiguous(memory_format=torch.channels_last))
    points, hints = [], []
    for number, view in enumerate(views):
        layers = list(view.layers)
        if view.image_class >= 0 and config.image_class_weight > 0:
            layers.append(
                image_class_layer(
                    maps.conse[number],
                    view.image_class,
                    encoder.keys,
                    view.shows_itself,
                    config.image_class_weight,
                )
            )
        points += points_of(number, view, sampler, layers, config.rest_weight)
        if config.hint_weight > 0:
            hints += hint_points(number, view, sampler.hinted)
    return Batch(maps, points, hints)


def fit(
    config: HeadConfig,
    encoder: EmbeddedEncoder,
    photos: Sequence[StoredPhoto],
    words: Words,
    checkpoint: Path | None = None,
) -> tuple[DenseHead, float, Sampler]:
    """Train on the photos.

    Args:
        checkpoint: file that keeps the state; if it exists, training goes on from it.

    Returns:
        the head with averaged weights, the learned scale, and the sampler (which holds the counts).

    Raises:
        InputError: ``checkpoint`` is of a training with other settings.
    """
    torch.manual_seed(config.seed)
    head = DenseHead(dropout=config.dropout)
    head.branch.load_state_dict(nn.Sequential(*encoder.tower.blocks[3:]).state_dict())
    head.to(memory_format=torch.channels_last)
    sampler = Sampler(Views(photos, config.sources, config.paste), words, config.points)
    log_scale = nn.Parameter(torch.tensor(math.log(config.scale)))
    head.eval()
    some = [batch_of(config, encoder, sampler, config.steps + i) for i in range(4)]
    with torch.no_grad():
        standardise(head, [(b.maps.s8, *head.stages(b.maps.s8)) for b in some])
    hints = Hints(head.fine.out_features, photos)
    trained = Trained(head, log_scale, hints)
    branch = [p for name, p in head.named_parameters() if name.startswith("branch.")]
    other = [p for name, p in head.named_parameters() if not name.startswith("branch.")]

    def loss(step: int, batch: Batch) -> Tensor:
        rng = random.Random(config.seed * 1_000_003 + step)
        return step_loss(
            head, log_scale, batch, words, config.main_word, rng, hints, config.hint_weight
        )

    loop = Loop(
        steps=config.steps,
        warmup=config.warmup,
        weight_decay=config.weight_decay,
        average=config.average,
        seed=config.seed,
        batch=lambda step: batch_of(config, encoder, sampler, step),
        loss=loss,
        save_every=config.save_every,
        tell=lambda: f"scale {log_scale.detach().exp():.1f}, ",
        settings=deciding(config, ("data", "teachers", "work", "name", "threads", "save_every")),
    )
    fresh = [*other, log_scale, *hints.parameters()]
    groups = [Group(branch, config.branch_rate), Group(fresh, config.learning_rate)]
    trained.train()
    result = loop.run(trained, groups, checkpoint)
    assert isinstance(result, Trained)
    return result.head, float(result.log_scale.exp()), sampler


class Trained(nn.Module):
    """What is trained: the head, the logarithm of the cosines' scale, and the hints' maps."""

    def __init__(self, head: DenseHead, log_scale: nn.Parameter, hints: Hints) -> None:
        super().__init__()
        self.head, self.log_scale, self.hints = head, log_scale, hints


TAUGHT_CELLS = 200
"""A class counts as taught from this many labelled cells on."""


def taught_words(words: Words, sampler: Sampler) -> list[str]:
    """The words of all open classes with enough labels, image-level labels aside."""
    taught: set[str] = set()
    for name, table in words.tables.items():
        if name == IMAGE_CLASSES:
            continue
        enough = (sampler.counts[name] >= TAUGHT_CELLS) & words.may_be_said(name)
        own = table[: words.own.get(name, len(table))]
        taught.update(
            word for words_, yes in zip(own, enough, strict=False) if yes for word in words_
        )
    return sorted(taught)


def save_head(
    path: Path,
    head: DenseHead | HeadEnsemble,
    scale: float,
    names: Sequence[str],
    embeddings: Tensor,
    notes: Mapping[str, object],
) -> None:
    """Write weights (float16), the learned scale and the taught words with their embeddings."""
    tensors = {f"head.{name}": value for name, value in head.state_dict().items()}
    metadata = {"names": json.dumps(list(names)), "scale": str(scale), "notes": json.dumps(notes)}
    write_trained(path, {**tensors, "taught": embeddings}, metadata)


def tables(config: HeadConfig) -> dict[str, Sequence[Sequence[str]]]:
    """The vocabularies of a training: ImageNet's lemmas included if they are used, and after a
    teacher's classes the words that its "background" may be."""
    from scanseg.encoders.embedded import class_descriptions

    every: dict[str, Sequence[Sequence[str]]] = dict(VOCABULARIES)
    for teacher in FIRST_CLASS:
        every[teacher] = [*every[teacher], *([word] for word in rivals(teacher))]
    if config.image_class_weight > 0:
        every[IMAGE_CLASSES] = [
            [lemma.strip() for lemma in line.split(":")[0].split(",")]
            for line in class_descriptions()
        ]
    return every


def chosen_photos(data: Path, recipe: Recipe, *, hold_out: bool) -> list[Photo]:
    """The photos of a recipe (``training_photos``), thinned out as ``EVERY`` says."""
    seen: dict[str, int] = {}
    chosen = []
    for photo in training_photos(data, recipe, hold_out=hold_out):
        number = seen.get(photo.source, 0)
        seen[photo.source] = number + 1
        if number % EVERY.get(photo.source, 1) == 0:
            chosen.append(photo)
    return chosen


def train(config: HeadConfig) -> Path:
    """Ask the teachers, then train.

    Returns:
        the written safetensors file.

    Raises:
        InputError: photos or teachers are missing, or a training with other settings began under
            this name.
    """
    torch.set_num_threads(config.threads)
    encoder = EmbeddedEncoder()
    photos = chosen_photos(config.data, config.recipe, hold_out=config.hold_out)
    log.info("recipe %s: %d photos", config.recipe, len(photos))
    make_votes(photos, config.teachers, config.work)
    own = {teacher: something_else(teacher) for teacher in FIRST_CLASS}
    words = Words(encoder, tables(config), config.withheld, config.work / "words.pt", own)
    path = config.work / config.name
    stored = load_photos(photos, config.work)
    head, scale, sampler = fit(config, encoder, stored, words, path.with_suffix(".checkpoint"))
    names = taught_words(words, sampler)
    embeddings = words.embeddings[[words.index[name] for name in names]]
    counted: dict[str, int] = {}
    for photo in photos:
        counted[photo.source] = counted.get(photo.source, 0) + 1
    kept = {
        k: v
        for k, v in asdict(config).items()
        if k not in ("data", "teachers", "work", "name", "save_every")
    }
    save_head(path, head, scale, names, embeddings, {"config": kept, "photos": counted})
    log.info("wrote %s (%.1f MB)", path, path.stat().st_size / 1e6)
    return path


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line: the fields of ``HeadConfig`` are the options."""
    run_program("scanseg.training.embedded_head", __doc__, HeadConfig, train, arguments)


if __name__ == "__main__":
    main()
