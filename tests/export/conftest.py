"""One small export for the whole folder: it takes about twenty seconds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from scanseg.export import export_onnx
from scanseg.presets import load
from scanseg.segmenter import Segmenter


@pytest.fixture(scope="session")
def tiny() -> Segmenter:
    return load("tiny", device="cpu")


@pytest.fixture(scope="session")
def photo() -> np.ndarray:
    from skimage import data

    return data.chelsea()[::2, ::2]


@pytest.fixture(scope="session")
def exported(tiny: Segmenter, photo: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("export") / "tiny"
    export_onnx(tiny, folder, photos=[photo])
    return folder
