"""Names, order and ids of the benchmarks, against the official lists where they are at hand."""

from __future__ import annotations

import csv
import hashlib
import json
from pathlib import Path

import pytest

from scanseg.contracts import InputError
from scanseg.vocabulary.label_sets import LabelSet, label_set_names, load_label_set

COUNTS = {
    "ade150": 150,
    "ade847": 847,
    "pc59": 59,
    "pc459": 459,
    "voc20": 20,
    "voc21": 21,
    "coco_stuff171": 171,
    "coco_panoptic133": 133,
    "camvid11": 11,
}
ORDER = {
    # sha256 of the names, one per line, first 12 digits: a moved, renamed or lost class shows
    "ade150": "f9dbd8a75a07",
    "ade847": "ee311c5f3b78",
    "pc59": "d19f875de36b",
    "pc459": "c9fe8ff7083d",
    "voc20": "7d877f185c80",
    "voc21": "301e5e4e2a9a",
    "coco_stuff171": "8ea44449837d",
    "coco_panoptic133": "a670bc7c1167",
    "camvid11": "97a8b28971b6",
}
every_set = pytest.mark.parametrize("name", list(COUNTS))


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


# --------------------------------------------------------------------------------------
# What every set promises
# --------------------------------------------------------------------------------------


def test_the_sets_of_the_package() -> None:
    assert set(label_set_names()) == set(COUNTS)


@every_set
def test_count_and_order(name: str) -> None:
    labels = load_label_set(name)
    assert len(labels) == COUNTS[name]
    assert hashlib.sha256("\n".join(labels.names).encode()).hexdigest()[:12] == ORDER[name]


@every_set
def test_entries_are_unique_and_complete(name: str) -> None:
    labels = load_label_set(name)
    for column in (labels.names, labels.prompts, labels.ids):
        assert len(set(column)) == len(labels)
    assert all(text == text.strip() and text for text in (*labels.names, *labels.prompts))
    assert all(labels.index(n) == i for i, n in enumerate(labels.names))
    for prompt, synonyms in zip(labels.prompts, labels.synonyms, strict=True):
        assert prompt not in synonyms
        assert len(set(synonyms)) == len(synonyms)
    assert labels.version
    assert labels.source
    assert labels.id_meaning


@every_set
def test_void_never_collides_with_a_class(name: str) -> None:
    labels = load_label_set(name)
    assert labels.void == (255 if len(labels) <= 255 else 65535)
    assert not set(labels.void_ids) & set(labels.ids)


@every_set
def test_prompts_are_plain_english(name: str) -> None:
    for prompt in load_label_set(name).prompts:
        assert "," not in prompt
        assert not prompt.endswith(("-other", "-merged", "-stuff")), prompt


@pytest.mark.parametrize(
    ("spelling", "name"),
    [
        ("ADE20K-150", "ade150"),
        ("ade20k_847", "ade847"),
        ("Pascal Context-59", "pc59"),
        ("pascal_context_459", "pc459"),
        ("VOC-20", "voc20"),
        ("COCO-Stuff-171", "coco_stuff171"),
        ("coco-panoptic-133", "coco_panoptic133"),
        ("CamVid", "camvid11"),
    ],
)
def test_usual_spellings(spelling: str, name: str) -> None:
    assert load_label_set(spelling) is load_label_set(name)


def test_parts_of_speech_are_fixed_in_prompts() -> None:
    stuff = load_label_set("coco_stuff171")
    assert stuff.prompts[stuff.index("wall-brick")] == "brick wall"
    assert stuff.prompts[stuff.index("floor-tile")] == "tiled floor"
    voc = load_label_set("voc20")
    assert voc.prompts[voc.index("pottedplant")] == "potted plant"
    ade = load_label_set("ade847")
    assert ade.prompts[ade.index("screen, crt screen")] == "crt screen"
    assert "tv" in ade.synonyms[ade.names.index(next(n for n in ade.names if "idiot box" in n))]


def test_things() -> None:
    assert load_label_set("coco_stuff171").things == tuple(range(80))
    assert load_label_set("voc21").things == tuple(range(1, 21))
    assert load_label_set("camvid11").things == ()


def test_an_unknown_class_is_named() -> None:
    with pytest.raises(InputError, match="ADE20K-150 has no class 'sofas'"):
        load_label_set("ade150").index("sofas")


