"""Several batches of samples that are inverted and looked at once, and of which any may then be edited by anything, again and again.

Tries of one edit at one strength share forward passes, wherever in the window their samples are. Shape legend: B pictures, C = 3, H/W
rows/columns, A attributes, E features.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

import torch
from torch import Tensor

from augmentation.edits import Edit
from augmentation.gates import Measured, certainty
from augmentation.realism import Realism, distances_of
from models.inversion import Inversion, joined
from pipeline.attributes import DECISION
from pipeline.edit import edit as edited_by
from pipeline.feed import Ready
from pipeline.images import ImageHWC
from pipeline.invert import invert, to_pixels, to_tensor
from pipeline.methods import Methods
from pipeline.sample import SampleFailure
from pipeline.score import EditScores, Glance
from pipeline.stage_clock import StageClock


@dataclass(frozen=True, kw_only=True)
class Try:
    """One edit of one sample of the window at one strength; `also` has to be seen beside what the edit expects."""

    row: int
    edit: Edit
    factor: float
    also: Mapping[str, bool]


@dataclass(frozen=True, kw_only=True, eq=False)
class Made:
    """The picture of a try, what the gates look at, and what the classifier sees in it."""

    tried: Try
    picture_HWC: ImageHWC
    measured: Measured
    labels: Mapping[str, bool]


class Window:
    """Samples of a shard, inverted. Raises StageError where a network fails on them."""

    def __init__(self, samples: Sequence[Ready], methods: Methods, *, realism: Realism | None, clock: StageClock) -> None:
        self.samples, self._methods, self._realism, self._clock = samples, methods, realism, clock
        self._batch = methods.running.pictures
        with clock.at("invert"):
            parts = [self._inverted(samples[i : i + self._batch]) for i in range(0, len(samples), self._batch)]
            self.inversion: Inversion = joined(parts)
            self.inverted = [_finite(picture, "invert", "the inversion") for picture in to_pixels_or_none(self.inversion.made_BCHW)]
        with clock.at("score"):
            sizes = [len(samples[i : i + self._batch]) for i in range(0, len(samples), self._batch)]
            seen = [methods.scorer.glance(self.inversion.aligned_BCHW[i : i + self._batch]) for i in range(0, len(samples), self._batch)]
            self._before = [row for part, size in zip(seen, sizes, strict=True) for row in _rows(part.probabilities_BA, size)]
            self._identity_NE = (
                None if seen[0].identity_BE is None else torch.cat([one.identity_BE for one in seen if one.identity_BE is not None])
            )

    def _inverted(self, samples: Sequence[Ready]) -> Inversion:
        aligned_BCHW = to_tensor([ready.aligned_HWC for ready in samples], device=self._methods.device)
        return invert(self._methods.inverter, self._methods.pack.generator(), aligned_BCHW)

    def make(self, tries: Sequence[Try]) -> list[Made]:
        """Return what became of each try, in order."""
        made: list[Made | None] = [None] * len(tries)
        for places in self._shared(tries):
            for place, one in zip(places, self._made([tries[place] for place in places]), strict=True):
                made[place] = one
        return [one for one in made if one is not None]

    def _shared(self, tries: Sequence[Try]) -> Iterator[list[int]]:
        """Yield places of tries that one forward pass can make."""

        def kind(place: int) -> tuple[str, float]:
            return tries[place].edit.name, tries[place].factor

        for _, group in groupby(sorted(range(len(tries)), key=kind), key=kind):
            places = list(group)
            yield from (places[i : i + self._batch] for i in range(0, len(places), self._batch))

    @torch.no_grad()
    def _made(self, tries: Sequence[Try]) -> list[Made]:
        edit, factor, rows = tries[0].edit, tries[0].factor, [one.row for one in tries]
        with self._clock.at("edit"):
            image_BCHW = self._drawn(edit, factor, self.inversion.take(rows))
            pictures = [_finite(picture, "edit", f"edit '{edit.name}'") for picture in to_pixels_or_none(image_BCHW)]
        with self._clock.at("score"):
            return self._measured(tries, pictures)

    def _drawn(self, edit: Edit, factor: float, inversion: Inversion) -> Tensor:
        """Return the pictures of an edit; of a combination, those of one edit's state after the other's."""
        editor, generator = self._methods.editor, self._methods.pack.generator()
        assert editor is not None
        instructions = edit.at(factor)
        if len(instructions) == 1:
            return edited_by(editor, generator, inversion, instruction=instructions[0])
        for instruction in instructions:
            inversion = inversion.changed_to(editor.edit(inversion, instruction))
        return generator(inversion.state)

    def _measured(self, tries: Sequence[Try], pictures: Sequence[ImageHWC]) -> list[Made]:
        scorer = self._methods.scorer
        written_BCHW = to_tensor(pictures, device=self._methods.device)
        seen = scorer.glance(written_BCHW)
        after = _rows(seen.probabilities_BA, len(tries))
        mirrored = _rows(None if scorer.attributes is None else scorer.attributes.probabilities(written_BCHW.flip(-1)), len(tries))
        identity = self._similarities([one.row for one in tries], seen.identity_BE)
        far = distances_of(self._realism, seen.embedding_BE, count=len(tries))
        made = []
        for one, picture, probabilities, turned, alike, distance in zip(tries, pictures, after, mirrored, identity, far, strict=True):
            expects = {**one.edit.expects, **one.also}
            named = self._named(probabilities)
            measured = Measured(
                certainty=certainty([named, self._named(turned)], expects) if named else None, identity=alike, realism=distance,
                collateral=self._flips(self._before[one.row], probabilities, expects),
            )  # fmt: skip
            made.append(Made(tried=one, picture_HWC=picture, measured=measured, labels=decided(named)))
        return made

    def _similarities(self, rows: Sequence[int], identity_BE: Tensor | None) -> list[float | None]:
        if identity_BE is None or self._identity_NE is None:
            return [None] * len(rows)
        return [*(self._identity_NE[list(rows)] * identity_BE).sum(dim=-1).double().cpu().tolist()]

    def _flips(self, before: Sequence[float] | None, after: Sequence[float] | None, expects: Mapping[str, bool]) -> int | None:
        judge = self._methods.scorer.judge
        if judge is None or before is None or after is None:
            return None
        return len(judge.verdict(before, after, expects).flips)

    def _named(self, probabilities: Sequence[float] | None) -> dict[str, float]:
        attributes = self._methods.scorer.attributes
        return {} if attributes is None or probabilities is None else dict(zip(attributes.names, probabilities, strict=True))

    def labels(self, row: int) -> Mapping[str, bool]:
        """Return what the attribute classifier sees of a sample before any edit; nothing where the pack has none."""
        return decided(self._named(self._before[row]))

    def scores(self, made: Sequence[Made]) -> list[EditScores]:
        """Return all scores of pictures that were made, in order."""
        found: dict[int, EditScores] = {}
        for names in sorted({one.tried.edit.name for one in made}):
            places = [place for place, one in enumerate(made) if one.tried.edit.name == names]
            for i in range(0, len(places), self._batch):
                found |= dict(zip(places[i : i + self._batch], self._scored([made[p] for p in places[i : i + self._batch]]), strict=True))
        return [found[place] for place in range(len(made))]

    def _scored(self, made: Sequence[Made]) -> list[EditScores]:
        scorer, rows = self._methods.scorer, [one.tried.row for one in made]
        with self._clock.at("score"):
            inverted_BCHW = to_tensor([self.inverted[row] for row in rows], device=self._methods.device)
            source = scorer.source(self.inversion.aligned_BCHW[rows], inverted_BCHW)
            written_BCHW = to_tensor([one.picture_HWC for one in made], device=self._methods.device)
            return scorer.edit(source, written_BCHW, made[0].tried.edit.as_one())


def decided(probabilities: Mapping[str, float]) -> dict[str, bool]:
    """Return which attributes hold, by their probabilities."""
    return {name: value > DECISION for name, value in probabilities.items()}


def labels_of(methods: Methods, seen: Glance, count: int) -> list[dict[str, bool]]:
    """Return what the attribute classifier sees of each of `count` pictures."""
    names = methods.scorer.attributes.names if methods.scorer.attributes else ()
    return [decided(dict(zip(names, row or (), strict=True))) for row in _rows(seen.probabilities_BA, count)]


def _rows(values_BA: Tensor | None, count: int) -> list[list[float] | None]:
    return [None] * count if values_BA is None else [*values_BA.double().cpu().tolist()]


def to_pixels_or_none(image_BCHW: Tensor) -> list[ImageHWC | None]:
    """Return uint8 pictures, None for those with values that are not finite."""
    good = torch.isfinite(image_BCHW).flatten(1).all(1).tolist()
    pictures = to_pixels(image_BCHW.nan_to_num())
    return [picture if fine else None for picture, fine in zip(pictures, good, strict=True)]


def _finite(picture: ImageHWC | None, stage: str, what: str) -> ImageHWC:
    if picture is None:
        raise SampleFailure(stage, f"{what} made a picture with values that are not finite numbers")
    return picture
