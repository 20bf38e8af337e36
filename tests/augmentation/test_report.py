"""What an augmentation leaves for people and tools: a page that loads nothing, a card and a Croissant file, all true to the manifests."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping, Sequence
from html import unescape
from pathlib import Path

import mlcroissant as mlc
import pytest
import yaml
from PIL import Image

from augmentation.documents import write_documents
from augmentation.gates import REASONS
from augmentation.quotas import read_state
from augmentation.recipe import Drawn, Recipe
from augmentation.rows import AUGMENTED
from augmentation.yields import met, yields
from models.instruction import Instruction
from pipeline.manifest import Row
from pipeline.storage import Storage
from tests.augmentation.small_augmented import broken, drawn, measured_of, original, tried, write_run, write_shard
from tests.augmentation.small_recipe import GLASSES, HAT, SMILE, balance_of, edit_of
from tests.pipeline.test_report import Page

ODD = "Zo\u00eb <i>&"
SMILES, SPECTACLES, HATS = edit_of(SMILE), edit_of(GLASSES), edit_of(HAT)
RECIPE = Recipe(edits=(SMILES, SPECTACLES, HATS), balance=balance_of("smile"))
KEYS = [f"person_{n:02d}" for n in range(9)] + [ODD]
KEPT, SHOWN = range(1, 6), range(1, 8)
WHY = "9 originals can be edited into it; 9 tries came to 5, most by the gate identity"


def smile_rows() -> list[Row]:
    """Five smiles that were kept and three that were not, of eight people."""
    kept = [tried(KEYS[n], n, SMILES, target="smile", factor=0.5 + n / 10, holds=["smile", "old"]) for n in KEPT]
    lost = [tried(KEYS[n], n, SMILES, target="smile", reason="identity", factor=1.25) for n in (6, 7)]
    return [*kept, *lost, tried(KEYS[8], 8, SMILES, target="smile", reason="success", shown=False)]


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An augmentation of one shard, balanced in vain, with its documents."""
    out = tmp_path_factory.mktemp("out")
    storage = Storage(str(out))
    people = [original(key, n, *(["smile"] if n == 0 else ["hat"])) for n, key in enumerate(KEYS)]
    write_shard(storage, "a", [*people, broken("broken", 10)], damage="the shard ends early")
    write_shard(storage, "a.edits-1", [*smile_rows(), tried(ODD, 9, SPECTACLES, target="smile", reason="realism", factor=2.0)])
    targets = met(read_state(RECIPE, storage, shards=["a"], later=["a.edits-1"]), RECIPE, yields(RECIPE, storage))
    write_run(storage, RECIPE, targets=targets, originals=10, accepted=5, rejected=4, quarantined=1)
    assert write_documents(str(out)) == str(out / "report.html")
    return out


def page_of(out: Path) -> Page:
    return Page(out / "report.html")


def section_of(out: Path, name: str) -> str:
    """Return the HTML of one part of the page."""
    html = (out / "report.html").read_text(encoding="utf-8")
    start = html.index(f'id="{name}"')
    return html[start : html.index("</section>", start)]


def test_the_page_says_what_was_made(output: Path) -> None:
    text = page_of(output).text
    assert "10 originals, 5 edits kept of 9 tried." in text
    for words in ("samples in the dataset 15 3 of the targets missing", "edits kept 5 of 9 tried", "yield 56 %", "samples failed 1"):
        assert words in text
    assert "e4e" in text and "clipinverter" in text and "torch-cpu" in text


def test_every_edit_has_its_texts_counts_and_pictures(output: Path) -> None:
    page = page_of(output)
    for edit, count in ((SMILES, "5 kept of 8 tried"), (SPECTACLES, "0 kept of 1 tried"), (HATS, "0 kept of 0 tried")):
        assert any(tag.get("id") == f"e-{edit.name}" for tag in page.all("section")) and count in section_of(output, f"e-{edit.name}")
    assert f"{SMILE.source} \u2192 {SMILE.target}" in re.sub(r"\s+", " ", page.text)
    shown = re.findall(r'alt="(?:Source|smile of) ([^"]*)"', section_of(output, "e-smile"))
    assert sorted(set(shown)) == sorted(KEYS[n] for n in SHOWN) and len(shown) == 2 * len(SHOWN)  # each beside what it was made from
    assert "No sample was tried with it." in section_of(output, "e-hat")


