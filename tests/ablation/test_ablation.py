from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from scanseg.ablation.plan import DONE, describe, make_plan
from scanseg.ablation.run import seen_words
from scanseg.ablation.suite import flat, load_suite, parse_suite, shipped_suites
from scanseg.ablation.table import make_table, plot
from scanseg.ablation.trainers import trainer_of
from scanseg.cli import main
from scanseg.contracts import InputError
from scanseg.evaluation.published_ablations import ABLATIONS, published_ablation
from scanseg.evaluation.report_markdown import section_to_markdown
from scanseg.evaluation.store import CountStore, Record
from scanseg.metrics.confusion import count_pairs
from scanseg.storage import write_json


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four photos of two classes."""
    root = tmp_path_factory.mktemp("data")
    (root / "images").mkdir()
    (root / "labels").mkdir()
    (root / "classes.txt").write_text("0\tred thing\n1\tblue thing\n", encoding="utf-8")
    generator = np.random.default_rng(0)
    for number in range(4):
        labels = (generator.random((3, 4)) > 0.5).astype(np.uint8).repeat(16, 0).repeat(16, 1)
        colours = np.array([[200, 30, 30], [30, 30, 200]], np.uint8)[labels]
        Image.fromarray(colours).save(root / "images" / f"{number}.png")
        Image.fromarray(labels).save(root / "labels" / f"{number}.png")
    return root


def a_suite(root: Path | str = "data", **changes: Any) -> dict[str, Any]:
    return {
        "name": "mine",
        "trainer": {"kind": "none"},
        "data": [{"name": "folder", "root": str(root)}],
        "rows": [
            {"name": "plain", "model": "tiny", "inference": {"shift_source": "none"}},
            {"name": "shifted", "model": "tiny"},
        ],
        **changes,
    }


ROW = {"name": "a", "model": "tiny"}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"rowz": []}, "unknown setting rowz .did you mean 'rows'"),
        ({"rows": []}, "needs rows"),
        ({"data": []}, "needs data"),
        ({"seeds": []}, "needs seeds"),
        ({"seeds": [1, 1]}, "a seed occurs twice"),
        ({"name": ""}, "need a name"),
        ({"rows": [ROW, ROW]}, "two rows are called 'a'"),
        ({"baseline": "plane"}, "did you mean 'plain'"),
        ({"table": 2}, "table must be one of"),
        ({"table": 3, "rows": [{**ROW, "paper": "+ SIMM"}]}, r"did you mean '\+ SIM'"),
        ({"rows": [{"name": "a"}]}, "rows name a model if"),
        ({"rows": [{**ROW, "inference": {"shift_sorce": "cls"}}]}, "did you mean 'shift_source'"),
        ({"rows": [{**ROW, "inference": {"shift_ratio": 2.0}}]}, "shift_ratio must lie"),
        ({"rows": [{**ROW, "clip": {"trainer.batch": 2}}]}, "clip needs clip.experiment"),
        ({"rows": [{**ROW, "train": {"model": {"inference": {"a": 1}}}}]}, "under inference"),
        ({"trainer": {"kind": "segmentor"}, "rows": [{"name": "a"}]}, "did you mean 'segmenter'"),
        ({"trainer": {"kind": "segmenter"}, "rows": [{"name": "a"}]}, "experiment must name"),
        ({"trainer": {"kind": "command"}, "rows": [{"name": "a"}]}, "command must list"),
        ({"data": [{"name": "folder"}]}, "has no root"),
    ],
)
def test_wrong_suites_are_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        parse_suite(a_suite(**changes))


def test_a_wrong_change_of_a_row_is_told_before_anything_runs() -> None:
    rows = [{"name": "a", "train": {"model.simm": False}}]
    suite = parse_suite(a_suite(trainer={"experiment": "tiny"}, rows=rows))
    with pytest.raises(InputError, match=r"unknown setting model\.simm"):
        make_plan(suite)


def test_no_such_suite() -> None:
    with pytest.raises(InputError, match="did you mean 'table3_tiny'"):
        load_suite("table3_tinny")


def test_data_of_ones_own_stands_beside_all_columns_of_the_paper(tmp_path: Path) -> None:
    rows = [{"name": "a", "model": "tiny", "paper": "Baseline"}]
    table = make_table(make_plan(parse_suite(a_suite(rows=rows, table=3))), tmp_path)
    text = section_to_markdown(table.section())
    assert "31.5 / 11.4 / 57.1 |" in text


TABLES = [n for n in shipped_suites() if "table" in n or n == "mini_withheld"]
PLACES = ["trainer.set.data=a", "trainer.set.work=b"]


@pytest.mark.parametrize("name", TABLES)
def test_shipped_suites_are_right(name: str) -> None:
    """Each parses, its experiments too, and the full ones have all rows of the paper's table."""
    suite = load_suite(name, PLACES if name.startswith("mini") else [], root="data")
    plan = make_plan(suite)
    assert len(plan.evaluations) == len(suite.rows) * len(suite.seeds) * len(suite.data)
    if not name.endswith("_tiny") and not name.startswith("mini"):
        assert [row.paper for row in suite.rows] == list(ABLATIONS[int(name[-1])])


