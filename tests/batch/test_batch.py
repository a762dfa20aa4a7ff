"""``scanseg batch`` from the command line to the tables, with the real (random) ``tiny`` model."""

from __future__ import annotations

import importlib
import json
import multiprocessing
import shutil
import tarfile
import threading
import weakref
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

import scanseg
import scanseg.faults
from scanseg.batch import local
from scanseg.batch.local import run_processes
from scanseg.batch.plan import Plan, make_plan
from scanseg.batch.progress import Progress, Watch
from scanseg.batch.ray_engine import ShardActor
from scanseg.batch.sources import open_source
from scanseg.batch.tables import done_shards
from scanseg.batch.worker import BatchJob, Worker, read_run
from scanseg.cli import main
from scanseg.evaluation.runner import ModelSpec
from scanseg.formats.png import load_indexed_png
from scanseg.formats.records import decode_rle
from scanseg.segmenter import Segmenter
from scanseg.vocabulary import Vocabulary

WORDS = ["cat", "cup", "table"]


def batch(source: Path, output: Path, *arguments: str, labels: str = "cat,cup,table") -> int:
    return main([
        "batch", str(source), "--output", str(output), "--labels", labels, "--preset", "tiny",
        "--devices", "cpu", "--shard-size", "4", "--quiet", *arguments,
    ])  # fmt: skip


def results(folder: Path) -> dict[str, bytes]:
    """Everything that a job promises to be the same, by file name."""
    files = [folder / "run.json", *sorted(folder.glob("*/shard-*"))]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def a_job(photos: Path, folder: Path) -> BatchJob:
    """A job on the photos with its plan in the folder, in shards of 4."""
    make_plan(open_source(str(photos)), folder, 4)
    return BatchJob(str(photos), str(folder), Vocabulary(WORDS), ModelSpec("tiny", device="cpu"))


@pytest.fixture(scope="module")
def model() -> Segmenter:
    return scanseg.Segmenter.from_pretrained("tiny", device="cpu")


