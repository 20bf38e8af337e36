"""What flows through the pipeline: samples, failed samples, and the two ways to fail."""

from dataclasses import dataclass, field


class SampleFailure(Exception):  # noqa: N818 - a verdict on data, not a programming error
    """Say that one sample cannot be processed; `reason` is a sentence for a person."""

    def __init__(self, stage: str, reason: str) -> None:
        super().__init__(stage, reason)
        self.stage = stage
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.stage}: {self.reason}"


@dataclass(frozen=True, kw_only=True)
class Damage:
    """Where a shard stops being readable, in bytes of the uncompressed archive."""

    reason: str
    offset: int = 0
    expected: str = ""
    found: str = ""
    unread_bytes: int = 0


class ShardFailure(Exception):  # noqa: N818 - as above
    """Say that a shard, or the rest of a shard, cannot be read."""

    def __init__(self, shard: str, damage: Damage) -> None:
        super().__init__(shard, damage)
        self.shard = shard
        self.stage = "read"
        self.damage = damage

    @property
    def reason(self) -> str:
        return self.damage.reason

    def __str__(self) -> str:
        place = f"shard {self.shard}, byte {self.damage.offset}: {self.damage.reason}"
        compared = f" (expected {self.damage.expected}, found {self.damage.found})" if self.damage.expected else ""
        return f"{place}{compared}; {self.damage.unread_bytes} bytes were not read"


@dataclass(frozen=True, kw_only=True)
class FailedSample:
    """A sample on its way to quarantine, with the original bytes under their original names."""

    key: str
    shard: str
    index: int
    stage: str
    reason: str
    members: tuple[tuple[str, bytes], ...] = ()


@dataclass(kw_only=True)
class Sample:
    """One WebDataset sample.

    `members` maps what follows the first dot of the name to bytes ("jpg", "v1.json"); `image_ext` is the member that
    holds the picture; `index` counts all samples of the shard, failed ones too, from 0.
    """

    key: str
    shard: str
    index: int
    members: dict[str, bytes] = field(repr=False)
    image_ext: str

    @property
    def image(self) -> bytes:
        return self.members[self.image_ext]

    @property
    def passed_through(self) -> dict[str, bytes]:
        """Return every member except the picture."""
        return {ext: data for ext, data in self.members.items() if ext != self.image_ext}

    def failed(self, failure: SampleFailure) -> FailedSample:
        """Return the quarantine entry of this sample."""
        members = tuple((f"{self.key}.{ext}", data) for ext, data in self.members.items())
        return FailedSample(key=self.key, shard=self.shard, index=self.index, stage=failure.stage, reason=failure.reason, members=members)
