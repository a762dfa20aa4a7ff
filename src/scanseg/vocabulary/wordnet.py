"""A small reader of WordNet's dictionary files (nouns only); used when a hierarchy is built.

File formats: WordNet 3.0 manual pages wndb(5WN) and senseidx(5WN). Nothing of the program needs
WordNet at run time: the reviewed hierarchies are JSON files of the package.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path

from scanseg.contracts import InputError

USUAL_FOLDERS = (
    "/usr/share/wordnet",
    "/usr/local/share/wordnet",
    "/usr/local/WordNet-3.0/dict",
    "/opt/homebrew/opt/wordnet/dict",
)
"""Where Debian's packages, Princeton's archive and Homebrew put the dictionary."""

NEEDED_FILES = ("data.noun", "index.noun", "index.sense")

_HYPERNYM = ("@", "@i")
_ENDINGS = (
    # (plural ending, singular ending): WordNet's rules of detachment for nouns, morphy(7WN)
    ("s", ""),
    ("ses", "s"),
    ("xes", "x"),
    ("zes", "z"),
    ("ches", "ch"),
    ("shes", "sh"),
    ("men", "man"),
    ("ies", "y"),
)


@dataclass(frozen=True)
class Synset:
    """One meaning: the words for it, its gloss and the offsets of the meanings right above it.

    Attributes:
        offset: byte offset in ``data.noun``, WordNet's own key.
        lemmas: words in small letters with spaces.
        category: number of the lexicographer's file, lexnames(5WN): 6 is artifact, 18 person.
        gloss: definition without the usage examples.
        hypernyms: offsets of the direct hypernyms, instance hypernyms included.
    """

    offset: int
    lemmas: tuple[str, ...]
    category: int
    gloss: str
    hypernyms: tuple[int, ...]


class WordNet:
    """Nouns of a WordNet dictionary folder.

    Args:
        folder: with ``data.noun``, ``index.noun`` and ``index.sense`` (and ``noun.exc`` for
            irregular plurals, optional); ``None`` looks into the usual folders.

    Raises:
        InputError: no such folder or a file of it is missing.
    """

    def __init__(self, folder: str | Path | None = None) -> None:
        self.folder = _find_folder(folder)
        self._data = (self.folder / "data.noun").read_bytes()
        self._parsed: dict[int, Synset] = {}

    @cached_property
    def version(self) -> str:
        """Version in the licence text at the top of ``data.noun``; ``"unknown"`` without one."""
        words = self._data[:4096].decode("latin-1").split()
        for before, after in pairwise(words):
            if before == "WordNet" and after[:1].isdigit():
                return after
        return "unknown"

    def synset(self, offset: int) -> Synset:
        """The synset at a byte offset of ``data.noun``."""
        if offset not in self._parsed:
            end = self._data.find(b"\n", offset)
            self._parsed[offset] = _parse_synset(self._data[offset:end].decode("latin-1"), offset)
        return self._parsed[offset]

    def senses(self, word: str) -> tuple[int, ...]:
        """Offsets of the meanings of a word or collocation, most frequent first; () if unknown.

        Plural forms find the singular's meanings.
        """
        for form in inflections(word, self.irregular):
            if found := self._index.get(form):
                return found
        return ()

    def entries(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        """Every noun as the index spells it, and the offsets of its meanings."""
        yield from self._index.items()

    def exact(self, entry: str) -> tuple[int, ...]:
        """Offsets of the meanings of an entry of the index, spelt exactly so; () if unknown."""
        return self._index.get(entry, ())

    def count(self, word: str, offset: int) -> int:
        """How often the word was met in this meaning in WordNet's tagged texts; 0 if never."""
        for form in inflections(word, self.irregular):
            if form in self._index:
                return self._counts.get((form, offset), 0)
        return 0

    def name(self, offset: int) -> str:
        """The usual key of a synset, ``"armchair.n.01"``: first word and number of the sense."""
        word = self.synset(offset).lemmas[0].replace(" ", "_")
        return f"{word}.n.{self._index[word].index(offset) + 1:02d}"

    def find(self, name: str) -> int:
        """Offset of ``"armchair.n.01"``; any word of the synset may stand before the number.

        Raises:
            InputError: no such noun or sense.
        """
        word, _, number = name.rpartition(".n.")
        senses = self._index.get(word.lower().replace(" ", "_"), ())
        if not number.isdecimal() or not 1 <= int(number) <= len(senses):
            raise InputError(f"WordNet has no noun sense {name!r} (write it as 'armchair.n.01')")
        return senses[int(number) - 1]

    def path_up(self, offset: int, above: int) -> tuple[int, ...]:
        """A shortest chain of hypernyms from ``offset`` to ``above``, both included; () if none."""
        chains: list[tuple[int, ...]] = [(offset,)]
        seen = {offset}
        while chains:
            longer: list[tuple[int, ...]] = []
            for chain in chains:
                if chain[-1] == above:
                    return chain
                for parent in self.synset(chain[-1]).hypernyms:
                    if parent not in seen:
                        seen.add(parent)
                        longer.append((*chain, parent))
            chains = longer
        return ()

    def ancestors(self, offset: int) -> frozenset[int]:
        """All synsets above, direct or not."""
        found: set[int] = set()
        todo = list(self.synset(offset).hypernyms)
        while todo:
            above = todo.pop()
            if above not in found:
                found.add(above)
                todo.extend(self.synset(above).hypernyms)
        return frozenset(found)

    def is_physical(self, offset: int) -> bool:
        """Whether the synset lies below *physical entity*: only such things show in a photo."""
        return any("physical entity" in self.synset(a).lemmas for a in self.ancestors(offset))

    @cached_property
    def _index(self) -> dict[str, tuple[int, ...]]:
        """``index.noun``: word -> offsets in the order of sense numbers."""
        index: dict[str, tuple[int, ...]] = {}
        for line in _entries(self.folder / "index.noun"):
            fields = line.split()
            count = int(fields[2])
            index[fields[0]] = tuple(int(o) for o in fields[-count:])
        return index

    @cached_property
    def _counts(self) -> dict[tuple[str, int], int]:
        """``index.sense``: (word, offset) -> count in tagged texts, where it is not zero."""
        counts: dict[tuple[str, int], int] = {}
        for line in _entries(self.folder / "index.sense"):
            key, offset, _, count = line.split()
            word, _, kind = key.partition("%")
            if kind.startswith("1:") and count != "0":
                counts[word, int(offset)] = int(count)
        return counts

    @cached_property
    def irregular(self) -> dict[str, str]:
        """``noun.exc``: irregular plural -> singular."""
        path = self.folder / "noun.exc"
        if not path.is_file():
            return {}
        return dict(line.split()[:2] for line in _entries(path))


