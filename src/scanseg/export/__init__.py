"""A model as ONNX files that answer any words without torch (``scanseg export``)."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import numpy as np
import torch

from scanseg import __version__
from scanseg.contracts import InferenceSettings, InputError, MissingExtra
from scanseg.export.files import quiet, write_convolutions, write_graph
from scanseg.export.graph import CellGraph, ContextGraph, MethodGraph, OpinionGraph
from scanseg.export.parity import LONG_LIST, SHORT_LIST, compare, report
from scanseg.export.text import write_text_tower, write_words
from scanseg.formats.photos import Photo, PhotoSource, read_photo
from scanseg.proposals.mask_decoder import MASK_STRIDE, DecodedProposals
from scanseg.proposals.superpixels import SuperpixelProposals
from scanseg.runtime_onnx.folder import (
    CELLS,
    CONTEXT,
    DESCRIPTION,
    FORMAT,
    MODEL,
    OPINION,
    PARITY,
    STEP,
    TAUGHT,
)
from scanseg.segmenter import Segmenter, Words
from scanseg.storage import atomic_write, file_hash, write_json
from scanseg.vocabulary import Vocabulary

Precision = Literal["float32", "int8"]
EXAMPLE_PHOTOS = ("chelsea", "coffee", "astronaut")

NOTICE_TEXT = """\
# Weights of an exported model

Made by scanseg export (Apache-2.0) from the preset {preset!r}. The weights in these files keep the
terms of the model they were exported from: see that model's own notice or card.
"""


@dataclass(frozen=True)
class Exported:
    """What an export is.

    Attributes:
        folder: where it is.
        bytes: of all its files.
        parity: what ``parity.json`` holds.
    """

    folder: Path
    bytes: int
    parity: dict[str, Any]

    def line(self) -> str:
        """The measured differences, for people."""
        p = self.parity
        return (
            f"against torch: masks differ by at most {p['mask_difference']:.1e}, scores by "
            f"{p['score_difference_same_regions']:.1e} where the regions agree "
            f"({p['same_regions']:.1%} of them do; {p['score_difference']:.1e} elsewhere), "
            f"{p['agreement']:.2%} of the pixels get the same label"
        )


def export_onnx(
    segmenter: Segmenter,
    folder: str | Path,
    *,
    settings: InferenceSettings | None = None,
    size: tuple[int, int] | None = None,
    words: Words | None = None,
    precision: Precision = "float32",
    overwrite: bool = False,
    photos: Sequence[PhotoSource] = (),
    tell: Callable[[str], None] = lambda step: None,
) -> Exported:
    """Write a model as ONNX and measure its answers against torch's.

    Args:
        segmenter: the model, on the CPU.
        folder: is made; it appears complete or not at all.
        settings: to build into the graph; ``None``: the model's own.
        size: (h, w) of the photo in the graph; ``None``: any size where the preset allows it,
            otherwise a 4:3 photo at the preset's short side.
        words: store the embeddings of these words in place of the text tower.
        precision: ``"int8"`` stores the weights of matrix products in 8 bits.
        overwrite: replace an export that is there.
        photos: to measure on; by default photos that scikit-image brings.
        tell: called with the name of each step.

    Raises:
        InputError: the folder is in use, or something in the model or settings cannot be exported.
        MissingExtra: onnx, onnxscript or onnxruntime is not installed.
    """
    folder = check_output(folder, overwrite=overwrite)
    chosen = settings or segmenter.recipe.settings
    graph = MethodGraph(segmenter, chosen).eval()
    vocabulary = None if words is None else Vocabulary.of(words)
    size = size or _usual_size(segmenter)
    pictures = [read_photo(photo) for photo in photos] or _examples()  # before the long work
    folder.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as temporary:
        made = Path(temporary) / "export"
        made.mkdir()
        tell("tracing the model")
        merging = None
        if isinstance(segmenter.proposals, SuperpixelProposals | DecodedProposals):
            merging = _write_parts(segmenter, chosen, made, size)
        else:
            _write_method(graph, made / MODEL, size)
        if precision == "int8":
            tell("quantising")
            for path in sorted(made.glob("*.onnx")):
                _quantise(path)
        tell("words")
        if vocabulary is not None:
            text = write_words(segmenter, vocabulary, made)
        else:
            text = write_text_tower(segmenter, made)
        if segmenter.taught is not None:
            with atomic_write(made / TAUGHT) as file:
                np.save(file, segmenter.taught.cpu().numpy())
        with atomic_write(made / "NOTICE.md") as file:
            file.write(NOTICE_TEXT.format(preset=segmenter.recipe.name).encode())
        _describe(segmenter, chosen, made, size, text, precision, merging)
        tell("comparing with torch")
        found = _measure(segmenter, chosen, made, vocabulary, pictures)
        write_json(made / PARITY, found)
        if folder.exists():
            shutil.rmtree(folder)
        made.rename(folder)
    total = sum(f.stat().st_size for f in folder.iterdir())
    return Exported(folder, total, found)


def _usual_size(segmenter: Segmenter) -> tuple[int, int] | None:
    """Fixed where the proposals need it: Swin's windows are cut for one size."""
    from scanseg.proposals.mask2former import Mask2FormerProposals

    if not isinstance(segmenter.proposals, Mask2FormerProposals):
        return None
    return segmenter.recipe.resize.size(3, 4)


