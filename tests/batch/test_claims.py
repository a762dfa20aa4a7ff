"""Claims on shards: one holder at a time, and the dead lose theirs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from scanseg.batch.claims import Claims, in_turn

HOLDER = """
import sys, time
from pathlib import Path
from scanseg.batch.claims import Claims
claim = Claims(Path(sys.argv[1])).take(3)
claim.renewed = 0
claim.renew(5)
print("taken", flush=True)
time.sleep(60)
"""


def test_a_shard_has_one_holder(tmp_path: Path) -> None:
    claims = Claims(tmp_path)
    claim = claims.take(3)
    assert claim is not None
    assert Claims(tmp_path).take(3) is None
    other = claims.take(4)
    assert other is not None
    assert claims.held() == {3: 0, 4: 0}
    claims.release(claim)
    assert claims.held() == {4: 0}
    assert claims.take(3) is not None


def test_a_killed_process_loses_its_shard_at_once(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "taken\n"
        claims = Claims(tmp_path)
        assert claims.take(3) is None
        assert claims.held() == {3: 5}
        assert claims.shard_of(process.pid) == 3
        assert claims.shard_of(os.getpid()) is None
        process.send_signal(signal.SIGKILL)
        process.wait()
    claim = claims.take(3)
    assert claim is not None
    assert claim.path.name == "000003.1"
    assert claims.held() == {3: 0}
    claims.release(claim)
    assert list((tmp_path / "claims").iterdir()) == []


def test_a_process_that_hangs_loses_its_shard_after_the_lease(tmp_path: Path) -> None:
    """Also to a process of its own machine, that sees its lock."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "taken\n"
        process.send_signal(signal.SIGSTOP)
        path, claims = tmp_path / "claims" / "000003.0", Claims(tmp_path, lease=100)
        os.utime(path, (time.time() - 90, time.time() - 90))
        assert claims.take(3) is None
        os.utime(path, (time.time() - 101, time.time() - 101))
        claim = claims.take(3)
        assert claim is not None
        assert claim.path.name == "000003.1"
        process.kill()


def test_a_slow_process_leaves_the_claim_of_who_took_its_shard_over(tmp_path: Path) -> None:
    claims = Claims(tmp_path, lease=100)
    slow = claims.take(3)
    assert slow is not None
    assert slow.is_mine()
    os.utime(slow.path, (1, 1))
    quick = claims.take(3)
    assert quick is not None
    assert (slow.is_mine(), quick.is_mine()) == (False, True)
    slow.renewed = 0
    slow.renew(5)  # too late
    claims.release(slow)
    assert quick.is_mine()
    assert claims.held() == {3: 0}
    claims.release(quick)
    assert list((tmp_path / "claims").iterdir()) == []


def test_a_claim_that_was_given_up_by_others_is_lost_although_its_name_is_used(
    tmp_path: Path,
) -> None:
    claims = Claims(tmp_path, lease=100)
    slow = claims.take(3)
    assert slow is not None
    slow.path.unlink()
    assert not slow.is_mine()
    other = claims.take(3)
    assert other is not None
    assert other.path == slow.path
    assert not slow.is_mine()
    claims.release(slow)
    assert other.is_mine()


def test_of_many_takers_one_wins(tmp_path: Path) -> None:
    dead = tmp_path / "claims" / "000003.0"
    dead.parent.mkdir()
    dead.write_text("{}")
    os.utime(dead, (1, 1))
    with ThreadPoolExecutor(16) as pool:
        for number in (1, 2, 3):
            found = list(pool.map(lambda _: Claims(tmp_path).take(3), range(48)))
            won = [claim for claim in found if claim is not None]
            assert [claim.path.name for claim in won] == [f"000003.{number}"]
            os.close(won[0].file)  # dies


def test_a_process_on_another_machine_is_given_its_lease(tmp_path: Path) -> None:
    path = tmp_path / "claims" / "000003.0"
    path.parent.mkdir()
    path.write_text(json.dumps({"machine": "elsewhere", "pid": 1, "done": 2}))
    claims = Claims(tmp_path, lease=100)
    assert claims.take(3) is None
    os.utime(path, (time.time() - 99, time.time() - 99))
    assert claims.take(3) is None
    os.utime(path, (time.time() - 101, time.time() - 101))
    assert claims.take(3) is not None


def test_renewal_keeps_the_file_young_and_counts(tmp_path: Path) -> None:
    claims = Claims(tmp_path)
    claim = claims.take(0)
    assert claim is not None
    os.utime(claim.path, (1, 1))
    claim.renew(7)  # too soon after the last one
    assert claims.held() == {0: 0}
    claim.renewed -= 2
    claim.renew(7)
    assert claims.held() == {0: 7}
    assert time.time() - claim.path.stat().st_mtime < 60


def test_what_the_dead_left_is_cleaned(tmp_path: Path) -> None:
    claims = Claims(tmp_path)
    (tmp_path / "claims" / "000003.0").write_text("")
    (tmp_path / "claims" / ".000003.1.abc").write_text("")
    claims.clean()
    assert list((tmp_path / "claims").iterdir()) == []


@pytest.mark.parametrize(
    ("first", "order"), [(0, [1, 4, 6]), (4, [4, 6, 1]), (5, [6, 1, 4]), (9, [1, 4, 6])]
)
def test_processes_start_at_different_shards(first: int, order: list[int]) -> None:
    assert list(in_turn({6, 1, 4}, first)) == order
