"""Exports answer as torch does, with any words, and say by how much they differ."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from scanseg.contracts import InferenceSettings, InputError
from scanseg.export import check_output, export_onnx
from scanseg.export.graph import MethodGraph
from scanseg.export.parity import LONG_LIST, SHORT_LIST, compare
from scanseg.formats.photos import read_photo
from scanseg.formats.png import indexed_png
from scanseg.presets import embedded, load
from scanseg.proposals.mask_decoder import MaskDecoder
from scanseg.runtime_onnx import OnnxSegmenter
from scanseg.runtime_onnx.folder import ExportFolder
from scanseg.segmenter import Segmenter
from scanseg.storage import file_hash
from scanseg.weights import write_sized

ROOT = Path(__file__).resolve().parents[2]


def test_the_report_says_how_far_it_is_from_torch(exported: Path) -> None:
    report = json.loads((exported / "parity.json").read_text())
    assert report["mask_difference"] < 2e-3
    assert report["score_difference_same_regions"] < 2e-4
    assert report["text_difference"] < 1e-5
    assert report["same_regions"] > 0.7  # random masks of twelve proposals, many on the threshold
    assert report["agreement"] > 0.99
    first, second = report["comparisons"]
    assert first["labels"] != second["labels"]


def test_one_file_answers_lists_of_different_length(
    exported: Path, tiny: Segmenter, photo: np.ndarray
) -> None:
    runner = OnnxSegmenter(exported)
    source = read_photo(photo)
    lists = (SHORT_LIST, LONG_LIST, ["cat", "dog"], {"cat": ["kitten"], "wall": []})
    for words in lists:
        found = compare(tiny, runner, tiny.recipe.settings, source, words)
        assert found.agreement > 0.99
        assert found.score_difference_same_regions < 2e-4


def test_the_same_value_as_torch_gives(exported: Path, photo: np.ndarray) -> None:
    runner = OnnxSegmenter(exported, threads=1, verify=True)
    out = runner(photo, ["cat", "sofa"], scores=True)
    again = runner([photo], ["cat", "sofa"])[0]
    assert out.labels.shape == photo.shape[:2] == out.confidence.shape
    assert out.scores is not None
    assert out.scores.shape == (2, *photo.shape[:2])
    known = out.labels >= 0  # evidence below 1e-38 is none for ONNX Runtime
    assert known.mean() > 0.9
    assert np.array_equal(out.labels[known], out.scores.argmax(0)[known])
    assert not out.scores[:, ~known].any()
    assert np.array_equal(out.labels, again.labels)
    assert out.settings["runtime"].startswith("onnxruntime")
    assert (runner(photo, ["cat", "sofa"], unknown_below=1.0).labels == -1).all()


def test_the_ensemble_weight_is_chosen_at_run_time(
    exported: Path, tiny: Segmenter, photo: np.ndarray
) -> None:
    runner = OnnxSegmenter(exported)
    settings = tiny.recipe.settings.replace(ensemble_weight=0.1)
    found = compare(tiny, runner, settings, read_photo(photo), SHORT_LIST)
    assert found.score_difference_same_regions < 2e-4


def test_settings_in_the_graph_cannot_be_changed(exported: Path, photo: np.ndarray) -> None:
    with pytest.raises(InputError, match=r"mask_threshold=0\.6 differs from this export's 0\.4"):
        OnnxSegmenter(exported)(photo, ["cat"], settings=InferenceSettings(mask_threshold=0.6))


WITHOUT_TORCH = """
import sys

class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "torchvision", "transformers", "open_clip", "timm"):
            raise ImportError(f"{name} is blocked")

