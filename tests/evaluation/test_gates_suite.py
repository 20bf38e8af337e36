"""Suite `gates`: its figures from known tries, and the whole of it on a few portraits."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from evaluation.gates_page import draw
from evaluation.gates_suite import FACTORS, Judged, Share, Tries, at_rate, compared, figures, gated
from tests.commands import Command

PNG = b"\x89PNG"
RECIPE = """
instructions: configs/instructions/portraits.yaml
edits: [{instruction: glasses, strength: auto}]
accepted: {per_sample: 1}
"""


def judged(portrait: int, *, reason: str = "", factor: float = 1.0, certainty: float = 1.0, good: bool = True, same: bool = True) -> Judged:
    return Judged(portrait=portrait, factor=factor, reason=reason, certainty=certainty, success=good, same_person=same)


def tries() -> Tries:
    """Return ten portraits: nine reach the target by search, five at the instruction's own strength, all at twice that, as nobody."""
    recipe = [judged(n, certainty=0.95 if n else 0.1, reason="" if n > 1 else "success" if n == 0 else "identity") for n in range(10)]
    fixed = {
        factor: [
            judged(n, factor=factor, certainty=0.95 if factor == 2 or (factor == 1 and n < 5) else 0.2, same=factor < 2) for n in range(10)
        ]
        for factor in FACTORS
    }
    return Tries(edit="smile", target=0.9, recipe=recipe, fixed=fixed)


def test_yields_are_shares_with_wilson_intervals() -> None:
    found = gated(tries().recipe)
    assert found["yield"] == pytest.approx({"of": 10, "share": 0.8, "low": 0.4902, "high": 0.9433}, abs=1e-4)
    assert found["rejected"] == {"identity": 1, "success": 1} and found["median_factor"] == 1.0
    assert found["kept_success"]["share"] == found["kept_same_person"]["share"] == 1.0 and found["rejected_good"]["share"] == 1.0  # type: ignore[index]
    assert Share(yes=0, of=0).plain()["share"] is None


def test_searched_strengths_are_held_against_fixed_ones_at_equal_same_person() -> None:
    found = compared([tries()])
    # Where the search found nothing, the own strength stands for it: it reaches the target on the first portrait.
    assert found["searched"]["reached"]["share"] == 1.0 and found["searched"]["same_person"] == 1.0  # type: ignore[index]
    assert found["fixed"]["1"] == {"same_person": 1.0, "reached": 0.5} and found["fixed"]["2"] == {"same_person": 0.0, "reached": 1.0}  # type: ignore[index]
    assert found["best_fixed_at_equal_same_person"] == 0.5


def test_a_curve_is_read_between_its_points() -> None:
    curve = [(1.0, 0.1), (0.9, 0.5), (0.7, 0.8)]
    assert at_rate(curve, 0.95) == pytest.approx(0.3) and at_rate(curve, 0.8) == pytest.approx(0.65)
    assert at_rate(curve, 0.9) == 0.5 and at_rate(curve, 1.0) == 0.1 and at_rate(curve, 0.5) == 0.8
    assert at_rate([(0.5, 0.9)], 0.8) == 0.0


def test_the_plot_is_a_picture() -> None:
    assert draw(figures([tries()])).startswith(PNG)


def test_a_few_portraits_are_tried_and_judged(command: Command, tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    flags = ["--suite", "gates", "--recipe", str(tmp_path / "recipe.yaml"), "--judge", "packs/judges64", "--pictures", "6"]
    ended = command("jobs/evaluate.py", [*flags, "--editor", "clipinverter", "--output", str(tmp_path / "out")])
    assert ended.code == 0, ended.err[-2000:]
    found = json.loads(ended.out)
    one = found["edits"]["glasses"]
    assert one["yield"]["of"] == 6 and 0 <= one["yield"]["share"] <= 1 and one["strengths"]["searched"]["reached"]["share"] > 0.5
    page = (tmp_path / "out" / "index.html").read_text()
    assert "glasses" in page and "judges64" in page and (tmp_path / "out" / "strengths.png").read_bytes().startswith(PNG)


def test_a_judge_that_cannot_judge_is_refused(command: Command) -> None:
    without = command("jobs/evaluate.py", ["--suite", "gates"])
    assert without.code == 2 and "--judge" in without.err and "packs/judges64" in without.err
