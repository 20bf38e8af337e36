"""The evaluation that runs on a schedule: a damaged pack ends it with 3 and an explanation, an undamaged one never does."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from evaluation import samples
from jobs.local_ray import LocalRay
from tests.commands import ROOT, Command
from tests.evaluation.damage import damaged

pytestmark = pytest.mark.ray
SOUND = ROOT / "packs" / "portraits64"
FEW = """
- {name: old, source: a face, target: an old face, expects: {old: true}}
- {name: glasses, source: a face, target: a face with glasses, strength: 1.3, expects: {glasses: true}}
"""


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a damaged copy of the committed pack."""
    return damaged(SOUND, tmp_path_factory.mktemp("damaged") / "pack")


def arguments(folder: Path, *more: str, pictures: int = 16) -> list[str]:
    """Return the flags of a small evaluation whose runs are kept in a database in the folder."""
    (folder / "few.yaml").write_text(FEW)
    common = ["--suite", "editing", "--methods", str(ROOT / "configs" / "evaluate" / "nightly.yaml"), "--pictures", str(pictures)]
    places = ["--instructions", str(folder / "few.yaml"), "--output", str(folder / "out"), "--tracking_uri", uri(folder)]
    return [*common, *places, "--champion", "auto", *more]


def uri(folder: Path) -> str:
    return f"sqlite:///{folder / 'mlruns.db'}"


def runs(folder: Path) -> list[Run]:
    """Return the runs, oldest first."""
    client = MlflowClient(uri(folder))
    experiment = client.get_experiment_by_name("evaluate")
    assert experiment is not None
    return list(client.search_runs([experiment.experiment_id], order_by=["attributes.start_time ASC"]))


def marks(found: list[Run]) -> list[list[str]]:
    return [sorted({"champion", "regression", "compared_with"} & run.data.tags.keys()) for run in found]


def figures(folder: Path) -> Mapping[str, object]:
    found = json.loads((folder / "out" / "figures.json").read_text())
    assert isinstance(found, dict)
    return found


def test_a_scheduled_evaluation_tells_a_damaged_pack_from_a_sound_one(
    command: Command, broken: Path, token: LocalRay, tmp_path: Path
) -> None:
    first = command("jobs/evaluate.py", arguments(tmp_path))
    assert first.code == 0 and "is the champion now" in first.err, first.err
    champion = runs(tmp_path)[0].info.run_id

    sound = command("jobs/evaluate.py", arguments(tmp_path, "--seed", "1"))
    assert sound.code == 0 and f"no regression against the champion, run {champion}" in sound.err, sound.err

    flags = ["--now", "--name", "evaluation", "--address", token.job_address, "--working_dir", str(ROOT)]
    job = ["jobs/evaluate.py", *arguments(tmp_path, "--pack", str(broken), "--promote")]
    worse = command("jobs/schedule.py", [*flags, "--", *job])
    assert worse.code == 3, worse.err
    assert "evaluation-000001 FAILED, exit code 3" in worse.err and f"REGRESSION against the champion, run {champion}" in worse.err
    line = next(line for line in worse.err.splitlines() if line.startswith("HyperEditor, glasses: success") and "worst" in line)
    assert "on 16 portraits, the champion" in line and "(the same portraits)" in line and "interval" in line
    keys = samples.read(tmp_path / "out" / samples.FILE)["HyperEditor", "glasses"].keys
    named = line.split("worst portraits: ")[1].split(", ")
    assert len(named) == 5 and set(named) <= set(keys)

    kept = runs(tmp_path)
    assert marks(kept) == [["champion"], ["compared_with"], ["compared_with", "regression"]]
    assert kept[2].data.tags["regression"].startswith("REGRESSION against the champion") and kept[2].info.status == "FINISHED"
    files = {entry.path for entry in MlflowClient(uri(tmp_path)).list_artifacts(kept[2].info.run_id)}
    assert {"samples.parquet", "verdict.txt", "figures.json", "index.html", "trend_success.png", "trend_ids.png"} <= files
    page = (tmp_path / "out" / "index.html").read_text()
    assert "Regression</b> · HyperEditor, glasses: success" in page and "From run to run" in page
    verdict = figures(tmp_path)["verdict"]
    assert isinstance(verdict, dict) and verdict["regressions"] >= 2 and champion in verdict["champion"]


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--champion", "0123abcd"], "--champion 0123abcd: no finished run of this suite with that id"),
        (["--tolerances", '{"sucess": 0.1}'], "--tolerances sucess: 0.1: expected 0 or more for one of success"),
        (["--tracking_uri", "http://127.0.0.1:9"], "--champion auto: MLflow at http://127.0.0.1:9 did not answer"),
        (["--suite", "pack"], "--champion, --promote and --tolerances are for suite editing"),
    ],
)
def test_what_cannot_be_compared_ends_with_two_before_anything_is_measured(
    command: Command, tmp_path: Path, flags: list[str], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    done = command("jobs/evaluate.py", arguments(tmp_path, *flags))
    assert done.code == 2 and words in done.err, done.err
    assert "held-out portraits" not in done.err


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_twenty_undamaged_runs_of_other_people_raise_no_alarm(command: Command, broken: Path, tmp_path: Path) -> None:
    assert command("jobs/evaluate.py", arguments(tmp_path)).code == 0
    done = [command("jobs/evaluate.py", arguments(tmp_path, "--seed", str(seed))) for seed in range(1, 21)]
    assert [one.code for one in done] == [0] * 20, "\n".join(one.err[-2000:] for one in done if one.code)
    assert marks(runs(tmp_path)) == [["champion"]] + [["compared_with"]] * 20
    assert command("jobs/evaluate.py", arguments(tmp_path, "--seed", "21", "--pack", str(broken))).code == 3
