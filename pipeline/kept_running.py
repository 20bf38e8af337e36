"""What `auto` came to, kept with an output from before its first shard: whoever goes on with it runs the networks in the same way."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from pipeline.lock import WORK
from pipeline.settings import Running
from pipeline.storage import Storage

FILE = f"{WORK}/running.json"


@dataclass(frozen=True, kw_only=True)
class Kept:
    """How an output's networks run, and the CPU threads of a worker."""

    running: Running
    threads: int


def keep(storage: Storage, kept: Kept) -> None:
    """Write it down for an output that begins."""
    storage.write(FILE, (json.dumps({**asdict(kept.running), "threads": kept.threads}) + "\n").encode())


def read_kept(storage: Storage) -> Kept | None:
    """Return what an unfinished output, or the last run of a finished one, was made with; None where nothing says."""
    for path, fields in ((FILE, _unfinished), ("run.json", _finished)):
        if storage.exists(path):
            try:
                found = fields(json.loads(storage.read(path)))
                running = Running(backend=found["backend"], precision=found["precision"], batch_size=int(found["batch_size"]))  # type: ignore[arg-type, call-overload]
                return Kept(running=running, threads=int(found["threads"]))  # type: ignore[call-overload]
            except (ValueError, KeyError, TypeError):
                continue
    return None


def _unfinished(entry: Mapping[str, object]) -> Mapping[str, object]:
    return entry


def _finished(record: Mapping[str, object]) -> Mapping[str, object]:
    """Return the same from run.json."""
    found = {name: _mapping(record[name])["used"] for name in ("backend", "precision", "batch_size")}
    return found | {"threads": _mapping(record["workers"])["threads"]}


def _mapping(value: object) -> Mapping[str, object]:
    if not isinstance(value, Mapping):
        raise TypeError(f"expected a mapping, found {value!r}")
    return value
