"""Typed settings from plain values: every key known, every value of its type, or a clear error."""

from __future__ import annotations

import contextlib
import difflib
import inspect
import types
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from scanseg.contracts import InputError


def build(target: Any, values: Any, path: str) -> Any:
    """A dataclass from a mapping, its keys and types checked.

    Args:
        target: the dataclass; fields may be dataclasses, tuples of them, and plain types.
        values: plain values as YAML has them.
        path: where in the whole they stand, for messages.

    Raises:
        InputError: an unknown key or a value of another type; or what the dataclass itself refuses.
    """
    if not isinstance(values, dict):
        raise InputError(f"{path or 'the experiment'} must be a mapping of settings")
    _check_keys(values, [f.name for f in fields(target)], path)
    hints = get_type_hints(target)
    arguments = {}
    for key, value in values.items():
        here = f"{path}.{key}" if path else key
        arguments[key] = _convert(hints[key], value, here)
    try:
        return target(**arguments)
    except InputError as error:
        raise InputError(f"{path}: {error}" if path else str(error)) from error


def check_arguments(target: Any, values: Any, path: str) -> dict[str, Any]:
    """Some arguments of a class, each of the right name and type; the others keep their defaults.

    Raises:
        InputError: as :func:`build`.
    """
    if not isinstance(values, dict):
        raise InputError(f"{path} must be a mapping of settings")
    parameters = inspect.signature(target).parameters
    _check_keys(values, parameters, path)
    hints = get_type_hints(target if is_dataclass(target) else target.__init__)
    return {key: _convert(hints[key], value, f"{path}.{key}") for key, value in values.items()}


def _check_keys(values: Mapping[str, Any], known: Iterable[str], path: str) -> None:
    names = list(known)
    for key in values:
        if key not in names:
            here = f"{path}.{key}" if path else str(key)
            where = f"in {path}" if path else "at the top"
            raise InputError(
                f"unknown setting {here}{nearest(str(key), names)}; {where} there are "
                f"{', '.join(names)}"
            )


def _convert(kind: Any, value: Any, path: str) -> Any:
    """``value`` as ``kind``, or an ``InputError`` that names ``path``."""
    origin, choices = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        if value is None and type(None) in choices:
            return None
        last: InputError | None = None
        for choice in (c for c in choices if c is not type(None)):
            try:
                return _convert(choice, value, path)
            except InputError as error:
                last = error
        assert last is not None
        raise last
    if origin is Literal:
        if value in choices and not isinstance(value, bool):
            return value
        hint = nearest(str(value), [str(c) for c in choices])
        raise InputError(
            f"{path} must be one of {', '.join(map(str, choices))}, not {value!r}{hint}"
        )
    if is_dataclass(kind):
        return build(kind, value, path)
    if origin is tuple:
        if not isinstance(value, (list, tuple)):
            raise InputError(f"{path} must be a list, not {value!r}")
        kinds = [choices[0]] * len(value) if choices[-1] is Ellipsis else list(choices)
        if len(kinds) != len(value):
            raise InputError(f"{path} must have {len(kinds)} entries, not {len(value)}")
        return tuple(
            _convert(k, v, f"{path}.{i}") for i, (k, v) in enumerate(zip(kinds, value, strict=True))
        )
    if kind is float:
        return _number(value, path)
    if kind is Any:
        return value
    plain = dict if (origin or kind) in (dict, Mapping) else kind
    if isinstance(value, plain) and (plain is bool) == isinstance(value, bool):
        return value
    raise InputError(f"{path} must be {_WORDS.get(plain, plain.__name__)}, not {value!r}")


def _number(value: Any, path: str) -> float:
    if isinstance(value, str):  # YAML 1.1 reads 6e-5, without a point, as text
        with contextlib.suppress(ValueError):
            value = float(value)
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    raise InputError(f"{path} must be a number, not {value!r}")


_WORDS = {
    int: "a whole number",
    str: "text",
    bool: "true or false",
    dict: "a mapping",
}


def nearest(word: str, choices: Sequence[str]) -> str:
    """`` (did you mean 'word'?)``, or nothing where no choice is near."""
    close = difflib.get_close_matches(word, choices, n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""
