"""Videos made on the fly: frames by number and by time, hostile files, overlays that play."""

from __future__ import annotations

import sys
import tracemalloc
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from scanseg.contracts import InputError, MissingExtra, Segmentation
from scanseg.formats.photos import PhotoLimits
from scanseg.formats.video import (
    DamagedVideo,
    OverlayVideo,
    find_encoder,
    is_video,
    legend_strip,
    probe,
    read_frames,
)

av = pytest.importorskip("av")


def make_clip(path: Path, pictures: Sequence[np.ndarray], *, rate: int = 10) -> Path:
    """An MPEG-4 clip whose every frame can be decoded on its own."""
    height, width = pictures[0].shape[:2]
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=rate)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.bit_rate, stream.gop_size = 4_000_000, 1
        for picture in pictures:
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
            for packet in stream.encode(frame):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
    return path


def greys(count: int, size: tuple[int, int] = (48, 64)) -> list[np.ndarray]:
    """Frame i is grey of value 10 i + 5."""
    return [np.full((*size, 3), 10 * i + 5, np.uint8) for i in range(count)]


def numbers(frames: Sequence[np.ndarray]) -> list[int]:
    return [round((float(pixels.mean()) - 5) / 10) for pixels in frames]


def test_names() -> None:
    assert is_video("a/Clip.MP4")
    assert is_video("x.webm")
    assert not is_video("mp4")
    assert not is_video("photo.jpg")


@pytest.mark.parametrize("ending", [".mp4", ".mkv", ".avi", ".mov"])
def test_frames_in_order(ending: str, tmp_path: Path) -> None:
    clip = make_clip(tmp_path / f"clip{ending}", greys(8))
    info = probe(clip)
    assert (info.width, info.height, info.rate) == (64, 48, Fraction(10))
    assert info.frames in (7, 8)  # from the duration where the container does not count
    frames = list(read_frames(clip))
    assert [f.index for f in frames] == list(range(8))
    assert numbers([f.pixels for f in frames]) == list(range(8))
    assert [f.time for f in frames] == pytest.approx([i / 10 for i in range(8)], abs=1e-3)
    assert frames[0].pixels.dtype == np.uint8
    assert frames[0].pixels.shape == (48, 64, 3)


def test_every_fps_and_start(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "clip.mp4", greys(20))
    taken = lambda **options: [f.index for f in read_frames(clip, **options)]
    assert taken(every=6) == [0, 6, 12, 18]
    assert taken(every=6, start=7) == [12, 18]
    # frames lie 0.1 s apart; moments 0, 0.4, 0.8 ... at 2.5 per second
    assert taken(fps=2.5) == [0, 4, 8, 12, 16]
    assert taken(fps=2.5, start=4) == [4, 8, 12, 16]
    # moments 0, 1/3, 2/3, 1 ...: the first frames at or after them
    assert taken(fps=3) == [0, 4, 7, 10, 14, 17]
    assert taken(fps=1000) == list(range(20))
    with pytest.raises(InputError, match="every must be 1 or more, not 0"):
        taken(every=0)
    with pytest.raises(InputError, match="fps must be more than 0"):
        taken(fps=-1.0)


def test_a_video_that_lies_on_its_side(tmp_path: Path) -> None:
    """A phone stores portrait videos lying down with "turn clockwise by 90 degrees" beside."""
    picture = np.zeros((48, 64, 3), np.uint8)
    picture[:24, :32] = 250  # upper left as stored, upper right when turned clockwise
    clip = make_clip(tmp_path / "clip.mp4", [picture] * 2)
    data = bytearray(clip.read_bytes())
    unity = b"".join(v.to_bytes(4, "big") for v in (1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30))
    turned = b"".join(
        v.to_bytes(4, "big", signed=True) for v in (0, 1 << 16, 0, -(1 << 16), 0, 0, 0, 0, 1 << 30)
    )
    at = data.index(unity, data.index(b"tkhd"))  # the track's matrix
    data[at : at + 36] = turned
    clip.write_bytes(bytes(data))
    frame = next(read_frames(clip))
    assert frame.pixels.shape == (64, 48, 3)
    quarters = [frame.pixels[y : y + 28, x : x + 20].mean() for y in (2, 34) for x in (2, 26)]
    assert quarters[1] > 230  # upper right
    assert max(quarters[0], quarters[2], quarters[3]) < 20


def test_hostile_files(tmp_path: Path) -> None:
    secret = make_clip(tmp_path / "secret.mp4", greys(2))
    playlist = f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{secret}\n#EXT-X-ENDLIST\n"
    for name, content in {
        "playlist.mp4": playlist.encode(),
        "concat.mp4": f"ffconcat version 1.0\nfile '{secret}'\n".encode(),
        "image.mp4": _png(),
        "random.mkv": np.random.default_rng(0).bytes(5000),
        "empty.avi": b"",
        "zeros.mov": bytes(5000),
    }.items():
        path = tmp_path / name
        path.write_bytes(content)
        for call in (probe, lambda p: next(read_frames(p))):
            with pytest.raises(InputError, match=rf"{name} is (not a video|damaged)") as caught:
                call(path)
            assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match=r"none\.mp4 cannot be read: No such file"):
        probe(tmp_path / "none.mp4")


def _png() -> bytes:
    from io import BytesIO

    file = BytesIO()
    Image.new("RGB", (8, 8)).save(file, "PNG")
    return file.getvalue()


def test_frames_that_are_too_large(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "clip.mp4", greys(2))
    with pytest.raises(InputError, match=r"64 x 48 pixels, more than 0\.003 million"):
        probe(clip, limits=PhotoLimits(max_pixels=3000))