def test_rejected_pictures_say_by_which_gate_and_how_strong(output: Path) -> None:
    rejected = section_of(output, "e-smile").split("Rejected")[1]
    assert KEYS[6] in rejected and KEYS[7] in rejected and "identity \N{MULTIPLICATION SIGN}1.25" in rejected and KEYS[8] not in rejected
    assert "realism \N{MULTIPLICATION SIGN}2.00" in section_of(output, "e-glasses")


def test_yields_are_counted_by_gate_and_every_gate_is_explained(output: Path) -> None:
    part = unescape(section_of(output, "yields"))
    for name, meaning in REASONS.items():
        assert f"<b>{name}</b>: {meaning}" in part
    (row,) = [row for row in re.findall(r"<tr>.*?</tr>", part, re.DOTALL) if "#e-smile" in row]
    cells = [re.sub(r"<[^>]*>", "", cell).strip() for cell in re.findall(r"<td[^>]*>(.*?)</td>", row, re.DOTALL)]
    assert cells == ["8", "5", "62 %", "", "1", "2", "", ""]  # tried, kept, yield, bar; success, identity, collateral, realism
    widths = [float(width) for width in re.findall(r"width:([\d.]+)%", row)]
    assert widths == [62.5, 12.5, 25.0]


def test_the_numbers_are_means_of_what_was_kept(output: Path) -> None:
    text = re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", section_of(output, "e-smile")))
    far = [measured_of(KEYS[n], SMILES).realism or 0 for n in KEPT]
    assert f"Realism {sum(far) / len(far):.2f}" in text and "Identity 0." in text and "Same person 100 %" in text
    assert f"Strength, median \N{MULTIPLICATION SIGN}{0.5 + 3 / 10:.2f}" in text
    assert "Certainty" not in re.sub(r"<[^>]*>", " ", section_of(output, "e-glasses"))  # nothing was kept of it


def test_targets_say_what_they_lack_and_why(output: Path) -> None:
    part = section_of(output, "targets")
    cells = [re.sub(r"<[^>]*>", "", cell) for cell in re.findall(r"<t[dh][^>]*>(.*?)</t[dh]>", part.split("<tbody>")[1])]
    assert cells[:5] == ["smile", "9", "1", "5", "3"] and cells[5].startswith(WHY)
    assert cells[6:] == ["no smile", "9", "9", "0", "none", ""]


def test_labels_are_shares_of_originals_and_of_the_whole(output: Path) -> None:
    rows = re.findall(r'<th scope="row">(\w+)</th>(.*?)</tr>', section_of(output, "labels"))
    shares = {name: re.findall(r"(\d+) %", cells) for name, cells in rows}
    assert shares == {"smile": ["10", "40"], "old": ["0", "33"], "hat": ["90", "60"]}  # of 10 originals, of 15 samples
    assert [name for name, _ in rows] == ["old", "hat", "smile"]  # those that changed most come first


def test_every_failure_is_there(output: Path) -> None:
    text = page_of(output).text
    for words in ("decode 1 sample ends early & <cut>", "read shard a, from here on the shard ends early"):
        assert words in text


def test_the_page_loads_nothing_and_is_safe_against_what_keys_hold(output: Path) -> None:
    html, page = (output / "report.html").read_text(encoding="utf-8"), page_of(output)
    for _, attributes in page.tags:
        for name in ("src", "href", "srcset", "data", "action"):
            value = attributes.get(name) or "#"
            assert value.startswith(("#", "data:image/")), value
    assert "url(" not in html and "@import" not in html and not page.all("script") and not page.all("link")
    assert "http://" not in html and "https://" not in html and not page.all("i") and ODD in page.text
    assert "default-src 'none'" in html


