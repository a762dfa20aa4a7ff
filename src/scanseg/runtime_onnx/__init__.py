"""An exported model on ONNX Runtime; nothing here imports torch.

>>> from scanseg.runtime_onnx import OnnxSegmenter
>>> seg = OnnxSegmenter("exported")                            # doctest: +SKIP
>>> out = seg("photo.jpg", ["cat", "sofa"])                    # doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from scanseg import __version__
from scanseg.contracts import UNKNOWN, InferenceSettings, Segmentation
from scanseg.formats.photos import Photo, PhotoSource, read_photo
from scanseg.runtime_onnx.folder import (
    CELLS,
    CONTEXT,
    MODEL,
    OPINION,
    STEP,
    TAUGHT,
    ExportFolder,
)
from scanseg.runtime_onnx.maps import Canvas, DenseEvidence, label_map, place, scaled_to_fit
from scanseg.runtime_onnx.session import Graph
from scanseg.runtime_onnx.superpixels import MergedRegions
from scanseg.runtime_onnx.words import OnnxTextTower, StoredWords
from scanseg.storage import cache_folder
from scanseg.vocabulary import Vocabulary
from scanseg.vocabulary.embeddings import EncodedVocabulary, TextCache, embed_vocabulary

Words = Sequence[str] | Mapping[str, Sequence[str]] | Vocabulary


class OnnxSegmenter:
    """A photo and any words in, a labelled map out, like ``Segmenter`` but without torch.

    Args:
        folder: what ``scanseg export`` wrote.
        threads: of one operator; ``None``: as many as there are cores.
        verify: compare the SHA-256 of the folder's files first.

    Raises:
        InputError: the folder is not an export, or is damaged.
        MissingExtra: onnxruntime is not installed.
    """

    def __init__(
        self, folder: str | Path, *, threads: int | None = None, verify: bool = False
    ) -> None:
        self.export = ExportFolder.read(folder, verify=verify)
        self.recipe = self.export.recipe
        merging = self.export.merging
        self._regions = None if merging is None else MergedRegions(merging)
        names = (MODEL,) if merging is None else (CONTEXT, OPINION)
        self._graphs = [Graph(self.export.path / name, threads=threads) for name in names]
        self._cells = None
        if self._regions is not None and self._regions.dense_weight > 0:
            self._cells = Graph(self.export.path / CELLS, threads=threads)

    def __call__(
        self,
        photos: PhotoSource | Photo | Sequence[PhotoSource | Photo],
        words: Words,
        *,
        settings: InferenceSettings | None = None,
        scores: bool = False,
        unknown_below: float | None = None,
    ) -> Any:
        """Label photos with words; as ``Segmenter.__call__``.

        Raises:
            InputError: as there, or the settings differ from those in the graph.
        """
        chosen = settings or self.recipe.settings
        if unknown_below is not None:
            chosen = chosen.replace(unknown_below=unknown_below)
        self.export.check_settings(chosen)
        vocabulary = Vocabulary.of(words)
        encoded = self.encode(vocabulary)
        many = isinstance(photos, (list, tuple))
        sources: Sequence[Any] = photos if many else [photos]  # type: ignore[assignment]
        results = [self._segment(s, vocabulary, encoded, chosen, scores) for s in sources]
        return results if many else results[0]

    def encode(self, words: Words) -> EncodedVocabulary:
        """Words -> unit-norm embeddings and the label that each speaks for."""
        vocabulary = Vocabulary.of(words)
        encoder: Any = self._words
        cache: Any = encoder
        if isinstance(encoder, OnnxTextTower):
            cache = TextCache(cache_folder() / "text", encoder.fingerprint, encoder.joint_width)
        return embed_vocabulary(vocabulary, self.recipe, encoder, cache)

    def run(
        self, canvas: Canvas, encoded: EncodedVocabulary, settings: InferenceSettings
    ) -> tuple[np.ndarray, np.ndarray, DenseEvidence | None]:
        """The graph itself: scores (Q, K') and masks (Q, h, w) in the frame of the canvas, and what
        the cells of a dense map add, if there is one.

        Superpixels know no canvas: their masks have the size of the resized photo.
        """
        words = {
            "text": encoded.rows,
            "owner": np.array(encoded.owner, np.int64),
            "weight": self.ensemble_weights(encoded, settings),
        }
        if self._regions is None:
            found, masks = self._graphs[0](pixels=canvas.pixels, **words)
            return found, masks, None
        dense, last, coarse, *decoded = self._graphs[0](pixels=canvas.pixels)
        regions = self._regions(canvas.photo, dense, last, *decoded)
        valid = np.asarray(regions.picked.reshape(len(regions.picked), -1).any(1))
        (found,) = self._graphs[1](
            embeddings=regions.embeddings, pooled=regions.pooled, valid=valid, **words
        )
        cells = None
        if self._cells is not None:
            (of_cells,) = self._cells(dense=dense, coarse=coarse, **words)
            cells = DenseEvidence(of_cells, self._regions.stride)
        return found * regions.objectness[:, None], regions.masks, cells

    def ensemble_weights(
        self, encoded: EncodedVocabulary, settings: InferenceSettings
    ) -> np.ndarray:
        """(K',) float32: the exponent w of each label, as ``Segmenter.ensemble_weights``."""
        weights = np.full(encoded.labels, settings.ensemble_weight, np.float32)
        unseen = settings.unseen_weight
        if unseen is None or self._taught is None:
            return weights
        nearness = np.full(encoded.labels, -np.inf, np.float32)
        np.maximum.at(nearness, np.array(encoded.owner), (encoded.rows @ self._taught.T).max(1))
        weights[nearness < self.recipe.taught_similarity] = unseen
        return weights

    def canvas(self, photo: np.ndarray) -> Canvas:
        """(H, W, 3) uint8 -> what the graph takes."""
        export = self.export
        if export.size is not None:
            return place(scaled_to_fit(photo, export.size), export.size, export.fill)
        resized = self.recipe.resize(photo)
        h, w = resized.shape[0], resized.shape[1]
        return place(resized, (h + -h % STEP, w + -w % STEP), export.fill)

    def _segment(
        self,
        source: PhotoSource | Photo,
        vocabulary: Vocabulary,
        encoded: EncodedVocabulary,
        settings: InferenceSettings,
        keep_scores: bool,
    ) -> Segmentation:
        photo = source if isinstance(source, Photo) else read_photo(source)
        canvas = self.canvas(photo.pixels)
        found, masks, cells = self.run(canvas, encoded, settings)
        H, W = photo.pixels.shape[:2]
        labels, confidence, evidence = label_map(
            found, masks[:, *canvas.part], (H, W), dense=cells, keep_scores=keep_scores
        )
        K = len(vocabulary)
        nothing = confidence <= 0  # no proposal reaches these pixels
        unknown = (labels >= K) | nothing | (confidence < settings.unknown_below)
        return Segmentation(
            labels=np.where(unknown, UNKNOWN, labels).astype(np.int32),
            names=vocabulary.names,
            confidence=confidence,
            scores=None if evidence is None else evidence[:K],
            image=photo.pixels,
            settings={
                "preset": self.recipe.name,
                "inference": settings.to_dict(),
                "vocabulary": vocabulary.besides_names(),
                "scanseg": __version__,
                "runtime": f"onnxruntime {_runtime_version()}",
            },
            notes=photo.notes,
        )

    @cached_property
    def _words(self) -> OnnxTextTower | StoredWords:
        text = dict(self.export.text)
        if text["kind"] == "words":
            return StoredWords(self.export.path)
        return OnnxTextTower(self.export.path, **text)

    @cached_property
    def _taught(self) -> np.ndarray | None:
        path = self.export.path / TAUGHT
        return np.load(path, allow_pickle=False) if path.is_file() else None


def _runtime_version() -> str:
    import onnxruntime

    return str(onnxruntime.__version__)
