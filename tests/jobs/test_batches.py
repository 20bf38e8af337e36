"""One shard through feed, batches and files, in this process: failures stay alone, and bytes do not depend on how the work was cut."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from torch import Tensor

from models.instruction import Instruction
from models.inverters import Inverter
from models.pack import Pack
from models.state import GeneratorState
from pipeline import worker
from pipeline.align import Aligner
from pipeline.batch import EditShard, Finished, run_batch
from pipeline.feed import Opened, Ready, read_shard
from pipeline.ledger import Attempt, read_record
from pipeline.methods import Methods, load_methods
from pipeline.progress import Counts
from pipeline.resume import Output
from pipeline.sample import FailedSample
from pipeline.settings import Running, ShardResult, ShardTask, Wish, WorkerSettings
from pipeline.storage import Storage
from pipeline.worker import edit_shard, prepare
from tests.jobs.world import World, make_world, members

SMILE = Instruction(name="smile", source="a face", target="a smiling face", strength=1.2)
WISH = Wish(instructions=(SMILE,), keep=frozenset({"inversion", "latents"}))


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Return one shard of six samples and a pack."""
    return make_world(tmp_path_factory.mktemp("small"), shards=1, per_shard=6)


@pytest.fixture(scope="module")
def methods(small: World) -> Methods:
    return load_methods(Pack.load(small.pack), inverter="e4e", editor="hypereditor", device="cpu")


@pytest.fixture(scope="module")
def aligner(small: World) -> Aligner:
    pack = Pack.load(small.pack)
    return Aligner(pack.landmarks(), size=pack.size)


@pytest.fixture(scope="module")
def ready(small: World, aligner: Aligner) -> list[Ready]:
    """Return the good samples of the shard, aligned."""
    return [entry for entry in entries(small, aligner) if isinstance(entry, Ready)]


def entries(small: World, aligner: Aligner, **task: object) -> list[Ready | FailedSample]:
    opened, *chunks = read_shard(shard_task(small, **task), aligner)
    assert isinstance(opened, Opened)
    return [entry for chunk in chunks if isinstance(chunk, list) for entry in chunk]


def shard_task(small: World, **more: object) -> ShardTask:
    return replace(ShardTask(url=str(small.raw / "part-0.tar"), name="part-0"), **more)  # type: ignore[arg-type]


class Picky:
    """An inverter that cannot do dark pictures: it raises, or makes latents that are no numbers; and one that lacks memory."""

    def __init__(self, inner: Inverter, *, nan: bool = False, most: int = 99) -> None:
        self.name, self._inner, self._nan, self._most = inner.name, inner, nan, most
        self.sizes: list[int] = []

    def invert(self, images_BCHW: Tensor) -> GeneratorState:
        self.sizes.append(len(images_BCHW))
        if len(images_BCHW) > self._most:
            raise torch.OutOfMemoryError("out of memory")
        state = self._inner.invert(images_BCHW)
        dark_B = images_BCHW.flatten(1).amax(1) < -0.99
        if dark_B.any() and not self._nan:
            raise ValueError("too dark for me")
        return replace(state, latents_BLD=torch.where(dark_B[:, None, None], torch.nan, state.latents_BLD))


def dark(like: Ready) -> Ready:
    sample = replace(like.sample, key="dark", index=77)
    return Ready(sample=sample, aligned_HWC=np.zeros_like(like.aligned_HWC))


def outcome(samples: Sequence[Finished | FailedSample]) -> dict[str, dict[str, bytes] | tuple[str, str]]:
    return {one.key: one.members if isinstance(one, Finished) else (one.stage, one.reason) for one in samples}


@pytest.mark.parametrize(("nan", "expected"), [(False, ("invert", "ValueError: too dark for me")), (True, ("invert", "not finite"))])
def test_a_sample_that_fails_leaves_its_neighbours_alone(
    ready: list[Ready], methods: Methods, nan: bool, expected: tuple[str, str]
) -> None:
    picky = replace(methods, inverter=Picky(methods.inverter, nan=nan))
    mixed = run_batch([ready[0], dark(ready[0]), *ready[1:3]], methods=picky, work=EditShard(WISH))
    alone = [run_batch([one], methods=methods, work=EditShard(WISH)) for one in ready[:3]]
    found = outcome(mixed.samples)
    assert list(found) == [ready[0].sample.key, "dark", ready[1].sample.key, ready[2].sample.key]
    stage, reason = found.pop("dark")
    assert stage == expected[0] and expected[1] in reason
    assert found == {key: value for one in alone for key, value in outcome(one.samples).items()}
    assert mixed.moments is not None and mixed.moments.source.count == 3 and mixed.moments.edits["smile"].count == 3


