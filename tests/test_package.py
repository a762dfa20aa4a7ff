"""What holds for the package as a whole."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import scanseg

ROOT = Path(__file__).resolve().parents[1]


def python(code: str) -> str:
    """Standard output of a fresh interpreter."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": str(ROOT / "src"), "PATH": ""},
    )
    return done.stdout


def test_import_is_light() -> None:
    code = """
import sys, time, json
started = time.perf_counter()
import scanseg
took = time.perf_counter() - started
heavy = "torch transformers open_clip timm lightning gradio ray pycocotools onnx skimage sklearn"
print(json.dumps([took, [m for m in heavy.split() if m in sys.modules]]))
"""
    took, heavy = min((json.loads(python(code)) for _ in range(3)), key=lambda r: r[0])
    assert heavy == []
    assert took < 0.5


def test_what_labelling_a_photo_imports() -> None:
    """Half of a cold start was libraries that nobody needs for it (decision 58)."""
    code = """
import sys, numpy, scanseg
seg = scanseg.Segmenter.from_pretrained("embedded", device="cpu")
seg.region_clip.encode_text(["a word that no cache has"])
seg(numpy.zeros((64, 64, 3), numpy.uint8), ["cat", "sofa"])
heavy = "torch._dynamo torchvision timm transformers open_clip sklearn pandas matplotlib"
print([m for m in heavy.split() if m in sys.modules])
"""
    assert python(code) == "[]\n"


def test_public_names() -> None:
    for name in scanseg.__all__:
        assert getattr(scanseg, name) is not None
    assert set(scanseg.__all__) <= set(dir(scanseg))
    with pytest.raises(AttributeError, match="no attribute 'Sementer'"):
        scanseg.Sementer  # noqa: B018


def test_one_version_everywhere() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["version"] == scanseg.__version__
    assert f"version: {scanseg.__version__}" in (ROOT / "CITATION.cff").read_text()
    assert f"## {scanseg.__version__}" in (ROOT / "CHANGELOG.md").read_text()


def test_constraints_pin_every_dependency_within_its_range() -> None:
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    pins = {}
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        if line and not line.startswith("#"):
            name, version = line.split("==")
            pins[canonicalize_name(name)] = version
    extras = [r for group in project["optional-dependencies"].values() for r in group]
    for text in [*project["dependencies"], *extras]:
        requirement = Requirement(text)
        name = canonicalize_name(requirement.name)
        if name != "scanseg":
            assert name in pins, f"{name} has no pin in constraints.txt"
            assert requirement.specifier.contains(pins[name]), text


def test_no_path_of_this_machine_is_committed() -> None:
    tracked = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False
    ).stdout.split("\0")
    if tracked == [""]:
        pytest.skip("not a git checkout")
    here = {str(folder) + "/" for folder in (ROOT.parent, Path.home()) if len(str(folder)) > 1}
    bad = []
    for name in filter(None, tracked):
        path = ROOT / name
        if path.is_file() and path.stat().st_size < 3_000_000:
            content = path.read_bytes()
            bad += [(name, folder) for folder in here if folder.encode() in content]
    assert bad == []


def test_binaries_are_shipped_weights_only() -> None:
    tracked = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False
    ).stdout.split("\0")
    large = [
        n
        for n in filter(None, tracked)
        if (ROOT / n).is_file() and (ROOT / n).stat().st_size > 2_000_000
    ]
    assert all(name.endswith(".safetensors") for name in large), large
