"""Small public segmentation models that pseudo-label photos while the embedded head is trained.

They run in training only, never in the product. A teacher always answers, also outside its world,
so what is stored is a *soft vote*: the most frequent classes over several views of the photo
(whole, mirrored, enlarged crops) and the share of the views that say each. ``label_layers`` decides
what to believe.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from scanseg.contracts import InputError

VOTE_GRID = 128
"""Votes are stored on a square grid over the whole photo, whatever its shape."""
KEPT = 3
"""Classes that are kept per cell of the grid."""


@dataclass(frozen=True)
class TeacherSpec:
    """One teacher: its file, the vocabulary it speaks, and the class ids that mean "unknown"."""

    file: str
    classes: int
    unknown: tuple[int, ...] = ()


TEACHERS = {
    "ade31": TeacherSpec("ade31_deeplabv3_mnv2_uint8.tflite", 32, unknown=(0,)),
    "voc21": TeacherSpec("voc21_deeplabv3_mnv2_uint8.tflite", 21, unknown=(0,)),
    "city19": TeacherSpec("cityscapes19_deeplab_edgetpu_uint8.tflite", 19),
}


class Teacher:
    """A teacher's tflite file, run on one thread.

    Args:
        folder: where the files of ``TEACHERS`` lie.
        name: a key of ``TEACHERS``.

    Raises:
        InputError: the file is missing, or ai-edge-litert is not installed.
    """

    def __init__(self, folder: Path, name: str) -> None:
        try:
            from ai_edge_litert.interpreter import Interpreter
        except ImportError as error:
            raise InputError(
                "training needs the teachers' runtime: pip install ai-edge-litert"
            ) from error
        self.spec = TEACHERS[name]
        path = folder / self.spec.file
        if not path.is_file():
            raise InputError(f"no teacher {path}: pass the folder that holds {self.spec.file}")
        self._net = Interpreter(model_path=str(path), num_threads=1)
        self._net.allocate_tensors()
        self._input = self._net.get_input_details()[0]
        self._output = self._net.get_output_details()[0]
        self.size = int(self._input["shape"][1])

    def __call__(self, photo: Image.Image) -> np.ndarray:
        """(S, S) uint8 class map of the photo stretched to the teacher's square input."""
        view = photo.resize((self.size, self.size), Image.Resampling.BILINEAR)
        self._net.set_tensor(self._input["index"], np.asarray(view, np.uint8)[None])
        self._net.invoke()
        answer = np.asarray(self._net.get_tensor(self._output["index"]))
        return answer.reshape(-1, self.size, self.size)[0].astype(np.uint8)

    def vote(self, photo: Image.Image, *, crops: int = 4) -> tuple[np.ndarray, np.ndarray]:
        """The share of the views that say a class, for the ``KEPT`` most frequent classes.

        Args:
            photo: RGB.
            crops: enlarged, overlapping parts to look at besides the whole photo and its mirror
                image: 0, 2 (halves along the long side) or 4 (also along the short side).

        Returns:
            (KEPT, G, G) uint8 classes, the most frequent first, and (KEPT, G, G) float32 shares in
            [0, 1]; G = ``VOTE_GRID``. Classes of share 0 mean nothing.
        """
        centre = (np.arange(VOTE_GRID) + 0.5) / VOTE_GRID
        votes = np.zeros((self.spec.classes, VOTE_GRID, VOTE_GRID), np.float32)
        for x0, y0, x1, y1, mirrored in _views(photo.size, crops):
            width, height = photo.size
            part = photo.crop((x0 * width, y0 * height, x1 * width, y1 * height))
            if mirrored:
                part = part.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
            answer = self(part)[:, ::-1] if mirrored else self(part)
            rows = np.flatnonzero((centre >= y0) & (centre < y1))
            columns = np.flatnonzero((centre >= x0) & (centre < x1))
            at_y = ((centre[rows] - y0) / (y1 - y0) * self.size).astype(int)
            at_x = ((centre[columns] - x0) / (x1 - x0) * self.size).astype(int)
            seen = answer[np.ix_(at_y, at_x)]
            votes[seen, rows[:, None], columns[None]] += 1
        best = np.argsort(-votes, axis=0, kind="stable")[:KEPT]
        return best.astype(np.uint8), np.take_along_axis(votes, best, 0) / votes.sum(0)


def _views(size: tuple[int, int], crops: int) -> list[tuple[float, float, float, float, bool]]:
    """(x0, y0, x1, y1, mirrored) in units of the photo."""
    views = [(0.0, 0.0, 1.0, 1.0, False), (0.0, 0.0, 1.0, 1.0, True)]
    wide = size[0] >= size[1]
    for axis in (wide, not wide)[: crops // 2]:
        for start, mirrored in ((0.0, False), (0.35, True)):
            end = start + 0.65
            views.append(
                (start, 0.0, end, 1.0, mirrored) if axis else (0.0, start, 1.0, end, mirrored)
            )
    return views
