"""Walk the headers of a tar file without ever stopping silently.

The readers of Python and WebDataset end quietly at a broken header and at a cut between two members. This walk knows the
size of the file and asks for the zero block that ends every archive, so that whatever was lost gets a name and an offset.
"""

import tarfile
from dataclasses import dataclass, field
from typing import BinaryIO

from pipeline.sample import Damage

BLOCK = 512
MAX_EXTENDED_BYTES = 1 << 20
ZERO_BLOCK = bytes(BLOCK)
OTHER_FORMATS = {
    b"PK\x03\x04": "a zip file",
    b"\x89PNG": "a PNG picture",
    b"\xff\xd8\xff": "a JPEG picture",
    b"\x28\xb5\x2f\xfd": "zstd-compressed data (not supported: expand it first)",
    b"%PDF": "a PDF file",
    b"<": "markup, perhaps an error page that was saved under this name",
}
LINK_KINDS = {
    tarfile.SYMTYPE: "a symbolic link",
    tarfile.LNKTYPE: "a hard link",
    tarfile.CHRTYPE: "a character device",
    tarfile.BLKTYPE: "a block device",
    tarfile.FIFOTYPE: "a named pipe",
}


@dataclass(frozen=True, kw_only=True)
class Member:
    """One member of a tar; names keep undecodable bytes as surrogates; `problem` is empty when the member is whole."""

    name: str
    offset: int
    size: int
    problem: str = ""


@dataclass(kw_only=True)
class TarIndex:
    """Members in file order; `after_end` says that the damage lies behind a properly closed archive."""

    members: list[Member] = field(default_factory=list)
    damage: Damage | None = None
    after_end: bool = False
    directories: int = 0


def index_tar(file: BinaryIO, size: int) -> TarIndex:
    """List the members of a seekable tar of `size` bytes, up to its end or its first damage."""
    return _Walk(file, size).run()


