"""What is decided before the work: settings and their hash, how wide to run, what the user is told about progress."""

from __future__ import annotations

import io
import time
from dataclasses import replace
from pathlib import Path

import pytest

from models.instruction import InstructionError
from pipeline.cluster import FEED_CPUS, Cluster, plan_pool
from pipeline.config import ConfigError, EditConfig, TrackingConfig, WorkersConfig, config_hash, parse_config
from pipeline.images import Limits
from pipeline.plan import JobPlan, make_plan, parse_instructions
from pipeline.progress import Board, Counts, ProgressDisplay, Status, Total
from pipeline.run import dry_run
from pipeline.tracking import tracking_uri
from tests.models.small_pack import write_small_pack

BASE = ["--input", "in", "--output", "out", "--instructions", "smile: a face -> a smile"]
INSTRUCTIONS = [{"name": "smile", "strength": 1.0}]


def cluster(cpus: float, gpus: float = 0, node_cpus: float | None = None) -> Cluster:
    return Cluster(cpus=cpus, gpus=gpus, node_cpus=node_cpus or cpus, address="here")


def test_flags_win_over_the_file_and_the_file_over_defaults(tmp_path: Path) -> None:
    preset = tmp_path / "preset.yaml"
    preset.write_text("batch_size: 5\nkeep: [latents]\nworkers: {max: 3}\nlimits: {min_side: 40}\n")
    config = parse_config(["--config", str(preset), *BASE, "--batch_size", "7"])
    assert (config.batch_size, config.keep, config.workers.max, config.limits.min_side) == (7, ("latents",), 3, 40)
    assert config.inverter == "e4e" and config.workers.min == 1 and not config.dry_run


def test_lists_and_switches_are_written_as_people_write_them() -> None:
    config = parse_config([*BASE, "sad: a face -> a sad face @-0.5", "--keep", "original", "--dry_run", "--keep=latents", "--preview", "3"])
    assert config.instructions == ("smile: a face -> a smile", "sad: a face -> a sad face @-0.5")
    assert config.keep == ("original", "latents") and config.dry_run and config.preview == 3


def plan_of(tmp_path: Path, *flags: str, without: tuple[str, ...]) -> JobPlan:
    pack = write_small_pack(tmp_path / "pack", without=without)
    raw = tmp_path / "raw"
    raw.mkdir()
    (raw / "part-0.tar").write_bytes(b"")
    where = ["--input", str(raw), "--output", str(tmp_path / "out"), "--pack", str(pack), "--tracking.enabled", "false"]
    return make_plan(parse_config([*where, *flags]))


SMILES = "- {name: smile, source: a face, target: a smiling face, expects: {smile: true}}\n"


def test_an_imported_pack_needs_only_what_the_job_uses(tmp_path: Path) -> None:
    lacking = ("clip", "identity", "attributes", "landmarks", "hypereditor")
    official = plan_of(tmp_path, "--inverter", "hyperstyle", "--keep", "inversion", "--align", "centre", without=lacking)
    assert official.instructions == () and set(official.pack.networks) >= {"generator", "hyperstyle"}


def test_a_pack_without_landmarks_is_told_of_the_centre(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--keep", "latents"]
    dry_run(plan_of(tmp_path, *flags, without=("landmarks",)))
    assert "no landmark network" in (said := capsys.readouterr().err) and "say --align centre" in said
    for name, more, without in (("centre", ["--align", "centre"], ("landmarks",)), ("seeing", [], ())):
        (tmp_path / name).mkdir()
        dry_run(plan_of(tmp_path / name, *flags, *more, without=without))
        assert "--align centre" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "without", "said"),
    [
        (["--keep", "latents"], ("generator",), "lacks the network 'generator'; this job needs generator$"),
        (["--instructions", "smile: a face -> a smile"], ("clip",), "lacks the network 'clip'; this job needs generator, clip$"),
        (["--keep", "latents", "--align", "center"], (), "--align center: did you mean 'centre'"),
        (["--instructions", "FILE"], ("attributes",), "'smile': expects smile: the pack 'small' has no classifier for that"),
    ],
)
def test_a_network_that_the_job_lacks_is_named(tmp_path: Path, flags: list[str], without: tuple[str, ...], said: str) -> None:
    file = tmp_path / "smiles.yaml"
    file.write_text(SMILES)
    with pytest.raises((ConfigError, InstructionError), match=said):
        plan_of(tmp_path, *(str(file) if flag == "FILE" else flag for flag in flags), without=without)


def test_inline_instructions_have_name_texts_and_strength() -> None:
    smile, sad = parse_instructions(["smile: a face -> a smiling face", "sad_1 : a photo: a face->a sad face @ -0.5"])
    assert (smile.name, smile.source, smile.target, smile.strength) == ("smile", "a face", "a smiling face", 1.0)
    assert (sad.name, sad.source, sad.target, sad.strength) == ("sad_1", "a photo: a face", "a sad face", -0.5)


