"""What is in an archive, member after member, read so that no archive can ask for more memory than a few megabytes.

An archive may be made to harm: all that is read from it is a claim until it has been checked. Here the forms are read
and their checksums compared; which members may become files is decided in runner/data/fetching/unpacking.py.
"""

import bz2
import contextlib
import lzma
import os
import re
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from typing import IO, BinaryIO, NamedTuple, Protocol

from runner.errors import DataError

FILE, FOLDER = "a file", "a folder"
BLOCK_BYTES = 2**20
_PACKED_BYTES = 2**16

_XZ_MEMORY_BYTES = 2**28  # `xz -9` needs a quarter of it
_MAX_TAR_HEADER_BYTES = 2**15  # of one member, with its extended headers; a path has at most 4 kB
_MAX_TAR_PADDING_BYTES = 2**24
_LONG_NUMBER = re.compile(rb"[0-9]{1000}")
_MAX_ZIP_DIRECTORY_BYTES = 2**26

_ZIP_ENCRYPTED = 0x1 | 0x40 | 0x2000
_ZIP_UTF8 = 0x800

_BEGINNINGS = {
    b"\x1f\x8b": "gz",
    b"BZh": "bz2",
    b"\xfd7zXZ\0": "xz",
    b"PK\x03\x04": "zip",
    b"PK\x05\x06": "zip",
}
_OTHER_BEGINNINGS = {
    b"7z\xbc\xaf\x27\x1c": "a 7z archive",
    b"Rar!": "a RAR archive",
    b"\x28\xb5\x2f\xfd": "compressed by zstd",
    b"\x04\x22\x4d\x18": "compressed by lz4",
    b"\x1f\x9d": "compressed by compress",
    b"LZIP": "compressed by lzip",
    b"version https://git-lfs": "a pointer of Git LFS, not the file itself",
    b"\xff\xd8\xff": "a JPEG picture",
    b"\x89PNG": "a PNG picture",
}
_TAR_KINDS = {
    tarfile.REGTYPE: FILE,
    tarfile.AREGTYPE: FILE,
    tarfile.DIRTYPE: FOLDER,
    tarfile.SYMTYPE: "a symbolic link",
    tarfile.LNKTYPE: "a hard link",
    tarfile.CHRTYPE: "a device",
    tarfile.BLKTYPE: "a device",
    tarfile.FIFOTYPE: "a named pipe",
    tarfile.GNUTYPE_SPARSE: "a file with holes",
}
_ZIP_KINDS = {
    stat.S_IFLNK: "a symbolic link",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
}


class ArchiveError(DataError):
    """An archive that is not unpacked; the text says why, and stands after the archive's name.

    Attributes:
        remedy: what to do, as a sentence.
    """

    remedy = "If you trust it, unpack it by hand, and use that folder with --set data.source=FOLDER."


class DamagedError(ArchiveError):
    """An archive that is not as it was packed."""

    remedy = "Get it again, and compare its SHA-256 if whoever offers it names one."


class NoArchiveError(ArchiveError):
    """A file of a kind that is not read."""

    remedy = "Give a tar (plain, gz, bz2 or xz) or a zip."


class Member(NamedTuple):
    """One entry of an archive.

    Attributes:
        name: as the archive has it; bytes that are no UTF-8 are lone surrogates.
        kind: FILE, FOLDER, or in words what else it is.
        size: the bytes that the archive claims for it.
        blocks: reads its bytes; to be used up before the next member is asked for.
    """

    name: str
    kind: str
    size: int
    blocks: Callable[[], Iterator[bytes]]


def archive_kind(head: bytes) -> str:
    """Which archive begins with these bytes, the first 512 of a file: tar, gz, bz2, xz or zip.

    Raises:
        NoArchiveError: none that can be read.
    """
    for beginning, kind in _BEGINNINGS.items():
        if head.startswith(beginning):
            return kind
    with contextlib.suppress(tarfile.HeaderError, ValueError):
        # A tar has no name of its own at its beginning in all of its forms, but a checksum.
        tarfile.TarInfo.frombuf(head, "utf-8", "surrogateescape")
        return "tar"

    for beginning, other in _OTHER_BEGINNINGS.items():
        if head.startswith(beginning):
            raise NoArchiveError(f"it is {other}.")
    if head.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"<"):
        raise NoArchiveError("it is a web page, not an archive.")
    what = f"it begins with {head[:8].hex(' ')}" if head.strip(b"\0") else "it is empty"
    raise NoArchiveError(f"it is no archive that can be read ({what}).")


