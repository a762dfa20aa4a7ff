"""YAML files that state differences from other files, and changes from a command line."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from scanseg.contracts import InputError
from scanseg.training.typed_values import nearest

SUFFIX = ".yaml"
_MAX_BYTES = 2**20
_MAX_FILES = 64  # that one experiment extends, itself included


def shipped_experiments() -> tuple[str, ...]:
    """Names of the experiments that scanseg brings along, such as ``tiny``."""
    names = (path.name for path in _shipped().iterdir())
    return tuple(sorted(n.removesuffix(SUFFIX) for n in names if n.endswith(SUFFIX)))


def _shipped() -> Any:
    return resources.files("scanseg") / "configs"


def read_layers(source: str, beside: Path) -> dict[str, Any]:
    """A file's mapping laid over that of the files it extends.

    Args:
        source: a YAML file or the name of a shipped experiment.
        beside: folder in which it is looked for first.

    Raises:
        InputError: no such file, no YAML mapping, or files extend each other in a circle.
    """
    return _read_layers(source, beside, (), [])


def _read_layers(
    source: str, beside: Path, trail: tuple[Any, ...], opened: list[Any]
) -> dict[str, Any]:
    """``read_layers`` of a file that those of ``trail`` led to, ``opened`` being all so far."""
    path = _find(source, beside)
    if path in trail:
        raise InputError(f"{source}: experiments extend each other in a circle")
    opened.append(path)
    if len(opened) > _MAX_FILES:
        raise InputError(f"{source}: an experiment is made of more than {_MAX_FILES} files")
    with path.open("rb") as file:
        data = file.read(_MAX_BYTES + 1)
    if len(data) > _MAX_BYTES:
        raise InputError(f"{source} is too large to be an experiment")
    values = parse_yaml(data, source)
    if values is None:
        values = {}
    if not isinstance(values, dict):
        raise InputError(f"{source} must be a mapping of settings")
    extends = values.pop("extends", [])
    if not isinstance(extends, (str, list)) or not all(isinstance(e, str) for e in extends):
        raise InputError(f"{source}: extends must name an experiment")
    merged: dict[str, Any] = {}
    for base in [extends] if isinstance(extends, str) else extends:
        folder = path.parent if isinstance(path, Path) else Path()
        merged = _merged(merged, _read_layers(base, folder, (*trail, path), opened))
    return _merged(merged, values)


def parse_yaml(text: bytes | str, source: str) -> Any:
    """Plain values of a YAML text, without anchors and aliases.

    A few lines of aliases can stand for more values than fit into memory, and nothing here needs
    them: ``extends`` shares settings.

    Raises:
        InputError: not YAML, with tags, aliases, dates that do not exist or numbers without end.
    """
    import yaml

    class Loader(yaml.SafeLoader):
        def compose_node(self, parent: Any, index: Any) -> Any:
            if self.check_event(yaml.AliasEvent):
                raise yaml.YAMLError("aliases are not read: write the values out, or use extends")
            return super().compose_node(parent, index)

    try:
        return yaml.load(text, Loader)
    except RecursionError as error:
        raise InputError(f"{source} is nested too deeply") from error
    except (yaml.YAMLError, ValueError, TypeError, OverflowError) as error:
        raise InputError(f"{source} is not YAML: {' '.join(str(error).split())}") from error


def _find(source: str, beside: Path) -> Any:
    shipped = _shipped() / (source.removesuffix(SUFFIX) + SUFFIX)
    with contextlib.suppress(OSError, ValueError):  # a name that no file can have
        for candidate in (beside / source, beside / (source + SUFFIX)):
            if candidate.is_file():
                return candidate
        if shipped.is_file():
            return shipped
    names = shipped_experiments()
    raise InputError(
        f"no experiment {source!r}{nearest(source, names)}; give a YAML file or one of "
        f"{', '.join(names)}"
    )


def _merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    result = dict(base)
    for key, value in over.items():
        both = isinstance(value, dict) and isinstance(result.get(key), dict)
        result[key] = _merged(result[key], value) if both else value
    return result


def set_value(values: dict[str, Any], change: str) -> None:
    """Apply ``a.b=value`` in place.

    Raises:
        InputError: it has another form, or leads nowhere.
    """
    path, equals, text = change.partition("=")
    keys = path.strip().split(".")
    if not equals or not all(keys):
        raise InputError(f"--set takes key.key=value, not {change!r}")
    value = parse_yaml(text, f"--set {path}: {text!r}")
    if keys[0] == "data" and not values.get("data"):
        values["data"] = [{}]
    _assign(values, keys, value, path)


def _assign(node: Any, keys: list[str], value: Any, path: str) -> None:
    key, *rest = keys
    if isinstance(node, list) and not key.isdecimal():
        for entry in node:
            _assign(entry, keys, value, path)
        return
    place: Any = key
    if isinstance(node, list):
        place = int(key)
        if place >= len(node):
            raise InputError(f"--set {path}: the list has {len(node)} entries, counted from 0")
    elif not isinstance(node, dict):
        raise InputError(f"--set {path}: what stands before .{key} holds no settings")
    if not rest:
        node[place] = value
        return
    if isinstance(node, dict) and node.get(key) is None:
        node[key] = {}
    _assign(node[place], rest, value, path)
