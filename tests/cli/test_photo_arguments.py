"""Which arguments are photos, which files that means, and where results go."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from scanseg.cli.photo_arguments import find_photos, plan_outputs, split_arguments
from scanseg.contracts import InputError


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def touch(*names: str) -> None:
    for name in names:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).touch()


def targets(*arguments: str, recursive: bool = False, output: str = "out") -> dict[str, str]:
    photos = find_photos(arguments, recursive=recursive, output=Path(output))
    return {photo.shown: photo.target.as_posix() for photo in photos}


# ------------------------------------------------------------------ photos or words


@pytest.mark.parametrize(
    ("arguments", "photos"),
    [
        (["a.jpg", "cat", "sofa"], 1),
        (["a.jpg", "folder", "cat"], 2),
        (["-", "cat"], 1),
        (["missing.JPEG", "cat"], 1),
        (["*.jpg", "cat"], 1),
        (["notes", "cat"], 1),  # an existing file without an image ending
        (["IMG_1.heic", "cat"], 1),  # read_photo says what to do about it
        (["a.jpg", "cat*"], 1),  # a pattern without a match is a word
    ],
)
def test_leading_photos(arguments: list[str], photos: int) -> None:
    touch("a.jpg", "folder/b.jpg", "notes")
    found = split_arguments(arguments, words_elsewhere=False)
    assert found == (arguments[:photos], arguments[photos:])


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["cat", "dog"], "no photo was given: 'cat' is not a file, a folder or a pattern"),
        (["", "cat"], "no photo was given"),
        (["a.jpg"], "no words were given: add what"),
        (["a.jpg", "folder"], r"no words were given \('folder' exists here and counts as photos"),
        (["a.jpg", "cat", "b.png"], "the photo 'b.png' comes after the word 'cat'"),
    ],
)
def test_mistakes(arguments: list[str], line: str) -> None:
    touch("a.jpg", "folder/b.jpg")
    with pytest.raises(InputError, match=line):
        split_arguments(arguments, words_elsewhere=False)


def test_words_from_an_option() -> None:
    touch("a.jpg", "cat/b.jpg")
    assert split_arguments(["a.jpg", "cat"], words_elsewhere=True) == (["a.jpg", "cat"], [])
    with pytest.raises(InputError, match=r"'dog' is not a file.* words come from an option"):
        split_arguments(["a.jpg", "dog"], words_elsewhere=True)


# ------------------------------------------------------------------ files


def test_a_file_is_named_after_itself() -> None:
    touch("photos/trip.1/Füße 猫.JPG")
    assert targets("photos/trip.1/Füße 猫.JPG") == {"photos/trip.1/Füße 猫.JPG": "Füße 猫"}
    assert targets("-") == {"standard input": "stdin"}


def test_a_folder_gives_its_images_sorted() -> None:
    touch("p/b.jpg", "p/a.png", "p/notes.txt", "p/.hidden.jpg", "p/sub/c.jpg", "p/.git/d.jpg")
    assert targets("p") == {"p/a.png": "a", "p/b.jpg": "b"}
    assert targets("p", recursive=True) == {"p/a.png": "a", "p/b.jpg": "b", "p/sub/c.jpg": "sub/c"}


def test_a_pattern_gives_its_images() -> None:
    touch("p/1/a.jpg", "p/2/a.jpg", "p/2/notes.txt")
    assert targets("p/*/a*") == {"p/1/a.jpg": "1/a", "p/2/a.jpg": "2/a"}
    assert targets("p/**/*.jpg") == {"p/1/a.jpg": "1/a", "p/2/a.jpg": "2/a"}


def test_a_file_whose_name_looks_like_a_pattern() -> None:
    touch("a[1].jpg")
    assert targets("a[1].jpg") == {"a[1].jpg": "a[1]"}


def test_equal_names_in_two_folders_keep_the_folders() -> None:
    touch("x/1.jpg", "y/1.jpg", "y/sub/1.jpg")
    assert targets("x/1.jpg", "y/1.jpg") == {"x/1.jpg": "x/1", "y/1.jpg": "y/1"}
    assert targets("x", "y", recursive=True) == {
        "x/1.jpg": "x/1",
        "y/1.jpg": "y/1",
        "y/sub/1.jpg": "y/sub/1",
    }


def test_equal_names_in_one_folder_keep_their_endings() -> None:
    touch("cup.jpg", "cup.png", "CUP.gif", "dog.jpg")
    assert targets("cup.jpg", "cup.png", "CUP.gif", "dog.jpg") == {
        "cup.jpg": "cup.jpg",
        "cup.png": "cup.png",
        "CUP.gif": "CUP.gif",
        "dog.jpg": "dog",
    }
    touch("dog_overlay.jpg")  # its map would be the overlay of dog.jpg
    assert targets("dog.jpg", "dog_overlay.jpg") == {
        "dog.jpg": "dog.jpg",
        "dog_overlay.jpg": "dog_overlay.jpg",
    }


def test_a_photo_given_twice_is_done_once() -> None:
    touch("p/a.jpg")
    assert targets("p/a.jpg", "p", "./p/a.jpg", "p/*.jpg") == {"p/a.jpg": "a"}


def test_results_inside_the_folder_are_no_photos() -> None:
    touch("p/a.jpg", "p/out/a.png", "p/out/deep/a_overlay.png")
    assert targets("p", recursive=True, output="p/out") == {"p/a.jpg": "a"}
    assert targets("p/**/*", output="p/out") == {"p/a.jpg": "a"}
    assert targets("p/out/a.png", output="p/out") == {"p/out/a.png": "a"}  # asked for by name
    assert targets("p", recursive=True, output=".")["p/a.jpg"] == "a"
    touch("p/sub/b.jpg")
    assert targets("p/sub", "p/sub/*.jpg", output="p") == {"p/sub/b.jpg": "b"}


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["missing.jpg"], "missing.jpg does not exist"),
        (["p", "missing.jpg"], "missing.jpg does not exist"),
        (["https://example.org/cat.jpg"], "is a web address: download"),
        (["empty"], "the folder empty has no photos in it; --recursive"),
        (["p/*.txt"], "the pattern 'p/.*' matches no photos"),
        (["-", "-"], "standard input .* twice"),
        (["p/../out"], "results in out would mix with the photos there"),
        (["out/*.jpg"], "results in out would mix"),
    ],
)
def test_files_that_are_not_there(arguments: list[str], line: str) -> None:
    touch("p/a.jpg", "p/a.txt", "empty/notes.txt", "out/b.jpg")
    with pytest.raises(InputError, match=line):
        targets(*arguments)


def test_a_folder_that_cannot_be_read(here: Path) -> None:
    touch("p/a.jpg")
    (here / "p").chmod(0)
    try:
        os.listdir("p")
    except PermissionError:
        with pytest.raises(InputError, match="the folder p cannot be read"):
            targets("p")
    else:
        pytest.skip("this user may read everything")
    finally:
        (here / "p").chmod(0o755)


# ------------------------------------------------------------------ results


def test_three_files_per_photo() -> None:
    touch("x/1.jpg", "y/1.jpg")
    photos = find_photos(["x", "y"], recursive=False, output=Path("out"))
    plan = plan_outputs(photos, Path("out"))
    assert [p.as_posix() for p in plan[1].all()] == [
        "out/y/1.png",
        "out/y/1_overlay.png",
        "out/y/1.json",
    ]


def test_a_photo_is_never_replaced() -> None:
    touch("p/a.png")
    photos = find_photos(["p/a.png"], recursive=False, output=Path("p"))
    with pytest.raises(InputError, match=r"the result p.a\.png would replace a photo"):
        plan_outputs(photos, Path("p"))
