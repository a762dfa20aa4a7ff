"""``scanseg segment clip.mp4``: journal, overlay video, kill and resume, mistakes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from scanseg.cli import main
from scanseg.formats.records import decode_rle
from scanseg.formats.video import read_frames

av = pytest.importorskip("av")


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A current folder with a clip of a camera that pans over a photo."""
    monkeypatch.chdir(tmp_path)
    pan(Path("clip.mp4"), 6)
    return tmp_path


def pan(path: Path, frames: int) -> None:
    from skimage import data

    photo = data.coffee()
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for i in range(frames):
            view = photo[100 + 4 * i :: 5, 60 + 9 * i :: 5][:48, :64]
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(view), format="rgb24")
            for packet in stream.encode(frame):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)


COMMAND = ["segment", "--preset", "tiny", "--device", "cpu"]


def segment(*arguments: str) -> int:
    return main([*COMMAND, *arguments])


def lines(path: str = "scanseg_output/clip.jsonl") -> list[dict]:
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


def contents(folder: str) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in Path(folder).iterdir()}


def test_a_line_and_a_picture_for_every_frame(capsys: pytest.CaptureFixture[str]) -> None:
    assert segment("clip.mp4", "cup", "table", "spoon") == 0
    assert sorted(os.listdir("scanseg_output")) == ["clip.jsonl", "clip_overlay.mp4"]
    about, *frames = lines()
    assert about["labels"] == ["cup", "table", "spoon"]
    assert [f["frame"] for f in frames] == list(range(6))
    assert [f["time"] for f in frames] == pytest.approx([i / 10 for i in range(6)])
    shown = list(read_frames("scanseg_output/clip_overlay.mp4"))
    assert [f.time for f in shown] == pytest.approx([i / 10 for i in range(6)], abs=2e-3)
    for entry in frames:
        masks = [decode_rle(s["segmentation"]) for s in entry["segments"]]
        covered = sum(m.astype(int) for m in masks)
        assert np.max(covered) <= 1
        assert 1 - np.mean(covered) == pytest.approx(entry["unknown_share"], abs=1e-6)
        assert masks[0].shape == (48, 64)
    said = capsys.readouterr()
    assert said.out == ""
    assert "clip.mp4, 6 frames" in said.err


def test_the_frames_are_those_that_python_gives() -> None:
    from scanseg import Segmenter

    assert segment("clip.mp4", "cup", "table", "--every", "3", "--quiet") == 0
    _, *entries = lines()
    model = Segmenter.from_pretrained("tiny", device="cpu")
    for entry, frame in zip(entries, read_frames("clip.mp4", every=3), strict=True):
        assert entry["frame"] == frame.index
        expected = model(frame.pixels, ["cup", "table"])
        for found, wanted in zip(entry["segments"], expected.segments, strict=True):
            np.testing.assert_array_equal(decode_rle(found["segmentation"]), wanted.mask)


def test_colours_stay_the_same_over_frames() -> None:
    """The swatches of the legend are equal in all frames, up to the encoder's loss."""
    assert segment("clip.mp4", "cup", "table", "--quiet") == 0
    legends = [f.pixels[50:].astype(int) for f in read_frames("scanseg_output/clip_overlay.mp4")]
    assert legends[0].min() < 100  # letters and swatches
    for legend in legends[1:]:
        assert np.abs(legend - legends[0]).mean() < 1


def test_killed_and_resumed(here: Path) -> None:
    pan(Path("clip.mp4"), 14)
    assert segment("clip.mp4", "cup", "table", "--output", "whole", "--quiet") == 0
    command = [sys.executable, "-m", "scanseg", *COMMAND]
    run = subprocess.Popen([*command, "clip.mp4", "cup", "table", "--output", "part"])
    journal = Path("part/clip.jsonl")
    until = time.monotonic() + 60
    while time.monotonic() < until and run.poll() is None:
        if journal.exists() and journal.read_bytes().count(b"\n") >= 4:
            break
        time.sleep(0.005)
    run.send_signal(signal.SIGKILL)
    run.wait()
    done = journal.read_bytes()
    assert done.count(b"\n") >= 4
    journal.write_bytes(done + b'{"frame": 99, "ti')  # a line that was cut off
    before = done[: done.rindex(b"\n") + 1]
    again = ["--output", "part", "--skip-existing", "--quiet"]
    assert segment("clip.mp4", "cup", "table", *again) == 0
    assert journal.read_bytes().startswith(before)
    assert contents("part") == contents("whole")


def test_nothing_is_done_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    assert segment("clip.mp4", "cup", "--quiet") == 0
    before = {p.name: p.stat().st_mtime_ns for p in Path("scanseg_output").iterdir()}
    assert segment("clip.mp4", "cup", "--quiet", "--skip-existing") == 0
    overlay = Path("scanseg_output/clip_overlay.mp4")
    assert overlay.stat().st_mtime_ns == before["clip_overlay.mp4"]
    pictures = overlay.read_bytes()
    overlay.unlink()  # killed between the two passes
    assert segment("clip.mp4", "cup", "--quiet", "--skip-existing") == 0
    assert overlay.read_bytes() == pictures


