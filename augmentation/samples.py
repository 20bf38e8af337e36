"""Samples of an augmented dataset as they go to disk: originals, edits that passed the gates or did not, drawn pictures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass

from augmentation.captions import described, rewritten, untrue
from augmentation.edits import Edit
from augmentation.members import CAPTION_EXT, JSON_EXT, PICTURE_EXT, as_json, caption_ext, caption_of, png, was_made
from augmentation.recipe import Recipe
from augmentation.rows import DRAWN, EDIT, ORIGINAL, row_of
from augmentation.window import Made
from pipeline.batch import Finished, beside
from pipeline.feed import Ready
from pipeline.images import ImageHWC
from pipeline.manifest import Method, scores_of
from pipeline.methods import Methods
from pipeline.sample import Sample
from pipeline.score import EditScores

BETWEEN = "~"
"""Stands between the key of a source and the name of its edit."""
KEPT, AUDITED = "shards", "rejected"
"""Folders that samples go to."""


@dataclass(frozen=True, kw_only=True)
class Maker:
    """Make samples of one recipe by one set of networks."""

    recipe: Recipe
    methods: Methods

    @property
    def _method(self) -> Method:
        return self.methods.names

    def original(self, ready: Ready, labels: Mapping[str, bool], inverted: ImageHWC | None) -> Finished:
        """Return an original as the recipe has it: untouched, aligned, as the generator makes it again, or only its row."""
        sample, how = ready.sample, self.recipe.originals
        row = row_of(sample, kind=ORIGINAL, method=self._method, made="" if how == "none" else sample.key, labels=labels)
        if how == "none":
            return Finished(key=sample.key, members={}, rows=(row,), images=0)
        origin = self._origin(sample, ORIGINAL, synthetic=inverted is not None)
        origin["synthetic"] = origin["synthetic"] or was_made(sample)
        members = {JSON_EXT: as_json({**origin, "labels": dict(labels)})}
        if how == "untouched":
            passed = sample.members
        else:
            caption = caption_ext(sample)
            passed = {ext: data for ext, data in sample.passed_through.items() if ext != caption}
            members[PICTURE_EXT] = png(ready.aligned_HWC if inverted is None else inverted, origin)
            members[CAPTION_EXT] = described(labels).encode() if caption is None else sample.members[caption]
        return Finished(key=sample.key, members=beside(passed, members), rows=(row,), images=0, tally={"originals": 1})

    def edit(
        self, ready: Ready, made: Made, scores: EditScores, *, before: Mapping[str, bool], target: str, reason: str, shown: bool
    ) -> Finished:
        """Return an edit of a sample that had the labels `before`.

        One that is rejected for a `reason` goes to the folder of those, if it is to be `shown`, or is a row only.
        """
        sample, edit, factor = ready.sample, made.tried.edit, made.tried.factor
        one, key = edit.as_one(factor), f"{ready.sample.key}{BETWEEN}{edit.name}"
        also = {
            "instruction": edit.name, "source": one.source, "target": one.target, "strength": one.strength, "factor": factor,
            "target_group": target, **scores_of(scores),
        }  # fmt: skip
        written = key if shown or not reason else ""
        row = row_of(
            sample, kind=EDIT, method=self._method, made=written, reason=reason, labels=made.labels, measured=made.measured, also=also
        )
        tally = {"rejected" if reason else "accepted": 1}
        if reason and not shown:
            return Finished(key=key, members={}, rows=(row,), samples=0, images=0, tally=tally)
        origin = self._origin(sample, EDIT, synthetic=True) | _edited(edit, factor)
        content = {**origin, "labels": dict(made.labels), "scores": {**scores_of(scores), **asdict(made.measured)}}
        if target:
            content["target_group"] = target
        if reason:
            content["rejected"] = reason
        caption = rewritten(caption_of(sample), edit, untrue(self.recipe.words, before, made.labels, expects=edit.expects))
        members = {PICTURE_EXT: png(made.picture_HWC, origin), CAPTION_EXT: caption.encode(), JSON_EXT: as_json(content)}
        carried = {ext: sample.members[ext] for ext in self.recipe.carry if ext in sample.members}
        place = AUDITED if reason else KEPT
        return Finished(
            key=key, members=beside(carried, members), rows=(row,), place=place, samples=0, images=0 if reason else 1, tally=tally
        )

    def drawn(
        self, sample: Sample, picture: ImageHWC, labels: Mapping[str, bool], *, seed: int, far: float | None, reason: str
    ) -> Finished:
        """Return a drawn picture, or its row alone where it is rejected."""
        more = {"seed": seed, "realism": far}
        row = row_of(sample, kind=DRAWN, method=self._method, made="" if reason else sample.key, reason=reason, labels=labels, also=more)
        if reason:
            return Finished(key=sample.key, members={}, rows=(row,), images=0, tally={"drawn_rejected": 1})
        assert self.recipe.drawn is not None
        origin = self._origin(sample, DRAWN, synthetic=True) | {"seed": seed, "truncation": self.recipe.drawn.truncation}
        members = {
            PICTURE_EXT: png(picture, origin), CAPTION_EXT: described(labels).encode(),
            JSON_EXT: as_json({**origin, "labels": dict(labels), "scores": {"realism": far}}),
        }  # fmt: skip
        return Finished(key=sample.key, members=members, rows=(row,), tally={"drawn": 1})

    def _origin(self, sample: Sample, kind: str, *, synthetic: bool) -> dict[str, object]:
        """Return what the metadata of a picture say about where it comes from."""
        origin: dict[str, object] = {"kind": kind, "synthetic": synthetic, "pack": self.methods.pack.sha256}
        if kind != DRAWN:
            origin["source"] = {"key": sample.key, "shard": sample.shard, "index": sample.index}
        if synthetic and kind != DRAWN:
            origin |= asdict(self._method)
        return origin


def _edited(edit: Edit, factor: float) -> dict[str, object]:
    steps = [{"name": one.name, "source": one.source, "target": one.target, "strength": one.strength} for one in edit.at(factor)]
    return {"edit": {"name": edit.name, "factor": factor, "instructions": steps}}
