"""Write the pictures of a folder as shards, which is what `edit_dataset` and `train` read.

    python jobs/make_shards.py --input pictures --output shards

Every picture below the folder becomes a sample: its bytes untouched, its path without the extension as the key. Files that are no
pictures or cannot be read are left out, counted and named. The same files give the same bytes. Shards of an earlier run are replaced when
all new ones are written. The last line printed is JSON; exit codes: 0 done, 2 wrong arguments or nothing to write.
"""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, count, islice

import jsonargparse

from pipeline.images import EXTENSIONS, check_header
from pipeline.sample import SampleFailure
from pipeline.shard_writer import ShardWriter
from pipeline.storage import TEMPORARY, Storage
from pipeline.tar_index import printable

PREFIX = "pictures"
SHARD = re.compile(rf"{PREFIX}-\d{{5,}}\.tar({re.escape(TEMPORARY)})?")
NAMED = 20
"""Files left out that are named on standard error; all are counted."""


class FolderError(ValueError):
    """The folder cannot be turned into shards; the message says why and what to do."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """What to write.

    Args:
        input: Folder or URL with pictures; subfolders count.
        output: Folder or URL for the shards, outside of the input.
        shard_size: Pictures per shard.
    """

    input: str
    output: str
    shard_size: int = 500


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A file to write, and what it is called in its shard."""

    path: str
    key: str
    ext: str


def find_pictures(names: Sequence[str]) -> tuple[list[Picture], list[tuple[str, str]]]:
    """Return the pictures among a folder's file names, sorted, each with a key of its own, and what is left out with its reason.

    A key has no dot in its last part, so dots become underscores; a name whose key is taken gets `~2`, `~3` and so on.
    """
    found: list[Picture] = []
    left_out: list[tuple[str, str]] = []
    taken: set[str] = set()
    for name in sorted(names):
        folder, slash, file = name.rpartition("/")
        stem, dot, ext = file.rpartition(".")
        if not (stem and dot and ext.lower() in EXTENSIONS):
            left_out.append((name, "no picture by its name"))
        elif printable(name) != name:
            left_out.append((name, "the name is not valid UTF-8: rename the file"))
        else:
            plain = folder + slash + stem.replace(".", "_")
            key = next(key for key in _candidates(plain) if key not in taken)
            taken.add(key)
            found.append(Picture(path=name, key=key, ext=ext.lower()))
    return found, left_out


def _candidates(plain: str) -> Iterator[str]:
    yield plain
    yield from (f"{plain}~{number}" for number in count(2))


def make_shards(options: Options) -> dict[str, object]:
    """Write all shards and return counts. Raises FolderError, and OSError where nothing can be written."""
    source, target = Storage(options.input), Storage(options.output)
    _check(options, source, target)
    pictures, left_out = find_pictures(source.files(deep=True))
    names, written = _write(_read(source, pictures, left_out), target, shard_size=options.shard_size)
    _name(left_out)
    if not written:
        types = ", ".join(sorted(EXTENSIONS))
        raise FolderError(f"--input {options.input}: no picture among {len(left_out)} files; known types: {types}")
    _publish(target, names)
    return {"output": options.output, "pictures": written, "left_out": len(left_out), "shards": len(names)}


def _write(samples: Iterator[tuple[str, dict[str, bytes]]], target: Storage, *, shard_size: int) -> tuple[list[str], int]:
    """Write shards under temporary names; return their final names and how many pictures they hold. Nothing stays after an error."""
    names: list[str] = []
    written = 0
    try:
        for first in samples:
            names.append(f"{PREFIX}-{len(names):05d}.tar")
            with ShardWriter(target, names[-1] + TEMPORARY) as shard:
                for key, members in chain([first], islice(samples, shard_size - 1)):
                    shard.write(key, members)
            written += shard.finished.samples
    except BaseException:
        for name in names:
            target.remove(name + TEMPORARY)
        raise
    return names, written


def _publish(target: Storage, names: Sequence[str]) -> None:
    """Give written shards their names and remove those of earlier runs, which may have been more."""
    for name in names:
        target.move(name + TEMPORARY, name)
    for name in target.files():
        if SHARD.fullmatch(name) and name not in names:
            target.remove(name)


def _read(source: Storage, pictures: Sequence[Picture], left_out: list[tuple[str, str]]) -> Iterator[tuple[str, dict[str, bytes]]]:
    """Yield key and members of every picture whose header can be read; add the others to `left_out`."""
    for picture in pictures:
        try:
            data = source.read(picture.path)
            check_header(data)
        except SampleFailure as failure:
            left_out.append((picture.path, failure.reason))
            continue
        except OSError as error:  # no right to read it, or a link to nothing
            left_out.append((picture.path, f"the file cannot be read: {error.strerror or error}"))
            continue
        yield picture.key, {picture.ext: data}


def _check(options: Options, source: Storage, target: Storage) -> None:
    if options.shard_size < 1:
        raise FolderError(f"--shard_size {options.shard_size}: expected 1 or more")
    if not source.is_folder():
        raise FolderError(f"--input {options.input}: expected a folder with pictures, found {'a file' if source.exists() else 'nothing'}")
    if f"{target.root}/".startswith(f"{source.root.rstrip('/')}/") and target.is_local == source.is_local:
        raise FolderError(f"--output {options.output} lies in --input {options.input}: name a folder outside of it")
    others = [name for name in target.files() if not SHARD.fullmatch(name)]
    if others:
        raise FolderError(f"--output {options.output} holds {others[0]}, which this command did not write: name an empty folder")


def _name(left_out: Sequence[tuple[str, str]]) -> None:
    for name, reason in left_out[:NAMED]:
        print(f"make_shards: left out {printable(name)}: {reason}", file=sys.stderr)
    if len(left_out) > NAMED:
        print(f"make_shards: left out {len(left_out) - NAMED} more", file=sys.stderr)


def main() -> int:
    """Run the job; return its exit code."""
    options = jsonargparse.auto_cli(Options, as_positional=False)
    start = time.monotonic()
    try:
        summary = make_shards(options)
    except (FolderError, OSError) as error:
        print(f"make_shards: {error}", file=sys.stderr)
        return 2
    print(json.dumps({**summary, "seconds": round(time.monotonic() - start, 1)}, ensure_ascii=False))
    return 0


if __name__ == "__main__":
    sys.exit(main())
