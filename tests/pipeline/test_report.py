"""The report of a run: what a person finds on the page, made from a small output folder written by the pipeline's own writers."""

from __future__ import annotations

import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch
from fsspec.implementations.memory import MemoryFileSystem
from PIL import Image

from models.instruction import Instruction
from pipeline.report import write_report
from pipeline.sample import FailedSample
from pipeline.score import EditScores
from pipeline.storage import Storage
from tests.pipeline.small_output import BLOND, INSTRUCTIONS, SMILE, commit, encoded, paint, scores_for, write_run, write_shard

torch.set_num_threads(1)
KEYS = [*(f"person_{n:02d}" for n in range(44)), "Zo\u00eb <i>&"]
BROKEN = FailedSample(
    key="broken", shard="a-0.tar", index=30, stage="decode", reason="ends early & <cut>", members=(("broken.jpg", b"\xff\xd8"),)
)
WALL = FailedSample(
    key="wall", shard="a-0.tar", index=31, stage="align", reason="no face was found", members=(("wall.PNG", encoded(paint("wall", "x"))),)
)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An output of two shards and one that could not be read, with its report."""
    out = tmp_path_factory.mktemp("out")
    write_run(out)
    write_shard(out, "a-0", KEYS[:30], failed=[BROKEN, WALL])
    write_shard(out, "a-1", KEYS[30:])
    commit(Storage(str(out)), "a-2", {}, damage="this is not a tar archive")
    assert write_report(str(out)) == str(out / "report.html")
    return out


class Page(HTMLParser):
    """Collect what a reader and a browser see of a page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))
        self.text = re.sub(r"\s+", " ", " ".join(self.words))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if not self.tags or self.tags[-1][0] != "style":
            self.words.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def test_every_instruction_has_its_section_texts_and_pictures(finished: Path) -> None:
    page = Page(finished / "report.html")
    for instruction in INSTRUCTIONS:
        assert any(tag.get("id") == f"i-{instruction.name}" for tag in page.all("section"))
        assert instruction.source in page.text and instruction.target in page.text
        shown = [tag for tag in page.all("img") if str(tag["alt"]).startswith(f"{instruction.name} of ")]
        assert len(shown) == 8 + 12 + 4 + 4  # overview, sheet, best, worst
    assert "strength 1.5" in page.text


def test_the_numbers_are_those_of_the_manifests(finished: Path) -> None:
    rows = [scores_for(key, SMILE) for key in KEYS]
    mean = sum(row.identity for row in rows) / len(rows)
    deviation = (sum((row.identity - mean) ** 2 for row in rows) / (len(rows) - 1)) ** 0.5
    text = Page(finished / "report.html").text
    section = text[text.index("a smiling face") :]
    assert f"Identity {mean:.2f} \u00b1 {deviation:.2f}" in section
    success = 100 * sum(bool(row.success) for row in rows) / len(rows)
    assert f"Success {success:.0f} %" in section
    assert "135 edits of 45 portraits by 3 instructions, in 92 s." in text
    assert "edits per second 1.5 92 s from the first shard to the last" in text


