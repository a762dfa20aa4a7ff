"""Photos and their captions, from a folder of one's own or COCO's files."""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from scanseg.contracts import InputError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
_MOST_BYTES = 2**30


@dataclass(frozen=True)
class CaptionedPhoto:
    """A photo and what people said of it.

    Attributes:
        key: stem of the file name; unique.
        image: the file.
        captions: at least one.
    """

    key: str
    image: Path
    captions: tuple[str, ...]


def read_captions(captions: str | Path, images: str | Path) -> list[CaptionedPhoto]:
    """The photos that have captions, in the order of their keys.

    Args:
        captions: JSON: ``{stem: [captions]}``, or COCO's ``captions_train2017.json``.
        images: folder of the photos; photos without a caption are left out.

    Raises:
        InputError: a file or folder is missing or of another form, or a photo with captions is not
            in the folder.
    """
    file, folder = Path(captions), Path(images)
    try:
        if file.stat().st_size > _MOST_BYTES:
            raise InputError(f"{file} is too large for a file of captions")
        content = json.loads(file.read_bytes())
    except (OSError, ValueError) as error:
        raise InputError(f"{file} is no readable JSON file of captions ({error})") from error
    spoken = _of_coco(content) if _is_coco(content) else content
    right = isinstance(spoken, dict) and all(
        isinstance(lines, list) and lines and all(isinstance(line, str) for line in lines)
        for lines in spoken.values()
    )
    if not right or not spoken:
        raise InputError(
            f'{file} must hold {{"stem": ["caption", ...]}} or be a captions file of COCO'
        )
    if not folder.is_dir():
        raise InputError(f"no folder of photos {folder}; name it with --images")
    files = {p.stem: p for p in sorted(folder.iterdir()) if p.suffix.lower() in IMAGE_SUFFIXES}
    missing = sorted(key for key in spoken if key not in files)
    if missing:
        raise InputError(
            f"{folder} lacks {len(missing)} of {len(spoken)} photos with captions, such as "
            f"{missing[0]}; name the right folder with --images"
        )
    return [CaptionedPhoto(key, files[key], tuple(spoken[key])) for key in sorted(spoken)]


def _is_coco(content: object) -> bool:
    return isinstance(content, dict) and {"images", "annotations"} <= content.keys()


def _of_coco(content: dict[str, list[dict[str, object]]]) -> dict[str, list[str]]:
    """Stem -> captions, in the order of the annotations' ids."""
    try:
        stems = {image["id"]: Path(str(image["file_name"])).stem for image in content["images"]}
        found: dict[str, list[str]] = defaultdict(list)
        for entry in sorted(content["annotations"], key=lambda a: str(a["id"]).zfill(20)):
            found[stems[entry["image_id"]]].append(str(entry["caption"]))
    except (KeyError, TypeError) as error:
        raise InputError(f"not a captions file of COCO: {error} is missing") from error
    return dict(found)
