"""``scanseg segment clip.mp4 "car" "road"``: every frame labelled, a video and JSON lines out.

``NAME.jsonl`` is the journal: a line about the run, then a line per frame, written as soon as the
frame is done. When all frames are there, the overlay video is drawn from the journal in a second
pass over the video, without the model, so a run that was killed loses at most one frame
(``docs/decisions/0097``).
"""

from __future__ import annotations

import glob
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from scanseg.cli import EXIT_OK, EXIT_SOME_FAILED
from scanseg.cli.segment_report import Report
from scanseg.contracts import UNKNOWN, InferenceSettings, InputError, Segmentation
from scanseg.formats.video import DamagedVideo, is_video

if TYPE_CHECKING:
    from scanseg.formats.video import VideoInfo
    from scanseg.segmenter import Segmenter
    from scanseg.vocabulary import Vocabulary

Load = Callable[[], "tuple[Segmenter, InferenceSettings]"]


@dataclass(frozen=True)
class VideoOptions:
    """What the command line says about videos.

    Args:
        every: each n-th frame; ``None``: all, or by ``fps``.
        fps: frames per second.
        overwrite: begin again, replacing results.
        skip_existing: go on with results that are there.
        font: for names in other scripts.
    """

    every: int | None
    fps: float | None
    overwrite: bool
    skip_existing: bool
    font: str | None

    def __post_init__(self) -> None:
        if self.every is not None and self.fps is not None:
            raise InputError("--every and --fps exclude each other: choose one")
        if self.every is not None and self.every < 1:
            raise InputError(f"--every must be 1 or more, not {self.every}")
        if self.fps is not None and not self.fps > 0:
            raise InputError(f"--fps must be more than 0, not {self.fps:g}")

    def selection(self) -> dict[str, Any]:
        """Which frames are taken, as ``read_frames`` has it."""
        return {"every": self.every or 1, "fps": self.fps}


@dataclass(frozen=True)
class Job:
    """A video and its results."""

    video: Path
    journal: Path
    overlay: Path


def videos_among(arguments: Sequence[str]) -> list[Path]:
    """The videos that arguments mean; none if they mean photos.

    Raises:
        InputError: photos and videos at once, or a video that is missing.
    """
    found: list[Path] = []
    for argument in arguments:
        if not is_video(argument):
            continue
        magic = glob.has_magic(argument) and not os.path.exists(argument)
        matches = sorted(glob.glob(argument, recursive=True)) if magic else [argument]
        for name in matches:
            if not os.path.isfile(name):
                raise InputError(f"{name} does not exist or is not a file")
            found.append(Path(name))
    if found and not all(is_video(a) for a in arguments):
        photo = next(a for a in arguments if not is_video(a))
        raise InputError(f"{photo} is no video, and {found[0]} is one: run once for each kind")
    return found


def segment_videos(
    videos: Sequence[Path],
    vocabulary: Vocabulary,
    folder: Path,
    options: VideoOptions,
    load: Load,
    *,
    as_json: bool = False,
    quiet: bool = False,
) -> int:
    """Label videos; returns the exit code.

    Args:
        videos: the files.
        vocabulary: the words.
        folder: for the results.
        options: see ``VideoOptions``.
        load: loads the model, after everything else was checked.
        as_json: one JSON object per video on standard output.
        quiet: nothing but failures.

    Raises:
        InputError: the only video cannot be read, or results exist.
    """
    from scanseg.formats.video import find_encoder, probe

    find_encoder()
    jobs = _plan(videos, folder, options)
    alone = len(jobs) == 1
    report = Report(as_json=as_json, quiet=quiet, total=len(jobs), unit="videos")
    infos: dict[Path, VideoInfo] = {}
    for job in jobs:
        try:
            infos[job.video] = probe(job.video)
        except InputError as error:
            if alone:
                raise
            report.video_failed(job.video, str(error))
    if not infos:
        report.finish(folder)
        return EXIT_SOME_FAILED
    segmenter, settings = load()
    for job in (job for job in jobs if job.video in infos):
        run = _Run(job, infos[job.video], vocabulary, settings, options, report)
        try:
            frames = run.label(segmenter)
            run.draw()
        except InputError as error:
            if alone and not isinstance(error, DamagedVideo):
                raise
            report.video_failed(job.video, str(error))
        else:
            report.video_done(job.video, frames, job.journal, job.overlay)
        if run.broken:
            report.video_failed(job.video, f"{run.broken}; the frames before it are done")
    report.finish(folder)
    return EXIT_SOME_FAILED if report.failures else EXIT_OK