def test_rows_that_differ_at_inference_share_a_training() -> None:
    plan = make_plan(load_suite("table3_tiny", root="data"))
    assert [names for (kind, _), names in plan.users.items() if kind == "train"] == [
        ("baseline", "CS"),
        ("SIM", "both"),
    ]
    assert len(plan.of("train")) == 4  # two kinds, two seeds
    assert len(plan.of("evaluate")) == 8
    assert "trainings: 4 (8 without sharing), 0 done" in describe(plan, Path("nowhere"))
    eight = make_plan(load_suite("table8_tiny", root="data"))
    assert len(eight.of("train")) == 4
    assert len(eight.of("evaluate")) == 12


def test_what_fills_the_braces_of_a_command() -> None:
    plan = make_plan(load_suite("mini_table4", PLACES, root="data"))
    assert len(plan.of("train")) == 6 * 3
    with pytest.raises(InputError, match=r"nothing fills 'data'.*work"):
        make_plan(load_suite("mini_table4", PLACES[1:], root="data"))


def test_which_python_runs_a_command_does_not_make_another_training(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    keys = []
    for python in (sys.executable, "/elsewhere/python3.12"):
        monkeypatch.setattr(sys, "executable", python)
        plan = make_plan(load_suite("mini_table3", PLACES, root="data"))
        keys.append([piece.key for piece in plan.pieces])
    assert keys[0] == keys[1]


def test_withheld_words_are_withheld_from_every_row() -> None:
    suite = load_suite("mini_withheld", PLACES, root="data")
    withheld = ", ".join(suite.unseen)
    assert len(suite.unseen) == 10
    for piece in make_plan(suite).of("train"):
        words = trainer_of(suite).resolve(piece.settings, 0)["command"]
        assert words[words.index("--withheld") + 1] == f"[{withheld}]"


def test_clip_stages_are_shared_too() -> None:
    six = make_plan(load_suite("table6", ["seeds=[0]"], root="data"))
    assert len(six.of("train")) == 1
    assert len(six.of("clip")) == 5
    three = make_plan(load_suite("table3", ["seeds=[0]"], root="data"))
    assert [names for (kind, _), names in three.users.items() if kind == "clip"] == [
        ("baseline", "SIM"),
        ("CS", "both"),
    ]


def test_nested_and_dotted_keys_mean_the_same() -> None:
    assert flat({"a": {"b": 1, "c": {"d": [2]}}}) == {"a.b": 1, "a.c.d": [2]}
    one = {"name": "a", "train": {"model.sim": False}}
    two = {"name": "b", "train": {"model": {"sim": False}}}
    suite = parse_suite(a_suite(trainer={"experiment": "tiny"}, rows=[one, two]))
    assert len(make_plan(suite).of("train")) == 1


# ------------------------------------------------------------------ the table


def finished(
    plan: Any, output: Path, row: str, seed: int, maps: list[list[int]], **more: Any
) -> None:
    """Write an evaluation by hand: predictions of 4-pixel images whose truth is 0 0 1 1."""
    piece = plan.evaluations[row, seed, 0]
    truth = np.array([[0, 0, 1, 1]], np.int32)
    with CountStore(piece.folder(output), {"by": "hand"}, 2) as store:
        for number, said in enumerate(maps):
            counted = count_pairs(np.array([said], np.int32), truth, 2)
            store.add(Record(str(number), counted))
    keys = [str(n) for n in range(len(maps))]
    done = {"run": {"by": "hand"}, "classes": 2, "keys": keys, "seconds": 1.0, **more}
    write_json(piece.folder(output) / DONE, done)


def test_the_numbers_of_a_hand_made_case(tmp_path: Path) -> None:
    rows = [
        {"name": "base", "model": "tiny", "paper": "Baseline", "inference": {"shift_ratio": 0.1}},
        {"name": "new", "model": "tiny", "paper": "+ SIM"},
        {"name": "missing", "model": "tiny", "inference": {"shift_ratio": 0.3}},
    ]
    data = [{"name": "folder", "root": "data", "paper": "ade150"}]
    changes = {"rows": rows, "seeds": [0, 1], "table": 3, "data": data, "replicates": 100}
    plan = make_plan(parse_suite(a_suite(**changes)))
    right, half = [0, 0, 1, 1], [0, 0, 0, 1]
    # half: class 0 has 2 hits of 3 (2/3), class 1 has 1 of 2 (1/2): mIoU 7/12
    finished(plan, tmp_path, "base", 0, [half, half])
    finished(plan, tmp_path, "base", 1, [half, half])
    finished(plan, tmp_path, "new", 0, [right, right])
    finished(plan, tmp_path, "new", 1, [right, half])
    # right + half: class 0 4/5, class 1 3/4: mIoU 31/40
    table = make_table(plan, tmp_path)
    [cells] = table.cells
    base, new = cells["base"].scores["miou_union"], cells["new"].scores["miou_union"]
    assert base.mean == pytest.approx(100 * 7 / 12)
    assert base.spread == pytest.approx(0)
    assert new.seeds == pytest.approx((100, 77.5))
    assert new.mean == pytest.approx(88.75)
    assert new.spread == pytest.approx(22.5 / 2**0.5)  # n - 1
    test = cells["new"].test
    assert test is not None
    # pooled over seeds: three right, one half: class 0 8/9, class 1 7/8; base pooled 7/12
    assert test.difference == pytest.approx(100 * ((8 / 9 + 7 / 8) / 2 - 7 / 12))
    assert (test.images, test.seeds) == (2, 2)
    assert test.low is not None
    assert 0 < test.low <= test.difference
    assert cells["base"].test is None
    assert cells["missing"].scores["miou_union"].mean is None
    assert cells["missing"].test is None
    assert (cells["base"].paper, cells["new"].paper) == (31.5, 32.9)
    text = section_to_markdown(table.section())
    assert "| new | 88.75 ± 15.91 |" in text
    assert "32.7 in table 6, 32.9 in" in text
    json.dumps(table.to_json(), allow_nan=False)
    plot(table, tmp_path / "table.png")
    assert Image.open(tmp_path / "table.png").width > 300


def test_seen_and_unseen_words_apart(tmp_path: Path) -> None:
    changes = {"unseen": ["b"], "replicates": 100}
    plan = make_plan(parse_suite(a_suite(**changes)))
    right, half = [0, 0, 1, 1], [0, 0, 0, 1]
    for row, maps in {"plain": [half, half], "shifted": [right, half]}.items():
        finished(plan, tmp_path, row, 0, maps, seen=[0])
    [cells] = make_table(plan, tmp_path).cells
    plain, shifted = cells["plain"].scores, cells["shifted"].scores
    assert plain["seen_union"].mean == pytest.approx(100 * 2 / 3)
    assert plain["unseen_union"].mean == pytest.approx(100 * 1 / 2)
    assert plain["harmonic_union"].mean == pytest.approx(100 * 2 / (3 / 2 + 2))
    assert shifted["seen_union"].mean == pytest.approx(100 * 4 / 5)
    assert shifted["unseen_union"].mean == pytest.approx(100 * 3 / 4)
    tests = cells["shifted"].split_tests
    assert tests["unseen_union"].difference == pytest.approx(25)
    assert tests["seen_union"].difference == pytest.approx(100 * (4 / 5 - 2 / 3))
    assert cells["plain"].split_tests == {}
    text = section_to_markdown(make_table(plan, tmp_path).section())
    assert "| plain | 66.67 |  | 50.00 |  | 57.14 |" in text
    assert "the 1 words that no row is taught" in text


def test_unseen_words_must_be_words_of_the_data() -> None:
    assert seen_words((), ["a", "b"]) is None
    assert seen_words(("b",), ["a", "b", "c"]) == [0, 2]
    with pytest.raises(InputError, match=r"'knive' is none of the words.*did you mean 'knife'"):
        seen_words(("knive",), ["knife", "fork"])


def test_the_papers_contradiction_is_kept() -> None:
    assert published_ablation(6, "None", "ade150") == 32.7
    assert published_ablation(3, "+ SIM", "ade150") == 32.9
    assert published_ablation(7, "no shift", "ade150") == 32.9
    assert published_ablation(7, "no shift", "voc20") is None


# ------------------------------------------------------------------ running


NOTE = "import pathlib, sys; pathlib.Path(sys.argv[1], 'ran.txt').open('a').write(sys.argv[2])"


def command_suite(root: Path, file: Path) -> Path:
    """Two rows with a training each (a program that leaves a note) and one that shares."""
    suite = a_suite(
        root,
        seeds=[0, 1],
        trainer={
            "kind": "command",
            "command": ["python", "-c", NOTE, "{output}", "{word}-{seed} "],
            "model": "tiny",
        },
        rows=[
            {"name": "one", "train": {"word": "one"}, "inference": {"shift_source": "none"}},
            {"name": "two", "train": {"word": "two"}},
            {"name": "again", "train": {"word": "one"}, "inference": {"branches": "embedding"}},
        ],
        replicates=20,
    )
    file.write_text(yaml.safe_dump(suite), encoding="utf-8")
    return file


def notes(output: Path) -> list[str]:
    return sorted(f.read_text() for f in output.glob("train-*/ran.txt"))


def test_a_killed_suite_goes_on_where_it_stopped(photos: Path, tmp_path: Path) -> None:
    suite = command_suite(photos, tmp_path / "suite.yaml")
    output = tmp_path / "killed"
    command = ["ablate", str(suite), "--quiet", "--device", "cpu", "--output"]
    started = subprocess.Popen(
        [sys.executable, "-m", "scanseg", *command, str(output)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    deadline = time.monotonic() + 180
    while time.monotonic() < deadline and started.poll() is None:
        if sum(f.read_bytes().count(b"\n") for f in output.glob("evaluate-*/counts-0.jsonl")) > 2:
            break  # a head and two images
        time.sleep(0.01)
    started.send_signal(signal.SIGKILL)
    _, complaint = started.communicate()
    assert started.returncode == -signal.SIGKILL, complaint.decode()
    assert not (output / "table.json").exists()
    assert main([*command, str(output)]) == 0
    assert main([*command, str(tmp_path / "whole")]) == 0
    names = ("table.json", "table.md", "table.png")
    assert all((output / n).read_bytes() == (tmp_path / "whole" / n).read_bytes() for n in names)
    assert notes(output) == ["one-0 ", "one-1 ", "two-0 ", "two-1 "]  # none ran twice
    stamp = [p.stat().st_mtime_ns for p in sorted(output.glob("*/done.json"))]
    assert main([*command, str(output)]) == 0  # nothing is made again
    assert stamp == [p.stat().st_mtime_ns for p in sorted(output.glob("*/done.json"))]


def test_a_spent_budget_is_told_and_can_go_on(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    file = tmp_path / "suite.yaml"
    file.write_text(yaml.safe_dump(a_suite(photos, replicates=20)), encoding="utf-8")
    command = ["ablate", str(file), "--quiet", "--device", "cpu", "--output", str(tmp_path / "o")]
    assert main([*command, "--budget", "0"]) == 3
    assert "the same command goes on" in capsys.readouterr().err
    assert main([*command, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    [data] = found["data"]
    assert set(data["rows"]) == {"plain", "shifted"}
    assert data["rows"]["plain"]["scores"]["miou_union"]["mean"] >= 0
    assert main([*command, "--dry-run"]) == 0
    assert "evaluations: 2 (2 without sharing), 2 done" in capsys.readouterr().out


def test_a_program_that_fails_is_told(photos: Path, tmp_path: Path) -> None:
    trainer = {"kind": "command", "command": ["python", "-c", "raise SystemExit(5)"]}
    suite = parse_suite(a_suite(photos, trainer=trainer, rows=[{"name": "a"}]))
    with pytest.raises(InputError, match="ended with code 5"):
        trainer_of(suite).train({}, 0, tmp_path, lambda *_: None)
    trainer = {"kind": "command", "command": ["python", "{wrod}"]}
    rows = [{"name": "a", "train": {"word": "x"}}]
    with pytest.raises(InputError, match=r"nothing fills 'wrod'.*word"):
        make_plan(parse_suite(a_suite(photos, trainer=trainer, rows=rows)))


class Recorder:
    """A trainer of one's own, for the class path below."""

    def resolve(self, settings: Mapping[str, Any], seed: int) -> Mapping[str, Any]:
        return dict(settings)

    def train(self, settings: Mapping[str, Any], seed: int, output: Path, progress: Any) -> str:
        progress(1, 1, 0.0)
        return "tiny"


def test_torchrun_is_not_for_suites(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main(["ablate", "table3_tiny", "--root", "data", "--dry-run"]) == 2
    assert "leave torchrun out" in capsys.readouterr().err


@pytest.mark.slow
def test_a_row_on_two_devices_is_trained_apart(photos: Path, tmp_path: Path) -> None:
    suite = a_suite(
        photos,
        trainer={
            "experiment": "tiny",
            "set": {
                "data.root": str(photos),
                "trainer.steps": 2,
                "trainer.devices": 2,
                "trainer.accelerator": "cpu",
                "evaluation.every": 0,
            },
        },
        rows=[{"name": "one"}],
        replicates=20,
    )
    file = tmp_path / "suite.yaml"
    file.write_text(yaml.safe_dump(suite), encoding="utf-8")
    assert main(["ablate", str(file), "--output", str(tmp_path / "out"), "--quiet"]) == 0
    [done] = (tmp_path / "out").glob(f"train-*/{DONE}")
    assert Path(json.loads(done.read_text())["model"], "config.json").is_file()


def test_a_trainer_by_class_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "my_trainers", sys.modules[__name__])
    rows = [{"name": "a", "train": {"x": 1}}]
    suite = parse_suite(a_suite(trainer={"kind": "my_trainers.Recorder"}, rows=rows))
    assert trainer_of(suite).train({}, 0, Path("x"), lambda *_: None) == "tiny"
    for wrong in ("my_trainers.Nobody", "no_such_module.Trainer", "builtins.dict"):
        other = parse_suite(a_suite(trainer={"kind": wrong}, rows=rows))
        with pytest.raises(InputError, match=r"trainer|methods"):
            trainer_of(other)
