"""A model on a data set: counts of every image, resumable and sharded.

This is the only module of the room that loads a model, and so the only one that imports torch.
"""

from __future__ import annotations

import hashlib
import os
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from multiprocessing import active_children, get_context
from typing import Any

import numpy as np
import torch

from scanseg import __version__
from scanseg.contracts import InferenceSettings, InputError, Mode, Segmentation
from scanseg.data import Dataset, Sample, dataset_names, open_dataset
from scanseg.evaluation.label_maps import Segments
from scanseg.evaluation.store import CountStore, Record
from scanseg.metrics.average_recall import ProposalRecall
from scanseg.metrics.boundary import BoundaryF
from scanseg.metrics.confusion import count_pairs
from scanseg.metrics.panoptic import PanopticQuality
from scanseg.segmenter import Segmenter
from scanseg.signals import interrupts_held
from scanseg.vocabulary import Vocabulary
from scanseg.vocabulary.label_sets import LabelSet, label_set_names, load_label_set
from scanseg.weights import fingerprints

RECALL_LIMITS = (1, 10, 100)
_AHEAD = 2  # photos that are read while the model works


@dataclass(frozen=True)
class ModelSpec:
    """How to make the model, in any process.

    Args:
        preset: name, folder or hub id.
        weights: folder with the weights of a preset that ships none.
        device: ``"auto"``, ``"cpu"``, ``"cuda"`` ...; with ``auto`` under torchrun every process
            takes the GPU of its local rank.
        operating_point: name of the released settings for a benchmark, or ``None``.
        changes: single inference settings to change.
        mode: exact, bf16 or fast.
    """

    preset: str
    weights: str | None = None
    device: str = "auto"
    operating_point: str | None = None
    changes: Mapping[str, Any] = field(default_factory=dict)
    mode: Mode = "exact"

    def load(self) -> tuple[Segmenter, InferenceSettings]:
        """The model and its settings.

        Raises:
            InputError: no such preset, weights or operating point.
        """
        from scanseg.presets import load_configured

        device = self.device
        if device == "auto" and torch.cuda.is_available():
            local = int(os.environ.get("LOCAL_RANK", "0"))
            device = f"cuda:{local % torch.cuda.device_count()}"
        return load_configured(
            self.preset,
            weights=self.weights,
            device=device,
            benchmark=self.operating_point,
            changes=self.changes,
            mode=self.mode,
        )


@dataclass(frozen=True)
class DataSpec:
    """How to open the data set, in any process.

    Args:
        name: of the data set.
        root: its folder.
        split: of the data set; empty for the usual one.
    """

    name: str
    root: str
    split: str = ""

    def open(self) -> Dataset:
        """The data set.

        Raises:
            InputError: it is not there, or has no classes to evaluate.
        """
        dataset = open_dataset(self.name, self.root, self.split)
        if not dataset.classes:
            raise InputError(f"{dataset.name} has regions but no classes to evaluate")
        return dataset


@dataclass(frozen=True)
class Measures:
    """What to count besides the confusion matrix.

    Args:
        panoptic: PQ, for samples that have segments.
        boundary: contours.
        proposals: class-agnostic recall of the mask proposals, for samples that have regions.
    """

    panoptic: bool = True
    boundary: bool = False
    proposals: bool = False


def label_set_of(dataset: Dataset) -> LabelSet:
    """The classes of a data set: its benchmark's, one with equal names, or the folder's own."""
    if dataset.label_set is not None:
        return load_label_set(dataset.label_set)
    for name in label_set_names():
        known = load_label_set(name)
        if known.names == dataset.names:
            return known
    count = len(dataset.names)
    return LabelSet(
        name=dataset.root.name,
        title=dataset.root.name,
        names=dataset.names,
        prompts=dataset.prompts,
        synonyms=((),) * count,
        ids=tuple(range(count)),
        kinds=(None,) * count,
        void=255 if count <= 255 else 65535,
        source="classes.txt of the data set",
    )


def is_own(dataset: Dataset) -> bool:
    """Whether the name of a data set says nothing about what is in it: folders of one's own."""
    return dataset.name == "folder" or dataset.name not in dataset_names()


