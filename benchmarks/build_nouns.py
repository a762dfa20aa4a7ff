"""Build the shipped noun list, ``src/scanseg/vocabulary/nouns.json``, from WordNet 3.0.

    python benchmarks/build_nouns.py --wordnet FOLDER

A noun is listed if a photo can show it: it names a benchmark's label, or at least half of its uses
in WordNet's tagged texts (verbs, adjectives and adverbs of the same spelling included) are meanings
below *physical entity* of a kind that can be seen: things, animals, plants, people, food, parts of
bodies, natural objects, substances. Needs the files of Debian's wordnet-base and
wordnet-sense-index.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from pathlib import Path

from scanseg.storage import atomic_write
from scanseg.vocabulary.label_sets import label_set_names, load_label_set
from scanseg.vocabulary.nouns import TARGET, listed_form, nouns_json
from scanseg.vocabulary.wordnet import WordNet, inflections

SEEN = {3, 5, 6, 8, 13, 17, 18, 20, 27}  # lexnames(5WN): tops, animal, artifact, body, food, ...
NOT_NOUNS = {
    *("can", "may", "will", "it", "us", "he", "one", "two", "three", "down", "back", "white"),
    *("side", "piece", "closeup", "facing", "setup", "stands", "cows", "bowls", "skis", "photo"),
}
"""Words that captions use otherwise, parts of nothing in particular, and stray plurals."""
PLURALS = {"people": "person"}
"""Plurals that WordNet lists as words of their own."""
MOST_WORDS = 3


def main() -> None:
    """Write the list."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--wordnet", type=Path, default=None)
    parser.add_argument("--output", type=Path, default=TARGET)
    given = parser.parse_args()
    dictionary = WordNet(given.wordnet)
    uses = all_uses(dictionary.folder)
    senses = {word: offsets for word, offsets in dictionary.entries() if wanted(word)}
    nouns = set()
    for word, offsets in senses.items():
        seen = sum(
            dictionary.count(word, offset)
            for offset in offsets
            if dictionary.synset(offset).category in SEEN and dictionary.is_physical(offset)
        )
        if seen and 2 * seen >= uses[word]:
            nouns.add(word.replace("_", " "))
    nouns |= benchmark_words()
    nouns -= NOT_NOUNS | PLURALS.keys()
    nouns -= plurals_of_listed(nouns, dictionary)
    irregular = {
        listed_form(plural): listed_form(singular)
        for plural, singular in dictionary.irregular.items()
        if listed_form(singular) in nouns and listed_form(plural) not in nouns
    }
    content = nouns_json(sorted(nouns), {**irregular, **PLURALS}, dictionary.version)
    with atomic_write(given.output) as file:
        file.write(content.encode())
    print(f"{given.output}: {len(nouns)} nouns, {len(irregular) + len(PLURALS)} irregular plurals")


def wanted(word: str) -> bool:
    """Whether a caption would spell a word so."""
    parts = word.split("_")
    return len(word) > 2 and len(parts) <= MOST_WORDS and all(p.isalpha() for p in parts)


def all_uses(folder: Path) -> dict[str, int]:
    """Word -> how often it was met in the tagged texts, as whatever part of speech."""
    uses: dict[str, int] = defaultdict(int)
    with (folder / "index.sense").open(encoding="latin-1") as lines:
        for line in lines:
            key, _, _, count = line.split()
            uses[key.partition("%")[0]] += int(count)
    return uses


def benchmark_words() -> set[str]:
    """The names of the benchmarks' labels, comma lists taken apart."""
    found = set()
    for name in label_set_names():
        for prompt in load_label_set(name).prompts:
            for part in prompt.lower().replace(" or ", ",").split(","):
                word = " ".join(part.split())
                if wanted(word.replace(" ", "_")):
                    found.add(word)
    return found - {"background", "others", "other", "void", "unknown"}


def plurals_of_listed(nouns: set[str], dictionary: WordNet) -> set[str]:
    """Listed plurals that mean what their listed singular means ("eggs", not "glasses")."""
    found = set()
    for noun in nouns:
        key = noun.replace(" ", "_")
        own = set(dictionary.exact(key))
        for form in inflections(key, dictionary.irregular)[1:]:
            shares = own & set(dictionary.exact(form)) or not own
            if listed_form(form) != noun and listed_form(form) in nouns and shares:
                found.add(noun)
    return found


if __name__ == "__main__":
    main()