def test_the_lowest_and_highest_are_the_lowest_and_highest(finished: Path) -> None:
    ranked = sorted(KEYS, key=lambda key: scores_for(key, BLOND).clip_directional)
    html = (finished / "report.html").read_text(encoding="utf-8")
    section = html[html.index('id="i-blond"') : html.index('id="i-zombie"')]
    ends = section[section.index("Highest Directional CLIP") :]
    shown = re.findall(r'alt="blond of ([^"]*)"', ends)
    escaped = [key.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;") for key in ranked]
    assert shown == [*reversed(escaped[-4:]), *escaped[:4]]


def test_collateral_changes_are_a_share_of_the_edits_of_each_instruction(finished: Path) -> None:
    html = (finished / "report.html").read_text(encoding="utf-8")
    table = html[html.index('class="heat"') : html.index("</table>", html.index('class="heat"'))]
    columns = re.findall(r'<th scope="col"><span>(\w+)</span>', table)
    cells = re.search(r'<th scope="row">smile</th>(.*)</tr>', table)
    assert cells is not None and set(columns) == {"beard", "old", "lipstick"}
    for name, cell in zip(columns, re.findall(r"<td[^>]*>([^<]*)</td>", cells[1]), strict=False):
        part_flipped = sum(name in scores_for(key, SMILE).flips for key in KEYS) / len(KEYS)
        assert cell == (f"{100 * part_flipped:.0f}" if part_flipped else "")


def test_every_failure_is_there_with_stage_reason_and_thumbnail(finished: Path) -> None:
    page = Page(finished / "report.html")
    for words in ("decode 1 sample ends early & <cut>", "align 1 sample no face was found", "this is not a tar archive", "a-2"):
        assert words in page.text
    assert [tag["src"] for tag in page.all("img") if tag["alt"] == "Original of wall"]
    assert "no picture to show" in page.text


def test_the_page_loads_nothing_and_is_safe_against_what_keys_and_texts_hold(finished: Path) -> None:
    html = (finished / "report.html").read_text(encoding="utf-8")
    page = Page(finished / "report.html")
    for _, attributes in page.tags:
        for name in ("src", "href", "srcset", "data", "action"):
            value = attributes.get(name) or "#"
            assert value.startswith(("#", "data:image/")), value
    assert "url(" not in html and "@import" not in html and not page.all("script") and not page.all("link")
    assert not page.all("b") or "<b>zombie" not in html
    assert "<i>&" not in html.replace("&lt;i&gt;&amp;", "")


def test_pictures_have_texts_and_headings_their_order(finished: Path) -> None:
    page = Page(finished / "report.html")
    assert all(tag.get("alt") for tag in page.all("img"))
    assert all(tag.get("aria-label") for tag in page.all("svg"))
    levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch(r"h[1-6]", tag)]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after - before <= 1 for before, after in zip(levels, levels[1:], strict=False))
    ids = [str(attributes["id"]) for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert {str(tag["href"])[1:] for tag in page.all("a")} <= set(ids)


def test_it_says_what_the_numbers_rest_on(finished: Path) -> None:
    text = Page(finished / "report.html").text
    for words in ("alexnet, random weights (seed 0)", "image embedding of the pack's CLIP", "c0ffee", "torch 2.15.0", "ab" * 32):
        assert words in text
    assert "asks for a style" in text


def test_equal_outputs_give_equal_bytes(finished: Path, tmp_path: Path) -> None:
    again = tmp_path / "again"
    shutil.copytree(finished, again, ignore=shutil.ignore_patterns("report.html", "sheet.png"))
    write_report(str(again))
    for name in ("report.html", "sheet.png"):
        assert (again / name).read_bytes() == (finished / name).read_bytes()


def test_the_sheet_has_a_row_per_person_and_a_column_per_instruction(finished: Path) -> None:
    with Image.open(finished / "sheet.png") as sheet:
        assert sheet.width > 4 * 128 and sheet.height > 6 * 128
        assert len(sheet.convert("RGB").getcolors(1 << 20) or []) > 24


def test_a_run_without_failures_says_so(tmp_path: Path) -> None:
    write_run(tmp_path, [SMILE])
    write_shard(tmp_path, "b-0", ["one"], instructions=[SMILE])
    write_report(str(tmp_path))
    text = Page(tmp_path / "report.html").text
    assert "Nothing failed." in text and "1 edit of 1 portrait by 1 instruction" in text


def test_without_a_classifier_it_says_that_nothing_was_judged(tmp_path: Path) -> None:
    def unjudged(key: str, instruction: Instruction) -> EditScores:
        return replace(scores_for(key, instruction), success=None, collateral=None, flips=())

    write_run(tmp_path, [SMILE])
    write_shard(tmp_path, "b-0", ["one", "two"], instructions=[SMILE], scores=unjudged)
    write_report(str(tmp_path))
    text = Page(tmp_path / "report.html").text
    assert "Not measured." in text and "Nothing else changed." not in text


def test_without_an_identity_network_dashes_stand_where_identity_would(tmp_path: Path) -> None:
    def unknown(key: str, instruction: Instruction) -> EditScores:
        return replace(scores_for(key, instruction), identity=None, same_person=None)

    write_run(tmp_path, [SMILE], config={"align": "centre"})
    write_shard(tmp_path, "b-0", ["one", "two"], instructions=[SMILE], scores=unknown)
    write_report(str(tmp_path))
    text = Page(tmp_path / "report.html").text
    assert "still the same person \N{EN DASH}" in text and "id \N{EN DASH}" in text and "Histogram of Identity" not in text
    assert "2 edits of 2 pictures by 1 instruction" in text and "One row per picture" in text and "people" not in text
    assert not re.search(r"nan|None", text)


def test_a_run_in_which_everything_failed_still_has_a_report(tmp_path: Path) -> None:
    write_run(tmp_path)
    write_shard(tmp_path, "b-0", [], failed=[BROKEN])
    write_report(str(tmp_path))
    text = Page(tmp_path / "report.html").text
    assert "No edit was written." in text and "ends early & <cut>" in text


def test_a_resumed_run_says_which_part_it_made(tmp_path: Path) -> None:
    write_run(tmp_path, [SMILE], this_run={"shards": 1, "images": 2}, images_per_s=123.4)
    write_shard(tmp_path, "b-0", ["one", "two", "three"], instructions=[SMILE])
    write_report(str(tmp_path))
    text = Page(tmp_path / "report.html").text
    assert "3 edits of 3 portraits by 1 instruction." in text
    assert "edits per second 123 2 of 3 in the last run, in 92 s" in text


def test_the_report_says_where_the_time_of_the_workers_went(tmp_path: Path) -> None:
    seconds = {"wait": 1.0, "invert": 2.0, "edit": 10.0, "score": 5.0, "encode": 1.5, "write": 0.5}
    write_run(tmp_path, [SMILE], this_run={"shards": 1, "stage_seconds": seconds})
    write_shard(tmp_path, "b-0", ["one"], instructions=[SMILE])
    write_report(str(tmp_path))
    text = Page(tmp_path / "report.html").text
    shares = "waiting for samples 5 %, invert 10 %, edit 50 %, score 25 %, making PNG files 8 %, writing and committing 2 %"
    assert f"time of the workers {shares}" in text and "stage_seconds" not in text


def test_uncommitted_shards_do_not_count(tmp_path: Path) -> None:
    write_run(tmp_path, [SMILE])
    write_shard(tmp_path, "b-0", ["one"], instructions=[SMILE])
    write_shard(tmp_path, "b-1", ["two"], instructions=[SMILE])
    (tmp_path / "ledger" / "b-1.json").unlink()
    write_report(str(tmp_path))
    page = Page(tmp_path / "report.html")
    assert not [tag for tag in page.all("img") if "two" in str(tag["alt"])]


def test_the_page_stays_small_for_large_pictures_and_many_instructions(tmp_path: Path) -> None:
    many = [Instruction(name=f"edit-{n}", source="a face", target=f"face {n}") for n in range(40)]
    noise = torch.randint(0, 255, (160, 160, 3), generator=torch.Generator().manual_seed(1), dtype=torch.uint8).numpy()
    picture = Image.fromarray(noise)
    write_run(tmp_path, many)
    write_shard(tmp_path, "b-0", [f"k{n}" for n in range(24)], instructions=many, painter=lambda key, what: picture)
    write_report(str(tmp_path))
    assert (tmp_path / "report.html").stat().st_size < 8_000_000
    assert re.search(r"\d+ pictures were left out to keep it small", Page(tmp_path / "report.html").text)


def test_it_says_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no run\.json.*--output"):
        write_report(str(tmp_path))
    write_run(tmp_path)
    write_shard(tmp_path, "b-0", ["one"])
    (tmp_path / "manifests" / "b-0.parquet").write_bytes(b"PAR1 cut")
    with pytest.raises(ValueError, match=r"manifests/b-0\.parquet: not a readable manifest .* run the job again"):
        write_report(str(tmp_path))
    (tmp_path / "manifests" / "b-0.parquet").unlink()
    with pytest.raises(ValueError, match=r"manifests/b-0\.parquet: the ledger names this file, but it is missing"):
        write_report(str(tmp_path))


def test_it_reads_and_writes_any_url(finished: Path) -> None:
    memory = MemoryFileSystem()
    for path in (path for path in finished.rglob("*") if path.is_file() and path.name not in ("report.html", "sheet.png")):
        memory.pipe_file(f"/report_test/{path.relative_to(finished)}", path.read_bytes())
    url = write_report("memory://report_test")
    assert url == "memory:///report_test/report.html"
    assert memory.cat_file("/report_test/report.html") == (finished / "report.html").read_bytes()
