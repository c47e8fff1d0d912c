import hashlib
import io
import os
import stat
import tarfile
import zipfile
import zlib

import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fairtrial.core.errors import UserError
from fairtrial.store import UnpackLimits, unpack

HOSTILE_NAMES = [
    "../evil", "a/../../evil", "/tmp/evil", "a/..", "..", "C:evil", "c:\\evil", "a\\..\\evil", "\\\\host\\share",
    "a//b", "a/./b", "nul\x00.txt", "new\nline", "esc\x1b[31m", "", "a/" * 40 + "deep", "x" * 300,
]  # fmt: skip
COLLISIONS = [
    ("A.txt", "a.txt"), ("Dir/x", "dir/y"), ("\u00e9", "e\u0301"), ("stra\u00dfe", "STRASSE"), ("a", "a/b"),
    ("a/b", "a"), ("same", "same"), ("\ufb01le", "file"), ("dot.", "dot"), ("\u212a", "k"), ("./x", "x"),
]  # fmt: skip


def make_zip(path, members):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members:
            info = zipfile.ZipInfo("x")
            info.filename = info.orig_filename = name
            info.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(info, content)
    return path


def make_tar(path, members, mode="w:gz"):
    with tarfile.open(path, mode) as archive:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


MAKERS = [make_zip, make_tar]


def refused(archive, target, match, limits=None):
    with pytest.raises(UserError, match=match) as raised:
        unpack(archive, target, limits)
    assert "\n" not in str(raised.value)
    assert os.listdir(archive.parent) == [archive.name], "nothing may be left behind"


@pytest.mark.parametrize("make", MAKERS)
def test_an_honest_archive_comes_out_whole(make, tmp_path):
    members = [
        ("README.md", b"hello"),
        ("src/a.py", b"print(1)\n" * 1000),
        ("src/deep/er/b", b""),
        ("日本/é.txt", b"x"),
    ]
    archive = make(tmp_path / "archive", members)
    digest = unpack(archive, tmp_path / "new" / "target")
    assert digest == hashlib.sha256(archive.read_bytes()).hexdigest()
    target = tmp_path / "new" / "target"
    found = {p.relative_to(target).as_posix(): p.read_bytes() for p in target.rglob("*") if p.is_file()}
    assert found == dict(members)
    assert os.listdir(tmp_path / "new") == ["target"]


def test_folders_modes_and_dot_slash(tmp_path):
    with tarfile.open(tmp_path / "archive", "w") as archive:
        for name, kind, mode in [
            ("./", tarfile.DIRTYPE, 0o777),
            ("./bin/", tarfile.DIRTYPE, 0),
            ("./bin/run", tarfile.REGTYPE, 0o6755),
        ]:
            info = tarfile.TarInfo(name)
            info.type, info.mode = kind, mode
            archive.addfile(info, io.BytesIO())
    unpack(tmp_path / "archive", tmp_path / "target")
    mode = (tmp_path / "target" / "bin" / "run").stat().st_mode
    assert mode & 0o111
    assert not mode & (stat.S_ISUID | stat.S_ISGID)


def test_zstd_tar(tmp_path):
    make_tar(tmp_path / "plain", [("a", b"1" * 5000)], "w")
    packed = zstandard.compress((tmp_path / "plain").read_bytes())
    (tmp_path / "archive.tar.zst").write_bytes(packed)
    unpack(tmp_path / "archive.tar.zst", tmp_path / "target")
    assert (tmp_path / "target" / "a").read_bytes() == b"1" * 5000


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize("name", HOSTILE_NAMES)
def test_a_name_that_is_no_plain_relative_path_is_refused(make, name, tmp_path):
    if make is make_tar and ("\x00" in name or name == ""):
        pytest.skip("a tar cannot hold this name")
    (tmp_path / "room").mkdir()
    archive = make(tmp_path / "room" / "archive", [("ok.txt", b"1"), (name, b"evil")])
    refused(archive, tmp_path / "room" / "target", "refused: the name|refused: it cannot be read")
    assert not (tmp_path / "evil").exists()


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize("names", COLLISIONS)
def test_names_that_are_one_on_some_file_system_are_refused(make, names, tmp_path):
    with pytest.warns(UserWarning, match="Duplicate") if make is make_zip and names[0] == names[1] else _nothing():
        archive = make(tmp_path / "archive", [(name, b"1") for name in names])
    refused(archive, tmp_path / "target", "one on some file systems|is there twice")


class _nothing:
    def __enter__(self):
        return self

    def __exit__(self, *_):
        return None


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE])
def test_links_and_devices_in_a_tar_are_refused(kind, tmp_path):
    with tarfile.open(tmp_path / "archive", "w:gz") as archive:
        link = tarfile.TarInfo("link")
        link.type, link.linkname = kind, "/etc"
        archive.addfile(link)
        info = tarfile.TarInfo("link/evil")
        info.size = 4
        archive.addfile(info, io.BytesIO(b"evil"))
    refused(tmp_path / "archive", tmp_path / "target", "link, a device or a sparse file")


