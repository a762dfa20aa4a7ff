"""Label maps out of COCO files: panoptic JSON with PNGs, and masks per object or per class.

Categories are matched to classes by name; where a file lists no categories, ``category_id`` must be
the stored value of a class in the label set (COCO's ids for COCO's sets).

The key of an image is its file name without folder and ending. Where a file has equal names in
different folders, the keys of all its images are their paths without ending, as in PNG folders.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from scanseg.contracts import UNKNOWN, InputError, MissingExtra
from scanseg.data.pictures import decode_colour, read_bytes
from scanseg.evaluation.label_maps import Role, Segments
from scanseg.formats.records import MAX_MASK_PIXELS, decode_rle
from scanseg.storage import read_json

MAX_JSON_BYTES = 2 * 2**30
_KEPT_PIXELS = 256 * 2**20  # of the masks of one image, one byte each


class PanopticMaps:
    """A COCO panoptic JSON and its PNGs (id = R + 256 G + 65536 B).

    Args:
        path: the JSON.
        content: what it holds.
        classes: category id -> class index.
        role: what the maps are, for messages.

    Raises:
        InputError: no PNG folder, a category that is no class, or not a panoptic file.
    """

    has_segments = True

    def __init__(
        self, path: Path, content: Mapping[str, Any], classes: Mapping[int, int], role: Role
    ) -> None:
        self._path, self._classes, self._role = path, classes, role
        try:
            keys = _keys(a["file_name"] for a in content["annotations"])
            self._entries = {keys[str(a["file_name"])]: a for a in content["annotations"]}
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"{path}: an annotation has no file_name") from error
        if not self._entries:
            raise InputError(f"{path}: it lists no {role} maps")
        if len(self._entries) < len(content["annotations"]):
            raise InputError(f"{path}: two annotations have the same file_name without its ending")
        first = str(next(iter(self._entries.values()))["file_name"])
        places = (path.with_suffix(""), path.parent / "panoptic", path.parent)
        folder = next((p for p in places if (p / first).is_file()), None)
        if folder is None:
            raise InputError(f"{path}: {first} is not in {places[0]} nor beside the JSON")
        self._folder = folder

    @property
    def keys(self) -> tuple[str, ...]:
        """Names of the images, sorted."""
        return tuple(sorted(self._entries))

    def segments(self, key: str) -> Segments:
        """The segments of one image.

        Raises:
            InputError: the PNG is missing or damaged, or PNG and JSON disagree.
        """
        entry = self._entries[key]
        path = self._folder / str(entry["file_name"])
        pixels = decode_colour(read_bytes(path), path).astype(np.int64)
        ids = pixels[..., 0] + 256 * pixels[..., 1] + 65536 * pixels[..., 2]
        try:
            listed = {int(s["id"]): s for s in entry["segments_info"]}
            classes = {
                i: self._classes.get(int(s["category_id"]), UNKNOWN) for i, s in listed.items()
            }
        except (AttributeError, KeyError, TypeError, ValueError, OverflowError) as error:
            raise InputError(
                f"{self._path}: the segments of {key} need id and category_id"
            ) from error
        strange = next((i for i, c in classes.items() if c == UNKNOWN), None)
        if strange is not None:
            raise InputError(
                f"{self._path}: category {listed[strange]['category_id']} is not among the labels"
            )
        drawn = set(np.unique(ids).tolist()) - {0}
        if drawn != set(classes):
            differ = min(drawn ^ set(classes))
            raise InputError(f"{path}: segment {differ} is only in the PNG or only in the JSON")
        crowds = tuple(i for i, s in listed.items() if s.get("iscrowd"))
        return Segments(ids, classes, crowds)

    def labels(self, key: str) -> np.ndarray:
        """(H, W) int32 class indices, -1 where there is no segment."""
        return self.segments(key).labels()


class MaskMaps:
    """COCO annotations or results: masks with a category, painted into a class map.

    In the ground truth larger objects are painted first, in predictions the less certain ones (then
    the larger), so that what matters more lies on top. Pixels without a mask are void or unknown.

    Args:
        path: the JSON.
        entries: its annotations or results.
        names: image id -> (key, (height, width) or ``None``).
        classes: category id -> class index.
        role: what the maps are, for messages.

    Raises:
        InputError: entries without category, segmentation or a known image.
    """

    has_segments = False

    def __init__(
        self,
        path: Path,
        entries: Sequence[Mapping[str, Any]],
        names: Mapping[Any, tuple[str, tuple[int, int] | None]],
        classes: Mapping[int, int],
        role: Role,
    ) -> None:
        self._path, self._classes, self._role = path, classes, role
        self._sizes = dict(names.values())
        self._entries: dict[str, list[Mapping[str, Any]]] = {key: [] for key in self._sizes}
        self._named = self._named_keys(entries)
        for entry in entries:
            if not isinstance(entry, dict) or not {"category_id", "segmentation"} <= set(entry):
                raise InputError(f"{path}: every entry needs category_id and segmentation")
            self._entries.setdefault(self._key(entry, names), []).append(entry)
        if not self._entries:
            raise InputError(f"{path}: it lists no {role} maps")

    @property
    def keys(self) -> tuple[str, ...]:
        """Names of the images, sorted."""
        return tuple(sorted(self._entries))

    def labels(self, key: str) -> np.ndarray:
        """(H, W) int32 class indices, -1 where there is no mask.

        Raises:
            InputError: a damaged mask, an unknown category, or masks of different sizes.
        """
        order, size, kept = [], self._sizes.get(key), 0
        for entry in self._entries[key]:
            mask = self._mask(entry, size, key)
            if size is not None and mask.shape != size:
                raise InputError(
                    f"{self._path}: a mask of {key} is {_size(mask.shape)}, the image {_size(size)}"
                )
            size = mask.shape
            kept += mask.size  # of many large masks, decode again what would fill the memory
            again = None if kept > _KEPT_PIXELS else mask
            order.append((*self._rank(entry, mask), self._label(entry), entry, again))
        if size is None:
            raise InputError(f"{self._path}: {key} has neither a size nor a mask")
        labels = np.full(size, UNKNOWN, np.int32)
        for _, _, label, entry, again in sorted(order, key=lambda o: o[:2]):
            labels[self._mask(entry, size, key) if again is None else again] = label
        return labels

    def _rank(self, entry: Mapping[str, Any], mask: np.ndarray) -> tuple[float, int]:
        try:
            return float(entry.get("score", 0)), -int(mask.sum())
        except (TypeError, ValueError, OverflowError) as error:
            raise InputError(f"{self._path}: a score is {entry['score']!r}") from error

    def _label(self, entry: Mapping[str, Any]) -> int:
        category = entry["category_id"]
        label = self._classes.get(category) if isinstance(category, int) else None
        if label is None:
            raise InputError(f"{self._path}: category {category!r} is not among the labels")
        return label

    def segments(self, key: str) -> Segments:
        """One segment per class of the painted map."""
        return Segments.of_classes(self.labels(key))

    def _named_keys(self, entries: Sequence[Mapping[str, Any]]) -> dict[str, str]:
        """Keys of the file names that entries have; those of listed images where they fit."""
        named = {str(e["file_name"]) for e in entries if isinstance(e, dict) and "file_name" in e}
        try:
            own = _keys(named)
            listed = {n: (_path(n), PurePosixPath(_path(n)).name) for n in named}
        except ValueError as error:
            raise InputError(f"{self._path}: the file_name of an entry is empty") from error
        return {
            name: next((key for key in listed[name] if key in self._sizes), own[name])
            for name in named
        }

    def _key(self, entry: Mapping[str, Any], names: Mapping[Any, tuple[str, Any]]) -> str:
        if "file_name" in entry:
            return self._named[str(entry["file_name"])]
        image = entry.get("image_id")
        found = names.get(image) if isinstance(image, int | str) else None
        if found is None:
            raise InputError(
                f"{self._path}: image {entry.get('image_id')!r} of an entry is not listed; results "
                "without images need a COCO ground truth beside them"
            )
        return found[0]

    def _mask(self, entry: Mapping[str, Any], size: tuple[int, int] | None, key: str) -> np.ndarray:
        outline = entry["segmentation"]
        try:
            if isinstance(outline, dict):
                return decode_rle(outline)
            if size is None:
                raise InputError("polygons need the size of the image")
            return rasterise(outline, size)
        except MissingExtra:
            raise
        except (InputError, TypeError, ValueError, IndexError, OverflowError) as error:
            raise InputError(f"{self._path}: a mask of {key} is damaged ({error})") from error


def rasterise(polygons: Sequence[Sequence[float]], size: tuple[int, int]) -> np.ndarray:
    """COCO polygons -> (H, W) bool, by COCO's own rule (needs the extra ``scanseg[eval]``)."""
    try:
        from pycocotools import mask as coco
    except ImportError as error:
        raise MissingExtra("eval", "reading COCO polygons") from error
    _check_size(size)
    outlines = [np.array(list(map(float, polygon))) for polygon in polygons]
    limits = np.array([[-size[1], -size[0]], [2 * size[1], 2 * size[0]]])  # x, y
    for points in outlines:  # COCO's code believes whatever it is given
        if points.size < 6 or points.size % 2 or not np.isfinite(points).all():
            raise InputError("a polygon needs three or more points of two finite numbers")
        pairs = points.reshape(-1, 2)
        if (pairs < limits[0]).any() or (pairs > limits[1]).any():
            raise InputError("a polygon lies far outside its image")
    if not outlines:
        return np.zeros(size, bool)
    parts = coco.frPyObjects([points.tolist() for points in outlines], *size)
    return coco.decode(coco.merge(parts)).astype(bool)


