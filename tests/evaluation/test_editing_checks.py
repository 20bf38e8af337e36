"""What the papers claim, held against rows that are made up."""

from __future__ import annotations

from dataclasses import replace

from evaluation.editing_checks import checks, compared, explained, ranks
from evaluation.editing_page import ablation_table
from evaluation.editing_suite import Cell, Row

GOOD = {
    "success": 0.9, "ama": 0.8, "psnr_db": 25.0, "lpips": 0.1, "ssim": 0.9, "ids": 0.9, "fid": 1.0, "cs": 30.0, "cmp": 0.3,
    "same_person": 0.99, "seconds": 0.1,
}  # fmt: skip
WORSE = {**GOOD, "psnr_db": 20.0, "lpips": 0.3, "ssim": 0.7, "ids": 0.7, "fid": 5.0, "cs": 25.0, "same_person": 0.6, "ama": 0.5}


def row(editor: str, numbers: dict[str, float], *, inverter: str = "e4e", style: float | None = None, **more: object) -> Row:
    cells = {name: Cell(group="attributes", portraits=10, numbers=numbers) for name in ("smile", "old")}
    cells["smile_old"] = Cell(group="pairs", portraits=10, numbers=numbers)
    if style is not None:
        cells["sketch"] = Cell(group="styles", portraits=10, numbers={**numbers, "style_zero_shot": style})
    kind = editor if editor in ("hypereditor", "nada") else ""
    return Row(editor=editor, inverter=inverter, kind=kind, cells=cells, **more).summed()  # type: ignore[arg-type]


def found(rows: dict[str, Row], *, words: str) -> list[bool]:
    return [check.holds for check in checks(rows) if words in check.claim]


def test_all_claims_hold_where_hypereditor_is_best_and_fail_where_it_is_worst() -> None:
    for ours, other, holds in ((GOOD, WORSE, True), (WORSE, GOOD, False)):
        rows = {"HE": row("hypereditor", ours), "SC": row("styleclip_optimisation", other)}
        assert found(rows, words="highest CLIP score") == [holds]
        assert found(rows, words="HyperEditor has the best") == [holds] * 5


def test_a_method_that_does_little_is_not_ranked_for_what_it_keeps() -> None:
    idle = {**GOOD, "success": 0.1, "ids": 0.99}
    rows = {"HE": row("hypereditor", WORSE), "SC": row("styleclip_optimisation", idle)}
    assert found(rows, words="HyperEditor has the best") == [] and found(rows, words="highest CLIP score") == [False]
    told = next(check for check in checks({**rows, "TG": row("tedigan", GOOD)}) if "best IDS" in check.claim)
    assert not told.holds and told.numbers == "rank 2 of 2: TG 0.900, HE 0.700"


def test_frechet_distances_are_compared_on_equally_many_portraits_only() -> None:
    few = row("tedigan", WORSE)
    few = Row(editor="tedigan", inverter="e4e", cells={name: replace(cell, portraits=2) for name, cell in few.cells.items()}).summed()
    assert found({"HE": row("hypereditor", GOOD), "HS": row("hypereditor", GOOD), "TG": few}, words="best FID") == []
    assert found({"HE": row("hypereditor", GOOD), "TG": few, "SC": row("styleclip_mapper", WORSE)}, words="best FID") == [True]


def test_styles_ask_much_of_offsets_and_little_of_latents() -> None:
    rows = {"HE": row("hypereditor", GOOD, style=0.85), "SC": row("styleclip_optimisation", GOOD, style=0.5), "none": row("sefa", GOOD)}
    assert found(rows, words="HE: reaches a style") == [True] and found(rows, words="SC: only moves latents") == [False]
    assert found(rows, words="none:") == []


def test_what_moves_weights_is_asked_for_styles_like_hypereditor() -> None:
    assert found({"N": row("nada", GOOD, style=0.7)}, words="N: reaches a style") == [False]


def test_hyperstyle_states_are_compared_at_equal_success() -> None:
    ours = row("hypereditor", GOOD, inverter="hyperstyle")
    rows = {"HS": ours, "e4e": row("hypereditor", WORSE), "SC": row("styleclip_optimisation", WORSE, inverter="hyperstyle")}
    assert found(rows, words="keeps the person") == [True, True]
    rows["HS"] = row("hypereditor", {**GOOD, "success": 0.5}, inverter="hyperstyle")
    assert found(rows, words="keeps the person") == [False, False]


def test_clipinverter_is_compared_for_one_and_for_several_attributes() -> None:
    rows = {"CI": row("clipinverter", GOOD), "TG": row("tedigan", WORSE), "HE": row("hypereditor", {**GOOD, "ama": 0.9})}
    assert found(rows, words="CLIPInverter has the highest AMA") == [True, True]


def test_ablations_are_held_against_their_row_on_what_both_were_asked() -> None:
    less = row("hypereditor", WORSE, ablates="HE")
    rows = {"HE": row("hypereditor", GOOD), "less": less, "slow": row("hypereditor", WORSE, ablates="HE", worse_on="fid")}
    assert found(rows, words="less is worse on AMA") == [True] and found(rows, words="slow is worse on FID") == [True]
    assert found({**rows, "HE": row("hypereditor", WORSE)}, words="less is worse") == [False]
    assert list(compared(rows)) == ["HE"]


def test_rows_that_follow_only_some_instructions_are_not_compared() -> None:
    few = Row(
        editor="hypereditor", inverter="e4e", kind="hypereditor", cells={"smile": Cell(group="attributes", portraits=3, numbers=GOOD)}
    )
    assert list(compared({"HE": row("hypereditor", GOOD), "few": few.summed()})) == ["HE"]