def test_the_page_can_be_read_by_everybody(output: Path) -> None:
    page = page_of(output)
    assert all(tag.get("alt") for tag in page.all("img"))
    levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch(r"h[1-6]", tag)]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after - before <= 1 for before, after in zip(levels, levels[1:], strict=False))
    ids = [str(attributes["id"]) for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids)) and {str(tag["href"])[1:] for tag in page.all("a")} <= set(ids)


def test_the_sheet_shows_what_was_kept(output: Path) -> None:
    with Image.open(output / "sheet.png") as sheet:
        assert sheet.width < 2 * 128 < 5 * 128 < sheet.height  # a column for the one edit that was kept, a row each
        assert len(sheet.convert("RGB").getcolors(1 << 20) or []) > 12


def test_equal_outputs_give_equal_bytes(output: Path, tmp_path: Path) -> None:
    names = ("report.html", "sheet.png", "README.md", "croissant.json")
    shutil.copytree(output, tmp_path / "again", ignore=shutil.ignore_patterns(*names))
    write_documents(str(tmp_path / "again"))
    for name in names:
        assert (tmp_path / "again" / name).read_bytes() == (output / name).read_bytes()


def test_the_card_says_what_the_run_says(output: Path) -> None:
    text = (output / "README.md").read_text()
    front = yaml.safe_load(text.split("---\n")[1])
    assert front["pretty_name"] == "better" and front["license"] == "other" and front["size_categories"] == ["n<1K"]
    assert {"webdataset", "synthetic", "augmentation"} <= set(front["tags"])
    assert {entry["data_files"] for entry in front["configs"]} == {"shards/*.tar", "manifests/*.parquet"}
    assert "| samples | 15: 10 originals (aligned), 5 edits, 0 drawn |" in text and "| in quarantine | 1 " in text
    assert "| smile | 8 | 5 | 62 % | 0.80 | success 1, identity 2 |" in text and "| hat | 0 | 0 |  |  |  |" in text
    assert f"| smile | 9 | 1 | 5 | 3 | {WHY}" in text and "| no smile | 9 | 9 | 0 | 0 |  |" in text
    assert "fill it in before you publish" in text and "Apache-2.0" in text and (output / "sheet.png").is_file()


def test_croissant_describes_every_column_and_reads_the_manifests_by_that(output: Path) -> None:
    content = json.loads((output / "croissant.json").read_text())
    fields = content["recordSet"][0]["field"]
    assert [field["name"] for field in fields] == AUGMENTED.names and all(len(field["description"]) > 5 for field in fields)
    assert "smile, glasses, hat" in content["description"] and "drew" not in content["description"]
    rows = list(mlc.Dataset(output / "croissant.json").records("edits"))
    assert set(rows[0]) == {f"edits/{name}" for name in AUGMENTED.names} and len(rows) == 11 + 9
    kinds = [row["edits/kind"] for row in rows]
    assert (kinds.count(b"original"), kinds.count(b"edit")) == (10, 9)


def written(folder: Path, recipe: Recipe, shards: Mapping[str, Sequence[Row]], **counts: int) -> str:
    """Write an output and its documents; return the text of the page."""
    storage = Storage(str(folder))
    for name, rows in shards.items():
        write_shard(storage, name, rows)
    write_run(storage, recipe, **counts)
    write_documents(str(folder))
    return page_of(folder).text


def test_a_recipe_by_number_has_no_targets(tmp_path: Path) -> None:
    text = written(tmp_path, Recipe(edits=(SMILES,), per_sample=1), {"a": [original("0", 0), tried("0", 0, SMILES)]}, originals=1)
    assert "Targets" not in text and "Targets" not in (tmp_path / "README.md").read_text()
    assert "samples in the dataset 2 originals, edits and drawn pictures" in text and "Nothing failed." in text


