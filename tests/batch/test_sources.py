"""Listing and reading photos of folders, manifests and tar files."""

from __future__ import annotations

import io
import os
import tarfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from scanseg.batch.sources import Item, Reader, open_source
from scanseg.contracts import InputError
from scanseg.formats.photos import PhotoLimits


def listed(source: str | Path, output: str | Path = "nowhere") -> list[Item]:
    return list(open_source(str(source)).items(Path(output)))


def keys(source: str | Path, output: str | Path = "nowhere") -> list[str]:
    return [item.key for item in listed(source, output)]


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(os.fsencode(name))


def write_tar(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, data in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    return path


def test_a_folder_gives_its_photos_in_order_of_their_names(tmp_path: Path) -> None:
    touch(tmp_path, "b.jpg", "a/2.png", "a/1.JPG", "a/b/3.webp", "notes.txt", ".hidden.jpg")
    touch(tmp_path, ".git/x.jpg", "results/images/y.png")
    assert keys(tmp_path, tmp_path / "results") == ["b.jpg", "a/1.JPG", "a/2.png", "a/b/3.webp"]


def test_links_to_folders_are_not_followed(tmp_path: Path) -> None:
    touch(tmp_path, "a/1.jpg")
    (tmp_path / "a" / "round").symlink_to(tmp_path)
    assert keys(tmp_path) == ["a/1.jpg"]


def test_csv_manifest_with_words_of_its_own(tmp_path: Path) -> None:
    touch(tmp_path, "x/1.jpg")
    (tmp_path / "list.csv").write_text(
        'id,path,labels\n7,x/1.jpg,"cat, red sofa"\n8,x/1.jpg,\n', encoding="utf-8"
    )
    first, second = listed(tmp_path / "list.csv")
    assert first == Item("x/1.jpg", labels=("cat", "red sofa"))
    assert second == Item("x/1.jpg", labels=None)
    reader = Reader(open_source(str(tmp_path / "list.csv")), PhotoLimits())
    assert reader.read(first) == b"x/1.jpg"  # relative to the manifest


def test_parquet_manifest(tmp_path: Path) -> None:
    table = pa.table({"path": ["1.jpg", "2.jpg"], "labels": [["cat", "dog"], None]})
    pq.write_table(table, tmp_path / "list.parquet")
    assert listed(tmp_path / "list.parquet") == [
        Item("1.jpg", labels=("cat", "dog")),
        Item("2.jpg"),
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("file\n1.jpg\n", "no column 'path' .*it has file"),
        ('path\n1.jpg\n""\n', "row 2: the path is empty"),
        ("", "no column 'path' .*it has no column"),
        ("path\n\xff.jpg\n", "not UTF-8"),
    ],
)
def test_manifests_that_cannot_be_used(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "list.csv").write_bytes(content.encode("latin-1"))
    with pytest.raises(InputError, match=message):
        listed(tmp_path / "list.csv")


def test_a_damaged_parquet_manifest(tmp_path: Path) -> None:
    (tmp_path / "list.parquet").write_bytes(b"PAR1 and then nothing")
    with pytest.raises(InputError, match="cannot be read as Parquet"):
        listed(tmp_path / "list.parquet")


def test_tar_files_follow_the_webdataset_layout(tmp_path: Path) -> None:
    write_tar(tmp_path / "b.tar", {"3.jpg": b"three"})
    write_tar(
        tmp_path / "a.tar",
        {"1.jpg": b"one", "1.seg.png": b"mask", "1.txt": b"words", "d/2.PNG": b"two"},
    )
    assert keys(tmp_path) == ["a.tar/1.jpg", "a.tar/d/2.PNG", "b.tar/3.jpg"]
    assert keys(tmp_path / "b.tar") == ["b.tar/3.jpg"]
    assert keys(f"{tmp_path}/[ab].tar") == keys(tmp_path)
    source = open_source(str(tmp_path))
    reader = Reader(source, PhotoLimits())
    contents = [reader.read(item) for item in source.items(tmp_path)]
    assert contents == [b"one", b"two", b"three"]
    reader.close()


def test_a_tar_member_that_is_too_large_or_gone(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar", {"1.jpg": bytes(2000)})
    reader = Reader(open_source(str(path)), PhotoLimits(max_bytes=1000))
    with pytest.raises(InputError, match=r"a\.tar/1\.jpg is larger than"):
        reader.read(Item("a.tar/1.jpg", "a.tar"))
    with pytest.raises(InputError, match="no longer in the archive"):
        reader.read(Item("a.tar/2.jpg", "a.tar"))
    reader.close()


def test_an_archive_that_was_cut_off_since(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar", {"1.jpg": bytes(20_000)})
    path.write_bytes(path.read_bytes()[:5000])
    reader = Reader(open_source(str(path)), PhotoLimits())
    with pytest.raises(InputError, match=r"^a\.tar: .*get it again"):
        reader.read(Item("a.tar/1.jpg", "a.tar"))


def test_a_hostile_tar_is_refused(tmp_path: Path) -> None:
    write_tar(tmp_path / "a.tar", {"../1.jpg": b"one"})
    with pytest.raises(InputError, match="leads out of the folder"):
        listed(tmp_path)


def test_what_is_no_source(tmp_path: Path) -> None:
    touch(tmp_path, "notes.txt")
    for text, message in [
        (tmp_path / "nothing", "does not exist"),
        (tmp_path / "notes.txt", "is no source of photos"),
        (f"{tmp_path}/*.tar", "matches no .tar files"),
    ]:
        with pytest.raises(InputError, match=message):
            open_source(str(text))


def test_errors_name_the_key_and_no_folder(tmp_path: Path) -> None:
    (tmp_path / "d.jpg").mkdir()
    reader = Reader(open_source(str(tmp_path)), PhotoLimits())
    for key, message in [("gone.jpg", "does not exist"), ("d.jpg", "is a folder, not a photo")]:
        with pytest.raises(InputError) as caught:
            reader.read(Item(key))
        assert str(caught.value) == f"{key} {message}"


def test_labels_without_quotes_are_not_cut(tmp_path: Path) -> None:
    path = tmp_path / "list.csv"
    path.write_text("path,labels\n1.jpg,cat,\n2.jpg,cat, dog, tree\n", encoding="utf-8")
    with pytest.raises(InputError, match="row 2 has more fields than columns: put labels in quo"):
        listed(path)


def test_a_folder_with_a_name_that_is_not_utf8(tmp_path: Path) -> None:
    bad = tmp_path / os.fsdecode(b"d\xff")
    try:
        touch(bad, "\u00fc.jpg", os.fsdecode(b"\xfe.jpg"))
    except OSError:
        pytest.skip("this file system takes text only")
    assert keys(tmp_path) == ["d\\xff/\u00fc.jpg", "d\\xff/\\xfe.jpg"]
    reader = Reader(open_source(str(tmp_path)), PhotoLimits())
    for item in listed(tmp_path):
        with pytest.raises(InputError, match="the file name is not UTF-8 text: rename"):
            reader.read(item)
    with pytest.raises(InputError, match=r"d.xff is not UTF-8 text: rename"):
        open_source(str(bad))


def test_a_tar_member_with_a_name_that_is_not_utf8(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as tar:
        tar.addfile(tarfile.TarInfo(os.fsdecode(b"\xff.jpg")))
    (item,) = listed(path)
    assert item.key == "a.tar/\\xff.jpg"
    reader = Reader(open_source(str(path)), PhotoLimits())
    with pytest.raises(InputError, match="the file name is not UTF-8 text: rename"):
        reader.read(item)
    reader.close()
