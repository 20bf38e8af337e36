"""A job whose pack comes from the model registry of a server."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from models.pack_format import read_info
from pipeline.config import TrackingConfig
from pipeline.registry import register_pack
from pipeline.training_run import open_run
from tests.commands import Command, Ended
from tests.jobs.world import World, arguments, run, tree
from tests.tracking_server import Store

pytestmark = [pytest.mark.ray, pytest.mark.mlflow, pytest.mark.timeout(900)]


def test_a_job_edits_with_the_champion(
    world: World, server: Store, finished: tuple[Path, Ended], joined: Mapping[str, str], tmp_path: Path, command: Command
) -> None:
    training = open_run(TrackingConfig(uri=server.uri), output=str(tmp_path / "training"), name="x", params={}, tags={})
    version = register_pack(training, world.pack, model="world", alias="champion")
    flags = arguments(world, tmp_path / "out", "--pack", "models:/world@champion", "--tracking.uri", server.uri)
    ended = run(flags, env=joined)
    assert ended.code == 0, ended.err[-3000:]
    assert f"is models:/world/{version} (" in ended.err and ended.result["mlflow_run_id"]
    assert tree(tmp_path / "out") == tree(finished[0]), "the same bytes as with the folder"
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    assert record["pack"]["path"] == "models:/world@champion" and record["pack"]["sha256"] == read_info(world.pack)[1]

    wrong = command(
        "jobs/edit_dataset.py", arguments(world, tmp_path / "other", "--pack", "models:/world@contender", "--tracking.uri", server.uri)
    )
    assert wrong.code == 2 and "champion (version 1)" in wrong.err and not (tmp_path / "other").exists()