def open_coco(
    path: Path,
    names: Sequence[str],
    official: Sequence[int],
    role: Role,
    images: Mapping[Any, tuple[str, tuple[int, int] | None]] | None = None,
) -> PanopticMaps | MaskMaps:
    """The maps that a COCO file holds.

    Args:
        path: a JSON: panoptic, annotations with images and categories, or a list of results.
        names: class names in order.
        official: the label set's stored value of each class, for files without categories.
        role: what the maps are, for messages.
        images: image id -> key and size, for results that list no images (the truth's).

    Raises:
        InputError: unreadable, not COCO, or with categories that are not among the labels.
    """
    content = read_json(path, MAX_JSON_BYTES)
    if isinstance(content, list):
        content = {"annotations": content}
    entries = content.get("annotations") if isinstance(content, dict) else None
    if not isinstance(entries, list) or not all(isinstance(e, dict) for e in entries):
        raise InputError(f"{path}: not a COCO file: expected a list of results or 'annotations'")
    classes = _classes(path, content.get("categories"), names, official)
    if entries and "segments_info" in entries[0]:
        return PanopticMaps(path, content, classes, role)
    listed = image_list(path, content.get("images")) or images or {}
    return MaskMaps(path, entries, listed, classes, role)


def image_list(path: Path, images: Any) -> dict[Any, tuple[str, tuple[int, int] | None]]:
    """A COCO file's ``images``: id -> (key, (height, width)).

    Raises:
        InputError: an image lacks something, is too large, or is named as another one.
    """
    found: dict[Any, tuple[str, tuple[int, int] | None]] = {}
    taken: set[str] = set()
    try:
        keys = _keys(image["file_name"] for image in images or ())
        for image in images or ():
            size = None
            if "height" in image:
                size = int(image["height"]), int(image["width"])
                _check_size(size)
            key = keys[str(image["file_name"])]
            if key in taken:
                raise InputError(f"two images are named {key}, without the ending")
            taken.add(key)
            found[image["id"]] = (key, size)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise InputError(f"{path}: an image needs id, file_name, height and width") from error
    return found


