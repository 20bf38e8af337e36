"""One batch of aligned samples through invert, edit, score and encode; a sample that fails does not take its neighbours along."""

from __future__ import annotations

import hashlib
import io
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Protocol

import numpy as np
import pyarrow as pa
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from models.inversion import Inversion
from pipeline.edit import edit
from pipeline.feed import Ready
from pipeline.frechet import Moments, ShardMoments
from pipeline.images import ImageHWC
from pipeline.invert import invert, to_pixels, to_tensor
from pipeline.manifest import INVERSION, SCHEMA, Cell, Edited, Row, edit_row, inversion_row, scores_of
from pipeline.methods import Methods
from pipeline.sample import FailedSample, SampleFailure
from pipeline.score import SourceFeatures
from pipeline.settings import Wish
from pipeline.stage_clock import StageClock, StageError, added

PNG_LEVEL = 4
MAX_REASON = 500


@dataclass(frozen=True, kw_only=True)
class Finished:
    """A sample as it goes to disk, into the tar of its shard in the folder `place`; without members it only counts, and has rows."""

    key: str
    members: dict[str, bytes]
    rows: tuple[Row, ...]
    place: str = "shards"
    samples: int = 1
    """Samples of the input that are done with it."""
    images: int | None = None
    """Pictures made; as many as rows where nobody says."""
    tally: Mapping[str, int] = field(default_factory=dict)
    """What else is counted."""


@dataclass(frozen=True, kw_only=True)
class BatchResult:
    """Samples in the order that they came, the moments of those that were edited, and the seconds of each stage."""

    samples: list[Finished | FailedSample] = field(default_factory=list)
    moments: ShardMoments | None = None
    seconds: Mapping[str, float] = field(default_factory=dict)

    def __add__(self, other: BatchResult) -> BatchResult:
        moments = self.moments.merge(other.moments) if self.moments and other.moments else self.moments or other.moments
        return BatchResult(samples=self.samples + other.samples, moments=moments, seconds=added(self.seconds, other.seconds))


class DeviceLostError(RuntimeError):
    """The GPU is in a state that only a new process can leave."""


class ShardWork(Protocol):
    """What is done with the batches of one shard."""

    schema: pa.Schema
    """Columns of the manifest."""
    edits: int | None
    """How often a batch is edited; None where that is seen on the way."""
    counts_samples: bool
    """Whether the samples of this shard count for the output; not where another shard of it has them already."""

    def window(self, batch: int) -> int:
        """Return how many samples `run` takes at a time, for networks that take `batch` pictures."""
        ...

    def run(self, batch: Sequence[Ready], methods: Methods) -> BatchResult:
        """Return what a batch became. Raises StageError; then, nothing has changed."""
        ...

    def done(self) -> None:
        """Take in what the last run came to."""
        ...


class EditShard:
    """Edit every batch by all instructions of a wish; without any, its inversions are what is written and scored."""

    schema = SCHEMA
    counts_samples = True
    edits: int | None

    def __init__(self, wish: Wish) -> None:
        self._wish, self.edits = wish, len(wish.instructions)

    def window(self, batch: int) -> int:
        """Return as many as the networks take."""
        return batch

    def run(self, batch: Sequence[Ready], methods: Methods) -> BatchResult:
        """Return the edited samples, in order. Raises StageError."""
        return _run(batch, methods, self._wish)

    def done(self) -> None:
        """Keep nothing: every batch is edited alike."""


def run_batch(batch: Sequence[Ready], *, methods: Methods, work: ShardWork) -> BatchResult:
    """Do the work of a shard on a batch.

    When it raises, every sample runs again alone and those that raise again fail with stage and reason. Out of memory, the batch is
    halved, and halved again, with a warning. Raises DeviceLostError when the GPU needs a new process.
    """
    try:
        result = work.run(batch, methods)
        work.done()
        return result
    except StageError as error:
        if _is_device_lost(error.cause):
            raise DeviceLostError(f"{error.stage}: {error.cause}") from error
        if len(batch) == 1:
            return BatchResult(samples=[batch[0].sample.failed(_failure(error))])
        parts = _halves(batch, error) if _is_out_of_memory(error.cause) else [[ready] for ready in batch]
    if methods.device != "cpu":
        torch.cuda.empty_cache()
    result = BatchResult()
    for part in parts:
        result = result + run_batch(part, methods=methods, work=work)
    return result


