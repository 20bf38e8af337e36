"""One job per output folder: a lock file that tells who holds it, and that is taken over when its holder is dead."""

import json
import os
import socket
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime

import psutil

from pipeline.storage import Storage

WORK = ".work"
LOCK = ".work/lock.json"
BEAT_S = 15.0
STALE_S = 120.0
POLL_S = 0.5


class OutputError(ValueError):
    """The output folder cannot be used; the message says why and what to do."""


@dataclass(frozen=True, kw_only=True)
class Holder:
    """Who holds the lock: `machine` is one boot of one host (or container), `born` the start of the process, `seen` the last beat."""

    run_id: str
    host: str
    machine: str
    pid: int
    born: float
    since: float
    seen: float
    command: str


class FolderLock:
    """Hold an output folder until `release`; a thread renews the lock so that other machines see the holder alive."""

    def __init__(self, storage: Storage, *, flag: str = "--output") -> None:
        """Make a lock; `flag` is what the user named the folder with."""
        self._storage, self._flag = storage, flag
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self.run_id = uuid.uuid4().hex
        self.note = ""

    def acquire(self) -> None:
        """Take the lock, or raise OutputError naming the job that holds it."""
        while not self._try():
            holder = read_holder(self._storage)
            if holder is not None and is_alive(holder):
                raise OutputError(_refusal(self._flag, self._storage.url, holder))
            self._clear_stale(holder)
        self._thread = threading.Thread(target=self._beat, args=(time.time(),), name="output lock", daemon=True)
        self._thread.start()

    def _try(self) -> bool:
        try:
            return self._storage.create(LOCK, self._content(time.time()))
        except FileNotFoundError:  # a job that ends right now clears the work folder away
            return self._storage.create(LOCK, self._content(time.time()))

    def release(self) -> None:
        """Give the lock back; one that another job took over meanwhile stays."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        holder = read_holder(self._storage)
        if holder is not None and holder.run_id == self.run_id:
            self._storage.remove(LOCK)

    def _content(self, since: float) -> bytes:
        process = psutil.Process()
        holder = Holder(
            run_id=self.run_id, host=socket.gethostname(), machine=_machine(), pid=process.pid, born=process.create_time(),
            since=since, seen=time.time(), command=" ".join(sys.argv),
        )  # fmt: skip
        return json.dumps(asdict(holder)).encode()

    def _beat(self, since: float) -> None:
        while not self._stop.wait(BEAT_S):
            try:
                holder = read_holder(self._storage)
                if holder is None or holder.run_id != self.run_id:
                    return
                self._storage.write(LOCK, self._content(since), durable=False)
            except OSError:
                continue  # storage that comes and goes: the next beat tries again

    def _clear_stale(self, judged: Holder | None) -> None:
        """Move a dead lock aside, and put it back should it prove to be a fresh one of a job that was faster."""
        aside = f"{WORK}/lock-{self.run_id}.json"
        try:
            self._storage.move(LOCK, aside)
        except FileNotFoundError:
            return
        moved = read_holder(self._storage, aside)
        if moved is not None and (judged is None or moved.run_id != judged.run_id):
            self._storage.create(LOCK, self._storage.read(aside))
        elif judged is not None:
            self.note = f"took over the output from a job that died: process {judged.pid} on {judged.host}, started {_clock(judged.since)}"
        self._storage.remove(aside)


@contextmanager
def held(
    storage: Storage,
    *,
    say: Callable[[str], None],
    flag: str = "--output",
    clear: Sequence[str] = (),
    wait_s: float = 0.0,
    should_stop: Callable[[], bool] = lambda: False,
) -> Iterator[None]:
    """Hold a folder, and remove the files `clear` of its work folder before and after.

    Raises OutputError where another process still holds it after `wait_s`, KeyboardInterrupt when asked to stop while waiting.
    """
    lock, deadline = FolderLock(storage, flag=flag), time.monotonic() + wait_s
    while True:
        try:
            lock.acquire()
            break
        except OutputError:
            if time.monotonic() >= deadline:
                raise
            if should_stop():
                raise KeyboardInterrupt from None
            time.sleep(POLL_S)
    if lock.note:
        say(lock.note)
    try:
        for path in clear:  # of a process that was killed
            storage.remove(path)
        yield
    finally:
        for path in clear:
            storage.remove(path)
        lock.release()
        storage.remove_if_empty(WORK)


def read_holder(storage: Storage, path: str = LOCK) -> Holder | None:
    """Return who holds the lock, None when nobody does or the file is no lock."""
    try:
        return Holder(**json.loads(storage.read(path)))
    except (FileNotFoundError, ValueError, TypeError):
        return None


def is_alive(holder: Holder) -> bool:
    """Say whether the holder still works: by its process on this machine, by its last beat on another."""
    if holder.machine != _machine():
        return time.time() - holder.seen < STALE_S
    try:
        process = psutil.Process(holder.pid)
        return abs(process.create_time() - holder.born) < 1.0 and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
    except psutil.AccessDenied:
        return True


def check_still_ours(storage: Storage, run_id: str) -> None:
    """Raise OutputError when the lock does not name this run: what this process would write belongs to nobody."""
    holder = read_holder(storage)
    if holder is None or holder.run_id != run_id:
        found = f"process {holder.pid} on {holder.host}" if holder else "nobody"
        raise OutputError(
            f"{storage.url}: this run ({run_id}) does not hold the output folder any more, found {found}; nothing was committed"
        )


def _refusal(flag: str, url: str, holder: Holder) -> str:
    who = f"process {holder.pid} on {holder.host}, since {_clock(holder.since)} ({holder.command})"
    age = max(0.0, time.time() - holder.seen)
    return (
        f"{flag} {url}: another job is writing there: {who}; last sign of life {age:.0f} s ago. "
        f"Wait for it or stop it, or choose another {flag}. A dead job's lock is released by itself ({STALE_S:.0f} s on another machine)"
    )


def _clock(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def _machine() -> str:
    """Name this boot of this host, and the process namespace: only inside of it does a process number mean anything."""
    parts = [socket.gethostname()]
    try:
        with open("/proc/sys/kernel/random/boot_id") as file:
            parts.append(file.read().strip())
        parts.append(os.readlink("/proc/self/ns/pid"))
    except OSError:
        parts.append(str(psutil.boot_time()))
    return " ".join(parts)