def test_results_are_not_mixed(capsys: pytest.CaptureFixture[str]) -> None:
    assert segment("clip.mp4", "cup", "--quiet") == 0
    assert segment("clip.mp4", "cup") == 2
    assert "clip.jsonl exists: use --skip-existing to go on with it" in capsys.readouterr().err
    assert segment("clip.mp4", "table", "--skip-existing") == 2
    assert "was made with different labels: use --overwrite" in capsys.readouterr().err
    assert segment("clip.mp4", "cup", "--skip-existing", "--every", "2") == 2
    assert "was made with different every" in capsys.readouterr().err
    assert segment("clip.mp4", "table", "--overwrite", "--every", "2", "--quiet") == 0
    assert [f["frame"] for f in lines()[1:]] == [0, 2, 4]
    Path("scanseg_output/clip.jsonl").write_text("hello\n")
    assert segment("clip.mp4", "table", "--skip-existing") == 2
    assert "is not a journal of scanseg" in capsys.readouterr().err


def test_progress_without_a_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from scanseg.cli import segment_report

    monkeypatch.setattr(segment_report, "_BETWEEN_LINES", 0.0)
    assert segment("clip.mp4", "cup") == 0
    said = capsys.readouterr().err
    assert "1 of 6 frames, about 0:" in said
    assert "6 of 6 frames, about 0:00 left" in said
    assert "6 of 6 overlay frames, about 0:00 left" in said


def test_several_videos_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    Path("more").mkdir()
    pan(Path("more/clip.avi"), 3)
    Path("bad.mkv").write_bytes(b"nothing")
    code = segment("clip.mp4", "more/clip.avi", "bad.mkv", "cup", "--fps", "5", "--json")
    assert code == 3
    answers = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert answers[0]["error"].startswith("bad.mkv is not a video")
    assert [(a["video"], a["frames"]) for a in answers[1:]] == [
        ("clip.mp4", 3),
        (os.path.join("more", "clip.avi"), 2),
    ]
    assert Path(answers[2]["files"]["overlay"]).name == "clip.avi_overlay.mp4"
    assert len(lines(answers[1]["files"]["journal"])) == 1 + 3


def test_a_video_that_breaks_off(capsys: pytest.CaptureFixture[str]) -> None:
    """What was read is kept and drawn; the exit code says that it is not all."""
    from scanseg.formats.video import DamagedVideo, InputError

    noise = np.random.default_rng(0).integers(0, 255, (10, 48, 64, 3), dtype=np.uint8)
    with av.open("cut.ts", "w", format="mpegts") as container:
        stream = container.add_stream("mpeg2video", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for view in noise:
            for packet in stream.encode(av.VideoFrame.from_ndarray(view, format="rgb24")):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
    data = bytearray(Path("cut.ts").read_bytes())
    rng = np.random.default_rng(1)
    damaged = None
    for _ in range(60):  # find bytes whose loss the decoder notices after good frames
        trial = bytearray(data)
        for at in rng.integers(len(data) // 3, len(data), 40):
            trial[at] = 255
        Path("cut.ts").write_bytes(bytes(trial))
        try:
            seen = sum(1 for _ in read_frames("cut.ts"))
        except DamagedVideo as error:
            damaged = str(error)
            break
        except InputError:
            continue
        assert seen <= 10
    if damaged is None:
        pytest.skip("this decoder hides all damage that was tried")
    assert segment("cut.ts", "cup") == 3
    assert damaged in capsys.readouterr().err
    count = int(damaged.rsplit(" ", 1)[1])
    assert len(lines("scanseg_output/cut.jsonl")) == 1 + count
    assert len(list(read_frames("scanseg_output/cut_overlay.mp4"))) == count


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["none.mp4", "cup"], "none.mp4 does not exist"),
        (["clip.mp4", "clip.png", "cup"], "clip.png is no video, and clip.mp4 is one"),
        (["clip.mp4", "cup", "--every", "2", "--fps", "2"], "--every and --fps exclude"),
        (["clip.mp4", "cup", "--every", "0"], "--every must be 1 or more, not 0"),
        (["clip.mp4", "cup", "--fps", "0"], "--fps must be more than 0, not 0"),
        (["clip.mp4", "cup", "--output", "-"], "are for photos, not for videos"),
        (["clip.mp4", "cup", "--export", "coco"], "are for photos, not for videos"),
        (["cup", "clip.mp4"], "no photo was given"),
        (["clip.mp4", "cup", "other.mp4"], "'other.mp4' comes after the word 'cup'"),
        (["clip.mp4"], "no words were given"),
    ],
)
def test_mistakes(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert segment(*arguments) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1
    assert not Path("scanseg_output").exists()


def test_frames_of_photos(capsys: pytest.CaptureFixture[str]) -> None:
    from PIL import Image

    Image.new("RGB", (8, 8)).save("a.png")
    assert segment("a.png", "cup", "--every", "2") == 2
    assert "choose frames of a video, and these are photos" in capsys.readouterr().err


def test_a_broken_video_alone_is_a_mistake(capsys: pytest.CaptureFixture[str]) -> None:
    Path("bad.mp4").write_bytes(b"nothing")
    assert segment("bad.mp4", "cup") == 2
    assert "bad.mp4 is not a video that can be read" in capsys.readouterr().err