@pytest.mark.parametrize("mode", [stat.S_IFLNK | 0o777, stat.S_IFCHR | 0o666, stat.S_IFIFO])
def test_links_and_devices_in_a_zip_are_refused(mode, tmp_path):
    with zipfile.ZipFile(tmp_path / "archive", "w") as archive:
        info = zipfile.ZipInfo("link")
        info.create_system, info.external_attr = 3, mode << 16
        archive.writestr(info, "/etc/passwd")
    refused(tmp_path / "archive", tmp_path / "target", "a link or a device")


def test_a_sparse_file_in_a_tar_is_refused(tmp_path):
    with tarfile.open(tmp_path / "archive", "w", format=tarfile.GNU_FORMAT) as archive:
        info = tarfile.TarInfo("holes")
        info.type = tarfile.GNUTYPE_SPARSE
        archive.addfile(info)
    refused(tmp_path / "archive", tmp_path / "target", "sparse")


@pytest.mark.parametrize("make", MAKERS)
def test_bombs_are_refused(make, tmp_path):
    archive = make(tmp_path / "archive", [("zeros", bytes(50 << 20))])
    assert archive.stat().st_size < 100_000
    refused(archive, tmp_path / "target", "more than 200 times its size")
    refused(archive, tmp_path / "target", "more than 1000000 bytes", UnpackLimits(total_bytes=1_000_000))
    unpack(archive, tmp_path / "target", UnpackLimits(ratio=5000))


@pytest.mark.parametrize("make", MAKERS)
def test_too_many_members_are_refused(make, tmp_path):
    archive = make(tmp_path / "archive", [(f"f{number}", b"") for number in range(101)])
    refused(archive, tmp_path / "target", "more than 100 members", UnpackLimits(members=100))


def test_a_zip_that_lies_about_its_size_is_refused(tmp_path):
    content = bytearray(make_zip(tmp_path / "archive", [("zeros", bytes(3 << 20))]).read_bytes())
    size = (3 << 20).to_bytes(4, "little")
    assert content.count(size) == 2
    (tmp_path / "archive").write_bytes(content.replace(size, (10).to_bytes(4, "little")))
    refused(tmp_path / "archive", tmp_path / "target", "refused")


def test_a_tar_header_of_unlikely_size_is_refused(tmp_path):
    with tarfile.open(tmp_path / "archive", "w:gz") as archive:
        info = tarfile.TarInfo("name")
        info.pax_headers = {"comment": "x" * (3 << 20)}
        archive.addfile(info)
    refused(tmp_path / "archive", tmp_path / "target", "header of unlikely size")


def test_an_encrypted_zip_is_refused(tmp_path):
    content = bytearray(make_zip(tmp_path / "archive", [("secret", b"content")]).read_bytes())
    for mark, place in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        content[content.index(mark) + place] |= 1
    (tmp_path / "archive").write_bytes(content)
    refused(tmp_path / "archive", tmp_path / "target", "encrypted")


def test_a_target_with_content_is_left_alone(tmp_path):
    archive = make_zip(tmp_path / "archive", [("a", b"1")])
    (tmp_path / "target").mkdir()
    (tmp_path / "target" / "mine").touch()
    with pytest.raises(UserError, match="exists already"):
        unpack(archive, tmp_path / "target")
    with pytest.raises(UserError, match="cannot be read"):
        unpack(tmp_path / "none", tmp_path / "other")
    assert os.listdir(tmp_path / "target") == ["mine"]


@given(place=st.floats(0, 1), value=st.integers(0, 255), keep=st.floats(0, 1), which=st.integers(0, 2))
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_damaged_archives_unpack_inside_or_are_refused(place, value, keep, which, tmp_path):
    members = [("a.txt", b"hello" * 50), ("dir/b.txt", zlib.compress(bytes(range(256)) * 4))]
    make_zip(tmp_path / "archive", members) if which == 0 else make_tar(
        tmp_path / "archive", members, "w" if which == 1 else "w:gz"
    )
    content = bytearray((tmp_path / "archive").read_bytes())
    content[int(place * (len(content) - 1))] = value
    (tmp_path / "archive").write_bytes(content[: max(1, int(len(content) * max(keep, 0.5)))])
    import shutil

    shutil.rmtree(tmp_path / "target", ignore_errors=True)
    try:
        unpack(tmp_path / "archive", tmp_path / "target")
    except UserError as error:
        assert type(error) is UserError
        assert not (tmp_path / "target").exists()
    assert set(os.listdir(tmp_path)) <= {"archive", "target"}