def _plan(videos: Sequence[Path], folder: Path, options: VideoOptions) -> list[Job]:
    """Where results go: named by the video, with its ending where two would share a name."""
    stems = [video.stem.casefold() for video in videos]
    jobs, seen = [], set()
    for video in videos:
        name = video.stem if stems.count(video.stem.casefold()) == 1 else video.name
        if name.casefold() in seen:
            raise InputError(f"two videos would share the results {name}.jsonl: rename one")
        seen.add(name.casefold())
        job = Job(video, folder / f"{name}.jsonl", folder / f"{name}_overlay.mp4")
        for result in (job.journal, job.overlay):
            if result.exists() and result.resolve() == video.resolve():
                raise InputError(f"the result {result} would replace the video: choose another "
                                 "--output folder")  # fmt: skip
            if result.exists() and not (options.overwrite or options.skip_existing):
                raise InputError(
                    f"{result} exists: use --skip-existing to go on with it, --overwrite or "
                    "another --output"
                )
        jobs.append(job)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder} cannot be written: {error.strerror or error}") from error
    return jobs


class _Run:
    """One video."""

    def __init__(
        self,
        job: Job,
        info: VideoInfo,
        vocabulary: Vocabulary,
        settings: InferenceSettings,
        options: VideoOptions,
        report: Report,
    ) -> None:
        self.job, self.info, self.vocabulary, self.settings = job, info, vocabulary, settings
        self.options, self.report = options, report
        self.broken = ""  # why the video ended early

    def label(self, segmenter: Segmenter) -> int:
        """Write the journal to its end, going on where it stopped; returns how many frames."""
        from scanseg.formats.video import read_frames

        about = self._about(segmenter)
        done, last, end = 0, -1, 0
        if self.job.journal.exists() and not self.options.overwrite:
            done, last, end = _resume(self.job.journal, about)
        else:
            self.job.overlay.unlink(missing_ok=True)
        with _writing(self.job.journal), self.job.journal.open("r+b" if end else "wb") as file:
            file.truncate(end)
            file.seek(end)
            if not end:
                _append(file, about)
            with self.report.progress(self._expected() - done, unit="frames") as advance:
                frames = read_frames(self.job.video, **self.options.selection(), start=last + 1)
                try:
                    for frame in frames:
                        self.job.overlay.unlink(missing_ok=True)  # it has fewer frames
                        found = segmenter(frame.pixels, self.vocabulary, settings=self.settings)
                        _append(file, _line(found, frame.index, frame.time))
                        done += 1
                        advance()
                except DamagedVideo as error:
                    self.broken = str(error)
            file.flush()
            os.fsync(file.fileno())
        return done

    def draw(self) -> None:
        """Draw the overlay video from the journal, if it is not there."""
        from scanseg.formats.video import OverlayVideo, read_frames
        from scanseg.storage import atomic_write

        if self.job.overlay.exists():
            return
        names = self.vocabulary.names
        count = self._expected()
        with (
            _writing(self.job.overlay),
            self.report.progress(count, unit="overlay frames") as advance,
            atomic_write(self.job.overlay) as file,
            OverlayVideo(file, names, font=self.options.font) as video,
        ):
            frames = read_frames(self.job.video, **self.options.selection())
            for entry in _entries(self.job.journal):
                frame = next(frames, None)
                if frame is None or frame.index != entry["frame"]:
                    raise InputError(f"{self.job.video} changed since {self.job.journal} was made")
                labels = _labels(entry, frame.pixels.shape[:2])
                confidence = np.zeros(labels.shape, np.float32)  # the picture does not show it
                shown = Segmentation(labels, names, confidence, image=frame.pixels)
                video.add(shown, frame.time)
                advance()

    def _expected(self) -> int:
        frames, rate = self.info.frames, float(self.info.rate)
        if self.options.fps is not None:
            return min(frames, int(frames / rate * self.options.fps) + 1)
        return -(-frames // (self.options.every or 1))

    def _about(self, segmenter: Segmenter) -> dict[str, Any]:
        import torch

        from scanseg import __version__
        from scanseg.weights import fingerprints

        return {
            "video": self.job.video.name,
            "bytes": self.job.video.stat().st_size,
            "width": self.info.width,
            "height": self.info.height,
            **self.options.selection(),
            "labels": list(self.vocabulary.names),
            **self.vocabulary.besides_names(),
            "preset": segmenter.recipe.name,
            **fingerprints(segmenter),
            "precision": segmenter.precision,
            "device": segmenter.device.type,
            "settings": self.settings.to_dict(),
            "scanseg": __version__,
            "torch": torch.__version__,
        }


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    """A full disk and the like as one line."""
    try:
        yield
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror or error}") from error


