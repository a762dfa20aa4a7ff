"""Archives: what is read from them, and that hostile ones are refused before writing."""

from __future__ import annotations

import gzip
import io
import stat
import tarfile
import zipfile

import pytest

from scanseg.contracts import InputError
from scanseg.data.archives import (
    Bounds,
    FolderBundle,
    Member,
    inflate,
    open_archive,
    safe_path,
)

BOUNDS = Bounds(members=100, total=10_000_000)


def contents(bundle):
    return {m.path: bundle.read(m) for m in bundle.members if m.regular}


def test_zip_tar_and_folder_hold_the_same(make, tmp_path):
    files = {"a/b.txt": b"one", "c.bin": bytes(3_000_000)[:100] + b"x" * 2_500_000, "empty": b""}
    bundles = (
        open_archive(make.tar(tmp_path / "x.tar", files), BOUNDS),
        FolderBundle(make.tree(tmp_path / "folder", files)),
    )
    for bundle in bundles:
        assert contents(bundle) == files
        bundle.close()
    small = {name: data[:1000] for name, data in files.items()}
    assert contents(open_archive(make.zip(tmp_path / "x.zip", small), BOUNDS)) == small


def test_a_folder_leaves_out_links_and_the_output(make, tmp_path):
    make.tree(tmp_path / "in", {"a.txt": b"1", "out/b.txt": b"2"})
    make.tree(tmp_path, {"secret/c.txt": b"3"})
    (tmp_path / "in/link").symlink_to(tmp_path / "secret")
    (tmp_path / "in/link.txt").symlink_to(tmp_path / "secret/c.txt")
    bundle = FolderBundle(tmp_path / "in", without=tmp_path / "in/out")
    assert [m.path for m in bundle.members] == ["a.txt"]


@pytest.mark.parametrize(
    "name", ["../evil", "a/../../evil", "/etc/evil", "C:/evil", "..\\evil", "a\\b", "a\0b", ""]
)
def test_paths_that_lead_out(name):
    assert not safe_path(name)


@pytest.mark.parametrize("name", ["a", "a/b.txt", "./a", "..a/b..", "a/.b"])
def test_paths_that_stay_inside(name):
    assert safe_path(name)


@pytest.mark.parametrize("name", ["../evil.txt", "/evil.txt", "ok/../../evil.txt", "a\\..\\b.txt"])
def test_traversal_is_refused(make, tmp_path, name):
    files = {"fine.txt": b"1", name: b"2"}
    for path in (make.zip(tmp_path / "x.zip", files), make.tar(tmp_path / "x.tar", files)):
        with pytest.raises(InputError, match="leads out of the folder; refused") as error:
            open_archive(path, BOUNDS)
        assert "\n" not in str(error.value)


def test_links_are_not_read(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        link = zipfile.ZipInfo("link.txt")
        link.create_system, link.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, "/etc/passwd")
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        for name, kind in (("link.txt", tarfile.SYMTYPE), ("hard.txt", tarfile.LNKTYPE)):
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname = kind, "/etc/passwd"
            archive.addfile(entry)
        device = tarfile.TarInfo("device")
        device.type = tarfile.CHRTYPE
        archive.addfile(device)
    for name in ("x.zip", "x.tar"):
        bundle = open_archive(tmp_path / name, BOUNDS)
        assert bundle.members
        for member in bundle.members:
            assert not member.regular
            with pytest.raises(InputError, match="is a link or device; refused"):
                bundle.read(member)


def test_encrypted_members_are_refused(make, tmp_path):
    path = make.zip(tmp_path / "x.zip", {"a.txt": b"1"})
    data = bytearray(path.read_bytes())
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        data[data.index(signature) + offset] |= 1
    path.write_bytes(data)
    with pytest.raises(InputError, match=r"'a\.txt' is encrypted; refused"):
        open_archive(path, BOUNDS)


def test_bombs_are_refused(make, tmp_path):
    bomb = make.zip(tmp_path / "x.zip", {"zeros": bytes(5_000_000)})
    with pytest.raises(InputError, match=r"'zeros' unpacks to 5000000 bytes from \d+; refused"):
        open_archive(bomb, BOUNDS)
    many = {f"{i}.txt": b"" for i in range(101)}
    for path in (make.zip(tmp_path / "y.zip", many), make.tar(tmp_path / "y.tar", many)):
        with pytest.raises(InputError, match="more than 100 members; refused"):
            open_archive(path, BOUNDS)
    large = make.tar(tmp_path / "z.tar", {"a": b"x" * 600, "b": b"x" * 600})
    with pytest.raises(InputError, match="unpacks to more than 1000 bytes; refused"):
        open_archive(large, Bounds(members=9, total=1000))


