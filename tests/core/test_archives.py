"""Archives that try to leave their folder, and those that do not."""

from __future__ import annotations

import io
import os
import re
import stat
import tarfile
import zipfile

import pytest

from core.data.archives import extract, extract_member
from core.errors import UserError


def make_tar(path, *members: tarfile.TarInfo, mode: str = "w:gz"):
    with tarfile.open(path, mode) as archive:
        for member in members:
            archive.addfile(member, io.BytesIO(b"data") if member.isfile() else None)
    return path


def entry(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname, member.size = kind, link, 4 if kind == tarfile.REGTYPE else 0
    return member


def make_zip(path, names, mode: int = stat.S_IFREG | 0o644):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in names:
            info = zipfile.ZipInfo(name)
            info.external_attr = mode << 16
            archive.writestr(info, b"data")
    return path


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "w:xz"])
def test_a_good_tar_is_unpacked(tmp_path, mode):
    archive = make_tar(tmp_path / "a", entry("sub", tarfile.DIRTYPE), entry("sub/one.csv"), mode=mode)

    folder = extract(archive, tmp_path / "out" / "set")

    assert (folder / "sub" / "one.csv").read_bytes() == b"data"
    assert os.listdir(tmp_path / "out") == ["set"]


def test_a_good_zip_is_unpacked(tmp_path):
    folder = extract(make_zip(tmp_path / "a.zip", ["sub/one.csv", "two.csv"]), tmp_path / "set")

    assert (folder / "sub" / "one.csv").read_bytes() == b"data"
    assert sorted(os.listdir(folder)) == ["sub", "two.csv"]


@pytest.mark.parametrize(
    "member",
    [
        entry("../evil"),
        entry("good/../../evil"),
        entry("/tmp/evil"),
        entry("link", tarfile.SYMTYPE, "/etc/passwd"),
        entry("link", tarfile.SYMTYPE, "inside"),
        entry("link", tarfile.LNKTYPE, "good"),
        entry("device", tarfile.CHRTYPE),
        entry("pipe", tarfile.FIFOTYPE),
    ],
    ids=lambda member: f"{member.name}-{member.type.decode()}-{member.linkname}",
)
def test_a_tar_that_tries_to_leave_is_refused_before_anything_is_written(tmp_path, member):
    archive = make_tar(tmp_path / "a.tar.gz", entry("good"), member)

    with pytest.raises(UserError, match=re.escape(f"member {member.name!r}")):
        extract(archive, tmp_path / "in" / "set")

    assert sorted(os.listdir(tmp_path)) == ["a.tar.gz", "in"]
    assert os.listdir(tmp_path / "in") == []


@pytest.mark.parametrize("name", ["../evil", "a/../../evil", "/evil", "..\\evil", "C:\\evil", "C:evil"])
def test_a_zip_that_tries_to_leave_is_refused(tmp_path, name):
    with pytest.raises(UserError, match="outside the folder"):
        extract(make_zip(tmp_path / "a.zip", ["good", name]), tmp_path / "in" / "set")

    assert os.listdir(tmp_path / "in") == []


def test_a_link_in_a_zip_is_refused(tmp_path):
    with pytest.raises(UserError, match="is a link"):
        extract(make_zip(tmp_path / "a.zip", ["l"], mode=stat.S_IFLNK | 0o777), tmp_path / "set")


def test_one_member_is_found_by_the_end_of_its_path(tmp_path):
    archive = make_zip(tmp_path / "a.zip", ["set/weather.csv", "set/other.csv", "__MACOSX/set/weather.csv"])

    path = extract_member(archive, "weather.csv", tmp_path / "out" / "weather.csv")

    assert path.read_bytes() == b"data"
    with pytest.raises(UserError, match=r"holds 0 files 'eather\.csv'"):
        extract_member(archive, "eather.csv", tmp_path / "x")
    tar = make_tar(tmp_path / "a.tar", entry("x/one"), entry("l", tarfile.SYMTYPE, "x/one"), mode="w")
    assert extract_member(tar, "one", tmp_path / "one").read_bytes() == b"data"
    with pytest.raises(UserError, match="holds 0 files 'l'"):
        extract_member(tar, "l", tmp_path / "x")


def test_damaged_foreign_missing_and_repeated_archives_are_the_users_mistakes(tmp_path):
    whole = make_tar(tmp_path / "a.tar.gz", entry("x" * 90)).read_bytes()
    (tmp_path / "cut.tar.gz").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text").write_text("no archive")
    damaged = bytearray(make_zip(tmp_path / "a.zip", ["one"]).read_bytes())
    damaged[36] ^= 0xFF
    (tmp_path / "bad.zip").write_bytes(damaged)

    for name in ("cut.tar.gz", "text", "bad.zip", "absent"):
        with pytest.raises(UserError, match=r"damaged|neither|no archive"):
            extract(tmp_path / name, tmp_path / "set")
        assert not (tmp_path / "set").exists()
    (tmp_path / "set").mkdir()
    with pytest.raises(UserError, match="there already"):
        extract(tmp_path / "a.tar.gz", tmp_path / "set")
