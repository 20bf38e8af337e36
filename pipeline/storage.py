"""The few file operations that the data path needs, on any fsspec URL, durable where the filesystem can be."""

import hashlib
import os
import shutil
import uuid
from typing import BinaryIO, cast

import fsspec
from fsspec.implementations.local import LocalFileSystem

CHUNK_BYTES = 1 << 20
TEMPORARY = ".tmp"


class Storage:
    """One folder (or one file) on any filesystem; all paths are relative to it, "" is the root itself."""

    def __init__(self, url: str) -> None:
        self.url = url
        fs, root = fsspec.core.url_to_fs(url)
        self.fs: fsspec.AbstractFileSystem = fs
        self.root = str(root).rstrip("/") or "/"
        self.is_local = isinstance(fs, LocalFileSystem)

    def path(self, relative: str = "") -> str:
        """Return the path as the filesystem names it, without a protocol."""
        return f"{self.root.rstrip('/')}/{relative}" if relative else self.root

    def url_of(self, relative: str = "") -> str:
        """Return a URL that opens this file in any other process."""
        return self.path(relative) if self.is_local else str(self.fs.unstrip_protocol(self.path(relative)))

    def exists(self, relative: str = "") -> bool:
        self._forget()
        return bool(self.fs.exists(self.path(relative)))

    def is_folder(self, relative: str = "") -> bool:
        self._forget()
        return bool(self.fs.isdir(self.path(relative)))

    def size(self, relative: str = "") -> int:
        self._forget()
        return int(self.fs.size(self.path(relative)))

    def read(self, relative: str = "") -> bytes:
        """Return the whole file; raise FileNotFoundError when there is none."""
        self._forget()
        return cast(bytes, self.fs.cat_file(self.path(relative)))

    def open_read(self, relative: str = "") -> BinaryIO:
        return cast(BinaryIO, self.fs.open(self.path(relative), "rb"))

    def open_write(self, relative: str) -> BinaryIO:
        """Open a new file for writing; end it with `close_durably`."""
        path = self.path(relative)
        self.fs.makedirs(os.path.dirname(path), exist_ok=True)
        return cast(BinaryIO, open(path, "wb") if self.is_local else self.fs.open(path, "wb"))

    def close_durably(self, relative: str, file: BinaryIO) -> None:
        """Close a file of `open_write` so that it survives a power cut, as far as the filesystem can promise it."""
        if self.is_local:
            file.flush()
            os.fsync(file.fileno())
        file.close()
        self._sync_folder(relative)

    def files(self, relative: str = "", *, deep: bool = False) -> list[str]:
        """List the files below a folder, sorted, relative to the root; a missing folder holds nothing."""
        self._forget()
        try:
            found = self.fs.find(self.path(relative), maxdepth=None if deep else 1)
        except FileNotFoundError:
            return []
        start = len(self.root.rstrip("/")) + 1
        return sorted(str(path)[start:] for path in found)

    def sizes(self, relative: str) -> dict[str, int]:
        """Return the sizes in bytes of the files of a folder, by path relative to the root."""
        self._forget()
        try:
            found = self.fs.find(self.path(relative), maxdepth=1, detail=True)
        except FileNotFoundError:
            return {}
        start = len(self.root.rstrip("/")) + 1
        return {str(path)[start:]: int(info["size"]) for path, info in found.items()}

    def sha256(self, relative: str = "") -> str:
        """Return the digest of the file in hexadecimal."""
        with self.open_read(relative) as file:
            return copy_hashed(file)[0]

    def write(self, relative: str, data: bytes, *, durable: bool = True) -> None:
        """Replace a file at once: readers see the old content or the new, never a part.

        Without `durable` the file survives the death of this process, but perhaps not a power cut.
        """
        if not self.is_local:
            self.fs.pipe_file(self.path(relative), data)
            return
        temporary = self._write_temporary(relative, data, durable=durable)
        os.replace(temporary, self.path(relative))
        if durable:
            self._sync_folder(relative)

    def create(self, relative: str, data: bytes) -> bool:
        """Write a file only when there is none yet; return whether this call made it.

        Local: a hard link, so the file appears whole and exactly one caller wins (without hard links: an exclusive open, where a
        crash can leave a part). Elsewhere: fsspec's `mode="create"`, a conditional put on S3 and GCS; a filesystem without one gets
        an exists check, which two callers can pass at once.
        """
        if not self.is_local:
            return self._create_remote(relative, data)
        temporary = self._write_temporary(relative, data, durable=True)
        try:
            self._publish(temporary, self.path(relative))
        except FileExistsError:
            return False
        finally:
            os.unlink(temporary)
        self._sync_folder(relative)
        return True

    def _publish(self, temporary: str, path: str) -> None:
        try:
            os.link(temporary, path)
        except FileExistsError:
            raise
        except OSError:  # exFAT and some network filesystems have no hard links
            with open(temporary, "rb") as source, open(path, "xb") as target:
                copy_hashed(source, target)
                target.flush()
                os.fsync(target.fileno())

    def move(self, source: str, target: str) -> None:
        """Move a file over the target; local: in one step, elsewhere: copy, then delete."""
        if self.is_local:
            os.makedirs(os.path.dirname(self.path(target)), exist_ok=True)
            os.replace(self.path(source), self.path(target))
            self._sync_folder(target)
            self._sync_folder(source)
            return
        self.fs.copy(self.path(source), self.path(target))
        self.fs.rm_file(self.path(source))

    def remove(self, relative: str) -> None:
        """Delete a file or a whole folder; nothing there is fine, and so is a folder into which others still write."""
        path = self.path(relative)
        if self.is_local and os.path.isdir(path):
            shutil.rmtree(path, ignore_errors=True)
            return
        self._forget()
        try:
            self.fs.rm(path, recursive=not self.is_local and self.fs.isdir(path))
        except FileNotFoundError:
            return
        self._sync_folder(relative)

    def remove_if_empty(self, relative: str) -> None:
        """Delete a local folder that holds nothing; other filesystems have no empty folders to speak of."""
        if self.is_local:
            try:
                os.rmdir(self.path(relative))
            except OSError:
                return

    def _write_temporary(self, relative: str, data: bytes, *, durable: bool) -> str:
        path = self.path(relative)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        temporary = f"{path}.{uuid.uuid4().hex}{TEMPORARY}"
        with open(temporary, "wb") as file:
            file.write(data)
            if durable:
                file.flush()
                os.fsync(file.fileno())
        return temporary

    def _create_remote(self, relative: str, data: bytes) -> bool:
        if self.exists(relative):
            return False
        try:
            self.fs.pipe_file(self.path(relative), data, mode="create")
        except OSError:
            if self.exists(relative):
                return False
            raise
        return True

    def _sync_folder(self, relative: str) -> None:
        folder = os.path.dirname(self.path(relative))
        if not self.is_local or not os.path.isdir(folder):
            return
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def _forget(self) -> None:
        """Drop listings that fsspec keeps: other processes write here too."""
        self.fs.invalidate_cache()


def copy_hashed(source: BinaryIO, target: BinaryIO | None = None) -> tuple[str, int]:
    """Read a file to its end, write it to `target` if there is one; return its SHA-256 and size in bytes."""
    digest = hashlib.sha256()
    size = 0
    while chunk := source.read(CHUNK_BYTES):
        digest.update(chunk)
        size += len(chunk)
        if target is not None:
            target.write(chunk)
    return digest.hexdigest(), size