@pytest.mark.parametrize(
    ("more", "same"),
    [
        (["--output", "elsewhere"], True),
        (["--batch_size", "3"], True),
        (["--workers.max", "4"], True),
        (["--tracking.experiment", "x"], True),
        (["--device", "cpu"], True),
        (["--backend", "eager"], True),
        (["--backend", "onnxruntime"], False),
        (["--reprocess", "all"], True),
        (["--keep", "latents"], False),
        (["--inverter", "w_encoder"], False),
        (["--seed", "1"], False),
        (["--image_ext", "png"], False),
        (["--align", "face"], True),
        (["--align", "centre"], False),
        (["--limits.min_side", "17"], False),
    ],
)
def test_the_hash_knows_what_changes_the_bytes(more: list[str], same: bool) -> None:
    changed = [flag for flag in BASE if flag not in ("--output", "out")] if more[0] == "--output" else BASE
    before, after = parse_config(BASE), parse_config([*changed, *more])
    assert (config_hash(before, INSTRUCTIONS) == config_hash(after, INSTRUCTIONS)) is same


def test_outputs_made_before_options_came_keep_their_hash() -> None:
    """What the hash was before there were `align` and settings of an inverter: an output of then is resumed, not refused."""
    assert config_hash(parse_config(BASE), INSTRUCTIONS) == "e5066d4afa50ee8b7136a338e3a6dbf510525513bba593574a079e2b5cd526ca"
    inversions = EditConfig(input="a", output="b", keep=("latents",))
    assert config_hash(inversions, []) == "dacbe1a45a9a2c8de7dd4b2840d2f1e0f9cf569c33e0d989a8d86e8ed5094b93"


def test_the_hash_knows_the_instructions_and_no_order_of_keep() -> None:
    config = EditConfig(input="a", output="b", instructions=("x",), keep=("latents", "original"))
    turned = EditConfig(input="a", output="b", instructions=("x",), keep=("original", "latents"))
    assert config_hash(config, INSTRUCTIONS) == config_hash(turned, INSTRUCTIONS)
    assert config_hash(config, INSTRUCTIONS) != config_hash(config, [{"name": "smile", "strength": 1.5}])


def config(**workers: float | int | None) -> EditConfig:
    return EditConfig(input="a", output="b", instructions=("x",), workers=WorkersConfig(**workers))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("cpus", "shards", "workers", "threads"),
    [(1, 9, 1, 1), (2, 9, 2, 1), (4, 9, 4, 1), (16, 9, 9, 1), (64, 9, 9, 4), (2, 1, 1, 2), (8, 3, 3, 2)],
)
def test_cores_decide_the_workers_where_there_is_no_gpu(cpus: int, shards: int, workers: int, threads: int) -> None:
    pool = plan_pool(config(), cluster(cpus), shards=shards)
    assert (pool.max_workers, pool.threads, pool.gpus, pool.device) == (workers, threads, 0, "cpu")
    assert pool.max_workers * (pool.cpus + FEED_CPUS) <= cpus, "a feed would wait for ever"


def test_memory_and_the_shards_of_the_whole_job_decide_the_threads() -> None:
    small = replace(cluster(8), node_bytes=10e9)
    assert [plan_pool(config(), small, shards=99, worker_bytes=size).threads for size in (1e9, 3e9, 6e9, 40e9)] == [1, 2, 4, 4]
    assert plan_pool(config(), cluster(4), shards=1, of=9).threads == plan_pool(config(), cluster(4), shards=9).threads == 1
    assert plan_pool(config(threads=2), cluster(4), shards=9).threads == 2
    assert plan_pool(config(max=2), cluster(16), shards=99).threads == 4
    pools = [plan_pool(config(), small, shards=99, worker_bytes=size) for size in (1e9, 3e9, 6e9, 40e9)]
    assert [pool.max_workers for pool in pools] == [8, 3, 1, 1]
    eight = Cluster(cpus=64, gpus=0, node_cpus=8, address="here", node_bytes=1e12)
    assert (plan_pool(config(), eight, shards=9).threads, plan_pool(config(), eight, shards=900).threads) == (4, 1)


def test_gpus_decide_the_workers_where_there_are_some() -> None:
    pool = plan_pool(config(), cluster(64, gpus=4, node_cpus=16), shards=100)
    assert (pool.min_workers, pool.max_workers, pool.gpus, pool.cpus, pool.device) == (1, 4, 1, 0, "cuda")
    assert plan_pool(config(gpus=0.5), cluster(64, gpus=4), shards=100).max_workers == 8
    assert plan_pool(config(max=2), cluster(64, gpus=4), shards=100).max_workers == 2
    assert plan_pool(config(gpus=0), cluster(8, gpus=4), shards=100).device == "cpu"


