"""Candidates from WordNet: a tiny dictionary in its file format, and the real one if installed."""

from __future__ import annotations

import json
import re
from itertools import pairwise
from pathlib import Path

import pytest

from scanseg.cli import main
from scanseg.contracts import InputError
from scanseg.vocabulary.hierarchy import Hierarchy, hierarchy_names, load_hierarchy, synonym_key
from scanseg.vocabulary.hierarchy_candidates import candidates, meanings, read_senses
from scanseg.vocabulary.label_sets import LabelSet, load_label_set
from scanseg.vocabulary.wordnet import USUAL_FOLDERS, WordNet

SYNSETS = {
    # key: words, file of the lexicographer, hypernyms, gloss
    "entity": ("entity", 3, (), "all there is"),
    "physical": ("physical_entity", 3, ("entity",), "all that is matter"),
    "abstract": ("abstraction", 3, ("entity",), "all that is not"),
    "person": ("person", 3, ("physical",), "a human being"),
    "seat": ("seat", 6, ("physical",), 'furniture to sit on; "take a seat"'),
    "chair": ("chair", 6, ("seat",), "a seat for one"),
    "chairman": ("chairman chair", 18, ("person",), "the person who presides"),
    "post": ("chair", 4, ("abstract",), "the office of a professor"),
    "armchair": ("armchair", 6, ("chair",), "a chair with arms"),
    "sofa": ("sofa couch", 6, ("seat",), "a seat for several"),
    "shelf": ("shelf", 6, ("physical",), "a board on a wall"),
    "smith": ("Smith", 18, ("@i person",), "an economist"),
}
SENSES = {
    "chair": ("chairman", "chair", "post"),  # sense numbers 1, 2, 3
}
COUNTS = {("chair", "chairman"): 9, ("chair", "chair"): 5}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dictionary folder with the synsets above, byte offsets and all."""
    folder = tmp_path_factory.mktemp("dict")
    licence = "  1 WordNet 3.0 Copyright 2006 by Princeton University.  All rights reserved.\n"

    def line(key: str, offsets: dict[str, int]) -> str:
        words, category, above, gloss = SYNSETS[key]
        lemmas = words.split()
        pointers = [("@i", p[3:]) if p.startswith("@i ") else ("@", p) for p in above]
        return (
            f"{offsets[key]:08d} {category:02d} n {len(lemmas):02x} "
            + "".join(f"{w} 0 " for w in lemmas)
            + f"{len(pointers):03d} "
            + "".join(f"{sign} {offsets[p]:08d} n 0000 " for sign, p in pointers)
            + f"| {gloss}  \n"
        )

    offsets = dict.fromkeys(SYNSETS, 0)
    place = len(licence)
    for key in SYNSETS:
        offsets[key] = place
        place += len(line(key, offsets))  # the length does not depend on the offsets
    (folder / "data.noun").write_text(licence + "".join(line(k, offsets) for k in SYNSETS))

    senses: dict[str, list[str]] = {}
    for key, (words, *_) in SYNSETS.items():
        for word in words.lower().split():
            senses.setdefault(word, []).append(key)
    senses |= {word: list(keys) for word, keys in SENSES.items()}
    index, counts = licence, ""
    for word in sorted(senses):
        keys = senses[word]
        listed = " ".join(f"{offsets[k]:08d}" for k in keys)
        index += f"{word} n {len(keys)} 1 @ {len(keys)} 0 {listed}  \n"
        for number, key in enumerate(keys, 1):
            count = COUNTS.get((word, key), 0)
            counts += f"{word}%1:{SYNSETS[key][1]:02d}:00:: {offsets[key]:08d} {number} {count}\n"
    (folder / "index.noun").write_text(index)
    (folder / "index.sense").write_text(counts)
    (folder / "noun.exc").write_text("shelves shelf\n")
    return folder


def label_set(tmp_path: Path, *lines: str) -> LabelSet:
    path = tmp_path / "labels.txt"
    path.write_text("\n".join(lines))
    return load_label_set(path)


# --------------------------------------------------------------------------------------
# The reader
# --------------------------------------------------------------------------------------


def test_senses_and_names(tiny: Path) -> None:
    wordnet = WordNet(tiny)
    assert wordnet.version == "3.0"
    assert [wordnet.name(s) for s in wordnet.senses("Chair")] == [
        "chairman.n.01",
        "chair.n.02",
        "chair.n.03",
    ]
    assert wordnet.find("chair.n.01") == wordnet.find("chairman.n.01")
    assert wordnet.count("chair", wordnet.find("chair.n.02")) == 5
    assert wordnet.count("sofa", wordnet.find("sofa.n.01")) == 0
    assert wordnet.count("settee", 0) == 0
    assert wordnet.senses("settee") == ()


def test_a_synset(tiny: Path) -> None:
    wordnet = WordNet(tiny)
    sofa = wordnet.synset(wordnet.find("couch.n.01"))
    assert sofa.lemmas == ("sofa", "couch")
    assert sofa.category == 6
    assert sofa.gloss == "a seat for several"
    assert sofa.hypernyms == (wordnet.find("seat.n.01"),)
    assert wordnet.synset(wordnet.find("seat.n.01")).gloss == "furniture to sit on"


def test_plurals(tiny: Path) -> None:
    wordnet = WordNet(tiny)
    assert wordnet.senses("sofas") == wordnet.senses("sofa") != ()
    assert wordnet.senses("couches") == wordnet.senses("couch")
    assert wordnet.senses("shelves") == wordnet.senses("shelf")  # by noun.exc
    assert wordnet.senses("arm chairs") == wordnet.senses("armchair")  # written as one word


def test_paths(tiny: Path) -> None:
    wordnet = WordNet(tiny)
    armchair, seat = wordnet.find("armchair.n.01"), wordnet.find("seat.n.01")
    names = [wordnet.name(s) for s in wordnet.path_up(armchair, seat)]
    assert names == ["armchair.n.01", "chair.n.02", "seat.n.01"]
    assert wordnet.path_up(seat, armchair) == ()
    assert wordnet.path_up(seat, seat) == (seat,)
    assert wordnet.is_physical(armchair)
    assert not wordnet.is_physical(wordnet.find("chair.n.03"))
    assert wordnet.is_physical(wordnet.find("smith.n.01"))  # an instance hypernym counts


@pytest.mark.parametrize("name", ["chair", "chair.n.04", "chair.n.00", "chair.n.x", "settee.n.01"])
def test_no_such_sense(tiny: Path, name: str) -> None:
    with pytest.raises(InputError, match="WordNet has no noun sense"):
        WordNet(tiny).find(name)


def test_a_folder_without_the_dictionary(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"has no data\.noun: give the folder"):
        WordNet(tmp_path)


def test_an_offset_between_synsets(tiny: Path) -> None:
    with pytest.raises(InputError, match="no synset at 7: the dictionary files do not match"):
        WordNet(tiny).synset(7)


# --------------------------------------------------------------------------------------
# Candidates
# --------------------------------------------------------------------------------------


def test_meanings(tiny: Path, tmp_path: Path) -> None:
    labels = label_set(tmp_path, "chair", "sofa, couch", "dental chair", "professor", "smith")
    wordnet = WordNet(tiny)
    found = meanings(labels, wordnet)
    # a thing before a person, though the person's sense is more frequent; no abstract sense
    assert found["chair"].synset == wordnet.find("chair.n.02")
    assert (found["chair"].exact, found["chair"].choices) == (True, 2)
    assert found["sofa, couch"].synset == wordnet.find("sofa.n.01")
    assert found["dental chair"].synset == wordnet.find("chair.n.02")
    assert not found["dental chair"].exact
    assert found["professor"].synset is None
    assert found["smith"].synset == wordnet.find("smith.n.01")


def test_candidates(tiny: Path, tmp_path: Path) -> None:
    labels = label_set(tmp_path, "seat", "chair", "armchair", "couch", "sofas", "dental chair")
    found = candidates(labels, WordNet(tiny))
    assert dict(found.parents) == {
        "chair": ("seat",),
        "armchair": ("seat", "chair"),
        "couch": ("seat",),
        "sofas": ("seat",),
        "dental chair": ("seat", "chair"),
    }
    assert dict(found.synonyms) == {"couch": ("sofas",), "sofas": ("couch",)}
    assert found.reasons["armchair -> seat"] == (
        "armchair.n.01 (a chair with arms) is a kind of seat.n.01 (furniture to sit on), "
        "through chair.n.02"
    )
    assert found.reasons["dental chair -> chair"] == (
        "named as a kind of chair.n.02 (a seat for one)"
    )
    assert found.reasons["couch = sofas"] == "one synset: sofa.n.01 (a seat for several)"
    assert not found.reviewed


def test_senses_by_hand(tiny: Path, tmp_path: Path) -> None:
    labels = label_set(tmp_path, "person", "chair", "dental chair")
    assert candidates(labels, WordNet(tiny)).parents == {"dental chair": ("chair",)}
    as_person = candidates(labels, WordNet(tiny), {"chair": "chairman.n.01"})
    assert as_person.parents["chair"] == ("person",)
    # without a meaning of its own, a label is not looked up by its last words either
    assert candidates(labels, WordNet(tiny), {"dental chair": None}).parents == {}
    with pytest.raises(InputError, match="has no class 'stool'"):
        candidates(labels, WordNet(tiny), {"stool": None})


def test_reading_senses(tmp_path: Path) -> None:
    labels = label_set(tmp_path, "chair")
    assert read_senses({"chair": None, "sofa": "sofa.n.01"}, labels) == {"chair": None}
    assert read_senses({"version": "1", "senses": {"chair": "chair.n.01"}}, labels) == {
        "chair": "chair.n.01"
    }
    for wrong in ([], {"chair": 1}):
        with pytest.raises(InputError, match="senses: expected an object"):
            read_senses(wrong, labels)


# --------------------------------------------------------------------------------------
# The command
# --------------------------------------------------------------------------------------


def test_build_command(tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    labels, output = tmp_path / "labels.txt", tmp_path / "out.json"
    labels.write_text("seat\nchair\nspaceship\n")
    command = ["hierarchy", "build", str(labels), "--wordnet", str(tiny), "--output", str(output)]
    assert main(command) == 0
    out, err = capsys.readouterr()
    assert out == ""
    assert "no meaning in WordNet: spaceship\n" in err
    assert "1 parents and 0 synonyms proposed for 3 labels" in err
    assert load_hierarchy(output).parents == {"chair": ("seat",)}
    assert main(["hierarchy", "lint", str(output)]) == 0

    assert main(command) == 2
    assert "exists; give another --output, or --force to replace it" in capsys.readouterr().err
    senses = tmp_path / "senses.json"
    senses.write_text('{"chair": null}')
    assert main([*command, "--force", "--senses", str(senses)]) == 0
    assert load_hierarchy(output).parents == {}
    assert sorted(p.name for p in tmp_path.iterdir()) == ["labels.txt", "out.json", "senses.json"]


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (["--wordnet", "nowhere"], "nowhere has no data.noun"),
        (["--senses", "nowhere.json"], "nowhere.json: cannot be read (No such file"),
    ],
)
def test_build_with_missing_files(
    tiny: Path,
    tmp_path: Path,
    option: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    labels, output = tmp_path / "labels.txt", tmp_path / "out.json"
    labels.write_text("seat\n")
    command = ["hierarchy", "build", str(labels), "--output", str(output), "--wordnet", str(tiny)]
    assert main([*command, *option]) == 2
    err = capsys.readouterr().err
    assert message in err
    assert len(err.splitlines()) == 1
    assert not output.exists()


def test_build_into_a_missing_folder(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "no" / "out.json"
    command = ["hierarchy", "build", "voc20", "--wordnet", str(tiny), "--output", str(output)]
    assert main(command) == 2
    assert "does not exist" in capsys.readouterr().err


def test_build_with_senses_that_are_no_json(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    senses = tmp_path / "senses.json"
    senses.write_text("{")
    command = ["hierarchy", "build", "voc20", "--wordnet", str(tiny), "--senses", str(senses)]
    assert main([*command, "--output", str(tmp_path / "out.json")]) == 2
    assert "not JSON" in capsys.readouterr().err


# --------------------------------------------------------------------------------------
# With WordNet 3.0 itself
# --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def wordnet() -> WordNet:
    if not any((Path(folder) / "index.sense").is_file() for folder in USUAL_FOLDERS):
        pytest.skip("WordNet is not installed (Debian: wordnet-base and wordnet-sense-index)")
    return WordNet()


@pytest.mark.parametrize("name", hierarchy_names())
def test_chains_in_the_reasons_are_in_wordnet(name: str, wordnet: WordNet) -> None:
    synset = r"[a-z0-9_'-]+\.n\.\d\d"
    chains = 0
    for reason in load_hierarchy(name).reasons.values():
        for chain in re.findall(rf"{synset}(?: < {synset})+", reason):
            steps = [wordnet.find(step) for step in chain.split(" < ")]
            chains += 1
            for child, parent in pairwise(steps):
                assert parent in wordnet.synset(child).hypernyms, chain
        for cited, gloss in re.findall(rf'({synset})(?: < {synset})* \("([^"]+)"\)', reason):
            assert wordnet.synset(wordnet.find(cited)).gloss == gloss
    assert chains or not load_hierarchy(name).parents or name == "pc59"


def decided(hierarchy: Hierarchy, a: str, b: str) -> bool:
    """Whether the file accepts or rejects a relation of the two labels."""
    related = {*hierarchy.parents.get(a, ()), *hierarchy.synonyms.get(a, ())}
    return (
        b in related
        or hierarchy.is_rejected(a, b)
        or synonym_key(a, b) in hierarchy.rejected
        or synonym_key(b, a) in hierarchy.rejected
    )


@pytest.mark.parametrize("name", hierarchy_names())
def test_every_candidate_was_decided_on(name: str, wordnet: WordNet) -> None:
    """``scanseg hierarchy build NAME --senses hierarchies/NAME.json`` proposes nothing unread."""
    hierarchy = load_hierarchy(name)
    found = candidates(load_label_set(name), wordnet, hierarchy.senses)
    unread = [pair for pair in found.parent_pairs if not decided(hierarchy, *pair)]
    unread += [
        (a, b)
        for a, b in found.synonym_pairs
        if not decided(hierarchy, a, b) and not decided(hierarchy, b, a)
    ]
    assert unread == []


def test_build_finds_the_dictionary_by_itself(wordnet: WordNet, tmp_path: Path) -> None:
    output = tmp_path / "rooms.json"
    labels = tmp_path / "labels.json"
    labels.write_text(json.dumps(["furniture", "sofa", "settee", "office chair"]))
    assert main(["hierarchy", "build", str(labels), "--output", str(output)]) == 0
    assert load_hierarchy(output).parents["office chair"] == ("furniture",)
