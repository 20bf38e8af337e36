"""Every inverter of the committed pack, from shards to a report, stopped half way and resumed: the bytes are those of a run in one go."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from jobs.make_portraits import Options, write
from models.inverter_names import OPTIMISERS, inverter_names
from models.pack_format import read_info
from tests.commands import ROOT
from tests.jobs.halves import resumed_equals_whole

pytestmark = [pytest.mark.ray, pytest.mark.timeout(900)]
PACK = ROOT / "packs" / "portraits64"
FEW_STEPS: Mapping[str, tuple[str, ...]] = {
    "w_projection": ("--inverter_settings.steps", "15"),
    "wplus_projection": ("--inverter_settings.steps", "15"),
    "pti": ("--inverter_settings.pivot_steps", "15", "--inverter_settings.steps", "8"),
    "gani": ("--inverter_settings.steps", "6"),
}


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return two shards of two unaligned portraits each, as the demo's are."""
    folder = tmp_path_factory.mktemp("raw") / "shards"
    write(Options(output=str(folder), count=4, shard_size=2))
    return folder


@pytest.mark.long  # e4e runs in most tests of jobs, W projection in test_off_faces.py
@pytest.mark.parametrize("inverter", inverter_names(read_info(PACK)[0]))
def test_it_runs_end_to_end_and_resumes(inverter: str, raw: Path, joined: Mapping[str, str], tmp_path: Path) -> None:
    flags = ["--pack", str(PACK), "--inverter", inverter, "--keep", "inversion", "latents", *FEW_STEPS.get(inverter, ())]
    rows = resumed_equals_whole(raw, flags, tmp_path, env=joined)
    assert [row["status"] for row in rows] == ["ok"] * 4
    if inverter not in OPTIMISERS:  # with so few steps those are not done
        assert min(row["identity"] for row in rows) > 0.3  # type: ignore[type-var,operator]