# --------------------------------------------------------------------------------------
# Against the official lists
# --------------------------------------------------------------------------------------


def test_ade847_is_official(shared: Path) -> None:
    official = rows(shared / "labels" / "ade847.csv")
    labels = load_label_set("ade847")
    assert list(labels.names) == [r["name"] for r in official]
    assert list(labels.ids) == [int(r["ade_full_id"]) for r in official]
    for row, prompt, synonyms in zip(official, labels.prompts, labels.synonyms, strict=True):
        words = row["name"].split(", ")
        if len(words) > 1 and "c p u " not in words:  # the official entry has a stray ", "
            assert {*words} <= {prompt, *synonyms}


def test_ade150_is_official(shared: Path) -> None:
    official = rows(shared / "data/fixtures/ade20k_sceneparsing_sample/objectInfo150.csv")
    labels = load_label_set("ade150")
    assert list(labels.ids) == [int(r["Idx"]) for r in official] == list(range(1, 151))
    kinds = ["stuff" if r["Stuff"] == "1" else "thing" for r in official]
    assert list(labels.kinds) == kinds
    for i, row in enumerate(official):
        # The list joins words with ";" instead of blanks and commas: "door;double;door".
        words = row["Name"].split(";")
        assert words[: len(labels.names[i].split())] == labels.names[i].split() or i == 89
        ours = set(" ".join((labels.names[i], *labels.synonyms[i])).split())
        assert ours <= set(words) <= ours | set(labels.prompts[i].split()), row["Name"]
    assert labels.names[89] == "television receiver"


def test_pascal_context_is_official(shared: Path) -> None:
    all_classes = rows(shared / "labels" / "pc459.csv")
    large = load_label_set("pc459")
    assert list(large.names) == [r["name"] for r in all_classes]
    assert list(large.ids) == [int(r["index"]) + 1 for r in all_classes]
    frequent = [r["name"] for r in rows(shared / "labels" / "pc59.csv")]
    small = load_label_set("pc59")
    assert list(small.names) == frequent
    number = {r["name_in_labels_txt"]: int(r["index"]) + 1 for r in all_classes}
    assert list(small.ids) == [number[name] for name in frequent]


def test_pascal_context_59_numberings() -> None:
    labels = load_label_set("pc59")
    assert labels.other_ids["labels59"] == tuple(range(1, 60))
    in_order = sorted(labels.names)
    assert [in_order.index(n) + 1 for n in labels.names] == list(labels.other_ids["sorted60"])
    assert labels.partial


def test_voc_is_official(shared: Path) -> None:
    official = rows(shared / "labels" / "voc20.csv")
    without, with_background = load_label_set("voc20"), load_label_set("voc21")
    assert list(without.names) == [r["name"] for r in official]
    assert list(without.ids) == [int(r["voc_id"]) for r in official]
    assert with_background.names == ("background", *without.names)
    assert with_background.ids == tuple(range(21))
    assert 0 in without.void_ids


def test_coco_stuff_is_official(shared: Path) -> None:
    official = rows(shared / "labels" / "coco_stuff171.csv")
    labels = load_label_set("coco_stuff171")
    assert list(labels.names) == [r["name"] for r in official]
    assert list(labels.ids) == [int(r["stuffthingmap_value"]) for r in official]
    assert labels.other_ids["coco_category_id"] == tuple(i + 1 for i in labels.ids)


def test_coco_panoptic_is_official(shared: Path) -> None:
    path = shared / "data/fixtures/coco_panopticapi_sample/panoptic_coco_categories.json"
    official = json.loads(path.read_text())
    labels = load_label_set("coco_panoptic133")
    assert list(labels.names) == [c["name"] for c in official]
    assert list(labels.ids) == [c["id"] for c in official]
    assert [kind == "thing" for kind in labels.kinds] == [bool(c["isthing"]) for c in official]


def test_camvid_is_official(shared: Path) -> None:
    path = shared / "data" / "camvid" / "classes.txt"
    official = [line.split("\t") for line in path.read_text().splitlines()]
    labels = load_label_set("camvid11")
    assert [[str(i), n] for i, n in zip(labels.ids, labels.names, strict=True)] == official
    assert load_label_set(path).names == labels.names


# --------------------------------------------------------------------------------------
# Lists of the user's own
# --------------------------------------------------------------------------------------


