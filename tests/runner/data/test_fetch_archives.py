"""Archives made to harm, and those that only look odd: what `python -m runner.data fetch` makes of them."""

import bz2
import gzip
import io
import lzma
import os
import random
import re
import stat
import struct
import tarfile
import warnings
import zipfile
import zlib
from pathlib import Path

import pytest

from runner.data.fetching.fetch import fetch
from runner.data.fetching.unpacking import Limits
from runner.errors import Exit, UserError

LIMITS = Limits(size=3 * 10**6, entries=200, ratio=100.0, free_size=10**6)
PICTURE = random.Random(0).randbytes(3000)
OUTSIDE = "outside.txt"  # lies beside DIR, and no archive may touch it


# Tars, from members or from bare blocks.


def member(
    name: str, data: bytes = b"", kind: bytes = tarfile.REGTYPE, **fields: object
) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.type, info.size = kind, len(data)
    for field, value in fields.items():
        setattr(info, field, value)
    return info, data


def blocks(*members: tuple[tarfile.TarInfo, bytes], form: int = tarfile.PAX_FORMAT) -> bytes:
    """Members as they lie in a tar, without its end."""
    content = b""
    for info, data in members:
        content += info.tobuf(form, "utf-8", "surrogateescape") + data + bytes(-len(data) % 512)
    return content


def tar(*members: tuple[tarfile.TarInfo, bytes], form: int = tarfile.PAX_FORMAT) -> bytes:
    """A tar that begins with a good picture, so that a part could be unpacked."""
    return blocks(member("set/train/1.jpg", PICTURE), *members, form=form) + bytes(1024)


def header(name: bytes, size: bytes, kind: bytes = b"0") -> bytes:
    """A bare header, which may claim anything, with its right checksum."""
    fields = [name.ljust(100, b"\0"), b"0000644\0" + b"0000000\0" * 2, size.ljust(12, b"\0"), b"00000000000\0"]
    start = b"".join(fields)
    block = (start + b" " * 8 + kind + bytes(100) + b"ustar\x0000" + bytes(247)).ljust(512, b"\0")
    return start + b"%06o\0 " % sum(block) + block[156:]


def pax(record: bytes) -> bytes:
    """An extended header for the member that follows."""
    length = len(record) + 3
    line = b"%d %s\n" % (length + len(str(length)) - 1, record)
    line = b"%d %s\n" % (len(line), record)
    return header(b"pax", b"%011o" % len(line), b"x") + line + bytes(-len(line) % 512)


def bare(*parts: bytes) -> bytes:
    return blocks(member("set/train/1.jpg", PICTURE)) + b"".join(parts) + bytes(1024)


# Zips, and what is changed in them afterwards.


