"""Files of weights that come in pip packages."""

from __future__ import annotations

import hashlib
from importlib.util import find_spec
from pathlib import Path

from scanseg.contracts import InputError


def checked_file(package: str, name: str, sha256: str) -> Path:
    """Path of a file inside an installed package, after comparing its hash.

    Raises:
        InputError: the package or the file is missing, or it is another file.
    """
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        distribution = package.replace("_", "-")
        raise InputError(
            f"the embedded preset needs {distribution}: pip install {distribution}==0.1.0"
        )
    path = Path(next(iter(spec.submodule_search_locations))) / name
    if not path.is_file():
        raise InputError(f"{package} lacks {name}: reinstall it (pip install --force-reinstall)")
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    if digest != sha256:
        raise InputError(
            f"{package}/{name} is not the file that was tested (sha256 {digest[:12]}..., expected "
            f"{sha256[:12]}...): reinstall version 0.1.0"
        )
    return path
