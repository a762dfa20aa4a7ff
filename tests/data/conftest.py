"""Tiny data sets in the real on-disk layouts."""

from __future__ import annotations

import io
import tarfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat


class Make:
    """Bytes and trees of the kinds that the data sets are made of."""

    @staticmethod
    def png(values: Any, *, palette: bool = False) -> bytes:
        """(H, W) or (H, W, 3) values -> PNG; uint16 gives 16 bits."""
        array = np.asarray(values)
        if array.dtype not in (np.uint8, np.uint16):
            array = array.astype(np.uint8)
        picture = Image.fromarray(array)
        if palette:
            picture.putpalette([i // 3 for i in range(768)])
        stream = io.BytesIO()
        picture.save(stream, format="PNG")
        return stream.getvalue()

    @staticmethod
    def jpg(height: int, width: int, *, orientation: int = 1) -> bytes:
        """A grey photo of that size."""
        stream = io.BytesIO()
        exif = Image.Exif()
        exif[0x0112] = orientation
        Image.new("RGB", (width, height), (120, 130, 140)).save(stream, format="JPEG", exif=exif)
        return stream.getvalue()

    @staticmethod
    def mat(**variables: Any) -> bytes:
        """A MATLAB 5 file, compressed as the official ones are."""
        stream = io.BytesIO()
        savemat(stream, variables, do_compression=True)
        return stream.getvalue()

    @staticmethod
    def tree(root: Path, files: Mapping[str, bytes | str]) -> Path:
        """Write files below ``root``."""
        for name, content in files.items():
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content.encode() if isinstance(content, str) else content)
        return root

    @staticmethod
    def zip(path: Path, files: Mapping[str, bytes | str]) -> Path:
        """A zip archive."""
        path.parent.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in files.items():
                archive.writestr(name, content)
        return path

    @staticmethod
    def tar(path: Path, files: Mapping[str, bytes | str]) -> Path:
        """A tar archive, gzipped if the name says so."""
        path.parent.mkdir(parents=True, exist_ok=True)
        with tarfile.open(path, "w:gz" if path.suffix in (".gz", ".tgz") else "w") as archive:
            for name, content in files.items():
                data = content.encode() if isinstance(content, str) else content
                entry = tarfile.TarInfo(name)
                entry.size = len(data)
                archive.addfile(entry, io.BytesIO(data))
        return path


@pytest.fixture(scope="session")
def make() -> Make:
    """How to make the files of data sets."""
    return Make()
