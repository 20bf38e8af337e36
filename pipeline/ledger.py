"""The ledger: one record per finished shard, written last, that makes its files count.

    OUT/.work/files/NAME/ATTEMPT/...   what an attempt writes, under names of its own
    OUT/ledger/NAME.json               the commit mark; the first attempt to create it wins
    OUT/shards/NAME.tar ...            the files of the winner, moved here after the record exists

A record names its files with their SHA-256 and says nothing about attempts, so two runs leave the same bytes. A crash after the
record and before the last move is repaired at the next start from the files of any attempt whose SHA-256 fits.
"""

import hashlib
import json
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from pipeline.lock import OutputError, check_still_ours
from pipeline.storage import Storage

FORMAT = 1
LEDGER = "ledger"
ATTEMPT_FILES = ".work/files"
ATTEMPT_MARKS = ".work/attempts"
KINDS = (
    "shards/{}.tar", "rejected/{}.tar", "manifests/{}.parquet", "moments/{}.npz", "quarantine/{}.tar", "quarantine/{}.json",
)  # fmt: skip
DEATHS_BEFORE_CARE = 3


@dataclass(frozen=True, kw_only=True)
class Identity:
    """What the files of a shard depend on; a difference means that the shard must be made again."""

    input_sha256: str
    config_hash: str
    pack_hash: str


@dataclass(frozen=True, kw_only=True)
class FileMark:
    """One file of a shard, as it must be found."""

    sha256: str
    size_bytes: int


@dataclass(frozen=True, kw_only=True)
class Record:
    """The commit mark of one shard: `files` by path relative to the output, `statuses` counts samples by status."""

    shard: str
    identity: Identity
    files: Mapping[str, FileMark]
    counts: Mapping[str, int] = field(default_factory=dict)
    statuses: Mapping[str, int] = field(default_factory=dict)
    damage: str = ""

    @property
    def has_failures(self) -> bool:
        """Say whether a sample of the shard, or a part of it, is in quarantine."""
        return bool(self.damage) or self.statuses.get("quarantined", 0) > 0

    def to_json(self) -> bytes:
        files = {path: {"sha256": mark.sha256, "size_bytes": mark.size_bytes} for path, mark in self.files.items()}
        content = {
            "format": FORMAT, "shard": self.shard, **vars(self.identity), "files": files,
            "counts": dict(self.counts), "statuses": dict(self.statuses), "damage": self.damage,
        }  # fmt: skip
        return (json.dumps(content, ensure_ascii=False, indent=1, sort_keys=True) + "\n").encode()


def record_path(shard: str) -> str:
    return f"{LEDGER}/{shard}.json"


def read_record(storage: Storage, shard: str) -> Record | None:
    """Return the record of a shard, None when there is none or when it is no record (cut by a crash, edited by hand)."""
    try:
        content = json.loads(storage.read(record_path(shard)))
        return Record(
            shard=content["shard"],
            identity=Identity(**{name: str(content[name]) for name in ("input_sha256", "config_hash", "pack_hash")}),
            files={path: FileMark(**mark) for path, mark in content["files"].items()},
            counts=content["counts"],
            statuses=content["statuses"],
            damage=content["damage"],
        )
    except (FileNotFoundError, ValueError, KeyError, TypeError, AttributeError):
        return None


