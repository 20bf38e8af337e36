"""What a job does with its output folder before and after the work: check, lock, repair, plan, and leave it clean."""

import hashlib
import uuid
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from types import TracebackType
from typing import Literal, Self

from pipeline.ledger import (
    ATTEMPT_FILES,
    ATTEMPT_MARKS,
    KINDS,
    LEDGER,
    Identity,
    Record,
    attempt_folders,
    differences,
    output_files,
    read_record,
    record_path,
    settle,
)
from pipeline.lock import LOCK, WORK, FolderLock, OutputError
from pipeline.shard_list import GENERATED, Shard
from pipeline.storage import TEMPORARY, Storage

Reprocess = Literal["failed", "changed", "failed or changed", "all"]
"""What a user may ask for, and what that means for later rounds of a job."""
OWN_NAMES = frozenset({LEDGER, WORK, "run.json", "report.html", "preview"})
HASH_THREADS = 8
SHOWN = 5


class ResumeRefused(OutputError):  # noqa: N818 - a verdict on what the user asked for
    """Finished shards were made from other input or settings, and nobody said what to do with them."""


@dataclass(frozen=True, kw_only=True)
class ResumePlan:
    """Which shards to do: `redo` are those of `todo` whose finished files will be thrown away; `changed` says why by name.

    `absent` are finished shards that the input no longer has; they stay.
    """

    todo: tuple[Shard, ...]
    done: tuple[Shard, ...]
    redo: tuple[str, ...] = ()
    changed: Mapping[str, str] = field(default_factory=dict)
    absent: tuple[str, ...] = ()


def plan_resume(
    storage: Storage, shards: Sequence[Shard], *, config_hash: str, pack_hash: str, reprocess: Reprocess | None = None
) -> ResumePlan:
    """Compare the input with the ledger; changes nothing, so it serves a dry run too.

    A shard is done when its record names the same input content, configuration and pack. Raises ResumeRefused when
    finished shards differ and `reprocess` is neither "changed" nor "all".
    """
    _check_apart(storage, shards)
    finished = finished_shards(storage)
    begun = [shard for shard in shards if shard.name in finished]
    with ThreadPoolExecutor(HASH_THREADS) as pool:
        inputs = list(pool.map(_input_sha256, begun))
    changed, redo = {}, []
    for shard, input_sha256 in zip(begun, inputs, strict=True):
        now = Identity(input_sha256=input_sha256, config_hash=config_hash, pack_hash=pack_hash)
        record = read_record(storage, shard.name)
        difference = differences(record.identity, now) if record is not None else ""
        if record is None or not record.identity.input_sha256 or _wanted(record, difference, reprocess):
            redo.append(shard.name)
        if record is not None and record.identity.input_sha256 and difference:
            changed[shard.name] = difference
    if set(changed) - set(redo):
        raise ResumeRefused(_refusal(storage.url, changed, finished=len(begun)))
    keep = {shard.name for shard in begun} - set(redo)
    return ResumePlan(
        todo=tuple(shard for shard in shards if shard.name not in keep),
        done=tuple(shard for shard in shards if shard.name in keep),
        redo=tuple(redo),
        changed=changed,
        absent=tuple(sorted(finished - {shard.name for shard in shards})),
    )


def _wanted(record: Record, difference: str, reprocess: Reprocess | None) -> bool:
    """Say whether the user asked for this finished shard to be done again."""
    if reprocess == "failed":
        return record.has_failures and not difference
    if reprocess == "failed or changed":
        return record.has_failures or bool(difference)
    return reprocess == "all" or (reprocess == "changed" and bool(difference))


def finished_shards(storage: Storage) -> set[str]:
    """Return the names of the shards that have a record."""
    return {path[len(LEDGER) + 1 : -len(".json")] for path in storage.files(LEDGER) if path.endswith(".json")}


