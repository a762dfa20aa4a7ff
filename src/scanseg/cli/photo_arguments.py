"""Which arguments are photos and which are words, which files that means, and where results go.

The rules and why: ``docs/decisions/0054``.
"""

from __future__ import annotations

import glob
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from scanseg.contracts import InputError
from scanseg.formats.photos import EXTENSIONS, UNREADABLE_EXTENSIONS
from scanseg.formats.video import is_video

STDIN = "-"


@dataclass(frozen=True)
class PhotoFile:
    """A photo to read and where its results go.

    Attributes:
        path: of the photo; ``None`` is standard input.
        shown: how messages call it.
        target: path of the results below the output folder, without an ending.
    """

    path: Path | None
    shown: str
    target: Path


@dataclass(frozen=True)
class Outputs:
    """The files written for one photo."""

    map: Path
    overlay: Path
    record: Path

    def all(self) -> tuple[Path, Path, Path]:
        """Map, overlay, record."""
        return self.map, self.overlay, self.record


def split_arguments(
    arguments: Sequence[str], *, words_elsewhere: bool
) -> tuple[list[str], list[str]]:
    """Leading arguments that are photos, and the words after them.

    A photo is ``-`` (standard input), an existing file or folder, a pattern with matches, or a name
    with an image ending. The first argument that is none of these is a word, and so are the rest.

    Args:
        arguments: as given.
        words_elsewhere: the words come from an option, so all arguments are photos.

    Raises:
        InputError: no photo, no word, or a photo among the words.
    """
    count = next((i for i, a in enumerate(arguments) if not is_photo(a)), len(arguments))
    photos, words = list(arguments[:count]), list(arguments[count:])
    if not photos:
        what = f": {words[0]!r} is not a file, a folder or a pattern that matches" if words else ""
        raise InputError(
            f'no photo was given{what}; photos come first: scanseg segment photo.jpg "cat" "sofa"'
        )
    if words_elsewhere and words:
        raise InputError(
            f"{words[0]!r} is not a file, a folder or a pattern that matches, and the words come "
            "from an option: leave it out or put it there"
        )
    if not words_elsewhere and not words:
        last = photos[-1]
        hint = ""
        if len(photos) > 1 and not _has_image_ending(last):
            hint = (
                f" ({last!r} exists here and counts as photos; --labels {last!r} makes it a word)"
            )
        raise InputError(
            f'no words were given{hint}: add what to look for, such as "cat" "sofa", '
            "or use --labels-file"
        )
    late = next((w for w in words if _has_image_ending(w) or is_video(w)), None)
    if late is not None:
        raise InputError(f"the photo {late!r} comes after the word {words[0]!r}: photos come first")
    return photos, words


def is_photo(argument: str) -> bool:
    """Whether a leading argument means photos (see ``split_arguments``)."""
    return (
        argument == STDIN
        or os.path.exists(argument)
        or _has_image_ending(argument)
        or is_video(argument)
        or (glob.has_magic(argument) and any(glob.iglob(argument, recursive=True)))
    )


def find_photos(arguments: Iterable[str], *, recursive: bool, output: Path) -> list[PhotoFile]:
    """The photos that arguments mean, each once, in the order of the arguments.

    Folders and patterns give the files with an image ending, sorted; hidden files and an output
    folder inside them are passed over. Results keep the folders of the photos below what the
    arguments have in common, so that equal names in two folders do not meet.

    Args:
        arguments: from ``split_arguments``.
        recursive: look into sub-folders too.
        output: folder for the results.

    Raises:
        InputError: a file is missing, a folder or pattern has no photos or is the output folder,
            standard input twice.
    """
    found: dict[str, tuple[Path, str, Path]] = {}  # absolute path -> path, its root
    stdin = 0
    order: list[str] = []
    for argument in arguments:
        if argument == STDIN:
            stdin += 1
            order.append(STDIN)
            continue
        root, paths = _expand(argument, recursive, output)
        for path in paths:
            key = os.path.abspath(path)
            if key not in found:
                found[key] = (path, str(path), root)
                order.append(key)
    if stdin > 1:
        raise InputError("standard input (-) was given twice: it holds one photo")
    try:
        common = os.path.commonpath([root for _, _, root in found.values()]) if found else ""
    except ValueError:
        raise InputError("the photos lie on different drives: run once per drive") from None
    photos = []
    for key in order:
        if key == STDIN:
            photos.append(PhotoFile(None, "standard input", Path("stdin")))
        else:
            path, shown, _ = found[key]
            photos.append(PhotoFile(path, shown, Path(os.path.relpath(key, common))))
    return _with_targets(photos)