def _classes(
    path: Path, categories: Any, names: Sequence[str], official: Sequence[int]
) -> dict[int, int]:
    """Category id -> class index; categories that are no class are left out."""
    if not categories:
        return {value: index for index, value in enumerate(official)}
    index = {name: i for i, name in enumerate(names)}
    try:
        found = {int(c["id"]): index[c["name"]] for c in categories if c["name"] in index}
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise InputError(f"{path}: a category needs id and name") from error
    if not found:
        raise InputError(
            f"{path}: none of its {len(categories)} categories is among the {len(names)} labels "
            f"({categories[0]['name']!r} against {names[0]!r})"
        )
    return found


def _check_size(size: tuple[int, int]) -> None:
    if min(size) < 0 or size[0] * size[1] > MAX_MASK_PIXELS:
        raise InputError(f"an image of {_size(size)}; at most {MAX_MASK_PIXELS} are read")


def _keys(file_names: Iterable[Any]) -> dict[str, str]:
    """File name -> key; ``ValueError`` if a name is empty."""
    paths = {str(name): _path(name) for name in file_names}
    bare = {path: PurePosixPath(path).name for path in paths.values()}
    if len(set(bare.values())) < len(bare):  # equal names in different folders
        return paths
    return {name: bare[path] for name, path in paths.items()}


def _path(file_name: Any) -> str:
    """The path of a file without its ending; ``ValueError`` if it names no file."""
    path = PurePosixPath(str(file_name).replace("\\", "/"))
    return path.with_suffix("").as_posix().lstrip("/")


def _size(shape: tuple[int, ...]) -> str:
    return f"{shape[1]} x {shape[0]} pixels"
