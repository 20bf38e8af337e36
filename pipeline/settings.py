"""What travels between the driver and its workers: plain values, so that neither side needs the libraries of the other."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol

from models.instruction import Instruction
from pipeline.backend_names import AUTO, EAGER
from pipeline.config import Align
from pipeline.images import Limits
from pipeline.precision_names import FLOAT32, Precision
from pipeline.progress import Counts
from pipeline.registry import PackSource
from pipeline.storage import Storage

if TYPE_CHECKING:
    from pipeline.batch import ShardWork

CHUNK_SAMPLES = 32  # that travel together from the feed to the worker


@dataclass(frozen=True, kw_only=True)
class ShardTask:
    """One shard to read, and how."""

    url: str
    name: str
    limits: Limits = field(default_factory=Limits)
    image_ext: str = ""
    align: Align = "face"
    first: int = 0
    """Stop after this many samples; 0 reads all."""
    killers: frozenset[int] = frozenset()
    """Indices of samples that ended a process: they fail without being looked at."""
    only: frozenset[int] | None = None
    """Indices of the samples that are needed; None is all."""
    one_by_one: bool = False
    """Make chunks of one sample, so that a sample that ends a process can be told from its neighbours."""


class ShardWish(Protocol):
    """What a job wants of every shard; plain values that travel."""

    @property
    def instructions(self) -> tuple[Instruction, ...]:
        """Return what the networks of a worker have to know."""
        ...

    def summary(self) -> str:
        """Say in a line what is wanted."""
        ...

    def only(self, shard: str, storage: Storage) -> frozenset[int] | None:
        """Return the samples of a shard that are needed, by index; None where all are."""
        ...

    def begin(self, shard: str, storage: Storage) -> ShardWork:
        """Return what does the work of a shard, on a worker; `storage` is the output."""
        ...


@dataclass(frozen=True, kw_only=True)
class Wish:
    """Edit each sample by these instructions."""

    instructions: tuple[Instruction, ...]
    keep: frozenset[str] = frozenset()
    seed: int = 0

    def summary(self) -> str:
        """Return the names of the instructions."""
        names = ", ".join(instruction.name for instruction in self.instructions)
        return f"{len(self.instructions)} instructions: {names}" if names else "no instructions: align and invert only"

    def only(self, shard: str, storage: Storage) -> frozenset[int] | None:
        """Return None: all samples are edited."""
        return None

    def begin(self, shard: str, storage: Storage) -> ShardWork:
        """Return what edits a shard."""
        from pipeline.batch import EditShard  # it brings torch along

        return EditShard(self)


@dataclass(frozen=True, kw_only=True)
class Running:
    """How the networks run: `--backend`, `--precision` and `--batch_size`, each of which may be `auto` until a worker has tried."""

    backend: str = EAGER
    precision: Precision = FLOAT32
    batch_size: int | Literal["auto"] = 16

    @property
    def open(self) -> bool:
        """Say whether anything is left to a worker to find out."""
        return AUTO in (self.backend, self.precision, self.batch_size)

    @property
    def pictures(self) -> int:
        """Return the batch size once it is known."""
        assert isinstance(self.batch_size, int), "nobody has found out yet how many pictures fit"
        return self.batch_size


@dataclass(frozen=True, kw_only=True)
class WorkerSettings:
    """All that a worker needs to know, whatever shard it gets."""

    pack: str
    inverter: str
    inverter_settings: Mapping[str, object]
    editor: str
    editor_settings: Mapping[str, object]
    device: str
    threads: int
    part: float
    """Share of the device that a worker may take."""
    running: Running
    allow_lpips_download: bool
    wish: ShardWish
    output: str
    run_id: str
    config_hash: str
    pack_hash: str
    registry: str | None = None
    """Tracking server or database in which a pack `models:/NAME/VERSION` is looked up."""

    @property
    def source(self) -> PackSource:
        """Return where the pack is."""
        return PackSource(url=self.pack, sha256=self.pack_hash, registry=self.registry)


@dataclass(frozen=True, kw_only=True)
class ShardResult:
    """What became of a shard; `committed` is False where another attempt was first, or where the worker refused the job."""

    shard: str
    committed: bool
    counts: Counts
    damage: str = ""
    notes: tuple[str, ...] = ()
    features: dict[str, str] = field(default_factory=dict)
    backend: str = ""
    """What computed it, as the manifest says."""
    backend_notes: tuple[str, ...] = ()
    refusal: str = ""
    """What the user has to change before this worker can do anything; an error would lose its kind on the way through Ray Data."""
    seconds: float = 0.0
    stages: dict[str, float] = field(default_factory=dict)
    """Of these, the seconds of each stage (pipeline/stage_clock.py)."""

    def to_json(self) -> str:
        """Return all fields as a text, which every engine can carry."""
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> ShardResult:
        """Read what `to_json` wrote."""
        fields = json.loads(text)
        lists = {name: tuple(fields[name]) for name in ("notes", "backend_notes")}
        return cls(**(fields | lists | {"counts": Counts(**fields["counts"])}))