def test_a_failed_sample_keeps_its_original_bytes(ready: list[Ready], methods: Methods) -> None:
    picky = replace(methods, inverter=Picky(methods.inverter))
    (failed,) = run_batch([dark(ready[0])], methods=picky, work=EditShard(WISH)).samples
    assert isinstance(failed, FailedSample)
    assert dict(failed.members) == {f"dark.{ext}": data for ext, data in ready[0].sample.members.items()}


def test_a_batch_that_does_not_fit_is_halved_and_says_so(ready: list[Ready], methods: Methods, capsys: pytest.CaptureFixture[str]) -> None:
    tight = Picky(methods.inverter, most=2)
    result = run_batch(ready, methods=replace(methods, inverter=tight), work=EditShard(WISH))
    assert tight.sizes == [5, 3, 2, 1, 2] and all(isinstance(one, Finished) for one in result.samples)
    assert [one.key for one in result.samples] == [one.sample.key for one in ready]
    said = capsys.readouterr().err
    assert "out of memory with 5 pictures, trying 3" in said and "--batch_size 3" in said


def test_one_picture_that_does_not_fit_is_quarantined(ready: list[Ready], methods: Methods) -> None:
    (failed,) = run_batch(ready[:1], methods=replace(methods, inverter=Picky(methods.inverter, most=0)), work=EditShard(WISH)).samples
    assert isinstance(failed, FailedSample) and failed.stage == "invert" and "OutOfMemoryError" in failed.reason


def test_without_instructions_the_same_faces_and_latents_are_written_and_no_editor_is_needed(
    ready: list[Ready], methods: Methods, small: World
) -> None:
    plain = load_methods(Pack.load(small.pack), inverter="e4e", editor=None, device="cpu")
    result = run_batch(ready, methods=plain, work=EditShard(Wish(instructions=(), keep=frozenset({"latents"}))))
    for one, edited in zip(result.samples, run_batch(ready, methods=methods, work=EditShard(WISH)).samples, strict=True):
        assert isinstance(one, Finished) and isinstance(edited, Finished)
        assert set(edited.members) - set(one.members) == {"smile.png"} and set(one.members) <= set(edited.members)
        assert all(edited.members[ext] == data for ext, data in one.members.items() if ext != "edits.json")
    assert (
        result.moments is not None and result.moments.edits["inversion"].count == len(ready) and set(result.moments.edits) == {"inversion"}
    )


INVERTERS: dict[str, dict[str, object]] = {
    "w_encoder": {}, "psp": {}, "restyle_e4e": {"iterations": 2}, "hyperstyle": {"iterations": 2}, "w_projection": {"steps": 4},
    "wplus_projection": {"steps": 4}, "pti": {"pivot_steps": 4, "steps": 2}, "gani": {"steps": 2},
}  # fmt: skip


@pytest.mark.parametrize("inverter", INVERTERS)
def test_every_inverter_runs_in_the_pipeline_and_the_same_batch_gives_the_same_bytes(
    ready: list[Ready], methods: Methods, inverter: str
) -> None:
    chosen = replace(methods, inverter=methods.pack.inverter(inverter, INVERTERS[inverter]))
    first, again = (run_batch(ready[:2], methods=chosen, work=EditShard(WISH)).samples for _ in range(2))
    for one, other in zip(first, again, strict=True):
        assert isinstance(one, Finished) and isinstance(other, Finished)
        assert one.members == other.members and one.rows == other.rows


EDITORS: dict[str, dict[str, object]] = {
    "styleclip_optimisation": {"steps": 2}, "tedigan": {"steps": 2}, "interfacegan": {"labelled": 60}, "sefa": {},
}  # fmt: skip


@pytest.mark.parametrize("editor", EDITORS)
def test_every_editor_runs_in_the_pipeline_and_the_same_batch_gives_the_same_bytes(
    ready: list[Ready], methods: Methods, editor: str
) -> None:
    chosen = replace(methods, editor=methods.pack.editor(editor, EDITORS[editor]))
    wish = replace(WISH, instructions=(replace(SMILE, expects={"smile": True}),))
    first, again, plain = (run_batch(ready[:2], methods=used, work=EditShard(wish)).samples for used in (chosen, chosen, methods))
    for one, other, usual in zip(first, again, plain, strict=True):
        assert isinstance(one, Finished) and isinstance(other, Finished) and isinstance(usual, Finished)
        assert one.members == other.members and one.rows == other.rows
        assert one.members["aligned.png"] == usual.members["aligned.png"] and one.members["smile.png"] != usual.members["smile.png"]


