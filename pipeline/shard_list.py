"""Find the shards that a user means: a folder, a glob, one file, a numbered range, or a list of these, on any fsspec URL."""

import fnmatch
import os
import re
from dataclasses import dataclass

from pipeline.storage import Storage

SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
MAX_RANGE = 1_000_000
LATER_ROUND = ".edits-"
"""Stands in the names of shards that only a later round of a job makes, behind that of the input shard."""
GENERATED = "generated:"
"""Begins the URL of a shard that no file holds: its samples are drawn from the generator (pipeline/drawn_shards.py)."""


class InputError(ValueError):
    """The input that the user named cannot be used; the message says what was looked for and what was found."""


@dataclass(frozen=True, kw_only=True)
class Shard:
    """One input file; `name` is its base name without suffix, and the name of everything that is written for it."""

    url: str
    name: str


def list_shards(spec: str) -> tuple[Shard, ...]:
    """Return the shards of a comma-separated list of folders, globs, numbered ranges ({000..127}) and files.

    A folder means its tar files (plain or compressed), not those of its subfolders, sorted by name. Raises InputError when a part
    is missing or holds no shard, and when two shards share a base name.
    """
    parts = [part.strip() for part in spec.split(",") if part.strip()]
    if not parts:
        raise InputError("--input is empty: expected a folder, a glob or a .tar file")
    urls = [url for part in parts for url in _expand(part)]
    names: dict[str, str] = {}
    for url in urls:
        name = shard_name(url)
        if name in names and names[name] != url:
            raise InputError(
                f"two input shards are both called {name!r}: {names[name]} and {url}. "
                "The output is named after the input, so base names must be unique: rename one, or run them into two outputs"
            )
        names[name] = url
    return tuple(Shard(url=url, name=name) for name, url in names.items())


def shard_name(url: str) -> str:
    """Return the base name of a shard without its suffix."""
    base = url.rstrip("/").rsplit("/", 1)[-1]
    suffix = next((end for end in sorted(SUFFIXES, key=len, reverse=True) if base.lower().endswith(end) and len(base) > len(end)), "")
    return base[: len(base) - len(suffix)] if suffix else base


def _expand(part: str) -> list[str]:
    numbered = re.search(r"\{(\d+)\.\.(\d+)\}", part)
    if numbered:
        first, last = numbered.groups()
        if not 0 <= int(last) - int(first) < MAX_RANGE:
            raise InputError(f"--input {part}: the range {numbered.group()} must go up, over fewer than {MAX_RANGE} shards")
        numbers = [str(number).zfill(len(first)) for number in range(int(first), int(last) + 1)]
        return [url for number in numbers for url in _expand(part[: numbered.start()] + number + part[numbered.end() :])]
    if any(sign in part for sign in "*?["):
        return _from_glob(part)
    try:
        storage = Storage(part if "://" in part else os.path.abspath(os.path.expanduser(part)))
        if storage.is_folder():
            return _from_folder(part, storage)
        if storage.exists():
            return [storage.url_of()]
    except (OSError, ValueError, ImportError) as error:
        raise InputError(f"--input {part}: cannot be opened: {type(error).__name__}: {error}") from error
    raise InputError(f"--input {part}: there is no such file or folder. {_nearest(storage)}")


def _from_folder(part: str, storage: Storage) -> list[str]:
    files = storage.files()
    shards = [name for name in files if name.lower().endswith(SUFFIXES)]
    if not shards:
        folders = [name for name in ("shards", "train", "data") if storage.is_folder(name)]
        hint = f" It has a folder {folders[0]!r}: did you mean {part.rstrip('/')}/{folders[0]}?" if folders else ""
        raise InputError(f"--input {part}: the folder holds no shard. Looked for {_suffixes()}; found {_listing(files)}.{hint}")
    return [storage.url_of(name) for name in shards]


def _from_glob(part: str) -> list[str]:
    pattern = part if "://" in part else os.path.abspath(os.path.expanduser(part))
    storage = Storage(pattern)
    storage.fs.invalidate_cache()
    found = sorted(str(path) for path in storage.fs.glob(storage.root) if not storage.fs.isdir(path))
    if not found:
        folder = Storage(pattern.rsplit("/", 1)[0])
        names = folder.files() if not any(sign in folder.root for sign in "*?[") else []
        raise InputError(f"--input {part}: no file matches. The folder {folder.root} holds {_listing(names)}")
    return found if storage.is_local else [str(storage.fs.unstrip_protocol(path)) for path in found]


def _nearest(storage: Storage) -> str:
    """Say how far the path exists, and what is there."""
    parent = storage.root
    while parent not in ("", "/") and "/" in parent:
        parent, _, missing = parent.rpartition("/")
        if parent and storage.fs.isdir(parent):
            names = sorted(str(path).rsplit("/", 1)[-1] for path in storage.fs.ls(parent, detail=False))
            alike = [name for name in names if fnmatch.fnmatch(name.lower(), f"*{missing.lower()[:4]}*")]
            return f"The folder {parent} exists and holds {_listing(alike or names)}"
    return "Check the spelling and whether this machine can see it"


def _listing(names: list[str]) -> str:
    if not names:
        return "nothing"
    shown = ", ".join(names[:5])
    return f"{shown} and {len(names) - 5} more" if len(names) > 5 else shown


def _suffixes() -> str:
    return ", ".join(f"*{suffix}" for suffix in SUFFIXES)
