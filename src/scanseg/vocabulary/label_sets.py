"""The label sets of the benchmarks: official names, order and ids, as data.

One JSON file per set in ``benchmarks/``, one line per class. The order of a set is the order of
its benchmark's label maps; ``vocabulary`` is the only room that knows it. Lists of the user's own
(a text file with one name per line, a JSON list, COCO's categories) are read by the same function.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from importlib.resources import files
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from scanseg.contracts import InputError
from scanseg.storage import parse_json

Kind = Literal["thing", "stuff"]

MAX_CLASSES = 65_535
"""A label map has at most 16 bits per pixel and one value is void."""

_MAX_BYTES = 16 * 2**20

_TITLES = {
    # name: (title, further spellings that load_label_set takes)
    "ade150": ("ADE20K-150", ("ade20k150", "ade20k")),
    "ade847": ("ADE20K-847", ("ade20k847", "adefull", "ade20kfull")),
    "pc59": ("Pascal Context-59", ("pascalcontext59", "context59")),
    "pc459": ("Pascal Context-459", ("pascalcontext459", "context459")),
    "voc20": ("Pascal VOC-20", ("pascalvoc20",)),
    "voc21": ("Pascal VOC-21", ("pascalvoc21", "voc2012", "pascalvoc")),
    "coco_stuff171": ("COCO-Stuff-171", ("cocostuff",)),
    "coco_panoptic133": ("COCO-panoptic-133", ("cocopanoptic",)),
    "camvid11": ("CamVid-11", ("camvid",)),
}


@dataclass(frozen=True)
class LabelSet:
    """The classes of a data set, in the order of its label maps.

    All tuples have one entry per class and the same order.

    Attributes:
        name: short name, ``"ade150"``; the file's stem for a list of the user's own.
        title: how people write it, ``"ADE20K-150"``.
        names: official names, unique; what reports print and hierarchies refer to.
        prompts: plain English for a text encoder (``"brick wall"`` for ``"wall-brick"``), unique.
        synonyms: further words for the class, official ones first; may be empty.
        ids: value of the class in the data set's own files.
        kinds: ``"thing"`` (countable), ``"stuff"``, or ``None`` where the data set does not say.
        void: value of ignored pixels in *our* label maps, whose classes are 0..K-1: 255, or 65535
            for sets that need 16 bits.
        void_ids: values in the data set's own files that mean "no class".
        partial: the data set labels more than these classes, so that a value outside ``ids`` and
            ``void_ids`` is void; otherwise such a value is an error of the file.
        id_meaning: which file and which value ``ids`` are.
        other_ids: further numberings in use, name -> ids.
        version: of the JSON file.
        source: where names, order and ids come from.
    """

    name: str
    title: str
    names: tuple[str, ...]
    prompts: tuple[str, ...]
    synonyms: tuple[tuple[str, ...], ...]
    ids: tuple[int, ...]
    kinds: tuple[Kind | None, ...]
    void: int
    void_ids: tuple[int, ...] = ()
    partial: bool = False
    id_meaning: str = ""
    other_ids: Mapping[str, tuple[int, ...]] = field(default_factory=dict, hash=False)
    version: str = ""
    source: str = ""

    def __post_init__(self) -> None:
        count = len(self.names)
        if not 1 <= count <= MAX_CLASSES:
            raise InputError(
                f"{self.name}: a label set has 1 to {MAX_CLASSES} classes, not {count}"
            )
        for what in ("prompts", "synonyms", "ids", "kinds"):
            if len(getattr(self, what)) != count:
                raise InputError(
                    f"{self.name}: {len(getattr(self, what))} {what} for {count} names"
                )
        for what, values in (("name", self.names), ("prompt", self.prompts), ("id", self.ids)):
            if twice := _first_twice(values):
                raise InputError(f"{self.name}: {what} {twice[0]!r} occurs twice; make it unique")
        object.__setattr__(self, "other_ids", MappingProxyType(dict(self.other_ids)))

    def __len__(self) -> int:
        return len(self.names)

    def index(self, name: str) -> int:
        """Position of an official name.

        Raises:
            InputError: no such name.
        """
        try:
            return self._positions[name]
        except KeyError:
            raise InputError(f"{self.title} has no class {name!r}") from None

    @property
    def things(self) -> tuple[int, ...]:
        """Indices of the countable classes."""
        return tuple(i for i, kind in enumerate(self.kinds) if kind == "thing")

    @cached_property
    def digest(self) -> str:
        """SHA-256 of names, order and ids; equal for sets whose label maps mean the same."""
        text = json.dumps([self.names, self.ids], ensure_ascii=False, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()

    @cached_property
    def _positions(self) -> dict[str, int]:
        return {name: i for i, name in enumerate(self.names)}


def label_set_names() -> tuple[str, ...]:
    """Names of the sets that come with the package."""
    return tuple(_TITLES)


def load_label_set(name: str | Path) -> LabelSet:
    """A benchmark's label set by name, or a list of one's own by path.

    Args:
        name: a name of :func:`label_set_names` or a usual spelling of it (``"ADE20K-150"``,
            ``"pascal_context_59"``), or the path of a ``.txt`` or ``.json`` file.

    Returns:
        The set. A text file has one class per line: a name, a name with synonyms after commas
        (``building, edifice``; the whole line is the name), or ``index<TAB>name`` with further
        columns ignored. A JSON file is a list of names, a list of COCO categories
        (``{"id", "name"}``) or an object as in ``benchmarks/``.

    Raises:
        InputError: no such set or file, or the file is not such a list.
    """
    key = "".join(c for c in str(name).lower() if c.isalnum())
    for official, (_, spellings) in _TITLES.items():
        if key == official.replace("_", "") or key in spellings:
            return _shipped(official)
    path = Path(name)
    if not path.is_file():
        raise InputError(
            f"no label set or file {str(name)!r}: give one of {', '.join(_TITLES)}, "
            "or a .txt or .json file with one class per entry"
        )
    return read_label_set(path)


def read_label_set(path: Path) -> LabelSet:
    """A label set from a file of the user's own; see :func:`load_label_set` for the formats."""
    if path.stat().st_size > _MAX_BYTES:
        raise InputError(f"{path}: larger than {_MAX_BYTES // 2**20} MiB; that is no label list")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not a readable label list ({error})") from error
    try:
        content = parse_json(text) if path.suffix.lower() == ".json" else _lines(text)
        return _parse(content, path.stem)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    except (AttributeError, KeyError, TypeError, OverflowError) as error:  # optional fields
        raise InputError(f"{path}: not a label set as in the documentation ({error})") from error


