"""What `--plan` says of a job before it runs: counts that come true, and nothing written."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from pipeline.estimate import Probe, estimate, tar_bytes
from pipeline.shards import Shard
from tests.jobs.world import World, arguments, run, write_shard

pytestmark = [pytest.mark.timeout(600)]


@pytest.mark.ray
def test_a_plan_says_what_the_job_then_makes(world: World, joined: Mapping[str, str], tmp_path: Path) -> None:
    out = tmp_path / "out"
    planned = run(arguments(world, out, "--plan"), env=joined)
    assert planned.code == 0, planned.err[-3000:]
    assert not out.exists()
    result = planned.result
    assert result["plan"] is True and (result["shards"], result["todo"], result["workers"]) == (4, 4, 1)
    done = run(arguments(world, out), env=joined)
    assert done.code == 0, done.err[-3000:]
    assert abs(int(result["samples"]) - int(done.result["samples"])) <= 1  # type: ignore[call-overload]
    assert abs(int(result["images"]) - int(done.result["images"])) <= 8  # type: ignore[call-overload]
    written = sum(path.stat().st_size for path in (out / "shards").iterdir())
    assert 0.5 * written < float(result["output_bytes"]) < 2 * written + 200_000  # type: ignore[arg-type]
    assert 0 < float(result["seconds"]) < 600 and float(result["worker_bytes"]) > 2**28  # type: ignore[arg-type]
    assert "images/s by 1 worker(s)" in planned.err and "GiB of memory for a worker" in planned.err
    again = run(arguments(world, out, "--plan"), env=joined)
    assert again.code == 0 and again.result["todo"] == 0 and "samples" not in again.result


@pytest.mark.ray
def test_a_plan_of_what_cannot_be_used_says_why(world: World, joined: Mapping[str, str], tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    write_shard(tmp_path / "raw" / "bad.tar", {"one": b"no picture", "two": b"none either"})
    flags = arguments(world, tmp_path / "out", "--plan")
    ended = run([*flags, "--input", str(tmp_path / "raw")], env=joined)
    assert ended.code == 2 and "--plan: none of the first 2 samples of" in ended.err and "decode" in ended.err


def test_an_estimate_goes_by_the_bytes_of_the_shards_and_the_workers(tmp_path: Path) -> None:
    shards = []
    for place, size in enumerate((1000, 1000, 3000)):
        (tmp_path / f"{place}.tar").write_bytes(bytes(size))
        shards.append(Shard(url=str(tmp_path / f"{place}.tar"), name=str(place)))
    probe = Probe(samples=3, failed=1, seconds=6.0, images=12, bytes_written=3000, worker_bytes=7, shard_samples=10, shard_bytes=1000)
    found = estimate(probe, shards, workers=1)
    assert (found.samples, found.images) == (50, 152) and found.seconds == pytest.approx(76.0) and found.worker_bytes == 7
    assert estimate(probe, shards, workers=3).seconds == pytest.approx(76.0 / 3)
    assert estimate(probe, shards, workers=2).seconds == pytest.approx(76.0 * 2 / 3)  # two shards for one of them
    assert 38_000 < found.output_bytes < 38_000 + 3 * 20_000 + 152 * 150 + 1
    assert tar_bytes([b"", b"x", bytes(513)]) == 512 + 1024 + 512 + 1024
