"""One small export for the whole folder; tracing is what takes the time."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from scanseg.export import export_onnx
from scanseg.presets import build
from scanseg.presets import tiny as tiny_config
from scanseg.segmenter import Segmenter


@pytest.fixture(scope="session")
def tiny() -> Segmenter:
    """The preset with fewer layers of a kind: every kind is there."""
    config = tiny_config()
    assert config.integration is not None
    integration = replace(config.integration, attention_layers=2, encoder_layers=1)
    proposals = {**config.proposals, "decoder_layers": 1}
    return build(replace(config, integration=integration, proposals=proposals))


@pytest.fixture(scope="session")
def photo() -> np.ndarray:
    from skimage import data

    return data.chelsea()[::2, ::2]


@pytest.fixture(scope="session")
def exported(tiny: Segmenter, photo: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("export") / "tiny"
    export_onnx(tiny, folder, photos=[photo])
    return folder