@lru_cache
def _shipped(name: str) -> LabelSet:
    resource = files("scanseg.vocabulary").joinpath("benchmarks", f"{name}.json")
    return _parse(json.loads(resource.read_text(encoding="utf-8")), name)


def _lines(text: str) -> list[dict[str, Any]]:
    """A class per line; comments and synonyms, which a file of words may have, are left out."""
    classes: list[dict[str, Any]] = []
    for line in filter(str.strip, text.splitlines()):
        if line.lstrip().startswith("#"):
            continue
        columns = [column.strip() for column in line.split("\t")]
        if len(columns) > 1 and columns[0].isdecimal() and len(columns[0]) < 10:
            classes.append({"id": int(columns[0]), "name": columns[1]})
        else:
            classes.append({"name": columns[0].split(" #")[0].split(": ")[0].strip()})
    return classes


def _parse(content: Any, stem: str) -> LabelSet:
    """Any of the accepted forms -> LabelSet."""
    if isinstance(content, list):
        content = {"classes": content}
    if not isinstance(content, dict) or not isinstance(content.get("classes"), list):
        raise InputError('expected a list of names or an object with a list "classes"')
    classes = [_entry(position, entry) for position, entry in enumerate(content["classes"])]
    numbered = [entry["id"] for entry in classes if "id" in entry]
    if numbered and len(numbered) != len(classes):
        raise InputError("either every class has an id or none has")
    names = [entry["name"] for entry in classes]
    plain = _plain_prompts(names)
    name = content.get("name", stem)
    return LabelSet(
        name=name,
        title=_TITLES[name][0] if name in _TITLES else name,
        names=tuple(names),
        prompts=tuple(entry.get("prompt", p) for entry, p in zip(classes, plain, strict=True)),
        synonyms=tuple(
            tuple(entry.get("synonyms", _terms(entry["name"])[1:])) for entry in classes
        ),
        ids=tuple(numbered or range(len(classes))),
        kinds=tuple(_kind(entry) for entry in classes),
        void=content.get("void", 255 if len(classes) <= 255 else 65535),
        void_ids=tuple(content.get("void_ids", ())),
        partial=bool(content.get("partial", False)),
        id_meaning=content.get("id_meaning", "position in the list"),
        other_ids={
            scheme: tuple(entry["other_ids"][scheme] for entry in classes)
            for scheme in content.get("other_ids", {})
        },
        version=content.get("version", ""),
        source=content.get("source", "a list of the user's own"),
    )


def _entry(position: int, entry: Any) -> dict[str, Any]:
    """One class in any of the accepted forms, checked, as a dictionary."""
    if isinstance(entry, str):
        entry = {"name": entry}
    if not isinstance(entry, dict) or not isinstance(entry.get("name"), str):
        raise InputError(f'entry {position} is neither a name nor an object with a "name"')
    if "id" in entry and (not isinstance(entry["id"], int) or isinstance(entry["id"], bool)):
        raise InputError(f"entry {position}: the id {entry['id']!r} is not a whole number")
    if not _are_words(entry.get("synonyms", [])) or not _are_words([entry.get("prompt", "x")]):
        raise InputError(f"entry {position}: prompt is a word, synonyms is a list of words")
    name = " ".join(entry["name"].split())
    if not name:
        raise InputError(f"entry {position} has an empty name")
    return {**entry, "name": name}


def _kind(entry: Mapping[str, Any]) -> Kind | None:
    kind = entry.get("kind")
    if kind is None and "isthing" in entry:
        kind = "thing" if entry["isthing"] else "stuff"
    if kind not in ("thing", "stuff", None):
        raise InputError(f'{entry["name"]}: kind is "thing" or "stuff", not {kind!r}')
    return kind


def _are_words(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(v, str) and v.strip() for v in value)


def _terms(name: str) -> list[str]:
    return [term.strip() for term in name.split(",") if term.strip()]


def _first(name: str) -> str:
    return next(iter(_terms(name)), name)


def _plain_prompts(names: Sequence[str]) -> tuple[str, ...]:
    """The first word group of each name; the whole name where that would not be unique."""
    first = [_first(name) for name in names]
    times = Counter(first)
    return tuple(f if times[f] == 1 else name for f, name in zip(first, names, strict=True))


def _first_twice(values: Iterable[Any]) -> list[Any]:
    seen: set[Any] = set()
    for value in values:
        if value in seen:
            return [value]
        seen.add(value)
    return []