def _find_folder(folder: str | Path | None) -> Path:
    if folder is None:
        for usual in map(Path, USUAL_FOLDERS):
            if (usual / "data.noun").is_file():
                folder = usual
                break
        else:
            raise InputError(
                "WordNet's dictionary was not found: apt-get install wordnet-base "
                "wordnet-sense-index, or give its folder with --wordnet"
            )
    found = Path(folder)
    for name in NEEDED_FILES:
        if not (found / name).is_file():
            raise InputError(
                f"{found} has no {name}: give the folder of WordNet's dictionary files "
                "(Debian: wordnet-base and wordnet-sense-index)"
            )
    return found


def _entries(path: Path) -> Iterator[str]:
    """Lines of a dictionary file without the licence text, whose lines begin with a space."""
    with path.open(encoding="latin-1") as lines:
        yield from (line for line in lines if line.strip() and not line.startswith(" "))


def _parse_synset(line: str, offset: int) -> Synset:
    """One line of ``data.noun``.

    ``offset lex_filenum n w_cnt word lex_id ... p_cnt pointer offset pos source ... | gloss`` with
    ``w_cnt`` in hexadecimal.
    """
    head, _, gloss = line.partition("|")
    fields = head.split()
    if len(fields) < 6 or not fields[0].isdecimal() or int(fields[0]) != offset:
        raise InputError(f"data.noun has no synset at {offset}: the dictionary files do not match")
    words = int(fields[3], 16)
    lemmas = tuple(w.replace("_", " ").lower() for w in fields[4 : 4 + 2 * words : 2])
    pointers = fields[5 + 2 * words :]
    hypernyms = tuple(
        int(pointers[i + 1]) for i in range(0, len(pointers) - 3, 4) if pointers[i] in _HYPERNYM
    )
    definition = gloss.split(';  "')[0].split('; "')[0].strip()
    return Synset(offset, lemmas, int(fields[1]), definition, hypernyms)


def inflections(word: str, irregular: Mapping[str, str]) -> list[str]:
    """The word as the index may spell it: as it is, in the singular, written as one word."""
    words = word.lower().split()
    forms: list[str] = []
    for plain in dict.fromkeys(("_".join(words), "-".join(words), "".join(words))):
        forms.append(plain)
        if plain in irregular:
            forms.append(irregular[plain])
        forms += [
            plain[: -len(plural)] + singular
            for plural, singular in _ENDINGS
            if plain.endswith(plural) and len(plain) > len(plural) + 1
        ]
    return forms
