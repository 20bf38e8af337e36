"""The inversion suite from the committed pack to its page, on a handful of portraits."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from evaluation import inversion_page, inversion_run
from models import attribute_directions
from models.directions import Directions
from models.pack import Pack, PackError
from tests.commands import Command

torch.set_num_threads(1)
PACK = Path(__file__).resolve().parents[2] / "packs" / "portraits64"
SETTINGS = {"wplus_projection": {"steps": 8}, "gani": {"steps": 2}}


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict, list[Path]]:
    plan = inversion_run.Plan(
        inverters=("e4e", "wplus_projection", "gani"), pictures=5, optimised=3, others=10, labelled=1000, settings=SETTINGS
    )
    return inversion_run.measure(Pack.load(PACK), plan, tmp_path_factory.mktemp("page"), say=lambda _: None)


def test_every_method_has_a_row_on_the_pictures_that_it_was_given(found: tuple[dict, list[Path]]) -> None:
    figures, _ = found
    assert {name: row["pictures"] for name, row in figures["table"].items()} == {"e4e": 5, "wplus_projection": 3, "gani": 3}
    assert all(0 < row["ms_ssim"] <= 1 and row["l2"] > 0 and row["seconds"] > 0 for row in figures["table"].values())
    assert set(figures["drift"]) == {"gani"} and figures["drift"]["gani"] > 0
    assert json.loads(json.dumps(figures))["features"]["lpips"].startswith("alexnet")


def test_curves_begin_at_no_change_and_follow_the_direction(found: tuple[dict, list[Path]]) -> None:
    assert set(found[0]["editability"]) == {f"smile ({kind})" for kind in ("interfacegan", "ganspace", "sefa")}
    curve = found[0]["editability"]["smile (interfacegan)"]["e4e"]
    still = [point for point in curve if point["amount"] == 0]
    assert len(curve) == 9 and [point["change"] for point in still] == [0.0]
    by_amount = sorted(curve, key=lambda point: point["amount"])
    assert by_amount[-1]["change"] > by_amount[0]["change"] + 0.1  # smiles come and go with the sign
    for curves in found[0]["editability"].values():
        ends = sorted(curves["e4e"], key=lambda point: point["amount"])
        assert ends[-1]["change"] > ends[0]["change"]  # the component is turned so that the attribute rises


def test_the_page_stands_alone_and_its_pictures_open(found: tuple[dict, list[Path]]) -> None:
    page, *pictures, written = found[1]
    assert json.loads(written.read_text())["table"] == found[0]["table"]
    text = page.read_text()
    assert 'src="data:image/png' in text and "http" not in text and "gani" in text
    sizes = {}
    for path in pictures:
        with Image.open(path) as picture:
            sizes[path.name] = picture.size
    assert min(min(size) for size in sizes.values()) > 100
    assert sizes["sheet.png"] == (4 * 132 - 4, 3 * 132 - 4)  # input and three methods, the people of all


def test_the_best_of_a_column_is_the_lowest_distance_and_the_highest_similarity() -> None:
    row = dict.fromkeys(inversion_page.COLUMNS, 1.0)
    best = inversion_page.best({"a": row | {"lpips": 0.5}, "b": row | {"identity": 2.0}})
    assert best["lpips"] == "a" and best["identity"] == "b"


def test_the_spread_along_a_direction_is_that_of_w() -> None:
    pack = Pack.load(PACK)
    w = pack.generator().mapping(torch.randn(1000, pack.generator().style_dim, generator=torch.Generator().manual_seed(1)))
    axis = Directions(vectors_KD=torch.eye(pack.generator().style_dim)[3:4])
    assert attribute_directions.spread(pack, axis) == pytest.approx(float(w[:, 3].std()), rel=1e-4)


def test_a_wrong_name_or_setting_ends_the_suite_before_its_first_portrait(tmp_path: Path) -> None:
    for plan, words in (
        (inversion_run.Plan(inverters=("pit",)), "no inverter 'pit'"),
        (inversion_run.Plan(inverters=("pti",), settings={"pti": {"step": 1}}), "no setting 'step'"),
        (inversion_run.Plan(inverters=("e4e",), attribute="wings"), "--attribute wings: the pack's classifier knows"),
        (inversion_run.Plan(inverters=("e4e",), input=str(tmp_path / "nothing")), "--input .*nothing"),
    ):
        with pytest.raises(PackError, match=words):
            inversion_run.measure(Pack.load(PACK), plan, tmp_path, say=lambda text: pytest.fail(text))


def test_the_command_says_which_suites_there_are(command: Command) -> None:
    done = command("jobs/evaluate.py", ["--suite", "inverson"])
    assert done.code == 2 and "expected one of pack, inversion, editing, gates, strengths" in done.err
