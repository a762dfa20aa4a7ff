"""The folder that ``scanseg export`` writes, as the runner reads it.

=================  ==========================================================================
file               what it is
=================  ==========================================================================
export.json        preset, sizes, words, settings, versions, SHA-256 of every other file
model.onnx         photo and word embeddings in, scores and masks out (``docs/export.md``)
model.onnx.data    its weights, where they are large
context.onnx       where proposals are superpixels, in place of model.onnx: what is before them
opinion.onnx       and what comes after
cells.onnx         labels the cells of a dense map, for models that have one
text.onnx          the text tower, with ``tokenizer.json``; or instead of both
words.npz          embeddings of the words that the export was made for
taught.npy         words that the proposals learned from, for models that know them
parity.json        how far its answers are from torch's
NOTICE.md          terms of the weights
=================  ==========================================================================
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scanseg.contracts import InferenceSettings, InputError
from scanseg.recipe import Recipe, Resize
from scanseg.storage import file_hash

FORMAT = "scanseg-onnx/2"
DESCRIPTION, MODEL, TEXT, TOKENIZER = "export.json", "model.onnx", "text.onnx", "tokenizer.json"
CONTEXT, OPINION, CELLS = "context.onnx", "opinion.onnx", "cells.onnx"
WORDS, TAUGHT, PARITY = "words.npz", "taught.npy", "parity.json"

STEP = 32
"""A graph for any size takes multiples of this many pixels."""

AT_RUN_TIME = ("ensemble_weight", "unseen_weight", "unknown_below", "region_batch")
"""Settings that are not part of the graph."""


@dataclass(frozen=True)
class ExportFolder:
    """An export on disk.

    Attributes:
        path: the folder.
        recipe: of the preset it was made from; its settings are those in the graph.
        size: (h, w) of the graph's photo; ``None``: any size, the recipe's.
        fill: (R, G, B) of the canvas beside the photo: the encoder's mean colour.
        text: how words become embeddings: ``{"kind": "clip" | "sentence" | "words", ...}``.
        merging: how superpixels are merged, for exports in two parts.
        described: all of export.json.
    """

    path: Path
    recipe: Recipe
    size: tuple[int, int] | None
    fill: tuple[float, float, float]
    text: Mapping[str, Any]
    merging: Mapping[str, Any] | None
    described: Mapping[str, Any]

    @classmethod
    def read(cls, folder: str | Path, *, verify: bool = False) -> ExportFolder:
        """Open a folder.

        Args:
            folder: as ``scanseg export`` wrote it.
            verify: compare the SHA-256 of its files (seconds per gigabyte).

        Raises:
            InputError: it is not such a folder, or a file is missing or damaged.
        """
        path = Path(folder)
        if not (path / DESCRIPTION).is_file():
            raise InputError(
                f"{path} has no {DESCRIPTION}: make it with scanseg export MODEL --output {path}"
            )
        try:
            found = json.loads((path / DESCRIPTION).read_text(encoding="utf-8"))
            if found["format"] != FORMAT:
                raise InputError(
                    f"{path} was exported by another version (format {found['format']!r}, not "
                    f"{FORMAT!r}): export again"
                )
            recipe = dict(found["recipe"])
            recipe["resize"] = Resize(**recipe["resize"])
            recipe["settings"] = InferenceSettings(**recipe["settings"])
            for name in ("templates", "shift_layers", "token_layers", "decoys"):
                recipe[name] = tuple(recipe[name])
            export = cls(
                path=path,
                recipe=Recipe(**recipe),
                size=tuple(found["size"]) if found["size"] else None,
                fill=tuple(found["fill"]),
                text=found["text"],
                merging=found["merging"],
                described=found,
            )
            files: Mapping[str, str] = found["files"]
        except (ValueError, KeyError, TypeError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(f"{path / DESCRIPTION} is damaged ({error}): export again") from error
        for name, digest in files.items():
            if not (path / name).is_file():
                raise InputError(f"{path} lacks {name}: copy the whole folder, or export again")
            if verify and file_hash(path / name) != digest:
                raise InputError(f"{path / name} is damaged: copy it again, or export again")
        return export

    def check_settings(self, settings: InferenceSettings) -> None:
        """Refuse settings that differ from those in the graph.

        Raises:
            InputError: names the setting.
        """
        given, inside = settings.to_dict(), self.recipe.settings.to_dict()
        for name, value in inside.items():
            if name not in AT_RUN_TIME and _plain(given[name]) != _plain(value):
                raise InputError(
                    f"{name}={given[name]!r} differs from this export's {value!r}, "
                    "which is part of the graph: export again with that setting"
                )


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
