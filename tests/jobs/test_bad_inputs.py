"""Everything that can be wrong with an input, through the whole job at once: nothing stops it, nothing vanishes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.jobs.world import World, members, portraits, run, seen
from tests.pipeline.bad_inputs import BadInput, build_bad_inputs

pytestmark = [pytest.mark.ray, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def outcome(world: World, joined: Mapping[str, str], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, tuple[BadInput, ...]]:
    """Return what a job makes of the folder of bad inputs; it ends well."""
    folder = tmp_path_factory.mktemp("bad")
    cases = build_bad_inputs(folder / "raw", seen(world.pack, portraits(20, seed=11, size=128))[0])
    flags = ["--input", str(folder / "raw"), "--output", str(folder / "out"), "--pack", str(world.pack)]
    flags += ["--workers.max", "1", "--tracking.enabled", "false"]
    ended = run([*flags, "--instructions", "smile: a face -> a smiling face"], env=joined)
    assert ended.code == 0, ended.err[-5000:]
    assert ended.result["shards"] == len(cases)
    assert ended.result["damaged_shards"] == sum(bool(case.damage) for case in cases)
    return folder / "out", cases


def test_good_samples_of_bad_shards_are_edited(outcome: tuple[Path, tuple[BadInput, ...]]) -> None:
    out, cases = outcome
    for case in cases:
        tar = out / "shards" / f"{case.name}.tar"
        edited = {name for name in members(tar) if name.endswith(".smile.png")} if tar.exists() else set()
        assert edited == {f"{key}.smile.png" for key in case.good}, case.name


def test_each_failure_is_in_quarantine_with_stage_and_reason(outcome: tuple[Path, tuple[BadInput, ...]]) -> None:
    out, cases = outcome
    for case in cases:
        expected = {**case.failed, **dict.fromkeys(case.no_face, ("align", "no face found"))}
        tar = out / "quarantine" / f"{case.name}.tar"
        assert tar.exists() == bool(expected), case.name
        entries = [json.loads(data) for name, data in members(tar).items() if name.endswith("quarantine.json")] if expected else []
        found = {entry["key"]: (entry["stage"], entry["reason"]) for entry in entries}
        assert set(found) == set(expected), case.name
        for key, (stage, reason) in expected.items():
            assert found[key][0] == stage and reason in found[key][1], (case.name, key, found[key])


def test_manifests_name_the_same_failures(outcome: tuple[Path, tuple[BadInput, ...]]) -> None:
    out, cases = outcome
    for case in cases:
        rows = pq.read_table(out / "manifests" / f"{case.name}.parquet").to_pylist()
        assert sorted(row["key"] for row in rows if row["status"] == "ok") == sorted(case.good), case.name
        assert sorted(row["key"] for row in rows if row["status"] == "quarantined") == sorted([*case.failed, *case.no_face]), case.name


def test_damaged_shards_are_named(outcome: tuple[Path, tuple[BadInput, ...]]) -> None:
    out, cases = outcome
    for case in cases:
        note = out / "quarantine" / f"{case.name}.json"
        assert note.exists() == bool(case.damage), case.name
        if case.damage:
            entry = json.loads(note.read_text())
            assert entry["stage"] == "read" and case.damage in entry["reason"], case.name
            assert case.damage in json.loads((out / "ledger" / f"{case.name}.json").read_text())["damage"]


def test_the_report_lists_the_failures(outcome: tuple[Path, tuple[BadInput, ...]]) -> None:
    page = (outcome[0] / "report.html").read_text()
    assert "not_a_tar" in page and "no face found" in page