def test_scores_are_those_of_the_pictures_as_written(ready: list[Ready], methods: Methods) -> None:
    (one,) = run_batch(ready[:1], methods=methods, work=EditShard(WISH)).samples
    assert isinstance(one, Finished)
    pictures = {ext: torch.from_numpy(np.array(Image.open(io.BytesIO(data)))) for ext, data in one.members.items() if ext.endswith("png")}
    error = ((pictures["smile.png"].double() - pictures["aligned.png"].double()) / 255).square().mean()
    assert one.rows[0]["psnr"] == pytest.approx(float(-10 * error.log10()), rel=1e-4)
    latents = np.load(io.BytesIO(one.members["latents.npy"]))
    assert latents.shape == (10, 16) and latents.dtype == np.float32


def test_members_of_an_earlier_output_are_kept_beside_the_new_ones(ready: list[Ready], methods: Methods) -> None:
    first = ready[0]
    again = replace(first.sample, members={**first.sample.members, "smile.png": b"old", "edits.json": b"{}", "input.edits.json": b"older"})
    (one,) = run_batch([Ready(sample=again, aligned_HWC=first.aligned_HWC)], methods=methods, work=EditShard(WISH)).samples
    assert isinstance(one, Finished)
    assert one.members["input.smile.png"] == b"old" and one.members["smile.png"].startswith(b"\x89PNG")
    assert one.members["input.edits.json"] == b"older" and one.members["input.input.edits.json"] == b"{}"


def test_the_feed_keeps_the_order_and_marks_what_kills(small: World, aligner: Aligner) -> None:
    whole = entries(small, aligner)
    assert [index_of(entry) for entry in whole] == [0, 1, 2, 3, 4, 5] and isinstance(whole[5], FailedSample)
    careful = entries(small, aligner, one_by_one=True, killers=frozenset({2}))
    assert [index_of(entry) for entry in careful] == [0, 1, 2, 3, 4, 5]
    assert isinstance(careful[2], FailedSample) and careful[2].stage == "worker"
    assert len(entries(small, aligner, first=2)) == 2


def index_of(entry: Ready | FailedSample) -> int:
    return entry.index if isinstance(entry, FailedSample) else entry.sample.index


def test_a_shard_that_is_not_there_is_named(small: World, aligner: Aligner) -> None:
    (opened,) = read_shard(shard_task(small, url=str(small.raw / "gone.tar")), aligner)
    assert isinstance(opened, Opened) and opened.damage is not None and "cannot be opened" in opened.damage.reason


def settings(small: World, out: Path, run_id: str, *, batch_size: int) -> WorkerSettings:
    return WorkerSettings(
        pack=str(small.pack), inverter="e4e", inverter_settings={}, editor="hypereditor", editor_settings={}, device="cpu", threads=1,
        part=1.0, running=Running(batch_size=batch_size),
        allow_lpips_download=False, wish=WISH, output=str(out), run_id=run_id, config_hash="c", pack_hash=Pack.load(small.pack).sha256,
    )  # fmt: skip


def edit(small: World, aligner: Aligner, out: Path, *, chunk: int = 99) -> ShardResult:
    """Edit the one shard as a worker does, in chunks of at most this size."""
    opened, *chunks = read_shard(shard_task(small), aligner)
    whole = [entry for part in chunks if isinstance(part, list) for entry in part]
    source = [opened, *(whole[start : start + chunk] for start in range(0, len(whole), chunk))]
    with Output(str(out)) as output:
        chosen = settings(small, out, output.run_id, batch_size=2)
        with Attempt(str(out), "part-0", run_id=output.run_id) as attempt:
            return edit_shard(source, attempt, methods=prepare(chosen), settings=chosen, report=lambda opened, counts: None)


def test_a_shard_has_the_same_bytes_however_it_arrives(small: World, aligner: Aligner, tmp_path: Path) -> None:
    first, second = (edit(small, aligner, tmp_path / name, chunk=chunk) for name, chunk in (("a", 99), ("b", 1)))
    assert first.committed and second.committed and first.counts == second.counts and first.counts.images == 5
    records = [read_record(Storage(str(tmp_path / name)), "part-0") for name in ("a", "b")]
    assert records[0] is not None and records[0] == records[1]
    assert set(records[0].files) == {"shards/part-0.tar", "manifests/part-0.parquet", "moments/part-0.npz", "quarantine/part-0.tar"}


