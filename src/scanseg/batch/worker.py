"""A process with a model: it labels the photos of a shard and commits their rows.

Besides ``faults`` the only module of the room that imports torch. Both engines call
:meth:`Worker.do`.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from io import BytesIO
from itertools import groupby
from pathlib import Path
from typing import Any, Literal

import torch

from scanseg import __version__
from scanseg.batch.plan import Numbered, Plan
from scanseg.batch.sources import Item, Reader, open_source
from scanseg.batch.tables import FileFacts, ShardRows, arrow, commit, is_done
from scanseg.contracts import InputError, Segmentation
from scanseg.evaluation.runner import ModelSpec
from scanseg.faults import DeviceLost, device_is_lost, in_short, lacks_memory
from scanseg.formats.photos import Photo, PhotoLimits, read_photo
from scanseg.segmenter import CPU_BATCH, DEVICE_BATCH, EncodedWords
from scanseg.storage import first_difference, new_file
from scanseg.vocabulary import Vocabulary
from scanseg.weights import fingerprints

RUN_FILE, LOG_FOLDER = "run.json", "log"
_VERSION = 1
_WORD_LISTS = 64  # encoded vocabularies that are kept, where photos bring their own words
_SUSPICIOUS = 8  # photos

Format = Literal["parquet", "webdataset"]


@dataclass(frozen=True)
class BatchJob:
    """Everything that decides the output, and how to get it; can be sent to other processes.

    Args:
        source: a folder, manifest or tar files, as :func:`~scanseg.batch.sources.open_source`
            takes it; absolute, so that it means the same everywhere.
        output: folder for the results, absolute.
        vocabulary: words for photos that bring none.
        model: how to make the model; its device is that of the process.
        format: what segments are written as.
        maps: write indexed PNGs too.
        threads: of torch on the CPU, in every process; ``None`` leaves them.
        readers: threads that read and decode photos ahead of the model.
        limits: what a photo may cost.
    """

    source: str
    output: str
    vocabulary: Vocabulary
    model: ModelSpec
    format: Format = "parquet"
    maps: bool = False
    threads: int | None = None
    readers: int = 1
    limits: PhotoLimits = field(default_factory=PhotoLimits)

    @property
    def folder(self) -> Path:
        """The output folder."""
        return Path(self.output)


@dataclass(frozen=True)
class ShardDone:
    """What became of a shard: photos, those that failed, seconds by the clock and processor."""

    shard: int
    images: int
    failed: int
    seconds: float
    processor: float


@dataclass(frozen=True, eq=False)
class _Read:
    """A photo that was read, or why it could not be."""

    image: int
    item: Item
    facts: FileFacts | None = None
    photo: Photo | None = None
    reason: str = ""


@dataclass(frozen=True)
class _Failure:
    """Why a photo has no map.

    Text only: an exception keeps its traceback, and with it the tensors in the model's frames.
    """

    reason: str
    fault: str = ""  # the exception in short, where the model failed and not the photo


class Worker:
    """Holds the model and labels shards.

    Args:
        job: what to do.

    Raises:
        InputError: the model cannot be loaded, a word cannot be used, or the output folder holds
            results of another run.
    """

    def __init__(self, job: BatchJob) -> None:
        if job.threads is not None:
            torch.set_num_threads(job.threads)
        self.job = job
        self.plan = Plan(job.folder)
        self.segmenter, self.settings = job.model.load()
        self._words: dict[tuple[str, ...] | None, EncodedWords] = {}
        self._encoded(None)
        self._reader = Reader(open_source(job.source), job.limits)
        self._pool = ThreadPoolExecutor(job.readers, thread_name_prefix="read")
        check_run(job.folder, self.identity())

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *error: object) -> None:
        self._pool.shutdown(cancel_futures=True)
        self._reader.close()

    def identity(self) -> dict[str, Any]:
        """What decides the bytes of the output, plain values."""
        pa, _ = arrow()
        job, words = self.job, self.job.vocabulary
        return {
            "scanseg": __version__,
            "torch": torch.__version__,
            "pyarrow": pa.__version__,
            "preset": self.segmenter.recipe.name,
            **fingerprints(self.segmenter),
            "settings": self.settings.to_dict(),
            "precision": self.segmenter.precision,
            "device": self.segmenter.device.type,
            "labels": list(words.names),
            **words.besides_names(),
            "source": job.source,
            "photos": self.plan.hash,
            "format": job.format,
            "maps": job.maps,
            "limits": [job.limits.max_pixels, job.limits.max_bytes, job.limits.max_aspect],
        }

    def do(self, shard: int, renew: Callable[[int], None] = lambda done: None) -> ShardDone:
        """Label the photos of a shard and commit its files.

        Files of a shard that somebody else finished in the meantime stay as they are.

        Args:
            shard: its number.
            renew: called with the number of photos done, after each.

        Raises:
            DeviceLost: nothing more can be done in this process.
            RuntimeError: the model failed on every photo of the shard, so not one of them is the
                cause.
        """
        started, processor = time.perf_counter(), time.process_time()
        found = self.label(self.plan.items(shard), renew)
        if not is_done(self.job.folder, shard):
            commit(self.job.folder, shard, found)
        failed = len(found.rows["quarantine"])
        return ShardDone(
            shard,
            self.plan.size(shard),
            failed,
            time.perf_counter() - started,
            time.process_time() - processor,
        )

    def label(
        self, items: Sequence[Numbered], renew: Callable[[int], None] = lambda done: None
    ) -> ShardRows:
        """The rows of some photos, in their order; photos that fail are rows too.

        Raises:
            DeviceLost: nothing more can be done in this process.
            RuntimeError: the model failed on every photo.
        """
        found = ShardRows(samples=self.job.format == "webdataset", maps=self.job.maps)
        faults, last, done = 0, "", 0
        limit = CPU_BATCH if self.segmenter.device.type == "cpu" else DEVICE_BATCH
        for batch in _batched(self._read_ahead(items), limit):
            for read, result in self._label_batch(batch):
                if isinstance(result, Segmentation) and read.facts is not None:
                    found.done(read.image, read.item, read.facts, result)
                elif isinstance(result, _Failure):
                    found.failed(read.image, read.item, result.reason, read.facts)
                    if result.fault:
                        faults, last = faults + 1, result.fault
                done += 1
                renew(done)
        if faults == len(items) >= _SUSPICIOUS:
            raise RuntimeError(
                f"the model failed on all {faults} photos of a shard, the last time with {last}"
            )
        return found

    def _label_batch(
        self, batch: Sequence[_Read]
    ) -> Iterator[tuple[_Read, Segmentation | _Failure]]:
        """Each photo with its map, or with the reason why it has none."""
        readable = [read for read in batch if read.photo is not None]
        results: dict[int, Segmentation | _Failure] = {}
        for labels, group in groupby(readable, key=lambda read: read.item.labels):
            same = list(group)
            for read, result in zip(same, self._segment(same, labels), strict=True):
                results[read.image] = result
        for read in batch:
            yield read, results.get(read.image, _Failure(read.reason))

    def _segment(
        self, reads: Sequence[_Read], labels: tuple[str, ...] | None
    ) -> list[Segmentation | _Failure]:
        """Maps of photos with the same words; if they fail together, each is tried alone.

        Raises:
            DeviceLost: they failed, and any other photo would.
        """
        try:
            photos = [read.photo for read in reads if read.photo is not None]
            found: list[Segmentation | _Failure] = self.segmenter(
                photos, self._encoded(labels), settings=self.settings
            )
            return found
        except Exception as error:  # one photo in millions must not end the job
            if device_is_lost(error):
                said = f"the device failed at {_keys(reads)} ({in_short(error)})"
                raise DeviceLost(said) from error
            if len(reads) == 1:
                return [_failure(error, reads[0])]
        # here, not above: the exception is gone, and with it the tensors in its frames
        return [self._segment([read], labels)[0] for read in reads]

    def _encoded(self, labels: tuple[str, ...] | None) -> EncodedWords:
        """Words of a photo, or of the job, encoded once."""
        if labels not in self._words:
            if len(self._words) > _WORD_LISTS:
                del self._words[next(key for key in self._words if key is not None)]
            words = self.job.vocabulary
            if labels is not None:
                words = Vocabulary(labels, background=words.background)
            self._words[labels] = self.segmenter.prepare(words)
        return self._words[labels]

    def _read_ahead(self, items: Sequence[Numbered]) -> Iterator[_Read]:
        """Photos in order, a few of them read and decoded ahead by the pool."""
        pending: deque[Future[_Read]] = deque()
        waiting = iter(items)
        try:
            while True:
                while len(pending) < self.job.readers + 1 and (n := next(waiting, None)):
                    pending.append(self._pool.submit(self._read, n))
                if not pending:
                    return
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()

    def _read(self, numbered: Numbered) -> _Read:
        image, item, facts = numbered.image, numbered.item, None
        try:
            data = self._reader.read(item)
            facts = FileFacts(len(data), hashlib.sha256(data).hexdigest())
            stream = BytesIO(data)
            stream.name = item.key  # how messages call the photo
            return _Read(image, item, facts, read_photo(stream, limits=self.job.limits))
        except InputError as error:
            return _Read(image, item, facts, reason=str(error))


def check_run(folder: Path, identity: Mapping[str, Any]) -> None:
    """Write ``run.json``, or compare with the one that is there.

    Raises:
        InputError: the folder belongs to another run.
    """
    path = folder / RUN_FILE
    ours = json.loads(json.dumps(identity))
    if not path.exists():
        content = {"scanseg_batch": _VERSION, "run": ours}
        try:
            with new_file(path) as file:
                file.write((json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode())
            return
        except FileExistsError:  # another process was quicker
            pass
    theirs = read_run(folder)
    differs = first_difference(theirs, ours)
    if differs is not None:
        was, now = (_shown(run.get(differs)) for run in (theirs, ours))
        raise InputError(
            f"{folder} holds results of another run ({differs}: {was} there, {now} here): "
            "use another --output"
        )


def read_run(folder: Path) -> dict[str, Any]:
    """What decided the output of a folder.

    Raises:
        InputError: it holds no batch job of this version.
    """
    path = folder / RUN_FILE
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{folder} holds no batch job: it has no {RUN_FILE}") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read ({error})") from error
    if not isinstance(content, dict) or content.get("scanseg_batch") != _VERSION:
        raise InputError(f"{path} is not of a batch job of this version")
    run: dict[str, Any] = content["run"]
    return run


def log_shard(folder: Path, done: ShardDone) -> None:
    """Note when a shard was done and how fast, in the log of this process."""
    path = folder / LOG_FOLDER / f"{platform.node()}-{os.getpid()}.jsonl"
    path.parent.mkdir(exist_ok=True)
    entry = {
        "shard": done.shard,
        "images": done.images,
        "failed": done.failed,
        "seconds": round(done.seconds, 3),
        "processor": round(done.processor, 3),
        "finished": round(time.time(), 3),
    }
    with path.open("a") as file:
        file.write(json.dumps(entry) + "\n")


def _batched(reads: Iterator[_Read], limit: int) -> Iterator[list[_Read]]:
    batch: list[_Read] = []
    for read in reads:
        batch.append(read)
        if len(batch) == limit:
            yield batch
            batch = []
    if batch:
        yield batch


def _failure(error: Exception, read: _Read) -> _Failure:
    if isinstance(error, InputError):
        return _Failure(str(error))
    if lacks_memory(error):
        reason = f"{read.item.key} needs more memory than there is: shrink it"
    else:
        reason = f"internal error: {in_short(error)}"[:300]
    return _Failure(reason, in_short(error))


def _keys(reads: Sequence[_Read]) -> str:
    first, last = reads[0].item.key, reads[-1].item.key
    return first if first == last else f"{first} to {last}"


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 80 else text[:77] + "..."