def test_a_text_file(tmp_path: Path) -> None:
    path = tmp_path / "rooms.txt"
    path.write_text("sofa, couch\n\nwindow\n", encoding="utf-8")
    labels = load_label_set(path)
    assert labels.name == "rooms"
    assert labels.names == ("sofa, couch", "window")
    assert labels.prompts == ("sofa", "window")
    assert labels.synonyms == (("couch",), ())
    assert labels.ids == (0, 1)
    assert labels.void == 255


def test_a_file_of_words_as_segment_takes_it(tmp_path: Path) -> None:
    file = tmp_path / "words.txt"
    file.write_text("# my words\ncat: kitten\n\ndog # barks\nwashing machine, dryer\n")
    assert load_label_set(str(file)).names == ("cat", "dog", "washing machine, dryer")


def test_a_text_file_with_ids(tmp_path: Path) -> None:
    path = tmp_path / "classes.txt"
    path.write_text("7\tperson\tthing\n9\tcar\tthing\n")
    assert load_label_set(path).ids == (7, 9)
    assert load_label_set(path).names == ("person", "car")


def test_names_with_a_common_first_word_keep_different_prompts(tmp_path: Path) -> None:
    path = tmp_path / "bags.txt"
    path.write_text("bag\nbag, suitcase\n")
    assert load_label_set(path).prompts == ("bag", "bag, suitcase")


def test_coco_categories(tmp_path: Path) -> None:
    path = tmp_path / "categories.json"
    path.write_text('[{"id": 1, "name": "person", "isthing": 1}, {"id": 5, "name": "sky"}]')
    labels = load_label_set(path)
    assert labels.ids == (1, 5)
    assert labels.kinds == ("thing", None)


def test_more_than_255_classes_need_16_bits(tmp_path: Path) -> None:
    path = tmp_path / "many.txt"
    path.write_text("\n".join(f"class {i}" for i in range(256)))
    assert load_label_set(path).void == 65535


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("a.txt", "cat\ncat\n", "name 'cat' occurs twice"),
        ("a.txt", "", "1 to 65535 classes, not 0"),
        ("a.txt", "3\tcat\ndog\n", "either every class has an id or none has"),
        ("a.txt", "3\tcat\n3\tdog\n", "id 3 occurs twice"),
        ("a.json", "{", "not JSON"),
        ("a.json", '{"names": ["cat"]}', 'an object with a list "classes"'),
        ("a.json", "[1]", "entry 0 is neither a name nor"),
        ("a.json", '[" "]', "entry 0 has an empty name"),
        ("a.json", '[{"name": "cat", "id": "1"}]', "the id '1' is not a whole number"),
        ("a.json", '[{"name": "cat", "kind": "beast"}]', "not 'beast'"),
        ("a.json", '[{"name": "cat", "synonyms": "tom"}]', "synonyms is a list of words"),
    ],
)
def test_lists_that_are_none(tmp_path: Path, file: str, content: str, message: str) -> None:
    path = tmp_path / file
    path.write_text(content)
    with pytest.raises(InputError, match=message) as raised:
        load_label_set(path)
    assert str(path) in str(raised.value)
    assert "\n" not in str(raised.value)


def test_no_such_list() -> None:
    with pytest.raises(InputError, match="no label set or file 'ade151': give one of ade150"):
        load_label_set("ade151")


def test_a_file_that_is_too_large(tmp_path: Path) -> None:
    path = tmp_path / "large.txt"
    with path.open("wb") as file:
        file.truncate(16 * 2**20 + 1)
    with pytest.raises(InputError, match="larger than 16 MiB"):
        load_label_set(path)


def test_columns_of_different_length() -> None:
    with pytest.raises(InputError, match="1 ids for 2 names"):
        LabelSet(
            name="mine",
            title="mine",
            names=("a", "b"),
            prompts=("a", "b"),
            synonyms=((), ()),
            ids=(0,),
            kinds=(None, None),
            void=255,
        )


def test_digest_depends_on_order_and_ids(tmp_path: Path) -> None:
    for name, text in (("a", "x\ny"), ("b", "y\nx"), ("c", "x\ny")):
        (tmp_path / f"{name}.txt").write_text(text)
    a, b, c = (load_label_set(tmp_path / f"{n}.txt").digest for n in "abc")
    assert a == c != b