class _Walk:
    def __init__(self, file: BinaryIO, size: int) -> None:
        self.file = file
        self.size = size
        self.position = 0
        self.index = TarIndex()
        self.names: dict[str, str] = {}
        self.defaults: dict[str, str] = {}
        self.closed = False

    def run(self) -> TarIndex:
        while self._step():
            pass
        return self.index

    def _step(self) -> bool:
        """Read one header; return False at the end of the archive or at damage."""
        block = self._read(self.position, BLOCK)
        if len(block) < BLOCK:
            return self._end_without_mark(block)
        if block == ZERO_BLOCK:
            return self._skip_zeros()
        try:
            header = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        except tarfile.HeaderError:
            return self._broken_header(block)
        if header.size < 0:
            return self._damage("a member with a negative size", expected="a size of 0 or more", found=str(header.size))
        self.closed = False
        return self._member(header, block)

    def _member(self, header: tarfile.TarInfo, block: bytes) -> bool:
        start = self.position + BLOCK
        if header.type in (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK):
            return self._extension(header, start)
        names, self.names = {**self.defaults, **self.names}, {}
        name = names.get("path", header.name)
        if header.type == tarfile.DIRTYPE:
            self.index.directories += 1
            self.position = start
            return True
        if header.type in LINK_KINDS:
            target = f" to {names.get('linkpath', header.linkname)!r}" if header.islnk() or header.issym() else ""
            problem = f"{LINK_KINDS[header.type]}{target}, which is not followed: store the file itself"
            self.index.members.append(Member(name=name, offset=start, size=0, problem=problem))
            self.position = start
            return True
        problem = "a sparse file, which is not supported: store it as a plain file" if self._is_sparse(header, names) else ""
        if header.type == tarfile.GNUTYPE_SPARSE:
            start = self._after_sparse_map(start, block)
        return self._data(name, start, size=_pax_size(names, header.size), problem=problem)

    def _data(self, name: str, start: int, *, size: int, problem: str) -> bool:
        if start + size > self.size:
            present = max(0, self.size - start)
            cut = f"cut short: {present} of {size} bytes are there"
            self.index.members.append(Member(name=name, offset=start, size=present, problem=cut))
            reason = f"the file ends inside member {printable(name)}"
            return self._damage(reason, offset=self.size, expected=f"{start + size} bytes or more", found=f"{self.size} bytes")
        self.index.members.append(Member(name=name, offset=start, size=size, problem=problem))
        self.position = start + _rounded(size)
        if self.position > self.size:
            return self._damage(
                f"the file ends in the padding after member {printable(name)}",
                offset=self.size,
                expected="padding to a multiple of 512 bytes and the zero block that ends an archive",
                found="the end of the file",
            )
        return True

    def _extension(self, header: tarfile.TarInfo, start: int) -> bool:
        """Read a header that only describes the next member: a long name or a table of pax values."""
        if header.size > MAX_EXTENDED_BYTES:
            return self._damage(
                "a name table that is too large", expected=f"at most {MAX_EXTENDED_BYTES} bytes", found=f"{header.size} bytes"
            )
        data = self._read(start, header.size)
        if len(data) < header.size:
            return self._damage("the file ends inside a name table", expected=f"{header.size} bytes", found=f"{len(data)} bytes")
        if header.type == tarfile.GNUTYPE_LONGNAME:
            self.names["path"] = data.rstrip(b"\0").decode("utf-8", "surrogateescape")
        elif header.type == tarfile.GNUTYPE_LONGLINK:
            self.names["linkpath"] = data.rstrip(b"\0").decode("utf-8", "surrogateescape")
        else:
            values = _pax_values(data)
            if values is None:
                return self._damage("a pax header that cannot be parsed", expected="records 'length name=value'", found=_shown(data))
            (self.defaults if header.type == tarfile.XGLTYPE else self.names).update(values)
        self.position = start + _rounded(header.size)
        return True

    def _is_sparse(self, header: tarfile.TarInfo, names: dict[str, str]) -> bool:
        return header.type == tarfile.GNUTYPE_SPARSE or any(name.startswith("GNU.sparse.") for name in names)

    def _after_sparse_map(self, start: int, block: bytes) -> int:
        more = block[482]
        while more and start < self.size:
            more = self._read(start + 504, 1)[:1] != b"\0"
            start += BLOCK
        return start

    def _end_without_mark(self, block: bytes) -> bool:
        if self.size == 0:
            return self._damage("the file is empty", expected="a tar archive", found="0 bytes")
        if self.closed:
            return False if block.strip(b"\0") == b"" else self._broken_header(block)
        if self.position == 0:
            return self._broken_header(block)
        return self._damage(
            "the archive is cut: it ends without an end mark, so members may be missing",
            expected="another member or the zero block that ends an archive",
            found="the end of the file" if not block else f"{len(block)} bytes of a header",
        )

    def _skip_zeros(self) -> bool:
        """Pass the end mark; go on when another archive was appended behind it."""
        self.closed = True
        while self.position < self.size:
            chunk = self._read(self.position, 1 << 20)
            ahead = len(chunk) - len(chunk.lstrip(b"\0"))
            self.position += ahead // BLOCK * BLOCK if ahead < len(chunk) else len(chunk)
            if ahead < len(chunk):
                return True
        return False

    def _broken_header(self, block: bytes) -> bool:
        if self.closed:
            self.index.after_end = True
            return self._damage("there is data behind the end of the archive", expected="zeros or another tar header", found=_shown(block))
        kind = next((text for magic, text in OTHER_FORMATS.items() if block.startswith(magic)), "")
        if self.position == 0:
            return self._damage("this is not a tar archive", expected="a tar header", found=kind or _shown(block))
        return self._damage("a member header is corrupt", expected="a tar header with a valid checksum", found=_shown(block))

    def _damage(self, reason: str, *, expected: str, found: str, offset: int | None = None) -> bool:
        offset = self.position if offset is None else offset
        self.index.damage = Damage(reason=reason, offset=offset, expected=expected, found=found, unread_bytes=max(0, self.size - offset))
        return False

    def _read(self, offset: int, count: int) -> bytes:
        self.file.seek(offset)
        return self.file.read(count)


def printable(name: str) -> str:
    """Return a name that any text file can hold: undecodable bytes become backslash escapes."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _rounded(size: int) -> int:
    return (size + BLOCK - 1) // BLOCK * BLOCK


def _shown(data: bytes) -> str:
    return repr(data[:24]) + ("..." if len(data) > 24 else "")


def _pax_size(names: dict[str, str], size: int) -> int:
    text = names.get("size", "")
    return int(text) if text.isascii() and text.isdigit() else size


def _pax_values(data: bytes) -> dict[str, str] | None:
    """Parse pax records; return None when the table is malformed."""
    values: dict[str, str] = {}
    while data.strip(b"\0"):
        digits, _, _ = data.partition(b" ")
        length = int(digits) if digits.isdigit() else 0
        record = data[len(digits) + 1 : length]
        name, equals, value = record.partition(b"=")
        if length <= len(digits) + 1 or length > len(data) or not equals or not value.endswith(b"\n"):
            return None
        values[name.decode("utf-8", "surrogateescape")] = value[:-1].decode("utf-8", "surrogateescape")
        data = data[length:]
    return values