def _halves(batch: Sequence[Ready], error: StageError) -> list[Sequence[Ready]]:
    half = (len(batch) + 1) // 2
    shard = batch[0].sample.shard
    print(
        f"WARNING: shard {shard}, stage {error.stage}: out of memory with {len(batch)} pictures, trying {half}; "
        f"--batch_size {half} avoids the detour",
        file=sys.stderr,
        flush=True,
    )
    return [batch[:half], batch[half:]]


def _failure(error: StageError) -> SampleFailure:
    if isinstance(error.cause, SampleFailure):
        return error.cause
    return SampleFailure(error.stage, f"{type(error.cause).__name__}: {error.cause}"[:MAX_REASON])


def _is_out_of_memory(error: Exception) -> bool:
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "can't allocate memory" in str(error)


def _is_device_lost(error: Exception) -> bool:
    return isinstance(error, torch.AcceleratorError) and not _is_out_of_memory(error)


@torch.no_grad()
def _run(batch: Sequence[Ready], methods: Methods, wish: Wish) -> BatchResult:
    torch.manual_seed(wish.seed)
    generator, scorer, clock = methods.pack.generator(), methods.scorer, StageClock()
    with clock.at("invert"):
        aligned_BCHW = to_tensor([ready.aligned_HWC for ready in batch], device=methods.device)
        inversion = invert(methods.inverter, generator, aligned_BCHW)
        inverted = _finite_pixels(inversion.made_BCHW, "invert", "the inversion")
    with clock.at("score"):
        source = scorer.source(aligned_BCHW, to_tensor(inverted, device=methods.device))
        moments = _begun(source, wish)
    keep = wish.keep if wish.instructions else wish.keep | {INVERSION}
    with clock.at("encode"):
        members = [_kept(ready, inversion, row, inverted, keep) for row, ready in enumerate(batch)]
    if wish.instructions:
        edited = _edit_all(inversion, source, members, methods=methods, wish=wish, moments=moments, clock=clock)
        with clock.at("write"):
            samples = [_finish(*one, methods=methods, keep=keep) for one in zip(batch, members, edited, strict=True)]
    else:
        with clock.at("score"):
            scores = scorer.inversion(source, moments=_of(moments, INVERSION))
        with clock.at("write"):
            samples = [_finish_inversion(*one, methods=methods, keep=keep) for one in zip(batch, members, scores, strict=True)]
    return BatchResult(samples=list(samples), moments=moments, seconds=clock.seconds)


def _begun(source: SourceFeatures, wish: Wish) -> ShardMoments | None:
    """Return the moments of a batch with its source pictures in it; None where the pack has no network to embed them."""
    embedding_BE = source.aligned.embedding_BE
    if embedding_BE is None:
        return None
    moments = ShardMoments.empty(embedding_BE.shape[1], [instruction.name for instruction in wish.instructions] or [INVERSION])
    moments.source.update(embedding_BE)
    return moments


def _of(moments: ShardMoments | None, name: str) -> Moments | None:
    return None if moments is None else moments.edits[name]


def _edit_all(
    inversion: Inversion,
    source: SourceFeatures,
    members: Sequence[dict[str, bytes]],
    *,
    methods: Methods,
    wish: Wish,
    moments: ShardMoments | None,
    clock: StageClock,
) -> list[list[Edited]]:
    """Edit a batch by every instruction; put the pictures into `members` and return what was made of each sample."""
    assert methods.editor is not None
    edited: list[list[Edited]] = [[] for _ in members]
    for instruction in wish.instructions:
        with clock.at("edit"):
            image_BCHW = edit(methods.editor, methods.pack.generator(), inversion, instruction=instruction)
            pictures = _finite_pixels(image_BCHW, "edit", f"instruction '{instruction.name}'")
        with clock.at("score"):
            written_BCHW = to_tensor(pictures, device=methods.device)
            scores = methods.scorer.edit(source, written_BCHW, instruction, moments=_of(moments, instruction.name))
        with clock.at("encode"):
            for row, picture in enumerate(pictures):
                data = png(picture)
                members[row][f"{instruction.name}.png"] = data
                edited[row].append(Edited(instruction=instruction, image_sha256=hashlib.sha256(data).hexdigest(), scores=scores[row]))
    return edited


