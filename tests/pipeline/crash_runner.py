"""Run a tiny job over and over, kill it before every single change that it makes on disk, resume it, and compare the outcome.

`python -m tests.pipeline.crash_runner FOLDER` prints one JSON line. Each run is a forked process; an audit hook counts what it is about
to change (open for writing, rename, link, unlink, mkdir, rmdir) and sends SIGKILL before the N-th change: nothing of the code under
test is replaced.
"""

import hashlib
import json
import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from pipeline.ledger import Attempt, Identity
from pipeline.resume import Output, Reprocess, plan_resume
from pipeline.sample import FailedSample
from pipeline.shards import QuarantineWriter, ShardReader, ShardWriter, list_shards
from pipeline.storage import Storage

CHANGES = {"os.rename", "os.link", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "shutil.rmtree"}
STRIDE = 7  # every so many first kills, the resumed run is killed as well


def make_input(folder: Path) -> None:
    storage = Storage(str(folder))
    for name, keys in (("s0", ("a", "b")), ("s1", ("c",))):
        with ShardWriter(storage, f"{name}.tar") as writer:
            for key in keys:
                writer.write(key, {"jpg": key.encode() * 50, "json": b"{}"})
            writer.write("bad", {"txt": b"no picture here"})


def run_job(source: str, out: str, *, config: str = "c1", reprocess: Reprocess | None = None) -> None:
    """Copy every sample and quarantine the others, in the order of steps of the real job."""
    with Output(out) as output:
        plan = plan_resume(output.storage, list_shards(source), config_hash=config, pack_hash="p", reprocess=reprocess)
        output.start(plan)
        for shard in plan.todo:
            _run_shard(shard.url, shard.name, out, run_id=output.run_id, config=config)
        output.storage.write("run.json", json.dumps({"config": config}).encode())
        if output.finish():
            raise SystemExit("a shard was withdrawn in an undisturbed run")


def _run_shard(url: str, name: str, out: str, *, run_id: str, config: str) -> None:
    with Attempt(out, name, run_id=run_id) as attempt, ShardReader(url) as reader:
        identity = Identity(input_sha256=reader.sha256, config_hash=config, pack_hash="p")
        if attempt.adopt(identity):
            return
        storage, rows, failed = attempt.storage, [], []
        with ShardWriter(storage, attempt.path(f"shards/{name}.tar")) as writer:
            for item in reader:
                attempt.mark([item.index])
                rows.append(f"{item.key} {item.index}")
                if isinstance(item, FailedSample):
                    failed.append(item)
                else:
                    writer.write(item.key, {**item.passed_through, "edited.png": item.image + config.encode()})
        if failed and config == "c1":  # the other settings have nothing to complain of, so an old quarantine must go
            with QuarantineWriter(storage, attempt.path(f"quarantine/{name}.tar")) as quarantine:
                for item in failed:
                    quarantine.write_failed(item)
        attempt.write(f"manifests/{name}.parquet", "\n".join(rows).encode())
        attempt.commit(identity, counts={"samples": len(rows)}, statuses={"quarantined": len(failed)})


def tree(folder: str) -> dict[str, str]:
    """Return what a user finds: every file and folder, hidden ones too."""
    found = {}
    for place, folders, files in os.walk(folder):
        for name in folders:
            found[os.path.relpath(os.path.join(place, name), folder)] = "folder"
        for name in files:
            path = os.path.join(place, name)
            found[os.path.relpath(path, folder)] = hashlib.sha256(Path(path).read_bytes()).hexdigest()
    return found


def forked(job: Callable[[], None], *, kill_at: int = 0, below: str = "") -> int:
    """Run a job in a fork that is killed before its change number `kill_at` below a folder; return the wait status."""
    child = os.fork()
    if child:
        return os.waitpid(child, 0)[1]
    count = 0

    def watch(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal count
        writes = event == "open" and isinstance(arguments[2], int) and bool(arguments[2] & (os.O_WRONLY | os.O_RDWR))
        if (event in CHANGES or writes) and any(str(argument).startswith(below) for argument in arguments[:2]):
            count += 1
            if count == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)

    if kill_at:
        sys.addaudithook(watch)
    try:
        job()
        os._exit(0)
    except BaseException as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
        os._exit(1)


def scenario(folder: Path, prepare: Callable[[str], None], job: Callable[[str], None]) -> dict[str, object]:
    """Kill `job` at every change, each time from the state that `prepare` makes; return how often, and what went wrong."""
    reference = str(folder / "reference")
    prepare(reference)
    assert forked(lambda: job(reference)) == 0
    expected, problems, kills, number = tree(reference), [], 0, 0
    while True:
        number += 1
        out = str(folder / f"out{number}")
        prepare(out)
        if forked(lambda: job(out), kill_at=number, below=out) != signal.SIGKILL:  # noqa: B023 - runs at once
            break
        kills += 1
        if number % STRIDE == 0:
            kills += forked(lambda: job(out), kill_at=number // 2 + 1, below=out) == signal.SIGKILL  # noqa: B023
        status = forked(lambda: job(out))  # noqa: B023
        if status != 0 or tree(out) != expected:
            wrong = sorted(set(tree(out).items()) ^ set(expected.items()))
            problems.append({"kill": number, "status": status, "differs": wrong})
        shutil.rmtree(out)
    shutil.rmtree(reference)
    return {"kills": kills, "problems": problems, "files": sorted(expected)}


def main(folder: Path) -> None:
    source = str(folder / "in")
    make_input(folder / "in")

    def finished(out: str) -> None:
        assert forked(lambda: run_job(source, out)) == 0

    result = {
        "fresh": scenario(folder, lambda out: None, lambda out: run_job(source, out)),
        "reprocess": scenario(folder, finished, lambda out: run_job(source, out, config="c2", reprocess="changed")),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
