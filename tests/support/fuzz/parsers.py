"""The table of parsers: everything that reads bytes somebody else wrote.

A new parser is one row of :data:`PARSERS`: a name, inputs to start from, and a function of the
bytes and an empty folder that reads them as a user's command would.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from fuzz import seeds

NAMES = ("wall", "building", "sky", "cat")


@dataclass(frozen=True)
class Parser:
    """Something that reads bytes.

    Attributes:
        name: of its row.
        seeds: inputs to start from, valid and hostile ones.
        read: reads them; the folder is empty and its own.
        weight: share of a run, relative to the others.
    """

    name: str
    seeds: Callable[[], Sequence[bytes]]
    read: Callable[[bytes, Path], object]
    weight: int = 1


def _file(folder: Path, name: str, data: bytes) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


# ------------------------------------------------------------------------------ pictures


def _photo(data: bytes, folder: Path) -> object:
    from scanseg.formats.photos import read_photo

    photo = read_photo(data)
    assert photo.pixels.ndim == 3 and photo.pixels.shape[2] == 3
    return photo


def _indexed_png(data: bytes, folder: Path) -> object:
    from scanseg.formats.png import load_indexed_png

    return load_indexed_png(_file(folder, "map.png", data))


def _label_png(data: bytes, folder: Path) -> object:
    from scanseg.evaluation.label_maps import Coding, PngFolder

    _file(folder, "a.png", data)
    return PngFolder(folder, Coding(NAMES), "prediction").segments("a")


def _data_set_picture(data: bytes, folder: Path) -> object:
    from scanseg.contracts import InputError
    from scanseg.data.pictures import decode_grey, picture_size, read_pixels

    path = _file(folder, "a.png", data)
    with contextlib.suppress(InputError):
        decode_grey(data, path, bits=8)
    with contextlib.suppress(InputError):
        picture_size(path)
    return read_pixels(path)


def _matlab(data: bytes, folder: Path) -> object:
    from scanseg.data.pictures import load_mat, structs_in, whole_numbers

    found = load_mat(data, "LabelMap", "a.mat")
    structs_in(found)
    return whole_numbers(found, "a.mat")


# ------------------------------------------------------------------------------ archives


def _archive(name: str) -> Callable[[bytes, Path], object]:
    def read(data: bytes, folder: Path) -> object:
        from scanseg.data.archives import Bounds, open_archive, safe_path

        bundle = open_archive(_file(folder, name, data), Bounds(10_000, 64 * 2**20))
        try:
            assert all(safe_path(member.path) for member in bundle.members)
            return [len(bundle.read(m)) for m in bundle.members if m.regular]
        finally:
            bundle.close()

    return read


def _gzip(data: bytes, folder: Path) -> object:
    from scanseg.data.archives import inflate

    inflated = io.BytesIO()
    inflate(_file(folder, "a.tar.gz", data), inflated, 8 * 2**20)
    assert inflated.tell() <= 8 * 2**20
    return inflated


# ------------------------------------------------------------------------------- weights


def _safetensors(data: bytes, folder: Path) -> object:
    from scanseg.weights import TensorFile

    file = TensorFile(_file(folder, "model.safetensors", data))
    return [file[name] for name in file]


def _checkpoint(data: bytes, folder: Path) -> object:
    from scanseg.convert import convert
    from scanseg.convert.checkpoints import read_checkpoint

    path = _file(folder, "model.pth", data)
    found = read_checkpoint(path)
    _ = [found.tensors[name].shape for name in found.tensors]
    return convert([str(path)], str(folder / "out"))


def _model_config(data: bytes, folder: Path) -> object:
    """``config.json`` beside right weights of the preset ``tiny``."""
    from scanseg.presets import load

    _file(folder, "config.json", data)
    os.link(seeds.tiny_folder() / "model.safetensors", folder / "model.safetensors")
    return load(str(folder), device="cpu")


def _training_checkpoint(data: bytes, folder: Path) -> object:
    from scanseg.training.checkpoints import CheckpointStore

    return CheckpointStore(folder).read(_file(folder, "step_00000001.ckpt", data))


# ---------------------------------------------------------------------------- vocabulary


def _vocabulary(data: bytes, folder: Path) -> object:
    from scanseg.vocabulary import Vocabulary

    words = data.decode("utf-8", "surrogateescape").split("\n")
    return Vocabulary(words).terms()


def _request_words(data: bytes, folder: Path) -> object:
    from scanseg.web.words import read_words

    return read_words([data.decode("utf-8", "replace")])


def _labels_file(data: bytes, folder: Path) -> object:
    from scanseg.cli.labels_file import read_labels_file
    from scanseg.vocabulary import Vocabulary

    return Vocabulary(read_labels_file(str(_file(folder, "labels.txt", data)))).terms()


def _label_set(name: str) -> Callable[[bytes, Path], object]:
    def read(data: bytes, folder: Path) -> object:
        from scanseg.vocabulary.label_sets import load_label_set

        found = load_label_set(_file(folder, name, data))
        return found.digest, found.things

    return read


def _class_list(data: bytes, folder: Path) -> object:
    from scanseg.data.folder import read_classes

    return read_classes(_file(folder, "classes.txt", data))


def _hierarchy(data: bytes, folder: Path) -> object:
    from scanseg.vocabulary.hierarchy import load_hierarchy
    from scanseg.vocabulary.hierarchy_lint import lint_hierarchy

    path = _file(folder, "hierarchy.json", data)
    lint_hierarchy(path)
    found = load_hierarchy(path)
    return found.sha256, found.index_maps(), found.to_json()


def _senses(data: bytes, folder: Path) -> object:
    from scanseg.storage import read_json
    from scanseg.vocabulary.hierarchy_candidates import read_senses
    from scanseg.vocabulary.label_sets import load_label_set

    return read_senses(
        read_json(_file(folder, "senses.json", data), 2**24), load_label_set("camvid11")
    )


def _similarity(data: bytes, folder: Path) -> object:
    from scanseg.evaluation.similarity import load_similarity

    return load_similarity(_file(folder, "similarity.json", data), NAMES)


def _text_cache(data: bytes, folder: Path) -> object:
    from scanseg.vocabulary.embeddings import TextCache

    _file(folder, "tower.sqlite", data)
    cache = TextCache(folder, "tower", 4)
    cache.read([b"a" * 32, b"b" * 32])
    return cache


# ------------------------------------------------------------------- scores and data sets


def _coco(data: bytes, folder: Path) -> object:
    from scanseg.evaluation.coco_maps import image_list, open_coco

    _file(folder, "panoptic/a.png", seeds.panoptic_png())
    _file(folder, "panoptic/b.png", seeds.panoptic_png())
    path = folder / "annotations.json"
    images: Mapping[Any, Any] = image_list(path, seeds.IMAGES)
    maps = open_coco(_file(folder, path.name, data), NAMES, range(4), "prediction", images)
    return [maps.labels(key) for key in maps.keys]


def _panoptic_index(data: bytes, folder: Path) -> object:
    from scanseg.data.coco_panoptic import read_index, read_segments

    path = _file(folder, "panoptic_val2017.json", data)
    found = read_index(path, {i: i for i in range(4)})
    picture = _file(folder, "a.png", seeds.panoptic_png())
    return [read_segments(picture, segments) for segments in found.values()]


def _counts(data: bytes, folder: Path) -> object:
    from scanseg.evaluation.store import CountStore

    _file(folder, "counts-0.jsonl", data)
    with CountStore(folder, seeds.RUN, 4) as store:
        return store.records()


def _lists(data: bytes, folder: Path) -> object:
    from scanseg.contracts import InputError
    from scanseg.data.preparation import SUMS, read_sums
    from scanseg.data.splits import read_keys

    with contextlib.suppress(InputError):
        read_keys(_file(folder, "train.txt", data))
    _file(folder, SUMS, data)
    return read_sums(folder)


# ----------------------------------------------------------- jobs, experiments, requests


def _manifest(name: str) -> Callable[[bytes, Path], object]:
    """A list of photos, planned and read as ``scanseg batch`` does."""

    def read(data: bytes, folder: Path) -> object:
        from scanseg.batch.plan import make_plan
        from scanseg.batch.sources import Reader, open_source
        from scanseg.contracts import InputError
        from scanseg.formats.photos import PhotoLimits
        from scanseg.vocabulary import Vocabulary

        source = open_source(str(_file(folder, name, data)))
        plan = make_plan(source, folder / "out", 4, limit=50)
        reader = Reader(source, PhotoLimits())
        try:
            for numbered in plan.items(0):
                with contextlib.suppress(InputError):  # goes to the quarantine
                    Vocabulary(numbered.item.labels or NAMES)
                    reader.read(numbered.item)
        finally:
            reader.close()
        return plan.images

    return read


def _experiment(data: bytes, folder: Path) -> object:
    from scanseg.training.config import load_experiment

    return load_experiment(_file(folder, "mine.yaml", data)).to_yaml()


@cache
def _client() -> Any:
    from starlette.testclient import TestClient

    from scanseg.web.app import create_app
    from scanseg.web.engine import Plan, Preset
    from scanseg.web.limits import ServeLimits
    from scanseg.web.metrics import Metrics
    from scanseg.web.worker import Worker

    limits = ServeLimits(max_bytes=400_000, max_pixels=1_000_000, max_labels=50)
    worker = Worker(Plan((Preset("tiny", "tiny"),), "cpu", False, limits.photo), limits, Metrics())
    worker.start()
    return TestClient(create_app(worker, limits), base_url="http://localhost").__enter__()


def _request(data: bytes, folder: Path) -> object:
    """The body of a request to the server, from its boundary on."""
    from scanseg.contracts import InputError

    kind = f"multipart/form-data; boundary={seeds.BOUNDARY}"
    reply = _client().post("/api/v1/segment", content=data, headers={"content-type": kind})
    if reply.status_code == 200:
        return reply
    assert reply.status_code in (400, 408, 413, 422, 429), f"status {reply.status_code}"
    raise InputError(reply.json()["error"])


def _command_line(data: bytes, folder: Path) -> object:
    """Any arguments: exit code 0 or 2, and on 2 exactly one line on standard error."""
    from scanseg.cli import main
    from scanseg.contracts import InputError

    arguments = [a for a in data.decode("utf-8", "surrogateescape").split("\n") if a][:30]
    if arguments[:1] in (["serve"], ["train"], ["batch"]):  # those run on, or write in many places
        arguments = [*arguments[:1], "--help"]
    out, told = io.StringIO(), io.StringIO()
    old = os.getcwd()
    os.chdir(folder)
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(told):
            code = main(arguments)
    finally:
        os.chdir(old)
    lines = told.getvalue()
    if code == 2 and "usage:" not in out.getvalue():
        assert lines.count("\n") == 1 and lines.endswith("\n"), f"on stderr: {lines[:300]!r}"
        raise InputError(lines)
    assert code in (0, 2), f"exit code {code}: {lines[:300]!r}"
    return code


PARSERS: tuple[Parser, ...] = (
    Parser("photo", seeds.photos, _photo, 8),
    Parser("map of scanseg (PNG)", seeds.maps, _indexed_png),
    Parser("label map to score (PNG)", seeds.maps, _label_png, 2),
    Parser("picture of a data set", seeds.photos, _data_set_picture, 2),
    Parser("MATLAB label file", seeds.matlab, _matlab),
    Parser("zip archive", seeds.zips, _archive("a.zip"), 2),
    Parser("tar archive", seeds.tars, _archive("a.tar"), 2),
    Parser("gzip file", seeds.gzips, _gzip),
    Parser("safetensors", seeds.safetensors, _safetensors, 2),
    Parser("PyTorch checkpoint to convert", seeds.pickles, _checkpoint, 2),
    Parser("training checkpoint", seeds.pickles, _training_checkpoint),
    Parser("config.json of a model", seeds.model_configs, _model_config),
    Parser("words", seeds.words, _vocabulary, 2),
    Parser("words of a request", seeds.words, _request_words, 2),
    Parser("labels file", seeds.words, _labels_file),
    Parser("label set (text)", seeds.words, _label_set("set.txt")),
    Parser("label set (JSON)", seeds.label_sets, _label_set("set.json")),
    Parser("classes.txt", seeds.class_lists, _class_list),
    Parser("hierarchy", seeds.hierarchies, _hierarchy, 2),
    Parser("senses", seeds.senses, _senses),
    Parser("similarity file", seeds.similarities, _similarity),
    Parser("text cache", seeds.caches, _text_cache),
    Parser("COCO results, annotations, panoptic", seeds.coco, _coco, 3),
    Parser("panoptic index of a data set", seeds.coco, _panoptic_index),
    Parser("counts of an evaluation", seeds.counts, _counts, 2),
    Parser("lists and checksums", seeds.lists, _lists),
    Parser("manifest (CSV)", seeds.csv_manifests, _manifest("list.csv"), 2),
    Parser("manifest (Parquet)", seeds.parquet_manifests, _manifest("list.parquet"), 2),
    Parser("WebDataset shard", seeds.tars, _manifest("shard.tar")),
    Parser("experiment (YAML)", seeds.experiments, _experiment, 2),
    Parser("server request", seeds.requests, _request, 2),
    Parser("command line", seeds.command_lines, _command_line),
)


if sys.platform == "win32":  # hard links and other names of temporary files
    PARSERS = tuple(p for p in PARSERS if p.name != "config.json of a model")
