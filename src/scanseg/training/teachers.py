"""Small public segmentation models that pseudo-label photos while the embedded head is trained.

They run in training only, never in the product. A teacher always answers, also outside its world,
so what is stored is a *soft vote*: its probabilities before the arg max, averaged over several
views of the photo (whole, mirrored, enlarged crops). ``label_layers`` decides what to believe.
Beside it its last features of the whole photo are stored, which tell more than names (``hints``).
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from scanseg.contracts import InputError

VOTE_GRID = 128
"""Votes are stored on a square grid over the whole photo, whatever its shape."""
KEPT = 4
"""Classes that are kept per cell of the grid."""
HINT_GRID = 32
"""Features are averaged onto a grid of about this many cells per side."""


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
        with warnings.catch_warnings():  # it calls the next switch a debugging aid
            warnings.simplefilter("ignore")
            self._net = Interpreter(
                model_path=str(path), num_threads=1, experimental_preserve_all_tensors=True
            )
        self._net.allocate_tensors()
        self._input = self._net.get_input_details()[0]
        self._output = self._net.get_output_details()[0]
        self.size = int(self._input["shape"][1])
        self._logits, self._features = self._last_layers(path)

    def _last_layers(self, path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
        """The tensors of the logits, before they are enlarged, and of what they are made of."""
        tensors = {t["index"]: t for t in self._net.get_tensor_details()}
        for operation in reversed(self._net._get_ops_details()):
            made = [tensors[i] for i in operation["outputs"]]
            used = [tensors[i] for i in operation["inputs"] if i in tensors]
            if not any(_is_map(t) and t["shape"][-1] == self.spec.classes for t in made):
                continue
            features = [t for t in used if _is_map(t) and t["shape"][-1] > self.spec.classes]
            if features:
                return made[0], features[0]
        raise InputError(f"{path} is not one of the teachers: no logits of {self.spec.classes}")

    def __call__(self, photo: Image.Image) -> np.ndarray:
        """(S, S) uint8 class map of the photo stretched to the teacher's square input."""
        self._look(photo)
        answer = np.asarray(self._net.get_tensor(self._output["index"]))
        return answer.reshape(-1, self.size, self.size)[0].astype(np.uint8)

    def probabilities(self, photo: Image.Image) -> Tensor:
        """(classes, rows, columns) of the photo stretched to the teacher's square input; the
        corner cells lie on the corner pixels."""
        self._look(photo)
        return self._read(self._logits).softmax(0)

    def vote(
        self, photo: Image.Image, *, crops: int = 4
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Mean probabilities over views, for the ``KEPT`` most probable classes, and features.

        Args:
            photo: RGB.
            crops: enlarged, overlapping parts to look at besides the whole photo and its mirror
                image: 0, 2 (halves along the long side) or 4 (also along the short side).

        Returns:
            (KEPT, G, G) uint8 classes, the most probable first; (KEPT, G, G) float32 probabilities,
            G = ``VOTE_GRID``; and the features of the whole photo, (h, w, C) float32, h and w near
            ``HINT_GRID``.
        """
        centre = (torch.arange(VOTE_GRID) + 0.5) / VOTE_GRID
        total = torch.zeros(self.spec.classes, VOTE_GRID, VOTE_GRID)
        seen, features = torch.zeros(VOTE_GRID, VOTE_GRID), None
        for x0, y0, x1, y1, mirrored in _views(photo.size, crops):
            width, height = photo.size
            part = photo.crop((x0 * width, y0 * height, x1 * width, y1 * height))
            if mirrored:
                part = part.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
            said = self.probabilities(part)
            if features is None:  # the first view is the whole photo
                found = self._read(self._features)
                shrink = max(1, found.shape[1] // HINT_GRID)
                features = F.avg_pool2d(found, shrink).permute(1, 2, 0).numpy()
            said = said.flip(-1) if mirrored else said
            rows = (centre >= y0) & (centre < y1)
            columns = (centre >= x0) & (centre < x1)
            at_y = ((centre[rows] - y0) / (y1 - y0) * self.size - 0.5) / (self.size - 1) * 2 - 1
            at_x = ((centre[columns] - x0) / (x1 - x0) * self.size - 0.5) / (self.size - 1) * 2 - 1
            at = torch.stack(torch.meshgrid(at_y, at_x, indexing="ij")[::-1], -1)
            read = F.grid_sample(said[None], at[None], padding_mode="border", align_corners=True)[0]
            inside = rows[:, None] & columns[None]
            total[:, inside] += read.flatten(1)
            seen += inside
        best, classes = (total / seen).topk(KEPT, 0)
        assert features is not None
        return classes.numpy().astype(np.uint8), best.numpy(), features

    def _look(self, photo: Image.Image) -> None:
        view = photo.resize((self.size, self.size), Image.Resampling.BILINEAR)
        self._net.set_tensor(self._input["index"], np.asarray(view, np.uint8)[None])
        self._net.invoke()

    def _read(self, tensor: dict[str, Any]) -> Tensor:
        """A quantised map, (channels, rows, columns) float32."""
        scale, zero = tensor["quantization"]
        values = torch.from_numpy(self._net.get_tensor(tensor["index"])[0])
        return ((values.float() - zero) * scale).permute(2, 0, 1)


def _is_map(tensor: dict[str, Any]) -> bool:
    """Whether a tensor is (1, rows, columns, channels) and not one row."""
    shape = tensor["shape"]
    return len(shape) == 4 and shape[0] == 1 and shape[1] > 1


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
