"""Which samples the report shows, and their pictures."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image

from pipeline.report_data import InstructionNumbers, Run, SampleRef
from pipeline.report_pictures import Pictures, read_originals, read_pictures
from pipeline.storage import Storage
from pipeline.tar_index import printable

OVERVIEW_PEOPLE, OVERVIEW_PICTURES = 8, 200
MAX_FAILED = 48


class Gallery:
    """Choose samples by the hash of their keys, so that nobody picks the good ones, and hold their small pictures.

    The overview and the sections show different samples as long as there are enough.
    """

    def __init__(self, run: Run, instructions: Sequence[InstructionNumbers]) -> None:
        self.names = [numbers.name for numbers in instructions]
        people, self.ends = _per_section(len(instructions))
        height = max(2, min(OVERVIEW_PEOPLE, OVERVIEW_PICTURES // (len(instructions) + 1)))
        self.overview = run.chosen[:height]
        self.people = (run.chosen[height:] + self.overview)[:people]
        self._failed = [ref for reason in run.reasons.values() for ref in reason.examples][:MAX_FAILED]
        self._originals: dict[SampleRef, Image.Image] = {}
        self._wanted: dict[str, set[str]] = {}
        self._pictures: Pictures = {}
        for ref, rows in self.overview + self.people:
            self._want(ref, list(rows))
        for numbers in instructions:
            for _, ref, _ in numbers.worst[: self.ends] + numbers.best[: self.ends]:
                self._want(ref, [numbers.name])

    def load(self, storage: Storage) -> None:
        """Read every chosen picture, one pass per tar."""
        self._pictures = read_pictures(storage, self._wanted)
        for shard in sorted({ref.shard for ref in self._failed}):
            refs = {str(ref.index): ref for ref in self._failed if ref.shard == shard}
            # A key that another failed sample had before gets the index of its sample in quarantine.
            names = {index: [printable(f"{ref.key}~{index}"), printable(ref.key)] for index, ref in refs.items()}
            originals = read_originals(storage, f"quarantine/{shard}.tar", names)
            self._originals |= {refs[index]: picture for index, picture in originals.items()}

    def source(self, ref: SampleRef) -> Image.Image | None:
        """Return the aligned input of a sample."""
        return self._pictures.get((_shard(ref), _member(ref, "aligned")))

    def edit(self, ref: SampleRef, instruction: str) -> Image.Image | None:
        """Return an edit of a sample."""
        return self._pictures.get((_shard(ref), _member(ref, instruction)))

    def original(self, ref: SampleRef) -> Image.Image | None:
        """Return what a quarantined sample holds, where it decodes."""
        return self._originals.get(ref)

    def overview_rows(self) -> list[list[Image.Image | None]]:
        """Return one row per person: the source, then every edit."""
        return [[self.source(ref), *(self.edit(ref, name) for name in self.names)] for ref, _ in self.overview]

    def _want(self, ref: SampleRef, instructions: Sequence[str]) -> None:
        members = self._wanted.setdefault(_shard(ref), set())
        members.update(_member(ref, name) for name in ("aligned", *instructions))


def _per_section(instructions: int) -> tuple[int, int]:
    """Return how many people a section shows, and how many of the best and of the worst, so that many instructions fit into a page."""
    return (12, 4) if instructions <= 16 else (6, 2) if instructions <= 32 else (3, 2)


def _shard(ref: SampleRef) -> str:
    return f"shards/{ref.shard}.tar"


def _member(ref: SampleRef, name: str) -> str:
    return printable(f"{ref.key}.{name}.png")