class Output:
    """Hold an output folder for one job: entering checks, locks and repairs it; leaving releases it.

    `notes` tells what was repaired. Call `finish` when every shard is committed: only then the counts of attempts go.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self.notes: list[str] = []
        self._finished = False

    def __enter__(self) -> Self:
        self.storage = open_output(self.url)
        self._lock = FolderLock(self.storage)
        self._lock.acquire()
        try:
            self.notes += [self._lock.note] if self._lock.note else []
            self.notes += repair(self.storage).notes
        except BaseException:
            self._lock.release()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._finished and kind is None:
            for path in self.storage.files(WORK, deep=True):
                if path != LOCK:
                    self.storage.remove(path)
            self.storage.remove(ATTEMPT_MARKS)
        self._lock.release()
        self.storage.remove_if_empty(WORK)

    @property
    def run_id(self) -> str:
        """Identify this job to its workers: an attempt commits only while the lock still names it."""
        return self._lock.run_id

    def start(self, plan: ResumePlan) -> None:
        """Throw away the finished files of the shards that will be done again, and the report, which is not true any more."""
        self.storage.remove("report.html")
        for name in plan.redo:
            discard(self.storage, name)

    def finish(self) -> tuple[str, ...]:
        """Check that the files of every record are in place and let the work folder go.

        Call it when no worker writes any more. Returns the shards that were withdrawn because a file is gone: do them again, then finish
        again.
        """
        repaired = repair(self.storage)
        self._finished = not repaired.withdrawn
        return repaired.withdrawn


def open_output(url: str) -> Storage:
    """Return the storage of an output folder that exists, is writable, and holds nothing but earlier output.

    Raises OutputError with the reason otherwise.
    """
    try:
        storage = Storage(url)
        if storage.exists() and not storage.is_folder():
            raise OutputError(f"--output {url}: this is a file, expected a folder or a place where one can be made")
        entries = (
            {str(path).rstrip("/").rsplit("/", 1)[-1] for path in storage.fs.ls(storage.root, detail=False)} if storage.exists() else set()
        )
        foreign = sorted(name for name in entries if not name.startswith("."))
        if foreign and not entries & OWN_NAMES:
            shown = ", ".join(foreign[:SHOWN])
            raise OutputError(f"--output {url}: the folder holds other things ({shown}) and no ledger; choose a new or empty folder")
        probe = f"{WORK}/probe-{uuid.uuid4().hex}"
        storage.create(probe, b"probe")
        readable = storage.read(probe) == b"probe"
        storage.remove(probe)
    except OutputError:
        raise
    except (OSError, ValueError, ImportError) as error:
        raise OutputError(
            f"--output {url}: cannot write there: {type(error).__name__}: {error}. "
            "Choose a folder that this user may write to, with free space, on every machine of the cluster"
        ) from error
    if not readable:
        raise OutputError(f"--output {url}: what was written there does not come back; the storage does not work")
    return storage


@dataclass(frozen=True, kw_only=True)
class Repair:
    """What was put right, in sentences, and which shards lost their record."""

    notes: tuple[str, ...]
    withdrawn: tuple[str, ...]


def repair(storage: Storage) -> Repair:
    """Finish what a crash cut short and sweep what dead attempts left.

    Expects the lock. A record whose files cannot be brought together is withdrawn, so its shard is done again.
    """
    notes, withdrawn = [], []
    leftovers = {path.split("/")[2] for path in storage.files(ATTEMPT_FILES, deep=True)}
    sizes = {path: size for kind in KINDS for path, size in storage.sizes(kind.split("/")[0]).items()}
    for name in sorted(finished_shards(storage)):
        record = read_record(storage, name)
        whole = record is not None and all(sizes.get(path) == mark.size_bytes for path, mark in record.files.items())
        if whole and name not in leftovers:
            continue
        folders = attempt_folders(storage, name)
        missing = settle(storage, record, folders=folders, verify=True) if record is not None else (record_path(name),)
        if missing:
            discard(storage, name)
            withdrawn.append(name)
            notes.append(f"shard {name}: {', '.join(missing)} was missing or damaged, so the shard is done again")
        elif not whole:
            notes.append(f"shard {name}: finished a commit that a crash had cut short")
    storage.remove(ATTEMPT_FILES)
    for path in [*storage.files(), *storage.files(LEDGER)]:
        if path.endswith(TEMPORARY):
            storage.remove(path)
    return Repair(notes=tuple(notes), withdrawn=tuple(withdrawn))


def discard(storage: Storage, shard: str) -> None:
    """Take a finished shard back: first the record, so that a crash leaves files that do not count."""
    storage.remove(record_path(shard))
    for path in output_files(shard):
        storage.remove(path)
    storage.remove(f"{ATTEMPT_MARKS}/{shard}")


def _check_apart(storage: Storage, shards: Sequence[Shard]) -> None:
    for shard in shards:
        if shard.url.startswith(GENERATED):
            continue
        source = Storage(shard.url)
        if type(source.fs) is type(storage.fs) and source.root.startswith(storage.root.rstrip("/") + "/"):
            raise OutputError(f"--output {storage.url}: the input shard {shard.url} lies inside of it; choose another output folder")


def _input_sha256(shard: Shard) -> str:
    if shard.url.startswith(GENERATED):
        return hashlib.sha256(shard.url.encode()).hexdigest()
    try:
        return Storage(shard.url).sha256()
    except OSError as error:
        return f"unreadable: {error}"


def _refusal(url: str, changed: Mapping[str, str], *, finished: int) -> str:
    shown = "; ".join(f"{name}: another {difference}" for name, difference in list(changed.items())[:SHOWN])
    more = f"; and {len(changed) - SHOWN} more" if len(changed) > SHOWN else ""
    return (
        f"--output {url} holds {finished} finished shards of this input, and {len(changed)} of them were made from something else "
        f"({shown}{more}). To make those again: --reprocess changed. To make all again: --reprocess all. "
        "To keep them: choose another --output, or go back to the earlier settings (run.json there has them)"
    )
