"""The configuration of an augmentation: what an edit job can be told, with a recipe in place of instructions. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from pipeline.config import ConfigError, EditConfig, TrackingConfig, fill_config

NOT_HERE = {"instructions": "`instructions` and `edits`", "keep": "`originals` and `keep_rejected`"}
"""Fields of an edit job, and what of the recipe takes their place."""


@dataclass(frozen=True, kw_only=True)
class AugmentConfig(EditConfig):
    """Everything that `jobs/augment_dataset.py` can be told."""

    recipe: str
    """YAML file that says which edits, how many, and what they have to pass (docs/augmentation.md)."""
    input: str = ""
    """WebDataset shards, as in edit_dataset; none where the recipe only draws pictures."""
    tracking: TrackingConfig = field(default_factory=lambda: TrackingConfig(experiment="augment_dataset"))
    """Where the MLflow run goes."""

    @property
    def edits(self) -> bool:
        """Say that pictures are edited; the recipe knows, and is read later."""
        return True

    def _check_wish(self) -> None:
        """Leave it to the recipe."""


def parse_augment_config(argv: Sequence[str]) -> AugmentConfig:
    """Fill an AugmentConfig from flags and YAML. Raises ConfigError."""
    for word in argv:
        flag = word.partition("=")[0].removeprefix("--")
        if word.startswith("--") and flag in NOT_HERE:
            raise ConfigError(f"--{flag}: not an option here: {NOT_HERE[flag]} of the recipe say it, the file that --recipe names")
    return fill_config(
        AugmentConfig,
        argv,
        prog="augment_dataset.py",
        description="Make a better dataset: edits that pass gates, by a recipe.",
        skip=NOT_HERE,
    )
