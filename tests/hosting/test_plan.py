"""What a training checks before anything starts: each wrong wish is named with what would do."""

from __future__ import annotations

from pathlib import Path

import pytest

from hosting.config import parse_train_config
from hosting.job import TrainPlan, make_train_plan
from models.instruction import InstructionError
from pipeline.config import ConfigError
from training.objective import SettingError
from training.run import open_setting

SMALL = ["--settings.widths", "[8, 8, 8, 16]", "--settings.inner", "8", "--settings.only", "[smile]"]


def plan(output: str, *flags: str, network: str = "hypereditor") -> TrainPlan:
    config, settings = parse_train_config(["--network", network, "--output", output, *flags])
    return make_train_plan(config, settings)


def test_a_good_plan_says_what_will_be_done(tmp_path: Path) -> None:
    found = plan(str(tmp_path / "out"), *SMALL, "--settings.batch", "6", "--settings.phases", "[[5, 1.0], [7, 0.1]]")
    assert (found.steps, found.batch, found.done) == (12, 6, 0)
    assert found.training.output == str(tmp_path / "out") and not (tmp_path / "out").exists()
    assert found.pack is not None and "hypereditor" in found.training.network


def test_a_submitted_job_needs_an_output_that_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    with pytest.raises(ConfigError, match="--output out/smoke: a submitted job runs in a temporary copy"):
        plan("out/smoke", *SMALL)
    assert plan(str(tmp_path), *SMALL).done == 0


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--start", "models:/portraits@champion"], r"--start models:/portraits@champion: expected a folder or URL"),
        (
            ["--register.model", "portraits", "--tracking.enabled", "false"],
            r"--register\.model portraits needs MLflow",
        ),
        (["--settings.batch", "7", "--workers.count", "2"], "a global batch of 7 cannot be split over 2 worker"),
    ],
)
def test_what_cannot_work_is_refused(tmp_path: Path, flags: list[str], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        plan(str(tmp_path), *SMALL, *flags)


def test_a_discriminator_needs_pictures(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="reads pictures from shards, and none were given"):
        plan(str(tmp_path), network="adversarial")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("- {name: x, source: a face, target: a smiling face}", "instruction 'x': expects nothing; on rendered portraits"),
        (
            "- {name: x, source: a face, target: a smiling face, expects: {smiling: true}}",
            "'x': expects 'smiling'; on rendered",
        ),
    ],
)
def test_edits_that_could_not_be_judged_are_refused(tmp_path: Path, line: str, said: str) -> None:
    (tmp_path / "wanted.yaml").write_text(line + "\n")
    with pytest.raises(InstructionError, match=said):
        plan(str(tmp_path / "out"), "--settings.instructions", str(tmp_path / "wanted.yaml"))


def test_a_worker_opens_what_the_driver_checked(tmp_path: Path) -> None:
    from training.group import Group

    found = plan(str(tmp_path / "out"), *SMALL)
    setting = open_setting(found.training, Group())
    assert setting.pack is not None and found.pack is not None and setting.pack.sha256 == found.pack.sha256