def read_members(stream: BinaryIO) -> Iterator[Member]:
    """Reads all members of an archive, in its own order, and at the end its checksum.

    Args:
        stream: a file that is open for reading.

    Raises:
        ArchiveError: it is damaged, cut off, or of no kind that is read.
        OSError: the file can't be read.
    """
    kind = archive_kind(stream.read(tarfile.BLOCKSIZE))
    stream.seek(0)
    if kind == "zip":
        yield from _zip_members(stream)
    else:
        decoder = {"gz": _GzipDecoder, "bz2": bz2.BZ2Decompressor, "xz": _xz_decoder, "tar": None}[kind]
        yield from _tar_members(_Decompressed(stream, decoder) if decoder else stream)


@contextlib.contextmanager
def _damage_named() -> Iterator[None]:
    """Turns what the readers of archives raise into ArchiveError: with bytes made to harm, that is almost anything."""
    try:
        yield
    except (ArchiveError, MemoryError):
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.errno is not None:  # of the disk; errors of a format have no number
            raise
        reason = "it ends too early" if isinstance(error, EOFError) else ascii(str(error) or type(error).__name__)[1:-1]
        raise DamagedError(f"it is damaged or cut off ({reason}).") from error


# Compressed streams.


class _Decoder(Protocol):
    """What bz2 and lzma offer: decompresses a part of one stream, to a limited number of bytes."""

    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int = -1) -> bytes: ...


class _GzipDecoder:
    """The same for gzip. zlib compares checksum and length at the end."""

    def __init__(self) -> None:
        self._zlib = zlib.decompressobj(wbits=31)

    @property
    def eof(self) -> bool:
        return self._zlib.eof

    @property
    def needs_input(self) -> bool:
        return not self._zlib.unconsumed_tail

    @property
    def unused_data(self) -> bytes:
        return self._zlib.unused_data

    def decompress(self, data: bytes, max_length: int = -1) -> bytes:
        return self._zlib.decompress(self._zlib.unconsumed_tail + data, max_length)


def _xz_decoder() -> lzma.LZMADecompressor:
    # Without a limit, a header of a few bytes makes it allocate 4 GB.
    return lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_XZ_MEMORY_BYTES)


class _Decompressed:
    """The bytes of a compressed file, which may be several streams one after another, as bzip2 and pigz write them.

    Not the standard library's files: they have no limit of memory, and gzip's reads as many streams as it likes.
    """

    def __init__(self, stream: BinaryIO, new_decoder: Callable[[], _Decoder]) -> None:
        self._stream = stream
        self._new_decoder = new_decoder
        self._decoder = new_decoder()
        self._waiting = memoryview(b"")

    def read(self, count: int) -> bytes:
        """At most so many of the next bytes; none only at the end."""
        # Headers are read in small amounts, and each call of a decoder copies the rest of its input.
        if not self._waiting:
            self._waiting = memoryview(self._decompress())
        found, self._waiting = self._waiting[:count], self._waiting[count:]
        return bytes(found)

    def _decompress(self) -> bytes:
        """The next block; none only at the end."""
        while True:
            # Several streams may stand one behind the other.
            data = b""
            if self._decoder.eof:
                data = self._decoder.unused_data.lstrip(b"\0")  # zeros fill a tape's last block
                while not data and (more := self._stream.read(_PACKED_BYTES)):
                    data = more.lstrip(b"\0")
                if not data:
                    return b""
                self._decoder = self._new_decoder()
            elif self._decoder.needs_input:
                data = self._stream.read(_PACKED_BYTES)
                if not data:
                    raise EOFError

            if found := self._decoder.decompress(data, BLOCK_BYTES):
                return found


# Tar.


class _Readable(Protocol):
    def read(self, count: int, /) -> bytes: ...


class _TarStream:
    """A stream as tarfile needs it: read forwards only, and for headers in small amounts only."""

    def __init__(self, stream: _Readable) -> None:
        self._stream = stream
        self._position = 0
        self._header_bytes = _MAX_TAR_HEADER_BYTES
        self.last_block = b""

    def next_header(self) -> None:
        """Allows tarfile to read one member's headers."""
        self._header_bytes = _MAX_TAR_HEADER_BYTES

    def tell(self) -> int:
        return self._position

    def read(self, count: int) -> bytes:
        """Exactly so many bytes, or fewer at the end. Headers alone are read this way."""
        # tarfile would read a header of any size that it claims, and a negative one to the end of the file.
        if not 0 <= count <= self._header_bytes:
            raise DamagedError("it is damaged: the header of a member is too large.")
        self._header_bytes -= count
        self.last_block = b"".join(self._blocks(count))
        # Some versions of tarfile take a time that grows with the square of it.
        if _LONG_NUMBER.search(self.last_block):
            raise DamagedError("it is damaged: the header of a member has a number of too many digits.")
        return self.last_block

    def seek(self, position: int) -> None:
        """Skips forwards. tarfile skips what fills the last block of a member."""
        if position < self._position:
            raise DamagedError("it is damaged: a member has a negative size.")
        for _ in self._blocks(position - self._position):
            pass

    def data(self, count: int) -> Iterator[bytes]:
        """Exactly so many bytes. Raises ArchiveError where there are fewer."""
        before = self._position
        with _damage_named():
            yield from self._blocks(count)
            if self._position - before != count:
                raise EOFError

    def check_end(self) -> None:
        """Reads to the end, where the checksum is. Raises ArchiveError where the members do not end as a tar does."""
        # tarfile takes a broken header for the end of the archive, and the end of the file, too.
        if len(self.last_block) < tarfile.BLOCKSIZE:
            raise EOFError
        if any(self.last_block):
            raise DamagedError("it is damaged: the header of a member can't be read.")

        padding = 0
        while block := self._stream.read(BLOCK_BYTES):
            padding += len(block)
            if any(block) or padding > _MAX_TAR_PADDING_BYTES:
                raise DamagedError("it goes on after its end: it was made of several archives, or it is damaged.")

    def _blocks(self, count: int) -> Iterator[bytes]:
        while count and (block := self._stream.read(min(count, BLOCK_BYTES))):
            self._position += len(block)
            count -= len(block)
            yield block