def _write_method(graph: MethodGraph, path: Path, size: tuple[int, int] | None) -> None:
    words, labels = _words_example(graph.segmenter)
    write_graph(
        graph,
        {"pixels": _pixels_example(graph.segmenter, size), **words},
        path,
        dynamic={"pixels": None if size else ANY_SIZE, **labels},
        outputs=["scores", "masks"],
    )


def _write_parts(
    segmenter: Segmenter, settings: InferenceSettings, folder: Path, size: tuple[int, int] | None
) -> dict[str, Any]:
    """Graphs with superpixels between them; returns how the runner is to merge these."""
    proposals: Any = segmenter.proposals
    outputs, described = ["dense", "last", "coarse"], {}
    if isinstance(proposals, DecodedProposals):
        outputs += ["mask_logits", "objectness"]
        described = {
            "mask_stride": MASK_STRIDE,
            "objectness": proposals.superpixel_objectness,
            "mask_threshold": settings.mask_threshold,
        }
        proposals = proposals.superpixels
    encoder: Any = segmenter.region_clip
    if proposals.head is None or getattr(encoder, "region_view", "") != "pool":
        raise InputError("superpixels can be exported with the embedded preset's parts only")
    if size is not None:
        raise InputError("this model takes photos of any size: leave --size out")
    write_convolutions(
        ContextGraph(segmenter, settings).eval(),
        _pixels_example(segmenter, None),
        folder / CONTEXT,
        outputs=outputs,
    )
    words, labels = _words_example(segmenter)
    count = torch.export.Dim("regions")
    rows = torch.zeros(6, encoder.joint_width), torch.zeros(6, encoder.vision_width)
    write_graph(
        OpinionGraph(segmenter, settings).eval(),
        {
            "embeddings": rows[0],
            "pooled": rows[1],
            "valid": torch.ones(6, dtype=torch.bool),
            **words,
        },
        folder / OPINION,
        dynamic={
            "embeddings": {0: count},
            "pooled": {0: count},
            "valid": {0: count},
            **labels,
        },
        outputs=["scores"],
    )
    if settings.dense_weight > 0:
        described["dense_weight"] = settings.dense_weight
        dims = {
            name: {1: torch.export.Dim(f"{name}_rows"), 2: torch.export.Dim(f"{name}_columns")}
            for name in ("dense", "coarse")
        }
        write_graph(
            CellGraph(segmenter, settings).eval(),
            {
                "dense": torch.randn(encoder.joint_width, 8, 12),
                "coarse": torch.randn(encoder.joint_width, 2, 3),
                **words,
            },
            folder / CELLS,
            dynamic={**dims, **labels},
            outputs=["cells"],
        )
    return {**asdict(proposals.merging), "stride": 8, "last_stride": 32, **described}


ANY_SIZE = {2: STEP * torch.export.Dim("rows"), 3: STEP * torch.export.Dim("columns")}


