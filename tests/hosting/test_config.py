"""A training's configuration: which settings there are follows from the network; wrong ones are named with what would work."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from hosting.config import TrainConfig, TrainWorkersConfig, parse_train_config
from pipeline.config import ConfigError
from training.kinds.e4e import EncoderConfig
from training.kinds.hypereditor import HyperEditorConfig
from training.kinds.mapping import MappingConfig
from training.kinds.w_encoder import WEncoderConfig
from training.loop import LoopConfig
from training.objective import kind_names, kind_of

OUT = ["--output", "out"]


def plain(settings: object) -> object:
    """Return settings in the types that JSON knows: lists from a file and tuples are the same."""
    return json.loads(json.dumps(dataclasses.asdict(settings)))  # type: ignore[call-overload]


def refused(*flags: str) -> str:
    with pytest.raises(ConfigError) as found:
        parse_train_config(flags)
    assert "\n" not in str(found.value)
    return str(found.value)


def yaml_file(folder: Path, text: str) -> str:
    file = folder / "train.yaml"
    file.write_text(text)
    return str(file)


@pytest.mark.parametrize("network", kind_names())
def test_settings_are_those_of_the_network(network: str) -> None:
    config, settings = parse_train_config(["--network", network, *OUT])
    assert type(settings) is kind_of(network).config and plain(settings) == plain(kind_of(network).config())
    assert config == TrainConfig(network=network, output="out")


def test_flags_fill_settings_loop_and_workers() -> None:
    config, settings = parse_train_config(
        ["--network=hypereditor", *OUT, "--settings.only", "[smile, beard]", "--settings.phases", "[[24, 1.0], [16, 0.1]]",
         "--settings.loss", "global", "--loop.keep=5", "--workers.count", "4", "--workers.min=2", "--precision", "float32"]
    )  # fmt: skip
    assert isinstance(settings, HyperEditorConfig)
    assert list(settings.only) == ["smile", "beard"] and [tuple(phase) for phase in settings.phases] == [(24, 1.0), (16, 0.1)]
    assert (settings.loss, config.precision, config.loop) == ("global", "float32", LoopConfig(keep=5))
    assert config.workers == TrainWorkersConfig(count=4, min=2)


def test_a_file_names_network_and_settings_and_flags_win(tmp_path: Path) -> None:
    file = yaml_file(tmp_path, "network: e4e\noutput: there\nsettings: {steps: 7, batch: 9}\nloop: {accumulate: 3}\n")
    config, settings = parse_train_config(["--config", file])
    assert (config.network, config.output, config.loop.accumulate) == ("e4e", "there", 3)
    assert plain(settings) == plain(EncoderConfig(steps=7, batch=9))
    config, settings = parse_train_config([f"--config={file}", "--settings.batch", "12", "--output", "here", "--loop.log_every", "2"])
    assert (config.output, config.loop) == ("here", LoopConfig(accumulate=3, log_every=2))
    assert plain(settings) == plain(EncoderConfig(steps=7, batch=12))


def test_a_flag_changes_the_network_of_a_file(tmp_path: Path) -> None:
    file = yaml_file(tmp_path, "network: e4e\noutput: there\nsettings: {steps: 7}\n")
    config, settings = parse_train_config(["--config", file, "--network", "w_encoder"])
    assert config.network == "w_encoder" and plain(settings) == plain(WEncoderConfig(steps=7))


def test_of_two_networks_the_last_counts() -> None:
    config, settings = parse_train_config(["--network", "e4e", *OUT, "--network=mapping", "--settings.rate", "2.5"])
    assert config.network == "mapping" and plain(settings) == plain(MappingConfig(rate=2.5))


def test_the_committed_files_are_valid() -> None:
    folder = Path(__file__).resolve().parents[2] / "configs" / "train"
    files = [file for file in folder.glob("*.yaml") if "\nnetwork:" in f"\n{file.read_text()}"]
    assert files
    for file in files:
        assert parse_train_config(["--config", str(file), *OUT])[0].network in kind_names()


@pytest.mark.parametrize(("flags", "plain", "dry_run"), [
    (["--plain"], True, False), (["--plain", "--dry_run"], True, True), (["--plain", "false", "--dry_run=true"], False, True),
])  # fmt: skip
def test_switches_may_stand_alone(flags: list[str], plain: bool, dry_run: bool) -> None:
    config, _ = parse_train_config(["--network", "mapping", *flags, *OUT])
    assert (config.plain, config.dry_run) == (plain, dry_run)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ([], "--network: none given; expected one of"),
        (["--network", "hypereditr"], "--network hypereditr: did you mean 'hypereditor'? valid: "),
        (["--network", "hypereditor", "--settings.phase", "[]"], "did you mean --settings.phases?"),
        (["--network", "mapping", "--settings.pictures", "3"], "'--settings.pictures'"),
        (["--network", "mapping", "--loop.acumulate", "2"], "did you mean --loop.accumulate?"),
        (["--network", "mapping", "--settings.steps", "many"], "--settings.steps many: expected int"),
        (["--network", "mapping", "--precision", "float33"], "did you mean 'float32'?"),
        (["--network", "hypereditor", "--settings.loss", "globl"], "did you mean 'global'?"),
        (["--network", "mapping", "--workers.min", "0"], "--workers.min 0: expected 1 to --workers.count (1)"),
        (["--network", "mapping", "--workers.count", "2", "--workers.min", "3"], "--workers.min 3: expected 1 to --workers.count (2)"),
        (["--network", "mapping", "--workers.count", "0"], "--workers.count"),
        (["--network", "mapping", "--workers.threads", "0"], "--workers.threads 0: expected 1 or more"),
        (["--network", "mapping", "--workers.max_failures", "-1"], "--workers.max_failures -1: expected 0 or more"),
        (["--network", "mapping", "--workers.gpus", "-1"], "--workers.gpus -1"),
        (["--network", "mapping", "--workers.gpus", "1.5"], "--workers.gpus 1.5"),
        (["--network", "mapping", "--plain", "--workers.count", "2"], "--plain runs one worker per process"),
        (["--network", "mapping", "--loop.keep", "0"], "loop.keep 0: expected 1 or more"),
        (["--config", "none.yaml"], "--config none.yaml"),
    ],
)  # fmt: skip
def test_wrong_values_are_named(flags: list[str], said: str) -> None:
    assert said in refused(*flags, *OUT)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("network: e4\noutput: out\n", "--network e4: did you mean 'e4e'?"),
        ("network: e4e\noutput: out\nsettings: {stepz: 3}\n", "stepz"),
        ("network: e4e\noutput: out\nloops: {keep: 3}\n", "loops"),
        ("- network\n", "expected a mapping of options, found list"),
        ("network: [e4e\n", "--config"),
    ],
)
def test_wrong_files_are_named(tmp_path: Path, text: str, said: str) -> None:
    assert said in refused("--config", yaml_file(tmp_path, text))
