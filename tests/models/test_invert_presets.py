"""The presets of inverters that optimise are settings that the job takes and inverters that the pack makes."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobs.edit_dataset import parse_config
from models.inverter_registry import build_inverter
from tests.models.optimising import portraits

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("preset", sorted((ROOT / "configs" / "invert").glob("*.yaml")), ids=lambda path: path.stem)
def test_presets_make_their_inverter_and_say_how_they_are_used(preset: Path) -> None:
    config = parse_config(["--config", str(preset), "--input", "shards", "--output", "inverted"])
    assert config.inverter == preset.stem and not config.instructions
    assert build_inverter(portraits(), config.inverter, config.inverter_settings).name == preset.stem
    assert f"--config {preset.relative_to(ROOT)} " in preset.read_text()
    assert {name: type(value) for name, value in config.inverter_settings.items()}.items() >= {"steps": int, "learning_rate": float}.items()
