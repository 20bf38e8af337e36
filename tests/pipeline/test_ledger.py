"""The ledger: whatever dies, and whenever, the output in the end is that of an undisturbed run, and one job owns it."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path

import fsspec
import pytest

from pipeline.ledger import Attempt, Identity, read_record
from pipeline.lock import LOCK, STALE_S, OutputError, read_holder
from pipeline.resume import Output, ResumeRefused, open_output, plan_resume
from pipeline.shards import list_shards
from pipeline.storage import Storage
from tests.pipeline.crash_runner import make_input, run_job, tree

ONE = Identity(input_sha256="i1", config_hash="c1", pack_hash="p1")


@pytest.fixture(params=["local", "memory"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    yield str(tmp_path / "out") if request.param == "local" else "memory://ledger/out"
    memory = fsspec.filesystem("memory")
    if memory.exists("/ledger"):
        memory.rm("/ledger", recursive=True)


def make(attempt: Attempt, data: bytes = b"data") -> None:
    attempt.write(f"shards/{attempt.shard}.tar", data)
    attempt.write(f"manifests/{attempt.shard}.parquet", b"rows")


def commit(attempt: Attempt, identity: Identity = ONE) -> bool:
    return attempt.commit(identity, counts={"samples": 1}, statuses={"ok": 1})


def test_killed_between_any_two_steps_the_output_is_the_same() -> None:
    """Some 200 kills: of a fresh job, and of one that does changed shards again."""
    memory = "/dev/shm" if os.path.isdir("/dev/shm") else None  # a thousand fsyncs take minutes on a busy disk
    folder = tempfile.mkdtemp(prefix="crash-", dir=memory)
    try:
        command = [sys.executable, "-m", "tests.pipeline.crash_runner", folder]
        run = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=200)
    finally:
        shutil.rmtree(folder)
    assert run.returncode == 0, run.stderr
    result = json.loads(run.stdout)
    for name in ("fresh", "reprocess"):
        assert result[name]["problems"] == [] and result[name]["kills"] > 60, name
        assert not [path for path in result[name]["files"] if path.startswith(".")]
    assert "quarantine/s0.tar" in result["fresh"]["files"] and "quarantine/s0.tar" not in result["reprocess"]["files"]


def test_a_record_tells_what_was_written(url: str) -> None:
    with Output(url) as output:
        with Attempt(url, "s", run_id=output.run_id) as attempt:
            make(attempt)
            assert not output.storage.exists("shards/s.tar")
            assert commit(attempt)
        assert output.finish() == ()
    record = read_record(output.storage, "s")
    assert record is not None and record.identity == ONE and not record.has_failures
    assert {path: mark.sha256 for path, mark in record.files.items()} == {
        path: output.storage.sha256(path) for path in ("shards/s.tar", "manifests/s.parquet")
    }
    assert output.storage.files(deep=True) == ["ledger/s.json", "manifests/s.parquet", "shards/s.tar"]


def test_the_first_attempt_wins(url: str) -> None:
    with Output(url) as output:
        with Attempt(url, "s", run_id=output.run_id) as slow, Attempt(url, "s", run_id=output.run_id) as fast:
            make(slow, b"rounded otherwise")
            make(fast)
            assert commit(fast) and not commit(slow)
        assert output.finish() == ()
    assert output.storage.read("shards/s.tar") == b"data"


def test_one_of_many_attempts_wins(tmp_path: Path) -> None:
    url = str(tmp_path / "out")
    with Output(url) as output:

        def attempt(number: int) -> bool:
            with Attempt(url, "s", run_id=output.run_id) as attempt:
                make(attempt)
                return commit(attempt)

        with ThreadPoolExecutor(8) as pool:
            assert sum(pool.map(attempt, range(24))) == 1
        assert output.finish() == ()
    assert output.storage.files(deep=True) == ["ledger/s.json", "manifests/s.parquet", "shards/s.tar"]


def test_the_next_attempt_ends_the_commit_of_a_dead_winner(url: str) -> None:
    with Output(url) as output:
        dead = Attempt(url, "s", run_id=output.run_id).__enter__()
        make(dead)
        assert commit(dead)
        for path in ("shards/s.tar", "manifests/s.parquet"):  # as if it had died before it moved them
            output.storage.move(path, dead.path(path))
        with Attempt(url, "s", run_id=output.run_id) as attempt:
            assert attempt.adopt(ONE)
        assert output.storage.read("shards/s.tar") == b"data"


def test_an_attempt_that_fails_leaves_nothing(url: str) -> None:
    with Output(url) as output:
        with pytest.raises(RuntimeError), Attempt(url, "s", run_id=output.run_id) as attempt:
            make(attempt)
            raise RuntimeError
        with Attempt(url, "s", run_id=output.run_id) as attempt:
            assert attempt.number == 1
    assert output.storage.files(deep=True) == []


def test_a_job_that_lost_the_folder_cannot_commit(url: str) -> None:
    with Output(url) as output, Attempt(url, "s", run_id="an older run") as zombie:
        make(zombie)
        with pytest.raises(OutputError, match="does not hold the output folder any more"):
            commit(zombie)
        with Attempt(url, "s", run_id=output.run_id) as attempt:
            make(attempt)
            commit(attempt)
        with pytest.raises(OutputError, match="finished meanwhile by a job with another configuration"):
            attempt.adopt(replace(ONE, config_hash="c2"))


def test_a_file_that_vanished_withdraws_its_record(url: str) -> None:
    for _ in range(2):
        with Output(url) as output:
            with Attempt(url, "s", run_id=output.run_id) as attempt:
                make(attempt)
                commit(attempt)
            output.storage.remove("shards/s.tar")
    assert "shards/s.tar was missing or damaged, so the shard is done again" in output.notes[0]
    with Output(url) as output:
        output.storage.write("ledger/t.json", b"{cut")
        assert output.finish() == ("t",) and output.storage.files("ledger") == []


def test_samples_that_kill_the_process_are_found(url: str) -> None:
    """Sample 5 kills every process; the third death brings suspicion, the fourth, alone, certainty."""
    with Output(url) as output:

        def die(indices: list[int], *, alone: bool = False) -> Attempt:
            attempt = Attempt(url, "s", run_id=output.run_id).__enter__()
            attempt.mark(indices, alone=alone)
            return attempt

        for number in (1, 2, 3):
            attempt = die([4, 5, 6])
            assert (attempt.number, attempt.suspects, attempt.killers) == (number, (), frozenset())
        assert die([5], alone=True).suspects == (4, 5, 6)
        last = Attempt(url, "s", run_id=output.run_id)
        assert (last.deaths, last.suspects, last.killers) == (4, (4, 6), frozenset({5}))
        with last:
            make(last)
            commit(last)
        assert Attempt(url, "s", run_id=output.run_id).deaths == 0
        assert Attempt(url, "another", run_id=output.run_id).deaths == 0


def test_bad_luck_does_not_convict() -> None:
    url = "memory://ledger/luck"
    with Output(url) as output:
        for index in (1, 2, 3, 4):
            Attempt(url, "s", run_id=output.run_id).__enter__().mark([index], alone=True)
        assert Attempt(url, "s", run_id=output.run_id).killers == frozenset()


def test_plans(tmp_path: Path) -> None:
    source, out = tmp_path / "in", str(tmp_path / "out")
    make_input(source)
    storage = Storage(out)
    plan = plan_resume(storage, list_shards(str(source)), config_hash="c1", pack_hash="p")
    assert [shard.name for shard in plan.todo] == ["s0", "s1"] and not os.path.exists(out)
    run_job(str(source), out)
    before = tree(out)
    run_job(str(source), out)
    assert tree(out) == before
    shards = list_shards(str(source))
    with pytest.raises(ResumeRefused, match="2 of them were made from something else .*s0: another pack.*--reprocess changed"):
        plan_resume(storage, shards, config_hash="c1", pack_hash="p2")
    with pytest.raises(ResumeRefused, match="another configuration"):
        plan_resume(storage, shards, config_hash="c2", pack_hash="p", reprocess="failed")
    with (source / "s1.tar").open("ab") as file:
        file.write(b"more")
    with pytest.raises(ResumeRefused, match="1 of them .*s1: another input"):
        plan_resume(storage, shards, config_hash="c1", pack_hash="p")
    changed = plan_resume(storage, shards, config_hash="c1", pack_hash="p", reprocess="changed")
    assert changed.redo == ("s1",) and [shard.name for shard in changed.done] == ["s0"]
    assert plan_resume(storage, shards[:1], config_hash="c1", pack_hash="p", reprocess="failed").redo == ("s0",)
    assert plan_resume(storage, shards[:1], config_hash="c1", pack_hash="p", reprocess="all").redo == ("s0",)
    assert plan_resume(storage, shards[:1], config_hash="c1", pack_hash="p").absent == ("s1",)
    with pytest.raises(OutputError, match="lies inside of it"):
        plan_resume(storage, list_shards(f"{out}/shards"), config_hash="c1", pack_hash="p")


def test_reprocessing_leaves_no_trace_of_before(tmp_path: Path) -> None:
    source, out, fresh = str(tmp_path / "in"), str(tmp_path / "out"), str(tmp_path / "fresh")
    make_input(tmp_path / "in")
    run_job(source, out)
    run_job(source, out, config="c2", reprocess="changed")
    run_job(source, fresh, config="c2")
    files = {path: digest for path, digest in tree(out).items() if digest != "folder"}
    assert files == {path: digest for path, digest in tree(fresh).items() if digest != "folder"}


def test_two_jobs_cannot_share_a_folder(url: str) -> None:
    with Output(url):
        with (
            pytest.raises(OutputError, match=f"another job is writing there: process {os.getpid()} on .*last sign of life") as refused,
            Output(url),
        ):
            pass
        assert "choose another --output" in str(refused.value)
    with Output(url):
        pass
    assert Storage(url).files(deep=True) == []


def test_the_lock_of_a_dead_process_is_taken_over(tmp_path: Path) -> None:
    url = str(tmp_path / "out")
    code = f"import os; from pipeline.resume import Output; Output({url!r}).__enter__(); print(os.getpid(), flush=True); os._exit(9)"
    died = subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=60)
    assert died.returncode == 9 and os.path.exists(f"{url}/{LOCK}")
    with Output(url) as output:
        assert f"took over the output from a job that died: process {int(died.stdout)}" in output.notes[0]


def test_a_lock_of_another_machine_counts_by_its_age(url: str) -> None:
    with Output(url) as output:
        holder = read_holder(output.storage)
    assert holder is not None
    elsewhere = replace(holder, machine="another", host="node7", pid=1)
    output.storage.write(LOCK, json.dumps(asdict(elsewhere)).encode())
    with pytest.raises(OutputError, match="process 1 on node7"), Output(url):
        pass
    output.storage.write(LOCK, json.dumps(asdict(replace(elsewhere, seen=time.time() - STALE_S - 1))).encode())
    with Output(url) as output:
        assert "node7" in output.notes[0]


def test_a_broken_lock_is_no_lock(url: str) -> None:
    Storage(url).write(LOCK, b"{")
    with Output(url) as output:
        assert read_holder(output.storage) is not None


def test_outputs_that_cannot_be_used_are_refused_before_anything_starts(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "holiday.jpg").write_bytes(b"")
    for target, message in (
        (tmp_path / "file", "this is a file"),
        (tmp_path / "file" / "deeper", "cannot write there: NotADirectoryError"),
        (Path("/dev/null/out"), "cannot write there: NotADirectoryError"),
        (tmp_path / "full", "holds other things .holiday.jpg. and no ledger"),
    ):
        with pytest.raises(OutputError, match=message):
            open_output(str(target))
    with pytest.raises(OutputError, match="cannot write there.*nosuch"):
        open_output("nosuch://bucket/out")
    assert sorted(os.listdir(tmp_path)) == ["file", "full"] and os.listdir(tmp_path / "full") == ["holiday.jpg"]


def test_a_folder_without_permission_is_refused() -> None:
    """Run as an ordinary user, whoever runs the tests."""
    drop = "import os; from pipeline.resume import open_output; os.geteuid() or os.setuid(65534); open_output('out')"
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    with tempfile.TemporaryDirectory() as locked:
        os.chmod(locked, 0o555)
        run = subprocess.run([sys.executable, "-c", drop], cwd=locked, env=environment, capture_output=True, text=True, timeout=60)
    assert run.returncode == 1 and "cannot write there: PermissionError" in run.stderr.splitlines()[-1]


def test_an_attempt_whose_files_the_winner_took_has_lost(tmp_path: Path) -> None:
    url = str(tmp_path / "out")
    with Output(url) as output, Attempt(url, "s", run_id=output.run_id) as first, Attempt(url, "s", run_id=output.run_id) as late:
        make(first)
        make(late)
        assert commit(first)
        Storage(url).remove(late.path("manifests/s.parquet"))
        assert not commit(late)
        assert read_record(Storage(url), "s") is not None
