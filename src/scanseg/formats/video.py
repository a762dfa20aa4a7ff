"""Video files as frames, and overlays of frames as a video (needs PyAV, ``scanseg[video]``).

Files are opened by a short list of container formats and may name no other file, so a playlist that
calls itself ``.mp4`` reads nothing. Frames are held one at a time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from scanseg.contracts import InputError, MissingExtra, Segmentation
from scanseg.formats.lettering import Lettering, shortened
from scanseg.formats.palette import label_colours
from scanseg.formats.photos import PhotoLimits

EXTENSIONS = frozenset((
    ".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".m2ts", ".mts",
    ".3gp", ".ogv", ".wmv", ".flv",
))  # fmt: skip
"""Lower-case file name endings that mean "a video"."""

_CONTAINERS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpeg,mpegts,mpegvideo,ogg,asf,flv"
_ENCODERS = ("libx264", "libopenh264", "mpeg4")
_TICKS = 1000  # of the overlay video's clock, per second
_LEGEND_ROWS = 4


class DamagedVideo(InputError):  # noqa: N818  (reads better in a traceback)
    """A video broke off; the frames before were good."""


@dataclass(frozen=True)
class VideoInfo:
    """What the header of a video says.

    Attributes:
        width: of the frames as stored, in pixels.
        height: likewise.
        rate: frames per second on average.
        frames: how many there are, about; 0: not known.
    """

    width: int
    height: int
    rate: Fraction
    frames: int


@dataclass(frozen=True, eq=False)
class Frame:
    """One frame.

    Attributes:
        index: 0, 1 ... in the video.
        time: seconds since the first frame.
        pixels: (H, W, 3) uint8 RGB, upright.
    """

    index: int
    time: float
    pixels: np.ndarray = field(repr=False)


def is_video(name: str) -> bool:
    """Whether a file name has the ending of a video."""
    return Path(name).suffix.lower() in EXTENSIONS


def probe(path: str | Path, *, limits: PhotoLimits | None = None) -> VideoInfo:
    """Read a video's header.

    Raises:
        InputError: missing, not a video that can be read, or frames that are too large.
        MissingExtra: PyAV is not installed.
    """
    with _opened(Path(path), limits or PhotoLimits()) as (container, stream):
        rate = stream.average_rate or stream.guessed_rate or Fraction(25)
        frames = stream.frames
        if not frames and container.duration:
            frames = int(container.duration / 1e6 * rate)
        return VideoInfo(stream.width, stream.height, Fraction(rate), max(0, frames))


def read_frames(
    path: str | Path,
    *,
    every: int = 1,
    fps: float | None = None,
    start: int = 0,
    limits: PhotoLimits | None = None,
) -> Iterator[Frame]:
    """Frames of a video, one after the other.

    Args:
        path: of the video.
        every: take each n-th frame.
        fps: take this many frames per second, the first at or after each moment; in place of
            ``every``.
        start: leave out frames with a smaller index; which frames are taken does not change.
        limits: bounds on the pixels of a frame; default ``PhotoLimits()``.

    Raises:
        InputError: missing, or not a video that can be read.
        DamagedVideo: it broke off after at least one frame.
        MissingExtra: PyAV is not installed.
    """
    if every < 1:
        raise InputError(f"every must be 1 or more, not {every}")
    if fps is not None and not fps > 0:
        raise InputError(f"fps must be more than 0, not {fps}")
    path, index, first, due = Path(path), -1, 0.0, 0.0
    with _opened(path, limits or PhotoLimits()) as (container, stream):
        rate = float(stream.average_rate or stream.guessed_rate or 25)
        frames = container.decode(stream)
        while True:
            try:
                frame = next(frames, None)
            except Exception as error:  # decoders raise many kinds of error on hostile bytes
                reason = f"{path} is damaged"
                if index < 0:
                    raise InputError(f"{reason}: no frame of it can be read") from error
                raise DamagedVideo(f"{reason} after frame {index + 1}") from error
            if frame is None:
                break
            index += 1
            moment = index / rate if frame.time is None else float(frame.time)
            first = moment if index == 0 else first
            time = moment - first
            taken = index % every == 0 if fps is None else time >= due - 1e-6
            if not taken:
                continue
            if fps is not None:
                due = (int(time * fps + 1e-6) + 1) / fps
            if index >= start:
                yield Frame(index, max(0.0, time), _upright(frame))
    if index < 0:
        raise InputError(f"{path} has no frames")


def _upright(frame: Any) -> np.ndarray:
    pixels = frame.to_ndarray(format="rgb24")
    turns = round(frame.rotation / 90) % 4  # counter-clockwise
    return np.ascontiguousarray(np.rot90(pixels, turns)) if turns else pixels


@contextmanager
def _opened(path: Path, limits: PhotoLimits) -> Iterator[tuple[Any, Any]]:
    """A container and its first video stream."""
    av = _library()
    options = {"format_whitelist": _CONTAINERS, "protocol_whitelist": "pipe"}
    try:
        file = path.open("rb")
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from None
    with file:
        try:
            container = av.open(file, options=options)
        except Exception as error:  # demuxers raise many kinds of error on hostile bytes
            raise InputError(
                f"{path} is not a video that can be read (MP4, MOV, MKV, WebM, AVI, MPEG, Ogg)"
            ) from error
        with container:
            if not container.streams.video:
                raise InputError(f"{path} has no pictures in it, only sound or data")
            stream = container.streams.video[0]
            size = stream.width * stream.height
            if size > limits.max_pixels:
                raise InputError(
                    f"{path} has frames of {stream.width} x {stream.height} pixels, more than "
                    f"{limits.max_pixels / 1e6:g} million: shrink it first"
                )
            stream.codec_context.options = {"max_pixels": str(limits.max_pixels)}
            yield container, stream


def _library() -> Any:
    try:
        import av
    except ImportError:
        raise MissingExtra("video", "a video") from None
    av.logging.set_level(av.logging.PANIC)  # errors come as exceptions; the rest is noise
    return av


# ------------------------------------------------------------------ overlays


class OverlayVideo:
    """Writes frames with coloured segments and a legend that stays the same.

    Use it as a context: ``with OverlayVideo(file, names) as video: video.add(segmentation, time)``.

    Args:
        file: binary file to write an MP4 to, which can seek.
        names: the vocabulary, for the legend.
        opacity: of the colours, in [0, 1].
        font: a TrueType or OpenType file for names in other scripts.
    """

    def __init__(
        self, file: Any, names: Sequence[str], *, opacity: float = 0.55, font: str | None = None
    ) -> None:
        self._av = _library()
        self._names = tuple(names)
        self._opacity = opacity
        self._font = font
        self._container = self._av.open(file, mode="w", format="mp4")
        self._stream: Any = None
        self._legend: np.ndarray | None = None
        self._size = (0, 0)
        self._last, self._gap = -1, 1  # ticks
        self.encoder = find_encoder()

    def __enter__(self) -> OverlayVideo:
        return self

    def __exit__(self, kind: object, *rest: object) -> None:
        if kind is None and self._stream is not None:
            for packet in self._stream.encode():
                if packet.pts == self._last:
                    packet.duration = self._gap  # the last frame stays as long as the one before
                self._container.mux(packet)
        self._container.close()

    def add(self, segmentation: Segmentation, time: float) -> None:
        """Append a frame that is shown from ``time`` (seconds) on.

        A frame of another size than the first is scaled to it.
        """
        picture = segmentation.overlay(opacity=self._opacity, legend=False)
        if self._legend is None:
            self._size = picture.size
            self._legend = legend_strip(self._names, picture.width, self._font)
            self._begin(picture.width, picture.height + self._legend.shape[0])
        if picture.size != self._size:
            picture = picture.resize(self._size)
        pixels = np.concatenate([np.asarray(picture), self._legend])
        height, width = pixels.shape[:2]
        pixels = np.pad(pixels, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
        frame = self._av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
        now = max(self._last + 1, round(time * _TICKS))
        self._last, self._gap = now, max(1, now - self._last)
        frame.pts, frame.time_base = self._last, Fraction(1, _TICKS)
        for packet in self._stream.encode(frame):
            self._container.mux(packet)

    def _begin(self, width: int, height: int) -> None:
        stream = self._container.add_stream(self.encoder, rate=_TICKS)
        stream.width, stream.height = width + width % 2, height + height % 2
        stream.pix_fmt = "yuv420p"
        stream.codec_context.time_base = Fraction(1, _TICKS)
        stream.codec_context.thread_count = 1  # the same bytes on any number of cores
        if self.encoder == "libx264":
            # with B-frames and mbtree x264's bytes depend on what its memory held before
            stream.options = {"crf": "20", "x264-params": "bframes=0:mbtree=0"}
        else:
            stream.bit_rate = max(1_000_000, 6 * width * height)
        self._stream = stream


def find_encoder() -> str:
    """The best encoder that the installed PyAV has: H.264 if there is one, else MPEG-4.

    Raises:
        InputError: none.
    """
    av = _library()
    for name in _ENCODERS:
        try:
            av.codec.Codec(name, "w")
        except Exception:  # PyAV's "unknown codec" is a plain ValueError subclass of its own
            continue
        return name
    raise InputError("the installed PyAV can encode neither H.264 nor MPEG-4: reinstall av")


def legend_strip(names: Sequence[str], width: int, font: str | None = None) -> np.ndarray:
    """Swatches and names of a whole vocabulary in rows, (height, width, 3) uint8, height even."""
    em = max(12, round(width / 46))
    lettering, colours = Lettering(names, font), label_colours(len(names))
    line, gap = round(1.8 * em), em // 2
    cells: list[tuple[int, int, int]] = []  # (label, x, row)
    x, row = em, 0
    for label, name in enumerate(lettering.names):
        letters = lettering.font(em, label)
        shown = shortened(name, letters, width - 4 * em)
        needed = em + gap + round(letters.getlength(shown))
        if x + needed > width - em and x > em:
            x, row = em, row + 1
        if row == _LEGEND_ROWS:
            break
        cells.append((label, x, row))
        x += needed + 2 * em
    rows = cells[-1][2] + 1 if cells else 0
    more = len(names) - len(cells)
    height = (rows + bool(more)) * line + em
    strip = Image.new("RGB", (width, height + height % 2), (255, 255, 255))
    draw = ImageDraw.Draw(strip)
    for label, left, at in cells:
        middle = em // 2 + at * line + line // 2
        box = (left, middle - em // 2, left + em, middle + em // 2)
        draw.rounded_rectangle(box, radius=em // 5, fill=tuple(colours[label].tolist()))
        letters = lettering.font(em, label)
        shown = shortened(lettering.names[label], letters, width - 4 * em)
        draw.text((left + em + gap, middle), shown, font=letters, fill=(34, 34, 38), anchor="lm")
    if more:
        middle = em // 2 + rows * line + line // 2
        plain = lettering.font(em)
        draw.text((em, middle), f"and {more} more", font=plain, fill=(115, 115, 121), anchor="lm")
    return np.asarray(strip)
