"""The editing suite from a small pack to its page, on a handful of portraits."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from evaluation import editing_run, kept_rows, samples
from evaluation.editing_plan import Method, Plan, Prepared, load_plan
from evaluation.editing_suite import Measured, Row
from evaluation.held_out import held_out
from evaluation.kept_rows import KeptRows
from evaluation.options import Options
from evaluation.run_tracking import editing_metrics
from evaluation.suites import run_suite
from models.instruction import Instruction, InstructionError, load_instructions
from models.pack import Pack, PackError
from models.state import GeneratorState, dense
from tests.commands import Command
from tests.models.small_pack import inverted, write_small_pack

torch.set_num_threads(1)
ROOT = Path(__file__).parents[2]
SHIPPED = ROOT / "configs" / "evaluate" / "editing.yaml"
PORTRAITS = ROOT / "packs" / "portraits64"
INSTRUCTIONS = (
    Instruction(name="smile", source="a face", target="a smiling face", expects={"smile": True}),
    Instruction(name="hat", source="a face", target="a face with a hat", strength=0.5, expects={"hat": True}),
    Instruction(name="sketch", source="a photo of a face", target="a sketch of a face", expects={"style_sketch": True}),
)
PAIRS = (Instruction(name="smile_hat", source="a face", target="a smiling face with a hat", expects={"smile": True, "hat": True}),)
QUICK = {"steps": 2}


@pytest.fixture(scope="module")
def pack(tmp_path_factory: pytest.TempPathFactory) -> Pack:
    return Pack.load(write_small_pack(tmp_path_factory.mktemp("pack")))


def plan(**changed: object) -> Plan:
    whole = Plan(
        methods={
            "HE": Method(), "HS + HE": Method(inverter="hyperstyle"), "half": Method(strength=0.5, ablates="HE"),
            "swept": Method(sweep=0.6, instructions=("smile",)),
            "SC": Method(editor="styleclip_optimisation", settings=QUICK, strength=1.0),
        },
        instructions=INSTRUCTIONS, pairs=PAIRS, pictures=5, optimised=2, fid=("smile", "hat"), interpolated=("smile", "hat"),
    )  # fmt: skip
    return replace(whole, **changed)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def found(pack: Pack, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict, list[Path], list[str]]:
    said: list[str] = []
    # The small pack's landmarks are random and find no face, so the portraits are aligned with the committed pack's.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(editing_run, "held_out", lambda pack, n, seed: held_out(Pack.load(PORTRAITS), n, seed=seed))
        judge = write_small_pack(tmp_path_factory.mktemp("judge"), seed=5)
        whole = plan(transfer={"its twin": str(pack.path)}, judge=str(judge))
        return (*editing_run.measure(pack, whole, tmp_path_factory.mktemp("page"), say=said.append), said)


def test_every_row_has_every_instruction_on_the_pictures_that_it_was_given(found: tuple[dict, list[Path], list[str]]) -> None:
    rows = found[0]["methods"]
    assert {label: len(row["cells"]) for label, row in rows.items()} == {"HE": 4, "HS + HE": 4, "half": 4, "swept": 1, "SC": 4}
    assert {cell["portraits"] for cell in rows["HE"]["cells"].values()} == {5}
    assert {cell["portraits"] for cell in rows["SC"]["cells"].values()} == {2}
    wanted = {"psnr_db", "lpips", "ssim", "ids", "same_person", "cs", "cmp", "success", "ama", "collateral", "seconds", "fid"}
    assert all(wanted <= row["attributes"].keys() for row in rows.values())
    assert 0 <= rows["HE"]["styles"]["style_zero_shot"] <= 1 and "style_zero_shot" not in rows["HE"]["attributes"]
    assert rows["HE"]["parameters"] > 1000 and rows["SC"]["parameters"] is None


def test_another_pack_judges_beside_the_own_one(found: tuple[dict, list[Path], list[str]]) -> None:
    rows = found[0]["methods"]
    for row in rows.values():
        assert {"independent_cs", "independent_success", "independent_ama"} <= row["attributes"].keys()
    assert rows["HE"]["attributes"]["independent_cs"] != pytest.approx(rows["HE"]["attributes"]["cs"])
    assert 0 <= rows["HE"]["styles"]["independent_style_zero_shot"] <= 1
    page = next(path for path in found[1] if path.name == "index.html").read_text()
    assert "CS, independent" in page and "mean by an independent CLIP" in page
    assert any("by a CLIP that no editor was trained with" in line for line in found[2])


def test_figures_agree_with_one_another(found: tuple[dict, list[Path], list[str]]) -> None:
    rows = found[0]["methods"]
    cells = rows["HE"]["cells"]
    assert rows["HE"]["attributes"]["cs"] == pytest.approx((cells["smile"]["numbers"]["cs"] + cells["hat"]["numbers"]["cs"]) / 2)
    # `swept` is the same edit of the same people; `half` halves the smile, and leaves the hat at its own half strength.
    assert rows["swept"]["cells"]["smile"]["numbers"]["cs"] == pytest.approx(cells["smile"]["numbers"]["cs"])
    assert rows["half"]["cells"]["hat"]["numbers"]["cs"] == pytest.approx(cells["hat"]["numbers"]["cs"])
    assert rows["half"]["cells"]["smile"]["numbers"]["cs"] != pytest.approx(cells["smile"]["numbers"]["cs"])
    assert all(0 <= share <= 1 for cell in cells.values() for share in cell["flips"].values())
    assert {check["claim"].split(" ")[0] for check in found[0]["orders"]} >= {"HyperEditor", "half"}
    assert set(found[0]["offsets"]) == {"smile", "hat"}


def test_the_samples_hold_every_portrait_and_their_means_are_the_figures(found: tuple[dict, list[Path], list[str]]) -> None:
    rows = found[0]["methods"]
    table = samples.read(next(path for path in found[1] if path.name == samples.FILE))
    assert set(table) == {(label, name) for label, row in rows.items() for name in row["cells"]}
    for (label, name), measured in table.items():
        cell = rows[label]["cells"][name]
        assert len(set(measured.keys)) == len(measured.keys) == cell["portraits"] and measured.group == cell["group"]
        assert {"success", "ids", "lpips", "same_person", "collateral"} <= measured.columns.keys()
        for measure, values in measured.columns.items():
            assert values.mean() == pytest.approx(cell["numbers"][measure], abs=1e-5)
    assert set(table["SC", "smile"].keys) <= set(table["HE", "smile"].keys) == set(table["half", "smile"].keys)


def test_the_page_stands_alone_and_its_pictures_open(found: tuple[dict, list[Path], list[str]]) -> None:
    page, pictures = found[1][0], [path for path in found[1] if path.suffix == ".png"]
    written = next(path for path in found[1] if path.name == "figures.json")
    assert json.loads(written.read_text())["methods"] == json.loads(json.dumps(found[0]["methods"]))
    text = page.read_text()
    assert "HyperEditor, Table 1" in text and "27.35" in text and "61.429" in text and "http" not in text
    names = {path.stem for path in pictures}
    assert {"sheet_attributes", "sheet_pairs", "sheet_styles", "interpolation", "reversal", "transfer", "offsets"} <= names
    assert text.count('src="data:image/png') == len(names)
    for path in pictures:
        with Image.open(path) as picture:
            assert min(picture.size) > 100


def test_the_run_gets_means_and_what_was_reached_with_every_instruction(found: tuple[dict, list[Path], list[str]]) -> None:
    metrics, row = editing_metrics(found[0]), found[0]["methods"]["HS + HE"]
    assert metrics["HS _ HE/attributes/cs"] == row["attributes"]["cs"] and metrics["HE/sketch/style_zero_shot"] >= 0
    assert metrics["HE/parameters"] == found[0]["methods"]["HE"]["parameters"] and "SC/parameters" not in metrics
    assert not any(name.endswith("_se") for name in metrics)


def test_progress_names_rows_and_instructions(found: tuple[dict, list[Path], list[str]]) -> None:
    assert any(line.startswith("HS + HE, sketch: success") for line in found[2])


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"methods": {"a": Method(editor="hyperedit")}}, "no editor 'hyperedit'"),
        ({"methods": {"a": Method(inverter="e5e")}}, "no inverter 'e5e'"),
        ({"methods": {"a": Method(editor="tedigan", settings={"step": 1})}}, "did you mean 'steps'"),
        ({"methods": {"a": Method(worse_on="amma")}}, "expected one of ama"),
        ({"methods": {"a": Method(ablates="b")}}, "ablates 'b', which is no row"),
        ({"methods": {"a": Method(instructions=("smil",))}}, "'smil' is not among those measured: smile, hat"),
        ({"methods": {"a": Method(pack=str(PORTRAITS))}}, "another generator"),
        ({"methods": {"a": Method(packs={"smil": str(PORTRAITS)})}}, "another generator"),
        ({"methods": {"a": Method(wordings="configs/instructions/other.yaml")}}, "no such file"),
        ({"judge": str(PORTRAITS.parent)}, "pack.yaml"),
        ({"judge": "SAME"}, "its clip is that of"),
        ({"judge": "WITHOUT"}, "lacks clip"),
        ({"methods": {}}, "at least one row"),
        ({"transfer": {"other": str(PORTRAITS)}}, "of another shape"),
        ({"pairs": INSTRUCTIONS[:1]}, "comes twice"),
        ({"instructions": (replace(INSTRUCTIONS[0], expects={}),)}, "add `expects`"),
        ({"instructions": (replace(INSTRUCTIONS[0], expects={"smil": True}),)}, "did you mean 'smile'"),
        ({"optimised": 0}, "expected 1 or more"),
    ],
)
def test_a_wrong_plan_ends_the_suite_before_its_first_portrait(
    pack: Pack, tmp_path: Path, changed: Mapping[str, object], words: str
) -> None:
    judges = {"SAME": pack.path, "WITHOUT": tmp_path / "judge"}
    if changed.get("judge") == "WITHOUT":
        write_small_pack(tmp_path / "judge", seed=5, without=("clip",))
    changed = {name: str(judges.get(str(value), value)) if name == "judge" else value for name, value in changed.items()}
    with pytest.raises((PackError, InstructionError), match=words):
        editing_run.measure(pack, plan(**changed), tmp_path, say=lambda text: pytest.fail(text))


def test_a_row_may_have_a_network_for_every_instruction_and_other_words(pack: Pack, tmp_path: Path) -> None:
    (tmp_path / "words.yaml").write_text("- {name: hat, source: someone, target: someone with a beanie}")
    methods = {
        "HE": Method(), "each": Method(packs={"smile": str(pack.path), "hat": str(pack.path)}, ablates="HE", sweep=0.6),
        "said": Method(wordings=str(tmp_path / "words.yaml")),
    }  # fmt: skip
    rows = editing_run.prepare(pack, plan(methods=methods), say=lambda text: None)
    assert [one.name for one in rows["each"].instructions] == ["smile", "hat"]
    assert rows["each"].parameters == rows["HE"].parameters and 0 < (rows["each"].heads or 0) < (rows["HE"].parameters or 0)
    said = rows["said"].instructions
    assert [(one.source, one.target, one.strength) for one in said] == [("someone", "someone with a beanie", 0.5)]
    (tmp_path / "words.yaml").write_text("- {name: cap, source: someone, target: someone with a cap}")
    with pytest.raises(InstructionError, match="says none of the instructions"):
        editing_run.prepare(pack, plan(methods={"said": methods["said"]}), say=lambda text: None)
    latents = torch.randn(2, pack.generator().n_latents, 16)
    inversion = inverted(GeneratorState(latents_BLD=latents), torch.rand(2, 3, 64, 64))
    a, b = (rows[label].editor.edit(inversion, rows["HE"].instructions[0]) for label in ("HE", "each"))
    assert all(torch.equal(dense(offset), dense(b.offsets[layer])) for layer, offset in a.offsets.items())


def test_a_pack_without_an_identity_network_is_refused(tmp_path: Path) -> None:
    small = Pack.load(write_small_pack(tmp_path / "pack", without=("identity",)))
    with pytest.raises(PackError, match="lacks identity, which edits are measured with"):
        editing_run.measure(small, plan(), tmp_path)


def test_the_shipped_rows_are_read_and_fit_the_shipped_pack(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    shipped = load_plan(SHIPPED, instructions=load_instructions("configs/instructions/portraits.yaml"), pictures=3)
    rows = editing_run.prepare(Pack.load(PORTRAITS), shipped, say=lambda text: None)
    assert rows["HyperEditor"].parameters and rows["InterFaceGAN"].parameters is None
    assert {row.method.inverter for row in rows.values()} >= {"e4e", "hyperstyle"}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("methods: {a: {editer: hypereditor}}", "unknown field 'editer'; did you mean 'editor'"),
        ("rows: {}", "did you mean"),
        ("methods: {}", "expected `methods:` with a row each"),
        ("[", "expected a YAML file of rows"),
        ("methods: {a: 3}", "row 'a': expected fields"),
    ],
)
def test_wrong_rows_are_named(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "rows.yaml").write_text(text)
    with pytest.raises(PackError, match=words):
        load_plan(tmp_path / "rows.yaml", instructions=INSTRUCTIONS)


def test_the_command_names_a_wrong_row(command: Command, tmp_path: Path) -> None:
    (tmp_path / "rows.yaml").write_text("methods: {a: {editor: hyperedit}}")
    flags = ["--suite", "editing", "--methods", str(tmp_path / "rows.yaml"), "--output", str(tmp_path / "out"), "--tracking_uri", "off"]
    done = command("jobs/evaluate.py", flags)
    assert done.code == 2 and "no editor 'hyperedit'" in done.err


@pytest.mark.parametrize("suite", ["editing", "strengths", "pack"])
@pytest.mark.parametrize(
    ("fields", "said"),
    [
        (
            "target: '" + "smiling " * 60 + "face', expects: {smile: true}",
            "instruction 'odd': text .* expected at most 32; use fewer words",
        ),
        ("target: a smiling face", "instruction 'odd': success cannot be judged; add `expects`"),
        ("target: a smiling face, expects: {smiles: true}", "expects 'smiles', unknown to the classifier; did you mean 'smile'"),
    ],
)
def test_an_instruction_that_cannot_be_measured_ends_a_suite_before_it_begins(tmp_path: Path, suite: str, fields: str, said: str) -> None:
    (tmp_path / "odd.yaml").write_text(f"- {{name: odd, source: a face, {fields}}}\n")
    options = Options(suite=suite, pack=str(PORTRAITS), instructions=str(tmp_path / "odd.yaml"), output=tmp_path / "out")
    with pytest.raises(InstructionError, match=said):
        run_suite(options, say=lambda text: None)
    assert not (tmp_path / "out").exists()


def test_a_stopped_run_goes_on_after_its_last_row_and_ends_with_the_same_figures(
    pack: Pack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    committed = Pack.load(PORTRAITS)
    monkeypatch.setattr(editing_run, "held_out", lambda pack, n, seed: held_out(committed, n, seed=seed))
    measure_row, asked = editing_run.measure_row, list[str]()

    def stops_at_half(row: Prepared, *rest: object, **more: object) -> Measured:
        if row.label == "half" and "half" not in asked:
            asked.append("half")
            raise KeyboardInterrupt
        asked.append(row.label)
        return measure_row(row, *rest, **more)  # type: ignore[arg-type]

    whole, _ = editing_run.measure(pack, plan(), tmp_path / "whole", say=lambda text: None)
    monkeypatch.setattr(editing_run, "measure_row", stops_at_half)
    with pytest.raises(KeyboardInterrupt):
        editing_run.measure(pack, plan(), tmp_path / "stopped", say=lambda text: None)
    resumed, _ = editing_run.measure(pack, plan(), tmp_path / "stopped", say=lambda text: None)
    assert asked == ["HE", "HS + HE", "half", "half", "swept", "SC"]
    assert without_times(resumed) == without_times(whole)
    assert samples_of(tmp_path / "stopped") == samples_of(tmp_path / "whole")
    for sheet in sorted((tmp_path / "whole").glob("sheet_*.png")):
        assert (tmp_path / "stopped" / sheet.name).read_bytes() == sheet.read_bytes()
    kept = tmp_path / "stopped" / kept_rows.FOLDER
    assert len(list(kept.iterdir())) == 5
    (kept / "notes.txt").write_text("not ours")
    kept_rows.forget(tmp_path / "stopped")
    assert [path.name for path in kept.iterdir()] == ["notes.txt"]
    kept_rows.forget(tmp_path / "whole")
    assert not (tmp_path / "whole" / kept_rows.FOLDER).exists()


def test_rows_of_a_run_that_measured_something_else_are_not_taken(pack: Pack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def kept(plan: Plan, judge: Pack | None = None, features: str = "random") -> KeptRows:
        return KeptRows.of(tmp_path, pack=pack, plan=plan, judge=judge, features={"lpips": features})

    row = editing_run.ready(pack, plan(), say=lambda text: None).rows["half"]
    found = Measured(row=Row(editor="hypereditor", inverter="e4e", cells={}), shown={}, columns={})
    kept(plan()).save(row, found)
    assert kept(plan(methods={"x": Method()})).load(row) is not None and kept(plan(), features="trained").load(row) is None
    others = [(plan(pictures=6), None), (plan(seed=9), None), (plan(instructions=INSTRUCTIONS[:2]), None), (plan(), pack)]
    for changed, judge in others:
        assert kept(changed, judge).load(row) is None
    stronger = replace(row, instructions=tuple(replace(one, strength=0.7) for one in row.instructions))
    assert kept(plan()).load(stronger) is None
    monkeypatch.setattr(kept_rows, "CODE", ("portraits",))
    assert kept(plan()).load(row) is None


def without_times(figures: Mapping[str, object]) -> dict[str, object]:
    text = json.loads(json.dumps(figures), object_hook=lambda entry: {k: v for k, v in entry.items() if not re.search(r"seconds|_s$", k)})
    assert isinstance(text, dict)
    return text


def samples_of(folder: Path) -> dict[tuple[str, str], dict[str, list[float]]]:
    table = samples.read(folder / samples.FILE)
    return {key: {name: values.tolist() for name, values in one.columns.items()} for key, one in table.items()}
