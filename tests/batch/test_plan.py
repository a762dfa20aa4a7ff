"""The list of a job's photos and its shards."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from scanseg.batch.plan import Plan, make_plan, spread
from scanseg.batch.sources import open_source
from scanseg.contracts import InputError
from scanseg.storage import new_file


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(7):
        (folder / f"{number}.jpg").touch()
    return folder


def test_shards_have_equal_sizes_but_the_last(source: Path, tmp_path: Path) -> None:
    plan = make_plan(open_source(str(source)), tmp_path / "out", 3)
    assert (plan.images, plan.shards) == (7, 3)
    assert [plan.size(s) for s in range(3)] == [3, 3, 1]
    assert [(n.image, n.item.key) for n in plan.items(1)] == [
        (3, "3.jpg"),
        (4, "4.jpg"),
        (5, "5.jpg"),
    ]
    assert [n.image for n in plan.items(2)] == [6]
    assert [item.key for item in plan.sample(3)] == ["1.jpg", "3.jpg", "5.jpg"]  # 7/6, 21/6, 35/6
    assert len(plan.sample(100)) == 7


def test_photos_that_come_later_do_not_change_a_plan(source: Path, tmp_path: Path) -> None:
    first = make_plan(open_source(str(source)), tmp_path / "out", 3)
    (source / "0-new.jpg").touch()
    again = make_plan(open_source(str(source)), tmp_path / "out", 3)
    assert again.images == 7
    assert again.hash == first.hash
    assert make_plan(open_source(str(source)), tmp_path / "other", 3).hash != first.hash


def test_another_job_takes_the_folder_only_while_nothing_is_done(
    source: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    make_plan(open_source(str(source)), out, 3)
    assert make_plan(open_source(str(source)), out, 4).shards == 2
    assert make_plan(open_source(str(source)), out, 4, limit=5).images == 5
    (out / "images").mkdir()
    with pytest.raises(InputError, match=r"another run \(limit: 5 there, None here"):
        make_plan(open_source(str(source)), out, 4)


def test_no_photos_no_plan_and_damage(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="has no photos in it"):
        make_plan(open_source(str(tmp_path / "empty")), tmp_path / "out", 3)
    with pytest.raises(InputError, match="holds no batch job"):
        Plan(tmp_path)
    (tmp_path / "plan.parquet").write_bytes(b"PAR1")
    with pytest.raises(InputError, match="is damaged"):
        Plan(tmp_path)


def test_a_new_file_never_replaces_one(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    with new_file(path) as file:
        file.write(b"first")
    with pytest.raises(FileExistsError), new_file(path) as file:
        file.write(b"second")
    assert path.read_bytes() == b"first"
    assert list(tmp_path.iterdir()) == [path]  # nothing temporary is left


def test_places_spread_over_a_range() -> None:
    assert spread(10, 3) == [1, 5, 8]  # middles of three equal parts
    assert spread(3, 20) == [0, 1, 2]
    assert spread(0, 5) == []


def test_a_name_that_is_not_utf8_does_not_stop_a_job(source: Path, tmp_path: Path) -> None:
    try:
        (source / os.fsdecode(b"\xff.jpg")).touch()
    except OSError:
        pytest.skip("this file system takes text only")
    plan = make_plan(open_source(str(source)), tmp_path / "out", 8)
    assert [n.item.key for n in plan.items(0)][-2:] == ["6.jpg", "\\xff.jpg"]


def test_temporary_names_are_short(tmp_path: Path) -> None:
    path = tmp_path / ("n" * 250)
    with new_file(path) as file:
        file.write(b"whole")
        (temporary,) = tmp_path.iterdir()
        assert len(temporary.name) < 40
    assert path.read_bytes() == b"whole"