def test_the_sweep_has_to_shrink() -> None:
    rows = {f"{sweep}": row("hypereditor", GOOD, sweep=sweep, parameters=size) for sweep, size in ((1.0, 5), (0.2, 9), (0.6, 7))}
    assert found(rows, words="fewer parameters") == [True]
    assert found(
        {**rows, "0.6": row("hypereditor", GOOD, sweep=0.6, parameters=1), "equal": row("hypereditor", GOOD, sweep=1.0, parameters=5)},
        words="fewer parameters",
    ) == [False]


def test_a_selection_of_layers_has_to_be_small_and_as_good() -> None:
    whole = row("hypereditor", GOOD, heads=100)
    for heads, numbers, holds in ((25, GOOD, True), (30, GOOD, False), (20, {**GOOD, "success": 0.8}, False)):
        rows = {"all": whole, "selected": row("hypereditor", numbers, heads=heads, sweep=0.6, ablates="all")}
        assert found(rows, words="fewer parameters than all") == [holds] and found(rows, words="is worse on") == []


def test_other_words_have_to_succeed_as_often() -> None:
    for success, holds in ((0.86, True), (0.8, False)):
        rows = {"HE": row("hypereditor", GOOD), "said": row("hypereditor", {**GOOD, "success": success}, ablates="HE", reworded=True)}
        assert found(rows, words="said succeeds as often") == [holds] and found(rows, words="is worse on") == []


def test_equals_share_the_better_rank() -> None:
    assert ranks({"a": 1.0, "b": 2.0, "c": 2.0}, more=True) == {"b": 1, "c": 1, "a": 3}
    assert ranks({"a": 1.0, "b": 2.0}, more=False) == {"a": 1, "b": 2}


def test_what_is_asked_here_is_checked_as_numbers() -> None:
    rows = {"HE": row("hypereditor", GOOD), "CI": row("clipinverter", {**GOOD, "ama": 0.86})}
    assert found(rows, words="HE reaches 90% success") == [True] and found(rows, words="CI reaches 85% AMA") == [True]
    assert found(rows, words="CI reaches 60% AMA over several") == [True]
    low = {"HE": row("hypereditor", {**GOOD, "success": 0.89}), "CI": row("clipinverter", {**GOOD, "ama": 0.5})}
    assert found(low, words="reaches") == [False, False, False]


def test_hypereditor_is_ranked_among_methods_on_the_same_inversions() -> None:
    middle = {**GOOD, "psnr_db": 22.0, "lpips": 0.2, "ssim": 0.8}
    rows = {"HE": row("hypereditor", middle), "A": row("sefa", GOOD), "B": row("ganspace", GOOD), "C": row("tedigan", WORSE)}
    rows["HS"] = row("hypereditor", GOOD, inverter="hyperstyle")
    assert found(rows, words="On the inversions of e4e alone") == [False]
    assert found({**rows, "B": row("ganspace", WORSE)}, words="On the inversions of e4e alone") == [True]
    assert found(rows, words="On the inversions of hyperstyle") == []


def test_a_styled_person_is_compared_with_nada_s() -> None:
    rows = {"HE": row("hypereditor", GOOD, style=1.0), "N": row("nada", WORSE, style=0.5)}
    assert found(rows, words="leaves a styled person the same more often than N") == [True]
    assert found({**rows, "N": row("nada", GOOD, style=0.5)}, words="leaves a styled person") == [False]


def test_a_claim_that_nobody_makes_is_not_checked_and_reasons_are_given_where_one_fails() -> None:
    rows = {"HE": row("hypereditor", WORSE), "3x3": row("hypereditor", GOOD, ablates="HE", worse_on="")}
    rows["SC"] = row("styleclip_optimisation", GOOD)
    assert found(rows, words="3x3 is worse") == []
    told = explained(checks(rows), {"highest CLIP score": "it descends on CLIP", "reaches 90%": "not said"})
    assert [check.reason for check in told if "highest CLIP score" in check.claim] == ["it descends on CLIP"]
    assert all(not check.reason for check in told if check.holds)


def test_ablations_stand_below_their_row_over_what_all_of_a_group_were_asked() -> None:
    few = row("hypereditor", GOOD, ablates="HE")
    few = replace(few, cells={"smile": few.cells["smile"]}).summed()
    whole = row("hypereditor", WORSE)
    whole = replace(whole, cells={**whole.cells, "old": replace(whole.cells["old"], numbers=GOOD)}).summed()
    rows = {"CI": row("clipinverter", {**GOOD, "ama": 0.7}), "HE": whole, "no cycle": row("clipinverter", WORSE, ablates="CI"), "few": few}
    table = ablation_table({**rows, "swept": row("hypereditor", GOOD, ablates="HE", sweep=0.6), "alone": row("sefa", GOOD)})
    assert table is not None and list(table.rows) == ["CI", "no cycle", "HE", "few"]
    ama, several = table.headings.index("AMA ↑"), table.headings.index("AMA, several ↑")
    assert [values[ama].text for values in table.rows.values()] == ["70.0", "50.0", "50.0", "80.0"]
    assert [values[ama].best for values in table.rows.values()] == [True, False, False, True]
    assert [values[several].text for values in table.rows.values()] == ["70.0", "50.0", "–", "–"]
    assert ablation_table({"alone": row("sefa", GOOD)}) is None