class Attempt:
    """One attempt of a worker at one shard. Use as a context manager: leaving without `commit` throws its files away.

    A process that dies leaves its mark, so attempts are counted on storage: `deaths` earlier ones did not come back. From
    the third on, `suspects` are the samples that were in work when they died (try each alone, with `mark([i], alone=True)`), and
    `killers` are those now known to kill the process: quarantine them untouched.
    """

    def __init__(self, out_url: str, shard: str, *, run_id: str) -> None:
        self.storage = Storage(out_url)
        self.shard = shard
        self.id = uuid.uuid4().hex
        self._run_id = run_id
        self._files: list[str] = []
        self._digests: dict[str, str] = {}
        dead = [self._read_mark(path) for path in self._marks()]
        self.deaths = len(dead)
        self.killers, self.suspects = _blame(dead)

    def __enter__(self) -> Self:
        self.mark(())
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            self.storage.remove(self._folder)
            self.storage.remove(self._mark_path)
        except OSError:
            if kind is None:
                raise

    @property
    def number(self) -> int:
        """Count this attempt, from 1."""
        return self.deaths + 1

    def path(self, relative: str) -> str:
        """Return where this attempt writes an output file, such as "shards/NAME.tar"; the same path again is fine."""
        if relative not in output_files(self.shard):
            raise ValueError(f"shard {self.shard}: {relative!r} is no output file; expected one of {', '.join(output_files(self.shard))}")
        if relative not in self._files:
            self._files.append(relative)
        return f"{self._folder}/{relative}"

    def write(self, relative: str, data: bytes) -> None:
        """Write a whole output file of this attempt."""
        self.storage.write(self.path(relative), data)
        self._digests[relative] = hashlib.sha256(data).hexdigest()

    def mark(self, indices: Iterable[int], *, alone: bool = False) -> None:
        """Note on storage which samples are in work, to be blamed should this process die now."""
        content = json.dumps({"indices": sorted(indices), "alone": alone})
        self.storage.write(self._mark_path, content.encode(), durable=False)

    def commit(
        self,
        identity: Identity,
        *,
        counts: Mapping[str, int],
        statuses: Mapping[str, int],
        damage: str = "",
        digests: Mapping[str, str] | None = None,
    ) -> bool:
        """Make the files of this attempt count; return False when another attempt was first (its files count then).

        `digests` gives the SHA-256 of files that were hashed while written. Raises OutputError when another job took the
        output over, or when the shard was finished with other settings meanwhile.
        """
        try:
            files = self._file_marks({**self._digests, **(digests or {})})
        except FileNotFoundError:  # who was first may take a file with the same bytes out of the folder of another attempt
            if self.adopt(identity):
                return False
            raise
        record = Record(shard=self.shard, identity=identity, files=files, counts=counts, statuses=statuses, damage=damage)
        check_still_ours(self.storage, self._run_id)
        if not self.storage.create(record_path(self.shard), record.to_json()):
            if not self.adopt(identity):
                raise OutputError(
                    f"shard {self.shard}: {record_path(self.shard)} exists but is no record; start the job again, it repairs this"
                )
            return False
        settle(self.storage, record, folders=[self._folder], verify=False)
        self._forget_attempts()
        return True

    def _file_marks(self, known: Mapping[str, str]) -> dict[str, FileMark]:
        return {
            relative: FileMark(
                sha256=known.get(relative) or self.storage.sha256(f"{self._folder}/{relative}"),
                size_bytes=self.storage.size(f"{self._folder}/{relative}"),
            )
            for relative in sorted(self._files)
        }

    def adopt(self, identity: Identity) -> bool:
        """Say whether an earlier attempt has committed this shard, and bring its files into place.

        Raises OutputError when it was made from something else.
        """
        winner = read_record(self.storage, self.shard)
        if winner is None:
            return False
        difference = differences(winner.identity, identity)
        if difference:
            raise OutputError(f"shard {self.shard}: finished meanwhile by a job with another {difference}; only one job may write here")
        settle(self.storage, winner, folders=attempt_folders(self.storage, self.shard), verify=True)
        self._forget_attempts()
        return True

    def _forget_attempts(self) -> None:
        for path in self._marks():
            self.storage.remove(path)

    def _marks(self) -> list[str]:
        return [path for path in self.storage.files(f"{ATTEMPT_MARKS}/{self.shard}") if path.endswith(".json")]

    @property
    def _folder(self) -> str:
        return f"{ATTEMPT_FILES}/{self.shard}/{self.id}"

    @property
    def _mark_path(self) -> str:
        return f"{ATTEMPT_MARKS}/{self.shard}/{self.id}.json"

    def _read_mark(self, path: str) -> tuple[list[int], bool]:
        try:
            content = json.loads(self.storage.read(path))
            return [int(index) for index in content["indices"]], bool(content["alone"])
        except (OSError, ValueError, KeyError, TypeError):
            return [], False


def _blame(dead: list[tuple[list[int], bool]]) -> tuple[frozenset[int], tuple[int, ...]]:
    """Return the samples that surely kill the process, and those that may.

    Sure: in work at 3 deaths, alone at one of them. A machine that fails at random does not hit one sample that often.
    """
    if len(dead) < DEATHS_BEFORE_CARE:
        return frozenset(), ()
    times: dict[int, int] = {}
    for indices, _ in dead:
        for index in indices:
            times[index] = times.get(index, 0) + 1
    alone = {index for indices, was_alone in dead if was_alone for index in indices}
    killers = frozenset(index for index in alone if times[index] >= DEATHS_BEFORE_CARE)
    return killers, tuple(sorted(set(times) - killers))


def output_files(shard: str) -> tuple[str, ...]:
    """Return the paths of all files that a shard can have in the output."""
    return tuple(kind.format(shard) for kind in KINDS)


def differences(old: Identity, new: Identity) -> str:
    """Say in words what differs between two identities; an empty string when nothing does."""
    words = {"input_sha256": "input", "config_hash": "configuration", "pack_hash": "pack"}
    return ", ".join(word for name, word in words.items() if getattr(old, name) != getattr(new, name))


def settle(storage: Storage, record: Record, *, folders: list[str], verify: bool) -> tuple[str, ...]:
    """Bring the files of a record into place from attempt folders; return those that could not be found.

    Files of this shard that the record does not name go first. With `verify` a file moves only when its SHA-256 fits, and one that is in
    place already stays.
    """
    for stray in set(output_files(record.shard)) - set(record.files):
        storage.remove(stray)
    missing = []
    for relative, mark in record.files.items():
        if verify and _fits(storage, relative, mark):
            continue
        source = next((f"{folder}/{relative}" for folder in folders if not verify or _fits(storage, f"{folder}/{relative}", mark)), None)
        if source is None:
            missing.append(relative)
            continue
        try:
            storage.move(source, relative)
        except FileNotFoundError:  # another attempt of this shard settles at the same time
            if not _fits(storage, relative, mark):
                missing.append(relative)
    return tuple(missing)


def attempt_folders(storage: Storage, shard: str) -> list[str]:
    """Return the folders of all attempts at a shard that left files."""
    start = f"{ATTEMPT_FILES}/{shard}/"
    return sorted({start + path[len(start) :].split("/")[0] for path in storage.files(start.rstrip("/"), deep=True)})


def _fits(storage: Storage, relative: str, mark: FileMark) -> bool:
    try:
        return storage.size(relative) == mark.size_bytes and storage.sha256(relative) == mark.sha256
    except FileNotFoundError:
        return False