def _finite_pixels(image_BCHW: Tensor, stage: str, what: str) -> list[ImageHWC]:
    """Return pixels. Raises SampleFailure when any value is not a number: alone, a sample is judged by itself."""
    if not torch.isfinite(image_BCHW).all():
        raise SampleFailure(stage, f"{what} made a picture with values that are not finite numbers")
    return to_pixels(image_BCHW)


def _kept(ready: Ready, inversion: Inversion, row: int, inverted: Sequence[ImageHWC], keep: frozenset[str]) -> dict[str, bytes]:
    """Return the members of one sample that do not depend on an instruction."""
    members = {"aligned.png": png(ready.aligned_HWC)}
    if "inversion" in keep:
        members["inversion.png"] = png(inverted[row])
    if "latents" in keep:
        buffer = io.BytesIO()
        np.save(buffer, inversion.state.latents_BLD[row].float().cpu().numpy(), allow_pickle=False)
        members["latents.npy"] = buffer.getvalue()
    return members


def _finish(ready: Ready, members: dict[str, bytes], edited: Sequence[Edited], *, methods: Methods, keep: frozenset[str]) -> Finished:
    sample, names = ready.sample, methods.names
    members["edits.json"] = _record(ready, {"instructions": [_entry(one) for one in edited]}, methods)
    rows = tuple(edit_row(sample.key, sample.shard, sample.index, edited=one, method=names) for one in edited)
    return Finished(key=sample.key, members=beside(_passed_through(ready, keep), members), rows=rows)


def _finish_inversion(
    ready: Ready, members: dict[str, bytes], scores: Mapping[str, Cell], *, methods: Methods, keep: frozenset[str]
) -> Finished:
    digest = hashlib.sha256(members["inversion.png"]).hexdigest()
    members["edits.json"] = _record(ready, {"instructions": [], INVERSION: {"image_sha256": digest, "scores": dict(scores)}}, methods)
    row = inversion_row(ready.sample, image_sha256=digest, scores=scores, method=methods.names)
    return Finished(key=ready.sample.key, members=beside(_passed_through(ready, keep), members), rows=(row,))


def _record(ready: Ready, made: Mapping[str, object], methods: Methods) -> bytes:
    """Return edits.json: how the pictures of a sample were made."""
    sample = ready.sample
    record = {
        "key": sample.key,
        "shard": sample.shard,
        "index": sample.index,
        "pack": methods.pack.sha256,
        **asdict(methods.names),
        "features": dict(methods.scorer.features),
        **made,
    }
    return (json.dumps(record, ensure_ascii=False, indent=1, sort_keys=True) + "\n").encode()


def _passed_through(ready: Ready, keep: frozenset[str]) -> dict[str, bytes]:
    return ready.sample.members if "original" in keep else ready.sample.passed_through


def beside(passed: dict[str, bytes], written: dict[str, bytes]) -> dict[str, bytes]:
    """Join both; an input member whose name is taken (this input was an output once) gets `input.` in front."""
    joined = dict(written)
    for ext in sorted(passed):
        name = ext
        while name in joined or (name != ext and name in passed):
            name = f"input.{name}"
        joined[name] = passed[ext]
    return joined


def _entry(edited: Edited) -> dict[str, object]:
    instruction = edited.instruction
    return {
        "name": instruction.name,
        "source": instruction.source,
        "target": instruction.target,
        "strength": instruction.strength,
        **({"reference_sha256": instruction.reference_sha256} if instruction.reference else {}),
        "image_sha256": edited.image_sha256,
        "scores": scores_of(edited.scores),
    }


def png(picture: ImageHWC, text: PngInfo | None = None) -> bytes:
    """Return a picture as a PNG file, with metadata if there are any; equal pictures give equal bytes."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, format="PNG", compress_level=PNG_LEVEL, pnginfo=text)
    return buffer.getvalue()
