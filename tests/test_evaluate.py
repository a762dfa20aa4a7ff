"""``scanseg evaluate`` with the tiny model on a data set on disk: whole, killed and sharded."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from scanseg.cli import main
from scanseg.contracts import InputError
from scanseg.evaluation.published import BENCHMARKS, ROWS, published
from scanseg.evaluation.store import CountStore, Record, combine
from scanseg.metrics.average_recall import ProposalRecall
from scanseg.metrics.boundary import BoundaryF
from scanseg.metrics.confusion import count_pairs
from scanseg.metrics.panoptic import PanopticQuality

CLASSES = ("sky", "grass, lawn", "dog")
IMAGES = 9
FORK = multiprocessing.get_context("fork")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder data set: blue above green, with a brown block; panoptic truth for two images."""
    root = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    for folder in ("images", "labels", "panoptic"):
        (root / folder).mkdir()
    (root / "classes.txt").write_text("".join(f"{i}\t{n}\n" for i, n in enumerate(CLASSES)))
    annotations = []
    for number in range(IMAGES):
        labels = np.zeros((48, 64), np.uint8)
        labels[24 + number :] = 1
        labels[30:40, 5 * number : 5 * number + 12] = 2
        labels[:2] = 255
        colours = np.array([(90, 140, 230), (60, 160, 60), (120, 80, 40)], np.uint8)
        photo = colours[np.minimum(labels, 2)].astype(int) + rng.integers(-20, 20, (48, 64, 3))
        Image.fromarray(photo.clip(0, 255).astype(np.uint8)).save(root / f"images/{number}.png")
        Image.fromarray(labels).save(root / f"labels/{number}.png")
        if number < 2:
            ids = np.where(labels == 255, 0, labels + 1)
            rgb = np.stack([ids, 0 * ids, 0 * ids], -1).astype(np.uint8)
            Image.fromarray(rgb).save(root / f"panoptic/{number}.png")
            segments = [{"id": int(i), "category_id": int(i)} for i in np.unique(ids) if i]
            annotations.append({"file_name": f"{number}.png", "segments_info": segments})
    categories = [{"id": i + 1, "name": n} for i, n in enumerate(CLASSES)]
    (root / "panoptic.json").write_text(
        json.dumps({"annotations": annotations, "categories": categories})
    )
    return root


def command(data: Path, output: Path, *more: str) -> list[str]:
    base = ["evaluate", "--preset", "tiny", "--dataset", "folder", "--root", str(data), "--quiet"]
    return [*base, "--replicates", "20", "--examples", "2", "--output", str(output), *more]