def plan_outputs(photos: Sequence[PhotoFile], folder: Path) -> list[Outputs]:
    """The files to write for each photo.

    Raises:
        InputError: a result would replace one of the photos.
    """
    plan = [_outputs(folder, photo.target) for photo in photos]
    sources = {os.path.realpath(p.path): p for p in photos if p.path is not None}
    for outputs in plan:
        for path in outputs.all():
            if os.path.realpath(path) in sources:
                raise InputError(
                    f"the result {path} would replace a photo: choose another --output folder"
                )
    return plan


def _expand(argument: str, recursive: bool, output: Path) -> tuple[Path, list[Path]]:
    """An argument -> the folder that its results are relative to, and its photos."""
    path = Path(argument)
    if path.is_dir():
        root = Path(os.path.abspath(path))
        photos = _images_in(path, recursive, _inside(root, output))
        if not photos:
            deeper = "" if recursive else "; --recursive looks into its folders too"
            if any(is_video(file.name) for file in path.iterdir()):
                deeper += "; it has videos: give them by name"
            raise InputError(f"the folder {argument} has no photos in it{deeper}")
        return root, photos
    if path.exists():
        return Path(os.path.abspath(path)).parent, [path]
    if not glob.has_magic(argument):
        if "://" in argument:
            raise InputError(f"{argument} is a web address: download the photo first")
        raise InputError(f"{argument} does not exist")
    parts = Path(os.path.abspath(argument)).parts
    root = Path(*parts[: next(i for i, part in enumerate(parts) if glob.has_magic(part))])
    results = _inside(root, output)
    photos = []
    for match in sorted(glob.glob(argument, recursive=True)):
        if os.path.isdir(match):
            photos += _images_in(Path(match), recursive, results) if recursive else []
        elif _has_image_ending(match) and not _below(match, results):
            photos.append(Path(match))
    if not photos:
        raise InputError(f"the pattern {argument!r} matches no photos")
    return root, photos


def _images_in(folder: Path, recursive: bool, results: Path | None) -> list[Path]:
    def trouble(error: OSError) -> None:
        raise InputError(f"the folder {error.filename} cannot be read: {error.strerror}")

    photos: list[Path] = []
    for here, folders, files in os.walk(folder, onerror=trouble):
        if recursive:
            folders[:] = [
                f for f in folders if not f.startswith(".") and not _below(Path(here, f), results)
            ]
        else:
            folders.clear()
        photos += [Path(here, f) for f in files if _has_image_ending(f) and not f.startswith(".")]
    return sorted(photos)


def _inside(root: Path, output: Path) -> Path | None:
    """The output folder if it lies inside ``root``: then it holds results, not photos."""
    if Path(os.path.abspath(output)) == root:
        raise InputError(
            f"results in {output} would mix with the photos there: choose another --output folder"
        )
    return output if _below(output, root) else None


def _below(path: str | Path, folder: Path | None) -> bool:
    return folder is not None and Path(os.path.abspath(path)).is_relative_to(
        os.path.abspath(folder)
    )


def _has_image_ending(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in EXTENSIONS | UNREADABLE_EXTENSIONS


def _with_targets(photos: list[PhotoFile]) -> list[PhotoFile]:
    """Drop the endings from the targets, except where two photos would share a result."""
    short = [_without_ending(p) for p in photos]
    folder = Path()
    taken = Counter(name for target in short for name in _keys(_outputs(folder, target)))
    chosen = [
        photo.target if any(taken[k] > 1 for k in _keys(_outputs(folder, target))) else target
        for photo, target in zip(photos, short, strict=True)
    ]
    again: dict[str, PhotoFile] = {}
    for photo, target in zip(photos, chosen, strict=True):
        for key in _keys(_outputs(folder, target)):
            if again.setdefault(key, photo) is not photo:
                raise InputError(
                    f"{again[key].shown} and {photo.shown} would share the result {key}: rename one"
                )
    return [PhotoFile(p.path, p.shown, target) for p, target in zip(photos, chosen, strict=True)]


def _without_ending(photo: PhotoFile) -> Path:
    target = photo.target
    return target.with_name(target.stem) if photo.path is not None else target


def _outputs(folder: Path, target: Path) -> Outputs:
    beside = folder / target.parent
    return Outputs(
        map=beside / f"{target.name}.png",
        overlay=beside / f"{target.name}_overlay.png",
        record=beside / f"{target.name}.json",
    )


def _keys(outputs: Outputs) -> tuple[str, ...]:
    """Names that count as equal on systems that ignore case."""
    return tuple(str(path).casefold() for path in outputs.all())