def test_sound_only(tmp_path: Path) -> None:
    path = tmp_path / "sound.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=8000)
        samples = np.zeros((1, 1024), np.float32)
        frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout="mono")
        frame.sample_rate = 8000
        for packet in [*stream.encode(frame), *stream.encode()]:
            container.mux(packet)
    with pytest.raises(InputError, match="has no pictures in it"):
        probe(path)


@pytest.mark.parametrize("ending", [".avi", ".mkv"])
def test_truncated_and_damaged(ending: str, tmp_path: Path) -> None:
    """However a file is cut, good frames come first, then the end or a word about the damage."""
    noise = np.random.default_rng(0).integers(0, 255, (12, 48, 64, 3), dtype=np.uint8)
    clip = make_clip(tmp_path / f"clip{ending}", list(noise))
    data = clip.read_bytes()
    counts = []
    for share in (0.2, 0.5, 0.8):
        cut = tmp_path / f"cut{share}{ending}"
        cut.write_bytes(data[: int(share * len(data))])
        seen, said = 0, ""
        try:
            for _ in read_frames(cut):
                seen += 1
        except DamagedVideo as error:
            said = str(error)
        except InputError:
            said = "nothing"
        assert said in ("", f"{cut} is damaged after frame {seen}", "" if seen else "nothing")
        counts.append(seen)
    assert counts == sorted(counts)
    assert 0 < counts[-1] <= 12


def test_frames_are_not_kept(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "clip.mp4", greys(24, (240, 320)))
    one = 240 * 320 * 3
    tracemalloc.start()
    for frame in read_frames(clip):
        assert frame.pixels.nbytes == one
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 5 * one


def test_without_av(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(MissingExtra, match=r"scanseg\[video\]"):
        probe(tmp_path / "clip.mp4")


# ------------------------------------------------------------------ overlays


def segmentation(value: int, size: tuple[int, int] = (49, 65)) -> Segmentation:
    labels = np.zeros(size, np.int32)
    labels[:, : size[1] // 2] = 1
    image = np.full((*size, 3), value, np.uint8)
    return Segmentation(labels, ("road", "car"), np.ones(size, np.float32), image=image)


def test_an_overlay_video_plays_with_the_times_given(tmp_path: Path) -> None:
    path = tmp_path / "overlay.mp4"
    times = [0.0, 0.1, 0.5, 0.6]
    with path.open("wb") as file, OverlayVideo(file, ("road", "car")) as video:
        for i, time in enumerate(times):
            video.add(segmentation(60 * i), time)
    strip = legend_strip(("road", "car"), 65)
    frames = list(read_frames(path))
    assert [f.time for f in frames] == pytest.approx(times, abs=2e-3)
    height, width = frames[0].pixels.shape[:2]
    assert (height, width) == (49 + strip.shape[0] + 1, 66)  # even sides
    expected = np.asarray(segmentation(60).overlay(legend=False)).astype(int)
    difference = np.abs(frames[1].pixels[:49, :65].astype(int) - expected)
    assert difference.mean() < 12  # lossy, half the resolution of colour
    info = probe(path)
    assert info.frames == 4
    with av.open(str(path)) as container:
        assert container.streams.video[0].codec_context.name in ("h264", "mpeg4")
        # the last frame stays as long as the one before it
        assert container.duration / 1e6 == pytest.approx(0.7, abs=0.01)


def test_equal_frames_give_equal_bytes(tmp_path: Path) -> None:
    """Whatever the memory held before: x264's defaults fail this one time in three."""
    rng = np.random.default_rng(0)
    noise = np.kron(rng.integers(0, 255, (10, 8, 3), dtype=np.uint8), np.ones((8, 8, 1), np.uint8))
    files = set()
    for trial in range(12):
        _ = [rng.bytes(size) for size in rng.integers(1000, 200_000, 40)]
        path = tmp_path / f"{trial}.mp4"
        with path.open("wb") as file, OverlayVideo(file, ("road",)) as video:
            for i in range(12):
                image = np.roll(noise, 3 * i, axis=1)
                empty = np.full((80, 64), -1, np.int32)
                confidence = np.zeros((80, 64), np.float32)
                video.add(Segmentation(empty, ("road",), confidence, image=image), i / 10)
        files.add(path.read_bytes())
    assert len(files) == 1


def test_the_encoder_falls_back(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    real = av.codec.Codec

    def without(names: Sequence[str]) -> None:
        def codec(name: str, mode: str) -> object:
            if name in names:
                raise ValueError(name)
            return real(name, mode)

        monkeypatch.setattr(av.codec, "Codec", codec)

    without(["libx264", "libopenh264"])
    assert find_encoder() == "mpeg4"
    with (tmp_path / "o.mp4").open("wb") as file, OverlayVideo(file, ("road", "car")) as video:
        video.add(segmentation(1), 0.0)
        video.add(segmentation(2), 0.1)
    assert len(list(read_frames(tmp_path / "o.mp4"))) == 2
    without(["libx264", "libopenh264", "mpeg4"])
    with pytest.raises(InputError, match=r"neither H\.264 nor MPEG-4"):
        find_encoder()


def test_the_legend_has_bounds() -> None:
    few = legend_strip(("sky", "tree"), 640)
    many = legend_strip([f"word number {i}" for i in range(300)], 640)
    long = legend_strip(["w" * 300], 64)
    assert few.shape[0] < many.shape[0] < 200
    assert few.shape[1] == many.shape[1] == 640
    assert long.shape[1] == 64
    assert all(strip.shape[0] % 2 == 0 for strip in (few, many, long))
