"""Open-vocabulary image segmentation: a photo and any words in, a labelled map out.

>>> import scanseg
>>> seg = scanseg.Segmenter.from_pretrained("embedded")          # doctest: +SKIP
>>> out = seg("photo.jpg", ["cat", "sofa", "window"])            # doctest: +SKIP
>>> out.overlay().save("overlay.png")                            # doctest: +SKIP

The names below load on first use; ``import scanseg`` itself pulls in no deep-learning library.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOME = {
    "InferenceSettings": "scanseg.contracts",
    "InputError": "scanseg.contracts",
    "Segment": "scanseg.contracts",
    "Segmentation": "scanseg.contracts",
    "Segmenter": "scanseg.segmenter",
    "Vocabulary": "scanseg.vocabulary",
    "pipeline": "scanseg.image_pipeline",
}

if TYPE_CHECKING:
    from scanseg.contracts import InferenceSettings, InputError, Segment, Segmentation
    from scanseg.image_pipeline import pipeline
    from scanseg.segmenter import Segmenter
    from scanseg.vocabulary import Vocabulary

__all__ = [
    "InferenceSettings",
    "InputError",
    "Segment",
    "Segmentation",
    "Segmenter",
    "Vocabulary",
    "__version__",
    "pipeline",
]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module 'scanseg' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