sys.meta_path.insert(0, Block())
from scanseg.cli import main
code = main(sys.argv[1:])
assert "torch" not in sys.modules
sys.exit(code)
"""


def test_the_command_needs_no_torch(exported: Path, photo: np.ndarray, tmp_path: Path) -> None:
    from PIL import Image

    Image.fromarray(photo).save(tmp_path / "photo.png")
    arguments = ["segment", "photo.png", "cat", "space suit", "--runtime", "onnx"]
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH, *arguments, "--weights", exported, "--output", "out"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        env={"PYTHONPATH": str(ROOT / "src"), "PATH": "", "SCANSEG_CACHE": str(tmp_path / "c")},
    )
    assert done.returncode == 0, done.stderr
    here = OnnxSegmenter(exported)(tmp_path / "photo.png", ["cat", "space suit"])
    written = (tmp_path / "out" / "photo.png").read_bytes()
    assert written == indexed_png(here)


def test_the_command_says_what_is_missing(
    photo: np.ndarray, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from PIL import Image

    from scanseg.cli import main

    path = tmp_path / "photo.png"
    Image.fromarray(photo).save(path)
    given = ["segment", str(path), "cat", "--runtime", "onnx", "--output", str(tmp_path / "out")]
    assert main(given) == 2
    assert "scanseg export embedded --output FOLDER" in capsys.readouterr().err
    assert main([*given, "--explain"]) == 2
    assert "need --runtime torch" in capsys.readouterr().err
    assert main(["export", "tiny", "--output", "x", "--size", "wide"]) == 2
    assert "--size must be HEIGHTxWIDTH" in capsys.readouterr().err


def test_damaged_folders_are_refused(exported: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"has no export\.json: make it with scanseg export"):
        ExportFolder.read(tmp_path)
    described = json.loads((exported / "export.json").read_text())
    (tmp_path / "export.json").write_text(json.dumps(described))
    with pytest.raises(InputError, match=r"lacks NOTICE\.md: copy the whole folder"):
        ExportFolder.read(tmp_path)
    for name in described["files"]:
        (tmp_path / name).write_bytes(b"other")
    with pytest.raises(InputError, match=r"NOTICE\.md is damaged"):
        ExportFolder.read(tmp_path, verify=True)
    with pytest.raises(InputError, match=r"model\.onnx cannot be opened"):
        OnnxSegmenter(tmp_path)
    (tmp_path / "export.json").write_text(json.dumps({**described, "format": "scanseg-onnx/9"}))
    with pytest.raises(InputError, match=r"format 'scanseg-onnx/9'.*export again"):
        ExportFolder.read(tmp_path)
    (tmp_path / "export.json").write_text("{}")
    with pytest.raises(InputError, match="is damaged"):
        ExportFolder.read(tmp_path)


def test_files_are_described_by_their_hash(exported: Path) -> None:
    files = json.loads((exported / "export.json").read_text())["files"]
    assert {"model.onnx", "text.onnx", "tokenizer.json", "NOTICE.md"} == set(files)
    assert all(file_hash(exported / name) == digest for name, digest in files.items())


def test_what_is_there_is_not_replaced(exported: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="exists: use --overwrite"):
        check_output(exported)
    check_output(exported, overwrite=True)
    (tmp_path / "holiday.jpg").write_bytes(b"")
    with pytest.raises(InputError, match="is not an export"):
        check_output(tmp_path, overwrite=True)


@pytest.mark.slow
def test_embedded_in_two_parts(tmp_path: Path, photo: np.ndarray) -> None:
    segmenter = load("embedded", device="cpu")
    words = {"cat": ["kitten"], "wall": [], "blue sofa": []}
    portrait = np.ascontiguousarray(photo.transpose(1, 0, 2)[:, ::-1])  # no size of the tracing
    square = photo[:, : photo.shape[0]]
    done = export_onnx(
        segmenter, tmp_path / "embedded", words=words, photos=[photo, portrait, square]
    )
    assert done.parity["agreement"] > 0.999
    assert done.parity["score_difference_same_regions"] < 1e-4
    assert 0 < done.parity["cell_difference"] < 1e-4
    runner = OnnxSegmenter(done.folder)
    assert (runner(photo, ["cat", "wall"]).labels == 0).mean() > 0.3
    with pytest.raises(InputError, match="export again with that word"):
        runner(photo, ["quokka"])  # neither asked for nor a decoy
    with pytest.raises(InputError, match="any size"):
        export_onnx(segmenter, tmp_path / "other", words=words, size=(384, 512))


@pytest.mark.slow
def test_a_mask_decoder_beside_the_superpixels(tmp_path: Path, photo: np.ndarray) -> None:
    torch.manual_seed(0)
    decoder = MaskDecoder(queries=6, width=32, layers=2, feedforward=32)
    for name, value in decoder.named_parameters():
        if "queries" in name:
            torch.nn.init.normal_(value)
    write_sized(tmp_path / "decoder.safetensors", decoder, {})
    segmenter = embedded(decoder=tmp_path / "decoder.safetensors")
    with pytest.raises(InputError, match="with a mask decoder cannot be saved as a folder"):
        segmenter.save_pretrained(tmp_path / "no")
    words = {"cat": ["kitten"], "wall": []}
    done = export_onnx(segmenter, tmp_path / "decoded", words=words, photos=[photo])
    assert done.parity["agreement"] > 0.99
    described = json.loads((done.folder / "export.json").read_text())["merging"]
    assert described["mask_stride"] == 4
    assert described["objectness"] == 0.3


@pytest.mark.parametrize(
    "changes", [{"hopeless_below": 0.4}, {"region_overlap": 0.9}, {"region_tokens": 9}]
)
def test_approximations_are_refused(tiny: Segmenter, changes: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=f"{next(iter(changes))} cannot be exported"):
        MethodGraph(tiny, tiny.recipe.settings.replace(**changes))


def test_sources_without_a_traceable_form_are_refused(tiny: Segmenter, tmp_path: Path) -> None:
    settings = tiny.recipe.settings.replace(shift_source="noise")
    with pytest.raises(InputError, match="shift source 'noise' cannot be exported"):
        export_onnx(tiny, tmp_path / "x", settings=settings)
    assert not (tmp_path / "x").exists()
    assert torch.is_grad_enabled()
