"""The calling convention of ``transformers``' image-segmentation pipelines, for code written to it.

>>> from scanseg import pipeline
>>> pipe = pipeline("image-segmentation", model="embedded")                   # doctest: +SKIP
>>> pipe("photo.jpg", candidate_labels=["cat", "sofa"])                       # doctest: +SKIP
[{'label': 'sofa', 'score': ..., 'mask': <PIL.Image.Image mode=L ...>}, ...]

Importing this module imports neither ``transformers`` nor torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from scanseg.contracts import InputError, Segment, Segmentation

if TYPE_CHECKING:
    from scanseg.segmenter import Segmenter

TASK = "image-segmentation"
Subtask = Literal["semantic", "instance"]


def pipeline(
    task: str = TASK, model: str | Segmenter = "embedded", *, device: str = "auto"
) -> ImageSegmentationPipeline:
    """A callable that answers like ``transformers.pipeline("image-segmentation")``.

    Args:
        task: only ``"image-segmentation"``.
        model: a preset, a model folder, a hub id or a ``Segmenter``.
        device: ``"auto"``, ``"cpu"``, ``"cuda"`` ...

    Raises:
        InputError: another task, or a model that cannot be loaded.
    """
    if task != TASK:
        raise InputError(f"scanseg's pipeline does {TASK!r}, not {task!r}")
    if isinstance(model, str):
        from scanseg.segmenter import Segmenter

        model = Segmenter.from_pretrained(model, device=device)
    return ImageSegmentationPipeline(model)


class ImageSegmentationPipeline:
    """Photos and words in, lists of ``{"label", "score", "mask"}`` out.

    Args:
        model: the segmenter.
    """

    task = TASK

    def __init__(self, model: Segmenter) -> None:
        self.model = model

    def __call__(
        self,
        images: Any,
        candidate_labels: Sequence[str] | Mapping[str, Sequence[str]],
        *,
        subtask: Subtask = "semantic",
        threshold: float = 0.0,
    ) -> Any:
        """Segment photos.

        Args:
            images: a path, PIL image or array, or a list of these.
            candidate_labels: the words.
            subtask: ``"semantic"``: one entry per word found; ``"instance"``: one per connected
                region.
            threshold: entries of lower score are left out.

        Returns:
            For one photo a list of dictionaries, the largest segment first: ``label``, ``score``
            (mean confidence, where ``transformers`` has ``None`` for semantic maps) and ``mask``
            (a PIL image of mode "L", 255 inside). For a list of photos a list of such lists.

        Raises:
            InputError: a photo cannot be read, a word cannot be used, or no such subtask.
        """
        if subtask not in ("semantic", "instance"):
            raise InputError(f"subtask must be 'semantic' or 'instance', not {subtask!r}")
        found = self.model(images, candidate_labels)
        if isinstance(found, Segmentation):
            return _entries(found, subtask, threshold)
        return [_entries(one, subtask, threshold) for one in found]


def _entries(found: Segmentation, subtask: Subtask, threshold: float) -> list[dict[str, Any]]:
    segments = found if subtask == "semantic" else found.instances()
    return [_entry(segment) for segment in segments if segment.score >= threshold]


def _entry(segment: Segment) -> dict[str, Any]:
    from PIL import Image

    mask = Image.fromarray(segment.mask.astype("uint8") * 255)
    return {"label": segment.name, "score": segment.score, "mask": mask}
