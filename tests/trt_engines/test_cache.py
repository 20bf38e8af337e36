"""Engines are found by everything that invalidates them, built once however many ask, and not read when they were changed."""

from __future__ import annotations

import json
import multiprocessing
import os
import time
from collections.abc import Iterator
from dataclasses import fields, is_dataclass, replace
from pathlib import Path

import pytest

from trt_engines.build import BuildSettings, profiles_for
from trt_engines.cache import FAILED, PLAN, SIDECAR, Around, Device, EngineCache, EngineKey
from trt_engines.graphs import BackendError

FORK = multiprocessing.get_context("fork")
KEY = EngineKey(
    tensorrt="11.4.0.106",
    system="Linux-x86_64",
    onnx_sha256="ab",
    settings=BuildSettings(inputs=(("image", (3, 8, 8)),), profiles=profiles_for(4)),
    device=Device(name="a GPU", compute_capability="9.0", multiprocessors=132, memory_mib=81559, l2_kib=51200),
)
AROUND = Around(driver="600.1", cuda="13.2")


def changed(value: object) -> Iterator[object]:
    """Yield values that differ from this one in one place."""
    if is_dataclass(value) and not isinstance(value, type):
        for field in fields(value):
            yield from (replace(value, **{field.name: other}) for other in changed(getattr(value, field.name)))
    elif isinstance(value, tuple):
        yield value[:-1]
        yield from ((*value[:at], other, *value[at + 1 :]) for at in range(len(value)) for other in changed(value[at]))
    elif isinstance(value, bool):
        yield not value
    elif isinstance(value, int):
        yield value + 1
    else:
        assert isinstance(value, str)
        yield value + "x"


def test_the_key_changes_with_every_field() -> None:
    keys = [KEY, *changed(KEY)]
    assert len(keys) > 15 and len({key.digest() for key in keys}) == len(keys)  # type: ignore[attr-defined]
    assert replace(KEY, device=replace(KEY.device)).digest() == KEY.digest()


class Log:
    """Build plans that name their place in a file which all processes write to."""

    def __init__(self, path: Path, *, seconds: float = 0.0) -> None:
        self.path, self.seconds = path, seconds

    def __call__(self, onnx: bytes, settings: BuildSettings, folder: Path) -> bytes:
        with self.path.open("a") as log:
            log.write("built\n")
        time.sleep(self.seconds)
        return b"plan " + str(self.count).encode()

    @property
    def count(self) -> int:
        return self.path.read_text().count("built") if self.path.exists() else 0


@pytest.fixture
def log(tmp_path: Path) -> Log:
    return Log(tmp_path / "log")


def cache_of(tmp_path: Path, log: Log) -> EngineCache:
    return EngineCache(tmp_path / "engines", build=log, test=len, around=AROUND)


def test_an_engine_is_built_once_and_noted_with_what_it_is_for(tmp_path: Path, log: Log) -> None:
    assert cache_of(tmp_path, log).engine(b"onnx", KEY) == b"plan 1" == cache_of(tmp_path, log).engine(b"onnx", KEY)
    assert log.count == 1 and oct((tmp_path / "engines").stat().st_mode & 0o777) == "0o700"
    note = json.loads((tmp_path / "engines" / KEY.digest() / SIDECAR).read_text())
    assert note["driver"] == "600.1" and note["key"]["device"]["name"] == "a GPU"
    other = replace(KEY, tensorrt="11.4.1")
    assert cache_of(tmp_path, log).engine(b"onnx", other) == b"plan 2"


def _ask(folder: Path, log: Log, answers: multiprocessing.queues.Queue[bytes]) -> None:  # type: ignore[name-defined]
    answers.put(cache_of(folder, log).engine(b"onnx", KEY))


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_of_three_processes_one_builds(tmp_path: Path) -> None:
    log, answers = Log(tmp_path / "log", seconds=0.5), FORK.Queue()
    processes = [FORK.Process(target=_ask, args=(tmp_path, log, answers)) for _ in range(3)]
    for process in processes:
        process.start()
    found = [answers.get(timeout=60) for _ in processes]
    for process in processes:
        process.join(60)
    assert found == [b"plan 1"] * 3 and log.count == 1


def _die(folder: Path) -> None:
    def build(onnx: bytes, settings: BuildSettings, place: Path) -> bytes:
        os._exit(9)

    EngineCache(folder / "engines", build=build, test=len, around=AROUND).engine(b"onnx", KEY)


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_builder_that_dies_leaves_the_lock_and_no_engine(tmp_path: Path, log: Log) -> None:
    process = FORK.Process(target=_die, args=(tmp_path,))
    process.start()
    process.join(60)
    assert process.exitcode == 9
    assert cache_of(tmp_path, log).engine(b"onnx", KEY) == b"plan 1"


@pytest.mark.parametrize("file", [PLAN, SIDECAR])
def test_a_changed_engine_is_set_aside_and_built_again(tmp_path: Path, log: Log, capsys: pytest.CaptureFixture[str], file: str) -> None:
    cache_of(tmp_path, log).engine(b"onnx", KEY)
    place = tmp_path / "engines" / KEY.digest()
    (place / file).write_bytes((place / file).read_bytes().replace(b"1", b"2"))
    assert cache_of(tmp_path, log).engine(b"onnx", KEY) == b"plan 2" and log.count == 2
    assert "it is set aside and built again" in capsys.readouterr().err and (place / f"{file}.bad").exists()


def test_a_failed_build_is_not_tried_again_for_a_day(tmp_path: Path, log: Log) -> None:
    def build(onnx: bytes, settings: BuildSettings, folder: Path) -> bytes:
        raise BackendError("could not find any implementation for node 7")

    failing = EngineCache(tmp_path / "engines", build=build, test=len, around=AROUND)
    with pytest.raises(BackendError, match="^could not find any implementation"):
        failing.engine(b"onnx", KEY)
    with pytest.raises(BackendError, match="failed 0 minutes ago and is not tried again for a day: could not find any.*remove /"):
        cache_of(tmp_path, log).engine(b"onnx", KEY)
    assert log.count == 0
    marker = tmp_path / "engines" / KEY.digest() / FAILED
    marker.write_text(json.dumps({"reason": "old", "at": time.time() - 25 * 3600}))
    assert cache_of(tmp_path, log).engine(b"onnx", KEY) == b"plan 1" and not marker.exists()


def test_an_engine_that_fails_its_first_test_is_kept_from_everybody_for_a_day(tmp_path: Path, log: Log) -> None:
    def test(plan: bytes) -> None:
        raise BackendError(f"{plan.decode()} differs from eager by 0.3")

    with pytest.raises(BackendError, match="^plan 1 differs"):
        EngineCache(tmp_path / "engines", build=log, test=test, around=AROUND).engine(b"onnx", KEY)
    assert not (tmp_path / "engines" / KEY.digest() / PLAN).exists()
    with pytest.raises(BackendError, match="failed 0 minutes ago and is not tried again for a day: plan 1 differs from eager by 0.3"):
        cache_of(tmp_path, log).engine(b"onnx", KEY)
    assert log.count == 1


def test_a_folder_that_others_may_write_to_is_refused(tmp_path: Path, log: Log) -> None:
    folder = tmp_path / "engines"
    folder.mkdir()
    folder.chmod(0o777)
    with pytest.raises(BackendError, match="others than this user may write there, and an engine is code: chmod 700"):
        cache_of(tmp_path, log).engine(b"onnx", KEY)
    assert log.count == 0
