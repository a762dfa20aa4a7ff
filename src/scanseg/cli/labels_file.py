"""Words from a file or from one option."""

from __future__ import annotations

from scanseg.contracts import InputError

_LIMIT = 16 * 2**20  # bytes


def separated(text: str) -> list[str]:
    """The words between commas, without space around them and without empty ones."""
    return [word.strip() for word in text.split(",") if word.strip()]


def read_labels_file(path: str) -> dict[str, list[str]]:
    """Words and their synonyms: one word per line, ``sofa: couch, settee``, ``#`` comments.

    Raises:
        InputError: the file is missing, not UTF-8 text, or has no word in it.
    """
    try:
        with open(path, "rb") as file:
            data = file.read(_LIMIT + 1)
        text = data.decode("utf-8-sig")
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError:
        raise InputError(f"{path} is not UTF-8 text: save it as UTF-8") from None
    if len(data) > _LIMIT:
        raise InputError(f"{path} is too large for a list of words")
    found: dict[str, list[str]] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        if line.lstrip().startswith("#"):
            continue
        content = line.split(" #", 1)[0].split("\t#", 1)[0].strip()
        if not content:
            continue
        name, _, synonyms = content.partition(":")
        if not name.strip():
            raise InputError(f"{path}, line {number}: no word before the colon")
        found.setdefault(name.strip(), []).extend(separated(synonyms))
    if not found:
        raise InputError(f"{path} has no words in it: write one per line")
    return found