def contents_digest(dataset: Dataset) -> str:
    """A digest of classes, names and labels, equal for copies of the data set anywhere.

    Of label files (and ``panoptic.json``) every byte counts: they are small. Of photos the name and
    the size count: reading them all once more would take long.

    Raises:
        InputError: a file cannot be read.
    """
    digest = hashlib.sha256(repr((dataset.names, dataset.prompts, dataset.classes)).encode())
    try:
        for name in ("classes.txt", "panoptic.json"):
            path = dataset.root / name
            digest.update(hashlib.sha256(path.read_bytes() if path.is_file() else b"").digest())
        for sample in dataset:
            label = b"" if sample.label is None else sample.label.read_bytes()
            about = (sample.key, sample.image.name, sample.image.stat().st_size, len(label))
            digest.update(repr(about).encode())
            digest.update(label)
    except OSError as error:
        raise InputError(f"{error.filename}: cannot be read ({error.strerror})") from error
    return digest.hexdigest()[:16]


class Evaluator:
    """Counts images; made anew in every process that takes part.

    Args:
        model: how to make the model.
        data: how to open the data set.
        words: what the model is asked for, one entry per class.
        measures: what to count.
        threads: of torch on the CPU; ``None`` leaves them.

    Raises:
        InputError: the model or the data set cannot be loaded, or two words mean the same label.
    """

    def __init__(
        self,
        model: ModelSpec,
        data: DataSpec,
        words: Sequence[str],
        measures: Measures,
        threads: int | None = None,
    ) -> None:
        if threads is not None:
            torch.set_num_threads(threads)
        self.segmenter, self.settings = model.load()
        self.dataset = data.open()
        self.measures = measures
        self.vocabulary = Vocabulary(words, background=())
        if len(self.vocabulary) != len(words):
            raise InputError(
                f"{len(words)} classes but {len(self.vocabulary)} different words: two classes "
                "have the same word; try --words official"
            )

    @cached_property
    def identity(self) -> dict[str, Any]:
        """What decides the numbers, plain values: equal for runs whose counts may be mixed."""
        from torch import __version__ as torch_version

        values = {
            "scanseg": __version__,
            "torch": torch_version,
            "preset": self.segmenter.recipe.name,
            **fingerprints(self.segmenter),
            "settings": self.settings.to_dict(),
            "precision": self.segmenter.precision,
            "device": self.segmenter.device.type,
            "words": hashlib.sha256("\n".join(self.vocabulary.names).encode()).hexdigest()[:16],
            "data set": self.dataset.name,
            "split": self.dataset.split,
            "boundary": self.measures.boundary,
            "proposals": self.measures.proposals,
        }
        if is_own(self.dataset):
            values["contents"] = contents_digest(self.dataset)
        return values

    def segment(self, photos: Sequence[np.ndarray]) -> list[np.ndarray]:
        """(H, W) int32 class indices of (H, W, 3) uint8 photos."""
        found: list[Segmentation] = self.segmenter(
            list(photos), self.vocabulary, settings=self.settings
        )
        return [result.labels for result in found]

    def count(self, keys: Sequence[str]) -> Iterator[Record]:
        """Segment and count images, in order, reading ahead.

        One photo at a time: sums in batches round differently, and shards, resumed runs and
        several processes would group the photos in ways of their own.

        Args:
            keys: of the images.
        """
        with ThreadPoolExecutor(1) as reader:
            pending: deque[Future[tuple[Sample, np.ndarray, np.ndarray]]] = deque()
            try:
                for place in range(len(keys)):
                    while len(pending) < _AHEAD and place + len(pending) < len(keys):
                        pending.append(reader.submit(self._read, keys[place + len(pending)]))
                    sample, photo, truth = pending.popleft().result()
                    [labels] = self.segment([photo])
                    yield self._record(sample, photo, truth, labels)
            finally:
                for waiting in pending:
                    waiting.cancel()

    def _read(self, key: str) -> tuple[Sample, np.ndarray, np.ndarray]:
        sample = self.dataset.make(key)
        photo, truth = sample.pixels(), sample.truth()
        if photo.shape[:2] != truth.shape:
            raise InputError(
                f"{sample.label}: {truth.shape[1]} x {truth.shape[0]} pixels, but its photo "
                f"has {photo.shape[1]} x {photo.shape[0]}"
            )
        return sample, photo, truth

    def _record(
        self, sample: Sample, photo: np.ndarray, truth: np.ndarray, labels: np.ndarray
    ) -> Record:
        num_classes = self.dataset.classes
        quality = contours = recall = None
        if self.measures.panoptic and sample.read_panoptic is not None:
            said, real = Segments.of_classes(labels), sample.panoptic()
            quality = PanopticQuality(num_classes)
            quality.update(said.ids, said.classes, real.ids, real.labels, tuple(real.crowds))
        if self.measures.boundary:
            contours = BoundaryF(num_classes)
            contours.update(labels, truth)
        if self.measures.proposals and (sample.read_regions or sample.read_panoptic):
            recall = ProposalRecall(RECALL_LIMITS)
            proposals, scores = self._proposals(photo)
            for regions in sample.regions():
                masks = [regions == i for i in np.unique(regions) if i > 0]
                if masks:
                    recall.update(proposals, np.stack(masks), scores)
        return Record(
            sample.key, count_pairs(labels, truth, num_classes), quality, contours, recall
        )

    @torch.inference_mode()
    def _proposals(self, photo: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The model's class-agnostic masks, (Q, H, W) bool, and how sure it is of each, (Q,)."""
        recipe, segmenter = self.segmenter.recipe, self.segmenter
        resized = torch.from_numpy(recipe.resize(photo)).permute(2, 0, 1)[None]
        pixels = resized.to(segmenter.device)
        context = segmenter.clip.encode_image(
            pixels, layers=recipe.token_layers, semantics=self.settings.semantics
        )
        found = segmenter.proposals(pixels, context)
        masks = torch.nn.functional.interpolate(  # (Q, H, W)
            found.masks.float(), photo.shape[:2], mode="bilinear", align_corners=False
        )[0]
        inside = masks > self.settings.mask_threshold
        area = inside.flatten(1).sum(1)
        sure = (masks * inside).flatten(1).sum(1) / area.clamp(min=1)
        if found.objectness is not None:
            sure = sure * found.objectness[0]
        return inside.cpu().numpy(), sure.cpu().numpy()


@dataclass(frozen=True)
class Job:
    """Everything that :class:`Evaluator` needs, to be sent to other processes."""

    model: ModelSpec
    data: DataSpec
    words: tuple[str, ...]
    measures: Measures

    def evaluator(self, threads: int | None = None) -> Evaluator:
        """Load the model and open the data set."""
        return Evaluator(self.model, self.data, self.words, self.measures, threads)


def count_missing(
    evaluator: Evaluator,
    job: Job,
    store: CountStore,
    keys: Sequence[str],
    *,
    workers: int = 1,
    advance: Callable[[], None] = lambda: None,
) -> None:
    """Count the images that no shard has counted yet, and put each into the store at once.

    Args:
        evaluator: of this process.
        job: to make evaluators in other processes.
        store: where counts go.
        keys: images of this shard.
        workers: processes on this machine; each loads the model.
        advance: called after each image, also for those counted before.

    Raises:
        InputError: an image cannot be read.
    """
    done = store.records()
    for key in keys:
        if key in done:
            advance()
    missing = [key for key in keys if key not in done]
    if workers <= 1 or len(missing) < 2:
        for record in evaluator.count(missing):
            store.add(record)
            advance()
        return
    threads = max(1, (os.cpu_count() or 1) // workers)
    with ProcessPoolExecutor(
        min(workers, len(missing)),
        mp_context=get_context("spawn"),
        initializer=_start,
        initargs=(job, threads),
    ) as pool:
        others = set(active_children())
        try:
            with interrupts_held():  # the first one starts the processes
                counted = deque(pool.submit(_count_one, key) for key in missing)
            while counted:
                store.add(counted.popleft().result())
                advance()
        except BaseException:  # what they are at, which may be loading a model, is in vain
            for process in set(active_children()) - others:
                process.terminate()
            raise


def shard_of(keys: Sequence[str], shard: tuple[int, int]) -> list[str]:
    """Every n-th key from the i-th on, for shard ``(i, n)``."""
    number, count = shard
    if not 0 <= number < count:
        raise InputError(f"shard {number} of {count} does not exist: count from 0")
    return list(keys[number::count])


def shard_from_environment() -> tuple[int, int]:
    """``(RANK, WORLD_SIZE)`` as torchrun sets them; ``(0, 1)`` otherwise."""
    return int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))


_EVALUATOR: Evaluator | None = None  # of a worker process


def _start(job: Job, threads: int) -> None:
    global _EVALUATOR
    _EVALUATOR = job.evaluator(threads)


def _count_one(key: str) -> Record:
    assert _EVALUATOR is not None
    return next(_EVALUATOR.count([key]))