# ------------------------------------------------------------------ the journal


def _line(found: Segmentation, index: int, time: float) -> dict[str, Any]:
    from scanseg.formats.records import to_record

    record = to_record(found)
    return {
        "frame": index,
        "time": round(time, 6),
        "unknown_share": record["unknown_share"],
        "segments": record["segments"],
    }


def _append(file: Any, value: Mapping[str, Any]) -> None:
    file.write(json.dumps(value, separators=(",", ":")).encode() + b"\n")
    file.flush()


def _resume(journal: Path, about: Mapping[str, Any]) -> tuple[int, int, int]:
    """(frames done, index of the last, where to go on writing) of a journal of the same run.

    A last line that was cut off is written again.

    Raises:
        InputError: it is of another video, other words or other settings.
    """
    done, last, end = 0, -1, 0
    for number, (value, after) in enumerate(_whole_lines(journal)):
        if number == 0:
            differs = [k for k, v in json.loads(json.dumps(about)).items() if value.get(k) != v]
            if differs:
                raise InputError(
                    f"{journal} was made with different {differs[0]}: use --overwrite, or another "
                    "--output"
                )
        else:
            done, last = done + 1, int(value["frame"])
        end = after
    return done, last, end


def _entries(journal: Path) -> Iterator[dict[str, Any]]:
    """The lines about frames."""
    lines = _whole_lines(journal)
    next(lines, None)
    return (value for value, _ in lines)


def _whole_lines(journal: Path) -> Iterator[tuple[dict[str, Any], int]]:
    """Each line with the place in the file after it; a line without an end is left out."""
    after = 0
    with journal.open("rb") as file:
        for line in file:
            if not line.endswith(b"\n"):
                return
            after += len(line)
            try:
                value = json.loads(line)
                valid = isinstance(value, dict)
            except ValueError:
                valid = False
            if not valid:
                raise InputError(f"{journal} is not a journal of scanseg: use --overwrite")
            yield value, after


def _labels(entry: Mapping[str, Any], size: tuple[int, ...]) -> np.ndarray:
    """The (H, W) map of a frame from its line."""
    from scanseg.formats.records import rle_runs

    height, width = size
    by_columns = np.full(height * width, UNKNOWN, dtype=np.int32)
    for segment in entry["segments"]:
        for start, end in rle_runs(segment["segmentation"]):
            by_columns[start:end] = segment["label"]
    return np.ascontiguousarray(by_columns.reshape(width, height).T)