def zip_of(*entries: tuple[str | zipfile.ZipInfo, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    """A zip that begins with a good picture."""
    stream = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of a name that is there twice
        with zipfile.ZipFile(stream, "w", method) as archive:
            for name, data in (("set/train/1.jpg", PICTURE), *entries):
                archive.writestr(name, data)
    return stream.getvalue()


def entry(name: str, mode: int = 0, system: int = 3) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.external_attr, info.create_system = mode << 16, system
    return info


def changed(data: bytes, *, local: int | None = None, directory: int | None = None, value: bytes) -> bytes:
    """A zip of which the last entry's headers have other bytes at these places."""
    content = bytearray(data)
    for place, sign in ((local, b"PK\x03\x04"), (directory, b"PK\x01\x02")):
        if place is not None:
            start = content.rindex(sign) + place
            content[start : start + len(value)] = value
    return bytes(content)


def overlapping() -> bytes:
    """A zip whose 100 entries are the same bytes, under one name in the file and 100 in the directory."""
    content = zip_of(("b.jpg", random.Random(1).randbytes(100_000)))
    start = content.rindex(b"PK\x01\x02")
    end = content.rindex(b"PK\x05\x06")
    last = content[start:end]
    directory = content[content.index(b"PK\x01\x02") : start] + last * 100
    offset = content.index(b"PK\x01\x02")
    return (
        content[:offset] + directory + b"PK\x05\x06" + struct.pack("<4H2IH", 0, 0, 101, 101, len(directory), offset, 0)
    )


def xz_with_dictionary(code: int) -> bytes:
    """An xz stream whose block asks for a dictionary of up to 4 GB."""
    content = bytearray(lzma.compress(tar(), filters=[{"id": lzma.FILTER_LZMA2, "dict_size": 4096}]))
    size = (content[12] + 1) * 4
    block = content[12 : 12 + size - 4]
    place = block.index(b"\x21\x01") + 2  # LZMA2, one byte of properties
    block[place] = code
    content[12 : 12 + size] = block + struct.pack("<I", zlib.crc32(block))
    return bytes(content)


def deep_folders(count: int) -> bytes:
    return tar(*(member("/".join([f"set{number}", *"abcdefghij"]), kind=tarfile.DIRTYPE) for number in range(count)))


ZEROS = bytes(2 * 10**6)
LINK, HARD = tarfile.SYMTYPE, tarfile.LNKTYPE
REFUSED: dict[str, tuple[bytes, str]] = {
    # Names that lead elsewhere, or that are not the same everywhere.
    "tar absolute path": (tar(member("/tmp/evil.jpg", b"x")), "its path is absolute"),
    "tar absolute path by pax": (bare(pax(b"path=/tmp/evil.jpg"), header(b"a", b"0")), "its path is absolute"),
    "tar two slashes first": (tar(member("//tmp/evil.jpg", b"x")), "its path is absolute"),
    "tar up": (tar(member("../outside.txt", b"x")), "which leads out of the folder"),
    "tar up in the middle": (tar(member("set/../../outside.txt", b"x")), "which leads out"),
    "tar up and down again": (tar(member("set/../set/2.jpg", b"x")), "which leads out"),
    "tar up as a folder": (tar(member("..", kind=tarfile.DIRTYPE)), "which leads out"),
    "tar backslash": (tar(member("set\\train\\2.jpg", b"x")), "a backslash"),
    "tar backslash up": (tar(member("..\\..\\outside.txt", b"x")), "a backslash"),
    "tar drive": (tar(member("C:/evil.jpg", b"x")), "a drive letter"),
    "tar drive without slash": (tar(member("c:evil.jpg", b"x")), "a drive letter"),
    "tar NUL": (bare(pax(b"path=2.jpg\0.exe"), header(b"a", b"0")), "a NUL"),
    "tar no UTF-8": (bare(header(b"set/\xff\xfe.jpg", b"0")), "is no UTF-8"),
    "tar newline": (tar(member("set/a\nb.jpg", b"x")), "a control character"),
    "tar escape sequence": (tar(member("set/\x1b[2Jb.jpg", b"x")), "a control character"),
    "tar C1 control": (tar(member("set/\x9b2Jb.jpg", b"x")), "a control character"),
    "tar line separator": (tar(member("set/a\u2028b.jpg", b"x")), "a control character"),
    "tar long name": (tar(member("set/" + "a" * 256, b"x")), "its name is too long"),
    "tar long name in bytes": (tar(member("set/" + "é" * 128, b"x")), "its name is too long"),
    "tar long path": (tar(member("/".join(["abcdefghij" * 20] * 6), b"x")), "its name is too long"),
    "tar deep path": (tar(member("a/" * 40 + "b.jpg", b"x")), "its name is too long"),
    "tar file as folder": (bare(header(b"set/b/", b"0")), "a file with the name of a folder"),
    "tar no name": (bare(header(b"", b"0")), "a file without a name"),
    "tar dot": (tar(member("./.", b"x")), "a file without a name"),
    # What is no file.
    "tar link out": (tar(member("set/2.jpg", kind=LINK, linkname="/etc/passwd")), "is a symbolic link"),
    "tar link inside": (tar(member("set/2.jpg", kind=LINK, linkname="train/1.jpg")), "is a symbolic link"),
    "tar through a link": (
        tar(member("up", kind=LINK, linkname=".."), member("up/outside.txt", b"x")),
        "is a symbolic link",
    ),
    "tar hard link out": (tar(member("set/2.jpg", kind=HARD, linkname="/etc/passwd")), "is a hard link"),
    "tar hard link inside": (tar(member("set/2.jpg", kind=HARD, linkname="set/train/1.jpg")), "is a hard link"),
    "tar character device": (tar(member("set/zero", kind=tarfile.CHRTYPE, devmajor=1, devminor=5)), "is a device"),
    "tar block device": (tar(member("set/disk", kind=tarfile.BLKTYPE)), "is a device"),
    "tar pipe": (tar(member("set/pipe", kind=tarfile.FIFOTYPE)), "is a named pipe"),
    "tar contiguous file": (tar(member("set/2.jpg", kind=tarfile.CONTTYPE)), "of a kind that is not known"),
    "tar unknown kind": (tar(member("set/2.jpg", kind=b"Z")), "of a kind that is not known"),
    "tar holes": (bare(header(b"set/2.jpg", b"0", b"S")), "is a file with holes|is damaged"),
    "tar holes by pax": (
        bare(pax(b"GNU.sparse.map=0,1"), pax(b"GNU.sparse.size=1000000000000"), header(b"set/2.jpg", b"0")),
        "is a file with holes|is damaged",
    ),
    # Names that clash.
    "tar twice": (tar(member("set/2.jpg", b"x"), member("set/2.jpg", b"y")), "is there twice"),
    "tar twice by another path": (tar(member("set/2.jpg", b"x"), member("./set//2.jpg", b"y")), "is there twice"),
    "tar case": (tar(member("set/a.jpg", b"x"), member("set/A.jpg", b"y")), "differ in upper and lower case"),
    "tar case of a folder": (tar(member("Set/train/2.jpg", b"x")), "differ in upper and lower case"),
    "tar accents": (tar(member("set/\u00e9.jpg", b"x"), member("set/e\u0301.jpg", b"y")), "differ in upper and lower"),
    "tar sharp s": (tar(member("set/ß.jpg", b"x"), member("set/SS.jpg", b"y")), "differ in upper and lower case"),
    "tar file then folder": (tar(member("set/a", b"x"), member("set/a/2.jpg", b"y")), "a file and a folder at once"),
    "tar folder then file": (tar(member("set/a/2.jpg", b"x"), member("set/a", b"y")), "a file and a folder at once"),
    # Damage.
    "tar cut in a file": (tar()[:2000], "ends too early"),
    "tar cut between members": (tar()[:3584], "ends too early"),
    "tar cut in a header": (tar(member("set/2.jpg", b"x"))[:3900], "damaged or cut off"),
    "tar broken header": (bare(b"x" * 512, blocks(member("set/2.jpg", b"x"))), "a member can't be read"),
    "tar goes on": (tar() + tar(), "goes on after its end"),
    "tar size of a terabyte": (bare(header(b"set/2.jpg", b"%o" % 10**10)), "its files have more than 3.0 MB"),
    "tar size beyond the end": (bare(header(b"set/2.jpg", b"%o" % 10**6)), "ends too early"),
    "tar negative size": (bare(header(b"set/2.jpg", b"\xff" * 12)), "no possible size|negative size"),
    "tar negative size of a name": (bare(header(b"long", b"\xff" * 10 + b"\xfd\xff", b"L")), "is too large"),
    "tar negative size of an extended header": (bare(header(b"pax", b"\xff" * 10 + b"\xfd\xff", b"x")), "is too large"),
    "tar size by pax": (bare(pax(b"size=99999999999999999999"), header(b"2.jpg", b"0")), "more than 3.0 MB"),
    "tar size by pax, negative": (bare(pax(b"size=-512"), header(b"2.jpg", b"0")), "no possible size|negative size"),
    "tar endless name": (gzip.compress(bare(header(b"long", b"%o" % 10**9, b"L"), bytes(10**6))), "is too large"),
    "tar endless extended header": (bare(header(b"pax", b"%o" % 10**9, b"x")), "is too large"),
    "tar many extended headers": (bare(*[pax(b"comment=a")] * 200), "is too large"),
    "tar extended header of digits": (
        bare(header(b"p", b"%o" % 30_000, b"x"), b"1" * 30_208),
        "a number of too many digits",
    ),
    "tar endless padding": (gzip.compress(tar() + bytes(20 * 10**6)), "goes on after its end"),
    "gz cut": (gzip.compress(tar())[:1500], "ends too early"),
    "gz cut in its checksum": (gzip.compress(tar())[:-3], "ends too early"),
    "gz wrong checksum": (gzip.compress(tar())[:-8] + b"abcd" + gzip.compress(tar())[-4:], "incorrect data check"),
    "gz wrong length": (gzip.compress(tar())[:-4] + b"abcd", "incorrect length check"),
    "gz garbage behind": (gzip.compress(tar()) + b"garbage", "incorrect header check"),
    "gz second tar behind": (gzip.compress(tar()) + gzip.compress(tar()), "goes on after its end"),
    "gz of no tar": (gzip.compress(PICTURE), "there is no tar in it"),
    "gz of nothing": (gzip.compress(b""), "there is no tar in it"),
    "gz twice": (gzip.compress(gzip.compress(tar())), "there is no tar in it"),
    "bz2 damaged": (bz2.compress(tar())[:200] + b"\0" * 20 + bz2.compress(tar())[220:], "damaged"),
    "bz2 cut": (bz2.compress(tar())[:-10], "ends too early"),
    "xz damaged": (lzma.compress(tar())[:200] + b"\0" * 20 + lzma.compress(tar())[220:], "damaged"),
    "xz cut": (lzma.compress(tar())[:-10], "ends too early"),
    "xz asks for 4 GB of memory": (xz_with_dictionary(40), "Memory usage limit"),
    # Bombs.
    "gz bomb": (gzip.compress(tar(member("set/2.jpg", ZEROS))), "it is a bomb"),
    "bz2 bomb": (bz2.compress(tar(member("set/2.jpg", ZEROS))), "it is a bomb"),
    "xz bomb": (lzma.compress(tar(member("set/2.jpg", ZEROS))), "it is a bomb"),
    "gz bomb of many streams": (gzip.compress(tar(member("a", ZEROS))[:-1024]) + gzip.compress(ZEROS), "it is a bomb"),
    "tar of many files": (tar(*(member(f"set/{number}.jpg") for number in range(300))), "more than 200 files"),
    "tar of many folders": (deep_folders(30), "more than 200 files and folders"),
    "tar of much": (tar(member("set/2.jpg", bytes(3_100_000))), "its files have more than 3.0 MB"),
    "tar of much in parts": (
        tar(*(member(f"set/{number}.jpg", bytes(700_000)) for number in range(8))),
        "its files have more than 3.0 MB",
    ),
    # The same in zips.
    "zip absolute path": (zip_of(("/tmp/evil.jpg", b"x")), "its path is absolute"),
    "zip up": (zip_of(("../outside.txt", b"x")), "which leads out"),
    "zip backslash": (zip_of(("set\\2.jpg", b"x")), "a backslash"),
    "zip drive": (zip_of(("C:/evil.jpg", b"x")), "a drive letter"),
    "zip NUL": (zip_of(("set/2.jpgQ.exe", b"x")).replace(b"2.jpgQ.exe", b"2.jpg\0.exe"), "a NUL"),
    "zip escape sequence": (zip_of(("set/\x1b[2J", b"x")), "a control character"),
    "zip no UTF-8": (zip_of(("set/QQ.jpg", b"x")).replace(b"QQ", b"\xff\xfe"), "is no UTF-8"),
    "zip no UTF-8 that says it is": (zip_of(("set/é.jpg", b"x")).replace("é".encode(), b"\xff\xfe"), "can't decode"),
    "zip long name": (zip_of(("a" * 300, b"x")), "its name is too long"),
    "zip link": (zip_of((entry("set/2.jpg", stat.S_IFLNK | 0o777), b"/etc/passwd")), "is a symbolic link"),
    "zip link from elsewhere": (zip_of((entry("set/2.jpg", stat.S_IFLNK, 0), b"/etc/passwd")), "is a symbolic link"),
    "zip pipe": (zip_of((entry("set/pipe", stat.S_IFIFO), b"")), "is a named pipe"),
    "zip device": (zip_of((entry("set/zero", stat.S_IFCHR), b"")), "is a device"),
    "zip socket": (zip_of((entry("set/socket", stat.S_IFSOCK), b"")), "is a socket"),
    "zip folder as file": (zip_of((entry("set/2.jpg", stat.S_IFDIR), b"x")), "a folder with the name of a file"),
    "zip folder with content": (zip_of(("set/b/", b"content")), "a folder with content"),
    "zip encrypted": (changed(zip_of(("a", b"x")), local=6, directory=8, value=b"\x01\0"), "is encrypted"),
    "zip strongly encrypted": (changed(zip_of(("a", b"x")), local=6, directory=8, value=b"\x41\0"), "is encrypted"),
    "zip twice": (zip_of(("set/2.jpg", b"x"), ("set/2.jpg", b"y")), "is there twice"),
    "zip case": (zip_of(("set/Train/2.jpg", b"x")), "differ in upper and lower case"),
    "zip by bzip2": (zip_of(("a", b"x"), method=zipfile.ZIP_BZIP2), "another method than deflate"),
    "zip by lzma": (zip_of(("a", b"x"), method=zipfile.ZIP_LZMA), "another method than deflate"),
    "zip by an unknown method": (
        changed(zip_of(("a", b"x")), local=8, directory=10, value=b"\x5d\0"),
        "another method",
    ),
    "zip cut": (zip_of(("a", b"x"))[:-30], "damaged or cut off"),
    "zip without its beginning": (b"PK\x03\x04" + zip_of(("a", b"x" * 99))[400:], "damaged|its members overlap"),
    "zip wrong checksum": (changed(zip_of(("a", b"x")), directory=16, value=b"abcd"), "Bad CRC-32"),
    "zip too small a size": (changed(zip_of(("a", b"xyz" * 99)), directory=24, value=b"\x05\0"), "Bad CRC-32"),
    "zip too large a size": (changed(zip_of(("a", b"xyz" * 99)), directory=24, value=b"\xff\xff"), "ends too early"),
    "zip size of 4 GB": (changed(zip_of(("a", b"x")), directory=24, value=b"\xfe\xff\xff\xff"), "more than 3.0 MB"),
    "zip two names": (changed(zip_of(("aa", b"x")), local=30, value=b"bb"), "differ"),
    "zip overlapping": (overlapping(), "its members overlap"),
    "zip entry outside": (changed(zip_of(("a", b"x")), directory=42, value=b"\xff\xff\xff\x7f"), "damaged"),
    "zip bomb": (zip_of(("set/2.jpg", ZEROS)), "it is a bomb"),
    "zip of many files": (zip_of(*((f"{number}.jpg", b"") for number in range(300))), "more than 200 files"),
    "zip of much": (zip_of(("2.jpg", bytes(3_100_000)), method=zipfile.ZIP_STORED), "more than 3.0 MB"),
    # No archive, or one without pictures.
    "nothing": (b"", "it is empty"),
    "zeros": (bytes(10_000), "it is empty"),
    "noise": (random.Random(2).randbytes(5000), "no archive that can be read"),
    "web page": (b"<!DOCTYPE html><html></html>", "it is a web page"),
    "web page with a mark": (b"\xef\xbb\xbf\r\n<html></html>", "it is a web page"),
    "7z": (b"7z\xbc\xaf\x27\x1c" + bytes(600), "Give a tar (plain, gz, bz2 or xz) or a zip."),
    "RAR": (b"Rar!\x1a\x07\x01\0", "it is a RAR archive"),
    "zstd": (b"\x28\xb5\x2f\xfd" + bytes(600), "compressed by zstd"),
    "Git LFS": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "a pointer of Git LFS"),
    "picture": (b"\xff\xd8\xff\xe0" + bytes(600), "it is a JPEG picture"),
    "empty tar": (bytes(10240), "it is empty"),
    "empty zip": (b"PK\x05\x06" + bytes(18), "it holds no pictures"),
    "no pictures": (
        gzip.compress(blocks(member("set/readme.txt", b"x")) + bytes(1024)),
        "it holds no pictures (1 file",
    ),
    "archive in an archive": (gzip.compress(blocks(member("set.zip", zip_of())) + bytes(1024)), "it holds no pictures"),
}


@pytest.fixture
def sandbox(tmp_path: Path) -> Path:
    """A folder for DIR, in one that has a file which no archive may touch."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / OUTSIDE).write_text("untouched")
    (tmp_path / OUTSIDE).write_text("untouched")
    return tmp_path


def everything(folder: Path) -> dict[str, tuple[int, bytes]]:
    """All that is below a folder: mode, and content or where a link leads."""
    found = {}
    for path in folder.rglob("*"):
        mode = path.lstat().st_mode
        data = path.read_bytes() if stat.S_ISREG(mode) else str(path.readlink()).encode() if stat.S_ISLNK(mode) else b""
        found[path.relative_to(folder).as_posix()] = (mode, data)
    return found


def refusal(sandbox: Path, data: bytes, limits: Limits = LIMITS) -> str:
    """What a refusal says; it has left everything as it was."""
    (sandbox / "archive").write_bytes(data)
    before = everything(sandbox)
    with pytest.raises(UserError) as caught:
        fetch(str(sandbox / "archive"), str(sandbox / "data" / "new" / "maps"), None, limits)
    assert everything(sandbox) == before
    assert caught.value.exit_code == Exit.BAD_INPUT
    return str(caught.value)


@pytest.mark.parametrize("name", REFUSED)
def test_an_archive_that_is_not_honest_leaves_nothing(sandbox: Path, name: str) -> None:
    data, words = REFUSED[name]
    text = refusal(sandbox, data)
    assert any(each in text for each in words.split("|")), text
    assert text.startswith(f"{sandbox / 'archive'}: ")
    assert text.isprintable()
    assert len(text) < 700


def test_nothing_was_written_to_where_absolute_paths_lead() -> None:
    assert not Path("/tmp/evil.jpg").exists()


@pytest.mark.parametrize("form", ["tar", "gz", "bz2", "xz", "zip"])
def test_damage_anywhere_is_refused_or_harmless(sandbox: Path, form: str) -> None:
    shuffled = random.Random(form)
    pictures = {f"set/train/{number}.jpg": shuffled.randbytes(700) for number in range(4)}
    content = blocks(*(member(name, data) for name, data in pictures.items())) + bytes(1024)
    if form == "zip":
        archive = zip_of(*pictures.items())
    else:
        archive = {"tar": bytes, "gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress}[form](content)

    refused = 0
    for number in range(40):
        damaged = bytearray(archive)
        for _ in range(shuffled.choice((1, 1, 8))):
            damaged[shuffled.randrange(len(damaged))] = shuffled.randrange(256)
        target = sandbox / "data" / f"{number}"
        (sandbox / "archive").write_bytes(damaged)
        before = everything(sandbox)
        try:
            fetch(str(sandbox / "archive"), str(target), None, LIMITS)
        except UserError:
            refused += 1
            assert everything(sandbox) == before
    # A plain tar has checksums of its headers only, and all forms have bytes that mean nothing.
    assert refused >= (5 if form == "tar" else 20)


# What only looks odd.

ACCEPTED: dict[str, bytes] = {
    "plain": tar(),
    "gz": gzip.compress(tar()),
    "bz2": bz2.compress(tar()),
    "xz": lzma.compress(tar()),
    "GNU": tar(form=tarfile.GNU_FORMAT),
    "ustar": tar(form=tarfile.USTAR_FORMAT),
    "dot first": tar(member(".", kind=tarfile.DIRTYPE), member("./set/", kind=tarfile.DIRTYPE)),
    "folders twice": tar(*[member("set/train", kind=tarfile.DIRTYPE)] * 2),
    "padded": tar() + bytes(10**6),
    "several streams": gzip.compress(tar()[:2000]) + gzip.compress(tar()[2000:]) + bytes(100),
    "several xz streams": lzma.compress(tar()[:2000]) + bytes(8) + lzma.compress(tar()[2000:]),
    "comment": bare(pax(b"comment=from git"), header(b"set/", b"0", b"5")),
    "beside the folder": tar(member(".DS_Store", b"x"), member("__MACOSX/._1.jpg", b"x")),
    "zip": zip_of(),
    "zip stored": zip_of(method=zipfile.ZIP_STORED),
    "zip with folders": zip_of(("set/", b""), ("set/train/", b"")),
    "zip with a comment": zip_of()[:-2] + b"\x05\0hello",
}


@pytest.mark.parametrize("name", ACCEPTED)
def test_an_honest_archive_becomes_its_files(sandbox: Path, name: str) -> None:
    (sandbox / "archive").write_bytes(ACCEPTED[name])
    fetch(str(sandbox / "archive"), str(sandbox / "maps"), None, LIMITS)
    files = {path.relative_to(sandbox / "maps").as_posix() for path in (sandbox / "maps").rglob("*") if path.is_file()}
    assert files == {".fetched.json", "train/1.jpg"}
    assert (sandbox / "maps" / "train" / "1.jpg").read_bytes() == PICTURE


def test_rights_and_owners_of_an_archive_are_not_taken_over(sandbox: Path) -> None:
    (sandbox / "archive").write_bytes(
        tar(
            member("set/val", kind=tarfile.DIRTYPE, mode=0o0, uid=12345),
            member("set/val/1.jpg", b"x", mode=0o6777, uid=12345, gid=12345, mtime=0),
            member("set/val/2.jpg", b"x", mode=0o0),
        )
    )
    before = os.umask(0o022)
    try:
        fetch(str(sandbox / "archive"), str(sandbox / "maps"), None, LIMITS)
    finally:
        os.umask(before)
    for path in (sandbox / "maps").rglob("*"):
        found = path.stat()
        assert stat.S_IMODE(found.st_mode) == (0o755 if path.is_dir() else 0o644), path
        assert (found.st_uid, found.st_gid) == (os.geteuid(), os.getegid())


def test_names_that_are_utf8_without_saying_so_are_read_as_utf8(sandbox: Path) -> None:
    content = zip_of(("set/train/QQ.jpg", b"x")).replace(b"QQ", "é".encode())
    (sandbox / "archive").write_bytes(content)
    fetch(str(sandbox / "archive"), str(sandbox / "maps"), None, LIMITS)
    assert (sandbox / "maps" / "train" / "é.jpg").read_bytes() == b"x"


def test_an_archive_inside_stays_a_file_and_is_named(sandbox: Path, capsys: pytest.CaptureFixture[str]) -> None:
    inside = zip_of()  # once: it has the time in it
    (sandbox / "archive").write_bytes(tar(member("set/more.zip", inside)))
    fetch(str(sandbox / "archive"), str(sandbox / "maps"), None, LIMITS)
    assert (sandbox / "maps" / "more.zip").read_bytes() == inside
    assert "1 archive in it stayed a file, such as more.zip" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["a/b/c/train/1.jpg"], ["train/1.jpg"]),
        (["train/1.jpg"], ["train/1.jpg"]),
        (["maps/trainA/1.jpg"], ["trainA/1.jpg"]),
        (["maps/1.jpg"], ["1.jpg"]),
        (["maps/train/1.jpg", "readme.txt"], ["maps/train/1.jpg", "readme.txt"]),
        (["maps/train/1.jpg", "__MACOSX/maps/._1.jpg"], ["train/1.jpg"]),
        (["A/train/1.jpg", "B/train/1.jpg"], ["A/train/1.jpg", "B/train/1.jpg"]),
    ],
)
def test_folders_around_the_pairs_are_taken_off(sandbox: Path, names: list[str], expected: list[str]) -> None:
    (sandbox / "archive").write_bytes(blocks(*(member(name, b"x") for name in names)) + bytes(1024))
    fetch(str(sandbox / "archive"), str(sandbox / "maps"), None, LIMITS)
    files = [path.relative_to(sandbox / "maps").as_posix() for path in (sandbox / "maps").rglob("*") if path.is_file()]
    assert sorted(files) == sorted([".fetched.json", *expected])


def test_an_archive_of_a_fetched_folder_gets_a_record_of_its_own(sandbox: Path) -> None:
    (sandbox / "archive").write_bytes(tar(member("set/.fetched.json", b"of another")))
    for _ in range(2):
        fetch(str(sandbox / "archive"), str(sandbox / "maps"), None, LIMITS)
    assert b"sha256" in (sandbox / "maps" / ".fetched.json").read_bytes()


def test_a_bomb_is_noticed_while_it_is_unpacked(sandbox: Path) -> None:
    text = refusal(sandbox, gzip.compress(tar(member("set/2.jpg", bytes(15 * 10**6)))), Limits(free_size=10**6))
    assert re.search(r"at member 'set/2\.jpg' 0\.0 MB of it have become [12]\.\d MB", text)