def test_an_inverter_that_optimises_tells_how_far_its_batch_is(
    small: World, aligner: Aligner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "STEPS_INTERVAL_S", 0.0)
    told: list[Counts] = []
    with Output(str(tmp_path)) as output, Attempt(str(tmp_path), "part-0", run_id=output.run_id) as attempt:
        chosen = replace(settings(small, tmp_path, output.run_id, batch_size=3), inverter="w_projection", inverter_settings={"steps": 3})
        methods = prepare(chosen)
        edit_shard(
            read_shard(shard_task(small), aligner), attempt, methods=methods, settings=chosen, report=lambda _, counts: told.append(counts)
        )
    assert list(dict.fromkeys((counts.samples, counts.begun) for counts in told))[:5] == [(0, 0), (0, 1), (0, 2), (0, 3), (3, 0)]
    assert told[-1].samples == 6 and told[-1].begun == 0
    assert methods.inverter.on_step is None  # type: ignore[attr-defined]


def test_so_does_an_editor_that_optimises_over_all_instructions(
    small: World, aligner: Aligner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "STEPS_INTERVAL_S", 0.0)
    told: list[Counts] = []
    with Output(str(tmp_path)) as output, Attempt(str(tmp_path), "part-0", run_id=output.run_id) as attempt:
        plain = settings(small, tmp_path, output.run_id, batch_size=3)
        again = replace(plain.wish.instructions[0], name="again")
        chosen = replace(
            plain, inverter="e4e", editor="styleclip_optimisation", editor_settings={"steps": 2},
            wish=replace(plain.wish, instructions=(*plain.wish.instructions, again)),
        )  # fmt: skip
        methods = prepare(chosen)
        edit_shard(
            read_shard(shard_task(small), aligner), attempt, methods=methods, settings=chosen, report=lambda _, counts: told.append(counts)
        )
    first = [counts.begun for counts in told[: next(i for i, counts in enumerate(told) if counts.samples)]]
    n = len(chosen.wish.instructions)
    assert first == sorted(first) and first[0] == 0 and first[-1] == 3 and {round(value * n / 3) for value in first} == set(range(n + 1))
    assert methods.editor.on_step is None  # type: ignore[union-attr]


def test_a_shard_that_is_committed_is_not_edited_again(small: World, aligner: Aligner, tmp_path: Path) -> None:
    edit(small, aligner, tmp_path)
    before = (tmp_path / "shards" / "part-0.tar").stat().st_mtime_ns
    again = edit(small, aligner, tmp_path)
    assert not again.committed and again.counts.images == 5 and again.counts.failed == 1
    assert (tmp_path / "shards" / "part-0.tar").stat().st_mtime_ns == before


def test_a_sample_that_killed_three_processes_is_quarantined_alone(small: World, aligner: Aligner, tmp_path: Path) -> None:
    """Leave the marks of processes that died over sample 3, as kills leave them, and do the shard again."""
    for batch in ([2, 3], [2, 3], [3], [3]):
        with Output(str(tmp_path)) as output:
            attempt = Attempt(str(tmp_path), "part-0", run_id=output.run_id).__enter__()
            attempt.mark(batch, alone=len(batch) == 1)
    with Output(str(tmp_path)) as output, Attempt(str(tmp_path), "part-0", run_id=output.run_id) as attempt:
        chosen = settings(small, tmp_path, output.run_id, batch_size=4)
        source = read_shard(shard_task(small, killers=attempt.killers, one_by_one=True), aligner)
        edit_shard(source, attempt, methods=prepare(chosen), settings=chosen, report=lambda opened, counts: None)
    failed = {row["index"]: row["stage"] for row in pq.read_table(tmp_path / "manifests" / "part-0.parquet").to_pylist() if row["stage"]}
    assert failed == {3: "worker", 5: "decode"}
    kept = members(tmp_path / "quarantine" / "part-0.tar")
    assert json.loads(kept["0003.quarantine.json"])["stage"] == "worker" and kept["0003.txt"] == b"a face"


def test_a_result_survives_its_journey() -> None:
    counts = Counts(samples=3, images=2, failed=1)
    result = ShardResult(shard="a", committed=True, counts=counts, damage="é", notes=("n",), features={"lpips": "x"}, seconds=1.5)
    assert ShardResult.from_json(result.to_json()) == result
