"""The evaluation's bookkeeping: who is eligible, what is averaged, what the command prints."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from evaluation import pack_suite
from evaluation.held_out import HeldOut
from models.instruction import Instruction
from pipeline.score import EditScores
from tests.commands import Command


def data(*rows: dict[str, bool]) -> HeldOut:
    return HeldOut(
        truth=[{"attributes": row} for row in rows],
        aligned_BCHW=torch.zeros(len(rows), 3, 8, 8),
        found=list(range(len(rows))),
        landmark_errors=torch.tensor([0.01, 0.05]),
    )


def scores(*, success: bool, same: bool, flips: tuple[str, ...] = ()) -> EditScores:
    return EditScores(
        psnr=20.0, ssim=0.9, lpips=0.1, psnr_inversion=25.0, lpips_inversion=0.1, identity=0.8, same_person=same, clip_score=30.0,
        clip_directional=0.5, clip_directional_inversion=0.5, success=success, collateral=len(flips), flips=flips, attributes_reliable=True,
    )  # fmt: skip


def test_portraits_that_show_the_target_are_left_out_and_so_is_hidden_hair() -> None:
    people = data({"smile": True}, {"smile": False}, {"hair_blond": False, "hat": True}, {"hair_blond": True})
    smile = Instruction(name="smile", source="a", target="b", expects={"smile": True})
    blond = Instruction(name="blond", source="a", target="b", expects={"hair_blond": True})
    style = Instruction(name="zombie", source="a", target="b", expects={"style_zombie": True})
    assert pack_suite.eligible(people, smile).tolist() == [1, 2, 3]
    assert pack_suite.eligible(people, blond).tolist() == [0, 1]
    assert pack_suite.eligible(people, style).tolist() == [0, 1, 2, 3]


def test_alignment_counts_faces_and_close_landmarks() -> None:
    numbers = pack_suite.alignment(data({}, {}))
    assert numbers["landmark_within_3pct"] == 0.5 and numbers["faces_found"] == 1.0


def test_summary_averages_and_counts_flips() -> None:
    made = [scores(success=True, same=True, flips=("hat",)), scores(success=False, same=True, flips=("hat", "old"))]
    summary = pack_suite._summary(made)
    assert summary["success"] == 0.5 and summary["same_person"] == 1.0 and summary["collateral"] == 1.5
    assert summary["flips"] == {"hat": 1.0, "old": 0.5}
    overall = pack_suite.overall({"a": summary, "b": pack_suite._summary([scores(success=True, same=False)])})
    assert overall["success_mean"] == 0.75 and overall["success_worst"] == 0.5 and overall["same_person_worst"] == 0.0


@pytest.mark.parametrize(("job", "flags", "words"), [
    ("evaluate", ["--suite", "everything"], "expected one of pack"),
    ("evaluate", ["--pack", "no/such/pack"], "no such folder"),
    ("make_portraits", ["--output", "x", "--count", "0"], "must be 1 or more"),
    ("make_portraits", ["--output", "x", "--style", "cubist"], "expected one of photo"),
    ("train_pack", ["--stage", "encoder"], "expected one of clip, base"),
    ("train_pack", ["--stage", "e4e", "--work", "nowhere"], "needs generator"),
])  # fmt: skip
def test_wrong_arguments_end_with_two_and_say_what_was_expected(job: str, flags: list[str], words: str, command: Command) -> None:
    ended = command(f"jobs/{job}.py", flags)
    assert ended.code == 2 and words in ended.err


def test_make_portraits_prints_json_and_repeats_its_bytes(tmp_path: Path, command: Command) -> None:
    for name in ("a", "b"):
        ended = command("jobs/make_portraits.py", ["--output", str(tmp_path / name), "--count", "5", "--shard_size", "3"])
        assert ended.code == 0 and ended.result["shards"] == 2
    for file in ("portraits-00000.tar", "portraits-00001.tar"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
