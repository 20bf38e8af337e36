"""How a run stands to those before it: compared with the champion, drawn after its predecessors, made the champion or tagged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from evaluation.champion import TOLERANCES, Tolerance, Verdict, compare, shared
from evaluation.past_runs import AUTO, CHAMPION_TAG, COMPARED_TAG, REGRESSION_TAG, Past, PastRun
from evaluation.samples import SampleTable
from evaluation.trends import trends
from pipeline.config import ConfigError

VERDICT = "verdict"
"""The verdict's place among the figures."""
VERDICT_FILE = "verdict.txt"
TAG_LIMIT = 5000  # MLflow refuses longer values
Judged = Mapping[str, object]
"""A verdict among the figures: in the types of JSON."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Standing:
    """What a run is held against. `champion` is what the user asked for: auto, none or the id of a run."""

    past: Past
    champion: str
    promote: bool = False
    tolerances: Mapping[str, Tolerance] = field(default_factory=lambda: TOLERANCES)

    def check(self, cells: Sequence[tuple[str, str]]) -> None:
        """Raise ConfigError where the champion measured none of the methods and instructions that are planned."""
        known = self.past.champion_samples
        if self.past.champion is not None and not shared(cells, list(known)):
            raise ConfigError(
                f"champion {self.past.champion}: it measured {_named(list(known))}, this run {_named(cells)}: nothing to compare; give "
                "this schedule an experiment of its own (--experiment), or measure a new champion with --champion none --promote"
            )

    def verdict(self, table: SampleTable) -> Verdict | None:
        """Compare a run's samples with the champion's; None without a champion."""
        if self.past.champion is None:
            return None
        return compare(table, self.past.champion_samples, run=str(self.past.champion), tolerances=self.tolerances)

    def is_new_champion(self, judged: Judged | None) -> bool:
        """Say whether the run becomes the champion: as the first one, or promoted and without a regression."""
        if judged is None:
            return self.promote or self.champion == AUTO
        return self.promote and not judged["regressions"]

    def tags(self, judged: Judged | None) -> dict[str, str]:
        """Return the tags that say how the run was judged."""
        if judged is None or self.past.champion is None:
            return {}
        found = {COMPARED_TAG: self.past.champion.run_id}
        return found | ({REGRESSION_TAG: str(judged["explanation"])[:TAG_LIMIT]} if judged["regressions"] else {})

    def drawn(self, metrics: Mapping[str, float], judged: Judged | None) -> dict[str, tuple[str, bytes]]:
        """Return the trend plots of the runs before and of this one."""
        tags = self.tags(judged) | ({CHAMPION_TAG: "true"} if self.is_new_champion(judged) else {})
        return trends([*self.past.runs, PastRun(run_id="", name="", started=datetime.now(UTC), metrics=metrics, tags=tags)])


def judged_in(figures: Mapping[str, object]) -> Judged | None:
    """Return the verdict among a suite's figures, if there is one."""
    found = figures.get(VERDICT)
    assert found is None or isinstance(found, Mapping)
    return found


def tolerances_with(changed: Mapping[str, float]) -> dict[str, Tolerance]:
    """Return the tolerances with some changed. Raises ConfigError for an unknown measure or a negative number."""
    found = dict(TOLERANCES)
    for name, worse_by in changed.items():
        if name not in found or worse_by < 0:
            raise ConfigError(f"--tolerances {name}: {worse_by:g}: expected 0 or more for one of {', '.join(found)}")
        found[name] = Tolerance(worse_by=worse_by, more_is_better=found[name].more_is_better, styles=found[name].styles)
    return found


def _named(cells: Sequence[tuple[str, str]]) -> str:
    methods, instructions = (list(dict.fromkeys(part)) for part in zip(*cells, strict=True))
    return f"{', '.join(methods)} on {', '.join(instructions)}"
