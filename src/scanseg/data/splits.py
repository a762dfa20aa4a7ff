"""Lists of samples: the key lists that data sets ship, and a held-out part that never moves."""

from __future__ import annotations

import hashlib
from collections.abc import Container, Iterable, Sequence
from pathlib import Path, PurePosixPath

from scanseg.contracts import InputError

HELD_OUT_SHARE = 0.2
"""Share of the samples in ``SPLIT@held_out``; ``SPLIT@rest`` has the others."""

_PARTS = ("held_out", "rest")
_SUFFIXES = frozenset((".jpg", ".jpeg", ".png", ".mat", ".bmp", ".webp"))
_MAX_LIST_BYTES = 64 * 2**20


def held_out(keys: Iterable[str], share: float = HELD_OUT_SHARE) -> tuple[list[str], list[str]]:
    """Divide samples by a hash of their key: ``(rest, held out)``, each in the given order.

    A key falls on the same side in every list, on every machine and in every version, whatever
    else the list holds: u(key) = first 8 bytes of SHA-256(key) / 2^64 is uniform on [0, 1), and
    the sample is held out when u(key) < share. So the share is met on average, not exactly, and a
    larger share contains a smaller one.

    Args:
        keys: keys of the samples.
        share: expected share that is held out, in [0, 1].
    """
    if not 0.0 <= share <= 1.0:
        raise InputError(f"the held-out share must lie in [0, 1], not {share!r}")
    rest: list[str] = []
    held: list[str] = []
    for key in keys:
        u = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") / 2**64
        (held if u < share else rest).append(key)
    return rest, held


def parse_split(split: str) -> tuple[str, str]:
    """``"panoptic_full@held_out"`` -> ``("panoptic_full", "held_out")``; the part may be empty.

    Raises:
        InputError: a part other than ``held_out`` and ``rest``.
    """
    name, at, part = split.partition("@")
    if at and part not in _PARTS:
        raise InputError(f"after @ a split has {' or '.join(_PARTS)}, not {part!r} (in {split!r})")
    return name, part


def part_of(keys: Sequence[str], part: str) -> tuple[str, ...]:
    """The keys of a part named by :func:`parse_split`; all of them for the empty part."""
    if not part:
        return tuple(keys)
    rest, held = held_out(keys)
    return tuple(held if part == "held_out" else rest)


def read_keys(path: Path, known: Container[str] = ()) -> tuple[str, ...]:
    """The keys in a list file, in its order: the first word of each line, as a file's stem.

    So ``2008_000002``, ``images/0001.png`` and ``/SegNet/CamVid/test/a.png /SegNet/...`` all work.
    A line that as a whole is a known key, such as ``IMG 1``, is that key.

    Args:
        path: the list.
        known: keys of the files that are there.

    Raises:
        InputError: unreadable, or a key twice.
    """
    try:
        if path.stat().st_size > _MAX_LIST_BYTES:
            raise InputError(f"{path}: too large for a list of samples")
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not a readable list of samples ({error})") from error
    keys: dict[str, None] = {}
    for line in lines:
        words = line.split()
        if not words:
            continue
        whole = _stem(line.strip())
        key = whole if whole in known else _stem(words[0])
        if key in keys:
            raise InputError(f"{path}: {key} is listed twice")
        keys[key] = None
    return tuple(keys)


def _stem(name: str) -> str:
    """The file's name without folder, and without the ending of a photo or label file."""
    path = PurePosixPath(name.replace("\\", "/"))
    return path.stem if path.suffix.lower() in _SUFFIXES else path.name