@pytest.fixture(scope="module")
def whole(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output of one uninterrupted run."""
    output = tmp_path_factory.mktemp("whole")
    assert main(command(data, output)) == 0
    return output


def test_the_report(data: Path, whole: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The numbers are those of scoring the model's own maps."""
    from scanseg import Segmenter, Vocabulary

    segmenter = Segmenter.from_pretrained("tiny", device="cpu")
    maps = whole / "maps"
    maps.mkdir()
    for number in range(IMAGES):
        photo = np.asarray(Image.open(data / f"images/{number}.png"))
        segmenter(photo, Vocabulary(CLASSES, background=())).save(maps / f"{number}.png")
    names = data / "names.txt"
    names.write_text("\n".join(CLASSES))
    score = ["score", "--predictions", str(maps), "--ground-truth", str(data / "labels")]
    assert main([*score, "--labels", str(names), "--json", "--replicates", "20"]) == 0
    scored = json.loads(capsys.readouterr().out)
    report = json.loads((whole / "report.json").read_text())
    assert report["per_class"] == scored["per_class"]
    assert report["miou_union"] == scored["miou_union"]
    assert report["intervals"] == scored["intervals"]
    assert report["images"] == IMAGES
    assert report["unknown"] == 0
    assert report["panoptic"]["objects"] is False
    assert 0 <= report["panoptic"]["all"]["pq"] <= 100
    assert "--preset tiny" in report["about"]["command"]
    page = (whole / "report.html").read_text()
    assert page.count("<figure>") == 2
    assert "grass, lawn" in (whole / "report.md").read_text()


def test_a_second_call_counts_nothing(
    data: Path, whole: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {p.name: p.read_bytes() for p in whole.iterdir() if p.is_file()}
    arguments = [a for a in command(data, whole, "--json") if a != "--quiet"]
    assert main(arguments) == 0
    captured = capsys.readouterr()
    assert f"{IMAGES} of {IMAGES} images were counted before" in captured.err
    assert json.loads(captured.out) == json.loads(before["report.json"])
    assert {p.name: p.read_bytes() for p in whole.iterdir() if p.is_file()} == before


def test_a_killed_run_resumes_to_the_same_bytes(data: Path, whole: Path, tmp_path: Path) -> None:
    counts = tmp_path / "counts-0.jsonl"
    run = FORK.Process(target=main, args=(command(data, tmp_path),))
    run.start()
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and run.is_alive():
        if counts.exists() and counts.read_bytes().count(b"\n") > 3:
            break
        time.sleep(0.002)
    os.kill(run.pid or 0, signal.SIGKILL)
    run.join()
    done = counts.read_bytes()
    assert 3 < done.count(b"\n") < IMAGES + 1  # killed on the way
    assert not (tmp_path / "report.json").exists()
    counts.write_bytes(done[:-7])  # and a torn last line
    assert main(command(data, tmp_path)) == 0
    for name in ("report.json", "report.md", "report.html"):
        assert (tmp_path / name).read_bytes() == (whole / name).read_bytes(), name


def _rank(arguments: list[str], rank: int, ranks: int) -> None:
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(ranks), LOCAL_RANK=str(rank))
    raise SystemExit(main(arguments))


def test_ranks_share_the_work_and_agree(data: Path, whole: Path, tmp_path: Path) -> None:
    arguments = command(data, tmp_path)
    ranks = [FORK.Process(target=_rank, args=(arguments, rank, 2)) for rank in range(2)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(120)
    assert [process.exitcode for process in ranks] == [0, 0]
    lines = [(tmp_path / f"counts-{r}.jsonl").read_bytes().count(b"\n") - 1 for r in range(2)]
    assert lines == [5, 4]
    assert (tmp_path / "report.json").read_bytes() == (whole / "report.json").read_bytes()


def test_shards_by_hand_limit_and_further_measures(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = ["--limit", "3", "--boundary", "--proposals", "--shard"]
    assert main(command(data, tmp_path, *more, "0/2")) == 0
    assert "1 of 3 images are still to be counted" in capsys.readouterr().err
    assert not (tmp_path / "report.json").exists()
    assert main(command(data, tmp_path, *more, "1/2", "--json")) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["images"] == 3
    assert 0 <= report["boundary_f"] <= 100
    assert set(report["proposals"]) == {"AR@1", "AR@10", "AR@100"}
    assert 0 <= report["proposals"]["AR@1"] <= report["proposals"]["AR@100"] <= 100


def test_reading_ahead_changes_nothing(data: Path) -> None:
    from scanseg.evaluation.runner import DataSpec, Job, Measures, ModelSpec

    job = Job(ModelSpec("tiny", device="cpu"), DataSpec("folder", str(data)), CLASSES, Measures())
    evaluator = job.evaluator()
    keys = evaluator.dataset.keys[:5]
    together = [record.to_json() for record in evaluator.count(keys)]
    singly = [next(evaluator.count([key])).to_json() for key in keys]
    assert [record["key"] for record in singly] == list(keys)
    assert together == singly


def test_two_classes_with_one_word_are_refused(data: Path) -> None:
    from scanseg.evaluation.runner import DataSpec, Job, Measures, ModelSpec

    words = ("sky", "Sky", "dog")
    job = Job(ModelSpec("tiny", device="cpu"), DataSpec("folder", str(data)), words, Measures())
    with pytest.raises(InputError, match="3 classes but 2 different words"):
        job.evaluator()


@pytest.mark.slow
def test_worker_processes_agree(data: Path, tmp_path: Path) -> None:
    results = []
    for workers in ("1", "2"):
        output = tmp_path / workers
        more = ("--limit", "2", "--workers", workers, "--examples", "0")
        assert main(command(data, output, *more)) == 0
        results.append((output / "report.json").read_bytes())
    assert results[0] == results[1]


def test_counts_of_another_run_are_not_mixed_in(
    data: Path, whole: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {p.name: p.read_bytes() for p in whole.iterdir() if p.is_file()}
    assert main(command(data, whole, "--ensemble-weight", "0.5")) == 2
    error = capsys.readouterr().err
    assert "these counts are of another run (settings:" in error
    assert error.count("\n") == 1
    assert {p.name: p.read_bytes() for p in whole.iterdir() if p.is_file()} == before


def test_restart_counts_again(data: Path, tmp_path: Path) -> None:
    assert main(command(data, tmp_path, "--limit", "1")) == 0
    changed = command(data, tmp_path, "--limit", "1", "--ensemble-weight", "0.5", "--restart")
    assert main(changed) == 0
    about = json.loads((tmp_path / "report.json").read_text())["about"]
    assert "--ensemble-weight 0.5" in about["command"]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--limit", "0"], "--limit must be at least 1"),
        (["--workers", "0"], "--workers must be at least 1"),
        (["--shard", "4/4"], "shard 4 of 4 does not exist"),
        (["--shard", "half"], "--shard is a number of a count"),
        (["--shard", "0/2", "--restart"], "--restart cannot be shared"),
        (["--split", "nowhere"], "nowhere"),
        (["--preset", "nothing"], "nothing"),
        (["--ensemble-weight", "3"], "ensemble_weight must lie in [0, 1]"),
        (["--hierarchy", "ade150"], "does not know"),
    ],
)
def test_mistakes(
    data: Path, tmp_path: Path, more: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command(data, tmp_path / "out", *more)) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out/report.json").exists()


def test_a_photo_of_another_size_stops_the_run(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("images", "labels"):
        (tmp_path / name).mkdir()
    (tmp_path / "classes.txt").write_text((data / "classes.txt").read_text())
    Image.fromarray(np.zeros((20, 30, 3), np.uint8)).save(tmp_path / "images/a.png")
    Image.fromarray(np.zeros((20, 31), np.uint8)).save(tmp_path / "labels/a.png")
    assert main(command(tmp_path, tmp_path / "out")) == 2
    assert "31 x 20 pixels, but its photo has 30 x 20" in capsys.readouterr().err


def test_counts_of_another_folder_are_not_mixed_in(
    data: Path, whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Same names and classes: a copy goes on, other labels are refused."""
    copy = Path(shutil.copytree(data, tmp_path / "copy"))
    arguments = [a for a in command(copy, whole, "--json") if a != "--quiet"]
    assert main(arguments) == 0
    assert f"{IMAGES} of {IMAGES} images were counted before" in capsys.readouterr().err
    assert main(command(data, whole)) == 0  # the report names its data set again
    labels = np.asarray(Image.open(copy / "labels/3.png"))
    Image.fromarray(np.where(labels == 1, 2, labels).astype(np.uint8)).save(copy / "labels/3.png")
    capsys.readouterr()
    assert main(command(copy, whole)) == 2
    assert "these counts are of another run (contents:" in capsys.readouterr().err


def test_the_digest_of_a_folder_data_set(data: Path, tmp_path: Path) -> None:
    from scanseg.data import open_dataset
    from scanseg.evaluation.runner import contents_digest, is_own

    copy = Path(shutil.copytree(data, tmp_path / "copy"))
    seen = [contents_digest(open_dataset("folder", data))]
    assert is_own(open_dataset("folder", data))
    assert contents_digest(open_dataset("folder", copy)) == seen[0]
    for name, content in (
        ("classes.txt", b"0\tsky\n1\tgrass, lawn\n2\tdog\n\n"),
        ("panoptic.json", (copy / "panoptic.json").read_bytes() + b" "),
        ("images/2.png", (copy / "images/2.png").read_bytes() + b"more"),
        ("labels/2.png", (copy / "labels/1.png").read_bytes()),
    ):
        (copy / name).write_bytes(content)
        seen.append(contents_digest(open_dataset("folder", copy)))
    assert len(set(seen)) == 5


def test_each_folder_data_set_has_an_output_folder_of_its_own(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = Path(shutil.copytree(data, tmp_path / "my set"))
    monkeypatch.chdir(tmp_path)
    arguments = ["evaluate", "--dataset", "folder", "--root", str(root), "--preset", "tiny"]
    arguments += ["--quiet", "--replicates", "0", "--examples", "0", "--limit", "1"]
    assert main(arguments) == 0
    assert (tmp_path / "scanseg_evaluation/tiny-folder-my_set-all/report.json").is_file()


# --------------------------------------------------------------------------------- the store


def record(key: str, seed: int) -> Record:
    rng = np.random.default_rng(seed)
    prediction, truth = rng.integers(-1, 4, (2, 12, 15))
    quality, contours, recall = PanopticQuality(4), BoundaryF(4), ProposalRecall((1, 10, 100))
    ids = np.maximum(truth + 1, 0)
    quality.update(ids, {i: i - 1 for i in range(1, 5)}, ids, {i: i - 1 for i in range(1, 5)})
    contours.update(prediction, truth)
    recall.update(rng.random((3, 12, 15)) < 0.5, rng.random((2, 12, 15)) < 0.5)
    return Record(key, count_pairs(prediction, truth, 4), quality, contours, recall)


def test_records_survive_exactly(tmp_path: Path) -> None:
    records = [record(f"é {i}", i) for i in range(3)]
    with CountStore(tmp_path, {"a": (1, 2)}, 4) as store:
        for one in records:
            store.add(one)
    with CountStore(tmp_path, {"a": [1, 2]}, 4, shard=1) as store:
        again = store.records()
    assert list(again) == ["é 0", "é 1", "é 2"]
    counted, recall = combine(again.values(), 4)
    expected, expected_recall = combine(records, 4)
    assert (counted.stacked().total() == expected.stacked().total()).all()
    assert counted.panoptic is not None
    assert expected.panoptic is not None
    assert counted.panoptic.scores().pq.tobytes() == expected.panoptic.scores().pq.tobytes()
    assert counted.boundary is not None
    assert expected.boundary is not None
    assert counted.boundary.mean() == expected.boundary.mean()
    assert recall is not None
    assert expected_recall is not None
    assert (recall.found == expected_recall.found).all()
    assert recall.masks == expected_recall.masks == 6


@pytest.mark.parametrize("cut", [1, 5, 40])
def test_a_torn_last_line_is_dropped(tmp_path: Path, cut: int) -> None:
    with CountStore(tmp_path, {}, 4) as store:
        store.add(record("a", 0))
        store.add(record("b", 1))
    path = tmp_path / "counts-0.jsonl"
    path.write_bytes(path.read_bytes()[:-cut])
    with CountStore(tmp_path, {}, 4) as store:
        assert list(store.records()) == ["a"]
        store.add(record("b", 1))
        assert list(store.records()) == ["a", "b"]


def test_damage_in_the_middle_is_an_error(tmp_path: Path) -> None:
    with CountStore(tmp_path, {}, 4) as store:
        store.add(record("a", 0))
        store.add(record("b", 1))
    path = tmp_path / "counts-0.jsonl"
    lines = path.read_bytes().split(b"\n")
    lines[1] = lines[1].replace(b"a", b"x", 1)
    path.write_bytes(b"\n".join(lines))
    with pytest.raises(InputError, match="line 2 is damaged"):
        CountStore(tmp_path, {}, 4)


def test_one_writer_per_file(tmp_path: Path) -> None:
    pytest.importorskip("fcntl")
    with (
        CountStore(tmp_path, {}, 4),
        pytest.raises(InputError, match="another process is counting"),
    ):
        CountStore(tmp_path, {}, 4)


def test_a_strange_file_is_refused(tmp_path: Path) -> None:
    with CountStore(tmp_path, {"split": "val"}, 4):
        pass
    with pytest.raises(InputError, match=r"another run \(split: val there, test here\)"):
        CountStore(tmp_path, {"split": "test"}, 4)
    with pytest.raises(InputError, match="another run"):
        CountStore(tmp_path, {"split": "val"}, 5)


def test_the_papers_tables() -> None:
    """Every cell of tables 1 and 2 that the abstract and section 4 quote, and the shape of all."""
    assert len(ROWS) == 18
    scan = {row.model: row for row in ROWS if row.method == "SCAN"}
    assert scan["CLIP ViT-L/14"].miou == (33.5, 14.0, 59.3, 16.7, 97.2)
    assert scan["CLIP ViT-L/14"].sg_iou == (34.2, 14.6, 17.2)
    assert scan["CLIP ViT-B/16"].miou == (30.8, 10.8, 58.4, 13.2, 97.0)
    assert all(len(row.miou) == len(BENCHMARKS) for row in ROWS)
    for row in ROWS:  # table 2 repeats table 1's mIoU and adds a higher SG-IoU
        for guided, plain in zip(row.sg_iou, (row.miou[0], row.miou[1], row.miou[3]), strict=False):
            assert plain is not None
            assert guided > plain
    assert [p.sg_iou for p in published("pc59") if p.sg_iou] == []
    assert published("camvid11") == ()


def test_only_the_images_listed(data: Path, tmp_path: Path) -> None:
    listed = tmp_path / "keys.txt"
    listed.write_text("3\n1\n3\n")
    out = tmp_path / "out"
    arguments = ["evaluate", "--dataset", "folder", "--root", str(data), "--preset", "tiny"]
    arguments += ["--quiet", "--replicates", "0", "--examples", "0"]
    assert main([*arguments, "--only", str(listed), "--output", str(out)]) == 0
    report = json.loads((out / "report.json").read_text())
    assert report["images"] == 2
    assert any("Only the images listed" in note for note in report["notes"])


def test_lists_that_cannot_be_used(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    empty, strange = tmp_path / "empty", tmp_path / "strange"
    empty.write_text("\n")
    strange.write_text("77\n")
    arguments = ["evaluate", "--dataset", "folder", "--root", str(data), "--preset", "tiny"]
    for listed, reason in (
        (empty, "lists no image"),
        (strange, "has no sample '77'"),
        (tmp_path / "missing", "cannot be read"),
    ):
        assert main([*arguments, "--only", str(listed), "--output", str(tmp_path / "o")]) == 2
        assert reason in capsys.readouterr().err


def test_listed_keys_may_have_spaces_and_the_file_a_mark(tmp_path: Path) -> None:
    from scanseg.cli.evaluate import _listed_keys

    path = tmp_path / "keys.txt"
    path.write_bytes("\ufeffIMG 1\r\n\r\n  b \r\nIMG 1\r\n".encode())
    assert _listed_keys(str(path)) == ["IMG 1", "b"]
