"""Bytes that are nearly valid: changes of one input, drawn from a seeded generator."""

from __future__ import annotations

import json
import random
import re
import struct
import zlib
from collections.abc import Callable, Sequence
from typing import Any

_MOST = 4 * 2**20  # bytes of a mutated input
_NUMBERS = (0, 1, -1, 2, 127, 128, 255, 256, 32767, 65535, 65536, 2**31 - 1, 2**31, 2**32 - 1)
_HUGE = (2**53 + 1, 2**60, 2**63 - 1, -(2**63), 2**64, 10**400)
_WORDS = (
    "", " ", "\0", "\x1b[2J", "a\nb", "\u202egpj.exe", "\u200b", "\ud800", "\U0010ffff", "é" * 400,
    "../../etc/passwd", "/etc/passwd", "C:\\x", "CON", "%s%n", "{}", "${HOME}", "!!python/object:os.system",
    "x" * 70_000, "NaN", "-Infinity", "1e999", "true",
)  # fmt: skip
_VALUES: tuple[Any, ...] = (
    None, True, False, [], {}, [[]], [{}], {"": {}}, 0.5, -0.0, float("nan"), float("inf"), 1e308,
    *_NUMBERS, *_HUGE, *_WORDS, list(range(300)), [[0] * 40] * 40, {str(i): i for i in range(300)},
)  # fmt: skip


def mutate(draw: random.Random, data: bytes, others: Sequence[bytes]) -> bytes:
    """One to eight random changes of ``data``; ``others`` give pieces to splice in."""
    if draw.random() < 0.5:
        data = _structured(draw, data)
    for _ in range(draw.choice((0, 1, 1, 1, 2, 4, 8))):
        data = draw.choice(_CHANGES)(draw, data, others)[:_MOST]
    if data[:8] == _PNG and draw.random() < 0.7:
        data = _png_with_checksums(data)
    return data


def _flip(draw: random.Random, data: bytes, others: Sequence[bytes]) -> bytes:
    changed = bytearray(data)
    for _ in range(draw.choice((1, 1, 3, 20))):
        if changed:
            changed[draw.randrange(len(changed))] ^= 1 << draw.randrange(8)
    return bytes(changed)


def _overwrite(draw: random.Random, data: bytes, others: Sequence[bytes]) -> bytes:
    """A whole number in one of the usual binary forms over some bytes."""
    form = draw.choice(("<B", "<H", ">H", "<I", ">I", "<Q", ">Q"))
    size = struct.calcsize(form)
    value = draw.choice((*_NUMBERS, *_HUGE[:5])) % (1 << 8 * size)
    at = draw.randrange(len(data) + 1) if draw.random() < 0.5 else draw.randrange(64)
    return data[:at] + struct.pack(form, value) + data[at + size :]


def _cut(draw: random.Random, data: bytes, others: Sequence[bytes]) -> bytes:
    return data[: draw.randrange(len(data) + 1)]


def _remove(draw: random.Random, data: bytes, others: Sequence[bytes]) -> bytes:
    start, end = _span(draw, data)
    return data[:start] + data[end:]


def _repeat(draw: random.Random, data: bytes, others: Sequence[bytes]) -> bytes:
    start, end = _span(draw, data)
    times = draw.choice((2, 2, 10, 1000))
    return data[:end] + data[start:end] * times + data[end:]


def _insert(draw: random.Random, data: bytes, others: Sequence[bytes]) -> bytes:
    at = draw.randrange(len(data) + 1)
    word = draw.choice(_WORDS).encode("utf-8", "surrogatepass")
    filling = draw.choice((draw.randbytes(draw.choice((1, 4, 64))), word, b"\0" * 512))
    return data[:at] + filling + data[at:]


def _splice(draw: random.Random, data: bytes, others: Sequence[bytes]) -> bytes:
    other = draw.choice(others)
    return data[: draw.randrange(len(data) + 1)] + other[draw.randrange(len(other) + 1) :]


def _number(draw: random.Random, data: bytes, others: Sequence[bytes]) -> bytes:
    """Another number where the text has one."""
    found = list(re.finditer(rb"-?\d+", data[:200_000]))
    if not found:
        return _flip(draw, data, others)
    place = draw.choice(found)
    return (
        data[: place.start()] + str(draw.choice((*_NUMBERS, *_HUGE))).encode() + data[place.end() :]
    )


def _nest(draw: random.Random, data: bytes, others: Sequence[bytes]) -> bytes:
    """Deep brackets, where a parser that recurses may fall."""
    opening, closing = draw.choice(((b"[", b"]"), (b'{"a":', b"}"), (b"(", b")")))
    depth = draw.choice((50, 2000, 200_000))
    at = draw.randrange(len(data) + 1)
    return data[:at] + opening * depth + closing * depth * draw.randrange(2) + data[at:]


def _span(draw: random.Random, data: bytes) -> tuple[int, int]:
    start = draw.randrange(len(data) + 1)
    return start, min(len(data), start + draw.choice((1, 2, 8, 64, 1024)))


_CHANGES: tuple[Callable[[random.Random, bytes, Sequence[bytes]], bytes], ...] = (
    _flip, _flip, _overwrite, _overwrite, _cut, _remove, _repeat, _insert, _splice, _number, _nest,
)  # fmt: skip


def _structured(draw: random.Random, data: bytes) -> bytes:
    """For JSON, lines of words and PNG: a change that keeps the outer form."""
    if data[:8] == _PNG:
        return data
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return _line(draw, data)
    for _ in range(draw.choice((1, 1, 2, 3))):
        value = _replaced(draw, value)
    text = json.dumps(value)
    if draw.random() < 0.1:
        text = text.replace(":", ': 1, "version":', 1)
    return text.encode("utf-8", "surrogatepass")


def _replaced(draw: random.Random, value: Any) -> Any:
    """``value`` with one node changed."""
    children = (
        list(value)
        if isinstance(value, dict)
        else range(len(value))
        if isinstance(value, list)
        else ()
    )
    if not children or draw.random() < 0.15:
        return draw.choice(_VALUES)
    key = draw.choice(list(children))
    changed = value.copy()
    what = draw.random()
    if what < 0.1:
        del changed[key]
    elif what < 0.2 and isinstance(value, dict):
        changed[str(draw.choice(_WORDS))] = changed[key]
    elif what < 0.2:
        changed.insert(draw.randrange(len(changed) + 1), changed[key])
    else:
        changed[key] = _replaced(draw, value[key])
    return changed


def _line(draw: random.Random, data: bytes) -> bytes:
    lines = data[:200_000].split(b"\n")
    if len(lines) < 2:
        return data
    at = draw.randrange(len(lines))
    lines[at] = draw.choice(
        (draw.choice(lines), draw.choice(_WORDS).encode("utf-8", "surrogatepass"))
    )
    return b"\n".join(lines)


_PNG = b"\x89PNG\r\n\x1a\n"


def _png_with_checksums(data: bytes) -> bytes:
    """A PNG whose chunks have right checksums, so that more than the first check is reached."""
    fixed, at = bytearray(data[:8]), 8
    while at + 12 <= len(data):
        (length,) = struct.unpack(">I", data[at : at + 4])
        body = data[at + 4 : at + 8 + length]
        if len(body) < 4 + length:
            break
        fixed += data[at : at + 4] + body + struct.pack(">I", zlib.crc32(body))
        at += 12 + length
    return bytes(fixed + data[at:])
