"""Every editor of the committed pack by name, from shards to a report, stopped half way and resumed: same bytes as in one go."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from jobs.make_portraits import Options, write
from models.deltaedit import DeltaMapper
from models.editor_names import editor_names
from models.mappers import MapperSet
from models.nada import NadaOffsets
from models.pack import Pack, write_network
from models.pack_format import read_info
from tests.commands import ROOT
from tests.jobs.halves import resumed_equals_whole
from tests.jobs.world import World, run, write_seeing_pack
from tests.models.small_pack import CHANNELS, EMBED, SIZE, STYLE_DIM

pytestmark = [pytest.mark.ray, pytest.mark.timeout(900)]
PACK = ROOT / "packs" / "portraits64"
FEW: Mapping[str, tuple[str, ...]] = {
    "styleclip_optimisation": ("--editor_settings.steps", "6"),
    "tedigan": ("--editor_settings.steps", "6"),
    "stylemc": ("--editor_settings.steps", "4"),
    "interfacegan": ("--editor_settings.labelled", "200"),
}
GLASSES = {"name": "glasses", "source": "a face", "target": "a face with glasses", "expects": {"glasses": True}}
BLIND = ("ganspace", "sefa")
"""No component of theirs moves glasses (docs/editors.md)."""
NAMES = editor_names(read_info(PACK)[0])


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return two shards of two unaligned portraits each, as the demo's are."""
    folder = tmp_path_factory.mktemp("raw") / "shards"
    write(Options(output=str(folder), count=4, shard_size=2))
    return folder


@pytest.mark.long  # HyperEditor runs in most tests of jobs, CLIPInverter in those of augmentation
@pytest.mark.parametrize("editor", NAMES)
def test_it_runs_end_to_end_and_resumes(editor: str, raw: Path, joined: Mapping[str, str], tmp_path: Path) -> None:
    listed = tmp_path / "glasses.yaml"
    listed.write_text(json.dumps([GLASSES]))

    flags = ["--pack", str(PACK), "--editor", editor, "--instructions", str(listed), *FEW.get(editor, ())]
    rows = resumed_equals_whole(raw, flags, tmp_path, env=joined)
    assert [(row["status"], row["editor"]) for row in rows] == [("ok", editor)] * 4
    if editor not in FEW and editor not in BLIND:  # with so few steps those are not done
        assert sum(bool(row["success"]) for row in rows) >= 2


def test_a_missing_reference_picture_ends_the_job_before_it_starts(raw: Path, tmp_path: Path) -> None:
    listed = tmp_path / "like.yaml"
    listed.write_text(json.dumps([{**GLASSES, "reference": "nowhere.png"}]))
    flags = ["--input", str(raw), "--output", str(tmp_path / "out"), "--pack", str(PACK), "--instructions", str(listed)]
    ended = run([*flags, "--editor", "hairclip"])
    assert ended.code == 2 and "nowhere.png: there is no such file; name a picture that every worker can read" in ended.err
    (tmp_path / "nowhere.png").write_bytes((ROOT / "docs" / "images" / "inverters.png").read_bytes())
    ended = run([*flags, "--editor", "hypereditor"])
    assert ended.code == 2 and "hypereditor cannot look at one; leave `reference` out, or choose an editor that can" in ended.err
    assert not (tmp_path / "out").exists()


TRAINED_APART = ("styleclip_mapper", "nada", "deltaedit")


@pytest.fixture(scope="module")
def apart(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a small pack with the editors that the committed one has not."""
    folder = tmp_path_factory.mktemp("apart") / "pack"
    write_seeing_pack(folder)
    generator, texts = Pack.load(folder).generator(), [GLASSES["target"]]
    size = {"size": SIZE, "channels": CHANNELS}
    mappers, delta = {"texts": texts, "style_dim": STYLE_DIM}, {**size, "text_dim": EMBED, "width": 8, "depth": 2}
    write_network(folder, "styleclip_mapper", MapperSet.from_config(mappers), config=mappers)
    write_network(folder, "deltaedit", DeltaMapper.from_config(delta), config=delta)
    offsets = NadaOffsets.between(generator, {str(text): generator for text in texts})
    write_network(folder, "nada", offsets, config={"texts": texts, **size})
    return folder


@pytest.mark.parametrize("editor", [pytest.param(name, marks=() if name == "nada" else pytest.mark.long) for name in TRAINED_APART])
def test_an_editor_that_was_trained_apart_runs_by_its_name(
    editor: str, apart: Path, world: World, joined: Mapping[str, str], tmp_path: Path
) -> None:
    listed = tmp_path / "glasses.yaml"
    listed.write_text(json.dumps([GLASSES]))
    flags = ["--input", str(world.raw / "part-0.tar"), "--output", str(tmp_path / "out"), "--pack", str(apart), "--editor", editor]
    ended = run([*flags, "--instructions", str(listed), "--tracking.enabled", "false"], env=joined)
    assert ended.code == 0, ended.err[-3000:]
    assert ended.result["images"] == len(world.keys["part-0"]) - 1
    wrong = run([*flags, "--output", str(tmp_path / "other"), "--instructions", "hat: a face -> a face with a hat", "--dry_run"])
    assert wrong.code == (0 if editor == "deltaedit" else 2)
    assert editor == "deltaedit" or f"{editor} was trained for certain targets" in wrong.err