def test_a_gzip_bomb_is_refused(tmp_path):
    path = tmp_path / "x.tgz"
    path.write_bytes(gzip.compress(bytes(5_000_000)))
    target = io.BytesIO()
    with pytest.raises(InputError, match="unpacks to more than 2000000 bytes; refused"):
        inflate(path, target, 2_000_000)
    assert len(target.getvalue()) <= 2_000_000
    told = []
    inflate(path, io.BytesIO(), 5_000_000, told.append)
    assert told[-1] == path.stat().st_size
    for damaged in (path.read_bytes()[:-9], b"no gzip"):
        path.write_bytes(damaged)
        with pytest.raises(InputError, match="not a whole gzip file"):
            inflate(path, io.BytesIO(), 5_000_000)


def test_a_giant_tar_header_is_refused(tmp_path):
    entry = tarfile.TarInfo("long")
    entry.type, entry.size = tarfile.GNUTYPE_LONGNAME, 2**30
    path = tmp_path / "x.tar"
    path.write_bytes(entry.tobuf(tarfile.GNU_FORMAT) + bytes(10_240))
    with pytest.raises(InputError, match="a header of 1073741824 bytes; refused"):
        open_archive(path, BOUNDS)


def test_a_member_that_lies_about_its_size(make, tmp_path):
    bundle = open_archive(make.tar(tmp_path / "x.tar", {"a": b"12345"}), BOUNDS)
    (member,) = bundle.members
    with pytest.raises(InputError, match="not as long as announced"):
        bundle.read(Member(member.path, 10**6, member.offset + 10_000))
    path = make.zip(tmp_path / "x.zip", {"a": b"12345"})
    data = path.read_bytes()
    size = (5).to_bytes(4, "little")
    path.write_bytes(data[:50] + data[50:].replace(size, (3).to_bytes(4, "little")))
    bundle = open_archive(path, BOUNDS)
    with pytest.raises(InputError, match=r"a is damaged|not as long as announced"):
        bundle.read(bundle.members[0])


def test_a_damaged_member(make, tmp_path):
    path = make.zip(tmp_path / "x.zip", {"a": b"hello hello hello hello"})
    data = bytearray(path.read_bytes())
    data[35] ^= 0xFF
    path.write_bytes(data)
    bundle = open_archive(path, BOUNDS)
    with pytest.raises(InputError, match="a is damaged"):
        bundle.read(bundle.members[0])


def test_archives_that_are_cut_or_of_another_kind(make, tmp_path):
    files = {"a": b"x" * 5000, "b": b"y" * 5000}
    for path in (make.zip(tmp_path / "x.zip", files), make.tar(tmp_path / "x.tar", files)):
        whole = path.read_bytes()
        # a tar: within the first data, the second header, the second data, before the end mark
        for length in (3_000, 5_632, 6_000, 9_000, 11_264) if path.suffix == ".tar" else (4, 30):
            path.write_bytes(whole[:length])
            with pytest.raises(InputError, match=r"not a whole .* archive|ends too early"):
                open_archive(path, BOUNDS)
    with pytest.raises(InputError, match=r"expected a \.zip"):
        open_archive(make.tree(tmp_path, {"x.rar": b""}) / "x.rar", BOUNDS)


def test_the_last_of_two_members_counts(make, tmp_path):
    path = make.tar(tmp_path / "x.tar", {"a": b"old"})
    with tarfile.open(path, "a") as archive:
        entry = tarfile.TarInfo("a")
        entry.size = 5
        archive.addfile(entry, io.BytesIO(b"newer"))
    assert contents(open_archive(path, BOUNDS)) == {"a": b"newer"}


def test_members_too_large_for_memory_are_copied_only(make, tmp_path, monkeypatch):
    monkeypatch.setattr("scanseg.data.archives.MAX_FILE_BYTES", 4)
    bundle = open_archive(make.tar(tmp_path / "x.tar", {"a": b"12345"}), BOUNDS)
    with pytest.raises(InputError, match="a has 5 bytes; too many"):
        bundle.read(bundle.members[0])
    target = io.BytesIO()
    bundle.copy(bundle.members[0], target)
    assert target.getvalue() == b"12345"
