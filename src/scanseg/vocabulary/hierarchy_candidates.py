"""Candidates for a hierarchy from WordNet, for a person to review; used at build time only.

A label gets one meaning: the synset of the most of its words, things before people and substances,
then the most frequent one. Labels whose phrase is not in WordNet ("hairdresser chair") stand below
the meaning of their last words, as the label of that name has it if there is one.
Two labels with one meaning are synonym candidates; a label below another's meaning is a candidate
child. What WordNet calls a kind of something is not always what a person would call it in a photo,
so the result says ``"reviewed": false``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from scanseg.contracts import InputError
from scanseg.vocabulary.hierarchy import Hierarchy, parent_key, synonym_key
from scanseg.vocabulary.label_sets import LabelSet
from scanseg.vocabulary.wordnet import WordNet

_THINGS = frozenset({3, 5, 6, 8, 13, 17, 19, 20, 27})
"""Lexicographer's files of what a photo shows: tops, animals, artifacts, bodies, food, natural
objects and phenomena, plants, substances; people come after these (a "sweeper" is a machine)."""


@dataclass(frozen=True)
class Meaning:
    """What a label was taken to mean.

    Attributes:
        synset: offset of the meaning of the whole label or its last words; ``None`` if WordNet
            has no visible thing for it.
        exact: whether ``synset`` is the label's own meaning rather than one above it.
        choices: how many visible meanings there were to choose from.
    """

    synset: int | None
    exact: bool
    choices: int


def meanings(
    labels: LabelSet, wordnet: WordNet, senses: Mapping[str, str | None] | None = None
) -> dict[str, Meaning]:
    """The meaning of every label.

    Args:
        labels: the list; prompt, official name and synonyms are all looked up.
        wordnet: the dictionary.
        senses: label -> synset name that replaces the automatic choice, ``None`` for no meaning.

    Raises:
        InputError: a sense for a name that is no label, or a synset that WordNet does not have.
    """
    picked = dict(senses or {})
    for name in picked:
        labels.index(name)
    found: dict[str, Meaning] = {}
    for i, name in enumerate(labels.names):
        if name in picked:
            sense = picked[name]
            synset = None if sense is None else wordnet.find(sense)
            found[name] = Meaning(synset, exact=synset is not None, choices=0)
        else:
            found[name] = _best(_terms(labels, i), wordnet)
    prompts = list(zip(labels.prompts, labels.names, strict=True))
    by_prompt = {prompt: found[name] for prompt, name in prompts}
    for prompt, name in prompts:
        if found[name].synset is None and name not in picked:
            found[name] = _by_last_words(prompt, by_prompt, wordnet)
    return found


def candidates(
    labels: LabelSet, wordnet: WordNet, senses: Mapping[str, str | None] | None = None
) -> Hierarchy:
    """Unreviewed parents and synonyms of a label list; arguments and errors as :func:`meanings`."""
    found = meanings(labels, wordnet, senses)
    own = {n: m.synset for n, m in found.items() if m.exact and m.synset is not None}
    parents: dict[str, tuple[str, ...]] = {}
    synonyms: dict[str, tuple[str, ...]] = {}
    reasons: dict[str, str] = {}
    for name, meaning in found.items():
        if meaning.synset is None:
            continue
        above = wordnet.ancestors(meaning.synset)
        if not meaning.exact:
            above |= {meaning.synset}
        parents[name] = tuple(o for o, s in own.items() if s in above and o != name)
        for parent in parents[name]:
            reasons[parent_key(name, parent)] = _kind_of(meaning, own[parent], name, wordnet)
        if meaning.exact:
            synonyms[name] = tuple(o for o, s in own.items() if s == meaning.synset and o != name)
            for other in synonyms[name]:
                if synonym_key(other, name) not in reasons:
                    reasons[synonym_key(name, other)] = (
                        f"one synset: {_told(meaning.synset, wordnet)}"
                    )
    return Hierarchy(
        name=labels.name,
        version="candidates",
        source=f"WordNet {wordnet.version} (Princeton University), hypernyms of nouns; "
        "made by scanseg hierarchy build, not reviewed",
        labels=labels.names,
        parents={n: above for n, above in parents.items() if above},
        synonyms={n: same for n, same in synonyms.items() if same},
        reasons=reasons,
        senses=dict(senses or {}),
    )


def read_senses(content: object, labels: LabelSet) -> dict[str, str | None]:
    """Senses picked by hand: the ``senses`` of a hierarchy file or a plain object of them.

    Raises:
        InputError: neither of both.
    """
    if isinstance(content, dict) and isinstance(content.get("senses"), dict):
        content = content["senses"]
    if not isinstance(content, dict) or not all(
        isinstance(name, str) and isinstance(sense, str | None) for name, sense in content.items()
    ):
        raise InputError('senses: expected an object such as {"mouse": "mouse.n.04", "sky": null}')
    return {name: sense for name, sense in content.items() if name in set(labels.names)}


def _terms(labels: LabelSet, i: int) -> list[str]:
    official = [term.strip() for term in labels.names[i].split(",")]
    return list(dict.fromkeys([labels.prompts[i], *official, *labels.synonyms[i]]))


def _by_last_words(prompt: str, known: Mapping[str, Meaning], wordnet: WordNet) -> Meaning:
    """The meaning above "ice hockey rink": that of "hockey rink", then "rink"."""
    words = prompt.split()
    for start in range(1, len(words)):
        last = " ".join(words[start:])
        above = known[last] if last in known else _best([last], wordnet)
        if above.synset is not None:
            return Meaning(above.synset, exact=False, choices=above.choices)
    return Meaning(None, exact=False, choices=0)


def _best(terms: list[str], wordnet: WordNet) -> Meaning:
    """The visible synset of the most terms; see the module for what decides between equals."""
    support: dict[int, list[str]] = {}
    for term in terms:
        for synset in wordnet.senses(term):
            if wordnet.is_physical(synset):
                support.setdefault(synset, []).append(term)
    if not support:
        return Meaning(None, exact=False, choices=0)
    order = {synset: place for place, synset in enumerate(support)}
    best = max(
        support,
        key=lambda s: (
            len(support[s]),
            wordnet.synset(s).category in _THINGS,
            sum(wordnet.count(t, s) for t in support[s]),
            -order[s],
        ),
    )
    return Meaning(best, exact=True, choices=len(support))


def _kind_of(meaning: Meaning, parent: int, name: str, wordnet: WordNet) -> str:
    assert meaning.synset is not None
    path = wordnet.path_up(meaning.synset, parent)
    between = [wordnet.name(s) for s in path[1:-1]]
    way = f", through {', '.join(between)}" if between else ""
    if meaning.exact:
        start = _told(meaning.synset, wordnet)
    else:
        start = f"by its last words {wordnet.name(meaning.synset)}"
        if meaning.synset == parent:
            return f"named as a kind of {_told(parent, wordnet)}"
    return f"{start} is a kind of {_told(parent, wordnet)}{way}"


def _told(synset: int, wordnet: WordNet) -> str:
    return f"{wordnet.name(synset)} ({wordnet.synset(synset).gloss})"