def test_drawn_pictures_are_shown_and_counted_beside_the_others(tmp_path: Path) -> None:
    recipe = Recipe(edits=(SMILES,), per_sample=1, drawn=Drawn(count=3, seed=7))
    far = drawn("d8", 1, seed=8, reason="realism")
    shards = {"a": [original("0", 0), tried("0", 0, SMILES)], "drawn-00000": [drawn("drawn-000000007", 0, seed=7), far]}
    text = written(tmp_path, recipe, shards, originals=1, accepted=1, drawn=1)
    assert "1 original, 1 edit kept of 1 tried, 1 drawn picture." in text and "samples in the dataset 3" in text
    assert "drawn of drawn-000000007" in section_of(tmp_path, "drawn") and "d8" not in section_of(tmp_path, "drawn")
    assert "3: 1 original (aligned), 1 edit, 1 drawn" in (tmp_path / "README.md").read_text()
    assert "drew" in json.loads((tmp_path / "croissant.json").read_text())["description"]


def test_originals_that_are_left_out_are_no_part_of_the_dataset(tmp_path: Path) -> None:
    recipe = Recipe(edits=(SMILES,), per_sample=1, originals="none")
    rows = [original("0", 0, "hat", made=False), original("1", 1, made=False), tried("0", 0, SMILES, holds=["smile"])]
    text = written(tmp_path, recipe, {"a": rows}, accepted=1)
    assert "1 edit kept of 1 tried." in text and "original," not in text and "samples in the dataset 1 " in text
    found = dict(re.findall(r'<th scope="row">(\w+)</th>(.*?)</tr>', section_of(tmp_path, "labels")))
    assert {name: re.findall(r"(\d+) %", cells) for name, cells in found.items()} == {"smile": ["0", "100"], "hat": ["50", "0"]}


def test_only_drawn_pictures_make_a_page_a_card_and_a_sheet(tmp_path: Path) -> None:
    text = written(tmp_path, Recipe(drawn=Drawn(count=2)), {"drawn-00000": [drawn("d0", 0, seed=0), drawn("d1", 1, seed=1)]}, drawn=2)
    assert "2 drawn pictures." in text and "No edits." in text and not re.search(r"nan|None", text)
    card = (tmp_path / "README.md").read_text()
    assert "2: 0 originals (aligned), 0 edits, 2 drawn" in card and "Edits and what became of them" not in card
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.width > 2 * 128


def test_without_pictures_before_there_are_only_those_after(tmp_path: Path) -> None:
    recipe = Recipe(edits=(SMILES,), per_sample=1, originals="untouched")
    text = written(tmp_path, recipe, {"a": [original("0", 0), tried("0", 0, SMILES)]}, originals=1)
    alts = [str(tag["alt"]) for tag in page_of(tmp_path).all("img")]
    assert alts == ["smile of 0"] and "1 original, 1 edit kept of 1 tried." in text


def test_a_run_that_made_nothing_still_has_a_page(tmp_path: Path) -> None:
    text = written(tmp_path, Recipe(edits=(SMILES,), per_sample=1), {"a": [broken("0", 0)]})
    assert "yield \N{EN DASH}" in text and "decode 1 sample" in text and "No labels." in text


def test_a_style_is_said_to_be_read_less_reliably(tmp_path: Path) -> None:
    zombie = Instruction(name="zombie", source="a face", target="a zombie", expects={"style_zombie": True})
    rows = [tried("0", 0, edit_of(SMILE)), tried("0", 0, edit_of(zombie))]
    written(tmp_path, Recipe(edits=(SMILES, edit_of(zombie)), per_sample=1), {"a": rows})
    assert "This edit asks for a style." in section_of(tmp_path, "e-zombie")
    assert "This edit asks for a style." not in section_of(tmp_path, "e-smile")


def test_what_the_pack_does_not_measure_is_left_out(tmp_path: Path) -> None:
    row = {**tried("0", 0, SMILES), "same_person": None, "identity": None, "certainty": None, "realism": None, "labels": []}
    text = written(tmp_path, Recipe(edits=(SMILES,), per_sample=1), {"a": [row]})
    section = section_of(tmp_path, "e-smile")
    assert "Identity" not in section and "Certainty" not in section and "LPIPS" in section and "same person \N{EN DASH}" in text
    assert not re.search(r"nan|None", text)
