"""``scanseg bench`` on the tiny preset: stages add up, modes are compared, results are files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from scanseg import Segmenter, Vocabulary, bench
from scanseg.cli import main
from scanseg.formats.photos import read_photo
from scanseg.recipe import Resize


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict, Path]:
    folder = tmp_path_factory.mktemp("bench")
    arguments = ["--preset", "tiny", "--vs", "fast", "--repeat", "2", "--labels", "5"]
    assert main(["bench", *arguments, "--sweep", "--output", str(folder)]) == 0
    return json.loads((folder / "bench.json").read_text()), folder


def test_stages_add_up_to_the_total(report: tuple[dict, Path]) -> None:
    found, _ = report
    assert set(found["modes"]) == {"exact", "fast"}
    rows = found["modes"]["exact"]
    assert {"backbone", "region encoder", "SIM", "crops", "map and arg max"} <= set(rows)
    assert rows["total"]["gflop"] > rows["region encoder"].get("gflop", 0)
    assert all(row["low"] <= row["median"] <= row["high"] for row in rows.values())
    assert found["comparison"]["ratio_low"] <= found["comparison"]["ratio_median"]
    assert 0 <= found["comparison"]["agreement"] <= 1
    assert found["gemm_gflop_per_s"]["float32"] > 1


def test_the_sweep_is_drawn(report: tuple[dict, Path]) -> None:
    found, folder = report
    assert set(found["seconds_by_labels"]["exact"]) == {"1", "10", "100", "1000", "10000"}
    assert set(found["seconds_by_regions"]["fast"]) == {"1", "10", "25", "50", "100"}
    assert (folder / "bench.png").stat().st_size > 5_000


def test_every_second_is_on_one_account_and_the_watch_comes_off() -> None:
    seg = Segmenter.from_pretrained("tiny", device="cpu")
    photo = bench.load_photo(None)
    before = (Resize.__call__, type(seg).cut)
    (timing,) = bench.time_models([seg], photo, Vocabulary(["cat"], background=()), repeat=2)
    stages = [run for stage, run in timing.seconds.items() if stage != "total"]
    for total, *run in zip(timing.seconds["total"], *stages, strict=True):
        assert sum(run) == pytest.approx(total)
    assert (Resize.__call__, type(seg).cut) == before
    assert "cut" not in vars(seg)


def test_operations_are_those_of_the_products() -> None:
    watch = bench.Stopwatch(torch.device("cpu"))
    a, b = torch.ones(4, 8), torch.ones(8, 16)

    def inner() -> torch.Tensor:
        return a @ b  # 2 * 4 * 8 * 16 = 1024

    part = watch.wrap("inner", inner)
    whole = watch.wrap("outer", lambda: part() @ torch.ones(16, 2))  # 2 * 4 * 16 * 2 = 256
    watch.start(["inner", "outer"])
    with watch.counting():
        whole()
    assert watch.flops == {"inner": 1024, "outer": 256}


def test_mistakes(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["bench", "--labels", "0"]) == 2
    assert "--labels must lie between 1 and 847" in capsys.readouterr().err
    assert main(["bench", "--repeat", "0"]) == 2
    assert main(["bench", "--preset", "tiny", "--photo", str(tmp_path / "no.jpg")]) == 2


def test_reads_photos_as_the_other_commands_do(tmp_path: Path) -> None:
    from PIL import Image

    Image.new("RGB", (30, 20)).save(tmp_path / "p.png")
    assert bench.load_photo(tmp_path / "p.png").pixels.shape == (20, 30, 3)
    assert read_photo(tmp_path / "p.png").name == "p.png"
