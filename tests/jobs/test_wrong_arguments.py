"""Wrong arguments end with exit code 2 and a message that names the value and what would work, before anything starts."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from jobs.edit_dataset import main
from tests.jobs.world import SMILE, World, arguments, make_world, run

NOWHERE = "no-such-folder"


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Return one shard and a pack."""
    return make_world(tmp_path_factory.mktemp("small"), shards=1, per_shard=2)


def refused(capsys: pytest.CaptureFixture[str], flags: list[str]) -> str:
    """Run the job in this process, which must refuse, and return the message."""
    assert main(flags) == 2
    said = capsys.readouterr()
    assert not said.out and said.err.startswith("edit_dataset: ") and "Traceback" not in said.err
    return said.err


def replaced(flags: list[str], option: str, value: str) -> list[str]:
    position = flags.index(option) + 1
    return [*flags[:position], value, *flags[position + 1 :]]


@pytest.mark.parametrize(
    ("option", "value", "expected"),
    [
        ("--input", NOWHERE, "there is no such file or folder"),
        ("--pack", NOWHERE, "no such folder"),
        ("--batch_size", "0", "--batch_size 0: expected 1 or more"),
        ("--batch_size", "many", "--batch_size many: expected int or auto"),
        ("--output", "s4://bucket/out", "s4"),
    ],
)
def test_a_wrong_value_is_named(
    small: World, capsys: pytest.CaptureFixture[str], tmp_path: Path, option: str, value: str, expected: str
) -> None:
    assert expected in refused(capsys, replaced(arguments(small, tmp_path / "out"), option, value))


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        (["--inverter", "w_encode"], "--inverter w_encode: pack"),
        (["--instructions", f"long: a face -> a {'very ' * 80}happy face", "--dry_run"], "instruction 'long': text"),
        (["--instructions", f"long: a face -> a {'very ' * 80}happy face"], "tokens, expected at most"),
        (["--inverter", "w_encode"], "did you mean 'w_encoder'? valid: e4e, gani"),
        (["--editor", "hypereditr"], "no such editor: did you mean 'hypereditor'? valid: ganspace, hypereditor, interfacegan, sefa"),
        (["--editor_settings.steps", "3"], "editor 'hypereditor': no setting 'steps'; it has none"),
        (["--editor", "tedigan", "--editor_settings.step", "3"], "editor 'tedigan': no setting 'step'; did you mean 'steps'"),
        (["--editor", "sefa", "--instructions", "grin: a face -> a smiling face"], "sefa moves along the direction of an attribute"),
        (["--inverter_settings.iterations", "3"], "inverter 'e4e': no setting 'iterations'; it has none"),
        (["--inverter", "pti", "--inverter_settings.step", "3"], "no setting 'step'; did you mean 'steps'"),
        (["--editor", "hypereditr"], "did you mean 'hypereditor'?"),
        (["--keep", "orginal"], "did you mean 'original'? valid: inversion, latents, original"),
        (["--batch_sise", "4"], "did you mean --batch_size?"),
        (["--workers.maxx", "4"], "did you mean --workers.max?"),
        (["--reprocess", "al"], "did you mean 'all'?"),
        (["--workers.min", "3", "--workers.max", "2"], "--workers.max 2 is below --workers.min 3"),
        (["--workers.gpus", "1.5"], "expected 0, a fraction"),
        (["--device", "cpu", "--workers.gpus", "1"], "contradicts --device cpu"),
        (["--config", "none.yaml"], "none.yaml"),
    ],
)
def test_a_wrong_option_gets_the_nearest_right_one(
    small: World, capsys: pytest.CaptureFixture[str], tmp_path: Path, more: list[str], expected: str
) -> None:
    assert expected in refused(capsys, arguments(small, tmp_path / "out", *more))
    assert not (tmp_path / "out").exists()


def test_without_instructions_something_has_to_be_kept(small: World, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    flags = arguments(small, tmp_path / "out")
    flags = flags[: flags.index("--instructions")]
    for more in ([], ["--keep", "original"]):
        assert "--instructions: none given" in (said := refused(capsys, [*flags, *more])) and "--keep latents" in said
    assert main([*flags, "--keep", "inversion", "--dry_run"]) == 0
    assert "no instructions: align and invert only" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (None, "no such file"),
        ("not: a list", "expected a YAML list"),
        ("- {name: smile, source: a face, target: a smile, strenght: 2}", "did you mean 'strength'?"),
        ("- {name: smile, source: a face, target: a smile, expects: {smiling: true}}", "did you mean 'smile'?"),
    ],
)
def test_a_bad_instruction_file_is_refused(
    small: World, capsys: pytest.CaptureFixture[str], tmp_path: Path, content: str | None, expected: str
) -> None:
    file = tmp_path / "instructions.yaml"
    if content is not None:
        file.write_text(content)
    flags = ["--input", str(small.raw), "--output", str(tmp_path / "out"), "--pack", str(small.pack), "--instructions", str(file)]
    assert expected in refused(capsys, flags)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a face -> a smiling face", "expected a YAML file or 'name: source -> target @strength'"),
        ("smile: a face -> a smile @lots", "could not convert"),
        ("Smile!: a face -> a smile", "lower-case letters"),
        (SMILE, "used twice"),
    ],
)
def test_a_bad_inline_instruction_is_refused(
    small: World, capsys: pytest.CaptureFixture[str], tmp_path: Path, text: str, expected: str
) -> None:
    assert expected in refused(capsys, arguments(small, tmp_path / "out", "--instructions", text))


def test_a_wrong_key_in_a_configuration_file_is_refused(small: World, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text("batchsize: 3\n")
    message = refused(capsys, [*arguments(small, tmp_path / "out"), "--config", str(tmp_path / "job.yaml")])
    assert "'batchsize'" in message and "did you mean --batch_size?" in message


def test_a_changed_pack_is_refused(small: World, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    pack = tmp_path / "pack"
    pack.mkdir()
    for file in small.pack.iterdir():
        (pack / file.name).write_bytes(file.read_bytes())
    (pack / "e4e.safetensors").write_bytes(b"something else")
    assert "e4e.safetensors was changed" in refused(capsys, replaced(arguments(small, tmp_path / "out"), "--pack", str(pack)))


def test_an_output_that_cannot_be_written_is_refused(small: World, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    assert "this is a file" in refused(capsys, arguments(small, tmp_path / "file"))
    assert "cannot write there" in refused(capsys, arguments(small, tmp_path / "file" / "below"))
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "thesis.txt").write_text("precious")
    assert "holds other things (thesis.txt)" in refused(capsys, arguments(small, tmp_path / "used"))


def test_a_relative_output_of_a_submitted_job_is_refused(
    small: World, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    assert "give an absolute path or a URL" in refused(capsys, replaced(arguments(small, tmp_path / "out"), "--output", "edited"))


def test_a_dry_run_tells_the_plan_and_leaves_nothing(small: World, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(arguments(small, tmp_path / "out", "--dry_run")) == 0
    said = capsys.readouterr()
    assert '"todo": 1' in said.out and "2 instructions: smile, beard" in said.err and "config " in said.err
    assert not os.path.exists(tmp_path / "out")


def test_the_command_line_itself_ends_with_2(small: World, tmp_path: Path) -> None:
    ended = run(arguments(small, tmp_path / "out", "--no_such_flag", "1"))
    assert (ended.code, ended.out) == (2, "") and "unknown option '--no_such_flag'" in ended.err