@pytest.mark.parametrize(
    ("workers", "gpus", "expected"),
    [
        ({"min": 5}, 4, "5 x 1 GPUs asked for, but the cluster at here has 4"),
        ({"max": 5}, 4, "5 x 1 GPUs asked for"),
        ({"gpus": 8}, 4, "1 x 8 GPUs asked for"),
        ({"gpus": 1}, 0, "has 0"),
        ({"min": 9, "threads": 2}, 0, "4 workers fit"),
    ],
)
def test_more_than_the_cluster_has_is_refused_at_once(workers: dict[str, int], gpus: int, expected: str) -> None:
    with pytest.raises(ConfigError, match=expected):
        plan_pool(config(**workers), cluster(8, gpus=gpus), shards=100)


def test_cuda_without_a_gpu_is_refused() -> None:
    with pytest.raises(ConfigError, match="has 0"):
        plan_pool(EditConfig(input="a", output="b", instructions=("x",), device="cuda"), cluster(8), shards=9)


def test_the_board_adds_up_shards_and_forgets_dead_attempts() -> None:
    board = Board(4)
    assert board.status().describe() == "starting workers" and board.status().total is None
    board.open("a", 10)
    board.report("a", Counts(samples=6, images=12, failed=0))
    board.open("a", 10)  # its worker died: the shard is begun anew
    board.report("a", Counts(samples=10, images=16, failed=2))
    board.open("b", 20)
    status = board.status()
    assert status.counts == Counts(samples=10, images=16, failed=2)
    assert status.total == Total(samples=60, exact=False)
    board.open("c", 20)
    board.open("d", 10)
    assert board.status().total == Total(samples=60, exact=True)


def test_a_status_tells_speed_failures_and_time_left() -> None:
    status = Status(counts=Counts(samples=50, images=200, failed=1), seconds=20, total=Total(samples=350, exact=False))
    assert status.line() == "edit: 50/~350 samples, 10.0 images/s, 1 failed, 2m00s left"
    slow = Status(counts=Counts(samples=1, images=4, failed=0), seconds=100, total=Total(samples=101, exact=True))
    assert slow.line() == "edit: 1/101 samples, 0.0 images/s, 0 failed, 2h46m left"


def test_a_status_counts_what_is_begun_of_a_long_batch() -> None:
    first = Status(counts=Counts(begun=1.5), seconds=30, total=Total(samples=16, exact=True))
    assert first.line() == "edit: 0/16 samples, first batch, 1.5 inverted, 0 failed, 4m50s left"
    later = Status(counts=Counts(samples=8, images=8, begun=2), seconds=100, total=Total(samples=20, exact=True))
    assert later.line() == "edit: 8/20 samples, 0.1 images/s, 0 failed, 1m40s left"


def test_without_a_terminal_progress_is_one_line_at_a_time() -> None:
    stream = io.StringIO()
    with ProgressDisplay(lambda: Status(counts=Counts(samples=2, images=2), seconds=1, total=Total(samples=2, exact=True)), stream=stream):
        time.sleep(0.05)
    assert stream.getvalue() == "edit: 2/2 samples, 2.0 images/s, 0 failed, all edited\n"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_on_a_terminal_progress_is_a_bar() -> None:
    stream = Terminal()
    with ProgressDisplay(lambda: Status(counts=Counts(samples=1, images=3), seconds=1, total=Total(samples=2, exact=True)), stream=stream):
        time.sleep(0.05)
    assert "1/2" in stream.getvalue() and "3.0 images/s" in stream.getvalue()


def test_progress_never_ends_a_job() -> None:
    def broken() -> Status:
        raise ConnectionError("the cluster is gone")

    stream = io.StringIO()
    with ProgressDisplay(broken, stream=stream):
        pass
    assert stream.getvalue() == ""


def test_tracking_goes_where_it_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    assert tracking_uri(TrackingConfig(), f"{tmp_path}/deep/out") == f"sqlite:///{tmp_path}/deep/mlruns.db"
    assert tracking_uri(TrackingConfig(), "s3://bucket/out") == f"sqlite:///{tmp_path}/mlruns.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://server")
    assert tracking_uri(TrackingConfig(), str(tmp_path)) == "http://server"
    assert tracking_uri(TrackingConfig(uri="sqlite:////x.db"), str(tmp_path)) == "sqlite:////x.db"


def test_limits_have_the_defaults_of_the_decoder() -> None:
    assert parse_config(BASE).limits == Limits()
