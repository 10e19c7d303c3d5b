"""One file out of an archive, and archives that are none."""

from __future__ import annotations

import io
import os
import stat
import tarfile
import zipfile

import pytest

from core.data.download import extract_member
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
def test_a_member_of_any_tar_is_read(tmp_path, mode):
    archive = make_tar(tmp_path / "a", entry("sub", tarfile.DIRTYPE), entry("sub/one.csv"), mode=mode)

    assert extract_member(archive, "one.csv", tmp_path / "out" / "one.csv").read_bytes() == b"data"
    assert os.listdir(tmp_path / "out") == ["one.csv"]


@pytest.mark.parametrize("name", ["../evil", "a/../../evil", "/tmp/evil", "..\\evil", "C:\\evil"])
def test_a_member_with_any_name_lands_where_we_say(tmp_path, name):
    for archive in (make_zip(tmp_path / "a.zip", [name]), make_tar(tmp_path / "a.tar", entry(name))):
        extract_member(archive, name, tmp_path / "in" / "file")

        assert os.listdir(tmp_path / "in") == ["file"]


@pytest.mark.parametrize(
    "member",
    [
        entry("link", tarfile.SYMTYPE, "/etc/passwd"),
        entry("link", tarfile.SYMTYPE, "inside"),
        entry("link", tarfile.LNKTYPE, "good"),
        entry("device", tarfile.CHRTYPE),
        entry("pipe", tarfile.FIFOTYPE),
    ],
    ids=lambda member: f"{member.name}-{member.type.decode()}-{member.linkname}",
)
def test_a_link_or_device_in_a_tar_is_no_file(tmp_path, member):
    archive = make_tar(tmp_path / "a.tar.gz", entry("good"), member)

    with pytest.raises(UserError, match=f"holds 0 files '{member.name}'"):
        extract_member(archive, member.name, tmp_path / "out")

    assert os.listdir(tmp_path) == ["a.tar.gz"]


def test_a_link_in_a_zip_is_no_file(tmp_path):
    with pytest.raises(UserError, match="holds 0 files 'l'"):
        extract_member(make_zip(tmp_path / "a.zip", ["l"], mode=stat.S_IFLNK | 0o777), "l", tmp_path / "out")


def test_one_member_is_found_by_the_end_of_its_path(tmp_path):
    archive = make_zip(tmp_path / "a.zip", ["set/weather.csv", "set/other.csv", "__MACOSX/set/weather.csv"])

    path = extract_member(archive, "weather.csv", tmp_path / "out" / "weather.csv")

    assert path.read_bytes() == b"data"
    with pytest.raises(UserError, match=r"holds 0 files 'eather\.csv'"):
        extract_member(archive, "eather.csv", tmp_path / "x")


def test_damaged_foreign_and_missing_archives_are_the_users_mistakes(tmp_path):
    whole = make_tar(tmp_path / "a.tar.gz", entry("x" * 90)).read_bytes()
    (tmp_path / "cut.tar.gz").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text").write_text("no archive")
    damaged = bytearray(make_zip(tmp_path / "a.zip", ["one"]).read_bytes())
    damaged[36] ^= 0xFF
    (tmp_path / "bad.zip").write_bytes(damaged)

    for name, member in (("cut.tar.gz", "x" * 90), ("text", "one"), ("bad.zip", "one"), ("absent", "one")):
        with pytest.raises(UserError, match=r"damaged|neither|no archive"):
            extract_member(tmp_path / name, member, tmp_path / "out")
        assert not (tmp_path / "out").exists()