def _pixels_example(segmenter: Segmenter, size: tuple[int, int] | None) -> torch.Tensor:
    h, w = size or [side + -side % STEP for side in segmenter.recipe.resize.size(3, 4)]
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (1, 3, h, w), generator=generator).float()


def _words_example(segmenter: Segmenter) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Word inputs, and which of their axes are free."""
    terms, labels = torch.export.Dim("terms"), torch.export.Dim("labels")
    rows = torch.randn(
        5, segmenter.region_clip.joint_width, generator=torch.Generator().manual_seed(0)
    )
    words = {
        "text": torch.nn.functional.normalize(rows, dim=-1),
        "owner": torch.tensor([0, 0, 1, 2, 3]),
        "weight": torch.full((4,), 0.5),
    }
    return words, {"text": {0: terms}, "owner": {0: terms}, "weight": {0: labels}}


def _quantise(path: Path) -> None:
    """Weights of matrix products in 8 bits, activations quantised as they come."""
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    if path.with_name(path.name + ".data").exists():
        raise InputError("int8 is for models below 1.5 GB: export this one as float32")
    model = onnx.load(path)
    del model.graph.value_info[:]  # shapes noted for weights that are about to be turned round
    with quiet():
        quantize_dynamic(
            model,
            path,
            weight_type=QuantType.QInt8,
            per_channel=True,
            op_types_to_quantize=["MatMul", "Gemm"],
        )


def _describe(
    segmenter: Segmenter,
    settings: InferenceSettings,
    folder: Path,
    size: tuple[int, int] | None,
    text: dict[str, Any],
    precision: Precision,
    merging: dict[str, Any] | None,
) -> None:
    import onnx
    import onnxruntime

    recipe = asdict(segmenter.recipe)
    recipe["settings"] = settings.to_dict()
    write_json(
        folder / DESCRIPTION,
        {
            "format": FORMAT,
            "preset": segmenter.recipe.name,
            "precision": precision,
            "size": size and list(size),
            "fill": [255 * m for m in segmenter.region_clip.pixel_mean],
            "text": text,
            "merging": merging,
            "recipe": recipe,
            "made_with": {
                "scanseg": __version__,
                "torch": torch.__version__,
                "onnx": onnx.__version__,
                "onnxruntime": onnxruntime.__version__,
            },
            "files": {f.name: file_hash(f) for f in sorted(folder.iterdir())},
        },
    )


def _measure(
    segmenter: Segmenter,
    settings: InferenceSettings,
    folder: Path,
    vocabulary: Vocabulary | None,
    pictures: Sequence[Photo],
) -> dict[str, Any]:
    from scanseg.runtime_onnx import OnnxSegmenter

    lists: list[Words] = [SHORT_LIST, LONG_LIST]
    if vocabulary is not None:
        half = list(vocabulary.names)[: max(1, len(vocabulary) // 2)]
        lists = [vocabulary, half]
    runner = OnnxSegmenter(folder)
    return report(
        [compare(segmenter, runner, settings, p, words) for p in pictures for words in lists]
    )


def _examples() -> list[Photo]:
    from skimage import data

    return [
        Photo(pixels=getattr(data, name)(), name=f"scikit-image {name}") for name in EXAMPLE_PHOTOS
    ]


def check_output(folder: str | Path, *, overwrite: bool = False) -> Path:
    """Whether an export could be written there, before any model is loaded.

    Raises:
        InputError: something else is there, or an export that may not be replaced.
        MissingExtra: onnx, onnxscript or onnxruntime is not installed.
    """
    from importlib.util import find_spec

    if any(find_spec(name) is None for name in ("onnx", "onnxruntime", "onnxscript")):
        raise MissingExtra("export", "scanseg export")
    folder = Path(folder)
    empty = folder.is_dir() and not any(folder.iterdir())
    if folder.exists() and not empty:
        if not (folder / DESCRIPTION).is_file():
            raise InputError(f"{folder} is not an export: choose another --output folder")
        if not overwrite:
            raise InputError(f"{folder} exists: use --overwrite or another --output")
    return folder