def _tar_members(stream: _Readable) -> Iterator[Member]:
    source = _TarStream(stream)
    with _damage_named():
        try:
            tar = tarfile.TarFile(fileobj=source, encoding="utf-8", errors="surrogateescape")  # type: ignore[arg-type]
        except tarfile.ReadError as error:
            raise NoArchiveError(f"there is no tar in it ({error}).") from error

    while True:
        with _damage_named():
            source.next_header()
            info = tar.next()
            tar.members.clear()  # type: ignore[attr-defined]  # it would keep a kilobyte for each member
            if info is None:
                source.check_end()
                return
            kind = _TAR_KINDS.get(info.type, "of a kind that is not known")
            if info.issparse():
                kind = _TAR_KINDS[tarfile.GNUTYPE_SPARSE]
            if info.size < 0 or (kind == FILE and info.offset_data != source.tell()):
                raise DamagedError("it is damaged: a member has no possible size.")
        yield Member(info.name, kind, info.size, partial(source.data, info.size))


# Zip.


class _ZipStream:
    """A file as zipfile needs it, which does not read all of a huge directory at once."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self.seek, self.tell, self.seekable = stream.seek, stream.tell, stream.seekable

    def read(self, count: int = -1) -> bytes:
        """Exactly so many bytes; all to the end where no number is given."""
        wanted = self.size - self.tell() if count < 0 else count
        if wanted > _MAX_ZIP_DIRECTORY_BYTES:
            raise ArchiveError("the list of its members is too long.")
        return self._stream.read(max(wanted, 0))

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return os.fstat(self._stream.fileno()).st_size


def _zip_members(stream: BinaryIO) -> Iterator[Member]:
    source = _ZipStream(stream)
    with _damage_named():
        archive = zipfile.ZipFile(source)
        infos = archive.infolist()
        # A small zip can hold millions of members that are all the same bytes of it.
        if sum(info.compress_size for info in infos) > source.size:
            raise ArchiveError("its members overlap, as no honest program packs them.")
    for info in infos:
        yield Member(_zip_name(info), _zip_kind(info), info.file_size, partial(_zip_blocks, archive, info))


def _zip_name(info: zipfile.ZipInfo) -> str:
    """The whole name: `info.filename` ends at the first NUL."""
    name = info.orig_filename
    if info.flag_bits & _ZIP_UTF8:
        return name
    # Without the flag the bytes are of an unknown encoding, on Linux UTF-8. zipfile has taken them for code page 437.
    return name.encode("cp437").decode("utf-8", "surrogateescape")


def _zip_kind(info: zipfile.ZipInfo) -> str:
    form = stat.S_IFMT(info.external_attr >> 16)  # where it was packed on Unix, zero elsewhere
    if info.flag_bits & _ZIP_ENCRYPTED:
        return "encrypted"
    if form in _ZIP_KINDS:
        return _ZIP_KINDS[form]
    # Others are rare, and zipfile decompresses them without a limit of memory.
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        return "packed by another method than deflate"
    if not info.orig_filename.endswith("/"):
        return "a folder with the name of a file" if form == stat.S_IFDIR else FILE
    return "a folder with content" if info.file_size else FOLDER


def _zip_blocks(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> Iterator[bytes]:
    """All bytes of a member. Raises ArchiveError where their number or their checksum is wrong."""
    with _damage_named():
        member: IO[bytes] = archive.open(info)
        with member:
            count = 0
            while block := member.read(BLOCK_BYTES):
                count += len(block)
                yield block
        if count != info.file_size:
            raise EOFError
