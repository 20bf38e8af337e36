"""The sets of the balancing example: portraits in which smiles come with glasses, what augmentation made of them, and balanced test people.

The example trains a small classifier of smiles. In its training set nearly everybody who smiles wears glasses and nearly nobody else does,
so that glasses are a shortcut; among the test people every combination is as frequent. No person is in both, nor in a training of the pack.

Shapes: N pictures, S side in pixels.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice

import numpy as np
import torch
from torch import Tensor

from models.pack import Pack
from pipeline.align import Aligner, ImageHWC
from pipeline.images import decode_image
from pipeline.sample import FailedSample, Sample, SampleFailure
from pipeline.shard_list import list_shards
from pipeline.shard_reader import ShardReader
from pipeline.shard_writer import ShardWriter
from pipeline.storage import Storage
from portraits.dataset import RawSample, photographed
from portraits.parameters import ATTRIBUTE_NAMES, Parameters, sample_parameters
from training.data import seeded

SMILE, GLASSES, LEFT_OUT = "smile", "glasses", "sunglasses"
GROUPS: Mapping[str, tuple[bool, bool]] = {
    "neither": (False, False),
    "smile and glasses": (True, True),
    "smile only": (True, False),
    "glasses only": (False, True),
}
"""Group of people -> whether they smile, and whether they wear glasses."""
NAMES = tuple(GROUPS)
COMMON, RARE = NAMES[:2], NAMES[2:]
"""Groups that the biased set has many people of, and few."""
ORIGINAL, INVERTED = "original", "inverted"
TRAINING_SEED, TEST_SEED = 4_000_000, 5_000_000
"""People that no network of the pack was trained on, and that no other evaluation draws."""
SHARDS = "shards"
DRAWN_AT_ONCE, ALIGNED_AT_ONCE = 4096, 50
Advance = Callable[[], object]
Row = tuple[ImageHWC, int, str]
"""Picture, number of the group, kind."""


class BalancingError(ValueError):
    """A set or a folder of the example cannot be used; the message says why and what to do."""


@dataclass(frozen=True, kw_only=True, eq=False)
class LabelledSet:
    """Aligned pictures (N, 3, S, S) as bytes, the group of each by its number in NAMES (N,), and its kind: original, inverted
    (an original that the generator made again), edit or drawn."""

    image_NCHW: Tensor
    group_N: Tensor
    kinds: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.group_N)

    @property
    def smiles(self) -> Tensor:
        """Return 1 where a person smiles, else 0; int64 (N,)."""
        return torch.tensor([int(smile) for smile, _ in GROUPS.values()])[self.group_N]

    @property
    def counts(self) -> dict[str, int]:
        """Return how many pictures each group has."""
        return {name: int((self.group_N == number).sum()) for number, name in enumerate(NAMES)}

    @property
    def lacking(self) -> str:
        """Name the groups of which there is no picture."""
        return ", ".join(name for name, count in self.counts.items() if not count)

    def of_kind(self, kind: str) -> LabelledSet:
        """Return the pictures of one kind."""
        rows = [row for row, found in enumerate(self.kinds) if found == kind]
        return LabelledSet(image_NCHW=self.image_NCHW[rows], group_N=self.group_N[rows], kinds=(kind,) * len(rows))

    @cached_property
    def fingerprint(self) -> str:
        """Return a digest of the pictures and groups in their order."""
        return hashlib.sha256(self.image_NCHW.numpy().tobytes() + self.group_N.numpy().tobytes()).hexdigest()


def group_of(labels: Mapping[str, object]) -> int:
    """Return the number in NAMES of the group of a person with these labels. Raises KeyError where one of the two is missing."""
    return list(GROUPS.values()).index((bool(labels[SMILE]), bool(labels[GLASSES])))


def people_of(counts: Mapping[str, int], *, seed: int) -> Parameters:
    """Draw so many people of each group, in random order; all else about them is as it falls, but nobody wears sunglasses."""
    generator = seeded(seed)
    found, missing = [], dict(counts)
    while any(missing.values()):
        p = sample_parameters(DRAWN_AT_ONCE, generator)
        for name in counts:
            rows = _in_group(p, name).nonzero()[: missing[name], 0]
            found.append(p.slice(rows))
            missing[name] -= len(rows)
    joined = Parameters.concatenate(found)
    return joined.slice(torch.randperm(len(joined), generator=generator))


def _in_group(p: Parameters, name: str) -> Tensor:
    """Return who belongs to a group, boolean (B,)."""
    smile_B, glasses_B, left_out_B = (p.attributes()[:, ATTRIBUTE_NAMES.index(attribute)] for attribute in (SMILE, GLASSES, LEFT_OUT))
    smile, glasses = GROUPS[name]
    return (smile_B == smile) & (glasses_B == glasses) & ~left_out_B


def raw_people(counts: Mapping[str, int], *, seed: int) -> Iterator[RawSample]:
    """Yield a raw sample, as `jobs/make_portraits.py` writes them, of so many people of each group; same arguments, same bytes."""
    return photographed(people_of(counts, seed=seed), generator=seeded(seed + 1), rng=random.Random(seed))


def write_biased(
    storage: Storage, counts: Mapping[str, int], *, seed: int, shard_size: int, advance: Advance = lambda: None
) -> dict[str, str]:
    """Write raw shards of so many people of each group; return their SHA-256 by name. `advance` is called after every sample."""
    samples, total = raw_people(counts, seed=seed), sum(counts.values())
    written: dict[str, str] = {}
    for number in range(-(-total // shard_size)):
        name = f"portraits-{number:05d}.tar"
        with ShardWriter(storage, name) as shard:
            for sample in islice(samples, shard_size):
                shard.write(sample.key, sample.members)
                advance()
        written[name] = shard.finished.sha256
    return written


def aligned_people(pack: Pack, counts: Mapping[str, int], *, seed: int, advance: Advance = lambda: None) -> LabelledSet:
    """Return so many people of each group, aligned as the pipeline does; those in whom it finds no face are left out."""
    samples, aligner = raw_people(counts, seed=seed), Aligner(pack.landmarks(), size=pack.size)
    rows: list[Row] = []
    while batch := list(islice(samples, ALIGNED_AT_ONCE)):
        images = aligner.align_all([decode_image(sample.members["jpg"]) for sample in batch])
        for sample, image in zip(batch, images, strict=True):
            if not isinstance(image, SampleFailure):
                rows.append((image, group_of(json.loads(sample.members["json"])["attributes"]), ORIGINAL))
            advance()
    found = _joined(rows)
    if lacking := found.lacking:
        raise BalancingError(f"pack {pack.path} finds no face in any picture of {lacking}: take one that knows the built-in portraits")
    return found


def read_augmented(folder: str) -> LabelledSet:
    """Read all that `jobs/augment_dataset.py` wrote. Raises BalancingError, and InputError where there are no shards."""
    found = _joined([row for shard in list_shards(f"{folder}/{SHARDS}") for row in _read_shard(shard.url)])
    if lacking := found.of_kind(ORIGINAL).lacking:
        raise BalancingError(f"{folder}: no aligned original of {lacking}: let the recipe keep them (originals: aligned)")
    return found


def _read_shard(url: str) -> Iterator[Row]:
    with ShardReader(url, image_ext="png") as reader:
        if reader.damage is not None:
            raise BalancingError(f"{reader.damage}: remove the output of the augmentation and start again")
        for sample in reader:
            try:
                if isinstance(sample, FailedSample):
                    raise SampleFailure(sample.stage, sample.reason)
                yield _read_sample(sample)
            except (KeyError, TypeError, ValueError, SampleFailure) as error:
                raise BalancingError(
                    f"shard {sample.shard}, sample {sample.key}: {type(error).__name__}: {error}: expected KEY.png and, in KEY.json, "
                    f"`kind`, `synthetic` and `labels` with {SMILE} and {GLASSES}, which the recipe has to know"
                ) from error


def _read_sample(sample: Sample) -> Row:
    about = json.loads(sample.members["json"])
    kind = INVERTED if about["kind"] == ORIGINAL and about["synthetic"] else str(about["kind"])
    return decode_image(sample.image), group_of(about["labels"]), kind


def _joined(rows: Sequence[Row]) -> LabelledSet:
    if not rows:
        return LabelledSet(image_NCHW=torch.empty(0, 3, 1, 1, dtype=torch.uint8), group_N=torch.empty(0, dtype=torch.long), kinds=())
    images, groups, kinds = zip(*rows, strict=True)
    image_NCHW = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous()
    return LabelledSet(image_NCHW=image_NCHW, group_N=torch.tensor(groups), kinds=kinds)
