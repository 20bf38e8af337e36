"""What counts as worse than the champion: intervals that hold, tolerances, portraits compared one by one, and words that name them."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evaluation import bootstrap
from evaluation.champion import FEWEST, TOLERANCES, Difference, Tolerance, Verdict, compare
from evaluation.past_runs import AUTO, COMPARED_TAG, NONE, REGRESSION_TAG, Past, PastRun
from evaluation.samples import Samples, SamplesError, SampleTable, key_of, read, write
from evaluation.standing import Standing, tolerances_with
from evaluation.trends import lines_of, trends
from pipeline.config import ConfigError

SHARES = {"smile": 0.7, "old": 0.95, "hat": 0.5}


def cell(rng: np.random.Generator, *, share: float, ids: float = 0.75, n: int = 60, seed: int = 0, group: str = "attributes") -> Samples:
    """Return portraits of which a share succeeds."""
    columns = {
        "success": (rng.random(n) < share).astype(float), "same_person": (rng.random(n) < 0.97).astype(float),
        "ids": ids + 0.08 * rng.standard_normal(n), "lpips": 0.3 + 0.1 * rng.gamma(2.0, 0.5, n), "psnr_db": np.full(n, 20.0),
    }  # fmt: skip
    return Samples(group=group, keys=tuple(key_of(seed, n, place) for place in range(n)), columns=columns)


def run(seed: int, *, drop: float = 0.0, ids: float = 0.75, n: int = 60) -> SampleTable:
    rng = np.random.default_rng(seed)
    return {("HE", name): cell(rng, share=max(0.0, share - drop), ids=ids, n=n, seed=seed) for name, share in SHARES.items()}


def changed(samples: Samples, **by: float) -> Samples:
    """Return the same portraits with some measures changed, and those alone."""
    columns = {name: samples.columns[name] + change for name, change in by.items()}
    return Samples(group=samples.group, keys=samples.keys, columns=columns)


def test_an_interval_holds_the_difference_as_often_as_it_says() -> None:
    rng, misses, tries, tail = np.random.default_rng(7), 0, 400, 0.05
    for trial in range(tries):
        a, b = (rng.random(40) < 0.9).astype(float), (rng.random(40) < 0.6).astype(float)
        found = bootstrap.unpaired(a, b, tail=tail, seed=trial)
        misses += not found.low <= 0.3 <= found.high
    # Ten per cent are to miss; with 400 tries that is 40, and more than 62 or less than 12 happen less than once in ten thousand.
    assert 12 <= misses <= 62


def test_a_sample_in_which_all_succeeds_has_a_spread() -> None:
    found = bootstrap.unpaired(np.ones(10), np.ones(10), tail=0.001)
    assert found.low < -0.1 and found.high > 0.1
    assert bootstrap.paired(np.ones(10), np.ones(10), tail=0.001).low < 0


def test_an_end_far_out_agrees_with_the_normal_one_and_is_quick() -> None:
    rng = np.random.default_rng(2)
    a, b = rng.normal(0.5, 0.1, 200), rng.normal(0.4, 0.1, 200)
    start = time.process_time()
    found = bootstrap.unpaired(a, b, tail=1e-6)
    assert time.process_time() - start < 5
    spread = (a.var() / 200 + b.var() / 200) ** 0.5
    wanted = a.mean() - b.mean() - 4.753 * spread  # the normal quantile of 1e-6
    assert found.low == pytest.approx(wanted, abs=0.4 * spread) and found.low < bootstrap.unpaired(a, b, tail=1e-3).low


def test_pairs_show_what_two_samples_hide() -> None:
    rng = np.random.default_rng(1)
    before = rng.normal(0.5, 0.3, 50)
    after = before - 0.05 + 0.01 * rng.standard_normal(50)
    assert bootstrap.paired(after, before, tail=0.001).high < -0.04
    assert bootstrap.unpaired(after, before, tail=0.001).high > 0


@given(values=st.lists(st.floats(0, 1), min_size=8, max_size=40), shift=st.floats(-0.5, 0.5))
@settings(max_examples=20, deadline=None)
def test_a_constant_shift_is_found_whole(values: list[float], shift: float) -> None:
    before = np.asarray(values) * 0.9 + 0.05
    found = bootstrap.paired(before + shift, before, tail=0.01)
    assert found.low == pytest.approx(shift, abs=1e-9) and found.high == pytest.approx(shift, abs=1e-9)


def test_twenty_undamaged_runs_of_other_people_raise_no_alarm() -> None:
    champion = run(100)
    verdicts = [compare(run(seed), champion, run="c") for seed in range(20)]
    assert [verdict.regressions for verdict in verdicts] == [[]] * 20
    assert all(len(verdict.differences) == 16 for verdict in verdicts)  # 3 instructions and all together, 4 measures
    assert any(one.interval is not None for verdict in verdicts for one in verdict.differences)  # some bare differences were beyond


def test_what_is_worse_is_named_with_metric_instruction_numbers_and_portraits() -> None:
    worse = run(1)
    worse["HE", "old"] = cell(np.random.default_rng(5), share=0.2, seed=1)
    verdict = compare(worse, run(100), run="abc")
    named = {(one.instruction, one.measure) for one in verdict.regressions}
    assert ("old", "success") in named and named <= {("old", "success"), ("all attributes", "success")}
    line = next(line for line in verdict.explanation().splitlines() if line.startswith("HE, old: success"))
    found = next(one for one in verdict.regressions if one.instruction == "old")
    assert f"{found.now:.3f} on 60 portraits" in line and f"the champion {found.champion:.3f} on 60 (other portraits)" in line
    assert "tolerated -0.050" in line and all(key in line for key in found.worst) and len(found.worst) == 5
    failed = {key for key, value in zip(worse["HE", "old"].keys, worse["HE", "old"].columns["success"], strict=True) if value == 0}
    assert set(found.worst) <= failed
    assert "run abc" in verdict.explanation().splitlines()[0]


def test_the_same_portraits_are_compared_one_by_one_in_any_order() -> None:
    champion = run(3)
    order = np.random.default_rng(0).permutation(60)
    now: SampleTable = {}
    for name, samples in champion.items():
        columns = {measure: values[order] - (0.04 if measure == "ids" else 0.0) for measure, values in samples.columns.items()}
        now[name] = Samples(group=samples.group, keys=tuple(samples.keys[place] for place in order), columns=columns)
    verdict = compare(now, champion, run="c")
    assert all(one.is_paired for one in verdict.differences)
    assert {one.measure for one in verdict.regressions} == {"ids"} and len(verdict.regressions) == 4
    assert all(one.interval is not None and one.interval.low == pytest.approx(-0.04) for one in verdict.regressions)


def test_a_difference_within_the_tolerance_and_a_better_one_are_none() -> None:
    champion = run(3)
    for change in (-0.015, 0.3):
        assert not compare({name: changed(one, ids=change) for name, one in champion.items()}, champion, run="c").regressions
    now = {name: changed(one, ids=-0.015) for name, one in champion.items()}
    assert len(compare(now, champion, run="c", tolerances=tolerances_with({"ids": 0.01})).regressions) == 4


def test_more_lpips_is_worse() -> None:
    champion = run(3)
    for change, worse in ((0.2, 4), (-0.2, 0)):
        now = {
            name: Samples(group=one.group, keys=one.keys, columns={"lpips": one.columns["lpips"] + change})
            for name, one in champion.items()
        }
        assert len(compare(now, champion, run="c").regressions) == worse


def test_identity_says_nothing_of_a_style_and_few_portraits_of_anything() -> None:
    rng = np.random.default_rng(0)
    style = {("HE", "zombie"): cell(rng, share=0.9, group="styles"), ("HE", "few"): cell(rng, share=0.9, n=FEWEST - 1)}
    verdict = compare(style, {**style, ("HE", "gone"): style["HE", "few"]}, run="c")
    assert {(one.instruction, one.measure) for one in verdict.differences} == {("zombie", "success")}
    assert any("few: fewer than" in one for one in verdict.left_out) and any(
        "gone: not measured by both" in one for one in verdict.left_out
    )
    assert "not compared: HE, gone" in verdict.explanation()


def test_samples_come_back_as_they_were_written(tmp_path: Path) -> None:
    table = run(4) | {("HE", "zombie"): cell(np.random.default_rng(1), share=0.5, group="styles", n=9)}
    table["HE", "zombie"] = Samples(group="styles", keys=table["HE", "zombie"].keys, columns={"style_zero_shot": np.ones(9)})
    found = read(write(table, tmp_path / "samples.parquet"))
    assert list(found) == list(table)
    for name, samples in table.items():
        again = found[name]
        assert (again.keys, again.group, again.columns.keys()) == (samples.keys, samples.group, samples.columns.keys())
        assert all(np.array_equal(again.columns[measure], values) for measure, values in samples.columns.items())
    (tmp_path / "other.parquet").write_bytes(b"no parquet")
    with pytest.raises(SamplesError, match="expected a table of samples in parquet"):
        read(tmp_path / "other.parquet")


def past_run(run_id: str, *, success: float, day: int = 1, **tags: str) -> PastRun:
    metrics = {"HE/attributes/success": success, "HE/attributes/ids": 0.7, "HE/smile/success": 0.1}
    return PastRun(run_id=run_id, name="editing", started=datetime(2026, 11, day, 2, 30, tzinfo=UTC), metrics=metrics, tags=tags)


def test_the_first_run_becomes_the_champion_and_a_worse_one_is_never_promoted() -> None:
    worse, good = {"regressions": 2, "explanation": "REGRESSION"}, {"regressions": 0, "explanation": "none"}
    empty = Past(uri="u", suite="editing")
    assert Standing(past=empty, champion=AUTO).is_new_champion(None)
    assert not Standing(past=empty, champion=NONE).is_new_champion(None)
    assert Standing(past=empty, champion=NONE, promote=True).is_new_champion(None)
    held = Past(uri="u", suite="editing", champion=past_run("c", success=0.9), champion_samples=run(1))
    assert [Standing(past=held, champion=AUTO, promote=promote).is_new_champion(good) for promote in (False, True)] == [False, True]
    assert not Standing(past=held, champion=AUTO, promote=True).is_new_champion(worse)
    assert Standing(past=held, champion=AUTO).tags(worse) == {COMPARED_TAG: "c", REGRESSION_TAG: "REGRESSION"}
    assert Standing(past=held, champion=AUTO).tags(good) == {COMPARED_TAG: "c"}


def test_a_champion_that_measured_something_else_is_refused_before_anything_is_measured() -> None:
    held = Past(uri="u", suite="editing", champion=past_run("c", success=0.9), champion_samples=run(1))
    Standing(past=held, champion=AUTO).check([("HE", "smile"), ("other", "smile")])
    with pytest.raises(ConfigError, match="it measured HE on smile, old, hat, this run other on smile: nothing to compare"):
        Standing(past=held, champion=AUTO).check([("other", "smile")])


@pytest.mark.parametrize(("name", "value"), [("sucess", 0.1), ("success", -0.1)])
def test_a_wrong_tolerance_is_refused(name: str, value: float) -> None:
    with pytest.raises(ConfigError, match=f"--tolerances {name}: .*expected 0 or more for one of success"):
        tolerances_with({name: value})
    assert tolerances_with({"lpips": 0.5})["lpips"] == Tolerance(worse_by=0.5, more_is_better=False)


def test_trends_follow_the_rows_of_the_latest_run_through_gaps() -> None:
    runs = [past_run(str(day), success=day / 10, day=day) for day in (1, 2, 3)]
    runs.insert(1, PastRun(run_id="x", name="other rows", started=runs[0].started, metrics={"SC/attributes/success": 0.2}))
    assert lines_of(runs, "attributes/success") == {"HE": [0.1, None, 0.2, 0.3]}
    found = trends(runs)
    assert set(found) == {"trend_success", "trend_ids"} and all(data.startswith(b"\x89PNG") for _, data in found.values())
    marked = [*runs[:-1], past_run("3", success=0.3, day=3, regression="worse")]
    assert trends(marked)["trend_success"][1] != found["trend_success"][1]  # the mark is drawn


def test_a_verdict_is_plain_json() -> None:
    one = Difference(
        method="HE", instruction="smile", measure="success", now=0.1, champion=0.9, portraits=(20, 20), is_paired=True,
        tolerance=TOLERANCES["success"], interval=bootstrap.Interval(low=-0.9, high=-0.5), worst=("a",),
    )  # fmt: skip
    found = Verdict(champion="c", differences=[one]).plain()
    assert found["regressions"] == 1 and found["differences"][0]["interval"] == {"low": -0.9, "high": -0.5}  # type: ignore[index]
