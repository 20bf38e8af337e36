"""Engines on disk: found again by everything that invalidates one, built by one process of a machine at a time, read only when unchanged.

A plan is code that runs on the GPU, so the folder must belong to this user alone, and a plan whose sha256 is not the noted one is set
aside. A build that failed, or whose engine failed its first test, is not tried again for a day. No TensorRT in here.
"""

from __future__ import annotations

import dataclasses
import fcntl
import hashlib
import json
import os
import stat
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from models.pack_format import CACHE_VARIABLE, cache_folder, write_atomically
from trt_engines.build import BuildSettings
from trt_engines.graphs import BackendError

RETRY_AFTER_S = 24 * 3600.0
LOCK, PLAN, SIDECAR, FAILED = "build.lock", "engine.plan", "engine.json", "failed.json"
Build = Callable[[bytes, BuildSettings, Path], bytes]
"""Return the plan of an ONNX model, built with files in a folder; raises BackendError."""
Test = Callable[[bytes], object]
"""Try a plan that was just built; raises BackendError where it does not compute what it should."""


@dataclass(frozen=True, kw_only=True)
class Device:
    """What an engine is built for."""

    name: str
    compute_capability: str
    multiprocessors: int
    memory_mib: int
    l2_kib: int


@dataclass(frozen=True, kw_only=True)
class EngineKey:
    """Everything that makes an engine useless when it changes."""

    tensorrt: str
    system: str
    onnx_sha256: str
    settings: BuildSettings
    device: Device

    def digest(self) -> str:
        """Return what the engine's folder is called."""
        return hashlib.sha256(json.dumps(dataclasses.asdict(self), sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True, kw_only=True)
class Around:
    """What may change under an engine that stays, written down beside it: every process checks its engines against torch anyway."""

    driver: str
    cuda: str


class EngineCache:
    """Keep engines in a folder; `build` makes one that is missing, and `test` tries it, where it can, before anybody else may have it."""

    def __init__(self, folder: Path | None = None, *, build: Build, test: Test, around: Around) -> None:
        self.folder = folder or cache_folder().parent / "engines"
        self._build, self._test, self._around = build, test, around

    def engine(self, onnx: bytes, key: EngineKey) -> bytes:
        """Return the plan for a key, built here if need be. Raises BackendError where it cannot be, or could not be within a day."""
        _private(self.folder)
        place = self.folder / key.digest()
        if (plan := self._read(place, key)) is not None:
            return plan
        with self._locked():
            if (plan := self._read(place, key)) is not None:  # another process was faster
                return plan
            self._check_failed(place)
            return self._make(place, onnx, key)

    def _make(self, place: Path, onnx: bytes, key: EngineKey) -> bytes:
        place.mkdir(mode=0o700, exist_ok=True)
        work = self.folder / f"work-{os.uname().nodename}"  # the lock is of this machine, the folder may be of many
        work.mkdir(mode=0o700, exist_ok=True)
        start = time.time()
        try:
            plan = self._build(onnx, key.settings, work)
            self._test(plan)
        except BackendError as error:
            write_atomically(place / FAILED, json.dumps({"reason": str(error), "at": time.time()}).encode())
            raise
        note = {
            "key": dataclasses.asdict(key), "sha256": hashlib.sha256(plan).hexdigest(), "seconds": round(time.time() - start, 1),
            **dataclasses.asdict(self._around),
        }  # fmt: skip
        write_atomically(place / PLAN, plan)
        write_atomically(place / SIDECAR, json.dumps(note, indent=1).encode())
        (place / FAILED).unlink(missing_ok=True)
        return plan

    def _read(self, place: Path, key: EngineKey) -> bytes | None:
        """Return a plan that is what its sidecar says; one that is not is set aside and counts as missing."""
        try:
            note, plan = json.loads((place / SIDECAR).read_text()), (place / PLAN).read_bytes()
        except (OSError, ValueError):
            return None
        same = json.loads(json.dumps(dataclasses.asdict(key))) == note.get("key")
        if same and hashlib.sha256(plan).hexdigest() == note.get("sha256"):
            return plan
        self.set_aside(key, "it is not the engine that was written")
        return None

    def set_aside(self, key: EngineKey, reason: str) -> None:
        """Take an engine out of use, so that the next call builds another."""
        place = self.folder / key.digest()
        print(f"WARNING: engine {place}: {reason}; it is set aside and built again", file=sys.stderr, flush=True)
        for name in (SIDECAR, PLAN):  # the sidecar first: without it the plan does not count
            if (place / name).exists():
                (place / name).replace(place / f"{name}.bad")

    def _check_failed(self, place: Path) -> None:
        try:
            failed = json.loads((place / FAILED).read_text())
            age_s = time.time() - float(failed["at"])
        except (OSError, ValueError, KeyError, TypeError):
            return
        if 0 <= age_s < RETRY_AFTER_S:
            raise BackendError(
                f"building or trying this engine failed {age_s / 60:.0f} minutes ago and is not tried again for a day: "
                f"{failed.get('reason')} "
                f"(to try now, remove {place / FAILED})"
            )

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Hold the lock of this machine: builds at the same time measure each other and run out of memory. A dead process lets go."""
        with open(self.folder / f"{LOCK}-{os.uname().nodename}", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def _private(folder: Path) -> None:
    """Make the folder for this user alone. Raises BackendError where others could put engines into it."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = folder.stat()
    if found.st_uid != os.getuid() or stat.S_IMODE(found.st_mode) & 0o022:
        raise BackendError(
            f"engine folder {folder}: others than this user may write there, and an engine is code: chmod 700 it, or set {CACHE_VARIABLE} "
            "to a folder of your own"
        )
