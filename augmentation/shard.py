"""The work of one shard: which edits its samples get, at which strength, and which of them are kept.

What is chosen depends on the recipe, the shard's name and the keys of its samples alone, not on who works when.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch

from augmentation.choice import chance, weighted_order
from augmentation.drawn import draw
from augmentation.edits import Edit, Gates
from augmentation.gates import Measured, failing
from augmentation.members import labels_in
from augmentation.realism import Realism, distances_of
from augmentation.recipe import CLASSIFIER
from augmentation.rows import AUGMENTED, UNLABELLED
from augmentation.samples import Maker
from augmentation.trial import Verdict, Want, try_edits
from augmentation.window import Window, labels_of, to_pixels_or_none
from augmentation.wish import REALISM_FILE, AugmentWish, name_of, read_plan
from pipeline.batch import BatchResult, Finished
from pipeline.drawn_shards import SEED_EXT
from pipeline.feed import Ready
from pipeline.images import ImageHWC
from pipeline.invert import to_tensor
from pipeline.methods import Methods
from pipeline.sample import FailedSample, SampleFailure
from pipeline.stage_clock import StageClock
from pipeline.storage import Storage

BATCHES = 4
"""Batches of a window: more samples of one edit and strength at a time, for the memory of their states."""


class AugmentShard:
    """Augment one shard, batch by batch, in its order. `run` changes nothing: `done` takes in what the last run came to."""

    schema = AUGMENTED
    edits: int | None = None

    def __init__(self, wish: AugmentWish, shard: str, storage: Storage) -> None:
        self._wish, self._recipe = wish, wish.recipe
        self._plan = read_plan(storage, shard) if wish.phase == "edits" else None
        self._left = [cell.quota for cell in self._plan.cells] if self._plan else []
        self._asked: dict[int, list[tuple[int, str]]] = {}
        for number, cell in enumerate(self._plan.cells if self._plan else ()):
            for index, edit in cell.tries:
                self._asked.setdefault(index, []).append((number, edit))
        self._shown: Counter[str] = Counter()
        asked = self._recipe.asks_realism and storage.exists(REALISM_FILE)
        self._statistics = Realism.from_npz(storage.read(REALISM_FILE)) if asked else None
        self._realism: Realism | None = None
        self._next = (self._left, self._shown)
        self.counts_samples = wish.phase != "edits"

    def window(self, batch: int) -> int:
        """Return how many samples `run` takes at a time, for networks that take `batch`."""
        return batch if self._wish.phase == "originals" else batch * BATCHES

    def done(self) -> None:
        """Go on from the last run."""
        self._left, self._shown = self._next

    @torch.no_grad()
    def run(self, batch: Sequence[Ready], methods: Methods) -> BatchResult:
        """Return the samples that a batch became, in order. Raises StageError."""
        self._next = (list(self._left), Counter(self._shown))
        torch.manual_seed(self._wish.seed)
        networks = name_of(methods.pack.sha256, methods.running.precision)
        self._realism = self._statistics if self._statistics and self._statistics.networks == networks else None
        clock, maker = StageClock(), Maker(recipe=self._recipe, methods=methods)
        if SEED_EXT in batch[0].sample.members and not batch[0].sample.image_ext:
            samples = self._drawn(batch, maker, clock)
        elif self._wish.phase == "originals":
            samples = self._originals(batch, maker, clock)
        elif self._wish.phase == "edits":
            samples = self._planned(batch, maker, clock)
        else:
            samples = self._samples(batch, maker, clock)
        return BatchResult(samples=samples, seconds=clock.seconds)

    def _drawn(self, batch: Sequence[Ready], maker: Maker, clock: StageClock) -> list[Finished | FailedSample]:
        size = maker.methods.running.pictures
        return [one for i in range(0, len(batch), size) for one in self._drawn_at_once(batch[i : i + size], maker, clock)]

    def _drawn_at_once(self, batch: Sequence[Ready], maker: Maker, clock: StageClock) -> list[Finished | FailedSample]:
        methods, drawn = maker.methods, self._recipe.drawn
        assert drawn is not None
        gates = Gates(success=None, identity=None, collateral=None, realism=drawn.realism)
        seeds = [int(ready.sample.members[SEED_EXT]) for ready in batch]
        with clock.at("edit"):
            pictures = to_pixels_or_none(draw(methods.pack.generator(), seeds, truncation=drawn.truncation, device=methods.device))
        with clock.at("score"):
            zeros = np.zeros((methods.pack.size, methods.pack.size, 3), dtype=np.uint8)
            seen = methods.scorer.glance(to_tensor([zeros if one is None else one for one in pictures], device=methods.device))
            labels = labels_of(methods, seen, len(batch))
            far = distances_of(self._realism, seen.embedding_BE, count=len(batch))
        finished: list[Finished | FailedSample] = []
        with clock.at("encode"):
            for ready, seed, picture, shown, distance in zip(batch, seeds, pictures, labels, far, strict=True):
                if picture is None:
                    finished.append(ready.sample.failed(SampleFailure("edit", "the generator made values that are not finite numbers")))
                    continue
                measured = Measured(certainty=None, identity=None, collateral=None, realism=distance)
                reason = failing(gates, measured, same_person=None) or ""
                finished.append(maker.drawn(ready.sample, picture, shown, seed=seed, far=distance, reason=reason))
        return finished

    def _originals(self, batch: Sequence[Ready], maker: Maker, clock: StageClock) -> list[Finished | FailedSample]:
        methods = maker.methods
        if self._recipe.originals == "inverted":
            window = Window(batch, methods, realism=None, clock=clock)
            return [self._original(window, row, maker=maker, clock=clock) for row in range(len(batch))]
        with clock.at("score"):
            seen = methods.scorer.glance(to_tensor([ready.aligned_HWC for ready in batch], device=methods.device))
            labels = labels_of(methods, seen, len(batch))
        with clock.at("encode"):
            return [self._made_original(ready, shown, None, maker=maker) for ready, shown in zip(batch, labels, strict=True)]

    def _original(self, window: Window, row: int, *, maker: Maker, clock: StageClock) -> Finished:
        with clock.at("encode"):
            inverted = window.inverted[row] if self._recipe.originals == "inverted" else None
            return self._made_original(window.samples[row], window.labels(row), inverted, maker=maker)

    def _made_original(self, ready: Ready, seen: Mapping[str, bool], inverted: ImageHWC | None, *, maker: Maker) -> Finished:
        """Return an original; one without the labels that the recipe counts on is counted."""
        made = maker.original(ready, self._labels(ready, seen), inverted)
        return made if self._brought(ready, seen) is not None else replace(made, tally={**made.tally, UNLABELLED: 1})

    def _brought(self, ready: Ready, seen: Mapping[str, bool]) -> dict[str, bool] | None:
        """Return the labels that the input brings, where the recipe says so; None where it brings none."""
        return {} if self._recipe.labels == CLASSIFIER else labels_in(ready.sample, self._recipe.labels, known=seen)

    def _labels(self, ready: Ready, seen: Mapping[str, bool]) -> dict[str, bool]:
        """Return the labels of an original: the classifier's, under those that the input brings."""
        return {**seen, **(self._brought(ready, seen) or {})}

    def _samples(self, batch: Sequence[Ready], maker: Maker, clock: StageClock) -> list[Finished | FailedSample]:
        """Give every sample its number of accepted edits, in rounds: who lacks one tries the next of its order."""
        window = Window(batch, maker.methods, realism=self._realism, clock=clock)
        with clock.at("score"):
            orders = [self._order(ready, self._labels(ready, window.labels(row))) for row, ready in enumerate(batch)]
        verdicts: list[list[Verdict]] = [[] for _ in batch]
        for attempt in range(self._recipe.attempts):
            lacking = [row for row, found in enumerate(verdicts) if sum(not one.reason for one in found) < self._recipe.per_sample]
            wants = [Want(row=row, edit=orders[row][attempt], also={}) for row in lacking if attempt < len(orders[row])]
            for verdict in self._tried(window, wants, maker.methods):
                verdicts[verdict.want.row].append(verdict)
        finished: list[Finished | FailedSample] = []
        for row in range(len(batch)):
            finished.append(self._original(window, row, maker=maker, clock=clock))
            finished += self._finished(window, verdicts[row], maker=maker, clock=clock)
        return finished

    def _planned(self, batch: Sequence[Ready], maker: Maker, clock: StageClock) -> list[Finished | FailedSample]:
        """Try what the plan asks of these samples, for each cell in order and no more than it still lacks."""
        left, _ = self._next
        asked = [[(cell, edit) for cell, edit in self._asked.get(ready.sample.index, ()) if left[cell]] for ready in batch]
        needed = [(ready, wanted) for ready, wanted in zip(batch, asked, strict=True) if wanted]
        finished: list[Finished | FailedSample] = []
        if needed:
            window = Window([ready for ready, _ in needed], maker.methods, realism=self._realism, clock=clock)
            verdicts = self._filled([wanted for _, wanted in needed], window, maker.methods)
            finished += self._finished(window, sorted(verdicts, key=lambda one: (one.want.row, one.want.cell)), maker=maker, clock=clock)
        return [*finished, *(Finished(key=ready.sample.key, members={}, rows=(), images=0) for ready in batch)]

    def _filled(self, asked: Sequence[Sequence[tuple[int, str]]], window: Window, methods: Methods) -> list[Verdict]:
        """Try cell by cell what is asked of the samples of a window, as long as the cell lacks something; count what was kept."""
        assert self._plan is not None
        left, _ = self._next
        queues: list[list[Want]] = [[] for _ in left]
        for row, wanted in enumerate(asked):
            for cell, edit in wanted:
                queues[cell].append(Want(row=row, edit=self._recipe.edit(edit), cell=cell, also=self._plan.cells[cell].also))
        verdicts: list[Verdict] = []
        while wants := [want for cell, queue in enumerate(queues) for want in queue[: left[cell]]]:
            queues = [queue[left[cell] :] for cell, queue in enumerate(queues)]
            found = self._tried(window, wants, methods)
            for verdict in found:
                left[verdict.want.cell] -= not verdict.reason
            verdicts += found
        return verdicts

    def _finished(self, window: Window, verdicts: Sequence[Verdict], *, maker: Maker, clock: StageClock) -> list[Finished]:
        _, shown = self._next
        scores = window.scores([verdict.made for verdict in verdicts])
        finished = []
        with clock.at("encode"):
            for verdict, score in zip(verdicts, scores, strict=True):
                name = verdict.want.edit.name
                show = bool(verdict.reason) and shown[name] < self._recipe.keep_rejected
                shown[name] += show
                target = self._plan.cells[verdict.want.cell].target if self._plan else ""
                ready = window.samples[verdict.want.row]
                before = window.labels(verdict.want.row)
                one = maker.edit(ready, verdict.made, score, before=before, target=target, reason=verdict.reason, shown=show)
                finished.append(one)
        return finished

    def _tried(self, window: Window, wants: Sequence[Want], methods: Methods) -> list[Verdict]:
        """Make the edits that are wanted and ask the gates."""

        def factor(want: Want) -> float:
            return want.edit.strength.drawn(self._chance(window.samples[want.row], want.edit, "strength"))

        return try_edits(window, wants, factor_of=factor, same_person=methods.scorer.same_person_threshold)

    def _order(self, ready: Ready, labels: Mapping[str, bool]) -> list[Edit]:
        """Return the edits of a sample in a random order, heavier ones earlier, without those that it shows already."""
        return weighted_order(self._recipe.edits, labels, lambda edit: self._chance(ready, edit, "order"))

    def _chance(self, ready: Ready, edit: Edit, what: str) -> float:
        return chance(self._recipe.seed, ready.sample.shard, ready.sample.key, edit.name, what)