@pytest.fixture(scope="module")
def finished(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finished") / "job"
    assert batch(photos, folder) == 3
    return folder


@pytest.fixture
def job(finished: Path, tmp_path: Path) -> Path:
    """A finished job on ten photos and a damaged one, in shards of 4."""
    return Path(shutil.copytree(finished, tmp_path / "job"))


# ------------------------------------------------------------------ what comes out


def test_tables_say_what_the_model_says(job: Path, photos: Path, model: Segmenter) -> None:
    segments, images = pd.read_parquet(job / "segments"), pd.read_parquet(job / "images")
    assert images["image"].tolist() == list(range(11))
    assert (images["status"] == "ok").sum() == 10
    assert images["key"].tolist()[3:6] == ["003.jpg", "004-damaged.jpg", "004.jpg"]
    for row in images[images["status"] == "ok"].itertuples():
        expected = model(photos / row.key, WORDS)
        found = np.full(expected.labels.shape, -1)
        parts = segments[segments["image"] == row.image]
        for part in parts.itertuples():
            mask = decode_rle({"size": [part.height, part.width], "counts": part.rle})
            found[mask] = part.label
            assert part.name == WORDS[part.label]
            assert part.key == row.key
            assert part.area == mask.sum()
            assert part.confidence == pytest.approx(expected.confidence[mask].mean(), abs=1e-5)
            x, y, width, height = part.bbox
            assert mask[y : y + height, x : x + width].sum() == part.area
        assert (found == expected.labels).all()
        assert len(parts) == row.segments
        assert row.bytes == (photos / row.key).stat().st_size


def test_a_damaged_photo_is_set_aside_with_the_reason(job: Path) -> None:
    quarantine = pd.read_parquet(job / "quarantine")
    assert quarantine["path"].tolist() == ["004-damaged.jpg"]
    assert "004-damaged.jpg is truncated or damaged" in quarantine["reason"][0]
    images = pd.read_parquet(job / "images")
    failed = images[images["status"] == "failed"]
    assert failed["reason"].tolist() == quarantine["reason"].tolist()
    assert failed["image"].tolist() == quarantine["image"].tolist()


def test_quarantine_can_be_given_again(job: Path, own_photos: Path, tmp_path: Path) -> None:
    """As the documentation says: mend the own_photos, then give the list as a manifest."""
    Image.open(own_photos / "000.jpg").save(own_photos / "004-damaged.jpg")
    listed = own_photos / "again.parquet"
    assert main(["batch", "merge", str(job), "--output", str(tmp_path / "merged")]) == 0
    (tmp_path / "merged" / "quarantine.parquet").rename(listed)
    assert batch(listed, tmp_path / "second") == 0
    assert pd.read_parquet(tmp_path / "second" / "images")["key"].tolist() == ["004-damaged.jpg"]


def test_photos_with_words_of_their_own(own_photos: Path, tmp_path: Path, model: Segmenter) -> None:
    (own_photos / "list.csv").write_text(
        'path,labels\n000.jpg,"dog, sky"\n001.jpg,\n002.jpg,"a,A"\n'
    )
    assert batch(own_photos / "list.csv", tmp_path / "out") == 0
    segments = pd.read_parquet(tmp_path / "out" / "segments")
    for image, words in [(0, ["dog", "sky"]), (1, WORDS), (2, ["a"])]:
        expected = model(own_photos / f"00{image}.jpg", words)
        found = segments[segments["image"] == image]
        assert found["name"].tolist() == [s.name for s in expected.segments]
        assert found["area"].tolist() == [s.area for s in expected.segments]


def test_words_of_a_photo_that_cannot_be_used(own_photos: Path, tmp_path: Path) -> None:
    (own_photos / "list.csv").write_text(f"path,labels\n000.jpg,{'x' * 400}\n001.jpg,cat\n")
    assert batch(own_photos / "list.csv", tmp_path / "out") == 3
    [reason] = pd.read_parquet(tmp_path / "out" / "quarantine")["reason"]
    assert "400 characters" in reason


def test_webdataset_in_and_out(photos: Path, tmp_path: Path, model: Segmenter) -> None:
    import webdataset

    shards = tmp_path / "shards"
    shards.mkdir()
    for number in range(2):
        with tarfile.open(shards / f"{number}.tar", "w") as tar:
            for name in ("000.jpg", "001.jpg", "002.jpg"):
                tar.add(photos / name, name)
    assert batch(shards, tmp_path / "out", "--format", "webdataset", "--png") == 0
    tars = sorted(map(str, (tmp_path / "out" / "samples").glob("*.tar")))
    assert len(tars) == 2
    read = webdataset.WebDataset(tars, shardshuffle=False)
    samples = list(read)
    assert [s["__key__"] for s in samples] == [f"{i:012d}" for i in range(6)]
    record = json.loads(samples[4]["json"])
    assert record["image"]["name"] == "1.tar/001.jpg"
    (tmp_path / "map.png").write_bytes(samples[4]["png"])
    labels, names = load_indexed_png(tmp_path / "map.png")
    assert names == tuple(WORDS)
    assert (labels == model(photos / "001.jpg", WORDS).labels).all()
    assert not (tmp_path / "out" / "segments").exists()


def test_indexed_pngs_beside_the_tables(photos: Path, tmp_path: Path, model: Segmenter) -> None:
    batch(photos, tmp_path / "out", "--png", "--limit", "2")
    with tarfile.open(tmp_path / "out" / "maps" / "shard-000000.tar") as tar:
        assert tar.getnames() == ["000000000000.png", "000000000001.png"]
        tar.extract("000000000001.png", tmp_path, filter="data")
    labels, _ = load_indexed_png(tmp_path / "000000000001.png")
    assert (labels == model(photos / "001.jpg", WORDS).labels).all()


# ------------------------------------------------------------------ again and again


def test_the_same_job_gives_the_same_bytes(job: Path, photos: Path, tmp_path: Path) -> None:
    batch(photos, tmp_path / "other", "--readers", "4")
    assert results(tmp_path / "other") == results(job)


def test_lost_shards_are_made_again(job: Path, photos: Path) -> None:
    before = results(job)
    (job / "images" / "shard-000001.parquet").unlink()  # killed before the last rename
    (job / "images" / "shard-000002.parquet").unlink()
    (job / "segments" / "shard-000002.parquet").unlink()  # killed before the first
    (job / "segments" / ".shard-000002.parquet.x.tmp").write_bytes(b"half")
    (job / "claims" / "000002.0").write_text("")
    assert batch(photos, job, "--lease", "0.01") == 3
    assert results(job) == before
    assert not list(job.glob("*/.*.tmp"))
    assert not list((job / "claims").iterdir())


def test_a_finished_job_is_left_alone(job: Path, photos: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in job.glob("*/shard-*")}
    assert batch(photos, job) == 3
    assert {path: path.stat().st_mtime_ns for path in job.glob("*/shard-*")} == before


def test_the_mode_is_part_of_the_run(job: Path, photos: Path, tmp_path: Path) -> None:
    assert batch(photos, tmp_path / "fast", "--limit", "2", "--mode", "fast") == 0
    fast, exact = (read_run(folder) for folder in (tmp_path / "fast", job))
    assert exact["precision"] == "float32"
    assert fast["precision"] in ("float32", "bfloat16")  # as the hardware has it
    changed = {k for k, v in exact["settings"].items() if fast["settings"][k] != v}
    assert changed == {"region_overlap", "hopeless_below"}


@pytest.mark.parametrize(
    ("more", "labels", "message"),
    [
        ([], "cat,cup", 'labels: ["cat", "cup", "table"] there, ["cat", "cup"] here'),
        (["--mask-threshold", "0.3"], "cat,cup,table", "settings: "),
        (["--png"], "cat,cup,table", "maps: false there, true here"),
        (["--limit", "3"], "cat,cup,table", "limit: None there, 3 here"),
        (["--background", "sky"], "cat,cup,table", "background: null there"),
    ],
)
def test_runs_are_not_mixed(
    job: Path,
    photos: Path,
    capsys: pytest.CaptureFixture[str],
    more: list[str],
    labels: str,
    message: str,
) -> None:
    before = results(job)
    capsys.readouterr()
    assert batch(photos, job, *more, labels=labels) == 2
    said = capsys.readouterr().err
    assert "holds results of another run" in said
    assert message in said
    assert said.count("\n") == 1
    assert results(job) == before


@pytest.mark.slow
def test_two_processes_give_the_same_bytes(job: Path, photos: Path, tmp_path: Path) -> None:
    assert batch(photos, tmp_path / "two", "--processes", "2", "--threads", "1") == 3
    assert results(tmp_path / "two") == results(job)
    assert len(list((tmp_path / "two" / "log").glob("*.jsonl"))) in (1, 2)


@pytest.mark.slow
def test_what_a_process_of_the_team_says_is_passed_on(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--processes", "2", "--weights", str(tmp_path / "nothing")]
    assert batch(photos, tmp_path / "out", *arguments) == 2
    assert capsys.readouterr().err.count("\n") == 1


# ------------------------------------------------------------------ when the model fails


def test_a_photo_on_which_the_model_fails_does_not_end_the_job(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = Segmenter.forward, []

    def forward(self: Segmenter, *arguments: Any) -> Any:
        calls.append(1)
        if len(calls) == 2:
            raise RuntimeError("a kernel gave up\nand more")
        if len(calls) == 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(self, *arguments)

    monkeypatch.setattr(Segmenter, "forward", forward)
    assert batch(photos, tmp_path / "out", "--limit", "4") == 3
    assert pd.read_parquet(tmp_path / "out" / "quarantine")["reason"].tolist() == [
        "internal error: RuntimeError: a kernel gave up",
        "002.jpg needs more memory than there is: shrink it",
    ]


def test_a_photo_that_fails_keeps_no_tensor_alive(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = Worker(a_job(photos, tmp_path))
    alive: list[weakref.ref[torch.Tensor]] = []
    still: list[int] = []

    def forward(self: Segmenter, *arguments: Any) -> Any:
        held = torch.zeros(3)
        alive.append(weakref.ref(held))
        raise ValueError("a kernel gave up")

    monkeypatch.setattr(Segmenter, "forward", forward)
    with worker:
        items = worker.plan.items(0)
        worker.label(items, lambda done: still.append(sum(r() is not None for r in alive)))
    assert len(alive) == len(items)
    assert still == [0] * len(items)


@pytest.mark.parametrize(
    "fault",
    [
        torch.AcceleratorError("CUDA error: an illegal memory access was encountered\nand more"),
        RuntimeError("CUDA error: an illegal memory access was encountered\nand more"),
    ],
)
def test_a_device_that_is_lost_sets_no_photo_aside(
    photos: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    fault: Exception,
) -> None:
    real, calls = Segmenter.forward, []

    def forward(self: Segmenter, *arguments: Any) -> Any:
        calls.append(1)
        if len(calls) > 2:  # from then on every call fails
            raise fault
        return real(self, *arguments)

    monkeypatch.setattr(Segmenter, "forward", forward)
    assert batch(photos, tmp_path / "out", "--limit", "4") == 1
    said = capsys.readouterr().err
    assert "the device failed at 002.jpg" in said
    assert "illegal memory access was encountered); what is done is safe" in said
    assert "shrink it" not in said
    assert len(calls) == 3
    assert not list((tmp_path / "out").glob("*/shard-*"))
    assert not list((tmp_path / "out" / "claims").iterdir())


@pytest.mark.parametrize(
    ("error", "lost", "memory"),
    [
        (torch.AcceleratorError("anything"), True, False),
        (RuntimeError("CUDA error: device-side assert triggered"), True, False),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB."), False, True),
        (MemoryError(), False, True),
        (
            RuntimeError("[x.cpp] DefaultCPUAllocator: can't allocate memory: you tried"),
            False,
            True,
        ),
        (
            RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate"),
            False,
            True,
        ),
        (RuntimeError("memory format is not contiguous"), False, False),
        (ValueError("CUDA error"), False, False),
    ],
)
def test_what_faults_mean(error: Exception, lost: bool, memory: bool) -> None:
    for room in (scanseg.faults, scanseg.faults):
        assert (room.device_is_lost(error), room.lacks_memory(error)) == (lost, memory)


def test_real_lack_of_memory_is_seen() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**50)
    assert scanseg.faults.lacks_memory(caught.value)


FAULTY = """
import os
from dataclasses import dataclass
import torch
from scanseg.evaluation.runner import ModelSpec

@dataclass(frozen=True)
class Faulty(ModelSpec):
    def load(self):
        segmenter, settings = super().load()
        def forward(*arguments):
            raise torch.AcceleratorError("CUDA error: device-side assert triggered")
        segmenter.forward = forward
        return segmenter, settings
"""


def test_processes_whose_device_is_lost_count_as_dead(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "faulty_model.py").write_text(FAULTY)
    monkeypatch.syspath_prepend(tmp_path)  # the processes get it too
    faulty_model = importlib.import_module("faulty_model")
    monkeypatch.setattr(local, "_DEATHS", 1)
    job = replace(a_job(photos, tmp_path), model=faulty_model.Faulty("tiny"))
    with pytest.raises(RuntimeError, match=r"died 1 times .*failed at 000.jpg .*device-side asse"):
        run_processes(job, ["cpu"], lease=900, watch=Watch(tmp_path, None))
    assert done_shards(tmp_path) == set()
    assert not (tmp_path / "quarantine").exists()
    assert not list((tmp_path / "claims").iterdir())  # free for others, elsewhere too


def test_an_actor_whose_device_is_lost_ends_its_process(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Ended(BaseException):
        pass

    def end(code: int) -> None:
        raise Ended(code)

    def forward(self: Segmenter, *arguments: Any) -> Any:
        raise RuntimeError("CUDA error: device-side assert triggered")

    monkeypatch.setattr(Segmenter, "forward", forward)
    monkeypatch.setattr("os._exit", end)
    with pytest.raises(Ended):
        ShardActor(a_job(photos, tmp_path))({"shard": np.array([0])})
    assert done_shards(tmp_path) == set()


HANGING = """
import os, signal, time

def member(job, lease, first, messages, parent):
    mark = os.path.join(job.output, "hangs")
    if first > 0:
        open(mark, "w").close()
        os.kill(os.getpid(), signal.SIGSTOP)  # SIGTERM does not end it then
    while not os.path.exists(mark):
        time.sleep(0.01)
"""


def test_a_process_that_hangs_does_not_keep_a_job_that_is_done(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first process ends, as one does that finds all shards done."""
    (tmp_path / "hanging_member.py").write_text(HANGING)
    monkeypatch.syspath_prepend(tmp_path)  # the processes get it too
    monkeypatch.setattr(local, "_run_member", importlib.import_module("hanging_member").member)
    monkeypatch.setattr(local, "_FAREWELL", 0.5)
    others = set(multiprocessing.active_children())
    job = a_job(photos, tmp_path)
    run_processes(job, ["cpu", "cpu"], lease=900, watch=Watch(tmp_path, None))
    assert set(multiprocessing.active_children()) <= others


def test_a_shard_that_somebody_else_finished_is_not_written_again(job: Path, photos: Path) -> None:
    """A slow process, whose claim was taken over, comes to its end."""
    before = {path: path.stat().st_mtime_ns for path in job.glob("*/shard-*")}
    model = ModelSpec("tiny", device="cpu")
    with Worker(BatchJob(str(photos), str(job), Vocabulary(WORDS), model)) as worker:
        assert worker.do(1).images == 4
    assert {path: path.stat().st_mtime_ns for path in job.glob("*/shard-*")} == before


def test_a_model_that_fails_on_everything_ends_the_job(
    own_photos: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def forward(self: Segmenter, *arguments: Any) -> Any:
        raise RuntimeError("no kernel image")

    monkeypatch.setattr(Segmenter, "forward", forward)
    (own_photos / "004-damaged.jpg").unlink()
    assert batch(own_photos, tmp_path / "out", "--shard-size", "10") == 1
    assert "failed on all 10 photos of a shard" in capsys.readouterr().err
    assert done_shards(tmp_path / "out") == set()


def test_processes_that_die_again_and_again_end_the_job(photos: Path, tmp_path: Path) -> None:
    """They are killed as soon as they are there, as a system short of memory does."""
    others = set(multiprocessing.active_children())  # of other tests in this process
    job = BatchJob(str(photos), str(tmp_path), Vocabulary(WORDS), ModelSpec("tiny"))
    make_plan(open_source(str(photos)), tmp_path, 4)
    ended = threading.Event()

    def kill() -> None:
        while not ended.wait(0.01):
            for child in set(multiprocessing.active_children()) - others:
                child.kill()

    thread = threading.Thread(target=kill)
    thread.start()
    try:
        with pytest.raises(RuntimeError, match=r"died 3 times .*exit code -9, before its first"):
            run_processes(job, ["cpu", "cpu"], lease=900, watch=Watch(tmp_path, None))
    finally:
        ended.set()
        thread.join()
    assert set(multiprocessing.active_children()) <= others


# ------------------------------------------------------------------ looking at it


def test_a_dry_run_writes_nothing(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert batch(photos, tmp_path / "out", "--dry-run", "--processes", "3", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["images"], found["shards"], found["processes"]) == (11, 3, 3)
    assert found["seconds"] == pytest.approx(found["seconds_per_image"] * 11 / 3)
    assert found["bytes"] > 0
    assert batch(photos, tmp_path / "out", "--dry-run") == 0
    assert "11 photos in 3 shards of 4\n1 process on cpu\n" in capsys.readouterr().out
    assert not (tmp_path / "out").exists()


def test_progress_counts_what_everybody_did(job: Path) -> None:
    (job / "images" / "shard-000001.parquet").unlink()
    (job / "claims").mkdir(exist_ok=True)
    (job / "claims" / "000001.0").write_text('{"machine": "elsewhere", "done": 3}')
    (job / "claims" / "000001.1").write_text('{"machine": "elsewhere", "done": 2}')
    seen: list[Progress] = []
    with Watch(job, seen.append):
        pass
    assert [(p.done, p.images, p.shards, p.rate) for p in seen] == [(9, 11, 2, 0)] * 2  # 4 + 2 + 3
    assert seen[0].remaining is None
    assert Progress(done=10, images=40, shards=1, rate=2.5).remaining == 12


def test_inspect(job: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert main(["batch", "inspect", str(job), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["images"], found["ok"], found["failed"], found["done_shards"]) == (11, 10, 1, 3)
    assert list(found["reasons"].values()) == [1]
    segments = pd.read_parquet(job / "segments")
    pixels = 10 * 96 * 72
    for label in found["labels"]:
        rows = segments[segments["name"] == label["name"]]
        assert label["photos"] == len(rows)
        assert label["share"] == pytest.approx(rows["area"].sum() / pixels)
    shares = [label["share"] for label in found["labels"]]
    assert sum(shares) + found["unknown_share"] == pytest.approx(1)
    assert shares == sorted(shares, reverse=True)
    assert main(["batch", "inspect", str(job), "--sheet", str(tmp_path / "s.png")]) == 0
    out = capsys.readouterr().out
    assert "3 of 3 shards done: 10 photos labelled, 1 set aside, 0 to do" in out
    sheet = np.asarray(Image.open(tmp_path / "s.png"))
    assert sheet.shape[1] == 5 * 252
    tiles = [sheet[y : y + 292, x : x + 252] for y in (0, 292) for x in range(0, 5 * 252, 252)]
    assert len({tile.tobytes() for tile in tiles}) == 10  # each photo once


def test_inspect_of_webdataset_output(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    batch(photos, tmp_path / "tables", "--limit", "3")
    batch(photos, tmp_path / "tars", "--limit", "3", "--format", "webdataset")
    capsys.readouterr()
    found = []
    for name in ("tables", "tars"):
        main(["batch", "inspect", str(tmp_path / name), "--json"])
        found.append(json.loads(capsys.readouterr().out)["labels"])
    assert found[0] == found[1] != []


def test_merge_checks_and_joins(
    job: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    batch(photos, tmp_path / "more", "--limit", "3")
    merged = tmp_path / "merged"
    assert main(["batch", "merge", str(job), str(tmp_path / "more"), "--output", str(merged)]) == 0
    images = pq.read_table(merged / "images.parquet")
    assert images["image"].to_pylist() == list(range(14))
    whole = pd.read_parquet(merged / "segments.parquet")
    first, second = pd.read_parquet(job / "segments"), pd.read_parquet(tmp_path / "more/segments")
    pd.testing.assert_frame_equal(whole[whole["image"] < 11], first)
    assert whole[whole["image"] >= 11]["rle"].tolist() == second["rle"].tolist()
    assert pd.read_parquet(merged / "quarantine.parquet")["image"].tolist() == [4]

    damaged = job / "segments" / "shard-000001.parquet"
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"?")
    assert main(["batch", "merge", str(job), "--output", str(merged)]) == 2
    assert "is damaged" in capsys.readouterr().err
    (job / "images" / "shard-000001.parquet").unlink()
    assert main(["batch", "merge", str(job), "--output", str(merged)]) == 2
    assert "1 of 3 shards are missing" in capsys.readouterr().err


def test_the_quarantine_of_a_process_that_died_is_none(
    job: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It wrote the file and died before ``images``; then the shard was done without a failure."""
    before = results(job)
    stale = job / "quarantine" / "shard-000000.parquet"
    shutil.copy(job / "quarantine" / "shard-000001.parquet", stale)
    assert main(["batch", "merge", str(job), "--output", str(tmp_path / "merged")]) == 0
    assert pd.read_parquet(tmp_path / "merged" / "quarantine.parquet")["image"].tolist() == [4]
    capsys.readouterr()
    assert main(["batch", "inspect", str(job), "--json"]) == 0
    assert list(json.loads(capsys.readouterr().out)["reasons"].values()) == [1]

    (job / "images" / "shard-000000.parquet").unlink()
    assert batch(photos, job) == 3
    assert results(job) == before


def test_no_failures_no_quarantine_folder(photos: Path, tmp_path: Path) -> None:
    stale = tmp_path / "out" / "quarantine" / "shard-000000.parquet"
    stale.parent.mkdir(parents=True)
    stale.write_bytes(b"of a process that died")
    assert batch(photos, tmp_path / "out", "--limit", "2") == 0
    assert not stale.parent.exists()


def test_damaged_tables_are_named_with_what_to_do(
    job: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    merge = ["batch", "merge", str(job), "--output", str(tmp_path / "merged")]
    images = job / "images" / "shard-000001.parquet"
    whole, inside = images.read_bytes(), bytearray(images.read_bytes())
    inside[4:200] = bytes(196)  # the pages, not the footer
    for content in (b"", whole[:-9], bytes(inside)):
        images.write_bytes(content)
        capsys.readouterr()
        for command in (merge, ["batch", "inspect", str(job), "--sheet", str(tmp_path / "s.png")]):
            assert main(command) == 2
            said = capsys.readouterr().err
            assert f"{images} is damaged" in said
            assert "delete it, then give the same scanseg batch command again" in said
            assert said.count("\n") == 1
    images.write_bytes(whole)
    (job / "quarantine" / "shard-000001.parquet").unlink()
    for command in (merge, ["batch", "inspect", str(job)]):
        assert main(command) == 2
        assert "damaged (it is missing): delete it and its namesake in images/" in (
            capsys.readouterr().err
        )


def test_merge_of_different_runs(job: Path, photos: Path, tmp_path: Path) -> None:
    batch(photos, tmp_path / "other", labels="cat")
    assert main(["batch", "merge", str(job), str(tmp_path / "other"), "--output", "x"]) == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["inspekt", "--labels", "a", "--output", "x"], "did you mean 'inspect'"),
        (["inspct", "job"], "did you mean 'inspect'"),
        (["inspect", "nothing"], "holds no batch job"),
        (["photos", "--output", "x"], "no words"),
        (["photos", "--labels", "a", "--output", "x", "--shard-size", "0"], "at least 1"),
        (["photos", "--labels", "a", "--output", "x", "--address", "a"], "add --engine ray"),
        (["photos", "--labels", "a", "--output", "x", "--devices", ","], "names no device"),
        (["photos", "--labels", "a"], "give --output"),
        (["photos", "--labels", "a", "--output", "photos/"], "would mix with the photos"),
    ],
)
def test_mistakes_are_one_line(
    photos: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(photos.parent)
    assert main(["batch", *arguments]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1


def test_a_folder_named_like_a_command(own_photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(own_photos.parent)
    own_photos.rename("inspect")
    assert batch(Path("./inspect").absolute(), Path("out"), "--limit", "1") == 0
    assert Plan(Path("out")).images == 1


def test_words_are_encoded_once_and_mean_the_same(photos: Path, model: Segmenter) -> None:
    prepared = model.prepare(WORDS)
    with_words, with_prepared = (model(photos / "000.jpg", w) for w in (WORDS, prepared))
    assert (with_words.labels == with_prepared.labels).all()
    assert (with_words.confidence == with_prepared.confidence).all()
    assert with_prepared.names == tuple(WORDS)
